/* SPDX-License-Identifier: MIT */
/* restore.c - what does it cost to change a view and put it back, over and over? */
#define _GNU_SOURCE
#include "bench/bench.h"
#include "memsnap.h"
#include "bench/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum set {
    STABLE, /* the same pages each time */
    RANDOM, /* other random pages each time */
    MOSTLY  /* nine in ten from the same few, one anywhere */
};

struct how {
    enum set set;
    size_t read;  /* pages only read, spread over the view */
    bool between; /* restore to the other of two snapshots, in turn */
};

struct subject {
    size_t size, pages, dirty;
    const struct how *how;
    const char *pristine;
    memsnap_snapshot *snapshots[2];
    memsnap_view *view;
    int fds[2];
    char *at;
    uint64_t random;
    unsigned turn;
};

/* ---- the work done on a view ----------------------------------------------------------------- */

static size_t next_page(struct subject *s, size_t i)
{
    size_t r;

    if (s->how->set == STABLE)
        return bench_spread(i, s->pages);
    r = (size_t)bench_random(&s->random);
    if (s->how->set == RANDOM || r % 10 == 0)
        return r / 10 % s->pages;
    return bench_spread(r / 10 % s->dirty, s->pages);
}

/* Each store makes its page differ from the base. */
static void work(struct subject *s)
{
    size_t page = bench_page(), reads = s->how->read < s->pages ? s->how->read : s->pages;
    volatile char *at = s->at;

    for (size_t i = 0; i < s->dirty; i++) {
        size_t offset = next_page(s, i) * page + 8;
        at[offset] = (char)~s->pristine[offset];
    }
    for (size_t i = 0; i < reads; i++)
        (void)at[i * (s->pages / reads) * page + 64];
}

static struct subject *subject(const struct bench_case *c)
{
    struct subject *s = calloc(1, sizeof *s);

    bench_check(s != NULL, "calloc");
    s->size = c->size;
    s->pages = c->size / bench_page();
    s->dirty = c->pages;
    s->how = c->how;
    s->pristine = bench_source(c->size);
    s->random = 7;
    s->fds[0] = s->fds[1] = -1;
    return s;
}

/* In how many pages, and which, the second of two snapshots differs from the first. */
static void differ(char *at, size_t pages)
{
    for (size_t i = 0; i < 16; i++)
        at[(bench_spread(i, pages) ^ 1) * bench_page() + 128]++;
}

/* ---- the library ----------------------------------------------------------------------------- */

static void *library_setup(const struct bench_case *c)
{
    struct subject *s = subject(c);

    bench_result(memsnap_snapshot_new(s->pristine, s->size, 0, &s->snapshots[0]),
                 "memsnap_snapshot_new");
    bench_result(memsnap_snapshot_view(s->snapshots[0], 0, &s->view), "memsnap_snapshot_view");
    s->at = memsnap_view_data(s->view);
    if (s->how->between) {
        differ(s->at, s->pages);
        bench_result(memsnap_view_take_snapshot(s->view, 0, &s->snapshots[1]),
                     "memsnap_view_take_snapshot");
    }
    return s;
}

static void library_restore(void *o)
{
    struct subject *s = o;

    if (s->how->between)
        bench_result(memsnap_view_restore_to(s->view, s->snapshots[++s->turn % 2]),
                     "memsnap_view_restore_to");
    else
        bench_result(memsnap_view_restore(s->view), "memsnap_view_restore");
}

static void library_cycle(void *o)
{
    work(o);
    library_restore(o);
}

static void library_teardown(void *o)
{
    struct subject *s = o;

    if (!s->how->between)
        bench_check(memcmp(s->at, s->pristine, s->size) == 0, "a restored view differs");
    memsnap_view_unref(s->view);
    for (int i = 0; i < 2; i++)
        memsnap_snapshot_unref(s->snapshots[i]);
    free(s);
}

/* ---- peers ----------------------------------------------------------------------------------- */

