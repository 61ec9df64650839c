// SPDX-License-Identifier: GPL-2.0
/*
 * Registered threads: their life from REGISTER to the RCU-delayed free, and
 * the scheduler's callbacks that keep up_thread.where true.
 */
#include <linux/freezer.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "upreempt.h"
#include "trace.h"

/* ---- the scheduler's callbacks ------------------------------------------- */

/*
 * Context: the thread itself, preemption off, interrupts on (after the run queue
 * was unlocked).
 */
static void up_sched_in(struct preempt_notifier *pn, int cpu)
{
	struct up_thread *t = container_of(pn, struct up_thread, pn);
	unsigned long flags;

	up_inject(sched_in_delay);
	up_world_running(t);
	/* F: full barrier, pairs with E in up_kick(). Pinned: somebody copies our frame. */
	while (unlikely(atomic_cmpxchg(&t->where, UP_OFF, cpu) == UP_PINNED)) {
		WRITE_ONCE(t->arrived, true);
		cpu_relax();
	}
	WRITE_ONCE(t->arrived, false);

	if (unlikely(READ_ONCE(t->w_listed)))
		up_world_sched_in(t);
	if (likely(!up_wanted(t) && !up_thread_moved_on(t))) {
		/*
		 * No hook at this return: it must not say so of a later one. An interrupt that
		 * armed it just now: whoever wants the thread has asked it to come to POLL again.
		 */
		WRITE_ONCE(t->cooperating, false);
		return;
	}
	local_irq_save(flags);
	up_on_cpu(t, UP_FROM_SCHED_IN);
	local_irq_restore(flags);
}

/*
 * Context: the thread itself, under its rq->lock, interrupts off. The saved user
 * frame does not change until sched_in, so what asks only for that frame is
 * answered here.
 */
static void up_sched_out(struct preempt_notifier *pn, struct task_struct *next)
{
	struct up_thread *t = container_of(pn, struct up_thread, pn);

	if (unlikely(t->armed)) {
		up_step_left(t, task_pt_regs(current));
		if (up_guard(UP_GUARD_SCHED_OUT))
			up_disarm(t);
	}

	if (unlikely(current->flags & PF_EXITING || up_thread_moved_on(t))) {
		/* The registers of what it has execed, maybe set-uid, are nobody's business. */
		up_thread_finish(t, UPREEMPT_GONE);
		if (READ_ONCE(current->__state) == TASK_DEAD) {
			/* The last time: nobody walks this notifier after RCU's next period. */
			if (!pn->link.next)
				up_world_running(NULL);
			atomic_set(&t->where, UP_DEAD);
			up_thread_put(t);
			return;
		}
	} else {
		if (unlikely(t->gates))
			up_thread_leave_gates(task_pt_regs(current), true);
		up_uprobe_left(t, task_pt_regs(current));
		if (unlikely(READ_ONCE(t->attention) & UP_ATT_PENDING))
			up_frame_requests(t, task_pt_regs(current));
		up_world_sched_out(t, task_pt_regs(current));
	}
	/* Not before all registrations of the thread are listed: see world.c. */
	if (!pn->link.next)
		up_world_running(NULL);
	atomic_set_release(&t->where, UP_OFF);
}

static struct preempt_ops up_preempt_ops = {
	.sched_in = up_sched_in,
	.sched_out = up_sched_out,
};

/* The current thread's registration (any of them), or NULL. Only it can end it. */
struct up_thread *up_thread_current(void)
{
	struct up_thread *t = NULL;
	struct preempt_notifier *pn;

	preempt_disable();
	hlist_for_each_entry(pn, &current->preempt_notifiers, link) {
		if (pn->ops == &up_preempt_ops) {
			t = container_of(pn, struct up_thread, pn);
			break;
		}
	}
	preempt_enable();
	return t;
}

/* The registration of @task in @d, or NULL. @task is current, or one of its own is pinned. */
struct up_thread *up_thread_in(struct task_struct *task, const struct up_domain *d)
{
	struct up_thread *t = NULL;
	struct preempt_notifier *pn;

