// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Threads that leave while they are asked: they exit, unregister, are cancelled,
 * fork. Every request ends, as GONE where the thread was faster, and nothing is
 * left over for the next thread in that slot. Proves M12, U7 (in small), U8, U10,
 * P4, P17 (goals G4, G5, G19).
 */
#include "kselftest_harness.h"
#include "ut.h"
#include <sys/ioctl.h>
#include <sys/wait.h>

static volatile uint64_t runs;

static void handler(struct upreempt_context *ctx, void *arg)
{
	(void)ctx;
	(void)arg;
	__atomic_fetch_add(&runs, 1, __ATOMIC_RELAXED);
}

FIXTURE(leave) {
	struct upreempt_domain *domain;
};

FIXTURE_SETUP(leave)
{
	self->domain = ut_open(16, 4096);
	ASSERT_NE(NULL, self->domain);
}

FIXTURE_TEARDOWN(leave)
{
	upreempt_domain_close(self->domain);
}

enum how { BY_RETURN, BY_UNREGISTER, BY_PTHREAD_EXIT, BY_CANCEL, NR_HOW };

struct leaver {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	enum how how;
	volatile int ready, quit;
	volatile uint64_t count;
	int error;
};

static void *leaver_main(void *arg)
{
	struct leaver *l = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);

	pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, NULL);
	l->error = upreempt_thread_register(l->domain, &o, &l->thread);
	__atomic_store_n(&l->ready, 1, __ATOMIC_RELEASE);
	if (l->error)
		return NULL;
	ut_spin(&l->count, &l->quit);
	switch (l->how) {
	case BY_UNREGISTER:
		l->error = upreempt_thread_unregister(l->thread);
		break;
	case BY_PTHREAD_EXIT:
		pthread_exit(NULL);
	case BY_CANCEL:
		pthread_cancel(pthread_self());
		pthread_testcancel();
		break;
	default:
		break;
	}
	return NULL;
}

struct asker {
	struct leaver *leaver;
	enum upreempt_kind kind;
	volatile int quit;
	uint64_t landed, gone, other, asked;
};

/* Asks until the thread is gone; the handle may be asked a little longer than it lives */
static void *asker_main(void *arg)
{
	struct asker *a = arg;
	struct upreempt_event ev;

	while (!a->quit) {
		int err = ut_request(a->leaver->thread, a->kind, &ev);

		a->asked++;
		if (err == -ESRCH || (!err && ev.outcome == UPREEMPT_GONE)) {
			a->gone++;
			break;
		}
		if (err || (ev.outcome != UPREEMPT_LANDED && ev.outcome != UPREEMPT_BLOCKED &&
			    ev.outcome != UPREEMPT_COOPERATED)) {
			printf("# %d %s %s\n", err, upreempt_outcome_name(ev.outcome),
			       upreempt_reason_name(ev.reason));
			a->other++;
			break;
		}
		a->landed++;
		if (a->kind == UPREEMPT_STOP && upreempt_release(a->leaver->thread, ev.seq) &&
		    ++a->other)
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(leave, under_requests, 200)
{
	uint64_t n = ut_scale(3000), landed = 0, gone = 0, redirected = 0;
	UT_FOR(i, n, 20) {
		struct leaver l = { .domain = self->domain, .how = i % NR_HOW };
		struct asker a = { .leaver = &l, .kind = 1 + i % 3 };
		pthread_t lt, at;
		struct timespec ts;

		ASSERT_EQ(0, pthread_create(&lt, NULL, leaver_main, &l));
		ASSERT_TRUE(UT_UNTIL(__atomic_load_n(&l.ready, __ATOMIC_ACQUIRE)));
		ASSERT_EQ(0, l.error);
		ASSERT_EQ(0, pthread_create(&at, NULL, asker_main, &a));
		while (!a.asked)
			sched_yield();
		l.quit = 1;
		clock_gettime(CLOCK_REALTIME, &ts);
		ts.tv_sec += 30;
		ASSERT_EQ(0, pthread_timedjoin_np(lt, NULL, &ts));
		ASSERT_EQ(0, l.error);
		ASSERT_EQ(0, pthread_timedjoin_np(at, NULL, &ts));
		ASSERT_EQ(0, a.other);
		ASSERT_EQ(1, a.gone);
		landed += a.landed;
		redirected += a.kind == UPREEMPT_REDIRECT ? a.landed : 0;
		gone += a.gone;
	}
	/* a redirect that landed ran its handler, also when it was the thread's last deed */
	EXPECT_EQ(redirected, runs);
	printf("# %llu threads left, %llu requests before that\n", (unsigned long long)gone,
	       (unsigned long long)landed);
}

/* What waits for a thread in a region ends GONE when it exits there */
TEST_F_TIMEOUT(leave, outstanding_requests_end, 60)
{
	struct upreempt_header *header = upreempt_domain_header(self->domain);
	struct ut_spinner s = { .domain = self->domain, .handler = handler, .disabled = true };
	const struct upreempt_event *ev;
	uint64_t seq[6];

	ASSERT_EQ(0, ut_spinner_start(&s));
	for (int i = 0; i < 6; i++) {
		UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_STOP + i % 2,
			      .flags = UPREEMPT_REQ_RING, .cookie = i);

		ASSERT_EQ(0, upreempt_post(s.thread, &o, &seq[i]));
	}
	upreempt_thread_set_enabled(s.thread, false);	/* no new ones from here on */
	for (int i = 0; i < 6; i += 2)			/* the stops would hold it for ever */
		ASSERT_EQ(0, upreempt_cancel(s.thread, seq[i]));
	EXPECT_EQ(0, ut_spinner_stop(&s));
	for (int i = 0; i < 6; i++) {
		ASSERT_TRUE(UT_UNTIL((ev = upreempt_ring_peek(header))));
		if (ev->kind == UPREEMPT_STOP) {
			EXPECT_EQ(UPREEMPT_CANCELLED, ev->outcome);
		} else {
			EXPECT_TRUE(ev->outcome == UPREEMPT_GONE || ev->outcome == UPREEMPT_LANDED ||
				    ev->outcome == UPREEMPT_COOPERATED);
		}
		upreempt_ring_consume(header);
	}
	EXPECT_EQ(NULL, upreempt_ring_peek(header));
}

static void *raw_exit_main(void *arg)
{
	struct leaver *l = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);

	l->error = upreempt_thread_register(l->domain, &o, &l->thread);
	__atomic_store_n(&l->ready, 1, __ATOMIC_RELEASE);
	if (!l->error)
		ut_spin(&l->count, &l->quit);
	_exit(42);
}

