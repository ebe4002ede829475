/* SPDX-License-Identifier: MIT */
/* Eight threads that do everything at once, on snapshots and views that all of them share.
 *
 *     stress-test [--rounds N] [--seed R02S...] [-p /linux/best/everything]
 *
 * N operations per thread. What each snapshot and view must hold is known at all times, and
 * compared. The threads synchronise their own accesses to the bytes of a view, as memsnap.h asks
 * for, and nothing else: helgrind, DRD and ThreadSanitizer have nothing to report here, with no
 * exception made. Writers that take no lock are in tests/threads/writers-test.c. */
#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/support.h"

enum { THREADS = 8, SNAPSHOTS = 6, VIEWS = 6, BIN = 4, MAX_PAGES = 40, KINDS = 6 };

static unsigned long rounds = 400;
static size_t pages, size; /* of every image; the last page is not whole */

/* What a page holds is told by its number and its kind: 0 is zeros. So few kinds that pages are
 * often written back to what they were. */
typedef unsigned char kinds[MAX_PAGES];

/* A snapshot or an ordinary view, and what it must hold. `bytes` is held for writing by a thread
 * that stores to the bytes (of a snapshot: through its mutable view), and for reading by one
 * that looks at them or calls what does. */
struct shared {
    unsigned refs; /* under table.lock */
    pthread_rwlock_t bytes;
    memsnap_snapshot *s;
    memsnap_view *v;
    kinds now, base; /* base: of views */
};

