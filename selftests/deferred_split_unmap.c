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
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

/* How long the scanner is held at most: then the unmap was blocked by it. */
#define HOLD_MS		100
#define MAX_SYMBOLS	16

#define CPU_UNMAP	0
#define CPU_SCAN	1

struct helper {
	pid_t pid;
	int to, from;
};

struct symbol {
	char name[128];
	unsigned long size;
};

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

/* The commands of the helpers, and what they answer. */
static void unmapper_loop(int in, int out, const struct ds_memcg *memcg)
{
	size_t size = ds_thp_size();
	char *thp = NULL, command;

	if (!ds_memcg_enter(memcg) || !ds_pin_to_cpu(CPU_UNMAP))
		_exit(1);
	while (read(in, &command, 1) == 1) {
		switch (command) {
		case 'm':
			thp = ds_map_thp();
			break;
		case 'h':
			munmap(thp + size / 2, size / 2);
			break;
		case 'f':
			if (thp)
				munmap(thp, size);
			thp = NULL;
			break;
		}
		if (write(out, &thp, sizeof(thp)) != sizeof(thp))
			break;
	}
	_exit(0);
}

static void scanner_loop(int in, int out, const struct ds_memcg *memcg)
{
	char *none = NULL;
	int nid;

	if (!ds_pin_to_cpu(CPU_SCAN))
		_exit(1);
	while (read(in, &nid, sizeof(nid)) == sizeof(nid)) {
		ds_scan(memcg, nid, 1);
		if (write(out, &none, sizeof(none)) != sizeof(none))
			break;
	}
	_exit(0);
}

static bool helper_start(struct helper *h, void (*loop)(int, int, const struct ds_memcg *),
			 const struct ds_memcg *memcg)
{
	int to[2], from[2];

	if (pipe(to) || pipe(from))
		return false;
	h->pid = fork();
	if (h->pid < 0)
		return false;
	if (!h->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		loop(to[0], from[1], memcg);
	}
	close(to[0]);
	close(from[1]);
	h->to = to[1];
	h->from = from[0];
	return true;
}

static void helper_stop(struct helper *h)
{
	if (h->pid <= 0)
		return;
	close(h->to);
	close(h->from);
	waitpid(h->pid, NULL, 0);
	h->pid = 0;
}

static bool helper_answered(struct helper *h, int ms)
{
	struct pollfd pfd = { .fd = h->from, .events = POLLIN };

	return poll(&pfd, 1, ms) == 1;
}

/* The answer, waiting for it at most ten seconds. */
static bool helper_answer(struct helper *h, char **answer)
{
	char *ignored;

	return helper_answered(h, 10000) &&
	       read(h->from, answer ?: &ignored, sizeof(*answer)) == sizeof(*answer);
}

static bool helper_do(struct helper *h, const void *command, size_t len, char **answer)
{
	return write(h->to, command, len) == (ssize_t)len && helper_answer(h, answer);
}

/* The functions in which the scanner takes folios off the queue and puts them back. */
static int find_symbols(struct symbol *symbols)
{
	static const char * const names[] = {
		"deferred_split_scan", "deferred_split_isolate", "deferred_split_requeue",
		"split_queue_add", "split_queue_del",
		/* 7.2 and later */
		"list_lru_isolate", "list_lru_isolate_move", "__list_lru_add", "__list_lru_del",
	};
	char line[512], name[256], type;
	unsigned long addr, starts[MAX_SYMBOLS];
	FILE *f = fopen("/proc/kallsyms", "re");
	int n = 0, i;
	size_t k;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx %c %255s", &addr, &type, name) != 3 || !addr)
			continue;
		for (k = 0; k < ARRAY_SIZE(names) && n < MAX_SYMBOLS; k++) {
			size_t len = strlen(names[k]);

			/* The compiler may call it deferred_split_isolate.constprop.0 */
			if (strncmp(name, names[k], len) || (name[len] && name[len] != '.') ||
			    strstr(name, ".cold"))
				continue;
			snprintf(symbols[n].name, sizeof(symbols[n].name), "%.127s", name);
			symbols[n].size = -1UL;
			starts[n++] = addr;
		}
	}
	if (!f)
		return 0;
	/* A function ends where the next symbol starts. */
	rewind(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx", &addr) != 1)
			continue;
		for (i = 0; i < n; i++)
			if (addr > starts[i] && addr - starts[i] < symbols[i].size)
				symbols[i].size = addr - starts[i];
	}
	fclose(f);
	return n;
}

