/* SPDX-License-Identifier: MIT */
/* Saving a snapshot: its bytes as a plain file.
 *
 * Only taking the image is done inside ms_enter, and giving it back. In between no lock is held,
 * however long the device takes: an image is immutable, and the reference to it keeps its chunks
 * and their windows alive. A fork(2) meanwhile does no harm, because nothing but reading goes
 * on; the child has one reference too many, to memory that it shares with its parent. */
#include "config.h"

#include "save.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/arith.h"
#include "mapping/dirty.h"
#include "memsnap.h"
#include "snapshot.h"
#include "storage/store.h"

/* How much is looked through for zero pages and then written while it is still in the
 * processor's cache. */
#define PIECE ((size_t)1 << 19)
/* Smaller ranges are not worth asking where their holes are: 2 us. */
#define WORTH_ASKING ((size_t)1 << 16)

/* Pieces of memory on their way to neighbouring places in the file. */
struct output {
    const struct os_object *to;
    size_t size;     /* of the image */
    uint64_t offset; /* where the first one goes */
    size_t len, n;
    struct os_iov v[128];
    char *buffer; /* of PIECE bytes, for chunks without a window */
};

static int output_flush(struct output *o)
{
    int e = o->n ? ms_os->object_write(o->to, o->v, o->n, o->offset) : 0;
    o->n = 0;
    o->len = 0;
    return e;
}

static int output_add(struct output *o, uint64_t at, const char *p, size_t len)
{
    if (o->n &&
        (o->offset + o->len != at || o->n == sizeof o->v / sizeof o->v[0] || o->len >= PIECE)) {
        int e = output_flush(o);
        if (e < 0)
            return e;
    }
    if (!o->n)
        o->offset = at;
    struct os_iov *last = o->n ? &o->v[o->n - 1] : NULL;
    union {
        const char *in;
        char *out;
    } u = {p};
    if (last && (char *)last->base + last->len == u.out)
        last->len += len;
    else
        o->v[o->n++] = (struct os_iov){u.out, len};
    o->len += len;
    return 0;
}

/* Bytes in memory; those of zero pages are left out. */
static int output_bytes(struct output *o, uint64_t at, const char *p, size_t len)
{
    size_t ps = ms_os->page_size();
    int e = 0;
    for (size_t done = 0; done < len && e == 0; done += ps) {
        size_t n = ms_min(ps, len - done);
        if (!ms_bytes_equal(p + done, NULL, n))
            e = output_add(o, at + done, p + done, n);
    }
    return e;
}

/* Bytes of a chunk that cannot be looked at: mapped files, and what could not be mapped. */
static int output_read(struct output *o, uint64_t at, const struct chunk *c, uint64_t from,
                       size_t len)
{
    if (ms_os->file_clone(&c->store->object, c->offset + from, o->to, at, len) == 0)
        return 0;
    if (!o->buffer && !(o->buffer = ms_os->alloc(PIECE)))
        return -ENOMEM;
    int e = 0;
    for (size_t done = 0; done < len && e == 0; done += PIECE) {
        size_t n = ms_min(PIECE, len - done);
        e = ms_chunk_read(c, from + done, o->buffer, n);
        if (e == 0)
            e = output_bytes(o, at + done, o->buffer, n);
        if (e == 0)
            e = output_flush(o); /* the buffer is used again */
    }
    return e;
}

/* 1: the next data in the chunk's bytes [from, end); 0: only holes are left. */
static int next_data(const struct chunk *c, uint64_t from, uint64_t end, uint64_t *start,
                     uint64_t *stop)
{
    if (c->store->kind == STORE_HEAP || end - from < WORTH_ASKING) {
        *start = from;
        *stop = end;
        return 1;
    }
    int found =
        ms_os->object_data(&c->store->object, c->offset + from, c->offset + end, start, stop);
    if (found > 0) {
        *start -= c->offset;
        *stop -= c->offset;
    }
    return found;
}

static int output_run(struct output *o, const struct run *r)
{
    size_t ps = ms_os->page_size();
    const struct chunk *c = r->chunk;
    uint64_t at = (uint64_t)r->first * ps, from = (uint64_t)r->chunk_page * ps, start, stop;
    uint64_t end = from + ms_min(r->pages * ps, o->size - (size_t)at);
    int e = 0;
    for (uint64_t i = from; i < end && e == 0; i = stop) {
        e = next_data(c, i, end, &start, &stop);
        if (e <= 0)
            return e;
        if (c->window)
            e = output_bytes(o, at + start - from, c->window + start, (size_t)(stop - start));
        else
            e = output_read(o, at + start - from, c, start, (size_t)(stop - start));
    }
    return e;
}

