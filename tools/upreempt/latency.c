// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* upreempt latency: attach the probes, wait, print the histograms. */
#include "cmd.h"
#include "histview.h"
#include "out.h"
#include "probes.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <upreempt/upreempt.h>

static const char usage[] =
	"usage: upreempt latency [-p PID] [-d SECONDS] [options] [-- COMMAND ARGS...]\n"
	"\n"
	"Measures with BPF how long each stage of a request takes: request, IPI, hook,\n"
	"landing, resume; and signal_generate to signal_deliver for programs that use\n"
	"signals. Ends after -d seconds, with the process or command, or at ^C. Root.\n"
	"\n"
	"  -p, --pid PID        only this process\n"
	"  -d, --duration S     stop after S seconds\n"
	"  -s, --signal N       the signal to follow (default: the library's; 0: every one)\n"
	"  -P, --pin DIR        pin the maps in DIR, to be read with bpftool; they stay there\n"
	"  -t, --table          the table only, no bars\n"
	"      --json           machine-readable, with all buckets\n"
	"  -h, --help\n"
	"\n"
	"Examples:\n"
	"  upreempt latency -d 5                        everything on this machine, 5 seconds\n"
	"  upreempt latency -- ./my-program             one program, from its start to its end\n"
	"  upreempt latency -p 1234 --signal 23 -d 10   signal 23 in process 1234\n"
	"  upreempt latency -P /sys/fs/bpf/up -d 60 &   and then:\n"
	"      bpftool map dump pinned /sys/fs/bpf/up/upreempt_latency\n";

struct options {
	pid_t pid;
	long long duration, signo;
	const char *pin;
	bool table_only, json;
	char **command;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signo)
{
	interrupted = signo;
}

/* -1: go on; else the exit status */
static int parse(int argc, char **argv, struct options *o)
{
	const struct cmd_option options[] = {
		{ "pid", 'p', .process = &o->pid },
		{ "duration", 'd', .number = &o->duration, .lo = 1, .hi = 1000000,
		  .takes = "seconds, 1 to 1000000" },
		{ "signal", 's', .number = &o->signo, .lo = 0, .hi = 64,
		  .takes = "a number, 0 to 64" },
		{ "pin", 'P', .text = &o->pin },
		{ "table", 't', .flag = &o->table_only },
		{ "json", .flag = &o->json },
		{}
	};
	int ret = parse_options(argc, argv, usage, options, &o->command);

	if (ret >= 0)
		return ret;
	if (o->command && o->pid)
		return wrong_use("latency", "give -p PID or a command, not both");
	return -1;
}

/* ---- the command --------------------------------------------------------- */

struct child {
	pid_t pid;
	int go;		/* a byte lets it become the command */
	int execed;	/* then says errno when it could not, or ends */
};

static void child_main(char **command, bool quiet, int go, int execed)
{
	char c;
	int err;

	/* without the byte the parent has given up */
	if (read(go, &c, 1) != 1)
		_exit(0);
	if (quiet)
		dup2(STDERR_FILENO, STDOUT_FILENO);
	execvp(command[0], command);
	err = errno;
	if (write(execed, &err, sizeof(err)) < 0)
		_exit(126);
	_exit(127);
}

/* 0 or -1; the command does not run yet, so that the probes can be there before it */
static int child_spawn(struct child *child, char **command, bool quiet)
{
	int go[2], execed[2];

	if (pipe2(go, O_CLOEXEC) || pipe2(execed, O_CLOEXEC))
		return -1;
	child->pid = fork();
	if (!child->pid) {
		close(go[1]);
		close(execed[0]);
		child_main(command, quiet, go[0], execed[1]);
	}
	close(go[0]);
	close(execed[1]);
	child->go = go[1];
	child->execed = execed[0];
	return child->pid < 0 ? -1 : 0;
}

/* Returns when it is the command (its mappings are its own): 0, or the errno of exec */
static int child_go(struct child *child)
{
	int err = 0;

	signal(SIGPIPE, SIG_IGN);
	if (write(child->go, "", 1) != 1 || read(child->execed, &err, sizeof(err)) < 0)
		err = errno;
	close(child->go);
	close(child->execed);
	return err;
}