static void *map_setup(const struct bench_case *c)
{
    struct subject *s = subject(c);

    s->fds[0] = small_store(s->size);
    s->at = crate_view(s->fds[0], s->size);
    if (s->how->between) {
        differ(s->at, s->pages);
        s->fds[1] = crate_snapshot(s->at, s->size);
    }
    return s;
}

static void map_teardown(void *o)
{
    struct subject *s = o;

    munmap(s->at, s->size);
    for (int i = 0; i < 2; i++)
        if (s->fds[i] >= 0)
            close(s->fds[i]);
    free(s);
}

static void remap(void *o)
{
    struct subject *s = o;

    crate_restore(s->how->between ? s->fds[++s->turn % 2] : s->fds[0], s->at, s->size);
}

static void remap_cycle(void *o)
{
    work(o);
    remap(o);
}

static void dontneed_cycle(void *o)
{
    struct subject *s = o;

    work(s);
    bench_check(madvise(s->at, s->size, MADV_DONTNEED) == 0, "MADV_DONTNEED");
}

/* Every private page is copied back, whether or not it was written this time. */
static void copying_cycle(void *o)
{
    struct subject *s = o;

    work(s);
    scan_restore(s->at, s->pristine, s->size);
}

static void *plain_setup(const struct bench_case *c)
{
    struct subject *s = subject(c);

    bench_check((s->at = malloc(s->size)) != NULL, "malloc");
    memcpy(s->at, s->pristine, s->size);
    return s;
}

static void plain_teardown(void *o)
{
    free(((struct subject *)o)->at);
    free(o);
}

static void plain_cycle(void *o)
{
    struct subject *s = o;

    work(s);
    memcpy(s->at, s->pristine, s->size);
}

/* ---- a view that was read all over ----------------------------------------------------------- */

static void read_and_work(void *o)
{
    struct subject *s = o;

    bench_read(s->at, s->size);
    work(s);
}

#define LIBRARY                                                                                    \
    {                                                                                              \
        "library", library_setup, NULL, library_cycle, NULL, library_teardown, 0                   \
    }
#define REMAP(target)                                                                              \
    {                                                                                              \
        "remap", map_setup, NULL, remap_cycle, NULL, map_teardown, target                          \
    }
#define DONTNEED                                                                                   \
    {                                                                                              \
        "MADV_DONTNEED", map_setup, NULL, dontneed_cycle, NULL, map_teardown, 0                    \
    }
#define PLAIN                                                                                      \
    {                                                                                              \
        "memcpy of all", plain_setup, NULL, plain_cycle, NULL, plain_teardown, 0                   \
    }
#define COPYING                                                                                    \
    {                                                                                              \
        "copy always", map_setup, NULL, copying_cycle, NULL, map_teardown, 0                       \
    }

static const struct bench_side cycle_4k[] = {LIBRARY, REMAP(0), PLAIN};
static const struct bench_side cycle_64k[] = {LIBRARY, REMAP(15), DONTNEED, PLAIN};
static const struct bench_side cycle_1m[] = {LIBRARY, REMAP(9), DONTNEED, PLAIN};
static const struct bench_side cycle_64m[] = {LIBRARY, REMAP(6), DONTNEED};
static const struct bench_side many_64m[] = {LIBRARY, REMAP(7), DONTNEED};
static const struct bench_side many_1g[] = {LIBRARY, REMAP(4), DONTNEED};
static const struct bench_side in_turn[] = {LIBRARY, REMAP(6)};
static const struct bench_side wandering[] = {LIBRARY, REMAP(0.95)};
static const struct bench_side sweep[] = {LIBRARY, REMAP(0), DONTNEED};
static const struct bench_side working_set[] = {LIBRARY, REMAP(0.95), COPYING};
static const struct bench_side fully_read[] = {
    {"library", library_setup, read_and_work, library_restore, NULL, library_teardown, 0},
    {"remap", map_setup, read_and_work, remap, NULL, map_teardown, 2},
};

