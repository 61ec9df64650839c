// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* The signal backend's requester: making, awaiting, cancelling, releasing. See backend_signal.h. */
#include "backend_signal.h"
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>

bool sig_move(struct sig_request *r, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n(&r->state, &from, to, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_SEQ_CST);
}

static uint32_t state_of(const struct sig_request *r)
{
	return __atomic_load_n(&r->state, __ATOMIC_SEQ_CST);
}

void sig_fill_event(struct upreempt_thread *t, struct sig_request *r, uint32_t outcome,
		    uint32_t reason)
{
	struct upreempt_event *e = &r->event;
	int cpu = sched_getcpu();

	e->final_ns = upreempt_now();
	e->slot = t->index;
	e->tid = t->tid;
	e->outcome = outcome;
	e->reason = reason;
	e->attempts = r->attempts;
	e->cpu = cpu < 0 ? 0 : cpu;
}

void sig_finish(struct upreempt_thread *t, struct sig_request *r)
{
	uint32_t outcome = r->event.outcome, next;

	SIG_COUNT(t, outcomes[outcome]);
	__atomic_store_n(&t->slot->done_outcome, outcome, __ATOMIC_RELAXED);
	__atomic_store_n(&t->slot->done_seq, r->seq, __ATOMIC_RELEASE);
	__atomic_sub_fetch(&t->slot->pending, 1, __ATOMIC_SEQ_CST);
	next = r->keep ? RQ_DONE : r->hold ? RQ_HELD : RQ_FREE;
	__atomic_store_n(&r->state, next, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&r->waiters, __ATOMIC_SEQ_CST))
		up_futex_wake(&r->state, INT32_MAX);
}

void sig_end(struct upreempt_thread *t, struct sig_request *r, uint32_t outcome, uint32_t reason)
{
	sig_fill_event(t, r, outcome, reason);
	r->event.frame = UPREEMPT_FRAME_NONE;
	memset(&r->event.regs, 0, sizeof(r->event.regs));
	r->event.regs.rip = r->last_ip;
	if (r->flags & UPREEMPT_REQ_RING)
		sig_ring_report(t->domain, &r->event);
	sig_finish(t, r);
}

/* The target is at it: not long, but it may have lost its CPU. */
static void wait_running(struct sig_request *r)
{
	while (state_of(r) == RQ_RUNNING)
		up_futex_wait(&r->state, RQ_RUNNING, upreempt_now() + 50000);
}

void sig_end_all(struct upreempt_thread *t, uint32_t outcome)
{
	struct sig_request *r = t->sig->rq;
	int i;

	for (i = 0; i < SIG_MAX_REQUESTS; i++, r++) {
		while (state_of(r) == RQ_PENDING || state_of(r) == RQ_RUNNING) {
			if (sig_move(r, RQ_PENDING, RQ_CLAIMED))
				sig_end(t, r, outcome, UPREEMPT_R_NONE);
			else
				wait_running(r);
		}
	}
}

static struct sig_request *find(struct upreempt_thread *t, uint64_t seq)
{
	struct sig_request *r = t->sig->rq;
	int i;

	for (i = 0; i < SIG_MAX_REQUESTS; i++, r++)
		if (r->seq == seq && seq && state_of(r) != RQ_FREE)
			return r;
	return NULL;
}

static struct sig_request *claim(struct upreempt_thread *t)
{
	struct sig_request *r = t->sig->rq;
	int i;

	for (i = 0; i < SIG_MAX_REQUESTS; i++, r++)
		if (sig_move(r, RQ_FREE, RQ_CLAIMED))
			return r;
	return NULL;
}

static void fill(struct upreempt_thread *t, struct sig_request *r,
		 const struct upreempt_request_opts *o, bool keep)
{
	r->kind = o->kind;
	r->flags = o->flags;
	r->keep = keep;
	r->hold = 0;
	r->reason = o->grace_ns ? UPREEMPT_R_GRACE : UPREEMPT_R_NOT_RUN;
	r->attempts = 0;
	r->last_ip = 0;
	r->deadline_ns = o->deadline_ns;
	memset(&r->event, 0, sizeof(r->event));
	r->seq = __atomic_add_fetch(&t->domain->sig->last_seq, 1, __ATOMIC_RELAXED);
	r->event.seq = r->seq;
	r->event.cookie = o->cookie;
	r->event.kind = o->kind;
	r->event.request_ns = upreempt_now();
	r->grace_end_ns = o->grace_ns > UINT64_MAX - r->event.request_ns ? UINT64_MAX :
			  o->grace_ns ? r->event.request_ns + o->grace_ns : 0;
}

