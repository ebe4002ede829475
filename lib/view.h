/* A view: a reference-counted holder of a mapping of its own, or the lease on a snapshot's
 * writer. */
#ifndef MS_VIEW_H
#define MS_VIEW_H

#include "recycler.h"
#include "mapping/mapping.h"
#include "memsnap.h"
#include "storage/pool.h"
#include "base/refcount.h"

struct memsnap_view {
    refcount refs;
    void *data; /* fixed for life */
    size_t size;
    /* holds a reference; NULL: an ordinary view. The mapping is the snapshot's writer's. */
    struct memsnap_snapshot *lease;
    size_t process; /* lease: who took it */

    /* Ordinary views only. */
    struct ms_mutex lock; /* guards mapping */
    struct mapping mapping;
    /* holds a reference: where snapshots taken from it put their chunks */
    struct pool *pool;
    struct recycler *recycler; /* holds a reference; NULL: never recycled */
    struct memsnap_view *next; /* in the recycler; guarded by its lock */
};

/* Closes an ordinary view for good. */
void ms_view_destroy(struct memsnap_view *v);

#endif
