// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves S1, S2, S3, P4, P17, M12, U8, U10: threads, programs and files that end while requests are under way. */
#include "kselftest_harness.h"
#include <sys/prctl.h>
#include <sys/socket.h>
#include "../include/raw_target.h"

FIXTURE(end) {
	struct raw r;
};

FIXTURE_SETUP(end)
{
	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&self->r, 16, 64));
}

FIXTURE_TEARDOWN(end)
{
	raw_params_reset();
	raw_close(&self->r);
}

/* -------- threads -------- */

static void body_nothing(struct raw_target *t)
{
}

static void body_until_told(struct raw_target *t)
{
	while (!t->stop)
		t->count++;
}

/* Each request of a thread that leaves has one outcome; its slot is free afterwards. */
TEST_F(end, thread_exits_with_requests_in_flight)
{
	static const uint32_t kinds[] = { UPREEMPT_SAMPLE, UPREEMPT_STOP, UPREEMPT_REDIRECT };
	uint64_t outcomes[UPREEMPT_OUTCOME_MAX] = { 0 }, refused = 0, n = raw_scale(600);

	for (uint64_t i = 0; i < n; i++) {
		struct upreempt_event e;
		struct raw_target t;
		uint64_t seq[3];
		int ret[3];

		raw_target_init(&t, &self->r, i & 1 ? body_until_told : body_nothing, RAW_LANDING);
		t.stay_registered = i & 2;
		ASSERT_EQ(0, raw_target_start(&t));
		t.stop = 1;
		for (int k = 0; k < 3; k++)
			ret[k] = raw_post(&self->r, t.slot, kinds[(i + k) % 3], 0, 0, &seq[k]);
		/* the STOP first: the others may wait for its release */
		for (int j = 0; j < 3; j++) {
			int k = (j + 4 - i % 3) % 3;

			if (ret[k]) {
				ASSERT_EQ(-ESRCH, ret[k]);
				refused++;
				continue;
			}
			ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq[k], RAW_LONG_MS, &e));
			ASSERT_TRUE(raw_event_ok(&e));
			outcomes[e.outcome]++;
			if (e.kind == UPREEMPT_STOP && e.outcome != UPREEMPT_GONE) {
				int released = raw_release(&self->r, t.slot, e.seq);

				/* BLOCKED in UNREGISTER or exit: it may be through by now */
				ASSERT_TRUE(!released || released == -ESRCH);
			}
		}
		ASSERT_EQ(0, raw_target_stop(&t));
		ASSERT_TRUE(RAW_UNTIL(!self->r.slots[t.slot].tid));
		ASSERT_EQ(-ESRCH, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &e));
	}
	EXPECT_EQ(0, outcomes[UPREEMPT_UNSAFE]);
	EXPECT_EQ(0, outcomes[UPREEMPT_CANCELLED]);
	TH_LOG("landed %llu, blocked %llu, gone %llu, no such thread %llu",
	       (unsigned long long)outcomes[UPREEMPT_LANDED],
	       (unsigned long long)outcomes[UPREEMPT_BLOCKED],
	       (unsigned long long)outcomes[UPREEMPT_GONE], (unsigned long long)refused);
}

static int ask_id(struct raw *r, uint32_t slot, uint32_t kind, uint32_t flags, uint64_t id,
		  struct upreempt_event *e)
{
	struct upreempt_request req = raw_request_arg(slot, kind, flags);
	int ret;

	req.id = id;
	req.deadline_ns = raw_in(RAW_LONG_MS);
	ret = raw_ioctl(r->fd, UPREEMPT_IOC_REQUEST, &req);
	*e = req.event;
	return ret;
}

