/* SPDX-License-Identifier: MIT */
/* Thawing. */
#include "config.h"

#include "mapping/thaw.h"

#include <errno.h>

#include "base/annotate.h"
#include "base/arith.h"
#include "base/bytes.h"
#include "mapping/consolidate.h"
#include "mapping/dirty.h"
#include "memsnap.h"
#include "storage/store.h"

/* Where a huge page is larger than this, or there is none: what is copied in less than 1 ms. */
#define MAX_BLOCK ((size_t)4 << 20)
#define PLAIN_BLOCK ((size_t)2 << 20)
/* Copying ahead is over when so few pages were found changed, or after so many rounds: what
 * changes faster than it can be copied is copied behind the write block. */
enum { FEW_CHANGED = 32, MAX_ROUNDS = 3 };
/* Comparing and dropping 512 private pages behind the write block takes 0.7 to 1.5 ms of processor
 * time where the cache is cold: a block with more than this many goes in parts. */
enum { MANY_PRIVATE = 128, PARTS = 4 };

struct thaw {
    struct current *c;
    struct chunk *to;
    bool fresh;                    /* `to` is zero from page `first` on, but for private pages */
    size_t block_first, block_end; /* pages of the block */
    size_t first, end;             /* the part of it that is thawed in one step: all, as a rule */
    struct image *image;           /* what the image will be: the part refers to `to` */
    struct image *mapped;          /* the same for what the mapping shows */
    struct os_iov pending;         /* pages to be written, neighbours in the view and in `to` */
    char *buffer;                  /* a page, where the chunk has no window */
};

/* ---- whether it may be done ------------------------------------------------------------------ */

static bool is_cheap_to_move(const struct image *i)
{
    size_t pages = ms_image_pages(i);
    struct run r;
    ms_image_run(i, 0, pages, &r);
    return r.pages == pages && (!r.chunk || r.chunk->store->kind == STORE_HEAP);
}

/* Nobody but the snapshot and its writer refers to pages of the image, or of what is mapped: 0,
 * -EBUSY, or another error. */
static int check_unshared(const struct current *c) MS_REQUIRES(ms_snapshot_locks)
{
    const struct mapping *m = &c->writer.mapping;
    const struct image *v[] = {c->image, m->mapped};
    bool same = m->mapped == c->image;
    size_t holders[] = {same ? 3 : 2, 1};
    struct image_usage u;
    int e = ms_images_usage(v, holders, same ? 1 : 2, &u);
    return e == 0 && u.exclusive_pages != u.stored_pages ? -EBUSY : e;
}

static int check_state(struct current *c) MS_REQUIRES(ms_snapshot_locks)
{
    struct writer *w = &c->writer;
    if (w->state == WRITER_FILE || w->state == WRITER_DIRECT || !w->mapping.pages)
        return 0;
    if (c->flags & MEMSNAP_NO_FD || w->mapping.flags & MEMSNAP_VIEW_PINNABLE)
        return -ENOTSUP;
    return w->mapping.torn ? -EIO : 1;
}

int ms_thaw_begin(struct current *c)
{
    struct mapping *m = &c->writer.mapping;
    struct image *copy;
    int e = ms_writer_owned_by_parent(&c->writer) ? -EBADF : check_state(c);
    if (e <= 0)
        return e;
    if (m->mapped != c->image) {
        e = ms_image_copy(m->mapped, &copy); /* shares no nodes, see ms_images_usage() */
        if (e < 0)
            return e;
        ms_current_leave_image(c, m->mapped);
        m->mapped = copy;
    }
    return 1;
}

/* ---- copying --------------------------------------------------------------------------------- */

static int flush_pages(struct thaw *t) MS_REQUIRES(ms_snapshot_locks)
{
    struct os_iov v = t->pending;
    size_t offset = (size_t)((char *)v.base - t->c->writer.mapping.address);
    int e = 0;
    t->pending.len = 0;
    if (!v.len)
        return 0;
    MS_RACY_READ_BEGIN();
    e = ms_os->object_write(&t->to->store->object, &v, 1, t->to->offset + offset);
    MS_RACY_READ_END();
    return e;
}

