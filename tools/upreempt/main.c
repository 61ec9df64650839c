// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* upreempt: one command, its subcommands in one table. */
#include "cmd.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <upreempt/upreempt.h>

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *brief;
} commands[] = {
	{ "info",	cmd_info,	"what this machine offers, and which backend is chosen and why" },
	{ "demo",	cmd_demo,	"stop, inspect, redirect and resume threads in call-free loops" },
	{ "latency",	cmd_latency,	"where the time of requests goes, stage by stage (BPF, root)" },
	{ "stat",	cmd_stat,	"live counters of registered threads" },
};

#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

int wrong_use(const char *cmd, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "upreempt%s%s: ", cmd ? " " : "", cmd ?: "");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; see 'upreempt %s%s--help'\n", cmd ?: "", cmd ? " " : "");
	return EXIT_USAGE;
}

bool read_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	bool ok;

	if (!f)
		return false;
	ok = fgets(buf, size, f) != NULL;
	fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = 0;
	return ok;
}

bool module_loaded(void)
{
	return !access("/sys/module/upreempt", F_OK);
}

static void help(void)
{
	size_t i;

	puts("usage: upreempt COMMAND [options]\n\n"
	     "Stop, inspect, redirect and resume the threads of a program at any instruction.\n");
	for (i = 0; i < NR_COMMANDS; i++)
		printf("  %-9s %s\n", commands[i].name, commands[i].brief);
	puts("\nEvery command takes --json and --help.\n\n"
	     "Examples:\n"
	     "  upreempt info                    which backend would a program get here?\n"
	     "  upreempt demo                    see it work, with times beside signals\n"
	     "  upreempt latency -p 1234 -d 5    five seconds of a running program's requests\n"
	     "  upreempt stat -p 1234            its threads, once a second");
}

static const struct command *find(const char *name)
{
	size_t i;

	for (i = 0; i < NR_COMMANDS; i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const struct command *cmd;
	char **args;
	int i;

	if (argc < 2)
		return wrong_use(NULL, "say which command: info, demo, latency or stat");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		help();
		return 0;
	}
	if (!strcmp(argv[1], "--version")) {
		printf("upreempt %s\n", UPREEMPT_VERSION);
		return 0;
	}
	/* "upreempt --json info" means "upreempt info --json" */
	args = calloc(argc + 1, sizeof(*args));
	if (!args)
		return 1;
	for (i = 1; i < argc; i++)
		args[i - 1] = argv[i];
	if (argc > 2 && !strcmp(argv[1], "--json")) {
		args[0] = argv[2];
		args[1] = argv[1];
	}
	cmd = find(args[0]);
	if (!cmd)
		return wrong_use(NULL, "there is no command '%s', use info, demo, latency or stat",
				 args[0]);
	opterr = 0;
	i = cmd->run(argc - 1, args);
	free(args);
	return i;
}
