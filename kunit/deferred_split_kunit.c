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
 * folio_put(), real unmapping and migration, and the shrinker's own count and scan
 * callbacks. So the same tests run on kernels without the series, and some fail
 * there. Where two CPUs must meet, one of them is held at a deferred_split_point().
 * What the queue is depends on the kernel: deferred_split_queue.h has all of that.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/cgroup.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/khugepaged.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/rmap.h>
#include <linux/shrinker.h>
#include <linux/swap.h>
#include <linux/uaccess.h>

#include "../internal.h"
#include "deferred_split_point.h"
#include "deferred_split_queue.h"

/* defined in shrinker.c */
extern struct mutex shrinker_mutex;
extern struct list_head shrinker_list;

#define MAX_FOLIOS	1000
#define MAX_THREADS	2
#define SMALL_ORDER	2
/*
 * Of what stands for a THP: with base pages of 64K one of a PMD would be 512 MiB. What is
 * smaller than a PMD is mapped by PTEs, and no fault queues it: map_folio() does.
 */
#define LARGE_ORDER	(PMD_ORDER < 9 ? PMD_ORDER : 9)
#define LARGE_NR	((int)BIT(LARGE_ORDER))
#define LARGE_SIZE	(PAGE_SIZE << LARGE_ORDER)
#define HOLD_MS		10000	/* nobody is held for longer than that */
#define WAIT_MS		200	/* who has not got a lock by then waits for it */
#define BATCH		31	/* folios in a folio_batch */
/* With this max_ptes_none no THP counts as underused. */
#define NONE_UNDERUSED	(HPAGE_PMD_NR - 1)

/* Whose folios, and so which queue. */
enum ds_owner { NO_MEMCG, ROOT_MEMCG, CHILD_MEMCG, OTHER_MEMCG };

static const char * const owner_names[] = { "no memcg", "root memcg", "child memcg" };

struct ds_place {
	struct mem_cgroup *memcg;
	int nid;
	unsigned long queued;		/* at the start of the test */
};

/* Somebody who comes by a point stays there. */
struct ds_hold {
	enum deferred_split_point point;
	struct folio *folio;
	spinlock_t *lock;		/* go on when the test waits for this, too */
	bool in_two_steps;		/* SPLIT_UNLINK: between the stores of list_del_init() */
	struct completion entered, begun, released;
	bool blocked;			/* went on because the test waited for the lock */
	bool added;			/* the folio was queued between the two stores */
	bool late;			/* went on because nobody came */
};

struct ds_context;

/* A task that may be held, or never end. */
struct ds_thread {
	struct kunit *test;
	unsigned long (*function)(struct ds_thread *thread);
	struct ds_place place;
	struct folio *folio;
	unsigned long nr;
	unsigned long ret;
	struct task_struct *task;
	struct completion done;
};

struct ds_context {
	struct shrinker *shrinker;
	struct ds_place here;		/* of what this test allocates */
	struct task_struct *task;	/* the test's own */
	long partially_mapped;		/* at the start of the test */
	unsigned int max_ptes_none;
	unsigned long orders;		/* that faults after MADV_HUGEPAGE may have */
	spinlock_t lock;		/* of the holds */
	struct ds_hold holds[MAX_THREADS];
	int nr_holds;
	struct ds_thread *threads[MAX_THREADS];
	void (*look)(struct kunit *test, enum deferred_split_point point, struct folio *folio);
	atomic_t visits[NR_SPLIT_POINTS];
	atomic_t irqs_on;		/* where a list head changes */
	atomic_t no_preemption;		/* where a scan looks at a folio */
	atomic_t wrong;			/* what look() did not like */
	bool sees;			/* a scan leaves on the queue what cannot be split */
	struct folio *destination;	/* of the last migration */
	struct folio *referenced;	/* by take_a_reference() */
	struct folio *folios[MAX_FOLIOS];
	int nr;
};

/* A scan did not end: it would take the folios of every test after it. */
static bool scan_runs_away;

/* cgroups for the tests: a child, and another; NULL if there are none. */
#ifdef CONFIG_MEMCG
static struct vfsmount *cgroup_mnt;
static struct mem_cgroup *children[2];
static bool memory_was_enabled;
#endif

static bool memcg_is_on(void)
{
	return IS_ENABLED(CONFIG_MEMCG) && !mem_cgroup_disabled();
}

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

static unsigned long raw_count(struct ds_context *ctx, const struct ds_place *place)
{
	struct shrink_control sc = {
		.gfp_mask = GFP_KERNEL, .nid = place->nid, .memcg = place->memcg,
	};

	return ctx->shrinker->count_objects(ctx->shrinker, &sc);
}

static unsigned long queue_count(struct ds_context *ctx, const struct ds_place *place)
{
	unsigned long count = raw_count(ctx, place);

	return count == SHRINK_EMPTY ? 0 : count;
}

static unsigned long scan_place(struct ds_context *ctx, const struct ds_place *place,
				unsigned long nr)
{
	struct shrink_control sc = {
		.gfp_mask = GFP_KERNEL, .nid = place->nid, .memcg = place->memcg,
		.nr_to_scan = nr, .nr_scanned = nr,
	};

	return ctx->shrinker->scan_objects(ctx->shrinker, &sc);
}

static unsigned long queue_scan(struct ds_context *ctx, unsigned long nr)
{
	return scan_place(ctx, &ctx->here, nr);
}

/* All that was queued before the test, and this many more. */
static unsigned long scan_all(struct ds_context *ctx, unsigned long nr)
{
	return queue_scan(ctx, ctx->here.queued + nr);
}

/* The queue of a place, locked. False: there is none, and so nothing on it. */
static bool lock_queue(const struct ds_place *place, struct split_queue *queue,
		       unsigned long *flags)
{
	rcu_read_lock();
	if (!find_split_queue(place->memcg, place->nid, queue)) {
		rcu_read_unlock();
		return false;
	}
	spin_lock_irqsave(queue->lock, *flags);
	return true;
}

static void unlock_queue(struct split_queue *queue, unsigned long *flags)
{
	spin_unlock_irqrestore(queue->lock, *flags);
	rcu_read_unlock();
}

/* How many folios are on the list, by walking it both ways. */
static long walk_locked(const struct split_queue *queue)
{
	long forward = 0, backward = 0;
	struct list_head *entry;

	list_for_each(entry, queue->head)
		if (forward++ > 10 * MAX_FOLIOS)
			break;
	list_for_each_prev(entry, queue->head)
		if (backward++ > 10 * MAX_FOLIOS)
			break;
	return forward == backward ? forward : -1;
}

static long queue_walk(const struct ds_place *place)
{
	struct split_queue queue;
	unsigned long flags;
	long entries;

	if (!lock_queue(place, &queue, &flags))
		return 0;
	entries = walk_locked(&queue);
	unlock_queue(&queue, &flags);
	return entries;
}

/* After a bug has shown, for the tests that follow: the count is what is on the list. */
static void mend_queue_count(const struct ds_place *place)
{
	struct split_queue queue;
	unsigned long flags;

	if (!lock_queue(place, &queue, &flags))
		return;
	add_to_split_queue_count(&queue, walk_locked(&queue) - (long)*queue.count);
	unlock_queue(&queue, &flags);
}

/* Sum of a statistic over all CPUs, of one order or of all (-1). */
static long mthp_stat(enum mthp_stat_item item, int wanted)
{
	long sum = 0;
	int cpu, order;

	for_each_possible_cpu(cpu)
		for (order = 0; order <= PMD_ORDER; order++)
			if (wanted < 0 || order == wanted)
				sum += (long)per_cpu(mthp_stats, cpu).stats[order][item];
	return sum;
}

static long partially_mapped(void)
{
	return mthp_stat(MTHP_STAT_NR_ANON_PARTIALLY_MAPPED, -1);
}

static long vm_event(enum vm_event_item item)
{
	unsigned long events[NR_VM_EVENT_ITEMS] = { };

	all_vm_events(events);
	return events[item];
}

static void expect_queued(struct kunit *test, const struct ds_place *place, long n, int line)
{
	struct ds_context *ctx = test->priv;

	KUNIT_EXPECT_EQ_MSG(test, queue_count(ctx, place), place->queued + n,
			    "line %d: the queue's count", line);
	KUNIT_EXPECT_EQ_MSG(test, queue_walk(place), (long)place->queued + n,
			    "line %d: folios on the queue's list", line);
}

static void expect_queued_here(struct kunit *test, long n, int line)
{
	struct ds_context *ctx = test->priv;

	expect_queued(test, &ctx->here, n, line);
}

static void expect_partially_mapped(struct kunit *test, long n, int line)
{
	struct ds_context *ctx = test->priv;

	KUNIT_EXPECT_EQ_MSG(test, partially_mapped(), ctx->partially_mapped + n,
			    "line %d: nr_anon_partially_mapped", line);
}

static void expect_nothing_left(struct kunit *test, int line)
{
	expect_queued_here(test, 0, line);
	expect_partially_mapped(test, 0, line);
}

/* The queue's list, its count, and what we expect, all say the same. */
#define EXPECT_QUEUED_AT(test, place, n) expect_queued(test, place, n, __LINE__)
#define EXPECT_QUEUED(test, n)		expect_queued_here(test, n, __LINE__)
#define EXPECT_PARTIALLY_MAPPED(test, n) expect_partially_mapped(test, n, __LINE__)
#define EXPECT_NOTHING_LEFT(test)	expect_nothing_left(test, __LINE__)

#define EXPECT_ON_QUEUE(test, folio) \
	KUNIT_EXPECT_FALSE(test, list_empty(&(folio)->_deferred_list))
#define EXPECT_OFF_QUEUE(test, folio) \
	KUNIT_EXPECT_TRUE(test, list_empty(&(folio)->_deferred_list))

/* Only with base pages of which a PMD maps no more than LARGE_NR. */
static void need_pmd(struct kunit *test)
{
	if (LARGE_ORDER < PMD_ORDER)
		kunit_skip(test, "a THP of a PMD is %lu MiB here: run it with smaller base pages",
			   HPAGE_PMD_SIZE >> 20);
}

/* The places of a test that is alone on its queue can be counted. */
static void need_empty_queue(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	if (ctx->here.queued)
		kunit_skip(test, "the queue is not ours alone: %lu folios", ctx->here.queued);
}

/* The order of our folios on the queue, of which nothing else is there. */
static void expect_order(struct kunit *test, const int *wanted, int n)
{
	struct ds_context *ctx = test->priv;
	struct split_queue queue;
	struct list_head *entry;
	unsigned long flags;
	int i = 0, wrong = -1;

	KUNIT_ASSERT_TRUE(test, lock_queue(&ctx->here, &queue, &flags));
	list_for_each(entry, queue.head) {
		if (i < n && wrong < 0 && entry != &ctx->folios[wanted[i]]->_deferred_list)
			wrong = i;
		if (i++ > n)
			break;
	}
	unlock_queue(&queue, &flags);
	KUNIT_EXPECT_EQ(test, i, n);
	KUNIT_EXPECT_EQ_MSG(test, wrong, -1, "not folio %d, at %d of %d", wanted[max(wrong, 0)],
			    wrong, n);
}

/* The first k of n folios went from the head to the tail. */
static void expect_rotated(struct kunit *test, int n, int k)
{
	int *wanted = kunit_kmalloc_array(test, n + 1, sizeof(*wanted), GFP_KERNEL);
	int i;

	KUNIT_ASSERT_NOT_NULL(test, wanted);
	wanted[0] = 0;
	for (i = 0; i < n; i++)
		wanted[i] = (i + k) % n;
	expect_order(test, wanted, n);
}

static struct ds_place place_of(struct ds_context *ctx, struct mem_cgroup *memcg, int nid)
{
	struct ds_place place = { .memcg = memcg, .nid = nid };

	place.queued = queue_count(ctx, &place);
	return place;
}

static struct ds_place owners_place(struct kunit *test, enum ds_owner owner)
{
	struct ds_context *ctx = test->priv;
	struct mem_cgroup *memcg = NULL;

#ifdef CONFIG_MEMCG
	/* Without memcgs what would belong to the root belongs to none. */
	if (owner == ROOT_MEMCG && memcg_is_on())
		memcg = root_mem_cgroup;
	if (owner == CHILD_MEMCG || owner == OTHER_MEMCG) {
		memcg = children[owner - CHILD_MEMCG];
		if (!memcg)
			kunit_skip(test, "no memory controller on cgroup v2");
	}
#else
	if (owner == CHILD_MEMCG || owner == OTHER_MEMCG)
		kunit_skip(test, "no CONFIG_MEMCG");
#endif
	return place_of(ctx, memcg, ctx->here.nid);
}

/* What the test allocates from here on belongs to another. */
static void use_owner(struct kunit *test, enum ds_owner owner)
{
	struct ds_context *ctx = test->priv;

	ctx->here = owners_place(test, owner);
}

static struct folio *new_folio_on(struct kunit *test, const struct ds_place *place,
				  unsigned int order)
{
	struct ds_context *ctx = test->priv;
	struct mem_cgroup *old;
	struct folio *folio;
	int error = 0;

	KUNIT_ASSERT_LT(test, ctx->nr, MAX_FOLIOS);
	folio = __folio_alloc_node(GFP_KERNEL | __GFP_COMP | __GFP_ZERO | __GFP_THISNODE, order,
				   place->nid);
	KUNIT_ASSERT_NOT_NULL(test, folio);
	if (place->memcg) {
		old = set_active_memcg(place->memcg);
		error = mem_cgroup_charge(folio, NULL, GFP_KERNEL) ?: alloc_split_queue(folio);
		set_active_memcg(old);
	}
	ctx->folios[ctx->nr++] = folio;
	KUNIT_ASSERT_EQ(test, error, 0);
	return folio;
}

/* A folio that nobody maps, charged as user memory is, so that it may be queued. */
static struct folio *new_folio(struct kunit *test, unsigned int order)
{
	struct ds_context *ctx = test->priv;

	return new_folio_on(test, &ctx->here, order);
}

static struct folio *new_queued(struct kunit *test, unsigned int order, bool mark)
{
	struct folio *folio = new_folio(test, order);

	deferred_split_folio(folio, mark);
	return folio;
}

/* One that a scan cannot split, and puts back: somebody has locked it. */
static struct folio *new_locked(struct kunit *test, unsigned int order, bool mark)
{
	struct folio *folio = new_queued(test, order, mark);

	KUNIT_ASSERT_TRUE(test, folio_trylock(folio));
	return folio;
}

/*
 * With the memory controller on, a folio that is not charged is not freed while it
 * is queued. Only these tests have one.
 */
static void leave_queue_of_node(struct folio *folio)
{
	struct ds_place place = { .nid = folio_nid(folio) };
	struct split_queue queue;
	unsigned long flags;

	if (folio_order(folio) < 2 || !lock_queue(&place, &queue, &flags))
		return;
	if (!list_empty(&folio->_deferred_list)) {
		list_del_init(&folio->_deferred_list);
		add_to_split_queue_count(&queue, -1);
	}
	if (folio_test_partially_mapped(folio)) {
		folio_clear_partially_mapped(folio);
		mod_mthp_stat(folio_order(folio), MTHP_STAT_NR_ANON_PARTIALLY_MAPPED, -1);
	}
	unlock_queue(&queue, &flags);
}

static void put_folios(struct ds_context *ctx)
{
	while (ctx->nr) {
		struct folio *folio = ctx->folios[--ctx->nr];

		if (memcg_is_on() && !folio_memcg_charged(folio))
			leave_queue_of_node(folio);
		if (folio_test_locked(folio))
			folio_unlock(folio);
		folio_put(folio);
	}
}

/* From here on: threads, and holding them. */