static void child_end(struct child *child)
{
	if (!kill(child->pid, SIGTERM))
		waitpid(child->pid, NULL, 0);
}

/* ---- printing ------------------------------------------------------------ */

static const char *kind_cell(const struct latency_key *k)
{
	return k->kind ? upreempt_kind_name(k->kind) : "-";
}

static const char *outcome_cell(const struct latency_key *k)
{
	return k->outcome ? upreempt_outcome_name(k->outcome) : "-";
}

/* [[lowest_ns, count], ...] of the buckets that are not empty */
static char *buckets_json(const struct hist *h)
{
	char *s = NULL;
	size_t size, i;
	FILE *f = open_memstream(&s, &size);
	bool first = true;

	if (!f)
		return NULL;
	fputc('[', f);
	for (i = 0; i < HIST_BUCKETS; i++) {
		if (!h->buckets[i])
			continue;
		fprintf(f, "%s[%llu, %llu]", first ? "" : ", ", hist_low(i), h->buckets[i]);
		first = false;
	}
	fputc(']', f);
	return fclose(f) ? NULL : s;
}

static void print_table(const struct probes_entry *all, size_t n)
{
	static const struct out_col cols[] = {
		{ "kind", "kind", false }, { "outcome", "outcome", false },
		{ "stage", NULL, false }, { NULL, "stage", false },
		{ "n", "n", true }, { "p50_ns", "p50", true }, { "p99_ns", "p99", true },
		{ "p999_ns", "p99.9", true }, { "max_ns", "max", true },
		{ "min_ns", NULL, true }, { "buckets", NULL, true },
	};
	struct out_table *t = out_table("histograms", "Time by stage, µs", cols,
					sizeof(cols) / sizeof(cols[0]));
	size_t i;

	for (i = 0; i < n; i++) {
		const struct latency_key *k = &all[i].key;
		const struct hist *h = &all[i].hist;
		char *buckets = out_is_json() ? buckets_json(h) : NULL;

		if (i && (k->kind != all[i - 1].key.kind || k->outcome != all[i - 1].key.outcome))
			out_rule(t);
		out_cell_group(t, kind_cell(k));
		out_cell_group(t, outcome_cell(k));
		out_cell(t, "%s", stage_key(k->stage));
		out_cell(t, "%s", stage_title(k->stage));
		out_cell_u64(t, h->count);
		out_cell_ns(t, hist_percentile(h, 0.5));
		out_cell_ns(t, hist_percentile(h, 0.99));
		out_cell_ns(t, hist_percentile(h, 0.999));
		out_cell_ns(t, h->max);
		out_cell_ns(t, h->min);
		out_cell_json(t, buckets ?: "[]");
		free(buckets);
	}
	out_table_end(t);
}

static void print_bars(const struct probes_entry *all, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		const struct latency_key *k = &all[i].key;
		char title[128];

		if (k->kind)
			snprintf(title, sizeof(title), "%s %s: %s", kind_cell(k),
				 k->outcome ? outcome_cell(k) : "", stage_title(k->stage));
		else
			snprintf(title, sizeof(title), "%s", stage_title(k->stage));
		out_section(NULL, title);
		hist_print(&all[i].hist);
	}
}

static void print_deferrals(struct probes *p)
{
	static const struct out_col cols[] = {
		{ "reason", "reason", false }, { "n", "n", true },
	};
	__u64 count[UPREEMPT_REASON_MAX], sum = 0;
	struct out_table *t;
	unsigned int r;

	probes_deferrals(p, count);
	for (r = 0; r < UPREEMPT_REASON_MAX; r++)
		sum += count[r];
	if (!sum && !out_is_json())
		return;
	t = out_table("deferrals", "Hook visits that could not grant the request", cols, 2);
	for (r = 0; r < UPREEMPT_REASON_MAX; r++) {
		if (!count[r])
			continue;
		out_cell(t, "%s", upreempt_reason_name(r));
		out_cell_u64(t, count[r]);
	}
	out_table_end(t);
}

