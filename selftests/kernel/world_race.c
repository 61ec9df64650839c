// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves M4, M11, U10: what a stop of the world meets on its way: hooks, timers, other stops. */
#include "kselftest_harness.h"
#include <signal.h>
#include <sys/wait.h>
#include "../include/raw_world.h"

FIXTURE(race) {
	struct raw r;
};

FIXTURE_SETUP(race)
{
	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&self->r, 64, 64));
}

FIXTURE_TEARDOWN(race)
{
	raw_params_reset();
	raw_close(&self->r);
}

static struct upreempt_world stop_arg(uint64_t grace_ns, uint64_t deadline_ns)
{
	struct upreempt_world w = { .size = sizeof(w), .grace_ns = grace_ns,
				    .deadline_ns = deadline_ns };

	return w;
}

/* -------- between the epoch and the hook -------- */

static void body_getppid(struct raw_target *t)
{
	while (!t->stop) {
		t->count++;
		syscall(SYS_getppid);
	}
}

/* An IPI comes into a system call but may not arm the hook: the thread has to be waited for. */
TEST_F(race, system_call_that_returns_before_the_hook_is_armed)
{
	struct upreempt_world w;
	struct raw_target t;
	int ret;
	uint64_t moved = 0;

	RAW_NEED_INJECT(self->r.fd);
	ret = raw_on_other_cpu(&t, &self->r, body_getppid, RAW_NO_LANDING);
	if (ret == -ENODEV)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, ret);
	for (uint64_t i = 0, n = raw_scale(300); i < n; i++) {
		ASSERT_TRUE(raw_target_moves(&t));
		raw_param("inject_refuse_arm", 1);
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		moved += raw_any_move(&t, 1, 200);
		ASSERT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(0, w.stragglers);
		raw_param("inject_refuse_arm", 0);
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_EQ(0, moved);
	EXPECT_EQ(0, raw_target_stop(&t));
}

/* A thread of higher priority that takes the CPU every other millisecond. */
static void *preempter(void *stop)
{
	struct sched_param p = { .sched_priority = 1 };

	raw_pin(1);
	sched_setscheduler(0, SCHED_FIFO, &p);
	while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED))
		raw_sleep_us(2000);
	return NULL;
}

/*
 * The fault at the gate gives the thread its PC back; so does a context switch. When the one came in the middle of
 * the other the PC was 0. Needs a kernel that preempts itself: those of make check-debug do, or preempt=full.
 */
TEST_F(race, preempted_while_the_gate_is_left)
{
	struct upreempt_world w;
	struct raw_target t;
	int ret;
	pthread_t other;
	int stop = 0;

	RAW_NEED_INJECT(self->r.fd);
	ret = raw_on_other_cpu(&t, &self->r, raw_body_spin, RAW_NO_LANDING);
	if (ret == -ENODEV)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, pthread_create(&other, NULL, preempter, &stop));
	raw_param("inject_undo_delay_us", 3000);
	for (uint64_t i = 0, n = raw_scale(100); i < n; i++) {
		ASSERT_TRUE(raw_target_moves(&t));
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		EXPECT_EQ(0, w.stragglers);
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	raw_param("inject_undo_delay_us", 0);
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	pthread_join(other, NULL);
	EXPECT_EQ(0, raw_target_stop(&t));
}

