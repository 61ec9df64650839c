/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * Landings for tests that do without the library, in three sizes, and the loop
 * that they interrupt.
 *
 * A landing that uses only general registers needs no XSAVE. It goes back by "pop rdi,
 * popf, ret 128" from a frame of three words that it lays immediately below the red
 * zone of the interrupted code. (IRETQ would do it in one instruction, but QEMU's
 * emulation lets it read the user's stack as the kernel, which SMAP forbids.)
 *
 *	raw_landing		counts, goes back
 *	raw_landing_yield	counts, calls sched_yield() a few times, goes back
 *	raw_landing_call	copies the registers to the stack, frees the slot, calls
 *				arg->handler outside of the range, goes back to what
 *				the handler left in the copy
 */
#ifndef SELFTESTS_RAW_LANDING_H
#define SELFTESTS_RAW_LANDING_H

#include <linux/upreempt.h>
#include <stddef.h>
#include <stdint.h>

struct raw_landing_arg;
typedef void raw_handler(struct raw_landing_arg *arg, struct upreempt_regs *regs, uint64_t seq);

/* What upreempt_register.arg points to; the offsets are used below */
struct raw_landing_arg {
	struct upreempt_slot *slot;
	uint64_t count;
	raw_handler *handler;
	void *user;
};

_Static_assert(offsetof(struct raw_landing_arg, slot) == 0, "used by the assembly");
_Static_assert(offsetof(struct raw_landing_arg, count) == 8, "used by the assembly");
_Static_assert(offsetof(struct raw_landing_arg, handler) == 16, "used by the assembly");
_Static_assert(offsetof(struct upreempt_slot, busy) == 128, "used by the assembly");
_Static_assert(offsetof(struct upreempt_slot, regs) == 192, "used by the assembly");
_Static_assert(sizeof(struct upreempt_regs) == 192, "used by the assembly");

extern const char raw_landing[], raw_landing_end[];
extern const char raw_landing_yield[], raw_landing_yield_end[];
extern const char raw_landing_call[], raw_landing_call_end[];

/* A handler must not touch vector registers: they are the interrupted code's. */
#define RAW_HANDLER __attribute__((target("general-regs-only"), noinline))

#define RAW_LOAD_ALL_BUT_RDI						\
	"	mov 0(%rdi), %r15\n	mov 8(%rdi), %r14\n"		\
	"	mov 16(%rdi), %r13\n	mov 24(%rdi), %r12\n"		\
	"	mov 32(%rdi), %rbp\n	mov 40(%rdi), %rbx\n"		\
	"	mov 48(%rdi), %r11\n	mov 56(%rdi), %r10\n"		\
	"	mov 64(%rdi), %r9\n	mov 72(%rdi), %r8\n"		\
	"	mov 80(%rdi), %rax\n	mov 88(%rdi), %rcx\n"		\
	"	mov 96(%rdi), %rdx\n	mov 104(%rdi), %rsi\n"

/*
 * rdi points to the registers: the frame. It may lie up to 24 bytes below rsp: a signal's
 * frame stays 128 bytes away, and of a copy of the registers only the words that are not
 * loaded are overwritten.
 */
#define RAW_FRAME							\
	"	mov 120(%rdi), %rax\n"		/* rsp */		\
	"	mov 112(%rdi), %rcx\n"		/* rdi */		\
	"	mov %rcx, -152(%rax)\n"				\
	"	mov 136(%rdi), %rcx\n"		/* rflags */		\
	"	mov %rcx, -144(%rax)\n"				\
	"	mov 128(%rdi), %rcx\n"		/* rip */		\
	"	mov %rcx, -136(%rax)\n"

#define RAW_TO_FRAME							\
	"	mov 120(%rdi), %rsp\n"					\
	"	lea -152(%rsp), %rsp\n"

#define RAW_LEAVE							\
	"	pop %rdi\n"						\
	"	popfq\n"						\
	"	ret $128\n"

/* As above, from the slot; busy = 0 comes when nothing is read from it any more. */
#define RAW_BACK_FROM_SLOT						\
	"	lea 192(%rdi), %rdi\n"					\
	RAW_FRAME							\
	RAW_LOAD_ALL_BUT_RDI						\
	RAW_TO_FRAME							\
	"	movl $0, -64(%rdi)\n"					\
	RAW_LEAVE

asm(
"	.pushsection .text\n"
"	.globl raw_landing, raw_landing_end\n"
"raw_landing:\n"
"	endbr64\n"
"	lock incq 8(%rdi)\n"
"	mov (%rdi), %rdi\n"
	RAW_BACK_FROM_SLOT
"raw_landing_end:\n"

"	.globl raw_landing_yield, raw_landing_yield_end\n"
"raw_landing_yield:\n"
"	endbr64\n"
"	lock incq 8(%rdi)\n"
"	mov (%rdi), %rdi\n"
"	mov $4, %ebx\n"
"1:	mov $24, %eax\n"		/* sched_yield */
"	syscall\n"
"	dec %ebx\n"
"	jnz 1b\n"
	RAW_BACK_FROM_SLOT
"raw_landing_yield_end:\n"

"	.globl raw_landing_call, raw_landing_call_end\n"
"raw_landing_call:\n"
"	endbr64\n"
"	lock incq 8(%rdi)\n"
"	mov %rdi, %rbx\n"
"	mov %rsi, %rdx\n"
"	mov (%rdi), %rbp\n"
"	sub $192, %rsp\n"		/* keeps rsp aligned to 16 */
"	lea 192(%rbp), %rsi\n"
"	mov %rsp, %rdi\n"
"	mov $24, %ecx\n"
"	rep movsq\n"
"	mov %rsp, %r12\n"
"	mov %rbx, %rdi\n"
"	mov %r12, %rsi\n"
"	movl $0, 128(%rbp)\n"
"	call *16(%rbx)\n"
"	mov %r12, %rdi\n"
	RAW_FRAME
	RAW_LOAD_ALL_BUT_RDI
	RAW_TO_FRAME
	RAW_LEAVE
"raw_landing_call_end:\n"
"	.popsection\n"
);

/*
 * Spins without a call until *stop, counting in *count, with the patterns
 * RAW_PATTERN(n) in the registers that the loop does not use. Returns how many
 * of them, and of the words in the red zone, were changed.
 */
long raw_spin(volatile uint64_t *count, volatile uint32_t *stop);
extern const char raw_spin_loop[], raw_spin_loop_end[];

#define RAW_PATTERN(n)	(0x1111111111111111ULL * (n))

#define RAW_CHECK(reg, n)						\
	"	movabs $0x1111111111111111*" #n ", %rsi\n"		\
	"	cmp %rsi, " reg "\n"					\
	"	setne %cl\n"						\
	"	movzbl %cl, %ecx\n"					\
	"	add %rcx, %rdi\n"

asm(
"	.pushsection .text\n"
"	.globl raw_spin, raw_spin_loop, raw_spin_loop_end\n"
"raw_spin:\n"
"	push %rbx\n	push %rbp\n	push %r12\n"
"	push %r13\n	push %r14\n	push %r15\n"
"	movabs $0x1111111111111111*1, %rax\n"
"	movabs $0x1111111111111111*2, %rbx\n"
"	movabs $0x1111111111111111*4, %rdx\n"
"	movabs $0x1111111111111111*5, %rbp\n"
"	movabs $0x1111111111111111*6, %r8\n"
"	movabs $0x1111111111111111*7, %r9\n"
"	movabs $0x1111111111111111*8, %r10\n"
"	movabs $0x1111111111111111*9, %r11\n"
"	movabs $0x1111111111111111*10, %r12\n"
"	movabs $0x1111111111111111*11, %r13\n"
"	movabs $0x1111111111111111*12, %r14\n"
"	movabs $0x1111111111111111*13, %r15\n"
"	mov %r12, -8(%rsp)\n"
"	mov %r13, -120(%rsp)\n"
"raw_spin_loop:\n"
"	incq (%rdi)\n"
"	cmpl $0, (%rsi)\n"
"	je raw_spin_loop\n"
"raw_spin_loop_end:\n"
"	xor %edi, %edi\n"
	RAW_CHECK("-8(%rsp)", 10)
	RAW_CHECK("-120(%rsp)", 11)
	RAW_CHECK("%rax", 1)
	RAW_CHECK("%rbx", 2)
	RAW_CHECK("%rdx", 4)
	RAW_CHECK("%rbp", 5)
	RAW_CHECK("%r8", 6)
	RAW_CHECK("%r9", 7)
	RAW_CHECK("%r10", 8)
	RAW_CHECK("%r11", 9)
	RAW_CHECK("%r12", 10)
	RAW_CHECK("%r13", 11)
	RAW_CHECK("%r14", 12)
	RAW_CHECK("%r15", 13)
"	mov %rdi, %rax\n"
"	pop %r15\n	pop %r14\n	pop %r13\n"
"	pop %r12\n	pop %rbp\n	pop %rbx\n"
"	ret\n"
"	.popsection\n"
);

static inline int raw_in_range(uint64_t ip, const char *begin, const char *end)
{
	return ip >= (uintptr_t)begin && ip < (uintptr_t)end;
}

static inline int raw_in_spin(uint64_t ip)
{
	return raw_in_range(ip, raw_spin_loop, raw_spin_loop_end);
}

/* Whether a record's registers are those of the loop above. */
static inline int raw_regs_are_spin(const struct upreempt_regs *r, const void *count,
				    const void *stop)
{
	return raw_in_spin(r->rip) && r->rax == RAW_PATTERN(1) && r->rbx == RAW_PATTERN(2) &&
	       r->rdx == RAW_PATTERN(4) && r->rbp == RAW_PATTERN(5) &&
	       r->r8 == RAW_PATTERN(6) && r->r9 == RAW_PATTERN(7) &&
	       r->r10 == RAW_PATTERN(8) && r->r11 == RAW_PATTERN(9) &&
	       r->r12 == RAW_PATTERN(10) && r->r13 == RAW_PATTERN(11) &&
	       r->r14 == RAW_PATTERN(12) && r->r15 == RAW_PATTERN(13) &&
	       r->rdi == (uintptr_t)count && r->rsi == (uintptr_t)stop;
}

#endif /* SELFTESTS_RAW_LANDING_H */