/* 0: nothing against it; else the reason why it ends here */
static uint32_t refusal(struct upreempt_thread *t, const struct sig_request *r)
{
	if (__atomic_load_n(&t->slot->off, __ATOMIC_SEQ_CST) ||
	    __atomic_load_n(&t->domain->header->off, __ATOMIC_SEQ_CST))
		return UPREEMPT_R_OFF;
	if (r->deadline_ns && r->deadline_ns <= r->event.request_ns)
		return UPREEMPT_R_NOT_RUN;
	return 0;
}

bool sig_nudge(struct upreempt_thread *t)
{
	__atomic_add_fetch(&t->sig->word, 1, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&t->sig->parked, __ATOMIC_SEQ_CST))
		return false;
	up_futex_wake(&t->sig->word, 1);
	return true;
}

/* It died without its exit hooks. */
static void died(struct upreempt_thread *t)
{
	up_lock(&t->sig->lock);
	__atomic_store_n(&t->gone, 1, __ATOMIC_SEQ_CST);
	sig_end_all(t, UPREEMPT_GONE);
	up_unlock(&t->sig->lock);
}

long sig_kick(struct upreempt_thread *t)
{
	long ret;

	if (sig_nudge(t))
		return 0;
	SIG_COUNT(t, ipis);
	ret = upreempt_syscall(SYS_tgkill, t->pid, t->tid, t->signo, 0, 0, 0);
	if (ret == -ESRCH)
		died(t);
	return ret;
}

/* It may come by itself until end. What is held has no use for a grace. */
static void ask_gently(struct upreempt_thread *t, uint64_t end)
{
	__atomic_store_n(&t->slot->poll, 1, __ATOMIC_SEQ_CST);
	if (!sig_nudge(t))
		sig_timer_at(t, end);
}

/* Of two times the earlier; 0: none */
static uint64_t nearest(uint64_t a, uint64_t b)
{
	return !a ? b : !b ? a : a < b ? a : b;
}

static int submit(struct upreempt_thread *t, const struct upreempt_request_opts *o, bool keep,
		  uint64_t *seq)
{
	struct sig_request *r;
	uint64_t grace_end;
	uint32_t reason;

	up_lock(&t->sig->lock);
	if (__atomic_load_n(&t->gone, __ATOMIC_SEQ_CST)) {
		up_unlock(&t->sig->lock);
		return -ESRCH;
	}
	r = claim(t);
	if (!r) {
		up_unlock(&t->sig->lock);
		return -EAGAIN;
	}
	fill(t, r, o, keep);
	*seq = r->seq;
	SIG_COUNT(t, kinds[o->kind]);
	reason = refusal(t, r);
	grace_end = nearest(r->grace_end_ns, r->grace_end_ns ? r->deadline_ns : 0);
	__atomic_add_fetch(&t->slot->pending, 1, __ATOMIC_SEQ_CST);
	if (reason)
		sig_end(t, r, UPREEMPT_UNSAFE, reason);
	else
		__atomic_store_n(&r->state, RQ_PENDING, __ATOMIC_SEQ_CST);
	/* under the lock the thread does not leave: its timer is there */
	if (!reason && grace_end)
		ask_gently(t, grace_end);
	up_unlock(&t->sig->lock);
	if (!reason && !grace_end)
		sig_kick(t);
	return 0;
}

/* Collected: under the lock, in state DONE */
static void collect(struct sig_request *r, struct upreempt_event *event)
{
	*event = r->event;
	__atomic_store_n(&r->state, r->hold ? RQ_HELD : RQ_FREE, __ATOMIC_SEQ_CST);
}

