/* SPDX-License-Identifier: MIT */
/* Every operation of the OS fails once, the n-th for n = 0, 1, 2 ... until a call needs no more
 * of them, and then all of them from the n-th on: under each public function. A call that fails
 * reports the error, leaves its outputs, all contents and all protections alone, leaks nothing,
 * and does what it was asked to when asked again. A call that can do without the operation does. */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "support/fault.h"
#include "support/support.h"

/* What the calls work on, and what it must hold. */
struct world {
    size_t size;
    memsnap_snapshot *s, *child, *stranger, *m, *shared;
    /* of s, changed; child was taken from it, then it was changed again */
    memsnap_view *v;
    memsnap_view *mut; /* of m, with stores that no image has yet */
    memsnap_view *shared_mut;
    unsigned char *base, *child_now, *other, *v_now, *m_now, *shared_now;
    char *path;
    int fd;
    unsigned tracking; /* MEMSNAP_VIEW_TRACK where that can be had at all */
    unsigned atomic;   /* MEMSNAP_TAKE_ATOMIC where that can be had at all */
    unsigned live;     /* MEMSNAP_THAW_LIVE: the same */
};

/* What a call gave. */
struct outcome {
    memsnap_snapshot *snap;
    memsnap_view *view;
    const unsigned char *expected; /* what it must show */
};

struct action {
    const char *name;
    void (*prepare)(struct world *w);
    int (*call)(struct world *w, struct outcome *o);
    void (*apply)(struct world *w); /* what success does to the world; NULL: nothing */
    /* a failed restore may have put back some pages: the view's bytes are undefined until one
     * succeeds */
    bool half_done;
};

/* ---- the world ------------------------------------------------------------------------------- */

static void change(memsnap_view *v, unsigned char *model, size_t size, uint64_t seed)
{
    struct rng rng = {seed};
    for (int i = 0; i < 5; i++) {
        size_t at = rng_below(&rng, size), len = ms_min(size - at, rng_below(&rng, page) + 1);
        fill(bytes(v) + at, len, rng_next(&rng));
        memcpy(model + at, bytes(v) + at, len);
    }
}

static struct world *world_new(size_t size)
{
    struct world *w = g_new0(struct world, 1);
    *w =
        (struct world){.size = size, .base = pattern(size, 1), .other = pattern(size, 2), .fd = -1};
    memset(w->base + size / 3, 0, size / 4);
    w->path = temp_file("image", w->base, size);
    w->fd = open(w->path, O_RDWR | O_CLOEXEC);
    w->s = snap(w->base, size);
    w->stranger = snap(w->other, size);
    w->v = view(w->s);
    w->v_now = g_memdup2(w->base, size);
    change(w->v, w->v_now, size, 3);
    w->child = take(w->v);
    w->tracking = tracking();
    w->child_now = g_memdup2(w->v_now, size);
    memsnap_snapshot *t = NULL;
    w->atomic =
        memsnap_view_take_snapshot(w->v, MEMSNAP_TAKE_ATOMIC, &t) == 0 ? MEMSNAP_TAKE_ATOMIC : 0;
    memsnap_snapshot_unref(t);
    w->live = w->atomic && !config_is("heap") ? MEMSNAP_THAW_LIVE : 0;
    change(w->v, w->v_now, size, 4);
    w->m = snap(w->base, size);
    w->m_now = g_memdup2(w->base, size);
    return w;
}

static void check_bytes(memsnap_snapshot *s, const unsigned char *expected, size_t size)
{
    unsigned char *copy = g_malloc(size);
    assert_ok(memsnap_snapshot_read(s, 0, copy, size));
    assert_same(copy, expected, size);
    g_free(copy);
}

static void world_check(const struct world *w, bool half_done)
{
    if (!half_done)
        assert_same(bytes(w->v), w->v_now, w->size);
    if (w->mut && !half_done)
        assert_same(bytes(w->mut), w->m_now, w->size);
    check_bytes(w->s, w->base, w->size);
    check_bytes(w->child, w->child_now, w->size);
    check_bytes(w->stranger, w->other, w->size);
    if (!w->mut || !half_done)
        check_bytes(w->m, w->m_now, w->size);
    if (w->shared_mut)
        assert_same(bytes(w->shared_mut), w->shared_now, w->size);
    if (w->shared)
        check_bytes(w->shared, w->shared_now, w->size);
}

