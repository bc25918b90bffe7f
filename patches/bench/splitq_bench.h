/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Measures the locks of the deferred split queue that the shrinker takes. Only in
 * the kernel that is measured, and the same for every variant in it.
 *
 * Included last in a C file, this replaces its spin_lock() and the like. A lock
 * whose expression contains SPLITQ_LOCK is measured if a task takes it that is in
 * deferred_split_scan(); all others, and other tasks, do what they always did, but
 * for a look at a counter. SPLITQ_SCAN_LOCK says which kind of lock the scan itself
 * takes; the other kinds are those that splitting a folio takes meanwhile.
 */
#ifndef _LINUX_SPLITQ_BENCH_H
#define _LINUX_SPLITQ_BENCH_H

#include <linux/atomic.h>
#include <linux/compiler.h>
#include <linux/irqflags.h>
#include <linux/sched/clock.h>
#include <linux/shrinker.h>
#include <linux/spinlock.h>

enum { SPLITQ_PLAIN, SPLITQ_IRQ, SPLITQ_IRQSAVE };

typedef unsigned long (*splitq_scan_fn)(struct shrinker *shrink, struct shrink_control *sc);

extern atomic_t splitq_nr_scanning;

splitq_scan_fn splitq_bench_wrap(splitq_scan_fn scan);
bool splitq_is_scanner(void);
void splitq_locked(bool by_scan, u64 asked);
void splitq_unlock(void);

/* Interrupts are off already, or this is all that they are on for. */
static __always_inline u64 splitq_asks(void)
{
	return unlikely(atomic_read(&splitq_nr_scanning)) && splitq_is_scanner() ?
		local_clock() : 0;
}

static __always_inline void splitq_has(int kind, int scan_kind, u64 asked)
{
	if (unlikely(asked))
		splitq_locked(kind == scan_kind, asked);
}

static __always_inline void splitq_gives_back(void)
{
	if (unlikely(atomic_read(&splitq_nr_scanning)))
		splitq_unlock();
}

#ifdef SPLITQ_LOCK

/* The compiler knows the answer. */
#define splitq_measured(text)	(__builtin_strstr(text, SPLITQ_LOCK) != NULL)

#define splitq_take(kind, text, irq_off, take)				\
do {									\
	if (splitq_measured(text)) {					\
		u64 splitq_asked;					\
									\
		irq_off;						\
		splitq_asked = splitq_asks();				\
		take;							\
		splitq_has(kind, SPLITQ_SCAN_LOCK, splitq_asked);	\
	} else {							\
		irq_off;						\
		take;							\
	}								\
} while (0)

#define splitq_give(text, give)						\
do {									\
	if (splitq_measured(text))					\
		splitq_gives_back();					\
	give;								\
} while (0)

#undef spin_lock_irqsave
#define spin_lock_irqsave(lock, flags)					\
	splitq_take(SPLITQ_IRQSAVE, #lock, local_irq_save(flags), (spin_lock)(lock))
#define spin_lock_irq(lock)						\
	splitq_take(SPLITQ_IRQ, #lock, local_irq_disable(), (spin_lock)(lock))
#define spin_lock(lock)							\
	splitq_take(SPLITQ_PLAIN, #lock, , (spin_lock)(lock))
#define spin_unlock(lock)						\
	splitq_give(#lock, (spin_unlock)(lock))
#define spin_unlock_irq(lock)						\
	splitq_give(#lock, (spin_unlock_irq)(lock))
#define spin_unlock_irqrestore(lock, flags)				\
	splitq_give(#lock, (spin_unlock_irqrestore)(lock, flags))

#endif /* SPLITQ_LOCK */
#endif
