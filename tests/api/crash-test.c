/* SPDX-License-Identifier: MIT */
/* What must die of SIGSEGV does: each access in a forked child of its own. Not for valgrind,
 * which reports every one of them. */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/annotate.h"
#include "support/support.h"

static void look(void *p)
{
    (void)*(volatile unsigned char *)p;
}

static void change(void *p)
{
    volatile unsigned char *c = p;
    *c = (unsigned char)(*c + 1);
}

static void overwrite(void *p)
{
    *(volatile unsigned char *)p = 1;
}

struct touch {
    void (*how)(void *p);
    void *where;
};

static void prepare_to_die(void)
{
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    signal(SIGSEGV, SIG_DFL); /* a sanitizer may have put a handler there */
}

static void touch(void *arg)
{
    const struct touch *t = arg;
    prepare_to_die();
    t->how(t->where);
}

static bool dies(void (*how)(void *p), const void *where)
{
    struct touch t = {how, (void *)(uintptr_t)where};
    int status = child_status(touch, &t);
    g_assert_true(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV));
    return status != 0;
}

/* ---- protections ----------------------------------------------------------------------------- */

static void check_none(memsnap_view *v)
{
    unsigned char *p = bytes(v);
    assert_ok(memsnap_view_protect(v, page, page, MEMSNAP_ACCESS_NONE));
    g_assert_true(dies(look, p + page));
    g_assert_true(dies(overwrite, p + page));
    g_assert_true(dies(look, p + 2 * page - 1));
    g_assert_false(dies(change, p + page - 1));
    g_assert_false(dies(change, p + 2 * page));
    assert_ok(memsnap_view_restore(v));
    g_assert_false(dies(change, p + page));
}

static void check_read(memsnap_view *v)
{
    unsigned char *p = bytes(v);
    assert_ok(memsnap_view_protect(v, page, page, MEMSNAP_ACCESS_READ));
    g_assert_false(dies(look, p + page));
    g_assert_true(dies(overwrite, p + page));
    g_assert_true(dies(change, p + 2 * page - 1));
    g_assert_false(dies(change, p + page - 1));
    g_assert_false(dies(change, p + 2 * page));
    assert_ok(memsnap_view_restore(v));
    g_assert_false(dies(change, p + page));
}

static void on_views(void (*check)(memsnap_view *v))
{
    const size_t sizes[] = {3 * page, 20 * page + 5, 2 * MIB + page};
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        memsnap_snapshot *s = snap_pattern(sizes[i], 1), *z = snap_zero(sizes[i]);
        memsnap_view *v = view(s), *w = view(z);
        check(v);
        check(w);
        bytes(v)[page] ^= 1;
        memsnap_snapshot *t = take(v);
        check(v);
        memsnap_view *of_child = view(t);
        check(of_child);
        memsnap_view_unref(v);
        memsnap_view_unref(w);
        memsnap_view_unref(of_child);
        memsnap_snapshot_unref(s);
        memsnap_snapshot_unref(z);
        memsnap_snapshot_unref(t);
    }
}

static void test_none(void)
{
    on_views(check_none);
}

static void test_read(void)
{
    on_views(check_read);
}

/* Protections hold although somebody takes or looks for dirty pages. */
static void test_protection_stays(void)
{
    size_t size = 30 * page;
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *v = view(s);
    bytes(v)[3 * page] ^= 1;
    assert_ok(memsnap_view_protect(v, 2 * page, 2 * page, MEMSNAP_ACCESS_NONE));
    assert_ok(memsnap_view_protect(v, 6 * page, page, MEMSNAP_ACCESS_READ));
    for (int round = 0; round < 2; round++) {
        size_t cursor = 0;
        struct memsnap_range r;
        memsnap_snapshot *t = take(v), *c = snap_clone(s);
        g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 1);
        g_assert_true(dies(look, bytes(v) + 2 * page));
        g_assert_true(dies(look, bytes(v) + 3 * page));
        g_assert_true(dies(overwrite, bytes(v) + 6 * page));
        g_assert_false(dies(look, bytes(v) + 6 * page));
        memsnap_snapshot_unref(t);
        memsnap_snapshot_unref(c);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* A child inherits no mutable view: it opens one, and dies of that. */
static void mutable_none(void *arg)
{
    memsnap_snapshot *s = arg;
    prepare_to_die();
    memsnap_view *m = view_mut(s);
    change(bytes(m));
    assert_ok(memsnap_view_protect(m, 0, memsnap_view_size(m), MEMSNAP_ACCESS_NONE));
    look(bytes(m));
}

static void mutable_read(void *arg)
{
    memsnap_snapshot *s = arg;
    prepare_to_die();
    memsnap_view *m = view_mut(s);
    assert_ok(memsnap_view_protect(m, 0, memsnap_view_size(m), MEMSNAP_ACCESS_READ));
    look(bytes(m));
    memsnap_snapshot *t = take(m); /* still so in shadow state */
    look(bytes(m));
    if (t)
        bytes(m)[5] = 1;
}

static void mutable_allowed(void *arg)
{
    memsnap_snapshot *s = arg;
    memsnap_view *m = view_mut(s);
    assert_ok(memsnap_view_protect(m, 0, memsnap_view_size(m), MEMSNAP_ACCESS_NONE));
    assert_ok(memsnap_view_restore(m));
    change(bytes(m));
    assert_ok(memsnap_view_protect(m, 0, memsnap_view_size(m), MEMSNAP_ACCESS_READ));
    memsnap_view_unref(m);
    m = view_mut(s);
    change(bytes(m));
    memsnap_view_unref(m);
}

static void test_mutable(void)
{
    const size_t sizes[] = {11, 20 * page + 5, 2 * MIB + page};
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        memsnap_snapshot *s = snap_pattern(sizes[i], 1);
        int status = child_status(mutable_none, s);
        g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
        status = child_status(mutable_read, s);
        g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
        child_run(mutable_allowed, s);
        memsnap_snapshot_unref(s);
    }
}

