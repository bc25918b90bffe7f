// SPDX-License-Identifier: GPL-2.0
/*
 * Chooses the variant of the deferred split queue that runs, and measures the locks
 * that its shrinker takes. In debugfs, for root:
 *
 *	splitq_bench/variant	write a name; read: all of them, the chosen one in []
 *	splitq_bench/stats	read: what was measured; write anything: forget it
 *	splitq_bench/clocks	N: locks are counted, and no clock is read for them; in
 *				stats SUM and MAX are 0 then, and nothing is distributed.
 *				The cheapest that there is, for the time of a whole scan
 *	splitq_bench/stuck	Y: what is written to variant is not done. A fault, for
 *				who wants to see whether it is noticed.
 *
 * stats, a line each:
 *
 *	ran FUNCTION VARIANT COUNT	by the copies of the function that ran
 *	scans COUNT TIME RETURNED ASKED	deferred_split_scan(): how often, ns in all, the
 *					sum of what it returned, the sum of how much it
 *					could scan (nr_to_scan, at most what was queued)
 *	missed COUNT			scans that were not measured: within another, or
 *					too many at a time
 *	NAME COUNT SUM MAX		ns: hold, wait: of locks that the scan took; split_*:
 *					of those taken to split a folio in it
 *	NAME <= UPPER COUNT		how they are distributed
 *
 * Interrupts are off from the moment a lock is asked for until it is given back: for
 * wait and hold together.
 */
#include <linux/debugfs.h>
#include <linux/list.h>
#include <linux/math64.h>
#include <linux/percpu-rwsem.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/splitq_bench.h>
#include <linux/splitq_mutants.h>

#define MAX_SCANNERS	32
/* Each power of two in 16 parts; up to 2^40 ns. */
#define PART_BITS	4
#define NR_BUCKETS	((40 - PART_BITS + 1) << PART_BITS)

enum { HOLD, WAIT, SPLIT_HOLD, SPLIT_WAIT, NR_TIMES };

static const char * const time_names[NR_TIMES] = {
	[HOLD] = "hold", [WAIT] = "wait", [SPLIT_HOLD] = "split_hold", [SPLIT_WAIT] = "split_wait",
};

struct splitq_time {
	u64 count, sum, max;
	u32 bucket[NR_BUCKETS];
};

/* Written with interrupts off. */
struct splitq_cpu {
	u64 asked, locked;	/* when; 0: not at all */
	bool by_scan;
	struct splitq_time time[NR_TIMES];
};

static DEFINE_PER_CPU(struct splitq_cpu, splitq_cpus);

static struct task_struct *scanners[MAX_SCANNERS];
atomic_t splitq_nr_scanning = ATOMIC_INIT(0);
static splitq_scan_fn real_scan;
static atomic64_t nr_scans, scan_ns, returned, could_scan, missed;
static bool stuck;
bool splitq_clocks = true;

/* Held for reading by scans: a variant is not changed under one. */
DEFINE_STATIC_PERCPU_RWSEM(variant_sem);

/* Of those above the first few all parts have the same number of values. */
static int bucket_of(u64 ns)
{
	int shift;

	if (ns < (1 << PART_BITS))
		return ns;
	shift = fls64(ns) - 1 - PART_BITS;
	return min((shift << PART_BITS) + (int)(ns >> shift), NR_BUCKETS - 1);
}

/* The largest value that bucket_of() puts there. */
static u64 bucket_upper(int bucket)
{
	int shift = max((bucket >> PART_BITS) - 1, 0);

	return ((u64)(bucket - (shift << PART_BITS) + 1) << shift) - 1;
}

static void add_time(struct splitq_time *time, u64 ns)
{
	time->count++;
	if (!READ_ONCE(splitq_clocks))
		return;
	time->sum += ns;
	time->max = max(time->max, ns);
	time->bucket[bucket_of(ns)]++;
}

bool splitq_is_scanner(void)
{
	int i;

	for (i = 0; i < MAX_SCANNERS; i++)
		if (READ_ONCE(scanners[i]) == current)
			return true;
	return false;
}

void splitq_locked(bool by_scan, u64 asked)
{
	struct splitq_cpu *cpu = this_cpu_ptr(&splitq_cpus);

	cpu->asked = asked;
	cpu->by_scan = by_scan;
	cpu->locked = splitq_now();
}

void splitq_unlock(void)
{
	struct splitq_cpu *cpu = this_cpu_ptr(&splitq_cpus);
	u64 now;

	if (!cpu->locked)
		return;
	now = splitq_now();
	add_time(&cpu->time[cpu->by_scan ? HOLD : SPLIT_HOLD], now - cpu->locked);
	add_time(&cpu->time[cpu->by_scan ? WAIT : SPLIT_WAIT], cpu->locked - cpu->asked);
	cpu->locked = 0;
}

/* A place in scanners[], or -1. */
static int scanner_start(void)
{
	int i;

	if (splitq_is_scanner())
		return -1;
	for (i = 0; i < MAX_SCANNERS; i++)
		if (!cmpxchg(&scanners[i], NULL, current)) {
			atomic_inc(&splitq_nr_scanning);
			return i;
		}
	return -1;
}

