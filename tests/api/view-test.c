/* SPDX-License-Identifier: MIT */
/* Ordinary views: copy-on-write, taking, restoring, protections, dirty pages, fixed addresses,
 * recycling. */
#include "config.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mapping/mapping.h"
#include "storage/store.h"
#include "support/support.h"

static size_t sizes[8];
#define N_SIZES G_N_ELEMENTS(sizes)

static void init_sizes(void)
{
    const size_t list[N_SIZES] = {1,           page - 1, page,        4 * page, 5 * page + 1,
                                  2 * MIB - 1, 2 * MIB,  5 * MIB + 17};
    memcpy(sizes, list, sizeof sizes);
    shrink_for_valgrind(sizes, N_SIZES);
}

/* Changes some pages of the view, and the model with them. */
static void scribble(memsnap_view *v, unsigned char *model, size_t size, struct rng *rng)
{
    for (int i = 0; i < 12; i++) {
        size_t at = rng_below(rng, size), len = ms_min(size - at, rng_below(rng, 2 * page) + 1);
        fill(bytes(v) + at, len, rng_next(rng));
        memcpy(model + at, bytes(v) + at, len);
    }
}

/* ---- copy-on-write --------------------------------------------------------------------------- */

static void test_isolation(void)
{
    enum { VIEWS = 5 };
    struct rng rng = {1};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *data = pattern(size, i), *model[VIEWS];
        memsnap_snapshot *s = snap(data, size);
        memsnap_view *v[VIEWS];
        for (int k = 0; k < VIEWS; k++) {
            v[k] = view(s);
            model[k] = g_memdup2(data, size);
            scribble(v[k], model[k], size, &rng);
        }
        for (int k = 0; k < VIEWS; k++)
            assert_same(bytes(v[k]), model[k], size);
        assert_content(s, data, size);
        memsnap_snapshot_unref(s);
        for (int k = 0; k < VIEWS; k++) {
            assert_same(bytes(v[k]), model[k], size);
            memsnap_view_unref(v[k]);
            g_free(model[k]);
        }
        g_free(data);
    }
}

static void test_zeroed_isolation(void)
{
    size_t size = (on_valgrind() ? 20 * page : 3 * MIB) + 5;
    unsigned char *zero = g_malloc0(size);
    memsnap_snapshot *s = snap_zero(size);
    memsnap_view *v = view(s), *w = view(s);
    fill(bytes(v), size, 1);
    assert_same(bytes(w), zero, size);
    assert_content(s, zero, size);
    memsnap_view_unref(v);
    assert_content(s, zero, size);
    memsnap_view_unref(w);
    memsnap_snapshot_unref(s);
    g_free(zero);
}

static void test_open_flags(void)
{
    size_t size = (on_valgrind() ? 20 * page : 2 * MIB) + 3 * page + 9;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size);
    for (unsigned flags = 0; flags < 8; flags++) {
        memsnap_view *v = NULL;
        assert_ok(memsnap_snapshot_view(s, flags, &v));
        assert_same(bytes(v), data, size);
        if (flags & MEMSNAP_VIEW_COPY)
            g_assert_cmpuint(view_stats(v).private_bytes, ==, round_up(size));
        size_t cursor = 0;
        struct memsnap_range r;
        g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 0);
        bytes(v)[page] ^= 1;
        bytes(v)[size - 1] ^= 1;
        cursor = 0;
        g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 1);
        g_assert_cmpuint(r.offset, ==, page);
        g_assert_cmpuint(r.len, ==, page);
        assert_ok(memsnap_view_restore(v));
        assert_same(bytes(v), data, size);
        memsnap_view_unref(v);
    }
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* Residency of [p, p + size) as mincore sees it; false where it cannot tell. */
static bool all_resident(void *p, size_t size)
{
    size_t n = round_up(size) / page, present = 0;
    unsigned char *v = g_malloc(n);
    bool told = mincore(p, size, v) == 0;
    for (size_t i = 0; told && i < n; i++)
        present += v[i] & 1;
    g_free(v);
    return told && present == n;
}

static void test_copy_and_prefault(void)
{
    size_t size = 2 * MIB;
    memsnap_snapshot *s = snap_pattern(size, 1);
    const unsigned flags[] = {MEMSNAP_VIEW_COPY, MEMSNAP_VIEW_PREFAULT};
    for (size_t i = 0; i < 2; i++) {
        memsnap_view *v = NULL;
        assert_ok(memsnap_snapshot_view(s, flags[i], &v));
        g_assert_true(all_resident(bytes(v), size));
        memsnap_view_unref(v);
    }
    memsnap_snapshot_unref(s);
}

/* ---- the last page --------------------------------------------------------------------------- */

/* What is stored beyond the size is not part of the image. */
static void test_tail(void)
{
    size_t size = 6 * page + 100, rest = page - 100, cursor = 0;
    unsigned char *data = pattern(size, 1);
    struct memsnap_range r;
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *v = view(s);
    g_assert_true(all_zero(bytes(v) + size, rest));
    memset(bytes(v) + size, 0xEE, rest);
    g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 0);
    memsnap_snapshot *t = take(v);
    g_assert_cmpuint(snap_stats(t).stored_bytes, ==, snap_stats(s).stored_bytes);
    assert_content(t, data, size);
    memsnap_view *w = view(t);
    g_assert_true(all_zero(bytes(w) + size, rest));
    memsnap_view_unref(w);
    memsnap_snapshot_unref(t);

    bytes(v)[size - 1] ^= 1; /* now the page is dirty, and still ends where the size is */
    data[size - 1] ^= 1;
    t = take(v);
    assert_content(t, data, size);
    memsnap_snapshot_unref(t);
    data[size - 1] ^= 1;

    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), data, size);
    g_assert_true(all_zero(bytes(v) + size, rest));
    memset(bytes(v) + size, 0xEE, rest);
    memsnap_view_unref(v);
    v = view(s);
    g_assert_true(all_zero(bytes(v) + size, rest));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* ---- take ------------------------------------------------------------------------------------ */

static void test_take(void)
{
    struct rng rng = {3};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *data = pattern(size, i), *model = g_memdup2(data, size);
        memsnap_snapshot *s = snap(data, size);
        memsnap_view *v = view(s);
        void *address = memsnap_view_data(v);
        scribble(v, model, size, &rng);
        memsnap_snapshot *first = take(v);
        unsigned char *at_first = g_memdup2(model, size);
        assert_same(bytes(v), model, size);
        scribble(v, model, size, &rng);
        memsnap_snapshot *second = take(v);
        unsigned char *at_second = g_memdup2(model, size);
        scribble(v, model, size, &rng);
        g_assert_true(memsnap_view_data(v) == address);
        assert_same(bytes(v), model, size);
        assert_content(first, at_first, size);
        assert_content(second, at_second, size);
        assert_ok(memsnap_view_restore(v)); /* taking does not change the base */
        assert_same(bytes(v), data, size);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(first);
        assert_content(s, data, size);
        memsnap_snapshot_unref(s);
        assert_content(second, at_second, size);
        memsnap_snapshot_unref(second);
        g_free(data);
        g_free(model);
        g_free(at_first);
        g_free(at_second);
    }
}

