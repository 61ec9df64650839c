// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves S13, U13: root only unless told otherwise; then a process without any privilege can do
 * everything, also where its threads are under a filter; a refused call is one event.
 */
#include "kselftest_harness.h"
#include <grp.h>
#include <linux/capability.h>
#include "../include/raw_filter.h"
#include "../include/raw_module.h"
#include "../include/raw_trace.h"
#include "../include/raw_world.h"

#define NOBODY	65534

static int node_mode(void)
{
	struct stat st;

	return stat(UPREEMPT_DEVICE, &st) ? -errno : (int)(st.st_mode & 07777);
}

FIXTURE(node) {
	int mode;
};

FIXTURE_SETUP(node)
{
	self->mode = node_mode();
	ASSERT_LE(0, self->mode);
}

FIXTURE_TEARDOWN(node)
{
	EXPECT_EQ(0, chmod(UPREEMPT_DEVICE, self->mode));
}

/* Everything that root has is gone: 0 or -errno, -EPERM where something is left */
static int become_nobody(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2];

	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY) || syscall(SYS_capget, &header, caps))
		return -errno;
	for (int i = 0; i < 2; i++)
		if (caps[i].effective | caps[i].permitted | caps[i].inheritable)
			return -EPERM;
	return 0;
}

/* fn in a child without privileges; what it returned (0 to 127), or -1 */
static int as_nobody(int (*fn)(void))
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(become_nobody() ? 126 : fn());
	status = raw_reap(pid, 3 * RAW_LONG_MS);
	if (status >= 0 && WIFEXITED(status))
		return WEXITSTATUS(status);
	printf("# the child ended with status %d\n", status);
	return -1;
}

static int open_fails_with(void)
{
	int fd = raw_open();

	return fd < 0 ? -fd : 0;
}

TEST_F(node, root_only)
{
	struct stat st;

	ASSERT_EQ(0, stat(UPREEMPT_DEVICE, &st));
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(0660, st.st_mode & 07777);
	EXPECT_EQ(0, st.st_uid);
	EXPECT_EQ(0, st.st_gid);
	EXPECT_EQ(EACCES, as_nobody(open_fails_with));
	ASSERT_EQ(0, chmod(UPREEMPT_DEVICE, 0664));
	EXPECT_EQ(EACCES, as_nobody(open_fails_with));
	ASSERT_EQ(0, chmod(UPREEMPT_DEVICE, 0666));
	EXPECT_EQ(0, as_nobody(open_fails_with));
}

static struct {
	struct raw *r;
	uint32_t slot;
	uint64_t seq;
	int ret;
} to_release;

static void *release_main(void *arg)
{
	to_release.ret = raw_release(to_release.r, to_release.slot, to_release.seq);
	return NULL;
}

