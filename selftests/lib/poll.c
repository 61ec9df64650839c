// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Coming by oneself: a grace lets a thread be stopped at its polls and nowhere else, its end
 * forces; and what is left to be done at a poll is done there once. Proves U7, U10.
 */
#include "kselftest_harness.h"
#include "ut_world.h"

static volatile uint64_t runs;

static void count_run(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	__atomic_add_fetch(&runs, 1, __ATOMIC_SEQ_CST);
}

FIXTURE(poll) {
	struct upreempt_domain *domain;
	struct ut_poller p;
	bool kmod;
};

FIXTURE_VARIANT(poll) {
	enum ut_poll how;
};

FIXTURE_VARIANT_ADD(poll, call) {
	.how = UT_POLL,
};

FIXTURE_VARIANT_ADD(poll, load) {
	.how = UT_POLL_LOAD,
};

FIXTURE_VARIANT_ADD(poll, counted) {
	.how = UT_POLL_COUNTED,
};

FIXTURE_SETUP(poll)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(8, 64);
	ASSERT_NE(NULL, self->domain);
	self->kmod = ut_is_kmod(self->domain);
	self->p = (struct ut_poller){ .domain = self->domain, .handler = count_run,
				      .how = variant->how };
	ASSERT_EQ(0, ut_poller_start(&self->p));
}

FIXTURE_TEARDOWN(poll)
{
	EXPECT_EQ(0, ut_poller_stop(&self->p));
	upreempt_domain_close(self->domain);
}

/* A load never faults with the signal backend: nobody comes by himself */
#define COMES	(self->kmod || variant->how != UT_POLL_LOAD)

static int request(struct upreempt_thread *t, enum upreempt_kind kind, uint64_t grace_ns,
		   struct upreempt_event *ev)
{
	UPREEMPT_OPTS(upreempt_request_opts, opts, .kind = kind, .grace_ns = grace_ns,
		      .deadline_ns = ut_limit());
	int ret = upreempt_request(t, &opts, ev);

	if (!ret && kind == UPREEMPT_STOP && ev->outcome != UPREEMPT_UNSAFE)
		ret = upreempt_release(t, ev->seq);
	return ret;
}

TEST_F_TIMEOUT(poll, comes_by_itself, 90)
{
	uint64_t n = 0, came = 0, want = 0;
	struct upreempt_event ev;

	UT_FOR(i, COMES ? ut_scale(6000) : 5, 8) {
		enum upreempt_kind kind = UPREEMPT_SAMPLE + i % 3;

		ASSERT_EQ(0, request(self->p.thread, kind, COMES ? 5 * UT_SEC : 5 * UT_MS, &ev));
		ASSERT_EQ(UPREEMPT_R_NONE, ev.reason);
		n++;
		came += ev.outcome != UPREEMPT_LANDED;
		/* Switched out in the call of its poll, as real-time kernels like to do */
		if (ev.outcome == UPREEMPT_BLOCKED && self->kmod && variant->how != UT_POLL_LOAD) {
			ASSERT_EQ(UPREEMPT_FRAME_SYSCALL, ev.frame);
			continue;
		}
		ASSERT_EQ(UPREEMPT_FRAME_USER, ev.frame);
		if (ev.outcome != UPREEMPT_COOPERATED)
			ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		want += kind == UPREEMPT_REDIRECT;
		ASSERT_TRUE(UT_UNTIL(runs == want));
	}
	if (COMES) {
		EXPECT_LE(n * 999, (came + 1) * 1000);
	} else {
		EXPECT_EQ(0, came);
	}
	EXPECT_LT(2, n);
	printf("# %llu of %llu came\n", (unsigned long long)came, (unsigned long long)n);
}

static bool moves(struct ut_poller *p)
{
	uint64_t before = p->count;

	return UT_UNTIL(p->count != before);
}

