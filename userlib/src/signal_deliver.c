// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The signal backend's target: the handler, with all signals blocked. It keeps
 * errno, takes no lock but the ring's, and does what the module's hook does, on
 * the frame that the kernel saved.
 */
#include "backend_signal.h"
#include "arch/x86_64/frame.h"
#include <asm/prctl.h>
#include <errno.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>

#define USER_CS		0x33
#define USER_END	0x7ffffffff000ULL
#define CLEAR_FLAGS	(1U << 8 | 1U << 10 | 1U << 16 | 1U << 18)	/* TF DF RF AC */
#define BACKOFF_MIN_US	20
#define BACKOFF_MAX_US	1000

static uint64_t segment_base(int which)
{
	uint64_t base = 0;

#ifdef HWCAP2_FSGSBASE
	if (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) {
		if (which == ARCH_GET_FS)
			__asm__ __volatile__("rdfsbase %0" : "=r"(base));
		else
			__asm__ __volatile__("rdgsbase %0" : "=r"(base));
		return base;
	}
#endif
	upreempt_syscall(SYS_arch_prctl, which, (long)&base, 0, 0, 0, 0);
	return base;
}

static void capture(struct upreempt_regs *regs, const ucontext_t *uc)
{
	const greg_t *g = uc->uc_mcontext.gregs;

	memset(regs, 0, sizeof(*regs));
	regs->r15 = g[REG_R15];
	regs->r14 = g[REG_R14];
	regs->r13 = g[REG_R13];
	regs->r12 = g[REG_R12];
	regs->rbp = g[REG_RBP];
	regs->rbx = g[REG_RBX];
	regs->r11 = g[REG_R11];
	regs->r10 = g[REG_R10];
	regs->r9 = g[REG_R9];
	regs->r8 = g[REG_R8];
	regs->rax = g[REG_RAX];
	regs->rcx = g[REG_RCX];
	regs->rdx = g[REG_RDX];
	regs->rsi = g[REG_RSI];
	regs->rdi = g[REG_RDI];
	regs->rsp = g[REG_RSP];
	regs->rip = g[REG_RIP];
	regs->rflags = g[REG_EFL];
	regs->orig_rax = ~0ULL;
	regs->fs_base = segment_base(ARCH_GET_FS);
	regs->gs_base = segment_base(ARCH_GET_GS);
	memcpy(&regs->sigmask, &uc->uc_sigmask, sizeof(regs->sigmask));
}

/*
 * The oldest pending request of a kind, now RUNNING; seq: after that one. Between the
 * look and the move it may have been cancelled and its place taken by another one.
 */
static struct sig_request *take(struct upreempt_thread *t, uint32_t kind, uint64_t seq)
{
	struct sig_request *r, *oldest;
	int i;

	do {
		oldest = NULL;
		for (i = 0, r = t->sig->rq; i < SIG_MAX_REQUESTS; i++, r++)
			if (__atomic_load_n(&r->state, __ATOMIC_SEQ_CST) == RQ_PENDING &&
			    r->kind == kind && r->seq > seq && (!oldest || r->seq < oldest->seq))
				oldest = r;
		if (!oldest)
			return NULL;
		if (!sig_move(oldest, RQ_PENDING, RQ_RUNNING))
			continue;
		if (oldest->kind == kind && oldest->seq > seq)
			return oldest;
		__atomic_store_n(&oldest->state, RQ_PENDING, __ATOMIC_SEQ_CST);
	} while (true);
}

static void defer(struct upreempt_thread *t, struct sig_request *r, uint32_t reason, uint64_t ip)
{
	r->reason = reason;
	r->last_ip = ip;
	r->attempts++;
	SIG_COUNT(t, deferrals[reason]);
	__atomic_store_n(&r->state, RQ_PENDING, __ATOMIC_SEQ_CST);
}

/* Fill the event and report it. false: the ring is full, and the request deferred. */
static bool grant(struct upreempt_thread *t, struct sig_request *r, uint32_t outcome,
		  uint32_t reason, const struct upreempt_regs *regs)
{
	sig_fill_event(t, r, outcome, reason);
	r->event.regs = *regs;
	r->event.frame = UPREEMPT_FRAME_USER;
	if (!(r->flags & UPREEMPT_REQ_RING))
		return true;
	/* Once it was full, younger records wait too: a thread's records keep their order. */
	t->sig->ring_full |= !t->sig->ring_full && !sig_ring_push(t->domain, &r->event);
	if (!t->sig->ring_full)
		return true;
	defer(t, r, UPREEMPT_R_RING_FULL, regs->rip);
	return false;
}

