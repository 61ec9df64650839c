// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves P11, P12, P15, U29, U32, S10: requests between signals, handlers, debuggers and job control. */
#include "kselftest_harness.h"
#include <setjmp.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include "../include/raw_target.h"

FIXTURE(sig) {
	struct raw r;
};

FIXTURE_SETUP(sig)
{
	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&self->r, 8, 64));
}

FIXTURE_TEARDOWN(sig)
{
	raw_params_reset();
	raw_close(&self->r);
}

/* -------- a storm of redirects over signals and nested signals -------- */

#define MAGIC	0x5ca1ab1e0ddba11ULL

static volatile uint64_t handled, nested, bad_frames;
static volatile uint64_t bad_what, bad_at;	/* the first */

static void bad(uint64_t what, uint64_t at)
{
	if (!bad_frames++) {
		bad_what = what;
		bad_at = at;
	}
}

/* Nothing of the handler's frame may change while it is interrupted. */
static void on_nested(int sig, siginfo_t *info, void *uc)
{
	volatile uint64_t words[64];

	for (int i = 0; i < 64; i++)
		words[i] = MAGIC + i;
	for (volatile int i = 0; i < 200; i++)
		;
	for (int i = 0; i < 64; i++)
		if (words[i] != MAGIC + i)
			bad(1, i);
	if (info->si_signo != sig)
		bad(2, sig);
	nested++;
}

static void on_signal(int sig, siginfo_t *info, void *uc)
{
	const greg_t *g = ((ucontext_t *)uc)->uc_mcontext.gregs;
	volatile uint64_t words[64];

	for (int i = 0; i < 64; i++)
		words[i] = MAGIC - i;
	/* what was interrupted is the loop, its landing, or the way there and back */
	if (raw_in_spin(g[REG_RIP])) {
		if (g[REG_RDX] != (greg_t)RAW_PATTERN(4) || g[REG_R15] != (greg_t)RAW_PATTERN(13))
			bad(3, g[REG_RIP]);
	} else if (!raw_in_range(g[REG_RIP], raw_landing, raw_landing_end)) {
		bad(4, g[REG_RIP]);
	}
	if (info->si_signo != sig)
		bad(5, sig);
	if (handled % 4 == 0)
		syscall(SYS_tgkill, getpid(), raw_gettid(), SIGUSR2);
	for (volatile int i = 0; i < 500; i++)
		;
	for (int i = 0; i < 64; i++)
		if (words[i] != MAGIC - i)
			bad(6, i);
	handled++;
}

static void *signal_main(void *arg)
{
	struct raw_target *t = arg;
	volatile int *stop = t->user;

	while (!*stop) {
		uint64_t before = handled;

		pthread_kill(t->thread, SIGUSR1);
		/* none is left behind when the thread leaves its loop */
		for (int i = 0; i < 20000 && handled == before; i++)
			raw_sleep_us(50);
	}
	return NULL;
}

/* The stack of the handlers, as the thread itself has to set it */
static void body_spin_altstack(struct raw_target *t)
{
	static char stack[65536];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };

	if (sigaltstack(&ss, NULL))
		t->wrong++;
	t->wrong += raw_spin(&t->count, &t->stop);
}

