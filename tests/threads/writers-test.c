/* SPDX-License-Identifier: MIT */
/* Writers that take no lock: 1 to 16 threads store to a view while images of it are made.
 *
 *     writers-test [--rounds N] [-p /linux/best/atomic]
 *
 * N images per test. The stores are atomic, which ThreadSanitizer accepts. That the library
 * copies meanwhile is a race on purpose, which helgrind and DRD would have to be told of each
 * time a mapping is exchanged. */
#include "config.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "support/support.h"

enum { MAX_WRITERS = 16, PAGES = 24, FIRST = 0, COPY, LAST, WORDS };

static unsigned long rounds = 200;

/* Writer i counts: it stores n to its first word, then the last word of its neighbour to its
 * copy, then n to its last word; each word on a page of its own. So in any single instant
 *     first == last or first == last + 1      (two counters)
 *     copy <= the neighbour's last            (a cause comes before its effect)
 * and the words never go back. */
typedef atomic_size_t word;

struct cut {
    size_t words[MAX_WRITERS][WORDS];
};

struct writer {
    pthread_t thread;
    unsigned number;
    struct writers *all;
    size_t stored; /* to be read after the join */
};

struct writers {
    memsnap_view *v;
    unsigned n;
    size_t places; /* where the words are, for all writers */
    atomic_uint started;
    atomic_bool stop;
    struct writer w[MAX_WRITERS];
};

/* ---- writing --------------------------------------------------------------------------------- */

static size_t offset_of(const struct writers *all, unsigned writer, unsigned which)
{
    size_t p = (all->places + 5 * writer + (7 + all->places % 9) * which) % PAGES;
    return p * page + (which * MAX_WRITERS + writer) * sizeof(word);
}

static word *word_of(const struct writers *all, unsigned writer, unsigned which)
{
    return (word *)(void *)(bytes(all->v) + offset_of(all, writer, which));
}

static void *count_up(void *arg)
{
    struct writer *w = arg;
    struct writers *all = w->all;
    word *first = word_of(all, w->number, FIRST), *copy = word_of(all, w->number, COPY),
         *last = word_of(all, w->number, LAST);
    word *cause = word_of(all, (w->number + 1) % all->n, LAST);
    size_t n = 0;
    while (!atomic_load_explicit(&all->stop, memory_order_relaxed)) {
        n++;
        atomic_store_explicit(first, n, memory_order_release);
        atomic_store_explicit(copy, atomic_load_explicit(cause, memory_order_acquire),
                              memory_order_release);
        atomic_store_explicit(last, n, memory_order_release);
        if (n == 1)
            atomic_fetch_add(&all->started, 1);
        if (n % 64 == 0)
            sched_yield(); /* there may be more writers than processors */
    }
    w->stored = n;
    return NULL;
}

/* Returns when each of them has stored. */
static void writers_start(struct writers *all, memsnap_view *v, unsigned n, struct rng *rng)
{
    *all = (struct writers){.v = v, .n = n, .places = rng_below(rng, 1000)};
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < WORDS; k++)
            atomic_store(word_of(all, i, k), 0);
    for (unsigned i = 0; i < n; i++) {
        all->w[i].number = i;
        all->w[i].all = all;
        g_assert_cmpint(pthread_create(&all->w[i].thread, NULL, count_up, &all->w[i]), ==, 0);
    }
    while (atomic_load(&all->started) < n)
        sched_yield();
}

static void writers_stop(struct writers *all)
{
    atomic_store(&all->stop, true);
    for (unsigned i = 0; i < all->n; i++)
        pthread_join(all->w[i].thread, NULL);
}

/* ---- checking -------------------------------------------------------------------------------- */

static void read_words(const struct writers *all, memsnap_snapshot *t, struct cut *c)
{
    static unsigned char copy[PAGES * 65536];
    assert_ok(memsnap_snapshot_read(t, 0, copy, PAGES * page));
    for (unsigned i = 0; i < all->n; i++)
        for (unsigned k = 0; k < WORDS; k++)
            memcpy(&c->words[i][k], copy + offset_of(all, i, k), sizeof c->words[i][k]);
}

