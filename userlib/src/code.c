// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The areas of a domain: adding, replacing, and taking code away safely.
 *
 * Taking away asks every thread by handshakes whether anything of it leads into the code: a
 * general register, or a word of the live part of its stack (return addresses, contexts of
 * handlers and frames of signals lie there). As with a conservative collector a stray word
 * only costs time. The table is forgotten last: as long as somebody is inside, its unsafe
 * ranges and sequences have to be respected.
 */
#include "table.h"
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <string.h>
#include <time.h>

#define RED_ZONE	128
#define PAUSE_MIN_NS	100000
#define PAUSE_MAX_NS	20000000

struct upreempt_code {
	struct upreempt_domain *domain;
	struct upreempt_code *next, **pprev;	/* under domain->code_lock */
	uint64_t id, base, len;
	/* what the handshakes find; stays until the last of them has ended */
	const struct upreempt_thread *remover;
	uint32_t inside;		/* atomic */
	uint32_t unknown;		/* no bounds of the stack; atomic */
	pid_t tid;			/* one that was inside, and where it was */
	uint64_t rip;
};

static int usable(const struct upreempt_domain *d)
{
	return d->generation == upreempt_generation ? 0 : -EPERM;
}

static void link_code(struct upreempt_domain *d, struct upreempt_code *c)
{
	up_lock(&d->code_lock);
	c->next = d->codes;
	c->pprev = &d->codes;
	if (c->next)
		c->next->pprev = &c->next;
	d->codes = c;
	up_unlock(&d->code_lock);
}

static void unlink_code(struct upreempt_domain *d, struct upreempt_code *c)
{
	up_lock(&d->code_lock);
	*c->pprev = c->next;
	if (c->next)
		c->next->pprev = c->pprev;
	up_unlock(&d->code_lock);
}

void upreempt_codes_free(struct upreempt_domain *d)
{
	struct upreempt_code *c;

	while ((c = d->codes)) {
		d->codes = c->next;
		up_free(d, c);
	}
}

/* ---- adding --------------------------------------------------------------------- */

/* An area with a table whose offsets are larger by @shift; @c: fill in, or replace */
static int install(struct upreempt_domain *d, struct upreempt_table *t, uint64_t shift,
		   struct upreempt_code *c, enum upreempt_class cls)
{
	struct upreempt_code_add a = {
		.size = sizeof(a), .base = c->base, .len = c->len, .cls = cls, .replace = c->id,
	};
	struct upreempt_range *ranges = NULL;
	int ret = 0;

	if (t)
		ret = upreempt_table_flatten(d, t, shift, &ranges, &a.count);
	if (ret)
		return ret;
	a.ranges = (uintptr_t)ranges;
	ret = d->ops->code_add(d, &a);
	if (!ret)
		c->id = a.id;
	else if (ret == -EINVAL && a.bad < a.count)
		ret = shift && a.why == UPREEMPT_RANGE_OUTSIDE ? -ERANGE :
		      upreempt_table_refused(t, &ranges[a.bad], shift, a.why);
	up_free(d, ranges);
	return ret;
}

static int add(struct upreempt_domain *d, struct upreempt_table *t, uint64_t shift, uint64_t base,
	       uint64_t len, enum upreempt_class cls, struct upreempt_code **code)
{
	struct upreempt_code *c = up_alloc(d, sizeof(*c));
	int ret;

	if (!c)
		return -ENOMEM;
	memset(c, 0, sizeof(*c));
	c->domain = d;
	c->base = base;
	c->len = len;
	ret = install(d, t, shift, c, cls);
	if (ret) {
		up_free(d, c);
		return ret;
	}
	link_code(d, c);
	if (code)
		*code = c;
	return 0;
}

int upreempt_code_add(struct upreempt_domain *d, struct upreempt_table *t, const void *base,
		      size_t len, enum upreempt_class cls, struct upreempt_code **code)
{
	int ret = d ? usable(d) : -EINVAL;

	return ret ? ret : add(d, t, 0, (uintptr_t)base, len, cls, code);
}

int upreempt_code_replace(struct upreempt_code *c, struct upreempt_table *t,
			  enum upreempt_class cls)
{
	int ret = c ? usable(c->domain) : -EINVAL;

	return ret ? ret : install(c->domain, t, 0, c, cls);
}

