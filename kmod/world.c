// SPDX-License-Identifier: GPL-2.0
/*
 * Stop the world, in a time that depends on the running CPUs and not on the threads.
 *
 * A stop makes the domain's epoch odd. From then on every hook of the domain's threads
 * sends its thread to the gate, and every switch to one of them arms the hook: a thread
 * in a system call is stopped without being touched. What is left are the threads that
 * were at user instructions at that moment:
 *
 *	on a CPU	one IPI to each CPU whose per-CPU word says that it runs this program;
 *			the handler puts the thread on the list of the late ones, its hook
 *			takes it off
 *	switched out	on the list of those, which sched_out and sched_in keep; they are
 *			looked at in place
 *
 * Lost threads: the epoch is stored, then the per-CPU words are read (barrier: G, full);
 * sched_in writes its word, then changes where (F, full), then reads the epoch. One of
 * the two sees the other. sched_out lists the thread before it clears the word.
 *
 * Each thread is counted once in an epoch: up_thread.w_state is valid while w_epoch is
 * the epoch, and changes under world->lock only. A thread without a state has been
 * in a system call since before the stop, and is counted by subtraction: nobody walks over
 * those. One that is seen there, on a CPU or coming back to one, gets its state (BLOCKED): it
 * will be held wherever its return leads, also where an interrupted thread would not be.
 *
 * The list of the switched out pins them: sched_in has to take its thread off it.
 */
#include <linux/freezer.h>
#include <linux/overflow.h>
#include <linux/percpu.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "world.h"
#include "trace.h"

DEFINE_PER_CPU(unsigned long, up_running);

bool up_world_owned_by(const struct up_thread *t)
{
	return READ_ONCE(t->domain->world.owner) == t->task;
}

/* ---- the states of a thread: all under world->lock ----------------------------------- */

static void up_world_wake(struct up_world *w, unsigned int what)
{
	set_bit(what, &w->irq_flags);
	irq_work_queue(&w->irq_work);
}

void up_world_settle(struct up_world *w)
{
	if (w->complete || !w->walked || w->acks || !list_empty(&w->late))
		return;
	WRITE_ONCE(w->complete, true);
	if (wq_has_sleeper(&w->done))
		up_world_wake(w, UP_WORLD_WAKE_DONE);
}

/* The thread has to be waited for. */
void up_world_late(struct up_thread *t, enum upreempt_reason reason, unsigned long ip)
{
	struct up_world *w = &t->domain->world;

	if (up_state(t) == UP_W_NONE) {
		t->w_epoch = w->epoch;
		t->w_state = UP_W_LATE;
		t->w_attempts = 0;
		t->w_steps = 0;
		w->count[UP_W_LATE]++;
		list_add_tail(&t->w_late, &w->late);
	}
	t->w_reason = reason;
	t->w_ip = ip;
}

void up_world_describe(const struct up_thread *t, struct upreempt_world_thread *to, u64 ns)
{
	static const u16 outcome[] = {
		[UP_W_NONE] = UPREEMPT_BLOCKED, [UP_W_LATE] = UPREEMPT_PENDING,
		[UP_W_LANDED] = UPREEMPT_LANDED, [UP_W_PREEMPTED] = UPREEMPT_LANDED,
		[UP_W_COOPERATED] = UPREEMPT_COOPERATED, [UP_W_BLOCKED] = UPREEMPT_BLOCKED,
	};

	to->slot = t->index;
	to->tid = t->tid;
	to->outcome = outcome[up_state(t)];
	to->reason = t->w_reason;
	to->attempts = t->w_attempts;
	to->rip = t->w_ip;
	to->ns = ns;
	memcpy(to->comm, t->task->comm, sizeof(to->comm));
	to->comm[sizeof(to->comm) - 1] = 0;
}

