// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves R10, S4, P29, G21: sizes, offsets and numbers of the ABI never change; 32-bit callers get ENOTTY. */
#include "kselftest_harness.h"
#include <setjmp.h>
#include "../include/raw_target.h"

#define SIZE(type, size) \
	_Static_assert(sizeof(struct type) == (size), "size of " #type)
#define AT(type, field, offset) \
	_Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
/* No padding: the fields' ends meet the size (nothing of the kernel's can leak). */
#define ENDS(type, last, size) \
	_Static_assert(offsetof(struct type, last) + sizeof(((struct type *)0)->last) == (size), \
		       #type " ends with padding")

SIZE(upreempt_regs, 192);
AT(upreempt_regs, r15, 0);	AT(upreempt_regs, rbp, 32);	AT(upreempt_regs, rbx, 40);
AT(upreempt_regs, r11, 48);	AT(upreempt_regs, rax, 80);	AT(upreempt_regs, rcx, 88);
AT(upreempt_regs, rdx, 96);	AT(upreempt_regs, rsi, 104);	AT(upreempt_regs, rdi, 112);
AT(upreempt_regs, rsp, 120);	AT(upreempt_regs, rip, 128);	AT(upreempt_regs, rflags, 136);
AT(upreempt_regs, orig_rax, 144); AT(upreempt_regs, fs_base, 152);
AT(upreempt_regs, gs_base, 160); AT(upreempt_regs, sigmask, 168);
ENDS(upreempt_regs, reserved, 192);

SIZE(upreempt_event, 256);
AT(upreempt_event, seq, 0);	AT(upreempt_event, cookie, 8);	AT(upreempt_event, request_ns, 16);
AT(upreempt_event, final_ns, 24); AT(upreempt_event, slot, 32);	AT(upreempt_event, tid, 36);
AT(upreempt_event, kind, 40);	AT(upreempt_event, outcome, 42); AT(upreempt_event, reason, 44);
AT(upreempt_event, frame, 46);	AT(upreempt_event, attempts, 48); AT(upreempt_event, cpu, 52);
AT(upreempt_event, strategy, 56); AT(upreempt_event, regs, 64);
ENDS(upreempt_event, regs, 256);

SIZE(upreempt_header, 256);
AT(upreempt_header, abi_version, 0); AT(upreempt_header, slots_off, 16);
AT(upreempt_header, mmap_size, 40); AT(upreempt_header, head, 64);
AT(upreempt_header, dropped, 72); AT(upreempt_header, tail, 128);
AT(upreempt_header, off, 192);
ENDS(upreempt_header, reserved3, 256);

SIZE(upreempt_slot, 512);
AT(upreempt_slot, pending, 0);	AT(upreempt_slot, tid, 4);	AT(upreempt_slot, done_seq, 8);
AT(upreempt_slot, done_outcome, 16); AT(upreempt_slot, held, 20);
AT(upreempt_slot, at_gate, 24);	AT(upreempt_slot, nopreempt, 64); AT(upreempt_slot, off, 68);	AT(upreempt_slot, user, 72);
AT(upreempt_slot, busy, 128);	AT(upreempt_slot, seq, 136);	AT(upreempt_slot, cookie, 144);
AT(upreempt_slot, landed_ns, 160); AT(upreempt_slot, regs, 192);
ENDS(upreempt_slot, reserved3, 512);

SIZE(upreempt_query, 72);	ENDS(upreempt_query, reserved, 72);
SIZE(upreempt_setup, 64);	ENDS(upreempt_setup, reserved, 64);
SIZE(upreempt_register, 88);	ENDS(upreempt_register, reserved, 88);
SIZE(upreempt_request, 320);	ENDS(upreempt_request, event, 320);
SIZE(upreempt_wait, 288);	ENDS(upreempt_wait, event, 288);
SIZE(upreempt_ref, 16);		ENDS(upreempt_ref, seq, 16);
SIZE(upreempt_resume, 200);	ENDS(upreempt_resume, regs, 200);
SIZE(upreempt_eventfd, 8);	ENDS(upreempt_eventfd, fd, 8);
SIZE(upreempt_stats, 608);	ENDS(upreempt_stats, polls_set, 608);
SIZE(upreempt_range, 24);	ENDS(upreempt_range, reserved32, 24);
SIZE(upreempt_code_add, 80);	ENDS(upreempt_code_add, reserved, 80);
SIZE(upreempt_code_remove, 24);	ENDS(upreempt_code_remove, reserved32, 24);
AT(upreempt_range, value, 8);	AT(upreempt_range, cls, 16);	AT(upreempt_code_add, ranges, 24);
AT(upreempt_code_add, replace, 40); AT(upreempt_code_add, bad, 56);
SIZE(upreempt_world_thread, 48);	ENDS(upreempt_world_thread, comm, 48);
SIZE(upreempt_xstate, 48);	ENDS(upreempt_xstate, reserved, 48);
SIZE(upreempt_world, 560);	ENDS(upreempt_world, late, 560);
AT(upreempt_request, event, 64); AT(upreempt_wait, event, 32);	AT(upreempt_register, landing, 16);
AT(upreempt_register, id, 64);	AT(upreempt_request, grace_ns, 40); AT(upreempt_request, id, 48);
AT(upreempt_request, strategies, 56); AT(upreempt_world, strategies, 24);
AT(upreempt_stats, kinds, 16);	AT(upreempt_stats, ipis, 528);

_Static_assert(UPREEMPT_PENDING == 0 && UPREEMPT_LANDED == 1 && UPREEMPT_COOPERATED == 2 &&
	       UPREEMPT_BLOCKED == 3 && UPREEMPT_UNSAFE == 4 && UPREEMPT_GONE == 5 &&
	       UPREEMPT_CANCELLED == 6, "outcomes");
_Static_assert(UPREEMPT_SAMPLE == 1 && UPREEMPT_STOP == 2 && UPREEMPT_REDIRECT == 3, "kinds");
_Static_assert(UPREEMPT_R_NOT_RUN == 1 && UPREEMPT_R_OFF == 10 && UPREEMPT_R_RING_FULL == 17 &&
	       UPREEMPT_R_EXCEPTION == 20 && UPREEMPT_R_UNDECLARED == 26, "reasons");
_Static_assert(UPREEMPT_CODE_SAFE == 1 && UPREEMPT_CODE_UNSAFE == 2 && UPREEMPT_CODE_RESTART == 3 &&
	       UPREEMPT_CODE_POLL == 4 && UPREEMPT_CODE_STEP == 6, "classes");
_Static_assert(UPREEMPT_REG_RSP == 4 && UPREEMPT_REG_R8 == 8 && UPREEMPT_REG_R15 == 15,
	       "registers");

/* The first number of each command as programs have it compiled in */
static const struct {
	unsigned long have, want;
} numbers[] = {
	{ UPREEMPT_IOC_QUERY,		0xc048b740 },
	{ UPREEMPT_IOC_SETUP,		0xc040b741 },
	{ UPREEMPT_IOC_REGISTER,	0xc058b742 },
	{ UPREEMPT_IOC_UNREGISTER,	0x4010b743 },
	{ UPREEMPT_IOC_REQUEST,		0xc140b744 },
	{ UPREEMPT_IOC_WAIT,		0xc120b745 },
	{ UPREEMPT_IOC_CANCEL,		0x4010b746 },
	{ UPREEMPT_IOC_RELEASE,		0x4010b747 },
	{ UPREEMPT_IOC_RESUME,		0x40c8b748 },
	{ UPREEMPT_IOC_EVENTFD,		0x4008b749 },
	{ UPREEMPT_IOC_STATS,		0xc260b74a },
	{ UPREEMPT_IOC_CHECK,		0x0000b74b },
	{ UPREEMPT_IOC_WORLD_STOP,	0xc230b74c },
	{ UPREEMPT_IOC_WORLD_START,	0x0000b74d },
	{ UPREEMPT_IOC_POLL,		0x0000b74e },
	{ UPREEMPT_IOC_XSTATE,		0xc030b74f },
	{ UPREEMPT_IOC_CODE_ADD,	0xc050b750 },
	{ UPREEMPT_IOC_CODE_REMOVE,	0xc018b751 },
};

#define NR_NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

TEST(numbers_never_change)
{
	for (size_t i = 0; i < NR_NUMBERS; i++)
		EXPECT_EQ(numbers[i].want, numbers[i].have);
}

/* 1 and 2 never reach a driver, and no two commands share a number. */
TEST(numbers_reach_the_driver)
{
	for (size_t i = 0; i < NR_NUMBERS; i++) {
		EXPECT_LT(2, _IOC_NR(numbers[i].have));
		for (size_t j = 0; j < i; j++)
			EXPECT_NE(_IOC_NR(numbers[i].have), _IOC_NR(numbers[j].have));
	}
}

static sigjmp_buf no_int80;

static void on_fault(int sig)
{
	siglongjmp(no_int80, sig);
}

/* ioctl() through the 32-bit entry, as a 32-bit program makes it */
static long compat_ioctl(int fd, unsigned int cmd, unsigned int arg)
{
	long ret;

	asm volatile("int $0x80"
		     : "=a"(ret)
		     : "a"(54L), "b"((long)fd), "c"((long)cmd), "d"((long)arg)
		     : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

TEST(callers_with_32_bits)
{
	void *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	static int fd;

	fd = raw_open();
	ASSERT_LE(0, fd);
	ASSERT_NE(MAP_FAILED, low);
	signal(SIGSEGV, on_fault);
	signal(SIGILL, on_fault);
	if (sigsetjmp(no_int80, 1))
		SKIP(return, "this kernel runs no 32-bit system calls");
	for (size_t i = 0; i < NR_NUMBERS; i++) {
		struct upreempt_query *q = low;

		q->size = _IOC_SIZE(numbers[i].have);
		EXPECT_EQ(-ENOTTY, compat_ioctl(fd, numbers[i].have, (uintptr_t)low)) {
			TH_LOG("command %zu", i);
		}
	}
}

/*
 * The ioctl() of x32 programs has a number of its own. Where the kernel has no x32, or as Debian's
 * only with syscall.x32=y, every such call is ENOSYS.
 */
TEST(callers_with_x32)
{
	const long x32 = 0x40000000, x32_ioctl = x32 | 514;
	bool none = syscall(x32 | SYS_getpid) < 0;
	struct upreempt_query q;
	int fd = raw_open();

	ASSERT_LE(0, fd);
	TH_LOG("x32 system calls: %s", none ? "none" : "yes");
	for (size_t i = 0; i < NR_NUMBERS; i++) {
		q.size = _IOC_SIZE(numbers[i].have);
		EXPECT_EQ(-1, syscall(x32_ioctl, fd, numbers[i].have, &q));
		EXPECT_EQ(none ? ENOSYS : ENOTTY, errno) {
			TH_LOG("command %zu", i);
		}
		/* that of 64-bit programs with the bit is no call */
		EXPECT_EQ(-1, syscall(x32 | SYS_ioctl, fd, numbers[i].have, &q));
		EXPECT_EQ(ENOSYS, errno);
	}
	close(fd);
}

RAW_TEST_MAIN
