// SPDX-License-Identifier: GPL-2.0
/*
 * The pages of an underused THP are written, dropped or freed while the shrinker
 * splits it and gives back those that are zero.
 *
 * CPU0 (shrinker)                       CPU1 (the owner writes)
 *
 * thp_underused(): pages are zero
 *                                       writes to such a page
 * unmap_folio(): migration entries
 *                                       the next write waits here
 * is the page zero still?
 * remaps it, or the zeropage for it
 *   CONTENT ->  if it looked too early, what was written is gone
 *
 * max_ptes_none is 0, so that one page that is zero makes a THP underused.
 */
#include "deferred_split_race.h"

#define SHRINKER { DS_SHRINKER_FUNCTIONS, "split_huge_page_to_list_to_order" }

static const struct ds_race races[] = {
	{ .name = "write_to_underused", .bugs = "B29 B54", .underused = true,
	  .actions = { "write-half", "scan" }, .functions = { {}, SHRINKER } },
	{ .name = "dontneed_of_underused", .bugs = "B46", .underused = true,
	  .actions = { "dontneed-half", "scan" },
	  .functions = { { "deferred_split_folio" }, SHRINKER } },
	{ .name = "lazyfree_of_underused", .bugs = "B54", .underused = true,
	  .actions = { "free-half", "scan" }, .functions = { {}, SHRINKER } },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
