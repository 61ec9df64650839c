// SPDX-License-Identifier: GPL-2.0
/*
 * Counters, in three views of the same numbers: UPREEMPT_IOC_STATS, the file's
 * /proc/PID/fdinfo/FD (its owner may read it), and /sys/kernel/debug/upreempt/threads
 * (every registered thread of the machine: who keeps the module in use).
 */
#include <linux/debugfs.h>
#include <linux/pid.h>
#include <linux/seq_file.h>

#include "reasons.h"
#include "upreempt.h"

static struct dentry *up_debugfs;

static const char * const up_reason_names[UPREEMPT_REASON_MAX] = UPREEMPT_REASON_NAMES;

void up_stats_add(struct up_counters *sum, const struct up_counters *c)
{
	const u64 *from = (const u64 *)c;
	u64 *to = (u64 *)sum;
	size_t i;

	BUILD_BUG_ON(sizeof(*c) % sizeof(u64));
	for (i = 0; i < sizeof(*c) / sizeof(u64); i++)
		to[i] += from[i];
}

static void up_thread_counters(struct up_thread *t, struct up_counters *c)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&t->lock, flags);
	*c = t->count;
	raw_spin_unlock_irqrestore(&t->lock, flags);
}

/* The domain's sum, under up_domains_lock: a thread that leaves is in the one or the other. */
static void up_domain_counters(struct up_domain *d, struct up_counters *sum)
{
	struct up_counters c;
	struct up_thread *t;

	lockdep_assert_held(&up_domains_lock);
	*sum = d->past;
	list_for_each_entry(t, &d->all_threads, all) {
		up_thread_counters(t, &c);
		up_stats_add(sum, &c);
	}
}

static void up_stats_fill(struct upreempt_stats *s, const struct up_counters *c)
{
	BUILD_BUG_ON(sizeof(s->kinds) != sizeof(c->kinds));
	BUILD_BUG_ON(sizeof(s->outcomes) != sizeof(c->outcomes));
	BUILD_BUG_ON(sizeof(s->deferrals) != sizeof(c->deferrals));
	memcpy(s->kinds, c->kinds, sizeof(s->kinds));
	memcpy(s->outcomes, c->outcomes, sizeof(s->outcomes));
	memcpy(s->deferrals, c->deferrals, sizeof(s->deferrals));
	s->ipis = c->ipis;
	s->hooks = c->hooks;
	s->gated = c->gated;
	s->resumes = c->resumes;
	s->restarts = c->restarts;
	s->polls_set = c->polls_set;
}

/**
 * up_stats_get - the counters of a thread or of the domain
 * @d: the domain
 * @s: slot in, counters out
 *
 * Context: process. Return: 0, -EINVAL (no such slot), -ESRCH (nobody in it).
 */
int up_stats_get(struct up_domain *d, struct upreempt_stats *s)
{
	struct up_counters c;
	struct up_thread *t;
	u32 slot = s->slot;

	if (slot != UPREEMPT_ALL_SLOTS && slot >= d->nr_slots)
		return -EINVAL;
	memset(s, 0, sizeof(*s));
	s->size = sizeof(*s);
	s->slot = slot;
	s->dropped = READ_ONCE(d->ring.dropped);
	s->threads = atomic_read(&d->nr_threads);
	if (slot == UPREEMPT_ALL_SLOTS) {
		s->world_stops = READ_ONCE(d->world.stops);
		s->world_ns = READ_ONCE(d->world.ns);
		s->world_late = READ_ONCE(d->world.late_sum);
		mutex_lock(&up_domains_lock);
		up_domain_counters(d, &c);
		mutex_unlock(&up_domains_lock);
	} else {
		t = up_domain_thread(d, slot);
		if (!t)
			return -ESRCH;
		up_thread_counters(t, &c);
		s->tid = t->tid;
		up_thread_put(t);
	}
	up_stats_fill(s, &c);
	return 0;
}

/* ---- text ------------------------------------------------------------------------------ */

static u64 up_requests(const struct up_counters *c)
{
	return c->kinds[UPREEMPT_SAMPLE] + c->kinds[UPREEMPT_STOP] + c->kinds[UPREEMPT_REDIRECT];
}

static void up_show_domain(struct seq_file *m, const char *prefix, struct up_domain *d,
			   const struct up_counters *c)
{
	seq_printf(m, "%sdomain %u pid %d threads %d requests %llu dropped %llu paced %llu\n",
		   prefix, d->id, pid_vnr(d->owner), atomic_read(&d->nr_threads), up_requests(c),
		   READ_ONCE(d->ring.dropped), up_user_paced(d->user));
}

