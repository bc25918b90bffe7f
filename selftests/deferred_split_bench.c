// SPDX-License-Identifier: GPL-2.0
/*
 * What the deferred split queue costs, for each of several designs of it.
 *
 * For the kernel that scripts/bench.py of the kit builds: it has all designs
 * (variants), chooses one when it is told to, and measures the locks that the
 * shrinker takes; see mm/splitq_bench.c there. On any other kernel this skips.
 *
 *	deferred_split_bench [-b LIST] [-r ROUNDS] [-q QUEUE] [-s MS] [-t TASKS] [-wp]
 *
 *	-b	what to measure: scan hold latency workload ttu_sync (all)
 *	-r	rounds behind the first one, which is a warm-up (4)
 *	-q	the longest queue (10000)
 *	-s	how long each measurement of the latency goes on (500 ms)
 *	-t	at most so many tasks (4)
 *	-w	without the module: nothing is pinned or locked, so no such cases
 *	-p	plant a fault that must be seen: variants are not switched
 *
 * In each round every variant is measured once, and the order of them rotates. The
 * folios are mTHPs of order 2 with their last page unmapped, but for workload and
 * ttu_sync. KTAP, with these lines:
 *
 *	# row BENCH VARIANT CASE QUEUE NR_TO_SCAN TASKS ROUND METRIC VALUE
 *	# hist UPPER COUNT UPPER COUNT ...	of the row before; times in ns, several lines
 *
 * Round 0 is the warm-up. A row is about a variant only if the counters in the kernel
 * say that this variant ran, and nothing else: otherwise it ends with "not ok".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"
#include "deferred_split_util.h"

#define BENCH_DIR	"/sys/kernel/debug/splitq_bench/"
#define THP_FILE	"/sys/kernel/mm/transparent_hugepage/hugepages-%zukB/enabled"
#define NOSYNC		"nosync"
#define SERIES		"series"

#define MAX_VARIANTS	8
#define MAX_TASKS	8
#define ORDER		2
/* Who has done nothing by then is stuck. */
#define IDLE_MS		20000

/* As in mm/splitq_bench.c. */
#define PART_BITS	4
#define NR_BUCKETS	((40 - PART_BITS + 1) << PART_BITS)

struct hist {
	unsigned long count, sum, max;
	unsigned int bucket[NR_BUCKETS];
};

/* What the kernel has measured since it was told to forget. */
struct stats {
	long scans, scan_ns, returned, could_scan, missed;
	struct hist hold, wait, split_hold, split_wait;
};

struct row {
	const char *bench, *variant, *what;
	long queue, nr_to_scan;
	int tasks, round;
};

static struct {
	const char *list;
	int rounds, tasks;
	long queue;
	int ms;
	bool module, plant;
} opt = { .list = "", .rounds = 4, .tasks = 4, .queue = 10000, .ms = 500, .module = true };

static char variants[MAX_VARIANTS][32];
static int nr_variants;
static size_t page, small, thp;
static struct ds_memcg memcg;
static char wrong[256];

/* -- Histograms ------------------------------------------------------------- */

static unsigned long bucket_upper(int bucket)
{
	int shift = (bucket >> PART_BITS) > 1 ? (bucket >> PART_BITS) - 1 : 0;

	return ((unsigned long)(bucket - (shift << PART_BITS) + 1) << shift) - 1;
}

static int bucket_of(unsigned long ns)
{
	int shift, bucket;

	if (ns < 1 << PART_BITS)
		return ns;
	shift = 63 - __builtin_clzl(ns) - PART_BITS;
	bucket = (shift << PART_BITS) + (ns >> shift);
	return bucket < NR_BUCKETS ? bucket : NR_BUCKETS - 1;
}

static void hist_add(struct hist *h, unsigned long ns)
{
	h->count++;
	h->sum += ns;
	if (ns > h->max)
		h->max = ns;
	h->bucket[bucket_of(ns)]++;
}

static void hist_merge(struct hist *to, const struct hist *from)
{
	int i;

	to->count += from->count;
	to->sum += from->sum;
	if (from->max > to->max)
		to->max = from->max;
	for (i = 0; i < NR_BUCKETS; i++)
		to->bucket[i] += from->bucket[i];
}

/* The upper end of the bucket in which that part of the values ends. */
static unsigned long hist_quantile(const struct hist *h, double part)
{
	unsigned long seen = 0;
	int i;

	for (i = 0; i < NR_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen && seen >= part * h->count)
			return bucket_upper(i) < h->max ? bucket_upper(i) : h->max;
	}
	return 0;
}

