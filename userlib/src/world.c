// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Stopping the world: what is the same for both backends; the rest: kmod/world.c, signal_world.c */
#include "backend.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOOSE_NS	20000000
#define KNOWN_WORLD_FLAGS (UPREEMPT_WORLD_ALL | UPREEMPT_WORLD_REGISTERED | UPREEMPT_WORLD_TRY)

int upreempt_world_stop(struct upreempt_domain *d, const struct upreempt_world_opts *opts,
			struct upreempt_world *report)
{
	struct upreempt_world own = { 0 }, *r = report ? report : &own;
	struct upreempt_world_opts o;
	int ret;

	if (!d)
		return -EINVAL;
	if (d->generation != upreempt_generation)
		return -EPERM;
	ret = upreempt_copy_opts(&o, sizeof(o), opts);
	if (ret)
		return ret;
	if (o.flags & ~KNOWN_WORLD_FLAGS)
		return -EINVAL;
	ret = upreempt_strategies_check(d, o.strategies, o.steps);
	if (ret)
		return ret;
	memset(r, 0, sizeof(*r));
	r->size = sizeof(*r);
	r->flags = o.flags;
	r->strategies = o.strategies;
	r->steps = o.steps;
	r->grace_ns = o.grace_ns;
	r->deadline_ns = o.deadline_ns;
	ret = d->ops->world_stop(d, r);
	if (ret)
		return ret;
	d->depth = r->depth;
	d->late = r->stragglers;
	__atomic_store_n(&d->stopper, (pid_t)upreempt_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0),
			 __ATOMIC_RELAXED);
	return (int)r->stragglers;
}

