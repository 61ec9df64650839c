// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* A thread that spins, and how long it takes to reach it in several ways. */
#include "measure.h"
#include "cmd.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define SECOND 1000000000ULL

static bool one_cpu;	/* spinning on an answer would keep it from being made */

/* ---- times --------------------------------------------------------------- */

void samples_add(struct samples *s, uint64_t v)
{
	if (s->n == s->room) {
		s->room = s->room ? 2 * s->room : 1024;
		s->v = realloc(s->v, s->room * sizeof(*s->v));
		if (!s->v) {
			fputs("upreempt demo: out of memory\n", stderr);
			exit(1);
		}
	}
	s->v[s->n++] = v;
	s->sorted = false;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

uint64_t samples_quantile(struct samples *s, double q)
{
	size_t i;

	if (!s->n)
		return 0;
	if (!s->sorted)
		qsort(s->v, s->n, sizeof(*s->v), compare);
	s->sorted = true;
	i = q * s->n;
	return s->v[i < s->n ? i : s->n - 1];
}

void samples_free(struct samples *s)
{
	free(s->v);
	memset(s, 0, sizeof(*s));
}

/* ---- CPUs ---------------------------------------------------------------- */

static void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

void cpus_choose(struct cpus *cpus)
{
	cpu_set_t set;
	int i;

	cpus->n = 0;
	cpus->requester = cpus->target = -1;
	if (sched_getaffinity(0, sizeof(set), &set))
		return;
	for (i = 0; i < CPU_SETSIZE; i++) {
		if (!CPU_ISSET(i, &set))
			continue;
		if (cpus->n == 0)
			cpus->requester = i;
		if (cpus->n <= 1)
			cpus->target = i;
		cpus->n++;
	}
	one_cpu = cpus->n == 1;
	pin(cpus->requester);
}

static void relax(void)
{
	if (one_cpu)
		sched_yield();
	else
		__builtin_ia32_pause();
}

/* ---- handlers ------------------------------------------------------------ */

static __attribute__((noreturn)) void jump_out(struct spinner *s)
{
	longjmp(s->env, 1);
}

/* Where an interrupted loop goes when it shall end: into jump_out(s), as if called */
static void edit_to_leave(struct spinner *s, uint64_t *rip, uint64_t *rsp, uint64_t *rdi)
{
	*rip = (uintptr_t)jump_out;
	*rdi = (uintptr_t)s;
	*rsp = ((*rsp - 128) & ~15ULL) - 8;
}

static void on_redirect(struct upreempt_context *ctx, void *arg)
{
	uint64_t now = now_ns();
	struct spinner *s = arg;
	struct upreempt_regs *r;

	s->handled_ns = now;
	s->handled++;
	if (__atomic_load_n(&s->leave, __ATOMIC_ACQUIRE)) {
		r = upreempt_context_regs(ctx);
		edit_to_leave(s, (uint64_t *)&r->rip, (uint64_t *)&r->rsp, (uint64_t *)&r->rdi);
	}
	loops_trash_vectors();
	__atomic_store_n(&s->ack, upreempt_context_cookie(ctx), __ATOMIC_RELEASE);
}

/* The receiver of a plain signal; one at a time is measured */
static struct spinner *plain;
static uint64_t plain_cookie;

static void on_plain_signal(int signo, siginfo_t *info, void *context)
{
	uint64_t now = now_ns();
	struct spinner *s = plain;
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;

	(void)signo;
	(void)info;
	if (!s)
		return;
	s->handled_ns = now;
	s->handled++;
	if (__atomic_load_n(&s->leave, __ATOMIC_ACQUIRE))
		edit_to_leave(s, (uint64_t *)&g[REG_RIP], (uint64_t *)&g[REG_RSP],
			      (uint64_t *)&g[REG_RDI]);
	__atomic_store_n(&s->ack, __atomic_load_n(&plain_cookie, __ATOMIC_ACQUIRE),
			 __ATOMIC_RELEASE);
}

void plain_signal_setup(void)
{
	struct sigaction sa = { .sa_sigaction = on_plain_signal, .sa_flags = SA_SIGINFO | SA_RESTART };

	sigaction(PLAIN_SIGNAL, &sa, NULL);
}

static void plain_send(struct spinner *s, uint64_t cookie)
{
	__atomic_store_n(&plain_cookie, cookie, __ATOMIC_RELEASE);
	syscall(SYS_tgkill, getpid(), s->tid, PLAIN_SIGNAL);
}

/* ---- the thread ---------------------------------------------------------- */

static void *spinner_main(void *arg)
{
	struct spinner *s = arg;

	pin(s->cpu);
	s->tid = gettid();
	if (s->domain) {
		UPREEMPT_OPTS(upreempt_thread_opts, opts, .handler = on_redirect, .arg = s);

		s->error = upreempt_thread_register(s->domain, &opts, &s->thread);
	}
	if (!setjmp(s->env)) {
		__atomic_store_n(&s->running, true, __ATOMIC_RELEASE);
		if (!s->error)
			s->loop->run(&s->state);
	}
	if (s->thread)
		upreempt_thread_unregister(s->thread);
	return NULL;
}

int spinner_start(struct spinner *s)
{
	int err = pthread_create(&s->id, NULL, spinner_main, s);

	if (err)
		return -err;
	while (!__atomic_load_n(&s->running, __ATOMIC_ACQUIRE))
		sched_yield();
	if (s->error) {
		pthread_join(s->id, NULL);
		return s->error;
	}
	if (!s->domain)
		plain = s;
	/* the empty loop cannot be seen to move: let it get there */
	if (!spinner_moves(s))
		return -ETIMEDOUT;
	return 0;
}

bool spinner_moves(struct spinner *s)
{
	uint64_t from = s->state.count, end = now_ns() + (s->loop->counts ? SECOND : SECOND / 500);
	unsigned int i = 0;

	while (s->state.count == from) {
		relax();
		if (++i % 64 == 0 && now_ns() > end)
			return !s->loop->counts;
	}
	return true;
}

uint64_t spinner_cpu_ns(struct spinner *s)
{
	struct timespec ts = {};
	clockid_t clock;

	if (!pthread_getcpuclockid(s->id, &clock))
		clock_gettime(clock, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

/* Spin until the handler has answered; false after a second */
static bool answered(struct spinner *s, uint64_t cookie)
{
	uint64_t end = 0;
	unsigned int i = 0;

	while (__atomic_load_n(&s->ack, __ATOMIC_ACQUIRE) != cookie) {
		relax();
		if (++i % 1024)
			continue;
		if (!end)
			end = now_ns() + SECOND;
		else if (now_ns() > end)
			return false;
	}
	return true;
}

bool spinner_stop(struct spinner *s)
{
	struct timespec deadline;
	unsigned int i;

	__atomic_store_n(&s->leave, true, __ATOMIC_RELEASE);
	for (i = 0; i < 5; i++) {
		if (s->domain) {
			UPREEMPT_OPTS(upreempt_request_opts, opts, .kind = UPREEMPT_REDIRECT,
				      .deadline_ns = upreempt_deadline(SECOND));

			upreempt_request(s->thread, &opts, NULL);
		} else {
			plain_send(s, ~0ULL);
		}
		clock_gettime(CLOCK_REALTIME, &deadline);
		deadline.tv_sec++;
		if (!pthread_timedjoin_np(s->id, NULL, &deadline)) {
			if (!s->domain)
				plain = NULL;
			return true;
		}
	}
	return false;
}

/* ---- measuring ----------------------------------------------------------- */

/* One REDIRECT; 0 or why not. Posting and looking is what a program in a hurry does. */
static int redirect_once(struct spinner *s, uint64_t cookie, uint64_t *handler, uint64_t *whole)
{
	UPREEMPT_OPTS(upreempt_request_opts, opts, .kind = UPREEMPT_REDIRECT, .cookie = cookie);
	struct upreempt_event event;
	uint64_t seq, t0, t1;
	int err;

	t0 = now_ns();
	opts.deadline_ns = t0 + SECOND;
	err = upreempt_post(s->thread, &opts, &seq);
	if (err)
		return err;
	if (!answered(s, cookie)) {
		upreempt_cancel(s->thread, seq);
		upreempt_wait(s->thread, seq, upreempt_deadline(SECOND), &event);
		return -ETIMEDOUT;
	}
	t1 = now_ns();
	*handler = s->handled_ns - t0;
	*whole = t1 - t0;
	return upreempt_wait(s->thread, seq, upreempt_deadline(SECOND), &event);
}

unsigned int measure_redirect(struct spinner *s, struct limit limit, struct samples *handler,
			      struct samples *whole)
{
	uint64_t end = now_ns() + limit.budget_ns, h, w;
	unsigned int i, failed = 0;

	for (i = 0; i < limit.rounds && now_ns() < end; i++) {
		if (redirect_once(s, ++s->cookie, &h, &w) || !spinner_moves(s)) {
			failed++;
			continue;
		}
		if (handler)
			samples_add(handler, h);
		if (whole)
			samples_add(whole, w);
	}
	return failed;
}

unsigned int measure_sample(struct spinner *s, struct limit limit, struct samples *whole)
{
	UPREEMPT_OPTS(upreempt_request_opts, opts, .kind = UPREEMPT_SAMPLE);
	uint64_t end = now_ns() + limit.budget_ns, t0;
	struct upreempt_event event;
	unsigned int i, failed = 0;

	for (i = 0; i < limit.rounds && now_ns() < end; i++) {
		t0 = now_ns();
		opts.deadline_ns = t0 + SECOND;
		if (upreempt_request(s->thread, &opts, &event) || event.outcome != UPREEMPT_LANDED)
			failed++;
		else
			samples_add(whole, now_ns() - t0);
		spinner_moves(s);
	}
	return failed;
}

unsigned int measure_stop(struct spinner *s, struct limit limit, struct samples *whole)
{
	UPREEMPT_OPTS(upreempt_request_opts, opts, .kind = UPREEMPT_STOP);
	uint64_t end = now_ns() + limit.budget_ns, t0, t1;
	struct upreempt_event event;
	unsigned int i, failed = 0;

	for (i = 0; i < limit.rounds && now_ns() < end; i++) {
		t0 = now_ns();
		opts.deadline_ns = t0 + SECOND;
		if (upreempt_request(s->thread, &opts, &event) ||
		    event.outcome != UPREEMPT_LANDED) {
			failed++;
			continue;
		}
		t1 = now_ns();
		if (upreempt_release(s->thread, event.seq) || !spinner_moves(s))
			failed++;
		else
			samples_add(whole, t1 - t0);
	}
	return failed;
}

unsigned int measure_tgkill(struct spinner *s, struct limit limit, struct samples *handler,
			    struct samples *whole)
{
	uint64_t end = now_ns() + limit.budget_ns, t0, t1;
	unsigned int i, failed = 0;

	for (i = 0; i < limit.rounds && now_ns() < end; i++) {
		t0 = now_ns();
		plain_send(s, ++s->cookie);
		if (!answered(s, s->cookie)) {
			failed++;
			continue;
		}
		t1 = now_ns();
		if (whole)
			samples_add(whole, t1 - t0);
		if (handler)
			samples_add(handler, s->handled_ns - t0);
		if (!spinner_moves(s))
			failed++;
	}
	return failed;
}

int measure_ipi(struct spinner *s, struct limit limit, struct samples *whole)
{
	uint64_t end = now_ns() + limit.budget_ns, t0;
	unsigned int i;

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
		return -errno;
	for (i = 0; i < limit.rounds && now_ns() < end; i++) {
		/* a sibling that is not running just now gets no interrupt */
		spinner_moves(s);
		t0 = now_ns();
		if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
			return -errno;
		samples_add(whole, now_ns() - t0);
	}
	return 0;
}
