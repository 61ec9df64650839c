// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Threads that start, exit, block, poll, signal and redirect each other, while two others stop
 * and start the world: in a stopped world no registered thread makes a step. Proves M4, U10.
 */
#include "kselftest_harness.h"
#include "ut_world.h"

#define THREADS	6

static struct upreempt_domain *domain;
static volatile int quit;
static uint64_t actions_made, actions_done;

struct churn {
	unsigned int seed;
	volatile uint64_t steps;	/* only while it is registered */
	struct upreempt_action action;
	int action_busy;
	uint64_t lives, signals, wrong;
	volatile pid_t tid;
	pthread_t pthread;
};

static struct churn all[THREADS];

static void on_signal(int signo)
{
	(void)signo;
}

static void on_redirect(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	((struct churn *)arg)->steps++;
}

static void on_action(struct upreempt_action *action)
{
	struct churn *c = (void *)((char *)action - offsetof(struct churn, action));

	__atomic_add_fetch(&actions_done, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&c->action_busy, 0, __ATOMIC_SEQ_CST);
}

static void step(struct churn *c, struct upreempt_thread *me)
{
	struct churn *other = &all[rand_r(&c->seed) % THREADS];
	struct timespec us = { .tv_nsec = 1 + rand_r(&c->seed) % 50000 };
	volatile int turns;

	switch (rand_r(&c->seed) % 8) {
	case 0:
		nanosleep(&us, NULL);
		break;
	case 1:
		for (turns = 0; turns < 2000; turns++)
			upreempt_poll();
		break;
	case 2:
		if (other->tid && !syscall(SYS_tgkill, getpid(), other->tid, SIGUSR1))
			c->signals++;
		break;
	case 3:
		upreempt_disable();
		for (turns = 0; turns < 500; turns++)
			c->steps++;
		upreempt_enable();
		break;
	case 4:
		if (!__atomic_exchange_n(&c->action_busy, 1, __ATOMIC_SEQ_CST)) {
			__atomic_add_fetch(&actions_made, 1, __ATOMIC_SEQ_CST);
			if (upreempt_defer(me, &c->action))
				c->wrong++;
		}
		break;
	case 5:
		upreempt_poll_load();
		sched_yield();
		break;
	default:
		for (turns = 0; turns < 2000; turns++)
			c->steps++;
	}
	c->steps++;
}

/* One life: it is registered until the end, which is a call or an exit */
static void *live(void *arg)
{
	struct churn *c = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = on_redirect, .arg = c);
	struct upreempt_thread *me;

	if (upreempt_thread_register(domain, &opts, &me)) {
		c->wrong++;
		return NULL;
	}
	c->tid = upreempt_thread_tid(me);
	for (int i = rand_r(&c->seed) % 60; i >= 0; i--)
		step(c, me);
	c->tid = 0;
	if (rand_r(&c->seed) % 2 && upreempt_thread_unregister(me))
		c->wrong++;
	c->lives++;
	return NULL;
}

static void *lives_main(void *arg)
{
	struct churn *c = arg;
	pthread_t pthread;

	while (!quit && !c->wrong) {
		if (pthread_create(&pthread, NULL, live, c) || ut_join(pthread))
			c->wrong++;
	}
	return NULL;
}

struct stopper {
	unsigned int seed;
	uint64_t stops, moved, late, wrong, threads;
	pthread_t pthread;
};

static uint64_t sum(void)
{
	uint64_t steps = 0;

	for (int i = 0; i < THREADS; i++)
		steps += __atomic_load_n(&all[i].steps, __ATOMIC_SEQ_CST);
	return steps;
}

static void *stopper_main(void *arg)
{
	static const uint64_t grace[4] = { 0, 0, 100000, 1000000 };
	struct stopper *s = arg;
	struct upreempt_world w;
	uint64_t before;

	while (!quit && !s->wrong) {
		int ret = ut_world_stop(domain, grace[rand_r(&s->seed) % 4], &w);

		if (ret < 0) {
			s->wrong++;
			continue;
		}
		before = sum();
		ut_busy(rand_r(&s->seed) % 100000);
		s->moved += !ret && sum() != before;
		s->late += ret;
		s->threads += w.threads;
		s->wrong += !ut_world_ok(&w);
		s->wrong += upreempt_world_start(domain) != 0;
		s->stops++;
		if (rand_r(&s->seed) % 4 == 0)
			ut_sleep(rand_r(&s->seed) % 1000000);
	}
	return NULL;
}

static int redirect_one(struct upreempt_thread *t, void *arg)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT,
		      .deadline_ns = ut_now() + 5 * UT_MS);
	struct upreempt_event ev;

	*(uint64_t *)arg += !upreempt_request(t, &o, &ev) && ev.outcome == UPREEMPT_LANDED;
	return 0;
}

TEST(torture)
{
	struct stopper s[2] = { { .seed = 1 }, { .seed = 2 } };
	pthread_t keeper[THREADS];
	uint64_t lives = 0, signals = 0, redirects = 0, end;
	struct upreempt_world w;

	ASSERT_NE(SIG_ERR, signal(SIGUSR1, on_signal));
	domain = ut_open(THREADS + 2, 64);
	ASSERT_NE(NULL, domain);
	for (int i = 0; i < THREADS; i++) {
		all[i] = (struct churn){ .seed = i, .action.fn = on_action };
		ASSERT_EQ(0, pthread_create(&keeper[i], NULL, lives_main, &all[i]));
	}
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&s[i].pthread, NULL, stopper_main, &s[i]));
	for (end = ut_now() + ut_budget(14 * UT_SEC); ut_now() < end;) {
		upreempt_domain_threads(domain, redirect_one, &redirects);
		ut_sleep(UT_MS);
	}
	quit = 1;
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, ut_join(s[i].pthread));
		EXPECT_EQ(0, s[i].moved);
		EXPECT_EQ(0, s[i].late);
		EXPECT_EQ(0, s[i].wrong);
		EXPECT_LT(10, s[i].stops);
		EXPECT_LT(s[i].stops, s[i].threads);
		printf("# %llu stops of %llu threads\n", (unsigned long long)s[i].stops,
		       (unsigned long long)s[i].threads);
	}
	for (int i = 0; i < THREADS; i++) {
		ASSERT_EQ(0, ut_join(keeper[i]));
		EXPECT_EQ(0, all[i].wrong);
		lives += all[i].lives;
		signals += all[i].signals;
	}
	EXPECT_LT(THREADS, lives);
	EXPECT_LT(0, signals);
	EXPECT_LT(0, redirects);
	EXPECT_LT(0, actions_made);
	EXPECT_EQ(actions_made, actions_done);
	EXPECT_EQ(0, ut_world_stop(domain, 0, &w));
	EXPECT_EQ(0, w.threads);
	EXPECT_EQ(0, upreempt_world_start(domain));
	printf("# %llu threads lived, %llu signals, %llu redirects, %llu actions\n",
	       (unsigned long long)lives, (unsigned long long)signals,
	       (unsigned long long)redirects, (unsigned long long)actions_made);
	upreempt_domain_close(domain);
}

TEST_HARNESS_MAIN
