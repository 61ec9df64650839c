// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves M17, M18, M20, M22, M31, U17: what the table says of a PC holds for every stop and
 * redirect; sequences are begun anew and never split; nothing is half installed.
 */
#include "kselftest_harness.h"
#include "../include/raw_table.h"

static uint64_t deferred(struct raw *r, uint32_t reason)
{
	struct upreempt_stats s;

	return raw_stats(r, UPREEMPT_ALL_SLOTS, &s) ? 0 : s.deferrals[reason];
}

/* ---- classes ---------------------------------------------------------------------------- */

TEST_F(table, classes)
{
	int elsewhere = variant->declared ? UPREEMPT_R_UNDECLARED : -100 - UPREEMPT_LANDED;
	struct upreempt_code_add a;
	struct upreempt_event e;
	struct raw_target t;
	uint64_t id;

	/* A STOP that landed is not released: the next ones land at once. */
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	EXPECT_EQ(elsewhere, raw_why(&self->r, t.slot, UPREEMPT_REDIRECT, 0));
	EXPECT_EQ(elsewhere, raw_why(&self->r, t.slot, UPREEMPT_SAMPLE, UPREEMPT_REQ_SAFE));
	EXPECT_EQ(UPREEMPT_LANDED, raw_try(&self->r, t.slot, UPREEMPT_SAMPLE, 0, RAW_LONG_MS, &e));

	id = raw_declare(&self->r, raw_spin, raw_spin_loop_end + 1, UPREEMPT_CODE_UNSAFE);
	ASSERT_NE(0, id);
	/* out of the landing, which nobody has declared */
	ASSERT_TRUE(raw_target_moves(&t));
	EXPECT_EQ(UPREEMPT_R_UNSAFE_RANGE, raw_why(&self->r, t.slot, UPREEMPT_STOP, 0));
	EXPECT_EQ(UPREEMPT_R_UNSAFE_RANGE, raw_why(&self->r, t.slot, UPREEMPT_REDIRECT, 0));
	EXPECT_EQ(UPREEMPT_R_UNSAFE_RANGE, raw_why(&self->r, t.slot, UPREEMPT_SAMPLE,
					       UPREEMPT_REQ_SAFE));
	EXPECT_EQ(UPREEMPT_LANDED, raw_try(&self->r, t.slot, UPREEMPT_SAMPLE, 0, RAW_LONG_MS, &e));
	EXPECT_TRUE(raw_target_moves(&t));
	EXPECT_NE(0, deferred(&self->r, UPREEMPT_R_UNSAFE_RANGE));

	a = raw_area(raw_spin, raw_spin_loop_end + 1, UPREEMPT_CODE_SAFE, NULL, 0);
	a.replace = id;
	ASSERT_EQ(0, raw_code_add(&self->r, &a));
	EXPECT_EQ(0, raw_lands(&self->r, t.slot, UPREEMPT_STOP));
	EXPECT_EQ(0, raw_lands(&self->r, t.slot, UPREEMPT_REDIRECT));
	EXPECT_EQ(UPREEMPT_LANDED, raw_try(&self->r, t.slot, UPREEMPT_SAMPLE, UPREEMPT_REQ_SAFE,
				       RAW_LONG_MS, &e));
	ASSERT_EQ(0, raw_code_remove(&self->r, id, NULL));
	EXPECT_EQ(elsewhere, raw_why(&self->r, t.slot, UPREEMPT_REDIRECT, 0));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

/* In a system call it is stopped whoever made that, unless the request says otherwise. */
TEST_F(table, callers)
{
	struct upreempt_event e;
	struct raw_target t;
	const char *caller;

	ASSERT_EQ(0, raw_reader(&t, &self->r, RAW_LANDING));
	ASSERT_EQ(UPREEMPT_BLOCKED, raw_try(&self->r, t.slot, UPREEMPT_STOP, 0, RAW_LONG_MS, &e));
	EXPECT_EQ(0, raw_release(&self->r, t.slot, e.seq));
	caller = (const char *)(uintptr_t)e.regs.rip;
	if (variant->declared) {
		EXPECT_EQ(UPREEMPT_R_UNDECLARED, raw_why(&self->r, t.slot, UPREEMPT_STOP,
						     UPREEMPT_REQ_DECLARED_CALLER));
		EXPECT_EQ(UPREEMPT_R_UNDECLARED, raw_why(&self->r, t.slot, UPREEMPT_REDIRECT,
						     UPREEMPT_REQ_DECLARED_CALLER |
						     UPREEMPT_REQ_OR_BLOCKED));
		EXPECT_EQ(UPREEMPT_R_UNDECLARED, raw_why(&self->r, t.slot, UPREEMPT_SAMPLE,
						     UPREEMPT_REQ_DECLARED_CALLER |
						     UPREEMPT_REQ_SAFE));
		EXPECT_EQ(UPREEMPT_BLOCKED, raw_try(&self->r, t.slot, UPREEMPT_SAMPLE,
						UPREEMPT_REQ_SAFE, RAW_LONG_MS, &e));
	}
	ASSERT_NE(0, raw_declare(&self->r, caller, caller + 1, UPREEMPT_CODE_SAFE));
	EXPECT_EQ(UPREEMPT_BLOCKED, raw_try(&self->r, t.slot, UPREEMPT_STOP,
					UPREEMPT_REQ_DECLARED_CALLER, RAW_LONG_MS, &e));
	EXPECT_EQ(0, raw_release(&self->r, t.slot, e.seq));
	EXPECT_EQ(-EINVAL, raw_try(&self->r, t.slot, UPREEMPT_STOP, UPREEMPT_REQ_SAFE, 1, &e));
	EXPECT_EQ(-EINVAL, raw_try(&self->r, t.slot, UPREEMPT_REDIRECT, UPREEMPT_REQ_SAFE, 1, &e));
	EXPECT_EQ(-EINVAL, raw_try(&self->r, t.slot, UPREEMPT_SAMPLE,
			       UPREEMPT_REQ_DECLARED_CALLER, 1, &e));
	EXPECT_EQ(0, raw_reader_stop(&t));
}

/* ---- RESTART --------------------------------------------------------------------------- */

static void body_sequences(struct raw_target *t)
{
	raw_sequences(t->user);
}

/* In the landing: what would be lost by a sequence that was split */
RAW_HANDLER static void add_one(struct raw_landing_arg *arg, struct upreempt_regs *regs,
				uint64_t seq)
{
	struct raw_target *t = arg->user;
	struct raw_counts *c = t->user;

	c->a++;
	c->b++;
	c->entry++;
	t->result++;
	t->wrong += raw_in_seq(regs->rip);
}

struct storm {
	uint64_t redirects, lost, wrong;
	struct upreempt_stats stats;
};

/* Redirects until so many restarts, but no longer than some seconds */
static int storm(struct raw *r, uint64_t restarts, uint64_t ms, struct storm *s)
{
	struct raw_counts c = { 0 };
	uint64_t end = raw_in(ms);
	struct upreempt_event e;
	struct raw_target t;
	int ret;

	memset(s, 0, sizeof(*s));
	raw_target_init(&t, r, body_sequences, RAW_LANDING_CALL);
	t.handler = add_one;
	t.user = &c;
	ret = raw_target_start(&t);
	if (ret)
		return ret;
	if (!RAW_UNTIL(c.turns > 0))
		return -ETIMEDOUT;
	while (!ret && raw_now() < end) {
		for (int i = 0; i < 256 && !ret; i++) {
			ret = raw_ask(r, t.slot, UPREEMPT_REDIRECT, 0, &e);
			if (!ret && e.outcome != UPREEMPT_LANDED)
				ret = -100 - e.outcome;
		}
		if (!ret)
			ret = raw_stats(r, t.slot, &s->stats);
		if (s->stats.restarts >= restarts)
			break;
	}
	c.stop = 1;
	if (!ret)
		ret = raw_target_stop(&t);
	s->redirects = t.result;
	s->wrong = t.wrong;
	s->lost = 3 * (c.turns + s->redirects) - (c.a + c.b + c.entry);
	return ret;
}

TEST_F_TIMEOUT(table, restart, 150)
{
	struct upreempt_range ranges[RAW_SEQ_RANGES];
	struct upreempt_code_add a = raw_seq_area(ranges);
	struct storm s;

	if (!variant->declared) {
		/* the control */
		ASSERT_EQ(0, storm(&self->r, 1, 2000, &s));
		EXPECT_NE(0, s.lost);
		EXPECT_NE(0, s.wrong);
		EXPECT_EQ(0, s.stats.restarts);
	}
	ASSERT_EQ(0, raw_code_add(&self->r, &a));
	ASSERT_EQ(0, storm(&self->r, raw_scale(500000), 45000, &s));
	EXPECT_EQ(0, s.lost);
	EXPECT_EQ(0, s.wrong);
	EXPECT_NE(0, s.stats.restarts);
	TH_LOG("%llu redirects, %llu restarts", (unsigned long long)s.redirects,
	       (unsigned long long)s.stats.restarts);
}

/* Each sequence goes back to its own start, seen by samples that are safe. */
TEST_F(table, restart_starts)
{
	struct upreempt_range ranges[RAW_SEQ_RANGES];
	struct upreempt_code_add a = raw_seq_area(ranges);
	uint64_t at_a = 0, at_b = 0, at_entry = 0, n = raw_scale(20000);
	struct raw_counts c = { 0 };
	struct upreempt_event e;
	struct raw_target t;

	ASSERT_EQ(0, raw_code_add(&self->r, &a));
	raw_target_init(&t, &self->r, body_sequences, RAW_NO_LANDING);
	t.user = &c;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(RAW_UNTIL(c.turns > 0));
	for (uint64_t i = 0; i < n; i++) {
		ASSERT_EQ(UPREEMPT_LANDED, raw_try(&self->r, t.slot, UPREEMPT_SAMPLE,
					       UPREEMPT_REQ_SAFE, RAW_LONG_MS, &e));
		ASSERT_FALSE(raw_in_seq(e.regs.rip));
		at_a += e.regs.rip == (uintptr_t)raw_seq_a;
		at_b += e.regs.rip == (uintptr_t)raw_seq_b;
		at_entry += e.regs.rip == (uintptr_t)raw_seq_entry;
	}
	EXPECT_NE(0, at_a);
	EXPECT_NE(0, at_b);
	EXPECT_NE(0, at_entry);
	c.stop = 1;
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(c.turns, c.a);
	EXPECT_EQ(c.turns, c.b);
	EXPECT_EQ(c.turns, c.entry);
}

/*
 * The world's stopper adds to what the sequences count; threads that share its CPU are found
 * switched out in the middle of one.
 */
static void world_storm(struct __test_metadata *_metadata, struct raw *r, bool table)
{
	struct upreempt_range ranges[RAW_SEQ_RANGES];
	struct upreempt_code_add a = raw_seq_area(ranges);
	uint64_t n = raw_scale(table ? 4000 : 2000), end = raw_in(25000), stops = 0, lost = 0;
	uint64_t inside = 0;
	struct raw_counts c[3] = { 0 };
	struct raw_target t[3];
	struct upreempt_world w;
	struct upreempt_event e;

	if (table)
		ASSERT_EQ(0, raw_code_add(r, &a));
	for (int i = 0; i < 3; i++) {
		raw_target_init(&t[i], r, body_sequences, RAW_NO_LANDING);
		t[i].user = &c[i];
		ASSERT_EQ(0, raw_target_start(&t[i]));
	}
	for (; stops < n && raw_now() < end; stops++) {
		ASSERT_EQ(0, raw_world_stop(r, 0, 0, RAW_LONG_MS, &w));
		ASSERT_EQ(0, w.stragglers);
		ASSERT_TRUE(raw_world_ok(&w));
		for (int i = 0; i < 3; i++) {
			c[i].a++;
			c[i].b++;
			c[i].entry++;
			if (stops % 16)
				continue;
			ASSERT_EQ(UPREEMPT_LANDED, raw_try(r, t[i].slot, UPREEMPT_SAMPLE, 0,
						       RAW_LONG_MS, &e));
			inside += raw_in_seq(e.regs.rip);
		}
		ASSERT_EQ(0, raw_world_start(r));
	}
	for (int i = 0; i < 3; i++) {
		c[i].stop = 1;
		EXPECT_EQ(0, raw_target_stop(&t[i]));
		lost += 3 * (c[i].turns + stops) - (c[i].a + c[i].b + c[i].entry);
	}
	if (table) {
		EXPECT_EQ(0, lost);
		EXPECT_EQ(0, inside);
	} else {
		EXPECT_NE(0, lost);
		EXPECT_NE(0, inside);
	}
}

TEST_F(table, restart_world)
{
	if (!variant->declared)
		world_storm(_metadata, &self->r, false);
	world_storm(_metadata, &self->r, true);
}

/* ---- POLL ------------------------------------------------------------------------------- */

/*
 * Two sequences that end in a test of rbx, and in a call through r12. Their ends come to POLL
 * by table_poll; eax: which one.
 */
struct poll_arg {
	uint64_t fd, slot;		/* used below */
	volatile uint64_t turns;
	volatile uint32_t stop;
	volatile uint32_t split;	/* rises and falls in the sequences */
	volatile uint64_t tested, called;
};

void poll_sequences(struct poll_arg *p);
extern const char poll_begin[], poll_test[], poll_test_end[], poll_call[], poll_call_end[],
	poll_end[], poll_nothing[], poll_come[];

asm(
"	.pushsection .text\n"
"poll_begin:\n"
"poll_sequences:\n"
"	push %rbx\n	push %r12\n	push %rbp\n"
"	mov %rdi, %rbp\n"
"2:	xor %ebx, %ebx\n"
"poll_test:\n"
"	incl 28(%rbp)\n"
"	jmp 1f\n1:	jmp 1f\n1:	jmp 1f\n1:\n"
"	decl 28(%rbp)\n"
"poll_test_end:\n"
"	test %ebx, %ebx\n"
"	jz 3f\n"
"	incq 32(%rbp)\n"
"	call poll_come\n"
"3:	lea poll_nothing(%rip), %r12\n"
"poll_call:\n"
"	incl 28(%rbp)\n"
"	jmp 1f\n1:	jmp 1f\n1:	jmp 1f\n1:\n"
"	decl 28(%rbp)\n"
"poll_call_end:\n"
"	call *%r12\n"
"	incq 16(%rbp)\n"
"	cmpl $0, 24(%rbp)\n"
"	je 2b\n"
"	pop %rbp\n	pop %r12\n	pop %rbx\n"
"	ret\n"
"poll_called:\n"
"	incq 40(%rbp)\n"
"poll_come:\n"
"	mov $16, %eax\n"		/* ioctl */
"	mov 0(%rbp), %rdi\n"
"	mov 8(%rbp), %rdx\n"
"	mov $0xb74e, %esi\n"		/* POLL */
"	syscall\n"
"poll_nothing:\n"
"	ret\n"
"poll_end:\n"
"	.popsection\n"
);
extern const char poll_called[];

_Static_assert(UPREEMPT_IOC_POLL == 0xb74e, "used by the assembly");
_Static_assert(offsetof(struct poll_arg, split) == 28, "used by the assembly");
_Static_assert(offsetof(struct poll_arg, called) == 40, "used by the assembly");

static void body_poll_sequences(struct raw_target *t)
{
	struct poll_arg *p = t->user;

	p->fd = t->raw->fd;
	p->slot = t->slot;
	poll_sequences(p);
}

/* Everything but the ends is unsafe: a stop can only come by the register. */
static int poll_declare(struct raw *r)
{
	struct upreempt_range ranges[2] = {
		{ .start = poll_test - poll_begin, .end = poll_test_end - poll_begin,
		  .cls = UPREEMPT_CODE_POLL, .reg = UPREEMPT_REG_RBX, .value = 1 },
		{ .start = poll_call - poll_begin, .end = poll_call_end - poll_begin,
		  .cls = UPREEMPT_CODE_POLL, .reg = UPREEMPT_REG_R12,
		  .value = (uintptr_t)poll_called },
	};
	struct upreempt_code_add a = raw_area(poll_begin, poll_end, UPREEMPT_CODE_UNSAFE, ranges,
					      2);

	return raw_code_add(r, &a);
}

/*
 * A thread that came to one stop, which was over before it could wait, stands where it must
 * not be stopped: the next stop must not find it asleep there.
 */
TEST_F(table, too_late_for_one_stop)
{
	struct poll_arg p = { 0 };
	struct upreempt_event e;
	struct upreempt_world w;
	struct raw_target t;

	RAW_NEED_INJECT(self->r.fd);
	ASSERT_EQ(0, poll_declare(&self->r));
	raw_target_init(&t, &self->r, body_poll_sequences, RAW_NO_LANDING);
	t.user = &p;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(RAW_UNTIL(p.turns > 0));
	for (int i = 0; i < 5; i++) {
		ASSERT_EQ(0, raw_param("inject_gate_delay_us", 100000));
		ASSERT_EQ(0, raw_param("inject_gate_wait_delay_us", 400000));
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		raw_sleep_us(250000);
		raw_params_reset();
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 3000, &w));
		ASSERT_EQ(0, w.stragglers);
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	p.stop = 1;
	EXPECT_EQ(0, raw_target_stop(&t));
}

