#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# `make check`: the sources, the host's tests, then every test machine. The last line counts single TAP results.
# `make check-matrix`: what needs a kernel, on more of Debian's.
# `make check-debug`: what concerns the module, on kernels that find bugs (tools/build/debug-kernel.sh).
#
#   run.sh [--only REGEX] [--place lint|host|vm|script]... [--kernel 6.1|6.12-rt|debug-kasan...]...
# A machine that panics, whose kernel log holds a splat or cannot be read, or that stops half way is one failed
# result more, whatever its programs printed.
set -uo pipefail
. "$(dirname "$0")/../tools/build/lib.sh"

places=() kernels=()
while [ $# -gt 0 ]; do
	case $1 in
	--only) export ONLY=$2; shift ;;
	--place) places+=("$2"); shift ;;
	--kernel) kernels+=("$2"); shift ;;
	*) die "usage: run.sh [--only REGEX] [--place lint|host|vm|script]... [--kernel SERIES]..." ;;
	esac
	shift
done
[ ${#places[@]} -gt 0 ] || places=(lint host vm script)
[ ${#kernels[@]} -gt 0 ] || mapfile -t kernels <"$OUT/kernels/available"
[ ! -t 1 ] || export UPREEMPT_COLOR=1

cd "$TOP" || exit 1
check=$OUT/check
rm -rf "$check"
mkdir -p "$check"
began=$SECONDS

# One more failed result for a place that went wrong as a whole.
add_failure() { # PLACE TEXT
	echo "not ok 0 $1: $2" >>"$check/$1.tap"
	echo "$1 0 1 0 0" >>"$check/$1.sum"
	echo "  FAIL $1: $2"
}

run_lint() {
	local tap=$check/lint.tap counts status=0 start=$SECONDS
	echo "lint"
	timeout 900 tools/check/lint.sh >"$tap" 2>&1 || status=$?
	counts=$(awk '/^ok .*# SKIP/ { s++; next } /^ok / { p++ } /^not ok / { f++ }
		END { print p + 0, f + 0, s + 0 }' "$tap")
	echo "lint $counts $((SECONDS - start))" >"$check/lint.sum"
	awk '/^(not )?ok / { shown = /^not/ ? 12 : 0 } shown-- > 0 { print "      " $0 }' "$tap"
	if ! grep -q '^1\.\.' "$tap"; then
		add_failure lint "did not finish (status $status)"
	fi
}

# Each model of preemption on one version at least: only where the kernel asks, anywhere, anywhere but not at once.
# Real-time kernels have but one and do not listen.
preemption() { # KERNEL
	case $1 in 6.1*) echo voluntary ;; 7.*) echo lazy ;; *) echo full ;; esac
}

# Why a kernel that was asked for cannot be run, if so.
missing() { # KERNEL
	local dir=$OUT/kernels/$1
	if [ ! -e "$dir/release" ]; then
		echo "this machine's package sources do not have it"
	elif ! modprobe -d "$dir" -S "$(cat "$dir/release")" --show-depends 9p >/dev/null 2>&1; then
		echo "it has no 9p, by which the test machine reads its files; the module was built"
	else
		return 1
	fi
}

skip_kernel() { # KERNEL REASON
	echo "ok 1 kernel $1 # SKIP $2" >"$check/vm-$1.tap"
	echo "vm-$1 0 0 1 0" >"$check/vm-$1.sum"
	echo "  skip $1: $2"
}

# Power-on to the last test: the sum of all limits would be hours, so a machine has a limit of its own.
run_vm() {
	local kernel=$1 status=0 limit=1200 why
	[[ $kernel != debug-* ]] || limit=5400
	echo "vm-$kernel"
	if why=$(missing "$kernel"); then
		skip_kernel "$kernel" "$why"
		return
	fi
	[ -e "$OUT/kmod/$kernel/inject/upreempt.ko" ] || { add_failure "vm-$kernel" "there is no module for it"; return; }
	selftests/vm/run.sh --kernel "$kernel" --append "preempt=$(preemption "$kernel")" \
		--timeout "${UPREEMPT_VM_LIMIT:-$limit}" --log "$check/vm-$kernel.log" \
		--env "ONLY=${ONLY:-}" -- selftests/runlist.sh vm "$kernel" || status=$?
	case $status in
	0 | 1) ;;	# counted already
	124) add_failure "vm-$kernel" "the machine was stopped at its time limit" ;;
	*) add_failure "vm-$kernel" "the machine, its kernel log or the module's unloading went wrong (status $status)" ;;
	esac
}

run_scripts() { # KERNEL
	! missing "$1" >/dev/null || return 0	# said by run_vm
	echo "script-$1"
	selftests/runlist.sh script "$1"
}

# In braces, so that the shell has read it all before a long run starts: the file may change meanwhile.
{
for place in "${places[@]}"; do
	case $place in
	lint) [ -n "${ONLY:-}" ] || run_lint ;;
	host) echo host; selftests/runlist.sh host ;;
	vm) for k in "${kernels[@]}"; do run_vm "$k"; done ;;
	script) for k in "${kernels[@]}"; do run_scripts "$k"; done ;;
	*) die "no such place: $place" ;;
	esac
done

echo
printf '  %-14s %8s %8s %8s %8s %8s\n' place programs passed failed skipped seconds
for sum in "$check"/*.sum; do
	awk -v place="$(basename "$sum" .sum)" '{ n++; p += $2; f += $3; s += $4; t += $5 }
		END { if (n) printf "  %-14s %8d %8d %8d %8d %8.0f\n", place, n, p, f, s, t }' "$sum"
done
printf '  %d min %02d s; every result is in %s/*.tap\n\n' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)) \
	"$(realpath --relative-to="$PWD" "$check")"

# No result at all is no success either.
cat "$check"/*.sum | awk '{ p += $2; f += $3; s += $4 }
	END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 || p == 0 }'
exit
}
