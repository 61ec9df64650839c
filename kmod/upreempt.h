/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module's own types.
 *
 * struct up_domain   one open file; owns the shared memory and the slot table
 * struct up_thread   one registered thread; owns its requests and the hook
 * struct up_request  one request, from a pool in its thread
 *
 * References
 * ----------
 * A domain is held by its file, by each thread. A thread is held by its
 * registration (until it unregistered itself, died, or left by exec), by an
 * IPI under way, and by each ioctl that uses it. The last put frees it from a
 * work item after an RCU grace period, because the scheduler may still be
 * walking the notifier that lies in it. Each thread holds a reference on the
 * module until then: module text is never freed under a live notifier.
 *
 * Where a thread is
 * -----------------
 * up_thread.where is the only word that the context-switch path writes: the CPU
 * that runs the thread, UP_OFF, UP_DEAD, or UP_PINNED while somebody reads the
 * saved user frame of a thread that is switched out; sched_in waits for that.
 *
 * The hook (user_return_notifier) hangs on a per-CPU list of the kernel. It is
 * armed only while the thread is current there: sched_out disarms it. So an idle
 * or an offline CPU never has it, and no CPU hotplug callback is needed.
 *
 * Lost requests: the requester queues, sets up_thread.attention, then reads
 * where (barrier: E, full). sched_in changes where by cmpxchg, then reads
 * attention (barrier: F, full). One of the two sees the other. An IPI that
 * finds another task reads where again and follows.
 *
 * Locks, outermost first
 * ----------------------
 *	domain->mutex	SETUP, REGISTER, EVENTFD, mmap; sleeps
 *	domain->code_mutex	CODE_ADD, CODE_REMOVE; sleeps; see table.c
 *	up_domains_lock	the lists for the counters; process context
 *	rq->lock	the scheduler's, around sched_out
 *	pin		up_thread.where == UP_PINNED; interrupts off
 *	thread->lock	raw, interrupts off; requests, hold, the slot
 *	world->lock	raw, interrupts off; who has stopped whom: see world.c
 *	zombie_lock, ring->lock	raw, interrupts off; leaves
 * Nothing that may wake a task or take rq->lock is called under thread->lock:
 * wake-ups go through irq_work.
 */
#ifndef _UPREEMPT_H
#define _UPREEMPT_H

#include <linux/atomic.h>
#include <linux/hrtimer.h>
#include <linux/ioctl.h>
#include <linux/irq_work.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/sched/task_stack.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/user-return-notifier.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/upreempt.h>

#include <upreempt_table.h>

#include "inject.h"

#define UP_MAX_SLOTS		16384U
#define UP_MAX_EVENTS		262144U
#define UP_MIN_EVENTS		16U
#define UP_MAX_REQUESTS		16
#define UP_LANDING_MAX		65536UL
#define UP_GATE_DEPTH		4
#define UP_RETURNS		3	/* of the four debug registers */
#define UP_MAX_REGISTRATIONS	8	/* of one thread, in as many domains */
#define UP_MAX_ZOMBIES		1024
#define UP_SWITCH_SPINS		1000
#define UP_BACKOFF_MIN_NS	(20 * NSEC_PER_USEC)
#define UP_BACKOFF_MAX_NS	(1000 * NSEC_PER_USEC)
#define UP_BACKOFF_OFF_NS	(64 * NSEC_PER_MSEC)

/* up_thread.where when it is no CPU number */
#define UP_OFF		(-1)
#define UP_PINNED	(-2)
#define UP_DEAD		(-3)

/* up_thread.attention: why the hook has to be armed */
#define UP_ATT_PENDING	BIT(0)	/* requests are queued */
#define UP_ATT_HOLD	BIT(1)	/* STOPs hold the thread */
#define UP_ATT_CLOSE	BIT(2)	/* the domain is closed: leave it */
#define UP_ATT_RESUME	BIT(3)	/* registers wait to be loaded */
#define UP_ATT_WANTED	BIT(4)	/* a REDIRECT that the hook has not seen yet */
#define UP_ATT_FRAME	BIT(5)	/* a signal's frame may have what a switch took back */

