// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * What two CPUs show: this thread asks on one, a thread that spins in a loop without
 * calls is asked on the other. Each peer has a target of its own; all but one of them
 * sleep, and the peers take turns every few samples.
 */
#include "bench.h"
#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SLEEP, SPIN, WATCH, QUIT };

struct target {
	const char *backend;
	enum upreempt_backend kind;	/* AUTO: not registered */
	uint32_t flags;
	upreempt_handler_fn handler;
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	pthread_t pthread;
	pid_t tid;
	uint32_t mode __attribute__((aligned(64)));
	volatile uint32_t at;			/* the mode it is in */
	volatile uint64_t beat __attribute__((aligned(64)));
	volatile uint64_t handled __attribute__((aligned(64)));
	volatile uint64_t handler_tick;		/* at the handler's first instruction */
	volatile uint64_t handler_end;		/* at its last one */
	volatile uint64_t resumed_after;	/* WATCH: from there to the loop's next turn */
	/* the series that it fills; NULL: not measured */
	struct series *roundtrip, *to_handler, *post, *sample, *stop, *resume;
};

static void handle(struct upreempt_context *ctx, void *arg)
{
	struct target *t = arg;

	(void)ctx;
	t->handler_tick = ticks();
	t->handled++;
	t->handler_end = ticks();
}

/* The same for a thread whose vector registers are not saved */
__attribute__((target("general-regs-only")))
static void handle_gpr(struct upreempt_context *ctx, void *arg)
{
	struct target *t = arg;

	(void)ctx;
	t->handled++;
}

static struct target *signalled;

static void on_signal(int signo)
{
	(void)signo;
	signalled->handler_tick = ticks();
	signalled->handled++;
}

static void spin(struct target *t)
{
	while (__atomic_load_n(&t->mode, __ATOMIC_RELAXED) == SPIN)
		t->beat++;
}

/* After each handler: when did the loop go on? */
static void watch(struct target *t)
{
	while (__atomic_load_n(&t->mode, __ATOMIC_RELAXED) == WATCH) {
		uint64_t end = t->handler_end;

		if (end) {
			t->resumed_after = ticks() - end;
			t->handler_end = 0;
		}
	}
}

static void *target_main(void *arg)
{
	struct target *t = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = t->handler, .arg = t, .flags = t->flags);

	pin(bench.cpu[1]);
	t->tid = gettid();
	if (t->kind != UPREEMPT_BACKEND_AUTO) {
		int err = upreempt_thread_register(t->domain, &o, &t->thread);

		if (err)
			fail("upreempt_thread_register", -err);
	}
	for (;;) {
		uint32_t mode = __atomic_load_n(&t->mode, __ATOMIC_ACQUIRE);

		t->at = mode;
		if (mode == SPIN)
			spin(t);
		else if (mode == WATCH)
			watch(t);
		else if (mode == QUIT)
			break;
		else
			syscall(SYS_futex, &t->mode, FUTEX_WAIT_PRIVATE, SLEEP, NULL, NULL, 0);
	}
	if (t->thread)
		upreempt_thread_unregister(t->thread);
	return NULL;
}

static void set_mode(struct target *t, uint32_t mode)
{
	__atomic_store_n(&t->mode, mode, __ATOMIC_RELEASE);
	syscall(SYS_futex, &t->mode, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	SPIN_UNTIL("a target's change of mode", t->at == mode);
	if (mode == SPIN) {
		uint64_t beat = t->beat;

		SPIN_UNTIL("a target's first turns", t->beat > beat + 100);
	}
	/* long enough for it to be asleep, and for whoever slept on that CPU */
	usleep(mode == SLEEP ? 200 : 50);
}

static void target_start(struct target *t)
{
	UPREEMPT_OPTS(upreempt_domain_opts, o, .backend = t->kind, .slots = 4, .events = 16);
	int err = t->kind == UPREEMPT_BACKEND_AUTO ? 0 : upreempt_domain_open(&o, &t->domain);

	if (err)
		fail("upreempt_domain_open", -err);
	if (pthread_create(&t->pthread, NULL, target_main, t))
		fail("pthread_create", EAGAIN);
	SPIN_UNTIL("a target's start", t->tid && (t->kind == UPREEMPT_BACKEND_AUTO || t->thread));
}

static void target_stop(struct target *t)
{
	__atomic_store_n(&t->mode, QUIT, __ATOMIC_RELEASE);
	syscall(SYS_futex, &t->mode, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	pthread_join(t->pthread, NULL);
	upreempt_domain_close(t->domain);
}

/* ---- one sample each ------------------------------------------------------------ */

/* An empty interrupt at the CPU where the target spins, waited for */
static void null_ipi(struct series *s)
{
	uint64_t t0 = ticks();

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		fail("membarrier", errno);
	series_add(s, shown(ticks() - t0));
}

/* The handler ran, and the loop goes on: seen from here */
static void seen(struct target *t, uint64_t handled)
{
	uint64_t beat;

	SPIN_UNTIL("a handler", t->handled != handled);
	beat = t->beat;
	SPIN_UNTIL("a target's resuming", t->beat != beat);
}

static void tgkill_sample(struct target *t)
{
	uint64_t handled = t->handled, t0 = ticks();

	if (syscall(SYS_tgkill, getpid(), t->tid, SIGUSR1))
		fail("tgkill", errno);
	seen(t, handled);
	series_add(t->roundtrip, shown(ticks() - t0));
	series_add(t->to_handler, shown(t->handler_tick - t0));
}

static void request_sample(struct target *t)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT);
	uint64_t seq, t1, handled = t->handled, t0 = ticks();
	struct upreempt_event ev;
	int err = upreempt_post(t->thread, &o, &seq);

	if (err)
		fail("upreempt_post", -err);
	t1 = ticks();
	seen(t, handled);
	series_add(t->roundtrip, shown(ticks() - t0));
	if (t->post)
		series_add(t->post, shown(t1 - t0));
	if (t->to_handler)
		series_add(t->to_handler, shown((int64_t)(t->handler_tick - t0) > 0 ?
						t->handler_tick - t0 : 0));
	err = upreempt_wait(t->thread, seq, 0, &ev);
	if (err || ev.outcome != UPREEMPT_LANDED)
		fail("a redirect did not land", -err);
}

