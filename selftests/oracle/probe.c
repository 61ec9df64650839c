// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The oracle as a judge of a landing: up to 20,000 redirects, half of which change
 * every register, and exit status 1 at the first wrong bit. mutants.sh lets it judge
 * landings with a bug in each. Proves that M1 is proved (goal G2).
 */
#include "oracle.h"

static volatile uint64_t runs, last_seq;

static void handler(struct upreempt_context *ctx, void *arg)
{
	struct upreempt_regs *r = upreempt_context_regs(ctx);
	uint64_t flags;
	uint32_t mxcsr;
	uint16_t fcw;

	(void)arg;
	__asm__ volatile("stmxcsr %0; fnstcw %1; pushfq; popq %2"
			 : "=m"(mxcsr), "=m"(fcw), "=r"(flags));
	ORACLE_EQ("handler", "mxcsr", 0x1f80U, mxcsr);
	ORACLE_EQ("handler", "x87 control", 0x037fU, fcw);
	ORACLE_EQ("handler", "DF", 0UL, flags & 0x400);
	ORACLE_EQ("handler", "stack alignment", 0UL,
		  (uintptr_t)__builtin_frame_address(0) % 16);
	if (oracle_has(r->rip)) {
		oracle_check_regs("context", r);
		oracle_check_xstate(ctx);
		if (runs & 1)
			oracle_turn(ctx, (uint32_t)upreempt_context_seq(ctx));
		runs++;
	}
	__atomic_store_n(&last_seq, upreempt_context_seq(ctx), __ATOMIC_RELEASE);
	oracle_trash();
}

struct probe {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	volatile int ready;
	int error;
};

static void *probe_main(void *arg)
{
	struct probe *p = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler, .handler_stack = 16384);

	oracle_setup((void *)(((uintptr_t)__builtin_frame_address(0) - 8192) & ~15UL), 1);
	p->error = upreempt_thread_register(p->domain, &o, &p->thread);
	p->ready = 1;
	if (!p->error)
		oracle_loop();
	oracle_done();
	return NULL;
}

static int verdict(const char *text, int status)
{
	printf("1..1\n%sok 1 %s after %llu redirects and %llu rounds\n", status ? "not " : "", text,
	       (unsigned long long)runs, (unsigned long long)oracle_rounds);
	fflush(stdout);
	_exit(status);
}

int main(void)
{
	struct probe p = { .domain = ut_open(2, 16) };
	struct upreempt_event ev;
	pthread_t t;
	uint64_t seq;

	alarm(30);
	printf("TAP version 13\n");
	if (!p.domain || pthread_create(&t, NULL, probe_main, &p) || !UT_UNTIL(p.ready) || p.error)
		verdict("no thread", 2);
	UT_FOR(i, 20000, 3) {
		if (ut_post(p.thread, UPREEMPT_REDIRECT, &seq) ||
		    upreempt_wait(p.thread, seq, ut_now() + 3 * UT_SEC, &ev) ||
		    ev.outcome != UPREEMPT_LANDED)
			verdict("a request did not land", 1);
		for (uint64_t end = ut_now() + 3 * UT_SEC; last_seq < ev.seq;) {
			if (ut_now() > end)
				verdict("a handler did not run", 1);
			sched_yield();
		}
		seq = oracle_rounds;
		for (uint64_t end = ut_now() + 3 * UT_SEC; oracle_rounds == seq && !oracle_bad;) {
			if (ut_now() > end)
				verdict("the loop did not go on", 1);
			sched_yield();
		}
		if (oracle_bad)
			verdict("a wrong bit", 1);
	}
	return verdict(runs ? "nothing wrong" : "nothing seen", !runs);
}
