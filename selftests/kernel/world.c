// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves M4, M11, U10, U19, P18: stopping the world, what the report says, and whose world it is. */
#include "kselftest_harness.h"
#include <asm/processor-flags.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <sys/wait.h>
#include "../include/raw_world.h"

FIXTURE(world) {
	struct raw r;
};

FIXTURE_SETUP(world)
{
	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&self->r, 64, 64));
}

FIXTURE_TEARDOWN(world)
{
	raw_params_reset();
	raw_close(&self->r);
}

TEST_F(world, stops_what_runs_and_what_is_blocked)
{
	struct raw_target spin[3], rd[4];
	struct upreempt_world w;

	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, raw_spinner(&spin[i], &self->r, RAW_NO_LANDING));
	for (int i = 0; i < 4; i++)
		ASSERT_EQ(0, raw_reader(&rd[i], &self->r, RAW_NO_LANDING));
	for (int i = 0; i < 50; i++) {
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(7, w.threads);
		EXPECT_EQ(3, w.landed + w.preempted);
		EXPECT_EQ(4, w.blocked);
		EXPECT_EQ(0, w.stragglers);
		EXPECT_EQ(0, w.unregistered);
		EXPECT_EQ(1, w.depth);
		if (w.landed) {
			EXPECT_NE(0, w.first_ns);
			EXPECT_EQ(UPREEMPT_LANDED, w.slowest.outcome);
			EXPECT_NE(0, w.slowest.tid);
			EXPECT_TRUE(raw_in_spin(w.slowest.rip));
		}
		EXPECT_FALSE(raw_any_move(spin, 3, 3000));
		/* a blocked thread that comes back does not get far */
		ASSERT_EQ(1, write(rd[i % 4].pipe[1], "x", 1));
		EXPECT_FALSE(raw_any_move(rd, 4, 2000));
		ASSERT_EQ(0, raw_world_start(&self->r));
		ASSERT_TRUE(raw_target_moves(&spin[i % 3]));
		ASSERT_TRUE(RAW_UNTIL(rd[i % 4].count == (uint64_t)i / 4 + 1));
		ASSERT_TRUE(raw_sleeps(rd[i % 4].tid));
	}
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, raw_target_stop(&spin[i]));
		EXPECT_EQ(0, spin[i].wrong);
	}
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(0, raw_reader_stop(&rd[i]));
}

TEST_F(world, nothing_moves_in_many_stops)
{
	uint64_t n = raw_scale(3000), sum = 0, landed = 0, preempted = 0, moved = 0;
	struct upreempt_world w;
	struct raw_target t[2];

	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_NO_LANDING));
	for (uint64_t i = 0; i < n; i++) {
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		ASSERT_TRUE(raw_world_ok(&w));
		ASSERT_EQ(2, w.landed + w.preempted);
		moved += raw_any_move(t, 2, 20);
		landed += w.landed;
		preempted += w.preempted;
		sum += w.final_ns - w.request_ns;
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_EQ(0, moved);
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, raw_target_stop(&t[i]));
		EXPECT_EQ(0, t[i].wrong);
	}
	TH_LOG("%llu stops, %llu landed, %llu preempted, %llu us on average", (unsigned long long)n,
	       (unsigned long long)landed, (unsigned long long)preempted,
	       (unsigned long long)(sum / n / 1000));
}

TEST_F(world, bad_arguments)
{
	struct upreempt_world w = { .size = sizeof(w) }, bad;

	for (uint32_t size = 0; size < sizeof(w); size += 8) {
		bad = w;
		bad.size = size;
		EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &bad));
	}
	bad = w;
	bad.flags = 8;
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &bad));
	bad = w;
	bad.reserved = 1;
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &bad));
	bad = w;
	bad.strategies = UPREEMPT_BY_RETURN << 1;
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &bad));
	EXPECT_EQ(-EFAULT, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, NULL));
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_START, (void *)1));
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 0, &w));
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
}

