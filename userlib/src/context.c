// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* What a handler asks about its context. Inside the interrupted frame: see land.c. */
#include "backend.h"
#include "arch/x86_64/frame.h"

#define XSAVE_LEGACY		512
#define XSAVE_BV		512	/* header: components that are there */
#define XSAVE_COMP_BV		520	/* header: components that have a place */
#define XSAVE_EXTENDED		576

struct upreempt_regs *upreempt_context_regs(struct upreempt_context *ctx)
{
	return &ctx->resume.regs;
}

uint64_t upreempt_context_cookie(const struct upreempt_context *ctx)
{
	return ctx->cookie;
}

uint64_t upreempt_context_seq(const struct upreempt_context *ctx)
{
	return ctx->seq;
}

struct upreempt_thread *upreempt_context_thread(const struct upreempt_context *ctx)
{
	return ctx->thread;
}

/* Compacted: in the order of the components that have a place */
static uint32_t compacted_offset(uint64_t comp_bv, unsigned int component)
{
	uint32_t offset = XSAVE_EXTENDED;
	unsigned int i;

	for (i = 2; i <= component; i++) {
		if (!(comp_bv >> i & 1))
			continue;
		if (upreempt_xs.part[i].align64)
			offset = (offset + 63) & ~63U;
		if (i < component)
			offset += upreempt_xs.part[i].size;
	}
	return offset;
}

static void *find_part(char *area, uint32_t mode, unsigned int component, size_t *size)
{
	uint64_t bv, comp_bv;
	uint32_t bytes = XSAVE_LEGACY, offset = 0;

	if (!area || component > 62)
		return NULL;
	if (component >= 2) {
		if (mode == XS_MODE_FXSAVE)
			return NULL;
		bv = *(uint64_t *)(area + XSAVE_BV);
		comp_bv = *(uint64_t *)(area + XSAVE_COMP_BV);
		if (!(bv >> component & 1))
			return NULL;
		bytes = upreempt_xs.part[component].size;
		offset = mode == XS_MODE_XSAVEC ? compacted_offset(comp_bv, component) :
			 upreempt_xs.part[component].offset;
	} else if (mode != XS_MODE_FXSAVE) {
		bv = *(uint64_t *)(area + XSAVE_BV);
		if (!(bv >> component & 1))
			return NULL;
	}
	if (size)
		*size = bytes;
	return area + offset;
}

void *upreempt_context_xstate(struct upreempt_context *ctx, unsigned int component, size_t *size)
{
	return find_part(ctx->xsave, ctx->xmode, component, size);
}

void *upreempt_xstate_part(void *area, unsigned int component, size_t *size)
{
	/* The standard form, whatever the landing uses here. */
	return find_part(area, upreempt_xs.mode == XS_MODE_FXSAVE ? XS_MODE_FXSAVE :
			 XS_MODE_XSAVE, component, size);
}
