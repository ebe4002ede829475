/* SPDX-License-Identifier: MIT */
/* Images without an operating system. Chunks and memory are this file's own, so that it counts
 * every reference and every allocation, and can make any allocation fail. What an image answers is
 * compared with a plain array that was edited in the same way. */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arith.h"
#include "storage/chunk.h"
#include "storage/image.h"
#include "storage/image_tree.h"
#include "os/os.h"
#include "base/refcount.h"
#include "support/valid.h"

#ifndef RUNNING_ON_VALGRIND
#define RUNNING_ON_VALGRIND 0
#endif

/* ---- memory and chunks ----------------------------------------------------------------------- */

static atomic_size_t live_blocks;    /* allocations that were not freed yet */
static atomic_size_t allocations;    /* all that were ever made */
static size_t fail_after = SIZE_MAX; /* allocations that still succeed */

static void *test_alloc(size_t size)
{
    if (fail_after == 0)
        return NULL;
    if (fail_after != SIZE_MAX)
        fail_after--;
    live_blocks++;
    allocations++;
    return g_malloc0(size);
}

static void test_free(void *p)
{
    if (p)
        live_blocks--;
    g_free(p);
}

static const struct os test_os = {.name = "test", .alloc = test_alloc, .free = test_free};
const struct os *ms_os = &test_os;

static atomic_size_t live_chunks;
static atomic_size_t unflushed; /* pages given back whose reclaim was not flushed */
/* ranges given back; counted in single-threaded tests only */
static size_t flushes;
static bool threaded;

static struct chunk *chunk_at(uint64_t offset, size_t pages)
{
    struct chunk *c = g_new0(struct chunk, 1);
    ms_ref_init(&c->refs);
    c->offset = offset;
    c->pages = pages;
    live_chunks++;
    return c;
}

static struct chunk *chunk_new(size_t pages)
{
    return chunk_at(0, pages);
}

struct chunk *ms_chunk_ref(struct chunk *c)
{
    ms_ref_get(&c->refs);
    return c;
}

void ms_chunk_ref_many(struct chunk *c, size_t n)
{
    ms_ref_add(&c->refs, n);
}

void ms_chunk_unref(struct chunk *c, struct reclaim *r)
{
    if (!c || !ms_ref_put(&c->refs))
        return;
    if (r->len > 0 && r->offset + r->len != c->offset)
        ms_reclaim_flush(r);
    if (r->len == 0)
        r->offset = c->offset;
    r->len += c->pages;
    live_chunks--;
    unflushed += c->pages;
    g_free(c);
}

void ms_reclaim_flush(struct reclaim *r)
{
    if (r->len == 0)
        return;
    unflushed -= r->len;
    r->len = 0;
    if (!threaded)
        flushes++;
}

size_t ms_chunk_refs(const struct chunk *c)
{
    return ms_ref_count(&c->refs);
}

static void chunk_release(struct chunk *c)
{
    struct reclaim r = {0};
    ms_chunk_unref(c, &r);
    ms_reclaim_flush(&r);
}

static void assert_nothing_left(void)
{
    g_assert_cmpuint(live_blocks, ==, 0);
    g_assert_cmpuint(live_chunks, ==, 0);
    g_assert_cmpuint(unflushed, ==, 0);
}

/* ---- short forms ----------------------------------------------------------------------------- */

static struct image *zero_image(size_t pages)
{
    struct image *i = NULL;
    g_assert_cmpint(ms_image_zero(pages, &i), ==, 0);
    return i;
}

static struct image *image_with(const struct image *from, struct run run)
{
    struct image_edit e;
    g_assert_cmpint(ms_image_edit_begin(&e, from), ==, 0);
    g_assert_cmpint(ms_image_edit_set(&e, &run), ==, 0);
    assert_valid_image(e.image);
    return ms_image_edit_finish(&e);
}

/* An image whose pages are chunks of one page each, neighbours in the store. Only the image refers
 * to them. */
static struct image *fragmented_image(size_t pages)
{
    struct image *zero = zero_image(pages);
    struct image_edit e;
    g_assert_cmpint(ms_image_edit_begin(&e, zero), ==, 0);
    ms_image_unref(zero);
    for (size_t p = 0; p < pages; p++) {
        struct run run = {p, 1, chunk_at(p, 1), 0};
        g_assert_cmpint(ms_image_edit_set(&e, &run), ==, 0);
        chunk_release(run.chunk);
    }
    return ms_image_edit_finish(&e);
}

#define assert_run(image, page, limit, count, c, c_page)                                           \
    do {                                                                                           \
        struct run run_;                                                                           \
        ms_image_run(image, page, limit, &run_);                                                   \
        g_assert_cmpuint(run_.first, ==, page);                                                    \
        g_assert_cmpuint(run_.pages, ==, count);                                                   \
        g_assert_true(run_.chunk == (c));                                                          \
        g_assert_cmpuint(run_.chunk_page, ==, c_page);                                             \
    } while (0)

static unsigned height(size_t pages)
{
    unsigned h = 0;
    for (size_t rest = pages - 1; rest > 0; rest /= FANOUT)
        h++;
    return h;
}

/* ---- single properties ----------------------------------------------------------------------- */

static void test_empty(void)
{
    struct image *i = zero_image(0);
    struct chunk *c = chunk_new(1), *owned = NULL;
    struct image *of = NULL;
    struct image_usage u;
    size_t first, pages;
    g_assert_cmpint(ms_image_of_chunk(c, 0, &of), ==, 0);
    chunk_release(c);
    g_assert_cmpuint(live_chunks, ==, 0);
    g_assert_cmpuint(ms_image_pages(of), ==, 0);
    g_assert_false(ms_image_differs(i, of, 0, 0, &first, &pages));
    g_assert_false(ms_image_is_exclusive(of, &owned));
    g_assert_cmpint(ms_image_usage(of, 1, &u), ==, 0);
    g_assert_cmpuint(u.runs + u.chunks + u.stored_pages + u.exclusive_pages, ==, 0);
    ms_image_unref(image_with(i, (struct run){0, 0, NULL, 0}));
    ms_image_unref(of);
    ms_image_unref(i);
    ms_image_unref(NULL);
    assert_nothing_left();
}

