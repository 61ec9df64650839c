/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints: one for each stage of a request and one for each refusal, so
 * that a BPF program (tp_btf/upreempt_*) or trace-cmd can follow it.
 *
 *	upreempt_request   accepted, by the requester
 *	upreempt_ipi       an IPI was sent to the CPU that runs the thread
 *	upreempt_arm       the hook was armed (by IPI, sched_in, ...)
 *	upreempt_defer     the hook could not grant it now, with the reason
 *	upreempt_range     the hook set a sequence back to its start, or its poll register
 *	upreempt_deliver   the hook granted it: captured, redirected or gated
 *	upreempt_outcome   final
 *	upreempt_gate      a thread is held (enter) or goes on (leave)
 *	upreempt_resume    registers were loaded through the kernel
 *	upreempt_refuse    an ioctl was refused, with its errno
 *	upreempt_world_stop     a thread has begun to stop the world
 *	upreempt_world_thread   a thread stood that was not in a system call
 *	upreempt_world_stopped  the end of the call, with its counts
 *	upreempt_world_start    the world goes on
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM upreempt

#if !defined(_UPREEMPT_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _UPREEMPT_TRACE_H

#include <linux/tracepoint.h>
#include <linux/upreempt.h>

#define up_show_kind(k)						\
	__print_symbolic(k,					\
		{ UPREEMPT_SAMPLE,	"SAMPLE" },		\
		{ UPREEMPT_STOP,	"STOP" },		\
		{ UPREEMPT_REDIRECT,	"REDIRECT" })

#define up_show_outcome(o)					\
	__print_symbolic(o,					\
		{ UPREEMPT_PENDING,	"PENDING" },		\
		{ UPREEMPT_LANDED,	"LANDED" },		\
		{ UPREEMPT_COOPERATED,	"COOPERATED" },		\
		{ UPREEMPT_BLOCKED,	"BLOCKED" },		\
		{ UPREEMPT_UNSAFE,	"UNSAFE" },		\
		{ UPREEMPT_GONE,	"GONE" },		\
		{ UPREEMPT_CANCELLED,	"CANCELLED" })

TRACE_EVENT(upreempt_request,
	TP_PROTO(u32 domain, u32 tid, u64 seq, u32 kind, u64 cookie),
	TP_ARGS(domain, tid, seq, kind, cookie),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u64, seq)
		__field(u32, kind)
		__field(u64, cookie)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->seq = seq;
		__entry->kind = kind;
		__entry->cookie = cookie;
	),
	TP_printk("domain=%u tid=%u seq=%llu kind=%s cookie=0x%llx",
		  __entry->domain, __entry->tid, __entry->seq,
		  up_show_kind(__entry->kind), __entry->cookie)
);

TRACE_EVENT(upreempt_ipi,
	TP_PROTO(u32 domain, u32 tid, int cpu, int ret),
	TP_ARGS(domain, tid, cpu, ret),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(int, cpu)
		__field(int, ret)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->cpu = cpu;
		__entry->ret = ret;
	),
	TP_printk("domain=%u tid=%u cpu=%d ret=%d",
		  __entry->domain, __entry->tid, __entry->cpu, __entry->ret)
);

TRACE_EVENT(upreempt_arm,
	TP_PROTO(u32 domain, u32 tid, u32 from),
	TP_ARGS(domain, tid, from),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u32, from)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->from = from;
	),
	TP_printk("domain=%u tid=%u from=%s", __entry->domain, __entry->tid,
		  __print_symbolic(__entry->from, { 0, "self" }, { 1, "ipi" },
				   { 2, "sched_in" }, { 3, "timer" }, { 4, "gate" },
				   { 5, "return" }))
);

TRACE_EVENT(upreempt_defer,
	TP_PROTO(u32 domain, u32 tid, u64 seq, u32 kind, u32 reason, u64 ip),
	TP_ARGS(domain, tid, seq, kind, reason, ip),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u64, seq)
		__field(u32, kind)
		__field(u32, reason)
		__field(u64, ip)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->seq = seq;
		__entry->kind = kind;
		__entry->reason = reason;
		__entry->ip = ip;
	),
	TP_printk("domain=%u tid=%u seq=%llu kind=%s reason=%u ip=0x%llx",
		  __entry->domain, __entry->tid, __entry->seq,
		  up_show_kind(__entry->kind), __entry->reason, __entry->ip)
);

TRACE_EVENT(upreempt_range,
	TP_PROTO(u32 domain, u32 tid, u32 class, u64 ip, u64 value),
	TP_ARGS(domain, tid, class, ip, value),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u32, class)
		__field(u64, ip)
		__field(u64, value)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->class = class;
		__entry->ip = ip;
		__entry->value = value;
	),
	TP_printk("domain=%u tid=%u class=%s ip=0x%llx value=0x%llx", __entry->domain,
		  __entry->tid, __print_symbolic(__entry->class, { 3, "RESTART" }, { 4, "POLL" }),
		  __entry->ip, __entry->value)
);

