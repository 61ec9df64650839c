// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* The threads of a crew, and the proof that those that sleep are left alone. */
#include "bench.h"
#include "crew.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { REST, SPIN };

/* Thousands of threads: no more stack than a landing and a handler need. */
#define STACK_BYTES	(64 << 10)

static void futex(uint32_t *word, int op, uint32_t value)
{
	syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

static void spin(struct member *m)
{
	while (__atomic_load_n(&m->crew->mode, __ATOMIC_RELAXED) == SPIN)
		m->beat++;
}

static void spin_polling(struct member *m)
{
	while (__atomic_load_n(&m->crew->mode, __ATOMIC_RELAXED) == SPIN) {
		upreempt_poll();
		m->beat++;
	}
}

static _Noreturn void spinner_main(struct member *m)
{
	struct crew *c = m->crew;

	for (;;) {
		m->at = __atomic_load_n(&c->mode, __ATOMIC_ACQUIRE);
		if (m->at != SPIN)
			futex(&c->mode, FUTEX_WAIT_PRIVATE, REST);
		else if (c->polling)
			spin_polling(m);
		else
			spin(m);
	}
}

/* One of three system calls, for ever: whatever ends it was not meant to happen. */
static _Noreturn void blocked_main(struct member *m)
{
	struct crew *c = m->crew;
	struct timespec day = { 86400, 0 };
	char byte;

	for (;;) {
		if (m->index % 3 == 0)
			(void)!read(c->pipe[0], &byte, 1);
		else if (m->index % 3 == 1)
			futex(&c->never, FUTEX_WAIT_PRIVATE, 0);
		else
			nanosleep(&day, NULL);
		__atomic_fetch_add(&c->returned, 1, __ATOMIC_RELAXED);
	}
}

static void *member_main(void *arg)
{
	struct member *m = arg;

	if (m->cpu >= 0)
		pin(m->cpu);
	if (m->crew->enter)
		m->crew->enter(m->crew);
	__atomic_store_n(&m->tid, gettid(), __ATOMIC_RELEASE);
	if (m->index < m->crew->spinners)
		spinner_main(m);
	blocked_main(m);
}

/* ---- what the kernel counts ------------------------------------------------------- */

static uint64_t field(const char *status, const char *name)
{
	const char *at = strstr(status, name);

	if (!at)
		fail("a field of /proc/self/task/TID/status is missing", 0);
	return strtoull(at + strlen(name), NULL, 10);
}

/* Context switches of a thread so far: those by itself, or all; *asleep may be NULL */
static uint64_t switches(const struct member *m, bool all, bool *asleep)
{
	char path[64], status[4096];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", m->tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, status, sizeof(status) - 1);
	if (n < 0)
		fail(path, errno);
	close(fd);
	status[n] = 0;
	if (asleep)
		*asleep = strstr(status, "State:\tS") != NULL;
	/* the first name is the end of the second one: with what stands before it */
	return field(status, "\nvoluntary_ctxt_switches:") +
	       (all ? field(status, "\nnonvoluntary_ctxt_switches:") : 0);
}

uint64_t crew_sleeps(const struct crew *c)
{
	uint64_t sum = 0;

	for (int i = 0; i < c->spinners; i++)
		sum += switches(&c->members[i], false, NULL);
	return sum;
}

static void fall_asleep(struct member *m)
{
	struct timespec ms = { 0, 1000000 };
	bool asleep;

	for (int i = 0; i < PATIENCE_S * 1000; i++) {
		m->switches = switches(m, true, &asleep);
		if (asleep)
			return;
		nanosleep(&ms, NULL);
	}
	out_of_patience("a blocked thread's falling asleep");
}

void crew_check_asleep(const struct crew *c)
{
	uint32_t returned = __atomic_load_n(&c->returned, __ATOMIC_RELAXED);
	int ran = 0;

	for (int i = c->spinners; i < c->spinners + c->blocked; i++)
		ran += switches(&c->members[i], true, NULL) != c->members[i].switches;
	if (!ran && !returned)
		return;
	fprintf(stderr, "upreempt-bench: of %d blocked threads %d have run, %u system calls "
		"have returned\n", c->blocked, ran, returned);
	fail("stopping the world must not wake blocked threads", 0);
}

/* ---- its life ------------------------------------------------------------------------ */

/* The spinners one on each CPU, the stopper's own last; where others sleep is all the same */
static void place(struct crew *c, struct member *m)
{
	m->cpu = -1;
	if (m->index >= c->spinners)
		return;
	m->cpu = bench.cpu[(m->index + 1) % bench.nr_cpus];
	c->shares |= m->cpu == bench.cpu[0];
}

void crew_start(struct crew *c)
{
	int all = c->spinners + c->blocked;
	pthread_attr_t attr;

	c->members = aligned_alloc(64, all * sizeof(*c->members));
	if (!c->members || pipe(c->pipe))
		fail("memory or pipe", 0);
	memset(c->members, 0, all * sizeof(*c->members));
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (int i = 0; i < all; i++) {
		struct member *m = &c->members[i];
		int err;

		m->crew = c;
		m->index = i;
		place(c, m);
		err = pthread_create(&m->pthread, &attr, member_main, m);
		if (err)
			fail("pthread_create", err);
	}
	pthread_attr_destroy(&attr);
	for (int i = 0; i < all; i++)
		for (int ms = 0; !__atomic_load_n(&c->members[i].tid, __ATOMIC_ACQUIRE); ms++) {
			if (ms > PATIENCE_S * 1000)
				out_of_patience("a thread's start");
			usleep(1000);
		}
	for (int i = c->spinners; i < all; i++)
		fall_asleep(&c->members[i]);
}

static void set_mode(struct crew *c, uint32_t mode)
{
	__atomic_store_n(&c->mode, mode, __ATOMIC_RELEASE);
	futex(&c->mode, FUTEX_WAKE_PRIVATE, INT_MAX);
	for (int i = 0; i < c->spinners; i++)
		for (int n = 0; c->members[i].at != mode; n++) {
			if (n > PATIENCE_S * 10000)
				out_of_patience("a spinner's change of mode");
			usleep(100);
		}
}

void crew_spin(struct crew *c)
{
	set_mode(c, SPIN);
	crew_moved(c);
}

void crew_rest(struct crew *c)
{
	set_mode(c, REST);
	usleep(500);		/* until they sleep, and a little longer */
}

void crew_moved(const struct crew *c)
{
	uint64_t beat[c->spinners + 1];

	for (int i = 0; i < c->spinners; i++)
		beat[i] = c->members[i].beat;
	for (int i = 0; i < c->spinners; i++) {
		volatile uint64_t *now = &c->members[i].beat;

		/* A CPU more than are used is not always one more that works: let it. */
		if (!c->shares && bench.nr_cpus == 2)
			SPIN_UNTIL("a spinner's resuming", *now != beat[i]);
		for (int n = 0; *now == beat[i]; n++) {
			if (n > PATIENCE_S * 10000)
				out_of_patience("a spinner's resuming");
			usleep(100);
		}
	}
}
