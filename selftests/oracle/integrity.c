// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Nothing is altered: a loop with known values in all registers is redirected a
 * million times (a hundred thousand under emulation) by a handler that leaves
 * garbage everywhere; each record equals the pattern of the PC that it names.
 * Proves M1, M2, M13, M15, R1, R2, U24 (goals G1, G19).
 */
#include "kselftest_harness.h"
#include "oracle.h"

struct tally {
	uint64_t runs;		/* of the handler */
	uint64_t in_block;	/* that found the PC in the block */
	uint64_t rounds_hit;	/* rounds with one of those or more */
	uint64_t seq;		/* of the last one */
	uint64_t repeated;	/* runs with a seq that was seen before */
	struct upreempt_regs regs;
};

static struct tally tally;
static uint8_t seen_seq[1 << 22];	/* runs of the handler by request */
static bool turning;			/* every other run changes the pattern */
static volatile uint64_t signals_seen;
static int own_signal;

static void count_hit(void)
{
	static uint64_t last;

	tally.rounds_hit += tally.in_block != last;
	last = tally.in_block;
}

static void check_environment(void)
{
	uint32_t mxcsr;
	uint16_t fcw;
	uint64_t flags;

	__asm__ volatile("stmxcsr %0; fnstcw %1; pushfq; popq %2"
			 : "=m"(mxcsr), "=m"(fcw), "=r"(flags));
	ORACLE_EQ("handler", "mxcsr", 0x1f80U, mxcsr);
	ORACLE_EQ("handler", "x87 control", 0x037fU, fcw);
	ORACLE_EQ("handler", "DF", 0UL, flags & 0x400);
	ORACLE_EQ("handler", "stack alignment", 0UL, (uintptr_t)__builtin_frame_address(0) % 16);
}

static void handler(struct upreempt_context *ctx, void *arg)
{
	struct upreempt_regs *regs = upreempt_context_regs(ctx);
	uint64_t seq = upreempt_context_seq(ctx);

	check_environment();
	if (arg != &tally)
		oracle_complain("handler", "arg", (uintptr_t)&tally, (uintptr_t)arg);
	if (seq < sizeof(seen_seq))
		tally.repeated += seen_seq[seq]++ != 0;
	tally.regs = *regs;
	if (oracle_has(regs->rip)) {
		oracle_check_regs("context", regs);
		oracle_same("context", "redzone", oracle_pat.redzone,
			    (void *)(uintptr_t)(regs->rsp - 128), 128);
		oracle_check_xstate(ctx);
		if (turning && tally.in_block % 2)
			oracle_turn(ctx, (uint32_t)seq);
		tally.in_block++;
	}
	tally.runs++;
	__atomic_store_n(&tally.seq, seq, __ATOMIC_RELEASE);
	oracle_trash();
}

/* Whoever signals the process with the module in use is found here */
static void on_signal(int signo)
{
	(void)signo;
	__atomic_fetch_add(&signals_seen, 1, __ATOMIC_RELAXED);
}

static void catch_all_signals(int but)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	for (int i = 1; i < 65; i++)
		if (i != SIGKILL && i != SIGSTOP && i != SIGSEGV && i != SIGBUS &&
		    i != SIGILL && i != SIGFPE && i != SIGABRT && i != SIGTERM && i != but)
			sigaction(i, &sa, NULL);
}

FIXTURE(integrity) {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	pthread_t pthread;
	uint32_t flags;
	volatile int ready;
	int error;
};

static void *oracle_main(void *arg)
{
	FIXTURE_DATA(integrity) *self = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = handler, .arg = &tally,
		      .handler_stack = 16384, .flags = self->flags);
	char *here = __builtin_frame_address(0);

	oracle_setup((void *)(((uintptr_t)here - 8192) & ~15UL), 1);
	self->error = upreempt_thread_register(self->domain, &opts, &self->thread);
	self->ready = 1;
	if (!self->error) {
		oracle_loop();
		self->error = upreempt_thread_unregister(self->thread);
	}
	oracle_done();
	return NULL;
}

static int start(FIXTURE_DATA(integrity) *self, uint32_t flags)
{
	memset(&tally, 0, sizeof(tally));
	oracle_rounds = 0;
	oracle_bad = 0;
	oracle_on_round = count_hit;
	self->flags = flags;
	self->ready = 0;
	if (pthread_create(&self->pthread, NULL, oracle_main, self))
		return -1;
	if (!UT_UNTIL(self->ready) || self->error)
		return self->error ? self->error : -ETIMEDOUT;
	return UT_UNTIL(oracle_rounds > 10) ? 0 : -ETIMEDOUT;
}

