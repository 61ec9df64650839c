// SPDX-License-Identifier: GPL-2.0
/*
 * The gate: where stopped threads wait. Restore, then wait.
 *
 * The hook cannot sleep. It points the thread's PC at a page of the device's mapping
 * that is never populated (one byte of it for each slot); nothing else is changed.
 * The instruction fetch faults, and the driver's ->fault first writes the true PC back
 * to the user frame and only then waits, interruptible and freezable. So debuggers,
 * signals, core dumps and the freezer see the true registers; SIGKILL works; no user
 * stack, no user code, no system call is needed, and a closed file descriptor or a
 * seccomp filter changes nothing. On a signal the fault simply returns; the hook then
 * catches the thread again at the handler's first instruction.
 *
 * Between the hook's return and the fault an interrupt may come in, and even a signal.
 * The entry is therefore kept by stack pointer, and whoever comes back to the gate's
 * address with that stack pointer gets its PC back. Whenever the hook, a capture or a
 * context switch meets the gate's address it translates, and the hook mends the frame of
 * a signal that was built over it.
 *
 * The fault's mechanism is that of userfaultfd: release mmap_lock, wait, and say that
 * the fault is complete.
 */
#include <asm/sigframe.h>
#include <linux/err.h>
#include <linux/freezer.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "upreempt.h"
#include "trace.h"

/* The address that stands for this thread's gate; 0 when the mapping is gone. */
unsigned long up_gate_address(const struct up_thread *t)
{
	unsigned long base = READ_ONCE(t->domain->uaddr);

	return base ? base + t->domain->gate_off + t->index : 0;
}

/* What slot.trigger holds while nobody wants the thread: its slot, which can be read. */
unsigned long up_trigger_address(const struct up_thread *t)
{
	const struct up_domain *d = t->domain;
	unsigned long base = READ_ONCE(d->uaddr);

	return base ? base + ((void *)up_slot(t) - d->mem) : 0;
}

/* Ask the thread to come by itself. Its slot is the program's: a lost store harms only that. */
void up_poll_set(struct up_thread *t)
{
	struct upreempt_slot *slot = up_slot(t);

	if (t->dead)
		return;
	WRITE_ONCE(slot->trigger, up_gate_address(t));
	WRITE_ONCE(slot->poll, 1);
}

static struct up_gate_entry *up_gate_find(struct up_thread *t, unsigned long ip, unsigned long sp)
{
	struct up_gate_entry *e;

	if (!t->gates || ip != up_gate_address(t))
		return NULL;
	for (e = t->gate; e < t->gate + UP_GATE_DEPTH; e++)
		if (e->ip && e->sp == sp)
			return e;
	return NULL;
}

/* The PC that user space has to see for @ip, with this stack pointer. */
unsigned long up_gate_true_ip(struct up_thread *t, unsigned long ip, unsigned long sp)
{
	struct up_gate_entry *e = up_gate_find(t, ip, sp);

	return e ? e->ip : ip;
}

static void up_gate_forget(struct up_thread *t, struct up_gate_entry *e)
{
	t->gates_left -= e->left;
	e->left = false;
	e->ip = 0;
	WRITE_ONCE(t->gates, t->gates - 1);
}

static struct up_gate_entry *up_gate_give_back(struct up_thread *t, struct pt_regs *regs)
{
	struct up_gate_entry *e = up_gate_find(t, regs->ip, regs->sp);

	if (!e)
		return NULL;
	up_inject(undo_delay);
	regs->ip = e->ip;
	regs->flags = (regs->flags & ~X86_EFLAGS_RF) | e->rf;	/* the fault set RF */
	regs->orig_ax = -1;
	return e;
}

/*
 * Give the PC back. Context: the thread itself, interrupts off.
 * Return: whether it was at the gate.
 */
bool up_gate_undo(struct up_thread *t, struct pt_regs *regs)
{
	struct up_gate_entry *e = up_gate_give_back(t, regs);

	if (e)
		up_gate_forget(t, e);
	return e;
}

static bool up_gate_in_frame(struct up_thread *t, const struct sigcontext *sc)
{
	return up_gate_find(t, sc->ip, sc->sp);
}

/*
 * A signal came between the hook and the fault. Its frame, which the kernel wrote a moment
 * ago, says that the gate's address was interrupted: put the true PC there. Where that
 * takes a fault the frame stays as it is, and the return from the handler comes by the gate.
 * Context: the thread itself, interrupts off, under t->lock.
 * Return: whether no frame needs its entry any more.
 */
