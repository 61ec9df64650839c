// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Preemption and the program's own signals do not meet: the module works in threads
 * that block every signal, uses none, and a thread may be redirected while its
 * handlers run, nest, and use an alternate stack. Proves M38, R11, U4, U6, U28, U29,
 * P7, P11 (goal G6).
 */
#include "kselftest_harness.h"
#include "ut.h"
#include <sys/mman.h>

static volatile uint64_t runs;

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	runs++;
}

FIXTURE(signals) {
	struct upreempt_domain *domain;
};

FIXTURE_SETUP(signals)
{
	self->domain = ut_open(4, 64);
	ASSERT_NE(NULL, self->domain);
}

FIXTURE_TEARDOWN(signals)
{
	upreempt_domain_close(self->domain);
}

static volatile uint64_t caught;

static void catch(int signo)
{
	(void)signo;
	__atomic_fetch_add(&caught, 1, __ATOMIC_RELAXED);
}

TEST_F_TIMEOUT(signals, all_blocked_everywhere, 60)
{
	struct ut_spinner s = { .domain = self->domain, .handler = handler };
	struct upreempt_event ev;
	const uint64_t libc = 3ULL << 31;	/* 32 and 33 are libc's own */
	sigset_t all;

	if (!ut_is_kmod(self->domain))
		SKIP(return, "the signal backend needs its signal: that is what the module is for");
	for (int i = 1; i < 65; i++)
		if (i != SIGKILL && i != SIGSTOP && i != 32 && i != 33)
			signal(i, catch);
	sigfillset(&all);
	ASSERT_EQ(0, pthread_sigmask(SIG_SETMASK, &all, NULL));
	ASSERT_EQ(0, ut_spinner_start(&s));
	for (int i = 0; i < 1000; i++) {
		ASSERT_EQ(0, ut_request(s.thread, 1 + i % 3, &ev));
		/* BLOCKED: it was just resuming through the kernel */
		ASSERT_TRUE(ev.outcome == UPREEMPT_LANDED ||
			    (ev.outcome == UPREEMPT_BLOCKED && 1 + i % 3 != UPREEMPT_REDIRECT));
		if (i % 3 == 1)
			ASSERT_EQ(0, upreempt_release(s.thread, ev.seq));
	}
	EXPECT_EQ(~(1ULL << 8 | 1ULL << 18 | libc), ev.regs.sigmask & ~libc);
	EXPECT_EQ(0, ut_spinner_stop(&s));
	sigemptyset(&all);
	ASSERT_EQ(0, pthread_sigmask(SIG_SETMASK, &all, NULL));
	EXPECT_EQ(0, caught);
}

/* ---- a thread that is bombarded with signals of its own ------------------- */

struct soldier {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	pthread_t pthread;
	bool altstack;
	volatile uint64_t rounds, handled;
	volatile int quit, ready;
	volatile uint64_t bad;
	int error;
};

static __thread struct soldier *soldier;
static __thread volatile int nesting;

/* Long enough to be redirected in it; locals and registers must stay what they are */
static void own_handler(int signo, siginfo_t *si, void *uc)
{
	volatile uint64_t pattern[16];
	uint64_t sum = 0;

	(void)si;
	(void)uc;
	nesting++;
	for (int i = 0; i < 16; i++)
		pattern[i] = signo * 1000 + i;
	for (volatile int i = 0; i < 500; i++)
		sum += i;
	if (signo == SIGUSR1 && nesting < 3)
		syscall(SYS_tgkill, getpid(), gettid(), SIGUSR2);
	for (int i = 0; i < 16; i++)
		soldier->bad += pattern[i] != (uint64_t)(signo * 1000 + i);
	soldier->bad += sum != 499 * 500 / 2;
	soldier->handled++;
	nesting--;
}

static void *soldier_main(void *arg)
{
	struct soldier *s = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);
	stack_t ss = { .ss_size = 256 * 1024 };
	uint64_t a = 1, b = 2, c = 3;

	soldier = s;
	ss.ss_sp = mmap(NULL, ss.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	if (s->altstack && sigaltstack(&ss, NULL))
		s->bad++;
	s->error = upreempt_thread_register(s->domain, &o, &s->thread);
	s->ready = 1;
	if (s->error)
		return NULL;
	while (!s->quit) {
		uint64_t x = a, y = b, z = c;

		for (int i = 0; i < 200; i++) {
			x = x * 3 + y;
			y = y * 5 + z;
			z = z * 7 + x;
			__asm__ volatile("" : "+r"(x), "+r"(y), "+r"(z));
		}
		for (int i = 0; i < 200; i++) {
			a = a * 3 + b;
			b = b * 5 + c;
			c = c * 7 + a;
			__asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c));
		}
		s->bad += x != a || y != b || z != c;
		s->rounds++;
	}
	s->error = upreempt_thread_unregister(s->thread);
	ss.ss_flags = SS_DISABLE;
	sigaltstack(&ss, NULL);
	munmap(ss.ss_sp, ss.ss_size);
	return NULL;
}

