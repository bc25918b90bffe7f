// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of the THP deferred split queue.
 *
 * The rule: a folio is on its queue if and only if its _deferred_list is not
 * empty; the queue's count is the number of folios on it; a folio marked
 * partially mapped is on its queue, or held by a scanner that will put it back,
 * split it, or see it freed.
 *
 * The queue is driven as the kernel drives it: through deferred_split_folio(),
 * folio_put(), real unmapping, and the shrinker's own count and scan callbacks.
 * So the same tests run on kernels without the series, and some fail there.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/khugepaged.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/rmap.h>
#include <linux/shrinker.h>
#include <linux/uaccess.h>

#include "../internal.h"

/* defined in shrinker.c */
extern struct mutex shrinker_mutex;
extern struct list_head shrinker_list;

#define MAX_FOLIOS	64
#define SMALL_ORDER	2

struct ds_context {
	struct shrinker *shrinker;
	struct deferred_split *queue;	/* of what this test allocates */
	struct mem_cgroup *memcg;
	int nid;
	unsigned long queued;		/* at the start of the test */
	long partially_mapped;
	unsigned int max_ptes_none;
	struct folio *folios[MAX_FOLIOS];
	int nr;
};

/* A scan did not end: it would take the folios of every test after it. */
static bool scan_runs_away;

static struct shrinker *find_shrinker(void)
{
	struct shrinker *shrinker, *found = NULL;

	mutex_lock(&shrinker_mutex);
	list_for_each_entry(shrinker, &shrinker_list, list)
		if (shrinker->name && !strncmp(shrinker->name, "thp-deferred_split", 18))
			found = shrinker;
	mutex_unlock(&shrinker_mutex);
	return found;
}

static unsigned long queue_count(struct ds_context *ctx)
{
	struct shrink_control sc = {
		.gfp_mask = GFP_KERNEL, .nid = ctx->nid, .memcg = ctx->memcg,
	};
	unsigned long count = ctx->shrinker->count_objects(ctx->shrinker, &sc);

	return count == SHRINK_EMPTY ? 0 : count;
}

static unsigned long queue_scan(struct ds_context *ctx, unsigned long nr)
{
	struct shrink_control sc = {
		.gfp_mask = GFP_KERNEL, .nid = ctx->nid, .memcg = ctx->memcg,
		.nr_to_scan = nr, .nr_scanned = nr,
	};

	return ctx->shrinker->scan_objects(ctx->shrinker, &sc);
}

/* How many folios are on the list, by walking it both ways under the lock. */
static long queue_walk(struct ds_context *ctx)
{
	struct list_head *entry;
	long forward = 0, backward = 0;
	unsigned long flags;

	spin_lock_irqsave(&ctx->queue->split_queue_lock, flags);
	list_for_each(entry, &ctx->queue->split_queue)
		if (forward++ > 1000)
			break;
	list_for_each_prev(entry, &ctx->queue->split_queue)
		if (backward++ > 1000)
			break;
	spin_unlock_irqrestore(&ctx->queue->split_queue_lock, flags);
	return forward == backward ? forward : -1;
}

/* Where on the queue a folio is, counted from the head; -1 if it is not there. */
static long queue_position(struct ds_context *ctx, struct folio *folio)
{
	long position = 0, found = -1;
	struct list_head *entry;
	unsigned long flags;

	spin_lock_irqsave(&ctx->queue->split_queue_lock, flags);
	list_for_each(entry, &ctx->queue->split_queue) {
		if (entry == &folio->_deferred_list)
			found = position;
		position++;
	}
	spin_unlock_irqrestore(&ctx->queue->split_queue_lock, flags);
	return found;
}

/* nr_anon_partially_mapped of all orders */
static long partially_mapped(void)
{
	long sum = 0;
	int cpu, order;

	for_each_possible_cpu(cpu)
		for (order = 0; order <= PMD_ORDER; order++)
			sum += (long)per_cpu(mthp_stats, cpu)
				.stats[order][MTHP_STAT_NR_ANON_PARTIALLY_MAPPED];
	return sum;
}

