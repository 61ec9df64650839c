// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves M19, P12, P31, S8: single steps bring a thread out of code that is not safe to the first
 * instruction that is, and nothing of them can be seen by the program, its signal handlers, or
 * whoever else makes use of the trap flag.
 */
#include "kselftest_harness.h"
#include <sys/ucontext.h>
#include "../include/raw_table.h"

#define TF 0x100
#define CODE(function) ((const char *)(uintptr_t)(function))

/* The offsets are used below */
struct step_arg {
	volatile uint64_t turns;
	volatile uint32_t stop;
	volatile uint32_t breaks;	/* INT3s that were run into */
	volatile uint64_t seen;		/* our flag, where it must not be */
	char *from, *to;		/* 64 bytes */
};

/*
 * Turns until stop. One instruction is safe, step_safe: what happens to come by there is one of
 * hundreds. The jumps are there for emulators that take interrupts only between blocks.
 */
void step_loop(struct step_arg *a);
extern const char step_begin[], step_one[], step_safe[], step_two[], step_end[];
#define LOOP_STEPS	300

/* Without one */
void step_spin(struct step_arg *a);
extern const char step_spin_end[];

/* What has to do with flags, traps and the kernel */
void step_tricks(struct step_arg *a);
extern const char step_tricks_called[], step_tricks_trapped[], step_tricks_end[];

/* Sets the flag itself, for five instructions in each turn */
void step_own(struct step_arg *a);
extern const char step_own_end[];

#define STEP_SEEN(test)				\
"	" test "\n"				\
"	jz 1f\n"				\
"	incq 16(%r8)\n1:\n"

asm(
"	.pushsection .text\n"
"step_begin:\n"
"step_loop:\n"
"step_one:\n"
"	.rept 100\n	add $1, %rax\n	jmp 1f\n1:\n	.endr\n"
"	incq 0(%rdi)\n"
"step_safe:\n"
"	nop\n"
"step_two:\n"
"	cmpl $0, 8(%rdi)\n"
"	je step_one\n"
"	ret\n"
"step_end:\n"
"step_spin:\n"
"2:	.rept 20\n	add $1, %rax\n	jmp 1f\n1:\n	.endr\n"
"	incq 0(%rdi)\n"
"	cmpl $0, 8(%rdi)\n"
"	je 2b\n"
"	ret\n"
"step_spin_end:\n"
"step_tricks:\n"
"	mov %rdi, %r8\n"
"2:	pushfq\n	pop %rax\n"
	STEP_SEEN("test $0x100, %eax")
"	pushfq\n	popfq\n"
"	.byte 0x66, 0x40\n	nop\n"		/* prefixes without a sense */
"	mov $39, %eax\n	syscall\n"		/* getpid */
"step_tricks_called:\n"
	STEP_SEEN("test $0x100, %r11d")
"	mov %ss, %eax\n	mov %eax, %ss\n"
"	incl 12(%r8)\n"
"	int3\n"
"step_tricks_trapped:\n"
"	mov 24(%r8), %rsi\n	mov 32(%r8), %rdi\n"
"	mov $64, %ecx\n"
"	rep movsb\n"
"	incq 0(%r8)\n"
"	cmpl $0, 8(%r8)\n"
"	je 2b\n"
"	ret\n"
"step_tricks_end:\n"
"step_own:\n"
"2:	pushfq\n	orq $0x100, (%rsp)\n	popfq\n"
"	nop\n	nop\n"
"	pushfq\n	andq $~0x100, (%rsp)\n	popfq\n"
"	.rept 20\n	add $1, %rax\n	jmp 1f\n1:\n	.endr\n"
"	incq 0(%rdi)\n"
"	cmpl $0, 8(%rdi)\n"
"	je 2b\n"
"	ret\n"
"step_own_end:\n"
"	.popsection\n"
);