/*
 * The test is about to take the lock, and then marks the folio. That it waits for the
 * lock cannot be seen where spinlocks are test-and-set, as in most guests. So if it
 * has not marked the folio after a while, it waits.
 */
static bool waits_for(struct ds_hold *hold, ktime_t *wait)
{
	if (!*wait)
		*wait = ktime_add_ms(ktime_get(), WAIT_MS);
	if (folio_test_partially_mapped(hold->folio))
		return false;
	return spin_is_contended(hold->lock) || ktime_after(ktime_get(), *wait);
}

static void stay(struct ds_hold *hold)
{
	struct list_head *entry = &hold->folio->_deferred_list;
	ktime_t end = ktime_add_ms(ktime_get(), HOLD_MS), wait = 0;

	if (hold->in_two_steps) {
		/* list_del_init(), slowly; the one after this has nothing to do. */
		__list_del_entry(entry);
		WRITE_ONCE(entry->next, entry);
	}
	complete(&hold->entered);
	while (!completion_done(&hold->released)) {
		if (hold->lock && completion_done(&hold->begun) && waits_for(hold, &wait)) {
			hold->blocked = true;
			break;
		}
		if (ktime_after(ktime_get(), end)) {
			hold->late = true;
			break;
		}
		if (preemptible())
			usleep_range(50, 100);
		else
			cpu_relax();
	}
	if (hold->in_two_steps) {
		/* The bug would corrupt the queue here. It is enough to know. */
		if (READ_ONCE(entry->next) != entry)
			hold->added = true;
		else
			WRITE_ONCE(entry->prev, entry);
	}
}

/* Stands for deferred_split_point() in the tasks of a test. */
static void at_point(enum deferred_split_point point, struct folio *folio)
{
	struct kunit *test = READ_ONCE(current->kunit_test);
	struct ds_hold *hold = NULL;
	struct ds_context *ctx;
	unsigned long flags;
	int i;

	if (!test)
		return;
	ctx = test->priv;
	atomic_inc(&ctx->visits[point]);
	/* The lock of the queue is taken in interrupts, too. */
	if (point == SPLIT_UNLINK && !irqs_disabled())
		atomic_inc(&ctx->irqs_on);
	/* Splitting sleeps, and to look at 512 pages takes long. */
	if (IS_ENABLED(CONFIG_PREEMPT_COUNT) &&
	    (point == SPLIT_UNDERUSED || point == SPLIT_TRYLOCK) && !preemptible())
		atomic_inc(&ctx->no_preemption);
	if (ctx->look)
		ctx->look(test, point, folio);
	if (current == ctx->task) {
		if (point == SPLIT_QUEUE && ctx->nr_holds)
			complete(&ctx->holds[0].begun);
		return;
	}
	spin_lock_irqsave(&ctx->lock, flags);
	for (i = 0; i < ctx->nr_holds && !hold; i++)
		if (ctx->holds[i].point == point && ctx->holds[i].folio == folio)
			hold = &ctx->holds[i];
	/* Once only. */
	if (hold)
		hold->point = NR_SPLIT_POINTS;
	spin_unlock_irqrestore(&ctx->lock, flags);
	if (hold)
		stay(hold);
}

/*
 * Stands for deferred_split_sees() in the tasks of a test: a scan that takes all that
 * is queued meets in its hands what the test has locked or referenced beforehand.
 */
static bool sees(struct folio *folio)
{
	struct kunit *test = READ_ONCE(current->kunit_test);

	return !test || ((struct ds_context *)test->priv)->sees;
}

/* Whoever else comes by that point with that folio next is held there. */
static struct ds_hold *hold_at(struct kunit *test, enum deferred_split_point point,
			       struct folio *folio)
{
	struct ds_context *ctx = test->priv;
	struct ds_hold *hold = &ctx->holds[ctx->nr_holds];
	unsigned long flags;

	KUNIT_ASSERT_LT(test, ctx->nr_holds, MAX_THREADS);
	hold->folio = folio;
	hold->point = point;
	init_completion(&hold->entered);
	init_completion(&hold->begun);
	init_completion(&hold->released);
	spin_lock_irqsave(&ctx->lock, flags);
	ctx->nr_holds++;
	spin_unlock_irqrestore(&ctx->lock, flags);
	return hold;
}

static void wait_until_held(struct kunit *test, struct ds_hold *hold)
{
	KUNIT_ASSERT_NE_MSG(test, wait_for_completion_timeout(&hold->entered,
							      msecs_to_jiffies(HOLD_MS)), 0UL,
			    "nobody came by the point");
}

static void release(struct kunit *test, struct ds_hold *hold)
{
	KUNIT_EXPECT_FALSE_MSG(test, hold->late, "held for too long");
	complete(&hold->released);
}

static int thread_function(void *data)
{
	struct ds_thread *thread = data;

	current->kunit_test = thread->test;
	thread->ret = thread->function(thread);
	current->kunit_test = NULL;
	complete(&thread->done);
	return 0;
}

/* The CPU that the test itself is not on, if there is one. */
static unsigned int other_cpu(void)
{
	unsigned int cpu = cpumask_next(cpumask_first(cpu_online_mask), cpu_online_mask);

	return cpu < nr_cpu_ids ? cpu : cpumask_first(cpu_online_mask);
}

static struct ds_thread *new_thread(struct kunit *test,
				    unsigned long (*function)(struct ds_thread *thread))
{
	struct ds_context *ctx = test->priv;
	/* Not freed with the test: a scan that never ends still uses it. */
	struct ds_thread *thread = kzalloc(sizeof(*thread), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, thread);
	thread->test = test;
	thread->function = function;
	thread->place = ctx->here;
	init_completion(&thread->done);
	return thread;
}

static struct ds_thread *start(struct kunit *test, struct ds_thread *thread)
{
	struct ds_context *ctx = test->priv;
	int i = 0;

	while (i < MAX_THREADS && ctx->threads[i])
		i++;
	KUNIT_ASSERT_LT(test, i, MAX_THREADS);
	thread->task = kthread_create(thread_function, thread, "deferred_split");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, thread->task);
	get_task_struct(thread->task);
	kthread_bind(thread->task, other_cpu());
	ctx->threads[i] = thread;
	wake_up_process(thread->task);
	return thread;
}

/* False if it does not end. Its result may be stored. */
static bool end(struct kunit *test, struct ds_thread *thread, unsigned long *ret)
{
	struct ds_context *ctx = test->priv;
	int i;

	for (i = 0; i < MAX_THREADS; i++)
		if (ctx->threads[i] == thread)
			ctx->threads[i] = NULL;
	if (!wait_for_completion_timeout(&thread->done, 10 * HZ)) {
		WRITE_ONCE(scan_runs_away, true);
		/* It may not touch the test any more, which ends. */
		WRITE_ONCE(thread->task->kunit_test, NULL);
		msleep(200);
		return false;
	}
	if (ret)
		*ret = thread->ret;
	put_task_struct(thread->task);
	kfree(thread);
	return true;
}

static unsigned long do_scan(struct ds_thread *thread)
{
	return scan_place(thread->test->priv, &thread->place, thread->nr);
}

static struct ds_thread *start_scan(struct kunit *test, unsigned long nr)
{
	struct ds_thread *thread = new_thread(test, do_scan);

	thread->nr = nr;
	return start(test, thread);
}

static unsigned long do_put(struct ds_thread *thread)
{
	folio_put(thread->folio);
	return 0;
}

/* What follows holds one CPU and does something on another. */
static void need_two_cpus(struct kunit *test)
{
	if (num_online_cpus() < 2)
		kunit_skip(test, "VACUOUS: one CPU, and this takes two");
}

/* Let a scan take the folio off the queue, and stop it before it tries to split it. */
static struct ds_thread *hold_in_scan(struct kunit *test, struct folio *folio,
				      struct ds_hold **hold)
{
	struct ds_context *ctx = test->priv;
	struct ds_thread *scan;

	*hold = hold_at(test, SPLIT_TRYLOCK, folio);
	scan = start_scan(test, ctx->here.queued + ctx->nr + 1);
	wait_until_held(test, *hold);
	return scan;
}

static void let_go(struct kunit *test, struct ds_thread *thread, struct ds_hold *hold)
{
	release(test, hold);
	KUNIT_EXPECT_TRUE_MSG(test, end(test, thread, NULL), "a thread does not end");
}

static int ds_init(struct kunit *test)
{
	struct ds_context *ctx = kunit_kzalloc(test, sizeof(*ctx), GFP_KERNEL);
	unsigned int cpu = cpumask_first(cpu_online_mask);

	KUNIT_ASSERT_NOT_NULL(test, ctx);
	spin_lock_init(&ctx->lock);
	test->priv = ctx;
	if (READ_ONCE(scan_runs_away))
		kunit_skip(test, "an earlier scan has not ended yet");
	ctx->shrinker = find_shrinker();
	if (!ctx->shrinker)
		kunit_skip(test, "no deferred split shrinker: are THPs off? (512 MiB of memory?)");
	ctx->task = current;
	KUNIT_ASSERT_EQ(test, set_cpus_allowed_ptr(current, cpumask_of(cpu)), 0);
	ctx->here.nid = cpu_to_mem(cpu);
	use_owner(test, ROOT_MEMCG);
	ctx->partially_mapped = partially_mapped();
	ctx->max_ptes_none = khugepaged_max_ptes_none;
	ctx->orders = READ_ONCE(huge_anon_orders_madvise);
	kunit_activate_static_stub(test, deferred_split_point, at_point);
	kunit_activate_static_stub(test, deferred_split_sees, sees);
	return 0;
}

static void ds_exit(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	int i;

	if (!ctx || !ctx->shrinker)
		return;
	/* A test that was given up may have left somebody behind. */
	for (i = 0; i < ctx->nr_holds; i++)
		complete(&ctx->holds[i].released);
	for (i = 0; i < MAX_THREADS; i++)
		if (ctx->threads[i])
			end(test, ctx->threads[i], NULL);
	khugepaged_max_ptes_none = ctx->max_ptes_none;
	WRITE_ONCE(huge_anon_orders_madvise, ctx->orders);
	/* A scan that runs away needs something to scan, or it would never end. */
	if (!READ_ONCE(scan_runs_away))
		put_folios(ctx);
}

/* Parameters: orders, and whose the folios are. */

struct ds_param {
	unsigned int order;
	enum ds_owner owner;
};

static const struct ds_param all_places[] = {
	{ SMALL_ORDER, NO_MEMCG }, { 4, NO_MEMCG }, { LARGE_ORDER, NO_MEMCG },
	{ SMALL_ORDER, ROOT_MEMCG }, { 4, ROOT_MEMCG }, { LARGE_ORDER, ROOT_MEMCG },
	{ SMALL_ORDER, CHILD_MEMCG }, { 4, CHILD_MEMCG }, { LARGE_ORDER, CHILD_MEMCG },
};

/* What is not charged is not freed while it is queued, if there are memcgs. */
static const struct ds_param charged_places[] = {
	{ SMALL_ORDER, ROOT_MEMCG }, { 4, ROOT_MEMCG }, { LARGE_ORDER, ROOT_MEMCG },
	{ SMALL_ORDER, CHILD_MEMCG }, { 4, CHILD_MEMCG }, { LARGE_ORDER, CHILD_MEMCG },
};

static const struct ds_param thp_places[] = {
	{ LARGE_ORDER, ROOT_MEMCG }, { LARGE_ORDER, CHILD_MEMCG }
};

static void describe_place(const struct ds_param *param, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "order %u, %s", param->order,
		 owner_names[param->owner]);
}

KUNIT_ARRAY_PARAM(place, all_places, describe_place);
KUNIT_ARRAY_PARAM(charged, charged_places, describe_place);
KUNIT_ARRAY_PARAM(thp, thp_places, describe_place);

static unsigned int use_param(struct kunit *test)
{
	const struct ds_param *param = test->param_value;

	use_owner(test, param->owner);
	return param->order;
}

static const bool marks[] = { false, true };

