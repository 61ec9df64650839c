/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* Safe-point tables by ioctl, and the sequences that they protect. */
#ifndef SELFTESTS_RAW_TABLE_H
#define SELFTESTS_RAW_TABLE_H

#include "raw_world.h"

/* open, SETUP and mmap of a domain in which undeclared code is unsafe */
RAW_FN int raw_declared_domain(struct raw *r, uint32_t nr_slots)
{
	int ret;

	memset(r, 0, sizeof(*r));
	r->fd = raw_open();
	if (r->fd < 0)
		return r->fd;
	memset(&r->setup, 0, sizeof(r->setup));
	r->setup.size = sizeof(r->setup);
	r->setup.flags = UPREEMPT_SETUP_DECLARED;
	r->setup.nr_slots = nr_slots;
	r->setup.nr_events = 16;
	ret = raw_ioctl(r->fd, UPREEMPT_IOC_SETUP, &r->setup);
	return ret ? ret : raw_map(r);
}

RAW_FN struct upreempt_code_add raw_area(const void *begin, const void *end, uint32_t class,
					 const struct upreempt_range *ranges, uint32_t count)
{
	struct upreempt_code_add a = {
		.size = sizeof(a), .base = (uintptr_t)begin,
		.len = (uintptr_t)end - (uintptr_t)begin, .cls = class,
		.ranges = (uintptr_t)ranges, .count = count,
		.id = 0xcc, .bad = 0xcc, .why = 0xcc, .staged = 0xcc,
	};

	return a;
}

RAW_FN int raw_code_add(struct raw *r, struct upreempt_code_add *a)
{
	return raw_ioctl(r->fd, UPREEMPT_IOC_CODE_ADD, a);
}

/* Adds an area that holds at once; its id, or 0 */
RAW_FN uint64_t raw_declare(struct raw *r, const void *begin, const void *end, uint32_t class)
{
	struct upreempt_code_add a = raw_area(begin, end, class, NULL, 0);

	return raw_code_add(r, &a) || a.staged ? 0 : a.id;
}

RAW_FN int raw_code_remove(struct raw *r, uint64_t id, uint32_t *staged)
{
	struct upreempt_code_remove a = { .size = sizeof(a), .id = id, .staged = 0xcc };
	int ret = raw_ioctl(r->fd, UPREEMPT_IOC_CODE_REMOVE, &a);

	if (staged)
		*staged = a.staged;
	return ret;
}

/* A request with flags; its outcome, or -errno */
RAW_FN int raw_try(struct raw *r, uint32_t slot, uint32_t kind, uint32_t flags, uint64_t ms,
	       struct upreempt_event *e)
{
	struct upreempt_request req = raw_request_arg(slot, kind, flags | UPREEMPT_REQ_WAIT);
	int ret;

	req.deadline_ns = raw_in(ms);
	ret = raw_ioctl(r->fd, UPREEMPT_IOC_REQUEST, &req);
	*e = req.event;
	return ret ? ret : (int)e->outcome;
}

/* Why it ends UNSAFE, or -100 - outcome; asked again where the thread was not run at all */
RAW_FN int raw_why(struct raw *r, uint32_t slot, uint32_t kind, uint32_t flags)
{
	struct upreempt_event e;
	int ret;

	for (int i = 1; i <= 20; i++) {
		ret = raw_try(r, slot, kind, flags, 30 * i, &e);
		if (ret != UPREEMPT_UNSAFE)
			return ret < 0 ? ret : -100 - ret;
		if (e.reason != UPREEMPT_R_NOT_RUN)
			return e.reason;
	}
	return UPREEMPT_R_NOT_RUN;
}

RAW_FN int raw_lands(struct raw *r, uint32_t slot, uint32_t kind)
{
	struct upreempt_event e;
	int ret = raw_try(r, slot, kind, 0, RAW_LONG_MS, &e);

	if (ret == UPREEMPT_LANDED && kind == UPREEMPT_STOP)
		return raw_release(r, slot, e.seq);
	return ret == UPREEMPT_LANDED ? 0 : -100 - ret;
}

/* What raw_sequences() counts; the offsets are used below */
struct raw_counts {
	volatile uint64_t a, b, entry;
	volatile uint64_t turns;
	volatile uint32_t stop;
};

/*
 * Turns until stop. Each adds one to a and b, in two adjacent sequences with one commit
 * store at the end, and to entry, in a function that may be begun anew at its entry. The
 * jumps are there for emulators that take interrupts only between blocks.
 */
