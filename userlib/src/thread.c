// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Threads: registering the calling one, letting it go, its handle. */
#include "backend.h"
#include "arch/x86_64/frame.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KNOWN_THREAD_FLAGS	(UPREEMPT_THREAD_NO_XSAVE | UPREEMPT_THREAD_KERNEL_RESUME | \
				 UPREEMPT_THREAD_NO_STACK_CHECK)
#define DEFAULT_HANDLER_STACK	4096
#define MAX_HANDLER_STACK	(1U << 30)
#define RUN_STACK		512	/* upreempt_landing_run() and what it calls */

static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;
static int exit_error;

static void at_thread_exit(void *t)
{
	if (upreempt_self == t)
		upreempt_thread_detach(t);
}

static void make_key(void)
{
	exit_error = -pthread_key_create(&exit_key, at_thread_exit);
}

/* Of the calling thread's contexts, is one still above it on this stack? */
bool upreempt_in_handler(const struct upreempt_thread *t)
{
	return t->top && (char *)__builtin_frame_address(0) < (char *)t->top;
}

static void bury(struct upreempt_domain *d, struct upreempt_thread *t)
{
	t->next = NULL;
	*d->dead_end = t;
	d->dead_end = &t->next;
	d->nr_dead++;
}

static void unlink_handle(struct upreempt_domain *d, struct upreempt_thread *t)
{
	*t->pprev = t->next;
	if (t->next)
		t->next->pprev = t->pprev;
	bury(d, t);
}

int upreempt_thread_detach(struct upreempt_thread *t)
{
	struct upreempt_domain *d = t->domain;
	bool open = !__atomic_load_n(&d->closed, __ATOMIC_ACQUIRE);
	int ret;

	up_lock(&d->lock);		/* no upreempt_defer() is half way */
	__atomic_store_n(&t->gone, 1, __ATOMIC_SEQ_CST);
	t->leaving = true;
	up_unlock(&d->lock);
	upreempt_run_actions(t);
	upreempt_world_abandon(d);
	ret = d->ops->remove(t, open);
	pthread_setspecific(exit_key, NULL);
	up_lock(&d->lock);
	unlink_handle(d, t);
	up_unlock(&d->lock);
	upreempt_domain_put(d);
	return ret;
}

/* Bounds of the calling thread's stack */
static int own_stack(struct upreempt_register *r)
{
	pthread_attr_t attr;
	size_t size;
	void *addr;
	int ret = pthread_getattr_np(pthread_self(), &attr);

	if (ret)
		return -ret;
	ret = pthread_attr_getstack(&attr, &addr, &size);
	pthread_attr_destroy(&attr);
	if (ret)
		return -ret;
	r->stack_lo = (uintptr_t)addr;
	r->stack_hi = (uintptr_t)addr + size;
	return 0;
}

static int fill_stack(struct upreempt_register *r, const struct upreempt_thread_opts *o)
{
	if (o->flags & UPREEMPT_THREAD_NO_STACK_CHECK)
		return o->stack_lo || o->stack_hi ? -EINVAL : 0;
	if (!o->stack_lo && !o->stack_hi)
		return own_stack(r);
	if (o->stack_lo >= o->stack_hi)
		return -EINVAL;
	r->stack_lo = (uintptr_t)o->stack_lo;
	r->stack_hi = (uintptr_t)o->stack_hi;
	return 0;
}

static int fill_register(struct upreempt_thread *t, struct upreempt_register *r,
			 const struct upreempt_thread_opts *o)
{
	uint32_t stack = o->handler_stack ? o->handler_stack : DEFAULT_HANDLER_STACK;
	int ret;

	memset(r, 0, sizeof(*r));
	r->size = sizeof(*r);
	r->slot = UPREEMPT_ANY_SLOT;
	if (stack > MAX_HANDLER_STACK)
		return -EINVAL;
	if (!o->handler)
		return fill_stack(r, o);
	r->landing = (uintptr_t)upreempt_landing;
	r->landing_end = (uintptr_t)upreempt_landing_end;
	r->arg = (uintptr_t)t;
	r->stack_need = FRAME_BYTES + RUN_STACK + stack;
	if (!(o->flags & UPREEMPT_THREAD_NO_XSAVE))
		r->stack_need += upreempt_xs.size_all + 64;
	ret = fill_stack(r, o);
	if (!ret && r->stack_hi && r->stack_need > r->stack_hi - r->stack_lo)
		return -EINVAL;
	return ret;
}

/* A handle: the oldest dead one when enough of them lie between, else a new one */
static struct upreempt_thread *new_handle(struct upreempt_domain *d)
{
	struct upreempt_thread *t = NULL;

	up_lock(&d->lock);
	if (d->nr_dead > DEAD_HANDLES) {
		t = d->dead;
		d->dead = t->next;
		d->nr_dead--;
		/* Somebody is still in a call on it: to the end of the queue */
		if (__atomic_load_n(&t->users, __ATOMIC_ACQUIRE)) {
			bury(d, t);
			t = NULL;
		}
	}
	up_unlock(&d->lock);
	if (!t) {
		t = calloc(1, sizeof(*t));
		if (t)
			t->gone = 1;
		return t;
	}
	/* gone stays 1 for those who come late, until it is complete again */
	t->top = NULL;
	t->muted = 0;
	t->leaving = false;
	t->hs.state = HS_IDLE;
	t->kflags = 0;
	return t;
}

