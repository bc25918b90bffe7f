// SPDX-License-Identifier: GPL-2.0
/*
 * A part of a THP is unmapped while the shrinker has the THP in its hands.
 *
 * CPU0 (shrinker)                       CPU1 (munmap of a half)
 *
 * takes the folio off its queue
 *                                       lock(queue)
 *                                       folio_set_partially_mapped()
 *                                       list_empty()? queue it
 *                                       unlock(queue)
 * puts the folio back, or lets it go
 *   LOST ->  marked partially mapped and on no list: no scan will ever split it,
 *            and the memory of the half is not given back
 *
 * By each way to unmap a part, and for a folio that is on the queue for each reason.
 * deferred_split_unmap is the same at each instruction of the shrinker, and needs the
 * module for that; this one needs none.
 */
#include "deferred_split_race.h"

#define UNMAP { "deferred_split_folio", "folio_remove_rmap_ptes" }

static const struct ds_race races[] = {
	{ .name = "unmap_half_of_queued", .bugs = "B46 B48", .weight = 4,
	  .actions = { "munmap-half", "scan" }, .functions = { {}, DS_SHRINKER } },
	{ .name = "unmap_half_of_underused", .bugs = "B46 B21 B22 B24",
	  .actions = { "munmap-half", "scan" }, .functions = { UNMAP, DS_SHRINKER },
	  .underused = true },
	{ .name = "unmap_half_of_partial", .bugs = "B21 B24",
	  .actions = { "munmap-half", "scan" }, .functions = { UNMAP, DS_SHRINKER },
	  .partial = true },
	{ .name = "dontneed_half_of_queued", .bugs = "B46 B48",
	  .actions = { "dontneed-half", "scan" }, .functions = { {}, DS_SHRINKER } },
	{ .name = "mremap_half_of_queued", .bugs = "B46 B48",
	  .actions = { "mremap-half", "scan" }, .functions = { {}, DS_SHRINKER } },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
