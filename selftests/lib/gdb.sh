#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# gdb in a handler shows the interrupted function and its callers, and lets the program go on: natively with
# signals, and with the module in the test machine. Argument: the kernel series. Prints TAP. Proves M16, R10.
set -u
TOP=$(cd "$(dirname "$0")/../.." && pwd)
OUT=${OUT:-$TOP/out}
TARGET=$OUT/selftests/lib/gdb_target

debug=(timeout 200 gdb -nx -q -batch -ex 'set pagination off' -ex 'set debuginfod enabled off'
	-ex 'set breakpoint pending on' -ex 'handle SIGURG nostop noprint pass'
	-ex 'break in_the_handler' -ex run -ex bt -ex continue "$TARGET")

n=0
failed=0
say() { # STATUS TEXT
	n=$((n + 1))
	if [ "$1" = 0 ]; then echo "ok $n $2"; else echo "not ok $n $2"; failed=1; fi
}

# The frames that have to be there, each further out than the one before
look() { # NAME OUTPUT
	local frame at last=-1 missing=''
	for frame in in_the_handler upreempt_landing_run interrupted_loop its_caller thread_main start_thread; do
		at=$(sed -nE "s/^#([0-9]+) .*\b$frame \(.*/\1/p" <<<"$2" | head -n 1)
		if [ -z "$at" ] || [ "$at" -le "$last" ]; then
			missing+=" $frame"
		else
			last=$at
		fi
	done
	[ -z "$missing" ]
	say $? "$1: the backtrace goes through the landing${missing:+ (not in order:$missing)}"
	grep -q 'resumed and ended' <<<"$2"
	say $? "$1: and the program goes on to its end"
	# shellcheck disable=SC2001 # each line
	[ $failed = 0 ] || sed 's/^/# /' <<<"$2" | tail -n 30
}

echo "TAP version 13"
if ! command -v gdb >/dev/null; then
	echo "1..0 # SKIP gdb is not installed"
	exit 4
fi
look signal "$(UPREEMPT_BACKEND=signal "${debug[@]}" 2>&1 </dev/null)"
if [ -n "${1:-}" ]; then
	look "kmod, Linux $1" "$(UPREEMPT_BACKEND=kmod "$TOP/selftests/vm/run.sh" --kernel "$1" --module normal \
		--timeout 250 --log "$OUT/check/gdb-$1.log" -- "${debug[@]}" 2>&1 </dev/null)"
fi
echo "1..$n"
exit $failed
