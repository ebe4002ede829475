/* SPDX-License-Identifier: MIT */
/* What users of the Rust crate memsnap know how to do: the five examples of its README and the
 * cases of its tests, for this interface. Where a test there cannot fail (isolation of views
 * compares with the wrong bytes), it can here. */
#include "config.h"

#include <pthread.h>

#include "support/support.h"

/* ---- the examples ---------------------------------------------------------------------------- */

static void test_basic(void)
{
    memsnap_snapshot *s = snap("Hello, World!", 13);
    memsnap_view *changed = view(s);
    bytes(changed)[0] = 'h';
    assert_same(bytes(changed), "hello", 5);
    memsnap_view *original = view(s);
    assert_same(bytes(original), "Hello", 5);
    memsnap_view_unref(changed);
    memsnap_view_unref(original);
    memsnap_snapshot_unref(s);
}

static void test_mutable(void)
{
    memsnap_snapshot *s = snap("Hello, World!", 13);
    memsnap_view *m = view_mut(s);
    bytes(m)[0] = 'J';
    bytes(m)[7] = 'R';
    memsnap_view_unref(m);
    memsnap_view *v = view(s);
    assert_same(bytes(v), "Jello, Rorld!", 13);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

static void test_file(void)
{
    char *path = temp_file("example.txt", "Hello, File!", 12);
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_from_file(path, config.flags, &s));
    memsnap_view *v = view(s);
    g_assert_cmpuint(memsnap_view_size(v), ==, 12);
    assert_same(bytes(v), "Hello, File!", 12);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(path);
}

static void *look(void *arg)
{
    memsnap_view *v = arg;
    bool right = memcmp(memsnap_view_data(v), "Shared data", 11) == 0;
    memsnap_view_unref(v);
    return right ? arg : NULL;
}

static void test_other_thread(void)
{
    memsnap_snapshot *s = snap("Shared data", 11);
    memsnap_view *v = view(s);
    pthread_t thread;
    void *right = NULL;
    memsnap_snapshot_unref(s);
    g_assert_cmpint(pthread_create(&thread, NULL, look, v), ==, 0);
    g_assert_cmpint(pthread_join(thread, &right), ==, 0);
    g_assert_nonnull(right);
}

static void test_take(void)
{
    memsnap_snapshot *s = snap("Original", 8);
    memsnap_view *m = view_mut(s);
    bytes(m)[0] = 'M';
    memsnap_snapshot *t = take(m);
    bytes(m)[1] = 'X';
    memsnap_view *v = view(t);
    assert_same(bytes(v), "Mriginal", 8);
    assert_same(bytes(m), "MXiginal", 8);
    memsnap_view_unref(v);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
}

/* ---- the cases of its tests ------------------------------------------------------------------ */

