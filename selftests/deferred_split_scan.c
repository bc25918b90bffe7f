// SPDX-License-Identifier: GPL-2.0
/*
 * What a scan does with what is queued, while nobody else is about: which folios it
 * takes and how many, what it puts back and where, and what is counted. No module is
 * needed, but to see what it returns, and nothing depends on time.
 *
 * Several folios of a small size, a page of each unmapped: they are split from the head
 * of the queue, as many as was asked for, also if that is more than are taken off at a
 * time. One that somebody has a reference to goes to the tail. Then one THP, that is
 * underused or partially mapped: it keeps its place on the queue when it is moved, when
 * it has taken the place of the huge zeropage, and when its memcg is gone;
 * and reclaim of its memcg splits it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define SIZE	(64UL << 10)
#define NR	40			/* more than a scan takes at a time */
#define TRIES	200			/* 10 ms each */

static const struct ds_memcg root = { .dir = "/sys/fs/cgroup/" };

/* NULL, or why this machine will not do; then we are in a memcg of our own. */
static const char *begin(struct ds_memcg *memcg, bool underused)
{
	const char *why = ds_unusable();

	if (!why)
		why = ds_knobs_set();
	if (!why)
		why = ds_set_underused(underused);
	if (why)
		return why;
	ds_pin_to_cpu(0);
	ds_memcg_create(memcg);
	if (!memcg->dir[0] || !ds_memcg_enter(memcg))
		return "needs cgroup v2 with the memory controller";
	return NULL;
}

static void end(struct ds_memcg *memcg)
{
	ds_memcg_enter(&root);
	ds_memcg_remove(memcg);
	ds_knobs_restore();
}

/* It is there: from now on khugepaged leaves it alone. */
static void keep_as_it_is(char *folio, size_t size)
{
	madvise(folio, size, MADV_NOHUGEPAGE);
	ds_drain();
}

static void unmap_last_page(char *folio, size_t size)
{
	size_t page = sysconf(_SC_PAGESIZE);

	madvise(folio + size - page, page, MADV_DONTNEED);
}

static void scan_nodes(const struct ds_memcg *memcg, unsigned long nr)
{
	int nid;

	for (nid = 0; nid < ds_nr_nodes(); nid++)
		ds_scan(memcg, nid, nr);
}

/* A pipe has a reference to the first page until it is closed. */
static bool refer(char *folio, int *pipefd)
{
	struct iovec iov = { folio, sysconf(_SC_PAGESIZE) };

	return !pipe2(pipefd, O_CLOEXEC) &&
	       vmsplice(pipefd[1], &iov, 1, 0) == (ssize_t)iov.iov_len;
}

static void let_go(int *pipefd)
{
	close(pipefd[0]);
	close(pipefd[1]);
}

/* -- Several folios ------------------------------------------------------- */

FIXTURE(queue) {
	struct ds_memcg memcg;
	char *map, *folios;
	size_t map_size;
	long marked;
	int nid;
};

static char *folio_of(const char *folios, int i)
{
	return (char *)folios + i * SIZE;
}

static int nr_whole(const char *folios, int from, int to)
{
	int i, nr = 0;

	for (i = from; i < to; i++)
		nr += ds_is_thp(folio_of(folios, i));
	return nr;
}

FIXTURE_SETUP(queue)
{
	const char *why = begin(&self->memcg, false);
	int i;

	if (!why)
		why = ds_set_size_enabled(SIZE);
	if (why)
		SKIP(return, "%s", why);
	self->map_size = 2 * NR * SIZE + 2 * ds_thp_size();
	self->map = mmap(NULL, self->map_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->map);
	/* Half of them on either side of where a THP would begin: none fits in. */
	self->folios = (char *)(((uintptr_t)self->map + NR * SIZE / 2 + ds_thp_size() - 1) &
				~(ds_thp_size() - 1)) - NR * SIZE / 2;
	madvise(self->folios, NR * SIZE, MADV_HUGEPAGE);
	for (i = 0; i < NR; i++)
		folio_of(self->folios, i)[0] = 1;
	self->nid = ds_node_of(0, self->folios);
	for (i = 0; i < NR; i++)
		if (!ds_is_thp(folio_of(self->folios, i)) ||
		    ds_node_of(0, folio_of(self->folios, i)) != self->nid)
			SKIP(return, "no folios of that size on one node");
	keep_as_it_is(self->folios, NR * SIZE);
	self->marked = ds_size_stat(SIZE, "nr_anon_partially_mapped");
	ASSERT_GE(self->marked, 0);
	ASSERT_EQ(0, ds_count(&self->memcg));
}

