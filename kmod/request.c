// SPDX-License-Identifier: GPL-2.0
/*
 * Requests: queued on their thread, completed exactly once under its lock,
 * then collected, reported in the ring, or (STOP) held until released.
 */
#include <linux/ktime.h>
#include <linux/sched/signal.h>

#include "upreempt.h"
#include "trace.h"

static struct up_request *up_request_find(struct up_thread *t, u64 seq)
{
	int i;

	lockdep_assert_held(&t->lock);
	for (i = 0; i < UP_MAX_REQUESTS; i++)
		if (t->reqs[i].state != UP_REQ_FREE && t->reqs[i].event.seq == seq)
			return &t->reqs[i];
	return NULL;
}

/* Free the entry when nobody needs it any more. */
static void up_request_settle(struct up_thread *t, struct up_request *r)
{
	if (r->state == UP_REQ_DONE && !r->held && r->nobody) {
		WRITE_ONCE(r->state, UP_REQ_FREE);
		if (wq_has_sleeper(&t->room))
			up_thread_wake(t, UP_WAKE_ROOM);
	}
	if (t->dead)
		up_zombie_settle(t);
}

bool up_request_uncollected(const struct up_thread *t)
{
	int i;

	for (i = 0; i < UP_MAX_REQUESTS; i++)
		if (t->reqs[i].state == UP_REQ_DONE && !t->reqs[i].nobody)
			return true;
	return false;
}

/* ---- the timer: retries and deadlines --------------------------------------- */

static void up_timer_at(struct up_thread *t, u64 ns)
{
	lockdep_assert_held(&t->lock);
	if (t->timer_ns && t->timer_ns <= ns)
		return;
	/*
	 * A negative expiry is due at once for the timer queue (softexpires), but far
	 * behind "now" for us: it would be started anew for ever.
	 */
	ns = min_t(u64, ns, KTIME_MAX);
	t->timer_ns = ns;
	hrtimer_start(&t->timer, ns_to_ktime(ns), HRTIMER_MODE_ABS_PINNED_HARD);
}

/*
 * Under t->lock: look again soon, each time twice as late as the last, at most 1 ms. A thread
 * that is off the CPU costs nobody's time but ours, and there may be thousands: at most 64 ms.
 */
void up_retry_later(struct up_thread *t)
{
	u64 most = atomic_read(&t->where) < 0 ? UP_BACKOFF_OFF_NS : UP_BACKOFF_MAX_NS;

	t->backoff_ns = clamp_t(u64, t->backoff_ns * 2, UP_BACKOFF_MIN_NS, most);
	t->retry_ns = ktime_get_ns() + t->backoff_ns;
	up_timer_at(t, t->retry_ns);
}

/* The earlier of two times, of which 0 is none. */
static u64 up_earlier(u64 a, u64 b)
{
	return !a || (b && b < a) ? b : a;
}

enum hrtimer_restart up_timer(struct hrtimer *timer)
{
	struct up_thread *t = container_of(timer, struct up_thread, timer);
	u64 now = ktime_get_ns(), next = 0;
	struct up_request *r, *n;
	unsigned long flags;
	bool look;

	raw_spin_lock_irqsave(&t->lock, flags);
	t->timer_ns = 0;
	/* That a request's time is over is no reason to disturb the thread for the others. */
	look = t->retry_ns && t->retry_ns <= now;
	if (look)
		t->retry_ns = 0;
	list_for_each_entry_safe(r, n, &t->queue, node) {
		if (r->deadline_ns && r->deadline_ns <= now) {
			up_request_complete(t, r, UPREEMPT_UNSAFE, r->reason,
					    UPREEMPT_FRAME_NONE, NULL);
			continue;
		}
		if (r->grace_end_ns && r->grace_end_ns <= now) {
			r->grace_end_ns = 0;
			look = true;
		}
		next = up_earlier(next, r->deadline_ns);
		next = up_earlier(next, r->grace_end_ns);
	}
	next = up_earlier(next, t->retry_ns);
	if (next)
		up_timer_at(t, next);
	up_attention_update(t);
	look = look && up_wanted(t);
	raw_spin_unlock_irqrestore(&t->lock, flags);

	if (look)
		up_kick(t);
	up_wake_waiting(t);
	return HRTIMER_NORESTART;
}