/* A hook that another request has armed comes first: it may not hold just anywhere. */
TEST_F(race, hook_that_comes_before_the_ipi)
{
	struct upreempt_world w;
	struct upreempt_event e;
	struct raw_target t;
	int ret;
	int named = 0;
	uint64_t seq;

	RAW_NEED_INJECT(self->r.fd);
	ret = raw_on_other_cpu(&t, &self->r, raw_body_spin, RAW_LANDING);
	if (ret == -ENODEV)
		SKIP(return, "needs two CPUs");
	ASSERT_EQ(0, ret);
	ASSERT_TRUE(raw_target_moves(&t));
	for (int i = 0; i < 10; i++) {
		/* else it may still be in the gate */
		ASSERT_TRUE(raw_target_moves(&t));
		self->r.slots[t.slot].nopreempt = 1;
		ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
		raw_param("inject_stop_delay_us", 20000);
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 60, &w));
		raw_param("inject_stop_delay_us", 0);
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(1, w.stragglers) {
			TH_LOG("%u landed, %u preempted, %u blocked, rip 0x%llx", w.landed,
			       w.preempted, w.blocked, (unsigned long long)w.slowest.rip);
		}
		named += w.late[0].reason == UPREEMPT_R_DISABLED;
		EXPECT_TRUE(raw_target_moves(&t));
		self->r.slots[t.slot].nopreempt = 0;
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		EXPECT_EQ(0, w.stragglers);
		EXPECT_EQ(1, w.landed + w.preempted);
		EXPECT_FALSE(raw_any_move(&t, 1, 500));
		ASSERT_EQ(0, raw_world_start(&self->r));
		ASSERT_EQ(0, raw_world_start(&self->r));
		ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
		EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	}
	/* else: its CPU did not come to answer */
	EXPECT_LT(5, named);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* A thread that is waited for goes into a long system call and does not sleep there. */
#define LONG_BYTES	(256UL << 20)

static void body_late_read(struct raw_target *t)
{
	int fd = open("/dev/zero", O_RDONLY);
	char *big = mmap(NULL, LONG_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	volatile int *go = t->user;
	uint64_t start;

	if (fd < 0 || big == MAP_FAILED)
		t->wrong++;
	while (!*go)
		t->count++;
	start = raw_now();
	if (read(fd, big, LONG_BYTES) != (ssize_t)LONG_BYTES)
		t->wrong++;
	t->result = raw_now() - start;
	munmap(big, LONG_BYTES);
	close(fd);
}

static void *go_later(void *arg)
{
	raw_sleep_us(20000);
	*(volatile int *)arg = 1;
	return NULL;
}

TEST_F(race, late_thread_in_a_long_system_call)
{
	struct upreempt_world w;
	struct raw_target t;
	volatile int go = 0;
	pthread_t other;

	if (raw_cpus() < 2)
		SKIP(return, "needs two CPUs");
	raw_pin(0);
	raw_target_init(&t, &self->r, body_late_read, RAW_NO_LANDING);
	t.cpu = 1;
	t.user = (void *)&go;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	self->r.slots[t.slot].nopreempt = 1;
	ASSERT_EQ(0, pthread_create(&other, NULL, go_later, (void *)&go));
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 20000, &w));
	ASSERT_EQ(0, raw_world_start(&self->r));
	self->r.slots[t.slot].nopreempt = 0;
	EXPECT_EQ(0, raw_target_stop(&t));
	ASSERT_EQ(0, pthread_join(other, NULL));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.blocked);
	EXPECT_EQ(0, t.wrong);
	/* far less than the call has taken */
	EXPECT_GT((20000000 + t.result) / 2, w.final_ns - w.request_ns) {
		TH_LOG("stopped after %llu us, the call took %lld us",
		       (unsigned long long)(w.final_ns - w.request_ns) / 1000,
		       (long long)t.result / 1000);
	}
}

/* -------- polls and grace -------- */

static void body_poll_once(struct raw_target *t)
{
	struct upreempt_slot *slot = &t->raw->slots[t->slot];
	volatile int *go = t->user;

	while (!t->stop) {
		t->count++;
		if (*go == 1) {
			__asm__ __volatile__(".byte 0x84, 0x00"	/* test %al,(%rax) */
					     : : "a"(__atomic_load_n(&slot->trigger,
								     __ATOMIC_SEQ_CST))
					     : "cc", "memory");
			*go = 2;
		} else if (*go == 3) {
			if (raw_check(t->raw, t->slot))
				t->wrong++;
			*go = 4;
		}
	}
}

