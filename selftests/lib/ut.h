/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * What the tests of the library share: time, waiting with a limit, and threads
 * that spin in a loop without calls until they are told to stop.
 */
#ifndef SELFTESTS_LIB_UT_H
#define SELFTESTS_LIB_UT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <upreempt/ring.h>
#include <upreempt/upreempt.h>

#define UT_MS	1000000ULL
#define UT_SEC	1000000000ULL

/* Remarks have to come out, also of a test that ends by _exit() */
__attribute__((constructor)) static void ut_line_buffered(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
}

static inline uint64_t ut_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * UT_SEC + ts.tv_nsec;
}

/* Instructions are emulated: everything takes ten times longer */
static inline bool ut_emulated(void)
{
	unsigned int eax, ebx, ecx, edx;
	char name[13] = "";

	__cpuid(0x40000000, eax, ebx, ecx, edx);
	memcpy(name, &ebx, 4);
	memcpy(name + 4, &ecx, 4);
	memcpy(name + 8, &edx, 4);
	return !strcmp(name, "TCGTCGTCGTCG");
}

/* n, a tenth of it under emulation, and as many percent of that as UPREEMPT_SCALE says */
static inline uint64_t ut_scale(uint64_t n)
{
	const char *percent = getenv("UPREEMPT_SCALE");

	if (ut_emulated())
		n /= 10;
	if (percent)
		n = n * strtoul(percent, NULL, 10) / 100;
	return n ? n : 1;
}

/* The limit of everything that should take no time at all */
static inline uint64_t ut_limit(void)
{
	return ut_now() + (ut_emulated() ? 20 : 10) * UT_SEC;
}

/* True when the condition came true before the limit */
#define UT_UNTIL(cond) ({						\
	uint64_t __limit = ut_limit();					\
	bool __ok;							\
									\
	while (!(__ok = (cond)) && ut_now() < __limit)			\
		sched_yield();						\
	__ok;								\
})

/*
 * for (i = 0; i < n; i++), but no longer than that many seconds: on a machine with
 * other things to do a test does less and does not fail
 */
#define UT_FOR(i, n, seconds)							\
	for (uint64_t i = 0, __end = ut_now() + ut_budget((seconds) * UT_SEC);	\
	     i < (n) && ut_now() < __end; i++)

/* Under emulation there are many kernels to run on, and signals are proved natively */
static inline uint64_t ut_budget(uint64_t ns)
{
	const char *backend = getenv("UPREEMPT_BACKEND");

	if (!ut_emulated())
		return ns;
	return backend && !strcmp(backend, "signal") ? ns / 4 : ns / 2;
}

