// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * A handler reads and edits the interrupted context: the thread goes on elsewhere,
 * with other registers, on another stack, in a call that it never made; handlers
 * nest and ask other threads. Proves M6 (in small), M12, M15, M16, P12.
 */
#include "kselftest_harness.h"
#include "ut.h"
#include <sys/mman.h>

FIXTURE(context) {
	struct upreempt_domain *domain;
	struct ut_spinner s;
};

FIXTURE_SETUP(context)
{
	memset(self, 0, sizeof(*self));
	self->domain = ut_open(4, 64);
	ASSERT_NE(NULL, self->domain);
	self->s.domain = self->domain;
	self->s.arg = self;
}

FIXTURE_TEARDOWN(context)
{
	upreempt_domain_close(self->domain);
}

static volatile uint64_t runs, elsewhere;

static int redirect(struct upreempt_thread *thread)
{
	uint64_t before = runs;
	struct upreempt_event ev;
	int err = ut_request(thread, UPREEMPT_REDIRECT, &ev);

	if (err || ev.outcome != UPREEMPT_LANDED)
		return err ? err : -EPROTO;
	return UT_UNTIL(runs > before) ? 0 : -ETIMEDOUT;
}

static void leave_loop(struct upreempt_context *ctx, void *arg)
{
	(void)arg;
	upreempt_context_regs(ctx)->rip = (uintptr_t)ut_spin_end;
	runs++;
}

TEST_F_TIMEOUT(context, other_pc, 60)
{
	struct timespec ts;

	self->s.handler = leave_loop;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	ASSERT_EQ(0, redirect(self->s.thread));
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 10;
	/* it left the loop although nobody told it to quit */
	ASSERT_EQ(0, pthread_timedjoin_np(self->s.pthread, NULL, &ts));
	EXPECT_EQ(0, self->s.error);
}

static void other_counter(struct upreempt_context *ctx, void *arg)
{
	(void)arg;
	upreempt_context_regs(ctx)->rdi = (uintptr_t)&elsewhere;
	runs++;
}

TEST_F_TIMEOUT(context, other_register, 60)
{
	uint64_t count;

	self->s.handler = other_counter;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	ASSERT_EQ(0, redirect(self->s.thread));
	ASSERT_TRUE(UT_UNTIL(elsewhere > 0));
	count = self->s.count;
	ut_sleep(5 * UT_MS);
	EXPECT_EQ(count, self->s.count);
	EXPECT_EQ(0, ut_spinner_stop(&self->s));
}

/* A function that the thread never called: it returns to the interrupted instruction */
extern const char injected[];
uint64_t injected_calls __attribute__((visibility("hidden"), used));
__asm__(
"	.pushsection .text\n"
"	.hidden	injected\n"
"injected:\n"
"	pushfq\n"
"	lock incq injected_calls(%rip)\n"
"	popfq\n"
"	ret	$128\n"
"	.popsection\n");

static void inject_call(struct upreempt_context *ctx, void *arg)
{
	struct upreempt_regs *r = upreempt_context_regs(ctx);

	(void)arg;
	r->rsp -= 128 + 8;
	*(uint64_t *)(uintptr_t)r->rsp = r->rip;
	r->rip = (uintptr_t)injected;
	runs++;
}

TEST_F_TIMEOUT(context, injected_call, 60)
{
	self->s.handler = inject_call;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	for (uint64_t i = 1; i <= 1000; i++) {
		ASSERT_EQ(0, redirect(self->s.thread));
		ASSERT_TRUE(UT_UNTIL(__atomic_load_n(&injected_calls, __ATOMIC_RELAXED) == i));
	}
	EXPECT_TRUE(ut_moves(&self->s));
	EXPECT_EQ(0, ut_spinner_stop(&self->s));
}

