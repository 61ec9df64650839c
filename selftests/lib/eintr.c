// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * A thread in a system call does not notice that it is asked: no EINTR, no timeout
 * that changes, no byte lost, and the call ends when it would have. Needs the module:
 * signals cannot do this. Proves U1, U7, M11, P8, R1.
 */
#include "kselftest_harness.h"
#include "ut.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define WAIT_MS	100

static volatile uint64_t runs;

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	__atomic_fetch_add(&runs, 1, __ATOMIC_RELAXED);
}

/* One blocking call: fn makes it and says how it went; the test storms meanwhile */
struct caller {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	long (*fn)(struct caller *c);
	int fd[2];
	volatile int ready, inside, done;
	long ret;
	int err;
	uint64_t took_ns;
	int error;
};

static void *caller_main(void *arg)
{
	struct caller *c = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);
	uint64_t start;

	c->error = upreempt_thread_register(c->domain, &o, &c->thread);
	c->ready = 1;
	if (c->error)
		return NULL;
	start = ut_now();
	c->inside = 1;
	errno = 0;
	c->ret = c->fn(c);
	c->err = errno;
	c->took_ns = ut_now() - start;
	c->done = 1;
	while (c->done != 2)
		sched_yield();
	c->error = upreempt_thread_unregister(c->thread);
	return NULL;
}

FIXTURE(eintr) {
	struct upreempt_domain *domain;
	struct caller c;
};

FIXTURE_SETUP(eintr)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(4, 64);
	ASSERT_NE(NULL, self->domain);
	ASSERT_EQ(0, pipe2(self->c.fd, O_CLOEXEC));
}

FIXTURE_TEARDOWN(eintr)
{
	upreempt_domain_close(self->domain);
}

/*
 * Storm the caller until its call is over. finish, if given, ends the call after
 * WAIT_MS. Returns how many requests were made, and by *blocked how many of the
 * samples and stops found it in the call.
 */
static uint64_t storm(struct caller *c, void (*finish)(struct caller *c), uint64_t *blocked)
{
	uint64_t n = 0, start = ut_now(), seq = 0;
	struct upreempt_event ev;
	bool finished = false;

	while (!c->done && ut_now() < start + 20 * UT_SEC) {
		UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_REDIRECT,
			      .flags = UPREEMPT_REQ_OR_BLOCKED, .deadline_ns = ut_limit());

		if (upreempt_request(c->thread, &o, &ev))
			return 0;
		*blocked += ev.outcome == UPREEMPT_BLOCKED;
		if (ut_request(c->thread, UPREEMPT_SAMPLE, &ev))
			return 0;
		*blocked += ev.outcome == UPREEMPT_BLOCKED && ev.frame == UPREEMPT_FRAME_SYSCALL;
		if (ut_request(c->thread, UPREEMPT_STOP, &ev))
			return 0;
		*blocked += ev.outcome == UPREEMPT_BLOCKED;
		if (upreempt_release(c->thread, ev.seq))
			return 0;
		/* one that stays: it lands at the call's return */
		if (!seq && c->inside && ut_post(c->thread, UPREEMPT_REDIRECT, &seq))
			return 0;
		n += 3;
		if (finish && !finished && ut_now() > start + WAIT_MS * UT_MS) {
			finish(c);
			finished = true;
		}
		for (uint64_t end = ut_now() + 50000; ut_now() < end;)
			;
	}
	if (!c->done || !seq || upreempt_wait(c->thread, seq, ut_limit(), &ev) ||
	    ev.outcome != UPREEMPT_LANDED)
		return 0;
	return n;
}

#define NEEDS_MODULE() do {							\
	if (!ut_is_kmod(self->domain))						\
		SKIP(return, "a signal interrupts system calls: use the module"); \
} while (0)

#define STORM(fn_, finish_) do {						\
	uint64_t blocked = 0, n;						\
	pthread_t t;								\
										\
	NEEDS_MODULE();								\
	self->c.domain = self->domain;						\
	self->c.fn = fn_;							\
	ASSERT_EQ(0, pthread_create(&t, NULL, caller_main, &self->c));		\
	ASSERT_TRUE(UT_UNTIL(self->c.ready));					\
	ASSERT_EQ(0, self->c.error);						\
	n = storm(&self->c, finish_, &blocked);					\
	EXPECT_LT(0, n);							\
	EXPECT_LT(0, blocked);							\
	self->c.done = 2;							\
	ASSERT_EQ(0, pthread_join(t, NULL));					\
	EXPECT_EQ(0, self->c.error);						\
	printf("# %llu requests, %llu found it blocked, %.1f ms, returned %ld, errno %d\n", \
	       (unsigned long long)n, (unsigned long long)blocked,		\
	       self->c.took_ns / 1e6, self->c.ret, self->c.err);		\
} while (0)

