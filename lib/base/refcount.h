/* SPDX-License-Identifier: MIT */
/* Reference counts. Increments are relaxed, decrements acquire-release: the decrement that reaches
 * zero happens after every other one, so the destructor sees all that was done under the
 * references. Overflow aborts. Annotated for helgrind and DRD. */
#ifndef MS_REFCOUNT_H
#define MS_REFCOUNT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/annotate.h"

typedef atomic_size_t refcount;

static inline void ms_ref_init(refcount *r)
{
    atomic_init(r, 1);
}

static inline void ms_ref_add(refcount *r, size_t n)
{
    size_t before = atomic_fetch_add_explicit(r, n, memory_order_relaxed);
    assert(before > 0 && before < SIZE_MAX / 2 &&
           "memsnap: reference to a dead object, or too many references");
    (void)before;
}

static inline void ms_ref_get(refcount *r)
{
    ms_ref_add(r, 1);
}

/* False if the last one is gone. */
static inline bool ms_ref_try_get(refcount *r)
{
    size_t n = atomic_load_explicit(r, memory_order_relaxed);
    while (n && !atomic_compare_exchange_weak_explicit(r, &n, n + 1, memory_order_acquire,
                                                       memory_order_relaxed))
        continue;
    return n != 0;
}

/* Gives a reference back. True if it was the last one: the caller destroys the object. */
static inline bool ms_ref_put(refcount *r)
{
    MS_RELEASES(r);
    size_t before = atomic_fetch_sub_explicit(r, 1, memory_order_acq_rel);
    assert(before > 0 && "memsnap: one unref too many");
    if (before != 1)
        return false;
    MS_ACQUIRES(r);
    return true;
}

/* The count at this moment. 1: the caller's own reference is the only one, and stays so. A greater
 * count may be out of date at once. */
static inline size_t ms_ref_count(const refcount *r)
{
    return atomic_load_explicit(r, memory_order_acquire);
}

#endif
