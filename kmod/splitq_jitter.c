// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

/*
 * Jitter: whoever comes by one of many points is held there now and then, for a
 * random short time. For torture: no window is forced, all are made wider.
 *
 *	echo "seed=1 one_in=16 max_us=50" > splitq/jitter
 *	echo "deferred_split_scan+0x1b2 one_in=2" > splitq/jitter
 *	cat splitq/jitter
 *	all seed=1 one_in=16 max_us=50 points=1 hits=812 holds=401 held_us=9204
 *	deferred_split_scan+0x1b2 one_in=2 max_us=50 hits=812 holds=401
 *	echo off > splitq/jitter
 *
 * A point, one a write, is a kprobe on an instruction, named by symbol and offset.
 * With probability one in one_in it spins in its pre-handler, for 0 to max_us
 * microseconds, with interrupts as the kprobe finds them: off on x86. A point that
 * does not say otherwise has the settings of the moment it is made. The random
 * numbers come from a generator per CPU that seed=, which is also what starts it
 * anew, and the CPU's number determine. After a hold a point rests, for 16 times
 * as long: one in a loop does not bring its function to a standstill. "off"
 * removes all points; the settings stay.
 *
 * It is safe to write and to unload at any moment: removing a kprobe waits for
 * those who are in its handler, which is bounded by max_us. Points in code that
 * runs often slow the machine down, as every kprobe does.
 *
 * Errors: -EINVAL for what cannot be read, or a place that cannot be probed, and
 * -ENOSPC for too many points (the log says what is wrong); -ENOENT for a symbol
 * that the kernel does not have; -EILSEQ for an offset that is not the start of an
 * instruction; -EEXIST for a point that is there already.
 */
#include <linux/atomic.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/hash.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/sched/clock.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "splitq.h"

#define JITTER_MAX_US		1000
#define JITTER_MAX_POINTS	256
#define JITTER_REST		16	/* times as long as it held, a point does not hold again */
#define JITTER_USAGE		"[SYMBOL[+OFFSET]] [one_in=N] [max_us=0..1000] [seed=N], or off"

struct jitter_point {
	struct kprobe kp;
	char symbol[KSYM_NAME_LEN];
	unsigned int one_in, max_us;
	atomic_long_t hits, holds;
	u64 rest_until;
};

static DEFINE_MUTEX(jitter_mutex);	/* points and settings; no handler changes them */

static struct kprobe *jitter_points[JITTER_MAX_POINTS];
static unsigned int jitter_nr_points;

static u64 jitter_seed = 1;
static unsigned int jitter_one_in = 16;
static unsigned int jitter_max_us = 50;

static atomic_long_t jitter_held_ns;
static DEFINE_PER_CPU(u64, jitter_state);

static void jitter_seed_cpus(u64 seed)
{
	int cpu;

	/* Never 0: xorshift would stay there. A handler that runs now draws once more. */
	for_each_possible_cpu(cpu)
		WRITE_ONCE(per_cpu(jitter_state, cpu),
			   ((seed + 1) * GOLDEN_RATIO_64 ^ (cpu + 1) * GOLDEN_RATIO_32) | 1);
}

/* xorshift64*; the high half is the good one. */
static u32 jitter_random(void)
{
	u64 x = __this_cpu_read(jitter_state);

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	__this_cpu_write(jitter_state, x);
	return (x * 0x2545f4914f6cdd1dULL) >> 32;
}

NOKPROBE_SYMBOL(jitter_random);

/* Preemption is off here, and on x86 interrupts are. */
static int jitter_pre_handler(struct kprobe *kp, struct pt_regs *regs)
{
	struct jitter_point *point = container_of(kp, struct jitter_point, kp);
	unsigned int us, hold_us;
	u64 start, end;

	atomic_long_inc(&point->hits);
	if (jitter_random() % point->one_in)
		return 0;
	start = local_clock();
	if (start < READ_ONCE(point->rest_until))
		return 0;
	atomic_long_inc(&point->holds);
	hold_us = jitter_random() % (point->max_us + 1);

	/*
	 * Two bounds: udelay() is long under emulation, and the clock might not go
	 * on while this CPU, which may be the one that keeps it, is held.
	 */
	for (us = 0; us < hold_us && local_clock() - start < hold_us * NSEC_PER_USEC; us++) {
		cpu_relax();	/* under QEMU's icount: let another CPU run */
		udelay(1);
	}
	end = local_clock();
	atomic_long_add(end - start, &jitter_held_ns);
	/* In a loop over all pages of a THP it must not take all the time. */
	WRITE_ONCE(point->rest_until, end + JITTER_REST * (end - start));
	return 0;
}