static void redirect_storm(struct __test_metadata *_metadata, struct raw *r, int flags)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags };
	uint64_t n = raw_scale(1500), landed = 0, in_handler = 0;
	struct upreempt_event e;
	struct upreempt_stats s;
	struct raw_target t;
	uint64_t end = raw_in(15000);
	volatile int stop = 0;
	pthread_t thread;

	handled = nested = bad_frames = 0;
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	sa.sa_sigaction = on_nested;
	ASSERT_EQ(0, sigaction(SIGUSR2, &sa, NULL));
	raw_target_init(&t, r, body_spin_altstack, RAW_LANDING);
	t.user = (void *)&stop;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	ASSERT_EQ(0, pthread_create(&thread, NULL, signal_main, &t));
	for (uint64_t i = 0; i < n && raw_now() < end; i++) {
		ASSERT_EQ(0, raw_ask(r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		/* never at a handler's first instruction */
		ASSERT_NE((uintptr_t)on_signal, e.regs.rip);
		ASSERT_NE((uintptr_t)on_nested, e.regs.rip);
		in_handler += !raw_in_spin(e.regs.rip);
		landed++;
	}
	stop = 1;
	ASSERT_EQ(0, pthread_join(thread, NULL));
	ASSERT_EQ(0, raw_stats(r, t.slot, &s));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	EXPECT_EQ(landed, t.land.count);
	EXPECT_EQ(0, bad_frames) {
		TH_LOG("the first: %llu at 0x%llx", (unsigned long long)bad_what,
		       (unsigned long long)bad_at);
	}
	EXPECT_LT(0, handled);
	EXPECT_LT(0, nested);
	if (flags & SA_ONSTACK)
		EXPECT_EQ(0, in_handler);
	TH_LOG("%llu signals, %llu nested, %llu landings, %llu in handlers; deferred: "
	       "%llu signal frame, %llu signal stack, %llu landing",
	       (unsigned long long)handled, (unsigned long long)nested,
	       (unsigned long long)landed, (unsigned long long)in_handler,
	       (unsigned long long)s.deferrals[UPREEMPT_R_SIGNAL_FRAME],
	       (unsigned long long)s.deferrals[UPREEMPT_R_SIGNAL_STACK],
	       (unsigned long long)s.deferrals[UPREEMPT_R_LANDING]);
}

TEST_F(sig, redirects_and_nested_signals)
{
	redirect_storm(_metadata, &self->r, 0);
}

TEST_F(sig, redirects_and_nested_signals_on_their_own_stack)
{
	redirect_storm(_metadata, &self->r, SA_ONSTACK);
}

/* -------- deferral reasons, one by one -------- */

static volatile int go_on;

static void on_wait(int sig, siginfo_t *info, void *uc)
{
	handled++;
	while (!go_on)
		;
}

TEST_F(sig, signal_stack)
{
	struct sigaction sa = { .sa_sigaction = on_wait, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct upreempt_event e;
	struct raw_target t;

	handled = 0;
	go_on = 0;
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	raw_target_init(&t, &self->r, body_spin_altstack, RAW_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	ASSERT_EQ(0, pthread_kill(t.thread, SIGUSR1));
	ASSERT_TRUE(RAW_UNTIL(handled == 1));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 30, &e));
	EXPECT_EQ(UPREEMPT_UNSAFE, e.outcome);
	EXPECT_EQ(UPREEMPT_R_SIGNAL_STACK, e.reason);
	EXPECT_EQ(0, t.land.count);
	/* STOP and SAMPLE need no stack */
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_NE(0, e.regs.sigmask & (1ULL << (SIGUSR1 - 1)));
	ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
	go_on = 1;
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/*
 * A signal that comes while the thread is held in the gate: it is held again at the
 * handler's first instruction. A redirect there is deferred as SIGNAL_FRAME.
 */
TEST_F(sig, stop_holds_at_the_handlers_first_instruction)
{
	struct sigaction sa = { .sa_sigaction = on_wait, .sa_flags = SA_SIGINFO };
	struct upreempt_event e, at_entry;
	struct upreempt_stats s;
	struct raw_target t;
	uint64_t seq;

	handled = 0;
	go_on = 1;
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	for (int i = 0; i < 50; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_TRUE(raw_in_spin(e.regs.rip) ||
			    raw_in_range(e.regs.rip, raw_landing, raw_landing_end));
		ASSERT_EQ(0, pthread_kill(t.thread, SIGUSR1));
		ASSERT_TRUE(RAW_UNTIL(!raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &at_entry) &&
				      at_entry.regs.rip == (uintptr_t)on_wait));
		ASSERT_EQ(UPREEMPT_LANDED, at_entry.outcome);
		ASSERT_EQ(SIGUSR1, (int)at_entry.regs.rdi);
		ASSERT_EQ(i, (int)handled);
		/* the frame holds the true place, not the gate */
		{
			const ucontext_t *uc = (void *)at_entry.regs.rdx;

			ASSERT_EQ(e.regs.rip, (uint64_t)uc->uc_mcontext.gregs[REG_RIP]);
			ASSERT_EQ(e.regs.rsp, (uint64_t)uc->uc_mcontext.gregs[REG_RSP]);
			ASSERT_EQ(e.regs.rflags & 0xcd5,
				  (uint64_t)uc->uc_mcontext.gregs[REG_EFL] & 0xcd5);
		}
		ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
		ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_NE((uintptr_t)on_wait, e.regs.rip);
		ASSERT_TRUE(RAW_UNTIL((int)handled == i + 1));
	}
	ASSERT_EQ(0, raw_stats(&self->r, t.slot, &s));
	EXPECT_LT(0, s.deferrals[UPREEMPT_R_SIGNAL_FRAME]);
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* A handler that leaves by siglongjmp, again and again, under stops and redirects. */
/*
 * A signal meets a thread on its way into the gate, and its frame is half written, with the gate's
 * address, when the thread is switched out and gets its PC back. Or it is released just then.
 */
TEST_F_TIMEOUT(sig, frame_half_written, 120)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	uint64_t n = raw_scale(4000), blocked = 0, end = raw_in(40000);
	struct raw_preempter preempter;
	struct upreempt_event e;
	struct raw_target t;

	RAW_NEED_INJECT(self->r.fd);
	handled = nested = bad_frames = 0;
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	sa.sa_sigaction = on_nested;
	ASSERT_EQ(0, sigaction(SIGUSR2, &sa, NULL));
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, raw_preempt(&preempter, t.tid));
	ASSERT_EQ(0, raw_param("inject_hook_end_delay_us", 100));
	for (uint64_t i = 0; i < n && raw_now() < end; i++) {
		uint64_t seq, before = handled;

		ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_STOP, 0, 0, &seq));
		raw_sleep_us(i % 4 * 50);
		ASSERT_EQ(0, pthread_kill(t.thread, SIGUSR1));
		ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
		blocked += e.outcome == UPREEMPT_BLOCKED;
		ASSERT_TRUE(e.outcome == UPREEMPT_BLOCKED || e.outcome == UPREEMPT_LANDED);
		ASSERT_EQ(0, raw_release(&self->r, t.slot, seq));
		ASSERT_TRUE(RAW_UNTIL(handled != before));
	}
	ASSERT_EQ(0, raw_param("inject_hook_end_delay_us", 0));
	raw_preempt_end(&preempter);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	EXPECT_EQ(0, bad_frames) {
		TH_LOG("%llu, the first: %llu at 0x%llx", (unsigned long long)bad_frames,
		       (unsigned long long)bad_what, (unsigned long long)bad_at);
	}
	TH_LOG("%llu signals, %llu times in their return", (unsigned long long)handled,
	       (unsigned long long)blocked);
}

