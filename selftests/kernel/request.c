// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves M1, M2, M3, M8, M12, M16, U10, U14, U28: each kind, on each state of a thread, ends in its exact outcome. */
#include "kselftest_harness.h"
#include <sys/time.h>
#include "../include/raw_target.h"

#define NR_SLOTS	8

FIXTURE(req) {
	struct raw r;
};

FIXTURE_SETUP(req)
{
	ASSERT_EQ(0, raw_domain(&self->r, NR_SLOTS, 16));
}

FIXTURE_TEARDOWN(req)
{
	raw_close(&self->r);
}

#define EXPECT_EVENT(e, out, why, what)					\
	do {								\
		EXPECT_TRUE(raw_event_ok(&(e)));			\
		EXPECT_EQ(out, (e).outcome);				\
		EXPECT_EQ(why, (e).reason);				\
		EXPECT_EQ(what, (e).frame);				\
	} while (0)

/* What a spinner's record has to show; a SAMPLE or STOP may find it in its landing. */
static bool is_spinner(const struct upreempt_event *e, const struct raw_target *t)
{
	if (e->kind != UPREEMPT_REDIRECT &&
	    raw_in_range(e->regs.rip, raw_landing, raw_landing_end))
		return true;
	return raw_regs_are_spin(&e->regs, (const void *)&t->count, (const void *)&t->stop);
}

/* -------- a thread that spins -------- */

