// SPDX-License-Identifier: GPL-2.0
/*
 * Those who stop the world: one IPI to each CPU that runs the program, a look at the list of
 * the switched out, the wait for who is late, the report. What a stop is stands in world.c.
 */
#include <linux/freezer.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "world.h"
#include "trace.h"

/* How long the stopper watches before it sleeps. */
#define UP_WORLD_SPIN_NS	(100 * NSEC_PER_USEC)
/* Threads that are looked at without letting interrupts in. */
#define UP_WORLD_BATCH		64

/* ---- the IPI ------------------------------------------------------------------------- */

/* current's registration in @d. */
static struct up_thread *up_registered(struct up_domain *d)
{
	struct up_thread *t = up_thread_in(current, d);

	return t && !(current->flags & PF_EXITING) && !up_thread_moved_on(t) ? t : NULL;
}

void up_world_ipi(void *info)
{
	struct up_world_cpu *c = info;
	struct up_domain *d = c->domain;
	struct up_world *w = &d->world;
	struct pt_regs *regs = task_pt_regs(current);
	struct up_thread *t = up_registered(d);

	up_inject(ipi_delay);
	clear_bit(0, &c->busy);
	/* Before we look: who found it busy relies on what we see. */
	smp_mb__after_atomic();
	if (t && up_wanted(t)) {
		up_arm(t, UP_FROM_IPI);
		up_world_on_cpu(t, regs);
	}
	raw_spin_lock(&w->lock);
	/* A listed thread is in finish_task_switch(): its sched_in is about to come. */
	/* One in a system call that could not be armed may be back before the retry timer. */
	if (t && up_concerned(t) && !t->w_listed &&
	    (!up_in_syscall(regs) || (c->want == w->epoch && up_state(t) == UP_W_NONE)))
		up_world_late(t, UPREEMPT_R_NOT_RUN, regs->ip);
	if (c->want == w->epoch) {
		c->want = 0;
		w->acks--;
		w->acked_ns = ktime_get_ns();
		up_world_settle(w);
	}
	raw_spin_unlock(&w->lock);
}

/* One IPI to each CPU that runs the program. */
static void up_world_multicast(struct up_domain *d)
{
	struct up_world *w = &d->world;
	struct up_world_cpu *c;
	unsigned long flags;
	int cpu, ret;

	up_inject(stop_delay);
	preempt_disable();
	smp_mb();	/* G: the epoch before the words; pairs with F in up_sched_in() */
	for_each_online_cpu(cpu) {
		if (cpu == smp_processor_id() ||
		    READ_ONCE(per_cpu(up_running, cpu)) != (unsigned long)d->mm)
			continue;
		c = per_cpu_ptr(w->cpus, cpu);
		raw_spin_lock_irqsave(&w->lock, flags);
		w->acks += c->want != w->epoch;
		c->want = w->epoch;
		w->ipis++;
		raw_spin_unlock_irqrestore(&w->lock, flags);
		/* Busy: the one under way will see the epoch. */
		if (test_and_set_bit(0, &c->busy))
			continue;
		ret = smp_call_function_single_async(cpu, &c->csd);
		if (!ret) {
			up_user_ipi(d->user);
			continue;
		}
		/* The CPU went offline: the thread has left it, and sched_in will see. */
		clear_bit(0, &c->busy);
		raw_spin_lock_irqsave(&w->lock, flags);
		w->acks -= c->want == w->epoch;
		c->want = 0;
		raw_spin_unlock_irqrestore(&w->lock, flags);
	}
	w->sent_ns = ktime_get_ns();
	preempt_enable();
}

