// SPDX-License-Identifier: GPL-2.0
/*
 * Every schedule with one preemption: hold one CPU at each instruction of a
 * victim function in turn, run an operation on another CPU meanwhile, let both
 * finish, and look at what is left.
 *
 *	deferred_split_explore [-a OFF | -r OFF-OFF] VICTIM SYMBOL OP STATE [FIRST]
 *
 * VICTIM is the action that executes SYMBOL, OP the action that comes between;
 * both are names of deferred_split_actor.c. First each of them runs alone: VICTIM
 * shows which instructions of SYMBOL are executed, and these are tried, from
 * FIRST on; OP shows that it does in this state what it must do. With -r only those
 * between two offsets are tried, with -a only that at OFF, and nothing runs alone.
 *
 * Or with two preemptions:
 *
 *	deferred_split_explore -2 SYMBOL2 [-s SECONDS] [-a OFF -b OFF2 | -r OFF-OFF]
 *		VICTIM SYMBOL OP STATE [FIRST]
 *
 * VICTIM is held at an instruction of SYMBOL, OP runs until an instruction of
 * SYMBOL2 and is held there, VICTIM finishes, OP finishes. Which instructions OP
 * executes is found out for each that VICTIM is held at. The pairs come in an order
 * that covers all of both evenly, from pair number FIRST on, until all are tried or
 * the time is over.
 *
 * The owner of the folio and the foreign actors are processes of their own, on CPUs
 * of their own: a CPU that is held has interrupts off, so nobody else must need it
 * for a TLB flush or a grace period. An operation that begins by waiting for all
 * CPUs is brought behind that, and held at its stage, before the victim starts.
 * When somebody waits all the same, or for a lock that the held one has, the hold is
 * ended after a while and the point is counted as blocked.
 *
 * STATE is what the folio is in before: queued (at fault, not partially mapped),
 * underused (the same, all of it zero, and max_ptes_none is 0: a scan wants to
 * split it), partial (its last page is unmapped) or dropped (a scan has taken it off
 * the queue, as used); then, with a + before each: root (in the root memcg), pinned
 * or locked (somebody has a reference, or the folio's lock, until both are through),
 * neighbour (another folio of the same owner is on the queue) and a size such as 64k.
 *
 * A line per instruction that the victim was held at, or per pair:
 *
 *	point SYMBOL+0xOFF ok|blocked|WORD victim=RESULT op=RESULT
 *	covering NUMBER SYMBOL+0xOFF
 *	try NUMBER SYMBOL+0xOFF SYMBOL2+0xOFF2
 *	pair NUMBER SYMBOL+0xOFF SYMBOL2+0xOFF2 WORD victim=RESULT op=RESULT
 *
 * (a pair has the second line if it is red) and at the end the sums. WORDs, all of them red:
 *
 *	CORRUPT		the links of the queue do not agree
 *	LOST		marked partially mapped, and on no list
 *	UNMARKED	partially mapped, and not marked so
 *	AUDIT		the module's audit has found something
 *	STUCK		partially mapped, and a scan does not split it
 *	FORGOTTEN	underused, whole, and not queued any more
 *	LEAK		counters are not back when all is unmapped
 *	NOEFFECT	the operation did not do what it must leave behind
 *	DROPPED		a scan has taken a folio off the queue that was frozen, not dying
 *	UNTRIED		migration did not try to split what it found partially mapped
 *	WRITTEN		the folio was freed, and written to after that
 *	CONTENT		the owner does not have in its memory what it wrote there
 *	HANG		somebody makes no progress
 *
 * -p WORD makes the first point find AUDIT, STUCK, LEAK, NOEFFECT, CONTENT or HANG
 * although the kernel has done nothing wrong: the oracles can fail.
 *
 * Exit status: 0 nothing red, 1 something is, 3 something is that what follows could
 * suffer from: go on behind the last point in a fresh guest; 4 it cannot run here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kselftest.h"
#include "deferred_split_actor.h"

#define BLOCK_MS	20	/* at least: then whoever is not through is blocked */
#define BLOCK_MS_MAX	100
#define PATIENCE_MS_MAX	3000	/* the module holds for 10 s at most, a pair for 3 times that */
#define STAGE_MS	3000	/* for safety: a stage ends when the victim is held */
#define STUCK_MS	100	/* a victim that is not there by then waits for the stage */
#define POINTS_MAX	DS_POINTS_MAX
#define HOT		8	/* executions */
#define PASSES		8
#define TRIES		3	/* of the operation alone, and of the victim */
#define PAGES_MAX	48	/* that may be lost for good */
#define FRESH		3	/* exit status: not in this guest any more */

struct explorer {
	const struct ds_action *victim, *op;
	const char *symbol, *symbol2;
	bool underused, partial, dropped, root, pinned, locked;
	size_t size;
	const char *plant;

	struct ds_actor owner, foreign[2];	/* [0] is the victim, [1] the operator */
	struct ds_subject subject;
	long partially_mapped;
	double op_ms;			/* the shortest that the operation took */
	const char *stage;		/* where the operation must be first, or NULL */
	const char *other_stage;	/* or there, or NULL */
	bool other_tried;
	int kmsg;
	int points, ok, blocked, red, missed, both, pages, patience_ms;
};

