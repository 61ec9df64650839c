// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves M17, M18, M20, M22, M23, U12, U17: declared code by the library: the builder, marks
 * in code, functions of a section, code that comes and goes under running threads, libc.
 *
 * SOURCES: table_marks.S
 */
#include "kselftest_harness.h"
#include "ut_world.h"
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <upreempt/table.h>

FIXTURE(table) {
	struct upreempt_domain *d;
};

FIXTURE_SETUP(table)
{
	UPREEMPT_OPTS(upreempt_domain_opts, o, .slots = 16, .flags = UPREEMPT_DOMAIN_DECLARED);

	ASSERT_EQ(0, upreempt_domain_open(&o, &self->d));
}

FIXTURE_TEARDOWN(table)
{
	upreempt_domain_close(self->d);
}

static int ask(struct upreempt_thread *t, enum upreempt_kind kind, uint32_t flags, uint64_t ns,
	       struct upreempt_event *e)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = kind, .flags = flags,
		      .deadline_ns = ut_now() + ns);
	int ret = upreempt_request(t, &o, e);

	return ret ? ret : (int)e->outcome;
}

/* Why it ends UNSAFE, or -100 - outcome */
static int why(struct upreempt_thread *t, enum upreempt_kind kind, uint32_t flags)
{
	struct upreempt_event e = { 0 };
	int ret = 0;

	for (int i = 1; i <= 20; i++) {
		ret = ask(t, kind, flags, 30 * i * UT_MS, &e);
		if (ret != UPREEMPT_UNSAFE)
			return ret < 0 ? ret : -100 - ret;
		if (e.reason != UPREEMPT_R_NOT_RUN)
			break;
	}
	return e.reason;
}

/* ---- the builder ------------------------------------------------------------------ */

static const char *const nowhere = (const char *)0x20000000;

TEST_F(table, builder)
{
	struct upreempt_code *code;
	struct upreempt_table *t;

	ASSERT_EQ(0, upreempt_table_new(&t));
	EXPECT_STREQ("", upreempt_table_error(t));
	EXPECT_EQ(-EINVAL, upreempt_table_range(t, 0, 0, UPREEMPT_CODE_SAFE));
	EXPECT_EQ(-EINVAL, upreempt_table_range(t, 0, 1ULL << 32, UPREEMPT_CODE_SAFE));
	EXPECT_EQ(-EINVAL, upreempt_table_range(t, ~0ULL, 2, UPREEMPT_CODE_SAFE));
	EXPECT_EQ(-EINVAL, upreempt_table_range(t, 0, 1, UPREEMPT_CODE_RESTART));
	EXPECT_EQ(-EINVAL, upreempt_table_range(t, 0, 1, (enum upreempt_class)0));
	EXPECT_EQ(-EINVAL, upreempt_table_range(NULL, 0, 1, UPREEMPT_CODE_SAFE));
	EXPECT_NE(NULL, strstr(upreempt_table_error(t), "class"));
	/* in any order, nested, the same extent twice */
	EXPECT_EQ(0, upreempt_table_restart(t, 0x40, 0x20, 0x40));
	EXPECT_EQ(0, upreempt_table_range(t, 0x10, 0x100, UPREEMPT_CODE_UNSAFE));
	EXPECT_EQ(0, upreempt_table_range(t, 0x80, 0x10, UPREEMPT_CODE_UNSAFE));
	EXPECT_EQ(0, upreempt_table_range(t, 0x80, 0x10, UPREEMPT_CODE_SAFE));
	EXPECT_EQ(0, upreempt_table_poll(t, 0x48, 4, UPREEMPT_REG_RBX, 1));
	ASSERT_EQ(0, upreempt_code_add(self->d, t, nowhere, 0x1000, UPREEMPT_CODE_SAFE, &code));
	EXPECT_STREQ("", upreempt_table_error(t));
	EXPECT_EQ(-EEXIST, upreempt_code_add(self->d, t, nowhere + 0xfff, 0x1000,
					     UPREEMPT_CODE_SAFE, NULL));
	EXPECT_EQ(-EINVAL, upreempt_code_add(self->d, t, nowhere + 0x1000, 0,
					     UPREEMPT_CODE_SAFE, NULL));
	EXPECT_EQ(-EINVAL, upreempt_code_add(self->d, t, nowhere + 0x1000, 0x1000,
					     UPREEMPT_CODE_POLL, NULL));
	EXPECT_EQ(-EINVAL, upreempt_code_add(NULL, t, nowhere, 1, UPREEMPT_CODE_SAFE, NULL));
	/* a range that reaches out is named */
	EXPECT_EQ(-EINVAL, upreempt_code_add(self->d, t, nowhere + 0x1000, 0x100,
					     UPREEMPT_CODE_SAFE, NULL));
	EXPECT_NE(NULL, strstr(upreempt_table_error(t), "[0x90, 0x110) reaches out"));
	/* overlap: both are named */
	EXPECT_EQ(0, upreempt_table_range(t, 0x8, 0x10, UPREEMPT_CODE_SAFE));
	EXPECT_EQ(-EINVAL, upreempt_code_replace(code, t, UPREEMPT_CODE_SAFE));
	EXPECT_NE(NULL, strstr(upreempt_table_error(t), "[0x8, 0x18) and [0x10, 0x110)"));
	upreempt_table_free(t);
	upreempt_table_free(NULL);
	EXPECT_EQ(0, upreempt_code_replace(code, NULL, UPREEMPT_CODE_UNSAFE));
	EXPECT_EQ(0, upreempt_code_remove(code, NULL, NULL, 0));
	EXPECT_EQ(0, upreempt_code_add(self->d, NULL, nowhere, 0x2000, UPREEMPT_CODE_SAFE, NULL));
}

