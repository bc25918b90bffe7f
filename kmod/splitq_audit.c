// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

/*
 * Are the deferred split queues what they should be?
 *
 * splitq/audit (0400) walks every queue under its lock: links agree in both
 * directions, the count is the number of entries, every entry is the head of a
 * large folio of this node and memcg.
 *
 *	queue memcg=142 nid=- count=3 entries=2 partially_mapped=1
 *	wrong queue memcg=142 nid=- : the count is 3, on the list are 2
 *	audit wrong problems=1
 *
 * splitq/audit_marked (0400) walks all memory for folios that are marked
 * partially mapped: is each on a list, and is their number what
 * nr_anon_partially_mapped says? It is a file of its own because it takes a
 * reference to look (which can make a split or a migration of that folio fail),
 * is slow on a large machine, and means something only while nothing faults,
 * unmaps or scans. The queues can be read at any time, also while a pause point
 * holds a CPU.
 *
 * The last line is the verdict: "audit ok ...", "audit wrong problems=N" or
 * "audit unknown: could not look: WHAT". A problem that was found counts more
 * than a place that could not be looked at; both have their lines above it.
 *
 * While a scanner is at work, a kernel that takes folios to a private list
 * counts them although they are not on the queue: that is reported, as it is.
 *
 * splitq/audit_plant (0200) makes the next open of splitq/audit see one fault
 * ("count", "link", "memcg"), or that of splitq/audit_marked ("marked"), that is
 * not there. Nothing is changed for the kernel.
 */
#include <linux/cgroup.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/list.h>
#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/sched/signal.h>
#include <linux/seq_buf.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "splitq.h"

/* A queue is walked with interrupts off: a million entries are a tenth of a second. */
#define AUDIT_MAX_ENTRIES	1000000
#define AUDIT_MAX_LINES		32	/* of one queue: they are collected under its lock */
#define AUDIT_LINES_SIZE	8192
#define AUDIT_MAX_MARKED	256	/* lines */
#define AUDIT_LOCK_MS		100

enum audit_plant { PLANT_NONE, PLANT_COUNT, PLANT_LINK, PLANT_MEMCG, PLANT_MARKED };

static const char * const audit_plant_names[] = {
	[PLANT_NONE]	= "none",
	[PLANT_COUNT]	= "count",
	[PLANT_LINK]	= "link",
	[PLANT_MEMCG]	= "memcg",
	[PLANT_MARKED]	= "marked",
};

static atomic_t audit_planted = ATOMIC_INIT(PLANT_NONE);

/* One read of one of the files. */
struct audit_run {
	struct seq_file *m;
	enum audit_plant planted;	/* since open */
	enum audit_plant plant;		/* not shown yet */
	unsigned long queues, entries, problems, could_not_look;
	char first_not_looked[128];

	/* Of the queue that is being walked. */
	unsigned int lines;
	struct seq_buf buf;
	char text[AUDIT_LINES_SIZE];
	struct folio copy;

	/* Of the walk over all memory. */
	unsigned long marked[PMD_ORDER + 1], queued;
};

/* A queue, whatever the kernel keeps it in. */
struct audit_queue {
	unsigned long ino;		/* of the memcg, 0: the queue of a node */
	int nid;			/* NUMA_NO_NODE: of all nodes */
	struct mem_cgroup *memcg;	/* NULL: of folios without one */
	/* From base_trylock() at the latest: */
	spinlock_t *lock;
	struct list_head *head;
	const unsigned long *count;	/* protected by @lock */
};

enum audit_lock { AUDIT_LOCKED, AUDIT_BUSY, AUDIT_GONE };

typedef void (*audit_queue_fn)(struct audit_run *run, struct audit_queue *q);

/* What is not exported, by kallsyms; NULL: it is not there. */
static struct {
	struct mem_cgroup *(*mem_cgroup_iter)(struct mem_cgroup *root, struct mem_cgroup *prev,
					      struct mem_cgroup_reclaim_cookie *reclaim);
	struct mthp_stat __percpu *mthp_stats;
	struct list_lru *deferred_split_lru;
} audit_kernel;

