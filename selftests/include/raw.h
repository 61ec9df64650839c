/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * The bare device for tests: thin wrappers around the ioctls, which return 0 or
 * -errno, and fill what the kernel has to fill with 0xcc before.
 */
#ifndef SELFTESTS_RAW_H
#define SELFTESTS_RAW_H

#include <errno.h>
#include <fcntl.h>
#include <linux/upreempt.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RAW_FN	static inline __attribute__((unused))

#define RAW_MS	1000000ULL
/* What may take this long under emulation has hung. */
#define RAW_LONG_MS	10000

/* One domain as the opener sees it */
struct raw {
	int fd;
	size_t size;
	unsigned char *map;
	struct upreempt_header *header;
	struct upreempt_slot *slots;
	struct upreempt_event *ring;
	unsigned char *gate;
	struct upreempt_setup setup;
};

/* -------- time -------- */

RAW_FN uint64_t raw_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

RAW_FN uint64_t raw_in(uint64_t ms)
{
	return raw_now() + ms * RAW_MS;
}

/* Sleeps the whole time, whatever signals come. */
RAW_FN void raw_sleep_us(uint64_t us)
{
	uint64_t end = raw_now() + us * 1000;
	struct timespec ts = { end / 1000000000ULL, end % 1000000000ULL };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

/* Waits until the condition holds; false when that took RAW_LONG_MS. */
#define RAW_UNTIL(condition)						\
	({								\
		uint64_t __end = raw_in(RAW_LONG_MS);			\
		bool __ok;						\
									\
		while (!(__ok = !!(condition)) && raw_now() < __end)	\
			raw_sleep_us(200);				\
		__ok;							\
	})

/* n, scaled by UPREEMPT_SCALE percent, at least 1 */
RAW_FN uint64_t raw_scale(uint64_t n)
{
	const char *text = getenv("UPREEMPT_SCALE");
	uint64_t percent = text ? strtoull(text, NULL, 10) : 100;

	n = n * percent / 100;
	return n ? n : 1;
}

/* -------- the ioctls -------- */

RAW_FN int raw_ioctl(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) < 0 ? -errno : 0;
}

