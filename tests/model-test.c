/* Random operations on several snapshots and views, compared with plain arrays.
 *
 *     model-test [--rounds N] [--seed R02S...] [-p /linux/scan/model]
 *
 * The seed that a run was started with is printed by GLib ("random seed"); the same seed and number of rounds do the same. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>

#include "support.h"

enum { SNAPSHOTS = 7, VIEWS = 8, SIZES = 7 };

/* What a snapshot holds; its mutable view has a reference, too. */
struct content {
    size_t refs, size;
    unsigned char *now;         /* round_up(size) bytes, the tail zero */
    bool leased;
};

struct snapshot {
    memsnap_snapshot *handle;   /* NULL: a free slot */
    struct content *content;
};

struct view {
    memsnap_view *handle;
    void *address;
    size_t size;
    unsigned char *base, *now;  /* of an ordinary view: round_up(size) bytes, tail included */
    struct content *content;    /* of a mutable one */
    unsigned char *access;      /* per page */
};

static struct snapshot snapshots[SNAPSHOTS];
static struct view views[VIEWS];
static size_t sizes[SIZES];
static struct rng rng;
static unsigned long rounds = 1500;
static bool may_fork;

static size_t below(size_t limit)
{
    return rng_below(&rng, limit);
}

static bool one_in(size_t n)
{
    return below(n) == 0;
}

/* ---- the model --------------------------------------------------------------------------------------------------- */

static struct content *content_new(const void *data, size_t size)
{
    struct content *c = g_new(struct content, 1);
    *c = (struct content){.refs = 1, .size = size, .now = g_malloc0(round_up(size) + 1)};
    if (data)
        memcpy(c->now, data, size);
    return c;
}

static void content_unref(struct content *c)
{
    if (--c->refs)
        return;
    g_free(c->now);
    g_free(c);
}

static size_t view_pages(const struct view *v)
{
    return round_up(v->size) / page;
}

static const unsigned char *view_now(const struct view *v)
{
    return v->content ? v->content->now : v->now;
}

static struct snapshot *any_snapshot(void)
{
    struct snapshot *s = &snapshots[below(SNAPSHOTS)];
    return s->handle ? s : NULL;
}

static struct view *any_view(void)
{
    struct view *v = &views[below(VIEWS)];
    return v->handle ? v : NULL;
}

static struct snapshot *snapshot_slot(void)
{
    for (int i = 0; i < SNAPSHOTS; i++)
        if (!snapshots[i].handle)
            return &snapshots[i];
    return NULL;
}

static struct view *view_slot(void)
{
    for (int i = 0; i < VIEWS; i++)
        if (!views[i].handle)
            return &views[i];
    return NULL;
}

/* Another one of the same size, if there is one. */
static struct snapshot *same_size(size_t size)
{
    size_t start = below(SNAPSHOTS);
    for (size_t i = 0; i < SNAPSHOTS; i++) {
        struct snapshot *s = &snapshots[(start + i) % SNAPSHOTS];
        if (s->handle && s->content->size == size)
            return s;
    }
    return NULL;
}

/* ---- checks -------------------------------------------------------------------------------------------------------- */

static void check_view_page(const struct view *v, size_t p)
{
    size_t offset = p * page, len = least(page, v->size - offset);
    if (v->access[p] == MEMSNAP_ACCESS_NONE)
        return;
    assert_same(bytes(v->handle) + offset, view_now(v) + offset, v->content ? len : page);
}

static void check_view(const struct view *v)
{
    g_assert_true(memsnap_view_data(v->handle) == v->address);
    g_assert_cmpuint(memsnap_view_size(v->handle), ==, v->size);
    for (size_t p = 0; p < view_pages(v); p++)
        check_view_page(v, p);
}