/* The spinner's loop lies where the test puts ranges; what counts is where its PC can be. */
TEST_F(table, nesting)
{
	struct ut_spinner s = { .domain = self->d };
	uint64_t len = ut_spin_end + 1 - (const char *)ut_spin;
	struct upreempt_code *code;
	struct upreempt_table *t;
	struct upreempt_event e;

	ASSERT_EQ(0, ut_spinner_start(&s));
	EXPECT_EQ(UPREEMPT_R_UNDECLARED, why(s.thread, UPREEMPT_STOP, 0));
	ASSERT_EQ(0, upreempt_table_new(&t));
	/* safe in unsafe in safe; then the innermost, twice */
	upreempt_table_range(t, 0, len, UPREEMPT_CODE_SAFE);
	upreempt_table_range(t, 1, len - 2, UPREEMPT_CODE_UNSAFE);
	ASSERT_EQ(0, upreempt_code_add(self->d, t, ut_spin, len, UPREEMPT_CODE_SAFE, &code));
	EXPECT_EQ(UPREEMPT_R_UNSAFE_RANGE, why(s.thread, UPREEMPT_STOP, 0));
	EXPECT_EQ(UPREEMPT_R_UNSAFE_RANGE, why(s.thread, UPREEMPT_SAMPLE, UPREEMPT_REQ_SAFE));
	EXPECT_EQ(UPREEMPT_LANDED, ask(s.thread, UPREEMPT_SAMPLE, 0, 5 * UT_SEC, &e));
	upreempt_table_range(t, 1, len - 2, UPREEMPT_CODE_SAFE);
	ASSERT_EQ(0, upreempt_code_replace(code, t, UPREEMPT_CODE_UNSAFE));
	ASSERT_EQ(UPREEMPT_LANDED, ask(s.thread, UPREEMPT_STOP, 0, 5 * UT_SEC, &e));
	EXPECT_TRUE(ut_in_spin(e.regs.rip));
	EXPECT_EQ(0, upreempt_release(s.thread, e.seq));
	upreempt_table_free(t);
	EXPECT_EQ(0, ut_spinner_stop(&s));
}

/* ---- marks --------------------------------------------------------------------------- */

struct counts {
	volatile uint64_t n;
	volatile uint64_t turns;
	volatile int stop;
};