static void expect_queued(struct kunit *test, long n, int line)
{
	struct ds_context *ctx = test->priv;

	KUNIT_EXPECT_EQ_MSG(test, queue_count(ctx), ctx->queued + n,
			    "line %d: the queue's count", line);
	KUNIT_EXPECT_EQ_MSG(test, queue_walk(ctx), (long)ctx->queued + n,
			    "line %d: folios on the queue's list", line);
}

static void expect_partially_mapped(struct kunit *test, long n, int line)
{
	struct ds_context *ctx = test->priv;

	KUNIT_EXPECT_EQ_MSG(test, partially_mapped(), ctx->partially_mapped + n,
			    "line %d: nr_anon_partially_mapped", line);
}

/* The queue's list, its count, and what we expect, all say the same. */
#define EXPECT_QUEUED(test, n)		expect_queued(test, n, __LINE__)
#define EXPECT_PARTIALLY_MAPPED(test, n) expect_partially_mapped(test, n, __LINE__)

/* A folio that nobody maps, charged as user memory is, so that it may be queued. */
static struct folio *new_folio(struct kunit *test, unsigned int order)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio;

	KUNIT_ASSERT_LT(test, ctx->nr, MAX_FOLIOS);
	folio = __folio_alloc_node(GFP_KERNEL | __GFP_COMP | __GFP_ZERO, order, ctx->nid);
	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_ASSERT_EQ(test, mem_cgroup_charge(folio, NULL, GFP_KERNEL), 0);
	ctx->folios[ctx->nr++] = folio;
	return folio;
}

static void put_folios(struct ds_context *ctx)
{
	while (ctx->nr) {
		struct folio *folio = ctx->folios[--ctx->nr];

		if (folio_test_locked(folio))
			folio_unlock(folio);
		folio_put(folio);
	}
}

static int ds_init(struct kunit *test)
{
	struct ds_context *ctx = kunit_kzalloc(test, sizeof(*ctx), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, ctx);
	test->priv = ctx;
	if (READ_ONCE(scan_runs_away))
		kunit_skip(test, "an earlier scan has not ended yet");
	ctx->shrinker = find_shrinker();
	if (!ctx->shrinker)
		kunit_skip(test, "no deferred split shrinker: are THPs off? (512 MiB of memory?)");
	ctx->nid = first_memory_node;
#ifdef CONFIG_MEMCG
	if (!mem_cgroup_disabled())
		ctx->memcg = root_mem_cgroup;
	if (ctx->memcg)
		ctx->queue = &ctx->memcg->deferred_split_queue;
	else
#endif
		ctx->queue = &NODE_DATA(ctx->nid)->deferred_split_queue;
	ctx->queued = queue_count(ctx);
	ctx->partially_mapped = partially_mapped();
	ctx->max_ptes_none = khugepaged_max_ptes_none;
	return 0;
}

static void ds_exit(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	if (!ctx || !ctx->shrinker)
		return;
	khugepaged_max_ptes_none = ctx->max_ptes_none;
	put_folios(ctx);
}

static void a_queued_folio_is_counted(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_folio(test, SMALL_ORDER);

	KUNIT_EXPECT_TRUE(test, list_empty(&folio->_deferred_list));
	deferred_split_folio(folio, true);
	KUNIT_EXPECT_FALSE(test, list_empty(&folio->_deferred_list));
	KUNIT_EXPECT_TRUE(test, folio_test_partially_mapped(folio));
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

static void a_folio_queued_twice_is_counted_once(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_folio(test, SMALL_ORDER);

	deferred_split_folio(folio, false);
	deferred_split_folio(folio, true);
	deferred_split_folio(folio, true);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

static void a_folio_of_order_1_is_not_queued(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	deferred_split_folio(new_folio(test, 1), true);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void freeing_a_queued_folio_takes_it_off(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	deferred_split_folio(new_folio(test, SMALL_ORDER), true);
	deferred_split_folio(new_folio(test, PMD_ORDER), true);
	EXPECT_QUEUED(test, 2);
	put_folios(ctx);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void a_locked_folio_is_put_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_folio(test, SMALL_ORDER);

	deferred_split_folio(folio, true);
	KUNIT_ASSERT_TRUE(test, folio_trylock(folio));
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 1), 0UL);
	KUNIT_EXPECT_FALSE(test, list_empty(&folio->_deferred_list));
	KUNIT_EXPECT_TRUE(test, folio_test_partially_mapped(folio));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

static void a_folio_that_does_not_split_is_put_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_folio(test, SMALL_ORDER);

	/* Neither anonymous nor in a mapping: split_folio() refuses it. */
	deferred_split_folio(folio, true);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 1), 0UL);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

