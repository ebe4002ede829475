/* SPDX-License-Identifier: MIT */
/* The mutable mapping of a snapshot: direct, shadow, freeze, capture. */
#include "config.h"

#include "mapping/writer.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/annotate.h"
#include "base/arith.h"
#include "base/bytes.h"
#include "mapping/capture.h"
#include "mapping/consolidate.h"
#include "mapping/dirty.h"
#include "memsnap.h"
#include "mapping/restore.h"
#include "storage/fill.h"
#include "storage/read.h"
#include "storage/store.h"

/* ---- what a snapshot holds ------------------------------------------------------------------- */

void ms_current_init(struct current *c, struct image *i, size_t size, unsigned flags,
                     struct pool *pool)
{
    ms_lock_init(&c->look);
    ms_current_is_unshared(c);
    atomic_init(&c->size, size);
    c->flags = flags;
    c->pool = ms_pool_ref(pool);
    c->image = ms_image_ref(i);
}

void ms_current_leave_image(struct current *c, struct image *i)
{
    assert(c->left.n < sizeof c->left.images / sizeof c->left.images[0]);
    c->left.images[c->left.n++] = i;
}

static void leave_mapping(struct current *c) MS_REQUIRES(ms_snapshot_locks)
{
    assert(!c->left.mapping.address);
    c->left.mapping = c->writer.mapping;
    c->writer.mapping = (struct mapping){0};
}

void ms_leftovers_free(struct leftovers *l)
{
    ms_mapping_close(&l->mapping);
    while (l->n)
        ms_image_unref(l->images[--l->n]);
}

/* Stores behind the end of the old image do not matter any more. */
void ms_current_set_image(struct current *c, struct image *i)
{
    ms_current_leave_image(c, c->image);
    c->image = i;
    c->writer.tail_dirty = false;
}

/* What is read of `current` while copying does not change: the other lock is held. */
static void begin_copying(struct current *c) MS_INSIDE MS_RELEASE(ms_snapshot_locks)
    MS_ACQUIRE_SHARED(ms_snapshot_locks) MS_LOCKS
{
    ms_unlock(&c->look);
}

static void end_copying(struct current *c) MS_INSIDE MS_RELEASE_SHARED(ms_snapshot_locks)
    MS_ACQUIRE(ms_snapshot_locks) MS_LOCKS
{
    ms_lock(&c->look);
}

/* ---- the last page --------------------------------------------------------------------------- */

/* Bytes behind the image's end are zero in every view; a direct writer may have stored there.
 * The chunk is not handed out yet. */
int ms_writer_clear_tail(struct current *c)
{
    size_t ps = ms_os->page_size(), last = c->size / ps, used = c->size % ps;
    char *tail;
    struct run r;
    if (!c->writer.tail_dirty)
        return 0;
    tail = ms_os->alloc(ps);
    if (!tail)
        return -ENOMEM;
    ms_image_run(c->image, last, last + 1, &r);
    int e = ms_chunk_read(r.chunk, r.chunk_page * ps + used, tail, ps - used);
    if (e == 0 && !ms_bytes_equal(tail, NULL, ps - used)) {
        struct os_iov v = {tail, ps - used};
        memset(tail, 0, ps - used);
        e = ms_os->object_write(&r.chunk->store->object, &v, 1,
                                r.chunk->offset + r.chunk_page * ps + used);
    }
    ms_os->free(tail);
    if (e == 0)
        c->writer.tail_dirty = false;
    return e;
}

/* ---- bringing the image up to date ----------------------------------------------------------- */

/* block: closed over the mapping, or NULL. What is mapped shared needs no capturing. */
static int capture_mapping(struct current *c, const struct os_write_block *block)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct writer *w = &c->writer;
    size_t capture = ++c->captures_begun;
    struct image *i;
    begin_copying(c);
    int e = ms_capture(&w->mapping, w->thawed, c->pool, block, &i);
    end_copying(c);
    if (e < 0) {
        /* what was reported is lost: everything is looked at the next time */
        ms_mapping_untrack(&w->mapping);
        return e;
    }
    ms_mapping_set_base(&w->mapping, i);
    ms_current_set_image(c, i);
    c->captured_by = capture;
    return 0;
}

int ms_writer_freeze_thawed(struct current *c)
{
    struct writer *w = &c->writer;
    int e = ms_mapping_freeze(&w->mapping, w->chunk, w->thawed);
    if (e < 0)
        return e;
    w->state = WRITER_SHADOW;
    w->chunk = NULL;
    w->thawed = 0;
    return ms_mapping_renew_protections(&w->mapping);
}

