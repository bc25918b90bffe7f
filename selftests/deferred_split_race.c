// SPDX-License-Identifier: GPL-2.0
/*
 * Two actions on one THP at the same time: see deferred_split_race.h.
 *
 * A round has a folio of its own, from its birth to its end. When both are through
 * it is red for one of these:
 *
 *	CORRUPT		the links of the queue do not agree (module)
 *	AUDIT		the module's audit has found something (module)
 *	LOST		marked partially mapped, and on no list (module)
 *	UNMARKED	partially mapped, and not marked so (module)
 *	MARKED		all of it goes at once, and somebody took it for partially mapped
 *	UNSYNCED	a split came to an end, and the folio is whole and mapped (module)
 *	STUCK		a part of it is unmapped, and a scan does not split it
 *	FORGOTTEN	underused, whole, and a scan does not split it
 *	CONTENT		the owner does not find in its memory what it wrote there
 *	LEAK		all is unmapped, and a counter is not back
 *	SPLAT		the kernel complains in its log
 *	STALL		somebody does not come to an end
 *
 * What needs no module is looked at through the folio itself, /proc/kpageflags and
 * the counts of its own memcg: so on a machine in use as well. But for LEAK, which
 * also compares nr_anon_partially_mapped of the whole machine, and MARKED, which
 * compares its split_deferred.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deferred_split_race.h"

#define DELIVERY	0.0005	/* seconds until both have their orders */
#define HOLD_MS		8
#define QUICK_SECONDS	0.6
#define PATIENCE	8	/* times as long, on a slow machine, for ... */
#define MIN_ROUNDS	8	/* ... this many rounds, and ... */
#define MIN_POINTS	4	/* ... instructions of each function */
#define SETTLE_SECONDS	2
#define COLLAPSE_SECONDS 0.1
#define ALL_PAGES_EVERY	8	/* rounds */
#define NO_THP_MAX	50	/* rounds in a row */

#define CPU_FREE	0	/* the owner, who directs, and who is not held */
#define CPU_HELD	1

static struct {
	double seconds;
	bool quick, keep_on, no_module;
	unsigned int seed;
	const char *only;
} options = { .seconds = 2 };

/* A race that is being run. */
struct run {
	const struct ds_race *race;
	const struct ds_action *actions[2];
	struct ds_actor owner, foreign[2];
	struct ds_subject subject;
	double took[2];			/* seconds, of each action */
	long marked, swpout, deferred;
	bool module;

	/* What has happened. */
	long rounds, both, held, completed, blocked, done[2], splits, seen, red;
	const char *wrong;		/* the first one */
	char detail[200];
	const char *cannot;		/* why it cannot go on */
};

/* A round that is being run. */
struct round {
	unsigned long pfn;
	struct ds_answer answers[2];
	bool ran[2];
	char at[160];			/* whoever is held, is held there */
	bool unsynced;
};

static struct ds_actor *actor_of(struct run *r, int i)
{
	return r->actions[i]->by_owner ? &r->owner : &r->foreign[i];
}

static void start_owner(struct run *r)
{
	if (!ds_actor_start(&r->owner, &r->subject.memcg))
		r->cannot = "no process can be made";
	r->subject.owner = r->owner.pid;
}

/* Another owner, and if it has lost its memcg, another one of these. */
static void renew_owner(struct run *r, bool memcg)
{
	ds_actor_stop(&r->owner);
	if (memcg) {
		ds_memcg_remove(&r->subject.memcg);
		ds_memcg_create(&r->subject.memcg);
		if (!r->subject.memcg.dir[0])
			r->cannot = "no memory cgroup can be made";
	}
	start_owner(r);
}

static void red(struct run *r, const struct round *round, const char *word, const char *detail)
{
	if (!r->red++) {
		r->wrong = word;
		snprintf(r->detail, sizeof(r->detail), "%s%s%s", round->at,
			 round->at[0] && detail[0] ? ": " : "", detail);
	}
}

static struct ds_answer answer_of(struct run *r, const struct round *round, struct ds_actor *actor)
{
	struct ds_answer a;

	if (ds_actor_answer(actor, &a)) {
		red(r, round, "STALL", "somebody does not answer");
		r->cannot = "a process is stuck";
	}
	return a;
}

