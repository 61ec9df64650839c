/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * Threads for tests to ask things of: each registers itself, tells its slot and
 * runs a body until it is told to stop.
 */
#ifndef SELFTESTS_RAW_TARGET_H
#define SELFTESTS_RAW_TARGET_H

#include <pthread.h>
#include <sys/eventfd.h>

#include "raw.h"
#include "raw_landing.h"

enum raw_landing_kind { RAW_NO_LANDING, RAW_LANDING, RAW_LANDING_YIELD, RAW_LANDING_CALL };

struct raw_target {
	/* set before raw_target_start() */
	struct raw *raw;
	void (*body)(struct raw_target *t);
	enum raw_landing_kind landing;
	raw_handler *handler;
	int cpu;			/* where to run, -1: anywhere */
	uint64_t stack_lo, stack_hi;
	uint32_t stack_need;
	bool stay_registered;		/* ends without UNREGISTER */

	/* set by the thread */
	pthread_t thread;
	int tid;
	uint32_t slot;
	uint64_t id;			/* of the registration */
	volatile int ready;		/* 1, or -errno of the registration */
	volatile int finished;
	volatile uint64_t count;	/* progress of the body */
	volatile uint32_t stop;
	long wrong;			/* what the body found changed */
	volatile int64_t result;	/* of the body's system call */
	struct raw_landing_arg land;

	int pipe[2];			/* of the bodies that read */
	void *user;
};

RAW_FN void raw_target_init(struct raw_target *t, struct raw *r,
			    void (*body)(struct raw_target *t), enum raw_landing_kind landing)
{
	memset(t, 0, sizeof(*t));
	t->raw = r;
	t->body = body;
	t->landing = landing;
	t->cpu = -1;
	t->pipe[0] = -1;
	t->pipe[1] = -1;
}

/* Registers the calling thread as t says. */
RAW_FN int raw_target_register(struct raw_target *t)
{
	struct upreempt_register reg = raw_register_arg();
	int ret;

	switch (t->landing) {
	case RAW_NO_LANDING:
		break;
	case RAW_LANDING:
		reg.landing = (uintptr_t)raw_landing;
		reg.landing_end = (uintptr_t)raw_landing_end;
		break;
	case RAW_LANDING_YIELD:
		reg.landing = (uintptr_t)raw_landing_yield;
		reg.landing_end = (uintptr_t)raw_landing_yield_end;
		break;
	case RAW_LANDING_CALL:
		reg.landing = (uintptr_t)raw_landing_call;
		reg.landing_end = (uintptr_t)raw_landing_call_end;
		break;
	}
	reg.arg = (uintptr_t)&t->land;
	reg.stack_lo = t->stack_lo;
	reg.stack_hi = t->stack_hi;
	reg.stack_need = t->stack_need;
	t->land.handler = t->handler;
	t->land.user = t;
	/* It may be redirected before REGISTER returns: the landing has to know the slot. */
	do {
		if (reg.landing) {
			reg.slot = t->slot;
			t->land.slot = &t->raw->slots[t->slot];
		}
		ret = raw_ioctl(t->raw->fd, UPREEMPT_IOC_REGISTER, &reg);
	} while (ret == -EBUSY && reg.landing && ++t->slot < t->raw->setup.nr_slots);
	if (!ret) {
		t->slot = reg.slot;
		t->id = reg.id;
		t->land.slot = &t->raw->slots[t->slot];
	}
	return ret;
}

