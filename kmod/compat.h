/* SPDX-License-Identifier: GPL-2.0 */
/*
 * All that differs between the kernels we build for. Included before everything
 * else, so that no source file asks for a version; Kbuild finds out what the
 * headers offer.
 */
#ifndef _UPREEMPT_COMPAT_H
#define _UPREEMPT_COMPAT_H

#include <linux/kconfig.h>

#ifndef __ASSEMBLY__
#include <linux/eventfd.h>
#include <linux/hrtimer.h>
#include <linux/mm.h>
#include <linux/rseq.h>
#include <linux/sched.h>

#ifndef UP_HAVE_VM_FLAGS_SET		/* before 6.3 */
static inline void vm_flags_set(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags |= flags;
}

static inline void vm_flags_clear(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags &= ~flags;
}
#endif

#ifndef UP_HAVE_HRTIMER_SETUP		/* before 6.13 */
static inline void hrtimer_setup(struct hrtimer *timer,
				 enum hrtimer_restart (*function)(struct hrtimer *),
				 clockid_t clock, enum hrtimer_mode mode)
{
	hrtimer_init(timer, clock, mode);
	timer->function = function;
}
#endif

static inline void up_eventfd_signal(struct eventfd_ctx *ctx)
{
#ifdef UP_HAVE_EVENTFD_SIGNAL_VOID	/* since 6.8 */
	eventfd_signal(ctx);
#else
	eventfd_signal(ctx, 1);
#endif
}

/* The user address of the current thread's rseq area, or NULL. */
static inline struct rseq __user *up_current_rseq(void)
{
#ifndef CONFIG_RSEQ
	return NULL;
#elif defined(UP_HAVE_RSEQ_USRPTR)	/* since 6.19 */
	return current->rseq.usrptr;
#else
	return current->rseq;
#endif
}

/* Make the next return to user mode read the current thread's rseq area, with faults. */
static inline void up_rseq_touch(void)
{
#ifdef UP_HAVE_RSEQ_USRPTR
	rseq_force_update();
#else
	set_tsk_thread_flag(current, TIF_NOTIFY_RESUME);
#endif
}

static inline struct fpu *up_task_fpu(struct task_struct *task)
{
#ifdef UP_HAVE_X86_TASK_FPU		/* since 6.16; with CONFIG_X86_DEBUG_FPU not exported */
	return (void *)task + sizeof(*task);
#else
	return &task->thread.fpu;
#endif
}

#ifndef UP_HAVE_RDMSRQ			/* before 6.16 */
#define rdmsrq(msr, val)	rdmsrl(msr, val)
#endif

#endif /* __ASSEMBLY__ */
#endif /* _UPREEMPT_COMPAT_H */
