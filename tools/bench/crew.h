/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * A crew: threads that spin in loops without calls and threads that are blocked in
 * system calls, for those who want to stop them (world.c). They live in a process of
 * their own, so that one measurement's ten thousand threads and signal handlers are not
 * in another's way; the parent asks it for some samples at a time (stw.c).
 */
#ifndef CREW_H
#define CREW_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct crew;

struct member {
	volatile uint64_t beat __attribute__((aligned(64)));	/* a spinner's turns */
	volatile uint32_t at;		/* the mode it is in */
	volatile pid_t tid;		/* 0: not there yet */
	struct crew *crew;
	pthread_t pthread;
	int index, cpu;			/* cpu -1: anywhere */
	uint64_t switches;		/* when it had fallen asleep: crew_asleep() */
};

struct crew {
	int spinners, blocked;
	bool polling;			/* spinners call upreempt_poll() */
	void (*enter)(struct crew *crew);	/* by each thread first; may be NULL */
	void *data;			/* of whoever stops it */
	bool shares;			/* a spinner runs on the stopper's CPU */
	uint32_t mode __attribute__((aligned(64)));
	uint32_t never;			/* the futex of the blocked */
	uint32_t returned;		/* system calls of the blocked that came back */
	int pipe[2];
	struct member *members;		/* the spinners first */
};

/* Create its threads; returns when all have entered and the blocked ones sleep. */
void crew_start(struct crew *c);
/* Spinners: spin, or sleep until they shall spin again. */
void crew_spin(struct crew *c);
void crew_rest(struct crew *c);
/* Wait until each spinner has moved. */
void crew_moved(const struct crew *c);
/* How often its spinners have gone to sleep so far */
uint64_t crew_sleeps(const struct crew *c);
/* Fail if one of the blocked has run since crew_start(). */
void crew_check_asleep(const struct crew *c);

/* What a sample is about, beside its value; negative: not known */
struct sample {
	double value, ipis, wakeups;
};

/* One way to stop a crew, and what is measured of it. */
struct stopper {
	const char *backend;
	/* Before the crew's threads begin. Returns 0 or -errno: it cannot be done here. */
	int (*open)(struct crew *c);
	void (*enter)(struct crew *c);
	/* Its time is what is measured; may set s->value itself, and then it is not. */
	void (*stop)(struct crew *c, struct sample *s);
	void (*start)(struct crew *c);
	bool leaves_blocked;		/* must not wake those who are blocked */
};

/* world.c */
extern const struct stopper stop_kmod, stop_signal, stop_by_pthread_kill, empty_ipi;
extern const struct stopper handshake_kmod, handshake_signal, coop_kmod, coop_signal;

#endif
