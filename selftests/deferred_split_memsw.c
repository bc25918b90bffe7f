// SPDX-License-Identifier: GPL-2.0
/*
 * A THP is swapped out while the shrinker walks the queue that it is on, with the swap
 * accounting of cgroup v1: memory.memsw.
 *
 * CPU0 (reclaim)                        CPU1 (shrinker)
 *
 * __remove_mapping(): refcount = 0
 *                                       lock(queue of the memcg)
 *                                       folio_try_get() -> no
 *                                         must leave it alone
 *                                       unlock(queue of the memcg)
 * mem_cgroup_swapout()
 *   folio_unqueue_deferred_split()
 *   folio->memcg_data = 0
 * frees the folio
 *   CORRUPT ->  without the unqueueing it is on the queue of the memcg still, and is
 *               taken off by the lock of the node's: that was B06
 *
 * The charge of memory and swap moves to the swap entry, so the folio loses its memcg
 * before it is freed. With cgroup v2 the folio keeps it: see deferred_split_migrate.
 *
 * By that the window of the shrinker ends, too: who has a reference, as a shrinker that
 * has taken the folio off its queue, makes the freeze fail, so no folio loses its memcg
 * in the hands of the shrinker. Held there, it must let the swapping out fail, and then
 * put the folio back where it was.
 *
 * Takes the memory controller to a cgroup v1 hierarchy, and gives it back only if no
 * page is charged there any more, see deferred_split_charge_move.
 */
#include <stdio.h>
#include <unistd.h>

#include "deferred_split_race.h"

#define OUT { "__remove_mapping", "mem_cgroup_swapout", "__folio_unqueue_deferred_split" }

static const char *swap(void)
{
	return ds_swap_create(64UL << 20);
}

static const struct ds_race races[] = {
	{ .name = "memsw_of_queued", .bugs = "B06 B39", .v1 = true, .setup = swap,
	  .actions = { "pageout", "scan" }, .functions = { OUT, DS_SHRINKER },
	  .neighbours = 1, .evidence = DS_SEE_SWAPPED_WHOLE },
	{ .name = "memsw_of_underused", .bugs = "B06 B39", .v1 = true, .setup = swap,
	  .underused = true,
	  .actions = { "pageout", "scan" }, .functions = { OUT, DS_SHRINKER },
	  .neighbours = 1, .evidence = DS_SEE_GONE },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