/* Who names the registration does not reach the next owner of the slot. */
TEST_F(end, slot_of_another_thread)
{
	struct upreempt_stats stats;
	struct raw_target t[3];
	struct upreempt_event e;

	ASSERT_EQ(0, raw_spinner(&t[0], &self->r, RAW_LANDING));
	ASSERT_EQ(0, ask_id(&self->r, t[0].slot, UPREEMPT_REDIRECT, UPREEMPT_REQ_WAIT, t[0].id, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	for (int i = 1; i < 3; i++) {
		/* it leaves by UNREGISTER, the second one by its exit */
		t[i - 1].stay_registered = i == 2;
		ASSERT_EQ(0, raw_target_stop(&t[i - 1]));
		ASSERT_TRUE(RAW_UNTIL(!self->r.slots[t[0].slot].tid));
		EXPECT_EQ(-ESRCH, ask_id(&self->r, t[0].slot, UPREEMPT_SAMPLE, 0, t[i - 1].id, &e));
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_LANDING));
		ASSERT_EQ(t[0].slot, t[i].slot);
		EXPECT_LT(t[i - 1].id, t[i].id);
		for (uint32_t kind = 1; kind < UPREEMPT_KIND_MAX; kind++) {
			EXPECT_EQ(-ESRCH, ask_id(&self->r, t[i].slot, kind, 0, t[i - 1].id, &e));
			EXPECT_EQ(-ESRCH, ask_id(&self->r, t[i].slot, kind, UPREEMPT_REQ_WAIT,
						 t[i - 1].id, &e));
			EXPECT_EQ(-ESRCH, ask_id(&self->r, t[i].slot, kind, UPREEMPT_REQ_RING,
						 t[i - 1].id, &e));
		}
		ASSERT_EQ(0, raw_stats(&self->r, t[i].slot, &stats));
		for (uint32_t kind = 1; kind < UPREEMPT_KIND_MAX; kind++)
			EXPECT_EQ(0, stats.kinds[kind]);
		/* its own name, and none, reach it */
		ASSERT_EQ(0, ask_id(&self->r, t[i].slot, UPREEMPT_REDIRECT, UPREEMPT_REQ_WAIT,
				    t[i].id, &e));
		EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_EQ(0, ask_id(&self->r, t[i].slot, UPREEMPT_SAMPLE, UPREEMPT_REQ_WAIT, 0, &e));
		EXPECT_EQ(t[i].tid, (int)e.tid);
	}
	EXPECT_EQ(0, raw_target_stop(&t[2]));
	EXPECT_EQ(1, t[2].land.count);
}

/* A request that waits for a safe point ends GONE with the thread, whoever waits for it. */
TEST_F(end, gone)
{
	struct upreempt_event e;
	struct raw_target t;
	uint64_t seq, ring_seq;

	for (int i = 0; i < 2; i++) {
		raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING);
		t.stay_registered = i;
		ASSERT_EQ(0, raw_target_start(&t));
		self->r.slots[t.slot].nopreempt = 1;
		ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_STOP, 0, 0, &seq));
		ASSERT_EQ(0, raw_post(&self->r, t.slot, UPREEMPT_REDIRECT, UPREEMPT_REQ_RING, 0,
				      &ring_seq));
		ASSERT_EQ(-ETIMEDOUT, raw_wait(&self->r, t.slot, seq, 20, &e));
		t.stop = 1;
		ASSERT_EQ(0, raw_wait(&self->r, t.slot, seq, RAW_LONG_MS, &e));
		/* the thread enters a system call on its way out, where STOP is granted */
		EXPECT_TRUE(e.outcome == UPREEMPT_GONE || e.outcome == UPREEMPT_BLOCKED);
		if (e.outcome == UPREEMPT_BLOCKED)
			raw_release(&self->r, t.slot, seq);
		EXPECT_EQ(0, raw_target_stop(&t));
		EXPECT_TRUE(RAW_UNTIL(self->r.header->head == (uint64_t)i + 1));
		EXPECT_EQ(ring_seq, self->r.ring[i].seq);
		EXPECT_EQ(UPREEMPT_GONE, self->r.ring[i].outcome);
		EXPECT_EQ(0, t.land.count);
	}
}

/* The whole program's end does not wait for a thread that is held. */
static int held_child(int how)
{
	struct raw_target t;
	struct upreempt_event e;
	struct raw r;

	if (raw_domain(&r, 4, 16) || raw_spinner(&t, &r, RAW_LANDING) ||
	    raw_ask(&r, t.slot, UPREEMPT_STOP, 0, &e) || e.outcome != UPREEMPT_LANDED)
		return 1;
	if (how == 1)
		kill(getpid(), SIGKILL);
	if (how == 2)
		raise(SIGTERM);
	if (how == 3) {
		/* the held thread's requester dies in WAIT: nopreempt defers for ever */
		struct raw_target u;

		if (raw_spinner(&u, &r, RAW_LANDING))
			return 1;
		r.slots[u.slot].nopreempt = 1;
		alarm(1);
		raw_post(&r, u.slot, UPREEMPT_REDIRECT, UPREEMPT_REQ_WAIT, 0, NULL);
		return 2;
	}
	syscall(SYS_exit_group, 7);
	return 3;
}

