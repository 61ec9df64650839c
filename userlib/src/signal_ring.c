// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The event ring's producers. They take turns under ring_lock, whose holder has
 * all signals blocked: it cannot be interrupted by a handler of its own thread
 * that wants the lock too, and it takes no STOP of the module's either (it holds
 * sig_thread.lock, or is the handler). The barriers' letters are explained in the ABI header.
 */
#include "backend_signal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KERNEL_SIGSET	8

static void add_one(int fd)
{
	uint64_t one = 1;

	if (fd >= 0)
		upreempt_syscall(SYS_write, fd, (long)&one, sizeof(one), 0, 0, 0);
}

bool sig_ring_push(struct upreempt_domain *d, const struct upreempt_event *e)
{
	struct upreempt_header *h = d->header;
	struct upreempt_event *ring = (struct upreempt_event *)((char *)h + h->ring_off);
	bool room;

	up_lock_raw(&d->sig->ring_lock);
	room = h->head - __atomic_load_n(&h->tail, __ATOMIC_ACQUIRE) < h->nr_events;	/* D */
	if (room) {
		ring[h->head & (h->nr_events - 1)] = *e;
		__atomic_store_n(&h->head, h->head + 1, __ATOMIC_RELEASE);		/* A */
		add_one(d->fd);
		add_one(d->sig->eventfd);
	}
	up_unlock_raw(&d->sig->ring_lock);
	return room;
}

static void block_signals(uint64_t *old)
{
	uint64_t all = ~0ULL;

	upreempt_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)old, KERNEL_SIGSET,
			 0, 0);
}

static void restore_signals(const uint64_t *old)
{
	upreempt_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (long)old, 0, KERNEL_SIGSET, 0, 0);
}

void sig_ring_report(struct upreempt_domain *d, const struct upreempt_event *e)
{
	uint64_t old;

	block_signals(&old);
	if (!sig_ring_push(d, e)) {
		__atomic_add_fetch(&d->header->dropped, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&d->sig->stats.dropped, 1, __ATOMIC_RELAXED);
	}
	restore_signals(&old);
}

static bool is_eventfd(int fd)
{
	char path[32], name[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, name, sizeof(name));
	return n == 20 && !memcmp(name, "anon_inode:[eventfd]", 20);
}

/* The program's eventfd is duplicated: closing it elsewhere harms nobody. */
int sig_eventfd(struct upreempt_domain *d, int fd)
{
	uint64_t mask;
	int own = -1, old;

	if (fd != -1) {
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (own < 0)
			return -errno;
		if (!is_eventfd(own)) {
			close(own);
			return -EINVAL;
		}
	}
	upreempt_disable();
	block_signals(&mask);
	up_lock_raw(&d->sig->ring_lock);
	old = d->sig->eventfd;
	d->sig->eventfd = own;
	up_unlock_raw(&d->sig->ring_lock);
	restore_signals(&mask);
	upreempt_enable();
	if (old >= 0)
		close(old);
	return 0;
}