/* The shrinker's count of its own memcg; the root's has what others have queued. */
static long count_queued(const struct run *r)
{
	return r->subject.memcg.dir[0] ? ds_count(&r->subject.memcg) : 0;
}

static bool round_begin(struct run *r, struct round *round)
{
	struct ds_subject *s = &r->subject;
	int i;

	memset(round, 0, sizeof(*round));
	s->fill = !r->race->underused;
	s->partial = r->race->partial;
	s->shmem = r->race->shmem;
	s->neighbours = r->race->neighbours;
	s->all_pages = r->rounds % ALL_PAGES_EVERY == 0;
	s->punched = false;
	r->swpout = ds_size_stat(s->size, "swpout");
	for (i = 0; i < NO_THP_MAX && !r->cannot; i++) {
		ds_actor_send(&r->owner, DS_DO_MAP, NULL, CPU_FREE, s);
		s->thp = answer_of(r, round, &r->owner).thp;
		round->pfn = s->thp ? ds_pfn_of(s->owner, s->thp) : 0;
		if (ds_pfn_is_thp(round->pfn))
			break;
		if (!s->thp) {
			renew_owner(r, false);
			continue;
		}
		ds_actor_send(&r->owner, DS_DO_UNMAP, NULL, CPU_FREE, s);
		answer_of(r, round, &r->owner);
		ds_drain();
	}
	if (i == NO_THP_MAX)
		r->cannot = DS_NO_THP;
	if (r->cannot)
		return false;
	s->nid = ds_node_of(s->owner, s->thp);
	if (s->nid < 0)
		s->nid = 0;
	if (!r->rounds && !s->shmem && s->memcg.dir[0] && !count_queued(r)) {
		r->cannot = "the folio is not queued in this state on this kernel";
		return false;
	}
	r->rounds++;
	return true;
}

/*
 * It must have been split: is it there, in one piece? What has been swapped in since may
 * be of smaller pieces, and what khugepaged has made since has the page again that was
 * unmapped.
 */
static bool is_whole_still(const struct run *r)
{
	const struct ds_subject *s = &r->subject;
	size_t page = sysconf(_SC_PAGESIZE), half = s->size / 2 - page;
	unsigned long pfn = ds_pfn_of(s->owner, s->thp);

	return ds_pfn_is_thp(pfn) && ds_pfn_of(s->owner, s->thp + half) == pfn + half / page &&
	       (r->race->underused || !ds_pfn_of(s->owner, s->thp + s->size - page));
}

/* What is wrong while the folio is still there, NULL if nothing is. */
static const char *judge(struct run *r, const struct round *round)
{
	const struct ds_race *race = r->race;
	unsigned int first = round->ran[0] ? r->actions[0]->leaves : DS_WHOLE;
	unsigned int second = round->ran[1] ? r->actions[1]->leaves : DS_WHOLE;
	unsigned int left = first | second, leaves = first & second;
	bool collapsed = round->ran[0] && r->actions[0]->effect == DS_COLLAPSED;
	struct ds_subject *s = &r->subject;
	struct ds_folio folio;
	bool split;
	int tries, nid;

	if (r->module) {
		int err = ds_folio(s->owner, s->thp, &folio);

		if (!err && (!strcmp(folio.list, "torn") || !strcmp(folio.list, "broken")))
			return "CORRUPT";
		if (ds_have_audit() && ds_audit_complaint())
			return "AUDIT";
		if (!err && !s->shmem && folio.order > 1 && folio.partially_mapped &&
		    !strcmp(folio.list, "empty"))
			return "LOST";
		if (!err && !s->shmem && folio.order > 1 && folio.mapcount > 1 &&
		    folio.mapcount < 1 << folio.order && !folio.partially_mapped)
			return "UNMARKED";
	}
	/* Before 7.x nobody scans the queue of a memcg that is gone. */
	if (s->shmem || race->restless || r->actions[0]->ends_memcg)
		return NULL;
	split = (left & DS_HALF) || (race->partial && !collapsed) ||
		(race->underused && (leaves & DS_WHOLE));
	for (tries = 0; split && tries < 20; tries++) {
		if (!is_whole_still(r))
			return NULL;
		for (nid = 0; nid < ds_nr_nodes(); nid++)
			ds_scan(&s->memcg, nid, 64);
		if (tries) {
			ds_drain();
			usleep(2000);
		}
	}
	if (!split || !is_whole_still(r))
		return NULL;
	if ((left & DS_HALF) || race->partial)
		return "STUCK";
	return race->may_stay ? NULL : "FORGOTTEN";
}

