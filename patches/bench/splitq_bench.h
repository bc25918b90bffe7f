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
extern bool splitq_clocks;

splitq_scan_fn splitq_bench_wrap(splitq_scan_fn scan);
bool splitq_is_scanner(void);
void splitq_locked(bool by_scan, u64 asked);
void splitq_unlock(void);

/* The time, or what stands for it if it is not to be known; not 0. */
static __always_inline u64 splitq_now(void)
{
	return READ_ONCE(splitq_clocks) ? local_clock() : 1;
}

static __always_inline u64 splitq_asks(void)
{
	return unlikely(atomic_read(&splitq_nr_scanning)) && splitq_is_scanner() ?
		splitq_now() : 0;
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
#define splitq_measured(text)	(!!__builtin_strstr(text, SPLITQ_LOCK))

/* With interrupts off. The lock is what it was; only this is beside it. */
#define splitq_take(kind, text, lock)					\
do {									\
	u64 splitq_asked = splitq_measured(text) ? splitq_asks() : 0;	\
									\
	(spin_lock)(lock);						\
	splitq_has(kind, SPLITQ_SCAN_LOCK, splitq_asked);		\
} while (0)

#define splitq_give(text)						\
do {									\
	if (splitq_measured(text))					\
		splitq_gives_back();					\
} while (0)

#undef spin_lock_irqsave
#define spin_lock_irqsave(lock, flags)					\
do {									\
	local_irq_save(flags);						\
	splitq_take(SPLITQ_IRQSAVE, #lock, lock);			\
} while (0)
#define spin_lock_irq(lock)						\
do {									\
	local_irq_disable();						\
	splitq_take(SPLITQ_IRQ, #lock, lock);				\
} while (0)
#define spin_lock(lock)							\
	splitq_take(SPLITQ_PLAIN, #lock, lock)
#define spin_unlock(lock)						\
do {									\
	splitq_give(#lock);						\
	(spin_unlock)(lock);						\
} while (0)
#define spin_unlock_irq(lock)						\
do {									\
	splitq_give(#lock);						\
	(spin_unlock_irq)(lock);					\
} while (0)
#define spin_unlock_irqrestore(lock, flags)				\
do {									\
	splitq_give(#lock);						\
	(spin_unlock_irqrestore)(lock, flags);				\
} while (0)

#endif /* SPLITQ_LOCK */
#endif
