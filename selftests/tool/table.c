// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves M31: the lookup and the checks that module and library share say what a naive model
 * says, for random tables.
 */
// CFLAGS: -I../include
#include "kselftest_harness.h"
#include <stdlib.h>
#include <time.h>
#include <upreempt_table.h>

#define AREAS	64
#define RANGES	128

static uint64_t state;

static uint64_t rnd(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

/* UPREEMPT_SEED, else the time; printed, so that a failure can be repeated */
static void seed(void)
{
	const char *text = getenv("UPREEMPT_SEED");

	state = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
	if (!state)
		state = 1;
	printf("# UPREEMPT_SEED=%llu\n", (unsigned long long)state);
}

static struct upreempt_area areas[AREAS], *sorted[AREAS];
static struct upreempt_range ranges[AREAS][RANGES];

/* Disjoint ranges, small ones and gaps, of an area that is full of them or not */
static uint32_t make_ranges(struct upreempt_range *r, uint64_t len, uint32_t cls)
{
	uint32_t n = 0, at = rnd(8), size;

	while (n < RANGES && at < len) {
		size = 1 + rnd(n % 5 ? 6 : 200);
		if (at + size > len)
			break;
		r[n] = (struct upreempt_range){ .start = at, .end = at + size };
		r[n].cls = 1 + rnd(4);
		if (r[n].cls == UPREEMPT_CODE_RESTART) {
			r[n].value = at - rnd(2) * rnd(at < 20 ? at + 1 : 20);
			if (upreempt_range_check(r, n, len, cls))
				r[n].value = at;
		} else if (r[n].cls == UPREEMPT_CODE_POLL) {
			r[n].reg = 5 + rnd(11);
			r[n].value = rnd(~0ULL);
		}
		n++;
		at += size + rnd(2) * rnd(9);
	}
	return n;
}

static uint32_t make_table(void)
{
	uint32_t n = rnd(AREAS + 1), i, place;
	uint64_t base = 0x1000 + rnd(0x1000);
	int order[AREAS];

	for (i = 0; i < n; i++) {
		areas[i] = (struct upreempt_area){
			.base = base, .len = 1 + rnd(600), .ranges = ranges[i], .cls = 1 + rnd(2),
		};
		areas[i].count = rnd(4) ? make_ranges(ranges[i], areas[i].len, areas[i].cls) : 0;
		base += areas[i].len + rnd(2) * rnd(50);
		order[i] = i;
	}
	/* put in one by one in any order */
	for (i = 0; i < n; i++) {
		uint32_t j = i + rnd(n - i);
		int k = order[j];

		order[j] = order[i];
		place = upreempt_table_place(sorted, i, areas[k].base, areas[k].len, NULL);
		if (place > i)
			return ~0U;
		memmove(&sorted[place + 1], &sorted[place], (i - place) * sizeof(sorted[0]));
		sorted[place] = &areas[k];
	}
	return n;
}

static struct upreempt_point naive(uint32_t n, uint64_t pc)
{
	struct upreempt_point p = { 0, 0, 0 };

	for (uint32_t i = 0; i < n; i++) {
		const struct upreempt_area *a = &areas[i];

		if (pc < a->base || pc >= a->base + a->len)
			continue;
		p.cls = a->cls;
		for (uint32_t j = 0; j < a->count; j++) {
			const struct upreempt_range *r = &a->ranges[j];

			if (pc - a->base < r->start || pc - a->base >= r->end)
				continue;
			p.cls = r->cls;
			p.reg = r->reg;
			p.value = r->value;
			if (r->cls == UPREEMPT_CODE_RESTART) {
				p.value += a->base;
				if (p.value == pc)
					p.cls = UPREEMPT_CODE_SAFE;
			}
		}
	}
	return p;
}

TEST(lookup)
{
	uint64_t classes[5] = { 0 };

	seed();
	for (int round = 0; round < 2000; round++) {
		uint32_t n = make_table();

		ASSERT_NE(~0U, n);
		for (uint32_t i = 0; i < n; i++)
			for (uint32_t j = 0; j < areas[i].count; j++)
				ASSERT_EQ(0, upreempt_range_check(ranges[i], j, areas[i].len,
								  areas[i].cls));
		for (int i = 0; i < 600; i++) {
			uint64_t pc = rnd(50) ? 0xf00 + rnd(n ? areas[n - 1].base - 0xe00 : 100) :
						rnd(~0ULL);
			struct upreempt_point a = upreempt_table_find(sorted, n, pc);
			struct upreempt_point b = naive(n, pc);

			ASSERT_EQ(b.cls, a.cls);
			ASSERT_EQ(b.reg, a.reg);
			ASSERT_EQ(b.value, a.value);
			classes[a.cls]++;
		}
	}
	for (int i = 0; i < 5; i++)
		EXPECT_LT(1000, classes[i]);
}

/* Every RESTART of a table that was accepted leads to where a stop is allowed. */
TEST(restart_leads_to_safe)
{
	uint64_t seen = 0, refused = 0;

	seed();
	for (int round = 0; round < 3000; round++) {
		struct upreempt_area a = {
			.base = 0x10000, .len = 2000, .ranges = ranges[0], .cls = 1 + rnd(2),
		}, *table[] = { &a };

		a.count = make_ranges(ranges[0], a.len, a.cls);
		for (uint32_t i = 0; i < a.count; i++) {
			struct upreempt_range *r = &ranges[0][i];

			if (r->cls != UPREEMPT_CODE_RESTART)
				continue;
			r->value = rnd(r->start + 1);
			if (upreempt_range_check(ranges[0], i, a.len, a.cls)) {
				refused++;
				r->value = r->start;
				continue;
			}
			seen++;
		}
		for (uint32_t i = 0; i < a.count; i++) {
			struct upreempt_range *r = &ranges[0][i];

			if (r->cls == UPREEMPT_CODE_RESTART)
				ASSERT_EQ(UPREEMPT_CODE_SAFE,
					  upreempt_table_find(table, 1, a.base + r->value).cls);
		}
	}
	EXPECT_NE(0, seen);
	EXPECT_NE(0, refused);
}

/* Replacing: as if the old one was taken out first. */
TEST(place)
{
	uint64_t fits = 0, overlaps = 0;

	seed();
	for (int round = 0; round < 20000; round++) {
		uint32_t n = make_table(), index = 0, place;
		const struct upreempt_area *old = n && rnd(3) ? sorted[rnd(n)] : NULL;
		uint64_t base = 0x1000 + rnd(n ? areas[n - 1].base - 0xe00 : 100);
		uint64_t len = 1 + rnd(200);
		bool overlap = false;

		for (uint32_t i = 0; i < n; i++) {
			if (sorted[i] == old)
				continue;
			overlap |= sorted[i]->base < base + len &&
				   base < sorted[i]->base + sorted[i]->len;
			index += sorted[i]->base < base;
		}
		/* what lies behind the table must not matter */
		if (n < AREAS)
			sorted[n] = (struct upreempt_area *)old;
		place = upreempt_table_place(sorted, n, base, len, old);
		ASSERT_EQ(overlap ? n + 1 : index, place);
		fits += !overlap;
		overlaps += overlap;
	}
	EXPECT_NE(0, fits);
	EXPECT_NE(0, overlaps);
}

TEST_HARNESS_MAIN
