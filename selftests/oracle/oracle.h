/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * The oracle: a loop without calls that has a known value in every register,
 * and knows after each round whether all of them are as they must be.
 *
 * A round loads the pattern `oracle_pat` into the machine, runs ORACLE_SPIN
 * turns of a block of instructions that touch neither flags nor memory, and
 * stores what it then finds into `oracle_got`, which oracle_round() compares.
 * CF PF AF ZF SF DF OF and ID are live in all of the block: it is closed by
 * `loop`, which leaves flags alone. rax depends on the PC, so that each PC of
 * the block has a pattern of its own (oracle_expect()).
 *
 * One thread of a program can be the oracle. A handler that changes the pattern
 * does so in the context and in oracle_pat, while the PC is in the block: then
 * a register that the landing forgets to load is seen although the handler,
 * being a C function, leaves it alone.
 */
#ifndef SELFTESTS_ORACLE_ORACLE_H
#define SELFTESTS_ORACLE_ORACLE_H

#include "../lib/ut.h"
#include <asm/prctl.h>
#include <stddef.h>

#define ORACLE_SPIN	192	/* turns of the block in a round; emulated, checking takes longer */
#define ORACLE_SPIN_EMULATED 2000
#define ORACLE_STEPS	16	/* steps of rax in a turn */

/* The order of a ModRM byte */
enum { O_RAX, O_RCX, O_RDX, O_RBX, O_RSP, O_RBP, O_RSI, O_RDI, O_R8 };

struct oracle_state {
	uint64_t gpr[16];
	uint64_t flags;
	uint64_t redzone[16];		/* rsp - 128 ... rsp - 8 */
	uint64_t k[8];
	uint64_t fs0, gs0;		/* the words at fs:0 and gs:0: their own addresses */
	uint64_t pad[5];
	uint8_t fx[512];		/* FXSAVE: x87, MXCSR, XMM */
	uint8_t zmm[32][64];
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct oracle_state, flags) == 128, "used by the loop");
_Static_assert(offsetof(struct oracle_state, redzone) == 136, "used by the loop");
_Static_assert(offsetof(struct oracle_state, k) == 264, "used by the loop");
_Static_assert(offsetof(struct oracle_state, fs0) == 328, "used by the loop");
_Static_assert(offsetof(struct oracle_state, fx) == 384, "used by the loop");
_Static_assert(offsetof(struct oracle_state, zmm) == 896, "used by the loop");

#define ORACLE_HIDDEN __attribute__((visibility("hidden"), used))

ORACLE_HIDDEN struct oracle_state oracle_pat, oracle_got;
ORACLE_HIDDEN uint64_t oracle_isa;		/* 0: SSE, 1: AVX, 2: AVX-512 */
ORACLE_HIDDEN uint64_t oracle_csp;		/* rsp of the C side of the loop */
ORACLE_HIDDEN uint64_t oracle_saved_gs;
static volatile int oracle_quit;
static volatile uint64_t oracle_rounds;		/* rounds that were right */
static volatile uint64_t oracle_bad;		/* registers that were not */
static void (*oracle_on_round)(void);		/* called before each round */

ORACLE_HIDDEN int oracle_round(void);
ORACLE_HIDDEN void oracle_loop(void);
/* A function that leaves garbage in all that it may, and in much that it may not */
ORACLE_HIDDEN void oracle_trash(void);
/* The block, its instructions of 4 bytes each, and its end */
extern const char oracle_begin[], oracle_end[];