enum up_arm_from {
	UP_FROM_SELF, UP_FROM_IPI, UP_FROM_SCHED_IN, UP_FROM_TIMER, UP_FROM_GATE, UP_FROM_RETURN
};

enum up_req_state {
	UP_REQ_FREE = 0,
	UP_REQ_PENDING,		/* on thread->queue */
	UP_REQ_DONE,		/* event is final; waits for a collector or a RELEASE */
};

/* All fields under thread->lock; state is also read without it (acquire). */
struct up_request {
	struct list_head node;
	u8 state;		/* enum up_req_state */
	u8 reason;		/* of the last deferral */
	bool room;			/* its record has a place in the ring */
	bool held;		/* a granted STOP that was not released */
	bool nobody;		/* nobody will collect it */
	u32 flags;		/* UPREEMPT_REQ_* */
	u64 deadline_ns;
	u64 grace_end_ns;		/* until then the thread may come by itself; 0: over */
	u32 strategies;		/* UPREEMPT_BY_* */
	u32 steps;		/* at most */
	u64 last_ip;
	struct upreempt_event event;
};

struct up_counters {
	u64 kinds[8];
	u64 outcomes[8];
	u64 deferrals[48];
	u64 ipis;
	u64 hooks;
	u64 gated;
	u64 resumes;
	u64 restarts;
	u64 polls_set;
};

/* The gate replaced the PC of a thread whose stack pointer was sp. */
struct up_gate_entry {
	unsigned long sp;
	unsigned long ip;
	unsigned long rf;
	bool left;			/* the PC was given back, but see up_gate_left() */
};

/* How a stop of the world found a thread; up_world.count counts from LATE on. */
enum up_world_state {
	UP_W_NONE,		/* in a system call */
	UP_W_LATE,		/* waited for */
	UP_W_LANDED,		/* the hook holds it at a user instruction */
	UP_W_PREEMPTED,		/* switched out at a user instruction */
	UP_W_COOPERATED,	/* came to POLL */
	UP_W_BLOCKED,		/* was late, then made a system call */
	UP_W_STATES
};

struct up_thread {
	/* the context-switch path: first cache line */
	struct preempt_notifier pn;
	atomic_t where;
	u32 attention;			/* written under lock, read everywhere */
	struct up_domain *domain;
	struct task_struct *task;
	struct mm_struct *mm;		/* at registration; mmgrab'ed */
	bool arrived;			/* sched_in waits for the pin */
	bool armed;			/* only by the thread itself, interrupts off */
	bool cooperating;		/* only by the thread itself: at the return of POLL */
	bool rseq_fault;		/* the same: its rseq area is to be touched */
	bool w_listed;			/* on world->off */

	struct user_return_notifier urn;
	call_single_data_t csd;
	refcount_t ref;

	u32 index;			/* its slot */
	pid_t tid;			/* in its own pid namespace */
	u64 id;				/* of the registration; never another one's in the domain */
	unsigned long landing, landing_end, arg, stack_lo, stack_hi;
	u32 stack_need;

	raw_spinlock_t lock;
	bool dead;			/* takes no requests any more; also under world->lock */
	bool closing;			/* the hook has to detach it */
	bool zombie;			/* on domain->zombies: uncollected outcomes */
	struct list_head zombie_node;	/* under domain->zombie_lock */
	u64 seq_lo, seq_hi;		/* of its uncollected outcomes; constant for a zombie */
	bool gated;			/* waits in the gate */
	bool in_uprobe;			/* when it was switched out: see safepoint.c */
	u32 hold;			/* granted STOPs not released yet */
	struct list_head queue;		/* pending, in order STOP, REDIRECT, SAMPLE */
	struct up_request reqs[UP_MAX_REQUESTS];
	struct up_gate_entry gate[UP_GATE_DEPTH];
	u32 gate_next;
	u32 gates;			/* entries that nobody came back for yet, */
	u32 gates_left;			/* and those that a switch has left */

