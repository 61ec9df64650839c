#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# `make lint`: what tools can find in the sources. Prints TAP; a failed line is followed by what was found.
# Each check is a function that prints its findings and nothing else: no output is success.
set -uo pipefail
. "$(dirname "$0")/../build/lib.sh"
cd "$TOP" || exit 1

number=0 failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

check() { # NAME COMMAND...
	local name=$1
	shift
	number=$((number + 1))
	if ("$@") >"$tmp/found" 2>&1 && [ ! -s "$tmp/found" ]; then
		echo "ok $number lint $name"
	else
		failed=$((failed + 1))
		echo "not ok $number lint $name"
		head -n 40 "$tmp/found" | sed 's/^/# /'
	fi
}

skip() {
	number=$((number + 1))
	echo "ok $number lint $1 # SKIP $2"
}

# Files of the project, with or without git.
files() {
	{
		git ls-files -co --exclude-standard 2>/dev/null ||
			find . -path ./out -prune -o -path ./.git -prune -o -type f -printf '%P\n'
	} | while read -r f; do [ -f "$f" ] && echo "$f"; done
}
mapfile -t all < <(files)
only() { printf '%s\n' "${all[@]}" | grep -E "$1"; }
mapfile -t scripts < <(only '\.sh$|^\.ci/run$')
mapfile -t c_user < <(only '^(userlib|tools)/.*\.c$')

# --- kernel style -----------------------------------------------------------------------------------------
# Left out, each for a reason:
#   IS_ENABLED_CONFIG    UPREEMPT_INJECT is a make variable of this tree, not a Kconfig symbol
#   FILE_PATH_CHANGES    asks for MAINTAINERS, which an out-of-tree module does not have
#   CONFIG_DESCRIPTION   likewise for Kconfig
#   LINUX_VERSION_CODE   compat.h is the one file that may ask
# and in trace.h the two about line ends and alignment: TRACE_EVENT() is laid out like that in the whole kernel.
checkpatch() {
	local ignore=IS_ENABLED_CONFIG,FILE_PATH_CHANGES,CONFIG_DESCRIPTION,LINUX_VERSION_CODE f
	while read -r f; do
		local more=$ignore
		[ "${f##*/}" != trace.h ] || more=$more,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT
		perl "$OUT/source/scripts/checkpatch.pl" --no-tree --strict --terse --show-types --no-summary \
			--ignore "$more" -f "$f"
	done < <(only '^(kmod/.*|include/uapi/linux/upreempt|include/upreempt_table)\.[ch]$') | grep -vE '^total: 0 errors, 0 warnings, 0 checks'
	return 0
}

# One build with every warning and with sparse, from nothing, for each kernel.
strict_build() { # SERIES
	local dir=$OUT/lint/$1
	rm -rf "$dir"
	mkdir -p "$dir"
	cp -r Kbuild kmod include "$dir/"
	make -s -C "$OUT/kernels/$1/build" M="$dir" W=1 C=2 "${@:2}" modules 2>&1 | grep -v '^Skipping BTF generation'
	rm -rf "$dir"
	return 0
}

# `make -C .../build M=$PWD modules` is what a packager types: the top-level Kbuild must carry it alone.
module_metadata() { # SERIES
	local ko=$OUT/kmod/$1/upreempt.ko field
	for field in license description; do
		modinfo -F "$field" "$ko" | grep -q . || echo "$ko has no MODULE_${field^^}()"
	done
	bpftool -B "$OUT/kernels/$1/vmlinux" btf dump file "$ko" >/dev/null || echo "$ko has no readable BTF"
}

# --- user space -------------------------------------------------------------------------------------------
compiler_warnings() {
	local f
	for f in "${c_user[@]}"; do
		gcc -std=gnu11 -D_GNU_SOURCE -DUPREEMPT_VERSION='"0"' -O2 -Wall -Wextra -Wshadow=local -Wno-unused-parameter \
			-Iinclude/uapi -Iinclude -Iuserlib/include -Iuserlib/src -Ibpf -I"$OUT/bpf" -I"$(dirname "$f")" \
			-c -o /dev/null "$f" || echo "$f does not compile"
	done
}

# Formats are left to gcc, which sees through the macros.
cppcheck_user() {
	cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=0 \
		--suppress=missingInclude --suppress=unknownMacro \
		--suppress=invalidPrintfArgType_uint --suppress=invalidPrintfArgType_sint -D__x86_64__ -D_GNU_SOURCE -D__GNUC__ \
		-Iinclude/uapi -Iinclude -Iuserlib/include "${c_user[@]}"
}

check_scripts() { shellcheck -x -S warning "${scripts[@]}"; }