static struct {
    pthread_mutex_t lock;
    struct shared *snapshots[SNAPSHOTS], *views[VIEWS];
    /* whose last reference some thread or other will give back */
    memsnap_snapshot *old_snapshots[BIN];
    memsnap_view *old_views[BIN];
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct worker {
    pthread_t thread;
    struct rng rng;
    char *path; /* a file of its own */
};

static size_t below(struct worker *w, size_t limit)
{
    return rng_below(&w->rng, limit);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static size_t bytes_in(size_t p)
{
    return ms_min(page, size - p * page);
}

static uint64_t word_at(size_t p, unsigned kind, size_t i)
{
    return kind ? (uint64_t)kind << 48 | (uint64_t)p << 24 | i : 0;
}

static void fill_page(void *to, size_t p, unsigned kind)
{
    uint64_t *words = to;
    for (size_t i = 0; i < bytes_in(p) / sizeof *words; i++)
        words[i] = word_at(p, kind, i);
}

static void check_page(const void *at, size_t p, unsigned kind)
{
    const uint64_t *words = at;
    uint64_t wrong = 0;
    for (size_t i = 0; i < bytes_in(p) / sizeof *words; i++)
        wrong |= words[i] ^ word_at(p, kind, i);
    if (wrong)
        g_error("page %zu holds 0x%" G_GINT64_MODIFIER "x instead of 0x%" G_GINT64_MODIFIER "x", p,
                words[0], word_at(p, kind, 0));
}

static void check_view(memsnap_view *v, const kinds now)
{
    for (size_t p = 0; p < pages; p++)
        check_page(bytes(v) + p * page, p, now[p]);
}

static void check_snapshot(memsnap_snapshot *s, const kinds now)
{
    unsigned char *copy = g_malloc(size);
    assert_ok(memsnap_snapshot_read(s, 0, copy, size));
    for (size_t p = 0; p < pages; p++)
        check_page(copy + p * page, p, now[p]);
    g_free(copy);
}

/* Some pages get new bytes, by whoever holds the lock for writing. */
static void store(struct worker *w, memsnap_view *v, kinds now)
{
    for (size_t n = below(w, 6) + 1; n > 0; n--) {
        size_t p = below(w, pages);
        now[p] = (unsigned char)below(w, KINDS);
        fill_page(bytes(v) + p * page, p, now[p]);
    }
}

/* ---- what the threads share ------------------------------------------------------------------ */

static struct shared *shared_new(memsnap_snapshot *s, memsnap_view *v, const kinds now)
{
    struct shared *x = g_new0(struct shared, 1);
    x->refs = 1;
    pthread_rwlock_init(&x->bytes, NULL);
    x->s = s;
    x->v = v;
    memcpy(x->now, now, sizeof x->now);
    memcpy(x->base, now, sizeof x->base);
    return x;
}

/* The handle goes into the bin; what is there already is given back here, often by another
 * thread than the one that made it. */
static void drop(memsnap_snapshot *s, memsnap_view *v, size_t place)
{
    pthread_mutex_lock(&table.lock);
    memsnap_snapshot *old_s = table.old_snapshots[place % BIN];
    memsnap_view *old_v = table.old_views[place % BIN];
    if (s)
        table.old_snapshots[place % BIN] = s;
    if (v)
        table.old_views[place % BIN] = v;
    pthread_mutex_unlock(&table.lock);
    if (s)
        memsnap_snapshot_unref(old_s);
    if (v)
        memsnap_view_unref(old_v);
}

static struct shared *get(struct shared **slot)
{
    pthread_mutex_lock(&table.lock);
    struct shared *x = *slot;
    x->refs++;
    pthread_mutex_unlock(&table.lock);
    return x;
}

static void put(struct worker *w, struct shared *x)
{
    pthread_mutex_lock(&table.lock);
    bool last = --x->refs == 0;
    pthread_mutex_unlock(&table.lock);
    if (!last)
        return;
    drop(x->s, x->v, below(w, BIN));
    pthread_rwlock_destroy(&x->bytes);
    g_free(x);
}

static void replace(struct worker *w, struct shared **slot, struct shared *x)
{
    pthread_mutex_lock(&table.lock);
    struct shared *old = *slot;
    *slot = x;
    pthread_mutex_unlock(&table.lock);
    put(w, old);
}

static struct shared *any_snapshot(struct worker *w)
{
    return get(&table.snapshots[below(w, SNAPSHOTS)]);
}

static struct shared *any_view(struct worker *w)
{
    return get(&table.views[below(w, VIEWS)]);
}

static void share_snapshot(struct worker *w, memsnap_snapshot *s, const kinds now)
{
    check_snapshot(s, now);
    replace(w, &table.snapshots[below(w, SNAPSHOTS)], shared_new(s, NULL, now));
}

static void read_lock(struct shared *x)
{
    g_assert_cmpint(pthread_rwlock_rdlock(&x->bytes), ==, 0);
}

static void write_lock(struct shared *x)
{
    g_assert_cmpint(pthread_rwlock_wrlock(&x->bytes), ==, 0);
}

static void unlock(struct shared *x)
{
    pthread_rwlock_unlock(&x->bytes);
}

/* Two snapshots: the one at the lower address first. A snapshot comes before a view. */
static void lock_two(struct shared *a, bool write_a, struct shared *b)
{
    if (b < a)
        read_lock(b);
    if (write_a)
        write_lock(a);
    else
        read_lock(a);
    if (b > a)
        read_lock(b);
}

static void unlock_two(struct shared *a, struct shared *b)
{
    unlock(a);
    if (a != b)
        unlock(b);
}

/* ---- operations ------------------------------------------------------------------------------ */

static void do_open(struct worker *w)
{
    struct shared *s = any_snapshot(w), *x;
    memsnap_view *v = NULL;
    const unsigned flags = below(w, 4)   ? 0
                           : below(w, 2) ? MEMSNAP_VIEW_COPY
                                         : MEMSNAP_VIEW_PREFAULT;
    read_lock(s);
    assert_ok(memsnap_snapshot_view(s->s, flags, &v));
    x = shared_new(NULL, v, s->now);
    unlock(s);
    check_view(v, x->now);
    replace(w, &table.views[below(w, VIEWS)], x);
    put(w, s);
}

static void do_store(struct worker *w)
{
    struct shared *x = any_view(w);
    write_lock(x);
    store(w, x->v, x->now);
    unlock(x);
    put(w, x);
}

static void do_look(struct worker *w)
{
    struct shared *x = any_view(w);
    read_lock(x);
    check_view(x->v, x->now);
    unlock(x);
    put(w, x);
}

static void take_from(struct worker *w, struct shared *x, memsnap_view *v)
{
    memsnap_snapshot *t = NULL;
    kinds now;
    /* which says at length that it does not know the call */
    bool atomic = !on_valgrind() && below(w, 2);
    read_lock(x);
    int r = memsnap_view_take_snapshot(v, atomic ? MEMSNAP_TAKE_ATOMIC : 0, &t);
    memcpy(now, x->now, sizeof now);
    unlock(x);
    g_assert_true(r == 0 || (atomic && r == -ENOTSUP));
    if (t)
        share_snapshot(w, t, now);
}

static void do_take(struct worker *w)
{
    struct shared *x = any_view(w);
    take_from(w, x, x->v);
    put(w, x);
}

static void do_restore(struct worker *w)
{
    struct shared *x = any_view(w);
    write_lock(x);
    assert_ok(memsnap_view_restore(x->v));
    memcpy(x->now, x->base, sizeof x->now);
    check_view(x->v, x->now);
    unlock(x);
    put(w, x);
}

static void do_restore_to(struct worker *w)
{
    struct shared *s = any_snapshot(w), *x = any_view(w);
    read_lock(s);
    write_lock(x);
    assert_ok(memsnap_view_restore_to(x->v, s->s));
    memcpy(x->now, s->now, sizeof x->now);
    memcpy(x->base, s->now, sizeof x->base);
    unlock(s);
    check_view(x->v, x->now);
    unlock(x);
    put(w, x);
    put(w, s);
}

/* Nobody looks at the bytes while some are out of reach. */
static void do_protect(struct worker *w)
{
    struct shared *x = any_view(w);
    memsnap_snapshot *t;
    kinds now;
    size_t first = below(w, pages), n = below(w, pages - first) + 1;
    write_lock(x);
    assert_ok(memsnap_view_protect(x->v, first * page, ms_min(n * page, size - first * page),
                                   MEMSNAP_ACCESS_NONE));
    t = take(x->v);
    memcpy(now, x->now, sizeof now);
    assert_ok(memsnap_view_restore(x->v));
    memcpy(x->now, x->base, sizeof x->now);
    unlock(x);
    share_snapshot(w, t, now);
    put(w, x);
}

/* Exactly the pages whose kinds differ. */
static void check_listed(const struct memsnap_range *r, int n, const kinds a, const kinds b)
{
    kinds listed = {0};
    g_assert_cmpint(n, >=, 0);
    for (int i = 0; i < n; i++)
        memset(listed + r[i].offset / page, 1, (r[i].len + page - 1) / page);
    for (size_t p = 0; p < pages; p++)
        g_assert_cmpuint(listed[p], ==, a[p] != b[p]);
}

static void do_dirty(struct worker *w)
{
    struct shared *x = any_view(w);
    struct memsnap_range r[MAX_PAGES];
    size_t cursor = 0;
    read_lock(x);
    int n = memsnap_view_dirty(x->v, &cursor, r, MAX_PAGES);
    check_listed(r, n, x->now, x->base);
    unlock(x);
    put(w, x);
}

static void do_diff(struct worker *w)
{
    struct shared *a = any_snapshot(w), *b = any_snapshot(w);
    struct memsnap_range r[MAX_PAGES];
    size_t cursor = 0;
    lock_two(a, false, b);
    int n = memsnap_snapshot_diff(a->s, b->s, &cursor, r, MAX_PAGES);
    check_listed(r, n, a->now, b->now);
    unlock_two(a, b);
    put(w, a);
    put(w, b);
}

static void do_clone(struct worker *w)
{
    struct shared *s = any_snapshot(w);
    kinds now;
    read_lock(s);
    memsnap_snapshot *t = snap_clone(s->s);
    memcpy(now, s->now, sizeof now);
    unlock(s);
    share_snapshot(w, t, now);
    put(w, s);
}

static void do_read(struct worker *w)
{
    struct shared *s = any_snapshot(w);
    read_lock(s);
    check_snapshot(s->s, s->now);
    unlock(s);
    put(w, s);
}

static void do_save(struct worker *w)
{
    struct shared *s = any_snapshot(w);
    memsnap_snapshot *t = NULL;
    kinds now;
    const unsigned flags = config.flags ? config.flags : below(w, 2) ? MEMSNAP_FILE_MAP : 0;
    read_lock(s);
    assert_ok(memsnap_snapshot_save(s->s, w->path, MEMSNAP_SAVE_NOSYNC));
    memcpy(now, s->now, sizeof now);
    unlock(s);
    assert_ok(memsnap_snapshot_new_from_file(w->path, flags, &t));
    share_snapshot(w, t, now);
    put(w, s);
}

static void do_delta(struct worker *w)
{
    struct shared *a = any_snapshot(w), *b = any_snapshot(w);
    memsnap_snapshot *t = NULL;
    kinds now;
    lock_two(a, false, b);
    assert_ok(memsnap_snapshot_save_delta(a->s, b->s, w->path, MEMSNAP_SAVE_NOSYNC));
    assert_ok(memsnap_snapshot_load_delta(b->s, w->path, 0, &t));
    memcpy(now, a->now, sizeof now);
    unlock_two(a, b);
    share_snapshot(w, t, now);
    put(w, a);
    put(w, b);
}

static void do_export(struct worker *w)
{
    struct shared *s = any_snapshot(w);
    memsnap_snapshot *t = NULL;
    kinds now;
    int fd = -1;
    read_lock(s);
    int r = memsnap_snapshot_export_fd(s->s, &fd);
    memcpy(now, s->now, sizeof now);
    unlock(s);
    put(w, s);
    if (r == -ENOTSUP)
        return;
    assert_ok(r);
    assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &t));
    close(fd);
    share_snapshot(w, t, now);
}

