/* SPDX-License-Identifier: MIT */
/* A server's life: for as long as one likes, threads do at once what the library is for, and
 * check every byte they get back. Meanwhile the process is sampled, and at the end it must hold
 * no more memory, mappings and descriptors than early on.
 *
 *     soak [-t SECONDS] [-o FILE.tsv] [-p MICROSECONDS]
 *
 *     -t  how long: 60 by default
 *     -o  where the samples go: standard output by default; soak.gp draws them
 *     -p  how long each thread pauses between two operations: not at all by default
 *
 * The first tenth of the run, and at least so many seconds as some forks take, is warm-up. Of
 * the rest, the medians of the first and the last quarter are compared. */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "support/support.h"

enum { MAX_SAMPLES = 360, MIN_WARM_UP = 20 };

static unsigned seconds = 60, pause_us;
static atomic_bool stop;

/* ---- what is measured ------------------------------------------------------------------------ */

enum kind { OPEN, TAKE, ATOMIC, RESTORE, RESTORE_TO, SAVE, DELTA, EXPORT, FORK, KINDS };

static const char *const kind_names[KINDS] = {"open",    "take",       "take-atomic",
                                              "restore", "restore-to", "save",
                                              "delta",   "export",     "fork"};

static struct {
    atomic_ullong ns, calls;
} spent[KINDS];

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void account(enum kind kind, uint64_t begun)
{
    atomic_fetch_add_explicit(&spent[kind].ns, now() - begun, memory_order_relaxed);
    atomic_fetch_add_explicit(&spent[kind].calls, 1, memory_order_relaxed);
}

static memsnap_view *timed_view(memsnap_snapshot *s)
{
    uint64_t begun = now();
    memsnap_view *v = view(s);
    account(OPEN, begun);
    return v;
}

static memsnap_snapshot *timed_take(memsnap_view *v)
{
    uint64_t begun = now();
    memsnap_snapshot *s = take(v);
    account(TAKE, begun);
    return s;
}

static void timed_restore(memsnap_view *v)
{
    uint64_t begun = now();
    assert_ok(memsnap_view_restore(v));
    account(RESTORE, begun);
}

static void timed_restore_to(memsnap_view *v, memsnap_snapshot *s)
{
    uint64_t begun = now();
    assert_ok(memsnap_view_restore_to(v, s));
    account(RESTORE_TO, begun);
}

static bool go_on(void)
{
    if (pause_us > 0)
        usleep(pause_us);
    return !atomic_load_explicit(&stop, memory_order_relaxed);
}

static bool one_in(struct rng *rng, size_t n)
{
    return rng_below(rng, n) == 0;
}

/* One to `limit` short changes in a view and its model. */
static void change(memsnap_view *v, unsigned char *model, size_t size, size_t limit,
                   struct rng *rng)
{
    for (size_t i = 1 + rng_below(rng, limit); i > 0; i--) {
        size_t at = rng_below(rng, size),
               len = ms_min(size - at, one_in(rng, 2) ? 8 : 1 + rng_below(rng, 2 * page));
        fill(model + at, len, rng_next(rng));
        memcpy(bytes(v) + at, model + at, len);
    }
}

static void check_equal(memsnap_snapshot *a, memsnap_snapshot *b)
{
    struct memsnap_range range;
    size_t cursor = 0;
    g_assert_cmpint(memsnap_snapshot_diff(a, b, &cursor, &range, 1), ==, 0);
}

/* ---- requests: views that are opened, changed and closed ------------------------------------- */

enum { PREPARED_SIZE = 4 << 20 | 77, STORES = 16 };

static memsnap_snapshot *prepared;
static unsigned char *prepared_bytes;

static void check_prepared(memsnap_view *v, struct rng *rng)
{
    for (int i = 0; i < 4; i++) {
        size_t at = rng_below(rng, PREPARED_SIZE), len = ms_min(PREPARED_SIZE - at, page);
        assert_same(bytes(v) + at, prepared_bytes + at, len);
    }
}

static void check_dirty(memsnap_view *v)
{
    struct memsnap_range range;
    size_t cursor = 0, at = 0;
    for (int n; (n = memsnap_view_dirty(v, &cursor, &range, 1)) != 0;) {
        g_assert_cmpint(n, ==, 1);
        check_ranges(&range, n, bytes(v), prepared_bytes, PREPARED_SIZE, &at);
    }
}

