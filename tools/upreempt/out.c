// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Text and JSON from one writer; see out.h. */
#include "out.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LABEL_WIDTH	18
#define MAX_COLS	16
#define MAX_DEPTH	8

static struct {
	bool json, compact, colour, watched;
	int depth;
	bool used[MAX_DEPTH];		/* something was printed at this depth: a comma is due */
	bool text_begun;
	bool progress;
} out;

/* ---- basics -------------------------------------------------------------- */

bool out_is_json(void)
{
	return out.json;
}

const char *out_bold(void)
{
	return out.colour ? "\033[1m" : "";
}

const char *out_dim(void)
{
	return out.colour ? "\033[2m" : "";
}

const char *out_plain(void)
{
	return out.colour ? "\033[0m" : "";
}

size_t out_width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void pad(size_t n)
{
	while (n--)
		putchar(' ');
}

static char *format(const char *fmt, va_list ap)
{
	char *s;

	if (vasprintf(&s, fmt, ap) < 0) {
		fputs("upreempt: out of memory\n", stderr);
		exit(1);
	}
	return s;
}

static char *copy(const char *s)
{
	char *c = strdup(s);

	if (!c) {
		fputs("upreempt: out of memory\n", stderr);
		exit(1);
	}
	return c;
}

static void json_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		unsigned char c = *s;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void json_newline(void)
{
	if (out.compact)
		return;
	putchar('\n');
	pad(2 * out.depth);
}

/* Before an element: comma, line, indentation, key */
static void json_key(const char *key)
{
	if (out.used[out.depth])
		putchar(',');
	out.used[out.depth] = true;
	json_newline();
	if (!key)
		return;
	json_string(key);
	fputs(out.compact ? ":" : ": ", stdout);
}

static void json_open(char c)
{
	putchar(c);
	out.depth++;
	out.used[out.depth] = false;
}

static void json_close(char c)
{
	bool used = out.used[out.depth];

	out.depth--;
	if (used)
		json_newline();
	putchar(c);
}

void out_start(bool json, bool compact)
{
	out.json = json;
	out.compact = compact;
	out.depth = 0;
	out.used[0] = false;
	out.text_begun = false;
	out.colour = !json && isatty(STDOUT_FILENO) && !getenv("NO_COLOR") &&
		     strcmp(getenv("TERM") ?: "dumb", "dumb");
	out.watched = isatty(STDERR_FILENO);
	if (json)
		json_open('{');
}

void out_finish(void)
{
	out_progress("%s", "");
	if (out.json) {
		json_close('}');
		putchar('\n');
	}
	fflush(stdout);
}

/* ---- sections and fields ------------------------------------------------- */

static void text_heading(const char *title)
{
	if (out.text_begun)
		putchar('\n');
	out.text_begun = true;
	printf("%s%s%s\n", out_bold(), title, out_plain());
}

void out_section(const char *key, const char *title)
{
	out_progress("%s", "");
	if (out.json && key) {
		json_key(key);
		json_open('{');
	} else if (!out.json && title) {
		text_heading(title);
	}
}

void out_section_end(void)
{
	if (out.json)
		json_close('}');
	fflush(stdout);
}

static void text_field(const char *label, const char *value)
{
	size_t w = out_width(label);

	out.text_begun = true;
	printf("  %s%s%s", out_dim(), label, out_plain());
	pad(w < LABEL_WIDTH ? LABEL_WIDTH - w : 1);
	printf("%s\n", value);
}

void out_str(const char *key, const char *label, const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	s = format(fmt, ap);
	va_end(ap);
	if (out.json && key) {
		json_key(key);
		json_string(s);
	} else if (!out.json && label) {
		text_field(label, s);
	}
	free(s);
}

void out_u64(const char *key, const char *label, uint64_t v)
{
	char buf[24];

	snprintf(buf, sizeof(buf), "%llu", (unsigned long long)v);
	if (out.json && key) {
		json_key(key);
		fputs(buf, stdout);
	} else if (!out.json && label) {
		text_field(label, buf);
	}
}

