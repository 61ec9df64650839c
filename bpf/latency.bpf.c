// SPDX-License-Identifier: LGPL-2.1 OR GPL-2.0
/*
 * Where the time of a request goes, stage by stage (latency.h).
 *
 * Each of the module's tracepoints has two programs with one body: tp_btf, for a
 * module that carries BTF, and raw_tp for one that does not; their contexts are
 * the same row of 64-bit arguments. The signal half has tp_btf and, for a kernel
 * without BTF, the classic tracepoint. User space loads one of the two.
 *
 * No vmlinux.h: the one kernel structure that is read is declared below, with
 * the fields in use, and relocated at load (CO-RE).
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "latency.h"

char LICENSE[] SEC("license") = "GPL";

/* 0: every process, every signal */
const volatile __u32 filter_tgid = 0;
const volatile __u32 filter_signal = 0;

struct request_key {
	__u64 seq;
	__u32 domain;
	__u32 pad;
};

struct request_state {
	__u64 request;
	__u64 deliver;
	__u64 ipi, arm;			/* of the thread, when it was delivered */
};

struct thread_key {
	__u32 domain;
	__u32 tid;
};

/* The first of each since the newest request to this thread */
struct thread_state {
	__u64 ipi;
	__u64 arm;
	__u64 gate;			/* held since */
};

struct landing_key {
	__u64 seq;
	__u32 tid;
	__u32 pad;
};

struct landing_state {
	__u64 start;			/* request, or signal_generate */
	__u64 deliver;
	__u64 landing;
	__u64 by_signal;
};

struct signal_key {
	__u32 id;			/* tid; tgid for a signal to the process */
	__u32 sig;
};

struct signal_state {
	__u64 generate;
	__u64 deliver;
};

/* Entries of requests that nobody finished are pushed out by newer ones: LRU */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct request_key);
	__type(value, struct request_state);
} requests SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct thread_key);
	__type(value, struct thread_state);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct landing_key);
	__type(value, struct landing_state);
} landings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct signal_key);
	__type(value, __u64);
} signals SEC(".maps");

/* What a thread was delivered last: its landing follows at once */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct signal_state);
} delivered SEC(".maps");

/* The results: these two are pinned by --pin */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LATENCY_MAX_HISTS);
	__type(key, struct latency_key);
	__type(value, struct hist);
} latency SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, UPREEMPT_REASON_MAX);
	__type(key, enum upreempt_reason);
	__type(value, __u64);
} deferrals SEC(".maps");

static const struct hist empty_hist = { .min = ~0ULL };	/* too large for the stack */

/* Not inlined: verified once for each program instead of at each use */
static __noinline void record(enum latency_stage stage, enum upreempt_kind kind,
			      enum upreempt_outcome outcome, __u64 from, __u64 to)
{
	struct latency_key key = { .stage = stage, .kind = kind, .outcome = outcome };
	struct hist *h;

	/* a tracepoint may be emitted just after what it reports has had its effect elsewhere */
	if ((__s64)(to - from) < 0)
		to = from;
	h = bpf_map_lookup_elem(&latency, &key);
	if (!h) {
		bpf_map_update_elem(&latency, &key, &empty_hist, BPF_NOEXIST);
		h = bpf_map_lookup_elem(&latency, &key);
		if (!h)
			return;
	}
	hist_add(h, to - from);
}

static __always_inline __u32 current_tgid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

static __always_inline __u32 current_tid(void)
{
	return (__u32)bpf_get_current_pid_tgid();
}

static __always_inline int foreign(void)
{
	return filter_tgid && current_tgid() != filter_tgid;
}

/* ---- the module's tracepoints -------------------------------------------- */

/*
 * The process filter is applied here, to the requester; later stages only follow
 * requests that were noted here.
 */
