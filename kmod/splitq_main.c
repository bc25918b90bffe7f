// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

/*
 * splitq.ko - hold CPUs inside the deferred split queue code, look at a folio
 * meanwhile, and audit the queues.
 *
 * Everything is in debugfs, for root only:
 *
 *	splitq/pause	arm pause points, read what became of them
 *	splitq/release	let a held CPU go
 *	splitq/cover	which instructions of a function does a task execute?
 *	splitq/folio	the state of the folio behind an address of a process; pin or
 *			lock it
 *	splitq/audit	walk all queues under their locks: is all as it should be?
 *	splitq/audit_marked	walk all memory for folios marked partially mapped
 *	splitq/audit_plant	make the next audit see a fault that is not there
 *	splitq/jitter	hold whoever comes by one of many points, at random
 *	splitq/keep	pin or lock many folios of a process at a time
 *
 * Loading the module and reading its files changes nothing. A pause point holds
 * a CPU with interrupts off for a bounded time; on a kernel with the bugs that
 * this project is about, what another CPU does meanwhile may crash the machine.
 * That is the purpose: use a machine that you can lose.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/module.h>

#include "splitq.h"

static struct dentry *splitq_dir;

static int __init splitq_init(void)
{
	int err;

	if (!IS_ENABLED(CONFIG_KPROBES)) {
		pr_err("this kernel has no CONFIG_KPROBES: no pause points\n");
		return -EOPNOTSUPP;
	}
	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE)) {
		pr_err("this kernel has no CONFIG_TRANSPARENT_HUGEPAGE\n");
		return -EOPNOTSUPP;
	}

	splitq_dir = debugfs_create_dir("splitq", NULL);
	if (IS_ERR(splitq_dir)) {
		err = PTR_ERR(splitq_dir);
		/* Without CONFIG_DEBUG_FS: -ENODEV */
		pr_err("no debugfs (%d): is CONFIG_DEBUG_FS set?\n", err);
		return err == -ENODEV ? -EOPNOTSUPP : err;
	}

	splitq_pause_init(splitq_dir);
	splitq_folio_init(splitq_dir);
	splitq_audit_init(splitq_dir);
	splitq_jitter_init(splitq_dir);
	splitq_bench_init(splitq_dir);
	return 0;
}

static void __exit splitq_exit(void)
{
	/* No writer can arm anything after this ... */
	debugfs_remove(splitq_dir);
	/* ... and whoever is held now is released. */
	splitq_pause_exit();
	splitq_jitter_exit();
}

module_init(splitq_init);
module_exit(splitq_exit);

MODULE_DESCRIPTION("Pause points and audits for the THP deferred split queue");
MODULE_LICENSE("GPL");
