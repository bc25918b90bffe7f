/* SPDX-License-Identifier: GPL-2.0 */
/* Two actions on one THP at the same time, round after round. */
#ifndef DEFERRED_SPLIT_RACE_H
#define DEFERRED_SPLIT_RACE_H

#include <stdbool.h>
#include <stddef.h>

#include "kselftest.h"
#include "deferred_split_actor.h"

#define DS_RACE_FUNCTIONS	5

enum ds_evidence {
	DS_SEE_NOTHING,
	DS_SEE_MOVED,			/* it is somewhere else */
	DS_SEE_GONE,			/* it is not there: swapped out */
	DS_SEE_SWAPPED_WHOLE,		/* the same, and not split before */
	DS_SEE_COLLAPSED,		/* a THP again, elsewhere */
};

/* Where the shrinker takes folios off the queue, and puts them back; batch: 7.3. */
#define DS_SHRINKER_FUNCTIONS "deferred_split_scan", "deferred_split_batch", \
	"deferred_split_isolate", "deferred_split_requeue"
#define DS_SHRINKER { DS_SHRINKER_FUNCTIONS }

/**
 * struct ds_race - who races with whom, and for what
 * @name: of the window, in the results
 * @bugs: the ids of known bugs that it has been seen to detect, for the reader
 * @actions: names of ds_actions; not both the owner's
 * @functions: for each of the two, where the module holds who does it; empty: nowhere
 * @underused: all of it zero, so that a scan wants to split it
 * @partial: its last page is unmapped, so that a scan must split it
 * @shmem: in shared memory, and never on the queue
 * @restless: somebody else may make a THP of it again at any moment
 * @may_stay: it may be left whole and forgotten, see the file that says so
 * @split_must_wait: the second splits, and must not come to an end while the first is
 *	held and the folio is mapped
 * @never_marks: nobody may take it for partially mapped: all of it goes at once
 * @v1: in a memcg of cgroup v1, with swap accounting
 * @neighbours: further folios on the queue with it
 * @pmd: only of the size of a PMD, and so mapped; else that is so for what is not @partial
 * @order: of the folio, 0 for that of ds_thp_size()
 * @weight: so many times as long as others are held
 * @rounds: how many at most, 0: as many as there is time for
 * @evidence: what must have been seen of the first action
 * @setup: what else it needs; returns NULL, or what is missing
 */
struct ds_race {
	const char *name, *bugs;
	const char *actions[2];
	const char *functions[2][DS_RACE_FUNCTIONS + 1];
	bool underused, partial, shmem, restless, may_stay, split_must_wait, pmd, v1;
	bool never_marks;
	unsigned int neighbours, order;
	int rounds, weight;
	enum ds_evidence evidence;
	const char *(*setup)(void);
};

/**
 * ds_race_main - what main() of a file of races does
 *
 * Runs each race for a while, first with both let go at about the same moment, then,
 * if the splitq module is there, with one of the two held at one instruction after the
 * other while the other one does its work. After each round it looks at the folio, at
 * counters, at the memory's content and at the kernel's log.
 *
 * Return: the exit status of a kselftest. A race is skipped as VACUOUS if the two were
 * never at work at the same time, or one of them never did what it is there for.
 */
int ds_race_main(int argc, char **argv, const struct ds_race *races, size_t nr);

#endif