static void test_zeroed(void)
{
    memsnap_snapshot *s = snap_zero(1);
    memsnap_view *v = view(s);
    g_assert_cmpuint(memsnap_view_size(v), ==, 1);
    g_assert_true(all_zero(bytes(v), page));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

static void test_bytes(void)
{
    memsnap_snapshot *s = snap("hello slice", 11);
    memsnap_view *v = view(s);
    g_assert_cmpuint(memsnap_view_size(v), ==, 11);
    assert_same(bytes(v), "hello slice", 11);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

static void test_mutable_of_zeroed(void)
{
    memsnap_snapshot *s = snap_zero(10);
    memsnap_view *m = view_mut(s);
    memcpy(bytes(m), "0123456789", 10);
    memsnap_view_unref(m);
    assert_content(s, "0123456789", 10);
    memsnap_snapshot_unref(s);
}

static void test_restore(void)
{
    memsnap_snapshot *s = snap("0123456789", 10);
    memsnap_view *v = view(s);
    unsigned char *address = bytes(v);
    memcpy(bytes(v), "9876543210", 10);
    assert_same(bytes(v), "9876543210", 10);
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), "0123456789", 10);
    g_assert_true(bytes(v) == address);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

static void test_isolation(void)
{
    static const char zero[10];
    memsnap_snapshot *s = snap_zero(10);
    memsnap_view *early = view(s), *writer = view(s);
    memcpy(bytes(writer), "0123456789", 10);
    memsnap_view *late = view(s);
    assert_same(bytes(writer), "0123456789", 10);
    assert_same(bytes(early), zero, 10);
    assert_same(bytes(late), zero, 10);
    memcpy(bytes(late), "abcdefghij", 10);
    assert_same(bytes(writer), "0123456789", 10);
    assert_same(bytes(early), zero, 10);
    assert_content(s, zero, 10);
    memsnap_view_unref(early);
    memsnap_view_unref(writer);
    memsnap_view_unref(late);
    memsnap_snapshot_unref(s);
}

static void test_outlives_snapshot(void)
{
    memsnap_snapshot *s = snap("hello world", 11);
    memsnap_view *v = view(s);
    memsnap_snapshot_unref(s);
    assert_same(bytes(v), "hello world", 11);
    memsnap_view_unref(v);
}

static void test_clone(void)
{
    memsnap_snapshot *s = snap("hello world", 11), *c = snap_clone(s);
    memsnap_view *m = view_mut(s);
    memcpy(bytes(m), "hello slice", 11);
    memsnap_view *v = view(c);
    assert_same(bytes(v), "hello world", 11);
    assert_content(s, "hello slice", 11);
    memsnap_view_unref(v);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(c);
    memsnap_snapshot_unref(s);
}

static void test_take_then_change(void)
{
    memsnap_snapshot *s = snap("hello world", 11);
    memsnap_view *m = view_mut(s);
    memcpy(bytes(m), "hello slice", 11);
    memsnap_snapshot *t = take(m);
    memsnap_view *v = view(t);
    assert_same(bytes(v), "hello slice", 11);
    memcpy(bytes(m), "hello world", 11);
    assert_same(bytes(v), "hello slice", 11);
    assert_content(t, "hello slice", 11);
    memsnap_view_unref(v);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(s);
}

/* Snapshots of views of snapshots of views. */
static void test_nested(void)
{
    memsnap_snapshot *a = snap("one", 3);
    memsnap_view *v = view(a);
    memcpy(bytes(v), "two", 3);
    memsnap_snapshot *b = take(v);
    memsnap_view *w = view(b);
    memcpy(bytes(w), "six", 3);
    memsnap_snapshot *c = take(w);
    assert_ok(memsnap_view_restore(w));
    assert_same(bytes(w), "two", 3);
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), "one", 3);
    memsnap_view_unref(v);
    memsnap_view_unref(w);
    assert_content(a, "one", 3);
    assert_content(b, "two", 3);
    assert_content(c, "six", 3);
    memsnap_snapshot_unref(b);
    assert_content(c, "six", 3);
    memsnap_snapshot_unref(a);
    memsnap_snapshot_unref(c);
}

/* The two that must fault are in crash-test. */
static void test_protect_write(void)
{
    memsnap_snapshot *s = snap("hello world", 11);
    memsnap_view *m = view_mut(s);
    assert_ok(memsnap_view_protect(m, 0, memsnap_view_size(m), MEMSNAP_ACCESS_WRITE));
    g_assert_cmpuint(bytes(m)[0], ==, 'h');
    bytes(m)[0] = 'j';
    assert_content(s, "jello world", 11);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
}

static void test_empty(void)
{
    memsnap_snapshot *s = snap("", 0);
    memsnap_view *v = view(s);
    g_assert_cmpuint(memsnap_view_size(v), ==, 0);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

static void test_empty_file(void)
{
    char *path = temp_file("empty", "", 0);
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_from_file(path, config.flags, &s));
    memsnap_view *v = view(s);
    g_assert_cmpuint(memsnap_view_size(v), ==, 0);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(path);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("readme-basic", test_basic, TEST_SOURCES);
    test_add("readme-mutable", test_mutable, TEST_SOURCES);
    test_add("readme-file", test_file, TEST_SOURCES);
    test_add("readme-other-thread", test_other_thread, TEST_SOURCES);
    test_add("readme-take", test_take, TEST_SOURCES);
    test_add("zeroed", test_zeroed, TEST_SOURCES);
    test_add("bytes", test_bytes, TEST_SOURCES);
    test_add("mutable-of-zeroed", test_mutable_of_zeroed, TEST_SOURCES);
    test_add("restore", test_restore, TEST_SOURCES);
    test_add("isolation", test_isolation, TEST_SOURCES);
    test_add("outlives-snapshot", test_outlives_snapshot, TEST_SOURCES);
    test_add("clone", test_clone, TEST_SOURCES);
    test_add("take-then-change", test_take_then_change, TEST_SOURCES);
    test_add("nested", test_nested, TEST_SOURCES);
    test_add("protect-write", test_protect_write, TEST_SOURCES);
    test_add("empty", test_empty, TEST_SOURCES);
    test_add("empty-file", test_empty_file, TEST_SOURCES);
    return g_test_run();
}