static void a_used_folio_is_dropped(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_folio(test, PMD_ORDER);

	/* With this no THP counts as underused. */
	khugepaged_max_ptes_none = HPAGE_PMD_NR - 1;
	deferred_split_folio(folio, false);
	EXPECT_QUEUED(test, 1);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 1), ctx->queued ? 0UL : SHRINK_STOP);
	KUNIT_EXPECT_TRUE(test, list_empty(&folio->_deferred_list));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	EXPECT_QUEUED(test, 0);

	/* It may be queued again. */
	deferred_split_folio(folio, true);
	EXPECT_QUEUED(test, 1);
}

static void a_frozen_folio_is_left_alone(struct kunit *test)
{
	struct folio *folio = new_folio(test, SMALL_ORDER);

	deferred_split_folio(folio, true);
	/* As reclaim does, which may find that it must not free the folio. */
	KUNIT_ASSERT_TRUE(test, folio_ref_freeze(folio, 1));
	queue_scan(test->priv, 1);
	folio_ref_unfreeze(folio, 1);
	KUNIT_EXPECT_TRUE(test, folio_test_partially_mapped(folio));
	KUNIT_EXPECT_FALSE(test, list_empty(&folio->_deferred_list));
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

static void a_locked_underused_folio_is_put_back(struct kunit *test)
{
	struct folio *folio = new_folio(test, PMD_ORDER);

	/* All of it is zero: it is underused, and would be split. */
	khugepaged_max_ptes_none = 0;
	deferred_split_folio(folio, false);
	KUNIT_ASSERT_TRUE(test, folio_trylock(folio));
	queue_scan(test->priv, 1);
	KUNIT_EXPECT_FALSE(test, list_empty(&folio->_deferred_list));
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void an_underused_folio_that_does_not_split_is_put_back(struct kunit *test)
{
	struct folio *folio = new_folio(test, PMD_ORDER);

	khugepaged_max_ptes_none = 0;
	deferred_split_folio(folio, false);
	queue_scan(test->priv, 1);
	KUNIT_EXPECT_FALSE(test, list_empty(&folio->_deferred_list));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void a_scan_takes_no_more_than_it_is_asked_to(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	long position;
	int i;

	if (ctx->queued)
		kunit_skip(test, "the queue is not ours alone: %lu folios", ctx->queued);
	for (i = 0; i < 40; i++) {
		deferred_split_folio(new_folio(test, SMALL_ORDER), true);
		KUNIT_ASSERT_TRUE(test, folio_trylock(ctx->folios[i]));
	}
	queue_scan(ctx, 10);
	EXPECT_QUEUED(test, 40);
	/* The ten from the head are behind the others now, which kept their places. */
	for (i = 0; i < 40; i++) {
		position = queue_position(ctx, ctx->folios[i]);
		if (i < 10)
			KUNIT_EXPECT_GE(test, position, 30L);
		else
			KUNIT_EXPECT_EQ(test, position, (long)i - 10);
	}
}

static const int batch_sizes[] = { 1, 30, 31, 32, 62, 63 };

static void describe_batch(const int *n, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%d folios", *n);
}

KUNIT_ARRAY_PARAM(batch, batch_sizes, describe_batch);

static void no_folio_is_lost_or_counted_twice(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	int n = *(const int *)test->param_value;
	int i;

	for (i = 0; i < n; i++) {
		deferred_split_folio(new_folio(test, SMALL_ORDER), true);
		/* every third is tried, and refused */
		if (i % 3)
			KUNIT_ASSERT_TRUE(test, folio_trylock(ctx->folios[i]));
	}
	EXPECT_QUEUED(test, n);
	queue_scan(ctx, ctx->queued + n);
	EXPECT_QUEUED(test, n);
	EXPECT_PARTIALLY_MAPPED(test, n);
	for (i = 0; i < n; i++)
		KUNIT_EXPECT_EQ(test, folio_ref_count(ctx->folios[i]), 1);
	put_folios(ctx);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

/* A scan in a thread of its own, so that it may block, or never end. */
struct scan_thread {
	struct ds_context *ctx;
	unsigned long nr;
	unsigned long ret;
	struct task_struct *task;
	struct completion done;
};

static int scan_thread_fn(void *data)
{
	struct scan_thread *scan = data;

	scan->ret = queue_scan(scan->ctx, scan->nr);
	complete(&scan->done);
	return 0;
}

static struct scan_thread *scan_start(struct kunit *test, unsigned long nr)
{
	/* Not freed with the test: a scan that never ends still uses it. */
	struct scan_thread *scan = kzalloc(sizeof(*scan), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, scan);
	scan->ctx = test->priv;
	scan->nr = nr;
	init_completion(&scan->done);
	scan->task = kthread_create(scan_thread_fn, scan, "deferred_split_scan");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, scan->task);
	get_task_struct(scan->task);
	wake_up_process(scan->task);
	return scan;
}

static bool scan_end(struct scan_thread *scan)
{
	if (!wait_for_completion_timeout(&scan->done, 10 * HZ)) {
		WRITE_ONCE(scan_runs_away, true);
		return false;
	}
	put_task_struct(scan->task);
	kfree(scan);
	return true;
}

static void a_scan_ends_though_everything_comes_back(struct kunit *test)
{
	struct folio *folio;
	int i;

	for (i = 0; i < 3; i++) {
		folio = new_folio(test, SMALL_ORDER);
		deferred_split_folio(folio, true);
		KUNIT_ASSERT_TRUE(test, folio_trylock(folio));
	}
	KUNIT_EXPECT_TRUE_MSG(test, scan_end(scan_start(test, 1UL << 40)),
			      "the scan of three folios does not end");
}

static void a_scan_ends_though_everything_is_dropped(struct kunit *test)
{
	khugepaged_max_ptes_none = HPAGE_PMD_NR - 1;
	deferred_split_folio(new_folio(test, SMALL_ORDER), false);
	KUNIT_EXPECT_TRUE_MSG(test, scan_end(scan_start(test, 1000)),
			      "the scan of one folio does not end");
}

/* From here on: real THPs, mapped into an mm of the test's own. */

struct mapped_thp {
	unsigned long addr;
	struct folio *folio;	/* with a reference of the test's */
	struct vm_area_struct *vma;
	struct anon_vma *anon_vma;
};

static void map_thp(struct kunit *test, struct mapped_thp *thp)
{
	unsigned long addr;
	struct page *page;

	addr = kunit_vm_mmap(test, NULL, 0, 2 * HPAGE_PMD_SIZE, PROT_READ | PROT_WRITE,
			     MAP_ANONYMOUS | MAP_PRIVATE, 0);
	KUNIT_ASSERT_NE(test, addr, 0UL);
	thp->addr = ALIGN(addr, HPAGE_PMD_SIZE);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, thp->addr, HPAGE_PMD_SIZE, MADV_HUGEPAGE), 0);
	KUNIT_ASSERT_EQ(test, clear_user((void __user *)thp->addr, 1), 0UL);
	KUNIT_ASSERT_EQ(test, get_user_pages_fast(thp->addr, 1, FOLL_WRITE, &page), 1);
	thp->folio = page_folio(page);
	KUNIT_ASSERT_EQ_MSG(test, folio_order(thp->folio), (unsigned int)PMD_ORDER,
			    "no THP was to be had");
	thp->vma = vma_lookup(current->mm, thp->addr);
	thp->anon_vma = folio_anon_vma(thp->folio);
	KUNIT_ASSERT_NOT_NULL(test, thp->anon_vma);
}

/* The second half goes away, as by MADV_DONTNEED. */
static void zap_half(struct mapped_thp *thp)
{
	zap_page_range_single(thp->vma, thp->addr + HPAGE_PMD_SIZE / 2, HPAGE_PMD_SIZE / 2, NULL);
}

static void zap_rest(struct mapped_thp *thp)
{
	zap_page_range_single(thp->vma, thp->addr, HPAGE_PMD_SIZE, NULL);
}

static void zap_unlocked(struct mapped_thp *thp, void (*zap)(struct mapped_thp *thp))
{
	mmap_read_lock(current->mm);
	zap(thp);
	mmap_read_unlock(current->mm);
}

/*
 * Let a scan take the THP off the queue, and stop it in the middle of
 * split_folio(): it needs the anon_vma, which we have locked.
 */
static struct scan_thread *hold_in_scan(struct kunit *test, struct mapped_thp *thp)
{
	struct ds_context *ctx = test->priv;
	struct scan_thread *scan;
	int tries;

	/* in the order in which page faults take them */
	mmap_read_lock(current->mm);
	anon_vma_lock_write(thp->anon_vma);
	scan = scan_start(test, ctx->queued + 1);
	for (tries = 0; tries < 2000; tries++) {
		if (folio_test_locked(thp->folio) &&
		    READ_ONCE(scan->task->__state) == TASK_UNINTERRUPTIBLE)
			break;
		usleep_range(500, 1000);
	}
	KUNIT_EXPECT_TRUE_MSG(test, folio_test_locked(thp->folio), "the scan did not take the THP");
	return scan;
}

static void let_scan_go_on(struct kunit *test, struct mapped_thp *thp, struct scan_thread *scan)
{
	anon_vma_unlock_write(thp->anon_vma);
	mmap_read_unlock(current->mm);
	KUNIT_EXPECT_TRUE(test, scan_end(scan));
}

static void a_partially_mapped_thp_is_split(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped_thp thp;

	map_thp(test, &thp);
	zap_unlocked(&thp, zap_half);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	folio_put(thp.folio);

	KUNIT_EXPECT_EQ(test, queue_scan(ctx, ctx->queued + 1), 1UL);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	zap_unlocked(&thp, zap_rest);
}

static void a_pinned_thp_is_put_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped_thp thp;

	map_thp(test, &thp);
	zap_unlocked(&thp, zap_half);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, ctx->queued + 1), 0UL);
	KUNIT_EXPECT_EQ(test, folio_order(thp.folio), (unsigned int)PMD_ORDER);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);

	folio_put(thp.folio);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, ctx->queued + 1), 1UL);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	zap_unlocked(&thp, zap_rest);
}