/* A report that cannot be written stops nobody, and undoes no stop that was in force before. */
TEST_F(world, report_cannot_be_written)
{
	struct upreempt_world *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct raw_target spin, rd;
	struct upreempt_world w;

	ASSERT_NE(MAP_FAILED, page);
	page->size = sizeof(*page);
	ASSERT_EQ(0, mprotect(page, 4096, PROT_READ));
	ASSERT_EQ(0, raw_spinner(&spin, &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, raw_reader(&rd, &self->r, RAW_NO_LANDING));
	for (uint64_t i = 1; i <= 20; i++) {
		EXPECT_EQ(-EFAULT, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, page));
		EXPECT_EQ(-EPERM, raw_world_start(&self->r));
		ASSERT_TRUE(raw_target_moves(&spin));
		ASSERT_EQ(1, write(rd.pipe[1], "x", 1));
		ASSERT_TRUE(RAW_UNTIL(rd.count == i));
	}
	/* nested */
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
	EXPECT_EQ(-EFAULT, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, page));
	EXPECT_FALSE(raw_any_move(&spin, 1, 1000));
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
	EXPECT_TRUE(raw_target_moves(&spin));
	/* the report of a stop that was undone already */
	self->r.slots[spin.slot].nopreempt = 1;
	ASSERT_EQ(0, mprotect(page, 4096, PROT_READ | PROT_WRITE));
	page->flags = UPREEMPT_WORLD_ALL;
	page->deadline_ns = raw_in(20);
	ASSERT_EQ(0, mprotect(page, 4096, PROT_READ));
	EXPECT_EQ(-EFAULT, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, page));
	self->r.slots[spin.slot].nopreempt = 0;
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
	EXPECT_TRUE(raw_target_moves(&spin));
	EXPECT_EQ(0, raw_target_stop(&spin));
	EXPECT_EQ(0, spin.wrong);
	EXPECT_EQ(0, raw_reader_stop(&rd));
}

TEST_F(world, empty_domain_and_deadline_in_the_past)
{
	struct upreempt_world w;
	struct raw_target t;

	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 1000, &w));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(0, w.threads);
	EXPECT_EQ(0, w.first_ns);
	ASSERT_EQ(0, raw_world_start(&self->r));

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	memset(&w, 0, sizeof(w));
	w.size = sizeof(w);
	w.deadline_ns = 1;
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &w));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.threads);
	/* with or without it, who was late is held all the same */
	EXPECT_TRUE(RAW_UNTIL(raw_target_still(&t)));
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_EQ(0, raw_target_stop(&t));
}

TEST_F(world, nested_and_by_a_registered_thread)
{
	struct upreempt_world w;
	struct raw_target t;
	int slot = raw_register(&self->r);

	ASSERT_LE(0, slot);
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	for (uint32_t depth = 1; depth <= 3; depth++) {
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 1000, &w));
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(depth, w.depth);
		EXPECT_EQ(1, w.threads);
		EXPECT_EQ(1, w.landed + w.preempted);
	}
	EXPECT_EQ(-EBUSY, raw_unregister(&self->r, slot));
	for (int depth = 3; depth; depth--) {
		EXPECT_FALSE(raw_any_move(&t, 1, 1000));
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, raw_unregister(&self->r, slot));
}

TEST_F(world, straggler_is_named_and_caught)
{
	struct upreempt_world w;
	struct raw_target t[2];

	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_NO_LANDING));
	self->r.slots[t[0].slot].nopreempt = 1;
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 50, &w));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.stragglers);
	EXPECT_EQ(1, w.landed + w.preempted);
	EXPECT_EQ(t[0].tid, (int)w.late[0].tid);
	EXPECT_EQ(t[0].slot, w.late[0].slot);
	EXPECT_EQ(UPREEMPT_PENDING, w.late[0].outcome);
	EXPECT_EQ(UPREEMPT_R_DISABLED, w.late[0].reason);
	EXPECT_TRUE(raw_in_spin(w.late[0].rip));
	EXPECT_LT(0, w.late[0].attempts);
	EXPECT_EQ(0, w.late[1].tid);
	EXPECT_EQ(t[0].tid, (int)w.slowest.tid);
	EXPECT_STREQ("world", w.late[0].comm);
	EXPECT_TRUE(raw_target_moves(&t[0]));
	EXPECT_TRUE(raw_target_still(&t[1]));
	/* all or nothing */
	EXPECT_EQ(-ETIMEDOUT, raw_world_stop(&self->r, UPREEMPT_WORLD_ALL, 0, 20, &w));
	EXPECT_EQ(1, w.stragglers);
	EXPECT_TRUE(raw_target_still(&t[1]));
	/* the second stop waits for it */
	self->r.slots[t[0].slot].nopreempt = 0;
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
	EXPECT_EQ(2, w.depth);
	EXPECT_EQ(0, w.stragglers);
	EXPECT_FALSE(raw_any_move(t, 2, 1000));
	ASSERT_EQ(0, raw_world_start(&self->r));
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_TRUE(raw_target_moves(&t[0]));
	EXPECT_TRUE(raw_target_moves(&t[1]));
	/* from the beginning, all or nothing leaves nobody stopped */
	self->r.slots[t[0].slot].nopreempt = 1;
	EXPECT_EQ(-ETIMEDOUT, raw_world_stop(&self->r, UPREEMPT_WORLD_ALL, 0, 20, &w));
	EXPECT_TRUE(raw_target_moves(&t[1]));
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
	self->r.slots[t[0].slot].nopreempt = 0;
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, raw_target_stop(&t[i]));
}

