// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * A redirect needs room below the red zone. Too little is refused by name, and so
 * is a stack pointer outside of the thread's stack; nothing is ever written there.
 * Proves M13, U28.
 */
#include "kselftest_harness.h"
#include "ut.h"
#include <sys/mman.h>

#define PAGE	4096UL
#define GUARD	0xa5

static volatile uint64_t runs;

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	runs++;
}

/* A thread that spins with its stack pointer where the test wants it */
struct diver {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	pthread_t pthread;
	char *sp;			/* 0: where it is */
	void *lo, *hi;
	uint32_t flags, handler_stack;
	volatile uint64_t count;
	volatile int quit, ready;
	int error;
};

void spin_at(volatile uint64_t *count, volatile int *quit, void *sp)
	__attribute__((visibility("hidden")));
__asm__(
"	.pushsection .text\n"
"	.globl	spin_at\n"
"	.hidden	spin_at\n"
"spin_at:\n"
"	pushq	%rbp\n"
"	movq	%rsp, %rbp\n"
"	movq	%rdx, %rsp\n"
"1:	incq	(%rdi)\n"
"	cmpl	$0, (%rsi)\n"
"	je	1b\n"
"	movq	%rbp, %rsp\n"
"	popq	%rbp\n"
"	ret\n"
"	.popsection\n");

static void *diver_main(void *arg)
{
	struct diver *d = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler, .flags = d->flags,
		      .stack_lo = d->lo, .stack_hi = d->hi, .handler_stack = d->handler_stack);

	d->error = upreempt_thread_register(d->domain, &o, &d->thread);
	d->ready = 1;
	if (d->error)
		return NULL;
	spin_at(&d->count, &d->quit, d->sp ? d->sp : __builtin_frame_address(0) - 1024);
	d->error = upreempt_thread_unregister(d->thread);
	return NULL;
}

FIXTURE(stack) {
	struct upreempt_domain *domain;
	struct diver d;
	char *area;
	bool started;
};

static int dive(FIXTURE_DATA(stack) *self)
{
	self->d.domain = self->domain;
	if (pthread_create(&self->d.pthread, NULL, diver_main, &self->d))
		return -1;
	if (!UT_UNTIL(self->d.ready))
		return -ETIMEDOUT;
	self->started = !self->d.error;
	if (self->d.error)
		return self->d.error;
	return UT_UNTIL(self->d.count) ? 0 : -ETIMEDOUT;
}

FIXTURE_SETUP(stack)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(4, 64);
	ASSERT_NE(NULL, self->domain);
	self->area = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	ASSERT_NE(MAP_FAILED, self->area);
	memset(self->area, GUARD, 64 * PAGE);
}

FIXTURE_TEARDOWN(stack)
{
	self->d.quit = 1;
	if (self->started) {
		EXPECT_EQ(0, pthread_join(self->d.pthread, NULL));
		EXPECT_EQ(0, self->d.error);
	}
	upreempt_domain_close(self->domain);
}

/* The bytes of the area that somebody wrote to */
static size_t touched(const char *area)
{
	size_t n = 0;

	for (size_t i = 0; i < 64 * PAGE; i++)
		n += (unsigned char)area[i] != GUARD;
	return n;
}