TEST_F_TIMEOUT(poll, world_comes_by_itself, 90)
{
	struct ut_poller more[2];
	struct upreempt_world w;
	uint64_t n = 0, came = 0, all = 0, before;

	for (int i = 0; i < 2; i++) {
		more[i] = (struct ut_poller){ .domain = self->domain, .how = variant->how };
		ASSERT_EQ(0, ut_poller_start(&more[i]));
	}
	UT_FOR(i, COMES ? ut_scale(3000) : 5, 8) {
		ASSERT_EQ(0, ut_world_stop(self->domain, COMES ? 5 * UT_SEC : 5 * UT_MS, &w));
		ASSERT_TRUE(ut_world_ok(&w));
		ASSERT_EQ(3, w.threads);
		came += w.cooperated;
		all += w.threads;
		before = self->p.count + more[0].count + more[1].count;
		ut_busy(20000);
		ASSERT_EQ(before, self->p.count + more[0].count + more[1].count);
		ASSERT_EQ(0, upreempt_world_start(self->domain));
		/* who did not run since the last stop would stand already */
		ASSERT_TRUE(moves(&self->p) && moves(&more[0]) && moves(&more[1]));
		n++;
	}
	/* 99.9 %, and one in a run of less than a thousand: it may be found inside its poll */
	if (COMES) {
		EXPECT_LE(all * 999, (came + 1) * 1000);
	} else {
		EXPECT_EQ(0, came);
	}
	EXPECT_LT(2, n);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, ut_poller_stop(&more[i]));
	printf("# %llu of %llu came\n", (unsigned long long)came, (unsigned long long)all);
}

/* Whoever does not poll is left alone until the end of the grace, and not longer */
TEST_F_TIMEOUT(poll, forced_at_the_end, 60)
{
	struct upreempt_stats before, after;
	struct upreempt_event ev;
	uint64_t grace = 30 * UT_MS, late = 0;

	self->p.mute = 1;
	ut_sleep(20 * UT_MS);
	ASSERT_EQ(0, upreempt_thread_stats(self->p.thread, &before));
	for (int i = 0; i < 15; i++) {
		ASSERT_EQ(0, request(self->p.thread, UPREEMPT_SAMPLE + i % 3, grace, &ev));
		EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
		EXPECT_EQ(UPREEMPT_R_NONE, ev.reason);
		EXPECT_LE(ev.request_ns + grace, ev.final_ns);
		late += ev.final_ns - ev.request_ns - grace;
	}
	EXPECT_TRUE(UT_UNTIL(runs == 5));
	EXPECT_GT(15 * UT_SEC, late);
	ASSERT_EQ(0, upreempt_thread_stats(self->p.thread, &after));
	EXPECT_EQ(0, after.outcomes[UPREEMPT_COOPERATED] - before.outcomes[UPREEMPT_COOPERATED]);
	printf("# forced %llu us late on average\n", (unsigned long long)late / 15000);
}

/* The deadline comes before the end of the grace */
TEST_F_TIMEOUT(poll, deadline_in_the_grace, 60)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT, .grace_ns = 60 * UT_SEC);
	UPREEMPT_OPTS(upreempt_world_opts, wo, .grace_ns = 60 * UT_SEC);
	struct upreempt_event ev;
	struct upreempt_world w;

	self->p.mute = 1;
	ut_sleep(20 * UT_MS);
	for (int kind = UPREEMPT_SAMPLE; kind < UPREEMPT_KIND_MAX; kind++) {
		o.kind = kind;
		o.deadline_ns = ut_now() + 30 * UT_MS;
		ASSERT_EQ(0, upreempt_request(self->p.thread, &o, &ev));
		EXPECT_EQ(UPREEMPT_UNSAFE, ev.outcome);
		EXPECT_TRUE(ev.reason == UPREEMPT_R_GRACE || ev.reason == UPREEMPT_R_NOT_RUN);
		EXPECT_LE(o.deadline_ns, ev.final_ns);
	}
	wo.deadline_ns = ut_now() + 30 * UT_MS;
	EXPECT_EQ(1, upreempt_world_stop(self->domain, &wo, &w));
	EXPECT_TRUE(ut_world_ok(&w));
	EXPECT_EQ(upreempt_thread_tid(self->p.thread), w.late[0].tid);
	EXPECT_TRUE(w.late[0].reason == UPREEMPT_R_GRACE || w.late[0].reason == UPREEMPT_R_NOT_RUN);
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	EXPECT_EQ(0, runs);
}

