// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * From inside a handler the interrupted function and its callers are found: the
 * landing has complete unwind information. Proves M16, U34, R10.
 */
// LDFLAGS: -rdynamic
#include "kselftest_harness.h"
#include "ut.h"
#include <dlfcn.h>
#include <execinfo.h>
#include <setjmp.h>
#include <unwind.h>

static volatile uint64_t runs;
static volatile uint64_t count;
static volatile int quit, ready;
static int found_leaf, found_middle, found_top, too_deep;
static uintptr_t cfa_seen, rsp_seen, ip_seen, rip_seen;
static struct upreempt_thread *thread;
static struct upreempt_domain *domain;
static int error;

/* Not static: dladdr() has to find their names */
int unwind_leaf(int turns);
int unwind_middle(int depth);
void *unwind_top(void *arg);

__attribute__((noipa)) int unwind_leaf(int turns)
{
	int sum = turns;

	while (!quit) {
		count++;
		sum += count;
	}
	return sum;
}

/* A frame of odd size with saved registers: the CFA cannot be guessed */
__attribute__((noipa)) int unwind_middle(int depth)
{
	volatile char pad[137];

	pad[depth] = depth;
	return (depth ? unwind_middle(depth - 1) : unwind_leaf(depth)) + pad[depth];
}

struct walk {
	int frames;
	bool past_interrupted;
};

static _Unwind_Reason_Code look(struct _Unwind_Context *c, void *arg)
{
	struct walk *w = arg;
	int before;
	uintptr_t ip = _Unwind_GetIPInfo(c, &before);
	Dl_info info;

	if (++w->frames > 60) {
		too_deep++;
		return _URC_END_OF_STACK;
	}
	if (ip == rip_seen && before) {
		w->past_interrupted = true;
		ip_seen = ip;
		cfa_seen = _Unwind_GetCFA(c);
	}
	if (!dladdr((void *)(ip - !before), &info) || !info.dli_sname || !w->past_interrupted)
		return _URC_NO_REASON;
	found_leaf += !strcmp(info.dli_sname, "unwind_leaf");
	found_middle += !strcmp(info.dli_sname, "unwind_middle");
	found_top += !strcmp(info.dli_sname, "unwind_top");
	return _URC_NO_REASON;
}

static void walk_handler(struct upreempt_context *ctx, void *arg)
{
	struct walk w = { 0 };

	(void)arg;
	rip_seen = upreempt_context_regs(ctx)->rip;
	rsp_seen = upreempt_context_regs(ctx)->rsp;
	_Unwind_Backtrace(look, &w);
	runs++;
}

static void backtrace_handler(struct upreempt_context *ctx, void *arg)
{
	void *frames[64];
	int n = backtrace(frames, 64);
	Dl_info info;

	(void)ctx;
	(void)arg;
	for (int i = 0; i < n; i++) {
		if (!dladdr((char *)frames[i] - 1, &info) || !info.dli_sname)
			continue;
		found_leaf += !strcmp(info.dli_sname, "unwind_leaf");
		found_middle += !strcmp(info.dli_sname, "unwind_middle");
		found_top += !strcmp(info.dli_sname, "unwind_top");
	}
	runs++;
}

static upreempt_handler_fn handler;

void *unwind_top(void *arg)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler, .handler_stack = 32768);

	(void)arg;
	error = upreempt_thread_register(domain, &o, &thread);
	ready = 1;
	if (error)
		return NULL;
	if (unwind_middle(3) == 12345)
		error = 1;
	error = upreempt_thread_unregister(thread);
	return NULL;
}

FIXTURE(unwind) {
	pthread_t pthread;
	void *warm[4];
};

FIXTURE_SETUP(unwind)
{
	domain = ut_open(4, 64);
	ASSERT_NE(NULL, domain);
	backtrace(self->warm, 4);	/* loads the unwinder, which takes locks and memory */
}

FIXTURE_TEARDOWN(unwind)
{
	upreempt_domain_close(domain);
}

static int begin(FIXTURE_DATA(unwind) *self, upreempt_handler_fn fn)
{
	handler = fn;
	if (pthread_create(&self->pthread, NULL, unwind_top, NULL))
		return -1;
	return UT_UNTIL(ready && (error || count)) ? error : -ETIMEDOUT;
}

