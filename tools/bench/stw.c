// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Stopping the world, beside those who do it otherwise. Each peer is a process with a
 * crew; they take turns, and while one is measured the others sleep. The protocol: the
 * child writes how its beginning went (32 bits, 0 or -errno), then for each number of
 * samples that it reads (32 bits) that many of struct sample; 0 ends it.
 */
#include "bench.h"
#include "crew.h"
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define STW_WARMUP	5	/* samples at the beginning of a turn that do not count */
#define MAX_PEERS	16

struct peer {
	const char *name;		/* of the series */
	const struct stopper *how;	/* NULL: Go's runtime */
	int spinners, blocked;
	bool polling;
	bool pause;			/* the time until the start is done counts, too */
	bool counts;			/* IPIs and wake-ups, too */
	int n;				/* samples in a turn; 0: 20 */
	const char *unit;		/* NULL: time */
	/* what follows is the parent's */
	pid_t pid;
	int to, from;
	struct series *value, *ipis, *wakeups;
};

static void put(int fd, const void *data, size_t size)
{
	if (write(fd, data, size) != (ssize_t)size)
		fail("write to a pipe", errno);
}

static bool get(int fd, void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = read(fd, (char *)data + done, size - done);

		if (n <= 0 && !(n < 0 && errno == EINTR))
			return false;
		if (n > 0)
			done += n;
	}
	return true;
}

/* ---- the child -------------------------------------------------------------------- */

static uint64_t own_sleeps(const struct peer *p)
{
	struct rusage ru;

	if (!p->counts)
		return 0;
	getrusage(RUSAGE_THREAD, &ru);
	return ru.ru_nvcsw;
}

static struct sample sample(struct crew *c, const struct peer *p)
{
	struct sample s = { .value = -1, .ipis = -1, .wakeups = -1 };
	uint64_t slept = own_sleeps(p), t0 = ticks(), t1;

	p->how->stop(c, &s);
	t1 = ticks();
	p->how->start(c);
	if (p->pause)
		t1 = ticks();
	if (s.value < 0)
		s.value = shown(t1 - t0);
	if (p->counts)
		s.wakeups = own_sleeps(p) - slept;
	crew_moved(c);
	return s;
}

/*
 * Who is compared with other crews, or runs on more than two CPUs, rests between two
 * samples: where the host has less CPUs to give, it takes them from those that never rest,
 * and the shorter a stop the less would the spinners rest. Who is compared with an IPI
 * does not, since that would leave all caches cold.
 */
static void turn(struct crew *c, const struct peer *p, struct sample *all, uint32_t n)
{
	bool rest = bench.nr_cpus > 2 || c->blocked || p->counts;

	crew_spin(c);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t slept = p->counts ? crew_sleeps(c) : 0;

		all[i] = sample(c, p);
		if (p->counts)
			all[i].wakeups += crew_sleeps(c) - slept;
		if (rest) {
			crew_rest(c);
			crew_spin(c);
		}
	}
	crew_rest(c);
}