static void look_at_words(const struct writers *all, struct cut *c)
{
    for (unsigned i = 0; i < all->n; i++)
        for (unsigned k = 0; k < WORDS; k++)
            c->words[i][k] = atomic_load_explicit(word_of(all, i, k), memory_order_acquire);
}

/* No word of the later one is older. */
static void check_order(const struct writers *all, const struct cut *earlier,
                        const struct cut *later)
{
    for (unsigned i = 0; i < all->n; i++)
        for (unsigned k = 0; k < WORDS; k++)
            g_assert_cmpuint(earlier->words[i][k], <=, later->words[i][k]);
}

static void check_instant(const struct writers *all, const struct cut *c)
{
    for (unsigned i = 0; i < all->n; i++) {
        const size_t *w = c->words[i];
        g_assert_cmpuint(w[FIRST] - w[LAST], <=, 1);
        g_assert_cmpuint(w[COPY], <=, c->words[(i + 1) % all->n][LAST]);
    }
}

typedef memsnap_snapshot *(*cutter)(memsnap_snapshot *s, memsnap_view *v);

/* The image has all stores made before the call and none made after it. */
static void cut_and_check(const struct writers *all, memsnap_snapshot *s, cutter cut, bool instant)
{
    struct cut before, image, after;
    look_at_words(all, &before);
    memsnap_snapshot *t = cut(s, all->v);
    look_at_words(all, &after);
    read_words(all, t, &image);
    memsnap_snapshot_unref(t);
    check_order(all, &before, &image);
    check_order(all, &image, &after);
    if (instant)
        check_instant(all, &image);
}

/* Every writer's last store is in the view, and in what the view is of. */
static void check_last_stores(const struct writers *all, memsnap_snapshot *s)
{
    struct cut c;
    read_words(all, s, &c);
    for (unsigned i = 0; i < all->n; i++) {
        g_assert_cmpuint(c.words[i][FIRST], ==, all->w[i].stored);
        g_assert_cmpuint(c.words[i][LAST], ==, all->w[i].stored);
    }
}

static void stop_and_check(struct writers *all)
{
    struct cut c;
    writers_stop(all);
    look_at_words(all, &c);
    for (unsigned i = 0; i < all->n; i++) {
        g_assert_cmpuint(c.words[i][FIRST], ==, all->w[i].stored);
        g_assert_cmpuint(c.words[i][LAST], ==, all->w[i].stored);
    }
}

/* ---- ways to make an image ------------------------------------------------------------------- */

static memsnap_snapshot *by_take(memsnap_snapshot *s, memsnap_view *v)
{
    (void)s;
    return take(v);
}

static memsnap_snapshot *by_atomic_take(memsnap_snapshot *s, memsnap_view *v)
{
    memsnap_snapshot *t = NULL;
    (void)s;
    assert_ok(memsnap_view_take_snapshot(v, MEMSNAP_TAKE_ATOMIC, &t));
    return t;
}

static memsnap_snapshot *by_clone(memsnap_snapshot *s, memsnap_view *v)
{
    (void)v;
    return snap_clone(s);
}

static memsnap_snapshot *by_view(memsnap_snapshot *s, memsnap_view *v)
{
    (void)v;
    memsnap_view *w = view(s);
    memsnap_snapshot *t = take(w);
    memsnap_view_unref(w);
    return t;
}

static memsnap_snapshot *by_restore_to(memsnap_snapshot *s, memsnap_view *v)
{
    memsnap_snapshot *other = snap_zero(memsnap_view_size(v));
    memsnap_view *w = view(other);
    assert_ok(memsnap_view_restore_to(w, s));
    memsnap_snapshot *t = take(w);
    memsnap_view_unref(w);
    memsnap_snapshot_unref(other);
    return t;
}

