/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * The signal backend: the module's semantics with one signal.
 *
 * A thread has 16 requests. A request's life, and who moves it:
 *
 *	FREE ──requester──► CLAIMED ──► PENDING ──► RUNNING ──► DONE ──► FREE
 *	                                  │  ▲         │          └─► HELD ─► FREE
 *	                                  │  └─────────┘ deferred
 *	                                  └─► CLAIMED ─► DONE: cancelled, deadline, gone
 *
 * PENDING -> RUNNING and RUNNING -> anything: the target, in its signal handler.
 * Everything else: a requester under sig_thread.lock. Both leave PENDING by
 * compare-and-swap, so that exactly one of them ends a request. DONE waits for its
 * collector; HELD was collected (or reported in the ring) and still holds.
 *
 * The handler takes no lock but the ring's, whose holders have all signals
 * blocked. A requester that holds sig_thread.lock takes no STOP and no REDIRECT
 * (up_lock()), so nobody waits for the lock of a stopped thread.
 */
#ifndef UPREEMPT_SIGNAL_H
#define UPREEMPT_SIGNAL_H

#include "backend.h"
#include <signal.h>
#include <time.h>
#include <ucontext.h>

#pragma GCC visibility push(hidden)

enum { RQ_FREE, RQ_CLAIMED, RQ_PENDING, RQ_RUNNING, RQ_DONE, RQ_HELD };

struct sig_request {
	uint32_t state;			/* RQ_*; a futex; atomic */
	uint32_t waiters;		/* atomic */
	uint32_t hold;			/* a STOP that holds the thread; atomic */
	uint32_t kind, flags;
	uint32_t keep;			/* the outcome waits for a collector */
	uint32_t reason, attempts;	/* of the last deferral */
	uint64_t last_ip;
	uint64_t seq, deadline_ns;
	struct upreempt_event event;
};

struct sig_thread {
	uint32_t lock;
	uint32_t word;			/* a futex: what a held thread waits for */
	bool have_timer;
	timer_t timer;
	uint32_t backoff_us;
	bool ring_full;			/* found so by this visit of the handler */
	uint64_t stack_lo, stack_hi;
	uint64_t stack_need;
	struct upreempt_stats stats;
	struct sig_request rq[SIG_MAX_REQUESTS];
};

struct sig_domain {
	uint32_t ring_lock;
	uint64_t last_seq;		/* atomic */
	int eventfd;			/* the program's, under ring_lock; -1 */
	struct upreempt_stats stats;
};

/* A counter of the thread and of its domain */
#define SIG_COUNT(t, field)						\
do {									\
	__atomic_add_fetch(&(t)->sig->stats.field, 1, __ATOMIC_RELAXED);	\
	__atomic_add_fetch(&(t)->domain->sig->stats.field, 1, __ATOMIC_RELAXED); \
} while (0)

/* signal_ring.c; all signals are blocked. false: no room */
bool sig_ring_push(struct upreempt_domain *d, const struct upreempt_event *e);
/* the same from a requester; a full ring counts as dropped */
void sig_ring_report(struct upreempt_domain *d, const struct upreempt_event *e);
int sig_eventfd(struct upreempt_domain *d, int fd);

/* signal_request.c */
bool sig_move(struct sig_request *r, uint32_t from, uint32_t to);
/* complete r->event but for regs */
void sig_fill_event(struct upreempt_thread *t, struct sig_request *r, uint32_t outcome,
		    uint32_t reason);
/* r is CLAIMED or RUNNING and was PENDING; the event is complete and reported */
void sig_finish(struct upreempt_thread *t, struct sig_request *r);
/* PENDING requests end so; under t->sig->lock. Other states are waited for. */
void sig_end_all(struct upreempt_thread *t, uint32_t outcome);
/* r, which is CLAIMED and was PENDING, ends without the target's doing */
void sig_end(struct upreempt_thread *t, struct sig_request *r, uint32_t outcome, uint32_t reason);
void sig_release_all(struct upreempt_thread *t);

int sig_op_request(struct upreempt_thread *t, const struct upreempt_request_opts *o,
		   struct upreempt_event *event);
int sig_op_post(struct upreempt_thread *t, const struct upreempt_request_opts *o, uint64_t *seq);
int sig_op_wait(struct upreempt_thread *t, uint64_t seq, uint64_t deadline_ns,
		struct upreempt_event *event);
int sig_op_cancel(struct upreempt_thread *t, uint64_t seq);
int sig_op_release(struct upreempt_thread *t, uint64_t seq);

/* signal_deliver.c */
void sig_handler(int signo, siginfo_t *info, void *context);

#pragma GCC visibility pop

#endif