/* One to n in a sequence that is begun anew; the jumps: see raw_table.h */
__upreempt_safe static void count_up(struct counts *c)
{
	while (!c->stop) {
		uint64_t tmp;

		__asm__ __volatile__(
			UPREEMPT_RESTARTABLE_BEGIN("count%=")
			"	mov %1, %0\n"
			"	.rept 8\n	jmp 1f\n1:\n	.endr\n"
			"	add $1, %0\n"
			"	jmp 1f\n1:\n"
			"	mov %0, %1\n"
			UPREEMPT_RESTARTABLE_END("count%=")
			: "=&r"(tmp), "+m"(c->n) : : "cc");
		c->turns++;
	}
}

extern const char marked_count[], marked_count_end[];

struct counter {
	struct upreempt_domain *d;
	void (*body)(struct counts *c);
	upreempt_handler_fn handler;
	struct upreempt_thread *thread;
	struct counts c;
	volatile uint64_t handled;
	volatile int ready;
	int error;
	pthread_t pthread;
};

static void handler(struct upreempt_context *ctx, void *arg)
{
	struct counter *c = arg;

	(void)ctx;
	c->c.n++;
	c->handled++;
}

static void *counter_main(void *arg)
{
	struct counter *c = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = c->handler, .arg = c);

	c->error = upreempt_thread_register(c->d, &o, &c->thread);
	__atomic_store_n(&c->ready, 1, __ATOMIC_RELEASE);
	if (!c->error)
		c->body(&c->c);
	if (!c->error)
		c->error = upreempt_thread_unregister(c->thread);
	return NULL;
}

/* Redirects in a storm; how many counts were lost. -errno */
static int64_t storm(struct upreempt_domain *d, uint64_t n, uint64_t seconds, uint64_t *restarts)
{
	struct counter c = { .d = d, .body = count_up, .handler = handler };
	struct upreempt_stats s;
	struct upreempt_event e;
	int ret = -pthread_create(&c.pthread, NULL, counter_main, &c);

	if (ret)
		return ret;
	if (!UT_UNTIL(__atomic_load_n(&c.ready, __ATOMIC_ACQUIRE)) || c.error)
		return -ETIMEDOUT;
	UT_FOR(i, n, seconds) {
		ret = ut_request(c.thread, UPREEMPT_REDIRECT, &e);
		if (ret || e.outcome != UPREEMPT_LANDED)
			break;
	}
	if (!ret && e.outcome != UPREEMPT_LANDED)
		printf("# outcome %s, reason %s at %#llx\n", upreempt_outcome_name(e.outcome),
		       upreempt_reason_name(e.reason), (unsigned long long)e.regs.rip);
	if (!ret)
		ret = upreempt_thread_stats(c.thread, &s);
	*restarts = s.restarts;
	c.c.stop = 1;
	if (!ret)
		ret = ut_join(c.pthread);
	printf("# %llu handled, %llu restarts\n", (unsigned long long)c.handled,
	       (unsigned long long)s.restarts);
	return ret ? ret : (int64_t)(c.c.turns + c.handled - c.c.n);
}

/* With UPREEMPT_RESTARTS=N as long as it takes */
TEST_F_TIMEOUT(table, marks, 3600)
{
	const char *many = getenv("UPREEMPT_RESTARTS");
	uint64_t restarts, n = many ? strtoull(many, NULL, 0) : ut_scale(200000);
	struct upreempt_domain *open = ut_open(4, 16);

	/* the control: nothing is declared, and nothing is unsafe */
	ASSERT_NE(NULL, open);
	EXPECT_LT(0, storm(open, ut_scale(200000), 5, &restarts));
	EXPECT_EQ(0, restarts);
	upreempt_domain_close(open);

	ASSERT_EQ(0, upreempt_code_add_object(self->d, UPREEMPT_CODE_UNSAFE, NULL));
	EXPECT_EQ(0, storm(self->d, n, many ? 3600 : 15, &restarts));
	EXPECT_LT(0, restarts);
	EXPECT_EQ(-EEXIST, upreempt_code_add_object(self->d, UPREEMPT_CODE_UNSAFE, NULL));
}