static int end(FIXTURE_DATA(unwind) *self)
{
	quit = 1;
	return pthread_join(self->pthread, NULL) ? -1 : error;
}

TEST_F_TIMEOUT(unwind, registers_are_exact, 60)
{
	struct upreempt_event ev;

	ASSERT_EQ(0, begin(self, walk_handler));
	for (int i = 1; i <= 200; i++) {
		found_leaf = found_middle = found_top = 0;
		cfa_seen = 0;
		ASSERT_EQ(0, ut_request(thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_TRUE(UT_UNTIL(runs == (uint64_t)i));
		ASSERT_EQ(rip_seen, ip_seen);
		ASSERT_LE(rsp_seen, cfa_seen);
		ASSERT_GT(rsp_seen + 4096, cfa_seen);
		ASSERT_EQ(1, found_leaf);
		ASSERT_EQ(4, found_middle);
		ASSERT_EQ(1, found_top);
	}
	EXPECT_EQ(0, too_deep);
	EXPECT_EQ(0, end(self));
}

TEST_F_TIMEOUT(unwind, backtrace, 60)
{
	struct upreempt_event ev;

	ASSERT_EQ(0, begin(self, backtrace_handler));
	ASSERT_EQ(0, ut_request(thread, UPREEMPT_REDIRECT, &ev));
	ASSERT_TRUE(UT_UNTIL(runs == 1));
	EXPECT_EQ(1, found_leaf);
	EXPECT_EQ(4, found_middle);
	EXPECT_EQ(1, found_top);
	EXPECT_EQ(0, end(self));
}

static jmp_buf away;
static volatile int jumped;

static void jump_handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	runs++;
	longjmp(away, 1);
}

static void *jumping_main(void *arg)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = jump_handler);

	(void)arg;
	error = upreempt_thread_register(domain, &o, &thread);
	ready = 1;
	if (error)
		return NULL;
	if (setjmp(away))
		jumped++;
	while (!quit)
		count++;
	return NULL;
}

/* longjmp() out of a handler gives the context up; the thread goes on taking requests */
TEST_F_TIMEOUT(unwind, longjmp, 60)
{
	struct upreempt_event ev;

	ASSERT_EQ(0, pthread_create(&self->pthread, NULL, jumping_main, NULL));
	ASSERT_TRUE(UT_UNTIL(ready && (error || count)));
	ASSERT_EQ(0, error);
	for (int i = 1; i <= 100; i++) {
		ASSERT_EQ(0, ut_request(thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		ASSERT_TRUE(UT_UNTIL(jumped == i));
	}
	quit = 1;
	EXPECT_EQ(0, pthread_join(self->pthread, NULL));
}

/* pthread_cancel() is acted upon in a handler as anywhere: the thread's cleanup runs */
static volatile int cleaned;

static void clean(void *arg)
{
	(void)arg;
	cleaned++;
}

static void cancel_handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	runs++;
	pthread_testcancel();
}

static void *cancelled_main(void *arg)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = cancel_handler, .handler_stack = 32768);

	(void)arg;
	error = upreempt_thread_register(domain, &o, &thread);
	ready = 1;
	if (error)
		return NULL;
	pthread_cleanup_push(clean, NULL);
	quit = 0;
	unwind_leaf(1);
	pthread_cleanup_pop(0);
	return NULL;
}

TEST_F_TIMEOUT(unwind, pthread_cancel, 60)
{
	struct upreempt_event ev;
	void *ret;
	int err;

	ASSERT_EQ(0, pthread_create(&self->pthread, NULL, cancelled_main, NULL));
	ASSERT_TRUE(UT_UNTIL(ready && (error || count)));
	ASSERT_EQ(0, error);
	ASSERT_EQ(0, pthread_cancel(self->pthread));
	err = ut_request(thread, UPREEMPT_REDIRECT, &ev);
	EXPECT_TRUE(err == -ESRCH || (!err && (ev.outcome == UPREEMPT_LANDED ||
					       ev.outcome == UPREEMPT_GONE)));
	ASSERT_EQ(0, pthread_join(self->pthread, &ret));
	EXPECT_EQ(PTHREAD_CANCELED, ret);
	EXPECT_EQ(1, cleaned);
}

TEST_HARNESS_MAIN
