// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves M19, M36, U16, U27, U34: a thread in a long call into undeclared code is stopped at the
 * return, by a breakpoint of its own: with no change to stack, code or registers, at the first
 * instruction behind the call, and whoever else wants the debug registers gets them back.
 */
#include "kselftest_harness.h"
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include "../include/raw_table.h"

#define LEN		(8 << 20)	/* of a memset() that takes longer than a time between tries */
#define REGISTERS	4

/* The offsets are used below */
struct call_arg {
	volatile uint64_t turns;
	volatile uint32_t stop, wrong;
	void *(*fn)(void *s, int c, size_t n);
	void *s;
	size_t n;
};

/*
 * Calls fn until stop, and looks whether it returned s and kept the registers that are not its
 * own. One instruction is safe: call_back, behind the call.
 */
void call_loop(struct call_arg *a);
extern const char call_back[], call_two[], call_end[];

/*
 * An fn that leaves addresses behind calls on its stack, where three of them are declared: nobody
 * returns there.
 */
void *call_stale(void *s, int c, size_t n);
extern const char call_never[], call_never_end[];

asm(
"	.pushsection .text\n"
"call_loop:\n"
"	push %rbx\n	push %rbp\n	push %r12\n"
"	mov %rdi, %rbx\n"
"	mov $0x1234567, %ebp\n"
"1:	mov 24(%rbx), %rdi\n"
"	mov $0x5a, %esi\n"
"	mov 32(%rbx), %rdx\n"
"	call *16(%rbx)\n"
"call_back:\n"
"	incq 0(%rbx)\n"
"call_two:\n"
"	cmp 24(%rbx), %rax\n	jne 2f\n"
"	cmp $0x1234567, %rbp\n	je 3f\n"
"2:	incl 12(%rbx)\n"
"3:	cmpl $0, 8(%rbx)\n"
"	je 1b\n"
"	pop %r12\n	pop %rbp\n	pop %rbx\n"
"	ret\n"
"call_end:\n"
"call_stale:\n"
"	lea 4f(%rip), %rax\n	push %rax\n"
"	lea 5f(%rip), %rax\n	push %rax\n"
"	lea 6f(%rip), %rax\n	push %rax\n"
"1:	dec %rdx\n	jmp 2f\n2:	jnz 1b\n"
"	add $24, %rsp\n"
"	mov %rdi, %rax\n"
"	ret\n"
"	call call_stale\n"
"call_never:\n"
"4:	nop\n	call call_stale\n5:	nop\n	call call_stale\n6:	nop\n"
"call_never_end:\n"
"	.popsection\n"
);

_Static_assert(offsetof(struct call_arg, stop) == 8 && offsetof(struct call_arg, wrong) == 12 &&
	       offsetof(struct call_arg, fn) == 16 && offsetof(struct call_arg, s) == 24 &&
	       offsetof(struct call_arg, n) == 32, "used by the assembly");

FIXTURE(ret) {
	struct raw r;
	struct raw_target t;
	struct call_arg arg;
};

static void body(struct raw_target *t)
{
	call_loop(t->user);
}

FIXTURE_SETUP(ret)
{
	struct upreempt_query q;
	struct upreempt_code_add a = raw_area(call_back, call_two, UPREEMPT_CODE_SAFE, NULL, 0);

	ASSERT_EQ(0, raw_declared_domain(&self->r, 4));
	ASSERT_EQ(0, raw_query(self->r.fd, &q));
	if (!(q.features & UPREEMPT_F_RETURN))
		SKIP(return, "this kernel has no hardware breakpoints");
	ASSERT_EQ(0, raw_code_add(&self->r, &a));
	self->arg.fn = memset;
	self->arg.n = LEN;
	self->arg.s = malloc(LEN);
	ASSERT_NE(NULL, self->arg.s);
}

FIXTURE_TEARDOWN(ret)
{
	raw_close(&self->r);
	free(self->arg.s);
}

static int start(struct raw_target *t, struct raw *r, struct call_arg *arg)
{
	int ret;

	raw_target_init(t, r, body, RAW_LANDING);
	t->user = arg;
	ret = raw_target_start(t);
	return ret ? ret : RAW_UNTIL(arg->turns > 0) ? 0 : -ETIMEDOUT;
}

