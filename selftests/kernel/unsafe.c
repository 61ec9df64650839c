// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves M8, P6, P12, P15, U14, U28, G2: each place where a thread is left alone has its reason, and each guard matters. */
#include "kselftest_harness.h"
#include "../include/raw_fault.h"

FIXTURE(unsafe) {
	struct raw r;
};

FIXTURE_SETUP(unsafe)
{
	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&self->r, 8, 16));
}

FIXTURE_TEARDOWN(unsafe)
{
	raw_params_reset();
	raw_close(&self->r);
}

/*
 * Asks until it ends for a reason: on a loaded machine the thread may not have run at all
 * before the deadline.
 */
static int unsafe_reason(struct raw *r, uint32_t slot, uint32_t kind)
{
	struct upreempt_event e;
	int ret;

	for (int i = 0; i < 20; i++) {
		ret = raw_ask(r, slot, kind, 30 + 20 * i, &e);
		if (ret || !raw_event_ok(&e))
			return ret ? ret : -EBADMSG;
		if (e.outcome != UPREEMPT_UNSAFE)
			return -100 - e.outcome;
		if (e.reason != UPREEMPT_R_NOT_RUN)
			break;
	}
	return e.reason;
}

#define EXPECT_UNSAFE(kind, why) EXPECT_EQ(why, unsafe_reason(&self->r, t.slot, kind))

#define EXPECT_LANDS(kind, e)						\
	do {								\
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, kind, 0, &(e)));	\
		EXPECT_EQ(UPREEMPT_LANDED, (e).outcome);		\
		if ((kind) == UPREEMPT_STOP)				\
			ASSERT_EQ(0, raw_release(&self->r, t.slot, (e).seq)); \
	} while (0)

/* -------- inside the landing -------- */

/* As raw_landing, but it waits for slow_go when the slot is free again. */
extern const char slow_landing[], slow_landing_end[];
uint32_t slow_go, slow_inside;

asm(
"	.pushsection .text\n"
"slow_landing:\n"
"	endbr64\n"
"	lock incq 8(%rdi)\n"
"	mov (%rdi), %rdi\n"
"	lea 192(%rdi), %rdi\n"
	RAW_FRAME
	RAW_LOAD_ALL_BUT_RDI
	RAW_TO_FRAME
"	movl $0, -64(%rdi)\n"
"	lock incl slow_inside(%rip)\n"
"1:	pause\n"
"	cmpl $0, slow_go(%rip)\n"
"	je 1b\n"
	RAW_LEAVE
"slow_landing_end:\n"
"	.popsection\n"
);

static void body_slow_landing(struct raw_target *t)
{
	struct upreempt_register reg = raw_register_arg();

	raw_unregister(t->raw, t->slot);
	reg.slot = t->slot;
	reg.landing = (uintptr_t)slow_landing;
	reg.landing_end = (uintptr_t)slow_landing_end;
	reg.arg = (uintptr_t)&t->land;
	t->result = raw_ioctl(t->raw->fd, UPREEMPT_IOC_REGISTER, &reg);
	if (!t->result)
		t->wrong += raw_spin(&t->count, &t->stop);
}

TEST_F(unsafe, landing)
{
	struct upreempt_event e;
	struct raw_target t;

	slow_go = slow_inside = 0;
	raw_target_init(&t, &self->r, body_slow_landing, RAW_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	EXPECT_LANDS(UPREEMPT_REDIRECT, e);
	ASSERT_TRUE(RAW_UNTIL(slow_inside == 1));
	EXPECT_UNSAFE(UPREEMPT_REDIRECT, UPREEMPT_R_LANDING);
	EXPECT_LANDS(UPREEMPT_SAMPLE, e);
	EXPECT_TRUE(raw_in_range(e.regs.rip, slow_landing, slow_landing_end));
	EXPECT_LANDS(UPREEMPT_STOP, e);
	EXPECT_EQ(1, t.land.count);
	if (raw_is_inject_build(self->r.fd)) {
		/* the control */
		ASSERT_EQ(0, raw_param("guards", 1 << 9));
		EXPECT_LANDS(UPREEMPT_REDIRECT, e);
		EXPECT_TRUE(raw_in_range(e.regs.rip, slow_landing, slow_landing_end));
		raw_params_reset();
	}
	slow_go = 1;
	EXPECT_LANDS(UPREEMPT_REDIRECT, e);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	EXPECT_EQ(0, t.result);
}

TEST_F(unsafe, slot_busy)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	self->r.slots[t.slot].busy = 1;
	EXPECT_UNSAFE(UPREEMPT_REDIRECT, UPREEMPT_R_SLOT_BUSY);
	EXPECT_LANDS(UPREEMPT_SAMPLE, e);
	EXPECT_LANDS(UPREEMPT_STOP, e);
	self->r.slots[t.slot].busy = 0;
	EXPECT_LANDS(UPREEMPT_REDIRECT, e);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

TEST_F(unsafe, no_gate)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, munmap(self->r.map, self->r.size));
	self->r.map = NULL;
	EXPECT_UNSAFE(UPREEMPT_STOP, UPREEMPT_R_NO_GATE);
	EXPECT_LANDS(UPREEMPT_SAMPLE, e);
	/* mapped again, it is there again */
	ASSERT_EQ(0, raw_map(&self->r));
	EXPECT_LANDS(UPREEMPT_STOP, e);
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* -------- a 32-bit code segment -------- */

