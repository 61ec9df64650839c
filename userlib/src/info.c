// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* What this machine offers, and why the backend is what it is. */
#include "backend.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void ask_module(struct upreempt_info *info, char *why, size_t why_size)
{
	struct upreempt_query q = { 0 };
	int fd = upreempt_kmod_probe(&q, why, why_size);

	info->kmod_abi = q.abi_version;
	info->kmod_features = q.features;
	if (fd < 0)
		return;
	close(fd);
	info->kmod_usable = true;
	info->max_slots = q.max_slots;
	info->max_events = q.max_events;
	info->max_requests = q.max_requests;
}

int upreempt_get_info(struct upreempt_info *out)
{
	struct upreempt_info info = { 0 };
	char why[sizeof(info.why)];
	size_t size = out ? out->size : 0;
	int ret;

	if (size < offsetof(struct upreempt_info, kmod_usable) || size > 4096)
		return -EINVAL;
	upreempt_init();
	info.size = size;
	info.max_slots = SIG_MAX_SLOTS;
	info.max_events = SIG_MAX_EVENTS;
	info.max_requests = SIG_MAX_REQUESTS;
	ask_module(&info, why, sizeof(why));
	ret = upreempt_choose(UPREEMPT_BACKEND_AUTO, &info.backend, info.why, sizeof(info.why));
	if (ret)
		info.backend = UPREEMPT_BACKEND_AUTO;
	if (info.backend == UPREEMPT_BACKEND_SIGNAL) {
		info.max_slots = SIG_MAX_SLOTS;
		info.max_events = SIG_MAX_EVENTS;
		info.max_requests = SIG_MAX_REQUESTS;
	}
	info.xsave_size = upreempt_xs.size_all;
	info.xfeatures = upreempt_xs.mask;
	info.shadow_stack = upreempt_shadow_stack();
	upreempt_signal_number(&info.signo);
	memset(out, 0, size);
	memcpy(out, &info, size < sizeof(info) ? size : sizeof(info));
	return 0;
}
