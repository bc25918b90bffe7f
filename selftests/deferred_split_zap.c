// SPDX-License-Identifier: GPL-2.0
/*
 * A THP is zapped while it is being split: when unmap_folio() returns, it is not
 * mapped any more.
 *
 * CPU0 (zap_huge_pmd())                 CPU1 (split)
 *
 * lock(pmd)
 * pmd = none
 *                                       unmap_folio()
 *                                         page_vma_mapped_walk():
 *                                         pmd is none, nothing to unmap
 *                                       returns, and the folio is mapped
 *   UNSYNCED ->                         VM_WARN_ON_ONCE_FOLIO(), or no split
 * folio_remove_rmap_pmd()
 * unlock(pmd)
 *
 * With TTU_SYNC the walk takes the PMD's lock before it takes "none" for an answer,
 * and waits for CPU0: counted as blocked. Where the kernel warns, with CONFIG_DEBUG_VM,
 * its log is red; 6.12 does not, there the split just fails. So with the splitq module
 * CPU0 is held at each instruction, and a split that is through meanwhile must have
 * split the folio, or found it unmapped (else UNSYNCED). That is for shared memory: an
 * anonymous folio that could not be split is mapped again, which waits for CPU0 anyhow.
 *
 * Who splits is the shrinker, which finds the folio by its queue, or for shared memory
 * debugfs/split_huge_pages, which finds it by its file: what looks it up in page tables
 * does not see one that CPU0 has taken out of them.
 */
#include "deferred_split_race.h"

#define SPLIT { "split_huge_page_to_list_to_order", "__folio_split" }
#define ZAP { "zap_huge_pmd", "folio_remove_rmap_pmd" }
#define THP "/sys/kernel/mm/transparent_hugepage/"

static const char *huge_shmem(void)
{
	return ds_knob_set(THP "shmem_enabled", "advise");
}

static const struct ds_race races[] = {
	{ .name = "munmap_and_split", .bugs = "-", .underused = true,
	  .split_must_wait = true,
	  .actions = { "munmap-all", "scan" }, .functions = { ZAP, SPLIT } },
	{ .name = "dontneed_and_split", .bugs = "-", .underused = true,
	  .split_must_wait = true,
	  .actions = { "dontneed-all", "scan" }, .functions = { ZAP, SPLIT } },
	{ .name = "dontneed_and_split_shmem", .bugs = "T4", .shmem = true,
	  .split_must_wait = true,
	  .actions = { "dontneed-all", "split-file" }, .functions = { ZAP, SPLIT },
	  .setup = huge_shmem },
	{ .name = "truncate_and_split_shmem", .bugs = "T4", .shmem = true,
	  .split_must_wait = true,
	  .actions = { "truncate", "split-file" }, .functions = { ZAP, SPLIT },
	  .setup = huge_shmem },
	{ .name = "punch_and_split_shmem", .bugs = "T4", .shmem = true,
	  .split_must_wait = true,
	  .actions = { "punch-hole", "split-file" }, .functions = { ZAP, SPLIT },
	  .setup = huge_shmem },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
