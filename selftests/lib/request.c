// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Requests: every one ends in exactly one typed outcome, at the thread that was
 * meant and at no other; waiting, deadlines, cancelling, holding and releasing.
 * Proves R2-R5, R14, M2, M3, M8, M9, M12, M15, U9, U10 (goal G19).
 */
#include "kselftest_harness.h"
#include "ut.h"

static volatile uint64_t runs[8];
static volatile uint64_t last_cookie;

static void count_run(struct upreempt_context *ctx, void *arg)
{
	last_cookie = upreempt_context_cookie(ctx);
	(*(volatile uint64_t *)arg)++;
}

FIXTURE(request) {
	struct upreempt_domain *domain;
	struct ut_spinner s[4];
	int n;
};

static int spin_up(FIXTURE_DATA(request) *self, int n)
{
	for (; self->n < n; self->n++) {
		struct ut_spinner *s = &self->s[self->n];

		s->domain = self->domain;
		s->handler = count_run;
		s->arg = (void *)&runs[self->n];
		if (ut_spinner_start(s))
			return -1;
	}
	return 0;
}

FIXTURE_SETUP(request)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(8, 64);
	ASSERT_NE(NULL, self->domain);
}

FIXTURE_TEARDOWN(request)
{
	for (int i = 0; i < self->n; i++)
		EXPECT_EQ(0, ut_spinner_stop(&self->s[i]));
	upreempt_domain_close(self->domain);
}

TEST_F_TIMEOUT(request, each_kind_lands, 60)
{
	uint64_t seq = 0, before, after;
	struct upreempt_event ev;

	ASSERT_EQ(0, spin_up(self, 1));
	for (int kind = UPREEMPT_SAMPLE; kind < UPREEMPT_KIND_MAX; kind++) {
		UPREEMPT_OPTS(upreempt_request_opts, o, .kind = kind, .cookie = 0x1000 + kind,
			      .deadline_ns = ut_limit());

		memset(&ev, 0xcc, sizeof(ev));
		before = ut_now();
		ASSERT_EQ(0, upreempt_request(self->s[0].thread, &o, &ev));
		after = ut_now();
		EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
		EXPECT_EQ(UPREEMPT_R_NONE, ev.reason);
		EXPECT_EQ(UPREEMPT_FRAME_USER, ev.frame);
		EXPECT_EQ(kind, ev.kind);
		EXPECT_EQ(o.cookie, ev.cookie);
		EXPECT_LT(seq, ev.seq);
		seq = ev.seq;
		EXPECT_EQ(upreempt_thread_slot(self->s[0].thread), ev.slot);
		EXPECT_EQ(upreempt_thread_tid(self->s[0].thread), ev.tid);
		EXPECT_LE(before, ev.request_ns);
		EXPECT_LE(ev.request_ns, ev.final_ns);
		EXPECT_LE(ev.final_ns, after);
		EXPECT_TRUE(ut_in_spin(ev.regs.rip));
		EXPECT_EQ((uintptr_t)&self->s[0].count, ev.regs.rdi);
		EXPECT_EQ((uintptr_t)&self->s[0].quit, ev.regs.rsi);
		EXPECT_EQ(0, ev.strategy);
		if (kind == UPREEMPT_STOP) {
			EXPECT_TRUE(ut_stands(&self->s[0], 20 * UT_MS));
			EXPECT_EQ(0, upreempt_release(self->s[0].thread, ev.seq));
			EXPECT_EQ(-ENOENT, upreempt_release(self->s[0].thread, ev.seq));
		}
		EXPECT_TRUE(ut_moves(&self->s[0]));
	}
	EXPECT_TRUE(UT_UNTIL(runs[0]));
	EXPECT_EQ(1, runs[0]);
	EXPECT_EQ(0x1000 + UPREEMPT_REDIRECT, last_cookie);
}