static void read_only_words(struct upreempt_context *ctx, void *arg)
{
	struct upreempt_regs *r = upreempt_context_regs(ctx);

	(void)arg;
	r->fs_base = 0x1000;
	r->gs_base = 0x2000;
	r->orig_rax = 1;
	r->sigmask = ~0ULL;
	r->rflags |= 0x3000 | 0x20000;		/* IOPL, VM: not for users to set */
	r->rflags &= ~0x200ULL;			/* neither is IF to be cleared */
	runs++;
}

TEST_F_TIMEOUT(context, what_cannot_be_edited, 60)
{
	struct upreempt_event ev;

	self->s.handler = read_only_words;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	ASSERT_EQ(0, redirect(self->s.thread));
	EXPECT_TRUE(ut_moves(&self->s));
	ASSERT_EQ(0, ut_request(self->s.thread, UPREEMPT_SAMPLE, &ev));
	EXPECT_EQ(0x200, ev.regs.rflags & 0x23200);
	EXPECT_LT(0x2000, ev.regs.fs_base);
	EXPECT_NE(0x2000, ev.regs.gs_base);
	EXPECT_EQ(0, ut_spinner_stop(&self->s));
}

/* ---- extended state ------------------------------------------------------ */

static uint64_t seen_low, seen_high;
static int missing;
static bool have_avx;

static void edit_vectors(struct upreempt_context *ctx, void *arg)
{
	size_t size0 = 0, size1 = 0, size2 = 0;
	uint8_t *x87 = upreempt_context_xstate(ctx, 0, &size0);
	uint8_t *sse = upreempt_context_xstate(ctx, 1, &size1);
	uint8_t *avx = upreempt_context_xstate(ctx, 2, &size2);
	uint64_t value = 0x2222222222222222ULL;

	(void)arg;
	missing += !sse || size1 != 512;
	/* nobody need have used the x87: NULL in its initial state */
	missing += x87 && (x87 != sse || size0 != 512);
	missing += have_avx && (!avx || size2 != 256);
	missing += upreempt_context_xstate(ctx, 63, NULL) != NULL;
	missing += upreempt_context_xstate(ctx, 64, NULL) != NULL;
	missing += upreempt_context_xstate(ctx, ~0U, NULL) != NULL;
	if (sse) {
		memcpy(&seen_low, sse + 160 + 16 * 7, 8);
		memcpy(sse + 160 + 16 * 7, &value, 8);
	}
	value = 0x3333333333333333ULL;
	if (avx) {
		memcpy(&seen_high, avx + 16 * 7, 8);
		memcpy(avx + 16 * 7, &value, 8);
	}
	runs++;
}

struct vectors {
	volatile uint64_t low, high;
	volatile int quit, ready;
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	int error;
};

/* Stores what xmm7 and the upper half of ymm7 hold, over and over */
__attribute__((noinline)) static void vector_loop(struct vectors *v)
{
	uint64_t low = 0x1111111111111111ULL, high = 0x4444444444444444ULL;

	if (have_avx)
		__asm__ volatile("vmovq	%2, %%xmm7\n"
				 "	vmovq	%3, %%xmm6\n"
				 "	vinserti128 $1, %%xmm6, %%ymm7, %%ymm7\n"
				 "1:	vmovq	%%xmm7, %0\n"
				 "	vextracti128 $1, %%ymm7, %%xmm6\n"
				 "	vmovq	%%xmm6, %1\n"
				 "	cmpl	$0, %4\n"
				 "	je	1b\n"
				 "	vzeroupper\n"
				 : "=m"(v->low), "=m"(v->high)
				 : "r"(low), "r"(high), "m"(v->quit)
				 : "xmm6", "xmm7", "cc", "memory");
	else
		__asm__ volatile("movq	%1, %%xmm7\n"
				 "1:	movq	%%xmm7, %0\n"
				 "	cmpl	$0, %2\n"
				 "	je	1b\n"
				 : "=m"(v->low) : "r"(low), "m"(v->quit)
				 : "xmm7", "cc", "memory");
}