static __printf(2, 3) void audit_could_not_look(struct audit_run *run, const char *fmt, ...)
{
	char what[sizeof(run->first_not_looked)];
	va_list args;

	va_start(args, fmt);
	vscnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	if (!run->could_not_look++)
		strscpy(run->first_not_looked, what, sizeof(run->first_not_looked));
	seq_printf(run->m, "could not look: %s\n", what);
}

/* -- The kernel's queues: all that depends on its version, see Makefile ---- */

#if defined(SPLITQ_QUEUE_OF_MEMCG)

/* A memcg has one queue for all nodes. A node's own has folios without a memcg. */
static void base_walk_queues(struct audit_run *run, audit_queue_fn fn)
{
	struct mem_cgroup *memcg __maybe_unused = NULL;
	struct audit_queue q;
	int nid;

	for_each_online_node(nid) {
		struct deferred_split *ds = &NODE_DATA(nid)->deferred_split_queue;

		q = (struct audit_queue) {
			.nid	= nid,
			.lock	= &ds->split_queue_lock,
			.head	= &ds->split_queue,
			.count	= &ds->split_queue_len,
		};
		fn(run, &q);
	}

#ifdef CONFIG_MEMCG
	if (mem_cgroup_disabled())
		return;
	if (!audit_kernel.mem_cgroup_iter) {
		audit_could_not_look(run, "mem_cgroup_iter(): the queues of the memcgs");
		return;
	}
	/* Those that are offline have folios, and a queue, until the last is freed. */
	while ((memcg = audit_kernel.mem_cgroup_iter(NULL, memcg, NULL))) {
		struct deferred_split *ds = &memcg->deferred_split_queue;

		q = (struct audit_queue) {
			.ino	= cgroup_ino(memcg->css.cgroup),
			.nid	= NUMA_NO_NODE,
			.memcg	= memcg,
			.lock	= &ds->split_queue_lock,
			.head	= &ds->split_queue,
			.count	= &ds->split_queue_len,
		};
		fn(run, &q);
	}
#endif
}

static enum audit_lock base_trylock(struct audit_queue *q, unsigned long *flags)
{
	return spin_trylock_irqsave(q->lock, *flags) ? AUDIT_LOCKED : AUDIT_BUSY;
}

/* Called with the queue's lock, and with a copy of the folio. */
static bool base_same_memcg(const struct folio *folio, const struct audit_queue *q)
{
#ifdef CONFIG_MEMCG
	return folio->memcg_data == (unsigned long)q->memcg;
#else
	return true;
#endif
}

#elif defined(SPLITQ_QUEUE_IS_LIST_LRU)

/* deferred_split_lru: a sublist for each memcg and node. */
static void base_walk_nodes(struct audit_run *run, audit_queue_fn fn, struct mem_cgroup *memcg,
			    unsigned long ino)
{
	struct audit_queue q;
	int nid;

	for_each_online_node(nid) {
		q = (struct audit_queue) { .ino = ino, .nid = nid, .memcg = memcg };
		fn(run, &q);
	}
}

static void base_walk_queues(struct audit_run *run, audit_queue_fn fn)
{
	struct mem_cgroup *memcg __maybe_unused = NULL;

	if (!audit_kernel.deferred_split_lru) {
		audit_could_not_look(run, "deferred_split_lru: the queues");
		return;
	}
	if (!IS_ENABLED(CONFIG_MEMCG) || mem_cgroup_disabled()) {
		base_walk_nodes(run, fn, NULL, 0);
		return;
	}

#ifdef CONFIG_MEMCG
	if (!audit_kernel.mem_cgroup_iter) {
		audit_could_not_look(run, "mem_cgroup_iter(): the queues of the memcgs");
		return;
	}
	/* One that goes offline gives its entries to its parent before that. */
	while ((memcg = audit_kernel.mem_cgroup_iter(NULL, memcg, NULL)))
		if (mem_cgroup_online(memcg))
			base_walk_nodes(run, fn, memcg, cgroup_ino(memcg->css.cgroup));
#endif
}

