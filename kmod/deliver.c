// SPDX-License-Identifier: GPL-2.0
/*
 * From a queued request to the thread: the kick (IPI), the arming of the hook, and
 * the hook itself, which runs with interrupts off immediately before the return to
 * user mode, when task_pt_regs(current) is final.
 *
 * Only the thread itself changes its registers, and only in the hook. Others may
 * read the saved frame of a thread that is switched out, under the pin.
 */
#include <asm/fsgsbase.h>
#include <asm/msr.h>
#include <linux/sched/signal.h>

#include "upreempt.h"
#include "trace.h"

/* ---- capture ------------------------------------------------------------------ */

/*
 * Into the event of the first request in the queue, to stay there when that becomes final
 * now; for all others it is copied. Valid as long as t->lock is held.
 *
 * The task is current with interrupts off, or switched out under the pin. It may also be
 * current in sched_out, where the bases are still live in the CPU.
 */
static const struct upreempt_regs *up_capture(struct up_thread *t, const struct pt_regs *regs)
{
	struct up_request *first = list_first_entry(&t->queue, struct up_request, node);
	struct upreempt_regs *r = &first->event.regs;
	struct task_struct *task = t->task;

	/* Every field: the program sees all of it. */
	r->reserved[0] = 0;
	r->reserved[1] = 0;
	r->r15 = regs->r15;
	r->r14 = regs->r14;
	r->r13 = regs->r13;
	r->r12 = regs->r12;
	r->rbp = regs->bp;
	r->rbx = regs->bx;
	r->r11 = regs->r11;
	r->r10 = regs->r10;
	r->r9 = regs->r9;
	r->r8 = regs->r8;
	/* An IPI may have come while a system call's result is stored; rax is undefined then. */
	r->rax = data_race(regs->ax);
	r->rcx = regs->cx;
	r->rdx = regs->dx;
	r->rsi = regs->si;
	r->rdi = regs->di;
	r->rsp = regs->sp;
	r->rip = up_thread_true_ip(task, regs);
	r->rflags = regs->flags;
	r->orig_rax = data_race(regs->orig_ax);	/* see up_in_syscall() */
	r->sigmask = task->blocked.sig[0];
	if (task == current) {
		r->fs_base = x86_fsbase_read_cpu();
		rdmsrq(MSR_KERNEL_GS_BASE, r->gs_base);
	} else {
		r->fs_base = task->thread.fsbase;
		r->gs_base = task->thread.gsbase;
	}
	return r;
}

/* A thread that is switched out with the frame of an interrupt or an exception. */
static enum upreempt_reason up_why_off(const struct up_thread *t)
{
	return READ_ONCE(t->task->__state) == TASK_RUNNING ? UPREEMPT_R_NOT_RUN :
							     UPREEMPT_R_EXCEPTION;
}

/* ---- what the saved frame alone can answer -------------------------------------- */

/* What the request asks of the code that made the system call, or (SAFE) was interrupted. */
static enum upreempt_reason up_frame_code(const struct up_thread *t, const struct up_request *r,
					  bool stands, unsigned long ip)
{
	u32 asks = stands ? UPREEMPT_REQ_DECLARED_CALLER : UPREEMPT_REQ_SAFE;

	return r->flags & asks ? up_check_code(t, ip) : UPREEMPT_R_NONE;
}

/**
 * up_frame_requests - answer what needs no more than the saved user frame
 * @t: the thread: current (in the kernel), or switched out and pinned
 * @regs: its user frame
 *
 * A thread in a system call is BLOCKED for SAMPLE and STOP. One that is switched out
 * elsewhere can still be sampled. One that waits in the gate is stopped already.
 *
 * Context: interrupts off.
 */
