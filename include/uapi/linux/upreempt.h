/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * upreempt: stop, inspect, redirect and resume the threads of a program
 *
 * Object model
 * ------------
 * Opening /dev/upreempt makes a *domain*: a set of threads of the opening
 * process. UPREEMPT_IOC_SETUP gives it its shared memory, each thread that
 * shall be reached registers itself with UPREEMPT_IOC_REGISTER and gets a
 * *slot* of that memory. A *request* (UPREEMPT_IOC_REQUEST) asks one thing of
 * one thread and ends in exactly one typed *outcome*.
 *
 * Lifetime is the file. A registration ends at UNREGISTER, at the thread's
 * exit, at exec, and at the last close of the file. fork() inherits neither
 * the mapping nor a registration. A process that was handed the file may make
 * requests; only threads of the opener's thread group can be registered, and
 * only by themselves.
 *
 * Conventions
 * -----------
 * Every argument begins with its size in bytes. Less than the size in ABI 1 is
 * EINVAL; of two sizes the shorter is completed with zeros, and a longer one than
 * the module's is accepted when the rest is zero (E2BIG otherwise). Unknown flags
 * and non-zero reserved words are EINVAL.
 * Times are CLOCK_MONOTONIC nanoseconds, deadlines are absolute, 0 is "none".
 * 32-bit callers get ENOTTY.
 *
 * The shared memory
 * -----------------
 * One mmap() of the whole (offset 0, length upreempt_setup.mmap_size,
 * MAP_SHARED, PROT_READ|PROT_WRITE):
 *
 *	0            struct upreempt_header
 *	slots_off    struct upreempt_slot [nr_slots]
 *	ring_off     struct upreempt_event [nr_events]
 *	gate_off     one page that is never populated: the gate of stopped threads
 *
 * Whatever a program writes there can mislead only that program.
 */
#ifndef _UAPI_LINUX_UPREEMPT_H
#define _UAPI_LINUX_UPREEMPT_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define UPREEMPT_ABI_VERSION	1
#define UPREEMPT_DEVICE		"/dev/upreempt"

/* Values of upreempt_request.kind */
enum upreempt_kind {
	UPREEMPT_SAMPLE		= 1,	/* the registers, nothing is held */
	UPREEMPT_STOP		= 2,	/* hold the thread until UPREEMPT_IOC_RELEASE */
	UPREEMPT_REDIRECT	= 3,	/* enter the landing, then go on */
	UPREEMPT_KIND_MAX
};

/* How a request ended */
enum upreempt_outcome {
	UPREEMPT_PENDING	= 0,	/* not final yet */
	UPREEMPT_LANDED		= 1,	/* stopped, sampled or redirected at the PC in regs.rip */
	UPREEMPT_COOPERATED	= 2,	/* the thread came by itself */
	UPREEMPT_BLOCKED	= 3,	/* in a system call: regs are that call's frame */
	UPREEMPT_UNSAFE		= 4,	/* refused or deadline passed: see reason and regs.rip */
	UPREEMPT_GONE		= 5,	/* exited, execed or unregistered */
	UPREEMPT_CANCELLED	= 6,	/* by UPREEMPT_IOC_CANCEL or the end of the domain */
	UPREEMPT_OUTCOME_MAX
};