/* One folio, from its birth to its end. */
struct round {
	struct ds_folio before;
	int keep;			/* keeps it pinned or locked, or -1 */
	struct ds_answer victim, op;
	bool op_ran;
	bool completed;			/* the operation, while the victim was held */
	bool dropped;			/* by the operation, while it was frozen */
	bool untried;			/* by migration, in the victim's hands */
	const char *wrong;
	bool noisy;			/* the kernel has said something */
};

static struct ds_points victim_points, op_points;

static __attribute__((noreturn)) void end(struct explorer *x, int status)
{
	printf("window %s/%s entered=%d ok=%d blocked=%d red=%d missed=%d both=%d\n", x->symbol,
	       x->op->name, x->points, x->ok, x->blocked, x->red, x->missed, x->both);
	fflush(stdout);
	/* Not exit(): a broken kernel may not survive the restoring of knobs. */
	if (status == FRESH)
		_exit(status);
	exit(status);
}

static __attribute__((noreturn)) void cannot(const char *why)
{
	printf("cannot run: %s\n", why);
	exit(4);
}

static struct ds_actor *actor_of(struct explorer *x, const struct ds_action *action, int role)
{
	return action->by_owner ? &x->owner : &x->foreign[role];
}

/* A memcg and an owner in it. */
static void settle(struct explorer *x)
{
	struct ds_subject *s = &x->subject;
	const char *why = NULL;

	if (x->op->v1 || x->victim->v1) {
		why = ds_memcg_create_v1(&s->memcg, "a") ?: ds_memcg_create_v1(&s->other, "b");
		why = why ?: ds_memcg_moves_charges(&s->memcg) ?: ds_memcg_moves_charges(&s->other);
	} else if (x->root) {
		ds_memcg_root(&s->memcg);
	} else {
		ds_memcg_create(&s->memcg);
		if (!s->memcg.dir[0])
			why = "no memory cgroup can be made";
	}
	if (!why && !ds_actor_start(&x->owner, &s->memcg))
		why = "no process can be made";
	if (why)
		cannot(why);
	s->owner = x->owner.pid;
}

/* Once more what an action has ended, or moved. */
static void settle_again(struct explorer *x, const struct ds_action *action)
{
	struct ds_subject *s = &x->subject;

	if (action->ends_owner)
		ds_actor_stop(&x->owner);
	if (action->ends_memcg)
		ds_memcg_remove(&s->memcg);
	if (action->ends_memcg) {
		settle(x);
	} else if (action->ends_owner) {
		if (!ds_actor_start(&x->owner, &s->memcg))
			cannot("no process can be made");
		s->owner = x->owner.pid;
	}
	if (action->effect == DS_RECHARGED) {
		struct ds_memcg to = s->other;

		s->other = s->memcg;
		s->memcg = to;
	}
	x->pages += action->ends_page;
}

static struct ds_answer answer_of(struct explorer *x, struct ds_actor *actor)
{
	struct ds_answer a;

	if (ds_actor_answer(actor, &a)) {
		printf("HANG: pid %d does not answer\n", actor->pid);
		x->red++;
		end(x, FRESH);
	}
	return a;
}

static long count_queued(struct explorer *x)
{
	return ds_count(&x->subject.memcg) + (x->subject.memcg.v1 ? ds_count(&x->subject.other) :
					      0);
}

static bool round_begin(struct explorer *x, struct round *r)
{
	struct ds_subject *s = &x->subject;
	struct ds_folio look;
	int i;

	memset(r, 0, sizeof(*r));
	r->keep = -1;
	s->fill = !x->underused;
	s->partial = x->partial;
	/*
	 * Such a scan is one of every node whose shrinker bit is set, as long as
	 * there is something to free; and a second one may mend what the first has
	 * done. With nothing queued it clears the bits.
	 */
	for (i = 0; s->memcg.v1 && i < 3; i++)
		ds_scan(&s->memcg, 0, 0);
	ds_actor_send(&x->owner, DS_DO_MAP, NULL, DS_CPU_OWNER, s);
	s->thp = answer_of(x, &x->owner).thp;
	if (!s->thp || ds_folio(s->owner, s->thp, &r->before) ||
	    (size_t)sysconf(_SC_PAGESIZE) << r->before.order != s->size) {
		/* Pages that are lost for good break up the memory. */
		if (x->pages)
			end(x, FRESH);
		cannot("no THP is to be had");
	}
	s->nid = r->before.nid;
	if (strcmp(r->before.list, "linked"))
		cannot("the folio is not queued in this state");
	/* It is the first: a neighbour stays. */
	if (x->dropped && (ds_scan(&s->memcg, s->nid, 1) || ds_folio(s->owner, s->thp, &look) ||
			   strcmp(look.list, "empty")))
		cannot("a scan does not drop the folio in this state");
	if (x->pinned || x->locked) {
		r->keep = ds_folio_keep(s->owner, s->thp, x->locked ? "lock" : "pin");
		if (r->keep < 0)
			cannot("the folio cannot be pinned");
	}
	return true;
}

static void let_go(struct round *r)
{
	if (r->keep >= 0)
		close(r->keep);
	r->keep = -1;
}

