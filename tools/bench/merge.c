// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Several runs become one file: the environment of the first, with those of the
 * others under "also", and all results. Reads only what report_json() writes, and
 * refuses anything else.
 */
#include "bench.h"
#include <stdlib.h>
#include <string.h>

struct run {
	char *environment;		/* one line, braces included */
	char **results;			/* one line each, without commas */
	int n;
};

static bool next_line(FILE *f, char **line, size_t *size)
{
	ssize_t n = getline(line, size, f);

	if (n > 0 && (*line)[n - 1] == '\n')
		(*line)[n - 1] = 0;
	return n >= 0;
}

static void without_comma(char *s)
{
	size_t n = strlen(s);

	if (n && s[n - 1] == ',')
		s[n - 1] = 0;
}

static bool is_object(const char *s)
{
	size_t n = strlen(s);

	return n > 1 && s[0] == '{' && s[n - 1] == '}';
}

static int read_run(const char *path, struct run *run)
{
	FILE *f = fopen(path, "re");
	size_t size = 0;
	char *line = NULL;
	int ret = -1;

	if (!f) {
		fprintf(stderr, "upreempt-bench: %s: cannot be read\n", path);
		return -1;
	}
	if (!next_line(f, &line, &size) || strcmp(line, "{") || !next_line(f, &line, &size) ||
	    strcmp(line, "\"environment\":") || !next_line(f, &line, &size))
		goto close_file;
	without_comma(line);
	if (!is_object(line))
		goto close_file;
	run->environment = strdup(line);
	if (!next_line(f, &line, &size) || strcmp(line, "\"results\": ["))
		goto close_file;
	while (next_line(f, &line, &size) && strcmp(line, "]")) {
		without_comma(line);
		if (!is_object(line))
			goto close_file;
		run->results = realloc(run->results, (run->n + 1) * sizeof(char *));
		if (!run->results)
			goto close_file;
		run->results[run->n++] = strdup(line);
	}
	if (next_line(f, &line, &size) && !strcmp(line, "}"))
		ret = 0;
close_file:
	if (ret)
		fprintf(stderr, "upreempt-bench: %s: not a file of upreempt-bench -o\n", path);
	free(line);
	fclose(f);
	return ret;
}

int merge(const char *out, char **files, int n)
{
	struct run *runs = calloc(n, sizeof(*runs));
	const char *comma = "";
	FILE *f;
	int err;

	if (!runs)
		return -1;
	for (int i = 0; i < n; i++)
		if (read_run(files[i], &runs[i]))
			return -1;
	f = strcmp(out, "-") ? fopen(out, "we") : stdout;
	if (!f) {
		fprintf(stderr, "upreempt-bench: %s: cannot be written\n", out);
		return -1;
	}
	/* the first environment without its closing brace, then the others */
	fprintf(f, "{\n\"environment\":\n%.*s", (int)strlen(runs[0].environment) - 1,
		runs[0].environment);
	for (int i = 1; i < n; i++)
		fprintf(f, "%s%s%s", i == 1 ? ", \"also\": [" : ", ", runs[i].environment,
			i == n - 1 ? "]" : "");
	fprintf(f, "},\n\"results\": [");
	for (int i = 0; i < n; i++)
		for (int k = 0; k < runs[i].n; k++) {
			fprintf(f, "%s\n%s", comma, runs[i].results[k]);
			comma = ",";
		}
	fprintf(f, "\n]\n}\n");
	err = ferror(f);
	if (f != stdout)
		err |= fclose(f);
	return err ? -1 : 0;
}
