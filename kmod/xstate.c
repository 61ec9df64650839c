// SPDX-License-Identifier: GPL-2.0
/*
 * The extended state (x87, SSE, AVX, ...) of a thread that stands still. A thread that is
 * held is switched out, and with it goes all its state into kernel memory: it can be read
 * there, and the thread need not land and save it for a collector that may never look.
 */
#include <linux/elf.h>
#include <linux/hrtimer.h>
#include <linux/mm.h>
#include <linux/regset.h>
#include <linux/sched/signal.h>

#include "upreempt.h"
#include "world.h"

/* A held thread has a few instructions to go until it sleeps, if its CPU is free. */
#define UP_XSTATE_LOOK_NS	(20 * NSEC_PER_USEC)
#define UP_XSTATE_WAIT_NS	(10 * NSEC_PER_MSEC)
#define UP_XSTATE_MOST		SZ_64K

static bool up_stands(struct up_thread *t)
{
	struct up_world *w = &t->domain->world;
	unsigned long flags;
	bool stands;

	raw_spin_lock_irqsave(&t->lock, flags);
	raw_spin_lock(&w->lock);
	/* One that was in a system call has no state: nobody went to see it. */
	stands = t->hold || (up_concerned(t) && up_state(t) != UP_W_LATE);
	raw_spin_unlock(&w->lock);
	raw_spin_unlock_irqrestore(&t->lock, flags);
	return stands;
}

/*
 * As ptrace would read it; only that reader is there for every module.
 * Context: @task is switched out and stays it.
 */
static int up_xstate_copy(struct task_struct *task, void *to, u32 bytes)
{
	const struct user_regset_view *view = task_user_regset_view(task);
	unsigned int type = boot_cpu_has(X86_FEATURE_XSAVE) ? NT_X86_XSTATE : NT_PRFPREG;
	unsigned int i;
	int ret;

	for (i = 0; i < view->n; i++) {
		if (view->regsets[i].core_note_type != type)
			continue;
		ret = regset_get(task, &view->regsets[i], bytes, to);
		return min(ret, 0);
	}
	return -ENODEV;
}

/* Return: 0, -EAGAIN (it is on a CPU), -ENOSPC, -ESRCH, -ENODEV. */
static int up_xstate_read(struct up_thread *t, struct upreempt_xstate *arg, void *to, u32 room)
{
	const struct fpstate *state;
	unsigned long flags;
	int ret = -EAGAIN;

	local_irq_save(flags);
	if (!up_pin(t))
		goto restore;
	if (t->task->flags & PF_EXITING || up_thread_moved_on(t)) {
		ret = -ESRCH;
	} else if (up_switched_out(t)) {
		state = up_task_fpu(t->task)->fpstate;
		arg->bytes = state->user_size;
		arg->features = state->user_xfeatures;
		ret = -ENOSPC;
		if (room >= arg->bytes)
			ret = up_xstate_copy(t->task, to, arg->bytes);
	}
	up_unpin(t);
restore:
	local_irq_restore(flags);
	return ret;
}

/**
 * up_xstate - copy a standing thread's extended state to its program
 * @t: the thread
 * @arg: checked, but for room and address
 *
 * Context: process, may sleep.
 * Return: 0, -ENOSPC (arg->bytes says how much it takes), -EBUSY (it does not stand still),
 * -EAGAIN (it is in a system call on a CPU), -ESRCH, -ENOMEM, -EFAULT, -EINTR.
 */
int up_xstate(struct up_thread *t, struct upreempt_xstate *arg)
{
	u64 end = ktime_get_ns() + UP_XSTATE_WAIT_NS;
	ktime_t pause = ns_to_ktime(UP_XSTATE_LOOK_NS);
	u32 room = min_t(u32, arg->room, UP_XSTATE_MOST);
	void *buf;
	int ret;

	/* Every byte the kernel has no value for is 0. */
	buf = kvzalloc(room ?: 1, GFP_KERNEL_ACCOUNT);
	if (!buf)
		return -ENOMEM;
	for (;;) {
		ret = up_stands(t) ? up_xstate_read(t, arg, buf, room) : -EBUSY;
		if (ret != -EAGAIN || ktime_get_ns() > end)
			break;
		set_current_state(TASK_INTERRUPTIBLE);
		if (signal_pending(current)) {
			__set_current_state(TASK_RUNNING);
			ret = -EINTR;
			break;
		}
		schedule_hrtimeout(&pause, HRTIMER_MODE_REL);
	}
	if (!ret && copy_to_user(u64_to_user_ptr(arg->address), buf, arg->bytes))
		ret = -EFAULT;
	kvfree(buf);
	return ret;
}
