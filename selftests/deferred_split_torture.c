// SPDX-License-Identifier: GPL-2.0
/*
 * Torture of the deferred split queue: many tasks do random things to many THPs
 * for a given time.
 *
 *	deferred_split_torture SECONDS SEED [WORKERS [PLANT]]
 *
 * Workers own memory, each in an mm and a memcg of its own: they map, unmap,
 * free, write, move, lock, fork, swap and collapse pieces of it, change and
 * remove memcgs, exit and come back. Stirrers do things to the workers' memory:
 * they migrate, reclaim, collapse, split, read, compact. Scanners run the
 * shrinker all the time. With the splitq module, whoever comes by one of many
 * points in the queue's code is held there now and then (splitq/jitter); the
 * points are drawn anew at each checkpoint.
 *
 * Each task draws from a generator of its own, from SEED and its number: the
 * same SEED is the same choice of operations, not the same timing.
 *
 * A line a second says how far it is. Every few seconds all tasks stop for a
 * checkpoint, with their memory mapped. What turns it red:
 *
 *	STALL	 a task makes no step for 20 s, or does not stop for a checkpoint
 *	TAINT	 the kernel is tainted
 *	KILLED	 a task was ended by a signal
 *	CONTENT	 a page does not hold what was written to it
 *	AUDIT	 splitq/audit or splitq/audit_marked is not ok at a checkpoint
 *	STUCK	 partially mapped, on the queue of a memcg that is online, and a scan
 *		 does not split it
 *	LEAK	 all is unmapped, and a counter or a queue is not back at its start
 *
 * What is looked at only when nothing happens is looked at again for a while:
 * khugepaged and kcompactd do not stop for a checkpoint.
 *
 * Known and not red: a THP whose part was unmapped while its PTEs were migration
 * entries is partially mapped and not marked so (nothing here looks for it); an
 * underused THP whose split failed for a short-lived reference is forgotten
 * (the same); before 7.x nobody scans the queue of a memcg that is offline (its
 * entries are audited, and must be gone when all is unmapped).
 *
 * PLANT is one of these words in small letters: a fault of that kind is planted
 * after 3 s, to see that it is found. "stuck" needs the splitq module, and so does
 * "audit".
 *
 * Exit status: of kselftest, with the result in TAP. VACUOUS, a skip, if
 * something that it is about did not happen at all.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest.h"
#include "deferred_split_util.h"

#define NR_REGIONS	6
#define NR_SLOTS	4
#define NR_STIRRERS	2
#define NR_SCANNERS	2
#define MAX_WORKERS	32
#define MAX_TASKS	(MAX_WORKERS + NR_STIRRERS + NR_SCANNERS)
#define MAX_ORDERS	16
#define MAX_OFFLINED	8

#define STALL_SECONDS	20
#define CHECK_SECONDS	6
#define SETTLE_SECONDS	10
#define PLANT_SECONDS	30
#define FAILURE_SECONDS	10

#define THP_DIR		"/sys/kernel/mm/transparent_hugepage/"
#define CGROUP_DIR	"/sys/fs/cgroup/"

/* Taint by out of tree and unsigned modules. */
#define TAINT_MODULE	0x3000UL

#ifndef MADV_COLD
#define MADV_COLD	20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

enum op {
	/* of workers */
	OP_MAP, OP_UNMAP_PART, OP_DONTNEED, OP_FREE, OP_WRITE, OP_VERIFY, OP_MREMAP, OP_FORK,
	OP_MLOCK, OP_MPROTECT, OP_PAGEOUT, OP_COLLAPSE, OP_UNMAP_ALL, OP_REHOME, OP_OFFLINE,
	OP_RESPAWN,
	/* of stirrers */
	OP_MOVE_PAGES, OP_MIGRATE_PAGES, OP_THEIR_PAGEOUT, OP_THEIR_COLLAPSE, OP_THEIR_COLD,
	OP_RECLAIM, OP_SPLIT, OP_PEEK, OP_COMPACT, OP_DROP_CACHES,
	/* of scanners */
	OP_SCAN,
	NR_OPS,
};

static const char * const op_names[NR_OPS] = {
	"map", "unmap_part", "dontneed", "free", "write", "verify", "mremap", "fork", "mlock",
	"mprotect", "pageout", "collapse", "unmap_all", "rehome", "soft_offline", "respawn",
	"move_pages", "migrate_pages", "their_pageout", "their_collapse", "their_cold", "reclaim",
	"split", "peek", "compact", "drop_caches", "scan",
};

/* How often each is chosen, workers and stirrers for themselves. */
static const struct mix {
	enum op op;
	unsigned int weight;
} worker_mix[] = {
	{ OP_UNMAP_PART, 120 }, { OP_DONTNEED, 80 }, { OP_FREE, 20 }, { OP_WRITE, 60 },
	{ OP_VERIFY, 60 }, { OP_MREMAP, 20 }, { OP_FORK, 24 }, { OP_MLOCK, 10 },
	{ OP_MPROTECT, 20 }, { OP_PAGEOUT, 6 }, { OP_COLLAPSE, 6 }, { OP_UNMAP_ALL, 160 },
	{ OP_REHOME, 8 }, { OP_OFFLINE, 1 }, { OP_RESPAWN, 3 },
}, stirrer_mix[] = {
	{ OP_MOVE_PAGES, 120 }, { OP_MIGRATE_PAGES, 4 }, { OP_THEIR_PAGEOUT, 10 },
	{ OP_THEIR_COLLAPSE, 10 }, { OP_THEIR_COLD, 10 }, { OP_RECLAIM, 6 }, { OP_SPLIT, 12 },
	{ OP_PEEK, 60 }, { OP_COMPACT, 1 }, { OP_DROP_CACHES, 2 },
};

enum kind { WORKER, STIRRER, SCANNER };

struct task {
	enum kind kind;
	pid_t pid;
	unsigned int number, generation;
	int op;
	long steps;
	bool paused;

	/* Of the supervisor. */
	long steps_seen;
	double seen_at;
};

/* Shared by all. */
static struct control {
	bool stop, pause;
	struct task tasks[MAX_TASKS];
	unsigned int nr_tasks, nr_workers;
	long done[NR_OPS];
	long offlined;
	int failed;
	char failure[256];
	const char *plant;
	bool to_plant;			/* by the first worker, now */
	bool planted_beside;
} *control;

static uint64_t seed;
static size_t thp_size, page_size;
static unsigned int thp_pages;
static char base_dir[128];
/* The same address in each worker, so that the stirrers know it. */
static char *arena;

/* -- Small things --------------------------------------------------------- */

#define load(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)

static uint64_t random_state;

static void random_seed(uint64_t number)
{
	/* splitmix64: neighbouring numbers do not give similar streams */
	uint64_t z = seed + (number + 1) * 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	random_state = (z ^ z >> 31) | 1;
}

/* 0 ... n - 1 */
static unsigned int below(unsigned int n)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return n ? (random_state * 0x2545f4914f6cdd1d >> 33) % n : 0;
}

