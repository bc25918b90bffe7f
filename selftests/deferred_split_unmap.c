// SPDX-License-Identifier: GPL-2.0
/*
 * A partial unmap of a THP that the shrinker has in its hands.
 *
 * The THP was queued at fault ("underused") and nothing of it was unmapped yet.
 * Two windows, each driven by holding the scanning CPU at an instruction with
 * the splitq module, and unmapping half of the THP on another CPU meanwhile:
 *
 * unmap_is_not_lost (B46)
 *
 * CPU0 (shrinker)                       CPU1 (munmap of a half)
 *
 * folio_test_partially_mapped() -> 0
 *                                       lock(queue)
 *                                       folio_set_partially_mapped()
 *                                       list_empty() -> false, not added
 *                                       unlock(queue)
 * list_del_init()
 *   LOST ->  marked partially mapped, and on no list: nobody will ever queue
 *            or split it again, and nr_anon_partially_mapped stays one too high
 *
 * unmap_does_not_corrupt (B48)
 *
 * CPU0 (shrinker)                       CPU1 (munmap of a half)
 *
 * list_del_init(): next = self
 *                                       lock(queue)
 *                                       list_empty() -> true
 *                                       list_add_tail()
 *                                       unlock(queue)
 * list_del_init(): prev = self
 *   CORRUPT ->  queued, but prev points at itself
 *
 * Oracles: the folio's own state (from the module) and the queue's behaviour: a
 * scan must still split what is marked partially mapped, and counters must be
 * back where they were when all is unmapped.
 *
 * A window counts as entered when the scanner was held in it. With the unlink
 * under the queue's lock the munmap cannot finish while the scanner is held
 * between the two stores: that is counted as blocked, and is right.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_actor.h"

/* How long the scanner is held at most: then the unmap was blocked by it. */
#define HOLD_MS		100
#define MAX_SYMBOLS	16

#define CPU_UNMAP	0
#define CPU_SCAN	1

enum window { WINDOW_LOST, WINDOW_TORN };

/* What the sweep over all instructions saw. */
struct tally {
	int points;	/* instructions that the scanner was held at */
	int entered;	/* ... in the window */
	int completed;	/* the unmap finished while the scanner was held */
	int blocked;	/* it did not: it waited for the scanner */
	int red;
	char first_red[512];
};

/* The functions in which the scanner takes folios off the queue and puts them back. */
static const char * const functions[] = {
	"deferred_split_scan", "deferred_split_batch", "deferred_split_isolate",
	"deferred_split_requeue", "split_queue_add", "__split_queue_add", "split_queue_del",
	/* 7.2 and later */
	"list_lru_isolate", "list_lru_isolate_move", "__list_lru_add", "__list_lru_del",
	NULL
};

FIXTURE(unmap) {
	struct ds_subject subject;
	struct ds_actor unmapper, scanner;
	struct ds_symbol symbols[MAX_SYMBOLS];
	int nr_symbols;
	long partially_mapped;
};

FIXTURE_SETUP(unmap)
{
	const char *why = ds_need_pmd() ?: ds_setup(2);

	if (!why && !ds_have_module())
		why = "needs the splitq module to hold a CPU";
	if (why)
		SKIP(return, "%s", why);
	self->nr_symbols = ds_find_symbols(functions, self->symbols, MAX_SYMBOLS);
	if (!self->nr_symbols)
		SKIP(return, "no deferred_split_scan() in /proc/kallsyms");

	ASSERT_TRUE(ds_pin_to_cpu(CPU_UNMAP));
	self->subject.size = ds_thp_size();
	self->subject.fill = true;
	ds_memcg_create(&self->subject.memcg);
	ASSERT_TRUE(ds_actor_start(&self->unmapper, &self->subject.memcg));
	ASSERT_TRUE(ds_actor_start(&self->scanner, NULL));
	self->subject.owner = self->unmapper.pid;
	self->partially_mapped = ds_thp_stat("nr_anon_partially_mapped");
}

FIXTURE_TEARDOWN(unmap)
{
	if (ds_have_module())
		ds_pause_off();
	ds_actor_stop(&self->scanner);
	ds_actor_stop(&self->unmapper);
	ds_memcg_remove(&self->subject.memcg);
	ds_knobs_restore();
}

static void start(FIXTURE_DATA(unmap) *self, struct ds_actor *actor, const char *action)
{
	ds_actor_send(actor, DS_DO_ACTION, ds_find_action(action),
		      actor == &self->scanner ? CPU_SCAN : CPU_UNMAP, &self->subject);
}

/* Whether it has answered, in time, and the THP if it was to map one. */
static bool answered(struct ds_actor *actor, char **thp)
{
	struct ds_answer a;

	if (ds_actor_answer(actor, &a) || a.gone)
		return false;
	if (thp)
		*thp = a.thp;
	return true;
}

static bool in_window(enum window window, const struct ds_folio *before,
		      const struct ds_folio *held)
{
	bool torn = !strcmp(held->list, "torn");

	if (window == WINDOW_TORN)
		return torn;
	/* In the hands of the scanner, which holds a reference, and whole. */
	return held->refs > before->refs && !held->partially_mapped && !torn;
}

/*
 * Hold the scanner at one instruction, unmap half of the THP if that is in the
 * window, let both finish. Fills in what went wrong. Returns false if the test
 * cannot go on: the queue is corrupt, or a helper is gone.
 */
