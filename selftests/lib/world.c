// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Stopping the world: nothing moves, the report adds up, and whose world it is.
 * Proves M4, U10, U19. The torture is in churn.c.
 */
#include "kselftest_harness.h"
#include "ut_world.h"
#include <sys/wait.h>

#define SPIN	3
#define READ	3

FIXTURE(world) {
	struct upreempt_domain *domain;
	struct ut_spinner s[SPIN];
	struct ut_reader r[READ];
	int spinners, readers;
	bool kmod;
};

FIXTURE_SETUP(world)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(32, 64);
	ASSERT_NE(NULL, self->domain);
	self->kmod = ut_is_kmod(self->domain);
}

FIXTURE_TEARDOWN(world)
{
	for (int i = 0; i < self->spinners; i++)
		EXPECT_EQ(0, ut_spinner_stop(&self->s[i]));
	for (int i = 0; i < self->readers; i++) {
		EXPECT_EQ(0, ut_reader_stop(&self->r[i]));
		EXPECT_EQ(0, self->r[i].broken);
	}
	upreempt_domain_close(self->domain);
}

static int start(FIXTURE_DATA(world) *self, int spinners, int readers)
{
	for (; self->spinners < spinners; self->spinners++) {
		self->s[self->spinners].domain = self->domain;
		if (ut_spinner_start(&self->s[self->spinners]))
			return -1;
	}
	for (; self->readers < readers; self->readers++) {
		self->r[self->readers].domain = self->domain;
		if (ut_reader_start(&self->r[self->readers]))
			return -1;
	}
	return 0;
}

/* The sum of what all threads have done */
static uint64_t done(FIXTURE_DATA(world) *self)
{
	uint64_t sum = 0;

	for (int i = 0; i < self->spinners; i++)
		sum += self->s[i].count;
	for (int i = 0; i < self->readers; i++)
		sum += self->r[i].count;
	return sum;
}

static bool all_stand(FIXTURE_DATA(world) *self, uint64_t ns)
{
	uint64_t before = done(self);

	ut_sleep(ns);
	return done(self) == before;
}

static bool all_move(FIXTURE_DATA(world) *self)
{
	bool move = true;

	for (int i = 0; i < self->spinners; i++)
		move &= ut_moves(&self->s[i]);
	return move;
}

TEST_F_TIMEOUT(world, nothing_moves, 90)
{
	struct upreempt_world w;
	uint64_t fed = 0;

	ASSERT_EQ(0, start(self, SPIN, READ));
	UT_FOR(i, 60, 20) {
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		EXPECT_TRUE(ut_world_ok(&w));
		EXPECT_EQ(SPIN + READ, w.threads);
		EXPECT_EQ(0, w.cooperated);
		EXPECT_EQ(0, w.unregistered);
		EXPECT_EQ(0, w.gone);
		EXPECT_EQ(1, w.depth);
		if (self->kmod) {
			EXPECT_EQ(READ, w.blocked);
			EXPECT_EQ(SPIN, w.landed + w.preempted);
		} else {
			EXPECT_EQ(SPIN + READ, w.landed);
			EXPECT_EQ(SPIN + READ, w.ipis);
		}
		if (w.landed) {
			EXPECT_EQ(UPREEMPT_LANDED, w.slowest.outcome);
			EXPECT_NE(0, w.slowest.tid);
			EXPECT_STRNE("", w.slowest.comm);
			EXPECT_LT(0, w.last_ns);
		}
		/* a reader that has something to read does not get far */
		ASSERT_EQ(0, ut_reader_feed(&self->r[i % READ], 'x'));
		fed++;
		EXPECT_TRUE(all_stand(self, 3 * UT_MS));
		ASSERT_EQ(0, upreempt_world_start(self->domain));
		ASSERT_TRUE(all_move(self));
		ASSERT_TRUE(UT_UNTIL(self->r[i % READ].count == i / READ + 1));
		ASSERT_TRUE(UT_UNTIL(ut_sleeps(upreempt_thread_tid(self->r[i % READ].thread))));
	}
	EXPECT_LT(2, fed);
}

