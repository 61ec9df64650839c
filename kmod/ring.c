// SPDX-License-Identifier: GPL-2.0
/*
 * The producers' side of the event ring: many producers (hooks and requesters on any
 * CPU) under a raw lock, one consumer in user space. The barriers' letters are
 * explained at struct upreempt_header. The kernel keeps its own head; what it reads
 * of the shared memory is the consumer's tail, and a nonsensical tail only makes the
 * ring look full.
 */
#include "upreempt.h"

/* Under ring->lock: is there room for one more record, beside @promised ones? */
static bool up_ring_has_room(struct up_domain *d, u32 promised)
{
	/* D, pairs with C: the record was read before it is overwritten. */
	u64 used = d->ring.head - smp_load_acquire(&d->header->tail);

	/* used is what the program makes it */
	return used <= d->ring.mask && used + promised <= d->ring.mask;
}

/**
 * up_ring_reserve - promise room for a record
 * @d: the domain
 *
 * A request is granted only when its record has a place: hooks on several CPUs may want the
 * last one. The promise ends with up_ring_post() or up_ring_unreserve().
 *
 * Context: any, interrupts off.
 */
bool up_ring_reserve(struct up_domain *d)
{
	struct up_ring *ring = &d->ring;
	bool room;

	raw_spin_lock(&ring->lock);
	room = up_ring_has_room(d, ring->promised);
	ring->promised += room;
	raw_spin_unlock(&ring->lock);
	return room;
}

void up_ring_unreserve(struct up_domain *d)
{
	raw_spin_lock(&d->ring.lock);
	d->ring.promised--;
	raw_spin_unlock(&d->ring.lock);
}

/**
 * up_ring_post - append a record, or count it as dropped
 * @d: the domain
 * @event: what to append
 * @reserved: its room was promised
 *
 * Context: any, interrupts off.
 * Return: whether there was room.
 */
bool up_ring_post(struct up_domain *d, const struct upreempt_event *event, bool reserved)
{
	struct up_ring *ring = &d->ring;
	bool room;

	raw_spin_lock(&ring->lock);
	ring->promised -= reserved;
	room = up_ring_has_room(d, reserved ? 0 : ring->promised);
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