/* -- Output ----------------------------------------------------------------- */

static void say_row(const struct row *row, const char *metric, double value, const struct hist *h)
{
	int i, n = 0;

	printf("# row %s %s %s %ld %ld %d %d %s %.4f\n", row->bench, row->variant, row->what,
	       row->queue, row->nr_to_scan, row->tasks, row->round, metric, value);
	for (i = 0; h && i < NR_BUCKETS; i++) {
		if (!h->bucket[i])
			continue;
		printf("%s%lu %u", n % 12 ? " " : n ? "\n# hist " : "# hist ", bucket_upper(i),
		       h->bucket[i]);
		n++;
	}
	if (n)
		printf("\n");
	fflush(stdout);
}

__attribute__((format(printf, 1, 2)))
static void say_wrong(const char *fmt, ...)
{
	va_list ap;

	if (wrong[0])
		return;
	va_start(ap, fmt);
	vsnprintf(wrong, sizeof(wrong), fmt, ap);
	va_end(ap);
}

/* -- The kernel's side ------------------------------------------------------ */

static void read_variants(void)
{
	FILE *f = fopen(BENCH_DIR "variant", "re");

	while (f && nr_variants < MAX_VARIANTS && fscanf(f, "%31s", variants[nr_variants]) == 1) {
		char *name = variants[nr_variants++];

		/* "[series] stock ..." */
		if (name[0] == '[')
			memmove(name, name + 1, strlen(name));
		name[strcspn(name, "]")] = '\0';
	}
	if (f)
		fclose(f);
}

/* From now on this one, and count from 0. */
static void start(const char *variant)
{
	if (ds_write_file(BENCH_DIR "variant", variant) || ds_write_file(BENCH_DIR "stats", "0"))
		say_wrong("variant %s cannot be chosen", variant);
}

static void read_hist(struct hist *h, const char *rest)
{
	unsigned long upper, count;

	if (sscanf(rest, " <= %lu %lu", &upper, &count) == 2)
		h->bucket[bucket_of(upper)] = count;
	else if (sscanf(rest, " %lu %lu %lu", &h->count, &h->sum, &h->max) != 3)
		say_wrong("stats: %s", rest);
}

static void set_clocks(bool on)
{
	if (ds_write_file(BENCH_DIR "clocks", on ? "Y" : "N"))
		say_wrong("clocks cannot be switched");
}

/* @function: whose copy must have run, and no other; NULL: that is not looked at. */
static void finish(const char *variant, const char *function, struct stats *s)
{
	FILE *f = fopen(BENCH_DIR "stats", "re");
	char line[256], ran[64], whose[32];
	long count, of_it = 0;

	memset(s, 0, sizeof(*s));
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "ran %63s %31s %ld", ran, whose, &count) == 3) {
			if (!function || strcmp(ran, function))
				continue;
			if (!strcmp(whose, variant))
				of_it = count;
			else
				say_wrong("%s of %s ran %ld times, when it was %s's turn", ran,
					  whose, count, variant);
		}
		if (sscanf(line, "scans %ld %ld %ld %ld", &s->scans, &s->scan_ns, &s->returned,
			   &s->could_scan) == 4)
			continue;
		if (sscanf(line, "missed %ld", &s->missed) == 1)
			continue;
		if (!strncmp(line, "hold ", 5))
			read_hist(&s->hold, line + 4);
		if (!strncmp(line, "wait ", 5))
			read_hist(&s->wait, line + 4);
		if (!strncmp(line, "split_hold ", 11))
			read_hist(&s->split_hold, line + 10);
		if (!strncmp(line, "split_wait ", 11))
			read_hist(&s->split_wait, line + 10);
	}
	if (f)
		fclose(f);
	if (function && !of_it)
		say_wrong("%s of %s did not run", function, variant);
}

/* Not the one for ttu_sync: its scan is the series'. */
static bool is_scan_variant(int i)
{
	return strcmp(variants[i], NOSYNC);
}

/*
 * Every variant that is wanted once in each round, and another one first in each; until
 * something is wrong.
 */
static void take_turns(bool (*wanted)(int), void (*once)(struct row row, const void *arg),
		       struct row row, const void *arg)
{
	int i, v;

	for (row.round = 0; row.round <= opt.rounds; row.round++)
		for (i = 0; i < nr_variants; i++) {
			v = (row.round + i) % nr_variants;
			row.variant = variants[v];
			if (wanted(v) && !wrong[0])
				once(row, arg);
		}
}

