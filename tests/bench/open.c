/* SPDX-License-Identifier: MIT */
/* open.c - what does it cost to open a view, use it a little, and close it? */
#include "bench/bench.h"
#include "memsnap.h"
#include "bench/peers.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a case asks of its sides. */
struct how {
    bool recycling;
    bool anywhere;  /* writes a random page, not one of the same four */
    bool all;       /* writes every page */
    unsigned flags; /* of the view */
};

struct subject {
    size_t size, pages;
    const struct how *how;
    memsnap_snapshot *snapshot;
    memsnap_view *view;
    int fd;
    const char *bytes;
    uint64_t random;
};

static struct subject *subject(const struct bench_case *c)
{
    struct subject *s = calloc(1, sizeof *s);

    bench_check(s != NULL, "calloc");
    s->size = c->size;
    s->pages = c->size / bench_page();
    s->how = c->how;
    s->bytes = bench_source(c->size);
    s->fd = -1;
    return s;
}

static void *library_setup(const struct bench_case *c)
{
    struct subject *s = subject(c);

    bench_result(memsnap_snapshot_new(s->bytes, s->size, 0, &s->snapshot), "memsnap_snapshot_new");
    if (!s->how->recycling)
        bench_result(memsnap_snapshot_set_recycling(s->snapshot, 0),
                     "memsnap_snapshot_set_recycling");
    return s;
}

static void *store_setup(const struct bench_case *c)
{
    struct subject *s = subject(c);

    s->fd = small_store(c->size);
    return s;
}

static void *copy_setup(const struct bench_case *c)
{
    return subject(c);
}

static void teardown(void *o)
{
    struct subject *s = o;

    memsnap_snapshot_unref(s->snapshot);
    if (s->fd >= 0)
        close(s->fd);
    free(s);
}

static void write_some(struct subject *s, char *at)
{
    size_t r = (size_t)bench_random(&s->random);
    size_t page = s->how->anywhere ? r % s->pages : bench_spread(r % 4, s->pages);

    if (s->how->all)
        bench_touch(at, s->size);
    else
        ((volatile char *)at)[page * bench_page()] = 1;
}

static void library_open(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_snapshot_view(s->snapshot, s->how->flags, &s->view),
                 "memsnap_snapshot_view");
}

static void library_close(void *o)
{
    memsnap_view_unref(((struct subject *)o)->view);
}

static void library_untouched(void *o)
{
    library_open(o);
    library_close(o);
}

static void library_write(void *o)
{
    struct subject *s = o;

    library_open(s);
    write_some(s, memsnap_view_data(s->view));
    library_close(s);
}

static void map_untouched(void *o)
{
    struct subject *s = o;

    munmap(crate_view(s->fd, s->size), s->size);
}

static void map_write(void *o)
{
    struct subject *s = o;
    char *at = crate_view(s->fd, s->size);

    write_some(s, at);
    munmap(at, s->size);
}

static void copy_write(void *o)
{
    struct subject *s = o;
    char *at = malloc(s->size);

    bench_check(at != NULL, "malloc");
    memcpy(at, s->bytes, s->size);
    write_some(s, at);
    free(at);
}

static const struct how recycled = {.recycling = true}, fresh = {.recycling = false},
                        anywhere = {.recycling = true, .anywhere = true},
                        all = {.recycling = true, .all = true}, fresh_all = {.all = true},
                        copied_all = {.all = true, .flags = MEMSNAP_VIEW_COPY},
                        prefault = {.flags = MEMSNAP_VIEW_PREFAULT};

#define SIDES(name, target)                                                                        \
    static const struct bench_side name[] = {                                                      \
        {"library", library_setup, NULL, library_write, NULL, teardown, 0},                        \
        {"mmap + munmap", store_setup, NULL, map_write, NULL, teardown, target},                   \
        {"malloc + memcpy", copy_setup, NULL, copy_write, NULL, teardown, 0},                      \
    }

SIDES(write_one, 6);
SIDES(write_free, 0);

static const struct bench_side untouched[] = {
    {"library", library_setup, NULL, library_untouched, NULL, teardown, 0},
    {"mmap + munmap", store_setup, NULL, map_untouched, NULL, teardown, 0.7},
};

/* ---- opening a child, against opening its parent: the pages that the child changed may cost a
 * little each ---- */

