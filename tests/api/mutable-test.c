/* SPDX-License-Identifier: MIT */
/* The mutable view: one at a time, seen by what is opened later and by nothing opened earlier,
 * losing nothing. */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support/fault.h"
#include "support/support.h"

static size_t sizes[8];
#define N_SIZES G_N_ELEMENTS(sizes)

static void init_sizes(void)
{
    const size_t list[N_SIZES] = {1,       page,        3 * page + 1, 5 * page, 100 * page + 7,
                                  2 * MIB, 2 * MIB + 1, 5 * MIB};
    memcpy(sizes, list, sizeof sizes);
    shrink_for_valgrind(sizes, N_SIZES);
}

static void store(memsnap_view *v, unsigned char *model, size_t size, struct rng *rng, int times)
{
    while (times-- > 0) {
        size_t at = rng_below(rng, size), len = ms_min(size - at, rng_below(rng, 3 * page) + 1);
        fill(model + at, len, rng_next(rng));
        memcpy(bytes(v) + at, model + at, len);
    }
}

static void test_one_at_a_time(void)
{
    for (size_t i = 0; i < N_SIZES; i++) {
        memsnap_snapshot *s = snap_pattern(sizes[i], 1);
        memsnap_view *v = view_mut(s), *other = UNTOUCHED;
        assert_refused(memsnap_snapshot_view_mut(s, 0, &other), -EBUSY, other);
        char *at = free_address(sizes[i] + page);
        assert_refused(memsnap_snapshot_view_at(s, at, MEMSNAP_VIEW_MUTABLE, &other), -EBUSY,
                       other);
        memsnap_view_ref(v);
        memsnap_view_unref(v);
        assert_refused(memsnap_snapshot_view_mut(s, 0, &other), -EBUSY, other);
        memsnap_snapshot *c = snap_clone(s);
        memsnap_view *w = view_mut(c); /* another snapshot has one of its own */
        memsnap_view_unref(w);
        memsnap_snapshot_unref(c);
        memsnap_view_unref(v);
        v = view_mut(s);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(s);
    }
}

/* The first mutable view of a snapshot, in whatever way the snapshot came to be, shows and keeps
 * everything. */
static void test_stores_are_seen(void)
{
    struct rng rng = {1};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        for (int kind = 0; kind < 4; kind++) {
            unsigned char *model = kind == 1 ? g_malloc0(size) : pattern(size, i);
            memsnap_snapshot *from = kind == 1 ? snap_zero(size) : snap(model, size), *s = from;
            memsnap_view *v = NULL;
            if (kind == 2) {
                s = snap_clone(from);
            } else if (kind == 3) {
                v = view(from);
                store(v, model, size, &rng, 5);
                s = take(v);
                memsnap_view_unref(v);
            }
            unsigned char *original = g_memdup2(model, size);
            v = view_mut(s);
            void *address = memsnap_view_data(v);
            assert_same(bytes(v), model, size);
            for (int round = 0; round < (on_valgrind() ? 2 : 4); round++) {
                store(v, model, size, &rng, 6);
                assert_content(s, model, size);
                store(v, model, size, &rng, 6);
                memsnap_snapshot *c = snap_clone(s);
                unsigned char *at_clone = g_memdup2(model, size);
                store(v, model, size, &rng, 6);
                memsnap_snapshot *t = take(v);
                unsigned char *at_take = g_memdup2(model, size);
                store(v, model, size, &rng, 6);
                assert_content(c, at_clone, size);
                assert_content(t, at_take, size);
                assert_same(bytes(v), model, size);
                g_assert_true(memsnap_view_data(v) == address);
                memsnap_snapshot_unref(c);
                memsnap_snapshot_unref(t);
                g_free(at_clone);
                g_free(at_take);
            }
            memsnap_view_unref(v);
            assert_content(s, model, size);
            if (kind == 2)
                assert_content(from, original, size);
            if (s != from)
                memsnap_snapshot_unref(from);
            memsnap_snapshot_unref(s);
            g_free(model);
            g_free(original);
        }
    }
}

/* Views opened earlier see none of it, small images and large, whatever happens to writer and
 * reader. */
static void test_earlier_views_are_isolated(void)
{
    enum { VIEWS = 6 };
    struct rng rng = {2};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = pattern(size, i), *then[VIEWS];
        memsnap_snapshot *s = snap(model, size);
        memsnap_view *m = view_mut(s), *v[VIEWS];
        for (int k = 0; k < VIEWS; k++) {
            then[k] = g_memdup2(model, size);
            v[k] = view(s);
            store(m, model, size, &rng, 8);
            if (k == 3) {
                memsnap_view_unref(m);
                m = view_mut(s);
                assert_same(bytes(m), model, size);
            }
        }
        memset(bytes(m), 0xAB, size);
        for (int k = 0; k < VIEWS; k++)
            assert_same(bytes(v[k]), then[k], size);
        memset(bytes(v[0]), 0xCD, size);
        assert_ok(memsnap_view_restore(v[0]));
        assert_same(bytes(v[0]), then[0], size);
        memset(model, 0xAB, size);
        assert_same(bytes(m), model, size);
        memsnap_view_unref(m);
        m = view_mut(s);
        memset(bytes(m), 0, size);
        for (int k = 0; k < VIEWS; k++) {
            assert_same(bytes(v[k]), then[k], size);
            memsnap_snapshot *t = take(v[k]);
            assert_content(t, then[k], size);
            memsnap_snapshot_unref(t);
        }
        memsnap_view_unref(m);
        memsnap_snapshot_unref(s);
        for (int k = 0; k < VIEWS; k++) {
            assert_same(bytes(v[k]), then[k], size);
            memsnap_view_unref(v[k]);
            g_free(then[k]);
        }
        g_free(model);
    }
}

