// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Endless loops without calls. The assembly ones have no frame and keep their values
 * in registers only, so that a register lost by an interruption shows in what they
 * store: two sums that must agree.
 */
#include "loops.h"

#include <stddef.h>

void loop_empty(struct loop_state *state);
void loop_count(struct loop_state *state);
void loop_sse(struct loop_state *state);
void loop_avx(struct loop_state *state);

#define LOOP_BEGIN(name)			\
	".globl " name "\n"			\
	".type " name ", @function\n"		\
	".p2align 4\n"				\
	name ":\n"				\
	".cfi_startproc\n"			\
	"	endbr64\n"

#define LOOP_END(name)				\
	".cfi_endproc\n"			\
	".size " name ", . - " name "\n"

__asm__(
	".text\n"

	LOOP_BEGIN("loop_empty")
	"1:	jmp 1b\n"
	LOOP_END("loop_empty")

	/* rax and r11 count the same in two ways */
	LOOP_BEGIN("loop_count")
	"	xorl %eax, %eax\n"
	"	xorl %r11d, %r11d\n"
	"1:	incq %rax\n"
	"	subq $-1, %r11\n"
	"	movq %rax, 0(%rdi)\n"
	"	movq %r11, 8(%rdi)\n"
	"	jmp 1b\n"
	LOOP_END("loop_count")

	/* all lanes of xmm0 count with rax; xmm1 is -1 in each lane */
	LOOP_BEGIN("loop_sse")
	"	xorl %eax, %eax\n"
	"	pxor %xmm0, %xmm0\n"
	"	pcmpeqd %xmm1, %xmm1\n"
	"1:	psubq %xmm1, %xmm0\n"
	"	incq %rax\n"
	"	movdqu %xmm0, 16(%rdi)\n"
	"	movdqu %xmm0, 32(%rdi)\n"
	"	movq %rax, 0(%rdi)\n"
	"	jmp 1b\n"
	LOOP_END("loop_sse")

	LOOP_BEGIN("loop_avx")
	"	xorl %eax, %eax\n"
	"	vpxor %ymm0, %ymm0, %ymm0\n"
	"	vpcmpeqd %ymm1, %ymm1, %ymm1\n"
	"1:	vpsubq %ymm1, %ymm0, %ymm0\n"
	"	incq %rax\n"
	"	vmovdqu %ymm0, 16(%rdi)\n"
	"	movq %rax, 0(%rdi)\n"
	"	jmp 1b\n"
	LOOP_END("loop_avx")
);

#define WEYL 0x9e3779b97f4a7c15ULL

/* As a compiler makes it; the empty statement keeps both values in registers */
static __attribute__((noinline)) void loop_c(struct loop_state *state)
{
	uint64_t n = 0, x = 0;

	for (;;) {
		n++;
		x += WEYL;
		__asm__ __volatile__("" : "+r"(n), "+r"(x));
		state->count = n;
		state->mirror = x;
	}
}

/*
 * A loop may have been left between its stores, and is read while it runs, so one
 * sum may be one round ahead.
 */
static bool one_apart(uint64_t newer, uint64_t older)
{
	return newer - older <= 1;
}

static bool count_intact(const struct loop_state *s)
{
	return one_apart(s->count, s->mirror);
}

static bool vector_intact(const struct loop_state *s)
{
	/* the SSE loop may have stored one of its two halves */
	return s->lane[0] == s->lane[1] && s->lane[2] == s->lane[3] &&
	       one_apart(s->lane[0], s->lane[2]) && one_apart(s->lane[0], s->count);
}

static bool weyl_intact(const struct loop_state *s)
{
	return s->mirror == s->count * WEYL || s->mirror == (s->count - 1) * WEYL;
}

const struct loop *loops_all(void)
{
	static struct loop all[] = {
		{ "empty", loop_empty, false, NULL },
		{ "counting", loop_count, true, count_intact },
		{ "SSE", loop_sse, true, vector_intact },
		{ "C", loop_c, true, weyl_intact },
		{}
	};

	if (__builtin_cpu_supports("avx2")) {
		all[2].name = "AVX";
		all[2].run = loop_avx;
	}
	return all;
}

const struct loop *loops_counting(void)
{
	return &loops_all()[1];
}

__attribute__((target("avx2"))) static void trash_avx(void)
{
	__asm__ __volatile__("vpcmpeqd %%ymm0, %%ymm0, %%ymm0\n\t"
			     "vpabsd %%ymm0, %%ymm1\n\t"
			     "vpxor %%ymm2, %%ymm2, %%ymm2"
			     : : : "xmm0", "xmm1", "xmm2");
}

void loops_trash_vectors(void)
{
	if (__builtin_cpu_supports("avx2"))
		trash_avx();
	else
		__asm__ __volatile__("pcmpeqd %%xmm0, %%xmm0\n\tpxor %%xmm1, %%xmm1"
				     : : : "xmm0", "xmm1");
}