__asm__(
"	.pushsection .text.oracle, \"ax\", @progbits\n"
"	.macro	o_each16 op:vararg\n"
"	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
"	\\op	\\n\n"
"	.endr\n"
"	.endm\n"
"	.macro	o_redzone_in n\n"
"	movq	oracle_pat+136+8*\\n(%rip), %rax\n"
"	movq	%rax, -128+8*\\n(%rsp)\n"
"	.endm\n"
"	.macro	o_redzone_out n\n"
"	movq	-128+8*\\n(%rsp), %rax\n"
"	movq	%rax, oracle_got+136+8*\\n(%rip)\n"
"	.endm\n"
"	.macro	o_ymm_in n\n"
"	vmovups	oracle_pat+896+64*\\n(%rip), %ymm\\n\n"
"	.endm\n"
"	.macro	o_ymm_out n\n"
"	vmovups	%ymm\\n, oracle_got+896+64*\\n(%rip)\n"
"	.endm\n"
"	.macro	o_zmm_in n\n"
"	vmovups	oracle_pat+896+64*\\n(%rip), %zmm\\n\n"
"	.endm\n"
"	.macro	o_zmm_out n\n"
"	vmovups	%zmm\\n, oracle_got+896+64*\\n(%rip)\n"
"	.endm\n"
"	.macro	o_ymm_trash n\n"
"	vpcmpeqd %ymm\\n, %ymm\\n, %ymm\\n\n"
"	.endm\n"
"	.macro	o_xmm_trash n\n"
"	pcmpeqd	%xmm\\n, %xmm\\n\n"
"	.endm\n"
"	.globl	oracle_loop, oracle_trash, oracle_begin, oracle_end\n"
"	.hidden	oracle_loop, oracle_trash, oracle_begin, oracle_end\n"
"	.type	oracle_loop, @function\n"
"oracle_loop:\n"
"	endbr64\n"
"	pushq	%rbp\n"
"	pushq	%rbx\n"
"	pushq	%r12\n"
"	pushq	%r13\n"
"	pushq	%r14\n"
"	pushq	%r15\n"
"	subq	$8, %rsp\n"
"	movq	%rsp, oracle_csp(%rip)\n"
"1:	movq	oracle_pat+32(%rip), %rsp\n"
"	fxrstor64 oracle_pat+384(%rip)\n"
"	cmpq	$1, oracle_isa(%rip)\n"
"	jb	3f\n"
"	ja	2f\n"
"	o_each16 o_ymm_in\n"
"	jmp	3f\n"
"2:	o_each16 o_zmm_in\n"
"	.irp	n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n"
"	o_zmm_in \\n\n"
"	.endr\n"
"	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7\n"
"	kmovq	oracle_pat+264+8*\\n(%rip), %k\\n\n"
"	.endr\n"
"3:	pushq	oracle_pat+128(%rip)\n"
"	popfq\n"
"	o_each16 o_redzone_in\n"
"	movq	oracle_pat+0(%rip), %rax\n"
"	movq	oracle_pat+8(%rip), %rcx\n"
"	movq	oracle_pat+16(%rip), %rdx\n"
"	movq	oracle_pat+24(%rip), %rbx\n"
"	movq	oracle_pat+40(%rip), %rbp\n"
"	movq	oracle_pat+48(%rip), %rsi\n"
"	movq	oracle_pat+56(%rip), %rdi\n"
"	.irp	n, 8, 9, 10, 11, 12, 13, 14, 15\n"
"	movq	oracle_pat+8*\\n(%rip), %r\\n\n"
"	.endr\n"
"oracle_begin:\n"
"	.rept	16\n"
"	leaq	1(%rax), %rax\n"
"	.endr\n"
"	leaq	-16(%rax), %rax\n"
"	loop	oracle_begin\n"
"oracle_end:\n"
"	movq	%rax, oracle_got+0(%rip)\n"
"	movq	%rcx, oracle_got+8(%rip)\n"
"	movq	%rdx, oracle_got+16(%rip)\n"
"	movq	%rbx, oracle_got+24(%rip)\n"
"	movq	%rsp, oracle_got+32(%rip)\n"
"	movq	%rbp, oracle_got+40(%rip)\n"
"	movq	%rsi, oracle_got+48(%rip)\n"
"	movq	%rdi, oracle_got+56(%rip)\n"
"	.irp	n, 8, 9, 10, 11, 12, 13, 14, 15\n"
"	movq	%r\\n, oracle_got+8*\\n(%rip)\n"
"	.endr\n"
"	o_each16 o_redzone_out\n"
"	fxsave64 oracle_got+384(%rip)\n"
"	pushfq\n"
"	popq	oracle_got+128(%rip)\n"
"	cld\n"
"	movq	%fs:0, %rax\n"
"	movq	%rax, oracle_got+328(%rip)\n"
"	movq	%gs:0, %rax\n"
"	movq	%rax, oracle_got+336(%rip)\n"
"	cmpq	$1, oracle_isa(%rip)\n"
"	jb	3f\n"
"	ja	2f\n"
"	o_each16 o_ymm_out\n"
"	vzeroupper\n"
"	jmp	3f\n"
"2:	o_each16 o_zmm_out\n"
"	.irp	n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n"
"	o_zmm_out \\n\n"
"	.endr\n"
"	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7\n"
"	kmovq	%k\\n, oracle_got+264+8*\\n(%rip)\n"
"	.endr\n"
"	vzeroupper\n"
"3:	movq	oracle_csp(%rip), %rsp\n"
"	fninit\n"
"	pushq	$0x1f80\n"
"	ldmxcsr	(%rsp)\n"
"	movq	$0x202, (%rsp)\n"
"	popfq\n"
"	call	oracle_round\n"
"	testl	%eax, %eax\n"
"	jz	1b\n"
"	addq	$8, %rsp\n"
"	popq	%r15\n"
"	popq	%r14\n"
"	popq	%r13\n"
"	popq	%r12\n"
"	popq	%rbx\n"
"	popq	%rbp\n"
"	ret\n"
"	.size	oracle_loop, . - oracle_loop\n"
"	.type	oracle_trash, @function\n"
"oracle_trash:\n"
"	endbr64\n"
"	pushq	%rbp\n"
"	pushq	%rbx\n"
"	pushq	%r12\n"
"	pushq	%r13\n"
"	pushq	%r14\n"
"	pushq	%r15\n"
"	fninit\n"
"	.rept	8\n"
"	fldpi\n"
"	.endr\n"
"	pushq	$0x5f80\n"		/* all masked, another rounding mode */
"	ldmxcsr	(%rsp)\n"
"	movq	$0x0c7f, (%rsp)\n"
"	fldcw	(%rsp)\n"
"	cmpq	$1, oracle_isa(%rip)\n"
"	ja	2f\n"
"	je	1f\n"
"	o_each16 o_xmm_trash\n"
"	jmp	3f\n"
"1:	o_each16 o_ymm_trash\n"
"	jmp	3f\n"
"2:	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
"	vpternlogd $0xff, %zmm\\n, %zmm\\n, %zmm\\n\n"
"	.endr\n"
"	.irp	n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n"
"	vpternlogd $0xff, %zmm\\n, %zmm\\n, %zmm\\n\n"
"	.endr\n"
"	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7\n"
"	kxnorq	%k\\n, %k\\n, %k\\n\n"
"	.endr\n"
"3:	movabsq	$0xdeadbeefcafef00d, %rax\n"
"	.irp	r, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15\n"
"	movq	%rax, %\\r\n"
"	.endr\n"
"	movq	$0x202, (%rsp)\n"	/* every flag of the pattern the other way round */
"	popfq\n"
"	popq	%r15\n"
"	popq	%r14\n"
"	popq	%r13\n"
"	popq	%r12\n"
"	popq	%rbx\n"
"	popq	%rbp\n"
"	ret\n"
"	.size	oracle_trash, . - oracle_trash\n"
"	.popsection\n");

