/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Safe-point tables: what is a valid range, and which class has a PC. The module and the
 * library are compiled with the same code. It allocates nothing, takes no lock and no fault;
 * a lookup is two binary searches.
 */
#ifndef _UPREEMPT_TABLE_H
#define _UPREEMPT_TABLE_H

#include <linux/upreempt.h>

#define UPREEMPT_MAX_RANGES	1048576U	/* in an area */
#define UPREEMPT_MAX_AREAS	65536U		/* in a domain */
#define UPREEMPT_MAX_SUM	4194304U	/* ranges in a domain */

/* The code in [base, base + len). Constant once others can see it. */
struct upreempt_area {
	__u64 base, len;
	const struct upreempt_range *ranges;
	__u32 count;
	__u32 cls;			/* where no range is */
};

/* May an area lie there? @end: of user memory */
static inline int upreempt_area_fits(__u64 base, __u64 len, __u32 cls, __u64 end)
{
	return len && len < 1ULL << 32 && base < end && len <= end - base &&
	       (cls == UPREEMPT_CODE_SAFE || cls == UPREEMPT_CODE_UNSAFE);
}

/* Do a request's flags about tables go with its kind? */
static inline int upreempt_table_flags_fit(__u32 flags, __u32 kind)
{
	if (kind != UPREEMPT_SAMPLE)
		return !(flags & UPREEMPT_REQ_SAFE);
	/* At the call's return it would be sampled anywhere. */
	return !(flags & UPREEMPT_REQ_DECLARED_CALLER) || flags & UPREEMPT_REQ_SAFE;
}

/* May this be asked for? */
static inline int upreempt_strategies_fit(__u32 strategies, __u32 steps)
{
	return !(strategies & ~UPREEMPT_BY_AUTO) && steps <= UPREEMPT_STEPS_MAX;
}

/* What a lookup says; cls 0: no area has this PC */
struct upreempt_point {
	__u32 cls;			/* RESTART where it leads back to itself is SAFE */
	__u32 reg;
	__u64 value;			/* RESTART: the address to go back to */
};

/* The range at @off, or none (NULL). */
static inline const struct upreempt_range *
upreempt_range_find(const struct upreempt_range *ranges, __u32 count, __u64 off)
{
	__u32 lo = 0, hi = count;

	/* The first that ends behind it */
	while (lo < hi) {
		__u32 mid = lo + (hi - lo) / 2;

		if (ranges[mid].end > off)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo < count && ranges[lo].start <= off ? &ranges[lo] : (void *)0;
}

/* The index of the first area that ends behind @addr; @count: none. */
static inline __u32 upreempt_area_above(struct upreempt_area *const *areas, __u32 count,
					__u64 addr)
{
	__u32 lo = 0, hi = count;

	while (lo < hi) {
		__u32 mid = lo + (hi - lo) / 2;

		if (areas[mid]->base + areas[mid]->len > addr)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* May a thread be stopped where a RESTART of range @r leads to? The @n ranges before are valid. */
static inline int upreempt_range_target(const struct upreempt_range *r,
					const struct upreempt_range *before, __u32 n, __u32 cls)
{
	const struct upreempt_range *at;

	if (r->value == r->start)
		return 1;
	at = upreempt_range_find(before, n, r->value);
	if (!at)
		return cls == UPREEMPT_CODE_SAFE;
	return at->cls == UPREEMPT_CODE_SAFE ||
	       (at->cls == UPREEMPT_CODE_RESTART && at->value == r->value);
}

/* What a range must have beside its class */
static inline enum upreempt_range_fault upreempt_range_operands(const struct upreempt_range *r)
{
	switch (r->cls) {
	case UPREEMPT_CODE_SAFE:
	case UPREEMPT_CODE_UNSAFE:
	case UPREEMPT_CODE_STEP:
		if (r->value)
			return UPREEMPT_RANGE_VALUE;
		break;
	case UPREEMPT_CODE_RESTART:
		if (r->value > r->start)
			return UPREEMPT_RANGE_AFTER;
		if (r->end - r->value > UPREEMPT_RESTART_MAX)
			return UPREEMPT_RANGE_FAR;
		break;
	case UPREEMPT_CODE_POLL:
		return r->reg < UPREEMPT_REG_MAX && r->reg != UPREEMPT_REG_RSP ?
		       UPREEMPT_RANGE_OK : UPREEMPT_RANGE_REG;
	default:
		return UPREEMPT_RANGE_CLASS;
	}
	return r->reg ? UPREEMPT_RANGE_REG : UPREEMPT_RANGE_OK;
}

/* Is range @i, of which those before are valid, valid in an area of @len bytes? */
static inline enum upreempt_range_fault
upreempt_range_check(const struct upreempt_range *ranges, __u32 i, __u64 len, __u32 cls)
{
	const struct upreempt_range *r = &ranges[i];
	enum upreempt_range_fault fault;

	if (r->reserved16 || r->reserved32)
		return UPREEMPT_RANGE_RESERVED;
	if (r->end <= r->start)
		return UPREEMPT_RANGE_EMPTY;
	if (i && r->start < ranges[i - 1].end)
		return UPREEMPT_RANGE_ORDER;
	if (r->end > len)
		return UPREEMPT_RANGE_OUTSIDE;
	fault = upreempt_range_operands(r);
	if (!fault && r->cls == UPREEMPT_CODE_RESTART &&
	    !upreempt_range_target(r, ranges, i, cls))
		fault = UPREEMPT_RANGE_TARGET;
	return fault;
}

/* Which class has @pc in a table: areas sorted by address? */
static inline struct upreempt_point
upreempt_table_find(struct upreempt_area *const *areas, __u32 count, __u64 pc)
{
	struct upreempt_point p = { 0, 0, 0 };
	const struct upreempt_range *r;
	const struct upreempt_area *a;
	__u32 i = upreempt_area_above(areas, count, pc);

	if (i == count || areas[i]->base > pc)
		return p;
	a = areas[i];
	r = upreempt_range_find(a->ranges, a->count, pc - a->base);
	p.cls = r ? r->cls : a->cls;
	if (!r)
		return p;
	p.reg = r->reg;
	p.value = r->value;
	if (p.cls != UPREEMPT_CODE_RESTART)
		return p;
	p.value += a->base;
	if (p.value == pc)
		p.cls = UPREEMPT_CODE_SAFE;
	return p;
}

/*
 * Where in a table belongs an area [base, base + len) that is to take the place of @old (NULL:
 * of none)? Its index among the others. @count + 1: it overlaps one.
 */
static inline __u32 upreempt_table_place(struct upreempt_area *const *areas, __u32 count,
					 __u64 base, __u64 len, const struct upreempt_area *old)
{
	__u32 i = upreempt_area_above(areas, count, base), index = i;

	/* @old may lie anywhere; it takes no index and no room */
	if (i < count && areas[i] == old)
		i++;
	if (i < count && areas[i]->base < base + len)
		return count + 1;
	if (old && old->base < base && (index == count || areas[index] != old))
		index--;
	return index;
}

#endif /* _UPREEMPT_TABLE_H */
