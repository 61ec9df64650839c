#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Boot a kernel in QEMU and run one command in it, with the host's files: see usage() below.
#
# The guest sees the host's root read-only and out/ writable, both over 9p at the same paths, so that host
# tools and built programs run as they are. Output comes live; the verdict comes over a port of its own,
# because QEMU's exit status is 0 even after a panic; and the kernel log is read for splats afterwards.
set -euo pipefail
. "$(dirname "$0")/../../tools/build/lib.sh"

usage() {
	cat <<-END
	usage: selftests/vm/run.sh --kernel SERIES [options] -- COMMAND [ARGUMENT...]
	  --kernel SERIES              one of out/kernels: 6.1, 6.12-rt, debug-kasan... (6.1)
	  --module normal|inject|none  load this build of upreempt.ko first, unload it after (none)
	  --smp N --mem MB             size of the machine (2 CPUs, 2048 MB)
	  --append WORDS               more words for the kernel command line (they win)
	  --timeout S                  seconds from power-on until the machine is killed (300)
	  --env NAME=VALUE             pass on a variable (UPREEMPT_* are passed on anyway)
	  --icount                     count instructions instead of time, on one CPU
	  --one-insn                   one instruction per translation block: interrupts land on each
	  --tty | --interactive        give the command a terminal | and the keyboard
	  --expect-panic               succeed when the kernel complains or dies, fail when it does not
	  --log FILE                   where the kernel log goes (out/vm/KERNEL.log)
	  --accel kvm|tcg              do not try, use this
	Exit status: the command's own; 125 when the machine, its log or the unloading of the module
	went wrong, 124 at the time limit.
	END
}

kernel='' module=none smp=2 mem=2048 append='' limit=300
icount='' one_insn='' tty='' interactive='' expect_panic='' log='' probe_kvm=''
accel=${UPREEMPT_VM_ACCEL:-}
envs=()
while [ $# -gt 0 ]; do
	case $1 in
	--kernel) kernel=$2; shift ;;
	--module) module=$2; shift ;;
	--smp) smp=$2; shift ;;
	--mem) mem=$2; shift ;;
	--append) append="$append $2"; shift ;;
	--timeout) limit=$2; shift ;;
	--env) envs+=("$2"); shift ;;
	--log) log=$2; shift ;;
	--accel) accel=$2; shift ;;
	--icount) icount=1 ;;
	--one-insn) one_insn=1 ;;
	--tty) tty=1 ;;
	--interactive) interactive=1 ;;
	--expect-panic) expect_panic=1 ;;
	--probe-kvm) probe_kvm=1 ;;
	--) shift; break ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 125 ;;
	esac
	shift