/* The whole process goes while a thread is held and others are asked */
/* Exits without the library's knowledge: its handle looks alive */
static void *dies(void *arg)
{
	struct ut_spinner *s = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);

	s->error = upreempt_thread_register(s->domain, &o, &s->thread);
	if (!s->error)
		syscall(SYS_exit, 0);
	return NULL;
}

/* Takes the slot behind the library's back, which else sees that the handle is out of date */
static void *takes_slot(void *arg)
{
	struct ut_spinner *s = arg;
	struct upreempt_register reg = { .size = sizeof(reg) };

	reg.slot = upreempt_thread_slot(s->thread);
	if (ioctl(upreempt_domain_fd(s->domain), UPREEMPT_IOC_REGISTER, &reg))
		s->error = -errno;
	s->ready = 1;
	if (!s->error)
		ut_spin(&s->count, &s->quit);
	return NULL;
}

/* A request to a thread that has left is not answered by the next one in its slot */
TEST_F_TIMEOUT(leave, slot_of_another_thread, 60)
{
	struct upreempt_header *header = upreempt_domain_header(self->domain);
	struct ut_spinner gone = { .domain = self->domain }, next;
	struct upreempt_slot *slot;
	struct upreempt_event ev;
	struct upreempt_stats st;
	uint64_t seq;

	ASSERT_EQ(0, pthread_create(&gone.pthread, NULL, dies, &gone));
	ASSERT_EQ(0, pthread_join(gone.pthread, NULL));
	ASSERT_EQ(0, gone.error);
	if (!ut_is_kmod(self->domain)) {
		/* the slot is never another one's: nobody gave it back */
		ASSERT_EQ(0, ut_request(gone.thread, UPREEMPT_REDIRECT, &ev));
		EXPECT_EQ(UPREEMPT_GONE, ev.outcome);
		return;
	}
	/* it is joined a moment before the scheduler has done with it */
	slot = (void *)((char *)header + header->slots_off +
			upreempt_thread_slot(gone.thread) * header->slot_size);
	ASSERT_TRUE(UT_UNTIL(!__atomic_load_n(&slot->tid, __ATOMIC_ACQUIRE)));
	next = gone;
	ASSERT_EQ(0, pthread_create(&next.pthread, NULL, takes_slot, &next));
	ASSERT_TRUE(UT_UNTIL(next.ready));
	ASSERT_EQ(0, next.error);
	ASSERT_TRUE(ut_moves(&next));
	for (int kind = UPREEMPT_SAMPLE; kind < UPREEMPT_KIND_MAX; kind++) {
		EXPECT_EQ(-ESRCH, ut_request(gone.thread, kind, &ev));
		EXPECT_EQ(-ESRCH, ut_post(gone.thread, kind, &seq));
	}
	ASSERT_EQ(0, upreempt_domain_stats(self->domain, &st));
	EXPECT_EQ(0, st.kinds[UPREEMPT_SAMPLE] + st.kinds[UPREEMPT_STOP] +
		     st.kinds[UPREEMPT_REDIRECT]);
	EXPECT_TRUE(ut_moves(&next));
	next.quit = 1;
	EXPECT_EQ(0, pthread_join(next.pthread, NULL));
}

