/* SPDX-License-Identifier: MIT */
/* memory.c - what do 64 children of one snapshot hold, when 16 pages were changed in each? */
#define _GNU_SOURCE
#include "bench/bench.h"
#include "memsnap.h"
#include "bench/peers.h"

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHILDREN = 64, CHANGED = 16 };

#define SIZE (256 * MIB)

struct held {       /* KiB, but for the descriptors */
    double objects; /* memory of the memfds this process has open */
    /* all shared memory of the machine: also what no descriptor leads to any more */
    double shared;
    double private; /* private pages, the allocator's heap included */
    double tables;  /* page tables */
    double heap;    /* of the private pages, what malloc has handed out */
    double descriptors;
};

static double field(const char *path, const char *format)
{
    char line[256];
    size_t kib = 0;
    FILE *f = fopen(path, "r");

    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, format, &kib) == 1)
            break;
    fclose(f);
    return (double)kib;
}

/* Every memfd once: /proc/self/fd tells them by name, st_blocks what is allocated. */
static void count_descriptors(struct held *h)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    ino_t seen[4 * CHILDREN];
    size_t n = 0;

    bench_check(d != NULL, "/proc/self/fd");
    while ((e = readdir(d))) {
        char target[64] = "";
        struct stat st;
        bool known = false;

        if (readlinkat(dirfd(d), e->d_name, target, sizeof target - 1) < 0)
            continue;
        h->descriptors++;
        if (strncmp(target, "/memfd:", 7) != 0 || fstat(atoi(e->d_name), &st) != 0)
            continue;
        for (size_t i = 0; i < n; i++)
            known |= seen[i] == st.st_ino;
        if (known || n == sizeof seen / sizeof *seen)
            continue;
        seen[n++] = st.st_ino;
        h->objects += (double)st.st_blocks / 2;
    }
    closedir(d);
}

static struct held held(void)
{
    struct held h = {0};

    malloc_trim(0);
    h.private = field("/proc/self/smaps_rollup", "Anonymous: %zu");
    h.shared = field("/proc/meminfo", "Shmem: %zu");
    h.tables = field("/proc/self/status", "VmPTE: %zu");
    h.heap = (double)mallinfo2().uordblks / 1024 + (double)mallinfo2().hblkhd / 1024;
    count_descriptors(&h);
    return h;
}

static double total(const struct held *before, const struct held *after)
{
    double objects = after->objects - before->objects, shared = after->shared - before->shared;

    if (objects > shared)
        shared = objects;
    return shared + (after->private - before->private) + (after->tables - before->tables);
}

static void change(char *at, size_t child)
{
    for (size_t i = 0; i < CHANGED; i++) {
        size_t page = bench_spread(child * CHANGED + i, SIZE / bench_page());
        memset(at + page * bench_page(), (int)(child + 1), bench_page());
    }
}

static void report(const char *name, const char *peer, double ours, double theirs, double target)
{
    struct bench_row row = {.name = name,
                            .peer = peer,
                            .ours = ours,
                            .theirs = theirs,
                            .target = target,
                            .faults = {-1, -1},
                            .calls = {-1, -1}};

    bench_report(&row);
}

/* One full copy; 64 of them would be 16 GiB. */
static double full_copy(void)
{
    int fd = small_store(SIZE), copy;
    char *at = crate_view(fd, SIZE);
    struct held before = held(), after;

    copy = crate_snapshot(at, SIZE);
    after = held();
    munmap(at, SIZE);
    close(copy);
    close(fd);
    return total(&before, &after);
}

int main(int argc, char **argv)
{
    memsnap_snapshot *base, *children[CHILDREN];
    memsnap_view *views[CHILDREN];
    struct held before, taken, opened;
    static const char name[] = "64 children of 256 MiB, 16 pages each (KiB)";
    double copy, changed = (double)(CHILDREN * CHANGED * bench_page() / KIB);

    bench_begin(argc, argv, "memory");
    if (!bench_wanted(name, 4 * SIZE))
        return bench_end();
    copy = full_copy();
    bench_result(memsnap_snapshot_new(bench_source(SIZE), SIZE, 0, &base), "memsnap_snapshot_new");
    before = held();
    for (size_t i = 0; i < CHILDREN; i++) {
        bench_result(memsnap_snapshot_view(base, 0, &views[i]), "memsnap_snapshot_view");
        change(memsnap_view_data(views[i]), i);
        bench_result(memsnap_view_take_snapshot(views[i], 0, &children[i]),
                     "memsnap_view_take_snapshot");
        memsnap_view_unref(views[i]);
    }
    taken = held();
    for (size_t i = 0; i < CHILDREN; i++) {
        bench_result(memsnap_snapshot_view(children[i], 0, &views[i]), "memsnap_snapshot_view");
        bench_read(memsnap_view_data(views[i]), SIZE);
    }
    opened = held();
    for (size_t i = 0; i < CHILDREN; i++) {
        memsnap_view_unref(views[i]);
        memsnap_snapshot_unref(children[i]);
    }
    memsnap_snapshot_unref(base);
    report(name, "full copies (one x 64)", total(&before, &taken), CHILDREN * copy, 1000);
    report(name, "the changed pages alone", total(&before, &taken), changed, 0);
    report("... of it, handed out by malloc (KiB)", "the changed pages alone",
           taken.heap - before.heap, changed, 0);
    report("... and a view of each open, all read (KiB)", "full copies (one x 64)",
           total(&before, &opened), CHILDREN * copy, 0);
    report("... descriptors for them", "one each", taken.descriptors - before.descriptors, CHILDREN,
           0);
    return bench_end();
}