static void check_child(memsnap_view *v, unsigned char *buf)
{
    memsnap_snapshot *t = timed_take(v);
    assert_ok(memsnap_snapshot_read(t, 0, buf, PREPARED_SIZE));
    assert_same(buf, bytes(v), PREPARED_SIZE);
    memsnap_snapshot_unref(t);
}

/* What the last request stored must be gone in the next: `stored` has where. */
static void request(size_t stored[STORES], unsigned char *buf, struct rng *rng)
{
    memsnap_view *v = timed_view(prepared);
    unsigned char *p = bytes(v);
    check_prepared(v, rng);
    for (size_t i = 0; i < STORES; i++)
        g_assert_cmpuint(p[stored[i]], ==, prepared_bytes[stored[i]]);
    for (size_t i = rng_below(rng, STORES); i < STORES; i++) {
        stored[i] = rng_below(rng, PREPARED_SIZE);
        p[stored[i]] ^= (unsigned char)(1 + rng_below(rng, 255));
    }
    if (one_in(rng, 32))
        check_dirty(v);
    if (one_in(rng, 64))
        check_child(v, buf);
    if (one_in(rng, 32)) {
        timed_restore(v);
        check_prepared(v, rng);
    }
    if (one_in(rng, 512)) {
        timed_restore(v);
        assert_same(p, prepared_bytes, PREPARED_SIZE);
    }
    if (one_in(rng, 64))
        assert_ok(memsnap_view_protect(v, page * rng_below(rng, PREPARED_SIZE / page), page,
                                       MEMSNAP_ACCESS_NONE));
    memsnap_view_unref(v);
}

static void *serve(void *seed)
{
    struct rng rng = {*(const uint64_t *)seed};
    unsigned char *buf = g_malloc(PREPARED_SIZE);
    size_t stored[STORES] = {0};
    while (go_on()) {
        request(stored, buf, &rng);
        if (one_in(&rng, 4096))
            assert_ok(memsnap_snapshot_set_recycling(prepared, (unsigned)rng_below(&rng, 12)));
    }
    g_free(buf);
    return NULL;
}

/* ---- a chain of snapshots, of which the oldest is dropped for each new one ------------------- */

enum { CHAIN_SIZE = 2 << 20 | 5, CHAIN = 48 };

struct chain {
    struct rng rng;
    memsnap_view *v;
    unsigned char *model, *base;
    memsnap_snapshot *kept[CHAIN]; /* the newest is at (taken - 1) % CHAIN */
    uint64_t hashes[CHAIN];
    size_t taken;
};

static void chain_take(struct chain *c)
{
    size_t i = c->taken++ % CHAIN;
    if (c->kept[i] && one_in(&c->rng, 8)) {
        assert_ok(memsnap_snapshot_read(c->kept[i], 0, c->base + CHAIN_SIZE, CHAIN_SIZE));
        g_assert_cmpuint(hash(c->base + CHAIN_SIZE, CHAIN_SIZE), ==, c->hashes[i]);
    }
    memsnap_snapshot_unref(c->kept[i]);
    c->kept[i] = timed_take(c->v);
    c->hashes[i] = hash(c->model, CHAIN_SIZE);
}

static void chain_restore(struct chain *c)
{
    timed_restore(c->v);
    memcpy(c->model, c->base, CHAIN_SIZE);
    assert_same(bytes(c->v), c->model, CHAIN_SIZE);
}

/* What is shown now, and is what hash says, is the base. */
static void chain_rebase(struct chain *c, uint64_t expected)
{
    memcpy(c->base, bytes(c->v), CHAIN_SIZE);
    memcpy(c->model, c->base, CHAIN_SIZE);
    g_assert_cmpuint(hash(c->base, CHAIN_SIZE), ==, expected);
}

static void chain_go_to(struct chain *c)
{
    size_t i = rng_below(&c->rng, ms_min(c->taken, CHAIN));
    timed_restore_to(c->v, c->kept[i]);
    chain_rebase(c, c->hashes[i]);
}

static void chain_reopen(struct chain *c)
{
    size_t i = (c->taken - 1) % CHAIN;
    memsnap_view_unref(c->v);
    c->v = timed_view(c->kept[i]);
    chain_rebase(c, c->hashes[i]);
}