RAW_FN int raw_open(void)
{
	int fd = open(UPREEMPT_DEVICE, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

RAW_FN int raw_query(int fd, struct upreempt_query *query)
{
	memset(query, 0xcc, sizeof(*query));
	query->size = sizeof(*query);
	return raw_ioctl(fd, UPREEMPT_IOC_QUERY, query);
}

RAW_FN int raw_setup(struct raw *r, uint32_t nr_slots, uint32_t nr_events)
{
	memset(&r->setup, 0xcc, sizeof(r->setup));
	r->setup.size = sizeof(r->setup);
	r->setup.flags = 0;
	r->setup.nr_slots = nr_slots;
	r->setup.nr_events = nr_events;
	memset(r->setup.reserved, 0, sizeof(r->setup.reserved));
	return raw_ioctl(r->fd, UPREEMPT_IOC_SETUP, &r->setup);
}

RAW_FN int raw_map(struct raw *r)
{
	void *map = mmap(NULL, r->setup.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);

	if (map == MAP_FAILED)
		return -errno;
	r->map = map;
	r->size = r->setup.mmap_size;
	r->header = map;
	r->slots = (struct upreempt_slot *)(r->map + r->setup.slots_off);
	r->ring = (struct upreempt_event *)(r->map + r->setup.ring_off);
	r->gate = r->map + r->setup.gate_off;
	return 0;
}

/* open, SETUP and mmap */
RAW_FN int raw_domain(struct raw *r, uint32_t nr_slots, uint32_t nr_events)
{
	int ret;

	memset(r, 0, sizeof(*r));
	r->fd = raw_open();
	if (r->fd < 0)
		return r->fd;
	ret = raw_setup(r, nr_slots, nr_events);
	if (!ret)
		ret = raw_map(r);
	if (ret) {
		close(r->fd);
		r->fd = -1;
	}
	return ret;
}

RAW_FN void raw_close(struct raw *r)
{
	if (r->map)
		munmap(r->map, r->size);
	if (r->fd >= 0)
		close(r->fd);
	memset(r, 0, sizeof(*r));
	r->fd = -1;
}

RAW_FN struct upreempt_register raw_register_arg(void)
{
	struct upreempt_register reg;

	memset(&reg, 0, sizeof(reg));
	reg.size = sizeof(reg);
	reg.slot = UPREEMPT_ANY_SLOT;
	return reg;
}

/* Registers the caller without a landing; returns the slot or -errno. */
RAW_FN int raw_register(struct raw *r)
{
	struct upreempt_register reg = raw_register_arg();
	int ret = raw_ioctl(r->fd, UPREEMPT_IOC_REGISTER, &reg);

	return ret ? ret : (int)reg.slot;
}

RAW_FN int raw_ref(struct raw *r, unsigned long cmd, uint32_t slot, uint64_t seq)
{
	struct upreempt_ref ref = { .size = sizeof(ref), .slot = slot, .seq = seq };

	return raw_ioctl(r->fd, cmd, &ref);
}

RAW_FN int raw_unregister(struct raw *r, uint32_t slot)
{
	return raw_ref(r, UPREEMPT_IOC_UNREGISTER, slot, 0);
}

RAW_FN int raw_cancel(struct raw *r, uint32_t slot, uint64_t seq)
{
	return raw_ref(r, UPREEMPT_IOC_CANCEL, slot, seq);
}

RAW_FN int raw_release(struct raw *r, uint32_t slot, uint64_t seq)
{
	return raw_ref(r, UPREEMPT_IOC_RELEASE, slot, seq);
}

RAW_FN struct upreempt_request raw_request_arg(uint32_t slot, uint32_t kind, uint32_t flags)
{
	struct upreempt_request req;

	memset(&req, 0xcc, sizeof(req));
	req.size = sizeof(req);
	req.flags = flags;
	req.kind = kind;
	req.slot = slot;
	req.cookie = 0x600d0000ULL + slot;
	req.deadline_ns = 0;
	req.grace_ns = 0;
	req.id = 0;
	req.strategies = 0;
	req.steps = 0;
	return req;
}

/* A request that is not waited for. */
RAW_FN int raw_post(struct raw *r, uint32_t slot, uint32_t kind, uint32_t flags,
		    uint64_t deadline_ns, uint64_t *seq)
{
	struct upreempt_request req = raw_request_arg(slot, kind, flags);
	int ret;

	req.deadline_ns = deadline_ns;
	ret = raw_ioctl(r->fd, UPREEMPT_IOC_REQUEST, &req);
	if (seq)
		*seq = req.seq;
	return ret;
}

/* Waits for ms, 0: does not wait. */
RAW_FN int raw_wait(struct raw *r, uint32_t slot, uint64_t seq, uint64_t ms,
		    struct upreempt_event *event)
{
	struct upreempt_wait wait;
	int ret;

	memset(&wait, 0xcc, sizeof(wait));
	wait.size = sizeof(wait);
	wait.slot = slot;
	wait.seq = seq;
	wait.deadline_ns = ms ? raw_in(ms) : 1;
	wait.reserved = 0;
	ret = raw_ioctl(r->fd, UPREEMPT_IOC_WAIT, &wait);
	if (event)
		*event = wait.event;
	return ret;
}

/* A request that is waited for, with a deadline ms from now (0: RAW_LONG_MS). */
RAW_FN int raw_ask(struct raw *r, uint32_t slot, uint32_t kind, uint64_t ms,
		   struct upreempt_event *event)
{
	struct upreempt_request req = raw_request_arg(slot, kind, UPREEMPT_REQ_WAIT);
	int ret;

	req.deadline_ns = raw_in(ms ? ms : RAW_LONG_MS);
	do {
		req.seq = 0;
		ret = raw_ioctl(r->fd, UPREEMPT_IOC_REQUEST, &req);
	} while (ret == -EINTR && !req.seq);
	/* a signal, or only job control: the request goes on */
	while (ret == -EINTR)
		ret = raw_wait(r, slot, req.seq, 2 * RAW_LONG_MS, &req.event);
	if (event)
		*event = req.event;
	return ret;
}

/* The caller's own slot, by value */
RAW_FN int raw_check(struct raw *r, uint32_t slot)
{
	return raw_ioctl(r->fd, UPREEMPT_IOC_CHECK, (void *)(uintptr_t)slot);
}

RAW_FN int raw_stats(struct raw *r, uint32_t slot, struct upreempt_stats *stats)
{
	memset(stats, 0xcc, sizeof(*stats));
	stats->size = sizeof(*stats);
	stats->slot = slot;
	return raw_ioctl(r->fd, UPREEMPT_IOC_STATS, stats);
}

/* -------- the test build's parameters -------- */

RAW_FN bool raw_module_loaded(void)
{
	return !access("/sys/module/upreempt", F_OK);
}

RAW_FN int raw_param(const char *name, unsigned int value)
{
	char path[128], text[16];
	int fd, len, ret = 0;

	snprintf(path, sizeof(path), "/sys/module/upreempt/parameters/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	len = snprintf(text, sizeof(text), "%u", value);
	if (write(fd, text, len) != len)
		ret = -errno;
	close(fd);
	return ret;
}

/* All guards on, all inject points off; does nothing on a normal build. */
RAW_FN void raw_params_reset(void)
{
	raw_param("guards", 0);
	raw_param("inject_ipi_delay_us", 0);
	raw_param("inject_kick_delay_us", 0);
	raw_param("inject_hook_delay_us", 0);
	raw_param("inject_hook_end_delay_us", 0);
	raw_param("inject_sched_in_delay_us", 0);
	raw_param("inject_gate_delay_us", 0);
	raw_param("inject_undo_delay_us", 0);
	raw_param("inject_gate_wait_delay_us", 0);
	raw_param("inject_stop_delay_us", 0);
	raw_param("inject_refuse_arm", 0);
}

RAW_FN bool raw_is_inject_build(int fd)
{
	struct upreempt_query query;

	return !raw_query(fd, &query) && (query.features & UPREEMPT_F_INJECT);
}

/* -------- processes and CPUs -------- */

/* The number behind a word of the file's line on its domain, in fdinfo */
RAW_FN uint64_t raw_domain_word(const struct raw *r, const char *word)
{
	char path[64], line[256], *at = NULL;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", r->fd);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "upreempt-domain ", 16)) {
			at = strstr(line, word);
			break;
		}
	if (f)
		fclose(f);
	return at ? strtoull(at + strlen(word), NULL, 10) : 0;
}

/* Does the process run the program of that name? */
RAW_FN bool raw_comm_is(int pid, const char *name)
{
	char path[64], text[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "r");
	if (f) {
		if (!fgets(text, sizeof(text), f))
			text[0] = 0;
		fclose(f);
	}
	text[strcspn(text, "\n")] = 0;
	return !strcmp(text, name);
}

RAW_FN int raw_gettid(void)
{
	return (int)syscall(SYS_gettid);
}

RAW_FN int raw_pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

RAW_FN int raw_cpus(void)
{
	return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* State letter of a thread ('R', 'S', ...), 0 when it is gone */
RAW_FN char raw_state(int tid)
{
	char path[64], text[256];
	const char *end;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return 0;
	text[len] = 0;
	end = strrchr(text, ')');
	return end && end[1] ? end[2] : 0;
}

RAW_FN bool raw_sleeps(int tid)
{
	return RAW_UNTIL(raw_state(tid) == 'S');
}

/*
 * The wait status of a child, which is killed when it does not end in time
 * (-ETIMEDOUT then).
 */
RAW_FN int raw_reap(pid_t pid, uint64_t ms)
{
	uint64_t end = raw_in(ms);
	int status;

	for (;;) {
		pid_t got = waitpid(pid, &status, WNOHANG);

		if (got == pid)
			return status;
		if (got < 0)
			return -errno;
		if (raw_now() >= end) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return -ETIMEDOUT;
		}
		raw_sleep_us(500);
	}
}

/* -------- what every record has to look like -------- */

RAW_FN bool raw_event_ok(const struct upreempt_event *e)
{
	return e->seq && e->kind && e->kind < UPREEMPT_KIND_MAX &&
	       e->outcome && e->outcome < UPREEMPT_OUTCOME_MAX &&
	       e->reason < UPREEMPT_REASON_MAX && e->frame <= UPREEMPT_FRAME_SYSCALL &&
	       !(e->strategy & ~UPREEMPT_BY_AUTO) && !e->steps == !(e->strategy & UPREEMPT_BY_STEP) &&
	       !e->regs.reserved[0] && !e->regs.reserved[1] &&
	       e->request_ns <= e->final_ns && e->final_ns <= raw_now() &&
	       e->regs.rip < 1ULL << 47 && e->regs.fs_base < 1ULL << 47;
}

#endif /* SELFTESTS_RAW_H */
