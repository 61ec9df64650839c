/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * Offsets that landing.S shares with the C structs. Included by both; land.c
 * asserts each of them, so a struct that moves stops the build.
 */
#ifndef UPREEMPT_FRAME_H
#define UPREEMPT_FRAME_H

/* struct upreempt_thread */
#define T_SLOT		0
#define T_FLAGS		8
#define T_KFLAGS	12
#define T_FD		16
#define T_INDEX		20

/* struct upreempt_slot */
#define SLOT_PENDING	0
#define SLOT_BUSY	128
#define SLOT_COOKIE	144
#define SLOT_REGS	192

/* struct upreempt_regs */
#define R_R15		0
#define R_R14		8
#define R_R13		16
#define R_R12		24
#define R_RBP		32
#define R_RBX		40
#define R_R11		48
#define R_R10		56
#define R_R9		64
#define R_R8		72
#define R_RAX		80
#define R_RCX		88
#define R_RDX		96
#define R_RSI		104
#define R_RDI		112
#define R_RSP		120
#define R_RIP		128
#define R_RFLAGS	136
#define R_COUNT		22	/* words up to and with sigmask */
#define R_WORDS		24	/* all, with the reserved ones */

/* struct upreempt_context; it begins with a struct upreempt_resume */
#define CTX_SIZE	0
#define CTX_INDEX	4
#define CTX_REGS	8
#define CTX_SEQ		200
#define CTX_COOKIE	208
#define CTX_THREAD	216
#define CTX_XSAVE	224
#define CTX_XMASK	232
#define CTX_XMODE	240
#define CTX_PREV	248
#define CTX_TARGET	256
#define CTX_FD		264
#define CTX_KFLAGS	268
#define CTX_TF		272
#define CTX_BYTES	288	/* a multiple of 16 */
#define RESUME_BYTES	200

/*
 * What lies between the context and the red zone: the two words of the user
 * resume (they may straddle the alignment), and room for a handler that pushes
 * a frame of its own below the red zone.
 */
#define FRAME_PAD	256
#define FRAME_BYTES	(CTX_BYTES + FRAME_PAD)
#define RED_ZONE	128

/* struct upreempt_xstate_info */
#define XS_MODE		0
#define XS_AVX		4
#define XS_MASK		8
#define XS_SIZE		16	/* components without the AMX tiles */
#define XS_SIZE_ALL	20
#define XS_XGETBV1	24

/* upreempt_xstate_info.mode */
#define XS_MODE_FXSAVE	0
#define XS_MODE_XSAVE	1
#define XS_MODE_XSAVEC	2

#define XS_SIZE_AVX	832	/* legacy area, header, AVX: in both formats */
#define XS_LOW		0x7	/* x87, SSE, AVX */
#define XS_AMX		0x60000	/* TILECFG, TILEDATA */

/* upreempt_thread.kflags */
#define KRESUME_CAN	1	/* the kernel module can load the registers */
#define KRESUME_ALWAYS	2	/* and has to */

#define THREAD_NO_XSAVE	1	/* UPREEMPT_THREAD_NO_XSAVE */
#define NR_IOCTL	16
#define IOC_RESUME	0x40c8b748	/* UPREEMPT_IOC_RESUME */

#define FLAG_TF		0x100
/* CF PF AF ZF SF DF OF NT AC ID: what popf may change for a program */
#define FLAG_USER	0x244cd5

#endif