/* NULL: there is none, as nothing was ever queued, or no longer. Called under RCU. */
static struct list_lru_one *base_sublist(const struct audit_queue *q)
{
	struct list_lru *lru = audit_kernel.deferred_split_lru;

#ifdef CONFIG_MEMCG
	if (q->memcg && parent_mem_cgroup(q->memcg)) {
		struct list_lru_memcg *mlru = NULL;

		/* cgroup.memory=nokmem: no ids, all is on the root's */
		if (q->memcg->kmemcg_id >= 0)
			mlru = xa_load(&lru->xa, q->memcg->kmemcg_id);
		return mlru ? &mlru->node[q->nid] : NULL;
	}
#endif
	return &lru->node[q->nid].lru;
}

/* As lock_list_lru_of_memcg(): a sublist that is not dead stays while it is locked. */
static enum audit_lock base_trylock(struct audit_queue *q, unsigned long *flags)
{
	enum audit_lock got = AUDIT_GONE;
	struct list_lru_one *one;

	rcu_read_lock();
	one = base_sublist(q);
	if (one && !spin_trylock_irqsave(&one->lock, *flags)) {
		got = AUDIT_BUSY;
	} else if (one && one->nr_items == LONG_MIN) {
		spin_unlock_irqrestore(&one->lock, *flags);
	} else if (one) {
		q->lock = &one->lock;
		q->head = &one->list;
		q->count = (unsigned long *)&one->nr_items;
		got = AUDIT_LOCKED;
	}
	rcu_read_unlock();
	return got;
}

/* Called with the queue's lock, and with a copy of the folio. */
static bool base_same_memcg(const struct folio *folio, const struct audit_queue *q)
{
#ifdef CONFIG_MEMCG
	struct obj_cgroup *objcg = (void *)(folio->memcg_data & ~OBJEXTS_FLAGS_MASK);
	struct mem_cgroup *memcg = NULL;

	if (!audit_kernel.deferred_split_lru->memcg_aware)
		return true;
	if (objcg && copy_from_kernel_nofault(&memcg, &objcg->memcg, sizeof(memcg)))
		return false;
	/* The queue of a memcg goes to its parent before its folios do. */
	while (memcg && memcg != q->memcg) {
		struct cgroup_subsys_state css;

		if (copy_from_kernel_nofault(&css, &memcg->css, sizeof(css)) ||
		    !(css.flags & CSS_DYING))
			return false;
		memcg = mem_cgroup_from_css(css.parent);
	}
	return memcg == q->memcg;
#else
	return true;
#endif
}

#else

static void base_walk_queues(struct audit_run *run, audit_queue_fn fn)
{
	audit_could_not_look(run, "the queues of this kernel version");
}

static enum audit_lock base_trylock(struct audit_queue *q, unsigned long *flags)
{
	return AUDIT_GONE;
}

static bool base_same_memcg(const struct folio *folio, const struct audit_queue *q)
{
	return false;
}

#endif

/* -- The queues ----------------------------------------------------------- */

static const char *audit_queue_name(const struct audit_queue *q, char *name, size_t size)
{
	char ino[24] = "-", nid[12] = "-";

	if (q->ino)
		snprintf(ino, sizeof(ino), "%lu", q->ino);
	if (q->nid != NUMA_NO_NODE)
		snprintf(nid, sizeof(nid), "%d", q->nid);
	snprintf(name, size, "memcg=%s nid=%s", ino, nid);
	return name;
}

/* Under a queue's lock: to memory, as many lines as there is room for. */
static __printf(2, 3) void audit_line(struct audit_run *run, const char *fmt, ...)
{
	char line[AUDIT_LINES_SIZE / AUDIT_MAX_LINES];
	va_list args;

	if (run->lines++ >= AUDIT_MAX_LINES)
		return;
	va_start(args, fmt);
	vscnprintf(line, sizeof(line) - 1, fmt, args);
	va_end(args);
	seq_buf_printf(&run->buf, "%s\n", line);
}

static void audit_wrong_addr(struct audit_run *run, const void *addr, const char *what)
{
	run->problems++;
	audit_line(run, "wrong addr=0x%lx order=- refs=- : %s", (unsigned long)addr, what);
}

static void audit_wrong_folio(struct audit_run *run, unsigned long pfn, const char *what)
{
	struct folio *folio = &run->copy;

	run->problems++;
	audit_line(run, "wrong pfn=0x%lx order=%u refs=%d : %s", pfn, folio_order(folio),
		   folio_ref_count(folio), what);
}