/* The second snapshot of a restored region is where others have lost pages. */
static void test_take_restore_take(void)
{
    struct rng rng = {8};
    size_t size = 80 * page + 3;
    unsigned char *data = pattern(size, 1), *model = g_malloc(size);
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *v = view(s);
    for (int i = 0; i < (on_valgrind() ? 15 : 200); i++) {
        memcpy(model, data, size);
        assert_ok(memsnap_view_restore(v));
        assert_same(bytes(v), data, size);
        scribble(v, model, size, &rng);
        memsnap_snapshot *t = take(v);
        if (i % 3 == 0)
            assert_ok(memsnap_view_restore(v));
        if (i % 5 == 0) {
            assert_ok(memsnap_view_restore_to(v, t));
            assert_same(bytes(v), model, size);
            assert_ok(memsnap_view_restore_to(v, s));
            assert_same(bytes(v), data, size);
        }
        assert_content(t, model, size);
        memsnap_snapshot_unref(t);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(data);
    g_free(model);
}

/* What is stored for a child is what changed, not what was written. */
static void test_take_stores_changes_only(void)
{
    size_t size = 2 * MIB + 64 * page;
    unsigned char *data = pattern(size, 1);
    memset(data + 20 * page, 0, page);
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *v = view(s);
    memcpy(bytes(v), data, size); /* the same bytes once more */
    memsnap_snapshot *same = take(v);
    memset(bytes(v) + 30 * page, 0, page); /* zero is not stored either */
    bytes(v)[40 * page] ^= 1;
    memsnap_snapshot *other = take(v);
    memcpy(bytes(v), data, size); /* and back again */
    memsnap_snapshot *back = take(v);
    memsnap_view_unref(v);
    g_assert_cmpuint(snap_stats(same).exclusive_bytes, ==, 0);
    g_assert_cmpuint(snap_stats(same).stored_bytes, ==, snap_stats(s).stored_bytes);
    g_assert_cmpuint(snap_stats(other).exclusive_bytes, ==, page);
    g_assert_cmpuint(snap_stats(back).exclusive_bytes, ==, 0);
    size_t cursor = 0;
    struct memsnap_range r;
    g_assert_cmpint(memsnap_snapshot_diff(s, back, &cursor, &r, 1), ==, 0);
    assert_content(same, data, size);
    assert_content(back, data, size);
    memset(data + 30 * page, 0, page);
    data[40 * page] ^= 1;
    assert_content(other, data, size);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(same);
    memsnap_snapshot_unref(other);
    memsnap_snapshot_unref(back);
    g_free(data);
}

/* Sixty-four children cost their changes, and give them back. */
static void test_children_share(void)
{
    enum { CHILDREN = 64, CHANGED = 16 };
    size_t size = on_valgrind() ? 64 * page : 4 * MIB, pages = size / page;
    memsnap_snapshot *s = snap_pattern(size, 1), *t[CHILDREN];
    size_t stored = snap_stats(s).stored_bytes, objects = object_bytes(), fds = descriptors();
    memsnap_view *v = view(s);
    for (size_t i = 0; i < CHILDREN; i++) {
        for (size_t k = 0; k < CHANGED; k++)
            bytes(v)[(k * 37 + i) % pages * page] ^= 0x21;
        t[i] = take(v);
        assert_ok(memsnap_view_restore(v));
    }
    memsnap_view_unref(v);
    for (size_t i = 0; i < CHILDREN; i++)
        g_assert_cmpuint(snap_stats(t[i]).exclusive_bytes, ==, CHANGED * page);
    g_assert_cmpuint(snap_stats(s).stored_bytes, ==, stored);
    if (!config_is("heap"))
        g_assert_cmpuint(object_bytes(), <=, objects + (CHILDREN * CHANGED + MS_FREE_PAGES) * page);
    g_assert_cmpuint(descriptors(), <=, fds + 2);
    for (size_t i = 0; i < CHILDREN; i++)
        memsnap_snapshot_unref(t[i]);
    if (!config_is("heap"))
        g_assert_cmpuint(object_bytes(), <=, objects + MS_FREE_PAGES * page);
    memsnap_snapshot_unref(s);
    g_assert_cmpuint(object_bytes(), <=, objects - (config_is("heap") ? 0 : size / 2));
}

/* Thousands of generations, of which only the last few live. */
static void test_chain(void)
{
    enum { LIVE = 5 };
    size_t size = 256 * KIB, rounds = on_valgrind() ? 100 : 3000, settled = rounds / 4;
    size_t fds = 0, maps = 0, objects = 0, rss = 0;
    unsigned char *model = pattern(size, 1);
    struct rng rng = {11};
    memsnap_snapshot *live[LIVE] = {snap(model, size)};
    for (size_t i = 1; i < rounds; i++) {
        memsnap_view *v = view(live[(i - 1) % LIVE]);
        for (int k = 0; k < 3; k++) {
            size_t at = rng_below(&rng, size);
            model[at] = bytes(v)[at] = (unsigned char)(bytes(v)[at] + 1);
        }
        memsnap_snapshot_unref(live[i % LIVE]);
        live[i % LIVE] = take(v);
        memsnap_view_unref(v);
        if (i == settled) {
            fds = descriptors();
            maps = mappings();
            objects = object_bytes();
            rss = resident("VmRSS");
        }
        if (i % 100 == 0)
            assert_content(live[i % LIVE], model, size);
    }
    assert_content(live[(rounds - 1) % LIVE], model, size);
    g_assert_cmpuint(descriptors(), <=, fds + 1);
    g_assert_cmpuint(mappings(), <=, maps + 64);
    g_assert_cmpuint(object_bytes(), <=, objects + 2 * MIB);
    if (!on_valgrind() && !on_sanitizer())
        g_assert_cmpuint(resident("VmRSS"), <=, rss + 8 * MIB);
    for (size_t i = 0; i < LIVE; i++)
        memsnap_snapshot_unref(live[i]);
    g_free(model);
}

/* Thousands that live all at once. */
static void test_many_snapshots(void)
{
    size_t size = 256 * page, many = on_valgrind() ? 50 : 2000;
    memsnap_snapshot **all = g_new0(memsnap_snapshot *, many);
    size_t fds = descriptors(), maps = mappings();
    all[0] = snap_zero(size);
    memsnap_view *v = view(all[0]);
    for (size_t i = 1; i < many; i++) {
        memcpy(bytes(v) + i % 256 * page, &i, sizeof i);
        all[i] = take(v);
    }
    g_assert_cmpuint(descriptors(), <=, fds + 2);
    g_assert_cmpuint(mappings(), <=, maps + many / 4 + 64);
    for (size_t i = 1; i < many; i++) {
        size_t newest, next = 0;
        assert_ok(memsnap_snapshot_read(all[i], i % 256 * page, &newest, sizeof newest));
        g_assert_cmpuint(newest, ==, i);
        assert_ok(memsnap_snapshot_read(all[i], (i + 1) % 256 * page, &next, sizeof next));
        g_assert_cmpuint(next, ==, i < 256 ? 0 : i - 255);
    }
    for (size_t i = 0; i < many; i++)
        memsnap_snapshot_unref(all[i]);
    memsnap_view_unref(v);
    g_free(all);
}

/* A snapshot of a view on a snapshot of a view ... */
static void test_nested(void)
{
    enum { DEPTH = 40 };
    size_t size = (on_valgrind() ? 8 : 64) * page + 5;
    unsigned char *model[DEPTH];
    memsnap_snapshot *s[DEPTH];
    struct rng rng = {21};
    model[0] = pattern(size, 1);
    s[0] = snap(model[0], size);
    for (int i = 1; i < DEPTH; i++) {
        memsnap_view *v = view(s[i - 1]);
        model[i] = g_memdup2(model[i - 1], size);
        scribble(v, model[i], size, &rng);
        s[i] = take(v);
        memsnap_view_unref(v);
    }
    for (int i = 0; i < DEPTH; i++)
        assert_content(s[i], model[i], size);
    for (int i = 0; i < DEPTH; i += 2)
        memsnap_snapshot_unref(s[i]);
    for (int i = 1; i < DEPTH; i += 2) {
        assert_content(s[i], model[i], size);
        memsnap_snapshot_unref(s[i]);
    }
    for (int i = 0; i < DEPTH; i++)
        g_free(model[i]);
}

static void test_take_atomic(void)
{
    size_t size = 100 * page;
    unsigned char *model = pattern(size, 1);
    struct rng rng = {2};
    memsnap_snapshot *s = snap(model, size), *t = UNTOUCHED;
    memsnap_view *v = view(s);
    scribble(v, model, size, &rng);
    int r = memsnap_view_take_snapshot(v, MEMSNAP_TAKE_ATOMIC, &t);
    if (r < 0) {
        assert_refused(r, -ENOTSUP, t);
    } else {
        assert_content(t, model, size);
        memsnap_snapshot_unref(t);
    }
    assert_same(bytes(v), model, size);
    scribble(v, model, size, &rng); /* the write block is open again */
    t = take(v);
    assert_content(t, model, size);
    memsnap_snapshot_unref(t);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(model);
}

/* ---- restore --------------------------------------------------------------------------------- */

static void test_restore(void)
{
    struct rng rng = {4};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *data = pattern(size, i), *scratch = g_malloc(size);
        memsnap_snapshot *s = snap(data, size);
        memsnap_view *v = view(s);
        void *address = memsnap_view_data(v);
        for (int round = 0; round < 20; round++) {
            scribble(v, scratch, size, &rng);
            assert_ok(memsnap_view_restore(v));
            g_assert_true(memsnap_view_data(v) == address);
            assert_same(bytes(v), data, size);
        }
        memset(bytes(v), 0, size);
        assert_ok(memsnap_view_restore(v));
        assert_same(bytes(v), data, size);
        assert_ok(memsnap_view_restore(v)); /* nothing to do */
        assert_same(bytes(v), data, size);
        memsnap_snapshot_unref(s);
        bytes(v)[0] ^= 1;
        assert_ok(memsnap_view_restore(v)); /* needs no handle of the snapshot */
        assert_same(bytes(v), data, size);
        memsnap_view_unref(v);
        g_free(data);
        g_free(scratch);
    }
}