static ssize_t get(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) > 0)
		len += n;
	close(fd);
	buf[len] = '\0';
	return len;
}

static long get_number(const char *path)
{
	char buf[64];

	return get(path, buf, sizeof(buf)) > 0 ? strtol(buf, NULL, 0) : -1;
}

/* The first failure is the one that counts. */
__attribute__((format(printf, 1, 2)))
static void fail(const char *fmt, ...)
{
	va_list ap;

	if (__atomic_exchange_n(&control->failed, 1, __ATOMIC_ACQ_REL))
		return;
	va_start(ap, fmt);
	vsnprintf(control->failure, sizeof(control->failure), fmt, ap);
	va_end(ap);
	store(&control->failed, 2);
}

static bool failed(void)
{
	return load(&control->failed);
}

/* Whoever has found something is not to be killed before it has said what. */
static void wait_for_failure(void)
{
	double end = ds_now() + FAILURE_SECONDS;

	while (load(&control->failed) == 1 && ds_now() < end)
		usleep(1000);
}

static void done(enum op op)
{
	__atomic_add_fetch(&control->done[op], 1, __ATOMIC_RELAXED);
}

/* -- memcgs: two in the base, two in a nested one -------------------------- */

static void slot_path(unsigned int slot, char *path, size_t size)
{
	snprintf(path, size, "%s/%sslot%u", base_dir, slot >= NR_SLOTS / 2 ? "nested/" : "", slot);
}

static bool slots_create(void)
{
	unsigned int slot;
	char path[256];

	ds_memcg_enable();
	snprintf(base_dir, sizeof(base_dir), CGROUP_DIR "deferred_split_torture.%d", getpid());
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", base_dir);
	if (mkdir(base_dir, 0755) || ds_write_file(path, "+memory"))
		return false;
	/* If we cannot do it ourselves. */
	ds_rmdir_later(base_dir);
	snprintf(path, sizeof(path), "%s/nested", base_dir);
	if (mkdir(path, 0755))
		return false;
	ds_rmdir_later(path);
	for (slot = 0; slot < NR_SLOTS; slot++) {
		slot_path(slot, path, sizeof(path));
		ds_rmdir_later(path);
	}
	snprintf(path, sizeof(path), "%s/nested/cgroup.subtree_control", base_dir);
	return !ds_write_file(path, "+memory");
}

static void slots_remove(void)
{
	char path[256];
	unsigned int slot, tries;

	/* A process that was waited for may still be leaving its cgroup. */
	for (tries = 0; base_dir[0] && tries < 100; tries++) {
		for (slot = 0; slot < NR_SLOTS; slot++) {
			slot_path(slot, path, sizeof(path));
			rmdir(path);
		}
		snprintf(path, sizeof(path), "%s/nested", base_dir);
		rmdir(path);
		if (!rmdir(base_dir))
			return;
		usleep(10000);
	}
}

