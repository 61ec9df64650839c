// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Samples to percentiles, a table for people and JSON for programs. */
#include "bench.h"
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

struct series *series_new(const char *name, const char *backend, const char *unit, size_t max)
{
	struct series *s;

	if (bench.nr_series == MAX_SERIES)
		fail("too many series", 0);
	s = &bench.series[bench.nr_series++];
	s->name = name;
	s->backend = backend;
	s->unit = unit ? unit : bench.icount ? "instructions" : "ns";
	s->samples = calloc(max, sizeof(*s->samples));
	s->max = max;
	if (!s->samples)
		fail("memory", 0);
	return s;
}

void series_skip(struct series *s, size_t n)
{
	if (s)
		s->skip = n;
}

void series_add(struct series *s, double value)
{
	if (s->skip) {
		s->skip--;
		return;
	}
	if (s->n < s->max)
		s->samples[s->n++] = value;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The smallest sample that p of all do not exceed; sorts */
double series_percentile(const struct series *s, double p)
{
	size_t i = (size_t)(p * s->n + 0.999999);

	if (!s->n)
		return 0;
	qsort(s->samples, s->n, sizeof(*s->samples), by_value);
	return s->samples[i ? i - 1 : 0];
}

static const struct series *find(const char *name, const char *backend)
{
	for (int i = 0; i < bench.nr_series; i++)
		if (!strcmp(bench.series[i].name, name) &&
		    !strcmp(bench.series[i].backend, backend) && bench.series[i].n)
			return &bench.series[i];
	return NULL;
}

/* p50 of a, or what it is against p50 of b */
static bool figure(const char *a, const char *ab, const char *b, const char *bb, double *value)
{
	const struct series *x = find(a, ab), *y = b ? find(b, bb) : NULL;

	if (!x || (b && !y))
		return false;
	*value = series_percentile(x, 0.5) / (y ? series_percentile(y, 0.5) : 1);
	return true;
}

/* a is a ratio when b is NULL */
static void goal(const char *text, const char *a, const char *ab, const char *b, const char *bb,
		 double limit)
{
	double ratio;

	if (figure(a, ab, b, bb, &ratio))
		printf("  %-58s %7.2f x   (goal: at most %.2f) %s\n", text, ratio, limit,
		       ratio <= limit ? "met" : "NOT MET");
}

/* The same where more is better; percent when b is NULL */
static void goal_least(const char *text, const char *a, const char *ab, const char *b,
		       const char *bb, double limit)
{
	double value;

	if (figure(a, ab, b, bb, &value))
		printf("  %-58s %7.2f %s   (goal: at least %.4g) %s\n", text, value,
		       b ? "x" : "%", limit, value >= limit ? "met" : "NOT MET");
}

static void goals_of_worlds(void)
{
	goal("kmod stw_1_spinning against stw_null_ipi", "stw_1_spinning", "kmod", "stw_null_ipi",
	     "-", 2);
	goal_least("signal_stop against kmod, stw_1_spinning", "stw_1_spinning", "signal_stop",
		   "stw_1_spinning", "kmod", 5);
	goal_least("signal_stop against kmod, stw_2_spinning", "stw_2_spinning", "signal_stop",
		   "stw_2_spinning", "kmod", 5);
	goal_least("signal_stop against kmod, stw_2_spinning_3cpus", "stw_2_spinning_3cpus",
		   "signal_stop", "stw_2_spinning_3cpus", "kmod", 5);
	goal_least("go against kmod, stw_1_spinning", "stw_1_spinning", "go", "stw_1_spinning",
		   "kmod", 30);
	goal_least("go against kmod, stw_2_spinning", "stw_2_spinning", "go", "stw_2_spinning",
		   "kmod", 30);
	goal_least("go against kmod, stw_2_spinning_3cpus", "stw_2_spinning_3cpus", "go",
		   "stw_2_spinning_3cpus", "kmod", 30);
	goal("stw_blocked_10000 against stw_blocked_10", "stw_blocked_10000", "kmod",
	     "stw_blocked_10", "kmod", 1.2);
	goal_least("polling threads that come by themselves", "coop_share", "kmod", NULL, NULL,
		   99.9);
	goal_least("speed while 100 threads ask", "requesters_100_speed", "kmod", NULL, NULL, 95);
}

static void number(double v, const char *unit)
{
	if (!strcmp(unit, "ratio"))
		printf(" %11.4f", v);
	else if (v < 100)
		printf(" %11.2f", v);
	else
		printf(" %11.0f", v);
}

void report_table(void)
{
	printf("\n  %-28s %-7s %11s %11s %11s  %-12s %7s\n", "", "backend", "p50", "p99", "p99.9",
	       "unit", "n");
	for (int i = 0; i < bench.nr_series; i++) {
		const struct series *s = &bench.series[i];

		if (!s->n)
			continue;
		printf("  %-28s %-7s", s->name, s->backend);
		number(series_percentile(s, 0.5), s->unit);
		number(series_percentile(s, 0.99), s->unit);
		number(series_percentile(s, 0.999), s->unit);
		printf("  %-12s %7zu\n", s->unit, s->n);
	}
	printf("\n");
	goal("kmod request_roundtrip against null_ipi", "request_roundtrip", "kmod", "null_ipi", "-",
	     1.5);
	goal("kmod request_roundtrip against tgkill_roundtrip", "request_roundtrip", "kmod",
	     "tgkill_roundtrip", "-", 0.25);
	goal("kmod self_request against raise", "self_request", "kmod", "raise_roundtrip", "-", 1);
	goal("context switch, registered against unregistered", "idle_tax_switch_ratio", "kmod",
	     NULL, NULL, 1.03);
	goal("null system call, registered against unregistered", "idle_tax_null_syscall_ratio",
	     "kmod", NULL, NULL, 1.03);
	goal("context switch beside a registered thread", "idle_tax_bystander_ratio", "kmod", NULL,
	     NULL, 1.03);
	goal("restarted sequences against safe code", "strategy_restart", "kmod", "strategy_none",
	     "kmod", 3);
	goal("single steps against safe code, 1 instruction in 200", "strategy_step", "kmod",
	     "strategy_none", "kmod", 3);
	goals_of_worlds();
	printf("\n");
}

/* ---- JSON ----------------------------------------------------------------- */

static void string(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			fprintf(f, "\\%c", *s);
		else if ((unsigned char)*s < 32)
			fputc(' ', f);
		else
			fputc(*s, f);
	}
	fputc('"', f);
}

