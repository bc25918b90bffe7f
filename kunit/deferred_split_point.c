// SPDX-License-Identifier: GPL-2.0
/*
 * The points in mm/ at which the KUnit tests of the deferred split queue look, or
 * wait. Built only with the tests; not part of their module, if they are one.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>

#include "deferred_split_point.h"

/**
 * deferred_split_point - a place where a test may look or wait
 * @point: which one
 * @folio: the folio that it is about
 *
 * Does nothing, unless a KUnit test runs in this task and has put a function of its
 * own here.
 *
 * Context: any, that of the caller; at SPLIT_UNLINK the lock of the queue is held.
 */
void deferred_split_point(enum deferred_split_point point, struct folio *folio)
{
	KUNIT_STATIC_STUB_REDIRECT(deferred_split_point, point, folio);
}
EXPORT_SYMBOL_IF_KUNIT(deferred_split_point);

/**
 * deferred_split_sees - may a scan see beforehand that a split would fail?
 * @folio: a folio on the queue
 *
 * A scan leaves on the queue what is locked or has a reference too many. Both may
 * come a moment later, when it has the folio off the queue. A test that says false
 * here has the folio taken with a lock or reference that was there all the time.
 *
 * Context: any, the lock of the queue is held.
 * Return: true, unless a test has put a function of its own here.
 */
bool deferred_split_sees(struct folio *folio)
{
	KUNIT_STATIC_STUB_REDIRECT(deferred_split_sees, folio);
	return true;
}
EXPORT_SYMBOL_IF_KUNIT(deferred_split_sees);
