/* SPDX-License-Identifier: MIT */
/* Views: the public functions on them. */
#include "config.h"

#include "view.h"

#include <errno.h>
#include <limits.h>

#include "base/annotate.h"
#include "base/arith.h"
#include "mapping/capture.h"
#include "mapping/dirty.h"
#include "mapping/restore.h"
#include "mapping/split_huge.h"
#include "snapshot.h"
#include "storage/store.h"

#define VIEW_FLAGS (MEMSNAP_VIEW_COPY | MEMSNAP_VIEW_PREFAULT | MEMSNAP_VIEW_NODUMP)

/* One or the other: what a device stores is not noticed. */
#define MUTABLE_FLAGS (MEMSNAP_VIEW_TRACK | MEMSNAP_VIEW_PINNABLE)

/* A parked view keeps no more private pages than this resident: 1 MiB of small pages. */
#define MAX_PARKED_PAGES 256

/* ---- opening --------------------------------------------------------------------------------- */

static struct memsnap_view *view_alloc(void)
{
    struct memsnap_view *v = ms_os->alloc(sizeof *v);
    if (!v)
        return NULL;
    ms_ref_init(&v->refs);
    ms_lock_init(&v->lock);
    return v;
}

static void view_free(struct memsnap_view *v)
{
    ms_lock_destroy(&v->lock);
    ms_os->free(v);
}

static int open_new(struct memsnap_snapshot *s, struct image *i, unsigned flags, void *at,
                    struct parked **out) MS_INSIDE
{
    struct parked *p = ms_os->alloc(sizeof *p);
    if (!p)
        return -ENOMEM;
    int e = ms_mapping_open(&p->mapping, i, s->current.size, flags, at);
    if (e < 0)
        ms_os->free(p);
    else
        *out = p;
    return e;
}

static int wake(struct parked *p)
{
    p->next = NULL;
    MS_UNPOISON(p->mapping.address, p->mapping.length);
    return p->mapping.flags & MEMSNAP_VIEW_PREFAULT ? ms_mapping_prefault(&p->mapping) : 0;
}

static int open_mapping(struct memsnap_snapshot *s, unsigned flags, void *at,
                        struct parked **out) MS_INSIDE
{
    struct image *i;
    int e = ms_snapshot_image(s, false, &i);
    if (e < 0)
        return e;
    struct parked *p = at ? NULL : ms_recycler_get(s->recycler, i, flags);
    if (p) {
        e = wake(p);
        if (e < 0)
            ms_parked_destroy(p, s->current.pool);
        else
            *out = p;
    } else {
        e = open_new(s, i, flags, at, out);
    }
    ms_image_unref(i);
    return e;
}

static int view_open(struct memsnap_snapshot *s, unsigned flags, void *at,
                     memsnap_view **out) MS_INSIDE
{
    struct memsnap_view *v = view_alloc();
    if (!v)
        return -ENOMEM;
    ms_view_is_unshared(v);
    int e = open_mapping(s, flags, at, &v->own);
    if (e < 0) {
        view_free(v);
        return e;
    }
    v->data = v->own->mapping.address;
    v->size = s->current.size;
    v->recycler = ms_recycler_ref(s->recycler);
    *out = v;
    return 0;
}

static int lease_open(struct memsnap_snapshot *s, unsigned flags, void *at,
                      memsnap_view **out) MS_INSIDE
{
    struct memsnap_view *v = view_alloc();
    if (!v)
        return -ENOMEM;
    int e = ms_snapshot_lease(s, flags, at, &v->data, &v->size);
    if (e < 0) {
        view_free(v);
        return e;
    }
    v->process = ms_process_generation();
    ms_ref_get(&s->refs);
    v->lease = s;
    *out = v;
    return 0;
}

static int open_kind(struct memsnap_snapshot *s, unsigned flags, bool mutable, void *at,
                     memsnap_view **out) MS_INSIDE
{
    return mutable ? lease_open(s, flags, at, out) : view_open(s, flags, at, out);
}

static int open_either(memsnap_snapshot *s, unsigned flags, bool mutable, void *at,
                       memsnap_view **out)
{
    if (!s || !out || flags & ~(mutable ? VIEW_FLAGS | MUTABLE_FLAGS : VIEW_FLAGS) ||
        (flags & MUTABLE_FLAGS) == MUTABLE_FLAGS)
        return -EINVAL;
    ms_enter();
    int e = 0;
    if (flags & MEMSNAP_VIEW_TRACK) /* takes a descriptor */
        e = s->current.flags & MEMSNAP_NO_FD ? -ENOTSUP : ms_os->track(NULL, 0);
    if (e == 0)
        e = open_kind(s, flags, mutable, at, out);
    if (ms_make_room(e))
        e = open_kind(s, flags, mutable, at, out);
    ms_leave();
    return e;
}