/* A poll for which nobody waited does not speak for the thread when somebody does. */
TEST_F(race, stale_poll_is_no_cooperation)
{
	struct upreempt_world w;
	struct raw_target t;
	volatile int go = 0;

	raw_target_init(&t, &self->r, body_poll_once, RAW_NO_LANDING);
	t.user = (void *)&go;
	ASSERT_EQ(0, raw_target_start(&t));
	for (int i = 0; i < 10; i++) {
		ASSERT_TRUE(raw_target_moves(&t));
		/* as a stop leaves it that was over before the thread came */
		__atomic_store_n(&self->r.slots[t.slot].trigger,
				 (uintptr_t)self->r.gate + t.slot, __ATOMIC_SEQ_CST);
		go = 1;
		ASSERT_TRUE(RAW_UNTIL(go == 2));
		EXPECT_EQ((uintptr_t)&self->r.slots[t.slot], self->r.slots[t.slot].trigger);
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 20, 5000, &w));
		EXPECT_EQ(0, w.cooperated);
		EXPECT_EQ(1, w.landed + w.preempted);
		EXPECT_LE(w.request_ns + 20000000, w.last_ns);
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_EQ(0, raw_target_stop(&t));
}

TEST_F(race, grace_without_end)
{
	struct raw_target t, poll;
	struct upreempt_world w;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	w = stop_arg(~0ULL, raw_in(30));
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &w));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.stragglers);
	EXPECT_LE(w.deadline_ns, w.final_ns);
	/* nobody comes back for it: it is forced now */
	EXPECT_TRUE(RAW_UNTIL(raw_target_still(&t)));
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));

	raw_target_init(&poll, &self->r, raw_body_poll, RAW_NO_LANDING);
	ASSERT_EQ(0, raw_target_start(&poll));
	for (int i = 0; i < 20; i++) {
		ASSERT_TRUE(raw_target_moves(&poll));
		w = stop_arg(~0ULL, i % 2 ? ~0ULL : 0);
		ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &w));
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(1, w.cooperated + w.blocked);
		EXPECT_FALSE(raw_any_move(&poll, 1, 100));
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_EQ(0, raw_target_stop(&poll));
}

/* A stop that is over leaves no word behind that CHECK does not take back. */
TEST_F(race, pending_is_taken_back)
{
	volatile int go[2] = { 0, 0 };
	struct upreempt_world w;
	struct raw_target t[2];
	int found = -1;

	if (raw_cpus() < 2)
		SKIP(return, "needs two CPUs");
	raw_pin(0);
	for (int i = 0; i < 2; i++) {
		raw_target_init(&t[i], &self->r, body_poll_once, RAW_NO_LANDING);
		t[i].cpu = 1;
		t[i].user = (void *)&go[i];
		ASSERT_EQ(0, raw_target_start(&t[i]));
		self->r.slots[t[i].slot].nopreempt = 1;
	}
	/* one of them does not run at all meanwhile */
	for (int i = 0; i < 200 && found < 0; i++) {
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 1, &w));
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(2, w.stragglers);
		ASSERT_EQ(0, raw_world_start(&self->r));
		raw_sleep_us(20000);
		for (int k = 0; k < 2; k++)
			if (self->r.slots[t[k].slot].pending)
				found = k;
	}
	if (found >= 0) {
		go[found] = 3;
		ASSERT_TRUE(RAW_UNTIL(go[found] == 4));
		EXPECT_EQ(0, self->r.slots[t[found].slot].pending);
	} else {
		TH_LOG("no word was left behind");
	}
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, raw_target_stop(&t[i]));
}

/* -------- other stops, other domains -------- */

struct second {
	struct raw *r;
	uint32_t flags;
	uint64_t ms;
	volatile int ready, go, result;
	pthread_t thread;
};

static void *second_stopper(void *arg)
{
	struct second *s = arg;
	struct upreempt_world w;
	uint64_t end;
	int slot;

	raw_pin(1);
	slot = raw_register(s->r);
	s->ready = 1;
	while (!s->go)
		;
	for (end = raw_in(1); raw_now() < end;)
		;
	s->result = raw_world_stop(s->r, s->flags, 0, s->ms, &w);
	if (!s->result)
		raw_world_start(s->r);
	raw_unregister(s->r, (uint32_t)slot);
	return NULL;
}