static void world_free(struct world *w)
{
    memsnap_view_unref(w->v);
    memsnap_view_unref(w->mut);
    memsnap_view_unref(w->shared_mut);
    memsnap_snapshot_unref(w->s);
    memsnap_snapshot_unref(w->child);
    memsnap_snapshot_unref(w->stranger);
    memsnap_snapshot_unref(w->m);
    memsnap_snapshot_unref(w->shared);
    close(w->fd);
    g_free(w->base);
    g_free(w->other);
    g_free(w->v_now);
    g_free(w->child_now);
    g_free(w->m_now);
    g_free(w->shared_now);
    g_free(w->path);
    g_free(w);
}

/* ---- states to start from -------------------------------------------------------------------- */

static void open_writer(struct world *w)
{
    w->mut = view_mut(w->m);
    change(w->mut, w->m_now, w->size, 5);
}

static void freeze_writer(struct world *w)
{
    open_writer(w);
    memsnap_snapshot_unref(snap_clone(w->m));
    change(w->mut, w->m_now, w->size, 6);
}

/* Two cuts, so that pages are known to be as they were in the last one, and some changes since. */
static void track_writer(struct world *w)
{
    w->mut = view_mut_tracked(w->m);
    for (uint64_t seed = 5; seed < 8; seed++) {
        change(w->mut, w->m_now, w->size, seed);
        if (seed < 7)
            memsnap_snapshot_unref(snap_clone(w->m));
    }
}

/* Of several chunks, nothing of which anybody else refers to; some changes since. */
static void collect_writer(struct world *w)
{
    freeze_writer(w);
    memsnap_snapshot_unref(snap_clone(w->m));
    change(w->mut, w->m_now, w->size, 8);
    memset(bytes(w->mut), 0, page);
    memset(w->m_now, 0, page);
}

/* Half way, if it is larger than a step. */
static void thaw_a_step(struct world *w)
{
    collect_writer(w);
    if (!config_is("heap"))
        g_assert_cmpint(memsnap_view_thaw(w->mut, 0, 1), >=, 0);
    change(w->mut, w->m_now, w->size, 9);
}

static void close_writer(struct world *w)
{
    freeze_writer(w);
    memsnap_view_unref(w->mut);
    w->mut = NULL;
}

static void park(struct world *w)
{
    memsnap_view *a = view(w->s), *b = view(w->s);
    memset(bytes(a), 1, w->size);
    memsnap_view_unref(a);
    memsnap_view_unref(b);
}

static void protect_some(struct world *w)
{
    assert_ok(memsnap_view_protect(w->v, page, page, MEMSNAP_ACCESS_READ));
}

static void open_shared(struct world *w)
{
    assert_ok(memsnap_snapshot_new_from_file(w->path, MEMSNAP_FILE_SHARED, &w->shared));
    w->shared_now = g_memdup2(w->base, w->size);
    w->shared_mut = view_mut(w->shared);
    change(w->shared_mut, w->shared_now, w->size, 7);
}

/* ---- the calls ------------------------------------------------------------------------------- */

static int call_new(struct world *w, struct outcome *o)
{
    o->expected = w->other;
    return memsnap_snapshot_new(w->other, w->size, config.flags, &o->snap);
}

static int call_new_zeroed(struct world *w, struct outcome *o)
{
    return memsnap_snapshot_new_zeroed(w->size, config.flags, &o->snap);
}

static int call_from_file(struct world *w, struct outcome *o)
{
    o->expected = w->base;
    return memsnap_snapshot_new_from_file(w->path, config.flags, &o->snap);
}

static int call_from_fd(struct world *w, struct outcome *o)
{
    o->expected = w->base;
    return memsnap_snapshot_new_from_fd(w->fd, config.flags, &o->snap);
}