TEST_F(table, poll)
{
	uint64_t n = raw_scale(3000), end = raw_in(40000), stops = 0, seen = 0, came = 0;
	struct poll_arg p = { 0 };
	struct upreempt_event e;
	struct upreempt_stats s;
	struct upreempt_world w;
	struct raw_target t;

	ASSERT_EQ(0, poll_declare(&self->r));
	raw_target_init(&t, &self->r, body_poll_sequences, RAW_NO_LANDING);
	t.user = &p;
	ASSERT_EQ(0, raw_target_start(&t));
	ASSERT_TRUE(RAW_UNTIL(p.turns > 0));
	/* under emulation it may take a while until both have been the one that it came by */
	for (; (stops < n || !p.tested || !p.called || !came) && raw_now() < end; stops++) {
		if (stops % 2) {
			ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, RAW_LONG_MS, &w));
			ASSERT_EQ(0, w.stragglers) {
				TH_LOG("reason %u, %u attempts, at +%#lx", w.late[0].reason,
				       w.late[0].attempts,
				       (long)(w.late[0].rip - (uintptr_t)poll_begin));
			}
			/* found switched out: it has not left the gate since the last stop */
			ASSERT_EQ(1, w.cooperated + w.blocked + w.preempted);
			ASSERT_EQ(0, p.split);
			ASSERT_EQ(0, raw_world_start(&self->r));
		} else {
			ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_STOP, 0, &e));
			/* maybe found in the ioctl that it came by, or still in the gate */
			ASSERT_NE(UPREEMPT_UNSAFE, e.outcome);
			ASSERT_EQ(0, p.split);
			ASSERT_EQ((uintptr_t)poll_nothing, e.regs.rip);
			came += e.outcome == UPREEMPT_COOPERATED;
			ASSERT_EQ(0, raw_release(&self->r, t.slot, e.seq));
		}
	}
	/* the control: samples that ask for no safe point are taken anywhere */
	for (int i = 0; i < 3000 && !seen; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, t.slot, UPREEMPT_SAMPLE, 0, &e));
		seen += raw_in_range(e.regs.rip, poll_test + 1, poll_test_end);
	}
	EXPECT_NE(0, seen);
	ASSERT_EQ(0, raw_stats(&self->r, t.slot, &s));
	EXPECT_NE(0, s.polls_set);
	EXPECT_NE(0, s.deferrals[UPREEMPT_R_POLL_SET]);
	p.stop = 1;
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_NE(0, p.tested);
	EXPECT_NE(0, p.called);
	EXPECT_NE(0, came);
	EXPECT_LE(came, p.tested + p.called);
	EXPECT_LE(p.tested + p.called, s.polls_set);
}