static void test_one_run(void)
{
    static const size_t sizes[] =
        {1, 2, 63, 64, 65, 255, 256, 257, 4097, 100000, (size_t)1 << 30, SIZE_MAX};
    for (size_t n = 0; n < G_N_ELEMENTS(sizes); n++) {
        size_t pages = sizes[n];
        struct image *i = zero_image(pages), *of = NULL;
        g_assert_cmpuint(live_blocks, ==, 1);
        assert_run(i, 0, pages, pages, NULL, 0);
        struct chunk *c = chunk_new(pages);
        g_assert_cmpint(ms_image_of_chunk(c, pages, &of), ==, 0);
        g_assert_cmpuint(live_blocks, ==, 2);
        g_assert_cmpuint(ms_chunk_refs(c), ==, 2);
        g_assert_cmpuint(ms_image_pages(of), ==, pages);
        assert_run(of, 0, pages, pages, c, 0);
        assert_run(of, pages - 1, pages, 1, c, pages - 1);
        assert_run(of, pages / 2, pages / 2 + 1, 1, c, pages / 2);
        g_assert_true(ms_image_ref(of) == of);
        ms_image_unref(of);
        ms_image_unref(of);
        g_assert_cmpuint(ms_chunk_refs(c), ==, 1);
        chunk_release(c);
        ms_image_unref(i);
        assert_nothing_left();
    }
}

/* The first and the last page of images of all sizes, up to the largest. */
static void test_extremes(void)
{
    struct chunk *c = chunk_new(1);
    struct image *zero = zero_image(SIZE_MAX);
    struct image *first = image_with(zero, (struct run){0, 1, c, 0});
    struct image *both = image_with(first, (struct run){SIZE_MAX - 1, 1, c, 0});
    size_t at, pages;
    assert_run(both, 0, SIZE_MAX, 1, c, 0);
    assert_run(both, 1, SIZE_MAX, SIZE_MAX - 2, NULL, 0);
    assert_run(both, SIZE_MAX - 1, SIZE_MAX, 1, c, 0);
    g_assert_true(ms_image_differs(first, both, 0, SIZE_MAX, &at, &pages));
    g_assert_cmpuint(at, ==, SIZE_MAX - 1);
    g_assert_cmpuint(pages, ==, 1);
    struct image *back = image_with(both, (struct run){0, SIZE_MAX, NULL, 0});
    assert_run(back, 0, SIZE_MAX, SIZE_MAX, NULL, 0);
    ms_image_unref(zero);
    ms_image_unref(first);
    ms_image_unref(both);
    g_assert_cmpuint(live_blocks, ==, 1);
    ms_image_unref(back);
    chunk_release(c);
    assert_nothing_left();
}

/* A run that was set page by page, in any order, ends as one slot without a node, whatever the size
 * of the image. */
static void test_collapse(void)
{
    static const size_t sizes[] = {2, 15, 16, 17, 63, 64, 65, 127, 257, 4096, 4097};
    for (size_t n = 0; n < G_N_ELEMENTS(sizes); n++) {
        size_t pages = sizes[n];
        struct chunk *c = chunk_new(pages), *other = chunk_new(1), *owned = NULL;
        struct image *zero = zero_image(pages);
        struct image_edit e;
        g_assert_cmpint(ms_image_edit_begin(&e, zero), ==, 0);
        size_t *order = g_new(size_t, pages);
        for (size_t p = 0; p < pages; p++)
            order[p] = p;
        for (size_t p = 0; p < pages; p++) {
            size_t swap = (size_t)g_test_rand_int_range((gint32)p, (gint32)pages),
                   page = order[swap];
            order[swap] = order[p];
            struct run junk = {page, 1, other, 0}, run = {page, 1, c, page};
            g_assert_cmpint(ms_image_edit_set(&e, &junk), ==, 0);
            g_assert_cmpint(ms_image_edit_set(&e, &run), ==, 0);
        }
        g_free(order);
        struct image *i = ms_image_edit_finish(&e);
        g_assert_cmpuint(live_blocks, ==, 2);
        g_assert_cmpuint(ms_chunk_refs(c), ==, 2);
        g_assert_cmpuint(ms_chunk_refs(other), ==, 1);
        chunk_release(c);
        g_assert_true(ms_image_is_exclusive(i, &owned));
        g_assert_true(owned == c);
        ms_image_unref(i);
        ms_image_unref(zero);
        chunk_release(other);
        assert_nothing_left();
    }
}

/* Whoever remembers an image keeps none of its chunks, and finds it for as long as others have it.
 * Meanwhile it is not exclusive: it may be found any time. */
static void test_remembered(void)
{
    struct chunk *c = chunk_new(10), *owned = NULL;
    struct image *i = NULL;
    struct weak_image a = {NULL}, b = {NULL};
    g_assert_cmpint(ms_image_of_chunk(c, 10, &i), ==, 0);
    chunk_release(c);
    g_assert_null(ms_image_recall(&a));
    ms_image_remember(&a, i);
    ms_image_remember(&b, i);
    g_assert_true(ms_image_recall(&a) == i);
    ms_image_unref(i);
    g_assert_false(ms_image_is_exclusive(i, &owned));
    ms_image_remember(&b, NULL);
    g_assert_false(ms_image_is_exclusive(i, &owned));
    ms_image_remember(&a, NULL);
    g_assert_true(ms_image_is_exclusive(i, &owned));
    ms_image_remember(&a, i);
    ms_image_unref(i);
    g_assert_cmpuint(live_chunks, ==, 0);
    g_assert_null(ms_image_recall(&a));
    ms_image_remember(&a, NULL);
    assert_nothing_left();
}

static void test_exclusive(void)
{
    struct chunk *c = chunk_new(40), *owned = NULL;
    struct image *i = NULL;
    g_assert_cmpint(ms_image_of_chunk(c, 30, &i), ==, 0);
    g_assert_false(ms_image_is_exclusive(i, &owned)); /* the chunk has another holder */
    struct image *shifted = image_with(i, (struct run){0, 30, c, 10});
    chunk_release(c);
    g_assert_false(ms_image_is_exclusive(i, &owned));
    ms_image_ref(shifted);
    ms_image_unref(i);
    /* the image has, and it begins inside the chunk */
    g_assert_false(ms_image_is_exclusive(shifted, &owned));
    ms_image_unref(shifted);
    g_assert_false(ms_image_is_exclusive(shifted, &owned));
    i = image_with(shifted, (struct run){0, 30, c, 0});
    ms_image_unref(shifted);
    ms_image_ref(i);
    g_assert_false(ms_image_is_exclusive(i, &owned));
    g_assert_null(owned);
    ms_image_unref(i);
    g_assert_true(ms_image_is_exclusive(i, &owned));
    g_assert_true(owned == c);
    struct image *zero = image_with(i, (struct run){0, 30, NULL, 0});
    struct image *part = image_with(i, (struct run){0, 1, NULL, 0});
    ms_image_unref(i);
    g_assert_false(ms_image_is_exclusive(zero, &owned));
    g_assert_false(ms_image_is_exclusive(part, &owned));
    ms_image_unref(zero);
    ms_image_unref(part);
    assert_nothing_left();
}