static int stop(struct raw_target *t)
{
	struct call_arg *arg = t->user;

	arg->stop = 1;
	return raw_target_stop(t);
}

/* Its outcome, or -errno. A STOP is released. */
static int ask(struct raw *r, uint32_t slot, uint32_t kind, uint32_t strategies, uint64_t ms,
	       struct upreempt_event *e)
{
	struct upreempt_request req = raw_request_arg(slot, kind, UPREEMPT_REQ_WAIT |
						      (kind == UPREEMPT_SAMPLE ? UPREEMPT_REQ_SAFE : 0));
	int ret;

	req.deadline_ns = raw_in(ms);
	req.strategies = strategies;
	ret = raw_ioctl(r->fd, UPREEMPT_IOC_REQUEST, &req);
	*e = req.event;
	if (!ret && kind == UPREEMPT_STOP && e->outcome == UPREEMPT_LANDED)
		ret = raw_release(r, slot, e->seq);
	return ret ? ret : (int)e->outcome;
}

/*
 * A STOP by the return, which does not help, for that reason. It may be granted all the same: the
 * way from one page of code to another, which a call and a return are, takes emulators long enough
 * for one of many retries to come just then.
 */
static void in_vain(struct __test_metadata *_metadata, struct raw *r, const struct raw_target *t,
		    enum upreempt_reason why)
{
	struct upreempt_stats before, after;
	struct upreempt_event e;

	ASSERT_EQ(0, raw_stats(r, t->slot, &before));
	if (ask(r, t->slot, UPREEMPT_STOP, UPREEMPT_BY_RETURN, 300, &e) == UPREEMPT_LANDED) {
		EXPECT_EQ((uintptr_t)call_back, e.regs.rip);
	} else {
		EXPECT_EQ(UPREEMPT_UNSAFE, e.outcome);
		EXPECT_EQ(why, e.reason);
	}
	ASSERT_EQ(0, raw_stats(r, t->slot, &after));
	EXPECT_LT(before.deferrals[why], after.deferrals[why]);
}

/* An execution breakpoint of the test's own, which counts */
static int own_breakpoint(int tid, const void *at)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_BREAKPOINT, .size = sizeof(attr), .bp_type = HW_BREAKPOINT_X,
		.bp_addr = (uintptr_t)at, .bp_len = sizeof(long), .exclude_kernel = 1,
	};

	return (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static int own_breakpoints(int tid, int fds[REGISTERS])
{
	int n;

	for (n = 0; n < REGISTERS; n++) {
		fds[n] = own_breakpoint(tid, call_never);
		if (fds[n] < 0)
			break;
	}
	return n;
}

static void own_breakpoints_end(int fds[REGISTERS], int n)
{
	while (n)
		close(fds[--n]);
}

static bool all_registers_free(int tid)
{
	int fds[REGISTERS], n = own_breakpoints(tid, fds);

	own_breakpoints_end(fds, n);
	return n == REGISTERS;
}

TEST_F_TIMEOUT(ret, out_of_memset, 120)
{
	static const uint32_t kinds[] = { UPREEMPT_STOP, UPREEMPT_REDIRECT, UPREEMPT_SAMPLE };
	uint64_t n = raw_scale(150), by = 0, attempts = 0, luck = 0;
	struct upreempt_event e;

	ASSERT_EQ(0, start(&self->t, &self->r, &self->arg));
	/* By trying again it is found at one instruction of so many by luck only. */
	for (int i = 0; i < 5; i++) {
		if (ask(&self->r, self->t.slot, UPREEMPT_STOP, 0, 200, &e) != UPREEMPT_LANDED)
			continue;
		EXPECT_EQ((uintptr_t)call_back, e.regs.rip);
		luck++;
	}
	EXPECT_EQ(0, e.strategy);
	for (uint64_t i = 0; i < n; i++) {
		uint32_t strategies = i & 1 ? UPREEMPT_BY_RETURN : UPREEMPT_BY_AUTO;
		uint64_t turns = self->arg.turns;

		ASSERT_EQ(UPREEMPT_LANDED, ask(&self->r, self->t.slot, kinds[i % 3], strategies,
					       RAW_LONG_MS, &e));
		ASSERT_TRUE(raw_event_ok(&e));
		if (raw_in_range(e.regs.rip, (char *)raw_landing, (char *)raw_landing_end))
			continue;	/* still on its way back from the last REDIRECT */
		ASSERT_EQ((uintptr_t)call_back, e.regs.rip);
		ASSERT_EQ((uintptr_t)self->arg.s, e.regs.rax);
		by += !!(e.strategy & UPREEMPT_BY_RETURN);
		attempts += e.attempts;
		ASSERT_TRUE(RAW_UNTIL(self->arg.turns != turns));
	}
	EXPECT_EQ(0, stop(&self->t));
	EXPECT_EQ(0, self->arg.wrong);
	/* or it was there already */
	EXPECT_NE(0, by);
	TH_LOG("%llu requests, %llu by a breakpoint, %llu other visits; %llu of 5 by luck alone",
	       (unsigned long long)n, (unsigned long long)by, (unsigned long long)attempts,
	       (unsigned long long)luck);
}

TEST_F_TIMEOUT(ret, world, 120)
{
	struct call_arg args[2] = { self->arg, self->arg };
	struct raw_target t[2];
	struct upreempt_event e;
	struct upreempt_world w = { .size = sizeof(w), .strategies = UPREEMPT_BY_RETURN };

	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, start(&t[i], &self->r, &args[i]));
	for (uint64_t i = 0, n = raw_scale(40); i < n; i++) {
		w.deadline_ns = raw_in(RAW_LONG_MS);
		ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &w));
		ASSERT_EQ(0, w.stragglers);
		for (int k = 0; k < 2; k++) {
			ASSERT_EQ(UPREEMPT_LANDED, raw_try(&self->r, t[k].slot, UPREEMPT_SAMPLE, 0,
							   RAW_LONG_MS, &e));
			ASSERT_EQ((uintptr_t)call_back, e.regs.rip);
		}
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, stop(&t[i]));
		EXPECT_EQ(0, args[i].wrong);
	}
}