static const char *up_thread_state(const struct up_thread *t)
{
	int where = atomic_read(&t->where);

	if (where == UP_DEAD || READ_ONCE(t->dead))
		return "dead";
	if (READ_ONCE(t->gated))
		return "held";
	if (where >= 0)
		return "running";
	return READ_ONCE(t->task->__state) == TASK_RUNNING ? "off" : "blocked";
}

/* One word: the line is read by programs. */
static void up_one_word(char *comm)
{
	if (!*comm)
		strcpy(comm, "-");
	for (; *comm; comm++)
		if (*comm <= ' ' || *comm > '~')
			*comm = '_';
}

/* The domain's stops of the world; the slowest thread is that of the last one. */
static void up_show_world(struct seq_file *m, const char *prefix, struct up_domain *d)
{
	struct upreempt_world_thread s;

	if (!up_domain_ready(d) || !READ_ONCE(d->world.stops))
		return;
	up_world_slowest(d, &s);
	up_one_word(s.comm);
	seq_printf(m, "%sworld %u pid %d stops %llu ns %llu late %llu stopped %d last_ns %llu",
		   prefix, d->id, pid_vnr(d->owner), READ_ONCE(d->world.stops),
		   READ_ONCE(d->world.ns), READ_ONCE(d->world.late_sum),
		   (int)(READ_ONCE(d->world.epoch) & 1), READ_ONCE(d->world.last_stop_ns));
	seq_printf(m, " slowest %u comm %s slowest_ns %llu attempts %u reason %s ip 0x%llx\n",
		   s.tid, s.comm, s.ns, s.attempts,
		   s.reason ? up_reason_names[s.reason] : "-", s.rip);
}

static void up_show_thread(struct seq_file *m, const char *prefix, struct up_thread *t)
{
	struct up_counters c;
	char comm[TASK_COMM_LEN];
	int i;

	up_thread_counters(t, &c);
	get_task_comm(comm, t->task);
	up_one_word(comm);
	seq_printf(m, "%sthread %d domain %u pid %d comm %s state %s held %u pending %d requests %llu",
		   prefix, task_pid_vnr(t->task), t->domain->id, pid_vnr(t->domain->owner),
		   comm, up_thread_state(t), READ_ONCE(t->hold),
		   !!(READ_ONCE(t->attention) & UP_ATT_PENDING), up_requests(&c));
	seq_printf(m, " sample=%llu stop=%llu redirect=%llu landed=%llu cooperated=%llu",
		   c.kinds[UPREEMPT_SAMPLE], c.kinds[UPREEMPT_STOP], c.kinds[UPREEMPT_REDIRECT],
		   c.outcomes[UPREEMPT_LANDED], c.outcomes[UPREEMPT_COOPERATED]);
	seq_printf(m, " blocked=%llu unsafe=%llu gone=%llu cancelled=%llu",
		   c.outcomes[UPREEMPT_BLOCKED], c.outcomes[UPREEMPT_UNSAFE],
		   c.outcomes[UPREEMPT_GONE], c.outcomes[UPREEMPT_CANCELLED]);
	seq_printf(m, " ipis=%llu hooks=%llu gated=%llu resumes=%llu restarts=%llu polls_set=%llu",
		   c.ipis, c.hooks, c.gated, c.resumes, c.restarts, c.polls_set);
	for (i = 1; i < UPREEMPT_REASON_MAX; i++)
		if (c.deferrals[i])
			seq_printf(m, " defer.%s=%llu", up_reason_names[i], c.deferrals[i]);
	seq_putc(m, '\n');
}

/* A line for the domain, a line for each of its threads. Under up_domains_lock. */
static void up_show(struct seq_file *m, const char *prefix, struct up_domain *d)
{
	struct up_counters sum;
	struct up_thread *t;

	up_domain_counters(d, &sum);
	up_show_domain(m, prefix, d, &sum);
	up_show_world(m, prefix, d);
	list_for_each_entry(t, &d->all_threads, all)
		up_show_thread(m, prefix, t);
}

void up_stats_fdinfo(struct seq_file *m, struct up_domain *d)
{
	mutex_lock(&up_domains_lock);
	up_show(m, "upreempt-", d);
	mutex_unlock(&up_domains_lock);
}

static int up_threads_show(struct seq_file *m, void *v)
{
	struct up_domain *d;

	mutex_lock(&up_domains_lock);
	list_for_each_entry(d, &up_domains, all)
		up_show(m, "", d);
	mutex_unlock(&up_domains_lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(up_threads);

void up_stats_init(void)
{
	up_debugfs = debugfs_create_dir("upreempt", NULL);
	debugfs_create_file("threads", 0400, up_debugfs, NULL, &up_threads_fops);
}

void up_stats_exit(void)
{
	debugfs_remove_recursive(up_debugfs);
}