TEST_F_TIMEOUT(leave, process_exit, 120)
{
	uint64_t n = ut_scale(300);

	UT_FOR(i, n, 10) {
		pid_t pid = fork();
		int status;

		ASSERT_LE(0, pid);
		if (!pid) {
			struct upreempt_domain *d = ut_open(4, 64);
			struct leaver l = { .domain = d };
			struct ut_spinner held = { .domain = d, .handler = handler };
			struct asker a = { .leaver = &l, .kind = UPREEMPT_REDIRECT };
			struct upreempt_event ev;
			pthread_t lt, at;

			alarm(60);
			if (!d || ut_spinner_start(&held) ||
			    ut_request(held.thread, UPREEMPT_STOP, &ev) ||
			    pthread_create(&lt, NULL, raw_exit_main, &l) ||
			    !UT_UNTIL(l.ready) || l.error ||
			    pthread_create(&at, NULL, asker_main, &a))
				_exit(1);
			l.quit = 1;
			pthread_join(lt, NULL);
			_exit(2);
		}
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		ASSERT_EQ(42 << 8, status);
	}
}

/* A child of fork() has no registration, and whatever it does stays its own affair */
struct forker {
	struct upreempt_domain *domain;
	struct upreempt_thread *thread;
	volatile int ready, done;
	uint64_t n, forks, wrong;
};

static void *forker_main(void *arg)
{
	struct forker *f = arg;
	UPREEMPT_OPTS(upreempt_thread_opts, o, .handler = handler);
	int status;

	if (upreempt_thread_register(f->domain, &o, &f->thread)) {
		f->wrong = 1;
		f->n = 0;
	}
	f->ready = 1;
	UT_FOR(i, f->n, 10) {
		pid_t pid = fork();

		if (!pid) {
			struct upreempt_event ev;

			alarm(30);
			/* none of it is this process's: refused, not hung and not done */
			if (!ut_request(f->thread, UPREEMPT_REDIRECT, &ev) &&
			    ev.outcome == UPREEMPT_LANDED)
				_exit(1);
			upreempt_disable();
			upreempt_enable();
			_exit(7);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 7 << 8) {
			printf("# fork: %d, status %#x\n", pid, status);
			f->wrong++;
			break;
		}
		f->forks++;
	}
	f->done = 1;
	while (f->done != 2)
		;
	upreempt_thread_unregister(f->thread);
	return NULL;
}

TEST_F_TIMEOUT(leave, fork_under_requests, 120)
{
	struct forker f = { .domain = self->domain, .n = ut_scale(1000) };
	uint64_t landed = 0, other = 0;
	struct upreempt_event ev;
	pthread_t t;

	ASSERT_EQ(0, pthread_create(&t, NULL, forker_main, &f));
	ASSERT_TRUE(UT_UNTIL(f.ready));
	while (!f.done) {
		ASSERT_EQ(0, ut_request(f.thread, UPREEMPT_REDIRECT, &ev));
		if (ev.outcome == UPREEMPT_LANDED || ev.outcome == UPREEMPT_COOPERATED)
			landed++;
		else if (!f.done)
			other++;
		if (!ut_is_kmod(self->domain))
			ut_sleep(UT_MS / 2);	/* signals make fork() start anew: see U7 */
	}
	f.done = 2;
	ASSERT_EQ(0, pthread_join(t, NULL));
	EXPECT_EQ(0, f.wrong);
	EXPECT_EQ(0, other);
	EXPECT_EQ(landed, runs);
	printf("# %llu forks, %llu redirects\n", (unsigned long long)f.forks,
	       (unsigned long long)landed);
}

/* The child opens a domain of its own and uses it at once */
TEST_F_TIMEOUT(leave, child_has_its_own_domain, 60)
{
	struct ut_spinner s = { .domain = self->domain, .handler = handler };
	struct upreempt_event ev;
	int status;
	pid_t pid;

	ASSERT_EQ(0, ut_spinner_start(&s));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct ut_spinner mine = { .handler = handler };

		alarm(30);
		mine.domain = ut_open(4, 64);
		if (!mine.domain || ut_spinner_start(&mine))
			_exit(1);
		if (ut_request(mine.thread, UPREEMPT_REDIRECT, &ev) ||
		    ev.outcome != UPREEMPT_LANDED)
			_exit(2);
		if (ut_spinner_stop(&mine))
			_exit(3);
		upreempt_domain_close(mine.domain);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	ASSERT_EQ(0, ut_request(s.thread, UPREEMPT_REDIRECT, &ev));
	EXPECT_EQ(UPREEMPT_LANDED, ev.outcome);
	EXPECT_EQ(0, ut_spinner_stop(&s));
}

/* Closing a domain lets go whom it held and ends what was asked */
TEST(close_releases)
{
	struct upreempt_domain *domain = ut_open(4, 64);
	struct ut_spinner s = { .domain = domain, .handler = handler };
	struct upreempt_event ev;
	uint64_t before;

	ASSERT_NE(NULL, domain);
	ASSERT_EQ(0, ut_spinner_start(&s));
	ASSERT_EQ(0, ut_request(s.thread, UPREEMPT_STOP, &ev));
	ASSERT_EQ(UPREEMPT_LANDED, ev.outcome);
	before = s.count;
	upreempt_domain_close(domain);
	EXPECT_TRUE(UT_UNTIL(s.count != before));
	s.quit = 1;
	EXPECT_EQ(0, pthread_join(s.pthread, NULL));
}

TEST_HARNESS_MAIN
