/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of the deferred split queue share: knobs, counters, the shrinker. */
#ifndef DEFERRED_SPLIT_UTIL_H
#define DEFERRED_SPLIT_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define DS_KHUGEPAGED	"/sys/kernel/mm/transparent_hugepage/khugepaged/"

/**
 * ds_unusable - why the deferred split queue cannot be tested here
 *
 * Return: NULL if it can be, else the reason in words.
 */
const char *ds_unusable(void);

/* Write a line to a file of the kernel. Return: 0 or a negative errno. */
int ds_write_file(const char *path, const char *text);

/**
 * ds_thp_size - the size in bytes of the THPs that a test maps, 0 if the kernel has none
 *
 * That of a PMD, if the machine has the memory for a few of these: with base pages of 64K
 * it is 512 MiB. Else that of a THP of 2 MiB or less, which is mapped by PTEs, and is not
 * queued at fault.
 */
size_t ds_thp_size(void);

/* Before ds_thp_size() and all that uses it: so many at the same time (4). */
void ds_need_thps(unsigned int nr);

/* Is that the size of a PMD? Return: NULL if it is, else why not, and what to do. */
const char *ds_need_pmd(void);

/**
 * ds_knobs_set - set the THP knobs the tests need, remembering the old values
 *
 * THPs at fault with madvise(), queued as underused at once.
 * Return: NULL, or in words what could not be set, and why.
 */
const char *ds_knobs_set(void);

/* ds_unusable(), so many CPUs (1 or 2), and ds_knobs_set(): what most tests begin with. */
const char *ds_setup(int cpus);

/* Make all-zero THPs underused (max_ptes_none 0), or none at all; as ds_knobs_set(). */
const char *ds_set_underused(bool underused);

/* Any other knob, after ds_knobs_set(); put back as the others. Return: the same. */
const char *ds_knob_set(const char *path, const char *value);

/*
 * Put the knobs back. Safe to call twice, and from atexit(). What a test that crashed
 * has not put back, memcgs and swap of its own as well, a guard process does.
 */
void ds_knobs_restore(void);

/**
 * ds_swap_create - swap of our own, on a new zram, that is used before any other
 *
 * After ds_knobs_set(). Return: NULL, or why there is none.
 */
const char *ds_swap_create(size_t size);
/* 0 or a negative errno. */
int ds_swap_on(void);
int ds_swap_off(void);
void ds_swap_remove(void);
/* From now on writes to it fail: what was swapped out stays in the swap cache. */
bool ds_swap_fail_writes(void);
/* How often it was read from and written to since it was made. */
bool ds_swap_ios(long *reads, long *writes);

/* A counter of THPs of ds_thp_size() below hugepages-<size>kB/stats, -1 if there is none. */
long ds_thp_stat(const char *name);
long ds_size_stat(size_t size, const char *name);

/* THPs of this size with madvise(); restored as the other knobs. Return: NULL, or why not. */
const char *ds_set_size_enabled(size_t size);

/* A counter of /proc/vmstat, -1 if there is none. */
long ds_vmstat(const char *name);

/**
 * ds_memcg_create - a memory cgroup of our own, so that its queue is our own
 * @memcg: filled in; with dir[0] == 0 it is the root memcg (no cgroup v2 with
 *	   the memory controller here)
 */
struct ds_memcg {
	char dir[256];
	unsigned long ino;
	bool v1;
};

void ds_memcg_create(struct ds_memcg *memcg);
/* Memcgs below the root memcg; put back as the knobs, after ds_knobs_set(). */
void ds_memcg_enable(void);
bool ds_memcg_enter(const struct ds_memcg *memcg);
void ds_memcg_remove(struct ds_memcg *memcg);

/* A directory that the guard removes, last named first, if it is there in the end. */
void ds_rmdir_later(const char *dir);

/* The root memcg instead. */
void ds_memcg_root(struct ds_memcg *memcg);

/**
 * ds_memcg_create_v1 - a memory cgroup of cgroup v1
 * @name: of its directory; there may be several
 *
 * Takes the memory controller from cgroup v2: for a machine that is used for nothing
 * else. Return: NULL, or why there is none.
 */
const char *ds_memcg_create_v1(struct ds_memcg *memcg, const char *name);

/* Give it back, if no page is charged there any more. Return: was that so? */
bool ds_memcg_v1_end(void);

/* Has it a file of that name? */
bool ds_memcg_has(const struct ds_memcg *memcg, const char *file);

/* From now on it moves charges, on cgroup v1. Return: NULL, or why it does not. */
const char *ds_memcg_moves_charges(const struct ds_memcg *memcg);

/*
 * Mount cgroup v1's memory controller at a directory. Return: NULL, or why not: there
 * are cgroups, it is in use, or not in this kernel.
 */
const char *ds_v1_mount(const char *where);
/* The end of that; is it cgroup v2's again? */
bool ds_v1_unmount(const char *where);

/**
 * ds_scan - run the deferred split shrinker on a memcg's queue
 * @nr: how many folios to scan at most, not 0
 *
 * Return: 0 or a negative errno.
 */
int ds_scan(const struct ds_memcg *memcg, int nid, unsigned long nr);

/*
 * Folios queued for the memcg: what the shrinker's count file says. -1 if that
 * cannot be read.
 *
 * Before 7.2 a memcg has one queue, and the file shows it once for each node;
 * since then each node has its own. The file does not tell which: so the sum over
 * the nodes says only whether anything is queued, and the count of a node is that
 * of the memcg's queue to which a folio of that node belongs.
 */
long ds_count(const struct ds_memcg *memcg);
long ds_count_node(const struct ds_memcg *memcg, int nid);