/* ---- completion -------------------------------------------------------------- */

/* Under t->lock: what the fast paths look at, from what is true. */
void up_attention_update(struct up_thread *t)
{
	struct upreempt_slot *slot = up_slot(t);
	struct up_request *r;
	u32 attention = 0;

	lockdep_assert_held(&t->lock);
	list_for_each_entry(r, &t->queue, node) {
		attention |= UP_ATT_PENDING;
		if (r->event.kind == UPREEMPT_REDIRECT && !r->event.attempts && !r->grace_end_ns)
			attention |= UP_ATT_WANTED;
	}
	if (t->hold)
		attention |= UP_ATT_HOLD;
	if (t->closing)
		attention |= UP_ATT_CLOSE;
	if (t->resume_valid)
		attention |= UP_ATT_RESUME;
	if (t->gates_left || READ_ONCE(t->step_left))
		attention |= UP_ATT_FRAME;
	WRITE_ONCE(t->attention, attention);

	if (!t->dead) {
		WRITE_ONCE(slot->pending, attention & UP_ATT_PENDING || up_world_waits(t));
		WRITE_ONCE(slot->held, t->hold);
		WRITE_ONCE(slot->at_gate, READ_ONCE(t->gates));
	}
	/* HOLD, CLOSE and a stop may need the timer too: up_arm() could not arm the hook. */
	if (attention || up_world_holds(t))
		return;
	up_return_drop(t);
	t->retry_ns = 0;
	if (t->timer_ns && hrtimer_try_to_cancel(&t->timer) >= 0)
		t->timer_ns = 0;
}

/**
 * __up_request_complete - make a request final, exactly once
 * @t: its thread, locked
 * @r: pending, on @t's queue
 * @outcome: not PENDING
 * @reason: for UNSAFE
 * @frame: what @regs are
 * @regs: the registers, or NULL
 *
 * Before it unlocks the caller has to call up_attention_update().
 *
 * Context: any with interrupts off, under @t->lock, maybe under rq->lock.
 */
void __up_request_complete(struct up_thread *t, struct up_request *r,
			   enum upreempt_outcome outcome, enum upreempt_reason reason,
			   enum upreempt_frame frame, const struct upreempt_regs *regs)
{
	struct upreempt_slot *slot = up_slot(t);
	struct upreempt_event *ev = &r->event;

	lockdep_assert_held(&t->lock);
	list_del_init(&r->node);
	ev->outcome = outcome;
	ev->reason = reason;
	ev->frame = frame;
	ev->final_ns = ktime_get_ns();
	ev->cpu = raw_smp_processor_id();
	if (ev->steps)
		ev->strategy |= UPREEMPT_BY_STEP;
	if (!regs)
		ev->regs = (struct upreempt_regs){ .rip = r->last_ip };
	else if (regs != &ev->regs)	/* see up_capture() */
		up_regs_copy(&ev->regs, regs);

	t->count.outcomes[outcome]++;
	/* Who gave up while others still wait has not made the thread easier to reach. */
	if (outcome != UPREEMPT_UNSAFE || list_empty(&t->queue))
		t->backoff_ns = 0;
	if (ev->kind == UPREEMPT_STOP &&
	    (outcome == UPREEMPT_LANDED || outcome == UPREEMPT_COOPERATED ||
	     outcome == UPREEMPT_BLOCKED)) {
		r->held = true;
		t->hold++;
	}
	trace_upreempt_outcome(t->domain->id, t->tid, ev->seq, ev->kind, outcome, reason,
			       ev->final_ns - ev->request_ns);
	if (r->flags & UPREEMPT_REQ_RING)
		up_ring_post(t->domain, ev, r->room);
	r->room = false;

	if (!t->dead) {
		WRITE_ONCE(slot->done_outcome, outcome);
		/* After the outcome: see struct upreempt_slot. */
		smp_store_release(&slot->done_seq, ev->seq);
	}
	/* Pairs with the acquire in up_request_final(): the event is whole. */
	smp_store_release(&r->state, UP_REQ_DONE);
	up_request_settle(t, r);
	if (wq_has_sleeper(&t->wait))
		up_thread_wake(t, UP_WAKE_DONE);
}

