// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/upreempt: the file, and what each ioctl takes and refuses. An argument is read
 * once, by its own size; nothing of it is read again.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "upreempt.h"
#include "trace.h"

static unsigned int device_mode = 0660;
module_param(device_mode, uint, 0444);
MODULE_PARM_DESC(device_mode, "permissions of /dev/upreempt (default 0660; 0666 is safe)");

#ifdef UPREEMPT_INJECT
#define UP_FEATURE_INJECT	UPREEMPT_F_INJECT
#else
#define UP_FEATURE_INJECT	0
#endif
#define UP_FEATURE_RETURN (IS_ENABLED(CONFIG_HAVE_HW_BREAKPOINT) ? UPREEMPT_F_RETURN : 0)
#define UP_FEATURES	(UPREEMPT_F_SAMPLE | UPREEMPT_F_STOP | UPREEMPT_F_REDIRECT | \
			 UPREEMPT_F_RESUME | UPREEMPT_F_RING | UPREEMPT_F_WORLD | \
			 UPREEMPT_F_GRACE | UPREEMPT_F_XSTATE | UPREEMPT_F_TABLE | \
			 UPREEMPT_F_STEP | UP_FEATURE_RETURN | \
			 (IS_ENABLED(CONFIG_RSEQ) ? UPREEMPT_F_RSEQ : 0) | \
			 UP_FEATURE_INJECT)
#define UP_REQUEST_FLAGS (UPREEMPT_REQ_WAIT | UPREEMPT_REQ_RING | UPREEMPT_REQ_OR_BLOCKED | \
			  UPREEMPT_REQ_SAFE | UPREEMPT_REQ_DECLARED_CALLER)

/* ---- arguments ------------------------------------------------------------------------ */

static int up_arg_get(void *arg, size_t ksize, void __user *uarg)
{
	u32 usize;

	if (get_user(usize, (u32 __user *)uarg))
		return -EFAULT;
	if (usize < ksize)
		return -EINVAL;
	if (usize > PAGE_SIZE)
		return -E2BIG;
	return copy_struct_from_user(arg, ksize, uarg, usize);
}

static int up_arg_put(void __user *uarg, const void *arg, size_t ksize)
{
	return copy_to_user(uarg, arg, ksize) ? -EFAULT : 0;
}

/*
 * Requests are hot and their struct is long, but most of it is the answer: only the words
 * that go in are read, only those that come out are written, eight bytes at a time (for so
 * few of them the string instructions of copy_from_user() start up slowly).
 */
static int up_words_get(u64 *to, const void __user *from, size_t bytes)
{
	const u64 __user *words = from;
	size_t i;

	if (!user_read_access_begin(from, bytes))
		return -EFAULT;
#pragma GCC unroll 8
	for (i = 0; i < bytes / sizeof(u64); i++)
		unsafe_get_user(to[i], words + i, fault);
	user_read_access_end();
	return 0;
fault:
	user_read_access_end();
	return -EFAULT;
}

static int up_words_put(void __user *to, const u64 *from, size_t bytes)
{
	u64 __user *words = to;
	size_t i;

	if (!user_write_access_begin(to, bytes))
		return -EFAULT;
	for (i = 0; i < bytes / sizeof(u64); i++)
		unsafe_put_user(from[i], words + i, fault);
	user_write_access_end();
	return 0;
fault:
	user_write_access_end();
	return -EFAULT;
}

/* Everything before the event; the event's bytes may hold anything. */
static int up_request_get(struct upreempt_request *req, void __user *uarg)
{
	int ret = up_words_get((u64 *)req, uarg, offsetof(struct upreempt_request, event));

	if (ret)
		return ret;
	if (req->size < sizeof(*req))
		return -EINVAL;
	if (req->size > PAGE_SIZE)
		return -E2BIG;
	if (req->size > sizeof(*req)) {
		ret = check_zeroed_user(uarg + sizeof(*req), req->size - sizeof(*req));
		return ret < 0 ? ret : ret ? 0 : -E2BIG;
	}
	return 0;
}

static int up_request_put(struct upreempt_request __user *uarg, const struct upreempt_request *req,
			  bool event)
{
	int ret = put_user(req->seq, &uarg->seq);

	if (!ret && event)
		ret = up_words_put(&uarg->event, (const u64 *)&req->event, sizeof(req->event));
	return ret;
}

