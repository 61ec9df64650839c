// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Handshakes: the function runs exactly once for each registered thread, in it or for it,
 * and who does not come is named. Proves U9, U10.
 */
#include "kselftest_harness.h"
#include "ut_world.h"
#include <sys/wait.h>

#define SLOTS	32

static volatile uint64_t own_handler;

static void count_own(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	own_handler++;
}

/* What the function has seen, by slot */
struct seen {
	uint64_t self[SLOTS], proxy[SLOTS], wrong;
};

static void note(struct upreempt_thread *t, const struct upreempt_snapshot *at, void *arg)
{
	struct seen *seen = arg;
	uint32_t slot = upreempt_thread_slot(t);

	if (at->size < sizeof(*at) || !at->sp || (at->hi && at->sp >= at->hi) ||
	    (at->frame && at->regs.rsp != at->sp))
		__atomic_add_fetch(&seen->wrong, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(upreempt_thread_self() == t ? &seen->self[slot] : &seen->proxy[slot],
			   1, __ATOMIC_SEQ_CST);
}

static uint64_t calls(const struct seen *seen)
{
	uint64_t sum = 0;

	for (int i = 0; i < SLOTS; i++)
		sum += seen->self[i] + seen->proxy[i];
	return sum;
}

static bool once(const struct seen *seen, const struct upreempt_thread *t, bool self)
{
	uint32_t slot = upreempt_thread_slot(t);

	return seen->self[slot] == self && seen->proxy[slot] == !self;
}

FIXTURE(handshake) {
	struct upreempt_domain *domain;
	struct ut_spinner s[4];		/* the last one takes no REDIRECT */
	struct ut_reader r[2];
	bool kmod;
};

FIXTURE_SETUP(handshake)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(SLOTS, 64);
	ASSERT_NE(NULL, self->domain);
	self->kmod = ut_is_kmod(self->domain);
	for (int i = 0; i < 4; i++) {
		self->s[i].domain = self->domain;
		self->s[i].handler = i < 3 ? count_own : NULL;
		ASSERT_EQ(0, ut_spinner_start(&self->s[i]));
	}
	for (int i = 0; i < 2; i++) {
		self->r[i].domain = self->domain;
		self->r[i].handler = i ? count_own : NULL;
		self->r[i].waits = self->kmod;
		ASSERT_EQ(0, ut_reader_start(&self->r[i]));
	}
}

FIXTURE_TEARDOWN(handshake)
{
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(0, ut_spinner_stop(&self->s[i]));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, ut_reader_stop(&self->r[i]));
		EXPECT_EQ(0, self->r[i].broken);
	}
	upreempt_domain_close(self->domain);
	EXPECT_EQ(0, own_handler);
}

TEST_F_TIMEOUT(handshake, each_thread_once, 90)
{
	struct upreempt_handshake h = { .size = sizeof(h) };
	struct upreempt_thread *me;
	uint64_t n = 0, came = 0;

	ASSERT_EQ(0, upreempt_thread_register(self->domain, NULL, &me));
	UT_FOR(i, ut_scale(3000), 10) {
		struct seen seen = { .wrong = 0 };

		ASSERT_EQ(0, upreempt_handshake(self->domain, note, &seen, ut_limit(), &h));
		ASSERT_EQ(7, h.threads);
		ASSERT_EQ(0, h.gone);
		ASSERT_EQ(0, h.unfinished);
		ASSERT_EQ(0, h.tid);
		ASSERT_EQ(7, h.self + h.proxy);
		ASSERT_EQ(7, calls(&seen));
		ASSERT_EQ(0, seen.wrong);
		/* by proxy also who is still in the system call that ends the last one */
		for (int k = 0; k < 3; k++)
			ASSERT_TRUE(once(&seen, self->s[k].thread, true) ||
				    once(&seen, self->s[k].thread, false));
		ASSERT_TRUE(once(&seen, self->s[3].thread, false));
		ASSERT_TRUE(once(&seen, self->r[0].thread, false));
		/* a blocked thread comes itself only when a signal wakes it */
		ASSERT_TRUE(once(&seen, self->r[1].thread, !self->kmod));
		ASSERT_TRUE(once(&seen, me, true));
		came += h.self;
		n++;
	}
	EXPECT_LT(2 * n, came);		/* the caller and, mostly, the spinning ones */
	EXPECT_EQ(0, upreempt_thread_unregister(me));
	for (int k = 0; k < 4; k++)
		EXPECT_TRUE(ut_moves(&self->s[k]));
	printf("# %llu handshakes\n", (unsigned long long)n);
}