/* Another one may be removing it at this moment. */
static bool slot_enter(unsigned int slot)
{
	char dir[200], path[256];
	int tries;

	slot_path(slot, dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	for (tries = 0; tries < 10; tries++) {
		mkdir(dir, 0755);
		if (!ds_write_file(path, "0"))
			return true;
	}
	return false;
}

/* The memcg of a slot, of the root for NR_SLOTS. False: there is none now. */
static bool slot_memcg(unsigned int slot, struct ds_memcg *memcg)
{
	char path[200] = CGROUP_DIR;
	struct stat st;

	if (slot < NR_SLOTS)
		slot_path(slot, path, sizeof(path));
	if (stat(path, &st))
		return false;
	memcg->ino = st.st_ino;
	return true;
}

static void scan_slot(unsigned int slot, unsigned long nr)
{
	struct ds_memcg memcg;
	unsigned int nid;

	if (!slot_memcg(slot, &memcg))
		return;
	for (nid = 0; nid < ds_nr_nodes(); nid++)
		if (!ds_scan(&memcg, nid, nr))
			done(OP_SCAN);
}

/* -- Workers --------------------------------------------------------------- */

/*
 * What each page of the arena must hold: NOT_MAPPED, or the number that its first
 * bytes are, 0 if nothing was written. MAYBE_ZERO: the kernel may have freed it.
 * A region is a THP, and the room beside it that mremap() moves pieces to.
 */
#define NOT_MAPPED	UINT32_MAX
#define MAYBE_ZERO	0x80000000U

static uint32_t *want;
static unsigned int my_slot;
static bool settled;		/* something planted must stay where it is */

struct range {
	unsigned int first, nr;
};

static uint32_t *region_want(unsigned int region)
{
	return want + region * 2 * thp_pages;
}

static char *region_page(unsigned int region, unsigned int page)
{
	return arena + (region * 2 * (size_t)thp_pages + page) * page_size;
}

static void set_want(unsigned int region, unsigned int first, unsigned int nr, uint32_t value)
{
	uint32_t *w = region_want(region) + first;

	for (; nr; nr--, w++)
		if (*w != NOT_MAPPED || value == NOT_MAPPED)
			*w = value;
}

static void maybe_zero(unsigned int region, struct range r)
{
	unsigned int page;

	for (page = r.first; page < r.first + r.nr; page++)
		region_want(region)[page] |= MAYBE_ZERO;
}

static bool all_mapped(unsigned int region, unsigned int first, unsigned int nr)
{
	while (nr--)
		if (region_want(region)[first++] == NOT_MAPPED)
			return false;
	return true;
}

/* Unmap for good, and take care that nothing else is put there. */
static void unmap(unsigned int region, unsigned int first, unsigned int nr)
{
	char *addr = region_page(region, first);

	munmap(addr, nr * page_size);
	if (mmap(addr, nr * page_size, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != addr)
		_exit(1);
	set_want(region, first, nr, NOT_MAPPED);
}

/* A part of a THP: halves, single pages at its ends, anything. */
static struct range draw_range(void)
{
	unsigned int half = thp_pages / 2;
	struct range r;

	switch (below(8)) {
	case 0:
		return (struct range){ half, half };
	case 1:
		return (struct range){ 0, half };
	case 2:
		return (struct range){ thp_pages - 1, 1 };
	case 3:
		return (struct range){ 0, 1 };
	case 4:
		return (struct range){ below(thp_pages), 1 };
	case 5:
		return (struct range){ 0, thp_pages };
	default:
		r.first = below(thp_pages);
		r.nr = 1 + below(thp_pages - r.first);
		return r;
	}
}

static void write_page(unsigned int region, unsigned int page, uint32_t value)
{
	store((uint32_t *)region_page(region, page), value);
	region_want(region)[page] = value;
}

static void write_range(unsigned int region, struct range r, unsigned int step, bool zero)
{
	unsigned int page;

	for (page = r.first; page < r.first + r.nr; page += step) {
		uint32_t value = zero ? 0 : 1 + below(1 << 30);

		if (region_want(region)[page] != NOT_MAPPED)
			write_page(region, page, value);
	}
}

/* Whole THPs, and smaller pieces for the smaller sizes. */
static void map(unsigned int region)
{
	struct range r = { 0, thp_pages };
	char *addr;

	if (below(8) >= 6) {
		r.nr = 16 << below(5);
		r.first = below(thp_pages / r.nr) * r.nr;
	}
	addr = region_page(region, r.first);
	if (mmap(addr, r.nr * page_size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != addr)
		_exit(1);
	madvise(addr, r.nr * page_size, MADV_HUGEPAGE);
	memset(region_want(region) + r.first, 0, r.nr * sizeof(*want));
	if (below(2))
		write_range(region, r, 8 + below(64), false);
	else
		write_range(region, (struct range){ r.first, 1 }, 1, true);
	done(OP_MAP);
}

/* A fresh THP that is trimmed at once, when the scanner may be at it. */
static void trim(unsigned int region, struct range r)
{
	usleep(below(2000));
	unmap(region, r.first, r.nr);
	done(OP_UNMAP_PART);
}

static void verify(unsigned int region, struct range r, unsigned int step)
{
	unsigned int page;

	for (page = r.first; page < r.first + r.nr; page += step) {
		uint32_t w = region_want(region)[page], is;

		if (w == NOT_MAPPED)
			continue;
		is = load((uint32_t *)region_page(region, page));
		if (is == (w & ~MAYBE_ZERO) || (!is && (w & MAYBE_ZERO)))
			continue;
		fail("CONTENT: task %d page %p is 0x%x, 0x%x was written", getpid(),
		     region_page(region, page), is, w & ~MAYBE_ZERO);
		return;
	}
}

static void move_part(unsigned int region, struct range r)
{
	unsigned int to = thp_pages + r.first, i;
	void *old = region_page(region, r.first), *new = region_page(region, to);
	size_t len = r.nr * page_size;

	if (!all_mapped(region, r.first, r.nr))
		return;
	unmap(region, to, r.nr);
	/* -EFAULT: not all of it is one mapping. */
	if (mremap(old, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, new) != new) {
		unmap(region, to, r.nr);
		return;
	}
	for (i = 0; i < r.nr; i++)
		region_want(region)[to + i] = region_want(region)[r.first + i];
	unmap(region, r.first, r.nr);
	done(OP_MREMAP);
}

static void fork_and_cow(unsigned int region, struct range r)
{
	bool child_writes = below(2), child_unmaps = below(2), we_write = below(2);
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return;
	if (!pid) {
		if (child_unmaps)
			munmap(region_page(region, r.first), r.nr * page_size);
		else if (child_writes)
			write_range(region, r, 8 + below(64), false);
		_exit(0);
	}
	if (we_write)
		write_range(region, r, 8 + below(64), false);
	if (waitpid(pid, &status, 0) != pid)
		return;
	if (status)
		fail("KILLED: a child of task %d ended with status 0x%x", getpid(), status);
	done(OP_FORK);
}

static void lock_part(void *addr, size_t len)
{
	/* Locked it is also when it could not fault all of it in: PROT_NONE. */
	bool whole = !mlock(addr, len);

	usleep(below(2000));
	munlock(addr, len);
	if (whole)
		done(OP_MLOCK);
}

static void protect_part(unsigned int region, struct range r)
{
	void *addr = region_page(region, r.first);

	if (!all_mapped(region, r.first, r.nr))
		return;
	mprotect(addr, r.nr * page_size, PROT_READ);
	if (mprotect(addr, r.nr * page_size, PROT_READ | PROT_WRITE))
		_exit(1);
	done(OP_MPROTECT);
}

static unsigned long pfn_of(const void *addr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)addr / page_size * 8) != 8)
		entry = 0;
	close(fd);
	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

/* What cannot be given back by hwpoison/unpoison-pfn is lost: only a few then. */
static void soft_offline(unsigned int region, unsigned int page)
{
	void *addr = region_page(region, page);
	unsigned long pfn = pfn_of(addr);
	char line[32];

	if (!pfn || __atomic_add_fetch(&control->offlined, 1, __ATOMIC_RELAXED) > MAX_OFFLINED)
		return;
	if (madvise(addr, page_size, MADV_SOFT_OFFLINE))
		return;
	done(OP_OFFLINE);
	snprintf(line, sizeof(line), "%lu", pfn);
	if (!ds_write_file("/sys/kernel/debug/hwpoison/unpoison-pfn", line))
		__atomic_sub_fetch(&control->offlined, 1, __ATOMIC_RELAXED);
}

/* Leaves memory behind in the old one, which may be removed with that. */
static void rehome(void)
{
	unsigned int old = my_slot;
	char path[256];

	my_slot = below(NR_SLOTS);
	if (!slot_enter(my_slot)) {
		my_slot = old;
		return;
	}
	if (my_slot == old)
		return;
	slot_path(old, path, sizeof(path));
	if (!rmdir(path))
		done(OP_REHOME);
}

static bool anything_mapped(unsigned int region)
{
	unsigned int page;

	for (page = 0; page < 2 * thp_pages; page++)
		if (region_want(region)[page] != NOT_MAPPED)
			return true;
	return false;
}

static void worker_step(struct task *me, enum op op)
{
	unsigned int region = below(NR_REGIONS);
	struct range r = draw_range();
	void *addr = region_page(region, r.first);
	size_t len = r.nr * page_size;

	if (settled && (op == OP_REHOME || op == OP_RESPAWN))
		op = OP_VERIFY;
	if (!anything_mapped(region))
		op = OP_MAP;
	me->op = op;
	switch (op) {
	case OP_MAP:
		map(region);
		if (below(4))
			trim(region, r);
		break;
	case OP_UNMAP_PART:
		unmap(region, r.first, r.nr);
		done(op);
		break;
	case OP_DONTNEED:
		/* One that fails may have done a part of it. */
		maybe_zero(region, r);
		if (!madvise(addr, len, MADV_DONTNEED)) {
			set_want(region, r.first, r.nr, 0);
			done(op);
		}
		break;
	case OP_FREE:
		maybe_zero(region, r);
		if (!madvise(addr, len, MADV_FREE))
			done(op);
		break;
	case OP_WRITE:
		write_range(region, r, 8 + below(64), below(4) == 0);
		done(op);
		break;
	case OP_VERIFY:
		verify(region, r, 1 + below(64));
		done(op);
		break;
	case OP_MREMAP:
		move_part(region, r);
		break;
	case OP_FORK:
		fork_and_cow(region, r);
		break;
	case OP_MLOCK:
		lock_part(addr, len);
		break;
	case OP_MPROTECT:
		protect_part(region, r);
		break;
	case OP_PAGEOUT:
		if (!madvise(addr, len, MADV_PAGEOUT))
			done(op);
		break;
	case OP_COLLAPSE:
		if (!madvise(region_page(region, 0), thp_size, MADV_COLLAPSE))
			done(op);
		break;
	case OP_UNMAP_ALL:
		unmap(region, 0, 2 * thp_pages);
		done(op);
		break;
	case OP_REHOME:
		rehome();
		break;
	case OP_OFFLINE:
		if (region_want(region)[r.first] != NOT_MAPPED)
			soft_offline(region, r.first);
		break;
	default:
		done(OP_RESPAWN);
		_exit(0);
	}
}

/* -- Stirrers and the scanner ---------------------------------------------- */

static struct task *draw_worker(void)
{
	return &control->tasks[below(control->nr_workers)];
}

static bool their_madvise(pid_t pid, char *addr, size_t len, int advice)
{
	struct iovec iov = { addr, len };
	int fd = syscall(SYS_pidfd_open, pid, 0);
	bool ok = fd >= 0 && syscall(SYS_process_madvise, fd, &iov, 1UL, advice, 0) >= 0;

	close(fd);
	return ok;
}

static void move_some(pid_t pid)
{
	int node = below(ds_nr_nodes()), status[16], nodes[16];
	unsigned int nr = 1 + below(16), i, moved = 0;
	void *pages[16];

	for (i = 0; i < nr; i++) {
		pages[i] = region_page(below(NR_REGIONS), below(thp_pages));
		nodes[i] = node;
		status[i] = -1;
	}
	/* MPOL_MF_MOVE_ALL: also what is shared with a child. */
	if (syscall(SYS_move_pages, pid, (unsigned long)nr, pages, nodes, status, 4) < 0)
		return;
	for (i = 0; i < nr; i++)
		moved += status[i] == node;
	if (moved)
		done(OP_MOVE_PAGES);
}

static void reclaim_some(void)
{
	char path[256], amount[32];

	if (below(2))
		slot_path(below(NR_SLOTS), path, sizeof(path) - 32);
	else
		snprintf(path, sizeof(path) - 32, "%s", base_dir);
	strcat(path, "/memory.reclaim");
	snprintf(amount, sizeof(amount), "%uK", 64 << below(7));
	if (!ds_write_file(path, amount))
		done(OP_RECLAIM);
}

static void peek(pid_t pid)
{
	char *addr = region_page(below(NR_REGIONS), below(thp_pages));
	char path[64], buf[64];
	int fd;

	/* What we read, we have a reference to. */
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (pread(fd, buf, sizeof(buf), (uintptr_t)addr) > 0)
		done(OP_PEEK);
	close(fd);
}

static void split_some(pid_t pid, char *addr, size_t len)
{
	/* Anonymous memory has no order 1. */
	unsigned int order = below(4) ? 0 : 2 + below(7);
	char line[96];

	snprintf(line, sizeof(line), "%d,0x%lx,0x%lx,%u", pid, (unsigned long)addr,
		 (unsigned long)addr + len, order);
	if (!ds_write_file("/sys/kernel/debug/split_huge_pages", line))
		done(OP_SPLIT);
}

static void stirrer_step(struct task *me, enum op op)
{
	unsigned long from = 1 + below(2), to = 3 - from;
	char *addr = region_page(below(NR_REGIONS), 0);
	pid_t pid = load(&draw_worker()->pid);
	struct range r = draw_range();

	if (!pid) {
		usleep(1000);
		return;
	}
	me->op = op;
	switch (op) {
	case OP_MOVE_PAGES:
		move_some(pid);
		break;
	case OP_MIGRATE_PAGES:
		if (!syscall(SYS_migrate_pages, pid, 8UL, &from, &to))
			done(op);
		break;
	case OP_THEIR_PAGEOUT:
		if (their_madvise(pid, addr + r.first * page_size, r.nr * page_size, MADV_PAGEOUT))
			done(op);
		break;
	case OP_THEIR_COLLAPSE:
		if (their_madvise(pid, addr, thp_size, MADV_COLLAPSE))
			done(op);
		break;
	case OP_THEIR_COLD:
		if (their_madvise(pid, addr + r.first * page_size, r.nr * page_size, MADV_COLD))
			done(op);
		break;
	case OP_RECLAIM:
		reclaim_some();
		break;
	case OP_SPLIT:
		split_some(pid, addr, thp_size);
		break;
	case OP_PEEK:
		peek(pid);
		break;
	case OP_COMPACT:
		if (!ds_write_file("/proc/sys/vm/compact_memory", "1"))
			done(op);
		break;
	default:
		if (!ds_write_file("/proc/sys/vm/drop_caches", "2"))
			done(op);
		break;
	}
}

/* -- Planted faults -------------------------------------------------------- */

/*
 * Partially mapped, and with a reference that no split can take. A scan may split it
 * before it has that, for being underused: then it is no THP any more.
 */
static bool plant_stuck(void)
{
	struct iovec iov;
	char *thp = ds_map_thp();
	int fds[2];

	if (!thp)
		return false;
	if (pipe(fds)) {
		munmap(thp, thp_size);
		return false;
	}
	iov = (struct iovec){ thp, page_size };
	if (vmsplice(fds[1], &iov, 1, 0) > 0 && ds_is_thp(thp) &&
	    !madvise(thp + thp_size / 2, thp_size / 2, MADV_DONTNEED)) {
		settled = true;
		return true;
	}
	close(fds[0]);
	close(fds[1]);
	munmap(thp, thp_size);
	return false;
}

/* By the first worker. Return: is it there? If not, it is tried again. */
static bool plant_in_worker(const char *plant)
{
	if (!strcmp(plant, "stall"))
		for (;;)
			pause();
	if (!strcmp(plant, "killed"))
		raise(SIGKILL);
	if (!strcmp(plant, "stuck"))
		return plant_stuck();
	if (!strcmp(plant, "content")) {
		unmap(0, 0, 2 * thp_pages);
		map(0);
		set_want(0, 0, thp_pages, 12345);
		verify(0, (struct range){ 0, thp_pages }, 1);
	}
	return true;
}

/* By somebody who is none of the tasks, and stays. */
static void plant_beside(const char *plant)
{
	char *thp;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!strcmp(plant, "taint"))
		ds_write_file("/proc/sys/kernel/tainted", "64");
	while (!strcmp(plant, "leak")) {
		thp = ds_map_thp();
		/* Nothing of it is zero, so no scan splits it; nor is it reclaimed. */
		if (thp && !mlock(thp, thp_size)) {
			memset(thp, 1, thp_size);
			if (ds_is_thp(thp))
				break;
		}
		usleep(1000);
	}
	store(&control->planted_beside, true);
	/* One read sees it: plant it again and again. */
	while (!strcmp(plant, "audit") && !ds_write_file(DS_SPLITQ "audit_plant", "count"))
		usleep(1000);
	for (;;)
		pause();
}

