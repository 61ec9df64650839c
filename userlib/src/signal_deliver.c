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
#define FLAG_RF		(1U << 16)
#define CLEAR_FLAGS	(1U << 8 | 1U << 10 | 1U << 16 | 1U << 18)	/* TF DF RF AC */
#define BACKOFF_MIN_US	20
#define BACKOFF_MAX_US	1000
/* signal_poll() and what it calls; the frame of a signal is larger */
#define POLL_FRAMES	512

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

/* Put back: a request's turn has not come. */
static void note(struct sig_request *r, uint32_t reason, uint64_t ip)
{
	r->reason = reason;
	r->last_ip = ip;
	__atomic_store_n(&r->state, RQ_PENDING, __ATOMIC_SEQ_CST);
}

/* Until its grace is over the thread is asked to come by itself; a held one has come. */
static bool in_grace(struct upreempt_thread *t, struct sig_request *r, uint64_t ip)
{
	if (!r->grace_end_ns || t->sig->coop || t->sig->parked ||
	    upreempt_now() >= r->grace_end_ns)
		return false;
	__atomic_store_n(&t->slot->poll, 1, __ATOMIC_SEQ_CST);
	note(r, UPREEMPT_R_GRACE, ip);
	return true;
}

static void defer(struct upreempt_thread *t, struct sig_request *r, uint32_t reason, uint64_t ip)
{
	r->attempts++;
	SIG_COUNT(t, deferrals[reason]);
	note(r, reason, ip);
}