static void check_snapshot(const struct snapshot *s)
{
    size_t size = s->content->size;
    unsigned char *copy = g_malloc(size + 1);
    g_assert_cmpuint(memsnap_snapshot_size(s->handle), ==, size);
    assert_ok(memsnap_snapshot_read(s->handle, 0, copy, size));
    assert_same(copy, s->content->now, size);
    g_free(copy);
}

static void check_everything(void)
{
    for (int i = 0; i < VIEWS; i++)
        if (views[i].handle)
            check_view(&views[i]);
    for (int i = 0; i < SNAPSHOTS; i++)
        if (snapshots[i].handle)
            check_snapshot(&snapshots[i]);
}

static void check_sample(void)
{
    for (int i = 0; i < VIEWS; i++) {
        const struct view *v = &views[i];
        if (v->handle && v->size > 0)
            check_view_page(v, below(view_pages(v)));
    }
    const struct snapshot *s = any_snapshot();
    if (!s || s->content->size == 0 || one_in(2))
        return;
    unsigned char buf[512];
    size_t offset = below(s->content->size), len = least(sizeof buf, s->content->size - offset);
    assert_ok(memsnap_snapshot_read(s->handle, offset, buf, len));
    assert_same(buf, s->content->now + offset, len);
}

static void check_clean_from(const unsigned char *x, const unsigned char *y, size_t size, size_t at)
{
    if (at < size)
        assert_same(x + at, y + at, size - at);
}

/* ---- operations on snapshots -------------------------------------------------------------------------------------- */

static void op_new(void)
{
    struct snapshot *s = snapshot_slot();
    if (!s)
        return;
    size_t size = sizes[below(SIZES)];
    unsigned char *data = pattern(size, rng_next(&rng));
    for (size_t i = below(4); i > 0 && size > 0; i--) {
        size_t at = below(size), len = least(size - at, (1 + below(8)) * page);
        memset(data + at, 0, len);
    }
    s->handle = snap(data, size);
    s->content = content_new(data, size);
    g_free(data);
}

static void op_new_zeroed(void)
{
    struct snapshot *s = snapshot_slot();
    if (!s)
        return;
    size_t size = sizes[below(SIZES)];
    s->handle = snap_zero(size);
    s->content = content_new(NULL, size);
}

static void op_clone(void)
{
    struct snapshot *from = any_snapshot(), *s = snapshot_slot();
    if (!from || !s)
        return;
    s->handle = snap_clone(from->handle);
    s->content = content_new(from->content->now, from->content->size);
}

static void op_drop(void)
{
    struct snapshot *s = any_snapshot();
    if (!s)
        return;
    memsnap_snapshot_unref(s->handle);
    content_unref(s->content);
    *s = (struct snapshot){NULL, NULL};
}

static void op_references(void)
{
    struct snapshot *s = any_snapshot();
    struct view *v = any_view();
    if (s)
        memsnap_snapshot_unref(memsnap_snapshot_ref(s->handle));
    if (v)
        memsnap_view_unref(memsnap_view_ref(v->handle));
}

static void op_recycling(void)
{
    const unsigned limits[] = {0, 1, 8, 100};
    struct snapshot *s = any_snapshot();
    if (s)
        assert_ok(memsnap_snapshot_set_recycling(s->handle, limits[below(4)]));
}

static void op_read(void)
{
    struct snapshot *s = any_snapshot();
    if (s)
        check_snapshot(s);
}

static void op_diff(void)
{
    struct snapshot *a = any_snapshot();
    struct snapshot *b = a ? same_size(a->content->size) : NULL;
    struct memsnap_range ranges[5];
    size_t cursor = 0, at = 0, max = 1 + below(5);
    if (!b)
        return;
    const unsigned char *x = a->content->now, *y = b->content->now;
    for (int n; (n = memsnap_snapshot_diff(a->handle, b->handle, &cursor, ranges, max)) != 0;) {
        g_assert_cmpint(n, >, 0);
        check_ranges(ranges, n, x, y, a->content->size, &at);
    }
    check_clean_from(x, y, a->content->size, at);
}

