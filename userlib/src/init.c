// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* What is found out once: how extended state is saved, and what fork() means. */
#include "backend.h"
#include "arch/x86_64/frame.h"
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#define ARCH_SHSTK_STATUS	0x5005
#define ARCH_SHSTK_SHSTK	1

struct upreempt_xstate_info upreempt_xs;
uint32_t upreempt_generation = 1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint64_t xcr0(void)
{
	uint32_t lo, hi;

	__asm__ __volatile__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

/* The size of an area for the components in mask */
static uint32_t area_size(uint64_t mask, bool compacted)
{
	uint32_t end = XS_SIZE_AVX, offset = 576;
	unsigned int i;

	for (i = 2; i < 63; i++) {
		if (!(mask >> i & 1))
			continue;
		if (!compacted)
			offset = upreempt_xs.part[i].offset;
		else if (upreempt_xs.part[i].align64)
			offset = (offset + 63) & ~63U;
		offset += upreempt_xs.part[i].size;
		if (offset > end)
			end = offset;
	}
	return end;
}

static void find_xstate(void)
{
	struct upreempt_xstate_info *xs = &upreempt_xs;
	uint32_t a, b, c, d;
	unsigned int i;

	xs->mode = XS_MODE_FXSAVE;
	xs->mask = 3;
	xs->size = xs->size_all = 512;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return;
	xs->mask = xcr0();
	xs->avx = xs->mask >> 2 & 1;
	for (i = 2; i < 63; i++) {
		if (!(xs->mask >> i & 1) || !__get_cpuid_count(0xd, i, &a, &b, &c, &d))
			continue;
		xs->part[i].size = a;
		xs->part[i].offset = b;
		xs->part[i].align64 = c >> 1 & 1;
	}
	xs->mode = XS_MODE_XSAVE;
	if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d)) {
		if (a & 1 << 1)
			xs->mode = XS_MODE_XSAVEC;
		xs->xgetbv1 = a >> 2 & 1;
	}
	xs->size_all = area_size(xs->mask, xs->mode == XS_MODE_XSAVEC);
	xs->size = area_size(xs->mask & ~(uint64_t)XS_AMX, xs->mode == XS_MODE_XSAVEC);
}

bool upreempt_shadow_stack(void)
{
	unsigned long features = 0;

	if (upreempt_syscall(SYS_arch_prctl, ARCH_SHSTK_STATUS, (long)&features, 0, 0, 0, 0))
		return false;
	return features & ARCH_SHSTK_SHSTK;
}

/* The child's only thread is registered nowhere, and kmod's memory is not there. */
static void in_child(void)
{
	upreempt_generation++;
	upreempt_self = NULL;
	upreempt_slot_self = &upreempt_slot_dummy;
	upreempt_install_lock = 0;	/* another thread of the parent may have held it */
}

static void init_once(void)
{
	find_xstate();
	pthread_atfork(NULL, NULL, in_child);
}

void upreempt_init(void)
{
	pthread_once(&once, init_once);
}

uint64_t upreempt_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

uint64_t upreempt_deadline(uint64_t ns)
{
	uint64_t now = upreempt_now();

	return ns > UINT64_MAX - now ? UINT64_MAX : now + ns;
}

int upreempt_copy_opts(void *dst, size_t dst_size, const void *src)
{
	size_t size, i;

	memset(dst, 0, dst_size);
	if (!src)
		return 0;
	memcpy(&size, src, sizeof(size));
	if (size < sizeof(size) || size > 4096)
		return -EINVAL;
	for (i = dst_size; i < size; i++)
		if (((const char *)src)[i])
			return -E2BIG;
	memcpy(dst, src, size < dst_size ? size : dst_size);
	return 0;
}