/* Fill the event and report it. false: the ring is full, and the request deferred. */
static bool grant(struct upreempt_thread *t, struct sig_request *r, uint32_t outcome,
		  uint32_t reason, const struct upreempt_regs *regs)
{
	if (outcome == UPREEMPT_LANDED && t->sig->coop)
		outcome = UPREEMPT_COOPERATED;
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

/* ---- tables of code ----------------------------------------------------------- */

/*
 * The kernel leaves the return address in rcx, and sets the PC back to the instruction for a
 * call that it restarts. What rcx points behind was executed, so it can be read.
 */
bool sig_at_syscall(const struct upreempt_regs *regs)
{
	const uint8_t *end = (const uint8_t *)(uintptr_t)regs->rcx;

	return (regs->rcx == regs->rip || regs->rcx == regs->rip + 2) &&
	       end[-2] == 0x0f && end[-1] == 0x05;
}

uint32_t sig_enforce_code(struct upreempt_thread *t, ucontext_t *uc, struct upreempt_regs *regs)
{
	static const uint8_t index[UPREEMPT_REG_MAX] = {
		REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
		REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
	};
	struct upreempt_point p = sig_point(t, regs->rip);
	greg_t *g = uc->uc_mcontext.gregs;

	if (p.cls == UPREEMPT_CODE_RESTART) {
		SIG_COUNT(t, restarts);
		g[REG_RIP] = p.value;
		g[REG_EFL] &= ~(greg_t)FLAG_RF;
		capture(regs, uc);
		return 0;
	}
	if (p.cls == UPREEMPT_CODE_POLL) {
		if (g[index[p.reg]] != (greg_t)p.value)
			SIG_COUNT(t, polls_set);
		g[index[p.reg]] = p.value;
		capture(regs, uc);
		return UPREEMPT_R_POLL_SET;
	}
	return sig_point_reason(&p);
}

/* Why it must not be where it is; last of all reasons */
static uint32_t code_refusal(struct upreempt_thread *t, const struct sig_request *r,
			     ucontext_t *uc, struct upreempt_regs *regs)
{
	bool caller = r->flags & UPREEMPT_REQ_DECLARED_CALLER;
	struct upreempt_point p;

	if (t->sig->parked) {
		p = sig_point(t, regs->rip);
		return caller ? sig_point_reason(&p) : 0;
	}
	/* A sample of before a redirect, which was checked */
	if (t->sig->coop || uc->uc_mcontext.gregs[REG_RIP] != (greg_t)regs->rip)
		return 0;
	if (sig_at_syscall(regs) && !caller && r->kind != UPREEMPT_REDIRECT)
		return 0;
	return sig_enforce_code(t, uc, regs);
}

static void serve_samples(struct upreempt_thread *t, ucontext_t *uc, struct upreempt_regs *regs)
{
	struct sig_request *r;
	uint64_t seq = 0;
	uint32_t reason;

	while ((r = take(t, UPREEMPT_SAMPLE, seq))) {
		seq = r->seq;
		if (in_grace(t, r, regs->rip))
			continue;
		reason = !(r->flags & UPREEMPT_REQ_SAFE) ? 0 :
			 t->slot->nopreempt && !t->sig->parked ? UPREEMPT_R_DISABLED :
			 code_refusal(t, r, uc, regs);
		if (reason) {
			defer(t, r, reason, regs->rip);
			continue;
		}
		if (grant(t, r, UPREEMPT_LANDED, UPREEMPT_R_NONE, regs))
			sig_finish(t, r);
	}
}

static void serve_stops(struct upreempt_thread *t, ucontext_t *uc, struct upreempt_regs *regs)
{
	struct sig_request *r;
	uint64_t seq = 0;
	uint32_t reason;

	while ((r = take(t, UPREEMPT_STOP, seq))) {
		seq = r->seq;
		if (in_grace(t, r, regs->rip))
			continue;
		if (sig_world_owned_by(t)) {
			defer(t, r, UPREEMPT_R_STOPPER, regs->rip);
			continue;
		}
		/* In a stop of the world it stands already. */
		if (t->slot->nopreempt && !t->sig->parked) {
			defer(t, r, UPREEMPT_R_DISABLED, regs->rip);
			continue;
		}
		reason = code_refusal(t, r, uc, regs);
		if (reason) {
			defer(t, r, reason, regs->rip);
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

static bool earlier(uint64_t a, uint64_t than)
{
	return a && (!than || a < than);
}

/* Requests whose deadline has passed end here; the nearest deadline or end of grace of the rest */
static uint64_t expire(struct upreempt_thread *t, const struct upreempt_regs *regs, uint32_t held)
{
	struct sig_request *r = t->sig->rq;
	uint64_t now = 0, next = 0;
	int i;

	for (i = 0; i < SIG_MAX_REQUESTS; i++, r++) {
		if (__atomic_load_n(&r->state, __ATOMIC_SEQ_CST) != RQ_PENDING ||
		    !(r->deadline_ns || r->grace_end_ns))
			continue;
		if (!now)
			now = upreempt_now();
		if (r->grace_end_ns > now && earlier(r->grace_end_ns, next))
			next = r->grace_end_ns;
		if (!r->deadline_ns || r->deadline_ns > now) {
			if (earlier(r->deadline_ns, next))
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

/* By a STOP or by a stop of the world */
static bool held(struct upreempt_thread *t, ucontext_t *uc, struct upreempt_regs *regs)
{
	bool world = sig_world_holds(t, uc, regs);

	return world || __atomic_load_n(&t->slot->held, __ATOMIC_SEQ_CST);
}

/* Here the thread is stopped; it still gives samples and takes further stops. */
static void hold(struct upreempt_thread *t, ucontext_t *uc, struct upreempt_regs *regs)
{
	uint64_t deadline, retry;
	uint32_t word;

	/* What is asked of it from here on is no longer its own coming. */
	t->sig->coop = false;
	__atomic_store_n(&t->sig->parked, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		word = __atomic_load_n(&t->sig->word, __ATOMIC_SEQ_CST);
		if (!held(t, uc, regs))
			break;
		t->sig->ring_full = false;
		serve_stops(t, uc, regs);
		serve_samples(t, uc, regs);
		deadline = expire(t, regs, 1);
		/* What found the ring full is tried again. */
		if (t->sig->ring_full) {
			retry = upreempt_now() + BACKOFF_MAX_US * 1000ULL;
			deadline = deadline && deadline < retry ? deadline : retry;
		}
		up_futex_wait(&t->sig->word, word, deadline);
	}
	/* Who saw us parked sent no signal: the caller looks again. */
	__atomic_store_n(&t->sig->parked, 0, __ATOMIC_SEQ_CST);
}

/* The end of the FXSAVE area in a signal's frame: struct _fpx_sw_bytes of asm/sigcontext.h */
struct frame_xstate {
	uint32_t magic, extended_size;
	uint64_t features;
	uint32_t size;
};
#define FRAME_XSTATE		464
#define FRAME_XSTATE_MAGIC	0x46505853U

/* How long a thread that is counted as stopped may take until it waits: it needs a CPU for that */
#define XSTATE_WAIT_NS		1000000000ULL

int sig_xstate(struct upreempt_thread *t, struct upreempt_xstate *x)
{
	uint64_t end = upreempt_deadline(XSTATE_WAIT_NS);
	struct frame_xstate frame;
	const char *area;

	while (!__atomic_load_n(&t->sig->parked, __ATOMIC_SEQ_CST)) {
		if (upreempt_now() > end)
			return -EBUSY;
		upreempt_syscall(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	}
	area = t->sig->fpstate;
	memcpy(&frame, area + FRAME_XSTATE, sizeof(frame));
	x->bytes = frame.magic == FRAME_XSTATE_MAGIC ? frame.size : FRAME_XSTATE + 48;
	x->features = frame.magic == FRAME_XSTATE_MAGIC ? frame.features : 3;
	if (x->room < x->bytes)
		return -ENOSPC;
	memcpy((void *)(uintptr_t)x->address, area, x->bytes);
	return 0;
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
			    struct upreempt_regs *regs)
{
	struct sig_request *r;
	uint64_t seq = 0;
	uint32_t reason;
	bool final;

	while ((r = take(t, UPREEMPT_REDIRECT, seq))) {
		seq = r->seq;
		if (in_grace(t, r, regs->rip))
			continue;
		reason = refusal(t, uc, regs, &final);
		if (!reason) {
			final = false;
			reason = code_refusal(t, r, uc, regs);
			/* The module would find it in the call. */
			if (reason && r->flags & UPREEMPT_REQ_OR_BLOCKED &&
			    !(r->flags & UPREEMPT_REQ_DECLARED_CALLER) && sig_at_syscall(regs)) {
				if (grant(t, r, UPREEMPT_BLOCKED, UPREEMPT_R_NONE, regs))
					sig_finish(t, r);
				continue;
			}
		}
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
 * timer_ns is what the timer should be set to: whoever finds another's earlier time
 * there after having set it, sets that.
 */
void sig_timer_at(struct upreempt_thread *t, uint64_t ns)
{
	uint64_t old = __atomic_load_n(&t->sig->timer_ns, __ATOMIC_SEQ_CST);
	struct itimerspec its = { 0 };

	do {
		if (old && old <= ns)
			return;
	} while (!__atomic_compare_exchange_n(&t->sig->timer_ns, &old, ns, false,
					      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
	do {
		its.it_value.tv_sec = ns / 1000000000;
		its.it_value.tv_nsec = ns % 1000000000;
		timer_settime(t->sig->timer, TIMER_ABSTIME, &its, NULL);
		old = ns;
		ns = __atomic_load_n(&t->sig->timer_ns, __ATOMIC_SEQ_CST);
	} while (ns && ns != old);
}

/*
 * A signal that is pending takes in all that follow. Kernels from 6.13 on drop the timer's when
 * the timer is set anew, and not before the thread comes to take it: what it has taken in by then
 * is lost. So take it now, and the kick that it may stand behind. Whoever kicked has counted
 * before, and whoever counts later is not taken in. Return: whether there was one that counts.
 */
static bool take_signal(const struct upreempt_thread *t)
{
	const struct timespec now = { 0 };
	uint64_t set = 1ULL << (t->signo - 1);
	bool any = false;

	while (upreempt_syscall(SYS_rt_sigtimedwait, (long)&set, 0, (long)&now, sizeof(set),
				0, 0) > 0)
		any = true;
	return any;
}

/*
 * When to look again. What upreempt_enable() or the start of the world lets in needs no
 * timer but for its deadline; everything else is tried again soon, and less and less often.
 * Return: whether the thread has to look again at once.
 */
static bool arm(struct upreempt_thread *t, uint64_t deadline)
{
	struct sig_thread *s = t->sig;
	struct sig_request *r = s->rq;
	uint64_t at = 0;
	bool retry = false;
	int i;

	for (i = 0; i < SIG_MAX_REQUESTS; i++, r++)
		retry |= __atomic_load_n(&r->state, __ATOMIC_SEQ_CST) == RQ_PENDING &&
			 r->attempts && r->reason != UPREEMPT_R_DISABLED &&
			 r->reason != UPREEMPT_R_STOPPER && r->reason != UPREEMPT_R_GRACE;
	if (retry || (sig_world_wants(t) && sig_world_refused(t))) {
		s->backoff_us = s->backoff_us ? s->backoff_us * 2 : BACKOFF_MIN_US;
		if (s->backoff_us > BACKOFF_MAX_US)
			s->backoff_us = BACKOFF_MAX_US;
		at = upreempt_now() + s->backoff_us * 1000ULL;
	} else {
		s->backoff_us = 0;
	}
	if (earlier(deadline, at))
		at = deadline;
	if (!at)
		return false;
	sig_timer_at(t, at);
	return take_signal(t);
}

/*
 * In signal_poll(), and not in a handler of the program's own that interrupted it: the
 * frame of such a one lies between, and the red zone alone is 128 bytes.
 */
static bool takes_mark(struct upreempt_thread *t, const struct upreempt_regs *regs)
{
	uintptr_t frame = __atomic_load_n(&t->sig->cooperating, __ATOMIC_RELAXED);
	bool here = frame && frame - regs->rsp < POLL_FRAMES;

	if (here)
		__atomic_store_n(&t->sig->cooperating, 0, __ATOMIC_RELAXED);
	return here;
}

static void deliver(struct upreempt_thread *t, ucontext_t *uc)
{
	struct upreempt_regs regs;
	uint64_t deadline;
	bool again = false;
	uint32_t word;

	/* Before the look: who asks from here on sets it himself. */
	__atomic_store_n(&t->sig->timer_ns, 0, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&t->slot->pending, __ATOMIC_SEQ_CST) && !sig_world_wants(t))
		return;
	SIG_COUNT(t, hooks);
	t->sig->ring_full = false;
	t->sig->fpstate = uc->uc_mcontext.fpregs;
	capture(&regs, uc);
	t->sig->coop = takes_mark(t, &regs);
	expire(t, &regs, 0);
	for (;;) {
		word = __atomic_load_n(&t->sig->word, __ATOMIC_SEQ_CST);
		serve_stops(t, uc, &regs);
		if (!held(t, uc, &regs))
			break;
		hold(t, uc, &regs);
	}
	serve_redirects(t, uc, &regs);
	serve_samples(t, uc, &regs);
	deadline = expire(t, &regs, 0);
	if (deadline || __atomic_load_n(&t->slot->pending, __ATOMIC_SEQ_CST))
		again = arm(t, deadline);
	/* Asked for since it looked: that signal may be taken, too. */
	if (again || word != __atomic_load_n(&t->sig->word, __ATOMIC_SEQ_CST))
		upreempt_syscall(SYS_tgkill, t->pid, t->tid, t->signo, 0, 0, 0);
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