/* The same pages again and again, others each time, nearly all and nearly none: every way to
 * restore is taken. */
static void test_restore_working_sets(void)
{
    size_t size = on_valgrind() ? 256 * page : 4 * MIB, pages = size / page;
    const size_t writes[] = {0, 1, 16, 200, pages};
    unsigned char *data = pattern(size, 1);
    struct rng rng = {6};
    memset(data + 100 * page, 0, 100 * page);
    memsnap_snapshot *s = snap(data, size);
    for (int stable = 0; stable < 2; stable++) {
        memsnap_view *v = view(s);
        for (size_t w = 0; w < G_N_ELEMENTS(writes); w++) {
            for (int round = 0; round < 12; round++) {
                struct rng again = {99};
                for (size_t k = 0; k < writes[w]; k++)
                    bytes(v)[rng_below(stable ? &again : &rng, size)] ^= 0xFF;
                assert_ok(memsnap_view_restore(v));
                assert_same(bytes(v), data, size);
            }
        }
        memsnap_view_unref(v);
    }
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* How many pages from `at` on the kernel calls private, whatever the configuration looks for
 * them by; -1: no way to tell. */
static int private_pages(void *at, size_t pages)
{
    struct os_range v[8];
    uintptr_t cursor = (uintptr_t)at, end = cursor + pages * page;
    size_t bytes_found = 0;
    while (cursor < end) {
        if (!config.os) /* the library is an installed one */
            return -1;
        int n = config.os->candidates(OS_SOURCE_SCAN, &cursor, end, v, G_N_ELEMENTS(v));
        if (n < 0)
            return -1;
        for (int i = 0; i < n; i++)
            bytes_found += v[i].end - v[i].start;
    }
    return (int)(bytes_found / page);
}

/* Of many dirty pages most are copied back without a look. That must make no page private that
 * was not, and end where clean ones begin. */
static void test_restore_many_dirty(void)
{
    enum { PAGES = 400, DIRTY = 100, STILL_DIRTY = 64, SAMPLE = 8 };
    unsigned char *data = pattern(PAGES * page, 1);
    memsnap_snapshot *s = snap(data, PAGES * page);
    memsnap_view *v = view(s);
    int before = private_pages(bytes(v), PAGES);
    for (size_t n = 0; n < DIRTY; n++)
        bytes(v)[(n + 1) * page - 1] ^= 1;
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), data, PAGES * page);
    if (before == 0)
        g_assert_cmpint(private_pages(bytes(v), PAGES), ==, DIRTY);

    size_t restored = view_stats(v).restored_pages;
    g_assert_cmpuint(restored, >=, DIRTY);
    g_assert_cmpuint(restored, <, DIRTY + SAMPLE);
    size_t expected = restored;
    for (size_t n = 0; n < DIRTY; n++) {
        if (n < STILL_DIRTY || n % 2) {
            bytes(v)[(n + 1) * page - 1] ^= 1;
            expected++;
        }
    }
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), data, PAGES * page);
    g_assert_cmpuint(view_stats(v).restored_pages, ==, expected);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* A few pages of a large image are written and everything around them is read, often enough for
 * the view to be trimmed, with other pages coming later, a child whose pages lie among them,
 * protections, and a mapping made anew in between. */
