/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * The landing: where a redirected thread goes, and the way back.
 *
 *	entered with	rdi = struct upreempt_thread, rsi = seq,
 *			rsp = (interrupted rsp - 128) & ~15,
 *			slot.regs = all registers, slot.busy = 1
 *
 *	1. copy slot.regs to a context on this stack; slot.busy = 0
 *	2. XSAVEC what is in use below it; default floating point environment
 *	3. upreempt_landing_run(context)
 *	4. XRSTOR
 *	5. { rflags, rip } below the red zone of the target stack;
 *	   all registers; rsp; popfq; ret $128
 *
 * Step 5 through the kernel (UPREEMPT_IOC_RESUME) when the thread asks for it
 * or when a request waits.
 *
 * A thread whose PC is in [upreempt_landing, upreempt_landing_end) is not
 * redirected. Between the two labels nothing touches memory above rsp (the
 * user resume's two words lie above it), nothing uses a vector register, and
 * the unwind information is exact at each instruction: the interrupted
 * registers are found through rdi and the slot in step 1, through rbp up to
 * step 5, through rsp while registers are loaded.
 */
#include "frame.h"

#define DW_breg_rdi	0x75
#define DW_breg_rbp	0x76
#define DW_breg_rsp	0x77
#define DW_deref	0x06
#define DW_plus_uconst	0x23
#define DW_CFA_def_cfa_expression	0x0f
#define DW_CFA_expression		0x10
#define DW_CFA_val_offset		0x14

/* one register's place: base register + offset, in the context */
.macro cfi_in_frame dwreg, base, off
	.cfi_escape DW_CFA_expression, \dwreg, 3, \base, \
		((CTX_REGS + \off) & 0x7f) | 0x80, (CTX_REGS + \off) >> 7
.endm

/* the same in the slot that rdi->slot points to */
.macro cfi_in_slot dwreg, base, off
	.cfi_escape DW_CFA_expression, \dwreg, 6, DW_breg_rdi, T_SLOT, DW_deref, \
		DW_plus_uconst, ((SLOT_REGS + \off) & 0x7f) | 0x80, (SLOT_REGS + \off) >> 7
.endm

.macro cfi_all how, base
	\how	0, \base, R_RAX
	\how	1, \base, R_RDX
	\how	2, \base, R_RCX
	\how	3, \base, R_RBX
	\how	4, \base, R_RSI
	\how	5, \base, R_RDI
	\how	6, \base, R_RBP
	\how	7, \base, R_RSP
	\how	8, \base, R_R8
	\how	9, \base, R_R9
	\how	10, \base, R_R10
	\how	11, \base, R_R11
	\how	12, \base, R_R12
	\how	13, \base, R_R13
	\how	14, \base, R_R14
	\how	15, \base, R_R15
	\how	16, \base, R_RIP
.endm

/* CFA = the interrupted rsp */
.macro cfi_slot_based
	.cfi_escape DW_CFA_def_cfa_expression, 7, DW_breg_rdi, T_SLOT, DW_deref, \
		DW_plus_uconst, ((SLOT_REGS + R_RSP) & 0x7f) | 0x80, \
		(SLOT_REGS + R_RSP) >> 7, DW_deref
	cfi_all cfi_in_slot, 0
.endm

.macro cfi_frame_based base
	.cfi_escape DW_CFA_def_cfa_expression, 4, \base, \
		((CTX_REGS + R_RSP) & 0x7f) | 0x80, (CTX_REGS + R_RSP) >> 7, DW_deref
	cfi_all cfi_in_frame, \base
.endm

/* registers hold the program's values again; { rflags, rip } are at rsp */
.macro cfi_loaded
	.cfi_def_cfa 7, RED_ZONE + 16
	.irp	reg, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15
	.cfi_same_value \reg
	.endr
	.cfi_escape DW_CFA_val_offset, 7, 0	/* rsp = CFA */
	.cfi_offset 16, -(RED_ZONE + 8)
.endm

	.section .text.upreempt_landing, "ax", @progbits
	.balign	64
	.globl	upreempt_landing
	.hidden	upreempt_landing
	.type	upreempt_landing, @function
	.globl	upreempt_landing_end
	.hidden	upreempt_landing_end
upreempt_landing:
	.cfi_startproc simple
	.cfi_signal_frame
	cfi_slot_based
	endbr64
	leaq	-FRAME_BYTES(%rsp), %rsp
	movq	%rsp, %rbp
	movq	T_SLOT(%rdi), %r8
	.set	word, 0
	.rept	R_COUNT
	movq	(SLOT_REGS + word)(%r8), %r9
	movq	%r9, (CTX_REGS + word)(%rbp)
	.set	word, word + 8
	.endr
	.rept	R_WORDS - R_COUNT
	movq	$0, (CTX_REGS + word)(%rbp)
	.set	word, word + 8
	.endr
	movl	$RESUME_BYTES, CTX_SIZE(%rbp)
	movl	T_INDEX(%rdi), %eax
	movl	%eax, CTX_INDEX(%rbp)
	movq	SLOT_COOKIE(%r8), %rax
	movq	%rax, CTX_COOKIE(%rbp)
	movq	%rsi, CTX_SEQ(%rbp)
	movq	%rdi, CTX_THREAD(%rbp)
	movl	T_FD(%rdi), %eax
	movl	%eax, CTX_FD(%rbp)
	movl	T_KFLAGS(%rdi), %eax
	movl	%eax, CTX_KFLAGS(%rbp)
	movq	(CTX_REGS + R_RFLAGS)(%rbp), %rax
	andl	$FLAG_TF, %eax
	movq	%rax, CTX_TF(%rbp)
	movq	$0, CTX_XSAVE(%rbp)
	cfi_frame_based DW_breg_rbp
	movl	$0, SLOT_BUSY(%r8)		/* the slot may be used again */

	/* ---- extended state ------------------------------------------- */
	testl	$THREAD_NO_XSAVE, T_FLAGS(%rdi)
	jnz	.Lrun
	movl	upreempt_xs+XS_MODE(%rip), %r8d
	movl	%r8d, CTX_XMODE(%rbp)
	movl	$512, %r9d
	testl	%r8d, %r8d
	jz	.Lroom
	movq	upreempt_xs+XS_MASK(%rip), %r10
	movq	%r10, CTX_XMASK(%rbp)
	movl	upreempt_xs+XS_SIZE_ALL(%rip), %r9d
	movq	%r10, %r11
	cmpl	$0, upreempt_xs+XS_XGETBV1(%rip)
	je	.Lroom
	movl	$1, %ecx
	xgetbv					/* edx:eax: what is in use */
	shlq	$32, %rdx
	movl	%eax, %r11d
	orq	%rdx, %r11
	andq	%r10, %r11
	movl	$XS_SIZE_AVX, %ecx
	testq	$~XS_LOW, %r11
	cmovzl	%ecx, %r9d
	jz	.Lmask
	testl	$XS_AMX, %r11d
	cmovzl	upreempt_xs+XS_SIZE(%rip), %r9d
.Lmask:
	orq	$XS_LOW, %r11
.Lroom:
	subq	%r9, %rsp
	andq	$-64, %rsp
	movq	%rsp, CTX_XSAVE(%rbp)
	testl	%r8d, %r8d
	jz	.Lfxsave
	.irp	off, 512, 520, 528, 536, 544, 552, 560, 568
	movq	$0, \off(%rsp)			/* the header: XRSTOR checks it */
	.endr
	movl	%r11d, %eax
	movq	%r11, %rdx
	shrq	$32, %rdx
	cmpl	$XS_MODE_XSAVEC, %r8d
	jne	.Lxsave
	xsavec64 (%rsp)
	jmp	.Lclean
.Lxsave:
	xsave64	(%rsp)
	jmp	.Lclean
.Lfxsave:
	fxsave64 (%rsp)
.Lclean:
	fninit
	ldmxcsr	.Lmxcsr(%rip)
	cmpl	$0, upreempt_xs+XS_AVX(%rip)
	je	.Lrun
	vzeroupper

.Lrun:
	movq	%rbp, %rdi
	call	upreempt_landing_run

	movq	CTX_XSAVE(%rbp), %rcx
	testq	%rcx, %rcx
	jz	.Lresume
	cmpl	$XS_MODE_FXSAVE, CTX_XMODE(%rbp)
	je	.Lfxrstor
	movl	CTX_XMASK(%rbp), %eax
	movl	CTX_XMASK+4(%rbp), %edx
	xrstor64 (%rcx)
	jmp	.Lresume
.Lfxrstor:
	fxrstor64 (%rcx)

	/* ---- resume ----------------------------------------------------- */
.Lresume:
	movq	%rbp, %rsp
	xorl	%r12d, %r12d			/* r12: the return words are written */
	testl	$KRESUME_ALWAYS, CTX_KFLAGS(%rbp)
	jnz	.Lkernel
.Luser:
	movq	(CTX_REGS + R_RSP)(%rbp), %rax
	subq	$(RED_ZONE + 16), %rax		/* rax: where the return words go */
	leaq	CTX_BYTES(%rbp), %rcx
	cmpq	%rcx, %rax
	jae	.Lplaced
	/*
	 * A handler moved rsp down, on this stack or to another one. The
	 * context goes to below the return words, rsp first: a signal frame
	 * must find neither above it.
	 */
	movq	%rbp, %rdx
	cmpq	%rbp, %rax
	cmovbq	%rax, %rdx
	subq	$(CTX_BYTES + 16), %rdx
	andq	$-16, %rdx
	movq	%rdx, %rsp
	.set	word, 0
	.rept	CTX_BYTES / 8
	movq	word(%rbp), %rcx
	movq	%rcx, word(%rdx)
	.set	word, word + 8
	.endr
	movq	%rdx, %rbp
.Lplaced:
	movq	(CTX_REGS + R_RFLAGS)(%rbp), %rcx
	movl	$FLAG_USER, %edx
	orl	CTX_TF(%rbp), %edx		/* a trap flag only if it was set */
	andl	%edx, %ecx
	orl	$0x202, %ecx
	movq	%rcx, (%rax)
	movq	(CTX_REGS + R_RIP)(%rbp), %rcx
	movq	%rcx, 8(%rax)
	movq	%rax, CTX_TARGET(%rbp)
	movl	$1, %r12d

	testl	$KRESUME_CAN, CTX_KFLAGS(%rbp)
	jz	.Lload
	movq	upreempt_slot_self@gottpoff(%rip), %rax
	movq	%fs:(%rax), %rax
	cmpl	$0, SLOT_PENDING(%rax)
	jne	.Lkernel

.Lload:
	movq	%rbp, %rsp
	cfi_frame_based DW_breg_rsp
	movq	(CTX_REGS + R_R15)(%rsp), %r15
	movq	(CTX_REGS + R_R14)(%rsp), %r14
	movq	(CTX_REGS + R_R13)(%rsp), %r13
	movq	(CTX_REGS + R_R12)(%rsp), %r12
	movq	(CTX_REGS + R_RBP)(%rsp), %rbp
	movq	(CTX_REGS + R_RBX)(%rsp), %rbx
	movq	(CTX_REGS + R_R11)(%rsp), %r11
	movq	(CTX_REGS + R_R10)(%rsp), %r10
	movq	(CTX_REGS + R_R9)(%rsp), %r9
	movq	(CTX_REGS + R_R8)(%rsp), %r8
	movq	(CTX_REGS + R_RAX)(%rsp), %rax
	movq	(CTX_REGS + R_RCX)(%rsp), %rcx
	movq	(CTX_REGS + R_RDX)(%rsp), %rdx
	movq	(CTX_REGS + R_RSI)(%rsp), %rsi
	movq	(CTX_REGS + R_RDI)(%rsp), %rdi
	movq	CTX_TARGET(%rsp), %rsp
	cfi_loaded
	popfq
	.cfi_def_cfa_offset RED_ZONE + 8
	ret	$RED_ZONE

	/*
	 * Does not return when it worked. 0: a signal came in between and its
	 * return came back here. Negative: no module any more, or a context
	 * that it does not take.
	 */
.Lkernel:
	cfi_frame_based DW_breg_rbp
	movl	$NR_IOCTL, %eax
	movl	CTX_FD(%rbp), %edi
	movl	$IOC_RESUME, %esi
	movq	%rbp, %rdx
	syscall
	testq	%rax, %rax
	jz	.Lkernel
	testl	%r12d, %r12d
	jz	.Luser
	jmp	.Lload
	.cfi_endproc

	.balign	4
.Lmxcsr:
	.long	0x1f80
upreempt_landing_end:
	.size	upreempt_landing, . - upreempt_landing

	.section .note.GNU-stack, "", @progbits
