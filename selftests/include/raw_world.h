/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* Stops of the world by ioctl, and bodies that poll. */
#ifndef SELFTESTS_RAW_WORLD_H
#define SELFTESTS_RAW_WORLD_H

#include "raw_target.h"

/* deadline and grace in ms from now; 0: none */
RAW_FN int raw_world_stop(struct raw *r, uint32_t flags, uint64_t grace_ms, uint64_t ms,
			  struct upreempt_world *w)
{
	memset(w, 0xcc, sizeof(*w));
	w->size = sizeof(*w);
	w->flags = flags;
	w->grace_ns = grace_ms * 1000000;
	w->deadline_ns = ms ? raw_in(ms) : 0;
	w->strategies = 0;
	w->steps = 0;
	w->reserved = 0;
	return raw_ioctl(r->fd, UPREEMPT_IOC_WORLD_STOP, w);
}

RAW_FN int raw_world_start(struct raw *r)
{
	return raw_ioctl(r->fd, UPREEMPT_IOC_WORLD_START, NULL);
}

/* What holds for each report */
RAW_FN bool raw_world_ok(const struct upreempt_world *w)
{
	return w->threads == w->landed + w->preempted + w->cooperated + w->blocked +
			     w->stragglers && w->request_ns && w->sent_ns >= w->request_ns &&
	       w->final_ns >= w->sent_ns && (!w->last_ns || w->last_ns >= w->first_ns) &&
	       (!w->first_ns || w->first_ns >= w->request_ns) && w->depth >= 1;
}

/* Whether any of n threads makes a step within us of busy waiting. */
RAW_FN bool raw_any_move(const struct raw_target *t, int n, uint64_t us)
{
	uint64_t end, before[n];
	bool moved = false;

	for (int i = 0; i < n; i++)
		before[i] = t[i].count;
	for (end = raw_now() + us * 1000; raw_now() < end;)
		;
	for (int i = 0; i < n; i++)
		moved |= t[i].count != before[i];
	return moved;
}

RAW_FN int raw_poll(struct raw *r, uint32_t slot)
{
	return raw_ioctl(r->fd, UPREEMPT_IOC_POLL, (void *)(uintptr_t)slot);
}

/* Turns of a loop; at each a look at the poll word. */
RAW_FN void raw_body_poll(struct raw_target *t)
{
	struct upreempt_slot *slot = &t->raw->slots[t->slot];

	while (!t->stop) {
		t->count++;
		if (__atomic_load_n(&slot->poll, __ATOMIC_RELAXED)) {
			__atomic_store_n(&slot->poll, 0, __ATOMIC_SEQ_CST);
			t->result++;
			if (raw_poll(t->raw, t->slot))
				t->wrong++;
		}
	}
}

/* The same by a load through the trigger. */
RAW_FN void raw_body_trigger(struct raw_target *t)
{
	struct upreempt_slot *slot = &t->raw->slots[t->slot];

	while (!t->stop) {
		t->count++;
		__asm__ __volatile__(".byte 0x84, 0x00"	/* test %al,(%rax) */
				     : : "a"(__atomic_load_n(&slot->trigger, __ATOMIC_RELAXED))
				     : "cc", "memory");
	}
}

#endif