/* Whoever is not through by then is blocked. */
static int block_ms(struct explorer *x)
{
	int ms = x->op_ms * 4;

	if (x->patience_ms)
		return x->patience_ms;
	return ms < BLOCK_MS ? BLOCK_MS : ms > BLOCK_MS_MAX ? BLOCK_MS_MAX : ms;
}

static void op_took(struct explorer *x, double ms)
{
	if (!x->op_ms || ms < x->op_ms)
		x->op_ms = ms;
}

/* Waits for whoever works on the folio; not for ever, if it is locked. */
static struct ds_answer finish(struct explorer *x, struct round *r, struct ds_actor *actor)
{
	if (r->keep >= 0 && x->locked && !ds_actor_ready(actor, block_ms(x)))
		let_go(r);
	return answer_of(x, actor);
}

/* Has an action that ran alone done what it must? */
static bool had_effect(struct explorer *x, const struct ds_action *action, struct round *r)
{
	struct ds_subject *s = &x->subject;
	struct ds_folio after, half;
	int err = ds_folio(s->owner, s->thp, &after);
	int err_half = ds_folio(s->owner, s->thp + s->size / 2, &half);

	switch (action->effect) {
	case DS_MAPPED:
		return !err;
	case DS_UNMAPPED:
		return err_half && (err || action->leaves != DS_NOTHING);
	case DS_SPLIT:
		return err || after.order == 0;
	case DS_SCANNED:
		/* Split; then a zero page has become the zeropage, which is no folio's. */
		return !(x->partial || x->underused) || err || after.order == 0;
	case DS_MOVED:
		/* Or split for that, and its zero pages given back. */
		return !err && (after.nid != r->before.nid || after.order == 0);
	case DS_COLLAPSED:
		return !err && after.order > 1 && !after.partially_mapped;
	case DS_OFFLINE:
		return !err && access(s->memcg.dir, F_OK);
	case DS_RECHARGED:
		return !err && after.memcg == s->other.ino;
	}
	return false;
}

/* What is wrong, when both are through; NULL if nothing is. */
static const char *judge(struct explorer *x, struct round *r)
{
	unsigned int op_leaves = r->op_ran ? x->op->leaves : DS_WHOLE;
	unsigned int leaves = x->victim->leaves & op_leaves;
	unsigned int left = x->victim->leaves | op_leaves;
	bool offline = r->op_ran && x->op->ends_memcg;
	struct ds_subject *s = &x->subject;
	struct ds_folio after, half;
	int err = ds_folio(s->owner, s->thp, &after);
	int nr_pages, nid;

	if (!err && (!strcmp(after.list, "torn") || !strcmp(after.list, "broken")))
		return "CORRUPT";
	if (ds_audit_complaint())
		return "AUDIT";
	if (r->dropped)
		return "DROPPED";
	if (r->untried)
		return "UNTRIED";
	if ((left & DS_NOTHING) && !err)
		return "NOEFFECT";
	if ((left & DS_HALF) && !(left & DS_NOTHING) &&
	    !ds_folio(s->owner, s->thp + s->size / 2, &half))
		return "NOEFFECT";
	if (offline && !r->op.result && !access(s->memcg.dir, F_OK))
		return "NOEFFECT";
	if (err)
		return NULL;		/* unmapped or swapped out: the counters will tell */

	nr_pages = 1 << after.order;
	if (after.order > 1 && after.partially_mapped && !strcmp(after.list, "empty"))
		return "LOST";
	/* Mapped by PTEs, by one process, and not all of it. */
	if (after.order > 1 && after.mapcount > 1 && after.mapcount < nr_pages &&
	    !after.partially_mapped)
		return "UNMARKED";

	/* 6.12 does not scan the queue of a memcg that is offline. */
	if (offline || (x->plant && !strcmp(x->plant, "LEAK")))
		return NULL;
	/*
	 * On its way to the LRU it has a reference more, and what a scan cannot split
	 * for that, stock takes for used: that would be this scan's doing.
	 */
	if (x->underused && !x->pinned)
		ds_drain();
	/* A scan of both nodes: on 6.12 the queue of a memcg has no node. */
	for (nid = 0; nid < 2; nid++)
		if (!x->plant || strcmp(x->plant, "STUCK"))
			ds_scan(&s->memcg, nid, 8);
	err = ds_folio(s->owner, s->thp, &after);
	if (!err && after.order > 1 && after.partially_mapped)
		return "STUCK";
	/* A failed split counts as used: so it is no proof if it was pinned. */
	if (!err && after.order > 1 && x->underused && !x->pinned && (leaves & DS_WHOLE))
		return "FORGOTTEN";
	return NULL;
}

/* Is there a new message of the kernel, a warning or worse? Who starts it judges it. */
static bool kernel_said_something(struct explorer *x)
{
	char record[8192];
	bool said = false;
	ssize_t n;

	while ((n = read(x->kmsg, record, sizeof(record) - 1)) > 0 || (n < 0 && errno == EPIPE)) {
		record[n > 0 ? n : 0] = '\0';
		/* That an interrupt took long is what a hold does; the other is of a frozen one. */
		if (n < 0 || ((atoi(record) & 7) <= 4 &&
			      !strstr(record, "hrtimer: interrupt took") &&
			      !strstr(record, "unhandlable page")))
			said = true;
	}
	return said;
}