FIXTURE_TEARDOWN(queue)
{
	if (self->map && self->map != MAP_FAILED)
		munmap(self->map, self->map_size);
	end(&self->memcg);
}

TEST_F(queue, as_many_as_asked_for_from_the_head)
{
	struct ds_memcg other;
	int i;

	for (i = 0; i < NR; i++)
		unmap_last_page(folio_of(self->folios, i), SIZE);
	EXPECT_EQ(self->marked + NR, ds_size_stat(SIZE, "nr_anon_partially_mapped"))
		TH_LOG("UNMARKED: a page of each is unmapped");
	ASSERT_EQ(NR, ds_count_node(&self->memcg, self->nid))
		TH_LOG("LOST: a page of each is unmapped, and they are not all counted");
	ds_memcg_create(&other);
	EXPECT_EQ(0, ds_count(&other)) TH_LOG("LEAK: a memcg without any folio has some queued");
	ds_memcg_remove(&other);

	ds_scan(&self->memcg, self->nid, 1);
	EXPECT_EQ(NR - 1, nr_whole(self->folios, 0, NR)) TH_LOG("of a scan of 1");
	EXPECT_EQ(0, nr_whole(self->folios, 0, 1)) TH_LOG("the first in is not the first out");
	ds_scan(&self->memcg, self->nid, 5);
	EXPECT_EQ(NR - 6, nr_whole(self->folios, 0, NR)) TH_LOG("of a scan of 5");
	EXPECT_EQ(0, nr_whole(self->folios, 0, 6)) TH_LOG("the first in are not the first out");
	EXPECT_EQ(NR - 6, ds_count_node(&self->memcg, self->nid));
	ds_scan(&self->memcg, self->nid, NR);
	EXPECT_EQ(0, nr_whole(self->folios, 0, NR)) TH_LOG("STUCK: in a scan of %d", NR);
	EXPECT_EQ(0, ds_count(&self->memcg)) TH_LOG("LEAK: all are split, and some are queued");
	EXPECT_EQ(self->marked, ds_size_stat(SIZE, "nr_anon_partially_mapped"))
		TH_LOG("LEAK: all are split");
}

TEST_F(queue, what_is_referenced_goes_to_the_tail)
{
	int pipefd[2], i;

	for (i = 0; i < 3; i++)
		unmap_last_page(folio_of(self->folios, i), SIZE);
	ASSERT_TRUE(refer(self->folios, pipefd));
	ds_scan(&self->memcg, self->nid, 1);
	EXPECT_EQ(3, nr_whole(self->folios, 0, 3)) TH_LOG("the first one cannot be split");
	EXPECT_EQ(3, ds_count_node(&self->memcg, self->nid))
		TH_LOG("LOST: what cannot be split is not put back");
	ds_scan(&self->memcg, self->nid, 1);
	EXPECT_EQ(0, nr_whole(self->folios, 1, 2))
		TH_LOG("STUCK: behind one that cannot be split");
	EXPECT_EQ(1, nr_whole(self->folios, 2, 3));
	let_go(pipefd);
	ds_scan(&self->memcg, self->nid, NR);
	EXPECT_EQ(0, nr_whole(self->folios, 0, 3))
		TH_LOG("STUCK: after it could not be split once");
	EXPECT_EQ(0, ds_count(&self->memcg)) TH_LOG("LEAK: all are split, and some are queued");
	EXPECT_EQ(self->marked, ds_size_stat(SIZE, "nr_anon_partially_mapped"))
		TH_LOG("LEAK: all are split");
}

