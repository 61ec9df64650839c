#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# The documents keep up with the code: every function, command, reason and tracepoint is described, every test
# that the tables name exists, sphinx finds nothing to complain about. Prints TAP.
# shellcheck disable=SC2013,SC2016,SC2317 # names are words, backquotes those of the documents, check() calls
set -u
cd "$(dirname "$0")/../.." || exit 1
uapi=include/uapi/linux/upreempt.h
header=userlib/include/upreempt/upreempt.h

number=0 failed=0
# check TEXT FUNCTION: the function prints what is wrong
check() {
	local found
	number=$((number + 1))
	found=$("$2" 2>&1)
	if [ -z "$found" ]; then
		echo "ok $number $1"
	else
		failed=1
		echo "not ok $number $1"
		head -n 20 <<<"$found" | sed 's/^/# /'
	fi
}

functions() {
	local name
	for name in $(tr '\n' ' ' <"$header" | grep -oE '(UPREEMPT_API|static inline void) [^;{]*' |
		grep -oE 'upreempt_[a-z0-9_]+ ?\(' | tr -d '( ' | grep -v '_fn$' | sort -u) \
		upreempt_ring_peek upreempt_ring_consume upreempt_ring_dropped; do
		grep -qE "^\.(Fn|Fo) $name( |\$)" Documentation/man/*.3 || echo "$name is in no manual page"
	done
}

commands() {
	local name
	for name in $(grep -oE 'define UPREEMPT_IOC_[A-Z_]+' "$uapi" | sed 's/define //' | grep -v MAGIC); do
		grep -qw "$name" Documentation/userspace-api/device.rst || echo "$name is not in device.rst"
		grep -qw "$name" Documentation/man/upreempt.4 || echo "$name is not in upreempt.4"
	done
}

reasons() {
	local name
	for name in $(grep -oE 'UPREEMPT_R_[A-Z0-9_]+' "$uapi" | sed 's/UPREEMPT_R_//' | sort -u | grep -v '^NONE$'); do
		grep -q "\`\`$name\`\`" Documentation/userspace-api/device.rst || echo "reason $name is not in device.rst"
	done
	for name in $(grep -oE '^#define UPREEMPT_F_[A-Z]+' "$uapi" | sed 's/.*UPREEMPT_//'); do
		grep -q "\`\`$name\`\`" Documentation/userspace-api/device.rst || echo "feature $name is not in device.rst"
	done
}

# of the structs that programs share with the kernel
fields() {
	local name
	for name in $(sed -n '/^struct upreempt_.* {/,/^};/{s,/\*.*,,;s/^\t__[us][0-9]* //p}' "$uapi" | tr -d ';' | tr ',' '\n' |
		sed 's/\[.*//' | grep -vE '^ *(reserved.*|r[0-9]+|r[a-d]x|r[sd]i|r[sb]p|size) *$' | sort -u); do
		grep -qE "\`[a-z.]*$name\`" Documentation/userspace-api/device.rst || echo "field $name is not in device.rst"
	done
}

tracepoints() {
	local name
	for name in $(grep -oE '^TRACE_EVENT\([a-z_]+' kmod/trace.h | sed 's/.*(//'); do
		grep -q "\`\`$name\`\`" Documentation/userspace-api/tracepoints.rst || echo "$name is not in tracepoints.rst"
	done
}

guards() {
	local bit
	for bit in $(grep -oE 'UP_GUARD_[A-Z_]+[[:space:]]*= [0-9]+' kmod/inject.h | sed 's/.*= //'); do
		grep -qE "^$bit +[a-z]" Documentation/testing.rst || echo "guard bit $bit is not in testing.rst"
	done
}

# "program" or "program: test, test" in literals; a * stands for the rest of a name
tests() {
	local program names name file
	grep -ohE '``(abi|kernel|lib|oracle|tool|docs|bench)/[a-z0-9_]+(\.sh)?``(: ``[a-z0-9_*]+``(, ``[a-z0-9_*]+``)*)?' \
		Documentation/testing.rst Documentation/design/*.rst | tr -d '`:,' | sort -u |
	while read -r program names; do
		for file in "selftests/$program" "selftests/$program.c" "selftests/$program.cc" ''; do
			[ ! -f "$file" ] || break
		done
		[ -n "$file" ] || { echo "there is no selftests/$program"; continue; }
		for name in $names; do
			grep -qE "^TEST(_F)?(_TIMEOUT|_SIGNAL)?\(([a-z_]+, )?${name//\*/[a-z0-9_]*}[,)]" "$file" ||
				echo "$program has no test $name"
		done
	done
}

# Each pitfall has a row, and each mechanism and pain that is spoken of.
named() {
	local id
	for id in P{1..31} $(grep -oE '\b[MU][0-9]+\b' Documentation/testing.rst | sort -u); do
		grep -qE "^   \* - $id\$" Documentation/testing.rst || echo "testing.rst has no row $id"
	done
}

rows() {
	local id
	for id in $(grep -hE -A 4 'Prove[sd] ' selftests/*/*.c selftests/*/*.cc selftests/*/*.sh |
		grep -oE '\b[MPRUG][0-9]+\b' | sort -u); do
		grep -qE "^   \* - $id\$" Documentation/testing.rst || echo "tests cite $id, which testing.rst does not explain"
	done
}

sphinx() {
	local dir
	dir=$(mktemp -d)
	sphinx-build -q -W -b html Documentation "$dir"
	rm -rf "$dir"
}

echo "TAP version 13"
check "every public function has a manual page" functions
check "every command is described" commands
check "every reason and feature is described" reasons
check "every field of the ABI is described" fields
check "every tracepoint is described" tracepoints
check "every guard of the test build is described" guards
check "every test that a document names exists" tests
check "every row that there must be is there" named
check "every row that a test cites is explained" rows
if command -v sphinx-build >/dev/null; then
	check "sphinx-build -W" sphinx
else
	number=$((number + 1))
	echo "ok $number sphinx-build # SKIP python3-sphinx is not installed"
fi
echo "1..$number"
exit $failed
