// SPDX-License-Identifier: GPL-2.0
/*
 * A THP that is on the queue moves to another place in memory: the shrinker must
 * leave it alone meanwhile, and its copy must have its place on the queue.
 *
 * CPU0 (migration)                      CPU1 (shrinker)
 *
 * folio_lock(src)
 *                                       takes src off the queue
 *                                       folio_trylock() -> no
 *                                       does not put it back
 * src is not queued, so neither is dst
 *   FORGOTTEN ->  an underused THP that no scan will split
 *
 * CPU0 (migration)                      CPU1 (munmap of a half)
 *
 * all PTEs are migration entries
 *                                       zaps half of them: they are no
 *                                       mappings, so nothing is marked
 * remove_migration_ptes(src, dst)
 *   STUCK ->  half of dst is unmapped, it is not marked, and no scan splits it
 *
 * If all of it is unmapped meanwhile, it is not partially mapped (MARKED).
 *
 * By move_pages() between nodes, compaction, reclaim to swap, and soft offline; the
 * last one takes memory out of use until the next boot and so runs only where that
 * can be undone, or with DS_SOFT_OFFLINE in the environment.
 */
#include <stdlib.h>
#include <unistd.h>

#include "deferred_split_race.h"

#define MOVE { "migrate_folio_move", "__folio_migrate_mapping", "migrate_pages_batch" }
#define MTHP_ORDER 4

static const char *swap(void)
{
	return ds_swap_create(64UL << 20);
}

static const char *offline(void)
{
	if (getenv("DS_SOFT_OFFLINE"))
		return NULL;
	return "each round loses a page: set DS_SOFT_OFFLINE=1 if the machine may lose a few";
}

static const struct ds_race races[] = {
	{ .name = "move_underused", .bugs = "B29 B54", .underused = true,
	  .actions = { "migrate", "scan" }, .functions = { MOVE, DS_SHRINKER },
	  .evidence = DS_SEE_MOVED },
	{ .name = "move_queued", .bugs = "B39", .actions = { "migrate", "scan" },
	  .functions = { MOVE, DS_SHRINKER }, .evidence = DS_SEE_MOVED },
	{ .name = "move_partial", .bugs = "B21", .partial = true,
	  .actions = { "migrate", "scan" }, .functions = { MOVE, DS_SHRINKER },
	  .evidence = DS_SEE_MOVED },
	{ .name = "move_and_unmap_half", .bugs = "B28 B52",
	  .actions = { "migrate", "munmap-half" }, .functions = { MOVE },
	  .evidence = DS_SEE_MOVED },
	/* Of migration entries, while it is held. */
	{ .name = "move_and_unmap_all", .bugs = "B19", .never_marks = true, .pmd = true,
	  .actions = { "migrate", "munmap-all" }, .functions = { MOVE } },
	{ .name = "compact_partial", .bugs = "B21", .partial = true, .order = MTHP_ORDER,
	  .actions = { "compact", "scan" }, .neighbours = 6,
	  .evidence = DS_SEE_MOVED },
	{ .name = "pageout_underused", .bugs = "B39", .underused = true, .setup = swap,
	  .actions = { "pageout", "scan" }, .functions = { { "__remove_mapping" }, DS_SHRINKER },
	  .evidence = DS_SEE_GONE },
	{ .name = "pageout_partial", .bugs = "B39", .partial = true, .setup = swap,
	  .actions = { "pageout", "scan" }, .functions = { { "__remove_mapping" }, DS_SHRINKER },
	  .evidence = DS_SEE_GONE },
	{ .name = "offline_underused", .bugs = "B29", .underused = true, .setup = offline,
	  .actions = { "soft-offline", "scan" }, .rounds = 12,
	  .evidence = DS_SEE_MOVED },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
