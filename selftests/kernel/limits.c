// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves U10, M12, S6, S8: what a hostile or a careless program asks too much of ends typed, and nobody else pays. */
#include "kselftest_harness.h"
#include "../include/raw_table.h"

#define MAX_REGISTRATIONS	8

/* Each registration of a thread is a callback in each of its context switches. */
TEST(a_thread_in_too_many_domains)
{
	struct raw r[MAX_REGISTRATIONS + 1];
	struct upreempt_register reg = raw_register_arg();
	int i;

	for (i = 0; i <= MAX_REGISTRATIONS; i++)
		ASSERT_EQ(0, raw_domain(&r[i], 2, 16));
	for (i = 0; i < MAX_REGISTRATIONS; i++)
		ASSERT_LE(0, raw_register(&r[i]));
	ASSERT_EQ(-EUSERS, raw_ioctl(r[i].fd, UPREEMPT_IOC_REGISTER, &reg));
	/* leaving one makes room for another */
	ASSERT_EQ(0, raw_unregister(&r[0], 0));
	reg = raw_register_arg();
	ASSERT_EQ(0, raw_ioctl(r[i].fd, UPREEMPT_IOC_REGISTER, &reg));
	for (i = 0; i <= MAX_REGISTRATIONS; i++)
		raw_close(&r[i]);
}

/* All domains of a user share one allowance; what they give back is there again. */
TEST(memory_of_a_user)
{
	struct raw a, b = { .fd = -1 }, c;

	ASSERT_EQ(0, raw_domain(&a, 1, 16));
	/* 1 MiB: 2048 slots of 512 bytes alone are too much, half of them are not, but not twice */
	ASSERT_EQ(0, raw_param("user_mb", 1));
	EXPECT_EQ(-EDQUOT, raw_domain(&b, 2048, 16));
	raw_close(&b);
	EXPECT_EQ(0, raw_domain(&b, 1024, 16));
	EXPECT_EQ(-EDQUOT, raw_domain(&c, 1024, 16));
	raw_close(&c);
	raw_close(&b);
	EXPECT_TRUE(RAW_UNTIL((raw_close(&c), !raw_domain(&c, 1024, 16))));
	raw_close(&c);
	ASSERT_EQ(0, raw_param("user_mb", 0));
	EXPECT_EQ(0, raw_domain(&c, 4096, 16));
	raw_close(&c);
	raw_close(&a);
	ASSERT_EQ(0, raw_param("user_mb", 1024));
}

/* One a jiffy: who asks for more is late, and nothing is lost. */
TEST(interrupts_of_a_user)
{
	uint64_t begin, n, before, jiffies;
	struct upreempt_stats s;
	struct upreempt_event e;
	struct upreempt_world w;
	struct raw_target t;
	struct raw r;

	ASSERT_EQ(0, raw_domain(&r, 2, 16));
	if (raw_on_other_cpu(&t, &r, raw_body_spin, RAW_NO_LANDING))
		SKIP(return, "only one CPU");
	ASSERT_EQ(0, raw_param("ipi_rate", 1));
	for (int world = 0; world < 2; world++) {
		ASSERT_EQ(0, raw_stats(&r, t.slot, &s));
		before = raw_domain_word(&r, "paced");
		begin = raw_now();
		for (n = 0; raw_domain_word(&r, "paced") < before + 10;) {
			ASSERT_GT(begin + RAW_LONG_MS * 1000000ULL, raw_now());
			if (world) {
				ASSERT_EQ(0, raw_world_stop(&r, 0, 0, RAW_LONG_MS, &w));
				ASSERT_EQ(0, w.stragglers);
				ASSERT_EQ(0, raw_world_start(&r));
				n += w.ipis;
			} else {
				ASSERT_EQ(0, raw_ask(&r, t.slot, UPREEMPT_SAMPLE, 0, &e));
				ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
			}
		}
		jiffies = (raw_now() - begin) / 1000000;	/* HZ is at most 1000 */
		if (!world) {
			n = s.ipis;
			ASSERT_EQ(0, raw_stats(&r, t.slot, &s));
			n = s.ipis - n;
		}
		EXPECT_LT(0, n);
		EXPECT_GE(jiffies + 2, n);
	}
	/* and without a limit nobody waits */
	ASSERT_EQ(0, raw_param("ipi_rate", 0));
	before = raw_domain_word(&r, "paced");
	for (int i = 0; i < 1000; i++)
		ASSERT_EQ(0, raw_ask(&r, t.slot, UPREEMPT_SAMPLE, 0, &e));
	EXPECT_EQ(before, raw_domain_word(&r, "paced"));
	ASSERT_EQ(0, raw_param("ipi_rate", 1000000));
	EXPECT_EQ(0, raw_target_stop(&t));
	raw_close(&r);
}

/*
 * A deadline that no ktime_t can hold made the timer fire for ever with interrupts off (seen
 * where no watchdog timer stands before it: boot with nowatchdog). Now it is simply far away.
 */
TEST(deadline_beyond_the_end_of_time)
{
	static const uint64_t far[] = { 1ULL << 63, ~0ULL, (1ULL << 63) - 1 };
	struct raw_target t;
	struct raw r;

	ASSERT_EQ(0, raw_domain(&r, 2, 16));
	ASSERT_EQ(0, raw_reader(&t, &r, RAW_LANDING));
	for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
		struct upreempt_request req = raw_request_arg(t.slot, UPREEMPT_REDIRECT, 0);
		struct upreempt_event e;

		req.deadline_ns = far[i];
		ASSERT_EQ(0, raw_ioctl(r.fd, UPREEMPT_IOC_REQUEST, &req));
		raw_sleep_us(100000);
		ASSERT_EQ(-ETIMEDOUT, raw_wait(&r, t.slot, req.seq, 5, &e));
		ASSERT_EQ(0, raw_cancel(&r, t.slot, req.seq));
		ASSERT_EQ(0, raw_wait(&r, t.slot, req.seq, RAW_LONG_MS, &e));
		ASSERT_EQ(UPREEMPT_CANCELLED, e.outcome);
	}
	ASSERT_EQ(0, raw_reader_stop(&t));
	raw_close(&r);
}

