#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# A Debian 13 below out/trixie, for kernels that are newer than the machine: its package sources have them, and
# their build tools need its C library. Nothing of the machine itself is changed.
#
#   trixie.sh                make it (30 s, 400 MB); nothing is done when it is there
#   trixie.sh run COMMAND    run a command in it, as the caller and with out/ at its own path
#
# out/trixie.apt, as APT_CONFIG, lets the machine's apt speak of its packages.
# Exit status 2: it cannot be made here. A caller may go on without those kernels.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

root=$OUT/trixie

# Where the machine itself gets Debian from.
mirror() {
	apt-get indextargets --format '$(LABEL) $(SITE)' 'Created-By: Packages' 2>/dev/null |
		sed -n 's/^Debian //p' | head -n 1
}

make_root() {
	local site http_proxy
	command -v debootstrap >/dev/null || { say "Debian 13: no debootstrap here"; exit 2; }
	site=$(mirror)
	[ -n "$site" ] || { say "Debian 13: this machine's apt names no Debian mirror"; exit 2; }
	eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
	say "Debian 13: fetching the system that its kernels are built in"
	as_root rm -rf "$root"
	mkdir -p "$OUT/log"
	run_quiet "$OUT/log/debootstrap.log" as_root env ${http_proxy:+http_proxy="$http_proxy"} debootstrap \
		--variant=minbase --include=gcc,make,pahole,ca-certificates trixie "$root" "$site" || exit 2
	printf 'deb %s %s main\n' "$site" trixie "$site" trixie-backports |
		as_root tee "$root/etc/apt/sources.list" >/dev/null
	# The packages' own sources first: apt reads this before anything below Dir.
	{
		printf 'Dir "%s";\nDir::State::status "%s";\n' "$root" "$root/var/lib/dpkg/status"
		apt-config dump | grep -E '^Acquire::https?::Proxy' || true
	} >"$OUT/trixie.apt"
	APT_CONFIG=$OUT/trixie.apt apt_update_once
	as_root touch "$root/.complete"
}

# In a mount namespace of its own, which takes its mounts along when it ends. objtool wants /proc.
run_in_root() {
	# shellcheck disable=SC2016 # the inner shell expands it
	as_root unshare -m sh -c 'root=$1 out=$2 user=$3; shift 3
		mkdir -p "$root$out" && mount --bind "$out" "$root$out" && mount --bind /proc "$root/proc" &&
			exec chroot --userspec="$user" "$root" "$@"' sh "$root" "$OUT" "$(id -u):$(id -g)" "$@"
}

if [ "${1:-}" = run ]; then
	run_in_root "${@:2}"
elif [ ! -e "$root/.complete" ]; then
	make_root
fi