/* The same for those who have nothing else to say to the fast paths. */
void up_request_complete(struct up_thread *t, struct up_request *r,
			 enum upreempt_outcome outcome, enum upreempt_reason reason,
			 enum upreempt_frame frame, const struct upreempt_regs *regs)
{
	__up_request_complete(t, r, outcome, reason, frame, regs);
	up_attention_update(t);
}

/* Under t->lock, before @r is granted: is there a place for its record, if it wants one? */
bool up_request_room_for_record(struct up_thread *t, struct up_request *r)
{
	if (r->flags & UPREEMPT_REQ_RING && !r->room)
		r->room = up_ring_reserve(t->domain);
	return !(r->flags & UPREEMPT_REQ_RING) || r->room;
}

/* Under t->lock: @r was not granted. */
void up_request_no_record(struct up_thread *t, struct up_request *r)
{
	if (r->room)
		up_ring_unreserve(t->domain);
	r->room = false;
}

/* Under t->lock: what @r waits for, as far as one can tell from outside the hook. */
void up_request_note(struct up_thread *t, struct up_request *r,
		     enum upreempt_reason reason, unsigned long ip)
{
	r->last_ip = ip;
	if (r->reason == reason)
		return;
	r->reason = reason;
	t->count.deferrals[reason]++;
	trace_upreempt_defer(t->domain->id, t->tid, r->event.seq, r->event.kind, reason, ip);
}

/* Under t->lock: the hook could not grant @r. */
void up_request_defer(struct up_thread *t, struct up_request *r,
		      enum upreempt_reason reason, unsigned long ip)
{
	r->reason = UPREEMPT_R_NONE;	/* every refusal counts */
	r->event.attempts++;
	up_request_note(t, r, reason, ip);
}

/* Under t->lock, for a thread that takes no more requests. */
void up_request_drop_all(struct up_thread *t, enum upreempt_outcome outcome)
{
	struct up_request *r, *n;
	int i;

	list_for_each_entry_safe(r, n, &t->queue, node)
		up_request_complete(t, r, outcome, UPREEMPT_R_NONE, UPREEMPT_FRAME_NONE, NULL);
	for (i = 0; i < UP_MAX_REQUESTS; i++) {
		r = &t->reqs[i];
		if (r->state != UP_REQ_DONE || !r->held)
			continue;
		r->held = false;
		if (r->nobody)
			WRITE_ONCE(r->state, UP_REQ_FREE);
	}
	t->hold = 0;
}

/* ---- what the ioctls do -------------------------------------------------------- */

/* STOP goes before REDIRECT, REDIRECT before SAMPLE; among equals, first come first served. */
static void up_request_queue(struct up_thread *t, struct up_request *r)
{
	static const u8 rank[UPREEMPT_KIND_MAX] = {
		[UPREEMPT_STOP] = 0, [UPREEMPT_REDIRECT] = 1, [UPREEMPT_SAMPLE] = 2,
	};
	struct list_head *before = &t->queue;
	struct up_request *q;

	list_for_each_entry(q, &t->queue, node) {
		if (rank[q->event.kind] > rank[r->event.kind]) {
			before = &q->node;
			break;
		}
	}
	list_add_tail(&r->node, before);
}

static int up_request_check(struct up_thread *t, const struct upreempt_request *arg)
{
	if (arg->kind == UPREEMPT_REDIRECT && !t->landing)
		return -EOPNOTSUPP;
	if (arg->kind == UPREEMPT_STOP && t->task == current)
		return -EDEADLK;
	return 0;
}

static struct up_request *up_request_new(struct up_thread *t, const struct upreempt_request *arg)
{
	struct up_request *r = NULL;
	int i;

