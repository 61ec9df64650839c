/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * Safe-point tables: where a thread may be stopped, code range by code range.
 *
 * A domain that is opened with UPREEMPT_DOMAIN_DECLARED takes code for unsafe unless an area
 * says otherwise; any domain honours what its areas say. Ranges come from a builder, for code
 * that is made at run time, or from marks that macros leave in the program's own code. This
 * header may be included by assembler sources, which get the macros only.
 */
#ifndef UPREEMPT_TABLE_H
#define UPREEMPT_TABLE_H

/* ---- marks in code ------------------------------------------------------- */

/*
 * Between BEGIN and END, in the text of one asm statement or in an assembler source. name is
 * part of two labels: unique in the object file. In C it is a string, in extended asm best one
 * that ends in "%=".
 *
 *	SAFE		may be stopped at any instruction
 *	UNSAFE		may not
 *	STEP		may not, and is single-stepped to where it may; the signal backend: UNSAFE
 *	RESTARTABLE	is begun anew at BEGIN: the last instruction is the only one that others
 *			see, and BEGIN's registers and memory are still there before it
 *	POLL		before a stop register reg (an UPREEMPT_REG_*: its number) gets a value: a
 *			constant, or the address of a function; the code behind END tests the register,
 *			or calls through it, and comes to upreempt_poll_slow()
 */
#ifdef __ASSEMBLER__

#define UPREEMPT_MARK_BEGIN(name) .Lupreempt_begin_##name:
#define UPREEMPT_MARK_END(name, cls, reg, target, value)			\
.Lupreempt_end_##name: ;							\
	.pushsection upreempt_ranges, "a", @progbits ;				\
	.balign 8 ;								\
	.long .Lupreempt_begin_##name - . ;					\
	.long .Lupreempt_end_##name - . ;					\
	.quad value ;								\
	.long target ;								\
	.byte cls, reg, 0, 0 ;							\
	.popsection
#define UPREEMPT_MARK_SELF(name) .Lupreempt_begin_##name - .

#else

#define UPREEMPT_MARK_TEXT_(x) #x
#define UPREEMPT_MARK_TEXT(x) UPREEMPT_MARK_TEXT_(x)
#define UPREEMPT_MARK_BEGIN(name) ".Lupreempt_begin_" name ":\n"
#define UPREEMPT_MARK_END(name, cls, reg, target, value)			\
	".Lupreempt_end_" name ":\n"						\
	"	.pushsection upreempt_ranges, \"a\", @progbits\n"		\
	"	.balign 8\n"							\
	"	.long .Lupreempt_begin_" name " - .\n"				\
	"	.long .Lupreempt_end_" name " - .\n"				\
	"	.quad " UPREEMPT_MARK_TEXT(value) "\n"				\
	"	.long " target "\n"						\
	"	.byte " #cls ", " UPREEMPT_MARK_TEXT(reg) ", 0, 0\n"		\
	"	.popsection\n"
#define UPREEMPT_MARK_SELF(name) ".Lupreempt_begin_" name " - ."

#endif

#ifdef __ASSEMBLER__
#define UPREEMPT_MARK_ZERO	0
#define UPREEMPT_MARK_ADDRESS(symbol) symbol - .
#else
#define UPREEMPT_MARK_ZERO	"0"
#define UPREEMPT_MARK_ADDRESS(symbol) symbol " - ."
#endif

/* The numbers are those of enum upreempt_class. */
#define UPREEMPT_SAFE_BEGIN(name)	UPREEMPT_MARK_BEGIN(name)
#define UPREEMPT_SAFE_END(name)		UPREEMPT_MARK_END(name, 1, 0, UPREEMPT_MARK_ZERO, 0)
#define UPREEMPT_UNSAFE_BEGIN(name)	UPREEMPT_MARK_BEGIN(name)
#define UPREEMPT_UNSAFE_END(name)	UPREEMPT_MARK_END(name, 2, 0, UPREEMPT_MARK_ZERO, 0)
#define UPREEMPT_STEP_BEGIN(name)	UPREEMPT_MARK_BEGIN(name)
#define UPREEMPT_STEP_END(name)		UPREEMPT_MARK_END(name, 6, 0, UPREEMPT_MARK_ZERO, 0)
#define UPREEMPT_RESTARTABLE_BEGIN(name) UPREEMPT_MARK_BEGIN(name)
#define UPREEMPT_RESTARTABLE_END(name)	\
	UPREEMPT_MARK_END(name, 3, 0, UPREEMPT_MARK_SELF(name), 0)
#define UPREEMPT_POLL_BEGIN(name)	UPREEMPT_MARK_BEGIN(name)
#define UPREEMPT_POLL_END(name, reg, value) \
	UPREEMPT_MARK_END(name, 4, reg, UPREEMPT_MARK_ZERO, value)
/* function: a symbol of the same object (in C a string) */
#define UPREEMPT_POLL_CALL_END(name, reg, function) \
	UPREEMPT_MARK_END(name, 4, reg, UPREEMPT_MARK_ADDRESS(function), 0)

#ifndef __ASSEMBLER__

#include <upreempt/upreempt.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A function that may be stopped at any instruction */
#define __upreempt_safe	__attribute__((section("upreempt_text_safe"), noinline))

/* What the macros emit: addresses are relative to the field that holds them */
struct upreempt_mark {
	int32_t		start, end;
	uint64_t	value;
	int32_t		target;		/* 0: none */
	uint8_t		cls, reg, reserved[2];
};

/* ---- building a table ------------------------------------------------------- */

struct upreempt_table;		/* ranges, in any order */
struct upreempt_code;		/* an area that was added to a domain */

