/* SPDX-License-Identifier: LGPL-2.1 OR MIT */
/*
 * libupreempt: stop, inspect, redirect and resume any thread of this program.
 *
 * Every function returns 0 (or a count where stated) on success and -errno on
 * failure, prints nothing, and may be called from any thread unless its comment
 * says otherwise. Nothing here is async-signal-safe, except the inline
 * functions, upreempt_enable(), and the upreempt_context_*() calls inside a
 * handler. Times are CLOCK_MONOTONIC nanoseconds, deadlines are absolute, 0 is
 * "none". Structs of options begin with their size: use UPREEMPT_OPTS().
 */
#ifndef UPREEMPT_UPREEMPT_H
#define UPREEMPT_UPREEMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <linux/upreempt.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UPREEMPT_VERSION_MAJOR	0
#define UPREEMPT_VERSION_MINOR	1

#ifndef UPREEMPT_API
#define UPREEMPT_API __attribute__((visibility("default")))
#endif

/* UPREEMPT_OPTS(upreempt_domain_opts, o, .slots = 8); declares o */
#define UPREEMPT_OPTS(type, name, ...)					\
	struct type name = { .size = sizeof(struct type), __VA_ARGS__ }

struct upreempt_domain;		/* the threads that belong together */
struct upreempt_thread;		/* one registered thread */
struct upreempt_context;	/* the whole state of an interrupted thread */

enum upreempt_backend {
	UPREEMPT_BACKEND_AUTO	= 0,	/* kmod where it works, else signal; UPREEMPT_BACKEND overrides */
	UPREEMPT_BACKEND_KMOD	= 1,	/* the kernel module */
	UPREEMPT_BACKEND_SIGNAL	= 2,	/* one signal: works everywhere, with the known costs */
};

/*
 * Called on the interrupted thread's own stack, below its red zone, when a
 * REDIRECT lands. Returning resumes the thread from ctx, edited or not. The
 * floating point environment is the default one. The thread may have been
 * interrupted anywhere, malloc() included: call only what a signal handler may
 * call, unless the program knows better. Another request may interrupt the
 * handler; see upreempt_disable().
 */
typedef void (*upreempt_handler_fn)(struct upreempt_context *ctx, void *arg);

/* level: 0 error, 1 warning, 2 info */
typedef void (*upreempt_log_fn)(int level, const char *message);

/* ---- what this machine offers ------------------------------------------ */

struct upreempt_info {
	size_t		size;
	enum upreempt_backend backend;	/* what AUTO chooses here */
	char		why[160];	/* the reason, one sentence */
	bool		kmod_usable;
	uint32_t	kmod_abi;	/* 0: no module */
	uint64_t	kmod_features;	/* UPREEMPT_F_* */
	uint32_t	max_slots, max_events, max_requests;
	uint32_t	xsave_size;	/* bytes of stack that extended state may take */
	uint64_t	xfeatures;	/* XCR0 components that a landing saves */
	bool		shadow_stack;	/* user shadow stacks are on: resume goes by the kernel */
	int		signo;		/* the signal that the signal backend would use */
};

/* Fill *info (info->size set by the caller). -EINVAL: size. */
UPREEMPT_API int upreempt_get_info(struct upreempt_info *info);

/* Names for tables: "LANDED", "STOP", "RSEQ", ...; "?" when unknown */
UPREEMPT_API const char *upreempt_outcome_name(unsigned outcome);
UPREEMPT_API const char *upreempt_kind_name(unsigned kind);
UPREEMPT_API const char *upreempt_reason_name(unsigned reason);
UPREEMPT_API const char *upreempt_backend_name(enum upreempt_backend backend);

/* Where the library says why something failed; NULL: nowhere (default) */
UPREEMPT_API void upreempt_set_log(upreempt_log_fn fn);

/* ---- domains ------------------------------------------------------------ */

#define UPREEMPT_DOMAIN_DECLARED	(1U << 0)	/* code is unsafe unless declared: see table.h */

struct upreempt_domain_opts {
	size_t		size;
	enum upreempt_backend backend;
	uint32_t	slots;		/* threads at most; 0: 64 */
	uint32_t	events;		/* ring records, a power of two >= 16; 0: 1024 */
	int		signo;		/* signal backend; 0: UPREEMPT_SIGNAL, else SIGURG */
	uint32_t	flags;		/* UPREEMPT_DOMAIN_* */
};