/* -- What a task does ------------------------------------------------------ */

static enum op draw(const struct mix *mix, size_t nr)
{
	unsigned int sum = 0, r;
	size_t i;

	for (i = 0; i < nr; i++)
		sum += mix[i].weight;
	r = below(sum);
	while (r >= mix->weight)
		r -= mix++->weight;
	return mix->op;
}

static void worker_start(struct task *me)
{
	size_t bytes = NR_REGIONS * 2 * thp_pages * sizeof(*want);
	unsigned int region;

	want = malloc(bytes);
	if (!want)
		_exit(1);
	memset(want, 0xff, bytes);
	for (region = 0; region < NR_REGIONS; region++)
		unmap(region, 0, 2 * thp_pages);
	my_slot = me->number % NR_SLOTS;
	if (!slot_enter(my_slot))
		_exit(1);
}

static void task_main(struct task *me)
{
	unsigned int region;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	random_seed(me->number + 1000ULL * me->generation);
	if (me->kind == WORKER)
		worker_start(me);
	while (!load(&control->stop)) {
		if (load(&control->pause)) {
			store(&me->paused, true);
			usleep(1000);
			continue;
		}
		store(&me->paused, false);
		if (!me->number && load(&control->to_plant) && plant_in_worker(control->plant))
			store(&control->to_plant, false);
		if (me->kind == WORKER)
			worker_step(me, draw(worker_mix, ARRAY_SIZE(worker_mix)));
		else if (me->kind == STIRRER)
			stirrer_step(me, draw(stirrer_mix, ARRAY_SIZE(stirrer_mix)));
		else
			scan_slot(below(NR_SLOTS + 1), 1 + below(128));
		__atomic_add_fetch(&me->steps, 1, __ATOMIC_RELAXED);
	}
	for (region = 0; me->kind == WORKER && region < NR_REGIONS; region++) {
		verify(region, (struct range){ 0, 2 * thp_pages }, 1);
		unmap(region, 0, 2 * thp_pages);
	}
	_exit(0);
}

