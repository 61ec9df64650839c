#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1 OR MIT
# `make bench`: measure in VMs, by time on two CPUs, by counted instructions on one, and what depends on the
# number of CPUs on three, four and eight; merge the results into out/bench.json. Times in an emulated machine
# mean something as ratios within one run.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

series=${1:?usage: bench.sh 6.1|6.12}
bench=$OUT/bin/upreempt-bench
build() { make -s --no-print-directory -C "$TOP" OUT="$OUT" "$@"; }
build all kernels
"$TOP/tools/build/kmod.sh" "$series"

# Go's runtime as a peer, where there is a Go: one file without modules needs no network.
build_go() {
	local go=$OUT/bin/upreempt-bench-go
	if ! command -v go >/dev/null; then
		say "no Go here: the rows of the backend 'go' are left out"
		rm -f "$go"
	elif [ ! -e "$go" ] || [ "$TOP/tools/bench/stw.go" -nt "$go" ]; then
		GO111MODULE=off GOPROXY=off GOFLAGS='' CGO_ENABLED=0 GOPATH=$OUT/go GOCACHE=$OUT/go/cache \
			run_quiet "$OUT/log/bench-go.log" go build -trimpath -o "$go" "$TOP/tools/bench/stw.go"
	fi
}
build_go

dir=$OUT/bench
mkdir -p "$dir"
rm -f "$dir"/*.json
vm=("$TOP/selftests/vm/run.sh" --kernel "$series" --module normal)
"${vm[@]}" --mem 3072 --timeout 900 -- "$bench" -o "$dir/time.json"
"${vm[@]}" --timeout 900 --icount -- "$bench" --icount -o "$dir/icount.json"
for cpus in 3 4 8; do
	"${vm[@]}" --timeout 900 --smp $cpus -- "$bench" --cpus -o "$dir/cpus$cpus.json"
done
"$bench" --merge -o "$OUT/bench.json" "$dir"/{time,icount,cpus3,cpus4,cpus8}.json
say "written: ${OUT#"$PWD"/}/bench.json"