/* Why a request was deferred, and for UPREEMPT_UNSAFE why it ended */
enum upreempt_reason {
	UPREEMPT_R_NONE		= 0,
	UPREEMPT_R_NOT_RUN	= 1,	/* runnable, but no CPU ran it before the deadline */
	UPREEMPT_R_IN_SYSCALL	= 2,	/* REDIRECT: will land at the call's return */
	UPREEMPT_R_RSEQ		= 3,	/* inside a restartable sequence */
	UPREEMPT_R_RSEQ_FAULT	= 4,	/* the rseq area could not be read without a fault */
	UPREEMPT_R_SIGNAL_FRAME	= 5,	/* a signal handler was entered on this very return */
	UPREEMPT_R_SIGNAL_STACK	= 6,	/* on the alternate signal stack */
	UPREEMPT_R_LANDING	= 7,	/* inside the landing or the resume code */
	UPREEMPT_R_SLOT_BUSY	= 8,	/* the slot's registers were not taken over yet */
	UPREEMPT_R_DISABLED	= 9,	/* slot.nopreempt is not zero */
	UPREEMPT_R_OFF		= 10,	/* switched off (slot.off or header.off): final at once */
	UPREEMPT_R_STACK_BOUNDS	= 11,	/* sp outside the registered stack: final at once */
	UPREEMPT_R_STACK_ROOM	= 12,	/* less than stack_need below sp: final at once */
	UPREEMPT_R_NOT_64BIT	= 13,	/* 32-bit or LDT code segment */
	UPREEMPT_R_SINGLE_STEP	= 14,	/* a debugger, or its own trap flag, steps it */
	UPREEMPT_R_UPROBE	= 15,	/* a uprobe's instruction runs out of line */
	UPREEMPT_R_KERNEL_IP	= 16,	/* PC above the user range (vsyscall) */
	UPREEMPT_R_RING_FULL	= 17,	/* the record that was asked for found no room */
	UPREEMPT_R_HELD		= 18,	/* another STOP holds the thread */
	UPREEMPT_R_NO_GATE	= 19,	/* the mapping that holds the gate is gone: final at once */
	UPREEMPT_R_EXCEPTION	= 20,	/* in a page fault or another exception in the kernel */
	UPREEMPT_R_JOBCTL	= 21,	/* stopped by SIGSTOP where it may not be held */
	UPREEMPT_R_TRACED	= 22,	/* stopped by a debugger where it may not be held */
	UPREEMPT_R_STOPPER	= 23,	/* STOP: it has stopped the world itself */
	UPREEMPT_R_GRACE	= 24,	/* its time to come by itself is not over */
	UPREEMPT_R_SILENT	= 25,	/* its CPU did not answer the IPI */
	UPREEMPT_R_UNDECLARED	= 26,	/* in code that no area declares */
	UPREEMPT_R_UNSAFE_RANGE	= 27,	/* in a range that an area declares unsafe */
	UPREEMPT_R_POLL_SET	= 28,	/* in a POLL range: will come at its end */
	UPREEMPT_R_STEPPING	= 29,	/* is being stepped out of code that is not safe */
	UPREEMPT_R_STEP_BUDGET	= 30,	/* the same, and took all its steps */
	UPREEMPT_R_STEP_INSN	= 31,	/* the same, at an instruction that is not stepped */
	UPREEMPT_R_RETURNING	= 32,	/* breakpoints wait where it may return to */
	UPREEMPT_R_NO_RETURN	= 33,	/* nothing to return to was found, or no breakpoint free */
	UPREEMPT_REASON_MAX
};

/* What the thread's saved user frame was */
enum upreempt_frame {
	UPREEMPT_FRAME_NONE	= 0,	/* regs are not valid */
	UPREEMPT_FRAME_USER	= 1,	/* interrupted in user mode: every register is exact */
	UPREEMPT_FRAME_SYSCALL	= 2,	/* system call: rax undefined, rcx, r11 hold PC, flags */
};

/*
 * A thread's general registers. rip is the next instruction to be run.
 * fs_base, gs_base, orig_rax and sigmask are for reading only: resuming
 * ignores them.
 */
struct upreempt_regs {
	__u64 r15, r14, r13, r12, rbp, rbx, r11, r10;
	__u64 r9, r8, rax, rcx, rdx, rsi, rdi, rsp;
	__u64 rip, rflags, orig_rax, fs_base, gs_base;
	__u64 sigmask;			/* blocked signals, bit n-1 for signal n */
	__u64 reserved[2];
};

/* One outcome: a record of the event ring, and what waiting returns */
struct upreempt_event {
	__u64 seq;			/* request id, rising in the domain, never 0 */
	__u64 cookie;			/* upreempt_request.cookie */
	__u64 request_ns;		/* when the request was accepted */
	__u64 final_ns;			/* when it became final */
	__u32 slot;
	__u32 tid;			/* in the pid namespace of the thread */
	__u16 kind;			/* enum upreempt_kind */
	__u16 outcome;			/* enum upreempt_outcome */
	__u16 reason;			/* enum upreempt_reason */
	__u16 frame;			/* enum upreempt_frame: what regs are */
	__u32 attempts;			/* hook visits that could not grant it */
	__u32 cpu;			/* where it became final */
	__u32 strategy;			/* UPREEMPT_BY_* that was made use of; 0: none */
	__u32 steps;			/* instructions that the thread was stepped for it */
	struct upreempt_regs regs;
};

