#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Build kernels that find bugs, from Debian's linux-source, and the module for each: debug-kernel.sh kasan|kcsan...
#
#   kasan   KASAN, lockdep, atomic-sleep, debug objects, kmemleak, fault injection, KCOV
#   kcsan   KCSAN: data races
#
# Their parts are lists in tools/build/configs. All drivers are built in, so that
# `selftests/vm/run.sh --kernel debug-kasan` boots it as it boots Debian's. About 10 minutes each on two idle cores;
# what comes out (out/kernels/debug-NAME, and out/debug, which modules are built with) is kept until the source, a
# list or the compiler changes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

source=linux-source-6.1
configs=$TOP/tools/build/configs
work=$OUT/debug

find_source() {
	tar=/usr/src/$source.tar.xz
	[ ! -e "$tar" ] || return 0
	tar=$work/$source.tar.xz
	[ ! -e "$tar" ] || return 0
	say "fetching $source"
	mkdir -p "$work"
	apt-cache show $source >/dev/null 2>&1 || apt_update_once
	apt_fetch "$work/deb" $source || die "cannot fetch $source: is there a Debian package source?"
	dpkg-deb --fsys-tarfile "$work"/deb/$source*.deb | tar -xO "./usr/src/$source.tar.xz" >"$tar.tmp"
	mv "$tar.tmp" "$tar"
	rm -rf "$work/deb"
}

wanted() { for l in "${lists[@]}"; do cat "$configs/$l.config"; done; }

# Always from the source, which then says where it is: the build directory may have been made under another path.
kmake() { make -s -C "$work/$source" O="$work/$name" ARCH=x86_64 "$@"; }

build_kernel() {
	if [ ! -e "$work/$source/Makefile" ]; then
		say "unpacking $source"
		tar -C "$work" -xJf "$tar"
	fi
	mkdir -p "$work/$name"
	wanted >"$work/$name.list"
	say "kernel debug-$name: building (10 minutes or so)"
	run_quiet "$OUT/log/debug-$name-config.log" kmake KCONFIG_ALLCONFIG="$work/$name.list" allnoconfig
	# allnoconfig drops without a word what it cannot set: what matters must be there.
	local o missing=()
	for o in PREEMPT_NOTIFIERS USER_RETURN_NOTIFIER "${needed[@]}"; do
		grep -q "^CONFIG_$o=y" "$work/$name/.config" || missing+=("$o")
	done
	[ ${#missing[@]} = 0 ] || die "debug-$name: the configuration lacks ${missing[*]}"
	run_quiet "$OUT/log/debug-$name.log" kmake -j"$(nproc)" bzImage modules ||
		die "debug-$name does not build: see $OUT/log/debug-$name.log"

	rm -rf "$dest"
	mkdir -p "$dest"
	run_quiet "$OUT/log/debug-$name-install.log" kmake INSTALL_MOD_PATH="$dest" INSTALL_MOD_STRIP=1 modules_install
	cp "$work/$name/arch/x86/boot/bzImage" "$dest/vmlinuz"
	cp "$work/$name/include/config/kernel.release" "$dest/release"
	echo "$key" >"$dest/.key"
	say "kernel debug-$name: $(cat "$dest/release"); selftests/vm/run.sh --kernel debug-$name"
}

# build_module DIR TO FROM... [-- VARIABLE...]: a copy of the sources, its .ko to TO; nothing when no source changed.
build_module() {
	local dir=$work/module-$name-$1 to=$2 from=()
	shift 2
	while [ $# -gt 0 ] && [ "$1" != -- ]; do from+=("$1"); shift; done
	shift || true
	[ ! -e "$to" ] || [ -n "$(find "${from[@]}" "$dest/release" "$0" -newer "$to" -print -quit)" ] || return 0
	say "module ${to#"$OUT"/}"
	# From nothing: make does not see that the BTF of another kernel is in it.
	rm -rf "$dir"
	mkdir -p "$dir" "$(dirname "$to")"
	cp -r "${from[@]}" "$dir/"
	run_quiet "$OUT/log/module-debug-$name.log" kmake M="$dir" "$@" modules || die "$to does not build"
	cp "$dir/$(basename "$to")" "$to"
}

# In braces, so that the shell has read it all before a long build starts: the file may change meanwhile.
{
[ $# -gt 0 ] || die "usage: debug-kernel.sh kasan|kcsan..."
find_source
for name in "$@"; do
	case $name in
	kasan) lists=(base debug kasan) needed=(KASAN PROVE_LOCKING PROVE_RCU DEBUG_KMEMLEAK FAULT_INJECTION) ;;
	kcsan) lists=(base kcsan) needed=(KCSAN) ;;
	*) die "kasan or kcsan, not $name" ;;
	esac
	dest=$OUT/kernels/debug-$name
	ko=$OUT/kmod/debug-$name
	key=$({ stat -c %s "$tar"; gcc --version | head -n 1; wanted; } | sha256sum | cut -d' ' -f1)
	if [ "$(cat "$dest/.key" 2>/dev/null)" != "$key" ] || [ ! -e "$work/$name/Module.symvers" ]; then
		build_kernel
	fi
	build_module normal "$ko/upreempt.ko" "$TOP/Kbuild" "$TOP/kmod" "$TOP/include"
	build_module inject "$ko/inject/upreempt.ko" "$TOP/Kbuild" "$TOP/kmod" "$TOP/include" -- UPREEMPT_INJECT=1
	build_module canary "$ko/canary.ko" "$TOP/selftests/canary/Kbuild" "$TOP/selftests/canary/canary.c"
done
exit
}
