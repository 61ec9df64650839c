/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* The module's tracepoints, in an instance of tracefs that is a test's own. */
#ifndef SELFTESTS_RAW_TRACE_H
#define SELFTESTS_RAW_TRACE_H

#include <sys/stat.h>

#include "raw.h"

#define RAW_TRACEFS	"/sys/kernel/tracing"

struct raw_trace {
	char dir[96];
};

RAW_FN int raw_trace_write(const struct raw_trace *t, const char *file, const char *text)
{
	char path[200];
	int fd, ret = 0;

	snprintf(path, sizeof(path), "%s/%s", t->dir, file);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		ret = -errno;
	close(fd);
	return ret;
}

/* Makes the instance; all events of the module are on. */
RAW_FN int raw_trace_begin(struct raw_trace *t, const char *name)
{
	int ret;

	snprintf(t->dir, sizeof(t->dir), RAW_TRACEFS "/instances/%s", name);
	rmdir(t->dir);			/* of a test that was killed */
	if (mkdir(t->dir, 0700))
		return -errno;
	ret = raw_trace_write(t, "tracing_on", "1");
	return ret ? ret : raw_trace_write(t, "events/upreempt/enable", "1");
}

RAW_FN int raw_trace_end(struct raw_trace *t)
{
	raw_trace_write(t, "events/upreempt/enable", "0");
	return rmdir(t->dir) ? -errno : 0;
}

/*
 * Calls fn with what stands behind "<event>: " of each record, or of the records that this
 * thread (0: any) wrote. Returns how many there were for which fn (NULL: none asked) says true.
 */
RAW_FN int raw_trace_each(const struct raw_trace *t, const char *event, int tid,
			  bool (*fn)(const char *fields, void *arg), void *arg)
{
	char path[200], line[1024], by[32], name[64];
	int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/trace", t->dir);
	snprintf(by, sizeof(by), "-%d ", tid);
	snprintf(name, sizeof(name), ": %s: ", event);
	f = fopen(path, "r");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		char *fields = line[0] == '#' ? NULL : strstr(line, name);

		if (!fields)
			continue;
		*fields = 0;
		fields += strlen(name);
		if ((!tid || strstr(line, by)) && (!fn || fn(fields, arg)))
			n++;
	}
	fclose(f);
	return n;
}

#endif /* SELFTESTS_RAW_TRACE_H */
