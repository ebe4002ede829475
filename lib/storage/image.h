/* SPDX-License-Identifier: MIT */
/* An image: an immutable, reference-counted map from page numbers to pages. Page p of an image is
 * one page of a chunk, or it is zero.
 *
 * Images share what they have in common: making a child costs what changed, whatever the size of
 * the image. Pages that follow one another in both the image and a chunk are one run.
 * image_tree.h says how this is stored.
 *
 * No operating system call is made but for memory. Any thread may read an image that it holds a
 * reference to. */
#ifndef MS_IMAGE_H
#define MS_IMAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/lock_order.h"

struct chunk;
struct image;

/* A run: pages [first, first + pages) of an image are pages of the chunk from chunk_page on.
 * chunk == NULL: they are zero. */
struct run {
    size_t first, pages;
    struct chunk *chunk;
    size_t chunk_page;
};

/* An image of zero pages. */
int ms_image_zero(size_t pages, struct image **out);
/* An image of the first `pages` pages of the chunk. Takes a reference to the chunk. */
int ms_image_of_chunk(struct chunk *c, size_t pages, struct image **out);
struct image *ms_image_ref(struct image *i);
void ms_image_unref(struct image *i) MS_INSIDE; /* NULL allowed */
size_t ms_image_pages(const struct image *i);

/* Remembers an image and keeps none of its pages. Zero-initialised: none. */
struct weak_image {
    struct image *image; /* not to be looked into */
};
/* Remembers i in place of what it was; NULL: none. */
void ms_image_remember(struct weak_image *w, struct image *i);
/* A reference to the image; NULL: it is gone, or there was none. */
struct image *ms_image_recall(const struct weak_image *w);

/* The run that begins at `page`, cut at `limit` (page < limit). It is as long as it can be: what
 * follows is another chunk, other pages of the same chunk, or the limit. run->chunk is borrowed
 * from the image. */
void ms_image_run(const struct image *i, size_t page, size_t limit, struct run *run);
/* Finds the first run of pages in [page, limit) that a and b map to different chunk pages. False if
 * there is none. a and b have the same size. Shared parts of the trees are skipped, so this costs
 * what differs. */
bool ms_image_differs(const struct image *a, const struct image *b, size_t page, size_t limit,
                      size_t *first, size_t *pages);

/* An edit makes a new image: begin with an old one, set runs in any order, then finish or abandon.
 * The old image does not change. After a failed set the edit can only be abandoned. */
struct image_edit {
    struct image *image;
};
int ms_image_edit_begin(struct image_edit *edit, const struct image *from);
/* Takes references to run->chunk as needed. -ENOMEM. */
int ms_image_edit_set(struct image_edit *edit, const struct run *run) MS_INSIDE;
struct image *ms_image_edit_finish(struct image_edit *edit);
void ms_image_edit_abandon(struct image_edit *edit) MS_INSIDE;

/* Of the `pages` pages from `page` on, how many a take puts into one chunk: the largest aligned
 * block that begins at `page` and fits, because that is one slot. Fewer than 64 pages are cut at
 * multiples of 16. So few slots refer to a chunk, and overwriting them frees it. */
size_t ms_image_block(size_t page, size_t pages);

/* True if the image is one run, and nobody else refers to the image or to the run's chunk. */
bool ms_image_is_exclusive(const struct image *i, struct chunk **chunk);

struct image_usage {
    size_t runs, chunks;    /* chunks: each counted once */
    size_t stored_pages;    /* pages of these chunks */
    size_t exclusive_pages; /* pages of the chunks that would be freed with this image */
};
/* holders: how many references to the image are the asker's own. If there are more, somebody else
 * shares all of it. -ENOMEM. */
int ms_image_usage(const struct image *i, size_t holders, struct image_usage *u);
/* Of several images that count as one, each with its holders. They share no nodes
 * (ms_image_copy()): those would count as somebody else's. */
int ms_images_usage(const struct image *const *v, const size_t *holders, size_t n,
                    struct image_usage *u);
/* The same pages, and no node in common. */
int ms_image_copy(const struct image *i, struct image **out) MS_INSIDE;

#endif