/* ---- patterns ------------------------------------------------------------ */

#define ORACLE_FLAGS	0x200ed7ULL	/* ID OF DF SF ZF AF PF CF, and IF */
#define ORACLE_LIVE	0x200cd5ULL	/* those that a handler may turn */

static inline void oracle_fill(void *to, size_t n, uint32_t seed)
{
	uint8_t *p = to;

	while (n--) {
		seed = seed * 1664525 + 1013904223;
		*p++ = seed >> 24;
	}
}

/* x87: eight normal numbers, TOP 5, control word and MXCSR not the default ones */
static inline void oracle_fill_fx(uint8_t *fx, uint32_t seed)
{
	bool odd = seed & 1;
	uint16_t fcw = odd ? 0x0e7f : 0x077f, fsw = odd ? 0x6d00 : 0x2900;
	uint32_t mxcsr = odd ? 0xffd5 : 0x3faa;

	memset(fx, 0, 512);
	memcpy(fx, &fcw, 2);
	memcpy(fx + 2, &fsw, 2);
	fx[4] = 0xff;
	memcpy(fx + 24, &mxcsr, 4);
	for (int i = 0; i < 8; i++) {
		oracle_fill(fx + 32 + 16 * i, 8, seed + i);
		fx[32 + 16 * i + 7] |= 0x80;		/* the integer bit */
		fx[32 + 16 * i + 8] = 0x10 + i;
		fx[32 + 16 * i + 9] = odd ? 0xc0 : 0x40;
	}
	oracle_fill(fx + 160, 256, seed + 9);
}