NOKPROBE_SYMBOL(jitter_pre_handler);

/* A probe with a post-handler is never turned into a jump. */
static void jitter_post_handler(struct kprobe *kp, struct pt_regs *regs, unsigned long flags)
{
}

NOKPROBE_SYMBOL(jitter_post_handler);

static void jitter_off(void)
{
	lockdep_assert_held(&jitter_mutex);

	/* Waits for whoever is held. */
	if (jitter_nr_points)
		unregister_kprobes(jitter_points, jitter_nr_points);
	while (jitter_nr_points)
		kfree(container_of(jitter_points[--jitter_nr_points], struct jitter_point, kp));
	atomic_long_set(&jitter_held_ns, 0);
}

static int jitter_settings(char *line, unsigned int *one_in, unsigned int *max_us)
{
	u64 seed = jitter_seed;
	bool seeded = false;
	char *word;

	lockdep_assert_held(&jitter_mutex);

	while ((word = strsep(&line, " "))) {
		if (!*word)
			continue;
		if (!strncmp(word, "seed=", 5) && !kstrtou64(word + 5, 0, &seed)) {
			seeded = true;
			continue;
		}
		if (!strncmp(word, "one_in=", 7) && !kstrtouint(word + 7, 0, one_in) && *one_in)
			continue;
		if (!strncmp(word, "max_us=", 7) && !kstrtouint(word + 7, 0, max_us) &&
		    *max_us <= JITTER_MAX_US)
			continue;
		pr_err("jitter: bad word '%s': %s\n", word, JITTER_USAGE);
		return -EINVAL;
	}
	if (seeded) {
		jitter_seed = seed;
		jitter_seed_cpus(seed);
	}
	return 0;
}

/* Where the probe sits in the symbol that kallsyms knows there, 0 if it knows none. */
static unsigned long jitter_real_offset(const struct kprobe *kp)
{
	char name[KSYM_SYMBOL_LEN], *plus;
	unsigned long offset;

	sprint_symbol(name, (unsigned long)kp->addr);
	plus = strchr(name, '+');
	return plus && sscanf(plus, "+%lx", &offset) == 1 ? offset : 0;
}

static int jitter_register(struct jitter_point *point)
{
	struct kprobe *kp = &point->kp;
	unsigned int i;
	int err;

	kp->symbol_name = point->symbol;
	kp->pre_handler = jitter_pre_handler;
	kp->post_handler = jitter_post_handler;
	err = register_kprobe(kp);
	if (err) {
		/* Those two are answers: whoever looks for points tries many. */
		if (err != -ENOENT && err != -EILSEQ)
			pr_err("jitter: %s+0x%x cannot be probed (%d)\n", point->symbol,
			       kp->offset, err);
		return err;
	}
	/* Beyond the end is another function, and a smaller offset there. */
	if (jitter_real_offset(kp) < kp->offset) {
		pr_err("jitter: %s is not as long as 0x%x\n", point->symbol, kp->offset);
		err = -EINVAL;
	}
	for (i = 0; !err && i < jitter_nr_points; i++)
		if (jitter_points[i]->addr == kp->addr)
			err = -EEXIST;
	if (err)
		unregister_kprobe(kp);
	return err;
}

static int jitter_add(const char *symbol, unsigned int offset, unsigned int one_in,
		      unsigned int max_us)
{
	struct jitter_point *point;
	int err;

	lockdep_assert_held(&jitter_mutex);

	if (jitter_nr_points == JITTER_MAX_POINTS) {
		pr_err("jitter: there are %d points already\n", JITTER_MAX_POINTS);
		return -ENOSPC;
	}
	point = kzalloc(sizeof(*point), GFP_KERNEL);
	if (!point)
		return -ENOMEM;
	strscpy(point->symbol, symbol, sizeof(point->symbol));
	point->kp.offset = offset;
	point->one_in = one_in;
	point->max_us = max_us;
	err = jitter_register(point);
	if (err)
		kfree(point);
	else
		jitter_points[jitter_nr_points++] = &point->kp;
	return err;
}