void out_double(const char *key, double v)
{
	if (!out.json || !key)
		return;
	json_key(key);
	printf("%.6g", v);
}

void out_bool(const char *key, const char *label, bool v, const char *yes, const char *no)
{
	if (out.json && key) {
		json_key(key);
		fputs(v ? "true" : "false", stdout);
	} else if (!out.json && label) {
		text_field(label, v ? yes : no);
	}
}

void out_list(const char *key, const char *label, const char *const *v, size_t n)
{
	size_t i;

	if (out.json && key) {
		json_key(key);
		putchar('[');
		for (i = 0; i < n; i++) {
			if (i)
				fputs(", ", stdout);
			json_string(v[i]);
		}
		putchar(']');
	} else if (!out.json && label) {
		char buf[1024] = "";
		size_t len = 0;

		for (i = 0; i < n && len < sizeof(buf); i++)
			len += snprintf(buf + len, sizeof(buf) - len, "%s%s", i ? " " : "", v[i]);
		text_field(label, n ? buf : "none");
	}
}

void out_note(const char *key, const char *fmt, ...)
{
	va_list ap;
	char *s;

	out_progress("%s", "");
	va_start(ap, fmt);
	s = format(fmt, ap);
	va_end(ap);
	if (out.json && key) {
		json_key(key);
		json_string(s);
	} else if (!out.json) {
		out.text_begun = true;
		printf("%s\n", s);
		fflush(stdout);
	}
	free(s);
}

void out_progress(const char *fmt, ...)
{
	va_list ap;
	char *s;

	if (!out.watched)
		return;
	va_start(ap, fmt);
	s = format(fmt, ap);
	va_end(ap);
	if (*s || out.progress)
		fprintf(stderr, "\r\033[K%s", s);
	out.progress = *s != 0;
	free(s);
}

/* ---- tables -------------------------------------------------------------- */

struct cell {
	char *text, *json;
	bool rule;			/* a line above this cell's row */
};

struct out_table {
	const char *key, *title;
	const struct out_col *cols;
	size_t ncols;
	struct cell *cells;
	size_t n, room;
	bool rule;			/* for the next cell */
};

static void *need(void *p)
{
	if (!p) {
		fputs("upreempt: out of memory\n", stderr);
		exit(1);
	}
	return p;
}

struct out_table *out_table(const char *key, const char *title, const struct out_col *cols,
			    size_t ncols)
{
	struct out_table *t = need(calloc(1, sizeof(*t)));

	if (ncols > MAX_COLS)
		abort();
	t->key = key;
	t->title = title;
	t->cols = cols;
	t->ncols = ncols;
	return t;
}

static void add_cell(struct out_table *t, char *text, char *json)
{
	if (t->n == t->room) {
		t->room = t->room ? t->room * 2 : 64;
		t->cells = need(realloc(t->cells, t->room * sizeof(*t->cells)));
	}
	t->cells[t->n++] = (struct cell){ text, json, t->rule };
	t->rule = false;
}

/* A string cell's JSON is made from its text at the end (json NULL) */
void out_cell(struct out_table *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add_cell(t, format(fmt, ap), NULL);
	va_end(ap);
}

void out_cell_group(struct out_table *t, const char *s)
{
	size_t i = t->n, col = t->n % t->ncols;
	bool same = false;

	/* compare with the last row that said something in this column */
	while (i >= t->ncols && !same) {
		i -= t->ncols;
		if (*t->cells[i].text) {
			same = !strcmp(t->cells[i].text, s);
			break;
		}
	}
	/* something said further left begins a new group */
	for (i = t->n - col; same && i < t->n; i++)
		if (t->cols[i % t->ncols].title && *t->cells[i].text)
			same = false;
	if (same && !out.json)
		add_cell(t, copy(""), NULL);
	else
		add_cell(t, copy(s), NULL);
}