static bool up_gate_mend_frame(struct up_thread *t, const struct pt_regs *regs)
{
	struct rt_sigframe __user *frame;
	struct up_gate_entry *e;
	struct sigcontext sc;

	if (likely(!t->gates))
		return true;
	frame = up_signal_frame(t, regs, up_gate_in_frame, &sc);
	if (IS_ERR_OR_NULL(frame))
		return !frame;
	e = up_gate_find(t, sc.ip, sc.sp);
	sc.ip = e->ip;
	if (copy_to_user_nofault(&frame->uc.uc_mcontext.ip, &sc.ip, sizeof(sc.ip)))
		return false;
	up_gate_forget(t, e);
	return true;
}

/* The hook. No frame is half written any more. Context: interrupts off, under t->lock. */
void up_gate_undo_at_return(struct up_thread *t, struct pt_regs *regs)
{
	bool done = up_gate_undo(t, regs) || up_gate_mend_frame(t, regs);
	struct up_gate_entry *e;

	if (likely(!t->gates_left))
		return;
	for (e = t->gate; e < t->gate + UP_GATE_DEPTH; e++) {
		if (e->left && done)
			up_gate_forget(t, e);
		e->left = false;
	}
	t->gates_left = 0;
}

/*
 * Switched out on its way into the gate: whoever looks at the thread now (a debugger, a
 * core dump) sees where it really is. The hook sends it back when it runs again.
 *
 * A thread that is @switched out may be writing a signal's frame, which has the gate's address
 * already: its entry stays until the hook has looked.
 * Context: the thread itself, in sched_out or in the gate.
 * Return: whether the PC has changed.
 */
bool up_gate_left(struct up_thread *t, struct pt_regs *regs, bool switched)
{
	struct up_gate_entry *e;
	unsigned long flags;

	raw_spin_lock_irqsave(&t->lock, flags);
	e = up_gate_give_back(t, regs);
	if (!e) {
		up_gate_mend_frame(t, regs);
	} else if (!switched) {
		up_gate_forget(t, e);
	} else if (!e->left) {
		e->left = true;
		t->gates_left++;
	}
	up_attention_update(t);
	raw_spin_unlock_irqrestore(&t->lock, flags);
	return e;
}

/*
 * The one with this stack pointer is stale (its frame was left by a jump), else a free one;
 * else the one in turn, whose thread will get SIGBUS. An entry of an outer signal frame must
 * outlive any number of visits.
 */
static struct up_gate_entry *up_gate_entry(struct up_thread *t, unsigned long sp)
{
	struct up_gate_entry *e, *found = NULL;

	for (e = t->gate; e < t->gate + UP_GATE_DEPTH; e++) {
		if (e->ip && e->sp == sp)
			return e;
		if (!e->ip && !found)
			found = e;
	}
	return found ? found : &t->gate[t->gate_next++ % UP_GATE_DEPTH];
}

/* Context: the hook, under t->lock. */
bool up_gate_enter(struct up_thread *t, struct pt_regs *regs)
{
	unsigned long address = up_gate_address(t);
	struct up_gate_entry *e;

	/* An IRET to a 32-bit code segment cannot reach the gate. */
	if (!address || !user_64bit_mode(regs))
		return false;
	e = up_gate_entry(t, regs->sp);
	if (!e->ip)
		WRITE_ONCE(t->gates, t->gates + 1);
	e->sp = regs->sp;
	e->ip = regs->ip;
	e->rf = regs->flags & X86_EFLAGS_RF;
	regs->ip = address;
	regs->orig_ax = -1;
	return true;
}

/* Under t->lock at the end of a wait: stay when a STOP was granted meanwhile. */
static bool up_gate_leave(struct up_thread *t, bool interrupted)
{
	unsigned long flags;
	bool stay;

	raw_spin_lock_irqsave(&t->lock, flags);
	stay = (t->hold || up_world_holds(t)) && !interrupted && !t->closing;
	if (!stay)
		t->gated = false;
	raw_spin_unlock_irqrestore(&t->lock, flags);
	return stay;
}

/*
 * Wait until neither a STOP nor a stop of the world holds the current thread.
 * Return: 0 (or it is closing), -ERESTARTSYS.
 */