static void a_held_folio_is_not_queued_nor_counted(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct scan_thread *scan;
	struct mapped_thp thp;

	map_thp(test, &thp);
	zap_unlocked(&thp, zap_half);
	EXPECT_QUEUED(test, 1);

	scan = hold_in_scan(test, &thp);
	KUNIT_EXPECT_TRUE(test, list_empty(&thp.folio->_deferred_list));
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	let_scan_go_on(test, &thp, scan);

	/* We have a reference: it was not split. */
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	folio_put(thp.folio);
	zap_unlocked(&thp, zap_rest);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void a_held_folio_can_be_freed(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct scan_thread *scan;
	struct mapped_thp thp;

	map_thp(test, &thp);
	zap_unlocked(&thp, zap_half);
	scan = hold_in_scan(test, &thp);
	/* The scan's reference is the last one now. */
	zap_rest(&thp);
	folio_put(thp.folio);
	let_scan_go_on(test, &thp, scan);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void a_held_folio_unmapped_meanwhile_is_queued_once(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct scan_thread *scan;
	struct mapped_thp thp;

	/* Queued at fault; all of it is zero, so it is underused, so it is split. */
	khugepaged_max_ptes_none = 0;
	map_thp(test, &thp);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);

	scan = hold_in_scan(test, &thp);
	zap_half(&thp);
	KUNIT_EXPECT_FALSE(test, list_empty(&thp.folio->_deferred_list));
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	/* We have a reference: the split fails, and the scan puts it back, or not. */
	let_scan_go_on(test, &thp, scan);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);

	folio_put(thp.folio);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, ctx->queued + 1), 1UL);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	zap_unlocked(&thp, zap_rest);
}

