#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# `make install` makes a tree from which a program builds and runs without the sources: the README's program, as
# printed, through pkg-config and with every warning an error. Prints TAP. Proves U13.
set -u
TOP=$(cd "$(dirname "$0")/../.." && pwd)
OUT=${OUT:-$TOP/out}
DIR=$OUT/selftests/lib/install
CC=${CC:-gcc}

n=0
failed=0
say() { # STATUS TEXT [FILE]
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n $2"
	else
		echo "not ok $n $2"
		failed=1
		[ -z "${3:-}" ] || tail -n 20 "$3" | sed 's/^/# /'
	fi
}

rm -rf "$DIR"
mkdir -p "$DIR"
echo "TAP version 13"

# The first C block of the README that has a main()
awk '/^```c$/ { inside = 1; text = ""; next }
	/^```$/ && inside { if (text ~ /int main/) { printf "%s", text; exit } inside = 0 }
	inside { text = text $0 "\n" }' "$TOP/README.md" >"$DIR/first.c"
lines=$(wc -l <"$DIR/first.c")
[ "$lines" -gt 0 ]
say $? "README.md has a complete program ($lines lines)"

make -s --no-print-directory -C "$TOP" OUT="$OUT" DESTDIR="$DIR/root" PREFIX=/usr install >"$DIR/log" 2>&1 </dev/null
say $? "make install into a tree of its own" "$DIR/log"

export PKG_CONFIG_PATH=$DIR/root/usr/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$DIR/root
export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
export LD_LIBRARY_PATH=$DIR/root/usr/lib
# shellcheck disable=SC2046 # words are wanted
$CC -Wall -Wextra -Werror -o "$DIR/first" "$DIR/first.c" $(pkg-config --cflags --libs upreempt) >"$DIR/log" 2>&1
say $? "it compiles as printed, through pkg-config, without a warning" "$DIR/log"

# The installed header and library are the only ones it can have found
readelf -d "$DIR/first" 2>/dev/null | grep -q 'NEEDED.*libupreempt\.so\.0'
say $? "and is linked with libupreempt.so.0"

timeout 30 "$DIR/first" >"$DIR/log" 2>&1 </dev/null && grep -qE '^LANDED at 0x[0-9a-f]+$' "$DIR/log"
say $? "it prints where the thread stood" "$DIR/log"
echo "1..$n"
exit $failed