static void *keep_chain(void *seed)
{
    struct chain c = {.rng = {*(const uint64_t *)seed},
                      .model = pattern(CHAIN_SIZE, 1),
                      .base = g_malloc(2 * CHAIN_SIZE)};
    memsnap_snapshot *root = snap(c.model, CHAIN_SIZE);
    memcpy(c.base, c.model, CHAIN_SIZE);
    c.v = view(root);
    memsnap_snapshot_unref(root);
    while (go_on()) {
        change(c.v, c.model, CHAIN_SIZE, 8, &c.rng);
        chain_take(&c);
        if (one_in(&c.rng, 20))
            chain_restore(&c);
        if (one_in(&c.rng, 20))
            chain_go_to(&c);
        if (one_in(&c.rng, 100))
            chain_reopen(&c);
    }
    for (int i = 0; i < CHAIN; i++)
        memsnap_snapshot_unref(c.kept[i]);
    memsnap_view_unref(c.v);
    g_free(c.model);
    g_free(c.base);
    return NULL;
}

/* ---- a mutable view, threads that store to it, and cuts meanwhile ---------------------------- */

/* Each storing thread counts up its word on every page, page after page: in a single instant no
 * page is ahead of the one before it, and the last is one behind the first at the most. */
enum { LIVE_PAGES = 64, STORING = 2, LIVE_WORDS = STORING * 16, CUTS = 8 };

typedef _Atomic uint32_t word;

struct storing {
    pthread_t thread;
    unsigned char *p;
    size_t number;
    uint32_t count; /* in: where to go on; out, after the join: the last one */
    atomic_bool *stop;
};

static void *count_up(void *arg)
{
    struct storing *s = arg;
    while (!atomic_load_explicit(s->stop, memory_order_relaxed)) {
        s->count++;
        for (size_t i = 0; i < LIVE_PAGES; i++)
            atomic_store_explicit((word *)(void *)(s->p + i * page) + s->number * 16, s->count,
                                  memory_order_release);
        if (pause_us > 0)
            usleep(pause_us);
    }
    return NULL;
}

/* No word is behind what an earlier cut had; `instant`: they also belong together. */
static void check_cut(memsnap_snapshot *t, uint32_t seen[STORING][LIVE_PAGES], bool instant)
{
    uint32_t words[LIVE_PAGES][LIVE_WORDS];
    for (size_t i = 0; i < LIVE_PAGES; i++)
        assert_ok(memsnap_snapshot_read(t, i * page, words[i], sizeof words[i]));
    for (size_t k = 0; k < STORING; k++) {
        for (size_t i = 0; i < LIVE_PAGES; i++) {
            g_assert_cmpuint(words[i][k * 16], >=, seen[k][i]);
            seen[k][i] = words[i][k * 16];
            g_assert_true(!instant || i == 0 || words[i][k * 16] <= words[i - 1][k * 16]);
        }
        g_assert_true(!instant || words[0][k * 16] - words[LIVE_PAGES - 1][k * 16] <= 1);
    }
}

/* An atomic cut, where such can be had. */
static memsnap_snapshot *cut_atomically(memsnap_view *m)
{
    memsnap_snapshot *t = NULL;
    uint64_t begun = now();
    int r = memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &t);
    if (r == -ENOTSUP)
        return NULL;
    assert_ok(r);
    account(ATOMIC, begun);
    return t;
}

static void make_cuts(memsnap_snapshot *s, memsnap_view *m, struct rng *rng)
{
    uint32_t seen[STORING][LIVE_PAGES] = {{0}};
    memsnap_snapshot *kept[CUTS] = {NULL};
    for (size_t i = 0; i < 4 * CUTS && go_on(); i++) {
        bool atomic = one_in(rng, 2);
        memsnap_snapshot *t = atomic           ? cut_atomically(m)
                              : one_in(rng, 3) ? snap_clone(s)
                                               : timed_take(m);
        if (!t)
            continue;
        check_cut(t, seen, atomic);
        memsnap_snapshot_unref(kept[i % CUTS]);
        kept[i % CUTS] = t;
    }
    for (size_t i = 0; i < CUTS; i++)
        memsnap_snapshot_unref(kept[i]);
}

/* Every thread's last store is there. */
static void check_last(const unsigned char *p, const struct storing *w)
{
    for (size_t k = 0; k < STORING; k++) {
        for (size_t i = 0; i < LIVE_PAGES; i++) {
            uint32_t value;
            memcpy(&value, p + i * page + k * 64, sizeof value);
            g_assert_cmpuint(value, ==, w[k].count);
        }
    }
}

