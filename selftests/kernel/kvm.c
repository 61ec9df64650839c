// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves P21: a thread that runs a virtual CPU is in a system call. An IPI takes it out of the
 * guest and no further; the hook shares the list of return notifiers with KVM's own.
 */
#include "kselftest_harness.h"
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "../include/raw_world.h"

FIXTURE(kvm) {
	struct raw r;
	struct raw_target t;
	int kvm, vm, vcpu;
	void *memory;
	bool none;
};

struct vcpu {
	int fd;
	volatile int entries;
	volatile int error;
};

static void on_kick(int signo)
{
	(void)signo;
}

/* KVM_RUN returns when a signal comes; then it is called again. */
static void body_vcpu(struct raw_target *t)
{
	struct vcpu *v = t->user;

	while (!t->stop) {
		v->entries++;
		if (ioctl(v->fd, KVM_RUN, NULL) && errno != EINTR && errno != EAGAIN) {
			v->error = errno;
			break;
		}
		t->count++;
	}
}

static struct vcpu vcpu;

/* A guest of one page in real mode, whose only instruction jumps to itself */
static int make_guest(FIXTURE_DATA(kvm) *self)
{
	struct kvm_userspace_memory_region region = { .guest_phys_addr = 0x1000,
						      .memory_size = 0x1000 };
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	struct kvm_sregs sregs;

	if (access("/dev/kvm", F_OK) &&
	    system("exec 2>/dev/null; modprobe kvm_amd || modprobe kvm_intel || "
		   "{ d=$OUT/kernels/$UPREEMPT_VM; modprobe -d $d kvm_amd; }"))
		return -ENODEV;
	self->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (self->kvm < 0)
		return -ENODEV;
	self->vm = ioctl(self->kvm, KVM_CREATE_VM, 0);
	if (self->vm < 0)
		return -ENODEV;
	self->memory = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memcpy(self->memory, "\xeb\xfe", 2);
	region.userspace_addr = (uintptr_t)self->memory;
	self->vcpu = -1;
	if (ioctl(self->vm, KVM_SET_USER_MEMORY_REGION, &region) ||
	    (self->vcpu = ioctl(self->vm, KVM_CREATE_VCPU, 0)) < 0 ||
	    ioctl(self->vcpu, KVM_GET_SREGS, &sregs))
		return -errno;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(self->vcpu, KVM_SET_SREGS, &sregs) || ioctl(self->vcpu, KVM_SET_REGS, &regs))
		return -errno;
	return 0;
}

FIXTURE_SETUP(kvm)
{
	struct sigaction sa = { .sa_handler = on_kick };
	int ret;

	memset(self, 0, sizeof(*self));
	raw_params_reset();
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	ASSERT_EQ(0, raw_domain(&self->r, 8, 64));
	ret = make_guest(self);
	self->none = ret == -ENODEV;
	if (self->none)
		return;
	ASSERT_EQ(0, ret);
	vcpu = (struct vcpu){ .fd = self->vcpu };
	raw_target_init(&self->t, &self->r, body_vcpu, RAW_LANDING);
	self->t.user = &vcpu;
	ASSERT_EQ(0, raw_target_start(&self->t));
	ASSERT_TRUE(RAW_UNTIL(vcpu.entries));
	raw_sleep_us(20000);
	ASSERT_EQ(0, vcpu.error);
}

FIXTURE_TEARDOWN(kvm)
{
	raw_close(&self->r);
}

static void end(struct __test_metadata *_metadata, FIXTURE_DATA(kvm) *self)
{
	self->t.stop = 1;
	pthread_kill(self->t.thread, SIGUSR1);
	EXPECT_EQ(0, raw_target_stop(&self->t));
	EXPECT_EQ(0, vcpu.error);
}

TEST_F(kvm, running_a_guest_counts_as_a_system_call)
{
	struct upreempt_world w;
	struct upreempt_event e;

	if (self->none)
		SKIP(return, "this kernel runs no virtual machines on this CPU");
	for (uint64_t i = 0, n = raw_scale(300); i < n; i++) {
		ASSERT_EQ(0, raw_ask(&self->r, self->t.slot, UPREEMPT_SAMPLE, 0, &e));
		ASSERT_EQ(UPREEMPT_BLOCKED, e.outcome);
		ASSERT_EQ(UPREEMPT_FRAME_SYSCALL, e.frame);
		ASSERT_EQ(0, raw_ask(&self->r, self->t.slot, UPREEMPT_STOP, 0, &e));
		ASSERT_EQ(UPREEMPT_BLOCKED, e.outcome);
		ASSERT_EQ(0, raw_release(&self->r, self->t.slot, e.seq));
		ASSERT_EQ(0, raw_world_stop(&self->r, 0, 0, 5000, &w));
		ASSERT_TRUE(raw_world_ok(&w));
		ASSERT_EQ(1, w.blocked);
		ASSERT_EQ(0, raw_world_start(&self->r));
	}
	/* none of it made KVM_RUN return */
	EXPECT_EQ(1, vcpu.entries);
	EXPECT_EQ(0, self->t.count);
	end(_metadata, self);
}

TEST_F(kvm, redirect_lands_when_the_guest_is_left)
{
	struct upreempt_event e;
	uint64_t seq;
	int ret = 0;

	if (self->none)
		SKIP(return, "this kernel runs no virtual machines on this CPU");
	for (uint64_t i = 0, n = raw_scale(300); i < n; i++) {
		int entries = vcpu.entries;

		ASSERT_EQ(0, raw_post(&self->r, self->t.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
		if (i < 10)
			ASSERT_EQ(-ETIMEDOUT, raw_wait(&self->r, self->t.slot, seq, 3, &e));
		ASSERT_EQ(i, self->t.land.count);
		/* not at the signal handler's first instruction, and soon it is in the guest again */
		for (int tries = 0; tries < 100; tries++) {
			pthread_kill(self->t.thread, SIGUSR1);
			ret = raw_wait(&self->r, self->t.slot, seq, 50, &e);
			if (ret != -ETIMEDOUT)
				break;
		}
		ASSERT_EQ(0, ret);
		ASSERT_EQ(UPREEMPT_LANDED, e.outcome);
		ASSERT_TRUE(RAW_UNTIL(vcpu.entries > entries));
		ASSERT_TRUE(RAW_UNTIL(self->t.land.count == i + 1));
		raw_sleep_us(500);
	}
	end(_metadata, self);
}

RAW_TEST_MAIN