int up_held_wait(struct up_thread *t)
{
	int ret;

	do {
		ret = wait_event_freezable(t->gate_wait, !READ_ONCE(t->hold) ||
					   READ_ONCE(t->closing));
		if (!ret)
			ret = wait_event_freezable(t->domain->world.gate, !up_world_holds(t) ||
						   READ_ONCE(t->closing));
	} while (!ret && !READ_ONCE(t->closing) && (READ_ONCE(t->hold) || up_world_holds(t)));
	return ret;
}

static void up_gate_wait(struct up_thread *t, unsigned long ip)
{
	unsigned long flags;
	bool held;
	int ret;

	trace_upreempt_gate(t->domain->id, t->tid, true, ip);
	up_inject(gate_delay);
	raw_spin_lock_irqsave(&t->lock, flags);
	held = (t->hold || up_world_holds(t)) && !t->closing;
	t->gated = held;
	t->count.gated++;
	up_attention_update(t);		/* no longer on its way */
	raw_spin_unlock_irqrestore(&t->lock, flags);
	up_inject(gate_wait_delay);
	/*
	 * Who came too late for one stop must not sleep for the next: nobody takes it for stopped,
	 * and where it is it may have to run on before it can be.
	 */
	if (held) {
		do {
			ret = up_held_wait(t);
		} while (up_gate_leave(t, ret));
	}
	trace_upreempt_gate(t->domain->id, t->tid, false, ip);

	/* Not asleep since the last arming, or woken by a signal: the hook decides. */
	local_irq_save(flags);
	if (up_wanted(t))
		up_arm(t, UP_FROM_GATE);
	local_irq_restore(flags);
}

/*
 * A poll by slot.trigger: the thread has read its own byte of the gate by "test %al,(%rax)".
 * Go on behind that, by way of the hook. Context: as up_gate_fault().
 */
static bool up_gate_polled(struct up_thread *t, struct pt_regs *regs)
{
	u8 code[2];
	unsigned long flags;

	if (regs->ip >= TASK_SIZE_MAX ||
	    copy_from_user_nofault(code, (void __user *)regs->ip, sizeof(code)) ||
	    code[0] != 0x84 || code[1] != 0)
		return false;
	regs->ip += sizeof(code);
	regs->flags &= ~X86_EFLAGS_RF;		/* the fault set it, for the instruction it left */
	WRITE_ONCE(up_slot(t)->trigger, up_trigger_address(t));
	/* Before we look: whoever set it before has said why, and who does it later sets it. */
	smp_mb();
	local_irq_save(flags);
	if (up_wanted(t)) {
		t->cooperating = true;
		up_arm(t, UP_FROM_GATE);
	}
	local_irq_restore(flags);
	return true;
}

/**
 * up_gate_fault - an access to the gate's pages
 * @d: the domain
 * @vmf: the fault
 *
 * Context: page fault, mmap_lock held.
 * Return: SIGBUS unless it is the fetch of a thread that the hook has sent here.
 */
vm_fault_t up_gate_fault(struct up_domain *d, struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;
	struct pt_regs *regs = task_pt_regs(current);
	unsigned long index;
	struct up_thread *t;
	bool entered;

	if (!(vmf->flags & FAULT_FLAG_USER) || !(vmf->flags & FAULT_FLAG_ALLOW_RETRY) ||
	    vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_SIGBUS;
	index = vmf->real_address - READ_ONCE(d->uaddr) - d->gate_off;
	if (index >= d->nr_slots)
		return VM_FAULT_SIGBUS;
	t = up_domain_thread(d, index);
	if (!t)
		return VM_FAULT_SIGBUS;
	if (t->task == current && !(vmf->flags & FAULT_FLAG_INSTRUCTION) &&
	    up_gate_polled(t, regs)) {
		up_thread_put(t);
		return VM_FAULT_NOPAGE;
	}
	/* Under its lock: to be switched out here undoes it as well. */
	entered = t->task == current && up_gate_left(t, regs, false);
	/* Not: a jump to here by the program, a load. But maybe switched out in this fault. */
	if (!entered && (t->task != current || !(vmf->flags & FAULT_FLAG_INSTRUCTION) ||
			 regs->ip == vmf->real_address)) {
		up_thread_put(t);
		return VM_FAULT_SIGBUS;
	}

	mmap_read_unlock(mm);
	if (entered) {
		up_thread_leave_gates(regs, false);
		up_gate_wait(t, regs->ip);
	}
	up_thread_put(t);
	/* NOPAGE for the core's fault code, COMPLETED for its caller: the lock is released. */
	return VM_FAULT_NOPAGE | VM_FAULT_COMPLETED;
}