TEST_F_TIMEOUT(poll, world_forced_at_the_end, 60)
{
	struct upreempt_world w;
	uint64_t before;

	self->p.mute = 1;
	ut_sleep(20 * UT_MS);
	for (int i = 0; i < 10; i++) {
		ASSERT_EQ(0, ut_world_stop(self->domain, 20 * UT_MS, &w));
		EXPECT_TRUE(ut_world_ok(&w));
		EXPECT_EQ(1, w.landed + w.preempted);
		EXPECT_LE(w.request_ns + 20 * UT_MS, w.final_ns);
		before = self->p.count;
		ut_sleep(2 * UT_MS);
		EXPECT_EQ(before, self->p.count);
		EXPECT_EQ(0, upreempt_world_start(self->domain));
		ASSERT_TRUE(moves(&self->p));
	}
	self->p.mute = 0;
	if (!COMES)
		return;
	/* With the module a poll is a system call: a stop may find the thread inside it. */
	for (int i = 0; i < 5; i++) {
		ASSERT_TRUE(moves(&self->p));
		ASSERT_EQ(0, ut_world_stop(self->domain, 5 * UT_SEC, &w));
		EXPECT_EQ(1, w.cooperated + w.blocked);
		EXPECT_EQ(0, upreempt_world_start(self->domain));
		if (w.cooperated)
			break;
	}
	EXPECT_EQ(1, w.cooperated);
}

static bool ring_get(struct upreempt_header *ring, struct upreempt_event *ev)
{
	const struct upreempt_event *first = upreempt_ring_peek(ring);

	if (!first)
		return false;
	*ev = *first;
	upreempt_ring_consume(ring);
	return true;
}

/* The end of the grace and the poll meet: each request ends once, one way or the other */
TEST_F_TIMEOUT(poll, came_or_forced, 90)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT,
		      .flags = UPREEMPT_REQ_RING);
	struct upreempt_header *ring = upreempt_domain_header(self->domain);
	uint64_t n = 0, came = 0, forced = 0, seq, records = 0;
	struct upreempt_event ev;
	struct upreempt_stats st;
	unsigned int seed = 1;

	UT_FOR(i, ut_scale(6000), 8) {
		o.grace_ns = 1 + rand_r(&seed) % 60000;
		o.deadline_ns = ut_limit();
		o.cookie = i;
		self->p.mute = rand_r(&seed) % 2;
		ASSERT_EQ(0, upreempt_post(self->p.thread, &o, &seq));
		ut_busy(rand_r(&seed) % 40000);
		self->p.mute = 0;
		ASSERT_TRUE(UT_UNTIL(ring_get(ring, &ev)));
		ASSERT_EQ(seq, ev.seq);
		ASSERT_EQ(i, ev.cookie);
		came += ev.outcome == UPREEMPT_COOPERATED;
		forced += ev.outcome == UPREEMPT_LANDED;
		n++;
		ASSERT_TRUE(UT_UNTIL(runs == n));
		records += ring_get(ring, &ev);
	}
	EXPECT_EQ(n, came + forced);
	EXPECT_EQ(n, runs);
	EXPECT_EQ(0, records);
	EXPECT_LT(0, forced);
	if (COMES)
		EXPECT_LT(0, came);
	ASSERT_EQ(0, upreempt_thread_stats(self->p.thread, &st));
	EXPECT_EQ(came, st.outcomes[UPREEMPT_COOPERATED]);
	EXPECT_EQ(forced, st.outcomes[UPREEMPT_LANDED]);
	printf("# %llu came, %llu were forced\n", (unsigned long long)came,
	       (unsigned long long)forced);
}

/* ---- the poll itself -------------------------------------------------------------- */

static void act(struct upreempt_action *action)
{
	action->fn = NULL;
}

