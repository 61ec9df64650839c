// SPDX-License-Identifier: LGPL-2.1 OR MIT
/* Proves R10, S1, G21: every ioctl refuses each bad argument with its exact errno. */
#include "kselftest_harness.h"
#include <limits.h>
#include "../include/raw_world.h"

#define NR_SLOTS	4
#define NR_EVENTS	16
#define KERNEL_ADDRESS	0xffff888000001000ULL
#define NON_CANONICAL	0x0100000000001000ULL	/* with 4 and with 5 levels of page tables */

/* The first address that no program can have: TASK_SIZE_MAX */
static uint64_t user_end(void)
{
	FILE *f = fopen("/proc/cpuinfo", "r");
	bool la57 = false;
	char line[8192];

	while (f && fgets(line, sizeof(line), f))
		la57 |= strstr(line, " la57") != NULL;
	if (f)
		fclose(f);
	return (1ULL << (la57 ? 56 : 47)) - 4096;
}

#define USER_END	user_end()

static bool all_zero(const void *p, size_t n)
{
	const unsigned char *c = p;

	while (n--)
		if (*c++)
			return false;
	return true;
}

FIXTURE(dev) {
	struct raw r;
	int slot;			/* of the test's own thread */
	struct raw_target other;	/* another registered thread, asleep in read() */
};

FIXTURE_SETUP(dev)
{
	ASSERT_EQ(0, raw_domain(&self->r, NR_SLOTS, NR_EVENTS));
	self->slot = raw_register(&self->r);
	ASSERT_LE(0, self->slot);
	ASSERT_EQ(0, raw_reader(&self->other, &self->r, RAW_LANDING));
}

FIXTURE_TEARDOWN(dev)
{
	EXPECT_EQ(0, raw_reader_stop(&self->other));
	raw_close(&self->r);
}

/* -------- size -------- */

/* One valid argument of each command, for the thread and domain of the fixture */
union any {
	uint32_t size;
	struct upreempt_query query;
	struct upreempt_setup setup;
	struct upreempt_register reg;
	struct upreempt_ref ref;
	struct upreempt_request request;
	struct upreempt_wait wait;
	struct upreempt_resume resume;
	struct upreempt_eventfd eventfd;
	struct upreempt_stats stats;
	struct upreempt_code_add code;
	struct upreempt_world world;
	struct upreempt_xstate xstate;
	unsigned char bytes[8192];
};

static const struct command {
	const char *name;
	unsigned long cmd;
	uint32_t size;
	bool out;			/* _IOWR */
} commands[] = {
	{ "QUERY", UPREEMPT_IOC_QUERY, sizeof(struct upreempt_query), true },
	{ "SETUP", UPREEMPT_IOC_SETUP, sizeof(struct upreempt_setup), true },
	{ "REGISTER", UPREEMPT_IOC_REGISTER, sizeof(struct upreempt_register), true },
	{ "UNREGISTER", UPREEMPT_IOC_UNREGISTER, sizeof(struct upreempt_ref), false },
	{ "REQUEST", UPREEMPT_IOC_REQUEST, sizeof(struct upreempt_request), true },
	{ "WAIT", UPREEMPT_IOC_WAIT, sizeof(struct upreempt_wait), true },
	{ "CANCEL", UPREEMPT_IOC_CANCEL, sizeof(struct upreempt_ref), false },
	{ "RELEASE", UPREEMPT_IOC_RELEASE, sizeof(struct upreempt_ref), false },
	{ "RESUME", UPREEMPT_IOC_RESUME, sizeof(struct upreempt_resume), false },
	{ "EVENTFD", UPREEMPT_IOC_EVENTFD, sizeof(struct upreempt_eventfd), false },
	{ "STATS", UPREEMPT_IOC_STATS, sizeof(struct upreempt_stats), true },
	{ "CODE_ADD", UPREEMPT_IOC_CODE_ADD, sizeof(struct upreempt_code_add), true },
	{ "CODE_REMOVE", UPREEMPT_IOC_CODE_REMOVE, sizeof(struct upreempt_code_remove), true },
	{ "WORLD_STOP", UPREEMPT_IOC_WORLD_STOP, sizeof(struct upreempt_world), true },
	{ "XSTATE", UPREEMPT_IOC_XSTATE, sizeof(struct upreempt_xstate), true },
};

#define NR_COMMANDS	(sizeof(commands) / sizeof(commands[0]))

static void valid(union any *a, const struct command *c, uint32_t other)
{
	memset(a, 0, sizeof(*a));
	a->size = c->size;
	if (c->cmd == UPREEMPT_IOC_SETUP) {
		a->setup.nr_slots = 1;
		a->setup.nr_events = 16;
	} else if (c->cmd == UPREEMPT_IOC_REGISTER) {
		a->reg.slot = UPREEMPT_ANY_SLOT;
	} else if (c->cmd == UPREEMPT_IOC_REQUEST) {
		a->request.kind = UPREEMPT_SAMPLE;
		a->request.flags = UPREEMPT_REQ_WAIT;
		a->request.slot = other;
	} else if (c->cmd == UPREEMPT_IOC_EVENTFD) {
		a->eventfd.fd = -1;
	} else if (c->cmd == UPREEMPT_IOC_STATS) {
		a->stats.slot = UPREEMPT_ALL_SLOTS;
	} else if (c->cmd == UPREEMPT_IOC_CODE_ADD) {
		a->code.base = 0x1000;
		a->code.len = 0x1000;
		a->code.cls = UPREEMPT_CODE_SAFE;
	} else if (c->cmd == UPREEMPT_IOC_XSTATE) {
		a->xstate.slot = other;
	}
}