TEST_F(table, marks_arguments)
{
	UPREEMPT_OPTS(upreempt_marks, m, .inside = (void *)1);

	EXPECT_EQ(-ENOENT, upreempt_code_add_marks(self->d, &m, UPREEMPT_CODE_SAFE, NULL));
	m.inside = __ehdr_start;
	m.safe = (const char *)&self;
	m.safe_end = m.safe + 1;
	EXPECT_EQ(-ERANGE, upreempt_code_add_marks(self->d, &m, UPREEMPT_CODE_SAFE, NULL));
	m.size = 8;
	EXPECT_EQ(-EINVAL, upreempt_code_add_marks(self->d, &m, UPREEMPT_CODE_SAFE, NULL));
	EXPECT_EQ(-EINVAL, upreempt_code_add_marks(self->d, NULL, UPREEMPT_CODE_SAFE, NULL));
}

/* ---- polls ------------------------------------------------------------------------------- */

static volatile int in_sequence;

/* Safe nowhere but where it comes by itself: at the end of the sequence */
static __attribute__((noinline)) void poll_at_end(struct counts *c)
{
	while (!c->stop) {
		register uint64_t flag __asm__("rbx") = 0;

		__asm__ __volatile__(
			UPREEMPT_POLL_BEGIN("poll%=")
			"	incl %1\n"
			"	.rept 8\n	jmp 1f\n1:\n	.endr\n"
			"	decl %1\n"
			UPREEMPT_POLL_END("poll%=", 3, 1)
			: "+r"(flag), "+m"(in_sequence) : : "cc");
		if (flag)
			upreempt_poll_slow();
		c->turns++;
	}
}

/* The other way: a call through the register, in an assembler source */
extern void poll_by_call(volatile uint64_t *turns, volatile int *stop, volatile int *inside);

static void poll_by_call_at_end(struct counts *c)
{
	poll_by_call(&c->turns, &c->stop, &in_sequence);
}

static void stops_at_end(struct __test_metadata *_metadata, FIXTURE_DATA(table) *self,
			 void (*body)(struct counts *c))
{
	struct counter c = { .d = self->d, .body = body };
	uint64_t came = 0, stops = 0;
	struct upreempt_world w;
	struct upreempt_event e;
	struct upreempt_stats s;

	ASSERT_EQ(0, upreempt_code_add_object(self->d, UPREEMPT_CODE_UNSAFE, NULL));
	ASSERT_EQ(0, pthread_create(&c.pthread, NULL, counter_main, &c));
	ASSERT_TRUE(UT_UNTIL(c.c.turns > 0));
	UT_FOR(i, ut_scale(3000), 15) {
		stops++;
		if (i & 1) {
			ASSERT_EQ(0, ut_world_stop(self->d, 0, &w));
			ASSERT_EQ(0, in_sequence);
			ASSERT_EQ(0, upreempt_world_start(self->d));
			continue;
		}
		ASSERT_EQ(0, ut_request(c.thread, UPREEMPT_STOP, &e));
		ASSERT_NE(UPREEMPT_UNSAFE, e.outcome);
		ASSERT_EQ(0, in_sequence);
		came += e.outcome == UPREEMPT_COOPERATED;
		ASSERT_EQ(0, upreempt_release(c.thread, e.seq));
	}
	EXPECT_LT(0, came);
	ASSERT_EQ(0, upreempt_thread_stats(c.thread, &s));
	EXPECT_NE(0, s.polls_set);
	EXPECT_NE(0, s.deferrals[UPREEMPT_R_POLL_SET]);
	c.c.stop = 1;
	EXPECT_EQ(0, ut_join(c.pthread));
	EXPECT_EQ(0, c.error);
}

TEST_F(table, poll)
{
	stops_at_end(_metadata, self, poll_at_end);
}

TEST_F(table, poll_by_call)
{
	stops_at_end(_metadata, self, poll_by_call_at_end);
}

/* ---- libc ----------------------------------------------------------------------------------- */

#define BIG	(64UL << 20)

static char *volatile big;