static void serve_samples(struct upreempt_thread *t, const struct upreempt_regs *regs)
{
	struct sig_request *r;
	uint64_t seq = 0;

	while ((r = take(t, UPREEMPT_SAMPLE, seq))) {
		seq = r->seq;
		if (grant(t, r, UPREEMPT_LANDED, UPREEMPT_R_NONE, regs))
			sig_finish(t, r);
	}
}

static void serve_stops(struct upreempt_thread *t, const struct upreempt_regs *regs)
{
	struct sig_request *r;
	uint64_t seq = 0;

	while ((r = take(t, UPREEMPT_STOP, seq))) {
		seq = r->seq;
		if (t->slot->nopreempt) {
			defer(t, r, UPREEMPT_R_DISABLED, regs->rip);
			continue;
		}
		if (!grant(t, r, UPREEMPT_LANDED, UPREEMPT_R_NONE, regs))
			continue;
		r->hold = 1;
		__atomic_add_fetch(&t->slot->held, 1, __ATOMIC_SEQ_CST);
		SIG_COUNT(t, gated);
		sig_finish(t, r);
	}
}

/* Requests whose deadline has passed end here; the nearest deadline of the rest */
static uint64_t expire(struct upreempt_thread *t, const struct upreempt_regs *regs, uint32_t held)
{
	struct sig_request *r = t->sig->rq;
	uint64_t now = 0, next = 0;
	int i;

	for (i = 0; i < SIG_MAX_REQUESTS; i++, r++) {
		if (__atomic_load_n(&r->state, __ATOMIC_SEQ_CST) != RQ_PENDING || !r->deadline_ns)
			continue;
		if (!now)
			now = upreempt_now();
		if (r->deadline_ns > now) {
			if (!next || r->deadline_ns < next)
				next = r->deadline_ns;
			continue;
		}
		if (!sig_move(r, RQ_PENDING, RQ_RUNNING))
			continue;
		if (!r->deadline_ns || r->deadline_ns > now) {
			__atomic_store_n(&r->state, RQ_PENDING, __ATOMIC_SEQ_CST);
			continue;
		}
		r->last_ip = regs->rip;
		sig_end(t, r, UPREEMPT_UNSAFE,
			held && r->kind == UPREEMPT_REDIRECT ? UPREEMPT_R_HELD : r->reason);
	}
	return next;
}

/* Here the thread is stopped; it still gives samples and takes further stops. */
static void hold(struct upreempt_thread *t, const struct upreempt_regs *regs)
{
	uint64_t deadline, retry;
	uint32_t word;

	for (;;) {
		word = __atomic_load_n(&t->sig->word, __ATOMIC_SEQ_CST);
		if (!__atomic_load_n(&t->slot->held, __ATOMIC_SEQ_CST))
			return;
		t->sig->ring_full = false;
		serve_stops(t, regs);
		serve_samples(t, regs);
		deadline = expire(t, regs, 1);
		/* What found the ring full is tried again. */
		if (t->sig->ring_full) {
			retry = upreempt_now() + BACKOFF_MAX_US * 1000ULL;
			deadline = deadline && deadline < retry ? deadline : retry;
		}
		up_futex_wait(&t->sig->word, word, deadline);
	}
}

static bool on_alternate_stack(const ucontext_t *uc, uint64_t rsp)
{
	const stack_t *s = &uc->uc_stack;

	return !(s->ss_flags & SS_DISABLE) && rsp - (uintptr_t)s->ss_sp - 1 < s->ss_size;
}

/* Why the thread cannot be redirected here; *final: and never will */
static uint32_t refusal(struct upreempt_thread *t, const ucontext_t *uc,
			const struct upreempt_regs *regs, bool *final)
{
	struct sig_thread *s = t->sig;
	uint64_t base = regs->rsp - RED_ZONE;

	*final = false;
	if (t->slot->nopreempt)
		return UPREEMPT_R_DISABLED;
	if ((uc->uc_mcontext.gregs[REG_CSGSFS] & 0xffff) != USER_CS)
		return UPREEMPT_R_NOT_64BIT;
	if (regs->rip >= USER_END)
		return UPREEMPT_R_KERNEL_IP;
	if (regs->rflags & FLAG_TF)
		return UPREEMPT_R_SINGLE_STEP;
	if (regs->rip >= (uintptr_t)upreempt_landing &&
	    regs->rip < (uintptr_t)upreempt_landing_end)
		return UPREEMPT_R_LANDING;
	if (__atomic_load_n(&t->slot->busy, __ATOMIC_ACQUIRE))
		return UPREEMPT_R_SLOT_BUSY;
	if (on_alternate_stack(uc, regs->rsp))
		return UPREEMPT_R_SIGNAL_STACK;
	if (!s->stack_hi)
		return 0;
	*final = true;
	if (regs->rsp <= s->stack_lo || regs->rsp > s->stack_hi)
		return UPREEMPT_R_STACK_BOUNDS;
	/* 16: for the rounding */
	if (base < s->stack_lo || base - s->stack_lo < s->stack_need + 16)
		return UPREEMPT_R_STACK_ROOM;
	return 0;
}