	preempt_disable();
	hlist_for_each_entry(pn, &task->preempt_notifiers, link) {
		if (pn->ops != &up_preempt_ops)
			continue;
		t = container_of(pn, struct up_thread, pn);
		if (t->domain == d && !READ_ONCE(t->dead))
			break;
		t = NULL;
	}
	preempt_enable();
	return t;
}

/*
 * Does a stop in another domain than @t's hold the current thread? Then it has told where the
 * thread is, and nothing may move it, in whatever order the hooks of its domains run.
 * Context: interrupts off.
 */
bool up_thread_held_elsewhere(const struct up_thread *t)
{
	const struct preempt_notifier *pn;
	const struct up_thread *other;

	hlist_for_each_entry(pn, &current->preempt_notifiers, link) {
		if (pn->ops != &up_preempt_ops)
			continue;
		other = container_of(pn, struct up_thread, pn);
		if (other != t && (READ_ONCE(other->hold) || up_world_holds(other)))
			return true;
	}
	return false;
}

/* How many notifiers each context switch of the current thread has to run. */
static unsigned int up_registrations(void)
{
	unsigned int n = 0;
	struct preempt_notifier *pn;

	preempt_disable();
	hlist_for_each_entry(pn, &current->preempt_notifiers, link)
		n += pn->ops == &up_preempt_ops;
	preempt_enable();
	return n;
}

/* One gate back from @ip; bounded loops, for entries left by jumps may point at each other. */
static unsigned long up_thread_ip_before(struct task_struct *task, unsigned long ip,
					 unsigned long sp)
{
	struct preempt_notifier *pn;
	unsigned long before;

	hlist_for_each_entry(pn, &task->preempt_notifiers, link) {
		if (pn->ops != &up_preempt_ops)
			continue;
		before = up_gate_true_ip(container_of(pn, struct up_thread, pn), ip, sp);
		if (before != ip)
			return before;
	}
	return ip;
}

/**
 * up_thread_true_ip - the PC behind the gates of all registrations of a thread
 * @task: current with interrupts off, or one of its registrations is pinned
 * @regs: its user frame
 */
unsigned long up_thread_true_ip(struct task_struct *task, const struct pt_regs *regs)
{
	unsigned long ip = regs->ip;
	unsigned int i;

	for (i = 0; i < UP_MAX_REGISTRATIONS; i++)
		ip = up_thread_ip_before(task, ip, regs->sp);
	return ip;
}

/* The PC of the current thread leads into its gate in @t's domain, if by way of others. */
bool up_thread_at_gate(struct up_thread *t, const struct pt_regs *regs)
{
	unsigned long ip = regs->ip;
	unsigned int i;

	for (i = 0; i < UP_MAX_REGISTRATIONS; i++) {
		if (up_gate_true_ip(t, ip, regs->sp) != ip)
			return true;
		ip = up_thread_ip_before(current, ip, regs->sp);
	}
	return false;
}

/* Give the current thread its PC back, from all gates. @switched: in sched_out. */
void up_thread_leave_gates(struct pt_regs *regs, bool switched)
{
	struct preempt_notifier *pn;
	struct up_thread *t;
	bool again = true;
	unsigned int i;

	for (i = 0; i < UP_MAX_REGISTRATIONS && again; i++) {
		again = false;
		hlist_for_each_entry(pn, &current->preempt_notifiers, link) {
			if (pn->ops != &up_preempt_ops)
				continue;
			t = container_of(pn, struct up_thread, pn);
			if (t->gates)
				again |= up_gate_left(t, regs, switched);
		}
	}
}

/* ---- references ----------------------------------------------------------- */

static void up_thread_reap(struct work_struct *work)
{
	struct up_thread *t = container_of(to_rcu_work(work), struct up_thread, reap);
	struct up_domain *d = t->domain;

	hrtimer_cancel(&t->timer);
	irq_work_sync(&t->irq_work);
	up_return_free(t);

	mutex_lock(&up_domains_lock);
	list_del(&t->all);
	up_stats_add(&d->past, &t->count);
	mutex_unlock(&up_domains_lock);

	mmdrop(t->mm);
	put_task_struct(t->task);
	kfree(t);
	up_domain_put(d);
	module_put(THIS_MODULE);
}