static const cutter of_snapshot[] = {by_take, by_clone, by_view, by_restore_to, by_atomic_take};

/* ---- the tests ------------------------------------------------------------------------------- */

static unsigned writers_for(unsigned long i)
{
    return (unsigned)(i * 7 % MAX_WRITERS) + 1;
}

/* The first cut of a mutable view is one instant without being asked to, on each lease anew:
 * pages that nobody else shares become the writer's own again. */
static void test_direct(void)
{
    const size_t sizes[] = {PAGES * page, 2 * MIB + 5};
    struct rng rng = {(uint64_t)g_test_rand_int()};
    if (config_is("heap")) {
        test_skip("heap pages are not mapped");
        return;
    }
    for (size_t k = 0; k < G_N_ELEMENTS(sizes); k++) {
        memsnap_snapshot *s = snap_pattern(sizes[k], k);
        for (unsigned long i = 0; i < rounds / G_N_ELEMENTS(sizes); i++) {
            struct writers all;
            memsnap_view *m = i & 2 ? view_mut_tracked(s) : view_mut(s);
            cutter cut = of_snapshot[rng_below(&rng, G_N_ELEMENTS(of_snapshot))];
            writers_start(&all, m, writers_for(i), &rng);
            cut_and_check(&all, s, cut, true);
            stop_and_check(&all);
            if (i & 1)
                check_last_stores(&all, s);
            memsnap_view_unref(m);
            check_last_stores(&all, s);
        }
        memsnap_snapshot_unref(s);
    }
}

static bool no_atomic_cuts(memsnap_view *v)
{
    memsnap_snapshot *t = NULL;
    int r = memsnap_view_take_snapshot(v, MEMSNAP_TAKE_ATOMIC, &t);
    g_assert_true(r == 0 || r == -ENOTSUP);
    memsnap_snapshot_unref(t);
    if (r < 0)
        test_skip("no cut of one instant can be had here");
    return r < 0;
}

/* Cuts of one instant, and now and then one that need not be, from which the next one goes on. */
static void cut_often(memsnap_snapshot *s, memsnap_view *v, unsigned n, unsigned long cuts,
                      struct rng *rng)
{
    struct writers all;
    writers_start(&all, v, n, rng);
    for (unsigned long i = 0; i < cuts; i++) {
        if (i % 4 == 3)
            cut_and_check(&all, s, memsnap_view_is_mutable(v) ? of_snapshot[i / 4 % 4] : by_take,
                          false);
        cut_and_check(&all, s, by_atomic_take, true);
    }
    stop_and_check(&all);
    if (memsnap_view_is_mutable(v))
        check_last_stores(&all, s);
}

static void test_atomic(void)
{
    static const unsigned writers[] = {1, 2, 3, 5, 8, 16};
    const size_t sizes[] = {PAGES * page, 2 * MIB + 5};
    struct rng rng = {(uint64_t)g_test_rand_int()};
    const unsigned long series = 2 * G_N_ELEMENTS(sizes) * G_N_ELEMENTS(writers);
    for (unsigned long i = 0; i < series; i++) {
        memsnap_snapshot *s = snap_pattern(sizes[i / 2 % 2], i);
        memsnap_view *v = !(i & 1) ? view(s) : i & 4 ? view_mut_tracked(s) : view_mut(s);
        memsnap_snapshot_unref(take(v)); /* a mutable view leaves the direct state */
        bool none = no_atomic_cuts(v);
        if (!none)
            cut_often(s, v, writers[i / 4], rounds / series + 1, &rng);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(s);
        if (none)
            return;
    }
}

struct helper {
    pthread_t thread;
    memsnap_snapshot *s;
    memsnap_view *m;
    atomic_bool stop;
};

static void *make_images(void *arg)
{
    struct helper *h = arg;
    for (size_t i = 0; !atomic_load(&h->stop); i++) {
        memsnap_snapshot_unref(of_snapshot[i % 4](h->s, h->m));
        sched_yield();
    }
    return NULL;
}

