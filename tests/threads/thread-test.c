/* SPDX-License-Identifier: MIT */
/* Threads that use the same snapshots, each with views of its own; handles that change hands;
 * and forks beside them.
 *
 *     thread-test [--rounds N] [-p /linux/best/...]
 *
 * Pthreads only: helgrind and DRD understand these. Threads that share views too are in
 * tests/threads/stress-test.c, writers that take no lock in tests/threads/writers-test.c. */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/support.h"

enum { THREADS = 8 };

static unsigned long rounds = 60;

struct worker {
    pthread_t thread;
    unsigned number;
    void *shared;
    bool ok;
};

/* Starts THREADS workers and waits for them; what goes wrong in one is said by its `ok`. */
static void run_workers(void *(*body)(void *), void *shared)
{
    struct worker w[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){.number = i, .shared = shared, .ok = true};
        g_assert_cmpint(pthread_create(&w[i].thread, NULL, body, &w[i]), ==, 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
    for (unsigned i = 0; i < THREADS; i++)
        g_assert_true(w[i].ok);
}

#define expect(w, condition)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (w)->ok = false;                                                                       \
            return NULL;                                                                           \
        }                                                                                          \
    } while (0)

/* ---- one snapshot, many users ---------------------------------------------------------------- */

struct common {
    memsnap_snapshot *s, *other;
    unsigned char *data, *other_data;
    size_t size;
};

/* Opens, changes, takes, restores, closes: all on objects of its own, over images of all. */
static void *use_own_views(void *arg)
{
    struct worker *w = arg;
    const struct common *c = w->shared;
    struct rng rng = {w->number};
    unsigned char *buf = malloc(c->size);
    expect(w, buf);
    for (unsigned long i = 0; i < rounds && w->ok; i++) {
        memsnap_view *v = NULL;
        memsnap_snapshot *t = NULL;
        expect(w, memsnap_snapshot_view(c->s, 0, &v) == 0);
        unsigned char *p = memsnap_view_data(v);
        expect(w, memcmp(p, c->data, c->size) == 0);
        size_t at = rng_below(&rng, c->size), cursor = 0;
        p[at] ^= 0x55;
        struct memsnap_range r;
        expect(w, memsnap_view_dirty(v, &cursor, &r, 1) == 1 && r.offset == at / page * page);
        expect(w, memsnap_view_take_snapshot(v, 0, &t) == 0);
        expect(w, memsnap_snapshot_read(t, 0, buf, c->size) == 0 && memcmp(buf, p, c->size) == 0);
        cursor = 0;
        expect(w,
               memsnap_snapshot_diff(c->s, t, &cursor, &r, 1) == 1 && r.offset == at / page * page);
        switch (i % 4) {
        case 0:
            expect(w, memsnap_view_restore(v) == 0 && memcmp(p, c->data, c->size) == 0);
            break;
        case 1:
            expect(w, memsnap_view_restore_to(v, c->other) == 0 &&
                          memcmp(p, c->other_data, c->size) == 0);
            break;
        case 2:
            expect(w, memsnap_view_protect(v, 0, page, MEMSNAP_ACCESS_NONE) == 0);
            break;
        default:
            break;
        }
        if (i % 16 == w->number)
            expect(w, memsnap_snapshot_set_recycling(c->s, (unsigned)(i % 5)) == 0);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(t);
    }
    free(buf);
    return NULL;
}

static void test_own_views(void)
{
    const size_t sizes[] = {3 * page + 5, 40 * page, 2 * MIB};
    for (size_t i = 0; i < (on_valgrind() ? 2 : G_N_ELEMENTS(sizes)); i++) {
        struct common c = {.size = sizes[i],
                           .data = pattern(sizes[i], 1),
                           .other_data = pattern(sizes[i], 2)};
        c.s = snap(c.data, c.size);
        c.other = snap(c.other_data, c.size);
        run_workers(use_own_views, &c);
        assert_content(c.s, c.data, c.size);
        assert_content(c.other, c.other_data, c.size);
        memsnap_snapshot_unref(c.s);
        memsnap_snapshot_unref(c.other);
        g_free(c.data);
        g_free(c.other_data);
    }
}