/* All of a pattern but rcx, rsp, and what comes from fs and gs */
static inline void oracle_fill_state(struct oracle_state *p, uint32_t seed)
{
	uint64_t rcx = p->gpr[O_RCX], rsp = p->gpr[O_RSP];

	oracle_fill(p->gpr, sizeof(p->gpr), seed);
	p->gpr[O_RCX] = rcx;
	p->gpr[O_RSP] = rsp;
	p->flags = seed & 1 ? ORACLE_FLAGS : ORACLE_FLAGS ^ (seed & ORACLE_LIVE);
	oracle_fill(p->redzone, sizeof(p->redzone), seed + 1);
	oracle_fill(p->k, sizeof(p->k), seed + 2);
	oracle_fill_fx(p->fx, seed);
	oracle_fill(p->zmm, sizeof(p->zmm), seed + 3);
	for (int i = 0; i < 16; i++)
		memcpy(p->zmm[i], p->fx + 160 + 16 * i, 16);
}

static inline bool oracle_has(uint64_t pc)
{
	return pc >= (uintptr_t)oracle_begin && pc < (uintptr_t)oracle_end;
}

/* rax at that PC of the block: it rises by one with each instruction but the last two */
static inline uint64_t oracle_expect_rax(uint64_t pc)
{
	uint64_t step = (pc - (uintptr_t)oracle_begin) / 4;

	return oracle_pat.gpr[O_RAX] + (step <= ORACLE_STEPS ? step : 0);
}

static inline void oracle_complain(const char *who, const char *what, uint64_t want, uint64_t got)
{
	if (__atomic_fetch_add(&oracle_bad, 1, __ATOMIC_RELAXED) < 8) {
		printf("# %s %s: expected %#llx, is %#llx\n", who, what,
		       (unsigned long long)want, (unsigned long long)got);
		fflush(stdout);
	}
}

#define ORACLE_EQ(who, what, want, got) do {				\
	if ((want) != (got))						\
		oracle_complain(who, what, want, got);			\
} while (0)

static inline void oracle_same(const char *who, const char *what, const void *want,
			       const void *got, size_t n)
{
	if (!memcmp(want, got, n))
		return;
	for (size_t i = 0; i < n; i++) {
		uint8_t w = ((const uint8_t *)want)[i], g = ((const uint8_t *)got)[i];

		if (w != g) {
			printf("# byte %zu:\n", i);
			oracle_complain(who, what, w, g);
			return;
		}
	}
}

/* FXSAVE areas, but for the address and opcode of the last x87 instruction */
static inline void oracle_same_fx(const char *who, const uint8_t *want, const uint8_t *got)
{
	oracle_same(who, "x87 control", want, got, 5);
	oracle_same(who, "mxcsr", want + 24, got + 24, 4);
	for (int i = 0; i < 8; i++)
		oracle_same(who, "st", want + 32 + 16 * i, got + 32 + 16 * i, 10);
	oracle_same(who, "xmm", want + 160, got + 160, 256);
}

