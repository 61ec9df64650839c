/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * What the library's files share: the objects and the table of operations that
 * a backend implements.
 *
 * Lifetimes. A domain counts its opener and every thread whose registration
 * was not taken down by the thread itself: only that thread may stop using the
 * slot, the landing and the stack, so close() from another thread leaves the
 * memory until the last of them unregisters, registers anew or exits. A handle
 * that died is kept for a while before it is used again, so that a request
 * which raced with the thread's exit finds a dead handle and not another
 * thread's.
 */
#ifndef UPREEMPT_BACKEND_H
#define UPREEMPT_BACKEND_H

#include <upreempt/upreempt.h>
#include <pthread.h>

#define UPREEMPT_HIDDEN		__attribute__((visibility("hidden")))
#define KNOWN_REQ_FLAGS		(UPREEMPT_REQ_RING | UPREEMPT_REQ_OR_BLOCKED | \
				 UPREEMPT_REQ_SAFE | UPREEMPT_REQ_DECLARED_CALLER)
#define DEAD_HANDLES		64	/* kept before one is used again */

#pragma GCC visibility push(hidden)

struct sig_domain;
struct sig_thread;
struct kmod_thread;

struct upreempt_ops {
	const char *name;
	uint32_t strategies;		/* UPREEMPT_BY_* that it has */
	/* fills d->header and d->fd; o is complete */
	int (*open)(struct upreempt_domain *d, const struct upreempt_domain_opts *o);
	/* no request may stay undecided, no thread held */
	void (*close)(struct upreempt_domain *d);
	/* the last user of the memory is gone */
	void (*free)(struct upreempt_domain *d);
	/* by the thread: t->index and t->slot out */
	int (*add)(struct upreempt_thread *t, const struct upreempt_register *r);
	/* by the thread; open: the domain was not closed */
	int (*remove)(struct upreempt_thread *t, bool open);
	int (*request)(struct upreempt_thread *t, const struct upreempt_request_opts *o,
		       struct upreempt_event *event);
	int (*post)(struct upreempt_thread *t, const struct upreempt_request_opts *o,
		    uint64_t *seq);
	int (*wait)(struct upreempt_thread *t, uint64_t seq, uint64_t deadline_ns,
		    struct upreempt_event *event);
	int (*cancel)(struct upreempt_thread *t, uint64_t seq);
	int (*release)(struct upreempt_thread *t, uint64_t seq);
	/* by the thread itself: it may be stopped here; general registers only */
	void (*poll)(struct upreempt_thread *t);
	/* r's arguments are filled in, the rest is zero */
	int (*world_stop)(struct upreempt_domain *d, struct upreempt_world *r);
	int (*world_start)(struct upreempt_domain *d);
	/* of a thread that stands; x is filled in as for the module */
	int (*xstate)(struct upreempt_thread *t, struct upreempt_xstate *x);
	/* t NULL: the domain */
	int (*stats)(struct upreempt_domain *d, struct upreempt_thread *t,
		     struct upreempt_stats *stats);
	int (*eventfd)(struct upreempt_domain *d, int fd);
	/* as the module's commands */
	int (*code_add)(struct upreempt_domain *d, struct upreempt_code_add *a);
	int (*code_remove)(struct upreempt_domain *d, uint64_t id);
};

struct upreempt_domain {
	const struct upreempt_ops *ops;
	enum upreempt_backend backend;
	uint32_t generation;		/* of the process: see upreempt_generation */
	uint32_t refs;			/* the opener and the threads; atomic */
	uint32_t closed;		/* atomic */
	uint32_t lock;			/* up_lock(): the lists, slots, d->sig->free */
	int fd;				/* to poll(); kmod: the device */
	int signo;
	struct upreempt_header *header;
	struct upreempt_thread *live;	/* registered threads */
	struct upreempt_thread *dead;	/* handles to be used again, oldest first */
	struct upreempt_thread **dead_end;
	unsigned int nr_dead;
	uint64_t serial;		/* the last thread's */
	uint32_t hs_lock;		/* one handshake at a time */
	uint32_t code_lock;		/* up_lock(): codes */
	struct upreempt_code *codes;	/* areas: see code.c */
	pid_t stopper;			/* who has stopped the world; atomic */
	uint32_t depth, late;		/* only the stopper's business */
	struct sig_domain *sig;
};

/* A thread's part in a handshake. state is a futex; the rest is the caller's who has hs_lock. */
enum { HS_IDLE, HS_POSTED, HS_RUNNING };
/* How far the caller is with a thread: in this order, REDIRECT or STOP left out */
enum { HS_BEFORE, HS_REDIRECT, HS_MAY_STOP, HS_STOP, HS_RUNS, HS_OVER };

struct hs_entry {
	uint32_t state;
	upreempt_handshake_fn fn;
	void *arg;
	uint32_t phase;
	uint32_t reason;		/* why it was refused last, and where */
	uint64_t rip;
	uint64_t seq;			/* of the REDIRECT or STOP */
	struct upreempt_thread *next;
};