/* ---- removing ---------------------------------------------------------------------- */

static bool into(const struct upreempt_code *c, uint64_t word)
{
	return word - c->base < c->len;
}

static bool registers_lead_into(const struct upreempt_code *c, const struct upreempt_regs *r)
{
	const uint64_t *words = (const uint64_t *)r;
	size_t i;

	for (i = 0; i <= offsetof(struct upreempt_regs, rip) / 8; i++)
		if (into(c, words[i]))
			return true;
	return false;
}

/* On another stack than its own (a signal's) there is no knowing what lies on the latter. */
static bool stack_leads_into(const struct upreempt_code *c, uint64_t sp, uint64_t lo, uint64_t hi)
{
	uint64_t at;

	if (sp < lo || sp > hi)
		return true;
	at = sp - lo > RED_ZONE ? sp - RED_ZONE : lo;
	for (at = (at + 7) & ~7ULL; at + 8 <= hi; at += 8)
		if (into(c, *(const volatile uint64_t *)(uintptr_t)at))
			return true;
	return false;
}

/* For each thread, at its own safe point or while it is held */
static void look(struct upreempt_thread *t, const struct upreempt_snapshot *at, void *arg)
{
	struct upreempt_code *c = arg;

	if (t == c->remover)
		return;
	if (!at->hi)
		__atomic_add_fetch(&c->unknown, 1, __ATOMIC_RELAXED);
	else if (!registers_lead_into(c, &at->regs) &&
		 !stack_leads_into(c, at->sp, t->stack_lo, at->hi))
		return;
	c->tid = t->tid;
	c->rip = at->regs.rip;
	__atomic_add_fetch(&c->inside, 1, __ATOMIC_RELAXED);
}

static void pause_ns(uint64_t ns)
{
	struct timespec ts = { 0, ns };

	nanosleep(&ts, NULL);
}

/* 0: nobody is inside */
static int await_outside(struct upreempt_code *c, uint64_t deadline_ns)
{
	struct upreempt_handshake h = { .size = sizeof(h) };
	uint64_t pause = PAUSE_MIN_NS;
	int ret;

	for (;;) {
		__atomic_store_n(&c->inside, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&c->unknown, 0, __ATOMIC_RELAXED);
		ret = upreempt_handshake(c->domain, look, c, deadline_ns, &h);
		if (ret < 0)
			return ret;
		if (__atomic_load_n(&c->unknown, __ATOMIC_RELAXED))
			return -EOPNOTSUPP;
		if (!ret && !__atomic_load_n(&c->inside, __ATOMIC_RELAXED))
			return 0;
		if (upreempt_is_stopper(c->domain))
			return -EBUSY;
		if (deadline_ns && upreempt_now() >= deadline_ns)
			break;
		pause_ns(pause);
		pause = pause < PAUSE_MAX_NS / 2 ? 2 * pause : PAUSE_MAX_NS;
	}
	upreempt_log(1, "code at %#llx stays: thread %d, at %#llx, %s", (unsigned long long)c->base,
		     ret ? (int)h.tid : c->tid, (unsigned long long)(ret ? h.rip : c->rip),
		     ret ? upreempt_reason_name(h.reason) : "is inside or points into it");
	return -ETIMEDOUT;
}

int upreempt_code_remove(struct upreempt_code *c, void (*free_fn)(void *arg), void *arg,
			 uint64_t deadline_ns)
{
	struct upreempt_domain *d;
	int ret = c ? usable(c->domain) : -EINVAL;

	if (ret)
		return ret;
	d = c->domain;
	c->remover = upreempt_self && upreempt_self->domain == d ? upreempt_self : NULL;
	ret = await_outside(c, deadline_ns);
	if (!ret)
		ret = d->ops->code_remove(d, c->id);
	if (ret)
		return ret;
	unlink_code(d, c);
	up_free(d, c);
	if (free_fn)
		free_fn(arg);
	return 0;
}

/* ---- objects -------------------------------------------------------------------------- */

struct wanted {
	const void *inside;		/* an address in it, or */
	const void *build_id;
	size_t id_len;
	uint64_t load;			/* out: what its addresses are relative to */
	uint64_t base, len;		/* out: its executable segment */
};

