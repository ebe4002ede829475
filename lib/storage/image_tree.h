/* SPDX-License-Identifier: MIT */
/* How an image is laid out in memory: for image.c, and for tests that check it. Nobody else looks
 * inside.
 *
 * The tree has levels. A slot of level n stands for an aligned block of 64^n pages; the root slot
 * stands for the whole image. A slot is one of three things:
 *
 *   zero   no chunk: all pages of the block are zero
 *   run    the pages of the block are neighbouring pages of one chunk
 *   node   the block is divided into 64 children, which are slots of level n - 1
 *
 * The image's end cuts the last block of each level short. Children wholly behind the end are
 * never looked at.
 *
 * A node stores slots for some of its children only. All other children are parts of `rest`, which
 * is zero or a run over the whole block. So a node with a few changed pages takes one or two cache
 * lines instead of 64 slots, and holds one reference to the chunk of `rest` instead of one for each
 * child. (With nodes of 16 children that all have slots, a take of 16 pages of a GiB takes 10%
 * longer.)
 *
 * Invariants (tests/support/valid_image.c asserts them):
 *  - Where a zero slot or a run can say it, there is no node.
 *  - A child's own slot never says the same as its part of `rest`. If every child has its own slot,
 *    `rest` is zero.
 *  - Every slot that refers to a chunk or a node holds one reference to it.
 *  - A node is changed only by the edit that owns it: the edit's image is private to the edit, and
 *    every node on the way down has one reference. Nobody else can get a reference to it then. All
 *    other nodes are immutable. */
#ifndef MS_IMAGE_TREE_H
#define MS_IMAGE_TREE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "storage/chunk.h"
#include "base/refcount.h"

enum {
    FANOUT_BITS = 6,
    FANOUT = 1 << FANOUT_BITS, /* children of a node */
    /* ms_image_block() cuts what is less than a node at multiples of so many pages. */
    SMALL_BLOCK = 16,
    PAGE_BITS = sizeof(size_t) * CHAR_BIT,
    MAX_HEIGHT = (PAGE_BITS + FANOUT_BITS - 1) / FANOUT_BITS
};

#define IS_NODE SIZE_MAX /* in slot.page: no chunk has a page of this number */

struct node;

typedef uint64_t children_mask; /* a bit for each child of a node */
#define ALL_CHILDREN (UINT64_MAX >> (64 - FANOUT))

struct slot {
    union {
        struct chunk *chunk; /* NULL: zero pages, and then page is 0 */
        struct node *node;
    };
    size_t page; /* the chunk's page where the slot begins, or IS_NODE */
};

struct node {
    refcount refs;       /* slots of other nodes, and root slots of images */
    children_mask own;   /* the children that have slots of their own */
    struct slot rest;    /* what the other children are part of; not a node */
    struct slot slots[]; /* one for each bit of `own`, in their order */
};

struct image {
    refcount refs;
    refcount remembered; /* by weak references, and once more while there are others */
    size_t pages;
    unsigned height; /* levels of nodes that there can be: 64^height >= pages */
    struct slot root;
};

/* The pages [first, end) that a slot stands for: 1 << bits of them, or fewer where the image
 * ends. */
struct block {
    size_t first, end;
    unsigned bits;
};

#endif