void up_frame_requests(struct up_thread *t, const struct pt_regs *regs)
{
	bool syscall = up_in_syscall(regs);
	const struct upreempt_regs *cap;
	enum upreempt_reason reason;
	struct up_request *r, *n;
	enum upreempt_outcome out;
	enum upreempt_frame frame;

	raw_spin_lock(&t->lock);
	if (list_empty(&t->queue))
		goto unlock;

	cap = up_capture(t, regs);
	out = syscall && !t->gated ? UPREEMPT_BLOCKED : UPREEMPT_LANDED;
	frame = syscall && !t->gated ? UPREEMPT_FRAME_SYSCALL : UPREEMPT_FRAME_USER;

	list_for_each_entry_safe(r, n, &t->queue, node) {
		if (r->grace_end_ns && !syscall && !t->gated) {
			up_request_note(t, r, UPREEMPT_R_GRACE, cap->rip);
			continue;
		}
		reason = up_frame_code(t, r, syscall || t->gated, cap->rip);
		if (reason) {
			up_request_note(t, r, reason, cap->rip);
			continue;
		}
		if (!up_request_room_for_record(t, r)) {
			up_request_defer(t, r, UPREEMPT_R_RING_FULL, cap->rip);
			up_retry_later(t);
			continue;
		}
		switch (r->event.kind) {
		case UPREEMPT_SAMPLE:
			if (up_in_uprobe(t, regs, false))
				up_request_note(t, r, UPREEMPT_R_UPROBE, cap->rip);
			else
				up_request_complete(t, r, out, UPREEMPT_R_NONE, frame, cap);
			break;
		case UPREEMPT_STOP:
			if (up_world_owned_by(t))
				up_request_note(t, r, UPREEMPT_R_STOPPER, cap->rip);
			else if (t->gated || (syscall && user_64bit_mode((struct pt_regs *)regs)))
				up_request_complete(t, r, out, UPREEMPT_R_NONE, frame, cap);
			else if (syscall)
				up_request_note(t, r, UPREEMPT_R_NOT_64BIT, cap->rip);
			else
				up_request_note(t, r, up_why_off(t), cap->rip);
			break;
		case UPREEMPT_REDIRECT:
			if (syscall && r->flags & UPREEMPT_REQ_OR_BLOCKED)
				up_request_complete(t, r, out, UPREEMPT_R_NONE, frame, cap);
			else
				up_request_note(t, r, t->gated ? UPREEMPT_R_HELD :
						syscall ? UPREEMPT_R_IN_SYSCALL : up_why_off(t),
						cap->rip);
			break;
		}
		up_request_no_record(t, r);
	}
unlock:
	raw_spin_unlock(&t->lock);
}

/*
 * The switch may still be under way on the thread's CPU; its bases are saved at the end
 * of it. Or the next switch has brought it back, and sched_in waits for us: they still
 * are. Bounded: an interrupt may have come in between over there, and its handler may be
 * waiting for a thread that was interrupted here.
 */
bool up_switched_out(struct up_thread *t)
{
	int i;

	for (i = 0; READ_ONCE(t->task->on_cpu) && !READ_ONCE(t->arrived); i++) {
		if (i == UP_SWITCH_SPINS)
			return false;
		cpu_relax();
	}
	smp_rmb();	/* on_cpu before the frame; pairs with the release in finish_task() */
	return true;
}

/*
 * Keep a thread that is switched out from running: sched_in, and with it exit, has to wait.
 * Context: interrupts off. Return: whether it was off, or is on a CPU.
 */
bool up_pin(struct up_thread *t)
{
	int where;

	do {
		where = atomic_cmpxchg(&t->where, UP_OFF, UP_PINNED);
	} while (where == UP_PINNED && (cpu_relax(), true));
	return where == UP_OFF;
}

void up_unpin(struct up_thread *t)
{
	atomic_set_release(&t->where, UP_OFF);
}