done
trouble() { printf 'vm %s: %s\n' "$kernel" "$*" >&2; exit 125; }
[ -n "$kernel" ] || kernel=6.1
[ $# -gt 0 ] || [ -n "$probe_kvm" ] || { usage >&2; exit 125; }
kroot=$OUT/kernels/$kernel
[ -e "$kroot/vmlinuz" ] || trouble "no such kernel here: run tools/build/kernel.sh $kernel"
command -v qemu-system-x86_64 >/dev/null || trouble "no qemu-system-x86_64: run tools/build/deps.sh run"
log=${log:-$OUT/vm/$kernel.log}

mkdir -p "$OUT/vm"
run=$(mktemp -d "$OUT/vm/run.XXXXXX")
qemu_pid=''
# shellcheck disable=SC2317 # called by the trap
cleanup() {
	[ -z "$qemu_pid" ] || kill "$qemu_pid" 2>/dev/null || true
	rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- initramfs: init and the few modules that reach the host's files; made once per kernel ---------------

# The drivers in load order, each once; what is built in drops out.
boot_modules() {
	local m
	for m in virtio_pci virtio_console 9pnet_virtio 9p; do
		modprobe -d "$kroot" -S "$(cat "$kroot/release")" --show-depends "$m"
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'
}

make_initramfs() {
	local dir=$run/ir f name
	local init=$OUT/vm/init
	if [ ! -e "$init" ] || [ "$TOP/selftests/vm/init.c" -nt "$init" ]; then
		gcc -O2 -Wall -static -o "$run/init" "$TOP/selftests/vm/init.c" -lutil
		mv "$run/init" "$init"
	fi
	if [ -e "$OUT/vm/$kernel.cpio" ] && [ "$OUT/vm/$kernel.cpio" -nt "$init" ] &&
		[ "$OUT/vm/$kernel.cpio" -nt "$kroot/release" ]; then
		return
	fi
	mkdir -p "$dir/modules"
	cp "$init" "$dir/init"
	: >"$run/insmod"
	boot_modules >"$run/modules"
	while read -r f; do
		name=${f##*/}
		case $f in
		*.xz) xz -dc "$f" >"$dir/modules/${name%.xz}" ;;
		*) cp "$f" "$dir/modules/" ;;
		esac
		echo "${name%.xz}" >>"$run/insmod"
	done <"$run/modules"
	(cd "$dir" && find . | cpio -o -H newc --quiet) >"$run/cpio"
	mv "$run/insmod" "$OUT/vm/$kernel.insmod"
	mv "$run/cpio" "$OUT/vm/$kernel.cpio"
}

# What to do, as a second archive behind the first: the kernel unpacks both.
make_job() {
	local m
	mkdir "$run/job"
	{
		while read -r m; do printf 'insmod=/modules/%s\0' "$m"; done <"$OUT/vm/$kernel.insmod"
		printf '%s\0' "top=$TOP" "out=$OUT" "modules=$kroot/lib/modules" "cwd=$PWD"
		[ -z "$probe_kvm" ] || printf 'probe=1\0'
		case $module in
		none) ;;
		normal) printf 'ko=%s\0' "$OUT/kmod/$kernel/upreempt.ko" ;;
		inject) printf 'ko=%s\0' "$OUT/kmod/$kernel/inject/upreempt.ko" ;;
		*) trouble "--module takes normal, inject or none" ;;
		esac
		if [ -n "$tty$interactive" ]; then
			printf 'tty=%s\0' "$(stty size 2>/dev/null </dev/tty | tr ' ' x || echo 24x80)"
			printf 'env=TERM=%s\0' "${TERM:-xterm}"
		fi
		[ -z "$interactive" ] || printf 'input=1\0'
		[ -z "$one_insn" ] || printf 'pause=1\0'
		env -0 | grep -z '^UPREEMPT_' | sed -z 's/^/env=/' || true
		printf 'env=%s\0' "OUT=$OUT" "UPREEMPT_VM=$kernel" ${envs[@]+"${envs[@]}"}
		for m in "$@"; do printf 'arg=%s\0' "$m"; done
	} >"$run/job/job"
	(cd "$run/job" && echo job | cpio -o -H newc --quiet) >"$run/job.cpio"
	cat "$OUT/vm/$kernel.cpio" "$run/job.cpio" >"$run/initramfs"
}

# --- acceleration: a /dev/kvm may exist and still not run a kernel, so it is tried, once ------------------

choose_accel() {
	[ -z "$accel" ] || return 0
	local cache=$OUT/vm/accel key
	key="$(uname -r) $(stat -c '%t:%T:%Z' /dev/kvm 2>/dev/null || echo none)"
	if [ -e "$cache" ] && [ "$(sed -n 2p "$cache")" = "$key" ]; then
		accel=$(head -n 1 "$cache")
		return
	fi
	accel=tcg
	if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
		say "vm: trying whether KVM works here (10 s at most)"
		if "$0" --kernel "$kernel" --probe-kvm --accel kvm --timeout 10 --log "$OUT/vm/probe-kvm.log" >/dev/null 2>&1; then
			accel=kvm
		fi
		say "vm: using $accel"
	fi
	printf '%s\n' "$accel" "$key" >"$cache"
}

