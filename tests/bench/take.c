/* SPDX-License-Identifier: MIT */
/* take.c - what does it cost to take a snapshot of a view after some of it was changed? */
#include "bench/bench.h"
#include "memsnap.h"
#include "bench/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct subject {
    size_t size, pages, dirty;
    memsnap_snapshot *snapshot, *child;
    memsnap_view *view;
    int fd, child_fd;
    char *at, *copy;
    unsigned turn;
};

static struct subject *subject(const struct bench_case *c)
{
    struct subject *s = calloc(1, sizeof *s);

    bench_check(s != NULL, "calloc");
    s->size = c->size;
    s->pages = c->size / bench_page();
    s->dirty = c->pages;
    return s;
}

static void *library_setup(const struct bench_case *c)
{
    struct subject *s = subject(c);

    bench_result(memsnap_snapshot_new(bench_source(s->size), s->size, 0, &s->snapshot),
                 "memsnap_snapshot_new");
    bench_result(memsnap_snapshot_view(s->snapshot, 0, &s->view), "memsnap_snapshot_view");
    s->at = memsnap_view_data(s->view);
    return s;
}

static void *map_setup(const struct bench_case *c)
{
    struct subject *s = subject(c);

    s->fd = small_store(s->size);
    s->at = crate_view(s->fd, s->size);
    return s;
}

/* Something new in each page each time, so that there is something to take. */
static void change(void *o)
{
    struct subject *s = o;

    s->turn++;
    if (s->size >= 64 * MIB)
        bench_warm(s->size);
    for (size_t i = 0; i < s->dirty; i++)
        memcpy(s->at + bench_spread(i, s->pages) * bench_page() + 8, &s->turn, sizeof s->turn);
}

static void library_take(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_view_take_snapshot(s->view, 0, &s->child), "memsnap_view_take_snapshot");
}

static void library_drop(void *o)
{
    memsnap_snapshot_unref(((struct subject *)o)->child);
}

static void library_teardown(void *o)
{
    struct subject *s = o;

    memsnap_view_unref(s->view);
    memsnap_snapshot_unref(s->snapshot);
    free(s);
}

static void crate_take(void *o)
{
    struct subject *s = o;

    s->child_fd = crate_snapshot(s->at, s->size);
}

static void crate_drop(void *o)
{
    close(((struct subject *)o)->child_fd);
}

static void copy_take(void *o)
{
    struct subject *s = o;

    bench_check((s->copy = malloc(s->size)) != NULL, "malloc");
    memcpy(s->copy, s->at, s->size);
}

static void copy_drop(void *o)
{
    free(((struct subject *)o)->copy);
}

static void map_teardown(void *o)
{
    struct subject *s = o;

    munmap(s->at, s->size);
    close(s->fd);
    free(s);
}

#define SIDES(name, target)                                                                        \
    static const struct bench_side name[] = {                                                      \
        {"library", library_setup, change, library_take, library_drop, library_teardown, 0},       \
        {"crate (full copy)", map_setup, change, crate_take, crate_drop, map_teardown, target},    \
        {"malloc + memcpy", map_setup, change, copy_take, copy_drop, map_teardown, 0},             \
    }

SIDES(few, 500);
SIDES(many, 6);
SIDES(few_1g, 5000);
SIDES(untargeted, 0);

#define CASE(text, bytes, n, time, warm_up, s, how_many)                                           \
    {                                                                                              \
        .name = text, .size = bytes, .pages = n, .seconds = time, .warmup = warm_up, .sides = s,   \
        .n_sides = how_many                                                                        \
    }

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        CASE("take after 1 page of 4 KiB", 4 * KIB, 1, 0.3, 20, untargeted, 3),
        CASE("take after 16 pages of 64 KiB", 64 * KIB, 16, 0.3, 20, untargeted, 3),
        CASE("take after 16 pages of 1 MiB", MIB, 16, 0.5, 5, untargeted, 3),
        CASE("take after 16 pages of 64 MiB", 64 * MIB, 16, 2, 3, few, 3),
        CASE("take after 4096 pages of 64 MiB", 64 * MIB, 4096, 2, 2, many, 3),
        CASE("take after 16 pages of 1 GiB", GIB, 16, 5, 1, few_1g, 2),
    };

    bench_begin(argc, argv, "take");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        bench_run(&cases[i]);
    for (size_t n = 1; n <= 16384; n *= 4) {
        char name[64];
        struct bench_case c = CASE(name, 64 * MIB, n, 0.2, 1, untargeted, 2);

        snprintf(name, sizeof name, "sweep: take, %zu of 64 MiB", n);
        bench_run(&c);
    }
    return bench_end();
}
