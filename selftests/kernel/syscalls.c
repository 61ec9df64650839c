// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves U1, U2, U4, U7, P7, P8: system calls see nothing of a storm of requests: no EINTR, no changed timeout, no signal. */
#include "kselftest_harness.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "../include/raw_target.h"

/* A timeout that is this much longer than asked for was started anew. */
#define SLACK_MS	1500

static volatile int signals_seen;

static void on_signal(int sig)
{
	signals_seen++;
}

FIXTURE(storm) {
	struct raw r;
	struct raw_target t;
	pthread_t thread;
	volatile int stop;
	volatile uint64_t samples, stops, redirects, wrong;
};

/* One request; false when it was not made, or not as it should be (wrong). */
static bool storm_ask(FIXTURE_DATA(storm) *s, uint32_t kind, struct upreempt_event *e)
{
	int ret = raw_ask(&s->r, s->t.slot, kind, 0, e);

	if (ret == -EAGAIN)	/* the redirects have taken all places for a moment */
		return false;
	if (!ret && (e->outcome == UPREEMPT_BLOCKED || e->outcome == UPREEMPT_LANDED))
		return true;
	if (!s->wrong++)
		printf("# first wrong: kind %u ret %d outcome %u reason %u\n", kind, ret,
		       ret ? 0 : e->outcome, ret ? 0 : e->reason);
	return false;
}

/* As fast as it goes: SAMPLE, STOP and RELEASE, a REDIRECT now and then. */
static void *storm_main(void *arg)
{
	FIXTURE_DATA(storm) *s = arg;
	struct upreempt_event e;

	for (uint64_t i = 0; !s->stop; i++) {
		s->samples += storm_ask(s, UPREEMPT_SAMPLE, &e);
		if (storm_ask(s, UPREEMPT_STOP, &e)) {
			s->stops++;
			if (i % 16 == 3)
				raw_sleep_us(200);
			s->wrong += raw_release(&s->r, s->t.slot, e.seq) != 0;
		}
		if (i % 8 == 5) {
			s->redirects += !raw_post(&s->r, s->t.slot, UPREEMPT_REDIRECT,
						  UPREEMPT_REQ_RING, raw_in(2), NULL);
			__atomic_store_n(&s->r.header->tail, s->r.header->head, __ATOMIC_RELEASE);
		}
	}
	return NULL;
}

FIXTURE_SETUP(storm)
{
	for (int sig = 1; sig < SIGRTMAX; sig++)
		if (sig != SIGKILL && sig != SIGSTOP && sig != SIGSEGV && sig != SIGABRT)
			signal(sig, on_signal);
	ASSERT_EQ(0, raw_domain(&self->r, 4, 4096));
	self->stop = 0;
	self->samples = self->stops = self->redirects = self->wrong = 0;
}

FIXTURE_TEARDOWN(storm)
{
	raw_close(&self->r);
}

/* Runs the body of the test's thread under the storm and looks at what it has found. */
#define UNDER_STORM(the_body)						\
	do {								\
		raw_target_init(&self->t, &self->r, the_body, RAW_LANDING); \
		self->t.user = self;					\
		ASSERT_EQ(0, raw_target_start(&self->t));		\
		ASSERT_EQ(0, pthread_create(&self->thread, NULL, storm_main, self)); \
		for (int __i = 0; __i < 250 && !self->t.count; __i++)	\
			raw_sleep_us(100000);				\
		self->stop = 1;						\
		ASSERT_EQ(0, pthread_join(self->thread, NULL));		\
		EXPECT_EQ(1, self->t.count);				\
		EXPECT_EQ(0, raw_target_stop(&self->t));		\
		EXPECT_EQ(0, self->t.result);				\
		EXPECT_EQ(0, self->t.wrong);				\
		EXPECT_EQ(0, self->wrong);				\
		EXPECT_EQ(0, signals_seen);				\
		TH_LOG("%llu samples, %llu stops, %llu redirects",	\
		       (unsigned long long)self->samples,		\
		       (unsigned long long)self->stops,			\
		       (unsigned long long)self->redirects);		\
	} while (0)

