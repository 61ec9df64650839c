// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * On one CPU a hundred threads ask for one that must not be stopped for long: how much
 * of its speed does it keep? Each asks, waits until its request's deadline has passed,
 * and asks again at once; one for whom there was no room, because too many requests are
 * on their way, has waited for it as long. Compared with the same threads waking at the
 * same times and asking for nothing: switching to them costs more than what they ask
 * for, and is theirs.
 */
#include "bench.h"
#include <errno.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define REQUESTERS	100
#define SLICE_US	100000
#define PERIOD_US	10000		/* as Go's sysmon */

static bool asking, done;
static volatile uint64_t turns;
static volatile uint32_t spinning;
static struct upreempt_thread *target;

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
}

static void *target_main(void *arg)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);
	int err = upreempt_thread_register(arg, &o, &target);

	if (err)
		fail("upreempt_thread_register", -err);
	upreempt_disable();
	spinning = 1;
	while (!__atomic_load_n(&done, __ATOMIC_RELAXED))
		turns++;
	upreempt_enable();
	return NULL;
}

static void sleep_until(uint64_t ns)
{
	struct timespec ts = { ns / 1000000000, ns % 1000000000 };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

/* arg: the first time, different for each */
static void *requester_main(void *arg)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT,
		      .deadline_ns = (uintptr_t)arg);
	struct upreempt_event ev;

	/* As exact as a request's deadline: sleepers that wake together are cheaper. */
	prctl(PR_SET_TIMERSLACK, 1);
	sleep_until(o.deadline_ns);
	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		int err = -EAGAIN;

		o.deadline_ns += PERIOD_US * 1000;
		if (__atomic_load_n(&asking, __ATOMIC_RELAXED))
			err = upreempt_request(target, &o, &ev);
		if (err == -EAGAIN)
			sleep_until(o.deadline_ns);
		else if (err || ev.outcome != UPREEMPT_UNSAFE)
			fail("a request was not in vain", -err);
	}
	return NULL;
}

/* Turns of the target in a slice of time */
static double speed(bool storm)
{
	uint64_t t0, before;

	__atomic_store_n(&asking, storm, __ATOMIC_RELAXED);
	usleep(SLICE_US);		/* until all do what they shall */
	t0 = ticks();
	before = turns;
	usleep(SLICE_US);
	return (double)(turns - before) / (ticks() - t0);
}

void storm_run(void)
{
	UPREEMPT_OPTS(upreempt_domain_opts, o, .slots = 4, .events = 16,
		      .backend = bench.kmod ? UPREEMPT_BACKEND_KMOD : UPREEMPT_BACKEND_SIGNAL);
	struct series *s = series_new("requesters_100_speed", bench.kmod ? "kmod" : "signal", "%",
				      100);
	pthread_t thread, requesters[REQUESTERS];
	struct upreempt_domain *domain;
	uint64_t begin;
	int err = upreempt_domain_open(&o, &domain);

	if (err)
		fail("upreempt_domain_open", -err);
	if (pthread_create(&thread, NULL, target_main, domain))
		fail("pthread_create", EAGAIN);
	for (int i = 0; !spinning; i++) {
		if (i > PATIENCE_S * 1000)
			out_of_patience("a target's start");
		usleep(1000);
	}
	begin = upreempt_deadline(PERIOD_US * 1000);
	for (int i = 0; i < REQUESTERS; i++)
		if (pthread_create(&requesters[i], NULL, requester_main,
				   (void *)(uintptr_t)(begin + i * PERIOD_US * 1000 / REQUESTERS)))
			fail("pthread_create", EAGAIN);
	for (int i = 0; i < (bench.quick ? 1 : 5); i++) {
		double quiet = speed(false);

		series_add(s, 100 * speed(true) / quiet);
	}
	__atomic_store_n(&asking, false, __ATOMIC_RELAXED);
	usleep(2 * PERIOD_US);		/* so that none ends as LANDED */
	__atomic_store_n(&done, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	for (int i = 0; i < REQUESTERS; i++)
		pthread_join(requesters[i], NULL);
	upreempt_domain_close(domain);
}