/* It comes between the epoch and the IPI; it is held at its return, but does not wait longer. */
TEST_F(race, registered_second_stopper_keeps_its_deadline)
{
	int refused[2] = { 0, 0 };
	struct upreempt_world w;

	RAW_NEED_INJECT(self->r.fd);
	if (raw_cpus() < 2)
		SKIP(return, "needs two CPUs");
	raw_pin(0);
	for (int i = 0; i < 200 && !(refused[0] && refused[1]); i++) {
		struct second s = { .r = &self->r, .flags = i % 2 ? UPREEMPT_WORLD_TRY : 0,
				    .ms = i % 2 ? 0 : 20, .result = 1 };

		ASSERT_EQ(0, pthread_create(&s.thread, NULL, second_stopper, &s));
		ASSERT_TRUE(RAW_UNTIL(s.ready));
		raw_param("inject_stop_delay_us", 60000);
		s.go = 1;
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		raw_param("inject_stop_delay_us", 0);
		EXPECT_TRUE(raw_world_ok(&w));
		ASSERT_EQ(0, raw_world_start(&self->r));
		ASSERT_EQ(0, pthread_join(s.thread, NULL));
		/* 0: it was switched out, and held, before its call */
		refused[i % 2] += s.result == (i % 2 ? -EAGAIN : -ETIMEDOUT);
	}
	EXPECT_LT(0, refused[0]);
	EXPECT_LT(0, refused[1]);
	TH_LOG("%d times ETIMEDOUT, %d times EAGAIN", refused[0], refused[1]);
}

static void body_both(struct raw_target *t)
{
	struct raw *other = t->user;
	int slot = raw_register(other);

	t->result = slot;
	raw_body_spin(t);
	if (raw_unregister(other, (uint32_t)slot))
		t->wrong++;
}

/* Where one domain forbids it, it does not hold the thread because another one does. */
TEST_F(race, region_without_preemption_on_the_way_to_another_gate)
{
	struct upreempt_world w, w2;
	struct raw_target t;
	struct raw r2;

	ASSERT_EQ(0, raw_domain(&r2, 8, 16));
	raw_target_init(&t, &self->r, body_both, RAW_NO_LANDING);
	t.user = &r2;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (int i = 0; i < 20; i++) {
		r2.slots[t.result].nopreempt = 1;
		ASSERT_EQ(0, raw_world_stop(&r2, 0, 0, 10, &w2));
		EXPECT_EQ(1, w2.stragglers);
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		EXPECT_EQ(1, w.landed + w.preempted);
		EXPECT_FALSE(raw_any_move(&t, 1, 1000));
		ASSERT_EQ(0, raw_world_start(&self->r));
		EXPECT_TRUE(raw_target_moves(&t));
		r2.slots[t.result].nopreempt = 0;
		ASSERT_EQ(0, raw_world_stop(&r2, 0, 0, 5000, &w2));
		EXPECT_EQ(0, w2.stragglers);
		EXPECT_FALSE(raw_any_move(&t, 1, 500));
		ASSERT_EQ(0, raw_world_start(&r2));
		ASSERT_EQ(0, raw_world_start(&r2));
		ASSERT_TRUE(raw_target_moves(&t));
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	raw_close(&r2);
}

/* A thread in two domains, whose worlds are both stopped, in any order of the starts. */
TEST_F(race, two_worlds_hold_one_thread)
{
	struct upreempt_world w, w2;
	struct raw_target t;
	struct raw r2;

	ASSERT_EQ(0, raw_domain(&r2, 8, 16));
	raw_target_init(&t, &self->r, body_both, RAW_NO_LANDING);
	t.user = &r2;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	for (uint64_t i = 0, n = raw_scale(200); i < n; i++) {
		struct raw *first = i & 1 ? &self->r : &r2, *second = i & 1 ? &r2 : &self->r;

		ASSERT_EQ(0, raw_world_stop(first, 0, 0, 5000, &w));
		ASSERT_EQ(0, raw_world_stop(second, 0, 0, 5000, &w2));
		ASSERT_TRUE(raw_world_ok(&w));
		ASSERT_TRUE(raw_world_ok(&w2));
		EXPECT_EQ(1, w.landed + w.preempted);
		EXPECT_EQ(1, w2.landed + w2.preempted);
		EXPECT_FALSE(raw_any_move(&t, 1, 50));
		ASSERT_EQ(0, raw_world_start(i & 2 ? first : second));
		EXPECT_FALSE(raw_any_move(&t, 1, 100));
		ASSERT_EQ(0, raw_world_start(i & 2 ? second : first));
		ASSERT_TRUE(raw_target_moves(&t));
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	raw_close(&r2);
}

/* A CPU that does not answer and runs somebody else's thread is nobody's straggler. */
TEST_F(race, silent_cpu_of_another_domain)
{
	struct upreempt_world w;
	struct raw_target t;
	struct raw r2;

	RAW_NEED_INJECT(self->r.fd);
	if (raw_cpus() < 2)
		SKIP(return, "needs two CPUs");
	raw_pin(0);
	ASSERT_EQ(0, raw_domain(&r2, 8, 16));
	raw_target_init(&t, &r2, raw_body_spin, RAW_NO_LANDING);
	t.cpu = 1;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	raw_param("inject_ipi_delay_us", 200000);
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 20, &w));
	raw_param("inject_ipi_delay_us", 0);
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.ipis);
	EXPECT_EQ(0, w.threads);
	EXPECT_EQ(0, w.stragglers);
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_EQ(0, raw_target_stop(&t));
	raw_close(&r2);
}

