// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves R11, U5, U10: the counters say what was done, the same in all three places. */
#include "kselftest_harness.h"
#include <stdarg.h>
#include "../include/raw_target.h"

#define DEBUGFS	"/sys/kernel/debug/upreempt/threads"

FIXTURE(stats) {
	struct raw r;
};

FIXTURE_SETUP(stats)
{
	ASSERT_EQ(0, raw_domain(&self->r, 8, 16));
}

FIXTURE_TEARDOWN(stats)
{
	raw_close(&self->r);
}

/* What is known to have been done: compared with each of the three views. */
struct done {
	uint64_t sample, stop, redirect, landed, blocked, unsafe, gone, cancelled, disabled;
};

static void do_things(struct __test_metadata *_metadata, struct raw *r, struct raw_target *t,
		      struct done *d)
{
	struct upreempt_event e;
	uint64_t seq;

	memset(d, 0, sizeof(*d));
	for (int i = 0; i < 7; i++)
		ASSERT_EQ(0, raw_ask(r, t->slot, UPREEMPT_SAMPLE, 0, &e));
	d->sample += 7;
	d->landed += 7;
	for (int i = 0; i < 5; i++) {
		ASSERT_EQ(0, raw_ask(r, t->slot, UPREEMPT_STOP, 0, &e));
		ASSERT_TRUE(raw_sleeps(t->tid));	/* in the gate */
		ASSERT_EQ(0, raw_release(r, t->slot, e.seq));
	}
	d->stop += 5;
	d->landed += 5;
	for (int i = 0; i < 11; i++)
		ASSERT_EQ(0, raw_ask(r, t->slot, UPREEMPT_REDIRECT, 0, &e));
	d->redirect += 11;
	d->landed += 11;
	r->slots[t->slot].nopreempt = 1;
	ASSERT_EQ(0, raw_ask(r, t->slot, UPREEMPT_REDIRECT, 20, &e));
	d->redirect++;
	d->unsafe++;
	d->disabled += e.attempts;
	ASSERT_EQ(0, raw_post(r, t->slot, UPREEMPT_STOP, 0, 0, &seq));
	ASSERT_EQ(-ETIMEDOUT, raw_wait(r, t->slot, seq, 5, &e));
	ASSERT_EQ(0, raw_cancel(r, t->slot, seq));
	ASSERT_EQ(0, raw_wait(r, t->slot, seq, 0, &e));
	d->stop++;
	d->cancelled++;
	d->disabled += e.attempts;
	r->slots[t->slot].nopreempt = 0;
}

#define EXPECT_STATS(s, d)						\
	do {								\
		EXPECT_EQ((d)->sample, (s)->kinds[UPREEMPT_SAMPLE]);	\
		EXPECT_EQ((d)->stop, (s)->kinds[UPREEMPT_STOP]);	\
		EXPECT_EQ((d)->redirect, (s)->kinds[UPREEMPT_REDIRECT]); \
		EXPECT_EQ((d)->landed, (s)->outcomes[UPREEMPT_LANDED]);	\
		EXPECT_EQ((d)->blocked, (s)->outcomes[UPREEMPT_BLOCKED]); \
		EXPECT_EQ((d)->unsafe, (s)->outcomes[UPREEMPT_UNSAFE]);	\
		EXPECT_EQ((d)->gone, (s)->outcomes[UPREEMPT_GONE]);	\
		EXPECT_EQ((d)->cancelled, (s)->outcomes[UPREEMPT_CANCELLED]); \
		EXPECT_EQ(0, (s)->outcomes[UPREEMPT_PENDING]);		\
		EXPECT_EQ(0, (s)->outcomes[UPREEMPT_COOPERATED]);	\
		EXPECT_EQ((d)->disabled, (s)->deferrals[UPREEMPT_R_DISABLED]); \
	} while (0)