static int call_file_map(struct world *w, struct outcome *o)
{
    o->expected = w->base;
    return memsnap_snapshot_new_from_file(w->path, MEMSNAP_FILE_MAP, &o->snap);
}

static int call_file_shared(struct world *w, struct outcome *o)
{
    o->expected = w->base;
    return memsnap_snapshot_new_from_fd(w->fd, MEMSNAP_FILE_SHARED, &o->snap);
}

static int call_clone(struct world *w, struct outcome *o)
{
    o->expected = w->m_now;
    return memsnap_snapshot_clone(w->m, &o->snap);
}

static int call_clone_shared(struct world *w, struct outcome *o)
{
    o->expected = w->shared_now;
    return memsnap_snapshot_clone(w->shared, &o->snap);
}

static int call_read(struct world *w, struct outcome *o)
{
    (void)o;
    unsigned char *buf = g_malloc(w->size);
    int r = memsnap_snapshot_read(w->m, 0, buf, w->size);
    if (r == 0)
        assert_same(buf, w->m_now, w->size);
    g_free(buf);
    return r;
}

static int call_diff(struct world *w, struct outcome *o)
{
    (void)o;
    size_t cursor = 0;
    struct memsnap_range range;
    int r = memsnap_snapshot_diff(w->m, w->stranger, &cursor, &range, 1);
    if (r < 0) {
        g_assert_cmpuint(cursor, ==, 0);
        return r;
    }
    g_assert_cmpint(r, ==, 1);
    g_assert_cmpuint(range.offset, ==, 0);
    return 0;
}

static int call_set_recycling(struct world *w, struct outcome *o)
{
    (void)o;
    return memsnap_snapshot_set_recycling(w->s, 40);
}

static int call_view(struct world *w, struct outcome *o)
{
    o->expected = w->base;
    return memsnap_snapshot_view(w->s, 0, &o->view);
}

static int call_view_child(struct world *w, struct outcome *o)
{
    o->expected = w->child_now;
    return memsnap_snapshot_view(w->child, 0, &o->view);
}

static int call_view_copy(struct world *w, struct outcome *o)
{
    o->expected = w->child_now;
    return memsnap_snapshot_view(w->child, MEMSNAP_VIEW_COPY, &o->view);
}

static int call_view_flags(struct world *w, struct outcome *o)
{
    o->expected = w->child_now;
    return memsnap_snapshot_view(w->child, MEMSNAP_VIEW_PREFAULT | MEMSNAP_VIEW_NODUMP, &o->view);
}

static int call_view_of_writer(struct world *w, struct outcome *o)
{
    o->expected = w->m_now;
    return memsnap_snapshot_view(w->m, 0, &o->view);
}

static int call_view_mut(struct world *w, struct outcome *o)
{
    o->expected = w->m_now;
    return memsnap_snapshot_view_mut(w->m, 0, &o->view);
}

static int call_view_mut_tracked(struct world *w, struct outcome *o)
{
    o->expected = w->m_now;
    return memsnap_snapshot_view_mut(w->m, w->tracking, &o->view);
}

static int call_view_mut_shared_chunk(struct world *w, struct outcome *o)
{
    o->expected = w->child_now;
    return memsnap_snapshot_view_mut(w->child, 0, &o->view);
}

static int call_view_at(struct world *w, struct outcome *o)
{
    o->expected = w->child_now;
    return memsnap_snapshot_view_at(w->child, free_address(w->size), 0, &o->view);
}

static int call_view_at_mutable(struct world *w, struct outcome *o)
{
    o->expected = w->m_now;
    return memsnap_snapshot_view_at(w->m, free_address(w->size), MEMSNAP_VIEW_MUTABLE, &o->view);
}

static int call_take(struct world *w, struct outcome *o)
{
    o->expected = w->v_now;
    return memsnap_view_take_snapshot(w->v, 0, &o->snap);
}

static int call_take_mutable(struct world *w, struct outcome *o)
{
    o->expected = w->m_now;
    return memsnap_view_take_snapshot(w->mut, 0, &o->snap);
}

static int call_take_shared(struct world *w, struct outcome *o)
{
    o->expected = w->shared_now;
    return memsnap_view_take_snapshot(w->shared_mut, 0, &o->snap);
}