static sigjmp_buf env;

static void on_jump(int sig, siginfo_t *info, void *uc)
{
	handled++;
	siglongjmp(env, 1);
}

static void body_jump(struct raw_target *t)
{
	sigsetjmp(env, 1);
	if (!t->stop)
		t->wrong += raw_spin(&t->count, &t->stop);
}

TEST_F(sig, handler_that_jumps_away)
{
	struct sigaction sa = { .sa_sigaction = on_jump, .sa_flags = SA_SIGINFO };
	struct upreempt_event e;
	struct raw_target t;

	handled = 0;
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	raw_target_init(&t, &self->r, body_jump, RAW_NO_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_EQ(0, pthread_kill(t.thread, SIGUSR1));
		if (i & 1)
			raw_sleep_us(500);
		ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		ASSERT_TRUE(RAW_UNTIL((int)handled == i + 1));
		ASSERT_TRUE(raw_target_moves(&t));
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* -------- job control -------- */

TEST_F(sig, sigstop_and_sigcont_of_a_held_thread)
{
	struct upreempt_event e, again;
	struct raw_target t;
	int status;
	pid_t pid;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (int i = 0; i < 10; i++) {
			kill(getppid(), SIGSTOP);
			if (!RAW_UNTIL(raw_state(getppid()) == 'T'))
				_exit(1);
			if (!RAW_UNTIL(raw_state(t.tid) == 'T'))
				_exit(2);
			kill(getppid(), SIGCONT);
			raw_sleep_us(5000);
		}
		_exit(0);
	}
	status = raw_reap(pid, RAW_LONG_MS);
	EXPECT_EQ(0, status);
	EXPECT_TRUE(raw_target_still(&t));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &again));
	EXPECT_EQ(UPREEMPT_LANDED, again.outcome);
	EXPECT_EQ(e.regs.rip, again.regs.rip);
	ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

TEST_F(sig, sigkill_of_a_held_thread)
{
	uint64_t start;
	pid_t pid = fork();
	int status, fds[2];

	ASSERT_LE(0, pid);
	ASSERT_EQ(0, pipe(fds));
	if (!pid) {
		struct upreempt_event e;
		struct raw_target t;
		struct raw r;

		if (raw_domain(&r, 4, 16) || raw_spinner(&t, &r, RAW_LANDING) ||
		    raw_ask(&r, t.slot, UPREEMPT_STOP, 0, &e))
			_exit(1);
		/* the main thread leaves: only the held one is left */
		syscall(SYS_exit, 0);
	}
	ASSERT_TRUE(RAW_UNTIL(raw_state(pid) == 'Z'));
	start = raw_now();
	ASSERT_EQ(0, kill(pid, SIGKILL));
	status = raw_reap(pid, 5000);
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	EXPECT_GT(1000, (raw_now() - start) / RAW_MS);
}

