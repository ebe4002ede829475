/* SPDX-License-Identifier: MIT */
/* A view: a reference-counted holder of a mapping of its own, or the lease on a snapshot's
 * writer. */
#ifndef MS_VIEW_H
#define MS_VIEW_H

#include "mapping/recycler.h"
#include "memsnap.h"
#include "base/refcount.h"

struct memsnap_view {
    refcount refs;
    void *data; /* fixed for life */
    size_t size;
    /* holds a reference; NULL: an ordinary view. The mapping is the snapshot's writer's. */
    struct memsnap_snapshot *lease;
    size_t process; /* lease: who took it */

    /* Ordinary views only. */
    /* holds a reference; its pool is where snapshots taken from the view put their chunks */
    struct recycler *recycler;
    struct ms_mutex lock;
    struct parked *own MS_GUARDED_BY(ms_view_mutex); /* not parked now */
};

static inline void ms_view_lock(struct memsnap_view *v) MS_INSIDE MS_ACQUIRE(ms_view_mutex) MS_LOCKS
{
    ms_lock(&v->lock);
}

static inline void ms_view_unlock(struct memsnap_view *v) MS_INSIDE
    MS_RELEASE(ms_view_mutex) MS_LOCKS
{
    ms_unlock(&v->lock);
}

/* Nobody else knows the view yet, or any more. */
static inline void ms_view_is_unshared(const struct memsnap_view *v) MS_ASSERTS(ms_view_mutex)
{
    (void)v;
}

/* The mapping behind a view, which is the writer's if the view is a lease, with its locks: 0, or
 * -EBADF if the lease was taken before a fork and is the parent's. */
int ms_view_lock_mapping(struct memsnap_view *v, struct mapping **m) MS_INSIDE
    MS_TRY_ACQUIRE(0, ms_snapshot_locks, ms_view_mutex);
void ms_view_unlock_mapping(struct memsnap_view *v) MS_INSIDE
    MS_RELEASE(ms_snapshot_locks, ms_view_mutex);

#endif