/* The thread is switched out, or was a moment ago: look at its frame. */
static void up_off_cpu(struct up_thread *t)
{
	unsigned long flags;

	local_irq_save(flags);
	if (!up_pin(t))
		goto restore;	/* sched_in sees attention and does the same itself */

	if (t->task->flags & PF_EXITING || up_thread_moved_on(t)) {
		up_thread_finish(t, UPREEMPT_GONE);
	} else if (up_switched_out(t)) {
		up_frame_requests(t, task_pt_regs(t->task));
	} else {
		raw_spin_lock(&t->lock);
		up_retry_later(t);
		raw_spin_unlock(&t->lock);
	}
	up_unpin(t);
restore:
	local_irq_restore(flags);
}

/* ---- kick and arm ------------------------------------------------------------------ */

/*
 * The caller of smp_call_function_single_async() has to see to it that one csd is not
 * sent twice at a time; whoever comes second is told EBUSY.
 */
static bool up_send_ipi(struct up_thread *t, int cpu)
{
	int ret = -EBUSY;

	if (!test_and_set_bit(UP_IRQ_IPI, &t->irq_flags)) {
		ret = smp_call_function_single_async(cpu, &t->csd);
		if (ret) {
			clear_bit(UP_IRQ_IPI, &t->irq_flags);
		} else {
			t->count.ipis++;
			up_user_ipi(t->domain->user);
		}
	}
	trace_upreempt_ipi(t->domain->id, t->tid, cpu, ret);
	return !ret;
}

/**
 * up_kick - see to it that @t notices its attention word
 * @t: the caller has set attention
 *
 * Context: any but under rq->lock, the pin or t->lock.
 */
void up_kick(struct up_thread *t)
{
	unsigned long flags;
	int where;

	/* Before preemption is disabled: up_list_is_ours() asks what the timer interrupted. */
	if (t->task == current) {
		local_irq_save(flags);
		up_on_cpu(t, in_hardirq() ? UP_FROM_TIMER : UP_FROM_SELF);
		local_irq_restore(flags);
		return;
	}
	preempt_disable();
	smp_mb();	/* E: attention before where; pairs with F in up_sched_in() */
	where = atomic_read(&t->where);
	up_inject(kick_delay);
	if (where == UP_OFF || where == UP_PINNED) {
		up_off_cpu(t);
	} else if (where >= 0 && refcount_inc_not_zero(&t->ref)) {
		/*
		 * EBUSY: an IPI is under way and will follow the thread. ENXIO: the CPU
		 * went offline, so the thread has left it and sched_in will see.
		 */
		if (!up_send_ipi(t, where))
			up_thread_put(t);
	}
	preempt_enable();
}

/**
 * up_look - answer what a switched out thread's frame can answer, and interrupt nobody
 * @t: the caller has set attention
 *
 * Context: as up_kick().
 */
void up_look(struct up_thread *t)
{
	smp_mb();	/* E */
	if (atomic_read(&t->where) < 0)
		up_off_cpu(t);
}

/* Context: IPI. The reference that up_kick() took is ours. */
void up_ipi(void *info)
{
	struct up_thread *t = info;
	int where;

	up_inject(ipi_delay);
	clear_bit(UP_IRQ_IPI, &t->irq_flags);
	/* Before we look: who was told EBUSY because of us is seen below. */
	smp_mb__after_atomic();
	if (current == t->task) {
		up_on_cpu(t, UP_FROM_IPI);
		up_thread_put(t);
		return;
	}
	/*
	 * It has moved on while we were under way, and a requester may have been told
	 * EBUSY because of us: follow it.
	 */
	smp_mb();	/* as E */
	where = atomic_read(&t->where);
	if (up_wanted(t) && up_guard(UP_GUARD_FORWARD)) {
		if (where >= 0 && where != smp_processor_id() && up_send_ipi(t, where))
			return;		/* the reference went along */
		if (where == UP_OFF || where == UP_PINNED)
			up_off_cpu(t);
	}
	up_thread_put(t);
}

/**
 * up_on_cpu - look after the current thread from inside the kernel
 * @t: current's registration
 * @from: where we are
 *
 * Context: interrupts off.
 */