static int call_take_atomic(struct world *w, struct outcome *o)
{
    o->expected = w->v_now;
    return memsnap_view_take_snapshot(w->v, w->atomic, &o->snap);
}

static int call_take_atomic_mutable(struct world *w, struct outcome *o)
{
    o->expected = w->m_now;
    return memsnap_view_take_snapshot(w->mut, w->atomic, &o->snap);
}

static int call_restore(struct world *w, struct outcome *o)
{
    (void)o;
    return memsnap_view_restore(w->v);
}

static int call_restore_mutable(struct world *w, struct outcome *o)
{
    (void)o;
    return memsnap_view_restore(w->mut);
}

static int call_restore_to(struct world *w, struct outcome *o)
{
    (void)o;
    return memsnap_view_restore_to(w->v, w->stranger);
}

static int call_restore_to_child(struct world *w, struct outcome *o)
{
    (void)o;
    return memsnap_view_restore_to(w->v, w->child);
}

static int call_restore_to_writer(struct world *w, struct outcome *o)
{
    (void)o;
    return memsnap_view_restore_to(w->v, w->m);
}

static int call_roll_back(struct world *w, struct outcome *o)
{
    (void)o;
    return memsnap_view_restore_to(w->mut, w->s);
}

static int call_protect(struct world *w, struct outcome *o)
{
    (void)o;
    return memsnap_view_protect(w->v, 0, page, MEMSNAP_ACCESS_READ);
}

static int call_dirty(struct world *w, struct outcome *o)
{
    (void)o;
    size_t cursor = 0, at = 0;
    struct memsnap_range range;
    int r = memsnap_view_dirty(w->v, &cursor, &range, 1);
    if (r < 0) {
        g_assert_cmpuint(cursor, ==, 0);
        return r;
    }
    while (memcmp(w->v_now + at, w->base + at, ms_min(page, w->size - at)) == 0)
        at += page;
    g_assert_cmpint(r, ==, 1);
    g_assert_cmpuint(range.offset, ==, at);
    return 0;
}

static int call_flush(struct world *w, struct outcome *o)
{
    (void)o;
    return memsnap_view_flush(w->shared_mut, 0, w->size);
}

static int call_snapshot_stats(struct world *w, struct outcome *o)
{
    (void)o;
    struct memsnap_snapshot_stats stats = {.size = sizeof stats};
    return memsnap_snapshot_stats(w->m, &stats);
}

static int call_view_stats(struct world *w, struct outcome *o)
{
    (void)o;
    struct memsnap_view_stats stats = {.size = sizeof stats};
    return memsnap_view_stats(w->v, &stats);
}

static int thaw(struct world *w, unsigned flags)
{
    if (config_is("heap")) {
        g_assert_cmpint(memsnap_view_thaw(w->mut, flags, SIZE_MAX), ==, -ENOTSUP);
        return 0;
    }
    return memsnap_view_thaw(w->mut, flags, SIZE_MAX);
}

static int call_thaw(struct world *w, struct outcome *o)
{
    (void)o;
    return thaw(w, 0);
}

static int call_thaw_live(struct world *w, struct outcome *o)
{
    (void)o;
    return thaw(w, w->live);
}

/* Closing cannot fail, whatever fails. */
static int call_close(struct world *w, struct outcome *o)
{
    (void)o;
    memsnap_view_unref(w->v);
    w->v = NULL;
    return 0;
}

static int call_close_writer(struct world *w, struct outcome *o)
{
    (void)o;
    memsnap_view_unref(w->mut);
    w->mut = NULL;
    return 0;
}

/* ---- what success does ----------------------------------------------------------------------- */

static void now_base(struct world *w)
{
    memcpy(w->v_now, w->base, w->size);
    memset(bytes(w->v) + page, 9, page); /* writable again */
    memset(w->v_now + page, 9, page);
}

static void now_stranger(struct world *w)
{
    memcpy(w->v_now, w->other, w->size);
}

static void now_child(struct world *w)
{
    memcpy(w->v_now, w->child_now, w->size);
}

