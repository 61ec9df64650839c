// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* The backend that is the kernel module: each operation is an ioctl on /dev/upreempt. */
#include "backend.h"
#include "arch/x86_64/frame.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_STOPS	64

/* stops: those that may hold the thread, so that closing the domain can release them */
struct kmod_thread {
	uint64_t id;			/* of the registration: a slot may have another owner */
	uint64_t stops[MAX_STOPS];
};

int upreempt_kmod_probe(struct upreempt_query *q, char *why, size_t why_size)
{
	int fd = open(UPREEMPT_DEVICE, O_RDWR | O_CLOEXEC), ret;

	if (fd < 0) {
		ret = -errno;
		if (ret == -ENOENT || ret == -ENXIO || ret == -ENODEV)
			snprintf(why, why_size, "no module: %s is absent (insmod upreempt.ko)",
				 UPREEMPT_DEVICE);
		else if (ret == -EACCES || ret == -EPERM)
			snprintf(why, why_size, "%s may not be opened by this user: change its "
				 "mode or group, or the module's parameter device_mode",
				 UPREEMPT_DEVICE);
		else
			snprintf(why, why_size, "cannot open %s: %s", UPREEMPT_DEVICE,
				 strerror(-ret));
		return ret;
	}
	memset(q, 0, sizeof(*q));
	q->size = sizeof(*q);
	if (ioctl(fd, UPREEMPT_IOC_QUERY, q)) {
		ret = errno == ENOTTY || errno == EINVAL || errno == E2BIG ? -EPROTO : -errno;
		snprintf(why, why_size, "%s does not answer QUERY (%s): another device, or a "
			 "module of another version; insmod this library's upreempt.ko",
			 UPREEMPT_DEVICE, strerror(errno));
		close(fd);
		return ret;
	}
	if (q->abi_version != UPREEMPT_ABI_VERSION) {
		snprintf(why, why_size, "the module speaks ABI %u, this library ABI %u: %s",
			 q->abi_version, UPREEMPT_ABI_VERSION,
			 q->abi_version < UPREEMPT_ABI_VERSION ? "load the newer upreempt.ko" :
			 "install the newer libupreempt");
		close(fd);
		return -EPROTO;
	}
	snprintf(why, why_size, "the module is loaded, ABI %u", q->abi_version);
	return fd;
}

static int kmod_open(struct upreempt_domain *d, const struct upreempt_domain_opts *o)
{
	struct upreempt_query q;
	struct upreempt_setup setup = {
		.size = sizeof(setup),
		.flags = o->flags & UPREEMPT_DOMAIN_DECLARED ? UPREEMPT_SETUP_DECLARED : 0,
		.nr_slots = o->slots,
		.nr_events = o->events,
	};
	char why[160];
	void *map;
	int ret, fd = upreempt_kmod_probe(&q, why, sizeof(why));

	if (fd < 0) {
		upreempt_log(0, "%s", why);
		return fd == -ENXIO || fd == -ENODEV ? -ENOENT : fd == -EPERM ? -EACCES : fd;
	}
	if (ioctl(fd, UPREEMPT_IOC_SETUP, &setup)) {
		ret = -errno;
		upreempt_log(0, "SETUP of %u slots, %u events: %s (the module takes up to %u, %u)",
			     o->slots, o->events, strerror(-ret), q.max_slots, q.max_events);
		goto close_fd;
	}
	map = mmap(NULL, setup.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		ret = -errno;
		upreempt_log(0, "mapping %s: %s", UPREEMPT_DEVICE, strerror(-ret));
		goto close_fd;
	}
	d->fd = fd;
	d->header = map;
	return 0;

close_fd:
	close(fd);
	return ret;
}

static struct upreempt_slot *slot_at(struct upreempt_domain *d, uint32_t index)
{
	return (struct upreempt_slot *)((char *)d->header + d->header->slots_off +
					(size_t)index * d->header->slot_size);
}

