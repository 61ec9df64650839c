// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Both ways back, without a system call and through the kernel, give back exactly
 * what was there, also when requests come while the thread resumes. With a stack
 * whose next page is not there yet, too. Proves M15, R9, U24, P12, P13.
 */
#include "kselftest_harness.h"
#include "../oracle/oracle.h"
#include <sys/mman.h>

#define STACK	(256 * 1024)

static volatile uint64_t runs, in_block;
static bool turning;

static void handler(struct upreempt_context *ctx, void *arg)
{
	struct upreempt_regs *r = upreempt_context_regs(ctx);

	(void)arg;
	if (oracle_has(r->rip)) {
		oracle_check_regs("context", r);
		oracle_check_xstate(ctx);
		if (turning)
			oracle_turn(ctx, (uint32_t)upreempt_context_seq(ctx));
		in_block++;
	}
	__atomic_fetch_add(&runs, 1, __ATOMIC_RELAXED);
	oracle_trash();
}

FIXTURE(resume) {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	pthread_t pthread;
	char *stack;
	volatile int ready;
	int error;
	uint64_t syscalls;
};

FIXTURE_VARIANT(resume) {
	uint32_t flags;
};

FIXTURE_VARIANT_ADD(resume, user) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(resume, kernel) {
	.flags = UPREEMPT_THREAD_KERNEL_RESUME,
};

static uint32_t thread_flags;

static void *oracle_main(void *arg)
{
	FIXTURE_DATA(resume) *self = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler, .handler_stack = 16384,
		      .flags = thread_flags, .stack_lo = self->stack,
		      .stack_hi = self->stack + STACK);
	/* the red zone ends where a page ends: the landing begins on the next one */
	char *sp = self->stack + STACK / 2 + 128;

	oracle_setup(sp, 3);
	self->error = upreempt_thread_register(self->domain, &o, &self->thread);
	self->ready = 1;
	if (!self->error) {
		oracle_loop();
		self->error = upreempt_thread_unregister(self->thread);
	}
	oracle_done();
	return NULL;
}

FIXTURE_SETUP(resume)
{
	pthread_attr_t attr;

	memset(self, 0, sizeof(*self));
	thread_flags = variant->flags;
	self->domain = ut_open(4, 64);
	ASSERT_NE(NULL, self->domain);
	self->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->stack);
	/* EINVAL: a kernel without them, as real-time kernels are. */
	ASSERT_TRUE(!madvise(self->stack, STACK, MADV_NOHUGEPAGE) || errno == EINVAL);
	ASSERT_EQ(0, pthread_attr_init(&attr));
	ASSERT_EQ(0, pthread_attr_setstack(&attr, self->stack, STACK));
	ASSERT_EQ(0, pthread_create(&self->pthread, &attr, oracle_main, self));
	ASSERT_TRUE(UT_UNTIL(self->ready));
	ASSERT_EQ(0, self->error);
	ASSERT_TRUE(UT_UNTIL(oracle_rounds > 10));
}

FIXTURE_TEARDOWN(resume)
{
	struct timespec ts;

	oracle_quit = 1;
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 20;
	EXPECT_EQ(0, pthread_timedjoin_np(self->pthread, NULL, &ts));
	EXPECT_EQ(0, self->error);
	EXPECT_EQ(0, oracle_bad);
	upreempt_domain_close(self->domain);
}

/* One request after the other; the way back is the one that was asked for */
TEST_F_TIMEOUT(resume, exact, 120)
{
	struct upreempt_stats st;
	struct upreempt_event ev;
	uint64_t n = 0;

	turning = true;
	UT_FOR(i, ut_scale(50000), 8) {
		ASSERT_EQ(0, ut_request(self->thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		ASSERT_TRUE(UT_UNTIL(runs == i + 1));
		ASSERT_EQ(0, oracle_bad);
		n++;
	}
	EXPECT_LT(0, in_block);
	ASSERT_EQ(0, upreempt_thread_stats(self->thread, &st));
	if (ut_is_kmod(self->domain) && thread_flags & UPREEMPT_THREAD_KERNEL_RESUME) {
		EXPECT_LE(n - 1, st.resumes);	/* the last one may be on its way */
	} else {
		EXPECT_GT(n / 2 + 1, st.resumes);
	}
	printf("# %llu redirects, %llu in the block, %llu kernel resumes\n", (unsigned long long)n,
	       (unsigned long long)in_block, (unsigned long long)st.resumes);
}

/* Several at once: while one resumes, the next is already waiting */
TEST_F_TIMEOUT(resume, back_to_back, 120)
{
	uint64_t landed = 0, seq[8];
	struct upreempt_event ev;

	turning = false;
	UT_FOR(i, ut_scale(2500), 8) {
		ASSERT_EQ(0, oracle_bad);
		for (int k = 0; k < 8; k++)
			ASSERT_EQ(0, ut_post(self->thread, UPREEMPT_REDIRECT, &seq[k]));
		for (int k = 0; k < 8; k++) {
			ASSERT_EQ(0, upreempt_wait(self->thread, seq[k], ut_limit(), &ev));
			ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
			landed++;
		}
	}
	EXPECT_TRUE(UT_UNTIL(runs >= landed));
	EXPECT_EQ(landed, runs);
}

/* The pages below the red zone are taken away each time: the landing faults them in */
TEST_F_TIMEOUT(resume, stack_page_not_there, 120)
{
	struct upreempt_event ev;

	turning = true;
	UT_FOR(i, ut_scale(20000), 8) {
		ASSERT_EQ(0, oracle_bad);
		ASSERT_EQ(0, madvise(self->stack, STACK / 2, MADV_DONTNEED));
		ASSERT_EQ(0, ut_request(self->thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		ASSERT_TRUE(UT_UNTIL(runs == i + 1));
		/* until it is out of the handler the stack is in use */
		ASSERT_TRUE(UT_UNTIL(({ uint64_t r = oracle_rounds; UT_UNTIL(oracle_rounds != r); })));
	}
	EXPECT_LT(0, in_block);
}

TEST_HARNESS_MAIN
