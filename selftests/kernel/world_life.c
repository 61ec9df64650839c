// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves M11, U10, U29: signals, job control, death, debuggers, core dumps, freezing, fork,
 * exec and faults while the world is stopped.
 */
#include "kselftest_harness.h"
#include <elf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/procfs.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include "../include/raw_fault.h"
#include "../include/raw_module.h"
#include "../include/raw_world.h"

FIXTURE(life) {
	struct raw r;
};

FIXTURE_SETUP(life)
{
	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&self->r, 64, 64));
}

FIXTURE_TEARDOWN(life)
{
	raw_params_reset();
	raw_close(&self->r);
}

/* -------- signals -------- */

static volatile uint64_t handled;

static void on_signal(int sig)
{
	handled++;
}

TEST_F(life, signal_to_a_stopped_thread_is_handled_once_after_the_start)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	struct raw_target spin, rd;
	struct upreempt_world w;

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	ASSERT_EQ(0, raw_spinner(&spin, &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, raw_reader(&rd, &self->r, RAW_NO_LANDING));
	for (int i = 0; i < 60; i++) {
		struct raw_target *t = i % 2 ? &spin : &rd;

		handled = 0;
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		ASSERT_TRUE(raw_world_ok(&w));
		ASSERT_EQ(0, pthread_kill(t->thread, SIGUSR1));
		if (i % 3)
			raw_sleep_us(3000);
		EXPECT_FALSE(raw_any_move(&spin, 1, 300));
		EXPECT_EQ(0, handled);
		/* who is at the handler's first instruction is counted once */
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(2, w.threads);
		EXPECT_EQ(0, w.stragglers);
		ASSERT_EQ(0, raw_world_start(&self->r));
		EXPECT_EQ(0, handled);
		ASSERT_EQ(0, raw_world_start(&self->r));
		ASSERT_TRUE(RAW_UNTIL(handled == 1));
		ASSERT_TRUE(raw_target_moves(&spin));
		ASSERT_TRUE(raw_sleeps(rd.tid));
		EXPECT_EQ(1, handled);
	}
	EXPECT_EQ(0, raw_target_stop(&spin));
	EXPECT_EQ(0, spin.wrong);
	EXPECT_EQ(0, raw_reader_stop(&rd));
}

/* -------- a child whose world is stopped -------- */

struct shared {
	volatile int stopped, act, go;
	volatile int tid, reader;
	volatile uint64_t count_addr;
};

static void *actor_main(void *arg)
{
	struct shared *s = arg;

	while (!s->act)
		raw_sleep_us(500);
	switch (s->act) {
	case 'e':
		_exit(42);
	case 'x':
		execl("/bin/sh", "sh", "-c", "exit 9", NULL);
		_exit(98);
	case 'a':
		abort();
	}
	return NULL;
}

/* The child's end: 0 when nothing has moved until go, and all moves then. */
static int stopped_world(struct shared *s)
{
	struct raw_target spin, rd;
	struct upreempt_world w;
	pthread_t actor;
	uint64_t before;
	struct raw r;

	if (raw_domain(&r, 8, 16) || raw_spinner(&spin, &r, RAW_NO_LANDING) ||
	    raw_reader(&rd, &r, RAW_NO_LANDING) ||
	    pthread_create(&actor, NULL, actor_main, s))
		return 1;
	if (raw_world_stop(&r, 0, 0, 5000, &w) || !raw_world_ok(&w) || w.stragglers)
		return 2;
	before = spin.count;
	s->tid = spin.tid;
	s->reader = rd.tid;
	s->count_addr = (uintptr_t)&spin.count;
	s->stopped = 1;
	while (!s->go)
		raw_sleep_us(500);
	if (spin.count != before || raw_any_move(&spin, 1, 2000))
		return 3;
	/* stopped anew, and still counted once */
	if (raw_world_stop(&r, 0, 0, 5000, &w) || !raw_world_ok(&w) || w.threads != 2 ||
	    w.stragglers || raw_world_start(&r))
		return 4;
	if (raw_world_start(&r) || !raw_target_moves(&spin) || write(rd.pipe[1], "x", 1) != 1 ||
	    !RAW_UNTIL(rd.count == 1) || raw_target_stop(&spin) || raw_reader_stop(&rd))
		return 5;
	return spin.wrong ? 6 : 0;
}

