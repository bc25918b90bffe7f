// SPDX-License-Identifier: GPL-2.0
/*
 * What must leave a large folio whole, and not marked partially mapped.
 *
 * moving_does_not_mark: migration removes the PTEs of a folio one by one, which
 * is no partial unmap. A folio that is marked nevertheless is split by the next
 * migration, by reclaim and by the shrinker, although all of it is mapped. For a
 * THP whose PMD was split, and for an mTHP, which is mapped by PTEs always.
 *
 * mlocked_is_not_split: a THP that is underused is split so that its zero-filled
 * pages can be freed. Those of an mlocked one are not, so it must not be split.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define MTHP_SIZE	(64UL << 10)
#define MTHP_DIR	"/sys/kernel/mm/transparent_hugepage/hugepages-64kB/"

static bool read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	close(fd);
	buf[n < 0 ? 0 : n] = '\0';
	return n > 0;
}

static bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	close(fd);
	return ok;
}

static long nr_marked(size_t size)
{
	char path[160], buf[32];

	snprintf(path, sizeof(path),
		 "/sys/kernel/mm/transparent_hugepage/hugepages-%zukB/stats/nr_anon_partially_mapped",
		 size >> 10);
	return read_text(path, buf, sizeof(buf)) ? atol(buf) : -1;
}

/* Move what is mapped at @addr to @node; returns where it is then, or an error. */
static int move_to(char *addr, int node)
{
	void *page = addr;
	int status = -EIO;

	if (syscall(SYS_move_pages, 0, 1UL, &page, &node, &status, 2 /* MPOL_MF_MOVE */) < 0)
		return -errno;
	return status;
}

static int node_of(char *addr)
{
	void *page = addr;
	int status = -EIO;

	if (syscall(SYS_move_pages, 0, 1UL, &page, NULL, &status, 0))
		return -errno;
	return status;
}

FIXTURE(move) {
	char *map, *folio;
	size_t map_size;
	char mthp_enabled[64];
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
	const char *why = ds_unusable();
	char buf[64], *value;

	if (why)
		SKIP(return, "%s", why);
	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "needs two NUMA nodes");
	why = ds_knobs_set();
	if (why)
		SKIP(return, "cannot set %s", why);

	if (!variant->mthp) {
		size_t page = sysconf(_SC_PAGESIZE);

		self->map_size = ds_thp_size();
		self->folio = ds_map_thp();
		self->map = self->folio;
		ASSERT_NE(NULL, self->folio) TH_LOG("no THP to be had");
		/* Another protection for a part, and the same again, leave PTEs. */
		ASSERT_EQ(0, mprotect(self->folio, page, PROT_READ));
		ASSERT_EQ(0, mprotect(self->folio, page, PROT_READ | PROT_WRITE));
		return;
	}

	if (!read_text(MTHP_DIR "enabled", buf, sizeof(buf)))
		SKIP(return, "no mTHPs of 64 kB");
	value = strchr(buf, '[');
	snprintf(self->mthp_enabled, sizeof(self->mthp_enabled), "%s", value ? value + 1 : buf);
	self->mthp_enabled[strcspn(self->mthp_enabled, "]\n")] = '\0';
	ASSERT_TRUE(write_text(MTHP_DIR "enabled", "madvise"));
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
	if (self->mthp_enabled[0])
		write_text(MTHP_DIR "enabled", self->mthp_enabled);
	ds_knobs_restore();
}

TEST_F(move, moving_does_not_mark)
{
	size_t size = variant->mthp ? MTHP_SIZE : ds_thp_size();
	long marked = nr_marked(size);
	int nid = node_of(self->folio), i;

	ASSERT_GE(nid, 0);
	ASSERT_GE(marked, 0);
	ASSERT_TRUE(ds_is_thp(self->folio));
	for (i = 1; i <= 3; i++) {
		nid = !nid;
		ASSERT_EQ(nid, move_to(self->folio, nid)) TH_LOG("move %d", i);
		ASSERT_TRUE(ds_is_thp(self->folio)) TH_LOG("split by move %d", i);
		EXPECT_EQ(marked, nr_marked(size))
			TH_LOG("MARKED: partially mapped after move %d, and all is mapped", i);
	}
}

FIXTURE(lock) {
	struct ds_memcg memcg;
	char *thp;
};

FIXTURE_SETUP(lock)
{
	const char *why = ds_unusable();

	if (why)
		SKIP(return, "%s", why);
	why = ds_knobs_set();
	if (!why)
		why = ds_set_underused(true);
	if (why)
		SKIP(return, "cannot set %s", why);
	ds_memcg_create(&self->memcg);
	ASSERT_TRUE(ds_memcg_enter(&self->memcg));
	self->thp = ds_map_thp();
	ASSERT_NE(NULL, self->thp) TH_LOG("no THP to be had");
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

	for (nid = 0; nid < 2; nid++)
		ds_scan(memcg, nid, 64);
}

TEST_F(lock, mlocked_is_not_split)
{
	ASSERT_EQ(0, mlock(self->thp, ds_thp_size()));
	scan_all(&self->memcg);
	EXPECT_TRUE(ds_is_thp(self->thp)) TH_LOG("SPLIT: mlocked, so nothing could be freed");
	EXPECT_EQ(1, self->thp[0]);
}

/* That it would have been split, or the test above says nothing. */
TEST_F(lock, underused_is_split)
{
	scan_all(&self->memcg);
	EXPECT_FALSE(ds_is_thp(self->thp));
	EXPECT_EQ(1, self->thp[0]);
}

TEST_HARNESS_MAIN