static void do_recycling(struct worker *w)
{
    struct shared *s = any_snapshot(w);
    assert_ok(memsnap_snapshot_set_recycling(s->s, (unsigned)below(w, 5)));
    put(w, s);
}

static void do_statistics(struct worker *w)
{
    struct shared *s = any_snapshot(w), *x = any_view(w);
    g_assert_cmpuint(snap_stats(s->s).exclusive_bytes, <=, snap_stats(s->s).stored_bytes + size);
    g_assert_nonnull(view_stats(x->v).dirty_source);
    put(w, s);
    put(w, x);
}

static void do_references(struct worker *w)
{
    struct shared *s = any_snapshot(w), *x = any_view(w);
    for (int i = 0; i < 8; i++) {
        memsnap_snapshot *again = memsnap_snapshot_ref(s->s);
        memsnap_view *too = memsnap_view_ref(x->v);
        g_assert_cmpuint(memsnap_snapshot_size(again), ==, memsnap_view_size(too));
        memsnap_snapshot_unref(again);
        memsnap_view_unref(too);
    }
    put(w, s);
    put(w, x);
}

/* ---- the mutable view ------------------------------------------------------------------------ */

static void roll_back(struct worker *w, struct shared *s, memsnap_view *m)
{
    struct shared *other = any_snapshot(w);
    lock_two(s, true, other);
    assert_ok(memsnap_view_restore_to(m, other->s));
    memcpy(s->now, other->now, sizeof s->now);
    unlock_two(s, other);
    put(w, other);
}

