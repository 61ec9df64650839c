// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves G13: random calls, mappings and contents of the shared memory, made by several processes
 * of several threads at once, neither upset the kernel (the machine's log tells) nor end with an
 * error that the manual does not name, and a process that makes them can be killed.
 *
 * A program is a list of small steps, each of which follows from a seed; two threads of a new
 * process run it, beside two that only stand for targets. Programs that reach code of the module
 * (KCOV, where the kernel has it) or a result that none reached before are kept, and changed to
 * make new ones.
 *
 *	UPREEMPT_FUZZ_SECONDS	how long (30)
 *	UPREEMPT_FUZZ_SEED	what was printed, to draw the same programs again
 *	UPREEMPT_FUZZ_PROGRAM	what was printed for a failure: runs it a thousand times
 */
#include "kselftest_harness.h"

#include <linux/kcov.h>
#include <poll.h>
#include <setjmp.h>
#include <sys/eventfd.h>

#include "../include/raw_target.h"
#include "calls.h"

#define WORKERS		2
#define MAX_STEPS	48
#define MAX_CORPUS	2048
#define EXECUTORS	2
#define ARENA		65536
#define SESSION_MS	3000		/* then it is killed: it may wait for itself */
#define KILL_MS		20000		/* what was killed must be gone by then */
#define KCOV_WORDS	65536
#define FEATURES	(1U << 16)

/* Steps that are no calls of the device follow them. */
enum {
	DO_SCRIBBLE = FUZZ_CALLS, DO_MMAP, DO_UNMAP, DO_PROTECT, DO_ADVISE, DO_SIGNAL, DO_FORK,
	DO_REOPEN, DO_CLOSE, DO_POLL, DO_AFFINITY, DO_SLEEP, DO_MAX
};

struct step {
	uint8_t what, executor;
	uint32_t seed;
};

struct program {
	uint32_t n;
	struct step steps[MAX_STEPS];
};

/* What the processes share */
struct board {
	uint64_t calls, programs, killed, crashed, features, pcs;
	uint64_t done[FUZZ_CALLS], succeeded[FUZZ_CALLS];
	uint8_t seen[FEATURES];
	uint32_t corpus_lock, corpus_size;
	struct program corpus[MAX_CORPUS];
	uint64_t unexpected[FUZZ_CALLS][256];	/* by error */
	int failed;		/* the first program with one */
	int guided;		/* the kernel has KCOV */
	struct program failed_program;
};

static struct board *board;
static uint64_t module_lo, module_hi;

static uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;		/* splitmix64, by Sebastiano Vigna */

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static uint64_t below(uint64_t *state, uint64_t n)
{
	return draw(state) % n;
}

static void count(uint64_t *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* -------- one process that runs a program -------- */

static struct session {
	struct raw raw;
	int fd;			/* of the domain, or of a second one, or closed */
	int eventfd;
	unsigned char *arena;	/* the page behind it cannot be accessed */
	unsigned char *code;	/* addresses to declare */
	struct {
		uint32_t slot;
		uint64_t seq;
	} requests[8];
	uint64_t ids[8], areas[8];
	uint32_t nr_requests, nr_ids, nr_areas;
	struct raw_target targets[2];
	pthread_t executors[EXECUTORS];
	const struct program *program;
	uint32_t new_features;
} session;

static __thread sigjmp_buf after_crash;
static __thread volatile int may_crash;
static __thread uint64_t *kcov;
static __thread uint32_t own_slot;

static void on_crash(int sig)
{
	__asm__ volatile("push $2\n popfq" : : : "cc", "memory");	/* DF, AC of a resumed context */
	if (!may_crash)
		_exit(5);
	siglongjmp(after_crash, 1);
}

static void on_signal(int sig)
{
}

static void feature(uint32_t hash, uint64_t *counter)
{
	if (!__atomic_exchange_n(&board->seen[hash % FEATURES], 1, __ATOMIC_RELAXED)) {
		count(counter);
		__atomic_fetch_add(&session.new_features, 1, __ATOMIC_RELAXED);
	}
}

static void kcov_open(void)
{
	int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return;
	if (!ioctl(fd, KCOV_INIT_TRACE, KCOV_WORDS)) {
		kcov = mmap(NULL, KCOV_WORDS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (kcov == MAP_FAILED || ioctl(fd, KCOV_ENABLE, KCOV_TRACE_PC))
			kcov = NULL;
		else
			__atomic_store_n(&board->guided, 1, __ATOMIC_RELAXED);
	}
}

static void kcov_begin(void)
{
	if (kcov)
		__atomic_store_n(&kcov[0], 0, __ATOMIC_RELAXED);
}

static void kcov_end(void)
{
	uint64_t n = kcov ? __atomic_load_n(&kcov[0], __ATOMIC_RELAXED) : 0;

	for (uint64_t i = 1; i <= n && i < KCOV_WORDS; i++)
		if (kcov[i] >= module_lo && kcov[i] < module_hi)
			feature((uint32_t)((kcov[i] - module_lo) * 0x9e3779b1U >> 7), &board->pcs);
}

static uint64_t interesting(uint64_t *rng)
{
	uint64_t v = 1ULL << below(rng, 64);

	switch (below(rng, 6)) {
	case 0:
		return 0;
	case 1:
		return ~0ULL;
	case 2:
		return v - 1;
	case 3:
		return -v;
	case 4:
		return draw(rng);
	default:
		return v;
	}
}

static uint64_t some_code(uint64_t *rng)
{
	switch (below(rng, 4)) {
	case 0:
		return (uintptr_t)raw_landing;
	case 1:
		return (uintptr_t)raw_landing_end;
	case 2:
		return (uintptr_t)raw_body_spin & ~0xfffULL;
	default:
		return (uintptr_t)session.code + 4096 * below(rng, 16) + below(rng, 2) * below(rng, 64);
	}
}

static uint64_t value_of(const struct fuzz_call *c, const struct fuzz_field *f, uint64_t *rng)
{
	if (!below(rng, 48))
		return interesting(rng);
	switch (f->type) {
	case FUZZ_SIZE:
		return c->size;
	case FUZZ_FLAGS:
		return draw(rng) & draw(rng) & ((1ULL << f->arg) - 1);
	case FUZZ_ENUM:
		return below(rng, f->arg);
	case FUZZ_SLOT:
		return below(rng, 4) ? below(rng, 2) : below(rng, 8) ? below(rng, 5) : UPREEMPT_ANY_SLOT;
	case FUZZ_SEQ:
		return below(rng, 4) ? session.requests[below(rng, 8)].seq : below(rng, 64);
	case FUZZ_ID:
		return below(rng, 8) ? 0 : session.ids[below(rng, 8)];
	case FUZZ_ANY_SLOT:
		return below(rng, 4) ? UPREEMPT_ANY_SLOT : below(rng, 5);
	case FUZZ_OWN_SLOT:
		return own_slot;
	case FUZZ_AREA:
		return session.areas[below(rng, session.nr_areas < 8 ? session.nr_areas + 1 : 8)];
	case FUZZ_DEADLINE:
		if (!below(rng, 24))
			return 0;
		return below(rng, 4) ? raw_now() + below(rng, 1ULL << below(rng, 27)) : 1;
	case FUZZ_TIME:
		return below(rng, 2) ? below(rng, 2000000) : 0;
	case FUZZ_COUNT:
		if (below(rng, 2))
			return below(rng, f->arg + 1);
		return 1ULL << below(rng, 32 - (uint64_t)__builtin_clz(f->arg));
	case FUZZ_CODE:
		return some_code(rng);
	case FUZZ_LENGTH:
		return below(rng, 8) ? 4096 : below(rng, 1ULL << below(rng, 17));
	case FUZZ_MEMORY:
		return (uintptr_t)session.arena + 8 * below(rng, ARENA / 8);
	case FUZZ_FD:
		return below(rng, 4) ? (uint64_t)session.eventfd : below(rng, 8) - 1;
	case FUZZ_ZERO:
		return 0;
	default:
		return interesting(rng);
	}
}

static void put(unsigned char *at, const struct fuzz_field *f, uint64_t v)
{
	memset(at + f->offset, 0, f->size);
	memcpy(at + f->offset, &v, f->size < sizeof(v) ? f->size : sizeof(v));
}

static void some_ranges(uint64_t at, uint64_t *rng)
{
	struct upreempt_range *r = (struct upreempt_range *)(uintptr_t)at;
	uint32_t pos = 0;

	if (at < (uintptr_t)session.arena || at + 8 * sizeof(*r) > (uintptr_t)session.arena + ARENA)
		return;
	for (int i = 0; i < 8; i++) {
		memset(&r[i], 0, sizeof(r[i]));
		r[i].start = pos + (uint32_t)below(rng, 16);
		r[i].end = r[i].start + (below(rng, 32) ? 1 : 0) + (uint32_t)below(rng, 64);
		r[i].cls = (uint8_t)(below(rng, 32) ? UPREEMPT_CODE_SAFE + below(rng, 6) : draw(rng));
		if (r[i].cls == UPREEMPT_CODE_RESTART)
			r[i].value = below(rng, 2) ? r[i].start : below(rng, r[i].start + 1);
		if (r[i].cls == UPREEMPT_CODE_POLL)
			r[i].reg = (uint8_t)(below(rng, 16) ? UPREEMPT_REG_RBX : below(rng, UPREEMPT_REG_MAX));
		if (!below(rng, 64))
			((unsigned char *)&r[i])[below(rng, sizeof(r[i]))] = (unsigned char)draw(rng);
		pos = r[i].end;
	}
}

/* Names a request of the last ones, both its slot and its number. */
static void some_request(const struct fuzz_call *c, void *arg, uint64_t *rng)
{
	uint32_t i = (session.nr_requests + (below(rng, 2) ? 7 : (uint32_t)below(rng, 8))) % 8;
	struct upreempt_ref *ref = arg;
	struct upreempt_wait *wait = arg;

	if (c->cmd == UPREEMPT_IOC_WAIT) {
		wait->slot = session.requests[i].slot;
		wait->seq = session.requests[i].seq;
	} else if (c->cmd == UPREEMPT_IOC_CANCEL || c->cmd == UPREEMPT_IOC_RELEASE) {
		ref->slot = session.requests[i].slot;
		ref->seq = session.requests[i].seq;
	}
}

static void remember(const struct fuzz_call *c, const void *arg)
{
	const struct upreempt_request *req = arg;
	const struct upreempt_register *reg = arg;
	const struct upreempt_code_add *add = arg;

	if (c->cmd == UPREEMPT_IOC_REQUEST) {
		session.requests[session.nr_requests % 8].slot = req->slot;
		session.requests[session.nr_requests % 8].seq = req->seq;
		session.nr_requests++;
	} else if (c->cmd == UPREEMPT_IOC_REGISTER) {
		session.ids[session.nr_ids++ % 8] = reg->id;
		own_slot = reg->slot;
	} else if (c->cmd == UPREEMPT_IOC_CODE_ADD) {
		session.areas[session.nr_areas++ % 8] = add->id;
	}
}

static void wrong_error(uint32_t call, int error)
{
	count(&board->unexpected[call][error & 255]);
	if (!__atomic_exchange_n(&board->failed, 1, __ATOMIC_ACQ_REL))
		board->failed_program = *session.program;
}

/* A domain that is not set up yet; there are no more files than the limit lets. */
static void do_reopen(void)
{
	int fd = raw_open();

	if (fd >= 0)
		session.fd = fd;
}

static void do_call(uint32_t what, uint64_t *rng)
{
	const struct fuzz_call *c = &fuzz_calls[what];
	int fd = below(rng, 8) ? session.raw.fd : session.fd;
	unsigned char own[2048];
	unsigned char *arg = own;
	int error = 0;

	_Static_assert(sizeof(struct upreempt_world) < sizeof(own), "room for the largest");
	if (!c->size) {
		arg = (unsigned char *)(uintptr_t)(below(rng, 4) ? own_slot : interesting(rng));
	} else {
		/* where the other thread may write, and where it ends with the memory */
		if (!below(rng, 4))
			arg = session.arena + 64 * below(rng, (ARENA - sizeof(own)) / 64);
		else if (!below(rng, 16))
			arg = session.arena + ARENA - c->size;
		memset(arg, 0, c->size);
		for (int i = 0; i < FUZZ_FIELDS && c->fields[i].size; i++)
			put(arg, &c->fields[i], value_of(c, &c->fields[i], rng));
		if (below(rng, 2))
			some_request(c, arg, rng);
		if (c->cmd == UPREEMPT_IOC_CODE_ADD)
			some_ranges(((struct upreempt_code_add *)arg)->ranges, rng);
		if (!below(rng, 64))
			arg = (unsigned char *)(uintptr_t)interesting(rng);
		else if (!below(rng, 64))
			arg = session.arena + ARENA - below(rng, c->size);
	}
	if (c->cmd == UPREEMPT_IOC_SETUP) {
		if (below(rng, 2))
			do_reopen();
		fd = session.fd;
	}
	count(&board->calls);
	count(&board->done[what]);
	kcov_begin();
	if (ioctl(fd, c->cmd, arg) < 0)
		error = errno;
	kcov_end();
	feature(0x10000019U * (what * 200 + (uint32_t)error + 1), &board->features);
	if (!error) {
		count(&board->succeeded[what]);
		if (c->size)
			remember(c, arg);
	} else if (!fuzz_may_fail(c, error)) {
		wrong_error(what, error);
	}
}

static void do_scribble(uint64_t *rng)
{
	size_t slots = session.raw.setup.gate_off;

	for (uint64_t n = 1 + below(rng, 8); n; n--) {
		uint64_t v = below(rng, 2) ? below(rng, 3) : interesting(rng);

		if (below(rng, 2))
			*(volatile uint32_t *)(session.raw.map + 4 * below(rng, slots / 4)) = (uint32_t)v;
		else
			*(volatile uint64_t *)(session.arena + 8 * below(rng, ARENA / 8)) = v;
	}
}

static void do_step(const struct step *s)
{
	uint64_t seed = s->seed, *rng = &seed;
	unsigned char *page = session.raw.map + 4096 * below(rng, session.raw.size / 4096);
	size_t len = 4096 * (1 + below(rng, 4));
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC };
	static const int advice[] = { MADV_DONTNEED, MADV_DONTFORK, MADV_WILLNEED, MADV_REMOVE,
				      MADV_COLD };
	struct pollfd pfd = { .fd = session.fd, .events = POLLIN };
	pid_t pid;

	switch (s->what) {
	case DO_SCRIBBLE:
		do_scribble(rng);
		break;
	case DO_MMAP:
		kcov_begin();
		mmap(below(rng, 4) ? NULL : page, below(rng, 2) ? session.raw.size : len, prots[below(rng, 4)],
		     (below(rng, 4) ? MAP_SHARED : MAP_PRIVATE), session.fd,
		     below(rng, 4) ? 0 : (off_t)(interesting(rng) & ~0xfffULL));
		kcov_end();
		break;
	case DO_UNMAP:
		munmap(page, len);
		break;
	case DO_PROTECT:
		mprotect(page, len, prots[below(rng, 4)]);
		break;
	case DO_ADVISE:
		madvise(page, len, advice[below(rng, 5)]);
		break;
	case DO_SIGNAL:
		syscall(SYS_tgkill, getpid(), session.targets[below(rng, 2)].tid, SIGUSR1);
		break;
	case DO_FORK:
		pid = fork();
		if (!pid) {
			for (int i = 0; i < 3; i++)
				do_call((uint32_t)below(rng, FUZZ_CALLS), rng);
			_exit(0);
		}
		if (pid > 0)
			raw_reap(pid, 200);
		break;
	case DO_REOPEN:
		if (below(rng, 4))
			session.fd = session.raw.fd;
		else
			do_reopen();
		break;
	case DO_CLOSE:
		if (!below(rng, 4))
			close(session.fd);
		break;
	case DO_POLL:
		poll(&pfd, 1, (int)below(rng, 3));
		break;
	case DO_AFFINITY:
		raw_pin((int)below(rng, (uint64_t)raw_cpus()));
		break;
	case DO_SLEEP:
		raw_sleep_us(below(rng, 1000));
		break;
	default:
		do_call(s->what, rng);
	}
}

static void *executor_main(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg;
	volatile uint32_t i = 0;
	stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };

	sigaltstack(&stack, NULL);
	kcov_open();
	sigsetjmp(after_crash, 1);
	may_crash = 1;
	while (i < session.program->n) {
		const struct step *s = &session.program->steps[i++];

		if (s->executor == me)
			do_step(s);
	}
	may_crash = 0;
	return NULL;
}

static void body_doze(struct raw_target *t)
{
	while (!t->stop) {
		raw_sleep_us(300);
		t->count++;
	}
}

static void *some_memory(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void session_main(const struct program *p)
{
	static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
	struct sigaction crash = { .sa_handler = on_crash, .sa_flags = SA_ONSTACK | SA_NODEFER };
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };

	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		sigaction(crashes[i], &crash, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	setpgid(0, 0);
	session.program = p;
	session.eventfd = eventfd(0, EFD_NONBLOCK);
	session.arena = some_memory(ARENA + 4096);
	session.code = some_memory(1 << 20);
	if (session.arena == MAP_FAILED || session.code == MAP_FAILED ||
	    mprotect(session.arena + ARENA, 4096, PROT_NONE) || raw_domain(&session.raw, 4, 64))
		_exit(4);
	session.fd = session.raw.fd;
	raw_target_init(&session.targets[0], &session.raw, raw_body_spin, RAW_LANDING);
	raw_target_init(&session.targets[1], &session.raw, body_doze, RAW_LANDING_YIELD);
	for (int i = 0; i < 2; i++)
		if (raw_target_start(&session.targets[i]))
			_exit(4);
	for (uintptr_t i = 0; i < EXECUTORS; i++)
		pthread_create(&session.executors[i], NULL, executor_main, (void *)i);
	for (int i = 0; i < EXECUTORS; i++)
		pthread_join(session.executors[i], NULL);
	_exit(session.new_features ? 1 : 0);
}

/* -------- the workers -------- */

static struct step some_step(uint64_t *rng)
{
	struct step s = { .executor = (uint8_t)below(rng, EXECUTORS), .seed = (uint32_t)draw(rng) };
	uint32_t sum = 0, at;

	if (!below(rng, 5)) {
		s.what = (uint8_t)(FUZZ_CALLS + below(rng, DO_MAX - FUZZ_CALLS));
		return s;
	}
	for (uint32_t i = 0; i < FUZZ_CALLS; i++)
		sum += fuzz_calls[i].weight;
	at = (uint32_t)below(rng, sum);
	while (at >= fuzz_calls[s.what].weight)
		at -= fuzz_calls[s.what++].weight;
	return s;
}

static void some_program(struct program *p, uint64_t *rng)
{
	uint32_t size = __atomic_load_n(&board->corpus_size, __ATOMIC_ACQUIRE);

	if (!size || !below(rng, 4)) {
		p->n = 8 + (uint32_t)below(rng, MAX_STEPS - 8);
		for (uint32_t i = 0; i < p->n; i++)
			p->steps[i] = some_step(rng);
		return;
	}
	*p = board->corpus[below(rng, size)];
	for (uint64_t n = 1 + below(rng, 4); n; n--) {
		const struct program *other = &board->corpus[below(rng, size)];
		uint32_t at = (uint32_t)below(rng, p->n);

		switch (below(rng, 4)) {
		case 0:
			p->steps[at].seed = (uint32_t)draw(rng);
			break;
		case 1:		/* the end of another one */
			for (uint32_t i = at; i < MAX_STEPS; i++)
				if (i < other->n)
					p->steps[i] = other->steps[i];
			if (p->n < other->n)
				p->n = other->n;
			break;
		case 2:
			if (p->n < MAX_STEPS)
				p->steps[p->n++] = some_step(rng);
			break;
		default:
			p->steps[at] = some_step(rng);
		}
	}
}

static void keep(const struct program *p)
{
	while (__atomic_exchange_n(&board->corpus_lock, 1, __ATOMIC_ACQUIRE))
		sched_yield();
	if (board->corpus_size < MAX_CORPUS) {
		board->corpus[board->corpus_size] = *p;
		__atomic_store_n(&board->corpus_size, board->corpus_size + 1, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&board->corpus_lock, 0, __ATOMIC_RELEASE);
}

/* Runs a program in a process of its own. */
static void run_program(const struct program *p)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		session_main(p);
	status = raw_reap(pid, SESSION_MS);
	kill(-pid, SIGKILL);		/* what it has forked */
	count(&board->programs);
	if (status == -ETIMEDOUT)
		count(&board->killed);
	else if (status < 0 || WIFSIGNALED(status) || WEXITSTATUS(status) >= 4)
		count(&board->crashed);
	else if (WEXITSTATUS(status) == 1)
		keep(p);
}

/* A fuzzer whose calls are all refused tests nothing. RESUME does not return when it succeeds. */
static uint32_t never_succeeded(void)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < FUZZ_CALLS; i++)
		n += fuzz_calls[i].cmd != UPREEMPT_IOC_RESUME &&
		     !__atomic_load_n(&board->succeeded[i], __ATOMIC_RELAXED);
	return n;
}

