// SPDX-License-Identifier: GPL-2.0
/*
 * A half of a THP is mlocked and unlocked while the shrinker has the THP.
 *
 * CPU0 (mlock)                          CPU1 (shrinker)
 *
 *                                       takes the folio off the queue
 * splits its PMD, marks the VMA
 * puts the folio into a per-CPU batch,
 *   with a reference
 *                                       split_folio() fails: that reference
 *                                       puts it back
 *   STUCK ->  if it does not, although a part of it is unmapped
 *
 * An underused THP that is found mlocked is let go, and nobody queues it again, as
 * before: so that one may stay. A partially mapped one must be split.
 */
#include "deferred_split_race.h"

#define LOCK { "mlock_folio", "mlock_folio_batch", "munlock_folio" }

static const struct ds_race races[] = {
	{ .name = "mlock_partial", .bugs = "B21 B24", .partial = true,
	  .actions = { "mlock-half", "scan" }, .functions = { LOCK, DS_SHRINKER } },
	{ .name = "mlock_underused", .bugs = "-", .underused = true, .may_stay = true,
	  .actions = { "mlock-half", "scan" }, .functions = { LOCK, DS_SHRINKER } },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
