/* SPDX-License-Identifier: MIT */
/* What a call that fails half way leaves behind: restores that are cut short, protections that
 * come only in part, a freeze whose mapping is gone, a child without the memory it was to
 * inherit. Calling again mends it, and nothing of one image is seen in another meanwhile. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/fault.h"
#include "support/support.h"

/* Every operation from the n-th on fails; FAULT_FOR_EVER, or only the one. */
static const size_t how_many[] = {1, 2, FAULT_FOR_EVER};

/* ---- ordinary views -------------------------------------------------------------------------- */

/* A zero image in which the pages of two runs, and a lone one, were written: a view of it maps
 * the runs and copies the page in. */
static memsnap_snapshot *two_runs(memsnap_snapshot *zero, unsigned char *data, uint64_t seed)
{
    memsnap_view *v = view(zero);
    fill(bytes(v), 20 * page, seed);
    fill(bytes(v) + 30 * page, page, seed + 1);
    fill(bytes(v) + 40 * page, 24 * page, seed + 2);
    memcpy(data, bytes(v), 80 * page);
    memsnap_snapshot *s = take(v);
    memsnap_view_unref(v);
    return s;
}

/* A child that differs in so many pages that going there maps anew, and shares the others. */
static memsnap_snapshot *half_changed(memsnap_snapshot *parent, const unsigned char *data,
                                      unsigned char **now)
{
    memsnap_view *v = view(parent);
    *now = g_memdup2(data, 80 * page);
    for (size_t p = 0; p < 20; p++)
        (*now)[p * page] = bytes(v)[p * page] ^= 1;
    for (size_t p = 64; p < 80; p++)
        (*now)[p * page] = bytes(v)[p * page] ^= 1;
    memsnap_snapshot *s = take(v);
    memsnap_view_unref(v);
    return s;
}

/* A take of a view in the middle of things is what the view holds, or -EIO. */
static void check_take(memsnap_view *v, size_t size)
{
    memsnap_snapshot *t = NULL;
    unsigned char *now = g_malloc(size);
    int r = memsnap_view_take_snapshot(v, 0, &t);
    if (r == 0) {
        assert_ok(memsnap_snapshot_read(t, 0, now, size));
        assert_same(now, bytes(v), size);
    } else {
        g_assert_cmpint(r, ==, -EIO);
    }
    memsnap_snapshot_unref(t);
    g_free(now);
}

/* Cut short anywhere, an exchange of the image leaves a view that restoring brings back to its
 * base, zero pages included. */
