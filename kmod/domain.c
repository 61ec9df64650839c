// SPDX-License-Identifier: GPL-2.0
/*
 * Domains: one for each open file. Shared memory, slot table, ownership.
 */
#include <linux/eventfd.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "upreempt.h"

LIST_HEAD(up_domains);
DEFINE_MUTEX(up_domains_lock);	/* the lists of domains and of their threads */

static atomic_t up_domain_ids = ATOMIC_INIT(0);

/* ---- the shared memory ------------------------------------------------------------- */

static void up_pages_free(struct up_domain *d)
{
	unsigned long i;

	if (d->mem)
		vunmap(d->mem);
	for (i = 0; d->pages && i < d->nr_pages; i++)
		if (d->pages[i])
			__free_page(d->pages[i]);	/* a mapping has references of its own */
	if (d->pages)
		up_user_give_pages(d->user, d->nr_pages);
	kvfree(d->pages);
	d->mem = NULL;
	d->pages = NULL;
}

static int up_pages_alloc(struct up_domain *d, unsigned long nr)
{
	unsigned long i;

	if (!up_user_take_pages(d->user, nr))
		return -EDQUOT;
	d->pages = kvcalloc(nr, sizeof(*d->pages), GFP_KERNEL_ACCOUNT);
	if (!d->pages) {
		up_user_give_pages(d->user, nr);
		return -ENOMEM;
	}
	d->nr_pages = nr;
	for (i = 0; i < nr; i++) {
		d->pages[i] = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN);
		if (!d->pages[i] || fatal_signal_pending(current))
			goto free;
		cond_resched();
	}
	d->mem = vmap(d->pages, nr, VM_MAP, PAGE_KERNEL);
	if (d->mem)
		return 0;
free:
	up_pages_free(d);
	return -ENOMEM;
}

static void up_layout(struct up_domain *d, struct upreempt_setup *s)
{
	struct upreempt_header *h = d->mem;

	d->header = h;
	d->slots = d->mem + s->slots_off;
	d->ring.events = d->mem + s->ring_off;
	d->ring.mask = s->nr_events - 1;

	h->abi_version = UPREEMPT_ABI_VERSION;
	h->nr_slots = s->nr_slots;
	h->nr_events = s->nr_events;
	h->slot_size = sizeof(struct upreempt_slot);
	h->slots_off = s->slots_off;
	h->ring_off = s->ring_off;
	h->gate_off = s->gate_off;
	h->mmap_size = s->mmap_size;
}

/*
 * The context-switch notifiers are a static branch of the kernel: each change rewrites its
 * text on all CPUs. So it is switched on with the first domain, and off by rmmod.
 */
static DEFINE_MUTEX(up_notifiers_mutex);
static bool up_notifiers_on;

static void up_notifiers_enable(void)
{
	mutex_lock(&up_notifiers_mutex);
	if (!up_notifiers_on)
		preempt_notifier_inc();
	up_notifiers_on = true;
	mutex_unlock(&up_notifiers_mutex);
}

/*
 * Context: module exit. The test build leaves the branch as it is: it is loaded and unloaded
 * in loops, and QEMU's emulation at times goes on executing the breakpoint that the kernel
 * puts there while it rewrites a branch (int3 oops, or for ever).
 */
void up_domains_exit(void)
{
#ifndef UPREEMPT_INJECT
	if (up_notifiers_on)
		preempt_notifier_dec();
#endif
}

/**
 * up_domain_setup - give the domain its memory; once
 * @d: the domain
 * @s: sizes in, layout out
 *
 * Context: process, may sleep.
 * Return: 0, -EPERM, -EINVAL, -EBUSY, -ENOMEM.
 */
int up_domain_setup(struct up_domain *d, struct upreempt_setup *s)
{
	int ret;

	if (!up_domain_mine(d))
		return -EPERM;
	if (up_domain_ready(d))
		return -EBUSY;
	if (s->flags & ~UPREEMPT_SETUP_DECLARED || s->reserved[0] || s->reserved[1] ||
	    !s->nr_slots || s->nr_slots > UP_MAX_SLOTS ||
	    s->nr_events < UP_MIN_EVENTS || s->nr_events > UP_MAX_EVENTS ||
	    !is_power_of_2(s->nr_events))
		return -EINVAL;

	s->slots_off = PAGE_SIZE;
	s->ring_off = s->slots_off +
		      PAGE_ALIGN(s->nr_slots * (u64)sizeof(struct upreempt_slot));
	s->gate_off = s->ring_off +
		      PAGE_ALIGN(s->nr_events * (u64)sizeof(struct upreempt_event));
	s->mmap_size = s->gate_off + PAGE_ALIGN((u64)s->nr_slots);

	mutex_lock(&d->mutex);
	if (d->ready) {
		ret = -EBUSY;
		goto unlock;
	}
	ret = -ENOMEM;
	d->threads = kvcalloc(s->nr_slots, sizeof(*d->threads), GFP_KERNEL_ACCOUNT);
	if (!d->threads)
		goto unlock;
	ret = up_world_init(d);
	if (!ret)
		ret = up_tables_init(d, s->flags & UPREEMPT_SETUP_DECLARED);
	if (!ret)
		ret = up_pages_alloc(d, s->gate_off >> PAGE_SHIFT);
	if (ret) {
		up_tables_free(d);
		up_world_free(d);
		kvfree(d->threads);
		d->threads = NULL;
		goto unlock;
	}
	d->gate_pages = (s->mmap_size - s->gate_off) >> PAGE_SHIFT;
	d->nr_slots = s->nr_slots;
	d->gate_off = s->gate_off;
	up_layout(d, s);
	up_notifiers_enable();
	/* Pairs with up_domain_ready(). */
	smp_store_release(&d->ready, true);
unlock:
	mutex_unlock(&d->mutex);
	return ret;
}

