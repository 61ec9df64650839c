// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves M9, M12, U10: many requesters of one thread, requesters that a signal reaches, and requests to oneself. */
#include "kselftest_harness.h"
#include <sys/time.h>
#include "../include/raw_target.h"

#define NR_SLOTS	8

FIXTURE(req) {
	struct raw r;
};

FIXTURE_SETUP(req)
{
	ASSERT_EQ(0, raw_domain(&self->r, NR_SLOTS, 16));
}

FIXTURE_TEARDOWN(req)
{
	raw_close(&self->r);
}

#define EXPECT_EVENT(e, out, why, what)					\
	do {								\
		EXPECT_TRUE(raw_event_ok(&(e)));			\
		EXPECT_EQ(out, (e).outcome);				\
		EXPECT_EQ(why, (e).reason);				\
		EXPECT_EQ(what, (e).frame);				\
	} while (0)

/* -------- M9: coalescing -------- */

struct hammer {
	struct raw *r;
	uint32_t slot;
	pthread_t thread;
	uint64_t n, landed, other;
};

static void *hammer_main(void *arg)
{
	struct hammer *h = arg;
	struct upreempt_event e;

	for (uint64_t i = 0; i < h->n; i++) {
		int ret = raw_ask(h->r, h->slot, UPREEMPT_REDIRECT, 0, &e);

		if (!ret && e.outcome == UPREEMPT_LANDED)
			h->landed++;
		else
			h->other++;
	}
	return NULL;
}

static void hammer(struct __test_metadata *_metadata, struct raw *r, int n, uint64_t each)
{
	struct hammer h[100];
	struct upreempt_stats s;
	struct raw_target t;
	uint64_t landed = 0, other = 0;

	ASSERT_EQ(0, raw_spinner(&t, r, RAW_LANDING));
	for (int i = 0; i < n; i++) {
		h[i] = (struct hammer){ .r = r, .slot = t.slot, .n = each };
		ASSERT_EQ(0, pthread_create(&h[i].thread, NULL, hammer_main, &h[i]));
	}
	for (int i = 0; i < n; i++) {
		ASSERT_EQ(0, pthread_join(h[i].thread, NULL));
		landed += h[i].landed;
		other += h[i].other;
	}
	ASSERT_TRUE(RAW_UNTIL(!r->slots[t.slot].busy));
	EXPECT_EQ(0, other);
	EXPECT_EQ((uint64_t)n * each, landed);
	EXPECT_EQ(landed, t.land.count);
	ASSERT_EQ(0, raw_stats(r, t.slot, &s));
	EXPECT_EQ(landed, s.outcomes[UPREEMPT_LANDED]);
	EXPECT_EQ(landed, s.kinds[UPREEMPT_REDIRECT]);
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	TH_LOG("%llu landings, %llu IPIs, %llu visits of the hook", (unsigned long long)landed,
	       (unsigned long long)s.ipis, (unsigned long long)s.hooks);
}

TEST_F(req, sixteen_requesters_hammer_one_thread)
{
	hammer(_metadata, &self->r, 16, raw_scale(100));
}

/* More than a thread has requests: the others wait for their turn. */
TEST_F(req, hundred_requesters_hammer_one_thread)
{
	hammer(_metadata, &self->r, 100, raw_scale(20));
}

/* One visit of the hook answers all samples that wait. */
TEST_F(req, samples_share_a_visit)
{
	struct upreempt_event e[16];
	struct raw_target t;
	uint64_t seq[16];

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	for (int i = 0; i < 16; i++)
		ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_SAMPLE, 0, 0, &seq[i]));
	for (int i = 0; i < 16; i++) {
		ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq[i], RAW_LONG_MS, &e[i]));
		EXPECT_EVENT(e[i], UPREEMPT_LANDED, UPREEMPT_R_NONE, UPREEMPT_FRAME_USER);
		EXPECT_EQ(seq[i], e[i].seq);
	}
	EXPECT_EQ(0, raw_target_stop(&t));
}

/* -------- WAIT broken by a signal -------- */

/* How often a deferred request is tried follows the back-off, not the others that give up. */
TEST_F(req, who_gives_up_disturbs_nobody)
{
	struct upreempt_event e;
	struct raw_target t;
	uint64_t seq, ms;
	int ret;

	ret = raw_on_other_cpu(&t, &self->r, raw_body_spin, RAW_LANDING);
	if (ret == -ENODEV)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, ret);
	self->r.slots[t.slot].nopreempt = 1;
	ms = raw_now();
	ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_REDIRECT, 0, raw_in(RAW_LONG_MS), &seq));
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 1, &e));
		ASSERT_EQ(UPREEMPT_UNSAFE, e.outcome);
	}
	ms = (raw_now() - ms) / 1000000;
	self->r.slots[t.slot].nopreempt = 0;
	ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	/* two for each of the others (its IPI, its timer's interrupt), one in each ms, and ticks */
	EXPECT_LE(e.attempts, 2 * 100 + 2 * ms + 60);
	EXPECT_LE(50, e.attempts);
	TH_LOG("%u attempts in %llu ms", e.attempts, (unsigned long long)ms);
	EXPECT_EQ(0, raw_target_stop(&t));
}

static volatile int got_signal;

static void on_signal(int sig)
{
	got_signal++;
}

TEST_F(req, wait_that_a_signal_breaks)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	struct itimerval soon = { .it_value.tv_usec = 30000 };
	struct upreempt_request req;
	struct upreempt_event e;
	struct upreempt_stats s;
	struct raw_target t;

	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));
	ASSERT_EQ(0, raw_reader(&t, &self->r, RAW_LANDING));
	req = raw_request_arg(t.slot, UPREEMPT_REDIRECT, UPREEMPT_REQ_WAIT);
	setitimer(ITIMER_REAL, &soon, NULL);
	EXPECT_EQ(-EINTR, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req));
	EXPECT_EQ(1, got_signal);
	EXPECT_NE(0, req.seq);
	/* the request goes on, once */
	ASSERT_EQ(0, raw_stats(&self->r, t.slot, &s));
	EXPECT_EQ(1, s.kinds[UPREEMPT_REDIRECT]);
	EXPECT_EQ(-ETIMEDOUT, raw_wait(&self->r, t.slot, req.seq, 0, &e));
	ASSERT_EQ(1, write(t.pipe[1], "x", 1));
	ASSERT_EQ(0, raw_wait(&self->r, t.slot, req.seq, RAW_LONG_MS, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(0, raw_reader_stop(&t));
}

/* A thread may ask for its own sample and for its own redirect. */
TEST_F(req, requests_to_oneself)
{
	struct raw_target me;
	struct upreempt_event e;
	uint64_t seq;

	raw_target_init(&me, &self->r, NULL, RAW_LANDING);
	ASSERT_EQ(0, raw_target_register(&me));
	ASSERT_EQ(0, raw_ask(&self->r, me.slot, UPREEMPT_SAMPLE, 0, &e));
	EXPECT_EVENT(e, UPREEMPT_BLOCKED, UPREEMPT_R_NONE, UPREEMPT_FRAME_SYSCALL);
	EXPECT_EQ(SYS_ioctl, e.regs.orig_rax);
	for (uint64_t i = 1; i <= 100; i++) {
		ASSERT_EQ(0, raw_post(&self->r, me.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
		/* it landed at that call's return */
		ASSERT_EQ(i, me.land.count);
		ASSERT_EQ(0, raw_wait(&self->r, me.slot, seq, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_EQ(0, e.regs.rax);
	}
	EXPECT_EQ(0, raw_unregister(&self->r, me.slot));
}

RAW_TEST_MAIN