/* The list may be corrupt: what it points at is not touched before it was copied. */
static bool read_link(struct list_head **pp, struct list_head **p)
{
	return !copy_from_kernel_nofault(p, pp, sizeof(*p));
}

/* Is @real in the memory map, and where? Goes by its copy, as page_to_pfn() cannot. */
static bool audit_pfn(struct audit_run *run, struct page *real, unsigned long *pfn)
{
#if defined(CONFIG_SPARSEMEM) && !defined(CONFIG_SPARSEMEM_VMEMMAP)
	struct mem_section *section = __nr_to_section(page_to_section(&run->copy.page));

	if (!valid_section(section))
		return false;
	*pfn = real - __section_mem_map_addr(section);
#else
	*pfn = page_to_pfn(real);
#endif
	/* A pointer difference is exact for the compiler; here it need not be. */
	OPTIMIZER_HIDE_VAR(*pfn);
	return pfn_valid(*pfn) && (unsigned long)pfn_to_page(*pfn) == (unsigned long)real;
}

/* Looks at a copy of the folio. Returns whether it is marked partially mapped. */
static bool audit_entry(struct audit_run *run, const struct audit_queue *q,
			struct list_head *entry)
{
	struct folio *real = container_of(entry, struct folio, _deferred_list);
	struct folio *folio = &run->copy;
	unsigned long pfn;
	bool same_memcg;

	if (copy_from_kernel_nofault(folio, real, sizeof(*folio)) ||
	    !audit_pfn(run, &real->page, &pfn)) {
		audit_wrong_addr(run, entry, "is in no folio");
		return false;
	}
	/* In this order: the tests further down trap on what these here find. */
	if (PagePoisoned(&folio->page) || PageTail(&folio->page) || !folio_test_large(folio)) {
		audit_wrong_addr(run, entry, "is not in the head of a large folio");
		return false;
	}

	if (folio_order(folio) < 2)
		audit_wrong_folio(run, pfn, "order < 2: it has no _deferred_list");
	if (!folio_test_large_rmappable(folio))
		audit_wrong_folio(run, pfn, "is not large_rmappable");
	if (q->nid != NUMA_NO_NODE && folio_nid(folio) != q->nid)
		audit_wrong_folio(run, pfn, "is on the queue of another node");

	same_memcg = base_same_memcg(folio, q);
	if (run->plant == PLANT_MEMCG) {
		run->plant = PLANT_NONE;
		same_memcg = !same_memcg;
	}
	if (!same_memcg)
		audit_wrong_folio(run, pfn, "is on the queue of another memcg");

	if (!folio_ref_count(folio))
		audit_line(run, "note pfn=0x%lx order=%u refs=0 : is being freed, or is frozen",
			   pfn, folio_order(folio));
	return folio_test_partially_mapped(folio);
}

/*
 * Entries from the head in one direction until its end, a link that the other
 * direction contradicts, or too many. Whatever is read is read under the lock.
 */
static unsigned long audit_walk(struct audit_run *run, const struct audit_queue *q,
				bool forward, bool *whole, unsigned long *partially_mapped)
{
	struct list_head *at = q->head, *to, *back;
	unsigned long entries = 0;

	for (;;) {
		*whole = false;
		if (!read_link(forward ? &at->next : &at->prev, &to))
			break;	/* cannot be: at was read before */
		if (!read_link(forward ? &to->prev : &to->next, &back)) {
			audit_wrong_addr(run, to, forward ? "a next that is no address" :
							    "a prev that is no address");
			break;
		}
		if (forward && to != q->head && run->plant == PLANT_LINK) {
			run->plant = PLANT_NONE;
			back = NULL;
		}
		if (back != at) {
			audit_wrong_addr(run, to, forward ? "its prev is not the entry before it" :
							    "its next is not the entry after it");
			break;
		}
		*whole = true;
		if (to == q->head || entries == AUDIT_MAX_ENTRIES)
			break;
		entries++;
		if (forward)
			*partially_mapped += audit_entry(run, q, to);
		at = to;
	}
	return entries;
}