/*
 * Steps to where a breakpoint is or was: a debug register says that it was met with the step, also
 * when it is disabled, and nobody would know whose it is (SIGTRAP).
 */
TEST_F_TIMEOUT(ret, steps_to_an_old_breakpoint, 120)
{
	uint64_t steps = 0;
	struct upreempt_event e;

	self->arg.fn = call_stale;
	self->arg.n = 40;
	ASSERT_EQ(0, start(&self->t, &self->r, &self->arg));
	for (uint64_t i = 0, n = raw_scale(200); i < n; i++) {
		uint64_t turns = self->arg.turns;

		ASSERT_EQ(UPREEMPT_LANDED, ask(&self->r, self->t.slot, UPREEMPT_STOP,
					       i & 1 ? UPREEMPT_BY_STEP : UPREEMPT_BY_RETURN,
					       RAW_LONG_MS, &e));
		ASSERT_EQ((uintptr_t)call_back, e.regs.rip);
		steps += e.steps;
		ASSERT_TRUE(RAW_UNTIL(self->arg.turns != turns));
	}
	EXPECT_NE(0, steps);
	EXPECT_EQ(0, stop(&self->t));
	EXPECT_EQ(0, self->arg.wrong);
}

/* The limit of it: the true address is not among the first three. It stays a matter of luck. */
TEST_F_TIMEOUT(ret, stale_addresses, 120)
{
	ASSERT_NE(0, raw_declare(&self->r, call_never, call_never_end, UPREEMPT_CODE_SAFE));
	self->arg.fn = call_stale;
	self->arg.n = 1 << 20;
	ASSERT_EQ(0, start(&self->t, &self->r, &self->arg));
	in_vain(_metadata, &self->r, &self->t, UPREEMPT_R_RETURNING);
	EXPECT_EQ(0, stop(&self->t));
	EXPECT_EQ(0, self->arg.wrong);
}

