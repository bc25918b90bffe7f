// SPDX-License-Identifier: GPL-2.0
/*
 * A THP that begins its life on a device is queued on its own memcg's queue.
 *
 * Since 7.2 a memcg has the heads of its queue only after its first THP was
 * charged. One that migrate_vma_pages() puts into a hole, for a device, was
 * charged without: migrated to system memory and unmapped in part, it was queued
 * on the parent's queue.
 *
 *   migrate_vma_insert_huge_pmd_page(): mem_cgroup_charge()
 *   the CPU touches it: migrated to system memory, mem_cgroup_migrate()
 *   a half is unmapped: lock_list_lru_of_memcg() has no sublist
 *     WRONG ->  VM_WARN_ON(!css_is_dying()), and on the queue of the parent
 *
 * The device is the kernel's lib/test_hmm.c: CONFIG_TEST_HMM.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define DEVICE "/dev/hmm_dmirror0"

/* As in the kernel's lib/test_hmm_uapi.h, which is not installed. */
struct dmirror_cmd {
	uint64_t addr, ptr, npages, cpages, faults;
};

#define DMIRROR_MIGRATE_TO_DEV _IOWR('H', 0x02, struct dmirror_cmd)

FIXTURE(device) {
	struct ds_memcg memcg;
	char *map, *thp, *copy;
	size_t size;
	int fd;
};

FIXTURE_SETUP(device)
{
	const char *why = ds_setup(1);

	self->fd = -1;
	if (why)
		SKIP(return, "%s", why);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (self->fd < 0)
		SKIP(return, "no " DEVICE ": needs CONFIG_TEST_HMM");

	/* Nothing of it was charged for a THP yet. */
	ds_memcg_create(&self->memcg);
	if (!self->memcg.dir[0])
		SKIP(return, "needs a memory cgroup of its own");
	ASSERT_TRUE(ds_memcg_enter(&self->memcg));

	self->size = ds_thp_size();
	self->copy = malloc(self->size);
	ASSERT_NE(NULL, self->copy);
	self->map = mmap(NULL, 2 * self->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->map);
	self->thp = (char *)(((uintptr_t)self->map + self->size - 1) & ~(self->size - 1));
	ASSERT_EQ(0, madvise(self->thp, self->size, MADV_HUGEPAGE));
}

FIXTURE_TEARDOWN(device)
{
	struct ds_memcg root = { .dir = "/sys/fs/cgroup/" };

	if (self->map && self->map != MAP_FAILED)
		munmap(self->map, 2 * self->size);
	if (self->fd >= 0)
		close(self->fd);
	free(self->copy);
	if (self->memcg.dir[0]) {
		ds_memcg_enter(&root);
		ds_memcg_remove(&self->memcg);
	}
	ds_knobs_restore();
}

TEST_F(device, is_queued_on_its_own_memcg)
{
	struct dmirror_cmd cmd = {
		.addr = (uintptr_t)self->thp,
		.ptr = (uintptr_t)self->copy,
		.npages = self->size / sysconf(_SC_PAGESIZE),
	};
	long marked = ds_thp_stat("nr_anon_partially_mapped");

	/* A hole: the device gets a new THP. */
	ASSERT_EQ(0, ioctl(self->fd, DMIRROR_MIGRATE_TO_DEV, &cmd)) TH_LOG("%s", strerror(errno));
	ASSERT_EQ(cmd.npages, cmd.cpages) TH_LOG("not all of it is on the device");
	/* It comes back when it is touched. */
	self->thp[0] = 1;
	if (!ds_is_thp(self->thp))
		SKIP(return, "it did not come back as a THP");
	ASSERT_EQ(0, munmap(self->thp + self->size / 2, self->size / 2));
	ASSERT_EQ(marked + 1, ds_thp_stat("nr_anon_partially_mapped"));
	EXPECT_LT(0, ds_count(&self->memcg))
		TH_LOG("WRONG: partially mapped, and not on the queue of its memcg");
}

TEST_HARNESS_MAIN
