// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Every function of the library refuses what its comment says, with that error,
 * and nothing else. Proves M38, U13 (absence is an answer, not a hang), P29, S13 (its text).
 */
#include "kselftest_harness.h"
#include "ut.h"
#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>

static int open_with(const struct upreempt_domain_opts *opts)
{
	struct upreempt_domain *domain = NULL;
	int err = upreempt_domain_open(opts, &domain);

	if (!err)
		upreempt_domain_close(domain);
	return err;
}

TEST(info)
{
	struct upreempt_info info;

	memset(&info, 0xcc, sizeof(info));
	info.size = 0;
	EXPECT_EQ(-EINVAL, upreempt_get_info(&info));
	memset(&info, 0xcc, sizeof(info));
	info.size = sizeof(info);
	ASSERT_EQ(0, upreempt_get_info(&info));
	EXPECT_TRUE(info.backend == UPREEMPT_BACKEND_KMOD ||
		    info.backend == UPREEMPT_BACKEND_SIGNAL);
	EXPECT_LT(0, strnlen(info.why, sizeof(info.why)));
	EXPECT_GT(sizeof(info.why), strnlen(info.why, sizeof(info.why)));
	EXPECT_LE(64, info.max_slots);
	EXPECT_LE(16, info.max_events);
	EXPECT_LE(1, info.max_requests);
	EXPECT_LE(576, info.xsave_size);
	EXPECT_EQ(3, info.xfeatures & 3);
	EXPECT_TRUE(info.signo > 0 && info.signo < 65);
	if (info.backend == UPREEMPT_BACKEND_KMOD) {
		EXPECT_TRUE(info.kmod_usable);
		EXPECT_EQ(UPREEMPT_ABI_VERSION, info.kmod_abi);
		EXPECT_EQ(UPREEMPT_F_SAMPLE | UPREEMPT_F_STOP | UPREEMPT_F_REDIRECT,
			  info.kmod_features & 7);
	}
	printf("# %s: %s\n", upreempt_backend_name(info.backend), info.why);
}

TEST(names)
{
	EXPECT_STREQ("LANDED", upreempt_outcome_name(UPREEMPT_LANDED));
	EXPECT_STREQ("COOPERATED", upreempt_outcome_name(UPREEMPT_COOPERATED));
	EXPECT_STREQ("BLOCKED", upreempt_outcome_name(UPREEMPT_BLOCKED));
	EXPECT_STREQ("UNSAFE", upreempt_outcome_name(UPREEMPT_UNSAFE));
	EXPECT_STREQ("GONE", upreempt_outcome_name(UPREEMPT_GONE));
	EXPECT_STREQ("CANCELLED", upreempt_outcome_name(UPREEMPT_CANCELLED));
	EXPECT_STREQ("?", upreempt_outcome_name(UPREEMPT_OUTCOME_MAX));
	EXPECT_STREQ("?", upreempt_outcome_name(~0U));
	EXPECT_STREQ("SAMPLE", upreempt_kind_name(UPREEMPT_SAMPLE));
	EXPECT_STREQ("STOP", upreempt_kind_name(UPREEMPT_STOP));
	EXPECT_STREQ("REDIRECT", upreempt_kind_name(UPREEMPT_REDIRECT));
	EXPECT_STREQ("?", upreempt_kind_name(0));
	EXPECT_STREQ("?", upreempt_kind_name(UPREEMPT_KIND_MAX));
	EXPECT_STREQ("RSEQ", upreempt_reason_name(UPREEMPT_R_RSEQ));
	EXPECT_STREQ("?", upreempt_reason_name(UPREEMPT_REASON_MAX));
	for (unsigned int i = 0; i < UPREEMPT_REASON_MAX; i++) {
		EXPECT_STRNE("?", upreempt_reason_name(i));
		for (unsigned int j = 0; j < i; j++)
			EXPECT_STRNE(upreempt_reason_name(j), upreempt_reason_name(i));
	}
	EXPECT_STREQ("?", upreempt_backend_name(99));
	EXPECT_STREQ("kmod", upreempt_backend_name(UPREEMPT_BACKEND_KMOD));
	EXPECT_STREQ("signal", upreempt_backend_name(UPREEMPT_BACKEND_SIGNAL));
}