static void race(memsnap_snapshot *s, memsnap_view *m, unsigned n, unsigned long images,
                 struct rng *rng)
{
    struct writers all;
    struct helper h = {.s = s, .m = m};
    writers_start(&all, h.m, n, rng);
    g_assert_cmpint(pthread_create(&h.thread, NULL, make_images, &h), ==, 0);
    for (unsigned long i = 0; i < images; i++)
        cut_and_check(&all, s, of_snapshot[i % 4], false);
    stop_and_check(&all);
    atomic_store(&h.stop, true);
    pthread_join(h.thread, NULL);
    check_last_stores(&all, s);
    memsnap_view_unref(h.m);
    check_last_stores(&all, s);
}

/* Whatever is asked of the snapshot meanwhile, by two threads: no store is lost, lease after
 * lease. */
static void test_no_store_is_lost(void)
{
    const size_t sizes[] = {PAGES * page, 2 * MIB + page};
    enum { LEASES = 6 };
    struct rng rng = {(uint64_t)g_test_rand_int()};
    for (size_t k = 0; k < G_N_ELEMENTS(sizes); k++) {
        memsnap_snapshot *s = snap_pattern(sizes[k], k);
        for (unsigned long lease = 0; lease < LEASES; lease++)
            race(s, lease & 1 ? view_mut_tracked(s) : view_mut(s), writers_for(lease),
                 rounds / (G_N_ELEMENTS(sizes) * LEASES) + 1, &rng);
        memsnap_snapshot_unref(s);
    }
}

/* ---- thawing --------------------------------------------------------------------------------- */

/* Storer i's n-th store puts n into its word n mod SLOTS, together with how many stores of its
 * neighbour had been made by then. So an image of one instant holds an exact prefix of each
 * storer's stores, and of its neighbour's no fewer than it had seen. */
enum { SLOTS = 61 };

struct storers;

struct storer {
    pthread_t thread;
    unsigned number;
    struct storers *all;
    atomic_uint_fast32_t stored;
};

struct storers {
    memsnap_view *v;
    unsigned n;
    size_t stride; /* bytes between the words of a storer */
    atomic_bool stop;
    struct storer w[MAX_WRITERS];
};

static size_t slot_offset(const struct storers *all, unsigned storer, size_t slot)
{
    return slot * all->stride + storer * sizeof(word);
}

static void *store_on(void *arg)
{
    struct storer *w = arg;
    struct storers *all = w->all;
    struct storer *neighbour = &all->w[(w->number + 1) % all->n];
    for (uint32_t n = 1; !atomic_load_explicit(&all->stop, memory_order_relaxed); n++) {
        uint64_t seen = atomic_load_explicit(&neighbour->stored, memory_order_acquire);
        word *at = (word *)(void *)(bytes(all->v) + slot_offset(all, w->number, n % SLOTS));
        atomic_store_explicit(at, seen << 32 | n, memory_order_release);
        atomic_store_explicit(&w->stored, n, memory_order_release);
        if (n % 64 == 0)
            sched_yield();
    }
    return NULL;
}

static void storers_start(struct storers *all, memsnap_view *v, unsigned n)
{
    *all = (struct storers){.v = v, .n = n};
    all->stride = (memsnap_view_size(v) - MAX_WRITERS * sizeof(word)) / SLOTS & ~(sizeof(word) - 1);
    for (unsigned i = 0; i < n; i++) {
        for (size_t k = 0; k < SLOTS; k++)
            atomic_store((word *)(void *)(bytes(v) + slot_offset(all, i, k)), 0);
        all->w[i].number = i;
        all->w[i].all = all;
    }
    for (unsigned i = 0; i < n; i++)
        g_assert_cmpint(pthread_create(&all->w[i].thread, NULL, store_on, &all->w[i]), ==, 0);
}

static void storers_stop(struct storers *all)
{
    atomic_store(&all->stop, true);
    for (unsigned i = 0; i < all->n; i++)
        pthread_join(all->w[i].thread, NULL);
}