static void audit_queue(struct audit_run *run, struct audit_queue *q)
{
	unsigned long forward, backward, partially_mapped = 0, problems = run->problems;
	long count;	/* wrong is also one below zero */
	int tries = AUDIT_LOCK_MS * 200;
	enum audit_lock got;
	bool whole, whole_back;
	unsigned long flags;
	char name[48];

	audit_queue_name(q, name, sizeof(name));
	run->lines = 0;
	seq_buf_init(&run->buf, run->text, sizeof(run->text));

	/*
	 * A CPU may be held with this lock. Time is counted in delays: the held
	 * CPU may be the one that keeps the time.
	 */
	while ((got = base_trylock(q, &flags)) != AUDIT_LOCKED) {
		if (got == AUDIT_GONE)
			return;
		if (!tries--) {
			audit_could_not_look(run, "queue %s is locked", name);
			return;
		}
		udelay(5);
		cond_resched();
	}

	count = *q->count;
	forward = audit_walk(run, q, true, &whole, &partially_mapped);
	backward = audit_walk(run, q, false, &whole_back, NULL);
	spin_unlock_irqrestore(q->lock, flags);

	if (run->plant == PLANT_COUNT) {
		run->plant = PLANT_NONE;
		count++;
	}
	if (whole && forward < AUDIT_MAX_ENTRIES && count != (long)forward) {
		run->problems++;
		audit_line(run, "wrong queue %s : the count is %ld, on the list are %lu", name,
			   count, forward);
	}
	if (forward != backward) {
		run->problems++;
		audit_line(run, "wrong queue %s : %lu entries forwards, %lu backwards", name,
			   forward, backward);
	}

	run->queues++;
	run->entries += forward;
	/* run->lines: a note, too */
	if (count || forward || run->lines || run->problems != problems)
		seq_printf(run->m, "queue %s count=%ld entries=%lu partially_mapped=%lu\n", name,
			   count, forward, partially_mapped);
	seq_write(run->m, run->text, seq_buf_used(&run->buf));
	if (run->lines > AUDIT_MAX_LINES)
		seq_printf(run->m, "note queue %s : %u lines more\n", name,
			   run->lines - AUDIT_MAX_LINES);
	if (whole && forward == AUDIT_MAX_ENTRIES)
		audit_could_not_look(run, "queue %s has %d entries or more", name,
				     AUDIT_MAX_ENTRIES);
	cond_resched();
}

static void audit_verdict(struct audit_run *run, const char *what, unsigned long a,
			  const char *what_b, unsigned long b)
{
	if (run->plant != PLANT_NONE)
		audit_could_not_look(run, "no place for the planted fault \"%s\"",
				     audit_plant_names[run->plant]);
	if (run->problems)
		seq_printf(run->m, "audit wrong problems=%lu\n", run->problems);
	else if (run->could_not_look)
		seq_printf(run->m, "audit unknown: could not look: %s\n", run->first_not_looked);
	else
		seq_printf(run->m, "audit ok %s=%lu %s=%lu\n", what, a, what_b, b);
}

static void audit_start(struct audit_run *run, struct seq_file *m)
{
	/* Once more from the beginning if the text was too long for the buffer. */
	run->m = m;
	run->plant = run->planted;
	run->queues = 0;
	run->entries = 0;
	run->problems = 0;
	run->could_not_look = 0;
	run->queued = 0;
	memset(run->marked, 0, sizeof(run->marked));
}

static int audit_show(struct seq_file *m, void *unused)
{
	struct audit_run *run = m->private;

	audit_start(run, m);
	base_walk_queues(run, audit_queue);
	audit_verdict(run, "queues", run->queues, "entries", run->entries);
	return 0;
}

/* -- All that is marked --------------------------------------------------- */

/* Counts of partially mapped folios, as sysfs shows them. */
static void audit_counters(long *counters)
{
	int cpu, order;

	memset(counters, 0, (PMD_ORDER + 1) * sizeof(*counters));
	for_each_possible_cpu(cpu) {
		struct mthp_stat *stat = per_cpu_ptr(audit_kernel.mthp_stats, cpu);

		for (order = 0; order <= PMD_ORDER; order++)
			counters[order] +=
				READ_ONCE(stat->stats[order][MTHP_STAT_NR_ANON_PARTIALLY_MAPPED]);
	}
}