TEST_F_TIMEOUT(handshake, bad_arguments, 60)
{
	struct upreempt_handshake h = { .size = 8 };
	struct seen seen = { .wrong = 0 };
	int status;
	pid_t pid;

	EXPECT_EQ(-EINVAL, upreempt_handshake(NULL, note, &seen, 0, NULL));
	EXPECT_EQ(-EINVAL, upreempt_handshake(self->domain, NULL, &seen, 0, NULL));
	EXPECT_EQ(-EINVAL, upreempt_handshake(self->domain, note, &seen, 0, &h));
	EXPECT_EQ(0, calls(&seen));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(upreempt_handshake(self->domain, note, &seen, 0, NULL) == -EPERM ? 0 : 1);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, upreempt_handshake(self->domain, note, &seen, 0, NULL));
	EXPECT_EQ(6, calls(&seen));
}

/* ---- who does not come ------------------------------------------------------------ */

struct stuck {
	struct seen seen;
	struct upreempt_thread *in;	/* the function does not return here */
	volatile int entered, leave;
};

static void get_stuck(struct upreempt_thread *t, const struct upreempt_snapshot *at, void *arg)
{
	struct stuck *s = arg;

	note(t, at, &s->seen);
	if (t != s->in)
		return;
	s->entered = 1;
	while (!s->leave)
		;
}

TEST_F_TIMEOUT(handshake, function_that_does_not_return, 60)
{
	struct upreempt_handshake h = { .size = sizeof(h) };
	struct stuck s = { .in = self->s[1].thread };
	struct seen seen = { .wrong = 0 };

	EXPECT_EQ(1, upreempt_handshake(self->domain, get_stuck, &s, ut_now() + 2 * UT_SEC, &h));
	EXPECT_EQ(6, h.threads);
	EXPECT_EQ(1, h.unfinished);
	EXPECT_EQ(upreempt_thread_tid(self->s[1].thread), h.tid);
	EXPECT_EQ(UPREEMPT_R_NONE, h.reason);
	EXPECT_EQ(6, calls(&s.seen));
	EXPECT_EQ(1, s.entered);
	/* it is still at it: the next one does without it */
	EXPECT_EQ(1, upreempt_handshake(self->domain, note, &seen, ut_now() + 2 * UT_SEC, &h));
	EXPECT_EQ(upreempt_thread_tid(self->s[1].thread), h.tid);
	EXPECT_EQ(5, calls(&seen));
	s.leave = 1;
	ASSERT_EQ(0, upreempt_handshake(self->domain, note, &seen, ut_limit(), &h));
	EXPECT_EQ(11, calls(&seen));
	EXPECT_EQ(6, calls(&s.seen));
}

TEST_F_TIMEOUT(handshake, thread_in_a_region, 60)
{
	struct upreempt_handshake h = { .size = sizeof(h) };
	struct ut_region g = { .domain = self->domain, .handler = count_own };
	struct seen seen = { .wrong = 0 };

	ASSERT_EQ(0, ut_region_start(&g));
	EXPECT_EQ(1, upreempt_handshake(self->domain, note, &seen, ut_now() + 2 * UT_SEC, &h));
	EXPECT_EQ(7, h.threads);
	EXPECT_EQ(upreempt_thread_tid(g.thread), h.tid);
	/* what the last look found: in the region, or waiting for a CPU in it */
	EXPECT_TRUE(h.reason == UPREEMPT_R_DISABLED || h.reason == UPREEMPT_R_NOT_RUN);
	EXPECT_TRUE(ut_in_spin(h.rip));
	EXPECT_EQ(6, calls(&seen));
	/* too late: it does not run it any more */
	g.leave = 1;
	EXPECT_TRUE(UT_UNTIL(g.outside));
	ut_sleep(20 * UT_MS);
	EXPECT_EQ(6, calls(&seen));
	ASSERT_EQ(0, upreempt_handshake(self->domain, note, &seen, ut_limit(), &h));
	EXPECT_EQ(13, calls(&seen));
	EXPECT_EQ(0, ut_region_stop(&g));
}

struct caller {
	struct upreempt_domain *domain;
	upreempt_handshake_fn fn;
	void *arg;
	bool join;
	struct upreempt_thread *thread;
	volatile int ret, done;
	uint64_t rounds, landed;
	pthread_t pthread;
};

static void *call_once(void *arg)
{
	struct caller *c = arg;

	c->ret = upreempt_handshake(c->domain, c->fn, c->arg, 0, NULL);
	c->done = 1;
	return NULL;
}