static struct shared *shared_new(void)
{
	struct shared *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
				-1, 0);

	return s == MAP_FAILED ? NULL : s;
}

static pid_t stopped_child(struct shared *s)
{
	pid_t pid;

	memset(s, 0, sizeof(*s));
	pid = fork();
	if (!pid)
		_exit(stopped_world(s));
	if (pid > 0 && !RAW_UNTIL(s->stopped)) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return -1;
	}
	return pid;
}

#define SECOND 1000000000ULL

TEST_F(life, job_control)
{
	struct shared *s = shared_new();
	pid_t pid = stopped_child(s);

	ASSERT_LT(0, pid);
	for (int i = 0; i < 10; i++) {
		uint64_t start = raw_now();

		ASSERT_EQ(0, kill(pid, SIGSTOP));
		ASSERT_TRUE(RAW_UNTIL(raw_state(pid) == 'T' && raw_state(s->tid) == 'T' &&
				      raw_state(s->reader) == 'T'));
		EXPECT_GT(SECOND, raw_now() - start);
		ASSERT_EQ(0, kill(pid, SIGCONT));
		ASSERT_TRUE(RAW_UNTIL(raw_state(s->tid) == 'S'));
		raw_sleep_us(2000);
	}
	s->go = 1;
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
}

TEST_F(life, ends_of_the_process)
{
	struct shared *s = shared_new();

	for (int i = 0; i < 15; i++) {
		pid_t pid = stopped_child(s);
		uint64_t start = raw_now();
		int status;

		ASSERT_LT(0, pid);
		if (i % 3 == 0)
			kill(pid, SIGKILL);
		else
			s->act = i % 3 == 1 ? 'e' : 'x';
		status = raw_reap(pid, RAW_LONG_MS);
		EXPECT_GT(5 * SECOND, raw_now() - start);
		EXPECT_EQ(i % 3 == 0 ? SIGKILL : i % 3 == 1 ? 42 << 8 : 9 << 8, status);
	}
}

static void trace(struct __test_metadata *_metadata, bool seize)
{
	struct shared *s = shared_new();
	struct user_regs_struct regs;
	pid_t pid = stopped_child(s);
	int status;

	ASSERT_LT(0, pid);
	for (int i = 0; i < 10; i++) {
		uint64_t start = raw_now();

		if (seize) {
			ASSERT_EQ(0, ptrace(PTRACE_SEIZE, s->tid, NULL, NULL));
			ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, s->tid, NULL, NULL));
		} else {
			ASSERT_EQ(0, ptrace(PTRACE_ATTACH, s->tid, NULL, NULL));
		}
		ASSERT_EQ(s->tid, waitpid(s->tid, &status, __WALL));
		ASSERT_TRUE(WIFSTOPPED(status));
		ASSERT_EQ(0, ptrace(PTRACE_GETREGS, s->tid, NULL, &regs));
		EXPECT_TRUE(raw_in_spin(regs.rip)) {
			TH_LOG("rip 0x%llx", (unsigned long long)regs.rip);
		}
		EXPECT_EQ(RAW_PATTERN(13), regs.r15);
		EXPECT_EQ(s->count_addr, regs.rdi);
		ASSERT_EQ(0, ptrace(PTRACE_DETACH, s->tid, NULL, NULL));
		EXPECT_GT(SECOND, raw_now() - start);
	}
	s->go = 1;
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
}

TEST_F(life, debugger_that_attaches)
{
	trace(_metadata, false);
}

TEST_F(life, debugger_that_seizes)
{
	trace(_metadata, true);
}