static void op_stats(void)
{
    struct snapshot *s = any_snapshot();
    struct view *v = any_view();
    if (s) {
        struct memsnap_snapshot_stats st = snap_stats(s->handle);
        g_assert_cmpuint(st.exclusive_bytes, <=, st.stored_bytes);
    }
    if (v) {
        struct memsnap_view_stats st = view_stats(v->handle);
        g_assert_cmpuint(st.private_bytes, <=, MAX(round_up(v->size), page));
    }
}

/* ---- operations on views ------------------------------------------------------------------------------------------- */

static void view_opened(struct view *v, memsnap_view *handle, struct content *c, bool mutable)
{
    size_t len = round_up(c->size);
    *v = (struct view){.handle = handle, .address = memsnap_view_data(handle), .size = c->size};
    v->access = g_malloc(len / page + 1);
    memset(v->access, MEMSNAP_ACCESS_WRITE, len / page + 1);
    if (mutable) {
        v->content = c;
        c->refs++;
        c->leased = true;
    } else {
        v->base = g_memdup2(c->now, len + 1);
        v->now = g_memdup2(c->now, len + 1);
    }
    g_assert_true(all_zero(bytes(handle) + c->size, len - c->size));
}

static void op_view(void)
{
    struct snapshot *s = any_snapshot();
    struct view *v = view_slot();
    memsnap_view *handle = NULL;
    if (!s || !v)
        return;
    unsigned flags = one_in(4) ? (unsigned)below(8) : 0;
    if (one_in(8))
        assert_ok(memsnap_snapshot_view_at(s->handle, free_address(s->content->size + page), flags, &handle));
    else
        assert_ok(memsnap_snapshot_view(s->handle, flags, &handle));
    view_opened(v, handle, s->content, false);
    if (one_in(4))
        check_view(v);
}

static void op_view_mut(void)
{
    struct snapshot *s = any_snapshot();
    struct view *v = view_slot();
    memsnap_view *handle = NULL;
    if (!s || !v)
        return;
    if (s->content->leased) {
        g_assert_cmpint(memsnap_snapshot_view_mut(s->handle, 0, &handle), ==, -EBUSY);
        return;
    }
    if (one_in(8))
        assert_ok(memsnap_snapshot_view_at(s->handle, free_address(s->content->size + page), MEMSNAP_VIEW_MUTABLE, &handle));
    else
        assert_ok(memsnap_snapshot_view_mut(s->handle, 0, &handle));
    view_opened(v, handle, s->content, true);
    if (one_in(4))
        check_view(v);
}

static void op_close(void)
{
    struct view *v = any_view();
    if (!v)
        return;
    memsnap_view_unref(v->handle);
    if (v->content) {
        v->content->leased = false;
        content_unref(v->content);
    }
    g_free(v->base);
    g_free(v->now);
    g_free(v->access);
    *v = (struct view){.handle = NULL};
}

/* Stores [at, at + len) page by page, where the pages may be written. */
static void store(struct view *v, size_t at, const unsigned char *from, size_t len)
{
    unsigned char *now = v->content ? v->content->now : v->now;
    while (len > 0) {
        size_t n = least(len, page - at % page);
        if (v->access[at / page] == MEMSNAP_ACCESS_WRITE) {
            memcpy(now + at, from, n);
            memcpy(bytes(v->handle) + at, from, n);
        }
        at += n;
        from += n;
        len -= n;
    }
}

/* A burst of stores: lone bytes, runs, zeros, and in an ordinary view now and then beyond the size. */
static void op_store(void)
{
    struct view *v = any_view();
    if (!v || v->size == 0)
        return;
    size_t limit = v->content || !one_in(8) ? v->size : round_up(v->size);
    for (size_t i = 1 + below(one_in(10) ? 100 : 6); i > 0; i--) {
        size_t at = below(limit), len = 1 + below(one_in(3) ? 1 : (one_in(10) ? 40 : 2) * page);
        len = least(len, limit - at);
        unsigned char *data = pattern(len, rng_next(&rng));
        if (one_in(5))
            memset(data, 0, len);
        store(v, at, data, len);
        g_free(data);
    }
}

