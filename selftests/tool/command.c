// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The command `upreempt`: wrong use gets one line and exit status 2; help has examples;
 * what it prints with --json is JSON and says what it must say; the BPF probes see every
 * stage of the backend in use. Proves U13 (without the module there is an answer and the
 * signal backend), U5 (counters while they grow), U20 (a loop without a poll is led out of it),
 * U21 (where the time goes, also in pinned maps), and that tp_btf programs work on the module,
 * with uprobes on the landing (P15).
 */
#include "kselftest_harness.h"
#include "../lib/ut.h"
#include <ctype.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_WORDS 16

struct run {
	int status;
	char *out, *err;
};

/* out/bin/upreempt, from out/selftests/tool/command */
static const char *tool(void)
{
	static char path[PATH_MAX];
	ssize_t n;
	int up;

	if (*path)
		return path;
	n = readlink("/proc/self/exe", path, sizeof(path) - 32);
	if (n < 0)
		return "upreempt";
	path[n] = 0;
	for (up = 0; up < 3; up++)
		*strrchr(path, '/') = 0;
	return strcat(path, "/bin/upreempt");
}

static char *contents(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	char *s = calloc(1, size + 1);

	if (!s || pread(fd, s, size, 0) != size)
		abort();
	close(fd);
	return s;
}

static struct run run_argv(char *const argv[])
{
	int out = memfd_create("out", 0), err = memfd_create("err", 0);
	struct run r;
	pid_t pid = fork();

	if (!pid) {
		dup2(out, STDOUT_FILENO);
		dup2(err, STDERR_FILENO);
		execv(argv[0], argv);
		_exit(127);
	}
	waitpid(pid, &r.status, 0);
	r.status = WIFEXITED(r.status) ? WEXITSTATUS(r.status) : 128 + WTERMSIG(r.status);
	r.out = contents(out);
	r.err = contents(err);
	return r;
}

/* The command with these words, up to NULL */
static struct run run(const char *word, ...)
{
	char *argv[MAX_WORDS + 2] = { (char *)tool() };
	va_list ap;
	int n = 1;

	va_start(ap, word);
	for (; word && n < MAX_WORDS; word = va_arg(ap, const char *))
		argv[n++] = (char *)word;
	va_end(ap);
	return run_argv(argv);
}

static void done(struct run *r)
{
	free(r->out);
	free(r->err);
}

static bool one_line(const char *s)
{
	const char *end = strchr(s, '\n');

	return end && end > s && !end[1];
}

static unsigned int occurrences(const char *s, const char *what)
{
	unsigned int n = 0;

	for (; (s = strstr(s, what)); s += strlen(what))
		n++;
	return n;
}

/* ---- a JSON reader that only says whether it is JSON ---------------------- */

static const char *value(const char *s);

static const char *space(const char *s)
{
	return s + strspn(s, " \t\r\n");
}

static const char *string(const char *s)
{
	if (*s++ != '"')
		return NULL;
	for (; *s != '"'; s++)
		if ((unsigned char)*s < 0x20 || (*s == '\\' && !*++s))
			return NULL;
	return s + 1;
}

static const char *list(const char *s, char close, bool keys)
{
	s = space(s + 1);
	if (*s == close)
		return s + 1;
	for (;;) {
		if (keys) {
			s = string(s);
			if (!s)
				return NULL;
			s = space(s);
			if (*s++ != ':')
				return NULL;
		}
		s = value(s);
		if (!s)
			return NULL;
		if (*s == close)
			return s + 1;
		if (*s++ != ',')
			return NULL;
		s = space(s);
	}
}

static const char *value(const char *s)
{
	static const char *const words[] = { "true", "false", "null" };
	unsigned int i;
	char *end;

	s = space(s);
	if (*s == '{')
		s = list(s, '}', true);
	else if (*s == '[')
		s = list(s, ']', false);
	else if (*s == '"')
		s = string(s);
	else if (*s == '-' || isdigit((unsigned char)*s)) {
		strtod(s, &end);
		s = end;
	} else {
		for (i = 0; i < 3 && strncmp(s, words[i], strlen(words[i])); i++)
			;
		s = i < 3 ? s + strlen(words[i]) : NULL;
	}
	return s ? space(s) : NULL;
}

