/* SPDX-License-Identifier: MIT */
/* peers.c - what users do without the library. */
#define _GNU_SOURCE
#include "bench/peers.h"

#include "bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int crate_snapshot(const char *bytes, size_t size)
{
    int fd = memfd_create("bench", 0);
    char *at;

    bench_check(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "memfd");
    at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    bench_check(at != MAP_FAILED, "mmap");
    memcpy(at, bytes, size);
    munmap(at, size);
    return fd;
}

char *crate_view(int fd, size_t size)
{
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);

    bench_check(at != MAP_FAILED, "mmap");
    return at;
}

void crate_restore(int fd, char *view, size_t size)
{
    char *at =
        mmap(view, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, 0);

    bench_check(at == view, "mmap");
}

int small_store(size_t size)
{
    const char *bytes = bench_source(size);
    int fd = memfd_create("bench", MFD_CLOEXEC);

    bench_check(fd >= 0, "memfd");
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, bytes + done, size - done, (off_t)done);
        bench_check(n > 0, "pwrite");
        done += (size_t)n;
    }
    return fd;
}

/* Declared here because the headers of many distributions are older than the call (Linux 6.7). */
struct region {
    uint64_t start, end, categories;
};

struct candidate_scan {
    uint64_t size, flags, start, end, walk_end, regions, regions_len, max_pages;
    uint64_t inverted, mask, any, returned;
};

#define SCAN _IOWR('f', 16, struct candidate_scan)

enum { FILE_BACKED = 1 << 2, PRESENT = 1 << 3, SWAPPED = 1 << 4, REGIONS = 512 };

static int pagemap(void)
{
    static int fd = -1;
    static pid_t opened_by;

    if (opened_by == getpid())
        return fd;
    if (fd >= 0)
        close(fd);
    fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    opened_by = getpid();
    return fd;
}

static int scan(uintptr_t *start, uintptr_t end, struct region *regions)
{
    struct candidate_scan s = {.size = sizeof s,
                               .start = *start,
                               .end = end,
                               .regions = (uintptr_t)regions,
                               .regions_len = REGIONS,
                               .inverted = FILE_BACKED,
                               .mask = FILE_BACKED,
                               .any = PRESENT | SWAPPED,
                               .returned = PRESENT};
    int n = ioctl(pagemap(), SCAN, &s);

    *start = (uintptr_t)s.walk_end;
    return n;
}

int scan_available(void)
{
    struct region regions[REGIONS];
    uintptr_t start = (uintptr_t)bench_source(bench_page());

    return scan(&start, start + bench_page(), regions) >= 0;
}

void scan_restore(char *view, const char *pristine, size_t size)
{
    struct region regions[REGIONS];
    uintptr_t at = (uintptr_t)view, end = at + size;

    while (at < end) {
        int n = scan(&at, end, regions);
        bench_check(n >= 0, "PAGEMAP_SCAN");
        for (int i = 0; i < n; i++) {
            size_t offset = regions[i].start - (uintptr_t)view;
            memcpy(view + offset, pristine + offset, regions[i].end - regions[i].start);
        }
    }
}
