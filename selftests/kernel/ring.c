// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves R4, P24, S5: the event ring loses nothing silently, overwrites nothing, wakes its waiters. */
#include "kselftest_harness.h"
#include <poll.h>
#include <sys/epoll.h>
#include "../include/raw_target.h"

#define NR_EVENTS	16

FIXTURE(ring) {
	struct raw r;
	struct raw_target t;
};

FIXTURE_SETUP(ring)
{
	ASSERT_EQ(0, raw_domain(&self->r, 4, NR_EVENTS));
	ASSERT_EQ(0, raw_spinner(&self->t, &self->r, RAW_LANDING));
}

FIXTURE_TEARDOWN(ring)
{
	EXPECT_EQ(0, raw_target_stop(&self->t));
	EXPECT_EQ(0, self->t.wrong);
	raw_close(&self->r);
}

static uint64_t head(struct raw *r)
{
	return __atomic_load_n(&r->header->head, __ATOMIC_ACQUIRE);
}

static int post(struct raw *r, struct raw_target *t, uint32_t kind, uint64_t ms, uint64_t *seq)
{
	return raw_post(r, t->slot, kind, UPREEMPT_REQ_RING, ms ? raw_in(ms) : 0, seq);
}

static int fill(struct raw *r, struct raw_target *t)
{
	for (int i = 0; i < NR_EVENTS; i++) {
		uint64_t before = head(r);
		int ret = post(r, t, UPREEMPT_SAMPLE, 0, NULL);

		if (ret)
			return ret;
		if (!RAW_UNTIL(head(r) == before + 1))
			return -ETIMEDOUT;
	}
	return 0;
}

TEST_F(ring, records_in_order)
{
	static const uint32_t kinds[] = { UPREEMPT_SAMPLE, UPREEMPT_REDIRECT, UPREEMPT_STOP };
	uint64_t seq, n = raw_scale(1000);

	for (uint64_t i = 0; i < n; i++) {
		struct upreempt_event *e = &self->r.ring[i % NR_EVENTS];

		memset(e, 0xcc, sizeof(*e));
		ASSERT_EQ(0, post(&self->r, &self->t, kinds[i % 3], 0, &seq));
		ASSERT_TRUE(RAW_UNTIL(head(&self->r) == i + 1));
		ASSERT_TRUE(raw_event_ok(e));
		ASSERT_EQ(seq, e->seq);
		ASSERT_EQ(kinds[i % 3], e->kind);
		ASSERT_EQ(UPREEMPT_LANDED, e->outcome);
		ASSERT_EQ(self->t.tid, (int)e->tid);
		if (e->kind == UPREEMPT_STOP)
			ASSERT_EQ(0, raw_release(&self->r, self->t.slot, seq));
		__atomic_store_n(&self->r.header->tail, i + 1, __ATOMIC_RELEASE);
	}
	EXPECT_EQ(0, self->r.header->dropped);
}

/* A full ring defers; room lets it land; no record is overwritten. */
TEST_F(ring, full_ring_defers)
{
	struct upreempt_event copy[NR_EVENTS];
	struct upreempt_stats s;
	uint64_t seq[3];

	ASSERT_EQ(0, fill(&self->r, &self->t));
	memcpy(copy, self->r.ring, sizeof(copy));
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, post(&self->r, &self->t, i + 1, 0, &seq[i]));
	raw_sleep_us(20000);
	EXPECT_EQ(NR_EVENTS, head(&self->r));
	EXPECT_EQ(0, memcmp(copy, self->r.ring, sizeof(copy)));
	EXPECT_EQ(0, self->r.header->dropped);
	EXPECT_EQ(0, self->t.land.count);
	EXPECT_EQ(0, self->r.slots[self->t.slot].held);
	EXPECT_TRUE(raw_target_moves(&self->t));
	ASSERT_EQ(0, raw_stats(&self->r, self->t.slot, &s));
	EXPECT_LE(3, s.deferrals[UPREEMPT_R_RING_FULL]);

	/* one place for three: STOP goes first, or, in a thread that is switched out, SAMPLE */
	__atomic_store_n(&self->r.header->tail, 1, __ATOMIC_RELEASE);
	EXPECT_TRUE(RAW_UNTIL(head(&self->r) == NR_EVENTS + 1));
	if (self->r.ring[0].kind != UPREEMPT_SAMPLE) {
		EXPECT_EQ(seq[1], self->r.ring[0].seq);
		EXPECT_EQ(UPREEMPT_STOP, self->r.ring[0].kind);
	}
	EXPECT_EQ(0, memcmp(copy + 1, self->r.ring + 1, sizeof(copy) - sizeof(copy[0])));
	__atomic_store_n(&self->r.header->tail, NR_EVENTS, __ATOMIC_RELEASE);
	ASSERT_TRUE(RAW_UNTIL(self->r.slots[self->t.slot].held));
	ASSERT_EQ(0, raw_release(&self->r, self->t.slot, seq[1]));
	EXPECT_TRUE(RAW_UNTIL(head(&self->r) == NR_EVENTS + 3));
	EXPECT_TRUE(RAW_UNTIL(self->t.land.count == 1));
	EXPECT_EQ(0, self->r.header->dropped);
}

