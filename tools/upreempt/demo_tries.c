// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* The first part of the demo: what came of each kind of request to each loop. */
#include "cmd.h"
#include "demo.h"
#include "out.h"
#include "sym.h"

#include <stdlib.h>
#include <string.h>

#define TRIES		40	/* requests of a kind to each loop, for the first table */
#define TRIES_NS	(350 * MILLISECOND)	/* but no longer than this */
#define HOLD_NS		(3 * MILLISECOND)
#define MAX_PLACES	64

/* What came of the requests of one kind to one loop */
struct row {
	const char *backend, *loop;
	enum upreempt_kind kind;
	unsigned int outcomes[UPREEMPT_OUTCOME_MAX], errors;
	int error;
	struct { uint64_t ip; unsigned int n; } places[MAX_PLACES];
	unsigned int nplaces, total;
	char proof[96];
};

static const struct out_col outcome_cols[] = {
	{ "backend", NULL, false }, { "loop", "loop", false }, { "kind", "asked", false },
	{ "outcome", "outcome", false }, { "n", "n", true },
	{ "where", "where it stood", false }, { "places", "places", true },
	{ "proof", "what was seen", false },
};

static void note_place(struct row *row, uint64_t ip)
{
	unsigned int i;

	row->total++;
	for (i = 0; i < row->nplaces; i++) {
		if (row->places[i].ip == ip) {
			row->places[i].n++;
			return;
		}
	}
	if (i < MAX_PLACES) {
		row->places[i].ip = ip;
		row->places[i].n = 1;
		row->nplaces++;
	}
}

static bool ask(struct spinner *s, struct row *row, struct upreempt_event *event)
{
	UPREEMPT_OPTS(upreempt_request_opts, opts, .kind = row->kind,
		      .deadline_ns = upreempt_deadline(500 * MILLISECOND));
	int err = upreempt_request(s->thread, &opts, event);

	if (err) {
		row->errors++;
		row->error = err;
		return false;
	}
	row->outcomes[event->outcome < UPREEMPT_OUTCOME_MAX ? event->outcome : 0]++;
	if (event->frame != UPREEMPT_FRAME_NONE)
		note_place(row, event->regs.rip);
	return event->outcome == UPREEMPT_LANDED;
}

static void try_sample(struct spinner *s, struct row *row)
{
	uint64_t end = now_ns() + TRIES_NS;
	struct upreempt_event event;
	unsigned int i;

	for (i = 0; i < TRIES && now_ns() < end; i++) {
		ask(s, row, &event);
		spinner_moves(s);
	}
	snprintf(row->proof, sizeof(row->proof), "registers read, thread went on");
}

/*
 * While it is held its counter may not move at all, nor, in the loop that has none,
 * its CPU time. That may run on for a moment: the request is answered when the thread
 * is caught, and it still has to go to sleep, which an emulator may draw out.
 */
static bool stands_still(struct spinner *s, uint64_t *count)
{
	struct timespec nap = { .tv_nsec = HOLD_NS };
	unsigned int tries;
	uint64_t cpu;

	*count = s->state.count;
	for (tries = 0; tries < 20; tries++) {
		cpu = spinner_cpu_ns(s);
		nanosleep(&nap, NULL);
		if (s->loop->counts)
			return s->state.count == *count;
		if (spinner_cpu_ns(s) - cpu < HOLD_NS / 10)
			return true;
	}
	return false;
}

static bool goes_on(struct spinner *s)
{
	uint64_t cpu = spinner_cpu_ns(s), end = now_ns() + 1000 * MILLISECOND;

	if (s->loop->counts)
		return spinner_moves(s);
	while (spinner_cpu_ns(s) - cpu < MILLISECOND)
		if (now_ns() > end)
			return false;
	return true;
}

static void try_stop(struct spinner *s, struct row *row)
{
	unsigned int i, still = 0, on = 0, held = 0;
	struct upreempt_event event;
	uint64_t count = 0, end = now_ns() + TRIES_NS;

	for (i = 0; i < TRIES / 4 && now_ns() < end; i++) {
		if (!ask(s, row, &event))
			continue;
		held++;
		still += stands_still(s, &count);
		upreempt_release(s->thread, event.seq);
		on += goes_on(s);
	}
	if (!held)
		snprintf(row->proof, sizeof(row->proof), "never held");
	else if (still < held || on < held)
		snprintf(row->proof, sizeof(row->proof), "stood still %u, went on %u of %u times",
			 still, on, held);
	else if (s->loop->counts)
		snprintf(row->proof, sizeof(row->proof), "counter frozen at %llu for %llu ms",
			 (unsigned long long)count, HOLD_NS / MILLISECOND);
	else
		snprintf(row->proof, sizeof(row->proof), "used no CPU time for %llu ms",
			 HOLD_NS / MILLISECOND);
}

