// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * How long it takes to stop a thread in a loop of which one instruction in two hundred is safe, by
 * each way there is: the same loop, the same thread, the table replaced between batches. And one that
 * is in memset() nearly always.
 */
#include "bench.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <upreempt/table.h>

#define BATCH	10
#define ROUNDS	10
#define SKIP	2
#define LONG_NS	10000000000ULL	/* more than luck takes */
#define LIBC_NS	200000000ULL	/* luck that takes longer counts as this */
#define LIBC_LEN (1UL << 20)

struct work {
	volatile uint64_t turns;
	volatile uint32_t stop;
	uint32_t pad;
	void *(*fn)(void *s, int c, size_t n);
	void *s;
};

/*
 * Loads once and stores once in a turn, so that all before the store may be begun anew. The jumps
 * are there for emulators that take interrupts only between blocks.
 */
void strategies_loop(struct work *w);
extern const char strategies_begin[], strategies_safe[], strategies_two[], strategies_end[];

/* Calls fn until stop */
void strategies_libc(struct work *w);
extern const char strategies_libc_end[];

__asm__(
"	.pushsection .text\n"
"strategies_begin:\n"
"strategies_loop:\n"
"	mov 0(%rdi), %rax\n"
"	.rept 98\n	lea 1(%rdx), %rdx\n	jmp 1f\n1:\n	.endr\n"
"	add $1, %rax\n"
"	mov %rax, 0(%rdi)\n"
"	jmp strategies_safe\n"
"strategies_safe:\n"
"	nop\n"
"strategies_two:\n"
"	cmpl $0, 8(%rdi)\n"
"	je strategies_loop\n"
"	ret\n"
"strategies_end:\n"
"strategies_libc:\n"
"	push %rbx\n"
"	mov %rdi, %rbx\n"
"1:	mov 24(%rbx), %rdi\n"
"	xor %esi, %esi\n"
"	mov $1 << 20, %edx\n"
"	call *16(%rbx)\n"
"	incq 0(%rbx)\n"
"	cmpl $0, 8(%rbx)\n"
"	je 1b\n"
"	pop %rbx\n"
"	ret\n"
"strategies_libc_end:\n"
"	.popsection\n"
);

_Static_assert(offsetof(struct work, stop) == 8 && offsetof(struct work, fn) == 16 &&
	       offsetof(struct work, s) == 24 && LIBC_LEN == 1 << 20, "used by the assembly");

struct way {
	const char *name;
	enum upreempt_class cls;	/* of all but the safe instruction */
	uint32_t strategies;
	struct upreempt_table *table;
	struct series *series;
};

static struct work work;
static struct upreempt_domain *domain;
static struct upreempt_thread *thread;
static void (*loop)(struct work *w);

static void *work_main(void *arg)
{
	int err;

	(void)arg;
	pin(bench.cpu[1]);
	err = upreempt_thread_register(domain, NULL, &thread);
	if (err)
		fail("upreempt_thread_register", -err);
	loop(&work);
	upreempt_thread_unregister(thread);
	return NULL;
}

static uint64_t offset(const char *label)
{
	return (uintptr_t)label - (uintptr_t)strategies_begin;
}

static int add_range(struct way *w, const char *from, const char *to)
{
	uint64_t start = offset(from), len = offset(to) - start;

	return w->cls == UPREEMPT_CODE_RESTART ?
	       upreempt_table_restart(w->table, start, len, start) :
	       upreempt_table_range(w->table, start, len, w->cls);
}

static void declare(struct way *w)
{
	int err = upreempt_table_new(&w->table);

	if (!err)
		err = add_range(w, strategies_begin, strategies_safe);
	if (!err)
		err = add_range(w, strategies_two, strategies_end);
	if (err)
		fail("a table", -err);
}