/* A call with a timeout took that long and not much longer; slack: of the kernel's timer */
#define TOOK_ITS_TIME() TOOK_ITS_TIME_WITHIN(UT_MS / 10)
#define TOOK_ITS_TIME_WITHIN(slack) do {					\
	EXPECT_LE(WAIT_MS * UT_MS, self->c.took_ns + (slack));			\
	EXPECT_GE((WAIT_MS + 5000) * UT_MS, self->c.took_ns);			\
} while (0)

static void write_one(struct caller *c)
{
	if (write(c->fd[1], "x", 1) != 1)
		abort();
}

static long call_read(struct caller *c)
{
	char byte[8];

	return read(c->fd[0], byte, sizeof(byte));
}

TEST_F_TIMEOUT(eintr, read, 60)
{
	STORM(call_read, write_one);
	EXPECT_EQ(1, self->c.ret);
}

static long call_write(struct caller *c)
{
	static char block[1 << 20];

	return write(c->fd[1], block, sizeof(block));	/* a pipe holds less */
}

static void drain(struct caller *c)
{
	static char block[65536];
	size_t left = 1 << 20;

	while (left) {
		ssize_t n = read(c->fd[0], block, sizeof(block));

		if (n <= 0)
			abort();
		left -= n;
	}
}

TEST_F_TIMEOUT(eintr, write, 60)
{
	STORM(call_write, drain);
	EXPECT_EQ(1 << 20, self->c.ret);
}

static long call_poll(struct caller *c)
{
	struct pollfd p = { .fd = c->fd[0], .events = POLLIN };

	return poll(&p, 1, WAIT_MS);
}

TEST_F_TIMEOUT(eintr, poll_timeout, 60)
{
	STORM(call_poll, NULL);
	EXPECT_EQ(0, self->c.ret);
	TOOK_ITS_TIME();
}

static long call_nanosleep(struct caller *c)
{
	struct timespec ts = { .tv_nsec = WAIT_MS * UT_MS }, left = { .tv_nsec = 77 };
	long ret = nanosleep(&ts, &left);

	(void)c;
	return ret ? ret : left.tv_nsec;
}

TEST_F_TIMEOUT(eintr, nanosleep, 60)
{
	STORM(call_nanosleep, NULL);
	EXPECT_EQ(77, self->c.ret);	/* nothing was left: nothing was written */
	TOOK_ITS_TIME();
}

static uint32_t word;

static long call_futex_timeout(struct caller *c)
{
	struct timespec ts = { .tv_nsec = WAIT_MS * UT_MS };

	(void)c;
	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &ts, NULL, 0);
}

TEST_F_TIMEOUT(eintr, futex_timeout, 60)
{
	STORM(call_futex_timeout, NULL);
	EXPECT_EQ(-1, self->c.ret);
	EXPECT_EQ(ETIMEDOUT, self->c.err);
	TOOK_ITS_TIME();
}

static long call_futex(struct caller *c)
{
	(void)c;
	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void wake_futex(struct caller *c)
{
	(void)c;
	syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

TEST_F_TIMEOUT(eintr, futex_wake, 60)
{
	STORM(call_futex, wake_futex);
	EXPECT_EQ(0, self->c.ret);
}

static long call_epoll(struct caller *c)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int fd = epoll_create1(EPOLL_CLOEXEC);
	long ret;

	if (fd < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, c->fd[0], &ev))
		return -2;
	ret = epoll_wait(fd, &ev, 1, WAIT_MS);
	close(fd);
	return ret;
}

TEST_F_TIMEOUT(eintr, epoll_timeout, 60)
{
	STORM(call_epoll, NULL);
	EXPECT_EQ(0, self->c.ret);
	TOOK_ITS_TIME();
}

static int listener;
static struct sockaddr_un address = { .sun_family = AF_UNIX };

static long call_accept(struct caller *c)
{
	int fd = accept(listener, NULL, NULL);

	(void)c;
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static void connect_to_it(struct caller *c)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)c;
	if (fd < 0 || connect(fd, (void *)&address, sizeof(address)))
		abort();
}