static void test_restore_trimmed(void)
{
    enum { ROUNDS = 80 };
    size_t size = on_valgrind() ? 600 * page : 9 * MIB + 100;
    unsigned char *data = pattern(size, 3), *other_data = pattern(size, 4),
                  *child_data = g_memdup2(data, size);
    memsnap_snapshot *s = snap(data, size), *other = snap(other_data, size);
    memsnap_view *v = view(s);
    struct rng rng = {8};
    size_t before = view_stats(v).mappings;
    for (size_t at = 0; at < size; at += size / 7) {
        bytes(v)[at] ^= 1;
        child_data[at] ^= 1;
    }
    memsnap_snapshot *child = take(v);
    for (int round = 0; round < ROUNDS; round++) {
        for (int k = 0; k < 3 + round / 20; k++)
            bytes(v)[(size_t)k * (size / 8) + rng_below(&rng, 3) * page] ^= 0xFF;
        if (round == 40)
            assert_ok(memsnap_view_protect(v, 0, 3 * page, MEMSNAP_ACCESS_NONE));
        const unsigned char *expected = round % 10 == 9 ? child_data
                                        : round == 45   ? other_data
                                                        : data;
        assert_ok(memsnap_view_restore_to(v, expected == child_data   ? child
                                             : expected == other_data ? other
                                                                      : s));
        assert_same(bytes(v), expected, size);
    }
    if (snap_stats(s).huge_bytes && config.force != OS_SOURCE_COMPARE && !on_valgrind())
        g_assert_cmpuint(view_stats(v).mappings, >, before);
    g_assert_cmpuint(view_stats(v).mappings, <=, before + 2 * (size / (2 * MIB)));
    assert_content(child, child_data, size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(child);
    memsnap_snapshot_unref(other);
    g_free(data);
    g_free(other_data);
    g_free(child_data);
}

static void test_restore_to(void)
{
    enum { N = 4 };
    struct rng rng = {5};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model[N];
        memsnap_snapshot *s[N];
        /* a parent, a child, a stranger, nothing */
        model[0] = pattern(size, i);
        s[0] = snap(model[0], size);
        memsnap_view *v = view(s[0]);
        model[1] = g_memdup2(model[0], size);
        scribble(v, model[1], size, &rng);
        s[1] = take(v);
        model[2] = pattern(size, i + 100);
        s[2] = snap(model[2], size);
        model[3] = g_malloc0(size);
        s[3] = snap_zero(size);
        void *address = memsnap_view_data(v);
        unsigned char *scratch = g_malloc(size);
        for (int round = 0; round < 24; round++) {
            size_t k = rng_below(&rng, N), cursor = 0;
            struct memsnap_range r;
            if (round & 1)
                scribble(v, scratch, size, &rng);
            assert_ok(memsnap_view_restore_to(v, s[k]));
            g_assert_true(memsnap_view_data(v) == address);
            assert_same(bytes(v), model[k], size);
            g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 0);
            bytes(v)[size / 2] ^= 1;
            assert_ok(memsnap_view_restore(v)); /* it is the base now */
            assert_same(bytes(v), model[k], size);
        }
        for (int k = 0; k < N; k++)
            assert_content(s[k], model[k], size);
        assert_ok(memsnap_view_restore_to(v, s[2]));
        for (int k = 0; k < N; k++)
            memsnap_snapshot_unref(s[k]);
        bytes(v)[0] ^= 1;
        assert_ok(memsnap_view_restore(v));
        assert_same(bytes(v), model[2], size);
        memsnap_view_unref(v);
        for (int k = 0; k < N; k++)
            g_free(model[k]);
        g_free(scratch);
    }
}

/* Two snapshots that differ in many small runs, more than are kept of them: with pages of the
 * view changed in none, in the middle of some, and behind all of them. */
static void test_restore_to_scattered(void)
{
    enum { PAGES = 1200, RUNS = 70 };
    size_t size = PAGES * page - 100;
    unsigned char *model[2] = {pattern(size, 1), NULL};
    struct rng rng = {8};
    memsnap_snapshot *s[2] = {snap(model[0], size), NULL};
    memsnap_view *v = view(s[0]);
    model[1] = g_memdup2(model[0], size);
    for (size_t i = 0; i < RUNS; i++) {
        for (size_t k = 0; k < 1 + i % 2; k++)
            model[1][(i * (PAGES / RUNS) + k) * page + 9] ^= 0x40;
    }
    memcpy(bytes(v), model[1], size);
    s[1] = take(v);
    memsnap_view_unref(v);
    for (int writes = 0; writes <= 300; writes += 100) {
        v = view(s[0]);
        for (int round = 1; round < 6; round++) {
            for (int i = 0; i < writes; i++)
                bytes(v)[rng_below(&rng, size)] ^= 0xFF;
            assert_ok(memsnap_view_restore_to(v, s[round & 1]));
            assert_same(bytes(v), model[round & 1], size);
        }
        memsnap_view_unref(v);
    }
    for (int k = 0; k < 2; k++) {
        memsnap_snapshot_unref(s[k]);
        g_free(model[k]);
    }
}

static void test_restore_to_other_size(void)
{
    unsigned char *data = pattern(10 * page, 1);
    memsnap_snapshot *s = snap(data, 10 * page), *larger = snap_pattern(10 * page + 1, 2),
                     *smaller = snap_pattern(10 * page - 1, 2);
    memsnap_view *v = view(s);
    bytes(v)[5] ^= 1;
    data[5] ^= 1;
    g_assert_cmpint(memsnap_view_restore_to(v, larger), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_restore_to(v, smaller), ==, -EINVAL);
    assert_same(bytes(v), data, 10 * page);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(larger);
    memsnap_snapshot_unref(smaller);
    g_free(data);
}

/* ---- protections ----------------------------------------------------------------------------- */

static void test_protect_arguments(void)
{
    size_t size = 3 * page + 100;
    int none = MEMSNAP_ACCESS_NONE, write = MEMSNAP_ACCESS_WRITE;
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *v = view(s);
    g_assert_cmpint(memsnap_view_protect(v, 1, page, none), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, 0, 1, none), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, 0, size + 1, none), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, page, 3 * page, none), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, 4 * page, page, none), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, page, SIZE_MAX - page + 1, none), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, SIZE_MAX - page + 1, 2 * page, none), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, 1, 0, none), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, 8 * page, 0, none), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, 0, page, 1 << 3), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(v, 0, page, -1), ==, -EINVAL);
    assert_ok(memsnap_view_protect(v, page, 0, none));
    bytes(v)[0] = bytes(v)[page] = bytes(v)[size - 1] = 1; /* nothing was protected by these */
    assert_ok(memsnap_view_protect(v, 0, page, write));    /* implies reading */
    bytes(v)[0]++;
    assert_ok(memsnap_view_protect(v, page, size - page, none));
    assert_ok(memsnap_view_protect(v, 0, size, write));
    g_assert_cmpuint(++bytes(v)[size - 1], ==, 2);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* What a process that reads through another's eyes gets: EFAULT instead of a signal. */