static void batch(struct way *w, uint64_t turns_between, uint64_t ns)
{
	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_STOP, .strategies = w->strategies);
	struct upreempt_event e;

	series_skip(w->series, SKIP);
	for (int i = 0; i < BATCH + SKIP; i++) {
		uint64_t t0, turns = work.turns;

		SPIN_UNTIL("a loop with unsafe instructions", work.turns > turns + turns_between);
		o.deadline_ns = upreempt_deadline(ns);
		t0 = ticks();
		if (upreempt_request(thread, &o, &e) ||
		    (e.outcome != UPREEMPT_LANDED && (ns == LONG_NS || e.outcome != UPREEMPT_UNSAFE)))
			fail("a stop of a loop with unsafe instructions", 0);
		series_add(w->series, shown(ticks() - t0));
		if (e.outcome == UPREEMPT_LANDED)
			upreempt_release(thread, e.seq);
	}
}

static void loop_start(void (*body)(struct work *w), pthread_t *pthread)
{
	loop = body;
	work.turns = 0;
	work.stop = 0;
	if (pthread_create(pthread, NULL, work_main, NULL))
		fail("pthread_create", 0);
	SPIN_UNTIL("a loop with unsafe instructions", work.turns);
}

static void loop_end(pthread_t pthread)
{
	work.stop = 1;
	pthread_join(pthread, NULL);
	upreempt_domain_close(domain);
}

static void libc_run(void)
{
	struct way ways[] = {
		{ .name = "strategy_libc_retry" },
		{ .name = "strategy_libc_return", .strategies = UPREEMPT_BY_RETURN },
	};
	const size_t n = sizeof(ways) / sizeof(ways[0]);
	UPREEMPT_OPTS(upreempt_domain_opts, o, .backend = UPREEMPT_BACKEND_KMOD,
		      .flags = UPREEMPT_DOMAIN_DECLARED);
	const char *begin = (const char *)(uintptr_t)strategies_libc;
	struct upreempt_code *code;
	pthread_t pthread;
	int err;

	err = upreempt_domain_open(&o, &domain);
	if (!err)
		err = upreempt_code_add(domain, NULL, begin, (size_t)(strategies_libc_end - begin),
					UPREEMPT_CODE_SAFE, &code);
	if (err)
		fail("a declared domain", -err);
	for (size_t i = 0; i < n; i++)
		ways[i].series = series_new(ways[i].name, "kmod", NULL, ROUNDS * BATCH);
	work.fn = memset;
	work.s = malloc(LIBC_LEN);
	if (!work.s)
		fail("memory", 0);
	loop_start(strategies_libc, &pthread);
	for (int round = 0; round < (bench.quick ? 1 : ROUNDS / 2); round++)
		for (size_t i = 0; i < n; i++)
			batch(&ways[i], 1, LIBC_NS);
	loop_end(pthread);
	free(work.s);
}

static void loop_run(void)
{
	struct way ways[] = {
		{ .name = "strategy_none", .cls = UPREEMPT_CODE_SAFE },
		{ .name = "strategy_retry", .cls = UPREEMPT_CODE_UNSAFE },
		{ .name = "strategy_restart", .cls = UPREEMPT_CODE_RESTART },
		{ .name = "strategy_step", .cls = UPREEMPT_CODE_STEP },
	};
	const size_t n = sizeof(ways) / sizeof(ways[0]);
	UPREEMPT_OPTS(upreempt_domain_opts, o, .backend = UPREEMPT_BACKEND_KMOD);
	struct upreempt_code *code;
	pthread_t pthread;
	int err;

	err = upreempt_domain_open(&o, &domain);
	if (!err)
		err = upreempt_code_add(domain, NULL, strategies_begin, offset(strategies_end),
					UPREEMPT_CODE_SAFE, &code);
	if (err)
		fail("a domain with a table", -err);
	for (size_t i = 0; i < n; i++) {
		declare(&ways[i]);
		ways[i].series = series_new(ways[i].name, "kmod", NULL, ROUNDS * BATCH);
	}
	loop_start(strategies_loop, &pthread);
	for (int round = 0; round < (bench.quick ? 2 : ROUNDS); round++)
		for (size_t i = 0; i < n; i++) {
			err = upreempt_code_replace(code, ways[i].table, UPREEMPT_CODE_SAFE);
			if (err)
				fail("upreempt_code_replace", -err);
			batch(&ways[i], 10, LONG_NS);
		}
	loop_end(pthread);
	for (size_t i = 0; i < n; i++)
		upreempt_table_free(ways[i].table);
}

void strategies_run(void)
{
	if (!bench.kmod)
		return;
	loop_run();
	libc_run();
}
