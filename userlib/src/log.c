// SPDX-License-Identifier: LGPL-2.1 OR MIT
#include "backend.h"
#include <stdarg.h>
#include <stdio.h>

static upreempt_log_fn log_fn;

void upreempt_set_log(upreempt_log_fn fn)
{
	__atomic_store_n(&log_fn, fn, __ATOMIC_RELEASE);
}

void upreempt_log(int level, const char *format, ...)
{
	upreempt_log_fn fn = __atomic_load_n(&log_fn, __ATOMIC_ACQUIRE);
	char line[320];
	va_list args;

	if (!fn)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	fn(level, line);
}