static _Noreturn void child(const struct peer *p, int in, int out)
{
	struct crew c = {
		.spinners = p->spinners, .blocked = p->blocked, .polling = p->polling,
		.enter = p->how->enter,
	};
	struct sample *all;
	int32_t err;
	uint32_t n;

	/* Nobody is left to be told when the parent has given up. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	err = p->how->open(&c);
	if (!err)
		crew_start(&c);
	put(out, &err, sizeof(err));
	while (!err && get(in, &n, sizeof(n)) && n) {
		all = calloc(n, sizeof(*all));
		if (!all)
			fail("memory", 0);
		turn(&c, p, all, n);
		put(out, all, n * sizeof(*all));
		free(all);
	}
	if (!err && p->how->leaves_blocked)
		crew_check_asleep(&c);
	_exit(0);
}

/* The program beside this one */
static _Noreturn void child_go(const struct peer *p, int in, int out)
{
	char self[PATH_MAX], path[PATH_MAX + 16], count[16];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int32_t err = -ENOENT;
	cpu_set_t set;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	self[n > 0 ? n : 0] = 0;
	snprintf(path, sizeof(path), "%s/upreempt-bench-go", dirname(self));
	snprintf(count, sizeof(count), "%d", p->spinners);
	if (access(path, X_OK)) {
		put(out, &err, sizeof(err));
		_exit(0);
	}
	/* It places its threads itself. */
	CPU_ZERO(&set);
	for (int i = 0; i < bench.nr_cpus; i++)
		CPU_SET(bench.cpu[i], &set);
	sched_setaffinity(0, sizeof(set), &set);
	dup2(in, 0);
	dup2(out, 1);
	execl(path, path, count, NULL);
	fail(path, errno);
}

/* ---- the parent ------------------------------------------------------------------- */

static struct series *numbered(const char *name, const char *more, const char *backend,
			       const char *unit)
{
	char *text;

	if (asprintf(&text, "%s%s", name, more) < 0)
		fail("memory", 0);
	return series_new(text, backend, unit, 4000);
}

/* Leaves pid 0 when it cannot be done here */
static void peer_start(struct peer *p)
{
	const char *backend = p->how ? p->how->backend : "go";
	int to[2], from[2];
	int32_t err;

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		fail("pipe", errno);
	fflush(NULL);
	p->pid = fork();
	if (p->pid < 0)
		fail("fork", errno);
	if (!p->pid) {
		close(to[1]);
		close(from[0]);
		if (p->how)
			child(p, to[0], from[1]);
		child_go(p, to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	p->to = to[1];
	p->from = from[0];
	if (!get(p->from, &err, sizeof(err)))
		fail("a peer did not begin", 0);
	if (err) {
		printf("  %s, %s: left out: %s\n", p->name, backend, strerror(-err));
		close(p->to);
		close(p->from);
		waitpid(p->pid, NULL, 0);
		p->pid = 0;
		return;
	}
	p->value = numbered(p->name, "", backend, p->unit);
	if (p->counts) {
		p->ipis = numbered(p->name, "_ipis", backend, "count");
		p->wakeups = numbered(p->name, "_wakeups", backend, "count");
	}
}

static void peer_turn(struct peer *p, uint32_t n)
{
	struct sample s;

	n += STW_WARMUP;
	put(p->to, &n, sizeof(n));
	for (uint32_t i = 0; i < n; i++) {
		if (!get(p->from, &s, sizeof(s)))
			fail("a peer ended before its time", 0);
		if (i < STW_WARMUP)
			continue;
		series_add(p->value, s.value);
		if (p->counts && s.ipis >= 0)
			series_add(p->ipis, s.ipis);
		if (p->counts && s.wakeups >= 0)
			series_add(p->wakeups, s.wakeups);
	}
}

static void peer_stop(struct peer *p)
{
	uint32_t none = 0;
	int status;

	put(p->to, &none, sizeof(none));
	if (waitpid(p->pid, &status, 0) != p->pid || status)
		fail("a peer failed", 0);
	close(p->to);
	close(p->from);
}

/* The median of so many would hide what is wanted here: one number, their mean */
static void only_mean(struct series *s)
{
	double sum = 0;

	for (size_t i = 0; i < s->n; i++)
		sum += s->samples[i];
	s->samples[0] = sum / s->n;
	s->n = 1;
}

static void run(struct peer *peers, int n, int rounds)
{
	if (bench.quick)
		rounds = rounds / 5 + 1;
	for (int i = 0; i < n; i++)
		peer_start(&peers[i]);
	for (int r = 0; r < rounds; r++)
		for (int i = 0; i < n; i++)
			if (peers[i].pid)
				peer_turn(&peers[i], peers[i].n ? peers[i].n : 20);
	for (int i = 0; i < n; i++)
		if (peers[i].pid)
			peer_stop(&peers[i]);
}

#define RUN(peers, rounds) run(peers, sizeof(peers) / sizeof(*(peers)), rounds)

void stw_run(void)
{
	struct peer spinning[] = {
		{ .name = "stw_null_ipi", .how = &empty_ipi, .spinners = 1 },
		{ .name = "stw_1_spinning", .how = &stop_kmod, .spinners = 1 },
		{ .name = "stw_1_spinning", .how = &stop_signal, .spinners = 1 },
		{ .name = "stw_1_spinning", .how = &stop_by_pthread_kill, .spinners = 1 },
		{ .name = "stw_1_spinning", .spinners = 1, .n = 10 },
		{ .name = "stw_2_spinning", .how = &stop_kmod, .spinners = 2 },
		{ .name = "stw_2_spinning", .how = &stop_signal, .spinners = 2 },
		{ .name = "stw_2_spinning", .how = &stop_by_pthread_kill, .spinners = 2 },
		{ .name = "stw_2_spinning", .spinners = 2, .n = 10 },
	};
	struct peer blocked[] = {
		{ .name = "stw_blocked_10", .how = &stop_kmod, .spinners = 2, .blocked = 10,
		  .pause = true },
		{ .name = "stw_blocked_1000", .how = &stop_kmod, .spinners = 2, .blocked = 1000,
		  .pause = true },
		{ .name = "stw_blocked_10000", .how = &stop_kmod, .spinners = 2,
		  .blocked = 10000, .pause = true },
	};
	struct peer others[] = {
		{ .name = "handshake", .how = &handshake_kmod, .spinners = 2, .blocked = 8 },
		{ .name = "handshake", .how = &handshake_signal, .spinners = 2, .blocked = 8 },
		{ .name = "coop_share", .how = &coop_kmod, .spinners = 2, .polling = true,
		  .unit = "%" },
		{ .name = "coop_share", .how = &coop_signal, .spinners = 2, .polling = true,
		  .unit = "%" },
	};

	RUN(spinning, 25);
	RUN(blocked, 10);
	RUN(others, 25);
	for (int i = 2; i < 4; i++)
		if (others[i].pid)
			only_mean(others[i].value);
	stw_run_cpus();
}

void stw_run_cpus(void)
{
	char name[32];
	struct peer two[] = {
		{ .name = "stw_2_spinning_3cpus", .how = &stop_kmod, .spinners = 2 },
		{ .name = "stw_2_spinning_3cpus", .how = &stop_signal, .spinners = 2 },
		{ .name = "stw_2_spinning_3cpus", .how = &stop_by_pthread_kill, .spinners = 2 },
		{ .name = "stw_2_spinning_3cpus", .spinners = 2, .n = 10 },
	};
	struct peer all[] = {
		{ .name = name, .how = &stop_kmod, .spinners = bench.nr_cpus, .counts = true },
		{ .name = name, .how = &stop_signal, .spinners = bench.nr_cpus, .counts = true },
		{ .name = name, .how = &stop_by_pthread_kill, .spinners = bench.nr_cpus,
		  .counts = true },
	};

	if (bench.nr_cpus == 3) {
		RUN(two, 25);
		return;
	}
	snprintf(name, sizeof(name), "stw_vcpus_%d", bench.nr_cpus);
	RUN(all, 10);
}