_Static_assert(offsetof(struct step_arg, stop) == 8 && offsetof(struct step_arg, breaks) == 12 &&
	       offsetof(struct step_arg, seen) == 16 && offsetof(struct step_arg, from) == 24 &&
	       offsetof(struct step_arg, to) == 32, "used by the assembly");

static struct step_arg arg;
static void (*volatile code)(struct step_arg *a);
static volatile uint64_t traps, in_frames, signals_seen;

static void body(struct raw_target *t)
{
	code(t->user);
}

static void on_trap(int sig, siginfo_t *info, void *context)
{
	traps++;
}

/* One that nobody has asked for */
static void on_foreign_trap(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	traps++;
	uc->uc_mcontext.gregs[REG_EFL] &= ~TF;
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;

	in_frames += !!(uc->uc_mcontext.gregs[REG_EFL] & TF);
	signals_seen++;
}

static void handle(int sig, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction sa = { .sa_flags = SA_SIGINFO | SA_NODEFER, .sa_sigaction = handler };

	sigaction(sig, &sa, NULL);
}

static int start(struct raw_target *t, struct raw *r, void (*what)(struct step_arg *a))
{
	int ret;

	memset(&arg, 0, sizeof(arg));
	traps = 0;
	in_frames = 0;
	signals_seen = 0;
	handle(SIGTRAP, on_trap);
	code = what;
	raw_target_init(t, r, body, RAW_LANDING);
	t->user = &arg;
	ret = raw_target_start(t);
	return ret ? ret : RAW_UNTIL(arg.turns > 0) ? 0 : -ETIMEDOUT;
}

static int stop(struct raw_target *t)
{
	arg.stop = 1;
	return raw_target_stop(t);
}

/* A request that may take so many steps; its outcome, or -errno. A STOP is released. */
static int ask(struct raw *r, uint32_t slot, uint32_t kind, uint32_t strategies, uint32_t steps,
	       uint64_t ms, struct upreempt_event *e)
{
	struct upreempt_request req = raw_request_arg(slot, kind, UPREEMPT_REQ_WAIT);
	int ret;

	req.deadline_ns = raw_in(ms);
	req.strategies = strategies;
	req.steps = steps;
	ret = raw_ioctl(r->fd, UPREEMPT_IOC_REQUEST, &req);
	*e = req.event;
	if (!ret && kind == UPREEMPT_STOP && e->outcome == UPREEMPT_LANDED)
		ret = raw_release(r, slot, e->seq);
	return ret ? ret : (int)e->outcome;
}

/* step_loop's table: all but one instruction are of that class */
static int declare_loop(struct raw *r, uint8_t class)
{
	struct upreempt_range ranges[2] = {
		{ .start = step_one - step_begin, .end = step_safe - step_begin, .cls = class },
		{ .start = step_two - step_begin, .end = step_end - step_begin, .cls = class },
	};
	struct upreempt_code_add a = raw_area(step_begin, step_end, UPREEMPT_CODE_SAFE, ranges, 2);

	return raw_code_add(r, &a);
}

/* Stops and redirects, each of which has to end at the one safe instruction in one go */
static void to_the_safe_one(struct __test_metadata *_metadata, struct raw *r, uint32_t strategies)
{
	uint64_t n = raw_scale(300), steps = 0, most = 0, attempts = 0;
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, start(&t, r, step_loop));
	for (uint64_t i = 0; i < n; i++) {
		uint32_t kind = i & 1 ? UPREEMPT_REDIRECT : UPREEMPT_STOP;

		ASSERT_EQ(UPREEMPT_LANDED, ask(r, t.slot, kind, strategies, 0, RAW_LONG_MS, &e));
		/* A STOP may find it on its way back from the last REDIRECT. */
		if (!raw_in_range(e.regs.rip, CODE(raw_landing), CODE(raw_landing_end)))
			ASSERT_EQ((uintptr_t)step_safe, e.regs.rip);
		ASSERT_EQ(0, e.regs.rflags & TF);
		ASSERT_TRUE(raw_event_ok(&e));
		steps += e.steps;
		attempts += e.attempts;
		most = e.steps > most ? e.steps : most;
	}
	EXPECT_EQ(0, stop(&t));
	EXPECT_NE(0, steps);
	/* one turn, and one of the landing's resume code */
	EXPECT_GE(LOOP_STEPS, most);
	EXPECT_EQ(0, traps);
	EXPECT_EQ(0, t.wrong);
	TH_LOG("%llu requests, %llu steps, at most %llu, %llu other refusals",
	       (unsigned long long)n, (unsigned long long)steps, (unsigned long long)most,
	       (unsigned long long)attempts);
}

