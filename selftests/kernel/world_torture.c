// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves M4, M11: threads do everything at once, and nothing moves in a stopped world. */
#include "kselftest_harness.h"
#include <poll.h>
#include <signal.h>
#include "../include/raw_world.h"

#define WORKERS	8

struct worker {
	struct raw *r;
	pthread_t thread;
	volatile int tid, finished;
	volatile uint64_t count;	/* steps, only while it is registered */
	uint64_t wrong, lives;
	uint32_t seed;
};

static struct worker workers[WORKERS];
static volatile int stop_all;
static __thread struct worker *self;
static __thread volatile int counts;

static uint32_t dice(uint32_t *seed, uint32_t n)
{
	*seed = *seed * 1664525 + 1013904223;
	return (*seed >> 16) % n;
}

static void on_signal(int sig)
{
	if (counts)
		self->count++;
}

static int join(struct worker *w)
{
	int slot = raw_register(w->r);

	if (slot < 0)
		w->wrong++;
	counts = slot >= 0;
	return slot;
}

static void leave(struct worker *w, int slot)
{
	counts = 0;
	if (raw_unregister(w->r, (uint32_t)slot))
		w->wrong++;
}

static void spin(struct worker *w, uint32_t n)
{
	while (n--)
		w->count++;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct upreempt_slot *slot;
	int index;

	self = w;
	w->tid = raw_gettid();
	index = join(w);
	slot = &w->r->slots[index];
	while (!stop_all && !w->wrong) {
		switch (dice(&w->seed, 16)) {
		case 0:
			poll(NULL, 0, 1);
			break;
		case 1:
			syscall(SYS_tgkill, getpid(), workers[dice(&w->seed, WORKERS)].tid, SIGUSR1);
			break;
		case 2:
			leave(w, index);
			index = join(w);
			slot = &w->r->slots[index];
			break;
		case 3:
			__asm__ __volatile__(".byte 0x84, 0x00"	/* test %al,(%rax) */
					     : : "a"(slot->trigger) : "cc", "memory");
			break;
		case 4:
			if (raw_poll(w->r, (uint32_t)index))
				w->wrong++;
			break;
		case 5:
			__atomic_store_n(&slot->nopreempt, 1, __ATOMIC_SEQ_CST);
			spin(w, dice(&w->seed, 500));
			__atomic_store_n(&slot->nopreempt, 0, __ATOMIC_SEQ_CST);
			if (__atomic_load_n(&slot->pending, __ATOMIC_SEQ_CST))
				raw_check(w->r, (uint32_t)index);
			break;
		case 6:
			sched_yield();
			break;
		case 7:
			if (!dice(&w->seed, 8)) {
				/* with or without a word */
				if (dice(&w->seed, 2))
					leave(w, index);
				goto exit;
			}
			break;
		default:
			spin(w, dice(&w->seed, 5000));
		}
	}
	leave(w, index);
exit:
	counts = 0;
	w->finished = 1;
	return NULL;
}

static int start_worker(struct worker *w)
{
	w->finished = 0;
	w->lives++;
	return pthread_create(&w->thread, NULL, worker_main, w);
}

struct stopper {
	struct raw *r;
	bool registered;
	uint64_t n, end_ns;
	uint32_t seed;
	volatile int done;
	/* found */
	uint64_t stops, bad_report, moved, late, errors, crowd, kinds[4], ns, max_ns;
	struct upreempt_world bad;
	pthread_t thread;
};

static int inside;

static uint64_t sum(void)
{
	uint64_t n = 0;

	for (int i = 0; i < WORKERS; i++)
		n += workers[i].count;
	return n;
}

static void stop_once(struct stopper *s)
{
	uint64_t before, end, took;
	struct upreempt_world w = { .size = sizeof(w), .deadline_ns = raw_in(8000) };

	if (dice(&s->seed, 3) == 0)
		w.grace_ns = 200000;
	if (raw_ioctl(s->r->fd, UPREEMPT_IOC_WORLD_STOP, &w)) {
		s->errors++;
		return;
	}
	s->crowd += __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST) != 1;
	before = sum();
	if ((!raw_world_ok(&w) && !s->bad_report++) || (w.stragglers && !s->late))
		s->bad = w;
	s->late += w.stragglers;
	s->kinds[0] += w.landed;
	s->kinds[1] += w.preempted;
	s->kinds[2] += w.cooperated;
	s->kinds[3] += w.blocked;
	for (end = raw_in(0) + 10000 + dice(&s->seed, 50000); raw_now() < end;)
		;
	s->moved += sum() != before;
	took = w.final_ns - w.request_ns;
	s->ns += took;
	if (took > s->max_ns)
		s->max_ns = took;
	s->stops++;
	__atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
	s->errors += raw_world_start(s->r) != 0;
}