/* -- Jitter ---------------------------------------------------------------- */

/*
 * How many points inside each, besides its entry. Not every kernel has every one.
 * Nothing that is done for each PTE of a THP: it would take all the time.
 */
static struct victim {
	const char *name;
	unsigned int inside;
	bool hold_often;	/* the scanner's own: it comes by seldom */
	char symbol[128];
	unsigned long size;
	bool *hot;		/* by offset: in a loop, as a round has shown */
} victims[] = {
	{ "deferred_split_scan", 32, true },
	{ "deferred_split_isolate", 8, true },
	{ "deferred_split_requeue", 8, true },
	{ "split_queue_add", 3 },
	{ "__split_queue_add", 3 },
	{ "split_queue_del", 3 },
	{ "deferred_split_folio", 4 },
	{ "__folio_unqueue_deferred_split", 3 },
	{ "folio_leave_split_queue", 2 },
	{ "folio_end_partially_mapped", 2 },
	{ "split_huge_page_to_list_to_order", 6 },
	{ "__split_huge_page", 2 },
	{ "__folio_split", 6 },
	{ "__folio_freeze_and_split_unmapped", 4 },
	{ "__split_unmapped_folio", 2 },
	{ "migrate_folio_move", 6 },
	{ "__migrate_folio", 3 },
	{ "__folio_migrate_mapping", 4 },
	{ "remove_migration_ptes", 1 },
	{ "__remove_mapping", 3 },
	{ "thp_underused", 1 },
	{ "folio_remove_rmap_pmd", 1 },
	{ "mem_cgroup_migrate", 1 },
	{ "mem_cgroup_css_offline", 1 },
	{ "collapse_huge_page", 2 },
	{ "folios_put_refs", 1 },
	{ "list_lru_add", 1 },
	{ "list_lru_del", 1 },
	{ "__list_lru_add", 2 },
	{ "__list_lru_del", 2 },
	{ "list_lru_isolate", 1 },
	{ "memcg_reparent_list_lrus", 1 },
};

#define JITTER DS_SPLITQ "jitter"

/* Hits a second that make a point hot, and how much around it is so as well. */
#define HOT_HITS	300
#define HOT_BYTES	16

static struct {
	long points, hits, holds, rounds;
	double drawn_at;
} jitter;

static bool have_jitter(void)
{
	return !access(JITTER, W_OK);
}

/* In /proc/kallsyms; the compiler may have put .isra.0 or so behind the name. */
static void victims_find(void)
{
	unsigned long addr, start = 0;
	struct victim *last = NULL, *v;
	char line[512], symbol[128], type;
	FILE *f = fopen("/proc/kallsyms", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx %c %127s", &addr, &type, symbol) != 3)
			continue;
		if (last && addr != start) {
			last->hot = calloc(addr - start, sizeof(*last->hot));
			last->size = last->hot ? addr - start : 0;
			last = NULL;
		}
		if (!addr || strchr(line, '[') || (type != 't' && type != 'T') ||
		    strstr(symbol, ".cold"))
			continue;
		for (v = victims; v < victims + ARRAY_SIZE(victims); v++) {
			size_t len = strlen(v->name);

			if (!v->size && !strncmp(symbol, v->name, len) &&
			    (!symbol[len] || symbol[len] == '.')) {
				snprintf(v->symbol, sizeof(v->symbol), "%s", symbol);
				start = addr;
				last = v;
				break;
			}
		}
	}
	if (f)
		fclose(f);
}

static int jitter_point(const struct victim *v, unsigned long offset)
{
	char line[192];

	snprintf(line, sizeof(line), "%s+0x%lx %s", v->symbol, offset,
		 v->hold_often ? "one_in=2 max_us=1000" : "");
	return ds_write_file(JITTER, line);
}

/* At the next start of an instruction: none is longer than 15 bytes. */
static bool jitter_point_near(const struct victim *v, unsigned long offset)
{
	unsigned long end = offset + 16;
	int err = -EILSEQ;

	for (; err == -EILSEQ && offset < end && offset < v->size; offset++)
		if (!v->hot[offset])
			err = jitter_point(v, offset);
	return !err;
}

static void jitter_hot(const char *symbol, unsigned long offset)
{
	struct victim *v;
	unsigned long o;

	for (v = victims; v < victims + ARRAY_SIZE(victims); v++) {
		if (!v->size || strcmp(v->symbol, symbol))
			continue;
		o = offset > HOT_BYTES ? offset - HOT_BYTES : 0;
		for (; o < offset + HOT_BYTES && o < v->size; o++)
			v->hot[o] = true;
	}
}

/*
 * What the points that are there now have counted. One that is hit for each page
 * of a THP takes more time than it is worth: not there again.
 */
static void jitter_collect(void)
{
	double seconds = ds_now() - jitter.drawn_at;
	char line[256], symbol[128];
	FILE *f = fopen(JITTER, "re");
	unsigned long offset;
	long hits, holds;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "all seed=%*s one_in=%*s max_us=%*s points=%*s hits=%ld holds=%ld",
			   &hits, &holds) == 2) {
			jitter.hits += hits;
			jitter.holds += holds;
		} else if (sscanf(line, "%127[^+]+%lx one_in=%*s max_us=%*s hits=%ld", symbol,
				  &offset, &hits) == 3 && hits > HOT_HITS * seconds) {
			jitter_hot(symbol, offset);
		}
	}
	if (f)
		fclose(f);
}

static void jitter_off(void)
{
	if (!have_jitter())
		return;
	jitter_collect();
	ds_write_file(JITTER, "off");
	jitter.points = 0;
}