static bool is_json(const char *s)
{
	s = value(s);
	return s && !*s;
}

static const char *backend(void)
{
	const char *b = getenv("UPREEMPT_BACKEND");

	return b && *b ? b : "signal";
}

/* ---- tests ---------------------------------------------------------------- */

#define WRONG(...) do {							\
	struct run r = run(__VA_ARGS__, NULL);				\
									\
	EXPECT_EQ(2, r.status);						\
	EXPECT_STREQ("", r.out);					\
	EXPECT_TRUE(one_line(r.err)) TH_LOG("said: %s", r.err);		\
	EXPECT_NE(NULL, strstr(r.err, "--help"));			\
	done(&r);							\
} while (0)

TEST(wrong_use_is_one_line_and_status_2)
{
	struct run r = run(NULL);

	EXPECT_EQ(2, r.status);
	EXPECT_TRUE(one_line(r.err));
	done(&r);
	WRONG("nonsense");
	WRONG("info", "word");
	WRONG("info", "--nonsense");
	WRONG("info", "--json=yes");
	WRONG("demo", "word");
	WRONG("demo", "-z");
	WRONG("demo", "-n");
	WRONG("demo", "-n", "0");
	WRONG("demo", "-n", "many");
	WRONG("demo", "--backend", "magic");
	WRONG("latency", "-p", "0");
	WRONG("latency", "-p", "4194304");
	WRONG("latency", "-d", "0");
	WRONG("latency", "--signal", "65");
	WRONG("latency", "-p", "1", "--", "true");
	WRONG("stat", "word");
	WRONG("stat", "-i", "0");
	WRONG("stat", "-c", "-1");
	WRONG("stat", "-p", "self");
}

TEST(help_has_examples)
{
	static const char *const commands[] = { "info", "demo", "latency", "stat" };
	struct run r = run("--help", NULL);
	unsigned int i;

	EXPECT_EQ(0, r.status);
	EXPECT_NE(NULL, strstr(r.out, "Examples:"));
	for (i = 0; i < 4; i++) {
		struct run h = run(commands[i], "--help", NULL);

		EXPECT_NE(NULL, strstr(r.out, commands[i]));
		EXPECT_EQ(0, h.status);
		EXPECT_STREQ("", h.err);
		EXPECT_NE(NULL, strstr(h.out, "usage: upreempt "));
		EXPECT_NE(NULL, strstr(h.out, "Examples:"));
		done(&h);
	}
	done(&r);
}

TEST(info_says_which_backend_and_why)
{
	struct run r = run("info", NULL);
	char chosen[64];

	EXPECT_EQ(0, r.status);
	EXPECT_NE(NULL, strstr(r.out, "because"));
	done(&r);
	r = run("--json", "info", NULL);
	EXPECT_EQ(0, r.status);
	EXPECT_TRUE(is_json(r.out)) TH_LOG("%s", r.out);
	snprintf(chosen, sizeof(chosen), "\"chosen\": \"%s\"", backend());
	EXPECT_NE(NULL, strstr(r.out, chosen)) TH_LOG("%s", r.out);
	done(&r);
}

TEST(stat_without_a_registered_thread)
{
	struct run r = run("stat", "-c", "1", "--json", NULL);

	if (access("/sys/module/upreempt", F_OK)) {
		EXPECT_EQ(1, r.status);
		EXPECT_STREQ("", r.out);
		EXPECT_TRUE(one_line(r.err));
		EXPECT_NE(NULL, strstr(r.err, "insmod"));
	} else if (!geteuid()) {
		EXPECT_EQ(0, r.status);
		EXPECT_TRUE(is_json(r.out));
		EXPECT_TRUE(one_line(r.out));
	}
	done(&r);
}