	for (i = 0; i < UP_MAX_REQUESTS && !r; i++)
		if (t->reqs[i].state == UP_REQ_FREE)
			r = &t->reqs[i];
	if (!r)
		return NULL;
	/* Every field but the registers, which come with the outcome: see up_request_complete(). */
	INIT_LIST_HEAD(&r->node);
	r->held = false;
	r->room = false;
	r->flags = arg->flags;
	r->deadline_ns = arg->deadline_ns;
	r->last_ip = 0;
	r->nobody = arg->flags & UPREEMPT_REQ_RING && !(arg->flags & UPREEMPT_REQ_WAIT);
	r->reason = UPREEMPT_R_NOT_RUN;
	r->event.seq = atomic64_inc_return(&t->domain->seq);
	r->event.cookie = arg->cookie;
	r->event.request_ns = ktime_get_ns();
	r->grace_end_ns = arg->grace_ns ? r->event.request_ns + arg->grace_ns : 0;
	if (r->grace_end_ns < r->event.request_ns && arg->grace_ns)
		r->grace_end_ns = U64_MAX;
	r->event.slot = t->index;
	r->event.tid = t->tid;
	r->event.kind = arg->kind;
	r->event.attempts = 0;
	r->event.strategy = 0;
	r->event.steps = 0;
	r->strategies = arg->strategies;
	r->steps = arg->steps ?: UPREEMPT_STEPS_DEFAULT;
	r->state = UP_REQ_PENDING;
	return r;
}

static bool up_switched_off(const struct up_thread *t)
{
	return READ_ONCE(t->domain->header->off) || READ_ONCE(up_slot(t)->off);
}

/**
 * up_request_submit - queue a request and see to its delivery
 * @t: the target
 * @arg: kind and flags were checked; seq is filled in
 *
 * Context: process.
 * Return: 0, -ESRCH, -EAGAIN, -EDEADLK, -EOPNOTSUPP.
 */
int up_request_submit(struct up_thread *t, struct upreempt_request *arg)
{
	struct up_request *r;
	unsigned long flags;
	bool gently;
	int ret;

	ret = up_request_check(t, arg);
	if (ret)
		return ret;

	raw_spin_lock_irqsave(&t->lock, flags);
	if (t->dead) {
		ret = -ESRCH;
		goto unlock;
	}
	r = up_request_new(t, arg);
	if (!r) {
		ret = -EAGAIN;
		goto unlock;
	}
	arg->seq = r->event.seq;
	t->count.kinds[arg->kind]++;
	trace_upreempt_request(t->domain->id, t->tid, arg->seq, arg->kind, arg->cookie);
	up_request_queue(t, r);

	if (up_switched_off(t))
		up_request_complete(t, r, UPREEMPT_UNSAFE, UPREEMPT_R_OFF,
				    UPREEMPT_FRAME_NONE, NULL);
	else if (arg->kind == UPREEMPT_STOP && !up_gate_address(t))
		up_request_complete(t, r, UPREEMPT_UNSAFE, UPREEMPT_R_NO_GATE,
				    UPREEMPT_FRAME_NONE, NULL);
	else if (r->deadline_ns && r->deadline_ns <= r->event.request_ns)
		up_request_complete(t, r, UPREEMPT_UNSAFE, UPREEMPT_R_NOT_RUN,
				    UPREEMPT_FRAME_NONE, NULL);
	else if (r->deadline_ns && !(r->flags & UPREEMPT_REQ_WAIT))
		up_timer_at(t, r->deadline_ns);	/* else: when the waiter goes to sleep */
	gently = r->state == UP_REQ_PENDING && r->grace_end_ns;
	if (gently)
		up_timer_at(t, r->grace_end_ns);
	up_attention_update(t);
	/* Last: a thread that polls because of it has to find out why. */
	if (gently)
		up_poll_set(t);
	raw_spin_unlock_irqrestore(&t->lock, flags);

	if (READ_ONCE(t->attention)) {
		if (gently)
			up_look(t);
		else
			up_kick(t);
	}
	/* After up_kick()'s barrier E: a waiter sets waits_for, then looks at attention. */
	up_wake_waiting(t);
	return 0;

unlock:
	raw_spin_unlock_irqrestore(&t->lock, flags);
	return ret;
}

/* The deadline of a request with WAIT costs a timer only when it is not answered at once. */
void up_request_timer(struct up_thread *t, u64 seq)
{
	struct up_request *r;
	unsigned long flags;

	raw_spin_lock_irqsave(&t->lock, flags);
	r = up_request_find(t, seq);
	if (r && r->state == UP_REQ_PENDING && r->deadline_ns)
		up_timer_at(t, r->deadline_ns);
	raw_spin_unlock_irqrestore(&t->lock, flags);
}

