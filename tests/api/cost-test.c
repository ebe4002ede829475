/* SPDX-License-Identifier: MIT */
/* What operations cost, in system calls and page faults: exact numbers, not times. */
#include "config.h"

#include <sys/resource.h>

#include "support/fault.h"
#include "support/support.h"

static size_t operations(void)
{
    size_t n = 0;
    for (int k = 0; k < FAULT_KINDS; k++)
        n += fault_count((enum fault_kind)k);
    return n;
}

static size_t counted(enum fault_kind kind, size_t before)
{
    return fault_count(kind) - before;
}

static long faults(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_minflt;
}

/* Candidates are asked for once, whatever the number of sources tried. Now and then a restore also
 * measures what is read. */
static void test_recycled_open(void)
{
    size_t longer = 0;
    if (!can_recycle()) {
        test_skip("nothing tells whether a mapping is as it was");
        return;
    }
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    memsnap_view_unref(view(s));
    memsnap_view_unref(view(s)); /* the second restore allocates what the policy remembers */
    for (int i = 0; i < 20; i++) {
        size_t before = operations(), allocations = fault_count(FAULT_ALLOC);
        memsnap_view *v = view(s);
        g_assert_cmpuint(operations() - before, ==, 1);
        g_assert_cmpuint(counted(FAULT_ALLOC, allocations), ==, 1);
        bytes(v)[5 * page] ^= 1;
        size_t scans = fault_count(FAULT_CANDIDATES), looks = fault_count(FAULT_POPULATE);
        before = operations();
        memsnap_view_unref(v);
        longer += operations() - before !=
                  counted(FAULT_CANDIDATES, scans) + counted(FAULT_POPULATE, looks);
    }
    g_assert_cmpuint(longer, <=, 1);
    memsnap_snapshot_unref(s);
}

static long faults_of_reading(memsnap_view *v)
{
    long before = faults();
    for (size_t at = 0; at < memsnap_view_size(v); at += page)
        (void)*(volatile unsigned char *)(bytes(v) + at);
    return faults() - before;
}

/* Readable without a fault, whatever became of the pages when the view was parked. */
static void test_recycled_prefault(void)
{
    if (on_valgrind() || on_sanitizer()) {
        test_skip("faults are the checker's");
        return;
    }
    memsnap_snapshot *s = snap_pattern(1000 * page, 1);
    for (int i = 0; i < 3; i++) {
        memsnap_view *v = NULL;
        assert_ok(memsnap_snapshot_view(s, MEMSNAP_VIEW_PREFAULT, &v));
        g_assert_cmpint(faults_of_reading(v), <, 20);
        memset(bytes(v), i, 600 * page);
        memsnap_view_unref(v);
    }
    memsnap_snapshot_unref(s);
}