/* ---- one function for each command ------------------------------------------------------- */

static long up_ioc_query(struct up_domain *d, void __user *uarg)
{
	struct upreempt_query q;
	int ret = up_arg_get(&q, sizeof(q), uarg);

	if (ret)
		return ret;
	memset(&q, 0, sizeof(q));
	q.size = sizeof(q);
	q.abi_version = UPREEMPT_ABI_VERSION;
	q.features = UP_FEATURES;
#ifdef CONFIG_DEBUG_INFO_BTF_MODULES
	if (THIS_MODULE->btf_data_size)
		q.features |= UPREEMPT_F_BTF;
#endif
	q.max_slots = UP_MAX_SLOTS;
	q.max_events = UP_MAX_EVENTS;
	q.max_requests = UP_MAX_REQUESTS;
	q.slot_size = sizeof(struct upreempt_slot);
	q.landing_max = UP_LANDING_MAX;
	q.max_ranges = UPREEMPT_MAX_RANGES;
	q.max_areas = UPREEMPT_MAX_AREAS;
	return up_arg_put(uarg, &q, sizeof(q));
}

static long up_ioc_setup(struct up_domain *d, void __user *uarg)
{
	struct upreempt_setup s;
	int ret = up_arg_get(&s, sizeof(s), uarg);

	if (!ret)
		ret = up_domain_setup(d, &s);
	return ret ? ret : up_arg_put(uarg, &s, sizeof(s));
}

/* The caller's own registration in @slot, with a reference. */
static struct up_thread *up_self(struct up_domain *d, u32 slot)
{
	struct up_thread *t;

	if (slot >= d->nr_slots)
		return ERR_PTR(-EINVAL);
	t = up_domain_thread(d, slot);
	if (!t)
		return ERR_PTR(-ESRCH);
	if (t->task == current)
		return t;
	up_thread_put(t);
	return ERR_PTR(-EPERM);
}

static int up_unregister(struct up_domain *d, u32 slot)
{
	struct up_thread *t = up_self(d, slot);
	int ret;

	if (IS_ERR(t))
		return PTR_ERR(t);
	ret = up_thread_leave(t);
	up_thread_put(t);
	return ret;
}

static long up_ioc_register(struct up_domain *d, void __user *uarg)
{
	struct upreempt_register reg;
	int ret = up_arg_get(&reg, sizeof(reg), uarg);

	if (!ret)
		ret = up_thread_register(d, &reg);
	if (!ret && up_arg_put(uarg, &reg, sizeof(reg))) {
		up_unregister(d, reg.slot);
		ret = -EFAULT;
	}
	return ret;
}

static long up_ioc_unregister(struct up_domain *d, void __user *uarg)
{
	struct upreempt_ref ref;
	int ret = up_arg_get(&ref, sizeof(ref), uarg);

	if (ret)
		return ret;
	if (ref.seq)
		return -EINVAL;
	return up_unregister(d, ref.slot);
}

/* The thread in a slot that is being asked for, with a reference. */
static struct up_thread *up_target(struct up_domain *d, u32 slot)
{
	struct up_thread *t;

	if (slot >= d->nr_slots)
		return ERR_PTR(-EINVAL);
	t = up_domain_thread(d, slot);
	return t ? t : ERR_PTR(-ESRCH);
}

static long up_request_and_wait(struct up_thread *t, struct upreempt_request *req)
{
	bool waited = false;
	int ret, err = 0;

	ret = up_user_pace(t->domain->user);
	if (ret)
		return ret;
	/* Who waits anyway waits for room, too: a hundred requesters get their turn. */
	while ((ret = up_request_submit(t, req)) == -EAGAIN && req->flags & UPREEMPT_REQ_WAIT) {
		waited = true;
		err = up_wait_room(t, req->deadline_ns);
		if (err)
			break;
	}
	if (waited)
		up_wait_room_pass(t);
	if (err)
		return err == -ERESTARTSYS ? -EINTR : err;
	if (ret || !(req->flags & UPREEMPT_REQ_WAIT))
		return ret;
	ret = up_request_wait(t, req->seq, 0, true, &req->event);
	if (ret && fatal_signal_pending(current))
		up_request_abandon(t, req->seq);
	/* Starting it anew would make a second request: the caller waits for seq. */
	return ret == -ERESTARTSYS ? -EINTR : ret;
}

