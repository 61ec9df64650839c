// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves G12: whichever allocation or copy of a call fails, the first, the second and so on until the call needs
 * no more of them, it fails as a whole: with ENOMEM or EFAULT, and when it is made again it succeeds and can be undone.
 * What a failed call should have freed is for kmemleak, at the end of the run on debug-kasan.
 */
#include <glob.h>
#include <sys/epoll.h>

#include "kselftest_harness.h"
#include "../include/raw_world.h"

/* More than any call here has: a sweep that comes so far does not end. */
#define MAX_SITES	2000

struct state {
	struct raw r;			/* a domain that is set up and mapped */
	struct raw fresh;		/* what the call under test makes */
	struct raw_target reader;	/* blocked in read() */
	int eventfd, epoll;
	int slot;
	uint64_t seq;
	bool failed;			/* the call failed with EFAULT a moment ago */
};

struct call {
	const char *name;
	int (*prepare)(struct state *s);
	int (*make)(struct state *s);	/* one system call; -errno */
	int (*undo)(struct state *s);
	bool has_sites;			/* or else the test tests nothing */
	bool never_fails;
};

static int make_open(struct state *s)
{
	s->fresh.fd = raw_open();
	return s->fresh.fd < 0 ? s->fresh.fd : 0;
}

static int close_fresh(struct state *s)
{
	return close(s->fresh.fd) ? -errno : 0;
}

/* When only the answer could not be written, the memory is there: the manual says to close the file. */
static int make_setup(struct state *s)
{
	int ret = raw_setup(&s->fresh, 16, 16);

	return ret == -EBUSY && s->failed ? 0 : ret;
}

static int prepare_set_up(struct state *s)
{
	return make_open(s) ?: raw_setup(&s->fresh, 16, 16);
}

static int make_map(struct state *s)
{
	return raw_map(&s->fresh);
}

static int undo_map(struct state *s)
{
	if (munmap(s->fresh.map, s->fresh.size))
		return -errno;
	return close_fresh(s);
}

static int make_register(struct state *s)
{
	s->slot = raw_register(&s->r);
	return s->slot < 0 ? s->slot : 0;
}

static int make_unregister(struct state *s)
{
	return raw_unregister(&s->r, s->slot);
}

static int set_eventfd(struct state *s, int fd)
{
	struct upreempt_eventfd e = { .size = sizeof(e), .fd = fd };

	return raw_ioctl(s->r.fd, UPREEMPT_IOC_EVENTFD, &e);
}

static int make_eventfd(struct state *s)
{
	return set_eventfd(s, s->eventfd);
}

static int undo_eventfd(struct state *s)
{
	return set_eventfd(s, -1);
}

static int make_sample(struct state *s)
{
	return raw_post(&s->r, s->reader.slot, UPREEMPT_SAMPLE, 0, 0, &s->seq);
}

/* The outcome is gone when it could not be written although a moment before it could: by injection only. */
static int make_wait(struct state *s)
{
	int ret = raw_wait(&s->r, s->reader.slot, s->seq, RAW_LONG_MS, NULL);

	return ret == -ENOENT && s->failed ? 0 : ret;
}

static int make_stop(struct state *s)
{
	struct upreempt_request req = raw_request_arg(s->reader.slot, UPREEMPT_STOP, UPREEMPT_REQ_WAIT);
	int ret = raw_ioctl(s->r.fd, UPREEMPT_IOC_REQUEST, &req);

	s->seq = req.seq;
	return ret;
}

static int make_release(struct state *s)
{
	return raw_release(&s->r, s->reader.slot, s->seq);
}

static int make_stats(struct state *s)
{
	struct upreempt_stats stats;

	return raw_stats(&s->r, UPREEMPT_ALL_SLOTS, &stats);
}

static int make_world_stop(struct state *s)
{
	struct upreempt_world w;

	return raw_world_stop(&s->r, 0, 0, 0, &w);
}

static int make_world_start(struct state *s)
{
	return raw_world_start(&s->r);
}

static int make_epoll(struct state *s)
{
	struct epoll_event e = { .events = EPOLLIN };

	return epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->r.fd, &e) ? -errno : 0;
}

static int undo_epoll(struct state *s)
{
	return epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->r.fd, NULL) ? -errno : 0;
}

static int nothing(struct state *s)
{
	return 0;
}

