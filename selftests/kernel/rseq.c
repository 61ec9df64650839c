// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves P10, U31, S11, G3: a restartable sequence is never split by a redirect, whatever a
 * table says of it; without the guard it is.
 */
#include "kselftest_harness.h"
#include <sys/rseq.h>
#include "../include/raw_target.h"

#define NR_CPUS	64

struct counter {
	volatile uint64_t n;
} __attribute__((aligned(128)));

static struct counter counters[NR_CPUS];

/* What rseq_cs points to; the linker's names for all of increment()'s */
struct descriptor {
	uint32_t version, flags;
	uint64_t start, length, abort;
};

extern const struct descriptor __start___rseq_cs[], __stop___rseq_cs[];

static struct rseq *my_rseq(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/*
 * Adds one to the counter of the CPU it runs on, as a restartable sequence: load, a while
 * of nothing, add, store. Returns whether it was committed.
 */
static int increment(struct rseq *rs, uint32_t cpu, volatile uint64_t *n)
{
	asm goto volatile(
		"	.pushsection __rseq_cs, \"aw\"\n"
		"	.balign 32\n"
		"3:	.long 0, 0\n"
		"	.quad 1f, 2f - 1f, 4f\n"
		"	.popsection\n"
		"	lea 3b(%%rip), %%rax\n"
		"	mov %%rax, %[cs]\n"
		"1:	cmpl %[cpu], %[cpu_id]\n"
		"	jnz 4f\n"
		"	mov (%[n]), %%rax\n"
		"	mov $24, %%ecx\n"
		"5:	dec %%ecx\n"
		"	jnz 5b\n"
		"	inc %%rax\n"
		"	mov %%rax, (%[n])\n"
		"2:\n"
		"	.pushsection __rseq_failure, \"ax\"\n"
		"	.byte 0x0f, 0xb9, 0x3d\n"
		"	.long 0x53053053\n"
		"4:	jmp %l[aborted]\n"
		"	.popsection\n"
		:
		: [cs] "m"(rs->rseq_cs), [cpu_id] "m"(rs->cpu_id), [cpu] "r"(cpu), [n] "r"(n)
		: "memory", "cc", "rax", "rcx"
		: aborted);
	return 1;
aborted:
	return 0;
}

static void body_increment(struct raw_target *t)
{
	struct rseq *rs = my_rseq();
	uint64_t committed = 0;

	while (!t->stop) {
		uint32_t cpu = *(volatile __u32 *)&rs->cpu_id_start;

		committed += increment(rs, cpu, &counters[cpu % NR_CPUS].n);
		t->count = committed;
	}
}

FIXTURE(seq) {
	struct raw r;
	struct raw_target pinned[2], moving;
};

FIXTURE_SETUP(seq)
{
	raw_params_reset();
	if (!__rseq_size)
		SKIP(return, "the C library has not registered rseq");
	ASSERT_EQ(0, raw_domain(&self->r, 4, 16));
	memset(counters, 0, sizeof(counters));
}

FIXTURE_TEARDOWN(seq)
{
	raw_params_reset();
	raw_close(&self->r);
}

/*
 * One thread that is redirected all the time, to a landing that lets others run, and one
 * pinned thread on each of two CPUs, all adding to per-CPU counters. Returns how many
 * increments were lost.
 */
static int64_t lost(struct __test_metadata *_metadata, FIXTURE_DATA(seq) *self, uint64_t ms,
		    uint64_t wanted_deferrals)
{
	uint64_t sum = 0, committed, landed = 0;
	struct upreempt_stats s;
	struct upreempt_event e;

	for (int i = 0; i < 2; i++) {
		raw_target_init(&self->pinned[i], &self->r, body_increment, RAW_NO_LANDING);
		self->pinned[i].cpu = i;
		if (raw_target_start(&self->pinned[i]))
			return -1;
	}
	raw_target_init(&self->moving, &self->r, body_increment, RAW_LANDING_YIELD);
	if (raw_target_start(&self->moving))
		return -1;
	for (uint64_t end = raw_in(ms); raw_now() < end;) {
		if (raw_ask(&self->r, self->moving.slot, UPREEMPT_REDIRECT, 0, &e))
			return -1;
		landed += e.outcome == UPREEMPT_LANDED;
		raw_sleep_us(50);
	}
	raw_stats(&self->r, self->moving.slot, &s);
	raw_target_stop(&self->moving);
	committed = self->moving.count;
	for (int i = 0; i < 2; i++) {
		raw_target_stop(&self->pinned[i]);
		committed += self->pinned[i].count;
	}
	for (int i = 0; i < NR_CPUS; i++)
		sum += counters[i].n;
	TH_LOG("%llu increments, %llu lost, %llu redirects, %llu deferred inside a sequence",
	       (unsigned long long)committed, (unsigned long long)(committed - sum),
	       (unsigned long long)landed,
	       (unsigned long long)s.deferrals[UPREEMPT_R_RSEQ]);
	EXPECT_LT(0, landed);
	if (wanted_deferrals)
		EXPECT_LE(wanted_deferrals, s.deferrals[UPREEMPT_R_RSEQ]);
	return committed - sum;
}

TEST_F(seq, no_increment_is_lost)
{
	EXPECT_EQ(0, lost(_metadata, self, raw_scale(10000), 10));
}

/*
 * A table that calls the sequences restartable changes nothing: a thread that was sent back to
 * the start might have come to another CPU, and only the kernel's abort says so.
 */
TEST_F(seq, declared_restartable)
{
	const struct descriptor *d = __start___rseq_cs;
	size_t n = __stop___rseq_cs - d;
	struct upreempt_range range = { .cls = UPREEMPT_CODE_RESTART };
	struct upreempt_code_add a = { .size = sizeof(a), .cls = UPREEMPT_CODE_SAFE,
				       .ranges = (uintptr_t)&range, .count = 1 };
	struct upreempt_stats s;

	ASSERT_NE(0, n);
	for (size_t i = 0; i < n; i++) {
		range.end = d[i].length;
		a.base = d[i].start;
		a.len = d[i].length;
		ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_CODE_ADD, &a));
	}
	EXPECT_EQ(0, lost(_metadata, self, raw_scale(5000), 10));
	ASSERT_EQ(0, raw_stats(&self->r, UPREEMPT_ALL_SLOTS, &s));
	EXPECT_EQ(0, s.restarts);
}