static int capture_shadow(struct current *c, bool atomic) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct writer *w = &c->writer;
    struct os_write_block block;
    bool blocked = atomic && w->leased;
    int e = 0;
    if (blocked) {
        ms_mapping_untrack(&w->mapping);
        e = ms_os->write_block_close(w->mapping.address, w->mapping.length, &block);
    } else if (w->leased && w->state == WRITER_SHADOW) {
        ms_mapping_track(&w->mapping);
    }
    if (e < 0)
        return e;
    e = capture_mapping(c, blocked ? &block : NULL);
    if (e == 0 && w->leased && w->state == WRITER_THAWING)
        e = ms_writer_freeze_thawed(c);
    if (blocked)
        ms_os->write_block_open(&block);
    return e;
}

static int bring_shadow_up_to_date(struct current *c, bool atomic)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct writer *w = &c->writer;
    int e = w->mapping.torn && !w->leased ? ms_restore(&w->mapping) : 0;
    if (e == 0)
        e = capture_shadow(c, atomic);
    if (e == 0 && !w->leased) {
        leave_mapping(c);
        w->state = WRITER_NONE;
        w->chunk = NULL;
        w->thawed = 0;
    }
    return e;
}

static int bring_file_up_to_date(struct current *c, bool atomic)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    size_t capture;
    struct image *i;
    if (atomic && c->writer.leased)
        return -ENOTSUP;
    capture = ++c->captures_begun;
    begin_copying(c);
    int e = ms_capture_file(&c->writer.chunk->store->object, c->size, c->image, c->pool, &i);
    end_copying(c);
    if (e < 0)
        return e;
    ms_current_set_image(c, i);
    c->captured_by = capture;
    return 0;
}

/* The lease belongs to the process that this one was forked from, and so does what was stored
 * through it. */
bool ms_writer_owned_by_parent(const struct writer *w)
{
    return (w->leased || w->mapping.no_fork) && w->process != ms_process_generation();
}