extern const char spin_32[];

asm(
"	.pushsection .text\n"
"spin_32:\n"
"	.byte 0xeb, 0xfe\n"		/* jmp . in either mode */
"	.popsection\n"
);

static void body_32(struct raw_target *t)
{
	unsigned char *low = t->user;

	struct __attribute__((packed)) {
		uint32_t offset;
		uint16_t segment;
	} far32 = { (uintptr_t)low, 0x23 };

	memcpy(low, spin_32, 2);
	t->count = 1;
	/* a far jump, and not a far return: QEMU reads the stack of that as the kernel */
	asm volatile("	mov %0, %%rsp\n"
		     "	ljmpl *(%1)\n"
		     : : "r"(low + 4096), "r"(&far32) : "memory");
}

TEST_F(unsafe, not_64_bit)
{
	struct raw_target t;

	raw_target_init(&t, &self->r, body_32, RAW_LANDING);
	t.user = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	ASSERT_NE(MAP_FAILED, t.user);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(RAW_UNTIL(t.count == 1));
	raw_sleep_us(20000);
	EXPECT_UNSAFE(UPREEMPT_REDIRECT, UPREEMPT_R_NOT_64BIT);
	EXPECT_EQ(0, t.land.count);
	/* it can never come back: the process ends with it */
}

/* -------- in an exception -------- */

TEST_F(unsafe, page_fault_that_waits)
{
	struct upreempt_event e;
	struct raw_target t;
	uint64_t seq;
	int fd = raw_faulter(&t, &self->r, RAW_LANDING);

	RAW_NEED_FAULTS(fd);
	ASSERT_LE(0, fd);

	/* its frame is exact: a sample has it; the others wait for the fault's end */
	EXPECT_LANDS(UPREEMPT_SAMPLE, e);
	EXPECT_EQ(UPREEMPT_FRAME_USER, e.frame);
	EXPECT_UNSAFE(UPREEMPT_STOP, UPREEMPT_R_EXCEPTION);
	EXPECT_UNSAFE(UPREEMPT_REDIRECT, UPREEMPT_R_EXCEPTION);
	ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_STOP, 0, 0, &seq));
	ASSERT_EQ(0, raw_faulter_go(&t, fd));
	ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(1, t.count);
	ASSERT_EQ(0, raw_release(&self->r, t.slot, seq));
	EXPECT_TRUE(RAW_UNTIL(t.count >= 2));
	EXPECT_LANDS(UPREEMPT_REDIRECT, e);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.result);
	close(fd);
}

/* -------- flags, red zone, stack: what the landing finds, with and without the guard -------- */

static uint64_t flags_at_entry;

static RAW_HANDLER void handler_flags(struct raw_landing_arg *arg, struct upreempt_regs *regs,
				      uint64_t seq)
{
	uint64_t flags;

	asm volatile("pushf; pop %0" : "=r"(flags));
	flags_at_entry = flags;
}

/* Spins with AC set, which nothing here trips over (all is aligned). */
static void body_ac(struct raw_target *t)
{
	uint64_t after;

	asm volatile("	pushf\n"
		     "	orl $0x40000, (%%rsp)\n"
		     "	popf\n"
		     "1:	incq %[count]\n"
		     "	cmpl $0, %[stop]\n"
		     "	je 1b\n"
		     "	pushf\n"
		     "	pop %[after]\n"
		     "	pushf\n"
		     "	andl $~0x40000, (%%rsp)\n"
		     "	popf\n"
		     : [count] "+m"(t->count), [after] "=&r"(after)
		     : [stop] "m"(t->stop) : "cc", "memory");
	t->wrong += !(after & 0x40000);
}