static void *sleeper_main(void *arg)
{
	volatile int *stop = arg;

	while (!*stop)
		raw_sleep_us(1000);
	return NULL;
}

TEST_F(world, unregistered_threads_are_counted)
{
	struct upreempt_world w;
	volatile int stop = 0;
	struct raw_target t;
	pthread_t other;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, pthread_create(&other, NULL, sleeper_main, (void *)&stop));
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 1000, &w));
	EXPECT_EQ(1, w.unregistered);
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_EQ(-EBUSY, raw_world_stop(&self->r, UPREEMPT_WORLD_REGISTERED, 0, 1000, &w));
	EXPECT_EQ(1, w.unregistered);
	EXPECT_TRUE(raw_target_moves(&t));
	stop = 1;
	ASSERT_EQ(0, pthread_join(other, NULL));
	/* which returns a little before the thread is no longer one of the process */
	ASSERT_TRUE(RAW_UNTIL(!raw_world_stop(&self->r, UPREEMPT_WORLD_REGISTERED, 0, 1000, &w)));
	EXPECT_EQ(0, w.unregistered);
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_EQ(0, raw_target_stop(&t));
}

/* A kernel thread of the program's, as io_uring has them: it runs no user code, and counts. */
TEST_F(world, kernel_thread_of_an_io_uring)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 60000 };
	int fd = syscall(SYS_io_uring_setup, 4, &params);
	struct upreempt_world w;
	struct raw_target t;

	if (fd < 0)
		SKIP(return, "no io_uring: %s", strerror(errno));
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(1, w.threads);
		EXPECT_EQ(1, w.unregistered);
		EXPECT_EQ(0, w.stragglers);
		EXPECT_FALSE(raw_any_move(&t, 1, 500));
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_EQ(-EBUSY, raw_world_stop(&self->r, UPREEMPT_WORLD_REGISTERED, 0, 5000, &w));
	EXPECT_TRUE(raw_target_moves(&t));
	close(fd);
	EXPECT_EQ(0, raw_target_stop(&t));
}

static void body_register_again(struct raw_target *t)
{
	/* counts only when both calls came back */
	while (!t->stop) {
		if (raw_unregister(t->raw, t->slot) || raw_target_register(t))
			t->wrong++;
		t->count++;
	}
}