TEST_F_TIMEOUT(table, a_range_of_class_step, 120)
{
	ASSERT_EQ(0, declare_loop(&self->r, UPREEMPT_CODE_STEP));
	to_the_safe_one(_metadata, &self->r, 0);
}

TEST_F_TIMEOUT(table, asked_for, 120)
{
	ASSERT_EQ(0, declare_loop(&self->r, UPREEMPT_CODE_UNSAFE));
	to_the_safe_one(_metadata, &self->r, UPREEMPT_BY_STEP);
}

TEST_F(table, budget)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_NE(0, raw_declare(&self->r, CODE(step_spin), step_spin_end, UPREEMPT_CODE_UNSAFE));
	ASSERT_EQ(0, start(&t, &self->r, step_spin));
	for (uint32_t steps = 1; steps <= 1024; steps *= 32) {
		ASSERT_EQ(UPREEMPT_UNSAFE, ask(&self->r, t.slot, UPREEMPT_STOP, UPREEMPT_BY_STEP,
					   steps, 300, &e));
		EXPECT_EQ(UPREEMPT_R_STEP_BUDGET, e.reason);
		EXPECT_EQ(steps, e.steps);
		EXPECT_EQ(UPREEMPT_BY_STEP, e.strategy);
		EXPECT_NE(0, e.attempts);
	}
	ASSERT_EQ(UPREEMPT_UNSAFE, ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, 10, 30, &e));
	EXPECT_EQ(UPREEMPT_R_UNSAFE_RANGE, e.reason);
	EXPECT_EQ(0, e.steps);
	EXPECT_EQ(0, e.strategy);
	EXPECT_EQ(0, stop(&t));
	EXPECT_EQ(0, traps);
}

/* ---- what could tell the program of it ---------------------------------------------------- */

TEST_F_TIMEOUT(table, tricks, 120)
{
	uint64_t steps = 0, end = raw_in(raw_scale(6000));
	char from[64], to[64] = { 0 };
	struct upreempt_stats s;
	struct upreempt_event e;
	struct raw_target t;

	for (int i = 0; i < 64; i++)
		from[i] = i;
	ASSERT_NE(0, raw_declare(&self->r, CODE(step_tricks), step_tricks_end, UPREEMPT_CODE_UNSAFE));
	handle(SIGTRAP, on_trap);
	memset(&arg, 0, sizeof(arg));
	arg.from = from;
	arg.to = to;
	traps = 0;
	code = step_tricks;
	raw_target_init(&t, &self->r, body, RAW_NO_LANDING);
	t.user = &arg;
	ASSERT_EQ(0, raw_target_start(&t));
	while (raw_now() < end) {
		int ret = ask(&self->r, t.slot, UPREEMPT_STOP, UPREEMPT_BY_STEP, 100000, 20, &e);

		ASSERT_TRUE(ret == UPREEMPT_UNSAFE || ret == UPREEMPT_BLOCKED ||
			    ret == UPREEMPT_LANDED);
		/* In a system call; still held behind that; in the handler, where that is safe */
		if (ret == UPREEMPT_BLOCKED)
			ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		if (ret == UPREEMPT_LANDED && e.regs.rip != (uintptr_t)step_tricks_called &&
		    e.regs.rip != (uintptr_t)step_tricks_trapped)
			ASSERT_FALSE(raw_in_range(e.regs.rip, CODE(step_tricks), step_tricks_end));
		ASSERT_EQ(0, e.regs.rflags & TF);
		steps += e.steps;
	}
	ASSERT_EQ(0, raw_stats(&self->r, t.slot, &s));
	EXPECT_EQ(0, stop(&t));
	EXPECT_NE(0, steps);
	EXPECT_NE(0, s.deferrals[UPREEMPT_R_STEPPING]);
	EXPECT_NE(0, s.deferrals[UPREEMPT_R_STEP_INSN]);
	EXPECT_EQ(0, arg.seen);
	EXPECT_EQ(arg.breaks, traps);
	EXPECT_EQ(0, memcmp(from, to, sizeof(to)));
	TH_LOG("%llu steps, %u turns", (unsigned long long)steps, arg.breaks);
}

