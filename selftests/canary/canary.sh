#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Each detector of a debug kernel finds a bug that is planted for it (canary.c), by the same verdict that judges the
# other tests; without a bug nothing is found. One boot for each, as the first report switches other detectors off.
# Goal G22.
set -uo pipefail
. "$(dirname "$0")/../../tools/build/lib.sh"

kernel=${1:?usage: canary.sh debug-kasan|debug-kcsan}
ko=$OUT/kmod/$kernel/canary.ko
dir=$OUT/vm/canary-$kernel
number=0 failed=0

case $kernel in
debug-kasan) bugs=(none rcu preempt shift lockdep atomic irqs refcount uaf oob leak) ;;
debug-kcsan) bugs=(none preempt irqs race) ;;
*) die "no canaries for $kernel" ;;
esac

# What the kernel prints for each.
expected() {
	case $1 in
	rcu) echo 'suspicious RCU usage' ;;
	preempt) echo 'BUG: using smp_processor_id\(\) in preemptible' ;;
	shift) echo 'UBSAN: shift-out-of-bounds' ;;
	lockdep) echo 'possible circular locking dependency' ;;
	atomic) echo 'BUG: scheduling while atomic' ;;
	irqs) echo 'BUG: sleeping function called from invalid context' ;;
	refcount) echo 'refcount_t: addition on 0' ;;
	uaf) echo 'BUG: KASAN: (slab-)?use-after-free in plant_uaf' ;;
	oob) echo 'BUG: KASAN: slab-out-of-bounds in plant_oob' ;;
	race) echo 'BUG: KCSAN: data-race in racer' ;;
	esac
}

machine() { # OPTIONS... -- COMMAND...
	"$TOP/selftests/vm/run.sh" --kernel "$kernel" --timeout 200 --log "$log" "$@" >"$out" 2>&1
}

found() { # BUG
	local status=0
	case $1 in
	none)
		machine -- /bin/sh -c "insmod $ko bug=none && rmmod canary || exit 3
			[ ! -e /sys/kernel/debug/kmemleak ] || $TOP/selftests/canary/kmemleak.sh"
		;;
	leak)
		machine -- /bin/sh -c "insmod $ko bug=leak && rmmod canary || exit 3
			$TOP/selftests/canary/kmemleak.sh" || status=$?
		# Not all: a stale register or stack may still hold one's address. Their size is that of the slab.
		[ $status = 1 ] && grep -qE '^(99[0-9]|1000) of a module$' "$out"
		;;
	*)
		machine --expect-panic --append kmemleak=off -- insmod "$ko" bug="$1" &&
			grep -qaE "$(expected "$1")" "$log"
		;;
	esac
}

echo "TAP version 13"
echo "1..${#bugs[@]}"
mkdir -p "$dir"
for bug in "${bugs[@]}"; do
	log=$dir/$bug.log
	out=$dir/$bug.out
	rm -f "$log" "$out"
	number=$((number + 1))
	if found "$bug"; then
		echo "ok $number $bug"
	else
		failed=1
		echo "not ok $number $bug"
		tail -n 5 "$out" "$log" 2>&1 | sed 's/^/# /'
	fi
done
exit $failed
