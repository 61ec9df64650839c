// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves P15: a thread whose loop has a uprobe is never caught in the out-of-line copy of the
 * probed instruction, where its PC, its flags and one register are the kernel's.
 */
#include "kselftest_harness.h"
#include <linux/perf_event.h>
#include "../include/raw_target.h"

/*
 * Multiplies *product by an odd number and counts in r9, until *stop. The multiplication has
 * to be stepped out of line. There it borrows rsi for the address, which is relative to the
 * PC; and one that is left out or done twice shows in every product that follows.
 */
uint64_t probed_spin(volatile uint64_t *count, volatile uint32_t *stop);
extern const char probed_loop[], probed_insn[], probed_after[], probed_end[];

#define FACTOR	3

asm(
"	.pushsection .text\n"
"probed_spin:\n"
"	mov $1, %r8d\n"
"	xor %r9d, %r9d\n"
"probed_loop:\n"
"	mov %r9, (%rdi)\n"
"probed_insn:\n"
"	imul probed_factor(%rip), %r8\n"
"probed_after:\n"
"	inc %r9\n"
"	cmpl $0, (%rsi)\n"
"	je probed_loop\n"
"probed_end:\n"
"	mov %r9, (%rdi)\n"
"	mov %r8, %rax\n"
"	ret\n"
"	.balign 8\n"
"probed_factor:\n"
"	.quad 3\n"
"	.popsection\n"
);

static uint64_t power(uint64_t base, uint64_t n)
{
	uint64_t p = 1;

	for (; n; n >>= 1, base *= base)
		if (n & 1)
			p *= base;
	return p;
}

static void body_probed(struct raw_target *t)
{
	uint64_t product = probed_spin(&t->count, &t->stop);

	t->wrong = product != power(FACTOR, t->count);
}

/* Whether the registers are those of the loop, at an instruction of the loop itself. */
static bool is_probed_loop(const struct upreempt_regs *r, const struct raw_target *t)
{
	return raw_in_range(r->rip, probed_loop, probed_end) &&
	       r->r8 == power(FACTOR, r->r9 + (r->rip == (uintptr_t)probed_after)) &&
	       r->rdi == (uintptr_t)&t->count && r->rsi == (uintptr_t)&t->stop &&
	       !(r->rflags & 0x100);
}

/* The place of an address of this program in its file, 0: not found */
static uint64_t file_offset(const void *where)
{
	uint64_t lo, hi, offset, found = 0;
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %*s %lx", &lo, &hi, &offset) == 3 &&
		    (uintptr_t)where >= lo && (uintptr_t)where < hi)
			found = (uintptr_t)where - lo + offset;
	if (f)
		fclose(f);
	return found;
}

/* A counter of a thread's visits to an instruction; it is a uprobe there. -errno */
static int probe(const void *where, int tid)
{
	struct perf_event_attr attr = { .size = sizeof(attr) };
	FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
	int fd;

	if (!f)
		return -ENOENT;
	fd = fscanf(f, "%u", &attr.type);
	fclose(f);
	if (fd != 1)
		return -EINVAL;
	attr.uprobe_path = (uintptr_t)"/proc/self/exe";
	attr.probe_offset = file_offset(where);
	fd = syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

FIXTURE(uprobe) {
	struct raw r;
	struct raw_target t;
	int probe;
};

FIXTURE_SETUP(uprobe)
{
	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&self->r, 4, 16));
	raw_target_init(&self->t, &self->r, body_probed, RAW_LANDING);
	ASSERT_EQ(0, raw_target_start(&self->t));
	ASSERT_TRUE(raw_target_moves(&self->t));
	self->probe = probe(probed_insn, self->t.tid);
	if (self->probe < 0)
		SKIP(return, "no uprobe: %s", strerror(-self->probe));
}

FIXTURE_TEARDOWN(uprobe)
{
	if (self->probe >= 0)
		close(self->probe);
	raw_close(&self->r);
}