/* -- Folios in the queue ---------------------------------------------------- */

struct pool {
	char *map, *base;
	size_t size, each;
	long nr;
};

static void pool_drop(struct pool *pool)
{
	if (pool->map)
		munmap(pool->map, pool->size + thp);
	pool->map = NULL;
}

/* So many large folios of a size, the last page of each unmapped: queued. */
static bool pool_fill(struct pool *pool, long nr, size_t each)
{
	long i;

	pool->each = each;
	pool->nr = nr;
	pool->size = nr * each;
	pool->map = mmap(NULL, pool->size + thp, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pool->map == MAP_FAILED) {
		pool->map = NULL;
		say_wrong("no memory for %ld folios", nr);
		return false;
	}
	pool->base = (char *)(((uintptr_t)pool->map + thp - 1) & ~(thp - 1));
	madvise(pool->base, pool->size, MADV_HUGEPAGE);
	for (i = 0; i < nr; i++)
		pool->base[i * each] = 1;
	for (i = 0; i < nr; i++)
		madvise(pool->base + (i + 1) * each - page, page, MADV_DONTNEED);
	ds_drain();
	i = ds_count_node(&memcg, 0);
	if (i < nr * 0.98 || i > nr * 1.02)
		say_wrong("%ld folios of %zu kB should be queued, %ld are", nr, each / 1024, i);
	return !wrong[0];
}

/* Pin or lock every folio, or with step 2 every other. Return: a file to close, or -1. */
static int pool_keep(const struct pool *pool, int step, const char *how)
{
	char line[96];
	int fd;

	if (!how)
		return -1;
	fd = open(DS_SPLITQ "keep", O_WRONLY | O_CLOEXEC);
	snprintf(line, sizeof(line), "%d %lx %lx %lx %s", getpid(), (unsigned long)pool->base,
		 pool->size, pool->each * step, how);
	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		say_wrong("%s: %s", how, strerror(errno));
	return fd;
}

static void set_sizes(bool only_small)
{
	char path[128];

	snprintf(path, sizeof(path), THP_FILE, thp / 1024);
	ds_knob_set(path, only_small ? "never" : "inherit");
	snprintf(path, sizeof(path), THP_FILE, small / 1024);
	if (ds_knob_set(path, only_small ? "madvise" : "never"))
		say_wrong("no THPs of %zu kB", small / 1024);
}

/* -- (a), (d): what a scanned folio costs ------------------------------------ */

static const struct scan_case {
	const char *name, *keep;
	int step;
	double back;		/* what part of the folios comes back */
} scan_cases[] = {
	{ "all-split", NULL, 0, 0 },
	{ "none-split", "pin", 1, 1 },
	{ "half-split", "pin", 2, 0.5 },
	{ "contended", "lock", 1, 1 },
};

/* The whole queue, nr_to_scan at a time, by a shrinker with or without clocks in it. */
static void scan_queue(const struct row *row, const struct scan_case *c, bool clocks,
		       struct stats *s)
{
	struct pool pool;
	long done, split;
	int fd;

	memset(s, 0, sizeof(*s));
	if (!pool_fill(&pool, row->queue, small))
		goto out;
	fd = pool_keep(&pool, c->step, c->keep);
	set_clocks(clocks);
	start(row->variant);
	for (done = 0; done < row->queue; done += row->nr_to_scan)
		ds_scan(&memcg, 0, row->nr_to_scan);
	finish(row->variant, "deferred_split_scan", s);
	set_clocks(true);
	if (fd >= 0)
		close(fd);
	split = (1 - c->back) * s->could_scan;
	if (labs(s->returned - split) > 0.02 * s->could_scan + 2)
		say_wrong("%s: %ld of %ld folios should be split, %ld were", c->name, split,
			  s->could_scan, s->returned);
	if (labs(s->could_scan - row->queue) > 0.02 * row->queue + 2)
		say_wrong("%s: %ld folios should be scanned, %ld were", c->name, row->queue,
			  s->could_scan);
out:
	pool_drop(&pool);
}

