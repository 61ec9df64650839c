/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * The consumer side of a domain's event ring: one thread at a time.
 * The barriers' letters are explained at struct upreempt_header.
 */
#ifndef UPREEMPT_RING_H
#define UPREEMPT_RING_H

#include <linux/upreempt.h>
#include <stdint.h>
#include <unistd.h>

/* The oldest record that was not consumed yet, or NULL. It stays valid until upreempt_ring_consume(). */
static inline const struct upreempt_event *upreempt_ring_peek(struct upreempt_header *h)
{
	__u64 head = __atomic_load_n(&h->head, __ATOMIC_ACQUIRE);	/* B, pairs with A */
	__u64 tail = h->tail;

	if (head == tail)
		return (const struct upreempt_event *)0;
	return (const struct upreempt_event *)((char *)h + h->ring_off) +
	       (tail & (h->nr_events - 1));
}

/*
 * Without the module the file to poll() is an eventfd, whose number plus one the
 * library keeps in library (0 otherwise). It is emptied with the last record,
 * and filled again when a record came in between.
 */
static inline void upreempt_ring_drained(struct upreempt_header *h)
{
	__u64 n = 1;
	int fd = (int)h->library - 1;

	if (read(fd, &n, sizeof(n)) == sizeof(n) &&
	    __atomic_load_n(&h->head, __ATOMIC_ACQUIRE) != h->tail) {
		n = 1;
		if (write(fd, &n, sizeof(n)) < 0)
			return;
	}
}

/* Give the record that upreempt_ring_peek() returned back to the producers. */
static inline void upreempt_ring_consume(struct upreempt_header *h)
{
	__u64 tail = h->tail + 1;

	__atomic_store_n(&h->tail, tail, __ATOMIC_RELEASE);	/* C, pairs with D */
	if (__builtin_expect(h->library != 0, 0) &&
	    __atomic_load_n(&h->head, __ATOMIC_ACQUIRE) == tail)
		upreempt_ring_drained(h);
}

/* How many outcomes found the ring full since the domain was made. */
static inline __u64 upreempt_ring_dropped(struct upreempt_header *h)
{
	return __atomic_load_n(&h->dropped, __ATOMIC_RELAXED);
}

#endif
