# SPDX-License-Identifier: LGPL-2.1 OR MIT
# shellcheck shell=bash
# Shared by the scripts of tools/build, tools/check and selftests: where things are and how to speak.
# Sourced, never run. Sets TOP (the tree) and OUT (everything that is built or fetched).

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
OUT=${OUT:-$TOP/out}
# Debian keeps depmod, insmod and bpftool where a plain user's PATH does not look.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "  $*" >&2; }
die() { printf '%s\n' "${0##*/}: $*" >&2; exit 1; }

# run_quiet LOG COMMAND...: run a noisy command, show its output only when it fails.
run_quiet() {
	local log=$1
	shift
	mkdir -p "$(dirname "$log")"
	if ! "$@" >"$log" 2>&1; then
		cat "$log" >&2
		return 1
	fi
}

# as_root COMMAND...: directly, or through sudo when it needs no password.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		sudo -n "$@"
	else
		die "needs root for: $* (run as root, or allow sudo without a password)"
	fi
}

# Refresh the package lists once per run of a script, and only when somebody missed a package.
apt_update_once() {
	[ -z "${APT_UPDATED:-}" ] || return 0
	APT_UPDATED=1
	say "apt-get update"
	run_quiet "$OUT/log/apt-update.log" as_root env ${APT_CONFIG:+APT_CONFIG="$APT_CONFIG"} apt-get -q update ||
		say "apt-get update failed: going on with the package lists at hand"
}

# apt_fetch DIR PACKAGE...: download package files without installing them.
apt_fetch() {
	local dir=$1
	shift
	mkdir -p "$dir"
	(cd "$dir" && run_quiet "$OUT/log/apt-download.log" \
		apt-get -q -o APT::Sandbox::User="$(id -un)" download "$@")
}

# of_trixie SERIES: is it one of the kernels that need a Debian 13 (tools/build/trixie.sh) to be built?
of_trixie() { [[ $1 == [7-9].* ]]; }
