// SPDX-License-Identifier: GPL-2.0
/*
 * What all domains of a user share: how much memory they may have together, and how many IPIs a
 * second they may cause. Somebody who opens the device often gets no more of either.
 *
 * An IPI is counted where it is sent, and never refused there. Who asks for the next one waits
 * until the jiffy is over in which the allowance was used up: a request is late, not lost.
 */
#include <linux/cred.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "upreempt.h"

struct up_user {
	struct list_head node;		/* up_users; as ref */
	unsigned int ref;		/* under up_users_lock */
	kuid_t uid;
	atomic_long_t pages;
	unsigned long window;		/* jiffies: the time to which sent belongs */
	atomic_t sent;
	atomic64_t paced;
};

static LIST_HEAD(up_users);
static DEFINE_MUTEX(up_users_lock);

static unsigned int up_user_mb = 1024;
module_param_named(user_mb, up_user_mb, uint, 0644);
MODULE_PARM_DESC(user_mb, "shared memory of all domains of a user, MiB (1024; 0: no limit)");

static unsigned int up_ipi_rate = 1000000;
module_param_named(ipi_rate, up_ipi_rate, uint, 0644);
MODULE_PARM_DESC(ipi_rate, "IPIs a second that a user's domains may cause (1000000; 0: no limit)");

/* The current task's user, with a reference; NULL: no memory. Context: process. */
struct up_user *up_user_get(void)
{
	struct up_user *u;

	mutex_lock(&up_users_lock);
	list_for_each_entry(u, &up_users, node)
		if (uid_eq(u->uid, current_uid()))
			goto found;
	u = kzalloc(sizeof(*u), GFP_KERNEL_ACCOUNT);
	if (!u)
		goto unlock;
	u->uid = current_uid();
	list_add(&u->node, &up_users);
found:
	u->ref++;
unlock:
	mutex_unlock(&up_users_lock);
	return u;
}

/* Context: process. */
void up_user_put(struct up_user *u)
{
	mutex_lock(&up_users_lock);
	if (!--u->ref) {
		list_del(&u->node);
		kfree(u);
	}
	mutex_unlock(&up_users_lock);
}

/* Return: whether the user may have so many more pages; they are his then. */
bool up_user_take_pages(struct up_user *u, unsigned long pages)
{
	unsigned long most = (unsigned long)READ_ONCE(up_user_mb) << (20 - PAGE_SHIFT);

	if ((unsigned long)atomic_long_add_return(pages, &u->pages) <= most || !most)
		return true;
	atomic_long_sub(pages, &u->pages);
	return false;
}

void up_user_give_pages(struct up_user *u, unsigned long pages)
{
	atomic_long_sub(pages, &u->pages);
}

/* An IPI was sent for him. By one or two too few when the jiffy is over just now. Any context. */
void up_user_ipi(struct up_user *u)
{
	unsigned long now = jiffies;

	if (READ_ONCE(u->window) != now) {
		WRITE_ONCE(u->window, now);
		atomic_set(&u->sent, 0);
	}
	atomic_inc(&u->sent);
}

static bool up_user_is_over(const struct up_user *u)
{
	unsigned int rate = READ_ONCE(up_ipi_rate);
	unsigned long now = jiffies;

	return rate && READ_ONCE(u->window) == now &&
	       (unsigned int)atomic_read(&u->sent) > rate / HZ;
}

/**
 * up_user_pace - wait until the user may cause the next IPI
 * @u: the user
 *
 * Context: process, nothing done yet.
 * Return: 0, -ERESTARTSYS.
 */
int up_user_pace(struct up_user *u)
{
	if (likely(!up_user_is_over(u)))
		return 0;
	atomic64_inc(&u->paced);
	do {
		schedule_timeout_interruptible(1);
		if (signal_pending(current))
			return -ERESTARTSYS;
	} while (up_user_is_over(u));
	return 0;
}

u64 up_user_paced(const struct up_user *u)
{
	return atomic64_read(&u->paced);
}
