/* SPDX-License-Identifier: MIT */
/* Cuts of a view beside threads that store to it, judged by an oracle that knows what each thread
 * did.
 *
 *     oracle-test [--rounds N] [-p /linux/best/direct]
 *     ORACLE_SECONDS=3600 oracle-test          that long for all tests together
 *
 * Each writer has lines of its own, all over the view. Its n-th store puts n, and the number of
 * stores that it has seen of its neighbour, into its line n mod k. So k lines tell how many stores
 * of a writer an image has, and whether it has exactly these:
 *
 *     order     lines hold the last k numbers up to n, none newer and none older
 *     cause     what a store has seen of the neighbour is in the image, too
 *     time      what was stored before the call is there, what was stored after it is not
 *     rest      all other bytes are what they were
 *
 * Time and rest hold for every cut, order and cause where the manual promises one instant. What was
 * taken is looked at again when much has been stored since, and in forked children. */
#include "config.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/support.h"

enum { MAX_WRITERS = 6, MAX_LINES = 24, LINE = 64, KEPT = 6 };

/* n << 32 | seen. */
typedef _Atomic uint64_t word;

struct writer {
    pthread_t thread;
    unsigned number;
    struct oracle *o;
    _Atomic uint64_t stored; /* so many stores are done */
};

/* An image that was judged, and what it held then. */
struct kept {
    memsnap_snapshot *s;
    memsnap_view *v; /* or NULL */
    unsigned char *bytes;
};

struct oracle {
    memsnap_snapshot *s;
    memsnap_view *v;
    unsigned char *original; /* what was there before the writers */
    size_t size;
    unsigned n, lines; /* writers; lines of each */
    size_t first, stride;
    atomic_bool stop;
    struct writer w[MAX_WRITERS];
    struct rng rng;
    struct kept kept[KEPT];
    size_t next_kept;
    bool exported; /* whoever has the descriptor shares the pages for ever: they are sealed */
};

static unsigned long rounds = 6;
static double limit; /* seconds for each test; 0: rounds */
static unsigned long cuts, instants, children;

static uint64_t number_of(uint64_t value)
{
    return value >> 32;
}