/*
 * A body says when it is through (count = 1) and then waits for the end of the storm, so
 * that no request finds its slot free. result: the first error, as -errno or line number.
 */
static void body_end(struct raw_target *t)
{
	t->count = 1;
	while (!t->stop)
		raw_sleep_us(1000);
}

#define CHECK(condition)						\
	do {								\
		errno = 0;						\
		if (!(condition) && !t->result)				\
			t->result = errno ? -errno : __LINE__;		\
	} while (0)

/* Whether something that began at start took ms, and neither less nor far more. */
static bool took(uint64_t start, uint64_t ms)
{
	uint64_t ns = raw_now() - start;

	return ns >= ms * RAW_MS && ns < (ms + SLACK_MS) * RAW_MS;
}

/* -------- timeouts -------- */

static void body_poll_timeout(struct raw_target *t)
{
	struct pollfd p = { .events = POLLIN };
	int fds[2];

	CHECK(pipe(fds) == 0);
	p.fd = fds[0];
	for (int i = 0; i < 5; i++) {
		uint64_t start = raw_now();

		CHECK(poll(&p, 1, 100) == 0);
		CHECK(took(start, 100));
	}
	body_end(t);
}

TEST_F(storm, poll_with_timeout)
{
	UNDER_STORM(body_poll_timeout);
}

static void body_select(struct raw_target *t)
{
	for (int i = 0; i < 5; i++) {
		struct timeval tv = { .tv_usec = 100000 };
		uint64_t start = raw_now();

		CHECK(select(0, NULL, NULL, NULL, &tv) == 0);
		CHECK(took(start, 100));
	}
	body_end(t);
}

TEST_F(storm, select_with_timeout)
{
	UNDER_STORM(body_select);
}

static void body_nanosleep(struct raw_target *t)
{
	for (int i = 0; i < 5; i++) {
		struct timespec ts = { .tv_nsec = 100000000 };
		uint64_t start = raw_now();

		CHECK(nanosleep(&ts, &ts) == 0);
		CHECK(took(start, 100));
		ts = (struct timespec){ .tv_nsec = 100000000 };
		start = raw_now();
		CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == 0);
		CHECK(took(start, 100));
	}
	body_end(t);
}

TEST_F(storm, nanosleep)
{
	UNDER_STORM(body_nanosleep);
}

static void body_futex_timeout(struct raw_target *t)
{
	uint32_t word = 0;

	for (int i = 0; i < 5; i++) {
		struct timespec ts = { .tv_nsec = 100000000 };
		uint64_t start = raw_now();
		long ret = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &ts, NULL, 0);

		if (!(ret == -1 && errno == ETIMEDOUT) && !t->result)
			t->result = ret ? -errno : __LINE__;
		CHECK(took(start, 100));
	}
	body_end(t);
}

TEST_F(storm, futex_with_timeout)
{
	UNDER_STORM(body_futex_timeout);
}

static void body_epoll_timeout(struct raw_target *t)
{
	int ep = epoll_create1(0);
	struct epoll_event ev;

	CHECK(ep >= 0);
	for (int i = 0; i < 5; i++) {
		uint64_t start = raw_now();

		CHECK(epoll_wait(ep, &ev, 1, 100) == 0);
		CHECK(took(start, 100));
	}
	body_end(t);
}

TEST_F(storm, epoll_wait_with_timeout)
{
	UNDER_STORM(body_epoll_timeout);
}

static void body_sigtimedwait(struct raw_target *t)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < 5; i++) {
		struct timespec ts = { .tv_nsec = 100000000 };
		uint64_t start = raw_now();
		int ret = sigtimedwait(&set, NULL, &ts);

		if (!(ret == -1 && errno == EAGAIN) && !t->result)
			t->result = ret < 0 ? -errno : __LINE__;
		CHECK(took(start, 100));
	}
	body_end(t);
}

TEST_F(storm, sigtimedwait)
{
	UNDER_STORM(body_sigtimedwait);
}