# --- the machine ----------------------------------------------------------------------------------------

qemu_arguments() {
	local tcg=tcg,thread=multi
	[ -z "$icount" ] || { accel=tcg smp=1 tcg=tcg; }
	args=(-M q35 -cpu max -smp "$smp" -m "$mem" -nodefaults -no-user-config -display none -no-reboot -net none)
	if [ -n "$one_insn" ]; then
		# A boot like that takes minutes: follow_reports switches it on when the command is about to start.
		accel=tcg
		mkfifo "$run/monitor.in" "$run/monitor.out"
		args+=(-chardev "pipe,id=monitor,path=$run/monitor" -mon chardev=monitor)
	fi
	case $accel in
	tcg) args+=(-accel "$tcg") ;;
	kvm) args+=(-accel kvm) ;;
	esac
	[ -z "$icount" ] || args+=(-icount "shift=0,sleep=off")
	# The first report ends the run: after it lockdep is off and KASAN silent. With KCSAN the kernel's own races,
	# which do not count here, would end it too.
	[ "$kernel" != debug-kasan ] || append="panic_on_warn=1 $append"
	# panic=-1: reboot, that is, end at once. The rest turns hangs into panics.
	# shellcheck disable=SC2054 # the commas are QEMU's
	args+=(
		-kernel "$kroot/vmlinuz" -initrd "$run/initramfs"
		-append "console=ttyS0 quiet panic=-1 oops=panic softlockup_panic=1 hung_task_panic=1 nokaslr tsc=reliable vsyscall=xonly $append"
		-serial "file:$run/log"
		-fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap
		-device virtio-9p-pci,fsdev=root,mount_tag=root
		-fsdev "local,id=out,path=$OUT,security_model=none,multidevs=remap"
		-device virtio-9p-pci,fsdev=out,mount_tag=out
		-device virtio-serial-pci
		-chardev "file,id=err,path=$run/err" -device virtserialport,chardev=err,name=err
		-chardev "file,id=result,path=$run/result" -device virtserialport,chardev=result,name=result
	)
	if [ -n "$interactive" ]; then
		args+=(-chardev "stdio,id=out,signal=off")
	else
		args+=(-chardev "file,id=out,path=$run/out")
	fi
	args+=(-device "virtserialport,chardev=out,name=out")
}

# Reads the reports as they come: progress for the person who waits, facts for the verdict.
follow_reports() {
	local word rest began=$EPOCHREALTIME
	while read -r word rest; do
		printf '%s=%q\n' "$word" "${rest:-1}" >>"$run/verdict"
		case $word in
		start)
			# QEMU 8.1 renamed the command; the one that does not exist is only answered.
			[ -z "$one_insn" ] || printf 'one-insn-per-tb on\nsinglestep on\n' >"$run/monitor.in"
			awk -v a="$began" -v b="$EPOCHREALTIME" -v k="$kernel" \
				'BEGIN { printf "  vm %s: up after %.1f s\n", k, b - a }' >&2
			;;
		esac
	done
}

run_machine() {
	local readers=() status=0
	mkfifo "$run/err" "$run/result"
	: >"$run/verdict"
	[ -n "$interactive" ] || mkfifo "$run/out"
	[ -n "$probe_kvm" ] || say "vm $kernel: booting ($accel${icount:+, counting instructions}, $smp CPUs)"
	follow_reports <"$run/result" &
	readers+=($!)
	cat <"$run/err" >&2 &
	readers+=($!)
	if [ -n "$one_insn" ]; then
		cat <"$run/monitor.out" >"$run/monitor.log" &
		readers+=($!)
	fi
	if [ -n "$interactive" ]; then
		timeout -k 5 --foreground "$limit" qemu-system-x86_64 "${args[@]}" || status=$?
	else
		cat <"$run/out" &
		readers+=($!)
		timeout -k 5 "$limit" qemu-system-x86_64 "${args[@]}" </dev/null 2>"$run/qemu" &
		qemu_pid=$!
		wait $qemu_pid || status=$?
		qemu_pid=
	fi
	if [ $status != 0 ] && [ ! -e "$run/log" ]; then
		# It never opened the pipes: the readers would wait for ever.
		kill "${readers[@]}" 2>/dev/null || true
	fi
	wait "${readers[@]}" 2>/dev/null || true
	return $status
}