/* The registers of a record that names a PC of the block */
static inline void oracle_check_regs(const char *who, const struct upreempt_regs *r)
{
	const uint64_t *p = oracle_pat.gpr;

	ORACLE_EQ(who, "PC in an instruction", 0, (r->rip - (uintptr_t)oracle_begin) % 4);
	ORACLE_EQ(who, "rax", oracle_expect_rax(r->rip), r->rax);
	if (!r->rcx || r->rcx > p[O_RCX])
		oracle_complain(who, "rcx", p[O_RCX], r->rcx);
	ORACLE_EQ(who, "rdx", p[O_RDX], r->rdx);
	ORACLE_EQ(who, "rbx", p[O_RBX], r->rbx);
	ORACLE_EQ(who, "rsp", p[O_RSP], r->rsp);
	ORACLE_EQ(who, "rbp", p[O_RBP], r->rbp);
	ORACLE_EQ(who, "rsi", p[O_RSI], r->rsi);
	ORACLE_EQ(who, "rdi", p[O_RDI], r->rdi);
	ORACLE_EQ(who, "r8", p[8], r->r8);
	ORACLE_EQ(who, "r9", p[9], r->r9);
	ORACLE_EQ(who, "r10", p[10], r->r10);
	ORACLE_EQ(who, "r11", p[11], r->r11);
	ORACLE_EQ(who, "r12", p[12], r->r12);
	ORACLE_EQ(who, "r13", p[13], r->r13);
	ORACLE_EQ(who, "r14", p[14], r->r14);
	ORACLE_EQ(who, "r15", p[15], r->r15);
	ORACLE_EQ(who, "rflags", oracle_pat.flags, r->rflags & ~0x10000ULL);
	ORACLE_EQ(who, "fs_base", oracle_pat.fs0, r->fs_base);
	ORACLE_EQ(who, "gs_base", oracle_pat.gs0, r->gs_base);
}

/* A component of extended state; one that is not there was not in its initial state */
static inline void oracle_check_xstate(struct upreempt_context *ctx)
{
	size_t size;
	uint8_t *fx = upreempt_context_xstate(ctx, 1, &size);
	uint8_t *p;

	if (!fx || size < 416) {
		oracle_complain("context", "lacks FXSAVE area, size", 512, fx ? size : 0);
		return;
	}
	oracle_same_fx("context", oracle_pat.fx, fx);
	if (oracle_isa < 1)
		return;
	p = upreempt_context_xstate(ctx, 2, &size);
	for (int i = 0; p && i < 16; i++)
		oracle_same("context", "ymm", oracle_pat.zmm[i] + 16, p + 16 * i, 16);
	if (!p)
		oracle_complain("context", "lacks AVX component", 1, 0);
	if (oracle_isa < 2)
		return;
	p = upreempt_context_xstate(ctx, 5, &size);
	if (p)
		oracle_same("context", "k", oracle_pat.k, p, 64);
	else
		oracle_complain("context", "lacks mask registers", 1, 0);
	p = upreempt_context_xstate(ctx, 6, &size);
	for (int i = 0; p && i < 16; i++)
		oracle_same("context", "zmm", oracle_pat.zmm[i] + 32, p + 32 * i, 32);
	if (!p)
		oracle_complain("context", "lacks ZMM component", 1, 0);
	p = upreempt_context_xstate(ctx, 7, &size);
	if (p)
		oracle_same("context", "zmm16", oracle_pat.zmm[16], p, 1024);
	else
		oracle_complain("context", "lacks upper ZMM component", 1, 0);
}

/*
 * Another pattern in the context of an interrupted thread and in oracle_pat.
 * The red zone is memory: it is rewritten where it stands.
 */