TEST(a_poll_of_nobody)
{
	struct upreempt_domain *domain = ut_open(4, 64);
	struct upreempt_thread *me;

	ASSERT_NE(NULL, domain);
	for (int i = 0; i < 5; i++) {
		for (int k = 0; k < 100; k++) {
			upreempt_poll();
			upreempt_poll_load();
			upreempt_poll_counted(3);
		}
		/* before, with, after a registration; with a domain that was closed */
		if (i == 0 || i == 2)
			ASSERT_EQ(0, upreempt_thread_register(domain, NULL, &me));
		if (i == 1)
			ASSERT_EQ(0, upreempt_thread_unregister(me));
		if (i == 2)
			upreempt_domain_close(domain);
	}
}

static void *polls_for_ever(void *arg)
{
	struct ut_poller *p = arg;

	p->error = upreempt_thread_register(p->domain, NULL, &p->thread);
	while (!p->error && !p->quit) {
		upreempt_poll_load();
		upreempt_poll();
		p->count++;
	}
	return NULL;
}

/* While another thread closes the domain */
TEST(polls_while_the_domain_is_closed)
{
	for (int i = 0; i < 20; i++) {
		struct ut_poller p = { .domain = ut_open(4, 64) };
		uint64_t n;

		ASSERT_NE(NULL, p.domain);
		ASSERT_EQ(0, pthread_create(&p.pthread, NULL, polls_for_ever, &p));
		ASSERT_TRUE(UT_UNTIL(p.count > 1000));
		upreempt_domain_close(p.domain);
		n = p.count;
		ASSERT_TRUE(UT_UNTIL(p.count > n + 1000));
		p.quit = 1;
		ASSERT_EQ(0, ut_join(p.pthread));
		EXPECT_EQ(0, p.error);
	}
}

TEST(counted)
{
	struct upreempt_action a = { .fn = act };
	struct upreempt_domain *domain = ut_open(4, 64);
	struct upreempt_thread *me;
	int n;

	ASSERT_NE(NULL, domain);
	ASSERT_EQ(0, upreempt_thread_register(domain, NULL, &me));
	upreempt_poll_counted(10);
	for (int i = 0; i < 3; i++) {
		a.fn = act;
		ASSERT_EQ(0, upreempt_defer(me, &a));
		for (n = 0; a.fn && n < 100; n++)
			upreempt_poll_counted(10);
		EXPECT_EQ(10, n);
	}
	EXPECT_EQ(0, upreempt_thread_unregister(me));
	upreempt_domain_close(domain);
}

/* A poll where the thread may not be stopped grants nothing; the next one outside does */
TEST(in_a_region)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_STOP, .grace_ns = 60 * UT_SEC);
	struct ut_region g = { .domain = ut_open(4, 64), .polls = true };
	struct upreempt_event ev;
	uint64_t seq;

	ASSERT_NE(NULL, g.domain);
	if (ut_is_kmod(g.domain))
		SKIP(return, "a poll is a system call, which counts as BLOCKED in a region, too");
	ASSERT_EQ(0, ut_region_start(&g));
	o.deadline_ns = ut_now() + 50 * UT_MS;
	ASSERT_EQ(0, upreempt_request(g.thread, &o, &ev));
	EXPECT_EQ(UPREEMPT_UNSAFE, ev.outcome);
	o.deadline_ns = ut_limit();
	ASSERT_EQ(0, upreempt_post(g.thread, &o, &seq));
	ut_sleep(20 * UT_MS);
	EXPECT_EQ(-ETIMEDOUT, upreempt_wait(g.thread, seq, 1, &ev));
	g.leave = 1;
	ASSERT_EQ(0, upreempt_wait(g.thread, seq, ut_limit(), &ev));
	EXPECT_EQ(UPREEMPT_COOPERATED, ev.outcome);
	EXPECT_EQ(0, upreempt_release(g.thread, seq));
	EXPECT_EQ(0, ut_region_stop(&g));
	upreempt_domain_close(g.domain);
}

TEST_HARNESS_MAIN
