/* An image: an immutable, reference-counted page map. Page p of an image is page `chunk_page` of
 * a chunk, or zero.
 *
 * Stored as a radix tree whose slots are either empty (zero pages), a run of one chunk that
 * fills the whole slot, or a child node, which keeps what differs from one run. Two images share
 * the nodes under which they are the same, so making a child costs what changed, whatever is
 * mapped. A run that could fill its slot always does (the form is canonical), so equal
 * neighbours are merged. Pure C: no operating system call but for memory. Images are immutable:
 * any thread may read one it holds a reference to. */
#ifndef MS_IMAGE_H
#define MS_IMAGE_H

#include <stdbool.h>
#include <stddef.h>

struct chunk;
struct image;

/* Pages [first, first + pages) are the chunk's pages from chunk_page on; chunk == NULL: zero
 * pages. */
struct run {
    size_t first, pages;
    struct chunk *chunk;
    size_t chunk_page;
};

/* All zero. */
int ms_image_zero(size_t pages, struct image **out);
/* Pages 0..pages-1 of the image are pages 0..pages-1 of the chunk; takes a reference of its own
 * to it. */
int ms_image_of_chunk(struct chunk *c, size_t pages, struct image **out);
struct image *ms_image_ref(struct image *i);
void ms_image_unref(struct image *i); /* NULL allowed */
size_t ms_image_pages(const struct image *i);

/* The run that page lies in, from page on (not before), ending at limit at the latest (limit >
 * page). Neighbouring slots that continue the same chunk, or are zero, are merged. The reference
 * to run->chunk is the image's. */
void ms_image_run(const struct image *i, size_t page, size_t limit, struct run *run);
/* True, and where, if the next run in [page, limit) exists in which a and b (of the same size)
 * refer to different chunk pages. Subtrees that both share are skipped without being looked at. */
bool ms_image_differs(const struct image *a, const struct image *b, size_t page, size_t limit,
                      size_t *first, size_t *pages);

/* Editing: begin from an image, set runs in any order, then finish or abandon. A failed set
 * leaves the edit fit for abandon only. The images begun from are never changed. */
struct image_edit {
    struct image *image;
};
int ms_image_edit_begin(struct image_edit *e, const struct image *from);
/* takes references to run->chunk as needed */
int ms_image_edit_set(struct image_edit *e, const struct run *run);
struct image *ms_image_edit_finish(struct image_edit *e);
void ms_image_edit_abandon(struct image_edit *e);

/* How many pages from `page` on (of `pages`) a take puts into one chunk: what one slot can hold,
 * the largest aligned block that starts at page and fits; less than 64 pages are cut at
 * multiples of 16. So a chunk dies as a whole when few slots are overwritten. */
size_t ms_image_block(size_t page, size_t pages);

/* True if this image is one run of one chunk over all its pages, and nobody else refers to the
 * image or the chunk. */
bool ms_image_is_exclusive(const struct image *i, struct chunk **chunk);

struct image_usage {
    size_t extents, chunks; /* merged runs; distinct chunks */
    /* of distinct chunks; of those that would go away with this image */
    size_t stored_pages, exclusive_pages;
};
/* holders: how many references to the image count as "this one" (the asking snapshot's own). */
int ms_image_usage(const struct image *i, size_t holders, struct image_usage *u);

#endif
