// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The signal backend: stopping the world.
 *
 * The stopper makes the epoch odd, marks every thread ASKED and sends it the signal; the
 * thread stands in its handler until the epoch is even again. What is held by a STOP
 * already is woken by its word and stands where it is. So a stop costs a signal for each
 * thread, also for one in a system call, which is interrupted (restarted, or EINTR):
 * report.blocked and report.preempted stay 0, and report.ipis counts signals.
 *
 * A thread that registers meanwhile sees the odd epoch when it is linked, or is linked
 * before the stopper walks the list: upreempt_thread_register() ends with a poll.
 *
 * Nobody stands who holds domain->lock, as it is taken with upreempt_disable(). The stop
 * allocates nothing: a thread may stand in malloc().
 */
#include "backend_signal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS		10000000	/* how often we look whether the missing are alive */

/* The domains whose worlds this thread has stopped: they go on when it exits. */
static __thread struct upreempt_domain *stopped __attribute__((tls_model("initial-exec")));
static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;
static int exit_error;

static uint32_t own_tid(void)
{
	return upreempt_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

static uint32_t state_of(const struct upreempt_thread *t)
{
	return __atomic_load_n(&t->sig->world.state, __ATOMIC_SEQ_CST);
}

static bool move(struct upreempt_thread *t, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n(&t->sig->world.state, &from, to, false,
					   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* ---- the thread that is stopped ------------------------------------------ */

bool sig_world_owned_by(const struct upreempt_thread *t)
{
	return __atomic_load_n(&t->domain->sig->world.owner, __ATOMIC_SEQ_CST) ==
	       (uint32_t)t->tid;
}

bool sig_world_wants(const struct upreempt_thread *t)
{
	return __atomic_load_n(&t->domain->sig->world.epoch, __ATOMIC_SEQ_CST) & 1 &&
	       !sig_world_owned_by(t);
}

/* It is no longer ASKED, by the caller's doing: nobody waits for it. */
static void count_off(struct upreempt_thread *t)
{
	struct sig_world *w = &t->domain->sig->world;

	__atomic_sub_fetch(&t->slot->pending, 1, __ATOMIC_SEQ_CST);
	if (!__atomic_sub_fetch(&w->missing, 1, __ATOMIC_SEQ_CST))
		up_futex_wake(&w->missing, 1);
}

static void stand(struct upreempt_thread *t, uint64_t rip, bool coop)
{
	struct sig_standing *s = &t->sig->world;

	if (!move(t, SW_ASKED, SW_STANDING))
		return;
	s->outcome = coop ? UPREEMPT_COOPERATED : UPREEMPT_LANDED;
	s->rip = rip;
	s->ns = upreempt_now() - t->domain->sig->world.request_ns;
	/* The stopper waits for STOOD, so this is counted in the stop that asked. */
	count_off(t);
	__atomic_store_n(&s->state, SW_STOOD, __ATOMIC_SEQ_CST);
}

static bool refuse(struct upreempt_thread *t, uint32_t reason, uint64_t rip)
{
	struct sig_standing *s = &t->sig->world;

	if (reason == UPREEMPT_R_GRACE) {
		__atomic_store_n(&t->slot->poll, 1, __ATOMIC_SEQ_CST);
	} else {
		__atomic_add_fetch(&s->attempts, 1, __ATOMIC_RELAXED);
		SIG_COUNT(t, deferrals[reason]);
	}
	__atomic_store_n(&s->rip, rip, __ATOMIC_RELAXED);
	__atomic_store_n(&s->reason, reason, __ATOMIC_RELEASE);
	return false;
}

bool sig_world_holds(struct upreempt_thread *t, ucontext_t *uc, struct upreempt_regs *regs)
{
	bool coop = t->sig->coop;
	uint32_t reason;

	if (!sig_world_wants(t) || state_of(t) == SW_AWAY)
		return false;
	/* A thread that a STOP holds, or that was held by the last stop, stands already. */
	if (!t->sig->parked) {
		if (t->slot->nopreempt && !t->sig->waits_turn)
			return refuse(t, UPREEMPT_R_DISABLED, regs->rip);
		if (!coop && !__atomic_load_n(&t->domain->sig->world.forced, __ATOMIC_SEQ_CST))
			return refuse(t, UPREEMPT_R_GRACE, regs->rip);
		/* Last: it may be set back to the start of a sequence. */
		reason = coop || t->sig->waits_turn || sig_at_syscall(regs) ? 0 :
			 sig_enforce_code(t, uc, regs);
		if (reason)
			return refuse(t, reason, regs->rip);
	}
	stand(t, regs->rip, coop);
	return true;
}

bool sig_world_refused(const struct upreempt_thread *t)
{
	uint32_t reason = __atomic_load_n(&t->sig->world.reason, __ATOMIC_RELAXED);

	return state_of(t) == SW_ASKED &&
	       (reason == UPREEMPT_R_UNDECLARED || reason == UPREEMPT_R_UNSAFE_RANGE ||
		reason == UPREEMPT_R_POLL_SET);
}

void sig_world_leave(struct upreempt_thread *t)
{
	if (move(t, SW_ASKED, SW_AWAY)) {
		__atomic_add_fetch(&t->domain->sig->world.gone, 1, __ATOMIC_SEQ_CST);
		count_off(t);
	}
	__atomic_store_n(&t->sig->world.state, SW_AWAY, __ATOMIC_SEQ_CST);
}

/* ---- becoming the stopper ------------------------------------------------- */

static void link_stopped(struct upreempt_domain *d)
{
	d->sig->world.next = stopped;
	stopped = d;
	__atomic_add_fetch(&d->refs, 1, __ATOMIC_RELAXED);
}

static void unlink_stopped(struct upreempt_domain *d)
{
	struct upreempt_domain **at = &stopped;

	while (*at && *at != d)
		at = &(*at)->sig->world.next;
	if (!*at)
		return;
	*at = d->sig->world.next;
	upreempt_domain_put(d);
}

static void at_thread_exit(void *unused)
{
	struct upreempt_domain *d;

	(void)unused;
	while ((d = stopped)) {
		if (upreempt_is_stopper(d))
			__atomic_store_n(&d->stopper, 0, __ATOMIC_RELAXED);
		d->sig->world.depth = 1;
		/* Somebody closed the domain: there is no world any more. */
		if (sig_world_start(d))
			unlink_stopped(d);
	}
}

static void make_key(void)
{
	exit_error = -pthread_key_create(&exit_key, at_thread_exit);
}

/* This may allocate: before anybody is stopped. */
static int notice_exit(void)
{
	pthread_once(&exit_once, make_key);
	return exit_error ? exit_error : -pthread_setspecific(exit_key, &exit_key);
}

/*
 * Another one has stopped the world, or is about to. As in any system call we are held
 * here also when we must not be stopped: he may wait for us.
 */
static void wait_turn(struct sig_world *w, uint32_t owner, struct upreempt_thread *self,
		      uint64_t deadline_ns)
{
	if (self) {
		__atomic_store_n(&self->sig->waits_turn, true, __ATOMIC_SEQ_CST);
		if (sig_world_wants(self))
			upreempt_check();
	}
	up_futex_wait(&w->owner, owner, deadline_ns);
	if (self)
		__atomic_store_n(&self->sig->waits_turn, false, __ATOMIC_SEQ_CST);
}

/* 0, 1: the caller is it already, -errno */
static int take_world(struct upreempt_domain *d, struct upreempt_thread *self, uint32_t flags,
		      uint64_t deadline_ns)
{
	struct sig_world *w = &d->sig->world;
	uint32_t owner, me = own_tid();

	for (;;) {
		owner = 0;
		/* A STOP finds one who may not be stopped, and then the stopper. */
		upreempt_disable();
		__atomic_compare_exchange_n(&w->owner, &owner, me, false, __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST);
		upreempt_enable();
		if (!owner || owner == me)
			return !!owner;
		if (flags & UPREEMPT_WORLD_TRY)
			return -EAGAIN;
		if (deadline_ns && upreempt_now() >= deadline_ns)
			return -ETIMEDOUT;
		wait_turn(w, owner, self, deadline_ns);
	}
}

/* ---- the stopper ------------------------------------------------------------ */

static void ask(struct upreempt_domain *d, struct upreempt_thread *t)
{
	struct sig_world *w = &d->sig->world;

	if (!w->forced) {
		__atomic_store_n(&t->slot->poll, 1, __ATOMIC_SEQ_CST);
		sig_nudge(t);
		return;
	}
	w->ipis++;
	if (sig_kick(t) == -ESRCH)
		sig_world_leave(t);
}

static void ask_all(struct upreempt_domain *d, const struct upreempt_thread *self)
{
	struct sig_world *w = &d->sig->world;
	struct upreempt_thread *t;

	up_lock(&d->lock);
	w->missing = 0;
	w->gone = 0;
	for (t = d->live; t; t = t->next) {
		struct sig_standing *s = &t->sig->world;

		if (t == self || state_of(t) == SW_AWAY)
			continue;
		s->reason = w->forced ? UPREEMPT_R_NOT_RUN : UPREEMPT_R_GRACE;
		s->attempts = 0;
		s->rip = 0;
		__atomic_add_fetch(&w->missing, 1, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&t->slot->pending, 1, __ATOMIC_SEQ_CST);
		__atomic_store_n(&s->state, SW_ASKED, __ATOMIC_SEQ_CST);
		ask(d, t);
	}
	up_unlock(&d->lock);
	w->sent_ns = upreempt_now();
}

/* The grace is over; or: do those who are missing live? */
static void ask_again(struct upreempt_domain *d, bool force)
{
	struct sig_world *w = &d->sig->world;
	struct upreempt_thread *t;

	if (force)
		__atomic_store_n(&w->forced, 1, __ATOMIC_SEQ_CST);
	up_lock(&d->lock);
	for (t = d->live; t; t = t->next) {
		if (state_of(t) != SW_ASKED)
			continue;
		if (force)
			ask(d, t);
		else if (upreempt_syscall(SYS_tgkill, t->pid, t->tid, 0, 0, 0, 0) == -ESRCH)
			sig_world_leave(t);
	}
	up_unlock(&d->lock);
	if (force)
		w->sent_ns = upreempt_now();
}

static void begin(struct upreempt_domain *d, const struct upreempt_thread *self, uint64_t grace_ns)
{
	struct sig_world *w = &d->sig->world;

	link_stopped(d);
	w->depth = 0;
	w->ipis = 0;
	w->request_ns = upreempt_now();
	w->grace_end_ns = grace_ns > UINT64_MAX - w->request_ns ? UINT64_MAX :
			  w->request_ns + grace_ns;
	__atomic_store_n(&w->forced, !grace_ns, __ATOMIC_SEQ_CST);
	/* Under the lock: a table of code is published before, or staged. */
	up_lock(&d->lock);
	__atomic_add_fetch(&w->epoch, 1, __ATOMIC_SEQ_CST);
	up_unlock(&d->lock);
	d->sig->stats.world_stops++;
	ask_all(d, self);
}

/* Until nobody is missing, or the deadline */
static void await(struct upreempt_domain *d, uint64_t deadline_ns)
{
	struct sig_world *w = &d->sig->world;
	uint64_t now, until;
	uint32_t missing;

	while ((missing = __atomic_load_n(&w->missing, __ATOMIC_SEQ_CST))) {
		now = upreempt_now();
		if (deadline_ns && now >= deadline_ns)
			return;
		if (!w->forced && now >= w->grace_end_ns) {
			ask_again(d, true);
			continue;
		}
		until = now + LOOK_NS;
		if (deadline_ns && deadline_ns < until)
			until = deadline_ns;
		if (!w->forced && w->grace_end_ns < until)
			until = w->grace_end_ns;
		if (up_futex_wait(&w->missing, missing, until) == -ETIMEDOUT)
			ask_again(d, false);
	}
}

/* Not long: the thread is in its handler, but it may have lost its CPU. */
static uint32_t settled(const struct upreempt_thread *t)
{
	uint32_t state;

	while ((state = state_of(t)) == SW_STANDING)
		upreempt_syscall(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	return state;
}

static void describe(const struct upreempt_thread *t, bool late, uint64_t now,
		     struct upreempt_world_thread *to)
{
	const struct sig_standing *s = &t->sig->world;
	char path[64];
	ssize_t n;
	int fd;

	to->slot = t->index;
	to->tid = t->tid;
	to->outcome = late ? UPREEMPT_PENDING : s->outcome;
	to->reason = __atomic_load_n(&s->reason, __ATOMIC_ACQUIRE);
	to->attempts = __atomic_load_n(&s->attempts, __ATOMIC_RELAXED);
	/* Nobody refused it: it was not run, or not reached. */
	if (!late && !to->attempts)
		to->reason = UPREEMPT_R_NONE;
	to->rip = __atomic_load_n(&s->rip, __ATOMIC_RELAXED);
	to->ns = late ? now - t->domain->sig->world.request_ns : s->ns;
	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", t->tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, to->comm, sizeof(to->comm) - 1);
	if (fd >= 0)
		close(fd);
	to->comm[n > 0 && to->comm[n - 1] == '\n' ? n - 1 : n > 0 ? n : 0] = 0;
}

/* How many threads the process has: one link of the folder for each, and two of its own */
static uint32_t count_threads(void)
{
	struct stat st;

	return stat("/proc/self/task", &st) || st.st_nlink < 2 ? 0 : st.st_nlink - 2;
}

static void report(struct upreempt_domain *d, const struct upreempt_thread *self,
		   struct upreempt_world *r)
{
	const struct upreempt_thread *t, *slowest = NULL;
	struct sig_world *w = &d->sig->world;
	uint64_t now = upreempt_now(), first = UINT64_MAX, last = 0;
	uint32_t registered = !self, all;

	up_lock(&d->lock);
	for (t = d->live; t; t = t->next) {
		uint32_t state = settled(t);
		uint64_t ns = t->sig->world.ns;

		registered += state != SW_AWAY;
		if (state == SW_ASKED && r->stragglers++ < UPREEMPT_WORLD_LATE)
			describe(t, true, now, &r->late[r->stragglers - 1]);
		if (state != SW_STOOD)
			continue;
		r->cooperated += t->sig->world.outcome == UPREEMPT_COOPERATED;
		r->landed += t->sig->world.outcome == UPREEMPT_LANDED;
		first = ns < first ? ns : first;
		if (!slowest || ns > last) {
			slowest = t;
			last = ns;
		}
	}
	if (r->stragglers)
		r->slowest = r->late[0];
	else if (slowest)
		describe(slowest, false, now, &r->slowest);
	up_unlock(&d->lock);
	all = count_threads();
	r->unregistered = all > registered ? all - registered : 0;
	r->threads = r->landed + r->cooperated + r->stragglers;
	r->flags |= UPREEMPT_WORLD_SIGNALS;
	r->gone = w->gone;
	r->ipis = w->ipis;
	r->depth = ++w->depth;
	r->request_ns = w->request_ns;
	r->sent_ns = w->sent_ns;
	r->first_ns = slowest ? w->request_ns + first : 0;
	r->last_ns = slowest ? w->request_ns + last : 0;
	r->acked_ns = r->last_ns;
	r->final_ns = upreempt_now();
	d->sig->stats.world_late += r->stragglers;
}

int sig_world_stop(struct upreempt_domain *d, struct upreempt_world *r)
{
	struct upreempt_thread *self = upreempt_self;
	int ret = notice_exit();

	if (ret)
		return ret;
	if (self && self->domain != d)
		self = NULL;
	ret = take_world(d, self, r->flags, r->deadline_ns);
	if (ret < 0)
		return ret;
	if (!ret)
		begin(d, self, r->grace_ns);
	await(d, r->deadline_ns);
	report(d, self, r);
	ret = 0;
	if (r->flags & UPREEMPT_WORLD_ALL && r->stragglers)
		ret = -ETIMEDOUT;
	else if (r->flags & UPREEMPT_WORLD_REGISTERED && r->unregistered)
		ret = -EBUSY;
	if (ret)
		sig_world_start(d);
	return ret;
}

/* ---- the start ----------------------------------------------------------------- */

void sig_world_release(struct upreempt_domain *d)
{
	struct sig_world *w = &d->sig->world;
	struct upreempt_thread *t;

	if (!(w->epoch & 1))
		return;
	d->sig->stats.world_ns += upreempt_now() - w->request_ns;
	sig_tables_release(d);
	__atomic_add_fetch(&w->epoch, 1, __ATOMIC_SEQ_CST);
	for (t = d->live; t; t = t->next) {
		if (move(t, SW_ASKED, SW_NONE))
			__atomic_sub_fetch(&t->slot->pending, 1, __ATOMIC_SEQ_CST);
		else if (settled(t) == SW_STOOD)
			__atomic_store_n(&t->sig->world.state, SW_NONE, __ATOMIC_SEQ_CST);
		sig_nudge(t);
	}
	unlink_stopped(d);
	__atomic_store_n(&w->owner, 0, __ATOMIC_SEQ_CST);
	up_futex_wake(&w->owner, 1);
}

int sig_world_start(struct upreempt_domain *d)
{
	struct sig_world *w = &d->sig->world;

	if (__atomic_load_n(&w->owner, __ATOMIC_SEQ_CST) != own_tid())
		return -EPERM;
	if (--w->depth)
		return 0;
	up_lock(&d->lock);
	sig_world_release(d);
	up_unlock(&d->lock);
	/* What was kept from the stopper meanwhile */
	if (upreempt_self && __atomic_load_n(&upreempt_self->slot->pending, __ATOMIC_SEQ_CST))
		upreempt_check();
	return 0;
}
