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
    struct ms_mutex lock; /* guards own->mapping */
    struct parked *own;   /* not parked now */
};

#endif