/* Both are through: what has the first one done to it? */
static bool is_seen(const struct run *r, const struct round *round)
{
	const struct ds_subject *s = &r->subject;
	const char *last = s->thp + s->size - sysconf(_SC_PAGESIZE);
	double end = ds_now() + COLLAPSE_SECONDS;
	unsigned long pfn;

	do {
		pfn = ds_pfn_of(s->owner, s->thp);
		switch (r->race->evidence) {
		case DS_SEE_NOTHING:
			return false;
		case DS_SEE_MOVED:
			return pfn && pfn != round->pfn;
		case DS_SEE_GONE:
			return !pfn;
		case DS_SEE_SWAPPED_WHOLE:
			return !pfn && ds_size_stat(s->size, "swpout") > r->swpout;
		case DS_SEE_COLLAPSED:
			/* Somebody else does it, when it comes by. */
			if (pfn != round->pfn && ds_pfn_is_thp(pfn) && ds_pfn_of(s->owner, last))
				return true;
			usleep(1000);
			break;
		}
	} while (ds_now() < end);
	return false;
}

/* All is unmapped. A batch of some CPU may still have it. */
static bool leaks(struct run *r, char *detail, size_t size)
{
	double end = ds_now() + SETTLE_SECONDS;
	long marked, queued;

	for (;;) {
		marked = ds_size_stat(r->subject.size, "nr_anon_partially_mapped");
		queued = count_queued(r);
		if (marked <= r->marked && !queued)
			break;
		if (ds_now() > end) {
			snprintf(detail, size, "%ld queued, nr_anon_partially_mapped %ld, was %ld",
				 queued, marked, r->marked);
			return true;
		}
		ds_drain();
		usleep(5000);
	}
	return false;
}

/* As it is now, if the module can tell. */
static void describe(const struct run *r, char *detail, size_t size)
{
	struct ds_folio f;

	if (r->module && !ds_folio(r->subject.owner, r->subject.thp, &f))
		snprintf(detail, size, "order=%d refs=%d mapcount=%d marked=%d list=%s nid=%d",
			 f.order, f.refs, f.mapcount, f.partially_mapped, f.list, f.nid);
}

static void round_end(struct run *r, struct round *round)
{
	bool ends_owner = false, ends_memcg = false;
	struct ds_subject *s = &r->subject;
	char detail[128] = "";
	const char *word, *said;
	int i;

	for (i = 0; i < 2; i++) {
		ends_owner |= round->ran[i] && r->actions[i]->ends_owner;
		ends_memcg |= round->ran[i] && r->actions[i]->ends_memcg;
		s->punched |= r->race->shmem && r->actions[i]->leaves == DS_NOTHING &&
			      !r->actions[i]->by_owner;
	}
	if (round->ran[0] && r->race->evidence)
		r->seen += is_seen(r, round);
	/* Not if the owner was ended in its middle. */
	word = ends_owner && !ends_memcg ? NULL : judge(r, round);
	if (round->unsynced)
		word = "UNSYNCED";
	if (!word && r->race->never_marks &&
	    ds_size_stat(s->size, "split_deferred") != r->deferred)
		word = "MARKED";
	if (word && !strcmp(word, "AUDIT"))
		snprintf(detail, sizeof(detail), "%.100s", ds_audit_complaint() ?: "");
	else if (word)
		describe(r, detail, sizeof(detail));
	if (!ends_owner || ends_memcg) {
		ds_actor_send(&r->owner, DS_DO_UNMAP, NULL, CPU_FREE, s);
		if (answer_of(r, round, &r->owner).result == -EIO && !word)
			word = "CONTENT";
	}
	if (ends_owner)
		renew_owner(r, ends_memcg);
	if (!word && leaks(r, detail, sizeof(detail)))
		word = "LEAK";
	said = ds_log_complaint();
	if (said) {
		word = "SPLAT";
		snprintf(detail, sizeof(detail), "%.120s", said);
	}
	if (word) {
		red(r, round, word, detail);
		r->marked = ds_size_stat(s->size, "nr_anon_partially_mapped");
	}
	r->deferred = ds_size_stat(s->size, "split_deferred");
	for (i = 0; i < 2; i++)
		if (round->ran[i] && !round->answers[i].result)
			r->done[i]++;
}

