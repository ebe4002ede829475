/* SPDX-License-Identifier: MIT */
/* A free list: the pages of a store that were given back and can be used again. Each segment with
 * free pages has a bit for each of its pages. Free pages hold old data. The store locks. */
#ifndef MS_FREELIST_H
#define MS_FREELIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/lock_order.h"

struct segment;

/* Neighbouring pages of one segment. */
struct free_range {
    uint64_t offset, len; /* bytes, whole pages; offset counts from the store's beginning */
    struct segment *segment;
};

struct freelist {
    struct segment **v; /* the segments that have free pages; holds a reference to each */
    size_t n, capacity;
    uint64_t bytes; /* free ones, in all segments */
};

/* Makes a range free. The list takes over the caller's reference to the segment, unless *spare: it
 * has one already. False: out of memory, and nothing has changed. */
bool ms_freelist_put(struct freelist *f, const struct free_range *r, bool *spare)
    MS_REQUIRES(ms_store_mutex);
/* Takes the first len bytes that are free in a row; false if there are none. *emptied: the segment
 * has no more free pages, and the list's reference to it is the caller's now. */
bool ms_freelist_take(struct freelist *f, uint64_t len, struct free_range *r, bool *emptied)
    MS_REQUIRES(ms_store_mutex);
/* Takes some range, as long as it goes on; false if the list is empty. *emptied as above. */
bool ms_freelist_take_any(struct freelist *f, struct free_range *r, bool *emptied)
    MS_REQUIRES(ms_store_mutex);

#endif
