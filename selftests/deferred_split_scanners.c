// SPDX-License-Identifier: GPL-2.0
/*
 * Two shrinkers at the same queue.
 *
 * CPU0 (shrinker)                       CPU1 (shrinker)
 *
 * lock(queue)
 * takes A and B off it
 * unlock(queue)
 *                                       lock(queue)
 *                                       finds it empty, or what CPU0 put back
 *                                       unlock(queue)
 * split_folio(A) fails: CPU1 has a
 *   reference, or the folio lock
 * puts A back
 *   FORGOTTEN ->  if it does not: A is underused, and nobody will look again
 */
#include "deferred_split_race.h"

#define SHRINKER { DS_SHRINKER_FUNCTIONS, "split_huge_page_to_list_to_order" }

static const struct ds_race races[] = {
	{ .name = "two_scans_of_underused", .bugs = "B29 B54", .underused = true,
	  .actions = { "scan", "scan" }, .functions = { SHRINKER }, .neighbours = 1 },
	{ .name = "two_scans_of_partial", .bugs = "B21 B24", .partial = true,
	  .actions = { "scan", "scan" }, .functions = { SHRINKER }, .neighbours = 1 },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
