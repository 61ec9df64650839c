#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# The program in README.md is short, compiles as printed against an installed tree, and does what the README
# says: natively with signals, and with the module in the test machine. Argument: the kernel series. Prints
# TAP. Proves R1, U13, U20.
set -u
TOP=$(cd "$(dirname "$0")/../.." && pwd)
OUT=${OUT:-$TOP/out}
DIR=$OUT/selftests/lib/readme
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
[ "$lines" -gt 0 ] && [ "$lines" -lt 40 ]
say $? "README.md has a complete program of under 40 lines ($lines)"

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

run() { # NAME COMMAND...
	local name=$1
	shift
	"$@" >"$DIR/log" 2>&1 </dev/null && grep -qE '^LANDED at 0x[0-9a-f]+$' "$DIR/log"
	say $? "$name: it prints where the thread stood" "$DIR/log"
}
run signal env UPREEMPT_BACKEND=signal timeout 30 "$DIR/first"
if [ -n "${1:-}" ]; then
	run "kmod, Linux $1" "$TOP/selftests/vm/run.sh" --kernel "$1" --module normal --timeout 200 \
		--log "$OUT/check/readme-$1.log" --env "LD_LIBRARY_PATH=$LD_LIBRARY_PATH" \
		--env UPREEMPT_BACKEND=kmod -- timeout 60 "$DIR/first"
fi
echo "1..$n"
exit $failed