static void a_held_folio_unmapped_meanwhile_is_split(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct scan_thread *scan;
	struct mapped_thp thp;

	khugepaged_max_ptes_none = 0;
	map_thp(test, &thp);
	scan = hold_in_scan(test, &thp);
	zap_half(&thp);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	/* On the queue again, and nobody but the scan has a reference: it splits. */
	folio_put(thp.folio);
	let_scan_go_on(test, &thp, scan);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	zap_unlocked(&thp, zap_rest);
}

static void an_underused_thp_is_put_back_while_referenced(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped_thp thp;

	khugepaged_max_ptes_none = 0;
	map_thp(test, &thp);
	/* The reference of map_thp() might as well be one of a migration's end. */
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, ctx->queued + 1), 0UL);
	KUNIT_EXPECT_EQ(test, folio_order(thp.folio), (unsigned int)PMD_ORDER);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);

	folio_put(thp.folio);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, ctx->queued + 1), 1UL);
	EXPECT_QUEUED(test, 0);
	zap_unlocked(&thp, zap_rest);
}

static void an_underused_thp_is_dropped_while_pinned(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped_thp thp;
	struct page *page;

	khugepaged_max_ptes_none = 0;
	map_thp(test, &thp);
	KUNIT_ASSERT_EQ(test, pin_user_pages_fast(thp.addr, 1, FOLL_WRITE, &page), 1);
	queue_scan(ctx, ctx->queued + 1);
	KUNIT_EXPECT_EQ(test, folio_order(thp.folio), (unsigned int)PMD_ORDER);
	EXPECT_QUEUED(test, 0);
	unpin_user_page(page);
	folio_put(thp.folio);
	zap_unlocked(&thp, zap_rest);
}

