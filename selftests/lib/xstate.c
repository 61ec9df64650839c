// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves M5: the extended state of threads that stand still, without disturbing them. */
#include "kselftest_harness.h"
#include <cpuid.h>
#include <unistd.h>
#include "ut_world.h"

#define XMM0		160		/* in the FXSAVE area */
#define MXCSR		24
#define ST0		32
#define NR_YMM		16

struct worker {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	pthread_t pthread;
	int pipe[2];			/* what it reads from, -1: it spins */
	uint64_t seed;
	volatile uint64_t turns;
	volatile int quit, bad;
	unsigned char ymm[NR_YMM * 32], after[NR_YMM * 32] __attribute__((aligned(32)));
};

static bool has_avx(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && c & bit_AVX && c & bit_OSXSAVE;
}

/* All vector registers hold w->ymm, the loop or read() goes on, and they are compared. */
#define MOVE(n, from)	"vmovdqu " #n "*32(%[" from "]), %%ymm" #n "\n"
#define BACK(n)		"vmovdqu %%ymm" #n ", " #n "*32(%[after])\n"
#define ALL(f, ...)	f(0, ##__VA_ARGS__) f(1, ##__VA_ARGS__) f(2, ##__VA_ARGS__)	\
			f(3, ##__VA_ARGS__) f(4, ##__VA_ARGS__) f(5, ##__VA_ARGS__)	\
			f(6, ##__VA_ARGS__) f(7, ##__VA_ARGS__) f(8, ##__VA_ARGS__)	\
			f(9, ##__VA_ARGS__) f(10, ##__VA_ARGS__) f(11, ##__VA_ARGS__)	\
			f(12, ##__VA_ARGS__) f(13, ##__VA_ARGS__) f(14, ##__VA_ARGS__)	\
			f(15, ##__VA_ARGS__)
#define YMM_CLOBBERS	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",	\
			"xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

__attribute__((target("avx"))) static void spin(struct worker *w)
{
	__asm__ __volatile__("fldpi\n"
			     ALL(MOVE, "ymm")
			     "1: incq (%[turns])\n"
			     "cmpl $0, (%[quit])\n"
			     "je 1b\n"
			     ALL(BACK)
			     "fstp %%st(0)\n"
			     "vzeroupper\n"
			     : : [ymm] "r"(w->ymm), [after] "r"(w->after),
			     [turns] "r"(&w->turns), [quit] "r"(&w->quit)
			     : "cc", "memory", "st", YMM_CLOBBERS);
}

__attribute__((target("avx"))) static void block(struct worker *w)
{
	long ret = 0;
	char byte;

	w->turns = 1;
	__asm__ __volatile__("fldpi\n"
			     ALL(MOVE, "ymm")
			     "syscall\n"
			     ALL(BACK)
			     "fstp %%st(0)\n"
			     "vzeroupper\n"
			     : "+a"(ret)
			     : [ymm] "r"(w->ymm), [after] "r"(w->after),
			     "D"((long)w->pipe[0]), "S"(&byte), "d"(1L)
			     : "cc", "memory", "rcx", "r11", "st", YMM_CLOBBERS);
	w->turns = 2;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	for (size_t i = 0; i < sizeof(w->ymm); i++)
		w->ymm[i] = (w->seed + i) * 167 >> 3;
	if (upreempt_thread_register(w->domain, NULL, &w->thread))
		return NULL;
	if (w->pipe[0] < 0)
		spin(w);
	else
		block(w);
	w->bad = memcmp(w->ymm, w->after, sizeof(w->ymm)) != 0;
	return NULL;
}

/* As stopped, every register is there; st0 is pi, mxcsr the default. */
static void check(struct __test_metadata *_metadata, struct worker *w)
{
	static const unsigned char pi[10] = { 0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9,
					      0x00, 0x40 };
	unsigned char area[8192] __attribute__((aligned(64)));
	size_t size = sizeof(area), part = 0;
	unsigned char *fx, *hi;
	uint32_t mxcsr;

	memset(area, 0xcc, sizeof(area));
	ASSERT_EQ(0, upreempt_thread_xstate(w->thread, area, &size));
	EXPECT_LT(576 + NR_YMM * 16 - 1, (int)size);
	fx = upreempt_xstate_part(area, 1, &part);
	ASSERT_NE(NULL, fx);
	EXPECT_EQ(512, part);
	hi = upreempt_xstate_part(area, 2, &part);
	ASSERT_NE(NULL, hi);
	EXPECT_EQ(NR_YMM * 16, part);
	for (int i = 0; i < NR_YMM; i++) {
		EXPECT_EQ(0, memcmp(fx + XMM0 + i * 16, w->ymm + i * 32, 16));
		EXPECT_EQ(0, memcmp(hi + i * 16, w->ymm + i * 32 + 16, 16));
	}
	memcpy(&mxcsr, fx + MXCSR, sizeof(mxcsr));
	EXPECT_EQ(0x1f80, mxcsr);
	EXPECT_EQ(0, memcmp(fx + ST0, pi, sizeof(pi)));
}

FIXTURE(xstate) {
	struct upreempt_domain *domain;
	struct worker w[3];		/* two that spin, one that reads */
};

FIXTURE_SETUP(xstate)
{
	if (!has_avx())
		SKIP(return, "no AVX");
	self->domain = ut_open(8, 64);
	ASSERT_NE(NULL, self->domain);
	for (int i = 0; i < 3; i++) {
		struct worker *w = &self->w[i];

		w->domain = self->domain;
		w->seed = 1000 + i * 77;
		w->pipe[0] = -1;
		if (i == 2)
			ASSERT_EQ(0, pipe(w->pipe));
		ASSERT_EQ(0, pthread_create(&w->pthread, NULL, worker_main, w));
		ASSERT_TRUE(UT_UNTIL(w->turns));
	}
	ut_sleep(20 * UT_MS);		/* so that the reader reads */
}

FIXTURE_TEARDOWN(xstate)
{
	if (!self->domain)
		return;
	for (int i = 0; i < 3; i++) {
		self->w[i].quit = 1;
		if (self->w[i].pipe[0] >= 0)
			EXPECT_EQ(1, write(self->w[i].pipe[1], "x", 1));
		EXPECT_EQ(0, ut_join(self->w[i].pthread));
		EXPECT_EQ(0, self->w[i].bad);
	}
	upreempt_domain_close(self->domain);
}

TEST_F(xstate, while_the_world_is_stopped)
{
	struct upreempt_world r;

	for (int i = 0; i < 200; i++) {
		ASSERT_EQ(0, ut_world_stop(self->domain, 0, &r));
		for (int n = 0; n < 3; n++)
			check(_metadata, &self->w[n]);
		ASSERT_EQ(0, upreempt_world_start(self->domain));
	}
}

TEST_F(xstate, of_a_held_thread)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_STOP);
	struct upreempt_event ev;

	for (int i = 0; i < 200; i++) {
		struct upreempt_thread *t = self->w[i % 3].thread;

		o.deadline_ns = ut_limit();
		ASSERT_EQ(0, upreempt_request(t, &o, &ev));
		check(_metadata, &self->w[i % 3]);
		ASSERT_EQ(0, upreempt_release(t, ev.seq));
	}
}

TEST_F(xstate, errors)
{
	unsigned char area[8192];
	size_t size = sizeof(area), small;
	struct upreempt_world r;

	EXPECT_EQ(-EBUSY, upreempt_thread_xstate(self->w[0].thread, area, &size));
	EXPECT_EQ(-EINVAL, upreempt_thread_xstate(NULL, area, &size));
	EXPECT_EQ(-EINVAL, upreempt_thread_xstate(self->w[0].thread, area, NULL));
	EXPECT_EQ(-EINVAL, upreempt_thread_xstate(self->w[0].thread, NULL, &size));
	ASSERT_EQ(0, ut_world_stop(self->domain, 0, &r));
	small = 0;
	EXPECT_EQ(-ENOSPC, upreempt_thread_xstate(self->w[0].thread, NULL, &small));
	EXPECT_LT(575, small);
	size = small - 1;
	memset(area, 0x5a, sizeof(area));
	EXPECT_EQ(-ENOSPC, upreempt_thread_xstate(self->w[0].thread, area, &size));
	EXPECT_EQ(small, size);
	EXPECT_EQ(0x5a, area[0]);
	EXPECT_EQ(0, upreempt_thread_xstate(self->w[0].thread, area, &size));
	if (ut_is_kmod(self->domain))
		EXPECT_EQ(-EFAULT, upreempt_thread_xstate(self->w[0].thread, (void *)8, &size));
	ASSERT_EQ(0, upreempt_world_start(self->domain));
}

TEST_HARNESS_MAIN