/* Open and close again and again, with and without somebody looking in between. */
static void test_closing_loses_nothing(void)
{
    struct rng rng = {3};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = g_malloc0(size);
        memsnap_snapshot *s = snap_zero(size);
        for (int round = 0; round < 30; round++) {
            memsnap_view *m = view_mut(s);
            assert_same(bytes(m), model, size);
            store(m, model, size, &rng, 3);
            if (round % 4 == 1)
                memsnap_snapshot_unref(snap_clone(s));
            store(m, model, size, &rng, 1);
            memsnap_view_unref(m);
            if (round % 3 == 0)
                assert_content(s, model, size);
        }
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

/* The view is alive when the last handle of the snapshot goes, and so is all that was stored. */
static void test_outlives_handles(void)
{
    struct rng rng = {4};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = pattern(size, i);
        memsnap_snapshot *s = snap(model, size);
        memsnap_view *m = view_mut(s);
        store(m, model, size, &rng, 5);
        memsnap_snapshot_unref(s);
        assert_same(bytes(m), model, size);
        store(m, model, size, &rng, 5);
        memsnap_snapshot *t = take(m);
        assert_ok(memsnap_view_restore(m));
        assert_ok(memsnap_view_restore_to(m, t));
        assert_same(bytes(m), model, size);
        memsnap_view_unref(m);
        assert_content(t, model, size);
        memsnap_snapshot_unref(t);
        g_free(model);
    }
}

/* The two have one base; neither's stores reach the other. */
static void test_two_writers_of_clones(void)
{
    struct rng rng = {5};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *x = pattern(size, i), *y = g_memdup2(x, size);
        memsnap_snapshot *a = snap(x, size), *b;
        memsnap_view *v = view_mut(a), *w;
        store(v, x, size, &rng, 4);
        memcpy(y, x, size);
        b = snap_clone(a);
        w = view_mut(b);
        for (int round = 0; round < 10; round++) {
            store(v, x, size, &rng, 4);
            store(w, y, size, &rng, 4);
            assert_same(bytes(v), x, size);
            assert_same(bytes(w), y, size);
            if (round == 3)
                assert_content(a, x, size);
            if (round == 5) {
                memsnap_view_unref(w);
                w = view_mut(b);
            }
        }
        assert_content(a, x, size);
        assert_content(b, y, size);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(a);
        assert_same(bytes(w), y, size);
        memsnap_view_unref(w);
        assert_content(b, y, size);
        memsnap_snapshot_unref(b);
        g_free(x);
        g_free(y);
    }
}

/* ---- restore --------------------------------------------------------------------------------- */

/* It is its own base: nothing is ever dirty, and restoring changes no byte. */
static void test_is_its_own_base(void)
{
    size_t size = 90 * page + 9;
    unsigned char *model = pattern(size, 1);
    struct rng rng = {6};
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *m = view_mut(s);
    for (int round = 0; round < 6; round++) {
        struct memsnap_range r;
        size_t cursor = 0;
        store(m, model, size, &rng, 5);
        g_assert_cmpint(memsnap_view_dirty(m, &cursor, &r, 1), ==, 0);
        cursor = size + 1;
        g_assert_cmpint(memsnap_view_dirty(m, &cursor, &r, 1), ==, -EINVAL);
        assert_ok(memsnap_view_protect(m, page, 5 * page, MEMSNAP_ACCESS_READ));
        assert_ok(memsnap_view_restore(m));
        assert_same(bytes(m), model, size);
        store(m, model, size, &rng, 20); /* everything is writable again */
        memset(bytes(m) + page, round, page);
        memset(model + page, round, page);
        if (round & 1)
            assert_content(s, model, size);
    }
    memsnap_view_unref(m);
    assert_content(s, model, size);
    memsnap_snapshot_unref(s);
    g_free(model);
}

static void test_restore_to_rolls_back(void)
{
    struct rng rng = {7};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = pattern(size, i), *old = g_memdup2(model, size),
                      *other_bytes = pattern(size, 77);
        memsnap_snapshot *s = snap(model, size), *other = snap(other_bytes, size);
        memsnap_view *m = view_mut(s), *before;
        void *address = memsnap_view_data(m);
        memsnap_snapshot *checkpoint = take(m);
        for (int round = 0; round < 6; round++) {
            store(m, model, size, &rng, 10);
            before = view(s);
            unsigned char *seen = g_memdup2(model, size);
            store(m, model, size, &rng, 2);
            assert_ok(memsnap_view_restore_to(m, round == 4 ? other : checkpoint));
            memcpy(model, round == 4 ? other_bytes : old, size);
            g_assert_true(memsnap_view_data(m) == address);
            assert_same(bytes(m), model, size);
            assert_content(s, model, size);
            assert_same(bytes(before), seen, size);
            memsnap_view_unref(before);
            g_free(seen);
        }
        store(m, model, size, &rng, 5); /* the checkpoint is not the writer's to change */
        assert_content(checkpoint, old, size);
        assert_content(other, other_bytes, size);
        assert_ok(memsnap_view_restore_to(m, s)); /* to itself, stores included */
        assert_same(bytes(m), model, size);
        memsnap_view_unref(m);
        memsnap_snapshot_unref(checkpoint);
        memsnap_snapshot_unref(other);
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
        g_free(model);
        g_free(old);
        g_free(other_bytes);
    }
}