static void test_first_open(void)
{
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    size_t new = fault_count(FAULT_MAP_NEW), over = fault_count(FAULT_MAP_OVER),
           reads = fault_count(FAULT_OBJECT_READ);
    memsnap_view *v = view(s);
    g_assert_cmpuint(counted(FAULT_MAP_NEW, new), ==, config_is("heap") ? 0 : 1);
    g_assert_cmpuint(counted(FAULT_MAP_OVER, over), ==, 0);
    g_assert_cmpuint(counted(FAULT_OBJECT_READ, reads), ==, 0);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* One mapping underneath and one read for the changed page, wherever that is. */
static void test_open_child(void)
{
    static const size_t changed[] = {0, 2, 500, 997, 999};
    unsigned char *expected = pattern(1000 * page, 1);
    memsnap_snapshot *s = snap(expected, 1000 * page);
    for (size_t k = 0; k < G_N_ELEMENTS(changed); k++) {
        memsnap_view *v = view(s);
        bytes(v)[changed[k] * page] ^= 1;
        expected[changed[k] * page] ^= 1;
        memsnap_snapshot *t = take(v);
        memsnap_view_unref(v);
        size_t new = fault_count(FAULT_MAP_NEW), over = fault_count(FAULT_MAP_OVER),
               reads = fault_count(FAULT_OBJECT_READ);
        v = view(t);
        g_assert_cmpuint(counted(FAULT_MAP_NEW, new), ==, config_is("heap") ? 0 : 1);
        g_assert_cmpuint(counted(FAULT_MAP_OVER, over), ==, 0);
        g_assert_cmpuint(counted(FAULT_OBJECT_READ, reads), ==, config_is("heap") ? 0 : 1);
        assert_same(bytes(v), expected, 1000 * page);
        expected[changed[k] * page] ^= 1;
        memsnap_view_unref(v);
        memsnap_snapshot_unref(t);
    }
    memsnap_snapshot_unref(s);
    g_free(expected);
}

/* A full file system is to say so when the writer is opened, not by SIGBUS when it stores: space
 * is asked for, once. */
static void test_open_writer(void)
{
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    size_t commits = fault_count(FAULT_OBJECT_COMMIT), maps = fault_count(FAULT_MAP_NEW);
    memsnap_view *v = view_mut(s);
    g_assert_cmpuint(counted(FAULT_OBJECT_COMMIT, commits), ==, config_is("heap") ? 0 : 1);
    g_assert_cmpuint(counted(FAULT_MAP_NEW, maps), ==, config_is("heap") ? 0 : 1);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* The same pages each round: after the first rounds there is nothing to fault in and nothing to
 * ask but the scan; now and then also what is read. */
static void test_stable_restore(void)
{
    size_t longer = 0;
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    memsnap_view *v = view(s);
    for (int round = 0; round < 20; round++) {
        long faults_before = faults();
        for (size_t k = 0; k < 16; k++)
            bytes(v)[k * 6 * page + (size_t)round] ^= 1;
        size_t scans = fault_count(FAULT_CANDIDATES), looks = fault_count(FAULT_POPULATE);
        size_t before = operations();
        assert_ok(memsnap_view_restore(v));
        longer += operations() - before !=
                  counted(FAULT_CANDIDATES, scans) + counted(FAULT_POPULATE, looks);
        if (round > 2 && !on_valgrind() && !on_sanitizer())
            g_assert_cmpint(faults() - faults_before, ==, 0);
    }
    g_assert_cmpuint(longer, <=, 2); /* the second round also allocates */
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* Sixteen lone pages go out in one write, and nothing is read or mapped but the first segment
 * for children. */
static void test_take(void)
{
    memsnap_snapshot *s = snap_pattern(1000 * page, 1);
    memsnap_view *v = view(s);
    size_t maps = fault_count(FAULT_MAP_NEW);
    for (int round = 0; round < 5; round++) {
        for (size_t k = 0; k < 16; k++)
            bytes(v)[k * 60 * page + (size_t)round] ^= 1;
        size_t writes = fault_count(FAULT_OBJECT_WRITE), reads = fault_count(FAULT_OBJECT_READ);
        size_t objects = fault_count(FAULT_OBJECT_CREATE);
        memsnap_snapshot *t = take(v);
        g_assert_cmpuint(counted(FAULT_OBJECT_WRITE, writes), ==, config_is("heap") ? 0 : 1);
        g_assert_cmpuint(counted(FAULT_OBJECT_READ, reads), ==, 0);
        g_assert_cmpuint(counted(FAULT_OBJECT_CREATE, objects), ==, 0);
        memsnap_snapshot_unref(t);
    }
    g_assert_cmpuint(counted(FAULT_MAP_NEW, maps), <=, 1);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* What costs bookkeeping only. */
static void test_no_pages(void)
{
    memsnap_snapshot *s = NULL, *c = NULL;
    size_t before = operations(), allocations = fault_count(FAULT_ALLOC);
    assert_ok(memsnap_snapshot_new_zeroed(GIB, config.flags, &s));
    g_assert_cmpuint(operations() - before, ==, counted(FAULT_ALLOC, allocations));
    memsnap_snapshot_unref(s);

    s = snap_pattern(1000 * page, 1);
    before = operations();
    allocations = fault_count(FAULT_ALLOC);
    assert_ok(memsnap_snapshot_clone(s, &c));
    g_assert_cmpuint(operations() - before, ==, counted(FAULT_ALLOC, allocations));
    g_assert_cmpuint(operations() - before, <=, 4);

    struct memsnap_range r[4];
    size_t cursor = 0;
    before = operations();
    g_assert_cmpint(memsnap_snapshot_diff(s, c, &cursor, r, 4), ==, 0);
    g_assert_cmpuint(operations(), ==, before);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(c);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("recycled-open", test_recycled_open, TEST_SOURCES);
    test_add("recycled-prefault", test_recycled_prefault, 0);
    test_add("first-open", test_first_open, 0);
    test_add("open-child", test_open_child, 0);
    test_add("open-writer", test_open_writer, 0);
    test_add("stable-restore", test_stable_restore, 0);
    test_add("take", test_take, TEST_SOURCES);
    test_add("no-pages", test_no_pages, 0);
    return g_test_run();
}