static inline void oracle_turn(struct upreempt_context *ctx, uint32_t seed)
{
	struct upreempt_regs *r = upreempt_context_regs(ctx);
	struct oracle_state *o = &oracle_pat;
	uint8_t *p;

	oracle_fill_state(o, seed);
	r->rax = oracle_expect_rax(r->rip);
	r->rdx = o->gpr[O_RDX];
	r->rbx = o->gpr[O_RBX];
	r->rbp = o->gpr[O_RBP];
	r->rsi = o->gpr[O_RSI];
	r->rdi = o->gpr[O_RDI];
	r->r8 = o->gpr[8];
	r->r9 = o->gpr[9];
	r->r10 = o->gpr[10];
	r->r11 = o->gpr[11];
	r->r12 = o->gpr[12];
	r->r13 = o->gpr[13];
	r->r14 = o->gpr[14];
	r->r15 = o->gpr[15];
	r->rflags = o->flags;
	memcpy((void *)(uintptr_t)(r->rsp - 128), o->redzone, 128);
	p = upreempt_context_xstate(ctx, 1, NULL);
	if (p)
		memcpy(p, o->fx, 416);
	p = upreempt_context_xstate(ctx, 2, NULL);
	for (int i = 0; p && i < 16; i++)
		memcpy(p + 16 * i, o->zmm[i] + 16, 16);
	if (oracle_isa < 2)
		return;
	p = upreempt_context_xstate(ctx, 5, NULL);
	if (p)
		memcpy(p, o->k, 64);
	p = upreempt_context_xstate(ctx, 6, NULL);
	for (int i = 0; p && i < 16; i++)
		memcpy(p + 32 * i, o->zmm[i] + 32, 32);
	p = upreempt_context_xstate(ctx, 7, NULL);
	if (p)
		memcpy(p, o->zmm[16], 1024);
}

/* Called after each round, with the machine in its usual state: not 0 ends the loop */
ORACLE_HIDDEN int oracle_round(void)
{
	static const char *const names[16] = {
		"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
	};
	const struct oracle_state *p = &oracle_pat, *g = &oracle_got;
	uint64_t bad = oracle_bad;

	for (int i = 0; i < 16; i++)
		ORACLE_EQ("loop", names[i], i == O_RCX ? 0 : p->gpr[i], g->gpr[i]);
	ORACLE_EQ("loop", "rflags", p->flags, g->flags);
	ORACLE_EQ("loop", "fs:0", p->fs0, g->fs0);
	ORACLE_EQ("loop", "gs:0", p->gs0, g->gs0);
	oracle_same("loop", "redzone", p->redzone, g->redzone, sizeof(p->redzone));
	oracle_same_fx("loop", p->fx, g->fx);
	for (int i = 0; oracle_isa == 1 && i < 16; i++)
		oracle_same("loop", "ymm", p->zmm[i], g->zmm[i], 32);
	if (oracle_isa == 2) {
		oracle_same("loop", "zmm", p->zmm, g->zmm, sizeof(p->zmm));
		oracle_same("loop", "k", p->k, g->k, sizeof(p->k));
	}
	if (bad == oracle_bad)
		oracle_rounds++;
	if (oracle_on_round)
		oracle_on_round();
	return oracle_quit || oracle_bad > 1000;
}

/* By the thread that is to be the oracle, before oracle_loop(). sp: where its rsp shall be */
static inline void oracle_setup(void *sp, uint32_t seed)
{
	static uint64_t gs_words[8];
	uint64_t fs;

	oracle_isa = __builtin_cpu_supports("avx512bw") ? 2 : !!__builtin_cpu_supports("avx2");
	oracle_pat.gpr[O_RCX] = ut_emulated() ? ORACLE_SPIN_EMULATED : ORACLE_SPIN;
	oracle_pat.gpr[O_RSP] = (uintptr_t)sp;
	oracle_fill_state(&oracle_pat, seed);
	__asm__ ("movq %%fs:0, %0" : "=r"(fs));
	oracle_pat.fs0 = fs;
	syscall(SYS_arch_prctl, ARCH_GET_GS, &oracle_saved_gs);
	syscall(SYS_arch_prctl, ARCH_SET_GS, gs_words);
	gs_words[0] = (uintptr_t)gs_words;
	oracle_pat.gs0 = gs_words[0];
	oracle_quit = 0;
}

static inline void oracle_done(void)
{
	syscall(SYS_arch_prctl, ARCH_SET_GS, oracle_saved_gs);
}

#endif