static void test_restore_to_cut_short(void)
{
    size_t size = 80 * page;
    struct {
        memsnap_snapshot *s;
        unsigned char *data;
    } of[3] = {{snap_zero(size), g_malloc0(size)}, {NULL, g_malloc(size)}, {NULL, NULL}};
    of[1].s = two_runs(of[0].s, of[1].data, 1);
    of[2].s = half_changed(of[1].s, of[1].data, &of[2].data);
    for (size_t i = 0; i < 12 * G_N_ELEMENTS(how_many); i++) {
        unsigned kinds = i % 12 < 6 ? FAULT_ALL & ~FAULT_BIT(FAULT_PROTECT)
                                    : FAULT_BIT(FAULT_MAP_OVER) | FAULT_BIT(FAULT_OBJECT_READ);
        size_t from = i % 3, to = (from + 1 + i / 3 % 2) % 3;
        memsnap_snapshot *base = of[from].s, *target = of[to].s;
        for (size_t n = 0, fired = 1; fired; n++) {
            memsnap_view *v = view(base);
            fault_arm(kinds, n, how_many[i / 12], FAULT_TYPICAL);
            int r = memsnap_view_restore_to(v, target);
            fired = fault_fired();
            fault_disarm();
            check_take(v, size);
            if (r < 0)
                assert_ok(memsnap_view_restore(v));
            assert_same(bytes(v), of[r < 0 ? from : to].data, size);
            memsnap_view_unref(v);
            g_assert_cmpuint(n, <, 500);
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(of); i++) {
        memsnap_snapshot_unref(of[i].s);
        g_free(of[i].data);
    }
}

/* Changes after which one of the next restores finds it cheaper to drop all pages. */
static void make_dropping_due(memsnap_view *v, int rounds)
{
    for (size_t p = 0; p < 70; p++)
        bytes(v)[p * page] ^= 1;
    for (int i = 0; i < rounds; i++) {
        assert_ok(memsnap_view_restore(v));
        bytes(v)[5 * page] ^= 1;
    }
}

/* A restore that returned 0 has restored, whatever failed on the way; one that did not can be
 * repeated. */
static void test_restore_cut_short(void)
{
    size_t size = 80 * page;
    unsigned char *data = g_malloc(size);
    memsnap_snapshot *zero = snap_zero(size), *s = two_runs(zero, data, 1);
    for (size_t i = 0; i < 3 * G_N_ELEMENTS(how_many); i++) {
        for (size_t n = 0, fired = 1; fired; n++) {
            memsnap_view *v = view(s);
            make_dropping_due(v, (int)(i / G_N_ELEMENTS(how_many)) + 1);
            fault_arm(FAULT_ALL, n, how_many[i % G_N_ELEMENTS(how_many)], FAULT_TYPICAL);
            int r = memsnap_view_restore(v);
            fired = fault_fired();
            fault_disarm();
            check_take(v, size);
            if (r < 0)
                assert_ok(memsnap_view_restore(v));
            assert_same(bytes(v), data, size);
            memsnap_view_unref(v);
            v = view(s);
            assert_same(bytes(v), data, size);
            memsnap_view_unref(v);
            g_assert_cmpuint(n, <, 500);
        }
    }
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(zero);
    g_free(data);
}

/* A view that could not be put back, closed: the next holder gets none of it. */
static void test_closed_when_torn(void)
{
    size_t size = 80 * page;
    unsigned char *zeros = g_malloc0(size), *data = g_malloc(size);
    memsnap_snapshot *zero = snap_zero(size), *s = two_runs(zero, data, 1);
    for (size_t n = 0, fired = 1; fired; n++) {
        memsnap_view *v = view(zero);
        fault_arm(FAULT_ALL, n, FAULT_FOR_EVER, FAULT_TYPICAL);
        int r = memsnap_view_restore_to(v, s);
        fired = fault_fired();
        memsnap_view_unref(v);
        fault_disarm();
        if (r < 0)
            g_assert_cmpuint(fired, >, 0);
        v = view(zero);
        assert_same(bytes(v), zeros, size);
        memsnap_view_unref(v);
        g_assert_cmpuint(n, <, 500);
    }
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(zero);
    g_free(zeros);
    g_free(data);
}

/* Until it is put back a torn view shows what it was, what it was to be, or zeros, and nothing
 * that came to be stored there since. */
static void test_torn_shows_no_others(void)
{
    size_t size = 80 * page;
    unsigned char *data = g_malloc(size), *stranger = pattern(size, 77);
    memsnap_snapshot *zero = snap_zero(size);
    for (size_t n = 0; n < 8; n++) {
        memsnap_snapshot *s = two_runs(zero, data, 1);
        memsnap_view *v = view(zero), *w = view(zero);
        fault_arm(FAULT_BIT(FAULT_MAP_OVER) | FAULT_BIT(FAULT_OBJECT_READ), n, FAULT_FOR_EVER,
                  FAULT_TYPICAL);
        int r = memsnap_view_restore_to(v, s);
        fault_disarm();
        memsnap_snapshot_unref(s);
        /* where the pages of s were, if nobody has them any more */
        memcpy(bytes(w), stranger, size);
        memsnap_snapshot *t = take(w);
        for (size_t at = 0; at < size; at += page) {
            bool own = memcmp(bytes(v) + at, data + at, page) == 0;
            g_assert_true(own || (r < 0 && all_zero(bytes(v) + at, page)));
        }
        memsnap_view_unref(v);
        memsnap_view_unref(w);
        memsnap_snapshot_unref(t);
    }
    memsnap_snapshot_unref(zero);
    g_free(data);
    g_free(stranger);
}

/* ---- mutable views --------------------------------------------------------------------------- */

/* Each page is the one image's or the other's. */
static void check_either(const unsigned char *is, const unsigned char *a, const unsigned char *b,
                         size_t size)
{
    for (size_t at = 0; at < size; at += page)
        g_assert_true(memcmp(is + at, a + at, page) == 0 || memcmp(is + at, b + at, page) == 0);
}

/* A snapshot whose rolling back failed is partly the one and partly the other, but can be used
 * as soon as the view is closed. */
static void test_roll_back_cut_short(void)
{
    size_t size = 80 * page;
    unsigned char *zeros = g_malloc0(size), *data = g_malloc(size), *now = g_malloc(size);
    memsnap_snapshot *zero = snap_zero(size), *s = two_runs(zero, data, 1);
    for (size_t i = 0; i < 2 * G_N_ELEMENTS(how_many); i++) {
        for (size_t n = 0, fired = 1; fired; n++) {
            memsnap_snapshot *m = snap_clone(zero);
            memsnap_view *v = view_mut(m);
            if (i % 2)
                memsnap_snapshot_unref(snap_clone(m)); /* no longer direct */
            fault_arm(FAULT_ALL & ~FAULT_BIT(FAULT_PROTECT), n, how_many[i / 2], FAULT_TYPICAL);
            int r = memsnap_view_restore_to(v, s);
            fired = fault_fired();
            fault_disarm();
            if (r == 0)
                assert_same(bytes(v), data, size);
            memsnap_view_unref(v);
            assert_ok(memsnap_snapshot_read(m, 0, now, size));
            check_either(now, r == 0 ? data : zeros, data, size);
            v = view_mut(m);
            assert_same(bytes(v), now, size);
            assert_ok(memsnap_view_restore_to(v, s));
            assert_content(m, data, size);
            memsnap_view_unref(v);
            memsnap_snapshot_unref(m);
            g_assert_cmpuint(n, <, 500);
        }
    }
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(zero);
    g_free(zeros);
    g_free(data);
    g_free(now);
}

static const struct os *whole_table;
static bool hole_torn;

/* Fails as some kernels do: what was mapped there is gone by then. */
static int tearing_map_over(const struct os_object *o, uint64_t offset, void *addr, size_t len,
                            enum os_share how)
{
    if (how != OS_PRIVATE || hole_torn)
        return whole_table->map_over(o, offset, addr, len, how);
    munmap(addr, len);
    hole_torn = true;
    return -ENOMEM;
}

static void test_torn_freeze(void)
{
    size_t size = 40 * page;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *m = snap(data, size), *out = UNTOUCHED;
    memsnap_view *v = view_mut(m);
    struct os table = *ms_os;
    fill(bytes(v), 3 * page, 2);
    memcpy(data, bytes(v), 3 * page);
    assert_ok(memsnap_view_protect(v, 10 * page, page, MEMSNAP_ACCESS_READ));
    whole_table = ms_os;
    table.map_over = tearing_map_over;
    hole_torn = false;
    ms_os = &table;
    int r = memsnap_snapshot_clone(m, &out);
    ms_os = whole_table;
    if (!hole_torn) {
        assert_ok(r); /* heap pages are never direct */
    } else {
        assert_refused(r, -ENOMEM, out);
        assert_same(bytes(v), data, size);
        fill(bytes(v) + 20 * page, page, 3);
        memcpy(data + 20 * page, bytes(v) + 20 * page, page);
        out = snap_clone(m);
    }
    assert_content(out, data, size);
    assert_content(m, data, size);
    memsnap_snapshot_unref(out);
    memsnap_view_unref(v);
    assert_content(m, data, size);
    memsnap_snapshot_unref(m);
    g_free(data);
}

/* ---- files that change ----------------------------------------------------------------------- */

static const char *shrinking; /* becomes half as long before the next read or copy */

static void shrink(void)
{
    if (shrinking)
        g_assert_cmpint(truncate(shrinking, (off_t)(20 * page)), ==, 0);
    shrinking = NULL;
}

static int shrinking_read(const struct os_object *o, const struct os_iov *v, size_t n,
                          uint64_t offset)
{
    shrink();
    return whole_table->object_read(o, v, n, offset);
}

static int shrinking_copy(const struct os_object *src, uint64_t from, const struct os_object *dst,
                          uint64_t to, uint64_t len)
{
    shrink();
    return whole_table->file_copy(src, from, dst, to, len);
}

/* Read in any way, a file that became shorter meanwhile is an error, not zeros. */
static void test_file_that_shrinks(void)
{
    const size_t some[] = {40 * page, 4 * MIB};
    for (size_t i = 0; i < G_N_ELEMENTS(some); i++) {
        unsigned char *data = pattern(some[i], 1);
        char *path = temp_file("shrinking", data, some[i]);
        memsnap_snapshot *out = UNTOUCHED;
        struct os table = *ms_os;
        whole_table = ms_os;
        table.object_read = shrinking_read;
        table.file_copy = shrinking_copy;
        shrinking = path;
        ms_os = &table;
        int r = memsnap_snapshot_new_from_file(path, config.flags, &out);
        ms_os = whole_table;
        g_assert_null(shrinking);
        assert_refused(r, -EIO, out);
        g_free(path);
        g_free(data);
    }
}

/* ---- huge pages ------------------------------------------------------------------------------ */

/* Whoever insists on huge pages is told what is missing: that they cannot be had is for good,
 * other things are not. */
static void test_no_huge_pages_now(void)
{
    static const struct {
        unsigned kind;
        int error;
    } faults[] = {{FAULT_MAP_OVER, -EMLINK},
                  {FAULT_OBJECT_WRITE, -ENOSPC},
                  {FAULT_OBJECT_GROW, -EFBIG},
                  {FAULT_COLLAPSE, -ENOTSUP}};
    size_t size = 4 * MIB;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = NULL;
    int r = memsnap_snapshot_new(data, size, MEMSNAP_HUGE_REQUIRE | config.flags, &s);
    memsnap_snapshot_unref(s);
    if (r == -ENOTSUP)
        test_skip("huge pages cannot be had");
    for (size_t i = 0; r == 0 && i < G_N_ELEMENTS(faults); i++) {
        memsnap_snapshot *out = UNTOUCHED;
        fault_arm(FAULT_BIT(faults[i].kind), 0, 1, FAULT_TYPICAL);
        assert_refused(memsnap_snapshot_new(data, size, MEMSNAP_HUGE_REQUIRE, &out),
                       faults[i].error, out);
        fault_disarm();
    }
    g_free(data);
}

/* ---- forked children ------------------------------------------------------------------------- */

struct inheritance {
    memsnap_snapshot *m;
    unsigned char *data;
    size_t size;
};

static void read_inherited(void *arg)
{
    struct inheritance *i = arg;
    unsigned char *now = g_malloc(i->size);
    int r = memsnap_snapshot_read(i->m, 0, now, i->size);
    if (r == 0)
        assert_same(now, i->data, i->size);
    else
        g_assert_cmpint(r, ==, -EBADF);
    g_free(now);
}

/* The memory of a closed mutable view is inherited, or the child is told that it is not. */
static void test_not_inherited_after_all(void)
{
    struct inheritance i = {.size = 40 * page};
    i.data = pattern(i.size, 1);
    i.m = snap(i.data, i.size);
    memsnap_view *v = view_mut(i.m);
    memsnap_snapshot_unref(snap_clone(i.m));
    fill(bytes(v), 3 * page, 2);
    memcpy(i.data, bytes(v), 3 * page);
    fault_arm(FAULT_BIT(FAULT_ADVISE), 0, FAULT_FOR_EVER, -ENOMEM);
    memsnap_view_unref(v);
    fault_disarm();
    child_run(read_inherited, &i);
    assert_content(i.m, i.data, i.size);
    v = view_mut(i.m);
    bytes(v)[5] = i.data[5] = 5;
    memsnap_view_unref(v);
    assert_content(i.m, i.data, i.size);
    memsnap_snapshot_unref(i.m);
    g_free(i.data);
}

/* ---- protections ----------------------------------------------------------------------------- */

static int access_of(const void *p)
{
    char line[512], mode[8] = "";
    unsigned long start, end, at = (unsigned long)(uintptr_t)p;
    FILE *f = fopen("/proc/self/maps", "re");
    g_assert_nonnull(f);
    while (fgets(line, sizeof line, f) &&
           !(sscanf(line, "%lx-%lx %7s", &start, &end, mode) == 3 && start <= at && at < end))
        mode[0] = 0;
    fclose(f);
    return (mode[0] == 'r' ? MEMSNAP_ACCESS_READ : 0) |
           (mode[0] && mode[1] == 'w' ? MEMSNAP_ACCESS_WRITE : 0);
}

static int partial_protect(void *addr, size_t len, int access)
{
    if (len != 8 * page)
        return whole_table->protect(addr, len, access);
    assert_ok(whole_table->protect(addr, 4 * page, access));
    return -EMLINK;
}

/* mprotect goes from mapping to mapping, and stops where it can split no more. */
static void test_protected_in_part(void)
{
    size_t size = 40 * page;
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *v = view(s);
    struct os table = *ms_os;
    assert_ok(memsnap_view_protect(v, 0, 2 * page, MEMSNAP_ACCESS_READ));
    whole_table = ms_os;
    table.protect = partial_protect;
    ms_os = &table;
    int r = memsnap_view_protect(v, 0, 8 * page, MEMSNAP_ACCESS_NONE);
    ms_os = whole_table;
    g_assert_cmpint(r, ==, -EMLINK);
    for (size_t p = 0; p < 10; p++)
        g_assert_cmpint(access_of(bytes(v) + p * page), ==,
                        MEMSNAP_ACCESS_READ | (p < 2 ? 0 : MEMSNAP_ACCESS_WRITE));
    assert_ok(memsnap_view_restore(v));
    for (size_t p = 0; p < 10; p++)
        g_assert_cmpint(access_of(bytes(v) + p * page), ==,
                        MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* The library looks at pages that nobody may look at, and leaves them as they were. */
static void test_protected_after_looks(void)
{
    size_t size = 40 * page, cursor = 0;
    memsnap_snapshot *s = snap_pattern(size, 1), *t = NULL;
    struct memsnap_range r;
    for (int mutable = 0; mutable < 2; mutable ++) {
        memsnap_view *v = mutable ? view_mut(s) : view(s);
        bytes(v)[5 * page] ^= 1;
        if (mutable)
            memsnap_snapshot_unref(snap_clone(s));
        bytes(v)[6 * page] ^= 1;
        bytes(v)[11 * page] ^= 1;
        assert_ok(memsnap_view_protect(v, 4 * page, 9 * page, MEMSNAP_ACCESS_NONE));
        /* cuts it in two */
        assert_ok(memsnap_view_protect(v, 8 * page, 2 * page, MEMSNAP_ACCESS_WRITE));
        for (int i = 0; i < 3; i++) {
            if (i == 1)
                g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, !mutable);
            else if (memsnap_view_take_snapshot(v, i == 2 ? MEMSNAP_TAKE_ATOMIC : 0, &t) == 0)
                t = memsnap_snapshot_unref(t);
            for (size_t p = 3; p < 14; p++) {
                bool all = p < 4 || p == 8 || p == 9 || p > 12;
                g_assert_cmpint(access_of(bytes(v) + p * page), ==,
                                all ? MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE : 0);
            }
            cursor = 0;
        }
        memsnap_view_unref(v);
    }
    memsnap_snapshot_unref(s);
}

enum { HIDDEN = 3, READABLE = 5, HIDDEN_TOO = 9, FREE = 12 };

static int wanted_access(size_t p)
{
    if (p >= READABLE && p < HIDDEN_TOO)
        return MEMSNAP_ACCESS_READ;
    return p >= HIDDEN && p < FREE ? 0 : MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE;
}

static int look_or_take(memsnap_view *v, int which)
{
    struct memsnap_range r;
    memsnap_snapshot *t = NULL;
    size_t cursor = 0;
    if (which == 0) {
        int n = memsnap_view_dirty(v, &cursor, &r, 1);
        if (n < 0)
            g_assert_cmpuint(cursor, ==, 0); /* the call may be repeated */
        return n < 0 ? n : 0;
    }
    int e = memsnap_view_take_snapshot(v, 0, &t);
    memsnap_snapshot_unref(t);
    return e;
}

/* One protection that cannot be changed, at each place: the call says so, and no page is more
 * accessible than it was; or all are as they were. */
static bool protections_hold(memsnap_view *v, int which, size_t n)
{
    assert_ok(memsnap_view_restore(v));
    assert_ok(memsnap_view_protect(v, HIDDEN * page, (READABLE - HIDDEN) * page, 0));
    assert_ok(memsnap_view_protect(v, READABLE * page, (HIDDEN_TOO - READABLE) * page,
                                   MEMSNAP_ACCESS_READ));
    assert_ok(memsnap_view_protect(v, HIDDEN_TOO * page, (FREE - HIDDEN_TOO) * page, 0));
    fault_arm(FAULT_BIT(FAULT_PROTECT), n, 1, -EMLINK);
    int e = look_or_take(v, which);
    bool fired = fault_fired() > 0;
    fault_disarm();
    for (size_t p = 0; p < 20; p++) {
        int now = access_of(bytes(v) + p * page);
        g_assert_cmpint(now & ~wanted_access(p), ==, 0);
        if (e == 0)
            g_assert_cmpint(now, ==, wanted_access(p));
    }
    assert_ok(memsnap_view_restore(v));
    for (size_t p = 0; p < 20; p++)
        bytes(v)[p * page] ^= 1;
    return fired;
}

static void test_never_more_accessible(void)
{
    memsnap_snapshot *s = snap_pattern(20 * page, 1);
    for (int mutable = 0; mutable < 2; mutable ++) {
        for (int which = 0; which < 2; which++) {
            for (size_t n = 0, more = 1; more; n++) {
                /* a new one each time: the first take of a mutable view freezes it */
                memsnap_snapshot *c = snap_clone(s);
                memsnap_view *v = mutable ? view_mut(c) : view(c);
                more = protections_hold(v, which, n);
                protections_hold(v, which, n);
                memsnap_view_unref(v);
                memsnap_snapshot_unref(c);
            }
        }
    }
    memsnap_snapshot_unref(s);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("restore-to-cut-short", test_restore_to_cut_short, TEST_SOURCES);
    test_add("restore-cut-short", test_restore_cut_short, TEST_SOURCES);
    test_add("closed-when-torn", test_closed_when_torn, TEST_SOURCES);
    test_add("torn-shows-no-others", test_torn_shows_no_others, 0);
    test_add("roll-back-cut-short", test_roll_back_cut_short, TEST_SOURCES);
    test_add("torn-freeze", test_torn_freeze, 0);
    test_add("file-that-shrinks", test_file_that_shrinks, 0);
    test_add("no-huge-pages-now", test_no_huge_pages_now, 0);
    test_add("not-inherited-after-all", test_not_inherited_after_all, 0);
    test_add("protected-after-looks", test_protected_after_looks, 0);
    test_add("never-more-accessible", test_never_more_accessible, 0);
    test_add("protected-in-part", test_protected_in_part, 0);
    return g_test_run();
}
