// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

/*
 * What is the folio behind this address in?
 *
 *	write "PID ADDRESS", then read from the same open file:
 *	pfn=0x18000 order=9 refs=1 mapcount=1 anon=1 locked=0 partially_mapped=0 list=linked
 *	nid=0 memcg=27	(one line)
 *
 * memcg is the inode of the memcg that it is charged to, 0: none. With the word
 * "pin" behind the address the file keeps a reference to the folio until it is
 * closed or written again, with "lock" the folio's lock as well (-EAGAIN: somebody
 * else has it), with "dma" a pin as for a device (FOLL_PIN) instead.
 *
 * list: empty (both pointers are the entry itself), torn (one is: a
 * list_del_init() is between its two stores), linked (the neighbours agree),
 * broken (they do not), none (order < 2 has no _deferred_list).
 *
 * Written "pfn 0xPFN" instead it describes the folio that this page is the head of
 * without a reference, for one that is frozen, or held by others only: a look at a
 * place in memory, whatever is there now. -ENOENT: it is not the head of a large
 * folio (any more). -EUCLEAN: it is free, and somebody has written to what was its
 * _deferred_list since: to page->mapping of a page that the allocator has.
 *
 * Nothing is locked: the queue lock may be held by a CPU that is held. So an
 * answer is exact while the queue stands still, and a snapshot otherwise. refs
 * does not count the references that this file has.
 */
#include <linux/cgroup.h>
#include <linux/debugfs.h>
#include <linux/list.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "splitq.h"

struct folio_query {
	struct mutex mutex;		/* writers: of all below */
	struct folio *kept;
	bool locked, dma;
	int len;
	char answer[224];
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

static unsigned long folio_memcg_ino(struct folio *folio)
{
	unsigned long ino = 0;
#ifdef CONFIG_MEMCG
	struct mem_cgroup *memcg;

	rcu_read_lock();
	memcg = folio_memcg(folio);
	if (memcg)
		ino = cgroup_ino(memcg->css.cgroup);
	rcu_read_unlock();
#endif
	return ino;
}

static int folio_describe(struct folio *folio, int our_refs, char *buf, size_t size)
{
	bool queueable = folio_order(folio) > 1 && folio_test_large_rmappable(folio);
	int n;

	n = scnprintf(buf, size, "pfn=0x%lx order=%u refs=%d mapcount=%d anon=%d locked=%d ",
		      folio_pfn(folio), folio_order(folio), folio_ref_count(folio) - our_refs,
		      folio_mapcount(folio), folio_test_anon(folio), folio_test_locked(folio));
	n += scnprintf(buf + n, size - n, "partially_mapped=%d list=%s nid=%d memcg=%lu\n",
		       queueable && folio_test_partially_mapped(folio),
		       queueable ? splitq_list_state(folio) : "none", folio_nid(folio),
		       folio_memcg_ino(folio));
	return n;
}

static void folio_query_drop(struct folio_query *q)
{
	if (!q->kept)
		return;
	if (q->locked)
		folio_unlock(q->kept);
	if (q->dma)
		unpin_user_page(&q->kept->page);
	else
		folio_put(q->kept);
	q->locked = false;
	q->dma = false;
	q->kept = NULL;
}

/**
 * splitq_get_mm - the address space of a process
 * @nr: its id
 *
 * Return: with a reference, for mmput(); or ERR_PTR(-ESRCH).
 */
struct mm_struct *splitq_get_mm(int nr)
{
	struct task_struct *task;
	struct mm_struct *mm;
	struct pid *pid;

	pid = find_get_pid(nr);
	task = get_pid_task(pid, PIDTYPE_PID);
	put_pid(pid);
	if (!task)
		return ERR_PTR(-ESRCH);
	mm = get_task_mm(task);
	put_task_struct(task);
	return mm ?: ERR_PTR(-ESRCH);
}

/* With a reference, or pinned as for a device: FOLL_PIN, for unpin_user_page(). */
static struct folio *folio_at(struct mm_struct *mm, unsigned long addr, bool dma)
{
	struct page *page;
	long ret;