TEST(domain_options)
{
	struct upreempt_info info = { .size = sizeof(info) };
	struct upreempt_domain_opts o = { .size = sizeof(o) };

	ASSERT_EQ(0, upreempt_get_info(&info));
	EXPECT_EQ(0, open_with(NULL));
	EXPECT_EQ(0, open_with(&o));
	o.size = 0;
	EXPECT_EQ(-EINVAL, open_with(&o));
	o = (struct upreempt_domain_opts){ .size = sizeof(o), .backend = 99 };
	EXPECT_EQ(-EINVAL, open_with(&o));
	o = (struct upreempt_domain_opts){ .size = sizeof(o), .slots = info.max_slots + 1 };
	EXPECT_EQ(-EINVAL, open_with(&o));
	o = (struct upreempt_domain_opts){ .size = sizeof(o), .events = 8 };
	EXPECT_EQ(-EINVAL, open_with(&o));
	o.events = 17;
	EXPECT_EQ(-EINVAL, open_with(&o));
	o.events = 24;
	EXPECT_EQ(-EINVAL, open_with(&o));
	o.events = info.max_events * 2;
	EXPECT_EQ(-EINVAL, open_with(&o));
	o.events = 16;
	EXPECT_EQ(0, open_with(&o));
	upreempt_domain_close(NULL);
}

TEST(signal_options)
{
	struct upreempt_domain_opts o = {
		.size = sizeof(o), .backend = UPREEMPT_BACKEND_SIGNAL, .signo = SIGUSR2,
	};

	EXPECT_EQ(0, open_with(&o));
	o.signo = 65;
	EXPECT_EQ(-EINVAL, open_with(&o));
	o.signo = -1;
	EXPECT_EQ(-EINVAL, open_with(&o));
	o.signo = SIGKILL;
	EXPECT_EQ(-EINVAL, open_with(&o));
	o.signo = SIGSTOP;
	EXPECT_EQ(-EINVAL, open_with(&o));
	o.signo = SIGUSR1;
	ASSERT_NE(SIG_ERR, signal(SIGUSR1, (void (*)(int))abort));
	EXPECT_EQ(-EBUSY, open_with(&o));
	ASSERT_NE(SIG_ERR, signal(SIGUSR1, SIG_DFL));
	EXPECT_EQ(0, open_with(&o));
}

static char logged[256];
static int logged_level = -1;

static void log_it(int level, const char *message)
{
	logged_level = level;
	snprintf(logged, sizeof(logged), "%s", message);
}

/* Without the module the reason is told, through the log function alone */
TEST(no_module)
{
	struct upreempt_domain_opts o = { .size = sizeof(o), .backend = UPREEMPT_BACKEND_KMOD };
	struct upreempt_info info = { .size = sizeof(info) };
	int err;

	ASSERT_EQ(0, upreempt_get_info(&info));
	upreempt_set_log(log_it);
	err = open_with(&o);
	upreempt_set_log(NULL);
	if (!access(UPREEMPT_DEVICE, F_OK)) {
		EXPECT_EQ(info.kmod_usable ? 0 : -EACCES, err);
		return;
	}
	EXPECT_EQ(-ENOENT, err);
	EXPECT_FALSE(info.kmod_usable);
	EXPECT_EQ(0, info.kmod_abi);
	EXPECT_EQ(0, logged_level);
	EXPECT_LT(0, strlen(logged));
	printf("# logged: %s\n", logged);
}

/* What a process is told that asks for the module, and one that leaves the choice */
struct told {
	int err, automatic;
	int level;
	char logged[256];
	struct upreempt_info info;
};

static void be_told(struct told *told)
{
	struct upreempt_domain_opts o = { .size = sizeof(o), .backend = UPREEMPT_BACKEND_KMOD };

	unsetenv("UPREEMPT_BACKEND");
	upreempt_set_log(log_it);
	told->err = open_with(&o);
	told->level = logged_level;
	memcpy(told->logged, logged, sizeof(logged));
	upreempt_set_log(NULL);
	told->automatic = open_with(NULL);
	told->info.size = sizeof(told->info);
	if (upreempt_get_info(&told->info))
		memset(&told->info, 0, sizeof(told->info));
}