TRACE_EVENT(upreempt_deliver,
	TP_PROTO(u32 domain, u32 tid, u64 seq, u32 kind, u64 ip),
	TP_ARGS(domain, tid, seq, kind, ip),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u64, seq)
		__field(u32, kind)
		__field(u64, ip)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->seq = seq;
		__entry->kind = kind;
		__entry->ip = ip;
	),
	TP_printk("domain=%u tid=%u seq=%llu kind=%s ip=0x%llx",
		  __entry->domain, __entry->tid, __entry->seq,
		  up_show_kind(__entry->kind), __entry->ip)
);

TRACE_EVENT(upreempt_outcome,
	TP_PROTO(u32 domain, u32 tid, u64 seq, u32 kind, u32 outcome, u32 reason, u64 ns),
	TP_ARGS(domain, tid, seq, kind, outcome, reason, ns),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u64, seq)
		__field(u32, kind)
		__field(u32, outcome)
		__field(u32, reason)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->seq = seq;
		__entry->kind = kind;
		__entry->outcome = outcome;
		__entry->reason = reason;
		__entry->ns = ns;
	),
	TP_printk("domain=%u tid=%u seq=%llu kind=%s outcome=%s reason=%u ns=%llu",
		  __entry->domain, __entry->tid, __entry->seq,
		  up_show_kind(__entry->kind), up_show_outcome(__entry->outcome),
		  __entry->reason, __entry->ns)
);

TRACE_EVENT(upreempt_gate,
	TP_PROTO(u32 domain, u32 tid, bool enter, u64 ip),
	TP_ARGS(domain, tid, enter, ip),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(bool, enter)
		__field(u64, ip)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->enter = enter;
		__entry->ip = ip;
	),
	TP_printk("domain=%u tid=%u %s ip=0x%llx", __entry->domain, __entry->tid,
		  __entry->enter ? "enter" : "leave", __entry->ip)
);

TRACE_EVENT(upreempt_resume,
	TP_PROTO(u32 domain, u32 tid, u64 ip),
	TP_ARGS(domain, tid, ip),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u64, ip)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->ip = ip;
	),
	TP_printk("domain=%u tid=%u ip=0x%llx", __entry->domain, __entry->tid, __entry->ip)
);

TRACE_EVENT(upreempt_refuse,
	TP_PROTO(u32 cmd, int error),
	TP_ARGS(cmd, error),
	TP_STRUCT__entry(
		__field(u32, cmd)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->cmd = cmd;
		__entry->error = error;
	),
	TP_printk("cmd=0x%x error=%d", __entry->cmd, __entry->error)
);

TRACE_EVENT(upreempt_world_stop,
	TP_PROTO(u32 domain, u32 tid, u64 grace_ns),
	TP_ARGS(domain, tid, grace_ns),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u64, grace_ns)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->grace_ns = grace_ns;
	),
	TP_printk("domain=%u by=%u grace_ns=%llu", __entry->domain, __entry->tid,
		  __entry->grace_ns)
);

TRACE_EVENT(upreempt_world_thread,
	TP_PROTO(u32 domain, u32 tid, u32 how, u32 reason, u32 attempts, u64 ip, u64 ns),
	TP_ARGS(domain, tid, how, reason, attempts, ip, ns),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u32, how)
		__field(u32, reason)
		__field(u32, attempts)
		__field(u64, ip)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->how = how;
		__entry->reason = reason;
		__entry->attempts = attempts;
		__entry->ip = ip;
		__entry->ns = ns;
	),
	TP_printk("domain=%u tid=%u how=%s reason=%u attempts=%u ip=0x%llx ns=%llu",
		  __entry->domain, __entry->tid,
		  __print_symbolic(__entry->how, { 2, "LANDED" }, { 3, "PREEMPTED" },
				   { 4, "COOPERATED" }, { 5, "BLOCKED" }),
		  __entry->reason, __entry->attempts, __entry->ip, __entry->ns)
);

TRACE_EVENT(upreempt_world_stopped,
	TP_PROTO(u32 domain, u32 tid, u64 ns, const struct upreempt_world *r),
	TP_ARGS(domain, tid, ns, r),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u32, threads)
		__field(u32, landed)
		__field(u32, preempted)
		__field(u32, cooperated)
		__field(u32, blocked)
		__field(u32, stragglers)
		__field(u32, slowest)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->threads = r->threads;
		__entry->landed = r->landed;
		__entry->preempted = r->preempted;
		__entry->cooperated = r->cooperated;
		__entry->blocked = r->blocked;
		__entry->stragglers = r->stragglers;
		__entry->slowest = r->slowest.tid;
		__entry->ns = ns;
	),
	TP_printk("domain=%u by=%u threads=%u landed=%u preempted=%u cooperated=%u blocked=%u stragglers=%u slowest=%u ns=%llu",
		  __entry->domain, __entry->tid, __entry->threads, __entry->landed,
		  __entry->preempted, __entry->cooperated, __entry->blocked,
		  __entry->stragglers, __entry->slowest, __entry->ns)
);

TRACE_EVENT(upreempt_world_start,
	TP_PROTO(u32 domain, u32 tid, u64 ns),
	TP_ARGS(domain, tid, ns),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(u32, tid)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->tid = tid;
		__entry->ns = ns;
	),
	TP_printk("domain=%u by=%u ns=%llu", __entry->domain, __entry->tid, __entry->ns)
);

#endif /* _UPREEMPT_TRACE_H */

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH .
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
