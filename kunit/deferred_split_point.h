/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Points in mm/ at which the KUnit tests of the deferred split queue look at what
 * goes on, or hold who comes by. Without the tests they are nothing.
 */
#ifndef _MM_TESTS_DEFERRED_SPLIT_POINT_H
#define _MM_TESTS_DEFERRED_SPLIT_POINT_H

#include <linux/kconfig.h>
#include <linux/types.h>

struct folio;
struct list_lru;

enum deferred_split_point {
	SPLIT_BATCH,		/* a scan takes the next batch off the queue; no folio */
	SPLIT_QUEUE,		/* the lock of the queue is taken next, to put the folio on it */
	SPLIT_UNLINK,		/* the folio's list head is about to be emptied */
	SPLIT_UNDERUSED,	/* a scan has it, and looks whether it is underused */
	SPLIT_TRYLOCK,		/* a scan has it, and tries to split it next */
	SPLIT_REQUEUE,		/* a scan takes the lock next, to put this and others back */
	SPLIT_FREEZE,		/* a split is about to freeze its references */
	SPLIT_FROZEN,		/* it is frozen or freed, and leaves the queue next */
	SPLIT_MIGRATE,		/* its migration is about to count its references */
	SPLIT_SUBLIST,		/* its memcg has no sublist; is the same memcg pinned next? */
	NR_SPLIT_POINTS,
};

#if IS_ENABLED(CONFIG_KUNIT)
/* The queue, where it is a list_lru; static in huge_memory.c without KUnit. */
extern struct list_lru deferred_split_lru;
#endif

#if IS_ENABLED(CONFIG_DEFERRED_SPLIT_KUNIT_TEST)
void deferred_split_point(enum deferred_split_point point, struct folio *folio);
bool deferred_split_sees(struct folio *folio);
#else
static inline void deferred_split_point(enum deferred_split_point point, struct folio *folio)
{
}

static inline bool deferred_split_sees(struct folio *folio)
{
	return true;
}
#endif

#endif /* _MM_TESTS_DEFERRED_SPLIT_POINT_H */
