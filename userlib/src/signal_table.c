// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The signal backend: which code the program has declared. As kmod/table.c, with the same
 * lookup, but for the freeing: there is no RCU for signal handlers.
 *
 * A handler counts itself in one of two counters while it looks into a table; it does not
 * wait in between. Whoever has published a new table sends newcomers to the other counter
 * and waits until the first is zero, then the same with the counters exchanged: so the old
 * table is nobody's any more, and a steady stream of handlers cannot keep it. A handler that
 * read the phase before and counts after the wait reads the new table: the count comes
 * before the load of the table there, the store of the table before the look at the count
 * here (all sequentially consistent).
 */
#include "backend_signal.h"
#include "table.h"
#include <errno.h>
#include <string.h>

#define USER_END	0x7ffffffff000ULL
#define LOOK_NS		50000

struct sig_area {
	struct upreempt_area a;
	uint64_t id;
	struct sig_area *dead_next;
	struct upreempt_range ranges[];
};

struct sig_table {
	struct sig_table *next;		/* retired */
	struct sig_area *dead;		/* what only tables before it have */
	uint32_t count, sum;
	struct upreempt_area *areas[];
};

static struct sig_area *area_of(struct upreempt_area *a)
{
	return (struct sig_area *)((char *)a - offsetof(struct sig_area, a));
}

/* ---- lookup ------------------------------------------------------------------- */

struct upreempt_point sig_point(const struct upreempt_thread *t, uint64_t rip)
{
	struct sig_tables *s = &t->domain->sig->code;
	struct upreempt_point p = { 0, 0, 0 };
	const struct sig_table *table;
	uint32_t i;

	/* The first table of a domain: a handler that misses it came before it. */
	if (!s->declared && !__atomic_load_n(&s->now, __ATOMIC_SEQ_CST)) {
		p.cls = UPREEMPT_CODE_SAFE;
		return p;
	}
	i = __atomic_load_n(&s->phase, __ATOMIC_SEQ_CST) & 1;
	__atomic_add_fetch(&s->readers[i], 1, __ATOMIC_SEQ_CST);
	table = __atomic_load_n(&s->now, __ATOMIC_SEQ_CST);
	if (table)
		p = upreempt_table_find(table->areas, table->count, rip);
	__atomic_sub_fetch(&s->readers[i], 1, __ATOMIC_SEQ_CST);
	if (!p.cls && !s->declared)
		p.cls = UPREEMPT_CODE_SAFE;
	return p;
}

uint32_t sig_point_reason(const struct upreempt_point *p)
{
	if (p->cls == UPREEMPT_CODE_SAFE)
		return UPREEMPT_R_NONE;
	return p->cls ? UPREEMPT_R_UNSAFE_RANGE : UPREEMPT_R_UNDECLARED;
}

/* Until no handler looks into a table that is not published any more. Not long. */
static void drain(struct sig_tables *s)
{
	uint32_t i, n, readers;

	for (n = 0; n < 2; n++) {
		i = __atomic_fetch_add(&s->phase, 1, __ATOMIC_SEQ_CST) & 1;
		while ((readers = __atomic_load_n(&s->readers[i], __ATOMIC_SEQ_CST)))
			up_futex_wait(&s->readers[i], readers, upreempt_now() + LOOK_NS);
	}
}

/* ---- freeing -------------------------------------------------------------------- */

static void free_table(struct upreempt_domain *d, struct sig_table *table)
{
	struct sig_area *area;

	while ((area = table->dead)) {
		table->dead = area->dead_next;
		up_free(d, area);
	}
	up_free(d, table);
}

static void reap(struct upreempt_domain *d)
{
	struct sig_tables *s = &d->sig->code;
	struct sig_table *table, *next;

	up_lock(&d->lock);
	table = s->retired;
	s->retired = NULL;
	up_unlock(&d->lock);
	if (table)
		drain(s);
	for (; table; table = next) {
		next = table->next;
		free_table(d, table);
	}
}

/* Under d->lock */
static void publish(struct sig_tables *s, struct sig_table *table)
{
	struct sig_table *old = s->now;

	__atomic_store_n(&s->now, table, __ATOMIC_SEQ_CST);
	/* The first one takes nothing away that anybody has seen. */
	if (!old)
		return;
	old->dead = table->dead;
	table->dead = NULL;
	old->next = s->retired;
	s->retired = old;
}

void sig_tables_release(struct upreempt_domain *d)
{
	struct sig_tables *s = &d->sig->code;

	if (s->staged)
		publish(s, s->staged);
	s->staged = NULL;
}

/* Nobody else has the domain any more. */
void sig_tables_free(struct upreempt_domain *d)
{
	struct sig_tables *s = &d->sig->code;
	uint32_t i;

	sig_tables_release(d);
	reap(d);
	if (!s->now)
		return;
	for (i = 0; i < s->now->count; i++)
		up_free(d, area_of(s->now->areas[i]));
	free_table(d, s->now);
}

/* ---- changes ----------------------------------------------------------------------- */

