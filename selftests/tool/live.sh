#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# `make run LIVE=1` on a kernel that takes the module: it is built, loaded, shown and unloaded. The test machine
# runs that kernel. Argument: its series. Prints TAP. Proves R1, R11.
set -u
TOP=$(cd "$(dirname "$0")/../.." && pwd)
OUT=${OUT:-$TOP/out}
cd "$TOP" || exit 1

n=0
failed=0
say() { # STATUS TEXT
	n=$((n + 1))
	if [ "$1" = 0 ]; then echo "ok $n $2"; else echo "not ok $n $2"; failed=1; fi
}

# A compiler takes minutes for each file in an emulated machine: the objects are made here, linked there.
export KDIR=$OUT/kernels/$1/build
rm -rf "$OUT/kmod/live" "$OUT/build/live"
tools/build/module.sh live >"$OUT/log/live-objects.log" 2>&1 || true
rm -rf "$OUT/kmod/live"
rm -f "$OUT"/build/live/normal/upreempt.*o

echo "TAP version 13"
output=$(selftests/vm/run.sh --kernel "$1" --timeout 560 -- \
	make run LIVE=1 SKIP_DEPS=1 "KDIR=$KDIR" 2>&1)
say $? "make run LIVE=1 succeeds"
grep -q "loaded into the running kernel, $(cat "$OUT/kernels/$1/release")" <<<"$output"
say $? "with the module that was built there"
grep -q 'kmod: a round trip takes' <<<"$output"
say $? "the demonstration uses it"
# shellcheck disable=SC2001 # each line
[ $failed = 0 ] || sed 's/^/# /' <<<"$output" | tail -n 40
echo "1..$n"
exit $failed