/* Declared, but what it calls is not */
__upreempt_safe static void fill(struct counts *c)
{
	while (!c->stop) {
		memset(big, (int)c->turns, BIG);
		c->turns++;
		/* time in declared code, in which a retry may come */
		for (int i = 0; i < 2000000 && !c->stop; i++)
			c->n++;
	}
}

/* A stop never lands in memset(): it comes when that has returned. */
TEST_F(table, libc)
{
	struct counter c = { .d = self->d, .body = fill };
	uint64_t inside = 0, stops = 0;
	struct upreempt_event e;
	struct upreempt_stats s;

	big = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)big);
	ASSERT_EQ(0, upreempt_code_add_object(self->d, UPREEMPT_CODE_UNSAFE, NULL));
	ASSERT_EQ(0, pthread_create(&c.pthread, NULL, counter_main, &c));
	ASSERT_TRUE(UT_UNTIL(c.c.turns > 0));
	UT_FOR(i, ut_scale(300), 15) {
		/* the control: that is where the thread is, once it had the time to get there */
		ut_sleep(i % 16 * UT_MS);
		ASSERT_EQ(0, ut_request(c.thread, UPREEMPT_SAMPLE, &e));
		inside += e.regs.rip < (uintptr_t)__start_upreempt_text_safe ||
			  e.regs.rip >= (uintptr_t)__stop_upreempt_text_safe;
		ASSERT_EQ(0, ut_request(c.thread, UPREEMPT_STOP, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_GE(e.regs.rip, (uintptr_t)__start_upreempt_text_safe);
		ASSERT_LT(e.regs.rip, (uintptr_t)__stop_upreempt_text_safe);
		ASSERT_EQ(0, upreempt_release(c.thread, e.seq));
		stops++;
	}
	EXPECT_LT(0, inside);
	ASSERT_EQ(0, upreempt_thread_stats(c.thread, &s));
	EXPECT_LT(0, s.deferrals[UPREEMPT_R_UNDECLARED] + s.deferrals[UPREEMPT_R_UNSAFE_RANGE]);
	printf("# %llu of %llu samples outside of declared code\n", (unsigned long long)inside,
	       (unsigned long long)stops);
	c.c.stop = 1;
	EXPECT_EQ(0, ut_join(c.pthread));
	munmap(big, BIG);
}

/* Hardly ever in declared code */
__upreempt_safe static void many_calls(struct counts *c)
{
	char text[64];

	while (!c->stop) {
		memset(text, 'a' + (int)(c->turns & 15), sizeof(text) - 1);
		text[sizeof(text) - 1] = 0;
		c->n += strspn(text, "abcdefghijklmnop") == sizeof(text) - 1;
		c->turns++;
	}
}

/* Single steps, or a breakpoint, lead from wherever libc is to its return. */
TEST_F(table, steps_out_of_libc)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_STOP, .strategies = UPREEMPT_BY_STEP,
		      .steps = 100000);
	UPREEMPT_OPTS(upreempt_world_opts, w, .strategies = UPREEMPT_BY_STEP);
	struct counter c = { .d = self->d, .body = many_calls };
	struct upreempt_world report;
	struct upreempt_event e;
	uint64_t steps = 0;

	ASSERT_EQ(0, upreempt_code_add_object(self->d, UPREEMPT_CODE_UNSAFE, NULL));
	ASSERT_EQ(0, pthread_create(&c.pthread, NULL, counter_main, &c));
	ASSERT_TRUE(UT_UNTIL(c.c.turns > 0));
	if (!ut_is_kmod(self->d)) {
		EXPECT_EQ(-EOPNOTSUPP, upreempt_request(c.thread, &o, &e));
		EXPECT_EQ(-EOPNOTSUPP, upreempt_world_stop(self->d, &w, &report));
		goto stop;
	}
	UT_FOR(i, ut_scale(300), 15) {
		o.deadline_ns = ut_now() + 5 * UT_SEC;
		o.strategies = i & 1 ? UPREEMPT_BY_AUTO : UPREEMPT_BY_STEP;
		ASSERT_EQ(0, upreempt_request(c.thread, &o, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_GE(e.regs.rip, (uintptr_t)__start_upreempt_text_safe);
		ASSERT_LT(e.regs.rip, (uintptr_t)__stop_upreempt_text_safe);
		ASSERT_EQ(0, upreempt_release(c.thread, e.seq));
		steps += e.steps;
		ASSERT_EQ(0, upreempt_world_stop(self->d, &w, &report));
		ASSERT_EQ(0, upreempt_world_start(self->d));
	}
	EXPECT_NE(0, steps);
	printf("# %llu steps\n", (unsigned long long)steps);
stop:
	o.strategies = UPREEMPT_BY_RETURN << 1;
	EXPECT_EQ(-EINVAL, upreempt_request(c.thread, &o, &e));
	o.strategies = 0;
	o.steps = UPREEMPT_STEPS_MAX + 1;
	EXPECT_EQ(-EINVAL, upreempt_request(c.thread, &o, &e));
	c.c.stop = 1;
	EXPECT_EQ(0, ut_join(c.pthread));
	EXPECT_EQ(c.c.turns, c.c.n);
}

/* A thread in a system call stands, whoever has made the call. */
TEST_F(table, blocked)
{
	struct ut_reader r = { .domain = self->d, .handler = handler };
	struct upreempt_event e;
	struct upreempt_world w;
	int ret;

	ASSERT_EQ(0, ut_reader_start(&r));
	ret = ask(r.thread, UPREEMPT_STOP, 0, 5 * UT_SEC, &e);
	EXPECT_EQ(ut_is_kmod(self->d) ? UPREEMPT_BLOCKED : UPREEMPT_LANDED, ret);
	EXPECT_EQ(0, upreempt_release(r.thread, e.seq));
	EXPECT_EQ(0, ut_world_stop(self->d, 0, &w));
	EXPECT_EQ(0, upreempt_world_start(self->d));
	EXPECT_EQ(UPREEMPT_R_UNDECLARED, why(r.thread, UPREEMPT_STOP,
					     UPREEMPT_REQ_DECLARED_CALLER));
	EXPECT_EQ(UPREEMPT_BLOCKED, ask(r.thread, UPREEMPT_REDIRECT, UPREEMPT_REQ_OR_BLOCKED,
					5 * UT_SEC, &e));
	EXPECT_EQ(-EINVAL, ask(r.thread, UPREEMPT_STOP, UPREEMPT_REQ_SAFE, 1, &e));
	EXPECT_EQ(0, ut_reader_stop(&r));
}

/* ---- code that comes and goes ----------------------------------------------- */

/* mov %rdi,%rax ... : counts *rdi up so many times, then returns */
static const unsigned char template[] = {
	0xb9, 0xe8, 0x03, 0, 0,		/* mov $1000, %ecx */
	0x48, 0xff, 0x07,		/* 1: incq (%rdi) */
	0xff, 0xc9,			/* dec %ecx */
	0x75, 0xf9,			/* jnz 1b */
	0xc3,				/* ret */
};

#define JIT_SIZE	4096

static void (*volatile jit)(volatile uint64_t *n);

__upreempt_safe static void run_jit(struct counts *c)
{
	while (!c->stop) {
		void (*fn)(volatile uint64_t *n) = jit;

		if (fn)
			fn(&c->n);
		c->turns++;
	}
}

static uint64_t freed;

static void free_jit(void *code)
{
	/* Whoever is inside gets a SIGSEGV. */
	mprotect(code, JIT_SIZE, PROT_NONE);
	munmap(code, JIT_SIZE);
	freed++;
}

static void *make_jit(void)
{
	unsigned char *p = mmap(NULL, JIT_SIZE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	memcpy(p, template, sizeof(template));
	return mprotect(p, JIT_SIZE, PROT_READ | PROT_EXEC) ? NULL : p;
}

TEST_F(table, jit)
{
	struct counter c[2] = {
		{ .d = self->d, .body = run_jit, .handler = handler },
		{ .d = self->d, .body = run_jit, .handler = handler },
	};
	struct ut_reader r = { .domain = self->d };
	uint64_t rounds = 0, ran = 0;
	struct upreempt_code *code;
	struct upreempt_event e;

	freed = 0;
	ASSERT_EQ(0, upreempt_code_add_object(self->d, UPREEMPT_CODE_UNSAFE, NULL));
	ASSERT_EQ(0, ut_reader_start(&r));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_create(&c[i].pthread, NULL, counter_main, &c[i]));
		ASSERT_TRUE(UT_UNTIL(c[i].c.turns > 0));
	}
	UT_FOR(i, ut_scale(2000), 20) {
		void *p = make_jit();
		uint64_t before = c[0].c.n;

		ASSERT_NE(NULL, p);
		ASSERT_EQ(0, upreempt_code_add(self->d, NULL, p, JIT_SIZE,
					       i & 1 ? UPREEMPT_CODE_SAFE : UPREEMPT_CODE_UNSAFE,
					       &code));
		jit = (void (*)(volatile uint64_t *))p;
		ASSERT_TRUE(UT_UNTIL(c[0].c.n != before));
		ran += c[0].c.n != before;
		if (!(i % 8))
			ASSERT_EQ(0, ut_request(c[i % 16 / 8].thread, UPREEMPT_REDIRECT, &e));
		jit = NULL;
		ASSERT_EQ(0, upreempt_code_remove(code, free_jit, p, ut_limit()));
		rounds++;
		ASSERT_EQ(rounds, freed);
	}
	EXPECT_EQ(rounds, ran);
	printf("# %llu times\n", (unsigned long long)rounds);
	for (int i = 0; i < 2; i++) {
		c[i].c.stop = 1;
		EXPECT_EQ(0, ut_join(c[i].pthread));
		EXPECT_EQ(0, c[i].error);
	}
	EXPECT_EQ(0, ut_reader_stop(&r));
}