TEST_F_TIMEOUT(world, many_stops, 60)
{
	uint64_t stops = 0, moved = 0, before;
	struct upreempt_stats st;
	struct upreempt_world w;

	ASSERT_EQ(0, start(self, SPIN, READ));
	UT_FOR(i, ut_scale(5000), 15) {
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		ASSERT_TRUE(ut_world_ok(&w));
		ASSERT_EQ(SPIN + READ, w.threads);
		before = done(self);
		ut_busy(20000);
		moved += done(self) != before;
		ASSERT_EQ(0, upreempt_world_start(self->domain));
		stops++;
	}
	EXPECT_EQ(0, moved);
	EXPECT_TRUE(all_move(self));
	ASSERT_EQ(0, upreempt_domain_stats(self->domain, &st));
	EXPECT_EQ(stops, st.world_stops);
	EXPECT_EQ(0, st.world_late);
	EXPECT_LE(stops * 20000, st.world_ns);
	printf("# %llu stops\n", (unsigned long long)stops);
}

TEST_F_TIMEOUT(world, bad_arguments, 60)
{
	UPREEMPT_OPTS(upreempt_world_opts, bad, .flags = 1U << 20);
	struct upreempt_world_opts zero = { 0 };
	struct upreempt_world w;
	int status;
	pid_t pid;

	EXPECT_EQ(-EINVAL, upreempt_world_stop(NULL, NULL, &w));
	EXPECT_EQ(-EINVAL, upreempt_world_stop(self->domain, &bad, &w));
	bad.flags = UPREEMPT_WORLD_SIGNALS;
	EXPECT_EQ(-EINVAL, upreempt_world_stop(self->domain, &bad, &w));
	EXPECT_EQ(-EINVAL, upreempt_world_stop(self->domain, &zero, &w));
	EXPECT_EQ(-EINVAL, upreempt_world_start(NULL));
	EXPECT_EQ(-EPERM, upreempt_world_start(self->domain));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(upreempt_world_stop(self->domain, NULL, NULL) == -EPERM &&
		      upreempt_world_start(self->domain) == -EPERM ? 0 : 1);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_F_TIMEOUT(world, empty, 60)
{
	UPREEMPT_OPTS(upreempt_world_opts, past, .deadline_ns = 1);
	struct upreempt_world w;

	memset(&w, 0xcc, sizeof(w));
	EXPECT_EQ(0, upreempt_world_stop(self->domain, NULL, &w));
	EXPECT_TRUE(ut_world_ok(&w));
	EXPECT_EQ(0, w.threads);
	EXPECT_EQ(0, w.slowest.tid);
	EXPECT_EQ(0, w.first_ns);
	EXPECT_EQ(0, w.unregistered);
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	EXPECT_EQ(0, upreempt_world_stop(self->domain, &past, NULL));
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	EXPECT_EQ(-EPERM, upreempt_world_start(self->domain));
}

TEST_F_TIMEOUT(world, all_blocked, 60)
{
	struct upreempt_world w;

	ASSERT_EQ(0, start(self, 0, READ));
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		EXPECT_TRUE(ut_world_ok(&w));
		EXPECT_EQ(READ, w.threads);
		EXPECT_EQ(self->kmod ? READ : 0, w.blocked);
		for (int k = 0; k < READ; k++)
			ASSERT_EQ(0, ut_reader_feed(&self->r[k], 'x'));
		EXPECT_TRUE(all_stand(self, 2 * UT_MS));
		ASSERT_EQ(0, upreempt_world_start(self->domain));
		for (int k = 0; k < READ; k++)
			ASSERT_TRUE(UT_UNTIL(self->r[k].count == (uint64_t)i + 1));
	}
}

