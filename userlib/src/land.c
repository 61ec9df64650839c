// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The landing's C part. Runs inside the interrupted frame: only general
 * registers (with NO_XSAVE, the vector registers are the program's), no calls
 * but to the handler and to its own kind.
 */
#include "backend.h"
#include "arch/x86_64/frame.h"
#include <linux/futex.h>
#include <sys/syscall.h>

#define SAME(a, b) _Static_assert((a) == (b), #a)
#define AT(type, field, off) SAME(offsetof(struct type, field), off)

AT(upreempt_thread, slot, T_SLOT);
AT(upreempt_thread, flags, T_FLAGS);
AT(upreempt_thread, kflags, T_KFLAGS);
AT(upreempt_thread, fd, T_FD);
AT(upreempt_thread, index, T_INDEX);
AT(upreempt_slot, pending, SLOT_PENDING);
AT(upreempt_slot, busy, SLOT_BUSY);
AT(upreempt_slot, cookie, SLOT_COOKIE);
AT(upreempt_slot, regs, SLOT_REGS);
AT(upreempt_regs, r15, R_R15);
AT(upreempt_regs, r14, R_R14);
AT(upreempt_regs, r13, R_R13);
AT(upreempt_regs, r12, R_R12);
AT(upreempt_regs, rbp, R_RBP);
AT(upreempt_regs, rbx, R_RBX);
AT(upreempt_regs, r11, R_R11);
AT(upreempt_regs, r10, R_R10);
AT(upreempt_regs, r9, R_R9);
AT(upreempt_regs, r8, R_R8);
AT(upreempt_regs, rax, R_RAX);
AT(upreempt_regs, rcx, R_RCX);
AT(upreempt_regs, rdx, R_RDX);
AT(upreempt_regs, rsi, R_RSI);
AT(upreempt_regs, rdi, R_RDI);
AT(upreempt_regs, rsp, R_RSP);
AT(upreempt_regs, rip, R_RIP);
AT(upreempt_regs, rflags, R_RFLAGS);
AT(upreempt_regs, reserved, R_COUNT * 8);
SAME(sizeof(struct upreempt_regs), R_WORDS * 8);
AT(upreempt_context, resume.size, CTX_SIZE);
AT(upreempt_context, resume.slot, CTX_INDEX);
AT(upreempt_context, resume.regs, CTX_REGS);
AT(upreempt_context, seq, CTX_SEQ);
AT(upreempt_context, cookie, CTX_COOKIE);
AT(upreempt_context, thread, CTX_THREAD);
AT(upreempt_context, xsave, CTX_XSAVE);
AT(upreempt_context, xmask, CTX_XMASK);
AT(upreempt_context, xmode, CTX_XMODE);
AT(upreempt_context, prev, CTX_PREV);
AT(upreempt_context, target, CTX_TARGET);
AT(upreempt_context, fd, CTX_FD);
AT(upreempt_context, kflags, CTX_KFLAGS);
AT(upreempt_context, tf, CTX_TF);
SAME(sizeof(struct upreempt_context), CTX_BYTES);
SAME(sizeof(struct upreempt_resume), RESUME_BYTES);
SAME(FRAME_BYTES % 16, 0);
AT(upreempt_xstate_info, mode, XS_MODE);
AT(upreempt_xstate_info, avx, XS_AVX);
AT(upreempt_xstate_info, mask, XS_MASK);
AT(upreempt_xstate_info, size, XS_SIZE);
AT(upreempt_xstate_info, size_all, XS_SIZE_ALL);
AT(upreempt_xstate_info, xgetbv1, XS_XGETBV1);
SAME(UPREEMPT_IOC_RESUME, IOC_RESUME);
SAME(UPREEMPT_THREAD_NO_XSAVE, THREAD_NO_XSAVE);

#ifdef __clang__
#define KEPT __attribute__((noinline, visibility("default")))
#else
#define KEPT __attribute__((noipa, visibility("default")))
#endif

/* Two places for uprobes: a request's landing, and the end of its handler */
KEPT void upreempt_trace_landing(uint64_t seq);
KEPT void upreempt_trace_resume(uint64_t seq);
UPREEMPT_HIDDEN void upreempt_landing_run(struct upreempt_context *ctx);

void upreempt_trace_landing(uint64_t seq)
{
	__asm__ __volatile__("" : : "r"(seq));
}

void upreempt_trace_resume(uint64_t seq)
{
	__asm__ __volatile__("" : : "r"(seq) : "memory");
}

/* Also when an exception leaves the handler */
static void leave(struct upreempt_context **ctx)
{
	(*ctx)->thread->top = (*ctx)->prev;
	upreempt_trace_resume((*ctx)->seq);
}

/* See handshake.c. One that comes too late finds nothing to do. */
static void handshake(struct upreempt_thread *t, const struct upreempt_context *ctx)
{
	struct upreempt_snapshot s = {
		.size = sizeof(s), .outcome = UPREEMPT_LANDED, .frame = UPREEMPT_FRAME_USER,
		.sp = ctx->resume.regs.rsp, .hi = t->stack_hi, .regs = ctx->resume.regs,
	};

	if (!upreempt_handshake_claim(t))
		return;
	t->hs.fn(t, &s, t->hs.arg);
	__atomic_store_n(&t->hs.state, HS_IDLE, __ATOMIC_RELEASE);
	upreempt_syscall(SYS_futex, (long)&t->hs.state, FUTEX_WAKE | FUTEX_PRIVATE_FLAG,
			 INT32_MAX, 0, 0, 0);
}

void upreempt_landing_run(struct upreempt_context *ctx)
{
	struct upreempt_context *guard __attribute__((cleanup(leave))) = ctx;
	struct upreempt_thread *t = guard->thread;

	ctx->prev = t->top;
	t->top = ctx;
	upreempt_trace_landing(ctx->seq);
	if (ctx->cookie == upreempt_handshake_cookie(t))
		handshake(t, ctx);
	else if (!__atomic_load_n(&t->muted, __ATOMIC_RELAXED))
		t->handler(ctx, t->arg);
}
