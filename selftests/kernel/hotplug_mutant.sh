#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Proves P26, G2, 5.2 of the design's history: a hook that stays on a CPU's list when its thread is switched
# out ends in freed text after offline, rmmod, online. The guard is switched off in a test build, and the
# machine has to die of it; with the guard on (kernel/hotplug) it does not.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
. tools/build/lib.sh
series=${1:?usage: hotplug_mutant.sh SERIES}

echo "TAP version 13"
echo "1..1"
log=$OUT/vm/hotplug_mutant-$series.log
if UPREEMPT_GUARDS=4 selftests/vm/run.sh --kernel "$series" --module inject --expect-panic --timeout 150 \
	--log "$log" -- "$OUT/selftests/kernel/hotplug" >"$OUT/vm/hotplug_mutant-$series.out" 2>&1; then
	grep -aoE 'BUG: .*|Oops: .*|general protection.*|WARNING: .*' "$log" | head -n 2 | sed 's/^/# /'
	echo "ok 1 the machine dies when the hook is not disarmed at the switch"
else
	tail -n 20 "$OUT/vm/hotplug_mutant-$series.out" | sed 's/^/# /'
	echo "not ok 1 the machine dies when the hook is not disarmed at the switch"
	exit 1
fi