TEST_F_TIMEOUT(request, post_and_wait, 60)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT, .cookie = 7);
	struct upreempt_event ev;
	uint64_t seq;

	ASSERT_EQ(0, spin_up(self, 1));
	o.deadline_ns = ut_limit();
	ASSERT_EQ(0, upreempt_post(self->s[0].thread, &o, &seq));
	ASSERT_EQ(0, upreempt_wait(self->s[0].thread, seq, ut_limit(), &ev));
	EXPECT_EQ(seq, ev.seq);
	EXPECT_EQ(7, ev.cookie);
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_EQ(-ENOENT, upreempt_wait(self->s[0].thread, seq, 1, &ev));
	EXPECT_EQ(-ENOENT, upreempt_cancel(self->s[0].thread, seq));
}

/* A thread in a region is asked in vain: waiting ends, the request goes on, or is cancelled */
TEST_F_TIMEOUT(request, wait_cancel_and_deadline, 60)
{
	struct ut_spinner *s = &self->s[0];
	struct upreempt_event ev;
	uint64_t seq, start;

	s->disabled = true;
	ASSERT_EQ(0, spin_up(self, 1));
	ASSERT_EQ(0, ut_post(s->thread, UPREEMPT_REDIRECT, &seq));
	EXPECT_EQ(-ETIMEDOUT, upreempt_wait(s->thread, seq, 1, &ev));
	start = ut_now();
	EXPECT_EQ(-ETIMEDOUT, upreempt_wait(s->thread, seq, start + 20 * UT_MS, &ev));
	EXPECT_LE(start + 20 * UT_MS, ut_now());
	EXPECT_EQ(0, upreempt_cancel(s->thread, seq));
	EXPECT_EQ(-EALREADY, upreempt_cancel(s->thread, seq));
	ASSERT_EQ(0, upreempt_wait(s->thread, seq, ut_limit(), &ev));
	EXPECT_EQ(UPREEMPT_CANCELLED, ev.outcome);
	EXPECT_EQ(-ENOENT, upreempt_cancel(s->thread, seq));

	for (int kind = UPREEMPT_STOP; kind <= UPREEMPT_REDIRECT; kind++) {
		UPREEMPT_OPTS(upreempt_request_opts, o, .kind = kind);

		start = ut_now();
		o.deadline_ns = start + 50 * UT_MS;
		ASSERT_EQ(0, upreempt_request(s->thread, &o, &ev));
		EXPECT_EQ(UPREEMPT_UNSAFE, ev.outcome);
		EXPECT_EQ(UPREEMPT_R_DISABLED, ev.reason);
		EXPECT_LE(o.deadline_ns, ev.final_ns);
		EXPECT_LT(0, ev.attempts);
		EXPECT_TRUE(ut_in_spin(ev.regs.rip));
		EXPECT_EQ(-ENOENT, upreempt_release(s->thread, ev.seq));
	}
	EXPECT_TRUE(ut_moves(s));
	EXPECT_EQ(0, runs[0]);
}

