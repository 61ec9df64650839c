/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* A thread that waits in a page fault until the test lets it go on. */
#ifndef SELFTESTS_RAW_FAULT_H
#define SELFTESTS_RAW_FAULT_H

#include <linux/userfaultfd.h>

#include "raw_target.h"

#define RAW_FAULT_SIZE	4096

/* count: 1 before the read that faults, then rising; result: what was read */
RAW_FN void raw_body_fault(struct raw_target *t)
{
	volatile unsigned char *page = t->user;

	t->count = 1;
	t->result = *page;
	t->count = 2;
	while (!t->stop)
		t->count++;
}

/*
 * Starts the thread, which sleeps in its fault when this returns. The userfaultfd or -errno;
 * -EPERM, -ENOSYS: there is no such thing here, and no thread was started.
 */
RAW_FN int raw_faulter(struct raw_target *t, struct raw *r, enum raw_landing_kind landing)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	raw_target_init(t, r, raw_body_fault, landing);
	t->user = mmap(NULL, RAW_FAULT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	reg.range.start = (uintptr_t)t->user;
	reg.range.len = RAW_FAULT_SIZE;
	if (t->user == MAP_FAILED || ioctl(fd, UFFDIO_API, &api) ||
	    ioctl(fd, UFFDIO_REGISTER, &reg))
		return -errno;
	ret = raw_target_start(t);
	if (ret)
		return ret;
	return RAW_UNTIL(t->count == 1) && raw_sleeps(t->tid) ? fd : -ETIMEDOUT;
}

/* Its fault ends: it reads 0. */
RAW_FN int raw_faulter_go(const struct raw_target *t, int fd)
{
	struct uffdio_zeropage zero = { .range = { (uintptr_t)t->user, RAW_FAULT_SIZE } };

	return raw_ioctl(fd, UFFDIO_ZEROPAGE, &zero);
}

#define RAW_NEED_FAULTS(fd)						\
	do {								\
		if ((fd) == -EPERM || (fd) == -ENOSYS)			\
			SKIP(return, "no userfaultfd: %s", strerror(-(fd))); \
	} while (0)

#endif /* SELFTESTS_RAW_FAULT_H */
