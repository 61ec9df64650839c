/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* Endless loops without calls, polls or system calls: what the demo interrupts */
#ifndef LOOPS_H
#define LOOPS_H

#include <stdbool.h>
#include <stdint.h>

/* Written by the loop only; which words are in use is the loop's business */
struct loop_state {
	volatile uint64_t count;	/* rounds, in the loops that count */
	volatile uint64_t mirror;
	volatile uint64_t lane[4];
} __attribute__((aligned(64)));

struct loop {
	const char *name;
	void (*run)(struct loop_state *state);	/* never returns */
	bool counts;
	/* Do the registers that the loop keeps its values in still agree? NULL: it keeps none. */
	bool (*intact)(const struct loop_state *state);
};

/* Ends with a NULL name; the vector loop fits this processor */
const struct loop *loops_all(void);
const struct loop *loops_counting(void);

/* Fill the vector registers with rubbish, as a careless handler would */
void loops_trash_vectors(void);

#endif