/* restore_to, diff and read look at a snapshot with its writer's stores. */
static void test_open_writer_as_source(void)
{
    struct rng rng = {8};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i], cursor = 0;
        unsigned char *x = pattern(size, i), *y = pattern(size, i + 50), *buf = g_malloc(size);
        struct memsnap_range r;
        memsnap_snapshot *a = snap(x, size), *b = snap(y, size);
        memsnap_view *v = view_mut(a), *w = view_mut(b), *reader = view(a);
        store(v, x, size, &rng, 5);
        assert_ok(memsnap_snapshot_read(a, 0, buf, size));
        assert_same(buf, x, size);
        store(v, x, size, &rng, 5);
        assert_ok(memsnap_view_restore_to(reader, a));
        assert_same(bytes(reader), x, size);
        store(v, x, size, &rng, 5);
        assert_ok(memsnap_view_restore_to(w, a));
        memcpy(y, x, size);
        assert_same(bytes(w), y, size);
        g_assert_cmpint(memsnap_snapshot_diff(a, b, &cursor, &r, 1), ==, 0);
        bytes(w)[size - 1] = y[size - 1] = (unsigned char)(y[size - 1] + 1);
        cursor = 0;
        g_assert_cmpint(memsnap_snapshot_diff(a, b, &cursor, &r, 1), ==, 1);
        g_assert_cmpuint(r.offset, ==, round_up(size) - page);
        cursor = 0;
        g_assert_cmpint(memsnap_snapshot_diff(b, b, &cursor, &r, 1), ==, 0);
        store(v, x, size, &rng, 5);
        assert_same(bytes(w), y, size);
        memsnap_view_unref(v);
        memsnap_view_unref(w);
        memsnap_view_unref(reader);
        assert_content(a, x, size);
        assert_content(b, y, size);
        memsnap_snapshot_unref(a);
        memsnap_snapshot_unref(b);
        g_free(x);
        g_free(y);
        g_free(buf);
    }
}

/* ---- protections, tail ----------------------------------------------------------------------- */

/* Protected or not, direct or not: whoever asks gets the image, and the protections stay. */
static void test_protections_hinder_nothing(void)
{
    const int accesses[] = {MEMSNAP_ACCESS_NONE, MEMSNAP_ACCESS_READ};
    struct rng rng = {9};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        for (int k = 0; k < 2; k++) {
            unsigned char *model = pattern(size, i);
            memsnap_snapshot *s = snap(model, size);
            memsnap_view *m = view_mut(s);
            store(m, model, size, &rng, 5);
            assert_ok(memsnap_view_protect(m, 0, size, accesses[k]));
            assert_content(s, model, size);
            memsnap_snapshot *t = take(m), *c = snap_clone(s);
            assert_content(t, model, size);
            assert_content(c, model, size);
            if (accesses[k] == MEMSNAP_ACCESS_READ)
                assert_same(bytes(m), model, size);
            assert_ok(memsnap_view_protect(m, 0, size, MEMSNAP_ACCESS_WRITE));
            store(m, model, size, &rng, 5);
            assert_ok(memsnap_view_protect(m, 0, size, accesses[k]));
            memsnap_snapshot *u = take(m);
            assert_content(u, model, size);
            memsnap_view_unref(m);
            m = view_mut(s); /* of the old lease's protections nothing is left */
            assert_same(bytes(m), model, size);
            store(m, model, size, &rng, 5);
            memsnap_view_unref(m);
            assert_content(s, model, size);
            memsnap_snapshot_unref(s);
            memsnap_snapshot_unref(t);
            memsnap_snapshot_unref(u);
            memsnap_snapshot_unref(c);
            g_free(model);
        }
    }
}

static void test_tail(void)
{
    struct rng rng = {10};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i], rest = round_up(size) - size;
        unsigned char *model = pattern(size, i);
        memsnap_snapshot *s = snap(model, size);
        for (int round = 0; round < 3; round++) {
            memsnap_view *m = view_mut(s);
            g_assert_true(all_zero(bytes(m) + size, rest));
            memset(bytes(m) + size, 0xEE, rest);
            store(m, model, size, &rng, 3);
            model[size - 1] = bytes(m)[size - 1] = (unsigned char)round;
            assert_content(s, model, size); /* looks at the tail of a view, too */
            memset(bytes(m) + size, 0xEE, rest);
            memsnap_snapshot *t = take(m);
            assert_content(t, model, size);
            memsnap_snapshot_unref(t);
            memsnap_view_unref(m);
            assert_content(s, model, size);
        }
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

static void test_protect_arguments(void)
{
    memsnap_snapshot *s = snap_pattern(3 * page + 5, 1);
    memsnap_view *m = view_mut(s);
    g_assert_cmpint(memsnap_view_protect(m, 1, page, MEMSNAP_ACCESS_NONE), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(m, 0, page + 1, MEMSNAP_ACCESS_NONE), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(m, 0, 3 * page + 6, MEMSNAP_ACCESS_NONE), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(m, 0, page, 1 << 3), ==, -EINVAL);
    assert_ok(memsnap_view_protect(m, 2 * page, page + 5, MEMSNAP_ACCESS_READ));
    bytes(m)[0] = 1;
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
}

/* What a writer may have done to the pages of its image before it was closed. */
static void change_all(memsnap_view *m, unsigned char *model, size_t size)
{
    fill(bytes(m), size, model[0] + 7u);
    memcpy(model, bytes(m), size);
}

static void clear_one(memsnap_view *m, unsigned char *model, size_t size)
{
    size_t p = size / page / 2;
    memset(bytes(m) + p * page, 0, ms_min(page, size - p * page));
    memset(model + p * page, 0, ms_min(page, size - p * page));
}