static void body_rcvtimeo(struct raw_target *t)
{
	struct timeval tv = { .tv_usec = 100000 };
	int fds[2];
	char c;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
	CHECK(setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) == 0);
	for (int i = 0; i < 5; i++) {
		uint64_t start = raw_now();
		ssize_t n = recv(fds[0], &c, 1, 0);

		if (!(n == -1 && errno == EAGAIN) && !t->result)
			t->result = n < 0 ? -errno : __LINE__;
		/* counted in ticks, so it may end up to one and a half of them early */
		CHECK(took(start, 85));
	}
	body_end(t);
}

TEST_F(storm, recv_with_timeout)
{
	UNDER_STORM(body_rcvtimeo);
}

/* -------- data -------- */

#define BYTES	(256 * 1024)

static void *writer(void *arg)
{
	int fd = *(int *)arg;
	unsigned char buf[777];

	for (uint64_t done = 0; done < raw_scale(BYTES);) {
		size_t n = raw_scale(BYTES) - done;

		n = n < sizeof(buf) ? n : sizeof(buf);
		for (size_t i = 0; i < n; i++)
			buf[i] = (done + i) * 7 % 251;
		if (write(fd, buf, n) != (ssize_t)n)
			break;
		done += n;
		if (done % 16 == 3)
			usleep(100);
	}
	close(fd);
	return NULL;
}

/* Each byte of the other end arrives once and in order. */
static void read_all(struct raw_target *t, int fd)
{
	unsigned char buf[1000];
	uint64_t got = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			t->wrong += buf[i] != (got + i) * 7 % 251;
		got += n;
	}
	if (n < 0 && !t->result)
		t->result = -errno;
	CHECK(got == raw_scale(BYTES));
}

static void body_pipe(struct raw_target *t)
{
	pthread_t thread;
	int fds[2];

	CHECK(pipe(fds) == 0);
	CHECK(pthread_create(&thread, NULL, writer, &fds[1]) == 0);
	read_all(t, fds[0]);
	pthread_join(thread, NULL);
	body_end(t);
}

TEST_F(storm, read_from_a_pipe)
{
	UNDER_STORM(body_pipe);
}

static void *reader(void *arg)
{
	struct raw_target *t = arg;

	read_all(t, t->pipe[0]);
	return NULL;
}

static void body_write(struct raw_target *t)
{
	pthread_t thread;

	CHECK(pipe(t->pipe) == 0);
	CHECK(pthread_create(&thread, NULL, reader, t) == 0);
	writer(&t->pipe[1]);
	pthread_join(thread, NULL);
	body_end(t);
}

TEST_F(storm, write_to_a_pipe)
{
	UNDER_STORM(body_write);
}

static void *connector(void *arg)
{
	struct sockaddr_un *addr = arg;

	for (int i = 0; i < 20; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		usleep(10000);
		connect(fd, (struct sockaddr *)addr, sizeof(*addr));
		if (write(fd, "x", 1) != 1)
			break;
		close(fd);
	}
	return NULL;
}

static void body_accept(struct raw_target *t)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	pthread_t thread;

	snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "upreempt-%d", getpid());
	CHECK(bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	CHECK(listen(fd, 4) == 0);
	CHECK(pthread_create(&thread, NULL, connector, &addr) == 0);
	for (int i = 0; i < 20; i++) {
		int conn = accept(fd, NULL, NULL);
		char c;

		CHECK(conn >= 0);
		CHECK(read(conn, &c, 1) == 1 && c == 'x');
		close(conn);
	}
	pthread_join(thread, NULL);
	body_end(t);
}

TEST_F(storm, accept)
{
	UNDER_STORM(body_accept);
}

/* -------- fork and exec under the storm (U7) -------- */

static void body_fork(struct raw_target *t)
{
	for (int i = 0; i < 30; i++) {
		pid_t pid = fork();
		int status = -1;

		if (!pid)
			_exit(42);
		CHECK(pid > 0);
		CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 42);
	}
	for (int i = 0; i < 10; i++) {
		pid_t pid = vfork();
		int status = -1;

		if (!pid) {
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		CHECK(pid > 0);
		CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	}
	signals_seen = 0;	/* SIGCHLD */
	body_end(t);
}

