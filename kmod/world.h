/* SPDX-License-Identifier: GPL-2.0 */
/* What world.c (the stopped) and stopper.c (those who stop) share. Everything under world->lock. */
#ifndef _UPREEMPT_WORLD_H
#define _UPREEMPT_WORLD_H

#include "upreempt.h"

/* How often we look whether a stopper lives that the scheduler does not tell us about. */
#define UP_WORLD_LOOK_NS	(10 * NSEC_PER_MSEC)
#define UP_WORLD_WARN_NS	(10ULL * NSEC_PER_SEC)

struct up_world_cpu {
	call_single_data_t csd;
	struct up_domain *domain;
	unsigned long busy;		/* bit 0: the IPI is under way */
	u64 want;			/* the epoch that waits for its answer; under lock */
};

static inline enum up_world_state up_state(const struct up_thread *t)
{
	return t->w_epoch == t->domain->world.epoch ? t->w_state : UP_W_NONE;
}

/* Does this stop concern the thread? */
static inline bool up_concerned(const struct up_thread *t)
{
	const struct up_world *w = &t->domain->world;

	lockdep_assert_held(&w->lock);
	return w->epoch & 1 && w->owner != t->task && !t->dead;
}

/* world.c */
void up_world_settle(struct up_world *w);
void up_world_late(struct up_thread *t, enum upreempt_reason reason, unsigned long ip);
void up_world_describe(const struct up_thread *t, struct upreempt_world_thread *to, u64 ns);
void up_world_stood(struct up_thread *t, enum up_world_state how, unsigned long ip);
void up_world_classify(struct up_thread *t);
void up_world_release_locked(struct up_domain *d);

/* stopper.c */
void up_world_ipi(void *info);
void up_world_release(struct up_domain *d);

#endif /* _UPREEMPT_WORLD_H */