static uint64_t seen_in(uint64_t value)
{
    return value & UINT32_MAX;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Lines are dealt out over the whole view: the stride and their number have no common divisor. */
static size_t offset_of(const struct oracle *o, unsigned writer, size_t line)
{
    size_t all = o->size / LINE, i = writer * o->lines + line;
    return (o->first + i * o->stride) % all * LINE;
}

static size_t common_divisor(size_t a, size_t b)
{
    return b ? common_divisor(b, a % b) : a;
}

static void deal_lines(struct oracle *o)
{
    size_t all = o->size / LINE;
    o->first = rng_below(&o->rng, all);
    do
        o->stride = 1 + rng_below(&o->rng, all - 1);
    while (common_divisor(o->stride, all) > 1);
}

static word *line_in(const struct oracle *o, memsnap_view *v, unsigned writer, size_t line)
{
    return (word *)(void *)(bytes(v) + offset_of(o, writer, line));
}

static void *store_numbers(void *arg)
{
    struct writer *w = arg;
    struct oracle *o = w->o;
    const struct writer *neighbour = &o->w[(w->number + 1) % o->n];
    for (uint64_t n = 1; !atomic_load_explicit(&o->stop, memory_order_relaxed); n++) {
        uint64_t seen = atomic_load_explicit(&neighbour->stored, memory_order_acquire);
        atomic_store_explicit(line_in(o, o->v, w->number, n % o->lines), n << 32 | seen,
                              memory_order_release);
        atomic_store_explicit(&w->stored, n, memory_order_release);
        if (n % 32 == 0)
            sched_yield(); /* there may be more writers than processors */
    }
    return NULL;
}

static void start(struct oracle *o)
{
    atomic_store(&o->stop, false);
    for (unsigned i = 0; i < o->n; i++) {
        o->w[i].number = i;
        o->w[i].o = o;
        atomic_store(&o->w[i].stored, 0);
        for (size_t k = 0; k < o->lines; k++)
            atomic_store(line_in(o, o->v, i, k), 0);
    }
    for (unsigned i = 0; i < o->n; i++)
        g_assert_cmpint(pthread_create(&o->w[i].thread, NULL, store_numbers, &o->w[i]), ==, 0);
    for (unsigned i = 0; i < o->n; i++)
        while (atomic_load(&o->w[i].stored) < 2 * o->lines)
            sched_yield();
}

static void stop(struct oracle *o)
{
    atomic_store(&o->stop, true);
    for (unsigned i = 0; i < o->n; i++)
        pthread_join(o->w[i].thread, NULL);
}

/* ---- judging --------------------------------------------------------------------------------- */

struct moment {
    uint64_t stored[MAX_WRITERS];
};

static struct moment now(const struct oracle *o)
{
    struct moment m = {{0}};
    for (unsigned i = 0; i < o->n; i++)
        m.stored[i] = atomic_load_explicit(&o->w[i].stored, memory_order_acquire);
    return m;
}

/* The number in a line when n stores are done: the last one that belongs there. */
static uint64_t expected(const struct oracle *o, uint64_t n, size_t line)
{
    return n < line ? 0 : n - (n - line) % o->lines;
}

static uint64_t value_in(const struct oracle *o, const unsigned char *image, unsigned writer,
                         size_t line)
{
    uint64_t value;
    memcpy(&value, image + offset_of(o, writer, line), sizeof value);
    return value;
}

static uint64_t newest_in(const struct oracle *o, const unsigned char *image, unsigned writer)
{
    uint64_t newest = 0;
    for (size_t k = 0; k < o->lines; k++) {
        uint64_t value = value_in(o, image, writer, k);
        newest = value > newest ? value : newest;
    }
    return newest;
}

/* Whoever has stored has not counted it yet: one more than was counted may be there. */
static void check_time(const struct oracle *o, const unsigned char *image, unsigned writer,
                       const struct moment *before, const struct moment *after)
{
    for (size_t k = 0; k < o->lines; k++) {
        uint64_t n = number_of(value_in(o, image, writer, k));
        g_assert_cmpuint(n, >=, expected(o, before->stored[writer], k));
        g_assert_cmpuint(n, <=, expected(o, after->stored[writer] + 1, k));
        g_assert_true(n == 0 || n % o->lines == k);
    }
}

static void check_instant(const struct oracle *o, const unsigned char *image)
{
    for (unsigned i = 0; i < o->n; i++) {
        uint64_t newest = newest_in(o, image, i), n = number_of(newest);
        for (size_t k = 0; k < o->lines; k++)
            g_assert_cmpuint(number_of(value_in(o, image, i, k)), ==, expected(o, n, k));
        g_assert_cmpuint(seen_in(newest), <=, number_of(newest_in(o, image, (i + 1) % o->n)));
    }
}

static void check_rest(const struct oracle *o, const unsigned char *image)
{
    for (unsigned i = 0; i < o->n; i++)
        for (size_t k = 0; k < o->lines; k++) {
            uint64_t value = value_in(o, image, i, k);
            memcpy(o->original + offset_of(o, i, k), &value, sizeof value);
        }
    assert_same(image, o->original, o->size);
}

static void judge(const struct oracle *o, const unsigned char *image, const struct moment *before,
                  const struct moment *after, bool instant)
{
    for (unsigned i = 0; i < o->n; i++)
        check_time(o, image, i, before, after);
    if (instant)
        check_instant(o, image);
    check_rest(o, image);
    cuts++;
    instants += instant;
}

/* ---- ways to cut ----------------------------------------------------------------------------- */

typedef memsnap_snapshot *cutter(struct oracle *o);

static memsnap_snapshot *by_take(struct oracle *o)
{
    return take(o->v);
}

static memsnap_snapshot *by_atomic_take(struct oracle *o)
{
    memsnap_snapshot *t = NULL;
    assert_ok(memsnap_view_take_snapshot(o->v, MEMSNAP_TAKE_ATOMIC, &t));
    return t;
}

static memsnap_snapshot *by_clone(struct oracle *o)
{
    return snap_clone(o->s);
}

static memsnap_snapshot *by_view(struct oracle *o)
{
    memsnap_view *v = view(o->s);
    memsnap_snapshot *t = take(v);
    memsnap_view_unref(v);
    return t;
}

static memsnap_snapshot *by_copied_view(struct oracle *o)
{
    memsnap_view *v = NULL;
    assert_ok(memsnap_snapshot_view(o->s, MEMSNAP_VIEW_COPY, &v));
    memsnap_snapshot *t = snap(bytes(v), o->size);
    memsnap_view_unref(v);
    return t;
}

static memsnap_snapshot *by_restore_to(struct oracle *o)
{
    memsnap_snapshot *zero = snap_zero(o->size);
    memsnap_view *v = view(zero);
    assert_ok(memsnap_view_restore_to(v, o->s));
    memsnap_snapshot *t = take(v);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(zero);
    return t;
}

static memsnap_snapshot *by_save(struct oracle *o)
{
    memsnap_snapshot *t = NULL;
    char *path = temp_path("cut");
    assert_ok(memsnap_snapshot_save(o->s, path, MEMSNAP_SAVE_NOSYNC));
    assert_ok(memsnap_snapshot_new_from_file(path, config.flags, &t));
    unlink(path);
    g_free(path);
    return t;
}

static memsnap_snapshot *by_delta(struct oracle *o)
{
    memsnap_snapshot *t = NULL, *zero = snap_zero(o->size);
    char *path = temp_path("delta");
    assert_ok(memsnap_snapshot_save_delta(o->s, zero, path, MEMSNAP_SAVE_NOSYNC));
    assert_ok(memsnap_snapshot_load_delta(zero, path, 0, &t));
    unlink(path);
    g_free(path);
    memsnap_snapshot_unref(zero);
    return t;
}

static memsnap_snapshot *by_export(struct oracle *o)
{
    memsnap_snapshot *t = NULL;
    int fd;
    assert_ok(memsnap_snapshot_export_fd(o->s, &fd));
    o->exported = true;
    assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &t));
    close(fd);
    return t;
}