#define EXPECT_TOLD(told, text)						\
	do {								\
		EXPECT_NE(NULL, strstr((told)->logged, text)) {		\
			TH_LOG("logged: %s", (told)->logged);		\
		}							\
		EXPECT_NE(NULL, strstr((told)->info.why, text)) {	\
			TH_LOG("why: %s", (told)->info.why);		\
		}							\
	} while (0)

#define NEED_DEVICE_AND_ROOT						\
	do {								\
		if (access(UPREEMPT_DEVICE, F_OK) || geteuid())		\
			SKIP(return, "needs the module, and root");	\
	} while (0)

/* A user who may not open the device is told what would let him */
TEST(no_permission)
{
	struct told *told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;
	pid_t pid;

	NEED_DEVICE_AND_ROOT;
	ASSERT_NE(MAP_FAILED, told);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (setgroups(0, NULL) || setresgid(65534, 65534, 65534) ||
		    setresuid(65534, 65534, 65534))
			_exit(1);
		be_told(told);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	EXPECT_EQ(-EACCES, told->err);
	EXPECT_EQ(0, told->level);
	EXPECT_TOLD(told, UPREEMPT_DEVICE " may not be opened by this user");
	EXPECT_TOLD(told, "change its mode or group");
	EXPECT_TOLD(told, "parameter device_mode");
	/* not the other one in secret, but the other one when nobody has asked */
	EXPECT_EQ(0, told->automatic);
	EXPECT_EQ(UPREEMPT_BACKEND_SIGNAL, told->info.backend);
	EXPECT_FALSE(told->info.kmod_usable);
	EXPECT_EQ(0, told->info.kmod_abi);
}

/* In a mount namespace of its own, the node is another device */
TEST(another_device)
{
	static struct told told;

	NEED_DEVICE_AND_ROOT;
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("/dev/null", UPREEMPT_DEVICE, NULL, MS_BIND, NULL));
	be_told(&told);
	EXPECT_EQ(-EPROTO, told.err);
	EXPECT_EQ(0, told.level);
	EXPECT_TOLD(&told, UPREEMPT_DEVICE " does not answer QUERY");
	EXPECT_TOLD(&told, strerror(ENOTTY));
	EXPECT_TOLD(&told, "another device");
	EXPECT_TOLD(&told, "insmod this library's upreempt.ko");
	EXPECT_EQ(0, told.automatic);
	EXPECT_EQ(UPREEMPT_BACKEND_SIGNAL, told.info.backend);
	EXPECT_FALSE(told.info.kmod_usable);
	ASSERT_EQ(0, umount(UPREEMPT_DEVICE));
	EXPECT_EQ(0, upreempt_get_info(&told.info));
	EXPECT_TRUE(told.info.kmod_usable);
}

TEST(environment)
{
	struct upreempt_domain *domain;

	ASSERT_EQ(0, setenv("UPREEMPT_BACKEND", "signal", 1));
	domain = ut_open(0, 0);
	ASSERT_NE(NULL, domain);
	EXPECT_EQ(UPREEMPT_BACKEND_SIGNAL, upreempt_domain_backend(domain));
	EXPECT_EQ(64, upreempt_domain_header(domain)->nr_slots);
	EXPECT_EQ(1024, upreempt_domain_header(domain)->nr_events);
	upreempt_domain_close(domain);
	ASSERT_EQ(0, setenv("UPREEMPT_BACKEND", "telepathy", 1));
	EXPECT_EQ(-EINVAL, open_with(NULL));
}

FIXTURE(api) {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
};

FIXTURE_SETUP(api)
{
	self->thread = NULL;
	self->domain = ut_open(2, 16);
	ASSERT_NE(NULL, self->domain);
}

FIXTURE_TEARDOWN(api)
{
	upreempt_domain_close(self->domain);
}

