// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves U5, U21: each tracepoint of the module tells its stage, with the numbers that the
 * answers of the calls have; and there is none that this test has not seen.
 */
#include "kselftest_harness.h"
#include <dirent.h>
#include <stdarg.h>
#include "../include/raw_table.h"
#include "../include/raw_trace.h"

#define MAX_SEEN	32

FIXTURE(trace) {
	struct raw r;
	struct raw_trace trace;
	bool traced;
	unsigned int domain;
	char seen[MAX_SEEN][32];
	int nr_seen;
	char begin[256], last[1024];	/* what records have to begin with; the last that did */
};

FIXTURE_SETUP(trace)
{
	memset(self, 0, sizeof(*self));
	raw_params_reset();
	ASSERT_EQ(0, raw_domain(&self->r, 8, 16));
	self->domain = raw_domain_word(&self->r, "upreempt-domain");
	ASSERT_NE(0, self->domain);
	self->traced = !access(RAW_TRACEFS "/events/upreempt", F_OK);
	if (self->traced)
		ASSERT_EQ(0, raw_trace_begin(&self->trace, "upreempt-trace"));
}

FIXTURE_TEARDOWN(trace)
{
	if (self->traced)
		EXPECT_EQ(0, raw_trace_end(&self->trace));
	raw_close(&self->r);
}

static bool begins(const char *fields, void *arg)
{
	FIXTURE_DATA(trace) *self = arg;

	if (strncmp(fields, self->begin, strlen(self->begin)))
		return false;
	snprintf(self->last, sizeof(self->last), "%s", fields);
	return true;
}

/* How many records of an event begin so; it counts as seen when there is one. */
static int count(FIXTURE_DATA(trace) *self, const char *event, const char *format, ...)
{
	va_list args;
	int i, n;

	va_start(args, format);
	vsnprintf(self->begin, sizeof(self->begin), format, args);
	va_end(args);
	self->last[0] = 0;
	n = raw_trace_each(&self->trace, event, 0, begins, self);
	for (i = 0; i < self->nr_seen && strcmp(self->seen[i], event); i++)
		;
	if (n > 0 && i == self->nr_seen && i < MAX_SEEN)
		snprintf(self->seen[self->nr_seen++], sizeof(self->seen[0]), "%s", event);
	return n;
}

/* A number of the record that was found last */
static uint64_t number(const FIXTURE_DATA(trace) *self, const char *name)
{
	char key[32];
	const char *at;

	snprintf(key, sizeof(key), " %s=", name);
	at = strstr(self->last, key);
	return at ? strtoull(at + strlen(key), NULL, 0) : ~0ULL;
}

/* One that was on its CPU has all stages; whoever was switched out has not. */
static void sample(struct __test_metadata *_metadata, FIXTURE_DATA(trace) *self,
		   struct raw_target *t)
{
	unsigned int d = self->domain;
	struct upreempt_event e;
	int delivered = 0;

	for (int i = 0; i < 100 && !delivered; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t->slot, UPREEMPT_SAMPLE, 0, &e));
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		delivered = count(self, "upreempt_deliver",
				  "domain=%u tid=%d seq=%llu kind=SAMPLE ip=0x%llx\n", d, t->tid,
				  e.seq, e.regs.rip);
	}
	EXPECT_EQ(1, delivered);
	EXPECT_EQ(1, count(self, "upreempt_request",
			   "domain=%u tid=%d seq=%llu kind=SAMPLE cookie=0x%llx\n", d, t->tid,
			   e.seq, e.cookie));
	EXPECT_LE(1, count(self, "upreempt_ipi", "domain=%u tid=%d cpu=1 ret=0\n", d, t->tid));
	EXPECT_LE(1, count(self, "upreempt_arm", "domain=%u tid=%d from=ipi\n", d, t->tid));
	EXPECT_EQ(1, count(self, "upreempt_outcome", "domain=%u tid=%d seq=%llu kind=SAMPLE "
			   "outcome=LANDED reason=0 ns=%llu\n", d, t->tid, e.seq,
			   e.final_ns - e.request_ns));
}

static void defer(struct __test_metadata *_metadata, FIXTURE_DATA(trace) *self,
		  struct raw_target *t)
{
	unsigned int d = self->domain;
	uint64_t seq;

