// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves S10, P8, U13: threads whose filter kills the process at an ioctl are stopped, sampled and
 * redirected, and go on by user resume; and what a filter has seen of a system call stays so.
 */
#include "kselftest_harness.h"
#include "../include/raw_filter.h"
#include "../include/raw_world.h"

FIXTURE(seccomp) {
	struct raw r;
};

FIXTURE_SETUP(seccomp)
{
	ASSERT_EQ(0, raw_domain(&self->r, 8, 64));
}

FIXTURE_TEARDOWN(seccomp)
{
	raw_close(&self->r);
}

/*
 * Allows read() of one byte at a time from one file to one place, rt_sigreturn() and what ends
 * a thread.
 */
static int filter_exact(int fd, const void *buf)
{
	uint64_t to = (uintptr_t)buf;
	struct sock_filter code[] = {
		RAW_FILTER_NR,
		RAW_FILTER_SKIP_IF(SYS_rt_sigreturn, 21),
		RAW_FILTER_SKIP_IF(SYS_exit, 20),
		RAW_FILTER_SKIP_IF(SYS_madvise, 19),
		RAW_FILTER_SKIP_IF(SYS_munmap, 18),
		RAW_FILTER_SKIP_IF(SYS_rt_sigprocmask, 17),
		RAW_FILTER_SKIP_IF(SYS_futex, 16),
		RAW_FILTER_SKIP_IF(SYS_set_robust_list, 15),
		RAW_FILTER_SKIP_IF(SYS_rseq, 14),
		RAW_FILTER_SKIP_UNLESS(SYS_read, 12),
		RAW_FILTER_ARG(0, 0),
		RAW_FILTER_SKIP_UNLESS(fd, 10),
		RAW_FILTER_ARG(0, 1),
		RAW_FILTER_SKIP_UNLESS(0, 8),
		RAW_FILTER_ARG(1, 0),
		RAW_FILTER_SKIP_UNLESS((uint32_t)to, 6),
		RAW_FILTER_ARG(1, 1),
		RAW_FILTER_SKIP_UNLESS(to >> 32, 4),
		RAW_FILTER_ARG(2, 0),
		RAW_FILTER_SKIP_UNLESS(1, 2),
		RAW_FILTER_ARG(2, 1),
		RAW_FILTER_SKIP_IF(0, 1),
		RAW_FILTER_KILL,
		RAW_FILTER_ALLOW,
	};

	return raw_filter(code, sizeof(code) / sizeof(*code));
}

static unsigned char byte[2];

/* The controls: the end of the thread would be UNREGISTER, */
static int unregister_under_the_filter(void)
{
	struct raw_target t;
	struct raw r;

	if (raw_domain(&r, 4, 16) || raw_filtered_spinner(&t, &r, RAW_NO_LANDING))
		return 1;
	t.stay_registered = false;
	raw_target_stop(&t);
	return 2;
}

/* or a read() is of another size than the one that may be made */
static int read_under_the_filter(size_t size)
{
	unsigned char two[] = { 1, 2 };
	int fd[2];

	if (pipe(fd) || write(fd[1], two, 2) != 2 || filter_exact(fd[0], byte))
		return 1;
	syscall(SYS_exit, read(fd[0], byte, size) == (ssize_t)size ? 3 : 2);
	return 4;
}

TEST(the_filters_kill)
{
	static const int expected[] = { SIGSYS, 3 << 8, SIGSYS };

	for (int how = 0; how < 3; how++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid)
			_exit(how ? read_under_the_filter(how) : unregister_under_the_filter());
		/* a core is dumped or not */
		EXPECT_EQ(expected[how], raw_reap(pid, RAW_LONG_MS) & ~0x80) {
			TH_LOG("case %d", how);
		}
	}
}

TEST_F(seccomp, stopped_sampled_redirected)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_filtered_spinner(&t, &self->r, RAW_LANDING));
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_TRUE(raw_regs_are_spin(&e.regs, (void *)&t.count, (void *)&t.stop));
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_TRUE(raw_sleeps(t.tid));
		if (i < 5)
			EXPECT_TRUE(raw_target_still(&t));
		ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		ASSERT_TRUE(raw_target_moves(&t));
	}
	EXPECT_EQ(100, t.land.count);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.result);
	EXPECT_EQ(0, t.wrong);
}