/* ---- stat, of a program that is being asked --------------------------------- */

struct asker {
	struct ut_spinner spinner;
	volatile bool quit;
	volatile uint64_t asked, wrong;
};

static void *ask_all_the_time(void *arg)
{
	struct asker *a = arg;
	struct upreempt_event ev;

	while (!a->quit) {
		a->wrong += ut_request(a->spinner.thread, UPREEMPT_SAMPLE, &ev) ||
			    ev.outcome != UPREEMPT_LANDED;
		a->asked++;
		ut_sleep(UT_MS);
	}
	return NULL;
}

/* The number behind "<key>": in what follows, -1 when there is none */
static long long json_number(const char *s, const char *key)
{
	char text[64];

	snprintf(text, sizeof(text), "\"%s\":", key);
	s = s ? strstr(s, text) : NULL;
	return s ? strtoll(s + strlen(text), NULL, 10) : -1;
}

/* The thread's object in a line */
static const char *json_thread(const char *line, pid_t tid)
{
	char text[64];

	snprintf(text, sizeof(text), "\"pid\": %d, \"tid\": %d, ", getpid(), tid);
	return strstr(line, text);
}

TEST(stat_shows_counters_that_grow)
{
	static const char *const growing[] = { "requests", "LANDED", "SAMPLE" };
	struct asker a = { .spinner.domain = ut_open(4, 16) };
	const char *thread[2];
	pthread_t asker;
	char pid[16], *second;
	struct run r;
	pid_t tid;

	ASSERT_NE(NULL, a.spinner.domain);
	if (!ut_is_kmod(a.spinner.domain))
		SKIP(return, "the counters of the signal backend stay inside the program");
	ASSERT_EQ(0, ut_spinner_start(&a.spinner));
	tid = upreempt_thread_tid(a.spinner.thread);
	ASSERT_EQ(0, pthread_create(&asker, NULL, ask_all_the_time, &a));
	ASSERT_TRUE(UT_UNTIL(a.asked > 0));
	snprintf(pid, sizeof(pid), "%d", getpid());
	r = run("stat", "-p", pid, "-c", "2", "-i", "1", "--json", NULL);
	a.quit = true;
	EXPECT_EQ(0, pthread_join(asker, NULL));
	ASSERT_EQ(0, r.status) TH_LOG("%s", r.err);
	EXPECT_STREQ("", r.err);

	/* a line for each look */
	ASSERT_EQ(2, occurrences(r.out, "\n")) TH_LOG("%s", r.out);
	second = strchr(r.out, '\n');
	*second++ = 0;
	EXPECT_TRUE(is_json(r.out));
	EXPECT_TRUE(is_json(second));
	EXPECT_LT(json_number(r.out, "ns") + (long long)UT_SEC / 2, json_number(second, "ns"));
	thread[0] = json_thread(r.out, tid);
	thread[1] = json_thread(second, tid);
	ASSERT_NE(NULL, thread[0]) TH_LOG("%s", r.out);
	ASSERT_NE(NULL, thread[1]) TH_LOG("%s", second);
	for (unsigned int i = 0; i < 3; i++) {
		long long before = json_number(thread[0], growing[i]);
		long long after = json_number(thread[1], growing[i]);

		EXPECT_LT(0, before);
		EXPECT_LT(before, after) TH_LOG("%s", growing[i]);
		EXPECT_GE((long long)a.asked, after);
	}
	EXPECT_EQ(0, json_number(thread[1], "REDIRECT"));
	EXPECT_EQ(0, json_number(thread[1], "held"));
	EXPECT_EQ(0, a.wrong);
	done(&r);

	/* without the program's own counters there is nothing to show, and that is said */
	EXPECT_EQ(0, ut_spinner_stop(&a.spinner));
	upreempt_domain_close(a.spinner.domain);
	r = run("stat", "-p", pid, "-c", "1", NULL);
	EXPECT_EQ(1, r.status);
	EXPECT_TRUE(one_line(r.err));
	EXPECT_NE(NULL, strstr(r.err, "no domain of the module")) TH_LOG("said: %s", r.err);
	done(&r);
}