TEST_F(dev, size_too_small)
{
	union any a;

	for (size_t i = 0; i < NR_COMMANDS; i++) {
		const uint32_t sizes[] = { 0, 1, 3, commands[i].size - 1 };

		for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++) {
			valid(&a, &commands[i], self->other.slot);
			a.size = sizes[j];
			EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, commands[i].cmd, &a)) {
				TH_LOG("%s with size %u", commands[i].name, sizes[j]);
			}
		}
	}
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
}

TEST_F(dev, larger_with_data_in_the_tail)
{
	union any a;

	for (size_t i = 0; i < NR_COMMANDS; i++) {
		valid(&a, &commands[i], self->other.slot);
		a.size = commands[i].size + 8;
		a.bytes[commands[i].size + 7] = 1;
		EXPECT_EQ(-E2BIG, raw_ioctl(self->r.fd, commands[i].cmd, &a)) {
			TH_LOG("%s", commands[i].name);
		}
		valid(&a, &commands[i], self->other.slot);
		a.size = commands[i].size + 8;
		a.bytes[commands[i].size] = 1;
		EXPECT_EQ(-E2BIG, raw_ioctl(self->r.fd, commands[i].cmd, &a)) {
			TH_LOG("%s", commands[i].name);
		}
		/* larger than a page, whatever is in it */
		valid(&a, &commands[i], self->other.slot);
		a.size = 4097;
		EXPECT_EQ(-E2BIG, raw_ioctl(self->r.fd, commands[i].cmd, &a)) {
			TH_LOG("%s", commands[i].name);
		}
	}
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
}

/* The same answer as with the exact size; nothing is written behind it. */
TEST_F(dev, larger_with_zero_tail)
{
	union any a, b;

	for (size_t i = 0; i < NR_COMMANDS; i++) {
		int exact, larger;

		if (commands[i].cmd == UPREEMPT_IOC_RESUME ||
		    commands[i].cmd == UPREEMPT_IOC_UNREGISTER ||
		    commands[i].cmd == UPREEMPT_IOC_CODE_ADD)
			continue;	/* work only once */
		valid(&a, &commands[i], self->other.slot);
		exact = raw_ioctl(self->r.fd, commands[i].cmd, &a);
		valid(&b, &commands[i], self->other.slot);
		b.size = commands[i].size + 64;
		larger = raw_ioctl(self->r.fd, commands[i].cmd, &b);
		EXPECT_EQ(exact, larger) {
			TH_LOG("%s", commands[i].name);
		}
		EXPECT_NE(-E2BIG, larger);
		EXPECT_TRUE(all_zero(b.bytes + commands[i].size, 64));
		if (commands[i].cmd == UPREEMPT_IOC_WORLD_STOP) {
			EXPECT_EQ(0, raw_world_start(&self->r));
			EXPECT_EQ(0, raw_world_start(&self->r));
		}
	}
}

TEST_F(dev, bad_user_pointers)
{
	unsigned char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	union any a;

	ASSERT_NE(MAP_FAILED, page);
	ASSERT_EQ(0, munmap(page + 4096, 4096));
	for (size_t i = 0; i < NR_COMMANDS; i++) {
		const struct command *c = &commands[i];

		EXPECT_EQ(-EFAULT, raw_ioctl(self->r.fd, c->cmd, NULL)) {
			TH_LOG("%s NULL", c->name);
		}
		EXPECT_EQ(-EFAULT, raw_ioctl(self->r.fd, c->cmd, page + 4096)) {
			TH_LOG("%s unmapped", c->name);
		}
		EXPECT_EQ(-EFAULT, raw_ioctl(self->r.fd, c->cmd, (void *)KERNEL_ADDRESS)) {
			TH_LOG("%s kernel address", c->name);
		}
		/* the end of the argument is not there */
		valid(&a, c, self->other.slot);
		memcpy(page + 4096 - 8, &a, 8);
		if (c->size > 8) {
			EXPECT_EQ(-EFAULT, raw_ioctl(self->r.fd, c->cmd, page + 4096 - 8)) {
				TH_LOG("%s over the end of the mapping", c->name);
			}
		}
	}
}

/* What cannot be told to the caller must not have happened. */
TEST_F(dev, answer_cannot_be_written)
{
	unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct upreempt_register reg = raw_register_arg();
	struct raw fresh = { .fd = raw_open() };
	struct upreempt_event e;
	union any a;

	ASSERT_NE(MAP_FAILED, page);
	ASSERT_LE(0, fresh.fd);
	/* XSTATE answers nothing about a thread that nobody holds */
	ASSERT_EQ(0, raw_ask(&self->r, self->other.slot, UPREEMPT_STOP, 0, &e));
	for (size_t i = 0; i < NR_COMMANDS; i++) {
		const struct command *c = &commands[i];
		int fd = self->r.fd;

		if (!c->out || c->cmd == UPREEMPT_IOC_WAIT || c->cmd == UPREEMPT_IOC_CODE_REMOVE)
			continue;
		if (c->cmd == UPREEMPT_IOC_SETUP)
			fd = fresh.fd;
		if (c->cmd == UPREEMPT_IOC_REGISTER)
			ASSERT_EQ(0, raw_unregister(&self->r, self->slot));
		valid(&a, c, self->other.slot);
		ASSERT_EQ(0, mprotect(page, 4096, PROT_READ | PROT_WRITE));
		memcpy(page, &a, c->size);
		ASSERT_EQ(0, mprotect(page, 4096, PROT_READ));
		EXPECT_EQ(-EFAULT, raw_ioctl(fd, c->cmd, page)) {
			TH_LOG("%s", c->name);
		}
	}
	EXPECT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REGISTER, &reg)) {
		TH_LOG("the refused REGISTER left a registration");
	}
	valid(&a, &commands[11], self->other.slot);
	EXPECT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_CODE_ADD, &a)) {
		TH_LOG("the refused CODE_ADD left an area");
	}
	EXPECT_EQ(-EPERM, raw_world_start(&self->r)) {
		TH_LOG("the refused WORLD_STOP left a stop");
	}
	EXPECT_EQ(0, raw_release(&self->r, self->other.slot, e.seq));
	ASSERT_EQ(1, write(self->other.pipe[1], "x", 1));
	EXPECT_TRUE(RAW_UNTIL(self->other.count == 1));
	close(fresh.fd);
}

