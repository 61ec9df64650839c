/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * The device's calls as the fuzzer knows them: which field holds what, and which errors a call
 * may end with. upreempt.txt says the same to syzkaller.
 */
#ifndef FUZZ_CALLS_H
#define FUZZ_CALLS_H

#include "../include/raw.h"

/* What a field holds; the argument is in brackets */
enum fuzz_type {
	FUZZ_SIZE,		/* of the structure */
	FUZZ_FLAGS,		/* of this many defined bits [bits] */
	FUZZ_ENUM,		/* below this [max] */
	FUZZ_SLOT,
	FUZZ_ANY_SLOT,		/* a free one */
	FUZZ_OWN_SLOT,		/* that the calling thread has registered */
	FUZZ_SEQ,		/* of a request */
	FUZZ_ID,		/* of a registration; mostly 0 */
	FUZZ_AREA,		/* the id of an area */
	FUZZ_DEADLINE,		/* an absolute time */
	FUZZ_TIME,		/* a length of time */
	FUZZ_COUNT,		/* of things, up to [max] */
	FUZZ_CODE,		/* an address in the program */
	FUZZ_LENGTH,		/* of code */
	FUZZ_MEMORY,		/* the address of 64 KiB that may be read and written */
	FUZZ_FD,
	FUZZ_ZERO,		/* reserved */
	FUZZ_ANY,
};

struct fuzz_field {
	uint16_t offset, size;
	enum fuzz_type type;
	uint32_t arg;
};

#define FUZZ_FIELDS	16

struct fuzz_call {
	const char *name;
	unsigned long cmd;
	uint32_t size;			/* 0: the argument is a slot's number */
	uint32_t weight;
	int errors[14];			/* besides those of fuzz_common */
	struct fuzz_field fields[FUZZ_FIELDS];
};

/* Of a wrong structure, a wrong address, or a file that another thread has closed or replaced */
static const int fuzz_common[] = { EINVAL, EFAULT, E2BIG, EBADF, ENXIO, ENOTTY, 0 };

