// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * upreempt demo: threads that spin in loops without calls are sampled, stopped,
 * redirected and resumed on each backend that there is, with times beside those of
 * signals. Every number is measured in this run.
 */
#include "cmd.h"
#include "demo.h"
#include "histview.h"
#include "out.h"
#include "probes.h"
#include "sym.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static const char usage[] =
	"usage: upreempt demo [--backend both|kmod|signal] [-n ROUNDS] [--json]\n"
	"\n"
	"Starts threads in endless loops without calls and samples, stops, redirects and\n"
	"resumes them. Prints what came of it, where the threads stood, and the times next\n"
	"to tgkill() and to an empty inter-processor interrupt. As root also the time of\n"
	"each stage, measured by BPF programs. Ends by itself in less than 30 seconds.\n"
	"\n"
	"  -b, --backend B      both (default), kmod or signal\n"
	"  -n, --rounds N       of each time measurement at most (default 10000)\n"
	"      --json           machine-readable\n"
	"  -h, --help\n"
	"\n"
	"Examples:\n"
	"  upreempt demo\n"
	"  upreempt demo --backend signal -n 1000      without the module, quickly\n"
	"  upreempt demo --json > demo.json\n";

/* A machine may be slow, or busy. Seconds after the start: */
#define TIMES_UNTIL	17	/* measuring times ends, and */
#define STAGES_UNTIL	20	/* stages are no longer begun; */
#define LAST_MOMENT	29	/* a demo that hangs is no demo */

struct options {
	enum upreempt_backend backend;	/* AUTO: both */
	long long rounds;
	bool json;
};

/* For the watchdog's last words; NULL: done */
static const char *volatile phase = "starting";

static const struct out_col time_cols[] = {
	{ "what", "", false }, { "by", "by", false }, { "n", "n", true },
	{ "p50_ns", "p50", true }, { "p99_ns", "p99", true }, { "p999_ns", "p99.9", true },
};

static const struct out_col stage_cols[] = {
	{ "backend", "backend", false }, { "stage", NULL, false }, { NULL, "stage", false },
	{ "n", "n", true }, { "p50_ns", "p50", true }, { "p99_ns", "p99", true },
	{ "p999_ns", "p99.9", true },
};

static uint64_t start_ns;

static bool later_than(unsigned int seconds)
{
	return now_ns() > start_ns + seconds * 1000 * MILLISECOND;
}

/* ---- times ---------------------------------------------------------------- */

static struct spinner *start_counting(struct upreempt_domain *domain, int cpu)
{
	struct spinner *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->loop = loops_counting();
	s->domain = domain;
	s->cpu = cpu;
	if (!spinner_start(s))
		return s;
	free(s);
	return NULL;
}

static void end_counting(struct spinner *s)
{
	/* one that will not go keeps its memory */
	if (s && spinner_stop(s))
		free(s);
}

/*
 * All ways take turns, so that a machine that is busy with something else for a
 * while is unfair to none of them.
 */
#define TURNS		8
#define WARM_UP		((struct limit){ 20, 20 * MILLISECOND })

static void time_backend(struct side *side, const struct cpus *cpus, struct limit limit)
{
	struct spinner *s = start_counting(side->domain, cpus->target);

	if (!s)
		return;
	/* the first ones meet cold caches and pages that were never touched */
	measure_redirect(s, WARM_UP, NULL, NULL);
	measure_redirect(s, limit, &side->times.handler, &side->times.whole);
	limit.budget_ns /= 2;
	measure_sample(s, limit, &side->times.sample);
	measure_stop(s, limit, &side->times.stop);
	end_counting(s);
}

static void time_others(struct times *tgkill, struct times *ipi, const struct cpus *cpus,
			struct limit limit)
{
	struct spinner *s = start_counting(NULL, cpus->target);

	if (!s)
		return;
	measure_tgkill(s, WARM_UP, NULL, NULL);
	measure_tgkill(s, limit, &tgkill->handler, &tgkill->whole);
	if (cpus->n > 1)
		measure_ipi(s, limit, &ipi->whole);
	end_counting(s);
}

