#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Install the Debian packages that a target needs and that are missing: deps.sh build|run|live|check|check-matrix|bench...
# A machine that has them all is left alone and pays one dpkg-query. SKIP_DEPS=1 skips even that.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

BUILD="make gcc g++ libc6-dev binutils pkg-config xz-utils bzip2 gcc-12 linux-compiler-gcc-12-x86
	libelf1 libssl3 pahole bpftool clang llvm libbpf-dev libelf-dev libdw-dev zlib1g-dev kmod perl file"
BENCH="golang-go"
VM="qemu-system-x86 cpio procps iproute2 util-linux"
DEBUG="flex bison bc"
MATRIX="debootstrap gdb"
CHECK="sparse shellcheck cppcheck mandoc gdb python3-sphinx"

packages=()
for set in "${@:-build}"; do
	# Word splitting is the point: the lists above are words.
	# shellcheck disable=SC2206
	case $set in
	build) packages+=($BUILD) ;;
	run) packages+=($BUILD $VM) ;;
	bench) packages+=($BUILD $VM $BENCH) ;;
	check-debug) packages+=($BUILD $VM $DEBUG) ;;
	check-matrix) packages+=($BUILD $VM $MATRIX) ;;
	live) # where Debian has them; module.sh says what else to do
		headers=linux-headers-$(uname -r)
		[ -e "${KDIR:-/lib/modules/$(uname -r)/build}/Makefile" ] || ! apt-cache show "$headers" >/dev/null 2>&1 ||
			packages+=("$headers") ;;
	check) packages+=($BUILD $VM $CHECK) ;;
	*) die "unknown set '$set' (build, run, live, bench, check, check-matrix or check-debug)" ;;
	esac
done

missing() {
	comm -13 <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u) \
		<(printf '%s\n' "${packages[@]}" | sort -u)
}

[ -z "${SKIP_DEPS:-}" ] || exit 0
command -v dpkg-query >/dev/null || {
	say "not a Debian system: please provide these yourself: ${packages[*]}"
	exit 0
}
mapfile -t want < <(missing)
[ ${#want[@]} -gt 0 ] || exit 0

say "installing ${want[*]}"
export DEBIAN_FRONTEND=noninteractive
install=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends)
apt-cache show "${want[@]}" >/dev/null 2>&1 || apt_update_once
if ! run_quiet "$OUT/log/apt-install.log" as_root "${install[@]}" "${want[@]}"; then
	# Package lists age: a file that the mirror no longer has is the usual reason.
	apt_update_once
	run_quiet "$OUT/log/apt-install.log" as_root "${install[@]}" "${want[@]}" ||
		die "could not install: ${want[*]}"
fi