/* Called with a reference to @folio, which is large. */
static void audit_marked_folio(struct audit_run *run, struct folio *folio)
{
	unsigned int order = folio_order(folio);
	const char *list, *what = NULL;

	if (order < 2 || order > PMD_ORDER || !folio_test_large_rmappable(folio) ||
	    folio_test_hugetlb(folio) || !folio_test_partially_mapped(folio))
		return;

	list = splitq_list_state(folio);
	if (!folio_test_anon(folio))
		what = "marked but not anon";
	else if (!strcmp(list, "empty"))
		what = "marked but not queued (held by a scanner, or lost)";
	else if (strcmp(list, "linked"))
		what = "marked, and its links do not agree";
	else
		run->queued++;

	run->marked[order]++;
	if (what)
		run->problems++;
	if (++run->lines > AUDIT_MAX_MARKED)
		return;
	if (what)
		seq_printf(run->m, "wrong pfn=0x%lx order=%u refs=%d : %s\n", folio_pfn(folio),
			   order, folio_ref_count(folio) - 1, what);
	else
		seq_printf(run->m, "marked pfn=0x%lx order=%u refs=%d list=%s\n",
			   folio_pfn(folio), order, folio_ref_count(folio) - 1, list);
}

static bool audit_marked_zone(struct audit_run *run, struct zone *zone)
{
	unsigned long pfn, end = zone_end_pfn(zone), looked = 0;

	for (pfn = zone->zone_start_pfn; pfn < end; pfn++) {
		struct page *page = pfn_to_online_page(pfn);
		struct folio *folio;

		if (!(++looked % 1024)) {
			if (signal_pending(current))
				return false;
			cond_resched();
		}
		if (!page || PageTail(page))
			continue;
		folio = page_folio(page);
		/* What is being freed has no reference to give, and is no matter here. */
		if (!folio_try_get(folio))
			continue;
		if (page_folio(page) == folio && folio_zone(folio) == zone &&
		    folio_test_large(folio)) {
			audit_marked_folio(run, folio);
			pfn += folio_nr_pages(folio) - 1;
		}
		folio_put(folio);
	}
	return true;
}

static int audit_marked_show(struct seq_file *m, void *unused)
{
	long before[PMD_ORDER + 1], after[PMD_ORDER + 1];
	struct audit_run *run = m->private;
	unsigned long sum = 0;
	int nid, i, order;

	audit_start(run, m);
	run->lines = 0;
	if (audit_kernel.mthp_stats)
		audit_counters(before);
	else
		audit_could_not_look(run, "mthp_stats: nr_anon_partially_mapped");

	for_each_online_node(nid)
		for (i = 0; i < MAX_NR_ZONES; i++) {
			struct zone *zone = &NODE_DATA(nid)->node_zones[i];

			if (managed_zone(zone) && !audit_marked_zone(run, zone)) {
				audit_could_not_look(run, "all memory: a signal came first");
				goto out;
			}
		}
	if (run->plant == PLANT_MARKED) {
		run->plant = PLANT_NONE;
		run->marked[PMD_ORDER]++;
	}
	if (run->lines > AUDIT_MAX_MARKED)
		seq_printf(m, "note : %u folios more\n", run->lines - AUDIT_MAX_MARKED);

	for (order = 0; order <= PMD_ORDER; order++)
		sum += run->marked[order];
	if (!audit_kernel.mthp_stats)
		goto out;

	audit_counters(after);
	if (memcmp(before, after, sizeof(before))) {
		audit_could_not_look(run, "nr_anon_partially_mapped changed meanwhile");
		goto out;
	}
	for (order = 0; order <= PMD_ORDER; order++) {
		if (!after[order] && !run->marked[order])
			continue;
		seq_printf(m, "order=%d marked=%lu nr_anon_partially_mapped=%ld\n", order,
			   run->marked[order], after[order]);
		if (after[order] != run->marked[order]) {
			run->problems++;
			seq_printf(m, "wrong order=%d : nr_anon_partially_mapped is %ld, marked are %lu\n",
				   order, after[order], run->marked[order]);
		}
	}
out:
	audit_verdict(run, "marked", sum, "queued", run->queued);
	return 0;
}

/* -- The files ------------------------------------------------------------ */