int ms_image_extent(const struct image *i, uint64_t at, uint64_t size, uint64_t *end)
{
    size_t ps = ms_os->page_size();
    uint64_t start, stop;
    struct run r;
    ms_image_run(i, (size_t)(at / ps), ms_image_pages(i), &r);
    *end = ms_min((r.first + r.pages) * ps, (size_t)size);
    if (!r.chunk)
        return 0;
    uint64_t from = (uint64_t)r.chunk_page * ps + at % ps;
    int found = next_data(r.chunk, from, from + (*end - at), &start, &stop);
    if (found > 0)
        *end = at + (start > from ? start : stop) - from;
    return found > 0 && start > from ? 0 : found;
}

static int check_file(const struct chunk *c, uint64_t need)
{
    uint64_t now;
    if (!c)
        return 0;
    int e = ms_os->file_size(&c->store->object, &now);
    return e < 0 ? e : now < need ? -EIO : 0;
}

int ms_image_check_files(const struct image *i, uint64_t size)
{
    size_t ps = ms_os->page_size(), pages = ms_image_pages(i);
    const struct chunk *file = NULL; /* the one met last */
    uint64_t need = 0;
    int e = 0;
    struct run r;
    for (size_t page = 0; page < pages && e == 0; page = r.first + r.pages) {
        ms_image_run(i, page, pages, &r);
        if (!r.chunk || r.chunk->store->kind != STORE_FILE)
            continue;
        if (r.chunk != file) {
            e = check_file(file, need);
            file = r.chunk;
            need = 0;
        }
        uint64_t bytes = ms_min(r.pages * ps, (size_t)size - r.first * ps);
        uint64_t end = r.chunk->offset + (uint64_t)r.chunk_page * ps + bytes;
        need = end > need ? end : need;
    }
    return e < 0 ? e : check_file(file, need);
}

int ms_write_image(const struct image *i, size_t size, const struct os_object *to)
{
    struct output o = {.to = to, .size = size};
    size_t pages = ms_image_pages(i);
    struct run r;
    int e = ms_os->object_grow(to, size);
    for (size_t page = 0; page < pages && e == 0; page = r.first + r.pages) {
        ms_image_run(i, page, pages, &r);
        if (!r.chunk)
            continue;
        e = output_run(&o, &r);
    }
    if (e == 0)
        e = output_flush(&o);
    if (e == 0)
        e = ms_image_check_files(i, size);
    ms_os->free(o.buffer);
    return e;
}

static int write_file(const char *path, unsigned flags, ms_write_content *write, void *arg)
{
    struct os_saving s;
    uint64_t size = 0;
    int e = ms_os->save_open(path, flags & MEMSNAP_SAVE_EXCL, &s);
    if (e < 0)
        return e;
    e = write(arg, &s.file, &size);
    if (e == 0)
        return ms_os->save_commit(&s, size, !(flags & MEMSNAP_SAVE_NOSYNC));
    ms_os->save_abandon(&s);
    return e;
}

int ms_save_file(const char *path, unsigned flags, ms_write_content *write, void *arg)
{
    int before = ms_uncancellable();
    int e = write_file(path, flags, write, arg);
    ms_cancellable(before);
    return e;
}

struct whole {
    const struct image *image;
    size_t size;
};

static int write_whole(void *arg, const struct os_object *to, uint64_t *size)
{
    const struct whole *w = arg;
    *size = w->size;
    return ms_write_image(w->image, w->size, to);
}

int memsnap_snapshot_save(memsnap_snapshot *s, const char *path, unsigned flags)
{
    struct image *i;
    if (!s || !path || flags & ~MS_SAVE_FLAGS)
        return -EINVAL;
    ms_enter();
    int e = ms_snapshot_image(s, false, &i);
    ms_leave();
    if (e < 0)
        return e;
    struct whole w = {i, s->current.size};
    e = ms_save_file(path, flags, write_whole, &w);
    ms_enter();
    ms_image_unref(i);
    ms_leave();
    return e;
}
