// SPDX-License-Identifier: GPL-2.0
/*
 * Safe-point tables: which code the program has declared, and of what class.
 *
 * A domain has one table, an array of pointers to its areas in the order of their
 * addresses; both are constant once they are published. Readers are the hook and those who
 * look at a thread that is switched out, with interrupts off: no lock, no fault, two binary
 * searches. A change copies the array of pointers and publishes the copy.
 *
 * While the world of the domain is stopped the copy is staged instead, and the next change
 * builds on that; the end of the stop publishes it. Publishing and staging are decided under
 * world->lock, where the epoch changes, so that a stop sees one table from its beginning to
 * its end.
 *
 * What a table no longer has is on its list of the dead: areas that only tables before it
 * knew. Publishing it hands that list to the one that it replaces, which frees them with
 * itself, an RCU grace period later.
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "upreempt.h"
#include "trace.h"

/* Ranges that are copied or checked without letting others run */
#define UP_RANGES_BATCH	8192U

struct up_area {
	struct upreempt_area a;
	u64 id;
	struct up_area *dead_next;
	struct upreempt_range ranges[];
};

struct up_table {
	struct rcu_work reap;
	struct llist_node retired;
	struct up_area *dead;
	u32 count;
	u32 sum;			/* of the areas' ranges */
	struct upreempt_area *areas[];
};

static struct up_area *up_area_of(struct upreempt_area *a)
{
	return container_of(a, struct up_area, a);
}

/* ---- lookup ---------------------------------------------------------------------------- */

/* Context: interrupts off. */
static struct upreempt_point up_point(const struct up_thread *t, unsigned long ip)
{
	const struct up_table *table = rcu_dereference_sched(t->domain->table);
	struct upreempt_point p = upreempt_table_find(table->areas, table->count, ip);

	if (!p.cls && !t->domain->declared)
		p.cls = UPREEMPT_CODE_SAFE;
	return p;
}

static enum upreempt_reason up_point_reason(const struct upreempt_point *p)
{
	if (p->cls == UPREEMPT_CODE_SAFE)
		return UPREEMPT_R_NONE;
	return p->cls ? UPREEMPT_R_UNSAFE_RANGE : UPREEMPT_R_UNDECLARED;
}

/**
 * up_check_code - may a thread be stopped at @ip, without more ado?
 * @t: the thread
 * @ip: where it is
 *
 * Context: interrupts off.
 */
enum upreempt_reason up_check_code(const struct up_thread *t, unsigned long ip)
{
	struct upreempt_point p = up_point(t, ip);

	return up_point_reason(&p);
}

/* Is a thread at @ip to be stepped without having been asked for? Context: interrupts off. */
bool up_code_steps(const struct up_thread *t, unsigned long ip)
{
	return up_point(t, ip).cls == UPREEMPT_CODE_STEP;
}

static unsigned long *up_reg(struct pt_regs *regs, u32 reg)
{
	/* As enum upreempt_reg; rsp was refused. */
	static const u16 offset[UPREEMPT_REG_MAX] = {
		offsetof(struct pt_regs, ax), offsetof(struct pt_regs, cx),
		offsetof(struct pt_regs, dx), offsetof(struct pt_regs, bx),
		offsetof(struct pt_regs, sp), offsetof(struct pt_regs, bp),
		offsetof(struct pt_regs, si), offsetof(struct pt_regs, di),
		offsetof(struct pt_regs, r8), offsetof(struct pt_regs, r9),
		offsetof(struct pt_regs, r10), offsetof(struct pt_regs, r11),
		offsetof(struct pt_regs, r12), offsetof(struct pt_regs, r13),
		offsetof(struct pt_regs, r14), offsetof(struct pt_regs, r15),
	};

	return (void *)regs + offset[reg];
}

/**
 * up_enforce_code - bring the current thread to where it may be stopped, if that is one step
 * @t: current's registration
 * @regs: its final user frame, which may change
 *
 * To be called last: nothing else stands against stopping it.
 *
 * Context: the hook, under t->lock. Return: NONE when it is there.
 */
enum upreempt_reason up_enforce_code(struct up_thread *t, struct pt_regs *regs)
{
	struct upreempt_point p = up_point(t, regs->ip);
	unsigned long *reg;

	switch (p.cls) {
	case UPREEMPT_CODE_RESTART:
		trace_upreempt_range(t->domain->id, t->tid, p.cls, regs->ip, p.value);
		t->count.restarts++;
		regs->ip = p.value;
		regs->orig_ax = -1;			/* as in up_redirect() */
		regs->flags &= ~X86_EFLAGS_RF;		/* was for the instruction it left */
		return UPREEMPT_R_NONE;
	case UPREEMPT_CODE_POLL:
		reg = up_reg(regs, p.reg);
		if (*reg != p.value) {
			trace_upreempt_range(t->domain->id, t->tid, p.cls, regs->ip, p.value);
			t->count.polls_set++;
			*reg = p.value;
			regs->orig_ax = -1;
		}
		return UPREEMPT_R_POLL_SET;
	default:
		return up_point_reason(&p);
	}
}