static void simple_sample(struct target *t, enum upreempt_kind kind, struct series *s)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = kind);
	uint64_t beat, t0 = ticks();
	struct upreempt_event ev;
	int err = upreempt_request(t->thread, &o, &ev);

	if (err || ev.outcome != UPREEMPT_LANDED)
		fail("a request did not land", -err);
	if (kind == UPREEMPT_STOP) {
		beat = t->beat;
		err = upreempt_release(t->thread, ev.seq);
		if (err)
			fail("upreempt_release", -err);
		SPIN_UNTIL("a release", t->beat != beat);
	}
	series_add(s, shown(ticks() - t0));
}

static void resume_sample(struct target *t)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT);
	struct upreempt_event ev;
	uint64_t seq;
	int err;

	t->resumed_after = 0;
	err = upreempt_post(t->thread, &o, &seq);
	if (err)
		fail("upreempt_post", -err);
	SPIN_UNTIL("a resume", t->resumed_after);
	series_add(t->resume, shown(t->resumed_after));
	err = upreempt_wait(t->thread, seq, 0, &ev);
	if (err || ev.outcome != UPREEMPT_LANDED)
		fail("a redirect did not land", -err);
}

/* ---- the run ---------------------------------------------------------------------- */

#define MAX_TARGETS 8

static struct target targets[MAX_TARGETS];
static int nr_targets;

static struct target *target_new(const char *backend, enum upreempt_backend kind, uint32_t flags)
{
	struct target *t = &targets[nr_targets++];

	t->backend = backend;
	t->kind = kind;
	t->flags = flags;
	t->handler = flags & UPREEMPT_THREAD_NO_XSAVE ? handle_gpr : handle;
	return t;
}

static void add_backend(const char *name, enum upreempt_backend kind, size_t max)
{
	struct target *t = target_new(name, kind, 0);

	t->roundtrip = series_new("request_roundtrip", name, NULL, max);
	t->to_handler = series_new("request_to_handler", name, NULL, max);
	t->post = series_new("request_post", name, NULL, max);
	t->sample = series_new("sample", name, NULL, max);
	t->stop = series_new("stop_release", name, NULL, max);
	t->resume = series_new("resume_user", name, NULL, max);
	t = target_new(name, kind, UPREEMPT_THREAD_NO_XSAVE);
	t->roundtrip = series_new("request_roundtrip_gpr", name, NULL, max);
	if (kind == UPREEMPT_BACKEND_KMOD) {
		t = target_new(name, kind, UPREEMPT_THREAD_KERNEL_RESUME);
		t->resume = series_new("resume_kernel", name, NULL, max);
	}
}

/* One turn of a target; warm: its first samples, which nobody counts */
static void turn(struct target *t, struct series *ipi, int n)
{
	/* not mixed: a target that slept in between finds its caches and its TLB cold */
	struct series *all[] = { ipi, t->roundtrip, t->to_handler, t->post, t->sample, t->stop,
				 t->resume };

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		series_skip(all[i], WARMUP);
	set_mode(t, SPIN);
	n += WARMUP;
	for (int i = 0; t == signalled && i < n; i++)
		null_ipi(ipi);
	for (int i = 0; t == signalled && i < n; i++)
		tgkill_sample(t);
	for (int i = 0; t != signalled && t->roundtrip && i < n; i++)
		request_sample(t);
	for (int i = 0; t->sample && i < n; i++)
		simple_sample(t, UPREEMPT_SAMPLE, t->sample);
	for (int i = 0; t->stop && i < n; i++)
		simple_sample(t, UPREEMPT_STOP, t->stop);
	if (t->resume) {
		t->handler_end = 0;
		set_mode(t, WATCH);
		for (int i = 0; i < n; i++)
			resume_sample(t);
	}
	set_mode(t, SLEEP);
}

void cross_run(void)
{
	int rounds = bench.quick ? 10 : 50, each = 100;
	size_t max = (size_t)rounds * each;
	struct series *ipi = series_new("null_ipi", "-", NULL, max);
	struct sigaction sa = { .sa_handler = on_signal };

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
		fail("membarrier", errno);
	sigaction(SIGUSR1, &sa, NULL);
	signalled = target_new("-", UPREEMPT_BACKEND_AUTO, 0);
	signalled->roundtrip = series_new("tgkill_roundtrip", "-", NULL, max);
	signalled->to_handler = series_new("tgkill_to_handler", "-", NULL, max);
	if (bench.kmod)
		add_backend("kmod", UPREEMPT_BACKEND_KMOD, max);
	add_backend("signal", UPREEMPT_BACKEND_SIGNAL, max);
	for (int i = 0; i < nr_targets; i++)
		target_start(&targets[i]);
	/* one turn to warm up, then those that count */
	for (int r = -1; r < rounds; r++) {
		for (int i = 0; i < nr_targets; i++)
			turn(&targets[i], ipi, each);
		if (r < 0)
			for (int i = 0; i < bench.nr_series; i++) {
				struct series *s = &bench.series[i];

				if (s->max == max)
					s->n = 0;
			}
	}
	for (int i = 0; i < nr_targets; i++)
		target_stop(&targets[i]);
}