/**
 * ds_map_thp - map and fault in one THP
 *
 * Nothing else is mapped by that: ds_thp_size() bytes are to be unmapped. They are
 * MADV_NOHUGEPAGE from then on, so that khugepaged leaves them alone.
 * Return: the address of the THP, NULL if no THP was to be had.
 */
char *ds_map_thp(void);
#define DS_NO_THP "no THP is to be had: is memory fragmented? /proc/sys/vm/compact_memory"

/* The same; it is on its queue: if not since its fault, then its last page is unmapped. */
char *ds_map_queued(void);

/* Is the folio at @addr still a THP, by /proc/kpageflags of the first page? */
bool ds_is_thp(const void *addr);
bool ds_pfn_is_thp(unsigned long pfn);
bool ds_is_in_swap_cache(const void *addr);

/* The number of the page that a process has at an address, 0 if it has none. */
unsigned long ds_pfn_of(pid_t pid, const void *addr);

/* The node that it is on, or a negative errno. */
int ds_node_of(pid_t pid, const void *addr);

/* What /proc/kpageflags, kpagecount or kpagecgroup says of a page. */
unsigned long ds_page_word(const char *file, unsigned long pfn);

/* Zeroed memory that is shared with children, NULL if there is none. */
void *ds_shared(size_t size);

bool ds_pin_to_cpu(int cpu);
double ds_now(void);
/* 2 means: at least. */
int ds_nr_nodes(void);

/*
 * Scan a memcg's queue until nr_anon_partially_mapped is @want, or for two seconds.
 * Return: what it is then.
 */
long ds_settle(const struct ds_memcg *memcg, long want);

/*
 * Wait for so many children, and make each pid 0. Return: whether all were there, and
 * ended with status 0.
 */
bool ds_wait_all(pid_t *pids, int nr);

/* Have the page at an address, and with it its THP, moved to a node. Return: is it there? */
bool ds_move(void *addr, int node);

/* Per-CPU batches hold references for a while, and make splits fail: empty them. */
void ds_drain(void);

struct ds_symbol {
	char name[128];
	unsigned long size;
};

/* Functions of the kernel, however the compiler calls them. Return: how many. */
int ds_find_symbols(const char * const *names, struct ds_symbol *symbols, int max);

/*
 * From now on, what does the kernel complain of? The first such line since, or that it
 * has become tainted, or NULL.
 */
bool ds_log_start(void);
const char *ds_log_complaint(void);

/* The splitq module, if it is loaded. */
#define DS_SPLITQ "/sys/kernel/debug/splitq/"

struct ds_folio {
	unsigned long pfn, memcg;
	int order, refs, mapcount, anon, locked, partially_mapped, nid;
	char list[16];
};

enum ds_pause { DS_OFF, DS_ARMED, DS_HELD, DS_RELEASED, DS_EXPIRED };

bool ds_have_module(void);
/* 0 or a negative errno; -EILSEQ: not the start of an instruction. */
int ds_pause_arm(int id, const char *symbol, unsigned int offset, pid_t pid, unsigned int hold_ms);
/* The same for a line of one's own, see kmod/splitq_pause.c. */
int ds_pause_line(const char *line);
enum ds_pause ds_pause_state(int id);
/* What the function returned at whose return somebody is held, or was; -ENODATA: nobody. */
int ds_pause_return(int id, unsigned long *ret);
int ds_pause_release(int id);
/* Disarm everything and remove all probes: takes a grace period. */
void ds_pause_off(void);
/* 0 or a negative errno; -EFAULT: nothing is mapped there. */
int ds_folio(pid_t pid, const void *addr, struct ds_folio *folio);
/*
 * The same without a reference; -ENOENT: no large folio starts there; -EUCLEAN: nor
 * that, and somebody has written to its list since it was freed.
 */
int ds_folio_peek(unsigned long pfn, struct ds_folio *folio);
/*
 * Keep a reference ("pin"), the lock as well ("lock"), or a pin as for a device ("dma")
 * until the returned fd is closed.
 */
int ds_folio_keep(pid_t pid, const void *addr, const char *how);
/* NULL if the module's audit finds all queues in order, else the first thing it found. */
bool ds_have_audit(void);
const char *ds_audit_complaint(void);
/* The same for all that is marked partially mapped; only while nobody uses THPs. */
const char *ds_audit_marked_complaint(void);

#define DS_POINTS_MAX	4096

/* Instructions of a function that somebody executed, and how often. */
struct ds_points {
	unsigned int offset[DS_POINTS_MAX], hits[DS_POINTS_MAX];
	unsigned int nr, instructions, unprobed;
};

/* 0 or a negative errno. */
int ds_cover_start(const char *symbol, pid_t pid);
void ds_cover_read(struct ds_points *points);

static inline unsigned int ds_gcd(unsigned int a, unsigned int b)
{
	return b ? ds_gcd(b, a % b) : a;
}

/* The n-th of @nr things, in an order in which any run of them is spread over all. */
static inline unsigned int ds_spread(unsigned int n, unsigned int nr)
{
	unsigned int stride = nr * 0.618 + 1;

	while (ds_gcd(stride, nr) > 1)
		stride++;
	return (unsigned long)n * stride % nr;
}

/* Is it of this pass of @passes? A pass is a run of that order, and so spread over all. */
static inline bool ds_in_pass(unsigned int n, unsigned int nr, unsigned int pass,
			      unsigned int passes)
{
	return (unsigned long)n * passes / nr == pass;
}

/* Close the module's files that stay open otherwise: so that it can be unloaded. */
void ds_module_close(void);

#endif
