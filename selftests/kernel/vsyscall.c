// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves P16: a thread that calls the vsyscall page, whose PC is above the user range there, is stopped and redirected around it. */
#include "kselftest_harness.h"
#include <sys/wait.h>
#include "../include/raw_target.h"

#define VSYSCALL_TIME	0xffffffffff600400UL

typedef long vsyscall_time(long *t);

/* Does this kernel still emulate the page? A child finds out. */
static bool vsyscall_works(void)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(((vsyscall_time *)VSYSCALL_TIME)(NULL) > 0 ? 0 : 1);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static void body_vsyscall(struct raw_target *t)
{
	vsyscall_time *get = (vsyscall_time *)VSYSCALL_TIME;
	long last = get(NULL);

	while (!t->stop) {
		long now = get(NULL);

		t->wrong += now < last || now > last + 60;
		last = now;
		t->count++;
	}
}

TEST(redirected_and_stopped_around_the_vsyscall_page)
{
	struct upreempt_event e;
	struct upreempt_stats s;
	struct raw_target t;
	struct raw r;
	uint64_t end;

	if (!vsyscall_works())
		SKIP(return, "this kernel has no vsyscall page");
	ASSERT_EQ(0, raw_domain(&r, 2, 16));
	raw_target_init(&t, &r, body_vsyscall, RAW_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	for (end = raw_in(3000); raw_now() < end;) {
		ASSERT_EQ(0, raw_ask(&r, t.slot, UPREEMPT_REDIRECT, RAW_LONG_MS, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_GT(1UL << 56, e.regs.rip);
		/* BLOCKED: while the kernel emulates the call */
		ASSERT_EQ(0, raw_ask(&r, t.slot, UPREEMPT_STOP, RAW_LONG_MS, &e));
		if (e.outcome == UPREEMPT_BLOCKED) {
			ASSERT_EQ(VSYSCALL_TIME, e.regs.rip);
		} else {
			ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
			ASSERT_GT(1UL << 56, e.regs.rip);
		}
		ASSERT_EQ(0, raw_release(&r, t.slot, e.seq));
	}
	ASSERT_EQ(0, raw_stats(&r, t.slot, &s));
	TH_LOG("%llu requests, %llu deferred above the user range",
	       (unsigned long long)(s.kinds[UPREEMPT_REDIRECT] + s.kinds[UPREEMPT_STOP]),
	       (unsigned long long)s.deferrals[UPREEMPT_R_KERNEL_IP]);
	EXPECT_TRUE(raw_target_moves(&t));
	ASSERT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	raw_close(&r);
}

RAW_TEST_MAIN