static long up_ioc_request(struct up_domain *d, void __user *uarg)
{
	/* Not cleared: the event is written whole before it is read, or never read. */
	struct upreempt_request req __uninitialized;
	struct up_thread *t;
	int ret = up_request_get(&req, uarg);

	if (ret)
		return ret;
	if (req.flags & ~UP_REQUEST_FLAGS || !req.kind || req.kind >= UPREEMPT_KIND_MAX ||
	    !upreempt_strategies_fit(req.strategies, req.steps) ||
	    (req.flags & UPREEMPT_REQ_OR_BLOCKED && req.kind != UPREEMPT_REDIRECT) ||
	    !upreempt_table_flags_fit(req.flags, req.kind))
		return -EINVAL;
	t = up_target(d, req.slot);
	if (IS_ERR(t))
		return PTR_ERR(t);
	req.seq = 0;
	/* The thread that is meant may have left, and the slot be another one's. */
	ret = req.id && req.id != t->id ? -ESRCH : up_request_and_wait(t, &req);
	if ((!ret || ret == -EINTR) &&
	    up_request_put(uarg, &req, !ret && req.flags & UPREEMPT_REQ_WAIT)) {
		/* Nobody knows its seq: a STOP would hold for ever. */
		up_request_abandon(t, req.seq);
		ret = -EFAULT;
	}
	up_thread_put(t);
	return ret;
}

static long up_ioc_wait(struct up_domain *d, void __user *uarg)
{
	struct upreempt_wait w;
	struct up_thread *t;
	int ret = up_arg_get(&w, sizeof(w), uarg);

	if (ret)
		return ret;
	if (w.reserved || w.slot >= d->nr_slots)
		return -EINVAL;
	/* Before the outcome is taken, so that it is not lost. */
	if (up_arg_put(uarg, &w, sizeof(w)))
		return -EFAULT;
	ret = -ENOENT;
	t = up_domain_thread(d, w.slot);
	if (t) {
		ret = up_request_wait(t, w.seq, w.deadline_ns, false, &w.event);
		up_thread_put(t);
	}
	if (ret == -ENOENT) {
		t = up_domain_zombie(d, w.slot, w.seq);
		if (t) {
			ret = up_request_wait(t, w.seq, 1, false, &w.event);
			up_thread_put(t);
		}
	}
	return ret ? ret : up_arg_put(uarg, &w, sizeof(w));
}

static long up_ioc_by_ref(struct up_domain *d, void __user *uarg,
			  int (*fn)(struct up_thread *t, u64 seq))
{
	struct upreempt_ref ref;
	struct up_thread *t;
	int ret = up_arg_get(&ref, sizeof(ref), uarg);

	if (ret)
		return ret;
	t = up_target(d, ref.slot);
	if (IS_ERR(t))
		return PTR_ERR(t);
	ret = fn(t, ref.seq);
	up_thread_put(t);
	return ret;
}

static long up_ioc_resume(struct up_domain *d, void __user *uarg)
{
	struct upreempt_resume res;
	struct up_thread *t;
	int ret = up_arg_get(&res, sizeof(res), uarg);

	if (ret)
		return ret;
	t = up_self(d, res.slot);
	if (IS_ERR(t))
		return PTR_ERR(t);
	ret = up_resume(t, &res.regs);
	up_thread_put(t);
	return ret;
}

static long up_ioc_eventfd(struct up_domain *d, void __user *uarg)
{
	struct upreempt_eventfd e;
	int ret = up_arg_get(&e, sizeof(e), uarg);

	return ret ? ret : up_domain_eventfd(d, e.fd);
}

static long up_ioc_stats(struct up_domain *d, void __user *uarg)
{
	struct upreempt_stats s;
	int ret = up_arg_get(&s, sizeof(s), uarg);

	if (!ret)
		ret = up_stats_get(d, &s);
	return ret ? ret : up_arg_put(uarg, &s, sizeof(s));
}

