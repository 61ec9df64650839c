/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/* seccomp filters of single threads: what they do not allow kills the process. */
#ifndef SELFTESTS_RAW_FILTER_H
#define SELFTESTS_RAW_FILTER_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "raw_target.h"

#define RAW_FILTER_KILL		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
#define RAW_FILTER_ALLOW	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define RAW_FILTER_NR		RAW_FILTER_LOAD(nr)
#define RAW_FILTER_LOAD(field)						\
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
/* The half of an argument: 0 is the low one */
#define RAW_FILTER_ARG(n, half)						\
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS,				\
		 offsetof(struct seccomp_data, args) + 8 * (n) + 4 * (half))
/* Jumps over so many instructions when it is, or is not, the value */
#define RAW_FILTER_SKIP_IF(value, n)	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, n, 0)
#define RAW_FILTER_SKIP_UNLESS(value, n)	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, n)

/* For the calling thread, and for it alone */
RAW_FN int raw_filter(struct sock_filter *code, unsigned short count)
{
	struct sock_fprog prog = { .len = count, .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog))
		return -errno;
	return 0;
}

/* Its next ioctl() is the end of the process, by SIGSYS. */
RAW_FN int raw_filter_no_ioctl(void)
{
	struct sock_filter code[] = {
		RAW_FILTER_NR,
		RAW_FILTER_SKIP_UNLESS(SYS_ioctl, 1),
		RAW_FILTER_KILL,
		RAW_FILTER_ALLOW,
	};

	return raw_filter(code, sizeof(code) / sizeof(*code));
}

/* Bodies of threads that cannot take themselves out of their domain any more */
RAW_FN void raw_body_filtered_spin(struct raw_target *t)
{
	t->stay_registered = true;
	t->result = raw_filter_no_ioctl();
	if (!t->result)
		raw_body_spin(t);
}

RAW_FN int raw_filtered_spinner(struct raw_target *t, struct raw *r, enum raw_landing_kind landing)
{
	raw_target_init(t, r, raw_body_filtered_spin, landing);
	return raw_target_start(t) ?: raw_target_moves(t) ? 0 : -ETIMEDOUT;
}

#endif /* SELFTESTS_RAW_FILTER_H */
