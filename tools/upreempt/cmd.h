/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* What the subcommands share. Each returns an exit status: 0, 1 failed, 2 wrong use. */
#ifndef CMD_H
#define CMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define EXIT_USAGE 2

int cmd_info(int argc, char **argv);
int cmd_demo(int argc, char **argv);
int cmd_latency(int argc, char **argv);
int cmd_stat(int argc, char **argv);

/* "upreempt CMD: ...; see 'upreempt CMD --help'" on the standard error; returns EXIT_USAGE */
int wrong_use(const char *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What getopt_long() with ":" in front and opterr 0 complained of */
int wrong_option(const char *cmd, int result, char **argv);
/* A whole number between lo and hi, else false */
bool parse_number(const char *s, long long lo, long long hi, long long *v);

/* The first line of a small file without its newline; false when it cannot be read */
bool read_line(const char *path, char *buf, size_t size);
bool module_loaded(void);

/* The name of the hypervisor from CPUID, "" on bare metal */
void machine_hypervisor(char *name, size_t size);

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

#endif