/* -------- a debugger -------- */

struct tracee {
	int tid;
	uint64_t gate, count, stop;
};

/* A process with a spinner that is held, and its parent as the debugger. */
static pid_t traced_child(struct tracee *out, bool hold, int *control)
{
	int up[2], down[2];
	pid_t pid;

	if (pipe(up) || pipe(down))
		return -1;
	pid = fork();
	if (!pid) {
		struct upreempt_event e = { 0 };
		struct tracee me;
		struct raw_target t;
		struct raw r;
		char c;

		if (raw_domain(&r, 4, 16) || raw_spinner(&t, &r, RAW_LANDING))
			_exit(1);
		if (hold && (raw_ask(&r, t.slot, UPREEMPT_STOP, 0, &e) ||
			     e.outcome != UPREEMPT_LANDED))
			_exit(2);
		me = (struct tracee){ t.tid, (uintptr_t)r.gate, (uintptr_t)&t.count,
				      (uintptr_t)&t.stop };
		if (write(up[1], &me, sizeof(me)) != sizeof(me))
			_exit(3);
		/* each byte is a demand */
		while (read(down[0], &c, 1) == 1 && c != 'q') {
			if (c == 'r') {		/* release, run, hold again */
				if (raw_release(&r, t.slot, e.seq) || !raw_target_moves(&t) ||
				    raw_ask(&r, t.slot, UPREEMPT_STOP, 0, &e))
					_exit(4);
			} else if (c == 'd' || c == 'D') {	/* what a redirect says now */
				if (raw_ask(&r, t.slot, UPREEMPT_REDIRECT, c == 'd' ? 50 : 0, &e))
					_exit(5);
				c = e.outcome * 32 + e.reason;
			}
			if (write(up[1], &c, 1) != 1)
				_exit(6);
		}
		if (hold && raw_release(&r, t.slot, e.seq))
			_exit(7);
		if (!raw_target_moves(&t) || raw_target_stop(&t))
			_exit(8);
		_exit(t.wrong ? 9 : 0);
	}
	control[0] = down[1];
	control[1] = up[0];
	if (pid < 0 || read(up[0], out, sizeof(*out)) != sizeof(*out))
		return -1;
	return pid;
}

static int demand(int *control, char c)
{
	unsigned char answer;

	if (write(control[0], &c, 1) != 1 || read(control[1], &answer, 1) != 1)
		return -1;
	return answer;
}

static void trace_held(struct __test_metadata *_metadata, bool seize)
{
	struct user_regs_struct regs;
	struct tracee me;
	int control[2], status;
	pid_t pid = traced_child(&me, true, control);

	ASSERT_LT(0, pid);
	for (int i = 0; i < 5; i++) {
		if (seize) {
			ASSERT_EQ(0, ptrace(PTRACE_SEIZE, me.tid, NULL, NULL));
			ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, me.tid, NULL, NULL));
		} else {
			ASSERT_EQ(0, ptrace(PTRACE_ATTACH, me.tid, NULL, NULL));
		}
		ASSERT_EQ(me.tid, waitpid(me.tid, &status, __WALL));
		ASSERT_TRUE(WIFSTOPPED(status));
		ASSERT_EQ(0, ptrace(PTRACE_GETREGS, me.tid, NULL, &regs));
		/* the loop, and not the gate */
		EXPECT_TRUE(raw_in_spin(regs.rip)) {
			TH_LOG("rip 0x%llx gate 0x%llx", (unsigned long long)regs.rip,
			       (unsigned long long)me.gate);
		}
		EXPECT_EQ(RAW_PATTERN(13), regs.r15);
		EXPECT_EQ(me.count, regs.rdi);
		ASSERT_EQ(0, ptrace(PTRACE_DETACH, me.tid, NULL, NULL));
		ASSERT_EQ('r', demand(control, 'r'));
	}
	ASSERT_EQ(1, write(control[0], "q", 1));
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
}

TEST_F(sig, debugger_sees_the_true_registers_of_a_held_thread)
{
	trace_held(_metadata, false);
}