static void describe_mark(const bool *mark, char *desc)
{
	strscpy(desc, *mark ? "partially mapped" : "underused", KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(mark, marks, describe_mark);

static bool use_mark(struct kunit *test)
{
	/* All of what we allocate is zero: it is underused, and would be split. */
	khugepaged_max_ptes_none = 0;
	return *(const bool *)test->param_value;
}

/* Onto the queue, and off it. */

static void a_queued_folio_is_counted(struct kunit *test)
{
	struct folio *folio = new_folio(test, use_param(test));

	EXPECT_OFF_QUEUE(test, folio);
	deferred_split_folio(folio, true);
	EXPECT_ON_QUEUE(test, folio);
	KUNIT_EXPECT_TRUE(test, folio_test_partially_mapped(folio));
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

static void a_folio_queued_twice_is_counted_once(struct kunit *test)
{
	struct folio *folio = new_folio(test, use_param(test));

	deferred_split_folio(folio, false);
	deferred_split_folio(folio, true);
	deferred_split_folio(folio, true);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

static void freeing_a_queued_folio_takes_it_off(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	unsigned int order = use_param(test);

	new_queued(test, order, true);
	new_queued(test, order, false);
	EXPECT_QUEUED(test, 2);
	put_folios(ctx);
	EXPECT_NOTHING_LEFT(test);
}

static void an_underused_folio_is_queued_without_the_mark(struct kunit *test)
{
	struct folio *folio = new_queued(test, use_param(test), false);

	EXPECT_ON_QUEUE(test, folio);
	KUNIT_EXPECT_FALSE(test, folio_test_partially_mapped(folio));
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void marking_a_queued_folio_leaves_its_place(struct kunit *test)
{
	static const int in_order[] = { 0, 1, 2 };
	struct ds_context *ctx = test->priv;
	int i;

	need_empty_queue(test);
	for (i = 0; i < 3; i++)
		new_queued(test, SMALL_ORDER, false);
	deferred_split_folio(ctx->folios[1], true);
	deferred_split_folio(ctx->folios[0], true);
	expect_order(test, in_order, 3);
	EXPECT_PARTIALLY_MAPPED(test, 2);
}

static void a_folio_of_order_1_is_not_queued(struct kunit *test)
{
	struct folio *folio = new_folio(test, 1);

	deferred_split_folio(folio, true);
	deferred_split_folio(folio, false);
	EXPECT_NOTHING_LEFT(test);
}

static void a_folio_in_the_swap_cache_is_not_queued(struct kunit *test)
{
	struct folio *folio = new_folio(test, SMALL_ORDER);

	if (!IS_ENABLED(CONFIG_SWAP))
		kunit_skip(test, "no CONFIG_SWAP");
	__folio_set_swapbacked(folio);
	folio_set_swapcache(folio);
	deferred_split_folio(folio, true);
	EXPECT_OFF_QUEUE(test, folio);
	KUNIT_EXPECT_FALSE(test, folio_test_partially_mapped(folio));
	folio_clear_swapcache(folio);
	__folio_clear_swapbacked(folio);
	EXPECT_NOTHING_LEFT(test);
}

static void the_mark_is_counted_by_order(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	unsigned int order = use_param(test);
	long start = mthp_stat(MTHP_STAT_NR_ANON_PARTIALLY_MAPPED, order);

	new_queued(test, order, true);
	new_queued(test, order == 4 ? 3 : 4, true);
	KUNIT_EXPECT_EQ(test, mthp_stat(MTHP_STAT_NR_ANON_PARTIALLY_MAPPED, order), start + 1);
	put_folios(ctx);
	KUNIT_EXPECT_EQ(test, mthp_stat(MTHP_STAT_NR_ANON_PARTIALLY_MAPPED, order), start);
}

static void the_mark_is_an_event_once(struct kunit *test)
{
	long deferred = mthp_stat(MTHP_STAT_SPLIT_DEFERRED, LARGE_ORDER);
	long events = vm_event(THP_DEFERRED_SPLIT_PAGE);
	struct folio *folio = new_queued(test, LARGE_ORDER, false);

	KUNIT_EXPECT_EQ(test, mthp_stat(MTHP_STAT_SPLIT_DEFERRED, LARGE_ORDER), deferred);
	deferred_split_folio(folio, true);
	deferred_split_folio(folio, true);
	KUNIT_EXPECT_EQ(test, mthp_stat(MTHP_STAT_SPLIT_DEFERRED, LARGE_ORDER), deferred + 1);
	if (IS_ENABLED(CONFIG_VM_EVENT_COUNTERS))
		KUNIT_EXPECT_EQ(test, vm_event(THP_DEFERRED_SPLIT_PAGE),
				events + (LARGE_ORDER == PMD_ORDER));
}

static void a_folio_that_is_not_huge_is_no_thp_event(struct kunit *test)
{
	long events = vm_event(THP_DEFERRED_SPLIT_PAGE);

	if (!IS_ENABLED(CONFIG_VM_EVENT_COUNTERS))
		kunit_skip(test, "no CONFIG_VM_EVENT_COUNTERS");
	new_queued(test, 4, true);
	KUNIT_EXPECT_EQ(test, vm_event(THP_DEFERRED_SPLIT_PAGE), events);
}

static void each_memcg_has_its_own_queue(struct kunit *test)
{
	struct ds_place child = owners_place(test, CHILD_MEMCG);
	struct ds_place other = owners_place(test, OTHER_MEMCG);

	deferred_split_folio(new_folio_on(test, &child, SMALL_ORDER), true);
	deferred_split_folio(new_folio_on(test, &child, LARGE_ORDER), false);
	deferred_split_folio(new_folio_on(test, &other, SMALL_ORDER), true);
	EXPECT_QUEUED_AT(test, &child, 2);
	EXPECT_QUEUED_AT(test, &other, 1);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, 2);
}

#ifdef SPLIT_QUEUE_FOR_EACH_NODE
static void a_memcg_has_a_queue_on_each_node(struct kunit *test)
{
	struct ds_place here = owners_place(test, CHILD_MEMCG), there;
	int nid = next_node_in(here.nid, node_states[N_MEMORY]);
	struct ds_context *ctx = test->priv;
	struct folio *folio;

	if (nid == here.nid)
		kunit_skip(test, "there is only one node");
	there = place_of(ctx, here.memcg, nid);
	folio = new_folio_on(test, &here, SMALL_ORDER);
	deferred_split_folio(folio, true);
	deferred_split_folio(new_folio_on(test, &there, SMALL_ORDER), true);
	EXPECT_QUEUED_AT(test, &here, 1);
	EXPECT_QUEUED_AT(test, &there, 1);
	/* A scan of one node leaves the other alone, and puts back where it was. */
	scan_place(ctx, &there, there.queued + 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), there.queued + 1);
	EXPECT_QUEUED_AT(test, &here, 1);
	EXPECT_QUEUED_AT(test, &there, 1);
}
#endif

static void a_folio_without_memcg_is_on_the_queue_of_its_node(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	int nid;

	for_each_node_state(nid, N_MEMORY) {
		struct ds_place place = place_of(ctx, NULL, nid);
		struct folio *folio = new_folio_on(test, &place, SMALL_ORDER);

		deferred_split_folio(folio, true);
		EXPECT_QUEUED_AT(test, &place, 1);
		/* It is put back there, too. */
		folio_lock(folio);
		scan_place(ctx, &place, place.queued + 1);
		EXPECT_QUEUED_AT(test, &place, 1);
	}
#ifndef SPLIT_QUEUE_FOR_EACH_NODE
	/* That of the root memcg is another. */
	if (memcg_is_on())
		EXPECT_QUEUED(test, 0);
#endif
}

/* In which contexts it happens. */

enum ds_where { TASK, IRQS_OFF, SOFTIRQ, HARDIRQ };

static const enum ds_where contexts[] = { TASK, IRQS_OFF, SOFTIRQ, HARDIRQ };

static void describe_context(const enum ds_where *where, char *desc)
{
	static const char * const names[] = { "task", "interrupts off", "softirq", "hardirq" };

	strscpy(desc, names[*where], KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(context, contexts, describe_context);

struct ds_call {
	struct hrtimer timer;
	void (*function)(struct ds_call *call);
	struct folio *folio;
	bool hard, soft, irqs_off, still_off, preempt;
	struct completion done;
};

static enum hrtimer_restart call_from_timer(struct hrtimer *timer)
{
	struct ds_call *call = container_of(timer, struct ds_call, timer);

	call->hard = in_hardirq();
	call->soft = in_serving_softirq();
	call->irqs_off = irqs_disabled();
	call->function(call);
	call->still_off = irqs_disabled();
	complete(&call->done);
	return HRTIMER_NORESTART;
}

/* Call a function in the context that is the test's parameter, and see that it was. */
static void call_in_context(struct kunit *test, struct ds_call *call)
{
	enum ds_where where = *(const enum ds_where *)test->param_value;
	/* Not REL_HARD: that is for what a PREEMPT_RT kernel does in a hardirq, too. */
	enum hrtimer_mode mode = where == HARDIRQ ? HRTIMER_MODE_REL : HRTIMER_MODE_REL_SOFT;
	unsigned long flags;

	if (where == HARDIRQ && IS_ENABLED(CONFIG_PREEMPT_RT))
		kunit_skip(test, "no spinlocks in a hardirq");
	switch (where) {
	case TASK:
		call->preempt = preemptible();
		call->function(call);
		KUNIT_EXPECT_TRUE(test, in_task());
		if (IS_ENABLED(CONFIG_PREEMPT_COUNT))
			KUNIT_EXPECT_TRUE(test, call->preempt);
		KUNIT_EXPECT_FALSE(test, irqs_disabled());
		return;
	case IRQS_OFF:
		local_irq_save(flags);
		call->irqs_off = irqs_disabled();
		call->function(call);
		call->still_off = irqs_disabled();
		local_irq_restore(flags);
		break;
	case SOFTIRQ:
	case HARDIRQ:
		init_completion(&call->done);
		timer_on_stack(&call->timer, call_from_timer, mode);
		hrtimer_start(&call->timer, ms_to_ktime(1), mode);
		KUNIT_EXPECT_NE_MSG(test, wait_for_completion_timeout(&call->done, 10 * HZ), 0UL,
				    "the timer did not come");
		hrtimer_cancel(&call->timer);
		destroy_hrtimer_on_stack(&call->timer);
		break;
	}
	KUNIT_EXPECT_EQ(test, call->hard, where == HARDIRQ);
	/* A hardirq may have come upon a softirq. */
	if (where != HARDIRQ)
		KUNIT_EXPECT_EQ(test, call->soft, where == SOFTIRQ);
	if (where != SOFTIRQ)
		KUNIT_EXPECT_TRUE(test, call->irqs_off);
	KUNIT_EXPECT_EQ_MSG(test, call->irqs_off, call->still_off,
			    "interrupts are not as they were");
}

static void call_put(struct ds_call *call)
{
	folio_put(call->folio);
}

static void a_queued_folio_is_freed_in_any_context(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct ds_call call = { .function = call_put };

	/* The last reference is often that of an end of I/O, or an RCU callback. */
	call.folio = new_queued(test, LARGE_ORDER, true);
	ctx->nr--;
	call_in_context(test, &call);
	EXPECT_NOTHING_LEFT(test);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->irqs_on), 0);
}

static void call_queue(struct ds_call *call)
{
	deferred_split_folio(call->folio, true);
}

static void a_folio_is_queued_in_any_context(struct kunit *test)
{
	struct ds_call call = { .function = call_queue };

	call.folio = new_folio(test, LARGE_ORDER);
	call_in_context(test, &call);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

static void a_frozen_folio_leaves_the_queue_with_interrupts_off(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_queued(test, SMALL_ORDER, true);
	unsigned long flags;
	bool unqueued;

	/* As reclaim and migration do in the swap cache. */
	local_irq_save(flags);
	KUNIT_EXPECT_TRUE(test, folio_ref_freeze(folio, 1));
	unqueued = folio_unqueue_deferred_split(folio);
	folio_ref_unfreeze(folio, 1);
	KUNIT_EXPECT_TRUE(test, irqs_disabled());
	local_irq_restore(flags);
	KUNIT_EXPECT_TRUE(test, unqueued);
	KUNIT_EXPECT_GT(test, atomic_read(&ctx->visits[SPLIT_FROZEN]), 0);
	EXPECT_OFF_QUEUE(test, folio);
	EXPECT_NOTHING_LEFT(test);
}

static void what_is_not_queued_does_not_leave_the_queue(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_folio(test, SMALL_ORDER);

	new_queued(test, SMALL_ORDER, true);
	KUNIT_ASSERT_TRUE(test, folio_ref_freeze(folio, 1));
	KUNIT_EXPECT_FALSE(test, folio_unqueue_deferred_split(folio));
	/* Also when somebody else was quicker, and only the lock tells. */
	KUNIT_EXPECT_FALSE(test, __folio_unqueue_deferred_split(folio));
	folio_ref_unfreeze(folio, 1);
	KUNIT_EXPECT_GT(test, atomic_read(&ctx->visits[SPLIT_FROZEN]), 0);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

/* What a scan and a count return. */

static void an_empty_queue_counts_zero(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	use_owner(test, memcg_is_on() ? CHILD_MEMCG : NO_MEMCG);
	need_empty_queue(test);
	KUNIT_EXPECT_EQ(test, raw_count(ctx, &ctx->here), EMPTY_SPLIT_QUEUE);
}

static void a_scan_of_an_empty_queue_says_stop(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	need_empty_queue(test);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 100), SHRINK_STOP);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 0), SHRINK_STOP);
}

static void a_scan_says_zero_when_all_come_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	new_locked(test, use_param(test), true);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 0UL);
	EXPECT_QUEUED(test, 1);
}

static void a_scan_of_nothing_takes_nothing(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	need_empty_queue(test);
	new_locked(test, SMALL_ORDER, true);
	new_locked(test, SMALL_ORDER, true);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 0), scan_without_split(0, 2));
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 0);
	expect_rotated(test, 2, 0);
}

/* What a scan does with folios that it cannot split. */

static void expect_put_back(struct kunit *test, struct folio *folio, bool mark)
{
	EXPECT_ON_QUEUE(test, folio);
	KUNIT_EXPECT_EQ(test, folio_test_partially_mapped(folio), mark);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, mark);
}

static void a_locked_folio_is_put_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_locked(test, use_param(test), true);

	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 0UL);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), ctx->here.queued + 1);
	expect_put_back(test, folio, true);
}

static void a_folio_that_does_not_split_is_put_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_queued(test, use_param(test), true);

	/* Neither anonymous nor in a mapping: split_folio() refuses it. */
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 0UL);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	expect_put_back(test, folio, true);
}

static void a_locked_underused_folio_is_put_back(struct kunit *test)
{
	struct folio *folio = new_locked(test, use_param(test), false);

	khugepaged_max_ptes_none = 0;
	scan_all(test->priv, 1);
	expect_put_back(test, folio, false);
}

static void an_underused_folio_that_does_not_split_is_put_back(struct kunit *test)
{
	struct folio *folio = new_queued(test, use_param(test), false);

	khugepaged_max_ptes_none = 0;
	scan_all(test->priv, 1);
	expect_put_back(test, folio, false);
}

static void a_frozen_folio_is_left_alone(struct kunit *test)
{
	struct folio *folio = new_queued(test, use_param(test), true);

	/* As reclaim does, which may find that it must not free the folio. */
	KUNIT_ASSERT_TRUE(test, folio_ref_freeze(folio, 1));
	scan_all(test->priv, 1);
	folio_ref_unfreeze(folio, 1);
	expect_put_back(test, folio, true);
}

static void a_frozen_folio_counts_as_looked_at(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio;

	need_empty_queue(test);
	folio = new_queued(test, SMALL_ORDER, true);
	new_locked(test, SMALL_ORDER, true);
	KUNIT_ASSERT_TRUE(test, folio_ref_freeze(folio, 1));
	queue_scan(ctx, 1);
	folio_ref_unfreeze(folio, 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 0);
	expect_rotated(test, 2, 1);
}

static void a_scan_gets_past_a_frozen_folio(struct kunit *test)
{
	static const int wanted[] = { 0, 1, 2 };
	struct ds_context *ctx = test->priv;
	struct folio *folio;

	need_empty_queue(test);
	folio = new_queued(test, SMALL_ORDER, true);
	new_locked(test, SMALL_ORDER, true);
	new_locked(test, SMALL_ORDER, true);
	KUNIT_ASSERT_TRUE(test, folio_ref_freeze(folio, 1));
	queue_scan(ctx, 3);
	folio_ref_unfreeze(folio, 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 2);
	expect_order(test, wanted, 3);
}

static void frozen_folios_do_not_keep_a_scan_from_the_rest(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	int i, frozen = BATCH + 4;

	need_empty_queue(test);
	for (i = 0; i < frozen + 5; i++)
		new_locked(test, SMALL_ORDER, true);
	/* More than a batch of them, at the head. */
	for (i = 0; i < frozen; i++)
		KUNIT_EXPECT_TRUE(test, folio_ref_freeze(ctx->folios[i], 1));
	queue_scan(ctx, ctx->nr);
	for (i = 0; i < frozen; i++)
		folio_ref_unfreeze(ctx->folios[i], 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 5);
	EXPECT_QUEUED(test, ctx->nr);
}

/* A scan of all that is queued takes the one folio of the test, and does not put it back. */
static void expect_taken_and_dropped(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	unsigned long others = ctx->here.queued;

	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), scan_without_split(others + 1, others));
}

static void a_used_folio_is_dropped(struct kunit *test)
{
	struct folio *folio = new_queued(test, use_param(test), false);

	khugepaged_max_ptes_none = NONE_UNDERUSED;
	EXPECT_QUEUED(test, 1);
	expect_taken_and_dropped(test);
	EXPECT_OFF_QUEUE(test, folio);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	EXPECT_QUEUED(test, 0);
}

static void a_dropped_folio_can_be_queued_again(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_queued(test, SMALL_ORDER, false);

	khugepaged_max_ptes_none = NONE_UNDERUSED;
	scan_all(ctx, 1);
	EXPECT_QUEUED(test, 0);
	deferred_split_folio(folio, true);
	expect_put_back(test, folio, true);
	scan_all(ctx, 1);
	expect_put_back(test, folio, true);
}

static void max_ptes_none_says_what_is_underused(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_queued(test, 4, false);
	int i;

	/* Of 16 pages 6 are zero. */
	for (i = 0; i < 10; i++)
		memset(folio_address(folio) + i * PAGE_SIZE, 1 + i, 1);
	khugepaged_max_ptes_none = 5;
	scan_all(ctx, 1);
	EXPECT_ON_QUEUE(test, folio);
	khugepaged_max_ptes_none = 6;
	scan_all(ctx, 1);
	EXPECT_OFF_QUEUE(test, folio);
}

static void enough_filled_pages_end_the_look(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio;

	need_pmd(test);
	folio = new_queued(test, LARGE_ORDER, false);
	/* The last byte of the first page; only two filled pages would be too many. */
	memset(folio_address(folio) + PAGE_SIZE - 1, 1, 1);
	khugepaged_max_ptes_none = LARGE_NR - 2;
	scan_all(ctx, 1);
	EXPECT_ON_QUEUE(test, folio);
	memset(folio_address(folio) + 3 * PAGE_SIZE, 1, 1);
	scan_all(ctx, 1);
	EXPECT_OFF_QUEUE(test, folio);
	EXPECT_QUEUED(test, 0);
}