/* As above: a STOP that nobody knows of would hold its thread for ever. */
TEST_F(dev, stop_whose_answer_cannot_be_written)
{
	struct upreempt_request req = raw_request_arg(self->other.slot, UPREEMPT_STOP, 0);
	struct upreempt_request *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, page);
	for (int i = 0; i < 2; i++) {
		req.flags = i ? UPREEMPT_REQ_WAIT : 0;
		ASSERT_EQ(0, mprotect(page, 4096, PROT_READ | PROT_WRITE));
		*page = req;
		ASSERT_EQ(0, mprotect(page, 4096, PROT_READ));
		EXPECT_EQ(-EFAULT, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, page));
		EXPECT_EQ(0, self->r.slots[self->other.slot].held);
	}
	ASSERT_EQ(1, write(self->other.pipe[1], "x", 1));
	EXPECT_TRUE(RAW_UNTIL(self->other.count == 1));
}

/* -------- QUERY, SETUP -------- */

TEST_F(dev, query)
{
	struct upreempt_query q;

	ASSERT_EQ(0, raw_query(self->r.fd, &q));
	EXPECT_EQ(sizeof(q), q.size);
	EXPECT_EQ(UPREEMPT_ABI_VERSION, q.abi_version);
	EXPECT_EQ(UPREEMPT_F_SAMPLE | UPREEMPT_F_STOP | UPREEMPT_F_REDIRECT | UPREEMPT_F_RESUME |
		  UPREEMPT_F_RING,
		  q.features & (UPREEMPT_F_SAMPLE | UPREEMPT_F_STOP | UPREEMPT_F_REDIRECT |
				UPREEMPT_F_RESUME | UPREEMPT_F_RING));
	EXPECT_EQ(0, q.features & ~0x3fffULL);
	EXPECT_LE(16, q.max_slots);
	EXPECT_LE(16, q.max_events);
	EXPECT_EQ(16, q.max_requests);
	EXPECT_EQ(sizeof(struct upreempt_slot), q.slot_size);
	EXPECT_LE(4096, q.landing_max);
	EXPECT_LE(1000000, q.max_ranges);
	EXPECT_LE(65536, q.max_areas);
	EXPECT_TRUE(all_zero(q.reserved, sizeof(q.reserved)));
}

