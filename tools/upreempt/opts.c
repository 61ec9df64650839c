// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* The options of a subcommand, from its table: one answer to one kind of wrong use. */
#include "cmd.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTIONS	16
#define BY_NAME		256	/* getopt's value for options[i] is BY_NAME + i */
#define MAX_PID		(1 << 22)

/* What getopt_long() with ":" in front and opterr 0 complained of */
static int wrong_option(const char *cmd, int result, char **argv)
{
	const char *given = argv[optind - 1];

	if (result == ':')
		return wrong_use(cmd, "option '%s' needs a value", given);
	/* optopt is the letter inside a cluster, 0 or the option's value for a long one */
	if (optopt && strncmp(given, "--", 2))
		return wrong_use(cmd, "unknown option '-%c'", optopt);
	if (optopt)
		return wrong_use(cmd, "option '%s' takes no value", given);
	return wrong_use(cmd, "unknown option '%s'", given);
}

static bool parse_number(const char *s, long long lo, long long hi, long long *v)
{
	char *end;

	errno = 0;
	*v = strtoll(s, &end, 10);
	return !errno && end != s && !*end && *v >= lo && *v <= hi;
}

/* optarg to where the option wants it; false: it takes no such thing */
static bool take(const struct cmd_option *o)
{
	long long n;

	if (o->flag)
		*o->flag = true;
	else if (o->text)
		*o->text = optarg;
	else if (o->number)
		return parse_number(optarg, o->lo, o->hi, o->number);
	else if (!parse_number(optarg, 1, MAX_PID, &n))
		return false;
	else
		*o->process = n;
	return true;
}

static const struct cmd_option *find(const struct cmd_option *options, int c)
{
	const struct cmd_option *o;

	if (c >= BY_NAME)
		return options + (c - BY_NAME);
	for (o = options; o->name; o++)
		if (o->letter == c)
			return o;
	return NULL;
}

/* The table as getopt_long() wants it */
static void for_getopt(const struct cmd_option *options, struct option *longs, char *shorts)
{
	int i;

	shorts = stpcpy(shorts, "+:h");
	for (i = 0; i < MAX_OPTIONS && options[i].name; i++) {
		longs[i] = (struct option){ options[i].name, !options[i].flag, NULL, BY_NAME + i };
		if (!options[i].letter)
			continue;
		*shorts++ = options[i].letter;
		if (!options[i].flag)
			*shorts++ = ':';
	}
	longs[i] = (struct option){ "help", no_argument, NULL, 'h' };
	*shorts = 0;
}

int parse_options(int argc, char **argv, const char *usage, const struct cmd_option *options,
		  char ***rest)
{
	struct option longs[MAX_OPTIONS + 2] = {};
	char shorts[2 * MAX_OPTIONS + 4];
	const struct cmd_option *o;
	bool by_process = false;
	int c;

	for_getopt(options, longs, shorts);
	while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		if (c == 'h') {
			fputs(usage, stdout);
			return 0;
		}
		o = find(options, c);
		if (!o)
			return wrong_option(argv[0], c, argv);
		if (!take(o))
			return wrong_use(argv[0], "--%s takes %s, not '%s'", o->name,
					 o->process ? "a process id" : o->takes, optarg);
	}
	for (o = options; o->name; o++) {
		by_process |= !!o->process;
		if (o->process && *o->process && kill(*o->process, 0) && errno == ESRCH)
			return wrong_use(argv[0], "there is no process %d", *o->process);
	}
	if (rest)
		*rest = optind < argc ? argv + optind : NULL;
	else if (optind < argc)
		return wrong_use(argv[0], "it takes no argument, not '%s'%s", argv[optind],
				 by_process ? " (-p for a process)" : "");
	return -1;
}