	/* single steps: only by the thread itself, interrupts off; see step.c */
	bool stepping;			/* the trap flag in its frame is ours */
	bool stepped;			/* its trap has come, and the hook not seen it yet */
	bool step_lost;			/* a trap flag of ours may be where we could not clear it */
	bool step_left;			/* or in a frame that was being written; read everywhere */
	unsigned long step_ip;		/* where the hook wants one; 0: does not */
	unsigned long step_sp;		/* the stack pointer at the last one */

	/* breakpoints where it may return to: under lock; see return.c */
	unsigned long return_at[UP_RETURNS];	/* wanted; 0: none */
	bool return_asked;		/* by this visit of the hook: */
	u8 return_said;			/* enum upreempt_reason; NONE: not yet */
	bool return_failed;		/* none could be set */
	unsigned long return_tried;	/* jiffies */
	struct perf_event *return_event[UP_RETURNS];	/* the work item's */
	struct work_struct return_work;

	/* kernel resume: from the ioctl to the hook of the same exit */
	bool resume_valid;
	unsigned long resume_ip, resume_sp;
	struct upreempt_regs resume;

	/* its part in a stop of the world: under world->lock */
	struct list_head w_off;		/* switched out at a user instruction */
	struct list_head w_late;	/* waited for */
	u64 w_epoch;			/* the stop that this is about: */
	u8 w_state;			/* enum up_world_state */
	u8 w_reason;
	u32 w_attempts;
	u32 w_steps;			/* that it was stepped for this stop */
	u64 w_seen;			/* the walk that came by last */
	unsigned long w_ip;

	struct hrtimer timer;		/* retry and deadlines */
	u64 timer_ns;			/* when it will fire, 0: not set */
	u64 retry_ns;			/* when to look again, 0: need not; never before timer_ns */
	u64 backoff_ns;

	wait_queue_head_t wait;		/* those who wait for an outcome */
	wait_queue_head_t room;		/* those who wait to be able to ask */
	struct up_thread *waits_for;	/* whose outcome it waits for itself; under lock */
	wait_queue_head_t gate_wait;	/* the thread itself, held */
	struct irq_work irq_work;
	unsigned long irq_flags;
#define UP_IRQ_IPI	0		/* csd is in use: its own flag is no lock */
#define UP_IRQ_REAP	1
#define UP_IRQ_RETURN	6
#define UP_WAKE_DONE	2		/* whose request is final */
#define UP_WAKE_ROOM	3		/* one who waits for room: it passes on what is left */
#define UP_WAKE_ALL	4		/* of them, also who is wanted itself */
#define UP_WAKE_GATE	5		/* the thread itself */
	struct rcu_work reap;
	struct list_head all;		/* domain->all_threads; under up_domains_lock */
	struct up_counters count;	/* under lock; hooks and ipis racy by one */
};

struct up_ring {
	raw_spinlock_t lock;
	u64 head;			/* the truth; the shared copy is for the consumer */
	u64 dropped;
	u32 promised;			/* records that have a place but were not written yet */
	u32 mask;
	struct upreempt_event *events;
};

struct up_world_cpu;
struct up_table;
struct up_user;

/* A domain's threads, stopped together. See world.c. */
struct up_world {
	u64 epoch;			/* odd: stopped; written under lock, read everywhere */
	u32 tid;			/* the stopper's */
	struct task_struct *owner;	/* the stopper; as epoch */
	struct task_struct *owner_ref;	/* whose reference we hold; only the stopper's business */
	u32 depth;			/* the same */

	raw_spinlock_t lock;
	struct list_head off;		/* threads switched out at a user instruction */
	struct list_head late;		/* threads that are waited for: count[UP_W_LATE] */
	bool forced;			/* nobody may take his time any more */
	u32 strategies;			/* UPREEMPT_BY_*, for the late */
	u32 steps;			/* at most, of each */
	bool walked;			/* all of off was looked at */
	bool complete;			/* nobody is waited for */
	u64 walk;
	u32 acks;			/* CPUs that have not answered */
	u32 ipis;
	u32 gone;
	u32 count[UP_W_STATES];
	u64 request_ns, sent_ns, acked_ns, first_ns, last_ns, warn_ns;
	struct upreempt_world_thread slowest;
	u64 stops, ns, late_sum;	/* since the beginning */
	u64 last_stop_ns;		/* how long the last stop took */