/* The gate of the one must not be what the other captures and resumes. */
struct twice {
	struct raw *other;
	volatile int ready;
};

static void body_spin_registered_twice(struct raw_target *t)
{
	struct twice *w = t->user;

	w->ready = raw_register(w->other) < 0 ? -1 : 1;
	raw_body_spin(t);
}

/* Registered in a, and then in b, where it has slot 0 */
static int start_registered_twice(struct raw_target *t, struct twice *w, struct raw *a,
				  struct raw *b)
{
	int ret;

	raw_target_init(t, a, body_spin_registered_twice, RAW_LANDING);
	w->other = b;
	t->user = w;
	ret = raw_target_start(t);
	return ret ? ret : RAW_UNTIL(w->ready) && w->ready == 1 ? 0 : -ETIMEDOUT;
}

TEST(held_in_one_domain_and_redirected_in_another)
{
	struct twice w = { 0 };
	struct raw a, b;
	struct raw_target t;
	struct upreempt_event stop, sample;
	uint64_t seq;

	ASSERT_EQ(0, raw_domain(&a, 2, 16));
	ASSERT_EQ(0, raw_domain(&b, 2, 16));
	ASSERT_EQ(0, start_registered_twice(&t, &w, &a, &b));

	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, raw_ask(&b, 0, UPREEMPT_STOP, 0, &stop));
		ASSERT_EQ(UPREEMPT_LANDED, stop.outcome);
		ASSERT_EQ(0, raw_post(&a, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
		ASSERT_EQ(0, raw_ask(&a, t.slot, UPREEMPT_SAMPLE, 0, &sample));
		ASSERT_EQ(stop.regs.rip, sample.regs.rip);
		ASSERT_TRUE(raw_target_still(&t));
		ASSERT_EQ(0, raw_release(&b, 0, stop.seq));
		ASSERT_EQ(0, raw_wait(&a, t.slot, seq, RAW_LONG_MS, &sample));
		ASSERT_EQ(UPREEMPT_LANDED, sample.outcome);
		ASSERT_FALSE(sample.regs.rip - (uintptr_t)a.gate < 4096 ||
			     sample.regs.rip - (uintptr_t)b.gate < 4096);
		ASSERT_TRUE(raw_target_moves(&t));
	}
	ASSERT_EQ(0, raw_target_stop(&t));
	raw_close(&a);
	raw_close(&b);
}

/*
 * A thread that a stop holds passes by all its hooks when a signal wakes it, and that of the other
 * domain, registered first, comes first: it must neither redirect the thread nor set it back to
 * the start of a sequence, because the stop has told where it is.
 */
TEST(held_in_one_domain_passes_the_hook_of_another)
{
	struct upreempt_event stop, sample;
	struct twice w = { 0 };
	struct raw_target t;
	struct raw a, b;
	struct upreempt_range again = {
		.end = raw_spin_loop_end - raw_spin_loop, .cls = UPREEMPT_CODE_RESTART,
	};
	struct upreempt_code_add area;
	uint64_t redirect, safe;
	pid_t pid;

	ASSERT_EQ(0, raw_domain(&a, 2, 16));
	ASSERT_EQ(0, raw_domain(&b, 2, 16));
	area = raw_area(raw_spin_loop, raw_spin_loop_end, UPREEMPT_CODE_SAFE, &again, 1);
	ASSERT_EQ(0, raw_code_add(&a, &area));
	ASSERT_EQ(0, start_registered_twice(&t, &w, &a, &b));
	ASSERT_TRUE(raw_target_moves(&t));

	ASSERT_EQ(0, raw_ask(&b, 0, UPREEMPT_STOP, 0, &stop));
	ASSERT_EQ(UPREEMPT_LANDED, stop.outcome);
	ASSERT_EQ(0, raw_post(&a, t.slot, UPREEMPT_REDIRECT, 0, 0, &redirect));
	ASSERT_EQ(0, raw_post(&a, t.slot, UPREEMPT_SAMPLE, UPREEMPT_REQ_SAFE, 0, &safe));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (int i = 0; i < 10; i++) {
			kill(getppid(), SIGSTOP);
			if (!RAW_UNTIL(raw_state(t.tid) == 'T'))
				_exit(1);
			kill(getppid(), SIGCONT);
			raw_sleep_us(5000);
		}
		_exit(0);
	}
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
	ASSERT_EQ(0, raw_ask(&b, 0, UPREEMPT_SAMPLE, 0, &sample));
	EXPECT_EQ(stop.regs.rip, sample.regs.rip);
	EXPECT_EQ(stop.regs.rsp, sample.regs.rsp);
	EXPECT_TRUE(raw_target_still(&t));
	ASSERT_EQ(0, raw_release(&b, 0, stop.seq));
	ASSERT_EQ(0, raw_wait(&a, t.slot, redirect, RAW_LONG_MS, &sample));
	EXPECT_EQ(UPREEMPT_LANDED, sample.outcome);
	EXPECT_NE(0, sample.attempts);
	ASSERT_EQ(0, raw_wait(&a, t.slot, safe, RAW_LONG_MS, &sample));
	EXPECT_EQ(UPREEMPT_LANDED, sample.outcome);
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	raw_close(&a);
	raw_close(&b);
}

RAW_TEST_MAIN
