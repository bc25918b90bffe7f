// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios that are smaller than a PMD: mapped by PTEs from the beginning, and on
 * the queue only when they are partially mapped.
 *
 * CPU0 (munmap of a half)               CPU1 (shrinker)
 *
 *                                       has the folio off its queue
 * zaps PTEs one batch after another:
 *   marked already? then no lock
 *                                       puts it back because it is marked,
 *                                       splits it, or sees it freed
 *   STUCK ->  half of it is unmapped, and no scan splits it
 *
 * For the smallest that can be queued (order 2), and two others.
 */
#include "deferred_split_race.h"

#define UNMAP { "deferred_split_folio", "folio_remove_rmap_ptes" }

static const struct ds_race races[] = {
	{ .name = "unmap_half_of_order_2", .bugs = "B21 B24", .partial = true, .order = 2,
	  .actions = { "munmap-half", "scan" }, .functions = { UNMAP, DS_SHRINKER },
	  .neighbours = 2 },
	{ .name = "unmap_half_of_order_4", .bugs = "B21 B24", .partial = true, .order = 4,
	  .actions = { "munmap-half", "scan" }, .functions = { UNMAP, DS_SHRINKER },
	  .neighbours = 2 },
	{ .name = "free_order_8", .bugs = "B21", .partial = true, .order = 8,
	  .actions = { "munmap-all", "scan" }, .functions = { UNMAP, DS_SHRINKER } },
	{ .name = "split_order_4", .bugs = "B21", .partial = true, .order = 4,
	  .actions = { "split-debugfs", "scan" },
	  .functions = { { "split_huge_page_to_list_to_order" }, DS_SHRINKER } },
	{ .name = "move_order_4", .bugs = "B21", .partial = true, .order = 4,
	  .actions = { "migrate", "scan" },
	  .functions = { { "migrate_pages_batch" }, DS_SHRINKER } },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