#define UPREEMPT_CACHELINE	64

/*
 * The head of the shared memory. Words are grouped by writer on cache lines of
 * their own; every word is accessed whole (aligned 32 or 64 bits).
 *
 * The ring: head and tail count records and never wrap back; record i is at
 * index i & (nr_events - 1).
 *
 *	kernel (any CPU, one at a time)		consumer (one thread at a time)
 *	D: load-acquire tail, room?		B: load-acquire head, any?
 *	   write the record			   read the record
 *	A: store-release head			C: store-release tail
 *
 * A pairs with B: a record that is seen is whole. C pairs with D: a record is
 * overwritten only after it was read.
 */
struct upreempt_header {
	/* set by SETUP, constant */
	__u32 abi_version;
	__u32 nr_slots;
	__u32 nr_events;
	__u32 slot_size;
	__u64 slots_off;
	__u64 ring_off;
	__u64 gate_off;
	__u64 mmap_size;
	__u64 library;			/* the library's own; the kernel leaves it 0 */
	__u64 reserved0;
	/* written by the kernel */
	__u64 head;			/* A, B */
	__u64 dropped;			/* outcomes that found the ring full */
	__u64 reserved1[6];
	/* written by the consumer */
	__u64 tail;			/* C, D */
	__u64 reserved2[7];
	/* written by the program */
	__u32 off;			/* not 0: every new request ends UNSAFE/OFF */
	__u32 reserved3[15];
};

/*
 * One registered thread. The first line is written by the kernel, the second
 * by the thread, the third by both as stated.
 */
struct upreempt_slot {
	/* written by the kernel */
	__u32 pending;			/* not 0: a request waits; see UPREEMPT_IOC_CHECK */
	__u32 tid;			/* 0: free */
	__u64 done_seq;			/* seq of the request that became final last */
	__u32 done_outcome;		/* its outcome; stored before done_seq */
	__u32 held;			/* STOP requests that hold the thread */
	__u32 at_gate;			/* not 0: on its way into the gate: do not unmap it */
	__u32 poll;			/* not 0: come to POLL; the program clears it */
	__u64 trigger;			/* an address to load from, as a poll: see POLL */
	__u64 reserved0[3];
	/* written by the thread */
	__u32 nopreempt;		/* not 0: REDIRECT and STOP are deferred (R_DISABLED) */
	__u32 off;			/* not 0: every new request ends UNSAFE/OFF */
	__u64 user[7];			/* the library's; user[0] counts polls down */
	/* the hand-over of a REDIRECT */
	__u32 busy;			/* kernel: 1, regs are valid; landing: 0, it took them */
	__u32 reserved1;
	__u64 seq;			/* of the request that redirected */
	__u64 cookie;
	__u64 request_ns;
	__u64 landed_ns;
	__u64 reserved2[3];
	struct upreempt_regs regs;	/* written by the kernel, valid while busy */
	__u64 reserved3[16];
};

/* Feature bits of upreempt_query.features */
#define UPREEMPT_F_SAMPLE	(1ULL << 0)	/* kind SAMPLE */
#define UPREEMPT_F_STOP		(1ULL << 1)	/* kind STOP, RELEASE, the gate */
#define UPREEMPT_F_REDIRECT	(1ULL << 2)	/* kind REDIRECT, the landing */
#define UPREEMPT_F_RESUME	(1ULL << 3)	/* UPREEMPT_IOC_RESUME */
#define UPREEMPT_F_RING		(1ULL << 4)	/* event ring, poll, eventfd */
#define UPREEMPT_F_RSEQ		(1ULL << 5)	/* rseq sections are never split */
#define UPREEMPT_F_BTF		(1ULL << 6)	/* the module carries BTF: tp_btf works */
#define UPREEMPT_F_INJECT	(1ULL << 7)	/* a test build with inject points */
#define UPREEMPT_F_WORLD	(1ULL << 8)	/* WORLD_STOP, WORLD_START */
#define UPREEMPT_F_GRACE	(1ULL << 9)	/* grace_ns, POLL, slot.poll, slot.trigger */
#define UPREEMPT_F_XSTATE	(1ULL << 10)	/* XSTATE */
#define UPREEMPT_F_TABLE	(1ULL << 11)	/* CODE_ADD, CODE_REMOVE, SETUP_DECLARED */
#define UPREEMPT_F_STEP		(1ULL << 12)	/* BY_STEP, CODE_STEP */
#define UPREEMPT_F_RETURN	(1ULL << 13)	/* BY_RETURN */