static int add_page(struct thaw *t, char *data, size_t bytes) MS_REQUIRES(ms_snapshot_locks)
{
    int e = 0;
    if (t->pending.len && (char *)t->pending.base + t->pending.len != data)
        e = flush_pages(t);
    if (!t->pending.len)
        t->pending.base = data;
    t->pending.len += bytes;
    return e;
}

/* Of the last page, what belongs to the image: the chunk has zeros behind it. */
static int copy_changed(struct thaw *t, size_t page, size_t *changed) MS_REQUIRES(ms_snapshot_locks)
{
    const struct mapping *m = &t->c->writer.mapping;
    char *data = ms_page_address(m, page);
    size_t bytes = ms_page_bytes(m, page);
    int e = 0;
    const void *old = ms_chunk_peek(t->to, page, 1, t->buffer, &e);
    if (e < 0 || ms_bytes_equal(data, old, bytes))
        return e;
    ++*changed;
    return add_page(t, data, bytes);
}

/* Writes the pages of the part that may be private, and differ from the chunk's, to the chunk.
 * Guarded pages are not private: under the guard they show what is mapped. */
static int copy_private(struct thaw *t, const struct os_write_block *block, size_t *changed)
    MS_REQUIRES(ms_snapshot_locks)
{
    const struct mapping *m = &t->c->writer.mapping;
    struct candidate_scan scan;
    struct candidates run;
    int e = 0;
    *changed = 0;
    ms_scan_begin(&scan, m, t->first, block);
    scan.end = (uintptr_t)ms_page_address(m, t->end);
    while (e == 0 && ms_scan_next(&scan, &run)) {
        for (size_t k = 0; k < run.pages && e == 0 && !run.guarded; k++)
            e = copy_changed(t, run.first + k, changed);
    }
    return e < 0 ? e : flush_pages(t);
}

/* ---- huge pages ------------------------------------------------------------------------------ */

/* What of a run takes memory: holes of its chunk do not. */
static size_t data_bytes(const struct run *r)
{
    size_t ps = ms_os->page_size(), n = 0;
    uint64_t start, stop, at = r->chunk->offset + r->chunk_page * ps, end = at + r->pages * ps;
    if (r->chunk->store->kind == STORE_HEAP)
        return r->pages * ps;
    while (ms_os->object_data(&r->chunk->store->object, at, end, &start, &stop) == 1) {
        n += stop - start;
        at = stop;
    }
    return n;
}

static size_t stored_bytes(const struct thaw *t) MS_REQUIRES(ms_snapshot_locks)
{
    struct run r;
    size_t n = 0;
    for (size_t at = t->block_first; at < t->block_end; at = r.first + r.pages) {
        ms_image_run(t->c->image, at, t->block_end, &r);
        n += r.chunk ? data_bytes(&r) : 0;
    }
    return n;
}

/* The block can be one huge page in the chunk, and most of it holds something. */
static bool wants_huge(const struct thaw *t) MS_REQUIRES(ms_snapshot_locks)
{
    size_t huge = ms_os->huge_size(), ps = ms_os->page_size(),
           pages = t->block_end - t->block_first;
    return ms_os->caps & OS_CAP_HUGE && !(t->c->flags & MEMSNAP_HUGE_NEVER) && huge &&
           pages * ps == huge && t->to->window &&
           ms_aligned((uintptr_t)t->to->window + t->block_first * ps, huge) &&
           ms_aligned((size_t)t->to->offset + t->block_first * ps, huge) &&
           stored_bytes(t) >= huge / 4 * 3;
}

/* Where it cannot be had, small pages do. */
static void make_huge(const struct thaw *t) MS_REQUIRES(ms_snapshot_locks)
{
    size_t huge = ms_os->huge_size();
    if (!wants_huge(t))
        return;
    const char *window = t->to->window + t->block_first * ms_os->page_size();
    union {
        const char *in;
        void *out;
    } p = {window};
    (void)*(const volatile char *)window; /* to have it mapped */
    if (ms_os->huge_bytes(window, huge) < huge)
        ms_os->collapse(p.out, huge);
}