static void change_one(memsnap_view *m, unsigned char *model, size_t size)
{
    bytes(m)[size - 1] ^= 1;
    model[size - 1] ^= 1;
}

/* Pages that nobody else shares are stored to directly, on every lease: the first cut of it is
 * the one chunk that they are in, which is what makes it a single instant. */
static void test_direct_again(void)
{
    void (*const changes[])(memsnap_view *, unsigned char *, size_t) = {change_all, clear_one,
                                                                        change_one};
    const size_t of[] = {3 * page + 5, 30 * page + 5, 2 * MIB};
    if (config_is("heap")) {
        test_skip("heap pages are not mapped");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(of) * G_N_ELEMENTS(changes); i++) {
        size_t size = of[i % G_N_ELEMENTS(of)];
        unsigned char *model = pattern(size, i);
        memsnap_snapshot *s = snap(model, size);
        for (int lease = 0; lease < 4; lease++) {
            memsnap_view *m = view_mut(s);
            change_one(m, model, size);
            memsnap_snapshot *t = take(m);
            g_assert_cmpuint(snap_stats(t).extents, ==, 1);
            assert_content(t, model, size);
            changes[i / G_N_ELEMENTS(of)](m, model, size);
            memsnap_snapshot_unref(t);
            memsnap_view_unref(m);
            assert_content(s, model, size);
        }
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

/* ---- cost ------------------------------------------------------------------------------------ */

/* Generations of snapshots of one writer: as many as one likes, what is kept is what changed. */
static void test_chain(void)
{
    enum { LIVE = 4 };
    size_t size = MIB, rounds = on_valgrind() ? 80 : 3000, settled = rounds / 4;
    size_t fds = 0, maps = 0, objects = 0;
    unsigned char *model = pattern(size, 1), *oldest = g_malloc(size);
    struct rng rng = {14};
    memsnap_snapshot *s = snap(model, size), *live[LIVE] = {NULL};
    memsnap_view *m = view_mut(s);
    for (size_t i = 0; i < rounds; i++) {
        for (int k = 0; k < 3; k++) {
            size_t at = rng_below(&rng, size);
            model[at] = bytes(m)[at] = (unsigned char)(model[at] + 1);
        }
        memsnap_snapshot_unref(live[i % LIVE]);
        live[i % LIVE] = i & 1 ? take(m) : snap_clone(s);
        if (i == settled) {
            fds = descriptors();
            maps = mappings();
            objects = object_bytes();
        }
        if (i == rounds - LIVE)
            memcpy(oldest, model, size);
    }
    assert_content(live[(rounds - LIVE) % LIVE], oldest, size);
    assert_content(live[(rounds - 1) % LIVE], model, size);
    g_assert_cmpuint(descriptors(), <=, fds + 1);
    g_assert_cmpuint(mappings(), <=, maps + 64);
    g_assert_cmpuint(object_bytes(), <=, objects + 2 * MIB);
    for (int i = 0; i < LIVE; i++)
        memsnap_snapshot_unref(live[i]);
    memsnap_view_unref(m);
    assert_content(s, model, size);
    memsnap_snapshot_unref(s);
    g_free(model);
    g_free(oldest);
}

static void test_take_stores_changes_only(void)
{
    size_t size = 2 * MIB;
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *m = view_mut(s);
    memsnap_snapshot *first = take(m);
    bytes(m)[0] ^= 1;
    bytes(m)[100 * page] ^= 1;
    memsnap_snapshot *second = take(m);
    bytes(m)[0] ^= 1; /* as it was at the first */
    memsnap_snapshot *third = take(m);
    size_t cursor = 0;
    struct memsnap_range r[4];
    g_assert_cmpint(memsnap_snapshot_diff(first, second, &cursor, r, 4), ==, 2);
    cursor = 0;
    g_assert_cmpint(memsnap_snapshot_diff(first, third, &cursor, r, 4), ==, 1);
    g_assert_cmpuint(snap_stats(second).stored_bytes, <=,
                     snap_stats(first).stored_bytes + 2 * page);
    g_assert_cmpuint(snap_stats(third).stored_bytes, <=, snap_stats(first).stored_bytes + 3 * page);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_assert_cmpuint(snap_stats(second).exclusive_bytes, <=, 2 * page);
    memsnap_snapshot_unref(first);
    memsnap_snapshot_unref(second);
    memsnap_snapshot_unref(third);
}

/* ---- at an address --------------------------------------------------------------------------- */

static void test_view_at(void)
{
    struct rng rng = {15};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i], len = round_up(size);
        unsigned char *model = pattern(size, i);
        memsnap_snapshot *s = snap(model, size);
        memsnap_view *m = view_mut(s), *other = UNTOUCHED;
        store(m, model, size, &rng, 4);
        memsnap_view_unref(m);
        char *at = NULL;
        for (size_t k = 0; k < 4; k++) {
            /* the writer moves, moves, stays, and moves */
            at = k == 2 ? at : free_address(len);
            m = NULL;
            assert_ok(memsnap_snapshot_view_at(s, at, MEMSNAP_VIEW_MUTABLE, &m));
            g_assert_true(memsnap_view_data(m) == at);
            g_assert_true(memsnap_view_is_mutable(m));
            assert_same(bytes(m), model, size);
            store(m, model, size, &rng, 4);
            assert_refused(memsnap_snapshot_view_at(s, at, 0, &other), -EEXIST, other);
            if (k == 2)
                assert_content(s, model, size);
            store(m, model, size, &rng, 4);
            memsnap_view_unref(m);
        }
        m = view_mut(s);
        assert_same(bytes(m), model, size);
        memsnap_view_unref(m);
        assert_content(s, model, size);

        void *mine = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        g_assert_true(mine != MAP_FAILED);
        assert_refused(memsnap_snapshot_view_at(s, mine, MEMSNAP_VIEW_MUTABLE, &other), -EEXIST,
                       other);
        munmap(mine, len);
        m = view_mut(s); /* the refused one left nothing open */
        assert_same(bytes(m), model, size);
        memsnap_view_unref(m);
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

static void test_atomic(void)
{
    struct rng rng = {16};
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = pattern(size, i);
        memsnap_snapshot *s = snap(model, size);
        memsnap_view *m = view_mut(s);
        for (int round = 0; round < 4; round++) {
            store(m, model, size, &rng, 5);
            memsnap_snapshot *t = UNTOUCHED;
            size_t write_blocks = fault_count(FAULT_WRITE_BLOCK_CLOSE);
            int r = memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &t);
            if (r == 0) {
                /* the first cut needs none */
                g_assert_true(round == 0 || fault_count(FAULT_WRITE_BLOCK_CLOSE) > write_blocks);
                assert_content(t, model, size);
                memsnap_snapshot_unref(t);
            } else {
                assert_refused(r, -ENOTSUP, t);
            }
        }
        memsnap_view_unref(m);
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

static void test_open_flags(void)
{
    size_t size = (on_valgrind() ? 20 * page : 2 * MIB) + 5 * page;
    unsigned char *model = pattern(size, 1);
    struct rng rng = {18};
    for (unsigned flags = 0; flags < 8; flags++) {
        memsnap_snapshot *s = snap(model, size);
        for (int round = 0; round < 2; round++) {
            memsnap_view *m = NULL;
            assert_ok(memsnap_snapshot_view_mut(s, flags, &m));
            assert_same(bytes(m), model, size);
            store(m, model, size, &rng, 4);
            assert_content(s, model, size);
            store(m, model, size, &rng, 4);
            memsnap_view_unref(m);
        }
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
    }
    g_free(model);
}

/* ---- noticing stores ------------------------------------------------------------------------- */

static bool cannot_track(void)
{
    if (!tracking())
        test_skip("stores cannot be noticed here");
    return !tracking();
}

/* The kernel's stores count like the program's. */
static void store_by_read(memsnap_view *v, unsigned char *model, size_t size, struct rng *rng)
{
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    size_t at = rng_below(rng, size), len = ms_min(size - at, 2 * page);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(read(fd, bytes(v) + at, len), ==, (ssize_t)len);
    memcpy(model + at, bytes(v) + at, len);
    close(fd);
}

static void check_tracked_round(memsnap_snapshot *s, memsnap_view *m, unsigned char *model,
                                size_t size, struct rng *rng, int round)
{
    memsnap_snapshot *t = NULL;
    store(m, model, size, rng, (int)rng_below(rng, 4));
    if (round % 5 == 1)
        store_by_read(m, model, size, rng);
    if (round % 7 == 2)
        assert_ok(memsnap_view_protect(m, 0, ms_min(size, page), MEMSNAP_ACCESS_NONE));
    if (round % 6 == 3) {
        int r = memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &t);
        g_assert_true(r == 0 || r == -ENOTSUP);
    }
    if (!t)
        t = round & 1 ? take(m) : snap_clone(s);
    assert_ok(memsnap_view_restore(m)); /* protections go */
    assert_content(t, model, size);
    assert_same(bytes(m), model, size);
    memsnap_snapshot_unref(t);
}

/* Every take holds all that was stored before it, whatever lies between: atomic takes, rolling
 * back near and far, a failed take. */
static void test_tracked(void)
{
    struct rng rng = {(uint64_t)g_test_rand_int()};
    if (cannot_track())
        return;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = pattern(size, i), *old = g_memdup2(model, size),
                      *far = pattern(size, i + 50);
        memsnap_snapshot *s = snap(model, size), *first = snap_clone(s),
                         *stranger = snap(far, size);
        for (int lease = 0; lease < 2; lease++) {
            memsnap_view *m = view_mut_tracked(s);
            for (int round = 0; round < 24; round++) {
                check_tracked_round(s, m, model, size, &rng, round);
                if (round == 10) {
                    assert_ok(memsnap_view_restore_to(m, first));
                    memcpy(model, old, size);
                }
                if (round == 16) {
                    assert_ok(memsnap_view_restore_to(m, stranger));
                    memcpy(model, far, size);
                }
            }
            memsnap_view_unref(m);
            assert_content(s, model, size);
        }
        memsnap_snapshot_unref(s);
        memsnap_snapshot_unref(first);
        memsnap_snapshot_unref(stranger);
        g_free(model);
        g_free(old);
        g_free(far);
    }
}