/* A thread that stays inside keeps the code: -ETIMEDOUT, and all is as before. */
TEST_F(table, jit_stays)
{
	struct ut_spinner s = { .domain = self->d };
	uint64_t len = ut_spin_end + 1 - (const char *)ut_spin;
	struct upreempt_code *code;
	struct upreempt_event e;
	struct upreempt_world w;

	freed = 0;
	ASSERT_EQ(0, ut_spinner_start(&s));
	ASSERT_EQ(0, upreempt_code_add(self->d, NULL, ut_spin, len, UPREEMPT_CODE_SAFE, &code));
	EXPECT_EQ(-ETIMEDOUT, upreempt_code_remove(code, free_jit, NULL, ut_now() + 100 * UT_MS));
	EXPECT_EQ(0, freed);
	EXPECT_EQ(UPREEMPT_LANDED, ask(s.thread, UPREEMPT_STOP, 0, 5 * UT_SEC, &e));
	EXPECT_EQ(0, upreempt_release(s.thread, e.seq));
	ASSERT_EQ(0, ut_world_stop(self->d, 0, &w));
	EXPECT_EQ(-EBUSY, upreempt_code_remove(code, free_jit, NULL, 0));
	EXPECT_EQ(0, upreempt_world_start(self->d));
	EXPECT_EQ(0, ut_spinner_stop(&s));
	EXPECT_EQ(0, upreempt_code_remove(code, NULL, NULL, ut_limit()));
	EXPECT_EQ(0, freed);
}

