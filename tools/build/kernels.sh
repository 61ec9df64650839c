#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Fetch each kernel series named. The first must be there; a later one may be unknown to this machine's sources.
# out/kernels/available lists what is to be built and tested.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

mkdir -p "$OUT/kernels"
available=()
for series in "$@"; do
	status=0
	"$TOP/tools/build/kernel.sh" "$series" || status=$?
	case $status in
	0) available+=("$series") ;;
	2) [ "$series" != "$1" ] || die "kernel $series is needed and no package source has it" ;;
	*) die "kernel $series could not be fetched" ;;
	esac
done
printf '%s\n' "${available[@]}" >"$OUT/kernels/available"