static bool prepare(struct run *r)
{
	if (r->actions[0]->prepare && r->actions[0]->prepare(&r->subject)) {
		r->cannot = "it cannot be prepared";
		return false;
	}
	return true;
}

static long splits(const struct run *r)
{
	return ds_size_stat(r->subject.size, "split");
}

/* Both at about the same time. */
static void free_round(struct run *r)
{
	double lag, at = 0, both;
	struct round round;
	long before;
	int i;

	if (!round_begin(r, &round) || !prepare(r))
		return;
	before = splits(r);
	/* From "the first is just through" to "the second is". */
	lag = -r->took[1] + drand48() * (r->took[0] + r->took[1]);
	at = ds_now() + DELIVERY;
	for (i = 0; i < 2; i++) {
		double mine = at + (i ? (lag > 0 ? lag : 0) : (lag < 0 ? -lag : 0));

		round.ran[i] = true;
		ds_actor_send_at(actor_of(r, i), DS_DO_ACTION, r->actions[i],
				 i ? CPU_HELD : CPU_FREE, &r->subject, mine);
	}
	for (i = 0; i < 2; i++) {
		struct ds_answer *a = &round.answers[i];

		*a = answer_of(r, &round, actor_of(r, i));
		/* Who is gone does not say when it went. */
		if (a->gone && r->actions[i]->ends_owner) {
			a->result = 0;
			a->began = at;
			a->ended = ds_now();
		}
		if (!r->took[i] || a->ended - a->began < 2 * r->took[i])
			r->took[i] += (a->ended - a->began - r->took[i]) / (r->took[i] ? 8 : 1);
	}
	both = round.answers[0].ended < round.answers[1].ended ? round.answers[0].ended :
								   round.answers[1].ended;
	both -= round.answers[0].began > round.answers[1].began ? round.answers[0].began :
								    round.answers[1].began;
	if (both > 0)
		r->both++;
	r->splits += splits(r) - before;
	if (!r->cannot)
		round_end(r, &round);
}

/* It is through with its split, the other one is held still: is the folio mapped? */
static bool is_unsynced(const struct round *round)
{
	struct ds_folio folio;

	return !ds_folio_peek(round->pfn, &folio) && folio.order > 1 && folio.mapcount > 0 &&
	       ds_pause_state(0) == DS_HELD;
}

/* One of the two is held at an instruction, meanwhile the other one does its work. */
static void held_round(struct run *r, int victim, const struct ds_symbol *symbol,
		       unsigned int offset)
{
	struct ds_actor *held = actor_of(r, victim), *other = actor_of(r, !victim);
	enum ds_pause state = DS_ARMED;
	bool completed = false;
	struct round round;
	long before;

	if (!round_begin(r, &round) || !prepare(r))
		return;
	before = splits(r);
	if (!ds_pause_arm(0, symbol->name, offset, held->pid, HOLD_MS)) {
		round.ran[victim] = true;
		ds_actor_send(held, DS_DO_ACTION, r->actions[victim], CPU_HELD, &r->subject);
		while (state == DS_ARMED && !ds_actor_ready(held, 0))
			state = ds_pause_state(0);
	}
	if (state == DS_HELD) {
		snprintf(round.at, sizeof(round.at), "%.127s+0x%x", symbol->name, offset);
		round.ran[!victim] = true;
		ds_actor_send(other, DS_DO_ACTION, r->actions[!victim], CPU_FREE, &r->subject);
		while (!completed && ds_pause_state(0) == DS_HELD)
			completed = ds_actor_ready(other, 1);
		r->held++;
		if (completed && !victim && r->race->split_must_wait)
			round.unsynced = is_unsynced(&round);
		if (completed)
			r->completed++;
		else
			r->blocked++;
		ds_pause_release(0);
		round.answers[!victim] = answer_of(r, &round, other);
	}
	if (round.ran[victim])
		round.answers[victim] = answer_of(r, &round, held);
	ds_pause_line("id=0 off");
	r->splits += splits(r) - before;
	if (!r->cannot)
		round_end(r, &round);
}

