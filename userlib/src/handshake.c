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
#include <time.h>

static void finish(struct upreempt_thread *t)
{
	__atomic_store_n(&t->hs.state, HS_IDLE, __ATOMIC_RELEASE);
}

static void unfinished(struct upreempt_handshake *r, const struct upreempt_thread *t,
		       uint32_t reason, uint64_t rip)
{
	if (!r->unfinished++) {
		r->tid = t->tid;
		r->reason = reason;
		r->rip = rip;
	}
}

/* Until the entry is idle; false: the deadline */
static bool wait_idle(struct upreempt_thread *t, uint64_t deadline_ns)
{
	uint32_t state;

	while ((state = __atomic_load_n(&t->hs.state, __ATOMIC_ACQUIRE)) != HS_IDLE) {
		if (__atomic_load_n(&t->gone, __ATOMIC_ACQUIRE))
			return true;
		if (deadline_ns && upreempt_now() >= deadline_ns)
			return false;
		/* A thread that dies wakes nobody: look again. */
		up_futex_wait(&t->hs.state, state, upreempt_now() + 10000000);
	}
	return true;
}

/* The caller runs it, while the thread is held. before: how the REDIRECT ended */
static void by_proxy(struct upreempt_thread *t, uint64_t deadline_ns,
		     const struct upreempt_event *before, struct upreempt_handshake *r)
{
	struct upreempt_request_opts o = {
		.size = sizeof(o), .kind = UPREEMPT_STOP, .deadline_ns = deadline_ns,
	};
	struct upreempt_snapshot s = { .size = sizeof(s), .hi = t->stack_hi };
	struct upreempt_event e = *before;
	struct timespec ms = { 0, 1000000 };
	int ret;

	/* Too many outstanding: somebody else's are about to end. */
	while ((ret = upreempt_request(t, &o, &e)) == -EAGAIN &&
	       (!deadline_ns || upreempt_now() < deadline_ns))
		nanosleep(&ms, NULL);
	if (ret == -ESRCH || (!ret && e.outcome == UPREEMPT_GONE)) {
		finish(t);
		r->gone++;
		return;
	}
	if (ret || e.outcome == UPREEMPT_UNSAFE || e.outcome == UPREEMPT_CANCELLED) {
		if (upreempt_handshake_claim(t)) {
			finish(t);
			/* A STOP that came after the deadline has seen nothing. */
			if (e.reason == UPREEMPT_R_NOT_RUN && before->reason)
				e = *before;
			unfinished(r, t, e.reason ? e.reason : UPREEMPT_R_NOT_RUN, e.regs.rip);
		} else {
			r->self++;
		}
		return;
	}
	s.outcome = e.outcome;
	s.frame = e.frame;
	s.sp = e.regs.rsp;
	s.regs = e.regs;
	if (upreempt_handshake_claim(t)) {
		t->hs.fn(t, &s, t->hs.arg);
		finish(t);
		r->proxy++;
	}
	upreempt_release(t, e.seq);
}

static void collect(struct upreempt_thread *t, uint64_t deadline_ns,
		    struct upreempt_handshake *r)
{
	struct upreempt_event e = { .outcome = UPREEMPT_UNSAFE };

	if (t->hs.seq)
		upreempt_wait(t, t->hs.seq, 0, &e);
	if (e.outcome != UPREEMPT_LANDED && e.outcome != UPREEMPT_COOPERATED) {
		by_proxy(t, deadline_ns, &e, r);
		return;
	}
	if (!wait_idle(t, deadline_ns)) {
		if (upreempt_handshake_claim(t)) {
			finish(t);
			unfinished(r, t, UPREEMPT_R_NOT_RUN, e.regs.rip);
		} else {
			unfinished(r, t, UPREEMPT_R_NONE, e.regs.rip);
		}
	} else if (__atomic_load_n(&t->gone, __ATOMIC_ACQUIRE) && upreempt_handshake_claim(t)) {
		finish(t);
		r->gone++;
	} else {
		r->self++;
	}
}

static void ask(struct upreempt_thread *t, upreempt_handshake_fn fn, void *arg,
		uint64_t deadline_ns, bool redirect)
{
	struct upreempt_request_opts o = {
		.size = sizeof(o), .kind = UPREEMPT_REDIRECT, .flags = UPREEMPT_REQ_OR_BLOCKED,
		.cookie = upreempt_handshake_cookie(t), .deadline_ns = deadline_ns,
	};

	t->hs.fn = fn;
	t->hs.arg = arg;
	__atomic_store_n(&t->hs.state, HS_POSTED, __ATOMIC_RELEASE);
	t->hs.asked = true;
	t->hs.seq = 0;
	if (redirect && upreempt_post(t, &o, &t->hs.seq))
		t->hs.seq = 0;
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

static void run_here(struct upreempt_thread *self, upreempt_handshake_fn fn, void *arg)
{
	struct upreempt_snapshot s = {
		.size = sizeof(s), .outcome = UPREEMPT_COOPERATED,
		.sp = (uintptr_t)__builtin_frame_address(0), .hi = self->stack_hi,
	};

	fn(self, &s, arg);
}

static void run(struct upreempt_thread *all, upreempt_handshake_fn fn, void *arg,
		uint64_t deadline_ns, bool stopped, struct upreempt_handshake *r)
{
	struct upreempt_thread *self = upreempt_self, *t;

	/* In a stopped world nobody lands: the caller runs it for all. */
	for (t = all; t; t = t->hs.next) {
		t->hs.asked = false;
		if (t == self)
			continue;
		/* an earlier handshake's function has not returned yet */
		if (!wait_idle(t, deadline_ns)) {
			unfinished(r, t, UPREEMPT_R_NONE, 0);
			continue;
		}
		/* What keeps its vector registers in place takes its own handler only. */
		ask(t, fn, arg, deadline_ns, !stopped && t->handler &&
		    !(t->flags & UPREEMPT_THREAD_NO_XSAVE));
	}
	for (t = all; t; t = t->hs.next) {
		if (t == self) {
			run_here(t, fn, arg);
			r->self++;
		} else if (t->hs.asked) {
			collect(t, deadline_ns, r);
		}
	}
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
	struct upreempt_handshake r = { .size = sizeof(r) };
	struct upreempt_thread *all, *t;
	int ret;

	if (!d || !fn || (report && report->size < sizeof(r)))
		return -EINVAL;
	if (d->generation != upreempt_generation)
		return -EPERM;
	ret = take_turn(d, deadline_ns);
	if (ret)
		return ret;
	all = threads_now(d, &r.threads);
	run(all, fn, arg, deadline_ns, upreempt_is_stopper(d), &r);
	while ((t = all)) {
		all = t->hs.next;
		upreempt_thread_exit(t);
	}
	__atomic_store_n(&d->hs_lock, 0, __ATOMIC_RELEASE);
	up_futex_wake(&d->hs_lock, 1);
	if (report)
		memcpy(report, &r, sizeof(r));
	return (int)r.unfinished;
}