static void scan_once(struct row row, const void *arg)
{
	const struct scan_case *c = arg;
	struct stats s;
	double n;

	scan_queue(&row, c, false, &s);
	n = s.could_scan;
	if (wrong[0])
		return;
	say_row(&row, "ns_per_folio", s.scan_ns / n, NULL);
	say_row(&row, "splits", s.returned, NULL);
	row.bench = "locks";
	say_row(&row, "acquisitions_per_folio", s.hold.count / n, NULL);
	/* Those of split_folio(), of each folio that is split one: not if it is off the queue. */
	say_row(&row, "split_acquisitions_per_folio", s.split_hold.count / n, NULL);

	scan_queue(&row, c, true, &s);
	n = s.could_scan;
	if (wrong[0])
		return;
	say_row(&row, "hold_ns_per_folio", s.hold.sum / n, NULL);
	row.bench = "scan";
	say_row(&row, "hold_max_ns", s.hold.max, &s.hold);
}

static void bench_scan(void)
{
	struct row row = { .bench = "scan", .tasks = 1 };
	long queue = opt.queue < 2048 ? opt.queue : 2048;
	long nrs[] = { 128, queue };
	size_t c, n;

	row.queue = queue;
	set_sizes(true);
	for (c = 0; c < ARRAY_SIZE(scan_cases); c++) {
		if (scan_cases[c].keep && !opt.module)
			continue;
		row.what = scan_cases[c].name;
		for (n = 0; n < ARRAY_SIZE(nrs); n++) {
			row.nr_to_scan = nrs[n];
			take_turns(is_scan_variant, scan_once, row, &scan_cases[c]);
		}
	}
}

/* -- (b): how long are interrupts off? --------------------------------------- */

#define BATCH		31	/* folios in a folio_batch */
#define NR_BATCHES	320	/* measured at a time */

static void hold_once(struct row row, const void *unused)
{
	/* As many batches, whatever the scan: of more holds the longest is longer. */
	int times = NR_BATCHES * BATCH / (row.nr_to_scan > BATCH ? row.nr_to_scan : BATCH) ?: 1;
	struct stats s;

	start(row.variant);
	while (times--)
		ds_scan(&memcg, 0, row.nr_to_scan);
	finish(row.variant, "deferred_split_scan", &s);
	say_row(&row, "hold_max_ns", s.hold.max, &s.hold);
	say_row(&row, "wait_max_ns", s.wait.max, NULL);
	say_row(&row, "ns_per_folio", (double)s.scan_ns / s.could_scan, NULL);
}

static void bench_hold(void)
{
	struct row row = { .bench = "hold", .what = "none-split", .tasks = 1 };
	struct pool pool;
	long nr;
	int fd;

	if (!opt.module)
		return;
	set_sizes(true);
	for (row.queue = 1000; row.queue <= opt.queue && !wrong[0]; row.queue *= 10) {
		/* All come back: the queue stays as long as it is. */
		if (pool_fill(&pool, row.queue, small)) {
			fd = pool_keep(&pool, 1, "pin");
			for (nr = 1; nr <= row.queue && nr <= 10000; nr *= 10) {
				row.nr_to_scan = nr;
				take_turns(is_scan_variant, hold_once, row, NULL);
			}
			close(fd);
		}
		pool_drop(&pool);
	}
}

/* -- Tasks ------------------------------------------------------------------- */

struct task {
	pid_t pid;
	int done;
	struct hist unmap, freed;
	long work;
};

static struct shared {
	int go, stop, ready;
	struct task tasks[MAX_TASKS + 1];
} *shared;

static int read_int(const int *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void write_int(int *p, int value)
{
	__atomic_store_n(p, value, __ATOMIC_RELEASE);
}

static unsigned long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000UL + ts.tv_nsec;
}

static void tasks_prepare(void)
{
	memset(shared, 0, sizeof(*shared));
}

static void sleep_until(unsigned long ns)
{
	const struct timespec due = { ns / 1000000000, ns % 1000000000 };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
}

/* A task that runs a function once all are let go. The scanner is number MAX_TASKS. */
static void task_start(int number, int cpu, void (*work)(struct task *task))
{
	struct task *task = &shared->tasks[number];
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid) {
		task->pid = pid;
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (cpu >= 0)
		ds_pin_to_cpu(cpu);
	__atomic_add_fetch(&shared->ready, 1, __ATOMIC_RELEASE);
	while (!read_int(&shared->go))
		usleep(100);
	work(task);
	fflush(NULL);
	_exit(0);
}

/* Let go those that were started, and wait until they are ready for it. */
static void tasks_go(int nr)
{
	int i, alive = 0;

	for (i = 0; i <= MAX_TASKS; i++)
		alive += shared->tasks[i].pid > 0;
	if (alive != nr)
		say_wrong("%d of %d tasks could be started", alive, nr);
	while (read_int(&shared->ready) < alive)
		usleep(100);
	write_int(&shared->go, 1);
}

