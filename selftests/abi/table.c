// SPDX-License-Identifier: LGPL-2.1 OR MIT
/*
 * Proves M31, S1, G21: CODE_ADD refuses each bad area and range with its error and its place;
 * nothing is half installed.
 */
#include "kselftest_harness.h"
#include "../include/raw_table.h"

/* ---- arguments ---------------------------------------------------------------------- */

static int add(struct raw *r, const struct upreempt_range *ranges, uint32_t count,
	       struct upreempt_code_add *a)
{
	*a = raw_area(somewhere, somewhere + 0x10000, UPREEMPT_CODE_SAFE, ranges, count);
	return raw_code_add(r, a);
}

TEST_F(table, ranges_one_by_one)
{
	static const struct {
		const char *what;
		struct upreempt_range r;
		uint32_t why;
	} bad[] = {
#define BAD(fault, ...) { #__VA_ARGS__, { __VA_ARGS__ }, UPREEMPT_RANGE_##fault }
		BAD(EMPTY, .start = 0x200, .end = 0x200, .cls = UPREEMPT_CODE_SAFE),
		BAD(EMPTY, .start = 0x300, .end = 0x200, .cls = UPREEMPT_CODE_SAFE),
		BAD(EMPTY, .start = ~0U, .end = 0, .cls = UPREEMPT_CODE_SAFE),
		BAD(ORDER, .start = 0x1f, .end = 0x30, .cls = UPREEMPT_CODE_SAFE),
		BAD(ORDER, .start = 0x10, .end = 0x20, .cls = UPREEMPT_CODE_SAFE),
		BAD(ORDER, .start = 0, .end = 1, .cls = UPREEMPT_CODE_SAFE),
		BAD(OUTSIDE, .start = 0x200, .end = 0x10001, .cls = UPREEMPT_CODE_SAFE),
		BAD(OUTSIDE, .start = 0x10000, .end = 0x10001, .cls = UPREEMPT_CODE_SAFE),
		BAD(OUTSIDE, .start = ~0U - 1, .end = ~0U, .cls = UPREEMPT_CODE_SAFE),
		BAD(CLASS, .start = 0x200, .end = 0x300),
		BAD(CLASS, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_RETURN),
		BAD(CLASS, .start = 0x200, .end = 0x300, .cls = 255),
		BAD(REG, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_POLL,
		    .reg = UPREEMPT_REG_RSP),
		BAD(REG, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_POLL,
		    .reg = UPREEMPT_REG_MAX),
		BAD(REG, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_POLL, .reg = 255),
		BAD(REG, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_SAFE, .reg = 1),
		BAD(REG, .start = 0x200, .end = 0x300, .value = 0x200,
		    .cls = UPREEMPT_CODE_RESTART, .reg = 1),
		BAD(VALUE, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_UNSAFE, .value = 1),
		BAD(VALUE, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_STEP, .value = 1),
		BAD(REG, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_STEP, .reg = 1),
		BAD(AFTER, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_RESTART,
		    .value = 0x201),
		BAD(AFTER, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_RESTART,
		    .value = 0xffff888000001000ULL),
		BAD(FAR, .start = 0x200, .end = 0x1201, .cls = UPREEMPT_CODE_RESTART,
		    .value = 0x200),
		BAD(FAR, .start = 0x1200, .end = 0x1220, .cls = UPREEMPT_CODE_RESTART,
		    .value = 0x100),
		/* in the middle of what must not be stopped */
		BAD(TARGET, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_RESTART,
		    .value = 0x18),
		BAD(RESERVED, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_SAFE,
		    .reserved16 = 1),
		BAD(RESERVED, .start = 0x200, .end = 0x300, .cls = UPREEMPT_CODE_SAFE,
		    .reserved32 = 1),
#undef BAD
	};
	struct upreempt_range two[2] = {
		{ .start = 0x10, .end = 0x20, .cls = UPREEMPT_CODE_UNSAFE },
	};
	struct upreempt_code_add a;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		two[1] = bad[i].r;
		EXPECT_EQ(-EINVAL, add(&self->r, two, 2, &a));
		EXPECT_EQ(1, a.bad);
		EXPECT_EQ(bad[i].why, a.why) {
			TH_LOG("%s", bad[i].what);
		}
	}
	/* nothing was installed */
	two[1].start = 0x200;
	two[1].end = 0x10000;
	two[1].cls = UPREEMPT_CODE_SAFE;
	two[1].reg = two[1].reserved16 = two[1].reserved32 = two[1].value = 0;
	EXPECT_EQ(0, add(&self->r, two, 2, &a));
	EXPECT_EQ(UPREEMPT_NO_RANGE, a.bad);
	EXPECT_EQ(0, a.why);
	EXPECT_EQ(0, a.staged);
	EXPECT_NE(0, a.id);
	EXPECT_EQ(0, raw_code_remove(&self->r, a.id, NULL));
}

