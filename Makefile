# SPDX-License-Identifier: LGPL-2.1 OR MIT
# Everything that is built or fetched goes to out/. `make help` lists what can be asked for.

OUT := $(abspath out)
VERSION := $(shell cat VERSION)
PREFIX ?= /usr/local
KERNELS := 6.1 6.12
MATRIX := 6.1 6.1-rt 6.1-cloud 6.12 6.12-rt 7.3 7.3-rt
KERNEL ?= 6.1

SHELL := /bin/bash
VM := selftests/vm/run.sh
DEPS := tools/build/deps.sh
SUB = $(MAKE) $(if $(V),,-s) --no-print-directory OUT=$(OUT)
export OUT

.PHONY: all help lib bpf tools bench-tool kmod kernels source tests run check check-matrix check-debug lint bench install clean distclean
.DEFAULT_GOAL := all

all: lib tools ## the library and the commands

help: ## this list
	@echo "upreempt $(VERSION): preempt, inspect, redirect and resume user threads"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | \
		awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo "  variables: LIVE=1 (run: this kernel, no VM; KDIR= its headers)  KERNEL=6.1|6.12 (run, bench)  DESTDIR= PREFIX= (install)"
	@echo "             SKIP_DEPS=1 (install no packages)  V=1 (show commands)"

lib: ## out/lib/libupreempt.{so,a}
	@$(SUB) -C userlib

bpf: ## the BPF programs behind `upreempt latency`
	@$(SUB) -C bpf

tools: lib bpf bench-tool ## out/bin/upreempt, out/bin/upreempt-bench
	@$(SUB) -C tools/upreempt

bench-tool: lib
	@[ ! -e tools/bench/Makefile ] || $(SUB) -C tools/bench

kernels: source
	@tools/build/kernels.sh $(KERNELS)

source:
	@tools/build/source.sh

kmod: kernels ## out/kmod/KERNEL/upreempt.ko for each kernel that this machine can fetch
	@tools/build/kmod.sh $(KERNELS)

tests: source all ## the test programs
	@$(SUB) -C selftests

run: ## the main job, shown: in a VM, or with LIVE=1 on the running kernel
	@$(DEPS) run $(if $(LIVE),live)
	@tools/build/run.sh $(if $(LIVE),live,$(KERNEL))

check: ## every test, on the host and in VMs; the last line counts them
	@$(DEPS) check
	@$(SUB) tests kmod
	@selftests/run.sh

check-matrix: ## what needs a kernel, on more of them: real-time, cloud, 7.3
	@$(DEPS) check-matrix
	@$(SUB) tests kmod KERNELS='$(MATRIX)'
	@selftests/run.sh --place vm --place script $(MATRIX:%=--kernel %)

check-debug: ## the module's tests on kernels that find bugs (KASAN, lockdep, KCSAN)
	@$(DEPS) check-debug
	@$(SUB) tests
	@tools/build/debug-kernel.sh kasan kcsan
	@selftests/run.sh --place script --place vm --kernel debug-kasan --kernel debug-kcsan

lint: ## what tools can find in the sources
	@$(DEPS) check
	@$(SUB) all kmod
	@tools/check/lint.sh

bench: ## measure in a VM, print a table, write out/bench.json
	@$(DEPS) bench
	@tools/build/bench.sh $(KERNEL)

install: all ## library, headers, command and manual pages, under $(DESTDIR)$(PREFIX)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' tools/build/install.sh

clean: ## remove what was built; keep fetched kernels
	rm -rf $(filter-out $(OUT)/kernels $(OUT)/trixie $(OUT)/trixie.apt $(OUT)/debug $(OUT)/source $(OUT)/kselftest,$(wildcard $(OUT)/*))

distclean: ## remove out/ altogether
	rm -rf $(OUT)