void up_on_cpu(struct up_thread *t, enum up_arm_from from)
{
	struct pt_regs *regs = task_pt_regs(current);

	/* Interrupted in user mode: the hook answers. (Only the thread itself changes gated.) */
	if (current->flags & PF_EXITING || up_thread_moved_on(t))
		up_thread_finish(t, UPREEMPT_GONE);
	else if (up_in_syscall(regs) || READ_ONCE(t->gated))
		up_frame_requests(t, regs);
	if (up_wanted(t)) {
		up_arm(t, from);
		up_world_on_cpu(t, regs);
	}
}

/*
 * The list of user return notifiers is per CPU and its other user, KVM, changes it
 * with preemption off but interrupts on. An interrupt that came into such a section
 * must not touch it.
 */
static bool up_list_is_ours(void)
{
	if (!in_hardirq())
		return true;
	if (IS_ENABLED(CONFIG_PREEMPT_COUNT))
		return !(preempt_count() & PREEMPT_MASK);
	return !up_in_syscall(task_pt_regs(current));
}

/* Context: interrupts off; @t is current and wanted. */
void up_arm(struct up_thread *t, enum up_arm_from from)
{
	if (unlikely(t->rseq_fault)) {
		t->rseq_fault = false;
		up_rseq_touch();
	}
	/* An IPI, or a kick of its own, may still find a thread that has detached itself. */
	if (t->armed || atomic_read(&t->where) == UP_DEAD || current->flags & PF_EXITING)
		return;
	if (!up_list_is_ours() || (from == UP_FROM_IPI && up_inject_take(refuse_arm))) {
		raw_spin_lock(&t->lock);
		up_retry_later(t);
		raw_spin_unlock(&t->lock);
		return;
	}
	t->armed = true;
	user_return_notifier_register(&t->urn);
	trace_upreempt_arm(t->domain->id, t->tid, from);
}

/* Context: interrupts off; @t is current. */
void up_disarm(struct up_thread *t)
{
	if (!t->armed)
		return;
	user_return_notifier_unregister(&t->urn);
	t->armed = false;
}

/* ---- the hook ------------------------------------------------------------------------ */

/* Make the thread look as if it had called the landing; its registers go to the slot. */
static void up_redirect(struct up_thread *t, struct up_request *r, struct pt_regs *regs,
			const struct upreempt_regs *cap)
{
	struct upreempt_slot *slot = up_slot(t);
	unsigned long sp = regs->sp;

	up_regs_copy(&slot->regs, cap);
	slot->seq = r->event.seq;
	slot->cookie = r->event.cookie;
	slot->request_ns = r->event.request_ns;
	WRITE_ONCE(slot->busy, 1);

	if (up_guard(UP_GUARD_RED_ZONE))
		sp -= 128;
	regs->ip = t->landing;
	regs->sp = round_down(sp, 16);
	regs->di = t->arg;
	regs->si = r->event.seq;
	if (up_guard(UP_GUARD_FLAGS))
		regs->flags &= ~(X86_EFLAGS_DF | X86_EFLAGS_TF | X86_EFLAGS_RF | X86_EFLAGS_AC);
	/*
	 * As in every frame that is not a system call's. No restart depends on it: the kernel
	 * sets PC and rax back for one before the return notifiers run, interrupts stay off
	 * from there to user mode, and the next entry writes the whole frame, -1 included.
	 */
	regs->orig_ax = -1;
}