/* Bytes that are copied while they change: no instant. */
static memsnap_snapshot *by_read(struct oracle *o)
{
    unsigned char *copy = g_malloc(o->size);
    assert_ok(memsnap_snapshot_read(o->s, 0, copy, o->size));
    memsnap_snapshot *t = snap(copy, o->size);
    g_free(copy);
    return t;
}

static cutter *const of_snapshot[] = {by_take, by_clone,      by_view,  by_copied_view,
                                      by_save, by_restore_to, by_delta, by_export};

static bool has_atomic_takes(const struct oracle *o)
{
    memsnap_snapshot *t = NULL;
    memsnap_snapshot_unref(take(o->v)); /* a direct writer needs nothing to be cut atomically */
    int r = memsnap_view_take_snapshot(o->v, MEMSNAP_TAKE_ATOMIC, &t);
    g_assert_true(r == 0 || r == -ENOTSUP);
    memsnap_snapshot_unref(t);
    return r == 0;
}

/* ---- what was cut does not change ------------------------------------------------------------ */

static void check_kept(const struct oracle *o, const struct kept *k)
{
    if (!k->s)
        return;
    assert_content(k->s, k->bytes, o->size);
    if (k->v)
        assert_same(bytes(k->v), k->bytes, o->size);
}

static void drop_kept(struct kept *k)
{
    memsnap_view_unref(k->v);
    memsnap_snapshot_unref(k->s);
    g_free(k->bytes);
    *k = (struct kept){NULL, NULL, NULL};
}

static void keep(struct oracle *o, memsnap_snapshot *t, unsigned char *image)
{
    struct kept *k = &o->kept[o->next_kept++ % KEPT];
    check_kept(o, k);
    drop_kept(k);
    *k = (struct kept){t, rng_below(&o->rng, 3) ? NULL : view(t), image};
}

static void check_all_kept(const struct oracle *o)
{
    for (size_t i = 0; i < KEPT; i++)
        check_kept(o, &o->kept[i]);
}

static void drop_all_kept(struct oracle *o)
{
    check_all_kept(o);
    for (size_t i = 0; i < KEPT; i++)
        drop_kept(&o->kept[i]);
}

static void cut_and_judge(struct oracle *o, cutter *cut, bool instant)
{
    struct moment before = now(o);
    memsnap_snapshot *t = cut(o);
    struct moment after = now(o);
    unsigned char *image = g_malloc(o->size);
    assert_ok(memsnap_snapshot_read(t, 0, image, o->size));
    judge(o, image, &before, &after, instant);
    keep(o, t, image);
}

/* ---- children -------------------------------------------------------------------------------- */

/* Of a family that goes on in the parent: what was cut is there, and can be gone on from. */
static void use_kept(struct oracle *o, int deeper)
{
    check_all_kept(o);
    const struct kept *k = &o->kept[rng_below(&o->rng, KEPT)];
    if (k->s) {
        memsnap_view *m = view_mut(k->s);
        fill(bytes(m) + o->size / 2, page, 1);
        memsnap_snapshot *t = take(m);
        fill(bytes(m) + o->size / 4, page, 2);
        memsnap_view_unref(m);
        fill(k->bytes + o->size / 2, page, 1);
        assert_content(t, k->bytes, o->size);
        fill(k->bytes + o->size / 4, page, 2);
        assert_content(k->s, k->bytes, o->size);
        memsnap_snapshot_unref(t);
        if (k->v)
            memsnap_view_unref(memsnap_view_ref(k->v));
    }
    if (deeper > 0 && fork() == 0) {
        use_kept(o, deeper - 1);
        child_exit(0);
    }
}

