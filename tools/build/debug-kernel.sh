#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Build a kernel that finds bugs, from Debian's linux-source, and the module for it: debug-kernel.sh kasan|kcsan
#
#   kasan   KASAN, lockdep, atomic-sleep, debug objects, kmemleak, fault injection, KCOV
#   kcsan   KCSAN: data races
#
# Its parts are lists in tools/build/configs. All drivers are built in, so that
# `selftests/vm/run.sh --kernel debug-kasan` boots it as it boots Debian's. About 10 minutes on two idle cores; what
# comes out (out/kernels/debug-NAME, some 20 MB) is kept until the source, a list or the compiler changes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

name=${1:?usage: debug-kernel.sh kasan|kcsan}
source=linux-source-6.1
configs=$TOP/tools/build/configs
case $name in
kasan) lists=(base debug kasan) ;;
kcsan) lists=(base kcsan) ;;
*) die "kasan or kcsan, not $name" ;;
esac
dest=$OUT/kernels/debug-$name
work=$OUT/debug

tar=/usr/src/$source.tar.xz
if [ ! -e "$tar" ]; then
	tar=$work/$source.tar.xz
	mkdir -p "$work"
	if [ ! -e "$tar" ]; then
		say "fetching $source"
		apt-cache show $source >/dev/null 2>&1 || apt_update_once
		apt_fetch "$work/deb" $source || die "cannot fetch $source: is there a Debian package source?"
		dpkg-deb --fsys-tarfile "$work"/deb/$source*.deb | tar -xO "./usr/src/$source.tar.xz" >"$tar.tmp"
		mv "$tar.tmp" "$tar"
		rm -rf "$work/deb"
	fi
fi
key=$({ stat -c %s "$tar"; gcc --version | head -n 1; cat "${lists[@]/#/$configs/}" 2>/dev/null ||
	for l in "${lists[@]}"; do cat "$configs/$l.config"; done; } | sha256sum | cut -d' ' -f1)
module() {
	say "module for debug-$name"
	for variant in normal inject; do
		dir=$work/module-$name-$variant
		mkdir -p "$dir" "$OUT/kmod/debug-$name/inject"
		cp -ru "$TOP/Kbuild" "$TOP/kmod" "$TOP/include" "$dir/"
		flags=()
		to=$OUT/kmod/debug-$name
		[ $variant = normal ] || { flags=(UPREEMPT_INJECT=1); to+=/inject; }
		run_quiet "$OUT/log/module-debug-$name.log" make -s -C "$work/$name" M="$dir" "${flags[@]}" modules ||
			die "the module does not build for debug-$name"
		cp "$dir/upreempt.ko" "$to/upreempt.ko"
	done
}
if [ "$(cat "$dest/.key" 2>/dev/null)" = "$key" ] && [ -e "$work/$name/Module.symvers" ]; then
	module
	exit 0
fi

if [ ! -e "$work/$source/Makefile" ]; then
	say "unpacking $source"
	tar -C "$work" -xJf "$tar"
fi
mkdir -p "$work/$name"
for l in "${lists[@]}"; do cat "$configs/$l.config"; done >"$work/$name.list"
say "kernel debug-$name: building (10 minutes or so)"
run_quiet "$OUT/log/debug-$name-config.log" make -C "$work/$source" O="$work/$name" ARCH=x86_64 \
	KCONFIG_ALLCONFIG="$work/$name.list" allnoconfig
# allnoconfig drops without a word what it cannot set: what matters must be there.
for o in PREEMPT_NOTIFIERS USER_RETURN_NOTIFIER; do
	grep -q "^CONFIG_$o=y" "$work/$name/.config" || missing="${missing:-} $o"
done
[ -z "${missing:-}" ] || die "debug-$name: the configuration lacks$missing"
run_quiet "$OUT/log/debug-$name.log" make -s -C "$work/$source" O="$work/$name" -j"$(nproc)" bzImage modules ||
	die "debug-$name does not build: see $OUT/log/debug-$name.log"

rm -rf "$dest"
release=$(cat "$work/$name/include/config/kernel.release")
mkdir -p "$dest/lib/modules/$release"
cp "$work/$name/arch/x86/boot/bzImage" "$dest/vmlinuz"
cp "$work/$name/modules.builtin" "$work/$name/modules.order" "$dest/lib/modules/$release/"
cp "$work/$name/modules.builtin.modinfo" "$dest/lib/modules/$release/" 2>/dev/null || true
depmod -b "$dest" "$release"
echo "$release" >"$dest/release"
module
echo "$key" >"$dest/.key"
say "kernel debug-$name: $release; selftests/vm/run.sh --kernel debug-$name"