static int audit_open_run(struct file *file, int (*show)(struct seq_file *, void *), bool marked)
{
	struct audit_run *run = kzalloc(sizeof(*run), GFP_KERNEL);
	int planted, err;
	bool mine;

	if (!run)
		return -ENOMEM;
	/* Large enough as a rule: when it is not, all is done again. */
	err = single_open_size(file, show, run, SZ_64K);
	if (err) {
		kfree(run);
		return err;
	}
	/* Whoever opens takes the plant, so that one read shows it and no other. */
	planted = atomic_read(&audit_planted);
	mine = marked ? planted == PLANT_MARKED : planted != PLANT_MARKED;
	if (mine && atomic_cmpxchg(&audit_planted, planted, PLANT_NONE) == planted)
		run->planted = planted;
	return 0;
}

static int audit_open(struct inode *inode, struct file *file)
{
	return audit_open_run(file, audit_show, false);
}

static int audit_marked_open(struct inode *inode, struct file *file)
{
	return audit_open_run(file, audit_marked_show, true);
}

static int audit_release(struct inode *inode, struct file *file)
{
	struct seq_file *m = file->private_data;

	kfree(m->private);
	return single_release(inode, file);
}

static const struct file_operations audit_fops = {
	.owner = THIS_MODULE,
	.open = audit_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = audit_release,
};

static const struct file_operations audit_marked_fops = {
	.owner = THIS_MODULE,
	.open = audit_marked_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = audit_release,
};

static ssize_t audit_plant_write(struct file *file, const char __user *ubuf, size_t len,
				 loff_t *pos)
{
	char word[16];
	int plant;

	if (len >= sizeof(word))
		return -EINVAL;
	if (copy_from_user(word, ubuf, len))
		return -EFAULT;
	word[len] = '\0';
	plant = sysfs_match_string(audit_plant_names, word);
	if (plant < 0) {
		pr_err("audit_plant: '%s' is none of none count link memcg marked\n",
		       strim(word));
		return plant;
	}
	atomic_set(&audit_planted, plant);
	return len;
}

static const struct file_operations audit_plant_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = audit_plant_write,
};

/* -- What the kernel does not export -------------------------------------- */

typedef unsigned long (*lookup_name_fn)(const char *name);

/* A kprobe says where kallsyms_lookup_name() is. */
static lookup_name_fn __init audit_find_lookup(void)
{
	struct kprobe kp = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long addr, offset;
	char name[KSYM_SYMBOL_LEN], *plus;

	if (register_kprobe(&kp))
		return NULL;
	addr = (unsigned long)kp.addr;
	unregister_kprobe(&kp);

	/* With IBT the probe sits behind the ENDBR that a call must land on. */
	sprint_symbol(name, addr);
	plus = strchr(name, '+');
	if (!plus || sscanf(plus, "+%lx", &offset) != 1)
		return NULL;
	return (lookup_name_fn)(addr - offset);
}

/* Nothing vouches for the type of a function that was found by its name. */
static __nocfi void __init audit_find_symbols(void)
{
	lookup_name_fn lookup = audit_find_lookup();

	if (!lookup) {
		pr_warn("audit: no kallsyms_lookup_name(): the audits cannot look everywhere\n");
		return;
	}
	audit_kernel.mem_cgroup_iter = (void *)lookup("mem_cgroup_iter");
	audit_kernel.mthp_stats = (void __percpu *)lookup("mthp_stats");
	audit_kernel.deferred_split_lru = (void *)lookup("deferred_split_lru");
}

/**
 * splitq_audit_init - create the debugfs files that audit the queues
 * @dir: the module's debugfs directory
 *
 * A symbol that is not found is no error: the audits that need it say so.
 *
 * Context: task context, may sleep. The files are removed with @dir.
 */
void __init splitq_audit_init(struct dentry *dir)
{
	/* Now and not when read: a probe needs the other CPUs, and one may be held then. */
	audit_find_symbols();
	debugfs_create_file("audit", 0400, dir, NULL, &audit_fops);
	debugfs_create_file("audit_marked", 0400, dir, NULL, &audit_marked_fops);
	debugfs_create_file("audit_plant", 0200, dir, NULL, &audit_plant_fops);
}