static void now_writer(struct world *w)
{
    memcpy(w->v_now, w->m_now, w->size);
}

static void rolled_back(struct world *w)
{
    memcpy(w->m_now, w->base, w->size);
}

static void reopened(struct world *w)
{
    w->v = view(w->s);
    memcpy(w->v_now, w->base, w->size);
}

static const struct action actions[] = {
    {"new", NULL, call_new, NULL, false},
    {"new_zeroed", NULL, call_new_zeroed, NULL, false},
    {"new_from_file", NULL, call_from_file, NULL, false},
    {"new_from_fd", NULL, call_from_fd, NULL, false},
    {"clone", NULL, call_clone, NULL, false},
    {"clone, direct writer", open_writer, call_clone, NULL, false},
    {"clone, shadow writer", freeze_writer, call_clone, NULL, false},
    {"clone, closed writer", close_writer, call_clone, NULL, false},
    {"read", NULL, call_read, NULL, false},
    {"read, direct writer", open_writer, call_read, NULL, false},
    {"read, shadow writer", freeze_writer, call_read, NULL, false},
    {"diff", NULL, call_diff, NULL, false},
    {"diff, shadow writer", freeze_writer, call_diff, NULL, false},
    {"set_recycling", park, call_set_recycling, NULL, false},
    {"view", NULL, call_view, NULL, false},
    {"view, recycled", park, call_view, NULL, false},
    {"view, child", NULL, call_view_child, NULL, false},
    {"view, copied", NULL, call_view_copy, NULL, false},
    {"view, flags", NULL, call_view_flags, NULL, false},
    {"view, direct writer", open_writer, call_view_of_writer, NULL, false},
    {"view, shadow writer", freeze_writer, call_view_of_writer, NULL, false},
    {"view_mut", NULL, call_view_mut, NULL, false},
    {"view_mut, again", close_writer, call_view_mut, NULL, false},
    {"view_mut, tracked", close_writer, call_view_mut_tracked, NULL, false},
    {"view_mut, child", NULL, call_view_mut_shared_chunk, NULL, false},
    {"view_at", NULL, call_view_at, NULL, false},
    {"view_at, mutable", NULL, call_view_at_mutable, NULL, false},
    {"view_at, mutable moved", close_writer, call_view_at_mutable, NULL, false},
    {"take", NULL, call_take, NULL, false},
    {"take, protected", protect_some, call_take, NULL, false},
    {"take, direct writer", open_writer, call_take_mutable, NULL, false},
    {"take, shadow writer", freeze_writer, call_take_mutable, NULL, false},
    {"take, tracked writer", track_writer, call_take_mutable, NULL, false},
    {"take, atomic tracked writer", track_writer, call_take_atomic_mutable, NULL, false},
    {"take, atomic", NULL, call_take_atomic, NULL, false},
    {"take, atomic shadow writer", freeze_writer, call_take_atomic_mutable, NULL, false},
    {"restore", NULL, call_restore, now_base, true},
    {"restore, protected", protect_some, call_restore, now_base, true},
    {"restore, writer", freeze_writer, call_restore_mutable, NULL, true},
    {"restore_to", NULL, call_restore_to, now_stranger, true},
    {"restore_to, child", protect_some, call_restore_to_child, now_child, true},
    {"restore_to, direct writer's", open_writer, call_restore_to_writer, now_writer, true},
    {"restore_to, shadow writer's", freeze_writer, call_restore_to_writer, now_writer, true},
    {"restore_to, direct writer", open_writer, call_roll_back, rolled_back, true},
    {"restore_to, shadow writer", freeze_writer, call_roll_back, rolled_back, true},
    {"protect", NULL, call_protect, NULL, false},
    {"dirty", NULL, call_dirty, NULL, false},
    {"snapshot_stats", freeze_writer, call_snapshot_stats, NULL, false},
    {"view_stats", NULL, call_view_stats, NULL, false},
    {"thaw", freeze_writer, call_thaw, NULL, false},
    {"thaw, of many chunks", collect_writer, call_thaw, NULL, false},
    {"thaw, the rest", thaw_a_step, call_thaw, NULL, false},
    {"thaw, atomic steps", collect_writer, call_thaw_live, NULL, false},
    {"thaw, atomic steps, tracked", track_writer, call_thaw_live, NULL, false},
    {"take, thawing writer", thaw_a_step, call_take_mutable, NULL, false},
    {"take, atomic thawing writer", thaw_a_step, call_take_atomic_mutable, NULL, false},
    {"clone, thawing writer", thaw_a_step, call_clone, NULL, false},
    {"read, thawing writer", thaw_a_step, call_read, NULL, false},
    {"restore_to, thawing writer", thaw_a_step, call_roll_back, rolled_back, true},
    {"close, thawing writer", thaw_a_step, call_close_writer, NULL, false},
    {"close", NULL, call_close, reopened, false},
    {"close, protected", protect_some, call_close, reopened, false},
    {"close, direct writer", open_writer, call_close_writer, NULL, false},
    {"close, shadow writer", freeze_writer, call_close_writer, NULL, false},
};

