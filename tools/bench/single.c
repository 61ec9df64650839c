// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * What one CPU shows: the ways of a request to oneself and of raise(), what a region
 * or a poll costs, and what a thread pays for being registered while nobody asks for it.
 */
#include "bench.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BATCH		50	/* requests in a turn */
#define CALLS		1000	/* system calls, or regions, in a sample */
#define TURNS		100	/* there and back through the pipes in a sample */

static volatile uint64_t handled, handler_tick, handler_end;

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	handler_tick = ticks();
	handled++;
	handler_end = ticks();
}

static void on_signal(int signo)
{
	(void)signo;
	handled++;
}

static int rounds(int n)
{
	return bench.quick ? n / 5 + 1 : n;
}

static struct upreempt_thread *enter(struct upreempt_domain *domain)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);
	struct upreempt_thread *me;
	int err = upreempt_thread_register(domain, &o, &me);

	if (err)
		fail("upreempt_thread_register", -err);
	return me;
}

static void leave(struct upreempt_thread *me)
{
	int err = upreempt_thread_unregister(me);

	if (err)
		fail("upreempt_thread_unregister", -err);
}

/* ---- requests to oneself ---------------------------------------------------- */

/* Where the time of a request to oneself goes */
struct self {
	struct series *all, *there, *back, *wait;
};

static void self_batch(struct upreempt_thread *me, struct self *s)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT);
	struct upreempt_event ev;

	series_skip(s->all, WARMUP);
	series_skip(s->there, WARMUP);
	series_skip(s->back, WARMUP);
	series_skip(s->wait, WARMUP);
	for (int i = 0; i < BATCH + WARMUP; i++) {
		uint64_t seq, t1, before = handled, t0 = ticks();
		int err = upreempt_post(me, &o, &seq);

		t1 = ticks();
		if (err)
			fail("upreempt_post", -err);
		SPIN_UNTIL("a request to oneself", handled != before);
		series_add(s->all, shown(t1 - t0));
		series_add(s->there, shown(handler_tick - t0));
		series_add(s->back, shown(t1 - handler_end));
		t0 = ticks();
		if (upreempt_wait(me, seq, 0, &ev) || ev.outcome != UPREEMPT_LANDED)
			fail("a request to oneself did not land", 0);
		series_add(s->wait, shown(ticks() - t0));
	}
}

static void raise_batch(struct series *s)
{
	series_skip(s, WARMUP);
	for (int i = 0; i < BATCH + WARMUP; i++) {
		uint64_t t0 = ticks();

		raise(SIGUSR1);
		series_add(s, shown(ticks() - t0));
	}
}

static void self_requests(struct upreempt_domain *domain, const char *backend,
			  struct series *raised)
{
	struct self s = {
		.all = series_new("self_request", backend, NULL, 20000),
		.there = series_new("self_request_to_handler", backend, NULL, 20000),
		.back = series_new("self_request_back", backend, NULL, 20000),
		.wait = series_new("self_request_wait", backend, NULL, 20000),
	};
	struct upreempt_thread *me = enter(domain);
	int n = rounds(bench.icount ? 10 : 100);

	for (int i = 0; i < n; i++) {
		self_batch(me, &s);
		raise_batch(raised);
	}
	leave(me);
}

/* ---- regions ------------------------------------------------------------------ */

__attribute__((noipa)) static uint64_t region_loop(void)
{
	uint64_t t0 = ticks();

	for (int i = 0; i < CALLS; i++) {
		upreempt_disable();
		upreempt_enable();
	}
	return ticks() - t0;
}

__attribute__((noipa)) static uint64_t empty_loop(void)
{
	uint64_t t0 = ticks();

	for (int i = 0; i < CALLS; i++)
		__asm__ volatile("" : : : "memory");
	return ticks() - t0;
}

__attribute__((noipa)) static uint64_t poll_loop(void)
{
	uint64_t t0 = ticks();

	for (int i = 0; i < CALLS; i++)
		upreempt_poll();
	return ticks() - t0;
}

__attribute__((noipa)) static uint64_t poll_load_loop(void)
{
	uint64_t t0 = ticks();

	for (int i = 0; i < CALLS; i++)
		upreempt_poll_load();
	return ticks() - t0;
}

__attribute__((noipa)) static uint64_t poll_counted_loop(void)
{
	uint64_t t0 = ticks();

	for (int i = 0; i < CALLS; i++)
		upreempt_poll_counted(1000);
	return ticks() - t0;
}

/* What each way to come by oneself adds to a turn of a loop when nobody waits */
static void polls(struct upreempt_domain *domain, const char *backend)
{
	struct {
		const char *name;
		uint64_t (*loop)(void);
		struct series *s;
	} kinds[] = {
		{ .name = "poll_untaken", .loop = poll_loop },
		{ .name = "poll_untaken_load", .loop = poll_load_loop },
		{ .name = "poll_untaken_counted", .loop = poll_counted_loop },
	};
	struct upreempt_thread *me = enter(domain);
	int n = rounds(bench.icount ? 100 : 1000);

	for (int k = 0; k < 3; k++)
		kinds[k].s = series_new(kinds[k].name, backend, NULL, 1000);
	for (int i = 0; i < n; i++)
		for (int k = 0; k < 3; k++) {
			double empty = empty_loop(), full = kinds[k].loop();

			series_add(kinds[k].s, shown((full > empty ? full - empty : 0) / CALLS));
		}
	leave(me);
}

