/* SPDX-License-Identifier: MIT */
/* Thawing a mutable view: no byte changes, nothing that was handed out changes, and the next cut
 * is an exchange. */
#include "config.h"

#include <sys/wait.h>
#include <unistd.h>

#include "support/fault.h"
#include "support/support.h"

/* Steps of 2 MiB: one, a few, and an odd last one. */
static size_t sizes[6];
#define N_SIZES G_N_ELEMENTS(sizes)

static void init_sizes(void)
{
    const size_t list[N_SIZES] = {1,       3 * page + 1, 100 * page + 7,
                                  2 * MIB, 2 * MIB + 1,  7 * MIB + 9};
    memcpy(sizes, list, sizeof sizes);
    shrink_for_valgrind(sizes, N_SIZES);
}

static void store(memsnap_view *v, unsigned char *model, struct rng *rng, int times)
{
    size_t size = memsnap_view_size(v);
    while (times-- > 0) {
        size_t at = rng_below(rng, size), len = ms_min(size - at, rng_below(rng, 3 * page) + 1);
        if (rng_below(rng, 5) == 0)
            memset(model + at, 0, len);
        else
            fill(model + at, len, rng_next(rng));
        memcpy(bytes(v) + at, model + at, len);
    }
}

/* Whether mutable views are ever direct here, without which there is no thawing. */
static bool cannot_thaw(void)
{
    if (config_is("heap"))
        test_skip("heap pages are not mapped");
    return config_is("heap");
}

/* MEMSNAP_THAW_LIVE, or 0 where threads cannot be stopped. */
static unsigned live(void)
{
    static const char *asked; /* of this backend */
    static unsigned answer;
    if (asked != config.backend) {
        memsnap_snapshot *s = snap_zero(page);
        memsnap_view *m = view_mut(s);
        memsnap_snapshot_unref(take(m));
        answer = memsnap_view_thaw(m, MEMSNAP_THAW_LIVE, 1) == 0 ? MEMSNAP_THAW_LIVE : 0;
        memsnap_view_unref(m);
        memsnap_snapshot_unref(s);
        asked = config.backend;
    }
    return answer;
}

static void thaw_all(memsnap_view *v, unsigned flags)
{
    assert_ok(memsnap_view_thaw(v, flags, SIZE_MAX));
    struct memsnap_view_stats st = view_stats(v);
    if (strcmp(st.dirty_source, "compare") != 0) /* which takes every page for private */
        g_assert_cmpuint(st.private_bytes, ==, 0);
}

/* The next take is an exchange: nothing is written, and the image is one chunk. */
static void assert_direct(memsnap_view *v, const unsigned char *model)
{
    size_t written = fault_count(FAULT_OBJECT_WRITE);
    memsnap_snapshot *t = take(v);
    g_assert_cmpuint(fault_count(FAULT_OBJECT_WRITE), <=, written + 1); /* the tail */
    struct memsnap_snapshot_stats st = snap_stats(t);
    g_assert_cmpuint(st.chunks, ==, 1);
    g_assert_cmpuint(st.extents, ==, 1);
    assert_content(t, model, memsnap_view_size(v));
    memsnap_snapshot_unref(t);
}

/* ---- the thing itself ------------------------------------------------------------------------ */

