/* SPDX-License-Identifier: MIT */
/* Bringing an image together in one chunk that has as many pages, each at its own place. */
#ifndef MS_CONSOLIDATE_H
#define MS_CONSOLIDATE_H

#include "storage/image.h"
#include "storage/pool.h"

/* A chunk that the whole image could live in: nobody but this process sees it. */
bool ms_is_own_chunk(const struct chunk *c, size_t pages);
/* Such a chunk that the image refers to, page by page, for some of its pages: a reference, or
 * NULL. */
struct chunk *ms_find_own_chunk(const struct image *i);
/* A new one, to which stores can be mapped; -ENOTSUP where there are none. *fresh: it reads as
 * zeros. */
int ms_new_own_chunk(struct pool *pool, size_t pages, struct chunk **out, bool *fresh) MS_INSIDE;
/* Writes into the chunk those of the image's pages [first, end) that are not the chunk's own.
 * Only pages that the image does not refer to are written, so failing half way does no harm.
 * fresh: they read as zeros. */
int ms_consolidate(const struct image *i, struct chunk *to, size_t first, size_t end,
                   bool fresh) MS_INSIDE;

#endif