/* What must not be done under a lock or with interrupts off is done from here. */
static void up_thread_irq_work(struct irq_work *work)
{
	struct up_thread *t = container_of(work, struct up_thread, irq_work);

	bool all = test_and_clear_bit(UP_WAKE_ALL, &t->irq_flags);

	if (test_and_clear_bit(UP_WAKE_DONE, &t->irq_flags) || all)
		wake_up_all(&t->wait);
	if (all)
		wake_up_all(&t->room);
	else if (test_and_clear_bit(UP_WAKE_ROOM, &t->irq_flags))
		wake_up(&t->room);
	if (test_and_clear_bit(UP_WAKE_GATE, &t->irq_flags))
		wake_up_all(&t->gate_wait);
	if (test_and_clear_bit(UP_IRQ_RETURN, &t->irq_flags))
		queue_work(up_wq, &t->return_work);
	if (test_and_clear_bit(UP_IRQ_REAP, &t->irq_flags))
		queue_rcu_work(up_wq, &t->reap);
}

/* Context: any, also under rq->lock and t->lock. */
void up_thread_wake(struct up_thread *t, int whom)
{
	set_bit(whom, &t->irq_flags);
	irq_work_queue(&t->irq_work);
}

/* Context: any. */
void up_thread_put(struct up_thread *t)
{
	if (!refcount_dec_and_test(&t->ref))
		return;
	/*
	 * The irq_work may be running for a wake-up on another CPU and see the bit before
	 * we have queued it: the grace period that it starts has to wait for us.
	 */
	rcu_read_lock();
	set_bit(UP_IRQ_REAP, &t->irq_flags);
	irq_work_queue(&t->irq_work);
	rcu_read_unlock();
}

/* ---- the end of a registration --------------------------------------------- */

/*
 * A thread that is gone but has outcomes that nobody collected yet stays to be
 * found by WAIT. Called under t->lock.
 */
void up_zombie_add(struct up_thread *t)
{
	struct up_domain *d = t->domain;
	struct up_thread *oldest = NULL;
	int i;

	t->seq_lo = U64_MAX;
	for (i = 0; i < UP_MAX_REQUESTS; i++) {
		if (t->reqs[i].state != UP_REQ_DONE)
			continue;
		t->seq_lo = min(t->seq_lo, t->reqs[i].event.seq);
		t->seq_hi = max(t->seq_hi, t->reqs[i].event.seq);
	}
	raw_spin_lock(&d->zombie_lock);
	if (d->closed) {
		raw_spin_unlock(&d->zombie_lock);
		return;
	}
	refcount_inc(&t->ref);
	t->zombie = true;
	list_add_tail(&t->zombie_node, &d->zombies);
	if (++d->nr_zombies > UP_MAX_ZOMBIES) {
		oldest = list_first_entry(&d->zombies, struct up_thread, zombie_node);
		list_del_init(&oldest->zombie_node);
		oldest->zombie = false;
		d->nr_zombies--;
	}
	raw_spin_unlock(&d->zombie_lock);
	if (oldest)
		up_thread_put(oldest);
}

/* Under t->lock of a dead thread: all collected? The caller has a reference of its own. */
void up_zombie_settle(struct up_thread *t)
{
	struct up_domain *d = t->domain;
	bool put = false;

	if (up_request_uncollected(t))
		return;
	raw_spin_lock(&d->zombie_lock);
	if (t->zombie) {
		t->zombie = false;
		list_del_init(&t->zombie_node);
		d->nr_zombies--;
		put = true;
	}
	raw_spin_unlock(&d->zombie_lock);
	if (put)
		up_thread_put(t);
}