/* Where tracking ended (an atomic take, a mapping made anew) it is not claimed, and beginning
 * again loses nothing of what is private by then, the first and the last page included. */
static void test_tracked_anew(void)
{
    enum { PAGES = 300 };
    if (cannot_track())
        return;
    unsigned char *model = pattern(PAGES * page, 1), *far = pattern(PAGES * page, 2);
    memsnap_snapshot *s = snap(model, PAGES * page), *stranger = snap(far, PAGES * page), *t = NULL;
    memsnap_view *m = view_mut_tracked(s);
    memsnap_snapshot_unref(take(m));
    for (int round = 0; round < 3; round++) {
        for (size_t p = 0; p < PAGES; p += PAGES - 1)
            bytes(m)[p * page] = model[p * page] = (unsigned char)round;
        if (round == 1 && memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &t) == 0) {
            g_assert_cmpstr(view_stats(m).dirty_source, !=, "write-protect");
            assert_content(t, model, PAGES * page);
            memsnap_snapshot_unref(t);
            for (size_t p = 0; p < PAGES; p += PAGES - 1)
                bytes(m)[p * page] = model[p * page] = 77;
        }
        t = take(m);
        g_assert_cmpstr(view_stats(m).dirty_source, ==, "write-protect");
        assert_content(t, model, PAGES * page);
        memsnap_snapshot_unref(t);
    }
    assert_ok(memsnap_view_restore_to(m, stranger));
    g_assert_cmpstr(view_stats(m).dirty_source, !=, "write-protect");
    bytes(m)[0] = far[0] = 99;
    t = take(m);
    g_assert_cmpstr(view_stats(m).dirty_source, ==, "write-protect");
    assert_content(t, far, PAGES * page);
    memsnap_snapshot_unref(t);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(stranger);
    g_free(model);
    g_free(far);
}

