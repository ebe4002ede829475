/* SPDX-License-Identifier: MIT */
/* Collecting changed pages into chunks of the pool. */
#include "config.h"

#include "mapping/capture.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "mapping/dirty.h"
#include "storage/fill.h"

/* Pages on their way into a new image: neighbours are gathered into a run, runs cut into blocks
 * that die as a whole, blocks written in batches. */
struct image_builder {
    struct pool *pool;
    struct image_edit edit;
    struct batch batch;
    size_t first, pages; /* the run being gathered */
    const char *data;    /* its bytes */
    size_t bytes;
    void *zeros; /* a page of them, once the image's end was captured */
};

static int store_block(struct image_builder *c, size_t first, size_t pages, const char *data,
                       size_t bytes) MS_INSIDE
{
    size_t ps = ms_os->page_size();
    if (bytes < pages * ps && !c->zeros && !(c->zeros = ms_os->alloc(ps)))
        return -ENOMEM;
    return ms_batch_store(&c->batch, c->pool, &c->edit, first, pages, data, bytes, c->zeros);
}

static int store_run(struct image_builder *c) MS_INSIDE
{
    size_t ps = ms_os->page_size();
    int e = 0;
    while (c->pages && e == 0) {
        size_t n = ms_image_block(c->first, c->pages), bytes = ms_min(n * ps, c->bytes);
        e = store_block(c, c->first, n, c->data, bytes);
        c->first += n;
        c->pages -= n;
        c->data += bytes;
        c->bytes -= bytes;
    }
    c->pages = 0;
    return e;
}

static int store_page(struct image_builder *c, size_t page, const char *data,
                      size_t bytes) MS_INSIDE
{
    if (c->pages && c->first + c->pages == page && c->data + c->bytes == data) {
        c->pages++;
        c->bytes += bytes;
        return 0;
    }
    int e = store_run(c);
    c->first = page;
    c->pages = 1;
    c->data = data;
    c->bytes = bytes;
    return e;
}

/* The page refers to what `from` refers to, or to nothing. */
static int refer(struct image_builder *c, size_t page, const struct image *from) MS_INSIDE
{
    struct run r = {page, 1, NULL, 0};
    if (from)
        ms_image_run(from, page, page + 1, &r);
    return ms_image_edit_set(&c->edit, &r);
}

/* All bytes are where they belong: whatever is captured from is not read any more. */
static int store_rest(struct image_builder *c) MS_INSIDE
{
    int e = store_run(c);
    return e < 0 ? e : ms_batch_flush(&c->batch);
}

static int finish(struct image_builder *c, int e, struct image **out) MS_INSIDE
{
    if (e < 0)
        ms_image_edit_abandon(&c->edit);
    else
        *out = ms_image_edit_finish(&c->edit);
    ms_os->free(c->zeros);
    return e;
}

/* ---- from a mapping -------------------------------------------------------------------------- */

/* Decides for one page that differs from what was taken last. */
static int capture_page(struct image_builder *c, struct dirty_iter *d,
                        const struct dirty_page *p) MS_INSIDE
{
    const struct mapping *m = d->scan.m;
    char *data = ms_page_address(m, p->number);
    size_t bytes = ms_page_bytes(m, p->number);
    int e = 0;
    if (p->shows_mapped)
        return refer(c, p->number, m->mapped);
    if (d->base.image != d->against.image) {
        const void *old = ms_reader_page(&d->base, p->number, &e);
        if (e < 0)
            return e;
        if (ms_bytes_equal(data, old, bytes))
            return refer(c, p->number, m->base);
    }
    if (ms_bytes_equal(data, NULL, bytes))
        return refer(c, p->number, NULL);
    return store_page(c, p->number, data, bytes);
}

static int capture_dirty(struct image_builder *c, struct mapping *m, size_t first,
                         const struct image *reference,
                         const struct os_write_block *block) MS_INSIDE
{
    struct dirty_iter d;
    struct dirty_page page;
    int e;
    ms_dirty_begin(&d, m, reference, first, block);
    d.scan.written = m->tracked && reference == m->base && !block;
    bool tracked = d.scan.written;
    while ((e = ms_dirty_next(&d, &page)) > 0) {
        e = capture_page(c, &d, &page);
        if (e < 0)
            break;
    }
    if (tracked && !d.scan.written)
        ms_mapping_untrack(m);
    ms_dirty_end(&d);
    return e;
}

static int capture_since(struct image *reference, struct mapping *m, size_t first,
                         struct pool *pool, const struct os_write_block *block,
                         struct image **out) MS_INSIDE
{
    struct image_builder c = {.pool = pool};
    int e = ms_image_edit_begin(&c.edit, reference);
    if (e < 0)
        return e;
    e = ms_mapping_make_readable(m);
    if (e == 0) {
        e = capture_dirty(&c, m, first, reference, block);
        if (e == 0)
            e = store_rest(&c);
        int protected = ms_mapping_reprotect(m);
        e = e < 0 ? e : protected;
    }
    return finish(&c, e, out);
}

int ms_capture(struct mapping *m, size_t first, struct pool *pool,
               const struct os_write_block *block, struct image **out)
{
    if (m->torn)
        return -EIO;
    struct image *last = ms_image_recall(&m->last_taken);
    int e = capture_since(last ? last : m->base, m, first, pool, block, out);
    ms_image_unref(last);
    return e;
}

/* ---- from a file ----------------------------------------------------------------------------- */

static int capture_buffer(struct image_builder *c, struct reader *earlier, const char *buffer,
                          size_t at, size_t len) MS_INSIDE
{
    size_t ps = ms_os->page_size();
    int e = 0;
    for (size_t done = 0; done < len && e == 0; done += ps) {
        size_t page = (at + done) / ps, bytes = ms_min(ps, len - done);
        const void *old = ms_reader_page(earlier, page, &e);
        if (e < 0 || ms_bytes_equal(buffer + done, old, bytes))
            continue;
        if (ms_bytes_equal(buffer + done, NULL, bytes))
            e = refer(c, page, NULL);
        else
            e = store_page(c, page, buffer + done, bytes);
    }
    return e < 0 ? e : store_rest(c); /* the buffer is used again */
}

int ms_capture_file(const struct os_object *file, size_t size, struct image *earlier,
                    struct pool *pool, struct image **out)
{
    size_t capacity = 64 * ms_os->page_size();
    struct image_builder c = {.pool = pool};
    struct reader old;
    uint64_t now = 0;
    char *buffer = ms_os->alloc(capacity);
    if (!buffer)
        return -ENOMEM;
    int e = ms_image_edit_begin(&c.edit, earlier);
    if (e == 0) {
        ms_reader_begin(&old, earlier);
        for (size_t at = 0; at < size && e == 0; at += capacity) {
            struct os_iov v = {buffer, ms_min(capacity, size - at)};
            e = ms_os->object_read(file, &v, 1, at);
            if (e == 0)
                e = capture_buffer(&c, &old, buffer, at, v.len);
        }
        ms_reader_end(&old);
        if (e == 0)
            e = ms_os->file_size(file, &now);
        e = finish(&c, e == 0 && now < size ? -EIO : e, out);
    }
    ms_os->free(buffer);
    return e;
}