static size_t align4(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

static bool note_matches(const struct wanted *w, const char *p, size_t size)
{
	const ElfW(Nhdr) *n;
	size_t name, desc;

	while (size >= sizeof(*n)) {
		n = (const void *)p;
		name = align4(n->n_namesz);
		desc = align4(n->n_descsz);
		if (name > size - sizeof(*n) || desc > size - sizeof(*n) - name)
			return false;
		if (n->n_type == NT_GNU_BUILD_ID && n->n_namesz == 4 && n->n_descsz == w->id_len &&
		    !memcmp(n + 1, "GNU", 4) &&
		    !memcmp((const char *)(n + 1) + name, w->build_id, w->id_len))
			return true;
		p += sizeof(*n) + name + desc;
		size -= sizeof(*n) + name + desc;
	}
	return false;
}

static bool is_wanted(const struct wanted *w, const struct dl_phdr_info *o)
{
	int i;

	for (i = 0; i < o->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &o->dlpi_phdr[i];
		uint64_t at = o->dlpi_addr + p->p_vaddr;

		if (w->build_id && p->p_type == PT_NOTE &&
		    note_matches(w, (const char *)(uintptr_t)at, p->p_memsz))
			return true;
		if (!w->build_id && p->p_type == PT_LOAD &&
		    (uintptr_t)w->inside - at < p->p_memsz)
			return true;
	}
	return false;
}

static int find_object(struct dl_phdr_info *o, size_t size, void *arg)
{
	struct wanted *w = arg;
	int i;

	(void)size;
	if (!is_wanted(w, o))
		return 0;
	for (i = 0; i < o->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &o->dlpi_phdr[i];

		if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
			continue;
		w->load = o->dlpi_addr;
		w->base = o->dlpi_addr + p->p_vaddr;
		w->len = p->p_memsz;
		return 1;
	}
	return 0;
}

int upreempt_code_add_for_build_id(struct upreempt_domain *d, const void *build_id, size_t id_len,
				   struct upreempt_table *t, enum upreempt_class cls,
				   struct upreempt_code **code)
{
	struct wanted w = { .build_id = build_id, .id_len = id_len };
	int ret = d && build_id && id_len ? usable(d) : -EINVAL;

	if (ret)
		return ret;
	if (!dl_iterate_phdr(find_object, &w))
		return -ENOENT;
	return add(d, t, w.base - w.load, w.base, w.len, cls, code);
}

static int add_mark(struct upreempt_table *t, const struct wanted *w, const struct upreempt_mark *m)
{
	uint64_t start = (uintptr_t)&m->start + m->start - w->base;
	uint64_t end = (uintptr_t)&m->end + m->end - w->base;
	uint64_t target = m->target ? (uintptr_t)&m->target + m->target : 0;

	/* Two labels at one place: nothing lies between them. */
	if (start == end)
		return 0;
	if (start >= w->len || end > w->len || end < start)
		return -ERANGE;
	switch (m->cls) {
	case UPREEMPT_CODE_RESTART:
		return upreempt_table_restart(t, start, end - start, target - w->base);
	case UPREEMPT_CODE_POLL:
		return upreempt_table_poll(t, start, end - start, m->reg, target ? target : m->value);
	default:
		return upreempt_table_range(t, start, end - start, m->cls);
	}
}

int upreempt_code_add_marks(struct upreempt_domain *d, const struct upreempt_marks *marks,
			    enum upreempt_class cls, struct upreempt_code **code)
{
	const struct upreempt_mark *m;
	struct upreempt_table *t;
	struct wanted w = { 0 };
	int ret = d && marks && marks->size >= sizeof(*marks) ? usable(d) : -EINVAL;

	if (ret)
		return ret;
	w.inside = marks->inside;
	if (!dl_iterate_phdr(find_object, &w))
		return -ENOENT;
	ret = upreempt_table_new(&t);
	if (ret)
		return ret;
	if (marks->safe_end > marks->safe) {
		uint64_t safe = (uintptr_t)marks->safe - w.base;

		ret = safe >= w.len ? -ERANGE :
		      upreempt_table_range(t, safe, marks->safe_end - marks->safe,
					   UPREEMPT_CODE_SAFE);
	}
	for (m = marks->first; !ret && m < marks->last; m++)
		ret = add_mark(t, &w, m);
	if (!ret)
		ret = add(d, t, 0, w.base, w.len, cls, code);
	upreempt_table_free(t);
	return ret;
}
