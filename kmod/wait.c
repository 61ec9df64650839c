// SPDX-License-Identifier: GPL-2.0
/*
 * Waiting: for the outcome of a request, or for one of the places that a thread has for
 * requests. Who is woken is who can go on: with a hundred requesters of one thread an
 * outcome that wakes them all takes the CPU from the thread itself.
 */
#include <linux/ktime.h>
#include <linux/sched/signal.h>

#include "upreempt.h"

/* How long WAIT watches a running target before it sleeps. */
#define UP_SPIN_NS	(100 * NSEC_PER_USEC)

/* One who waits; lives on its stack. */
struct up_waiter {
	struct wait_queue_entry entry;
	struct up_thread *t;		/* whom it asks */
	const struct up_request *r;	/* whose outcome, NULL: for a place */
	u64 seq;			/* of r: its entry may change hands */
	struct up_thread *self;		/* the waiter, if it is registered too */
};

static bool up_request_final(const struct up_request *r, u64 seq)
{
	/* Pairs with the release in __up_request_complete(). */
	return smp_load_acquire(&r->state) != UP_REQ_PENDING || READ_ONCE(r->event.seq) != seq;
}

static bool up_room(const struct up_thread *t)
{
	int i;

	for (i = 0; i < UP_MAX_REQUESTS; i++)
		if (READ_ONCE(t->reqs[i].state) == UP_REQ_FREE)
			return true;
	return READ_ONCE(t->dead);
}

static bool up_wait_has(const struct up_waiter *w)
{
	return w->r ? up_request_final(w->r, w->seq) : up_room(w->t);
}

/* It has what it waits for, or it is wanted in its own landing. */
static bool up_wait_over(const struct up_waiter *w)
{
	return up_wait_has(w) || (w->self && READ_ONCE(w->self->attention) & UP_ATT_WANTED);
}

/* By the waker, under the queue's lock: 0 leaves it asleep, and lets another be asked. */
static int up_waiter_wake(struct wait_queue_entry *entry, unsigned int mode, int sync, void *key)
{
	struct up_waiter *w = container_of(entry, struct up_waiter, entry);

	return up_wait_over(w) ? default_wake_function(entry, mode, sync, key) : 0;
}

static void up_waiter_init(struct up_waiter *w, struct up_thread *t)
{
	*w = (struct up_waiter){ .t = t, .self = up_thread_current() };
	init_waitqueue_func_entry(&w->entry, up_waiter_wake);
	w->entry.private = current;
	INIT_LIST_HEAD(&w->entry.entry);
}

/* Tells the world whom a registered thread waits for: see up_wake_waiting(). */
static void up_waits_for(struct up_thread *self, struct up_thread *t)
{
	unsigned long flags;

	if (!self)
		return;
	raw_spin_lock_irqsave(&self->lock, flags);
	WRITE_ONCE(self->waits_for, t);
	raw_spin_unlock_irqrestore(&self->lock, flags);
}

/* Return: 0, -ETIME, -ERESTARTSYS, -EINTR (it is wanted itself). */
static int up_wait(struct wait_queue_head *queue, struct up_waiter *w, u64 deadline_ns)
{
	ktime_t end = ns_to_ktime(min_t(u64, deadline_ns, KTIME_MAX));
	long ret;

	up_waits_for(w->self, w->t);
	for (;;) {
		ret = prepare_to_wait_event(queue, &w->entry, TASK_INTERRUPTIBLE);
		if (up_wait_over(w)) {
			ret = 0;
			break;
		}
		if (ret)
			break;
		if (!schedule_hrtimeout_range(deadline_ns ? &end : NULL, current->timer_slack_ns,
					      HRTIMER_MODE_ABS)) {
			ret = up_wait_over(w) ? 0 : -ETIME;
			break;
		}
	}
	finish_wait(queue, &w->entry);
	up_waits_for(w->self, NULL);
	return ret ? ret : up_wait_has(w) ? 0 : -EINTR;
}

/* Sleeping costs two wake-ups: while the target runs elsewhere its answer comes sooner. */
static void up_wait_spin(struct up_waiter *w, u64 deadline_ns)
{
	u64 end = w->r->event.request_ns + UP_SPIN_NS;
	unsigned int i;

	if (deadline_ns)
		end = min(end, deadline_ns);
	for (i = 1; !up_wait_over(w); i++) {
		int where = atomic_read(&w->t->where);

		if (where < 0 || where == raw_smp_processor_id() || need_resched() ||
		    signal_pending(current) || (!(i % 32) && ktime_get_ns() > end))
			break;
		cpu_relax();
	}
}

/**
 * up_wait_outcome - wait until a request is final
 * @t: its thread
 * @r: the request; its entry may have been given to another one meanwhile
 * @seq: its number
 * @deadline_ns: of the waiting; 0: none
 * @spin: watch a little before sleeping
 *
 * Context: process, may sleep.
 * Return: 0, -ETIME, -ERESTARTSYS, -EINTR (a REDIRECT of the waiter itself: it lands at
 * the return).
 */
int up_wait_outcome(struct up_thread *t, const struct up_request *r, u64 seq, u64 deadline_ns,
		    bool spin)
{
	struct up_waiter w;

	up_waiter_init(&w, t);
	w.r = r;
	w.seq = seq;
	if (spin)
		up_wait_spin(&w, r->deadline_ns);
	if (up_wait_has(&w))
		return 0;
	/* From here on the request's own deadline may need a timer. */
	up_request_timer(t, seq);
	if (deadline_ns && deadline_ns <= ktime_get_ns())
		return -ETIME;
	return up_wait(&t->wait, &w, deadline_ns);
}

/**
 * up_wait_room - wait until the thread can take one more request
 * @t: the target
 * @deadline_ns: 0: none
 *
 * Whoever returns from here has to call up_wait_room_pass() when it has taken the place,
 * or needs none: only one is woken for each.
 *
 * Context: process, may sleep.
 * Return: 0, -EAGAIN (not before the deadline), -ERESTARTSYS, -EINTR (a REDIRECT of the caller).
 */
int up_wait_room(struct up_thread *t, u64 deadline_ns)
{
	struct up_waiter w;
	int ret;

	if (t->task == current || (deadline_ns && deadline_ns <= ktime_get_ns()))
		return -EAGAIN;
	up_waiter_init(&w, t);
	w.entry.flags = WQ_FLAG_EXCLUSIVE;
	ret = up_wait(&t->room, &w, deadline_ns);
	return ret == -ETIME ? -EAGAIN : ret;
}

/* Context: process. */
void up_wait_room_pass(struct up_thread *t)
{
	if (wq_has_sleeper(&t->room) && up_room(t))
		wake_up(&t->room);
}

/*
 * The target may itself be waiting for an outcome, in a system call that only ends when
 * that is final: two threads that redirect each other would wait for ever. Send it home;
 * it lands, and its library waits again.
 * Context: any, without t->lock.
 */
void up_wake_waiting(struct up_thread *t)
{
	struct up_thread *other = NULL;
	unsigned long flags;

	if (!READ_ONCE(t->waits_for))
		return;
	raw_spin_lock_irqsave(&t->lock, flags);
	if (t->attention & UP_ATT_WANTED && t->waits_for) {
		other = t->waits_for;
		refcount_inc(&other->ref);	/* the waiter holds one */
	}
	raw_spin_unlock_irqrestore(&t->lock, flags);
	if (other) {
		/* We may be the timer. */
		up_thread_wake(other, UP_WAKE_ALL);
		up_thread_put(other);
	}
}
