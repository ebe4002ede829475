/* A chunk: a reference-counted run of pages in a store, written once. Its last unref gives the
 * pages back, because the store may live on under other chunks. Slots of images hold the
 * references, hence the size_t count. */
#ifndef MS_CHUNK_H
#define MS_CHUNK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct store;
struct segment;

struct chunk {
    atomic_size_t refs;
    struct store *store;     /* holds a reference */
    struct segment *segment; /* holds a reference; NULL: heap */
    uint64_t offset;         /* bytes into the store's object; page-aligned */
    size_t pages;
    /* readable shared mapping of the chunk's bytes, or NULL: use ms_chunk_read */
    const char *window;
    /* ms_forks() when made: pages made before a fork are never given back singly */
    size_t forks;
};

/* Pages that were given back by chunks freed together; neighbours are merged before the store
 * takes them back. Zero-initialise, flush last. */
struct reclaim {
    struct store *store;
    struct segment *segment;
    uint64_t offset, len;
};

/* relaxed; checks for overflow */
struct chunk *ms_chunk_ref(struct chunk *c);
void ms_chunk_ref_many(struct chunk *c, size_t n);
void ms_chunk_unref(struct chunk *c, struct reclaim *r); /* NULL allowed for c */
void ms_reclaim_flush(struct reclaim *r);
/* a look, for exclusiveness and statistics */
size_t ms_chunk_refs(const struct chunk *c);

/* The chunk's bytes from page on: the window where there is one, else read into buf (pages
 * pages). NULL and *error on failure. */
const void *ms_chunk_peek(const struct chunk *c, size_t page, size_t pages, void *buf, int *error);
int ms_chunk_read(const struct chunk *c, uint64_t offset, void *buf, size_t len);

#endif