static struct chunk *last_chunk(const struct image *i)
{
    struct run run;
    ms_image_run(i, ms_image_pages(i) - 1, ms_image_pages(i), &run);
    return run.chunk;
}

static void test_usage(void)
{
    struct image_usage u;
    struct chunk *big = chunk_new(64);
    struct image *base = NULL;
    g_assert_cmpint(ms_image_of_chunk(big, 64, &base), ==, 0);
    chunk_release(big);
    struct chunk *small = chunk_new(3);
    struct image *child = image_with(base, (struct run){20, 2, small, 1});
    chunk_release(small);

    g_assert_cmpint(ms_image_usage(child, 1, &u), ==, 0);
    g_assert_cmpuint(u.runs, ==, 3);
    g_assert_cmpuint(u.chunks, ==, 2);
    g_assert_cmpuint(u.stored_pages, ==, 67);
    g_assert_cmpuint(u.exclusive_pages, ==, 3);
    g_assert_cmpint(ms_image_usage(base, 1, &u), ==, 0);
    g_assert_cmpuint(u.runs, ==, 1);
    g_assert_cmpuint(u.exclusive_pages, ==, 0);

    ms_image_unref(base);
    g_assert_cmpint(ms_image_usage(child, 1, &u), ==, 0);
    g_assert_cmpuint(u.exclusive_pages, ==, 67);
    ms_image_ref(child);
    g_assert_cmpint(ms_image_usage(child, 1, &u), ==, 0);
    g_assert_cmpuint(u.exclusive_pages, ==, 0);
    g_assert_cmpint(ms_image_usage(child, 2, &u), ==, 0);
    g_assert_cmpuint(u.exclusive_pages, ==, 67);
    ms_image_unref(child);
    struct image *hole = image_with(child, (struct run){30, 5, NULL, 0});
    ms_image_unref(child);
    struct image *torn = image_with(hole, (struct run){35, 5, last_chunk(hole), 30});
    ms_image_unref(hole);
    g_assert_cmpint(ms_image_usage(torn, 1, &u), ==, 0);
    /* continues in the chunk where the run before ended, but not in the image */
    g_assert_cmpuint(u.runs, ==, 5);
    ms_image_unref(torn);
    assert_nothing_left();
}

/* What two images have in common is theirs alone when both count and share no node. */
static void test_usage_together(void)
{
    enum { PAGES = FANOUT * FANOUT };
    const size_t holders[] = {1, 1};
    struct image_usage u;
    struct chunk *c = chunk_new(PAGES), *d = chunk_new(4);
    struct image *root = NULL, *copy = NULL;
    g_assert_cmpint(ms_image_of_chunk(c, PAGES, &root), ==, 0);
    struct image *parent = image_with(root, (struct run){100, 2, d, 0});
    struct image *child = image_with(parent, (struct run){2000, 2, d, 2});
    ms_image_unref(root);
    chunk_release(d);

    const struct image *both[] = {parent, child};
    g_assert_cmpint(ms_images_usage(both, holders, 2, &u), ==, 0);
    g_assert_cmpuint(u.exclusive_pages, <, u.stored_pages); /* somebody still holds c */
    chunk_release(c);
    g_assert_cmpint(ms_images_usage(both, holders, 2, &u), ==, 0);
    g_assert_cmpuint(u.exclusive_pages, <, u.stored_pages); /* a node is shared */
    g_assert_cmpint(ms_image_copy(parent, &copy), ==, 0);
    size_t first, n;
    g_assert_false(ms_image_differs(parent, copy, 0, PAGES, &first, &n));
    ms_image_unref(parent);
    both[0] = copy;
    g_assert_cmpint(ms_images_usage(both, holders, 2, &u), ==, 0);
    g_assert_cmpuint(u.stored_pages, ==, PAGES + 4);
    g_assert_cmpuint(u.exclusive_pages, ==, u.stored_pages);
    g_assert_cmpint(ms_image_usage(child, 1, &u), ==, 0);
    g_assert_cmpuint(u.exclusive_pages, <, u.stored_pages);
    ms_image_unref(copy);
    ms_image_unref(child);
    assert_nothing_left();
}

static size_t block_by_definition(size_t page, size_t pages)
{
    size_t best = page % SMALL_BLOCK || pages < SMALL_BLOCK
                      ? ms_min(pages, SMALL_BLOCK - page % SMALL_BLOCK)
                      : SMALL_BLOCK;
    for (size_t block = FANOUT; block <= pages && page % block == 0; block *= FANOUT)
        best = block;
    return best;
}

static void test_block(void)
{
    for (size_t page = 0; page < 600; page++)
        for (size_t pages = 1; pages < 600; pages++)
            g_assert_cmpuint(ms_image_block(page, pages), ==, block_by_definition(page, pages));
    g_assert_cmpuint(ms_image_block(0, 262143), ==, 4096);
    g_assert_cmpuint(ms_image_block(0, 262144), ==, 262144);
    g_assert_cmpuint(ms_image_block(4096, 262144), ==, 4096);
    g_assert_cmpuint(ms_image_block(0, SIZE_MAX), ==,
                     (size_t)1 << (sizeof(size_t) * 8 - 1) / FANOUT_BITS * FANOUT_BITS);
    g_assert_cmpuint(ms_image_block(5, 3), ==, 3);
    g_assert_cmpuint(ms_image_block(5, 30), ==, 11);
}

/* A chunk that ms_image_block() cuts is in one slot, or in slots of one node, and dies when these
 * are overwritten. */
static void test_block_fills_slot(void)
{
    struct image *zero = zero_image(100000);
    for (size_t page = 0, pages = 70000; pages > 0;) {
        size_t block = ms_image_block(page, pages);
        struct chunk *c = chunk_new(block);
        struct image *i = image_with(zero, (struct run){page, block, c, 0});
        g_assert_cmpuint(ms_chunk_refs(c) - 1, ==, block < FANOUT ? block : 1);
        chunk_release(c);
        struct image *gone = image_with(i, (struct run){page, block, NULL, 0});
        ms_image_unref(i);
        g_assert_cmpuint(live_chunks, ==, 0);
        g_assert_cmpuint(live_blocks, ==, 2);
        ms_image_unref(gone);
        page += block;
        pages -= block;
    }
    ms_image_unref(zero);
    assert_nothing_left();
}