/* The thread is stopped: whatever it does next, the hook holds it. */
void up_world_stood(struct up_thread *t, enum up_world_state how, unsigned long ip)
{
	struct up_world *w = &t->domain->world;
	bool late = up_state(t) == UP_W_LATE;
	u64 now = ktime_get_ns();

	if (late) {
		list_del_init(&t->w_late);
		w->count[UP_W_LATE]--;
	}
	if (!late || t->w_reason == UPREEMPT_R_NOT_RUN)
		t->w_reason = UPREEMPT_R_NONE;
	t->w_epoch = w->epoch;
	t->w_state = how;
	t->w_ip = ip;
	w->count[how]++;
	/* Nobody waits for what is found in place. */
	if (late || (how != UP_W_BLOCKED && (how != UP_W_PREEMPTED || w->walked))) {
		if (!w->first_ns)
			w->first_ns = now;
		w->last_ns = now;
		up_world_describe(t, &w->slowest, now - w->request_ns);
	}
	if (late && w->strategies & UPREEMPT_BY_RETURN)
		up_thread_wake(t, UP_IRQ_RETURN);
	trace_upreempt_world_thread(t->domain->id, t->tid, how, t->w_reason, t->w_attempts, ip,
				    now - w->request_ns);
	up_world_settle(w);
}

static enum upreempt_reason up_world_why_off(const struct up_thread *t)
{
	if (task_is_traced(t->task))
		return UPREEMPT_R_TRACED;
	if (task_is_stopped(t->task))
		return UPREEMPT_R_JOBCTL;
	return UPREEMPT_R_NONE;
}

/* Switched out at a user instruction, and on the list that keeps it there. */
void up_world_classify(struct up_thread *t)
{
	const struct pt_regs *regs = task_pt_regs(t->task);
	unsigned long ip = up_thread_true_ip(t->task, regs);
	enum upreempt_reason reason;

	if (up_state(t) > UP_W_LATE)
		return;
	reason = READ_ONCE(t->gated) ? UPREEMPT_R_NONE : up_check_off(t, regs, ip);
	if (!reason && !READ_ONCE(t->gated) && !t->domain->world.forced) {
		reason = UPREEMPT_R_GRACE;
		up_poll_set(t);
	}
	if (!reason) {
		up_world_stood(t, UP_W_PREEMPTED, ip);
		return;
	}
	reason = up_world_why_off(t) ?: reason;
	up_world_late(t, reason, ip);
	WRITE_ONCE(up_slot(t)->pending, 1);
}

/* ---- what the rest of the module tells us -------------------------------------------- */

/* See up_world_sched_out(). */
void __up_world_sched_out(struct up_thread *t, const struct pt_regs *regs, bool user)
{
	struct up_world *w = &t->domain->world;

	raw_spin_lock(&w->lock);
	if (user && !t->dead) {
		list_add_tail(&t->w_off, &w->off);
		WRITE_ONCE(t->w_listed, true);
	}
	if (up_concerned(t)) {
		if (user)
			up_world_classify(t);
		else if (up_state(t) == UP_W_LATE)
			up_world_stood(t, UP_W_BLOCKED, regs->ip);
	}
	raw_spin_unlock(&w->lock);
}

/* Context: the thread itself, in sched_in; it is on the list. */
void up_world_sched_in(struct up_thread *t)
{
	struct up_world *w = &t->domain->world;
	unsigned long flags;

	raw_spin_lock_irqsave(&w->lock, flags);
	if (t->w_listed) {
		list_del_init(&t->w_off);
		WRITE_ONCE(t->w_listed, false);
		/* The stopper has not come to it yet, and will not find it any more. */
		if (up_concerned(t) && up_state(t) == UP_W_NONE)
			up_world_late(t, UPREEMPT_R_NOT_RUN, 0);
	}
	raw_spin_unlock_irqrestore(&w->lock, flags);
}

/* Context: @t is current, interrupts off. In a system call that the hook watches it stands. */
void up_world_on_cpu(struct up_thread *t, const struct pt_regs *regs)
{
	struct up_world *w = &t->domain->world;

	if (!up_world_stopped(w) || !up_in_syscall(regs))
		return;
	raw_spin_lock(&w->lock);
	/* One that came to POLL while it was waited for is the hook's. */
	if (up_concerned(t) && up_state(t) <= (READ_ONCE(t->cooperating) ? UP_W_NONE : UP_W_LATE)) {
		if (!user_64bit_mode((struct pt_regs *)regs))
			up_world_late(t, UPREEMPT_R_NOT_64BIT, regs->ip);
		else if (t->armed)
			up_world_stood(t, UP_W_BLOCKED, regs->ip);
	}
	raw_spin_unlock(&w->lock);
}

