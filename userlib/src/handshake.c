// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Handshakes: a function run once for each thread, at its own safe point.
 *
 * A thread is asked by a REDIRECT that carries the address of its hs_entry as cookie, so
 * that its landing runs the function in place of the thread's own handler. Whoever moves
 * the entry from POSTED to RUNNING runs the function: the landing, or the caller for a
 * thread that a STOP holds meanwhile, because it is in a system call or takes no REDIRECT.
 * An entry lies in its thread and is used again only when IDLE: nothing is allocated for it,
 * and a landing that comes too late finds nothing to do.
 *
 * As HotSpot's handshakes (JEP 312) and Go's forEachP.
 */
#include "backend.h"
#include <errno.h>
#include <string.h>

#define SLICE_NS	2000000		/* so long we wait for one thread before we look at all */

static void finish(struct upreempt_thread *t)
{
	__atomic_store_n(&t->hs.state, HS_IDLE, __ATOMIC_RELEASE);
}

/* What is the same for all threads of a handshake */
struct round {
	upreempt_handshake_fn fn;
	void *arg;
	uint64_t deadline_ns;
	bool stopped;			/* by the caller: nobody lands */
	struct upreempt_handshake r;
};

static bool expired(const struct round *h)
{
	return h->deadline_ns && upreempt_now() >= h->deadline_ns;
}

/* The thread is done with; count: in which of the report's numbers */
static void over(struct upreempt_thread *t, uint32_t *count)
{
	t->hs.phase = HS_OVER;
	++*count;
}

static void unfinished(struct round *h, struct upreempt_thread *t, uint32_t reason)
{
	over(t, &h->r.unfinished);
	if (h->r.unfinished > 1)
		return;
	h->r.tid = t->tid;
	h->r.reason = reason;
	h->r.rip = t->hs.rip;
}

/* It does not begin any more; or has just begun */
static void give_up(struct round *h, struct upreempt_thread *t)
{
	if (!upreempt_handshake_claim(t)) {
		t->hs.phase = HS_RUNS;
		return;
	}
	finish(t);
	unfinished(h, t, t->hs.reason ? t->hs.reason : UPREEMPT_R_NOT_RUN);
}

/* Until the entry is idle; false: it is not */
static bool wait_idle(struct upreempt_thread *t, uint64_t until_ns)
{
	uint32_t state;

	while ((state = __atomic_load_n(&t->hs.state, __ATOMIC_ACQUIRE)) != HS_IDLE) {
		if (__atomic_load_n(&t->gone, __ATOMIC_ACQUIRE))
			return true;
		if (upreempt_now() >= until_ns)
			return false;
		up_futex_wait(&t->hs.state, state, until_ns);
	}
	return true;
}

static void ask(struct round *h, struct upreempt_thread *t)
{
	struct upreempt_request_opts o = {
		.size = sizeof(o), .kind = UPREEMPT_REDIRECT, .flags = UPREEMPT_REQ_OR_BLOCKED,
		.cookie = upreempt_handshake_cookie(t), .deadline_ns = h->deadline_ns,
	};

	t->hs.fn = h->fn;
	t->hs.arg = h->arg;
	t->hs.reason = 0;
	t->hs.rip = 0;
	__atomic_store_n(&t->hs.state, HS_POSTED, __ATOMIC_RELEASE);
	/* What keeps its vector registers in place takes its own handler only. */
	t->hs.phase = !h->stopped && t->handler && !(t->flags & UPREEMPT_THREAD_NO_XSAVE) &&
		      !upreempt_post(t, &o, &t->hs.seq) ? HS_REDIRECT : HS_MAY_STOP;
}

static void redirected(struct upreempt_thread *t, const struct upreempt_event *e)
{
	t->hs.reason = e->reason;
	t->hs.rip = e->regs.rip;
	t->hs.phase = e->outcome == UPREEMPT_LANDED || e->outcome == UPREEMPT_COOPERATED ?
		      HS_RUNS : HS_MAY_STOP;
}

/* Ask for a STOP, in which the caller runs it. Too many outstanding: somebody's will end. */
static void may_stop(struct round *h, struct upreempt_thread *t)
{
	struct upreempt_request_opts o = {
		.size = sizeof(o), .kind = UPREEMPT_STOP, .deadline_ns = h->deadline_ns,
	};
	int ret = upreempt_post(t, &o, &t->hs.seq);

	if (!ret) {
		t->hs.phase = HS_STOP;
	} else if (ret == -ESRCH) {
		finish(t);
		over(t, &h->r.gone);
	} else if (ret != -EAGAIN || expired(h)) {
		give_up(h, t);
	}
}

static void stopped(struct round *h, struct upreempt_thread *t, const struct upreempt_event *e)
{
	struct upreempt_snapshot s = {
		.size = sizeof(s), .outcome = e->outcome, .frame = e->frame,
		.sp = e->regs.rsp, .hi = t->stack_hi, .regs = e->regs,
	};

	if (e->outcome == UPREEMPT_GONE) {
		finish(t);
		over(t, &h->r.gone);
	} else if (e->outcome == UPREEMPT_UNSAFE || e->outcome == UPREEMPT_CANCELLED) {
		/* A STOP that came after the deadline has seen nothing. */
		if (e->reason != UPREEMPT_R_NOT_RUN) {
			t->hs.reason = e->reason;
			t->hs.rip = e->regs.rip;
		}
		give_up(h, t);
	} else {
		/* Not: a landing of an earlier handshake is on its way to run it. */
		t->hs.phase = HS_RUNS;
		if (upreempt_handshake_claim(t)) {
			h->fn(t, &s, h->arg);
			finish(t);
			over(t, &h->r.proxy);
		}
		upreempt_release(t, e->seq);
	}
}

