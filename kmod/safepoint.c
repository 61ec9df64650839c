// SPDX-License-Identifier: GPL-2.0
/*
 * Where a thread must not be stopped or redirected, decided in the hook from the final
 * user frame. Everything here is bounded in time and takes no fault.
 */
#include <asm/sigframe.h>
#include <linux/rseq.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/uprobes.h>

#include "upreempt.h"

#define UP_SIGNAL_FRAMES	8	/* of signals that come at once */

/*
 * The kernel aborts an rseq section when the thread is preempted inside it. A redirect
 * moves the PC out of the section, so that later preemption would go unnoticed and the
 * section be resumed half way: refuse. When the area cannot be read without a fault, the
 * kernel's exit loop has to touch it; that is over here, so it is asked before the next try.
 */
static enum upreempt_reason up_check_rseq(struct up_thread *t, unsigned long ip)
{
	struct rseq __user *area = up_current_rseq();
	struct rseq_cs cs;
	int bad;
	u64 ptr;

	if (!area || !up_guard(UP_GUARD_RSEQ))
		return UPREEMPT_R_NONE;
	/* The kernel has checked the area's address; this read is in every redirect's way. */
	pagefault_disable();
	bad = __get_user(ptr, &area->rseq_cs);
	pagefault_enable();
	if (bad)
		goto fault;
	if (!ptr)
		return UPREEMPT_R_NONE;
	if (ptr >= TASK_SIZE_MAX ||
	    copy_from_user_nofault(&cs, (void __user *)(unsigned long)ptr, sizeof(cs)))
		goto fault;
	return ip - cs.start_ip < cs.post_commit_offset ? UPREEMPT_R_RSEQ : UPREEMPT_R_NONE;
fault:
	t->rseq_fault = true;
	return UPREEMPT_R_RSEQ_FAULT;
}

/* At the first instruction of a signal handler whose frame setup_rt_frame() just built. */
bool up_at_signal_entry(const struct pt_regs *regs)
{
	return regs->dx == regs->sp + offsetof(struct rt_sigframe, uc) &&
	       regs->si == regs->sp + offsetof(struct rt_sigframe, info) &&
	       regs->di - 1 < _NSIG && !regs->ax;
}

/**
 * up_signal_frame - a frame of the signals that have just come, several of them at once
 * @t: current's registration
 * @regs: its final user frame
 * @has: says of a frame's registers whether it is the one
 * @sc: its registers
 *
 * The kernel wrote them a moment ago, one below the other; the first has what the thread was
 * interrupted with, the others the first instruction of the handler before.
 *
 * Context: interrupts off.
 * Return: the frame; NULL: there is none; -EFAULT: one could not be read now.
 */
struct rt_sigframe __user *up_signal_frame(struct up_thread *t, const struct pt_regs *regs,
					   bool (*has)(struct up_thread *t,
						       const struct sigcontext *sc),
					   struct sigcontext *sc)
{
	struct rt_sigframe __user *frame;
	struct pt_regs at = *regs;
	unsigned int i;

	for (i = 0; i < UP_SIGNAL_FRAMES && up_at_signal_entry(&at); i++) {
		frame = (struct rt_sigframe __user *)at.sp;
		if (copy_from_user_nofault(sc, &frame->uc.uc_mcontext, sizeof(*sc)))
			return (struct rt_sigframe __user __force *)ERR_PTR(-EFAULT);
		if (has(t, sc))
			return frame;
		at.sp = sc->sp;
		at.di = sc->di;
		at.si = sc->si;
		at.dx = sc->dx;
		at.ax = sc->ax;
	}
	return NULL;
}

/*
 * Between a uprobe's breakpoint and the end of its out-of-line step the frame is the kernel's:
 * PC and TF, and with an operand relative to the PC a register, are lent. The step's slot is
 * taken before the first of them is changed, and given back after the last; active_uprobe
 * alone, which is set a little later, does not cover a kernel that preempts itself there.
 *
 * Before that the PC is that behind the breakpoint, while the kernel finds out whose it is,
 * which may sleep. Nothing says so but the breakpoint. At the return it is over: in the hook
 * a padding byte before a loop means nothing.
 *
 * Context: the thread itself, interrupts off.
 */
static bool up_uprobe_now(const struct pt_regs *regs, bool returning)
{
#ifdef CONFIG_UPROBES
	/* data_race: it may have been switched out just before or after this store. */
	const struct uprobe_task *utask = data_race(current->utask);
	u8 before;

	if (test_thread_flag(TIF_UPROBE))
		return true;
	if (!utask)
		return false;
	/* data_race: the same. */
	return data_race(utask->active_uprobe) || data_race(utask->xol_vaddr) ||
	       (!returning && !up_in_syscall(regs) && regs->ip - 1 < TASK_SIZE_MAX &&
		!copy_from_user_nofault(&before, (void __user *)regs->ip - 1, 1) && before == 0xcc);
#else
	return false;
#endif
}

/* See up_uprobe_left(). */
void __up_uprobe_left(struct up_thread *t, const struct pt_regs *regs)
{
	WRITE_ONCE(t->in_uprobe, up_uprobe_now(regs, false));
}

/*
 * Context: interrupts off; the thread itself (@returning: in the hook), or @t is kept from
 * running.
 */
bool up_in_uprobe(struct up_thread *t, const struct pt_regs *regs, bool returning)
{
	return t->task == current ? up_uprobe_now(regs, returning) : READ_ONCE(t->in_uprobe);
}

