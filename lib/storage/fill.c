/* SPDX-License-Identifier: MIT */
/* Filling chunks. */
#include "config.h"

#include "storage/fill.h"

#include <errno.h>
#include <string.h>

#include "base/annotate.h"
#include "base/arith.h"
#include "memsnap.h"

static int write_all(struct chunk *c, const void *data, size_t size, uint64_t at)
{
    union {
        const void *in;
        void *out;
    } p = {data};
    struct os_iov v = {p.out, size};
    return size ? ms_os->object_write(&c->store->object, &v, 1, c->offset + at) : 0;
}

/* How many bytes of a chunk's beginning are to be in huge pages: the last one too if half of it
 * is used. It costs 110 us whatever is used of it, 1 MiB of small pages costs 200; what is left
 * of it serves the family's later chunks. */
static size_t huge_part(size_t size)
{
    size_t huge = ms_os->huge_size();
    return huge ? (size + huge / 2) & ~(huge - 1) : 0;
}

/* The segment's window over the chunk's first len bytes, made writable. The object ends with the
 * image, not with the last huge page: only an object of the image's very size can be handed to
 * another process. */
static int open_huge_window(struct chunk *c, size_t size, size_t len, char **window)
{
    const struct os_object *o = &c->store->object;
    struct segment *g = c->segment;
    uint64_t from = c->offset - g->offset;
    if (!(ms_os->caps & OS_CAP_HUGE) || !g->window ||
        !ms_aligned((size_t)c->offset, ms_os->huge_size()) || from + len > g->len)
        return -ENOTSUP;
    int e = ms_os->object_grow(o, c->offset + size);
    if (e == 0)
        e = ms_os->map_over(o, c->offset, g->window + from, len, OS_SHARED_WRITE);
    if (e == 0) {
        *window = g->window + from;
        ms_os->advise(*window, len, OS_NODUMP);
    }
    return e;
}

/* Fills one huge page of the window. Collapsing wants a page there; written, not touched: a full
 * system answers instead of raising SIGBUS. */
static int fill_huge_page(struct chunk *c, char *to, const void *data, const struct os_object *file,
                          size_t at, size_t len)
{
    int e = write_all(c, "", 1, at);
    if (e == 0)
        e = ms_os->collapse(to, ms_os->huge_size());
    if (e == 0 && data)
        memcpy(to, data, len);
    else if (e == 0 && file)
        e = ms_os->object_read(file, &(struct os_iov){to, len}, 1, at);
    return e;
}

/* Through a writable window made of huge pages: 4 to 6 times the rate of faulting small pages
 * in. One by one, so that what the kernel has just cleared is still in the cache when it is
 * copied over: 20% at 64 MiB. *done: bytes filled, also on failure. */
static int fill_huge(struct chunk *c, const char *data, const struct os_object *file, size_t size,
                     size_t *done)
{
    size_t huge = ms_os->huge_size(), len = huge_part(size);
    char *window = NULL;
    int e = open_huge_window(c, size, len, &window);
    if (e < 0)
        return e;
    for (size_t at = 0; at < len && e == 0; at += huge) {
        e = fill_huge_page(c, window + at, data ? data + at : NULL, file, at,
                           ms_min(huge, size - at));
        if (e == 0)
            *done = ms_min(at + huge, size);
    }
    ms_os->protect(window, len, MEMSNAP_ACCESS_READ); /* it stays as the segment's window */
    return e;
}

/* Fills as much as is worth huge pages; *done: how much. Where they cannot be had small ones do,
 * unless they are required. */
static int try_huge(struct chunk *c, const void *data, const struct os_object *file, size_t size,
                    unsigned flags, size_t *done)
{
    int e = -ENOTSUP;
    *done = 0;
    if (huge_part(size) && !(flags & MEMSNAP_HUGE_NEVER))
        e = fill_huge(c, data, file, size, done);
    if (e < 0 && flags & MEMSNAP_HUGE_REQUIRE)
        return e;
    return 0;
}

/* From this size on it is asked whether there is so much memory at all. */
#define LARGE ((uint64_t)64 << 20)

/* A request larger than what there is would have the system kill processes before it failed. */
static int check_memory(const struct chunk *c, uint64_t size)
{
    if (size < LARGE || strcmp(c->store->object.kind, "file") == 0)
        return 0;
    return size > ms_os->memory_left() ? -ENOMEM : 0;
}

static int check_request(const struct chunk *c, uint64_t size, unsigned flags)
{
    if (flags & MEMSNAP_HUGE_REQUIRE && c->store->kind == STORE_HEAP)
        return -ENOTSUP; /* no object could be had */
    return check_memory(c, size);
}

int ms_chunk_fill(struct chunk *c, const void *data, size_t size, unsigned flags)
{
    size_t done;
    int e = check_request(c, size, flags);
    if (e < 0)
        return e;
    if (c->store->kind == STORE_HEAP) {
        union {
            const char *in;
            char *out;
        } p = {c->window};
        MS_RACY_READ_BEGIN();
        memcpy(p.out, data, size);
        MS_RACY_READ_END();
        return 0;
    }
    e = try_huge(c, data, NULL, size, flags, &done);
    return e < 0 || !data ? e : write_all(c, (const char *)data + done, size - done, done);
}

static int fill_heap_from(struct chunk *c, const struct os_object *file, uint64_t from, size_t len)
{
    union {
        const char *in;
        char *out;
    } p = {c->window};
    return ms_os->object_read(file, &(struct os_iov){p.out, len}, 1, from);
}

