// SPDX-License-Identifier: GPL-2.0
/*
 * The producers' side of the event ring: many producers (hooks and requesters on any
 * CPU) under a raw lock, one consumer in user space. The barriers' letters are
 * explained at struct upreempt_header. The kernel keeps its own head; what it reads
 * of the shared memory is the consumer's tail, and a nonsensical tail only makes the
 * ring look full.
 */
#include "upreempt.h"

static bool up_ring_full(struct up_domain *d, u64 head)
{
	/* D, pairs with C: the record was read before it is overwritten. */
	u64 used = head - smp_load_acquire(&d->header->tail);

	return used > d->ring.mask;
}

/* A hint: the ring may fill up before the caller posts. */
bool up_ring_has_room(struct up_domain *d)
{
	return !up_ring_full(d, READ_ONCE(d->ring.head));
}

/**
 * up_ring_post - append a record, or count it as dropped
 * @d: the domain
 * @event: what to append
 *
 * Context: any, interrupts off.
 * Return: whether there was room.
 */
bool up_ring_post(struct up_domain *d, const struct upreempt_event *event)
{
	struct up_ring *ring = &d->ring;
	bool room;

	raw_spin_lock(&ring->lock);
	room = !up_ring_full(d, ring->head);
	if (room) {
		ring->events[ring->head & ring->mask] = *event;
		WRITE_ONCE(ring->head, ring->head + 1);
		/* A, pairs with B: who sees the head sees the record. */
		smp_store_release(&d->header->head, ring->head);
	} else {
		WRITE_ONCE(ring->dropped, ring->dropped + 1);
		WRITE_ONCE(d->header->dropped, ring->dropped);
	}
	raw_spin_unlock(&ring->lock);

	/* Pairs with poll_wait(): the waiter queues itself, then looks at the ring. */
	if (room && (wq_has_sleeper(&d->poll_wait) || READ_ONCE(d->eventfd)))
		irq_work_queue(&d->wake);
	return room;
}

bool up_ring_readable(struct up_domain *d)
{
	return READ_ONCE(d->ring.head) != READ_ONCE(d->header->tail);
}