/* Somebody has them all: said so, tried again, and stepped where that may be */
TEST_F_TIMEOUT(ret, no_register_free, 120)
{
	struct upreempt_event e;
	int fds[REGISTERS], n;

	ASSERT_EQ(0, start(&self->t, &self->r, &self->arg));
	n = own_breakpoints(self->t.tid, fds);
	ASSERT_EQ(REGISTERS, n);
	in_vain(_metadata, &self->r, &self->t, UPREEMPT_R_NO_RETURN);
	if (ask(&self->r, self->t.slot, UPREEMPT_STOP, UPREEMPT_BY_AUTO, 300, &e) !=
	    UPREEMPT_LANDED)
		EXPECT_NE(0, e.steps);
	own_breakpoints_end(fds, n);
	ASSERT_EQ(UPREEMPT_LANDED, ask(&self->r, self->t.slot, UPREEMPT_STOP, UPREEMPT_BY_RETURN,
				       RAW_LONG_MS, &e));
	EXPECT_EQ((uintptr_t)call_back, e.regs.rip);
	EXPECT_TRUE(RAW_UNTIL(all_registers_free(self->t.tid)));
	EXPECT_EQ(0, stop(&self->t));
}

/* A breakpoint of somebody else's at the same place counts as if ours were not there. */
TEST_F_TIMEOUT(ret, another_breakpoint_there, 120)
{
	struct upreempt_event e;
	uint64_t count = 0, before;
	int fd;

	ASSERT_EQ(0, start(&self->t, &self->r, &self->arg));
	ASSERT_EQ(UPREEMPT_LANDED, ask(&self->r, self->t.slot, UPREEMPT_STOP, UPREEMPT_BY_RETURN,
				       RAW_LONG_MS, &e));
	before = self->arg.turns;
	fd = own_breakpoint(self->t.tid, call_back);
	ASSERT_LE(0, fd);
	for (int i = 0; i < 20; i++)
		ASSERT_EQ(UPREEMPT_LANDED, ask(&self->r, self->t.slot, UPREEMPT_STOP,
					       UPREEMPT_BY_RETURN, RAW_LONG_MS, &e));
	self->arg.stop = 1;
	ASSERT_EQ(0, raw_target_stop(&self->t));
	ASSERT_EQ(sizeof(count), read(fd, &count, sizeof(count)));
	close(fd);
	/* one turn may have been over before it was set, or counted though it began before */
	EXPECT_LE(self->arg.turns - before, count + 1);
	EXPECT_LE(count, self->arg.turns - before + 1);
}

/* Nobody waits any more: withdrawn, too late, closed. The registers are free again. */
TEST_F_TIMEOUT(ret, given_up, 120)
{
	struct upreempt_request req;
	struct upreempt_event e;

	ASSERT_NE(0, raw_declare(&self->r, call_never, call_never_end, UPREEMPT_CODE_SAFE));
	self->arg.fn = call_stale;	/* so that nothing ends it by itself */
	self->arg.n = 1 << 20;
	ASSERT_EQ(0, start(&self->t, &self->r, &self->arg));
	for (int i = 0; i < 10; i++) {
		req = raw_request_arg(self->t.slot, UPREEMPT_STOP, 0);
		req.strategies = UPREEMPT_BY_RETURN;
		if (i & 1)
			req.deadline_ns = raw_in(300);
		ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req));
		/* or it is over: too late before we looked, or granted by luck */
		ASSERT_TRUE(RAW_UNTIL(!all_registers_free(self->t.tid) ||
				      !self->r.slots[self->t.slot].pending));
		if (!(i & 1))
			(void)raw_cancel(&self->r, self->t.slot, req.seq);
		ASSERT_EQ(0, raw_wait(&self->r, self->t.slot, req.seq, RAW_LONG_MS, &e));
		if (e.outcome == UPREEMPT_LANDED)
			ASSERT_EQ(0, raw_release(&self->r, self->t.slot, req.seq));
		EXPECT_TRUE(RAW_UNTIL(all_registers_free(self->t.tid)));
	}
	self->t.stay_registered = true;
	req = raw_request_arg(self->t.slot, UPREEMPT_STOP, 0);
	req.strategies = UPREEMPT_BY_RETURN;
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req));
	ASSERT_TRUE(RAW_UNTIL(!all_registers_free(self->t.tid)));
	raw_close(&self->r);
	EXPECT_TRUE(RAW_UNTIL(all_registers_free(self->t.tid)));
	EXPECT_EQ(0, stop(&self->t));
	EXPECT_EQ(0, self->arg.wrong);
	ASSERT_EQ(0, raw_declared_domain(&self->r, 4));
}

