/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* What the tests of stops, handshakes and polls share: threads that block, and threads that poll. */
#ifndef SELFTESTS_LIB_UT_WORLD_H
#define SELFTESTS_LIB_UT_WORLD_H

#include "ut.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>

/* The thread sleeps in a system call */
static inline bool ut_sleeps(pid_t tid)
{
	char path[64], text[256] = "", *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = open(path, O_RDONLY);
	n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	end = n > 0 ? strrchr(text, ')') : NULL;
	return end && end[1] == ' ' && end[2] == 'S';
}

static inline int ut_join(pthread_t pthread)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 20;
	return -pthread_timedjoin_np(pthread, NULL, &ts);
}

/* Busy for a while: what sleeps cannot see that others move */
static inline void ut_busy(uint64_t ns)
{
	uint64_t end = ut_now() + ns;

	while (ut_now() < end)
		;
}

/* ---- a thread that reads bytes from a pipe ---------------------------------- */

struct ut_reader {
	struct upreempt_domain *domain;
	upreempt_handler_fn handler;
	void *arg;
	bool waits;			/* by poll(), which no handler of a signal restarts */
	struct upreempt_thread *thread;
	volatile uint64_t count;	/* bytes */
	volatile uint64_t broken;	/* waits and reads that failed */
	volatile int ready;
	int error, pipe[2];
	pthread_t pthread;
};

static inline void *ut_reader_main(void *arg)
{
	struct ut_reader *r = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = r->handler, .arg = r->arg);
	char c = 0;

	r->error = upreempt_thread_register(r->domain, &opts, &r->thread);
	__atomic_store_n(&r->ready, 1, __ATOMIC_RELEASE);
	while (!r->error && c != 'q') {
		struct pollfd p = { .fd = r->pipe[0], .events = POLLIN };

		if (r->waits && poll(&p, 1, -1) != 1)
			r->broken++;
		else if (read(r->pipe[0], &c, 1) == 1)
			r->count++;
		else
			r->broken++;
	}
	if (!r->error)
		r->error = upreempt_thread_unregister(r->thread);
	return NULL;
}

/* Start it and wait until it is blocked */
static inline int ut_reader_start(struct ut_reader *r)
{
	int err = pipe(r->pipe) ? errno : pthread_create(&r->pthread, NULL, ut_reader_main, r);

	if (err)
		return -err;
	if (!UT_UNTIL(__atomic_load_n(&r->ready, __ATOMIC_ACQUIRE)))
		return -ETIMEDOUT;
	if (r->error)
		return r->error;
	return UT_UNTIL(ut_sleeps(upreempt_thread_tid(r->thread))) ? 0 : -ETIMEDOUT;
}

static inline int ut_reader_feed(struct ut_reader *r, char c)
{
	return write(r->pipe[1], &c, 1) == 1 ? 0 : -errno;
}

static inline int ut_reader_stop(struct ut_reader *r)
{
	int err = ut_reader_feed(r, 'q');

	if (!err)
		err = ut_join(r->pthread);
	close(r->pipe[0]);
	close(r->pipe[1]);
	return err ? err : r->error;
}

/* ---- a thread that polls ------------------------------------------------------ */

enum ut_poll { UT_POLL, UT_POLL_LOAD, UT_POLL_COUNTED };

struct ut_poller {
	struct upreempt_domain *domain;
	upreempt_handler_fn handler;
	void *arg;
	enum ut_poll how;
	volatile int mute;		/* polls no more, but runs */
	struct upreempt_thread *thread;
	volatile uint64_t count;
	volatile int quit, ready;
	int error;
	pthread_t pthread;
};