TEST_F_TIMEOUT(eintr, accept, 60)
{
	snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "upreempt-%d", getpid());
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT_LE(0, listener);
	ASSERT_EQ(0, bind(listener, (void *)&address, sizeof(address)));
	ASSERT_EQ(0, listen(listener, 4));
	STORM(call_accept, connect_to_it);
	EXPECT_EQ(0, self->c.ret);
}

static int pair[2];

static long call_recv(struct caller *c)
{
	struct timeval tv = { .tv_usec = WAIT_MS * 1000 };
	char byte;

	(void)c;
	if (setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)))
		return -2;
	return recv(pair[0], &byte, 1, 0);
}

/* Never restarted after a signal, whatever SA_RESTART says */
TEST_F_TIMEOUT(eintr, recv_with_timeout, 60)
{
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	STORM(call_recv, NULL);
	EXPECT_EQ(-1, self->c.ret);
	EXPECT_EQ(EAGAIN, self->c.err);
	TOOK_ITS_TIME_WITHIN(10 * UT_MS);	/* counted in ticks */
}

static int sem;

static long call_semop(struct caller *c)
{
	struct sembuf op = { .sem_op = -1 };

	(void)c;
	return semop(sem, &op, 1);
}

static void post_sem(struct caller *c)
{
	struct sembuf op = { .sem_op = 1 };

	(void)c;
	if (semop(sem, &op, 1))
		abort();
}

TEST_F_TIMEOUT(eintr, semop, 60)
{
	sem = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
	if (sem < 0)
		SKIP(return, "no System V semaphores");
	STORM(call_semop, post_sem);
	EXPECT_EQ(0, self->c.ret);
	semctl(sem, 0, IPC_RMID);
}

static long call_waitpid(struct caller *c)
{
	pid_t pid = fork();
	int status;

	(void)c;
	if (!pid) {
		ut_sleep(WAIT_MS * UT_MS);
		_exit(5);
	}
	if (waitpid(pid, &status, 0) != pid)
		return -1;
	return WEXITSTATUS(status);
}

TEST_F_TIMEOUT(eintr, fork_and_waitpid, 60)
{
	STORM(call_waitpid, NULL);
	EXPECT_EQ(5, self->c.ret);
	TOOK_ITS_TIME();
}

static long call_sigtimedwait(struct caller *c)
{
	struct timespec ts = { .tv_nsec = WAIT_MS * UT_MS };
	sigset_t set;

	(void)c;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return sigtimedwait(&set, NULL, &ts);
}

TEST_F_TIMEOUT(eintr, sigtimedwait, 60)
{
	STORM(call_sigtimedwait, NULL);
	EXPECT_EQ(-1, self->c.ret);
	EXPECT_EQ(EAGAIN, self->c.err);
	TOOK_ITS_TIME();
}

/* A held thread's call goes on; what it returns is seen when the thread is let go */
TEST_F_TIMEOUT(eintr, stopped_in_a_call, 60)
{
	struct upreempt_event ev;
	pthread_t t;

	NEEDS_MODULE();
	self->c.domain = self->domain;
	self->c.fn = call_read;
	ASSERT_EQ(0, pthread_create(&t, NULL, caller_main, &self->c));
	ASSERT_TRUE(UT_UNTIL(self->c.inside));
	ut_sleep(20 * UT_MS);
	ASSERT_EQ(0, ut_request(self->c.thread, UPREEMPT_STOP, &ev));
	EXPECT_EQ(UPREEMPT_BLOCKED, ev.outcome);
	EXPECT_EQ(UPREEMPT_FRAME_SYSCALL, ev.frame);
	EXPECT_EQ(SYS_read, ev.regs.orig_rax);
	EXPECT_EQ(self->c.fd[0], ev.regs.rdi);
	EXPECT_EQ(ev.regs.rip, ev.regs.rcx);
	write_one(&self->c);
	ut_sleep(50 * UT_MS);
	EXPECT_EQ(0, self->c.done);
	EXPECT_EQ(0, upreempt_release(self->c.thread, ev.seq));
	EXPECT_TRUE(UT_UNTIL(self->c.done));
	EXPECT_EQ(1, self->c.ret);
	self->c.done = 2;
	ASSERT_EQ(0, pthread_join(t, NULL));
}

TEST_HARNESS_MAIN