static void a_folio_with_a_poisoned_page_is_not_underused(struct kunit *test)
{
	struct folio *folio;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "no CONFIG_MEMORY_FAILURE");
	folio = new_queued(test, SMALL_ORDER, false);
	khugepaged_max_ptes_none = 0;
	folio_set_has_hwpoisoned(folio);
	scan_all(test->priv, 1);
	folio_clear_has_hwpoisoned(folio);
	EXPECT_OFF_QUEUE(test, folio);
}

/* Batches. */

static const struct ds_batch {
	int folios, ask;
} batches[] = {
	{ 0, 0 }, { 0, 10 },
	{ 1, 0 }, { 1, 1 }, { 1, 10 },
	{ 30, 0 }, { 30, 10 }, { 30, 30 }, { 30, 31 }, { 30, 100 },
	{ 31, 0 }, { 31, 30 }, { 31, 31 }, { 31, 32 }, { 31, 100 },
	{ 32, 0 }, { 32, 31 }, { 32, 32 }, { 32, 33 }, { 32, 100 },
	{ 62, 0 }, { 62, 32 }, { 62, 62 }, { 62, 63 }, { 62, 1000 },
	{ 1000, 0 }, { 1000, 500 }, { 1000, 1000 }, { 1000, 2000 },
};

static void describe_batch(const struct ds_batch *batch, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%d folios, scan %d", batch->folios, batch->ask);
}

KUNIT_ARRAY_PARAM(batch, batches, describe_batch);

/* The folios of a batch, of which every third is tried, and refused. */
static const struct ds_batch *fill_queue(struct kunit *test)
{
	const struct ds_batch *batch = test->param_value;
	int i;

	use_owner(test, memcg_is_on() ? CHILD_MEMCG : NO_MEMCG);
	need_empty_queue(test);
	for (i = 0; i < batch->folios; i++) {
		struct folio *folio = new_queued(test, SMALL_ORDER, true);

		if (i % 3)
			KUNIT_ASSERT_TRUE(test, folio_trylock(folio));
	}
	return batch;
}

static void no_folio_is_lost_or_counted_twice(struct kunit *test)
{
	const struct ds_batch *batch = fill_queue(test);
	struct ds_context *ctx = test->priv;
	int i, wrong = 0;

	EXPECT_QUEUED(test, batch->folios);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, batch->ask),
			scan_without_split(min(batch->folios, batch->ask), batch->folios));
	EXPECT_QUEUED(test, batch->folios);
	EXPECT_PARTIALLY_MAPPED(test, batch->folios);
	for (i = 0; i < batch->folios; i++)
		wrong += folio_ref_count(ctx->folios[i]) != 1;
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0, "folios with a reference too many or too few");
	put_folios(ctx);
	EXPECT_NOTHING_LEFT(test);
}

static void a_scan_takes_no_more_than_it_is_asked_to(struct kunit *test)
{
	const struct ds_batch *batch = fill_queue(test);
	struct ds_context *ctx = test->priv;
	int taken = min(batch->folios, batch->ask);

	queue_scan(ctx, batch->ask);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), taken);
	/* From the head, and to the tail. The others have kept their places. */
	if (batch->folios)
		expect_rotated(test, batch->folios, taken);
}

static void count_held(struct kunit *test, enum deferred_split_point point, struct folio *folio)
{
	struct ds_context *ctx = test->priv;
	int i, held = 0;

	for (i = 0; i < ctx->nr; i++)
		held += list_empty(&ctx->folios[i]->_deferred_list);
	if (point == SPLIT_TRYLOCK && (held > BATCH || !held))
		atomic_inc(&ctx->wrong);
}

static void a_scan_holds_at_most_a_batch(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	int i;

	for (i = 0; i < 2 * BATCH + 5; i++)
		new_locked(test, SMALL_ORDER, true);
	ctx->look = count_held;
	scan_all(ctx, ctx->nr);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), ctx->here.queued + ctx->nr);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->wrong), 0);
}

static void each_folio_of_a_batch_goes_its_own_way(struct kunit *test)
{
	static const int wanted[] = { 4, 1, 2, 3 };
	struct ds_context *ctx = test->priv;
	struct folio *frozen;

	need_empty_queue(test);
	khugepaged_max_ptes_none = NONE_UNDERUSED;
	new_queued(test, SMALL_ORDER, false);		/* is dropped */
	new_locked(test, SMALL_ORDER, true);
	new_queued(test, LARGE_ORDER, true);		/* does not split */
	new_locked(test, 4, true);
	frozen = new_queued(test, 4, true);
	KUNIT_ASSERT_TRUE(test, folio_ref_freeze(frozen, 1));
	queue_scan(ctx, 100);
	folio_ref_unfreeze(frozen, 1);
	expect_order(test, wanted, 4);
	EXPECT_QUEUED(test, 4);
	EXPECT_PARTIALLY_MAPPED(test, 4);
}

/* What a scan sees that it cannot split stays on the queue, and goes to its tail. */
static void what_is_locked_goes_to_the_tail(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	need_empty_queue(test);
	khugepaged_max_ptes_none = 0;
	ctx->sees = true;
	new_locked(test, SMALL_ORDER, true);
	new_locked(test, LARGE_ORDER, false);
	new_queued(test, 4, false);
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 2), 0UL);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_UNLINK]), 0);
	expect_rotated(test, 3, 2);
	EXPECT_QUEUED(test, 3);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	/* The one that is not locked is next, and is put back behind them. */
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 1), 0UL);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_UNLINK]), 1);
	expect_rotated(test, 3, 0);
}

/* With the lock held, interrupts are off: for a batch, also if nothing goes into it. */
static void a_scan_looks_at_a_batch_at_a_time(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	int i;

	need_empty_queue(test);
	ctx->sees = true;
	for (i = 0; i < 3 * BATCH + 1; i++)
		new_locked(test, SMALL_ORDER, i % 2);
	for (i = 0; i < BATCH; i++)
		KUNIT_EXPECT_TRUE(test, folio_ref_freeze(ctx->folios[i], 1));
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 1000), 0UL);
	for (i = 0; i < BATCH; i++)
		folio_ref_unfreeze(ctx->folios[i], 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_BATCH]), 4);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_UNLINK]), 0);
	expect_rotated(test, ctx->nr, 0);
	EXPECT_QUEUED(test, ctx->nr);
}

static void a_scan_ends_though_everything_comes_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	int i;

	for (i = 0; i < 3; i++)
		new_locked(test, SMALL_ORDER, true);
	/* So many that it takes too long, and not for ever: a kernel with that goes on. */
	KUNIT_EXPECT_TRUE_MSG(test, end(test, start_scan(test, 1UL << 22), NULL),
			      "the scan of three folios does not end");
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), ctx->here.queued + 3);
}

static void a_scan_ends_though_everything_is_dropped(struct kunit *test)
{
	khugepaged_max_ptes_none = NONE_UNDERUSED;
	new_queued(test, SMALL_ORDER, false);
	KUNIT_EXPECT_TRUE_MSG(test, end(test, start_scan(test, 1000), NULL),
			      "the scan of one folio does not end");
}

static void queue_one_more(struct kunit *test, enum deferred_split_point point,
			   struct folio *folio)
{
	struct ds_context *ctx = test->priv;

	if (point == SPLIT_TRYLOCK && ctx->nr < 100)
		deferred_split_folio(ctx->folios[ctx->nr++], true);
}

static void a_scan_ends_though_the_queue_grows(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	int i;

	need_empty_queue(test);
	for (i = 0; i < 100; i++)
		new_folio(test, SMALL_ORDER);
	ctx->nr = 40;
	for (i = 0; i < 40; i++)
		deferred_split_folio(ctx->folios[i], true);
	ctx->look = queue_one_more;
	queue_scan(ctx, 1000);
	ctx->look = NULL;
	/* What was queued when it began, and no more. */
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 40);
	EXPECT_QUEUED(test, 80);
	ctx->nr = 100;
}

static void queue_all_held(struct kunit *test, enum deferred_split_point point,
			   struct folio *folio)
{
	struct ds_context *ctx = test->priv;
	int i;

	for (i = 0; point == SPLIT_REQUEUE && i < ctx->nr; i++)
		deferred_split_folio(ctx->folios[i], true);
}

static void a_folio_queued_before_it_is_put_back_is_counted_once(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	int i;

	need_empty_queue(test);
	for (i = 0; i < 3; i++)
		new_locked(test, SMALL_ORDER, true);
	ctx->look = queue_all_held;
	scan_all(ctx, 3);
	ctx->look = NULL;
	if (!atomic_read(&ctx->visits[SPLIT_REQUEUE]))
		kunit_skip(test, "this kernel puts nothing back that it took off");
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 3);
	EXPECT_QUEUED(test, 3);
}

static void a_scan_looks_at_folios_with_preemption_on(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	if (!IS_ENABLED(CONFIG_PREEMPT_COUNT))
		kunit_skip(test, "this kernel does not count preemption");
	khugepaged_max_ptes_none = 0;
	new_queued(test, SMALL_ORDER, false);
	scan_all(ctx, 1);
	KUNIT_EXPECT_GT(test, atomic_read(&ctx->visits[SPLIT_UNDERUSED]), 0);
	KUNIT_EXPECT_GT(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->no_preemption), 0);
}

static void a_list_head_changes_with_interrupts_off(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	khugepaged_max_ptes_none = NONE_UNDERUSED;
	new_queued(test, SMALL_ORDER, false);
	new_locked(test, SMALL_ORDER, true);
	scan_all(ctx, 2);
	put_folios(ctx);
	KUNIT_EXPECT_GE(test, atomic_read(&ctx->visits[SPLIT_UNLINK]), 2);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->irqs_on), 0);
}

/* From here on: real memory, mapped into an mm of the test's own. */

struct mapped {
	unsigned long addr;	/* of the folio */
	unsigned long size;
	unsigned long base;	/* of all that is mapped, a THP at first */
	struct folio *folio;	/* with a reference of the test's */
	struct vm_area_struct *vma;
};

#ifdef CONFIG_MEMCG
static int cgroup_write(const char *name, const char *text);
#endif

/* Room for a THP, without anything in it yet. */
static void map_area(struct kunit *test, struct mapped *map)
{
	struct ds_context *ctx __maybe_unused = test->priv;
	unsigned long addr;

#ifdef CONFIG_MEMCG
	/* Before there is an mm: it is charged to the memcg of the task that made it. */
	if (ctx->here.memcg && ctx->here.memcg == children[0])
		KUNIT_ASSERT_EQ(test, cgroup_write("child/cgroup.procs", "0"), 0);
#endif
	/* Faults take the largest that is allowed and fits into the area. */
	if (LARGE_ORDER < PMD_ORDER)
		set_bit(LARGE_ORDER, &huge_anon_orders_madvise);
	addr = kunit_vm_mmap(test, NULL, 0, 2 * LARGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_ANONYMOUS | MAP_PRIVATE, 0);
	KUNIT_ASSERT_NE(test, addr, 0UL);
	map->base = ALIGN(addr, LARGE_SIZE);
	map->addr = map->base;
	map->vma = vma_lookup(current->mm, map->addr);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, map->base, LARGE_SIZE, MADV_HUGEPAGE), 0);
}

/* Write to it, and take a reference to what comes. */
static struct page *fault_in(struct kunit *test, struct mapped *map)
{
	struct page *page;

	KUNIT_ASSERT_EQ(test, clear_user((void __user *)map->addr, 1), 0UL);
	KUNIT_ASSERT_EQ(test, get_user_pages_fast(map->addr, 1, FOLL_WRITE, &page), 1);
	map->folio = page_folio(page);
	return page;
}

/* The folio is of the order that is asked for, and mapped; also if that is no THP. */
static void map_folio(struct kunit *test, struct mapped *map, unsigned int order)
{
	struct ds_context *ctx = test->priv;
	struct page *page;

	map_area(test, map);
	map->size = PAGE_SIZE << order;
	page = fault_in(test, map);
	KUNIT_ASSERT_EQ_MSG(test, folio_order(map->folio), (unsigned int)LARGE_ORDER,
			    "no THP was to be had");
	KUNIT_ASSERT_EQ(test, folio_nid(map->folio), ctx->here.nid);
	if (LARGE_ORDER < PMD_ORDER)
		deferred_split_folio(map->folio, false);
	if (order < LARGE_ORDER) {
		folio_lock(map->folio);
		KUNIT_EXPECT_EQ(test, split_huge_page_to_list_to_order(page, NULL, order), 0);
		map->folio = page_folio(page);
		folio_unlock(map->folio);
		KUNIT_ASSERT_EQ(test, folio_order(map->folio), order);
	}
}

/* A THP; the fault has queued it, or map_folio(). */
static void map_thp(struct kunit *test, struct mapped *map)
{
	map_folio(test, map, LARGE_ORDER);
}

static void zap(struct mapped *map, unsigned long from, unsigned long size)
{
	mmap_read_lock(current->mm);
	zap_range(map->vma, from, size);
	mmap_read_unlock(current->mm);
}

/* The second half of the folio goes away, as by MADV_DONTNEED. */
static void zap_half(struct mapped *map)
{
	zap(map, map->addr + map->size / 2, map->size / 2);
}

static void zap_rest(struct mapped *map)
{
	zap(map, map->base, LARGE_SIZE);
}

/* Ours is the last reference but for those of its mappings. */
static void put_mapped(struct mapped *map)
{
	folio_put(map->folio);
}

/* Nobody else has a reference: the next scan splits it, and it is on no queue. */
static void expect_split_when_put(struct kunit *test, struct mapped *map, int line)
{
	put_mapped(map);
	KUNIT_EXPECT_EQ_MSG(test, scan_all(test->priv, 1), 1UL, "line %d: split", line);
	expect_nothing_left(test, line);
}

/* The last of its references and mappings go, and it goes off the queue. */
static void expect_freed_when_put(struct kunit *test, struct mapped *map, int line)
{
	put_mapped(map);
	zap_rest(map);
	expect_nothing_left(test, line);
}

#define EXPECT_SPLIT_WHEN_PUT(test, map) expect_split_when_put(test, map, __LINE__)
#define EXPECT_FREED_WHEN_PUT(test, map) expect_freed_when_put(test, map, __LINE__)

static void fill(struct kunit *test, struct mapped *map, unsigned long pages)
{
	unsigned long i;

	for (i = 0; i < pages; i++)
		KUNIT_ASSERT_EQ(test, put_user(0x5a5a0000 + i, (unsigned long __user *)
					       (map->addr + i * PAGE_SIZE)), 0);
}

/* What is mapped holds what was written: the first pages, and zeroes from there on. */
static void expect_contents(struct kunit *test, struct mapped *map, unsigned long filled,
			    unsigned long pages)
{
	unsigned long i, value, wrong = 0;

	for (i = 0; i < pages; i++) {
		KUNIT_ASSERT_EQ(test, get_user(value, (unsigned long __user *)
					       (map->addr + i * PAGE_SIZE)), 0);
		wrong += value != (i < filled ? 0x5a5a0000 + i : 0);
	}
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0UL, "pages with other contents than were written");
}

static void a_thp_is_queued_at_fault(struct kunit *test)
{
	struct mapped map;

	need_pmd(test);
	map_thp(test, &map);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	put_mapped(&map);
	zap_rest(&map);
	EXPECT_QUEUED(test, 0);
}

static void unmapping_a_part_marks_a_folio(struct kunit *test)
{
	unsigned int order = use_param(test);
	struct mapped map;

	map_folio(test, &map, order);
	zap(&map, map.addr, PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, folio_test_partially_mapped(map.folio));
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	/* And the rest of it piece by piece: still once. */
	zap(&map, map.addr + 2 * PAGE_SIZE, PAGE_SIZE);
	zap_half(&map);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	EXPECT_FREED_WHEN_PUT(test, &map);
}