/* The program's own single steps: each is told to it, and no other */
TEST_F_TIMEOUT(table, own_trap_flag, 120)
{
	uint64_t each, end = raw_in(raw_scale(5000)), steps = 0;
	struct upreempt_stats s;
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, start(&t, &self->r, step_own));
	EXPECT_EQ(0, stop(&t));
	each = traps / arg.turns;
	ASSERT_NE(0, each);
	ASSERT_EQ(0, traps % arg.turns);

	ASSERT_NE(0, raw_declare(&self->r, CODE(step_own), step_own_end, UPREEMPT_CODE_UNSAFE));
	ASSERT_EQ(0, start(&t, &self->r, step_own));
	/* Where its handler is safe most are over there. */
	while (raw_now() < end || (!steps && raw_now() < end + RAW_LONG_MS * 1000000ULL)) {
		int ret = ask(&self->r, t.slot, UPREEMPT_STOP, UPREEMPT_BY_STEP, 100000, 20, &e);

		ASSERT_LE(0, ret);
		if (ret == UPREEMPT_BLOCKED)
			ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		steps += e.steps;
	}
	ASSERT_EQ(0, raw_stats(&self->r, t.slot, &s));
	EXPECT_EQ(0, stop(&t));
	EXPECT_NE(0, steps);
	EXPECT_NE(0, s.deferrals[UPREEMPT_R_SINGLE_STEP]);
	EXPECT_EQ(each * arg.turns, traps);
}

/* Signals in pairs, so that one frame lies over another; each shows the flags of the thread. */
static uint64_t signal_storm(struct raw *r, uint64_t ms, bool preempt)
{
	uint64_t end = raw_in(ms), steps = 0;
	struct raw_preempter preempter;
	struct upreempt_event e;
	struct raw_target t;

	handle(SIGUSR1, on_signal);
	handle(SIGUSR2, on_signal);
	if (start(&t, r, step_spin) || (preempt && raw_preempt(&preempter, t.tid)))
		return 0;
	handle(SIGTRAP, on_foreign_trap);
	while (raw_now() < end) {
		struct upreempt_request req = raw_request_arg(t.slot, UPREEMPT_REDIRECT, 0);

		req.strategies = UPREEMPT_BY_STEP;
		req.steps = 100000;
		req.deadline_ns = raw_in(100);
		if (raw_ioctl(r->fd, UPREEMPT_IOC_REQUEST, &req))
			return 0;
		for (int i = 0; i < 50; i++) {
			syscall(SYS_tgkill, getpid(), t.tid, SIGUSR1);
			syscall(SYS_tgkill, getpid(), t.tid, SIGUSR2);
			raw_sleep_us(100);
		}
		if (raw_wait(r, t.slot, req.seq, RAW_LONG_MS, &e))
			return 0;
		steps += e.steps;
	}
	if (preempt)
		raw_preempt_end(&preempter);
	return stop(&t) ? 0 : steps;
}