static void one_lease(memsnap_snapshot *s, struct storing *w, struct rng *rng)
{
    atomic_bool enough = false;
    memsnap_view *m = view_mut(s);
    check_last(bytes(m), w);
    for (size_t k = 0; k < STORING; k++) {
        w[k].p = bytes(m);
        w[k].number = k;
        w[k].stop = &enough;
        g_assert_cmpint(pthread_create(&w[k].thread, NULL, count_up, &w[k]), ==, 0);
    }
    make_cuts(s, m, rng);
    atomic_store(&enough, true);
    for (size_t k = 0; k < STORING; k++)
        pthread_join(w[k].thread, NULL);
    check_last(bytes(m), w);
    memsnap_view_unref(m);
}

/* Goes back to what was before the last lease. */
static void roll_back(memsnap_snapshot *s, memsnap_snapshot *before)
{
    memsnap_view *m = view_mut(s);
    timed_restore_to(m, before);
    memsnap_view_unref(m);
    check_equal(s, before);
}

static void *store_live(void *seed)
{
    struct rng rng = {*(const uint64_t *)seed};
    memsnap_snapshot *s = snap_zero(LIVE_PAGES * page);
    struct storing w[STORING] = {{.count = 0}};
    while (go_on()) {
        struct storing then[STORING];
        memsnap_snapshot *before = one_in(&rng, 3) ? snap_clone(s) : NULL;
        memcpy(then, w, sizeof then);
        one_lease(s, w, &rng);
        memsnap_view *v = timed_view(s);
        check_last(bytes(v), w);
        memsnap_view_unref(v);
        if (!before)
            continue;
        roll_back(s, before);
        memcpy(w, then, sizeof w);
        memsnap_snapshot_unref(before);
    }
    memsnap_snapshot_unref(s);
    return NULL;
}

/* ---- files, deltas, descriptors -------------------------------------------------------------- */

enum { SAVED_SIZE = 1 << 20 | 3 };

static void save_and_load(memsnap_snapshot *s, const char *path, struct rng *rng)
{
    memsnap_snapshot *t = NULL;
    unsigned flags = one_in(rng, 32) ? 0 : MEMSNAP_SAVE_NOSYNC;
    uint64_t begun = now();
    assert_ok(memsnap_snapshot_save(s, path, flags));
    account(SAVE, begun);
    assert_ok(memsnap_snapshot_new_from_file(path, 0, &t));
    check_equal(s, t);
    memsnap_snapshot_unref(t);
}

static void save_and_load_delta(memsnap_snapshot *s, memsnap_snapshot *base, const char *path)
{
    memsnap_snapshot *t = NULL;
    uint64_t begun = now();
    assert_ok(memsnap_snapshot_save_delta(s, base, path, MEMSNAP_SAVE_NOSYNC));
    assert_ok(memsnap_snapshot_load_delta(base, path, 0, &t));
    account(DELTA, begun);
    check_equal(s, t);
    memsnap_snapshot_unref(t);
}

static void export_and_adopt(memsnap_snapshot *s)
{
    memsnap_snapshot *t = NULL;
    int fd = -1;
    uint64_t begun = now();
    int r = memsnap_snapshot_export_fd(s, &fd);
    if (r == -ENOTSUP)
        return;
    assert_ok(r);
    assert_ok(memsnap_snapshot_new_from_fd(fd, 0, &t));
    account(EXPORT, begun);
    close(fd);
    check_equal(s, t);
    memsnap_snapshot_unref(t);
}

/* The base moves on with each round, so that the family lives for ever while its members do not. */
static void *keep_files(void *seed)
{
    struct rng rng = {*(const uint64_t *)seed};
    char *image = temp_path("image"), *delta = temp_path("delta");
    unsigned char *model = pattern(SAVED_SIZE, 2);
    memsnap_snapshot *base = snap(model, SAVED_SIZE);
    while (go_on()) {
        memsnap_view *v = timed_view(base);
        change(v, model, SAVED_SIZE, 12, &rng);
        memsnap_snapshot *s = timed_take(v);
        assert_same(bytes(v), model, SAVED_SIZE);
        memsnap_view_unref(v);
        save_and_load_delta(s, base, delta);
        if (one_in(&rng, 4))
            save_and_load(s, image, &rng);
        if (one_in(&rng, 4))
            export_and_adopt(s);
        memsnap_snapshot_unref(base);
        base = s;
    }
    memsnap_snapshot_unref(base);
    g_free(model);
    g_free(image);
    g_free(delta);
    return NULL;
}