static int jitter_command(char *line)
{
	unsigned int one_in = jitter_one_in, max_us = jitter_max_us, offset = 0;
	char *symbol = NULL, *plus;
	int err;

	lockdep_assert_held(&jitter_mutex);

	if (!strcmp(line, "off")) {
		jitter_off();
		return 0;
	}
	/* The first word, unless it is a setting. */
	if (line[strcspn(line, " =")] != '=')
		symbol = strsep(&line, " ");
	plus = symbol ? strchr(symbol, '+') : NULL;
	if (plus) {
		*plus++ = '\0';
		if (kstrtouint(plus, 0, &offset)) {
			pr_err("jitter: '%s' is not an offset: %s\n", plus, JITTER_USAGE);
			return -EINVAL;
		}
	}
	if (symbol && (!*symbol || strlen(symbol) >= KSYM_NAME_LEN)) {
		pr_err("jitter: no symbol: %s\n", JITTER_USAGE);
		return -EINVAL;
	}
	err = jitter_settings(line, &one_in, &max_us);
	if (err)
		return err;
	if (symbol)
		return jitter_add(symbol, offset, one_in, max_us);
	jitter_one_in = one_in;
	jitter_max_us = max_us;
	return 0;
}

static ssize_t jitter_write(struct file *file, const char __user *ubuf, size_t len, loff_t *pos)
{
	char *text;
	int err;

	if (!len || len > KSYM_NAME_LEN + 64)
		return -EINVAL;
	text = memdup_user_nul(ubuf, len);
	if (IS_ERR(text))
		return PTR_ERR(text);

	mutex_lock(&jitter_mutex);
	err = jitter_command(strim(text));
	mutex_unlock(&jitter_mutex);

	kfree(text);
	return err ?: len;
}

static struct jitter_point *jitter_point(unsigned int i)
{
	return container_of(jitter_points[i], struct jitter_point, kp);
}

static int jitter_show(struct seq_file *m, void *unused)
{
	unsigned long hits = 0, holds = 0;
	unsigned int i;

	mutex_lock(&jitter_mutex);
	for (i = 0; i < jitter_nr_points; i++) {
		hits += atomic_long_read(&jitter_point(i)->hits);
		holds += atomic_long_read(&jitter_point(i)->holds);
	}
	seq_printf(m, "all seed=%llu one_in=%u max_us=%u points=%u hits=%lu holds=%lu held_us=%lu\n",
		   jitter_seed, jitter_one_in, jitter_max_us, jitter_nr_points, hits, holds,
		   atomic_long_read(&jitter_held_ns) / NSEC_PER_USEC);
	for (i = 0; i < jitter_nr_points; i++)
		seq_printf(m, "%s+0x%x one_in=%u max_us=%u hits=%ld holds=%ld\n",
			   jitter_point(i)->symbol, jitter_points[i]->offset,
			   jitter_point(i)->one_in, jitter_point(i)->max_us,
			   atomic_long_read(&jitter_point(i)->hits),
			   atomic_long_read(&jitter_point(i)->holds));
	mutex_unlock(&jitter_mutex);
	return 0;
}

static int jitter_open(struct inode *inode, struct file *file)
{
	return single_open(file, jitter_show, NULL);
}

static const struct file_operations jitter_fops = {
	.owner = THIS_MODULE,
	.open = jitter_open,
	.read = seq_read,
	.write = jitter_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * splitq_jitter_init - create the debugfs file that arms the jitter
 * @dir: the module's debugfs directory
 *
 * Context: task context, may sleep. The file is removed with @dir.
 */
void __init splitq_jitter_init(struct dentry *dir)
{
	jitter_seed_cpus(jitter_seed);
	debugfs_create_file("jitter", 0600, dir, NULL, &jitter_fops);
}

/**
 * splitq_jitter_exit - remove all points, after the debugfs file was removed
 *
 * Context: task context, may sleep. Waits until nobody is held any more.
 */
void splitq_jitter_exit(void)
{
	mutex_lock(&jitter_mutex);
	jitter_off();
	mutex_unlock(&jitter_mutex);
}
