// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

/*
 * Keep many folios of a process: for measurements in which a scan meets what it
 * cannot split.
 *
 *	write "PID START LENGTH STEP pin|lock", numbers but PID in hex
 *
 * A reference to the folio at START, START + STEP and so on below START + LENGTH,
 * with "lock" the lock of each as well, until the file is closed. Once for each
 * time that it was opened. All or none: -EFAULT, where nothing is mapped; -EAGAIN,
 * when somebody else has a lock; -EEXIST, when two are in the same folio.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "splitq.h"

#define MAX_KEPT	1000000UL

struct keep {
	struct mutex mutex;		/* writers: of all below */
	struct folio **folios;
	unsigned long nr;
	bool locked;
};

static void keep_drop(struct keep *keep)
{
	while (keep->nr) {
		struct folio *folio = keep->folios[--keep->nr];

		if (keep->locked)
			folio_unlock(folio);
		folio_put(folio);
	}
	kvfree(keep->folios);
	keep->folios = NULL;
}

static int keep_range(struct keep *keep, struct mm_struct *mm, unsigned long start,
		      unsigned long length, unsigned long step)
{
	unsigned long at;

	for (at = 0; at < length; at += step) {
		struct folio *folio = splitq_get_folio(mm, start + at);

		if (IS_ERR(folio))
			return PTR_ERR(folio);
		if (keep->nr && keep->folios[keep->nr - 1] == folio) {
			folio_put(folio);
			return -EEXIST;
		}
		if (keep->locked && !folio_trylock(folio)) {
			folio_put(folio);
			return -EAGAIN;
		}
		keep->folios[keep->nr++] = folio;
		cond_resched();
	}
	return 0;
}

static ssize_t keep_write(struct file *file, const char __user *ubuf, size_t len, loff_t *pos)
{
	struct keep *keep = file->private_data;
	unsigned long start, length, step;
	char buf[96], word[8];
	struct mm_struct *mm;
	int nr, err;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, ubuf, len))
		return -EFAULT;
	buf[len] = '\0';
	if (sscanf(buf, "%d %lx %lx %lx %7s", &nr, &start, &length, &step, word) != 5 ||
	    (strcmp(word, "pin") && strcmp(word, "lock")) || !step || length / step >= MAX_KEPT) {
		pr_err("keep: '%s' is not \"PID START LENGTH STEP pin|lock\"\n", strim(buf));
		return -EINVAL;
	}

	mm = splitq_get_mm(nr);
	if (IS_ERR(mm))
		return PTR_ERR(mm);
	mutex_lock(&keep->mutex);
	err = -EBUSY;
	if (keep->folios)
		goto out;
	err = -ENOMEM;
	keep->folios = kvmalloc_array(length / step + 1, sizeof(*keep->folios), GFP_KERNEL);
	if (!keep->folios)
		goto out;
	keep->locked = !strcmp(word, "lock");
	err = keep_range(keep, mm, start, length, step);
	if (err)
		keep_drop(keep);
out:
	mutex_unlock(&keep->mutex);
	mmput(mm);
	return err ?: len;
}

static int keep_open(struct inode *inode, struct file *file)
{
	struct keep *keep = kzalloc(sizeof(*keep), GFP_KERNEL);

	if (!keep)
		return -ENOMEM;
	mutex_init(&keep->mutex);
	file->private_data = keep;
	return 0;
}

static int keep_release(struct inode *inode, struct file *file)
{
	struct keep *keep = file->private_data;

	keep_drop(keep);
	kfree(keep);
	return 0;
}

static const struct file_operations keep_fops = {
	.owner = THIS_MODULE,
	.open = keep_open,
	.release = keep_release,
	.write = keep_write,
};

/**
 * splitq_bench_init - create the debugfs file that keeps many folios
 * @dir: the module's debugfs directory
 *
 * Context: task context, may sleep. Removed with @dir.
 */
void splitq_bench_init(struct dentry *dir)
{
	debugfs_create_file("keep", 0600, dir, NULL, &keep_fops);
}