static const struct call calls[] = {
	{ "open", nothing, make_open, close_fresh, .has_sites = true },
	{ "SETUP", make_open, make_setup, close_fresh, .has_sites = true },
	{ "mmap", prepare_set_up, make_map, undo_map, .has_sites = true },
	{ "REGISTER", nothing, make_register, make_unregister, .has_sites = true },
	{ "UNREGISTER", make_register, make_unregister, nothing, .has_sites = true },
	{ "EVENTFD", nothing, make_eventfd, undo_eventfd, .has_sites = true },
	{ "SAMPLE", nothing, make_sample, make_wait, .has_sites = false },
	{ "WAIT", make_sample, make_wait, nothing, .has_sites = true },
	{ "STOP", nothing, make_stop, make_release, .has_sites = false },
	{ "RELEASE", make_stop, make_release, nothing, .has_sites = true },
	{ "STATS", nothing, make_stats, nothing, .has_sites = true },
	{ "WORLD_STOP", nothing, make_world_stop, make_world_start, .has_sites = true },
	{ "WORLD_START", make_world_stop, make_world_start, nothing, .never_fails = true },
	{ "epoll_ctl", nothing, make_epoll, undo_epoll, .has_sites = true },
	{ "close", prepare_set_up, close_fresh, nothing, .never_fails = true },
};

/* -------- the fault -------- */

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	(void)!write(fd, text, strlen(text));
	close(fd);
}

/* Allocations that may sleep can fail, too, and nothing is logged: a stack trace there is a failed run. */
static void put_all(const char *pattern, const char *text)
{
	glob_t g;

	if (!glob(pattern, 0, NULL, &g))
		for (size_t i = 0; i < g.gl_pathc; i++)
			put(g.gl_pathv[i], text);
	globfree(&g);
}

/* Make the call with its nth allocation or copy failing; false: it has not so many. */
static bool with_fault(int fail_fd, int n, const struct call *c, struct state *s, int *ret)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n);
	bool injected;

	if (pwrite(fail_fd, text, len, 0) != len) {
		*ret = -errno;
		return false;
	}
	*ret = c->make(s);
	memset(text, 0, sizeof(text));
	/* This copies, too: a fault that is still to come may come here. */
	injected = pread(fail_fd, text, sizeof(text) - 1, 0) > 0 && !atoi(text);
	(void)!pwrite(fail_fd, "0", 1, 0);
	return injected;
}

FIXTURE(sweep)
{
	struct state s;
	int fail_fd;
};

FIXTURE_SETUP(sweep)
{
	memset(&self->s, 0, sizeof(self->s));
	self->fail_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (self->fail_fd < 0)
		return;
	put_all("/sys/kernel/debug/fail*/ignore-gfp-wait", "N");
	put_all("/sys/kernel/debug/fail*/ignore-gfp-highmem", "N");
	put_all("/sys/kernel/debug/fail*/min-order", "0");
	put_all("/sys/kernel/debug/fail*/verbose", "0");
	ASSERT_EQ(0, raw_domain(&self->s.r, 16, 16));
	ASSERT_EQ(0, raw_reader(&self->s.reader, &self->s.r, RAW_NO_LANDING));
	self->s.eventfd = eventfd(0, EFD_CLOEXEC);
	self->s.epoll = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_LE(0, self->s.eventfd);
	ASSERT_LE(0, self->s.epoll);
}

FIXTURE_TEARDOWN(sweep)
{
	if (self->fail_fd < 0)
		return;
	EXPECT_EQ(0, raw_reader_stop(&self->s.reader));
	close(self->s.eventfd);
	close(self->s.epoll);
	raw_close(&self->s.r);
	close(self->fail_fd);
}

TEST_F(sweep, each_call_with_each_fault)
{
	if (self->fail_fd < 0)
		SKIP(return, "this kernel has no fault injection: see make check-debug");
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		const struct call *c = &calls[i];
		struct state *s = &self->s;
		int n, ret, enomem = 0, efault = 0;

		for (n = 1; n < MAX_SITES; n++) {
			bool injected;

			s->failed = false;
			ASSERT_EQ(0, c->prepare(s)) TH_LOG("before %s %d", c->name, n);
			injected = with_fault(self->fail_fd, n, c, s, &ret);
			if (injected && ret) {
				enomem += ret == -ENOMEM;
				efault += ret == -EFAULT;
				ASSERT_TRUE(!c->never_fails && (ret == -ENOMEM || ret == -EFAULT)) {
					TH_LOG("%s, fault %d: %d", c->name, n, ret);
				}
				s->failed = ret == -EFAULT;
				ret = c->make(s);
			}
			ASSERT_EQ(0, ret) TH_LOG("%s after fault %d", c->name, n);
			ASSERT_EQ(0, c->undo(s)) TH_LOG("undo %s after fault %d", c->name, n);
			if (!injected)
				break;
		}
		ASSERT_GT(MAX_SITES, n);
		TH_LOG("%s: %d faults, %d ENOMEM, %d EFAULT", c->name, n - 1, enomem, efault);
		EXPECT_TRUE(!c->has_sites || enomem + efault > 0) TH_LOG("%s: nothing failed", c->name);
	}
}

TEST_HARNESS_MAIN
