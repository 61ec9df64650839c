/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* What the builder of tables (table.c) and the code of a domain (code.c) share */
#ifndef UPREEMPT_SRC_TABLE_H
#define UPREEMPT_SRC_TABLE_H

#include "backend.h"
#include <upreempt/table.h>
#include <upreempt_table.h>

#pragma GCC visibility push(hidden)

/* Memory that may also be wanted while the caller has stopped the world */
void *up_alloc(const struct upreempt_domain *d, size_t size);
void up_free(const struct upreempt_domain *d, void *p);

/*
 * The sorted, disjoint ranges of a table whose offsets are larger by shift than the area's;
 * for up_free(). -EINVAL: two overlap. -ERANGE: one lies before the area. -ENOMEM.
 */
int upreempt_table_flatten(const struct upreempt_domain *d, struct upreempt_table *t,
			   uint64_t shift, struct upreempt_range **ranges, uint32_t *count);
int upreempt_table_refused(struct upreempt_table *t, const struct upreempt_range *r, uint64_t shift,
			   uint32_t why);

#pragma GCC visibility pop
#endif