/* More of them than a scan takes at a time, and all before the others. */
TEST_F(queue, what_is_referenced_does_not_keep_a_scan_from_the_rest)
{
	int pipefd[NR - 5][2], i;

	for (i = 0; i < NR; i++)
		unmap_last_page(folio_of(self->folios, i), SIZE);
	for (i = 0; i < NR - 5; i++)
		ASSERT_TRUE(refer(folio_of(self->folios, i), pipefd[i]));
	ds_scan(&self->memcg, self->nid, NR);
	EXPECT_EQ(NR - 5, nr_whole(self->folios, 0, NR - 5)) TH_LOG("they cannot be split");
	EXPECT_EQ(0, nr_whole(self->folios, NR - 5, NR))
		TH_LOG("STUCK: behind many that cannot be split");
	EXPECT_EQ(NR - 5, ds_count_node(&self->memcg, self->nid))
		TH_LOG("LOST: what cannot be split is not put back");
	for (i = 0; i < NR - 5; i++)
		let_go(pipefd[i]);
	ds_scan(&self->memcg, self->nid, NR);
	EXPECT_EQ(0, nr_whole(self->folios, 0, NR))
		TH_LOG("STUCK: after they could not be split once");
	EXPECT_EQ(0, ds_count(&self->memcg)) TH_LOG("LEAK: all are split, and some are queued");
	EXPECT_EQ(self->marked, ds_size_stat(SIZE, "nr_anon_partially_mapped"))
		TH_LOG("LEAK: all are split");
}

static bool is_kernel(int major, int minor)
{
	struct utsname name;
	int a, b;

	return !uname(&name) && sscanf(name.release, "%d.%d", &a, &b) == 2 &&
	       (a > major || (a == major && b >= minor));
}

#define SHRINK_STOP	(~0UL)
#define SHRINK_EMPTY	(~0UL - 1)
#define NO_RETURN	4242UL		/* neither the one nor the other was called */

/* What is returned at the next return of a function that we call; by the module. */
static void watch_return(const char *function)
{
	char line[80];

	snprintf(line, sizeof(line), "%s%%return pid=%d hold_ms=1", function, getpid());
	ds_pause_line(line);
}

static unsigned long returned(void)
{
	unsigned long ret;

	return ds_pause_return(0, &ret) ? NO_RETURN : ret;
}

/* What reclaim takes for progress; SHRINK_STOP, if it is asked not to come again. */
static unsigned long scan_returns(struct ds_memcg *memcg, int nid, long nr)
{
	watch_return("deferred_split_scan");
	ds_scan(memcg, nid, nr);
	return returned();
}

/* Of the first queue that is counted: that of the root memcg. */
static unsigned long count_returns(struct ds_memcg *memcg, int nid)
{
	watch_return("deferred_split_count");
	ds_count_node(memcg, nid);
	return returned();
}

TEST_F(queue, a_scan_returns_how_many_it_has_split)
{
	int pipefd[2], i;

	if (!ds_have_module())
		SKIP(return, "needs the module splitq, to see what a function returns");
	for (i = 0; i < 3; i++)
		unmap_last_page(folio_of(self->folios, i), SIZE);
	ASSERT_TRUE(refer(self->folios, pipefd));
	EXPECT_EQ(0, scan_returns(&self->memcg, self->nid, 1))
		TH_LOG("RETURNED: the first one cannot be split");
	EXPECT_EQ(2, scan_returns(&self->memcg, self->nid, NR))
		TH_LOG("RETURNED: two of three can be split");
	let_go(pipefd);
	EXPECT_EQ(1, scan_returns(&self->memcg, self->nid, NR));
	/* 7.2 and later have a list_lru, whose rules these are there. */
	if (!is_kernel(7, 2)) {
		EXPECT_EQ(SHRINK_STOP, scan_returns(&self->memcg, self->nid, 1))
			TH_LOG("RETURNED: there is nothing to be scanned");
		EXPECT_NE(SHRINK_EMPTY, count_returns(&self->memcg, self->nid))
			TH_LOG("RETURNED: by a count, and it never did");
	}
	ds_pause_off();
}