static bool up_thread_finish_locked(struct up_thread *t, enum upreempt_outcome outcome,
				    bool by_itself)
{
	struct up_domain *d = t->domain;

	lockdep_assert_held(&t->lock);
	if (t->dead)
		return true;
	if (!up_world_gone(t, by_itself))
		return false;
	t->closing = true;
	up_return_drop(t);
	up_request_drop_all(t, outcome);
	up_attention_update(t);
	WRITE_ONCE(up_slot(t)->tid, 0);
	if (up_request_uncollected(t))
		up_zombie_add(t);
	/* Only now may the slot be given to another thread. */
	rcu_assign_pointer(d->threads[t->index], NULL);
	up_thread_wake(t, UP_WAKE_ALL);
	up_thread_wake(t, UP_WAKE_GATE);
	return true;
}

/*
 * No more requests: what is queued ends with @outcome, what is held goes on, the
 * slot is free again. The notifiers stay until the thread itself takes them away.
 * Context: any, may be called more than once.
 */
void up_thread_finish(struct up_thread *t, enum upreempt_outcome outcome)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&t->lock, flags);
	up_thread_finish_locked(t, outcome, false);
	raw_spin_unlock_irqrestore(&t->lock, flags);
}

/*
 * As the thread itself, unless a STOP holds it: one that found it in the system call in
 * which it wants to leave is as good as any other.
 * Return: whether it took place.
 */
static bool up_thread_finish_free(struct up_thread *t)
{
	unsigned long flags;
	bool free;

	raw_spin_lock_irqsave(&t->lock, flags);
	free = !t->hold && up_thread_finish_locked(t, UPREEMPT_GONE, true);
	raw_spin_unlock_irqrestore(&t->lock, flags);
	return free;
}

/**
 * up_thread_leave - the current thread unregisters
 * @t: its registration
 *
 * Context: process, sleeps while a STOP or a stop of the world holds the thread.
 * Return: 0, -EBUSY (it has stopped the world), -ERESTARTNOINTR.
 */
int up_thread_leave(struct up_thread *t)
{
	unsigned long flags;

	if (up_world_owned_by(t))
		return -EBUSY;
	do {
		/* A signal's handler runs after the release, as behind the gate. */
		if (up_held_wait(t))
			return -ERESTARTNOINTR;
	} while (!up_thread_finish_free(t));

	local_irq_save(flags);
	up_thread_detach(t);
	local_irq_restore(flags);
	return 0;
}

/*
 * Take the notifiers away and drop the registration's reference.
 * Context: the thread itself, interrupts off, not in a preempt notifier.
 */
void up_thread_detach(struct up_thread *t)
{
	up_thread_finish(t, UPREEMPT_GONE);
	up_disarm(t);
	preempt_notifier_unregister(&t->pn);
	if (hlist_empty(&current->preempt_notifiers))
		up_world_running(NULL);
	atomic_set(&t->where, UP_DEAD);
	up_thread_put(t);
}

/* ---- the beginning ---------------------------------------------------------- */

static int up_register_check(const struct upreempt_register *reg)
{
	if (reg->flags || reg->reserved32 || reg->reserved[0] || reg->reserved[1])
		return -EINVAL;
	if (!reg->landing != !reg->landing_end)
		return -EINVAL;
	if (reg->landing_end < reg->landing || reg->landing_end > TASK_SIZE_MAX ||
	    reg->landing_end - reg->landing > UP_LANDING_MAX ||
	    (reg->landing && reg->landing_end == reg->landing))
		return -EINVAL;
	if (!reg->stack_lo && !reg->stack_hi)
		return 0;
	if (reg->stack_lo >= reg->stack_hi || reg->stack_hi > TASK_SIZE_MAX ||
	    reg->stack_need > reg->stack_hi - reg->stack_lo)
		return -EINVAL;
	return 0;
}

/* Under domain->mutex: the slot for the current thread, or -errno. */
static int up_register_slot(struct up_domain *d, u32 wanted)
{
	u32 i;

	if (wanted != UPREEMPT_ANY_SLOT && wanted >= d->nr_slots)
		return -EINVAL;
	/* Not by a walk over all slots: ten thousand threads take a second for that. */
	if (up_thread_in(current, d))
		return -EEXIST;
	if (wanted != UPREEMPT_ANY_SLOT)
		return rcu_access_pointer(d->threads[wanted]) ? -EBUSY : (int)wanted;
	for (i = 0; i < d->nr_slots; i++)
		if (!rcu_access_pointer(d->threads[i]))
			return i;
	return -ENOSPC;
}

