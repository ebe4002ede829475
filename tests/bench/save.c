/* SPDX-License-Identifier: MIT */
/* save.c - what does it cost to write an image to a file, or what changed in it, and to get it
 * back?
 *
 * Files are in TMPDIR (/var/tmp), for all sides alike; what is read is in the page cache. A file
 * that is written is new each time. cp and dd are started as processes, which takes them about a
 * millisecond, and whose system calls are not counted. */
#define _GNU_SOURCE
#include "bench/bench.h"
#include "memsnap.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { CHANGED = 16 };

/* What a case is about. */
struct how {
    bool holes;     /* every other MiB is zero */
    unsigned flags; /* of saving */
};

static const struct how plain = {false, MEMSNAP_SAVE_NOSYNC}, holes = {true, MEMSNAP_SAVE_NOSYNC},
                        synced = {false, 0};

struct subject {
    const struct how *how;
    size_t size;
    char directory[256], from[300], to[300];
    memsnap_snapshot *snapshot, *changed, *loaded;
    char *copy;
};

/* ---- files ----------------------------------------------------------------------------------- */

static const char *directory(void)
{
    const char *d = getenv("TMPDIR");

    return d && *d ? d : "/var/tmp";
}

static bool has_room(size_t size)
{
    struct statvfs s;

    return statvfs(directory(), &s) == 0 && (size_t)s.f_bavail * s.f_frsize / 3 > size;
}

static void write_source(const struct subject *s, const char *bytes)
{
    int fd = open(s->from, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    bench_check(fd >= 0, s->from);
    for (size_t done = 0; done < s->size; done += MIB)
        if (!s->how->holes || done / MIB % 2 == 0)
            bench_check(pwrite(fd, bytes + done, MIB, (off_t)done) == (ssize_t)MIB, "pwrite");
    bench_check(ftruncate(fd, (off_t)s->size) == 0 && fsync(fd) == 0, "fsync");
    close(fd);
}

static void *setup(const struct bench_case *c)
{
    struct subject *s = calloc(1, sizeof *s);

    bench_check(s != NULL, "calloc");
    s->how = c->how;
    s->size = c->size;
    snprintf(s->directory, sizeof s->directory, "%s/bench-save-XXXXXX", directory());
    bench_check(mkdtemp(s->directory) != NULL, s->directory);
    snprintf(s->from, sizeof s->from, "%s/from", s->directory);
    snprintf(s->to, sizeof s->to, "%s/to", s->directory);
    write_source(s, bench_source(s->size));
    return s;
}

static void teardown(void *o)
{
    struct subject *s = o;

    memsnap_snapshot_unref(s->snapshot);
    memsnap_snapshot_unref(s->changed);
    unlink(s->from);
    unlink(s->to);
    rmdir(s->directory);
    free(s);
}

static void remove_output(void *o)
{
    unlink(((struct subject *)o)->to);
}

/* ---- saving ---------------------------------------------------------------------------------- */

static void *library_setup(const struct bench_case *c)
{
    struct subject *s = setup(c);

    bench_result(memsnap_snapshot_new_from_file(s->from, 0, &s->snapshot),
                 "memsnap_snapshot_new_from_file");
    return s;
}

static void library_save(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_snapshot_save(s->snapshot, s->to, s->how->flags), "memsnap_snapshot_save");
}

static void run(const char *const *argv)
{
    pid_t pid;
    int status,
        e = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ);

    errno = e;
    bench_check(e == 0, argv[0]);
    bench_check(waitpid(pid, &status, 0) == pid && status == 0, argv[0]);
}

static void sync_output(const struct subject *s)
{
    int fd = open(s->to, O_RDONLY | O_CLOEXEC);

    bench_check(fd >= 0 && fsync(fd) == 0, "fsync");
    close(fd);
}

static void cp_save(void *o)
{
    struct subject *s = o;

    run((const char *const[]){"cp", "--sparse=always", s->from, s->to, NULL});
    if (!(s->how->flags & MEMSNAP_SAVE_NOSYNC))
        sync_output(s);
}

static void dd_save(void *o)
{
    struct subject *s = o;
    char in[320], out[320];
    bool sync = !(s->how->flags & MEMSNAP_SAVE_NOSYNC);

    snprintf(in, sizeof in, "if=%s", s->from);
    snprintf(out, sizeof out, "of=%s", s->to);
    run((const char *const[]){"dd", in, out, "bs=1M", "status=none",
                              sync ? "conv=sparse,fsync" : "conv=sparse", NULL});
}

/* ---- what has changed ------------------------------------------------------------------------ */

static void *delta_setup(const struct bench_case *c)
{
    struct subject *s = library_setup(c);
    memsnap_view *view;
    char *at;

    bench_result(memsnap_snapshot_view(s->snapshot, 0, &view), "memsnap_snapshot_view");
    at = memsnap_view_data(view);
    for (size_t i = 0; i < CHANGED; i++)
        at[bench_spread(i, s->size / bench_page()) * bench_page() + 8] ^= 1;
    bench_result(memsnap_view_take_snapshot(view, 0, &s->changed), "memsnap_view_take_snapshot");
    memsnap_view_unref(view);
    return s;
}

static void delta_save(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_snapshot_save_delta(s->changed, s->snapshot, s->to, s->how->flags),
                 "memsnap_snapshot_save_delta");
}

static void full_save(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_snapshot_save(s->changed, s->to, s->how->flags), "memsnap_snapshot_save");
}

/* "to" stays and is loaded. */
static void *loading_setup(const struct bench_case *c)
{
    struct subject *s = delta_setup(c);

    delta_save(s);
    return s;
}