TEST_F(stats, ioctl)
{
	struct upreempt_stats s, sum;
	struct raw_target t, other;
	struct done d;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	ASSERT_EQ(0, raw_spinner(&other, &self->r, RAW_LANDING));
	do_things(_metadata, &self->r, &t, &d);
	ASSERT_EQ(0, raw_stats(&self->r, t.slot, &s));
	EXPECT_EQ(t.tid, (int)s.tid);
	EXPECT_EQ(t.slot, s.slot);
	EXPECT_STATS(&s, &d);
	EXPECT_LE(1, s.hooks);
	EXPECT_LE(s.ipis, s.hooks + 200);
	EXPECT_LE(1, s.gated);
	EXPECT_EQ(0, s.resumes);
	/* nothing of it is the other thread's */
	ASSERT_EQ(0, raw_stats(&self->r, other.slot, &sum));
	EXPECT_EQ(0, sum.kinds[UPREEMPT_SAMPLE] + sum.kinds[UPREEMPT_STOP] +
		     sum.kinds[UPREEMPT_REDIRECT] + sum.hooks + sum.ipis);
	/* and the domain keeps it when the thread is gone */
	ASSERT_EQ(0, raw_stats(&self->r, UPREEMPT_ALL_SLOTS, &sum));
	EXPECT_EQ(2, sum.threads);
	EXPECT_STATS(&sum, &d);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(-ESRCH, raw_stats(&self->r, t.slot, &s));
	ASSERT_EQ(0, raw_stats(&self->r, UPREEMPT_ALL_SLOTS, &sum));
	EXPECT_EQ(1, sum.threads);
	EXPECT_STATS(&sum, &d);
	/* also after it was freed */
	raw_sleep_us(200000);
	ASSERT_EQ(0, raw_stats(&self->r, UPREEMPT_ALL_SLOTS, &sum));
	EXPECT_STATS(&sum, &d);
	EXPECT_EQ(0, raw_target_stop(&other));
}

/* -------- text -------- */

/* The line of a file that begins so; "" when there is none */
static const char *line_of(const char *path, const char *format, ...)
{
	static char line[2048];
	char begin[64];
	va_list args;
	FILE *f;

	va_start(args, format);
	vsnprintf(begin, sizeof(begin), format, args);
	va_end(args);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, begin, strlen(begin)))
			continue;
		fclose(f);
		return line;
	}
	if (f)
		fclose(f);
	return "";
}

/* The number behind "<name>" or "<name>=" in a line, -1 when it is not there */
static int64_t number(const char *line, const char *name)
{
	size_t len = strlen(name);

	for (const char *p = line; (p = strstr(p, name)); p++)
		if ((p == line || p[-1] == ' ' || p[-1] == '-') &&
		    (p[len] == ' ' || p[len] == '=') && p[len + 1] >= '0' && p[len + 1] <= '9')
			return strtoll(p + len + 1, NULL, 10);
	return -1;
}

static void check_thread_line(struct __test_metadata *_metadata, const char *line,
			      const struct raw_target *t, const struct done *d)
{
	EXPECT_EQ(t->tid, number(line, "thread"));
	EXPECT_EQ(getpid(), number(line, "pid"));
	EXPECT_NE(NULL, strstr(line, " comm stats "));
	EXPECT_EQ(0, number(line, "held"));
	EXPECT_EQ(0, number(line, "pending"));
	EXPECT_EQ((int64_t)(d->sample + d->stop + d->redirect), number(line, "requests"));
	EXPECT_EQ((int64_t)d->sample, number(line, "sample"));
	EXPECT_EQ((int64_t)d->stop, number(line, "stop"));
	EXPECT_EQ((int64_t)d->redirect, number(line, "redirect"));
	EXPECT_EQ((int64_t)d->landed, number(line, "landed"));
	EXPECT_EQ(0, number(line, "cooperated"));
	EXPECT_EQ((int64_t)d->blocked, number(line, "blocked"));
	EXPECT_EQ((int64_t)d->unsafe, number(line, "unsafe"));
	EXPECT_EQ((int64_t)d->gone, number(line, "gone"));
	EXPECT_EQ((int64_t)d->cancelled, number(line, "cancelled"));
	EXPECT_EQ((int64_t)d->disabled, number(line, "defer.DISABLED"));
	EXPECT_LE(0, number(line, "ipis"));
	EXPECT_LE(1, number(line, "hooks"));
	EXPECT_LE(1, number(line, "gated"));
	EXPECT_EQ(0, number(line, "resumes"));
}

