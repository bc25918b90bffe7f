// SPDX-License-Identifier: GPL-2.0
/*
 * The last reference to a THP is dropped while the shrinker walks the queue that it is
 * on, or has its neighbours in its hands.
 *
 * CPU0 (shrinker)                       CPU1 (munmap of all of it)
 *
 * has the neighbour off the queue
 *                                       refcount = 0
 *                                       lock(queue)
 * folio_try_get() -> no                 list_del_init(): writes to the
 *   must leave it alone                   neighbours' links
 *                                       unlock(queue)
 * unlinks the neighbour
 *   CORRUPT ->  without the lock, by links that CPU1 is writing to
 *
 * and the other way round: the shrinker has the last reference, and it is the one that
 * frees the folio. Other folios are on the queue before and behind it.
 */
#include "deferred_split_race.h"

#define FREE { "__folio_unqueue_deferred_split", "folios_put_refs" }

static const struct ds_race races[] = {
	{ .name = "free_queued", .bugs = "B13", .neighbours = 1,
	  .actions = { "munmap-all", "scan" }, .functions = { FREE, DS_SHRINKER } },
	{ .name = "free_underused", .bugs = "B13 B21", .underused = true, .neighbours = 1,
	  .actions = { "munmap-all", "scan" }, .functions = { FREE, DS_SHRINKER } },
	{ .name = "free_partial", .bugs = "B13 B21", .partial = true, .neighbours = 1,
	  .actions = { "munmap-all", "scan" }, .functions = { FREE, DS_SHRINKER } },
	{ .name = "exit_partial", .bugs = "B13 B21", .partial = true, .neighbours = 1,
	  .actions = { "exit", "scan" }, .functions = { FREE, DS_SHRINKER } },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
