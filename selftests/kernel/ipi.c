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
 * The lost request: the IPI for a first request is on its way to CPU 0, slow, while the
 * thread moves to CPU 1; a second request finds the IPI under way (EBUSY) and relies on
 * it. The IPI's handler has to follow the thread, or nobody arms the hook on CPU 1.
 *
 * The first request is a SAMPLE, which sched_out answers; then only the second is left.
 * Returns how many of n second requests were not answered within ms.
 */
static int lost_requests(struct __test_metadata *_metadata, struct raw *r, int n, uint64_t ms)
{
	struct upreempt_event e;
	struct raw_target t;
	uint64_t seq[2];
	int lost = 0;

	/* this thread moves the target and asks: on CPU 1, out of the IPI's way */
	raw_pin(1);
	raw_target_init(&t, r, raw_body_spin, RAW_LANDING);
	t.cpu = 0;
	if (raw_target_start(&t) || !raw_target_moves(&t))
		return -1;
	for (int i = 0; i < n; i++) {
		move_to(&t, 0);
		raw_target_moves(&t);
		raw_param("inject_ipi_delay_us", 4000);
		if (raw_post(r, t.slot, UPREEMPT_SAMPLE, 0, 0, &seq[0]))
			return -1;
		/* the handler spins on CPU 0 by now; the move waits for it there */
		move_to(&t, 1);
		if (raw_post(r, t.slot, UPREEMPT_REDIRECT, 0, raw_in(ms), &seq[1]))
			return -1;
		raw_param("inject_ipi_delay_us", 0);
		if (raw_wait(r, t.slot, seq[1], RAW_LONG_MS, &e))
			return -1;
		lost += e.outcome != UPREEMPT_LANDED;
		if (raw_wait(r, t.slot, seq[0], RAW_LONG_MS, &e) || e.outcome != UPREEMPT_LANDED)
			return -1;
	}
	raw_target_stop(&t);
	EXPECT_EQ(0, t.wrong);
	return lost;
}

TEST_F(ipi, ipi_follows_a_thread_that_has_moved)
{
	RAW_NEED_INJECT(self->r.fd);
	EXPECT_EQ(0, lost_requests(_metadata, &self->r, (int)raw_scale(50), 3000));
}

RAW_TEST_MAIN