TEST_F(unsafe, flags_are_clear_in_the_landing)
{
	struct upreempt_event e;
	struct raw_target t;

	raw_target_init(&t, &self->r, body_ac, RAW_LANDING_CALL);
	t.handler = handler_flags;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (int i = 0; i < 20; i++) {
		flags_at_entry = 0;
		EXPECT_LANDS(UPREEMPT_REDIRECT, e);
		EXPECT_EQ(0x40000, e.regs.rflags & 0x40000);
		ASSERT_TRUE(RAW_UNTIL(flags_at_entry));
		EXPECT_EQ(0, flags_at_entry & 0x40500);
	}
	if (raw_is_inject_build(self->r.fd)) {
		ASSERT_EQ(0, raw_param("guards", 1 << 4));
		flags_at_entry = 0;
		EXPECT_LANDS(UPREEMPT_REDIRECT, e);
		ASSERT_TRUE(RAW_UNTIL(flags_at_entry));
		EXPECT_EQ(0x40000, flags_at_entry & 0x40500);
		raw_params_reset();
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

static RAW_HANDLER void handler_nothing(struct raw_landing_arg *arg, struct upreempt_regs *regs,
					uint64_t seq)
{
}

TEST_F(unsafe, red_zone)
{
	struct upreempt_event e;
	struct raw_target t;

	for (int guard = 1; guard >= 0; guard--) {
		if (!guard)
			RAW_NEED_INJECT(self->r.fd);
		raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING_CALL);
		t.handler = handler_nothing;
		ASSERT_EQ(0, raw_target_start(&t));
		ASSERT_TRUE(raw_target_moves(&t));
		raw_param("guards", guard ? 0 : 1 << 3);
		for (int i = 0; i < 20; i++)
			EXPECT_LANDS(UPREEMPT_REDIRECT, e);
		raw_param("guards", 0);
		EXPECT_EQ(0, raw_target_stop(&t));
		EXPECT_EQ(guard, !t.wrong);
	}
}

TEST_F(unsafe, stack_guard_matters)
{
	struct upreempt_event e;
	struct raw_target t;

	RAW_NEED_INJECT(self->r.fd);
	raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING);
	t.stack_lo = 0x10000;
	t.stack_hi = 0x20000;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	EXPECT_UNSAFE(UPREEMPT_REDIRECT, UPREEMPT_R_STACK_BOUNDS);
	ASSERT_EQ(0, raw_param("guards", 1 << 8));
	EXPECT_LANDS(UPREEMPT_REDIRECT, e);
	raw_params_reset();
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* -------- a signal handler's first instruction -------- */

static volatile int handled;

static void on_usr1(int sig)
{
	handled++;
}

TEST_F(unsafe, signal_frame_guard_matters)
{
	struct sigaction sa = { .sa_handler = on_usr1 };
	struct upreempt_event stop, e;
	struct raw_target t;
	uint64_t seq;

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	for (int guard = 1; guard >= 0; guard--) {
		handled = 0;
		if (!guard)
			RAW_NEED_INJECT(self->r.fd);
		raw_param("guards", guard ? 0 : 1 << 6);
		/* held at the handler's entry, with a redirect that waits for the release */
		ASSERT_TRUE(RAW_UNTIL(!self->r.slots[t.slot].busy) && raw_target_moves(&t));
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &stop));
		ASSERT_EQ(0, pthread_kill(t.thread, SIGUSR1));
		ASSERT_TRUE(RAW_UNTIL(!raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &e) &&
				      e.regs.rip == (uintptr_t)on_usr1));
		ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
		ASSERT_EQ(0, raw_release(&self->r, t.slot, stop.seq));
		ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
		EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
		EXPECT_EQ(!guard, e.regs.rip == (uintptr_t)on_usr1) {
			TH_LOG("guard %d: landed at 0x%llx after %u attempts, handler 0x%lx", guard,
			       (unsigned long long)e.regs.rip, e.attempts, (uintptr_t)on_usr1);
		}
		EXPECT_TRUE(RAW_UNTIL(handled == 1));
	}
	raw_params_reset();
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

RAW_TEST_MAIN
