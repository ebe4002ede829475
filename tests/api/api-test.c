/* SPDX-License-Identifier: MIT */
/* Snapshots, and what holds for every function of the interface: arguments, out-parameters,
 * counts, statistics. Views, the mutable view and files have programs of their own (view-test,
 * mutable-test, file-test). */
#include "config.h"

#include <limits.h>
#include <stdlib.h>

#include "support/support.h"

#define ALL_SNAPSHOT_FLAGS                                                                         \
    (MEMSNAP_HUGE_NEVER | MEMSNAP_HUGE_REQUIRE | MEMSNAP_FILE_MAP | MEMSNAP_FILE_SHARED |          \
     MEMSNAP_NO_FD)
#define ALL_VIEW_FLAGS (MEMSNAP_VIEW_COPY | MEMSNAP_VIEW_PREFAULT | MEMSNAP_VIEW_NODUMP)

static size_t sizes[9];
#define N_SIZES G_N_ELEMENTS(sizes)

static void init_sizes(void)
{
    const size_t list[N_SIZES] = {0,           1,       page - 1,    page,   page + 1,
                                  2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB};
    memcpy(sizes, list, sizeof sizes);
    shrink_for_valgrind(sizes, N_SIZES);
}

/* ---- making snapshots ------------------------------------------------------------------------ */

static void test_bytes(void)
{
    for (size_t i = 0; i < N_SIZES; i++) {
        unsigned char *data = pattern(sizes[i], i);
        uint64_t before = hash(data, sizes[i]);
        memsnap_snapshot *s = snap(data, sizes[i]);
        g_assert_cmpuint(hash(data, sizes[i]), ==, before);
        unsigned char *copy = g_memdup2(data, sizes[i] + 1);
        memset(data, 0x5A, sizes[i] + 1); /* the source is the caller's again */
        assert_content(s, copy, sizes[i]);
        memsnap_snapshot_unref(s);
        g_free(copy);
        g_free(data);
    }
}

static void test_bytes_sparse(void)
{
    size_t size = 64 * page;
    unsigned char *data = g_malloc0(size);
    fill(data + 3 * page, 2 * page, 1);
    data[40 * page + 7] = 1;
    memsnap_snapshot *s = snap(data, size);
    assert_content(s, data, size);
    memsnap_snapshot_unref(s);
    g_free(data);
}

static void test_zeroed(void)
{
    for (size_t i = 0; i < N_SIZES; i++) {
        unsigned char *data = g_malloc0(sizes[i] + 1);
        memsnap_snapshot *s = snap_zero(sizes[i]);
        g_assert_cmpuint(snap_stats(s).stored_bytes, ==, 0);
        g_assert_cmpstr(snap_stats(s).backend, ==, "none");
        assert_content(s, data, sizes[i]);
        memsnap_snapshot_unref(s);
        g_free(data);
    }
}

static void test_zeroed_huge(void)
{
    size_t size = sizeof(size_t) < 8 ? GIB : GIB << 10;
    size_t fds = descriptors(), objects = object_bytes(), rss = resident("VmRSS");
    memsnap_snapshot *s = snap_zero(size);
    g_assert_cmpuint(memsnap_snapshot_size(s), ==, size);
    g_assert_cmpuint(snap_stats(s).stored_bytes, ==, 0);
    memsnap_snapshot *c = snap_clone(s);
    unsigned char end[16];
    memset(end, 1, sizeof end);
    assert_ok(memsnap_snapshot_read(c, size - sizeof end, end, sizeof end));
    g_assert_true(all_zero(end, sizeof end));
    size_t cursor = 0;
    struct memsnap_range r;
    g_assert_cmpint(memsnap_snapshot_diff(s, c, &cursor, &r, 1), ==, 0);
    g_assert_cmpuint(descriptors(), ==, fds);
    g_assert_cmpuint(object_bytes(), ==, objects);
    g_assert_cmpuint(resident("VmRSS"), <, rss + 4 * MIB);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(c);
}

