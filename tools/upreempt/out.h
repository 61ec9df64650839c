/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * The one writer of the command's results: the same calls print text for a person
 * or JSON for a program. A NULL key leaves something out of JSON, a NULL label or
 * title leaves it out of text. JSON goes to the standard output in one object.
 */
#ifndef OUT_H
#define OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUT_FMT(f, a) __attribute__((format(printf, f, a)))

/* json: that instead of text; compact: each object on one line (JSON lines) */
void out_start(bool json, bool compact);
void out_finish(void);
bool out_is_json(void);

/* Text: a heading; JSON: a nested object */
void out_section(const char *key, const char *title);
void out_section_end(void);

void out_str(const char *key, const char *label, const char *fmt, ...) OUT_FMT(3, 4);
void out_u64(const char *key, const char *label, uint64_t v);
void out_double(const char *key, double v);		/* JSON only */
void out_bool(const char *key, const char *label, bool v, const char *yes, const char *no);
/* Text: joined by spaces; JSON: an array of strings */
void out_list(const char *key, const char *label, const char *const *v, size_t n);
/* A sentence: text as it is; JSON a string under key */
void out_note(const char *key, const char *fmt, ...) OUT_FMT(2, 3);
/* Progress, on the standard error and only when somebody watches; "" clears it */
void out_progress(const char *fmt, ...) OUT_FMT(1, 2);

struct out_col {
	const char *key;		/* NULL: not in JSON; not for the first column */
	const char *title;		/* NULL: not in text */
	bool right;			/* numbers */
};

/* A table; in JSON an array of objects. Cells are filled from left to right. */
struct out_table;
struct out_table *out_table(const char *key, const char *title, const struct out_col *cols,
			    size_t ncols);
void out_cell(struct out_table *t, const char *fmt, ...) OUT_FMT(2, 3);
/* A cell that says nothing when it repeats the one above, in text */
void out_cell_group(struct out_table *t, const char *s);
void out_cell_u64(struct out_table *t, uint64_t v);
/* Nanoseconds in JSON, microseconds in text */
void out_cell_ns(struct out_table *t, double ns);
void out_cell_json(struct out_table *t, const char *json);	/* nothing in text */
void out_cell_none(struct out_table *t);
void out_rule(struct out_table *t);	/* text: a line between rows */
void out_table_end(struct out_table *t);

/* Bold and friends on a terminal, else "" */
const char *out_bold(void);
const char *out_dim(void);
const char *out_plain(void);

/* Width on the terminal of a UTF-8 string without wide or combining characters */
size_t out_width(const char *s);

#endif