TEST_F_TIMEOUT(table, signals, 120)
{
	ASSERT_NE(0, raw_declare(&self->r, CODE(step_spin), step_spin_end, UPREEMPT_CODE_UNSAFE));
	if (raw_is_inject_build(self->r.fd)) {
		/* the control: the frame has the flag, and sigreturn raises its trap */
		ASSERT_EQ(0, raw_param("guards", 1U << 10));
		for (int i = 0; i < 10 && !in_frames; i++)
			EXPECT_NE(0, signal_storm(&self->r, 500, false));
		EXPECT_NE(0, in_frames);
		EXPECT_NE(0, traps);
		ASSERT_EQ(0, raw_param("guards", 0));
	}
	/* also with frames that are half written when the thread is switched out */
	EXPECT_NE(0, signal_storm(&self->r, raw_scale(3000), false));
	EXPECT_NE(0, signal_storm(&self->r, raw_scale(3000), true));
	EXPECT_EQ(0, in_frames);
	EXPECT_EQ(0, traps);
}

/*
 * The stop for which a thread is stepped ends just when the hook has set the flag; it needs no
 * hook any more, and a signal comes before the step.
 */
TEST_F_TIMEOUT(table, a_stop_that_has_ended, 120)
{
	struct upreempt_world w = { .size = sizeof(w), .strategies = UPREEMPT_BY_STEP };
	struct raw_target t;
	uint64_t turns;

	RAW_NEED_INJECT(self->r.fd);
	ASSERT_NE(0, raw_declare(&self->r, CODE(step_spin), step_spin_end, UPREEMPT_CODE_UNSAFE));
	handle(SIGUSR1, on_signal);
	ASSERT_EQ(0, start(&t, &self->r, step_spin));
	ASSERT_EQ(0, raw_param("inject_hook_end_delay_us", 3000));
	for (uint64_t i = 0, n = raw_scale(60); i < n; i++) {
		w.deadline_ns = raw_in(5);
		ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &w));
		EXPECT_EQ(1, w.stragglers);
		ASSERT_EQ(0, raw_world_start(&self->r));
		syscall(SYS_tgkill, getpid(), t.tid, SIGUSR1);
		ASSERT_TRUE(RAW_UNTIL(signals_seen > i));
		turns = arg.turns;
		ASSERT_TRUE(RAW_UNTIL(arg.turns != turns));
	}
	ASSERT_EQ(0, raw_param("inject_hook_end_delay_us", 0));
	EXPECT_EQ(0, stop(&t));
	EXPECT_EQ(0, in_frames);
	EXPECT_EQ(0, traps);
}

/* ---- the rest ------------------------------------------------------------------------------ */

#define WORLD_THREADS 3

static void stop_world(struct __test_metadata *_metadata, struct raw *r, uint32_t strategies)
{
	struct raw_target t[WORLD_THREADS];
	uint64_t n = raw_scale(100);
	struct upreempt_world w;
	struct upreempt_event e;

	memset(&arg, 0, sizeof(arg));
	traps = 0;
	handle(SIGTRAP, on_trap);
	code = step_loop;
	for (int i = 0; i < WORLD_THREADS; i++) {
		raw_target_init(&t[i], r, body, RAW_NO_LANDING);
		t[i].user = &arg;
		ASSERT_EQ(0, raw_target_start(&t[i]));
	}
	for (uint64_t i = 0; i < n; i++) {
		memset(&w, 0xcc, sizeof(w));
		w.size = sizeof(w);
		w.flags = 0;
		w.grace_ns = 0;
		w.deadline_ns = raw_in(RAW_LONG_MS);
		w.strategies = strategies;
		w.steps = 0;
		w.reserved = 0;
		ASSERT_EQ(0, raw_ioctl(r->fd, UPREEMPT_IOC_WORLD_STOP, &w));
		ASSERT_EQ(0, w.stragglers);
		ASSERT_TRUE(raw_world_ok(&w));
		for (int k = 0; k < WORLD_THREADS; k++) {
			ASSERT_EQ(UPREEMPT_LANDED, raw_try(r, t[k].slot, UPREEMPT_SAMPLE, 0,
						       RAW_LONG_MS, &e));
			/* or on its way into the loop, or out of REGISTER */
			if (raw_in_range(e.regs.rip, step_begin, step_end))
				ASSERT_EQ((uintptr_t)step_safe, e.regs.rip);
			ASSERT_EQ(0, e.regs.rflags & TF);
		}
		ASSERT_EQ(0, raw_world_start(r));
	}
	arg.stop = 1;
	for (int i = 0; i < WORLD_THREADS; i++)
		EXPECT_EQ(0, raw_target_stop(&t[i]));
	EXPECT_EQ(0, traps);
}

