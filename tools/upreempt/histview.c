// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Percentiles and bars of the log-linear histograms in bpf/hist.h. */
#include "histview.h"
#include "out.h"

#include <stdio.h>

#define BAR_WIDTH 40

double hist_percentile(const struct hist *h, double q)
{
	double rank = q * h->count, seen = 0, v;
	unsigned int i;

	if (!h->count)
		return 0;
	for (i = 0; i < HIST_BUCKETS; i++) {
		double n = h->buckets[i];

		if (n && seen + n >= rank) {
			double low = hist_low(i), high = hist_low(i + 1);

			v = low + (high - low) * (rank - seen) / n;
			if (v > h->max)
				v = h->max;
			if (v < h->min)
				v = h->min;
			return v;
		}
		seen += n;
	}
	return h->max;	/* counted while it was read */
}

static void bar(__u64 n, __u64 most)
{
	/* eighths of a character cell */
	static const char *const part[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
	__u64 eighths = (n * BAR_WIDTH * 8 + most - 1) / most, i;

	fputs("  ", stdout);
	for (i = 0; i < eighths / 8; i++)
		fputs("█", stdout);
	fputs(part[eighths % 8], stdout);
}

static void span(char *buf, size_t size, __u64 ns)
{
	if (ns < 1000)
		snprintf(buf, size, "%llu ns", ns);
	else if (ns < 1000000)
		snprintf(buf, size, "%.4g µs", ns / 1e3);
	else if (ns < 1000000000)
		snprintf(buf, size, "%.4g ms", ns / 1e6);
	else
		snprintf(buf, size, "%.4g s", ns / 1e9);
}

/* Half an octave a line: fine enough to see two modes, coarse enough for a screen */
#define STEP (HIST_SUB / 2)

void hist_print(const struct hist *h)
{
	__u64 n[HIST_BUCKETS / STEP] = {}, most = 0;
	unsigned int i, first = HIST_BUCKETS / STEP, last = 0;

	for (i = 0; i < HIST_BUCKETS; i++)
		n[i / STEP] += h->buckets[i];
	for (i = 0; i < HIST_BUCKETS / STEP; i++) {
		if (!n[i])
			continue;
		if (first > i)
			first = i;
		last = i;
		if (n[i] > most)
			most = n[i];
	}
	for (i = first; most && i <= last; i++) {
		char low[24];

		span(low, sizeof(low), hist_low(i * STEP));
		printf("    %*s%s  %9llu", (int)(9 - out_width(low)), "", low, n[i]);
		if (n[i])
			bar(n[i], most);
		putchar('\n');
	}
}