struct upreempt_thread {
	/* read by landing.S: see frame.h */
	struct upreempt_slot *slot;
	uint32_t flags;			/* UPREEMPT_THREAD_* */
	uint32_t kflags;		/* KRESUME_* */
	int32_t fd;
	uint32_t index;
	/* read by land.c */
	upreempt_handler_fn handler;
	void *arg;
	struct upreempt_context *top;	/* innermost context whose handler runs */
	uint32_t muted;			/* the domain was closed: no handler any more; atomic */
	/* constant while registered */
	pid_t tid, pid;
	int signo;
	struct upreempt_domain *domain;
	/* under domain->lock */
	struct upreempt_thread *next, **pprev;
	uint64_t serial;		/* rises with each registration */
	bool leaving;			/* in upreempt_thread_detach() */
	uint32_t gone;			/* atomic: no requests any more */
	uint32_t users;			/* atomic: calls that use the handle now */
	struct sig_thread *sig;
	struct kmod_thread *kmod;
	uint64_t stack_lo, stack_hi;	/* constant while registered; 0: not known */
	struct hs_entry hs;
	struct upreempt_action *actions;	/* newest first; atomic */
};

/* What the handler's upreempt_context is: the layout is in frame.h */
struct upreempt_context {
	struct upreempt_resume resume;
	uint64_t seq, cookie;
	struct upreempt_thread *thread;
	void *xsave;			/* NULL: not saved */
	uint64_t xmask;
	uint32_t xmode, pad0;
	struct upreempt_context *prev;
	uint64_t target;
	int32_t fd;
	uint32_t kflags;
	uint64_t tf, pad1;
};

/* How this machine saves extended state; read by landing.S */
struct upreempt_xstate_info {
	uint32_t mode;			/* XS_MODE_* */
	uint32_t avx;
	uint64_t mask;
	uint32_t size;			/* without the AMX tiles */
	uint32_t size_all;
	uint32_t xgetbv1;
	uint32_t pad;
	struct {
		uint32_t size, offset;	/* offset in the standard format */
		uint32_t align64;	/* in the compacted format */
	} part[64];
};

extern struct upreempt_xstate_info upreempt_xs;
extern const struct upreempt_ops upreempt_ops_kmod, upreempt_ops_signal;
extern struct upreempt_slot upreempt_slot_dummy;
extern __thread struct upreempt_thread *upreempt_self
	__attribute__((tls_model("initial-exec")));

/* Rises in a child of fork(): what was made before does not work there */
extern uint32_t upreempt_generation;

/* landing.S */
extern char upreempt_landing[], upreempt_landing_end[];

/* init.c: once, before anything else */
void upreempt_init(void);
bool upreempt_shadow_stack(void);
uint64_t upreempt_now(void);
/* copies a struct of options that begins with its size; rest zero */
int upreempt_copy_opts(void *dst, size_t dst_size, const void *src);

/* log.c */
void upreempt_log(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* backend_kmod.c: open the device and ask; the fd, or -errno with the reason in why */
int upreempt_kmod_probe(struct upreempt_query *query, char *why, size_t why_size);
/* backend_signal.c */
#define SIG_MAX_SLOTS		4096
#define SIG_MAX_EVENTS		(1U << 20)
#define SIG_MAX_REQUESTS	16
int upreempt_signal_number(int *signo);
extern uint32_t upreempt_install_lock;
/* domain.c: AUTO, with the environment and the reason */
int upreempt_choose(enum upreempt_backend wanted, enum upreempt_backend *chosen, char *why,
		    size_t why_size);
void upreempt_domain_put(struct upreempt_domain *d);
/* world.c: the calling thread has stopped the world */
bool upreempt_is_stopper(const struct upreempt_domain *d);
/* if so, it goes on */
void upreempt_world_abandon(struct upreempt_domain *d);
/* handshake.c: a REDIRECT with this cookie is a handshake's */
static inline uint64_t upreempt_handshake_cookie(const struct upreempt_thread *t)
{
	return (uintptr_t)&t->hs;
}
static inline bool upreempt_handshake_claim(struct upreempt_thread *t)
{
	uint32_t posted = HS_POSTED;

	return __atomic_compare_exchange_n(&t->hs.state, &posted, HS_RUNNING, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
/* poll.c: the calling thread's deferred actions */
void upreempt_run_actions(struct upreempt_thread *t);
/* code.c: the domain goes */
void upreempt_codes_free(struct upreempt_domain *d);
/* request.c: the handle will not become another thread's in between */
int upreempt_strategies_check(const struct upreempt_domain *d, uint32_t strategies, uint32_t steps);
int upreempt_thread_enter(struct upreempt_thread *t);
void upreempt_thread_exit(struct upreempt_thread *t);
/* thread.c: the calling thread lets its registration go */
int upreempt_thread_detach(struct upreempt_thread *t);
bool upreempt_in_handler(const struct upreempt_thread *t);

/* check.c, lock.c */
long upreempt_syscall(long nr, long a, long b, long c, long d, long e, long f);
/* A lock of one word; whoever holds it takes no STOP and no REDIRECT. */
void up_lock(uint32_t *lock);
void up_unlock(uint32_t *lock);
/* The same without touching the no-preempt counter: signals are blocked */
void up_lock_raw(uint32_t *lock);
void up_unlock_raw(uint32_t *lock);
/* abs_ns 0: for ever; CLOCK_MONOTONIC */
long up_futex_wait(uint32_t *word, uint32_t value, uint64_t abs_ns);
void up_futex_wake(uint32_t *word, int n);

#pragma GCC visibility pop

static inline bool upreempt_thread_usable(const struct upreempt_thread *t)
{
	return t->domain->generation == upreempt_generation;
}

#endif
