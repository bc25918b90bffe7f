// SPDX-License-Identifier: GPL-2.0
/*
 * A task forks, and parent or child write, read or exit, while the shrinker has a THP
 * that they share.
 *
 * CPU0 (fork, exit of the child)        CPU1 (shrinker)
 *
 *                                       takes the folio off the queue
 * maps it a second time
 * removes that mapping: of all, so not
 *   of a part
 *                                       split_folio() fails: mapcount and
 *                                       refcount have changed meanwhile
 *                                       puts it back
 *   FORGOTTEN ->  if it does not: nobody will queue an underused THP again
 *
 * peek_underused: another process reads all of it through /proc/PID/mem, with references
 * that come and go.
 */
#include "deferred_split_race.h"

#define FORK { "copy_huge_pmd", "zap_huge_pmd", "folio_remove_rmap_ptes" }

static const struct ds_race races[] = {
	{ .name = "fork_underused", .bugs = "B54", .underused = true,
	  .actions = { "fork-exit", "scan" }, .functions = { FORK, DS_SHRINKER } },
	{ .name = "fork_partial", .bugs = "B21", .partial = true,
	  .actions = { "fork-exit", "scan" }, .functions = { FORK, DS_SHRINKER } },
	{ .name = "write_after_fork", .bugs = "B54", .underused = true,
	  .actions = { "write-fault", "scan" }, .functions = { { "do_huge_pmd_wp_page" },
							       DS_SHRINKER } },
	{ .name = "exit_underused", .bugs = "B21", .underused = true,
	  .actions = { "exit", "scan" }, .functions = { { "zap_huge_pmd" }, DS_SHRINKER } },
	{ .name = "peek_underused", .bugs = "B54", .underused = true,
	  .actions = { "peek", "scan" }, .functions = { { "__access_remote_vm" }, DS_SHRINKER } },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