#define F(s, field, type, arg) \
	{ offsetof(struct s, field), sizeof(((struct s *)0)->field), FUZZ_##type, arg }

#define FUZZ_CALL(_name, _struct, _weight, ...) \
	.name = #_name, .cmd = UPREEMPT_IOC_##_name, .size = sizeof(struct _struct), \
	.weight = _weight, .fields = { F(_struct, size, SIZE, 0), __VA_ARGS__ }

#define FUZZ_SHORT(_name, _weight) \
	.name = #_name, .cmd = UPREEMPT_IOC_##_name, .weight = _weight

static const struct fuzz_call fuzz_calls[] = {
	{ FUZZ_CALL(QUERY, upreempt_query, 1) },
	{
		FUZZ_CALL(SETUP, upreempt_setup, 1,
			  F(upreempt_setup, flags, FLAGS, 1),
			  F(upreempt_setup, nr_slots, COUNT, 8),
			  F(upreempt_setup, nr_events, COUNT, 64),
			  F(upreempt_setup, reserved, ZERO, 0)),
		.errors = { EBUSY, EPERM, EDQUOT, ENOMEM },
	},
	{
		FUZZ_CALL(REGISTER, upreempt_register, 4,
			  F(upreempt_register, flags, ZERO, 0),
			  F(upreempt_register, slot, ANY_SLOT, 0),
			  F(upreempt_register, landing, CODE, 0),
			  F(upreempt_register, landing_end, CODE, 0),
			  F(upreempt_register, arg, MEMORY, 0),
			  F(upreempt_register, stack_lo, ZERO, 0),
			  F(upreempt_register, stack_hi, ZERO, 0),
			  F(upreempt_register, stack_need, COUNT, 4096),
			  F(upreempt_register, reserved32, ZERO, 0),
			  F(upreempt_register, reserved, ZERO, 0)),
		.errors = { EBUSY, EEXIST, ENOSPC, EUSERS, EPERM, ENOMEM },
	},
	{
		FUZZ_CALL(UNREGISTER, upreempt_ref, 2,
			  F(upreempt_ref, slot, OWN_SLOT, 0),
			  F(upreempt_ref, seq, ZERO, 0)),
		.errors = { EPERM, ESRCH, EBUSY },
	},
	{
		FUZZ_CALL(REQUEST, upreempt_request, 24,
			  F(upreempt_request, flags, FLAGS, 5),
			  F(upreempt_request, kind, ENUM, UPREEMPT_KIND_MAX),
			  F(upreempt_request, slot, SLOT, 0),
			  F(upreempt_request, cookie, ANY, 0),
			  F(upreempt_request, deadline_ns, DEADLINE, 0),
			  F(upreempt_request, grace_ns, TIME, 0),
			  F(upreempt_request, id, ID, 0),
			  F(upreempt_request, strategies, FLAGS, 3),
			  F(upreempt_request, steps, COUNT, UPREEMPT_STEPS_MAX)),
		.errors = { ESRCH, EAGAIN, EDEADLK, EOPNOTSUPP, EINTR, ENOMEM },
	},
	{
		FUZZ_CALL(WAIT, upreempt_wait, 8,
			  F(upreempt_wait, slot, SLOT, 0),
			  F(upreempt_wait, seq, SEQ, 0),
			  F(upreempt_wait, deadline_ns, DEADLINE, 0),
			  F(upreempt_wait, reserved, ZERO, 0)),
		.errors = { ENOENT, ETIMEDOUT, EINTR },
	},
	{
		FUZZ_CALL(CANCEL, upreempt_ref, 6,
			  F(upreempt_ref, slot, SLOT, 0),
			  F(upreempt_ref, seq, SEQ, 0)),
		.errors = { ENOENT, EALREADY, ESRCH },
	},
	{
		FUZZ_CALL(RELEASE, upreempt_ref, 10,
			  F(upreempt_ref, slot, SLOT, 0),
			  F(upreempt_ref, seq, SEQ, 0)),
		.errors = { ENOENT, ESRCH },
	},
	{
		FUZZ_CALL(RESUME, upreempt_resume, 1,
			  F(upreempt_resume, slot, OWN_SLOT, 0),
			  F(upreempt_resume, regs.rip, CODE, 0),
			  F(upreempt_resume, regs.rsp, ANY, 0),
			  F(upreempt_resume, regs.rflags, ANY, 0),
			  F(upreempt_resume, regs.reserved, ZERO, 0)),
		.errors = { EPERM, ESRCH },
	},
	{
		FUZZ_CALL(EVENTFD, upreempt_eventfd, 1,
			  F(upreempt_eventfd, fd, FD, 0)),
	},
	{
		FUZZ_CALL(STATS, upreempt_stats, 2,
			  F(upreempt_stats, slot, SLOT, 0)),
		.errors = { ESRCH },
	},
	{ FUZZ_SHORT(CHECK, 3), .errors = { EPERM, ESRCH } },
	{
		FUZZ_CALL(WORLD_STOP, upreempt_world, 6,
			  F(upreempt_world, flags, FLAGS, 3),
			  F(upreempt_world, grace_ns, TIME, 0),
			  F(upreempt_world, deadline_ns, DEADLINE, 0),
			  F(upreempt_world, strategies, FLAGS, 3),
			  F(upreempt_world, steps, COUNT, UPREEMPT_STEPS_MAX),
			  F(upreempt_world, reserved, ZERO, 0)),
		.errors = { EPERM, EAGAIN, ETIMEDOUT, EBUSY, EDEADLK, EINTR, ENOMEM },
	},
	{ FUZZ_SHORT(WORLD_START, 8), .errors = { EPERM } },
	{ FUZZ_SHORT(POLL, 4), .errors = { EPERM, ESRCH } },
	{
		FUZZ_CALL(XSTATE, upreempt_xstate, 3,
			  F(upreempt_xstate, slot, SLOT, 0),
			  F(upreempt_xstate, address, MEMORY, 0),
			  F(upreempt_xstate, room, COUNT, 16384),
			  F(upreempt_xstate, reserved, ZERO, 0)),
		.errors = { EBUSY, EAGAIN, ENOSPC, ESRCH, EINTR, ENOMEM },
	},
	{
		FUZZ_CALL(CODE_ADD, upreempt_code_add, 6,
			  F(upreempt_code_add, flags, ZERO, 0),
			  F(upreempt_code_add, base, CODE, 0),
			  F(upreempt_code_add, len, LENGTH, 0),
			  F(upreempt_code_add, ranges, MEMORY, 0),
			  F(upreempt_code_add, count, COUNT, 8),
			  F(upreempt_code_add, cls, ENUM, 3),
			  F(upreempt_code_add, replace, ID, 0),
			  F(upreempt_code_add, reserved32, ZERO, 0),
			  F(upreempt_code_add, reserved, ZERO, 0)),
		.errors = { EEXIST, ENOENT, ENOSPC, EPERM, ENOMEM, EINTR },
	},
	{
		FUZZ_CALL(CODE_REMOVE, upreempt_code_remove, 3,
			  F(upreempt_code_remove, flags, ZERO, 0),
			  F(upreempt_code_remove, id, AREA, 0),
			  F(upreempt_code_remove, reserved32, ZERO, 0)),
		.errors = { ENOENT, EPERM, ENOMEM, EINTR },
	},
};

#define FUZZ_CALLS	(sizeof(fuzz_calls) / sizeof(fuzz_calls[0]))

static inline bool fuzz_may_fail(const struct fuzz_call *c, int error)
{
	for (const int *e = fuzz_common; *e; e++)
		if (*e == error)
			return true;
	for (const int *e = c->errors; *e; e++)
		if (*e == error)
			return true;
	return false;
}

#endif
