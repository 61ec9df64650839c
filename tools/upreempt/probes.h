/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* The BPF programs of bpf/latency.bpf.c: load, attach, pin, read. Needs root. */
#ifndef PROBES_H
#define PROBES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include "latency.h"

struct probes;

struct probes_opts {
	pid_t tgid;		/* 0: every process */
	int signo;		/* 0: every signal */
	bool module, signal;	/* which half is wanted; the module's is left out when it is not loaded */
};

struct probes_entry {
	struct latency_key key;
	struct hist hist;
};

/* NULL: why[] says why not, in one sentence */
struct probes *probes_open(const struct probes_opts *opts, char *why, size_t size);
void probes_close(struct probes *p);
/* How the programs are attached: "tp_btf", "raw_tp", "tp", or NULL for a half that is not there */
const char *probes_module_mode(const struct probes *p);
const char *probes_signal_mode(const struct probes *p);
/*
 * Put the uprobes on the library's trace functions, wherever the process has them
 * mapped. Returns 1 when they are there, 0 when no mapped file has the functions,
 * -errno. May be called again, for a library that is loaded later.
 */
int probes_attach_library(struct probes *p, pid_t pid);
/* Pin the results' maps as DIR/upreempt_latency and DIR/upreempt_deferrals */
int probes_pin(struct probes *p, const char *dir, char *why, size_t size);
/* Forget what was counted */
void probes_reset(struct probes *p);
/* All histograms, sorted by kind, outcome, stage: n of them, to be freed. NULL: out of memory. */
struct probes_entry *probes_read(struct probes *p, size_t *n);
/* n[UPREEMPT_REASON_MAX] */
void probes_deferrals(struct probes *p, __u64 *n);

const char *stage_key(enum latency_stage stage);	/* "request_ipi" */
const char *stage_title(enum latency_stage stage);	/* "request → IPI" */

#endif