/*
 * Make a domain. opts may be NULL.
 * -EINVAL: bad option. -ENOENT: KMOD asked for and no module is loaded.
 * -EACCES: /dev/upreempt may not be opened by this user. -EPROTO: the module
 * speaks another ABI, or the device is another one. -ENOMEM. -EBUSY: the signal
 * has another handler.
 */
UPREEMPT_API int upreempt_domain_open(const struct upreempt_domain_opts *opts,
				      struct upreempt_domain **domain);
/*
 * Close it: outstanding requests are cancelled, held threads released. Threads
 * still registered are unregistered: their handles are dead from here on, their
 * handlers run no more, and the memory goes when the last of them exits, registers
 * anew or unregisters. Nobody else may be in a call on the domain. NULL is accepted.
 */
UPREEMPT_API void upreempt_domain_close(struct upreempt_domain *domain);
UPREEMPT_API enum upreempt_backend upreempt_domain_backend(const struct upreempt_domain *domain);
/* File to poll() for events; stays the domain's. */
UPREEMPT_API int upreempt_domain_fd(const struct upreempt_domain *domain);
/* The shared memory, for ring.h and for tools */
UPREEMPT_API struct upreempt_header *upreempt_domain_header(const struct upreempt_domain *domain);
/* Add 1 to an eventfd when records come; -1: no longer. -EBADF, -EINVAL: no eventfd. */
UPREEMPT_API int upreempt_domain_eventfd(struct upreempt_domain *domain, int eventfd);
/* Off: every new request to any thread ends UNSAFE with reason OFF, until on again. */
UPREEMPT_API void upreempt_domain_set_enabled(struct upreempt_domain *domain, bool enabled);
/* Counters of the domain. */
UPREEMPT_API int upreempt_domain_stats(struct upreempt_domain *domain, struct upreempt_stats *stats);

/* ---- threads ------------------------------------------------------------ */

#define UPREEMPT_THREAD_NO_XSAVE	(1U << 0)	/* the handler is built with -mgeneral-regs-only */
#define UPREEMPT_THREAD_KERNEL_RESUME	(1U << 1)	/* always resume through the kernel */
#define UPREEMPT_THREAD_NO_STACK_CHECK	(1U << 2)	/* runs on stacks of its own: do not check bounds */

struct upreempt_thread_opts {
	size_t		size;
	uint32_t	flags;
	uint32_t	handler_stack;	/* bytes the handler needs; 0: 4096 */
	upreempt_handler_fn handler;	/* NULL: the thread takes no REDIRECT */
	void		*arg;
	void		*stack_lo, *stack_hi;	/* both NULL: what pthread_getattr_np() says */
};

/*
 * Register the calling thread; it unregisters by itself at thread exit.
 * A thread belongs to one domain of a copy of the library at a time.
 * -EEXIST: it is registered. -ENOSPC: no free slot. -EPERM: another process's domain.
 */
UPREEMPT_API int upreempt_thread_register(struct upreempt_domain *domain,
					  const struct upreempt_thread_opts *opts,
					  struct upreempt_thread **thread);
/*
 * Only by the thread itself (-EPERM), not in a handler or while it has stopped the world
 * (-EBUSY). Requests on their way end GONE. The handle is freed: nobody may use it any more.
 */
UPREEMPT_API int upreempt_thread_unregister(struct upreempt_thread *thread);
/* The calling thread's registration, or NULL */
UPREEMPT_API struct upreempt_thread *upreempt_thread_self(void);
UPREEMPT_API pid_t upreempt_thread_tid(const struct upreempt_thread *thread);
UPREEMPT_API uint32_t upreempt_thread_slot(const struct upreempt_thread *thread);
/* Off: every new request to it ends UNSAFE with reason OFF. From any thread. */
UPREEMPT_API void upreempt_thread_set_enabled(struct upreempt_thread *thread, bool enabled);
UPREEMPT_API int upreempt_thread_stats(struct upreempt_thread *thread, struct upreempt_stats *stats);

/* ---- requests ----------------------------------------------------------- */

struct upreempt_request_opts {
	size_t		size;
	enum upreempt_kind kind;
	uint32_t	flags;		/* UPREEMPT_REQ_RING, _OR_BLOCKED, _SAFE, _DECLARED_CALLER */
	uint64_t	cookie;
	uint64_t	deadline_ns;
	uint64_t	grace_ns;	/* so long the thread may come by itself: see upreempt_poll() */
	uint32_t	strategies;	/* UPREEMPT_BY_*: bring it out of code that is not safe */
	uint32_t	steps;		/* at most, up to UPREEMPT_STEPS_MAX; 0: 1000 */
};