static void test_direct_again(void)
{
    struct rng rng = {1};
    if (cannot_thaw())
        return;
    for (size_t i = 0; i < 2 * N_SIZES; i++) {
        size_t size = sizes[i % N_SIZES];
        unsigned char *model = i < N_SIZES ? pattern(size, i) : g_malloc0(size);
        memsnap_snapshot *s = i < N_SIZES ? snap(model, size) : snap_zero(size);
        memsnap_view *m = view_mut(s);
        void *address = memsnap_view_data(m);
        for (int round = 0; round < 6; round++) {
            store(m, model, &rng, 5);
            memsnap_snapshot_unref(take(m));
            store(m, model, &rng, round * 4);
            if (round & 1) /* with some of it in chunks of takes */
                memsnap_snapshot_unref(take(m));
            store(m, model, &rng, round & 2 ? 5 : 0);
            thaw_all(m, round & 1 ? live() : 0);
            g_assert_true(memsnap_view_data(m) == address);
            assert_same(bytes(m), model, size);
            assert_ok(memsnap_view_thaw(m, 0, 1)); /* nothing to do */
            store(m, model, &rng, 3);
            assert_direct(m, model);
        }
        memsnap_view_unref(m);
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

/* Nothing that refers to the pages sees a later store, and while it is there the view is not
 * thawed. */
static void test_busy(void)
{
    struct rng rng = {2};
    if (cannot_thaw())
        return;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = pattern(size, i), *then;
        memsnap_snapshot *s = snap(model, size), *holder;
        memsnap_view *m = view_mut(s);
        for (int kind = 0; kind < 4; kind++) {
            memsnap_view *w = NULL;
            store(m, model, &rng, 4);
            holder = kind == 1 ? snap_clone(s) : take(m);
            if (kind >= 2) {
                w = view(kind == 2 ? s : holder);
                memsnap_snapshot_unref(holder);
                holder = take(w); /* refers to what the view refers to */
            }
            then = g_memdup2(model, size);
            store(m, model, &rng, 4);
            g_assert_cmpint(memsnap_view_thaw(m, live(), SIZE_MAX), ==, -EBUSY);
            g_assert_cmpint(memsnap_view_thaw(m, 0, 1), ==, -EBUSY);
            store(m, model, &rng, 4);
            assert_content(holder, then, size);
            if (w)
                assert_same(bytes(w), then, size);
            memsnap_snapshot_unref(holder);
            memsnap_view_unref(w);
            thaw_all(m, live());
            assert_same(bytes(m), model, size);
            g_free(then);
        }
        memsnap_view_unref(m);
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

/* Whether a whole page of both is the same. */
static bool have_page_in_common(const unsigned char *a, const unsigned char *b, size_t size)
{
    for (size_t at = 0; at + page <= size; at += page)
        if (memcmp(a + at, b + at, page) == 0)
            return true;
    return false;
}

/* The view was opened on an image that others shared, of many chunks, with holes in it. */
static void test_shared_before(void)
{
    struct rng rng = {3};
    if (cannot_thaw())
        return;
    for (size_t i = 1; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = pattern(size, i), *first = g_memdup2(model, size), *other;
        memsnap_snapshot *root = snap(model, size), *s;
        memsnap_view *v = view(root), *m;
        for (int round = 0; round < 4; round++)
            store(v, model, &rng, 6);
        other = g_memdup2(model, size);
        s = take(v);
        m = view_mut(s);
        store(m, model, &rng, 6);
        memsnap_snapshot_unref(take(m));
        store(m, model, &rng, 6);
        if (have_page_in_common(first, model, size)) /* never stored to: still the root's */
            g_assert_cmpint(memsnap_view_thaw(m, 0, SIZE_MAX), ==, -EBUSY);
        assert_same(bytes(v), other, size);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(root);
        thaw_all(m, live());
        assert_same(bytes(m), model, size);
        store(m, model, &rng, 6);
        assert_direct(m, model);
        memsnap_view_unref(m);
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
        g_free(other);
        g_free(first);
        g_free(model);
    }
}

/* What is mapped and the image have most of their tree in common. */
static void test_fragmented(void)
{
    const size_t size = 2000 * page;
    if (cannot_thaw())
        return;
    unsigned char *model = pattern(size, 1);
    memsnap_snapshot *root = snap(model, size);
    memsnap_view *v = view(root);
    for (size_t p = 100; p < 400; p += 40) {
        fill(model + p * page, 10 * page, p);
        memcpy(bytes(v) + p * page, model + p * page, 10 * page);
    }
    memsnap_snapshot *s = take(v);
    memsnap_view *m = view_mut(s); /* a shadow: others share the pages */
    bytes(m)[1900 * page] = model[1900 * page] = 1;
    memsnap_snapshot_unref(take(m));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(root);
    thaw_all(m, live());
    assert_same(bytes(m), model, size);
    assert_direct(m, model);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_free(model);
}

/* What is stored behind the end is in no image. */
static void test_tail(void)
{
    struct rng rng = {9};
    if (cannot_thaw())
        return;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i], rest = round_up(size) - size;
        unsigned char *model = pattern(size, i);
        memsnap_snapshot *s = snap(model, size);
        memsnap_view *m = view_mut(s);
        for (int round = 0; round < 3; round++) {
            memset(bytes(m) + size, 0xEE, rest);
            memsnap_snapshot_unref(take(m));
            store(m, model, &rng, 3);
            model[size - 1] = bytes(m)[size - 1] = (unsigned char)round;
            memset(bytes(m) + size, 0xEE, rest);
            thaw_all(m, round & 1 ? live() : 0);
            assert_same(bytes(m), model, size);
            memset(bytes(m) + size, 0xEE, rest);
            assert_direct(m, model); /* looks at the tail of a view, too */
        }
        memsnap_view_unref(m);
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

/* What was exported is sealed: the view moves to pages of its own. */
static void test_exported(void)
{
    const size_t of[] = {40 * page, 2 * MIB, 5 * MIB};
    struct rng rng = {7};
    if (cannot_thaw())
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(of); i++) {
        unsigned char *model = pattern(of[i], i), *then = g_memdup2(model, of[i]);
        memsnap_snapshot *s = snap(model, of[i]), *other = NULL;
        int fd = -1, e = memsnap_snapshot_export_fd(s, &fd);
        if (e == 0) {
            assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &other));
            close(fd);
        } else {
            g_assert_cmpint(e, ==, -ENOTSUP);
        }
        memsnap_view *m = view_mut(s);
        for (int round = 0; round < 3; round++) {
            store(m, model, &rng, 5);
            memsnap_snapshot_unref(take(m));
            store(m, model, &rng, 5);
            thaw_all(m, live());
            assert_same(bytes(m), model, of[i]);
            assert_direct(m, model);
        }
        if (other)
            assert_content(other, then, of[i]);
        memsnap_view_unref(m);
        memsnap_snapshot_unref(s);
        memsnap_snapshot_unref(other);
        g_free(model);
        g_free(then);
    }
}