/* The file may have become shorter meanwhile: what was read past its end is nobody's data. */
static int check_length(const struct os_object *file, uint64_t size)
{
    uint64_t now;
    int e = ms_os->file_size(file, &now);
    return e < 0 ? e : now < size ? -EIO : 0;
}

/* Holes need no memory. */
static int check_data(const struct chunk *c, const struct os_object *file, uint64_t size)
{
    uint64_t bytes = 0, at = 0, start;
    int e = check_memory(c, size);
    while (e < 0 && at < size && ms_os->object_data(file, at, size, &start, &at) == 1)
        bytes += at - start;
    return e < 0 ? check_memory(c, bytes) : 0;
}

static bool has_holes(const struct os_object *file, uint64_t size)
{
    uint64_t start, end;
    return ms_os->object_data(file, 0, size, &start, &end) != 1 || start > 0 || end < size;
}

int ms_chunk_fill_from(struct chunk *c, const struct os_object *file, uint64_t size, unsigned flags)
{
    const struct os_object *o = &c->store->object;
    size_t done = 0;
    int e;
    e = flags & MEMSNAP_HUGE_REQUIRE ? check_request(c, size, flags) : check_data(c, file, size);
    if (e < 0)
        return e;
    if (!(flags & MEMSNAP_HUGE_REQUIRE) && has_holes(file, size))
        flags |= MEMSNAP_HUGE_NEVER; /* huge pages would fill the holes */
    if (c->store->kind == STORE_HEAP) {
        e = fill_heap_from(c, file, 0, (size_t)size);
    } else if ((e = try_huge(c, NULL, file, (size_t)size, flags, &done)) == 0) {
        e = ms_os->file_copy(file, done, o, c->offset + done, size - done);
        if (e == 0) /* where a look at a hole takes a page, and may find none */
            e = ms_os->object_commit(o, c->offset + done, size - done);
    }
    return e < 0 ? e : check_length(file, size);
}

int ms_chunk_fill_part(struct chunk *c, const struct os_object *file, uint64_t from, size_t len)
{
    const struct os_object *o = &c->store->object;
    int e = check_memory(c, len);
    if (e == 0)
        e = c->store->kind == STORE_HEAP ? fill_heap_from(c, file, from, len)
                                         : ms_os->file_copy(file, from, o, c->offset, len);
    return e < 0 ? e : check_length(file, from + len);
}

bool ms_chunk_fills_holes(const struct chunk *c, const struct os_object *file, uint64_t size)
{
    if (!has_holes(file, size))
        return false;
    return c->store->kind == STORE_HEAP ||
           ms_os->object_commit(&c->store->object, c->offset, size) == -ENOTSUP;
}

/* Not by setting the object's length: by then another thread of the family may have written
 * behind the chunk, and would be cut off. */
static int reach_over(struct chunk *c, uint64_t len)
{
    uint64_t now;
    int e = ms_os->file_size(&c->store->object, &now);
    return e < 0 || now >= c->offset + len ? e : write_all(c, "", 1, len - 1);
}

int ms_chunk_prepare_shared(struct chunk *c)
{
    uint64_t len = (uint64_t)c->pages * ms_os->page_size();
    const struct os_object *o = &c->store->object;
    /* the user's file keeps its length; its holes are the user's risk */
    if (c->store->kind == STORE_FILE)
        return 0;
    int e = reach_over(c, len);
    return e < 0 ? e : ms_os->object_commit(o, c->offset, len);
}

int ms_batch_flush(struct batch *b)
{
    MS_RACY_READ_BEGIN(); /* the bytes may be a view's */
    int e = b->n ? ms_os->object_write(&b->store->object, b->v, b->n, b->offset) : 0;
    MS_RACY_READ_END();
    b->n = 0;
    b->len = 0;
    return e;
}

static void batch_append(struct batch *b, const void *data, size_t len)
{
    union {
        const void *in;
        void *out;
    } p = {data};
    struct os_iov *last = b->n ? &b->v[b->n - 1] : NULL;
    if (last && (char *)last->base + last->len == (char *)p.out)
        last->len += len;
    else
        b->v[b->n++] = (struct os_iov){p.out, len};
    b->len += len;
}

int ms_batch_add(struct batch *b, struct chunk *c, const void *data, size_t len, const void *zeros)
{
    size_t whole = c->pages * ms_os->page_size();
    if (c->store->kind == STORE_HEAP)
        return ms_chunk_fill(c, data, len, MEMSNAP_HUGE_NEVER);
    bool follows = b->n && b->store == c->store && b->offset + b->len == c->offset;
    if (b->n && (!follows || b->n + 2 > sizeof b->v / sizeof b->v[0])) {
        int e = ms_batch_flush(b);
        if (e < 0)
            return e;
    }
    if (!b->n) {
        b->store = c->store;
        b->offset = c->offset;
    }
    batch_append(b, data, len);
    if (len < whole)
        batch_append(b, zeros, whole - len);
    return 0;
}

int ms_batch_store(struct batch *b, struct pool *pool, struct image_edit *edit, size_t first,
                   size_t pages, const void *data, size_t len, const void *zeros)
{
    struct reclaim reclaim = {0};
    struct chunk *c;
    int e = ms_pool_allocate(pool, pages, true, &c);
    if (e < 0)
        return e;
    struct run r = {first, pages, c, 0};
    e = ms_image_edit_set(edit, &r);
    if (e == 0)
        e = ms_batch_add(b, c, data, len, zeros);
    ms_chunk_unref(c, &reclaim);
    ms_reclaim_flush(&reclaim);
    return e;
}
