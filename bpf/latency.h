/* SPDX-License-Identifier: LGPL-2.1 OR GPL-2.0 */
/* What latency.bpf.c measures: the types of its maps, for the tools that read them. */
#ifndef UPREEMPT_LATENCY_H
#define UPREEMPT_LATENCY_H

#include <linux/types.h>
#include <linux/upreempt.h>
#include "hist.h"

/*
 * The way of a request, in the order of time:
 *
 *	request -> ipi -> arm -> deliver -> landing -> resume	the module
 *	generate -> deliver -> landing -> resume		the signal backend
 *
 * "deliver" is the hook that captured the registers (or the kernel setting up
 * the signal's frame), "landing" the first line of the library's C code in the
 * redirected thread, "resume" the last one before the interrupted code goes on.
 */
enum latency_stage {
	STAGE_REQUEST_IPI,		/* accepting, queueing, finding the CPU */
	STAGE_IPI_ARM,			/* the interrupt's way to the thread's CPU */
	STAGE_REQUEST_ARM,		/* both, or another way than by IPI */
	STAGE_ARM_DELIVER,		/* until the hook granted it, deferrals included */
	STAGE_DELIVER_LANDING,
	STAGE_LANDING_RESUME,		/* extended state saved, the handler, and back */
	STAGE_REQUEST_LANDING,		/* sums */
	STAGE_REQUEST_OUTCOME,
	STAGE_REQUEST_RESUME,
	STAGE_GATE,			/* how long stopped threads were held */
	STAGE_SIGNAL_DELIVER,		/* signal_generate -> signal_deliver */
	STAGE_SIGNAL_LANDING,
	STAGE_SIGNAL_RESUME,
	STAGE_SIGNAL_TOTAL,		/* signal_generate -> resume */
	STAGE_WORLD_THREAD,		/* a stop of the world: until one thread stood */
	STAGE_WORLD_STOPPED,		/* until all stood, or the deadline */
	STAGE_WORLD_HELD,		/* until the world went on */
	STAGE_MAX,
};

/* kind and outcome are 0 (and the gate's kind STOP) where a stage has none */
struct latency_key {
	enum latency_stage stage;
	enum upreempt_kind kind;
	enum upreempt_outcome outcome;
};

#define LATENCY_MAX_HISTS	256

#endif