FIXTURE(long_run) {};
FIXTURE_SETUP(long_run) {}
FIXTURE_TEARDOWN(long_run) {}

TEST_F_TIMEOUT(long_run, demo_reaches_every_loop, 60)
{
	struct run r = run("demo", "--backend", backend(), "-n", "200", "--json", NULL);

	ASSERT_EQ(0, r.status) TH_LOG("%s", r.err);
	EXPECT_TRUE(is_json(r.out)) TH_LOG("%s", r.out);
	/* four loops, three kinds, all of them with no other outcome beside */
	EXPECT_EQ(12, occurrences(r.out, "\"outcome\": \"LANDED\""));
	EXPECT_EQ(3, occurrences(r.out, "counter frozen at")) TH_LOG("%s", r.out);
	EXPECT_EQ(1, occurrences(r.out, "used no CPU time"));
	EXPECT_EQ(4, occurrences(r.out, "handler ran"));
	EXPECT_EQ(0, occurrences(r.out, "handler ran 0 times"));
	EXPECT_EQ(3, occurrences(r.out, "registers intact"));
	EXPECT_EQ(3, occurrences(r.out, "loop_empty+0x"));
	EXPECT_NE(NULL, strstr(r.out, "\"by\": \"tgkill + handler\""));
	if (!strcmp(backend(), "kmod") && strstr(r.out, "\"signals_during_kmod\""))
		EXPECT_NE(NULL, strstr(r.out, "meanwhile: 0."));
	done(&r);
}

static void sees_every_stage(struct __test_metadata *_metadata, bool plain)
{
	static const char *const kmod[] = { "request_ipi", "ipi_arm", "request_arm", "arm_deliver",
		"request_outcome", "deliver_landing", "landing_resume", "request_resume", "gate" };
	static const char *const by_signal[] = { "signal_generate_deliver", "signal_deliver_landing",
		"signal_landing_resume", "signal_generate_resume" };
	bool module = !strcmp(backend(), "kmod");
	const char *const *stage = module ? kmod : by_signal;
	unsigned int i, n = module ? 9 : 4;
	char key[64];
	struct run r;

	if (geteuid())
		SKIP(return, "BPF needs root");
	if (plain && !module && access("/sys/kernel/tracing/events/signal", F_OK) &&
	    access("/sys/kernel/debug/tracing/events/signal", F_OK))
		SKIP(return, "tracefs, which names the classic tracepoints, is not mounted");
	if (plain)
		setenv("UPREEMPT_PROBES", "plain", 1);
	r = run("latency", "--json", "-d", "60", "--", tool(), "demo", "--backend", backend(), "-n",
		"200", NULL);
	if (r.status && !module && access("/sys/kernel/btf/vmlinux", F_OK))
		SKIP(return, "this kernel takes no BPF tracing program: %s", r.err);
	ASSERT_EQ(0, r.status) TH_LOG("%s", r.err);
	EXPECT_TRUE(is_json(r.out)) TH_LOG("%s", r.out);
	snprintf(key, sizeof(key), "\"%s_probes\": \"%s\"", module ? "module" : "signal",
		 !plain ? "tp_btf" : module ? "raw_tp" : "tp");
	EXPECT_NE(NULL, strstr(r.out, key)) TH_LOG("%s", r.out);
	EXPECT_NE(NULL, strstr(r.out, "\"library_probes\": true"));
	for (i = 0; i < n; i++) {
		snprintf(key, sizeof(key), "\"stage\": \"%s\"", stage[i]);
		EXPECT_NE(NULL, strstr(r.out, key)) TH_LOG("no stage %s in %s", stage[i], r.out);
	}
	done(&r);
}

TEST_F_TIMEOUT(long_run, latency_sees_every_stage, 90)
{
	sees_every_stage(_metadata, false);
}

