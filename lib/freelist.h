/* Space that was given back inside a store: sorted, disjoint, merged extents. Reused space holds stale bytes. */
#ifndef MS_FREELIST_H
#define MS_FREELIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct segment;

struct free_extent {
    uint64_t offset, len;
    struct segment *segment;    /* holds a reference; extents never reach across segments */
};

struct freelist {
    struct free_extent *v;
    size_t n, room;
    uint64_t bytes;
};

/* Takes an extent in. *spare: references to its segment that the list does not need, because extents are merged: 0 to 2. False: out of
 * memory. */
bool ms_freelist_put(struct freelist *f, const struct free_extent *e, unsigned *spare);
/* The first len bytes of the first extent that has them. *emptied: the extent's reference to the segment goes with it. */
bool ms_freelist_take(struct freelist *f, uint64_t len, struct free_extent *e, bool *emptied);

#endif
