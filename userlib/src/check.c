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

static void check(const struct upreempt_thread *t)
{
	if (t->kflags & KRESUME_CAN)
		upreempt_syscall(SYS_ioctl, t->fd, UPREEMPT_IOC_CHECK, t->index, 0, 0, 0);
	else
		upreempt_syscall(SYS_tgkill, t->pid, t->tid, t->signo, 0, 0, 0);
}

/*
 * One visit grants at most one REDIRECT, as there is one slot to hand its registers over:
 * while that is what a visit did, there may be another one. No more than a thread can have,
 * for somebody may go on asking.
 */
void upreempt_check(void)
{
	struct upreempt_thread *t = upreempt_self;
	uint64_t seq;
	int left;

	if (!t)
		return;
	for (left = SIG_MAX_REQUESTS; left; left--) {
		seq = __atomic_load_n(&t->slot->seq, __ATOMIC_RELAXED);
		check(t);
		if (__atomic_load_n(&t->slot->seq, __ATOMIC_RELAXED) == seq ||
		    !__atomic_load_n(&t->slot->pending, __ATOMIC_RELAXED))
			return;
	}
}