/* -------- a core dump -------- */

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* How many threads of the core were in the loop; -1: no core. */
static int core_spinners(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), found = 0;
	struct stat st;
	char *map;

	if (fd < 0 || fstat(fd, &st) || (size_t)st.st_size < sizeof(Elf64_Ehdr))
		return -1;
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED || memcmp(map, ELFMAG, SELFMAG))
		return -1;
	for (int i = 0; i < ((Elf64_Ehdr *)map)->e_phnum; i++) {
		const Elf64_Phdr *ph = (void *)(map + ((Elf64_Ehdr *)map)->e_phoff) +
				       i * sizeof(*ph);
		const char *p = map + ph->p_offset;

		if (ph->p_type != PT_NOTE)
			continue;
		while (p + sizeof(Elf64_Nhdr) < map + ph->p_offset + ph->p_filesz) {
			const Elf64_Nhdr *n = (void *)p;
			const char *desc = p + sizeof(*n) + ((n->n_namesz + 3) & ~3U);

			if (n->n_type == NT_PRSTATUS) {
				const struct user_regs_struct *regs =
					(void *)((const struct elf_prstatus *)desc)->pr_reg;

				found += raw_in_spin(regs->rip) &&
					 regs->r15 == RAW_PATTERN(13);
			}
			p = desc + ((n->n_descsz + 3) & ~3U);
		}
	}
	munmap(map, (size_t)st.st_size);
	return found;
}

TEST_F(life, core_dump)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	static const char path[] = "/tmp/upreempt-core";
	struct shared *s = shared_new();

	if (access("/proc/self/coredump_filter", F_OK))
		SKIP(return, "this kernel writes no cores (CONFIG_ELF_CORE)");
	if (!write_file("/proc/sys/kernel/core_pattern", path) ||
	    !write_file("/proc/sys/kernel/core_uses_pid", "0") ||
	    setrlimit(RLIMIT_CORE, &unlimited))
		SKIP(return, "cannot say where cores go");
	for (int i = 0; i < 3; i++) {
		uint64_t start;
		int status;
		pid_t pid;

		unlink(path);
		pid = stopped_child(s);
		ASSERT_LT(0, pid);
		start = raw_now();
		s->act = 'a';
		status = raw_reap(pid, RAW_LONG_MS);
		EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
		EXPECT_TRUE(WCOREDUMP(status));
		EXPECT_GT(2 * SECOND, raw_now() - start);
		EXPECT_EQ(1, core_spinners(path));
	}
	unlink(path);
	write_file("/proc/sys/kernel/core_pattern", "core");
}

/* -------- freezing -------- */

static bool file_says(const char *path, const char *text)
{
	char buf[256];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return false;
	buf[n] = 0;
	return strstr(buf, text);
}

#define GROUP "/sys/fs/cgroup/upreempt-test"

TEST_F(life, freezer)
{
	struct shared *s = shared_new();
	char text[16];
	pid_t pid;

	if (mkdir(GROUP, 0755) || access(GROUP "/cgroup.freeze", W_OK)) {
		rmdir(GROUP);
		SKIP(return, "no cgroup v2");
	}
	pid = stopped_child(s);
	ASSERT_LT(0, pid);
	snprintf(text, sizeof(text), "%d", pid);
	ASSERT_TRUE(write_file(GROUP "/cgroup.procs", text));
	for (int i = 0; i < 5; i++) {
		uint64_t start = raw_now();

		ASSERT_TRUE(write_file(GROUP "/cgroup.freeze", "1"));
		ASSERT_TRUE(RAW_UNTIL(file_says(GROUP "/cgroup.events", "frozen 1")));
		EXPECT_GT(SECOND, raw_now() - start);
		ASSERT_TRUE(write_file(GROUP "/cgroup.freeze", "0"));
		ASSERT_TRUE(RAW_UNTIL(file_says(GROUP "/cgroup.events", "frozen 0")));
		raw_sleep_us(2000);
	}
	s->go = 1;
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
	EXPECT_TRUE(RAW_UNTIL(!rmdir(GROUP)));
}

/* -------- fork, vfork, exec -------- */

static void body_fork(struct raw_target *t)
{
	while (!t->stop) {
		pid_t pid = t->user ? vfork() : fork();
		int status = 0;

		if (!pid)
			_exit(7);
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 7 << 8)
			t->wrong++;
		t->count++;
	}
}