FIXTURE(unmap) {
	struct ds_memcg memcg;
	struct helper unmapper, scanner;
	struct symbol symbols[MAX_SYMBOLS];
	int nr_symbols;
	long partially_mapped;
};

FIXTURE_SETUP(unmap)
{
	const char *why = ds_unusable();

	if (why)
		SKIP(return, "%s", why);
	if (!ds_have_module())
		SKIP(return, "needs the splitq module to hold a CPU");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	self->nr_symbols = find_symbols(self->symbols);
	if (!self->nr_symbols)
		SKIP(return, "no deferred_split_scan() in /proc/kallsyms");
	why = ds_knobs_set();
	if (why)
		SKIP(return, "cannot set %s", why);

	ASSERT_TRUE(ds_pin_to_cpu(CPU_UNMAP));
	ds_memcg_create(&self->memcg);
	ASSERT_TRUE(helper_start(&self->unmapper, unmapper_loop, &self->memcg));
	ASSERT_TRUE(helper_start(&self->scanner, scanner_loop, &self->memcg));
	self->partially_mapped = ds_thp_stat("nr_anon_partially_mapped");
}

FIXTURE_TEARDOWN(unmap)
{
	if (ds_have_module())
		ds_pause_off();
	helper_stop(&self->scanner);
	helper_stop(&self->unmapper);
	ds_memcg_remove(&self->memcg);
	ds_knobs_restore();
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
		      const struct symbol *symbol, unsigned int offset, enum window window,
		      struct tally *tally)
{
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

	ASSERT_TRUE(helper_do(&self->unmapper, "m", 1, &thp));
	ASSERT_NE(NULL, thp) TH_LOG("no THP to be had");
	ASSERT_EQ(0, ds_folio(self->unmapper.pid, thp, &before));
	ASSERT_STREQ("linked", before.list) TH_LOG("the THP was not queued at fault");

	ASSERT_EQ(sizeof(before.nid),
		  write(self->scanner.to, &before.nid, sizeof(before.nid)));
	while (!helper_answered(&self->scanner, 0)) {
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
			ASSERT_EQ(1, write(self->unmapper.to, "h", 1));
			/* While the scanner is held, and not after it. */
			while (!completed && ds_pause_state(0) == DS_HELD)
				completed = helper_answered(&self->unmapper, 1);
			if (completed)
				tally->completed++;
			else
				tally->blocked++;
			ds_pause_release(0);
			ASSERT_TRUE(helper_answer(&self->unmapper, NULL));
		}
	}
	ds_pause_release(0);
	ASSERT_TRUE(helper_answer(&self->scanner, NULL)) TH_LOG("the scan does not end");

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
	ASSERT_TRUE(helper_do(&self->scanner, &before.nid, sizeof(before.nid), NULL));
	ASSERT_EQ(0, ds_folio(self->unmapper.pid, thp, &after));
	if (!what && after.order && after.partially_mapped)
		what = "STUCK: a scan does not split it";
	ASSERT_TRUE(helper_do(&self->unmapper, "f", 1, NULL));
	if (!what && (ds_thp_stat("nr_anon_partially_mapped") != self->partially_mapped ||
		      ds_count(&self->memcg)))
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
		struct symbol *symbol = &self->symbols[i];

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