static int freeze(struct current *c) MS_REQUIRES(ms_snapshot_locks)
{
    struct writer *w = &c->writer;
    int e = ms_mapping_freeze(&w->mapping, w->chunk, w->mapping.pages);
    if (e < 0)
        return e;
    w->state = WRITER_SHADOW;
    w->chunk = NULL;
    c->captured_by = ++c->captures_begun;
    ms_mapping_track(&w->mapping);
    e = ms_mapping_renew_protections(&w->mapping);
    return e < 0 ? e : ms_writer_clear_tail(c);
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool is_readable(const struct mapping *m, size_t first, size_t end)
{
    for (size_t k = 0; k < m->protections.n; k++) {
        const struct protection *p = &m->protections.v[k];
        if (p->first < end && first < p->first + p->pages && !(p->access & MEMSNAP_ACCESS_READ))
            return false;
    }
    return true;
}

/* Over the image's bytes, those of pages that may be private. */
static void read_private(const struct mapping *m, size_t offset, char *to, size_t len)
{
    size_t ps = ms_os->page_size();
    struct candidate_scan scan;
    struct candidates run;
    ms_scan_begin(&scan, m, offset / ps, NULL);
    scan.end = (uintptr_t)m->address + (size_t)ms_round_up(offset + len, ps);
    while (ms_scan_next(&scan, &run)) {
        size_t from = ms_max(offset, run.first * ps),
               until = ms_min(offset + len, (run.first + run.pages) * ps);
        if (run.guarded)
            continue;
        MS_RACY_READ_BEGIN();
        memcpy(to + (from - offset), m->address + from, until - from);
        MS_RACY_READ_END();
    }
}

int ms_writer_read(struct current *c, size_t offset, char *to, size_t len)
{
    size_t ps = ms_os->page_size();
    const struct writer *w = &c->writer;
    const struct mapping *m = &w->mapping;
    if (w->state == WRITER_NONE || w->state == WRITER_FILE || ms_writer_owned_by_parent(w))
        return -EAGAIN;
    if (w->state == WRITER_DIRECT)
        return ms_chunk_read(w->chunk, offset, to, len);
    if (m->torn || !is_readable(m, offset / ps, (offset + len - 1) / ps + 1))
        return -EAGAIN;
    int e = ms_image_read(c->image, offset, to, len);
    if (e == 0)
        read_private(m, offset, to, len);
    return e;
}

bool ms_writer_is_up_to_date(const struct current *c)
{
    return c->writer.state == WRITER_NONE && !c->writer.tail_dirty;
}

/* A capture that began after the caller had arrived has all that the caller may ask for. */
int ms_writer_bring_up_to_date(struct current *c, bool atomic, size_t arrived)
{
    struct writer *w = &c->writer;
    bool recent = !atomic && c->captured_by > arrived && w->state != WRITER_THAWING;
    if (w->state == WRITER_FILE)
        return recent ? 0 : bring_file_up_to_date(c, atomic);
    if (ms_writer_owned_by_parent(w))
        return -EBADF;
    if (w->state == WRITER_DIRECT)
        return freeze(c);
    int e = ms_writer_clear_tail(c);
    return e < 0 || w->state == WRITER_NONE || recent ? e : bring_shadow_up_to_date(c, atomic);
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool can_be_direct(struct current *c, struct chunk **chunk) MS_REQUIRES(ms_snapshot_locks)
{
    return ms_image_is_exclusive(c->image, chunk) &&
           ms_is_own_chunk(*chunk, ms_image_pages(c->image));
}

static void consolidate_into(struct current *c, struct chunk *to, bool fresh)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    size_t pages = ms_image_pages(c->image);
    struct image *whole;
    begin_copying(c);
    int e = ms_consolidate(c->image, to, 0, pages, fresh);
    end_copying(c);
    if (e == 0 && ms_image_of_chunk(to, pages, &whole) == 0)
        ms_current_set_image(c, whole);
}

/* Nobody else shares any of the image's pages. */
static bool is_unshared(struct current *c) MS_REQUIRES(ms_snapshot_locks)
{
    size_t pages = ms_image_pages(c->image);
    struct image_usage u;
    struct run r;
    if (ms_image_usage(c->image, 1, &u) < 0 || u.exclusive_pages != u.stored_pages)
        return false;
    for (size_t at = 0; at < pages; at = r.first + r.pages) {
        ms_image_run(c->image, at, pages, &r);
        if (r.chunk && r.chunk->store->kind != STORE_HEAP && !ms_chunk_may_change(r.chunk))
            return false;
    }
    return true;
}

/* Zero images and tiny ones in heap memory cost next to nothing to move, shared or not. */
static bool is_cheap_to_move(struct current *c) MS_REQUIRES(ms_snapshot_locks)
{
    size_t pages = ms_image_pages(c->image);
    struct run r;
    ms_image_run(c->image, 0, pages, &r);
    return r.pages == pages && (!r.chunk || r.chunk->store->kind == STORE_HEAP);
}

/* Tries to make the image one chunk of its own. Not having it is no error: the writer is a
 * shadow then. */
void ms_writer_make_exclusive(struct current *c)
{
    struct chunk *chunk;
    if (c->writer.state != WRITER_NONE || c->flags & MEMSNAP_NO_FD ||
        ms_image_pages(c->image) == 0 || can_be_direct(c, &chunk) ||
        !(is_cheap_to_move(c) || is_unshared(c)))
        return;
    struct reclaim reclaim = {0};
    bool fresh = false;
    chunk = ms_find_own_chunk(c->image);
    if (!chunk && ms_new_own_chunk(c->pool, ms_image_pages(c->image), &chunk, &fresh) < 0)
        return;
    consolidate_into(c, chunk, fresh);
    ms_chunk_unref(chunk, &reclaim);
    ms_reclaim_flush(&reclaim);
}

static int open_shadow(struct current *c, unsigned flags, void *at)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct writer *w = &c->writer;
    int e = ms_mapping_open(&w->mapping, c->image, c->size, flags, at);
    if (e < 0)
        return e;
    w->mapping.no_fork = true;
    ms_os->advise(w->mapping.address, w->mapping.extent, OS_NOFORK);
    w->state = WRITER_SHADOW;
    return 0;
}

/* The rest of a file's last page is nobody's, but stores of an earlier view are still there while
 * the page is in memory. Only what is not zero is written to: that page has its place. */
static void clear_file_tail(struct current *c) MS_REQUIRES(ms_snapshot_locks)
{
    struct mapping *m = &c->writer.mapping;
    char *tail = m->address + c->size;
    size_t len = m->length - c->size;
    uint64_t now;
    if (c->size % ms_os->page_size() == 0 ||
        ms_os->file_size(&c->writer.chunk->store->object, &now) < 0 || now < c->size)
        return;
    if (!ms_bytes_equal(tail, NULL, len))
        memset(tail, 0, len);
}