static void time_all(struct side *sides, size_t n, struct times *tgkill, struct times *ipi,
		     const struct cpus *cpus, unsigned int rounds)
{
	struct limit limit = { rounds / TURNS + 1, 150 * MILLISECOND };
	unsigned int turn;
	size_t i;

	plain_signal_setup();
	for (turn = 0; turn < TURNS && (!turn || !later_than(TIMES_UNTIL)); turn++) {
		out_progress("measuring times, %u of %u...", turn + 1, TURNS);
		for (i = 0; i < n; i++)
			if (sides[i].domain)
				time_backend(&sides[i], cpus, limit);
		time_others(tgkill, ipi, cpus, limit);
	}
}

static void show_times_row(struct out_table *t, const char *what, const char *by,
			   struct samples *s)
{
	if (!s->n)
		return;
	out_cell_group(t, what);
	out_cell(t, "%s", by);
	out_cell_u64(t, s->n);
	out_cell_ns(t, samples_quantile(s, 0.5));
	out_cell_ns(t, samples_quantile(s, 0.99));
	out_cell_ns(t, samples_quantile(s, 0.999));
}

static void show_times(struct side *sides, size_t n, struct times *tgkill, struct times *ipi,
		       const struct cpus *cpus)
{
	struct out_table *t = out_table("times", cpus->n > 1 ?
					"Time, µs, to a thread that spins on another CPU" :
					"Time, µs, to a thread that spins on the same CPU",
					time_cols, COUNT(time_cols));
	size_t i;

	for (i = 0; i < n; i++)
		show_times_row(t, "request → handler", sides[i].name, &sides[i].times.handler);
	show_times_row(t, "request → handler", "tgkill", &tgkill->handler);
	out_rule(t);
	for (i = 0; i < n; i++)
		show_times_row(t, "and back: round trip", sides[i].name, &sides[i].times.whole);
	show_times_row(t, "and back: round trip", "tgkill + handler", &tgkill->whole);
	show_times_row(t, "and back: round trip", "empty IPI (membarrier)", &ipi->whole);
	out_rule(t);
	for (i = 0; i < n; i++)
		show_times_row(t, "SAMPLE, registers here", sides[i].name, &sides[i].times.sample);
	out_rule(t);
	for (i = 0; i < n; i++)
		show_times_row(t, "STOP, held", sides[i].name, &sides[i].times.stop);
	out_table_end(t);
}

static double ratio(struct samples *a, struct samples *b)
{
	uint64_t x = samples_quantile(a, 0.5), y = samples_quantile(b, 0.5);

	return y ? (double)x / y : 0;
}

/*
 * On a host with more to do than CPUs, a virtual CPU that should answer is often not
 * running. An interrupt that takes long in the middle of all is the sign of it.
 */
static bool trustworthy(struct side *sides, size_t n, struct times *tgkill, struct times *ipi)
{
	bool enough = tgkill->whole.n >= 100;
	size_t i;

	for (i = 0; i < n; i++)
		enough &= !sides[i].domain || sides[i].times.whole.n >= 100;
	return enough && samples_quantile(&ipi->whole, 0.5) < MILLISECOND / 2;
}

static void show_ratio(struct side *side, struct times *tgkill, struct times *ipi, bool trusted)
{
	double by_signal = ratio(&tgkill->whole, &side->times.whole);
	double to_ipi = ratio(&side->times.whole, &ipi->whole);

	if (!side->times.whole.n)
		return;
	out_section(side->name, NULL);
	out_double("tgkill_over_round_trip", by_signal);
	out_double("round_trip_over_empty_ipi", to_ipi);
	out_section_end();
	if (!trusted)
		return;
	if (by_signal > 0 && to_ipi > 0)
		out_note(NULL, "  %s: a round trip takes %.2g times an empty interrupt; tgkill takes "
			 "%.2g times as long (p50).", side->name, to_ipi, by_signal);
	else if (by_signal > 0)
		out_note(NULL, "  %s: tgkill takes %.2g times as long (p50).", side->name, by_signal);
}

static void show_ratios(struct side *sides, size_t n, struct times *tgkill, struct times *ipi)
{
	bool trusted = trustworthy(sides, n, tgkill, ipi);
	size_t i;

	out_section("ratios", NULL);
	out_bool("trustworthy", NULL, trusted, NULL, NULL);
	for (i = 0; i < n; i++)
		show_ratio(&sides[i], tgkill, ipi, trusted);
	out_section_end();
	if (!trusted)
		out_note(NULL, "  These times say little: the CPUs are busy with something else most of the "
			 "time.\n  Run it again on a quiet machine.");
}

