#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Build the module for one kernel: module.sh SERIES [W=1] [C=2]
#
# SERIES is one that kernel.sh has fetched, or `live` (the running kernel's own headers; KDIR=DIR names
# them where they are not in /lib/modules).
# The sources are copied first: kbuild writes beside them, and two kernels must not share objects.
#   out/kmod/SERIES/upreempt.ko          the module
#   out/kmod/SERIES/inject/upreempt.ko   the test build, with inject points and switchable guards (not for live)
# MODULE_SRC names another source tree with a Kbuild (the tests of this script use it).
set -euo pipefail
. "$(dirname "$0")/lib.sh"

series=${1:?usage: module.sh SERIES|live [make variables]}
shift
src=${MODULE_SRC:-$TOP}

if [ "$series" = live ]; then
	kdir=${KDIR:-/lib/modules/$(uname -r)/build}
	base=/sys/kernel/btf/vmlinux
	[ -e "$kdir/Makefile" ] || die "no headers of the running kernel $(uname -r): install linux-headers-$(uname -r) (or say KDIR=DIR), or leave out LIVE=1 to use a VM"
else
	kdir=$OUT/kernels/$series/build
	base=$OUT/kernels/$series/vmlinux
	[ -e "$kdir/Makefile" ] || die "no headers for $series: run tools/build/kernel.sh $series"
fi

# Copy what changed only, so that an unchanged module is not compiled again.
sync_sources() {
	local dir=$1 f
	mkdir -p "$dir"
	(cd "$src" && find Kbuild kmod include -type f \( -name '*.[chS]' -o -name Kbuild -o -name '*.mk' \)) |
		while read -r f; do
			cmp -s "$src/$f" "$dir/$f" && continue
			mkdir -p "$dir/$(dirname "$f")"
			cp "$src/$f" "$dir/$f"
		done
	# A file that went away in the tree must not live on in the copy.
	(cd "$dir" && find kmod include -name '*.[chS]') | while read -r f; do
		[ -e "$src/$f" ] || rm -f "$dir/$f"
	done
}

# The module's types as a supplement to the kernel's, so that tp_btf programs and bpftool see them.
# Newer headers bring vmlinux and kbuild does it; for older ones it is done here, on the finished module.
add_btf() {
	local ko=$1
	if ! readelf -SW "$ko" | grep -q ' \.BTF '; then
		[ -r "$base" ] || { say "no BTF for $ko: $base is missing"; return 0; }
		run_quiet "$OUT/log/pahole.log" pahole -J --btf_base "$base" "$ko" || die "pahole failed on $ko"
	fi
	bpftool -B "$base" btf dump file "$ko" >/dev/null || die "the BTF in $ko cannot be read"
}

# Make, where the kernel's own tools run.
kbuild() {
	local in=()
	! of_trixie "$series" || in=("$TOP/tools/build/trixie.sh" run)
	${in[@]+"${in[@]}"} make -s -C "$kdir" M="$dir" "$@"
}

# Two callers at once (a person and a test run) take turns.
mkdir -p "$OUT/build" "$OUT/log"
exec 9>"$OUT/build/$series.lock"
flock 9

variants=(normal inject)
[ "$series" != live ] || variants=(normal)
for variant in "${variants[@]}"; do
	dir=$OUT/build/$series/$variant
	result=$OUT/kmod/$series
	flags=("$@")
	if [ $variant = inject ]; then
		result=$result/inject
		flags+=(UPREEMPT_INJECT=1)
	fi
	log=$OUT/log/module-$series-$variant.log
	mkdir -p "$result"
	sync_sources "$dir"
	status=0
	kbuild "${flags[@]}" modules >"$log" 2>&1 || status=$?
	# Where vmlinux is missing kbuild remarks that it skips BTF, which add_btf makes good.
	sed -i '/^Skipping BTF generation/d' "$log"
	cat "$log" >&2
	[ $status = 0 ] || die "the module does not build for $series ($variant)"
	if ! cmp -s "$dir/upreempt.ko" "$result/.as-linked"; then
		cp "$dir/upreempt.ko" "$result/.as-linked"
		cp "$dir/upreempt.ko" "$result/upreempt.ko.tmp"
		add_btf "$result/upreempt.ko.tmp"
		mv "$result/upreempt.ko.tmp" "$result/upreempt.ko"
	fi
done