void raw_sequences(struct raw_counts *c);
extern const char raw_seq_begin[], raw_seq_a[], raw_seq_b[], raw_seq_b_end[], raw_seq_entry[],
	raw_seq_entry_mid[], raw_seq_entry_end[], raw_seq_end[];

#define RAW_ADD_ONE(at)							\
	"	mov " #at "(%rdi), %rax\n"				\
	"	.rept 16\n	jmp 1f\n1:\n	.endr\n"		\
	"	add $1, %rax\n"						\
	"	jmp 1f\n1:\n"						\
	"	mov %rax, " #at "(%rdi)\n"

asm(
"	.pushsection .text\n"
"	.globl raw_sequences, raw_seq_begin, raw_seq_a, raw_seq_b, raw_seq_b_end\n"
"	.globl raw_seq_entry, raw_seq_entry_mid, raw_seq_entry_end, raw_seq_end\n"
"raw_seq_begin:\n"
"raw_sequences:\n"
"	xor %ecx, %ecx\n"
"2:	jmp 1f\n1:\n"
"raw_seq_a:\n"
	RAW_ADD_ONE(0)
"raw_seq_b:\n"
	RAW_ADD_ONE(8)
"raw_seq_b_end:\n"
"	call raw_seq_entry\n"
"	inc %rcx\n"
"	mov %rcx, 24(%rdi)\n"
"	cmpl $0, 32(%rdi)\n"
"	je 2b\n"
"	ret\n"
"raw_seq_entry:\n"
"	mov 16(%rdi), %rdx\n"
"	jmp 1f\n1:\n"
"	add $1, %rdx\n"
"raw_seq_entry_mid:\n"
"	jmp 1f\n1:	jmp 1f\n1:\n"
"	mov %rdx, 16(%rdi)\n"
"raw_seq_entry_end:\n"
"	ret\n"
"raw_seq_end:\n"
"	.popsection\n"
);

_Static_assert(offsetof(struct raw_counts, turns) == 24, "used by the assembly");
_Static_assert(offsetof(struct raw_counts, stop) == 32, "used by the assembly");

#define RAW_SEQ_RANGES	4

/* Their table, as an area that is safe elsewhere */
RAW_FN struct upreempt_code_add raw_seq_area(struct upreempt_range *r)
{
	const char *at[] = { raw_seq_a, raw_seq_b, raw_seq_entry, raw_seq_entry_mid };
	const char *end[] = { raw_seq_b, raw_seq_b_end, raw_seq_entry_mid, raw_seq_entry_end };
	const char *back[] = { raw_seq_a, raw_seq_b, raw_seq_entry, raw_seq_entry };

	memset(r, 0, RAW_SEQ_RANGES * sizeof(*r));
	for (int i = 0; i < RAW_SEQ_RANGES; i++) {
		r[i].start = at[i] - raw_seq_begin;
		r[i].end = end[i] - raw_seq_begin;
		r[i].value = back[i] - raw_seq_begin;
		r[i].cls = UPREEMPT_CODE_RESTART;
	}
	return raw_area(raw_seq_begin, raw_seq_end, UPREEMPT_CODE_SAFE, r, RAW_SEQ_RANGES);
}

/* Behind the first instruction of a sequence and before the end of its store */
RAW_FN bool raw_in_seq(uint64_t ip)
{
	return (raw_in_range(ip, raw_seq_a + 1, raw_seq_b_end) && ip != (uintptr_t)raw_seq_b) ||
	       raw_in_range(ip, raw_seq_entry + 1, raw_seq_entry_end);
}

/* ---- what the tests of tables begin with: a domain of either sort ---- */

FIXTURE(table) {
	struct raw r;
};

FIXTURE_VARIANT(table) {
	bool declared;
};

FIXTURE_VARIANT_ADD(table, declared) { .declared = true };
FIXTURE_VARIANT_ADD(table, open) { .declared = false };

FIXTURE_SETUP(table)
{
	raw_params_reset();
	ASSERT_EQ(0, variant->declared ? raw_declared_domain(&self->r, 8) :
					 raw_domain(&self->r, 8, 16));
}

FIXTURE_TEARDOWN(table)
{
	raw_params_reset();
	raw_close(&self->r);
}

/* Pages of code that nobody runs */
static const char *const somewhere = (const char *)0x10000000;

#endif