int memsnap_snapshot_view(memsnap_snapshot *s, unsigned flags, memsnap_view **out)
{
    return open_either(s, flags, false, NULL, out);
}

int memsnap_snapshot_view_mut(memsnap_snapshot *s, unsigned flags, memsnap_view **out)
{
    return open_either(s, flags, true, NULL, out);
}

int memsnap_snapshot_view_at(memsnap_snapshot *s, void *address, unsigned flags, memsnap_view **out)
{
    if (!address || !ms_aligned((uintptr_t)address, ms_os->page_size()))
        return -EINVAL;
    return open_either(s, flags & ~MEMSNAP_VIEW_MUTABLE, flags & MEMSNAP_VIEW_MUTABLE, address,
                       out);
}

/* ---- closing --------------------------------------------------------------------------------- */

memsnap_view *memsnap_view_ref(memsnap_view *v)
{
    if (v)
        ms_ref_get(&v->refs);
    return v;
}

static void lease_close(struct memsnap_view *v) MS_INSIDE
{
    struct memsnap_snapshot *s = v->lease;
    ms_snapshot_lock(s);
    ms_writer_release(&s->current);
    ms_snapshot_unlock(s);
    ms_pool_trim(s->current.pool); /* what the writer was frozen over may be free now */
    view_free(v);
    ms_snapshot_put(s);
}

/* Restores the mapping for its next holder and bounds what it keeps resident. False: that cannot
 * be said to be so. */
static bool make_parkable(struct recycler *l, struct mapping *m) MS_INSIDE
{
    if (!ms_recycler_accepts(l, m->base) || !ms_mapping_is_intact(m) || ms_restore(m) < 0)
        return false;
    if (m->resident_private > MAX_PARKED_PAGES) {
        if (m->mapped != m->base || ms_mapping_drop(m, 0, m->pages) < 0)
            return false;
        m->resident_private = 0;
    }
    MS_POISON(m->address, m->length);
    return true;
}

static void view_close(struct memsnap_view *v) MS_INSIDE
{
    struct recycler *l = v->recycler;
    ms_view_is_unshared(v);
    if (!make_parkable(l, &v->own->mapping) || !ms_recycler_put(l, v->own))
        ms_parked_destroy(v->own, l->pool);
    view_free(v);
    ms_recycler_unref(l);
}

memsnap_view *memsnap_view_unref(memsnap_view *v)
{
    int keep = errno;
    if (v && ms_ref_put(&v->refs)) {
        ms_enter();
        if (v->lease)
            lease_close(v);
        else
            view_close(v);
        ms_leave();
    }
    errno = keep;
    return NULL;
}

/* ---- looking --------------------------------------------------------------------------------- */

void *memsnap_view_data(memsnap_view *v)
{
    return v ? v->data : NULL;
}

size_t memsnap_view_size(memsnap_view *v)
{
    return v ? v->size : 0;
}

int memsnap_view_is_mutable(memsnap_view *v)
{
    return v && v->lease;
}

/* ---- the mapping, locked --------------------------------------------------------------------- */

int ms_view_lock_mapping(struct memsnap_view *v, struct mapping **m) MS_LOCKS
{
    if (!v->lease) {
        ms_view_lock(v);
        *m = &v->own->mapping;
        return 0;
    }
    if (v->process != ms_process_generation())
        return -EBADF;
    ms_snapshot_lock(v->lease);
    *m = &v->lease->current.writer.mapping;
    return 0;
}

void ms_view_unlock_mapping(struct memsnap_view *v) MS_LOCKS
{
    if (v->lease)
        ms_snapshot_unlock(v->lease);
    else
        ms_view_unlock(v);
}

/* ---- taking ---------------------------------------------------------------------------------- */

static int take_ordinary(struct memsnap_view *v, bool atomic, struct image **out) MS_INSIDE
{
    struct os_write_block block;
    int e = 0;
    ms_view_lock(v);
    struct mapping *m = &v->own->mapping;
    if (atomic && m->pages)
        e = ms_os->write_block_close(m->address, m->length, &block);
    if (e == 0) {
        e = ms_capture(m, 0, v->recycler->pool, atomic && m->pages ? &block : NULL, out);
        if (atomic && m->pages)
            ms_os->write_block_open(&block);
    }
    if (e == 0) {
        /* What is taken next is compared with this: two takes share what did not change in
         * between. */
        ms_image_remember(&m->last_taken, *out);
    }
    ms_view_unlock(v);
    return e;
}

