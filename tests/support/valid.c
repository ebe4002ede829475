/* SPDX-License-Identifier: MIT */
/* The invariants of stores and of what lies above them; see valid.h. Images: valid_image.c. */
#include "config.h"

#include <glib.h>
#include <stdbool.h>

#include "mapping/mapping.h"
#include "os/os.h"
#include "snapshot.h"
#include "storage/freelist.h"
#include "storage/pool.h"
#include "support/valid.h"
#include "view.h"

enum { BITS = 64 }; /* of a word of free_bits */

static size_t pages_in(uint64_t bytes)
{
    g_assert_cmpuint(bytes % ms_os->page_size(), ==, 0);
    return (size_t)(bytes / ms_os->page_size());
}

/* ---- free space ------------------------------------------------------------------------------ */

static bool is_free(const struct segment *g, size_t page)
{
    return g->free_bits && (g->free_bits[page / BITS] >> (page % BITS) & 1);
}

static void check_segment(const struct segment *g)
{
    size_t pages = pages_in(g->len), count = 0, run = 0;
    g_assert_nonnull(g->free_bits);
    for (size_t k = 0; k < pages; k++) {
        run = is_free(g, k) ? run + 1 : 0;
        count += is_free(g, k);
        g_assert_cmpuint(run, <=, g->free_longest);
        g_assert_true(run == 0 || k >= g->free_from);
    }
    for (size_t k = pages; k < (pages / BITS + 1) * BITS; k++)
        g_assert_false(is_free(g, k));
    g_assert_cmpuint(count, ==, g->free_pages);
    g_assert_cmpuint(count, >, 0);
}

void assert_valid_freelist(const struct freelist *f)
{
    uint64_t bytes = 0;
    g_assert_cmpuint(f->n, <=, f->capacity);
    for (size_t i = 0; i < f->n; i++) {
        check_segment(f->v[i]);
        bytes += f->v[i]->free_pages * (uint64_t)ms_os->page_size();
        for (size_t k = 0; k < i; k++)
            g_assert_true(f->v[i] != f->v[k]);
    }
    g_assert_cmpuint(bytes, ==, f->bytes);
}

/* ---- stores, pools --------------------------------------------------------------------------- */

static void check_current_segment(const struct store *s)
{
    const struct segment *g = s->current;
    g_assert_cmpuint(ms_ref_count(&g->refs), >, 0);
    g_assert_cmpuint(s->used, <=, g->len);
    g_assert_cmpuint(g->offset + g->len, ==, s->end);
    for (size_t k = pages_in(s->used); k < pages_in(g->len); k++)
        g_assert_false(is_free(g, k)); /* was never handed out */
}

/* With the store's lock held. */
static void check_store(const struct store *s)
{
    g_assert_cmpuint(ms_ref_count(&s->refs), >, 0);
    assert_valid_freelist(&s->free);
    for (size_t i = 0; i < s->free.n; i++) {
        const struct segment *g = s->free.v[i];
        g_assert_cmpuint(ms_ref_count(&g->refs), >, 0);
        g_assert_cmpuint(g->offset + g->len, <=, s->end);
    }
    if (s->current)
        check_current_segment(s);
    g_assert_cmpuint(s->pages + pages_in(s->free.bytes), <=, pages_in(s->end));
}

/* What the family has is the sum over its stores. With the locks of the pool and its store held no
 * store can be added, and the one store's pages stand still. */
static void check_family(const struct store *s)
{
    bool alone = ms_family_usage_stores(s->family) == 1;
    size_t pages = atomic_load(&s->family->pages);
    g_assert_true(alone ? pages == s->pages : pages >= s->pages);
}

void assert_valid_store(struct store *s)
{
    ms_enter();
    ms_lock(&s->lock);
    check_store(s);
    ms_unlock(&s->lock);
    ms_leave();
}

void assert_valid_pool(struct pool *p)
{
    ms_enter();
    ms_lock(&p->lock);
    struct store *s = p->store;
    g_assert_cmpuint(ms_ref_count(&p->refs), >, 0);
    if (s && s->kind == STORE_ANON) {
        ms_lock(&s->lock);
        check_store(s);
        check_family(s);
        ms_unlock(&s->lock);
    }
    ms_unlock(&p->lock);
    ms_leave();
}

/* ---- images and their chunks ----------------------------------------------------------------- */

/* No page of a chunk that is alive is free: it would be overwritten by whoever gets it next. */
static void check_not_free(const struct chunk *c)
{
    const struct segment *g = c->segment;
    size_t first = pages_in(c->offset - g->offset);
    ms_lock(&c->store->lock);
    for (size_t k = first; k < first + c->pages; k++)
        g_assert_false(is_free(g, k));
    ms_unlock(&c->store->lock);
}