static void unmapping_all_at_once_does_not_mark_a_folio(struct kunit *test)
{
	unsigned int order = use_param(test);
	struct mapped map;

	map_folio(test, &map, order);
	zap_rest(&map);
	KUNIT_EXPECT_FALSE(test, folio_mapped(map.folio));
	EXPECT_PARTIALLY_MAPPED(test, 0);
	put_mapped(&map);
	EXPECT_QUEUED(test, 0);
}

static void a_partially_mapped_thp_is_split(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	unsigned int order = use_param(test);
	unsigned long half;
	struct mapped map;

	map_folio(test, &map, order);
	half = map.size / PAGE_SIZE / 2;
	fill(test, &map, 2 * half);
	zap_half(&map);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	put_mapped(&map);

	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 1UL);
	/* The head page is still mapped, and not part of anything large. */
	KUNIT_EXPECT_FALSE(test, folio_test_large(map.folio));
	EXPECT_NOTHING_LEFT(test);
	expect_contents(test, &map, half, 2 * half);
	zap_rest(&map);
}

static void a_scan_says_how_many_it_has_split(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map[3];
	int i;

	ctx->sees = true;
	for (i = 0; i < 3; i++) {
		map_thp(test, &map[i]);
		zap_half(&map[i]);
	}
	/* One is referenced, and one that is not mapped does not split either. */
	put_mapped(&map[0]);
	put_mapped(&map[2]);
	new_queued(test, SMALL_ORDER, true);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 4), 2UL);
	EXPECT_QUEUED(test, 2);
	EXPECT_PARTIALLY_MAPPED(test, 2);
	put_mapped(&map[1]);
	for (i = 0; i < 3; i++)
		zap_rest(&map[i]);
	EXPECT_QUEUED(test, 1);
}

static void the_memory_of_an_unmapped_half_is_given_back(struct kunit *test)
{
#ifdef CONFIG_MEMCG
	struct ds_context *ctx = test->priv;
	unsigned long before, after;
	struct mapped map;

	use_owner(test, CHILD_MEMCG);
	map_thp(test, &map);
	fill(test, &map, LARGE_NR);
	zap_half(&map);
	put_mapped(&map);
	before = page_counter_read(&ctx->here.memcg->memory);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 1UL);
	after = page_counter_read(&ctx->here.memcg->memory);
	/* The memcg may have kept a few for the next to come. */
	KUNIT_EXPECT_LE(test, after + LARGE_NR / 2 - MEMCG_CHARGE_BATCH, before);
	zap_rest(&map);
#else
	kunit_skip(test, "no CONFIG_MEMCG");
#endif
}

static void an_underused_thp_is_split(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	long splits = vm_event(THP_UNDERUSED_SPLIT_PAGE);
	struct mapped map;

	use_param(test);
	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	fill(test, &map, 3);
	put_mapped(&map);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 1UL);
	KUNIT_EXPECT_FALSE(test, folio_test_large(map.folio));
	EXPECT_QUEUED(test, 0);
	if (IS_ENABLED(CONFIG_VM_EVENT_COUNTERS))
		KUNIT_EXPECT_EQ(test, vm_event(THP_UNDERUSED_SPLIT_PAGE), splits + 1);
	expect_contents(test, &map, 3, LARGE_NR);
	zap_rest(&map);
}

static void a_used_thp_is_not_split(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	fill(test, &map, LARGE_NR);
	scan_all(ctx, 1);
	KUNIT_EXPECT_EQ(test, folio_order(map.folio), (unsigned int)LARGE_ORDER);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), ctx->here.queued);
	EXPECT_QUEUED(test, 0);
	put_mapped(&map);
	zap_rest(&map);
}

/* A split that fails puts all back as it was. */
static void a_referenced_folio_is_put_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	unsigned int order = use_param(test);
	struct mapped map;
	long half;

	map_folio(test, &map, order);
	half = map.size / PAGE_SIZE / 2;
	fill(test, &map, half);
	zap_half(&map);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 0UL);
	KUNIT_EXPECT_EQ(test, folio_order(map.folio), order);
	KUNIT_EXPECT_EQ(test, (long)folio_mapcount(map.folio), half);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	expect_contents(test, &map, half, half);

	EXPECT_SPLIT_WHEN_PUT(test, &map);
	expect_contents(test, &map, half, half);
	zap_rest(&map);
}

static void an_underused_thp_is_put_back_while_referenced(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	/* The reference of map_thp() might as well be one of a migration's end. */
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 0UL);
	KUNIT_EXPECT_EQ(test, folio_order(map.folio), (unsigned int)LARGE_ORDER);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);

	put_mapped(&map);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 1UL);
	EXPECT_QUEUED(test, 0);
	zap_rest(&map);
}

/* Not read, so it is not found out that it is used. */
static void a_used_thp_is_not_looked_at_while_referenced(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;
	int looks;

	khugepaged_max_ptes_none = NONE_UNDERUSED;
	ctx->sees = true;
	map_thp(test, &map);
	looks = atomic_read(&ctx->visits[SPLIT_UNDERUSED]);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 0UL);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_UNDERUSED]), looks);
	EXPECT_QUEUED(test, 1);
	put_mapped(&map);
	scan_all(ctx, 1);
	EXPECT_QUEUED(test, 0);
	zap_rest(&map);
}

static long splits_tried(void)
{
	return mthp_stat(MTHP_STAT_SPLIT, -1) + mthp_stat(MTHP_STAT_SPLIT_FAILED, -1);
}

/* A scan of the one THP that is queued leaves it there, and does not touch it. */
static void expect_left_queued(struct kunit *test, struct mapped *map)
{
	long tried = splits_tried();
	int refs = folio_ref_count(map->folio), unlinked;
	struct ds_context *ctx = test->priv;

	ctx->sees = true;
	unlinked = atomic_read(&ctx->visits[SPLIT_UNLINK]);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 0UL);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_UNLINK]), unlinked);
	KUNIT_EXPECT_EQ(test, splits_tried(), tried);
	KUNIT_EXPECT_EQ(test, folio_ref_count(map->folio), refs);
	EXPECT_ON_QUEUE(test, map->folio);
	EXPECT_QUEUED(test, 1);
}

static void a_locked_thp_stays_queued(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	bool mark = use_mark(test);
	struct mapped map;

	need_empty_queue(test);
	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	if (mark)
		zap_half(&map);
	put_mapped(&map);
	folio_lock(map.folio);
	expect_left_queued(test, &map);
	folio_unlock(map.folio);
	EXPECT_PARTIALLY_MAPPED(test, mark);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 1UL);
	EXPECT_NOTHING_LEFT(test);
	zap_rest(&map);
}

static void a_partially_mapped_thp_stays_queued_while_referenced(struct kunit *test)
{
	struct mapped map;

	need_empty_queue(test);
	map_thp(test, &map);
	zap_half(&map);
	expect_left_queued(test, &map);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	EXPECT_SPLIT_WHEN_PUT(test, &map);
	zap_rest(&map);
}

/* What has a reference may still be used, and is to be dropped then. */
static void take_a_reference(struct kunit *test, enum deferred_split_point point,
			     struct folio *folio)
{
	struct ds_context *ctx = test->priv;

	if (point == SPLIT_FREEZE && !ctx->referenced) {
		folio_get(folio);
		ctx->referenced = folio;
	}
}

static void a_reference_that_comes_before_the_freeze_puts_a_thp_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	bool mark = use_mark(test);
	struct mapped map;

	need_empty_queue(test);
	map_thp(test, &map);
	fill(test, &map, 3);
	if (mark)
		zap_half(&map);
	put_mapped(&map);
	/* The split has looked at the count already, and unmapped everything. */
	ctx->look = take_a_reference;
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 0UL);
	ctx->look = NULL;
	KUNIT_ASSERT_PTR_EQ(test, ctx->referenced, map.folio);
	KUNIT_EXPECT_EQ(test, folio_order(map.folio), (unsigned int)LARGE_ORDER);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, mark);

	folio_put(ctx->referenced);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 1UL);
	EXPECT_NOTHING_LEFT(test);
	expect_contents(test, &map, 3, LARGE_NR / 2);
	zap_rest(&map);
}

static void a_split_that_is_refused_leaves_the_queue_alone(struct kunit *test)
{
	struct page *page;
	struct mapped map;

	map_thp(test, &map);
	zap_half(&map);
	page = &map.folio->page;
	folio_lock(map.folio);
	KUNIT_EXPECT_NE(test, split_huge_page_to_list_to_order(page, NULL, LARGE_ORDER), 0);
	/* Reclaim may be writing it out. */
	folio_test_set_writeback(map.folio);
	KUNIT_EXPECT_NE(test, split_huge_page_to_list_to_order(page, NULL, 0), 0);
	folio_test_clear_writeback(map.folio);
	folio_unlock(map.folio);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	EXPECT_SPLIT_WHEN_PUT(test, &map);
	zap_rest(&map);
}

static void a_thp_that_nobody_maps_is_put_back(struct kunit *test)
{
	struct mapped map;

	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	/* Only our reference is left, and its owners are not to be found any more. */
	zap_rest(&map);
	KUNIT_EXPECT_EQ(test, scan_all(test->priv, 1), 0UL);
	KUNIT_EXPECT_EQ(test, folio_order(map.folio), (unsigned int)LARGE_ORDER);
	EXPECT_QUEUED(test, 1);
	put_mapped(&map);
	EXPECT_NOTHING_LEFT(test);
}

static void a_thp_not_used_lately_is_split_too(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	map_thp(test, &map);
	fill(test, &map, LARGE_NR);
	put_mapped(&map);
	/* All of it: of a part, that would split it. */
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, map.base, LARGE_SIZE, MADV_COLD), 0);
	zap_half(&map);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 1UL);
	EXPECT_NOTHING_LEFT(test);
	expect_contents(test, &map, LARGE_NR / 2, LARGE_NR);
	zap_rest(&map);
}

static void map_huge_zero_folio(struct kunit *test, struct mapped *map)
{
	char c;

	need_pmd(test);
	map_area(test, map);
	map->size = HPAGE_PMD_SIZE;
	KUNIT_ASSERT_EQ(test, get_user(c, (char __user *)map->base), 0);
	map->folio = READ_ONCE(huge_zero_folio);
	if (!map->folio)
		kunit_skip(test, "use_zero_page is off");
}

static void the_huge_zero_folio_is_not_queued(struct kunit *test)
{
	struct mapped map;

	map_huge_zero_folio(test, &map);
	zap_half(&map);
	EXPECT_OFF_QUEUE(test, map.folio);
	EXPECT_NOTHING_LEFT(test);
	zap_rest(&map);
	EXPECT_QUEUED(test, 0);
}

#ifdef ZERO_FOLIO_BECOMES_A_THP
static void a_thp_in_place_of_the_huge_zero_folio_is_queued(struct kunit *test)
{
	struct mapped map;

	map_huge_zero_folio(test, &map);
	fault_in(test, &map);
	KUNIT_ASSERT_EQ(test, folio_order(map.folio), (unsigned int)LARGE_ORDER);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	put_mapped(&map);
	zap_rest(&map);
	EXPECT_QUEUED(test, 0);
}
#endif

/* Pinned for DMA: an underused one is dropped, a partially mapped one is not. */
static unsigned long scan_pinned(struct kunit *test, struct mapped *map)
{
	unsigned long ret;
	struct page *page;

	KUNIT_ASSERT_EQ(test, pin_user_pages_fast(map->addr, 1, FOLL_WRITE, &page), 1);
	ret = scan_all(test->priv, 1);
	unpin_user_page(page);
	KUNIT_EXPECT_EQ(test, folio_order(map->folio), (unsigned int)LARGE_ORDER);
	return ret;
}

static void an_underused_thp_is_dropped_while_pinned(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	need_empty_queue(test);
	khugepaged_max_ptes_none = 0;
	ctx->sees = true;
	map_thp(test, &map);
	KUNIT_EXPECT_EQ(test, scan_pinned(test, &map), scan_without_split(1, 0));
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 0);
	EXPECT_QUEUED(test, 0);
	put_mapped(&map);
	zap_rest(&map);
}

/* The same when the pin comes after the look. */
static void an_underused_thp_is_dropped_when_its_split_fails_by_a_pin(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	need_empty_queue(test);
	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	KUNIT_EXPECT_EQ(test, scan_pinned(test, &map), scan_without_split(1, 0));
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 1);
	EXPECT_QUEUED(test, 0);
	put_mapped(&map);
	zap_rest(&map);
}

static void a_partially_mapped_thp_is_put_back_while_pinned(struct kunit *test)
{
	struct mapped map;

	need_empty_queue(test);
	map_thp(test, &map);
	zap_half(&map);
	KUNIT_EXPECT_EQ(test, scan_pinned(test, &map), 0UL);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	EXPECT_FREED_WHEN_PUT(test, &map);
}

static void an_underused_thp_is_not_split_while_mlocked(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	/* As mlock() does, which a kernel thread cannot call. */
	folio_set_mlocked(map.folio);
	put_mapped(&map);
	expect_taken_and_dropped(test);
	KUNIT_EXPECT_EQ(test, folio_order(map.folio), (unsigned int)LARGE_ORDER);
	/* Its pages were not even looked at. */
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_UNDERUSED]), 0);
	EXPECT_QUEUED(test, 0);
	folio_clear_mlocked(map.folio);
	zap_rest(&map);
}

static void a_partially_mapped_thp_is_split_though_mlocked(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	map_thp(test, &map);
	zap_half(&map);
	folio_set_mlocked(map.folio);
	put_mapped(&map);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 1UL);
	folio_clear_mlocked(map.folio);
	KUNIT_EXPECT_FALSE(test, folio_test_large(map.folio));
	EXPECT_NOTHING_LEFT(test);
	zap_rest(&map);
}

static void a_split_by_somebody_else_ends_the_mark(struct kunit *test)
{
	struct mapped map;

	map_thp(test, &map);
	zap_half(&map);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	folio_lock(map.folio);
	KUNIT_EXPECT_EQ(test, split_huge_page_to_list_to_order(&map.folio->page, NULL, 0), 0);
	folio_unlock(map.folio);
	EXPECT_NOTHING_LEFT(test);
	put_mapped(&map);
	zap_rest(&map);
}

static void the_parts_of_a_split_are_queued_each_for_itself(struct kunit *test)
{
	struct mapped map;

	/* To an order that may be queued itself. */
	map_thp(test, &map);
	zap(&map, map.base + LARGE_SIZE - PAGE_SIZE, PAGE_SIZE);
	folio_lock(map.folio);
	KUNIT_ASSERT_EQ(test, split_huge_page_to_list_to_order(&map.folio->page, NULL, 4), 0);
	folio_unlock(map.folio);
	/* The last of them is not mapped completely, the others are. */
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	EXPECT_OFF_QUEUE(test, map.folio);
	zap(&map, map.base, PAGE_SIZE);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 2);
	EXPECT_PARTIALLY_MAPPED(test, 2);
	EXPECT_FREED_WHEN_PUT(test, &map);
}

/* Migration. */

/* Replace all mappings of the THP with migration entries, and put them back. */
static void migration_starts(struct kunit *test, struct mapped *map)
{
	folio_lock(map->folio);
	try_to_migrate(map->folio, thp_migration_supported() ? 0 : TTU_SPLIT_HUGE_PMD);
	KUNIT_EXPECT_FALSE(test, folio_mapped(map->folio));
}

static void migration_ends(struct kunit *test, struct mapped *map)
{
	remove_migration_ptes(map->folio, map->folio, 0);
	KUNIT_EXPECT_TRUE(test, folio_mapped(map->folio));
	folio_unlock(map->folio);
}

