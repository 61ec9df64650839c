// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves P5, S9, G8: the module is refused its unloading while anything uses it, and unloads cleanly otherwise. */
#include "kselftest_harness.h"
#include "../include/raw_module.h"
#include "../include/raw_target.h"

static const char *file;

FIXTURE(unload) {
	struct raw r;
};

FIXTURE_SETUP(unload)
{
	if (!raw_module_loaded())
		ASSERT_EQ(0, raw_module_load(file));
	ASSERT_EQ(0, raw_domain(&self->r, 4, 16));
}

FIXTURE_TEARDOWN(unload)
{
	raw_close(&self->r);
	if (!raw_module_loaded())
		EXPECT_EQ(0, raw_module_load(file));
}

#define EXPECT_IN_USE()		EXPECT_EQ(-EWOULDBLOCK, raw_module_unload())
/* What was given back in other contexts may take a moment. */
#define EXPECT_UNLOADS()	EXPECT_TRUE(RAW_UNTIL(!raw_module_unload()))

static bool threads_file_names(int tid)
{
	char line[1024], word[32];
	FILE *f = fopen("/sys/kernel/debug/upreempt/threads", "r");
	bool found = false;

	if (!f)
		return false;
	snprintf(word, sizeof(word), "thread %d ", tid);
	while (fgets(line, sizeof(line), f))
		found |= !strncmp(line, word, strlen(word));
	fclose(f);
	return found;
}

TEST_F(unload, while_the_file_is_open)
{
	munmap(self->r.map, self->r.size);
	self->r.map = NULL;
	EXPECT_IN_USE();
	raw_close(&self->r);
	EXPECT_UNLOADS();
}

TEST_F(unload, while_the_memory_is_mapped)
{
	close(self->r.fd);
	self->r.fd = -1;
	EXPECT_IN_USE();
	EXPECT_EQ(UPREEMPT_ABI_VERSION, self->r.header->abi_version);
	raw_close(&self->r);
	EXPECT_UNLOADS();
}

/* A thread that spins is fetched; it leaves its registration at its next exit. */
TEST_F(unload, running_thread_leaves_by_itself)
{
	struct raw_target t;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	t.stay_registered = true;
	EXPECT_IN_USE();
	raw_close(&self->r);
	EXPECT_UNLOADS();
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* One that sleeps for ever keeps the module, and is named. */
TEST_F(unload, blocked_thread_keeps_the_module)
{
	struct raw_target t;

	ASSERT_EQ(0, raw_reader(&t, &self->r, RAW_LANDING));
	t.stay_registered = true;
	raw_close(&self->r);
	for (int i = 0; i < 20; i++) {
		EXPECT_IN_USE();
		raw_sleep_us(2000);
	}
	if (!access("/sys/kernel/debug/upreempt/threads", F_OK))
		EXPECT_TRUE(threads_file_names(t.tid));
	ASSERT_EQ(1, write(t.pipe[1], "x", 1));
	EXPECT_TRUE(RAW_UNTIL(t.count == 1));
	EXPECT_UNLOADS();
	EXPECT_EQ(0, raw_reader_stop(&t));
}

TEST_F(unload, thread_that_died_registered)
{
	struct raw_target t;

	ASSERT_EQ(0, raw_reader(&t, &self->r, RAW_LANDING));
	t.stay_registered = true;
	raw_close(&self->r);
	EXPECT_IN_USE();
	EXPECT_EQ(0, raw_reader_stop(&t));
	EXPECT_UNLOADS();
}

TEST_F(unload, held_thread)
{
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	t.stay_registered = true;
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
	EXPECT_IN_USE();
	raw_close(&self->r);
	EXPECT_UNLOADS();
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* An open file in another process, which is killed. */
TEST_F(unload, other_process)
{
	int fds[2];
	pid_t pid;
	char c;

	raw_close(&self->r);
	ASSERT_EQ(0, pipe(fds));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct raw_target t;
		struct raw r;

		if (raw_domain(&r, 4, 16) || raw_spinner(&t, &r, RAW_LANDING) ||
		    write(fds[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			raw_ask(&r, t.slot, UPREEMPT_REDIRECT, 0, NULL);
	}
	ASSERT_EQ(1, read(fds[0], &c, 1));
	for (int i = 0; i < 20; i++)
		EXPECT_IN_USE();
	kill(pid, SIGKILL);
	EXPECT_EQ(SIGKILL, raw_reap(pid, RAW_LONG_MS));
	EXPECT_UNLOADS();
}

static int use_once(int requests)
{
	struct upreempt_event e;
	struct raw_target t;
	struct raw r;
	int ret = raw_domain(&r, 4, 16);

	if (ret)
		return ret;
	ret = raw_spinner(&t, &r, RAW_LANDING);
	for (int i = 0; i < requests && !ret; i++) {
		ret = raw_ask(&r, t.slot, 1 + i % 3, 0, &e);
		if (!ret && e.kind == UPREEMPT_STOP)
			ret = raw_release(&r, t.slot, e.seq);
	}
	if (!ret)
		ret = raw_target_stop(&t);
	raw_close(&r);
	return ret ? ret : t.wrong ? -EILSEQ : 0;
}

TEST_F(unload, load_use_unload)
{
	raw_close(&self->r);
	for (uint64_t i = 0, end = raw_in(12000); i < raw_scale(15) && raw_now() < end; i++) {
		ASSERT_EQ(0, use_once(30));
		ASSERT_TRUE(RAW_UNTIL(!raw_module_unload()));
		ASSERT_EQ(-ENOENT, raw_open());
		ASSERT_EQ(0, raw_module_load(file));
	}
}

/* Unloading while two processes open, use and close it all the time: refused or clean. */
TEST_F(unload, under_load)
{
	int unloaded = 0, refused = 0;
	pid_t pid[2];

	raw_close(&self->r);
	for (int i = 0; i < 2; i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (uint64_t end = raw_in(6000); raw_now() < end;) {
			int ret = use_once(3);

			if (ret == -ENOENT || ret == -ENXIO || ret == -ENODEV)
				raw_sleep_us(2000);	/* unloaded just now */
			else if (ret)
				_exit(1);
			raw_sleep_us(3000);
		}
		_exit(0);
	}
	for (uint64_t end = raw_in(6000); raw_now() < end;) {
		uint64_t start = raw_now();
		int ret = raw_module_unload();

		EXPECT_GT(1000, (raw_now() - start) / RAW_MS);
		if (!ret) {
			unloaded++;
			ASSERT_EQ(0, raw_module_load(file));
		} else {
			EXPECT_EQ(-EWOULDBLOCK, ret);
			refused++;
		}
		raw_sleep_us(1000);
	}
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, raw_reap(pid[i], RAW_LONG_MS));
	EXPECT_LT(0, refused);
	TH_LOG("unloaded %d times, refused %d times", unloaded, refused);
}

int main(int argc, char **argv)
{
	if (!raw_module_loaded())
		ksft_exit_skip("the upreempt module is not loaded\n");
	file = raw_module_file();
	if (!file)
		ksft_exit_skip("which module to load again? set UPREEMPT_KO\n");
	raw_params_reset();
	return test_harness_run(argc, argv);
}