/* What the hook says to one request: NONE grants it. The frame may be changed. */
static enum upreempt_reason up_verdict(struct up_thread *t, struct up_request *r,
				       struct pt_regs *regs, const struct upreempt_regs *cap,
				       bool held, bool redirected)
{
	bool stands = held || t->hold;

	if (!up_request_room_for_record(t, r))
		return UPREEMPT_R_RING_FULL;
	switch (r->event.kind) {
	case UPREEMPT_STOP:
		if (up_world_owned_by(t))
			return UPREEMPT_R_STOPPER;
		return stands ? up_frame_code(t, r, true, cap->rip) :
				up_check_stop(t, regs, false);
	case UPREEMPT_REDIRECT:
		/* Held by us or another domain, or still on its way into the gate of one. */
		if (stands || (!redirected &&
			       (cap->rip != regs->ip || up_thread_held_elsewhere(t))))
			return UPREEMPT_R_HELD;
		return redirected ? UPREEMPT_R_SLOT_BUSY : up_check_redirect(t, regs);
	default:
		if (r->flags & UPREEMPT_REQ_SAFE && !redirected)
			return stands ? up_frame_code(t, r, true, cap->rip) :
					up_check_sample(t, regs);
		return up_in_uprobe(t, regs, true) ? UPREEMPT_R_UPROBE : UPREEMPT_R_NONE;
	}
}

/*
 * Under t->lock; up_hook() calls up_attention_update(). The samples show the thread before
 * it was redirected.
 * @held: by a stop of the world
 */
static void up_hook_requests(struct up_thread *t, struct pt_regs *regs, bool held)
{
	bool again = false, redirect = false;
	const struct upreempt_regs *cap;
	struct up_request *r, *n;

	if (list_empty(&t->queue))
		return;
	cap = up_capture(t, regs);
	list_for_each_entry_safe(r, n, &t->queue, node) {
		unsigned long ip = regs->ip;
		enum upreempt_reason reason;

		if (r->grace_end_ns && !t->cooperating && !held) {
			up_request_note(t, r, UPREEMPT_R_GRACE, cap->rip);
			up_poll_set(t);
			continue;
		}
		reason = up_verdict(t, r, regs, cap, held, redirect);
		if (t->stepped && r->reason == UPREEMPT_R_STEPPING)
			r->event.steps++;
		if (reason && !held && !t->hold && !redirect)
			reason = up_strategy(t, regs, reason, r->strategies, r->event.steps,
					     r->steps);
		if (reason == UPREEMPT_R_RETURNING)
			r->event.strategy |= UPREEMPT_BY_RETURN;
		if (regs->ip != ip || reason == UPREEMPT_R_POLL_SET)
			cap = up_capture(t, regs);
		if (up_reason_is_final(reason)) {
			__up_request_complete(t, r, UPREEMPT_UNSAFE, reason,
					      UPREEMPT_FRAME_USER, cap);
			continue;
		}
		if (reason == UPREEMPT_R_STEPPING) {
			up_request_no_record(t, r);
			up_request_note(t, r, reason, cap->rip);
			continue;
		}
		if (reason) {
			up_request_no_record(t, r);
			up_request_defer(t, r, reason, cap->rip);
			again |= reason != UPREEMPT_R_HELD && reason != UPREEMPT_R_STOPPER;
			continue;
		}
		trace_upreempt_deliver(t->domain->id, t->tid, r->event.seq, r->event.kind,
				       cap->rip);
		if (r->event.kind == UPREEMPT_REDIRECT)
			up_redirect(t, r, regs, cap);
		__up_request_complete(t, r, t->cooperating ? UPREEMPT_COOPERATED : UPREEMPT_LANDED,
				      UPREEMPT_R_NONE, UPREEMPT_FRAME_USER, cap);
		if (r->event.kind == UPREEMPT_REDIRECT) {
			redirect = true;
			up_slot(t)->landed_ns = r->event.final_ns;
		}
	}
	if (again)
		up_retry_later(t);
}

/* The user's bits of the flags; the rest stays as the kernel has it. */
#define UP_USER_FLAGS	(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | X86_EFLAGS_ZF | \
			 X86_EFLAGS_SF | X86_EFLAGS_DF | X86_EFLAGS_OF | X86_EFLAGS_AC | \
			 X86_EFLAGS_ID)

