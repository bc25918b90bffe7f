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

/* Write a line to a file of the kernel. Return: 0 or a negative errno. */
int ds_write_file(const char *path, const char *text);

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
bool ds_memcg_enter(const struct ds_memcg *memcg);
void ds_memcg_remove(struct ds_memcg *memcg);

/* The root memcg instead. */
void ds_memcg_root(struct ds_memcg *memcg);

/**
 * ds_memcg_create_v1 - a memory cgroup of cgroup v1 that moves charges
 * @name: of its directory; there may be several
 *
 * Takes the memory controller from cgroup v2 and does not give it back: for a
 * machine that is used for nothing else. Return: NULL, or why there is none.
 */
const char *ds_memcg_create_v1(struct ds_memcg *memcg, const char *name);

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
int ds_pause_release(int id);
/* Disarm everything and remove all probes: takes a grace period. */
void ds_pause_off(void);
/* 0 or a negative errno; -EFAULT: nothing is mapped there. */
int ds_folio(pid_t pid, const void *addr, struct ds_folio *folio);
/* The same without a reference; -ENOENT: no large folio starts there. */
int ds_folio_peek(unsigned long pfn, struct ds_folio *folio);
/* Keep a reference ("pin"), or the lock as well ("lock"), until the returned fd is closed. */
int ds_folio_keep(pid_t pid, const void *addr, const char *how);
/* Close the module's files that stay open otherwise: so that it can be unloaded. */
void ds_module_close(void);

#endif
