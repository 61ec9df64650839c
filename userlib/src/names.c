// SPDX-License-Identifier: LGPL-2.1 OR MIT
#include "backend.h"

static const char *const outcomes[UPREEMPT_OUTCOME_MAX] = {
	[UPREEMPT_PENDING]	= "PENDING",
	[UPREEMPT_LANDED]	= "LANDED",
	[UPREEMPT_COOPERATED]	= "COOPERATED",
	[UPREEMPT_BLOCKED]	= "BLOCKED",
	[UPREEMPT_UNSAFE]	= "UNSAFE",
	[UPREEMPT_GONE]		= "GONE",
	[UPREEMPT_CANCELLED]	= "CANCELLED",
};

static const char *const kinds[UPREEMPT_KIND_MAX] = {
	[UPREEMPT_SAMPLE]	= "SAMPLE",
	[UPREEMPT_STOP]		= "STOP",
	[UPREEMPT_REDIRECT]	= "REDIRECT",
};

static const char *const reasons[UPREEMPT_REASON_MAX] = {
	[UPREEMPT_R_NONE]		= "NONE",
	[UPREEMPT_R_NOT_RUN]		= "NOT_RUN",
	[UPREEMPT_R_IN_SYSCALL]		= "IN_SYSCALL",
	[UPREEMPT_R_RSEQ]		= "RSEQ",
	[UPREEMPT_R_RSEQ_FAULT]		= "RSEQ_FAULT",
	[UPREEMPT_R_SIGNAL_FRAME]	= "SIGNAL_FRAME",
	[UPREEMPT_R_SIGNAL_STACK]	= "SIGNAL_STACK",
	[UPREEMPT_R_LANDING]		= "LANDING",
	[UPREEMPT_R_SLOT_BUSY]		= "SLOT_BUSY",
	[UPREEMPT_R_DISABLED]		= "DISABLED",
	[UPREEMPT_R_OFF]		= "OFF",
	[UPREEMPT_R_STACK_BOUNDS]	= "STACK_BOUNDS",
	[UPREEMPT_R_STACK_ROOM]		= "STACK_ROOM",
	[UPREEMPT_R_NOT_64BIT]		= "NOT_64BIT",
	[UPREEMPT_R_SINGLE_STEP]	= "SINGLE_STEP",
	[UPREEMPT_R_UPROBE]		= "UPROBE",
	[UPREEMPT_R_KERNEL_IP]		= "KERNEL_IP",
	[UPREEMPT_R_RING_FULL]		= "RING_FULL",
	[UPREEMPT_R_HELD]		= "HELD",
	[UPREEMPT_R_NO_GATE]		= "NO_GATE",
	[UPREEMPT_R_EXCEPTION]		= "EXCEPTION",
	[UPREEMPT_R_JOBCTL]		= "JOBCTL",
	[UPREEMPT_R_TRACED]		= "TRACED",
	[UPREEMPT_R_STOPPER]		= "STOPPER",
	[UPREEMPT_R_GRACE]		= "GRACE",
	[UPREEMPT_R_SILENT]		= "SILENT",
	[UPREEMPT_R_UNDECLARED]		= "UNDECLARED",
	[UPREEMPT_R_UNSAFE_RANGE]	= "UNSAFE_RANGE",
	[UPREEMPT_R_POLL_SET]		= "POLL_SET",
};

static const char *const backends[] = {
	[UPREEMPT_BACKEND_AUTO]		= "auto",
	[UPREEMPT_BACKEND_KMOD]		= "kmod",
	[UPREEMPT_BACKEND_SIGNAL]	= "signal",
};

#define NAME(table, i)	((i) < sizeof(table) / sizeof((table)[0]) && (table)[i] ? (table)[i] : "?")

const char *upreempt_outcome_name(unsigned int outcome)
{
	return NAME(outcomes, outcome);
}

const char *upreempt_kind_name(unsigned int kind)
{
	return NAME(kinds, kind);
}

const char *upreempt_reason_name(unsigned int reason)
{
	return NAME(reasons, reason);
}

const char *upreempt_backend_name(enum upreempt_backend backend)
{
	return NAME(backends, (unsigned int)backend);
}