/* Under t->lock: the registers that RESUME left, if this is still its return. */
static void up_resume_apply(struct up_thread *t, struct pt_regs *regs)
{
	const struct upreempt_regs *r = &t->resume;

	t->resume_valid = false;
	if (regs->ip != t->resume_ip || regs->sp != t->resume_sp || !up_in_syscall(regs))
		return;		/* a signal came first: the caller asks again */

	regs->r15 = r->r15;
	regs->r14 = r->r14;
	regs->r13 = r->r13;
	regs->r12 = r->r12;
	regs->bp = r->rbp;
	regs->bx = r->rbx;
	regs->r11 = r->r11;
	regs->r10 = r->r10;
	regs->r9 = r->r9;
	regs->r8 = r->r8;
	regs->ax = r->rax;
	regs->cx = r->rcx;
	regs->dx = r->rdx;
	regs->si = r->rsi;
	regs->di = r->rdi;
	regs->sp = r->rsp;
	regs->ip = r->rip;
	regs->flags = (regs->flags & ~UP_USER_FLAGS) | (r->rflags & UP_USER_FLAGS);
	regs->orig_ax = -1;
	t->count.resumes++;
	trace_upreempt_resume(t->domain->id, t->tid, regs->ip);
}

/**
 * up_resume - let the current thread go on with @regs at this system call's return
 * @t: current's registration
 * @regs: of the kernel's own copy
 *
 * An ioctl cannot load registers itself: its return value would be stored over rax,
 * cut to an int. The hook of the same exit does it.
 *
 * Context: process.
 * Return: 0, -EINVAL.
 */
int up_resume(struct up_thread *t, const struct upreempt_regs *regs)
{
	struct pt_regs *now = task_pt_regs(current);
	unsigned long flags;

	if (regs->rip >= TASK_SIZE_MAX || regs->reserved[0] || regs->reserved[1])
		return -EINVAL;
	raw_spin_lock_irqsave(&t->lock, flags);
	t->resume = *regs;
	t->resume_ip = now->ip;
	t->resume_sp = now->sp;
	t->resume_valid = true;
	up_attention_update(t);
	up_arm(t, UP_FROM_SELF);
	raw_spin_unlock_irqrestore(&t->lock, flags);
	return 0;
}

/* Context: return to user mode, interrupts off. */
void up_hook(struct user_return_notifier *urn)
{
	struct up_thread *t = container_of(urn, struct up_thread, urn);
	struct pt_regs *regs = task_pt_regs(current);
	bool held;

	/* Cannot be while sched_out disarms. */
	if (WARN_ON_ONCE(current != t->task && up_guard(UP_GUARD_SCHED_OUT)))
		return;
	if (current != t->task)
		return;

	up_inject(hook_delay);
	t->count.hooks++;
	up_step_end(t, regs);
	if (t->closing || up_thread_moved_on(t)) {
		/* What the gate took must be given back before nobody remembers it. */
		if (!up_thread_moved_on(t)) {
			raw_spin_lock(&t->lock);
			up_gate_undo_at_return(t, regs);
			raw_spin_unlock(&t->lock);
		}
		up_thread_detach(t);
		return;
	}
	raw_spin_lock(&t->lock);
	up_gate_undo_at_return(t, regs);
	if (t->resume_valid)
		up_resume_apply(t, regs);
	/* A handler that was entered on the way back from POLL came by no will of its own. */
	if (t->cooperating && up_at_signal_entry(regs))
		t->cooperating = false;
	held = up_world_hook(t, regs);
	up_hook_requests(t, regs, held);
	/* Interrupted on its way into the gate of another domain, and from there into ours? */
	if ((t->hold || held) && !up_thread_at_gate(t, regs) && !up_gate_enter(t, regs))
		up_retry_later(t);
	/* The last change to the frame; a thread that goes elsewhere now is asked for again. */
	if (t->step_ip && !up_step_set(t, regs))
		up_retry_later(t);
	t->stepped = false;
	up_return_visited(t);
	t->cooperating = false;
	up_attention_update(t);
	up_inject(hook_end_delay);
	/* A stop may have ended since a step was set: no signal's frame must get the flag. */
	if (!up_wanted(t) && !t->stepping)
		up_disarm(t);
	raw_spin_unlock(&t->lock);
}
