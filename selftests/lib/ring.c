// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The event ring: whole records in order, nothing overwritten, losses counted,
 * poll() and an eventfd wake the consumer. Proves M2, U35 (loss is counted), P24.
 */
#include "kselftest_harness.h"
#include "ut.h"
#include <poll.h>
#include <sys/eventfd.h>

#define EVENTS 16

static volatile uint64_t runs;

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	runs++;
}

FIXTURE(ring) {
	struct upreempt_domain *domain;
	struct upreempt_header *header;
	struct ut_spinner s[2];
};

FIXTURE_SETUP(ring)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(4, EVENTS);
	ASSERT_NE(NULL, self->domain);
	self->header = upreempt_domain_header(self->domain);
	for (int i = 0; i < 2; i++) {
		self->s[i].domain = self->domain;
		self->s[i].handler = handler;
		ASSERT_EQ(0, ut_spinner_start(&self->s[i]));
	}
}

FIXTURE_TEARDOWN(ring)
{
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, ut_spinner_stop(&self->s[i]));
	upreempt_domain_close(self->domain);
}

static int post_ring(struct upreempt_thread *thread, enum upreempt_kind kind, uint64_t cookie,
		     uint64_t deadline_ns, uint64_t *seq)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = kind, .flags = UPREEMPT_REQ_RING,
		      .cookie = cookie, .deadline_ns = deadline_ns);

	return upreempt_post(thread, &o, seq);
}

static const struct upreempt_event *next_event(struct upreempt_header *header)
{
	const struct upreempt_event *ev = NULL;

	UT_UNTIL((ev = upreempt_ring_peek(header)));
	return ev;
}

TEST_F_TIMEOUT(ring, header, 60)
{
	EXPECT_EQ(UPREEMPT_ABI_VERSION, self->header->abi_version);
	EXPECT_EQ(4, self->header->nr_slots);
	EXPECT_EQ(EVENTS, self->header->nr_events);
	EXPECT_EQ(sizeof(struct upreempt_slot), self->header->slot_size);
	EXPECT_EQ(NULL, upreempt_ring_peek(self->header));
	EXPECT_EQ(0, upreempt_ring_dropped(self->header));
}

TEST_F_TIMEOUT(ring, whole_records_in_order, 60)
{
	const struct upreempt_event *ev;
	uint64_t seq, redirects = 0;

	UT_FOR(i, ut_scale(20000), 8) {
		enum upreempt_kind kind = i % 2 ? UPREEMPT_SAMPLE : UPREEMPT_REDIRECT;
		struct ut_spinner *s = &self->s[i / 2 % 2];

		ASSERT_EQ(0, post_ring(s->thread, kind, i + 1, ut_limit(), &seq));
		ev = next_event(self->header);
		ASSERT_NE(NULL, ev);
		ASSERT_EQ(seq, ev->seq);
		ASSERT_EQ(i + 1, ev->cookie);
		ASSERT_EQ(kind, ev->kind);
		ASSERT_TRUE(ev->outcome == UPREEMPT_LANDED ||
			    (ev->outcome == UPREEMPT_BLOCKED && kind == UPREEMPT_SAMPLE));
		ASSERT_EQ(ev->outcome == UPREEMPT_LANDED ? UPREEMPT_FRAME_USER :
			  UPREEMPT_FRAME_SYSCALL, ev->frame);
		ASSERT_EQ(upreempt_thread_slot(s->thread), ev->slot);
		ASSERT_EQ(upreempt_thread_tid(s->thread), ev->tid);
		ASSERT_LE(ev->request_ns, ev->final_ns);
		ASSERT_TRUE(kind == UPREEMPT_SAMPLE || ut_in_spin(ev->regs.rip));
		redirects += kind == UPREEMPT_REDIRECT;
		upreempt_ring_consume(self->header);
		ASSERT_TRUE(UT_UNTIL(runs == redirects));
	}
	EXPECT_EQ(NULL, upreempt_ring_peek(self->header));
	EXPECT_EQ(0, upreempt_ring_dropped(self->header));
}

