// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Two users of the library in one program, each with a domain of its own, do not
 * get in each other's way. Proves U6, M2, M3.
 */
#include "kselftest_harness.h"
#include "ut.h"

static volatile uint64_t runs[2];

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(*(volatile uint64_t *)arg)++;
}

FIXTURE(two) {
	struct upreempt_domain *domain[2];
	struct ut_spinner s[2];
};

FIXTURE_SETUP(two)
{
	memset(self, 0, sizeof(*self));
	for (int i = 0; i < 2; i++) {
		self->domain[i] = ut_open(4, 64);
		ASSERT_NE(NULL, self->domain[i]);
		self->s[i] = (struct ut_spinner){ .domain = self->domain[i], .handler = handler,
						  .arg = (void *)&runs[i] };
		ASSERT_EQ(0, ut_spinner_start(&self->s[i]));
	}
}

FIXTURE_TEARDOWN(two)
{
	for (int i = 0; i < 2; i++)
		upreempt_domain_close(self->domain[i]);
}

static void stop_all(struct __test_metadata *_metadata, FIXTURE_DATA(two) *self)
{
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, ut_spinner_stop(&self->s[i]));
}

TEST_F_TIMEOUT(two, requests_stay_apart, 60)
{
	uint64_t want[2] = { 0 };
	struct upreempt_event ev;

	EXPECT_NE(upreempt_domain_header(self->domain[0]), upreempt_domain_header(self->domain[1]));
	for (int i = 0; i < 1000; i++) {
		int k = i * 5 % 3 % 2;

		ASSERT_EQ(0, ut_request(self->s[k].thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		ASSERT_EQ((uintptr_t)&self->s[k].count, ev.regs.rdi);
		want[k]++;
		/* out of the handler again, or nearly: the next one is for the other */
		ASSERT_TRUE(UT_UNTIL(runs[k] == want[k]));
		ASSERT_TRUE(ut_moves(&self->s[k]));
	}
	for (int k = 0; k < 2; k++) {
		EXPECT_TRUE(UT_UNTIL(runs[k] == want[k]));
		EXPECT_EQ(want[k], runs[k]);
	}
	stop_all(_metadata, self);
}

TEST_F_TIMEOUT(two, switches_stay_apart, 60)
{
	struct upreempt_event ev;

	upreempt_domain_set_enabled(self->domain[0], false);
	ASSERT_EQ(0, ut_request(self->s[0].thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_UNSAFE, ev.outcome);
	EXPECT_EQ(UPREEMPT_R_OFF, ev.reason);
	ASSERT_EQ(0, ut_request(self->s[1].thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	upreempt_domain_set_enabled(self->domain[0], true);
	stop_all(_metadata, self);
}

TEST_F_TIMEOUT(two, one_is_closed, 60)
{
	struct upreempt_event ev;
	uint64_t seq;

	ASSERT_EQ(0, ut_request(self->s[1].thread, UPREEMPT_STOP, &ev));
	ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
	seq = ev.seq;
	EXPECT_EQ(0, ut_spinner_stop(&self->s[0]));
	upreempt_domain_close(self->domain[0]);
	self->domain[0] = NULL;
	EXPECT_TRUE(ut_stands(&self->s[1], 20 * UT_MS));
	EXPECT_EQ(0, upreempt_release(self->s[1].thread, seq));
	ASSERT_EQ(0, ut_request(self->s[1].thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_TRUE(UT_UNTIL(runs[1] == 1));
	EXPECT_EQ(0, ut_spinner_stop(&self->s[1]));
}

/* A thread that left one domain may join the other */
TEST_F_TIMEOUT(two, one_thread_after_the_other, 60)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler, .arg = (void *)&runs[0]);
	struct upreempt_thread *t, *again;

	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, upreempt_thread_register(self->domain[i % 2], &o, &t));
		EXPECT_EQ(-EEXIST, upreempt_thread_register(self->domain[!(i % 2)], &o, &again));
		EXPECT_EQ(t, upreempt_thread_self());
		ASSERT_EQ(0, upreempt_thread_unregister(t));
	}
	stop_all(_metadata, self);
}

/* The signal backend beside the other one: where the module is, both are in use here */
TEST_F_TIMEOUT(two, both_backends_at_once, 60)
{
	UPREEMPT_OPTS(upreempt_domain_opts, o, .backend = UPREEMPT_BACKEND_SIGNAL);
	struct ut_spinner s = { .handler = handler, .arg = (void *)&runs[1] };
	struct upreempt_event ev;

	ASSERT_EQ(0, upreempt_domain_open(&o, &s.domain));
	ASSERT_EQ(0, ut_spinner_start(&s));
	for (int i = 0; i < 200; i++) {
		ASSERT_EQ(0, ut_request(s.thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		ASSERT_EQ(0, ut_request(self->s[0].thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
	}
	EXPECT_TRUE(UT_UNTIL(runs[0] == 200 && runs[1] == 200));
	EXPECT_EQ(0, ut_spinner_stop(&s));
	upreempt_domain_close(s.domain);
	stop_all(_metadata, self);
}

TEST_HARNESS_MAIN