/*
 * The three uses of Go's proposal, as values of grace_ns in options: to stop the world
 * (force at once), to scan a stack (loosely: 1 ms), to schedule (10 ms, as Go's sysmon).
 *	UPREEMPT_OPTS(upreempt_request_opts, o, .kind = UPREEMPT_STOP, UPREEMPT_FOR_SCAN);
 */
#define UPREEMPT_FOR_STW	.grace_ns = 0
#define UPREEMPT_FOR_SCAN	.grace_ns = 1000000
#define UPREEMPT_FOR_SCHED	.grace_ns = 10000000

/*
 * Ask and wait until it is final. The outcome is in *event (may be NULL).
 * -ESRCH: the thread is gone. -EAGAIN: too many outstanding. -EDEADLK: STOP of
 * oneself. -EINVAL: kind, flags, strategies or steps. -EOPNOTSUPP: the thread takes no REDIRECT,
 * or the backend no such strategy (signal: none).
 * Signals do not break the wait.
 */
UPREEMPT_API int upreempt_request(struct upreempt_thread *thread,
				  const struct upreempt_request_opts *opts,
				  struct upreempt_event *event);
/* Ask and return at once; *seq names the request. With REQ_RING the ring reports
 * the outcome; without, upreempt_wait() has to collect it.
 */
UPREEMPT_API int upreempt_post(struct upreempt_thread *thread,
			       const struct upreempt_request_opts *opts, uint64_t *seq);
/* -ETIMEDOUT: still pending at deadline_ns (1: do not wait). -ENOENT: no such request. */
UPREEMPT_API int upreempt_wait(struct upreempt_thread *thread, uint64_t seq,
			       uint64_t deadline_ns, struct upreempt_event *event);
/* -EALREADY: it is final: collect it. -ENOENT. A cancelled one must be collected too. */
UPREEMPT_API int upreempt_cancel(struct upreempt_thread *thread, uint64_t seq);
/* Let a stopped thread go on (when this was the last STOP that held it). -ENOENT. */
UPREEMPT_API int upreempt_release(struct upreempt_thread *thread, uint64_t seq);
/*
 * The same request to n threads at once, then wait for all. events[i] belongs to
 * threads[i]; a thread that could not be asked has outcome GONE (gone) or UNSAFE.
 * Returns how many LANDED, COOPERATED or BLOCKED. -EINVAL: kind, or flag RING.
 */
UPREEMPT_API int upreempt_request_many(struct upreempt_thread *const *threads, size_t n,
				       const struct upreempt_request_opts *opts,
				       struct upreempt_event *events);

/* CLOCK_MONOTONIC now plus ns: for deadlines */
UPREEMPT_API uint64_t upreempt_deadline(uint64_t ns);

/* ---- inside a handler --------------------------------------------------- */

/* The registers; edits of the general registers, rip, rsp and rflags (user bits) take effect. */
UPREEMPT_API struct upreempt_regs *upreempt_context_regs(struct upreempt_context *ctx);
/*
 * A component of extended state, numbered as in XCR0: 0 x87, 1 SSE (XMM), 2 AVX (upper
 * halves), 5 mask registers, 6 and 7 AVX-512, 9 PKRU, 17 and 18 AMX. NULL: the component
 * was in its initial state or was not saved. Component 0 and 1 share the 512-byte FXSAVE
 * area: a pointer to that is returned for both (MXCSR at offset 24, XMM0 at 160). Edits take effect.
 */
UPREEMPT_API void *upreempt_context_xstate(struct upreempt_context *ctx, unsigned component,
					   size_t *size);
UPREEMPT_API uint64_t upreempt_context_cookie(const struct upreempt_context *ctx);
UPREEMPT_API uint64_t upreempt_context_seq(const struct upreempt_context *ctx);
UPREEMPT_API struct upreempt_thread *upreempt_context_thread(const struct upreempt_context *ctx);

/* ---- regions that must not be interrupted ------------------------------- */

/* The calling thread's slot; a dummy when it is not registered. */
UPREEMPT_API extern __thread struct upreempt_slot *upreempt_slot_self
	__attribute__((tls_model("initial-exec")));
