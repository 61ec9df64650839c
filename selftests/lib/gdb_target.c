// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * What gdb.sh looks at: a thread in a call-free loop two calls deep is redirected to
 * a handler, where the debugger waits. A program for people to try by hand, too.
 */
#include "ut.h"

static volatile uint64_t count;
static volatile int quit, ready;
static struct upreempt_thread *thread;
static struct upreempt_domain *domain;

/* noipa: their names stay in the backtrace */
__attribute__((noipa)) static void in_the_handler(uint64_t rip)
{
	__asm__ volatile("" : : "r"(rip) : "memory");
}

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)arg;
	in_the_handler(upreempt_context_regs(ctx)->rip);
	quit = 1;
}

__attribute__((noipa)) static void interrupted_loop(void)
{
	while (!quit)
		count++;
}

__attribute__((noipa)) static void its_caller(void)
{
	interrupted_loop();
	__asm__ volatile("");
}

static void *thread_main(void *arg)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);

	(void)arg;
	if (upreempt_thread_register(domain, &o, &thread))
		exit(1);
	ready = 1;
	its_caller();
	upreempt_thread_unregister(thread);
	return NULL;
}

int main(void)
{
	struct upreempt_event ev;
	pthread_t t;

	alarm(100);
	domain = ut_open(2, 16);
	if (!domain || pthread_create(&t, NULL, thread_main, NULL) || !UT_UNTIL(count))
		return 1;
	if (ut_request(thread, UPREEMPT_REDIRECT, &ev) || ev.outcome != UPREEMPT_LANDED)
		return 2;
	pthread_join(t, NULL);
	upreempt_domain_close(domain);
	printf("# landed at %#llx, resumed and ended\n", (unsigned long long)ev.regs.rip);
	return 0;
}