static void use_lease(struct worker *w, struct shared *s, memsnap_view *m)
{
    switch (below(w, 6)) {
    case 0:
        take_from(w, s, m);
        break;
    case 1:
        roll_back(w, s, m);
        break;
    default:
        write_lock(s);
        store(w, m, s->now);
        unlock(s);
        break;
    }
    read_lock(s); /* others may look, but only we store */
    check_view(m, s->now);
    unlock(s);
}

static void do_lease(struct worker *w)
{
    struct shared *s = any_snapshot(w);
    memsnap_view *m = NULL;
    read_lock(s);
    int r = memsnap_snapshot_view_mut(s->s, 0, &m);
    unlock(s);
    g_assert_true(r == 0 || r == -EBUSY);
    if (m) {
        for (size_t n = below(w, 8) + 1; n > 0; n--)
            use_lease(w, s, m);
        drop(NULL, m, below(w, BIN));
    }
    put(w, s);
}

/* ---- the run --------------------------------------------------------------------------------- */

static const struct {
    void (*run)(struct worker *);
    unsigned weight;
} operations[] = {
    {do_open, 6},       {do_store, 8},      {do_look, 3},  {do_take, 6},   {do_restore, 3},
    {do_restore_to, 3}, {do_protect, 1},    {do_dirty, 3}, {do_diff, 3},   {do_clone, 2},
    {do_read, 2},       {do_save, 1},       {do_delta, 1}, {do_export, 2}, {do_recycling, 1},
    {do_statistics, 1}, {do_references, 1}, {do_lease, 5},
};