static int take(struct memsnap_view *v, bool atomic, memsnap_snapshot **out) MS_INSIDE
{
    struct memsnap_snapshot *s = v->lease;
    struct image *i;
    int e;
    if (s && v->process != ms_process_generation())
        return -EBADF;
    struct pool *pool = s ? s->current.pool : v->recycler->pool;
    if (atomic && v->size && pool->heap_only)
        return -ENOTSUP; /* stopping writers takes a descriptor */
    e = s ? ms_snapshot_image(s, atomic, &i) : take_ordinary(v, atomic, &i);
    if (e < 0)
        return e;
    unsigned of_heap = pool->heap_only ? MEMSNAP_NO_FD : 0;
    e = ms_snapshot_of_image(i, v->size, s ? s->current.flags : of_heap, pool, out);
    ms_image_unref(i);
    return e;
}

int memsnap_view_take_snapshot(memsnap_view *v, unsigned flags, memsnap_snapshot **out)
{
    if (!v || !out || flags & ~MEMSNAP_TAKE_ATOMIC)
        return -EINVAL;
    ms_enter();
    int e = take(v, flags & MEMSNAP_TAKE_ATOMIC, out);
    if (ms_make_room(e))
        e = take(v, flags & MEMSNAP_TAKE_ATOMIC, out);
    ms_leave();
    return e;
}

/* ---- restoring ------------------------------------------------------------------------------- */

static int restore_ordinary(struct mapping *m) MS_INSIDE
{
    int e = ms_restore(m);
    if (e == 0)
        ms_split_huge(m);
    return e;
}

static int restore(struct memsnap_view *v) MS_INSIDE
{
    struct mapping *m;
    int e = ms_view_lock_mapping(v, &m);
    if (e == 0) {
        e = v->lease ? ms_mapping_unprotect(m) : restore_ordinary(m);
        ms_view_unlock_mapping(v);
    }
    return e;
}

int memsnap_view_restore(memsnap_view *v)
{
    if (!v)
        return -EINVAL;
    ms_enter();
    int e = restore(v);
    if (ms_make_room(e))
        e = restore(v);
    ms_leave();
    return e;
}

/* What the view holds is what its own snapshot holds: no byte is touched, so that threads may be
 * storing. */
static int restore_to_itself(struct memsnap_view *v) MS_INSIDE
{
    struct mapping *m;
    int e = ms_view_lock_mapping(v, &m);
    if (e != 0)
        return e;
    e = m->torn ? -EIO : ms_mapping_unprotect(m);
    ms_view_unlock_mapping(v);
    return e;
}

static int restore_to(struct memsnap_view *v, struct memsnap_snapshot *s) MS_INSIDE
{
    struct image *target;
    struct mapping *m;
    if (v->lease == s)
        return restore_to_itself(v);
    int e = v->lease && v->process != ms_process_generation()
                ? -EBADF
                : ms_snapshot_image(s, false, &target);
    if (e < 0)
        return e;
    e = ms_view_lock_mapping(v, &m);
    if (e == 0) {
        e = v->lease ? ms_writer_restore_to(&v->lease->current, target) : ms_restore_to(m, target);
        if (e == 0 && !v->lease)
            ms_split_huge(m);
        ms_view_unlock_mapping(v);
    }
    ms_snapshot_drop_image(s, target);
    return e;
}

int memsnap_view_restore_to(memsnap_view *v, memsnap_snapshot *s)
{
    if (!v || !s || v->size != s->current.size)
        return -EINVAL;
    ms_enter();
    int e = restore_to(v, s);
    if (ms_make_room(e))
        e = restore_to(v, s);
    ms_leave();
    return e;
}

/* ---- protecting ------------------------------------------------------------------------------ */

static int clean_access(int access)
{
    return access & MEMSNAP_ACCESS_WRITE ? access | MEMSNAP_ACCESS_READ : access;
}

static int protect(struct memsnap_view *v, size_t first, size_t pages, int access) MS_INSIDE
{
    struct mapping *m;
    int e = ms_view_lock_mapping(v, &m);
    if (e == 0) {
        e = ms_mapping_protect(m, first, pages, access);
        ms_view_unlock_mapping(v);
    }
    return e;
}