TEST_F(req, sample_of_a_spinning_thread)
{
	struct upreempt_event e;
	struct raw_target t;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &set, NULL));
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	for (uint64_t i = 0; i < raw_scale(2000); i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &e));
		ASSERT_TRUE(raw_event_ok(&e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_EQ(UPREEMPT_FRAME_USER, e.frame);
		ASSERT_TRUE(is_spinner(&e, &t));
		ASSERT_EQ(1ULL << (SIGUSR2 - 1), e.regs.sigmask);
		ASSERT_EQ((uintptr_t)t.thread, e.regs.fs_base);
		ASSERT_EQ(t.tid, (int)e.tid);
		ASSERT_EQ(t.slot, e.slot);
		ASSERT_EQ(0x600d0000ULL + t.slot, e.cookie);
	}
	EXPECT_EQ(e.seq, self->r.slots[t.slot].done_seq);
	EXPECT_EQ(UPREEMPT_LANDED, self->r.slots[t.slot].done_outcome);
	EXPECT_EQ(0, self->r.slots[t.slot].pending);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

TEST_F(req, stop_of_a_spinning_thread)
{
	struct upreempt_event e, sample;
	struct raw_target t;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	for (uint64_t i = 0; i < raw_scale(200); i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_TRUE(raw_event_ok(&e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_TRUE(is_spinner(&e, &t));
		ASSERT_EQ(1, self->r.slots[t.slot].held);
		/* what a later sample shows is the same place, and not the gate */
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &sample));
		ASSERT_EQ(UPREEMPT_LANDED, sample.outcome);
		ASSERT_EQ(e.regs.rip, sample.regs.rip);
		ASSERT_EQ(e.regs.rsp, sample.regs.rsp);
		ASSERT_EQ(0, memcmp(&e.regs, &sample.regs, 14 * 8));
		if (!(i % 50))
			ASSERT_TRUE(raw_target_still(&t));
		ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		ASSERT_TRUE(raw_target_moves(&t));
		ASSERT_EQ(0, self->r.slots[t.slot].held);
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

TEST_F(req, redirect_of_a_spinning_thread)
{
	uint64_t n = 0, busy = 0;
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	for (uint64_t end = raw_in(10000); n < raw_scale(5000) && raw_now() < end; n++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		ASSERT_TRUE(raw_event_ok(&e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_EQ(UPREEMPT_FRAME_USER, e.frame);
		ASSERT_TRUE(is_spinner(&e, &t));
		busy += e.attempts;
	}
	ASSERT_TRUE(RAW_UNTIL(!self->r.slots[t.slot].busy));
	EXPECT_EQ(n, t.land.count);
	EXPECT_EQ(e.seq, self->r.slots[t.slot].seq);
	EXPECT_EQ(e.cookie, self->r.slots[t.slot].cookie);
	EXPECT_EQ(e.request_ns, self->r.slots[t.slot].request_ns);
	EXPECT_LE(e.request_ns, self->r.slots[t.slot].landed_ns);
	EXPECT_EQ(0, memcmp(&e.regs, &self->r.slots[t.slot].regs, sizeof(e.regs)));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	TH_LOG("%llu landings, %llu visits were deferred", (unsigned long long)n,
	       (unsigned long long)busy);
}

static RAW_HANDLER void handler_check_entry(struct raw_landing_arg *arg,
					    struct upreempt_regs *regs, uint64_t seq)
{
	struct raw_target *t = arg->user;
	uint64_t flags;

	asm volatile("pushf; pop %0" : "=r"(flags));
	if (flags & 0x40500)		/* AC, DF, TF */
		t->wrong++;
	if (seq != arg->slot->seq)
		t->wrong++;
	if (!raw_regs_are_spin(regs, (void *)&t->count, (void *)&t->stop))
		t->wrong++;
	t->result = regs->rsp;
}

/* The landing is where and how the header says: flags, arguments, below the red zone. */
TEST_F(req, redirect_enters_the_landing_as_stated)
{
	struct upreempt_event e;
	struct raw_target t;

	raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING_CALL);
	t.handler = handler_check_entry;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (uint64_t i = 0; i < raw_scale(500); i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_TRUE(RAW_UNTIL(t.land.count == i + 1 && t.result));
		ASSERT_EQ(e.regs.rsp, (uint64_t)t.result);
		t.result = 0;
	}
	EXPECT_EQ(0, t.wrong);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

static RAW_HANDLER void handler_leave_loop(struct raw_landing_arg *arg,
					   struct upreempt_regs *regs, uint64_t seq)
{
	regs->rip = (uintptr_t)raw_spin_loop_end;
}

/* What the handler writes into the context is where the thread goes on. */
TEST_F(req, redirect_edits_the_context)
{
	struct upreempt_event e;
	struct raw_target t;

	raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING_CALL);
	t.handler = handler_leave_loop;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_TRUE(RAW_UNTIL(t.finished));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

static RAW_HANDLER void handler_slow(struct raw_landing_arg *arg, struct upreempt_regs *regs,
				     uint64_t seq)
{
	for (volatile int i = 0; i < 20000; i++)
		;
}

/* A second redirect in the first one's handler nests on the thread's own stack. */
TEST_F(req, redirects_nest)
{
	struct upreempt_event e;
	struct raw_target t;
	int nested = 0;

	raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING_CALL);
	t.handler = handler_slow;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (uint64_t i = 0; i < raw_scale(1000); i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_FALSE(raw_in_range(e.regs.rip, raw_landing_call, raw_landing_call_end));
		nested += !raw_in_spin(e.regs.rip);
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	EXPECT_LT(0, nested);
	TH_LOG("%d redirects of %llu landed in the handler", nested,
	       (unsigned long long)raw_scale(1000));
}

/* -------- a thread in a system call -------- */

TEST_F(req, sample_of_a_blocked_thread)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_reader(&t, &self->r, RAW_LANDING));
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &e));
		EXPECT_EVENT(e, UPREEMPT_BLOCKED, UPREEMPT_R_NONE, UPREEMPT_FRAME_SYSCALL);
		ASSERT_EQ(SYS_read, e.regs.orig_rax);
		ASSERT_EQ(t.pipe[0], (int)e.regs.rdi);
		ASSERT_EQ(1, e.regs.rdx);
		ASSERT_EQ(e.regs.rip, e.regs.rcx);
		ASSERT_EQ((uintptr_t)t.thread, e.regs.fs_base);
	}
	EXPECT_EQ('S', raw_state(t.tid));
	EXPECT_EQ(0, raw_reader_stop(&t));
}