TEST_F(end, process_ends_while_a_thread_is_held)
{
	static const int expected[] = { 7 << 8, SIGKILL, SIGTERM, SIGALRM };

	for (int how = 0; how < 4; how++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid)
			_exit(held_child(how));
		EXPECT_EQ(expected[how], raw_reap(pid, RAW_LONG_MS)) {
			TH_LOG("case %d", how);
		}
	}
}

/* kill -9 of a process whose thread is held by another process. */
TEST_F(end, held_by_another_process)
{
	int pair[2];
	pid_t pid;
	uint64_t seq;
	struct upreempt_event e;
	struct raw other = { .fd = -1 };
	struct { int ok; uint32_t slot; } msg = { 0 };

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	/* the child uses a file that this process has, too: opened by the child, passed up */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct raw_target t;
		struct raw r;
		char c[CMSG_SPACE(sizeof(int))] = { 0 };
		struct iovec iov = { &msg, sizeof(msg) };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c,
				    .msg_controllen = sizeof(c) };
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);

		msg.ok = !raw_domain(&r, 4, 16) && !raw_spinner(&t, &r, RAW_LANDING);
		msg.slot = t.slot;
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &r.fd, sizeof(int));
		sendmsg(pair[1], &m, 0);
		for (;;)
			pause();
	} else {
		char c[CMSG_SPACE(sizeof(int))];
		struct iovec iov = { &msg, sizeof(msg) };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c,
				    .msg_controllen = sizeof(c) };

		ASSERT_EQ(sizeof(msg), recvmsg(pair[0], &m, 0));
		ASSERT_EQ(1, msg.ok);
		ASSERT_NE(NULL, CMSG_FIRSTHDR(&m));
		memcpy(&other.fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	}

	/* who was handed the file may make requests, and nothing else */
	ASSERT_EQ(0, raw_ask(&other, msg.slot, UPREEMPT_SAMPLE, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_TRUE(raw_in_spin(e.regs.rip));
	ASSERT_EQ(0, raw_ask(&other, msg.slot, UPREEMPT_REDIRECT, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(-EPERM, raw_register(&other));
	EXPECT_EQ(-EPERM, raw_setup(&other, 1, 16));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED, other.fd, 0));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(-EPERM, raw_unregister(&other, msg.slot));

	ASSERT_EQ(0, raw_ask(&other, msg.slot, UPREEMPT_STOP, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	ASSERT_EQ(0, raw_post(&other, msg.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(SIGKILL, raw_reap(pid, RAW_LONG_MS));
	ASSERT_EQ(0, raw_wait(&other, msg.slot, seq, RAW_LONG_MS, &e));
	EXPECT_EQ(UPREEMPT_GONE, e.outcome);
	EXPECT_EQ(-ESRCH, raw_ask(&other, msg.slot, UPREEMPT_SAMPLE, 0, &e));
	close(other.fd);
}

/* A requester that dies in its WAIT takes its STOP with it: nobody else could release it. */
TEST_F(end, requester_dies_while_it_waits)
{
	struct upreempt_event e;
	struct raw_target t;
	pid_t pid;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	self->r.slots[t.slot].nopreempt = 1;
	for (int i = 0; i < 20; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			raw_post(&self->r, t.slot, i & 1 ? UPREEMPT_STOP : UPREEMPT_REDIRECT,
				 UPREEMPT_REQ_WAIT, 0, NULL);
			_exit(1);
		}
		ASSERT_TRUE(RAW_UNTIL(self->r.slots[t.slot].pending));
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(SIGKILL, raw_reap(pid, RAW_LONG_MS));
	}
	self->r.slots[t.slot].nopreempt = 0;
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, self->r.slots[t.slot].held);
	EXPECT_EQ(0, self->r.slots[t.slot].pending);
	EXPECT_EQ(0, t.land.count);
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* -------- close -------- */

/* The last close ends the domain: the held go on, what waits is CANCELLED. */
TEST_F(end, close_by_another_thread)
{
	uint64_t n = raw_scale(60);

	for (uint64_t i = 0; i < n; i++) {
		struct raw_target a, b, c;
		struct upreempt_event e;
		struct raw r;

		ASSERT_EQ(0, raw_domain(&r, 4, 16));
		ASSERT_EQ(0, raw_spinner(&a, &r, RAW_LANDING));
		ASSERT_EQ(0, raw_spinner(&b, &r, RAW_LANDING));
		ASSERT_EQ(0, raw_reader(&c, &r, RAW_LANDING));
		a.stay_registered = b.stay_registered = c.stay_registered = true;
		ASSERT_EQ(0, raw_ask(&r, a.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		/* LANDED says that it runs no more; the gate needs the mapping until it sleeps */
		ASSERT_TRUE(raw_sleeps(a.tid));
		ASSERT_EQ(0, raw_ask(&r, c.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_EQ(UPREEMPT_BLOCKED, e.outcome);
		r.slots[b.slot].nopreempt = 1;	/* its landing would need the mapping */
		ASSERT_EQ(0, raw_post(&r, b.slot, UPREEMPT_REDIRECT, 0, 0, NULL));
		/* the mapping holds a file reference, too: both have to go */
		if (i & 1) {
			close(r.fd);
			ASSERT_EQ(0, munmap(r.map, r.size));
		} else {
			b.stop = 1;
			ASSERT_TRUE(RAW_UNTIL(b.finished));
			ASSERT_EQ(0, munmap(r.map, r.size));
			close(r.fd);
		}
		r.fd = -1;
		ASSERT_TRUE(raw_target_moves(&a));
		ASSERT_EQ(1, write(c.pipe[1], "x", 1));
		ASSERT_TRUE(RAW_UNTIL(c.count == 1));
		ASSERT_EQ(0, raw_target_stop(&a));
		ASSERT_EQ(0, raw_target_stop(&b));
		ASSERT_EQ(0, raw_reader_stop(&c));
		ASSERT_EQ(0, a.wrong + b.wrong);
	}
}

/* A registration of a closed domain does not stand in the way of a new one. */
TEST_F(end, register_again_in_another_domain)
{
	struct raw r[3];

	for (int i = 0; i < 30; i++) {
		ASSERT_EQ(0, raw_domain(&r[i % 3], 2, 16));
		ASSERT_LE(0, raw_register(&r[i % 3]));
		if (i >= 2)
			raw_close(&r[(i + 1) % 3]);
	}
	raw_close(&r[0]);
	raw_close(&r[1]);
	raw_close(&r[2]);
	EXPECT_LE(0, raw_register(&self->r));
}

/* -------- fork, vfork -------- */

TEST_F(end, fork_inherits_no_registration)
{
	struct raw_target me;
	struct upreempt_event e;
	pid_t pid;

	raw_target_init(&me, &self->r, NULL, RAW_LANDING);
	ASSERT_EQ(0, raw_target_register(&me));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct raw_target mine;
		struct raw own;

		/* nothing of the parent's domain */
		if (raw_unregister(&self->r, me.slot) != -EPERM)
			_exit(1);
		if (raw_register(&self->r) != -EPERM)
			_exit(2);
		/* a domain of its own works */
		if (raw_domain(&own, 2, 16) || raw_spinner(&mine, &own, RAW_LANDING))
			_exit(3);
		if (raw_ask(&own, mine.slot, UPREEMPT_REDIRECT, 0, &e) ||
		    e.outcome != UPREEMPT_LANDED)
			_exit(4);
		/* the parent's threads may be asked through the inherited file */
		if (raw_ask(&self->r, me.slot, UPREEMPT_SAMPLE, 0, &e) ||
		    (e.outcome != UPREEMPT_BLOCKED && e.outcome != UPREEMPT_LANDED))
			_exit(5);
		if ((int)e.tid != getppid())
			_exit(6);
		_exit(raw_target_stop(&mine) ? 7 : 0);
	}
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
	EXPECT_EQ(0, me.land.count);
	EXPECT_EQ(0, raw_unregister(&self->r, me.slot));
}

/* A vfork child shares memory with its parent, and still has no registration. */
TEST_F(end, vfork_child_is_left_alone)
{
	struct raw_target me;
	uint64_t seq;
	pid_t pid;

	raw_target_init(&me, &self->r, NULL, RAW_LANDING);
	ASSERT_EQ(0, raw_target_register(&me));
	for (int i = 0; i < 50; i++) {
		volatile uint64_t in_child;

		pid = vfork();
		if (!pid) {
			/* the parent is in vfork(): its REDIRECT waits, and does not hit us */
			raw_post(&self->r, me.slot, UPREEMPT_REDIRECT, UPREEMPT_REQ_RING, 0, &seq);
			raw_sleep_us(1000);
			in_child = me.land.count;
			_exit(0);
		}
		ASSERT_LT(0, pid);
		ASSERT_EQ(0, raw_reap(pid, RAW_LONG_MS));
		ASSERT_EQ((uint64_t)i, in_child);
		ASSERT_TRUE(RAW_UNTIL(me.land.count == (uint64_t)i + 1));
		self->r.header->tail = self->r.header->head;
	}
	EXPECT_EQ(0, raw_unregister(&self->r, me.slot));
}

/* -------- exec -------- */

/*
 * The reproduced bug: A opens the device without O_CLOEXEC, forks B, registers its
 * thread and executes another program. B, who has the file, redirects A: the new program
 * used to go to an address of the old one.
 *
 * Returns what became of the new program (a wait status) and B's last outcome.
 */
static int exec_and_redirect(bool from_thread, int *outcome)
{
	struct { int outcome; } *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status, go[2];
	pid_t a, b;

	if (shared == MAP_FAILED || pipe(go))
		return -1;
	shared->outcome = -1;
	a = fork();
	if (!a) {
		struct upreempt_register reg = raw_register_arg();
		struct raw_target other;
		struct raw r = { 0 };
		char c;

		r.fd = open(UPREEMPT_DEVICE, O_RDWR);
		if (r.fd < 0 || raw_setup(&r, 4, 16) || raw_map(&r))
			_exit(1);
		/* B is forked before A registers: it knows the slot, and has the file */
		b = fork();
		if (!b) {
			struct upreempt_event e;
			int ret = 0;

			/* A registers, and then it is another program */
			close(go[1]);
			if (read(go[0], &c, 1) != 1 || !RAW_UNTIL(raw_comm_is(getppid(), "sh")))
				_exit(1);
			for (int i = 0; i < 400 && ret != -ESRCH; i++) {
				ret = raw_ask(&r, 1, UPREEMPT_REDIRECT, 20, &e);
				shared->outcome = ret ? ret : e.outcome;
				if (shared->outcome == UPREEMPT_GONE)
					break;
				raw_sleep_us(1000);
			}
			_exit(0);
		}
		if (from_thread) {
			raw_target_init(&other, &r, body_until_told, RAW_NO_LANDING);
			if (raw_target_start(&other))
				_exit(1);
		}
		reg.slot = 1;
		/* canonical, mapped nowhere: reached, it is a SIGSEGV */
		reg.landing = 0x414141414000;
		reg.landing_end = 0x414141415000;
		if (raw_ioctl(r.fd, UPREEMPT_IOC_REGISTER, &reg))
			_exit(1);
		if (write(go[1], "x", 1) != 1)
			_exit(1);
		execl("/bin/sh", "sh", "-c",
		      "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; exit 33", NULL);
		_exit(1);
	}
	status = raw_reap(a, 2 * RAW_LONG_MS);
	*outcome = shared->outcome;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	munmap(shared, 4096);
	return status;
}

TEST_F(end, exec_ends_the_registration)
{
	int outcome, status;

	for (uint64_t i = 0; i < raw_scale(5); i++) {
		status = exec_and_redirect(i & 1, &outcome);
		EXPECT_EQ(33 << 8, status);
		EXPECT_TRUE(outcome == UPREEMPT_GONE || outcome == -ESRCH) {
			TH_LOG("outcome %d", outcome);
		}
	}
}

/* The control: without the guard the bug is there. */
TEST_F(end, exec_guard_matters)
{
	int outcome, status;

	RAW_NEED_INJECT(self->r.fd);
	ASSERT_EQ(0, raw_param("guards", 1 << 1));
	status = exec_and_redirect(false, &outcome);
	raw_params_reset();
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) {
		TH_LOG("the new program ended with status 0x%x", status);
	}
}

/* A pending request of a thread that executes another program is GONE, also for a non-leader. */
struct exec_thread {
	struct raw *r;
	int slot;
	int go;
};

static void *exec_thread_main(void *arg)
{
	struct exec_thread *x = arg;
	char c;

	x->slot = raw_register(x->r);
	if (x->slot >= 0)
		x->r->slots[x->slot].nopreempt = 1;
	if (write(1, &x->slot, sizeof(x->slot)) != sizeof(x->slot) || read(x->go, &c, 1) != 1)
		_exit(1);
	execl("/bin/sleep", "sleep", "0.2", NULL);
	_exit(1);
}

static void exec_by(struct __test_metadata *_metadata, bool leader)
{
	int fds[2], go[2], up[2], slot, status;
	struct upreempt_event e;
	struct raw other = { .fd = -1 };
	uint64_t seq;
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	ASSERT_EQ(0, pipe(go));
	ASSERT_EQ(0, pipe(up));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct raw r;
		struct exec_thread x = { .r = &r, .go = go[0] };
		char c[CMSG_SPACE(sizeof(int))] = { 0 };
		struct iovec iov = { c, 1 };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c,
				    .msg_controllen = sizeof(c) };
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		pthread_t thread;

		dup2(up[1], 1);
		if (raw_domain(&r, 4, 16))
			_exit(1);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &r.fd, sizeof(int));
		sendmsg(fds[1], &m, 0);
		if (leader)
			exec_thread_main(&x);
		pthread_create(&thread, NULL, exec_thread_main, &x);
		for (;;)
			pause();
	} else {
		char c[CMSG_SPACE(sizeof(int))], byte;
		struct iovec iov = { &byte, 1 };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c,
				    .msg_controllen = sizeof(c) };

		ASSERT_EQ(1, recvmsg(fds[0], &m, 0));
		ASSERT_NE(NULL, CMSG_FIRSTHDR(&m));
		memcpy(&other.fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	}
	ASSERT_EQ(sizeof(slot), read(up[0], &slot, sizeof(slot)));
	ASSERT_LE(0, slot);
	/* a STOP: BLOCKED at once, and it must not outlive the program */
	ASSERT_EQ(0, raw_ask(&other, slot, UPREEMPT_STOP, 0, &e));
	seq = e.seq;
	ASSERT_EQ(1, write(go[1], "x", 1));
	if (e.outcome == UPREEMPT_BLOCKED || e.outcome == UPREEMPT_LANDED)
		ASSERT_EQ(0, raw_release(&other, slot, seq));
	status = raw_reap(pid, RAW_LONG_MS);
	EXPECT_EQ(0, status);
	EXPECT_EQ(-ESRCH, raw_ask(&other, slot, UPREEMPT_SAMPLE, 0, &e));
	close(other.fd);
}

TEST_F(end, exec_by_the_leader)
{
	for (int i = 0; i < 5; i++)
		exec_by(_metadata, true);
}

TEST_F(end, exec_by_another_thread)
{
	for (int i = 0; i < 5; i++)
		exec_by(_metadata, false);
}

/* -------- storms -------- */

static void *storm_main(void *arg)
{
	struct raw_target *control = arg;
	struct upreempt_event e;
	unsigned int random = 5;

	while (!control->stop) {
		uint32_t slot = rand_r(&random) % 16;
		int kind = 1 + rand_r(&random) % 3;

		if (!raw_ask(control->raw, slot, kind, 5, &e)) {
			control->count++;
			if (e.kind == UPREEMPT_STOP && (e.outcome == UPREEMPT_LANDED ||
							e.outcome == UPREEMPT_BLOCKED))
				raw_release(control->raw, slot, e.seq);
		}
	}
	return NULL;
}

/* Threads come and go under requests; nothing hangs and nothing is left. */
TEST_F(end, threads_come_and_go)
{
	struct raw_target control, t[6];
	struct upreempt_stats s;
	uint64_t finals = 0, kinds = 0;
	pthread_t thread[2];

	raw_target_init(&control, &self->r, NULL, RAW_NO_LANDING);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, storm_main, &control));
	for (uint64_t i = 0; i < raw_scale(60); i++) {
		for (int k = 0; k < 6; k++) {
			raw_target_init(&t[k], &self->r, k & 1 ? raw_body_spin : body_nothing,
					RAW_LANDING);
			t[k].stay_registered = k & 2;
			ASSERT_EQ(0, raw_target_start(&t[k]));
		}
		for (int k = 0; k < 6; k++) {
			ASSERT_EQ(0, raw_target_stop(&t[k]));
			ASSERT_EQ(0, t[k].wrong);
		}
	}
	control.stop = 1;
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(thread[i], NULL));
	/* exactly one outcome for each request (G19) */
	ASSERT_EQ(0, raw_stats(&self->r, UPREEMPT_ALL_SLOTS, &s));
	for (int i = 0; i < 8; i++) {
		finals += s.outcomes[i];
		kinds += s.kinds[i];
	}
	EXPECT_EQ(kinds, finals);
	EXPECT_EQ(0, s.threads);
	TH_LOG("%llu requests, %llu of them GONE", (unsigned long long)kinds,
	       (unsigned long long)s.outcomes[UPREEMPT_GONE]);
}

RAW_TEST_MAIN