static bool try_point(struct __test_metadata *_metadata, FIXTURE_DATA(unmap) *self,
		      const struct ds_symbol *symbol, unsigned int offset, enum window window,
		      struct tally *tally)
{
	struct ds_subject *subject = &self->subject;
	struct ds_folio before, held, after;
	enum ds_pause state = DS_OFF;
	const char *what = NULL;
	bool completed = false;
	char *thp = NULL;
	int err;

	/* Most offsets are in the middle of an instruction. */
	err = ds_pause_arm(0, symbol->name, offset, self->scanner.pid, HOLD_MS);
	if (err)
		return true;

	ds_actor_send(&self->unmapper, DS_DO_MAP, NULL, CPU_UNMAP, subject);
	ASSERT_TRUE(answered(&self->unmapper, &thp));
	ASSERT_NE(NULL, thp) TH_LOG("no THP to be had");
	ASSERT_EQ(0, ds_folio(self->unmapper.pid, thp, &before));
	ASSERT_STREQ("linked", before.list) TH_LOG("the THP was not queued at fault");

	subject->thp = thp;
	subject->nid = before.nid;
	start(self, &self->scanner, "scan");
	while (!ds_actor_ready(&self->scanner, 0)) {
		state = ds_pause_state(0);
		if (state != DS_ARMED)
			break;
	}

	if (state == DS_HELD && !ds_folio(self->unmapper.pid, thp, &held)) {
		tally->points++;
		if (in_window(window, &before, &held)) {
			if (!tally->entered++)
				TH_LOG("scanner held at %s+0x%x in the window: refs=%d list=%s",
				       symbol->name, offset, held.refs, held.list);
			start(self, &self->unmapper, "munmap-half");
			/* While the scanner is held, and not after it. */
			while (!completed && ds_pause_state(0) == DS_HELD)
				completed = ds_actor_ready(&self->unmapper, 1);
			if (completed)
				tally->completed++;
			else
				tally->blocked++;
			ds_pause_release(0);
			ASSERT_TRUE(answered(&self->unmapper, NULL));
		}
	}
	ds_pause_release(0);
	ASSERT_TRUE(answered(&self->scanner, NULL)) TH_LOG("the scan does not end");

	ASSERT_EQ(0, ds_folio(self->unmapper.pid, thp, &after));
	if (!strcmp(after.list, "torn") || !strcmp(after.list, "broken"))
		what = "CORRUPT: the queue's links do not agree";
	else if (after.order && after.partially_mapped && !strcmp(after.list, "empty"))
		what = "LOST: partially mapped and on no list";

	if (what && what[0] == 'C') {
		snprintf(tally->first_red, sizeof(tally->first_red), "%s+0x%x: %s", symbol->name,
			 offset, what);
		tally->red++;
		return false;
	}

	/* What is marked partially mapped must be split by a scan. */
	start(self, &self->scanner, "scan");
	ASSERT_TRUE(answered(&self->scanner, NULL));
	ASSERT_EQ(0, ds_folio(self->unmapper.pid, thp, &after));
	if (!what && after.order && after.partially_mapped)
		what = "STUCK: a scan does not split it";
	ds_actor_send(&self->unmapper, DS_DO_UNMAP, NULL, CPU_UNMAP, subject);
	ASSERT_TRUE(answered(&self->unmapper, NULL));
	if (!what && (ds_thp_stat("nr_anon_partially_mapped") != self->partially_mapped ||
		      ds_count(&subject->memcg)))
		what = "LEAK: counters are not back after all was unmapped";
	if (!what)
		return true;

	if (!tally->red++)
		snprintf(tally->first_red, sizeof(tally->first_red),
			 "%s+0x%x: %s; order=%d list=%s, nr_anon_partially_mapped %ld -> %ld",
			 symbol->name, offset, what, after.order, after.list,
			 self->partially_mapped, ds_thp_stat("nr_anon_partially_mapped"));
	self->partially_mapped = ds_thp_stat("nr_anon_partially_mapped");
	return true;
}

static void sweep(struct __test_metadata *_metadata, FIXTURE_DATA(unmap) *self,
		  enum window window, const char *name)
{
	struct tally tally = { 0 };
	unsigned int offset;
	int i;

	for (i = 0; i < self->nr_symbols; i++) {
		struct ds_symbol *symbol = &self->symbols[i];

		for (offset = 0; offset < symbol->size && offset < 0x4000; offset++)
			if (!try_point(_metadata, self, symbol, offset, window, &tally))
				goto out;
	}
out:
	TH_LOG("window %s points=%d entered=%d completed=%d blocked=%d red=%d", name,
	       tally.points, tally.entered, tally.completed, tally.blocked, tally.red);
	ASSERT_EQ(0, tally.red)
		TH_LOG("%s", tally.first_red);
	if (!tally.entered)
		SKIP(return, "VACUOUS: the scanner was never held in the window");
	if (window == WINDOW_LOST && !tally.completed)
		SKIP(return, "VACUOUS: no unmap finished while the scanner held the folio");
}

TEST_F_TIMEOUT(unmap, unmap_is_not_lost, 240)
{
	sweep(_metadata, self, WINDOW_LOST, "unmap_is_not_lost");
}

TEST_F_TIMEOUT(unmap, unmap_does_not_corrupt, 240)
{
	sweep(_metadata, self, WINDOW_TORN, "unmap_does_not_corrupt");
}

TEST_HARNESS_MAIN