/* Arm the hook for the caller: it runs at this very call's return. */
static long up_ioc_check(struct up_domain *d, u32 slot)
{
	struct up_thread *t = up_self(d, slot);
	unsigned long flags;

	if (IS_ERR(t))
		return PTR_ERR(t);
	local_irq_save(flags);
	if (up_wanted(t)) {
		up_on_cpu(t, UP_FROM_SELF);
	} else {
		/* A stop that is over told the slot, and nobody since. */
		raw_spin_lock(&t->lock);
		up_attention_update(t);
		raw_spin_unlock(&t->lock);
	}
	local_irq_restore(flags);
	up_thread_put(t);
	return 0;
}

/* The caller may be stopped here: what waits for it is granted at this call's return. */
static long up_ioc_poll(struct up_domain *d, u32 slot)
{
	struct up_thread *t = up_self(d, slot);
	unsigned long flags;

	if (IS_ERR(t))
		return PTR_ERR(t);
	local_irq_save(flags);
	if (up_wanted(t)) {
		t->cooperating = true;
		up_arm(t, UP_FROM_SELF);
	}
	local_irq_restore(flags);
	up_thread_put(t);
	return 0;
}

#define UP_WORLD_FLAGS	(UPREEMPT_WORLD_ALL | UPREEMPT_WORLD_REGISTERED | UPREEMPT_WORLD_TRY)

static long up_ioc_world_stop(struct up_domain *d, void __user *uarg)
{
	size_t out = offsetof(struct upreempt_world, depth);
	struct upreempt_world w;
	int ret = up_arg_get(&w, sizeof(w), uarg);

	if (ret)
		return ret;
	if (w.flags & ~UP_WORLD_FLAGS || w.reserved ||
	    !upreempt_strategies_fit(w.strategies, w.steps))
		return -EINVAL;
	memset((void *)&w + out, 0, sizeof(w) - out);
	ret = up_world_stop(d, &w);
	/* A stop that was undone has its report too. */
	if ((!ret || w.final_ns) && up_arg_put(uarg, &w, sizeof(w))) {
		if (!ret)
			up_world_start(d);
		ret = -EFAULT;
	}
	return ret;
}

static long up_ioc_xstate(struct up_domain *d, void __user *uarg)
{
	struct upreempt_xstate x;
	struct up_thread *t;
	int ret = up_arg_get(&x, sizeof(x), uarg);

	if (ret)
		return ret;
	if (x.reserved[0] || x.reserved[1])
		return -EINVAL;
	t = up_target(d, x.slot);
	if (IS_ERR(t))
		return PTR_ERR(t);
	x.bytes = 0;
	x.features = 0;
	ret = up_xstate(t, &x);
	up_thread_put(t);
	if ((!ret || ret == -ENOSPC) && up_arg_put(uarg, &x, sizeof(x)))
		ret = -EFAULT;
	return ret;
}

static long up_ioc_code_add(struct up_domain *d, void __user *uarg)
{
	struct upreempt_code_add a;
	int ret = up_arg_get(&a, sizeof(a), uarg);
	bool replaced;

	if (ret)
		return ret;
	a.bad = UPREEMPT_NO_RANGE;
	a.why = UPREEMPT_RANGE_OK;
	a.staged = 0;
	replaced = a.replace;
	ret = a.flags || a.reserved32 || a.reserved ? -EINVAL : up_code_add(d, &a);
	if (ret && ret != -EINVAL)
		return ret;
	if (up_arg_put(uarg, &a, sizeof(a))) {
		/* Nobody knows its id; what was replaced is named by it already. */
		if (!ret && !replaced)
			up_code_remove(d, a.id, &(bool){ false });
		ret = -EFAULT;
	}
	return ret;
}

static long up_ioc_code_remove(struct up_domain *d, void __user *uarg)
{
	struct upreempt_code_remove a;
	int ret = up_arg_get(&a, sizeof(a), uarg);
	bool staged = false;

	if (ret)
		return ret;
	if (a.flags || a.reserved32)
		return -EINVAL;
	ret = up_code_remove(d, a.id, &staged);
	a.staged = staged;
	return ret ? ret : up_arg_put(uarg, &a, sizeof(a));
}