/* ---- changes ------------------------------------------------------------------------------ */

/* The old table holds until the world goes on, and a thread that is late has to it only. */
TEST_F(table, staged)
{
	uint32_t mine = UPREEMPT_CODE_UNSAFE, other = UPREEMPT_CODE_SAFE, staged;
	struct upreempt_code_add a;
	struct upreempt_world w;
	struct raw_target t;
	uint64_t id, second;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	id = raw_declare(&self->r, raw_spin, raw_spin_loop_end + 1, mine);
	ASSERT_NE(0, id);
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 100, &w));
	ASSERT_EQ(1, w.stragglers);
	EXPECT_TRUE(w.late[0].reason == UPREEMPT_R_UNSAFE_RANGE ||
		    w.late[0].reason == UPREEMPT_R_NOT_RUN);

	a = raw_area(raw_spin, raw_spin_loop_end + 1, other, NULL, 0);
	EXPECT_EQ(-EEXIST, raw_code_add(&self->r, &a));
	a.replace = id;
	ASSERT_EQ(0, raw_code_add(&self->r, &a));
	EXPECT_EQ(1, a.staged);
	EXPECT_EQ(id, a.id);
	/* what is staged builds on what was staged */
	a = raw_area(somewhere, somewhere + 16, other, NULL, 0);
	ASSERT_EQ(0, raw_code_add(&self->r, &a));
	EXPECT_EQ(1, a.staged);
	second = a.id;
	a.id = 0;
	EXPECT_EQ(-EEXIST, raw_code_add(&self->r, &a));
	EXPECT_EQ(0, raw_code_remove(&self->r, second, &staged));
	EXPECT_EQ(1, staged);
	EXPECT_EQ(-ENOENT, raw_code_remove(&self->r, second, &staged));
	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 100, &w));
	EXPECT_EQ(2, w.depth);
	EXPECT_EQ(1, w.stragglers) {
		TH_LOG("what was staged holds before the release");
	}
	EXPECT_EQ(UPREEMPT_R_UNSAFE_RANGE, raw_why(&self->r, t.slot, UPREEMPT_REDIRECT, 0));
	ASSERT_EQ(0, raw_world_start(&self->r));
	ASSERT_EQ(0, raw_world_start(&self->r));

	ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, RAW_LONG_MS, &w));
	EXPECT_EQ(0, w.stragglers);
	ASSERT_EQ(0, raw_world_start(&self->r));
	EXPECT_EQ(0, raw_lands(&self->r, t.slot, UPREEMPT_REDIRECT));
	a = raw_area(somewhere, somewhere + 16, other, NULL, 0);
	EXPECT_EQ(0, raw_code_add(&self->r, &a));
	EXPECT_EQ(0, a.staged);
	EXPECT_EQ(0, raw_target_stop(&t));
}