/* ---- a part --------------------------------------------------------------------------------- */

/* The image with the part's pages in the chunk. */
static int refer_to_chunk(const struct thaw *t, struct image *from, struct image **out)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct run r, wanted = {t->first, t->end - t->first, t->to, t->first};
    struct image_edit edit;
    ms_image_run(from, t->first, t->end, &r);
    if (r.pages == wanted.pages && r.chunk == t->to && r.chunk_page == t->first) {
        *out = ms_image_ref(from);
        return 0;
    }
    int e = ms_image_edit_begin(&edit, from);
    if (e < 0)
        return e;
    e = ms_image_edit_set(&edit, &wanted);
    if (e < 0)
        ms_image_edit_abandon(&edit);
    else
        *out = ms_image_edit_finish(&edit);
    return e;
}

static int prepare_images(struct thaw *t) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct image *mapped = t->c->writer.mapping.mapped;
    int e = refer_to_chunk(t, t->c->image, &t->image);
    if (e < 0)
        return e;
    if (mapped == t->c->image)
        t->mapped = ms_image_ref(t->image);
    else
        e = refer_to_chunk(t, mapped, &t->mapped);
    return e;
}

/* While threads store. The image's pages first, then, over them, those that are private. */
static int copy_ahead(struct thaw *t, bool live) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    size_t changed;
    if (t->fresh)
        make_huge(t);
    int e = ms_consolidate(t->c->image, t->to, t->first, t->end, t->fresh);
    if (!t->fresh)
        make_huge(t);
    for (unsigned round = 0; e == 0 && live && round < MAX_ROUNDS; round++) {
        e = copy_private(t, NULL, &changed);
        if (changed <= FEW_CHANGED)
            break;
    }
    return e;
}

/* The pages are the chunk's from now on, whether it could be mapped shared or not. */
static void commit(struct thaw *t) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct current *c = t->c;
    struct mapping *m = &c->writer.mapping;
    ms_mapping_set_base(m, t->image);
    ms_current_set_image(c, t->image);
    ms_current_leave_image(c, m->mapped);
    m->mapped = t->mapped;
    t->image = t->mapped = NULL;
}

/* What is left to copy, and the exchange. Nobody stores there meanwhile. */
static int exchange(struct thaw *t, const struct os_write_block *block)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct mapping *m = &t->c->writer.mapping;
    size_t changed;
    bool refers;
    int e = copy_private(t, block, &changed);
    if (e < 0)
        return e;
    e = ms_mapping_share(m, t->to, t->first, t->end - t->first, &refers);
    if (refers)
        commit(t);
    return e < 0 ? e : ms_mapping_renew_protections(m);
}

static int exchange_blocked(struct thaw *t) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct os_write_block block;
    char *address = ms_page_address(&t->c->writer.mapping, t->first);
    int e = ms_os->write_block_close(address, (t->end - t->first) * ms_os->page_size(), &block);
    if (e < 0)
        return e;
    e = exchange(t, &block);
    ms_os->write_block_open(&block);
    return e;
}

static int thaw_part(struct thaw *t, bool live) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    int e = copy_ahead(t, live);
    if (e == 0)
        e = prepare_images(t);
    if (e == 0)
        e = live ? exchange_blocked(t) : exchange(t, NULL);
    return e;
}

/* ---- a step ---------------------------------------------------------------------------------- */

static size_t block_pages(void)
{
    size_t huge = ms_os->huge_size();
    return (huge && huge <= MAX_BLOCK ? huge : PLAIN_BLOCK) / ms_os->page_size();
}

/* One that was exported cannot be written to any more. */
static struct chunk *find_writable_chunk(const struct image *i) MS_INSIDE
{
    struct reclaim reclaim = {0};
    struct chunk *c = ms_find_own_chunk(i);
    if (!c || !ms_os->file_sealed(&c->store->object))
        return c;
    ms_chunk_unref(c, &reclaim);
    ms_reclaim_flush(&reclaim);
    return NULL;
}