TEST_F_TIMEOUT(world, nests, 60)
{
	struct upreempt_thread *me;
	struct upreempt_world w;

	ASSERT_EQ(0, start(self, SPIN, 1));
	for (int registered = 0; registered < 2; registered++) {
		if (registered)
			ASSERT_EQ(0, upreempt_thread_register(self->domain, NULL, &me));
		for (uint32_t depth = 1; depth <= 3; depth++) {
			ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
			EXPECT_TRUE(ut_world_ok(&w));
			EXPECT_EQ(depth, w.depth);
			EXPECT_EQ(SPIN + 1, w.threads);
		}
		if (registered)
			EXPECT_EQ(-EBUSY, upreempt_thread_unregister(me));
		for (int i = 0; i < 3; i++) {
			EXPECT_TRUE(all_stand(self, 5 * UT_MS));
			EXPECT_EQ(0, upreempt_world_start(self->domain));
		}
		EXPECT_EQ(-EPERM, upreempt_world_start(self->domain));
		EXPECT_TRUE(all_move(self));
	}
	EXPECT_EQ(0, upreempt_thread_unregister(me));
}

/* What was not caught in no time is caught by the next stop */
TEST_F_TIMEOUT(world, deadline_in_the_past, 60)
{
	UPREEMPT_OPTS(upreempt_world_opts, past, .deadline_ns = 1);
	struct upreempt_world w;
	uint64_t late = 0;
	int ret;

	ASSERT_EQ(0, start(self, SPIN, 0));
	for (int i = 0; i < 50; i++) {
		ret = upreempt_world_stop(self->domain, &past, &w);
		ASSERT_LE(0, ret);
		EXPECT_EQ(ret, w.stragglers);
		EXPECT_TRUE(ut_world_ok(&w));
		late += ret;
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		EXPECT_EQ(2, w.depth);
		EXPECT_EQ(SPIN, w.threads);
		EXPECT_TRUE(all_stand(self, UT_MS));
		ASSERT_EQ(0, upreempt_world_start(self->domain));
		ASSERT_EQ(0, upreempt_world_start(self->domain));
		ASSERT_TRUE(all_move(self));
	}
	printf("# %llu late\n", (unsigned long long)late);
}

/* ---- a thread that may not be stopped ------------------------------------------ */

TEST_F_TIMEOUT(world, straggler_is_named_and_caught, 60)
{
	UPREEMPT_OPTS(upreempt_world_opts, opts, .flags = 0);
	struct ut_region g = { .domain = self->domain };
	UPREEMPT_OPTS(upreempt_snapshot, at, .sp = 0);
	struct upreempt_world w;
	struct upreempt_stats st;
	char text[600], sent[40];
	uint64_t n;

	ASSERT_EQ(0, start(self, 1, 1));
	ASSERT_EQ(0, ut_region_start(&g));
	opts.flags = UPREEMPT_WORLD_ALL;
	opts.deadline_ns = ut_now() + UT_SEC;
	EXPECT_EQ(-ETIMEDOUT, upreempt_world_stop(self->domain, &opts, &w));
	EXPECT_LE(opts.deadline_ns, ut_now());
	EXPECT_EQ(1, w.stragglers);
	EXPECT_EQ(-EPERM, upreempt_world_start(self->domain));
	EXPECT_TRUE(all_move(self));

	opts.flags = 0;
	opts.deadline_ns = ut_now() + UT_SEC;
	ASSERT_EQ(1, upreempt_world_stop(self->domain, &opts, &w));
	EXPECT_TRUE(ut_world_ok(&w));
	EXPECT_EQ(3, w.threads);
	EXPECT_EQ(1, w.stragglers);
	EXPECT_EQ(UPREEMPT_PENDING, w.late[0].outcome);
	EXPECT_EQ(upreempt_thread_tid(g.thread), w.late[0].tid);
	EXPECT_EQ(upreempt_thread_slot(g.thread), w.late[0].slot);
	EXPECT_EQ(UPREEMPT_R_DISABLED, w.late[0].reason);
	EXPECT_LT(0, w.late[0].attempts);
	EXPECT_TRUE(ut_in_spin(w.late[0].rip));
	EXPECT_STREQ("region", w.late[0].comm);
	EXPECT_EQ(0, w.late[1].tid);
	EXPECT_LT(0, upreempt_world_format(&w, text, sizeof(text)));
	EXPECT_NE(NULL, strstr(text, "late: region["));
	EXPECT_NE(NULL, strstr(text, "DISABLED"));
	/* what was sent is called by its name, whatever the flags of the stop were */
	snprintf(sent, sizeof(sent), "; %u %s, sent", w.ipis, self->kmod ? "IPIs" : "signals");
	EXPECT_NE(NULL, strstr(text, sent));
	EXPECT_EQ(self->kmod ? 0 : UPREEMPT_WORLD_SIGNALS, w.flags);
	printf("# %s\n", text);
	/* the others stand, it does not, and nobody says that it would */
	EXPECT_TRUE(all_stand(self, 10 * UT_MS));
	n = g.inside;
	EXPECT_TRUE(UT_UNTIL(g.inside != n));
	EXPECT_EQ(-EBUSY, upreempt_thread_context(g.thread, &at));
	EXPECT_EQ(0, upreempt_thread_context(self->s[0].thread, &at));
	/* it leaves the region, and does not get far */
	g.leave = 1;
	ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
	EXPECT_EQ(2, w.depth);
	EXPECT_EQ(0, w.stragglers);
	n = g.outside;
	ut_sleep(10 * UT_MS);
	EXPECT_EQ(n, g.outside);
	EXPECT_EQ(0, upreempt_thread_context(g.thread, &at));
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	EXPECT_TRUE(UT_UNTIL(g.outside != n));
	ASSERT_EQ(0, upreempt_domain_stats(self->domain, &st));
	EXPECT_EQ(2, st.world_late);
	EXPECT_EQ(0, ut_region_stop(&g));
}