static void *stopper_main(void *arg)
{
	struct stopper *s = arg;
	int slot = s->registered ? raw_register(s->r) : 0;

	s->errors += slot < 0;
	while (s->stops < s->n && !s->errors && raw_now() < s->end_ns) {
		stop_once(s);
		for (uint64_t end = raw_now() + dice(&s->seed, 300000); raw_now() < end;)
			if (dice(&s->seed, 4) == 0)
				raw_sleep_us(50);
	}
	if (s->registered)
		s->errors += raw_unregister(s->r, (uint32_t)slot) != 0;
	s->done = 1;
	return NULL;
}

TEST(everything_at_once)
{
	struct stopper s[2] = { { .registered = false, .seed = 1 },
				{ .registered = true, .seed = 2 } };
	uint64_t wrong = 0, lives = 0, silent = 0;
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	uint64_t end = raw_in(70000);
	struct upreempt_stats stats;
	struct raw r;

	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&r, 64, 64));
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	for (int i = 0; i < WORKERS; i++) {
		workers[i].r = &r;
		workers[i].seed = 100 + i;
		ASSERT_EQ(0, start_worker(&workers[i]));
	}
	for (int i = 0; i < 2; i++) {
		s[i].r = &r;
		s[i].n = raw_scale(20000) / 2;
		s[i].end_ns = end;
		ASSERT_EQ(0, pthread_create(&s[i].thread, NULL, stopper_main, &s[i]));
	}
	/* who has died lives again */
	while (!s[0].done || !s[1].done) {
		for (int i = 0; i < WORKERS; i++) {
			if (!workers[i].finished)
				continue;
			ASSERT_EQ(0, pthread_join(workers[i].thread, NULL));
			ASSERT_EQ(0, start_worker(&workers[i]));
		}
		raw_sleep_us(2000);
		ASSERT_GT(end + 10000 * RAW_MS, raw_now());
	}
	stop_all = 1;
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_join(s[i].thread, NULL));
		EXPECT_LT(0, s[i].stops);
		EXPECT_EQ(0, s[i].errors);
		EXPECT_EQ(0, s[i].crowd);
		EXPECT_EQ(0, s[i].moved);
		EXPECT_EQ(0, s[i].bad_report);
		EXPECT_EQ(0, s[i].late) {
			TH_LOG("of %u threads %u late, reason %u at 0x%llx, after %llu us",
			       s[i].bad.threads, s[i].bad.stragglers, s[i].bad.late[0].reason,
			       (unsigned long long)s[i].bad.late[0].rip,
			       (unsigned long long)s[i].bad.late[0].ns / 1000);
		}
		TH_LOG("%llu stops, %llu us on average, %llu at most: %llu landed, "
		       "%llu preempted, %llu cooperated, %llu blocked",
		       (unsigned long long)s[i].stops,
		       (unsigned long long)(s[i].ns / (s[i].stops ?: 1) / 1000),
		       (unsigned long long)s[i].max_ns / 1000, (unsigned long long)s[i].kinds[0],
		       (unsigned long long)s[i].kinds[1], (unsigned long long)s[i].kinds[2],
		       (unsigned long long)s[i].kinds[3]);
	}
	for (int i = 0; i < WORKERS; i++) {
		ASSERT_EQ(0, pthread_join(workers[i].thread, NULL));
		wrong += workers[i].wrong;
		lives += workers[i].lives;
		silent += !workers[i].count;
	}
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0, silent);
	EXPECT_LT(WORKERS, lives);
	ASSERT_EQ(0, raw_stats(&r, UPREEMPT_ALL_SLOTS, &stats));
	EXPECT_EQ(s[0].stops + s[1].stops, stats.world_stops);
	EXPECT_EQ(0, stats.threads);
	raw_close(&r);
}

RAW_TEST_MAIN
