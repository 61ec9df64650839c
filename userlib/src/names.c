// SPDX-License-Identifier: LGPL-2.1 OR MIT
#include "backend.h"
#include "reasons.h"

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

static const char *const reasons[UPREEMPT_REASON_MAX] = UPREEMPT_REASON_NAMES;

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