	wait_queue_head_t gate;		/* the stopped threads */
	wait_queue_head_t done;		/* the stopper, until complete */
	wait_queue_head_t owners;	/* those who want to be the stopper */
	struct irq_work irq_work;
	unsigned long irq_flags;
#define UP_WORLD_WAKE_DONE	0
#define UP_WORLD_WAKE_GATE	1
	struct hrtimer timer;
	struct up_world_cpu __percpu *cpus;
};

struct up_domain {
	struct kref ref;
	u32 id;
	struct pid *owner;		/* thread group that opened it */
	struct up_user *user;		/* and whose it was */
	struct mm_struct *mm;		/* its mm at open; mmgrab'ed */
	struct mutex mutex;
	bool ready;			/* SETUP is done; set with release, read with acquire */
	u32 nr_slots;
	atomic_t nr_threads;
	atomic64_t seq;
	u64 last_id;			/* of a registration; under mutex */
	struct up_thread __rcu **threads;

	struct page **pages;
	unsigned long nr_pages;		/* populated ones */
	unsigned long gate_pages;
	unsigned long gate_off;		/* bytes; the header's copy is the program's */
	void *mem;			/* vmap of pages */
	struct upreempt_header *header;
	struct upreempt_slot *slots;
	unsigned long uaddr;		/* where the owner mapped it, 0: not */
	atomic_t mappings;

	struct up_world world;
	struct up_ring ring;

	bool declared;			/* code that no area declares is unsafe; constant */
	struct up_table __rcu *table;	/* never NULL; written under world->lock */
	struct up_table *staged;	/* the next one, while the world is stopped; likewise */
	struct llist_head retired;	/* tables that are to be freed */
	struct mutex code_mutex;	/* one change at a time */
	u64 code_id;			/* the last one given; under code_mutex */

	wait_queue_head_t poll_wait;
	struct eventfd_ctx *eventfd;	/* under mutex; read under RCU */
	struct irq_work wake;
	struct rcu_work reap;
	struct list_head zombies;	/* threads that are gone with uncollected outcomes */
	u32 nr_zombies;
	bool closed;			/* no more zombies: nobody could collect */
	raw_spinlock_t zombie_lock;
	struct list_head all;		/* up_domains; under up_domains_lock, as: */
	struct list_head all_threads;
	struct up_counters past;	/* of threads that have left */
};

/* SETUP is done: what it made may be used. */
static inline bool up_domain_ready(const struct up_domain *d)
{
	/* Pairs with the release in up_domain_setup(). */
	return smp_load_acquire(&d->ready);
}

/* A system call's number is an int; interrupts and exceptions store -1. */
static inline bool up_in_syscall(const struct pt_regs *regs)
{
	/*
	 * The emulation of a vsyscall stores here, whole words, and an IPI may have come into it:
	 * either answer will do.
	 */
	return (int)data_race(regs->orig_ax) >= 0;
}

static inline struct upreempt_slot *up_slot(const struct up_thread *t)
{
	return &t->domain->slots[t->index];
}

/* True when the task runs another program now (exec): the registration is void. */
static inline bool up_thread_moved_on(const struct up_thread *t)
{
	return READ_ONCE(t->task->mm) != t->mm && up_guard(UP_GUARD_MM);
}

/*
 * The program (its mm, to compare) whose registered thread runs on this CPU. One that is
 * named too long costs an IPI, one that is not named would be lost.
 */
DECLARE_PER_CPU(unsigned long, up_running);

static inline void up_world_running(const struct up_thread *t)
{
	this_cpu_write(up_running, t ? (unsigned long)t->mm : 0);
}