/* Nothing is kept for upreempt_wait() when the ring reports it */
TEST_F_TIMEOUT(ring, not_waited_for, 60)
{
	const struct upreempt_event *ev;
	struct upreempt_event out;
	uint64_t seq;

	ASSERT_EQ(0, post_ring(self->s[0].thread, UPREEMPT_SAMPLE, 1, ut_limit(), &seq));
	ev = next_event(self->header);
	ASSERT_NE(NULL, ev);
	EXPECT_EQ(-ENOENT, upreempt_wait(self->s[0].thread, seq, 1, &out));
	upreempt_ring_consume(self->header);
}

/* A full ring: what is in it stays, the rest is either kept back or counted */
TEST_F_TIMEOUT(ring, full, 60)
{
	uint64_t posted = 0, got = 0, last[4] = { 0 }, seq;
	const struct upreempt_event *ev;

	for (int i = 0; i < 3 * EVENTS; i++) {
		struct ut_spinner *s = &self->s[i % 2];
		int err = post_ring(s->thread, UPREEMPT_SAMPLE, i, ut_now() + 50 * UT_MS, &seq);

		ASSERT_TRUE(!err || err == -EAGAIN);
		posted += !err;
		ut_sleep(UT_MS);
	}
	EXPECT_LT(EVENTS, posted);
	ut_sleep(100 * UT_MS);
	while ((ev = upreempt_ring_peek(self->header))) {
		ASSERT_GT(4, ev->slot);
		EXPECT_LT(last[ev->slot], ev->seq);
		last[ev->slot] = ev->seq;
		got++;
		upreempt_ring_consume(self->header);
		if (got > posted)
			break;
	}
	/* those that were kept back come now, or their time was over */
	UT_UNTIL(({
		while (got <= posted && upreempt_ring_peek(self->header)) {
			got++;
			upreempt_ring_consume(self->header);
		}
		got + upreempt_ring_dropped(self->header) >= posted;
	}));
	EXPECT_LE(EVENTS, got);
	EXPECT_EQ(posted, got + upreempt_ring_dropped(self->header));
	/* and it works again */
	ASSERT_EQ(0, post_ring(self->s[0].thread, UPREEMPT_SAMPLE, 77, ut_limit(), &seq));
	ev = next_event(self->header);
	ASSERT_NE(NULL, ev);
	EXPECT_EQ(77, ev->cookie);
	upreempt_ring_consume(self->header);
}

/* A redirect whose record finds no room waits for room: it is never done in silence */
TEST_F_TIMEOUT(ring, redirect_waits_for_room, 60)
{
	const struct upreempt_event *ev;
	uint64_t seq;

	for (int i = 0; i < EVENTS; i++)
		ASSERT_EQ(0, post_ring(self->s[0].thread, UPREEMPT_SAMPLE, i, ut_limit(), &seq));
	ASSERT_TRUE(UT_UNTIL(__atomic_load_n(&self->header->head, __ATOMIC_ACQUIRE) == EVENTS));
	ASSERT_EQ(0, post_ring(self->s[1].thread, UPREEMPT_REDIRECT, 99, ut_limit(), &seq));
	ut_sleep(20 * UT_MS);
	EXPECT_EQ(0, runs);
	for (int i = 0; i < EVENTS; i++) {
		ASSERT_NE(NULL, upreempt_ring_peek(self->header));
		upreempt_ring_consume(self->header);
	}
	ev = next_event(self->header);
	ASSERT_NE(NULL, ev);
	EXPECT_EQ(seq, ev->seq);
	EXPECT_EQ(UPREEMPT_LANDED, ev->outcome);
	EXPECT_LT(0, ev->attempts);
	EXPECT_TRUE(UT_UNTIL(runs == 1));
	upreempt_ring_consume(self->header);
	EXPECT_EQ(0, upreempt_ring_dropped(self->header));
}

TEST_F_TIMEOUT(ring, poll_wakes, 60)
{
	struct pollfd p = { .fd = upreempt_domain_fd(self->domain), .events = POLLIN };
	uint64_t seq;

	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, poll(&p, 1, 0));
		ASSERT_EQ(0, post_ring(self->s[0].thread, UPREEMPT_SAMPLE, i, ut_limit(), &seq));
		ASSERT_EQ(1, poll(&p, 1, 10000));
		EXPECT_EQ(POLLIN, p.revents);
		ASSERT_NE(NULL, next_event(self->header));
		upreempt_ring_consume(self->header);
	}
}