static int check_register(struct upreempt_domain *d, const struct upreempt_thread_opts *o)
{
	if (d->generation != upreempt_generation)
		return -EPERM;
	if (__atomic_load_n(&d->closed, __ATOMIC_ACQUIRE) || o->flags & ~KNOWN_THREAD_FLAGS)
		return -EINVAL;
	if (upreempt_self) {
		/* of a domain that was closed meanwhile: let it go now */
		if (!__atomic_load_n(&upreempt_self->domain->closed, __ATOMIC_ACQUIRE) ||
		    upreempt_in_handler(upreempt_self))
			return -EEXIST;
		upreempt_thread_detach(upreempt_self);
	}
	pthread_once(&exit_once, make_key);
	return exit_error;
}

static void link_handle(struct upreempt_domain *d, struct upreempt_thread *t)
{
	struct upreempt_thread *other, *next;

	up_lock(&d->lock);
	/* A thread that died without its exit hooks left a handle for this slot. */
	for (other = d->live; other; other = next) {
		next = other->next;
		/* One that is leaving has given its slot back and unlinks itself. */
		if (other->index != t->index || other->leaving)
			continue;
		__atomic_store_n(&other->gone, 1, __ATOMIC_RELEASE);
		unlink_handle(d, other);
		__atomic_sub_fetch(&d->refs, 1, __ATOMIC_RELAXED);
	}
	t->serial = ++d->serial;
	t->next = d->live;
	t->pprev = &d->live;
	if (d->live)
		d->live->pprev = &t->next;
	d->live = t;
	__atomic_add_fetch(&d->refs, 1, __ATOMIC_RELAXED);
	up_unlock(&d->lock);
}

int upreempt_thread_register(struct upreempt_domain *d, const struct upreempt_thread_opts *opts,
			     struct upreempt_thread **thread)
{
	struct upreempt_thread_opts o;
	struct upreempt_register r;
	struct upreempt_thread *t;
	bool shadow;
	int ret;

	if (!d)
		return -EINVAL;
	ret = upreempt_copy_opts(&o, sizeof(o), opts);
	if (!ret)
		ret = check_register(d, &o);
	if (ret)
		return ret;
	shadow = upreempt_shadow_stack();
	if (shadow && o.handler && d->backend == UPREEMPT_BACKEND_SIGNAL) {
		upreempt_log(0, "user shadow stacks are on: the signal backend cannot resume a "
			     "redirected thread; load the module, or run with "
			     "GLIBC_TUNABLES=glibc.cpu.x86_shstk=off");
		return -EOPNOTSUPP;
	}
	t = new_handle(d);
	if (!t)
		return -ENOMEM;
	t->domain = d;
	t->handler = o.handler;
	t->arg = o.arg;
	t->flags = o.flags;
	t->fd = d->fd;
	t->signo = d->signo;
	t->tid = syscall(SYS_gettid);
	t->pid = getpid();
	if (d->backend == UPREEMPT_BACKEND_KMOD)
		t->kflags = KRESUME_CAN;
	if (t->kflags && (shadow || o.flags & UPREEMPT_THREAD_KERNEL_RESUME))
		t->kflags |= KRESUME_ALWAYS;
	ret = fill_register(t, &r, &o);
	t->stack_lo = r.stack_lo;
	t->stack_hi = r.stack_hi;
	if (!ret)
		ret = d->ops->add(t, &r);
	if (ret) {
		up_lock(&d->lock);
		bury(d, t);
		up_unlock(&d->lock);
		return ret;
	}
	/* From here on we may be stopped, but not with the lock that linking takes. */
	upreempt_slot_self = t->slot;
	link_handle(d, t);
	upreempt_self = t;
	__atomic_store_n(&t->gone, 0, __ATOMIC_RELEASE);
	if (pthread_setspecific(exit_key, t)) {
		upreempt_thread_detach(t);
		return -ENOMEM;
	}
	if (thread)
		*thread = t;
	/* A stop of the world that began meanwhile may not have seen us. */
	d->ops->poll(t);
	return 0;
}

int upreempt_thread_unregister(struct upreempt_thread *t)
{
	if (!t)
		return -EINVAL;
	if (upreempt_self != t)
		return -EPERM;
	if (upreempt_in_handler(t) || upreempt_is_stopper(t->domain))
		return -EBUSY;
	return upreempt_thread_detach(t);
}

struct upreempt_thread *upreempt_thread_self(void)
{
	struct upreempt_thread *t = upreempt_self;

	return t && !__atomic_load_n(&t->gone, __ATOMIC_RELAXED) ? t : NULL;
}

pid_t upreempt_thread_tid(const struct upreempt_thread *t)
{
	return t->tid;
}

uint32_t upreempt_thread_slot(const struct upreempt_thread *t)
{
	return t->index;
}

void upreempt_thread_set_enabled(struct upreempt_thread *t, bool enabled)
{
	if (upreempt_thread_usable(t) && !__atomic_load_n(&t->gone, __ATOMIC_ACQUIRE))
		__atomic_store_n(&t->slot->off, !enabled, __ATOMIC_SEQ_CST);
}

int upreempt_thread_stats(struct upreempt_thread *t, struct upreempt_stats *stats)
{
	if (!upreempt_thread_usable(t))
		return -EPERM;
	if (__atomic_load_n(&t->gone, __ATOMIC_ACQUIRE))
		return -ESRCH;
	memset(stats, 0, sizeof(*stats));
	stats->size = sizeof(*stats);
	stats->slot = t->index;
	return t->domain->ops->stats(t->domain, t, stats);
}