TEST_F_TIMEOUT(stack, enough_room, 60)
{
	struct upreempt_event ev;

	ASSERT_EQ(0, dive(self));
	ASSERT_EQ(0, ut_request(self->d.thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_TRUE(UT_UNTIL(runs == 1));
}

/* The stack ends a little below the stack pointer */
TEST_F_TIMEOUT(stack, nearly_full, 60)
{
	struct upreempt_event ev;
	uint64_t seq;

	self->d.lo = self->area;
	self->d.hi = self->area + 64 * PAGE;
	self->d.sp = self->area + 600;
	if (!ut_is_kmod(self->domain))	/* a signal is delivered on that stack first */
		self->d.sp = self->area + 4 * PAGE;
	self->d.handler_stack = 32 * PAGE;
	ASSERT_EQ(0, dive(self));
	for (int i = 0; i < 10; i++) {
		ASSERT_EQ(0, ut_request(self->d.thread, UPREEMPT_REDIRECT, &ev));
		EXPECT_EQ(UPREEMPT_UNSAFE, ev.outcome);
		EXPECT_EQ(UPREEMPT_R_STACK_ROOM, ev.reason);
		EXPECT_EQ((uintptr_t)self->d.sp, ev.regs.rsp);
	}
	EXPECT_EQ(0, runs);
	if (ut_is_kmod(self->domain)) {
		EXPECT_EQ(0, touched(self->area));
		/* what needs no stack goes on all the same */
		ASSERT_EQ(0, ut_request(self->d.thread, UPREEMPT_SAMPLE, &ev));
		EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
		ASSERT_EQ(0, ut_request(self->d.thread, UPREEMPT_STOP, &ev));
		EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
		seq = ev.seq;
		EXPECT_EQ(0, touched(self->area));
		EXPECT_EQ(0, upreempt_release(self->d.thread, seq));
	}
	seq = self->d.count;
	EXPECT_TRUE(UT_UNTIL(self->d.count != seq));
}

/* Another stack than the one that was declared: fibers need NO_STACK_CHECK */
TEST_F_TIMEOUT(stack, out_of_bounds, 60)
{
	struct upreempt_event ev;

	self->d.sp = self->area + 60 * PAGE;
	ASSERT_EQ(0, dive(self));
	ASSERT_EQ(0, ut_request(self->d.thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_UNSAFE, ev.outcome);
	EXPECT_EQ(UPREEMPT_R_STACK_BOUNDS, ev.reason);
	EXPECT_EQ((uintptr_t)self->d.sp, ev.regs.rsp);
	EXPECT_EQ(0, runs);
}

TEST_F_TIMEOUT(stack, not_checked, 60)
{
	struct upreempt_event ev;

	self->d.sp = self->area + 60 * PAGE;
	self->d.flags = UPREEMPT_THREAD_NO_STACK_CHECK;
	ASSERT_EQ(0, dive(self));
	ASSERT_EQ(0, ut_request(self->d.thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_TRUE(UT_UNTIL(runs == 1));
	EXPECT_LT(0, touched(self->area));
}

/* A landing writes nothing above sp - 128, and nothing below what was promised */
TEST_F_TIMEOUT(stack, red_zone_is_left_alone, 60)
{
	struct upreempt_event ev;

	if (!ut_is_kmod(self->domain))
		SKIP(return, "the kernel's signal frame is not the landing's to bound");
	self->d.lo = self->area;
	self->d.hi = self->area + 64 * PAGE;
	self->d.sp = self->area + 60 * PAGE + 8;	/* not even aligned */
	ASSERT_EQ(0, dive(self));
	ASSERT_EQ(0, ut_request(self->d.thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_TRUE(UT_UNTIL(runs == 1));
	for (char *p = self->d.sp - 128; p < self->area + 64 * PAGE; p++)
		ASSERT_EQ(GUARD, (unsigned char)*p);
}

/* A real thread, a real stack, a recursion that goes down to its last bytes */
static volatile uint64_t deep_done;

__attribute__((noinline)) static void recurse(char *lo, struct diver *d, int level)
{
	char here[512];

	memset(here, level, sizeof(here));
	__asm__ volatile("" : : "r"(here) : "memory");
	d->count++;
	if ((char *)__builtin_frame_address(0) - lo > 12288)
		recurse(lo, d, level + 1);
	for (size_t i = 0; i < sizeof(here); i++)
		if (here[i] != (char)level)
			d->error = -EIO;
	__asm__ volatile("" : : "r"(here) : "memory");
}

static void *recursing_main(void *arg)
{
	struct diver *d = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);
	pthread_attr_t attr;
	size_t size;
	void *lo;

	pthread_getattr_np(pthread_self(), &attr);
	pthread_attr_getstack(&attr, &lo, &size);
	pthread_attr_destroy(&attr);
	d->error = upreempt_thread_register(d->domain, &o, &d->thread);
	d->ready = 1;
	if (d->error)
		return NULL;
	while (!d->quit && !d->error) {
		recurse(lo, d, 0);
		deep_done++;
	}
	if (!d->error)
		d->error = upreempt_thread_unregister(d->thread);
	return NULL;
}

TEST_F_TIMEOUT(stack, deep_recursion, 120)
{
	uint64_t landed = 0, refused = 0, other = 0, n = ut_scale(20000);
	struct upreempt_event ev;
	pthread_attr_t attr;

	self->d.domain = self->domain;
	ASSERT_EQ(0, pthread_attr_init(&attr));
	ASSERT_EQ(0, pthread_attr_setstacksize(&attr, 64 * 1024));
	ASSERT_EQ(0, pthread_create(&self->d.pthread, &attr, recursing_main, &self->d));
	self->started = true;
	ASSERT_TRUE(UT_UNTIL(self->d.ready));
	ASSERT_EQ(0, self->d.error);
	UT_FOR(i, n, 8) {
		ASSERT_EQ(0, ut_request(self->d.thread, UPREEMPT_REDIRECT, &ev));
		if (ev.outcome == UPREEMPT_LANDED)
			landed++;
		else if (ev.outcome == UPREEMPT_UNSAFE && ev.reason == UPREEMPT_R_STACK_ROOM)
			refused++;
		else
			other++;
	}
	printf("# %llu landed, %llu refused for want of room\n", (unsigned long long)landed,
	       (unsigned long long)refused);
	EXPECT_EQ(0, other);
	EXPECT_LT(0, landed);
	EXPECT_TRUE(UT_UNTIL(runs >= landed));
	EXPECT_EQ(landed, runs);
	EXPECT_LT(0, deep_done);
}

TEST_HARNESS_MAIN
