/* SPDX-License-Identifier: MIT */
/* Handing an image to another process: a sealed, read-only descriptor.
 *
 * An image that is a whole memory object, to the byte, is sealed where it is. This store then
 * takes no more chunks: it is taken out of the pool, which makes another one when it needs it.
 * Everything else that the library does with a chunk only reads it; a writer that would have
 * stored into it finds that it cannot map it for writing, and is a shadow. Any other image is
 * copied into a new object. If nobody else refers to the image's pages, the snapshot moves over
 * to the copy and the old pages are freed, so the next export is of the first kind. It stays
 * where it is while its pages are shared: moving would cost the memory of a copy for as long as
 * the snapshot lives, and its relatives could not be told apart without being read. */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "mapping/dirty.h"
#include "memsnap.h"
#include "save.h"
#include "snapshot.h"
#include "storage/store.h"

/* The chunk, if the image is all of a store's object. */
static struct chunk *whole_store(const struct image *i)
{
    size_t pages = ms_image_pages(i);
    struct run r;
    if (!pages)
        return NULL;
    ms_image_run(i, 0, pages, &r);
    if (r.pages != pages || !r.chunk || r.chunk_page != 0 || r.chunk->pages != pages ||
        r.chunk->offset != 0)
        return NULL;
    return r.chunk->store->kind == STORE_HEAP ? NULL : r.chunk;
}

/* ---- sealing what is there ------------------------------------------------------------------- */

/* Takes the store out of the pool if nobody but the pool and the one chunk refers to it. Who is
 * about to allocate from the store has taken a reference under the pool's lock; after this
 * nobody can get one any more. */
static bool retire(struct pool *p, struct store *s) MS_INSIDE
{
    bool ours;
    ms_pool_lock(p);
    bool current = p->store == s;
    ours = ms_ref_count(&s->refs) == (current ? 2 : 1);
    if (ours && current) {
        p->store = NULL;
        ms_store_unref(s); /* the chunk's is left */
    }
    ms_pool_unlock(p);
    return ours;
}

static int seal_in_place(struct pool *pool, struct chunk *c, size_t size) MS_INSIDE
{
    struct store *s = c->store;
    uint64_t now;
    if (s->kind != STORE_ANON || s->process != ms_process_generation())
        return -ENOTSUP;
    int e = ms_os->file_size(&s->object, &now);
    if (e < 0)
        return e;
    if (now != size || !retire(pool, s))
        return -ENOTSUP;
    e = ms_os->object_seal(&s->object, c->segment->window, (size_t)c->segment->len);
    if (c->segment->window) /* may be another mapping now */
        ms_os->advise(c->segment->window, (size_t)c->segment->len, OS_NODUMP);
    return e;
}

static int share_in_place(memsnap_snapshot *s, const struct image *i, int *fd) MS_INSIDE
{
    struct chunk *c = whole_store(i);
    if (!c)
        return -ENOTSUP;
    int e = ms_os->object_share(&c->store->object, s->current.size, fd);
    if (e != -ENOTSUP)
        return e;
    e = seal_in_place(s->current.pool, c, s->current.size);
    return e < 0 ? e : ms_os->object_share(&c->store->object, s->current.size, fd);
}

/* ---- copying --------------------------------------------------------------------------------- */

static size_t stored_pages(const struct image *i)
{
    size_t n = 0, pages = ms_image_pages(i);
    struct run r;
    for (size_t at = 0; at < pages; at = r.first + r.pages) {
        ms_image_run(i, at, pages, &r);
        n += r.chunk ? r.pages : 0;
    }
    return n;
}

/* Copies [page, limit) of the image to its place in the window. *touched: so many bytes from the
 * start on have their huge pages. */
static int copy_run(const struct run *r, char *window, size_t *touched)
{
    size_t ps = ms_os->page_size(), huge = ms_os->huge_size(), from = r->first * ps,
           to = from + r->pages * ps;
    for (size_t at = ms_max(*touched, from & ~(huge - 1)); at < to; at += huge) {
        ((volatile char *)window)[at] = 0;
        ms_os->collapse(window + at, huge); /* where that fails small pages do */
        *touched = at + huge;
    }
    return ms_chunk_read(r->chunk, (uint64_t)r->chunk_page * ps, window + from, r->pages * ps);
}

/* Through a window of huge pages, which the receivers' views then have too. */
static int copy_huge(const struct image *i, const struct os_object *to, size_t whole)
{
    size_t pages = whole / ms_os->page_size(), touched = 0;
    struct run r;
    void *window;
    int e = ms_os->object_grow(to, whole);
    if (e == 0)
        e = ms_os->map_new(to, 0, whole, ms_os->huge_size(), OS_SHARED_WRITE, &window);
    if (e < 0)
        return e;
    /* in a child it would keep the object from being sealed */
    ms_os->advise(window, whole, OS_NOFORK);
    ms_os->advise(window, whole, OS_NODUMP);
    for (size_t at = 0; at < pages && e == 0; at = r.first + r.pages) {
        ms_image_run(i, at, pages, &r);
        if (r.chunk)
            e = copy_run(&r, window, &touched);
    }
    ms_os->unmap(window, whole);
    return e;
}

