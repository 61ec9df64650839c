/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* What the subcommands share. Each returns an exit status: 0, 1 failed, 2 wrong use. */
#ifndef CMD_H
#define CMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>

#define EXIT_USAGE 2

int cmd_info(int argc, char **argv);
int cmd_demo(int argc, char **argv);
int cmd_latency(int argc, char **argv);
int cmd_stat(int argc, char **argv);

/* "upreempt CMD: ...; see 'upreempt CMD --help'" on the standard error; returns EXIT_USAGE */
int wrong_use(const char *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * One option of a subcommand: "--name VALUE", and "-l VALUE" where there is a letter.
 * One of the four pointers says what it takes and where it goes.
 */
struct cmd_option {
	const char *name;
	char letter;
	bool *flag;			/* takes nothing */
	const char **text;
	pid_t *process;			/* one that exists */
	long long *number;		/* between lo and hi */
	long long lo, hi;
	const char *takes;		/* "seconds, 1 to 60" */
};

/*
 * Fill in what the table up to {} names; -h, --help prints the usage. The arguments that
 * follow go to *rest, NULL when there are none; rest NULL: there may be none.
 * argv[0] is the subcommand. Returns -1: go on; else the exit status.
 */
int parse_options(int argc, char **argv, const char *usage, const struct cmd_option *options,
		  char ***rest);

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