TEST_F_TIMEOUT(request, deadline_in_the_past, 60)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT);
	struct upreempt_event ev;

	ASSERT_EQ(0, spin_up(self, 1));
	o.deadline_ns = ut_now() - UT_SEC;
	ASSERT_EQ(0, upreempt_request(self->s[0].thread, &o, &ev));
	EXPECT_EQ(UPREEMPT_UNSAFE, ev.outcome);
	EXPECT_EQ(UPREEMPT_R_NOT_RUN, ev.reason);
	ut_sleep(10 * UT_MS);
	EXPECT_EQ(0, runs[0]);
	/* and the thread takes the next one */
	ASSERT_EQ(0, ut_request(self->s[0].thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_TRUE(UT_UNTIL(runs[0] == 1));
}

/* Two holders: the thread goes on when both have let go; order does not matter */
TEST_F_TIMEOUT(request, stops_nest, 60)
{
	struct ut_spinner *s = &self->s[0];
	struct upreempt_event a, b;

	ASSERT_EQ(0, spin_up(self, 1));
	ASSERT_EQ(0, ut_request(s->thread, UPREEMPT_STOP, &a));
	ASSERT_EQ(0, ut_request(s->thread, UPREEMPT_STOP, &b));
	EXPECT_EQ(UPREEMPT_LANDED, b.outcome);
	EXPECT_EQ(0, memcmp(&a.regs, &b.regs, offsetof(struct upreempt_regs, orig_rax)));
	EXPECT_EQ(0, upreempt_release(s->thread, a.seq));
	EXPECT_TRUE(ut_stands(s, 20 * UT_MS));
	EXPECT_EQ(0, upreempt_release(s->thread, b.seq));
	EXPECT_TRUE(ut_moves(s));
}

/* What is asked of a held thread: its registers at once, a redirect when it goes on */
TEST_F_TIMEOUT(request, asking_a_held_thread, 60)
{
	struct ut_spinner *s = &self->s[0];
	struct upreempt_event held, ev;
	uint64_t seq;

	ASSERT_EQ(0, spin_up(self, 1));
	ASSERT_EQ(0, ut_request(s->thread, UPREEMPT_STOP, &held));
	ASSERT_EQ(0, ut_request(s->thread, UPREEMPT_SAMPLE, &ev));
	EXPECT_EQ(held.regs.rip, ev.regs.rip);
	EXPECT_EQ(held.regs.rsp, ev.regs.rsp);
	ASSERT_EQ(0, ut_post(s->thread, UPREEMPT_REDIRECT, &seq));
	ut_sleep(20 * UT_MS);
	EXPECT_EQ(0, runs[0]);
	EXPECT_EQ(0, upreempt_release(s->thread, held.seq));
	ASSERT_EQ(0, upreempt_wait(s->thread, seq, ut_limit(), &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_TRUE(UT_UNTIL(runs[0] == 1));
	EXPECT_TRUE(ut_moves(s));
}

/* Releasing a STOP that has not stopped anything yet takes it back */
TEST_F_TIMEOUT(request, release_before_it_landed, 60)
{
	struct ut_spinner *s = &self->s[0];
	struct upreempt_event ev;
	uint64_t seq;

	s->disabled = true;
	ASSERT_EQ(0, spin_up(self, 1));
	ASSERT_EQ(0, ut_post(s->thread, UPREEMPT_STOP, &seq));
	EXPECT_EQ(0, upreempt_release(s->thread, seq));
	EXPECT_TRUE(ut_moves(s));
	ASSERT_EQ(0, upreempt_wait(s->thread, seq, ut_limit(), &ev));
	EXPECT_EQ(UPREEMPT_CANCELLED, ev.outcome);
}

TEST_F_TIMEOUT(request, only_the_thread_that_is_meant, 120)
{
	uint64_t n = ut_scale(1000), want[3] = { 0 };
	struct upreempt_event ev;

	ASSERT_EQ(0, spin_up(self, 3));
	UT_FOR(i, n, 8) {
		int k = i * 7 % 3;

		ASSERT_EQ(0, ut_request(self->s[k].thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		ASSERT_EQ(upreempt_thread_tid(self->s[k].thread), ev.tid);
		ASSERT_EQ((uintptr_t)&self->s[k].count, ev.regs.rdi);
		want[k]++;
		ASSERT_TRUE(UT_UNTIL(runs[k] == want[k]));
		ASSERT_TRUE(ut_moves(&self->s[k]));
	}
	for (int k = 0; k < 3; k++) {
		EXPECT_TRUE(UT_UNTIL(runs[k] >= want[k]));
		EXPECT_EQ(want[k], runs[k]);
	}
}

/* Non-sticky: many are held, each is let go by itself, in another order */
TEST_F_TIMEOUT(request, released_in_any_order, 60)
{
	static const int order[4] = { 2, 0, 3, 1 };
	struct upreempt_event ev[4];

	ASSERT_EQ(0, spin_up(self, 4));
	for (int i = 0; i < 4; i++)
		ASSERT_EQ(0, ut_request(self->s[i].thread, UPREEMPT_STOP, &ev[i]));
	for (int i = 0; i < 4; i++) {
		int k = order[i];

		EXPECT_TRUE(ut_stands(&self->s[k], 5 * UT_MS));
		EXPECT_EQ(0, upreempt_release(self->s[k].thread, ev[k].seq));
		EXPECT_TRUE(ut_moves(&self->s[k]));
		for (int j = i + 1; j < 4; j++)
			EXPECT_TRUE(ut_stands(&self->s[order[j]], 2 * UT_MS));
	}
}

TEST_F_TIMEOUT(request, many, 60)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_STOP);
	struct upreempt_thread *threads[4];
	struct upreempt_event ev[4];

	ASSERT_EQ(0, spin_up(self, 4));
	for (int i = 0; i < 4; i++)
		threads[i] = self->s[i].thread;
	o.deadline_ns = ut_limit();
	memset(ev, 0xcc, sizeof(ev));
	ASSERT_EQ(4, upreempt_request_many(threads, 4, &o, ev));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(UPREEMPT_LANDED, ev[i].outcome);
		EXPECT_EQ(upreempt_thread_slot(threads[i]), ev[i].slot);
		EXPECT_TRUE(ut_stands(&self->s[i], 2 * UT_MS));
	}
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(0, upreempt_release(threads[i], ev[i].seq));
	o.kind = UPREEMPT_REDIRECT;
	upreempt_thread_set_enabled(threads[2], false);
	o.deadline_ns = ut_limit();
	ASSERT_EQ(3, upreempt_request_many(threads, 4, &o, ev));
	EXPECT_EQ(UPREEMPT_UNSAFE, ev[2].outcome);
	EXPECT_EQ(UPREEMPT_R_OFF, ev[2].reason);
	EXPECT_EQ(0, upreempt_request_many(threads, 0, &o, ev));
}

/* The pool of a thread is bounded, its exhaustion an error, and nothing is lost by it */
TEST_F_TIMEOUT(request, too_many_outstanding, 60)
{
	struct upreempt_info info = { .size = sizeof(info) };
	struct ut_spinner *s = &self->s[0];
	struct upreempt_event ev;
	uint64_t seq[512];
	uint32_t n = 0;
	int err = 0;

	ASSERT_EQ(0, upreempt_get_info(&info));
	s->disabled = true;
	ASSERT_EQ(0, spin_up(self, 1));
	while (n < 512 && !(err = ut_post(s->thread, UPREEMPT_REDIRECT, &seq[n])))
		n++;
	EXPECT_EQ(-EAGAIN, err);
	if (ut_is_kmod(self->domain))
		EXPECT_EQ(info.max_requests, n);
	EXPECT_LE(1, n);
	for (uint32_t i = 0; i < n; i++) {
		EXPECT_EQ(0, upreempt_cancel(s->thread, seq[i]));
		ASSERT_EQ(0, upreempt_wait(s->thread, seq[i], ut_limit(), &ev));
		EXPECT_EQ(UPREEMPT_CANCELLED, ev.outcome);
		EXPECT_EQ(seq[i], ev.seq);
	}
	ASSERT_EQ(0, ut_post(s->thread, UPREEMPT_REDIRECT, &seq[0]));
	s->quit = 1;			/* leaves the region */
	ASSERT_EQ(0, upreempt_wait(s->thread, seq[0], ut_limit(), &ev));
	EXPECT_TRUE(ev.outcome == UPREEMPT_LANDED || ev.outcome == UPREEMPT_COOPERATED ||
		    ev.outcome == UPREEMPT_GONE);
}

/* Requests that wait together are delivered together or one by one, each once */
TEST_F_TIMEOUT(request, queued_requests_all_land, 60)
{
	struct ut_spinner *s = &self->s[0];
	struct upreempt_event held, ev;
	uint64_t seq[8];

	ASSERT_EQ(0, spin_up(self, 1));
	ASSERT_EQ(0, ut_request(s->thread, UPREEMPT_STOP, &held));
	for (int i = 0; i < 8; i++)
		ASSERT_EQ(0, ut_post(s->thread, UPREEMPT_REDIRECT, &seq[i]));
	ASSERT_EQ(0, upreempt_release(s->thread, held.seq));
	for (int i = 0; i < 8; i++) {
		ASSERT_EQ(0, upreempt_wait(s->thread, seq[i], ut_limit(), &ev));
		EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	}
	EXPECT_TRUE(UT_UNTIL(runs[0] >= 8));
	ut_sleep(5 * UT_MS);
	EXPECT_EQ(8, runs[0]);
	EXPECT_TRUE(ut_moves(s));
}

struct hammer {
	struct ut_spinner *target;
	pthread_t pthread;
	uint64_t n, landed, other;
};

static void *hammer_main(void *arg)
{
	struct hammer *h = arg;
	struct upreempt_event ev;

	UT_FOR(i, h->n, 8) {
		int err = ut_request(h->target->thread, UPREEMPT_REDIRECT, &ev);

		if (!err && ev.outcome == UPREEMPT_LANDED)
			h->landed++;
		else if (err != -EAGAIN)
			h->other++;
	}
	return NULL;
}

TEST_F_TIMEOUT(request, hammered_by_many, 120)
{
	struct hammer h[8];
	uint64_t landed = 0;

	ASSERT_EQ(0, spin_up(self, 1));
	for (int i = 0; i < 8; i++) {
		h[i] = (struct hammer){ .target = &self->s[0], .n = ut_scale(2500) };
		ASSERT_EQ(0, pthread_create(&h[i].pthread, NULL, hammer_main, &h[i]));
	}
	for (int i = 0; i < 8; i++) {
		ASSERT_EQ(0, pthread_join(h[i].pthread, NULL));
		landed += h[i].landed;
		EXPECT_EQ(0, h[i].other);
	}
	EXPECT_TRUE(UT_UNTIL(runs[0] >= landed));
	EXPECT_EQ(landed, runs[0]);
	EXPECT_LT(0, landed);
	EXPECT_TRUE(ut_moves(&self->s[0]));
}

/* Of oneself: the handler has run when the wait is over */
TEST_F_TIMEOUT(request, of_oneself, 60)
{
	UPREEMPT_OPTS(upreempt_thread_opts, t, .handler = count_run, .arg = (void *)&runs[7]);
	struct upreempt_thread *me;
	struct upreempt_event ev;
	uint64_t seq;

	ASSERT_EQ(0, upreempt_thread_register(self->domain, &t, &me));
	for (int i = 1; i <= 100; i++) {
		ASSERT_EQ(0, ut_post(me, UPREEMPT_REDIRECT, &seq));
		ASSERT_EQ(0, upreempt_wait(me, seq, ut_limit(), &ev));
		EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
		EXPECT_EQ(i, runs[7]);
	}
	ASSERT_EQ(0, ut_request(me, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_EQ(101, runs[7]);
	ASSERT_EQ(0, ut_request(me, UPREEMPT_SAMPLE, &ev));
	EXPECT_TRUE(ev.outcome == UPREEMPT_LANDED || ev.outcome == UPREEMPT_BLOCKED);
	EXPECT_EQ(0, upreempt_thread_unregister(me));
}

static volatile int two_ready;

struct duel {
	struct upreempt_domain *domain;
	struct upreempt_thread *self;
	struct duel *other;
	pthread_t pthread;
	uint64_t landed, runs, wrong;
	volatile int done;
};

static void *duel_main(void *arg)
{
	struct duel *d = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, t, .handler = count_run, .arg = &d->runs);
	struct upreempt_event ev;
	uint64_t n = ut_scale(2000);

	if (upreempt_thread_register(d->domain, &t, &d->self))
		return (void *)1;
	__atomic_fetch_add(&two_ready, 1, __ATOMIC_SEQ_CST);
	if (!UT_UNTIL(two_ready == 2))
		return (void *)2;
	UT_FOR(i, n, 8) {
		if (ut_request(d->other->self, UPREEMPT_REDIRECT, &ev) ||
		    ev.outcome != UPREEMPT_LANDED)
			d->wrong++;
		else
			d->landed++;
	}
	d->done = 1;
	if (!UT_UNTIL(d->other->done))
		d->wrong++;
	return (void *)(intptr_t)upreempt_thread_unregister(d->self);
}

/* Two threads that redirect each other, each while it waits for the other */
TEST_F_TIMEOUT(request, each_other, 120)
{
	struct duel d[2] = { { .domain = self->domain, .other = &d[1] },
			     { .domain = self->domain, .other = &d[0] } };
	void *ret;

	two_ready = 0;
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&d[i].pthread, NULL, duel_main, &d[i]));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_join(d[i].pthread, &ret));
		EXPECT_EQ(NULL, ret);
		EXPECT_EQ(0, d[i].wrong);
	}
	EXPECT_EQ(d[0].landed, d[1].runs);
	EXPECT_EQ(d[1].landed, d[0].runs);
}

TEST_HARNESS_MAIN