static void *vector_main(void *arg)
{
	struct vectors *v = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = edit_vectors);

	v->error = upreempt_thread_register(v->domain, &o, &v->thread);
	v->ready = 1;
	if (v->error)
		return NULL;
	vector_loop(v);
	v->error = upreempt_thread_unregister(v->thread);
	return NULL;
}

TEST_F_TIMEOUT(context, vector_registers, 60)
{
	struct vectors v = { .domain = self->domain };
	pthread_t t;

	have_avx = __builtin_cpu_supports("avx2");
	ASSERT_EQ(0, pthread_create(&t, NULL, vector_main, &v));
	ASSERT_TRUE(UT_UNTIL(v.ready && (v.error || v.low)));
	ASSERT_EQ(0, v.error);
	ASSERT_EQ(0, redirect(v.thread));
	EXPECT_EQ(0, missing);
	EXPECT_EQ(0x1111111111111111ULL, seen_low);
	EXPECT_TRUE(UT_UNTIL(v.low == 0x2222222222222222ULL));
	if (have_avx) {
		EXPECT_EQ(0x4444444444444444ULL, seen_high);
		EXPECT_TRUE(UT_UNTIL(v.high == 0x3333333333333333ULL));
	}
	v.quit = 1;
	ASSERT_EQ(0, pthread_join(t, NULL));
	EXPECT_EQ(0, v.error);
}

/* A handler built without vector registers may have them left alone: NULL is the answer */
static void no_vectors(struct upreempt_context *ctx, void *arg)
{
	(void)arg;
	missing += upreempt_context_xstate(ctx, 0, NULL) != NULL;
	missing += upreempt_context_xstate(ctx, 2, NULL) != NULL;
	runs++;
}

TEST_F_TIMEOUT(context, no_xsave, 60)
{
	self->s.handler = no_vectors;
	self->s.flags = UPREEMPT_THREAD_NO_XSAVE;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	for (int i = 0; i < 100; i++)
		ASSERT_EQ(0, redirect(self->s.thread));
	EXPECT_EQ(0, missing);
	EXPECT_TRUE(ut_moves(&self->s));
	EXPECT_EQ(0, ut_spinner_stop(&self->s));
}

/* ---- protection keys ------------------------------------------------------ */

static uint32_t seen_pkru, saved_pkru, edited_pkru;

static uint32_t read_pkru(void)
{
	uint32_t value, edx;

	__asm__ volatile("rdpkru" : "=a"(value), "=d"(edx) : "c"(0));
	return value;
}

/* Has the interrupted code's rights; what it does to its own is undone, an edit stays. */
static void handle_pkru(struct upreempt_context *ctx, void *arg)
{
	uint32_t *saved = upreempt_context_xstate(ctx, 9, NULL);

	(void)arg;
	seen_pkru = read_pkru();
	saved_pkru = saved ? *saved : 0;	/* NULL: the initial state */
	if (saved && edited_pkru)
		*saved = edited_pkru;
	__asm__ volatile("wrpkru" : : "a"(0), "c"(0), "d"(0));
	runs++;
}

/* Not from the end of the last handler, which has rights of its own */
static int redirect_from_loop(struct ut_spinner *s)
{
	return ut_moves(s) ? redirect(s->thread) : -ETIMEDOUT;
}

TEST_F_TIMEOUT(context, protection_keys, 60)
{
	int key = pkey_alloc(0, 0);
	uint32_t mine;

	if (key < 0)
		SKIP(return, "no protection keys");
	mine = read_pkru();
	self->s.handler = handle_pkru;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, redirect_from_loop(&self->s));
		ASSERT_EQ(mine, seen_pkru);
		ASSERT_EQ(mine, saved_pkru);
	}
	edited_pkru = mine | 3U << 2 * key;
	ASSERT_EQ(0, redirect_from_loop(&self->s));
	ASSERT_EQ(0, redirect_from_loop(&self->s));
	EXPECT_EQ(edited_pkru, seen_pkru);
	EXPECT_EQ(0, ut_spinner_stop(&self->s));

	/* not saved: what the handler set is there when it is entered again */
	self->s.flags = UPREEMPT_THREAD_NO_XSAVE;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	ASSERT_EQ(0, redirect_from_loop(&self->s));
	EXPECT_EQ(mine, seen_pkru);
	ASSERT_EQ(0, redirect_from_loop(&self->s));
	EXPECT_EQ(0, seen_pkru);
	EXPECT_EQ(0, ut_spinner_stop(&self->s));
}

