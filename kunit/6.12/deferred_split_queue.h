/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For the KUnit tests of the deferred split queue: what the queue is in this kernel,
 * and what else of it they need that is not the same everywhere. Here a memcg has one
 * queue, and a node has one for folios without a memcg.
 */
#ifndef _MM_TESTS_DEFERRED_SPLIT_QUEUE_H
#define _MM_TESTS_DEFERRED_SPLIT_QUEUE_H

#include <linux/hrtimer.h>
#include <linux/huge_mm.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/namei.h>
#include <linux/shmem_fs.h>
#include <linux/shrinker.h>

#include "../internal.h"

/* What count() says of an empty queue: the memcg keeps its bit for the shrinker. */
#define EMPTY_SPLIT_QUEUE	0UL
/* Charge moving takes a folio from one memcg, and its queue, to another. */
#if defined(folio_move_split_queue) && defined(CONFIG_MEMCG_V1)
#define give_to_memcg(folio, memcg) folio_move_split_queue(folio, memcg)
#endif

struct split_queue {
	spinlock_t *lock;	/* of what follows */
	struct list_head *head;
	unsigned long *count;
};

/* False if there is none. */
static inline bool find_split_queue(struct mem_cgroup *memcg, int nid, struct split_queue *queue)
{
	struct deferred_split *ds_queue = &NODE_DATA(nid)->deferred_split_queue;

#ifdef CONFIG_MEMCG
	if (memcg)
		ds_queue = &memcg->deferred_split_queue;
#endif
	queue->lock = &ds_queue->split_queue_lock;
	queue->head = &ds_queue->split_queue;
	queue->count = &ds_queue->split_queue_len;
	return true;
}

/* The queue's lock is held. */
static inline void add_to_split_queue_count(struct split_queue *queue, long change)
{
	*queue->count += change;
}

/* Before a folio of a memcg can be queued. */
static inline int alloc_split_queue(struct folio *folio)
{
	return 0;
}

/* Who has the queue of a memcg that goes offline: it keeps it. */
static inline struct mem_cgroup *split_queue_heir(struct mem_cgroup *memcg)
{
	return memcg;
}

/* What a scan returns that took so many folios, split none, and leaves so many queued. */
static inline unsigned long scan_without_split(unsigned long taken, unsigned long left)
{
	return left ? 0 : SHRINK_STOP;
}

static inline void zap_range(struct vm_area_struct *vma, unsigned long addr, unsigned long size)
{
	zap_page_range_single(vma, addr, size, NULL);
}

static inline void split_pmd_of(struct vm_area_struct *vma, unsigned long addr)
{
	split_huge_pmd_address(vma, addr, false, NULL);
}

static inline void timer_on_stack(struct hrtimer *timer,
				  enum hrtimer_restart (*function)(struct hrtimer *timer),
				  enum hrtimer_mode mode)
{
	hrtimer_init_on_stack(timer, CLOCK_MONOTONIC, mode);
	timer->function = function;
}

static inline struct file *new_file_on(struct vfsmount *mnt, loff_t size)
{
	return shmem_file_setup_with_mnt(mnt, "deferred_split", size, 0);
}

/* Make or remove a directory in another. */
static inline int change_directory(struct dentry *parent, const char *name, bool make)
{
	struct inode *dir = d_inode(parent);
	struct dentry *dentry;
	int ret;

	inode_lock_nested(dir, I_MUTEX_PARENT);
	dentry = lookup_one_len(name, parent, strlen(name));
	ret = PTR_ERR_OR_ZERO(dentry);
	if (!ret) {
		if (make)
			ret = vfs_mkdir(&nop_mnt_idmap, dir, dentry, 0755);
		else if (d_is_negative(dentry))
			ret = -ENOENT;
		else
			ret = vfs_rmdir(&nop_mnt_idmap, dir, dentry);
		dput(dentry);
	}
	inode_unlock(dir);
	return ret;
}

MODULE_IMPORT_NS(EXPORTED_FOR_KUNIT_TESTING);

#endif /* _MM_TESTS_DEFERRED_SPLIT_QUEUE_H */