	self->r.slots[t->slot].nopreempt = 1;
	ASSERT_EQ(0, raw_post(&self->r, t->slot, UPREEMPT_REDIRECT, 0, 0, &seq));
	EXPECT_TRUE(RAW_UNTIL(count(self, "upreempt_defer",
				    "domain=%u tid=%d seq=%llu kind=REDIRECT reason=%u ip=0x", d,
				    t->tid, (unsigned long long)seq, UPREEMPT_R_DISABLED) > 1));
	EXPECT_TRUE(raw_in_spin(number(self, "ip"))) {
		TH_LOG("%s", self->last);
	}
	EXPECT_EQ(0, count(self, "upreempt_deliver", "domain=%u tid=%d seq=%llu ", d, t->tid,
			   (unsigned long long)seq));
	ASSERT_EQ(0, raw_cancel(&self->r, t->slot, seq));
	EXPECT_EQ(1, count(self, "upreempt_outcome", "domain=%u tid=%d seq=%llu kind=REDIRECT "
			   "outcome=CANCELLED reason=", d, t->tid, (unsigned long long)seq));
	self->r.slots[t->slot].nopreempt = 0;
}

static void gate(struct __test_metadata *_metadata, FIXTURE_DATA(trace) *self,
		 struct raw_target *t)
{
	unsigned int d = self->domain;
	struct upreempt_event e;

	ASSERT_EQ(0, raw_ask(&self->r, t->slot, UPREEMPT_STOP, 0, &e));
	EXPECT_TRUE(raw_in_spin(e.regs.rip));
	EXPECT_TRUE(RAW_UNTIL(count(self, "upreempt_gate", "domain=%u tid=%d enter ip=0x%llx\n", d,
				    t->tid, e.regs.rip) == 1));
	EXPECT_EQ(0, count(self, "upreempt_gate", "domain=%u tid=%d leave ", d, t->tid));
	ASSERT_EQ(0, raw_release(&self->r, t->slot, e.seq));
	EXPECT_TRUE(RAW_UNTIL(count(self, "upreempt_gate", "domain=%u tid=%d leave ip=0x%llx\n", d,
				    t->tid, e.regs.rip) == 1));
}

/* The world's own tid is the stopper's. */
static void world(struct __test_metadata *_metadata, FIXTURE_DATA(trace) *self,
		  struct raw_target *t)
{
	unsigned int d = self->domain;
	int me = raw_gettid();
	struct upreempt_world w;

	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
	EXPECT_EQ(1, count(self, "upreempt_world_stop", "domain=%u by=%d grace_ns=0\n", d, me));
	EXPECT_EQ(1, count(self, "upreempt_world_thread", "domain=%u tid=%d how=%s reason=", d,
			   t->tid, w.landed ? "LANDED" : "PREEMPTED"));
	EXPECT_TRUE(raw_in_spin(number(self, "ip"))) {
		TH_LOG("%s", self->last);
	}
	EXPECT_GT(10000000000ULL, number(self, "ns"));
	EXPECT_EQ(1, count(self, "upreempt_world_stopped",
			   "domain=%u by=%d threads=1 landed=%u preempted=%u cooperated=0 blocked=0 "
			   "stragglers=0 slowest=%u ns=%llu\n", d, me, w.landed, w.preempted,
			   w.slowest.tid, w.final_ns - w.request_ns));
	EXPECT_EQ(0, count(self, "upreempt_world_start", ""));
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_EQ(1, count(self, "upreempt_world_start", "domain=%u by=%d ns=", d, me));
	EXPECT_LE(w.final_ns - w.request_ns, number(self, "ns"));
	EXPECT_GT(60000000000ULL, number(self, "ns"));
}

static void refuse(struct __test_metadata *_metadata, FIXTURE_DATA(trace) *self)
{
	EXPECT_EQ(-ESRCH, raw_post(&self->r, 7, UPREEMPT_STOP, 0, 0, NULL));
	EXPECT_EQ(1, count(self, "upreempt_refuse", "cmd=0x%x error=%d\n",
			   (unsigned int)UPREEMPT_IOC_REQUEST, -ESRCH));
}

