// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves P16: a thread whose PC is in the vsyscall page, above the user range, is stopped and
 * redirected elsewhere.
 *
 * The page cannot be executed (vsyscall=xonly or emulate): the fetch of its first instruction
 * faults, the kernel does the call in the exception and returns behind it. So a hook sees such
 * a PC in two cases only, and each has a test: an interrupt comes in between the call and the
 * fetch; or the kernel itself returns to the page, from a signal handler.
 */
#include "kselftest_harness.h"
#include <sys/ucontext.h>
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

FIXTURE(vsyscall) {
	struct raw r;
	struct raw_target t;
};

FIXTURE_SETUP(vsyscall)
{
	raw_params_reset();
	if (!vsyscall_works())
		SKIP(return, "this kernel has no vsyscall page");
	ASSERT_EQ(0, raw_domain(&self->r, 2, 16));
}

FIXTURE_TEARDOWN(vsyscall)
{
	raw_close(&self->r);
}

/* Stops and redirects the thread all the time; returns how often it was found in the page. */
static uint64_t stop_and_redirect(struct __test_metadata *_metadata,
				  FIXTURE_DATA(vsyscall) *self, void (*body)(struct raw_target *t))
{
	struct raw_target *t = &self->t;
	struct upreempt_event e;
	struct upreempt_stats s;

	raw_target_init(t, &self->r, body, RAW_LANDING);
	EXPECT_EQ(0, raw_target_start(t));
	for (uint64_t end = raw_in(3000); raw_now() < end && t->ready == 1;) {
		EXPECT_EQ(0, raw_ask(&self->r, t->slot, UPREEMPT_REDIRECT, 0, &e));
		EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
		EXPECT_GT(1UL << 56, e.regs.rip);
		/* BLOCKED: in a system call, which the emulation of one is, too */
		EXPECT_EQ(0, raw_ask(&self->r, t->slot, UPREEMPT_STOP, 0, &e));
		if (e.outcome != UPREEMPT_BLOCKED) {
			EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
			EXPECT_GT(1UL << 56, e.regs.rip);
		}
		EXPECT_EQ(0, raw_release(&self->r, t->slot, e.seq));
	}
	EXPECT_EQ(0, raw_stats(&self->r, t->slot, &s));
	TH_LOG("%llu requests, %llu deferred above the user range",
	       (unsigned long long)(s.kinds[UPREEMPT_REDIRECT] + s.kinds[UPREEMPT_STOP]),
	       (unsigned long long)s.deferrals[UPREEMPT_R_KERNEL_IP]);
	EXPECT_TRUE(raw_target_moves(t));
	EXPECT_EQ(0, raw_target_stop(t));
	EXPECT_EQ(0, t->wrong);
	return s.deferrals[UPREEMPT_R_KERNEL_IP];
}

static void check_time(struct raw_target *t, long *last, long now)
{
	t->wrong += now < *last || now > *last + 60;
	*last = now;
	t->count++;
}

static void body_call(struct raw_target *t)
{
	vsyscall_time *get = (vsyscall_time *)VSYSCALL_TIME;
	long last = get(NULL);

	while (!t->stop)
		check_time(t, &last, get(NULL));
}

/* The window is one instruction; under emulation jump and fetch are one, and there is none. */
TEST_F(vsyscall, called)
{
	stop_and_redirect(_metadata, self, body_call);
}

/* As if the interrupted code were about to call time(NULL) */
static void on_usr1(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	regs[REG_RSP] -= 8;
	*(greg_t *)regs[REG_RSP] = regs[REG_RIP];
	regs[REG_RIP] = VSYSCALL_TIME;
	regs[REG_RDI] = 0;
}

static void body_return(struct raw_target *t)
{
	long now, last = ((vsyscall_time *)VSYSCALL_TIME)(NULL), pid;

	while (!t->stop) {
		now = SYS_tgkill;
		pid = getpid();
		asm volatile("	sub $128, %%rsp\n"
			     "	syscall\n"
			     "	add $128, %%rsp\n"
			     : "+a"(now), "+D"(pid) : "S"((long)t->tid), "d"((long)SIGUSR1)
			     : "rcx", "r11", "memory", "cc");
		check_time(t, &last, now);
	}
}

TEST_F(vsyscall, returned_to)
{
	struct sigaction sa = { .sa_sigaction = on_usr1, .sa_flags = SA_SIGINFO };

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	EXPECT_LT(0, stop_and_redirect(_metadata, self, body_return));
}

RAW_TEST_MAIN