/* A straggler that nobody waited for any more is not stopped by what is long over */
TEST_F_TIMEOUT(world, straggler_of_a_world_that_goes_on, 60)
{
	UPREEMPT_OPTS(upreempt_world_opts, opts, .deadline_ns = ut_now() + 20 * UT_MS);
	struct ut_region g = { .domain = self->domain };
	struct upreempt_world w;

	ASSERT_EQ(0, ut_region_start(&g));
	ASSERT_EQ(1, upreempt_world_stop(self->domain, &opts, &w));
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	g.leave = 1;
	EXPECT_TRUE(UT_UNTIL(g.outside));
	ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
	EXPECT_EQ(1, w.landed + w.preempted);
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	EXPECT_EQ(0, ut_region_stop(&g));
}

static void *spin_unregistered(void *arg)
{
	struct ut_spinner *s = arg;

	ut_spin(&s->count, &s->quit);
	return NULL;
}

TEST_F_TIMEOUT(world, unregistered_threads, 60)
{
	UPREEMPT_OPTS(upreempt_world_opts, opts, .flags = UPREEMPT_WORLD_REGISTERED);
	struct ut_spinner s = { 0 };
	struct upreempt_world w;

	ASSERT_EQ(0, start(self, 1, 0));
	ASSERT_EQ(0, upreempt_world_stop(self->domain, &opts, &w));
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	ASSERT_EQ(0, pthread_create(&s.pthread, NULL, spin_unregistered, &s));
	ASSERT_TRUE(ut_moves(&s));
	ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
	EXPECT_EQ(1, w.unregistered);
	EXPECT_EQ(1, w.threads);
	EXPECT_TRUE(ut_moves(&s));
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	memset(&w, 0, sizeof(w));
	EXPECT_EQ(-EBUSY, upreempt_world_stop(self->domain, &opts, &w));
	EXPECT_EQ(1, w.unregistered);
	EXPECT_EQ(-EPERM, upreempt_world_start(self->domain));
	EXPECT_TRUE(all_move(self));
	s.quit = 1;
	EXPECT_EQ(0, ut_join(s.pthread));
}

/* ---- whose world it is ----------------------------------------------------------- */

struct stopper {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	bool join;			/* registered */
	int depth;
	volatile int ret, stopped, go, done;
	struct upreempt_world w;
	pthread_t pthread;
};