static int stop(FIXTURE_DATA(integrity) *self)
{
	struct timespec ts;

	oracle_quit = 1;
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 20;
	return pthread_timedjoin_np(self->pthread, NULL, &ts) ? -ETIMEDOUT : self->error;
}

FIXTURE_SETUP(integrity)
{
	struct upreempt_info info = { .size = sizeof(info) };

	memset(self, 0, sizeof(*self));
	self->domain = ut_open(4, 64);
	ASSERT_NE(NULL, self->domain);
	ASSERT_EQ(0, upreempt_get_info(&info));
	own_signal = ut_is_kmod(self->domain) ? 0 : info.signo;
	catch_all_signals(own_signal);
}

FIXTURE_TEARDOWN(integrity)
{
	upreempt_domain_close(self->domain);
}

/* A request whose end is looked for without sleeping, as long as that makes sense */
static int redirect(struct upreempt_thread *thread, struct upreempt_event *ev)
{
	uint64_t seq, until = ut_now() + 30000;
	int err = ut_post(thread, UPREEMPT_REDIRECT, &seq);

	if (err)
		return err;
	while (__atomic_load_n(&tally.seq, __ATOMIC_ACQUIRE) < seq && ut_now() < until)
		;
	memset(ev, 0xcc, sizeof(*ev));
	return upreempt_wait(thread, seq, 0, ev);
}

/*
 * n redirects, one after the other; the number that did not go as they must. So many seconds are
 * enough on a machine that does nothing else; fewer than n are an error.
 */
static uint64_t storm(FIXTURE_DATA(integrity) *self, uint64_t n, int seconds)
{
	uint64_t wrong = 0, landed = 0, start_ns = ut_now();
	struct upreempt_event ev;

	UT_FOR(i, n, seconds) {
		int err;

		if (wrong > 10 || oracle_bad)
			break;
		err = redirect(self->thread, &ev);
		if (err || ev.outcome != UPREEMPT_LANDED) {
			printf("# request %llu: %d, %s, %s\n", (unsigned long long)i, err,
			       upreempt_outcome_name(ev.outcome), upreempt_reason_name(ev.reason));
			wrong++;
			continue;
		}
		landed++;
		if (!UT_UNTIL(__atomic_load_n(&tally.seq, __ATOMIC_ACQUIRE) >= ev.seq)) {
			printf("# request %llu landed, but no handler ran\n",
			       (unsigned long long)i);
			wrong++;
			break;
		}
		if (ev.frame != UPREEMPT_FRAME_USER || tally.seq != ev.seq ||
		    memcmp(&ev.regs, &tally.regs, offsetof(struct upreempt_regs, orig_rax))) {
			printf("# request %llu: record and context differ\n",
			       (unsigned long long)i);
			wrong++;
		}
	}
	if (tally.runs != landed) {
		printf("# %llu landed, %llu runs of the handler\n", (unsigned long long)landed,
		       (unsigned long long)tally.runs);
		wrong++;
	}
	wrong += tally.repeated;
	if (landed < n && !wrong) {
		printf("# only %llu of %llu redirects in time\n", (unsigned long long)landed,
		       (unsigned long long)n);
		wrong++;
	}
	printf("# %llu redirects in %.1f s, %llu in the block, in %llu rounds of %llu; isa %d\n",
	       (unsigned long long)landed, (ut_now() - start_ns) / 1e9,
	       (unsigned long long)tally.in_block, (unsigned long long)tally.rounds_hit,
	       (unsigned long long)oracle_rounds, (int)oracle_isa);
	fflush(stdout);
	return wrong;
}

TEST_F_TIMEOUT(integrity, redirect_resumes_unchanged, 300)
{
	turning = false;
	ASSERT_EQ(0, start(self, 0));
	EXPECT_EQ(0, storm(self, ut_scale(800000), 200));
	EXPECT_LT(0, tally.in_block);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(0, oracle_bad);
	EXPECT_EQ(0, signals_seen);
}

/* Every register comes from the context and from nowhere else */
TEST_F_TIMEOUT(integrity, redirect_resumes_edited, 300)
{
	turning = true;
	ASSERT_EQ(0, start(self, 0));
	EXPECT_EQ(0, storm(self, ut_scale(200000), 60));
	EXPECT_LT(0, tally.in_block);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(0, oracle_bad);
	EXPECT_EQ(0, signals_seen);
}

