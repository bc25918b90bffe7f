/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For the KUnit tests of the deferred split queue: what the queue is in this kernel,
 * and what else of it they need that is not the same everywhere. Here it is a
 * list_lru: a memcg has a queue for each node. That of the root memcg has the folios
 * without a memcg, too. A memcg's are there once a folio asked for one, and until the
 * memcg goes offline.
 */
#ifndef _MM_TESTS_DEFERRED_SPLIT_QUEUE_H
#define _MM_TESTS_DEFERRED_SPLIT_QUEUE_H

#include <linux/hrtimer.h>
#include <linux/huge_mm.h>
#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/namei.h>
#include <linux/shmem_fs.h>
#include <linux/shrinker.h>

#include "../internal.h"
#include "deferred_split_point.h"

/* What count() says of an empty queue: the memcg's bit for the shrinker is cleared. */
#define EMPTY_SPLIT_QUEUE	SHRINK_EMPTY
/* Folios do not go from memcg to memcg: no give_to_memcg(). */
#define SPLIT_QUEUE_FOR_EACH_NODE
#define SPLIT_QUEUE_GOES_TO_PARENT
/* A memcg's is made when it has a folio that may be queued. */
#define SPLIT_QUEUE_IS_ALLOCATED
/* Who writes to the huge zero folio gets a THP. */
#define ZERO_FOLIO_BECOMES_A_THP

struct split_queue {
	spinlock_t *lock;	/* of what follows */
	struct list_head *head;
	long *count;
	atomic_long_t *count_of_node;
};

/* False if there is none. Called under RCU, until it is locked. */
static inline bool find_split_queue(struct mem_cgroup *memcg, int nid, struct split_queue *queue)
{
	struct list_lru_node *node = &deferred_split_lru.node[nid];
	struct list_lru_one *one = &node->lru;

#ifdef CONFIG_MEMCG
	if (deferred_split_lru.memcg_aware && memcg_kmem_id(memcg) >= 0) {
		struct list_lru_memcg *of_memcg = xa_load(&deferred_split_lru.xa,
							  memcg_kmem_id(memcg));

		if (!of_memcg)
			return false;
		one = &of_memcg->node[nid];
	}
#endif
	queue->lock = &one->lock;
	queue->head = &one->list;
	queue->count = &one->nr_items;
	queue->count_of_node = &node->nr_items;
	return true;
}

/* The queue's lock is held. */
static inline void add_to_split_queue_count(struct split_queue *queue, long change)
{
	*queue->count += change;
	atomic_long_add(change, queue->count_of_node);
}

/* Before a folio of a memcg can be queued. */
static inline int alloc_split_queue(struct folio *folio)
{
	return folio_memcg_alloc_deferred(folio);
}

/* Who has the queue of a memcg that goes offline. */
static inline struct mem_cgroup *split_queue_heir(struct mem_cgroup *memcg)
{
	return parent_mem_cgroup(memcg);
}

/* What a scan returns that took so many folios, split none, and leaves so many queued. */
static inline unsigned long scan_without_split(unsigned long taken, unsigned long left)
{
	return taken ? 0 : SHRINK_STOP;
}

static inline void zap_range(struct vm_area_struct *vma, unsigned long addr, unsigned long size)
{
	zap_vma_range(vma, addr, size);
}

static inline void split_pmd_of(struct vm_area_struct *vma, unsigned long addr)
{
	split_huge_pmd_address(vma, addr, false);
}

static inline void timer_on_stack(struct hrtimer *timer,
				  enum hrtimer_restart (*function)(struct hrtimer *timer),
				  enum hrtimer_mode mode)
{
	hrtimer_setup_on_stack(timer, function, CLOCK_MONOTONIC, mode);
}

static inline struct file *new_file_on(struct vfsmount *mnt, loff_t size)
{
	return shmem_file_setup_with_mnt(mnt, "deferred_split", size, EMPTY_VMA_FLAGS);
}

/* Make or remove a directory in another. */
static inline int change_directory(struct dentry *parent, const char *name, bool make)
{
	struct dentry *dentry;
	int ret = 0;

	dentry = make ? start_creating_noperm(parent, &QSTR(name)) :
			start_removing_noperm(parent, &QSTR(name));
	if (IS_ERR(dentry))
		return PTR_ERR(dentry);
	if (make) {
		dentry = vfs_mkdir(&nop_mnt_idmap, d_inode(parent), dentry, 0755, NULL);
		ret = PTR_ERR_OR_ZERO(dentry);
	} else {
		ret = vfs_rmdir(&nop_mnt_idmap, d_inode(parent), dentry, NULL);
	}
	end_dirop(dentry);
	return ret;
}

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");

#endif /* _MM_TESTS_DEFERRED_SPLIT_QUEUE_H */