static const struct how stable = {STABLE, 64, false}, other = {RANDOM, 64, false},
                        alternate = {STABLE, 64, true}, stable_set = {STABLE, 0, false},
                        random_set = {RANDOM, 0, false}, mostly_set = {MOSTLY, 0, false};

#define CASE(text, bytes, n, what, time, s)                                                        \
    {                                                                                              \
        .name = text, .size = bytes, .pages = n, .how = &what, .seconds = time, .warmup = 5,       \
        .sides = s, .n_sides = sizeof s / sizeof *s                                                \
    }
/* Enough cycles first for a strategy to show where it ends, and so many in one timing that its
 * rare expensive ones are in it. */
#define SET(text, n, what, time, cycles)                                                           \
    {                                                                                              \
        .name = text, .size = 64 * MIB, .pages = n, .how = &what, .seconds = time,                 \
        .warmup = n > 100 ? 40 : 300, .batch = cycles, .best = true, .sides = working_set,         \
        .n_sides = 3                                                                               \
    }

static const struct bench_case cycles[] = {
    CASE("restore cycle, 1 page of 4 KiB", 4 * KIB, 1, stable, 0.3, cycle_4k),
    CASE("restore cycle, 16 pages of 64 KiB", 64 * KIB, 16, stable, 0.5, cycle_64k),
    CASE("restore cycle, 16 pages of 1 MiB", MIB, 16, stable, 0.5, cycle_1m),
    CASE("restore cycle, 16 pages of 64 MiB", 64 * MIB, 16, stable, 1, cycle_64m),
    CASE("restore cycle, 4096 pages of 64 MiB", 64 * MIB, 4096, stable, 2.5, many_64m),
    CASE("restore cycle, 4096 pages of 1 GiB", GIB, 4096, stable, 3, many_1g),
    CASE("restore of a fully read view, 16 of 64 MiB", 64 * MIB, 16, stable, 1.5, fully_read),
    CASE("restore_to in turn, 16 pages of 64 MiB", 64 * MIB, 16, alternate, 0.7, in_turn),
    {.name = "restore cycle, 16 other pages of 64 MiB",
     .size = 64 * MIB,
     .pages = 16,
     .how = &other,
     .seconds = 1,
     .warmup = 500,
     .batch = 64,
     .sides = wandering,
     .n_sides = 2},
    {.name = "restore cycle, 1024 other pages of 64 MiB",
     .size = 64 * MIB,
     .pages = 1024,
     .how = &other,
     .seconds = 2.5,
     .warmup = 40,
     .batch = 16,
     .sides = wandering,
     .n_sides = 2},
};

static const struct bench_case sets[] = {
    SET("working set: stable, 16 of 64 MiB", 16, stable_set, 1, 32),
    SET("working set: random, 16 of 64 MiB", 16, random_set, 1.5, 32),
    SET("working set: 90/10, 16 of 64 MiB", 16, mostly_set, 1.5, 32),
    SET("working set: stable, 1024 of 64 MiB", 1024, stable_set, 2, 8),
    SET("working set: random, 1024 of 64 MiB", 1024, random_set, 2.5, 8),
    SET("working set: 90/10, 1024 of 64 MiB", 1024, mostly_set, 2.5, 8),
};

/* The same cycle over the number of pages: for the plot. */
static void run_sweep(void)
{
    for (size_t n = 1; n <= 16384; n *= 4) {
        char name[64];
        struct bench_case c = CASE(name, 64 * MIB, n, stable, 0.3, sweep);

        snprintf(name, sizeof name, "sweep: restore cycle, %zu of 64 MiB", n);
        bench_run(&c);
    }
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, "restore");
    for (size_t i = 0; i < sizeof cycles / sizeof *cycles; i++)
        bench_run(&cycles[i]);
    if (!scan_available())
        fprintf(stderr,
                "restore: no PAGEMAP_SCAN here: working sets are not compared with copying\n");
    else
        for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
            bench_run(&sets[i]);
    run_sweep();
    return bench_end();
}