static void delta_load(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_snapshot_load_delta(s->snapshot, s->to, 0, &s->loaded),
                 "memsnap_snapshot_load_delta");
}

/* ---- loading --------------------------------------------------------------------------------- */

static void load(void *o)
{
    struct subject *s = o;

    bench_result(memsnap_snapshot_new_from_file(s->from, 0, &s->loaded),
                 "memsnap_snapshot_new_from_file");
}

static void load_mapped(void *o)
{
    struct subject *s = o;
    memsnap_view *view;

    bench_result(memsnap_snapshot_new_from_file(s->from, MEMSNAP_FILE_MAP, &s->loaded),
                 "memsnap_snapshot_new_from_file");
    bench_result(memsnap_snapshot_view(s->loaded, 0, &view), "memsnap_snapshot_view");
    bench_read(memsnap_view_data(view), s->size);
    memsnap_view_unref(view);
}

static void unload(void *o)
{
    struct subject *s = o;

    s->loaded = memsnap_snapshot_unref(s->loaded);
}

static void read_all(void *o)
{
    struct subject *s = o;
    int fd = open(s->from, O_RDONLY | O_CLOEXEC);

    bench_check(fd >= 0 && (s->copy = malloc(s->size)) != NULL, s->from);
    for (size_t done = 0; done < s->size;) {
        ssize_t n = read(fd, s->copy + done, s->size - done < 4 * MIB ? s->size - done : 4 * MIB);
        bench_check(n > 0, "read");
        done += (size_t)n;
    }
    close(fd);
}

static void forget(void *o)
{
    free(((struct subject *)o)->copy);
}

static void map_all(void *o)
{
    struct subject *s = o;
    int fd = open(s->from, O_RDONLY | O_CLOEXEC);
    char *at = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

    bench_check(fd >= 0 && at != MAP_FAILED, s->from);
    bench_read(at, s->size);
    munmap(at, s->size);
    close(fd);
}

static void warm(void *o)
{
    bench_warm(((struct subject *)o)->size);
}

/* A figure that is to stay below a limit, whatever anybody else takes. */
static void against_limit(const char *name, size_t size, double limit)
{
    enum { ROUNDS = 50 };
    const struct bench_case c = {.name = name, .size = size, .how = &plain};
    double times[ROUNDS];
    struct bench_row row = {.name = name,
                            .peer = "limit",
                            .theirs = limit,
                            .target = 1,
                            .faults = {-1, -1},
                            .calls = {-1, -1}};

    if (!bench_wanted(name, 3 * size) || !has_room(size))
        return;
    struct subject *s = delta_setup(&c);
    for (size_t i = 0; i < ROUNDS; i++) {
        double start = bench_now();
        delta_save(s);
        times[i] = bench_now() - start;
        remove_output(s);
    }
    teardown(s);
    row.ours = bench_median(times, ROUNDS);
    bench_report(&row);
}

int main(int argc, char **argv)
{
    static const struct bench_side
        saving[] =
            {
                {"library", library_setup, NULL, library_save, remove_output, teardown, 0},
                {"cp --sparse=always", setup, NULL, cp_save, remove_output, teardown, 0.9},
                {"dd bs=1M conv=sparse", setup, NULL, dd_save, remove_output, teardown, 0},
            },
        delta[] =
            {
                {"library", delta_setup, NULL, delta_save, remove_output, teardown, 0},
                {"saving all", delta_setup, NULL, full_save, remove_output, teardown, 100},
            },
        delta_loading[] =
            {
                {"library", loading_setup, NULL, delta_load, unload, teardown, 0},
                {"loading all", setup, warm, load, unload, teardown, 0},
                {"read into malloc", setup, warm, read_all, forget, teardown, 0},
            },
        loading[] =
            {
                {"library", setup, warm, load, unload, teardown, 0},
                {"read into malloc", setup, warm, read_all, forget, teardown, 0},
            },
        mapping[] = {
            {"library", setup, NULL, load_mapped, unload, teardown, 0},
            {"mmap", setup, NULL, map_all, NULL, teardown, 0},
        };
    static const struct bench_case cases[] = {
        {.name = "save 1 GiB",
         .size = GIB,
         .how = &plain,
         .seconds = 6,
         .sides = saving,
         .n_sides = 3},
        {.name = "save 1 GiB, half of it zero",
         .size = GIB,
         .how = &holes,
         .seconds = 4,
         .sides = saving,
         .n_sides = 3},
        {.name = "save 64 MiB, synced",
         .size = 64 * MIB,
         .how = &synced,
         .seconds = 3,
         .sides = saving,
         .n_sides = 3},
        {.name = "save 16 changed pages of 1 GiB",
         .size = GIB,
         .how = &plain,
         .seconds = 3,
         .sides = delta,
         .n_sides = 2},
        {.name = "load 16 changed pages of 1 GiB",
         .size = GIB,
         .how = &plain,
         .seconds = 3,
         .sides = delta_loading,
         .n_sides = 3},
        {.name = "load 1 GiB",
         .size = GIB,
         .how = &plain,
         .seconds = 4,
         .sides = loading,
         .n_sides = 2},
        {.name = "map a file of 1 GiB, read all",
         .size = GIB,
         .how = &plain,
         .seconds = 2,
         .sides = mapping,
         .n_sides = 2},
    };

    bench_begin(argc, argv, "save");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        /* Each side has its file, and one is written. */
        if (has_room((cases[i].n_sides + 1) * cases[i].size))
            bench_run(&cases[i]);
        else
            fprintf(stderr, "save: %s: skipped, no room in %s\n", cases[i].name, directory());
    }
    against_limit("save 16 changed pages of 1 GiB, 5 ms", GIB, 5000);
    return bench_end();
}