struct upreempt_query {
	__u32 size;
	__u32 abi_version;		/* out */
	__u64 features;			/* out */
	__u32 max_slots;		/* out */
	__u32 max_events;		/* out */
	__u32 max_requests;		/* out: outstanding requests on one thread */
	__u32 slot_size;		/* out */
	__u64 landing_max;		/* out: largest landing_end - landing */
	__u32 max_ranges;		/* out: of an area */
	__u32 max_areas;		/* out: of a domain */
	__u64 reserved[3];		/* out: 0 */
};

#define UPREEMPT_SETUP_DECLARED	(1U << 0)	/* code that no area declares is unsafe */

struct upreempt_setup {
	__u32 size;
	__u32 flags;			/* UPREEMPT_SETUP_* */
	__u32 nr_slots;			/* 1 .. max_slots */
	__u32 nr_events;		/* power of two, 16 .. max_events */
	__u64 mmap_size;		/* out, all */
	__u64 slots_off;
	__u64 ring_off;
	__u64 gate_off;
	__u64 reserved[2];		/* 0 */
};

#define UPREEMPT_ANY_SLOT	(~0U)
#define UPREEMPT_ALL_SLOTS	(~0U)

/*
 * The landing is entered as if called asynchronously: rdi = arg, rsi = seq of
 * the request, rsp = (interrupted rsp - 128) rounded down to 16, DF TF RF AC
 * clear, every other register as interrupted (the slot has all of them).
 * [landing, landing_end) also holds the code that resumes: a thread found in
 * it is left alone until it is out. landing 0: the thread takes no REDIRECT.
 */
struct upreempt_register {
	__u32 size;
	__u32 flags;			/* 0 */
	__u32 slot;			/* in: index or ANY_SLOT; out: index */
	__u32 tid;			/* out */
	__u64 landing;
	__u64 landing_end;
	__u64 arg;
	__u64 stack_lo;			/* both 0: the stack is not checked */
	__u64 stack_hi;
	__u32 stack_need;		/* bytes a landing needs below rsp - 128 */
	__u32 reserved32;		/* 0 */
	__u64 id;			/* out: the registration's, rising in the domain, never 0 */
	__u64 reserved[2];		/* 0 */
};

#define UPREEMPT_REQ_WAIT	(1U << 0)	/* return when it is final */
#define UPREEMPT_REQ_RING	(1U << 1)	/* report the outcome in the event ring */
#define UPREEMPT_REQ_OR_BLOCKED	(1U << 2)	/* REDIRECT: end BLOCKED in a system call */
#define UPREEMPT_REQ_SAFE	(1U << 3)	/* SAMPLE: at a safe point, as STOP and REDIRECT */
#define UPREEMPT_REQ_DECLARED_CALLER (1U << 4)	/* in a system call: of declared safe code only */

/*
 * What may be done about a thread in code that is not safe (R_UNDECLARED, R_UNSAFE_RANGE), besides
 * to try again later
 */
#define UPREEMPT_BY_STEP	(1U << 0)	/* single steps, to where it may be stopped */
#define UPREEMPT_BY_RETURN	(1U << 1)	/* breakpoints, where it may return to */
/* Undeclared code by its return, or step by step when there is none; other code step by step */
#define UPREEMPT_BY_AUTO	(UPREEMPT_BY_STEP | UPREEMPT_BY_RETURN)

#define UPREEMPT_STEPS_DEFAULT	1000
#define UPREEMPT_STEPS_MAX	1000000

/*
 * Without WAIT and RING the outcome is kept until UPREEMPT_IOC_WAIT takes it;
 * such requests count among the max_requests of the thread. When WAIT is broken
 * by a signal (EINTR) the request goes on and seq is valid: WAIT for it or
 * CANCEL it. seq 0: there was no room yet, and there is no request.
 */