/* Let in what was deferred; called by upreempt_enable() */
UPREEMPT_API void upreempt_check(void);

/*
 * Between disable and enable no STOP and no REDIRECT stops the calling thread at
 * user instructions (SAMPLE still reads its registers, and a system call made there
 * counts as BLOCKED). Nests. Costs an add and a test.
 */
static inline void upreempt_disable(void)
{
	__asm__ __volatile__("addl $1, %0" : "+m"(upreempt_slot_self->nopreempt) : : "memory", "cc");
}

static inline void upreempt_enable(void)
{
	struct upreempt_slot *slot = upreempt_slot_self;

	__asm__ __volatile__("subl $1, %0" : "+m"(slot->nopreempt) : : "memory", "cc");
	if (__builtin_expect(*(volatile uint32_t *)&slot->pending != 0, 0))
		upreempt_check();
}

/* ---- coming by oneself --------------------------------------------------- */

/*
 * Polls: cooperative points of the calling thread. A request or a stop of the world with
 * a grace is granted here, with outcome COOPERATED, and deferred actions run. A poll
 * that nobody waits for costs a load and a branch.
 */
UPREEMPT_API void upreempt_poll_slow(void);

static inline void upreempt_poll(void)
{
	if (__builtin_expect(*(volatile uint32_t *)&upreempt_slot_self->poll != 0, 0))
		upreempt_poll_slow();
}

/*
 * The same by a load that faults when somebody wants the thread: no branch, no flags but
 * those that test changes. Runs no deferred actions. With the signal backend it never faults.
 */
static inline void upreempt_poll_load(void)
{
	uint64_t trigger = __atomic_load_n(&upreempt_slot_self->trigger, __ATOMIC_RELAXED);

	__asm__ __volatile__(".byte 0x84, 0x00"	/* test %al,(%rax): the module knows it */
			     : : "a"(trigger) : "cc", "memory");
}

/* The same on every n-th call only: a decrement and a branch for the others. */
static inline void upreempt_poll_counted(uint32_t n)
{
	struct upreempt_slot *slot = upreempt_slot_self;

	if (__builtin_expect(slot->user[0]-- <= 1, 0)) {
		slot->user[0] = n;
		upreempt_poll();
	}
}

/* Something to be done by a thread at its next cooperative point. The caller's memory. */
struct upreempt_action {
	void (*fn)(struct upreempt_action *action);
	struct upreempt_action *next;	/* the library's */
};

/*
 * Run action->fn(action) in the thread at its next upreempt_poll(), exactly once, never
 * asynchronously; at the latest when it unregisters. In the order of the calls. The memory
 * has to stay until fn is called, which may use it again. -ESRCH: the thread is gone.
 */
UPREEMPT_API int upreempt_defer(struct upreempt_thread *thread, struct upreempt_action *action);

/* ---- all threads --------------------------------------------------------- */

struct upreempt_world_opts {
	size_t		size;
	uint32_t	flags;		/* UPREEMPT_WORLD_* */
	uint64_t	grace_ns;	/* UPREEMPT_FOR_STW, ... */
	uint64_t	deadline_ns;
	uint32_t	strategies;	/* as in upreempt_request_opts, for each thread that is late */
	uint32_t	steps;
};

/* Set in report->flags by the signal backend, refused in opts: report->ipis counts signals */
#define UPREEMPT_WORLD_SIGNALS	(1U << 31)

/*
 * Stop all threads of the domain but the caller. Returns how many are still running at
 * the deadline (0: none; report->late names them); all others run no user instruction
 * until upreempt_world_start(). Threads in a system call are held at its return, without
 * being woken: what the kernel does for them meanwhile goes on, and so do unregistered
 * threads (report->unregistered). A thread may be held while it owns a lock of libc:
 * between stop and start call nothing that takes one, malloc() included.
 *
 * Nests: the same thread may stop again, which waits for the stragglers once more. If
 * the caller exits or closes the domain, the world goes on. It belongs to the thread: a
 * handler may stop it and return. With the signal backend threads in a system call are
 * interrupted: they count as landed, report->ipis counts signals, and a thread that ends
 * by a bare exit system call leaves the world stopped. opts and report may be NULL.
 * -EPERM: not the process that opened the domain. -EINVAL: flags. -EAGAIN (flag TRY),
 * -ETIMEDOUT: another thread has stopped the world. With flag ALL -ETIMEDOUT also: there
 * were stragglers; with flag REGISTERED -EBUSY: there are unregistered threads; nothing
 * is stopped then, and the report says who. Other signals' handlers run during the wait.
 */