int memsnap_view_protect(memsnap_view *v, size_t offset, size_t len, int access)
{
    size_t ps = ms_os->page_size();
    if (!v || access & ~(MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE | MEMSNAP_ACCESS_EXEC))
        return -EINVAL;
    if (offset % ps || offset > v->size || len > v->size - offset)
        return -EINVAL;
    if (len % ps && offset + len != v->size)
        return -EINVAL;
    if (!len)
        return 0;
    ms_enter();
    int e = protect(v, offset / ps, (size_t)ms_round_up(len, ps) / ps, clean_access(access));
    if (ms_make_room(e))
        e = protect(v, offset / ps, (size_t)ms_round_up(len, ps) / ps, clean_access(access));
    ms_leave();
    return e;
}

/* ---- dirty ----------------------------------------------------------------------------------- */

static int list_dirty_ranges(struct mapping *m, size_t *cursor, struct memsnap_range *v, size_t max)
{
    size_t ps = ms_os->page_size(), n = 0;
    struct dirty_iter d;
    struct dirty_page page;
    int e;
    ms_dirty_begin(&d, m, m->base, *cursor / ps, NULL);
    while ((e = ms_dirty_next(&d, &page)) > 0) {
        if (n && v[n - 1].offset + v[n - 1].len == page.number * ps) {
            v[n - 1].len += ps;
        } else if (n == max) {
            *cursor = page.number * ps;
            break;
        } else {
            v[n++] = (struct memsnap_range){page.number * ps, ps};
        }
    }
    ms_dirty_end(&d);
    if (e < 0)
        return e;
    if (e == 0)
        *cursor = m->size;
    if (n && v[n - 1].offset + v[n - 1].len > m->size)
        v[n - 1].len = m->size - v[n - 1].offset;
    return (int)n;
}

/* Nothing is handed out, and the cursor stays, where protections cannot be put back. */
static int dirty_of_ordinary(struct mapping *m, size_t *cursor, struct memsnap_range *ranges,
                             size_t max)
{
    size_t at = *cursor;
    int e = ms_mapping_make_readable(m);
    if (e < 0)
        return e;
    int n = m->torn ? -EIO : list_dirty_ranges(m, &at, ranges, max);
    e = ms_mapping_reprotect(m);
    if (e < 0 || n < 0)
        return e < 0 ? e : n;
    *cursor = at;
    return n;
}

static int view_dirty(struct memsnap_view *v, size_t *cursor, struct memsnap_range *ranges,
                      size_t max) MS_INSIDE
{
    struct mapping *m;
    int e = ms_view_lock_mapping(v, &m);
    if (e != 0)
        return e;
    if (v->lease)
        *cursor = v->size; /* a mutable view always equals its snapshot */
    else
        e = dirty_of_ordinary(m, cursor, ranges, max);
    ms_view_unlock_mapping(v);
    return e;
}

int memsnap_view_dirty(memsnap_view *v, size_t *cursor, struct memsnap_range *ranges, size_t max)
{
    if (!v || !cursor || !ranges || !max || *cursor > v->size)
        return -EINVAL;
    if (*cursor == v->size)
        return 0;
    ms_enter();
    int n = view_dirty(v, cursor, ranges, ms_min(max, INT_MAX));
    if (ms_make_room(n))
        n = view_dirty(v, cursor, ranges, ms_min(max, INT_MAX));
    ms_leave();
    return n;
}

/* ---- flushing -------------------------------------------------------------------------------- */

int memsnap_view_flush(memsnap_view *v, size_t offset, size_t len)
{
    size_t ps = ms_os->page_size();
    struct mapping *m;
    if (!v || !v->lease || offset > v->size || len > v->size - offset)
        return -EINVAL;
    ms_enter();
    int e = ms_view_lock_mapping(v, &m);
    if (e == 0) {
        size_t first = offset & ~(ps - 1);
        const struct writer *w = &v->lease->current.writer;
        struct os_object *file = w->state == WRITER_FILE ? &w->chunk->store->object : NULL;
        /* storage may be slow, and neither the file nor the mapping goes away under a lease */
        ms_view_unlock_mapping(v);
        if (!file)
            e = -EINVAL;
        else if (len)
            e = ms_os->flush(m->address + first, (size_t)ms_round_up(offset + len - first, ps),
                             file);
    }
    ms_leave();
    return e;
}