static volatile unsigned int signals;

static void on_signal(int signo)
{
	signals++;
}

/* count: the bytes, each the next number; result: what else read() has returned */
static void body_exact_read(struct raw_target *t)
{
	ssize_t n;

	t->stay_registered = true;
	t->result = filter_exact(t->pipe[0], byte);
	if (t->result)
		return;
	while ((n = read(t->pipe[0], byte, 1)) == 1) {
		t->wrong += byte[0] != (unsigned char)t->count;
		t->count++;
	}
	t->result = n < 0 ? -errno : 0;
}

/* Redirected in the call, at its return and on the way to its restart after a handler */
TEST_F(seccomp, a_call_stays_what_the_filter_saw)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	uint64_t n = raw_scale(300), landed = 0, blocked = 0, seq;
	struct upreempt_request req;
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	raw_target_init(&t, &self->r, body_exact_read, RAW_LANDING);
	ASSERT_EQ(0, pipe(t.pipe));
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_EQ(1, write(t.pipe[1], "", 1));
	ASSERT_TRUE(RAW_UNTIL(t.count == 1));
	for (uint64_t i = 1; i <= n; i++) {
		unsigned char c = i;

		ASSERT_TRUE(raw_sleeps(t.tid));
		req = raw_request_arg(t.slot, UPREEMPT_REDIRECT,
				      UPREEMPT_REQ_WAIT | UPREEMPT_REQ_OR_BLOCKED);
		ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req));
		landed += req.event.outcome == UPREEMPT_LANDED;
		blocked += req.event.outcome == UPREEMPT_BLOCKED;
		ASSERT_EQ(i, landed + blocked);
		/* this one lands at the return, with a byte or with a signal */
		ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
		if (i & 1)
			ASSERT_EQ(0, tgkill(getpid(), t.tid, SIGUSR1));
		ASSERT_EQ(1, write(t.pipe[1], &c, 1));
		ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_TRUE(RAW_UNTIL(t.count == i + 1));
	}
	EXPECT_NE(0, blocked);
	EXPECT_NE(0, signals);
	EXPECT_EQ(n + landed, t.land.count);
	close(t.pipe[1]);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.result);
	EXPECT_EQ(0, t.wrong);
	close(t.pipe[0]);
}

static void body_filtered_read(struct raw_target *t)
{
	t->stay_registered = true;
	t->result = raw_filter_no_ioctl();
	if (!t->result)
		raw_body_read(t);
}

TEST_F(seccomp, world)
{
	struct raw_target spin, reader;
	struct upreempt_world w;

	ASSERT_EQ(0, raw_filtered_spinner(&spin, &self->r, RAW_NO_LANDING));
	raw_target_init(&reader, &self->r, body_filtered_read, RAW_NO_LANDING);
	ASSERT_EQ(0, pipe(reader.pipe));
	ASSERT_EQ(0, raw_target_start(&reader));
	ASSERT_EQ(1, write(reader.pipe[1], "x", 1));
	ASSERT_TRUE(RAW_UNTIL(reader.count == 1));
	ASSERT_TRUE(raw_sleeps(reader.tid));
	for (uint64_t i = 0; i < 20; i++) {
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(1, w.landed + w.preempted);
		EXPECT_EQ(1, w.blocked);
		EXPECT_EQ(0, w.stragglers);
		/* the reader comes to the gate */
		ASSERT_EQ(1, write(reader.pipe[1], "x", 1));
		EXPECT_FALSE(raw_any_move(&spin, 1, 1000));
		EXPECT_EQ(1 + i, reader.count);
		ASSERT_EQ(0, raw_world_start(&self->r));
		ASSERT_TRUE(RAW_UNTIL(reader.count == 2 + i));
		ASSERT_TRUE(raw_target_moves(&spin));
		ASSERT_TRUE(raw_sleeps(reader.tid));
	}
	EXPECT_EQ(0, raw_target_stop(&spin));
	EXPECT_EQ(0, spin.wrong);
	EXPECT_EQ(0, raw_reader_stop(&reader));
	EXPECT_EQ(0, reader.result);
}

RAW_TEST_MAIN