static __always_inline int on_request(__u32 domain, __u32 tid, __u64 seq)
{
	struct request_key rk = { .domain = domain, .seq = seq };
	struct request_state r = {};
	struct thread_key tk = { .domain = domain, .tid = tid };
	struct thread_state *t, fresh = {};

	if (foreign())
		return 0;
	t = bpf_map_lookup_elem(&threads, &tk);
	if (t) {
		t->ipi = 0;
		t->arm = 0;
	} else {
		bpf_map_update_elem(&threads, &tk, &fresh, BPF_ANY);
	}
	r.request = bpf_ktime_get_ns();
	bpf_map_update_elem(&requests, &rk, &r, BPF_ANY);
	return 0;
}

static __always_inline int on_ipi(__u32 domain, __u32 tid)
{
	struct thread_key tk = { .domain = domain, .tid = tid };
	struct thread_state *t = bpf_map_lookup_elem(&threads, &tk);

	if (t && !t->ipi)
		t->ipi = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int on_arm(__u32 domain, __u32 tid)
{
	struct thread_key tk = { .domain = domain, .tid = tid };
	struct thread_state *t = bpf_map_lookup_elem(&threads, &tk);

	if (t && !t->arm)
		t->arm = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int on_defer(__u32 domain, __u32 tid, __u32 reason)
{
	struct thread_key tk = { .domain = domain, .tid = tid };
	enum upreempt_reason key = reason;
	__u64 one = 1, *n;

	if (!bpf_map_lookup_elem(&threads, &tk))
		return 0;
	n = bpf_map_lookup_elem(&deferrals, &key);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&deferrals, &key, &one, BPF_ANY);
	return 0;
}

static __always_inline int on_deliver(__u32 domain, __u32 tid, __u64 seq, __u32 kind)
{
	struct request_key rk = { .domain = domain, .seq = seq };
	struct request_state *r = bpf_map_lookup_elem(&requests, &rk);
	struct thread_key tk = { .domain = domain, .tid = tid };
	struct thread_state *t;

	if (!r)
		return 0;
	r->deliver = bpf_ktime_get_ns();
	t = bpf_map_lookup_elem(&threads, &tk);
	if (t) {
		r->ipi = t->ipi;
		r->arm = t->arm;
	}
	if (kind == UPREEMPT_REDIRECT) {
		/* the hook runs in the thread that will land: the uprobes know only that */
		struct landing_key lk = { .seq = seq, .tid = current_tid() };
		struct landing_state l = { .start = r->request, .deliver = r->deliver };

		bpf_map_update_elem(&landings, &lk, &l, BPF_ANY);
	}
	return 0;
}

static __always_inline int on_outcome(__u32 domain, __u64 seq, __u32 kind, __u32 outcome)
{
	struct request_key rk = { .domain = domain, .seq = seq };
	struct request_state *r = bpf_map_lookup_elem(&requests, &rk);
	struct request_state s;

	if (!r)
		return 0;
	s = *r;
	bpf_map_delete_elem(&requests, &rk);
	record(STAGE_REQUEST_OUTCOME, kind, outcome, s.request, bpf_ktime_get_ns());
	if (!s.deliver)
		return 0;
	/* an arming from before the request was for another one */
	if (s.arm >= s.request) {
		record(STAGE_REQUEST_ARM, kind, outcome, s.request, s.arm);
		record(STAGE_ARM_DELIVER, kind, outcome, s.arm, s.deliver);
	}
	/* the tracepoint of an IPI is emitted after sending: it may lose the race with its effect */
	if (s.ipi >= s.request && s.ipi <= s.arm) {
		record(STAGE_REQUEST_IPI, kind, outcome, s.request, s.ipi);
		record(STAGE_IPI_ARM, kind, outcome, s.ipi, s.arm);
	}
	return 0;
}

static __always_inline int on_gate(__u32 domain, __u32 tid, __u32 enter)
{
	struct thread_key tk = { .domain = domain, .tid = tid };
	struct thread_state *t = bpf_map_lookup_elem(&threads, &tk);

	if (!t)
		return 0;
	if (enter) {
		t->gate = bpf_ktime_get_ns();
	} else if (t->gate) {
		record(STAGE_GATE, UPREEMPT_STOP, 0, t->gate, bpf_ktime_get_ns());
		t->gate = 0;
	}
	return 0;
}

/* The tracepoints of a stop carry its times; how: enum up_world_state of kmod/upreempt.h */
static __always_inline int on_world_thread(__u32 how, __u64 ns)
{
	enum upreempt_outcome outcome = how == 4 ? UPREEMPT_COOPERATED :
					how == 5 ? UPREEMPT_BLOCKED : UPREEMPT_LANDED;

	if (!foreign())
		record(STAGE_WORLD_THREAD, UPREEMPT_STOP, outcome, 0, ns);
	return 0;
}

static __always_inline int on_world(enum latency_stage stage, __u64 ns)
{
	if (!foreign())
		record(stage, UPREEMPT_STOP, 0, 0, ns);
	return 0;
}

/* Two programs, one body; the arguments are those of kmod/trace.h, in order */
#define MODULE_TRACEPOINT(name, body)					\
	SEC("tp_btf/upreempt_" #name)					\
	int name##_btf(__u64 *arg) { return body; }			\
	SEC("raw_tp/upreempt_" #name)					\
	int name##_raw(__u64 *arg) { return body; }

MODULE_TRACEPOINT(request, on_request(arg[0], arg[1], arg[2]))
MODULE_TRACEPOINT(ipi, on_ipi(arg[0], arg[1]))
MODULE_TRACEPOINT(arm, on_arm(arg[0], arg[1]))
MODULE_TRACEPOINT(defer, on_defer(arg[0], arg[1], arg[4]))
MODULE_TRACEPOINT(deliver, on_deliver(arg[0], arg[1], arg[2], arg[3]))
MODULE_TRACEPOINT(outcome, on_outcome(arg[0], arg[2], arg[3], arg[4]))
MODULE_TRACEPOINT(gate, on_gate(arg[0], arg[1], (__u8)arg[2]))
MODULE_TRACEPOINT(world_thread, on_world_thread(arg[2], arg[6]))
MODULE_TRACEPOINT(world_stopped, on_world(STAGE_WORLD_STOPPED, arg[2]))
MODULE_TRACEPOINT(world_start, on_world(STAGE_WORLD_HELD, arg[2]))

/* ---- the library's trace functions --------------------------------------- */

/* A landing that no hook announced was reached by the signal that came last. */
static __always_inline int land_by_signal(__u64 seq, __u32 tid, __u64 now)
{
	struct landing_key lk = { .seq = seq, .tid = tid };
	struct signal_state *s = bpf_map_lookup_elem(&delivered, &tid);
	struct landing_state l = { .landing = now, .by_signal = 1 };

	if (!s)
		return 0;
	l.start = s->generate;
	l.deliver = s->deliver;
	bpf_map_delete_elem(&delivered, &tid);
	bpf_map_update_elem(&landings, &lk, &l, BPF_ANY);
	record(STAGE_SIGNAL_LANDING, UPREEMPT_REDIRECT, UPREEMPT_LANDED, l.deliver, now);
	return 0;
}

/* upreempt_trace_landing(uint64_t seq) */
SEC("uprobe")
int landing_enter(struct pt_regs *ctx)
{
	__u64 now = bpf_ktime_get_ns(), seq = PT_REGS_PARM1(ctx);
	struct landing_key lk = { .seq = seq, .tid = current_tid() };
	struct landing_state *l;

	if (foreign())
		return 0;
	l = bpf_map_lookup_elem(&landings, &lk);
	if (!l)
		return land_by_signal(seq, lk.tid, now);
	l->landing = now;
	record(STAGE_DELIVER_LANDING, UPREEMPT_REDIRECT, UPREEMPT_LANDED, l->deliver, now);
	record(STAGE_REQUEST_LANDING, UPREEMPT_REDIRECT, UPREEMPT_LANDED, l->start, now);
	return 0;
}

/* upreempt_trace_resume(uint64_t seq) */
SEC("uprobe")
int landing_leave(struct pt_regs *ctx)
{
	__u64 now = bpf_ktime_get_ns(), seq = PT_REGS_PARM1(ctx);
	struct landing_key lk = { .seq = seq, .tid = current_tid() };
	struct landing_state *l, s;

	if (foreign())
		return 0;
	l = bpf_map_lookup_elem(&landings, &lk);
	if (!l)
		return 0;
	s = *l;
	bpf_map_delete_elem(&landings, &lk);
	if (!s.landing)
		return 0;
	record(s.by_signal ? STAGE_SIGNAL_RESUME : STAGE_LANDING_RESUME,
	       UPREEMPT_REDIRECT, UPREEMPT_LANDED, s.landing, now);
	record(s.by_signal ? STAGE_SIGNAL_TOTAL : STAGE_REQUEST_RESUME,
	       UPREEMPT_REDIRECT, UPREEMPT_LANDED, s.start, now);
	return 0;
}

/* ---- signals ------------------------------------------------------------- */

/* Only these fields; offsets are filled in at load */
struct task_struct {
	int pid;
} __attribute__((preserve_access_index));

#define SIGNAL_RESULT_QUEUED	0	/* TRACE_SIGNAL_DELIVERED */

/* The receiver's process is not known without reading more of it: deliver filters. */
static __always_inline int on_signal_generate(__u32 sig, __u32 pid, __u32 result)
{
	struct signal_key sk = { .id = pid, .sig = sig };
	__u64 now;

	if (result != SIGNAL_RESULT_QUEUED || (filter_signal && sig != filter_signal))
		return 0;
	now = bpf_ktime_get_ns();
	bpf_map_update_elem(&signals, &sk, &now, BPF_ANY);
	return 0;
}

static __always_inline int on_signal_deliver(__u32 sig)
{
	struct signal_key sk = { .id = current_tid(), .sig = sig };
	struct signal_state s = {};
	__u64 *generate;
	__u32 tid = sk.id;

	if (foreign() || (filter_signal && sig != filter_signal))
		return 0;
	generate = bpf_map_lookup_elem(&signals, &sk);
	if (!generate) {
		sk.id = current_tgid();
		generate = bpf_map_lookup_elem(&signals, &sk);
		if (!generate)
			return 0;
	}
	s.generate = *generate;
	s.deliver = bpf_ktime_get_ns();
	bpf_map_delete_elem(&signals, &sk);
	bpf_map_update_elem(&delivered, &tid, &s, BPF_ANY);
	record(STAGE_SIGNAL_DELIVER, 0, 0, s.generate, s.deliver);
	return 0;
}

/* (int sig, struct kernel_siginfo *, struct task_struct *, int group, int result) */
SEC("tp_btf/signal_generate")
int signal_generate_btf(__u64 *arg)
{
	struct task_struct *task = (void *)arg[2];

	return on_signal_generate(arg[0], task->pid, arg[4]);
}

/* (int sig, struct kernel_siginfo *, struct k_sigaction *) */
SEC("tp_btf/signal_deliver")
int signal_deliver_btf(__u64 *arg)
{
	return on_signal_deliver(arg[0]);
}

/* tracing/events/signal/.../format: the same since Linux 3.7 */
struct signal_generate_format {
	__u64 common;
	int sig, error, code;
	char comm[16];
	int pid, group, result;
};

struct signal_deliver_format {
	__u64 common;
	int sig;
};

SEC("tp/signal/signal_generate")
int signal_generate_tp(struct signal_generate_format *ctx)
{
	return on_signal_generate(ctx->sig, ctx->pid, ctx->result);
}

SEC("tp/signal/signal_deliver")
int signal_deliver_tp(struct signal_deliver_format *ctx)
{
	return on_signal_deliver(ctx->sig);
}