manual_pages() {
	mandoc -Tlint -W warning Documentation/man/*.[1-8]
}

# --- the tree ---------------------------------------------------------------------------------------------
spdx() {
	local f
	for f in "${all[@]}"; do
		case $f in
		VERSION | *.json | LICENSES/* | .gitignore) continue ;;
		esac
		head -n 5 "$f" | grep -q SPDX-License-Identifier || echo "$f: no SPDX-License-Identifier in its first lines"
	done
}

# A path or a server of the machine that somebody happened to work on. The pattern is split so that it does
# not find itself.
machine_paths() {
	local slash=/
	grep -nE "(^|[^A-Za-z0-9_.])${slash}(work|farm)${slash}|${slash}home${slash}[a-z]+|deb\.debian\.org|snapshot\.debian" \
		"${all[@]}" | cut -c1-160
	return 0
}

unfinished() { # words split for the same reason
	grep -nE '\b(TO''DO|FIX''ME|XX''X)\b' "${all[@]}" | cut -c1-160
	return 0
}

length() {
	local f n
	while read -r f; do
		n=$(wc -l <"$f")
		[ "$n" -le 900 ] || echo "$f has $n lines: split it by noun"
	done < <(only '\.(c|h|S|sh|py)$')
}

# Every program in the list exists; every program that exists is in the list or is used by one that is.
test_list() {
	local path name
	while read -r path _; do
		[[ -n $path && $path != \#* ]] || continue
		if [[ $path == *.sh ]]; then
			[ -x "selftests/$path" ] || echo "tests.list: $path is not an executable script"
		else
			[ -e "selftests/$path.c" ] || [ -e "selftests/$path.cc" ] || echo "tests.list: there is no $path.c"
		fi
	done <selftests/tests.list
	while read -r path; do
		path=${path#selftests/}
		name=${path##*/}
		name=${name%.c*}
		grep -qE "^${path%.c*}[[:space:]]" selftests/tests.list && continue
		grep -rlw --include='*.sh' --include='*.c' --include='*.cc' "$name" selftests |
			grep -qvx "selftests/$path" || echo "$path never runs: tests.list does not have it and no script uses it"
	done < <(only '^selftests/[^/]+/[^/]+\.(c|cc)$' | grep -v '^selftests/vm/')
}

# --- the library's promises -------------------------------------------------------------------------------
# What the map lists, what the library exports and what the headers declare are the same set of functions.
symbols() {
	local so=$OUT/lib/libupreempt.so map=userlib/libupreempt.map
	sed -e 's,/\*.*\*/,,' "$map" | tr -d ' \t' | grep -oE '^upreempt_[a-z0-9_]+;' | tr -d ';' | sort >"$tmp/map"
	nm -D --defined-only "$so" | awk '$2 ~ /[TDBRW]/ { sub(/@.*/, "", $3); print $3 }' | grep '^upreempt_' | sort >"$tmp/so"
	diff "$tmp/map" "$tmp/so" | sed -n 's/^< \(.*\)/\1 is in the map and not in the library/p
		s/^> \(.*\)/\1 is exported and not in the map/p'
	nm -D --defined-only "$so" | awk '$2 ~ /[TDBRW]/ { print $3 }' | grep -vE '^upreempt_' |
		sed 's/$/ is exported outside the name space/'
	# The compiler lists the functions that the headers declare; what else is exported (data, or functions that
	# exist for uprobes) has to be mentioned there.
	cat userlib/include/upreempt/*.h | sed 's,^#include "\(.*\)",#include <upreempt/\1>,' >"$tmp/headers.c"
	gcc -std=gnu11 -fsyntax-only -Iinclude/uapi -Iuserlib/include -aux-info "$tmp/declared" "$tmp/headers.c" || return 1
	sed -nE 's/.* extern [^(]*\b(upreempt_[a-z0-9_]+) \(.*/\1/p' "$tmp/declared" | sort -u >"$tmp/functions"
	comm -23 "$tmp/functions" "$tmp/map" | sed 's/$/ is declared in a header and not exported/'
	comm -13 "$tmp/functions" "$tmp/map" | grep -v '^upreempt_trace_' | while read -r name; do
		grep -qw "$name" userlib/include/upreempt/*.h || echo "$name is exported and in no header"
	done
	return 0
}

# One version: the file VERSION, the newest node of the map, the library's file name and its .pc file.
versions() {
	local version major_minor
	version=$(cat VERSION)
	major_minor=${version%.*}
	grep -qiE "^(LIB)?UPREEMPT_${major_minor//./\\.}(\.[0-9]+)?[[:space:]]*\{" userlib/libupreempt.map ||
		echo "libupreempt.map has no node for $major_minor"
	[ -e "$OUT/lib/libupreempt.so.$version" ] || echo "there is no libupreempt.so.$version"
	[ "$(readelf -d "$OUT/lib/libupreempt.so" | sed -nE 's/.*SONAME.*\[(.*)\]/\1/p')" = "libupreempt.so.${version%%.*}" ] ||
		echo "the soname is not libupreempt.so.${version%%.*}"
	grep -qxE "Version: *$version" "$OUT/lib/pkgconfig/upreempt.pc" || echo "upreempt.pc does not say $version"
	grep -qF "$version" CHANGELOG.md || echo "CHANGELOG.md does not mention $version"
}

echo "TAP version 13"
check "SPDX on every file" spdx
check "no path of one machine" machine_paths
check "no mark of unfinished work" unfinished
check "no file over 900 lines" length
check "tests.list and the test programs agree" test_list
check "shell scripts (shellcheck)" check_scripts
check "manual pages (mandoc -Tlint)" manual_pages
check "checkpatch --strict" checkpatch
for series in 6.1 6.12; do
	if grep -qx "$series" "$OUT/kernels/available"; then
		check "module for $series: W=1 and sparse are silent" strict_build "$series"
		check "test build of the module for $series likewise" strict_build "$series" UPREEMPT_INJECT=1
		check "module for $series: metadata and BTF" module_metadata "$series"
	else
		skip "module for $series" "this machine's package sources have no such kernel"
	fi
done
check "library and tools: gcc -Wall -Wextra -Wshadow" compiler_warnings
check "library and tools: cppcheck" cppcheck_user
check "symbol map, library and headers agree" symbols
check "one version everywhere" versions
echo "1..$number"
[ $failed = 0 ]