static void plant(struct explorer *x, const char *word)
{
	FILE *f;

	if (!x->plant || strcmp(x->plant, word))
		return;
	if (!strcmp(word, "AUDIT")) {
		f = fopen(DS_SPLITQ "audit_plant", "we");
		if (!f || fputs("count", f) < 0 || fclose(f))
			cannot("nothing can be planted in the audit");
	}
	if (!strcmp(word, "HANG"))
		kill(actor_of(x, x->victim, 0)->pid, SIGSTOP);
}

/*
 * Has somebody written to the pages that were freed? The allocator looks when it
 * gives them. They are in the cache of the CPU that has freed them.
 */
static void allocate_again(struct explorer *x)
{
	/*
	 * Each on its own CPU: a CPU on which the owner has run is one that who unmaps
	 * its memory may wait for, with a kernel that notes that lazily, as 7.3.
	 */
	struct {
		struct ds_actor *actor;
		enum ds_cpu cpu;
	} all[] = {
		{ &x->owner, DS_CPU_OWNER },
		{ &x->foreign[0], DS_CPU_VICTIM },
		{ &x->foreign[1], DS_CPU_OP },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(all); i++) {
		ds_actor_send(all[i].actor, DS_DO_MAP, NULL, all[i].cpu, &x->subject);
		answer_of(x, all[i].actor);
		ds_actor_send(all[i].actor, DS_DO_UNMAP, NULL, all[i].cpu, &x->subject);
		answer_of(x, all[i].actor);
	}
}

/* Judges, unmaps, and looks at the counters. */
static void round_end(struct explorer *x, struct round *r)
{
	bool op_spent = r->op_ran || x->op->prepare;
	struct ds_subject *s = &x->subject;
	struct ds_folio look;

	let_go(r);
	plant(x, "AUDIT");
	r->wrong = judge(x, r);
	if (r->wrong && !strcmp(r->wrong, "CORRUPT"))
		return;

	/* With the owner, its mapping is gone. */
	if (!x->victim->ends_owner && !(op_spent && x->op->ends_owner)) {
		/* It looks for what it did not write. */
		if (x->plant && !strcmp(x->plant, "CONTENT"))
			s->fill = !s->fill;
		if (!x->plant || strcmp(x->plant, "LEAK")) {
			ds_actor_send(&x->owner, DS_DO_UNMAP, NULL, DS_CPU_OWNER, s);
			if (answer_of(x, &x->owner).result && !r->wrong)
				r->wrong = "CONTENT";
		}
	} else {
		ds_actor_stop(&x->owner);
	}
	if (!r->wrong && (ds_size_stat(s->size, "nr_anon_partially_mapped") !=
			  x->partially_mapped || count_queued(x)))
		r->wrong = "LEAK";
	if (!r->wrong && ds_folio_peek(r->before.pfn, &look) == -EUCLEAN)
		r->wrong = "WRITTEN";
	settle_again(x, x->victim);
	if (op_spent)
		settle_again(x, x->op);
	if (x->symbol2)
		allocate_again(x);
	r->noisy = kernel_said_something(x);
}

/* After this one, is the kernel as it was before? */
static bool is_harmless(struct explorer *x, const struct round *r)
{
	if (r->noisy || x->pages >= PAGES_MAX)
		return false;
	return !r->wrong || !strcmp(r->wrong, "UNMARKED") || !strcmp(r->wrong, "FORGOTTEN") ||
	       !strcmp(r->wrong, "DROPPED") || !strcmp(r->wrong, "UNTRIED");
}

static void count_round(struct explorer *x, struct round *r)
{
	x->points++;
	if (r->wrong)
		x->red++;
	else if (!r->completed)
		x->blocked++;
	else
		x->ok++;
}

/* -- Alone ---------------------------------------------------------------- */

static void cover_start(const char *symbol, pid_t pid)
{
	int err = ds_cover_start(symbol, pid);

	if (err) {
		printf("cannot run: %s: %s\n", symbol, err == -ENOENT ?
		       "the symbol is not in this kernel" : strerror(-err));
		exit(4);
	}
}

/* Which instructions of a function does an action execute in this state? */
static void run_covered(struct explorer *x, const struct ds_action *action, int role,
			const char *symbol, struct ds_points *points)
{
	struct ds_actor *actor = actor_of(x, action, role);
	struct round r;
	unsigned int i;

	round_begin(x, &r);
	cover_start(symbol, actor->pid);
	ds_actor_send(actor, DS_DO_ACTION, action, DS_CPU_VICTIM, &x->subject);
	finish(x, &r, actor);
	let_go(&r);
	ds_cover_read(points);
	printf("cover %s %s instructions=%u unprobed=%u executed=%u\n", symbol, action->name,
	       points->instructions, points->unprobed, points->nr);
	for (i = 0; i < points->nr; i++)
		printf("%s0x%x%s", i % 64 ? " " : "executed ", points->offset[i],
		       i % 64 == 63 || i + 1 == points->nr ? "\n" : "");

	if (!action->ends_owner) {
		ds_actor_send(&x->owner, DS_DO_UNMAP, NULL, DS_CPU_OWNER, &x->subject);
		answer_of(x, &x->owner);
	}
	settle_again(x, action);
}