static inline bool up_world_stopped(const struct up_world *w)
{
	return READ_ONCE(w->epoch) & 1;
}

/* Nothing but the end of the stop lets this thread run user instructions. */
static inline bool up_world_holds(const struct up_thread *t)
{
	const struct up_world *w = &t->domain->world;

	return up_world_stopped(w) && READ_ONCE(w->owner) != t->task;
}

/* Why the hook has to run at the thread's next return to user mode. */
static inline bool up_wanted(const struct up_thread *t)
{
	return READ_ONCE(t->attention) || up_world_holds(t);
}

/*
 * By words: the compiler would turn an assignment into a string instruction, which starts up
 * slowly for so little.
 */
static inline void up_regs_copy(struct upreempt_regs *to, const struct upreempt_regs *from)
{
	const u64 *src = (const u64 *)from;
	u64 *dst = (u64 *)to;
	size_t i;

	for (i = 0; i < sizeof(*to) / sizeof(u64); i += 4) {
		WRITE_ONCE(dst[i], src[i]);
		WRITE_ONCE(dst[i + 1], src[i + 1]);
		WRITE_ONCE(dst[i + 2], src[i + 2]);
		WRITE_ONCE(dst[i + 3], src[i + 3]);
	}
}

extern struct workqueue_struct *up_wq;
extern struct list_head up_domains;
extern struct mutex up_domains_lock;

/* device.c */
int up_device_init(void);
void up_device_exit(void);

/* domain.c */
struct up_domain *up_domain_create(void);
void up_domains_exit(void);
int up_domain_setup(struct up_domain *d, struct upreempt_setup *setup);
int up_domain_mmap(struct up_domain *d, struct vm_area_struct *vma);
int up_domain_eventfd(struct up_domain *d, int fd);
void up_domain_close(struct up_domain *d);
void up_domain_put(struct up_domain *d);
bool up_domain_mine(const struct up_domain *d);
struct up_thread *up_domain_thread(struct up_domain *d, u32 slot);
struct up_thread *up_domain_zombie(struct up_domain *d, u32 slot, u64 seq);

/* user.c */
struct up_user *up_user_get(void);
void up_user_put(struct up_user *u);
bool up_user_take_pages(struct up_user *u, unsigned long pages);
void up_user_give_pages(struct up_user *u, unsigned long pages);
void up_user_ipi(struct up_user *u);
int up_user_pace(struct up_user *u);
u64 up_user_paced(const struct up_user *u);

/* thread.c */
int up_thread_register(struct up_domain *d, struct upreempt_register *reg);
int up_thread_leave(struct up_thread *t);
void up_thread_detach(struct up_thread *t);
void up_thread_finish(struct up_thread *t, enum upreempt_outcome outcome);
void up_thread_put(struct up_thread *t);
void up_thread_wake(struct up_thread *t, int whom);
struct up_thread *up_thread_current(void);
struct up_thread *up_thread_in(struct task_struct *task, const struct up_domain *d);
bool up_thread_held_elsewhere(const struct up_thread *t);
void up_zombie_add(struct up_thread *t);
void up_zombie_settle(struct up_thread *t);
unsigned long up_thread_true_ip(struct task_struct *task, const struct pt_regs *regs);
bool up_thread_at_gate(struct up_thread *t, const struct pt_regs *regs);
void up_thread_leave_gates(struct pt_regs *regs, bool switched);

/* wait.c */
int up_wait_outcome(struct up_thread *t, const struct up_request *r, u64 seq, u64 deadline_ns,
		    bool spin);
int up_wait_room(struct up_thread *t, u64 deadline_ns);
void up_wait_room_pass(struct up_thread *t);
void up_wake_waiting(struct up_thread *t);

/* request.c */
int up_request_submit(struct up_thread *t, struct upreempt_request *arg);
int up_request_wait(struct up_thread *t, u64 seq, u64 deadline_ns, bool spin,
		    struct upreempt_event *event);