static void *parent_setup(const struct bench_case *c)
{
    return library_setup(c);
}

static void *child_setup(const struct bench_case *c)
{
    struct subject *s = library_setup(c);
    memsnap_snapshot *child;

    library_open(s);
    for (size_t i = 0; i < c->pages; i++)
        ((char *)memsnap_view_data(s->view))[bench_spread(i, s->pages) * bench_page()]++;
    bench_result(memsnap_view_take_snapshot(s->view, 0, &child), "memsnap_view_take_snapshot");
    library_close(s);
    memsnap_snapshot_unref(s->snapshot);
    s->snapshot = child;
    bench_result(memsnap_snapshot_set_recycling(child, 0), "memsnap_snapshot_set_recycling");
    return s;
}

static double timed_open(struct subject *s)
{
    double start = bench_now();

    library_open(s);
    start = bench_now() - start;
    library_close(s);
    return start;
}

static void open_child(const char *name, size_t pages)
{
    enum { REPETITIONS = 201 };
    struct bench_case c = {.name = name, .size = 64 * MIB, .pages = pages, .how = &fresh};
    struct bench_side sides[2] =
        {{.setup = child_setup, .op = library_open, .after = library_close},
         {.setup = parent_setup, .op = library_open, .after = library_close}};
    struct bench_row row = {.name = name,
                            .peer = "opening its parent",
                            .kind = BENCH_EXTRA,
                            .target = 10 + 4.0 * (double)pages};
    double ours[REPETITIONS], theirs[REPETITIONS];
    struct subject *child, *parent;
    long faults;

    if (!bench_wanted(name, 4 * c.size))
        return;
    for (int i = 0; i < 2; i++)
        row.calls[i] = bench_calls(&c, &sides[i]);
    child = child_setup(&c);
    parent = parent_setup(&c);
    for (int i = 0; i < REPETITIONS; i++) {
        ours[i] = timed_open(child);
        theirs[i] = timed_open(parent);
    }
    faults = bench_faults(false);
    timed_open(child);
    row.faults[0] = (double)(bench_faults(false) - faults);
    faults = bench_faults(false);
    timed_open(parent);
    row.faults[1] = (double)(bench_faults(false) - faults);
    row.ours = bench_median(ours, REPETITIONS);
    row.theirs = bench_median(theirs, REPETITIONS);
    teardown(child);
    teardown(parent);
    bench_report(&row);
}

#define CASE(text, bytes, what, time, warm_up, s, how_many)                                        \
    {                                                                                              \
        .name = text, .size = bytes, .how = &what, .seconds = time, .warmup = warm_up, .sides = s, \
        .n_sides = how_many                                                                        \
    }

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        CASE("open + write + close 64 KiB", 64 * KIB, recycled, 0.4, 20, write_free, 3),
        CASE("open + write + close 1 MiB", MIB, recycled, 0.8, 20, write_one, 3),
        CASE("open + write + close 64 MiB", 64 * MIB, recycled, 1, 20, write_one, 2),
        CASE("open + write anywhere + close 1 MiB", MIB, anywhere, 0.5, 500, write_free, 2),
        CASE("open + write anywhere + close 64 MiB", 64 * MIB, anywhere, 0.5, 500, write_free, 2),
        CASE("open + write all + close 1 MiB", MIB, all, 0.5, 5, write_free, 3),
        CASE("open + write + close 1 MiB, no recycling", MIB, fresh, 0.5, 5, write_free, 2),
        CASE("open + write all + close 1 MiB, no recycling", MIB, fresh_all, 0.5, 5, write_free, 3),
        CASE("open (copy) + write all + close 1 MiB", MIB, copied_all, 0.5, 5, write_free, 3),
        CASE("open + close 64 MiB, no recycling", 64 * MIB, fresh, 0.8, 20, untouched, 2),
        CASE("open (prefault) + write + close 64 MiB", 64 * MIB, prefault, 0.5, 2, write_free, 2),
    };

    bench_begin(argc, argv, "open");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        bench_run(&cases[i]);
    if (!bench_library_only()) {
        open_child("open a child, 1 page of 64 MiB changed", 1);
        open_child("open a child, 16 pages of 64 MiB changed", 16);
        open_child("open a child, 1024 pages of 64 MiB changed", 1024);
    }
    return bench_end();
}