static void check_chunk(const struct chunk *c)
{
    const struct segment *g = c->segment;
    g_assert_cmpuint(ms_ref_count(&c->store->refs), >, 0);
    g_assert_true((c->store->kind == STORE_HEAP) == !g);
    if (!g)
        return;
    g_assert_cmpuint(ms_ref_count(&g->refs), >, 0);
    g_assert_cmpuint(c->offset, >=, g->offset);
    g_assert_cmpuint(c->offset - g->offset + c->pages * (uint64_t)ms_os->page_size(), <=, g->len);
    g_assert_true(c->window == (g->window ? g->window + (c->offset - g->offset) : NULL));
    check_not_free(c);
}

static void check_image(const struct image *i)
{
    struct run run;
    const struct chunk *last = NULL;
    assert_valid_image(i);
    for (size_t page = 0; page < ms_image_pages(i); page += run.pages) {
        ms_image_run(i, page, ms_image_pages(i), &run);
        g_assert_cmpuint(run.pages, >, 0);
        if (run.chunk && run.chunk != last)
            check_chunk(run.chunk);
        last = run.chunk;
    }
}

/* ---- snapshots, views ------------------------------------------------------------------------ */

/* In order, inside, none like the default, and no two that could be one. */
static void check_protections(const struct mapping *m)
{
    const struct protections *p = &m->protections;
    g_assert_cmpuint(p->n, <=, p->capacity);
    for (size_t k = 0; k < p->n; k++) {
        const struct protection *a = &p->v[k], *b = a + 1;
        g_assert_cmpuint(a->pages, >, 0);
        g_assert_cmpuint(a->first + a->pages, <=, m->pages);
        g_assert_cmpint(a->access, !=, MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE);
        if (k + 1 < p->n) {
            g_assert_cmpuint(a->first + a->pages, <=, b->first);
            g_assert_true(a->first + a->pages < b->first || a->access != b->access);
        }
    }
}

/* The caller holds the lock of whoever the mapping belongs to. */
static void check_mapping(const struct mapping *m)
{
    size_t ps = ms_os->page_size();
    struct image *last = ms_image_recall(&m->last_taken);
    const struct image *images[] = {m->mapped, m->base, last};
    for (size_t i = 0; i < G_N_ELEMENTS(images); i++) {
        if (!images[i])
            continue;
        g_assert_cmpuint(ms_image_pages(images[i]), ==, m->pages);
        check_image(images[i]);
    }
    ms_image_unref(last);
    g_assert_true(m->address && m->mapped && m->base);
    g_assert_cmpuint((uintptr_t)m->address % ps, ==, 0);
    g_assert_cmpuint(m->pages, ==, m->size / ps + (m->size % ps != 0));
    g_assert_cmpuint(m->length, ==, MAX(m->pages, 1) * ps);
    g_assert_true(m->extent == m->length || (m->extent == m->length + ps && !m->fixed));
    g_assert_cmpuint(m->mappings, >, 0);
    check_protections(m);
}

/* The image's pages [0, pages) are those of the chunk, each at its place. */
static void check_refers(const struct image *i, const struct chunk *c, size_t pages)
{
    struct run run;
    ms_image_run(i, 0, pages, &run);
    g_assert_true(run.chunk == c && run.chunk_page == 0);
    g_assert_cmpuint(run.pages, ==, pages);
}

/* What mapping/writer.h says of each state. */
static void check_writer(const struct current *c)
{
    const struct writer *w = &c->writer;
    const struct mapping *m = &w->mapping;
    bool private = w->state == WRITER_SHADOW || w->state == WRITER_THAWING;
    g_assert_true(w->state != WRITER_NONE || (!w->leased && !m->address));
    if (w->state == WRITER_THAWING)
        g_assert_true(w->thawed > 0 && w->thawed < m->pages);
    else
        g_assert_cmpuint(w->thawed, ==, 0);
    if (w->state == WRITER_DIRECT)
        check_refers(c->image, w->chunk, m->pages);
    if (w->state == WRITER_THAWING)
        check_refers(c->image, w->chunk, w->thawed);
    if (private && !m->torn)
        g_assert_true(m->base == c->image);
    if (private)
        check_mapping(m);
}

void assert_valid_snapshot(memsnap_snapshot *s)
{
    struct current *c = &s->current;
    ms_enter();
    ms_snapshot_lock(s);
    g_assert_cmpuint(ms_ref_count(&s->refs), >, 0);
    g_assert_cmpuint(ms_image_pages(c->image), ==,
                     c->size / ms_os->page_size() + (c->size % ms_os->page_size() != 0));
    check_image(c->image);
    check_writer(c);
    g_assert_cmpuint(c->left.n, ==, 0);
    ms_snapshot_unlock(s);
    ms_leave();
    assert_valid_pool(c->pool);
}

void assert_valid_view(memsnap_view *v)
{
    if (v->lease) {
        assert_valid_snapshot(v->lease);
        return;
    }
    ms_enter();
    ms_lock(&v->lock);
    check_mapping(&v->own->mapping);
    ms_unlock(&v->lock);
    ms_leave();
    assert_valid_pool(v->recycler->pool);
}
