// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Cooperative points, and what other threads have left to be done there. */
#include "backend.h"
#include <errno.h>

int upreempt_defer(struct upreempt_thread *t, struct upreempt_action *action)
{
	struct upreempt_action *old;
	int ret = action ? upreempt_thread_enter(t) : -EINVAL;

	if (ret)
		return ret;
	/* Under it the thread does not begin to leave: upreempt_thread_detach(). */
	up_lock(&t->domain->lock);
	if (__atomic_load_n(&t->gone, __ATOMIC_SEQ_CST)) {
		ret = -ESRCH;
	} else {
		old = __atomic_load_n(&t->actions, __ATOMIC_RELAXED);
		do {
			action->next = old;
		} while (!__atomic_compare_exchange_n(&t->actions, &old, action, true,
						      __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
		__atomic_store_n(&t->slot->poll, 1, __ATOMIC_SEQ_CST);
	}
	up_unlock(&t->domain->lock);
	upreempt_thread_exit(t);
	return ret;
}

void upreempt_run_actions(struct upreempt_thread *t)
{
	struct upreempt_action *a, *next, *first = NULL;

	/* They were pushed: oldest last. */
	for (a = __atomic_exchange_n(&t->actions, NULL, __ATOMIC_ACQ_REL); a; a = next) {
		next = a->next;
		a->next = first;
		first = a;
	}
	for (; first; first = next) {
		next = first->next;
		first->fn(first);
	}
}

void upreempt_poll_slow(void)
{
	struct upreempt_thread *t = upreempt_self;

	/* Before we look: who sets it again from here on is seen next time. */
	__atomic_store_n(&upreempt_slot_self->poll, 0, __ATOMIC_SEQ_CST);
	if (!t)
		return;
	upreempt_run_actions(t);
	t->domain->ops->poll(t);
}