static void test_copy_cost(void)
{
    static const size_t sizes[] = {1, 2, 64, 65, 256, 257, 4097, 100000};
    for (size_t n = 0; n < G_N_ELEMENTS(sizes); n++) {
        size_t pages = sizes[n];
        if (RUNNING_ON_VALGRIND && pages > 5000)
            break;
        struct chunk *c = chunk_new(1);
        struct image *from[] = {zero_image(pages), fragmented_image(pages)};
        for (size_t k = 0; k < G_N_ELEMENTS(from); k++) {
            size_t page = (size_t)g_test_rand_int_range(0, (gint32)pages), before = allocations;
            struct image *i = image_with(from[k], (struct run){page, 1, c, 0});
            g_assert_cmpuint(allocations - before, <=, height(pages) + 1);
            /* now the edit owns the nodes on the way */
            struct image_edit e;
            g_assert_cmpint(ms_image_edit_begin(&e, i), ==, 0);
            ms_image_unref(i);
            before = allocations;
            struct run again = {page, 1, NULL, 0};
            g_assert_cmpint(ms_image_edit_set(&e, &again), ==, 0);
            g_assert_cmpuint(allocations - before, ==, 0);
            ms_image_edit_abandon(&e);
            ms_image_unref(from[k]);
        }
        chunk_release(c);
        assert_nothing_left();
    }
}

/* Changing a single page leaves one reference to the old chunk in each node on the way. Changing
 * the image back, or dropping one version, leaves those that other versions need. */
static void test_one_reference_for_the_rest(void)
{
    enum { PAGES = FANOUT * FANOUT * FANOUT };
    struct chunk *base = chunk_new(PAGES), *c = chunk_new(1);
    struct image *whole = NULL;
    g_assert_cmpint(ms_image_of_chunk(base, PAGES, &whole), ==, 0);
    g_assert_cmpuint(ms_chunk_refs(base), ==, 2);
    struct image *one = image_with(whole, (struct run){1000, 1, c, 0});
    g_assert_cmpuint(ms_chunk_refs(base), ==, 2 + 3);
    /* in the same nodes, which are copied */
    struct image *two = image_with(one, (struct run){1001, 1, c, 0});
    g_assert_cmpuint(ms_chunk_refs(base), ==, 2 + 3 + 3);
    ms_image_unref(one);
    ms_image_unref(whole);
    g_assert_cmpuint(ms_chunk_refs(base), ==, 1 + 3);
    struct image_edit e;
    g_assert_cmpint(ms_image_edit_begin(&e, two), ==, 0);
    ms_image_unref(two);
    struct run leaf = {1000 / FANOUT * FANOUT, FANOUT - 1, c, 0},
               last = {leaf.first + FANOUT - 1, 1, c, 0};
    for (size_t k = 0; k < leaf.pages; k++) {
        struct run run = {leaf.first + k, 1, c, 0};
        g_assert_cmpint(ms_image_edit_set(&e, &run), ==, 0);
        g_assert_cmpuint(ms_chunk_refs(base), ==, 1 + 3);
    }
    g_assert_cmpint(ms_image_edit_set(&e, &last), ==,
                    0); /* the leaf no longer refers to the base */
    g_assert_cmpuint(ms_chunk_refs(base), ==, 1 + 2);
    struct run back = {0, PAGES, base, 0};
    g_assert_cmpint(ms_image_edit_set(&e, &back), ==, 0);
    g_assert_cmpuint(ms_chunk_refs(base), ==, 1 + 1);
    g_assert_cmpuint(ms_chunk_refs(c), ==, 1);
    ms_image_edit_abandon(&e);
    chunk_release(c);
    chunk_release(base);
    assert_nothing_left();
}

/* When the last child that was part of `rest` gets its own slot, `rest` becomes zero, and zero
 * children lose their slots. So the node goes when the other children become zero as well. */
static void test_rest_becomes_zero(void)
{
    struct chunk *base = chunk_new(FANOUT * FANOUT), *c = chunk_new(1);
    struct image *whole = NULL;
    struct image_edit e;
    g_assert_cmpint(ms_image_of_chunk(base, FANOUT * FANOUT, &whole), ==, 0);
    g_assert_cmpint(ms_image_edit_begin(&e, whole), ==, 0);
    for (size_t round = 0; round < 2; round++)
        for (size_t k = 0; k < FANOUT; k++) {
            struct run run = {k, 1, round || k % 3 == 0 ? NULL : c, 0};
            if (round == 0 || k % 3)
                g_assert_cmpint(ms_image_edit_set(&e, &run), ==, 0);
        }
    assert_run(e.image, 0, (size_t)FANOUT * FANOUT, FANOUT, NULL, 0);
    g_assert_cmpuint(live_blocks, ==, 3); /* two images and a node over 64 leaves */
    g_assert_cmpuint(ms_chunk_refs(c), ==, 1);
    ms_image_edit_abandon(&e);
    ms_image_unref(whole);
    chunk_release(c);
    chunk_release(base);
    assert_nothing_left();
}

/* Chunks freed together are given back in page order, before the call returns. */
static void test_reclaim_in_order(void)
{
    struct image *i = fragmented_image(5000);
    flushes = 0;
    struct image *cut = image_with(i, (struct run){1000, 3000, NULL, 0});
    g_assert_cmpuint(flushes, ==, 0);
    ms_image_unref(i);
    g_assert_cmpuint(flushes, ==, 1);
    g_assert_cmpuint(live_chunks, ==, 2000);
    ms_image_unref(cut);
    g_assert_cmpuint(flushes, ==, 3);
    assert_nothing_left();

    i = fragmented_image(5000);
    struct image_edit e;
    g_assert_cmpint(ms_image_edit_begin(&e, i), ==, 0);
    ms_image_unref(i);
    flushes = 0;
    struct run zero = {7, 4000, NULL, 0};
    g_assert_cmpint(ms_image_edit_set(&e, &zero), ==, 0);
    g_assert_cmpuint(flushes, ==, 1);
    g_assert_cmpuint(live_chunks, ==, 1000);
    g_assert_cmpuint(unflushed, ==, 0);
    ms_image_edit_abandon(&e);
    assert_nothing_left();
}

