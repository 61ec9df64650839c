// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* A lock of one word: 0 free, 1 held, 2 held with waiters (Drepper, "Futexes are tricky"). */
#include "backend.h"
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

long up_futex_wait(uint32_t *word, uint32_t value, uint64_t abs_ns)
{
	struct timespec ts = { abs_ns / 1000000000, abs_ns % 1000000000 };

	return upreempt_syscall(SYS_futex, (long)word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG,
				value, abs_ns ? (long)&ts : 0, 0, FUTEX_BITSET_MATCH_ANY);
}

void up_futex_wake(uint32_t *word, int n)
{
	upreempt_syscall(SYS_futex, (long)word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n, 0, 0, 0);
}

void up_lock_raw(uint32_t *lock)
{
	uint32_t c = 0;

	if (__atomic_compare_exchange_n(lock, &c, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return;
	while (__atomic_exchange_n(lock, 2, __ATOMIC_ACQUIRE))
		up_futex_wait(lock, 2, 0);
}

void up_unlock_raw(uint32_t *lock)
{
	/* All: one who is stopped in his wait would keep the only wake-up to himself. */
	if (__atomic_exchange_n(lock, 0, __ATOMIC_RELEASE) == 2)
		up_futex_wake(lock, INT32_MAX);
}

void up_lock(uint32_t *lock)
{
	upreempt_disable();
	up_lock_raw(lock);
}

void up_unlock(uint32_t *lock)
{
	up_unlock_raw(lock);
	upreempt_enable();
}