/* What slot k holds when n stores have been made. */
static uint32_t last_in_slot(uint32_t n, size_t k)
{
    uint32_t m = n - (n % SLOTS + SLOTS - (uint32_t)k) % SLOTS;
    return m > n ? 0 : m;
}

struct stores {
    uint32_t n[MAX_WRITERS];
};

static void look_at_stores(struct storers *all, struct stores *p)
{
    for (unsigned i = 0; i < all->n; i++)
        p->n[i] = (uint32_t)atomic_load_explicit(&all->w[i].stored, memory_order_acquire);
}

/* The slots of a storer are those of n stores, exactly; instant: for one n. Else no slot is older
 * than `before` nor newer than `after`, which may be one store behind. */
static void check_storer(const uint64_t *slots, bool instant, uint32_t before, uint32_t after)
{
    uint32_t n = 0;
    for (size_t k = 0; k < SLOTS; k++)
        n = n > (uint32_t)slots[k] ? n : (uint32_t)slots[k];
    g_assert_cmpuint(n, >=, before);
    g_assert_cmpuint(n, <=, after + 1);
    for (size_t k = 0; k < SLOTS; k++) {
        if (instant)
            g_assert_cmpuint((uint32_t)slots[k], ==, last_in_slot(n, k));
        else
            g_assert_cmpuint((uint32_t)slots[k], >=, last_in_slot(before, k));
    }
}

static void check_image(const struct storers *all, memsnap_snapshot *t, bool instant,
                        const struct stores *before, const struct stores *after)
{
    static uint64_t slots[MAX_WRITERS][SLOTS];
    uint32_t n[MAX_WRITERS] = {0}, seen[MAX_WRITERS] = {0};
    for (unsigned i = 0; i < all->n; i++) {
        for (size_t k = 0; k < SLOTS; k++) {
            assert_ok(memsnap_snapshot_read(t, slot_offset(all, i, k), &slots[i][k], 8));
            n[i] = MAX(n[i], (uint32_t)slots[i][k]);
            seen[i] = MAX(seen[i], (uint32_t)(slots[i][k] >> 32));
        }
        check_storer(slots[i], instant, before->n[i], after->n[i]);
    }
    for (unsigned i = 0; instant && i < all->n; i++)
        g_assert_cmpuint(seen[i], <=, n[(i + 1) % all->n]);
}

/* Any kind of image. A plain one is of one instant if the writer is direct. */
static void cut_stores(struct storers *all, memsnap_snapshot *s, bool direct, size_t kind)
{
    struct stores before, after;
    look_at_stores(all, &before);
    memsnap_snapshot *t = of_snapshot[kind](s, all->v);
    look_at_stores(all, &after);
    check_image(all, t, direct || of_snapshot[kind] == by_atomic_take, &before, &after);
    memsnap_snapshot_unref(t);
}

static unsigned long thaw_steps;

/* Some steps: whether the writer is direct now. */
static bool thaw_some(struct storers *all, struct rng *rng)
{
    size_t max = rng_below(rng, 3) ? rng_below(rng, 4 * MIB) + 1 : SIZE_MAX;
    int e = memsnap_view_thaw(all->v, MEMSNAP_THAW_LIVE, max);
    g_assert_true(e == 0 || e == 1);
    thaw_steps++;
    return e == 0;
}

static void cut_and_thaw(memsnap_snapshot *s, memsnap_view *m, unsigned n, unsigned long times,
                         struct rng *rng)
{
    struct storers all;
    bool direct = false;
    storers_start(&all, m, n);
    for (unsigned long i = 0; i < times; i++) {
        if (rng_below(rng, 3) == 0) {
            cut_stores(&all, s, direct, rng_below(rng, G_N_ELEMENTS(of_snapshot)));
            direct = false;
        }
        direct = thaw_some(&all, rng);
    }
    storers_stop(&all);
    struct stores end;
    look_at_stores(&all, &end);
    check_image(&all, s, true, &end, &end);
    memsnap_snapshot *t = take(m);
    check_image(&all, t, true, &end, &end);
    memsnap_snapshot_unref(t);
}