/* BLOCKED at once; the call goes on and the thread is held at its return. */
TEST_F(req, stop_of_a_blocked_thread)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_reader(&t, &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
	EXPECT_EVENT(e, UPREEMPT_BLOCKED, UPREEMPT_R_NONE, UPREEMPT_FRAME_SYSCALL);
	EXPECT_EQ(1, self->r.slots[t.slot].held);
	ASSERT_EQ(1, write(t.pipe[1], "x", 1));
	raw_sleep_us(50000);
	EXPECT_EQ(0, t.count);
	EXPECT_EQ(0, t.result);
	/* the call is over: now it stands behind it */
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &e));
	EXPECT_EVENT(e, UPREEMPT_LANDED, UPREEMPT_R_NONE, UPREEMPT_FRAME_USER);
	EXPECT_EQ(1, e.regs.rax);
	ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq - 1));
	EXPECT_TRUE(RAW_UNTIL(t.count == 1));
	EXPECT_EQ(1, t.result);
	EXPECT_EQ(0, raw_reader_stop(&t));
}

/* A released STOP leaves a blocked thread as if nothing had been. */
TEST_F(req, stop_and_release_within_one_call)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_reader(&t, &self->r, RAW_NO_LANDING));
	for (uint64_t i = 0; i < raw_scale(500); i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_EQ(UPREEMPT_BLOCKED, e.outcome);
		ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
	}
	EXPECT_EQ('S', raw_state(t.tid));
	EXPECT_EQ(0, t.count);
	ASSERT_EQ(1, write(t.pipe[1], "x", 1));
	EXPECT_TRUE(RAW_UNTIL(t.count == 1));
	EXPECT_EQ(0, raw_reader_stop(&t));
}

TEST_F(req, redirect_of_a_blocked_thread)
{
	struct upreempt_request or_blocked;
	struct upreempt_event e;
	struct raw_target t;
	uint64_t seq;

	ASSERT_EQ(0, raw_reader(&t, &self->r, RAW_LANDING));
	/* it is not woken: the deadline passes */
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 30, &e));
	EXPECT_TRUE(raw_event_ok(&e));
	EXPECT_EQ(UPREEMPT_UNSAFE, e.outcome);
	EXPECT_EQ(UPREEMPT_R_IN_SYSCALL, e.reason);
	/* unless the caller has said that this is as good */
	or_blocked = raw_request_arg(t.slot, UPREEMPT_REDIRECT,
				     UPREEMPT_REQ_WAIT | UPREEMPT_REQ_OR_BLOCKED);
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &or_blocked));
	EXPECT_EVENT(or_blocked.event, UPREEMPT_BLOCKED, UPREEMPT_R_NONE, UPREEMPT_FRAME_SYSCALL);
	/* it lands at the call's return, and the call has its result */
	ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
	EXPECT_EQ(-ETIMEDOUT, raw_wait(&self->r, t.slot, seq, 0, &e));
	EXPECT_EQ(1, self->r.slots[t.slot].pending);
	EXPECT_EQ(0, t.land.count);
	ASSERT_EQ(1, write(t.pipe[1], "x", 1));
	ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
	EXPECT_EVENT(e, UPREEMPT_LANDED, UPREEMPT_R_NONE, UPREEMPT_FRAME_USER);
	EXPECT_EQ(1, e.regs.rax);
	EXPECT_TRUE(RAW_UNTIL(t.count == 1));
	EXPECT_EQ(1, t.result);
	EXPECT_EQ(1, t.land.count);
	EXPECT_EQ(0, self->r.slots[t.slot].pending);
	EXPECT_EQ(0, raw_reader_stop(&t));
}

/* -------- a thread that no CPU runs -------- */

static void body_hog(struct raw_target *t)
{
	struct sched_param p = { .sched_priority = 10 };

	sched_setscheduler(0, SCHED_FIFO, &p);
	while (!t->stop)
		t->count++;
	p.sched_priority = 0;
	sched_setscheduler(0, SCHED_OTHER, &p);
}