/* Which instructions of the function does an action execute, if nobody is about? */
static void cover(struct run *r, int victim, const char *symbol, struct ds_points *points)
{
	struct ds_actor *actor = actor_of(r, victim);
	struct round round;

	points->nr = 0;
	if (!round_begin(r, &round) || (!victim && !prepare(r)))
		return;
	if (!ds_cover_start(symbol, actor->pid)) {
		round.ran[victim] = true;
		ds_actor_send(actor, DS_DO_ACTION, r->actions[victim], CPU_HELD, &r->subject);
		round.answers[victim] = answer_of(r, &round, actor);
		ds_cover_read(points);
	}
	ds_pause_off();
	if (!r->cannot)
		round_end(r, &round);
}

static bool over(const struct run *r)
{
	return r->cannot || (r->red && !options.keep_on) ||
	       (r->race->rounds && r->rounds >= r->race->rounds);
}

#define ALL_SYMBOLS	32

/* Of all races of the file: reading them takes a while. */
static struct ds_symbol all_symbols[ALL_SYMBOLS];
static int nr_all_symbols;

static void find_all_symbols(const struct ds_race *races, size_t nr)
{
	const char *names[ALL_SYMBOLS + 1] = { NULL };
	const char * const *name;
	int n = 0, i, k;
	size_t race;

	for (race = 0; race < nr; race++)
		for (i = 0; i < 2; i++)
			for (name = races[race].functions[i]; *name && n < ALL_SYMBOLS; name++) {
				for (k = 0; k < n && strcmp(names[k], *name); k++)
					;
				if (k == n)
					names[n++] = *name;
			}
	nr_all_symbols = ds_find_symbols(names, all_symbols, ALL_SYMBOLS);
}

/* Those of one race: the compiler may have put something behind a name. */
static int pick_symbols(const char * const *names, const struct ds_symbol **symbols, int max)
{
	int n = 0, i;

	for (; *names; names++)
		for (i = 0; i < nr_all_symbols && n < max; i++) {
			size_t len = strlen(*names);
			const char *name = all_symbols[i].name;

			if (!strncmp(name, *names, len) && (!name[len] || name[len] == '.'))
				symbols[n++] = &all_symbols[i];
		}
	return n;
}

static void hold_in(struct run *r, int victim, const struct ds_symbol *symbol, double seconds)
{
	static struct ds_points points;
	unsigned int n;
	double start;

	cover(r, victim, symbol->name, &points);
	start = ds_now();
	for (n = 0; n < points.nr && !over(r); n++) {
		double spent = ds_now() - start;

		if (spent > (n < MIN_POINTS ? PATIENCE * seconds : seconds))
			break;
		held_round(r, victim, symbol, points.offset[ds_spread(n, points.nr)]);
	}
	ksft_print_msg("%s: %s held at %u of %u instructions of %s\n", r->race->name,
		       r->actions[victim]->name, n, points.nr, symbol->name);
}

/* Every function has its share of the time, and every part of it of that. */
static void hold(struct run *r, double seconds)
{
	const struct ds_symbol *symbols[2][DS_RACE_FUNCTIONS];
	int nr[2] = { 0 }, i, k;

	for (i = 0; i < 2; i++)
		/* Who waits for all CPUs cannot be held up by one, only the other way. */
		if (r->race->functions[i][0] && !r->actions[!i]->stages[0])
			nr[i] = pick_symbols(r->race->functions[i], symbols[i],
					     DS_RACE_FUNCTIONS);
	for (i = 0; i < 2; i++) {
		for (k = 0; k < nr[i] && !over(r); k++)
			hold_in(r, i, symbols[i][k], seconds / (nr[0] + nr[1]));
		/* It has been on a CPU where others are held from now on. */
		if (nr[i] && r->actions[i]->by_owner && !r->cannot)
			renew_owner(r, false);
	}
}

static const char * const evidence_names[] = {
	[DS_SEE_MOVED] = "nothing has been moved",
	[DS_SEE_GONE] = "nothing has been swapped out",
	[DS_SEE_SWAPPED_WHOLE] = "nothing has been swapped out in one piece",
	[DS_SEE_COLLAPSED] = "nothing has been collapsed",
};

/* What must have happened for a pass to mean something; NULL: all did. */
static const char *vacuous(const struct run *r)
{
	static char why[96];
	int i;

	if (!r->both && !r->completed && !r->blocked)
		return "the two were never at work at the same time";
	for (i = 0; i < 2; i++)
		if (!r->done[i]) {
			snprintf(why, sizeof(why), "%s never did its work", r->actions[i]->name);
			return why;
		}
	if (r->race->evidence && !r->seen)
		return evidence_names[r->race->evidence];
	if ((r->race->partial || r->race->underused) && !r->splits)
		return "nothing was split meanwhile";
	return NULL;
}