/*
 * Wait a moment until no REDIRECT is on its way to any thread: one that lands
 * after the memory was taken away would find no registers. And until none is on
 * its way into the gate, which lies in that memory.
 */
static bool quiet(struct upreempt_domain *d)
{
	struct timespec ms = { 0, 1000000 };
	struct upreempt_thread *t;
	int tries;

	for (tries = 0; tries < 50; tries++) {
		for (t = d->live; t; t = t->next)
			if (__atomic_load_n(&t->slot->pending, __ATOMIC_SEQ_CST) ||
			    __atomic_load_n(&t->slot->at_gate, __ATOMIC_SEQ_CST) ||
			    __atomic_load_n(&t->slot->busy, __ATOMIC_SEQ_CST))
				break;
		if (!t)
			return true;
		nanosleep(&ms, NULL);
	}
	return false;
}

static void release_all(struct upreempt_domain *d, struct upreempt_thread *t)
{
	struct upreempt_ref ref = { .size = sizeof(ref), .slot = t->index };
	int i;

	for (i = 0; i < MAX_STOPS; i++) {
		ref.seq = __atomic_exchange_n(&t->kmod->stops[i], 0, __ATOMIC_ACQ_REL);
		if (ref.seq)
			ioctl(d->fd, UPREEMPT_IOC_RELEASE, &ref);
	}
}

/*
 * Memory that takes the mapping's place in one step: between any two instructions of a
 * thread its slot is there, and slot.trigger names what can be read.
 */
static void replace_memory(struct upreempt_domain *d)
{
	uint64_t size = d->header->mmap_size;
	char *new = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct upreempt_thread *t;
	struct upreempt_slot *slot;

	if (new == MAP_FAILED)
		return;
	memcpy(new, d->header, sizeof(*d->header));
	for (t = d->live; t; t = t->next) {
		slot = (void *)(new + ((char *)t->slot - (char *)d->header));
		slot->trigger = (uintptr_t)t->slot;
	}
	if (mremap(new, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, d->header) == MAP_FAILED)
		munmap(new, size);
}

/*
 * The registrations end with the file, and the mapping holds the file. Threads
 * that are still registered may touch their slots (the inline functions do), so
 * anonymous memory takes the mapping's place. Where a request cannot be waited
 * for, the mapping stays until the threads let go; handlers are muted.
 */
static void kmod_close(struct upreempt_domain *d)
{
	struct upreempt_thread *t;

	__atomic_store_n(&d->header->off, 1, __ATOMIC_SEQ_CST);
	for (t = d->live; t; t = t->next)
		release_all(d, t);
	if (!d->live || quiet(d))
		replace_memory(d);
	else
		upreempt_log(1, "closing a domain with threads that a request waits for: "
			     "its memory stays until they exit");
	close(d->fd);
	d->fd = -1;
}

static void kmod_free(struct upreempt_domain *d)
{
	munmap(d->header, d->header->mmap_size);
}

static int kmod_add(struct upreempt_thread *t, const struct upreempt_register *r)
{
	struct upreempt_domain *d = t->domain;
	struct upreempt_register reg;
	uint32_t i;

	if (!t->kmod)
		t->kmod = calloc(1, sizeof(*t->kmod));
	if (!t->kmod)
		return -ENOMEM;
	memset(t->kmod->stops, 0, sizeof(t->kmod->stops));
	/* The slot is chosen here: a landing needs t->slot from the first moment on. */
	for (i = 0; i < d->header->nr_slots; i++) {
		t->slot = slot_at(d, i);
		t->index = i;
		if (__atomic_load_n(&t->slot->tid, __ATOMIC_ACQUIRE))
			continue;
		reg = *r;
		reg.slot = i;
		if (!ioctl(d->fd, UPREEMPT_IOC_REGISTER, &reg)) {
			t->kmod->id = reg.id;
			return 0;
		}
		if (errno != EBUSY)
			break;
	}
	if (i == d->header->nr_slots)
		return -ENOSPC;
	upreempt_log(0, "REGISTER: %s", strerror(errno));
	return -errno;
}