/* Does the operation do what it must, if nobody is in its way? */
static bool run_alone(struct explorer *x)
{
	struct ds_actor *actor = actor_of(x, x->op, 1);
	struct ds_answer a = { 0 };
	double start, ms;
	struct round r;
	bool done;

	round_begin(x, &r);
	start = ds_now();
	if (!x->plant || strcmp(x->plant, "NOEFFECT")) {
		if (x->op->prepare)
			x->op->prepare(&x->subject);
		ds_actor_send(actor, DS_DO_ACTION, x->op, DS_CPU_OP, &x->subject);
		a = finish(x, &r, actor);
	}
	ms = (ds_now() - start) * 1000;
	done = had_effect(x, x->op, &r);
	/* In somebody else's hands it need not be possible. */
	if (!done && (x->pinned || x->locked) && x->op->effect != DS_UNMAPPED) {
		printf("control %s in the way of somebody else: result=%d\n", x->op->name,
		       a.result);
		done = true;
	} else {
		printf("control %s %s result=%d ms=%.1f\n", x->op->name, done ? "ok" : "NOEFFECT",
		       a.result, ms);
	}
	let_go(&r);
	if (!x->op->ends_owner) {
		ds_actor_send(&x->owner, DS_DO_UNMAP, NULL, DS_CPU_OWNER, &x->subject);
		answer_of(x, &x->owner);
	}
	settle_again(x, x->op);
	op_took(x, ms);
	return done;
}

static bool can_pause_at(struct explorer *x, const char *function)
{
	char line[128];

	snprintf(line, sizeof(line), "id=2 %s pid=%d", function, x->foreign[1].pid);
	if (ds_pause_line(line))
		return false;
	ds_pause_line("id=2 off");
	return true;
}

/* The function that the operation must have come to before the victim is held. */
static const char *find_stage(struct explorer *x)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(x->op->stages) && x->op->stages[i]; i++)
		if (can_pause_at(x, x->op->stages[i]))
			return x->op->stages[i];
	return NULL;
}

/*
 * The victim was not held with the operation at its stage: is there another to try?
 * That is the one to begin with at the next instruction, which is mostly like this.
 */
static bool take_other_stage(struct explorer *x)
{
	const char *stage = x->stage;

	if (!x->other_stage || x->other_tried)
		return false;
	x->stage = x->other_stage;
	x->other_stage = stage;
	x->other_tried = true;
	return true;
}

/* -- One preemption ------------------------------------------------------- */

/* Gets both ready, and the victim going, until it is held or through. */
static enum ds_pause start_victim(struct explorer *x, struct round *r, unsigned int offset)
{
	struct ds_actor *victim = actor_of(x, x->victim, 0), *op = actor_of(x, x->op, 1);
	enum ds_pause state = DS_ARMED;
	double until;

	if (x->op->prepare && x->op->prepare(&x->subject))
		cannot("the operation cannot be prepared");
	/* Before the stage: setting a probe waits for a CPU that is held. */
	if (ds_pause_arm(0, x->symbol, offset, victim->pid, block_ms(x) + (x->stage ? 5 : 0)))
		cannot("no pause point can be set there");
	if (x->stage) {
		char line[128];

		snprintf(line, sizeof(line), "id=2 %s pid=%d hold_ms=%d", x->stage, op->pid,
			 STAGE_MS);
		if (ds_pause_line(line))
			cannot("no pause point can be set at the operation's stage");
		ds_actor_send(op, DS_DO_ACTION, x->op, DS_CPU_OP, &x->subject);
		while (ds_pause_state(2) == DS_ARMED && !ds_actor_ready(op, 0))
			;
	}
	plant(x, "HANG");
	ds_actor_send(victim, DS_DO_ACTION, x->victim, DS_CPU_VICTIM, &x->subject);
	until = ds_now() + STUCK_MS / 1000.0;
	while (!ds_actor_ready(victim, 0)) {
		state = ds_pause_state(0);
		if (state != DS_ARMED || (x->plant && !strcmp(x->plant, "HANG")))
			break;
		/* At its stage the operation has a lock that the victim wants. */
		if (x->stage && ds_now() > until) {
			ds_pause_line("id=0 off");
			return DS_OFF;
		}
	}
	return state;
}

/* The operation begins, or goes on from its stage. */
static void start_op(struct explorer *x, struct round *r)
{
	r->op_ran = true;
	if (x->stage)
		ds_pause_release(2);
	else
		ds_actor_send(actor_of(x, x->op, 1), DS_DO_ACTION, x->op, DS_CPU_OP,
			      &x->subject);
}

/* Also an operation that waits at its stage for a victim who was not held. */
static void finish_both(struct explorer *x, struct round *r, struct ds_actor *victim,
			struct ds_actor *op)
{
	if (!r->op_ran && x->stage)
		start_op(x, r);
	if (r->op_ran)
		r->op = finish(x, r, op);
	r->victim = finish(x, r, victim);
}