/* A handler that goes on by the kernel */
RAW_HANDLER static void resume_by_ioctl(struct raw_landing_arg *arg, struct upreempt_regs *regs,
					uint64_t seq)
{
	struct raw_target *t = arg->user;
	struct upreempt_resume resume;
	long ret;

	resume.size = sizeof(resume);
	resume.slot = t->slot;
	resume.regs = *regs;
	/* a signal came in between: again */
	do {
		asm volatile("syscall" : "=a"(ret) : "0"(SYS_ioctl), "D"((long)t->raw->fd),
			     "S"(UPREEMPT_IOC_RESUME), "d"(&resume) : "rcx", "r11", "memory");
	} while (ret == -EINTR);
	t->result = ret;
}

static void resume(struct __test_metadata *_metadata, FIXTURE_DATA(trace) *self)
{
	unsigned int d = self->domain;
	struct upreempt_event e;
	struct raw_target t;

	raw_target_init(&t, &self->r, raw_body_spin, RAW_LANDING_CALL);
	t.handler = resume_by_ioctl;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(raw_target_moves(&t));
	ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_REDIRECT, 0, &e));
	EXPECT_TRUE(RAW_UNTIL(count(self, "upreempt_resume", "domain=%u tid=%d ip=0x%llx\n", d,
				    t.tid, e.regs.rip) == 1));
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(0, t.result);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

static void body_sequences(struct raw_target *t)
{
	raw_sequences(t->user);
}

static void range(struct __test_metadata *_metadata, FIXTURE_DATA(trace) *self)
{
	struct upreempt_range ranges[RAW_SEQ_RANGES];
	struct upreempt_code_add a = raw_seq_area(ranges);
	uint64_t end = raw_in(RAW_LONG_MS), ip, value;
	struct raw_counts c = { 0 };
	struct upreempt_event e;
	struct raw_target t;
	int n = 0;

	ASSERT_EQ(0, raw_code_add(&self->r, &a));
	raw_target_init(&t, &self->r, body_sequences, RAW_NO_LANDING);
	t.user = &c;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(RAW_UNTIL(c.turns > 0));
	while (!n && raw_now() < end) {
		for (int i = 0; i < 20; i++)
			ASSERT_EQ(UPREEMPT_LANDED, raw_try(&self->r, t.slot, UPREEMPT_SAMPLE,
						       UPREEMPT_REQ_SAFE, RAW_LONG_MS, &e));
		n = count(self, "upreempt_range", "domain=%u tid=%d class=RESTART ip=0x",
			  self->domain, t.tid);
	}
	EXPECT_LT(0, n);
	ip = number(self, "ip");
	value = number(self, "value");
	EXPECT_TRUE(raw_in_seq(ip)) {
		TH_LOG("%s", self->last);
	}
	EXPECT_TRUE(value == (uintptr_t)raw_seq_a || value == (uintptr_t)raw_seq_b ||
		    value == (uintptr_t)raw_seq_entry);
	EXPECT_LT(value, ip);
	c.stop = 1;
	EXPECT_EQ(0, raw_target_stop(&t));
}

/* Each event that the module has is one that was seen. */
static void none_is_left(struct __test_metadata *_metadata, FIXTURE_DATA(trace) *self)
{
	DIR *dir = opendir(RAW_TRACEFS "/events/upreempt");
	struct dirent *entry;
	int i, events = 0;

	ASSERT_NE(NULL, dir);
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, "upreempt_", 9))
			continue;
		events++;
		for (i = 0; i < self->nr_seen && strcmp(self->seen[i], entry->d_name); i++)
			;
		EXPECT_LT(i, self->nr_seen) {
			TH_LOG("%s was not seen", entry->d_name);
		}
	}
	closedir(dir);
	EXPECT_EQ(14, events);
	EXPECT_EQ(14, self->nr_seen);
}

TEST_F(trace, each_event)
{
	struct raw_target t;

	if (!self->traced)
		SKIP(return, "no tracefs at " RAW_TRACEFS);
	if (raw_cpus() < 2)
		SKIP(return, "one CPU: nobody gets an IPI");
	ASSERT_EQ(0, raw_on_other_cpu(&t, &self->r, raw_body_spin, RAW_LANDING));
	ASSERT_TRUE(raw_target_moves(&t));
	sample(_metadata, self, &t);
	defer(_metadata, self, &t);
	gate(_metadata, self, &t);
	world(_metadata, self, &t);
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
	refuse(_metadata, self);
	resume(_metadata, self);
	range(_metadata, self);
	none_is_left(_metadata, self);
}

RAW_TEST_MAIN
