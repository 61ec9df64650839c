// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * upreempt stat: live counters of registered threads, read from the module's text:
 * /sys/kernel/debug/upreempt/threads (all of the machine) or the fdinfo of a
 * process's /dev/upreempt files.
 */
#include "cmd.h"
#include "out.h"
#include "sym.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/upreempt.h>

#define DEBUGFS		"/sys/kernel/debug"
#define THREADS_FILE	DEBUGFS "/upreempt/threads"
#define FD_PREFIX	"upreempt-"

static const char usage[] =
	"usage: upreempt stat [-p PID] [-i SECONDS] [-c COUNT] [--json]\n"
	"\n"
	"Shows the registered threads, what they are doing, and how many requests each got\n"
	"since the last line. Without -p: of the whole machine (root). Needs the module; the\n"
	"signal backend keeps its counters inside the program.\n"
	"\n"
	"  -p, --pid PID        only this process (works for one's own processes, too)\n"
	"  -i, --interval S     seconds between two looks (default 1)\n"
	"  -c, --count N        look N times (default: until ^C; once when not on a terminal)\n"
	"      --json           one object for each look, on a line of its own; totals\n"
	"  -h, --help\n"
	"\n"
	"Examples:\n"
	"  sudo upreempt stat                all threads, every second\n"
	"  upreempt stat -p 1234 -i 5 -c 3   one process, three times in 10 seconds\n"
	"  upreempt stat -c 1 --json | jq '.threads[] | select(.held > 0)'\n";

#define MAX_DEFERS 256

struct thread_row {
	int tid, pid;
	unsigned int domain, held, pending;
	char comm[20], state[12];
	unsigned long long requests, sample, stop, redirect;
	unsigned long long landed, cooperated, blocked, unsafe, gone, cancelled;
	unsigned long long ipis, hooks, gated, resumes, deferred;
	char defers[MAX_DEFERS];	/* "RSEQ=3 LANDING=1" */
};

struct domain_row {
	unsigned int id;
	int pid, threads;
	unsigned long long requests, dropped;
};

/* Stops of the world; the slowest thread is that of the last one. */
struct world_row {
	unsigned int id, tid, attempts;
	int pid, stopped;
	unsigned long long stops, ns, late, last_ns, slowest_ns, ip;
	char comm[20], reason[20];
};

struct snapshot {
	struct world_row *worlds;
	size_t nworlds;
	struct thread_row *threads;
	size_t nthreads;
	struct domain_row *domains;
	size_t ndomains;
	uint64_t ns;
};

struct options {
	int pid;
	long long interval, count;
	bool json;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signo)
{
	interrupted = signo;
}

/* ---- parsing ------------------------------------------------------------- */

static void *grow(void *p, size_t n, size_t size)
{
	/* powers of two, so that a growing array is not copied for each row */
	if (n & (n - 1))
		return p;
	p = realloc(p, (n ? 2 * n : 1) * size);
	if (!p) {
		fputs("upreempt stat: out of memory\n", stderr);
		exit(1);
	}
	return p;
}

static void parse_counter(struct thread_row *t, const char *key, const char *value)
{
	static const struct {
		const char *key;
		size_t offset;
	} counters[] = {
#define COUNTER(name) { #name, offsetof(struct thread_row, name) }
		COUNTER(sample), COUNTER(stop), COUNTER(redirect), COUNTER(landed),
		COUNTER(cooperated), COUNTER(blocked), COUNTER(unsafe), COUNTER(gone),
		COUNTER(cancelled), COUNTER(ipis), COUNTER(hooks), COUNTER(gated),
		COUNTER(resumes),
#undef COUNTER
	};
	unsigned long long v = strtoull(value, NULL, 10);
	size_t i, len;

	if (!strncmp(key, "defer.", 6)) {
		len = strlen(t->defers);
		snprintf(t->defers + len, sizeof(t->defers) - len, "%s%s=%llu", len ? " " : "",
			 key + 6, v);
		t->deferred += v;
		return;
	}
	/* what a later module adds is not an error */
	for (i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
		if (!strcmp(key, counters[i].key))
			*(unsigned long long *)((char *)t + counters[i].offset) = v;
}

static void parse_line(struct snapshot *s, char *line)
{
	struct domain_row d = {};
	struct world_row w = {};
	struct thread_row t = {};
	char *word, *save, *eq;

	if (!strncmp(line, FD_PREFIX, strlen(FD_PREFIX)))
		line += strlen(FD_PREFIX);
	if (sscanf(line, "domain %u pid %d threads %d requests %llu dropped %llu", &d.id, &d.pid,
		   &d.threads, &d.requests, &d.dropped) == 5) {
		s->domains = grow(s->domains, s->ndomains, sizeof(d));
		s->domains[s->ndomains++] = d;
		return;
	}
	if (sscanf(line, "world %u pid %d stops %llu ns %llu late %llu stopped %d last_ns %llu "
		   "slowest %u comm %19s slowest_ns %llu attempts %u reason %19s ip %llx", &w.id,
		   &w.pid, &w.stops, &w.ns, &w.late, &w.stopped, &w.last_ns, &w.tid, w.comm,
		   &w.slowest_ns, &w.attempts, w.reason, &w.ip) == 13) {
		s->worlds = grow(s->worlds, s->nworlds, sizeof(w));
		s->worlds[s->nworlds++] = w;
		return;
	}
	if (sscanf(line, "thread %d domain %u pid %d comm %19s state %11s held %u pending %u "
		   "requests %llu", &t.tid, &t.domain, &t.pid, t.comm, t.state, &t.held,
		   &t.pending, &t.requests) != 8)
		return;
	for (word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
		eq = strchr(word, '=');
		if (!eq)
			continue;
		*eq = 0;
		parse_counter(&t, word, eq + 1);
	}
	s->threads = grow(s->threads, s->nthreads, sizeof(t));
	s->threads[s->nthreads++] = t;
}

static bool parse_file(struct snapshot *s, const char *path)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;

	if (!f)
		return false;
	while (getline(&line, &size, f) > 0)
		parse_line(s, line);
	free(line);
	fclose(f);
	return true;
}

