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
 *
 * Grace: until a request's grace is over the handler grants it in a poll only. Nobody
 * is sent a signal for it before; then the thread's timer does.
 *
 * The world is explained in signal_world.c, tables of code in signal_table.c.
 */
#ifndef UPREEMPT_SIGNAL_H
#define UPREEMPT_SIGNAL_H

#include "backend.h"
#include <upreempt_table.h>
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
	uint64_t grace_end_ns;		/* until then it may come by itself; 0: no grace */
	struct upreempt_event event;
};

/*
 * A thread's part in a stop of the world. Whoever moves it from ASKED counts it: the
 * thread when it stands or leaves, the stopper when it waits no longer.
 */
enum {
	SW_NONE,			/* not asked, or not before it registered */
	SW_ASKED,
	SW_STANDING,			/* about to be STOOD; not long */
	SW_STOOD,			/* the other fields are valid */
	SW_AWAY,			/* unregistered: nobody asks it any more */
};

struct sig_standing {
	uint32_t state;			/* SW_*; atomic */
	uint32_t reason, attempts;	/* why it was refused last, how often; atomic */
	uint32_t outcome;
	uint64_t rip, ns;
};

struct sig_thread {
	uint32_t lock;
	uint32_t word;			/* a futex: what a held thread waits for */
	timer_t timer;
	uint64_t timer_ns;		/* when it fires next, 0: not set; atomic */
	uintptr_t cooperating;		/* its frame in signal_poll(); 0: it is elsewhere */
	uint32_t parked;		/* it waits in the handler for its word; atomic */
	const void *fpstate;		/* in the signal's frame, while it is parked */
	bool waits_turn;		/* in a system call of sig_world_stop(); atomic */
	struct sig_standing world;
	uint32_t backoff_us;
	bool ring_full;			/* found so by this visit of the handler */
	bool coop;			/* the same: the thread came by itself */
	uint64_t stack_lo, stack_hi;
	uint64_t stack_need;
	struct upreempt_stats stats;
	struct sig_request rq[SIG_MAX_REQUESTS];
};

struct sig_world {
	uint32_t owner;			/* the stopper's tid; a futex for the next; atomic */
	uint32_t epoch;			/* odd: stopped; atomic */
	uint32_t forced;		/* the grace is over; atomic */
	uint32_t missing;		/* threads that are ASKED; a futex for the stopper; atomic */
	uint32_t gone;			/* left while ASKED; atomic */
	/* only the stopper's business */
	uint32_t depth, ipis;
	uint64_t request_ns, sent_ns, grace_end_ns;
	struct upreempt_domain *next;	/* that this thread has stopped, too */
};

struct sig_table;

struct sig_tables {
	bool declared;			/* constant */
	uint32_t lock;			/* one change at a time */
	struct sig_table *now;		/* atomic; changes under d->lock, as: */
	struct sig_table *staged;	/* holds when the world goes on */
	struct sig_table *retired;	/* to be freed when nobody looks into them */
	uint32_t phase, readers[2];	/* handlers that look into a table; atomic */
	uint64_t last_id;		/* under lock */
};

struct sig_domain {
	struct sig_tables code;
	uint32_t ring_lock;
	uint64_t last_seq;		/* atomic */
	int eventfd;			/* the program's, under ring_lock; -1 */
	struct upreempt_stats stats;
	struct sig_world world;
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
/* true: it is held, and looks again */
bool sig_nudge(struct upreempt_thread *t);
/* A thread that is held waits for its word, any other gets the signal. -ESRCH: it died. */
long sig_kick(struct upreempt_thread *t);

int sig_op_request(struct upreempt_thread *t, const struct upreempt_request_opts *o,
		   struct upreempt_event *event);
int sig_op_post(struct upreempt_thread *t, const struct upreempt_request_opts *o, uint64_t *seq);
int sig_op_wait(struct upreempt_thread *t, uint64_t seq, uint64_t deadline_ns,
		struct upreempt_event *event);
int sig_op_cancel(struct upreempt_thread *t, uint64_t seq);
int sig_op_release(struct upreempt_thread *t, uint64_t seq);

/* signal_deliver.c */
void sig_handler(int signo, siginfo_t *info, void *context);
/* the thread's timer fires at ns or before; by anybody */
void sig_timer_at(struct upreempt_thread *t, uint64_t ns);

int sig_xstate(struct upreempt_thread *t, struct upreempt_xstate *x);
/* the frame may be changed; 0: the thread may be stopped here */
uint32_t sig_enforce_code(struct upreempt_thread *t, ucontext_t *uc, struct upreempt_regs *regs);
/* interrupted in, or about to make, or come from a system call */
bool sig_at_syscall(const struct upreempt_regs *regs);

/* signal_table.c; the first by the thread in its handler */
struct upreempt_point sig_point(const struct upreempt_thread *t, uint64_t rip);
uint32_t sig_point_reason(const struct upreempt_point *p);
int sig_code_add(struct upreempt_domain *d, struct upreempt_code_add *a);
int sig_code_remove(struct upreempt_domain *d, uint64_t id);
/* the world goes on; under d->lock */
void sig_tables_release(struct upreempt_domain *d);
void sig_tables_free(struct upreempt_domain *d);

/* signal_world.c */
int sig_world_stop(struct upreempt_domain *d, struct upreempt_world *r);
int sig_world_start(struct upreempt_domain *d);
/* whoever has stopped it; under d->lock */
void sig_world_release(struct upreempt_domain *d);
/* by the thread in its handler: it stays */
bool sig_world_holds(struct upreempt_thread *t, ucontext_t *uc, struct upreempt_regs *regs);
/* so that it has to be tried again */
bool sig_world_refused(const struct upreempt_thread *t);
bool sig_world_wants(const struct upreempt_thread *t);
bool sig_world_owned_by(const struct upreempt_thread *t);
/* by the thread, under d->lock: it is not waited for any more */
void sig_world_leave(struct upreempt_thread *t);

#pragma GCC visibility pop

#endif