/* One look at a request. 1: wait for word *state to change until *until */
static int look(struct upreempt_thread *t, uint64_t seq, uint64_t deadline_ns,
		struct upreempt_event *event, struct sig_request **found, uint32_t *state,
		uint64_t *until)
{
	struct sig_request *r = find(t, seq);
	uint64_t now;

	*found = r;
	if (!r || !r->keep || state_of(r) == RQ_HELD)
		return -ENOENT;
	now = upreempt_now();
	if (r->deadline_ns && now >= r->deadline_ns && sig_move(r, RQ_PENDING, RQ_CLAIMED))
		sig_end(t, r, UPREEMPT_UNSAFE, r->reason);
	*state = state_of(r);
	if (*state == RQ_DONE) {
		collect(r, event);
		return 0;
	}
	if (deadline_ns && now >= deadline_ns)
		return -ETIMEDOUT;
	*until = nearest(r->deadline_ns, deadline_ns);
	/* Its deadline came while the target is at it: look again soon. */
	if (*until && *until <= now)
		*until = now + 50000;
	__atomic_add_fetch(&r->waiters, 1, __ATOMIC_SEQ_CST);
	return 1;
}

/* How long to wait until it is looked whether the thread is still there */
#define THERE_NS	100000000ULL

/* A thread that was dying when it was kicked has taken the signal with it, and nobody tells. */
static void wait_or_look(struct upreempt_thread *t, uint32_t *word, uint32_t state, uint64_t until)
{
	uint64_t end = nearest(upreempt_deadline(THERE_NS), until);

	up_futex_wait(word, state, end);
	if (end != until && upreempt_now() >= end &&
	    upreempt_syscall(SYS_tgkill, t->pid, t->tid, 0, 0, 0, 0) == -ESRCH)
		died(t);
}

int sig_op_wait(struct upreempt_thread *t, uint64_t seq, uint64_t deadline_ns,
		struct upreempt_event *event)
{
	struct sig_request *r;
	uint64_t until;
	uint32_t state;
	int ret;

	for (;;) {
		up_lock(&t->sig->lock);
		ret = look(t, seq, deadline_ns, event, &r, &state, &until);
		up_unlock(&t->sig->lock);
		if (ret <= 0)
			return ret;
		wait_or_look(t, &r->state, state, until);
		__atomic_sub_fetch(&r->waiters, 1, __ATOMIC_SEQ_CST);
	}
}

int sig_op_request(struct upreempt_thread *t, const struct upreempt_request_opts *o,
		   struct upreempt_event *event)
{
	uint64_t seq;
	int ret = submit(t, o, true, &seq);

	return ret ? ret : sig_op_wait(t, seq, 0, event);
}

int sig_op_post(struct upreempt_thread *t, const struct upreempt_request_opts *o, uint64_t *seq)
{
	return submit(t, o, !(o->flags & UPREEMPT_REQ_RING), seq);
}

/* Under the lock. -EALREADY: it is final */
static int cancel(struct upreempt_thread *t, struct sig_request *r)
{
	for (;;) {
		if (sig_move(r, RQ_PENDING, RQ_CLAIMED)) {
			sig_end(t, r, UPREEMPT_CANCELLED, UPREEMPT_R_NONE);
			return 0;
		}
		if (state_of(r) != RQ_RUNNING && state_of(r) != RQ_PENDING)
			return -EALREADY;
		wait_running(r);
	}
}

int sig_op_cancel(struct upreempt_thread *t, uint64_t seq)
{
	struct sig_request *r;
	int ret = -ENOENT;

	up_lock(&t->sig->lock);
	r = find(t, seq);
	if (r)
		ret = cancel(t, r);
	up_unlock(&t->sig->lock);
	return ret;
}

/* Under the lock: r holds the thread no longer */
static void let_go(struct upreempt_thread *t, struct sig_request *r)
{
	r->hold = 0;
	__atomic_sub_fetch(&t->slot->held, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&t->sig->word, 1, __ATOMIC_SEQ_CST);
	up_futex_wake(&t->sig->word, 1);
	sig_move(r, RQ_HELD, RQ_FREE);
}

int sig_op_release(struct upreempt_thread *t, uint64_t seq)
{
	struct sig_request *r;
	int ret = -ENOENT;

	up_lock(&t->sig->lock);
	r = find(t, seq);
	if (r && r->kind == UPREEMPT_STOP) {
		ret = cancel(t, r);
		if (ret == -EALREADY && r->hold) {
			let_go(t, r);
			ret = 0;
		} else if (ret) {
			ret = -ENOENT;
		}
	}
	up_unlock(&t->sig->lock);
	return ret;
}

void sig_release_all(struct upreempt_thread *t)
{
	struct sig_request *r = t->sig->rq;
	int i;

	for (i = 0; i < SIG_MAX_REQUESTS; i++, r++)
		if (r->hold)
			let_go(t, r);
}