/* The slots that are replaced may hold the only reference to the chunk that replaces them. */
static void test_set_to_itself(void)
{
    struct chunk *c = chunk_new(64);
    struct image *zero = zero_image(64);
    struct image *i = image_with(zero, (struct run){3, 20, c, 3});
    ms_image_unref(zero);
    chunk_release(c);
    struct image_edit e;
    g_assert_cmpint(ms_image_edit_begin(&e, i), ==, 0);
    ms_image_unref(i);
    struct run run = {0, 64, c, 0};
    g_assert_cmpint(ms_image_edit_set(&e, &run), ==, 0);
    i = ms_image_edit_finish(&e);
    assert_run(i, 0, (size_t)64, 64, c, 0);
    g_assert_cmpuint(live_blocks, ==, 1);
    ms_image_unref(i);
    assert_nothing_left();
}

/* ---- failing allocations --------------------------------------------------------------------- */

typedef int call_fn(const struct image *from, struct chunk *c);

/* Lets 0, 1, 2 ... allocations succeed until the call succeeds. Each failed call must leave
 * everything as it was. Returns how often it failed. */
static size_t fail_each(call_fn *call, const struct image *from, struct chunk *c)
{
    size_t blocks = live_blocks, refs = c ? ms_chunk_refs(c) : 0, chunks = live_chunks;
    for (size_t n = 0;; n++) {
        fail_after = n;
        int e = call(from, c);
        fail_after = SIZE_MAX;
        g_assert_cmpuint(live_blocks, ==, blocks);
        g_assert_cmpuint(live_chunks, ==, chunks);
        g_assert_cmpuint(c ? ms_chunk_refs(c) : 0, ==, refs);
        if (!e)
            return n;
        g_assert_cmpint(e, ==, -ENOMEM);
    }
}

static int call_zero(const struct image *from, struct chunk *c)
{
    (void)c;
    struct image *const untouched = (struct image *)&live_blocks, *i = untouched;
    int e = ms_image_zero(ms_image_pages(from), &i);
    if (e)
        g_assert_true(i == untouched);
    else
        ms_image_unref(i);
    return e;
}

static int call_of_chunk(const struct image *from, struct chunk *c)
{
    struct image *const untouched = (struct image *)&live_blocks, *i = untouched;
    int e = ms_image_of_chunk(c, ms_image_pages(from), &i);
    if (e)
        g_assert_true(i == untouched);
    else
        ms_image_unref(i);
    return e;
}

static int call_usage(const struct image *from, struct chunk *c)
{
    (void)c;
    struct image_usage u = {.runs = 12345};
    int e = ms_image_usage(from, 1, &u);
    g_assert_true(!e || u.runs == 12345);
    return e;
}

static struct run edit_run;

static int call_edit(const struct image *from, struct chunk *c)
{
    struct image_edit edit;
    int e = ms_image_edit_begin(&edit, from);
    if (e)
        return e;
    struct run run = edit_run;
    run.chunk = c;
    e = ms_image_edit_set(&edit, &run);
    if (!e) {
        ms_image_unref(ms_image_edit_finish(&edit));
        return 0;
    }
    ms_image_edit_abandon(&edit);
    return e;
}

static void test_allocation_failures(void)
{
    enum { PAGES = 5000 };
    struct chunk *c = chunk_new(PAGES);
    struct image *whole = NULL;
    g_assert_cmpint(ms_image_of_chunk(c, PAGES, &whole), ==, 0);
    struct image *from[] = {zero_image(PAGES), whole, fragmented_image(PAGES)};
    static const struct run runs[] = {
        {0, 1, NULL, 1},   {PAGES - 1, 1, NULL, 0}, {100, 4000, NULL, 200},
        {15, 18, NULL, 0}, {4095, 2, NULL, 0},
    };
    for (size_t k = 0; k < G_N_ELEMENTS(from); k++) {
        g_assert_cmpuint(fail_each(call_zero, from[k], NULL), ==, 1);
        g_assert_cmpuint(fail_each(call_of_chunk, from[k], c), ==, 1);
        size_t tables = fail_each(call_usage, from[k], NULL);
        g_assert_cmpuint(tables, >=, k == 0 ? 0 : k == 1 ? 1 : 5);
        for (size_t n = 0; n < G_N_ELEMENTS(runs); n++) {
            edit_run = runs[n];
            g_assert_cmpuint(fail_each(call_edit, from[k], k == 1 ? NULL : c), >=,
                             height(PAGES) + 1);
            edit_run.chunk_page = 0;
            fail_each(call_edit, from[k], NULL);
        }
    }
    assert_run(from[0], 0, (size_t)PAGES, PAGES, NULL, 0);
    assert_run(from[1], 0, (size_t)PAGES, PAGES, c, 0);
    for (size_t p = 0; p < PAGES; p++) {
        struct run run;
        ms_image_run(from[2], p, PAGES, &run);
        g_assert_cmpuint(run.pages, ==, 1);
        g_assert_cmpuint(run.chunk->offset, ==, p);
    }
    for (size_t k = 0; k < G_N_ELEMENTS(from); k++)
        ms_image_unref(from[k]);
    chunk_release(c);
    assert_nothing_left();
}

/* ---- the model ------------------------------------------------------------------------------- */

/* The pages of an image are divided into cells, in the same way in all versions. Edits begin and
 * end at the borders of cells, the cuts. In small images each page is a cell. */
struct model {
    size_t pages, cells;
    size_t *cuts; /* cells + 1 of them: cell n is pages cuts[n] to cuts[n + 1] */
    GPtrArray *versions;
};

struct cell {
    struct chunk *chunk; /* borrowed from the version's image */
    size_t page;
};

struct version {
    struct image *image;
    struct cell *cells;
};