static void let_go(struct run *r, double seconds)
{
	double start = ds_now();
	long rounds = r->rounds;

	while (!over(r)) {
		double spent = ds_now() - start;
		bool enough = r->rounds - rounds >= MIN_ROUNDS && r->both && !vacuous(r);

		if (spent > (enough ? seconds : PATIENCE * seconds))
			break;
		free_round(r);
	}
}

static const char *run_setup(struct run *r)
{
	const struct ds_race *race = r->race;
	const char *why;
	int i;

	for (i = 0; i < 2; i++)
		r->actions[i] = ds_find_action(race->actions[i]);
	if (!r->actions[0] || !r->actions[1] ||
	    (r->actions[0]->by_owner && r->actions[1]->by_owner))
		ksft_exit_fail_msg("%s: there is no race of %s and %s\n", race->name,
				   race->actions[0], race->actions[1]);
	why = ds_set_underused(race->underused);
	/* It would make THPs again of what was split; awake once, it sleeps for long. */
	why = why ?: ds_knob_set(DS_KHUGEPAGED "scan_sleep_millisecs", "600000");
	r->subject.size = race->order ? (size_t)sysconf(_SC_PAGESIZE) << race->order :
					ds_thp_size();
	if (!why && race->order)
		why = ds_set_size_enabled(r->subject.size);
	/* Only a fault of a PMD queues what is not partially mapped. */
	else if (!why && (race->pmd || !race->partial))
		why = ds_need_pmd();
	if (!why && race->setup)
		why = race->setup();
	if (why)
		return why;
	for (i = 0; i < 2; i++)
		if (!strcmp(race->actions[i], "migrate") && ds_nr_nodes() < 2)
			return "needs two NUMA nodes";
	if (!ds_log_start())
		return "/dev/kmsg cannot be read";
	r->module = ds_have_module() && !options.no_module;
	if (!ds_actor_start(&r->foreign[0], NULL) || !ds_actor_start(&r->foreign[1], NULL))
		return "no process can be made";
	why = race->v1 ? ds_memcg_create_v1(&r->subject.memcg, race->name) : NULL;
	if (!why && race->v1 && !ds_memcg_has(&r->subject.memcg, "memory.memsw.usage_in_bytes"))
		why = "no swap accounting with cgroup v1: CONFIG_SWAP, not swapaccount=0";
	if (!race->v1)
		ds_memcg_create(&r->subject.memcg);
	if (!why && !r->subject.memcg.dir[0])
		why = "needs cgroup v2 with the memory controller";
	if (why)
		return why;
	start_owner(r);
	r->marked = ds_size_stat(r->subject.size, "nr_anon_partially_mapped");
	r->deferred = ds_size_stat(r->subject.size, "split_deferred");
	return r->cannot;
}

static void run_race(const struct ds_race *race)
{
	double seconds = options.quick ? QUICK_SECONDS : options.seconds, start = ds_now();
	struct run r = { .race = race };
	const char *why = ds_knobs_set() ?: run_setup(&r);
	bool holds = r.module && !options.quick;

	ksft_print_msg("%s: %s against %s, for %s\n", race->name, race->actions[0],
		       race->actions[1], race->bugs);
	if (!why)
		let_go(&r, holds ? seconds / 3 : seconds);
	if (!why && holds)
		hold(&r, seconds * 2 / 3 * (race->weight ?: 1));

	if (r.module)
		ds_pause_off();
	ds_actor_stop(&r.foreign[0]);
	ds_actor_stop(&r.foreign[1]);
	ds_actor_stop(&r.owner);
	if (r.subject.memcg.dir[0])
		ds_memcg_remove(&r.subject.memcg);
	ds_swap_remove();
	if (race->v1)
		ds_memcg_v1_end();
	ds_knobs_restore();

	if (!why)
		ksft_print_msg("window %s entered=%ld both=%ld held=%ld completed=%ld blocked=%ld "
			       "rounds=%ld first=%ld second=%ld splits=%ld seen=%ld red=%ld\n",
			       race->name, r.both + r.completed + r.blocked, r.both, r.held,
			       r.completed, r.blocked, r.rounds, r.done[0], r.done[1], r.splits,
			       r.seen, r.red);
	if (r.red) {
		ksft_print_msg("%s: %s: %s\n", r.wrong, race->name, r.detail);
		ksft_test_result_fail("%s: %s after %.1f s\n", race->name, r.wrong,
				      ds_now() - start);
		return;
	}
	why = why ?: r.cannot;
	if (why) {
		ksft_test_result_skip("%s: %s\n", race->name, why);
		return;
	}
	why = vacuous(&r);
	if (!why && race->split_must_wait && r.held && !r.blocked)
		why = "no split had to wait for who was held";
	/* Compaction does nothing if memory is not fragmented: that is nobody's fault. */
	if (why && race->evidence && !r.seen && r.actions[0]->effect == DS_MAPPED)
		ksft_test_result_skip("%s: %s, there was no need to\n", race->name, why);
	else if (why)
		ksft_test_result_skip("%s VACUOUS: %s\n", race->name, why);
	else
		ksft_test_result_pass("%s\n", race->name);
}