TEST_F(sig, debugger_that_seizes)
{
	trace_held(_metadata, true);
}

/* A debugger moves the PC of a held thread: it goes on there after the release. */
TEST_F(sig, debugger_changes_the_registers_of_a_held_thread)
{
	struct user_regs_struct regs;
	struct tracee me;
	int control[2], status;
	pid_t pid = traced_child(&me, true, control);

	ASSERT_LT(0, pid);
	ASSERT_EQ(0, ptrace(PTRACE_ATTACH, me.tid, NULL, NULL));
	ASSERT_EQ(me.tid, waitpid(me.tid, &status, __WALL));
	ASSERT_EQ(0, ptrace(PTRACE_GETREGS, me.tid, NULL, &regs));
	ASSERT_TRUE(raw_in_spin(regs.rip));
	regs.rip = (uintptr_t)raw_spin_loop;
	regs.r15 = 0xbad;		/* the loop's check finds it: exit status 9 */
	ASSERT_EQ(0, ptrace(PTRACE_SETREGS, me.tid, NULL, &regs));
	ASSERT_EQ(0, ptrace(PTRACE_DETACH, me.tid, NULL, NULL));
	ASSERT_EQ(1, write(control[0], "q", 1));
	EXPECT_EQ(9 << 8, raw_reap(pid, RAW_LONG_MS));
}

/* While a debugger steps a thread its redirects wait; a step is one instruction. */
TEST_F(sig, single_step_defers_a_redirect)
{
	struct user_regs_struct regs;
	struct tracee me;
	int control[2], status;
	char c = 'd';
	unsigned char answer;
	uint64_t last = 0;
	pid_t pid = traced_child(&me, false, control);

	ASSERT_LT(0, pid);
	ASSERT_EQ(0, ptrace(PTRACE_ATTACH, me.tid, NULL, NULL));
	ASSERT_EQ(me.tid, waitpid(me.tid, &status, __WALL));
	ASSERT_EQ(1, write(control[0], &c, 1));
	/* step for longer than the redirect's deadline */
	for (uint64_t end = raw_in(150); raw_now() < end;) {
		ASSERT_EQ(0, ptrace(PTRACE_SINGLESTEP, me.tid, NULL, NULL));
		ASSERT_EQ(me.tid, waitpid(me.tid, &status, __WALL));
		ASSERT_TRUE(WIFSTOPPED(status));
		if (WSTOPSIG(status) != SIGTRAP)
			continue;
		ASSERT_EQ(0, ptrace(PTRACE_GETREGS, me.tid, NULL, &regs));
		ASSERT_TRUE(raw_in_spin(regs.rip));
		ASSERT_NE(last, regs.rip);
		ASSERT_EQ(0, regs.eflags & 0x100);
		last = regs.rip;
	}
	ASSERT_EQ(1, read(control[1], &answer, 1));
	EXPECT_EQ(UPREEMPT_UNSAFE, answer / 32);
	EXPECT_TRUE(answer % 32 == UPREEMPT_R_SINGLE_STEP || answer % 32 == UPREEMPT_R_EXCEPTION ||
		    answer % 32 == UPREEMPT_R_NOT_RUN) {
		TH_LOG("reason %u", answer % 32);
	}
	ASSERT_EQ(0, ptrace(PTRACE_DETACH, me.tid, NULL, NULL));
	/* and afterwards they land */
	EXPECT_EQ(UPREEMPT_LANDED * 32, demand(control, 'D'));
	ASSERT_EQ(1, write(control[0], "q", 1));
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
}

/* Under a debugger that only waits, requests are no stops of their own (U32). */
TEST_F(sig, requests_are_invisible_to_a_debugger)
{
	struct tracee me;
	int control[2], status;
	pid_t pid = traced_child(&me, false, control);

	ASSERT_LT(0, pid);
	ASSERT_EQ(0, ptrace(PTRACE_SEIZE, me.tid, NULL, NULL));
	for (int i = 0; i < 200; i++) {
		ASSERT_EQ(UPREEMPT_LANDED * 32, demand(control, 'D'));
		ASSERT_EQ(0, waitpid(me.tid, &status, __WALL | WNOHANG));
	}
	ASSERT_EQ(1, write(control[0], "q", 1));
	/* the thread's own end is what the debugger sees */
	ASSERT_EQ(me.tid, waitpid(me.tid, &status, __WALL));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
}

RAW_TEST_MAIN