/* Only the source that asks the kernel for ranges can look at a tebibyte in no time. */
static void test_zeroed_huge_view(void)
{
    size_t size = GIB << 10;
    if (sizeof(size_t) < 8 || on_valgrind() || on_sanitizer()) {
        test_skip("no room for a tebibyte in the address space");
        return;
    }
    if (config.force != OS_SOURCE_SCAN) {
        test_skip("this source of dirty pages looks at every page");
        return;
    }
    memsnap_snapshot *s = snap_zero(size);
    memsnap_view *v = NULL;
    int r = memsnap_snapshot_view(s, 0, &v);
    if (r == -ENOMEM) {
        memsnap_snapshot_unref(s);
        test_skip("the system refuses a mapping larger than its memory");
        return;
    }
    assert_ok(r);
    size_t rss = resident("VmRSS");
    bytes(v)[size / 2] = 1;
    bytes(v)[size - 1] = 2;
    memsnap_snapshot *t = take(v);
    memsnap_view_unref(v);
    g_assert_cmpuint(snap_stats(t).stored_bytes, ==, 2 * page);
    unsigned char byte = 0;
    assert_ok(memsnap_snapshot_read(t, size - 1, &byte, 1));
    g_assert_cmpuint(byte, ==, 2);
    g_assert_cmpuint(resident("VmRSS"), <, rss + 16 * MIB);
    size_t cursor = 0;
    struct memsnap_range ranges[4];
    g_assert_cmpint(memsnap_snapshot_diff(s, t, &cursor, ranges, 4), ==, 2);
    g_assert_cmpuint(ranges[0].offset, ==, size / 2);
    g_assert_cmpuint(ranges[1].offset, ==, size - page);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(s);
}

/* Sizes that wrap when rounded, or that no object in C can have. */
static void test_overflow(void)
{
    const size_t too_large[] = {SIZE_MAX,
                                SIZE_MAX - 1,
                                SIZE_MAX - page + 2,
                                SIZE_MAX - page + 1,
                                SIZE_MAX - page,
                                SIZE_MAX / 2 + 1};
    char byte = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(too_large); i++) {
        memsnap_snapshot *out = UNTOUCHED;
        int r = memsnap_snapshot_new(&byte, too_large[i], config.flags, &out);
        g_assert_true(r == -EINVAL || r == -ENOMEM);
        g_assert_true(out == UNTOUCHED);
        r = memsnap_snapshot_new_zeroed(too_large[i], config.flags, &out);
        g_assert_true(r == -EINVAL || r == -ENOMEM);
        g_assert_true(out == UNTOUCHED);
    }
}

/* As large as can be written, but not as can be mapped. */
static void test_no_room(void)
{
    memsnap_snapshot *s = NULL;
    memsnap_view *opened = UNTOUCHED;
    if (sizeof(size_t) < 8 || on_valgrind()) {
        test_skip("needs 64-bit sizes, and a kernel's own mmap");
        return;
    }
    int r = memsnap_snapshot_new_zeroed((size_t)1 << 61, config.flags, &s);
    if (r < 0) {
        g_assert_cmpint(r, ==, -ENOMEM);
        return;
    }
    assert_refused(memsnap_snapshot_view(s, 0, &opened), -ENOMEM, opened);
    assert_refused(memsnap_snapshot_view_mut(s, 0, &opened), -ENOMEM, opened);
    memsnap_snapshot_unref(s);
}

/* 70,000 is more than the mappings that a process may have. */
static void test_empty(void)
{
    size_t maps = mappings(), fds = descriptors();
    int rounds = on_valgrind() ? 1000 : 70000;
    for (int i = 0; i < rounds; i++) {
        memsnap_snapshot *s = i & 1 ? snap_zero(0) : snap("", 0);
        memsnap_view *v = i & 2 ? view_mut(s) : view(s);
        g_assert_nonnull(memsnap_view_data(v));
        g_assert_cmpuint(memsnap_view_size(v), ==, 0);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(s);
    }
    g_assert_cmpuint(mappings(), <, maps + 50);
    g_assert_cmpuint(descriptors(), ==, fds);
}

/* An empty snapshot can do what any other can. */
static void test_empty_operations(void)
{
    memsnap_snapshot *s = NULL, *t;
    size_t cursor = 0;
    struct memsnap_range r;
    assert_ok(memsnap_snapshot_new(NULL, 0, config.flags, &s));
    assert_ok(memsnap_snapshot_read(s, 0, &r, 0));
    g_assert_cmpint(memsnap_snapshot_read(s, 0, &r, 1), ==, -EINVAL);
    for (int mutable = 0; mutable < 2; mutable ++) {
        memsnap_view *v = mutable ? view_mut(s) : view(s), *w = view(s);
        g_assert_true(memsnap_view_data(v) != memsnap_view_data(w));
        t = take(v);
        g_assert_cmpuint(memsnap_snapshot_size(t), ==, 0);
        assert_ok(memsnap_view_restore(v));
        assert_ok(memsnap_view_restore_to(v, t));
        assert_ok(memsnap_view_protect(v, 0, 0, MEMSNAP_ACCESS_NONE));
        g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 0);
        g_assert_cmpint(memsnap_snapshot_diff(s, t, &cursor, &r, 1), ==, 0);
        memsnap_snapshot_unref(t);
        memsnap_view_unref(w);
        memsnap_view_unref(v);
    }
    t = snap_clone(s);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
}

