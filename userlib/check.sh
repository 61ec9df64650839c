#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1 OR MIT
#
# check.sh LIBRARY TOP OBJECT...: what the linker does not check.
#  - the objects that run inside an interrupted frame use no vector register and
#    call nothing but one another (the handler is called through a pointer);
#  - the symbol map, the header and VERSION name the same release and symbols.

set -eu
lib=$1
top=$2
shift 2
failed=0

say() {
	echo "userlib/check.sh: $*" >&2
	failed=1
}

# ---- inside the interrupted frame
defined=$(nm --defined-only "$@" | awk 'NF == 3 { print $3 }' | sort -u)
# tables and thread-local pointers of the library; the unwinder, which is entered
# only while an exception leaves the handler
allowed="upreempt_xs _GLOBAL_OFFSET_TABLE_ _Unwind_Resume __gcc_personality_v0"
for object; do
	case $(objdump -d "$object") in
	*%[xyz]mm[0-9]*|*%mm[0-7]*|*%st*)
		say "$object uses a vector or x87 register" ;;
	esac
	for symbol in $(nm -u "$object" | awk '{ print $2 }'); do
		echo "$defined" | grep -qx "$symbol" && continue
		case " $allowed " in
		*" $symbol "*) ;;
		*) say "$object refers to $symbol, which is not of its kind" ;;
		esac
	done
done

# ---- map, header, VERSION
version=$(cat "$top/VERSION")
node=$(sed -n 's/^\(UPREEMPT_[0-9.]*\) {$/\1/p' "$top/userlib/libupreempt.map" | tail -n 1)
[ "$node" = "UPREEMPT_${version%.*}" ] ||
	say "libupreempt.map ends with $node, VERSION is $version"
header=$top/userlib/include/upreempt/upreempt.h
major=$(awk '$2 == "UPREEMPT_VERSION_MAJOR" { print $3 }' "$header")
minor=$(awk '$2 == "UPREEMPT_VERSION_MINOR" { print $3 }' "$header")
[ "$major.$minor" = "${version%.*}" ] ||
	say "upreempt.h says version $major.$minor, VERSION is $version"

exported=$(nm -D --defined-only "$lib" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)
public=$( { cat "$header" "${header%/*}/table.h" | tr '\n' ' ' | grep -oE 'UPREEMPT_API [^;]*' |
	grep -oE 'upreempt_[a-z_]+ ?\(|\*upreempt_slot_self' | tr -d '(* ' |
	grep -v -e '_fn$'; echo upreempt_trace_landing; echo upreempt_trace_resume; } | sort -u)
for symbol in $public; do
	echo "$exported" | grep -qx "$symbol" || say "$symbol is in the header, not in the library"
done
for symbol in $exported; do
	echo "$public" | grep -qx "$symbol" || say "$symbol is exported, not in the header"
done
exit $failed