static bool cannot_thaw(void)
{
    memsnap_snapshot *s = snap_zero(page);
    memsnap_view *m = view_mut(s);
    memsnap_snapshot_unref(take(m));
    int e = memsnap_view_thaw(m, MEMSNAP_THAW_LIVE, 1);
    g_assert_true(e == 0 || e == -ENOTSUP);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    if (e < 0)
        test_skip("nothing can be thawed while threads store");
    return e < 0;
}

/* No store is lost, and what is cut in the middle of it is what it should be. */
static void test_thaw(void)
{
    static const unsigned writers[] = {1, 2, 3, 5, 16};
    const size_t sizes[] = {PAGES * page, 2 * MIB + 5 * page, 6 * MIB + 9};
    const unsigned long series = G_N_ELEMENTS(sizes) * G_N_ELEMENTS(writers);
    struct rng rng = {(uint64_t)g_test_rand_int()};
    if (cannot_thaw())
        return;
    for (unsigned long i = 0; i < series; i++) {
        memsnap_snapshot *s = snap_pattern(sizes[i % G_N_ELEMENTS(sizes)], i);
        memsnap_view *m = i & 1 ? view_mut_tracked(s) : view_mut(s);
        cut_and_thaw(s, m, writers[i / G_N_ELEMENTS(sizes)], 3 * rounds / series + 1, &rng);
        memsnap_view_unref(m);
        memsnap_snapshot_unref(s);
    }
    g_test_message("%lu thaws", thaw_steps);
}

/* Another thread makes images all the time, which keeps the view from being thawed, or comes in
 * between. */
static void test_thaw_beside_others(void)
{
    struct rng rng = {(uint64_t)g_test_rand_int()};
    if (cannot_thaw())
        return;
    memsnap_snapshot *s = snap_pattern(6 * MIB + 9, 1);
    struct helper h = {.s = s, .m = view_mut(s)};
    struct storers all;
    struct stores end;
    storers_start(&all, h.m, 3);
    g_assert_cmpint(pthread_create(&h.thread, NULL, make_images, &h), ==, 0);
    for (unsigned long i = 0; i < rounds; i++) {
        int e = memsnap_view_thaw(h.m, MEMSNAP_THAW_LIVE, rng_below(&rng, 8 * MIB) + 1);
        g_assert_true(e == 0 || e == 1 || e == -EBUSY);
        if (i % 4 == 0)
            cut_stores(&all, s, false, rng_below(&rng, G_N_ELEMENTS(of_snapshot)));
    }
    storers_stop(&all);
    atomic_store(&h.stop, true);
    pthread_join(h.thread, NULL);
    look_at_stores(&all, &end);
    check_image(&all, s, true, &end, &end);
    memsnap_view_unref(h.m);
    check_image(&all, s, true, &end, &end);
    memsnap_snapshot_unref(s);
}

/* Where no byte can change threads store on. */
static void test_to_itself(void)
{
    struct rng rng = {(uint64_t)g_test_rand_int()};
    memsnap_snapshot *s = snap_pattern(PAGES * page, 1);
    for (unsigned long i = 0; i < 6; i++) {
        struct writers all;
        memsnap_view *m = view_mut(s);
        if (i & 1)
            memsnap_snapshot_unref(take(m));
        writers_start(&all, m, writers_for(i), &rng);
        for (unsigned long k = 0; k < rounds / 6 + 1; k++) {
            assert_ok(memsnap_view_restore_to(m, s));
            assert_ok(memsnap_view_restore(m));
        }
        stop_and_check(&all);
        check_last_stores(&all, s);
        memsnap_view_unref(m);
        check_last_stores(&all, s);
    }
    memsnap_snapshot_unref(s);
}

