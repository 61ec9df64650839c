#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Build the module for each kernel series named that was fetched; nothing is done when no source changed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

for series in "$@"; do
	grep -qx "$series" "$OUT/kernels/available" || continue
	ko=$OUT/kmod/$series/inject/upreempt.ko
	if [ -e "$ko" ] && [ -z "$(find "$TOP/Kbuild" "$TOP/kmod" "$TOP/include" "$TOP/tools/build" \
		"$OUT/kernels/$series/release" -newer "$ko" -print -quit)" ]; then
		continue
	fi
	say "module for $series"
	"$TOP/tools/build/module.sh" "$series" W=1
done