struct upreempt_request {
	__u32 size;
	__u32 flags;			/* UPREEMPT_REQ_* */
	__u32 kind;			/* enum upreempt_kind */
	__u32 slot;
	__u64 cookie;			/* the caller's, comes back in the event */
	__u64 deadline_ns;		/* absolute; 0: none */
	__u64 seq;			/* out */
	__u64 grace_ns;			/* time to come by itself; 0: force at once */
	__u64 id;			/* upreempt_register.id; 0: whoever has the slot */
	__u32 strategies;		/* UPREEMPT_BY_*; for SAMPLE of use with REQ_SAFE only */
	__u32 steps;			/* at most so many, up to STEPS_MAX; 0: STEPS_DEFAULT */
	struct upreempt_event event;	/* out, with WAIT */
};

struct upreempt_wait {
	__u32 size;
	__u32 slot;
	__u64 seq;
	__u64 deadline_ns;		/* of the waiting (ETIMEDOUT); 0: none; 1: do not wait */
	__u64 reserved;			/* 0 */
	struct upreempt_event event;	/* out */
};

/* Names a thread's request (CANCEL, RELEASE) or a thread (UNREGISTER: seq 0) */
struct upreempt_ref {
	__u32 size;
	__u32 slot;
	__u64 seq;
};

struct upreempt_resume {
	__u32 size;
	__u32 slot;
	struct upreempt_regs regs;
};

struct upreempt_eventfd {
	__u32 size;
	__s32 fd;			/* -1: no longer */
};

struct upreempt_stats {
	__u32 size;
	__u32 slot;			/* in: index, or ALL_SLOTS: also past threads */
	__u32 tid;			/* out; 0 for the domain */
	__u32 threads;			/* out: registered now */
	__u64 kinds[8];			/* out: requests by enum upreempt_kind */
	__u64 outcomes[8];		/* out: by enum upreempt_outcome */
	__u64 deferrals[48];		/* out: by enum upreempt_reason */
	__u64 ipis;			/* out: sent */
	__u64 hooks;			/* out: visits of the hook */
	__u64 gated;			/* out: times a thread was held at the gate */
	__u64 resumes;			/* out: kernel resumes */
	__u64 dropped;			/* out: ring records */
	__u64 world_stops;		/* out: of the domain; 0 for a thread */
	__u64 world_ns;			/* out: how long the world stood, in all */
	__u64 world_late;		/* out: stragglers, in all */
	__u64 restarts;			/* out: sequences set back to their start */
	__u64 polls_set;		/* out: registers set in POLL ranges */
};

/*
 * Safe-point tables
 * -----------------
 * An *area* declares the code in [base, base + len): a class for all of it, and ranges
 * with a class of their own. Areas of a domain do not overlap. Where the PC of a thread
 * must not be stopped or redirected, STOP, REDIRECT and stops of the world are deferred
 * and tried again. Out of STEP ranges, and with BY_STEP out of all such code, the thread is
 * stepped meanwhile. Code that no area declares is safe, or with SETUP_DECLARED unsafe. A
 * thread that comes to POLL, or is in a system call, is not asked where its PC is.
 */
enum upreempt_class {
	UPREEMPT_CODE_SAFE	= 1,	/* at any instruction */
	UPREEMPT_CODE_UNSAFE	= 2,	/* not here: R_UNSAFE_RANGE */
	UPREEMPT_CODE_RESTART	= 3,	/* set the PC back to value: there it is safe */
	UPREEMPT_CODE_POLL	= 4,	/* set register reg to value and let it run: R_POLL_SET */
	UPREEMPT_CODE_RETURN	= 5,	/* reserved: stop at the return from here */
	UPREEMPT_CODE_STEP	= 6,	/* as UNSAFE, and single steps lead out of it */
	UPREEMPT_CODE_CLASS_MAX
};