/* How often a THP of this size was split, or was to be. */
static long splits_tried(const struct explorer *x)
{
	return ds_size_stat(x->subject.size, "split") +
	       ds_size_stat(x->subject.size, "split_failed");
}

/* A scan has it, and not its lock: migration can find out that it cannot split it. */
static bool must_try_split(const struct explorer *x, const struct round *r)
{
	struct ds_folio look;

	return x->op->effect == DS_MOVED && (x->victim->leaves & DS_WHOLE) &&
	       !ds_folio_peek(r->before.pfn, &look) && look.order > 0 && look.refs > 0 &&
	       look.partially_mapped == 1 && !look.locked && !strcmp(look.list, "empty");
}

static void explore_point(struct explorer *x, unsigned int offset)
{
	struct ds_actor *victim, *op;
	bool frozen = false, tries = false;
	enum ds_pause state;
	struct ds_folio look;
	long tried = 0;
	double start;
	struct round r;

	round_begin(x, &r);
	victim = actor_of(x, x->victim, 0);
	op = actor_of(x, x->op, 1);
	state = start_victim(x, &r, offset);
	if (state == DS_HELD) {
		/* Does the victim keep it frozen? A scan must leave it alone then. */
		frozen = x->op->effect == DS_SCANNED && !ds_folio_peek(r.before.pfn, &look) &&
			 !look.refs && !strcmp(look.list, "linked") &&
			 (x->victim->leaves & DS_WHOLE);
		tries = must_try_split(x, &r);
		if (tries)
			tried = splits_tried(x);
		start = ds_now();
		start_op(x, &r);
		while (!r.completed && ds_pause_state(0) == DS_HELD)
			r.completed = ds_actor_ready(op, 1);
		if (r.completed)
			op_took(x, (ds_now() - start) * 1000);
		r.dropped = frozen && r.completed && !ds_folio_peek(r.before.pfn, &look) &&
			    !look.refs && !strcmp(look.list, "empty") &&
			    ds_pause_state(0) == DS_HELD;
		r.untried = tries && r.completed && splits_tried(x) == tried &&
			    ds_pause_state(0) == DS_HELD;
		ds_pause_release(0);
	}
	finish_both(x, &r, victim, op);
	round_end(x, &r);

	if (state == DS_ARMED && !r.wrong && is_harmless(x, &r) && take_other_stage(x)) {
		explore_point(x, offset);
		x->other_tried = false;
		return;
	}
	if (state == DS_ARMED) {
		/* It took another way this time. What is wrong is wrong all the same. */
		x->missed++;
		if (r.wrong) {
			x->red++;
			printf("point %s+0x%x %s victim=%d op=%d (the victim was not held)\n",
			       x->symbol, offset, r.wrong, r.victim.result, r.op.result);
			fflush(stdout);
		}
		if (!is_harmless(x, &r))
			end(x, FRESH);
		return;
	}
	count_round(x, &r);
	printf("point %s+0x%x %s victim=%d op=%d%s\n", x->symbol, offset,
	       r.wrong ?: r.completed ? "ok" : "blocked", r.victim.result, r.op.result,
	       r.wrong && !r.completed ? " (the operation was blocked)" : "");
	fflush(stdout);
	if (!is_harmless(x, &r))
		end(x, FRESH);
}

/* -- Two preemptions ------------------------------------------------------ */

static void explore_pair(struct explorer *x, unsigned long number, unsigned int offset,
			 unsigned int offset2)
{
	bool through, put_back = false;
	enum ds_pause state, state2;
	struct ds_actor *victim, *op;
	struct ds_folio look;
	struct round r;
	double until;

	round_begin(x, &r);
	victim = actor_of(x, x->victim, 0);
	op = actor_of(x, x->op, 1);
	if (ds_pause_arm(1, x->symbol2, offset2, op->pid, 3 * block_ms(x)))
		cannot("no pause point can be set there");
	state = start_victim(x, &r, offset);
	if (state == DS_HELD) {
		start_op(x, &r);
		/* Held, through, or in want of what the victim has. */
		until = ds_now() + block_ms(x) / 1000.0;
		do {
			state2 = ds_pause_state(1);
			r.completed = ds_actor_ready(op, 0);
		} while (state2 == DS_ARMED && !r.completed && ds_now() < until);
		ds_pause_release(0);

		until = ds_now() + block_ms(x) / 1000.0;
		do {
			through = ds_actor_ready(victim, 1);
		} while (!through && ds_now() < until);
		if (state2 == DS_HELD) {
			x->both++;
			r.completed = through;
			/* What becomes of it now is the operation's doing. */
			put_back = through && !ds_folio_peek(r.before.pfn, &look) &&
				   !strcmp(look.list, "linked") && ds_pause_state(1) == DS_HELD;
		}
	} else if (x->stage) {
		start_op(x, &r);
	}
	/* It may be held only now. */
	while (r.op_ran && !ds_actor_ready(op, 1))
		if (ds_pause_release(1) && ds_pause_state(1) != DS_ARMED)
			break;
	if (r.op_ran)
		r.op = finish(x, &r, op);
	r.victim = finish(x, &r, victim);
	ds_pause_line("id=1 off");
	round_end(x, &r);

	if (state == DS_ARMED && !r.wrong && is_harmless(x, &r) && take_other_stage(x)) {
		explore_pair(x, number, offset, offset2);
		x->other_tried = false;
		return;
	}
	if (state == DS_ARMED)
		x->missed++;
	else
		count_round(x, &r);
	if (r.wrong)
		printf("pair %lu %s+0x%x %s+0x%x %s victim=%d op=%d%s\n", number, x->symbol, offset,
		       x->symbol2, offset2, r.wrong, r.victim.result, r.op.result,
		       put_back ? " (queued when the victim was through)" : "");
	fflush(stdout);
	if (!is_harmless(x, &r))
		end(x, FRESH);
}