TEST_F(req, thread_that_is_switched_out)
{
	struct upreempt_event e;
	struct raw_target t, hog;

	if (raw_cpus() < 2)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, raw_pin(1));
	raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING);
	t.cpu = 0;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	raw_target_init(&hog, &self->r, body_hog, RAW_NO_LANDING);
	hog.cpu = 0;
	ASSERT_EQ(0, raw_target_start(&hog));
	ASSERT_TRUE(raw_target_moves(&hog));
	if (!raw_target_still(&t)) {
		raw_target_stop(&hog);
		raw_target_stop(&t);
		SKIP(return, "the thread runs beside a real-time one");
	}

	/* its saved frame is enough for a sample */
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 50, &e));
	EXPECT_EVENT(e, UPREEMPT_LANDED, UPREEMPT_R_NONE, UPREEMPT_FRAME_USER);
	EXPECT_TRUE(is_spinner(&e, &t));
	EXPECT_EQ((uintptr_t)t.thread, e.regs.fs_base);
	/* the others need it to run */
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 20, &e));
	EXPECT_EQ(UPREEMPT_UNSAFE, e.outcome);
	EXPECT_EQ(UPREEMPT_R_NOT_RUN, e.reason);
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 20, &e));
	EXPECT_EQ(UPREEMPT_UNSAFE, e.outcome);
	EXPECT_EQ(UPREEMPT_R_NOT_RUN, e.reason);
	EXPECT_EQ(0, t.land.count);

	EXPECT_EQ(0, raw_target_stop(&hog));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* More threads than CPUs: whoever is asked is switched in and out all the time. */
TEST_F(req, more_threads_than_cpus)
{
	static const uint32_t kinds[] = { UPREEMPT_SAMPLE, UPREEMPT_STOP, UPREEMPT_REDIRECT };
	uint64_t landed[6] = { 0 }, n = raw_scale(600);
	struct raw_target t[6];
	struct upreempt_event e;

	for (int i = 0; i < 6; i++)
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_LANDING));
	for (uint64_t i = 0; i < n; i++) {
		struct raw_target *x = &t[i % 6];

		ASSERT_EQ(0, raw_ask(&self->r, x->slot, kinds[i / 6 % 3], 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_TRUE(is_spinner(&e, x));
		landed[i % 6] += e.kind == UPREEMPT_REDIRECT;
		if (e.kind == UPREEMPT_STOP)
			ASSERT_EQ(0, raw_release(&self->r, x->slot, e.seq));
	}
	for (int i = 0; i < 6; i++) {
		EXPECT_EQ(0, raw_target_stop(&t[i]));
		EXPECT_EQ(landed[i], t[i].land.count);
		EXPECT_EQ(0, t[i].wrong);
	}
}

/* -------- M2, M3: targeting, release -------- */

TEST_F(req, exactly_the_thread_that_was_named)
{
	struct raw_target t[4];
	struct upreempt_stats before[4], after[4];
	struct upreempt_event e;
	uint64_t asked[4] = { 0 }, n = raw_scale(400);
	unsigned int random = 1;

	for (int i = 0; i < 4; i++) {
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_LANDING));
		ASSERT_EQ(0, raw_stats(&self->r, t[i].slot, &before[i]));
	}
	for (uint64_t i = 0; i < n; i++) {
		int x = rand_r(&random) % 4;

		ASSERT_EQ(0, raw_ask(&self->r, t[x].slot,
				     i & 1 ? UPREEMPT_REDIRECT : UPREEMPT_SAMPLE, 0, &e));
		ASSERT_EQ(t[x].tid, (int)e.tid);
		ASSERT_EQ(t[x].slot, e.slot);
		ASSERT_TRUE(is_spinner(&e, &t[x]));
		asked[x]++;
	}
	for (int i = 0; i < 4; i++) {
		ASSERT_EQ(0, raw_stats(&self->r, t[i].slot, &after[i]));
		EXPECT_EQ(asked[i], after[i].outcomes[UPREEMPT_LANDED] -
				    before[i].outcomes[UPREEMPT_LANDED]);
		EXPECT_EQ(0, after[i].outcomes[UPREEMPT_UNSAFE]);
		EXPECT_EQ(0, raw_target_stop(&t[i]));
		EXPECT_EQ(0, t[i].wrong);
	}
}