static void up_thread_init(struct up_thread *t, struct up_domain *d, u32 index,
			   const struct upreempt_register *reg)
{
	t->task = get_task_struct(current);
	t->mm = current->mm;
	mmgrab(t->mm);
	t->tid = task_pid_vnr(current);
	t->id = ++d->last_id;
	t->domain = d;
	kref_get(&d->ref);
	t->index = index;
	t->landing = reg->landing;
	t->landing_end = reg->landing_end;
	t->arg = reg->arg;
	t->stack_lo = reg->stack_lo;
	t->stack_hi = reg->stack_hi;
	t->stack_need = reg->stack_need;

	refcount_set(&t->ref, 1);
	raw_spin_lock_init(&t->lock);
	INIT_LIST_HEAD(&t->queue);
	INIT_LIST_HEAD(&t->zombie_node);
	INIT_LIST_HEAD(&t->w_off);
	INIT_LIST_HEAD(&t->w_late);
	init_waitqueue_head(&t->wait);
	init_waitqueue_head(&t->room);
	init_waitqueue_head(&t->gate_wait);
	init_irq_work(&t->irq_work, up_thread_irq_work);
	INIT_RCU_WORK(&t->reap, up_thread_reap);
	INIT_WORK(&t->return_work, up_return_work);
	hrtimer_setup(&t->timer, up_timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS_PINNED_HARD);
	INIT_CSD(&t->csd, up_ipi, t);
	preempt_notifier_init(&t->pn, &up_preempt_ops);
	t->urn.on_user_return = up_hook;
}

/**
 * up_thread_register - register the current thread
 * @d: a domain that is set up
 * @reg: checked here; slot, tid and id are filled in
 *
 * Context: process, may sleep.
 * Return: 0 or -errno.
 */
int up_thread_register(struct up_domain *d, struct upreempt_register *reg)
{
	struct upreempt_slot *slot;
	struct up_thread *t;
	int ret;

	if (!up_domain_mine(d) || (current->flags & (PF_KTHREAD | PF_EXITING)))
		return -EPERM;
	ret = up_register_check(reg);
	if (ret)
		return ret;
	if (up_registrations() >= UP_MAX_REGISTRATIONS)
		return -EUSERS;
	t = kzalloc(sizeof(*t), GFP_KERNEL_ACCOUNT);
	if (!t)
		return -ENOMEM;

	mutex_lock(&d->mutex);
	ret = up_register_slot(d, reg->slot);
	if (ret < 0) {
		mutex_unlock(&d->mutex);
		kfree(t);
		return ret;
	}
	up_thread_init(t, d, ret, reg);
	__module_get(THIS_MODULE);
	mutex_lock(&up_domains_lock);
	list_add_tail(&t->all, &d->all_threads);
	mutex_unlock(&up_domains_lock);

	slot = up_slot(t);
	memset(slot, 0, sizeof(*slot));
	WRITE_ONCE(slot->trigger, up_trigger_address(t));
	WRITE_ONCE(slot->tid, t->tid);

	preempt_disable();
	/* An IPI finds all of it or nothing. */
	local_irq_disable();
	atomic_inc(&d->nr_threads);
	up_world_running(t);
	atomic_set(&t->where, smp_processor_id());
	preempt_notifier_register(&t->pn);
	rcu_assign_pointer(d->threads[t->index], t);
	/* A stop of the world that did not see us: we see it, as in sched_in (F). */
	smp_mb();
	if (up_wanted(t))
		up_on_cpu(t, UP_FROM_SELF);
	local_irq_enable();
	preempt_enable();
	mutex_unlock(&d->mutex);

	reg->slot = ret;
	reg->tid = t->tid;
	reg->id = t->id;
	return 0;
}