/* Stops, and exits without a start */
static void *dying_stopper(void *arg)
{
	struct stopper *s = arg;

	if (s->join && upreempt_thread_register(s->domain, NULL, &s->thread))
		return NULL;
	for (int i = 0; i < s->depth; i++)
		s->ret |= ut_world_stop(s->domain, 0, &s->w);
	s->stopped = 1;
	UT_UNTIL(s->go);
	return NULL;
}

TEST_F_TIMEOUT(world, goes_on_when_the_stopper_exits, 60)
{
	struct upreempt_world w;

	ASSERT_EQ(0, start(self, SPIN, 0));
	for (int i = 0; i < 8; i++) {
		struct stopper s = { .domain = self->domain, .join = i & 1, .depth = 1 + i / 4 };

		ASSERT_EQ(0, pthread_create(&s.pthread, NULL, dying_stopper, &s));
		ASSERT_TRUE(UT_UNTIL(s.stopped));
		EXPECT_EQ(0, s.ret);
		EXPECT_TRUE(all_stand(self, 5 * UT_MS));
		s.go = 1;
		ASSERT_EQ(0, ut_join(s.pthread));
		ASSERT_TRUE(all_move(self));
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		EXPECT_EQ(SPIN, w.threads);
		EXPECT_EQ(1, w.depth);
		EXPECT_EQ(0, upreempt_world_start(self->domain));
	}
}

static void *second_stopper(void *arg)
{
	struct stopper *s = arg;

	if (s->join && upreempt_thread_register(s->domain, NULL, &s->thread))
		return NULL;
	s->stopped = 1;
	UT_UNTIL(s->go);
	s->ret = ut_world_stop(s->domain, 0, &s->w);
	s->done = 1;
	if (!s->ret)
		s->ret = upreempt_world_start(s->domain);
	if (s->join && !s->ret)
		s->ret = upreempt_thread_unregister(s->thread);
	return NULL;
}

static void *trying_stopper(void *arg)
{
	struct stopper *s = arg;
	UPREEMPT_OPTS(upreempt_world_opts, once, .flags = UPREEMPT_WORLD_TRY);
	UPREEMPT_OPTS(upreempt_world_opts, soon, .deadline_ns = ut_now() + 30 * UT_MS);

	if (upreempt_world_stop(s->domain, &once, NULL) != -EAGAIN)
		s->ret = 1;
	else if (upreempt_world_stop(s->domain, &soon, NULL) != -ETIMEDOUT)
		s->ret = 2;
	else if (ut_now() < soon.deadline_ns)
		s->ret = 3;
	else if (upreempt_world_start(s->domain) != -EPERM)
		s->ret = 4;
	s->done = 1;
	return NULL;
}

TEST_F_TIMEOUT(world, two_stoppers, 60)
{
	struct upreempt_world w;

	ASSERT_EQ(0, start(self, SPIN, 0));
	for (int i = 0; i < 6; i++) {
		struct stopper s = { .domain = self->domain, .join = i & 1 }, t = s;

		t.join = false;
		ASSERT_EQ(0, pthread_create(&s.pthread, NULL, second_stopper, &s));
		ASSERT_TRUE(UT_UNTIL(s.stopped));
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		EXPECT_EQ(SPIN + s.join, w.threads);
		ASSERT_EQ(0, pthread_create(&t.pthread, NULL, trying_stopper, &t));
		ASSERT_EQ(0, ut_join(t.pthread));
		EXPECT_EQ(0, t.ret);
		s.go = 1;
		EXPECT_TRUE(all_stand(self, 20 * UT_MS));
		EXPECT_FALSE(s.done);
		ASSERT_EQ(0, upreempt_world_start(self->domain));
		ASSERT_EQ(0, ut_join(s.pthread));
		EXPECT_EQ(0, s.ret);
		EXPECT_TRUE(s.done);
		EXPECT_EQ(SPIN, s.w.threads);
		ASSERT_TRUE(all_move(self));
	}
}