/* ---- stages, by BPF -------------------------------------------------------- */

static __u64 show_stages_of(struct out_table *t, const char *backend, struct probes *p)
{
	__u64 signals = 0;
	struct probes_entry *all;
	size_t i, n;

	all = probes_read(p, &n);
	for (i = 0; all && i < n; i++) {
		const struct latency_key *k = &all[i].key;
		const struct hist *h = &all[i].hist;

		if (k->stage == STAGE_SIGNAL_DELIVER)
			signals += h->count;
		out_cell_group(t, backend);
		out_cell(t, "%s", stage_key(k->stage));
		out_cell(t, "%s", stage_title(k->stage));
		out_cell_u64(t, h->count);
		out_cell_ns(t, hist_percentile(h, 0.5));
		out_cell_ns(t, hist_percentile(h, 0.99));
		out_cell_ns(t, hist_percentile(h, 0.999));
	}
	free(all);
	return signals;
}

static void stages(struct side *sides, size_t n, const struct cpus *cpus, unsigned int rounds)
{
	struct limit limit = { rounds < 1000 ? rounds : 1000, 1000 * MILLISECOND };
	struct probes_opts po = { .tgid = getpid(), .module = true, .signal = true };
	struct out_table *t;
	struct probes *p;
	char why[256], sentence[128] = "";
	size_t i;

	if (later_than(STAGES_UNTIL)) {
		out_note("stages_absent", "\nThe time of each stage is not shown: the machine is too "
			 "slow or too busy; see 'upreempt latency'.");
		return;
	}
	out_progress("loading the BPF programs...");
	p = probes_open(&po, why, sizeof(why));
	if (!p || probes_attach_library(p, getpid()) < 0) {
		out_note("stages_absent", "\nThe time of each stage is not shown: %s.",
			 p ? "uprobes cannot be attached" : why);
		probes_close(p);
		return;
	}
	t = out_table("stages", "Where the time of a REDIRECT goes, µs, with BPF probes attached",
		      stage_cols, COUNT(stage_cols));
	for (i = 0; i < n; i++) {
		struct spinner *s = sides[i].domain ? start_counting(sides[i].domain, cpus->target) :
						      NULL;
		__u64 signals;

		if (!s)
			continue;
		out_progress("%s: measuring stages...", sides[i].name);
		probes_reset(p);
		measure_redirect(s, limit, NULL, NULL);
		out_rule(t);
		signals = show_stages_of(t, sides[i].name, p);
		if (sides[i].backend == UPREEMPT_BACKEND_KMOD)
			snprintf(sentence, sizeof(sentence),
				 "  Signals delivered to the process meanwhile: %llu", signals);
		end_counting(s);
	}
	out_table_end(t);
	if (*sentence)
		out_note("signals_during_kmod", "%s.", sentence);
	phase = NULL;	/* all is said; to detach takes the kernel a while */
	probes_close(p);
}

/* ---- the command ----------------------------------------------------------- */

static void *watchdog(void *arg)
{
	(void)arg;
	sleep(LAST_MOMENT);
	if (!phase)
		return NULL;
	fprintf(stderr, "\nupreempt demo: not done after %d seconds (%s); giving up\n",
		LAST_MOMENT, phase);
	_exit(1);
}

static void open_backend(struct side *side)
{
	UPREEMPT_OPTS(upreempt_domain_opts, opts, .backend = side->backend, .slots = 8);
	const char *what;
	int err;

	side->name = upreempt_backend_name(side->backend);
	err = upreempt_domain_open(&opts, &side->domain);
	if (!err)
		return;
	side->domain = NULL;
	switch (err) {
	case -ENOENT:
		what = "the module is not loaded; 'insmod upreempt.ko' as root, or 'make run' for a "
		       "virtual machine that has it";
		break;
	case -EACCES:
		what = "this user may not open " UPREEMPT_DEVICE "; run it as root, or have root "
		       "allow it (module parameter device_mode)";
		break;
	case -EPROTO:
		what = "the loaded module speaks another ABI; build and load the one of this version";
		break;
	case -EBUSY:
		what = "its signal has another handler; set UPREEMPT_SIGNAL to a free one";
		break;
	default:
		what = strerror(-err);
	}
	out_section(side->name, NULL);
	out_str("unavailable", NULL, "%s", what);
	out_section_end();
	out_note(NULL, "\n%sBackend %s is not available here%s: %s.", out_bold(), side->name,
		 out_plain(), what);
}