static void *work(void *arg)
{
    struct worker *w = arg;
    unsigned all = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(operations); i++)
        all += operations[i].weight;
    for (unsigned long n = 0; n < rounds; n++) {
        size_t at = below(w, all), i = 0;
        while (at >= operations[i].weight)
            at -= operations[i++].weight;
        operations[i].run(w);
    }
    return NULL;
}

static void set_up(struct rng *rng)
{
    for (size_t i = 0; i < SNAPSHOTS; i++) {
        unsigned char *data = g_malloc(size);
        kinds now = {0};
        for (size_t p = 0; p < pages; p++) {
            now[p] = (unsigned char)rng_below(rng, KINDS);
            fill_page(data + p * page, p, now[p]);
        }
        table.snapshots[i] =
            shared_new(i ? snap(data, size) : snap_zero(size), NULL, i ? now : (kinds){0});
        g_free(data);
    }
    for (size_t i = 0; i < VIEWS; i++) {
        struct shared *s = table.snapshots[i % SNAPSHOTS];
        table.views[i] = shared_new(NULL, view(s->s), s->now);
    }
}

static void empty_bin(void)
{
    for (size_t i = 0; i < BIN; i++) {
        table.old_snapshots[i] = memsnap_snapshot_unref(table.old_snapshots[i]);
        table.old_views[i] = memsnap_view_unref(table.old_views[i]);
    }
}

static void check_and_tear_down(struct worker *w)
{
    for (size_t i = 0; i < SNAPSHOTS; i++) {
        check_snapshot(table.snapshots[i]->s, table.snapshots[i]->now);
        put(w, table.snapshots[i]);
    }
    for (size_t i = 0; i < VIEWS; i++) {
        check_view(table.views[i]->v, table.views[i]->now);
        put(w, table.views[i]);
    }
    empty_bin();
}

static void test_everything(void)
{
    struct worker w[THREADS];
    struct rng rng = {(uint64_t)g_test_rand_int()};
    size_t fds = descriptors(), stored = object_bytes();
    set_up(&rng);
    for (size_t i = 0; i < THREADS; i++) {
        char name[16];
        snprintf(name, sizeof name, "file-%zu", i);
        w[i] = (struct worker){.rng = {rng_next(&rng)}, .path = temp_path(name)};
    }
    for (size_t i = 0; i < THREADS; i++)
        g_assert_cmpint(pthread_create(&w[i].thread, NULL, work, &w[i]), ==, 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
    check_and_tear_down(&w[0]);
    for (size_t i = 0; i < THREADS; i++)
        g_free(w[i].path);
    g_assert_cmpuint(descriptors(), ==, fds);
    g_assert_cmpuint(object_bytes(), ==, stored);
}

int main(int argc, char **argv)
{
    if (on_valgrind())
        rounds = 40;
    rounds = test_number(&argc, argv, "--rounds", rounds);
    test_init(&argc, &argv);
    /* more than an image that is kept in heap memory for being tiny */
    pages = on_valgrind() ? 20 : MAX_PAGES;
    size = pages * page - 104;
    test_add("everything", test_everything, TEST_PLAIN);
    return g_test_run();
}
