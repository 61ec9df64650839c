// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Ways to stop a crew: upreempt's with both backends, and what a collector does without
 * it. The remaining peer is Go's runtime: stw.go.
 */
#include "bench.h"
#include "crew.h"
#include <errno.h>
#include <linux/membarrier.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- upreempt ------------------------------------------------------------------------ */

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
}

static void enter(struct crew *c)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);
	struct upreempt_thread *me;
	int err = upreempt_thread_register(c->data, &o, &me);

	if (err)
		fail("upreempt_thread_register", -err);
}

static int open_domain(struct crew *c, enum upreempt_backend backend)
{
	UPREEMPT_OPTS(upreempt_domain_opts, o, .backend = backend, .events = 16,
		      .slots = c->blocked < 1000 ? 64 : 16384);
	struct upreempt_domain *d;
	int err = upreempt_domain_open(&o, &d);

	c->data = d;
	return err;
}

static int open_world(struct crew *c, enum upreempt_backend backend)
{
	int err = open_domain(c, backend);

	if (err)
		return err;
	enter(c);
	err = upreempt_world_stop(c->data, NULL, NULL);
	return err ? err : upreempt_world_start(c->data);
}

static int open_kmod(struct crew *c)
{
	return open_world(c, UPREEMPT_BACKEND_KMOD);
}

static int open_signal(struct crew *c)
{
	return open_world(c, UPREEMPT_BACKEND_SIGNAL);
}

static void world_stop(struct crew *c, struct sample *s)
{
	struct upreempt_world report;
	int late = upreempt_world_stop(c->data, NULL, &report);

	if (late)
		fail("upreempt_world_stop", late < 0 ? -late : 0);
	s->ipis = report.ipis;
}

static void world_start(struct crew *c)
{
	int err = upreempt_world_start(c->data);

	if (err)
		fail("upreempt_world_start", -err);
}

/* The share of the threads that come by themselves when they have the time */
static void coop_stop(struct crew *c, struct sample *s)
{
	UPREEMPT_OPTS(upreempt_world_opts, o, .grace_ns = PATIENCE_S * 1000000000ULL);
	struct upreempt_world report;
	int late = upreempt_world_stop(c->data, &o, &report);

	if (late)
		fail("upreempt_world_stop", late < 0 ? -late : 0);
	s->value = 100.0 * report.cooperated / report.threads;
}

static uint32_t shaken;

static void shake(struct upreempt_thread *thread, const struct upreempt_snapshot *at, void *arg)
{
	(void)thread;
	(void)at;
	(void)arg;
	__atomic_fetch_add(&shaken, 1, __ATOMIC_RELAXED);
}

static void handshake(struct crew *c, struct sample *s)
{
	int late = upreempt_handshake(c->data, shake, NULL, 0, NULL);
	uint32_t all = c->spinners + c->blocked + 1;

	(void)s;
	if (late || shaken != all)
		fail("a handshake did not reach all", late < 0 ? -late : 0);
	shaken = 0;
}

static int open_handshake(struct crew *c, enum upreempt_backend backend)
{
	struct sample s = { 0 };
	int err = open_domain(c, backend);

	if (err)
		return err;
	enter(c);
	err = upreempt_handshake(c->data, shake, &s, 0, NULL);
	shaken = 0;
	return err;
}

static int open_handshake_kmod(struct crew *c)
{
	return open_handshake(c, UPREEMPT_BACKEND_KMOD);
}

static int open_handshake_signal(struct crew *c)
{
	return open_handshake(c, UPREEMPT_BACKEND_SIGNAL);
}

static void nothing(struct crew *c)
{
	(void)c;
}

const struct stopper stop_kmod = {
	.backend = "kmod", .open = open_kmod, .enter = enter,
	.stop = world_stop, .start = world_start, .leaves_blocked = true,
};
const struct stopper stop_signal = {
	.backend = "signal", .open = open_signal, .enter = enter,
	.stop = world_stop, .start = world_start,
};
const struct stopper coop_kmod = {
	.backend = "kmod", .open = open_kmod, .enter = enter,
	.stop = coop_stop, .start = world_start,
};
const struct stopper coop_signal = {
	.backend = "signal", .open = open_signal, .enter = enter,
	.stop = coop_stop, .start = world_start,
};
const struct stopper handshake_kmod = {
	.backend = "kmod", .open = open_handshake_kmod, .enter = enter,
	.stop = handshake, .start = nothing, .leaves_blocked = true,
};
const struct stopper handshake_signal = {
	.backend = "signal", .open = open_handshake_signal, .enter = enter,
	.stop = handshake, .start = nothing,
};

/* ---- as the Boehm collector does: a signal and a semaphore for each thread ------------- */

#define SIG_SUSPEND	SIGPWR
#define SIG_RESTART	SIGXCPU

static sem_t acks;
static volatile uint32_t stop_count;		/* odd: stopped */

static void on_restart(int signo)
{
	(void)signo;
}

static void on_suspend(int signo)
{
	uint32_t count = stop_count;
	sigset_t mask;
	int err = errno;

	(void)signo;
	sem_post(&acks);
	sigfillset(&mask);
	sigdelset(&mask, SIG_RESTART);
	while (stop_count == count)
		sigsuspend(&mask);
	errno = err;
}

static int open_pthread_kill(struct crew *c)
{
	struct sigaction sa = { .sa_handler = on_suspend, .sa_flags = SA_RESTART };

	(void)c;
	sem_init(&acks, 0, 0);
	/* The restart must not come between the look at stop_count and sigsuspend(). */
	sigfillset(&sa.sa_mask);
	sigaction(SIG_SUSPEND, &sa, NULL);
	sa.sa_handler = on_restart;
	sigaction(SIG_RESTART, &sa, NULL);
	return 0;
}

static void kill_all(const struct crew *c, int signo)
{
	for (int i = 0; i < c->spinners + c->blocked; i++) {
		int err = pthread_kill(c->members[i].pthread, signo);

		if (err)
			fail("pthread_kill", err);
	}
}

static void pthread_kill_stop(struct crew *c, struct sample *s)
{
	(void)s;
	stop_count++;
	kill_all(c, SIG_SUSPEND);
	for (int i = 0; i < c->spinners + c->blocked; i++)
		while (sem_wait(&acks))
			;
}

static void pthread_kill_start(struct crew *c)
{
	stop_count++;
	kill_all(c, SIG_RESTART);
}

const struct stopper stop_by_pthread_kill = {
	.backend = "signal_stop", .open = open_pthread_kill, .stop = pthread_kill_stop,
	.start = pthread_kill_start,
};

/* ---- the floor: an empty interrupt at each CPU where the program runs, waited for -------- */

static int open_ipi(struct crew *c)
{
	(void)c;
	return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) ?
	       -errno : 0;
}

static void ipi(struct crew *c, struct sample *s)
{
	(void)c;
	(void)s;
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		fail("membarrier", errno);
}

const struct stopper empty_ipi = {
	.backend = "-", .open = open_ipi, .stop = ipi,
	.start = nothing,
};
