/* SPDX-License-Identifier: MIT */
/* A chunk: a reference-counted run of pages in a store, written once. The last unref gives the
 * pages back to the store, which may live on with other chunks. Slots of images hold the
 * references, so there can be very many: hence size_t. */
#ifndef MS_CHUNK_H
#define MS_CHUNK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/lock_order.h"

struct store;
struct segment;

struct chunk {
    atomic_size_t refs;
    struct store *store;     /* holds a reference */
    struct segment *segment; /* holds a reference; NULL: heap */
    uint64_t offset;         /* bytes into the store's object; page-aligned */
    size_t pages;
    /* the chunk's bytes in the segment's window, or in the heap; NULL: use ms_chunk_read */
    const char *window;
    /* ms_forks() when made: pages that a forked child may share are not given back singly */
    size_t forks;
};

/* Collects the pages of chunks that are freed together, so that neighbours go back to the store as
 * one range. Begins as zeros; whoever has one flushes it at the end. */
struct reclaim {
    struct store *store;
    struct segment *segment;
    uint64_t offset, len;
};

struct chunk *ms_chunk_ref(struct chunk *c);
void ms_chunk_ref_many(struct chunk *c, size_t n);
void ms_chunk_unref(struct chunk *c, struct reclaim *r) MS_INSIDE; /* NULL allowed for c */
void ms_reclaim_flush(struct reclaim *r) MS_INSIDE;
/* at this moment: for exclusiveness and statistics */
size_t ms_chunk_refs(const struct chunk *c);

/* The address of `pages` pages of the chunk from `page` on: in the window, or read into buf where
 * there is none. NULL on failure, with a negative error in *error. */
const void *ms_chunk_peek(const struct chunk *c, size_t page, size_t pages, void *buf, int *error);
int ms_chunk_read(const struct chunk *c, uint64_t offset, void *buf, size_t len);

#endif