/* Look at all that are switched out at a user instruction, some at a time. */
static void up_world_walk(struct up_domain *d)
{
	struct up_world *w = &d->world;
	enum up_world_state old;
	struct up_thread *t;
	bool more = true;
	int i;

	while (more) {
		raw_spin_lock_irq(&w->lock);
		for (i = 0; i < UP_WORLD_BATCH && more; i++) {
			t = list_first_entry_or_null(&w->off, struct up_thread, w_off);
			old = t ? up_state(t) : UP_W_NONE;
			/* New ones come to the end, and have their state. */
			more = t && t->w_seen != w->walk;
			if (!more)
				break;
			t->w_seen = w->walk;
			list_move_tail(&t->w_off, &w->off);
			if (up_concerned(t) && old <= UP_W_LATE)
				up_world_classify(t);
		}
		if (!more) {
			w->walked = true;
			up_world_settle(w);
		}
		raw_spin_unlock_irq(&w->lock);
		cond_resched();
	}
}

/* ---- the stopper --------------------------------------------------------------------- */

/* The rest of @deadline_ns (0: none), for the wait_event family. */
static ktime_t up_time_left(u64 deadline_ns)
{
	u64 now;

	if (!deadline_ns)
		return KTIME_MAX;
	now = ktime_get_ns();
	return deadline_ns <= now ? 0 : min_t(u64, deadline_ns - now, KTIME_MAX);
}

/* Return: 0, 1 (is ours), -EAGAIN (another's), -EDEADLK: one whom a STOP holds stops nobody. */
static int up_world_claim(struct up_world *w, bool held)
{
	unsigned long flags;
	int ret = 0;

	raw_spin_lock_irqsave(&w->lock, flags);
	if (w->owner) {
		ret = w->owner == current ? 1 : -EAGAIN;
	} else if (held) {
		ret = -EDEADLK;
	} else {
		WRITE_ONCE(w->owner, current);
		w->tid = task_pid_vnr(current);
	}
	raw_spin_unlock_irqrestore(&w->lock, flags);
	return ret;
}

static int up_world_try(struct up_world *w, struct up_thread *self)
{
	int ret;

	if (!self)
		return up_world_claim(w, false);
	raw_spin_lock_irq(&self->lock);
	ret = up_world_claim(w, self->hold);
	raw_spin_unlock_irq(&self->lock);
	return ret;
}

/* Become the one who has stopped the world. 1: was already. */
static int up_world_take(struct up_domain *d, struct up_thread *self, u32 flags, u64 deadline_ns)
{
	struct up_world *w = &d->world;
	int ret;

	for (;;) {
		ret = up_world_try(w, self);
		if (ret >= 0)
			return ret;
		if (ret == -EDEADLK) {
			ret = up_held_wait(self);
			if (ret)
				return ret;
			continue;
		}
		if (flags & UPREEMPT_WORLD_TRY)
			return -EAGAIN;
		if (!up_time_left(deadline_ns))
			return -ETIMEDOUT;
		ret = wait_event_interruptible_hrtimeout(w->owners, !READ_ONCE(w->owner),
							 up_time_left(deadline_ns));
		if (ret && ret != -ETIME)
			return ret;
	}
}

static void up_world_begin(struct up_domain *d, const struct up_thread *self,
			   const struct upreempt_world *arg)
{
	struct up_world *w = &d->world;

	/* The last stopper's; it could not be dropped where it died. */
	if (w->owner_ref)
		put_task_struct(w->owner_ref);
	w->owner_ref = get_task_struct(current);

	raw_spin_lock_irq(&w->lock);
	w->depth = 0;
	w->walk++;
	w->walked = false;
	w->complete = false;
	w->forced = !arg->grace_ns;
	w->strategies = arg->strategies;
	w->steps = arg->steps ?: UPREEMPT_STEPS_DEFAULT;
	w->acks = 0;
	w->ipis = 0;
	w->gone = 0;
	memset(w->count, 0, sizeof(w->count));
	memset(&w->slowest, 0, sizeof(w->slowest));
	w->request_ns = ktime_get_ns();
	w->warn_ns = w->request_ns + UP_WORLD_WARN_NS;
	w->acked_ns = 0;
	w->first_ns = 0;
	w->last_ns = 0;
	w->stops++;
	WRITE_ONCE(w->epoch, w->epoch + 1);
	raw_spin_unlock_irq(&w->lock);

	trace_upreempt_world_stop(d->id, w->tid, arg->grace_ns);
	up_world_multicast(d);
	up_world_walk(d);
	raw_spin_lock_irq(&w->lock);
	hrtimer_start(&w->timer, ns_to_ktime(self ? UP_WORLD_WARN_NS : UP_WORLD_LOOK_NS),
		      HRTIMER_MODE_REL_HARD);
	raw_spin_unlock_irq(&w->lock);
}