static void forget(struct snapshot *s)
{
	free(s->threads);
	free(s->worlds);
	free(s->domains);
	memset(s, 0, sizeof(*s));
}

/* ---- sources ------------------------------------------------------------- */

/* Each /dev/upreempt that the process has open; a domain that is open twice is shown once */
static int take_process(struct snapshot *s, int pid)
{
	char dir[64], path[400], target[64];
	struct dirent *e;
	int found = 0;
	DIR *d;

	snprintf(dir, sizeof(dir), "/proc/%d/fd", pid);
	d = opendir(dir);
	if (!d)
		return -errno;
	while ((e = readdir(d))) {
		struct snapshot one = {};
		bool known = false;
		ssize_t n;
		size_t i;

		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = 0;
		if (strcmp(target, UPREEMPT_DEVICE))
			continue;
		found++;
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, e->d_name);
		if (!parse_file(&one, path))
			continue;
		for (i = 0; one.ndomains && i < s->ndomains; i++)
			known |= s->domains[i].id == one.domains[0].id;
		for (i = 0; !known && i < one.ndomains; i++) {
			s->domains = grow(s->domains, s->ndomains, sizeof(*s->domains));
			s->domains[s->ndomains++] = one.domains[i];
		}
		for (i = 0; !known && i < one.nworlds; i++) {
			s->worlds = grow(s->worlds, s->nworlds, sizeof(*s->worlds));
			s->worlds[s->nworlds++] = one.worlds[i];
		}
		for (i = 0; !known && i < one.nthreads; i++) {
			s->threads = grow(s->threads, s->nthreads, sizeof(*s->threads));
			s->threads[s->nthreads++] = one.threads[i];
		}
		forget(&one);
	}
	closedir(d);
	return found;
}

/* The machine's list; debugfs is mounted where a minimal system has not done it. */
static bool take_machine(struct snapshot *s)
{
	if (parse_file(s, THREADS_FILE))
		return true;
	if (errno != ENOENT || mount("debugfs", DEBUGFS, "debugfs", 0, NULL))
		return false;
	return parse_file(s, THREADS_FILE);
}

static int take(struct snapshot *s, const struct options *o)
{
	int found;

	s->ns = now_ns();
	if (!o->pid) {
		if (take_machine(s))
			return 0;
		fprintf(stderr, "upreempt stat: cannot read %s: %s\n", THREADS_FILE,
			strerror(errno));
		return 1;
	}
	found = take_process(s, o->pid);
	if (found > 0)
		return 0;
	if (found < 0)
		fprintf(stderr, "upreempt stat: cannot look into process %d: %s\n", o->pid,
			strerror(-found));
	else
		fprintf(stderr, "upreempt stat: process %d has no domain of the module open\n",
			o->pid);
	return 1;
}

/* ---- showing ------------------------------------------------------------- */

static const struct thread_row *same_thread(const struct snapshot *s, const struct thread_row *t)
{
	size_t i;

	for (i = 0; i < s->nthreads; i++)
		if (s->threads[i].tid == t->tid && s->threads[i].domain == t->domain)
			return &s->threads[i];
	return NULL;
}