/* The instructions that the operation executes while the victim is held at @offset. */
static void cover_op_at(struct explorer *x, unsigned int offset)
{
	struct ds_actor *victim, *op;
	enum ds_pause state;
	struct round r;

	round_begin(x, &r);
	victim = actor_of(x, x->victim, 0);
	op = actor_of(x, x->op, 1);
	cover_start(x->symbol2, op->pid);
	state = start_victim(x, &r, offset);
	if (state == DS_HELD) {
		start_op(x, &r);
		while (!r.completed && ds_pause_state(0) == DS_HELD)
			r.completed = ds_actor_ready(op, 1);
		ds_pause_release(0);
	}
	finish_both(x, &r, victim, op);
	ds_cover_read(&op_points);
	round_end(x, &r);
	if (state == DS_ARMED && !r.wrong && take_other_stage(x)) {
		cover_op_at(x, offset);
		x->other_tried = false;
		return;
	}
	if (!is_harmless(x, &r)) {
		printf("point %s+0x%x %s victim=%d op=%d\n", x->symbol, offset,
		       r.wrong ?: "ok", r.victim.result, r.op.result);
		x->red++;
		end(x, FRESH);
	}
}

/*
 * In passes, each of which takes some of the operation's instructions for each of
 * the victim's: so what the time is enough for is spread over all. A pair's number
 * says where to go on in a fresh guest.
 */
static void explore_pairs(struct explorer *x, unsigned long first, int seconds)
{
	unsigned long number = first, nr = victim_points.nr;
	double until = ds_now() + seconds;
	unsigned int pass, a, b;

	for (; number < PASSES * nr * POINTS_MAX; number = (number / POINTS_MAX + 1) * POINTS_MAX) {
		unsigned int offset;

		pass = number / POINTS_MAX / nr;
		a = number / POINTS_MAX % nr;
		offset = victim_points.offset[ds_spread(a, nr)];
		/* If that is red already, a fresh guest goes on behind all of its pairs. */
		printf("covering %lu %s+0x%x\n", (number / POINTS_MAX + 1) * POINTS_MAX - 1,
		       x->symbol, offset);
		fflush(stdout);
		cover_op_at(x, offset);
		printf("pairs %s+0x%x %u\n", x->symbol, offset, op_points.nr);
		for (b = number % POINTS_MAX; b < op_points.nr; b++) {
			unsigned int offset2 = op_points.offset[ds_spread(b, op_points.nr)];

			if (!ds_in_pass(b, op_points.nr, pass, PASSES))
				continue;
			if (ds_now() > until)
				return;
			number = number / POINTS_MAX * POINTS_MAX + b;
			/* First, with its number: if the kernel dies, it was this pair. */
			printf("try %lu %s+0x%x %s+0x%x\n", number, x->symbol, offset,
			       x->symbol2, offset2);
			fflush(stdout);
			explore_pair(x, number, offset, offset2);
		}
	}
}

/* ------------------------------------------------------------------------- */

static void print_usage(void)
{
	size_t i;

	printf("arguments: [-m MS] [-p WORD] [-a OFF] [-r OFF-OFF]\n"
	       "	[-2 SYMBOL2 [-b OFF2] [-s SECONDS]] VICTIM SYMBOL OP STATE [FIRST]\n"
	       "-m: who is not through in that time is blocked, for a slow machine\n"
	       "STATE: queued|underused|partial [+root] [+pinned] [+locked] [+SIZEk]\nVICTIM, OP:");
	for (i = 0; i < ds_nr_actions; i++)
		printf(" %s", ds_actions[i].name);
	printf("\n");
}

static bool parse_state(struct explorer *x, char *state)
{
	char *word = strtok(state, "+"), *tail;

	if (!word)
		return false;
	x->underused = !strcmp(word, "underused");
	x->partial = !strcmp(word, "partial");
	x->dropped = !strcmp(word, "dropped");
	if (!x->underused && !x->partial && !x->dropped && strcmp(word, "queued"))
		return false;
	while ((word = strtok(NULL, "+"))) {
		size_t size = strtoul(word, &tail, 10);

		if (size && !strcmp(tail, "k"))
			x->size = size * 1024;
		else if (!strcmp(word, "root"))
			x->root = true;
		else if (!strcmp(word, "pinned"))
			x->pinned = true;
		else if (!strcmp(word, "locked"))
			x->locked = true;
		else if (!strcmp(word, "neighbour"))
			x->subject.neighbours = 1;
		else
			return false;
	}
	return true;
}

static int bad_usage(void)
{
	print_usage();
	return 2;
}

