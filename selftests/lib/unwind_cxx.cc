// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * A C++ exception that is thrown in a handler is caught by a caller of the interrupted function,
 * and destructors on the way run. Proves M16, U34.
 */
// CFLAGS: -fasynchronous-unwind-tables
extern "C" {
#include <upreempt/upreempt.h>
}
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <unistd.h>

/* kselftest_harness.h is C only: the same TAP by hand */
static int number, failed;

static void result(bool ok, const char *what)
{
	printf("%sok %d %s\n", ok ? "" : "not ", ++number, what);
	failed += !ok;
}

struct Preempted {
	uint64_t rip;
};

static std::atomic<int> caught, destroyed, wrong, ready;
static volatile int quit;
static volatile uint64_t turns;
static struct upreempt_thread *target;
static struct upreempt_domain *domain;
static int error;

struct Guard {
	volatile int magic = 4711;
	~Guard()
	{
		if (magic != 4711)
			wrong++;
		destroyed++;
	}
};

static void handler(struct upreempt_context *ctx, void *)
{
	throw Preempted{ upreempt_context_regs(ctx)->rip };
}

/*
 * What is interrupted: no call, no memory of its own. Where a function itself has handlers
 * or destructors, C++ expects exceptions only at calls (with -fnon-call-exceptions also at
 * accesses to memory) and calls terminate() when one comes from between; so this has none,
 * and those of its caller are found through the unwind information of single instructions.
 */
__attribute__((noinline)) static void spin(volatile uint64_t *p, volatile int *q)
{
	while (!*q)
		*p = *p + 1;
}

static void (*volatile spin_it)(volatile uint64_t *, volatile int *) = spin;

__attribute__((noinline)) static void inner()
{
	Guard guard;

	spin_it(&turns, &quit);
}

__attribute__((noinline)) static bool outer(int round)
{
	volatile int local = round * 3;

	try {
		inner();
	} catch (const Preempted &p) {
		if (!p.rip || local != round * 3)
			wrong++;
		caught++;
		return true;
	}
	return false;
}

static void body()
{
	struct upreempt_thread_opts o = {};

	o.size = sizeof(o);
	o.handler = handler;
	o.handler_stack = 65536;
	error = upreempt_thread_register(domain, &o, &target);
	ready = 1;
	if (error)
		return;
	/* what is thrown where nothing is watched would end the program: only inner() is open */
	for (int round = 0; !quit; round++)
		outer(round);
	error = upreempt_thread_unregister(target);
}

static bool until(const std::atomic<int> &value, int want)
{
	auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);

	while (value < want && std::chrono::steady_clock::now() < limit)
		std::this_thread::yield();
	return value >= want;
}

static bool turning()
{
	auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
	uint64_t before = turns;

	while (turns < before + 100 && std::chrono::steady_clock::now() < limit)
		std::this_thread::yield();
	return turns >= before + 100;
}

int main()
{
	struct upreempt_request_opts r = {};
	struct upreempt_event ev;
	bool all = true;

	r.size = sizeof(r);
	setvbuf(stdout, nullptr, _IOLBF, 0);
	alarm(100);
	printf("TAP version 13\n1..4\n");
	int err = upreempt_domain_open(nullptr, &domain);
	if (err) {
		printf("# upreempt_domain_open: %s\n", strerror(-err));
		return 1;
	}
	/* the first throw loads the unwinder's tables: not inside a handler */
	try {
		throw Preempted{ 1 };
	} catch (const Preempted &) {
	}
	std::thread t(body);
	result(until(ready, 1) && !error && turning(), "a thread in a loop");
	for (int i = 1; i <= 50 && all; i++) {
		r.kind = UPREEMPT_REDIRECT;
		r.deadline_ns = upreempt_deadline(20000000000ULL);
		err = upreempt_request(target, &r, &ev);
		all = !err && ev.outcome == UPREEMPT_LANDED && until(caught, i) && turning();
	}
	printf("# %d caught, %d destroyed, %d wrong\n", caught.load(), destroyed.load(),
	       wrong.load());
	result(all, "50 exceptions thrown by the handler are caught around the interrupted function");
	result(destroyed >= 50 && !wrong, "destructors on the way ran, locals are intact");
	quit = 1;
	t.join();
	upreempt_domain_close(domain);
	result(!error, "the thread unregistered as usual");
	return failed ? 1 : 0;
}
