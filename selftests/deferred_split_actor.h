/* SPDX-License-Identifier: GPL-2.0 */
/* What can be done to a THP, and the processes that do it. */
#ifndef DEFERRED_SPLIT_ACTOR_H
#define DEFERRED_SPLIT_ACTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "deferred_split_util.h"

#define DS_SHMEM_FD	200

/* What everybody needs to know of the folio under test. */
struct ds_subject {
	pid_t owner;
	char *thp;
	size_t size;
	int nid;
	bool fill;			/* something else than zeroes in every page */
	bool partial;			/* its last page is to be unmapped at once */
	bool shmem;			/* of a file that is open as DS_SHMEM_FD */
	bool punched;			/* and that file has a hole there now */
	bool all_pages;			/* are looked at in the end, not only some */
	unsigned int neighbours;	/* that are mapped, and queued, with it */
	struct ds_memcg memcg;
	struct ds_memcg other;		/* where its charge may be moved to */
};

/* What is left of the mapping when an action is through. */
enum ds_leaves {
	DS_WHOLE	= 1 << 0,	/* still mapped as it was: may be forgotten */
	DS_HALF		= 1 << 1,	/* the second half is not mapped any more */
	DS_NOTHING	= 1 << 2,	/* nothing of it is mapped any more */
};

/* What an action must have done when it ran alone. */
enum ds_effect {
	DS_MAPPED,			/* nothing that can be seen: it is still mapped */
	DS_UNMAPPED,			/* what enum ds_leaves says */
	DS_SPLIT,			/* it is order 0 now, or swapped out */
	DS_SCANNED,			/* split, if it was queued for that */
	DS_MOVED,			/* on the other node */
	DS_COLLAPSED,			/* a THP, not partially mapped */
	DS_OFFLINE,			/* its memcg's directory is gone */
	DS_RECHARGED,			/* charged to the other memcg */
};

struct ds_action {
	const char *name;
	bool by_owner;			/* else by somebody with another mm */
	bool ends_owner;		/* who must be started anew */
	bool ends_memcg;
	bool ends_page;			/* memory is lost for good */
	bool v1;			/* needs cgroup v1 */
	/*
	 * It waits for all CPUs before it comes to this function (the first of these
	 * that the kernel has): it must be there before another CPU is held.
	 */
	const char *stages[3];
	/*
	 * Or before this one, if it has a reference to the folio at its stage, with
	 * which the victim does not come to where it is to be held. NULL if it has not.
	 */
	const char *earlier;
	int (*prepare)(struct ds_subject *s);	/* before anybody is held, or NULL */
	int (*run)(struct ds_subject *s);
	unsigned int leaves;
	enum ds_effect effect;
};

extern const struct ds_action ds_actions[];
extern const size_t ds_nr_actions;

/* NULL: there is none of that name. */
const struct ds_action *ds_find_action(const char *name);

/*
 * A process that does one thing after the other, and answers each. The owner maps
 * the folio and is in the memcg; a foreign actor has another mm.
 */
struct ds_actor {
	pid_t pid;
	int to, from;
};

/*
 * Who is held has interrupts off, so nobody shares a CPU with him, or has a mm that
 * must be flushed there: one CPU each for the operation, the victim, whoever directs
 * them, and the owner while he is not one of the first two.
 */
enum ds_cpu { DS_CPU_OP, DS_CPU_VICTIM, DS_CPU_DRIVER, DS_CPU_OWNER, DS_NR_CPUS };

enum ds_order {
	DS_DO_MAP,			/* a folio, at fault */
	DS_DO_ACTION,
	DS_DO_UNMAP,			/* whatever is left; -EIO: not what was written there */
};

struct ds_answer {
	bool gone;			/* it has ended */
	int result;			/* 0 or a negative errno */
	char *thp;			/* of DS_DO_MAP: NULL if there is none */
	double began, ended;		/* of DS_DO_ACTION */
};

/**
 * ds_actor_start - start an actor
 * @memcg: the memcg to enter first, or NULL
 *
 * Return: whether it runs. It ends with the caller.
 */
bool ds_actor_start(struct ds_actor *actor, const struct ds_memcg *memcg);

/* End it and wait for it. */
void ds_actor_stop(struct ds_actor *actor);

/* Have it do something on a CPU; its answer must be taken before the next order. */
void ds_actor_send(struct ds_actor *actor, enum ds_order order, const struct ds_action *action,
		   int cpu, const struct ds_subject *subject);

/* The same; an action begins at the time @at, by ds_now(), or at once if that is over. */
void ds_actor_send_at(struct ds_actor *actor, enum ds_order order, const struct ds_action *action,
		      int cpu, const struct ds_subject *subject, double at);

/* Has it answered, or does it within so many milliseconds? */
bool ds_actor_ready(struct ds_actor *actor, int ms);

/**
 * ds_actor_answer - wait for an actor's answer, and take it
 *
 * Return: 0, or -ETIMEDOUT if it makes no progress.
 */
int ds_actor_answer(struct ds_actor *actor, struct ds_answer *answer);

#endif