/* ---- life of tables and areas ----------------------------------------------------------- */

static void up_areas_free(struct up_area *area)
{
	struct up_area *next;

	for (; area; area = next) {
		next = area->dead_next;
		kvfree(area);
		cond_resched();
	}
}

static void up_table_free(struct up_table *table)
{
	if (!table)
		return;
	up_areas_free(table->dead);
	kvfree(table);
}

static void up_table_reap(struct work_struct *work)
{
	up_table_free(container_of(to_rcu_work(work), struct up_table, reap));
}

static struct up_table *up_table_new(u32 count)
{
	struct up_table *table = kvzalloc(struct_size(table, areas, count), GFP_KERNEL_ACCOUNT);

	if (!table)
		return NULL;
	INIT_RCU_WORK(&table->reap, up_table_reap);
	table->count = count;
	return table;
}

int up_tables_init(struct up_domain *d, bool declared)
{
	struct up_table *table = up_table_new(0);

	if (!table)
		return -ENOMEM;
	d->declared = declared;
	rcu_assign_pointer(d->table, table);
	return 0;
}

/* Context: process, nobody else has the domain any more, or has it yet. */
void up_tables_free(struct up_domain *d)
{
	struct up_table *table, *n;
	u32 i;

	llist_for_each_entry_safe(table, n, llist_del_all(&d->retired), retired)
		up_table_free(table);
	table = rcu_dereference_protected(d->table, true);
	WARN_ON_ONCE(d->staged);
	for (i = 0; table && i < table->count; i++) {
		kvfree(up_area_of(table->areas[i]));
		cond_resched();
	}
	up_table_free(table);
	RCU_INIT_POINTER(d->table, NULL);
}

/* Free what nobody can see any more, later. Context: any but under a raw lock. */
void up_tables_retire(struct up_domain *d)
{
	struct up_table *table, *n;

	llist_for_each_entry_safe(table, n, llist_del_all(&d->retired), retired)
		queue_rcu_work(up_wq, &table->reap);
}

/* Under world->lock. Whoever unlocks it has to see to up_tables_retire(). */
static void up_table_publish(struct up_domain *d, struct up_table *table)
{
	struct up_table *old;

	lockdep_assert_held(&d->world.lock);
	old = rcu_dereference_protected(d->table, true);
	old->dead = table->dead;
	table->dead = NULL;
	rcu_assign_pointer(d->table, table);
	llist_add(&old->retired, &d->retired);
}

/* The world goes on: what was declared meanwhile holds. As up_table_publish(). */
void up_tables_release(struct up_domain *d)
{
	if (d->staged)
		up_table_publish(d, d->staged);
	d->staged = NULL;
}

/* ---- changes ------------------------------------------------------------------------------ */

/* What a change builds on. Under code_mutex nobody else changes it, only publishes it. */
static struct up_table *up_table_newest(struct up_domain *d)
{
	struct up_table *table;

	lockdep_assert_held(&d->code_mutex);
	raw_spin_lock_irq(&d->world.lock);
	table = d->staged ?: rcu_dereference_protected(d->table, true);
	raw_spin_unlock_irq(&d->world.lock);
	return table;
}

/* @table takes the place of @old, the newest one. Return: whether it is staged. */
static bool up_table_change(struct up_domain *d, struct up_table *old, struct up_table *table)
{
	struct up_area **last = &table->dead;
	bool staged, unseen;

	while (*last)
		last = &(*last)->dead_next;
	raw_spin_lock_irq(&d->world.lock);
	unseen = d->staged == old;
	if (unseen) {
		*last = old->dead;
		old->dead = NULL;
	}
	staged = d->world.epoch & 1;
	if (staged)
		d->staged = table;
	else
		up_table_publish(d, table);
	raw_spin_unlock_irq(&d->world.lock);
	up_tables_retire(d);
	if (unseen)
		up_table_free(old);
	return staged;
}

static struct up_area *up_area_by_id(const struct up_table *table, u64 id)
{
	u32 i;

	for (i = 0; i < table->count; i++)
		if (up_area_of(table->areas[i])->id == id)
			return up_area_of(table->areas[i]);
	return NULL;
}

static struct upreempt_area **up_areas_copy(struct upreempt_area **to, const struct up_table *from,
					    u32 begin, u32 end)
{
	if (begin >= end)
		return to;
	memcpy(to, from->areas + begin, (end - begin) * sizeof(*to));
	return to + (end - begin);
}

/* A copy of @old without @gone (may be NULL), with @area (may be NULL) at @index. */
static struct up_table *up_table_copy(const struct up_table *old, struct up_area *gone,
				      struct up_area *area, u32 index)
{
	struct up_table *table = up_table_new(old->count - !!gone + !!area);
	struct upreempt_area **to;
	u32 skip = old->count;