	mmap_read_lock(mm);
	/* FOLL_DUMP: look, don't fault anything in where there is nothing. */
	ret = dma ? pin_user_pages_remote(mm, addr, 1, FOLL_WRITE, &page, NULL) :
		    get_user_pages_remote(mm, addr, 1, FOLL_DUMP, &page, NULL);
	mmap_read_unlock(mm);
	if (ret != 1)
		return ERR_PTR(ret < 0 ? ret : -EFAULT);
	return page_folio(page);
}

/**
 * splitq_get_folio - the folio behind an address
 * @mm: of whom
 * @addr: where
 *
 * Return: with a reference, for folio_put(); or ERR_PTR(-EFAULT): nothing is there.
 */
struct folio *splitq_get_folio(struct mm_struct *mm, unsigned long addr)
{
	return folio_at(mm, addr, false);
}

static struct folio *folio_find(int nr, unsigned long addr, bool dma)
{
	struct mm_struct *mm = splitq_get_mm(nr);
	struct folio *folio;

	if (IS_ERR(mm))
		return ERR_CAST(mm);
	folio = folio_at(mm, addr, dma);
	mmput(mm);
	return folio;
}

/*
 * Freeing a folio clears ->mapping of its pages, and that is where the second
 * store of a list_del_init() goes.
 */
static bool folio_written_after_free(const struct folio *folio)
{
	if (offsetof(struct folio, _deferred_list.prev) !=
	    2 * sizeof(struct page) + offsetof(struct page, mapping))
		return false;
	return !page_ref_count(&folio->page) && !page_ref_count(&folio->page + 2) &&
	       READ_ONCE(folio->_deferred_list.prev) == &folio->_deferred_list;
}

/* What is at this place in memory? Nobody may be asked to keep it there. */
static int folio_peek(struct folio_query *q, unsigned long pfn)
{
	struct folio *folio;

	if (!pfn_valid(pfn) || !pfn_to_online_page(pfn))
		return -EINVAL;
	folio = (struct folio *)pfn_to_page(pfn);
	if (!folio_test_large(folio) && folio_written_after_free(folio))
		return -EUCLEAN;
	if (!folio_test_large(folio) || PageTail(&folio->page) || folio_test_slab(folio))
		return -ENOENT;
	folio_query_drop(q);
	q->len = folio_describe(folio, 0, q->answer, sizeof(q->answer));
	return 0;
}

static ssize_t folio_query_write(struct file *file, const char __user *ubuf, size_t len,
				 loff_t *pos)
{
	struct folio_query *q = file->private_data;
	char buf[64], word[8] = "";
	struct folio *folio;
	unsigned long addr;
	int nr, words, err;
	bool dma;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, ubuf, len))
		return -EFAULT;
	buf[len] = '\0';
	if (sscanf(buf, "pfn %lx", &addr) == 1) {
		mutex_lock(&q->mutex);
		err = folio_peek(q, addr);
		mutex_unlock(&q->mutex);
		return err ?: len;
	}
	words = sscanf(buf, "%d %lx %7s", &nr, &addr, word);
	dma = !strcmp(word, "dma");
	if (words < 2 || (words == 3 && !dma && strcmp(word, "pin") && strcmp(word, "lock"))) {
		pr_err("folio: '%s' is not \"PID HEX-ADDRESS [pin|lock|dma]\" or \"pfn HEX-PFN\"\n",
		       strim(buf));
		return -EINVAL;
	}

	mutex_lock(&q->mutex);
	folio_query_drop(q);
	folio = folio_find(nr, addr, dma);
	if (IS_ERR(folio)) {
		mutex_unlock(&q->mutex);
		return PTR_ERR(folio);
	}
	if (!strcmp(word, "lock") && !folio_trylock(folio)) {
		mutex_unlock(&q->mutex);
		folio_put(folio);
		return -EAGAIN;
	}
	q->locked = !strcmp(word, "lock");
	q->dma = dma;
	/* A pin of a small folio is many references. */
	q->len = folio_describe(folio, dma && !folio_test_large(folio) ? GUP_PIN_COUNTING_BIAS : 1,
				q->answer, sizeof(q->answer));
	if (word[0])
		q->kept = folio;
	else
		folio_put(folio);
	mutex_unlock(&q->mutex);
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

	if (!q)
		return -ENOMEM;
	mutex_init(&q->mutex);
	file->private_data = q;
	return 0;
}

static int folio_query_release(struct inode *inode, struct file *file)
{
	struct folio_query *q = file->private_data;

	folio_query_drop(q);
	kfree(q);
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