/* For the time that was asked for, and until each has done something: ms. */
static double tasks_work(void)
{
	double begin = ds_now(), ms;
	bool idle;
	int i;

	do {
		usleep(opt.ms * 1000);
		ms = (ds_now() - begin) * 1e3;
		idle = false;
		for (i = 0; i <= MAX_TASKS; i++)
			idle |= shared->tasks[i].pid > 0 &&
				!__atomic_load_n(&shared->tasks[i].work, __ATOMIC_RELAXED);
	} while (idle && ms < IDLE_MS);
	write_int(&shared->stop, 1);
	if (idle)
		say_wrong("a task did nothing in %d ms", IDLE_MS);
	return ms;
}

static void task_wait(int number)
{
	int status = 0;

	if (shared->tasks[number].pid > 0 &&
	    (waitpid(shared->tasks[number].pid, &status, 0) < 0 || status))
		say_wrong("task %d ended with %x", number, status);
}

/* The scanner gets the first CPU; the others share the rest. */
static int cpu_of(int number)
{
	int nr = sysconf(_SC_NPROCESSORS_ONLN);

	return nr > 1 ? 1 + number % (nr - 1) : 0;
}

/*
 * One who scans as fast as it can scans the more, and is the more in the way, the
 * less a scan costs. So it is measured at the same pace for all, too, at which even
 * the slowest of them keeps up under TCG.
 */
#define PACE		50000	/* folios a second */

static long scanner_nr;
static long scanner_rate;	/* 0: as fast as it can */

static void scanner(struct task *task)
{
	unsigned long due = now_ns();

	while (!read_int(&shared->stop)) {
		ds_scan(&memcg, 0, scanner_nr);
		task->work++;
		if (!scanner_rate)
			continue;
		due += scanner_nr * 1000000000UL / scanner_rate;
		sleep_until(due);
	}
}

/* -- (c): who unmaps and frees while it is scanned ----------------------------- */

#define NR_UNMAPPED	64

