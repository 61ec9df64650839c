// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Deferred actions: each once, in order, in the thread, and only where it polls.
 * Proves U7, U10.
 */
#include "kselftest_harness.h"
#include "ut_world.h"

struct item {
	struct upreempt_action action;
	uint32_t from, number, again;
};

static struct upreempt_domain *domain;
static struct upreempt_thread *target;
static volatile uint64_t count, redirects, done, wrong;
static volatile int quit, ready, mute;
static volatile bool polling;		/* the thread is where actions may run */
static volatile uint32_t next_of[2];

static void run_item(struct upreempt_action *action)
{
	struct item *item = (struct item *)action;

	if (upreempt_thread_self() && upreempt_thread_self() != target)
		wrong++;
	if (!polling)
		wrong++;
	if (item->number != next_of[item->from])
		wrong++;
	next_of[item->from] = item->number + 1;
	done++;
}

static void count_redirect(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	__atomic_add_fetch(&redirects, 1, __ATOMIC_SEQ_CST);
}

static void *target_main(void *exit_without)
{
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = count_redirect);

	if (upreempt_thread_register(domain, &opts, &target))
		wrong++;
	ready = 1;
	while (!quit) {
		count++;
		if (mute)
			continue;
		polling = true;
		upreempt_poll();
		polling = false;
	}
	polling = true;			/* so is unregistering */
	if (!exit_without && upreempt_thread_unregister(target))
		wrong++;
	return NULL;
}

static pthread_t start(bool exit_without)
{
	pthread_t pthread;

	quit = 0;
	ready = 0;
	if (pthread_create(&pthread, NULL, target_main, exit_without ? (void *)1 : NULL) ||
	    !UT_UNTIL(ready))
		wrong++;
	return pthread;
}

static void *defer_many(void *arg)
{
	struct item *items = arg;

	for (uint32_t i = 0; items[i].action.fn; i++) {
		if (upreempt_defer(target, &items[i].action))
			__atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
		if (i % 64 == 63)
			sched_yield();
	}
	return NULL;
}

static struct item *make(uint32_t from, uint32_t n)
{
	struct item *items = calloc(n + 1, sizeof(*items));

	for (uint32_t i = 0; items && i < n; i++)
		items[i] = (struct item){ .action.fn = run_item, .from = from, .number = i };
	return items;
}

TEST(once_in_order_and_never_asynchronously)
{
	uint64_t n = ut_scale(200000), landed = 0;
	pthread_t pthread, from[2];
	struct upreempt_event ev;
	struct item *items[2];

	domain = ut_open(4, 64);
	ASSERT_NE(NULL, domain);
	pthread = start(false);
	for (int i = 0; i < 2; i++) {
		items[i] = make(i, n);
		ASSERT_NE(NULL, items[i]);
		ASSERT_EQ(0, pthread_create(&from[i], NULL, defer_many, items[i]));
	}
	/* the storm, for as long as the actions come, and a little at least */
	UT_FOR(i, 1000000, 6) {
		if (done >= 2 * n && landed > 100)
			break;
		ASSERT_EQ(0, ut_request(target, UPREEMPT_REDIRECT, &ev));
		landed += ev.outcome == UPREEMPT_LANDED || ev.outcome == UPREEMPT_COOPERATED;
	}
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, ut_join(from[i]));
	EXPECT_TRUE(UT_UNTIL(done >= 2 * n));
	EXPECT_EQ(2 * n, done);
	EXPECT_EQ(0, wrong);
	EXPECT_LT(0, landed);
	EXPECT_EQ(n, next_of[0]);
	EXPECT_EQ(n, next_of[1]);
	quit = 1;
	ASSERT_EQ(0, ut_join(pthread));
	EXPECT_TRUE(UT_UNTIL(redirects >= landed));
	EXPECT_EQ(landed, redirects);
	EXPECT_EQ(2 * n, done);
	printf("# %llu redirects meanwhile\n", (unsigned long long)landed);
	upreempt_domain_close(domain);
}

/* Who does not poll any more does it when it leaves, one way or the other; then nobody can ask */
TEST(at_the_end)
{
	domain = ut_open(4, 64);
	ASSERT_NE(NULL, domain);
	for (int i = 0; i < 4; i++) {
		struct item *items = make(0, 100), late = { .action.fn = run_item };
		pthread_t pthread;

		done = 0;
		next_of[0] = 0;
		mute = 1;
		pthread = start(i & 1);
		defer_many(items);
		ut_sleep(10 * UT_MS);
		EXPECT_EQ(0, done);
		quit = 1;
		ASSERT_EQ(0, ut_join(pthread));
		EXPECT_EQ(100, done);
		EXPECT_EQ(0, wrong);
		EXPECT_EQ(-ESRCH, upreempt_defer(target, &late.action));
		EXPECT_EQ(100, done);
		free(items);
	}
	EXPECT_EQ(-EINVAL, upreempt_defer(target, NULL));
	EXPECT_EQ(-EINVAL, upreempt_defer(NULL, NULL));
	upreempt_domain_close(domain);
}

/* Its memory may be used again from the function on, for itself, too */
static void run_again(struct upreempt_action *action)
{
	struct item *item = (struct item *)action;

	done++;
	if (item->again && item->again-- && upreempt_defer(target, action))
		wrong++;
}

TEST(again_from_the_function)
{
	struct item item = { .action.fn = run_again, .again = 1000 };
	pthread_t pthread;

	domain = ut_open(4, 64);
	ASSERT_NE(NULL, domain);
	pthread = start(false);
	ASSERT_EQ(0, upreempt_defer(target, &item.action));
	EXPECT_TRUE(UT_UNTIL(done == 1001));
	quit = 1;
	ASSERT_EQ(0, ut_join(pthread));
	EXPECT_EQ(1001, done);
	EXPECT_EQ(0, wrong);
	upreempt_domain_close(domain);
}

/* In a stopped world nobody polls: it waits */
TEST(in_a_stopped_world)
{
	struct item item = { .action.fn = run_item };
	struct upreempt_world w;
	pthread_t pthread;

	domain = ut_open(4, 64);
	ASSERT_NE(NULL, domain);
	pthread = start(false);
	ASSERT_EQ(0, ut_world_stop(domain, 0, &w));
	ASSERT_EQ(0, upreempt_defer(target, &item.action));
	ut_sleep(10 * UT_MS);
	EXPECT_EQ(0, done);
	ASSERT_EQ(0, upreempt_world_start(domain));
	EXPECT_TRUE(UT_UNTIL(done));
	quit = 1;
	ASSERT_EQ(0, ut_join(pthread));
	EXPECT_EQ(1, done);
	EXPECT_EQ(0, wrong);
	upreempt_domain_close(domain);
}

TEST_HARNESS_MAIN