static void stop_forks(struct __test_metadata *_metadata, struct raw *r, bool vforks)
{
	struct upreempt_world w;
	struct raw_target t;

	raw_target_init(&t, r, body_fork, RAW_NO_LANDING);
	t.user = vforks ? &t : NULL;
	ASSERT_EQ(0, raw_target_start(&t));
	for (uint64_t i = 0, n = raw_scale(100); i < n; i++) {
		if (i % 4 == 0)
			ASSERT_TRUE(raw_target_moves(&t));
		ASSERT_EQ(0, raw_world_stop(r, 0, 0, 5000, &w));
		ASSERT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(1, w.threads);
		EXPECT_EQ(0, w.stragglers);
		EXPECT_FALSE(raw_any_move(&t, 1, 500));
		ASSERT_EQ(0, raw_world_start(r));
	}
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

TEST_F(life, thread_that_forks)
{
	stop_forks(_metadata, &self->r, false);
}

TEST_F(life, thread_that_vforks)
{
	stop_forks(_metadata, &self->r, true);
}

static void body_long_vfork(struct raw_target *t)
{
	pid_t pid = vfork();
	int status = 0;

	if (!pid) {
		raw_sleep_us(600000);
		_exit(7);
	}
	t->count++;
	if (waitpid(pid, &status, 0) != pid || status != 7 << 8)
		t->wrong++;
	while (!t->stop)
		t->count++;
}

/* Its child keeps it for long: that is no wait of ours. */
TEST_F(life, parent_of_a_vfork)
{
	struct upreempt_world w;
	struct raw_target t;

	raw_target_init(&t, &self->r, body_long_vfork, RAW_NO_LANDING);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(RAW_UNTIL(raw_state(t.tid) == 'S' || raw_state(t.tid) == 'D'));
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.blocked);
	EXPECT_GT(SECOND / 5, w.final_ns - w.request_ns);
	raw_sleep_us(800000);
	EXPECT_EQ(0, t.count);
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

static void body_exec(struct raw_target *t)
{
	while (!t->stop)
		t->count++;
	execl("/bin/sh", "sh", "-c", "exit 9", NULL);
}

/* exec ends the stopper, and the stop with it: the new program runs. */
TEST_F(life, exec_by_a_registered_thread)
{
	for (int i = 0; i < 10; i++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid) {
			struct upreempt_world w;
			struct raw_target t;
			struct raw r;

			raw_target_init(&t, &r, body_exec, RAW_NO_LANDING);
			if (raw_domain(&r, 4, 16) || raw_target_start(&t) || !raw_target_moves(&t))
				_exit(1);
			t.stop = 1;
			for (int k = 0; k < 100000; k++) {
				if (raw_world_stop(&r, 0, 0, 5000, &w) || !raw_world_ok(&w) ||
				    w.stragglers || raw_world_start(&r))
					_exit(2);
				raw_sleep_us(100 * i);
			}
			_exit(3);
		}
		EXPECT_EQ(9 << 8, raw_reap(pid, RAW_LONG_MS));
	}
}

/* -------- on a CPU, in the kernel -------- */

#define LONG_BYTES	(64UL << 20)

static void body_long_reads(struct raw_target *t)
{
	int fd = open("/dev/zero", O_RDONLY);

	while (!t->stop) {
		uint64_t start = raw_now();

		if (read(fd, t->user, LONG_BYTES) != (ssize_t)LONG_BYTES)
			t->wrong++;
		if (raw_now() - start > (uint64_t)t->result)
			t->result = raw_now() - start;
		t->count++;
	}
	close(fd);
}

