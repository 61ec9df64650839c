// SPDX-License-Identifier: GPL-2.0
/*
 * To the return: out of a call into code in which a thread may not be stopped, by hardware
 * breakpoints at the places to which it may return.
 *
 * The hook finds the thread in such code, say in memset(). It looks through the live end of the
 * stack for return addresses: words that lie behind a call, where the thread may be stopped. The
 * first few of them become execution breakpoints of this thread alone. It runs the rest of the
 * call at its own speed, and the trap brings it into the hook at the first one that it comes to,
 * before the instruction there.
 *
 * No unwind tables are needed, and neither the stack nor the code nor a register is changed:
 * unwinders, exceptions, uretprobes and shadow stacks see nothing of it. A word may be stale, or
 * no return address at all. Then nobody comes by there, or a thread that may be stopped there as
 * well. Where stale words take the places of the true one the timer finds the thread later, as
 * it would have without.
 *
 * Breakpoints are perf events. To make one sleeps, so a work item does, and takes them away.
 */
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <linux/uaccess.h>

#include "upreempt.h"

#define UP_RETURN_SCAN	8192UL		/* bytes of the stack */
#define UP_RETURN_WORDS	192		/* of it that may be addresses: each is looked up */
#define UP_RETURN_LOOKS	64		/* at code: each may fault, with interrupts off */
#define UP_RETURN_RETRY	(HZ / 100)	/* jiffies */
#define UP_CALL_MAX	7		/* bytes: ff /2 with SIB and disp32 */

/* Is there a call immediately before @ip? By its form; one that is none costs a breakpoint. */
static bool up_behind_call(unsigned long ip)
{
	static const u8 len[] = { 2, 3, 4, 6, 7 };	/* of ff /2 */
	u8 code[UP_CALL_MAX], *end = code + UP_CALL_MAX;
	unsigned int i;

	if (copy_from_user_nofault(code, (void __user *)(ip - UP_CALL_MAX), sizeof(code)))
		return false;
	if (end[-5] == 0xe8)
		return true;
	for (i = 0; i < ARRAY_SIZE(len); i++)
		if (end[-len[i]] == 0xff && (end[1 - len[i]] & 0x38) == 0x10)
			return true;
	return false;
}

/* What a search may still cost, with interrupts off. */
struct up_return_budget {
	unsigned int words, looks;
};

static bool up_return_fits(const struct up_thread *t, unsigned long ip,
			   const unsigned long *at, unsigned int n, struct up_return_budget *left)
{
	unsigned int i;

	if (ip < PAGE_SIZE || ip >= TASK_SIZE_MAX)
		return false;
	for (i = 0; i < n; i++)
		if (at[i] == ip)
			return false;
	if (!left->words)
		return false;
	left->words--;
	if (up_check_code(t, ip) || !left->looks)
		return false;
	left->looks--;
	return up_behind_call(ip);
}

/* Return: how many it has found, the innermost first. */
static unsigned int up_return_find(const struct up_thread *t, unsigned long sp,
				   unsigned long *at)
{
	unsigned long word[32], end = ALIGN_DOWN(sp, sizeof(*word)) + UP_RETURN_SCAN;
	struct up_return_budget left = { .words = UP_RETURN_WORDS, .looks = UP_RETURN_LOOKS };
	unsigned int n = 0, i, bytes;

	if (sp < t->stack_hi)
		end = min(end, t->stack_hi);
	for (sp = ALIGN_DOWN(sp, sizeof(*word)); sp + sizeof(*word) <= end; sp += bytes) {
		bytes = min3(sizeof(word), end - sp, PAGE_SIZE - offset_in_page(sp));
		bytes = ALIGN_DOWN(bytes, sizeof(*word));
		if (copy_from_user_nofault(word, (void __user *)sp, bytes))
			break;
		for (i = 0; i < bytes / sizeof(*word); i++) {
			if (up_return_fits(t, word[i], at, n, &left))
				at[n++] = word[i];
			if (n == UP_RETURNS || !left.words || !left.looks)
				return n;
		}
	}
	return n;
}

/**
 * up_return_ask - set breakpoints where the current thread may return to
 * @t: current's registration
 * @regs: its final user frame, where it must not be stopped
 *
 * Context: the hook, under t->lock.
 * Return: RETURNING; NO_RETURN: nothing to return to was found, or no debug register is free.
 */
enum upreempt_reason up_return_ask(struct up_thread *t, const struct pt_regs *regs)
{
	unsigned long at[UP_RETURNS] = { 0 };