static void an_underused_thp_is_not_split_while_mlocked(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped_thp thp;

	khugepaged_max_ptes_none = 0;
	map_thp(test, &thp);
	/* As mlock() does, which a kernel thread cannot call. */
	folio_set_mlocked(thp.folio);
	folio_put(thp.folio);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, ctx->queued + 1), ctx->queued ? 0UL : SHRINK_STOP);
	KUNIT_EXPECT_EQ(test, folio_order(thp.folio), (unsigned int)PMD_ORDER);
	EXPECT_QUEUED(test, 0);
	folio_clear_mlocked(thp.folio);
	zap_unlocked(&thp, zap_rest);
}

/* Replace all mappings of the THP with migration entries, and put them back. */
static void migration_starts(struct kunit *test, struct mapped_thp *thp)
{
	folio_lock(thp->folio);
	try_to_migrate(thp->folio, thp_migration_supported() ? 0 : TTU_SPLIT_HUGE_PMD);
	KUNIT_EXPECT_FALSE(test, folio_mapped(thp->folio));
}

static void migration_ends(struct kunit *test, struct mapped_thp *thp)
{
	remove_migration_ptes(thp->folio, thp->folio, 0);
	KUNIT_EXPECT_TRUE(test, folio_mapped(thp->folio));
	folio_unlock(thp->folio);
}