TEST_F(life, long_system_call_on_a_cpu)
{
	uint64_t quick = 0, blocked = 0, took;
	struct upreempt_world w;
	struct raw_target t;

	if (raw_cpus() < 2)
		SKIP(return, "needs two CPUs");
	raw_pin(0);
	raw_target_init(&t, &self->r, body_long_reads, RAW_NO_LANDING);
	t.cpu = 1;
	t.user = mmap(NULL, LONG_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	ASSERT_NE(MAP_FAILED, t.user);
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(RAW_UNTIL(t.count >= 2));
	for (int i = 0; i < 40; i++) {
		raw_sleep_us(1000 + 300 * i);
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		EXPECT_TRUE(raw_world_ok(&w));
		EXPECT_EQ(0, w.stragglers);
		blocked += w.blocked;
		took = w.final_ns - w.request_ns;
		quick += w.blocked && took < (uint64_t)t.result / 4;
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	EXPECT_LT(20, blocked);
	TH_LOG("blocked %llu times, stopped quickly %llu times, a call takes up to %lld us",
	       (unsigned long long)blocked, (unsigned long long)quick,
	       (long long)t.result / 1000);
	/* a stop that waits for the call is quick in one case of four */
	EXPECT_LT(blocked / 2, quick);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* -------- in a fault -------- */

TEST_F(life, fault_that_waits)
{
	struct upreempt_world w;
	struct raw_target t;
	int fd = raw_faulter(&t, &self->r, RAW_NO_LANDING);

	RAW_NEED_FAULTS(fd);
	ASSERT_LE(0, fd);
	/* where it may be held it is as good as stopped */
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 2000, &w));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.preempted);
	EXPECT_EQ(0, w.stragglers);
	ASSERT_EQ(0, raw_world_start(&self->r));
	/* where not, it is late and says why */
	self->r.slots[t.slot].nopreempt = 1;
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 30, &w));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.stragglers);
	EXPECT_EQ(t.tid, (int)w.late[0].tid);
	EXPECT_EQ(UPREEMPT_R_DISABLED, w.late[0].reason);
	/* it may go on there */
	ASSERT_EQ(0, raw_faulter_go(&t, fd));
	EXPECT_TRUE(raw_target_moves(&t));
	self->r.slots[t.slot].nopreempt = 0;
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
	EXPECT_EQ(0, w.stragglers);
	EXPECT_FALSE(raw_any_move(&t, 1, 1000));
	ASSERT_EQ(0, raw_world_start(&self->r));
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	close(fd);
}

/* -------- what the gate does not need -------- */

/* 40 bytes of stack, and nothing below. */
static void body_no_stack(struct raw_target *t)
{
	asm volatile("	mov %%rsp, %%rbx\n"
		     "	mov %2, %%rsp\n"
		     "1:	incq (%0)\n"
		     "	cmpl $0, (%1)\n"
		     "	je 1b\n"
		     "	mov %%rbx, %%rsp\n"
		     : : "r"(&t->count), "r"(&t->stop), "r"((char *)t->user + 40)
		     : "rbx", "cc", "memory");
}

static void body_seccomp(struct raw_target *t)
{
	static const struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { 4, (struct sock_filter *)code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		t->wrong++;
	raw_body_spin(t);
}

static void stop_often(struct __test_metadata *_metadata, struct raw *r, struct raw_target *t)
{
	struct upreempt_world w;

	ASSERT_EQ(0, raw_target_start(t));
	for (int i = 0; i < 100; i++) {
		ASSERT_TRUE(raw_target_moves(t));
		ASSERT_EQ(0, raw_world_stop(r, 0, 0, 5000, &w));
		ASSERT_EQ(1, w.landed + w.preempted + w.blocked);
		ASSERT_FALSE(raw_any_move(t, 1, 300));
		if (i % 10 == 0)
			raw_sleep_us(2000);
		ASSERT_EQ(0, raw_world_start(r));
	}
	EXPECT_EQ(0, raw_target_stop(t));
	EXPECT_EQ(0, t->wrong);
}

TEST_F(life, next_to_no_stack)
{
	char *map = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct raw_target t;

	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, mprotect(map + 4096, 4096, PROT_READ | PROT_WRITE));
	raw_target_init(&t, &self->r, body_no_stack, RAW_NO_LANDING);
	t.user = map + 4096;
	stop_often(_metadata, &self->r, &t);
}

TEST_F(life, seccomp_filter_that_kills_ioctl)
{
	struct raw_target t;

	raw_target_init(&t, &self->r, body_seccomp, RAW_NO_LANDING);
	t.stay_registered = true;
	stop_often(_metadata, &self->r, &t);
}

struct closing {
	struct raw *r;
	volatile int result, closed, go;
};