/* ---- nesting ------------------------------------------------------------- */

static volatile int depth, deepest;
static struct upreempt_thread *partner;
static volatile int bad;

static void nest_myself(struct upreempt_context *ctx, void *arg)
{
	struct upreempt_thread *me = upreempt_context_thread(ctx);
	uint64_t seq, rip = upreempt_context_regs(ctx)->rip;
	struct upreempt_event ev;

	(void)arg;
	bad += me != upreempt_thread_self();
	if (++depth > deepest)
		deepest = depth;
	if (depth < 4) {
		bad += ut_post(me, UPREEMPT_REDIRECT, &seq) != 0;
		bad += upreempt_wait(me, seq, ut_limit(), &ev) != 0;
		bad += ev.outcome != UPREEMPT_LANDED;
		bad += seq <= upreempt_context_seq(ctx);
	}
	/* the outer context is still what it was */
	bad += upreempt_context_regs(ctx)->rip != rip;
	depth--;
	runs++;
}

TEST_F_TIMEOUT(context, handler_interrupted_by_its_own_request, 60)
{
	self->s.handler = nest_myself;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	for (int i = 1; i <= 100; i++) {
		ASSERT_EQ(0, redirect(self->s.thread));
		ASSERT_TRUE(UT_UNTIL(runs == 4ULL * i));
	}
	EXPECT_EQ(4, deepest);
	EXPECT_EQ(0, bad);
	EXPECT_TRUE(ut_moves(&self->s));
	EXPECT_EQ(0, ut_spinner_stop(&self->s));
}

static volatile int outer_in, inner_ran, shut;

static void wait_for_inner(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	if (outer_in) {
		inner_ran = 1;
		runs++;
		return;
	}
	if (shut)
		upreempt_disable();
	outer_in = 1;			/* now the second one is asked for */
	for (uint64_t end = ut_now() + (shut ? UT_SEC / 10 : 10 * UT_SEC);
	     !inner_ran && ut_now() < end;)
		;
	bad += inner_ran == shut;
	outer_in = 0;
	if (shut)
		upreempt_enable();
	runs++;
}

TEST_F_TIMEOUT(context, handler_interrupted_from_outside, 60)
{
	struct upreempt_event ev;

	self->s.handler = wait_for_inner;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	for (shut = 0; shut < 2; shut++) {
		uint64_t seq[2];

		inner_ran = 0;
		outer_in = 0;
		runs = 0;
		ASSERT_EQ(0, ut_post(self->s.thread, UPREEMPT_REDIRECT, &seq[0]));
		ASSERT_TRUE(UT_UNTIL(outer_in || runs));
		ASSERT_EQ(0, ut_post(self->s.thread, UPREEMPT_REDIRECT, &seq[1]));
		for (int i = 0; i < 2; i++) {
			ASSERT_EQ(0, upreempt_wait(self->s.thread, seq[i], ut_limit(), &ev));
			EXPECT_TRUE(ev.outcome == UPREEMPT_LANDED ||
				    ev.outcome == UPREEMPT_COOPERATED);
		}
		EXPECT_TRUE(UT_UNTIL(runs == 2));
		EXPECT_EQ(0, bad);
	}
	EXPECT_TRUE(ut_moves(&self->s));
	EXPECT_EQ(0, ut_spinner_stop(&self->s));
}

