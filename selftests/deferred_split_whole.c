// SPDX-License-Identifier: GPL-2.0
/*
 * What must leave a large folio whole, and not marked partially mapped.
 *
 * moving_does_not_mark: migration removes the PTEs of a folio one by one, which
 * is no partial unmap. A folio that is marked nevertheless is split by the next
 * migration, by reclaim and by the shrinker, although all of it is mapped. For a
 * THP whose PMD was split, and for an mTHP, which is mapped by PTEs always.
 *
 * swapping_out_does_not_mark: nor is reclaim a partial unmap, which removes the PTEs
 * one by one as well, with the folio in the swap cache. Nothing would end the mark.
 *
 * swap_cache_keeps_the_place: a THP that is queued, that could not be written to swap,
 * and was mapped again from the swap cache, is queued still; also when it is moved then.
 *
 * mlocked_is_not_split: a THP that is underused is split so that its zero-filled
 * pages can be freed. Those of an mlocked one are not, so it must not be split.
 *
 * pinned_is_dropped: one that a device has pinned is not split either, and not tried
 * in each scan for as long as the device likes. Needs the module.
 *
 * referenced_is_not_read: with a reference that is no pin, and may go any time, it
 * cannot be split either. Whether it is underused is found out when that has gone: to
 * read all of it in each scan would be for nothing. So also one that is not underused
 * stays queued until then.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define MTHP_SIZE	(16UL * sysconf(_SC_PAGESIZE))

FIXTURE(move) {
	char *map, *folio;
	size_t map_size;
};

FIXTURE_VARIANT(move) {
	bool mthp;
};

FIXTURE_VARIANT_ADD(move, thp_mapped_by_ptes) {
	.mthp = false,
};

FIXTURE_VARIANT_ADD(move, mthp) {
	.mthp = true,
};

FIXTURE_SETUP(move)
{
	const char *why = ds_setup(1);

	if (!why && ds_nr_nodes() < 2)
		why = "needs two NUMA nodes";
	if (why)
		SKIP(return, "%s", why);
	if (!variant->mthp) {
		size_t page = sysconf(_SC_PAGESIZE);

		self->map_size = ds_thp_size();
		self->folio = ds_map_thp();
		self->map = self->folio;
		if (!self->folio)
			SKIP(return, DS_NO_THP);
		/* Another protection for a part, and the same again, leave PTEs. */
		ASSERT_EQ(0, mprotect(self->folio, page, PROT_READ));
		ASSERT_EQ(0, mprotect(self->folio, page, PROT_READ | PROT_WRITE));
		return;
	}

	why = ds_set_size_enabled(MTHP_SIZE);
	if (why)
		SKIP(return, "%s", why);
	self->map_size = 4 * MTHP_SIZE;
	self->map = mmap(NULL, self->map_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->map);
	self->folio = (char *)(((uintptr_t)self->map + MTHP_SIZE - 1) & ~(MTHP_SIZE - 1));
	ASSERT_EQ(0, madvise(self->folio, MTHP_SIZE, MADV_HUGEPAGE));
	self->folio[0] = 1;
	if (!ds_is_thp(self->folio))
		SKIP(return, "no mTHP to be had");
}

FIXTURE_TEARDOWN(move)
{
	if (self->map && self->map != MAP_FAILED)
		munmap(self->map, self->map_size);
	ds_knobs_restore();
}

TEST_F(move, moving_does_not_mark)
{
	size_t size = variant->mthp ? MTHP_SIZE : ds_thp_size();
	long marked = ds_size_stat(size, "nr_anon_partially_mapped");
	int nid = ds_node_of(0, self->folio), i;

	ASSERT_GE(nid, 0);
	ASSERT_GE(marked, 0);
	ASSERT_TRUE(ds_is_thp(self->folio));
	for (i = 1; i <= 3; i++) {
		nid = !nid;
		ASSERT_TRUE(ds_move(self->folio, nid)) TH_LOG("move %d", i);
		ASSERT_TRUE(ds_is_thp(self->folio)) TH_LOG("split by move %d", i);
		EXPECT_EQ(marked, ds_size_stat(size, "nr_anon_partially_mapped"))
			TH_LOG("MARKED: partially mapped after move %d, and all is mapped", i);
	}
}

TEST_F(move, swapping_out_does_not_mark)
{
	size_t size = variant->mthp ? MTHP_SIZE : ds_thp_size();
	long marked = ds_size_stat(size, "nr_anon_partially_mapped"), was = marked + 1;
	/* Larger than it: or there may be no room for it in one piece. */
	const char *why = ds_swap_create(64UL << 20);
	long whole = ds_size_stat(size, "swpout"), split = ds_size_stat(size, "split");
	int i;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_GE(marked, 0);
	memset(self->folio, 0x5a, size);
	/* It goes when nobody else happens to have a reference to it. */
	for (i = 0; i < 50 && ds_node_of(0, self->folio) >= 0; i++) {
		ASSERT_EQ(0, madvise(self->folio, size, MADV_PAGEOUT));
		usleep(10000);
	}
	/* Seen on arm64, if it is mapped by PTEs. */
	if (!variant->mthp && ds_size_stat(size, "split") != split)
		SKIP(return, "it was split before it was swapped out");
	if (i == 50 || ds_size_stat(size, "swpout") == whole)
		SKIP(return, "VACUOUS: it was not swapped out in one piece");
	/* The last reference to it may be somebody's who drains in a moment. */
	for (i = 0; i < 50 && was != marked; i++) {
		was = ds_size_stat(size, "nr_anon_partially_mapped");
		usleep(10000);
	}
	EXPECT_EQ(marked, was) TH_LOG("MARKED: partially mapped, and all was swapped out");
	EXPECT_EQ(0x5a, self->folio[size - 1]);
}