static void try_redirect(struct spinner *s, struct row *row)
{
	uint64_t before = s->handled, end = now_ns() + TRIES_NS;
	struct upreempt_event event;
	unsigned int i;

	for (i = 0; i < TRIES && now_ns() < end; i++) {
		ask(s, row, &event);
		spinner_moves(s);
	}
	/* the last handler may still be running */
	for (end = now_ns() + 500 * MILLISECOND; now_ns() < end;)
		if (__atomic_load_n(&s->handled, __ATOMIC_ACQUIRE) - before >=
		    row->outcomes[UPREEMPT_LANDED])
			break;
	snprintf(row->proof, sizeof(row->proof), "handler ran %llu times",
		 (unsigned long long)(s->handled - before));
}

/* ---- the first table: one loop, all kinds --------------------------------- */

static void outcome_text(const struct row *row, char *buf, size_t size)
{
	size_t len = 0;
	unsigned int i;

	*buf = 0;
	for (i = 0; i < UPREEMPT_OUTCOME_MAX && len < size; i++) {
		if (!row->outcomes[i])
			continue;
		/* the count only when there is more than one sort of answer */
		len += snprintf(buf + len, size - len, "%s%s", len ? ", " : "",
				upreempt_outcome_name(i));
		if (row->outcomes[i] < row->total + row->errors && len < size)
			len += snprintf(buf + len, size - len, " ×%u", row->outcomes[i]);
	}
	if (row->errors && len < size)
		snprintf(buf + len, size - len, "%serror %s ×%u", len ? ", " : "",
			 strerrorname_np(-row->error) ?: "?", row->errors);
}

static void show_row(struct out_table *t, const struct row *row)
{
	unsigned int i, best = 0;
	char buf[160];

	out_cell(t, "%s", row->backend);
	out_cell_group(t, row->loop);
	out_cell(t, "%s", upreempt_kind_name(row->kind));
	outcome_text(row, buf, sizeof(buf));
	out_cell(t, "%s", buf);
	out_cell_u64(t, row->total + row->errors);
	for (i = 1; i < row->nplaces; i++)
		if (row->places[i].n > row->places[best].n)
			best = i;
	if (row->nplaces) {
		sym_name(row->places[best].ip, buf, sizeof(buf));
		out_cell(t, "%s", buf);
	} else {
		out_cell(t, "-");
	}
	out_cell_u64(t, row->nplaces);
	out_cell(t, "%s", row->proof);
}

static void try_loop(struct side *side, const struct loop *loop, int cpu, struct out_table *t)
{
	struct row rows[] = {
		{ .kind = UPREEMPT_SAMPLE }, { .kind = UPREEMPT_STOP }, { .kind = UPREEMPT_REDIRECT },
	};
	/* not on this stack: a thread that will not leave its loop goes on using it */
	struct spinner *s = calloc(1, sizeof(*s));
	bool left;
	size_t i;
	int err;

	if (!s)
		return;
	s->loop = loop;
	s->domain = side->domain;
	s->cpu = cpu;
	err = spinner_start(s);
	if (err) {
		out_note(NULL, "  The %s loop could not be started: %s", loop->name, strerror(-err));
		return;
	}
	out_progress("%s: a thread in the %s loop...", side->name, loop->name);
	try_sample(s, &rows[0]);
	try_stop(s, &rows[1]);
	try_redirect(s, &rows[2]);
	left = spinner_stop(s);
	if (left && loop->intact) {
		size_t len = strlen(rows[2].proof);

		snprintf(rows[2].proof + len, sizeof(rows[2].proof) - len, ", registers %s",
			 loop->intact(&s->state) ? "intact" : "DAMAGED");
	}
	if (!left)
		snprintf(rows[2].proof, sizeof(rows[2].proof), "could not be led out of its loop");
	out_rule(t);
	for (i = 0; i < COUNT(rows); i++) {
		rows[i].backend = side->name;
		rows[i].loop = loop->name;
		show_row(t, &rows[i]);
	}
	if (left)
		free(s);
}

void try_backend(struct side *side, const struct cpus *cpus)
{
	char title[96], key[32];
	const struct loop *loop;
	struct out_table *t;

	snprintf(title, sizeof(title), "Backend %s: %s", side->name,
		 side->backend == UPREEMPT_BACKEND_KMOD ? "the module, no signal is sent"
							: "one signal to the thread");
	snprintf(key, sizeof(key), "outcomes_%s", side->name);
	t = out_table(key, title, outcome_cols, COUNT(outcome_cols));
	for (loop = loops_all(); loop->name; loop++)
		try_loop(side, loop, cpus->target, t);
	out_table_end(t);
}