TEST_F(dev, setup_arguments)
{
	struct raw f = { .fd = raw_open() };
	struct upreempt_query q;
	struct upreempt_setup s;
	const struct upreempt_setup good = {
		.size = sizeof(good), .nr_slots = 1, .nr_events = 16,
	};

	ASSERT_LE(0, f.fd);
	ASSERT_EQ(0, raw_query(f.fd, &q));
#define BAD(change)							\
	do {								\
		s = good;						\
		change;							\
		EXPECT_EQ(-EINVAL, raw_ioctl(f.fd, UPREEMPT_IOC_SETUP, &s)) {	\
			TH_LOG("SETUP with " #change);			\
		}							\
	} while (0)
	BAD(s.flags = 2);
	BAD(s.flags = 1U << 31);
	BAD(s.reserved[0] = 1);
	BAD(s.reserved[1] = 1);
	BAD(s.nr_slots = 0);
	BAD(s.nr_slots = q.max_slots + 1);
	BAD(s.nr_slots = ~0U);
	BAD(s.nr_events = 0);
	BAD(s.nr_events = 8);
	BAD(s.nr_events = 17);
	BAD(s.nr_events = 48);
	BAD(s.nr_events = q.max_events * 2);
	BAD(s.nr_events = ~0U);
#undef BAD
	/* none of them was half done */
	ASSERT_EQ(0, raw_setup(&f, 3, 32));
	EXPECT_EQ(0, f.setup.slots_off % 64);
	EXPECT_LE(sizeof(struct upreempt_header), f.setup.slots_off);
	EXPECT_LE(f.setup.slots_off + 3 * sizeof(struct upreempt_slot), f.setup.ring_off);
	EXPECT_LE(f.setup.ring_off + 32 * sizeof(struct upreempt_event), f.setup.gate_off);
	EXPECT_EQ(0, f.setup.gate_off % 4096);
	EXPECT_EQ(f.setup.gate_off + 4096, f.setup.mmap_size);
	EXPECT_TRUE(all_zero(f.setup.reserved, sizeof(f.setup.reserved)));
	s = good;
	EXPECT_EQ(-EBUSY, raw_ioctl(f.fd, UPREEMPT_IOC_SETUP, &s));

	ASSERT_EQ(0, raw_map(&f));
	EXPECT_EQ(UPREEMPT_ABI_VERSION, f.header->abi_version);
	EXPECT_EQ(3, f.header->nr_slots);
	EXPECT_EQ(32, f.header->nr_events);
	EXPECT_EQ(sizeof(struct upreempt_slot), f.header->slot_size);
	EXPECT_EQ(f.setup.slots_off, f.header->slots_off);
	EXPECT_EQ(f.setup.ring_off, f.header->ring_off);
	EXPECT_EQ(f.setup.gate_off, f.header->gate_off);
	EXPECT_EQ(f.setup.mmap_size, f.header->mmap_size);
	raw_close(&f);
}

TEST_F(dev, largest_setup)
{
	struct raw f = { .fd = raw_open() };
	struct upreempt_query q;

	ASSERT_LE(0, f.fd);
	ASSERT_EQ(0, raw_query(f.fd, &q));
	EXPECT_EQ(0, raw_setup(&f, q.max_slots, 16));
	close(f.fd);
}

TEST_F(dev, setup_by_another_process)
{
	struct raw f = { .fd = raw_open() };
	pid_t pid;

	ASSERT_LE(0, f.fd);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(raw_setup(&f, 1, 16) == -EPERM ? 0 : 1);
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
	EXPECT_EQ(0, raw_setup(&f, 1, 16));
	close(f.fd);
}

TEST_F(dev, before_setup)
{
	struct raw f = { .fd = raw_open() };
	struct upreempt_register reg = raw_register_arg();
	struct upreempt_query q;
	struct upreempt_event e;
	struct upreempt_stats s;
	struct upreempt_world w;

	ASSERT_LE(0, f.fd);
	EXPECT_EQ(0, raw_query(f.fd, &q));
	EXPECT_EQ(-ENXIO, raw_ioctl(f.fd, UPREEMPT_IOC_REGISTER, &reg));
	EXPECT_EQ(-ENXIO, raw_unregister(&f, 0));
	EXPECT_EQ(-ENXIO, raw_ask(&f, 0, UPREEMPT_SAMPLE, 0, &e));
	EXPECT_EQ(-ENXIO, raw_wait(&f, 0, 1, 0, &e));
	EXPECT_EQ(-ENXIO, raw_cancel(&f, 0, 1));
	EXPECT_EQ(-ENXIO, raw_release(&f, 0, 1));
	EXPECT_EQ(-ENXIO, raw_check(&f, 0));
	EXPECT_EQ(-ENXIO, raw_stats(&f, UPREEMPT_ALL_SLOTS, &s));
	EXPECT_EQ(-ENXIO, raw_poll(&f, 0));
	EXPECT_EQ(-ENXIO, raw_world_stop(&f, 0, 0, 1000, &w));
	EXPECT_EQ(-ENXIO, raw_world_start(&f));
	EXPECT_EQ(-ENXIO, raw_ioctl(f.fd, UPREEMPT_IOC_WORLD_START, (void *)1));
	for (size_t i = 0; i < NR_COMMANDS; i++) {
		union any a;

		if (commands[i].cmd == UPREEMPT_IOC_QUERY || commands[i].cmd == UPREEMPT_IOC_SETUP)
			continue;
		valid(&a, &commands[i], 0);
		EXPECT_EQ(-ENXIO, raw_ioctl(f.fd, commands[i].cmd, &a)) {
			TH_LOG("%s", commands[i].name);
		}
	}
	close(f.fd);
}

/* -------- REGISTER, UNREGISTER -------- */

TEST_F(dev, register_arguments)
{
	struct upreempt_register reg, good = raw_register_arg();
	struct upreempt_query q;

	ASSERT_EQ(0, raw_query(self->r.fd, &q));
	ASSERT_EQ(0, raw_unregister(&self->r, self->slot));
	good.landing = (uintptr_t)raw_landing;
	good.landing_end = (uintptr_t)raw_landing_end;
#define BAD(change)							\
	do {								\
		reg = good;						\
		change;							\
		EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_REGISTER, &reg)) { \
			TH_LOG("REGISTER with " #change);		\
		}							\
	} while (0)
	BAD(reg.flags = 1);
	BAD(reg.flags = 1U << 31);
	BAD(reg.reserved32 = 1);
	BAD(reg.reserved[0] = 1);
	BAD(reg.reserved[1] = 1ULL << 63);
	BAD(reg.slot = NR_SLOTS);
	BAD(reg.slot = UPREEMPT_ANY_SLOT - 1);
	BAD(reg.landing = NON_CANONICAL; reg.landing_end = NON_CANONICAL + 64);
	BAD(reg.landing = KERNEL_ADDRESS; reg.landing_end = KERNEL_ADDRESS + 64);
	BAD(reg.landing = USER_END; reg.landing_end = USER_END + 64);
	BAD(reg.landing = 1ULL << 63; reg.landing_end = (1ULL << 63) + 64);
	BAD(reg.landing = USER_END - 16; reg.landing_end = USER_END + 64);
	BAD(reg.landing_end = reg.landing - 1);
	BAD(reg.landing_end = reg.landing);
	BAD(reg.landing_end = 0);
	BAD(reg.landing = 0);
	BAD(reg.landing_end = reg.landing + q.landing_max + 1);
	BAD(reg.landing_end = ~0ULL);
	BAD(reg.stack_lo = 0x20000; reg.stack_hi = 0x10000);
	BAD(reg.stack_lo = 0x20000; reg.stack_hi = 0x20000);
	BAD(reg.stack_lo = 0x20000; reg.stack_hi = 0);
	BAD(reg.stack_lo = 0x20000; reg.stack_hi = KERNEL_ADDRESS);
	BAD(reg.stack_lo = 0x20000; reg.stack_hi = 0x30000; reg.stack_need = 0x10001);
	BAD(reg.stack_lo = 0x20000; reg.stack_hi = 0x30000; reg.stack_need = ~0U);
#undef BAD
	/* none of them was half done */
	reg = good;
	reg.landing_end = reg.landing + q.landing_max;
	reg.tid = 0xcccccccc;
	reg.id = 0xccccccccccccccccULL;
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REGISTER, &reg));
	EXPECT_EQ(raw_gettid(), (int)reg.tid);
	EXPECT_LT(self->other.id, reg.id);
	EXPECT_GT(0xccccccccccccccccULL, reg.id);
	EXPECT_GT(NR_SLOTS, reg.slot);
	EXPECT_EQ(raw_gettid(), (int)self->r.slots[reg.slot].tid);
	EXPECT_EQ(0, reg.reserved32);
	EXPECT_TRUE(all_zero(reg.reserved, sizeof(reg.reserved)));
}