/* What becomes final without room is counted, and still final. */
TEST_F(ring, dropped_records_are_counted)
{
	struct upreempt_event copy[NR_EVENTS];
	struct upreempt_stats s;
	uint64_t seq;

	ASSERT_EQ(0, fill(&self->r, &self->t));
	memcpy(copy, self->r.ring, sizeof(copy));
	ASSERT_EQ(0, post(&self->r, &self->t, UPREEMPT_REDIRECT, 20, &seq));
	EXPECT_TRUE(RAW_UNTIL(self->r.header->dropped == 1));
	EXPECT_EQ(seq, self->r.slots[self->t.slot].done_seq);
	EXPECT_EQ(UPREEMPT_UNSAFE, self->r.slots[self->t.slot].done_outcome);
	ASSERT_EQ(0, post(&self->r, &self->t, UPREEMPT_SAMPLE, 0, &seq));
	ASSERT_EQ(0, raw_cancel(&self->r, self->t.slot, seq));
	EXPECT_EQ(2, self->r.header->dropped);
	EXPECT_EQ(NR_EVENTS, head(&self->r));
	EXPECT_EQ(0, memcmp(copy, self->r.ring, sizeof(copy)));
	ASSERT_EQ(0, raw_stats(&self->r, UPREEMPT_ALL_SLOTS, &s));
	EXPECT_EQ(2, s.dropped);
	EXPECT_EQ(0, self->t.land.count);
}

