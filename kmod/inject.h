/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The test build's inject points and guards. In a normal build all of this is
 * empty: a guard is a constant true and a point is nothing.
 *
 *	/sys/module/upreempt/parameters/guards               bits of enum up_guard that are OFF
 *	/sys/module/upreempt/parameters/inject_<point>_us    busy wait at that point
 *	/sys/module/upreempt/parameters/inject_refuse_arm    so many IPIs may not arm the hook,
 *	                                                     as in a section without preemption
 */
#ifndef _UPREEMPT_INJECT_H
#define _UPREEMPT_INJECT_H

#include <linux/delay.h>
#include <linux/types.h>

enum up_guard {
	UP_GUARD_RSEQ		= 0,	/* never redirect inside an rseq section */
	UP_GUARD_MM		= 1,	/* a registration ends at exec */
	UP_GUARD_SCHED_OUT	= 2,	/* disarm the hook at every context switch */
	UP_GUARD_RED_ZONE	= 3,	/* the landing starts below the red zone */
	UP_GUARD_FLAGS		= 4,	/* DF, TF, RF, AC are clear at the landing */
	UP_GUARD_SIGNAL_FRAME	= 6,	/* not at a signal handler's first instruction */
	UP_GUARD_FORWARD	= 7,	/* an IPI that missed its thread follows it */
	UP_GUARD_STACK		= 8,	/* stack bounds and room */
	UP_GUARD_LANDING	= 9,	/* not inside the landing and resume code */
	UP_GUARD_STEP_FRAME	= 10,	/* no trap flag of ours in a signal's frame */
};

#ifdef UPREEMPT_INJECT

extern unsigned int up_guards_off;
extern unsigned int up_inject_ipi_delay_us;
extern unsigned int up_inject_kick_delay_us;
extern unsigned int up_inject_hook_delay_us;
extern unsigned int up_inject_hook_end_delay_us;
extern unsigned int up_inject_sched_in_delay_us;
extern unsigned int up_inject_gate_delay_us;
extern unsigned int up_inject_undo_delay_us;
extern unsigned int up_inject_gate_wait_delay_us;
extern unsigned int up_inject_stop_delay_us;
extern unsigned int up_inject_refuse_arm;

static inline bool up_guard(enum up_guard guard)
{
	return !(READ_ONCE(up_guards_off) & (1U << guard));
}

#define up_inject(point)						\
	do {								\
		unsigned int __us = READ_ONCE(up_inject_##point##_us);	\
									\
		if (__us) {						\
			mdelay(__us / 1000);				\
			udelay(__us % 1000);				\
		}							\
	} while (0)

/* Counts down: true that many times. Racy by one, which its tests can bear. */
static inline bool up_inject_count_down(unsigned int *left)
{
	unsigned int n = READ_ONCE(*left);

	if (n)
		WRITE_ONCE(*left, n - 1);
	return n;
}

#define up_inject_take(what) up_inject_count_down(&up_inject_##what)

#else

static inline bool up_guard(enum up_guard guard)
{
	return true;
}

#define up_inject_take(what) false

#define up_inject(point) do { } while (0)

#endif /* UPREEMPT_INJECT */
#endif /* _UPREEMPT_INJECT_H */