static int open_direct(struct current *c, struct chunk *chunk, unsigned flags, void *at)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct writer *w = &c->writer;
    int e = ms_mapping_open_shared(&w->mapping, chunk, c->image, c->size, flags, at);
    if (e < 0)
        return e;
    if (w->state == WRITER_FILE) {
        clear_file_tail(c);
    } else {
        w->state = WRITER_DIRECT;
        w->chunk = chunk;
        w->tail_dirty = c->size % ms_os->page_size() != 0;
    }
    return 0;
}

static int open_anonymous(struct current *c, unsigned flags, void *at)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct chunk *chunk;
    if (!(flags & MEMSNAP_VIEW_PINNABLE) && can_be_direct(c, &chunk)) {
        int e = open_direct(c, chunk, flags, at);
        if (e == 0 || e == -EEXIST || e == -EBADF || e == -EMLINK)
            return e;
    }
    return open_shadow(c, flags, at);
}

int ms_writer_may_open(struct current *c, unsigned flags)
{
    struct writer *w = &c->writer;
    if (ms_writer_owned_by_parent(w) && w->state != WRITER_FILE)
        return -EBADF;
    if (w->leased)
        return -EBUSY;
    if (w->state == WRITER_FILE)
        return flags & MEMSNAP_VIEW_TRACK ? -ENOTSUP : 0;
    return ms_writer_bring_up_to_date(c, false, SIZE_MAX);
}

int ms_writer_open(struct current *c, unsigned flags, void *at)
{
    struct writer *w = &c->writer;
    int e = ms_writer_may_open(c, flags);
    if (e < 0)
        return e;
    e = w->state == WRITER_FILE ? open_direct(c, w->chunk, flags, at)
                                : open_anonymous(c, flags, at);
    if (e < 0)
        return e;
    w->leased = true;
    w->process = ms_process_generation();
    return 0;
}

/* ---- closing --------------------------------------------------------------------------------- */

void ms_writer_release(struct current *c)
{
    struct writer *w = &c->writer;
    if (ms_writer_owned_by_parent(w)) {
        ms_mapping_forget(&w->mapping); /* still leased, as far as this process can tell */
        return;
    }
    w->leased = false;
    if (w->state == WRITER_SHADOW || w->state == WRITER_THAWING) {
        /* where that fails, capturing makes readable what is not */
        ms_mapping_unprotect(&w->mapping);
        int e = ms_os->advise(w->mapping.address, w->mapping.extent, OS_FORK);
        /* then a child knows at least that it has not got it */
        w->mapping.no_fork = e < 0 && e != -ENOTSUP;
        /* where that fails the address stays taken until somebody needs the image */
        if (w->mapping.fixed)
            ms_writer_bring_up_to_date(c, false, SIZE_MAX);
        return;
    }
    leave_mapping(c);
    if (w->state == WRITER_DIRECT) {
        w->state = WRITER_NONE;
        w->chunk = NULL;
    }
}

void ms_current_destroy(struct current *c)
{
    ms_current_is_unshared(c);
    struct writer *w = &c->writer;
    struct reclaim reclaim = {0};
    if (ms_writer_owned_by_parent(w))
        ms_mapping_forget(&w->mapping);
    else
        ms_mapping_close(&w->mapping);
    if (w->state == WRITER_FILE) {
        ms_live_file_remove(&w->live);
        ms_chunk_unref(w->chunk, &reclaim);
    }
    ms_reclaim_flush(&reclaim);
    ms_image_unref(c->image);
    ms_pool_trim(c->pool);
    ms_pool_unref(c->pool);
    ms_lock_destroy(&c->look);
}

void ms_writer_set_file(struct current *c, struct chunk *file)
{
    c->writer.state = WRITER_FILE;
    c->writer.chunk = file;
    ms_live_file_add(&c->writer.live, &file->store->object);
}

/* ---- rolling back ---------------------------------------------------------------------------- */

int ms_writer_restore_to(struct current *c, struct image *target)
{
    struct writer *w = &c->writer;
    if (w->state == WRITER_FILE)
        return ms_overwrite(&w->mapping, target);
    int e = w->state == WRITER_DIRECT    ? ms_writer_bring_up_to_date(c, false, SIZE_MAX)
            : w->state == WRITER_THAWING ? ms_writer_freeze_thawed(c)
                                         : 0;
    if (e < 0)
        return e;
    c->rollbacks++;
    ms_current_leave_image(c, ms_image_ref(w->mapping.mapped));
    e = ms_restore_to(&w->mapping, target);
    if (e == 0)
        ms_current_set_image(c, ms_image_ref(target));
    else if (w->mapping.torn)
        ms_mapping_set_base(&w->mapping, target); /* what closing makes of it */
    return e;
}