RAW_FN void *raw_target_main(void *arg)
{
	struct raw_target *t = arg;
	int ret;

	t->tid = raw_gettid();
	if (t->cpu >= 0)
		raw_pin(t->cpu);
	ret = raw_target_register(t);
	__atomic_store_n(&t->ready, ret ? ret : 1, __ATOMIC_RELEASE);
	if (!ret) {
		t->body(t);
		if (!t->stay_registered)
			raw_unregister(t->raw, t->slot);
	}
	__atomic_store_n(&t->finished, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* 0 when the thread is registered and runs its body. */
RAW_FN int raw_target_start(struct raw_target *t)
{
	int ret = pthread_create(&t->thread, NULL, raw_target_main, t);

	if (ret)
		return -ret;
	if (!RAW_UNTIL(__atomic_load_n(&t->ready, __ATOMIC_ACQUIRE)))
		return -ETIMEDOUT;
	return t->ready < 0 ? t->ready : 0;
}

/* Tells the body to end and joins; -ETIMEDOUT when it does not. */
RAW_FN int raw_target_stop(struct raw_target *t)
{
	struct timespec end;

	t->stop = 1;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += RAW_LONG_MS / 1000;
	return -pthread_timedjoin_np(t->thread, NULL, &end);
}

/* Whether the body makes progress, or does not for 20 ms. */
RAW_FN bool raw_target_moves(struct raw_target *t)
{
	uint64_t before = t->count;

	return RAW_UNTIL(t->count != before);
}

RAW_FN bool raw_target_still(struct raw_target *t)
{
	uint64_t before = t->count;

	raw_sleep_us(20000);
	return t->count == before;
}

/* -------- bodies -------- */

RAW_FN void raw_body_spin(struct raw_target *t)
{
	t->wrong = raw_spin(&t->count, &t->stop);
}

/* One read of one byte at a time; result is what read() returned or -errno. */
RAW_FN void raw_body_read(struct raw_target *t)
{
	while (!t->stop) {
		char c;
		ssize_t n = read(t->pipe[0], &c, 1);

		t->result = n < 0 ? -errno : n;
		if (n <= 0)
			break;
		t->count++;
	}
}

RAW_FN int raw_spinner(struct raw_target *t, struct raw *r, enum raw_landing_kind landing)
{
	raw_target_init(t, r, raw_body_spin, landing);
	return raw_target_start(t) ?: raw_target_moves(t) ? 0 : -ETIMEDOUT;
}

/* The caller on CPU 0, and a thread that runs on CPU 1. -ENODEV: there is no second one. */
RAW_FN int raw_on_other_cpu(struct raw_target *t, struct raw *r,
			    void (*body)(struct raw_target *t), enum raw_landing_kind landing)
{
	if (raw_cpus() < 2)
		return -ENODEV;
	raw_pin(0);
	raw_target_init(t, r, body, landing);
	t->cpu = 1;
	return raw_target_start(t);
}

/*
 * Takes the CPU away from a thread for a moment, as often as it can: where the kernel can be
 * preempted, in the middle of what it does for the thread.
 */
struct raw_preempter {
	pthread_t thread;
	volatile bool stop;
};

RAW_FN void *raw_preempter_main(void *arg)
{
	struct raw_preempter *p = arg;

	while (!p->stop)
		raw_sleep_us(20);
	return NULL;
}

/* Pins the thread, and one beside it that is more important, to the last CPU. */
RAW_FN int raw_preempt(struct raw_preempter *p, int tid)
{
	struct sched_param fifo = { .sched_priority = 1 };
	cpu_set_t set;
	int ret;

	CPU_ZERO(&set);
	CPU_SET(raw_cpus() - 1, &set);
	if (sched_setaffinity(tid, sizeof(set), &set))
		return -errno;
	p->stop = false;
	ret = -pthread_create(&p->thread, NULL, raw_preempter_main, p);
	if (!ret)
		ret = -pthread_setaffinity_np(p->thread, sizeof(set), &set);
	return ret ?: -pthread_setschedparam(p->thread, SCHED_FIFO, &fifo);
}

RAW_FN void raw_preempt_end(struct raw_preempter *p)
{
	p->stop = true;
	pthread_join(p->thread, NULL);
}

/* A thread that is asleep in read() when this returns. */
RAW_FN int raw_reader(struct raw_target *t, struct raw *r, enum raw_landing_kind landing)
{
	int ret;

	raw_target_init(t, r, raw_body_read, landing);
	if (pipe(t->pipe))
		return -errno;
	ret = raw_target_start(t);
	if (ret)
		return ret;
	return raw_sleeps(t->tid) ? 0 : -ETIMEDOUT;
}

/* Closes the pipe: the reader ends. */
RAW_FN int raw_reader_stop(struct raw_target *t)
{
	int ret;

	t->stop = 1;
	close(t->pipe[1]);
	ret = raw_target_stop(t);
	close(t->pipe[0]);
	return ret;
}

/* -------- for the harness -------- */

/* A test takes seconds; on a loaded machine, emulated, it may take its time. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	90

/* The program is skipped when there is no module; the test build's knobs are put to rest. */
#define RAW_TEST_MAIN							\
	int main(int argc, char **argv)					\
	{								\
		if (!raw_module_loaded())				\
			ksft_exit_skip("the upreempt module is not loaded\n"); \
		raw_params_reset();					\
		atexit(raw_params_reset);				\
		return test_harness_run(argc, argv);			\
	}

#define RAW_NEED_INJECT(fd)						\
	do {								\
		if (!raw_is_inject_build(fd))				\
			SKIP(return, "not a test build (UPREEMPT_INJECT=1)"); \
	} while (0)

#endif /* SELFTESTS_RAW_TARGET_H */