static void check_huge_required(size_t size)
{
    unsigned char *data = pattern(size, 7);
    memsnap_snapshot *s = UNTOUCHED;
    int r = memsnap_snapshot_new(data, size, config.flags | MEMSNAP_HUGE_REQUIRE, &s);
    if (r == 0) {
        g_assert_false(config_is("heap"));
        /* What a view or a window of the image shows is huge where whole huge pages lie in it. */
        g_assert_cmpuint(snap_stats(s).huge_bytes, >=, size / (2 * MIB) * (2 * MIB));
        assert_content(s, data, size);
        memsnap_snapshot *child = NULL;
        memsnap_view *v = view(s);
        bytes(v)[size - 1] ^= 1;
        data[size - 1] ^= 1;
        child = take(v);
        assert_content(child, data, size);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(child);
        memsnap_snapshot_unref(s);
    } else {
        assert_refused(r, -ENOTSUP, s);
    }
    g_free(data);
}

static void test_huge_flags(void)
{
    size_t size = 4 * MIB;
    unsigned char *data = pattern(size, 7);
    memsnap_snapshot *out = UNTOUCHED;
    memsnap_snapshot *s = NULL;

    assert_ok(memsnap_snapshot_new(data, size, config.flags | MEMSNAP_HUGE_NEVER, &s));
    assert_content(s, data, size);
    g_assert_cmpuint(snap_stats(s).huge_bytes, ==, 0);
    memsnap_snapshot_unref(s);
    g_free(data);

    /* Whole huge pages; a rest that takes one more, and one that does not; half a huge page. */
    check_huge_required(size);
    check_huge_required(size + MIB + 1);
    check_huge_required(size + MIB - 1);
    check_huge_required(MIB);
    /* smaller than half a huge page */
    assert_refused(memsnap_snapshot_new("x", 1, config.flags | MEMSNAP_HUGE_REQUIRE, &out),
                   -ENOTSUP, out);
    assert_refused(memsnap_snapshot_new_zeroed(MIB - 1, config.flags | MEMSNAP_HUGE_REQUIRE, &out),
                   -ENOTSUP, out);
}

/* ---- clone, read ----------------------------------------------------------------------------- */

static void test_clone(void)
{
    for (size_t i = 0; i < N_SIZES; i++) {
        unsigned char *data = pattern(sizes[i], i);
        memsnap_snapshot *s = snap(data, sizes[i]), *c = snap_clone(s), *d = snap_clone(c);
        memsnap_snapshot_unref(c);
        assert_content(d, data, sizes[i]);
        memsnap_snapshot_unref(s);
        assert_content(d, data, sizes[i]);
        memsnap_snapshot_unref(d);
        g_free(data);
    }
}

/* Neither memory nor descriptors, however many. */
static void test_clone_costs_nothing(void)
{
    enum { CLONES = 1000 };
    memsnap_snapshot *s = snap_pattern(2 * MIB, 3), *c[CLONES];
    size_t stored = snap_stats(s).stored_bytes, objects = object_bytes(), fds = descriptors(),
           maps = mappings(), rss = resident("VmRSS");
    g_assert_cmpuint(snap_stats(s).exclusive_bytes, ==, stored);
    for (int i = 0; i < CLONES; i++)
        c[i] = snap_clone(i ? c[i - 1] : s);
    g_assert_cmpuint(object_bytes(), ==, objects);
    g_assert_cmpuint(descriptors(), ==, fds);
    g_assert_cmpuint(mappings(), <=, maps + 8);
    if (!on_valgrind()) /* whose own memory grows */
        g_assert_cmpuint(resident("VmRSS"), <, rss + 4 * MIB);
    g_assert_cmpuint(snap_stats(s).exclusive_bytes, ==, 0);
    g_assert_cmpuint(snap_stats(c[CLONES - 1]).stored_bytes, ==, stored);
    for (int i = 0; i < CLONES; i++)
        memsnap_snapshot_unref(c[i]);
    g_assert_cmpuint(snap_stats(s).exclusive_bytes, ==, stored);
    memsnap_snapshot_unref(s);
}