/* Handles are passed around: whoever has the last one frees, wherever. */
static void *pass_handles(void *arg)
{
    struct worker *w = arg;
    struct common *c = w->shared;
    for (unsigned long i = 0; i < rounds; i++) {
        memsnap_snapshot *s = memsnap_snapshot_ref(c->s), *t = NULL;
        memsnap_view *v = NULL;
        expect(w, memsnap_snapshot_view(s, 0, &v) == 0);
        memsnap_snapshot_unref(s);
        memsnap_view *again = memsnap_view_ref(v);
        memsnap_view_unref(v);
        expect(w, memsnap_snapshot_clone(c->s, &t) == 0);
        expect(w, memsnap_view_restore_to(again, t) == 0);
        memsnap_snapshot_unref(t);
        expect(w, memsnap_view_size(again) == c->size);
        memsnap_view_unref(again);
    }
    memsnap_snapshot_unref(c->s);
    return NULL;
}

static void test_pass_handles(void)
{
    struct common c = {.size = 20 * page, .data = pattern(20 * page, 1)};
    c.s = snap(c.data, c.size);
    for (int i = 1; i < THREADS; i++)
        memsnap_snapshot_ref(c.s);
    run_workers(pass_handles, &c);
    g_free(c.data);
}

/* Calls with two objects, from both sides: no order of locks may depend on who asks. */
static void *both_ways(void *arg)
{
    struct worker *w = arg;
    struct common *c = w->shared;
    memsnap_snapshot *a = w->number & 1 ? c->s : c->other, *b = w->number & 1 ? c->other : c->s;
    for (unsigned long i = 0; i < rounds; i++) {
        size_t cursor = 0;
        struct memsnap_range r;
        memsnap_view *v = NULL, *m = NULL;
        int e = memsnap_snapshot_view_mut(a, 0, &m);
        expect(w, e == 0 || e == -EBUSY);
        expect(w, memsnap_snapshot_diff(a, b, &cursor, &r, 1) >= 0);
        expect(w, memsnap_snapshot_view(a, 0, &v) == 0);
        expect(w, memsnap_view_restore_to(v, b) == 0);
        if (m)
            expect(w, memsnap_view_restore_to(m, b) == 0);
        memsnap_view_unref(m);
        memsnap_view_unref(v);
    }
    return NULL;
}

static void test_both_ways(void)
{
    struct common c = {.size = 20 * page};
    c.s = snap_pattern(c.size, 1);
    c.other = snap_pattern(c.size, 2);
    run_workers(both_ways, &c);
    memsnap_snapshot_unref(c.s);
    memsnap_snapshot_unref(c.other);
}

/* All are of one family, whose store grows for one while the other writes to its end. */
static void *grow_the_family(void *arg)
{
    struct worker *w = arg;
    const struct common *c = w->shared;
    memsnap_snapshot *kept = NULL;
    unsigned char *buf = malloc(c->size);
    expect(w, buf);
    for (unsigned long i = 0; i < (on_valgrind() ? 2 : 10) * rounds; i++) {
        memsnap_snapshot *own = NULL, *t = NULL;
        memsnap_view *v = NULL;
        size_t at = (i + w->number) % 30 * page;
        if (w->number % 2) {
            expect(w, memsnap_snapshot_clone(c->s, &own) == 0 &&
                          memsnap_snapshot_view_mut(own, 0, &v) == 0);
        } else {
            expect(w, memsnap_snapshot_view(c->s, 0, &v) == 0);
        }
        unsigned char *p = memsnap_view_data(v);
        memcpy(p + at, c->data + at, 5 * page);
        expect(w, memsnap_view_take_snapshot(v, 0, &t) == 0);
        expect(w, memsnap_snapshot_read(t, 0, buf, c->size) == 0 && memcmp(buf, p, c->size) == 0);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(own);
        if (kept) {
            at = (i - 1 + w->number) % 30 * page;
            expect(w, memsnap_snapshot_read(kept, at, buf, 5 * page) == 0 &&
                          memcmp(buf, c->data + at, 5 * page) == 0);
        }
        memsnap_snapshot_unref(kept);
        kept = t;
    }
    memsnap_snapshot_unref(kept);
    free(buf);
    return NULL;
}

static void test_family_grows(void)
{
    struct common c = {.size = 40 * page};
    c.data = pattern(c.size, 1);
    c.s = snap_zero(c.size);
    run_workers(grow_the_family, &c);
    memsnap_snapshot_unref(c.s);
    g_free(c.data);
}

/* ---- fork beside threads --------------------------------------------------------------------- */

