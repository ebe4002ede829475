/* SPDX-License-Identifier: MIT */
/* Collecting: the new image of a mapping from what changed in it. */
#ifndef MS_CAPTURE_H
#define MS_CAPTURE_H

#include "mapping/mapping.h"
#include "storage/pool.h"

/* The image of what the mapping holds now. Pages before `first` are taken to be the base's. It
 * refers to `last_taken` (or base) for unchanged pages, to base for pages written back, to nothing
 * for zero pages, and to new chunks of the pool for the rest. The mapping is not changed. block:
 * closed over it, or NULL. */
int ms_capture(struct mapping *m, size_t first, struct pool *pool,
               const struct os_write_block *block, struct image **out) MS_INSIDE;

/* The image of what a file holds now, compared with an earlier one of the same size: equal pages
 * are shared with it. */
int ms_capture_file(const struct os_object *file, size_t size, struct image *earlier,
                    struct pool *pool, struct image **out) MS_INSIDE;

#endif