/* The time to come by itself is over, for all who are late. */
static void up_world_force(struct up_domain *d)
{
	struct up_world *w = &d->world;
	bool complete;

	/* Not walked: nobody else completes it while the CPUs are asked once more. */
	raw_spin_lock_irq(&w->lock);
	complete = w->complete;
	if (!complete) {
		w->forced = true;
		w->walked = false;
		w->walk++;
	}
	raw_spin_unlock_irq(&w->lock);
	if (complete)
		return;
	up_world_multicast(d);
	up_world_walk(d);
}

/* A thread that waits for our CPU comes no sooner because we watch. */
static bool up_world_worth_watching(struct up_world *w)
{
	struct up_thread *t;
	bool worth = true;

	raw_spin_lock_irq(&w->lock);
	t = list_first_entry_or_null(&w->late, struct up_thread, w_late);
	if (t)
		worth = !t->w_listed && t->w_reason != UPREEMPT_R_GRACE;
	raw_spin_unlock_irq(&w->lock);
	return worth;
}

static void up_world_watch(struct up_world *w, u64 until)
{
	u64 end = ktime_get_ns() + UP_WORLD_SPIN_NS;
	unsigned int i;

	if (until)
		end = min(end, until);
	for (i = 1; !READ_ONCE(w->complete); i++) {
		cpu_relax();
		if (i % 32)
			continue;
		if (need_resched() || signal_pending(current) || ktime_get_ns() > end ||
		    !up_world_worth_watching(w))
			break;
	}
}

/* Return: 0 (complete or the deadline), -ERESTARTSYS. */
static int up_world_await(struct up_domain *d, u64 grace_end, u64 deadline_ns)
{
	struct up_world *w = &d->world;
	u64 until;
	int ret;

	for (;;) {
		until = deadline_ns;
		if (!w->forced && (!until || grace_end < until))
			until = grace_end;
		up_world_watch(w, until);
		if (READ_ONCE(w->complete))
			return 0;
		ret = !up_time_left(until) ? -ETIME :
		      wait_event_interruptible_hrtimeout(w->done, READ_ONCE(w->complete),
							 up_time_left(until));
		if (!ret)
			return 0;
		if (ret != -ETIME)
			return ret;
		if (w->forced || until != grace_end)
			return 0;
		up_world_force(d);
	}
}

static void up_world_report(struct up_domain *d, const struct up_thread *self,
			    struct upreempt_world *r)
{
	struct up_world *w = &d->world;
	struct up_thread *t;
	u32 i = 0, stopped;
	int all;

	raw_spin_lock_irq(&w->lock);
	all = atomic_read(&d->nr_threads);
	r->threads = max(all - !!self, 0);
	stopped = w->count[UP_W_LANDED] + w->count[UP_W_PREEMPTED] + w->count[UP_W_COOPERATED];
	/* A CPU that did not answer: whom it runs, if anybody, we do not know. */
	r->stragglers = min(w->count[UP_W_LATE] + w->acks, r->threads - stopped);
	r->blocked = r->threads - stopped - r->stragglers;
	list_for_each_entry(t, &w->late, w_late) {
		if (i == UPREEMPT_WORLD_LATE)
			break;
		up_world_describe(t, &r->late[i++], ktime_get_ns() - w->request_ns);
	}
	for (; i < min_t(u32, r->stragglers, UPREEMPT_WORLD_LATE); i++)
		r->late[i] = (struct upreempt_world_thread){
			.slot = UPREEMPT_ANY_SLOT, .reason = UPREEMPT_R_SILENT,
			.ns = ktime_get_ns() - w->request_ns };
	w->late_sum += r->stragglers;
	r->landed = w->count[UP_W_LANDED];
	r->preempted = w->count[UP_W_PREEMPTED];
	r->cooperated = w->count[UP_W_COOPERATED];
	r->gone = w->gone;
	r->ipis = w->ipis;
	r->depth = ++w->depth;
	r->request_ns = w->request_ns;
	r->sent_ns = w->sent_ns;
	r->acked_ns = w->acked_ns;
	r->first_ns = w->first_ns;
	r->last_ns = w->last_ns;
	if (r->stragglers)
		w->slowest = r->late[0];
	r->slowest = w->slowest;
	raw_spin_unlock_irq(&w->lock);