/* A take looks at what was stored since the last one, and at nothing else. */
static void test_tracked_costs(void)
{
    size_t size = 300 * page;
    if (cannot_track())
        return;
    memsnap_snapshot *s = snap_pattern(size, 1), *t;
    memsnap_view *m = view_mut_tracked(s);
    memset(bytes(m), 1, size);
    memsnap_snapshot_unref(take(m));
    memset(bytes(m), 2, size);
    memsnap_snapshot_unref(take(m));
    g_assert_cmpstr(view_stats(m).dirty_source, ==, "write-protect");
    struct os_range v[4];
    uintptr_t at = (uintptr_t)bytes(m), end = at + size;
    bytes(m)[7 * page] = 3;
    bytes(m)[8 * page] = 3;
    bytes(m)[200 * page] = 3;
    g_assert_cmpint(config.os->written(&at, end, v, 4), ==, 2); /* as the take would ask */
    g_assert_cmpuint(v[0].start, ==, (uintptr_t)bytes(m) + 7 * page);
    g_assert_cmpuint(v[0].end, ==, (uintptr_t)bytes(m) + 9 * page);
    g_assert_cmpuint(v[1].end - v[1].start, ==, page);
    for (size_t p = 7; p < 201; p += p == 8 ? 192 : 1)
        bytes(m)[p * page]++;
    t = take(m);
    struct memsnap_snapshot_stats before = snap_stats(s);
    memsnap_snapshot_unref(take(m));
    g_assert_cmpuint(snap_stats(s).chunks, ==, before.chunks);
    g_assert_cmpint(memsnap_snapshot_read(t, 8 * page, v, 1), ==, 0);
    g_assert_cmpint(*(unsigned char *)v, ==, 4);
    memsnap_snapshot_unref(t);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
}

static int userfault_descriptor(void)
{
    DIR *d = opendir("/proc/self/fd");
    int found = -1;
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[64], target[64] = "";
        g_snprintf(path, sizeof path, "/proc/self/fd/%.20s", e->d_name);
        if (readlink(path, target, sizeof target - 1) > 0 &&
            strcmp(target, "anon_inode:[userfaultfd]") == 0)
            found = atoi(e->d_name);
    }
    closedir(d);
    return found;
}

static void lose_tracker(void *arg)
{
    struct rng rng = {3};
    size_t size = 50 * page;
    unsigned char *model = pattern(size, 1);
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *m = view_mut_tracked(s);
    (void)arg;
    for (int round = 0; round < 12; round++) {
        check_tracked_round(s, m, model, size, &rng, round);
        store(m, model, size, &rng, 2);
        if (round == 4 || round == 8) {
            int fd = userfault_descriptor();
            g_assert_cmpint(fd, >, 2);
            g_assert_cmpint(close(fd), ==, 0);
            if (round == 8) /* the number means something else */
                g_assert_cmpint(dup2(STDERR_FILENO, fd), ==, fd);
        }
    }
    memsnap_view_unref(m);
    assert_content(s, model, size);
    memsnap_snapshot_unref(s);
    g_free(model);
}

static void test_tracker_lost(void)
{
    if (!cannot_track())
        child_run(lose_tracker, NULL);
}

static void track_in_child(void *arg)
{
    memsnap_snapshot *s = arg;
    size_t size = memsnap_snapshot_size(s);
    struct rng rng = {4};
    unsigned char *model = g_malloc(size);
    assert_ok(memsnap_snapshot_read(s, 0, model, size));
    memsnap_view *m = view_mut_tracked(s);
    for (int round = 0; round < 8; round++)
        check_tracked_round(s, m, model, size, &rng, round);
    memsnap_view_unref(m);
    g_free(model);
}

/* A child notices its own stores, by a descriptor of its own, and the parent goes on with its. */
static void test_tracked_fork(void)
{
    size_t size = 30 * page;
    struct rng rng = {5};
    if (cannot_track())
        return;
    unsigned char *model = pattern(size, 1);
    memsnap_snapshot *s = snap(model, size), *other = snap_pattern(size, 2);
    memsnap_view *m = view_mut_tracked(s);
    for (int round = 0; round < 6; round++) {
        check_tracked_round(s, m, model, size, &rng, round);
        child_run(track_in_child, other);
        store(m, model, size, &rng, 1);
    }
    memsnap_view_unref(m);
    assert_content(s, model, size);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(other);
    g_free(model);
}

