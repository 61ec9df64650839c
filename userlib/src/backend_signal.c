// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* The signal backend: domains and threads. backend_signal.h explains the rest. */
#include "backend_signal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id	_sigev_un._tid
#endif

uint32_t upreempt_install_lock;

static int number_from_name(const char *s)
{
	char *end;
	long n = strtol(s, &end, 10);
	int i;

	if (end != s && !*end)
		return n >= 1 && n <= 64 ? (int)n : -EINVAL;
	if (!strncmp(s, "SIG", 3))
		s += 3;
	for (i = 1; i < 32; i++)
		if (sigabbrev_np(i) && !strcmp(sigabbrev_np(i), s))
			return i;
	if (!strncmp(s, "RTMIN+", 6)) {
		n = strtol(s + 6, &end, 10);
		if (end != s + 6 && !*end && n >= 0 && SIGRTMIN + n <= SIGRTMAX)
			return SIGRTMIN + n;
	}
	return -EINVAL;
}

static bool usable_signal(int signo)
{
	/* Below SIGRTMIN are the ones that the C library keeps for itself. */
	return signo >= 1 && signo <= SIGRTMAX && (signo < 32 || signo >= SIGRTMIN) &&
	       signo != SIGKILL && signo != SIGSTOP && signo != SIGSEGV && signo != SIGBUS &&
	       signo != SIGFPE && signo != SIGILL && signo != SIGTRAP;
}

int upreempt_signal_number(int *signo)
{
	const char *s = getenv("UPREEMPT_SIGNAL");

	*signo = s && *s ? number_from_name(s) : SIGURG;
	if (usable_signal(*signo))
		return 0;
	*signo = 0;
	return -EINVAL;
}

static int install_handler(int signo)
{
	struct sigaction old, new = { .sa_flags = SA_SIGINFO | SA_RESTART };
	int ret = 0;

	new.sa_sigaction = sig_handler;
	sigfillset(&new.sa_mask);
	up_lock(&upreempt_install_lock);
	if (sigaction(signo, NULL, &old))
		ret = -errno;
	else if (old.sa_flags & SA_SIGINFO ? old.sa_sigaction != sig_handler :
		 old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN)
		ret = -EBUSY;
	else if (sigaction(signo, &new, NULL))
		ret = -errno;
	up_unlock(&upreempt_install_lock);
	if (ret == -EBUSY)
		upreempt_log(0, "signal %d has another handler: choose one with "
			     "upreempt_domain_opts.signo or UPREEMPT_SIGNAL", signo);
	return ret;
}

static uint64_t page_up(uint64_t n)
{
	return (n + 4095) & ~4095ULL;
}

/* The same layout as the module's, without a gate */
static int make_memory(struct upreempt_domain *d, const struct upreempt_domain_opts *o)
{
	uint64_t slots_off = page_up(sizeof(struct upreempt_header));
	uint64_t ring_off = slots_off + page_up(o->slots * sizeof(struct upreempt_slot));
	uint64_t size = ring_off + page_up((uint64_t)o->events * sizeof(struct upreempt_event));
	struct upreempt_header *h = mmap(NULL, size, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (h == MAP_FAILED)
		return -ENOMEM;
	h->abi_version = UPREEMPT_ABI_VERSION;
	h->nr_slots = o->slots;
	h->nr_events = o->events;
	h->slot_size = sizeof(struct upreempt_slot);
	h->slots_off = slots_off;
	h->ring_off = ring_off;
	h->mmap_size = size;
	d->header = h;
	return 0;
}

static int signal_open(struct upreempt_domain *d, const struct upreempt_domain_opts *o)
{
	int ret = 0;

	if (o->slots > SIG_MAX_SLOTS || o->events > SIG_MAX_EVENTS) {
		upreempt_log(0, "%u slots, %u events: the signal backend takes up to %u, %u",
			     o->slots, o->events, SIG_MAX_SLOTS, SIG_MAX_EVENTS);
		return -EINVAL;
	}
	d->signo = o->signo;
	if (!d->signo)
		ret = upreempt_signal_number(&d->signo);
	if (ret || !usable_signal(d->signo)) {
		upreempt_log(0, "UPREEMPT_SIGNAL or signo names no signal that can be used");
		return -EINVAL;
	}
	d->sig = calloc(1, sizeof(*d->sig));
	if (!d->sig)
		return -ENOMEM;
	d->sig->eventfd = -1;
	d->sig->code.declared = o->flags & UPREEMPT_DOMAIN_DECLARED;
	ret = make_memory(d, o);
	if (ret)
		goto free_sig;
	d->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->fd < 0) {
		ret = -errno;
		goto unmap;
	}
	/* ring.h empties it when the last record was consumed */
	d->header->library = (uint64_t)d->fd + 1;
	ret = install_handler(d->signo);
	if (ret)
		goto close_fd;
	return 0;

close_fd:
	close(d->fd);
unmap:
	munmap(d->header, d->header->mmap_size);
free_sig:
	free(d->sig);
	return ret;
}

