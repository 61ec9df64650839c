/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* A thread that spins, and how long it takes to reach it in several ways */
#ifndef MEASURE_H
#define MEASURE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <upreempt/upreempt.h>
#include "loops.h"

/* ---- times --------------------------------------------------------------- */

struct samples {
	uint64_t *v;
	size_t n, room;
	bool sorted;
};

void samples_add(struct samples *s, uint64_t v);
/* The q-th (0..1) of what was really measured; 0 when empty */
uint64_t samples_quantile(struct samples *s, double q);
void samples_free(struct samples *s);

/* ---- a spinning thread --------------------------------------------------- */

struct spinner {
	/* set before the start */
	const struct loop *loop;
	struct upreempt_domain *domain;	/* NULL: not registered, reached by tgkill only */
	int cpu;			/* -1: anywhere */
	/* set by the thread */
	struct upreempt_thread *thread;
	pid_t tid;
	int error;			/* of registering */
	bool running;
	/* the requester's */
	uint64_t cookie;		/* of the last request: never the same again */
	/* written by the handler */
	uint64_t handled;		/* times */
	uint64_t handled_ns;		/* when the last one began */
	uint64_t ack;			/* its cookie; stored last */
	/* the way out */
	bool leave;
	jmp_buf env;
	pthread_t id;
	struct loop_state state;
};

/* 0 or -errno. The thread is in its loop when this returns. */
int spinner_start(struct spinner *s);
/* Send it out of its loop by editing its context, and join it. False: it would not go. */
bool spinner_stop(struct spinner *s);
/* Until the loop has gone round again; false when it does not within a second */
bool spinner_moves(struct spinner *s);
/* CPU time that the thread has used, ns */
uint64_t spinner_cpu_ns(struct spinner *s);

/* The signal of the baseline: an ordinary handler, tgkill */
#define PLAIN_SIGNAL SIGUSR2
void plain_signal_setup(void);

/* CPUs this process may use; the requester is moved to the first, spinners to the second */
struct cpus {
	int n, requester, target;
};
void cpus_choose(struct cpus *cpus);

/* ---- measuring ----------------------------------------------------------- */

struct limit {
	unsigned int rounds;
	uint64_t budget_ns;		/* ends earlier when this is over */
};

/* Each returns how many rounds did not come to their good end */
unsigned int measure_redirect(struct spinner *s, struct limit limit, struct samples *handler,
			      struct samples *whole);
unsigned int measure_sample(struct spinner *s, struct limit limit, struct samples *whole);
unsigned int measure_stop(struct spinner *s, struct limit limit, struct samples *whole);
unsigned int measure_tgkill(struct spinner *s, struct limit limit, struct samples *handler,
			    struct samples *whole);
/* membarrier(): the kernel interrupts the CPU on which s runs and waits. -errno: not here. */
int measure_ipi(struct spinner *s, struct limit limit, struct samples *whole);

#endif