/**
 * up_world_hook - does a stop of the world hold the current thread?
 * @t: current's registration
 * @regs: its final user frame, which may be set back to the start of a sequence
 *
 * Context: the hook, under t->lock.
 */
bool up_world_hook(struct up_thread *t, struct pt_regs *regs)
{
	struct up_world *w = &t->domain->world;
	enum upreempt_reason reason;
	bool hold = true, grace;
	unsigned long ip;

	if (!up_world_stopped(w))
		return false;
	raw_spin_lock(&w->lock);
	if (!up_concerned(t)) {
		hold = false;
	} else if (up_state(t) <= UP_W_LATE) {
		/* Without a state: armed for something else, and the IPI is still under way. */
		ip = up_thread_true_ip(current, regs);
		/* On its way into another domain's gate it is held, but not where we forbid it. */
		grace = !w->forced && !t->cooperating;
		reason = ip == regs->ip ? up_check_stop(t, regs, grace) :
					  up_check_off(t, regs, ip);
		if (!reason && grace)
			reason = UPREEMPT_R_GRACE;
		if (t->stepped && t->w_reason == UPREEMPT_R_STEPPING)
			t->w_steps++;
		if (reason && !t->hold)
			reason = up_strategy(t, regs, reason, w->strategies, t->w_steps, w->steps);
		hold = !reason;
		if (hold) {
			ip = up_thread_true_ip(current, regs);
			up_world_stood(t, t->cooperating ? UP_W_COOPERATED : UP_W_LANDED, ip);
		} else {
			up_world_late(t, reason, ip);
			if (reason == UPREEMPT_R_GRACE) {
				up_poll_set(t);
			} else if (reason != UPREEMPT_R_STEPPING) {
				if (!t->w_attempts++)
					t->backoff_ns = 0;
				t->count.deferrals[reason]++;
				up_retry_later(t);
			}
		}
	}
	raw_spin_unlock(&w->lock);
	return hold;
}

/* The thread waits for nothing that a stop would end: so upreempt_enable() has to ask. */
bool up_world_waits(const struct up_thread *t)
{
	const struct up_world *w = &t->domain->world;

	return up_world_stopped(w) && READ_ONCE(t->w_epoch) == READ_ONCE(w->epoch) &&
	       READ_ONCE(t->w_state) == UP_W_LATE;
}

/* ---- release ------------------------------------------------------------------------- */

/* Under world->lock. The caller wakes w->gate and w->owners, and retires tables. */
void up_world_release_locked(struct up_domain *d)
{
	struct up_world *w = &d->world;
	u64 ns = ktime_get_ns() - w->request_ns;
	struct up_thread *t;

	/* Nobody waits for their return any more. */
	if (w->strategies & UPREEMPT_BY_RETURN)
		list_for_each_entry(t, &w->late, w_late)
			up_thread_wake(t, UP_IRQ_RETURN);
	/* Their nodes stay as they are: a state of a past epoch says that they are on no list. */
	INIT_LIST_HEAD(&w->late);
	w->depth = 0;
	w->ns += ns;
	up_tables_release(d);
	WRITE_ONCE(w->owner, NULL);
	/* The one store. Whoever waits at the gate looks at it after having been woken. */
	smp_store_release(&w->epoch, w->epoch + 1);
	trace_upreempt_world_start(d->id, w->tid, ns);
}

/*
 * The thread leaves, unless it does so @by_itself and is held: it is not waited for, and its
 * world stands no longer. Any context, under t->lock.
 */
bool up_world_gone(struct up_thread *t, bool by_itself)
{
	struct up_world *w = &t->domain->world;
	unsigned long flags;

	raw_spin_lock_irqsave(&w->lock, flags);
	if (by_itself && up_concerned(t)) {
		raw_spin_unlock_irqrestore(&w->lock, flags);
		return false;
	}
	t->dead = true;
	atomic_dec(&t->domain->nr_threads);
	if (t->w_listed) {
		list_del_init(&t->w_off);
		WRITE_ONCE(t->w_listed, false);
	}
	if (w->epoch & 1 && up_state(t) != UP_W_NONE) {
		if (up_state(t) == UP_W_LATE) {
			list_del_init(&t->w_late);
			w->gone++;
		}
		w->count[up_state(t)]--;
		t->w_state = UP_W_NONE;
		up_world_settle(w);
	}
	if (w->epoch & 1 && w->owner == t->task) {
		up_world_release_locked(t->domain);
		up_world_wake(w, UP_WORLD_WAKE_GATE);
	}
	raw_spin_unlock_irqrestore(&w->lock, flags);
	return true;
}