/* What can be said of a thread that is switched out, too. */
static enum upreempt_reason up_check_frame(struct up_thread *t, const struct pt_regs *regs,
					   unsigned long ip, bool returning)
{
	if (ip >= TASK_SIZE_MAX)
		return UPREEMPT_R_KERNEL_IP;
	if (!user_64bit_mode((struct pt_regs *)regs))
		return UPREEMPT_R_NOT_64BIT;
	if (up_in_uprobe(t, regs, returning))
		return UPREEMPT_R_UPROBE;
	if (READ_ONCE(up_slot(t)->nopreempt))
		return UPREEMPT_R_DISABLED;
	return UPREEMPT_R_NONE;
}

static enum upreempt_reason up_check_common(struct up_thread *t, const struct pt_regs *regs)
{
	enum upreempt_reason reason = up_check_frame(t, regs, regs->ip, true);

	return reason ? reason : up_check_rseq(t, regs->ip);
}

/*
 * Context: @t is kept from running. NONE: it may be held where it is, before its next user
 * instruction. An rseq section needs no look: to have been switched out aborts it.
 */
enum upreempt_reason up_check_off(struct up_thread *t, const struct pt_regs *regs,
				  unsigned long ip)
{
	enum upreempt_reason reason;

	if (!up_gate_address(t))
		return UPREEMPT_R_NO_GATE;
	reason = up_check_frame(t, regs, ip, false);
	/* What only a change of its registers would cure is left to its hook. */
	return reason ? reason : up_check_code(t, ip);
}

/* A thread that came by itself knows where it is; one that is held elsewhere stays there. */
static enum upreempt_reason up_check_table(struct up_thread *t, struct pt_regs *regs)
{
	if (t->cooperating)
		return UPREEMPT_R_NONE;
	return up_thread_held_elsewhere(t) ? up_check_code(t, regs->ip) :
					     up_enforce_code(t, regs);
}

/*
 * Context: the hook, under t->lock. NONE: the thread may be held here; in its @grace wherever
 * it is, as it is not to be set back in a sequence for a stop that does not come yet.
 */
enum upreempt_reason up_check_stop(struct up_thread *t, struct pt_regs *regs, bool grace)
{
	enum upreempt_reason reason;

	if (!up_gate_address(t))
		return UPREEMPT_R_NO_GATE;
	reason = up_check_common(t, regs);
	return reason || grace ? reason : up_check_table(t, regs);
}

/* Context: the hook, under t->lock. NONE: a safe point, for what holds nothing. */
enum upreempt_reason up_check_sample(struct up_thread *t, struct pt_regs *regs)
{
	enum upreempt_reason reason = up_check_common(t, regs);

	return reason ? reason : up_check_table(t, regs);
}

static enum upreempt_reason up_check_stack(const struct up_thread *t, unsigned long sp)
{
	if (!t->stack_hi || !up_guard(UP_GUARD_STACK))
		return UPREEMPT_R_NONE;
	if (sp <= t->stack_lo || sp > t->stack_hi)
		return UPREEMPT_R_STACK_BOUNDS;
	/* the red zone and the rounding to 16 come on top */
	if (sp - t->stack_lo < t->stack_need + 128UL + 16UL)
		return UPREEMPT_R_STACK_ROOM;
	return UPREEMPT_R_NONE;
}

/* Context: the hook, under t->lock. NONE: the thread may enter its landing. */
enum upreempt_reason up_check_redirect(struct up_thread *t, struct pt_regs *regs)
{
	enum upreempt_reason reason = up_check_common(t, regs);

	if (reason)
		return reason;
	if (regs->ip - t->landing < t->landing_end - t->landing && up_guard(UP_GUARD_LANDING))
		return UPREEMPT_R_LANDING;
	if (READ_ONCE(up_slot(t)->busy))
		return UPREEMPT_R_SLOT_BUSY;
	if (regs->flags & X86_EFLAGS_TF || test_thread_flag(TIF_SINGLESTEP))
		return UPREEMPT_R_SINGLE_STEP;
	if (on_sig_stack(regs->sp))
		return UPREEMPT_R_SIGNAL_STACK;
	if (up_at_signal_entry(regs) && up_guard(UP_GUARD_SIGNAL_FRAME))
		return UPREEMPT_R_SIGNAL_FRAME;
	reason = up_check_stack(t, regs->sp);
	return reason ? reason : up_check_table(t, regs);
}

/* Reasons that no waiting will cure: the request ends UNSAFE at once. */
bool up_reason_is_final(enum upreempt_reason reason)
{
	return reason == UPREEMPT_R_STACK_BOUNDS || reason == UPREEMPT_R_STACK_ROOM ||
	       reason == UPREEMPT_R_NO_GATE;
}

/**
 * up_strategy - what is done about the current thread, which must not be stopped where it is?
 * @t: current's registration
 * @regs: its final user frame
 * @why: the reason
 * @strategies: what was asked for
 * @taken: steps taken for it
 * @most: and how many it may take
 *
 * Whole functions of others are left at their return, sequences of one's own step by step; what
 * finds no return is stepped, too.
 *
 * Context: the hook, under t->lock; the thread is not held.
 * Return: STEPPING; another reason: try again later.
 */
enum upreempt_reason up_strategy(struct up_thread *t, const struct pt_regs *regs,
				 enum upreempt_reason why, u32 strategies, u32 taken, u32 most)
{
	enum upreempt_reason reason;
	bool steps;

	if (why != UPREEMPT_R_UNDECLARED && why != UPREEMPT_R_UNSAFE_RANGE)
		return why;
	steps = strategies & UPREEMPT_BY_STEP || up_code_steps(t, regs->ip);
	if (strategies & UPREEMPT_BY_RETURN && (why == UPREEMPT_R_UNDECLARED || !steps)) {
		reason = up_return_ask(t, regs);
		if (reason == UPREEMPT_R_RETURNING || !steps)
			return reason;
	}
	return steps ? up_step_ask(t, regs, taken, most) : why;
}