TEST_F(dev, slots)
{
	struct upreempt_register reg = raw_register_arg();
	struct raw small;

	/* the same thread again, another's slot, no slot left */
	EXPECT_EQ(-EEXIST, raw_register(&self->r));
	ASSERT_EQ(0, raw_unregister(&self->r, self->slot));
	EXPECT_EQ(0, self->r.slots[self->slot].tid);
	reg.slot = self->other.slot;
	EXPECT_EQ(-EBUSY, raw_ioctl(self->r.fd, UPREEMPT_IOC_REGISTER, &reg));
	reg.slot = NR_SLOTS - 1;
	EXPECT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REGISTER, &reg));
	EXPECT_EQ(NR_SLOTS - 1, reg.slot);
	EXPECT_EQ(0, raw_unregister(&self->r, NR_SLOTS - 1));

	ASSERT_EQ(0, raw_domain(&small, 1, 16));
	self->other.raw = &small;
	EXPECT_EQ(0, raw_register(&small));
	{
		struct raw_target second;

		raw_target_init(&second, &small, raw_body_spin, RAW_NO_LANDING);
		EXPECT_EQ(-ENOSPC, raw_target_start(&second));
		EXPECT_EQ(0, raw_target_stop(&second));
	}
	EXPECT_EQ(0, raw_unregister(&small, 0));
	self->other.raw = &self->r;
	raw_close(&small);
	self->slot = 0;
}

TEST_F(dev, slot_of_somebody_else)
{
	struct upreempt_resume resume = { .size = sizeof(resume) };
	uint32_t free_slot = NR_SLOTS - 1;

	EXPECT_EQ(-EPERM, raw_unregister(&self->r, self->other.slot));
	EXPECT_EQ(-ESRCH, raw_unregister(&self->r, free_slot));
	EXPECT_EQ(-EINVAL, raw_unregister(&self->r, NR_SLOTS));
	EXPECT_EQ(-EINVAL, raw_unregister(&self->r, ~0U));

	resume.slot = self->other.slot;
	EXPECT_EQ(-EPERM, raw_ioctl(self->r.fd, UPREEMPT_IOC_RESUME, &resume));
	resume.slot = free_slot;
	EXPECT_EQ(-ESRCH, raw_ioctl(self->r.fd, UPREEMPT_IOC_RESUME, &resume));
	resume.slot = NR_SLOTS;
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_RESUME, &resume));
}

TEST_F(dev, unregister_names_no_request)
{
	EXPECT_EQ(-EINVAL, raw_ref(&self->r, UPREEMPT_IOC_UNREGISTER, self->slot, 1));
	EXPECT_EQ(0, raw_unregister(&self->r, self->slot));
	EXPECT_EQ(-ESRCH, raw_unregister(&self->r, self->slot));
	EXPECT_EQ(-ESRCH, raw_check(&self->r, self->slot));
}

TEST_F(dev, check_arguments)
{
	EXPECT_EQ(0, raw_check(&self->r, self->slot));
	EXPECT_EQ(-EPERM, raw_check(&self->r, self->other.slot));
	EXPECT_EQ(-ESRCH, raw_check(&self->r, NR_SLOTS - 1));
	EXPECT_EQ(-EINVAL, raw_check(&self->r, NR_SLOTS));
	EXPECT_EQ(-EINVAL, raw_check(&self->r, ~0U));
}

TEST_F(dev, poll_arguments)
{
	EXPECT_EQ(0, raw_poll(&self->r, self->slot));
	EXPECT_EQ(-EPERM, raw_poll(&self->r, self->other.slot));
	EXPECT_EQ(-ESRCH, raw_poll(&self->r, NR_SLOTS - 1));
	EXPECT_EQ(-EINVAL, raw_poll(&self->r, NR_SLOTS));
	EXPECT_EQ(-EINVAL, raw_poll(&self->r, ~0U));
	ASSERT_EQ(0, raw_unregister(&self->r, self->slot));
	EXPECT_EQ(-ESRCH, raw_poll(&self->r, self->slot));
}

/* -------- REQUEST, WAIT, CANCEL, RELEASE -------- */