/* The thread ends while breakpoints are set, or are being set. */
TEST_F_TIMEOUT(ret, the_thread_ends, 120)
{
	struct upreempt_request req;
	struct upreempt_event e;

	ASSERT_NE(0, raw_declare(&self->r, call_never, call_never_end, UPREEMPT_CODE_SAFE));
	self->arg.fn = call_stale;
	self->arg.n = 1 << 16;
	for (uint64_t i = 0, n = raw_scale(100); i < n; i++) {
		self->arg.stop = 0;
		self->arg.turns = 0;
		ASSERT_EQ(0, start(&self->t, &self->r, &self->arg));
		self->t.stay_registered = i & 1;
		req = raw_request_arg(self->t.slot, UPREEMPT_REDIRECT, 0);
		req.strategies = UPREEMPT_BY_RETURN;
		ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req));
		raw_sleep_us((i * 37) % 2000);
		ASSERT_EQ(0, stop(&self->t));
		ASSERT_EQ(0, raw_wait(&self->r, self->t.slot, req.seq, RAW_LONG_MS, &e));
	}
	EXPECT_EQ(0, self->arg.wrong);
}

/* Calls of undeclared code that do more than to take their time. Where they are: */
struct call_steps {
	struct raw *raw;
	struct raw_target *t;
	volatile int at, go;
	int pipe[2];
};

static void call_step(struct call_steps *c, int at)
{
	c->at = at;
	while (c->go < at)
		;
}

static void *call_that_blocks(void *s, int c, size_t n)
{
	struct call_steps *steps = s;
	char byte;

	call_step(steps, 1);
	if (read(steps->pipe[0], &byte, 1) != 1)
		steps->t->result = -EIO;
	return s;
}

static void *call_that_unregisters(void *s, int c, size_t n)
{
	struct call_steps *steps = s;

	call_step(steps, 1);
	steps->t->result = raw_unregister(steps->raw, steps->t->slot);
	call_step(steps, 2);
	return s;
}

static int start_steps(struct raw_target *t, struct raw *r, struct call_arg *arg,
		       struct call_steps *c, void *(*fn)(void *s, int c, size_t n))
{
	arg->fn = fn;
	arg->s = c;
	c->raw = r;
	c->t = t;
	raw_target_init(t, r, body, RAW_LANDING);
	t->user = arg;
	t->stay_registered = true;
	return raw_target_start(t) || !RAW_UNTIL(c->at == 1);
}

/* A stop of the world, of which the one thread is late; breakpoints are set. */
static void stop_late(struct __test_metadata *_metadata, struct raw *r, int tid)
{
	struct upreempt_world w = { .size = sizeof(w), .strategies = UPREEMPT_BY_RETURN };

	w.deadline_ns = raw_in(50);
	ASSERT_EQ(0, raw_ioctl(r->fd, UPREEMPT_IOC_WORLD_STOP, &w));
	ASSERT_EQ(1, w.stragglers);
	ASSERT_TRUE(RAW_UNTIL(!all_registers_free(tid)));
}

/* A stop of the world for which they are set ends; or the thread blocks, and is stopped so. */
TEST_F_TIMEOUT(ret, a_world_that_goes_on, 120)
{
	struct call_steps c = { 0 };

	free(self->arg.s);
	ASSERT_EQ(0, pipe(c.pipe));
	ASSERT_EQ(0, start_steps(&self->t, &self->r, &self->arg, &c, call_that_blocks));
	for (int i = 0; i < 3; i++) {
		stop_late(_metadata, &self->r, self->t.tid);
		ASSERT_EQ(0, raw_world_start(&self->r));
		EXPECT_TRUE(RAW_UNTIL(all_registers_free(self->t.tid)));
	}
	stop_late(_metadata, &self->r, self->t.tid);
	c.go = 1;
	EXPECT_TRUE(RAW_UNTIL(all_registers_free(self->t.tid)));
	ASSERT_EQ(0, raw_world_start(&self->r));
	self->arg.stop = 1;
	ASSERT_EQ(1, write(c.pipe[1], "", 1));
	EXPECT_EQ(0, raw_target_stop(&self->t));
	EXPECT_EQ(0, self->t.result);
	close(c.pipe[0]);
	close(c.pipe[1]);
	self->arg.s = NULL;
}

