// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Domains: choosing a backend, opening, closing. */
#include "backend.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_SLOTS	64
#define DEFAULT_EVENTS	1024

/* The environment says what AUTO means */
static int backend_from_environment(enum upreempt_backend *backend)
{
	const char *s = getenv("UPREEMPT_BACKEND");

	*backend = UPREEMPT_BACKEND_AUTO;
	if (!s || !*s || !strcmp(s, "auto"))
		return 0;
	if (!strcmp(s, "kmod"))
		*backend = UPREEMPT_BACKEND_KMOD;
	else if (!strcmp(s, "signal"))
		*backend = UPREEMPT_BACKEND_SIGNAL;
	else
		return -EINVAL;
	return 0;
}

int upreempt_choose(enum upreempt_backend wanted, enum upreempt_backend *chosen, char *why,
		    size_t why_size)
{
	struct upreempt_query query;
	int fd, ret;

	*chosen = wanted;
	snprintf(why, why_size, "the program asked for it");
	if (wanted != UPREEMPT_BACKEND_AUTO)
		return wanted == UPREEMPT_BACKEND_KMOD || wanted == UPREEMPT_BACKEND_SIGNAL ?
		       0 : -EINVAL;
	ret = backend_from_environment(chosen);
	if (ret) {
		snprintf(why, why_size, "UPREEMPT_BACKEND is none of auto, kmod, signal");
		return ret;
	}
	if (*chosen != UPREEMPT_BACKEND_AUTO) {
		snprintf(why, why_size, "UPREEMPT_BACKEND=%s", upreempt_backend_name(*chosen));
		return 0;
	}
	fd = upreempt_kmod_probe(&query, why, why_size);
	if (fd >= 0)
		close(fd);
	*chosen = fd >= 0 ? UPREEMPT_BACKEND_KMOD : UPREEMPT_BACKEND_SIGNAL;
	return 0;
}

static int check_opts(struct upreempt_domain_opts *o)
{
	if (!o->slots)
		o->slots = DEFAULT_SLOTS;
	if (!o->events)
		o->events = DEFAULT_EVENTS;
	if (o->events < 16 || o->events & (o->events - 1)) {
		upreempt_log(0, "events must be a power of two from 16, not %u", o->events);
		return -EINVAL;
	}
	if (o->signo < 0 || o->signo > 64) {
		upreempt_log(0, "%d is no signal number", o->signo);
		return -EINVAL;
	}
	if (o->flags & ~UPREEMPT_DOMAIN_DECLARED)
		return -EINVAL;
	return 0;
}

int upreempt_domain_open(const struct upreempt_domain_opts *opts, struct upreempt_domain **domain)
{
	struct upreempt_domain_opts o;
	struct upreempt_domain *d;
	char why[160];
	int ret;

	if (!domain)
		return -EINVAL;
	upreempt_init();
	ret = upreempt_copy_opts(&o, sizeof(o), opts);
	if (!ret)
		ret = check_opts(&o);
	if (ret)
		return ret;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	ret = upreempt_choose(o.backend, &d->backend, why, sizeof(why));
	if (ret) {
		upreempt_log(0, "no backend: %s", why);
		free(d);
		return ret;
	}
	d->ops = d->backend == UPREEMPT_BACKEND_KMOD ? &upreempt_ops_kmod : &upreempt_ops_signal;
	d->generation = upreempt_generation;
	d->refs = 1;
	d->dead_end = &d->dead;
	d->fd = -1;
	ret = d->ops->open(d, &o);
	if (ret) {
		free(d);
		return ret;
	}
	upreempt_log(2, "domain of %u slots, backend %s: %s", o.slots, d->ops->name, why);
	*domain = d;
	return 0;
}

void upreempt_domain_put(struct upreempt_domain *d)
{
	struct upreempt_thread *t;

	if (__atomic_sub_fetch(&d->refs, 1, __ATOMIC_ACQ_REL))
		return;
	upreempt_codes_free(d);
	d->ops->free(d);
	while ((t = d->dead)) {
		d->dead = t->next;
		free(t->sig);
		free(t->kmod);
		free(t);
	}
	free(d);
}

void upreempt_domain_close(struct upreempt_domain *d)
{
	struct upreempt_thread *t;

	if (!d)
		return;
	if (d->generation != upreempt_generation) {
		/* In a child of fork() only the descriptor is its own. */
		if (d->fd >= 0)
			close(d->fd);
		d->fd = -1;
		return;
	}
	if (upreempt_self && upreempt_self->domain == d && !upreempt_in_handler(upreempt_self))
		upreempt_thread_detach(upreempt_self);
	if (__atomic_exchange_n(&d->closed, 1, __ATOMIC_ACQ_REL))
		return;
	upreempt_world_abandon(d);
	up_lock(&d->lock);
	for (t = d->live; t; t = t->next) {
		__atomic_store_n(&t->gone, 1, __ATOMIC_RELEASE);
		__atomic_store_n(&t->muted, 1, __ATOMIC_RELEASE);
	}
	d->ops->close(d);
	up_unlock(&d->lock);
	upreempt_domain_put(d);
}

enum upreempt_backend upreempt_domain_backend(const struct upreempt_domain *d)
{
	return d->backend;
}

int upreempt_domain_fd(const struct upreempt_domain *d)
{
	return d->fd;
}

struct upreempt_header *upreempt_domain_header(const struct upreempt_domain *d)
{
	return d->header;
}

int upreempt_domain_eventfd(struct upreempt_domain *d, int eventfd)
{
	if (d->generation != upreempt_generation)
		return -EPERM;
	return d->ops->eventfd(d, eventfd);
}

void upreempt_domain_set_enabled(struct upreempt_domain *d, bool enabled)
{
	if (d->generation == upreempt_generation)
		__atomic_store_n(&d->header->off, !enabled, __ATOMIC_SEQ_CST);
}

int upreempt_domain_stats(struct upreempt_domain *d, struct upreempt_stats *stats)
{
	if (d->generation != upreempt_generation)
		return -EPERM;
	memset(stats, 0, sizeof(*stats));
	stats->size = sizeof(*stats);
	stats->slot = UPREEMPT_ALL_SLOTS;
	return d->ops->stats(d, NULL, stats);
}
