// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * A program switches preemption off in itself, for all threads or for one: new
 * requests are refused at once and by name. Proves U14, U15.
 */
#include "kselftest_harness.h"
#include "ut.h"

static volatile uint64_t runs;

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	runs++;
}

FIXTURE(off) {
	struct upreempt_domain *domain;
	struct ut_spinner s[2];
};

FIXTURE_SETUP(off)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(4, 64);
	ASSERT_NE(NULL, self->domain);
	for (int i = 0; i < 2; i++) {
		self->s[i].domain = self->domain;
		self->s[i].handler = handler;
		ASSERT_EQ(0, ut_spinner_start(&self->s[i]));
	}
}

FIXTURE_TEARDOWN(off)
{
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, ut_spinner_stop(&self->s[i]));
	upreempt_domain_close(self->domain);
}

/* How many of the three kinds are refused with reason OFF, with no attempt made */
static int refused(struct upreempt_thread *thread)
{
	struct upreempt_event ev;
	int n = 0;

	for (int kind = UPREEMPT_SAMPLE; kind < UPREEMPT_KIND_MAX; kind++) {
		if (ut_request(thread, kind, &ev))
			return -1;
		if (ev.outcome == UPREEMPT_UNSAFE && ev.reason == UPREEMPT_R_OFF && !ev.attempts)
			n++;
		else if (kind == UPREEMPT_STOP)
			upreempt_release(thread, ev.seq);
	}
	return n;
}

TEST_F_TIMEOUT(off, one_thread, 60)
{
	upreempt_thread_set_enabled(self->s[0].thread, false);
	EXPECT_EQ(3, refused(self->s[0].thread));
	EXPECT_EQ(0, runs);
	EXPECT_EQ(0, refused(self->s[1].thread));
	EXPECT_TRUE(UT_UNTIL(runs == 1));
	upreempt_thread_set_enabled(self->s[0].thread, true);
	EXPECT_EQ(0, refused(self->s[0].thread));
	EXPECT_TRUE(UT_UNTIL(runs == 2));
}

TEST_F_TIMEOUT(off, the_process, 60)
{
	upreempt_domain_set_enabled(self->domain, false);
	EXPECT_EQ(3, refused(self->s[0].thread));
	EXPECT_EQ(3, refused(self->s[1].thread));
	EXPECT_EQ(0, runs);
	upreempt_domain_set_enabled(self->domain, true);
	EXPECT_EQ(0, refused(self->s[0].thread));
	EXPECT_EQ(0, refused(self->s[1].thread));
	EXPECT_TRUE(UT_UNTIL(runs == 2));
}

/* The two switches are independent: a thread stays off when the process is on again */
TEST_F_TIMEOUT(off, both, 60)
{
	upreempt_thread_set_enabled(self->s[0].thread, false);
	upreempt_domain_set_enabled(self->domain, false);
	upreempt_domain_set_enabled(self->domain, true);
	EXPECT_EQ(3, refused(self->s[0].thread));
	EXPECT_EQ(0, refused(self->s[1].thread));
	upreempt_thread_set_enabled(self->s[0].thread, true);
}

/* Switching off neither releases who is held nor forgets to release him later */
TEST_F_TIMEOUT(off, does_not_release, 60)
{
	struct ut_spinner *s = &self->s[0];
	struct upreempt_event ev;

	ASSERT_EQ(0, ut_request(s->thread, UPREEMPT_STOP, &ev));
	ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
	upreempt_domain_set_enabled(self->domain, false);
	EXPECT_TRUE(ut_stands(s, 20 * UT_MS));
	EXPECT_EQ(0, upreempt_release(s->thread, ev.seq));
	EXPECT_TRUE(ut_moves(s));
	upreempt_domain_set_enabled(self->domain, true);
}

/* The thread itself may do it, and its regions work on beside it */
TEST_F_TIMEOUT(off, by_the_thread_itself, 60)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);
	struct upreempt_thread *me;

	ASSERT_EQ(0, upreempt_thread_register(self->domain, &o, &me));
	upreempt_thread_set_enabled(me, false);
	upreempt_disable();
	EXPECT_EQ(1, upreempt_slot_self->nopreempt);
	upreempt_enable();
	upreempt_thread_set_enabled(me, true);
	EXPECT_EQ(0, upreempt_thread_unregister(me));
}

TEST_HARNESS_MAIN