/* The registration ends with the request, whose outcome nobody collects. */
TEST_F_TIMEOUT(ret, the_registration_ends, 120)
{
	struct upreempt_request req;
	struct upreempt_event e;
	struct call_steps c = { 0 };

	free(self->arg.s);
	ASSERT_EQ(0, start_steps(&self->t, &self->r, &self->arg, &c, call_that_unregisters));
	req = raw_request_arg(self->t.slot, UPREEMPT_REDIRECT, 0);
	req.strategies = UPREEMPT_BY_RETURN;
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req));
	ASSERT_TRUE(RAW_UNTIL(!all_registers_free(self->t.tid)));
	c.go = 1;
	ASSERT_TRUE(RAW_UNTIL(c.at == 2));
	EXPECT_EQ(0, self->t.result);
	EXPECT_TRUE(RAW_UNTIL(all_registers_free(self->t.tid)));
	EXPECT_EQ(0, raw_wait(&self->r, self->t.slot, req.seq, RAW_LONG_MS, &e));
	EXPECT_EQ(UPREEMPT_GONE, e.outcome);
	self->arg.stop = 1;
	c.go = 2;
	EXPECT_EQ(0, raw_target_stop(&self->t));
	self->arg.s = NULL;
}

/* Puts so many words on its stack that might be addresses: more, and the search ends before it */
#define WORDS 400
static volatile unsigned int words_used;

static void *call_with_words(void *s, int c, size_t n)
{
	volatile uintptr_t words[WORDS];

	for (unsigned int i = 0; i < WORDS; i++)
		words[i] = i < words_used ? (uintptr_t)call_with_words + i : 0;
	while (n--)
		words[n % WORDS] = words[n % WORDS];
	return s;
}

TEST_F_TIMEOUT(ret, many_words, 120)
{
	struct upreempt_event e;
	uint64_t turns;

	self->arg.fn = call_with_words;
	self->arg.n = 1 << 20;
	words_used = 100;
	ASSERT_EQ(0, start(&self->t, &self->r, &self->arg));
	ASSERT_EQ(UPREEMPT_LANDED, ask(&self->r, self->t.slot, UPREEMPT_STOP, UPREEMPT_BY_RETURN,
				       RAW_LONG_MS, &e));
	EXPECT_EQ((uintptr_t)call_back, e.regs.rip);
	words_used = WORDS;
	turns = self->arg.turns;	/* the call in which it is still has the few */
	ASSERT_TRUE(RAW_UNTIL(self->arg.turns > turns + 1));
	in_vain(_metadata, &self->r, &self->t, UPREEMPT_R_NO_RETURN);
	EXPECT_EQ(0, stop(&self->t));
	EXPECT_EQ(0, self->arg.wrong);
}

/* exec, while breakpoints are set or being set: the new program meets none, and all are free. */
static void *ask_for_return(void *arg)
{
	struct raw *r = arg;
	struct upreempt_request req = raw_request_arg(0, UPREEMPT_REDIRECT, 0);

	req.strategies = UPREEMPT_BY_RETURN;
	if (raw_ioctl(r->fd, UPREEMPT_IOC_REQUEST, &req))
		_exit(2);
	for (;;)
		pause();
}

static void *call_that_execs(void *s, int c, size_t n)
{
	if (!RAW_UNTIL(!all_registers_free(raw_gettid())))
		_exit(3);
	raw_sleep_us(n);
	execl("/bin/sleep", "sleep", "1", NULL);
	_exit(4);
}

TEST_F_TIMEOUT(ret, exec, 120)
{
	for (int i = 0; i < 4; i++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid) {
			struct call_arg arg = { .fn = call_that_execs, .n = i * 1000 };
			struct upreempt_code_add a = raw_area(call_back, call_two,
							      UPREEMPT_CODE_SAFE, NULL, 0);
			struct raw_target t;
			pthread_t other;
			struct raw r;

			raw_target_init(&t, &r, body, RAW_LANDING);
			if (raw_declared_domain(&r, 1) || raw_code_add(&r, &a) ||
			    raw_target_register(&t) || pthread_create(&other, NULL, ask_for_return, &r))
				_exit(1);
			call_loop(&arg);
			_exit(5);
		}
		ASSERT_TRUE(RAW_UNTIL(raw_comm_is(pid, "sleep"))) {
			TH_LOG("status 0x%x", raw_reap(pid, RAW_LONG_MS));
		}
		EXPECT_TRUE(RAW_UNTIL(all_registers_free(pid)));
		EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
	}
}

RAW_TEST_MAIN