/* Turns: the deadline, and the world that was stopped in the middle of another's handshake */
TEST_F_TIMEOUT(handshake, no_turn, 60)
{
	struct stuck s = { .in = self->s[0].thread };
	struct caller c = { .domain = self->domain, .fn = get_stuck, .arg = &s };
	struct seen seen = { .wrong = 0 };
	struct upreempt_world w;
	uint64_t soon;

	ASSERT_EQ(0, pthread_create(&c.pthread, NULL, call_once, &c));
	ASSERT_TRUE(UT_UNTIL(s.entered));
	soon = ut_now() + 30 * UT_MS;
	EXPECT_EQ(-ETIMEDOUT, upreempt_handshake(self->domain, note, &seen, soon, NULL));
	EXPECT_LE(soon, ut_now());
	ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
	EXPECT_EQ(-EBUSY, upreempt_handshake(self->domain, note, &seen, 0, NULL));
	EXPECT_EQ(0, upreempt_world_start(self->domain));
	EXPECT_EQ(0, calls(&seen));
	s.leave = 1;
	ASSERT_EQ(0, ut_join(c.pthread));
	EXPECT_EQ(0, c.ret);
	EXPECT_EQ(0, upreempt_handshake(self->domain, note, &seen, ut_limit(), NULL));
	EXPECT_EQ(6, calls(&seen));
}

/* ---- in a stopped world, in a handler, by many at once ---------------------------------- */

TEST_F_TIMEOUT(handshake, in_a_stopped_world, 60)
{
	struct upreempt_handshake h = { .size = sizeof(h) };
	struct upreempt_thread *me = NULL;
	struct upreempt_world w;

	for (int i = 0; i < 40; i++) {
		struct seen seen = { .wrong = 0 };

		if (i == 20)
			ASSERT_EQ(0, upreempt_thread_register(self->domain, NULL, &me));
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &w));
		ASSERT_EQ(0, upreempt_handshake(self->domain, note, &seen, ut_limit(), &h));
		EXPECT_EQ(6, h.proxy);
		EXPECT_EQ(me ? 1 : 0, h.self);
		EXPECT_EQ(me ? 7 : 6, calls(&seen));
		EXPECT_EQ(0, seen.wrong);
		/* nobody was let go by it */
		for (int k = 0; k < 4; k++)
			EXPECT_TRUE(ut_stands(&self->s[k], UT_MS));
		ASSERT_EQ(0, upreempt_world_start(self->domain));
		for (int k = 0; k < 4; k++)
			ASSERT_TRUE(ut_moves(&self->s[k]));
	}
	EXPECT_EQ(0, upreempt_thread_unregister(me));
}

static struct upreempt_domain *handler_domain;
static struct seen handler_seen;
static volatile int handler_ret = 1;

static void shaking_handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	handler_ret = upreempt_handshake(handler_domain, note, &handler_seen, ut_limit(), NULL);
}

TEST_F_TIMEOUT(handshake, from_a_handler, 60)
{
	struct ut_spinner s = { .domain = self->domain, .handler = shaking_handler };
	struct upreempt_event ev;

	handler_domain = self->domain;
	ASSERT_EQ(0, ut_spinner_start(&s));
	ASSERT_EQ(0, ut_request(s.thread, UPREEMPT_REDIRECT, &ev));
	ASSERT_TRUE(UT_UNTIL(handler_ret != 1));
	EXPECT_EQ(0, handler_ret);
	EXPECT_EQ(7, calls(&handler_seen));
	EXPECT_TRUE(once(&handler_seen, s.thread, true));
	EXPECT_EQ(0, ut_spinner_stop(&s));
}

static void *call_often(void *arg)
{
	struct caller *c = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = count_own);

	if (c->join && upreempt_thread_register(c->domain, &opts, &c->thread))
		return NULL;
	__atomic_store_n(&c->done, 1, __ATOMIC_SEQ_CST);
	UT_UNTIL(__atomic_load_n(&c->done, __ATOMIC_SEQ_CST) == 2);
	UT_FOR(i, ut_scale(1500), 8) {
		c->ret |= upreempt_handshake(c->domain, c->fn, c->arg, ut_limit(), NULL);
		c->rounds++;
	}
	__atomic_store_n(&c->done, 3, __ATOMIC_SEQ_CST);
	UT_UNTIL(__atomic_load_n(&c->done, __ATOMIC_SEQ_CST) == 4);
	return NULL;
}