struct beside {
    struct common c;
    atomic_bool stop;
};

static void *work_until_told(void *arg)
{
    struct worker *w = arg;
    struct beside *b = w->shared;
    while (!atomic_load(&b->stop)) {
        memsnap_view *v = NULL;
        memsnap_snapshot *t = NULL;
        expect(w, memsnap_snapshot_view(b->c.s, 0, &v) == 0);
        ((unsigned char *)memsnap_view_data(v))[w->number * page] ^= 1;
        expect(w, memsnap_view_take_snapshot(v, 0, &t) == 0);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(t);
    }
    return NULL;
}

static void use_in_child(void *arg)
{
    struct beside *b = arg;
    for (int i = 0; i < 5; i++) {
        assert_content(b->c.s, b->c.data, b->c.size);
        memsnap_view *v = view(b->c.s);
        memset(bytes(v), 1, page);
        memsnap_snapshot *t = take(v);
        assert_ok(memsnap_view_restore(v));
        assert_same(bytes(v), b->c.data, b->c.size);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(t);
    }
    memsnap_snapshot_unref(b->c.s);
}

/* A child made while other threads are inside the library finds everything whole. */
static void test_fork(void)
{
    struct beside b = {.c = {.size = 20 * page, .data = pattern(20 * page, 1)}};
    struct worker w[4];
    if (on_valgrind() || on_sanitizer()) {
        test_skip("forking with threads is not for checkers");
        g_free(b.c.data);
        return;
    }
    b.c.s = snap(b.c.data, b.c.size);
    for (unsigned i = 0; i < G_N_ELEMENTS(w); i++) {
        w[i] = (struct worker){.number = i, .shared = &b, .ok = true};
        g_assert_cmpint(pthread_create(&w[i].thread, NULL, work_until_told, &w[i]), ==, 0);
    }
    for (int i = 0; i < 20; i++)
        child_run(use_in_child, &b);
    atomic_store(&b.stop, true);
    for (unsigned i = 0; i < G_N_ELEMENTS(w); i++) {
        pthread_join(w[i].thread, NULL);
        g_assert_true(w[i].ok);
    }
    assert_content(b.c.s, b.c.data, b.c.size);
    memsnap_snapshot_unref(b.c.s);
    g_free(b.c.data);
}

/* ---- one mutable view, many callers ---------------------------------------------------------- */

struct lease {
    memsnap_snapshot *s;
    memsnap_view *m;
    size_t size;
};

/* Calls that only look, beside one that changes what they look at: the first cut makes another kind
 * of writer of a view. */
static void *call_on_lease(void *arg)
{
    struct worker *w = arg;
    struct lease *l = w->shared;
    struct memsnap_view_stats stats = {.size = sizeof stats};
    struct memsnap_range range;
    size_t cursor = 0;
    memsnap_snapshot *t;
    switch (w->number % 4) {
    case 0:
        expect(w, memsnap_view_flush(l->m, 0, l->size) == -EINVAL);
        break;
    case 1:
        expect(w, memsnap_view_stats(l->m, &stats) == 0);
        break;
    case 2:
        expect(w, memsnap_view_dirty(l->m, &cursor, &range, 1) == 0);
        break;
    default:
        expect(w, memsnap_view_take_snapshot(l->m, 0, &t) == 0);
        memsnap_snapshot_unref(t);
    }
    return NULL;
}

static void test_calls_on_lease(void)
{
    struct lease l = {.size = 40 * page};
    for (unsigned long i = 0; i < rounds; i++) {
        l.s = snap_zero(l.size);
        l.m = view_mut(l.s);
        run_workers(call_on_lease, &l);
        memsnap_view_unref(l.m);
        memsnap_snapshot_unref(l.s);
    }
}

int main(int argc, char **argv)
{
    if (on_valgrind())
        rounds = 6;
    rounds = test_number(&argc, argv, "--rounds", rounds);
    test_init(&argc, &argv);
    test_add("own-views", test_own_views, TEST_PLAIN);
    test_add("pass-handles", test_pass_handles, TEST_PLAIN);
    test_add("both-ways", test_both_ways, TEST_PLAIN);
    test_add("family-grows", test_family_grows, TEST_PLAIN);
    test_add("calls-on-lease", test_calls_on_lease, TEST_PLAIN);
    test_add("fork", test_fork, TEST_PLAIN);
    return g_test_run();
}