static void check_text(struct __test_metadata *_metadata, struct raw *r, const char *path,
		       const char *prefix)
{
	struct upreempt_event e;
	struct raw_target t, reader;
	uint64_t seq;
	const char *line;
	struct done d;

	ASSERT_EQ(0, raw_spinner(&t, r, RAW_LANDING));
	ASSERT_EQ(0, raw_reader(&reader, r, RAW_LANDING));
	do_things(_metadata, r, &t, &d);
	line = line_of(path, "%sthread %d ", prefix, t.tid);
	check_thread_line(_metadata, line, &t, &d);
	EXPECT_TRUE(strstr(line, " state running ") || strstr(line, " state off ")) {
		TH_LOG("%s", line);
	}
	EXPECT_NE(NULL, strstr(line_of(path, "%sthread %d ", prefix, reader.tid),
			       " state blocked "));

	/* what can be seen of a held thread */
	ASSERT_EQ(0, raw_ask(r, t.slot, UPREEMPT_STOP, 0, &e));
	EXPECT_TRUE(RAW_UNTIL(strstr(line_of(path, "%sthread %d ", prefix, t.tid),
				     " state held ")));
	EXPECT_EQ(1, number(line_of(path, "%sthread %d ", prefix, t.tid), "held"));
	ASSERT_EQ(0, raw_release(r, t.slot, e.seq));
	r->slots[t.slot].nopreempt = 1;
	ASSERT_EQ(0, raw_post(r, t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
	EXPECT_EQ(1, number(line_of(path, "%sthread %d ", prefix, t.tid), "pending"));
	ASSERT_EQ(0, raw_cancel(r, t.slot, seq));
	r->slots[t.slot].nopreempt = 0;

	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, raw_reader_stop(&reader));
}

TEST_F(stats, fdinfo)
{
	char path[64];
	const char *line;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", self->r.fd);
	line = line_of(path, "upreempt-domain ");
	EXPECT_EQ(getpid(), number(line, "pid"));
	EXPECT_EQ(0, number(line, "threads"));
	EXPECT_EQ(0, number(line, "requests"));
	EXPECT_EQ(0, number(line, "dropped"));
	check_text(_metadata, &self->r, path, "upreempt-");
	line = line_of(path, "upreempt-domain ");
	EXPECT_LT(20, number(line, "requests"));
}

TEST_F(stats, debugfs)
{
	if (access("/sys/kernel/debug/.", R_OK) || access(DEBUGFS, R_OK))
		SKIP(return, "no debugfs at /sys/kernel/debug, or not for this user");
	check_text(_metadata, &self->r, DEBUGFS, "");
}

/* Kernel resumes are counted. */
TEST_F(stats, resumes)
{
	struct upreempt_stats s;
	struct raw_target me;

	raw_target_init(&me, &self->r, NULL, RAW_LANDING);
	ASSERT_EQ(0, raw_target_register(&me));
	for (int i = 0; i < 20; i++) {
		struct upreempt_resume resume = { .size = sizeof(resume), .slot = me.slot };
		uint64_t fd = self->r.fd, cmd = UPREEMPT_IOC_RESUME, where = (uintptr_t)&resume;
		uint64_t got = 0;
		int64_t ret = 0;

		/* goes on behind the call with rbx as told, as if it had jumped there */
		resume.regs.rflags = 0x202;
		resume.regs.rax = 77;
		resume.regs.rbx = 0x1234;
		asm volatile("	lea 1f(%%rip), %%rax\n"
			     "	mov %%rax, 128+8(%%rdx)\n"
			     "	mov %%rsp, 120+8(%%rdx)\n"
			     "	mov %%rbp, 32+8(%%rdx)\n"
			     "	mov %%r12, 24+8(%%rdx)\n"
			     "	mov %%r13, 16+8(%%rdx)\n"
			     "	mov %%r14, 8+8(%%rdx)\n"
			     "	mov %%r15, 0+8(%%rdx)\n"
			     "2:	mov $16, %%eax\n"
			     "	syscall\n"
			     "	test %%eax, %%eax\n"
			     "	jz 2b\n"	/* a signal came in between: again */
			     "1:\n"
			     : "=&a"(ret), "=&b"(got), "+D"(fd), "+S"(cmd), "+d"(where)
			     :
			     : "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
		ASSERT_EQ(77, ret);
		ASSERT_EQ(0x1234, got);
	}
	ASSERT_EQ(0, raw_stats(&self->r, me.slot, &s));
	EXPECT_EQ(20, s.resumes);
	EXPECT_EQ(0, raw_unregister(&self->r, me.slot));
}

RAW_TEST_MAIN