/**
 * up_request_wait - wait for an outcome and collect it
 * @t: the thread
 * @seq: the request
 * @deadline_ns: of the waiting; 0: none, 1: do not wait
 * @spin: watch a little before sleeping
 * @event: where the outcome goes
 *
 * Context: process, may sleep.
 * Return: 0, -ENOENT, -ETIMEDOUT, -ERESTARTSYS (a signal), -EINTR (a REDIRECT of the
 * waiter itself: it lands at the return).
 */
int up_request_wait(struct up_thread *t, u64 seq, u64 deadline_ns, bool spin,
		    struct upreempt_event *event)
{
	struct up_request *r;
	unsigned long flags;
	int ret;

	raw_spin_lock_irqsave(&t->lock, flags);
	r = up_request_find(t, seq);
	if (r && r->nobody)
		r = NULL;
	raw_spin_unlock_irqrestore(&t->lock, flags);
	if (!r)
		return -ENOENT;

	ret = up_wait_outcome(t, r, seq, deadline_ns, spin);
	if (ret)
		return ret == -ETIME ? -ETIMEDOUT : ret;

	raw_spin_lock_irqsave(&t->lock, flags);
	if (r->event.seq == seq && r->state == UP_REQ_DONE && !r->nobody) {
		*event = r->event;
		r->nobody = true;
		up_request_settle(t, r);
	} else {
		ret = -ENOENT;
	}
	raw_spin_unlock_irqrestore(&t->lock, flags);
	return ret;
}

/* Under t->lock: end the hold of a granted STOP. Returns whether the thread may go on. */
static bool up_request_let_go(struct up_thread *t, struct up_request *r)
{
	r->held = false;
	t->hold--;
	up_request_settle(t, r);
	up_attention_update(t);
	return !t->hold;
}

/* The requester dies: cancel, release, forget. */
void up_request_abandon(struct up_thread *t, u64 seq)
{
	struct up_request *r;
	unsigned long flags;
	bool go = false;

	raw_spin_lock_irqsave(&t->lock, flags);
	r = up_request_find(t, seq);
	if (r) {
		r->nobody = true;
		if (r->state == UP_REQ_PENDING)
			up_request_complete(t, r, UPREEMPT_CANCELLED, UPREEMPT_R_NONE,
					    UPREEMPT_FRAME_NONE, NULL);
		else if (r->held)
			go = up_request_let_go(t, r);
		else
			up_request_settle(t, r);
	}
	raw_spin_unlock_irqrestore(&t->lock, flags);
	if (go)
		wake_up_all(&t->gate_wait);
}

/**
 * up_request_cancel - withdraw a pending request
 * @t: the thread
 * @seq: the request
 *
 * Context: process.
 * Return: 0, -ENOENT, -EALREADY.
 */
int up_request_cancel(struct up_thread *t, u64 seq)
{
	struct up_request *r;
	unsigned long flags;
	int ret = 0;

	raw_spin_lock_irqsave(&t->lock, flags);
	r = up_request_find(t, seq);
	if (!r)
		ret = -ENOENT;
	else if (r->state != UP_REQ_PENDING)
		ret = -EALREADY;
	else
		up_request_complete(t, r, UPREEMPT_CANCELLED, UPREEMPT_R_NONE,
				    UPREEMPT_FRAME_NONE, NULL);
	raw_spin_unlock_irqrestore(&t->lock, flags);
	return ret;
}

/**
 * up_request_release - end a STOP, granted or still pending
 * @t: the thread
 * @seq: the request
 *
 * Context: process.
 * Return: 0, -ENOENT, -ESRCH (the thread has left meanwhile).
 */
int up_request_release(struct up_thread *t, u64 seq)
{
	struct up_request *r;
	unsigned long flags;
	bool go = false;
	int ret = 0;

	raw_spin_lock_irqsave(&t->lock, flags);
	r = up_request_find(t, seq);
	if (!r || r->event.kind != UPREEMPT_STOP || (r->state == UP_REQ_DONE && !r->held))
		ret = t->dead ? -ESRCH : -ENOENT;
	else if (r->state == UP_REQ_PENDING)
		up_request_complete(t, r, UPREEMPT_CANCELLED, UPREEMPT_R_NONE,
				    UPREEMPT_FRAME_NONE, NULL);
	else
		go = up_request_let_go(t, r);
	raw_spin_unlock_irqrestore(&t->lock, flags);
	if (go)
		wake_up_all(&t->gate_wait);
	return ret;
}