static void runs(struct round *h, struct upreempt_thread *t, uint64_t until_ns)
{
	if (!wait_idle(t, until_ns)) {
		if (!expired(h))
			return;
		t->hs.reason = UPREEMPT_R_NOT_RUN;
		give_up(h, t);
		if (t->hs.phase == HS_RUNS)
			unfinished(h, t, UPREEMPT_R_NONE);
	} else if (__atomic_load_n(&t->gone, __ATOMIC_ACQUIRE) && upreempt_handshake_claim(t)) {
		finish(t);
		over(t, &h->r.gone);
	} else {
		over(t, &h->r.self);
	}
}

/* Get as far as possible with a thread until a moment (1: without waiting). Is it over? */
static bool step(struct round *h, struct upreempt_thread *t, uint64_t until_ns)
{
	struct upreempt_event e;
	uint32_t phase;
	int ret;

	do {
		phase = t->hs.phase;
		memset(&e, 0, sizeof(e));
		switch (phase) {
		case HS_BEFORE:
			/* An earlier handshake's function has not returned yet. */
			if (wait_idle(t, until_ns))
				ask(h, t);
			else if (expired(h))
				unfinished(h, t, UPREEMPT_R_NONE);
			break;
		case HS_REDIRECT:
		case HS_STOP:
			ret = upreempt_wait(t, t->hs.seq, until_ns, &e);
			if (ret == -ETIMEDOUT)
				break;
			if (ret)
				e.outcome = UPREEMPT_GONE;
			if (phase == HS_STOP)
				stopped(h, t, &e);
			else
				redirected(t, &e);
			break;
		case HS_MAY_STOP:
			may_stop(h, t);
			break;
		case HS_RUNS:
			runs(h, t, until_ns);
			break;
		}
	} while (t->hs.phase != phase && t->hs.phase != HS_OVER);
	return t->hs.phase == HS_OVER;
}

/* The threads of now, each with a use of its handle, chained by hs.next */
static struct upreempt_thread *threads_now(struct upreempt_domain *d, uint32_t *n)
{
	struct upreempt_thread *t, *all = NULL;

	*n = 0;
	up_lock(&d->lock);
	for (t = d->live; t; t = t->next) {
		if (__atomic_load_n(&t->gone, __ATOMIC_ACQUIRE) || upreempt_thread_enter(t))
			continue;
		t->hs.next = all;
		all = t;
		++*n;
	}
	up_unlock(&d->lock);
	return all;
}

static void run_here(struct round *h, struct upreempt_thread *self)
{
	struct upreempt_snapshot s = {
		.size = sizeof(s), .outcome = UPREEMPT_COOPERATED,
		.sp = (uintptr_t)__builtin_frame_address(0), .hi = self->stack_hi,
	};

	h->fn(self, &s, h->arg);
	over(self, &h->r.self);
}

/* Nobody waits for another one: those who come late are looked at again and again. */
static void run(struct round *h, struct upreempt_thread *all)
{
	struct upreempt_thread *t, *first;
	uint64_t until;
	bool moved;

	for (t = all; t; t = t->hs.next) {
		t->hs.phase = HS_BEFORE;
		t->hs.rip = 0;
		if (t != upreempt_self && wait_idle(t, 1))
			ask(h, t);
	}
	for (t = all; t; t = t->hs.next)
		if (t == upreempt_self)
			run_here(h, t);
	do {
		first = NULL;
		moved = false;
		for (t = all; t; t = t->hs.next) {
			if (t->hs.phase == HS_OVER)
				continue;
			if (step(h, t, 1))
				moved = true;
			else if (!first)
				first = t;
		}
		if (!first || moved)
			continue;
		until = upreempt_now() + SLICE_NS;
		step(h, first, h->deadline_ns && h->deadline_ns < until ? h->deadline_ns : until);
	} while (first);
}

/* Not up_lock(): the holder may want us to run its function while we wait. */
static int take_turn(struct upreempt_domain *d, uint64_t deadline_ns)
{
	uint32_t none;

	while (none = 0, !__atomic_compare_exchange_n(&d->hs_lock, &none, 1, false,
						      __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
		/* Its threads stand, so it will not end before we start them. */
		if (upreempt_is_stopper(d))
			return -EBUSY;
		if (deadline_ns && upreempt_now() >= deadline_ns)
			return -ETIMEDOUT;
		up_futex_wait(&d->hs_lock, 1, deadline_ns);
	}
	return 0;
}

int upreempt_handshake(struct upreempt_domain *d, upreempt_handshake_fn fn, void *arg,
		       uint64_t deadline_ns, struct upreempt_handshake *report)
{
	struct round h = {
		.fn = fn, .arg = arg, .deadline_ns = deadline_ns, .r.size = sizeof(h.r),
	};
	struct upreempt_thread *all, *t;
	int ret;

	if (!d || !fn || (report && report->size < sizeof(h.r)))
		return -EINVAL;
	if (d->generation != upreempt_generation)
		return -EPERM;
	ret = take_turn(d, deadline_ns);
	if (ret)
		return ret;
	h.stopped = upreempt_is_stopper(d);
	all = threads_now(d, &h.r.threads);
	run(&h, all);
	while ((t = all)) {
		all = t->hs.next;
		upreempt_thread_exit(t);
	}
	__atomic_store_n(&d->hs_lock, 0, __ATOMIC_RELEASE);
	up_futex_wake(&d->hs_lock, INT32_MAX);	/* as up_unlock_raw() */
	if (report)
		memcpy(report, &h.r, sizeof(h.r));
	return (int)h.r.unfinished;
}
