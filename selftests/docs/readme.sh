#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# The README's program compiles as printed, without a warning, and does what the text says, with the backend in
# UPREEMPT_BACKEND. It is the first ```c block. Prints TAP. Proves R2, M15 for a newcomer.
set -u
TOP=$(cd "$(dirname "$0")/../.." && pwd)
OUT=${OUT:-$TOP/out}
mkdir -p "$OUT/selftests/docs"
dir=$(mktemp -d "$OUT/selftests/docs/readme.XXXXXX")
trap 'rm -rf "$dir"' EXIT
export PKG_CONFIG_PATH=$OUT/lib/pkgconfig LD_LIBRARY_PATH=$OUT/lib

number=0 failed=0
tap() { # STATUS TEXT
	number=$((number + 1))
	if [ "$1" = 0 ]; then echo "ok $number $2"; else echo "not ok $number $2"; failed=1; fi
}

echo "TAP version 13"
# shellcheck disable=SC2016 # the backquotes are Markdown's
awk '/^```c$/ { inside = 1; next } /^```$/ { if (inside) exit } inside' "$TOP/README.md" >"$dir/first.c"

lines=$(wc -l <"$dir/first.c")
[ "$lines" -gt 0 ] && [ "$lines" -lt 40 ]
tap $? "the program is printed, in $lines lines"

# shellcheck disable=SC2046 # words
gcc -O2 -Wall -o "$dir/first" "$dir/first.c" $(pkg-config --cflags --libs upreempt) >"$dir/log" 2>&1 &&
	[ ! -s "$dir/log" ]
tap $? "gcc takes it as printed, without a warning"
sed 's/^/# /' "$dir/log"

result=$(timeout 20 "$dir/first" 2>&1 || echo "exit status $?")
[[ $result =~ ^LANDED\ at\ 0x[0-9a-f]+$ ]]
tap $? "it redirects, stops and releases the thread: ${result:-no output}"
echo "1..$number"
exit $failed