/* ---- in the middle of it --------------------------------------------------------------------- */

struct world {
    memsnap_snapshot *s;
    memsnap_view *m;
    unsigned char *model;
    size_t size;
    struct rng rng;
};

static void in_take(struct world *w)
{
    memsnap_snapshot *t = take(w->m);
    unsigned char *then = g_memdup2(w->model, w->size);
    store(w->m, w->model, &w->rng, 4);
    assert_content(t, then, w->size);
    g_assert_cmpint(memsnap_view_thaw(w->m, 0, 1), ==, -EBUSY);
    assert_content(t, then, w->size);
    memsnap_snapshot_unref(t);
    g_free(then);
}

static void in_atomic_take(struct world *w)
{
    memsnap_snapshot *t = NULL;
    int e = memsnap_view_take_snapshot(w->m, MEMSNAP_TAKE_ATOMIC, &t);
    if (e == -ENOTSUP)
        return;
    assert_ok(e);
    unsigned char *then = g_memdup2(w->model, w->size);
    store(w->m, w->model, &w->rng, 4);
    assert_content(t, then, w->size);
    memsnap_snapshot_unref(t);
    g_free(then);
}

static void in_clone_and_view(struct world *w)
{
    memsnap_view *v = view(w->s);
    unsigned char *then = g_memdup2(w->model, w->size);
    store(w->m, w->model, &w->rng, 4);
    memsnap_snapshot *c = snap_clone(w->s);
    assert_content(c, w->model, w->size);
    store(w->m, w->model, &w->rng, 4);
    assert_same(bytes(v), then, w->size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(c);
    g_free(then);
}

static void in_read(struct world *w)
{
    unsigned char *copy = g_malloc(w->size);
    assert_ok(memsnap_snapshot_read(w->s, 0, copy, w->size));
    assert_same(copy, w->model, w->size);
    g_free(copy);
}

static void in_save(struct world *w)
{
    char *path = temp_path("saved");
    memsnap_snapshot *back = NULL;
    assert_ok(memsnap_snapshot_save(w->s, path, MEMSNAP_SAVE_NOSYNC));
    assert_ok(memsnap_snapshot_new_from_file(path, 0, &back));
    assert_content(back, w->model, w->size);
    memsnap_snapshot_unref(back);
    g_free(path);
}

static void in_restore_to(struct world *w)
{
    unsigned char *other = pattern(w->size, rng_next(&w->rng));
    memsnap_snapshot *t = snap(other, w->size);
    store(w->m, w->model, &w->rng, 2);
    assert_ok(memsnap_view_restore_to(w->m, t));
    memcpy(w->model, other, w->size);
    store(w->m, w->model, &w->rng, 2);
    assert_content(t, other, w->size);
    memsnap_snapshot_unref(t);
    g_free(other);
}

static void in_roll_back_a_little(struct world *w)
{
    memsnap_snapshot *t = take(w->m);
    unsigned char *then = g_memdup2(w->model, w->size);
    store(w->m, w->model, &w->rng, 2);
    assert_ok(memsnap_view_restore_to(w->m, t));
    memcpy(w->model, then, w->size);
    memsnap_snapshot_unref(t);
    g_free(then);
}

static void in_protect(struct world *w)
{
    assert_ok(memsnap_view_protect(w->m, 0, w->size, MEMSNAP_ACCESS_NONE));
    int e = memsnap_view_thaw(w->m, 0, 1);
    g_assert_true(e == 0 || e == 1);
    memsnap_snapshot *t = take(w->m);
    assert_content(t, w->model, w->size);
    memsnap_snapshot_unref(t);
    e = memsnap_view_thaw(w->m, live(), 1);
    g_assert_true(e == 0 || e == 1);
    assert_ok(memsnap_view_restore(w->m));
}

static void child(void *arg)
{
    struct world *w = arg;
    char byte;
    g_assert_cmpint(memsnap_view_thaw(w->m, 0, 1), ==, -EBADF);
    g_assert_cmpint(memsnap_snapshot_read(w->s, 0, &byte, 1), ==, -EBADF);
}

static void in_fork(struct world *w)
{
    child_run(child, w);
    store(w->m, w->model, &w->rng, 2);
}

static void in_close(struct world *w)
{
    memsnap_view_unref(w->m);
    if (w->rng.state & 1)
        assert_content(w->s, w->model, w->size);
    w->m = view_mut(w->s);
}

static void (*const meanwhile[])(struct world *) = {
    in_take,       in_atomic_take,        in_clone_and_view, in_read, in_save,
    in_restore_to, in_roll_back_a_little, in_protect,        in_fork, in_close,
};

/* After each number of steps. The view and its snapshot hold what they should, then and when the
 * rest is thawed. */
static void middle(void (*what)(struct world *), size_t size, int steps)
{
    struct world w = {.size = size, .rng = {size + (size_t)steps}};
    w.model = pattern(size, 3);
    w.s = snap(w.model, size);
    w.m = view_mut(w.s);
    for (int round = 0; round < 2; round++) {
        memsnap_snapshot_unref(take(w.m));
        store(w.m, w.model, &w.rng, 8);
        for (int i = 0; i < steps; i++) {
            int e = memsnap_view_thaw(w.m, i & 1 ? live() : 0, 1);
            g_assert_true(e == 0 || e == 1);
            store(w.m, w.model, &w.rng, 2);
            assert_same(bytes(w.m), w.model, size);
        }
        what(&w);
        assert_same(bytes(w.m), w.model, size);
        thaw_all(w.m, live());
        assert_same(bytes(w.m), w.model, size);
        store(w.m, w.model, &w.rng, 2);
        assert_direct(w.m, w.model);
    }
    memsnap_view_unref(w.m);
    assert_content(w.s, w.model, size);
    memsnap_snapshot_unref(w.s);
    g_free(w.model);
}

static void test_in_the_middle(void)
{
    const size_t size = 7 * MIB + 9;
    if (cannot_thaw() || on_valgrind())
        return;
    for (size_t k = 0; k < G_N_ELEMENTS(meanwhile); k++)
        for (int steps = 0; steps <= 4; steps++)
            middle(meanwhile[k], size, steps);
}

/* ---- what it costs --------------------------------------------------------------------------- */

/* Cut, store, free, thaw, again and again: one copy of the data in the end. */
static void test_memory(void)
{
    const size_t size = 8 * MIB;
    struct rng rng = {4};
    if (cannot_thaw() || on_valgrind())
        return;
    unsigned char *model = pattern(size, 1);
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *m = view_mut(s);
    size_t before = object_bytes();
    for (int round = 0; round < 20; round++) {
        memsnap_snapshot *t = take(m);
        store(m, model, &rng, 20);
        memsnap_snapshot_unref(t);
        if (round & 1)
            memsnap_snapshot_unref(take(m));
        thaw_all(m, live());
    }
    g_assert_cmpuint(object_bytes(), <=, before + 5 * MIB); /* free space is kept for a while */
    assert_same(bytes(m), model, size);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_free(model);
}

static void thaw_holes(memsnap_view *m, size_t size)
{
    size_t before = object_bytes();
    for (int round = 0; round < 3; round++) {
        memsnap_snapshot *t = take(m);
        bytes(m)[round] = bytes(m)[30 * MIB] = bytes(m)[size - 1] = 1;
        memsnap_snapshot_unref(t);
        thaw_all(m, live());
    }
    g_assert_cmpuint(object_bytes(), <=, before + MIB);
}

/* Zeros that nobody stored take no memory, however often it is thawed. */
static void test_holes(void)
{
    const size_t size = 64 * MIB;
    if (cannot_thaw() || on_valgrind())
        return;
    memsnap_snapshot *s = snap_zero(size);
    memsnap_view *m = view_mut(s);
    memsnap_snapshot_unref(take(m));
    if (memsnap_view_thaw(m, 0, SIZE_MAX) == -ENOTSUP)
        test_skip("zeros that take no memory are in heap memory here");
    else
        thaw_holes(m, size);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
}

/* What was in huge pages is in huge pages, also in a new chunk. */
static void test_huge_pages(void)
{
    const size_t size = 8 * MIB;
    struct rng rng = {5};
    if (cannot_thaw() || on_valgrind())
        return;
    unsigned char *model = pattern(size, 1);
    memsnap_snapshot *s = snap(model, size);
    size_t huge = snap_stats(s).huge_bytes;
    memsnap_view *m = view_mut(s);
    for (int round = 0; round < 3; round++) {
        memsnap_snapshot *t = take(m);
        memsnap_snapshot_unref(t);
        store(m, model, &rng, 30);
        memsnap_snapshot_unref(take(m));
        thaw_all(m, live());
        assert_same(bytes(m), model, size);
        memsnap_snapshot *now = take(m);
        assert_content(now, model, size);
        g_assert_cmpuint(snap_stats(now).huge_bytes, >=, huge);
        if (round == 1) /* what is forked is not stored into again: a new chunk */
            child_run((void (*)(void *))(void (*)(void))getpid, NULL);
        memsnap_snapshot_unref(now);
    }
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_free(model);
}

static size_t mapped_huge(memsnap_view *v)
{
    size_t size = memsnap_view_size(v);
    for (size_t at = 0; at < size; at += MIB)
        (void)*(volatile unsigned char *)(bytes(v) + at);
    return ms_os->huge_bytes(bytes(v), size);
}

/* The view is mapped by huge pages again, also where so much was stored that a block goes in
 * parts. */
static void test_huge_mapping(void)
{
    const size_t size = 8 * MIB;
    if (cannot_thaw() || on_valgrind())
        return;
    memsnap_snapshot *s = snap_pattern(size, 1);
    memsnap_view *m = view_mut(s);
    size_t huge = mapped_huge(m);
    for (int round = 0; round < 3; round++) {
        memsnap_snapshot_unref(take(m));
        fill(bytes(m) + (size_t)round * MIB, 3 * MIB, (uint64_t)round);
        unsigned char *model = g_memdup2(bytes(m), size);
        thaw_all(m, live());
        g_assert_cmpuint(mapped_huge(m), >=, huge);
        assert_direct(m, model);
        g_free(model);
    }
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void test_arguments(void)
{
    memsnap_snapshot *s = snap_pattern(3 * page, 1), *empty = snap_zero(0);
    memsnap_view *v = view(s), *m = view_mut(s), *e = view_mut(empty);
    g_assert_cmpint(memsnap_view_thaw(null, 0, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_thaw(v, 0, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_thaw(m, 1u << 1, 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_thaw(m, 0, 0), ==, -EINVAL);
    assert_ok(memsnap_view_thaw(e, 0, 1));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(take(m));
    bytes(m)[1] = 2;
    g_assert_cmpint(memsnap_view_thaw(m, 0, 1), ==, config_is("heap") ? -ENOTSUP : 0);
    g_assert_cmpint(bytes(m)[1], ==, 2);
    memsnap_view_unref(m);
    memsnap_view_unref(e);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(empty);
}

static void test_shared_file(void)
{
    char *path = temp_file("live", "abc", 3);
    memsnap_snapshot *s = NULL;
    memsnap_view *m = NULL;
    if (config.flags & MEMSNAP_NO_FD) {
        test_skip("a shared file needs a descriptor");
    } else {
        assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_SHARED, &s));
        assert_ok(memsnap_snapshot_view_mut(s, 0, &m));
        memsnap_snapshot_unref(take(m));
        assert_ok(memsnap_view_thaw(m, MEMSNAP_THAW_LIVE, 1));
        memsnap_view_unref(m);
        memsnap_snapshot_unref(s);
    }
    g_free(path);
}

/* Without privileges there is userfaultfd for user mode only, and maybe no pagemap. */
static void as_nobody(void *arg)
{
    const uid_t nobody = 65534;
    size_t size = 5 * MIB + 7;
    struct rng rng = {8};
    (void)arg;
    if (setgid(nobody) < 0 || setuid(nobody) < 0) {
        test_skip("cannot become nobody");
        return;
    }
    unsigned char *model = pattern(size, 1);
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *m = view_mut(s);
    memsnap_snapshot_unref(take(m));
    store(m, model, &rng, 8);
    if (memsnap_view_thaw(m, MEMSNAP_THAW_LIVE, 1) < 0) {
        test_skip("threads cannot be stopped without privileges");
    } else {
        store(m, model, &rng, 8);
        assert_ok(memsnap_view_thaw(m, MEMSNAP_THAW_LIVE, SIZE_MAX));
        assert_direct(m, model);
    }
    memsnap_view_unref(m);
    assert_content(s, model, size);
    memsnap_snapshot_unref(s);
    g_free(model);
}

static void test_unprivileged(void)
{
    if (cannot_thaw())
        return;
    if (geteuid() != 0)
        as_nobody(NULL);
    else
        child_run(as_nobody, NULL);
}

/* Tracking and thawing take turns. */
static void test_tracked(void)
{
    struct rng rng = {6};
    if (cannot_thaw())
        return;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = pattern(size, i);
        memsnap_snapshot *s = snap(model, size);
        memsnap_view *m = view_mut_tracked(s);
        for (int round = 0; round < 4; round++) {
            for (int k = 0; k < 3; k++) {
                memsnap_snapshot *t = take(m);
                assert_content(t, model, size);
                memsnap_snapshot_unref(t);
                store(m, model, &rng, 3);
            }
            int e = memsnap_view_thaw(m, live(), 1);
            store(m, model, &rng, 3);
            g_assert_true(e == 0 || e == 1);
            if (round & 1)
                thaw_all(m, live());
        }
        memsnap_view_unref(m);
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
        g_free(model);
    }
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    init_sizes();
    test_add("direct-again", test_direct_again, TEST_SOURCES);
    test_add("busy", test_busy, TEST_SOURCES);
    test_add("shared-before", test_shared_before, TEST_SOURCES);
    test_add("fragmented", test_fragmented, TEST_SOURCES);
    test_add("tail", test_tail, TEST_SOURCES);
    test_add("exported", test_exported, TEST_SOURCES);
    test_add("in-the-middle", test_in_the_middle, 0);
    test_add("memory", test_memory, 0);
    test_add("holes", test_holes, 0);
    test_add("huge-pages", test_huge_pages, 0);
    test_add("huge-mapping", test_huge_mapping, 0);
    test_add("arguments", test_arguments, 0);
    test_add("shared-file", test_shared_file, 0);
    test_add("unprivileged", test_unprivileged, 0);
    test_add("tracked", test_tracked, TEST_SOURCES);
    return g_test_run();
}