static bool readable(const void *p)
{
    int ends[2];
    g_assert_cmpint(pipe(ends), ==, 0);
    bool ok = write(ends[1], p, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return ok;
}

static bool writable(void *p)
{
    int ends[2];
    g_assert_cmpint(pipe(ends), ==, 0);
    unsigned char byte = 0;
    bool ok = readable(p);
    if (ok) {
        memcpy(&byte, p, 1);
        g_assert_cmpint(write(ends[1], &byte, 1), ==, 1);
        ok = read(ends[0], p, 1) == 1;
    }
    close(ends[0]);
    close(ends[1]);
    return ok;
}

static void test_protect(void)
{
    size_t size = 40 * page + 100;
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *v = view(s);
    unsigned char *p = bytes(v);
    assert_ok(memsnap_view_protect(v, 2 * page, page, MEMSNAP_ACCESS_NONE));
    assert_ok(memsnap_view_protect(v, 4 * page, 2 * page, MEMSNAP_ACCESS_READ));
    assert_ok(memsnap_view_protect(v, 40 * page, 100, MEMSNAP_ACCESS_READ));
    g_assert_true(writable(p + page) && writable(p + 3 * page) && writable(p + 6 * page));
    g_assert_false(readable(p + 2 * page));
    g_assert_true(readable(p + 4 * page) && readable(p + 5 * page) && readable(p + size - 1));
    g_assert_false(writable(p + 4 * page) || writable(p + 5 * page) || writable(p + size - 1));
    assert_ok(memsnap_view_restore(v));
    for (size_t i = 0; i < 41; i++)
        g_assert_true(writable(p + i * page));
    assert_ok(memsnap_view_protect(v, 0, size, MEMSNAP_ACCESS_NONE));
    assert_ok(memsnap_view_restore_to(v, s));
    for (size_t i = 0; i < 41; i++)
        g_assert_true(writable(p + i * page));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* Every protection on every page: take, dirty and restore see through all of them, and leave
 * them as they are, restore excepted. */
static void test_protect_hinders_nothing(void)
{
    const int accesses[] = {MEMSNAP_ACCESS_NONE, MEMSNAP_ACCESS_READ, MEMSNAP_ACCESS_WRITE};
    size_t size = 60 * page + 9;
    unsigned char *data = pattern(size, 1), *model = g_memdup2(data, size);
    struct rng rng = {17};
    memsnap_snapshot *s = snap(data, size), *zero = snap_zero(size);
    memsnap_view *v = view(s);
    for (int mode = 0; mode < 4; mode++) {
        memcpy(model, data, size);
        scribble(v, model, size, &rng);
        for (size_t i = 0; i < 60; i++)
            assert_ok(
                memsnap_view_protect(v, i * page, page, accesses[mode < 3 ? (size_t)mode : i % 3]));
        memsnap_snapshot *t = take(v);
        assert_content(t, model, size);
        memsnap_snapshot *u = NULL;
        int r = memsnap_view_take_snapshot(v, MEMSNAP_TAKE_ATOMIC, &u);
        if (r == 0) {
            assert_content(u, model, size);
            memsnap_snapshot_unref(u);
        } else {
            g_assert_cmpint(r, ==, -ENOTSUP);
        }
        size_t cursor = 0, dirty = 0, differing = 0;
        struct memsnap_range range;
        while (memsnap_view_dirty(v, &cursor, &range, 1) == 1)
            dirty += (range.len + page - 1) / page;
        for (size_t at = 0; at < size; at += page)
            differing += memcmp(data + at, model + at, ms_min(page, size - at)) != 0;
        g_assert_cmpuint(dirty, ==, differing);
        for (size_t i = 0; i < 60; i++) {
            int access = accesses[mode < 3 ? (size_t)mode : i % 3];
            g_assert_cmpint(readable(bytes(v) + i * page), ==, access != MEMSNAP_ACCESS_NONE);
            g_assert_cmpint(writable(bytes(v) + i * page), ==, access == MEMSNAP_ACCESS_WRITE);
        }
        assert_ok(mode & 1 ? memsnap_view_restore(v) : memsnap_view_restore_to(v, t));
        assert_same(bytes(v), mode & 1 ? data : model, size);
        for (size_t i = 0; i < 61; i++)
            g_assert_true(writable(bytes(v) + i * page));
        assert_ok(memsnap_view_restore_to(v, zero));
        assert_ok(memsnap_view_restore_to(v, s));
        memsnap_snapshot_unref(t);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(zero);
    g_free(data);
    g_free(model);
}

/* ---- dirty ----------------------------------------------------------------------------------- */

static void check_dirty(memsnap_view *v, const unsigned char *base, size_t size, size_t max)
{
    const unsigned char *p = bytes(v);
    struct memsnap_range *ranges = g_new(struct memsnap_range, max);
    size_t cursor = 0, at = 0;
    for (int n; (n = memsnap_view_dirty(v, &cursor, ranges, max)) != 0;) {
        g_assert_cmpint(n, >, 0);
        g_assert_cmpuint((size_t)n, <=, max);
        check_ranges(ranges, n, p, base, size, &at);
    }
    if (at < size)
        assert_same(p + at, base + at, size - at);
    g_free(ranges);
}

static void test_dirty(void)
{
    const size_t maxima[] = {1, 2, 3, 7, 513, 5000};
    struct rng rng = {31};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *data = pattern(size, i);
        memsnap_snapshot *s = snap(data, size);
        memsnap_view *v = view(s);
        check_dirty(v, data, size, 1);
        for (int round = 0; round < 4; round++) {
            for (size_t k = 0; k < (size_t)1 << (3 * round); k++)
                bytes(v)[rng_below(&rng, size)] ^= 1;
            bytes(v)[size - 1] ^= 2;
            for (size_t m = 0; m < G_N_ELEMENTS(maxima); m++)
                check_dirty(v, data, size, maxima[m]);
        }
        memcpy(bytes(v), data, size);
        check_dirty(v, data, size, 1);
        /* more lone pages than the kernel reports at once */
        for (size_t at = 0; at < size; at += 2 * page)
            bytes(v)[at] ^= 1;
        for (size_t m = 0; m < G_N_ELEMENTS(maxima); m++)
            check_dirty(v, data, size, maxima[m]);
        memsnap_snapshot_unref(take(v)); /* taking is not cleaning */
        check_dirty(v, data, size, 2);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(s);
        g_free(data);
    }
}

static void test_dirty_cursor(void)
{
    size_t size = 5 * page + 10, cursor;
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *v = view(s);
    struct memsnap_range r;
    cursor = size + 1;
    g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, -EINVAL);
    g_assert_cmpuint(cursor, ==, size + 1);
    cursor = 0;
    g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 0), ==, -EINVAL);
    g_assert_cmpuint(cursor, ==, 0);
    cursor = size;
    g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 0);
    memset(bytes(v) + page, 0, 3 * page);
    cursor = 2 * page;
    g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 1);
    g_assert_cmpuint(r.offset, ==, 2 * page);
    g_assert_cmpuint(r.len, ==, 2 * page);
    g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 0);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

static void test_flush_refused(void)
{
    memsnap_snapshot *s = snap_pattern(5 * page, 1);
    memsnap_view *v = view(s), *w = view_mut(s);
    g_assert_cmpint(memsnap_view_flush(v, 0, page), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_flush(w, 0, page), ==, -EINVAL);
    memsnap_view_unref(v);
    memsnap_view_unref(w);
    memsnap_snapshot_unref(s);
}

/* ---- at an address --------------------------------------------------------------------------- */

