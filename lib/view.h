/* A view: a reference-counted holder of a mapping of its own, or the lease on a snapshot's writer. */
#ifndef MS_VIEW_H
#define MS_VIEW_H

#include "lot.h"
#include "mapping.h"
#include "memsnap.h"
#include "pool.h"
#include "refcount.h"

struct memsnap_view {
    refcount refs;
    void *data;                         /* fixed for life */
    size_t size;
    struct memsnap_snapshot *lease;     /* holds a reference; NULL: an ordinary view. The mapping is the snapshot's writer's. */
    size_t process;                     /* lease: who took it */

    /* Ordinary views only. */
    struct ms_lock lock;                /* guards mapping */
    struct mapping mapping;
    struct pool *pool;                  /* holds a reference: where snapshots taken from it put their chunks */
    struct lot *lot;                    /* holds a reference; NULL: never recycled */
    struct memsnap_view *next;          /* in the lot; guarded by its lock */
};

/* Closes an ordinary view for good. */
void ms_view_destroy(struct memsnap_view *v);

#endif
