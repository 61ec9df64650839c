// SPDX-License-Identifier: GPL-2.0
/*
 * Single steps: out of code in which a thread may not be stopped, by the trap flag (TF).
 *
 * The hook decides: it sets TF in the user frame, the thread runs one instruction, and on the
 * trap's way back the hook, which is still armed, decides anew. No signal, no debugger, no
 * change of code. It takes as long as the steps, not as long as a timer happens to find the
 * thread at a safe place.
 *
 * TF is ours from the hook until the thread is in the kernel again, for whatever reason, and is
 * taken back there by the first of these:
 *
 *	the trap	our die notifier, with interrupts off, before anybody else sees it
 *	the hook	of the same entry's return: an interrupt, a fault
 *	sched_out	so a debugger, a core dump, or who copies the frame never meets it
 *
 * What may carry it away is not stepped: instructions that store or load flags, raise a trap
 * themselves, or enter the kernel in a way that saves them. What is left is the frame of a signal
 * that came in place of the trap, which is mended before the handler's first instruction.
 *
 * Only a thread with one registration: the hooks of several would undo each other's flag.
 */
#include <asm/debugreg.h>
#include <asm/sigframe.h>
#include <linux/err.h>
#include <linux/hw_breakpoint.h>
#include <linux/kdebug.h>
#include <linux/uaccess.h>

#include "upreempt.h"

#define UP_INSN_MAX	15		/* bytes */

/* Whether one step over the instruction at @ip changes nothing that the program can see. */
static bool up_step_fits(unsigned long ip)
{
	unsigned long n = min(PAGE_SIZE - offset_in_page(ip), (unsigned long)UP_INSN_MAX);
	u8 code[UP_INSN_MAX];
	unsigned int i;

	if (copy_from_user_nofault(code, (void __user *)ip, n))
		return false;
	for (i = 0; i < n; i++) {
		switch (code[i]) {
		case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64 ... 0x67:
		case 0x40 ... 0x4f: case 0xf0: case 0xf2: case 0xf3:
			continue;		/* prefixes */
		case 0x9c: case 0x9d: case 0xcf:		/* PUSHF, POPF, IRET */
		case 0xcc: case 0xcd: case 0xf1:		/* INT3, INT, INT1 */
		case 0x8e:					/* MOV SS and its like */
		case 0xd5:					/* REX2: any of these */
			return false;
		case 0x0f:
			if (i + 1 == n)
				return false;
			/* SYSCALL, SYSENTER, LSS */
			return code[i + 1] != 0x05 && code[i + 1] != 0x34 && code[i + 1] != 0xb2;
		default:
			return true;
		}
	}
	return false;		/* the rest is in the next page */
}

/**
 * up_step_ask - may the current thread be stepped, as it must not be stopped where it is?
 * @t: current's registration
 * @regs: its final user frame
 * @taken: steps taken for it
 * @most: and how many it may take
 *
 * Context: the hook, under t->lock; the thread is not held.
 * Return: STEPPING: the hook will see to it by up_step_set(). Else why not.
 */
enum upreempt_reason up_step_ask(struct up_thread *t, const struct pt_regs *regs, u32 taken,
				 u32 most)
{
	if (taken >= most)
		return UPREEMPT_R_STEP_BUDGET;
	if (regs->flags & X86_EFLAGS_TF || test_thread_flag(TIF_SINGLESTEP))
		return UPREEMPT_R_SINGLE_STEP;
	if (!hlist_is_singular_node(&t->pn.link, &current->preempt_notifiers) ||
	    !up_step_fits(regs->ip))
		return UPREEMPT_R_STEP_INSN;
	t->step_ip = regs->ip;
	return UPREEMPT_R_STEPPING;
}

/*
 * Context: the end of the hook, under t->lock. Return: whether the thread will trap; not when it
 * is held, or was sent elsewhere since up_step_ask().
 */
bool up_step_set(struct up_thread *t, struct pt_regs *regs)
{
	bool here = regs->ip == t->step_ip && !t->hold;

	t->step_ip = 0;
	if (!here)
		return false;
	t->stepping = true;
	t->step_sp = regs->sp;
	regs->flags |= X86_EFLAGS_TF;
	return true;
}

static bool up_step_in_frame(struct up_thread *t, const struct sigcontext *sc)
{
	return sc->flags & X86_EFLAGS_TF && sc->sp == t->step_sp;
}

/*
 * A signal came in place of the trap: its frame, or that of the first of several, has our flag,
 * for @sure or maybe. Where it cannot be read or written now the flag will raise its trap one day,
 * which is swallowed.
 */