/* Staged: what changes in a stopped world holds when it goes on. */
TEST_F(table, staged)
{
	uint64_t len = ut_spin_end + 1 - (const char *)ut_spin;
	struct ut_spinner s = { .domain = self->d };
	UPREEMPT_OPTS(upreempt_world_opts, o);
	struct upreempt_code *code, *more;
	struct upreempt_world w;

	ASSERT_EQ(0, ut_spinner_start(&s));
	ASSERT_EQ(0, upreempt_code_add(self->d, NULL, ut_spin, len, UPREEMPT_CODE_UNSAFE, &code));
	o.deadline_ns = ut_now() + 100 * UT_MS;
	ASSERT_EQ(1, upreempt_world_stop(self->d, &o, &w));
	ASSERT_EQ(0, upreempt_code_replace(code, NULL, UPREEMPT_CODE_SAFE));
	ASSERT_EQ(0, upreempt_code_add(self->d, NULL, nowhere, 16, UPREEMPT_CODE_SAFE, &more));
	EXPECT_EQ(-EEXIST, upreempt_code_add(self->d, NULL, nowhere, 16, UPREEMPT_CODE_SAFE, NULL));
	o.deadline_ns = ut_now() + 100 * UT_MS;
	EXPECT_EQ(1, upreempt_world_stop(self->d, &o, &w));
	EXPECT_EQ(UPREEMPT_R_UNSAFE_RANGE, w.late[0].reason);
	EXPECT_EQ(0, upreempt_world_start(self->d));
	EXPECT_EQ(0, upreempt_world_start(self->d));
	EXPECT_EQ(0, ut_world_stop(self->d, 0, &w));
	EXPECT_EQ(0, upreempt_world_start(self->d));
	EXPECT_EQ(0, ut_spinner_stop(&s));
	EXPECT_EQ(0, upreempt_code_remove(more, NULL, NULL, 0));
	EXPECT_EQ(0, upreempt_code_remove(code, NULL, NULL, 0));
}