struct bomber {
	struct soldier *target;
	pthread_t pthread;
	volatile int quit;
	uint64_t sent;
};

static void *bomber_main(void *arg)
{
	struct bomber *b = arg;

	while (!b->quit) {
		pthread_kill(b->target->pthread, b->sent++ % 3 ? SIGUSR1 : SIGUSR2);
		for (volatile int i = 0; i < 5000; i++)
			;
	}
	return NULL;
}

static int battle(struct upreempt_domain *domain, bool altstack, uint64_t n)
{
	struct sigaction sa = { .sa_sigaction = own_handler, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct soldier s = { .domain = domain, .altstack = altstack };
	struct bomber b = { .target = &s };
	uint64_t landed = 0, attempts = 0, wrong = 0;
	struct upreempt_event ev;

	sa.sa_flags |= altstack ? SA_ONSTACK : 0;
	if (sigaction(SIGUSR1, &sa, NULL) || sigaction(SIGUSR2, &sa, NULL))
		return -1;
	if (pthread_create(&s.pthread, NULL, soldier_main, &s) || !UT_UNTIL(s.ready) || s.error)
		return -2;
	if (pthread_create(&b.pthread, NULL, bomber_main, &b))
		return -3;
	UT_FOR(i, n, 8) {
		if (wrong > 4)
			break;
		if (ut_request(s.thread, UPREEMPT_REDIRECT, &ev) ||
		    ev.outcome != UPREEMPT_LANDED) {
			printf("# %s %s after %u attempts\n", upreempt_outcome_name(ev.outcome),
			       upreempt_reason_name(ev.reason), ev.attempts);
			wrong++;
			continue;
		}
		landed++;
		attempts += ev.attempts;
	}
	b.quit = 1;
	pthread_join(b.pthread, NULL);
	s.quit = 1;
	pthread_join(s.pthread, NULL);
	printf("# %llu redirects, %llu deferrals, %llu signals handled, %llu rounds\n",
	       (unsigned long long)landed, (unsigned long long)attempts,
	       (unsigned long long)s.handled, (unsigned long long)s.rounds);
	if (runs != landed)
		printf("# %llu landed, %llu ran\n", (unsigned long long)landed,
		       (unsigned long long)runs);
	return wrong + s.bad + (runs != landed) + (s.error != 0) + !s.handled;
}

TEST_F_TIMEOUT(signals, own_handlers, 120)
{
	EXPECT_EQ(0, battle(self->domain, false, ut_scale(20000)));
}

TEST_F_TIMEOUT(signals, own_handlers_on_an_alternate_stack, 120)
{
	EXPECT_EQ(0, battle(self->domain, true, ut_scale(20000)));
}

/* The signal that the backend uses is not taken from a program that has it already */
TEST(signal_is_given_back)
{
	UPREEMPT_OPTS(upreempt_domain_opts, o, .backend = UPREEMPT_BACKEND_SIGNAL,
		      .signo = SIGUSR1);
	struct upreempt_domain *domain;
	struct sigaction sa;

	ASSERT_EQ(0, upreempt_domain_open(&o, &domain));
	ASSERT_EQ(0, sigaction(SIGUSR1, NULL, &sa));
	EXPECT_NE((void (*)(int))SIG_DFL, sa.sa_handler);
	upreempt_domain_close(domain);
	/* one that comes late or from elsewhere must not kill the program */
	EXPECT_EQ(0, raise(SIGUSR1));
}

/* With the module there is nothing to see in /proc/self/status, whatever is asked */
TEST_F_TIMEOUT(signals, none_is_used, 60)
{
	struct ut_spinner s = { .domain = self->domain, .handler = handler };
	char line[128], pending[2][256] = { "", "" };
	struct upreempt_event ev;
	struct sigaction sa;

	if (!ut_is_kmod(self->domain))
		SKIP(return, "the signal backend uses one");
	for (int i = 1; i < 65; i++) {
		if (i == SIGKILL || i == SIGSTOP || i == 32 || i == 33)
			continue;
		ASSERT_EQ(0, sigaction(i, NULL, &sa));
		if (sa.sa_handler == SIG_DFL)
			signal(i, catch);
	}
	ASSERT_EQ(0, ut_spinner_start(&s));
	for (int when = 0; when < 2; when++) {
		FILE *f = fopen("/proc/self/status", "re");

		ASSERT_NE(NULL, f);
		while (fgets(line, sizeof(line), f))
			if (!strncmp(line, "SigQ:", 5) || !strncmp(line, "ShdPnd:", 7))
				strcat(pending[when], line);
		fclose(f);
		for (int i = 0; !when && i < 3000; i++) {
			ASSERT_EQ(0, ut_request(s.thread, 1 + i % 3, &ev));
			if (i % 3 == 1)
				ASSERT_EQ(0, upreempt_release(s.thread, ev.seq));
		}
	}
	EXPECT_STREQ(pending[0], pending[1]);
	EXPECT_EQ(0, caught);
	EXPECT_EQ(0, ut_spinner_stop(&s));
}

TEST_HARNESS_MAIN