TEST_F_TIMEOUT(table, world, 120)
{
	ASSERT_EQ(0, declare_loop(&self->r, UPREEMPT_CODE_STEP));
	stop_world(_metadata, &self->r, 0);
}

TEST_F_TIMEOUT(table, world_asked_for, 120)
{
	ASSERT_EQ(0, declare_loop(&self->r, UPREEMPT_CODE_UNSAFE));
	stop_world(_metadata, &self->r, UPREEMPT_BY_STEP);
}

/* The file is closed, or the request withdrawn, between two steps: the thread runs on. */
TEST_F_TIMEOUT(table, given_up, 60)
{
	struct upreempt_request req;
	struct raw_target t;
	uint64_t turns;

	for (int i = 0; i < 50; i++) {
		struct raw r;

		ASSERT_EQ(0, raw_domain(&r, 2, 16));
		ASSERT_NE(0, raw_declare(&r, CODE(step_spin), step_spin_end, UPREEMPT_CODE_UNSAFE));
		ASSERT_EQ(0, start(&t, &r, step_spin));
		t.stay_registered = true;
		req = raw_request_arg(t.slot, UPREEMPT_STOP, 0);
		req.strategies = UPREEMPT_BY_STEP;
		req.steps = UPREEMPT_STEPS_MAX;
		ASSERT_EQ(0, raw_ioctl(r.fd, UPREEMPT_IOC_REQUEST, &req));
		raw_sleep_us(500);
		if (i & 1)
			EXPECT_EQ(0, raw_cancel(&r, t.slot, req.seq));
		raw_close(&r);
		turns = arg.turns;
		EXPECT_TRUE(RAW_UNTIL(arg.turns > turns));
		EXPECT_EQ(0, stop(&t));
		EXPECT_EQ(0, traps);
	}
}

/* A thread of two domains is not stepped, and says so. */
static void body_twice(struct raw_target *t)
{
	struct raw r;

	if (raw_domain(&r, 1, 16) || raw_register(&r) < 0)
		t->result = -1;
	code(t->user);
	raw_close(&r);
}

TEST_F(table, two_domains)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_NE(0, raw_declare(&self->r, CODE(step_spin), step_spin_end, UPREEMPT_CODE_UNSAFE));
	memset(&arg, 0, sizeof(arg));
	code = step_spin;
	raw_target_init(&t, &self->r, body_twice, RAW_NO_LANDING);
	t.user = &arg;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(RAW_UNTIL(arg.turns > 0));
	ASSERT_EQ(UPREEMPT_UNSAFE, ask(&self->r, t.slot, UPREEMPT_STOP, UPREEMPT_BY_STEP, 0, 300, &e));
	EXPECT_EQ(UPREEMPT_R_STEP_INSN, e.reason);
	EXPECT_EQ(0, e.steps);
	EXPECT_EQ(0, stop(&t));
	EXPECT_EQ(0, t.result);
}

TEST_HARNESS_MAIN
