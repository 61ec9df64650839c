/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * upreempt-bench: one file measures what needs two CPUs (cross.c), one what needs
 * one (single.c), one what stopping many threads takes (stw.c, with crew.h), one
 * writes the results (report.c).
 *
 * Peers are measured in turns, a batch of samples at a time, so that whatever else
 * the machine does hits all of them; the first samples of a batch are not counted,
 * because they pay for what the peer before did to caches and TLBs. Times come from
 * the time stamp counter; with --icount that counts instructions and nothing is
 * converted.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <x86intrin.h>
#include <upreempt/upreempt.h>

#define MAX_CPUS	64
#define MAX_SERIES	128

struct series {
	const char *name;
	const char *backend;		/* "kmod", "signal", a peer, or "-" */
	const char *unit;		/* "ns", "instructions", "ratio", "%", "count" */
	double *samples;
	size_t n, max, skip;
};

struct bench {
	bool icount, quick;
	double tick_ns;			/* of the time stamp counter */
	int cpu[MAX_CPUS];		/* those to use; cpu[1] -1: there is only one */
	int nr_cpus;
	bool kmod;			/* the module is there */
	struct series series[MAX_SERIES];
	int nr_series;
};

/* main.c */
extern struct bench bench;
/* Time since power-on in ticks; the instructions before it are done */
static inline uint64_t ticks(void)
{
	unsigned int aux;

	return __rdtscp(&aux);
}

/* Ticks to what a series shows */
static inline double shown(double t)
{
	return bench.icount ? t : t * bench.tick_ns;
}

/* Give up with a message when something takes longer than any machine needs */
#define PATIENCE_S 20
void out_of_patience(const char *what) __attribute__((noreturn));
void fail(const char *what, int err) __attribute__((noreturn));
void pin(int cpu);
/*
 * Wait for cond; spins: what it waits for runs on another CPU. The clock is read
 * rarely: emulators lock something for it that the other side wants, too.
 */
#define SPIN_UNTIL(what, cond) do {						\
	uint64_t __end = 0;							\
	unsigned int __turns = 0;						\
										\
	while (!(cond)) {							\
		__asm__ volatile("" : : : "memory");				\
		if (++__turns % 65536)						\
			continue;						\
		if (!__end)							\
			__end = ticks() + (uint64_t)(PATIENCE_S * 1e9 / bench.tick_ns); \
		else if (ticks() > __end)					\
			out_of_patience(what);					\
	}									\
} while (0)

#define WARMUP	20	/* samples at the beginning of a batch that do not count */

/* report.c */
struct series *series_new(const char *name, const char *backend, const char *unit, size_t max);
void series_add(struct series *s, double value);
/* The next n samples are not counted */
void series_skip(struct series *s, size_t n);
double series_percentile(const struct series *s, double p);
void report_table(void);
int report_json(const char *path);

/* merge.c: join the files that report_json() wrote */
int merge(const char *out, char **files, int n);

/* cross.c, single.c, storm.c */
void cross_run(void);
void single_run(void);
void storm_run(void);

/* strategies.c */
void strategies_run(void);

/* stw.c: all of it on two CPUs, or what depends on the number of CPUs */
void stw_run(void);
void stw_run_cpus(void);

#endif