/* A slow machine gets more time for the calls that seldom succeed. */
static void worker_main(uint64_t seed, uint64_t end_ns, uint64_t late_ns)
{
	struct program p;

	while (raw_now() < end_ns || (raw_now() < late_ns && never_succeeded())) {
		some_program(&p, &seed);
		run_program(&p);
	}
	_exit(0);
}

static void find_module(void)
{
	char line[512], name[64];
	FILE *f = fopen("/proc/modules", "re");
	unsigned long size, at;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s %lu %*s %*s %*s %lx", name, &size, &at) == 3 &&
		    !strcmp(name, "upreempt")) {
			module_lo = at;
			module_hi = at + size;
		}
	if (f)
		fclose(f);
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

static void print_program(const struct program *p)
{
	char text[MAX_STEPS * 24];
	size_t len = 0;

	for (uint32_t i = 0; i < p->n; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%u:%u:%u", i ? "," : "",
					p->steps[i].what, p->steps[i].executor, p->steps[i].seed);
	ksft_print_msg("UPREEMPT_FUZZ_PROGRAM=%s\n", text);
}

static bool read_program(struct program *p, const char *text)
{
	int used = 0;
	unsigned int what, executor, seed;

	p->n = 0;
	while (p->n < MAX_STEPS && sscanf(text, "%u:%u:%u%n", &what, &executor, &seed, &used) == 3) {
		if (what >= DO_MAX || executor >= EXECUTORS)
			return false;
		p->steps[p->n++] = (struct step){ (uint8_t)what, (uint8_t)executor, seed };
		text += used;
		text += *text == ',';
	}
	return p->n && !*text;
}