/* Where the area as a whole is not safe, the target of a restart has to be. */
TEST_F(table, restart_targets)
{
	struct upreempt_range r[2] = {
		{ .start = 0x10, .end = 0x20, .value = 0x10, .cls = UPREEMPT_CODE_RESTART },
		{ .start = 0x20, .end = 0x30, .value = 0x10, .cls = UPREEMPT_CODE_RESTART },
	};
	struct upreempt_code_add a = raw_area(somewhere, somewhere + 0x100, UPREEMPT_CODE_UNSAFE,
					      r, 2);

	EXPECT_EQ(0, raw_code_add(&self->r, &a));
	a.replace = a.id;
	r[1].value = 0x8;
	EXPECT_EQ(-EINVAL, raw_code_add(&self->r, &a));
	EXPECT_EQ(UPREEMPT_RANGE_TARGET, a.why);
	EXPECT_EQ(1, a.bad);
	r[1].value = 0x14;
	EXPECT_EQ(-EINVAL, raw_code_add(&self->r, &a));
	EXPECT_EQ(UPREEMPT_RANGE_TARGET, a.why);
	a.cls = UPREEMPT_CODE_SAFE;
	r[1].value = 0x8;
	EXPECT_EQ(0, raw_code_add(&self->r, &a));
}

TEST_F(table, areas_one_by_one)
{
	struct upreempt_range *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const struct upreempt_code_add good = raw_area(somewhere, somewhere + 0x1000,
						       UPREEMPT_CODE_SAFE, NULL, 0);
	struct upreempt_code_add a;
	uint64_t id;

	ASSERT_NE(MAP_FAILED, page);
	munmap((char *)page + 4096, 4096);
#define BAD(error, change)							\
	do {									\
		a = good;							\
		change;								\
		EXPECT_EQ(-(error), raw_code_add(&self->r, &a)) {		\
			TH_LOG("CODE_ADD with " #change);			\
		}								\
	} while (0)
	BAD(EINVAL, a.flags = 1);
	BAD(EINVAL, a.flags = 1U << 31);
	BAD(EINVAL, a.reserved32 = 1);
	BAD(EINVAL, a.reserved = 1);
	BAD(EINVAL, a.len = 0);
	EXPECT_EQ(UPREEMPT_NO_RANGE, a.bad);
	EXPECT_EQ(0, a.why);
	BAD(EINVAL, a.len = 1ULL << 32);
	BAD(EINVAL, a.len = ~0ULL);
	BAD(EINVAL, a.base = 0xffff888000001000ULL);
	BAD(EINVAL, a.base = 0x0100000000001000ULL);
	BAD(EINVAL, a.base = ~0ULL);
	BAD(EINVAL, a.base = 0x00fffffffffff000ULL; a.len = 0x2000);
	BAD(EINVAL, a.cls = 0);
	BAD(EINVAL, a.cls = UPREEMPT_CODE_RESTART);
	BAD(EINVAL, a.cls = UPREEMPT_CODE_POLL);
	BAD(EINVAL, a.cls = ~0U);
	BAD(E2BIG, a.count = 1048577);
	BAD(E2BIG, a.count = ~0U);
	BAD(EFAULT, a.count = 1; a.ranges = 0xffff888000001000ULL);
	BAD(EFAULT, a.count = 1);
	BAD(EFAULT, a.count = 1; a.ranges = (uintptr_t)page + 4096 - 8);
	BAD(ENOENT, a.replace = 1);
#undef BAD
	id = raw_declare(&self->r, somewhere + 0x1000, somewhere + 0x2000, UPREEMPT_CODE_SAFE);
	ASSERT_NE(0, id);
	/* overlaps: at its begin, at its end, inside, around, the same */
	for (int i = 0; i < 5; i++) {
		static const int from[] = { 0x800, 0x1fff, 0x1800, 0x800, 0x1000 };
		static const int to[] = { 0x1001, 0x2800, 0x1900, 0x2800, 0x2000 };

		a = raw_area(somewhere + from[i], somewhere + to[i], UPREEMPT_CODE_SAFE, NULL, 0);
		EXPECT_EQ(-EEXIST, raw_code_add(&self->r, &a)) {
			TH_LOG("%x-%x", from[i], to[i]);
		}
	}
	/* neighbours */
	EXPECT_NE(0, raw_declare(&self->r, somewhere, somewhere + 0x1000, UPREEMPT_CODE_SAFE));
	EXPECT_NE(0, raw_declare(&self->r, somewhere + 0x2000, somewhere + 0x3000,
				 UPREEMPT_CODE_SAFE));
	/* replaced by another place, which may overlap the old one and no other */
	a = raw_area(somewhere + 0x1800, somewhere + 0x2001, UPREEMPT_CODE_SAFE, NULL, 0);
	a.replace = id;
	EXPECT_EQ(-EEXIST, raw_code_add(&self->r, &a));
	a.base = (uintptr_t)somewhere + 0x4000;
	EXPECT_EQ(0, raw_code_add(&self->r, &a));
	EXPECT_EQ(id, a.id);
	EXPECT_NE(0, raw_declare(&self->r, somewhere + 0x1000, somewhere + 0x2000,
				 UPREEMPT_CODE_SAFE));
#define BAD(error, ...)								\
	do {									\
		struct upreempt_code_remove rm = { .size = sizeof(rm), .id = id, __VA_ARGS__ }; \
		EXPECT_EQ(-(error), raw_ioctl(self->r.fd, UPREEMPT_IOC_CODE_REMOVE, &rm)) { \
			TH_LOG("CODE_REMOVE with " #__VA_ARGS__);		\
		}								\
	} while (0)
	BAD(EINVAL, .flags = 1);
	BAD(EINVAL, .flags = 1U << 31);
	BAD(EINVAL, .reserved32 = 1);
	BAD(EINVAL, .reserved32 = 1U << 31);
#undef BAD
	/* it is there still */
	a.replace = 0;
	EXPECT_EQ(-EEXIST, raw_code_add(&self->r, &a));
	EXPECT_EQ(-ENOENT, raw_code_remove(&self->r, 0, NULL));
	EXPECT_EQ(-ENOENT, raw_code_remove(&self->r, 1ULL << 40, NULL));
	EXPECT_EQ(0, raw_code_remove(&self->r, id, NULL));
	EXPECT_EQ(-ENOENT, raw_code_remove(&self->r, id, NULL));
}

TEST_F(table, another_process)
{
	uint64_t id = raw_declare(&self->r, somewhere, somewhere + 1, UPREEMPT_CODE_SAFE);
	struct upreempt_code_add a;
	pid_t pid = fork();

	if (!pid) {
		int add_ret = add(&self->r, NULL, 0, &a);

		_exit(add_ret != -EPERM || raw_code_remove(&self->r, id, NULL) != -EPERM);
	}
	EXPECT_EQ(0, raw_reap(pid, RAW_LONG_MS));
	EXPECT_EQ(0, raw_code_remove(&self->r, id, NULL));
}

/* A million ranges, bad ones at the end, and no more memory than is allowed */
TEST_F(table, million_ranges)
{
	const uint32_t n = 1048576;
	struct upreempt_range *r = calloc(n, sizeof(*r));
	struct upreempt_code_add a;
	uint64_t ids[4];

	ASSERT_NE(NULL, r);
	for (uint32_t i = 0; i < n; i++) {
		r[i].start = 4 * i;
		r[i].end = 4 * i + 1 + i % 4;
		r[i].cls = UPREEMPT_CODE_UNSAFE;
	}
	a = raw_area(somewhere, somewhere + 4ULL * n, UPREEMPT_CODE_SAFE, r, n);
	r[n - 1].cls = 77;
	EXPECT_EQ(-EINVAL, raw_code_add(&self->r, &a));
	EXPECT_EQ(n - 1, a.bad);
	r[n - 1].cls = UPREEMPT_CODE_UNSAFE;
	for (int i = 0; i < 4; i++) {
		a.base = (uintptr_t)somewhere + i * 4ULL * n;
		ASSERT_EQ(0, raw_code_add(&self->r, &a));
		ids[i] = a.id;
	}
	a.base = (uintptr_t)somewhere + 16ULL * n;
	a.count = 1;
	EXPECT_EQ(-ENOSPC, raw_code_add(&self->r, &a));
	a.count = 0;
	EXPECT_EQ(0, raw_code_add(&self->r, &a));
	/* one in place of another needs no more room */
	a.count = n;
	a.base = (uintptr_t)somewhere;
	a.replace = ids[0];
	EXPECT_EQ(0, raw_code_add(&self->r, &a));
	EXPECT_EQ(0, raw_code_remove(&self->r, ids[3], NULL));
	a.base = (uintptr_t)somewhere + 12ULL * n;
	a.replace = 0;
	EXPECT_EQ(0, raw_code_add(&self->r, &a));
	free(r);
}

TEST_F(table, many_areas)
{
	uint32_t n = raw_scale(4000), i;
	struct raw_target t;
	uint64_t *ids = calloc(n, sizeof(*ids));

	ASSERT_NE(NULL, ids);
	for (i = 0; i < n; i++) {
		/* every other one from below, the others from above */
		uint64_t at = 0x1000 * (i & 1 ? n - i : i);

		ids[i] = raw_declare(&self->r, somewhere + at, somewhere + at + 0x10,
				     UPREEMPT_CODE_UNSAFE);
		ASSERT_NE(0, ids[i]);
	}
	ASSERT_EQ(0, raw_spinner(&t, &self->r, RAW_NO_LANDING));
	EXPECT_NE(0, raw_declare(&self->r, raw_spin, raw_spin_loop_end + 1, UPREEMPT_CODE_SAFE));
	EXPECT_EQ(0, raw_lands(&self->r, t.slot, UPREEMPT_STOP));
	for (i = 0; i < n; i += 3)
		EXPECT_EQ(0, raw_code_remove(&self->r, ids[i], NULL));
	EXPECT_EQ(0, raw_lands(&self->r, t.slot, UPREEMPT_STOP));
	EXPECT_EQ(0, raw_target_stop(&t));
	free(ids);
}

/* As many areas as there may be */
TEST_F_TIMEOUT(table, most_areas, 200)
{
	struct upreempt_code_add a;
	struct upreempt_query q;
	uint64_t id = 0;
	const char *end;

	if (!variant->declared)
		SKIP(return, "the same as in a declared domain");
	ASSERT_EQ(0, raw_query(self->r.fd, &q));
	ASSERT_EQ(65536, q.max_areas);
	for (uint32_t i = 0; i < q.max_areas; i++) {
		id = raw_declare(&self->r, somewhere + 0x10 * i, somewhere + 0x10 * i + 8,
				 UPREEMPT_CODE_SAFE);
		ASSERT_NE(0, id);
	}
	end = somewhere + 0x10ULL * q.max_areas;
	a = raw_area(end, end + 8, UPREEMPT_CODE_SAFE, NULL, 0);
	EXPECT_EQ(-ENOSPC, raw_code_add(&self->r, &a));
	a.replace = id;
	EXPECT_EQ(0, raw_code_add(&self->r, &a));
	EXPECT_EQ(0, raw_code_remove(&self->r, a.id, NULL));
	a.replace = 0;
	EXPECT_EQ(0, raw_code_add(&self->r, &a));
}

RAW_TEST_MAIN
