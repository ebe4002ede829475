/* Space that was given back inside a store: for each segment with some, a bit for each page.
 * Reused space holds reuse_ok bytes. The owner locks. */
#ifndef MS_FREELIST_H
#define MS_FREELIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct segment;

struct free_extent {
    uint64_t offset, len; /* bytes, whole pages */
    struct segment *segment;
};

struct freelist {
    struct segment **v; /* that have free pages; holds a reference to each */
    size_t n, capacity;
    uint64_t bytes;
};

/* Takes an extent of one segment in, and the reference to it, unless *spare: it has one already.
 * False: out of memory. */
bool ms_freelist_put(struct freelist *f, const struct free_extent *e, bool *spare);
/* The first len bytes that are free in a row. *emptied: the segment has no more, and the
 * reference to it goes with the extent. */
bool ms_freelist_take(struct freelist *f, uint64_t len, struct free_extent *e, bool *emptied);
/* Some extent, as long as it goes on. */
bool ms_freelist_take_any(struct freelist *f, struct free_extent *e, bool *emptied);

#endif
