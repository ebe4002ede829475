/* SPDX-License-Identifier: MIT */
/* Bringing an image together in one chunk. */
#include "config.h"

#include "mapping/consolidate.h"

#include <errno.h>

#include "base/arith.h"
#include "mapping/dirty.h"
#include "storage/fill.h"
#include "storage/store.h"

bool ms_is_own_chunk(const struct chunk *c, size_t pages)
{
    return ms_chunk_may_change(c) && c->pages == pages;
}

struct chunk *ms_find_own_chunk(const struct image *i)
{
    size_t pages = ms_image_pages(i);
    struct run r;
    for (size_t at = 0; at < pages; at = r.first + r.pages) {
        ms_image_run(i, at, pages, &r);
        if (r.chunk && ms_is_own_chunk(r.chunk, pages) && r.chunk_page == r.first)
            return ms_chunk_ref(r.chunk);
    }
    return NULL;
}

/* Zeros come for nothing in new space. Where space cannot be given back it is used again: a
 * program that opens mutable views for ever would otherwise take more each time. */
int ms_new_own_chunk(struct pool *pool, size_t pages, struct chunk **out, bool *fresh)
{
    struct reclaim reclaim = {0};
    struct chunk *c;
    *fresh = ms_os->caps & OS_CAP_PUNCH;
    int e = ms_pool_allocate(pool, pages, !*fresh, &c);
    if (e < 0)
        return e;
    e = c->store->kind == STORE_ANON ? ms_chunk_prepare_shared(c) : -ENOTSUP;
    if (e == 0) {
        *out = c;
        return 0;
    }
    ms_chunk_unref(c, &reclaim);
    ms_reclaim_flush(&reclaim);
    return e;
}

/* Where holes cannot be made. */
static int write_zeros(struct chunk *to, size_t first, size_t pages)
{
    enum { AT_ONCE = 16 };
    size_t ps = ms_os->page_size();
    char *zeros = ms_os->alloc(AT_ONCE * ps);
    int e = zeros ? 0 : -ENOMEM;
    while (pages && e == 0) {
        size_t n = ms_min(pages, AT_ONCE);
        struct os_iov v = {zeros, n * ps};
        e = ms_os->object_write(&to->store->object, &v, 1, to->offset + first * ps);
        first += n;
        pages -= n;
    }
    ms_os->free(zeros);
    return e;
}

/* Writes one run of the image (stored or zero) to its place in the chunk. */
static int write_run(struct chunk *to, const struct run *r, struct reader *reader)
{
    size_t ps = ms_os->page_size();
    int e = 0;
    if (!r->chunk) {
        e = ms_os->object_punch(&to->store->object, to->offset + r->first * ps, r->pages * ps);
        return e == -ENOTSUP ? write_zeros(to, r->first, r->pages) : e;
    }
    for (size_t page = r->first; page < r->first + r->pages && e == 0; page++) {
        union {
            const void *in;
            void *out;
        } p = {ms_reader_page(reader, page, &e)};
        struct os_iov v = {p.out, ps};
        if (e == 0)
            e = ms_os->object_write(&to->store->object, &v, 1, to->offset + page * ps);
    }
    return e;
}

int ms_consolidate(const struct image *i, struct chunk *to, size_t first, size_t end, bool fresh)
{
    struct reader reader;
    struct image *whole;
    struct run r = {0};
    int e = ms_image_of_chunk(to, ms_image_pages(i), &whole);
    if (e < 0)
        return e;
    ms_reader_begin(&reader, i);
    while (e == 0 && ms_image_differs(whole, i, first, end, &r.first, &r.pages)) {
        ms_image_run(i, r.first, r.first + r.pages, &r);
        if (r.chunk || !fresh)
            e = write_run(to, &r, &reader);
        first = r.first + r.pages;
    }
    ms_reader_end(&reader);
    ms_image_unref(whole);
    return e;
}
