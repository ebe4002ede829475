/* SPDX-License-Identifier: MIT */
/* huge-scan.c - why restoring a view of a huge-paged store costs more once it is also read.
 *
 * A store to a page of a region that is mapped huge splits the region; the next read there maps
 * all its pages singly (on Linux 6.18 a fault maps the whole large page of the file), and
 * PAGEMAP_SCAN then looks at each of them: about 25 ns a page, 512 pages a region, however few
 * are private. The second half shows what a boundary between mappings inside each such region
 * changes: the large page no longer lies within one mapping, and a fault maps no more than 16
 * pages.
 *
 * cc -O2 huge-scan.c -o huge-scan && ./huge-scan */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum {
    DIRTY = 16,
    READ = 64,
    CYCLES = 50,
    FILE_BACKED = 1 << 2,
    PRESENT = 1 << 3,
    SWAPPED = 1 << 4
};

#define SIZE ((size_t)64 << 20)
#define HUGE ((size_t)2 << 20)

struct region {
    uint64_t start, end, categories;
};

struct candidate_scan {
    uint64_t size, flags, start, end, walk_end, regions, regions_len, max_pages, inverted, mask,
        any, returned;
};

static int pagemap;
static size_t page;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

/* Pages of the view that are private, or all that are present. */
static size_t count(char *view, int private)
{
    static struct region regions[512];
    uintptr_t at = (uintptr_t)view, end = at + SIZE;
    size_t pages = 0;

    while (at < end) {
        struct candidate_scan s = {.size = sizeof s,
                                   .start = at,
                                   .end = end,
                                   .regions = (uintptr_t)regions,
                                   .regions_len = 512,
                                   .inverted = private ? FILE_BACKED : 0,
                                   .mask = private ? FILE_BACKED : 0,
                                   .any = PRESENT | SWAPPED,
                                   .returned = PRESENT};
        int n = ioctl(pagemap, _IOWR('f', 16, struct candidate_scan), &s);
        check(n >= 0, "PAGEMAP_SCAN");
        for (int i = 0; i < n; i++)
            pages += (regions[i].end - regions[i].start) / page;
        at = (uintptr_t)s.walk_end;
    }
    return pages;
}

static size_t dirty_offset(size_t i)
{
    return (size_t)((uint64_t)i * 2654435761u % (SIZE / page)) * page;
}

static char *reserve(void)
{
    uintptr_t at = (uintptr_t)mmap(NULL, SIZE + HUGE, PROT_NONE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return (char *)((at + HUGE - 1) & ~(HUGE - 1));
}

static void cycles(char *view, const char *what)
{
    double scanning = 0;

    for (int c = 0; c < CYCLES; c++) {
        double start;
        for (size_t i = 0; i < DIRTY; i++)
            ((volatile char *)view)[dirty_offset(i)] = (char)c;
        for (size_t i = 0; i < READ; i++)
            (void)((volatile char *)view)[i * (SIZE / READ) + 64];
        start = now();
        count(view, 1);
        scanning += now() - start;
    }
    printf("%-28s %6zu private, %6zu present, %8.1f us a scan\n", what, count(view, 1),
           count(view, 0), scanning / CYCLES);
}

int main(void)
{
    int fd = memfd_create("probe", MFD_CLOEXEC);
    char *window = reserve(), *view = reserve();

    page = (size_t)sysconf(_SC_PAGESIZE);
    check((pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) >= 0, "pagemap");
    check(fd >= 0 && ftruncate(fd, (off_t)SIZE) == 0, "memfd");
    window = mmap(window, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    check(window != MAP_FAILED, "mmap");
    for (size_t i = 0; i < SIZE; i += HUGE)
        window[i] = 1;
    check(madvise(window, SIZE, MADV_COLLAPSE) == 0, "MADV_COLLAPSE");
    memset(window, 7, SIZE);
    view = mmap(view, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, 0);
    check(view != MAP_FAILED, "mmap");

    cycles(view, "as it is");
    for (size_t i = 0; i < DIRTY; i++) {
        size_t at = dirty_offset(i), region = at & ~(HUGE - 1);
        madvise(view + region + HUGE / 2, HUGE / 2, MADV_RANDOM);
        if (at > region)
            madvise(view + region, at - region, MADV_DONTNEED);
        if (at + page < region + HUGE)
            madvise(view + at + page, region + HUGE - at - page, MADV_DONTNEED);
    }
    cycles(view, "a boundary in each region");
    return 0;
}