/* Two who stop at the same time, and each is stopped by the other while it waits in a region */
static void *duellist(void *arg)
{
	struct stopper *s = arg;

	if (s->join && upreempt_thread_register(s->domain, NULL, &s->thread))
		s->ret = -1;
	UT_FOR(i, ut_scale(2000), 8) {
		if (s->depth)
			upreempt_disable();
		s->ret |= ut_world_stop(s->domain, 0, &s->w);
		s->ret |= upreempt_world_start(s->domain);
		if (s->depth)
			upreempt_enable();
		s->done++;
	}
	return NULL;
}

TEST_F_TIMEOUT(world, duel, 90)
{
	struct stopper s[3] = { { .join = true }, { .join = true, .depth = 1 }, { .join = false } };

	ASSERT_EQ(0, start(self, 1, 1));
	for (int i = 0; i < 3; i++) {
		s[i].domain = self->domain;
		ASSERT_EQ(0, pthread_create(&s[i].pthread, NULL, duellist, &s[i]));
	}
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, ut_join(s[i].pthread));
		EXPECT_EQ(0, s[i].ret);
		EXPECT_LT(0, s[i].done);
	}
	printf("# %d, %d, %d stops\n", s[0].done, s[1].done, s[2].done);
	EXPECT_TRUE(all_move(self));
}

/* A STOP of the one who has stopped the world waits until he starts it */
TEST_F_TIMEOUT(world, stop_of_the_stopper, 60)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_STOP);
	struct stopper s = { .domain = self->domain, .join = true, .depth = 1 };
	struct upreempt_event ev;

	ASSERT_EQ(0, start(self, 1, 0));
	ASSERT_EQ(0, pthread_create(&s.pthread, NULL, dying_stopper, &s));
	ASSERT_TRUE(UT_UNTIL(s.stopped));
	o.deadline_ns = ut_now() + 30 * UT_MS;
	ASSERT_EQ(0, upreempt_request(s.thread, &o, &ev));
	EXPECT_EQ(UPREEMPT_UNSAFE, ev.outcome);
	EXPECT_EQ(UPREEMPT_R_STOPPER, ev.reason);
	EXPECT_TRUE(all_stand(self, 5 * UT_MS));
	s.go = 1;
	ASSERT_EQ(0, ut_join(s.pthread));
	EXPECT_TRUE(all_move(self));
}

/* ---- from a handler ---------------------------------------------------------------- */

static struct upreempt_domain *handler_domain;
static struct ut_spinner *handler_other;
static volatile int handler_runs, handler_wrong, handler_step;

static void stopping_handler(struct upreempt_context *ctx, void *arg)
{
	struct upreempt_world w;
	uint64_t before;

	(void)ctx;
	(void)arg;
	if (handler_step < 2) {
		if (ut_world_stop(handler_domain, 0, &w) || w.threads != 2)
			handler_wrong++;
		before = handler_other->count;
		ut_busy(2 * UT_MS);
		handler_wrong += handler_other->count != before;
	}
	/* step 1 leaves it stopped, step 2 starts it */
	if (handler_step != 1 && upreempt_world_start(handler_domain))
		handler_wrong++;
	handler_runs++;
}

TEST_F_TIMEOUT(world, from_a_handler, 60)
{
	struct upreempt_event ev;

	handler_domain = self->domain;
	handler_other = &self->s[1];
	self->s[0].handler = stopping_handler;
	ASSERT_EQ(0, start(self, 2, 1));
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, ut_request(self->s[0].thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		ASSERT_TRUE(UT_UNTIL(handler_runs == i + 1));
		ASSERT_TRUE(all_move(self));
	}
	handler_step = 1;
	ASSERT_EQ(0, ut_request(self->s[0].thread, UPREEMPT_REDIRECT, &ev));
	ASSERT_TRUE(UT_UNTIL(handler_runs == 21));
	EXPECT_TRUE(ut_moves(&self->s[0]));
	EXPECT_TRUE(ut_stands(&self->s[1], 10 * UT_MS));
	EXPECT_EQ(-EPERM, upreempt_world_start(self->domain));
	handler_step = 2;
	ASSERT_EQ(0, ut_request(self->s[0].thread, UPREEMPT_REDIRECT, &ev));
	ASSERT_TRUE(UT_UNTIL(handler_runs == 22));
	EXPECT_TRUE(all_move(self));
	EXPECT_EQ(0, handler_wrong);
}