static inline void *ut_poller_main(void *arg)
{
	struct ut_poller *p = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = p->handler, .arg = p->arg);

	p->error = upreempt_thread_register(p->domain, &opts, &p->thread);
	__atomic_store_n(&p->ready, 1, __ATOMIC_RELEASE);
	while (!p->error && !p->quit) {
		p->count++;
		if (p->mute)
			continue;
		if (p->how == UT_POLL)
			upreempt_poll();
		else if (p->how == UT_POLL_LOAD)
			upreempt_poll_load();
		else
			upreempt_poll_counted(16);
	}
	if (!p->error)
		p->error = upreempt_thread_unregister(p->thread);
	return NULL;
}

static inline int ut_poller_start(struct ut_poller *p)
{
	int err = pthread_create(&p->pthread, NULL, ut_poller_main, p);

	if (err)
		return -err;
	if (!UT_UNTIL(__atomic_load_n(&p->ready, __ATOMIC_ACQUIRE)))
		return -ETIMEDOUT;
	if (p->error)
		return p->error;
	return UT_UNTIL(p->count > 0) ? 0 : -ETIMEDOUT;
}

static inline int ut_poller_stop(struct ut_poller *p)
{
	int err;

	p->quit = 1;
	err = ut_join(p->pthread);
	return err ? err : p->error;
}

/* ---- a thread that is in a region, then outside -------------------------------- */

struct ut_region {
	struct upreempt_domain *domain;
	upreempt_handler_fn handler;
	bool polls;			/* instead of spinning */
	struct upreempt_thread *thread;
	volatile uint64_t inside, outside;
	volatile int leave, quit;
	int error;
	pthread_t pthread;
};

static inline void ut_region_run(struct ut_region *g, volatile uint64_t *count, volatile int *quit)
{
	if (!g->polls)
		ut_spin(count, quit);
	while (!*quit) {
		upreempt_poll();
		++*count;
	}
}

static inline void *ut_region_main(void *arg)
{
	struct ut_region *g = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = g->handler);

	prctl(PR_SET_NAME, "region");
	g->error = upreempt_thread_register(g->domain, &opts, &g->thread);
	if (g->error)
		return NULL;
	upreempt_disable();
	ut_region_run(g, &g->inside, &g->leave);
	upreempt_enable();
	ut_region_run(g, &g->outside, &g->quit);
	return NULL;
}

/* Start it and wait until it is in its region */
static inline int ut_region_start(struct ut_region *g)
{
	int err = pthread_create(&g->pthread, NULL, ut_region_main, g);

	return err ? -err : UT_UNTIL(g->inside) ? 0 : -ETIMEDOUT;
}

/* It exits as it is, registered. */
static inline int ut_region_stop(struct ut_region *g)
{
	int err;

	g->leave = 1;
	g->quit = 1;
	err = ut_join(g->pthread);
	return err ? err : g->error;
}

/* ---- stopping -------------------------------------------------------------------- */

/* With a limit, so that a lost thread is named and not waited for */
static inline int ut_world_stop(struct upreempt_domain *domain, uint64_t grace_ns,
				struct upreempt_world *w)
{
	UPREEMPT_OPTS(upreempt_world_opts, opts, .grace_ns = grace_ns, .deadline_ns = ut_limit());
	int ret = upreempt_world_stop(domain, &opts, w);
	static int remarks;
	char text[600];

	if (ret && remarks++ < 10) {
		upreempt_world_format(w, text, sizeof(text));
		printf("# stop: %d, %s\n", ret, text);
	}
	return ret;
}

/* The report adds up */
static inline bool ut_world_ok(const struct upreempt_world *w)
{
	bool ok = w->threads == w->landed + w->preempted + w->cooperated + w->blocked +
				w->stragglers &&
		  w->depth && w->request_ns <= w->sent_ns && w->sent_ns <= w->final_ns &&
		  (!w->first_ns || (w->request_ns <= w->first_ns && w->first_ns <= w->last_ns)) &&
		  w->last_ns <= w->final_ns && (!w->stragglers || w->slowest.tid == w->late[0].tid);
	char text[600];

	if (!ok) {
		upreempt_world_format(w, text, sizeof(text));
		printf("# report: %s\n", text);
	}
	return ok;
}

#endif