/* What a kernel or a module without BTF gets */
TEST_F_TIMEOUT(long_run, latency_sees_every_stage_without_btf, 90)
{
	sees_every_stage(_metadata, true);
}

/* ---- pinned maps ------------------------------------------------------------ */

#define PINNED	"/sys/fs/bpf/upreempt-selftest"

static void unpin(void)
{
	unlink(PINNED "/upreempt_latency");
	unlink(PINNED "/upreempt_deferrals");
	rmdir(PINNED);
}

/* bpftool, which Debian keeps where a plain user's PATH does not look */
static struct run bpftool_dump(const char *map)
{
	char line[200];

	snprintf(line, sizeof(line), "PATH=$PATH:/usr/sbin:/sbin exec bpftool map dump pinned %s",
		 map);
	return run_argv((char *[]){ "/bin/sh", "-c", line, NULL });
}

#define EXPECT_SHOWS(r, text)						\
	do {								\
		EXPECT_NE(NULL, strstr((r).out, text)) {		\
			TH_LOG("no %s in %s%s", text, (r).out, (r).err); \
		}							\
	} while (0)

TEST_F_TIMEOUT(long_run, latency_pins_maps_that_bpftool_reads, 90)
{
	static const char *const fields[] = { "\"stage\": ", "\"kind\": ", "\"outcome\": " };
	struct run r;
	unsigned int i;

	if (geteuid() || strcmp(backend(), "kmod"))
		SKIP(return, "BPF needs root, deferrals the module");
	unpin();
	r = run("latency", "--json", "-d", "60", "-P", PINNED, "--", tool(), "demo", "--backend",
		"kmod", "-n", "50", NULL);
	ASSERT_EQ(0, r.status) TH_LOG("%s", r.err);
	EXPECT_TRUE(is_json(r.out)) TH_LOG("%s", r.out);
	EXPECT_SHOWS(r, "\"pinned\": \"" PINNED "\"");
	done(&r);
	/* they are still there, with names from their types */
	r = bpftool_dump(PINNED "/upreempt_latency");
	if (r.status == 127) {
		unpin();
		SKIP(return, "there is no bpftool");
	}
	EXPECT_EQ(0, r.status) TH_LOG("%s", r.err);
	for (i = 0; i < 3; i++)
		EXPECT_SHOWS(r, fields[i]);
	EXPECT_SHOWS(r, "UPREEMPT_REDIRECT");
	EXPECT_SHOWS(r, "UPREEMPT_LANDED");
	done(&r);
	r = bpftool_dump(PINNED "/upreempt_deferrals");
	EXPECT_EQ(0, r.status) TH_LOG("%s", r.err);
	done(&r);
	EXPECT_EQ(0, unlink(PINNED "/upreempt_latency"));
	EXPECT_EQ(0, unlink(PINNED "/upreempt_deferrals"));
	EXPECT_EQ(0, rmdir(PINNED));
}

/* Nothing is left of an attempt to pin where maps cannot be */
TEST_F_TIMEOUT(long_run, latency_pins_in_bpf_file_systems_only, 30)
{
	char dir[] = "/tmp/upreempt-pin-XXXXXX", sub[64];
	struct run r;

	if (geteuid() || strcmp(backend(), "kmod"))
		SKIP(return, "BPF needs root");
	ASSERT_NE(NULL, mkdtemp(dir));
	snprintf(sub, sizeof(sub), "%s/pins", dir);
	r = run("latency", "-d", "1", "-P", sub, NULL);
	EXPECT_EQ(1, r.status);
	EXPECT_STREQ("", r.out);
	EXPECT_TRUE(one_line(r.err)) TH_LOG("said: %s", r.err);
	EXPECT_NE(NULL, strstr(r.err, "must lie in a bpf file system")) TH_LOG("%s", r.err);
	EXPECT_NE(0, access(sub, F_OK));
	EXPECT_EQ(0, rmdir(dir));
	done(&r);
}

TEST_HARNESS_MAIN