/* The part behind the last whole huge page. */
static int copy_rest(const struct image *i, size_t size, const struct os_object *to, size_t done)
{
    size_t ps = ms_os->page_size(), pages = ms_image_pages(i);
    struct reader reader;
    int e = ms_os->object_grow(to, size);
    ms_reader_begin(&reader, i);
    for (size_t page = done / ps; page < pages && e == 0; page++) {
        union {
            const void *in;
            void *out;
        } p = {ms_reader_page(&reader, page, &e)};
        struct os_iov v = {p.out, ms_min(ps, size - page * ps)};
        if (p.in)
            e = ms_os->object_write(to, &v, 1, page * ps);
    }
    ms_reader_end(&reader);
    return e;
}

/* Sparse images keep their holes. */
static bool wants_huge(const memsnap_snapshot *s, const struct image *i)
{
    size_t huge = ms_os->huge_size();
    return ms_os->caps & OS_CAP_HUGE && !(s->current.flags & MEMSNAP_HUGE_NEVER) && huge &&
           s->current.size >= huge && stored_pages(i) >= ms_image_pages(i) / 4 * 3;
}

static int copy_image(const memsnap_snapshot *s, const struct image *i, const struct os_object *to)
{
    size_t whole = wants_huge(s, i) ? s->current.size & ~(ms_os->huge_size() - 1) : 0;
    if (!whole)
        return ms_write_image(i, s->current.size, to);
    int e = copy_huge(i, to, whole);
    return e < 0 ? e : copy_rest(i, s->current.size, to, whole);
}

/* ---- moving over to the copy ----------------------------------------------------------------- */

/* Copying less than this again is cheaper than one descriptor more for as long as the snapshot
 * lives. */
#define WORTH_MOVING ((size_t)1 << 20)

/* Two references to the image: the snapshot's, and the caller's. */
static bool may_move(const memsnap_snapshot *s, const struct image *i)
    MS_REQUIRES(ms_snapshot_locks)
{
    struct image_usage u;
    if (s->current.image != i || s->current.writer.state != WRITER_NONE ||
        s->current.size < WORTH_MOVING)
        return false;
    return ms_image_usage(i, 2, &u) == 0 && u.stored_pages && u.exclusive_pages == u.stored_pages;
}

/* Takes the object over, or closes it. Not moving is no error. */
static void move_over(memsnap_snapshot *s, struct image *i, struct os_object *copy) MS_INSIDE
{
    struct reclaim reclaim = {0};
    struct chunk *c = NULL;
    struct image *moved;
    ms_recycler_set_image(s->recycler, NULL); /* parked views refer to the image, too */
    ms_snapshot_lock(s);
    if (may_move(s, i) && ms_store_of_file(copy, ms_image_pages(i), true, &c) == 0) {
        copy->fd = -1;
        if (ms_image_of_chunk(c, ms_image_pages(i), &moved) == 0)
            ms_current_set_image(&s->current, moved);
        ms_chunk_unref(c, &reclaim);
    }
    ms_snapshot_unlock(s);
    ms_snapshot_tell_recycler(s);
    ms_reclaim_flush(&reclaim);
    if (copy->fd >= 0)
        ms_os->object_close(copy);
}

/* Inside for the moving only: copying takes its time. */
static int share_copy(memsnap_snapshot *s, struct image *i, int *fd) MS_OUTSIDE
{
    struct os_object copy;
    int e = ms_os->export_create(&copy);
    if (e < 0)
        return e;
    e = copy_image(s, i, &copy);
    if (e == 0)
        e = ms_os->object_seal(&copy, NULL, 0);
    if (e == 0)
        e = ms_os->object_share(&copy, s->current.size, fd);
    if (e < 0) {
        ms_os->object_close(&copy);
        return e == -EBUSY ? -ENOTSUP : e;
    }
    ms_enter();
    move_over(s, i, &copy);
    ms_leave();
    return 0;
}

static int export_fd(memsnap_snapshot *s, int *fd)
{
    struct image *i;
    ms_enter();
    int e = ms_snapshot_image(s, false, &i);
    if (e < 0) {
        ms_leave();
        return e;
    }
    e = share_in_place(s, i, fd);
    ms_leave();
    /* Anything that keeps the object from being sealed does not keep it from being copied. */
    if (e == -ENOTSUP || e == -EBUSY)
        e = share_copy(s, i, fd);
    ms_enter();
    ms_image_unref(i);
    ms_leave();
    return e;
}

int memsnap_snapshot_export_fd(memsnap_snapshot *s, int *fd)
{
    if (!s || !fd)
        return -EINVAL;
    if (s->current.flags & MEMSNAP_NO_FD)
        return -ENOTSUP;
    int before = ms_uncancellable(); /* copying reads and writes outside ms_enter() */
    int e = export_fd(s, fd);
    ms_cancellable(before);
    return e;
}