TEST_F_TIMEOUT(handshake, many_callers, 120)
{
	struct caller c[3];
	struct seen seen[3];

	memset(seen, 0, sizeof(seen));
	for (int i = 0; i < 3; i++) {
		c[i] = (struct caller){ .domain = self->domain, .fn = note, .arg = &seen[i],
					.join = i < 2 };
		ASSERT_EQ(0, pthread_create(&c[i].pthread, NULL, call_often, &c[i]));
		ASSERT_TRUE(UT_UNTIL(c[i].done == 1));
	}
	for (int i = 0; i < 3; i++)
		c[i].done = 2;
	for (int i = 0; i < 3; i++)
		ASSERT_TRUE(UT_UNTIL(c[i].done == 3));
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, c[i].ret);
		EXPECT_LT(0, c[i].rounds);
		EXPECT_EQ(8 * c[i].rounds, calls(&seen[i]));
		EXPECT_EQ(0, seen[i].wrong);
		for (int k = 0; k < 4; k++) {
			uint32_t slot = upreempt_thread_slot(self->s[k].thread);

			EXPECT_EQ(c[i].rounds, seen[i].self[slot] + seen[i].proxy[slot]);
		}
		printf("# %llu rounds\n", (unsigned long long)c[i].rounds);
	}
	for (int i = 0; i < 3; i++) {
		c[i].done = 4;
		EXPECT_EQ(0, ut_join(c[i].pthread));
	}
}

/* Meanwhile others stop the world */
static void *stop_often(void *arg)
{
	struct caller *c = arg;
	struct upreempt_world w;

	while (!c->done) {
		c->ret |= ut_world_stop(c->domain, 0, &w);
		ut_busy(20000);
		c->ret |= upreempt_world_start(c->domain);
		c->rounds++;
		ut_sleep(UT_MS);
	}
	return NULL;
}

TEST_F_TIMEOUT(handshake, while_the_world_is_stopped, 120)
{
	struct caller c = { .domain = self->domain };
	struct seen seen = { .wrong = 0 };
	uint64_t n = 0;

	ASSERT_EQ(0, pthread_create(&c.pthread, NULL, stop_often, &c));
	UT_FOR(i, ut_scale(1500), 8) {
		ASSERT_EQ(0, upreempt_handshake(self->domain, note, &seen, ut_limit(), NULL));
		n += 6;
		ASSERT_EQ(n, calls(&seen));
	}
	c.done = 1;
	ASSERT_EQ(0, ut_join(c.pthread));
	EXPECT_EQ(0, c.ret);
	EXPECT_LT(0, c.rounds);
	EXPECT_EQ(0, seen.wrong);
}

/* ---- threads that come and go meanwhile ------------------------------------------------- */

static volatile int guests_quit;

static void *guest(void *arg)
{
	struct caller *c = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = count_own);
	volatile uint64_t n = 0;

	while (!guests_quit) {
		c->ret |= upreempt_thread_register(c->domain, &opts, &c->thread);
		while (n++ % 500)
			;
		if (n % 3)
			sched_yield();
		c->ret |= upreempt_thread_unregister(c->thread);
		c->rounds++;
	}
	return NULL;
}

TEST_F_TIMEOUT(handshake, threads_come_and_go, 120)
{
	struct upreempt_handshake h = { .size = sizeof(h) };
	struct caller c[3];
	struct seen seen = { .wrong = 0 };
	uint64_t threads = 0, run = 0, gone = 0, rounds = 0;

	for (int i = 0; i < 3; i++) {
		c[i] = (struct caller){ .domain = self->domain };
		ASSERT_EQ(0, pthread_create(&c[i].pthread, NULL, guest, &c[i]));
	}
	UT_FOR(i, ut_scale(3000), 10) {
		ASSERT_EQ(0, upreempt_handshake(self->domain, note, &seen, ut_limit(), &h));
		ASSERT_EQ(h.threads, h.self + h.proxy + h.gone);
		threads += h.threads;
		run += h.self + h.proxy;
		gone += h.gone;
		ASSERT_EQ(run, calls(&seen));
	}
	guests_quit = 1;
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, ut_join(c[i].pthread));
		EXPECT_EQ(0, c[i].ret);
		rounds += c[i].rounds;
	}
	EXPECT_LT(0, rounds);
	EXPECT_EQ(0, seen.wrong);
	printf("# %llu threads asked, %llu came, %llu left, of %llu registrations\n",
	       (unsigned long long)threads, (unsigned long long)run, (unsigned long long)gone,
	       (unsigned long long)rounds);
}

TEST_HARNESS_MAIN
