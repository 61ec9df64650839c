// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Requests: what is the same for both backends. */
#include "backend.h"
#include <upreempt_table.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The handle is in use: it will not become another thread's. */
static int enter(struct upreempt_thread *t)
{
	if (!t)
		return -EINVAL;
	if (!upreempt_thread_usable(t))
		return -EPERM;
	__atomic_add_fetch(&t->users, 1, __ATOMIC_ACQ_REL);
	return 0;
}

static int leave(struct upreempt_thread *t, int ret)
{
	__atomic_sub_fetch(&t->users, 1, __ATOMIC_RELEASE);
	return ret;
}

int upreempt_thread_enter(struct upreempt_thread *t)
{
	return enter(t);
}

void upreempt_thread_exit(struct upreempt_thread *t)
{
	leave(t, 0);
}

int upreempt_strategies_check(const struct upreempt_domain *d, uint32_t strategies, uint32_t steps)
{
	if (!upreempt_strategies_fit(strategies, steps))
		return -EINVAL;
	return strategies & ~d->ops->strategies ? -EOPNOTSUPP : 0;
}

static int check(struct upreempt_thread *t, const struct upreempt_request_opts *opts,
		 struct upreempt_request_opts *o)
{
	int ret = opts ? upreempt_copy_opts(o, sizeof(*o), opts) : -EINVAL;

	if (ret)
		return ret;
	if (o->flags & ~KNOWN_REQ_FLAGS)
		return -EINVAL;
	if (o->kind < UPREEMPT_SAMPLE || o->kind >= UPREEMPT_KIND_MAX)
		return -EINVAL;
	if (o->flags & UPREEMPT_REQ_OR_BLOCKED && o->kind != UPREEMPT_REDIRECT)
		return -EINVAL;
	if (!upreempt_table_flags_fit(o->flags, o->kind))
		return -EINVAL;
	ret = upreempt_strategies_check(t->domain, o->strategies, o->steps);
	if (ret)
		return ret;
	if (__atomic_load_n(&t->gone, __ATOMIC_ACQUIRE))
		return -ESRCH;
	if (o->kind == UPREEMPT_REDIRECT && !t->handler)
		return -EOPNOTSUPP;
	if (o->kind == UPREEMPT_STOP && t == upreempt_self)
		return -EDEADLK;
	return 0;
}

int upreempt_request(struct upreempt_thread *t, const struct upreempt_request_opts *opts,
		     struct upreempt_event *event)
{
	struct upreempt_request_opts o;
	struct upreempt_event unused;
	int ret = enter(t);

	if (ret)
		return ret;
	ret = check(t, opts, &o);
	if (!ret)
		ret = t->domain->ops->request(t, &o, event ? event : &unused);
	return leave(t, ret);
}

int upreempt_post(struct upreempt_thread *t, const struct upreempt_request_opts *opts,
		  uint64_t *seq)
{
	struct upreempt_request_opts o;
	uint64_t unused;
	int ret = enter(t);

	if (ret)
		return ret;
	ret = check(t, opts, &o);
	if (!ret)
		ret = t->domain->ops->post(t, &o, seq ? seq : &unused);
	return leave(t, ret);
}

int upreempt_wait(struct upreempt_thread *t, uint64_t seq, uint64_t deadline_ns,
		  struct upreempt_event *event)
{
	struct upreempt_event unused;
	int ret = enter(t);

	if (ret)
		return ret;
	return leave(t, t->domain->ops->wait(t, seq, deadline_ns, event ? event : &unused));
}

int upreempt_cancel(struct upreempt_thread *t, uint64_t seq)
{
	int ret = enter(t);

	return ret ? ret : leave(t, t->domain->ops->cancel(t, seq));
}

int upreempt_release(struct upreempt_thread *t, uint64_t seq)
{
	int ret = enter(t);

	return ret ? ret : leave(t, t->domain->ops->release(t, seq));
}

/* The outcome of a thread that could not be asked, or whose answer got lost */
static void no_answer(struct upreempt_event *e, const struct upreempt_thread *t,
		      const struct upreempt_request_opts *o, int error)
{
	memset(e, 0, sizeof(*e));
	e->cookie = o->cookie;
	e->kind = o->kind;
	e->outcome = error == -ESRCH || error == -ENOENT ? UPREEMPT_GONE : UPREEMPT_UNSAFE;
	e->request_ns = e->final_ns = upreempt_now();
	if (t) {
		e->slot = t->index;
		e->tid = t->tid;
	}
}

static int ask_many(struct upreempt_thread *const *threads, size_t n,
		    const struct upreempt_request_opts *o, struct upreempt_event *events)
{
	int landed = 0, ret;
	uint64_t seq;
	size_t i;

	for (i = 0; i < n; i++) {
		seq = 0;
		ret = upreempt_post(threads[i], o, &seq);
		events[i].seq = seq;
		if (ret)
			no_answer(&events[i], threads[i], o, ret);
	}
	for (i = 0; i < n; i++) {
		if (events[i].seq) {
			ret = upreempt_wait(threads[i], events[i].seq, 0, &events[i]);
			if (ret)
				no_answer(&events[i], threads[i], o, ret);
		}
		landed += events[i].outcome == UPREEMPT_LANDED ||
			  events[i].outcome == UPREEMPT_COOPERATED ||
			  events[i].outcome == UPREEMPT_BLOCKED;
	}
	return landed;
}

int upreempt_request_many(struct upreempt_thread *const *threads, size_t n,
			  const struct upreempt_request_opts *opts, struct upreempt_event *events)
{
	struct upreempt_request_opts o;
	struct upreempt_event *own = NULL;
	int ret = opts ? upreempt_copy_opts(&o, sizeof(o), opts) : -EINVAL;

	if (ret)
		return ret;
	/* Each outcome is awaited here: the ring would take it away. */
	if (o.flags & ~KNOWN_REQ_FLAGS || o.flags & UPREEMPT_REQ_RING || n > INT32_MAX)
		return -EINVAL;
	if (o.kind < UPREEMPT_SAMPLE || o.kind >= UPREEMPT_KIND_MAX)
		return -EINVAL;
	if (!events && n) {
		events = own = calloc(n, sizeof(*own));
		if (!own)
			return -ENOMEM;
	}
	ret = ask_many(threads, n, &o, events);
	free(own);
	return ret;
}
