// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* upreempt-bench: options, the clock, and the order of things. */
#include "bench.h"
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct bench bench = { .tick_ns = 1, .cpu = { -1, -1 } };

static const char usage_text[] =
"usage: upreempt-bench [-o FILE] [--quick]           measure times; a table, and JSON to FILE (- for stdout)\n"
"       upreempt-bench [-o FILE] --icount            count instructions: in a machine with one CPU whose clock\n"
"                                                    counts them (QEMU -icount shift=0)\n"
"       upreempt-bench [-o FILE] [--quick] --cpus    only what stopping one thread on each CPU takes\n"
"       upreempt-bench --merge -o FILE A.json B.json join what -o wrote\n"
"\n"
"examples:\n"
"  upreempt-bench --quick\n"
"  UPREEMPT_BACKEND=signal upreempt-bench -o bench.json\n";

void fail(const char *what, int err)
{
	fprintf(stderr, "upreempt-bench: %s%s%s\n", what, err ? ": " : "", err ? strerror(err) : "");
	exit(1);
}

void out_of_patience(const char *what)
{
	fprintf(stderr, "upreempt-bench: %s took more than %d s\n", what, PATIENCE_S);
	exit(1);
}

void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity", errno);
}

static void find_cpus(void)
{
	cpu_set_t set;
	int n = 0;

	if (sched_getaffinity(0, sizeof(set), &set))
		fail("sched_getaffinity", errno);
	for (int i = 0; i < CPU_SETSIZE && n < MAX_CPUS; i++)
		if (CPU_ISSET(i, &set))
			bench.cpu[n++] = i;
	bench.nr_cpus = n;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void calibrate(void)
{
	uint64_t t0 = ticks(), n0 = now_ns(), n1;

	do {
		n1 = now_ns();
	} while (n1 < n0 + 100000000);
	bench.tick_ns = (double)(n1 - n0) / (ticks() - t0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "icount", no_argument, NULL, 'i' },
		{ "quick", no_argument, NULL, 'q' },
		{ "cpus", no_argument, NULL, 'c' },
		{ "merge", no_argument, NULL, 'm' },
		{ "output", required_argument, NULL, 'o' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct upreempt_info info = { .size = sizeof(info) };
	const char *out = NULL;
	bool merging = false, cpus = false;
	int c, err;

	while ((c = getopt_long(argc, argv, "o:h", options, NULL)) != -1) {
		switch (c) {
		case 'i':
			bench.icount = true;
			break;
		case 'q':
			bench.quick = true;
			break;
		case 'c':
			cpus = true;
			break;
		case 'm':
			merging = true;
			break;
		case 'o':
			out = optarg;
			break;
		case 'h':
			fputs(usage_text, stdout);
			return 0;
		default:
			fputs(usage_text, stderr);
			return 2;
		}
	}
	if (merging) {
		if (!out || optind >= argc) {
			fputs(usage_text, stderr);
			return 2;
		}
		return merge(out, argv + optind, argc - optind) ? 1 : 0;
	}
	if (optind < argc) {
		fprintf(stderr, "upreempt-bench: what is \"%s\"? Try --help.\n", argv[optind]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	find_cpus();
	calibrate();
	err = upreempt_get_info(&info);
	if (err)
		fail("upreempt_get_info", -err);
	bench.kmod = info.kmod_usable;
	printf("upreempt-bench: %s, CPUs: %d, module %s\n", bench.icount ? "counting instructions" :
	       "measuring times", bench.nr_cpus, bench.kmod ? "in use" : "not there");
	pin(bench.cpu[0]);
	if (cpus) {
		stw_run_cpus();
	} else {
		single_run();
		if (bench.icount)
			storm_run();
		else if (bench.cpu[1] >= 0) {
			cross_run();
			strategies_run();
			stw_run();
		}
	}
	report_table();
	if (out && report_json(out))
		fail(out, errno);
	return 0;
}