struct dying {
	struct raw *r;
	uint64_t id;
	bool registered;
	int ret;
};

static void *stage_and_die(void *arg)
{
	struct dying *d = arg;
	struct upreempt_code_add a = raw_area(raw_spin, raw_spin_loop_end + 1, UPREEMPT_CODE_SAFE,
					      NULL, 0);
	struct upreempt_world w;

	d->ret = d->registered ? raw_register(d->r) : 0;
	if (d->ret < 0)
		return NULL;
	d->ret = raw_world_stop(d->r, 0, 0, 100, &w);
	a.replace = d->id;
	if (!d->ret)
		d->ret = raw_code_add(d->r, &a) ?: !a.staged;
	return NULL;
}

/* Whoever ends the stop publishes: also a stopper that dies, registered or not. */
TEST_F(table, staged_by_one_who_dies)
{
	struct raw_target t;
	pthread_t thread;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	for (int i = 0; i < 2; i++) {
		struct dying d = { .r = &self->r, .registered = i };

		d.id = raw_declare(&self->r, raw_spin, raw_spin_loop_end + 1, UPREEMPT_CODE_UNSAFE);
		ASSERT_NE(0, d.id);
		ASSERT_EQ(0, pthread_create(&thread, NULL, stage_and_die, &d));
		pthread_join(thread, NULL);
		EXPECT_EQ(0, d.ret);
		EXPECT_EQ(0, raw_lands(&self->r, t.slot, UPREEMPT_REDIRECT));
		EXPECT_EQ(0, raw_code_remove(&self->r, d.id, NULL));
	}
	/* the file is closed with a table staged: nothing leaks, says the kernel's log */
	{
		struct dying d = { .r = &self->r };

		d.id = raw_declare(&self->r, raw_spin, raw_spin_loop_end + 1, UPREEMPT_CODE_UNSAFE);
		EXPECT_EQ(0, raw_target_stop(&t));
		stage_and_die(&d);
		EXPECT_EQ(0, d.ret);
	}
}