FIXTURE(lock) {
	struct ds_memcg memcg;
	char *thp;
};

FIXTURE_SETUP(lock)
{
	const char *why = ds_need_pmd() ?: ds_setup(1) ?: ds_set_underused(true);

	if (why)
		SKIP(return, "%s", why);
	ds_memcg_create(&self->memcg);
	ASSERT_TRUE(ds_memcg_enter(&self->memcg));
	self->thp = ds_map_thp();
	if (!self->thp)
		SKIP(return, DS_NO_THP);
	if (ds_count(&self->memcg) < 1)
		SKIP(return, "THPs are not queued at fault here");
}

FIXTURE_TEARDOWN(lock)
{
	struct ds_memcg root = { .dir = "/sys/fs/cgroup/" };

	if (self->thp)
		munmap(self->thp, ds_thp_size());
	ds_memcg_enter(&root);
	ds_memcg_remove(&self->memcg);
	ds_knobs_restore();
}

static void scan_all(struct ds_memcg *memcg)
{
	int nid;

	for (nid = 0; nid < ds_nr_nodes(); nid++)
		ds_scan(memcg, nid, 64);
}

TEST_F(lock, mlocked_is_not_split)
{
	ASSERT_EQ(0, mlock(self->thp, ds_thp_size()));
	scan_all(&self->memcg);
	EXPECT_TRUE(ds_is_thp(self->thp)) TH_LOG("SPLIT: mlocked, so nothing could be freed");
	EXPECT_EQ(1, self->thp[0]);
}

TEST_F(lock, pinned_is_dropped)
{
	int fd;

	if (!ds_have_module())
		SKIP(return, "needs the module splitq, for a pin");
	fd = ds_folio_keep(getpid(), self->thp, "dma");
	ASSERT_GE(fd, 0);
	scan_all(&self->memcg);
	EXPECT_TRUE(ds_is_thp(self->thp)) TH_LOG("SPLIT: it is pinned");
	EXPECT_EQ(0, ds_count(&self->memcg))
		TH_LOG("PINNED: it is on the queue, for each scan to try it again");
	close(fd);
	EXPECT_EQ(1, self->thp[0]);
}

TEST_F(lock, referenced_is_not_read)
{
	size_t page = sysconf(_SC_PAGESIZE), i;
	struct iovec iov = { self->thp, page };
	char drain[64];
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	for (i = 0; i < ds_thp_size(); i += page)
		self->thp[i] = 1;
	ASSERT_LT(0, vmsplice(fds[1], &iov, 1, 0));
	scan_all(&self->memcg);
	EXPECT_LT(0, ds_count(&self->memcg))
		TH_LOG("READ: it is not queued any more, so all of it was looked at");
	for (i = 0; i < page; i += sizeof(drain))
		ASSERT_EQ(sizeof(drain), read(fds[0], drain, sizeof(drain)));
	close(fds[0]);
	close(fds[1]);
	scan_all(&self->memcg);
	EXPECT_EQ(0, ds_count(&self->memcg))
		TH_LOG("QUEUED: nobody has a reference, and it is used");
	EXPECT_TRUE(ds_is_thp(self->thp));
}

TEST_F(lock, swap_cache_keeps_the_place)
{
	const char *why = ds_nr_nodes() < 2 ? "needs two NUMA nodes" :
					      ds_swap_create(64UL << 20);
	size_t size = ds_thp_size(), i;
	int nid = ds_node_of(0, self->thp);
	char *thp = self->thp;
	bool whole, cached, queued, moved;
	pid_t child;

	if (why)
		SKIP(return, "%s", why);
	if (!ds_swap_fail_writes())
		SKIP(return, "the swap device takes all that is written to it");
	/* What is all the same takes no room there. */
	srandom(1);
	for (i = 0; i < size; i++)
		thp[i] = random();
	for (i = 0; i < 50 && ds_node_of(0, thp) >= 0; i++) {
		ASSERT_EQ(0, madvise(thp, size, MADV_PAGEOUT));
		usleep(10000);
	}
	/* Somebody has it in swap, too: who reads it leaves it in the swap cache. */
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		pause();
		_exit(0);
	}
	for (i = 0; i < size; i += sysconf(_SC_PAGESIZE))
		__atomic_load_n(thp + i, __ATOMIC_RELAXED);
	whole = ds_is_thp(thp);
	cached = ds_is_in_swap_cache(thp);
	queued = ds_count(&self->memcg) > 0;
	moved = whole && cached && queued && ds_move(thp, !nid) && ds_is_thp(thp) &&
		ds_is_in_swap_cache(thp);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (!moved)
		SKIP(return, "VACUOUS: not moved in the swap cache (whole %d, there %d, queued %d)",
		     whole, cached, queued);
	EXPECT_GE(ds_count(&self->memcg), 1) TH_LOG("FORGOTTEN: it was moved in the swap cache");
	srandom(1);
	for (i = 0; i < size && thp[i] == (char)random(); i++)
		;
	EXPECT_EQ(size, i) TH_LOG("CONTENT: after a move in the swap cache");
}

/* That it would have been split, or the test above says nothing. */
TEST_F(lock, underused_is_split)
{
	scan_all(&self->memcg);
	EXPECT_FALSE(ds_is_thp(self->thp));
	EXPECT_EQ(1, self->thp[0]);
}

TEST_HARNESS_MAIN
