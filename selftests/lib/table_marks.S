/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* The marks of upreempt/table.h in an assembler source, and the poll that is a call. */
#include <upreempt/table.h>

	.text
	.globl	poll_by_call
	.type	poll_by_call, @function
/* poll_by_call(uint64_t *turns, int *stop, int *in_sequence) */
poll_by_call:
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	sub	$8, %rsp
	mov	%rdi, %r12
	mov	%rsi, %r13
	mov	%rdx, %r14
1:	lea	nothing(%rip), %rbx
	UPREEMPT_POLL_BEGIN(by_call)
	incl	(%r14)
	.rept	8
	jmp	.+2
	.endr
	decl	(%r14)
	UPREEMPT_POLL_CALL_END(by_call, 3, come)	/* rbx */
	call	*%rbx
	incq	(%r12)
	cmpl	$0, (%r13)
	je	1b
	add	$8, %rsp
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	ret
nothing:
	ret
come:
	jmp	upreempt_poll_slow@PLT
	.size	poll_by_call, .-poll_by_call

	.section .note.GNU-stack, "", @progbits