FIXTURE(fuzz)
{
	pid_t workers[WORKERS];
};

FIXTURE_SETUP(fuzz)
{
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)board);
	find_module();
}

FIXTURE_TEARDOWN(fuzz)
{
	munmap(board, sizeof(*board));
}

/* Nothing is left behind, and the module still does what it should. */
static int module_is_well(void)
{
	struct upreempt_event e;
	struct raw_target t;
	struct raw r;
	char text[16] = "";
	int fd, ret;

	ret = raw_domain(&r, 2, 16);
	if (!ret)
		ret = raw_spinner(&t, &r, RAW_LANDING);
	if (!ret)
		ret = raw_ask(&r, t.slot, UPREEMPT_REDIRECT, 0, &e);
	if (!ret && e.outcome != UPREEMPT_LANDED)
		ret = -EPROTO;
	if (!ret)
		ret = raw_target_stop(&t);
	raw_close(&r);
	fd = open("/sys/module/upreempt/refcnt", O_RDONLY | O_CLOEXEC);
	if (!ret && !RAW_UNTIL(pread(fd, text, sizeof(text) - 1, 0) > 0 && atoi(text) == 0))
		ret = -EBUSY;
	close(fd);
	return ret;
}

TEST_F_TIMEOUT(fuzz, random_calls, 3600)
{
	uint64_t ms = 1000 * number("UPREEMPT_FUZZ_SECONDS", 30), late_ms = ms + 60000;
	uint64_t seed = number("UPREEMPT_FUZZ_SEED", raw_now());
	const char *again = getenv("UPREEMPT_FUZZ_PROGRAM");
	uint64_t end = raw_in(ms), late = raw_in(late_ms);
	struct program p;

	if (again) {
		ASSERT_TRUE(read_program(&p, again));
		for (int i = 0; i < 1000 && !board->failed; i++)
			run_program(&p);
	} else {
		TH_LOG("UPREEMPT_FUZZ_SEED=%llu", (unsigned long long)seed);
		for (int i = 0; i < WORKERS; i++) {
			self->workers[i] = fork();
			if (!self->workers[i])
				worker_main(seed + (uint64_t)i, end, late);
		}
		/* -ETIMEDOUT: a process that it has killed did not end */
		for (int i = 0; i < WORKERS; i++)
			EXPECT_EQ(0, raw_reap(self->workers[i], late_ms + KILL_MS));
	}
	TH_LOG("%llu calls in %llu programs; %llu were killed, %llu crashed; %u kept: "
	       "%llu places, %llu results",
	       (unsigned long long)board->calls, (unsigned long long)board->programs,
	       (unsigned long long)board->killed, (unsigned long long)board->crashed, board->corpus_size,
	       (unsigned long long)board->pcs, (unsigned long long)board->features);
	if (board->failed)
		print_program(&board->failed_program);
	EXPECT_EQ(0, board->failed);
	for (uint32_t i = 0; i < FUZZ_CALLS; i++) {
		TH_LOG("%-12s %8llu calls, %8llu succeeded", fuzz_calls[i].name,
		       (unsigned long long)board->done[i], (unsigned long long)board->succeeded[i]);
		for (int error = 0; error < 256; error++)
			if (board->unexpected[i][error])
				TH_LOG("%s ended %llu times with: %s", fuzz_calls[i].name,
				       (unsigned long long)board->unexpected[i][error], strerror(error));
	}
	if (board->guided)
		EXPECT_NE(0, board->pcs);
	if (!again)
		EXPECT_EQ(0, never_succeeded());
	EXPECT_EQ(0, module_is_well());
}

TEST_HARNESS_MAIN
