// SPDX-License-Identifier: GPL-2.0
/*
 * The memcg of a THP is removed while the shrinker works on its queue.
 *
 * CPU0 (shrinker)                       CPU1 (rmdir of the cgroup)
 *
 * takes the folio off the queue
 *                                       memcg goes offline; from 6.19 on its
 *                                       queue is spliced to that of its parent
 * puts the folio back
 *   CORRUPT ->  on a queue whose lock is not the one that its remover takes
 *
 * Before 6.19 the queue stays with the memcg, which lives until its last page is
 * freed, and nobody scans it: what was partially mapped stays so until then. It must
 * be gone, and not counted any more, when the memory is unmapped.
 *
 * Changing the memcg of a THP, on cgroup v1: see deferred_split_charge_move.
 */
#include "deferred_split_race.h"

static const struct ds_race races[] = {
	{ .name = "remove_memcg_of_underused", .bugs = "B23 B25", .underused = true,
	  .actions = { "cgroup-remove", "scan" }, .functions = { {}, DS_SHRINKER },
	  .neighbours = 2 },
	{ .name = "remove_memcg_of_partial", .bugs = "B23 B25", .partial = true,
	  .actions = { "cgroup-remove", "scan" }, .functions = { {}, DS_SHRINKER },
	  .neighbours = 2 },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