/* The other process that maps a folio unmaps its last page, and is held as it marks it. */
static pid_t unmap_last_page_held(char *folio, int go)
{
	char line[80], c;
	pid_t pid = fork();

	if (pid)
		return pid;
	/* Not where we are: a CPU that is held does nothing else. */
	snprintf(line, sizeof(line), "deferred_split_folio pid=%d hold_ms=2000", getpid());
	if (!ds_pin_to_cpu(1) || madvise(folio, SIZE / 2, MADV_DONTNEED) ||
	    read(go, &c, 1) != 1 || ds_pause_line(line))
		_exit(1);
	unmap_last_page(folio, SIZE);
	_exit(0);
}

TEST_F(queue, a_folio_unmapped_by_two_is_marked_once)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *folio = folio_of(self->folios, 0);
	long deferred = ds_size_stat(SIZE, "split_deferred");
	int i, status, pipefd[2];
	pid_t pid;

	if (!ds_have_module())
		SKIP(return, "needs the module splitq, to hold one of them");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	/* We keep the first half of it, the other one the second: all of it is mapped. */
	ASSERT_EQ(0, pipe(pipefd));
	pid = unmap_last_page_held(folio, pipefd[0]);
	ASSERT_GT(pid, 0);
	ASSERT_EQ(0, madvise(folio + SIZE / 2, SIZE / 2, MADV_DONTNEED));
	ASSERT_EQ(1, write(pipefd[1], "", 1));
	for (i = 0; i < TRIES && ds_pause_state(0) != DS_HELD; i++)
		usleep(10000);
	if (ds_pause_state(0) != DS_HELD) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		ds_pause_off();
		SKIP(return, "VACUOUS: nobody was held");
	}
	EXPECT_EQ(deferred, ds_size_stat(SIZE, "split_deferred"));
	ASSERT_EQ(0, madvise(folio, page, MADV_DONTNEED));
	EXPECT_EQ(deferred + 1, ds_size_stat(SIZE, "split_deferred"));
	ds_pause_release(0);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	close(pipefd[0]);
	close(pipefd[1]);
	EXPECT_EQ(deferred + 1, ds_size_stat(SIZE, "split_deferred"))
		TH_LOG("COUNTED: twice, and it was marked once");
	EXPECT_EQ(self->marked + 1, ds_size_stat(SIZE, "nr_anon_partially_mapped"));
	EXPECT_EQ(1, ds_count_node(&self->memcg, self->nid));
	ds_pause_off();
}

TEST_F(queue, what_is_freed_is_not_queued)
{
	int i;

	for (i = 0; i < NR; i++)
		unmap_last_page(folio_of(self->folios, i), SIZE);
	/* Some have been in the hands of a scan before. */
	ds_scan(&self->memcg, self->nid, 3);
	munmap(self->map, self->map_size);
	self->map = NULL;
	EXPECT_EQ(0, ds_count(&self->memcg)) TH_LOG("LEAK: all are freed, and some are queued");
	EXPECT_EQ(self->marked, ds_size_stat(SIZE, "nr_anon_partially_mapped"))
		TH_LOG("LEAK: all are freed");
}

/* -- One THP -------------------------------------------------------------- */

FIXTURE(thp) {
	struct ds_memcg memcg;
	char *thp;
};

FIXTURE_VARIANT(thp) {
	bool underused;
};

FIXTURE_VARIANT_ADD(thp, underused) {
	.underused = true,
};

FIXTURE_VARIANT_ADD(thp, partially_mapped) {
	.underused = false,
};