# --- the verdict ----------------------------------------------------------------------------------------

# KCSAN watches the whole kernel, and the kernel's own races are its own business: of those reports only such count
# in which a module has a part, other than that an interrupt came into it. Drivers are built in, so a module is one of
# ours. wait_event_hrtimeout() reads in its caller what hrtimer_wakeup() writes: that is the kernel's too. Only the
# title is taken away: what another CPU printed in between stays.
without_foreign_races() {
	awk 'function settle() { if (title != "" && ours) print title; title = "" }
		/BUG: KCSAN:/ { settle(); title = $0; ours = 0; below = 0 }
		/(read|write).* to 0x/ { below = 0 }
		/ asm_[a-z_0-9]+\+0x/ { below = 1 }
		/=============================/ { if (!ours) title = ""; settle() }
		/ \[[a-z_]+\]/ && !below && title !~ / hrtimer_wakeup/ { ours = 1 }
		!/BUG: KCSAN:/
		END { ours = 1; settle() }' "$1"
}

# What a kernel prints when something is wrong. A program that crashes prints "traps: NAME[PID] general
# protection ..." or "segfault at": that concerns the program, not the kernel.
splats() {
	without_foreign_races "$1" |
		grep -aE 'BUG:|WARNING:|KASAN|KCSAN|UBSAN|possible (circular|recursive)|suspicious RCU|INFO: (rcu|task)|Oops|general protection|unreferenced|Call Trace|Kernel panic' |
		grep -avE 'traps: [^ ]+\[[0-9]+\]|segfault at'
}

judge() {
	local word status=$1 up='' exit='' rmmod='' end='' fail=''
	# shellcheck source=/dev/null
	. "$run/verdict"
	[ ! -s "$run/qemu" ] || sed "s/^/vm $kernel: /" "$run/qemu" >&2
	if [ -n "$probe_kvm" ]; then
		[ -n "$up" ] || exit 1
		exit 0
	fi
	mkdir -p "$(dirname "$log")"
	mv "$run/log" "$log" 2>/dev/null || trouble "there is no kernel log"
	if [ -n "$expect_panic" ]; then
		splats "$log" >/dev/null && exit 0
		echo "vm $kernel: the kernel was expected to complain and did not (exit status ${exit:-none})" >&2
		exit 1
	fi
	if splats "$log" >"$run/splats"; then
		{ echo "vm $kernel: the kernel complained; from $log:"; head -n 30 "$run/splats"; } >&2
		exit 125
	fi
	if [ "$status" = 124 ] || [ "$status" = 137 ]; then
		echo "vm $kernel: stopped at the time limit of $limit s; end of the kernel log:" >&2
		tail -n 5 "$log" >&2
		exit 124
	fi
	[ -z "$fail" ] || trouble "the guest could not start: $fail"
	[ -n "$end" ] || { tail -n 15 "$log" >&2; trouble "the machine ended without a verdict (log: $log)"; }
	for word in "start" "done"; do
		grep -aq "upreempt-vm: $word" "$log" || trouble "the kernel log is not whole, no '$word': $log"
	done
	[ "$module" = none ] || [ "$rmmod" = ok ] || trouble "the module could not be unloaded: ${rmmod:-no report}"
	exit "$exit"
}

# In braces, so that the shell has read it all before a long run starts: the file may change meanwhile.
{
make_initramfs
make_job "$@"
choose_accel
qemu_arguments
status=0
run_machine || status=$?
judge $status
}