bool upreempt_is_stopper(const struct upreempt_domain *d)
{
	pid_t stopper = __atomic_load_n(&d->stopper, __ATOMIC_RELAXED);

	return stopper && stopper == (pid_t)upreempt_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

void upreempt_world_abandon(struct upreempt_domain *d)
{
	while (upreempt_is_stopper(d))
		upreempt_world_start(d);
}

int upreempt_world_start(struct upreempt_domain *d)
{
	if (!d)
		return -EINVAL;
	if (d->generation != upreempt_generation)
		return -EPERM;
	/* Before: afterwards another thread may have stopped it. */
	if (upreempt_is_stopper(d) && !--d->depth)
		__atomic_store_n(&d->stopper, 0, __ATOMIC_RELAXED);
	return d->ops->world_start(d);
}

/* symbol+offset of a code address, or the address */
static void place(uint64_t rip, char *text, size_t size)
{
	Dl_info info;

	if (!dladdr((void *)(uintptr_t)rip, &info) || !info.dli_fname)
		snprintf(text, size, "0x%llx", (unsigned long long)rip);
	else if (info.dli_sname)
		snprintf(text, size, "%s+0x%llx", info.dli_sname,
			 (unsigned long long)(rip - (uintptr_t)info.dli_saddr));
	else
		snprintf(text, size, "%s+0x%llx", strrchr(info.dli_fname, '/') ?
			 strrchr(info.dli_fname, '/') + 1 : info.dli_fname,
			 (unsigned long long)(rip - (uintptr_t)info.dli_fbase));
}

static uint64_t us(uint64_t to, uint64_t from)
{
	return to > from ? (to - from) / 1000 : 0;
}

int upreempt_world_format(const struct upreempt_world *r, char *text, size_t size)
{
	const struct upreempt_world_thread *s = &r->slowest;
	char who[160] = "", where[96];

	if (s->tid || s->reason) {
		place(s->rip, where, sizeof(where));
		snprintf(who, sizeof(who), "; %s %s[%u] at %s, %llu us%s%s",
			 r->stragglers ? "late:" : "slowest:", s->comm, s->tid, where,
			 (unsigned long long)s->ns / 1000, s->reason ? ", " : "",
			 s->reason ? upreempt_reason_name(s->reason) : "");
	}
	return snprintf(text, size, "%u threads in %llu us: %u landed, %u preempted, "
			"%u cooperated, %u blocked, %u late, %u unregistered; %u %s, "
			"sent after %llu us, answered after %llu us, first stood after %llu us, "
			"last after %llu us%s", r->threads,
			(unsigned long long)us(r->final_ns, r->request_ns), r->landed,
			r->preempted, r->cooperated, r->blocked, r->stragglers, r->unregistered,
			r->ipis, r->flags & UPREEMPT_WORLD_SIGNALS ? "signals" : "IPIs",
			(unsigned long long)us(r->sent_ns, r->request_ns),
			(unsigned long long)us(r->acked_ns, r->request_ns),
			(unsigned long long)us(r->first_ns, r->request_ns),
			(unsigned long long)us(r->last_ns, r->request_ns), who);
}

int upreempt_thread_context(struct upreempt_thread *t, struct upreempt_snapshot *snapshot)
{
	struct upreempt_request_opts o = { .size = sizeof(o), .kind = UPREEMPT_SAMPLE };
	bool held, loose;
	struct upreempt_snapshot s = { .size = sizeof(s) };
	struct upreempt_event e;
	int ret;

	if (!t || !snapshot || snapshot->size < sizeof(s))
		return -EINVAL;
	held = __atomic_load_n(&t->slot->held, __ATOMIC_ACQUIRE);
	if (!held && !upreempt_is_stopper(t->domain))
		return -EBUSY;
	/* A straggler would give a sample, too, but does not stand. It takes no STOP. */
	loose = !held && t->domain->late;
	if (loose) {
		o.kind = UPREEMPT_STOP;
		o.deadline_ns = upreempt_deadline(LOOSE_NS);
	}
	ret = upreempt_request(t, &o, &e);
	if (ret)
		return ret == -EDEADLK ? -EBUSY : ret;
	if (e.outcome == UPREEMPT_GONE)
		return -ESRCH;
	if (!e.frame)
		return -EBUSY;
	if (loose)
		upreempt_release(t, e.seq);
	s.outcome = e.outcome;
	s.frame = e.frame;
	s.sp = e.regs.rsp;
	s.hi = t->stack_hi;
	s.regs = e.regs;
	s.size = snapshot->size;
	memcpy(snapshot, &s, sizeof(s));
	return 0;
}

int upreempt_thread_xstate(struct upreempt_thread *t, void *area, size_t *size)
{
	struct upreempt_xstate x = { .size = sizeof(x), .address = (uintptr_t)area };
	int ret;

	if (!t || !size || (!area && *size))
		return -EINVAL;
	if (!__atomic_load_n(&t->slot->held, __ATOMIC_ACQUIRE) && !upreempt_is_stopper(t->domain))
		return -EBUSY;
	x.room = *size < UINT32_MAX ? *size : UINT32_MAX;
	ret = upreempt_thread_enter(t);
	if (ret)
		return ret;
	do {
		ret = t->domain->ops->xstate(t, &x);
	} while (ret == -EINTR);
	upreempt_thread_exit(t);
	if (!ret || ret == -ENOSPC)
		*size = x.bytes;
	return ret;
}

int upreempt_domain_threads(struct upreempt_domain *d,
			    int (*fn)(struct upreempt_thread *t, void *arg), void *arg)
{
	struct upreempt_thread *t, *some[64];
	uint64_t before = UINT64_MAX;
	size_t n, i;
	int ret = 0;

	if (!d || !fn)
		return -EINVAL;
	if (d->generation != upreempt_generation)
		return -EPERM;
	/*
	 * Not under the lock: fn may make system calls, where a thread is stopped
	 * whatever it holds. The list is in the order of serials, the newest first.
	 */
	do {
		n = 0;
		up_lock(&d->lock);
		for (t = d->live; t && n < 64; t = t->next)
			if (t->serial < before && !__atomic_load_n(&t->gone, __ATOMIC_ACQUIRE) &&
			    !upreempt_thread_enter(t))
				some[n++] = t;
		up_unlock(&d->lock);
		for (i = 0; i < n; i++) {
			before = some[i]->serial;
			if (!ret)
				ret = fn(some[i], arg);
			upreempt_thread_exit(some[i]);
		}
	} while (n == 64 && !ret);
	return ret;
}