static void show_domains(const struct snapshot *s)
{
	static const struct out_col cols[] = {
		{ "domain", "domain", true }, { "pid", "pid", true }, { "threads", "threads", true },
		{ "requests", "requests", true }, { "dropped", "dropped", true },
	};
	struct out_table *t = out_table("domains", NULL, cols, sizeof(cols) / sizeof(cols[0]));
	size_t i;

	for (i = 0; i < s->ndomains; i++) {
		out_cell_u64(t, s->domains[i].id);
		out_cell_u64(t, s->domains[i].pid);
		out_cell_u64(t, s->domains[i].threads);
		out_cell_u64(t, s->domains[i].requests);
		out_cell_u64(t, s->domains[i].dropped);
	}
	out_table_end(t);
}

static const struct world_row *same_world(const struct snapshot *s, unsigned int id)
{
	size_t i;

	for (i = 0; i < s->nworlds; i++)
		if (s->worlds[i].id == id)
			return &s->worlds[i];
	return NULL;
}

/* In text only where somebody has stopped the world. */
static void show_worlds(const struct snapshot *s, const struct snapshot *before, bool json)
{
	static const struct out_col cols[] = {
		{ "domain", "domain", true }, { "pid", "pid", true }, { "stops", "stops", true },
		{ "per_s", "per s", true }, { "held_ns", "held µs", true },
		{ "late", "late", true }, { "stopped", "now", true },
		{ "last_ns", "last stop µs", true }, { "slowest_ns", "slowest µs", true },
		{ "tid", "tid", true }, { "comm", "name", false }, { "place", "at", false },
		{ "reason", "because of", false },
	};
	double seconds = before->ns ? (s->ns - before->ns) / 1e9 : 0;
	struct out_table *t;
	char place[96];
	size_t i;

	if (!json && !s->nworlds)
		return;
	t = out_table("worlds", json ? NULL : "Stops of the world, and who stood last in the last one",
		      cols, sizeof(cols) / sizeof(cols[0]));
	for (i = 0; i < s->nworlds; i++) {
		const struct world_row *w = &s->worlds[i], *old = same_world(before, w->id);

		out_cell_u64(t, w->id);
		out_cell_u64(t, w->pid);
		out_cell_u64(t, w->stops);
		if (old && seconds > 0)
			out_cell(t, "%.0f", (w->stops - old->stops) / seconds);
		else
			out_cell_none(t);
		out_cell_ns(t, w->ns);
		out_cell_u64(t, w->late);
		out_cell(t, "%s", w->stopped ? "stopped" : "runs");
		out_cell_ns(t, w->last_ns);
		if (w->tid) {
			sym_name_of(w->pid, w->ip, place, sizeof(place));
			out_cell_ns(t, w->slowest_ns);
			out_cell_u64(t, w->tid);
			out_cell(t, "%s", w->comm);
			out_cell(t, "%s", place);
			out_cell(t, "%s", w->reason);
		} else {
			out_cell_none(t);
			out_cell_none(t);
			out_cell_none(t);
			out_cell_none(t);
			out_cell_none(t);
		}
	}
	out_table_end(t);
	sym_close();
}

static void show_text(const struct snapshot *s, const struct snapshot *before)
{
	static const struct out_col cols[] = {
		{ "c", "pid", true }, { "c", "tid", true }, { "c", "name", false },
		{ "c", "state", false }, { "c", "held", true }, { "c", "requests", true },
		{ "c", "per s", true }, { "c", "landed", true }, { "c", "blocked", true },
		{ "c", "unsafe", true }, { "c", "IPIs", true }, { "c", "hooks", true },
		{ "c", "gated", true }, { "c", "deferred by", false },
	};
	struct out_table *t = out_table(NULL, NULL, cols, sizeof(cols) / sizeof(cols[0]));
	double seconds = before->ns ? (s->ns - before->ns) / 1e9 : 0;
	size_t i;

	for (i = 0; i < s->nthreads; i++) {
		const struct thread_row *r = &s->threads[i], *old = same_thread(before, r);

		out_cell_u64(t, r->pid);
		out_cell_u64(t, r->tid);
		out_cell(t, "%s", r->comm);
		out_cell(t, "%s", r->state);
		out_cell_u64(t, r->held);
		out_cell_u64(t, r->requests);
		if (old && seconds > 0)
			out_cell(t, "%.0f", (r->requests - old->requests) / seconds);
		else
			out_cell_none(t);
		out_cell_u64(t, r->landed);
		out_cell_u64(t, r->blocked);
		out_cell_u64(t, r->unsafe);
		out_cell_u64(t, r->ipis);
		out_cell_u64(t, r->hooks);
		out_cell_u64(t, r->gated);
		out_cell(t, "%s", r->defers);
	}
	out_table_end(t);
}

