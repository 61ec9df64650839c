/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* Reading the histograms of bpf/hist.h */
#ifndef HISTVIEW_H
#define HISTVIEW_H

#include "hist.h"

/* The value below which the share q (0..1) lies, interpolated inside its bucket; 0 when empty */
double hist_percentile(const struct hist *h, double q);
/* Bars on the terminal, one line for each power of two (text only) */
void hist_print(const struct hist *h);

#endif