TEST_F(req, released_in_any_order)
{
	static const int orders[][3] = { { 0, 1, 2 }, { 2, 1, 0 }, { 1, 2, 0 }, { 0, 2, 1 } };
	struct raw_target t[3];
	struct upreempt_event e[3];

	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_NO_LANDING));
	for (int o = 0; o < 4; o++) {
		for (int i = 0; i < 3; i++) {
			ASSERT_EQ(0, raw_ask(&self->r, t[i].slot, UPREEMPT_STOP, 0, &e[i]));
			ASSERT_EQ(UPREEMPT_LANDED, e[i].outcome);
		}
		for (int i = 0; i < 3; i++)
			ASSERT_TRUE(raw_target_still(&t[i]));
		for (int i = 0; i < 3; i++) {
			int x = orders[o][i];

			ASSERT_EQ(0, raw_release(&self->r, t[x].slot, e[x].seq));
			ASSERT_TRUE(raw_target_moves(&t[x]));
			for (int j = i + 1; j < 3; j++)
				ASSERT_TRUE(raw_target_still(&t[orders[o][j]]));
		}
	}
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, raw_target_stop(&t[i]));
		EXPECT_EQ(0, t[i].wrong);
	}
}

TEST_F(req, stops_add_up)
{
	struct upreempt_event a, b, c;
	struct raw_target t;
	uint64_t seq;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &a));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &b));
	EXPECT_EQ(UPREEMPT_LANDED, b.outcome);
	EXPECT_EQ(a.regs.rip, b.regs.rip);
	EXPECT_EQ(2, self->r.slots[t.slot].held);
	/* a redirect waits for the last release */
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 20, &c));
	EXPECT_EQ(UPREEMPT_UNSAFE, c.outcome);
	EXPECT_EQ(UPREEMPT_R_HELD, c.reason);
	ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
	EXPECT_EQ(0, raw_release(&self->r, t.slot, a.seq));
	EXPECT_EQ(1, self->r.slots[t.slot].held);
	EXPECT_TRUE(raw_target_still(&t));
	EXPECT_EQ(-ETIMEDOUT, raw_wait(&self->r, t.slot, seq, 0, &c));
	EXPECT_EQ(0, raw_release(&self->r, t.slot, b.seq));
	EXPECT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &c));
	EXPECT_EQ(UPREEMPT_LANDED, c.outcome);
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(1, t.land.count);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* A STOP that is posted while the thread waits in the gate for another one to end */
TEST_F(req, stop_again_at_once)
{
	struct upreempt_event e;
	struct raw_target t;
	uint64_t seq;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
	for (uint64_t i = 0; i < raw_scale(500); i++) {
		ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_STOP, 0, 0, &seq));
		ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_TRUE(raw_in_spin(e.regs.rip));
	}
	EXPECT_TRUE(raw_target_still(&t));
	ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* M12: two threads that stop each other are both in a system call: no deadlock. */
static void body_stop_peer(struct raw_target *t)
{
	struct raw_target *peer = t->user;
	struct upreempt_event e;

	while (peer->ready != 1)
		sched_yield();
	for (uint64_t i = 0; i < raw_scale(200) && !t->stop; i++) {
		int ret = raw_ask(t->raw, peer->slot, UPREEMPT_STOP, 0, &e);

		if (ret == -ESRCH)	/* it is through */
			break;
		if (ret || (e.outcome != UPREEMPT_BLOCKED && e.outcome != UPREEMPT_LANDED &&
			    e.outcome != UPREEMPT_GONE))
			t->wrong++;
		if (!ret && e.outcome != UPREEMPT_GONE)
			ret = raw_release(t->raw, peer->slot, e.seq);
		if (ret == -ENOENT)	/* the test's thread was faster */
			t->result++;
		else if (ret && ret != -ESRCH)
			t->wrong++;
		t->count++;
		raw_sleep_us(i % 64);
	}
}

/*
 * Each is BLOCKED for the other and held at its call's return. When that happens to both
 * at once it takes a third party to free one: the test's own thread.
 */