TEST_F(dev, request_arguments)
{
	struct upreempt_request req, good = raw_request_arg(self->other.slot, UPREEMPT_SAMPLE,
							    UPREEMPT_REQ_WAIT);

#define BAD(error, change)						\
	do {								\
		req = good;						\
		change;							\
		EXPECT_EQ(-(error), raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req)) { \
			TH_LOG("REQUEST with " #change);		\
		}							\
	} while (0)
	BAD(EINVAL, req.flags |= 1U << 5);
	BAD(EINVAL, req.flags |= UPREEMPT_REQ_DECLARED_CALLER);	/* sampled: with SAFE only */
	BAD(EINVAL, req.flags |= 1U << 31);
	BAD(EINVAL, req.flags |= UPREEMPT_REQ_OR_BLOCKED);	/* is for REDIRECT */
	BAD(EINVAL, req.kind = 0);
	BAD(EINVAL, req.kind = UPREEMPT_KIND_MAX);
	BAD(EINVAL, req.kind = ~0U);
	BAD(EINVAL, req.strategies = UPREEMPT_BY_RETURN << 1);
	BAD(EINVAL, req.strategies = 1U << 31);
	BAD(EINVAL, req.steps = UPREEMPT_STEPS_MAX + 1);
	BAD(EINVAL, req.slot = NR_SLOTS);
	BAD(EINVAL, req.slot = ~0U);
	BAD(EINVAL, req.slot = 1U << 31);
	BAD(ESRCH, req.slot = NR_SLOTS - 1);
	BAD(ESRCH, req.id = self->other.id + 1000);
	BAD(ESRCH, req.id = ~0ULL);
	BAD(EDEADLK, req.slot = self->slot; req.kind = UPREEMPT_STOP);
	BAD(EDEADLK, req.slot = self->slot; req.kind = UPREEMPT_STOP; req.flags = 0);
	BAD(EOPNOTSUPP, req.slot = self->slot; req.kind = UPREEMPT_REDIRECT; req.flags = 0);
#undef BAD
	req = good;
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_REQUEST, &req));
	EXPECT_TRUE(raw_event_ok(&req.event));
	EXPECT_EQ(req.seq, req.event.seq);
	EXPECT_EQ(good.cookie, req.event.cookie);
	EXPECT_EQ(UPREEMPT_BLOCKED, req.event.outcome);
	EXPECT_EQ(UPREEMPT_FRAME_SYSCALL, req.event.frame);
	EXPECT_EQ(self->other.tid, (int)req.event.tid);
	EXPECT_EQ(self->other.slot, req.event.slot);
	EXPECT_EQ(0, req.id);
	EXPECT_EQ(0, req.strategies);
}

TEST_F(dev, seventeen_requests)
{
	struct upreempt_event e;
	uint64_t seq[17];

	self->r.slots[self->other.slot].nopreempt = 1;
	for (int i = 0; i < 16; i++) {
		ASSERT_EQ(0, raw_post(&self->r, self->other.slot, UPREEMPT_REDIRECT, 0, 0, &seq[i]));
		ASSERT_TRUE(!i || seq[i] > seq[i - 1]);
	}
	EXPECT_EQ(-EAGAIN, raw_post(&self->r, self->other.slot, UPREEMPT_REDIRECT, 0, 0, &seq[16]));
	EXPECT_EQ(-EAGAIN, raw_ask(&self->r, self->other.slot, UPREEMPT_SAMPLE, 20, &e));

	/* a final one still counts until its outcome was taken */
	EXPECT_EQ(-ETIMEDOUT, raw_wait(&self->r, self->other.slot, seq[5], 0, &e));
	EXPECT_EQ(0, raw_cancel(&self->r, self->other.slot, seq[5]));
	EXPECT_EQ(-EALREADY, raw_cancel(&self->r, self->other.slot, seq[5]));
	EXPECT_EQ(-EAGAIN, raw_post(&self->r, self->other.slot, UPREEMPT_REDIRECT, 0, 0, &seq[16]));
	EXPECT_EQ(0, raw_wait(&self->r, self->other.slot, seq[5], 0, &e));
	EXPECT_EQ(UPREEMPT_CANCELLED, e.outcome);
	EXPECT_TRUE(raw_event_ok(&e));
	EXPECT_EQ(-ENOENT, raw_wait(&self->r, self->other.slot, seq[5], 0, &e));
	EXPECT_EQ(-ENOENT, raw_cancel(&self->r, self->other.slot, seq[5]));
	EXPECT_EQ(0, raw_post(&self->r, self->other.slot, UPREEMPT_REDIRECT, 0, 0, &seq[16]));

	seq[5] = seq[16];
	for (int i = 0; i < 16; i++)
		EXPECT_EQ(0, raw_cancel(&self->r, self->other.slot, seq[i]));
	for (int i = 0; i < 16; i++)
		EXPECT_EQ(0, raw_wait(&self->r, self->other.slot, seq[i], 100, &e));
	self->r.slots[self->other.slot].nopreempt = 0;
}