#define CHECK(condition)							\
	do {								\
		if (!(condition)) {						\
			printf("# line %d: %s\n", __LINE__, #condition);	\
			fflush(stdout);						\
			return 1;						\
		}								\
	} while (0)

/* The thread that is stopped is under a filter; this one asks, and a third one releases. */
static int all_of_it(void)
{
	struct upreempt_world w;
	struct upreempt_event e;
	struct raw_target t;
	pthread_t releaser;
	struct raw r;

	CHECK(!raw_domain(&r, 4, 16));
	CHECK(!raw_filtered_spinner(&t, &r, RAW_LANDING));
	for (uint64_t i = 1; i <= 20; i++) {
		CHECK(!raw_ask(&r, t.slot, UPREEMPT_SAMPLE, 0, &e));
		CHECK(e.outcome == UPREEMPT_LANDED && raw_in_spin(e.regs.rip));
		CHECK(!raw_ask(&r, t.slot, UPREEMPT_REDIRECT, 0, &e));
		CHECK(e.outcome == UPREEMPT_LANDED);
		CHECK(RAW_UNTIL(t.land.count == i) && raw_target_moves(&t));
		CHECK(!raw_ask(&r, t.slot, UPREEMPT_STOP, 0, &e));
		CHECK(e.outcome == UPREEMPT_LANDED && raw_sleeps(t.tid));
		CHECK(i > 3 || raw_target_still(&t));
		to_release.r = &r;
		to_release.slot = t.slot;
		to_release.seq = e.seq;
		CHECK(!pthread_create(&releaser, NULL, release_main, NULL));
		CHECK(!pthread_join(releaser, NULL) && !to_release.ret);
		CHECK(raw_target_moves(&t));
	}
	CHECK(!raw_world_stop(&r, 0, 0, 5000, &w));
	CHECK(w.landed + w.preempted == 1 && !w.stragglers);
	CHECK(!raw_world_start(&r));
	CHECK(raw_target_moves(&t));
	CHECK(!raw_target_stop(&t));
	CHECK(!t.result && !t.wrong);
	/* also for itself, and UNREGISTER */
	raw_target_init(&t, &r, NULL, RAW_LANDING);
	CHECK(!raw_target_register(&t));
	CHECK(!raw_ask(&r, t.slot, UPREEMPT_REDIRECT, 0, &e) && t.land.count == 1);
	CHECK(!raw_unregister(&r, t.slot));
	raw_close(&r);
	return 0;
}

TEST_F(node, all_of_it_without_privileges)
{
	ASSERT_EQ(0, chmod(UPREEMPT_DEVICE, 0666));
	EXPECT_EQ(0, as_nobody(all_of_it));
}

/* The module's own way, and back */
TEST_F(node, device_mode)
{
	const char *ko = raw_module_file();
	char text[16] = "";
	FILE *f;

	if (!ko)
		SKIP(return, "the module's file is not known");
	/* what the children had registered may be on its way out */
	ASSERT_TRUE(RAW_UNTIL(!raw_module_unload()));
	ASSERT_EQ(0, raw_module_load_with(ko, "device_mode=0666"));
	EXPECT_EQ(0666, node_mode());
	EXPECT_EQ(0, as_nobody(open_fails_with));
	f = fopen("/sys/module/upreempt/parameters/device_mode", "r");
	ASSERT_NE(NULL, f);
	EXPECT_NE(NULL, fgets(text, sizeof(text), f));
	fclose(f);
	EXPECT_EQ(0666, atoi(text));
	ASSERT_TRUE(RAW_UNTIL(!raw_module_unload()));
	ASSERT_EQ(0, raw_module_load(ko));
	EXPECT_EQ(0660, node_mode());
	EXPECT_EQ(EACCES, as_nobody(open_fails_with));
}

/* -------- refused calls -------- */

FIXTURE(refused) {
	struct raw_trace trace;
	bool traced;
	struct raw r;
};

FIXTURE_SETUP(refused)
{
	self->traced = !access(RAW_TRACEFS "/events/upreempt", F_OK);
	if (!self->traced)
		return;
	ASSERT_EQ(0, raw_domain(&self->r, 4, 16));
	ASSERT_EQ(0, raw_trace_begin(&self->trace, "upreempt-refused"));
}

FIXTURE_TEARDOWN(refused)
{
	if (!self->traced)
		return;
	EXPECT_EQ(0, raw_trace_end(&self->trace));
	raw_close(&self->r);
}

struct refusal {
	unsigned int cmd;
	int error;
};

static bool is_refusal(const char *fields, void *arg)
{
	struct refusal *want = arg;
	unsigned int cmd;
	int error;

	return sscanf(fields, "cmd=%x error=%d", &cmd, &error) == 2 && cmd == want->cmd &&
	       error == want->error;
}

TEST_F(refused, one_event_for_each)
{
	struct upreempt_setup setup = { .size = sizeof(setup), .nr_slots = 4, .nr_events = 16 };
	struct refusal request = { UPREEMPT_IOC_REQUEST, -EINVAL };
	struct refusal of_setup = { UPREEMPT_IOC_SETUP, -EPERM }, nonsense = { 0x1234, -ENOTTY };
	int status, fresh = raw_open();
	struct raw_target t;
	pid_t pid;

	if (!self->traced)
		SKIP(return, "no tracefs at " RAW_TRACEFS);
	ASSERT_LE(0, fresh);
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	EXPECT_EQ(-EINVAL, raw_post(&self->r, 4, UPREEMPT_SAMPLE, 0, 0, NULL));
	EXPECT_EQ(1, raw_trace_each(&self->trace, "upreempt_refuse", raw_gettid(), is_refusal,
				    &request));
	/* what is granted is none */
	EXPECT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, NULL));
	EXPECT_EQ(-ENOTTY, raw_ioctl(self->r.fd, nonsense.cmd, NULL));
	EXPECT_EQ(1, raw_trace_each(&self->trace, "upreempt_refuse", raw_gettid(), is_refusal,
				    &nonsense));
	EXPECT_EQ(2, raw_trace_each(&self->trace, "upreempt_refuse", 0, NULL, NULL));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(-raw_ioctl(fresh, UPREEMPT_IOC_SETUP, &setup));
	status = raw_reap(pid, RAW_LONG_MS);
	EXPECT_EQ(EPERM << 8, status);
	EXPECT_EQ(1, raw_trace_each(&self->trace, "upreempt_refuse", pid, is_refusal, &of_setup));
	EXPECT_EQ(3, raw_trace_each(&self->trace, "upreempt_refuse", 0, NULL, NULL));
	EXPECT_EQ(0, raw_target_stop(&t));
	close(fresh);
}

RAW_TEST_MAIN