/* @table takes the place of @old, on which it builds (NULL: there was none). Staged? */
static bool change(struct upreempt_domain *d, struct sig_table *old, struct sig_table *table)
{
	struct sig_tables *s = &d->sig->code;
	struct sig_area **last = &table->dead;
	bool staged, unseen;

	while (*last)
		last = &(*last)->dead_next;
	up_lock(&d->lock);
	unseen = old && s->staged == old;
	if (unseen) {
		*last = old->dead;
		old->dead = NULL;
	}
	staged = d->sig->world.epoch & 1;
	if (staged)
		s->staged = table;
	else
		publish(s, table);
	up_unlock(&d->lock);
	if (unseen)
		free_table(d, old);
	reap(d);
	return staged;
}

static struct sig_area *by_id(const struct sig_table *table, uint64_t id)
{
	uint32_t i;

	for (i = 0; table && i < table->count; i++)
		if (area_of(table->areas[i])->id == id)
			return area_of(table->areas[i]);
	return NULL;
}

/* A copy of @old without @gone (may be NULL), with @area (may be NULL) at @index */
static struct sig_table *copy_table(struct upreempt_domain *d, const struct sig_table *old,
				    struct sig_area *gone, struct sig_area *area, uint32_t index)
{
	uint32_t from, to = 0, n = old ? old->count : 0;
	struct sig_table *table = up_alloc(d, sizeof(*table) + (n + 1) * sizeof(table->areas[0]));

	if (!table)
		return NULL;
	memset(table, 0, sizeof(*table));
	for (from = 0; from < n; from++) {
		if (gone && old->areas[from] == &gone->a)
			continue;
		if (area && to == index)
			table->areas[to++] = &area->a;
		table->areas[to++] = old->areas[from];
	}
	if (area && to == index)
		table->areas[to++] = &area->a;
	table->count = to;
	table->sum = (old ? old->sum : 0) - (gone ? gone->a.count : 0) + (area ? area->a.count : 0);
	table->dead = gone;
	return table;
}

static struct sig_table *newest(struct upreempt_domain *d)
{
	struct sig_tables *s = &d->sig->code;
	struct sig_table *table;

	up_lock(&d->lock);
	table = s->staged ? s->staged : s->now;
	up_unlock(&d->lock);
	return table;
}

static int make_area(struct upreempt_domain *d, struct upreempt_code_add *a, struct sig_area **out)
{
	struct sig_area *area;
	uint32_t i;

	a->bad = UPREEMPT_NO_RANGE;
	if (!upreempt_area_fits(a->base, a->len, a->cls, USER_END))
		return -EINVAL;
	if (a->count > UPREEMPT_MAX_RANGES)
		return -E2BIG;
	area = up_alloc(d, sizeof(*area) + a->count * sizeof(area->ranges[0]));
	if (!area)
		return -ENOMEM;
	area->a = (struct upreempt_area){
		.base = a->base, .len = a->len, .ranges = area->ranges, .count = a->count,
		.cls = a->cls,
	};
	area->dead_next = NULL;
	if (a->count)
		memcpy(area->ranges, (const void *)(uintptr_t)a->ranges,
		       a->count * sizeof(area->ranges[0]));
	for (i = 0; i < a->count; i++) {
		a->why = upreempt_range_check(area->ranges, i, a->len, a->cls);
		if (!a->why)
			continue;
		a->bad = i;
		up_free(d, area);
		return -EINVAL;
	}
	*out = area;
	return 0;
}

static int install(struct upreempt_domain *d, struct sig_area *area, struct upreempt_code_add *a)
{
	struct sig_table *old = newest(d), *table;
	uint32_t n = old ? old->count : 0, sum = old ? old->sum : 0, index;
	struct sig_area *gone = NULL;

	if (a->replace) {
		gone = by_id(old, a->replace);
		if (!gone)
			return -ENOENT;
	}
	if (n - !!gone >= UPREEMPT_MAX_AREAS ||
	    sum - (gone ? gone->a.count : 0) + area->a.count > UPREEMPT_MAX_SUM)
		return -ENOSPC;
	index = upreempt_table_place(old ? old->areas : NULL, n, a->base, a->len,
				     gone ? &gone->a : NULL);
	if (index > n)
		return -EEXIST;
	table = copy_table(d, old, gone, area, index);
	if (!table)
		return -ENOMEM;
	area->id = gone ? gone->id : ++d->sig->code.last_id;
	a->id = area->id;
	a->staged = change(d, old, table);
	return 0;
}

int sig_code_add(struct upreempt_domain *d, struct upreempt_code_add *a)
{
	struct sig_area *area;
	int ret = make_area(d, a, &area);

	if (ret)
		return ret;
	up_lock(&d->sig->code.lock);
	ret = install(d, area, a);
	up_unlock(&d->sig->code.lock);
	if (ret)
		up_free(d, area);
	return ret;
}

int sig_code_remove(struct upreempt_domain *d, uint64_t id)
{
	struct sig_table *old, *table;
	struct sig_area *gone;
	int ret = 0;

	up_lock(&d->sig->code.lock);
	old = newest(d);
	gone = by_id(old, id);
	table = gone ? copy_table(d, old, gone, NULL, 0) : NULL;
	if (table)
		change(d, old, table);
	else
		ret = gone ? -ENOMEM : -ENOENT;
	up_unlock(&d->sig->code.lock);
	return ret;
}