static void cpu_model(char *buf, size_t size)
{
	char line[256];
	FILE *f = fopen("/proc/cpuinfo", "re");

	snprintf(buf, size, "unknown");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
			snprintf(buf, size, "%.*s", (int)size - 1, strchr(line, ':') + 2);
			buf[strcspn(buf, "\n")] = 0;
			break;
		}
	if (f)
		fclose(f);
}

static void environment(FILE *f)
{
	struct upreempt_info info = { .size = sizeof(info) };
	time_t now = time(NULL);
	struct utsname u;
	char cpu[128], date[32];

	uname(&u);
	cpu_model(cpu, sizeof(cpu));
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
	upreempt_get_info(&info);
	fprintf(f, "{\"version\": \"%s\", \"date\": \"%s\", \"mode\": \"%s\", \"quick\": %s, ",
		UPREEMPT_VERSION, date, bench.icount ? "icount" : "time",
		bench.quick ? "true" : "false");
	fprintf(f, "\"kernel\": ");
	string(f, u.release);
	fprintf(f, ", \"cpu\": ");
	string(f, cpu);
	fprintf(f, ", \"cpus\": %ld, \"tick_ns\": %.6f, \"module\": %s, \"features\": %llu, "
		"\"xsave_bytes\": %u}", sysconf(_SC_NPROCESSORS_ONLN), bench.tick_ns,
		bench.kmod ? "true" : "false", (unsigned long long)info.kmod_features,
		info.xsave_size);
}

/* One line for each result: merge.c relies on it */
int report_json(const char *path)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "we") : stdout;
	const char *comma = "";
	int err;

	if (!f)
		return -1;
	fprintf(f, "{\n\"environment\":\n");
	environment(f);
	fprintf(f, ",\n\"results\": [");
	for (int i = 0; i < bench.nr_series; i++) {
		const struct series *s = &bench.series[i];

		if (!s->n)
			continue;
		fprintf(f, "%s\n{\"name\": \"%s\", \"backend\": \"%s\", \"unit\": \"%s\", \"n\": %zu, "
			"\"p50\": %.4f, \"p99\": %.4f, \"p999\": %.4f}", comma, s->name, s->backend,
			s->unit, s->n, series_percentile(s, 0.5), series_percentile(s, 0.99),
			series_percentile(s, 0.999));
		comma = ",";
	}
	fprintf(f, "\n]\n}\n");
	err = ferror(f);
	if (f != stdout)
		err |= fclose(f);
	return err ? -1 : 0;
}
