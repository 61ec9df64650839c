#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Fetch one Debian kernel with its headers into out/kernels/SERIES, without installing it: kernel.sh SERIES
# SERIES is a version, of which the newest is taken, and perhaps a flavour: 6.1, 6.12-rt, 6.1-cloud, 7.3.
#
# Installing an image would run mkinitramfs and touch the boot loader, so the packages are only unpacked:
#   out/kernels/SERIES/release    the kernel's release name, for example 6.1.0-13-amd64
#   out/kernels/SERIES/vmlinuz    the boot image            (link)
#   out/kernels/SERIES/build      what `make -C` needs      (link)
#   out/kernels/SERIES/lib/modules/...  its modules, with modules.dep
#   out/kernels/SERIES/vmlinux    an ELF file with the kernel's BTF
# Exit status 2: this machine's package sources have no such kernel. A caller may go on without it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

series=${1:?usage: kernel.sh 6.1|6.12|6.1-rt...}
version=${series%%-*}
flavour=${series#"$version"}
dest=$OUT/kernels/$series
deb=$OUT/cache/deb-$series

[ -e "$dest/vmlinux" ] && [ -e "$dest/build/.config" ] && exit 0

# Newest first. The pattern leaves out other flavours, -unsigned and -dbg.
candidates() {
	apt-cache pkgnames "linux-image-$version." 2>/dev/null |
		grep -E "^linux-image-${version//./\\.}\.[0-9][^-]*(-[0-9]+)?$flavour-amd64$" | sort -rV
}

# apt lists every package it knows, also ones that no source offers any more: ask for the address of each.
choose() {
	local image release
	while read -r image; do
		release=${image#linux-image-}
		mapfile -t packages < <(package_set "$release")
		if apt-get -qq download --print-uris "${packages[@]}" >/dev/null 2>&1; then
			echo "$release"
			return 0
		fi
	done < <(candidates)
	return 1
}

# The headers name the two packages that they share with other flavours, and an image from 7 on those that it
# consists of; names differ between the series.
package_set() {
	printf '%s\n' "linux-image-$1" "linux-headers-$1"
	apt-cache show --no-all-versions "linux-image-$1" "linux-headers-$1" 2>/dev/null |
		sed -n 's/^Depends: //p' | tr ',' '\n' |
		sed -nE 's/^ *(linux-(headers-[^ ]*-common(-rt)?|kbuild-[^ ]*|(base|binary|modules)-[0-9][^ ]*)).*/\1/p' |
		sort -u
}

if of_trixie "$series"; then
	"$TOP/tools/build/trixie.sh" || exit $?
	export APT_CONFIG=$OUT/trixie.apt
fi
command -v apt-get >/dev/null || { say "kernel $series: no apt-get here to fetch it with"; exit 2; }
release=$(choose) || { apt_update_once; release=$(choose); } || {
	say "kernel $series: not in this machine's package sources, skipped"
	say "(6.12 is in bookworm-backports and bookworm-security)"
	exit 2
}

say "kernel $series: fetching $release"
rm -rf "$dest" "$deb"
mkdir -p "$dest"
mapfile -t packages < <(package_set "$release")
apt_fetch "$deb" "${packages[@]}" || die "kernel $series: download failed"
for f in "$deb"/*.deb; do
	dpkg-deb -x "$f" "$dest"
done
rm -rf "$deb" "${dest:?}/usr/share"
# The later packages know no /lib beside /usr/lib any more.
[ ! -e "$dest/usr/lib/modules" ] || { mkdir "$dest/lib"; mv "$dest/usr/lib/modules" "$dest/lib/"; }

# The packages expect to live in /usr/src; say it relative, so that the tree can be anywhere and move.
headers=$dest/usr/src/linux-headers-$release
# shellcheck disable=SC2016 # make expands it
here='$(dir $(realpath $(lastword $(MAKEFILE_LIST))))'
sed -i -E "s|^include /usr/src/(.*)$|include $here../\1|; s|^KBUILD_OUTPUT=/usr/src/.*|KBUILD_OUTPUT := \$(realpath $here)|" \
	"$headers/Makefile"
! grep -q /usr/src "$headers/Makefile" || die "kernel $series: the headers' Makefile has an unexpected form"
rm -f "$dest/lib/modules/$release/build" "$dest/lib/modules/$release/source"
ln -sfn "../../../usr/src/linux-headers-$release" "$dest/lib/modules/$release/build"
depmod -b "$dest" "$release"

ln -sfn "usr/src/linux-headers-$release" "$dest/build"
image=boot/vmlinuz-$release
[ -e "$dest/$image" ] || image=lib/modules/$release/vmlinuz
ln -sfn "$image" "$dest/vmlinuz"
echo "$release" >"$dest/release"

# Module BTF is a supplement to the kernel's own. Later headers ship it; for 6.1 it is inside the boot image.
if [ -e "$headers/vmlinux" ]; then
	ln -sfn build/vmlinux "$dest/vmlinux"
else
	"$TOP/tools/build/source.sh"
	# The script tries one unpacker after the other and the wrong ones complain.
	"$OUT/source/scripts/extract-vmlinux" "$dest/vmlinuz" >"$dest/vmlinux.tmp" 2>"$OUT/log/extract-vmlinux.log" ||
		die "kernel $series: no vmlinux in the boot image"
	objcopy --only-section=.BTF --only-section=.BTF_ids --set-section-flags .BTF=alloc,readonly \
		"$dest/vmlinux.tmp" "$dest/vmlinux" 2>/dev/null || mv "$dest/vmlinux.tmp" "$dest/vmlinux"
	rm -f "$dest/vmlinux.tmp"
fi