static int kmod_remove(struct upreempt_thread *t, bool open)
{
	struct upreempt_ref ref = { .size = sizeof(ref), .slot = t->index };

	/* Before another thread may get the slot */
	upreempt_self = NULL;
	upreempt_slot_self = &upreempt_slot_dummy;
	if (open && ioctl(t->domain->fd, UPREEMPT_IOC_UNREGISTER, &ref))
		upreempt_log(1, "UNREGISTER: %s", strerror(errno));
	return 0;
}

static void remember_stop(struct upreempt_thread *t, uint64_t seq)
{
	uint64_t none;
	int i;

	for (i = 0; i < MAX_STOPS; i++) {
		none = 0;
		if (__atomic_compare_exchange_n(&t->kmod->stops[i], &none, seq, false,
						__ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return;
	}
}

static void forget_stop(struct upreempt_thread *t, uint64_t seq)
{
	uint64_t is;
	int i;

	for (i = 0; i < MAX_STOPS; i++) {
		is = seq;
		if (__atomic_compare_exchange_n(&t->kmod->stops[i], &is, 0, false,
						__ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return;
	}
}

/* A request that ended otherwise than holding the thread need not be released. */
static bool holds(const struct upreempt_event *e)
{
	return e->kind == UPREEMPT_STOP && (e->outcome == UPREEMPT_LANDED ||
					    e->outcome == UPREEMPT_BLOCKED ||
					    e->outcome == UPREEMPT_COOPERATED);
}

static int kmod_wait(struct upreempt_thread *t, uint64_t seq, uint64_t deadline_ns,
		     struct upreempt_event *event)
{
	struct upreempt_wait w;

	do {
		memset(&w, 0, sizeof(w));
		w.size = sizeof(w);
		w.slot = t->index;
		w.seq = seq;
		w.deadline_ns = deadline_ns;
		if (!ioctl(t->domain->fd, UPREEMPT_IOC_WAIT, &w)) {
			*event = w.event;
			if (event->kind == UPREEMPT_STOP && !holds(event))
				forget_stop(t, seq);
			return 0;
		}
	} while (errno == EINTR);
	return -errno;
}

static void fill_request(struct upreempt_request *rq, const struct upreempt_thread *t,
			 const struct upreempt_request_opts *o, uint32_t flags)
{
	/* Without the event: that is the answer. */
	memset(rq, 0, offsetof(struct upreempt_request, event));
	rq->size = sizeof(*rq);
	rq->flags = o->flags | flags;
	rq->kind = o->kind;
	rq->slot = t->index;
	rq->cookie = o->cookie;
	rq->deadline_ns = o->deadline_ns;
	rq->grace_ns = o->grace_ns;
	rq->strategies = o->strategies;
	rq->steps = o->steps;
	rq->id = t->kmod->id;
}

static int kmod_request(struct upreempt_thread *t, const struct upreempt_request_opts *o,
			struct upreempt_event *event)
{
	struct upreempt_request rq;
	int ret;

	/* EINTR: a signal, or a REDIRECT of the waiter itself. The request goes on. */
	do {
		fill_request(&rq, t, o, UPREEMPT_REQ_WAIT);
		ret = ioctl(t->domain->fd, UPREEMPT_IOC_REQUEST, &rq) ? -errno : 0;
	} while (ret == -EINTR && !rq.seq);
	if (!ret)
		*event = rq.event;
	else if (ret == -EINTR)
		ret = kmod_wait(t, rq.seq, 0, event);
	if (!ret && holds(event))
		remember_stop(t, event->seq);
	return ret;
}

static int kmod_post(struct upreempt_thread *t, const struct upreempt_request_opts *o,
		     uint64_t *seq)
{
	struct upreempt_request rq;

	fill_request(&rq, t, o, 0);
	if (ioctl(t->domain->fd, UPREEMPT_IOC_REQUEST, &rq))
		return -errno;
	*seq = rq.seq;
	if (o->kind == UPREEMPT_STOP)
		remember_stop(t, rq.seq);
	return 0;
}

static int kmod_ref(struct upreempt_thread *t, unsigned long cmd, uint64_t seq)
{
	struct upreempt_ref ref = { .size = sizeof(ref), .slot = t->index, .seq = seq };

	if (!ioctl(t->domain->fd, cmd, &ref))
		return 0;
	return errno == ESRCH ? -ENOENT : -errno;
}

static int kmod_cancel(struct upreempt_thread *t, uint64_t seq)
{
	int ret = kmod_ref(t, UPREEMPT_IOC_CANCEL, seq);

	if (!ret)
		forget_stop(t, seq);
	return ret;
}

static int kmod_release(struct upreempt_thread *t, uint64_t seq)
{
	forget_stop(t, seq);
	return kmod_ref(t, UPREEMPT_IOC_RELEASE, seq);
}

static void kmod_poll(struct upreempt_thread *t)
{
	upreempt_syscall(SYS_ioctl, t->fd, UPREEMPT_IOC_POLL, t->index, 0, 0, 0);
}

static int kmod_xstate(struct upreempt_thread *t, struct upreempt_xstate *x)
{
	x->slot = t->index;
	return upreempt_syscall(SYS_ioctl, t->fd, UPREEMPT_IOC_XSTATE, (long)x, 0, 0, 0);
}

static int kmod_world_stop(struct upreempt_domain *d, struct upreempt_world *r)
{
	/* A signal: its handler has run, nothing is stopped. */
	while (ioctl(d->fd, UPREEMPT_IOC_WORLD_STOP, r))
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int kmod_world_start(struct upreempt_domain *d)
{
	return ioctl(d->fd, UPREEMPT_IOC_WORLD_START, 0) ? -errno : 0;
}

static int kmod_stats(struct upreempt_domain *d, struct upreempt_thread *t,
		      struct upreempt_stats *stats)
{
	(void)t;
	return ioctl(d->fd, UPREEMPT_IOC_STATS, stats) ? -errno : 0;
}

static int kmod_eventfd(struct upreempt_domain *d, int fd)
{
	struct upreempt_eventfd e = { .size = sizeof(e), .fd = fd };

	return ioctl(d->fd, UPREEMPT_IOC_EVENTFD, &e) ? -errno : 0;
}

static int kmod_code_add(struct upreempt_domain *d, struct upreempt_code_add *a)
{
	return ioctl(d->fd, UPREEMPT_IOC_CODE_ADD, a) ? -errno : 0;
}

static int kmod_code_remove(struct upreempt_domain *d, uint64_t id)
{
	struct upreempt_code_remove a = { .size = sizeof(a), .id = id };

	return ioctl(d->fd, UPREEMPT_IOC_CODE_REMOVE, &a) ? -errno : 0;
}

const struct upreempt_ops upreempt_ops_kmod = {
	.name		= "kmod",
	.strategies	= UPREEMPT_BY_AUTO,
	.open		= kmod_open,
	.close		= kmod_close,
	.free		= kmod_free,
	.add		= kmod_add,
	.remove		= kmod_remove,
	.request	= kmod_request,
	.post		= kmod_post,
	.wait		= kmod_wait,
	.cancel		= kmod_cancel,
	.release	= kmod_release,
	.poll		= kmod_poll,
	.world_stop	= kmod_world_stop,
	.xstate		= kmod_xstate,
	.world_start	= kmod_world_start,
	.stats		= kmod_stats,
	.eventfd	= kmod_eventfd,
	.code_add	= kmod_code_add,
	.code_remove	= kmod_code_remove,
};