TEST_F(req, two_threads_stop_each_other)
{
	struct raw_target a, b;
	int freed = 0;

	raw_target_init(&a, &self->r, body_stop_peer, RAW_NO_LANDING);
	raw_target_init(&b, &self->r, body_stop_peer, RAW_NO_LANDING);
	a.user = &b;
	b.user = &a;
	ASSERT_EQ(0, raw_target_start(&a));
	ASSERT_EQ(0, raw_target_start(&b));
	for (uint64_t end = raw_in(RAW_LONG_MS); raw_now() < end && !(a.finished && b.finished);) {
		uint64_t before = a.count + b.count;

		raw_sleep_us(20000);
		if (a.count + b.count != before || a.finished || b.finished)
			continue;
		if (self->r.slots[a.slot].held && self->r.slots[b.slot].held)
			freed += !raw_release(&self->r, a.slot, self->r.slots[a.slot].done_seq);
	}
	EXPECT_TRUE(a.finished && b.finished);
	EXPECT_EQ(0, raw_target_stop(&a));
	EXPECT_EQ(0, raw_target_stop(&b));
	EXPECT_EQ(0, a.wrong);
	EXPECT_EQ(0, b.wrong);
	/* (or it had left already when its peer came to release it) */
	EXPECT_GE(freed, a.result + b.result);
	TH_LOG("%llu and %llu stops, %d times both were held", (unsigned long long)a.count,
	       (unsigned long long)b.count, freed);
}

/* -------- cancel, deadline, off, nopreempt, CHECK -------- */

TEST_F(req, cancel)
{
	struct upreempt_event e;
	struct raw_target t;
	uint64_t seq;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	for (int kind = UPREEMPT_STOP; kind <= UPREEMPT_REDIRECT; kind++) {
		self->r.slots[t.slot].nopreempt = 1;
		ASSERT_EQ(0, raw_post(&self->r, t.slot, kind, 0, 0, &seq));
		ASSERT_EQ(-ETIMEDOUT, raw_wait(&self->r, t.slot, seq, 20, &e));
		ASSERT_EQ(0, raw_cancel(&self->r, t.slot, seq));
		EXPECT_EQ(-EALREADY, raw_cancel(&self->r, t.slot, seq));
		self->r.slots[t.slot].nopreempt = 0;
		ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, 0, &e));
		EXPECT_TRUE(raw_event_ok(&e));
		EXPECT_EQ(UPREEMPT_CANCELLED, e.outcome);
		EXPECT_TRUE(raw_target_moves(&t));
	}
	EXPECT_EQ(0, t.land.count);
	/* a pending STOP may be released instead */
	self->r.slots[t.slot].nopreempt = 1;
	ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_STOP, 0, 0, &seq));
	EXPECT_EQ(0, raw_release(&self->r, t.slot, seq));
	self->r.slots[t.slot].nopreempt = 0;
	EXPECT_EQ(0, raw_wait(&self->r, t.slot, seq, 0, &e));
	EXPECT_EQ(UPREEMPT_CANCELLED, e.outcome);
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
}

TEST_F(req, deadline)
{
	struct upreempt_event e;
	struct raw_target t;
	uint64_t deadline, before;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	self->r.slots[t.slot].nopreempt = 1;
	for (int kind = UPREEMPT_STOP; kind <= UPREEMPT_REDIRECT; kind++) {
		before = raw_now();
		deadline = raw_in(100);
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, kind, 100, &e));
		EXPECT_TRUE(raw_event_ok(&e));
		EXPECT_EQ(UPREEMPT_UNSAFE, e.outcome);
		EXPECT_EQ(UPREEMPT_R_DISABLED, e.reason);
		EXPECT_TRUE(raw_in_spin(e.regs.rip));
		EXPECT_LE(deadline, e.final_ns);
		EXPECT_LT(1, e.attempts);
		/*
		 * retried, and never a flood: 1 ms apart in the long run, however late a busy
		 * host lets the deadline's timer come
		 */
		EXPECT_GT(32 + 2 * (e.final_ns - before) / 1000000, e.attempts);
	}
	self->r.slots[t.slot].nopreempt = 0;

	/* a deadline that is over already is accepted, and final at once */
	for (int kind = UPREEMPT_SAMPLE; kind <= UPREEMPT_REDIRECT; kind++) {
		struct upreempt_request req = raw_request_arg(t.slot, kind, UPREEMPT_REQ_WAIT);
		struct upreempt_stats s[2];

		req.deadline_ns = 1;
		before = raw_now();
		raw_stats(&self->r, t.slot, &s[0]);
		ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req));
		raw_stats(&self->r, t.slot, &s[1]);
		EXPECT_TRUE(raw_event_ok(&req.event));
		EXPECT_EQ(UPREEMPT_UNSAFE, req.event.outcome);
		EXPECT_EQ(UPREEMPT_R_NOT_RUN, req.event.reason);
		EXPECT_EQ(UPREEMPT_FRAME_NONE, req.event.frame);
		EXPECT_LE(before, req.event.final_ns);
		EXPECT_EQ(s[0].ipis, s[1].ipis);
	}
	EXPECT_EQ(0, t.land.count);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