static void print_all(struct probes *p, const struct options *o, bool process, bool library)
{
	struct probes_entry *all;
	size_t n;

	all = probes_read(p, &n);
	if (!all)
		return;
	out_start(o->json, false);
	out_str("module_probes", NULL, "%s", probes_module_mode(p) ?: "none");
	out_str("signal_probes", NULL, "%s", probes_signal_mode(p) ?: "none");
	out_bool("library_probes", NULL, library, NULL, NULL);
	if (n || o->json) {
		print_table(all, n);
		if (!o->json && !o->table_only)
			print_bars(all, n);
	} else {
		out_note(NULL, "Nothing was seen: no request was made%s.",
			 probes_module_mode(p) ? "" : " (the module is not loaded) and no such signal sent");
	}
	print_deferrals(p);
	if (process && !library)
		out_note(NULL, "Landing and resume were not seen: the process maps no file with the symbol "
			 "upreempt_trace_landing.");
	if (o->pin)
		out_str("pinned", "pinned", "%s", o->pin);
	out_finish();
	free(all);
}

/* ---- the run ------------------------------------------------------------- */

/* Until the time is over, the process ends or somebody interrupts. True: the library was found. */
static bool watch(struct probes *p, const struct options *o, pid_t pid, bool child)
{
	uint64_t end = o->duration ? now_ns() + o->duration * 1000000000ULL : ~0ULL;
	struct timespec nap = { .tv_nsec = 20000000 };
	bool library = false;
	unsigned int tries = 0;
	siginfo_t si = {};

	while (!interrupted && now_ns() < end) {
		/* a child stays to be waited for, so that its number is not given away */
		if (child && !waitid(P_PID, pid, &si, WEXITED | WNOHANG | WNOWAIT) && si.si_pid)
			break;
		if (!child && pid && kill(pid, 0) && errno == ESRCH)
			break;
		/* it may be mapped later (exec, dlopen): often at first, then now and then */
		if (pid && !library && (tries < 100 || tries % 50 == 0))
			library = probes_attach_library(p, pid) > 0;
		tries++;
		nanosleep(&nap, NULL);
	}
	return library;
}

static void say_what(struct probes *p, const struct options *o)
{
	fprintf(stderr, "upreempt latency: measuring%s%s%s\n",
		probes_module_mode(p) ? "" : " signals only (the module is not loaded)",
		o->duration ? "" : o->pid || o->command ? ", ends with the process or at ^C" :
							  ", ^C ends it",
		o->pid || o->command ? "" :
		"; without -p or a command landing and resume are not seen");
}

int cmd_latency(int argc, char **argv)
{
	struct options o = { .signo = -1 };
	struct probes_opts po = { .module = true, .signal = true };
	struct sigaction sa = { .sa_handler = on_interrupt };
	struct upreempt_info info = { .size = sizeof(info) };
	struct child child = {};
	struct probes *p;
	char why[256];
	bool library;
	int ret;

	ret = parse(argc, argv, &o);
	if (ret >= 0)
		return ret;
	if (o.signo < 0)
		o.signo = upreempt_get_info(&info) ? SIGURG : info.signo;
	if (o.command && child_spawn(&child, o.command, o.json)) {
		fprintf(stderr, "upreempt latency: cannot fork: %s\n", strerror(errno));
		return 1;
	}
	po.tgid = o.command ? child.pid : o.pid;
	po.signo = o.signo;
	p = probes_open(&po, why, sizeof(why));
	if (!p || (o.pin && probes_pin(p, o.pin, why, sizeof(why)))) {
		fprintf(stderr, "upreempt latency: %s\n", why);
		probes_close(p);
		return 1;
	}
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	say_what(p, &o);
	ret = o.command ? child_go(&child) : 0;
	if (ret) {
		fprintf(stderr, "upreempt latency: cannot run %s: %s\n", o.command[0], strerror(ret));
		probes_close(p);
		return 1;
	}
	library = watch(p, &o, po.tgid, o.command != NULL);
	if (o.command)
		child_end(&child);
	print_all(p, &o, po.tgid != 0, library);
	probes_close(p);
	return 0;
}
