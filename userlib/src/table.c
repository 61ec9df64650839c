// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Building tables: nested ranges, in any order, become the sorted and disjoint ones that
 * the lookup wants.
 *
 * The ranges are sorted so that an outer one comes before what it contains, then swept from
 * the left with a stack of those that are open: the uppermost holds. As Go's stack maps and
 * every debugger's line table, what comes out is one array to search in.
 */
#include "table.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct item {
	uint64_t start, end, value;
	uint32_t cls, reg;
	uint32_t order;			/* of the calls */
};

struct upreempt_table {
	struct item *items;
	uint32_t count, room;
	char error[200];
};

static const char *const faults[UPREEMPT_RANGE_FAULT_MAX] = {
	[UPREEMPT_RANGE_OK]		= "is in order",
	[UPREEMPT_RANGE_EMPTY]		= "is empty",
	[UPREEMPT_RANGE_ORDER]		= "begins before the end of the one before",
	[UPREEMPT_RANGE_OUTSIDE]	= "reaches out of the area",
	[UPREEMPT_RANGE_CLASS]		= "has no class that is known",
	[UPREEMPT_RANGE_REG]		= "names no register that can be set",
	[UPREEMPT_RANGE_VALUE]		= "has a value that its class does not take",
	[UPREEMPT_RANGE_RESERVED]	= "has a reserved word that is not 0",
	[UPREEMPT_RANGE_AFTER]		= "goes back to a place behind its start",
	[UPREEMPT_RANGE_FAR]		= "goes back too far",
	[UPREEMPT_RANGE_TARGET]		= "goes back to where it is not safe",
};

/* ---- memory ----------------------------------------------------------------- */

struct block {
	size_t mapped;			/* 0: by malloc() */
	size_t pad;
};

/* Whoever has stopped the world takes no lock of libc: somebody may stand in malloc(). */
void *up_alloc(const struct upreempt_domain *d, size_t size)
{
	size_t whole = sizeof(struct block) + size;
	struct block *b;

	if (!upreempt_is_stopper(d)) {
		b = malloc(whole);
		if (!b)
			return NULL;
		b->mapped = 0;
		return b + 1;
	}
	b = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b == MAP_FAILED)
		return NULL;
	b->mapped = whole;
	return b + 1;
}

void up_free(const struct upreempt_domain *d, void *p)
{
	struct block *b = p;

	if (!p)
		return;
	b--;
	if (b->mapped)
		munmap(b, b->mapped);
	else if (!upreempt_is_stopper(d))
		free(b);
	/* else it is lost: a few bytes for each change in a stopped world */
}

/* ---- the builder -------------------------------------------------------------- */

static int fail(struct upreempt_table *t, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(t->error, sizeof(t->error), format, args);
	va_end(args);
	upreempt_log(0, "table: %s", t->error);
	return -EINVAL;
}

int upreempt_table_new(struct upreempt_table **table)
{
	struct upreempt_table *t;

	if (!table)
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	*table = t;
	return 0;
}

void upreempt_table_free(struct upreempt_table *t)
{
	if (!t)
		return;
	free(t->items);
	free(t);
}

const char *upreempt_table_error(const struct upreempt_table *t)
{
	return t->error;
}

static int add(struct upreempt_table *t, const struct item *new)
{
	struct item *items;
	uint32_t room;

	if (t->count == t->room) {
		room = t->room ? 2 * t->room : 16;
		if (room > 4 * UPREEMPT_MAX_RANGES)
			return -ENOMEM;
		items = realloc(t->items, room * sizeof(*items));
		if (!items)
			return -ENOMEM;
		t->items = items;
		t->room = room;
	}
	t->items[t->count] = *new;
	t->items[t->count].order = t->count;
	t->count++;
	return 0;
}

/* What cannot be said in a range at all is refused here, the rest when the area is known. */
static int add_range(struct upreempt_table *t, uint64_t start, uint64_t len, struct item *new)
{
	if (!t)
		return -EINVAL;
	if (!len || start > UINT32_MAX || len > UINT32_MAX - start || new->cls > 255 ||
	    new->reg > 255)
		return fail(t, "[%#llx, +%#llx) is no range of 32-bit offsets",
			    (unsigned long long)start, (unsigned long long)len);
	new->start = start;
	new->end = start + len;
	return add(t, new);
}

int upreempt_table_range(struct upreempt_table *t, uint64_t start, uint64_t len,
			 enum upreempt_class cls)
{
	struct item new = { .cls = cls };

	if (t && cls != UPREEMPT_CODE_SAFE && cls != UPREEMPT_CODE_UNSAFE &&
	    cls != UPREEMPT_CODE_STEP)
		return fail(t, "%u is no class of a plain range", (unsigned int)cls);
	return add_range(t, start, len, &new);
}

