// SPDX-License-Identifier: GPL-2.0
/* The order in which the module comes up and goes down. */
#include <linux/module.h>

#include "upreempt.h"

struct workqueue_struct *up_wq;

#ifdef UPREEMPT_INJECT
unsigned int up_guards_off;
module_param_named(guards, up_guards_off, uint, 0600);
MODULE_PARM_DESC(guards, "test build: guards that are switched off (bits of enum up_guard)");
unsigned int up_inject_ipi_delay_us;
module_param_named(inject_ipi_delay_us, up_inject_ipi_delay_us, uint, 0600);
MODULE_PARM_DESC(inject_ipi_delay_us, "test build: busy wait in the IPI handler");
unsigned int up_inject_kick_delay_us;
module_param_named(inject_kick_delay_us, up_inject_kick_delay_us, uint, 0600);
MODULE_PARM_DESC(inject_kick_delay_us, "test build: busy wait between reading where a thread runs and the IPI");
unsigned int up_inject_hook_delay_us;
module_param_named(inject_hook_delay_us, up_inject_hook_delay_us, uint, 0600);
MODULE_PARM_DESC(inject_hook_delay_us, "test build: busy wait in the hook");
unsigned int up_inject_hook_end_delay_us;
module_param_named(inject_hook_end_delay_us, up_inject_hook_end_delay_us, uint, 0600);
MODULE_PARM_DESC(inject_hook_end_delay_us, "test build: busy wait at the end of the hook, after the last change to the frame");
unsigned int up_inject_sched_in_delay_us;
module_param_named(inject_sched_in_delay_us, up_inject_sched_in_delay_us, uint, 0600);
MODULE_PARM_DESC(inject_sched_in_delay_us, "test build: busy wait in sched_in, before it looks");
unsigned int up_inject_gate_delay_us;
module_param_named(inject_gate_delay_us, up_inject_gate_delay_us, uint, 0600);
MODULE_PARM_DESC(inject_gate_delay_us, "test build: busy wait in the gate, before it waits");
unsigned int up_inject_undo_delay_us;
module_param_named(inject_undo_delay_us, up_inject_undo_delay_us, uint, 0600);
MODULE_PARM_DESC(inject_undo_delay_us, "test build: busy wait in giving back the PC that the gate has replaced");
unsigned int up_inject_gate_wait_delay_us;
module_param_named(inject_gate_wait_delay_us, up_inject_gate_wait_delay_us, uint, 0600);
MODULE_PARM_DESC(inject_gate_wait_delay_us, "test build: busy wait in the gate, after it has looked who holds the thread");
unsigned int up_inject_stop_delay_us;
module_param_named(inject_stop_delay_us, up_inject_stop_delay_us, uint, 0600);
MODULE_PARM_DESC(inject_stop_delay_us, "test build: busy wait between the epoch of a stop and its IPIs");
unsigned int up_inject_refuse_arm;
module_param_named(inject_refuse_arm, up_inject_refuse_arm, uint, 0600);
MODULE_PARM_DESC(inject_refuse_arm, "test build: so many IPIs may not arm the hook");
#endif

static int __init up_init(void)
{
	int ret;

	BUILD_BUG_ON(sizeof(struct upreempt_regs) != 192);
	BUILD_BUG_ON(sizeof(struct upreempt_event) != 256);
	BUILD_BUG_ON(sizeof(struct upreempt_header) != 256);
	BUILD_BUG_ON(sizeof(struct upreempt_slot) != 512);
	BUILD_BUG_ON(sizeof(struct upreempt_range) != 24);

	up_wq = alloc_workqueue("upreempt", WQ_UNBOUND, 0);
	if (!up_wq)
		return -ENOMEM;

	up_stats_init();
	ret = up_step_init();
	if (ret)
		goto destroy_wq;
	ret = up_device_init();
	if (ret)
		goto exit_step;
	pr_info("upreempt: ABI %d ready\n", UPREEMPT_ABI_VERSION);
	return 0;

exit_step:
	up_step_exit();
destroy_wq:
	up_stats_exit();
	destroy_workqueue(up_wq);
	return ret;
}

/*
 * Every thread, and every open file, holds a reference on the module: none of
 * them exists any more. Work items that freed the last ones may still be on
 * their way out, and so may be the interrupts-off sections that put them.
 */
static void __exit up_exit(void)
{
	up_device_exit();
	up_step_exit();
	up_stats_exit();
	rcu_barrier();
	destroy_workqueue(up_wq);
	up_domains_exit();
	synchronize_rcu();
}

module_init(up_init);
module_exit(up_exit);

MODULE_DESCRIPTION("Stop, inspect, redirect and resume a program's threads");
MODULE_AUTHOR("The upreempt authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
