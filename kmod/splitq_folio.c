// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

/*
 * What is the folio behind this address in?
 *
 *	write "PID ADDRESS", then read from the same open file:
 *	pfn=0x18000 order=9 refs=1 mapcount=1 anon=1 locked=0 partially_mapped=0 list=linked nid=0
 *
 * list: empty (both pointers are the entry itself), torn (one is: a
 * list_del_init() is between its two stores), linked (the neighbours agree),
 * broken (they do not), none (order < 2 has no _deferred_list).
 *
 * Nothing is locked: the queue lock may be held by a CPU that is held. So an
 * answer is exact while the queue stands still, and a snapshot otherwise. refs
 * does not count the reference that is taken to look.
 */
#include <linux/debugfs.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "splitq.h"

struct folio_query {
	int len;
	char answer[192];
};

static bool entry_points_to(struct list_head **pp, const struct list_head *entry)
{
	struct list_head *p;

	/* A corrupt list may point anywhere. */
	if (copy_from_kernel_nofault(&p, pp, sizeof(p)))
		return false;
	return p == entry;
}

/**
 * splitq_list_state - in what state is a folio's _deferred_list?
 * @folio: a folio of order > 1, to which the caller has a reference
 *
 * Context: any. Takes no lock: a snapshot.
 * Return: "empty", "torn", "linked" or "broken", as explained above.
 */
const char *splitq_list_state(struct folio *folio)
{
	struct list_head *entry = &folio->_deferred_list;
	struct list_head *next = READ_ONCE(entry->next), *prev = READ_ONCE(entry->prev);

	if (next == entry && prev == entry)
		return "empty";
	if (next == entry || prev == entry)
		return "torn";
	if (entry_points_to(&next->prev, entry) && entry_points_to(&prev->next, entry))
		return "linked";
	return "broken";
}

static int folio_describe(struct folio *folio, char *buf, size_t size)
{
	bool queueable = folio_order(folio) > 1 && folio_test_large_rmappable(folio);

	return scnprintf(buf, size,
			 "pfn=0x%lx order=%u refs=%d mapcount=%d anon=%d locked=%d partially_mapped=%d list=%s nid=%d\n",
			 folio_pfn(folio), folio_order(folio), folio_ref_count(folio) - 1,
			 folio_mapcount(folio), folio_test_anon(folio), folio_test_locked(folio),
			 queueable && folio_test_partially_mapped(folio),
			 queueable ? splitq_list_state(folio) : "none", folio_nid(folio));
}

static ssize_t folio_query_write(struct file *file, const char __user *ubuf, size_t len,
				 loff_t *pos)
{
	struct folio_query *q = file->private_data;
	struct task_struct *task;
	unsigned long addr;
	struct mm_struct *mm;
	struct page *page;
	char buf[64];
	struct pid *pid;
	int nr;
	long ret;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, ubuf, len))
		return -EFAULT;
	buf[len] = '\0';
	if (sscanf(buf, "%d %lx", &nr, &addr) != 2) {
		pr_err("folio: '%s' is not \"PID HEX-ADDRESS\"\n", strim(buf));
		return -EINVAL;
	}

	pid = find_get_pid(nr);
	task = get_pid_task(pid, PIDTYPE_PID);
	put_pid(pid);
	if (!task)
		return -ESRCH;
	mm = get_task_mm(task);
	put_task_struct(task);
	if (!mm)
		return -ESRCH;

	mmap_read_lock(mm);
	/* FOLL_DUMP: look, don't fault anything in where there is nothing. */
	ret = get_user_pages_remote(mm, addr, 1, FOLL_DUMP, &page, NULL);
	mmap_read_unlock(mm);
	mmput(mm);
	if (ret != 1)
		return ret < 0 ? ret : -EFAULT;

	q->len = folio_describe(page_folio(page), q->answer, sizeof(q->answer));
	folio_put(page_folio(page));
	*pos = 0;
	return len;
}

static ssize_t folio_query_read(struct file *file, char __user *ubuf, size_t len, loff_t *pos)
{
	struct folio_query *q = file->private_data;

	return simple_read_from_buffer(ubuf, len, pos, q->answer, q->len);
}

static int folio_query_open(struct inode *inode, struct file *file)
{
	struct folio_query *q = kzalloc(sizeof(*q), GFP_KERNEL);

	file->private_data = q;
	return q ? 0 : -ENOMEM;
}

static int folio_query_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static const struct file_operations folio_query_fops = {
	.owner = THIS_MODULE,
	.open = folio_query_open,
	.release = folio_query_release,
	.read = folio_query_read,
	.write = folio_query_write,
};

/**
 * splitq_folio_init - create the debugfs file that describes a folio
 * @dir: the module's debugfs directory
 *
 * Context: task context, may sleep. Removed with @dir.
 */
void splitq_folio_init(struct dentry *dir)
{
	debugfs_create_file("folio", 0600, dir, NULL, &folio_query_fops);
}
