#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# `make run`: build what is missing, then show the demonstration with the module, in a VM or on this kernel.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

where=${1:?usage: run.sh 6.1|6.12|live}
build() { make -s --no-print-directory -C "$TOP" OUT="$OUT" "$@"; }

say "building the library and the command"
build all

if [ "$where" = live ]; then
	[ ! -d /sys/module/upreempt ] ||
		die "the module is loaded already: rmmod upreempt first, or run out/bin/upreempt demo with it"
	"$TOP/tools/build/module.sh" live
	as_root insmod "$OUT/kmod/live/upreempt.ko" ||
		die "this kernel does not take the module (see dmesg): leave out LIVE=1 to use a VM"
	trap 'as_root rmmod upreempt' EXIT
	say "loaded into the running kernel, $(uname -r)"
	as_root "$OUT/bin/upreempt" demo
	exit
fi

say "fetching the kernel and building the module"
build kernels
grep -qx "$where" "$OUT/kernels/available" || die "no kernel $where here; there is: $(paste -sd' ' "$OUT/kernels/available")"
"$TOP/tools/build/kmod.sh" "$where"
options=(--kernel "$where" --module normal --timeout 300)
[ ! -t 1 ] || options+=(--tty)
"$TOP/selftests/vm/run.sh" "${options[@]}" -- "$OUT/bin/upreempt" demo
say "that was Linux $(cat "$OUT/kernels/$where/release") in a virtual machine; its kernel log is ${OUT#"$PWD"/}/vm/$where.log"
say "next: make check (all tests), make bench (numbers), out/bin/upreempt --help"