static void test_view_at(void)
{
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i], len = round_up(size);
        unsigned char *data = pattern(size, i);
        memsnap_snapshot *s = snap(data, size), *t;
        char *at = free_address(len + 2 * page);
        memsnap_view *v = NULL, *other = UNTOUCHED;
        assert_ok(memsnap_snapshot_view_at(s, at + page, 0, &v));
        g_assert_true(memsnap_view_data(v) == at + page);
        assert_same(bytes(v), data, size);
        assert_refused(memsnap_snapshot_view_at(s, at + page, 0, &other), -EEXIST, other);
        assert_refused(memsnap_snapshot_view_at(s, at + len, 0, &other), -EEXIST, other);
        if (len > page)
            assert_refused(memsnap_snapshot_view_at(s, at, 0, &other), -EEXIST, other);
        assert_same(bytes(v), data, size);
        bytes(v)[0] ^= 1;
        t = take(v);
        assert_ok(memsnap_view_restore(v));
        assert_same(bytes(v), data, size);
        memsnap_view_unref(v);
        g_assert_cmpuint(snap_stats(s).parked_views, ==, 0);
        assert_ok(
            memsnap_snapshot_view_at(t, at + page, MEMSNAP_VIEW_COPY | MEMSNAP_VIEW_NODUMP, &v));
        data[0] ^= 1;
        assert_same(bytes(v), data, size);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(t);
        memsnap_snapshot_unref(s);
        g_free(data);
    }
}