static void ask_partner(struct upreempt_context *ctx, void *arg)
{
	struct upreempt_event ev;

	(void)ctx;
	(void)arg;
	if (upreempt_thread_self() == partner) {
		elsewhere++;
		return;
	}
	bad += ut_request(partner, UPREEMPT_REDIRECT, &ev) != 0 || ev.outcome != UPREEMPT_LANDED;
	/* BLOCKED: it is just resuming through the kernel */
	bad += ut_request(partner, UPREEMPT_SAMPLE, &ev) != 0 ||
	       (ev.outcome != UPREEMPT_LANDED && ev.outcome != UPREEMPT_BLOCKED);
	bad += ut_request(partner, UPREEMPT_STOP, &ev) != 0 ||
	       (ev.outcome != UPREEMPT_LANDED && ev.outcome != UPREEMPT_BLOCKED);
	bad += upreempt_release(partner, ev.seq) != 0;
	runs++;
}

TEST_F_TIMEOUT(context, handler_asks_another_thread, 60)
{
	struct ut_spinner other = { .domain = self->domain, .handler = ask_partner };

	self->s.handler = ask_partner;
	ASSERT_EQ(0, ut_spinner_start(&other));
	partner = other.thread;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	for (int i = 1; i <= 50; i++) {
		ASSERT_EQ(0, redirect(self->s.thread));
		ASSERT_TRUE(UT_UNTIL(elsewhere == (uint64_t)i));
	}
	EXPECT_EQ(0, bad);
	EXPECT_EQ(0, ut_spinner_stop(&self->s));
	EXPECT_EQ(0, ut_spinner_stop(&other));
}

/* ---- several threads of control on one thread ---------------------------- */

#define FIBERS 3

static struct upreempt_regs fibers[FIBERS];
static volatile uint64_t fiber_count[FIBERS];
static volatile int fiber_quit, current_fiber;

/* Take the interrupted fiber's registers away and go on as the next one */
static void switch_fiber(struct upreempt_context *ctx, void *arg)
{
	struct upreempt_regs *r = upreempt_context_regs(ctx);

	(void)arg;
	if (!ut_in_spin(r->rip))	/* done, or not begun */
		return;
	fibers[current_fiber] = *r;
	current_fiber = (current_fiber + 1) % FIBERS;
	*r = fibers[current_fiber];
	runs++;
}

TEST_F_TIMEOUT(context, loops_share_a_thread, 60)
{
	char *stacks = mmap(NULL, FIBERS * 65536, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct upreempt_event ev;

	ASSERT_NE(MAP_FAILED, stacks);
	for (int i = 1; i < FIBERS; i++) {
		fibers[i].rip = (uintptr_t)ut_spin_begin;
		fibers[i].rsp = (uintptr_t)stacks + (i + 1) * 65536 - 512;
		fibers[i].rdi = (uintptr_t)&fiber_count[i];
		fibers[i].rsi = (uintptr_t)&fiber_quit;
		fibers[i].rflags = 0x202;
	}
	self->s.handler = switch_fiber;
	self->s.flags = UPREEMPT_THREAD_NO_STACK_CHECK;
	ASSERT_EQ(0, ut_spinner_start(&self->s));
	for (int i = 0; i < 300; i++) {
		ASSERT_EQ(0, ut_request(self->s.thread, UPREEMPT_REDIRECT, &ev));
		ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
		ut_sleep(UT_MS / 10);
	}
	for (int i = 1; i < FIBERS; i++)
		EXPECT_LT(0, fiber_count[i]);
	EXPECT_LE(300 / 2, runs);
	/* come home: to fiber 0, which is the thread itself */
	for (int i = 0; i < 1000 && current_fiber; i++)
		ASSERT_EQ(0, ut_request(self->s.thread, UPREEMPT_REDIRECT, &ev));
	ASSERT_TRUE(UT_UNTIL(current_fiber == 0));
	EXPECT_TRUE(ut_moves(&self->s));
	EXPECT_EQ(0, ut_spinner_stop(&self->s));
	munmap(stacks, FIBERS * 65536);
}

TEST_HARNESS_MAIN