FIXTURE_SETUP(thp)
{
	const char *why = begin(&self->memcg, variant->underused);

	if (why)
		SKIP(return, "%s", why);
	self->thp = ds_map_thp();
	ASSERT_NE(NULL, self->thp) TH_LOG("no THP to be had");
	keep_as_it_is(self->thp, ds_thp_size());
	if (!variant->underused)
		unmap_last_page(self->thp, ds_thp_size());
	else if (ds_count(&self->memcg) < 1)
		SKIP(return, "THPs are not queued at fault here");
	EXPECT_GE(ds_count(&self->memcg), 1) TH_LOG("LOST: it is not queued");
}

FIXTURE_TEARDOWN(thp)
{
	if (self->thp)
		munmap(self->thp, ds_thp_size());
	end(&self->memcg);
}

TEST_F(thp, is_split_when_nobody_refers_to_it)
{
	int pipefd[2];

	ASSERT_TRUE(refer(self->thp, pipefd));
	scan_nodes(&self->memcg, 8);
	EXPECT_TRUE(ds_is_thp(self->thp));
	EXPECT_GE(ds_count(&self->memcg), 1) TH_LOG("FORGOTTEN: it could not be split once");
	let_go(pipefd);
	scan_nodes(&self->memcg, 8);
	EXPECT_FALSE(ds_is_thp(self->thp)) TH_LOG("STUCK: after it could not be split once");
	EXPECT_EQ(0, ds_count(&self->memcg)) TH_LOG("LEAK: it is split, and something is queued");
	EXPECT_EQ(1, self->thp[0]) TH_LOG("CONTENT: after a split");
}

TEST_F(thp, is_split_after_it_was_moved)
{
	int nid = ds_node_of(0, self->thp), to = !nid, status = -EIO;
	void *page = self->thp;

	if (ds_nr_nodes() < 2)
		SKIP(return, "needs two NUMA nodes");
	ASSERT_EQ(0, syscall(SYS_move_pages, 0, 1UL, &page, &to, &status, 2 /* MPOL_MF_MOVE */));
	ASSERT_EQ(to, status);
	/* One that is partially mapped may be split for that. */
	if (variant->underused) {
		EXPECT_TRUE(ds_is_thp(self->thp));
		EXPECT_GE(ds_count(&self->memcg), 1) TH_LOG("FORGOTTEN: it was moved");
	}
	scan_nodes(&self->memcg, 8);
	EXPECT_FALSE(ds_is_thp(self->thp)) TH_LOG("STUCK: after it was moved");
	EXPECT_EQ(1, self->thp[0]) TH_LOG("CONTENT: after a move and a split");
}

TEST_F(thp, is_split_by_reclaim_of_its_memcg)
{
	char file[300];
	int i;

	snprintf(file, sizeof(file), "%smemory.swap.max", self->memcg.dir);
	ds_write_file(file, "0");
	snprintf(file, sizeof(file), "%smemory.reclaim", self->memcg.dir);
	if (access(file, F_OK))
		SKIP(return, "needs memory.reclaim");
	for (i = 0; i < TRIES && ds_is_thp(self->thp); i++)
		ds_write_file(file, "1M");
	EXPECT_FALSE(ds_is_thp(self->thp)) TH_LOG("STUCK: reclaim does not come to it");
}

/*
 * It is charged to a memcg, from which its owner goes away, and which is removed. On
 * its queue it must be found all the same when there is need of memory above that.
 */