/* upreempt_range.reg, as the instructions number them; not UPREEMPT_REG_RSP */
enum upreempt_reg {
	UPREEMPT_REG_RAX, UPREEMPT_REG_RCX, UPREEMPT_REG_RDX, UPREEMPT_REG_RBX,
	UPREEMPT_REG_RSP, UPREEMPT_REG_RBP, UPREEMPT_REG_RSI, UPREEMPT_REG_RDI,
	UPREEMPT_REG_R8, UPREEMPT_REG_R9, UPREEMPT_REG_R10, UPREEMPT_REG_R11,
	UPREEMPT_REG_R12, UPREEMPT_REG_R13, UPREEMPT_REG_R14, UPREEMPT_REG_R15,
	UPREEMPT_REG_MAX
};

/* [start, end) are offsets from the area's base. Sorted, not empty, not overlapping. */
struct upreempt_range {
	__u32 start;
	__u32 end;
	__u64 value;			/* RESTART: offset to go back to; POLL: of the register */
	__u8 cls;			/* enum upreempt_class */
	__u8 reg;			/* POLL: enum upreempt_reg; else 0 */
	__u16 reserved16;		/* 0 */
	__u32 reserved32;		/* 0 */
};

#define UPREEMPT_RESTART_MAX	4096	/* from where a RESTART goes back to, to the range's end */
#define UPREEMPT_NO_RANGE	(~0U)

/* What is wrong with a range: upreempt_code_add.why */
enum upreempt_range_fault {
	UPREEMPT_RANGE_OK	= 0,
	UPREEMPT_RANGE_EMPTY	= 1,	/* end is not behind start */
	UPREEMPT_RANGE_ORDER	= 2,	/* begins before the end of the one before */
	UPREEMPT_RANGE_OUTSIDE	= 3,	/* reaches out of the area */
	UPREEMPT_RANGE_CLASS	= 4,	/* no class, or one that is reserved */
	UPREEMPT_RANGE_REG	= 5,	/* no register, rsp, or one where none belongs */
	UPREEMPT_RANGE_VALUE	= 6,	/* a value where none belongs */
	UPREEMPT_RANGE_RESERVED	= 7,	/* a reserved word is not 0 */
	UPREEMPT_RANGE_AFTER	= 8,	/* RESTART: goes back to behind the range's start */
	UPREEMPT_RANGE_FAR	= 9,	/* RESTART: further than UPREEMPT_RESTART_MAX */
	UPREEMPT_RANGE_TARGET	= 10,	/* RESTART: goes back to where it is not safe */
	UPREEMPT_RANGE_FAULT_MAX
};

struct upreempt_code_add {
	__u32 size;
	__u32 flags;			/* 0 */
	__u64 base;
	__u64 len;			/* 1 .. 2^32 - 1 */
	__u64 ranges;			/* address of count struct upreempt_range */
	__u32 count;			/* up to max_ranges */
	__u32 cls;			/* where no range is: SAFE or UNSAFE */
	__u64 replace;			/* the id of the area that this one replaces; 0: none */
	__u64 id;			/* out; of a replaced one the same */
	__u32 bad;			/* out, with EINVAL: index of the bad range, or NO_RANGE */
	__u32 why;			/* out: enum upreempt_range_fault */
	__u32 staged;			/* out: 1: holds from the end of the world's stop on */
	__u32 reserved32;		/* 0 */
	__u64 reserved;			/* 0 */
};

struct upreempt_code_remove {
	__u32 size;
	__u32 flags;			/* 0 */
	__u64 id;
	__u32 staged;			/* out: as above */
	__u32 reserved32;		/* 0 */
};

#define UPREEMPT_WORLD_ALL	(1U << 0)	/* stragglers: let go, ETIMEDOUT */
#define UPREEMPT_WORLD_REGISTERED (1U << 1)	/* unregistered threads: let go, EBUSY */
#define UPREEMPT_WORLD_TRY	(1U << 2)	/* another thread has stopped it: EAGAIN */

#define UPREEMPT_WORLD_LATE	8	/* stragglers that a report names */

/* How a stop of the world found one thread */
struct upreempt_world_thread {
	__u32 slot;
	__u32 tid;			/* 0: no such thread */
	__u16 outcome;			/* LANDED, COOPERATED, BLOCKED; PENDING: a straggler */
	__u16 reason;			/* why it was refused last, or is late */
	__u32 attempts;			/* how often it was refused */
	__u64 rip;			/* where */
	__u64 ns;			/* after the request */
	char comm[16];
};