/* The threads' registrations are dead from here on; their memory stays. */
static void signal_close(struct upreempt_domain *d)
{
	struct upreempt_thread *t;

	sig_eventfd(d, -1);
	sig_world_release(d);
	for (t = d->live; t; t = t->next) {
		up_lock(&t->sig->lock);
		sig_end_all(t, UPREEMPT_CANCELLED);
		sig_release_all(t);
		up_unlock(&t->sig->lock);
	}
}

static void signal_free(struct upreempt_domain *d)
{
	close(d->fd);
	munmap(d->header, d->header->mmap_size);
	sig_tables_free(d);
	free(d->sig);
}

static struct upreempt_slot *slot_at(struct upreempt_domain *d, uint32_t index)
{
	return (struct upreempt_slot *)((char *)d->header + d->header->slots_off) + index;
}

/* The thread's own timer: it tries again what had to be deferred. */
static int make_timer(struct upreempt_thread *t)
{
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = t->signo };

	ev.sigev_notify_thread_id = t->tid;
	if (timer_create(CLOCK_MONOTONIC, &ev, &t->sig->timer)) {
		upreempt_log(0, "timer_create: %s", strerror(errno));
		return -errno;
	}
	return 0;
}

static int take_slot(struct upreempt_thread *t)
{
	struct upreempt_domain *d = t->domain;
	uint32_t i;

	up_lock(&d->lock);
	for (i = 0; i < d->header->nr_slots; i++)
		if (!slot_at(d, i)->tid)
			break;
	if (i < d->header->nr_slots) {
		t->index = i;
		t->slot = slot_at(d, i);
		memset(t->slot, 0, sizeof(*t->slot));
		t->slot->tid = t->tid;
		/* No page here faults: a poll by load finds the slot. */
		t->slot->trigger = (uintptr_t)t->slot;
	}
	up_unlock(&d->lock);
	return i < d->header->nr_slots ? 0 : -ENOSPC;
}

static void count_threads(struct upreempt_domain *d, int n)
{
	__atomic_add_fetch(&d->sig->stats.threads, n, __ATOMIC_RELAXED);
}

static int signal_add(struct upreempt_thread *t, const struct upreempt_register *r)
{
	sigset_t set;
	int ret;

	if (!t->sig)
		t->sig = malloc(sizeof(*t->sig));
	if (!t->sig)
		return -ENOMEM;
	memset(t->sig, 0, sizeof(*t->sig));
	t->sig->stack_lo = r->stack_lo;
	t->sig->stack_hi = r->stack_hi;
	t->sig->stack_need = r->stack_need;
	ret = make_timer(t);
	if (ret)
		return ret;
	ret = take_slot(t);
	if (ret) {
		timer_delete(t->sig->timer);
		return ret;
	}
	sigemptyset(&set);
	sigaddset(&set, t->signo);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	count_threads(t->domain, 1);
	return 0;
}

static int signal_remove(struct upreempt_thread *t, bool open)
{
	struct upreempt_domain *d = t->domain;

	(void)open;
	up_lock(&d->lock);
	sig_world_leave(t);
	up_unlock(&d->lock);
	up_lock(&t->sig->lock);
	sig_end_all(t, UPREEMPT_GONE);
	sig_release_all(t);
	up_unlock(&t->sig->lock);
	/* From here on a late signal finds nobody; before another gets the slot. */
	upreempt_self = NULL;
	upreempt_slot_self = &upreempt_slot_dummy;
	timer_delete(t->sig->timer);
	up_lock(&d->lock);
	__atomic_store_n(&t->slot->tid, 0, __ATOMIC_RELEASE);
	up_unlock(&d->lock);
	count_threads(d, -1);
	return 0;
}

static int signal_stats(struct upreempt_domain *d, struct upreempt_thread *t,
			struct upreempt_stats *stats)
{
	uint32_t slot = stats->slot;

	*stats = t ? t->sig->stats : d->sig->stats;
	stats->size = sizeof(*stats);
	stats->slot = slot;
	stats->tid = t ? t->tid : 0;
	if (t)
		stats->threads = 1;
	return 0;
}

/* The handler grants what waits, and takes the mark away; not when the signal is blocked. */
static void signal_poll(struct upreempt_thread *t)
{
	if (!__atomic_load_n(&t->slot->pending, __ATOMIC_SEQ_CST) && !sig_world_wants(t))
		return;
	__atomic_store_n(&t->sig->cooperating, (uintptr_t)__builtin_frame_address(0),
			 __ATOMIC_RELAXED);
	upreempt_check();
	__atomic_store_n(&t->sig->cooperating, 0, __ATOMIC_RELAXED);
}

const struct upreempt_ops upreempt_ops_signal = {
	.name		= "signal",
	.open		= signal_open,
	.close		= signal_close,
	.free		= signal_free,
	.add		= signal_add,
	.remove		= signal_remove,
	.request	= sig_op_request,
	.post		= sig_op_post,
	.wait		= sig_op_wait,
	.cancel		= sig_op_cancel,
	.release	= sig_op_release,
	.poll		= signal_poll,
	.world_stop	= sig_world_stop,
	.xstate		= sig_xstate,
	.world_start	= sig_world_start,
	.stats		= signal_stats,
	.eventfd	= sig_eventfd,
	.code_add	= sig_code_add,
	.code_remove	= sig_code_remove,
};