static void show_head(const struct cpus *cpus)
{
	char hv[64];
	struct utsname u;

	uname(&u);
	machine_hypervisor(hv, sizeof(hv));
	out_section("environment", NULL);
	out_str("version", NULL, "%s", UPREEMPT_VERSION);
	out_str("kernel", NULL, "%s", u.release);
	out_u64("cpus", NULL, cpus->n);
	out_str("hypervisor", NULL, "%s", hv);
	out_section_end();
	out_note(NULL, "upreempt %s · Linux %s · %d CPU%s · %s", UPREEMPT_VERSION, u.release,
		 cpus->n, cpus->n == 1 ? "" : "s", *hv ? hv : "bare metal");
	out_note(NULL, "Threads spin in loops that call nothing and poll nothing. Each is asked for its "
		 "registers,\nstopped and released, and made to run a handler; then it is led out of "
		 "its loop.");
	if (cpus->n == 1)
		out_note(NULL, "There is one CPU only: times are those of the scheduler.");
}

/* -1: go on; else the exit status */
static int parse(int argc, char **argv, struct options *o)
{
	const char *backend = "both";
	const struct cmd_option options[] = {
		{ "backend", 'b', .text = &backend },
		{ "rounds", 'n', .number = &o->rounds, .lo = 1, .hi = 1000000,
		  .takes = "a number, 1 to 1000000" },
		{ "json", .flag = &o->json },
		{}
	};
	int ret = parse_options(argc, argv, usage, options, NULL);

	if (ret >= 0)
		return ret;
	if (!strcmp(backend, "kmod"))
		o->backend = UPREEMPT_BACKEND_KMOD;
	else if (!strcmp(backend, "signal"))
		o->backend = UPREEMPT_BACKEND_SIGNAL;
	else if (strcmp(backend, "both"))
		return wrong_use("demo", "--backend is both, kmod or signal, not '%s'", backend);
	return -1;
}

static void free_times(struct times *t)
{
	samples_free(&t->handler);
	samples_free(&t->whole);
	samples_free(&t->sample);
	samples_free(&t->stop);
}

static int run(struct side *sides, size_t n, const struct options *o)
{
	struct times tgkill = {}, ipi = {};
	unsigned int available = 0;
	struct cpus cpus;
	size_t i;

	cpus_choose(&cpus);
	show_head(&cpus);
	for (i = 0; i < n; i++) {
		phase = "opening a backend";
		open_backend(&sides[i]);
		if (!sides[i].domain)
			continue;
		available++;
		phase = "stopping and redirecting";
		try_backend(&sides[i], &cpus);
	}
	if (available) {
		phase = "measuring times";
		time_all(sides, n, &tgkill, &ipi, &cpus, o->rounds);
		show_times(sides, n, &tgkill, &ipi, &cpus);
		show_ratios(sides, n, &tgkill, &ipi);
		phase = "measuring stages";
		stages(sides, n, &cpus, o->rounds);
	}
	for (i = 0; i < n; i++) {
		upreempt_domain_close(sides[i].domain);
		free_times(&sides[i].times);
	}
	free_times(&tgkill);
	free_times(&ipi);
	sym_close();
	return available ? 0 : 1;
}

int cmd_demo(int argc, char **argv)
{
	struct options o = { .rounds = 10000 };
	struct side sides[2] = {};
	pthread_t dog;
	size_t n = 0;
	int ret;

	start_ns = now_ns();
	ret = parse(argc, argv, &o);
	if (ret >= 0)
		return ret;
	if (o.backend != UPREEMPT_BACKEND_SIGNAL)
		sides[n++].backend = UPREEMPT_BACKEND_KMOD;
	if (o.backend != UPREEMPT_BACKEND_KMOD)
		sides[n++].backend = UPREEMPT_BACKEND_SIGNAL;
	if (!pthread_create(&dog, NULL, watchdog, NULL))
		pthread_detach(dog);
	out_start(o.json, false);
	ret = run(sides, n, &o);
	out_finish();
	return ret;
}