static void *closing_stopper(void *arg)
{
	struct closing *c = arg;
	struct upreempt_world w;

	c->result = raw_world_stop(c->r, 0, 0, 5000, &w);
	close(c->r->fd);
	c->closed = 1;
	while (!c->go)
		raw_sleep_us(200);
	return NULL;
}

/* The mapping keeps the domain: the world stands until the stopper ends. */
TEST_F(life, descriptor_closed_while_stopped)
{
	struct closing c = { .r = &self->r };
	struct raw_target t;
	pthread_t thread;

	raw_target_init(&t, &self->r, raw_body_spin, RAW_NO_LANDING);
	t.stay_registered = true;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	ASSERT_EQ(0, pthread_create(&thread, NULL, closing_stopper, &c));
	ASSERT_TRUE(RAW_UNTIL(c.closed));
	EXPECT_EQ(0, c.result);
	EXPECT_FALSE(raw_any_move(&t, 1, 30000));
	EXPECT_TRUE(raw_target_still(&t));
	c.go = 1;
	ASSERT_EQ(0, pthread_join(thread, NULL));
	self->r.fd = -1;
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* -------- CPUs that come and go -------- */

TEST_F(life, cpus_come_and_go)
{
	uint64_t n = 0, moved = 0;
	struct upreempt_world w;
	struct raw_target t[3];
	volatile int stop = 0;
	pthread_t thread;
	void *cycles;

	if (raw_cpus() < 2 || access("/sys/devices/system/cpu/cpu1/online", W_OK))
		SKIP(return, "needs a CPU that can go off line");
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, pthread_create(&thread, NULL, raw_cpu1_cycle, (void *)&stop));
	for (uint64_t end = raw_in(raw_scale(6000)); raw_now() < end; n++) {
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 8000, &w));
		ASSERT_TRUE(raw_world_ok(&w));
		ASSERT_EQ(3, w.landed + w.preempted);
		for (int i = 0; i < 3; i++)
			moved += raw_any_move(&t[i], 1, 100);
		ASSERT_EQ(0, raw_world_start(&self->r));
		if (n % 8 == 0)
			raw_sleep_us(500);
	}
	stop = 1;
	ASSERT_EQ(0, pthread_join(thread, &cycles));
	EXPECT_LT(0, (long)cycles);
	EXPECT_EQ(0, moved);
	TH_LOG("%llu stops, %ld times off line", (unsigned long long)n, (long)cycles);
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, raw_target_stop(&t[i]));
		EXPECT_EQ(0, t[i].wrong);
	}
}

/* -------- a world that stands for long -------- */

TEST_F(life, long_stop_is_named_and_no_hung_task)
{
	bool named = false, complaint = false;
	struct raw_target spin, rd;
	struct upreempt_world w;
	char text[1024];
	int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (log < 0 || lseek(log, 0, SEEK_END) < 0 ||
	    !write_file("/proc/sys/kernel/hung_task_timeout_secs", "3"))
		SKIP(return, "no kernel log, or no watch for hung tasks");
	ASSERT_EQ(0, raw_spinner(&spin, &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, raw_reader(&rd, &self->r, RAW_NO_LANDING));
	ASSERT_EQ(0, prctl(PR_SET_NAME, "the-stopper"));
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
	ASSERT_EQ(1, write(rd.pipe[1], "x", 1));
	raw_sleep_us(15000000);
	EXPECT_FALSE(raw_any_move(&spin, 1, 1000));
	EXPECT_EQ(0, rd.count);
	for (ssize_t len; (len = read(log, text, sizeof(text) - 1)) > 0 || errno == EPIPE;) {
		text[len > 0 ? len : 0] = 0;
		named |= strstr(text, "the-stopper") && strstr(text, "has stopped the world of");
		complaint |= strstr(text, "blocked for more than") != NULL;
	}
	EXPECT_TRUE(named);
	EXPECT_FALSE(complaint);
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_TRUE(raw_target_moves(&spin));
	EXPECT_TRUE(RAW_UNTIL(rd.count == 1));
	write_file("/proc/sys/kernel/hung_task_timeout_secs", "120");
	EXPECT_EQ(0, raw_target_stop(&spin));
	EXPECT_EQ(0, raw_reader_stop(&rd));
	close(log);
}

RAW_TEST_MAIN
