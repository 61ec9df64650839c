// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves P9 for protection keys: a redirect and a STOP leave PKRU alone. The landing runs with
 * the interrupted code's rights; what it needs and these forbid is an ordinary SIGSEGV there.
 */
#include "kselftest_harness.h"
#include "../include/raw_target.h"

#define PAGE	4096
#define STACK	(16 * PAGE)
#define NO_ACCESS(key)	(1U << (2 * (key)))
#define NO_WRITE(key)	(2U << (2 * (key)))

/*
 * Spins with this PKRU and this stack until *stop; returns PKRU as it was at the end. Uses no
 * stack but in the landing, and no memory but *count and *stop.
 */
uint32_t pkru_spin(volatile uint64_t *count, volatile uint32_t *stop, uint32_t pkru, void *sp);

asm(
"	.pushsection .text\n"
"pkru_spin:\n"
"	mov %rcx, %r8\n"
"	mov %edx, %r9d\n"
"	xor %ecx, %ecx\n"
"	rdpkru\n"
"	mov %eax, %r10d\n"
"	xchg %rsp, %r8\n"
"	mov %r9d, %eax\n"
"	wrpkru\n"
"1:	incq (%rdi)\n"
"	cmpl $0, (%rsi)\n"
"	je 1b\n"
"	rdpkru\n"
"	mov %eax, %r9d\n"
"	mov %r10d, %eax\n"
"	wrpkru\n"
"	mov %r8, %rsp\n"
"	mov %r9d, %eax\n"
"	ret\n"
"	.popsection\n"
);

static volatile uint32_t seen, wanted;
static volatile uint64_t visits;

static RAW_HANDLER void handler(struct raw_landing_arg *arg, struct upreempt_regs *regs,
				uint64_t seq)
{
	uint32_t value, edx;

	asm volatile("rdpkru" : "=a"(value), "=d"(edx) : "c"(0));
	seen = value;
	visits++;
}

static void body_pkru(struct raw_target *t)
{
	uint32_t end = pkru_spin(&t->count, &t->stop, wanted, (char *)t->user + STACK);

	t->wrong = end != wanted;
	t->result = end;
}

FIXTURE(pkeys) {
	struct raw r;
	struct raw_target t;
	void *stack;
	int key;
};

FIXTURE_SETUP(pkeys)
{
	raw_params_reset();
	self->key = pkey_alloc(0, 0);
	self->r.fd = -1;
	if (self->key < 0)
		return;		/* to skip here would not keep the test from running */
	ASSERT_EQ(0, raw_domain(&self->r, 2, 16));
	self->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->stack);
	visits = 0;
}

FIXTURE_TEARDOWN(pkeys)
{
	raw_close(&self->r);
}

static bool spins(FIXTURE_DATA(pkeys) *self, uint32_t pkru)
{
	wanted = pkru;
	raw_target_init(&self->t, &self->r, body_pkru, RAW_LANDING_CALL);
	self->t.handler = handler;
	self->t.user = self->stack;
	return !raw_target_start(&self->t) && raw_target_moves(&self->t);
}

/* Nothing that the landing needs is forbidden: each value stays, in the handler and after it. */
TEST_F(pkeys, kept_across_redirect_and_stop)
{
	uint32_t all = 0x55555554;	/* nothing but key 0 */
	uint32_t values[] = { 0, all, all & ~NO_ACCESS(self->key), NO_WRITE(self->key), ~3U };
	struct upreempt_event e;

	if (self->key < 0)
		SKIP(return, "no protection keys on this processor or kernel");
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		ASSERT_TRUE(spins(self, values[i]));
		for (uint64_t n = 0; n < raw_scale(500); n++) {
			uint64_t before = visits;

			seen = 0xdeadbeef;
			ASSERT_EQ(0, raw_ask(&self->r, self->t.slot, UPREEMPT_REDIRECT, 0, &e));
			ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
			ASSERT_TRUE(RAW_UNTIL(visits != before));
			ASSERT_EQ(values[i], seen);
			ASSERT_EQ(0, raw_ask(&self->r, self->t.slot, UPREEMPT_STOP, 0, &e));
			ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
			ASSERT_EQ(0, raw_release(&self->r, self->t.slot, e.seq));
		}
		ASSERT_EQ(0, raw_target_stop(&self->t));
		EXPECT_EQ(0, self->t.wrong) {
			TH_LOG("0x%x became 0x%llx", values[i],
			       (unsigned long long)self->t.result);
		}
	}
}

/* How a child ends whose thread is redirected where its PKRU forbids these pages. */
static int redirected_without(FIXTURE_DATA(pkeys) *self, void *pages, size_t size)
{
	struct upreempt_event e;
	pid_t pid = fork();

	if (!pid) {
		/* the domain is not inherited */
		munmap(self->r.map, self->r.size);
		if (raw_domain(&self->r, 2, 16))
			_exit(1);
		if (!pages) {
			pages = self->r.map;
			size = self->r.size;
		}
		if (pkey_mprotect(pages, size, PROT_READ | PROT_WRITE, self->key) ||
		    !spins(self, NO_ACCESS(self->key)))
			_exit(2);
		/* Neither of these touches them from the thread. */
		if (raw_ask(&self->r, self->t.slot, UPREEMPT_SAMPLE, 0, &e) ||
		    e.outcome != UPREEMPT_LANDED)
			_exit(3);
		if (raw_ask(&self->r, self->t.slot, UPREEMPT_STOP, 0, &e) ||
		    e.outcome != UPREEMPT_LANDED ||
		    raw_release(&self->r, self->t.slot, e.seq) ||
		    !raw_target_moves(&self->t))
			_exit(4);
		if (raw_ask(&self->r, self->t.slot, UPREEMPT_REDIRECT, 0, &e) ||
		    e.outcome != UPREEMPT_LANDED)
			_exit(5);
		RAW_UNTIL(visits);
		_exit(visits && !raw_target_stop(&self->t) && !self->t.wrong ? 0 : 6);
	}
	return pid < 0 ? -errno : raw_reap(pid, 2 * RAW_LONG_MS);
}

TEST_F(pkeys, stack_or_slot_forbidden)
{
	void *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (self->key < 0)
		SKIP(return, "no protection keys on this processor or kernel");
	ASSERT_NE(MAP_FAILED, other);
	EXPECT_EQ(0, redirected_without(self, other, PAGE));
	EXPECT_EQ(SIGSEGV, redirected_without(self, self->stack, STACK) & 0x7f);
	EXPECT_EQ(SIGSEGV, redirected_without(self, NULL, 0) & 0x7f);
}

RAW_TEST_MAIN