int main(int argc, char **argv)
{
	long offset = -1, offset2 = -1;
	unsigned int first = 0, from = 0, to = -1, i, n;
	struct explorer x = { 0 };
	int seconds = 60, c;
	const char *why;

	while ((c = getopt(argc, argv, "ha:b:r:2:s:p:m:")) != -1) {
		switch (c) {
		case 'a':
			offset = strtol(optarg, NULL, 0);
			break;
		case 'b':
			offset2 = strtol(optarg, NULL, 0);
			break;
		case 'r':
			if (sscanf(optarg, "%x-%x", &from, &to) != 2)
				return bad_usage();
			break;
		case '2':
			x.symbol2 = optarg;
			break;
		case 's':
			seconds = atoi(optarg);
			break;
		case 'p':
			x.plant = optarg;
			break;
		case 'm':
			x.patience_ms = atoi(optarg);
			if (x.patience_ms < BLOCK_MS || x.patience_ms > PATIENCE_MS_MAX)
				return bad_usage();
			break;
		case 'h':
			print_usage();
			return 0;
		default:
			return bad_usage();
		}
	}
	if (argc - optind < 4 || argc - optind > 5)
		return bad_usage();
	x.victim = ds_find_action(argv[optind]);
	x.symbol = argv[optind + 1];
	x.op = ds_find_action(argv[optind + 2]);
	if (!x.victim || !x.op || !parse_state(&x, argv[optind + 3]))
		return bad_usage();
	if (argc - optind > 4)
		first = strtoul(argv[optind + 4], NULL, 0);
	if (x.victim->by_owner && x.op->by_owner) {
		printf("victim and operation are both the owner's: one process cannot do both\n");
		return 2;
	}

	why = ds_unusable();
	if (!why && !ds_have_module())
		why = "needs the splitq module";
	x.subject.size = x.size ?: ds_thp_size();
	/* Only a fault of a PMD queues what is not partially mapped. */
	if (!why && !x.partial)
		why = ds_need_pmd();
	if (!why)
		why = ds_knobs_set();
	if (!why)
		why = ds_set_underused(x.underused);
	/* Awake once, it sleeps for long. */
	if (!why)
		why = ds_knob_set(DS_KHUGEPAGED "scan_sleep_millisecs", "600000");
	if (!why && x.size)
		why = ds_set_size_enabled(x.size);
	if (why)
		cannot(why);

	x.kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (x.kmsg < 0 || lseek(x.kmsg, 0, SEEK_END) < 0)
		cannot("/dev/kmsg cannot be read");
	signal(SIGPIPE, SIG_IGN);
	if (sysconf(_SC_NPROCESSORS_ONLN) < DS_NR_CPUS || !ds_pin_to_cpu(DS_CPU_DRIVER))
		cannot("needs four CPUs");
	if (!ds_actor_start(&x.foreign[0], NULL) || !ds_actor_start(&x.foreign[1], NULL))
		cannot("no process can be made");
	settle(&x);
	x.stage = find_stage(&x);
	if (x.stage && x.op->earlier && can_pause_at(&x, x.op->earlier))
		x.other_stage = x.op->earlier;
	/* Charge moving says that it is deprecated. */
	kernel_said_something(&x);
	x.partially_mapped = ds_size_stat(x.subject.size, "nr_anon_partially_mapped");

	if (offset >= 0 && (!x.symbol2 || offset2 >= 0)) {
		if (x.symbol2)
			explore_pair(&x, 0, offset, offset2);
		else
			explore_point(&x, offset);
	} else {
		ds_pause_off();
		/* A reference that somebody happens to have may be in its way. */
		for (i = 0; i < TRIES && !run_alone(&x); i++)
			;
		if (i == TRIES) {
			x.red++;
			end(&x, 1);
		}
		/* The same; what the victim does not come to in any of them is VACUOUS. */
		for (i = 0; i < TRIES && !victim_points.nr; i++)
			run_covered(&x, x.victim, 0, x.symbol, &victim_points);
		for (i = n = 0; i < victim_points.nr; i++) {
			if (victim_points.offset[i] < from || victim_points.offset[i] > to)
				continue;
			victim_points.hits[n] = victim_points.hits[i];
			victim_points.offset[n++] = victim_points.offset[i];
		}
		victim_points.nr = n;
		if (x.symbol2) {
			run_covered(&x, x.op, 1, x.symbol2, &op_points);
			if (victim_points.nr)
				explore_pairs(&x, first, seconds);
		} else {
			/* A probe in a loop costs time as long as it is there. */
			ds_pause_off();
			for (i = 0; i < victim_points.nr; i++) {
				if (victim_points.offset[i] < first)
					continue;
				explore_point(&x, victim_points.offset[i]);
				if (victim_points.hits[i] >= HOT)
					ds_pause_off();
			}
		}
	}

	/* What nobody looked at: all that is marked in memory. */
	why = ds_have_audit() ? ds_audit_marked_complaint() : NULL;
	if (why) {
		printf("AUDIT of all memory: %s", why);
		x.red++;
	}
	ds_actor_stop(&x.owner);
	ds_memcg_remove(&x.subject.memcg);
	end(&x, x.red ? 1 : 0);
}