/* What is as it was is not dirty: write the base's bytes back, or those of another snapshot. */
static void op_store_back(void)
{
    struct view *v = any_view();
    if (!v || v->size == 0)
        return;
    struct snapshot *s = same_size(v->size);
    const unsigned char *from = v->base && (!s || one_in(2)) ? v->base : s ? s->content->now : NULL;
    if (!from)
        return;
    size_t at = one_in(2) ? below(v->size) : below(view_pages(v)) * page;
    store(v, at, from + at, least(v->size - at, (1 + below(20)) * page));
}

static void op_take(void)
{
    struct view *v = any_view();
    struct snapshot *s = snapshot_slot();
    if (!v || !s)
        return;
    memsnap_snapshot *handle = NULL;
    int r = memsnap_view_take_snapshot(v->handle, one_in(6) ? MEMSNAP_TAKE_ATOMIC : 0, &handle);
    if (r == -ENOTSUP)
        return;
    assert_ok(r);
    s->handle = handle;
    s->content = content_new(view_now(v), v->size);
}

static void op_restore(void)
{
    struct view *v = any_view();
    if (!v)
        return;
    assert_ok(memsnap_view_restore(v->handle));
    memset(v->access, MEMSNAP_ACCESS_WRITE, view_pages(v) + 1);
    if (!v->content)
        memcpy(v->now, v->base, round_up(v->size));
    if (one_in(4))
        check_view(v);
}

static void op_restore_to(void)
{
    struct view *v = any_view();
    struct snapshot *s = v ? same_size(v->size) : NULL;
    if (!s)
        return;
    size_t len = round_up(v->size);
    assert_ok(memsnap_view_restore_to(v->handle, s->handle));
    memset(v->access, MEMSNAP_ACCESS_WRITE, view_pages(v) + 1);
    if (v->content) {
        memmove(v->content->now, s->content->now, len);
    } else {
        memcpy(v->base, s->content->now, len);
        memcpy(v->now, s->content->now, len);
    }
    if (one_in(4))
        check_view(v);
}

static void op_protect(void)
{
    const int accesses[] = {MEMSNAP_ACCESS_NONE, MEMSNAP_ACCESS_READ, MEMSNAP_ACCESS_WRITE};
    struct view *v = any_view();
    if (!v || v->size == 0)
        return;
    size_t first = below(view_pages(v)), n = 1 + below(least(view_pages(v) - first, 10));
    int access = accesses[below(3)];
    assert_ok(memsnap_view_protect(v->handle, first * page, least(n * page, v->size - first * page), access));
    memset(v->access + first, access, n);
}

static void op_dirty(void)
{
    struct view *v = any_view();
    struct memsnap_range ranges[5];
    size_t cursor = 0, at = 0, max = 1 + below(5);
    if (!v)
        return;
    const unsigned char *now = view_now(v), *base = v->content ? now : v->base;
    for (int n; (n = memsnap_view_dirty(v->handle, &cursor, ranges, max)) != 0;) {
        g_assert_cmpint(n, >, 0);
        check_ranges(ranges, n, now, base, v->size, &at);
    }
    check_clean_from(now, base, v->size, at);
}

/* ---- the run --------------------------------------------------------------------------------------------------------- */

static void op_fork(void);

static const struct {
    void (*run)(void);
    size_t weight;
} operations[] = {
    {op_new, 4},     {op_new_zeroed, 2},  {op_clone, 4},   {op_drop, 7},        {op_references, 2}, {op_recycling, 2}, {op_read, 3},
    {op_diff, 4},    {op_stats, 2},       {op_view, 12},   {op_view_mut, 6},    {op_close, 10},     {op_store, 40},
    {op_take, 10},   {op_store_back, 8},  {op_restore, 10}, {op_restore_to, 8}, {op_protect, 4},    {op_dirty, 8},
    {op_fork, 1},
};