#if defined __x86_64__ || defined __i386__ || defined __aarch64__
static void call(void *p)
{
    void (*f)(void);
    memcpy(&f, &p, sizeof f);
    f();
}

static void test_exec(void)
{
#ifdef __aarch64__
    static const unsigned char ret[] = {0xC0, 0x03, 0x5F, 0xD6};
#else
    static const unsigned char ret[] = {0xC3};
#endif
    memsnap_snapshot *s = snap(ret, sizeof ret);
    memsnap_view *v = view(s);
    g_assert_true(dies(call, bytes(v)));
    int r = memsnap_view_protect(v, 0, sizeof ret, MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_EXEC);
    if (r == 0) {
        g_assert_false(dies(call, bytes(v)));
        g_assert_true(dies(overwrite, bytes(v)));
        assert_ok(memsnap_view_restore(v));
        g_assert_true(dies(call, bytes(v)));
        g_assert_false(dies(change, bytes(v)));
    } else {
        g_assert_cmpint(r, <, 0);
        test_skip("executable memory is forbidden here");
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}
#endif

/* ---- what is not there ----------------------------------------------------------------------- */

static void test_empty(void)
{
    memsnap_snapshot *s = snap("", 0);
    memsnap_view *v = view(s);
    g_assert_true(dies(look, bytes(v)));
    g_assert_true(dies(overwrite, bytes(v)));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

static void test_not_inherited(void)
{
    const size_t sizes[] = {11, 20 * page + 5, 2 * MIB + page};
    if (on_sanitizer()) {
        test_skip("a sanitizer's runtime maps memory of its own into the gap in the child");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        memsnap_snapshot *s = snap_pattern(sizes[i], 1);
        memsnap_view *m = view_mut(s);
        g_assert_true(dies(look, bytes(m)));
        memsnap_snapshot_unref(take(m));
        change(bytes(m));
        g_assert_true(dies(look, bytes(m)));
        memsnap_view_unref(m);
        memsnap_view *v = view(s);
        g_assert_false(dies(change, bytes(v)));
        memsnap_view_unref(v);
        memsnap_snapshot_unref(s);
    }
}

/* With recycling off a closed view is gone. */
static void test_closed(void)
{
    const size_t sizes[] = {11, 20 * page + 5, 2 * MIB + page};
    if (on_thread_sanitizer()) {
        test_skip("its runtime maps memory of its own into the gap in the child");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        memsnap_snapshot *s = snap_pattern(sizes[i], 1);
        assert_ok(memsnap_snapshot_set_recycling(s, 0));
        memsnap_view *v = view(s);
        unsigned char *p = bytes(v);
        g_assert_false(dies(look, p));
        memsnap_view_unref(v);
        g_assert_true(dies(look, p));
        memsnap_snapshot_unref(s);
    }
}

#ifdef MS_ASAN
static void use_parked(void *arg)
{
    if (!freopen("/dev/null", "w", stderr))
        abort();
    change(arg);
}

/* A parked view's memory is mapped; that nobody may use it is AddressSanitizer's to say. */
static void test_parked(void)
{
    if (!can_recycle()) {
        test_skip("nothing tells whether a mapping is as it was");
        return;
    }
    memsnap_snapshot *s = snap_pattern(20 * page, 1);
    memsnap_view *v = view(s);
    unsigned char *p = bytes(v);
    memsnap_view_unref(v);
    g_assert_cmpuint(snap_stats(s).parked_views, ==, 1);
    g_assert_cmpint(child_status(use_parked, p), !=, 0);
    v = view(s);
    child_run(use_parked, bytes(v));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}
#else
static void test_parked(void)
{
    test_skip("needs AddressSanitizer");
}
#endif

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("none", test_none, 0);
    test_add("read", test_read, 0);
    test_add("protection-stays", test_protection_stays, TEST_SOURCES);
    test_add("mutable", test_mutable, 0);
#if defined __x86_64__ || defined __i386__ || defined __aarch64__
    test_add("exec", test_exec, 0);
#endif
    test_add("empty", test_empty, 0);
    test_add("not-inherited", test_not_inherited, 0);
    test_add("closed", test_closed, 0);
    test_add("parked", test_parked, 0);
    return g_test_run();
}
