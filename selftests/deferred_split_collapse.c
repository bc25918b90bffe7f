// SPDX-License-Identifier: GPL-2.0
/*
 * A range is collapsed to a THP, by MADV_COLLAPSE or by khugepaged, while the shrinker
 * has the THP that was there before.
 *
 * CPU0 (collapse)                       CPU1 (shrinker)
 *
 *                                       has the old folio off its queue
 * isolates and locks the old folio
 *                                       folio_trylock() -> no
 * copies, frees the old folio:
 *   is it queued?
 *                                       puts it back, drops its reference:
 *   LEAK ->  whoever comes last must find it queued and counted, once
 *
 * With khugepaged at work all the time, what is unmapped and split is soon a THP again:
 * so there is no telling whether the shrinker has left one whole.
 */
#include "deferred_split_race.h"

static const char *eager(void)
{
	const char *why = ds_knob_set(DS_KHUGEPAGED "scan_sleep_millisecs", "1");

	why = why ?: ds_knob_set(DS_KHUGEPAGED "alloc_sleep_millisecs", "1");
	return why ?: ds_knob_set(DS_KHUGEPAGED "pages_to_scan", "4096");
}

static const struct ds_race races[] = {
	{ .name = "collapse_partial", .bugs = "B21 B24", .partial = true, .pmd = true,
	  .actions = { "collapse", "scan" },
	  .functions = { { "collapse_huge_page" }, DS_SHRINKER } },
	{ .name = "khugepaged_and_unmap_half", .bugs = "-", .restless = true, .setup = eager,
	  .actions = { "dontneed-half", "scan" }, .evidence = DS_SEE_COLLAPSED },
};

int main(int argc, char **argv)
{
	return ds_race_main(argc, argv, races, ARRAY_SIZE(races));
}