static size_t random_below(size_t limit)
{
    uint64_t r = (uint64_t)(uint32_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int();
    return (size_t)(r % limit);
}

static int compare_sizes(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

/* Cuts where it matters: at random, around multiples of powers of 64, at both ends. */
static void model_cut(struct model *m, size_t pages, size_t max_cells)
{
    m->pages = pages;
    m->cuts = g_new(size_t, max_cells + 2);
    if (pages <= max_cells) {
        m->cells = pages;
        for (size_t n = 0; n <= pages; n++)
            m->cuts[n] = n;
        return;
    }
    size_t n = 0;
    m->cuts[n++] = 0;
    m->cuts[n++] = pages;
    while (n < max_cells) {
        size_t block = (size_t)1 << FANOUT_BITS * random_below(height(pages));
        size_t at = random_below(pages) / block * block + random_below(5) - 2;
        if (at < pages)
            m->cuts[n++] = at;
    }
    qsort(m->cuts, n, sizeof *m->cuts, compare_sizes);
    size_t unique = 1;
    for (size_t k = 1; k < n; k++)
        if (m->cuts[k] != m->cuts[unique - 1])
            m->cuts[unique++] = m->cuts[k];
    m->cells = unique - 1;
}

static size_t cell_of(const struct model *m, size_t page)
{
    size_t low = 0, high = m->cells;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (m->cuts[middle] <= page)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static bool continues(const struct model *m, const struct version *v, size_t n)
{
    const struct cell *a = &v->cells[n], *b = &v->cells[n + 1];
    if (a->chunk != b->chunk)
        return false;
    return !a->chunk || b->page == a->page + (m->cuts[n + 1] - m->cuts[n]);
}

static void check_run(const struct model *m, const struct version *v, size_t page, size_t limit,
                      struct run *run)
{
    ms_image_run(v->image, page, limit, run);
    size_t n = cell_of(m, page), end = m->cuts[n + 1];
    const struct cell *c = &v->cells[n];
    g_assert_cmpuint(run->first, ==, page);
    g_assert_true(run->chunk == c->chunk);
    g_assert_cmpuint(run->chunk_page, ==, c->chunk ? c->page + (page - m->cuts[n]) : 0);
    while (end < limit && continues(m, v, n))
        end = m->cuts[++n + 1];
    g_assert_cmpuint(run->pages, ==, ms_min(end, limit) - page);
}

static void check_version(const struct model *m, const struct version *v)
{
    struct run run;
    assert_valid_image(v->image);
    g_assert_cmpuint(ms_image_pages(v->image), ==, m->pages);
    for (size_t page = 0; page < m->pages; page += run.pages)
        check_run(m, v, page, m->pages, &run);
    for (int n = 0; n < 20; n++) {
        size_t page = random_below(m->pages);
        check_run(m, v, page, page + 1 + random_below(m->pages - page), &run);
    }
}

static bool cells_same(const struct version *a, const struct version *b, size_t n)
{
    return a->cells[n].chunk == b->cells[n].chunk && a->cells[n].page == b->cells[n].page;
}

static void check_difference(const struct model *m, const struct version *a,
                             const struct version *b)
{
    size_t page = random_below(4) ? random_below(m->pages) : 0;
    size_t limit = random_below(4) ? page + random_below(m->pages - page + 1) : m->pages;
    size_t first, pages, n = page < limit ? cell_of(m, page) : m->cells;
    while (ms_image_differs(a->image, b->image, page, limit, &first, &pages)) {
        while (n < m->cells && cells_same(a, b, n))
            n++;
        g_assert_cmpuint(n, <, m->cells);
        g_assert_cmpuint(first, ==, ms_max(page, m->cuts[n]));
        while (n < m->cells && !cells_same(a, b, n))
            n++;
        page = first + pages;
        g_assert_cmpuint(page, ==, ms_min(limit, m->cuts[n]));
    }
    for (; n < m->cells && m->cuts[n] < limit; n++)
        g_assert_true(cells_same(a, b, n));
}

/* All chunks that a version's cells refer to, each once; value: the version. */
static GHashTable *chunks_of(const struct model *m, const struct version *v)
{
    GHashTable *set = g_hash_table_new(NULL, NULL);
    for (size_t n = 0; n < m->cells; n++)
        if (v->cells[n].chunk)
            g_hash_table_add(set, v->cells[n].chunk);
    return set;
}

/* Compares usage and exclusiveness of every version with what the others refer to. Every living
 * chunk is in some version. */
static void check_usage(const struct model *m)
{
    GHashTable *holders = g_hash_table_new(NULL, NULL);
    for (guint k = 0; k < m->versions->len; k++) {
        GHashTable *set = chunks_of(m, g_ptr_array_index(m->versions, k));
        GHashTableIter iter;
        gpointer c;
        g_hash_table_iter_init(&iter, set);
        while (g_hash_table_iter_next(&iter, &c, NULL))
            g_hash_table_insert(holders, c,
                                GUINT_TO_POINTER(GPOINTER_TO_UINT(g_hash_table_lookup(holders, c)) +
                                                 1));
        g_hash_table_unref(set);
    }
    g_assert_cmpuint(g_hash_table_size(holders), ==, live_chunks);

    for (guint k = 0; k < m->versions->len; k++) {
        const struct version *v = g_ptr_array_index(m->versions, k);
        struct image_usage u, expected = {0};
        GHashTable *set = chunks_of(m, v);
        GHashTableIter iter;
        gpointer key;
        g_hash_table_iter_init(&iter, set);
        while (g_hash_table_iter_next(&iter, &key, NULL)) {
            const struct chunk *c = key;
            expected.stored_pages += c->pages;
            if (g_hash_table_lookup(holders, c) == GUINT_TO_POINTER(1))
                expected.exclusive_pages += c->pages;
        }
        expected.chunks = g_hash_table_size(set);
        g_hash_table_unref(set);
        for (size_t n = 0; n < m->cells; n++)
            expected.runs += v->cells[n].chunk && (n == 0 || !continues(m, v, n - 1));
        g_assert_cmpint(ms_image_usage(v->image, 1, &u), ==, 0);
        g_assert_cmpuint(u.runs, ==, expected.runs);
        g_assert_cmpuint(u.chunks, ==, expected.chunks);
        g_assert_cmpuint(u.stored_pages, ==, expected.stored_pages);
        g_assert_cmpuint(u.exclusive_pages, ==, expected.exclusive_pages);

        struct chunk *owned = NULL;
        const struct cell *first = &v->cells[0];
        bool exclusive =
            expected.runs == 1 && first->chunk && first->page == 0 && expected.exclusive_pages > 0;
        for (size_t n = 0; n < m->cells; n++)
            exclusive = exclusive && v->cells[n].chunk;
        g_assert_cmpint(ms_image_is_exclusive(v->image, &owned), ==, exclusive);
        g_assert_true(owned == (exclusive ? first->chunk : NULL));
    }
    g_hash_table_unref(holders);
}

/* How many nodes the canonical tree of a version has in the block of 1 << bits pages at `first`. */
static size_t nodes_needed(const struct model *m, const struct version *v, size_t first,
                           unsigned bits)
{
    size_t left = m->pages - first, size = (size_t)1 << bits, end = first + ms_min(left, size),
           n = cell_of(m, first);
    while (m->cuts[n + 1] < end && continues(m, v, n))
        n++;
    if (m->cuts[n + 1] >= end)
        return 0;
    size_t nodes = 1;
    for (size_t at = first; at < end; at += size / FANOUT)
        nodes += nodes_needed(m, v, at, bits - FANOUT_BITS);
    return nodes;
}

/* An image that is put together from the version's cells, in another order, has exactly the nodes
 * that it needs. */
static void check_canonical(const struct model *m, const struct version *v)
{
    size_t before = live_blocks, step = random_below(m->cells) + 1, first, pages;
    struct image *zero = zero_image(m->pages);
    struct image_edit e;
    g_assert_cmpint(ms_image_edit_begin(&e, zero), ==, 0);
    ms_image_unref(zero);
    for (size_t start = 0; start < step; start++)
        for (size_t n = start; n < m->cells; n += step) {
            struct run run = {m->cuts[n], m->cuts[n + 1] - m->cuts[n], v->cells[n].chunk,
                              v->cells[n].page};
            g_assert_cmpint(ms_image_edit_set(&e, &run), ==, 0);
        }
    struct image *i = ms_image_edit_finish(&e);
    g_assert_cmpuint(live_blocks - before, ==,
                     1 + nodes_needed(m, v, 0, FANOUT_BITS * height(m->pages)));
    g_assert_false(ms_image_differs(i, v->image, 0, m->pages, &first, &pages));
    ms_image_unref(i);
}

static struct version *any_version(const struct model *m)
{
    return g_ptr_array_index(m->versions, random_below(m->versions->len));
}

static void version_free(struct version *v)
{
    ms_image_unref(v->image);
    g_free(v->cells);
    g_free(v);
}

static void drop_version(struct model *m)
{
    version_free(g_ptr_array_remove_index_fast(m->versions, (guint)random_below(m->versions->len)));
}

/* Chooses cells [*from, *to): one, a few, many, an aligned block, up to either end, or all. */
static void random_cells(const struct model *m, size_t *from, size_t *to)
{
    size_t n = m->cells, block;
    *from = random_below(n);
    switch (random_below(8)) {
    case 0:
        *to = *from + 1 + random_below(n - *from);
        return;
    case 1:
        *from = 0;
        *to = 1 + random_below(n);
        return;
    case 2:
        *to = n;
        return;
    case 3:
        *from = 0;
        *to = random_below(3) ? 1 + random_below(n) : n;
        return;
    case 4:
        block = (size_t)1 << FANOUT_BITS * random_below(height(m->pages) + 1);
        *from = cell_of(m, m->cuts[*from] / block * block);
        *to = cell_of(m, ms_min(m->pages, m->cuts[*from] + ms_min(block, m->pages)) - 1) + 1;
        return;
    case 5:
        *to = *from + 1 + random_below(ms_min(n - *from, 40));
        return;
    default:
        *to = *from + 1;
        return;
    }
}

/* Chooses what to put into `pages` pages from cell `from` on. *fresh: the chunk is new, and the
 * caller drops its first reference. */
static struct cell random_content(const struct model *m, const struct version *v, size_t from,
                                  size_t pages, bool *fresh)
{
    *fresh = false;
    struct cell around = {0};
    if (from > 0 && random_below(2)) { /* continue where the cell before ends */
        around = v->cells[from - 1];
        around.page += m->cuts[from] - m->cuts[from - 1];
    } else {
        around = any_version(m)->cells[random_below(m->cells)];
    }
    switch (random_below(5)) {
    case 0:
        return (struct cell){0};
    case 1:
    case 2:
        if (around.chunk && around.page <= around.chunk->pages &&
            pages <= around.chunk->pages - around.page)
            return around;
        if (around.chunk && pages <= around.chunk->pages)
            return (struct cell){around.chunk, random_below(around.chunk->pages - pages + 1)};
        /* fall through */
    default:
        *fresh = true;
        size_t spare = random_below(3) ? 0 : random_below(m->pages);
        return (struct cell){chunk_new(pages + spare), spare ? random_below(spare + 1) : 0};
    }
}

static void edit_cells(const struct model *m, struct version *v, struct image_edit *e)
{
    size_t from, to;
    bool fresh;
    random_cells(m, &from, &to);
    size_t pages = m->cuts[to] - m->cuts[from];
    struct cell content = random_content(m, v, from, pages, &fresh);
    struct run run = {m->cuts[from], pages, content.chunk, content.page};
    g_assert_cmpint(ms_image_edit_set(e, &run), ==, 0);
    if (fresh)
        chunk_release(content.chunk);
    for (size_t n = from; n < to; n++) {
        v->cells[n].chunk = content.chunk;
        v->cells[n].page = content.chunk ? content.page + (m->cuts[n] - m->cuts[from]) : 0;
    }
}

/* Sets cells to what another version has there. */
static void edit_back(const struct model *m, struct version *v, struct image_edit *e)
{
    const struct version *other = any_version(m);
    size_t from, to;
    random_cells(m, &from, &to);
    struct run run;
    for (size_t page = m->cuts[from]; page < m->cuts[to]; page += run.pages) {
        ms_image_run(other->image, page, m->cuts[to], &run);
        g_assert_cmpint(ms_image_edit_set(e, &run), ==, 0);
    }
    for (size_t n = from; n < to; n++)
        v->cells[n] = other->cells[n];
}

static void add_child(struct model *m)
{
    const struct version *parent = any_version(m);
    struct version *v = g_new0(struct version, 1);
    struct image_edit e;
    v->cells = g_memdup2(parent->cells, m->cells * sizeof *v->cells);
    g_assert_cmpint(ms_image_edit_begin(&e, parent->image), ==, 0);
    for (size_t edits = random_below(2) ? 1 : random_below(30); edits > 0; edits--) {
        if (random_below(4))
            edit_cells(m, v, &e);
        else
            edit_back(m, v, &e);
        g_assert_cmpuint(unflushed, ==, 0);
        assert_valid_image(e.image);
    }
    v->image = e.image;
    if (random_below(10) == 0) {
        ms_image_edit_abandon(&e);
        g_free(v->cells);
        g_free(v);
        return;
    }
    g_assert_true(ms_image_edit_finish(&e) == v->image);
    check_version(m, v);
    check_difference(m, parent, v);
    g_ptr_array_add(m->versions, v);
}

static void add_root(struct model *m)
{
    struct version *v = g_new0(struct version, 1);
    v->cells = g_new0(struct cell, m->cells);
    if (random_below(2)) {
        v->image = zero_image(m->pages);
    } else {
        struct chunk *c = chunk_new(m->pages);
        g_assert_cmpint(ms_image_of_chunk(c, m->pages, &v->image), ==, 0);
        chunk_release(c);
        for (size_t n = 0; n < m->cells; n++)
            v->cells[n] = (struct cell){c, m->cuts[n]};
    }
    g_ptr_array_add(m->versions, v);
}

static void check_all(const struct model *m)
{
    for (guint k = 0; k < m->versions->len; k++)
        check_version(m, g_ptr_array_index(m->versions, k));
    check_usage(m);
}

struct model_case {
    const char *path;
    size_t pages, max_cells, steps;
};

static void test_model(const void *data)
{
    const struct model_case *mc = data;
    enum { MAX_VERSIONS = 24 };
    struct model m = {0};
    size_t steps = mc->steps;
    if (g_test_thorough())
        steps *= 50;
    if (RUNNING_ON_VALGRIND)
        steps = steps / 20 + 1;
    model_cut(&m, mc->pages, mc->max_cells);
    m.versions = g_ptr_array_new();
    add_root(&m);
    for (size_t step = 0; step < steps; step++) {
        if (m.versions->len == 0 || random_below(40) == 0)
            add_root(&m);
        else
            add_child(&m);
        while (m.versions->len > MAX_VERSIONS || (m.versions->len > 0 && random_below(3) == 0))
            drop_version(&m);
        if (m.versions->len > 0) {
            check_version(&m, any_version(&m));
            check_difference(&m, any_version(&m), any_version(&m));
        }
        if (step % 50 == 0)
            check_all(&m);
        if (m.versions->len > 0 && random_below(20) == 0)
            check_canonical(&m, any_version(&m));
    }
    check_all(&m);
    while (m.versions->len > 1)
        drop_version(&m);
    if (m.versions->len == 1) {
        const struct version *last = g_ptr_array_index(m.versions, 0);
        g_assert_cmpuint(live_blocks, ==,
                         1 + nodes_needed(&m, last, 0, FANOUT_BITS * height(m.pages)));
        check_all(&m);
        drop_version(&m);
    }
    assert_nothing_left();
    g_ptr_array_unref(m.versions);
    g_free(m.cuts);
}

/* ---- threads --------------------------------------------------------------------------------- */

static void *thread_of_edits(void *data)
{
    struct image *base = data;
    size_t pages = ms_image_pages(base);
    size_t rounds = RUNNING_ON_VALGRIND ? 10 : 200;
    for (size_t n = 0; n < rounds; n++) {
        struct image_edit e;
        g_assert_cmpint(ms_image_edit_begin(&e, base), ==, 0);
        ms_image_unref(base); /* now the edit changes what only this thread holds in place */
        for (size_t k = 0; k < 3; k++) {
            struct run run = {(n * 7919 + k * 104729) % pages, 1, chunk_new(1), 0};
            g_assert_cmpint(ms_image_edit_set(&e, &run), ==, 0);
            chunk_release(run.chunk);
        }
        base = ms_image_edit_finish(&e);
    }
    ms_image_unref(base);
    return NULL;
}

/* Threads edit the same image, each for itself. A thread that holds the last reference to a node
 * changes it in place, after the others have read it. */
static void test_threads(void)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    /* DRD takes quadratic time */
    struct image *base = fragmented_image(RUNNING_ON_VALGRIND ? 200 : 600);
    threaded = true;
    for (int n = 0; n < THREADS; n++)
        g_assert_cmpint(pthread_create(&threads[n], NULL, thread_of_edits, ms_image_ref(base)), ==,
                        0);
    thread_of_edits(base);
    for (int n = 0; n < THREADS; n++)
        pthread_join(threads[n], NULL);
    threaded = false;
    assert_nothing_left();
}

/* ---- counts that run over -------------------------------------------------------------------- */

static void test_refcount_overflow(void)
{
#ifdef NDEBUG
    g_test_skip("assertions are compiled out");
#else
    struct chunk *c = chunk_new(1);
    struct image *i = NULL;
    ms_chunk_ref_many(c, SIZE_MAX / 2 - 1);
    /* not a subprocess of GLib: it leaves a thread behind that the checkers report */
    pid_t child = fork();
    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
        close(STDERR_FILENO);
        int made = ms_image_of_chunk(c, 1, &i);
        if (!made)
            ms_image_of_chunk(c, 1, &i);
        _exit(made ? 2 : 0);
    }
    int status;
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    atomic_fetch_sub(&c->refs, SIZE_MAX / 2 - 1);
    chunk_release(c);
    assert_nothing_left();
#endif
}

int main(int argc, char **argv)
{
    static const struct model_case cases[] =
    { {"/image/model/1", 1, 10000, 500},
      {"/image/model/2", 2, 10000, 500},
      {"/image/model/15", 15, 10000, 1000},
      {"/image/model/16", 16, 10000, 1000},
      {"/image/model/17", 17, 10000, 1000},
      {"/image/model/63", 63, 10000, 800},
      {"/image/model/64", 64, 10000, 800},
      {"/image/model/65", 65, 10000, 800},
      {"/image/model/255", 255, 10000, 600},
      {"/image/model/256", 256, 10000, 600},
      {"/image/model/257", 257, 10000, 600},
      {"/image/model/4096", 4096, 10000, 150},
      {"/image/model/4097", 4097, 10000, 150},
      {"/image/model/100000", 100000, 2000, 200},
      {"/image/model/100000-pages", 100000, 100000, 12},
#if SIZE_MAX > 0xffffffffu
      {"/image/model/2^40", (size_t)1 << 40, 1000, 300},
      {"/image/model/2^60", (size_t)1 << 60, 300, 200},
#endif
    };
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/image/empty", test_empty);
    g_test_add_func("/image/one-run", test_one_run);
    g_test_add_func("/image/extremes", test_extremes);
    g_test_add_func("/image/collapse", test_collapse);
    g_test_add_func("/image/exclusive", test_exclusive);
    g_test_add_func("/image/remembered", test_remembered);
    g_test_add_func("/image/usage-together", test_usage_together);
    g_test_add_func("/image/usage", test_usage);
    g_test_add_func("/image/block", test_block);
    g_test_add_func("/image/block-fills-slot", test_block_fills_slot);
    g_test_add_func("/image/copy-cost", test_copy_cost);
    g_test_add_func("/image/one-reference-for-the-rest", test_one_reference_for_the_rest);
    g_test_add_func("/image/rest-becomes-zero", test_rest_becomes_zero);
    g_test_add_func("/image/reclaim-in-order", test_reclaim_in_order);
    g_test_add_func("/image/set-to-itself", test_set_to_itself);
    g_test_add_func("/image/allocation-failures", test_allocation_failures);
    for (size_t n = 0; n < G_N_ELEMENTS(cases); n++)
        g_test_add_data_func(cases[n].path, &cases[n], test_model);
    g_test_add_func("/image/refcount-overflow", test_refcount_overflow);
    g_test_add_func("/image/threads", test_threads);
    return g_test_run();
}