static inline void ut_sleep(uint64_t ns)
{
	struct timespec ts = { .tv_sec = ns / UT_SEC, .tv_nsec = ns % UT_SEC };

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

/* The domain of a test: UPREEMPT_BACKEND chooses the backend */
static inline struct upreempt_domain *ut_open(uint32_t slots, uint32_t events)
{
	UPREEMPT_OPTS(upreempt_domain_opts, opts, .slots = slots, .events = events);
	struct upreempt_domain *domain = NULL;
	int err = upreempt_domain_open(&opts, &domain);

	if (err)
		printf("# upreempt_domain_open: %s\n", strerror(-err));
	return err ? NULL : domain;
}

static inline bool ut_is_kmod(const struct upreempt_domain *domain)
{
	return upreempt_domain_backend(domain) == UPREEMPT_BACKEND_KMOD;
}

/* One request, waited for; the limit makes a lost one end as UNSAFE */
static inline int ut_request(struct upreempt_thread *thread, enum upreempt_kind kind,
			     struct upreempt_event *event)
{
	UPREEMPT_OPTS(upreempt_request_opts, opts, .kind = kind, .deadline_ns = ut_limit());

	memset(event, 0xcc, sizeof(*event));
	return upreempt_request(thread, &opts, event);
}

static inline int ut_post(struct upreempt_thread *thread, enum upreempt_kind kind, uint64_t *seq)
{
	UPREEMPT_OPTS(upreempt_request_opts, opts, .kind = kind, .deadline_ns = ut_limit());

	return upreempt_post(thread, &opts, seq);
}

/* ---- a thread that spins ------------------------------------------------- */

struct ut_spinner {
	/* set by the test */
	struct upreempt_domain *domain;
	upreempt_handler_fn handler;
	void *arg;
	uint32_t flags;
	bool disabled;			/* spins between upreempt_disable() and enable() */
	/* seen by the test */
	struct upreempt_thread *thread;
	volatile uint64_t count;
	volatile int quit;
	volatile int ready;
	int error;
	pthread_t pthread;
};

/* count up until quit: no call, no system call, all between the two labels */
void ut_spin(volatile uint64_t *count, volatile int *quit);
extern const char ut_spin_begin[], ut_spin_end[];

__asm__(
"	.pushsection .text.ut_spin, \"ax\", @progbits\n"
"	.globl	ut_spin\n"
"	.hidden	ut_spin, ut_spin_begin, ut_spin_end\n"
"	.type	ut_spin, @function\n"
"ut_spin:\n"
"	.cfi_startproc\n"
"	endbr64\n"
"	.globl	ut_spin_begin\n"
"ut_spin_begin:\n"
"	incq	(%rdi)\n"
"	cmpl	$0, (%rsi)\n"
"	je	ut_spin_begin\n"
"	.globl	ut_spin_end\n"
"ut_spin_end:\n"
"	ret\n"
"	.cfi_endproc\n"
"	.size	ut_spin, . - ut_spin\n"
"	.popsection\n");

static inline bool ut_in_spin(uint64_t rip)
{
	return rip >= (uintptr_t)ut_spin && rip <= (uintptr_t)ut_spin_end;
}

static inline void *ut_spinner_main(void *arg)
{
	struct ut_spinner *s = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = s->handler, .arg = s->arg,
		      .flags = s->flags);

	s->error = upreempt_thread_register(s->domain, &opts, &s->thread);
	if (s->disabled)
		upreempt_disable();
	__atomic_store_n(&s->ready, 1, __ATOMIC_RELEASE);
	if (!s->error)
		ut_spin(&s->count, &s->quit);
	if (s->disabled)
		upreempt_enable();
	if (!s->error)
		s->error = upreempt_thread_unregister(s->thread);
	return NULL;
}

/* Start it and wait until it is registered and spins; 0 or -errno */
static inline int ut_spinner_start(struct ut_spinner *s)
{
	int err;

	s->quit = 0;
	s->ready = 0;
	s->count = 0;
	err = pthread_create(&s->pthread, NULL, ut_spinner_main, s);
	if (err)
		return -err;
	if (!UT_UNTIL(__atomic_load_n(&s->ready, __ATOMIC_ACQUIRE)))
		return -ETIMEDOUT;
	if (s->error) {
		pthread_join(s->pthread, NULL);
		return s->error;
	}
	return UT_UNTIL(s->count > 0) ? 0 : -ETIMEDOUT;
}

/* 0 when it ended in time and unregistered without an error */
static inline int ut_spinner_stop(struct ut_spinner *s)
{
	struct timespec ts;
	int err;

	s->quit = 1;
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 20;
	err = pthread_timedjoin_np(s->pthread, NULL, &ts);
	return err ? -err : s->error;
}

/* It moves: its counter changes before the limit */
static inline bool ut_moves(struct ut_spinner *s)
{
	uint64_t before = s->count;

	return UT_UNTIL(s->count != before);
}

/* It stands: its counter does not change for ns */
static inline bool ut_stands(struct ut_spinner *s, uint64_t ns)
{
	uint64_t before = s->count;

	ut_sleep(ns);
	return s->count == before;
}

#endif