TEST_F(req, switched_off)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	for (int i = 0; i < 2; i++) {
		if (i)
			self->r.header->off = 1;
		else
			self->r.slots[t.slot].off = 1;
		for (int kind = UPREEMPT_SAMPLE; kind <= UPREEMPT_REDIRECT; kind++) {
			ASSERT_EQ(0, raw_ask(&self->r, t.slot, kind, 0, &e));
			EXPECT_EVENT(e, UPREEMPT_UNSAFE, UPREEMPT_R_OFF, UPREEMPT_FRAME_NONE);
		}
		self->r.header->off = 0;
		self->r.slots[t.slot].off = 0;
	}
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(0, raw_target_stop(&t));
}

/* Spins with preemption off until a request is pending, then on again, then CHECK. */
static void body_check(struct raw_target *t)
{
	volatile struct upreempt_slot *slot = &t->raw->slots[t->slot];

	while (!t->stop) {
		uint64_t landed;

		slot->nopreempt = 1;
		t->count++;
		while (!slot->pending && !t->stop)
			;
		landed = t->land.count;
		slot->nopreempt = 0;
		if (t->stop || !slot->pending)
			continue;
		t->result = raw_check(t->raw, t->slot);
		/* it has landed by now, at the latest at that call's return */
		if (t->land.count == landed)
			t->wrong++;
	}
	slot->nopreempt = 0;
}

TEST_F(req, check_delivers_at_its_return)
{
	struct upreempt_event e;
	struct raw_target t;

	raw_target_init(&t, &self->r, body_check, RAW_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	for (uint64_t i = 0; i < raw_scale(500); i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.result);
	EXPECT_EQ(0, t.wrong);
}

/* -------- stack -------- */

TEST_F(req, stack_bounds_and_room)
{
	struct raw_target t;
	struct upreempt_event e;
	static const struct {
		int64_t lo, hi;		/* from the stack pointer */
		uint32_t need;
		uint32_t outcome, reason;
	} cases[] = {
		{ -65536, 65536, 4096, UPREEMPT_LANDED, UPREEMPT_R_NONE },
		{ -65536, 65536, 0, UPREEMPT_LANDED, UPREEMPT_R_NONE },
		{ -65536, 65536, 65536 * 2, UPREEMPT_UNSAFE, UPREEMPT_R_STACK_ROOM },
		{ -65536, 65536, 65536 - 64, UPREEMPT_UNSAFE, UPREEMPT_R_STACK_ROOM },
		{ 32768, 65536, 0, UPREEMPT_UNSAFE, UPREEMPT_R_STACK_BOUNDS },
		{ -65536, -32768, 0, UPREEMPT_UNSAFE, UPREEMPT_R_STACK_BOUNDS },
	};

	/* where a spinner's stack pointer is: the same for each, its thread's stack is reused */
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t sp;

		ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &e));
		sp = e.regs.rsp;
		ASSERT_EQ(0, raw_target_stop(&t));

		raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING);
		t.stack_lo = sp + cases[i].lo;
		t.stack_hi = sp + cases[i].hi;
		t.stack_need = cases[i].need;
		ASSERT_EQ(0, raw_target_start(&t));
		ASSERT_TRUE(raw_target_moves(&t));
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		EXPECT_EQ(sp, e.regs.rsp);
		EXPECT_EQ(cases[i].outcome, e.outcome) {
			TH_LOG("case %zu", i);
		}
		EXPECT_EQ(cases[i].reason, e.reason) {
			TH_LOG("case %zu", i);
		}
		/* a STOP needs no stack */
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
		EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
		EXPECT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		EXPECT_EQ(0, raw_target_stop(&t));
		EXPECT_EQ(0, t.wrong);
	}
}

RAW_TEST_MAIN