/* {"RSEQ": 3, ...} from "RSEQ=3 ..." */
static void defers_json(const char *defers, char *json, size_t size)
{
	char copy[MAX_DEFERS], *word, *save;
	size_t len = 1;

	snprintf(copy, sizeof(copy), "%s", defers);
	snprintf(json, size, "{");
	for (word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		char *eq = strchr(word, '=');

		if (!eq || len + 40 > size)
			break;
		*eq = 0;
		len += snprintf(json + len, size - len, "%s\"%s\": %s", len > 1 ? ", " : "", word,
				eq + 1);
	}
	snprintf(json + len, size - len, "}");
}

static void show_json(const struct snapshot *s)
{
	static const struct out_col cols[] = {
		{ "pid", "", true }, { "tid", "", true }, { "domain", "", true },
		{ "comm", "", false }, { "state", "", false },
		{ "held", "", true }, { "pending", "", true }, { "requests", "", true },
		{ "outcomes", "", false }, { "kinds", "", false },
		{ "ipis", "", true }, { "hooks", "", true }, { "gated", "", true },
		{ "resumes", "", true }, { "deferrals", "", false },
	};
	struct out_table *t = out_table("threads", NULL, cols, sizeof(cols) / sizeof(cols[0]));
	char json[512];
	size_t i;

	for (i = 0; i < s->nthreads; i++) {
		const struct thread_row *r = &s->threads[i];

		out_cell_u64(t, r->pid);
		out_cell_u64(t, r->tid);
		out_cell_u64(t, r->domain);
		out_cell(t, "%s", r->comm);
		out_cell(t, "%s", r->state);
		out_cell_u64(t, r->held);
		out_cell_u64(t, r->pending);
		out_cell_u64(t, r->requests);
		snprintf(json, sizeof(json), "{\"LANDED\": %llu, \"COOPERATED\": %llu, "
			 "\"BLOCKED\": %llu, \"UNSAFE\": %llu, \"GONE\": %llu, \"CANCELLED\": %llu}",
			 r->landed, r->cooperated, r->blocked, r->unsafe, r->gone, r->cancelled);
		out_cell_json(t, json);
		snprintf(json, sizeof(json), "{\"SAMPLE\": %llu, \"STOP\": %llu, \"REDIRECT\": %llu}",
			 r->sample, r->stop, r->redirect);
		out_cell_json(t, json);
		out_cell_u64(t, r->ipis);
		out_cell_u64(t, r->hooks);
		out_cell_u64(t, r->gated);
		out_cell_u64(t, r->resumes);
		defers_json(r->defers, json, sizeof(json));
		out_cell_json(t, json);
	}
	out_table_end(t);
}

static void show(const struct snapshot *s, const struct snapshot *before, const struct options *o,
		 bool live)
{
	if (live)
		fputs("\033[H\033[J", stdout);
	out_start(o->json, true);
	if (o->json) {
		out_u64("ns", NULL, s->ns);
		show_domains(s);
		show_worlds(s, before, true);
		show_json(s);
	} else if (!s->nthreads) {
		out_note(NULL, "No thread is registered (%zu domain%s open).", s->ndomains,
			 s->ndomains == 1 ? " is" : "s are");
	} else {
		show_worlds(s, before, false);
		show_text(s, before);
	}
	out_finish();
}

/* ---- the command --------------------------------------------------------- */

int cmd_stat(int argc, char **argv)
{
	struct options o = { .interval = 1 };
	const struct cmd_option options[] = {
		{ "pid", 'p', .process = &o.pid },
		{ "interval", 'i', .number = &o.interval, .lo = 1, .hi = 86400,
		  .takes = "seconds, 1 to 86400" },
		{ "count", 'c', .number = &o.count, .lo = 1, .hi = 1000000000,
		  .takes = "a number from 1" },
		{ "json", .flag = &o.json },
		{}
	};
	struct sigaction sa = { .sa_handler = on_interrupt };
	struct snapshot now = {}, before = {};
	bool live;
	int ret;

	ret = parse_options(argc, argv, usage, options, NULL);
	if (ret >= 0)
		return ret;
	if (!module_loaded()) {
		fputs("upreempt stat: the module is not loaded, so no thread is registered with it "
		      "(insmod upreempt.ko)\n", stderr);
		return 1;
	}
	if (!o.pid && geteuid()) {
		fputs("upreempt stat: the list of the whole machine is for root; use sudo, or -p PID "
		      "for a process of yours\n", stderr);
		return 1;
	}
	live = !o.json && isatty(STDOUT_FILENO) && o.count != 1;
	if (!o.count && !isatty(STDOUT_FILENO))
		o.count = 1;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	do {
		struct timespec nap = { .tv_sec = o.interval };

		if (before.ns)
			nanosleep(&nap, NULL);
		if (interrupted)
			break;
		ret = take(&now, &o);
		if (ret)
			break;
		show(&now, &before, &o, live);
		forget(&before);
		before = now;
		memset(&now, 0, sizeof(now));
	} while (!interrupted && (!o.count || --o.count));
	forget(&before);
	return ret;
}