static void test_view_at_refused(void)
{
    memsnap_snapshot *s = snap_pattern(3 * page, 1);
    memsnap_view *v = UNTOUCHED;
    char *at = free_address(8 * page);
    assert_refused(memsnap_snapshot_view_at(s, at + 1, 0, &v), -EINVAL, v);
    assert_refused(memsnap_snapshot_view_at(s, null, 0, &v), -EINVAL, v);
    /* whose mmap asks for page 0 instead, which root is given */
    if (!on_thread_sanitizer()) {
        int r = memsnap_snapshot_view_at(s, (void *)(UINTPTR_MAX - page + 1), 0, &v);
        g_assert_true(r == -EINVAL || r == -ENOMEM);
        g_assert_true((void *)v == UNTOUCHED);
    }
    /* Somebody's memory, which must come to no harm. */
    void *mine =
        mmap(at + 2 * page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(mine != MAP_FAILED);
    memset(mine, 0x77, page);
    char *base = (char *)mine - 2 * page;
    for (size_t i = 0; i < 3; i++)
        assert_refused(memsnap_snapshot_view_at(s, base + i * page, 0, &v), -EEXIST, v);
    g_assert_cmpuint(((unsigned char *)mine)[0], ==, 0x77);
    munmap(mine, page);
    memsnap_snapshot_unref(s);
}

/* An image with pointers into itself, loaded again where it was. */
/* A mutable view that the library went on keeping would hold the address. */
static void test_view_at_mutable_again(void)
{
    size_t size = 20 * page;
    char *at = free_address(size);
    memsnap_snapshot *s = snap_zero(size);
    memsnap_view *v = NULL;
    for (int takes = 0; takes < 3; takes++) {
        memsnap_snapshot *t = NULL;
        assert_ok(memsnap_snapshot_view_at(s, at, MEMSNAP_VIEW_MUTABLE, &v));
        at[5] = (char)takes;
        for (int i = 0; i < takes; i++) {
            memsnap_snapshot_unref(t);
            t = take(v);
            at[6] = (char)(10 * takes + i);
        }
        memsnap_view_unref(v);
        assert_ok(memsnap_snapshot_view_at(s, at, 0, &v));
        g_assert_cmpint(at[5], ==, takes);
        g_assert_cmpint(at[6], ==, takes ? 11 * takes - 1 : 0);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(t);
    }
    memsnap_snapshot_unref(s);
}

static void test_view_at_pointers(void)
{
    struct node {
        struct node *next;
        size_t value;
    };
    size_t size = 20 * page, n = 0;
    char *at = free_address(size);
    memsnap_snapshot *s = snap_zero(size);
    memsnap_view *v = NULL;
    assert_ok(memsnap_snapshot_view_at(s, at, MEMSNAP_VIEW_MUTABLE, &v));
    g_assert_true(memsnap_view_is_mutable(v));
    for (size_t i = 0; i < 20; i++) {
        struct node *node = (struct node *)(void *)(at + i * page);
        node->next = i < 19 ? (struct node *)(void *)(at + (i + 1) * page) : NULL;
        node->value = i;
    }
    memsnap_snapshot *t = take(v);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    assert_ok(memsnap_snapshot_view_at(t, at, 0, &v));
    for (struct node *node = memsnap_view_data(v); node; node = node->next)
        g_assert_cmpuint(node->value, ==, n++);
    g_assert_cmpuint(n, ==, 20);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(t);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* What was taken is kept by those who hold it, not by the view that it was taken from; and while
 * somebody does, the next take shares it. */
static void test_taken_and_freed(void)
{
    size_t size = 16 * MIB;
    if (on_valgrind() || !config.os || !(config.os->caps & OS_CAP_PUNCH) || config_is("heap")) {
        test_skip("free space cannot be given back to the system");
        return;
    }
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *v = view(s);
    size_t before = object_bytes();
    for (int round = 0; round < 3; round++) {
        fill(bytes(v), 12 * MIB, (uint64_t)round + 2);
        memsnap_snapshot *t = take(v);
        g_assert_cmpuint(object_bytes(), >=, before + 12 * MIB);
        memsnap_snapshot *u = take(v);
        g_assert_cmpuint(snap_stats(u).exclusive_bytes, ==, 0);
        memsnap_snapshot_unref(t);
        assert_content(u, bytes(v), size);
        memsnap_snapshot_unref(u);
        g_assert_cmpuint(object_bytes(), <, before + 8 * MIB);
        u = take(v);
        assert_content(u, bytes(v), size);
        memsnap_snapshot_unref(u);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* ---- core dumps ------------------------------------------------------------------------------ */

static const char secret[] = "what is in no core dump"; /* but here, once */

/* How often the secret is in mappings that a core dump would have: private ones that were written
 * to, and nameless shared ones. Those of the program and its libraries are left out. */
static size_t dumped(void)
{
    char line[4096];
    unsigned long from = 0, to = 0, a, b, inode = 0, n;
    char mode[8] = "", now[8];
    size_t found = 0;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx %7s %*x %*s %lu", &a, &b, now, &n) == 4) {
            from = a;
            to = b;
            inode = n;
            memcpy(mode, now, sizeof mode);
            if (inode && !strstr(line, "memfd:memsnap"))
                mode[0] = '-';
        } else if (g_str_has_prefix(line, "VmFlags:") && !strstr(line, " dd") && mode[0] == 'r' &&
                   !strstr(line, " pf")) {
            const char *at = (const char *)from, *end = (const char *)to;
            while ((at = memmem(at, (size_t)(end - at), secret, sizeof secret)) != NULL) {
                found++;
                at++;
            }
        }
    }
    if (f)
        fclose(f);
    return found;
}

static void put_secret(memsnap_view *v)
{
    for (size_t p = 0; p < 100; p += 3)
        memcpy(bytes(v) + p * page + 8, secret, sizeof secret);
}

static memsnap_view *hidden_view(memsnap_snapshot *s, bool mutable)
{
    memsnap_view *v = NULL;
    if (mutable)
        assert_ok(memsnap_snapshot_view_mut(s, MEMSNAP_VIEW_NODUMP, &v));
    else
        assert_ok(memsnap_snapshot_view(s, MEMSNAP_VIEW_NODUMP, &v));
    return v;
}

/* What is stored in such a view, taken from it and viewed again is kept out, whichever way the
 * bytes went. */
static void test_nodump(void)
{
    if (!config_is("linux")) {
        test_skip("memory is kept out of core dumps with memfds only");
        return;
    }
    if (on_sanitizer() || on_valgrind()) {
        test_skip("memory is the checker's");
        return;
    }
    size_t before = dumped();
    for (int mutable = 0; mutable < 2; mutable ++) {
        for (int huge = 0; huge < 2; huge++) {
            memsnap_snapshot *s = snap_zero(huge ? 4 * MIB : 100 * page);
            memsnap_view *v = hidden_view(s, mutable);
            put_secret(v);
            memsnap_snapshot *t = take(v);
            put_secret(v);
            memsnap_snapshot *u = take(v);
            g_assert_cmpuint(dumped(), ==, before);
            memsnap_view *w = hidden_view(u, true), *x = hidden_view(t, false);
            assert_ok(memsnap_view_restore_to(x, s));
            assert_ok(memsnap_view_restore_to(x, u));
            put_secret(w);
            memsnap_snapshot_unref(take(w));
            put_secret(w);
            int fd = -1;
            if (memsnap_snapshot_export_fd(u, &fd) == 0)
                close(fd);
            g_assert_cmpuint(dumped(), ==, before);
            memsnap_view_unref(w);
            memsnap_view_unref(x);
            memsnap_view_unref(v);
            g_assert_cmpuint(dumped(), ==, before);
            memsnap_snapshot_unref(u);
            memsnap_snapshot_unref(t);
            memsnap_snapshot_unref(s);
        }
    }
}

/* ---- recycling ------------------------------------------------------------------------------- */

static void test_recycling_count(void)
{
    memsnap_view *v[20];
    if (!can_recycle()) {
        test_skip("nothing tells whether a mapping is as it was");
        return;
    }
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    for (int i = 0; i < 20; i++)
        v[i] = view(s);
    for (int i = 0; i < 20; i++)
        memsnap_view_unref(v[i]);
    g_assert_cmpuint(snap_stats(s).parked_views, ==, 8); /* the default */
    assert_ok(memsnap_snapshot_set_recycling(s, 3));
    g_assert_cmpuint(snap_stats(s).parked_views, ==, 3);
    v[0] = view(s);
    g_assert_cmpuint(snap_stats(s).parked_views, ==, 2);
    memsnap_view_unref(v[0]);
    assert_ok(memsnap_snapshot_set_recycling(s, 0));
    g_assert_cmpuint(snap_stats(s).parked_views, ==, 0);
    v[0] = view(s);
    memsnap_view_unref(v[0]);
    g_assert_cmpuint(snap_stats(s).parked_views, ==, 0);
    assert_ok(memsnap_snapshot_set_recycling(s, 20));
    for (int i = 0; i < 20; i++)
        v[i] = view(s);
    memsnap_snapshot_ref(s);
    memsnap_snapshot_unref(s);
    for (int i = 0; i < 20; i++)
        memsnap_view_unref(v[i]);
    g_assert_cmpuint(snap_stats(s).parked_views, >, 8);
    g_assert_cmpuint(snap_stats(s).parked_views, <=, 20);
    memsnap_snapshot_unref(s);
}

/* Thousands of holders, none of whom finds anything of another: bytes, protections, the tail of
 * the last page. */
/* The second of two takes stores what was changed since the first. */
static void test_take_after_take(void)
{
    size_t size = 100 * page;
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *v = view(s);
    fill(bytes(v), 40 * page, 2);
    memsnap_snapshot *first = take(v);
    fill(bytes(v) + 50 * page, 2 * page, 3);
    memsnap_snapshot *second = take(v);
    assert_content(second, bytes(v), size);
    memsnap_view_unref(v);
    g_assert_cmpuint(snap_stats(second).exclusive_bytes, ==, 2 * page);
    memsnap_snapshot_unref(first);
    memsnap_snapshot_unref(second);
    memsnap_snapshot_unref(s);
}

/* An image in more pieces than a view may have mappings. */
static void test_many_runs(void)
{
    size_t runs = on_valgrind() ? 40 : 1500, size = runs * 10 * page;
    memsnap_snapshot *zero = snap_zero(size);
    memsnap_view *v = view(zero);
    for (size_t i = 0; i < runs; i++)
        fill(bytes(v) + i * 10 * page, (4 + i % 3) * page, i);
    memsnap_snapshot *s = take(v);
    memsnap_view *w = view(s);
    assert_same(bytes(w), bytes(v), size);
    g_assert_cmpuint(view_stats(w).mappings, <=, MS_MAX_MAPPINGS);
    memsnap_view_unref(v);
    memsnap_view_unref(w);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(zero);
}

/* What waits keeps 1 MiB at the most of its own, copies of the image included. */
static void test_recycling_is_bounded(void)
{
    size_t size = 16 * MIB, before;
    memsnap_view *v[8];
    if (on_valgrind() || on_sanitizer()) {
        test_skip("memory is the checker's");
        return;
    }
    memsnap_snapshot *s = snap_pattern(size, 1);
    before = resident("RssAnon");
    for (size_t i = 0; i < G_N_ELEMENTS(v); i++) {
        assert_ok(memsnap_snapshot_view(s, i % 2 ? MEMSNAP_VIEW_COPY : 0, &v[i]));
        fill(bytes(v[i]), size, i);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(v); i++)
        memsnap_view_unref(v[i]);
    g_assert_cmpuint(resident("RssAnon"), <, before + G_N_ELEMENTS(v) * MIB + 2 * MIB);
    memsnap_snapshot_unref(s);
}

static void test_recycling_carries_nothing_over(void)
{
    const size_t some[] = {100, 7 * page, 64 * page + 5, 2 * MIB + 3 * page + 1};
    const int accesses[] = {MEMSNAP_ACCESS_NONE, MEMSNAP_ACCESS_READ, MEMSNAP_ACCESS_WRITE};
    int rounds = on_valgrind() ? 12 : 1000;
    struct rng rng = {12};
    for (size_t i = 0; i < G_N_ELEMENTS(some); i++) {
        size_t size = some[i], pages = round_up(size) / page;
        unsigned char *data = pattern(size, i);
        memset(data + size / 2, 0, size / 4);
        memsnap_snapshot *s = snap(data, size), *other = snap_pattern(size, 99);
        memsnap_view *held = view(s);
        for (int round = 0; round < (i == 3 ? rounds / 4 : rounds); round++) {
            memsnap_view *v = view(s);
            assert_same(bytes(v), data, size);
            g_assert_true(all_zero(bytes(v) + size, pages * page - size));
            size_t p = rng_below(&rng, pages);
            switch (rng_below(&rng, 6)) {
            case 0:
                fill(bytes(v), pages * page, rng_next(&rng));
                break;
            case 1:
                assert_ok(memsnap_view_restore_to(v, other));
                break;
            case 2:
                memsnap_snapshot_unref(take(v));
                break;
            case 3:
                assert_ok(memsnap_view_protect(v, 0, size, accesses[rng_below(&rng, 3)]));
                break;
            default:
                break;
            }
            if (round % 6 < 4) {
                assert_ok(memsnap_view_restore(v));
                bytes(v)[p * page + rng_below(&rng, page)] = 0xFF;
                memset(bytes(v) + size, 0xEE, pages * page - size);
                assert_ok(memsnap_view_protect(v, p * page, ms_min(page, size - p * page),
                                               accesses[rng_below(&rng, 3)]));
            }
            if (round % 50 == 7) {
                memsnap_view_unref(held);
                held = v;
                assert_ok(memsnap_view_restore(v));
            } else {
                memsnap_view_unref(v);
            }
        }
        memsnap_view *v = view(s);
        for (size_t p = 0; p < pages; p++)
            g_assert_true(writable(bytes(v) + p * page));
        memsnap_view_unref(v);
        memsnap_view_unref(held);
        memsnap_snapshot_unref(s);
        memsnap_snapshot_unref(other);
        g_free(data);
    }
}

/* What a parked view waits to show is the image of its day; the next holder wants today's. */
static void test_recycling_follows_the_snapshot(void)
{
    size_t size = 50 * page;
    unsigned char *model = pattern(size, 1);
    struct rng rng = {13};
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *m = view_mut(s);
    for (int round = 0; round < (on_valgrind() ? 10 : 100); round++) {
        memsnap_view *v = view(s), *w = view(s);
        assert_same(bytes(v), model, size);
        memset(bytes(w), round, size);
        memsnap_view_unref(w);
        memsnap_view_unref(v);
        scribble(m, model, size, &rng);
        if (round % 7 == 3) {
            memsnap_view_unref(m);
            m = view_mut(s);
        }
    }
    memsnap_view_unref(m);
    assert_content(s, model, size);
    memsnap_snapshot_unref(s);
    g_free(model);
}

static void test_recycling_outlives_handles(void)
{
    size_t size = 30 * page;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *a = view(s), *b = view(s);
    memsnap_view_unref(a);
    memsnap_snapshot_unref(s);
    assert_same(bytes(b), data, size);
    bytes(b)[0] ^= 1;
    memsnap_snapshot *t = take(b);
    assert_ok(memsnap_view_restore(b));
    assert_same(bytes(b), data, size);
    memsnap_view_unref(b);
    data[0] ^= 1;
    assert_content(t, data, size);
    memsnap_snapshot_unref(t);
    g_free(data);
}

/* Odd pages dirty for ever: opening such images must not eat the process's mappings. */
static void test_fragmented(void)
{
    size_t size = on_valgrind() ? 128 * page : 8 * MIB, maps = mappings();
    unsigned char *model = pattern(size, 1);
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *v = view(s), *w[4];
    for (size_t at = 0; at < size; at += 2 * page)
        model[at] = bytes(v)[at] = (unsigned char)(model[at] + 1);
    memsnap_snapshot *t = take(v);
    memsnap_view_unref(v);
    for (int i = 0; i < 4; i++) {
        w[i] = view(t);
        assert_same(bytes(w[i]), model, size);
    }
    g_assert_cmpuint(mappings(), <, maps + 6000);
    bytes(w[0])[3 * page] ^= 1;
    assert_ok(memsnap_view_restore(w[0]));
    assert_same(bytes(w[0]), model, size);
    assert_ok(memsnap_view_restore_to(w[1], s));
    assert_ok(memsnap_view_restore_to(w[1], t));
    assert_same(bytes(w[1]), model, size);
    for (int i = 0; i < 4; i++)
        memsnap_view_unref(w[i]);
    memsnap_snapshot_unref(s);
    assert_content(t, model, size);
    memsnap_snapshot_unref(t);
    g_free(model);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    init_sizes();
    test_add("isolation", test_isolation, 0);
    test_add("zeroed-isolation", test_zeroed_isolation, 0);
    test_add("open-flags", test_open_flags, TEST_SOURCES);
    test_add("copy-and-prefault", test_copy_and_prefault, 0);
    test_add("tail", test_tail, TEST_SOURCES);
    test_add("take", test_take, TEST_SOURCES);
    test_add("take-restore-take", test_take_restore_take, TEST_SOURCES);
    test_add("take-stores-changes-only", test_take_stores_changes_only, TEST_SOURCES);
    test_add("children-share", test_children_share, TEST_SOURCES);
    test_add("chain", test_chain, TEST_SOURCES);
    test_add("many-snapshots", test_many_snapshots, 0);
    test_add("nested", test_nested, TEST_SOURCES);
    test_add("take-atomic", test_take_atomic, TEST_SOURCES);
    test_add("restore", test_restore, TEST_SOURCES);
    test_add("restore-working-sets", test_restore_working_sets, TEST_SOURCES);
    test_add("restore-many-dirty", test_restore_many_dirty, TEST_SOURCES);
    test_add("restore-trimmed", test_restore_trimmed, TEST_SOURCES);
    test_add("restore-to", test_restore_to, TEST_SOURCES);
    test_add("restore-to-scattered", test_restore_to_scattered, TEST_SOURCES);
    test_add("restore-to-other-size", test_restore_to_other_size, 0);
    test_add("protect-arguments", test_protect_arguments, 0);
    test_add("protect", test_protect, TEST_SOURCES);
    test_add("protect-hinders-nothing", test_protect_hinders_nothing, TEST_SOURCES);
    test_add("dirty", test_dirty, TEST_SOURCES);
    test_add("dirty-cursor", test_dirty_cursor, TEST_SOURCES);
    test_add("flush-refused", test_flush_refused, 0);
    test_add("view-at", test_view_at, 0);
    test_add("view-at-refused", test_view_at_refused, 0);
    test_add("view-at-mutable-again", test_view_at_mutable_again, TEST_SOURCES);
    test_add("taken-and-freed", test_taken_and_freed, TEST_SOURCES);
    test_add("nodump", test_nodump, 0);
    test_add("view-at-pointers", test_view_at_pointers, 0);
    test_add("recycling-count", test_recycling_count, 0);
    test_add("take-after-take", test_take_after_take, TEST_SOURCES);
    test_add("many-runs", test_many_runs, 0);
    test_add("recycling-is-bounded", test_recycling_is_bounded, 0);
    test_add("recycling-carries-nothing-over", test_recycling_carries_nothing_over, TEST_SOURCES);
    test_add("recycling-follows-the-snapshot", test_recycling_follows_the_snapshot, TEST_SOURCES);
    test_add("recycling-outlives-handles", test_recycling_outlives_handles, 0);
    test_add("fragmented", test_fragmented, TEST_SOURCES);
    return g_test_run();
}