static void in_child(void *arg)
{
    struct oracle *o = arg;
    memsnap_snapshot *t = UNTOUCHED;
    if (memsnap_view_is_mutable(o->v))
        assert_refused(memsnap_view_take_snapshot(o->v, 0, &t), -EBADF, t);
    check_all_kept(o);
    for (size_t i = 0; i < KEPT; i++) { /* they show their snapshots as these were */
        memsnap_view_unref(o->kept[i].v);
        o->kept[i].v = NULL;
    }
    use_kept(o, 0);
}

static void fork_and_use(struct oracle *o)
{
    child_run(in_child, o);
    check_all_kept(o);
    children++;
}

/* ---- sessions -------------------------------------------------------------------------------- */

enum kind { DIRECT = 1, TRACKED = 2, ORDINARY = 4, SHARED_FILE = 8, FORKS = 16, TWO_CUTTERS = 32 };

/* The snapshot's size has odd ends too, and room for every line. */
static void begin(struct oracle *o, struct rng *rng)
{
    const size_t sizes[] = {40 * page, 60 * page + 3 * LINE, 2 * MIB + 5 * LINE, 12 * page};
    *o = (struct oracle){.rng = {rng_next(rng)}};
    o->size = sizes[rng_below(&o->rng, on_sanitizer() ? 2 : G_N_ELEMENTS(sizes))];
    o->n = 1 + (unsigned)rng_below(&o->rng, MAX_WRITERS);
    o->lines = 2 + (unsigned)rng_below(&o->rng, MAX_LINES - 1);
    deal_lines(o);
    o->original = pattern(o->size, rng_next(&o->rng));
}

static char *make_snapshot(struct oracle *o, unsigned kind)
{
    if (!(kind & SHARED_FILE)) {
        o->s = snap(o->original, o->size);
        return NULL;
    }
    char *path = temp_file("live", o->original, o->size);
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_SHARED, &o->s));
    return path;
}

static memsnap_view *open_view(const struct oracle *o, unsigned kind)
{
    return kind & ORDINARY ? view(o->s) : kind & TRACKED ? view_mut_tracked(o->s) : view_mut(o->s);
}

struct second {
    pthread_t thread;
    struct oracle *o;
    bool of_view;
    atomic_bool stop;
};

/* Nobody judges these: they are in the way of those that are judged. */
static void *cut_beside(void *arg)
{
    struct second *b = arg;
    for (size_t i = 0; !atomic_load(&b->stop); i++) {
        memsnap_snapshot_unref(b->of_view ? by_take(b->o) : of_snapshot[i % 4](b->o));
        sched_yield();
    }
    return NULL;
}

static void cut_series(struct oracle *o, unsigned kind, bool atomic)
{
    size_t n = 3 + rng_below(&o->rng, 8);
    bool exported = o->exported; /* before this lease */
    for (size_t i = 0; i < n; i++) {
        /* the last way seals the pages, and the next lease is not direct any more; it may also not
         * be had, after a cut */
        bool export = config_is("linux") && (i == 0 || !(kind & DIRECT));
        size_t ways = G_N_ELEMENTS(of_snapshot) - !export;
        cutter *cut = kind & ORDINARY ? by_take : of_snapshot[rng_below(&o->rng, ways)];
        bool first = kind & DIRECT && i == 0 && !(kind & (TWO_CUTTERS | FORKS | SHARED_FILE));
        if (first)
            cut_and_judge(o, cut, !config_is("heap") && !exported);
        else if (atomic && rng_below(&o->rng, 2))
            cut_and_judge(o, by_atomic_take, true);
        else
            cut_and_judge(o, i % 4 == 3 && !(kind & ORDINARY) ? by_read : cut, false);
        if (kind & FORKS && rng_below(&o->rng, 3) == 0)
            fork_and_use(o);
    }
}

/* What all writers stored is what the view holds, and what its snapshot is. */
static void check_end(struct oracle *o, const unsigned char *image)
{
    struct moment end = now(o);
    for (unsigned i = 0; i < o->n; i++)
        g_assert_cmpuint(number_of(newest_in(o, image, i)), ==, end.stored[i]);
    check_instant(o, image);
    check_rest(o, image);
}

