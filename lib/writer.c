/* The mutable mapping of a snapshot: direct, shadow, freeze, capture. */
#include "config.h"

#include "writer.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/arith.h"
#include "mapping/capture.h"
#include "mapping/dirty.h"
#include "storage/fill.h"
#include "mapping/restore.h"
#include "snapshot.h"
#include "storage/store.h"

/* ---- the last page --------------------------------------------------------------------------- */

/* Bytes behind the image's end are zero in every view; a direct writer may have stored there.
 * The chunk is not handed out yet. */
static int clear_tail(struct memsnap_snapshot *s)
{
    size_t ps = ms_os->page_size(), last = s->size / ps, used = s->size % ps;
    char *tail;
    struct run r;
    if (!s->writer.tail_dirty)
        return 0;
    tail = ms_os->alloc(ps);
    if (!tail)
        return -ENOMEM;
    ms_image_run(s->image, last, last + 1, &r);
    int e = ms_chunk_read(r.chunk, r.chunk_page * ps + used, tail, ps - used);
    if (e == 0 && !ms_bytes_equal(tail, NULL, ps - used)) {
        struct os_iov v = {tail, ps - used};
        memset(tail, 0, ps - used);
        e = ms_os->object_write(&r.chunk->store->object, &v, 1,
                                r.chunk->offset + r.chunk_page * ps + used);
    }
    ms_os->free(tail);
    if (e == 0)
        s->writer.tail_dirty = false;
    return e;
}

/* ---- bringing the image up to date ----------------------------------------------------------- */

static int capture_shadow(struct memsnap_snapshot *s, bool atomic)
{
    struct writer *w = &s->writer;
    struct os_write_block block;
    struct image *i;
    bool blocked = atomic && w->leased;
    int e = 0;
    if (blocked) {
        ms_mapping_untrack(&w->mapping);
        e = ms_os->write_block_close(w->mapping.address, w->mapping.length, &block);
    } else if (w->leased) {
        ms_mapping_track(&w->mapping);
    }
    if (e < 0)
        return e;
    e = ms_capture(&w->mapping, s->pool, blocked ? &block : NULL, &i);
    if (blocked)
        ms_os->write_block_open(&block);
    if (e < 0) {
        /* what was reported is lost: everything is looked at the next time */
        ms_mapping_untrack(&w->mapping);
        return e;
    }
    ms_mapping_set_base(&w->mapping, i);
    ms_snapshot_set_image(s, i);
    return 0;
}

static int bring_shadow_up_to_date(struct memsnap_snapshot *s, bool atomic)
{
    struct writer *w = &s->writer;
    int e = w->mapping.torn && !w->leased ? ms_restore(&w->mapping) : 0;
    if (e == 0)
        e = capture_shadow(s, atomic);
    if (e == 0 && !w->leased) {
        ms_mapping_close(&w->mapping);
        w->state = WRITER_NONE;
    }
    return e;
}

static int bring_file_up_to_date(struct memsnap_snapshot *s, bool atomic)
{
    struct image *i;
    if (atomic && s->writer.leased)
        return -ENOTSUP;
    int e = ms_capture_file(&s->writer.chunk->store->object, s->size, s->image, s->pool, &i);
    if (e == 0)
        ms_snapshot_set_image(s, i);
    return e;
}

/* The lease belongs to the process that this one was forked from, and so does what was stored
 * through it. */
static bool owned_by_parent(const struct writer *w)
{
    return (w->leased || w->mapping.no_fork) && w->process != ms_process_generation();
}