/*
 * WORLD_STOP. The counts are of the registered threads but the caller:
 * threads = landed + preempted + cooperated + blocked + stragglers.
 */
struct upreempt_world {
	__u32 size;
	__u32 flags;			/* UPREEMPT_WORLD_* */
	__u64 grace_ns;			/* time for the threads to come by themselves */
	__u64 deadline_ns;		/* absolute; 0: none */
	__u32 strategies;		/* UPREEMPT_BY_*, for each thread that is late */
	__u32 steps;			/* of each at most so many; as in upreempt_request */
	__u64 reserved;			/* 0 */
	/* out */
	__u32 depth;			/* stops of this caller that WORLD_START has to undo */
	__u32 threads;
	__u32 landed;			/* stopped at a user instruction, by force */
	__u32 preempted;		/* found switched out at a user instruction */
	__u32 cooperated;		/* came to POLL */
	__u32 blocked;			/* in a system call: held at its return */
	__u32 stragglers;		/* still running at the deadline */
	__u32 unregistered;		/* threads of the process that nothing stops */
	__u32 gone;			/* left while they were waited for */
	__u32 ipis;			/* sent: one for each CPU that ran the program */
	__u64 request_ns;		/* when the stop began */
	__u64 sent_ns;			/* the last IPI was sent */
	__u64 acked_ns;			/* the last CPU had answered */
	__u64 first_ns;			/* the first thread stood; 0: nobody was running */
	__u64 last_ns;			/* the last thread stood */
	__u64 final_ns;			/* the end of the call */
	struct upreempt_world_thread slowest;	/* who stood last, or the first straggler */
	struct upreempt_world_thread late[UPREEMPT_WORLD_LATE];
};

/*
 * XSTATE: the extended state of a thread that stands still, in the standard (not compacted)
 * form of XSAVE, as in a signal's frame or from ptrace: a component that is not in the
 * header's XSTATE_BV has its initial value. Bytes 464 to 511 mean nothing.
 */
struct upreempt_xstate {
	__u32 size;
	__u32 slot;
	__u64 address;			/* where it goes */
	__u32 room;			/* bytes there */
	__u32 bytes;			/* out: how much it is; with ENOSPC, how much it takes */
	__u64 features;			/* out: the state components that have a place (XCR0) */
	__u64 reserved[2];		/* 0 */
};

#define UPREEMPT_IOC_MAGIC	0xb7

/* QUERY: what this module can do. No state needed. */
#define UPREEMPT_IOC_QUERY	_IOWR(UPREEMPT_IOC_MAGIC, 0x40, struct upreempt_query)
/* SETUP: once for a domain, by the opener. EBUSY: was done. EPERM: another process. */
#define UPREEMPT_IOC_SETUP	_IOWR(UPREEMPT_IOC_MAGIC, 0x41, struct upreempt_setup)
/*
 * REGISTER the calling thread. EBUSY: slot taken. EEXIST: is registered here. ENOSPC: no free
 * slot. EUSERS: it is registered in 8 domains already. EPERM: not the opener's process.
 */
#define UPREEMPT_IOC_REGISTER	_IOWR(UPREEMPT_IOC_MAGIC, 0x42, struct upreempt_register)
/*
 * UNREGISTER the calling thread. EPERM: the slot is another thread's. ESRCH: nobody's. EBUSY: it
 * has stopped the world.
 */
#define UPREEMPT_IOC_UNREGISTER	_IOW(UPREEMPT_IOC_MAGIC, 0x43, struct upreempt_ref)
/*
 * REQUEST. ESRCH: no thread in that slot, or one with another registration than id. EAGAIN:
 * max_requests are outstanding (with WAIT: until the deadline).
 * EDEADLK: STOP of oneself. EOPNOTSUPP: the thread has no landing. EINTR: see above.
 */