static void split_without_memcg(struct __test_metadata *_metadata, FIXTURE_DATA(thp) *self,
				bool underused, int cpu)
{
	struct ds_memcg child = { };
	char file[300];
	struct stat st;
	int i;

	ASSERT_TRUE(ds_memcg_enter(&root));
	munmap(self->thp, ds_thp_size());
	snprintf(file, sizeof(file), "%scgroup.subtree_control", self->memcg.dir);
	ds_write_file(file, "+memory");
	snprintf(file, sizeof(file), "%smemory.swap.max", self->memcg.dir);
	ds_write_file(file, "0");
	ASSERT_GT((int)sizeof(child.dir), snprintf(child.dir, sizeof(child.dir), "%schild/",
						   self->memcg.dir));
	ASSERT_EQ(0, mkdir(child.dir, 0755)) TH_LOG("%s", child.dir);
	ASSERT_EQ(0, stat(child.dir, &st));
	child.ino = st.st_ino;
	ASSERT_TRUE(ds_memcg_enter(&child));
	ds_pin_to_cpu(cpu);
	self->thp = ds_map_thp();
	ds_memcg_enter(&root);
	ASSERT_EQ(0, rmdir(child.dir)) TH_LOG("the memcg cannot be removed");
	ASSERT_NE(NULL, self->thp) TH_LOG("no THP to be had");
	if (cpu && ds_node_of(0, self->thp) == 0)
		SKIP(return, "it is not on another node");
	keep_as_it_is(self->thp, ds_thp_size());
	if (!underused)
		unmap_last_page(self->thp, ds_thp_size());

	snprintf(file, sizeof(file), "%smemory.reclaim", self->memcg.dir);
	if (access(file, F_OK))
		SKIP(return, "needs memory.reclaim");
	/* It goes offline some time after that; then the shrinker's debugfs does not show it. */
	for (i = 0; i < TRIES && ds_count(&child); i++)
		usleep(10000);
	ASSERT_EQ(0, ds_count(&child)) TH_LOG("the memcg does not go offline");
	for (i = 0; i < 10 && ds_is_thp(self->thp); i++)
		ds_write_file(file, "1M");
	EXPECT_FALSE(ds_is_thp(self->thp)) TH_LOG("STUCK: its memcg is gone");
	EXPECT_EQ(1, self->thp[0]) TH_LOG("CONTENT: after a split");
}

TEST_F(thp, is_split_when_its_memcg_is_gone)
{
	split_without_memcg(_metadata, self, variant->underused, 0);
}

/* The other node's CPUs have the higher numbers. */
TEST_F(thp, is_split_when_the_memcg_of_another_node_is_gone)
{
	if (ds_nr_nodes() < 2)
		SKIP(return, "needs two NUMA nodes");
	split_without_memcg(_metadata, self, variant->underused,
			    sysconf(_SC_NPROCESSORS_ONLN) - 1);
}

TEST_F(thp, is_not_marked_when_all_is_unmapped)
{
	long deferred;
	char *thp = ds_map_thp();

	ASSERT_NE(NULL, thp) TH_LOG("no THP to be had");
	deferred = ds_thp_stat("split_deferred");
	munmap(thp, ds_thp_size());
	EXPECT_EQ(deferred, ds_thp_stat("split_deferred"))
		TH_LOG("MARKED: partially mapped, and nothing of it was mapped any more");
}

TEST_F(thp, is_split_where_the_huge_zeropage_was)
{
	size_t size = ds_thp_size();
	char seen;

	if (!variant->underused)
		SKIP(return, "it is about underused ones");
	madvise(self->thp, size, MADV_DONTNEED);
	madvise(self->thp, size, MADV_HUGEPAGE);
	/* Read it, and write it. */
	seen = __atomic_load_n(self->thp, __ATOMIC_RELAXED);
	__atomic_store_n(self->thp, seen + 1, __ATOMIC_RELAXED);
	keep_as_it_is(self->thp, size);
	if (!ds_is_thp(self->thp))
		SKIP(return, "a write to the huge zeropage does not make a THP here");
	EXPECT_GE(ds_count(&self->memcg), 1) TH_LOG("LOST: it is not queued");
	scan_nodes(&self->memcg, 8);
	EXPECT_FALSE(ds_is_thp(self->thp)) TH_LOG("FORGOTTEN: it was the huge zeropage");
	EXPECT_EQ(1, self->thp[0]) TH_LOG("CONTENT: after a split");
}

TEST_HARNESS_MAIN
