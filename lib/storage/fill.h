/* SPDX-License-Identifier: MIT */
/* Filling chunks: from memory, from files, page by page in batches; by their maker, before
 * anyone else sees them. */
#ifndef MS_FILL_H
#define MS_FILL_H

#include "storage/image.h"
#include "storage/pool.h"
#include "storage/store.h"

/* Fills a new chunk from memory (data == NULL: it stays zero, but gets its huge pages): through
 * a huge-paged window where that pays (flags: MEMSNAP_HUGE_*), else by writing. */
int ms_chunk_fill(struct chunk *c, const void *data, size_t size, unsigned flags);
/* The same from a file of so many bytes; -EIO if it ends early. */
int ms_chunk_fill_from(struct chunk *c, const struct os_object *file, uint64_t size,
                       unsigned flags);
/* Fills a new chunk, small pages only, with the file's bytes [from, from + len). */
int ms_chunk_fill_part(struct chunk *c, const struct os_object *file, uint64_t from, size_t len);
/* True if the chunk would take memory for what are holes in the file. */
bool ms_chunk_fills_holes(const struct chunk *c, const struct os_object *file, uint64_t size);
/* Makes stores through a shared mapping of the chunk possible: the object extends over it and
 * the space is there. */
int ms_chunk_prepare_shared(struct chunk *c);

/* Collects writes to new chunks; neighbours go out in one system call. */
struct batch {
    struct store *store;
    uint64_t offset, len;
    size_t n;
    struct os_iov v[64];
};
/* The chunk's bytes are data's len, then zeros: a page of them that lives until the flush; may
 * be NULL if len is the whole chunk. */
int ms_batch_add(struct batch *b, struct chunk *c, const void *data, size_t len, const void *zeros);
/* Pages [first, first + pages) of the image being edited become a new chunk of these bytes. */
int ms_batch_store(struct batch *b, struct pool *pool, struct image_edit *edit, size_t first,
                   size_t pages, const void *data, size_t len, const void *zeros) MS_INSIDE;
int ms_batch_flush(struct batch *b);

#endif