/* ---- who waits ------------------------------------------------------------------------------- */

/* A take that stands still in the middle of its copying until it is let go. */
static struct {
    struct os os; /* the backend's, but for writing */
    const struct os *inner;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool armed, inside, go;
} halt = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void halt_here(void)
{
    pthread_mutex_lock(&halt.lock);
    if (halt.armed) {
        halt.inside = true;
        pthread_cond_broadcast(&halt.changed);
        while (!halt.go)
            pthread_cond_wait(&halt.changed, &halt.lock);
    }
    pthread_mutex_unlock(&halt.lock);
}

static void halt_until_inside(void)
{
    pthread_mutex_lock(&halt.lock);
    while (!halt.inside)
        pthread_cond_wait(&halt.changed, &halt.lock);
    halt.armed = false;
    pthread_mutex_unlock(&halt.lock);
}

static void halt_let_go(void)
{
    pthread_mutex_lock(&halt.lock);
    halt.go = true;
    pthread_cond_broadcast(&halt.changed);
    pthread_mutex_unlock(&halt.lock);
}

static int read_after_halt(const struct os_object *o, const struct os_iov *v, size_t n,
                           uint64_t offset)
{
    halt_here();
    return halt.inner->object_read(o, v, n, offset);
}

static int write_after_halt(const struct os_object *o, const struct os_iov *v, size_t n,
                            uint64_t offset)
{
    halt_here();
    return halt.inner->object_write(o, v, n, offset);
}

static void halt_arm(void)
{
    halt.inner = ms_os;
    halt.os = *ms_os;
    halt.os.object_write = write_after_halt;
    halt.os.object_read = read_after_halt;
    halt.armed = true;
    halt.inside = halt.go = false;
    ms_os = &halt.os;
}

static void *take_one(void *arg)
{
    return take(arg);
}

/* Another thread's take is in the middle: small reads, large ones and statistics are answered. */
static void test_readers_do_not_wait(void)
{
    const size_t size = 64 * page + 9;
    if (config_is("heap")) {
        test_skip("what is taken is not written to an object");
        return;
    }
    unsigned char *model = pattern(size, 1), *copy = g_malloc(size);
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *m = view_mut(s);
    memsnap_snapshot_unref(take(m)); /* not direct any more */
    fill(model, size, 2);
    memcpy(bytes(m), model, size);
    halt_arm();
    pthread_t taker;
    void *taken;
    g_assert_cmpint(pthread_create(&taker, NULL, take_one, m), ==, 0);
    halt_until_inside();
    assert_ok(memsnap_snapshot_read(s, 3 * page + 1, copy, 100)); /* would wait for ever */
    assert_same(copy, model + 3 * page + 1, 100);
    assert_ok(memsnap_snapshot_read(s, 0, copy, size));
    assert_same(copy, model, size);
    g_assert_cmpuint(memsnap_snapshot_size(s), ==, size);
    g_assert_cmpuint(snap_stats(s).stored_bytes, >=, size);
    halt_let_go();
    pthread_join(taker, &taken);
    ms_os = halt.inner;
    assert_content(taken, model, size);
    memsnap_snapshot_unref(taken);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_free(model);
    g_free(copy);
}

struct self_reader {
    memsnap_snapshot *s;
    memsnap_view *m;
};

static void *read_into_view(void *arg)
{
    struct self_reader *r = arg;
    assert_ok(memsnap_snapshot_read(r->s, 0, bytes(r->m) + 5 * page, 100));
    return NULL;
}

static void *take_at_once(void *arg)
{
    return by_atomic_take(NULL, arg);
}