/* ---- children -------------------------------------------------------------------------------- */

static void use_in_child(void *arg)
{
    (void)arg;
    memsnap_view *v = view(prepared);
    assert_same(bytes(v), prepared_bytes, PREPARED_SIZE);
    memset(bytes(v) + page, 1, 3 * page);
    memsnap_snapshot *t = take(v);
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), prepared_bytes, PREPARED_SIZE);
    assert_ok(memsnap_view_restore_to(v, t));
    g_assert_cmpuint(bytes(v)[page], ==, 1);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(t);
}

static void *fork_now_and_then(void *seed)
{
    (void)seed;
    if (on_sanitizer()) {
        fprintf(stderr, "no forks: with threads they are not for sanitizers\n");
        return NULL;
    }
    for (unsigned i = 1; go_on(); i++) {
        g_usleep(100000);
        if (i % 20 > 0)
            continue;
        uint64_t begun = now();
        child_run(use_in_child, NULL);
        account(FORK, begun);
    }
    return NULL;
}

/* ---- samples --------------------------------------------------------------------------------- */

/* What must not grow, in the units of the table, and what it may grow by beside a twentieth: the
 * work is random. What is stored hangs most on the forks: up to eight stores of each family wait
 * for their last page to go. */
enum column { ANON, SHMEM, OBJECTS, MAPPINGS, DESCRIPTORS, COLUMNS };

static const struct {
    const char *name;
    double allowance;
} columns[COLUMNS] = {
    {"anon_mib", 2}, {"shmem_mib", 16}, {"objects_mib", 16}, {"mappings", 16}, {"descriptors", 4},
};

struct sample {
    double at; /* seconds */
    double held[COLUMNS];
    double us[KINDS]; /* an operation's mean since the last sample; 0: there was none */
};

static struct sample samples[MAX_SAMPLES];
static size_t n_samples;

static void take_sample(double at)
{
    static unsigned long long ns_before[KINDS], calls_before[KINDS];
    struct sample *s = &samples[n_samples++];
    s->at = at;
    s->held[ANON] = (double)resident("RssAnon") / (double)MIB;
    s->held[SHMEM] = (double)resident("RssShmem") / (double)MIB;
    s->held[OBJECTS] = (double)object_bytes() / (double)MIB;
    s->held[MAPPINGS] = (double)mappings();
    s->held[DESCRIPTORS] = (double)descriptors();
    for (int k = 0; k < KINDS; k++) {
        unsigned long long ns = atomic_load(&spent[k].ns), calls = atomic_load(&spent[k].calls);
        if (calls > calls_before[k])
            s->us[k] = (double)(ns - ns_before[k]) / (double)(calls - calls_before[k]) / 1000;
        ns_before[k] = ns;
        calls_before[k] = calls;
    }
}

static void tell(const struct sample *s)
{
    fprintf(stderr,
            "%6.0f s: anon %.1f MiB, shmem %.1f MiB, objects %.1f MiB, %.0f mappings, %.0f "
            "descriptors\n",
            s->at, s->held[ANON], s->held[SHMEM], s->held[OBJECTS], s->held[MAPPINGS],
            s->held[DESCRIPTORS]);
}

/* A machine that stood still leaves a gap, not a row of samples of one moment. */
static void watch(void)
{
    uint64_t begun = now(), all = (uint64_t)seconds * 1000000000,
             interval = ms_max(all / MAX_SAMPLES, 250000000), next = interval;
    while (n_samples < MAX_SAMPLES && next <= all) {
        uint64_t at = now() - begun;
        if (at < next) {
            usleep(20000);
            continue;
        }
        take_sample((double)at / 1e9);
        if (n_samples % 20 == 0)
            tell(&samples[n_samples - 1]);
        next = at - at % interval + interval;
    }
}