/* The control: with the guard off, some are. */
TEST_F(seq, guard_matters)
{
	int64_t n = 0;

	RAW_NEED_INJECT(self->r.fd);
	ASSERT_EQ(0, raw_param("guards", 1 << 0));
	for (int i = 0; i < 4 && !n; i++) {
		memset(counters, 0, sizeof(counters));
		n = lost(_metadata, self, 5000, 0);
	}
	raw_params_reset();
	EXPECT_NE(0, n);
}

/* -------- an area that cannot be read without a fault -------- */

static struct descriptor *page;

/* Leaves the pointer to its descriptor in place, as librseq does, and spins elsewhere. */
static void body_lazy(struct raw_target *t)
{
	struct rseq *rs = my_rseq();

	while (!t->stop) {
		*(volatile __u64 *)&rs->rseq_cs = (uintptr_t)page;
		for (volatile int i = 0; i < 100; i++)
			;
		t->count++;
	}
	*(volatile __u64 *)&rs->rseq_cs = 0;
}

TEST_F(seq, descriptor_that_is_not_in_memory)
{
	int fd = memfd_create("descriptor", MFD_CLOEXEC);
	struct upreempt_event e;
	struct upreempt_stats s;
	struct raw_target t;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 4096));
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, page);
	/* a sequence of one byte that the thread is never in; its abort handler is signed */
	page->start = (uintptr_t)raw_landing_yield;
	page->length = 1;
	{
		unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		uint32_t signature = 0x53053053;

		ASSERT_NE(MAP_FAILED, code);
		memcpy(code, &signature, 4);
		page->abort = (uintptr_t)code + 4;
	}
	raw_target_init(&t, &self->r, body_lazy, RAW_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (int i = 0; i < 300; i++) {
		madvise(page, 4096, MADV_DONTNEED);
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
	}
	ASSERT_EQ(0, raw_stats(&self->r, t.slot, &s));
	EXPECT_LT(0, s.deferrals[UPREEMPT_R_RSEQ_FAULT]);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(300, t.land.count);
	TH_LOG("deferred %llu times", (unsigned long long)s.deferrals[UPREEMPT_R_RSEQ_FAULT]);
}

/* Pointers that make no sense are the program's own business: no splat, no landing lost. */
static void body_nonsense(struct raw_target *t)
{
	static const uint64_t bad[] = { 1, 0x1000, 1ULL << 63, 0xffff888000000000ULL, ~0ULL };
	struct rseq *rs = my_rseq();
	/* the kernel would kill us for these at the next preemption: take it the area first */
	long ret = syscall(SYS_rseq, rs, __rseq_size < 32 ? 32 : __rseq_size, 1, 0x53053053);

	t->result = ret ? -errno : 0;
	while (!t->stop) {
		*(volatile __u64 *)&rs->rseq_cs = bad[t->count % 5];
		for (volatile int i = 0; i < 100; i++)
			;
		t->count++;
	}
	*(volatile __u64 *)&rs->rseq_cs = 0;
}

TEST_F(seq, area_that_was_unregistered)
{
	struct upreempt_event e;
	struct raw_target t;

	raw_target_init(&t, &self->r, body_nonsense, RAW_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
	}
	EXPECT_EQ(0, t.result);
	EXPECT_EQ(0, raw_target_stop(&t));
}

RAW_TEST_MAIN