static void a_migrated_thp_is_not_marked(struct kunit *test)
{
	struct mapped map;

	map_thp(test, &map);
	EXPECT_QUEUED(test, 1);
	/* By its PMD, and by PTEs, which go one by one. */
	migration_starts(test, &map);
	migration_ends(test, &map);
	EXPECT_PARTIALLY_MAPPED(test, 0);

	mmap_read_lock(current->mm);
	split_pmd_of(map.vma, map.addr);
	mmap_read_unlock(current->mm);
	migration_starts(test, &map);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	migration_ends(test, &map);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	EXPECT_QUEUED(test, 1);
	EXPECT_FREED_WHEN_PUT(test, &map);
}

static void a_half_unmapped_while_migrated_is_seen(struct kunit *test)
{
	struct mapped map;

	map_thp(test, &map);
	migration_starts(test, &map);
	/* There are only migration entries to unmap. */
	zap_half(&map);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	migration_ends(test, &map);
	KUNIT_EXPECT_EQ(test, folio_mapcount(map.folio), LARGE_NR / 2);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);

	EXPECT_SPLIT_WHEN_PUT(test, &map);
	zap_rest(&map);
}

static void all_unmapped_while_migrated_is_not_marked(struct kunit *test)
{
	struct mapped map;

	map_thp(test, &map);
	migration_starts(test, &map);
	zap_rest(&map);
	remove_migration_ptes(map.folio, map.folio, 0);
	KUNIT_EXPECT_FALSE(test, folio_mapped(map.folio));
	folio_unlock(map.folio);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	put_mapped(&map);
	EXPECT_QUEUED(test, 0);
}

static void a_pinned_thp_stays_mapped_and_queued(struct kunit *test)
{
	struct page *page;
	struct mapped map;

	map_thp(test, &map);
	fill(test, &map, LARGE_NR);
	KUNIT_ASSERT_EQ(test, pin_user_pages_fast(map.addr, 1, FOLL_WRITE, &page), 1);
	folio_lock(map.folio);
	/* Neither its PMD nor, when that is split, its PTEs may go. */
	if (thp_migration_supported())
		try_to_migrate(map.folio, 0);
	KUNIT_EXPECT_TRUE(test, folio_mapped(map.folio));
	try_to_migrate(map.folio, folio_test_pmd_mappable(map.folio) ? TTU_SPLIT_HUGE_PMD : 0);
	KUNIT_EXPECT_TRUE(test, folio_mapped(map.folio));
	remove_migration_ptes(map.folio, map.folio, 0);
	folio_unlock(map.folio);
	unpin_user_page(page);
	KUNIT_EXPECT_EQ(test, folio_mapcount(map.folio), LARGE_NR);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	expect_contents(test, &map, LARGE_NR, LARGE_NR);
	put_mapped(&map);
	zap_rest(&map);
	EXPECT_QUEUED(test, 0);
}

/* THPs of files: they have no place on any queue. */

static void put_mount(void *mnt)
{
	mntput(mnt);
}

static void put_file(void *file)
{
	fput(file);
}

/* A file on a tmpfs of its own, with a THP that is mapped. */
static struct file *map_file_thp(struct kunit *test, struct mapped *map)
{
	struct file_system_type *type = get_fs_type("tmpfs");
	char options[] = "huge=always";
	struct vfsmount *mnt;
	struct file *file;

	need_pmd(test);
	if (!type || !IS_ENABLED(CONFIG_TMPFS))
		kunit_skip(test, "no CONFIG_TMPFS");
	mnt = vfs_kern_mount(type, SB_KERNMOUNT, "tmpfs", options);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, mnt);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, put_mount, mnt), 0);
	file = new_file_on(mnt, HPAGE_PMD_SIZE);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, put_file, file), 0);
	map->base = kunit_vm_mmap(test, file, 0, HPAGE_PMD_SIZE, PROT_READ | PROT_WRITE,
				  MAP_SHARED, 0);
	KUNIT_ASSERT_NE(test, map->base, 0UL);
	map->addr = map->base;
	map->size = HPAGE_PMD_SIZE;
	map->vma = vma_lookup(current->mm, map->addr);
	fault_in(test, map);
	if (folio_order(map->folio) != PMD_ORDER) {
		put_mapped(map);
		kunit_skip(test, "no THP is to be had for a file");
	}
	fill(test, map, HPAGE_PMD_NR);
	return file;
}

static void a_thp_of_a_file_is_split_without_the_queue(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	map_file_thp(test, &map);
	folio_test_clear_dirty(map.folio);
	folio_clear_referenced(map.folio);
	zap_half(&map);
	/* The PMD knew. */
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(map.folio));
	EXPECT_NOTHING_LEFT(test);

	folio_lock(map.folio);
	/* Not with a reference too many, from the beginning or just before the freeze. */
	folio_get(map.folio);
	KUNIT_EXPECT_NE(test, split_huge_page_to_list_to_order(&map.folio->page, NULL, 0), 0);
	folio_put(map.folio);
	ctx->look = take_a_reference;
	KUNIT_EXPECT_NE(test, split_huge_page_to_list_to_order(&map.folio->page, NULL, 0), 0);
	ctx->look = NULL;
	KUNIT_ASSERT_PTR_EQ(test, ctx->referenced, map.folio);
	folio_put(ctx->referenced);
	KUNIT_EXPECT_EQ(test, split_huge_page_to_list_to_order(&map.folio->page, NULL, 0), 0);
	folio_unlock(map.folio);
	KUNIT_EXPECT_FALSE(test, folio_test_large(map.folio));
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_UNLINK]), 0);
	EXPECT_QUEUED(test, 0);
	expect_contents(test, &map, HPAGE_PMD_NR, HPAGE_PMD_NR);
	put_mapped(&map);
	zap_rest(&map);
}

static void a_thp_of_a_file_is_truncated_without_the_queue(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;
	struct file *file;

	file = map_file_thp(test, &map);
	put_mapped(&map);
	/* To half of it; what is left is split, and the rest does not come back. */
	KUNIT_EXPECT_EQ(test, (long)vfs_truncate(&file->f_path, HPAGE_PMD_SIZE / 2), 0L);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_UNLINK]), 0);
	EXPECT_NOTHING_LEFT(test);
	expect_contents(test, &map, HPAGE_PMD_NR / 2, HPAGE_PMD_NR / 2);
	zap_rest(&map);
}

static void a_thp_of_a_file_is_migrated_without_the_queue(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	map_file_thp(test, &map);
	migration_starts(test, &map);
	/* The entry of the other half goes with it: a file's come back by faults. */
	zap_half(&map);
	remove_migration_ptes(map.folio, map.folio, 0);
	folio_unlock(map.folio);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_QUEUE]), 0);
	EXPECT_NOTHING_LEFT(test);
	expect_contents(test, &map, HPAGE_PMD_NR, HPAGE_PMD_NR);
	put_mapped(&map);
	zap_rest(&map);
}

static struct folio *new_destination(struct folio *src, unsigned long private)
{
	struct ds_context *ctx = (struct ds_context *)private;
	struct folio *dst = __folio_alloc_node(GFP_HIGHUSER_MOVABLE | __GFP_COMP,
					       folio_order(src), folio_nid(src));

	if (folio_test_large(src))
		ctx->destination = dst;
	return dst;
}

/* Move a folio elsewhere, as move_pages() does. Returns how many did not move. */
static unsigned long do_migrate(struct ds_thread *thread)
{
	struct folio *folio = thread->folio;
	LIST_HEAD(list);
	int ret;

	lru_add_drain();
	if (!folio_isolate_lru(folio))
		return 1000;
	node_stat_mod_folio(folio, NR_ISOLATED_ANON, folio_nr_pages(folio));
	list_add(&folio->lru, &list);
	ret = migrate_pages(&list, new_destination, NULL, (unsigned long)thread->test->priv,
			    MIGRATE_SYNC, MR_SYSCALL, NULL);
	putback_movable_pages(&list);
	return ret;
}

/* In this task, with nobody meanwhile. The destination becomes the folio. */
static unsigned long migrate_now(struct kunit *test, struct mapped *map)
{
	struct ds_thread thread = { .test = test, .folio = map->folio };
	struct ds_context *ctx = test->priv;
	unsigned long ret = do_migrate(&thread);

	if (!ret)
		map->folio = ctx->destination;
	return ret;
}

static void the_destination_takes_the_place_of_the_source(struct kunit *test)
{
	struct mapped map;
	struct folio *src;

	use_param(test);
	map_thp(test, &map);
	fill(test, &map, LARGE_NR);
	src = map.folio;
	put_mapped(&map);
	EXPECT_QUEUED(test, 1);
	KUNIT_ASSERT_EQ(test, migrate_now(test, &map), 0UL);
	KUNIT_ASSERT_PTR_NE(test, map.folio, src);
	EXPECT_ON_QUEUE(test, map.folio);
	KUNIT_EXPECT_FALSE(test, folio_test_partially_mapped(map.folio));
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	expect_contents(test, &map, LARGE_NR, LARGE_NR);
	zap_rest(&map);
	EXPECT_QUEUED(test, 0);
}

static void the_destination_of_what_is_not_queued_is_not_queued(struct kunit *test)
{
	struct mapped map;

	khugepaged_max_ptes_none = NONE_UNDERUSED;
	map_thp(test, &map);
	put_mapped(&map);
	scan_all(test->priv, 1);
	EXPECT_QUEUED(test, 0);
	KUNIT_ASSERT_EQ(test, migrate_now(test, &map), 0UL);
	EXPECT_OFF_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 0);
	zap_rest(&map);
}

static void migration_splits_a_partially_mapped_thp(struct kunit *test)
{
	struct mapped map;

	map_thp(test, &map);
	fill(test, &map, LARGE_NR / 2);
	zap_half(&map);
	put_mapped(&map);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	migrate_now(test, &map);
	EXPECT_NOTHING_LEFT(test);
	expect_contents(test, &map, LARGE_NR / 2, LARGE_NR);
	zap_rest(&map);
}

static void a_migration_that_fails_leaves_the_source_queued(struct kunit *test)
{
	struct mapped map;
	int mapcount;

	map_thp(test, &map);
	fill(test, &map, LARGE_NR);
	mapcount = folio_mapcount(map.folio);
	/* Our reference is one too many. */
	KUNIT_EXPECT_NE(test, migrate_now(test, &map), 0UL);
	KUNIT_EXPECT_EQ(test, folio_mapcount(map.folio), mapcount);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	expect_contents(test, &map, LARGE_NR, LARGE_NR);
	put_mapped(&map);
	zap_rest(&map);
	EXPECT_QUEUED(test, 0);
}

/*
 * From here on: two at a time, in the bad order. One is held, the other does what it
 * must not do just then, or must be kept from.
 */

static void a_held_folio_is_not_queued_nor_counted(struct kunit *test)
{
	struct folio *folio = new_queued(test, SMALL_ORDER, use_mark(test));
	bool mark = folio_test_partially_mapped(folio);
	struct ds_thread *scan;
	struct ds_hold *hold;

	need_two_cpus(test);
	scan = hold_in_scan(test, folio, &hold);
	EXPECT_OFF_QUEUE(test, folio);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 2);
	EXPECT_QUEUED(test, 0);
	EXPECT_PARTIALLY_MAPPED(test, mark);
	let_go(test, scan, hold);
	expect_put_back(test, folio, mark);
}

static void a_held_folio_can_be_freed(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *folio = new_queued(test, SMALL_ORDER, use_mark(test));
	struct ds_thread *scan;
	struct ds_hold *hold;

	need_two_cpus(test);
	scan = hold_in_scan(test, folio, &hold);
	/* The scan's reference is the last one now. */
	ctx->nr--;
	folio_put(folio);
	let_go(test, scan, hold);
	EXPECT_NOTHING_LEFT(test);
}

static void a_held_thp_can_be_unmapped_and_freed(struct kunit *test)
{
	bool mark = use_mark(test);
	struct ds_thread *scan;
	struct ds_hold *hold;
	struct mapped map;

	need_two_cpus(test);
	map_thp(test, &map);
	if (mark)
		zap_half(&map);
	scan = hold_in_scan(test, map.folio, &hold);
	zap_rest(&map);
	put_mapped(&map);
	let_go(test, scan, hold);
	EXPECT_NOTHING_LEFT(test);
}

/* B22 */
static void a_held_folio_unmapped_meanwhile_is_queued_once(struct kunit *test)
{
	struct ds_thread *scan;
	struct ds_hold *hold;
	struct mapped map;

	need_two_cpus(test);
	/* Queued at fault; all of it is zero, so it is underused, so it is split. */
	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);

	scan = hold_in_scan(test, map.folio, &hold);
	zap_half(&map);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	/* We have a reference: the split fails, and the scan puts it back, or not. */
	let_go(test, scan, hold);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);

	EXPECT_SPLIT_WHEN_PUT(test, &map);
	zap_rest(&map);
}

static void a_held_folio_unmapped_meanwhile_is_split(struct kunit *test)
{
	struct ds_thread *scan;
	struct ds_hold *hold;
	struct mapped map;

	need_two_cpus(test);
	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	scan = hold_in_scan(test, map.folio, &hold);
	zap_half(&map);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	/* On the queue again, and nobody but the scan has a reference: it splits. */
	put_mapped(&map);
	let_go(test, scan, hold);
	EXPECT_NOTHING_LEFT(test);
	zap_rest(&map);
}

static void a_thp_unmapped_while_it_is_looked_at_is_not_lost(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct ds_thread *scan;
	struct ds_hold *hold;
	struct mapped map;

	need_two_cpus(test);
	khugepaged_max_ptes_none = NONE_UNDERUSED;
	map_thp(test, &map);
	hold = hold_at(test, SPLIT_UNDERUSED, map.folio);
	scan = start_scan(test, ctx->here.queued + 1);
	wait_until_held(test, hold);
	zap_half(&map);
	EXPECT_ON_QUEUE(test, map.folio);
	let_go(test, scan, hold);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	put_mapped(&map);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 1), 1UL);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	zap_rest(&map);
}

/*
 * A scan takes a THP off the queue that it will not put back, and is held at that
 * while half of it is unmapped. With the lock held, that has to wait.
 */
static void unmap_at_unlink(struct kunit *test, bool in_two_steps)
{
	struct ds_context *ctx = test->priv;
	struct split_queue queue;
	struct ds_thread *scan;
	struct ds_hold *hold;
	struct mapped map;

	need_two_cpus(test);
	khugepaged_max_ptes_none = NONE_UNDERUSED;
	map_thp(test, &map);
	hold = hold_at(test, SPLIT_UNLINK, map.folio);
	KUNIT_ASSERT_TRUE(test, find_split_queue(ctx->here.memcg, ctx->here.nid, &queue));
	hold->lock = queue.lock;
	hold->in_two_steps = in_two_steps;
	scan = start_scan(test, ctx->here.queued + 1);
	wait_until_held(test, hold);
	zap_half(&map);
	let_go(test, scan, hold);
	if (hold->added)
		mend_queue_count(&ctx->here);
	KUNIT_EXPECT_TRUE_MSG(test, hold->blocked, "the unmap did not wait for the lock");
	KUNIT_EXPECT_FALSE_MSG(test, hold->added, "queued between the two stores: corruption");
	KUNIT_EXPECT_TRUE(test, folio_test_partially_mapped(map.folio));
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	EXPECT_SPLIT_WHEN_PUT(test, &map);
	zap_rest(&map);
}

/* B46 */
static void a_thp_unmapped_when_a_scan_lets_go_of_it_is_not_lost(struct kunit *test)
{
	unmap_at_unlink(test, false);
}

/* B48 */
static void a_thp_is_not_queued_between_the_stores_of_list_del_init(struct kunit *test)
{
	unmap_at_unlink(test, true);
}