TEST_F(world, threads_that_register_and_unregister_wait)
{
	struct upreempt_world w;
	struct raw_target t;

	raw_target_init(&t, &self->r, body_register_again, RAW_NO_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	for (uint64_t i = 0, n = raw_scale(500); i < n; i++) {
		ASSERT_TRUE(raw_target_moves(&t));
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 1000, &w));
		ASSERT_TRUE(raw_world_ok(&w));
		ASSERT_LE(w.threads + w.unregistered, 2);
		/* one step at most: the UNREGISTER of a thread that was unregistered already */
		uint64_t before = t.count;

		raw_any_move(&t, 1, 300);
		ASSERT_GE(1, t.count - before);
		before = t.count;
		ASSERT_FALSE(raw_any_move(&t, 1, 100) && t.count - before > 1);
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

struct stopper {
	struct raw *r;
	uint32_t flags;
	uint64_t ms;
	volatile int result, stopped, go;
	bool registered;
	struct upreempt_world w;
	pthread_t thread;
};

/* Stops, waits for go, and exits without having started the world. */
static void *dying_stopper(void *arg)
{
	struct stopper *s = arg;

	if (s->registered)
		raw_register(s->r);
	s->result = raw_world_stop(s->r, s->flags, 0, s->ms, &s->w);
	s->stopped = 1;
	while (!s->go)
		raw_sleep_us(200);
	return NULL;
}

TEST_F(world, two_stoppers_and_a_stopper_that_dies)
{
	struct upreempt_world w;
	struct raw_target t;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	for (int i = 0; i < 10; i++) {
		struct stopper s = { .r = &self->r, .registered = i & 1 };

		ASSERT_EQ(0, pthread_create(&s.thread, NULL, dying_stopper, &s));
		ASSERT_TRUE(RAW_UNTIL(s.stopped));
		EXPECT_EQ(0, s.result);
		EXPECT_EQ(-EAGAIN, raw_world_stop(&self->r, UPREEMPT_WORLD_TRY, 0, 0, &w));
		EXPECT_EQ(-ETIMEDOUT, raw_world_stop(&self->r, 0, 0, 20, &w));
		EXPECT_EQ(-EPERM, raw_world_start(&self->r));
		EXPECT_FALSE(raw_any_move(&t, 1, 1000));
		s.go = 1;
		/* its death lets the next one in */
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		EXPECT_EQ(1, w.depth);
		ASSERT_EQ(0, raw_world_start(&self->r));
		EXPECT_TRUE(raw_target_moves(&t));
		ASSERT_EQ(0, pthread_join(s.thread, NULL));
	}
	EXPECT_EQ(0, raw_target_stop(&t));
}

TEST_F(world, stop_of_the_stopper_waits_for_the_start)
{
	struct raw_target t;
	struct upreempt_world w;
	struct upreempt_event e;
	uint64_t seq;
	int slot = raw_register(&self->r);
	struct upreempt_request req = raw_request_arg((uint32_t)slot, UPREEMPT_SAMPLE,
						      UPREEMPT_REQ_WAIT);

	ASSERT_LE(0, slot);
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 1000, &w));
	/* requests to held threads: SAMPLE and STOP at once, REDIRECT after the start */
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_TRUE(raw_in_spin(e.regs.rip));
	ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
	EXPECT_EQ(-ETIMEDOUT, raw_wait(&self->r, t.slot, seq, 30, &e));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_TRUE(raw_target_still(&t));
	ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
	ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	(void)req;
}

TEST_F(world, cpu_that_does_not_answer)
{
	struct upreempt_world w;
	struct raw_target t;
	int ret;

	RAW_NEED_INJECT(self->r.fd);
	ret = raw_on_other_cpu(&t, &self->r, raw_body_spin, RAW_NO_LANDING);
	if (ret == -ENODEV)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, ret);
	ASSERT_TRUE(raw_target_moves(&t));
	raw_param("inject_ipi_delay_us", 300000);
	for (int i = 0; i < 10; i++) {
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 20, &w));
		if (!w.preempted)
			break;
		/* another thread of the system had its CPU just then: nobody was asked */
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.stragglers);
	EXPECT_EQ(UPREEMPT_R_SILENT, w.late[0].reason);
	EXPECT_EQ(0, w.late[0].tid);
	raw_param("inject_ipi_delay_us", 0);
	/* The busy wait counts loops: on a loaded host an emulated one takes many times as long. */
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 3 * RAW_LONG_MS, &w));
	EXPECT_EQ(0, w.stragglers);
	EXPECT_EQ(1, w.landed + w.preempted);
	EXPECT_FALSE(raw_any_move(&t, 1, 1000));
	ASSERT_EQ(0, raw_world_start(&self->r));
	ASSERT_EQ(0, raw_world_start(&self->r));
	/* and the next stop counts its answers right */
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 1000, &w));
		ASSERT_EQ(0, w.stragglers);
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_EQ(0, raw_target_stop(&t));
}

/* -------- time to come by oneself -------- */

