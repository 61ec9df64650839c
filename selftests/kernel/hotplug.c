// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves P20, P26, G7: CPUs go off line and come back under requests, also with the module
 * unloaded in between. UPREEMPT_GUARDS=MASK switches guards of a test build off before; the
 * crash that comes then is what hotplug_mutant.sh waits for.
 */
#include "kselftest_harness.h"
#include "../include/raw_module.h"
#include "../include/raw_target.h"

static const char *file;

FIXTURE(hotplug) {
	struct raw r;
};

FIXTURE_SETUP(hotplug)
{
	const char *guards = getenv("UPREEMPT_GUARDS");

	if (guards)
		ASSERT_EQ(0, raw_param("guards", strtoul(guards, NULL, 0)));
	ASSERT_EQ(0, raw_domain(&self->r, 8, 16));
}

FIXTURE_TEARDOWN(hotplug)
{
	raw_cpu_online(1, true);
	raw_close(&self->r);
}

/* Threads are thrown off their CPU all the time; each request is answered. */
TEST_F(hotplug, requests_while_a_cpu_goes_and_comes)
{
	static const uint32_t kinds[] = { UPREEMPT_REDIRECT, UPREEMPT_SAMPLE, UPREEMPT_STOP };
	uint64_t n = 0, redirects[3] = { 0 };
	struct upreempt_event e;
	struct raw_target t[3];
	volatile int stop = 0;
	pthread_t thread;
	void *cycles;

	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, raw_spinner(&t[i], &self->r, RAW_LANDING));
	ASSERT_EQ(0, pthread_create(&thread, NULL, raw_cpu1_cycle, (void *)&stop));
	for (uint64_t end = raw_in(raw_scale(8000)); raw_now() < end; n++) {
		struct raw_target *x = &t[n % 3];

		ASSERT_EQ(0, raw_ask(&self->r, x->slot, kinds[n / 3 % 3], 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		redirects[n % 3] += e.kind == UPREEMPT_REDIRECT;
		if (e.kind == UPREEMPT_STOP)
			ASSERT_EQ(0, raw_release(&self->r, x->slot, e.seq));
	}
	stop = 1;
	ASSERT_EQ(0, pthread_join(thread, &cycles));
	EXPECT_LT(0, (long)cycles);
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, raw_target_stop(&t[i]));
		EXPECT_EQ(redirects[i], t[i].land.count);
		EXPECT_EQ(0, t[i].wrong);
	}
	TH_LOG("%llu requests over %ld cycles", (unsigned long long)n, (long)cycles);
}

/* Threads that are held, blocked and registered without a request, over a cycle */
TEST_F(hotplug, held_and_blocked_threads)
{
	struct raw_target held, blocked, quiet;
	struct upreempt_event e, b;

	raw_target_init(&held, &self->r, raw_body_spin, RAW_LANDING);
	held.cpu = 1;
	ASSERT_EQ(0, raw_target_start(&held));
	ASSERT_TRUE(raw_target_moves(&held));
	ASSERT_EQ(0, raw_reader(&blocked, &self->r, RAW_LANDING));
	ASSERT_EQ(0, raw_spinner(&quiet, &self->r, RAW_LANDING));
	for (int i = 0; i < 5; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, held.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_EQ(0, raw_ask(&self->r, blocked.slot, UPREEMPT_STOP, 0, &b));
		ASSERT_EQ(0, raw_cpu_online(1, false));
		EXPECT_TRUE(raw_target_still(&held));
		EXPECT_TRUE(raw_target_moves(&quiet));
		if (i & 1)
			ASSERT_EQ(0, raw_release(&self->r, held.slot, e.seq));
		ASSERT_EQ(0, raw_cpu_online(1, true));
		if (!(i & 1))
			ASSERT_EQ(0, raw_release(&self->r, held.slot, e.seq));
		ASSERT_EQ(0, raw_release(&self->r, blocked.slot, b.seq));
		EXPECT_TRUE(raw_target_moves(&held));
	}
	ASSERT_EQ(0, raw_ask(&self->r, held.slot, UPREEMPT_REDIRECT, 0, &e));
	EXPECT_EQ(UPREEMPT_LANDED, e.outcome);
	EXPECT_EQ(0, raw_target_stop(&held));
	EXPECT_EQ(0, raw_target_stop(&quiet));
	EXPECT_EQ(0, raw_reader_stop(&blocked));
	EXPECT_EQ(0, held.wrong);
}

/*
 * The reproduced crash: the hook is armed on CPU 1 and stays so, the CPU goes off line,
 * the module is unloaded, the CPU comes back, and its first return to user mode jumps into
 * freed text.
 */
static int armed_on_cpu1(void)
{
	struct raw_target t;
	struct raw r;

	if (raw_domain(&r, 4, 16))
		return 1;
	raw_target_init(&t, &r, raw_body_spin, RAW_LANDING);
	t.cpu = 1;
	if (raw_target_start(&t) || !raw_target_moves(&t))
		return 2;
	/* deferred for ever: the hook stays armed while the thread runs */
	r.slots[t.slot].nopreempt = 1;
	if (raw_post(&r, t.slot, UPREEMPT_REDIRECT, 0, 0, NULL))
		return 3;
	raw_sleep_us(20000);
	/* dies armed */
	kill(getpid(), SIGKILL);
	return 4;
}

TEST_F(hotplug, offline_unload_online)
{
	cpu_set_t cpu1;
	pid_t pid;

	raw_close(&self->r);
	CPU_ZERO(&cpu1);
	CPU_SET(1, &cpu1);
	for (int i = 0; i < 3; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(armed_on_cpu1());
		ASSERT_EQ(SIGKILL, raw_reap(pid, RAW_LONG_MS));
		ASSERT_EQ(0, raw_cpu_online(1, false));
		ASSERT_TRUE(RAW_UNTIL(!raw_module_unload()));
		ASSERT_EQ(0, raw_cpu_online(1, true));
		/* returns to user mode over there */
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			raw_pin(1);
			for (int k = 0; k < 100; k++)
				raw_sleep_us(100);
			_exit(sched_getcpu() == 1 ? 0 : 1);
		}
		ASSERT_EQ(0, raw_reap(pid, RAW_LONG_MS));
		ASSERT_EQ(0, raw_module_load(file));
	}
	ASSERT_EQ(0, raw_domain(&self->r, 4, 16));
}

int main(int argc, char **argv)
{
	if (!raw_module_loaded())
		ksft_exit_skip("the upreempt module is not loaded\n");
	file = raw_module_file();
	if (!file)
		ksft_exit_skip("which module to load again? set UPREEMPT_KO\n");
	if (access("/sys/devices/system/cpu/cpu1/online", W_OK))
		ksft_exit_skip("CPU 1 cannot be switched off here\n");
	raw_params_reset();
	return test_harness_run(argc, argv);
}