static void test_read(void)
{
    size_t size = 5 * MIB + 123;
    unsigned char *data = pattern(size, 9), *buf = g_malloc(size + 1);
    memset(data + MIB, 0, 3 * page);
    memsnap_snapshot *s = snap(data, size);
    struct rng rng = {42};
    for (int i = 0; i < (on_valgrind() ? 10 : 500); i++) {
        size_t offset = rng_below(&rng, size + 1),
               len = rng_below(&rng, (i & 1 ? size : 3 * page) + 1);
        len = ms_min(len, size - offset);
        buf[len] = 0xA5;
        assert_ok(memsnap_snapshot_read(s, offset, buf, len));
        assert_same(buf, data + offset, len);
        g_assert_cmpuint(buf[len], ==, 0xA5);
    }
    assert_ok(memsnap_snapshot_read(s, size, buf, 0));
    g_assert_cmpint(memsnap_snapshot_read(s, size, buf, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_read(s, 0, buf, size + 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_read(s, size + 1, buf, 0), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_read(s, 10, buf, SIZE_MAX), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_read(s, SIZE_MAX, buf, 10), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_read(s, 0, null, 1), ==, -EINVAL);
    memsnap_snapshot_unref(s);
    g_free(buf);
    g_free(data);
}

/* ---- diff ------------------------------------------------------------------------------------ */

/* Compares what diff finds, max ranges at a time, with what comparing the bytes finds. */
static void check_diff(memsnap_snapshot *a, memsnap_snapshot *b, const unsigned char *x,
                       const unsigned char *y, size_t size, size_t max)
{
    struct memsnap_range *ranges = g_new(struct memsnap_range, max);
    size_t cursor = 0, at = 0;
    for (;;) {
        int n = memsnap_snapshot_diff(a, b, &cursor, ranges, max);
        g_assert_cmpint(n, >=, 0);
        g_assert_cmpuint((size_t)n, <=, max);
        if (n == 0)
            break;
        check_ranges(ranges, n, x, y, size, &at);
        g_assert_cmpuint(cursor, >=, ms_min(at, size));
    }
    if (at < size)
        assert_same(x + at, y + at, size - at);
    g_free(ranges);
}

static void test_diff(void)
{
    const size_t maxima[] = {1, 2, 3, 5, 100, 10000};
    size_t size = (on_valgrind() ? 40 * page : 2 * MIB) + 77, pages = round_up(size) / page;
    unsigned char *x = pattern(size, 1), *y = g_memdup2(x, size);
    struct rng rng = {5};
    for (int round = 0; round < 6; round++) {
        memsnap_snapshot *a = snap(x, size), *b = snap(y, size);
        for (size_t i = 0; i < G_N_ELEMENTS(maxima); i++) {
            check_diff(a, b, x, y, size, maxima[i]);
            check_diff(b, a, y, x, size, maxima[i]);
        }
        check_diff(a, a, x, x, size, 1);
        /* The same through a view: shared pages, and pages that are stored twice though equal. */
        memsnap_view *v = view(a);
        memcpy(bytes(v), y, size);
        memsnap_snapshot *t = take(v);
        check_diff(a, t, x, y, size, 3);
        check_diff(t, b, y, y, size, 3);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(t);
        memsnap_snapshot_unref(a);
        memsnap_snapshot_unref(b);
        for (int i = 0; i < 1 << (2 * round); i++)
            y[rng_below(&rng, pages - 1) * page + rng_below(&rng, page)] ^= 0x40;
        if (round & 1)
            y[size - 1] ^= 1;
    }
    g_free(x);
    g_free(y);
}

static void test_diff_all(void)
{
    size_t size = 40 * page;
    unsigned char *x = pattern(size, 1), *y = pattern(size, 2), *z = g_malloc0(size);
    memsnap_snapshot *a = snap(x, size), *b = snap(y, size), *c = snap_zero(size),
                     *d = snap(z, size);
    check_diff(a, b, x, y, size, 1);
    check_diff(a, c, x, z, size, 2);
    check_diff(c, a, z, x, size, 2);
    check_diff(c, d, z, z, size, 2);
    memsnap_snapshot_unref(a);
    memsnap_snapshot_unref(b);
    memsnap_snapshot_unref(c);
    memsnap_snapshot_unref(d);
    g_free(x);
    g_free(y);
    g_free(z);
}

static void test_diff_cursor(void)
{
    size_t size = 4 * page + 10, cursor;
    memsnap_snapshot *a = snap_pattern(size, 1), *b = snap_pattern(size, 2),
                     *other = snap_pattern(size + 1, 1);
    struct memsnap_range r;
    cursor = size + 1;
    g_assert_cmpint(memsnap_snapshot_diff(a, b, &cursor, &r, 1), ==, -EINVAL);
    g_assert_cmpuint(cursor, ==, size + 1);
    cursor = 0;
    g_assert_cmpint(memsnap_snapshot_diff(a, b, &cursor, &r, 0), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_diff(a, other, &cursor, &r, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_diff(a, b, &cursor, null, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_diff(a, b, null, &r, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_diff(null, b, &cursor, &r, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_diff(a, null, &cursor, &r, 1), ==, -EINVAL);
    g_assert_cmpuint(cursor, ==, 0);
    cursor = size;
    g_assert_cmpint(memsnap_snapshot_diff(a, b, &cursor, &r, 1), ==, 0);
    cursor = 2 * page; /* from the middle of a run: the rest of it */
    g_assert_cmpint(memsnap_snapshot_diff(a, b, &cursor, &r, 1), ==, 1);
    g_assert_cmpuint(r.offset, ==, 2 * page);
    g_assert_cmpuint(r.len, ==, size - 2 * page);
    memsnap_snapshot_unref(a);
    memsnap_snapshot_unref(b);
    memsnap_snapshot_unref(other);
}

/* ---- arguments ------------------------------------------------------------------------------- */

static void test_versions(void)
{
    const char *v = memsnap_version_string();
    g_assert_nonnull(v);
    g_assert_true(g_ascii_isdigit(v[0]) && strchr(v, '.'));
    g_assert_cmpint((long)memsnap_page_size(), ==, sysconf(_SC_PAGESIZE));
    g_assert_cmpuint(page & (page - 1), ==, 0);
}

static void test_unknown_flags(void)
{
    char *path = temp_file("file", "x", 1);
    memsnap_snapshot *s = snap_pattern(3 * page, 1);
    memsnap_view *v = view(s);
    memsnap_snapshot *out = UNTOUCHED;
    memsnap_view *opened = UNTOUCHED;
    for (unsigned bit = 1; bit; bit <<= 1) {
        if (!(bit & ALL_SNAPSHOT_FLAGS)) {
            assert_refused(memsnap_snapshot_new("x", 1, bit, &out), -EINVAL, out);
            assert_refused(memsnap_snapshot_new_zeroed(1, bit, &out), -EINVAL, out);
            assert_refused(memsnap_snapshot_new_from_file(path, bit, &out), -EINVAL, out);
            assert_refused(memsnap_snapshot_new_from_fd(0, bit, &out), -EINVAL, out);
        }
        if (!(bit & ALL_VIEW_FLAGS)) {
            assert_refused(memsnap_snapshot_view(s, bit, &opened), -EINVAL, opened);
            if (!(bit & (MEMSNAP_VIEW_TRACK | MEMSNAP_VIEW_PINNABLE)))
                assert_refused(memsnap_snapshot_view_mut(s, bit, &opened), -EINVAL, opened);
        }
        if (!(bit & (ALL_VIEW_FLAGS | MEMSNAP_VIEW_MUTABLE)))
            assert_refused(memsnap_snapshot_view_at(s, free_address(4 * page), bit, &opened),
                           -EINVAL, opened);
        if (bit != MEMSNAP_TAKE_ATOMIC)
            assert_refused(memsnap_view_take_snapshot(v, bit, &out), -EINVAL, out);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(path);
}

static void test_contradictory_flags(void)
{
    unsigned both = MEMSNAP_HUGE_NEVER | MEMSNAP_HUGE_REQUIRE,
             fd_and_huge = MEMSNAP_NO_FD | MEMSNAP_HUGE_REQUIRE;
    char *path = temp_file("file", "x", 1);
    memsnap_snapshot *out = UNTOUCHED;
    memsnap_snapshot **s = &out;
    assert_refused(memsnap_snapshot_new("x", 1, both, s), -EINVAL, out);
    assert_refused(memsnap_snapshot_new_zeroed(1, both, s), -EINVAL, out);
    assert_refused(memsnap_snapshot_new_from_file(path, both, s), -EINVAL, out);
    assert_refused(memsnap_snapshot_new("x", 1, fd_and_huge, s), -ENOTSUP, out);
    assert_refused(memsnap_snapshot_new_zeroed(1, fd_and_huge, s), -ENOTSUP, out);
    assert_refused(memsnap_snapshot_new_from_file(path, fd_and_huge, s), -ENOTSUP, out);
    assert_refused(memsnap_snapshot_new_from_file(path, MEMSNAP_NO_FD | MEMSNAP_FILE_MAP, s),
                   -EINVAL, out);
    assert_refused(memsnap_snapshot_new_from_file(path, MEMSNAP_NO_FD | MEMSNAP_FILE_SHARED, s),
                   -EINVAL, out);
    assert_refused(memsnap_snapshot_new_from_file(path, MEMSNAP_HUGE_REQUIRE | MEMSNAP_FILE_MAP, s),
                   -ENOTSUP, out);
    const unsigned of_files[] = {MEMSNAP_FILE_MAP, MEMSNAP_FILE_SHARED,
                                 MEMSNAP_FILE_MAP | MEMSNAP_FILE_SHARED};
    for (size_t i = 0; i < G_N_ELEMENTS(of_files); i++) {
        assert_refused(memsnap_snapshot_new("x", 1, of_files[i], s), -EINVAL, out);
        assert_refused(memsnap_snapshot_new_zeroed(1, of_files[i], s), -EINVAL, out);
    }
    g_free(path);
}

static void test_null_makers(void)
{
    memsnap_snapshot *out = UNTOUCHED;
    memsnap_snapshot **s = &out;
    assert_refused(memsnap_snapshot_new(null, 1, config.flags, s), -EINVAL, out);
    assert_refused(memsnap_snapshot_new_from_file(null, 0, s), -EINVAL, out);
    assert_refused(memsnap_snapshot_clone(null, s), -EINVAL, out);
    g_assert_cmpint(memsnap_snapshot_new("x", 1, config.flags, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_new_zeroed(1, config.flags, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_new_from_file("/", 0, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_new_from_fd(0, 0, null), ==, -EINVAL);
}

static void test_null_handles(void)
{
    char buf[1];
    size_t cursor = 0;
    struct memsnap_range r;
    struct memsnap_snapshot_stats ss = {.size = sizeof ss};
    struct memsnap_view_stats vs = {.size = sizeof vs};
    memsnap_snapshot *out = UNTOUCHED;
    memsnap_view *opened = UNTOUCHED;
    g_assert_null(memsnap_snapshot_unref(null));
    g_assert_null(memsnap_view_unref(null));
    g_assert_null(memsnap_snapshot_ref(null));
    g_assert_null(memsnap_view_ref(null));
    g_assert_cmpuint(memsnap_snapshot_size(null), ==, 0);
    g_assert_cmpuint(memsnap_view_size(null), ==, 0);
    g_assert_null(memsnap_view_data(null));
    g_assert_cmpint(memsnap_view_is_mutable(null), ==, 0);
    g_assert_cmpint(memsnap_snapshot_read(null, 0, buf, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_set_recycling(null, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_stats(null, &ss), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_stats(null, &vs), ==, -EINVAL);
    assert_refused(memsnap_snapshot_view(null, 0, &opened), -EINVAL, opened);
    assert_refused(memsnap_snapshot_view_mut(null, 0, &opened), -EINVAL, opened);
    assert_refused(memsnap_snapshot_view_at(null, free_address(page), 0, &opened), -EINVAL, opened);
    assert_refused(memsnap_view_take_snapshot(null, 0, &out), -EINVAL, out);
    g_assert_cmpint(memsnap_view_restore(null), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_protect(null, 0, 0, MEMSNAP_ACCESS_READ), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_dirty(null, &cursor, &r, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_flush(null, 0, 0), ==, -EINVAL);
}

static void test_null_outputs(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    memsnap_view *v = view(s);
    size_t cursor = 0;
    struct memsnap_range r;
    g_assert_cmpint(memsnap_snapshot_clone(s, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_view(s, 0, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_view_mut(s, 0, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_view_at(s, free_address(page), 0, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_take_snapshot(v, 0, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_restore_to(v, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_restore_to(null, s), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_dirty(v, null, &r, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_dirty(v, &cursor, null, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_stats(s, null), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_stats(v, null), ==, -EINVAL);
    memsnap_view_unref(view_mut(s)); /* the refused one left none open */
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* ---- reference counts ------------------------------------------------------------------------ */

static void test_references(void)
{
    size_t size = 9 * page;
    unsigned char *data = pattern(size, 4);
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *v = view(s);
    for (int i = 0; i < 1000; i++) {
        g_assert_true(memsnap_snapshot_ref(s) == s);
        g_assert_true(memsnap_view_ref(v) == v);
    }
    errno = 4711;
    for (int i = 0; i < 1000; i++) {
        g_assert_null(memsnap_snapshot_unref(s));
        g_assert_null(memsnap_view_unref(v));
    }
    g_assert_cmpint(errno, ==, 4711);
    assert_content(s, data, size);
    assert_same(bytes(v), data, size);
    errno = 4711;
    g_assert_null(memsnap_snapshot_unref(s));
    g_assert_cmpint(errno, ==, 4711);
    assert_same(bytes(v), data, size);
    errno = 4711;
    g_assert_null(memsnap_view_unref(v));
    g_assert_cmpint(errno, ==, 4711);
    g_free(data);
}

/* ---- statistics ------------------------------------------------------------------------------ */

static void test_backend_name(void)
{
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    const char *backend = snap_stats(s).backend;
    if (config_is("heap"))
        g_assert_cmpstr(backend, ==, "heap");
    else if (config_is("linux"))
        g_assert_true(strcmp(backend, "memfd") == 0 || strcmp(backend, "file") == 0);
    else
        g_assert_cmpstr(backend, ==, "file");
    memsnap_view *v = view(s);
    const char *source = view_stats(v).dirty_source;
    const char *names[] = {[OS_SOURCE_SCAN] = "pagemap-scan",
                           [OS_SOURCE_PAGEMAP] = "pagemap",
                           [OS_SOURCE_COMPARE] = "compare"};
    g_assert_nonnull(source);
    if (config.force < OS_SOURCES)
        g_assert_cmpstr(source, ==, names[config.force]);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

static void test_stats_snapshot(void)
{
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    struct memsnap_snapshot_stats st = snap_stats(s);
    g_assert_cmpuint(st.stored_bytes, ==, 100 * page);
    g_assert_cmpuint(st.exclusive_bytes, ==, 100 * page);
    g_assert_cmpuint(st.extents, ==, 1);
    g_assert_cmpuint(st.chunks, ==, 1);
    g_assert_cmpuint(st.parked_views, ==, 0);

    memsnap_view *v = view(s);
    bytes(v)[10 * page] ^= 1;
    bytes(v)[50 * page] ^= 1;
    memsnap_snapshot *t = take(v);
    memsnap_view_unref(v);
    g_assert_cmpuint(snap_stats(s).parked_views, ==, can_recycle());
    struct memsnap_snapshot_stats child = snap_stats(t);
    g_assert_cmpuint(child.stored_bytes, ==, 102 * page);
    g_assert_cmpuint(child.exclusive_bytes, ==, 2 * page);
    g_assert_cmpuint(child.extents, ==, 5);
    g_assert_cmpuint(child.chunks, ==, 3);
    g_assert_cmpuint(child.parked_views, ==, 0);
    memsnap_snapshot_unref(t);
    /* views that wait go with the snapshot */
    g_assert_cmpuint(snap_stats(s).exclusive_bytes, ==, 100 * page);
    assert_ok(memsnap_snapshot_set_recycling(s, 0));
    g_assert_cmpuint(snap_stats(s).parked_views, ==, 0);
    g_assert_cmpuint(snap_stats(s).exclusive_bytes, ==, 100 * page);
    memsnap_snapshot_unref(s);
}

static void test_stats_view(void)
{
    size_t size = 100 * page;
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *v = view(s);
    struct memsnap_view_stats before = view_stats(v);
    g_assert_cmpuint(before.mapped_bytes, ==, (config_is("heap") ? 0 : size));
    g_assert_cmpuint(before.restores, ==, 0);
    g_assert_cmpuint(before.restored_pages, ==, 0);
    if (config_is("heap")) {
        g_assert_cmpuint(before.copied_pages, ==, 100);
    } else {
        g_assert_cmpuint(before.copied_pages, ==, 0);
        g_assert_cmpuint(before.mappings, ==, 1);
    }
    for (size_t i = 0; i < 7; i++)
        bytes(v)[i * 10 * page] ^= 1;
    struct memsnap_view_stats dirty = view_stats(v);
    g_assert_cmpuint(dirty.private_bytes, >=, 7 * page);
    assert_ok(memsnap_view_restore(v));
    struct memsnap_view_stats after = view_stats(v);
    g_assert_cmpuint(after.restores, ==, 1);
    g_assert_true(after.restored_pages == 7 || after.remaps == 1);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* Programs built against an older or a newer header. */
static void test_stats_size(void)
{
    struct {
        struct memsnap_snapshot_stats known;
        size_t later[4];
    } large, small;
    struct {
        struct memsnap_view_stats known;
        size_t later[4];
    } large_view, small_view;
    memsnap_snapshot *s = snap_pattern(40 * page, 1);
    memsnap_view *v = view(s);
    memset(&large, 0xEE, sizeof large);
    large.known.size = sizeof large;
    assert_ok(memsnap_snapshot_stats(s, &large.known));
    g_assert_cmpuint(large.known.size, ==, sizeof large);
    g_assert_cmpuint(large.known.stored_bytes, ==, 40 * page);
    g_assert_nonnull(large.known.backend);
    g_assert_cmpuint(large.later[0], ==, large.later[3]);
    g_assert_cmpuint((unsigned char)large.later[0], ==, 0xEE);
    memset(&large_view, 0xEE, sizeof large_view);
    large_view.known.size = sizeof large_view;
    assert_ok(memsnap_view_stats(v, &large_view.known));
    g_assert_cmpuint(large_view.known.size, ==, sizeof large_view);
    g_assert_cmpuint(large_view.known.mapped_bytes, ==, (config_is("heap") ? 0 : 40 * page));
    g_assert_nonnull(large_view.known.dirty_source);
    g_assert_cmpuint(large_view.later[0], ==, large_view.later[3]);
    g_assert_cmpuint((unsigned char)large_view.later[0], ==, 0xEE);

    size_t cut = offsetof(struct memsnap_snapshot_stats, huge_bytes);
    memset(&small, 0xEE, sizeof small);
    small.known.size = cut;
    assert_ok(memsnap_snapshot_stats(s, &small.known));
    g_assert_cmpuint(small.known.stored_bytes, ==, 40 * page);
    for (size_t i = cut; i < sizeof small; i++)
        g_assert_cmpuint(((unsigned char *)&small)[i], ==, 0xEE);
    cut = offsetof(struct memsnap_view_stats, private_bytes);
    memset(&small_view, 0xEE, sizeof small_view);
    small_view.known.size = cut;
    assert_ok(memsnap_view_stats(v, &small_view.known));
    g_assert_cmpuint(small_view.known.mapped_bytes, ==, large_view.known.mapped_bytes);
    for (size_t i = cut; i < sizeof small_view; i++)
        g_assert_cmpuint(((unsigned char *)&small_view)[i], ==, 0xEE);

    small.known.size = 0;
    g_assert_cmpint(memsnap_snapshot_stats(s, &small.known), ==, -EINVAL);
    small_view.known.size = sizeof(size_t) - 1;
    g_assert_cmpint(memsnap_view_stats(v, &small_view.known), ==, -EINVAL);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* Asking what a view costs touches none of its pages. */
static void test_stats_of_protected(void)
{
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    memsnap_view *v = view(s);
    assert_ok(memsnap_view_protect(v, 10 * page, 50 * page, MEMSNAP_ACCESS_NONE));
    g_assert_cmpuint(view_stats(v).private_bytes, <=, 100 * page);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    init_sizes();
    test_add("bytes", test_bytes, TEST_SOURCES);
    test_add("bytes-sparse", test_bytes_sparse, 0);
    test_add("zeroed", test_zeroed, TEST_SOURCES);
    test_add("zeroed-huge", test_zeroed_huge, 0);
    test_add("zeroed-huge-view", test_zeroed_huge_view, TEST_SOURCES);
    test_add("overflow", test_overflow, 0);
    test_add("no-room", test_no_room, 0);
    test_add("empty", test_empty, 0);
    test_add("empty-operations", test_empty_operations, TEST_SOURCES);
    test_add("huge-flags", test_huge_flags, 0);
    test_add("clone", test_clone, 0);
    test_add("clone-costs-nothing", test_clone_costs_nothing, 0);
    test_add("read", test_read, 0);
    test_add("diff", test_diff, TEST_SOURCES);
    test_add("diff-all", test_diff_all, 0);
    test_add("diff-cursor", test_diff_cursor, 0);
    test_add("versions", test_versions, 0);
    test_add("unknown-flags", test_unknown_flags, 0);
    test_add("contradictory-flags", test_contradictory_flags, 0);
    test_add("null-makers", test_null_makers, 0);
    test_add("null-handles", test_null_handles, 0);
    test_add("null-outputs", test_null_outputs, 0);
    test_add("references", test_references, TEST_SOURCES);
    test_add("backend-name", test_backend_name, TEST_SOURCES);
    test_add("stats-snapshot", test_stats_snapshot, 0);
    test_add("stats-of-protected", test_stats_of_protected, TEST_SOURCES);
    test_add("stats-view", test_stats_view, TEST_SOURCES);
    test_add("stats-size", test_stats_size, 0);
    return g_test_run();
}