/* A reference to the chunk that is thawed into. */
static int find_chunk(struct thaw *t) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct current *c = t->c;
    const struct writer *w = &c->writer;
    if (w->state == WRITER_THAWING) {
        t->to = ms_chunk_ref(w->chunk);
        t->fresh = w->fresh;
        return 0;
    }
    int e = is_cheap_to_move(c->image) ? 0 : check_unshared(c);
    if (e < 0)
        return e;
    t->to = find_writable_chunk(c->image);
    t->fresh = false;
    return t->to ? 0 : ms_new_own_chunk(c->pool, ms_image_pages(c->image), &t->to, &t->fresh);
}

static size_t private_pages(const struct thaw *t) MS_REQUIRES(ms_snapshot_locks)
{
    const struct mapping *m = &t->c->writer.mapping;
    struct candidate_scan scan;
    struct candidates run;
    size_t n = 0;
    ms_scan_begin(&scan, m, t->first, NULL);
    scan.end = (uintptr_t)ms_page_address(m, t->end);
    while (ms_scan_next(&scan, &run))
        n += run.guarded ? 0 : run.pages;
    return n;
}

/* It is mapped shared. */
static void move_on(struct thaw *t) MS_REQUIRES(ms_snapshot_locks)
{
    struct current *c = t->c;
    struct writer *w = &c->writer;
    w->state = WRITER_THAWING;
    w->chunk = t->to;
    w->thawed = t->end;
    w->fresh = t->fresh;
    c->captured_by = 0;
    if (t->end == t->block_end && t->first > t->block_first)
        ms_mapping_renew(&w->mapping, t->to, t->block_first, t->block_end - t->block_first);
    if (w->thawed < w->mapping.pages)
        return;
    ms_current_leave_image(c, w->mapping.mapped); /* whole, like the image */
    w->mapping.mapped = ms_image_ref(c->image);
    w->mapping.mappings = 1;
    w->state = WRITER_DIRECT;
    w->thawed = 0;
    w->tail_dirty = c->size % ms_os->page_size() != 0;
}

static int begin_part(struct thaw *t, bool live) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    const struct writer *w = &t->c->writer;
    size_t block = block_pages();
    int e = find_chunk(t);
    if (e < 0)
        return e;
    t->block_first = w->thawed / block * block;
    t->block_end = ms_min(t->block_first + block, w->mapping.pages);
    t->first = w->thawed;
    t->end = t->block_end;
    if (live && private_pages(t) > MANY_PRIVATE)
        t->end = ms_min(t->first + block / PARTS, t->block_end);
    if (!t->to->window && !(t->buffer = ms_os->alloc(ms_os->page_size())))
        return -ENOMEM;
    return 0;
}

static void end_part(struct thaw *t) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE
{
    struct reclaim reclaim = {0};
    ms_image_unref(t->image);
    ms_image_unref(t->mapped);
    ms_chunk_unref(t->to, &reclaim);
    ms_reclaim_flush(&reclaim);
    ms_os->free(t->buffer);
}

int ms_thaw_step(struct current *c, bool live, size_t *passed)
{
    struct thaw t = {.c = c};
    int e = check_state(c);
    if (e <= 0)
        return e;
    ms_mapping_untrack(&c->writer.mapping); /* two userfaultfds cannot watch one range */
    e = ms_writer_clear_tail(c);
    if (e == 0)
        e = ms_mapping_make_readable(&c->writer.mapping); /* to look what is private, too */
    if (e < 0)
        return e;
    e = begin_part(&t, live);
    if (e == 0)
        e = thaw_part(&t, live);
    int protected = ms_mapping_reprotect(&c->writer.mapping);
    if (e == 0)
        e = protected;
    if (e == 0)
        move_on(&t);
    *passed = (t.end - t.first) * ms_os->page_size();
    end_part(&t);
    return e < 0 ? e : c->writer.state == WRITER_THAWING;
}
