/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of the deferred split queue share: knobs, counters, the shrinker. */
#ifndef DEFERRED_SPLIT_UTIL_H
#define DEFERRED_SPLIT_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/**
 * ds_unusable - why the deferred split queue cannot be tested here
 *
 * Return: NULL if it can be, else the reason in words.
 */
const char *ds_unusable(void);

/* Size of a PMD mapped THP in bytes, 0 if the kernel has none. */
size_t ds_thp_size(void);

/**
 * ds_knobs_set - set the THP knobs the tests need, remembering the old values
 *
 * THPs at fault with madvise(), queued as underused at once.
 * Return: NULL, or the knob that could not be set.
 */
const char *ds_knobs_set(void);

/* Make all-zero THPs underused (max_ptes_none 0), or none at all; as ds_knobs_set(). */
const char *ds_set_underused(bool underused);

/* Put the knobs back. Safe to call twice, and from atexit(). */
void ds_knobs_restore(void);

/* A counter of PMD sized THPs below hugepages-<size>kB/stats, -1 if there is none. */
long ds_thp_stat(const char *name);

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
};

void ds_memcg_create(struct ds_memcg *memcg);
bool ds_memcg_enter(const struct ds_memcg *memcg);
void ds_memcg_remove(struct ds_memcg *memcg);

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
 * @map: where the mapping of twice the size starts, for munmap()
 *
 * Return: the address of the THP, NULL if no THP was to be had.
 */
char *ds_map_thp(void);

/* Is the folio at @addr still a THP, by /proc/kpageflags of the first page? */
bool ds_is_thp(const void *addr);

bool ds_pin_to_cpu(int cpu);
double ds_now(void);

/* The splitq module, if it is loaded. */
#define DS_SPLITQ "/sys/kernel/debug/splitq/"

struct ds_folio {
	unsigned long pfn;
	int order, refs, mapcount, anon, locked, partially_mapped, nid;
	char list[16];
};

enum ds_pause { DS_OFF, DS_ARMED, DS_HELD, DS_RELEASED, DS_EXPIRED };

bool ds_have_module(void);
/* 0 or a negative errno; -EILSEQ: not the start of an instruction. */
int ds_pause_arm(const char *symbol, unsigned int offset, pid_t pid, unsigned int hold_ms);
/* The same, but the kprobes of this symbol stay: the next point is armed sooner. */
int ds_pause_arm_keep(const char *symbol, unsigned int offset, pid_t pid, unsigned int hold_ms);
enum ds_pause ds_pause_state(void);
void ds_pause_release(void);
void ds_pause_off(void);
/* 0 or a negative errno; -EFAULT: nothing is mapped there. */
int ds_folio(pid_t pid, const void *addr, struct ds_folio *folio);

#endif