/* Other points, and other settings: few long holds, or many short ones. */
static void jitter_draw(void)
{
	static const struct { unsigned int one_in, max_us; } settings[] = {
		{ 2, 20 }, { 8, 100 }, { 32, 500 }, { 64, 1000 },
	};
	unsigned int s = below(ARRAY_SIZE(settings)), i;
	struct victim *v;
	char line[96];

	if (!have_jitter())
		return;
	jitter_off();
	jitter.rounds++;
	jitter.drawn_at = ds_now();
	snprintf(line, sizeof(line), "seed=%u one_in=%u max_us=%u", below(1U << 31),
		 settings[s].one_in, settings[s].max_us);
	ds_write_file(JITTER, line);
	for (v = victims; v < victims + ARRAY_SIZE(victims); v++) {
		if (!v->size)
			continue;
		jitter.points += jitter_point_near(v, 0);
		for (i = 0; i < v->inside; i++)
			jitter.points += jitter_point_near(v, below(v->size));
	}
}

/* -- Counters -------------------------------------------------------------- */

static struct {
	char name[40];
	long nr_anon, partially_mapped;
} orders[MAX_ORDERS];

static unsigned int nr_orders;

static long order_stat(unsigned int i, const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), THP_DIR "%.39s/stats/%s", orders[i].name, name);
	return get_number(path);
}

static long sum_stat(const char *name)
{
	long sum = 0, n;
	unsigned int i;

	for (i = 0; i < nr_orders; i++) {
		n = order_stat(i, name);
		sum += n > 0 ? n : 0;
	}
	return sum;
}

static void orders_find(void)
{
	struct dirent *d;
	DIR *dir = opendir(THP_DIR);

	while (dir && (d = readdir(dir)) && nr_orders < MAX_ORDERS) {
		if (strncmp(d->d_name, "hugepages-", 10))
			continue;
		snprintf(orders[nr_orders].name, sizeof(orders[0].name), "%.32s", d->d_name);
		orders[nr_orders].nr_anon = order_stat(nr_orders, "nr_anon");
		orders[nr_orders].partially_mapped = order_stat(nr_orders,
								"nr_anon_partially_mapped");
		/* A file per order that a fault cannot have either: no stats there. */
		if (orders[nr_orders].partially_mapped >= 0)
			nr_orders++;
	}
	if (dir)
		closedir(dir);
}

/* Every size that the kernel has, at fault with madvise(). */
static void orders_enable(void)
{
	char path[256];
	unsigned int i;

	for (i = 0; i < nr_orders; i++) {
		snprintf(path, sizeof(path), THP_DIR "%.39s/enabled", orders[i].name);
		ds_knob_set(path, "madvise");
	}
}

static unsigned long taint(void)
{
	long mask = get_number("/proc/sys/kernel/tainted");

	return mask > 0 ? mask & ~TAINT_MODULE : 0;
}

/* -- The module's audits --------------------------------------------------- */

static char report[1 << 20];
static bool have_audit;
static long entries_before;

/* Reads a report; the number of the queues' entries if it is ok, else -1. */
static long audit_read(const char *file)
{
	char path[128], *last;
	long a, b;
	ssize_t len;

	snprintf(path, sizeof(path), DS_SPLITQ "%s", file);
	len = get(path, report, sizeof(report));
	if (len <= 0)
		return -1;
	report[len - 1] = '\0';
	last = strrchr(report, '\n');
	last = last ? last + 1 : report;
	return sscanf(last, "audit ok %*[a-z]=%ld %*[a-z]=%ld", &a, &b) == 2 ? b : -1;
}

/* The first line that says what is wrong, and all of them in the output. */
static const char *audit_complaint(void)
{
	static char first[200];
	char *save, *line = strtok_r(report, "\n", &save);

	snprintf(first, sizeof(first), "no report");
	for (; line; line = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(line, "wrong", 5) || !strncmp(line, "audit unknown", 13)) {
			if (!strcmp(first, "no report"))
				snprintf(first, sizeof(first), "%s", line);
			ksft_print_msg("%s\n", line);
		}
	}
	return first;
}

static void audit_check(const char *file)
{
	double end = ds_now() + SETTLE_SECONDS;

	while (audit_read(file) < 0) {
		if (ds_now() > end) {
			fail("AUDIT: %s: %s", file, audit_complaint());
			return;
		}
		usleep(200000);
	}
}

/* Partially mapped folios on the queues of a memcg, by the last report. */
static long queued_partially_mapped(unsigned long ino)
{
	char start[64], *line = report;
	long sum = 0, n;

	snprintf(start, sizeof(start), "queue memcg=%lu ", ino);
	while ((line = strstr(line, start))) {
		if (sscanf(line + strlen(start),
			   "nid=%*s count=%*d entries=%*d partially_mapped=%ld", &n) == 1)
			sum += n;
		line++;
	}
	return sum;
}

/* Nothing happens: a scan splits what is partially mapped, if the memcg is online. */
static void check_scan_splits(void)
{
	double end = ds_now() + SETTLE_SECONDS;
	struct ds_memcg memcg;
	unsigned int slot;
	long left, n;

	for (;;) {
		/* 1: with that, pages in per-CPU batches lose their references. */
		ds_write_file("/proc/sys/vm/drop_caches", "1");
		for (slot = 0; slot <= NR_SLOTS; slot++)
			scan_slot(slot, 1000);
		left = 0;
		if (audit_read("audit") < 0) {
			left = -1;
		} else {
			for (slot = 0; slot < NR_SLOTS; slot++) {
				n = slot_memcg(slot, &memcg) ? queued_partially_mapped(memcg.ino) :
							       0;
				left += n;
			}
		}
		if (!left)
			return;
		if (ds_now() > end)
			break;
		usleep(100000);
	}
	if (left < 0)
		fail("AUDIT: after a scan: %s", audit_complaint());
	else
		fail("STUCK: %ld partially mapped THPs are queued, and no scan splits them", left);
}

/* -- The supervisor -------------------------------------------------------- */

static long total_steps(void)
{
	long sum = 0;
	unsigned int i;

	for (i = 0; i < control->nr_tasks; i++)
		sum += load(&control->tasks[i].steps);
	return sum;
}

static void start_task(struct task *t)
{
	pid_t pid;

	t->seen_at = ds_now();
	fflush(stdout);
	pid = fork();
	if (!pid)
		task_main(t);
	if (pid < 0)
		fail("KILLED: fork: %s", strerror(errno));
	store(&t->pid, pid > 0 ? pid : 0);
}

/* Who has ended? Workers do so by themselves; at the end, all. */
static void reap(bool respawn)
{
	struct task *t;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (t = control->tasks; t < control->tasks + control->nr_tasks; t++)
			if (t->pid == pid)
				break;
		if (t == control->tasks + control->nr_tasks)
			continue;
		store(&t->pid, 0);
		t->generation++;
		if (status)
			fail("KILLED: task %u (%s) ended with status 0x%x", t->number,
			     op_names[t->op], status);
	}
	for (t = control->tasks; respawn && t < control->tasks + control->nr_tasks; t++)
		if (!t->pid)
			start_task(t);
}