static void test_track_refused(void)
{
    memsnap_view *v = UNTOUCHED;
    memsnap_snapshot *s = snap_pattern(3 * page, 1), *shared = NULL;
    char *path = temp_file("shared", "abc", 3);
    assert_refused(memsnap_snapshot_view(s, MEMSNAP_VIEW_TRACK, &v), -EINVAL, v);
    assert_refused(memsnap_snapshot_view_at(s, free_address(4 * page), MEMSNAP_VIEW_TRACK, &v),
                   -EINVAL, v);
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_SHARED, &shared));
    assert_refused(memsnap_snapshot_view_mut(shared, MEMSNAP_VIEW_TRACK, &v), -ENOTSUP, v);
    if (!tracking())
        assert_refused(memsnap_snapshot_view_mut(s, MEMSNAP_VIEW_TRACK, &v), -ENOTSUP, v);
    memsnap_view_unref(view_mut(s)); /* nothing is left open */
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(shared);
    g_free(path);
}

/* ---- what a failed call leaves -------------------------------------------------------------- */

static void roll_back_to_zero(memsnap_snapshot *s, memsnap_view *m, unsigned char *model)
{
    size_t size = memsnap_view_size(m);
    memsnap_snapshot *zero = snap_zero(size);
    (void)s;
    assert_ok(memsnap_view_restore_to(m, zero));
    memset(model, 0, size);
    memsnap_snapshot_unref(zero);
}

static void roll_back_to_other(memsnap_snapshot *s, memsnap_view *m, unsigned char *model)
{
    size_t size = memsnap_view_size(m);
    unsigned char *other = pattern(size, 5);
    memsnap_snapshot *from = snap(other, size);
    (void)s;
    assert_ok(memsnap_view_restore_to(m, from));
    memcpy(model, other, size);
    memsnap_snapshot_unref(from);
    g_free(other);
}

static void store_and_clone(memsnap_snapshot *s, memsnap_view *m, unsigned char *model)
{
    bytes(m)[0] ^= 1;
    model[0] ^= 1;
    memsnap_snapshot *c = snap_clone(s);
    assert_content(c, model, memsnap_view_size(m));
    memsnap_snapshot_unref(c);
}

static void protect_all(memsnap_snapshot *s, memsnap_view *m, unsigned char *model)
{
    (void)s;
    (void)model;
    assert_ok(memsnap_view_protect(m, 0, memsnap_view_size(m), MEMSNAP_ACCESS_READ));
}

/* A take fails right after the writer was frozen, because what was stored behind the end of the
 * image cannot be cleared: whatever call is next, and whatever comes after it, is right. */