static int print_help(const char *program, const struct ds_race *races, size_t nr, int status)
{
	size_t i;

	printf("%s [-s SECONDS] [-t quick|RACE] [-k] [-m] [-l] [-S SEED]\n"
	       "  -s SECONDS  for each race (%.0f; environment: SECONDS)\n"
	       "  -t quick    for each race %.1f s, nobody is held; -t RACE: only this one\n"
	       "  -k          keep on after something red, and count it\n"
	       "  -m          do not use the splitq module\n"
	       "  -l          a few pages may be lost: DS_SOFT_OFFLINE=1\n"
	       "  -S SEED     of the times at which they begin\n", program, options.seconds,
	       QUICK_SECONDS);
	for (i = 0; i < nr; i++)
		printf("%-32s for %s\n", races[i].name, races[i].bugs);
	return status;
}

int ds_race_main(int argc, char **argv, const struct ds_race *races, size_t nr)
{
	const char *why, *seconds = getenv("SECONDS");
	bool found = false;
	size_t i, n = 0;
	int c;

	setvbuf(stdout, NULL, _IOLBF, 0);
	options.seed = (unsigned int)(ds_now() * 1e6) ^ getpid();
	if (seconds && atof(seconds) > 0)
		options.seconds = atof(seconds);
	while ((c = getopt(argc, argv, "hs:t:kmlS:")) != -1) {
		switch (c) {
		case 's':
			options.seconds = atof(optarg);
			if (options.seconds <= 0)
				return print_help(argv[0], races, nr, 2);
			break;
		case 't':
			if (!strcmp(optarg, "quick"))
				options.quick = true;
			else
				options.only = optarg;
			break;
		case 'k':
			options.keep_on = true;
			break;
		case 'm':
			options.no_module = true;
			break;
		case 'l':
			setenv("DS_SOFT_OFFLINE", "1", 1);
			break;
		case 'S':
			options.seed = strtoul(optarg, NULL, 0);
			break;
		case 'h':
			return print_help(argv[0], races, nr, 0);
		default:
			return print_help(argv[0], races, nr, 2);
		}
	}
	for (i = 0; i < nr; i++) {
		found |= options.only && !strcmp(races[i].name, options.only);
		n += !options.only || !strcmp(races[i].name, options.only);
	}
	if (optind != argc || (options.only && !found))
		return print_help(argv[0], races, nr, 2);

	ksft_print_header();
	why = ds_unusable();
	if (!why && sysconf(_SC_NPROCESSORS_ONLN) < 2)
		why = "needs two CPUs";
	if (why)
		ksft_exit_skip("%s\n", why);
	ksft_set_plan(n);
	ksft_print_msg("SEED=%u%s\n", options.seed,
		       ds_have_module() && !options.no_module ? "" : ", no splitq module");
	srand48(options.seed);
	signal(SIGPIPE, SIG_IGN);
	ds_pin_to_cpu(CPU_FREE);
	if (ds_have_module() && !options.no_module && !options.quick)
		find_all_symbols(races, nr);
	for (i = 0; i < nr; i++)
		if (!options.only || !strcmp(races[i].name, options.only))
			run_race(&races[i]);
	ksft_finished();
}