TEST_F(dev, wait_arguments)
{
	struct upreempt_wait w = { .size = sizeof(w), .slot = self->other.slot };
	struct upreempt_event e;
	uint64_t seq, before;

	w.reserved = 1;
	w.deadline_ns = 1;
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WAIT, &w));
	EXPECT_EQ(-EINVAL, raw_wait(&self->r, NR_SLOTS, 1, 0, &e));
	EXPECT_EQ(-ENOENT, raw_wait(&self->r, NR_SLOTS - 1, 1, 0, &e));
	EXPECT_EQ(-ENOENT, raw_wait(&self->r, self->other.slot, 0, 0, &e));
	EXPECT_EQ(-ENOENT, raw_wait(&self->r, self->other.slot, 1ULL << 40, 0, &e));

	self->r.slots[self->other.slot].nopreempt = 1;
	ASSERT_EQ(0, raw_post(&self->r, self->other.slot, UPREEMPT_REDIRECT, 0, 0, &seq));
	EXPECT_EQ(-ETIMEDOUT, raw_wait(&self->r, self->other.slot, seq, 0, &e));
	before = raw_now();
	EXPECT_EQ(-ETIMEDOUT, raw_wait(&self->r, self->other.slot, seq, 30, &e));
	EXPECT_LE(before + 30 * RAW_MS, raw_now());
	EXPECT_EQ(0, raw_cancel(&self->r, self->other.slot, seq));
	EXPECT_EQ(0, raw_wait(&self->r, self->other.slot, seq, 0, &e));

	/* a record of the ring is not waited for */
	ASSERT_EQ(0, raw_post(&self->r, self->other.slot, UPREEMPT_REDIRECT, UPREEMPT_REQ_RING,
			      0, &seq));
	EXPECT_EQ(-ENOENT, raw_wait(&self->r, self->other.slot, seq, 0, &e));
	EXPECT_EQ(0, raw_cancel(&self->r, self->other.slot, seq));
	self->r.slots[self->other.slot].nopreempt = 0;
}

TEST_F(dev, cancel_and_release_arguments)
{
	struct upreempt_event e;

	EXPECT_EQ(-EINVAL, raw_cancel(&self->r, NR_SLOTS, 1));
	EXPECT_EQ(-ESRCH, raw_cancel(&self->r, NR_SLOTS - 1, 1));
	EXPECT_EQ(-ENOENT, raw_cancel(&self->r, self->other.slot, 1ULL << 40));
	EXPECT_EQ(-EINVAL, raw_release(&self->r, NR_SLOTS, 1));
	EXPECT_EQ(-ESRCH, raw_release(&self->r, NR_SLOTS - 1, 1));
	EXPECT_EQ(-ENOENT, raw_release(&self->r, self->other.slot, 1ULL << 40));

	/* what is no STOP cannot be released, and a STOP only once */
	ASSERT_EQ(0, raw_ask(&self->r, self->other.slot, UPREEMPT_SAMPLE, 0, &e));
	EXPECT_EQ(-ENOENT, raw_release(&self->r, self->other.slot, e.seq));
	ASSERT_EQ(0, raw_ask(&self->r, self->other.slot, UPREEMPT_STOP, 0, &e));
	EXPECT_EQ(UPREEMPT_BLOCKED, e.outcome);
	EXPECT_EQ(0, raw_release(&self->r, self->other.slot, e.seq));
	EXPECT_EQ(-ENOENT, raw_release(&self->r, self->other.slot, e.seq));
}

/* -------- RESUME, EVENTFD, STATS -------- */

TEST_F(dev, resume_arguments)
{
	struct upreempt_resume good = { .size = sizeof(good), .slot = self->slot }, resume;

	good.regs.rip = (uintptr_t)raw_landing;
	good.regs.rsp = (uintptr_t)&good & ~15ULL;
	good.regs.rflags = 0x202;
#define BAD(change)							\
	do {								\
		resume = good;						\
		change;							\
		EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_RESUME, &resume)) { \
			TH_LOG("RESUME with " #change);			\
		}							\
	} while (0)
	BAD(resume.regs.rip = KERNEL_ADDRESS);
	BAD(resume.regs.rip = NON_CANONICAL);
	BAD(resume.regs.rip = USER_END);
	BAD(resume.regs.rip = ~0ULL);
	BAD(resume.regs.reserved[0] = 1);
	BAD(resume.regs.reserved[1] = 1ULL << 63);
#undef BAD
}

