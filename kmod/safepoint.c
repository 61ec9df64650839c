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

/*
 * The kernel aborts an rseq section when the thread is preempted inside it. A redirect
 * moves the PC out of the section, so that later preemption would go unnoticed and the
 * section be resumed half way: refuse. When the area cannot be read without a fault, ask
 * the kernel's exit loop to touch it, which it does at the next return.
 */
static enum upreempt_reason up_check_rseq(unsigned long ip)
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
	set_tsk_thread_flag(current, TIF_NOTIFY_RESUME);
	return UPREEMPT_R_RSEQ_FAULT;
}

/* At the first instruction of a signal handler whose frame setup_rt_frame() just built. */
bool up_at_signal_entry(const struct pt_regs *regs)
{
	return regs->dx == regs->sp + offsetof(struct rt_sigframe, uc) &&
	       regs->si == regs->sp + offsetof(struct rt_sigframe, info) &&
	       regs->di - 1 < _NSIG && !regs->ax;
}

/*
 * Between a uprobe's breakpoint and the end of its out-of-line step the frame is the kernel's:
 * PC and TF, and with an operand relative to the PC a register, are lent: while it has a place
 * to step in, which comes before active_uprobe. @task is current or pinned; only it changes this.
 */
bool up_in_uprobe(struct task_struct *task)
{
#ifdef CONFIG_UPROBES
	struct uprobe_task *utask;
	bool stepping;

	/* It may have been switched out just before or just after it stores one of these. */
	utask = data_race(task->utask);
	/* The same. */
	stepping = utask && data_race(utask->active_uprobe || utask->xol_vaddr);
	return stepping || test_tsk_thread_flag(task, TIF_UPROBE);
#else
	return false;
#endif
}

/* What can be said of a thread that is switched out, too. */
static enum upreempt_reason up_check_frame(struct up_thread *t, const struct pt_regs *regs,
					   unsigned long ip)
{
	if (ip >= TASK_SIZE_MAX)
		return UPREEMPT_R_KERNEL_IP;
	if (!user_64bit_mode((struct pt_regs *)regs))
		return UPREEMPT_R_NOT_64BIT;
	if (up_in_uprobe(t->task))
		return UPREEMPT_R_UPROBE;
	if (READ_ONCE(up_slot(t)->nopreempt))
		return UPREEMPT_R_DISABLED;
	return UPREEMPT_R_NONE;
}

static enum upreempt_reason up_check_common(struct up_thread *t, const struct pt_regs *regs)
{
	enum upreempt_reason reason = up_check_frame(t, regs, regs->ip);

	return reason ? reason : up_check_rseq(regs->ip);
}

/*
 * Context: @t is kept from running. NONE: it may be held where it is, before its next user
 * instruction. An rseq section needs no look: to have been switched out aborts it.
 */
enum upreempt_reason up_check_off(struct up_thread *t, const struct pt_regs *regs,
				  unsigned long ip)
{
	if (!up_gate_address(t))
		return UPREEMPT_R_NO_GATE;
	return up_check_frame(t, regs, ip);
}

/* Context: the hook, under t->lock. NONE: the thread may be held here. */
enum upreempt_reason up_check_stop(struct up_thread *t, const struct pt_regs *regs)
{
	if (!up_gate_address(t))
		return UPREEMPT_R_NO_GATE;
	return up_check_common(t, regs);
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
enum upreempt_reason up_check_redirect(struct up_thread *t, const struct pt_regs *regs)
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
	return up_check_stack(t, regs->sp);
}

/* Reasons that no waiting will cure: the request ends UNSAFE at once. */
bool up_reason_is_final(enum upreempt_reason reason)
{
	return reason == UPREEMPT_R_STACK_BOUNDS || reason == UPREEMPT_R_STACK_ROOM ||
	       reason == UPREEMPT_R_NO_GATE;
}