static long up_dispatch(struct up_domain *d, unsigned int cmd, void __user *uarg)
{
	if (cmd == UPREEMPT_IOC_QUERY)
		return up_ioc_query(d, uarg);
	if (cmd == UPREEMPT_IOC_SETUP)
		return up_ioc_setup(d, uarg);
	if (_IOC_TYPE(cmd) != UPREEMPT_IOC_MAGIC)
		return -ENOTTY;
	if (!up_domain_ready(d))
		return -ENXIO;

	switch (cmd) {
	case UPREEMPT_IOC_REGISTER:
		return up_ioc_register(d, uarg);
	case UPREEMPT_IOC_UNREGISTER:
		return up_ioc_unregister(d, uarg);
	case UPREEMPT_IOC_REQUEST:
		return up_ioc_request(d, uarg);
	case UPREEMPT_IOC_WAIT:
		return up_ioc_wait(d, uarg);
	case UPREEMPT_IOC_CANCEL:
		return up_ioc_by_ref(d, uarg, up_request_cancel);
	case UPREEMPT_IOC_RELEASE:
		return up_ioc_by_ref(d, uarg, up_request_release);
	case UPREEMPT_IOC_RESUME:
		return up_ioc_resume(d, uarg);
	case UPREEMPT_IOC_EVENTFD:
		return up_ioc_eventfd(d, uarg);
	case UPREEMPT_IOC_STATS:
		return up_ioc_stats(d, uarg);
	case UPREEMPT_IOC_POLL:
		return up_ioc_poll(d, (unsigned long)uarg);
	case UPREEMPT_IOC_XSTATE:
		return up_ioc_xstate(d, uarg);
	case UPREEMPT_IOC_CODE_ADD:
		return up_ioc_code_add(d, uarg);
	case UPREEMPT_IOC_CODE_REMOVE:
		return up_ioc_code_remove(d, uarg);
	case UPREEMPT_IOC_WORLD_STOP:
		return up_ioc_world_stop(d, uarg);
	case UPREEMPT_IOC_WORLD_START:
		return uarg ? -EINVAL : up_world_start(d);
	case UPREEMPT_IOC_CHECK:
		return up_ioc_check(d, (unsigned long)uarg);
	default:
		return -ENOTTY;
	}
}

/* There is no compat_ioctl: 32-bit callers get ENOTTY from the VFS. */
static long up_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	long ret = up_dispatch(file->private_data, cmd, (void __user *)arg);

	if (ret < 0)
		trace_upreempt_refuse(cmd, ret);
	return ret;
}

/* ---- the file ---------------------------------------------------------------------------- */

static int up_open(struct inode *inode, struct file *file)
{
	struct up_domain *d;

	if (!current->mm)
		return -EPERM;
	d = up_domain_create();
	if (!d)
		return -ENOMEM;
	file->private_data = d;
	return 0;
}

static int up_release(struct inode *inode, struct file *file)
{
	up_domain_close(file->private_data);
	return 0;
}

static int up_mmap(struct file *file, struct vm_area_struct *vma)
{
	return up_domain_mmap(file->private_data, vma);
}

static __poll_t up_poll(struct file *file, poll_table *wait)
{
	struct up_domain *d = file->private_data;

	if (!up_domain_ready(d))
		return EPOLLERR;
	poll_wait(file, &d->poll_wait, wait);
	return up_ring_readable(d) ? EPOLLIN | EPOLLRDNORM : 0;
}

static void up_show_fdinfo(struct seq_file *m, struct file *file)
{
	up_stats_fdinfo(m, file->private_data);
}

static const struct file_operations up_fops = {
	.owner = THIS_MODULE,
	.open = up_open,
	.release = up_release,
	.unlocked_ioctl = up_ioctl,
	.mmap = up_mmap,
	.poll = up_poll,
	.show_fdinfo = up_show_fdinfo,
	.llseek = noop_llseek,
};

static struct miscdevice up_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "upreempt",
	.fops = &up_fops,
};

int up_device_init(void)
{
	up_misc.mode = device_mode & 0777;
	return misc_register(&up_misc);
}

void up_device_exit(void)
{
	misc_deregister(&up_misc);
}