static void check_file(struct oracle *o, const char *path)
{
    char *content;
    gsize size;
    g_assert_true(g_file_get_contents(path, &content, &size, NULL));
    g_assert_cmpuint(size, ==, o->size);
    check_end(o, (unsigned char *)content);
    g_free(content);
}

static void lease(struct oracle *o, unsigned kind, const char *path)
{
    struct second b = {.o = o, .of_view = kind & ORDINARY};
    o->v = open_view(o, kind);
    /* asking is a cut, after which none is the first any more; a direct writer is asked later */
    bool atomic = !(kind & (DIRECT | SHARED_FILE)) && has_atomic_takes(o);
    start(o);
    if (kind & TWO_CUTTERS)
        g_assert_cmpint(pthread_create(&b.thread, NULL, cut_beside, &b), ==, 0);
    cut_series(o, kind, atomic);
    if (kind & TWO_CUTTERS) {
        atomic_store(&b.stop, true);
        pthread_join(b.thread, NULL);
    }
    stop(o);
    check_end(o, bytes(o->v));
    if (path) {
        assert_ok(memsnap_view_flush(o->v, 0, o->size));
        check_file(o, path);
    }
    memsnap_view_unref(o->v);
}

/* One snapshot, lease after lease: where nobody shares its pages any more it is direct again. */
static void session(struct rng *rng, unsigned kind)
{
    struct oracle o;
    begin(&o, rng);
    char *path = make_snapshot(&o, kind);
    for (int i = 0; i < 3; i++) {
        lease(&o, kind, path);
        if (!(kind & ORDINARY)) {
            unsigned char *image = g_malloc(o.size);
            assert_ok(memsnap_snapshot_read(o.s, 0, image, o.size));
            check_end(&o, image);
            g_free(image);
        }
        drop_all_kept(&o);
    }
    memsnap_snapshot_unref(o.s);
    g_free(o.original);
    if (path)
        unlink(path);
    g_free(path);
}

static void run(unsigned kind)
{
    struct rng rng = {(uint64_t)g_test_rand_int()};
    gint64 begun = g_get_monotonic_time();
    unsigned long sessions = 0;
    cuts = instants = children = 0;
    if (kind & FORKS && on_sanitizer()) {
        test_skip("forking with threads is not for checkers");
        return;
    }
    do
        session(&rng, kind | (rng_below(&rng, 3) ? 0 : TWO_CUTTERS));
    while (limit > 0 ? (double)(g_get_monotonic_time() - begun) < limit * 1e6
                     : ++sessions < rounds);
    g_test_message("%lu cuts, %lu of them of one instant, %lu children", cuts, instants, children);
}

static void test_direct(void)
{
    run(DIRECT);
}

static void test_shadow(void)
{
    run(0);
}

static void test_tracked(void)
{
    if (!tracking())
        test_skip("stores are not noticed here");
    else
        run(TRACKED);
}

static void test_ordinary(void)
{
    run(ORDINARY);
}

static void test_shared_file(void)
{
    if (config_is("heap"))
        test_skip("a file cannot be mapped without a descriptor");
    else
        run(SHARED_FILE);
}

static void test_forks(void)
{
    run(FORKS);
}

static void test_forks_tracked(void)
{
    if (!tracking())
        test_skip("stores are not noticed here");
    else
        run(FORKS | TRACKED);
}

static void test_forks_ordinary(void)
{
    run(FORKS | ORDINARY);
}

static const struct {
    const char *name;
    void (*body)(void);
} tests[] = {
    {"direct", test_direct},
    {"shadow", test_shadow},
    {"tracked", test_tracked},
    {"ordinary", test_ordinary},
    {"shared-file", test_shared_file},
    {"forks", test_forks},
    {"forks-tracked", test_forks_tracked},
    {"forks-ordinary", test_forks_ordinary},
};

int main(int argc, char **argv)
{
    const char *seconds = g_getenv("ORACLE_SECONDS");
    if (argc > 2 && strcmp(argv[1], "--rounds") == 0) {
        rounds = strtoul(argv[2], NULL, 10);
        argv[2] = argv[0];
        argv += 2;
        argc -= 2;
    }
    if (seconds && *seconds)
        limit = g_ascii_strtod(seconds, NULL) / (3 * G_N_ELEMENTS(tests)); /* on three backends */
    test_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++)
        test_add(tests[i].name, tests[i].body, TEST_PLAIN);
    return g_test_run();
}
