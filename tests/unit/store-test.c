/* SPDX-License-Identifier: MIT */
/* Stores, their segments and their free space, and recyclers, by themselves. */
#include "config.h"

#include <pthread.h>
#include <stdlib.h>

#include "storage/fill.h"
#include "storage/freelist.h"
#include "storage/pool.h"
#include "mapping/recycler.h"
#include "support/support.h"
#include "support/valid.h"

/* ---- free space ------------------------------------------------------------------------------ */

/* Makes pages free; offset and len in pages. True: the list already had a reference to the
 * segment. */
static bool put(struct freelist *f, uint64_t offset, uint64_t len, struct segment *g)
{
    struct free_range e = {offset * page, len * page, g};
    bool spare = false;
    g_assert_true(ms_freelist_put(f, &e, &spare));
    return spare;
}

/* Takes so many pages, if they are free in a row. *emptied: they were the last of their segment. */
static bool have(struct freelist *f, uint64_t len, uint64_t *offset, bool *emptied)
{
    struct free_range e;
    if (!ms_freelist_take(f, len * page, &e, emptied))
        return false;
    g_assert_cmpuint(e.len, ==, len * page);
    *offset = e.offset / page;
    return true;
}

static struct segment segment_of(uint64_t first, uint64_t pages)
{
    return (struct segment){.offset = first * page, .len = pages * page};
}