static void test_failed_tail(void)
{
    void (*const next[])(memsnap_snapshot *, memsnap_view *,
                         unsigned char *) = {roll_back_to_zero, roll_back_to_other, store_and_clone,
                                             protect_all};
    const size_t of[] = {page + 9, 30 * page + 5, 1 * MIB + 100};
    for (size_t i = 0; i < G_N_ELEMENTS(of) * G_N_ELEMENTS(next); i++) {
        size_t size = of[i % G_N_ELEMENTS(of)];
        unsigned char *model = g_malloc0(size);
        memsnap_snapshot *s = snap_zero(size), *t = UNTOUCHED;
        memsnap_view *m = view_mut(s);
        bytes(m)[1] = model[1] = 1;
        memset(bytes(m) + size, 0xEE, round_up(size) - size);
        fault_arm(FAULT_BIT(FAULT_OBJECT_WRITE), 0, 1, -EFBIG);
        int e = memsnap_view_take_snapshot(m, 0, &t);
        fault_disarm();
        if (e == 0) /* heap pages are not written to an object */
            memsnap_snapshot_unref(t);
        else
            assert_refused(e, -EFBIG, t);
        next[i / G_N_ELEMENTS(of)](s, m, model);
        memsnap_snapshot *c = snap_clone(s);
        assert_content(c, model, size);
        assert_same(bytes(m), model, size);
        memsnap_view_unref(m);
        assert_content(s, model, size);
        m = view_mut(s);
        g_assert_true(all_zero(bytes(m) + size, round_up(size) - size));
        memsnap_view_unref(m);
        memsnap_snapshot_unref(c);
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

/* ---- what loops take ------------------------------------------------------------------------ */

enum { LOOP_ROLL_BACK = 1, LOOP_DIFF = 2, LOOP_READ = 4, LOOP_CLOSE = 8, LOOP_KINDS = 16 };

static void loop_once(memsnap_snapshot *s, memsnap_snapshot *other, memsnap_view **m, int kind,
                      size_t round)
{
    size_t size = memsnap_snapshot_size(s), cursor = 0;
    unsigned char *copy = kind & LOOP_READ ? g_malloc(size) : NULL;
    struct memsnap_range r;
    memset(bytes(*m), (int)(round % 9) + 1, size);
    if (kind & LOOP_DIFF)
        g_assert_cmpint(memsnap_snapshot_diff(s, other, &cursor, &r, 1), ==, 1);
    if (kind & LOOP_READ)
        assert_ok(memsnap_snapshot_read(s, 0, copy, size));
    if (kind & LOOP_ROLL_BACK)
        assert_ok(memsnap_view_restore_to(*m, other));
    if (kind & LOOP_CLOSE) {
        memsnap_view_unref(*m);
        *m = view_mut(s);
    }
    g_free(copy);
}

/* A mutable view that is written to, looked at, rolled back, closed and opened for ever takes no
 * more memory in the end than at the beginning, whatever the loop is made of. */
static void test_loops_are_flat(void)
{
    size_t size = on_valgrind() ? 20 * page : 1 * MIB;
    for (int kind = 0; kind < LOOP_KINDS; kind++) {
        memsnap_snapshot *s = snap_zero(size),
                         *other = kind & LOOP_DIFF ? snap_pattern(size, 3) : snap_zero(size);
        memsnap_view *m = view_mut(s);
        size_t early = 0, rounds = on_valgrind() ? 8 : 60;
        for (size_t round = 0; round < rounds; round++) {
            loop_once(s, other, &m, kind, round);
            if (round == rounds / 4)
                early = object_bytes();
        }
        g_assert_cmpuint(object_bytes(), <=, early + 4 * size + 4 * MIB);
        memsnap_view_unref(m);
        memsnap_snapshot_unref(s);
        memsnap_snapshot_unref(other);
    }
}

/* ---- reading -------------------------------------------------------------------------------- */

/* A few bytes of a shadow writer are read out of its memory: nothing is written anywhere. */
static void test_reading_captures_nothing(void)
{
    size_t size = 64 * page + 11;
    unsigned char *model = pattern(size, 1), buf[100];
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *m = view_mut(s);
    memsnap_snapshot *t = take(m); /* not direct any more */
    for (size_t p = 0; p < 64; p++)
        bytes(m)[p * page + p] = model[p * page + p] = (unsigned char)(200 + p % 50);
    size_t written = fault_count(FAULT_OBJECT_WRITE), opened = fault_count(FAULT_ALLOC);
    for (size_t at = 0; at + sizeof buf <= size; at += page - 40) {
        assert_ok(memsnap_snapshot_read(s, at, buf, sizeof buf));
        assert_same(buf, model + at, sizeof buf);
    }
    g_assert_cmpuint(fault_count(FAULT_OBJECT_WRITE), ==, written);
    g_assert_cmpuint(fault_count(FAULT_ALLOC), ==, opened);
    assert_ok(memsnap_view_protect(m, page, 2 * page, MEMSNAP_ACCESS_NONE));
    assert_ok(memsnap_snapshot_read(s, page - 50, buf, sizeof buf));
    assert_same(buf, model + page - 50, sizeof buf);
    memsnap_view_unref(m);
    bytes(m = view_mut(s))[5] = model[5] = 7;
    memsnap_view_unref(m);
    assert_ok(memsnap_snapshot_read(s, 0, buf, sizeof buf));
    assert_same(buf, model, sizeof buf);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(s);
    g_free(model);
}

/* The same of a file that is shared. */
static void test_reading_copies_no_file(void)
{
    size_t size = 64 * page + 11;
    unsigned char *model = pattern(size, 1), buf[100];
    memsnap_snapshot *s = NULL;
    char *path = temp_file("live", model, size);
    if (config.flags & MEMSNAP_NO_FD) {
        g_free(model);
        g_free(path);
        test_skip("a shared file needs a descriptor");
        return;
    }
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_SHARED, &s));
    memsnap_view *m = NULL;
    assert_ok(memsnap_snapshot_view_mut(s, 0, &m));
    size_t written = fault_count(FAULT_OBJECT_WRITE);
    bytes(m)[size - 1] = model[size - 1] = 77;
    assert_ok(memsnap_snapshot_read(s, size - sizeof buf, buf, sizeof buf));
    assert_same(buf, model + size - sizeof buf, sizeof buf);
    g_assert_cmpuint(fault_count(FAULT_OBJECT_WRITE), ==, written);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_free(model);
    g_free(path);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    init_sizes();
    test_add("one-at-a-time", test_one_at_a_time, 0);
    test_add("stores-are-seen", test_stores_are_seen, TEST_SOURCES);
    test_add("earlier-views-are-isolated", test_earlier_views_are_isolated, TEST_SOURCES);
    test_add("closing-loses-nothing", test_closing_loses_nothing, TEST_SOURCES);
    test_add("outlives-handles", test_outlives_handles, TEST_SOURCES);
    test_add("two-writers-of-clones", test_two_writers_of_clones, TEST_SOURCES);
    test_add("is-its-own-base", test_is_its_own_base, TEST_SOURCES);
    test_add("restore-to-rolls-back", test_restore_to_rolls_back, TEST_SOURCES);
    test_add("open-writer-as-source", test_open_writer_as_source, TEST_SOURCES);
    test_add("protections-hinder-nothing", test_protections_hinder_nothing, TEST_SOURCES);
    test_add("tail", test_tail, TEST_SOURCES);
    test_add("protect-arguments", test_protect_arguments, 0);
    test_add("direct-again", test_direct_again, TEST_SOURCES);
    test_add("chain", test_chain, TEST_SOURCES);
    test_add("take-stores-changes-only", test_take_stores_changes_only, TEST_SOURCES);
    test_add("view-at", test_view_at, TEST_SOURCES);
    test_add("atomic", test_atomic, TEST_SOURCES);
    test_add("open-flags", test_open_flags, TEST_SOURCES);
    test_add("tracked", test_tracked, TEST_SOURCES);
    test_add("tracked-anew", test_tracked_anew, 0);
    test_add("tracked-costs", test_tracked_costs, 0);
    test_add("tracker-lost", test_tracker_lost, 0);
    test_add("tracked-fork", test_tracked_fork, 0);
    test_add("track-refused", test_track_refused, 0);
    test_add("failed-tail", test_failed_tail, TEST_SOURCES);
    test_add("loops-are-flat", test_loops_are_flat, 0);
    test_add("reading-captures-nothing", test_reading_captures_nothing, TEST_SOURCES);
    test_add("reading-copies-no-file", test_reading_copies_no_file, 0);
    return g_test_run();
}