/*
 * Asks n times, or for ten seconds on a loaded machine; each answer is in the loop. Returns
 * how often it had to wait.
 */
static uint64_t ask_many(struct __test_metadata *_metadata, FIXTURE_DATA(uprobe) *self,
			 uint32_t kind, uint64_t n, uint64_t pause_us)
{
	uint64_t visits = 0, deferred, bad = 0, i, end = raw_in(10000);
	struct upreempt_stats before, after;
	struct upreempt_event e;

	EXPECT_EQ(0, raw_stats(&self->r, self->t.slot, &before));
	for (i = 0; i < n && raw_now() < end; i++) {
		if (raw_ask(&self->r, self->t.slot, kind, 0, &e) ||
		    e.outcome != UPREEMPT_LANDED || !is_probed_loop(&e.regs, &self->t)) {
			if (!bad++)
				TH_LOG("kind %u outcome %u rip 0x%llx flags 0x%llx rsi 0x%llx",
				       kind, e.outcome, (unsigned long long)e.regs.rip,
				       (unsigned long long)e.regs.rflags,
				       (unsigned long long)e.regs.rsi);
		}
		if (kind == UPREEMPT_STOP)
			EXPECT_EQ(0, raw_release(&self->r, self->t.slot, e.seq));
		if (pause_us)
			raw_sleep_us(pause_us);
	}
	EXPECT_EQ(0, bad);
	EXPECT_EQ(0, raw_stats(&self->r, self->t.slot, &after));
	EXPECT_EQ(8, read(self->probe, &visits, 8));
	EXPECT_LT(0, visits);
	deferred = after.deferrals[UPREEMPT_R_UPROBE] - before.deferrals[UPREEMPT_R_UPROBE];
	TH_LOG("kind %u: %llu requests, %llu deferred in %llu steps, %llu wrong", kind,
	       (unsigned long long)i, (unsigned long long)deferred,
	       (unsigned long long)visits, (unsigned long long)bad);
	return deferred;
}

TEST_F(uprobe, redirects)
{
	EXPECT_LT(0, ask_many(_metadata, self, UPREEMPT_REDIRECT, raw_scale(20000), 0));
	ASSERT_EQ(0, raw_target_stop(&self->t));
	EXPECT_EQ(0, self->t.wrong);
}

TEST_F(uprobe, stops)
{
	EXPECT_LT(0, ask_many(_metadata, self, UPREEMPT_STOP, raw_scale(3000), 50));
	ASSERT_EQ(0, raw_target_stop(&self->t));
	EXPECT_EQ(0, self->t.wrong);
}

/* A sample changes nothing, but what it shows must be the thread's own, too. */
TEST_F(uprobe, samples)
{
	EXPECT_LT(0, ask_many(_metadata, self, UPREEMPT_SAMPLE, raw_scale(10000), 0));
	ASSERT_EQ(0, raw_target_stop(&self->t));
	EXPECT_EQ(0, self->t.wrong);
}

/* It shares its CPU: it is switched out between breakpoint and step, and in the step. */
TEST_F(uprobe, samples_while_switched_out)
{
	struct raw_target other;
	cpu_set_t first;

	if (raw_cpus() < 2)
		SKIP(return, "needs two CPUs");
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	ASSERT_EQ(0, sched_setaffinity(self->t.tid, sizeof(first), &first));
	raw_target_init(&other, &self->r, raw_body_spin, RAW_NO_LANDING);
	other.cpu = 0;
	ASSERT_EQ(0, raw_target_start(&other));
	ASSERT_EQ(0, raw_pin(1));
	EXPECT_LT(0, ask_many(_metadata, self, UPREEMPT_SAMPLE, raw_scale(400), 3100));
	ASSERT_EQ(0, raw_target_stop(&other));
	ASSERT_EQ(0, raw_target_stop(&self->t));
	EXPECT_EQ(0, self->t.wrong);
}

RAW_TEST_MAIN
