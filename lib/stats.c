/* SPDX-License-Identifier: MIT */
/* What it costs: statistics of snapshots and views. */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "mapping/dirty.h"
#include "mapping/restore.h"
#include "snapshot.h"
#include "storage/store.h"
#include "view.h"

/* The caller's struct may be older or newer than ours: both see what both know, and `size` stays
 * the caller's. */
static void hand_out(void *to, size_t capacity, const void *from, size_t known)
{
    size_t n = ms_min(capacity, known);
    if (n > sizeof(size_t))
        memcpy((char *)to + sizeof(size_t), (const char *)from + sizeof(size_t),
               n - sizeof(size_t));
}

static size_t huge_bytes(const struct image *i)
{
    size_t ps = ms_os->page_size(), pages = ms_image_pages(i), n = 0;
    struct run r;
    for (size_t at = 0; at < pages; at = r.first + r.pages) {
        ms_image_run(i, at, pages, &r);
        if (r.chunk && r.chunk->window && r.chunk->store->kind != STORE_HEAP)
            n += ms_os->huge_bytes(r.chunk->window + r.chunk_page * ps, r.pages * ps);
    }
    return n;
}

/* file: of a MEMSNAP_FILE_SHARED snapshot, or NULL. */
static const char *backend(struct memsnap_snapshot *s, const struct image *i,
                           const struct os_object *file) MS_INSIDE
{
    size_t pages = ms_image_pages(i);
    struct run r;
    if (file)
        return file->kind;
    for (size_t at = 0; at < pages; at = r.first + r.pages) {
        ms_image_run(i, at, pages, &r);
        if (r.chunk)
            return r.chunk->store->object.kind;
    }
    const char *kind = ms_pool_kind(s->current.pool);
    return kind ? kind : "none";
}

/* Nobody who takes an image of the snapshot waits for the counting, nor it for a take: what is
 * counted is a reference of our own. The writer's mapping goes with the snapshot like the parked
 * views: their references to the image count as ours. */
static int snapshot_stats(struct memsnap_snapshot *s, struct memsnap_snapshot_stats *t) MS_INSIDE
{
    size_t ps = ms_os->page_size();
    struct current *c = &s->current;
    struct image_usage u;
    ms_current_look(c);
    struct image *i = ms_image_ref(c->image);
    size_t own = 2 + ms_mapping_references(&c->writer.mapping, i), parked;
    const struct os_object *file =
        c->writer.state == WRITER_FILE ? &c->writer.chunk->store->object : NULL;
    ms_current_end_look(c);
    t->parked_views = ms_recycler_count(s->recycler, i, &parked);
    own += parked;
    int e = ms_image_usage(i, own, &u);
    if (e == 0) {
        t->extents = u.runs;
        t->chunks = u.chunks;
        t->stored_bytes = u.stored_pages * ps;
        t->exclusive_bytes = u.exclusive_pages * ps;
        t->huge_bytes = huge_bytes(i);
        t->backend = backend(s, i, file);
    }
    ms_image_unref(i);
    return e;
}

int memsnap_snapshot_stats(memsnap_snapshot *s, struct memsnap_snapshot_stats *stats)
{
    struct memsnap_snapshot_stats t = {0};
    if (!s || !stats || stats->size < sizeof stats->size)
        return -EINVAL;
    ms_enter();
    int e = snapshot_stats(s, &t);
    ms_leave();
    if (e == 0)
        hand_out(stats, stats->size, &t, sizeof t);
    return e;
}

static size_t mapped_bytes(const struct mapping *m)
{
    size_t ps = ms_os->page_size(), n = 0;
    struct run r;
    for (size_t at = 0; at < m->pages; at = r.first + r.pages) {
        ms_image_run(m->mapped, at, m->pages, &r);
        if (r.chunk)
            n += r.pages * ps;
    }
    return n;
}

static void mapping_stats(const struct mapping *m, struct memsnap_view_stats *t)
{
    t->mapped_bytes = mapped_bytes(m);
    t->private_bytes = ms_private_pages(m) * ms_os->page_size();
    t->mappings = m->mappings;
    t->copied_pages = m->copied_pages;
    t->restores = m->restores;
    t->restored_pages = m->restored_pages;
    t->remaps = m->remaps;
    t->dropped_pages = m->dropped_pages;
    t->dirty_source = m->tracked ? "write-protect" : ms_scan_source(m);
}

static int view_stats(struct memsnap_view *v, struct memsnap_view_stats *t) MS_INSIDE
{
    struct mapping *m;
    int e = ms_view_lock_mapping(v, &m);
    if (e == 0) {
        mapping_stats(m, t);
        ms_view_unlock_mapping(v);
    }
    return e;
}

int memsnap_view_stats(memsnap_view *v, struct memsnap_view_stats *stats)
{
    struct memsnap_view_stats t = {0};
    if (!v || !stats || stats->size < sizeof stats->size)
        return -EINVAL;
    ms_enter();
    int e = view_stats(v, &t);
    ms_leave();
    if (e == 0)
        hand_out(stats, stats->size, &t, sizeof t);
    return e;
}