	if (!table)
		return NULL;
	if (gone)
		skip = upreempt_area_above(old->areas, old->count, gone->a.base);
	to = up_areas_copy(table->areas, old, 0, skip);
	to = up_areas_copy(to, old, skip + 1, old->count);
	if (area) {
		memmove(table->areas + index + 1, table->areas + index,
			(to - (table->areas + index)) * sizeof(*to));
		table->areas[index] = &area->a;
	}
	table->sum = old->sum - (gone ? gone->a.count : 0) + (area ? area->a.count : 0);
	table->dead = gone;
	return table;
}

static int up_ranges_get(struct up_area *area, u64 from)
{
	u32 i, n;

	for (i = 0; i < area->a.count; i += n) {
		n = min(area->a.count - i, UP_RANGES_BATCH);
		if (copy_from_user(area->ranges + i,
				   u64_to_user_ptr(from) + (size_t)i * sizeof(area->ranges[0]),
				   n * sizeof(area->ranges[0])))
			return -EFAULT;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static int up_ranges_check(const struct up_area *area, struct upreempt_code_add *arg)
{
	u32 i;

	for (i = 0; i < area->a.count; i++) {
		arg->why = upreempt_range_check(area->ranges, i, area->a.len, area->a.cls);
		if (arg->why) {
			arg->bad = i;
			return -EINVAL;
		}
		if (!(i % UP_RANGES_BATCH))
			cond_resched();
	}
	return 0;
}

/* The area that @arg describes, checked; not in any table. */
static struct up_area *up_area_new(struct upreempt_code_add *arg)
{
	struct up_area *area;
	int ret;

	arg->bad = UPREEMPT_NO_RANGE;
	if (!upreempt_area_fits(arg->base, arg->len, arg->cls, TASK_SIZE_MAX))
		return ERR_PTR(-EINVAL);
	if (arg->count > UPREEMPT_MAX_RANGES)
		return ERR_PTR(-E2BIG);
	area = kvmalloc(struct_size(area, ranges, arg->count), GFP_KERNEL_ACCOUNT);
	if (!area)
		return ERR_PTR(-ENOMEM);
	area->a.base = arg->base;
	area->a.len = arg->len;
	area->a.ranges = area->ranges;
	area->a.count = arg->count;
	area->a.cls = arg->cls;
	area->dead_next = NULL;
	ret = up_ranges_get(area, arg->ranges);
	if (!ret)
		ret = up_ranges_check(area, arg);
	if (!ret)
		return area;
	kvfree(area);
	return ERR_PTR(ret);
}

static int up_code_install(struct up_domain *d, struct up_area *area,
			   struct upreempt_code_add *arg)
{
	struct up_table *old = up_table_newest(d), *table;
	struct up_area *gone = NULL;
	u32 index;

	if (arg->replace) {
		gone = up_area_by_id(old, arg->replace);
		if (!gone)
			return -ENOENT;
	}
	if (old->count - !!gone >= UPREEMPT_MAX_AREAS ||
	    old->sum - (gone ? gone->a.count : 0) + area->a.count > UPREEMPT_MAX_SUM)
		return -ENOSPC;
	index = upreempt_table_place(old->areas, old->count, area->a.base, area->a.len,
				     gone ? &gone->a : NULL);
	if (index > old->count)
		return -EEXIST;
	table = up_table_copy(old, gone, area, index);
	if (!table)
		return -ENOMEM;
	area->id = gone ? gone->id : ++d->code_id;
	arg->id = area->id;
	arg->staged = up_table_change(d, old, table);
	return 0;
}

/**
 * up_code_add - declare an area of code, or replace one
 * @d: the domain
 * @arg: flags and reserved words were checked; id, bad, why and staged are filled in
 *
 * Context: process, may sleep.
 * Return: 0, -EPERM, -EINVAL, -E2BIG, -ENOMEM, -EFAULT, -EINTR, -ENOENT, -ENOSPC, -EEXIST.
 */
int up_code_add(struct up_domain *d, struct upreempt_code_add *arg)
{
	struct up_area *area;
	int ret;

	if (!up_domain_mine(d))
		return -EPERM;
	area = up_area_new(arg);
	if (IS_ERR(area))
		return PTR_ERR(area);
	mutex_lock(&d->code_mutex);
	ret = up_code_install(d, area, arg);
	mutex_unlock(&d->code_mutex);
	if (ret)
		kvfree(area);
	return ret;
}

/**
 * up_code_remove - an area is declared no longer
 * @d: the domain
 * @id: of the area
 * @staged: out: not before the world goes on
 *
 * Context: process, may sleep. Return: 0, -EPERM, -ENOENT, -ENOMEM.
 */
int up_code_remove(struct up_domain *d, u64 id, bool *staged)
{
	struct up_table *old, *table;
	struct up_area *gone;
	int ret = 0;

	if (!up_domain_mine(d))
		return -EPERM;
	mutex_lock(&d->code_mutex);
	old = up_table_newest(d);
	gone = up_area_by_id(old, id);
	table = gone ? up_table_copy(old, gone, NULL, 0) : NULL;
	if (table)
		*staged = up_table_change(d, old, table);
	else
		ret = gone ? -ENOMEM : -ENOENT;
	mutex_unlock(&d->code_mutex);
	return ret;
}
