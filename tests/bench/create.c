/* SPDX-License-Identifier: MIT */
/* create.c - what does it cost to make a snapshot from bytes? */
#define _GNU_SOURCE
#include "bench/bench.h"
#include "memsnap.h"
#include "bench/peers.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct subject {
    size_t size;
    const char *bytes;
    memsnap_snapshot *snapshot;
    int fd;
    char *copy;
};

static void *setup(const struct bench_case *c)
{
    struct subject *s = calloc(1, sizeof *s);

    bench_check(s != NULL, "calloc");
    s->size = c->size;
    s->bytes = bench_source(c->size);
    return s;
}

static void warm(void *o)
{
    struct subject *s = o;

    if (s->size >= 64 * MIB)
        bench_warm(s->size);
}

static void library_create(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_snapshot_new(s->bytes, s->size, 0, &s->snapshot), "memsnap_snapshot_new");
}

static void library_free(void *o)
{
    memsnap_snapshot_unref(((struct subject *)o)->snapshot);
}

static void library_both(void *o)
{
    library_create(o);
    library_free(o);
}

static void library_zeroed(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_snapshot_new_zeroed(s->size, 0, &s->snapshot),
                 "memsnap_snapshot_new_zeroed");
    library_free(o);
}

static void crate_create(void *o)
{
    struct subject *s = o;

    s->fd = crate_snapshot(s->bytes, s->size);
}

static void crate_free(void *o)
{
    close(((struct subject *)o)->fd);
}

static void crate_both(void *o)
{
    crate_create(o);
    crate_free(o);
}

static void crate_zeroed(void *o)
{
    struct subject *s = o;

    s->fd = memfd_create("bench", 0);
    bench_check(s->fd >= 0 && ftruncate(s->fd, (off_t)s->size) == 0, "memfd");
    close(s->fd);
}

static void copy_create(void *o)
{
    struct subject *s = o;

    bench_check((s->copy = malloc(s->size)) != NULL, "malloc");
    memcpy(s->copy, s->bytes, s->size);
}

static void copy_free(void *o)
{
    free(((struct subject *)o)->copy);
}

static void copy_both(void *o)
{
    copy_create(o);
    copy_free(o);
}

#define SIDES(name, against_crate, against_copy)                                                   \
    static const struct bench_side name[] = {                                                      \
        {"library", setup, warm, library_create, library_free, free, 0},                           \
        {"crate", setup, warm, crate_create, crate_free, free, against_crate},                     \
        {"malloc + memcpy", setup, warm, copy_create, copy_free, free, against_copy},              \
    }

SIDES(sides_4k, 4, 0);
SIDES(sides_64k, 2.5, 0);
SIDES(sides_64m, 4.5, 2.5);
SIDES(sides_1g, 5, 0);

static const struct bench_side both[] = {
    {"library", setup, NULL, library_both, NULL, free, 0},
    {"crate", setup, NULL, crate_both, NULL, free, 0},
    {"malloc + memcpy", setup, NULL, copy_both, NULL, free, 0},
};

static const struct bench_side zeroed[] = {
    {"library", setup, NULL, library_zeroed, NULL, free, 0},
    {"crate", setup, NULL, crate_zeroed, NULL, free, 0},
};

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {.name = "create 4 KiB",
         .size = 4 * KIB,
         .seconds = 0.3,
         .warmup = 50,
         .sides = sides_4k,
         .n_sides = 3},
        {.name = "create 64 KiB",
         .size = 64 * KIB,
         .seconds = 0.5,
         .warmup = 20,
         .sides = sides_64k,
         .n_sides = 3},
        {.name = "create 1 MiB",
         .size = MIB,
         .seconds = 0.7,
         .warmup = 5,
         .sides = sides_64k,
         .n_sides = 3},
        {.name = "create 64 MiB",
         .size = 64 * MIB,
         .seconds = 2.5,
         .warmup = 1,
         .sides = sides_64m,
         .n_sides = 3},
        {.name = "create 1 GiB",
         .size = GIB,
         .seconds = 8,
         .warmup = 1,
         .sides = sides_1g,
         .n_sides = 3},
        {.name = "create + free 4 KiB",
         .size = 4 * KIB,
         .seconds = 0.3,
         .sides = both,
         .n_sides = 3},
        {.name = "create + free 64 KiB",
         .size = 64 * KIB,
         .seconds = 0.5,
         .sides = both,
         .n_sides = 3},
        {.name = "create + free 1 MiB", .size = MIB, .seconds = 0.7, .sides = both, .n_sides = 3},
        {.name = "create + free 64 MiB",
         .size = 64 * MIB,
         .seconds = 2,
         .sides = both,
         .n_sides = 3},
        {.name = "create + free 1 GiB of zeros",
         .size = GIB,
         .seconds = 0.2,
         .sides = zeroed,
         .n_sides = 2},
    };

    bench_begin(argc, argv, "create");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        bench_run(&cases[i]);
    return bench_end();
}