/* ---- where the threads stand ---------------------------------------------------------- */

struct seen {
	FIXTURE_DATA(world) *self;
	int spinners, readers, others, wrong;
};

static int look_at(struct upreempt_thread *t, void *arg)
{
	UPREEMPT_OPTS(upreempt_snapshot, s, .sp = 0);
	struct seen *seen = arg;

	if (upreempt_thread_context(t, &s)) {
		seen->wrong++;
		return 0;
	}
	seen->wrong += s.sp != s.regs.rsp || s.sp >= s.hi || s.hi - s.sp > (64U << 20);
	for (int i = 0; i < seen->self->spinners; i++)
		if (seen->self->s[i].thread == t) {
			seen->spinners++;
			seen->wrong += !ut_in_spin(s.regs.rip) || s.frame != UPREEMPT_FRAME_USER ||
				       s.outcome != UPREEMPT_LANDED ||
				       s.regs.rdi != (uintptr_t)&seen->self->s[i].count;
			return 0;
		}
	for (int i = 0; i < seen->self->readers; i++)
		if (seen->self->r[i].thread == t) {
			seen->readers++;
			seen->wrong += s.outcome != (seen->self->kmod ? UPREEMPT_BLOCKED :
						     UPREEMPT_LANDED);
			return 0;
		}
	seen->others++;
	return 0;
}

static int stop_at_second(struct upreempt_thread *t, void *arg)
{
	(void)t;
	return ++*(int *)arg == 2 ? 77 : 0;
}

TEST_F_TIMEOUT(world, contexts, 60)
{
	UPREEMPT_OPTS(upreempt_snapshot, s, .sp = 0);
	struct upreempt_event ev;
	struct upreempt_world w;
	int n = 0;

	ASSERT_EQ(0, start(self, SPIN, READ));
	EXPECT_EQ(-EBUSY, upreempt_thread_context(self->s[0].thread, &s));
	EXPECT_EQ(77, upreempt_domain_threads(self->domain, stop_at_second, &n));
	EXPECT_EQ(2, n);
	for (int i = 0; i < 20; i++) {
		struct seen seen = { .self = self };

		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		EXPECT_EQ(0, upreempt_domain_threads(self->domain, look_at, &seen));
		EXPECT_EQ(SPIN, seen.spinners);
		EXPECT_EQ(READ, seen.readers);
		EXPECT_EQ(0, seen.others);
		EXPECT_EQ(0, seen.wrong);
		ASSERT_EQ(0, upreempt_world_start(self->domain));
		EXPECT_EQ(-EBUSY, upreempt_thread_context(self->s[0].thread, &s));
	}
	ASSERT_EQ(0, ut_request(self->s[0].thread, UPREEMPT_STOP, &ev));
	EXPECT_EQ(0, upreempt_thread_context(self->s[0].thread, &s));
	EXPECT_EQ(ev.regs.rip, s.regs.rip);
	EXPECT_EQ(ev.regs.rsp, s.sp);
	EXPECT_EQ(-EBUSY, upreempt_thread_context(self->s[1].thread, &s));
	s.size = 8;
	EXPECT_EQ(-EINVAL, upreempt_thread_context(self->s[0].thread, &s));
	EXPECT_EQ(-EINVAL, upreempt_thread_context(NULL, &s));
	EXPECT_EQ(0, upreempt_release(self->s[0].thread, ev.seq));
}

/* More threads than are looked at in one go, each once */
static int count_calls(struct upreempt_thread *t, void *arg)
{
	((uint8_t *)arg)[upreempt_thread_slot(t)]++;
	return 0;
}