/* A read into the view that is being taken waits for the take, which does not wait for the read. */
static void test_read_into_view(void)
{
    const size_t size = 64 * page;
    unsigned char *model = pattern(size, 1);
    memsnap_snapshot *s = snap(model, size);
    struct self_reader r = {s, view_mut(s)};
    memsnap_snapshot_unref(take(r.m)); /* not direct any more */
    bytes(r.m)[size - 1] = model[size - 1] = 9;
    if (config_is("heap") || no_atomic_cuts(r.m)) {
        test_skip("no take can be stopped half way here");
    } else {
        pthread_t taker, reader;
        void *taken;
        bytes(r.m)[size - 1] = model[size - 1] = 10;
        halt_arm();
        g_assert_cmpint(pthread_create(&taker, NULL, take_at_once, r.m), ==, 0);
        halt_until_inside();
        g_assert_cmpint(pthread_create(&reader, NULL, read_into_view, &r), ==, 0);
        g_usleep(20000); /* it should be waiting by now; if not, nothing is tested */
        halt_let_go();
        pthread_join(taker, &taken); /* would never end */
        pthread_join(reader, NULL);
        ms_os = halt.inner;
        assert_content(taken, model, size);
        memsnap_snapshot_unref(taken);
        memcpy(model + 5 * page, model, 100);
        assert_same(bytes(r.m), model, size);
    }
    memsnap_view_unref(r.m);
    memsnap_snapshot_unref(s);
    g_free(model);
}

enum { LONG = 40 }; /* pages */

static void *make_one(void *arg)
{
    memsnap_snapshot_unref(snap(arg, LONG * page));
    return NULL;
}

static void *read_all(void *arg)
{
    unsigned char *copy = g_malloc(LONG * page);
    assert_ok(memsnap_snapshot_read(arg, 0, copy, LONG * page));
    g_free(copy);
    return NULL;
}

static void *compare_all(void *arg)
{
    memsnap_snapshot *zero = snap_zero(LONG * page);
    struct memsnap_range r;
    size_t cursor = 0;
    g_assert_cmpint(memsnap_snapshot_diff(arg, zero, &cursor, &r, 1), ==, 1);
    memsnap_snapshot_unref(zero);
    return NULL;
}

static void do_nothing(void *arg)
{
    (void)arg;
}

static void fork_during(void *(*call)(void *), void *arg)
{
    pthread_t thread;
    halt_arm();
    g_assert_cmpint(pthread_create(&thread, NULL, call, arg), ==, 0);
    halt_until_inside();
    child_run(do_nothing, NULL); /* would wait for ever */
    halt_let_go();
    pthread_join(thread, NULL);
    ms_os = halt.inner;
}

/* Another thread's call is in the middle of copying: fork goes on. */
static void test_fork_does_not_wait(void)
{
    memsnap_snapshot *mapped = NULL, *shared = NULL;
    if (config_is("heap")) {
        test_skip("nothing is copied to or from an object");
        return;
    }
    unsigned char *data = pattern(LONG * page, 1);
    char *path = temp_file("long", data, LONG * page);
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_MAP, &mapped));
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_SHARED, &shared));
    fork_during(make_one, data);
    fork_during(read_all, mapped); /* files have no window: their bytes are read */
    fork_during(read_all, shared);
    fork_during(compare_all, mapped);
    memsnap_snapshot_unref(mapped);
    memsnap_snapshot_unref(shared);
    g_free(path);
    g_free(data);
}

int main(int argc, char **argv)
{
    rounds = test_number(&argc, argv, "--rounds", rounds);
    test_init(&argc, &argv);
    test_add("direct", test_direct, TEST_PLAIN);
    test_add("atomic", test_atomic, TEST_PLAIN);
    test_add("no-store-is-lost", test_no_store_is_lost, TEST_PLAIN);
    test_add("thaw", test_thaw, TEST_PLAIN);
    test_add("thaw-beside-others", test_thaw_beside_others, TEST_PLAIN);
    test_add("to-itself", test_to_itself, TEST_PLAIN);
    test_add("readers-do-not-wait", test_readers_do_not_wait, TEST_PLAIN);
    test_add("read-into-view", test_read_into_view, TEST_PLAIN);
    test_add("fork-does-not-wait", test_fork_does_not_wait, TEST_PLAIN);
    return g_test_run();
}