static void a_migrated_thp_is_not_marked(struct kunit *test)
{
	struct mapped_thp thp;

	map_thp(test, &thp);
	EXPECT_QUEUED(test, 1);
	/* By its PMD, and by PTEs, which go one by one. */
	migration_starts(test, &thp);
	migration_ends(test, &thp);
	EXPECT_PARTIALLY_MAPPED(test, 0);

	mmap_read_lock(current->mm);
	split_huge_pmd_address(thp.vma, thp.addr, false, NULL);
	mmap_read_unlock(current->mm);
	migration_starts(test, &thp);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	migration_ends(test, &thp);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	EXPECT_QUEUED(test, 1);
	folio_put(thp.folio);
	zap_unlocked(&thp, zap_rest);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void a_half_unmapped_while_migrated_is_seen(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped_thp thp;

	map_thp(test, &thp);
	migration_starts(test, &thp);
	/* There are only migration entries to unmap. */
	zap_unlocked(&thp, zap_half);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	migration_ends(test, &thp);
	KUNIT_EXPECT_EQ(test, folio_mapcount(thp.folio), HPAGE_PMD_NR / 2);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);

	folio_put(thp.folio);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, ctx->queued + 1), 1UL);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	zap_unlocked(&thp, zap_rest);
}

static void all_unmapped_while_migrated_is_not_marked(struct kunit *test)
{
	struct mapped_thp thp;

	map_thp(test, &thp);
	migration_starts(test, &thp);
	zap_unlocked(&thp, zap_rest);
	remove_migration_ptes(thp.folio, thp.folio, 0);
	KUNIT_EXPECT_FALSE(test, folio_mapped(thp.folio));
	folio_unlock(thp.folio);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	folio_put(thp.folio);
	EXPECT_QUEUED(test, 0);
}

static struct kunit_case deferred_split_cases[] = {
	KUNIT_CASE(a_queued_folio_is_counted),
	KUNIT_CASE(a_folio_queued_twice_is_counted_once),
	KUNIT_CASE(a_folio_of_order_1_is_not_queued),
	KUNIT_CASE(freeing_a_queued_folio_takes_it_off),
	KUNIT_CASE(a_locked_folio_is_put_back),
	KUNIT_CASE(a_folio_that_does_not_split_is_put_back),
	KUNIT_CASE(a_used_folio_is_dropped),
	KUNIT_CASE(a_frozen_folio_is_left_alone),
	KUNIT_CASE(a_locked_underused_folio_is_put_back),
	KUNIT_CASE(an_underused_folio_that_does_not_split_is_put_back),
	KUNIT_CASE(a_scan_takes_no_more_than_it_is_asked_to),
	KUNIT_CASE_PARAM(no_folio_is_lost_or_counted_twice, batch_gen_params),
	KUNIT_CASE(a_scan_ends_though_everything_comes_back),
	KUNIT_CASE(a_scan_ends_though_everything_is_dropped),
	KUNIT_CASE(a_partially_mapped_thp_is_split),
	KUNIT_CASE(a_pinned_thp_is_put_back),
	KUNIT_CASE(a_held_folio_is_not_queued_nor_counted),
	KUNIT_CASE(a_held_folio_can_be_freed),
	KUNIT_CASE(a_held_folio_unmapped_meanwhile_is_queued_once),
	KUNIT_CASE(a_held_folio_unmapped_meanwhile_is_split),
	KUNIT_CASE(an_underused_thp_is_put_back_while_referenced),
	KUNIT_CASE(an_underused_thp_is_dropped_while_pinned),
	KUNIT_CASE(an_underused_thp_is_not_split_while_mlocked),
	KUNIT_CASE(a_migrated_thp_is_not_marked),
	KUNIT_CASE(a_half_unmapped_while_migrated_is_seen),
	KUNIT_CASE(all_unmapped_while_migrated_is_not_marked),
	{}
};

static struct kunit_suite deferred_split_suite = {
	.name = "deferred_split",
	.init = ds_init,
	.exit = ds_exit,
	.test_cases = deferred_split_cases,
};

kunit_test_suite(deferred_split_suite);
