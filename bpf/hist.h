/* SPDX-License-Identifier: LGPL-2.1 OR GPL-2.0 */
/*
 * A log-linear histogram of nanoseconds, filled by BPF programs and read by the
 * tools: 8 equal sub-buckets in each power of two, as in Gil Tene's HdrHistogram,
 * so a value is known to within one eighth. Values below 8 are exact; what is
 * longer than 2^40 ns (18 minutes) goes to the last bucket.
 */
#ifndef UPREEMPT_HIST_H
#define UPREEMPT_HIST_H

#include <linux/types.h>

#define HIST_SUB_BITS	3
#define HIST_SUB	(1U << HIST_SUB_BITS)
#define HIST_MAX_LOG2	40
#define HIST_BUCKETS	((HIST_MAX_LOG2 - HIST_SUB_BITS + 1) * HIST_SUB)

struct hist {
	__u64 count;
	__u64 sum;
	__u64 min;			/* ~0 while empty */
	__u64 max;
	__u64 buckets[HIST_BUCKETS];
};

/* floor(log2(v)), v > 0; written out because BPF has no such instruction */
static inline __attribute__((always_inline)) unsigned int hist_log2(__u64 v)
{
	unsigned int r = 0;

	if (v >> 32) { v >>= 32; r += 32; }
	if (v >> 16) { v >>= 16; r += 16; }
	if (v >> 8) { v >>= 8; r += 8; }
	if (v >> 4) { v >>= 4; r += 4; }
	if (v >> 2) { v >>= 2; r += 2; }
	if (v >> 1) r += 1;
	return r;
}

static inline __attribute__((always_inline)) unsigned int hist_index(__u64 v)
{
	unsigned int e;

	if (v < HIST_SUB)
		return v;
	e = hist_log2(v);
	if (e >= HIST_MAX_LOG2)
		return HIST_BUCKETS - 1;
	return (e - HIST_SUB_BITS + 1) * HIST_SUB + ((v >> (e - HIST_SUB_BITS)) & (HIST_SUB - 1));
}

/* The smallest value of a bucket; that of i + 1 is the end of bucket i */
static inline __attribute__((always_inline)) __u64 hist_low(unsigned int i)
{
	unsigned int e = i / HIST_SUB;

	if (e == 0)
		return i;
	return (__u64)(HIST_SUB + i % HIST_SUB) << (e - 1);
}

/*
 * Make v the extreme if it is one. A few tries: losing one more race loses one
 * extreme, not a count.
 */
static inline __attribute__((always_inline)) void hist_extreme(__u64 *p, __u64 v, int maximum)
{
	__u64 old = *(volatile __u64 *)p, seen;
	int i;

	for (i = 0; i < 4 && (maximum ? old < v : old > v); i++) {
		seen = __sync_val_compare_and_swap(p, old, v);
		if (seen == old)
			break;
		old = seen;
	}
}

/* Any CPU, any context */
static inline __attribute__((always_inline)) void hist_add(struct hist *h, __u64 v)
{
	__u64 i = hist_index(v);

	/*
	 * The verifier cannot follow the arithmetic of hist_index(), so the bound is tested
	 * again; the empty statement keeps the tested and the used index in one register.
	 */
	__asm__ __volatile__("" : "+r"(i));
	if (i >= HIST_BUCKETS)
		return;
	__sync_fetch_and_add(&h->buckets[i], 1);
	__sync_fetch_and_add(&h->count, 1);
	__sync_fetch_and_add(&h->sum, v);
	hist_extreme(&h->max, v, 1);
	hist_extreme(&h->min, v, 0);
}

#endif
