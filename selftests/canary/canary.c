// SPDX-License-Identifier: GPL-2.0
/*
 * One planted bug for each class that the debug kernels are to find: insmod canary.ko bug=NAME.
 * A detector that does not find its own is switched off, and its silence in the other tests says
 * nothing. Never load this outside a test machine. See canary.sh.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/smp.h>

static char *bug = "none";
module_param(bug, charp, 0444);
MODULE_PARM_DESC(bug, "which of the planted bugs to run");

static unsigned long sink;	/* what is read goes here, so that it is read */

/* An RCU pointer is read outside of a read section. */
static int plant_rcu(void)
{
	static unsigned long __rcu *pointer;

	WRITE_ONCE(sink, (unsigned long)rcu_dereference(pointer));
	return 0;
}

/* The CPU's number is asked for where the thread may move to another. */
static int plant_preempt(void)
{
	WRITE_ONCE(sink, smp_processor_id());
	return 0;
}

/* A shift by more than the type has bits. */
static int plant_shift(void)
{
	int n = 40;

	OPTIMIZER_HIDE_VAR(n);
	WRITE_ONCE(sink, 1 << n);
	return 0;
}

/* Two locks in both orders: no deadlock today. */
static int plant_lockdep(void)
{
	static DEFINE_MUTEX(a);
	static DEFINE_MUTEX(b);

	mutex_lock(&a);
	mutex_lock(&b);
	mutex_unlock(&b);
	mutex_unlock(&a);
	mutex_lock(&b);
	mutex_lock(&a);
	mutex_unlock(&a);
	mutex_unlock(&b);
	return 0;
}

/* The scheduler is called with preemption off. */
static int plant_atomic(void)
{
	preempt_disable();
	schedule();
	preempt_enable();
	return 0;
}

/* A lock that may sleep is taken with interrupts off: it is free, so it does not sleep. */
static int plant_irqs(void)
{
	static DEFINE_MUTEX(lock);

	local_irq_disable();
	mutex_lock(&lock);
	mutex_unlock(&lock);
	local_irq_enable();
	return 0;
}

/* A reference on what has none left. */
static int plant_refcount(void)
{
	refcount_t ref = REFCOUNT_INIT(0);

	refcount_inc(&ref);
	return 0;
}

static int plant_uaf(void)
{
	unsigned long *p = kzalloc(64, GFP_KERNEL);

	if (!p)
		return -ENOMEM;
	kfree(p);
	OPTIMIZER_HIDE_VAR(p);
	WRITE_ONCE(sink, READ_ONCE(p[1]));
	return 0;
}

static int plant_oob(void)
{
	unsigned long *p = kzalloc(64, GFP_KERNEL);

	if (!p)
		return -ENOMEM;
	OPTIMIZER_HIDE_VAR(p);
	WRITE_ONCE(sink, READ_ONCE(p[8]));
	kfree(p);
	return 0;
}

/* A thousand, as a stale pointer on some stack may hide a few of them from the scan. */
static int plant_leak(void)
{
	int i;

	for (i = 0; i < 1000; i++)
		WRITE_ONCE(sink, (unsigned long)kmalloc(333, GFP_KERNEL));
	WRITE_ONCE(sink, 0);
	return 0;
}

static unsigned long racy;

static int racer(void *done)
{
	unsigned long end = jiffies + 10 * HZ;

	while (time_before(jiffies, end)) {
		racy++;
		cond_resched();
	}
	complete(done);
	return 0;
}

/* Two threads add to the same plain variable. */
static int plant_race(void)
{
	DECLARE_COMPLETION_ONSTACK(done);
	struct task_struct *task;
	int i, started = 0;

	for (i = 0; i < 2; i++) {
		task = kthread_run(racer, &done, "canary/%d", i);
		started += !IS_ERR(task);
	}
	for (i = 0; i < started; i++)
		wait_for_completion(&done);
	return started == 2 ? 0 : -ENOMEM;
}

/* The module loads, and nothing is wrong: what is found elsewhere is not its doing. */
static int plant_none(void)
{
	return 0;
}

static const struct {
	const char *name;
	int (*plant)(void);
} bugs[] = {
	{ "none", plant_none },
	{ "rcu", plant_rcu },
	{ "preempt", plant_preempt },
	{ "shift", plant_shift },
	{ "lockdep", plant_lockdep },
	{ "atomic", plant_atomic },
	{ "irqs", plant_irqs },
	{ "refcount", plant_refcount },
	{ "uaf", plant_uaf },
	{ "oob", plant_oob },
	{ "leak", plant_leak },
	{ "race", plant_race },
};

static int __init canary_init(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bugs); i++)
		if (sysfs_streq(bug, bugs[i].name))
			return bugs[i].plant();
	return -EINVAL;
}

static void __exit canary_exit(void)
{
}

module_init(canary_init);
module_exit(canary_exit);

MODULE_DESCRIPTION("Planted bugs, for testing that debug kernels find them");
MODULE_LICENSE("GPL");