TEST_F_TIMEOUT(integrity, kernel_resume, 300)
{
	turning = true;
	ASSERT_EQ(0, start(self, UPREEMPT_THREAD_KERNEL_RESUME));
	EXPECT_EQ(0, storm(self, ut_scale(100000), 40));
	EXPECT_LT(0, tally.in_block);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(0, oracle_bad);
	EXPECT_EQ(0, signals_seen);
}

/* The registers are those of the thread at that PC; the thread just goes on */
TEST_F_TIMEOUT(integrity, sample, 300)
{
	uint64_t n = 0, seen = 0;
	struct upreempt_event ev;

	ASSERT_EQ(0, start(self, 0));
	UT_FOR(i, ut_scale(200000), 20) {
		ASSERT_EQ(0, oracle_bad);
		n++;
		ASSERT_EQ(0, ut_request(self->thread, UPREEMPT_SAMPLE, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		ASSERT_EQ(UPREEMPT_FRAME_USER, ev.frame);
		if (!oracle_has(ev.regs.rip))
			continue;
		oracle_check_regs("sample", &ev.regs);
		seen++;
	}
	printf("# %llu samples, %llu in the block\n", (unsigned long long)n,
	       (unsigned long long)seen);
	EXPECT_LT(0, seen);
	EXPECT_EQ(0, tally.runs);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(0, oracle_bad);
	EXPECT_EQ(0, signals_seen);
}

/* While it is held nothing moves; when it is released it goes on from there */
TEST_F_TIMEOUT(integrity, stop_and_release, 300)
{
	uint64_t n = 0, seen = 0;
	struct upreempt_event ev;

	ASSERT_EQ(0, start(self, 0));
	UT_FOR(i, ut_scale(20000), 15) {
		uint64_t rounds;

		ASSERT_EQ(0, oracle_bad);
		n++;
		ASSERT_EQ(0, ut_request(self->thread, UPREEMPT_STOP, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		if (oracle_has(ev.regs.rip)) {
			oracle_check_regs("stop", &ev.regs);
			seen++;
		}
		rounds = oracle_rounds;
		if (i % 128)
			sched_yield();
		else
			ut_sleep(UT_MS);
		ASSERT_EQ(rounds, oracle_rounds);
		ASSERT_EQ(0, upreempt_release(self->thread, ev.seq));
		if (i % 16 == 0)
			ASSERT_TRUE(UT_UNTIL(oracle_rounds > rounds));
	}
	printf("# %llu stops, %llu in the block\n", (unsigned long long)n,
	       (unsigned long long)seen);
	EXPECT_LT(0, seen);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(0, oracle_bad);
	EXPECT_EQ(0, signals_seen);
}

/* Samples, stops and redirects of several requesters at once: each ends once */
struct requester {
	FIXTURE_DATA(integrity) *self;
	pthread_t pthread;
	unsigned int seed;
	uint64_t n, wrong, landed;
};

static void *requester_main(void *arg)
{
	struct requester *r = arg;
	struct upreempt_event ev;

	UT_FOR(i, r->n, 15) {
		enum upreempt_kind kind = 1 + rand_r(&r->seed) % 3;

		/* BLOCKED: just resuming through the kernel, because another request waits */
		if (ut_request(r->self->thread, kind, &ev) ||
		    (ev.outcome != UPREEMPT_LANDED &&
		     (ev.outcome != UPREEMPT_BLOCKED || kind == UPREEMPT_REDIRECT))) {
			printf("# %s: %s, %s\n", upreempt_kind_name(kind),
			       upreempt_outcome_name(ev.outcome), upreempt_reason_name(ev.reason));
			r->wrong++;
			break;
		}
		r->landed += kind == UPREEMPT_REDIRECT;
		if (kind == UPREEMPT_STOP && upreempt_release(r->self->thread, ev.seq))
			r->wrong++;
	}
	return NULL;
}

TEST_F_TIMEOUT(integrity, mixed_requesters, 300)
{
	struct requester r[3];
	uint64_t landed = 0;

	turning = false;
	ASSERT_EQ(0, start(self, 0));
	for (int i = 0; i < 3; i++) {
		r[i] = (struct requester){ .self = self, .seed = i, .n = ut_scale(20000) };
		ASSERT_EQ(0, pthread_create(&r[i].pthread, NULL, requester_main, &r[i]));
	}
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, pthread_join(r[i].pthread, NULL));
		EXPECT_EQ(0, r[i].wrong);
		landed += r[i].landed;
	}
	EXPECT_TRUE(UT_UNTIL(tally.runs >= landed));
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(landed, tally.runs);
	EXPECT_EQ(0, tally.repeated);
	EXPECT_EQ(0, oracle_bad);
	EXPECT_EQ(0, signals_seen);
}

TEST_HARNESS_MAIN