/* B39 */
static void a_folio_that_migration_has_frozen_is_left_alone(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct ds_thread *migration;
	struct ds_hold *hold;
	struct mapped map;

	need_two_cpus(test);
	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	migration = new_thread(test, do_migrate);
	migration->folio = map.folio;
	put_mapped(&map);
	hold = hold_at(test, SPLIT_FROZEN, map.folio);
	start(test, migration);
	wait_until_held(test, hold);
	KUNIT_EXPECT_EQ(test, folio_ref_count(map.folio), 0);
	scan_all(ctx, 1);
	EXPECT_ON_QUEUE(test, map.folio);
	EXPECT_QUEUED(test, 1);
	let_go(test, migration, hold);
	KUNIT_ASSERT_NOT_NULL(test, ctx->destination);
	EXPECT_ON_QUEUE(test, ctx->destination);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	zap_rest(&map);
	EXPECT_QUEUED(test, 0);
}

/* B39, when it is being freed indeed */
static void a_folio_that_is_being_freed_is_left_alone(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct ds_thread *put;
	struct ds_hold *hold;

	need_two_cpus(test);
	put = new_thread(test, do_put);
	put->folio = new_queued(test, SMALL_ORDER, true);
	ctx->nr--;
	hold = hold_at(test, SPLIT_FROZEN, put->folio);
	start(test, put);
	wait_until_held(test, hold);
	scan_all(ctx, 1);
	EXPECT_ON_QUEUE(test, put->folio);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	let_go(test, put, hold);
	EXPECT_NOTHING_LEFT(test);
}

/* B49 */
static void migration_sees_that_a_scan_has_put_the_source_back(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct ds_hold *in_scan, *in_migration;
	struct ds_thread *scan, *migration;
	struct mapped map;

	need_two_cpus(test);
	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	migration = new_thread(test, do_migrate);
	migration->folio = map.folio;
	put_mapped(&map);
	/* The scan has it off the queue ... */
	in_scan = hold_at(test, SPLIT_UNDERUSED, map.folio);
	scan = start_scan(test, ctx->here.queued + 1);
	wait_until_held(test, in_scan);
	EXPECT_QUEUED(test, 0);
	/* ... migration begins, and locks it ... */
	in_migration = hold_at(test, SPLIT_MIGRATE, map.folio);
	start(test, migration);
	wait_until_held(test, in_migration);
	/* ... so the scan cannot, and puts it back ... */
	let_go(test, scan, in_scan);
	EXPECT_QUEUED(test, 1);
	/* ... and migration moves it. */
	let_go(test, migration, in_migration);
	KUNIT_EXPECT_GT(test, atomic_read(&ctx->visits[SPLIT_FROZEN]), 0);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 0);
	KUNIT_EXPECT_EQ_MSG(test, scan_all(ctx, 1), 1UL, "the destination is not split");
	expect_contents(test, &map, 0, LARGE_NR);
	EXPECT_QUEUED(test, 0);
	zap_rest(&map);
}

static void what_a_scan_holds_does_not_migrate(struct kunit *test)
{
	struct ds_thread *scan;
	struct ds_hold *hold;
	struct mapped map;

	need_two_cpus(test);
	khugepaged_max_ptes_none = 0;
	map_thp(test, &map);
	put_mapped(&map);
	scan = hold_in_scan(test, map.folio, &hold);
	/* Not without its reference. And so it is whole, and in its place, when it is let go. */
	KUNIT_EXPECT_NE(test, migrate_now(test, &map), 0UL);
	EXPECT_NOTHING_LEFT(test);
	let_go(test, scan, hold);
	KUNIT_EXPECT_FALSE(test, folio_test_large(map.folio));
	EXPECT_QUEUED(test, 0);
	zap_rest(&map);
}

static void migration_tries_to_split_what_a_scan_holds(struct kunit *test)
{
	struct ds_thread *scan;
	struct ds_hold *hold;
	struct mapped map;
	long tried;

	need_two_cpus(test);
	map_thp(test, &map);
	fill(test, &map, LARGE_NR / 2);
	zap_half(&map);
	put_mapped(&map);
	scan = hold_in_scan(test, map.folio, &hold);
	tried = splits_tried();
	/* It is marked, and on no list. */
	KUNIT_EXPECT_NE(test, migrate_now(test, &map), 0UL);
	KUNIT_EXPECT_GT(test, splits_tried(), tried);
	let_go(test, scan, hold);
	EXPECT_NOTHING_LEFT(test);
	expect_contents(test, &map, LARGE_NR / 2, LARGE_NR);
	zap_rest(&map);
}

static void two_scans_do_not_share_a_folio(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	bool mark = use_mark(test);
	struct ds_thread *scan;
	struct ds_hold *hold;
	int visits;

	need_two_cpus(test);
	need_empty_queue(test);
	new_locked(test, SMALL_ORDER, mark);
	new_locked(test, SMALL_ORDER, mark);
	scan = hold_in_scan(test, ctx->folios[0], &hold);
	visits = atomic_read(&ctx->visits[SPLIT_TRYLOCK]);
	/* All is held, nothing is queued, nothing was split. */
	KUNIT_EXPECT_EQ(test, queue_scan(ctx, 100), SHRINK_STOP);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), visits);
	KUNIT_EXPECT_EQ(test, folio_ref_count(ctx->folios[1]), 2);
	let_go(test, scan, hold);
	EXPECT_QUEUED(test, 2);
}

static void a_folio_queued_behind_a_scan_is_not_held(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct ds_thread *scan;
	struct ds_hold *hold;
	struct folio *late;

	need_two_cpus(test);
	need_empty_queue(test);
	new_locked(test, SMALL_ORDER, true);
	scan = hold_in_scan(test, ctx->folios[0], &hold);
	late = new_locked(test, SMALL_ORDER, true);
	EXPECT_QUEUED(test, 1);
	let_go(test, scan, hold);
	KUNIT_EXPECT_EQ(test, folio_ref_count(late), 1);
	EXPECT_QUEUED(test, 2);
	expect_order(test, (const int []){ 1, 0 }, 2);
}

/* Memcgs. */

#ifndef SPLIT_QUEUE_GOES_TO_PARENT
/*
 * Charge moving. It charges the one memcg and uncharges the other; here folios are
 * exchanged, which comes to the same.
 */
static void give_to(struct kunit *test, struct folio *folio, const struct ds_place *to)
{
	bool locked = folio_test_locked(folio);

	if (!locked)
		folio_lock(folio);
#ifdef give_to_memcg
	give_to_memcg(folio, to->memcg);
#else
	kunit_skip(test, "this kernel does not move a folio from queue to queue");
#endif
	if (!locked)
		folio_unlock(folio);
}