/* -------- what cannot be held -------- */

TEST_F(race, without_the_mapping_nothing_is_stopped)
{
	struct upreempt_world w = stop_arg(0, 0);

	ASSERT_EQ(0, munmap(self->r.map, self->r.size));
	EXPECT_EQ(-ENXIO, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &w));
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
	ASSERT_EQ(0, raw_map(&self->r));
	EXPECT_EQ(0, raw_world_stop(&self->r, 0, 0, 0, &w));
	EXPECT_EQ(0, raw_world_start(&self->r));
}

extern const char pause_32[], pause_32_end[];

asm(
"	.pushsection .text\n"
"pause_32:\n"
"	.byte 0xb8, 29, 0, 0, 0\n"	/* mov $29 (pause), %eax */
"	.byte 0xcd, 0x80\n"		/* int $0x80 */
"	.byte 0xeb, 0xf7\n"		/* and again */
"pause_32_end:\n"
"	.popsection\n"
);

static void body_pause_32(struct raw_target *t)
{
	unsigned char *low = t->user;

	struct __attribute__((packed)) {
		uint32_t offset;
		uint16_t segment;
	} far32 = { (uintptr_t)low, 0x23 };

	memcpy(low, pause_32, (size_t)(pause_32_end - pause_32));
	t->count = 1;
	asm volatile("	mov %0, %%rsp\n"
		     "	ljmpl *(%1)\n"
		     : : "r"(low + 4096), "r"(&far32) : "memory");
}

TEST_F(race, sleeper_with_a_32_bit_code_segment)
{
	struct upreempt_world w;
	struct raw_target t;

	raw_target_init(&t, &self->r, body_pause_32, RAW_NO_LANDING);
	t.user = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	ASSERT_NE(MAP_FAILED, t.user);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(RAW_UNTIL(t.count == 1));
	ASSERT_TRUE(raw_sleeps(t.tid));
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 30, &w));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.stragglers);
	EXPECT_EQ(UPREEMPT_R_NOT_64BIT, w.late[0].reason);
	ASSERT_EQ(0, raw_world_start(&self->r));
	/* it can never come back: the process ends with it */
}

/* A SETUP that is killed half way leaves nothing behind that is freed twice. */
TEST(killed_in_setup)
{
	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid) {
			struct raw r = { .fd = raw_open() };

			if (r.fd < 0)
				_exit(1);
			raw_setup(&r, 16384, 262144);
			for (;;)
				pause();
		}
		raw_sleep_us(2000 + (uint64_t)i * 2000);
		kill(pid, SIGKILL);
		EXPECT_TRUE(WIFSIGNALED(raw_reap(pid, RAW_LONG_MS)));
	}
}

RAW_TEST_MAIN