static unsigned long splitq_scan(struct shrinker *shrink, struct shrink_control *sc)
{
	unsigned long ret, could, queued;
	int place = scanner_start();
	u64 start;

	if (place < 0) {
		atomic64_inc(&missed);
		return real_scan(shrink, sc);
	}

	percpu_down_read(&variant_sem);
	queued = shrink->count_objects(shrink, sc);
	could = min(sc->nr_to_scan, queued == SHRINK_EMPTY ? 0 : queued);
	start = local_clock();
	ret = real_scan(shrink, sc);
	atomic64_add(local_clock() - start, &scan_ns);
	percpu_up_read(&variant_sem);

	atomic64_inc(&nr_scans);
	atomic64_add(could, &could_scan);
	if (ret != SHRINK_STOP)
		atomic64_add(ret, &returned);
	atomic_dec(&splitq_nr_scanning);
	WRITE_ONCE(scanners[place], NULL);
	return ret;
}

/**
 * splitq_bench_wrap - measure a shrinker's scans
 * @scan: its function
 *
 * Return: what to use in its place.
 */
splitq_scan_fn splitq_bench_wrap(splitq_scan_fn scan)
{
	real_scan = scan;
	return splitq_scan;
}

static int variant_show(struct seq_file *m, void *unused)
{
	int chosen = READ_ONCE(splitq_mutant), i;

	for (i = 0; i < SPLITQ_VARIANTS; i++)
		seq_printf(m, i == chosen ? "%s[%s]" : "%s%s", i ? " " : "", splitq_variants[i]);
	seq_puts(m, "\n");
	return 0;
}

static ssize_t variant_write(struct file *file, const char __user *ubuf, size_t len, loff_t *pos)
{
	char name[32] = "";
	int i;

	if (len >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, ubuf, len))
		return -EFAULT;
	i = match_string(splitq_variants, SPLITQ_VARIANTS, strim(name));
	if (i < 0)
		return i;
	percpu_down_write(&variant_sem);
	if (!stuck)
		WRITE_ONCE(splitq_mutant, i);
	percpu_up_write(&variant_sem);
	return len;
}

static int variant_open(struct inode *inode, struct file *file)
{
	return single_open(file, variant_show, NULL);
}

static const struct file_operations variant_fops = {
	.open = variant_open, .read = seq_read, .llseek = seq_lseek, .release = single_release,
	.write = variant_write,
};

static void show_time(struct seq_file *m, int which)
{
	u64 count = 0, sum = 0, longest = 0;
	int cpu, i;

	for_each_possible_cpu(cpu) {
		struct splitq_time *time = &per_cpu(splitq_cpus, cpu).time[which];

		count += time->count;
		sum += time->sum;
		longest = max(longest, time->max);
	}
	seq_printf(m, "%s %llu %llu %llu\n", time_names[which], count, sum, longest);
	for (i = 0; i < NR_BUCKETS; i++) {
		count = 0;
		for_each_possible_cpu(cpu)
			count += per_cpu(splitq_cpus, cpu).time[which].bucket[i];
		if (count)
			seq_printf(m, "%s <= %llu %llu\n", time_names[which], bucket_upper(i),
				   count);
	}
}

static int stats_show(struct seq_file *m, void *unused)
{
	int function, variant, cpu, which;

	for (function = 0; function < SPLITQ_FUNCTIONS; function++)
		for (variant = 0; variant < SPLITQ_VARIANTS; variant++) {
			unsigned long count = 0;

			for_each_possible_cpu(cpu)
				count += per_cpu(splitq_runs, cpu)[function][variant];
			if (count)
				seq_printf(m, "ran %s %s %lu\n", splitq_functions[function],
					   splitq_variants[variant], count);
		}
	seq_printf(m, "scans %lld %lld %lld %lld\n", atomic64_read(&nr_scans),
		   atomic64_read(&scan_ns), atomic64_read(&returned),
		   atomic64_read(&could_scan));
	seq_printf(m, "missed %lld\n", atomic64_read(&missed));
	for (which = 0; which < NR_TIMES; which++)
		show_time(m, which);
	return 0;
}

static ssize_t stats_write(struct file *file, const char __user *ubuf, size_t len, loff_t *pos)
{
	int cpu;

	/* Between two scans; a lock that is held now is not among them. */
	percpu_down_write(&variant_sem);
	for_each_possible_cpu(cpu) {
		memset(per_cpu(splitq_cpus, cpu).time, 0, sizeof(splitq_cpus.time));
		memset(per_cpu(splitq_runs, cpu), 0, sizeof(splitq_runs));
	}
	atomic64_set(&nr_scans, 0);
	atomic64_set(&scan_ns, 0);
	atomic64_set(&returned, 0);
	atomic64_set(&could_scan, 0);
	atomic64_set(&missed, 0);
	percpu_up_write(&variant_sem);
	return len;
}

static int stats_open(struct inode *inode, struct file *file)
{
	return single_open_size(file, stats_show, NULL, 64 * 1024);
}

static const struct file_operations stats_fops = {
	.open = stats_open, .read = seq_read, .llseek = seq_lseek, .release = single_release,
	.write = stats_write,
};

static int __init splitq_bench_init(void)
{
	struct dentry *dir = debugfs_create_dir("splitq_bench", NULL);

	debugfs_create_file("variant", 0600, dir, NULL, &variant_fops);
	debugfs_create_file("stats", 0600, dir, NULL, &stats_fops);
	debugfs_create_bool("clocks", 0600, dir, &splitq_clocks);
	debugfs_create_bool("stuck", 0600, dir, &stuck);
	return 0;
}
late_initcall(splitq_bench_init);