int ms_writer_bring_up_to_date(struct memsnap_snapshot *s, bool atomic)
{
    struct writer *w = &s->writer;
    if (w->state == WRITER_FILE)
        return bring_file_up_to_date(s, atomic);
    if (owned_by_parent(w))
        return -EBADF;
    if (w->state == WRITER_DIRECT) {
        int e = ms_mapping_freeze(&w->mapping, w->chunk);
        if (e < 0)
            return e;
        w->state = WRITER_SHADOW;
        w->chunk = NULL;
        ms_mapping_track(&w->mapping);
        return clear_tail(s);
    }
    int e = clear_tail(s);
    return e < 0 || w->state == WRITER_NONE ? e : bring_shadow_up_to_date(s, atomic);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* A chunk that the whole image could live in. */
static bool is_own_chunk(const struct chunk *c, size_t pages)
{
    return ms_chunk_may_change(c) && c->pages == pages;
}

static bool can_be_direct(struct memsnap_snapshot *s, struct chunk **c)
{
    return ms_image_is_exclusive(s->image, c) && is_own_chunk(*c, ms_image_pages(s->image));
}

/* Writes one run of the image (stored or zero) to its place in the chunk. */
static int write_run(struct chunk *to, const struct run *r, struct reader *reader)
{
    size_t ps = ms_os->page_size();
    int e = 0;
    if (!r->chunk)
        return ms_os->object_punch(&to->store->object, to->offset + r->first * ps, r->pages * ps);
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

/* Writes into the chunk every page in which the image is not the chunk's own page. Only pages
 * that the image does not refer to are written, so failing half way does no harm. fresh: the
 * chunk is all zero. */
static int consolidate_into(struct memsnap_snapshot *s, struct chunk *to, bool fresh)
{
    struct image *whole;
    struct reader reader;
    size_t pages = ms_image_pages(s->image), at = 0;
    struct run r = {0};
    int e = ms_image_of_chunk(to, pages, &whole);
    if (e < 0)
        return e;
    ms_reader_begin(&reader, s->image);
    while (e == 0 && at < pages &&
           ms_image_differs(whole, s->image, at, pages, &r.first, &r.pages)) {
        ms_image_run(s->image, r.first, r.first + r.pages, &r);
        if (r.chunk || !fresh)
            e = write_run(to, &r, &reader);
        at = r.first + r.pages;
    }
    ms_reader_end(&reader);
    if (e < 0)
        ms_image_unref(whole);
    else
        ms_snapshot_set_image(s, whole);
    return e;
}

/* The chunk that the writer was frozen over, if the image still refers to any of it. */
static struct chunk *find_own_chunk(struct memsnap_snapshot *s)
{
    size_t pages = ms_image_pages(s->image);
    struct run r;
    for (size_t at = 0; at < pages; at = r.first + r.pages) {
        ms_image_run(s->image, at, pages, &r);
        if (r.chunk && is_own_chunk(r.chunk, pages) && r.chunk_page == r.first)
            return ms_chunk_ref(r.chunk);
    }
    return NULL;
}

/* Nobody else shares any of the image's pages. */
static bool is_unshared(struct memsnap_snapshot *s)
{
    size_t pages = ms_image_pages(s->image);
    struct image_usage u;
    struct run r;
    if (ms_image_usage(s->image, 1, &u) < 0 || u.exclusive_pages != u.stored_pages)
        return false;
    for (size_t at = 0; at < pages; at = r.first + r.pages) {
        ms_image_run(s->image, at, pages, &r);
        if (r.chunk && r.chunk->store->kind != STORE_HEAP && !ms_chunk_may_change(r.chunk))
            return false;
    }
    return true;
}

/* Zero images and tiny ones in heap memory cost next to nothing to move, shared or not. */
static bool is_cheap_to_move(struct memsnap_snapshot *s)
{
    size_t pages = ms_image_pages(s->image);
    struct run r;
    ms_image_run(s->image, 0, pages, &r);
    return r.pages == pages && (!r.chunk || r.chunk->store->kind == STORE_HEAP);
}

static void move_to_new_chunk(struct memsnap_snapshot *s)
{
    struct reclaim reclaim = {0};
    struct chunk *c;
    if (ms_pool_allocate(s->pool, ms_image_pages(s->image), false, &c) < 0)
        return;
    if (c->store->kind == STORE_ANON && ms_chunk_prepare_shared(c) == 0)
        consolidate_into(s, c, true);
    ms_chunk_unref(c, &reclaim);
    ms_reclaim_flush(&reclaim);
}

/* Tries to make the image one chunk of its own. Not having it is no error: the writer is a
 * shadow then. */
static void make_exclusive(struct memsnap_snapshot *s)
{
    struct reclaim reclaim = {0};
    if (s->flags & MEMSNAP_NO_FD || ms_image_pages(s->image) == 0 ||
        !(is_cheap_to_move(s) || is_unshared(s)))
        return;
    struct chunk *c = find_own_chunk(s);
    int e = c ? consolidate_into(s, c, false) : -ENOTSUP;
    ms_chunk_unref(c, &reclaim);
    ms_reclaim_flush(&reclaim);
    if (e == -ENOTSUP) /* no such chunk, or no way to make holes in it */
        move_to_new_chunk(s);
}

static int open_shadow(struct memsnap_snapshot *s, unsigned flags, void *at)
{
    struct writer *w = &s->writer;
    int e = ms_mapping_open(&w->mapping, s->image, s->size, flags, at);
    if (e < 0)
        return e;
    w->mapping.no_fork = true;
    ms_os->advise(w->mapping.address, w->mapping.length, OS_NOFORK);
    w->state = WRITER_SHADOW;
    return 0;
}

/* The rest of a file's last page is nobody's, but stores of an earlier view are still there while
 * the page is in memory. Only what is not zero is written to: that page has its place. */
static void clear_file_tail(struct memsnap_snapshot *s)
{
    struct mapping *m = &s->writer.mapping;
    char *tail = m->address + s->size;
    size_t len = m->length - s->size;
    uint64_t now;
    if (s->size % ms_os->page_size() == 0 ||
        ms_os->file_size(&s->writer.chunk->store->object, &now) < 0 || now < s->size)
        return;
    if (!ms_bytes_equal(tail, NULL, len))
        memset(tail, 0, len);
}

static int open_direct(struct memsnap_snapshot *s, struct chunk *c, unsigned flags, void *at)
{
    struct writer *w = &s->writer;
    int e = ms_mapping_open_shared(&w->mapping, c, s->image, s->size, flags, at);
    if (e < 0)
        return e;
    if (w->state == WRITER_FILE) {
        clear_file_tail(s);
    } else {
        w->state = WRITER_DIRECT;
        w->chunk = c;
        w->tail_dirty = s->size % ms_os->page_size() != 0;
    }
    return 0;
}

static int open_anonymous(struct memsnap_snapshot *s, unsigned flags, void *at)
{
    struct chunk *c;
    int e = ms_writer_bring_up_to_date(s, false);
    if (e < 0)
        return e;
    if (!can_be_direct(s, &c))
        make_exclusive(s);
    if (can_be_direct(s, &c)) {
        e = open_direct(s, c, flags, at);
        if (e == 0 || e == -EEXIST || e == -EBADF || e == -EMLINK)
            return e;
    }
    return open_shadow(s, flags, at);
}

int ms_writer_open(struct memsnap_snapshot *s, unsigned flags, void *at)
{
    struct writer *w = &s->writer;
    int e;
    if (owned_by_parent(w) && w->state != WRITER_FILE)
        return -EBADF;
    if (w->leased)
        return -EBUSY;
    if (w->state == WRITER_FILE && flags & MEMSNAP_VIEW_TRACK)
        return -ENOTSUP;
    ms_recycler_set_image(s->recycler, NULL); /* parked views would keep the image shared */
    if (w->state == WRITER_FILE)
        e = open_direct(s, w->chunk, flags, at);
    else
        e = open_anonymous(s, flags, at);
    ms_recycler_set_image(s->recycler, s->image);
    if (e < 0)
        return e;
    w->leased = true;
    w->process = ms_process_generation();
    return 0;
}

/* ---- closing --------------------------------------------------------------------------------- */

void ms_writer_release(struct memsnap_snapshot *s)
{
    struct writer *w = &s->writer;
    if (owned_by_parent(w)) {
        ms_mapping_forget(&w->mapping); /* still leased, as far as this process can tell */
        return;
    }
    w->leased = false;
    if (w->state == WRITER_SHADOW) {
        /* where that fails, capturing makes readable what is not */
        ms_mapping_unprotect(&w->mapping);
        int e = ms_os->advise(w->mapping.address, w->mapping.length, OS_FORK);
        /* then a child knows at least that it has not got it */
        w->mapping.no_fork = e < 0 && e != -ENOTSUP;
        return;
    }
    ms_mapping_close(&w->mapping);
    if (w->state == WRITER_DIRECT) {
        w->state = WRITER_NONE;
        w->chunk = NULL;
    }
}

void ms_writer_destroy(struct memsnap_snapshot *s)
{
    struct writer *w = &s->writer;
    struct reclaim reclaim = {0};
    if (owned_by_parent(w))
        ms_mapping_forget(&w->mapping);
    else
        ms_mapping_close(&w->mapping);
    if (w->state == WRITER_FILE) {
        ms_live_file_remove(&w->live);
        ms_chunk_unref(w->chunk, &reclaim);
    }
    ms_reclaim_flush(&reclaim);
}

void ms_writer_set_file(struct memsnap_snapshot *s, struct chunk *file)
{
    s->writer.state = WRITER_FILE;
    s->writer.chunk = file;
    ms_live_file_add(&s->writer.live, &file->store->object);
}

/* ---- rolling back ---------------------------------------------------------------------------- */

int ms_writer_restore_to(struct memsnap_snapshot *s, struct image *target)
{
    struct writer *w = &s->writer;
    if (w->state == WRITER_FILE)
        return ms_overwrite(&w->mapping, target);
    if (w->state == WRITER_DIRECT) {
        int e = ms_writer_bring_up_to_date(s, false);
        if (e < 0)
            return e;
    }
    int e = ms_restore_to(&w->mapping, target);
    if (e == 0)
        ms_snapshot_set_image(s, ms_image_ref(target));
    else if (w->mapping.torn)
        ms_mapping_set_base(&w->mapping, target); /* what closing makes of it */
    return e;
}