/* What the module's hook does: the registers to the slot, the frame to the landing */
static void redirect(struct upreempt_thread *t, const struct sig_request *r, ucontext_t *uc,
		     const struct upreempt_regs *regs)
{
	struct upreempt_slot *slot = t->slot;
	greg_t *g = uc->uc_mcontext.gregs;

	slot->seq = r->seq;
	slot->cookie = r->event.cookie;
	slot->request_ns = r->event.request_ns;
	slot->landed_ns = r->event.final_ns;
	slot->regs = *regs;
	__atomic_store_n(&slot->busy, 1, __ATOMIC_RELEASE);
	g[REG_RIP] = (uintptr_t)upreempt_landing;
	g[REG_RDI] = (uintptr_t)t;
	g[REG_RSI] = r->seq;
	g[REG_RSP] = (regs->rsp - RED_ZONE) & ~15ULL;
	g[REG_EFL] &= ~(greg_t)CLEAR_FLAGS;
}

static void serve_redirects(struct upreempt_thread *t, ucontext_t *uc,
			    const struct upreempt_regs *regs)
{
	struct sig_request *r;
	uint64_t seq = 0;
	uint32_t reason;
	bool final;

	while ((r = take(t, UPREEMPT_REDIRECT, seq))) {
		seq = r->seq;
		reason = refusal(t, uc, regs, &final);
		if (reason && !final) {
			defer(t, r, reason, regs->rip);
			continue;
		}
		if (!grant(t, r, reason ? UPREEMPT_UNSAFE : UPREEMPT_LANDED, reason, regs))
			continue;
		if (!reason)
			redirect(t, r, uc, regs);
		sig_finish(t, r);
	}
}

/*
 * When to look again. What upreempt_enable() lets in needs no timer but for its
 * deadline; everything else is tried again soon, and less and less often.
 */
static void arm(struct upreempt_thread *t, uint64_t deadline)
{
	struct itimerspec its = { 0 };
	struct sig_thread *s = t->sig;
	struct sig_request *r = s->rq;
	uint64_t at = 0;
	bool retry = false;
	int i;

	for (i = 0; i < SIG_MAX_REQUESTS; i++, r++)
		retry |= __atomic_load_n(&r->state, __ATOMIC_SEQ_CST) == RQ_PENDING &&
			 r->attempts && r->reason != UPREEMPT_R_DISABLED;
	if (retry) {
		s->backoff_us = s->backoff_us ? s->backoff_us * 2 : BACKOFF_MIN_US;
		if (s->backoff_us > BACKOFF_MAX_US)
			s->backoff_us = BACKOFF_MAX_US;
		at = upreempt_now() + s->backoff_us * 1000ULL;
	} else {
		s->backoff_us = 0;
	}
	if (deadline && (!at || deadline < at))
		at = deadline;
	if (!at)
		return;
	its.it_value.tv_sec = at / 1000000000;
	its.it_value.tv_nsec = at % 1000000000;
	timer_settime(s->timer, TIMER_ABSTIME, &its, NULL);
}

static void deliver(struct upreempt_thread *t, ucontext_t *uc)
{
	struct upreempt_regs regs;
	uint64_t deadline;

	if (!__atomic_load_n(&t->slot->pending, __ATOMIC_SEQ_CST))
		return;
	SIG_COUNT(t, hooks);
	t->sig->ring_full = false;
	capture(&regs, uc);
	expire(t, &regs, 0);
	serve_stops(t, &regs);
	while (__atomic_load_n(&t->slot->held, __ATOMIC_SEQ_CST)) {
		hold(t, &regs);
		serve_stops(t, &regs);
	}
	serve_redirects(t, uc, &regs);
	serve_samples(t, &regs);
	deadline = expire(t, &regs, 0);
	if (deadline || __atomic_load_n(&t->slot->pending, __ATOMIC_SEQ_CST))
		arm(t, deadline);
}

void sig_handler(int signo, siginfo_t *info, void *context)
{
	struct upreempt_thread *t = upreempt_self;
	int saved = errno;

	(void)info;
	if (t && t->sig && t->signo == signo)
		deliver(t, context);
	errno = saved;
}