static void *swap_tables(void *arg)
{
	struct raw_target *t = arg;
	struct upreempt_range r[2] = {
		{ .start = 1, .end = 3, .cls = UPREEMPT_CODE_SAFE },
		{ .start = 3, .end = 4, .cls = UPREEMPT_CODE_SAFE },
	};
	struct upreempt_code_add a = raw_area(raw_spin, raw_spin_loop_end + 1, UPREEMPT_CODE_SAFE,
					      r, 2);

	a.replace = (uintptr_t)t->user;
	while (!t->stop && !t->result) {
		a.count = t->count++ % 3;
		t->result = raw_code_add(t->raw, &a);
	}
	return NULL;
}

/* Threads that are asked all the time never find their code undeclared. */
TEST_F(table, swap)
{
	uint64_t n = raw_scale(20000), end = raw_in(20000);
	struct raw_target t, swap = { .raw = &self->r };
	struct upreempt_world w;
	pthread_t thread;

	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	swap.user = (void *)raw_declare(&self->r, raw_spin, raw_spin_loop_end + 1,
					UPREEMPT_CODE_SAFE);
	ASSERT_NE(NULL, swap.user);
	ASSERT_NE(0, raw_declare(&self->r, raw_landing, raw_landing_end, UPREEMPT_CODE_SAFE));
	ASSERT_EQ(0, pthread_create(&thread, NULL, swap_tables, &swap));
	for (uint64_t i = 0; i < n && raw_now() < end; i++) {
		ASSERT_EQ(0, raw_lands(&self->r, t.slot,
				       i & 1 ? UPREEMPT_STOP : UPREEMPT_REDIRECT));
		if (i % 64)
			continue;
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, RAW_LONG_MS, &w));
		ASSERT_EQ(0, w.stragglers);
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	swap.stop = 1;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, swap.result);
	EXPECT_LT(10, swap.count);
	EXPECT_EQ(0, deferred(&self->r, UPREEMPT_R_UNDECLARED));
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

RAW_TEST_MAIN