static void a_queued_folio_moves_to_the_queue_of_its_new_memcg(struct kunit *test)
{
	struct ds_place other = owners_place(test, OTHER_MEMCG);
	bool mark = use_mark(test);
	struct ds_context *ctx = test->priv;
	struct folio *folio, *not_queued;

	use_owner(test, CHILD_MEMCG);
	folio = new_queued(test, SMALL_ORDER, mark);
	not_queued = new_folio_on(test, &other, SMALL_ORDER);
	give_to(test, folio, &other);
	give_to(test, not_queued, &ctx->here);
	EXPECT_QUEUED(test, 0);
	EXPECT_QUEUED_AT(test, &other, 1);
	EXPECT_PARTIALLY_MAPPED(test, mark);
	EXPECT_OFF_QUEUE(test, not_queued);
	put_folios(ctx);
	EXPECT_QUEUED(test, 0);
	EXPECT_QUEUED_AT(test, &other, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void a_held_folio_is_put_back_on_the_queue_of_its_new_memcg(struct kunit *test)
{
	struct ds_place other = owners_place(test, OTHER_MEMCG);
	bool mark = use_mark(test);
	struct ds_context *ctx = test->priv;
	struct folio *folio, *exchange;
	struct ds_thread *scan;
	struct ds_hold *hold;

	need_two_cpus(test);
	use_owner(test, CHILD_MEMCG);
	folio = new_locked(test, SMALL_ORDER, mark);
	exchange = new_folio_on(test, &other, SMALL_ORDER);
	scan = hold_in_scan(test, folio, &hold);
	give_to(test, folio, &other);
	give_to(test, exchange, &ctx->here);
	let_go(test, scan, hold);
	EXPECT_QUEUED(test, 0);
	EXPECT_QUEUED_AT(test, &other, 1);
	put_folios(ctx);
	EXPECT_QUEUED_AT(test, &other, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}

static void a_batch_is_put_back_on_more_than_one_queue(struct kunit *test)
{
	struct ds_place other = owners_place(test, OTHER_MEMCG);
	struct ds_context *ctx = test->priv;
	struct ds_thread *scan;
	struct ds_hold *hold;
	int i;

	need_two_cpus(test);
	use_owner(test, CHILD_MEMCG);
	need_empty_queue(test);
	for (i = 0; i < 6; i++)
		new_locked(test, SMALL_ORDER, true);
	for (i = 0; i < 3; i++)
		new_folio_on(test, &other, SMALL_ORDER);
	scan = hold_in_scan(test, ctx->folios[0], &hold);
	for (i = 0; i < 3; i++) {
		give_to(test, ctx->folios[2 * i], &other);
		give_to(test, ctx->folios[6 + i], &ctx->here);
	}
	let_go(test, scan, hold);
	expect_order(test, (const int []){ 1, 3, 5 }, 3);
	EXPECT_QUEUED(test, 3);
	EXPECT_QUEUED_AT(test, &other, 3);
	EXPECT_PARTIALLY_MAPPED(test, 6);
	put_folios(ctx);
	EXPECT_QUEUED(test, 0);
	EXPECT_QUEUED_AT(test, &other, 0);
}
#endif /* !SPLIT_QUEUE_GOES_TO_PARENT */

#ifdef CONFIG_MEMCG
/* Files and directories of cgroup v2, which nobody need have mounted. */

static int cgroup_write(const char *name, const char *text)
{
	struct path root = { .mnt = cgroup_mnt, .dentry = cgroup_mnt->mnt_root };
	struct file *file = file_open_root(&root, name, O_WRONLY, 0);
	loff_t pos = 0;
	ssize_t ret;

	if (IS_ERR(file))
		return PTR_ERR(file);
	ret = kernel_write(file, text, strlen(text), &pos);
	__fput_sync(file);
	return min(ret, 0);
}

static int cgroup_make(const char *name, bool make)
{
	return change_directory(cgroup_mnt->mnt_root, name, make);
}

/* With a reference; NULL if the memory controller does not know it. */
static struct mem_cgroup *memcg_of(const char *path)
{
	struct cgroup *cgroup = cgroup_get_from_path(path);
	struct cgroup_subsys_state *css;

	if (IS_ERR(cgroup))
		return NULL;
	css = cgroup_get_e_css(cgroup, &memory_cgrp_subsys);
	cgroup_put(cgroup);
	if (css == &root_mem_cgroup->css) {
		css_put(css);
		return NULL;
	}
	return mem_cgroup_from_css(css);
}

static void remove_cgroup(const char *name)
{
	int tries;

	/* A task that was in there may not be gone all the way yet. */
	for (tries = 0; tries < 100 && cgroup_make(name, false) == -EBUSY; tries++)
		msleep(20);
}

static const char * const child_names[] = { "child", "other" };

/* Best effort: tests that need the cgroups skip without. */
static int ds_suite_init(struct kunit_suite *suite)
{
	struct file_system_type *type = get_fs_type("cgroup2");
	struct vfsmount *mnt;
	struct cgroup *root;
	char path[16];
	int i;

	if (!type || !memcg_is_on())
		return 0;
	mnt = vfs_kern_mount(type, 0, "cgroup2", NULL);
	if (IS_ERR(mnt))
		return 0;
	cgroup_mnt = mnt;
	root = cgroup_get_from_path("/");
	if (!IS_ERR(root)) {
		memory_was_enabled = root->subtree_control & (1 << memory_cgrp_id);
		cgroup_put(root);
	}
	cgroup_write("cgroup.subtree_control", "+memory");
	for (i = 0; i < ARRAY_SIZE(children); i++) {
		cgroup_make(child_names[i], true);
		snprintf(path, sizeof(path), "/%s", child_names[i]);
		children[i] = memcg_of(path);
	}
	return 0;
}

static void ds_suite_exit(struct kunit_suite *suite)
{
	int i;

	if (!cgroup_mnt)
		return;
	for (i = 0; i < ARRAY_SIZE(children); i++) {
		if (children[i])
			css_put(&children[i]->css);
		children[i] = NULL;
		remove_cgroup(child_names[i]);
	}
	if (!memory_was_enabled)
		cgroup_write("cgroup.subtree_control", "-memory");
	mntput(cgroup_mnt);
	cgroup_mnt = NULL;
}

static void put_memcg(void *memcg)
{
	/* It is there still if the test was given up. */
	remove_cgroup("mortal");
	css_put(&((struct mem_cgroup *)memcg)->css);
}

/* A cgroup of the test's own, that it may remove. */
static void use_mortal_memcg(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mem_cgroup *memcg;

	/* Skips if there are none. */
	owners_place(test, CHILD_MEMCG);
	KUNIT_ASSERT_EQ(test, cgroup_make("mortal", true), 0);
	memcg = memcg_of("/mortal");
	KUNIT_ASSERT_NOT_NULL(test, memcg);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, put_memcg, memcg), 0);
	ctx->here = place_of(ctx, memcg, ctx->here.nid);
}

/* From here on the place of the test is that of who has the queue now. */
static void kill_memcg(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mem_cgroup *heir = split_queue_heir(ctx->here.memcg);
	struct ds_place place = ctx->here;
	int tries;

	if (heir != place.memcg)
		place = place_of(ctx, heir, place.nid);
	KUNIT_ASSERT_EQ(test, cgroup_make("mortal", false), 0);
	for (tries = 0; tries < 1000 && mem_cgroup_online(ctx->here.memcg); tries++)
		usleep_range(1000, 2000);
	KUNIT_ASSERT_FALSE(test, mem_cgroup_online(ctx->here.memcg));
	ctx->here = place;
}
#else
static int ds_suite_init(struct kunit_suite *suite)
{
	return 0;
}

static void ds_suite_exit(struct kunit_suite *suite)
{
}

static void use_mortal_memcg(struct kunit *test)
{
	kunit_skip(test, "no CONFIG_MEMCG");
}

static void kill_memcg(struct kunit *test)
{
}
#endif

static void a_memcg_goes_offline(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct ds_place before;

	use_mortal_memcg(test);
	new_locked(test, SMALL_ORDER, true);
	new_queued(test, LARGE_ORDER, false);
	before = ctx->here;
	EXPECT_QUEUED_AT(test, &before, 2);
	kill_memcg(test);
	EXPECT_QUEUED(test, 2);
	EXPECT_QUEUED_AT(test, &before, ctx->here.memcg == before.memcg ? 2 : 0);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	put_folios(ctx);
	EXPECT_NOTHING_LEFT(test);
}

#ifdef SPLIT_QUEUE_GOES_TO_PARENT
static void a_memcg_that_goes_offline_gives_its_queue_to_its_parent(struct kunit *test)
{
	a_memcg_goes_offline(test);
}

static void a_memcg_that_goes_offline_gives_up_the_queue_of_another_node(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct ds_place there, heirs;
	int nid;

	use_mortal_memcg(test);
	nid = next_node_in(ctx->here.nid, node_states[N_MEMORY]);
	if (nid == ctx->here.nid)
		kunit_skip(test, "there is only one node");
	there = place_of(ctx, ctx->here.memcg, nid);
	heirs = place_of(ctx, split_queue_heir(ctx->here.memcg), nid);
	deferred_split_folio(new_folio_on(test, &there, SMALL_ORDER), true);
	EXPECT_QUEUED_AT(test, &there, 1);
	kill_memcg(test);
	EXPECT_QUEUED_AT(test, &heirs, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
	put_folios(ctx);
	EXPECT_QUEUED_AT(test, &heirs, 0);
	EXPECT_PARTIALLY_MAPPED(test, 0);
}
#else
static void a_memcg_that_goes_offline_keeps_its_queue(struct kunit *test)
{
	a_memcg_goes_offline(test);
}
#endif

static void a_memcg_that_is_offline_can_be_scanned(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct folio *locked, *used;

	use_mortal_memcg(test);
	khugepaged_max_ptes_none = NONE_UNDERUSED;
	locked = new_locked(test, SMALL_ORDER, true);
	used = new_queued(test, SMALL_ORDER, false);
	kill_memcg(test);
	KUNIT_EXPECT_EQ(test, scan_all(ctx, 2), 0UL);
	EXPECT_ON_QUEUE(test, locked);
	EXPECT_OFF_QUEUE(test, used);
	EXPECT_QUEUED(test, 1);
}

static void what_a_dead_memcg_owns_can_still_be_queued(struct kunit *test)
{
	struct folio *folio;

	use_mortal_memcg(test);
	folio = new_folio(test, SMALL_ORDER);
	kill_memcg(test);
	deferred_split_folio(folio, true);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}

static void reclaim_comes_to_what_a_dead_memcg_owns(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	use_mortal_memcg(test);
	new_locked(test, SMALL_ORDER, true);
	kill_memcg(test);
	shrink_slab(GFP_KERNEL, ctx->here.nid, ctx->here.memcg, 0);
	KUNIT_EXPECT_GT(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 0);
	EXPECT_QUEUED(test, 1);
}

#ifdef SPLIT_QUEUE_IS_ALLOCATED
static void kill_memcg_now(struct kunit *test, enum deferred_split_point point,
			   struct folio *folio)
{
	struct ds_context *ctx = test->priv;

	if (point != SPLIT_SUBLIST)
		return;
	ctx->look = NULL;
	kill_memcg(test);
}

static void a_folio_whose_memcg_dies_before_it_has_a_queue_can_be_queued(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	use_mortal_memcg(test);
	ctx->look = kill_memcg_now;
	new_queued(test, SMALL_ORDER, true);
	KUNIT_EXPECT_NULL(test, ctx->look);
	EXPECT_QUEUED(test, 1);
	EXPECT_PARTIALLY_MAPPED(test, 1);
}
#endif

static void a_memcg_that_goes_offline_gets_held_folios_back(struct kunit *test)
{
	struct ds_thread *scan;
	struct ds_hold *hold;
	struct folio *folio;

	need_two_cpus(test);
	use_mortal_memcg(test);
	folio = new_locked(test, SMALL_ORDER, true);
	scan = hold_in_scan(test, folio, &hold);
	kill_memcg(test);
	let_go(test, scan, hold);
	expect_put_back(test, folio, true);
}

static void reclaim_of_a_memcg_splits_what_it_has_queued(struct kunit *test)
{
	struct ds_context *ctx = test->priv;
	struct mapped map;

	use_owner(test, CHILD_MEMCG);
	need_empty_queue(test);
	map_thp(test, &map);
	zap_half(&map);
	put_mapped(&map);
	/* The memcg's bit for the shrinker says that there is something. */
	shrink_slab(GFP_KERNEL, folio_nid(map.folio), ctx->here.memcg, 0);
	KUNIT_EXPECT_FALSE(test, folio_test_large(map.folio));
	EXPECT_NOTHING_LEFT(test);
	zap_rest(&map);
}

static void reclaim_of_a_memcg_leaves_other_queues_alone(struct kunit *test)
{
	struct ds_place other = owners_place(test, OTHER_MEMCG);
	struct ds_context *ctx = test->priv;

	use_owner(test, CHILD_MEMCG);
	new_locked(test, SMALL_ORDER, true);
	shrink_slab(GFP_KERNEL, other.nid, other.memcg, 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 0);
	shrink_slab(GFP_KERNEL, ctx->here.nid, ctx->here.memcg, 0);
	KUNIT_EXPECT_GT(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 0);
	EXPECT_QUEUED(test, 1);
}

static void reclaim_of_a_memcg_sees_what_is_queued_later(struct kunit *test)
{
	struct ds_context *ctx = test->priv;

	use_owner(test, CHILD_MEMCG);
	need_empty_queue(test);
	/* Nothing is there, which may clear the memcg's bit for the shrinker ... */
	shrink_slab(GFP_KERNEL, ctx->here.nid, ctx->here.memcg, 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 0);
	new_locked(test, SMALL_ORDER, true);
	/* ... and what is queued sets it. */
	shrink_slab(GFP_KERNEL, ctx->here.nid, ctx->here.memcg, 0);
	KUNIT_EXPECT_GT(test, atomic_read(&ctx->visits[SPLIT_TRYLOCK]), 0);
	EXPECT_QUEUED(test, 1);
}

static struct kunit_case deferred_split_cases[] = {
	/* First: where scans do not end, there is no use in the rest. */
	KUNIT_CASE(a_scan_ends_though_everything_comes_back),
	KUNIT_CASE(a_scan_ends_though_everything_is_dropped),
	KUNIT_CASE_PARAM(a_queued_folio_is_counted, place_gen_params),
	KUNIT_CASE_PARAM(a_folio_queued_twice_is_counted_once, place_gen_params),
	KUNIT_CASE_PARAM(freeing_a_queued_folio_takes_it_off, charged_gen_params),
	KUNIT_CASE_PARAM(an_underused_folio_is_queued_without_the_mark, place_gen_params),
	KUNIT_CASE(marking_a_queued_folio_leaves_its_place),
	KUNIT_CASE(a_folio_of_order_1_is_not_queued),
	KUNIT_CASE(a_folio_in_the_swap_cache_is_not_queued),
	KUNIT_CASE_PARAM(the_mark_is_counted_by_order, charged_gen_params),
	KUNIT_CASE(the_mark_is_an_event_once),
	KUNIT_CASE(a_folio_that_is_not_huge_is_no_thp_event),
	KUNIT_CASE(each_memcg_has_its_own_queue),
#ifdef SPLIT_QUEUE_FOR_EACH_NODE
	KUNIT_CASE(a_memcg_has_a_queue_on_each_node),
#endif
	KUNIT_CASE(a_folio_without_memcg_is_on_the_queue_of_its_node),
	KUNIT_CASE_PARAM(a_queued_folio_is_freed_in_any_context, context_gen_params),
	KUNIT_CASE_PARAM(a_folio_is_queued_in_any_context, context_gen_params),
	KUNIT_CASE(a_frozen_folio_leaves_the_queue_with_interrupts_off),
	KUNIT_CASE(what_is_not_queued_does_not_leave_the_queue),
	KUNIT_CASE(an_empty_queue_counts_zero),
	KUNIT_CASE(a_scan_of_an_empty_queue_says_stop),
	KUNIT_CASE_PARAM(a_scan_says_zero_when_all_come_back, place_gen_params),
	KUNIT_CASE(a_scan_of_nothing_takes_nothing),
	KUNIT_CASE_PARAM(a_locked_folio_is_put_back, place_gen_params),
	KUNIT_CASE_PARAM(a_folio_that_does_not_split_is_put_back, place_gen_params),
	KUNIT_CASE_PARAM(a_locked_underused_folio_is_put_back, place_gen_params),
	KUNIT_CASE_PARAM(an_underused_folio_that_does_not_split_is_put_back, place_gen_params),
	KUNIT_CASE_PARAM(a_frozen_folio_is_left_alone, place_gen_params),
	KUNIT_CASE(a_frozen_folio_counts_as_looked_at),
	KUNIT_CASE(a_scan_gets_past_a_frozen_folio),
	KUNIT_CASE(frozen_folios_do_not_keep_a_scan_from_the_rest),
	KUNIT_CASE_PARAM(a_used_folio_is_dropped, place_gen_params),
	KUNIT_CASE(a_dropped_folio_can_be_queued_again),
	KUNIT_CASE(max_ptes_none_says_what_is_underused),
	KUNIT_CASE(enough_filled_pages_end_the_look),
	KUNIT_CASE(a_folio_with_a_poisoned_page_is_not_underused),
	KUNIT_CASE_PARAM(no_folio_is_lost_or_counted_twice, batch_gen_params),
	KUNIT_CASE_PARAM(a_scan_takes_no_more_than_it_is_asked_to, batch_gen_params),
	KUNIT_CASE(a_scan_holds_at_most_a_batch),
	KUNIT_CASE(each_folio_of_a_batch_goes_its_own_way),
	KUNIT_CASE(what_is_locked_goes_to_the_tail),
	KUNIT_CASE(a_scan_looks_at_a_batch_at_a_time),
	KUNIT_CASE(a_scan_ends_though_the_queue_grows),
	KUNIT_CASE(a_folio_queued_before_it_is_put_back_is_counted_once),
	KUNIT_CASE(a_scan_looks_at_folios_with_preemption_on),
	KUNIT_CASE(a_list_head_changes_with_interrupts_off),
	KUNIT_CASE(a_thp_is_queued_at_fault),
	KUNIT_CASE_PARAM(unmapping_a_part_marks_a_folio, charged_gen_params),
	KUNIT_CASE_PARAM(unmapping_all_at_once_does_not_mark_a_folio, charged_gen_params),
	KUNIT_CASE_PARAM(a_partially_mapped_thp_is_split, charged_gen_params),
	KUNIT_CASE(a_scan_says_how_many_it_has_split),
	KUNIT_CASE(the_memory_of_an_unmapped_half_is_given_back),
	KUNIT_CASE_PARAM(an_underused_thp_is_split, thp_gen_params),
	KUNIT_CASE(a_used_thp_is_not_split),
	KUNIT_CASE_PARAM(a_referenced_folio_is_put_back, charged_gen_params),
	KUNIT_CASE(an_underused_thp_is_put_back_while_referenced),
	KUNIT_CASE(a_used_thp_is_not_looked_at_while_referenced),
	KUNIT_CASE_PARAM(a_locked_thp_stays_queued, mark_gen_params),
	KUNIT_CASE(a_partially_mapped_thp_stays_queued_while_referenced),
	KUNIT_CASE_PARAM(a_reference_that_comes_before_the_freeze_puts_a_thp_back, mark_gen_params),
	KUNIT_CASE(a_split_that_is_refused_leaves_the_queue_alone),
	KUNIT_CASE(a_thp_that_nobody_maps_is_put_back),
	KUNIT_CASE(a_thp_not_used_lately_is_split_too),
	KUNIT_CASE(the_huge_zero_folio_is_not_queued),
#ifdef ZERO_FOLIO_BECOMES_A_THP
	KUNIT_CASE(a_thp_in_place_of_the_huge_zero_folio_is_queued),
#endif
	KUNIT_CASE(an_underused_thp_is_dropped_while_pinned),
	KUNIT_CASE(an_underused_thp_is_dropped_when_its_split_fails_by_a_pin),
	KUNIT_CASE(a_partially_mapped_thp_is_put_back_while_pinned),
	KUNIT_CASE(an_underused_thp_is_not_split_while_mlocked),
	KUNIT_CASE(a_partially_mapped_thp_is_split_though_mlocked),
	KUNIT_CASE(a_split_by_somebody_else_ends_the_mark),
	KUNIT_CASE(the_parts_of_a_split_are_queued_each_for_itself),
	KUNIT_CASE(a_migrated_thp_is_not_marked),
	KUNIT_CASE(a_half_unmapped_while_migrated_is_seen),
	KUNIT_CASE(all_unmapped_while_migrated_is_not_marked),
	KUNIT_CASE(a_pinned_thp_stays_mapped_and_queued),
	KUNIT_CASE(a_thp_of_a_file_is_split_without_the_queue),
	KUNIT_CASE(a_thp_of_a_file_is_truncated_without_the_queue),
	KUNIT_CASE(a_thp_of_a_file_is_migrated_without_the_queue),
	KUNIT_CASE_PARAM(the_destination_takes_the_place_of_the_source, thp_gen_params),
	KUNIT_CASE(the_destination_of_what_is_not_queued_is_not_queued),
	KUNIT_CASE(migration_splits_a_partially_mapped_thp),
	KUNIT_CASE(a_migration_that_fails_leaves_the_source_queued),
	KUNIT_CASE_PARAM(a_held_folio_is_not_queued_nor_counted, mark_gen_params),
	KUNIT_CASE_PARAM(a_held_folio_can_be_freed, mark_gen_params),
	KUNIT_CASE_PARAM(a_held_thp_can_be_unmapped_and_freed, mark_gen_params),
	KUNIT_CASE(a_held_folio_unmapped_meanwhile_is_queued_once),
	KUNIT_CASE(a_held_folio_unmapped_meanwhile_is_split),
	KUNIT_CASE(a_thp_unmapped_while_it_is_looked_at_is_not_lost),
	KUNIT_CASE(a_thp_unmapped_when_a_scan_lets_go_of_it_is_not_lost),
	KUNIT_CASE(a_thp_is_not_queued_between_the_stores_of_list_del_init),
	KUNIT_CASE(a_folio_that_migration_has_frozen_is_left_alone),
	KUNIT_CASE(a_folio_that_is_being_freed_is_left_alone),
	KUNIT_CASE(migration_sees_that_a_scan_has_put_the_source_back),
	KUNIT_CASE(what_a_scan_holds_does_not_migrate),
	KUNIT_CASE(migration_tries_to_split_what_a_scan_holds),
	KUNIT_CASE_PARAM(two_scans_do_not_share_a_folio, mark_gen_params),
	KUNIT_CASE(a_folio_queued_behind_a_scan_is_not_held),
#ifndef SPLIT_QUEUE_GOES_TO_PARENT
	KUNIT_CASE_PARAM(a_queued_folio_moves_to_the_queue_of_its_new_memcg, mark_gen_params),
	KUNIT_CASE_PARAM(a_held_folio_is_put_back_on_the_queue_of_its_new_memcg, mark_gen_params),
	KUNIT_CASE(a_batch_is_put_back_on_more_than_one_queue),
	KUNIT_CASE(a_memcg_that_goes_offline_keeps_its_queue),
#else
	KUNIT_CASE(a_memcg_that_goes_offline_gives_its_queue_to_its_parent),
	KUNIT_CASE(a_memcg_that_goes_offline_gives_up_the_queue_of_another_node),
#endif
	KUNIT_CASE(a_memcg_that_is_offline_can_be_scanned),
	KUNIT_CASE(what_a_dead_memcg_owns_can_still_be_queued),
	KUNIT_CASE(a_memcg_that_goes_offline_gets_held_folios_back),
	KUNIT_CASE(reclaim_comes_to_what_a_dead_memcg_owns),
	KUNIT_CASE(reclaim_of_a_memcg_splits_what_it_has_queued),
	KUNIT_CASE(reclaim_of_a_memcg_leaves_other_queues_alone),
	KUNIT_CASE(reclaim_of_a_memcg_sees_what_is_queued_later),
#ifdef SPLIT_QUEUE_IS_ALLOCATED
	/* At the end: where that goes wrong the kernel oopses. */
	KUNIT_CASE(a_folio_whose_memcg_dies_before_it_has_a_queue_can_be_queued),
#endif
	{}
};

static struct kunit_suite deferred_split_suite = {
	.name = "deferred_split",
	.suite_init = ds_suite_init,
	.suite_exit = ds_suite_exit,
	.init = ds_init,
	.exit = ds_exit,
	.test_cases = deferred_split_cases,
};

kunit_test_suite(deferred_split_suite);

MODULE_DESCRIPTION("KUnit tests of the THP deferred split queue");
MODULE_LICENSE("GPL");