/* ---- the mapping ----------------------------------------------------------------------- */

static void up_vm_open(struct vm_area_struct *vma)
{
	struct up_domain *d = vma->vm_private_data;

	atomic_inc(&d->mappings);
}

static void up_vm_close(struct vm_area_struct *vma)
{
	struct up_domain *d = vma->vm_private_data;

	if (atomic_dec_and_test(&d->mappings))
		WRITE_ONCE(d->uaddr, 0);
}

/* The mapping is one piece: its layout is part of the interface, its address of the gate. */
static int up_vm_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	return -EINVAL;
}

static int up_vm_mremap(struct vm_area_struct *vma)
{
	return -EINVAL;
}

static vm_fault_t up_vm_fault(struct vm_fault *vmf)
{
	struct up_domain *d = vmf->vma->vm_private_data;

	/* MADV_DOFORK cannot undo VM_DONTCOPY with VM_IO; if ever it could: not in the child. */
	if (vmf->vma->vm_mm != d->mm)
		return VM_FAULT_SIGBUS;
	if (vmf->pgoff >= d->nr_pages)
		return up_gate_fault(d, vmf);
	vmf->page = d->pages[array_index_nospec(vmf->pgoff, d->nr_pages)];
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct up_vm_ops = {
	.open = up_vm_open,
	.close = up_vm_close,
	.may_split = up_vm_may_split,
	.mremap = up_vm_mremap,
	.fault = up_vm_fault,
};

/**
 * up_domain_mmap - map the whole, once at a time, in the owner
 * @d: the domain
 * @vma: what the program asks for
 *
 * Context: process, mmap_lock held for writing.
 * Return: 0, -EPERM, -ENXIO, -EINVAL, -EBUSY.
 */
int up_domain_mmap(struct up_domain *d, struct vm_area_struct *vma)
{
	if (!up_domain_mine(d))
		return -EPERM;
	if (!up_domain_ready(d))
		return -ENXIO;
	if (vma->vm_pgoff || vma_pages(vma) != d->nr_pages + d->gate_pages ||
	    !(vma->vm_flags & VM_SHARED) || vma->vm_flags & VM_EXEC ||
	    (vma->vm_flags & (VM_READ | VM_WRITE)) != (VM_READ | VM_WRITE))
		return -EINVAL;
	if (atomic_cmpxchg(&d->mappings, 0, 1))
		return -EBUSY;

	vm_flags_clear(vma, VM_MAYEXEC);
	vm_flags_set(vma, VM_IO | VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_private_data = d;
	vma->vm_ops = &up_vm_ops;
	WRITE_ONCE(d->uaddr, vma->vm_start);
	return 0;
}

/* ---- life ---------------------------------------------------------------------------------- */

static void up_domain_reap(struct work_struct *work)
{
	struct up_domain *d = container_of(to_rcu_work(work), struct up_domain, reap);

	mutex_lock(&up_domains_lock);
	list_del(&d->all);
	mutex_unlock(&up_domains_lock);

	irq_work_sync(&d->wake);
	up_world_free(d);
	up_tables_free(d);
	if (d->eventfd)
		eventfd_ctx_put(d->eventfd);
	up_pages_free(d);
	kvfree(d->threads);
	mmdrop(d->mm);
	put_pid(d->owner);
	up_user_put(d->user);
	kfree(d);
}

static void up_domain_release(struct kref *ref)
{
	struct up_domain *d = container_of(ref, struct up_domain, ref);

	queue_rcu_work(up_wq, &d->reap);
}

/* Context: process or softer; never under a raw lock. */
void up_domain_put(struct up_domain *d)
{
	kref_put(&d->ref, up_domain_release);
}

/* The current process is the one that opened the device, and the same program still. */
bool up_domain_mine(const struct up_domain *d)
{
	return current->mm == d->mm && task_tgid(current) == d->owner;
}

static void up_domain_wake(struct irq_work *work)
{
	struct up_domain *d = container_of(work, struct up_domain, wake);
	struct eventfd_ctx *ctx;

	wake_up_interruptible_poll(&d->poll_wait, EPOLLIN | EPOLLRDNORM);
	rcu_read_lock();
	ctx = READ_ONCE(d->eventfd);
	if (ctx)
		up_eventfd_signal(ctx);
	rcu_read_unlock();
}

struct up_domain *up_domain_create(void)
{
	struct up_domain *d = kzalloc(sizeof(*d), GFP_KERNEL_ACCOUNT);

	if (!d)
		return NULL;
	d->user = up_user_get();
	if (!d->user) {
		kfree(d);
		return NULL;
	}
	kref_init(&d->ref);
	d->id = atomic_inc_return(&up_domain_ids);
	d->owner = get_pid(task_tgid(current));
	d->mm = current->mm;
	mmgrab(d->mm);
	mutex_init(&d->mutex);
	mutex_init(&d->code_mutex);
	raw_spin_lock_init(&d->ring.lock);
	raw_spin_lock_init(&d->zombie_lock);
	INIT_LIST_HEAD(&d->zombies);
	init_waitqueue_head(&d->poll_wait);
	init_irq_work(&d->wake, up_domain_wake);
	INIT_RCU_WORK(&d->reap, up_domain_reap);
	INIT_LIST_HEAD(&d->all_threads);

	mutex_lock(&up_domains_lock);
	list_add_tail(&d->all, &up_domains);
	mutex_unlock(&up_domains_lock);
	return d;
}

/**
 * up_domain_thread - the thread in a slot, with a reference
 * @d: the domain
 * @slot: hostile
 *
 * Context: any. Return: NULL when the slot is free or out of range.
 */
struct up_thread *up_domain_thread(struct up_domain *d, u32 slot)
{
	struct up_thread *t = NULL;

	if (slot >= d->nr_slots)
		return NULL;
	rcu_read_lock();
	t = rcu_dereference(d->threads[array_index_nospec(slot, d->nr_slots)]);
	if (t && !refcount_inc_not_zero(&t->ref))
		t = NULL;
	rcu_read_unlock();
	return t;
}

/* A thread that has left with outcome @seq uncollected, with a reference, or NULL. */
struct up_thread *up_domain_zombie(struct up_domain *d, u32 slot, u64 seq)
{
	struct up_thread *t, *found = NULL;
	unsigned long flags;
	int i;

	raw_spin_lock_irqsave(&d->zombie_lock, flags);
	list_for_each_entry(t, &d->zombies, zombie_node) {
		if (t->index != slot || seq < t->seq_lo || seq > t->seq_hi)
			continue;
		for (i = 0; i < UP_MAX_REQUESTS; i++)
			if (READ_ONCE(t->reqs[i].event.seq) == seq &&
			    READ_ONCE(t->reqs[i].state) == UP_REQ_DONE)
				found = t;
		if (found) {
			refcount_inc(&found->ref);
			break;
		}
	}
	raw_spin_unlock_irqrestore(&d->zombie_lock, flags);
	return found;
}

/* The last reference to the file is gone: nobody makes requests, nobody is held. */
void up_domain_close(struct up_domain *d)
{
	struct up_thread *t, *n;
	unsigned long flags;
	LIST_HEAD(zombies);
	u32 i;

	if (d->ready)
		up_world_close(d);
	for (i = 0; i < d->nr_slots; i++) {
		t = up_domain_thread(d, i);
		if (!t)
			continue;
		up_thread_finish(t, UPREEMPT_CANCELLED);
		up_kick(t);
		up_thread_put(t);
		cond_resched();
	}
	raw_spin_lock_irqsave(&d->zombie_lock, flags);
	d->closed = true;
	list_splice_init(&d->zombies, &zombies);
	list_for_each_entry(t, &zombies, zombie_node)
		t->zombie = false;
	raw_spin_unlock_irqrestore(&d->zombie_lock, flags);
	list_for_each_entry_safe(t, n, &zombies, zombie_node) {
		list_del_init(&t->zombie_node);
		up_thread_put(t);
	}
	up_domain_put(d);
}

/**
 * up_domain_eventfd - signal this eventfd when records come
 * @d: the domain
 * @fd: the eventfd, -1: no longer
 *
 * Context: process, may sleep.
 * Return: 0, -EBADF, -EINVAL (no eventfd).
 */
int up_domain_eventfd(struct up_domain *d, int fd)
{
	struct eventfd_ctx *ctx = NULL, *old;

	if (fd >= 0) {
		ctx = eventfd_ctx_fdget(fd);
		if (IS_ERR(ctx))
			return PTR_ERR(ctx);
	} else if (fd != -1) {
		return -EBADF;
	}
	mutex_lock(&d->mutex);
	old = d->eventfd;
	WRITE_ONCE(d->eventfd, ctx);
	mutex_unlock(&d->mutex);
	if (old) {
		synchronize_rcu();
		irq_work_sync(&d->wake);
		eventfd_ctx_put(old);
	}
	return 0;
}