/* A tail that makes no sense makes the ring look full, or empty: nothing else. */
TEST_F(ring, nonsense_in_the_shared_memory)
{
	static const uint64_t tails[] = { 1, 5, 1ULL << 32, 1ULL << 63, ~0ULL, -NR_EVENTS };
	struct upreempt_event e;

	for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
		self->r.header->tail = tails[i];
		self->r.header->head = ~tails[i];
		EXPECT_EQ(0, raw_post(&self->r, self->t.slot, UPREEMPT_SAMPLE, UPREEMPT_REQ_RING,
				      raw_in(5), NULL));
		raw_sleep_us(8000);
	}
	/* everything there but this thread's own words */
	memset(self->r.map, 0xa5, self->r.setup.slots_off);
	self->r.header->off = 0;
	memset(self->r.ring, 0xa5, NR_EVENTS * sizeof(struct upreempt_event));
	self->r.slots[self->t.slot].tid = 1;
	self->r.slots[self->t.slot].held = ~0U;
	self->r.slots[self->t.slot].pending = 0;
	ASSERT_EQ(0, raw_ask(&self->r, self->t.slot, UPREEMPT_SAMPLE, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(self->t.tid, (int)e.tid);
	ASSERT_EQ(0, raw_ask(&self->r, self->t.slot, UPREEMPT_STOP, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(0, raw_release(&self->r, self->t.slot, e.seq));
	ASSERT_EQ(0, raw_ask(&self->r, self->t.slot, UPREEMPT_REDIRECT, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
}

/* -------- waking -------- */

struct later {
	struct raw *r;
	struct raw_target *t;
	uint32_t kind;
};

static void *post_later(void *arg)
{
	struct later *l = arg;

	raw_sleep_us(30000);
	post(l->r, l->t, l->kind, 0, NULL);
	return NULL;
}

TEST_F(ring, poll_and_epoll)
{
	struct later l = { &self->r, &self->t, UPREEMPT_SAMPLE };
	struct pollfd p = { .fd = self->r.fd, .events = POLLIN };
	struct epoll_event ev = { .events = EPOLLIN };
	int ep = epoll_create1(EPOLL_CLOEXEC);
	pthread_t thread;

	ASSERT_LE(0, ep);
	EXPECT_EQ(0, poll(&p, 1, 0));
	for (int i = 0; i < 20; i++) {
		l.kind = i & 1 ? UPREEMPT_SAMPLE : UPREEMPT_REDIRECT;
		ASSERT_EQ(0, pthread_create(&thread, NULL, post_later, &l));
		ASSERT_EQ(1, poll(&p, 1, RAW_LONG_MS));
		ASSERT_EQ(POLLIN, p.revents);
		ASSERT_EQ(1, poll(&p, 1, 0));		/* until it was consumed */
		self->r.header->tail = head(&self->r);
		ASSERT_EQ(0, poll(&p, 1, 0));
		ASSERT_EQ(0, pthread_join(thread, NULL));
	}
	ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_ADD, self->r.fd, &ev));
	EXPECT_EQ(0, epoll_wait(ep, &ev, 1, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, post_later, &l));
	EXPECT_EQ(1, epoll_wait(ep, &ev, 1, RAW_LONG_MS));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	self->r.header->tail = head(&self->r);
	EXPECT_EQ(0, epoll_wait(ep, &ev, 1, 0));
	/* nothing is woken for what is not in the ring */
	ASSERT_EQ(0, raw_ask(&self->r, self->t.slot, UPREEMPT_SAMPLE, 0, NULL));
	EXPECT_EQ(0, poll(&p, 1, 0));
}

TEST_F(ring, eventfd)
{
	struct upreempt_eventfd arg = { .size = sizeof(arg) };
	struct later l = { &self->r, &self->t, UPREEMPT_SAMPLE };
	struct pollfd p = { .events = POLLIN };
	pthread_t thread;
	uint64_t value;

	p.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_LE(0, p.fd);
	arg.fd = p.fd;
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, pthread_create(&thread, NULL, post_later, &l));
		ASSERT_EQ(1, poll(&p, 1, RAW_LONG_MS));
		ASSERT_EQ(8, read(p.fd, &value, 8));
		EXPECT_LE(1, value);
		EXPECT_NE(head(&self->r), self->r.header->tail);
		self->r.header->tail = head(&self->r);
		ASSERT_EQ(0, pthread_join(thread, NULL));
	}
	arg.fd = -1;
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
	ASSERT_EQ(0, post(&self->r, &self->t, UPREEMPT_SAMPLE, 0, NULL));
	EXPECT_TRUE(RAW_UNTIL(head(&self->r) != self->r.header->tail));
	EXPECT_EQ(0, poll(&p, 1, 20));
}

/* -------- many producers, one consumer -------- */

struct producer {
	struct raw *r;
	struct raw_target *t;
	pthread_t thread;
	uint64_t n, refused;
};

static void *produce(void *arg)
{
	struct producer *p = arg;

	for (uint64_t i = 0; i < p->n;) {
		int ret = post(p->r, p->t, i % 4 ? UPREEMPT_SAMPLE : UPREEMPT_REDIRECT, 0, NULL);

		if (!ret) {
			i++;
		} else if (ret == -EAGAIN) {
			p->refused++;
			raw_sleep_us(100);
		} else {
			break;
		}
	}
	return NULL;
}

TEST_F(ring, each_request_has_one_record)
{
	uint64_t n = raw_scale(200), tail = 0, end, bad = 0;
	struct raw_target t[3];
	struct producer p[3];
	unsigned char *seen = calloc(1, 3 * n + 16);

	ASSERT_NE(NULL, seen);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_LANDING));
		p[i] = (struct producer){ .r = &self->r, .t = &t[i], .n = n };
	}
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_create(&p[i].thread, NULL, produce, &p[i]));
	for (end = raw_in(2 * RAW_LONG_MS); tail < 3 * n && raw_now() < end;) {
		struct upreempt_event *e = &self->r.ring[tail % NR_EVENTS];

		if (head(&self->r) == tail) {
			sched_yield();
			continue;
		}
		if (!raw_event_ok(e) || e->outcome != UPREEMPT_LANDED || e->seq > 3 * n ||
		    seen[e->seq]++)
			bad++;
		tail++;
		__atomic_store_n(&self->r.header->tail, tail, __ATOMIC_RELEASE);
	}
	EXPECT_EQ(3 * n, tail);
	EXPECT_EQ(0, bad);
	EXPECT_EQ(3 * n, head(&self->r));
	EXPECT_EQ(0, self->r.header->dropped);
	TH_LOG("%llu records, %llu times a thread had no place left", (unsigned long long)tail,
	       (unsigned long long)(p[0].refused + p[1].refused + p[2].refused));
	ASSERT_EQ(3 * n, tail);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, pthread_join(p[i].thread, NULL));
		EXPECT_EQ(0, raw_target_stop(&t[i]));
		EXPECT_EQ((n + 3) / 4, t[i].land.count);
		EXPECT_EQ(0, t[i].wrong);
	}
	free(seen);
}

RAW_TEST_MAIN
