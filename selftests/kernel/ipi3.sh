#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Proves P3: kernel/ipi on a machine with three CPUs, for the request that is lost when an IPI does not follow
# its thread: one CPU for the thread, one where it was, one for the requester.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
. tools/build/lib.sh
series=${1:?usage: ipi3.sh SERIES}

exec selftests/vm/run.sh --kernel "$series" --module inject --smp 3 --timeout 250 \
	--log "$OUT/vm/ipi3-$series.log" -- "$OUT/selftests/kernel/ipi"
