// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Between upreempt_disable() and upreempt_enable() nothing stops the thread; what
 * was asked meanwhile comes at the enable, once. Proves R5, M8, M18, U9, U15.
 */
#include "kselftest_harness.h"
#include "ut.h"

static volatile uint64_t runs;
static volatile int in_region;
static volatile int bad;

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	bad += in_region;
	runs++;
}

/* The steps of a thread that the test drives one by one */
struct stepper {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	pthread_t pthread;
	volatile int go, at;
	volatile uint64_t after_inner, after_outer;
	int error;
};

static void step(struct stepper *s, int n)
{
	s->at = n;
	while (s->go < n)
		;
}

static void *stepper_main(void *arg)
{
	struct stepper *s = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);

	s->error = upreempt_thread_register(s->domain, &o, &s->thread);
	if (s->error) {
		s->at = 99;
		return NULL;
	}
	upreempt_disable();
	upreempt_disable();
	in_region = 1;
	step(s, 1);
	in_region = 1;
	upreempt_enable();
	s->after_inner = runs;
	step(s, 2);
	in_region = 0;
	upreempt_enable();
	s->after_outer = runs;
	step(s, 3);
	s->error = upreempt_thread_unregister(s->thread);
	return NULL;
}

FIXTURE(region) {
	struct upreempt_domain *domain;
	struct stepper s;
};

FIXTURE_SETUP(region)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(4, 64);
	ASSERT_NE(NULL, self->domain);
	self->s.domain = self->domain;
}

FIXTURE_TEARDOWN(region)
{
	upreempt_domain_close(self->domain);
}

TEST_F_TIMEOUT(region, nesting_and_delivery_at_enable, 60)
{
	struct stepper *s = &self->s;
	struct upreempt_event ev;
	uint64_t seq[3];

	ASSERT_EQ(0, pthread_create(&s->pthread, NULL, stepper_main, s));
	ASSERT_TRUE(UT_UNTIL(s->at));
	ASSERT_EQ(1, s->at);
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, ut_post(s->thread, UPREEMPT_REDIRECT, &seq[i]));
	ut_sleep(30 * UT_MS);
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(-ETIMEDOUT, upreempt_wait(s->thread, seq[i], 1, &ev));
	EXPECT_EQ(0, runs);
	/* its registers can be read all the same */
	ASSERT_EQ(0, ut_request(s->thread, UPREEMPT_SAMPLE, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_EQ(UPREEMPT_FRAME_USER, ev.frame);
	/* the inner region ends: nothing yet */
	s->go = 1;
	ASSERT_TRUE(UT_UNTIL(s->at == 2));
	EXPECT_EQ(0, s->after_inner);
	ut_sleep(10 * UT_MS);
	EXPECT_EQ(0, runs);
	/* the outer one ends: each of them at once, before the next statement */
	s->go = 2;
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, upreempt_wait(s->thread, seq[i], ut_limit(), &ev));
		EXPECT_TRUE(ev.outcome == UPREEMPT_LANDED || ev.outcome == UPREEMPT_COOPERATED);
		EXPECT_LT(0, ev.attempts);
	}
	ASSERT_TRUE(UT_UNTIL(s->at == 3));
	EXPECT_EQ(3, s->after_outer);
	EXPECT_EQ(3, runs);
	EXPECT_EQ(0, bad);
	s->go = 3;
	ASSERT_EQ(0, pthread_join(s->pthread, NULL));
	EXPECT_EQ(0, s->error);
}

/* A region is never entered by a handler, however often it is opened and closed */
struct worker {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	pthread_t pthread;
	volatile int quit, ready;
	volatile uint64_t rounds;
	int error;
};

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);

	w->error = upreempt_thread_register(w->domain, &o, &w->thread);
	w->ready = 1;
	if (w->error)
		return NULL;
	while (!w->quit) {
		upreempt_disable();
		in_region = 1;
		for (volatile int i = 0; i < 100; i++)
			;
		in_region = 0;
		upreempt_enable();
		for (volatile int i = 0; i < 20; i++)
			;
		w->rounds++;
	}
	w->error = upreempt_thread_unregister(w->thread);
	return NULL;
}

TEST_F_TIMEOUT(region, never_entered, 120)
{
	struct worker w = { .domain = self->domain };
	uint64_t n = ut_scale(50000), landed = 0, attempts = 0;
	struct upreempt_event ev;

	ASSERT_EQ(0, pthread_create(&w.pthread, NULL, worker_main, &w));
	ASSERT_TRUE(UT_UNTIL(w.ready));
	ASSERT_EQ(0, w.error);
	UT_FOR(i, n, 8) {
		ASSERT_EQ(0, ut_request(w.thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_TRUE(ev.outcome == UPREEMPT_LANDED || ev.outcome == UPREEMPT_COOPERATED);
		landed++;
		attempts += ev.attempts;
	}
	EXPECT_TRUE(UT_UNTIL(runs >= landed));
	w.quit = 1;
	ASSERT_EQ(0, pthread_join(w.pthread, NULL));
	EXPECT_EQ(0, w.error);
	EXPECT_EQ(0, bad);
	EXPECT_EQ(landed, runs);
	printf("# %llu redirects, %llu deferrals, %llu regions\n", (unsigned long long)landed,
	       (unsigned long long)attempts, (unsigned long long)w.rounds);
}

/* Requests in vain cost the thread little: it gets on while they are retried */
TEST_F_TIMEOUT(region, retries_do_not_starve_it, 60)
{
	struct ut_spinner s = { .domain = self->domain, .handler = handler, .disabled = true };
	uint64_t before, quiet, asked, seq[4];
	struct upreempt_event ev;

	ASSERT_EQ(0, ut_spinner_start(&s));
	before = s.count;
	ut_sleep(200 * UT_MS);
	quiet = s.count - before;
	for (int i = 0; i < 4; i++)
		ASSERT_EQ(0, ut_post(s.thread, UPREEMPT_REDIRECT, &seq[i]));
	before = s.count;
	ut_sleep(200 * UT_MS);
	asked = s.count - before;
	printf("# speed while four requests wait: %.1f %%\n", 100.0 * asked / quiet);
	EXPECT_LT(0, asked);
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(0, upreempt_cancel(s.thread, seq[i]));
		ASSERT_EQ(0, upreempt_wait(s.thread, seq[i], ut_limit(), &ev));
		EXPECT_EQ(UPREEMPT_CANCELLED, ev.outcome);
	}
	EXPECT_EQ(0, runs);
	EXPECT_EQ(0, ut_spinner_stop(&s));
}

/* A thread that was never registered pays nothing and breaks nothing */
TEST(not_registered)
{
	EXPECT_EQ(NULL, upreempt_thread_self());
	for (int i = 0; i < 1000; i++) {
		upreempt_disable();
		upreempt_disable();
		upreempt_enable();
		upreempt_enable();
	}
	upreempt_check();
}

TEST_HARNESS_MAIN