/* Those that need a file mapped: not for heap pages. */
static const struct action file_actions[] = {
    {"new_from_file, map", NULL, call_file_map, NULL, false},
    {"new_from_fd, shared", NULL, call_file_shared, NULL, false},
    {"clone, shared file", open_shared, call_clone_shared, NULL, false},
    {"take, shared file", open_shared, call_take_shared, NULL, false},
    {"flush", open_shared, call_flush, NULL, false},
};

/* ---- the loop -------------------------------------------------------------------------------- */

static void check_outcome(const struct world *w, struct outcome *o)
{
    unsigned char *zero = o->expected ? NULL : g_malloc0(w->size);
    const unsigned char *expected = o->expected ? o->expected : zero;
    if ((void *)o->snap != UNTOUCHED) {
        check_bytes(o->snap, expected, w->size);
        memsnap_snapshot_unref(o->snap);
    }
    if ((void *)o->view != UNTOUCHED) {
        assert_same(bytes(o->view), expected, w->size);
        memsnap_view_unref(o->view);
    }
    g_free(zero);
}

/* One call with the n-th operation failing. False if it did not need that many. */
static bool strike_once(const struct action *a, size_t size, size_t n, size_t count, int error)
{
    struct fault_balance before = fault_outstanding();
    struct world *w = world_new(size);
    struct outcome o = {UNTOUCHED, UNTOUCHED, NULL};
    if (a->prepare)
        a->prepare(w);
    fault_arm(FAULT_ALL, n, count, error);
    int r = a->call(w, &o);
    bool fired = fault_fired() > 0;
    fault_disarm();
    if (fired && r < 0 && !fault_explains(r))
        g_error("%s: operation %zu (%s) failed, the call with another error: %d", a->name, n,
                fault_name(fault_last()), r);
    if (r < 0) {
        g_assert_true(fired);
        g_assert_true((void *)o.snap == UNTOUCHED && (void *)o.view == UNTOUCHED);
        world_check(w, a->half_done);
        r = a->call(w, &o);
    }
    assert_ok(r);
    check_outcome(w, &o);
    if (a->apply)
        a->apply(w);
    world_check(w, false);
    world_free(w);
    struct fault_balance after = fault_outstanding();
    if (memcmp(&before, &after, sizeof before) != 0)
        g_error("%s: operation %zu (%s) failed, and %ld allocations, %ld bytes mapped, %ld "
                "objects, %ld write blocks are left",
                a->name, n, fired ? fault_name(fault_last()) : "none",
                after.allocations - before.allocations, after.mapped - before.mapped,
                after.objects - before.objects, after.write_blocks - before.write_blocks);
    return fired;
}

/* Every `step`-th operation, from a random one on: all of them with the test option -m thorough. */
static void strike_all(const struct action *list, size_t n_actions, size_t size, size_t count,
                       int error, size_t step)
{
    if (g_test_thorough())
        step = 1;
    for (size_t i = 0; i < n_actions; i++) {
        size_t n = (size_t)g_test_rand_int_range(0, (gint32)step);
        while (strike_once(&list[i], size, n, count, error))
            n += on_valgrind() ? 7 + n : step;
        if (g_test_verbose())
            g_test_message("%s: %zu operations", list[i].name, n);
        g_assert_cmpuint(n, <, 2000);
    }
}