static void print_stack(const struct task *t)
{
	char path[64], stack[4096], *save, *line;

	snprintf(path, sizeof(path), "/proc/%d/stack", t->pid);
	if (get(path, stack, sizeof(stack)) <= 0)
		return;
	for (line = strtok_r(stack, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		ksft_print_msg("  %s\n", line);
}

static void stall(const struct task *t, const char *what)
{
	unsigned int i;

	fail("STALL: task %u (%s) %s for %d s", t->number, op_names[t->op], what, STALL_SECONDS);
	for (i = 0; i < control->nr_tasks; i++) {
		const struct task *other = &control->tasks[i];

		ksft_print_msg("task %u pid %d %s steps=%ld\n", other->number, other->pid,
			       op_names[other->op], other->steps);
		if (other->pid)
			print_stack(other);
	}
}

static void watch_progress(void)
{
	double now = ds_now();
	struct task *t;

	for (t = control->tasks; t < control->tasks + control->nr_tasks; t++) {
		long steps = load(&t->steps);

		if (steps != t->steps_seen) {
			t->steps_seen = steps;
			t->seen_at = now;
		} else if (now - t->seen_at > STALL_SECONDS) {
			stall(t, "made no step");
			return;
		}
	}
}

/* Wait until all are paused, or gone; false if somebody is not. */
static bool all_quiet(bool gone)
{
	double end = ds_now() + STALL_SECONDS;
	struct task *t;

	for (t = control->tasks; t < control->tasks + control->nr_tasks;) {
		reap(false);
		if (failed())
			return false;
		if (!load(&t->pid) || (!gone && load(&t->paused))) {
			t++;
			continue;
		}
		if (ds_now() > end) {
			stall(t, gone ? "did not end" : "did not pause");
			return false;
		}
		usleep(1000);
	}
	return true;
}

static struct {
	long checkpoints, scan_splits, queued, partially_mapped;
} sums;

static void go_on(void)
{
	struct task *t;

	for (t = control->tasks; t < control->tasks + control->nr_tasks; t++) {
		store(&t->paused, false);
		t->seen_at = ds_now();
	}
	store(&control->pause, false);
}

/* While nobody runs: points that are made under load take ten times as long. */
static void redraw_jitter(void)
{
	store(&control->pause, true);
	if (!all_quiet(false))
		return;
	jitter_draw();
	go_on();
}

/* The memory is mapped and nobody does anything: is all as it should be? */
static void checkpoint(bool goes_on)
{
	unsigned int slot;
	char *canary;
	long splits;

	store(&control->pause, true);
	if (!all_quiet(false))
		return;
	ds_set_underused(false);
	/* The scanners leave little behind: something that is there to be split. */
	canary = ds_map_thp();
	if (canary)
		madvise(canary + ds_thp_size() / 2, ds_thp_size() / 2, MADV_DONTNEED);
	sums.partially_mapped += sum_stat("nr_anon_partially_mapped");
	if (have_audit) {
		audit_check("audit");
		if (!failed())
			sums.queued += audit_read("audit");
		if (!failed())
			audit_check("audit_marked");
	}
	splits = sum_stat("split");
	if (have_audit && !failed())
		check_scan_splits();
	for (slot = 0; slot <= NR_SLOTS; slot++)
		scan_slot(slot, 1000);
	sums.scan_splits += sum_stat("split") - splits;
	if (canary)
		munmap(canary, ds_thp_size());
	sums.checkpoints++;
	if (goes_on && !failed())
		jitter_draw();
	go_on();
}

static void print_progress(double seconds)
{
	ksft_print_msg("%3.0f s: steps=%ld map=%ld unmap_part=%ld scan=%ld moved=%ld fork=%ld "
		       "partially_mapped=%ld checkpoints=%ld jitter_points=%ld\n",
		       seconds, total_steps(), control->done[OP_MAP],
		       control->done[OP_UNMAP_PART], control->done[OP_SCAN],
		       control->done[OP_MOVE_PAGES], control->done[OP_FORK],
		       sum_stat("nr_anon_partially_mapped"), sums.checkpoints, jitter.points);
}

/*
 * When is a THP underused? With 0, if any page of it is zero; with all but one or
 * two, only if hardly any is not: then the scanner looks at all of it, for nothing.
 */
static void draw_underused(void)
{
	const unsigned int values[] = { 0, 0, thp_pages / 2, thp_pages - 8, thp_pages - 2,
					thp_pages - 1 };
	char line[16];

	snprintf(line, sizeof(line), "%u", values[below(ARRAY_SIZE(values))]);
	ds_write_file(THP_DIR "khugepaged/max_ptes_none", line);
}

/* Is something to be planted, and not there yet? */
static bool planting(void)
{
	return control->plant &&
	       (load(&control->to_plant) || !load(&control->planted_beside));
}

static void supervise(double seconds)
{
	double start = ds_now(), line = start, check = start;
	bool told = !control->plant;
	unsigned long tainted = taint();

	while (!failed() && (ds_now() - start < seconds ||
			     (planting() && ds_now() - start < seconds + PLANT_SECONDS))) {
		usleep(100000);
		reap(true);
		watch_progress();
		if (taint() != tainted)
			fail("TAINT: /proc/sys/kernel/tainted became 0x%lx", taint());
		if (ds_now() - line < 1)
			continue;
		line = ds_now();
		print_progress(line - start);
		draw_underused();
		/* The first ones teach what is hot. */
		if (have_jitter() && jitter.rounds < 3)
			redraw_jitter();
		if (!told && line - start > 3) {
			told = true;
			store(&control->to_plant, true);
			fflush(stdout);
			if (!fork())
				plant_beside(control->plant);
		}
		if (line - check > CHECK_SECONDS) {
			checkpoint(true);
			check = ds_now();
		}
	}
}

/* All is unmapped: what is left? */
static void check_leaks(void)
{
	double end = ds_now() + SETTLE_SECONDS;
	unsigned int i;
	char what[160];

	for (;;) {
		what[0] = '\0';
		for (i = 0; i < nr_orders; i++) {
			long marked = order_stat(i, "nr_anon_partially_mapped");
			long anon = order_stat(i, "nr_anon");

			if (marked != orders[i].partially_mapped)
				snprintf(what, sizeof(what),
					 "nr_anon_partially_mapped of %.39s is %ld, was %ld",
					 orders[i].name, marked, orders[i].partially_mapped);
			else if (!what[0] && anon != orders[i].nr_anon)
				snprintf(what, sizeof(what), "nr_anon of %.39s is %ld, was %ld",
					 orders[i].name, anon, orders[i].nr_anon);
		}
		if (!what[0] && have_audit) {
			long entries = audit_read("audit");

			if (entries < 0)
				snprintf(what, sizeof(what), "the audit is not ok");
			else if (entries > entries_before)
				snprintf(what, sizeof(what), "%ld folios are queued, %ld were",
					 entries, entries_before);
		}
		if (!what[0])
			return;
		if (ds_now() > end)
			break;
		/* Per-CPU batches, and what was left in the swap cache. */
		ds_write_file("/proc/sys/vm/drop_caches", "1");
		ds_write_file(CGROUP_DIR "memory.reclaim", "16M");
		usleep(200000);
	}
	fail("LEAK: all is unmapped, and %s", what);
}

static void start_all(unsigned int nr_workers)
{
	unsigned int i;

	control->nr_workers = nr_workers;
	control->nr_tasks = nr_workers + NR_STIRRERS + NR_SCANNERS;
	for (i = 0; i < control->nr_tasks; i++) {
		struct task *t = &control->tasks[i];

		t->number = i;
		t->kind = i < nr_workers ? WORKER :
			  i < nr_workers + NR_STIRRERS ? STIRRER : SCANNER;
		start_task(t);
	}
}

static void kill_all(void)
{
	struct task *t;

	for (t = control->tasks; t < control->tasks + control->nr_tasks; t++)
		if (t->pid)
			kill(t->pid, SIGKILL);
}

static void print_missing(void)
{
	char line[512] = "";
	struct victim *v;

	for (v = victims; v < victims + ARRAY_SIZE(victims); v++)
		if (!v->size && strlen(line) + strlen(v->name) + 2 < sizeof(line)) {
			strcat(line, " ");
			strcat(line, v->name);
		}
	ksft_print_msg("no jitter in what this kernel does not have:%s\n", line[0] ? line : " -");
}

/* What must have happened for a pass to mean something; NULL: all did. */
static const char *vacuous(long splits, long deferred)
{
	static char what[64];
	static const enum op must[] = { OP_MAP, OP_UNMAP_PART, OP_UNMAP_ALL, OP_FORK, OP_SCAN };
	unsigned int i;

	if (planting())
		return "what was to be planted is not there";
	for (i = 0; i < ARRAY_SIZE(must); i++)
		if (!control->done[must[i]]) {
			snprintf(what, sizeof(what), "no %s", op_names[must[i]]);
			return what;
		}
	if (ds_nr_nodes() > 1 && !control->done[OP_MOVE_PAGES])
		return "nothing was migrated";
	if (!sums.checkpoints)
		return "not one checkpoint: too short";
	if (have_audit && !sums.queued)
		return "nothing was queued at any checkpoint";
	if (!deferred)
		return "no THP was queued for being partially mapped";
	if (!splits || !sums.scan_splits)
		return "nothing was split by a scan";
	if (have_jitter() && !jitter.holds)
		return "nobody was held";
	return NULL;
}

static bool is_plant(const char *word)
{
	static const char * const plants[] = {
		"stall", "taint", "killed", "content", "audit", "stuck", "leak",
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(plants); i++)
		if (!strcmp(word, plants[i]))
			return true;
	return false;
}

static bool parse(const char *text, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	return *text >= '0' && *text <= '9' && !*end && !errno;
}

static void print_result(double seconds, long splits, long deferred)
{
	char ops[1024] = "";
	size_t len = 0;
	unsigned int i;

	for (i = 0; i < NR_OPS; i++)
		len += snprintf(ops + len, sizeof(ops) - len, " %s=%ld", op_names[i],
				control->done[i]);
	ksft_print_msg("window torture entered=%ld deferred=%ld scan_splits=%ld queued=%ld "
		       "partially_mapped=%ld checkpoints=%ld hits=%ld holds=%ld\n",
		       splits, deferred, sums.scan_splits, sums.queued, sums.partially_mapped,
		       sums.checkpoints, jitter.hits, jitter.holds);
	ksft_print_msg("torture: %s seed=%llu seconds=%.0f ops=%ld%s%s%s\n",
		       failed() ? "FAILURE" : "SUCCESS", (unsigned long long)seed, seconds,
		       total_steps(), ops, failed() ? " : " : "",
		       failed() ? control->failure : "");
}

static const char *setup(void)
{
	const char *why = ds_setup(1);

	if (why)
		return why;
	thp_size = ds_thp_size();
	page_size = sysconf(_SC_PAGESIZE);
	thp_pages = thp_size / page_size;
	arena = mmap(NULL, (2 * NR_REGIONS + 1) * thp_size, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	control = ds_shared(sizeof(*control));
	if (arena == MAP_FAILED || !control)
		return "no memory";
	arena = (char *)(((uintptr_t)arena + thp_size - 1) & ~(thp_size - 1));
	atexit(slots_remove);
	if (!slots_create())
		return "needs cgroup v2 with the memory controller";
	orders_find();
	orders_enable();
	entries_before = audit_read("audit");
	have_audit = entries_before >= 0;
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t seconds = 0, workers = 4;
	long splits, deferred;
	const char *why;
	double start;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1 && !strcmp(argv[1], "-h")) {
		printf("arguments: SECONDS SEED [WORKERS [PLANT]]\n");
		return 0;
	}
	if (argc < 3 || !parse(argv[1], &seconds) || !seconds || !parse(argv[2], &seed) ||
	    (argc > 3 && (!parse(argv[3], &workers) || !workers || workers > MAX_WORKERS)) ||
	    (argc > 4 && !is_plant(argv[4]))) {
		printf("arguments: SECONDS SEED [WORKERS [PLANT]]; at most %d workers\n"
		       "PLANT: stall taint killed content audit stuck leak\n", MAX_WORKERS);
		return 2;
	}
	ksft_print_header();
	ksft_set_plan(1);
	why = setup();
	if (why)
		ksft_exit_skip("%s\n", why);

	control->plant = argc > 4 ? argv[4] : NULL;
	random_seed(MAX_TASKS);
	ksft_print_msg("SEED=%llu SECONDS=%llu, %llu workers, %d stirrers, %d scanners, "
		       "%u sizes of THPs\n",
		       (unsigned long long)seed, (unsigned long long)seconds,
		       (unsigned long long)workers, NR_STIRRERS, NR_SCANNERS, nr_orders);
	if (have_jitter()) {
		victims_find();
		print_missing();
		jitter_draw();
	} else {
		ksft_print_msg("no splitq module with jitter: nobody is held\n");
	}
	if (!have_audit)
		ksft_print_msg("no audit by the splitq module: only counters are looked at\n");
	splits = sum_stat("split");
	deferred = sum_stat("split_deferred");

	start = ds_now();
	start_all(workers);
	supervise(seconds);
	if (!failed())
		checkpoint(false);
	store(&control->stop, true);
	if (!failed() && all_quiet(true)) {
		jitter_off();
		check_leaks();
	}
	if (failed()) {
		wait_for_failure();
		kill_all();
	}
	jitter_off();
	splits = sum_stat("split") - splits;
	deferred = sum_stat("split_deferred") - deferred;
	print_result(ds_now() - start, splits, deferred);
	why = failed() ? NULL : vacuous(splits, deferred);
	if (failed())
		ksft_test_result_fail("torture\n");
	else if (why)
		ksft_test_result_skip("torture VACUOUS: %s\n", why);
	else
		ksft_test_result_pass("torture\n");
	ksft_finished();
}