void out_cell_u64(struct out_table *t, uint64_t v)
{
	char buf[24];

	snprintf(buf, sizeof(buf), "%llu", (unsigned long long)v);
	add_cell(t, copy(buf), copy(buf));
}

void out_cell_ns(struct out_table *t, double ns)
{
	char text[32], json[32];

	snprintf(text, sizeof(text), ns < 9995 ? "%.2f" : ns < 999950 ? "%.1f" : "%.0f", ns / 1000);
	snprintf(json, sizeof(json), "%.0f", ns);
	add_cell(t, copy(text), copy(json));
}

void out_cell_json(struct out_table *t, const char *json)
{
	add_cell(t, copy(""), copy(json));
}

void out_cell_none(struct out_table *t)
{
	add_cell(t, copy("-"), copy("null"));
}

void out_rule(struct out_table *t)
{
	t->rule = t->n > 0;	/* the first row has its line anyway */
}

static void table_json(struct out_table *t)
{
	size_t i;

	json_key(t->key);
	json_open('[');
	for (i = 0; i < t->n; i++) {
		size_t c = i % t->ncols;

		if (c == 0) {
			json_key(NULL);
			putchar('{');
		}
		/* a table row stays on one line */
		if (!t->cols[c].key) {
			if (c == t->ncols - 1)
				putchar('}');
			continue;
		}
		printf("%s", c ? ", " : "");
		json_string(t->cols[c].key);
		fputs(": ", stdout);
		if (t->cells[i].json)
			fputs(t->cells[i].json, stdout);
		else
			json_string(t->cells[i].text);
		if (c == t->ncols - 1)
			putchar('}');
	}
	json_close(']');
}

static void table_line(const struct out_table *t, const size_t *width)
{
	size_t c, i, n = 0;

	for (c = 0; c < t->ncols; c++)
		if (t->cols[c].title)
			n += width[c] + (n ? 2 : 0);
	printf("  %s", out_dim());
	for (i = 0; i < n; i++)
		fputs("─", stdout);
	printf("%s\n", out_plain());
}

static void table_row(const struct out_table *t, const size_t *width, struct cell *row,
		      const char *before, const char *after)
{
	size_t c, due = 2;	/* spaces due before the next cell */

	for (c = 0; c < t->ncols; c++) {
		const char *s = row ? row[c].text : t->cols[c].title;
		size_t fill;

		if (!t->cols[c].title)
			continue;
		fill = width[c] - out_width(s);
		/* padding is printed before the next text only: no blanks at the end of a line */
		if (*s) {
			pad(due + (t->cols[c].right ? fill : 0));
			printf("%s%s%s", before, s, after);
			due = t->cols[c].right ? 0 : fill;
		} else {
			due += fill;
		}
		due += 2;
	}
	putchar('\n');
}

static void table_text(struct out_table *t)
{
	size_t width[MAX_COLS], i, c;

	if (t->title)
		text_heading(t->title);
	for (c = 0; c < t->ncols; c++)
		width[c] = out_width(t->cols[c].title ?: "");
	for (i = 0; i < t->n; i++) {
		size_t w = out_width(t->cells[i].text);

		if (w > width[i % t->ncols])
			width[i % t->ncols] = w;
	}
	table_row(t, width, NULL, out_dim(), out_plain());
	table_line(t, width);
	for (i = 0; i + t->ncols <= t->n; i += t->ncols) {
		if (t->cells[i].rule)
			table_line(t, width);
		table_row(t, width, t->cells + i, "", "");
	}
}

void out_table_end(struct out_table *t)
{
	size_t i;

	out_progress("%s", "");
	if (t->n % t->ncols)
		abort();	/* a row was left unfinished */
	if (out.json) {
		if (t->key)
			table_json(t);
	} else {
		table_text(t);
	}
	for (i = 0; i < t->n; i++) {
		free(t->cells[i].text);
		free(t->cells[i].json);
	}
	free(t->cells);
	free(t);
	fflush(stdout);
}