static void strike_sizes(size_t count, int error, size_t step)
{
    const size_t sizes[] = {3 * page, 40 * page + 5};
    for (size_t i = 0; i < (on_valgrind() ? 1 : G_N_ELEMENTS(sizes)); i++) {
        strike_all(actions, G_N_ELEMENTS(actions), sizes[i], count, error, step);
        if (!config_is("heap"))
            strike_all(file_actions, G_N_ELEMENTS(file_actions), sizes[i], count, error, step);
    }
}

static void test_once_typical(void)
{
    strike_sizes(1, FAULT_TYPICAL, 1);
}

static void test_once_no_memory(void)
{
    strike_sizes(1, -ENOMEM, 2);
}

static void test_all_from_then_on(void)
{
    strike_sizes(FAULT_FOR_EVER, FAULT_TYPICAL, 2);
}

/* Images of huge pages have ways of their own. */
static void test_large(void)
{
    if (on_valgrind()) {
        test_skip("takes too long under valgrind");
        return;
    }
    strike_all(actions, G_N_ELEMENTS(actions), 2 * MIB + 3 * page, 1, FAULT_TYPICAL, 24);
}

/* Everything fails from the first unref on: still nothing is left. */
static void test_closing(void)
{
    void (*const states[])(struct world * w) = {NULL, open_writer,  freeze_writer, close_writer,
                                                park, protect_some, thaw_a_step};
    for (size_t i = 0; i < G_N_ELEMENTS(states); i++) {
        struct fault_balance before = fault_outstanding();
        struct world *w = world_new(40 * page + 5);
        if (states[i])
            states[i](w);
        fault_arm(FAULT_ALL, 0, FAULT_FOR_EVER, FAULT_TYPICAL);
        world_free(w);
        fault_disarm();
        struct fault_balance after = fault_outstanding();
        g_assert_cmpint(after.allocations, ==, before.allocations);
        g_assert_cmpint(after.mapped, ==, before.mapped);
        g_assert_cmpint(after.objects, ==, before.objects);
    }
}

/* Kinds that only help, or have something else to take their place: calls do without them. */
static void test_not_needed(void)
{
    const unsigned kinds = FAULT_BIT(FAULT_DISCARD) | FAULT_BIT(FAULT_POPULATE) |
                           FAULT_BIT(FAULT_ADVISE) | FAULT_BIT(FAULT_COLLAPSE) |
                           FAULT_BIT(FAULT_OBJECT_PUNCH) | FAULT_BIT(FAULT_CANDIDATES) |
                           FAULT_BIT(FAULT_WRITTEN) | FAULT_BIT(FAULT_WRITE_BLOCK_CLOSE);
    for (size_t i = 0; i < G_N_ELEMENTS(actions); i++) {
        struct world *w = world_new(on_valgrind() ? 40 * page : 2 * MIB + page);
        struct outcome o = {UNTOUCHED, UNTOUCHED, NULL};
        if (actions[i].prepare)
            actions[i].prepare(w);
        fault_arm(kinds, 0, FAULT_FOR_EVER, -ENOTSUP);
        int r = actions[i].call(w, &o);
        if (r == -ENOTSUP && fault_last() == FAULT_WRITE_BLOCK_CLOSE)
            g_assert_nonnull(strstr(actions[i].name, "atomic"));
        else if (r < 0)
            g_error("%s: without %s: %d", actions[i].name, fault_name(fault_last()), r);
        if (r == 0 && actions[i].apply)
            actions[i].apply(w);
        if (r == 0)
            check_outcome(w, &o);
        world_check(w, false);
        fault_disarm();
        world_free(w);
    }
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("once-typical", test_once_typical, 0);
    test_add("once-no-memory", test_once_no_memory, 0);
    test_add("all-from-then-on", test_all_from_then_on, 0);
    test_add("large", test_large, 0);
    test_add("closing", test_closing, 0);
    test_add("not-needed", test_not_needed, 0);
    return g_test_run();
}