void up_request_abandon(struct up_thread *t, u64 seq);
int up_request_cancel(struct up_thread *t, u64 seq);
void up_request_timer(struct up_thread *t, u64 seq);
int up_request_release(struct up_thread *t, u64 seq);
void __up_request_complete(struct up_thread *t, struct up_request *r,
			   enum upreempt_outcome outcome, enum upreempt_reason reason,
			   enum upreempt_frame frame, const struct upreempt_regs *regs);
void up_request_complete(struct up_thread *t, struct up_request *r,
			 enum upreempt_outcome outcome, enum upreempt_reason reason,
			 enum upreempt_frame frame, const struct upreempt_regs *regs);
bool up_request_room_for_record(struct up_thread *t, struct up_request *r);
void up_request_no_record(struct up_thread *t, struct up_request *r);
void up_request_note(struct up_thread *t, struct up_request *r,
		     enum upreempt_reason reason, unsigned long ip);
void up_request_defer(struct up_thread *t, struct up_request *r,
		      enum upreempt_reason reason, unsigned long ip);
void up_request_drop_all(struct up_thread *t, enum upreempt_outcome outcome);
bool up_request_uncollected(const struct up_thread *t);
void up_retry_later(struct up_thread *t);
void up_attention_update(struct up_thread *t);
enum hrtimer_restart up_timer(struct hrtimer *timer);

/* deliver.c */
void up_kick(struct up_thread *t);
void up_look(struct up_thread *t);
bool up_pin(struct up_thread *t);
void up_unpin(struct up_thread *t);
bool up_switched_out(struct up_thread *t);

/* xstate.c */
int up_xstate(struct up_thread *t, struct upreempt_xstate *arg);
void up_arm(struct up_thread *t, enum up_arm_from from);
void up_disarm(struct up_thread *t);
void up_on_cpu(struct up_thread *t, enum up_arm_from from);
void up_frame_requests(struct up_thread *t, const struct pt_regs *regs);
void up_hook(struct user_return_notifier *urn);
void up_ipi(void *info);
int up_resume(struct up_thread *t, const struct upreempt_regs *regs);

/* gate.c */
unsigned long up_gate_address(const struct up_thread *t);
unsigned long up_trigger_address(const struct up_thread *t);
void up_poll_set(struct up_thread *t);
bool up_gate_enter(struct up_thread *t, struct pt_regs *regs);
int up_held_wait(struct up_thread *t);
bool up_gate_undo(struct up_thread *t, struct pt_regs *regs);
void up_gate_undo_at_return(struct up_thread *t, struct pt_regs *regs);
bool up_gate_left(struct up_thread *t, struct pt_regs *regs, bool switched);
unsigned long up_gate_true_ip(struct up_thread *t, unsigned long ip, unsigned long sp);
vm_fault_t up_gate_fault(struct up_domain *d, struct vm_fault *vmf);

/* safepoint.c */
enum upreempt_reason up_check_stop(struct up_thread *t, struct pt_regs *regs, bool grace);
enum upreempt_reason up_check_off(struct up_thread *t, const struct pt_regs *regs,
				  unsigned long ip);
enum upreempt_reason up_check_redirect(struct up_thread *t, struct pt_regs *regs);
enum upreempt_reason up_check_sample(struct up_thread *t, struct pt_regs *regs);
bool up_in_uprobe(struct up_thread *t, const struct pt_regs *regs, bool returning);
void __up_uprobe_left(struct up_thread *t, const struct pt_regs *regs);
bool up_at_signal_entry(const struct pt_regs *regs);
struct rt_sigframe __user *up_signal_frame(struct up_thread *t, const struct pt_regs *regs,
					   bool (*has)(struct up_thread *t,
						       const struct sigcontext *sc),
					   struct sigcontext *sc);
bool up_reason_is_final(enum upreempt_reason reason);
enum upreempt_reason up_strategy(struct up_thread *t, const struct pt_regs *regs,
				 enum upreempt_reason why, u32 strategies, u32 taken, u32 most);

