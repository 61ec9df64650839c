// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves R10, S3, S6, P17: the shared memory is mapped whole and by its opener, or not at all. */
#include "kselftest_harness.h"
#include <setjmp.h>
#include <sys/uio.h>
#include "../include/raw_target.h"

#define RW (PROT_READ | PROT_WRITE)

FIXTURE(map) {
	struct raw r;
};

FIXTURE_SETUP(map)
{
	memset(&self->r, 0, sizeof(self->r));
	self->r.fd = raw_open();
	ASSERT_LE(0, self->r.fd);
	ASSERT_EQ(0, raw_setup(&self->r, 4, 16));
}

FIXTURE_TEARDOWN(map)
{
	raw_close(&self->r);
}

/* 0 when it was mapped (and is unmapped again), or -errno */
static int try_map(int fd, size_t len, int prot, int flags, off_t off)
{
	void *p = mmap(NULL, len, prot, flags, fd, off);

	if (p == MAP_FAILED)
		return -errno;
	munmap(p, len);
	return 0;
}

TEST_F(map, arguments)
{
	size_t size = self->r.setup.mmap_size;
	int fd = self->r.fd;

	EXPECT_EQ(-EINVAL, try_map(fd, size - 4096, RW, MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, try_map(fd, 4096, RW, MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, try_map(fd, size + 4096, RW, MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, try_map(fd, size, RW, MAP_SHARED, 4096));
	EXPECT_EQ(-EINVAL, try_map(fd, 4096, RW, MAP_SHARED, 4096));
	EXPECT_EQ(-EINVAL, try_map(fd, 4096, RW, MAP_SHARED, self->r.setup.gate_off));
	EXPECT_EQ(-EINVAL, try_map(fd, size, RW, MAP_SHARED, 100));
	EXPECT_EQ(-EINVAL, try_map(fd, size, RW | PROT_EXEC, MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, try_map(fd, size, RW, MAP_PRIVATE, 0));
	EXPECT_EQ(-EINVAL, try_map(fd, size, PROT_READ, MAP_PRIVATE, 0));
	EXPECT_EQ(-EINVAL, try_map(fd, size, PROT_READ, MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, try_map(fd, size, PROT_WRITE, MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, try_map(fd, size, PROT_NONE, MAP_SHARED, 0));
	/* none of them was half done */
	EXPECT_EQ(0, raw_map(&self->r));
}

TEST_F(map, once_at_a_time)
{
	size_t size = self->r.setup.mmap_size;

	ASSERT_EQ(0, raw_map(&self->r));
	EXPECT_EQ(-EBUSY, try_map(self->r.fd, size, RW, MAP_SHARED, 0));
	EXPECT_EQ(-EBUSY, try_map(self->r.fd, size, RW, MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, try_map(self->r.fd, size, PROT_READ, MAP_SHARED, 0));
	EXPECT_EQ(UPREEMPT_ABI_VERSION, self->r.header->abi_version);
	ASSERT_EQ(0, munmap(self->r.map, self->r.size));
	self->r.map = NULL;
	EXPECT_EQ(0, try_map(self->r.fd, size, RW, MAP_SHARED, 0));
	ASSERT_EQ(0, raw_map(&self->r));
	EXPECT_EQ(UPREEMPT_ABI_VERSION, self->r.header->abi_version);
}

TEST_F(map, before_setup)
{
	int fd = raw_open();

	ASSERT_LE(0, fd);
	EXPECT_EQ(-ENXIO, try_map(fd, 4096, RW, MAP_SHARED, 0));
	close(fd);
}

TEST_F(map, never_executable)
{
	ASSERT_EQ(0, raw_map(&self->r));
	EXPECT_EQ(-1, mprotect(self->r.map, self->r.size, RW | PROT_EXEC));
	EXPECT_EQ(EACCES, errno);
}

TEST_F(map, whole_or_nothing)
{
	ASSERT_EQ(0, raw_map(&self->r));
	EXPECT_EQ(-1, munmap(self->r.map, 4096));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, munmap(self->r.gate, 4096));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, mprotect(self->r.gate, 4096, PROT_NONE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mremap(self->r.map, self->r.size, self->r.size * 2, MREMAP_MAYMOVE));
	EXPECT_EQ(MAP_FAILED, mremap(self->r.map, self->r.size, 4096, 0));
	errno = 0;
	EXPECT_EQ(MAP_FAILED, mremap(self->r.map, self->r.size, self->r.size,
				     MREMAP_MAYMOVE | MREMAP_FIXED,
				     (char *)self->r.map + (1UL << 30)));
	EXPECT_EQ(EINVAL, errno);
	/* still there */
	EXPECT_EQ(UPREEMPT_ABI_VERSION, self->r.header->abi_version);
}

TEST_F(map, by_a_forked_child)
{
	pid_t pid;

	ASSERT_EQ(0, raw_map(&self->r));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(try_map(self->r.fd, self->r.setup.mmap_size, RW, MAP_SHARED, 0) == -EPERM ?
		      0 : 1);
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
}

TEST_F(map, not_inherited_by_fork)
{
	int status;
	pid_t pid;

	ASSERT_EQ(0, raw_map(&self->r));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		__atomic_store_n(&self->r.header->tail, 0x5a5a, __ATOMIC_SEQ_CST);
		_exit(0);
	}
	status = raw_reap(pid, RAW_LONG_MS);
	ASSERT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGSEGV, WTERMSIG(status));
	EXPECT_EQ(0, self->r.header->tail);
	/* and it cannot be asked for */
	EXPECT_EQ(-1, madvise(self->r.map, self->r.size, MADV_DOFORK));
}

/* The memory, and a registration made through the file, outlive the number. */
TEST_F(map, alive_after_close)
{
	struct raw_target t;

	ASSERT_EQ(0, raw_map(&self->r));
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_LANDING));
	close(self->r.fd);
	self->r.fd = -1;
	EXPECT_EQ(UPREEMPT_ABI_VERSION, self->r.header->abi_version);
	self->r.header->tail = 7;
	EXPECT_EQ(7, self->r.header->tail);
	EXPECT_TRUE(raw_target_moves(&t));
	t.stay_registered = true;
	EXPECT_EQ(0, raw_target_stop(&t));
	EXPECT_EQ(0, t.wrong);
}

static sigjmp_buf bus_env;
static volatile uintptr_t bus_addr;

static void on_bus(int sig, siginfo_t *info, void *uc)
{
	bus_addr = (uintptr_t)info->si_addr;
	siglongjmp(bus_env, sig);
}

TEST_F(map, gate_is_no_memory)
{
	struct sigaction sa = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };
	struct iovec local, remote;
	unsigned char byte;
	int mem, sig;

	ASSERT_EQ(0, raw_map(&self->r));
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	for (int i = 0; i < 3; i++) {
		sig = sigsetjmp(bus_env, 1);
		if (!sig) {
			if (i == 0)
				byte = *(volatile unsigned char *)self->r.gate;
			else if (i == 1)
				*(volatile unsigned char *)(self->r.gate + 4095) = 1;
			else
				((void (*)(void))self->r.gate)();
			EXPECT_TRUE(false);
		}
		/* a jump there fails as no-execute, unless the driver answers first */
		EXPECT_TRUE(sig == SIGBUS || (i == 2 && sig == SIGSEGV));
		EXPECT_EQ((uintptr_t)self->r.gate, bus_addr & ~4095UL);
	}

	/* through the kernel it is an error, not a wait */
	local = (struct iovec){ &byte, 1 };
	remote = (struct iovec){ self->r.gate, 1 };
	EXPECT_EQ(-1, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	mem = open("/proc/self/mem", O_RDWR);
	ASSERT_LE(0, mem);
	EXPECT_EQ(-1, pread(mem, &byte, 1, (off_t)(uintptr_t)self->r.gate));
	EXPECT_EQ(-1, pwrite(mem, &byte, 1, (off_t)(uintptr_t)self->r.gate));
	close(mem);
}

/* As above for a registered thread, for whom the fault may mean something. */
TEST_F(map, gate_is_no_memory_for_registered_threads)
{
	struct sigaction sa = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };
	volatile unsigned char byte;
	int sig;

	ASSERT_EQ(0, raw_map(&self->r));
	ASSERT_LE(0, raw_register(&self->r));
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sig = sigsetjmp(bus_env, 1);
	if (!sig) {
		byte = *(volatile unsigned char *)self->r.gate;
		EXPECT_EQ(0, byte);
		EXPECT_TRUE(false);
	}
	EXPECT_EQ(SIGBUS, sig);
}

/* madvise() and friends find nothing to take away or to dump. */
TEST_F(map, populate_and_advice)
{
	ASSERT_EQ(0, raw_map(&self->r));
	madvise(self->r.map, self->r.size, MADV_DONTNEED);
	EXPECT_EQ(UPREEMPT_ABI_VERSION, self->r.header->abi_version);
	self->r.header->tail = 3;
	madvise(self->r.map, self->r.size, MADV_DONTNEED);
	EXPECT_EQ(3, self->r.header->tail);
	EXPECT_EQ(-1, madvise(self->r.map, self->r.size, MADV_REMOVE));
	EXPECT_EQ(-1, madvise(self->r.gate, 4096, MADV_POPULATE_READ));
}

TEST_F(map, read_write_lseek_of_the_file)
{
	char c = 0;

	EXPECT_EQ(-1, read(self->r.fd, &c, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, write(self->r.fd, &c, 1));
	EXPECT_EQ(EINVAL, errno);
}

RAW_TEST_MAIN