static void cooperate(struct __test_metadata *_metadata, struct raw *r,
		      void (*body)(struct raw_target *t))
{
	uint64_t n = raw_scale(1000), coop = 0, other = 0;
	struct upreempt_event e;
	struct upreempt_world w;
	struct raw_target t;

	raw_target_init(&t, r, body, RAW_NO_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (uint64_t i = 0; i < n; i++) {
		/* else it may still be held, which is no way to come */
		ASSERT_TRUE(raw_target_moves(&t));
		ASSERT_EQ(0, raw_world_stop(r, 0, 2000, 5000, &w));
		ASSERT_TRUE(raw_world_ok(&w));
		coop += w.cooperated;
		other += w.landed + w.preempted;
		ASSERT_EQ(0, w.stragglers);
		ASSERT_FALSE(raw_any_move(&t, 1, 20));
		/* or a breakpoint of somebody's at the instruction would not be met */
		ASSERT_EQ(0, raw_ask(r, t.slot, UPREEMPT_SAMPLE, 0, &e));
		ASSERT_EQ(0, e.regs.rflags & X86_EFLAGS_RF);
		ASSERT_EQ(0, raw_world_start(r));
	}
	EXPECT_EQ(0, other);
	EXPECT_LE(n - n / 100, coop);
	TH_LOG("%llu of %llu came by themselves", (unsigned long long)coop, (unsigned long long)n);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

TEST_F(world, grace_lets_a_polling_thread_come)
{
	cooperate(_metadata, &self->r, raw_body_poll);
}

TEST_F(world, grace_lets_a_thread_come_that_polls_by_a_load)
{
	cooperate(_metadata, &self->r, raw_body_trigger);
}

TEST_F(world, grace_ends_for_a_thread_that_does_not_poll)
{
	struct upreempt_world w;
	struct raw_target t[3];

	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_NO_LANDING));
	for (int i = 0; i < 20; i++) {
		ASSERT_TRUE(raw_target_moves(&t[0]));
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 5, 5000, &w));
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(3, w.landed + w.preempted);
		EXPECT_LE(w.request_ns + 5000000, w.last_ns);
		EXPECT_FALSE(raw_any_move(t, 3, 500));
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(0, raw_target_stop(&t[i]));
}

/* Exactly one of the two: by itself, or by force when its time is over. */
TEST_F(world, request_with_grace)
{
	static const uint32_t kinds[] = { UPREEMPT_SAMPLE, UPREEMPT_STOP, UPREEMPT_REDIRECT };
	uint64_t coop = 0, forced = 0, redirects = 0;
	struct raw_target poll, spin;

	raw_target_init(&poll, &self->r, raw_body_poll, RAW_LANDING);
	ASSERT_EQ(0, raw_target_start(&poll));
	ASSERT_EQ(0, raw_spinner(&spin, &self->r, RAW_LANDING));
	for (uint64_t i = 0, n = raw_scale(600); i < n; i++) {
		struct raw_target *t = i % 2 ? &poll : &spin;
		struct upreempt_request req = raw_request_arg(t->slot, kinds[i / 2 % 3],
							      UPREEMPT_REQ_WAIT);

		req.grace_ns = t == &poll ? 2000000000 : 1000000;
		ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req));
		if (t == &poll) {
			/* a kernel that preempts itself may switch it out inside the poll */
			if (req.event.outcome != UPREEMPT_BLOCKED)
				EXPECT_EQ(UPREEMPT_COOPERATED, req.event.outcome);
			coop += req.event.outcome == UPREEMPT_COOPERATED;
		} else {
			EXPECT_EQ(UPREEMPT_LANDED, req.event.outcome);
			EXPECT_LE(req.event.request_ns + 1000000, req.event.final_ns);
			forced++;
		}
		redirects += req.kind == UPREEMPT_REDIRECT;
		if (req.kind == UPREEMPT_STOP) {
			EXPECT_FALSE(raw_any_move(t, 1, 50));
			ASSERT_EQ(0, raw_release(&self->r, t->slot, req.seq));
		}
	}
	EXPECT_EQ(0, raw_target_stop(&poll));
	EXPECT_EQ(0, raw_target_stop(&spin));
	EXPECT_LE(forced - forced / 10, coop);
	EXPECT_EQ(redirects, poll.land.count + spin.land.count);
	EXPECT_EQ(0, poll.wrong + spin.wrong);
	TH_LOG("%llu by themselves, %llu forced", (unsigned long long)coop,
	       (unsigned long long)forced);
}

RAW_TEST_MAIN