static void *register_main(void *arg)
{
	struct upreempt_thread *thread;
	UPREEMPT_OPTS(upreempt_thread_opts, opts, .flags = 0);
	int err = upreempt_thread_register(arg, &opts, &thread);

	if (!err)
		err = upreempt_thread_unregister(thread);
	return (void *)(intptr_t)err;
}

static void *unregister_main(void *arg)
{
	return (void *)(intptr_t)upreempt_thread_unregister(arg);
}

static int in_thread(void *(*fn)(void *), void *arg)
{
	pthread_t t;
	void *ret;

	if (pthread_create(&t, NULL, fn, arg) || pthread_join(t, &ret))
		return 1;
	return (intptr_t)ret;
}

static void nothing(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
}

TEST_F(api, thread_options)
{
	struct upreempt_thread_opts o = { .size = 0, .handler = nothing };
	char stack[64];

	EXPECT_EQ(-EINVAL, upreempt_thread_register(self->domain, &o, &self->thread));
	o.size = sizeof(o);
	o.flags = 1U << 31;
	EXPECT_EQ(-EINVAL, upreempt_thread_register(self->domain, &o, &self->thread));
	o.flags = 0;
	o.stack_lo = stack + 64;
	o.stack_hi = stack;
	EXPECT_EQ(-EINVAL, upreempt_thread_register(self->domain, &o, &self->thread));
	EXPECT_EQ(NULL, upreempt_thread_self());
	o.stack_lo = o.stack_hi = NULL;
	EXPECT_EQ(0, upreempt_thread_register(self->domain, &o, &self->thread));
	EXPECT_EQ(self->thread, upreempt_thread_self());
	EXPECT_EQ(gettid(), upreempt_thread_tid(self->thread));
	EXPECT_GT(2, upreempt_thread_slot(self->thread));
	EXPECT_EQ(0, upreempt_thread_unregister(self->thread));
	EXPECT_EQ(NULL, upreempt_thread_self());
}

TEST_F(api, register_errors)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = nothing);
	struct upreempt_domain *small = ut_open(1, 16);
	struct upreempt_thread *other;
	int status;
	pid_t pid;

	ASSERT_NE(NULL, small);
	ASSERT_EQ(0, upreempt_thread_register(small, &o, &self->thread));
	EXPECT_EQ(-EEXIST, upreempt_thread_register(small, &o, &other));
	EXPECT_EQ(-EEXIST, upreempt_thread_register(self->domain, &o, &other));
	EXPECT_EQ(-ENOSPC, in_thread(register_main, small));
	EXPECT_EQ(-EPERM, in_thread(unregister_main, self->thread));
	EXPECT_EQ(0, upreempt_thread_unregister(self->thread));
	EXPECT_EQ(0, in_thread(register_main, small));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(-upreempt_thread_register(small, &o, &other));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(EPERM << 8, status);
	upreempt_domain_close(small);
}

/* A thread without a handler is there for SAMPLE and STOP */
TEST_F(api, no_handler)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = NULL);
	UPREEMPT_OPTS(upreempt_request_opts, r, .kind = UPREEMPT_REDIRECT);
	uint64_t seq;

	ASSERT_EQ(0, upreempt_thread_register(self->domain, &o, &self->thread));
	EXPECT_EQ(-EOPNOTSUPP, upreempt_post(self->thread, &r, &seq));
	EXPECT_EQ(-EOPNOTSUPP, upreempt_request(self->thread, &r, NULL));
	EXPECT_EQ(0, upreempt_thread_unregister(self->thread));
}