static void regions(struct upreempt_domain *domain, const char *backend)
{
	struct series *s = series_new("disable_enable", backend, NULL, 20000);
	struct upreempt_thread *me = enter(domain);
	int n = rounds(bench.icount ? 100 : 2000);

	for (int i = 0; i < n; i++) {
		double empty = empty_loop(), full = region_loop();

		series_add(s, shown((full > empty ? full - empty : 0) / CALLS));
	}
	leave(me);
}

/* ---- the price of being registered ---------------------------------------------- */

/* The other end of the pipes: answers each byte, registers and unregisters on command */
struct partner {
	struct upreempt_domain *domain;
	int to[2], from[2];
	pthread_t pthread;
};

static void put(int fd, char c)
{
	if (write(fd, &c, 1) != 1)
		fail("write", errno);
}

static char get(int fd)
{
	char c;

	if (read(fd, &c, 1) != 1)
		fail("read", errno);
	return c;
}

static void *partner_main(void *arg)
{
	struct partner *p = arg;
	struct upreempt_thread *me = NULL;
	char c;

	pin(bench.cpu[0]);
	do {
		c = get(p->to[0]);
		if (c == 'r')
			me = enter(p->domain);
		else if (c == 'u')
			leave(me);
		put(p->from[1], c);
	} while (c != 'q');
	return NULL;
}

static void partner_start(struct partner *p, struct upreempt_domain *domain)
{
	p->domain = domain;
	if (pipe(p->to) || pipe(p->from))
		fail("pipe", errno);
	if (pthread_create(&p->pthread, NULL, partner_main, p))
		fail("pthread_create", EAGAIN);
}

static void tell(struct partner *p, char c)
{
	put(p->to[1], c);
	if (get(p->from[0]) != c)
		fail("the other thread is confused", 0);
}

static void partner_stop(struct partner *p)
{
	tell(p, 'q');
	pthread_join(p->pthread, NULL);
	for (int i = 0; i < 2; i++) {
		close(p->to[i]);
		close(p->from[i]);
	}
}

/* Of one switch: there and back are two */
static double switches(struct partner *p)
{
	uint64_t t0 = ticks();

	for (int i = 0; i < TURNS; i++) {
		put(p->to[1], 'p');
		get(p->from[0]);
	}
	return shown(ticks() - t0) / (2 * TURNS);
}

static double null_syscalls(void)
{
	uint64_t t0 = ticks();

	for (int i = 0; i < CALLS; i++)
		syscall(SYS_getppid);
	return shown(ticks() - t0) / CALLS;
}

static void idle_tax(struct upreempt_domain *domain, const char *backend)
{
	struct series *sw = series_new("idle_tax_switch", backend, NULL, 2000);
	struct series *sw_base = series_new("idle_tax_switch_base", "-", NULL, 2000);
	struct series *sw_by = series_new("idle_tax_switch_bystander", backend, NULL, 2000);
	struct series *by_ratio = series_new("idle_tax_bystander_ratio", backend, "ratio", 2000);
	struct series *sw_ratio = series_new("idle_tax_switch_ratio", backend, "ratio", 2000);
	struct series *sc = series_new("idle_tax_null_syscall", backend, NULL, 2000);
	struct series *sc_base = series_new("idle_tax_null_syscall_base", "-", NULL, 2000);
	struct series *sc_ratio = series_new("idle_tax_null_syscall_ratio", backend, "ratio", 2000);
	int n = rounds(bench.icount ? 40 : 200);
	struct partner other, third;

	partner_start(&other, domain);
	partner_start(&third, domain);
	switches(&other);
	for (int i = 0; i < n; i++) {
		double base_switch = switches(&other), base_call = null_syscalls(), v;
		struct upreempt_thread *me;

		/* a third thread is registered, and sleeps */
		tell(&third, 'r');
		v = switches(&other);
		series_add(sw_by, v);
		series_add(by_ratio, v / base_switch);
		tell(&third, 'u');
		me = enter(domain);
		tell(&other, 'r');
		v = switches(&other);
		series_add(sw, v);
		series_add(sw_base, base_switch);
		series_add(sw_ratio, v / base_switch);
		v = null_syscalls();
		series_add(sc, v);
		series_add(sc_base, base_call);
		series_add(sc_ratio, v / base_call);
		tell(&other, 'u');
		leave(me);
	}
	partner_stop(&other);
	partner_stop(&third);
}

static struct upreempt_domain *open_domain(enum upreempt_backend backend)
{
	UPREEMPT_OPTS(upreempt_domain_opts, o, .backend = backend, .slots = 4, .events = 16);
	struct upreempt_domain *domain;
	int err = upreempt_domain_open(&o, &domain);

	if (err)
		fail("upreempt_domain_open", -err);
	return domain;
}

void single_run(void)
{
	struct upreempt_domain *signals = open_domain(UPREEMPT_BACKEND_SIGNAL);
	struct upreempt_domain *module = bench.kmod ? open_domain(UPREEMPT_BACKEND_KMOD) : NULL;
	struct sigaction sa = { .sa_handler = on_signal };
	struct series *raised;

	sigaction(SIGUSR1, &sa, NULL);
	if (module)
		idle_tax(module, "kmod");
	else
		idle_tax(signals, "signal");
	raised = series_new("raise_roundtrip", "-", NULL, 20000);
	self_requests(signals, "signal", raised);
	if (module) {
		raised->n = 0;		/* those beside the module's */
		self_requests(module, "kmod", raised);
	}
	regions(module ? module : signals, module ? "kmod" : "signal");
	polls(module ? module : signals, module ? "kmod" : "signal");
	upreempt_domain_close(signals);
	upreempt_domain_close(module);
}