int upreempt_table_restart(struct upreempt_table *t, uint64_t start, uint64_t len,
			   uint64_t back_to)
{
	struct item new = { .cls = UPREEMPT_CODE_RESTART, .value = back_to };

	return add_range(t, start, len, &new);
}

int upreempt_table_poll(struct upreempt_table *t, uint64_t start, uint64_t len,
			enum upreempt_reg reg, uint64_t value)
{
	struct item new = { .cls = UPREEMPT_CODE_POLL, .reg = reg, .value = value };

	return add_range(t, start, len, &new);
}

/* ---- flattening ------------------------------------------------------------------ */

/* Outer before inner; of two with the same extent the later is the inner one. */
static bool before(const struct item *a, const struct item *b)
{
	if (a->start != b->start)
		return a->start < b->start;
	return a->end != b->end ? a->end > b->end : a->order < b->order;
}

/* In place and without allocation, unlike qsort(): sift down into heap[root, n) */
static void sift(struct item *heap, uint32_t root, uint32_t n)
{
	struct item moved = heap[root];
	uint32_t child;

	while ((child = 2 * root + 1) < n) {
		if (child + 1 < n && before(&heap[child], &heap[child + 1]))
			child++;
		if (!before(&moved, &heap[child]))
			break;
		heap[root] = heap[child];
		root = child;
	}
	heap[root] = moved;
}

static void sort(struct item *items, uint32_t n)
{
	struct item last;
	uint32_t i;

	for (i = n / 2; i-- > 0;)
		sift(items, i, n);
	for (i = n; i-- > 1;) {
		last = items[i];
		items[i] = items[0];
		items[0] = last;
		sift(items, 0, i);
	}
}

struct flat {
	struct upreempt_range *ranges;
	const struct item **open;
	uint32_t count, depth;
	uint64_t at;			/* so far it is decided */
	uint64_t shift;			/* from the table's offsets to the area's */
};

/* Up to @end the uppermost open range holds. */
static void emit(struct flat *f, uint64_t end)
{
	const struct item *i = f->open[f->depth - 1];

	if (end > f->at)
		f->ranges[f->count++] = (struct upreempt_range){
			.start = f->at - f->shift, .end = end - f->shift, .cls = i->cls,
			.reg = i->reg,
			.value = i->cls == UPREEMPT_CODE_RESTART ? i->value - f->shift : i->value,
		};
	f->at = end;
}

static void close_until(struct flat *f, uint64_t start)
{
	while (f->depth && f->open[f->depth - 1]->end <= start) {
		emit(f, f->open[f->depth - 1]->end);
		f->depth--;
	}
}

static int sweep(struct upreempt_table *t, struct flat *f)
{
	const struct item *i, *outer;
	uint32_t n;

	for (n = 0; n < t->count; n++) {
		i = &t->items[n];
		close_until(f, i->start);
		outer = f->depth ? f->open[f->depth - 1] : NULL;
		if (outer && outer->end < i->end)
			return fail(t, "[%#llx, %#llx) and [%#llx, %#llx) overlap, and none contains "
				    "the other", (unsigned long long)outer->start,
				    (unsigned long long)outer->end, (unsigned long long)i->start,
				    (unsigned long long)i->end);
		if (outer)
			emit(f, i->start);
		f->at = i->start;
		f->open[f->depth++] = i;
	}
	close_until(f, UINT64_MAX);
	return 0;
}

int upreempt_table_flatten(const struct upreempt_domain *d, struct upreempt_table *t,
			   uint64_t shift, struct upreempt_range **ranges, uint32_t *count)
{
	/* Each range begins at most one piece, and ends one of the range around it. */
	size_t most = 2 * (size_t)t->count + 1;
	struct flat f = { .shift = shift };
	int ret = -ENOMEM;

	t->error[0] = 0;
	sort(t->items, t->count);
	if (t->count && t->items[0].start < shift)
		return -ERANGE;
	f.ranges = up_alloc(d, most * sizeof(*f.ranges));
	f.open = up_alloc(d, (t->count + 1) * sizeof(*f.open));
	if (f.ranges && f.open)
		ret = sweep(t, &f);
	up_free(d, f.open);
	if (ret) {
		up_free(d, f.ranges);
		return ret;
	}
	*ranges = f.ranges;
	*count = f.count;
	return 0;
}

/* The area was refused because of range @r. */
int upreempt_table_refused(struct upreempt_table *t, const struct upreempt_range *r, uint64_t shift,
			   uint32_t why)
{
	return fail(t, "[%#llx, %#llx) %s", (unsigned long long)(r->start + shift),
		    (unsigned long long)(r->end + shift),
		    why < UPREEMPT_RANGE_FAULT_MAX ? faults[why] : "was refused");
}
