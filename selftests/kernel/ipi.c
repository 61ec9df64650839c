// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves P2, P3, U10: no request is lost between an IPI, a context switch and a migration. */
#include "kselftest_harness.h"
#include "../include/raw_target.h"

FIXTURE(ipi) {
	struct raw r;
};

FIXTURE_SETUP(ipi)
{
	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&self->r, 8, 64));
}

FIXTURE_TEARDOWN(ipi)
{
	raw_params_reset();
	raw_close(&self->r);
}

static int move_to(struct raw_target *t, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(t->tid, sizeof(set), &set);
}

static void *mover_main(void *arg)
{
	struct raw_target *t = arg;

	for (int cpu = 0; !t->user; cpu = !cpu) {
		move_to(t, cpu);
		raw_sleep_us(300);
	}
	return NULL;
}

/* A thread that is moved between CPUs all the time answers each request in time. */
static void migrate(struct __test_metadata *_metadata, struct raw *r, uint64_t n)
{
	static const uint32_t kinds[] = { UPREEMPT_REDIRECT, UPREEMPT_SAMPLE, UPREEMPT_STOP };
	uint64_t worst = 0, redirects = 0;
	struct upreempt_event e;
	struct raw_target t;
	pthread_t mover;

	ASSERT_EQ(0, raw_spinner(&t, r, RAW_LANDING));
	ASSERT_EQ(0, pthread_create(&mover, NULL, mover_main, &t));
	for (uint64_t i = 0; i < n; i++) {
		uint64_t start = raw_now();

		ASSERT_EQ(0, raw_ask(r, t.slot, kinds[i % 3], 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		redirects += e.kind == UPREEMPT_REDIRECT;
		if (e.kind == UPREEMPT_STOP)
			ASSERT_EQ(0, raw_release(r, t.slot, e.seq));
		if (raw_now() - start > worst)
			worst = raw_now() - start;
	}
	t.user = &t;
	ASSERT_EQ(0, pthread_join(mover, NULL));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(redirects, t.land.count);
	EXPECT_EQ(0, t.wrong);
	TH_LOG("%llu requests, the slowest took %llu us", (unsigned long long)n,
	       (unsigned long long)worst / 1000);
}

TEST_F(ipi, moving_target)
{
	migrate(_metadata, &self->r, raw_scale(3000));
}

/* The windows, widened one at a time. */
TEST_F(ipi, moving_target_slow_ipi)
{
	RAW_NEED_INJECT(self->r.fd);
	raw_param("inject_ipi_delay_us", 700);
	migrate(_metadata, &self->r, raw_scale(500));
}

TEST_F(ipi, moving_target_slow_sched_in)
{
	RAW_NEED_INJECT(self->r.fd);
	raw_param("inject_sched_in_delay_us", 300);
	migrate(_metadata, &self->r, raw_scale(500));
}

TEST_F(ipi, moving_target_slow_hook)
{
	RAW_NEED_INJECT(self->r.fd);
	raw_param("inject_hook_delay_us", 300);
	migrate(_metadata, &self->r, raw_scale(500));
}

TEST_F(ipi, moving_target_slow_gate)
{
	RAW_NEED_INJECT(self->r.fd);
	raw_param("inject_gate_delay_us", 500);
	migrate(_metadata, &self->r, raw_scale(500));
}

/*
 * The lost request. The IPI for a first request is on its way to CPU 0, where interrupts
 * are off for a while; meanwhile the thread moves to CPU 1. A second request finds the IPI
 * under way (EBUSY) and relies on it: its handler, which finds somebody else on CPU 0, has
 * to follow the thread, or nobody arms the hook on CPU 1.
 *
 *	CPU 0: the thread, then another one whose hook is slow (interrupts off)
 *	CPU 1: the thread, afterwards
 *	CPU 2: the requester, slow between seeing the thread on CPU 0 and sending the IPI
 *
 * The first request is a SAMPLE, which sched_out answers: only the second is left then.
 * Returns how many of n second requests were not answered within ms.
 */
static int lost_requests(struct __test_metadata *_metadata, struct raw *r, int n, uint64_t ms)
{
	struct upreempt_stats before, after;
	struct raw_target t, slow;
	struct upreempt_event e;
	uint64_t seq[2];
	int lost = 0;

	raw_pin(2);
	raw_target_init(&t, r, raw_body_spin, RAW_LANDING);
	raw_target_init(&slow, r, raw_body_spin, RAW_LANDING);
	t.cpu = slow.cpu = 0;
	if (raw_target_start(&t) || raw_target_start(&slow) || !raw_target_moves(&t))
		return -1;
	/* deferred for ever: its hook runs at each return to user mode */
	r->slots[slow.slot].nopreempt = 1;
	if (raw_post(r, slow.slot, UPREEMPT_REDIRECT, 0, 0, NULL))
		return -1;
	raw_stats(r, t.slot, &before);
	for (int i = 0; i < n; i++) {
		move_to(&t, 0);
		raw_param("inject_hook_delay_us", 20000);
		raw_target_moves(&t);
		raw_param("inject_kick_delay_us", 6000 + i % 8 * 1000);
		if (raw_post(r, t.slot, UPREEMPT_SAMPLE, 0, 0, &seq[0]))
			return -1;
		raw_param("inject_kick_delay_us", 0);
		move_to(&t, 1);
		raw_sleep_us(1000);
		if (raw_post(r, t.slot, UPREEMPT_REDIRECT, 0, raw_in(ms), &seq[1]))
			return -1;
		raw_param("inject_hook_delay_us", 0);
		if (raw_wait(r, t.slot, seq[1], RAW_LONG_MS, &e))
			return -1;
		lost += e.outcome != UPREEMPT_LANDED;
		if (raw_wait(r, t.slot, seq[0], RAW_LONG_MS, &e) || e.outcome != UPREEMPT_LANDED)
			return -1;
	}
	raw_stats(r, t.slot, &after);
	r->slots[slow.slot].nopreempt = 0;
	raw_target_stop(&slow);
	raw_target_stop(&t);
	EXPECT_EQ(0, t.wrong + slow.wrong);
	TH_LOG("%d of %d lost, %llu IPIs", lost, n, (unsigned long long)(after.ipis - before.ipis));
	return lost;
}

TEST_F(ipi, ipi_follows_a_thread_that_has_moved)
{
	RAW_NEED_INJECT(self->r.fd);
	if (raw_cpus() < 3)
		SKIP(return, "needs three CPUs: kernel/ipi3.sh gives it them");
	EXPECT_EQ(0, lost_requests(_metadata, &self->r, (int)raw_scale(60), 2000));
}

/* The control: when it does not, requests are lost. */
TEST_F(ipi, forward_guard_matters)
{
	int lost = 0;

	RAW_NEED_INJECT(self->r.fd);
	if (raw_cpus() < 3)
		SKIP(return, "needs three CPUs: kernel/ipi3.sh gives it them");
	raw_param("guards", 1 << 7);
	for (uint64_t end = raw_in(20000); !lost && raw_now() < end;)
		lost = lost_requests(_metadata, &self->r, 20, 200);
	EXPECT_LT(0, lost);
}

/*
 * The IPI comes into a section without preemption, where the list of hooks is not ours: the
 * timer has to arm the hook instead. The thread never leaves its CPU, so nobody else helps.
 */
TEST_F(ipi, timer_arms_what_the_ipi_could_not)
{
	struct upreempt_event e;
	struct raw_target t;

	RAW_NEED_INJECT(self->r.fd);
	raw_pin(0);
	raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING);
	t.cpu = 1;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (int i = 0; i < 40; i++) {
		raw_param("inject_refuse_arm", 1);
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 500, &e));
		EXPECT_EQ(UPREEMPT_LANDED, e.outcome) {
			TH_LOG("request %d: reason %u, %u attempts", i, e.reason, e.attempts);
		}
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

RAW_TEST_MAIN