TEST_F_TIMEOUT(ring, eventfd_wakes, 60)
{
	struct pollfd p = { .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .events = POLLIN };
	uint64_t seq, count;

	ASSERT_LE(0, p.fd);
	ASSERT_EQ(0, upreempt_domain_eventfd(self->domain, p.fd));
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, post_ring(self->s[0].thread, UPREEMPT_SAMPLE, i, ut_limit(), &seq));
		ASSERT_EQ(1, poll(&p, 1, 10000));
		ASSERT_EQ(sizeof(count), read(p.fd, &count, sizeof(count)));
		EXPECT_LT(0, count);
		ASSERT_NE(NULL, next_event(self->header));
		upreempt_ring_consume(self->header);
	}
	ASSERT_EQ(0, upreempt_domain_eventfd(self->domain, -1));
	ASSERT_EQ(0, post_ring(self->s[0].thread, UPREEMPT_SAMPLE, 1, ut_limit(), &seq));
	ASSERT_NE(NULL, next_event(self->header));
	upreempt_ring_consume(self->header);
	ut_sleep(5 * UT_MS);
	EXPECT_EQ(-1, read(p.fd, &count, sizeof(count)));
	EXPECT_EQ(EAGAIN, errno);
	close(p.fd);
}

/* Producers on all CPUs, one consumer: each accepted request is one record or one loss */
struct producer {
	struct ut_spinner *target;
	pthread_t pthread;
	uint64_t n, posted, refused;
};

static void *producer_main(void *arg)
{
	struct producer *p = arg;
	uint64_t seq;

	UT_FOR(i, p->n, 8) {
		enum upreempt_kind kind = i % 3 ? UPREEMPT_SAMPLE : UPREEMPT_REDIRECT;
		int err = post_ring(p->target->thread, kind, i, ut_limit(), &seq);

		if (!err) {
			p->posted++;
		} else if (err == -EAGAIN) {
			p->refused++;
			sched_yield();
		} else {
			return (void *)1;
		}
	}
	return NULL;
}

TEST_F_TIMEOUT(ring, many_producers, 120)
{
	struct producer p[4];
	uint64_t posted = 0, got = 0, cookie_sum = 0;
	const struct upreempt_event *ev;
	bool running = true;

	for (int i = 0; i < 4; i++) {
		p[i] = (struct producer){ .target = &self->s[i % 2], .n = ut_scale(20000) };
		ASSERT_EQ(0, pthread_create(&p[i].pthread, NULL, producer_main, &p[i]));
	}
	while (running || (ev = upreempt_ring_peek(self->header))) {
		ev = upreempt_ring_peek(self->header);
		if (ev) {
			/* BLOCKED: it was just resuming through the kernel */
			ASSERT_TRUE(ev->outcome == UPREEMPT_LANDED ||
				    (ev->outcome == UPREEMPT_BLOCKED &&
				     ev->kind == UPREEMPT_SAMPLE));
			ASSERT_GT(4, ev->slot);
			cookie_sum += ev->cookie;
			got++;
			upreempt_ring_consume(self->header);
			continue;
		}
		sched_yield();
		running = false;
		for (int i = 0; i < 4; i++) {
			if (p[i].pthread && !pthread_tryjoin_np(p[i].pthread, NULL)) {
				p[i].pthread = 0;
				posted += p[i].posted;
			}
			running |= p[i].pthread != 0;
		}
	}
	/* the last ones may still be on their way */
	UT_UNTIL(({
		while (upreempt_ring_peek(self->header)) {
			got++;
			upreempt_ring_consume(self->header);
		}
		got + upreempt_ring_dropped(self->header) == posted;
	}));
	EXPECT_EQ(posted, got + upreempt_ring_dropped(self->header));
	EXPECT_LT(0, cookie_sum);
	printf("# %llu posted, %llu records, %llu dropped\n", (unsigned long long)posted,
	       (unsigned long long)got, (unsigned long long)upreempt_ring_dropped(self->header));
}

TEST_HARNESS_MAIN