/* -ENOMEM. */
UPREEMPT_API int upreempt_table_new(struct upreempt_table **table);
/* NULL is accepted. What was added to a domain is a copy. */
UPREEMPT_API void upreempt_table_free(struct upreempt_table *table);
/*
 * [start, start + len), offsets from the base of the area, is SAFE, UNSAFE or STEP. Ranges may
 * nest: the innermost holds; of two with the same extent the later. Whether one fits the
 * area is known when it is added. -EINVAL: len, an offset from 2^32 on, the class. -ENOMEM.
 */
UPREEMPT_API int upreempt_table_range(struct upreempt_table *table, uint64_t start, uint64_t len,
				      enum upreempt_class cls);
/* RESTART: back to offset back_to, at most UPREEMPT_RESTART_MAX bytes before the range's end */
UPREEMPT_API int upreempt_table_restart(struct upreempt_table *table, uint64_t start, uint64_t len,
					uint64_t back_to);
/* POLL: reg (not rsp) gets value */
UPREEMPT_API int upreempt_table_poll(struct upreempt_table *table, uint64_t start, uint64_t len,
				     enum upreempt_reg reg, uint64_t value);
/* What was wrong with the table when it was used last, as a sentence; "" */
UPREEMPT_API const char *upreempt_table_error(const struct upreempt_table *table);

/* ---- code of a domain ------------------------------------------------------- */

/*
 * Declare [base, base + len); cls, SAFE or UNSAFE, is for what no range of the table names
 * (NULL: for all of it). For every thread at once; while the world is stopped: when it goes
 * on. code may be NULL; it is freed by upreempt_code_remove() and with the domain.
 * -EINVAL: class, area, or the table, whose upreempt_table_error() names the ranges. -EEXIST:
 * overlaps another area. -E2BIG, -ENOSPC: too many ranges or areas. -EPERM: not the process
 * that opened the domain. -ENOMEM.
 */
UPREEMPT_API int upreempt_code_add(struct upreempt_domain *domain, struct upreempt_table *table,
				   const void *base, size_t len, enum upreempt_class cls,
				   struct upreempt_code **code);
/* Other ranges for the same area, in one step. Errors as above. */
UPREEMPT_API int upreempt_code_replace(struct upreempt_code *code, struct upreempt_table *table,
				       enum upreempt_class cls);
/*
 * Take code away, for JIT compilers: nobody may get into it any more (the program has taken
 * back what led there). Waits, by handshakes, until every registered thread was seen outside:
 * with no register, and no word of its stack, that points into it. Only then its ranges are
 * forgotten, free_fn (may be NULL) is called with arg, and *code is gone. Until then the table
 * protects whoever is still inside. The calling thread must not have been called by the code.
 *
 * -ETIMEDOUT: at deadline_ns (0: none) a thread was inside, e.g. in a system call that the
 * code has made, or could not be seen; everything is as before. -EBUSY: the same, and the
 * caller has stopped the world. -EOPNOTSUPP: a thread was registered without the bounds of
 * its stack. -EPERM.
 */
UPREEMPT_API int upreempt_code_remove(struct upreempt_code *code, void (*free_fn)(void *arg),
				      void *arg, uint64_t deadline_ns);
/*
 * The executable segment of the loaded object with this GNU build-id. Offsets in the table
 * are the object's own addresses (those of its symbols). -ENOENT: no such object is loaded.
 * -ERANGE: a range lies outside of that segment. Else as upreempt_code_add().
 */
UPREEMPT_API int upreempt_code_add_for_build_id(struct upreempt_domain *domain,
						const void *build_id, size_t id_len,
						struct upreempt_table *table,
						enum upreempt_class cls,
						struct upreempt_code **code);

/* What an object has been marked with; filled in by upreempt_code_add_object() */
struct upreempt_marks {
	size_t		size;
	const void	*inside;	/* an address of the object */
	const struct upreempt_mark *first, *last;	/* [first, last) */
	const char	*safe, *safe_end;		/* its functions that are __upreempt_safe */
};

UPREEMPT_API int upreempt_code_add_marks(struct upreempt_domain *domain,
					 const struct upreempt_marks *marks,
					 enum upreempt_class cls, struct upreempt_code **code);

extern const char __ehdr_start[] __attribute__((weak, visibility("hidden")));
extern const struct upreempt_mark __start_upreempt_ranges[]
	__attribute__((weak, visibility("hidden")));
extern const struct upreempt_mark __stop_upreempt_ranges[]
	__attribute__((weak, visibility("hidden")));
extern const char __start_upreempt_text_safe[] __attribute__((weak, visibility("hidden")));
extern const char __stop_upreempt_text_safe[] __attribute__((weak, visibility("hidden")));

/*
 * The executable segment of the object that calls this, with its marks and its
 * __upreempt_safe functions; cls is for the rest. -ENOENT: the object is not to be found.
 * -ERANGE: a mark lies outside of that segment. Else as upreempt_code_add().
 */
static inline int upreempt_code_add_object(struct upreempt_domain *domain,
					   enum upreempt_class cls, struct upreempt_code **code)
{
	UPREEMPT_OPTS(upreempt_marks, marks, .inside = __ehdr_start,
		      .first = __start_upreempt_ranges, .last = __stop_upreempt_ranges,
		      .safe = __start_upreempt_text_safe, .safe_end = __stop_upreempt_text_safe);

	return upreempt_code_add_marks(domain, &marks, cls, code);
}

#ifdef __cplusplus
}
#endif
#endif /* !__ASSEMBLER__ */
#endif