TEST_F(dev, eventfd_arguments)
{
	struct upreempt_eventfd arg = { .size = sizeof(arg), .fd = -1 };
	int pipefd[2], efd = eventfd(0, EFD_CLOEXEC);

	ASSERT_LE(0, efd);
	ASSERT_EQ(0, pipe(pipefd));
	EXPECT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
	arg.fd = 1000;
	EXPECT_EQ(-EBADF, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
	arg.fd = -2;
	EXPECT_EQ(-EBADF, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
	arg.fd = INT_MIN;
	EXPECT_EQ(-EBADF, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
	arg.fd = pipefd[0];
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
	arg.fd = efd;
	EXPECT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
	EXPECT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
	arg.fd = -1;
	EXPECT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_EVENTFD, &arg));
}

TEST_F(dev, stats_arguments)
{
	struct upreempt_stats s;

	EXPECT_EQ(-EINVAL, raw_stats(&self->r, NR_SLOTS, &s));
	EXPECT_EQ(-ESRCH, raw_stats(&self->r, NR_SLOTS - 1, &s));
	ASSERT_EQ(0, raw_stats(&self->r, UPREEMPT_ALL_SLOTS, &s));
	EXPECT_EQ(0, s.tid);
	EXPECT_EQ(2, s.threads);
	EXPECT_EQ(0, s.world_stops + s.world_ns + s.world_late);
	ASSERT_EQ(0, raw_stats(&self->r, self->other.slot, &s));
	EXPECT_EQ(self->other.tid, (int)s.tid);
	EXPECT_EQ(0, s.world_stops + s.world_ns + s.world_late);
	EXPECT_EQ(0, s.kinds[0]);
	EXPECT_TRUE(all_zero(&s.kinds[UPREEMPT_KIND_MAX], 8 * (8 - UPREEMPT_KIND_MAX)));
	EXPECT_TRUE(all_zero(&s.deferrals[UPREEMPT_REASON_MAX], 8 * (48 - UPREEMPT_REASON_MAX)));
}

/* -------- WORLD_STOP, WORLD_START, XSTATE -------- */

TEST_F(dev, world_arguments)
{
	const struct upreempt_world good = { .size = sizeof(good) };
	struct upreempt_world w;
	pid_t pid;

#define BAD(change)							\
	do {								\
		w = good;						\
		change;							\
		EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &w)) { \
			TH_LOG("WORLD_STOP with " #change);		\
		}							\
	} while (0)
	BAD(w.flags = UPREEMPT_WORLD_TRY << 1);
	BAD(w.flags = 1U << 31);
	BAD(w.flags = ~0U);
	BAD(w.reserved = 1);
	BAD(w.reserved = 1ULL << 63);
	BAD(w.strategies = UPREEMPT_BY_RETURN << 1);
	BAD(w.strategies = 1U << 31);
	BAD(w.strategies = UPREEMPT_BY_AUTO | 1U << 31);
	BAD(w.steps = UPREEMPT_STEPS_MAX + 1);
	BAD(w.steps = ~0U);
#undef BAD
	/* none of them stopped anybody */
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_START, (void *)1));
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_START, (void *)~0UL));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(raw_world_stop(&self->r, 0, 0, 1000, &w) != -EPERM ||
		      raw_world_start(&self->r) != -EPERM);
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));

	w = good;
	w.strategies = UPREEMPT_BY_AUTO;
	w.steps = UPREEMPT_STEPS_MAX;
	ASSERT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_STOP, &w));
	EXPECT_TRUE(raw_world_ok(&w));
	EXPECT_EQ(1, w.blocked);
	/* a bad argument is no start */
	EXPECT_EQ(-EINVAL, raw_ioctl(self->r.fd, UPREEMPT_IOC_WORLD_START, (void *)1));
	EXPECT_EQ(0, raw_world_start(&self->r));
	EXPECT_EQ(-EPERM, raw_world_start(&self->r));
}

TEST_F(dev, xstate_arguments)
{
	static unsigned char state[65536];
	struct upreempt_xstate x;
	const struct upreempt_xstate good = {
		.size = sizeof(good), .slot = self->other.slot,
		.address = (uintptr_t)state, .room = sizeof(state),
	};
	struct upreempt_event e;
	uint32_t bytes;

#define BAD(error, change)						\
	do {								\
		x = good;						\
		change;							\
		EXPECT_EQ(-(error), raw_ioctl(self->r.fd, UPREEMPT_IOC_XSTATE, &x)) { \
			TH_LOG("XSTATE with " #change);			\
		}							\
	} while (0)
	BAD(EBUSY, (void)0);
	BAD(EBUSY, x.slot = self->slot);
	ASSERT_EQ(0, raw_ask(&self->r, self->other.slot, UPREEMPT_STOP, 0, &e));
	BAD(EINVAL, x.reserved[0] = 1);
	BAD(EINVAL, x.reserved[1] = 1ULL << 63);
	BAD(EINVAL, x.slot = NR_SLOTS);
	BAD(EINVAL, x.slot = ~0U);
	BAD(ESRCH, x.slot = NR_SLOTS - 1);
	BAD(EFAULT, x.address = 0);
	BAD(EFAULT, x.address = KERNEL_ADDRESS);
	BAD(EFAULT, x.address = NON_CANONICAL);
	EXPECT_TRUE(all_zero(state, sizeof(state)));
	BAD(ENOSPC, x.room = 0; x.address = 0);
	bytes = x.bytes;
	EXPECT_LE(512, bytes);
	BAD(ENOSPC, x.room = bytes - 1);
	EXPECT_EQ(bytes, x.bytes);
	EXPECT_TRUE(all_zero(state, sizeof(state)));
#undef BAD
	x = good;
	EXPECT_EQ(0, raw_ioctl(self->r.fd, UPREEMPT_IOC_XSTATE, &x));
	EXPECT_EQ(bytes, x.bytes);
	EXPECT_EQ(3, x.features & 3);		/* x87 and SSE are always there */
	EXPECT_FALSE(all_zero(state, x.bytes));
	EXPECT_TRUE(all_zero(state + x.bytes, sizeof(state) - x.bytes));
	EXPECT_EQ(0, raw_release(&self->r, self->other.slot, e.seq));
}

/* -------- none -------- */

TEST_F(dev, unknown_commands)
{
	unsigned char arg[512] = { 0 };

	EXPECT_EQ(-ENOTTY, raw_ioctl(self->r.fd, _IO(UPREEMPT_IOC_MAGIC, 0x3f), arg));
	EXPECT_EQ(-ENOTTY, raw_ioctl(self->r.fd, _IO(UPREEMPT_IOC_MAGIC, 0x51), arg));
	EXPECT_EQ(-ENOTTY, raw_ioctl(self->r.fd, _IO(UPREEMPT_IOC_MAGIC, 0xff), arg));
	EXPECT_EQ(-ENOTTY, raw_ioctl(self->r.fd, _IOWR(UPREEMPT_IOC_MAGIC + 1, 0x40,
						       struct upreempt_query), arg));
	EXPECT_EQ(-ENOTTY, raw_ioctl(self->r.fd, 0, arg));
}

RAW_TEST_MAIN