/* table.c */
enum upreempt_reason up_check_code(const struct up_thread *t, unsigned long ip);
bool up_code_steps(const struct up_thread *t, unsigned long ip);
enum upreempt_reason up_enforce_code(struct up_thread *t, struct pt_regs *regs);
int up_tables_init(struct up_domain *d, bool declared);
void up_tables_free(struct up_domain *d);
void up_tables_retire(struct up_domain *d);
void up_tables_release(struct up_domain *d);
int up_code_add(struct up_domain *d, struct upreempt_code_add *arg);
int up_code_remove(struct up_domain *d, u64 id, bool *staged);

/* return.c */
enum upreempt_reason up_return_ask(struct up_thread *t, const struct pt_regs *regs);
void up_return_visited(struct up_thread *t);
void __up_return_drop(struct up_thread *t);
void up_return_work(struct work_struct *work);
void up_return_free(struct up_thread *t);

/* Under t->lock. */
static inline void up_return_drop(struct up_thread *t)
{
	if (unlikely(t->return_at[0]))
		__up_return_drop(t);
}

/* step.c */
enum upreempt_reason up_step_ask(struct up_thread *t, const struct pt_regs *regs, u32 taken,
				 u32 most);
bool up_step_set(struct up_thread *t, struct pt_regs *regs);
void up_step_end(struct up_thread *t, struct pt_regs *regs);
void up_step_left(struct up_thread *t, struct pt_regs *regs);
int up_step_init(void);
void up_step_exit(void);

/* world.c */
bool up_world_owned_by(const struct up_thread *t);
bool up_world_waits(const struct up_thread *t);
void __up_world_sched_out(struct up_thread *t, const struct pt_regs *regs, bool user);
void up_world_sched_in(struct up_thread *t);
void up_world_on_cpu(struct up_thread *t, const struct pt_regs *regs);
bool up_world_hook(struct up_thread *t, struct pt_regs *regs);
bool up_world_gone(struct up_thread *t, bool by_itself);
int up_world_stop(struct up_domain *d, struct upreempt_world *arg);
int up_world_start(struct up_domain *d);
void up_world_slowest(struct up_domain *d, struct upreempt_world_thread *slowest);
int up_world_init(struct up_domain *d);
void up_world_close(struct up_domain *d);
void up_world_free(struct up_domain *d);

/* ring.c */
bool up_ring_reserve(struct up_domain *d);
void up_ring_unreserve(struct up_domain *d);
bool up_ring_post(struct up_domain *d, const struct upreempt_event *event, bool reserved);
bool up_ring_readable(struct up_domain *d);

/* stats.c */
void up_stats_add(struct up_counters *sum, const struct up_counters *c);
int up_stats_get(struct up_domain *d, struct upreempt_stats *stats);
void up_stats_fdinfo(struct seq_file *m, struct up_domain *d);
void up_stats_init(void);
void up_stats_exit(void);

/* ---- what each switch of a registered thread comes by: no call without a need ---------------- */

/*
 * Whether a thread that is switched out stands in a uprobe, only it itself can tell. Most
 * never met one.
 *
 * Context: the thread itself, in sched_out.
 */
static inline void up_uprobe_left(struct up_thread *t, const struct pt_regs *regs)
{
#ifdef CONFIG_UPROBES
	/* data_race: it may have been switched out just before or after this store. */
	if (unlikely(t->in_uprobe || data_race(current->utask) || test_thread_flag(TIF_UPROBE)))
		__up_uprobe_left(t, regs);
#endif
}

/* Context: the thread itself, in sched_out under rq->lock; its frame is final. */
static inline void up_world_sched_out(struct up_thread *t, const struct pt_regs *regs)
{
	/* Not 64-bit: the gate cannot hold it at its return, the stopper has to know. */
	bool user = !up_in_syscall(regs) || !user_64bit_mode((struct pt_regs *)regs);

	if (user || unlikely(up_world_stopped(&t->domain->world)))
		__up_world_sched_out(t, regs, user);
}

#endif /* _UPREEMPT_H */