static void print_samples(FILE *f)
{
    struct utsname u;
    uname(&u);
    fprintf(f, "# libmemsnap %s, %s %s %s, %ld CPUs, %u seconds, pauses of %u us\n",
            memsnap_version_string(), u.sysname, u.release, u.machine,
            sysconf(_SC_NPROCESSORS_ONLN), seconds, pause_us);
    fprintf(f, "#");
    for (int k = 0; k < KINDS; k++)
        fprintf(f, " %s: %llu%s", kind_names[k], atomic_load(&spent[k].calls),
                k < KINDS - 1 ? "," : " operations\n");
    fprintf(f, "seconds");
    for (int c = 0; c < COLUMNS; c++)
        fprintf(f, "\t%s", columns[c].name);
    for (int k = 0; k < KINDS; k++)
        fprintf(f, "\t%s_us", kind_names[k]);
    for (size_t i = 0; i < n_samples; i++) {
        const struct sample *s = &samples[i];
        fprintf(f, "\n%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f", s->at, s->held[ANON], s->held[SHMEM],
                s->held[OBJECTS], s->held[MAPPINGS], s->held[DESCRIPTORS]);
        for (int k = 0; k < KINDS; k++) {
            if (s->us[k] > 0)
                fprintf(f, "\t%.2f", s->us[k]);
            else
                fprintf(f, "\t-");
        }
    }
    fprintf(f, "\n");
}

/* ---- the verdict ----------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, compare);
    return n > 0 ? v[n / 2] : 0;
}

static double median_held(enum column c, size_t from, size_t n)
{
    double v[MAX_SAMPLES];
    for (size_t i = 0; i < n; i++)
        v[i] = samples[from + i].held[c];
    return median(v, n);
}

/* Of the samples in which there was such an operation. */
static double median_us(enum kind k, size_t from, size_t n)
{
    double v[MAX_SAMPLES];
    size_t some = 0;
    for (size_t i = 0; i < n; i++)
        if (samples[from + i].us[k] > 0)
            v[some++] = samples[from + i].us[k];
    return median(v, some);
}

static size_t warm_up_samples(void)
{
    size_t n = n_samples / 10;
    while (n < n_samples && samples[n].at < MIN_WARM_UP)
        n++;
    return n;
}

static bool verdict(FILE *f)
{
    size_t warm = warm_up_samples(), quarter = (n_samples - warm) / 4, last = n_samples - quarter;
    bool flat = true;
    if (quarter == 0) {
        fprintf(f, "# too short for a verdict\n");
        return true;
    }
    for (int k = 0; k < KINDS; k++)
        fprintf(f, "# %s_us: %.2f in the first quarter, %.2f in the last\n", kind_names[k],
                median_us(k, warm, quarter), median_us(k, last, quarter));
    for (int c = 0; c < COLUMNS; c++) {
        double early = median_held(c, warm, quarter), late = median_held(c, last, quarter);
        /* which keeps what was freed for a while */
        bool judged = c != ANON || !on_sanitizer();
        bool grew = late > early * 1.05 + columns[c].allowance;
        fprintf(f, "# %s: %.1f in the first quarter, %.1f in the last%s\n", columns[c].name, early,
                late,
                !judged ? " (not judged)"
                : grew  ? ": IT GREW"
                        : "");
        flat = flat && (!judged || !grew);
    }
    fprintf(f, flat ? "# flat\n" : "# NOT flat\n");
    return flat;
}

/* ---- the run --------------------------------------------------------------------------------- */

static void run(void)
{
    void *(*bodies[])(void *) = {keep_chain, store_live, keep_files, fork_now_and_then,
                                 serve,      serve,      serve};
    enum { THREADS = G_N_ELEMENTS(bodies) };
    pthread_t threads[THREADS];
    uint64_t seeds[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        seeds[i] = now() + i;
    prepared_bytes = pattern(PREPARED_SIZE, 3);
    memset(prepared_bytes + PREPARED_SIZE / 2, 0, PREPARED_SIZE / 8);
    prepared = snap(prepared_bytes, PREPARED_SIZE);
    g_free(temp_path("the directory is made before there are threads"));
    for (size_t i = 0; i < THREADS; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, bodies[i], &seeds[i]), ==, 0);
    watch();
    atomic_store(&stop, true);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_content(prepared, prepared_bytes, PREPARED_SIZE);
    memsnap_snapshot_unref(prepared);
    g_free(prepared_bytes);
    temp_clean();
}

int main(int argc, char **argv)
{
    FILE *f = stdout;
    for (int c; (c = getopt(argc, argv, "t:o:p:")) != -1;) {
        if (c == 't')
            seconds = (unsigned)atoi(optarg);
        else if (c == 'p')
            pause_us = (unsigned)atoi(optarg);
        else if (c != 'o' || !(f = fopen(optarg, "w")))
            return 2;
    }
    page = memsnap_page_size();
    run();
    print_samples(f);
    bool flat = verdict(f);
    if (f != stdout)
        verdict(stderr);
    return fclose(f) == 0 && flat ? 0 : 1;
}