UPREEMPT_API int upreempt_world_stop(struct upreempt_domain *domain,
				     const struct upreempt_world_opts *opts,
				     struct upreempt_world *report);
/* Undo one stop. -EPERM: the caller has not stopped the world. */
UPREEMPT_API int upreempt_world_start(struct upreempt_domain *domain);
/*
 * The report as text, with the slowest thread's name, place (symbol+offset) and reason.
 * Returns the length as snprintf() does.
 */
UPREEMPT_API int upreempt_world_format(const struct upreempt_world *report, char *text,
				       size_t size);

/* A thread that stands still: its registers, and the live part of its stack [sp, hi) */
struct upreempt_snapshot {
	size_t		size;
	uint16_t	outcome;	/* LANDED, COOPERATED or BLOCKED */
	uint16_t	frame;		/* enum upreempt_frame: what regs are */
	uint64_t	sp, hi;		/* hi 0: the thread was registered without bounds */
	struct upreempt_regs regs;
};

/*
 * Where a thread stands: while the caller has stopped the world, or a STOP holds the thread.
 * The 128 bytes below sp may be live too (red zone). snapshot->size set by the caller.
 * -EBUSY: it is not held. -ESRCH: it is gone. -EINVAL: size.
 */
UPREEMPT_API int upreempt_thread_context(struct upreempt_thread *thread,
					 struct upreempt_snapshot *snapshot);
/*
 * The same thread's extended state (x87, SSE, AVX, ...) in the standard form of XSAVE, 64-byte
 * aligned if upreempt_xstate_part() is to find parts that can be used as vectors. size: bytes
 * at area; changed to what there are. Bytes 464 to 511 mean nothing. The thread is not
 * disturbed. -ENOSPC: size says what it takes (nothing was written). -EBUSY: it is not held.
 * -EAGAIN: it is in a system call on a CPU, so that its registers are there. -ESRCH: gone.
 */
UPREEMPT_API int upreempt_thread_xstate(struct upreempt_thread *thread, void *area, size_t *size);
/* A component of it: as upreempt_context_xstate(). */
UPREEMPT_API void *upreempt_xstate_part(void *area, unsigned component, size_t *size);
/* Call fn for each registered thread until it returns non-zero; returns that. */
UPREEMPT_API int upreempt_domain_threads(struct upreempt_domain *domain,
					 int (*fn)(struct upreempt_thread *thread, void *arg),
					 void *arg);

/*
 * at: where the thread stands. Runs in the thread itself as a handler does, or, for a
 * thread that is in a system call or takes no REDIRECT, in the caller while the thread is
 * held: upreempt_thread_self() tells.
 */
typedef void (*upreempt_handshake_fn)(struct upreempt_thread *thread,
				      const struct upreempt_snapshot *at, void *arg);

struct upreempt_handshake {
	size_t		size;
	uint32_t	threads;	/* registered when it began */
	uint32_t	self;		/* ran fn themselves; the caller too */
	uint32_t	proxy;		/* the caller ran it for them */
	uint32_t	gone;		/* left before */
	uint32_t	unfinished;	/* fn did not begin, or not return, before the deadline */
	uint32_t	tid;		/* the first of those; 0: none */
	uint16_t	reason;		/* why it has not begun; 0: it has */
	uint64_t	rip;		/* where it was seen last */
};

/*
 * Run fn for every registered thread exactly once, each at its own safe point: no global
 * pause. Returns how many are unfinished. A thread whose fn has begun finishes it: arg has
 * to stay until then. One handshake at a time in a domain; others wait for their turn.
 * fn must not call this. In a world that the caller has stopped he runs fn for all.
 * report may be NULL. -EINVAL. -ETIMEDOUT: no turn before the deadline; fn ran nowhere.
 * -EBUSY: the same, as the caller has stopped the world in the middle of another's.
 */
UPREEMPT_API int upreempt_handshake(struct upreempt_domain *domain, upreempt_handshake_fn fn,
				    void *arg, uint64_t deadline_ns,
				    struct upreempt_handshake *report);

#ifdef __cplusplus
}
#endif
#endif
