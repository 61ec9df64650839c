// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * The thread's own slot, and letting in what was deferred: called from inside
 * handlers too, so only general registers (see land.c). Raw system calls: errno
 * stays as it was.
 */
#include "backend.h"
#include "arch/x86_64/frame.h"
#include <sys/syscall.h>

UPREEMPT_HIDDEN struct upreempt_slot upreempt_slot_dummy __attribute__((aligned(64))) = {
	.trigger = (uintptr_t)&upreempt_slot_dummy,	/* can be read: see upreempt_poll_load() */
};
__thread struct upreempt_slot *upreempt_slot_self = &upreempt_slot_dummy;
__thread struct upreempt_thread *upreempt_self;

long upreempt_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ __volatile__("syscall"
			     : "=a"(ret)
			     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			     : "rcx", "r11", "memory");
	return ret;
}

void upreempt_check(void)
{
	struct upreempt_thread *t = upreempt_self;

	if (!t)
		return;
	if (t->kflags & KRESUME_CAN)
		upreempt_syscall(SYS_ioctl, t->fd, UPREEMPT_IOC_CHECK, t->index, 0, 0, 0);
	else
		upreempt_syscall(SYS_tgkill, t->pid, t->tid, t->signo, 0, 0, 0);
}
