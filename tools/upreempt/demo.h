/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* The demo: demo_tries.c asks and shows what came of it, demo.c measures and is the command */
#ifndef DEMO_H
#define DEMO_H

#include "measure.h"

#define MILLISECOND	1000000ULL
#define COUNT(a)	(sizeof(a) / sizeof((a)[0]))

/* The times of one way to reach a thread */
struct times {
	struct samples handler, whole, sample, stop;
};

/* What a backend's part left behind */
struct side {
	enum upreempt_backend backend;
	const char *name;
	struct upreempt_domain *domain;	/* NULL: not available */
	struct times times;
};

/* A thread in each of the loops, each kind of request, and a table of the answers */
void try_backend(struct side *side, const struct cpus *cpus);

#endif