	/* A thread that is born or ends just now is in the count or not. */
	r->unregistered = max(data_race(get_nr_threads(current)) - all - !self, 0);
	r->final_ns = ktime_get_ns();
	w->last_stop_ns = r->final_ns - r->request_ns;
	trace_upreempt_world_stopped(d->id, w->tid, w->last_stop_ns, r);
}

void up_world_release(struct up_domain *d)
{
	struct up_world *w = &d->world;

	raw_spin_lock_irq(&w->lock);
	if (w->epoch & 1)
		up_world_release_locked(d);
	raw_spin_unlock_irq(&w->lock);
	hrtimer_try_to_cancel(&w->timer);
	up_tables_retire(d);
	wake_up_all(&w->gate);
	wake_up(&w->owners);
}

/**
 * up_world_stop - stop all threads of a domain but the caller
 * @d: the domain
 * @arg: flags and times in, the report out
 *
 * Context: process, may sleep.
 * Return: 0, -EPERM, -ENXIO (the gate is not mapped), -EAGAIN, -ETIMEDOUT, -EBUSY,
 * -ERESTARTSYS.
 */
int up_world_stop(struct up_domain *d, struct upreempt_world *arg)
{
	struct up_thread *self;
	u64 grace_end;
	int ret, taken;

	if (!up_domain_mine(d))
		return -EPERM;
	if (!READ_ONCE(d->uaddr))
		return -ENXIO;
	ret = up_user_pace(d->user);
	if (ret)
		return ret;
	self = up_thread_in(current, d);
	taken = up_world_take(d, self, arg->flags, arg->deadline_ns);
	if (taken < 0)
		return taken;
	if (!taken)
		up_world_begin(d, self, arg);
	if (check_add_overflow(d->world.request_ns, arg->grace_ns, &grace_end))
		grace_end = U64_MAX;
	ret = up_world_await(d, grace_end, arg->deadline_ns);
	if (!ret) {
		up_world_report(d, self, arg);
		/* Nobody comes back to end the time of those who are late. */
		if (!d->world.forced && arg->stragglers)
			up_world_force(d);
		if (arg->flags & UPREEMPT_WORLD_ALL && arg->stragglers)
			ret = -ETIMEDOUT;
		else if (arg->flags & UPREEMPT_WORLD_REGISTERED && arg->unregistered)
			ret = -EBUSY;
		if (ret)
			up_world_start(d);
	} else if (!taken) {
		up_world_release(d);
	}
	return ret;
}

/**
 * up_world_start - undo one stop of the caller
 * @d: the domain
 *
 * Context: process.
 * Return: 0, -EPERM.
 */
int up_world_start(struct up_domain *d)
{
	struct up_thread *self;
	unsigned long flags;

	if (READ_ONCE(d->world.owner) != current)
		return -EPERM;
	if (--d->world.depth)
		return 0;
	up_world_release(d);
	/* What was kept from the stopper meanwhile. */
	self = up_thread_in(current, d);
	local_irq_save(flags);
	if (self && READ_ONCE(self->attention))
		up_on_cpu(self, UP_FROM_SELF);
	local_irq_restore(flags);
	return 0;
}

/* Who was the slowest in the last stop, for those who look from outside. */
void up_world_slowest(struct up_domain *d, struct upreempt_world_thread *slowest)
{
	raw_spin_lock_irq(&d->world.lock);
	*slowest = d->world.slowest;
	raw_spin_unlock_irq(&d->world.lock);
}