TEST_F(storm, fork_vfork_exec)
{
	signal(SIGCHLD, SIG_DFL);
	UNDER_STORM(body_fork);
}

/* -------- restart -------- */

/* SIGSTOP and SIGCONT restart poll() and nanosleep() by restart_syscall(2): so it stays. */
static void body_restart(struct raw_target *t)
{
	struct timespec ts = { .tv_nsec = 300000000 };
	uint64_t start = raw_now();
	struct pollfd p = { .fd = -1 };

	CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == 0);
	CHECK(took(start, 300));
	start = raw_now();
	CHECK(poll(&p, 0, 300) == 0);
	CHECK(took(start, 300));
	body_end(t);
}

TEST_F(storm, restart_after_sigcont)
{
	pid_t pid;

	signal(SIGCONT, SIG_DFL);
	signal(SIGCHLD, SIG_DFL);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (int i = 0; i < 40; i++) {
			kill(getppid(), SIGSTOP);
			raw_sleep_us(5000);
			kill(getppid(), SIGCONT);
			raw_sleep_us(15000);
		}
		_exit(0);
	}
	UNDER_STORM(body_restart);
	/* It ends by itself: killed between its two signals it would leave us stopped. */
	waitpid(pid, NULL, 0);
}

/* For each byte that comes, stops the whole process for a moment. */
static pid_t job_control(int *go)
{
	int fds[2];
	pid_t pid;
	char c;

	if (pipe(fds))
		return -1;
	*go = fds[1];
	pid = fork();
	if (pid)
		return pid;
	close(fds[1]);
	while (read(fds[0], &c, 1) == 1) {
		kill(getppid(), SIGSTOP);
		raw_sleep_us(1000);
		kill(getppid(), SIGCONT);
	}
	_exit(0);
}

/*
 * A sleeping call is interrupted without a handler, with a redirect pending: it lands where
 * the call is about to be made again, PC and rax set back by the kernel, and nothing sets them
 * back a second time, in the landing or after it. again: the number of the call to be made.
 */
static void redirect_at_restart(struct __test_metadata *_metadata, struct raw *r,
				struct raw_target *t, uint64_t nr, uint64_t again)
{
	uint64_t end = raw_in(3000), landed = 0, seq;
	struct upreempt_event e;
	int go = -1, ret;
	pid_t pid;

	signal(SIGCONT, SIG_DFL);
	signal(SIGCHLD, SIG_DFL);
	pid = job_control(&go);
	ASSERT_LT(0, pid);
	while (landed < raw_scale(100) && raw_now() < end) {
		ASSERT_TRUE(raw_sleeps(t->tid));
		ASSERT_EQ(0, raw_post(r, t->slot, UPREEMPT_REDIRECT, 0, 0, &seq));
		ASSERT_EQ(-ETIMEDOUT, raw_wait(r, t->slot, seq, 0, &e));
		/* a SIGCONT may come before the thread has seen the stop: again */
		for (int tries = 0; tries < 30; tries++) {
			ASSERT_EQ(1, write(go, "x", 1));
			do {
				ret = raw_wait(r, t->slot, seq, 300, &e);
			} while (ret == -EINTR);
			if (ret != -ETIMEDOUT)
				break;
		}
		ASSERT_EQ(0, ret);
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_EQ(0, memcmp((void *)e.regs.rip, "\x0f\x05", 2));
		ASSERT_EQ(again, e.regs.rax);
		ASSERT_EQ(landed ? again : nr, e.regs.orig_rax);
		landed++;
		ASSERT_TRUE(RAW_UNTIL(t->land.count == landed));
	}
	close(go);
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
	EXPECT_EQ(0, t->count);
	TH_LOG("%llu redirects at a restart", (unsigned long long)landed);
}

TEST_F(storm, redirect_at_restart_of_read)
{
	struct raw_target t;

	ASSERT_EQ(0, raw_reader(&t, &self->r, RAW_LANDING_YIELD));
	redirect_at_restart(_metadata, &self->r, &t, SYS_read, SYS_read);
	ASSERT_EQ(1, write(t.pipe[1], "x", 1));
	EXPECT_TRUE(RAW_UNTIL(t.count == 1));
	EXPECT_EQ(1, t.result);
	EXPECT_EQ(0, raw_reader_stop(&t));
}

