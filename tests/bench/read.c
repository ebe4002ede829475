/* SPDX-License-Identifier: MIT */
/* read.c - what does the first read of every page of a fresh view cost? */
#include "bench/bench.h"
#include "memsnap.h"
#include "bench/peers.h"

#include <stdlib.h>
#include <unistd.h>

struct subject {
    size_t size;
    memsnap_snapshot *snapshot;
    memsnap_view *view;
    int fd;
    char *at;
};

static void *library_setup(const struct bench_case *c)
{
    struct subject *s = calloc(1, sizeof *s);

    bench_check(s != NULL, "calloc");
    s->size = c->size;
    bench_result(memsnap_snapshot_new(bench_source(c->size), c->size, 0, &s->snapshot),
                 "memsnap_snapshot_new");
    bench_result(memsnap_snapshot_set_recycling(s->snapshot, 0), "memsnap_snapshot_set_recycling");
    return s;
}

static void library_open(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_snapshot_view(s->snapshot, 0, &s->view), "memsnap_snapshot_view");
    s->at = memsnap_view_data(s->view);
}

static void library_close(void *o)
{
    memsnap_view_unref(((struct subject *)o)->view);
}

static void library_teardown(void *o)
{
    memsnap_snapshot_unref(((struct subject *)o)->snapshot);
    free(o);
}

static void *small_setup(const struct bench_case *c)
{
    struct subject *s = calloc(1, sizeof *s);

    bench_check(s != NULL, "calloc");
    s->size = c->size;
    s->fd = small_store(c->size);
    return s;
}

static void small_open(void *o)
{
    struct subject *s = o;

    s->at = crate_view(s->fd, s->size);
}

static void small_close(void *o)
{
    struct subject *s = o;

    munmap(s->at, s->size);
}

static void small_teardown(void *o)
{
    close(((struct subject *)o)->fd);
    free(o);
}

static void read_all(void *o)
{
    struct subject *s = o;

    bench_read(s->at, s->size);
}

#define SIDES(name, target)                                                                        \
    static const struct bench_side name[] = {                                                      \
        {"library", library_setup, library_open, read_all, library_close, library_teardown, 0},    \
        {"small-page mapping", small_setup, small_open, read_all, small_close, small_teardown,     \
         target},                                                                                  \
    }

SIDES(sides_1m, 0);
SIDES(sides_64m, 10);
SIDES(sides_1g, 15);

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {.name = "first read 1 MiB",
         .size = MIB,
         .seconds = 0.3,
         .warmup = 2,
         .sides = sides_1m,
         .n_sides = 2},
        {.name = "first read 64 MiB",
         .size = 64 * MIB,
         .seconds = 1,
         .warmup = 2,
         .sides = sides_64m,
         .n_sides = 2},
        {.name = "first read 1 GiB",
         .size = GIB,
         .seconds = 3,
         .warmup = 1,
         .sides = sides_1g,
         .n_sides = 2},
    };

    bench_begin(argc, argv, "read");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        bench_run(&cases[i]);
    return bench_end();
}