	/* Once for all who ask in this visit of the hook: it is the same stack. */
	if (t->return_said)
		return t->return_said;
	t->return_said = UPREEMPT_R_NO_RETURN;
	if (!up_return_find(t, regs->sp, at))
		return UPREEMPT_R_NO_RETURN;
	t->return_asked = true;
	if (memcmp(at, t->return_at, sizeof(at))) {
		memcpy(t->return_at, at, sizeof(at));
		t->return_failed = false;
		t->return_tried = jiffies;
		up_thread_wake(t, UP_IRQ_RETURN);
	} else if (t->return_failed && jiffies - t->return_tried > UP_RETURN_RETRY) {
		/* Others may have given theirs back. */
		t->return_tried = jiffies;
		up_thread_wake(t, UP_IRQ_RETURN);
	}
	if (!t->return_failed)
		t->return_said = UPREEMPT_R_RETURNING;
	return t->return_said;
}

/* Under t->lock, the end of the hook: what this visit did not ask for goes. */
void up_return_visited(struct up_thread *t)
{
	if (!t->return_asked)
		up_return_drop(t);
	t->return_asked = false;
	t->return_said = UPREEMPT_R_NONE;
}

/* Under t->lock: nobody waits for it any more. */
void __up_return_drop(struct up_thread *t)
{
	memset(t->return_at, 0, sizeof(t->return_at));
	up_thread_wake(t, UP_IRQ_RETURN);
}

#ifdef CONFIG_HAVE_HW_BREAKPOINT

/*
 * The thread is at one of them. Who asked for it may have given up meanwhile: the hook sees.
 * Context: a trap, interrupts off.
 */
static void up_return_hit(struct perf_event *event, struct perf_sample_data *data,
			  struct pt_regs *regs)
{
	struct up_thread *t = event->overflow_handler_context;

	if (current == t->task && user_mode(regs) && !up_thread_moved_on(t))
		up_arm(t, UP_FROM_RETURN);
}

static struct perf_event *up_return_break(struct up_thread *t, unsigned long at)
{
	struct perf_event_attr attr;

	hw_breakpoint_init(&attr);
	attr.bp_addr = at;
	attr.bp_len = HW_BREAKPOINT_LEN_8;	/* as x86 wants it for: */
	attr.bp_type = HW_BREAKPOINT_X;
	return register_user_hw_breakpoint(&attr, up_return_hit, t, t->task);
}

static void up_return_unbreak(struct perf_event **event)
{
	if (*event)
		unregister_hw_breakpoint(*event);
	*event = NULL;
}

/* Make what is set what is wanted. Context: a work item, of which one at a time runs. */
void up_return_work(struct work_struct *work)
{
	struct up_thread *t = container_of(work, struct up_thread, return_work);
	unsigned long at[UP_RETURNS];
	struct perf_event **event, *new;
	bool some = false;
	unsigned int i;

	raw_spin_lock_irq(&t->lock);
	/* A stop of the world that waited for the thread ends without the thread's own lock. */
	if (!t->attention && !up_world_waits(t))
		memset(t->return_at, 0, sizeof(t->return_at));
	memcpy(at, t->return_at, sizeof(at));
	raw_spin_unlock_irq(&t->lock);
	if (up_thread_moved_on(t))
		memset(at, 0, sizeof(at));

	for (i = 0; i < UP_RETURNS; i++) {
		event = &t->return_event[i];
		if (*event && (*event)->attr.bp_addr != at[i])
			up_return_unbreak(event);
	}
	for (i = 0; i < UP_RETURNS; i++) {
		event = &t->return_event[i];
		if (at[i] && !*event) {
			new = up_return_break(t, at[i]);
			*event = IS_ERR(new) ? NULL : new;
		}
		some |= !!*event;
	}

	/* It has execed meanwhile, maybe set-uid: the kernel has removed what was set before. */
	for (i = 0; i < UP_RETURNS && up_thread_moved_on(t); i++)
		up_return_unbreak(&t->return_event[i]);

	raw_spin_lock_irq(&t->lock);
	if (!memcmp(at, t->return_at, sizeof(at)))
		t->return_failed = !some;
	raw_spin_unlock_irq(&t->lock);
}

/* Context: process, the last to use @t. */
void up_return_free(struct up_thread *t)
{
	unsigned int i;

	cancel_work_sync(&t->return_work);
	for (i = 0; i < UP_RETURNS; i++)
		up_return_unbreak(&t->return_event[i]);
}

#else

void up_return_work(struct work_struct *work)
{
	container_of(work, struct up_thread, return_work)->return_failed = true;
}

void up_return_free(struct up_thread *t)
{
	cancel_work_sync(&t->return_work);
}

#endif
