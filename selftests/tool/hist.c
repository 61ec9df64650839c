// SPDX-License-Identifier: LGPL-2.1 OR MIT
// CFLAGS: -I../bpf -I../tools/upreempt
// SOURCES: ../../tools/upreempt/histview.c ../../tools/upreempt/out.c
/*
 * The log-linear histogram that BPF programs and tools share: every value falls into
 * the bucket that contains it, and percentiles are within one eighth of the exact
 * ones, so that the times that `upreempt latency` prints can be believed.
 */
#include "kselftest_harness.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "histview.h"

static const struct hist empty = { .min = ~0ULL };

TEST(buckets_are_contiguous)
{
	unsigned int i;

	EXPECT_EQ(0, hist_low(0));
	for (i = 0; i < HIST_BUCKETS; i++) {
		ASSERT_LT(hist_low(i), hist_low(i + 1));
		ASSERT_EQ(i, hist_index(hist_low(i)));
		ASSERT_EQ(i, hist_index(hist_low(i + 1) - 1));
		/* no wider than an eighth of its beginning */
		if (i >= HIST_SUB)
			ASSERT_LE(8 * (hist_low(i + 1) - hist_low(i)), hist_low(i));
	}
	EXPECT_EQ(1ULL << HIST_MAX_LOG2, hist_low(HIST_BUCKETS));
}

TEST(what_is_too_long_is_counted_last)
{
	struct hist h = empty;

	EXPECT_EQ(HIST_BUCKETS - 1, hist_index(1ULL << HIST_MAX_LOG2));
	EXPECT_EQ(HIST_BUCKETS - 1, hist_index(~0ULL));
	hist_add(&h, ~0ULL);
	EXPECT_EQ(1, h.buckets[HIST_BUCKETS - 1]);
	EXPECT_EQ(~0ULL, h.max);
	EXPECT_EQ(~0ULL, h.min);
}

TEST(log2_of_every_octave)
{
	unsigned int e;

	for (e = 1; e < 64; e++) {
		EXPECT_EQ(e, hist_log2(1ULL << e));
		EXPECT_EQ(e, hist_log2((1ULL << e) | 1));
		EXPECT_EQ(e - 1, hist_log2((1ULL << e) - 1));
	}
}

TEST(empty_and_single)
{
	struct hist h = empty;

	EXPECT_EQ(0, hist_percentile(&h, 0.5));
	hist_add(&h, 12345);
	EXPECT_EQ(12345, hist_percentile(&h, 0));
	EXPECT_EQ(12345, hist_percentile(&h, 0.5));
	EXPECT_EQ(12345, hist_percentile(&h, 1));
	EXPECT_EQ(12345, h.min);
	EXPECT_EQ(12345, h.max);
	EXPECT_EQ(12345, h.sum);
	EXPECT_EQ(1, h.count);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

TEST(percentiles_against_sorted_values)
{
	enum { N = 100000 };
	static const double q[] = { 0.01, 0.25, 0.5, 0.9, 0.99, 0.999 };
	uint64_t *v = malloc(N * sizeof(*v)), x = 88172645463325252ULL, sum = 0;
	struct hist h = empty;
	unsigned int i;

	ASSERT_NE(NULL, v);
	for (i = 0; i < N; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		/* many octaves: 2^0 .. 2^30 */
		v[i] = (x >> 8) & ((1ULL << (x % 31)) - 1);
		sum += v[i];
		hist_add(&h, v[i]);
	}
	qsort(v, N, sizeof(*v), compare);
	EXPECT_EQ(N, h.count);
	EXPECT_EQ(sum, h.sum);
	EXPECT_EQ(v[0], h.min);
	EXPECT_EQ(v[N - 1], h.max);
	for (i = 0; i < sizeof(q) / sizeof(q[0]); i++) {
		double exact = v[(unsigned int)(q[i] * N)], got = hist_percentile(&h, q[i]);

		EXPECT_LE(got, exact * 1.125 + 1);
		EXPECT_GE(got, exact / 1.125 - 1);
	}
	EXPECT_EQ(h.max, hist_percentile(&h, 1));
	free(v);
}

TEST_HARNESS_MAIN