static void up_step_mend(struct up_thread *t, const struct pt_regs *regs, bool sure)
{
	struct rt_sigframe __user *frame;
	struct sigcontext sc;

	/* The stack as it was: it is stepped at a handler's start, with an older frame. */
	if (regs->sp == t->step_sp || !up_at_signal_entry(regs) || !up_guard(UP_GUARD_STEP_FRAME))
		return;
	frame = up_signal_frame(t, regs, up_step_in_frame, &sc);
	if (!IS_ERR_OR_NULL(frame)) {
		sc.flags &= ~X86_EFLAGS_TF;
		if (!copy_to_user_nofault(&frame->uc.uc_mcontext.flags, &sc.flags,
					  sizeof(sc.flags)))
			return;
	}
	if (frame || sure)
		t->step_lost = true;
}

/* Return: whether the flag was where it belongs. */
static bool up_step_clear(struct up_thread *t, struct pt_regs *regs)
{
	bool had = regs->flags & X86_EFLAGS_TF;

	t->stepping = false;
	regs->flags &= ~X86_EFLAGS_TF;
	if (!had)
		up_step_mend(t, regs, true);
	return had;
}

/**
 * up_step_end - the trap flag is the thread's own again
 * @t: current's registration
 * @regs: its final user frame
 *
 * Context: interrupts off; a trap, or the hook.
 */
void up_step_end(struct up_thread *t, struct pt_regs *regs)
{
	if (unlikely(t->stepping))
		up_step_clear(t, regs);
	else if (unlikely(t->step_left))
		up_step_mend(t, regs, false);
	if (unlikely(t->step_left))
		WRITE_ONCE(t->step_left, false);
}

/*
 * The same in sched_out. There may be a signal's frame that was being written, and has the flag
 * by now: the hook will look.
 */
void up_step_left(struct up_thread *t, struct pt_regs *regs)
{
	if (likely(!t->stepping) || !up_step_clear(t, regs))
		return;
	raw_spin_lock(&t->lock);
	WRITE_ONCE(t->step_left, true);
	up_attention_update(t);
	raw_spin_unlock(&t->lock);
}

/*
 * What the debug registers seem to have met, but did not. The kernel would take it for somebody's:
 * SIGTRAP. One that is disabled still has its last address, ours maybe, and may say so (Intel's
 * manual, volume 3, "Debug Status Register (DR6)"). An execution breakpoint where a step has led to
 * raises a trap of its own when the thread goes on; perf leaves the first one alone.
 */
static void up_step_not_met(unsigned long *dr6)
{
	unsigned long dr7 = __this_cpu_read(cpu_dr7);
	unsigned int i;
	bool enabled, execute;

	for (i = 0; i < HBP_NUM; i++) {
		enabled = dr7 >> i * DR_ENABLE_SIZE & (DR_LOCAL_ENABLE | DR_GLOBAL_ENABLE);
		execute = !(dr7 >> (DR_CONTROL_SHIFT + i * DR_CONTROL_SIZE) & DR_RW_READ);
		if (!enabled || (execute && *dr6 & DR_STEP))
			*dr6 &= ~(DR_TRAP0 << i);
	}
}

/* Context: a trap, interrupts off. */
static int up_step_trap(struct notifier_block *nb, unsigned long what, void *data)
{
	const struct die_args *args = data;
	unsigned long *dr6;
	struct up_thread *t;
	bool ours;

	if ((what != DIE_DEBUG && what != DIE_INT3) || !user_mode(args->regs))
		return NOTIFY_DONE;
	t = up_thread_current();
	if (!t)
		return NOTIFY_DONE;
	dr6 = (unsigned long *)args->err;
	if (what == DIE_DEBUG)
		up_step_not_met(dr6);
	if (!(t->stepping || t->step_lost))
		return NOTIFY_DONE;
	ours = t->stepping || !test_thread_flag(TIF_SINGLESTEP);
	/* A breakpoint, of a debugger or a uprobe, before the step was made: the hook steps on. */
	if (what == DIE_INT3 || !(*dr6 & DR_STEP) || !ours) {
		up_step_end(t, args->regs);
		return NOTIFY_DONE;
	}
	t->stepped = t->stepping;
	t->stepping = true;
	t->step_lost = false;
	up_step_end(t, args->regs);
	*dr6 &= ~DR_STEP;
	current->thread.virtual_dr6 &= ~DR_STEP;
	return *dr6 ? NOTIFY_DONE : NOTIFY_STOP;
}

static struct notifier_block up_step_notifier = {
	.notifier_call = up_step_trap,
	.priority = INT_MAX,		/* before uprobes, which lend themselves TF */
};

int up_step_init(void)
{
	return register_die_notifier(&up_step_notifier);
}

void up_step_exit(void)
{
	unregister_die_notifier(&up_step_notifier);
}