/* Neighbours are one range in the end, whatever the order in which they become free. */
static void test_neighbours_merge(void)
{
    static const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                    {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (size_t i = 0; i < G_N_ELEMENTS(orders); i++) {
        struct segment g = segment_of(1000, 400);
        struct freelist f = {0};
        uint64_t at;
        bool emptied;
        for (int k = 0; k < 3; k++)
            g_assert_cmpint(put(&f, 1050 + (uint64_t)orders[i][k] * 100, 100, &g), ==, k > 0);
        g_assert_cmpuint(f.bytes, ==, 300 * page);
        g_assert_false(have(&f, 301, &at, &emptied));
        g_assert_true(have(&f, 300, &at, &emptied) && emptied);
        g_assert_cmpuint(at, ==, 1050);
        g_assert_cmpuint(f.bytes, ==, 0);
        g_assert_false(have(&f, 1, &at, &emptied));
        ms_os->free(f.v);
        ms_os->free(g.free_bits);
    }
}

static void test_segments_stay_apart(void)
{
    struct segment a = segment_of(0, 100), b = segment_of(100, 200);
    struct freelist f = {0};
    uint64_t at;
    bool emptied;
    g_assert_false(put(&f, 0, 100, &a));
    g_assert_false(put(&f, 100, 100, &b));
    g_assert_false(have(&f, 101, &at, &emptied));
    g_assert_true(put(&f, 200, 100, &b));
    g_assert_true(have(&f, 150, &at, &emptied) && !emptied);
    g_assert_cmpuint(at, ==, 100);
    g_assert_true(have(&f, 100, &at, &emptied) && emptied);
    g_assert_cmpuint(at, ==, 0);
    g_assert_true(have(&f, 50, &at, &emptied) && emptied);
    g_assert_cmpuint(at, ==, 250);
    ms_os->free(f.v);
    ms_os->free(a.free_bits);
    ms_os->free(b.free_bits);
}

enum { SEGMENT_PAGES = 300, SEGMENTS = 3 };

static size_t longest_run(const bool *is_free)
{
    size_t longest = 0, run = 0;
    for (size_t k = 0; k < SEGMENTS * SEGMENT_PAGES; k++) {
        run = k % SEGMENT_PAGES && is_free[k] ? run + 1 : is_free[k];
        longest = run > longest ? run : longest;
    }
    return longest;
}

/* Compared with a plain array of pages; runs of a few pages, and of more than a word of bits. */
static void test_free_space_model(void)
{
    struct segment g[SEGMENTS];
    bool is_free[SEGMENTS * SEGMENT_PAGES] = {false};
    struct rng rng = {(uint64_t)g_test_rand_int()};
    struct freelist f = {0};
    size_t total = 0;
    for (size_t i = 0; i < SEGMENTS; i++)
        g[i] = segment_of(i * SEGMENT_PAGES, SEGMENT_PAGES);
    for (int step = 0; step < 20000; step++) {
        size_t i = rng_below(&rng, SEGMENTS), first = rng_below(&rng, SEGMENT_PAGES),
               most = rng_below(&rng, 4) ? 9 : 150, n = 0;
        size_t len = 1 + rng_below(&rng, ms_min(SEGMENT_PAGES - first, most));
        bool *at = is_free + i * SEGMENT_PAGES + first, emptied;
        struct free_range e;
        while (n < len && !at[n])
            n++;
        if (n && rng_below(&rng, 2)) {
            put(&f, i * SEGMENT_PAGES + first, n, &g[i]);
            memset(at, true, n);
            total += n;
        } else if (rng_below(&rng, 20) ? ms_freelist_take(&f, len * page, &e, &emptied)
                                       : ms_freelist_take_any(&f, &e, &emptied)) {
            size_t taken = (size_t)(e.len / page), from = (size_t)(e.offset / page);
            for (size_t k = 0; k < taken; k++) {
                g_assert_true(is_free[from + k]);
                is_free[from + k] = false;
            }
            g_assert_true(e.segment == &g[from / SEGMENT_PAGES] &&
                          (from + taken - 1) / SEGMENT_PAGES == from / SEGMENT_PAGES);
            total -= taken;
            g_assert_cmpint(emptied, ==,
                            memchr(is_free + from / SEGMENT_PAGES * SEGMENT_PAGES, true,
                                   SEGMENT_PAGES) == NULL);
        } else {
            g_assert_cmpuint(longest_run(is_free), <, len);
        }
        g_assert_cmpuint(f.bytes, ==, total * page);
        if (step % 16 == 0)
            assert_valid_freelist(&f);
    }
    /* Two free pages in a row are found. */
    for (size_t k = 0, run = 0; k < SEGMENTS * SEGMENT_PAGES; k++) {
        run = k % SEGMENT_PAGES && is_free[k] ? run + 1 : is_free[k];
        uint64_t where;
        bool emptied;
        if (run == 2) {
            g_assert_true(have(&f, 2, &where, &emptied));
            break;
        }
    }
    ms_os->free(f.v);
    for (size_t i = 0; i < SEGMENTS; i++)
        ms_os->free(g[i].free_bits);
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static struct store *new_store_of(struct family_usage *c)
{
    struct store *s = NULL;
    assert_ok(ms_store_new(config_is("heap") ? STORE_HEAP : STORE_ANON, c, &s));
    return s;
}

static struct store *new_store(void)
{
    struct family_usage *c;
    assert_ok(ms_family_usage_new(&c));
    struct store *s = new_store_of(c);
    ms_family_usage_unref(c);
    return s;
}

static void unref_chunk(struct chunk *c)
{
    struct reclaim r = {0};
    ms_chunk_unref(c, &r);
    ms_reclaim_flush(&r);
}

static void check_filled(const struct chunk *c, uint64_t seed)
{
    size_t size = c->pages * page;
    unsigned char *data = pattern(size, seed), *is = g_malloc(size);
    assert_ok(ms_chunk_read(c, 0, is, size));
    assert_same(is, data, size);
    g_free(data);
    g_free(is);
}

static struct chunk *filled(struct store *s, size_t pages, uint64_t seed)
{
    struct chunk *c = NULL;
    unsigned char *data = pattern(pages * page, seed);
    assert_ok(ms_store_allocate(s, pages, true, &c));
    assert_ok(ms_chunk_fill(c, data, pages * page, MEMSNAP_HUGE_NEVER));
    g_free(data);
    return c;
}

/* Chunks of all sizes come and go. Each keeps its bytes, and a chunk that must be zero is zero. */
static void test_reuse(void)
{
    struct store *s = new_store();
    struct chunk *c[40] = {0};
    uint64_t seeds[40];
    struct rng rng = {7};
    for (int round = 0; round < (on_valgrind() ? 60 : 2000); round++) {
        size_t i = rng_below(&rng, G_N_ELEMENTS(c));
        if (c[i]) {
            check_filled(c[i], seeds[i]);
            unref_chunk(c[i]);
            c[i] = NULL;
        } else if (rng_below(&rng, 8) == 0) {
            struct chunk *z = NULL;
            char byte[1] = {1};
            assert_ok(ms_store_allocate(s, 1 + rng_below(&rng, 20), false, &z));
            if (s->kind != STORE_HEAP)
                assert_ok(ms_chunk_prepare_shared(z));
            assert_ok(ms_chunk_read(z, rng_below(&rng, z->pages) * page, byte, 1));
            g_assert_cmpint(byte[0], ==, 0);
            unref_chunk(z);
        } else {
            seeds[i] = rng_next(&rng);
            c[i] = filled(s, 1 + rng_below(&rng, 20), seeds[i]);
        }
        assert_valid_store(s);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(c); i++) {
        if (c[i])
            check_filled(c[i], seeds[i]);
        unref_chunk(c[i]);
    }
    ms_store_unref(s);
}

/* A store that is as large as a file can be is full; its offsets do not wrap. */
static void test_end_of_offsets(void)
{
    if (config_is("heap")) {
        test_skip("heap pages have no offsets");
        return;
    }
    if (sizeof(size_t) < sizeof(int64_t)) {
        test_skip("an address space of chunks ends before the offsets do");
        return;
    }
    struct store *s = new_store();
    struct chunk *first = filled(s, 4, 1), *c[40];
    size_t n = 0;
    int e = 0;
    while (n < G_N_ELEMENTS(c) &&
           (e = ms_store_allocate(s, PTRDIFF_MAX / page / 4, false, &c[n])) == 0)
        n++;
    g_assert_cmpint(e, ==, -EFBIG);
    struct chunk *last = NULL;
    e = ms_store_allocate(s, 4, false, &last);
    if (e == 0) {
        g_assert_cmpuint(last->offset, >=, 4 * page);
        unref_chunk(last);
    } else {
        g_assert_cmpint(e, ==, -EFBIG);
    }
    assert_valid_store(s);
    while (n > 0)
        unref_chunk(c[--n]);
    check_filled(first, 1);
    unref_chunk(first);
    ms_store_unref(s);
}

enum { THREADS = 4 };

struct allocator {
    pthread_t thread;
    struct store *store;
    size_t n;
    struct chunk **chunks;
};

static void *allocate_many(void *data)
{
    struct allocator *a = data;
    for (size_t i = 0; i < a->n; i++)
        assert_ok(ms_store_allocate(a->store, 1, i & 1, &a->chunks[i]));
    return NULL;
}

static int compare_chunks(const void *a, const void *b)
{
    const struct chunk *x = *(struct chunk *const *)a, *y = *(struct chunk *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Threads that allocate in one store get different pages, and the store counts all of them. */
static void test_threads(void)
{
    if (config_is("heap")) {
        test_skip("heap pages have no offsets");
        return;
    }
    size_t n = on_valgrind() ? 200 : 20000;
    struct store *s = new_store();
    struct chunk **all = g_new0(struct chunk *, THREADS * n);
    struct allocator a[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        a[i] = (struct allocator){.store = s, .n = n, .chunks = all + i * n};
        g_assert_cmpint(pthread_create(&a[i].thread, NULL, allocate_many, &a[i]), ==, 0);
    }
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(a[i].thread, NULL);
    g_assert_cmpuint(s->pages, ==, THREADS * n);
    assert_valid_store(s);
    qsort(all, THREADS * n, sizeof *all, compare_chunks);
    for (size_t i = 1; i < THREADS * n; i++)
        g_assert_cmpuint(all[i]->offset, >=, all[i - 1]->offset + page);
    for (size_t i = 0; i < THREADS * n; i++)
        unref_chunk(all[i]);
    g_free(all);
    ms_store_unref(s);
}

/* ---- recyclers ------------------------------------------------------------------------------- */

static struct parked *parked(struct image *i, unsigned flags)
{
    struct parked *p = ms_os->alloc(sizeof *p);
    p->mapping.base = ms_image_ref(i);
    p->mapping.flags = flags;
    return p;
}

static struct recycler *new_recycler(struct pool **pool)
{
    struct recycler *l = NULL;
    assert_ok(ms_pool_new(true, pool));
    assert_ok(ms_recycler_new(*pool, &l));
    return l;
}

static void drop_recycler(struct recycler *l, struct pool *pool)
{
    ms_recycler_set_limit(l, 0);
    ms_recycler_unref(l);
    ms_pool_unref(pool);
}

/* The image may change between the question and parking, or between parking and opening. */
static void test_recycler_of_one_image(void)
{
    struct image *now, *before;
    struct pool *pool;
    struct recycler *l = new_recycler(&pool);
    assert_ok(ms_image_zero(3, &now));
    assert_ok(ms_image_zero(3, &before));
    struct parked *other = parked(before, 0), *p = parked(now, 0);
    ms_recycler_set_image(l, now);
    g_assert_false(ms_recycler_accepts(l, before));
    g_assert_true(ms_recycler_accepts(l, now));
    g_assert_false(ms_recycler_put(l, other));
    ms_recycler_set_limit(l, 0);
    g_assert_false(ms_recycler_accepts(l, now));
    g_assert_false(ms_recycler_put(l, p));
    ms_recycler_set_limit(l, 1);
    g_assert_true(ms_recycler_put(l, p));
    g_assert_null(ms_recycler_get(l, before, 0));
    g_assert_null(ms_recycler_get(l, now, MEMSNAP_VIEW_COPY));
    g_assert_true(ms_recycler_get(l, now, 0) == p);
    g_assert_null(ms_recycler_get(l, now, 0));
    ms_parked_destroy(p, pool);
    ms_parked_destroy(other, pool);
    drop_recycler(l, pool);
    ms_image_unref(now);
    ms_image_unref(before);
}

/* Who comes with other flags finds what was parked with them, whatever lies before it; the oldest
 * goes. */
static void test_recycler_evicts_the_oldest(void)
{
    struct image *i;
    struct pool *pool;
    struct recycler *l = new_recycler(&pool);
    size_t references;
    assert_ok(ms_image_zero(3, &i));
    ms_recycler_set_image(l, i);
    ms_recycler_set_limit(l, 3);
    for (unsigned n = 0; n < 3; n++)
        g_assert_true(ms_recycler_put(l, parked(i, MEMSNAP_VIEW_NODUMP)));
    struct parked *p = parked(i, MEMSNAP_VIEW_COPY);
    g_assert_true(ms_recycler_put(l, p));
    g_assert_cmpuint(ms_recycler_count(l, i, &references), ==, 3);
    g_assert_cmpuint(references, ==, 3);
    g_assert_true(ms_recycler_put(l, parked(i, 0)));
    g_assert_true(ms_recycler_get(l, i, MEMSNAP_VIEW_COPY) == p);
    g_assert_true(ms_recycler_put(l, p));
    for (unsigned n = 0; n < 2; n++)
        g_assert_true(ms_recycler_put(l, parked(i, 0)));
    g_assert_null(ms_recycler_get(l, i, MEMSNAP_VIEW_NODUMP));
    g_assert_true(ms_recycler_get(l, i, MEMSNAP_VIEW_COPY) == p);
    ms_parked_destroy(p, pool);
    drop_recycler(l, pool);
    ms_image_unref(i);
}

/* Memory and mappings that are short are taken from all recyclers; other errors are not theirs. */
static void test_recyclers_give_way(void)
{
    struct image *i;
    struct pool *pools[3];
    struct recycler *l[3];
    size_t references;
    assert_ok(ms_image_zero(3, &i));
    for (unsigned n = 0; n < 3; n++) {
        l[n] = new_recycler(&pools[n]);
        ms_recycler_set_image(l[n], i);
        for (unsigned k = 0; k < n; k++)
            g_assert_true(ms_recycler_put(l[n], parked(i, 0)));
    }
    g_assert_false(ms_make_room(0));
    g_assert_false(ms_make_room(-ENOTSUP));
    g_assert_cmpuint(ms_recycler_count(l[2], i, &references), ==, 2);
    g_assert_true(ms_make_room(-EMLINK));
    for (unsigned n = 0; n < 3; n++)
        g_assert_cmpuint(ms_recycler_count(l[n], i, &references), ==, 0);
    g_assert_false(ms_make_room(-ENOMEM));
    for (unsigned n = 0; n < 3; n++)
        drop_recycler(l[n], pools[n]);
    ms_image_unref(i);
}

/* No more than the process may have, whatever the limits of single ones are; the newest stay. */
static void test_recyclers_are_bounded_together(void)
{
    enum { RECYCLERS = 5, EACH = 300, LIMIT = 1024 };
    struct image *i;
    struct pool *pools[RECYCLERS];
    struct recycler *l[RECYCLERS];
    size_t references, n = 0;
    assert_ok(ms_image_zero(3, &i));
    for (unsigned r = 0; r < RECYCLERS; r++) {
        l[r] = new_recycler(&pools[r]);
        ms_recycler_set_image(l[r], i);
        ms_recycler_set_limit(l[r], EACH);
    }
    for (unsigned k = 0; k < EACH; k++)
        for (unsigned r = 0; r < RECYCLERS; r++)
            g_assert_true(ms_recycler_put(l[r], parked(i, 0)));
    for (unsigned r = 0; r < RECYCLERS; r++) {
        unsigned has = ms_recycler_count(l[r], i, &references);
        g_assert_cmpuint(has, >=, LIMIT / RECYCLERS - 1);
        n += has;
    }
    g_assert_cmpuint(n, ==, LIMIT);
    struct parked *p = parked(i, 0);
    p->mapping.resident_private = 40 * MIB / page;
    g_assert_true(ms_recycler_put(l[0], p));
    p = parked(i, 0);
    p->mapping.resident_private = 40 * MIB / page;
    g_assert_true(ms_recycler_put(l[1], p));
    n = 0;
    for (unsigned r = 0; r < RECYCLERS; r++)
        n += ms_recycler_count(l[r], i, &references);
    g_assert_cmpuint(n, <, LIMIT);
    for (unsigned r = 0; r < RECYCLERS; r++)
        drop_recycler(l[r], pools[r]);
    ms_image_unref(i);
}

/* A store keeps a bounded amount of free space, however much it has held before. */
static void test_trim(void)
{
    enum { CHUNKS = 300, PAGES = 16, ROUNDS = 12 };
    struct store *s = new_store();
    struct chunk *live = filled(s, 8, 1);
    if (s->kind == STORE_HEAP || !(config.os->caps & OS_CAP_PUNCH)) {
        test_skip("free space cannot be given back to the system");
    } else {
        for (int round = 0; round < ROUNDS; round++) {
            struct chunk *c[CHUNKS];
            for (int i = 0; i < CHUNKS; i++)
                c[i] = filled(s, PAGES, (uint64_t)i);
            g_assert_cmpuint(s->pages, ==, CHUNKS * PAGES + 8);
            for (int i = 0; i < CHUNKS; i++)
                unref_chunk(c[i * 7 % CHUNKS]);
            g_assert_cmpuint(s->pages, ==, 8);
            ms_store_trim(s);
            assert_valid_store(s);
            g_assert_cmpuint(s->free.bytes, <=, MS_FREE_PAGES * page);
            g_assert_cmpuint(object_bytes(), <=, (MS_FREE_PAGES + 8 + 64) * page);
        }
        check_filled(live, 1);
    }
    unref_chunk(live);
    ms_store_unref(s);
}

/* A store may keep more if its family uses much in other stores, from before a fork: the next take
 * uses what the last one gave back. */
static void test_trim_in_family(void)
{
    enum { MANY = 16384, TAKEN = 4096 };
    struct family_usage *c;
    assert_ok(ms_family_usage_new(&c));
    struct store *large = new_store_of(c), *s = new_store_of(c);
    struct chunk *live = filled(s, 1, 1), *root, *taken;
    if (s->kind == STORE_HEAP || !(config.os->caps & OS_CAP_PUNCH)) {
        test_skip("free space cannot be given back to the system");
    } else {
        assert_ok(ms_store_allocate(large, MANY, false, &root));
        g_assert_cmpuint(atomic_load(&c->pages), ==, MANY + 1);
        assert_ok(ms_store_allocate(s, TAKEN, true, &taken));
        unref_chunk(taken);
        ms_store_trim(s);
        g_assert_cmpuint(s->free.bytes, ==, TAKEN * page);
        unref_chunk(root);
    }
    ms_store_unref(large);
    g_assert_cmpuint(atomic_load(&c->pages), ==, s->pages);
    ms_store_trim(s);
    g_assert_cmpuint(s->free.bytes, <=, MS_FREE_PAGES * page);
    /* the chunk holds the last reference to the store, so its pages go with the store */
    ms_store_unref(s);
    unref_chunk(live);
    g_assert_cmpuint(atomic_load(&c->pages), ==, 0);
    g_assert_cmpuint(ms_family_usage_stores(c), ==, 0);
    ms_family_usage_unref(c);
}

/* A pool is trimmed only if pages were given back since the last time, by chunks that are gone or
 * by a whole store. */
static void test_pool_trim(void)
{
    enum { CHUNKS = 3000 };
    struct pool *p;
    struct chunk *live, *c[CHUNKS];
    assert_ok(ms_pool_new(config_is("heap"), &p));
    assert_ok(ms_pool_allocate(p, 1, true, &live));
    if (p->store->kind == STORE_HEAP || !(config.os->caps & OS_CAP_PUNCH)) {
        test_skip("free space cannot be given back to the system");
    } else {
        for (size_t i = 0; i < CHUNKS; i++)
            assert_ok(ms_pool_allocate(p, 1, true, &c[i]));
        g_assert_false(ms_family_usage_test_and_clear_freed(p->family));
        for (size_t i = 0; i < CHUNKS; i++)
            unref_chunk(c[i]);
        g_assert_cmpuint(p->store->free.bytes, ==, CHUNKS * page);
        ms_pool_trim(p);
        g_assert_cmpuint(p->store->free.bytes, <=, MS_FREE_PAGES * page);
        g_assert_false(ms_family_usage_test_and_clear_freed(p->family));
        struct store *other = new_store_of(p->family);
        struct chunk *last = filled(other, 1, 1);
        ms_store_unref(other);
        unref_chunk(last);
        g_assert_true(ms_family_usage_test_and_clear_freed(p->family));
    }
    unref_chunk(live);
    ms_pool_unref(p);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("neighbours-merge", test_neighbours_merge, 0);
    test_add("segments-stay-apart", test_segments_stay_apart, 0);
    test_add("free-space-model", test_free_space_model, 0);
    test_add("trim", test_trim, 0);
    test_add("pool-trim", test_pool_trim, 0);
    test_add("trim-in-family", test_trim_in_family, 0);
    test_add("reuse", test_reuse, 0);
    test_add("end-of-offsets", test_end_of_offsets, 0);
    test_add("threads", test_threads, 0);
    test_add("recycler-of-one-image", test_recycler_of_one_image, 0);
    test_add("recycler-evicts-the-oldest", test_recycler_evicts_the_oldest, 0);
    test_add("recyclers-give-way", test_recyclers_give_way, 0);
    test_add("recyclers-are-bounded-together", test_recyclers_are_bounded_together, 0);
    return g_test_run();
}