static void body_sleep_long(struct raw_target *t)
{
	struct timespec ts = { .tv_sec = 6 };
	uint64_t start = raw_now();

	CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == 0);
	CHECK(took(start, 6000));
	body_end(t);
}

TEST_F(storm, redirect_at_restart_of_nanosleep)
{
	struct raw_target t;

	raw_target_init(&t, &self->r, body_sleep_long, RAW_LANDING_YIELD);
	ASSERT_EQ(0, raw_target_start(&t));
	redirect_at_restart(_metadata, &self->r, &t, SYS_clock_nanosleep, SYS_restart_syscall);
	EXPECT_TRUE(RAW_UNTIL(t.count == 1));
	EXPECT_EQ(0, t.result);
	EXPECT_EQ(0, raw_target_stop(&t));
}

/* -------- real signals while stopped -------- */

static volatile int handled;

static void on_usr1(int sig)
{
	handled++;
}

/*
 * A thread in read() is stopped; a signal comes. It is held at the handler's first
 * instruction; after the release the handler runs, and read() does what the handler's
 * flags say, as if there had been no STOP.
 */
static void signal_while_stopped(struct __test_metadata *_metadata, struct raw *r, int flags,
				 bool redirect)
{
	struct sigaction sa = { .sa_handler = on_usr1, .sa_flags = flags };
	struct upreempt_event e, s;
	struct raw_target t;
	uint64_t seq = 0;

	handled = 0;
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	ASSERT_EQ(0, raw_reader(&t, r, RAW_LANDING));
	ASSERT_EQ(0, raw_ask(r, t.slot, UPREEMPT_STOP, 0, &e));
	EXPECT_EQ(UPREEMPT_BLOCKED, e.outcome);
	if (redirect)
		ASSERT_EQ(0, raw_post(r, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
	ASSERT_EQ(0, pthread_kill(t.thread, SIGUSR1));
	raw_sleep_us(30000);
	EXPECT_EQ(0, handled);
	ASSERT_EQ(0, raw_ask(r, t.slot, UPREEMPT_SAMPLE, 0, &s));
	EXPECT_EQ(UPREEMPT_LANDED, s.outcome);
	EXPECT_EQ((uintptr_t)on_usr1, s.regs.rip);
	EXPECT_EQ(SIGUSR1, (int)s.regs.rdi);
	ASSERT_EQ(0, raw_release(r, t.slot, e.seq));
	EXPECT_TRUE(RAW_UNTIL(handled == 1));
	if (redirect) {
		ASSERT_EQ(0, raw_wait(r, t.slot, seq, RAW_LONG_MS, &s));
		EXPECT_EQ(UPREEMPT_LANDED, s.outcome);
		EXPECT_TRUE(RAW_UNTIL(t.land.count == 1));
	}
	if (flags & SA_RESTART) {
		EXPECT_TRUE(raw_sleeps(t.tid));
		EXPECT_EQ(0, t.result);
		ASSERT_EQ(1, write(t.pipe[1], "x", 1));
		EXPECT_TRUE(RAW_UNTIL(t.count == 1));
		EXPECT_EQ(1, t.result);
	} else {
		EXPECT_TRUE(RAW_UNTIL(t.finished));
		EXPECT_EQ(-EINTR, t.result);
	}
	EXPECT_EQ(1, handled);
	EXPECT_EQ(0, raw_reader_stop(&t));
}

TEST_F(storm, signal_with_restart)
{
	signal_while_stopped(_metadata, &self->r, SA_RESTART, false);
}

TEST_F(storm, signal_without_restart)
{
	signal_while_stopped(_metadata, &self->r, 0, false);
}

TEST_F(storm, signal_with_restart_and_redirect)
{
	signal_while_stopped(_metadata, &self->r, SA_RESTART, true);
}

TEST_F(storm, signal_without_restart_and_redirect)
{
	signal_while_stopped(_metadata, &self->r, 0, true);
}

RAW_TEST_MAIN