static void up_world_irq_work(struct irq_work *work)
{
	struct up_world *w = container_of(work, struct up_world, irq_work);

	if (test_and_clear_bit(UP_WORLD_WAKE_DONE, &w->irq_flags))
		wake_up_all(&w->done);
	if (test_and_clear_bit(UP_WORLD_WAKE_GATE, &w->irq_flags)) {
		up_tables_retire(container_of(w, struct up_domain, world));
		wake_up_all(&w->gate);
		wake_up(&w->owners);
	}
}

/*
 * A stopper that is no registered thread of the domain may die without our being told; and
 * one that takes its time is named.
 */
static enum hrtimer_restart up_world_timer(struct hrtimer *timer)
{
	struct up_world *w = container_of(timer, struct up_world, timer);
	struct up_domain *d = container_of(w, struct up_domain, world);
	char comm[TASK_COMM_LEN] = "";
	unsigned long flags;
	bool again = false;
	u64 stood = 0;
	pid_t pid = 0;

	raw_spin_lock_irqsave(&w->lock, flags);
	if (w->epoch & 1 && w->owner) {
		again = !(w->owner->flags & PF_EXITING) && READ_ONCE(w->owner->mm) == d->mm;
		if (!again) {
			up_world_release_locked(d);
			up_world_wake(w, UP_WORLD_WAKE_GATE);
		} else if (ktime_get_ns() >= w->warn_ns) {
			stood = ktime_get_ns() - w->request_ns;
			w->warn_ns = w->request_ns + 2 * stood;
			pid = task_pid_nr(w->owner);
			memcpy(comm, w->owner->comm, sizeof(comm));
		}
	}
	/* Queued: while we were on our way here the next stop began, and started it. */
	again &= !hrtimer_is_queued(timer);
	if (again)
		hrtimer_forward_now(timer, ns_to_ktime(UP_WORLD_LOOK_NS));
	raw_spin_unlock_irqrestore(&w->lock, flags);
	if (stood)
		pr_notice_ratelimited("upreempt: %.15s[%d] has stopped the world of domain %u for %llu s\n",
				      comm, pid, d->id, stood / NSEC_PER_SEC);
	return again ? HRTIMER_RESTART : HRTIMER_NORESTART;
}

/* ---- the domain's life --------------------------------------------------------------- */

int up_world_init(struct up_domain *d)
{
	struct up_world *w = &d->world;
	struct up_world_cpu *c;
	int cpu;

	w->cpus = alloc_percpu_gfp(struct up_world_cpu, GFP_KERNEL_ACCOUNT);
	if (!w->cpus)
		return -ENOMEM;
	for_each_possible_cpu(cpu) {
		c = per_cpu_ptr(w->cpus, cpu);
		c->domain = d;
		INIT_CSD(&c->csd, up_world_ipi, c);
	}
	raw_spin_lock_init(&w->lock);
	INIT_LIST_HEAD(&w->off);
	INIT_LIST_HEAD(&w->late);
	init_waitqueue_head(&w->gate);
	init_waitqueue_head(&w->done);
	init_waitqueue_head(&w->owners);
	init_irq_work(&w->irq_work, up_world_irq_work);
	hrtimer_setup(&w->timer, up_world_timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
	return 0;
}

/* The file is closed: nobody can start the world any more, and no IPI may stay behind. */
void up_world_close(struct up_domain *d)
{
	struct up_world *w = &d->world;
	int cpu;

	up_world_release(d);
	for_each_possible_cpu(cpu)
		while (test_bit(0, &per_cpu_ptr(w->cpus, cpu)->busy))
			cond_resched();
}

/* Context: process, an RCU grace period after the last user of the domain. */
void up_world_free(struct up_domain *d)
{
	struct up_world *w = &d->world;

	if (!w->cpus)
		return;
	hrtimer_cancel(&w->timer);
	irq_work_sync(&w->irq_work);
	if (w->owner_ref)
		put_task_struct(w->owner_ref);
	free_percpu(w->cpus);
	w->cpus = NULL;		/* SETUP may have failed: we are called again */
}
