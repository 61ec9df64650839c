#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# `make bench`: measure in a VM twice, by time on two CPUs and by counted instructions on one, and merge
# the results into out/bench.json. Times in an emulated machine mean something as ratios within one run.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

series=${1:?usage: bench.sh 6.1|6.12}
bench=$OUT/bin/upreempt-bench
build() { make -s --no-print-directory -C "$TOP" OUT="$OUT" "$@"; }
build all kernels
"$TOP/tools/build/kmod.sh" "$series"

dir=$OUT/bench
mkdir -p "$dir"
rm -f "$dir"/*.json
vm=("$TOP/selftests/vm/run.sh" --kernel "$series" --module normal)
"${vm[@]}" --timeout 900 -- "$bench" -o "$dir/time.json"
"${vm[@]}" --timeout 900 --icount -- "$bench" --icount -o "$dir/icount.json"
"$bench" --merge -o "$OUT/bench.json" "$dir/time.json" "$dir/icount.json"
say "written: ${OUT#"$PWD"/}/bench.json"