/* What is above and below what is asked for is unmapped again. */
static char *map_aligned(size_t size)
{
	char *map = mmap(NULL, size + thp, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *base = (char *)(((uintptr_t)map + thp - 1) & ~(thp - 1));

	if (map == MAP_FAILED)
		_exit(2);
	if (base > map)
		munmap(map, base - map);
	munmap(base + size, map + thp - base);
	madvise(base, size, MADV_HUGEPAGE);
	return base;
}

static void unmapper(struct task *task)
{
	char *base = map_aligned(NR_UNMAPPED * small);
	unsigned long t0, t1, t2;
	int i;

	while (!read_int(&shared->stop)) {
		for (i = 0; i < NR_UNMAPPED; i++)
			base[i * small] = 1;
		for (i = 0; i < NR_UNMAPPED; i++) {
			char *folio = base + i * small;

			t0 = now_ns();
			madvise(folio + small - page, page, MADV_DONTNEED);
			t1 = now_ns();
			madvise(folio, small - page, MADV_DONTNEED);
			t2 = now_ns();
			hist_add(&task->unmap, t1 - t0);
			hist_add(&task->freed, t2 - t1);
		}
		task->work++;
	}
}

static void latency_once(struct row row, const void *unused)
{
	int nr = row.nr_to_scan, tasks = row.tasks;
	struct hist unmap = { 0 }, freed = { 0 };
	struct stats s;
	double ms;
	int i;

	tasks_prepare();
	scanner_nr = nr;
	scanner_rate = strcmp(row.what, "while-paced") ? 0 : PACE;
	for (i = 0; i < tasks; i++)
		task_start(i, cpu_of(i), unmapper);
	if (nr)
		task_start(MAX_TASKS, 0, scanner);
	start(row.variant);
	tasks_go(tasks + !!nr);
	ms = tasks_work();
	for (i = 0; i <= MAX_TASKS; i++)
		task_wait(i);
	finish(row.variant, nr ? "deferred_split_scan" : NULL, &s);

	for (i = 0; i < tasks; i++) {
		hist_merge(&unmap, &shared->tasks[i].unmap);
		hist_merge(&freed, &shared->tasks[i].freed);
	}
	if (!unmap.count)
		say_wrong("%s: nothing was unmapped", row.what);
	/* One scan before it begins, and one that is on its way when it ends. */
	if (scanner_rate && s.could_scan > 2 * PACE * ms / 1e3 + 2 * nr)
		say_wrong("%s: %.0f folios in %.0f ms are no pace", row.what,
			  (double)s.could_scan, ms);
	say_row(&row, "unmap_ns", hist_quantile(&unmap, 0.9999), &unmap);
	say_row(&row, "free_ns", hist_quantile(&freed, 0.9999), &freed);
	say_row(&row, "unmaps_per_second", unmap.count * 1e3 / ms, NULL);
	say_row(&row, "scanned_per_second", s.could_scan * 1e3 / ms, NULL);
	say_row(&row, "hold_max_ns", s.hold.max, &s.hold);
}

static void bench_latency(void)
{
	struct row row = { .bench = "latency", .queue = opt.queue < 10000 ? opt.queue : 10000 };
	const struct {
		const char *what;
		long nr;
	} kinds[] = {
		{ "quiet", 0 },
		{ "while-scanning", 128 },
		{ "while-scanning", row.queue },
		{ "while-paced", 128 },
		{ "while-paced", row.queue },
	};
	struct pool pool;
	size_t n;
	int fd;

	if (!opt.module)
		return;
	set_sizes(true);
	if (!pool_fill(&pool, row.queue, small))
		goto out;
	fd = pool_keep(&pool, 1, "pin");
	for (n = 0; n < ARRAY_SIZE(kinds); n++) {
		row.nr_to_scan = kinds[n].nr;
		row.what = kinds[n].what;
		for (row.tasks = 1; row.tasks <= opt.tasks; row.tasks *= 2)
			take_turns(is_scan_variant, latency_once, row, NULL);
	}
	close(fd);
out:
	pool_drop(&pool);
}

/* -- (e): whole workloads ------------------------------------------------------ */

#define ARENA_THPS	8
#define NR_LOOPS	4

static unsigned int random_next(unsigned int *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	return *state ^= *state << 5;
}

/* Memory that is used, and given back in runs of pages, as by a purging malloc(). */
static void arena_work(char *arena, size_t size, unsigned int *seed)
{
	size_t at, i;

	for (at = 0; at < size; at += page)
		arena[at] = 1;
	for (i = 0; i < size / page / 8; i++) {
		at = random_next(seed) % (size / page) * page;
		madvise(arena + at, random_next(seed) % 8 * page + page, MADV_DONTNEED);
		/* Some of it is used again. */
		if (i % 4 == 0)
			arena[random_next(seed) % (size / page) * page] = 1;
	}
}

static void allocator(struct task *task)
{
	unsigned int seed = task - shared->tasks + 1;
	size_t size = ARENA_THPS * thp;
	int i;

	for (i = 0; i < 6 * NR_LOOPS; i++) {
		char *arena = map_aligned(size);

		arena_work(arena, size, &seed);
		munmap(arena, size);
		task->work++;
	}
}

/* A part of it at a time, so that the rest is what reclaim takes. */
static void pressed(struct task *task)
{
	unsigned int seed = task - shared->tasks + 1;
	size_t size = ARENA_THPS * thp, at;
	char *arena = map_aligned(size);
	int i;

	for (i = 0; i < NR_LOOPS; i++)
		for (at = 0; at < size; at += size / 4) {
			arena_work(arena + at, size / 4, &seed);
			task->work++;
		}
}

static void forker(struct task *task)
{
	unsigned int seed = task - shared->tasks + 1;
	size_t size = 2 * thp, at;
	char *arena = map_aligned(size);
	int i;

	arena_work(arena, size, &seed);
	for (i = 0; i < 16 * NR_LOOPS; i++) {
		pid_t pid = fork();

		if (!pid) {
			/* A compiler that runs, and ends. */
			for (at = 0; at < size; at += 16 * page)
				arena[at] = 2;
			madvise(arena + thp / 2, thp / 4, MADV_DONTNEED);
			arena = map_aligned(thp);
			arena_work(arena, thp, &seed);
			_exit(0);
		}
		if (pid > 0)
			waitpid(pid, NULL, 0);
		task->work++;
	}
}

static void slow_scanner(struct task *task)
{
	while (!read_int(&shared->stop)) {
		ds_scan(&memcg, 0, 128);
		task->work++;
		usleep(5000);
	}
}

static const struct workload {
	const char *name;
	void (*work)(struct task *task);
	bool scanned;		/* by a task of ours; the other by reclaim */
} workloads[] = {
	{ "allocator", allocator, true },
	{ "memcg-pressure", pressed, false },
	{ "fork-exit", forker, true },
};

static void limit_memcg(long bytes)
{
	char path[300], text[32];

	snprintf(path, sizeof(path), "%smemory.max", memcg.dir);
	snprintf(text, sizeof(text), "%ld", bytes);
	if (ds_write_file(path, bytes ? text : "max"))
		say_wrong("memory.max cannot be written");
}

static long splits_so_far(void)
{
	return ds_size_stat(thp, "split") + ds_size_stat(small, "split");
}

static void workload_once(struct row row, const void *arg)
{
	const struct workload *w = arg;
	int tasks = row.tasks, i;
	long splits, refaults, swapins;
	struct stats s;
	double begin;

	tasks_prepare();
	for (i = 0; i < tasks; i++)
		task_start(i, -1, w->work);
	if (w->scanned)
		task_start(MAX_TASKS, -1, slow_scanner);
	else
		limit_memcg(tasks * ARENA_THPS * thp / 2);
	splits = splits_so_far();
	refaults = ds_vmstat("workingset_refault_anon");
	swapins = ds_vmstat("pswpin");
	start(row.variant);
	tasks_go(tasks + w->scanned);
	begin = ds_now();
	for (i = 0; i < tasks; i++)
		task_wait(i);
	begin = ds_now() - begin;
	write_int(&shared->stop, 1);
	task_wait(MAX_TASKS);
	finish(row.variant, "deferred_split_scan", &s);
	if (!w->scanned)
		limit_memcg(0);

	say_row(&row, "seconds", begin, NULL);
	say_row(&row, "splits", splits_so_far() - splits, NULL);
	say_row(&row, "refaults", ds_vmstat("workingset_refault_anon") - refaults, NULL);
	say_row(&row, "swapins", ds_vmstat("pswpin") - swapins, NULL);
	say_row(&row, "scans", s.scans, NULL);
	say_row(&row, "hold_max_ns", s.hold.max, &s.hold);
}

static void bench_workload(void)
{
	struct row row = { .bench = "workload", .nr_to_scan = 128,
			   .tasks = opt.tasks < 2 ? opt.tasks : 2 };
	size_t w;

	set_sizes(false);
	for (w = 0; w < ARRAY_SIZE(workloads); w++) {
		row.what = workloads[w].name;
		take_turns(is_scan_variant, workload_once, row, &workloads[w]);
	}
}

/* -- (f): TTU_SYNC -------------------------------------------------------------- */

#define NR_THPS		32

static bool is_sync_variant(int i)
{
	return !strcmp(variants[i], NOSYNC) || !strcmp(variants[i], SERIES);
}

/* THPs that are mapped by their pages, half of them: the walk meets empty entries. */
static void sync_split_once(struct row row, const void *unused)
{
	struct pool pool;
	struct stats s;
	long i;

	if (pool_fill(&pool, NR_THPS, thp)) {
		for (i = 0; i < NR_THPS; i++)
			madvise(pool.base + i * thp + thp / 2, thp / 2, MADV_DONTNEED);
		start(row.variant);
		ds_scan(&memcg, 0, NR_THPS);
		finish(row.variant, "unmap_folio", &s);
		say_row(&row, "ns_per_folio", (double)s.scan_ns / s.could_scan, NULL);
		say_row(&row, "splits", s.returned, NULL);
	}
	pool_drop(&pool);
}

/* Whole THPs, zapped while the shrinker splits them: what it is for. */
static void zapper(struct task *task)
{
	size_t size = NR_THPS * thp;
	unsigned long t;
	long i;

	while (!read_int(&shared->stop)) {
		/* Once split, a range keeps its page table: THPs need another. */
		char *base = map_aligned(size);

		for (i = 0; i < NR_THPS; i++)
			base[i * thp] = 1;
		for (i = 0; i < NR_THPS; i++) {
			t = now_ns();
			madvise(base + i * thp, thp, MADV_DONTNEED);
			hist_add(&task->freed, now_ns() - t);
		}
		munmap(base, size);
		task->work++;
	}
}

static void sync_zap_once(struct row row, const void *unused)
{
	struct task *task = &shared->tasks[0];
	struct stats s;
	double ms;

	tasks_prepare();
	scanner_nr = row.nr_to_scan;
	task_start(0, cpu_of(0), zapper);
	task_start(MAX_TASKS, 0, scanner);
	start(row.variant);
	tasks_go(2);
	ms = tasks_work();
	task_wait(0);
	task_wait(MAX_TASKS);
	finish(row.variant, "unmap_folio", &s);
	say_row(&row, "free_ns", hist_quantile(&task->freed, 0.9999), &task->freed);
	say_row(&row, "splits", s.returned, NULL);
	say_row(&row, "zaps_per_second", task->freed.count * 1e3 / ms, NULL);
}

static void bench_ttu_sync(void)
{
	struct row row = { .bench = "ttu_sync", .what = "half-mapped", .queue = NR_THPS,
			   .nr_to_scan = NR_THPS, .tasks = 1 };

	set_sizes(false);
	take_turns(is_sync_variant, sync_split_once, row, NULL);
	/* What was faulted in is underused, and split although all of it is mapped. */
	ds_set_underused(true);
	row.what = "zap";
	row.nr_to_scan = 128;
	take_turns(is_sync_variant, sync_zap_once, row, NULL);
	ds_set_underused(false);
}

/* ------------------------------------------------------------------------------ */

static const struct bench {
	const char *name;
	void (*run)(void);
} benches[] = {
	{ "scan", bench_scan },
	{ "hold", bench_hold },
	{ "latency", bench_latency },
	{ "workload", bench_workload },
	{ "ttu_sync", bench_ttu_sync },
};

static void usage(void)
{
	printf("deferred_split_bench [-b LIST] [-r ROUNDS] [-q QUEUE] [-s MS] [-t TASKS] [-wp]\n"
	       "Measure the variants of the deferred split queue that are in this kernel:\n"
	       "scan, hold, latency, workload, ttu_sync (-b), with queues of up to QUEUE folios\n"
	       "and TASKS tasks, for MS each, ROUNDS times and once to warm up.\n");
}

static void options(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "b:r:q:s:t:wph")) != -1) {
		switch (c) {
		case 'b':
			opt.list = optarg;
			break;
		case 'r':
			opt.rounds = atoi(optarg);
			break;
		case 'q':
			opt.queue = atol(optarg);
			break;
		case 's':
			opt.ms = atoi(optarg);
			break;
		case 't':
			opt.tasks = atoi(optarg);
			break;
		case 'p':
			opt.plant = true;
			break;
		case 'w':
			opt.module = false;
			break;
		default:
			usage();
			exit(c == 'h' ? 0 : KSFT_FAIL);
		}
	}
	if (opt.rounds < 1 || opt.queue < 1 || opt.ms < 1 || opt.tasks < 1 ||
	    opt.tasks > MAX_TASKS) {
		printf("not ok: -r, -q and -s are at least 1, -t is 1 to %d\n", MAX_TASKS);
		exit(KSFT_FAIL);
	}
}