/* ---- objects ----------------------------------------------------------------- */

struct object {
	unsigned char id[64];
	size_t id_len;
	uintptr_t base, exec;
};

static int find_libc(struct dl_phdr_info *o, size_t size, void *arg)
{
	struct object *found = arg;

	if (!o->dlpi_name || !strstr(o->dlpi_name, "libc.so"))
		return 0;
	found->base = o->dlpi_addr;
	for (int i = 0; i < o->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &o->dlpi_phdr[i];

		if (p->p_type == PT_LOAD && p->p_flags & PF_X)
			found->exec = p->p_vaddr;
		if (p->p_type != PT_NOTE)
			continue;
		for (size_t at = 0; at + sizeof(ElfW(Nhdr)) < p->p_memsz;) {
			const ElfW(Nhdr) *n = (const void *)(o->dlpi_addr + p->p_vaddr + at);

			if (n->n_type == NT_GNU_BUILD_ID && n->n_descsz <= sizeof(found->id)) {
				found->id_len = n->n_descsz;
				memcpy(found->id, (const char *)(n + 1) + ((n->n_namesz + 3) & ~3),
				       n->n_descsz);
			}
			at += sizeof(*n) + ((n->n_namesz + 3) & ~3) + ((n->n_descsz + 3) & ~3);
		}
	}
	return 1;
}

TEST_F(table, build_id)
{
	struct upreempt_table *t;
	struct object o = { 0 };
	struct upreempt_code *code;

	ASSERT_EQ(1, dl_iterate_phdr(find_libc, &o));
	ASSERT_NE(0, o.id_len);
	ASSERT_EQ(0, upreempt_table_new(&t));
	upreempt_table_range(t, o.exec, 16, UPREEMPT_CODE_SAFE);
	o.id[0] ^= 1;
	EXPECT_EQ(-ENOENT, upreempt_code_add_for_build_id(self->d, o.id, o.id_len, t,
							  UPREEMPT_CODE_UNSAFE, NULL));
	o.id[0] ^= 1;
	EXPECT_EQ(0, upreempt_code_add_for_build_id(self->d, o.id, o.id_len, t,
						    UPREEMPT_CODE_UNSAFE, &code));
	/* the segment is taken */
	EXPECT_EQ(-EEXIST, upreempt_code_add(self->d, NULL, (void *)(o.base + o.exec), 1,
					     UPREEMPT_CODE_SAFE, NULL));
	EXPECT_EQ(0, upreempt_code_remove(code, NULL, NULL, ut_limit()));
	upreempt_table_range(t, 0, 8, UPREEMPT_CODE_SAFE);
	EXPECT_EQ(-ERANGE, upreempt_code_add_for_build_id(self->d, o.id, o.id_len, t,
							  UPREEMPT_CODE_UNSAFE, NULL));
	upreempt_table_free(t);
}

TEST_HARNESS_MAIN
