/* SPDX-License-Identifier: MIT */
/* A recycler: where the mappings of a snapshot's closed views wait, restored and hidden from the
 * checkers, to be a view's again. Taking one costs no system call. Views hold references, so a
 * recycler outlives its snapshot; it is empty and takes nothing in from then on.
 *
 * What is in the way goes: the oldest one when a snapshot's limit is reached, some other
 * snapshot's when the process has as many as it may have, and all of them when a call finds no
 * memory or no mapping left. */
#ifndef MS_RECYCLER_H
#define MS_RECYCLER_H

#include "mapping/mapping.h"
#include "storage/image.h"
#include "storage/pool.h"
#include "os/os.h"
#include "base/refcount.h"

#define MS_DEFAULT_RECYCLING 8

/* A mapping that can be parked. An ordinary view owns one. */
struct parked {
    struct mapping mapping;
    struct parked *next; /* in the recycler, guarded by its lock: parked before this one */
};

struct recycler {
    refcount refs;
    struct pool *pool; /* holds a reference; of the images' chunks */
    struct recycler *next MS_GUARDED_BY(ms_process_mutex); /* see recycler.c */
    bool listed MS_GUARDED_BY(ms_process_mutex);
    struct ms_mutex lock;
    /* only mappings of this one are taken in; compared, never looked into */
    const struct image *image MS_GUARDED_BY(ms_recycler_mutex);
    unsigned limit MS_GUARDED_BY(ms_recycler_mutex), n MS_GUARDED_BY(ms_recycler_mutex);
    /* the one parked last, whose pages are the warmest */
    struct parked *first MS_GUARDED_BY(ms_recycler_mutex);
};

static inline void ms_recycler_lock(struct recycler *l) MS_INSIDE
    MS_ACQUIRE(ms_recycler_mutex) MS_LOCKS
{
    ms_lock(&l->lock);
}

static inline void ms_recycler_unlock(struct recycler *l) MS_INSIDE
    MS_RELEASE(ms_recycler_mutex) MS_LOCKS
{
    ms_unlock(&l->lock);
}

/* Nobody else knows the recycler yet. */
static inline void ms_recycler_is_unshared(const struct recycler *l) MS_ASSERTS(ms_recycler_mutex)
{
    (void)l;
}

int ms_recycler_new(struct pool *pool, struct recycler **out);
struct recycler *ms_recycler_ref(struct recycler *l);
void ms_recycler_unref(struct recycler *l) MS_INSIDE;

/* Mappings of another image are of no use any more: closes the parked ones. NULL: for good. */
void ms_recycler_set_image(struct recycler *l, const struct image *i) MS_INSIDE;
void ms_recycler_set_limit(struct recycler *l, unsigned limit) MS_INSIDE;
/* A parked mapping of the image that was opened with the same flags, or NULL. */
struct parked *ms_recycler_get(struct recycler *l, const struct image *i, unsigned flags) MS_INSIDE;
/* True if the recycler would take a mapping of the image in: worth restoring it. */
bool ms_recycler_accepts(struct recycler *l, const struct image *i) MS_INSIDE;
/* Takes a restored mapping in, or returns false. */
bool ms_recycler_put(struct recycler *l, struct parked *p) MS_INSIDE;
/* How many are parked; *references: what they hold of the image. */
unsigned ms_recycler_count(struct recycler *l, const struct image *i, size_t *references) MS_INSIDE;
/* Closes a mapping for good. */
void ms_parked_destroy(struct parked *p, struct pool *pool) MS_INSIDE;

/* True if a call that failed with e may be made once more, because parked mappings have given
 * way. */
bool ms_make_room(int e) MS_INSIDE;

#endif