TEST(every_thread_once)
{
	struct upreempt_domain *domain = ut_open(200, 64);
	static struct ut_reader r[150];
	uint8_t calls[200] = { 0 };
	struct upreempt_world w;

	ASSERT_NE(NULL, domain);
	for (int i = 0; i < 150; i++) {
		r[i].domain = domain;
		ASSERT_EQ(0, ut_reader_start(&r[i]));
	}
	ASSERT_EQ(0, ut_world_stop(domain, 0, &w));
	EXPECT_EQ(150, w.threads);
	EXPECT_EQ(0, upreempt_domain_threads(domain, count_calls, calls));
	ASSERT_EQ(0, upreempt_world_start(domain));
	for (int i = 0; i < 150; i++)
		EXPECT_EQ(1, calls[upreempt_thread_slot(r[i].thread)]);
	for (int i = 0; i < 150; i++)
		EXPECT_EQ(0, ut_reader_stop(&r[i]));
	upreempt_domain_close(domain);
}

/* ---- threads that come and go meanwhile -------------------------------------------------- */

static void *newcomer(void *arg)
{
	struct stopper *s = arg;

	s->stopped = 1;
	s->ret = upreempt_thread_register(s->domain, NULL, &s->thread);
	s->done = 1;
	UT_UNTIL(s->go);
	return NULL;
}

TEST_F_TIMEOUT(world, who_registers_waits, 60)
{
	struct upreempt_world w;

	ASSERT_EQ(0, start(self, 1, 0));
	for (int i = 0; i < 10; i++) {
		struct stopper s = { .domain = self->domain };

		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		ASSERT_EQ(0, pthread_create(&s.pthread, NULL, newcomer, &s));
		ASSERT_TRUE(UT_UNTIL(s.stopped));
		ut_sleep(10 * UT_MS);
		EXPECT_FALSE(s.done);
		/* it needs no waiting for */
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		EXPECT_FALSE(s.done);
		EXPECT_EQ(0, upreempt_world_start(self->domain));
		EXPECT_EQ(0, upreempt_world_start(self->domain));
		ASSERT_TRUE(UT_UNTIL(s.done));
		EXPECT_EQ(0, s.ret);
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		EXPECT_EQ(2, w.threads);
		EXPECT_EQ(0, upreempt_world_start(self->domain));
		s.go = 1;
		ASSERT_EQ(0, ut_join(s.pthread));
	}
}

/* Threads that end without their exit hooks are not waited for */
static void *vanish(void *arg)
{
	struct stopper *s = arg;

	s->ret = upreempt_thread_register(s->domain, NULL, &s->thread);
	s->done = 1;
	UT_UNTIL(s->go);
	syscall(SYS_exit, 0);
	return NULL;
}

TEST_F_TIMEOUT(world, who_vanished_is_not_waited_for, 60)
{
	struct stopper s = { .domain = self->domain };
	struct upreempt_world w;

	ASSERT_EQ(0, start(self, 1, 0));
	ASSERT_EQ(0, pthread_create(&s.pthread, NULL, vanish, &s));
	ASSERT_TRUE(UT_UNTIL(s.done));
	EXPECT_EQ(0, s.ret);
	ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
	EXPECT_EQ(2, w.threads);
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	s.go = 1;
	ASSERT_EQ(0, ut_join(s.pthread));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		EXPECT_EQ(1, w.threads);
		EXPECT_TRUE(all_stand(self, 2 * UT_MS));
		EXPECT_EQ(0, upreempt_world_start(self->domain));
	}
}

/* Closing the domain lets everybody go */
TEST_F_TIMEOUT(world, close_starts_it, 60)
{
	struct upreempt_domain *domain = ut_open(4, 64);
	struct ut_spinner s = { .domain = domain };
	struct upreempt_world w;

	ASSERT_NE(NULL, domain);
	ASSERT_EQ(0, ut_spinner_start(&s));
	ASSERT_EQ(0, ut_world_stop(domain, 0, &w));
	ASSERT_EQ(0, ut_world_stop(domain, 0, &w));
	EXPECT_TRUE(ut_stands(&s, 5 * UT_MS));
	upreempt_domain_close(domain);
	EXPECT_TRUE(ut_moves(&s));
	s.quit = 1;
	EXPECT_EQ(0, ut_join(s.pthread));
}

TEST_HARNESS_MAIN