/* What all benches need. Return: NULL, or what is missing. */
static const char *set_up(void)
{
	const char *why = ds_knobs_set();

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (!why && shared == MAP_FAILED)
		why = "memory";
	read_variants();
	if (!why && nr_variants < 2)
		why = "variants";
	ds_memcg_create(&memcg);
	if (!why && (!memcg.dir[0] || !ds_memcg_enter(&memcg)))
		why = "a memcg";
	if (!why && (!opt.list[0] || strstr(opt.list, "workload")))
		why = ds_swap_create(512UL << 20);
	if (!why && ds_write_file(BENCH_DIR "stuck", opt.plant ? "Y" : "N"))
		why = "a plant";
	return why;
}

static bool is_asked_for(const struct bench *bench)
{
	return !opt.list[0] || strstr(opt.list, bench->name);
}

int main(int argc, char **argv)
{
	const char *why;
	int nr = 0;
	size_t i;

	options(argc, argv);
	page = sysconf(_SC_PAGESIZE);
	small = page << ORDER;
	thp = ds_thp_size();
	ksft_print_header();
	why = ds_unusable();
	if (!why && access(BENCH_DIR "stats", F_OK))
		why = "not the kernel of make bench";
	if (!why && opt.module && access(DS_SPLITQ "keep", W_OK))
		why = "no splitq.ko";
	if (why)
		ksft_exit_skip("%s\n", why);
	why = set_up();
	if (why)
		ksft_exit_fail_msg("cannot be had: %s\n", why);
	for (i = 0; i < ARRAY_SIZE(benches); i++)
		nr += is_asked_for(&benches[i]);
	ksft_set_plan(nr);

	for (i = 0; i < ARRAY_SIZE(benches); i++) {
		if (!is_asked_for(&benches[i]))
			continue;
		wrong[0] = '\0';
		benches[i].run();
		ksft_test_result(!wrong[0], "%s%s%s\n", benches[i].name, wrong[0] ? ": " : "",
				 wrong);
	}
	ds_write_file(BENCH_DIR "stuck", "N");
	ds_write_file(BENCH_DIR "variant", SERIES);
	ksft_finished();
}