static void one_operation(void)
{
    size_t weights = 0, i = 0;
    for (size_t k = 0; k < G_N_ELEMENTS(operations); k++)
        weights += operations[k].weight;
    size_t n = below(weights);
    while (n >= operations[i].weight)
        n -= operations[i++].weight;
    operations[i].run();
}

static void drop_everything(void)
{
    for (int i = 0; i < VIEWS; i++) {
        struct view *v = &views[i];
        memsnap_view_unref(v->handle);
        if (v->content) {
            v->content->leased = false;
            content_unref(v->content);
        }
        g_free(v->base);
        g_free(v->now);
        g_free(v->access);
        *v = (struct view){.handle = NULL};
    }
    for (int i = 0; i < SNAPSHOTS; i++) {
        struct snapshot *s = &snapshots[i];
        memsnap_snapshot_unref(s->handle);
        if (s->handle)
            content_unref(s->content);
        *s = (struct snapshot){NULL, NULL};
    }
}

/* In the child everything is as it was, but for the mutable views, which are not inherited, and their snapshots. */
static void in_child(void *arg)
{
    (void)arg;
    may_fork = false;
    for (int i = 0; i < VIEWS; i++) {
        struct view *v = &views[i];
        memsnap_snapshot *out = UNTOUCHED;
        if (!v->handle || !v->content)
            continue;
        assert_refused(memsnap_view_take_snapshot(v->handle, 0, &out), -EBADF, out);
        memsnap_view_unref(v->handle);
        v->handle = NULL;
        content_unref(v->content);
        v->content = NULL;
        g_free(v->access);
        v->access = NULL;
    }
    for (int i = 0; i < SNAPSHOTS; i++) {
        struct snapshot *s = &snapshots[i];
        if (!s->handle || !s->content->leased)
            continue;
        memsnap_snapshot_unref(s->handle);
        content_unref(s->content);
        *s = (struct snapshot){NULL, NULL};
    }
    check_everything();
    for (int i = 0; i < 40; i++) {
        one_operation();
        check_sample();
    }
    check_everything();
    drop_everything();
}

static void op_fork(void)
{
    if (!may_fork || !one_in(4))
        return;
    child_run(in_child, NULL);
    check_everything();
}

static void test_model(void)
{
    rng.state = (uint64_t)(guint32)g_test_rand_int() << 32 | (guint32)g_test_rand_int();
    g_test_message("%lu rounds from state %016jx", rounds, (uintmax_t)rng.state);
    for (int i = 0; i < 3; i++)
        op_new();
    for (unsigned long i = 1; i <= rounds; i++) {
        one_operation();
        check_sample();
        if (i % 64 == 0)
            check_everything();
    }
    check_everything();
    drop_everything();
}

/* Takes --rounds N out of the arguments; the rest is GLib's. */
static void own_arguments(int *argc, char **argv)
{
    int kept = 1;
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--rounds") == 0 && i + 1 < *argc)
            rounds = strtoul(argv[++i], NULL, 10);
        else if (g_str_has_prefix(argv[i], "--rounds="))
            rounds = strtoul(argv[i] + strlen("--rounds="), NULL, 10);
        else
            argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    *argc = kept;
}

int main(int argc, char **argv)
{
    if (on_valgrind())
        rounds = 100;
    own_arguments(&argc, argv);
    test_init(&argc, &argv);
    const size_t list[SIZES] = {0, 1 + page / 3, 3 * page, 16 * page + 11, 300 * page, 2 * MIB + 5, 4 * MIB};
    memcpy(sizes, list, sizeof sizes);
    may_fork = !on_valgrind();
    test_add("model", test_model, TEST_SOURCES);
    return g_test_run();
}