#define UPREEMPT_IOC_REQUEST	_IOWR(UPREEMPT_IOC_MAGIC, 0x44, struct upreempt_request)
/* WAIT for a request made without RING. ENOENT: no such request. ETIMEDOUT: still pending. */
#define UPREEMPT_IOC_WAIT	_IOWR(UPREEMPT_IOC_MAGIC, 0x45, struct upreempt_wait)
/* CANCEL. ENOENT: no such request. EALREADY: it is final. ESRCH: the thread left. */
#define UPREEMPT_IOC_CANCEL	_IOW(UPREEMPT_IOC_MAGIC, 0x46, struct upreempt_ref)
/* RELEASE a STOP (pending ones are cancelled). ENOENT: no such STOP. ESRCH: the thread left. */
#define UPREEMPT_IOC_RELEASE	_IOW(UPREEMPT_IOC_MAGIC, 0x47, struct upreempt_ref)
/* RESUME: load the registers into the calling thread; does not return when it worked. */
#define UPREEMPT_IOC_RESUME	_IOW(UPREEMPT_IOC_MAGIC, 0x48, struct upreempt_resume)
/* EVENTFD: add 1 to it when records come into an awaited ring. */
#define UPREEMPT_IOC_EVENTFD	_IOW(UPREEMPT_IOC_MAGIC, 0x49, struct upreempt_eventfd)
/* STATS of a thread or of the domain. */
#define UPREEMPT_IOC_STATS	_IOWR(UPREEMPT_IOC_MAGIC, 0x4a, struct upreempt_stats)
/* CHECK: deliver what is pending for the calling thread at this call's return. arg: its slot. */
#define UPREEMPT_IOC_CHECK	_IO(UPREEMPT_IOC_MAGIC, 0x4b)
/*
 * WORLD_STOP: when it returns 0 no registered thread but the caller runs user instructions,
 * stragglers excepted, until the caller's WORLD_START or its end. Again by the same thread:
 * nests, and waits for the stragglers once more. EPERM: not the opener's process. ENXIO: the
 * shared memory, and with it the gate, is not mapped. EAGAIN,
 * ETIMEDOUT, EBUSY: see the flags; ETIMEDOUT also: another stopper was there until the deadline.
 * EINTR: a signal; nothing is stopped.
 */
#define UPREEMPT_IOC_WORLD_STOP	_IOWR(UPREEMPT_IOC_MAGIC, 0x4c, struct upreempt_world)
/* WORLD_START: undo one WORLD_STOP. EPERM: the caller has not stopped the world. arg: 0 */
#define UPREEMPT_IOC_WORLD_START _IO(UPREEMPT_IOC_MAGIC, 0x4d)
/*
 * POLL: the calling thread is at a point where it may be stopped: what waits for it is granted
 * at this call's return, COOPERATED. arg: its slot. slot.poll says that somebody waits. So does
 * slot.trigger: it holds the address of readable memory, or of a page whose read by the
 * instruction "test %al,(%rax)" (84 00) does the same as this call and goes on behind it.
 */
#define UPREEMPT_IOC_POLL	_IO(UPREEMPT_IOC_MAGIC, 0x4e)
/*
 * XSTATE of a thread that a STOP or the caller's stop of the world holds. EBUSY: nothing holds
 * it, or it is a straggler. EAGAIN: it is in a system call on a CPU, try again. ENOSPC: see
 * bytes. ESRCH: no thread in that slot. EINTR: a signal.
 */
#define UPREEMPT_IOC_XSTATE	_IOWR(UPREEMPT_IOC_MAGIC, 0x4f, struct upreempt_xstate)
/*
 * CODE_ADD: declare an area of code, or replace one, in one step for all threads. While the
 * world of the domain is stopped, or being stopped, what was declared before holds until it
 * goes on (staged). Nothing is changed by a call that fails. EINVAL: see bad and why; with
 * NO_RANGE: flags, class, or the area is not below the end of user memory. E2BIG: count.
 * EEXIST: overlaps another area. ENOENT: nothing to replace. ENOSPC: max_areas, or too many
 * ranges in all. EPERM: not the opener's process. EFAULT, ENOMEM, EINTR.
 */
#define UPREEMPT_IOC_CODE_ADD	_IOWR(UPREEMPT_IOC_MAGIC, 0x50, struct upreempt_code_add)
/* CODE_REMOVE an area, likewise. ENOENT: no such area. EPERM: not the opener's process. */
#define UPREEMPT_IOC_CODE_REMOVE _IOWR(UPREEMPT_IOC_MAGIC, 0x51, struct upreempt_code_remove)

#endif /* _UAPI_LINUX_UPREEMPT_H */