TEST_F(api, request_errors)
{
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = nothing);
	UPREEMPT_OPTS(upreempt_request_opts, r, .kind = 0);
	struct upreempt_event ev;
	uint64_t seq = 0;

	ASSERT_EQ(0, upreempt_thread_register(self->domain, &o, &self->thread));
	EXPECT_EQ(-EINVAL, upreempt_post(self->thread, &r, &seq));
	EXPECT_EQ(-EINVAL, upreempt_request(self->thread, &r, &ev));
	r.kind = UPREEMPT_KIND_MAX;
	EXPECT_EQ(-EINVAL, upreempt_post(self->thread, &r, &seq));
	r.kind = UPREEMPT_SAMPLE;
	r.flags = 1U << 31;
	EXPECT_EQ(-EINVAL, upreempt_post(self->thread, &r, &seq));
	r.flags = 0;
	r.size = 0;
	EXPECT_EQ(-EINVAL, upreempt_post(self->thread, &r, &seq));
	r.size = sizeof(r);
	r.kind = UPREEMPT_STOP;
	EXPECT_EQ(-EDEADLK, upreempt_post(self->thread, &r, &seq));
	EXPECT_EQ(-EDEADLK, upreempt_request(self->thread, &r, &ev));
	EXPECT_EQ(-ENOENT, upreempt_wait(self->thread, 12345, 1, &ev));
	EXPECT_EQ(-ENOENT, upreempt_cancel(self->thread, 12345));
	EXPECT_EQ(-ENOENT, upreempt_release(self->thread, 12345));
	EXPECT_EQ(0, upreempt_thread_unregister(self->thread));
}

TEST_F(api, eventfd_errors)
{
	EXPECT_EQ(-EBADF, upreempt_domain_eventfd(self->domain, 12345));
	EXPECT_EQ(-EINVAL, upreempt_domain_eventfd(self->domain, STDOUT_FILENO));
	EXPECT_EQ(0, upreempt_domain_eventfd(self->domain, -1));
	EXPECT_LE(0, upreempt_domain_fd(self->domain));
}

static volatile int seen_in_handler;

static void unregister_here(struct upreempt_context *ctx, void *arg)
{
	(void)arg;
	seen_in_handler = upreempt_thread_unregister(upreempt_context_thread(ctx));
}

TEST_F(api, unregister_in_handler)
{
	struct ut_spinner s = { .domain = self->domain, .handler = unregister_here };
	struct upreempt_event ev;

	ASSERT_EQ(0, ut_spinner_start(&s));
	ASSERT_EQ(0, ut_request(s.thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_TRUE(UT_UNTIL(seen_in_handler));
	EXPECT_EQ(-EBUSY, seen_in_handler);
	EXPECT_EQ(0, ut_spinner_stop(&s));
}

TEST_F(api, stats)
{
	struct ut_spinner s = { .domain = self->domain, .handler = nothing };
	struct upreempt_stats st;
	struct upreempt_event ev;

	ASSERT_EQ(0, ut_spinner_start(&s));
	for (int i = 0; i < 10; i++)
		ASSERT_EQ(0, ut_request(s.thread, UPREEMPT_SAMPLE, &ev));
	for (int i = 0; i < 5; i++)
		ASSERT_EQ(0, ut_request(s.thread, UPREEMPT_REDIRECT, &ev));
	memset(&st, 0xcc, sizeof(st));
	ASSERT_EQ(0, upreempt_thread_stats(s.thread, &st));
	EXPECT_EQ(10, st.kinds[UPREEMPT_SAMPLE]);
	EXPECT_EQ(5, st.kinds[UPREEMPT_REDIRECT]);
	EXPECT_EQ(0, st.kinds[UPREEMPT_STOP]);
	EXPECT_EQ(15, st.outcomes[UPREEMPT_LANDED]);
	EXPECT_EQ(upreempt_thread_tid(s.thread), st.tid);
	memset(&st, 0xcc, sizeof(st));
	ASSERT_EQ(0, upreempt_domain_stats(self->domain, &st));
	EXPECT_EQ(15, st.outcomes[UPREEMPT_LANDED]);
	EXPECT_EQ(1, st.threads);
	EXPECT_EQ(0, st.tid);
	EXPECT_EQ(0, ut_spinner_stop(&s));
	/* the domain remembers what its past threads did */
	ASSERT_EQ(0, upreempt_domain_stats(self->domain, &st));
	EXPECT_EQ(15, st.outcomes[UPREEMPT_LANDED]);
	EXPECT_EQ(0, st.threads);
}

/* A slot's number is free again after its thread left; nobody is registered twice */
TEST_F(api, slots_are_reused)
{
	for (int i = 0; i < 100; i++)
		ASSERT_EQ(0, in_thread(register_main, self->domain));
}

TEST_HARNESS_MAIN
