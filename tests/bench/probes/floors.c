/* SPDX-License-Identifier: MIT */
/* floors.c - what the kernel and the memory ask for, whatever a library does: how much faster
 * than its peer each operation could be at the most.
 *
 * Each line has the peer's time, the time of those steps alone that no implementation can leave
 * out, and the ratio. Where the library's ratio in `make bench` is short of its target but near
 * this one, there is no more to be had on the machine.
 *
 * cc -O2 -pthread floors.c -o floors && ./floors */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

enum { WRITTEN = 1 << 1, FILE_BACKED = 1 << 2, PRESENT = 1 << 3, SWAPPED = 1 << 4, MOST = 64 };
enum { PROTECT_MATCHING = 1 << 0, CHECK_ASYNC = 1 << 1 };

#define MIB ((size_t)1 << 20)
#define HUGE (2 * MIB)

struct region {
    uint64_t start, end, categories;
};

struct candidate_scan {
    uint64_t size, flags, start, end, walk_end, regions, regions_len, max_pages, inverted, mask,
        any, returned;
};

static int pagemap;
static size_t page;
static char *source;

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

static int ascending(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, ascending);
    return v[n / 2];
}

static void line(const char *what, const char *peer, double theirs, double least)
{
    printf("%-44s %-18s %12.2f %12.2f %9.1f\n", what, peer, theirs, least, theirs / least);
}

static char *aligned(size_t size)
{
    uintptr_t at = (uintptr_t)mmap(NULL, size + HUGE, PROT_NONE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    check(at != (uintptr_t)MAP_FAILED, "mmap");
    return (char *)((at + HUGE - 1) & ~(HUGE - 1));
}

static int object(size_t size)
{
    int fd = memfd_create("floors", MFD_CLOEXEC);

    check(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "memfd_create");
    return fd;
}

/* A filled object: of huge pages, or of small ones. */
static int store(size_t size, int huge)
{
    int fd = object(size);
    char *w = mmap(aligned(size), size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);

    check(w != MAP_FAILED, "mmap");
    for (size_t at = 0; huge && at < size; at += HUGE) {
        w[at] = 1;
        madvise(w + at, HUGE, MADV_COLLAPSE);
    }
    memcpy(w, source, size);
    munmap(w, size);
    return fd;
}

static char *view_of(int fd, size_t size)
{
    char *v = mmap(aligned(size), size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, 0);

    check(v != MAP_FAILED, "mmap");
    return v;
}

/* The private pages' regions, in the order of addresses; written: only those stored to since the
 * last time. Returns how many regions. */
static size_t scan_for(char *view, size_t size, int written, struct region *found, size_t limit)
{
    static struct region regions[512];
    uintptr_t at = (uintptr_t)view, end = at + size;
    /* room that is not needed costs the kernel more than the call */
    size_t total = 0, room = 64;

    for (; at < end; room = 512) {
        struct candidate_scan s = {.size = sizeof s,
                                   .start = at,
                                   .end = end,
                                   .regions = (uintptr_t)regions,
                                   .regions_len = room,
                                   .inverted = FILE_BACKED,
                                   .mask = FILE_BACKED,
                                   .any = PRESENT | SWAPPED,
                                   .returned = FILE_BACKED};
        if (written) {
            s.flags = PROTECT_MATCHING | CHECK_ASYNC;
            s.mask |= WRITTEN;
        }
        int n = ioctl(pagemap, _IOWR('f', 16, struct candidate_scan), &s);
        check(n >= 0, "PAGEMAP_SCAN");
        for (int i = 0; i < n && total < limit; i++)
            found[total++] = regions[i];
        at = (uintptr_t)s.walk_end;
    }
    return total;
}

static void scan(char *view, size_t size)
{
    static struct region found[8192];

    scan_for(view, size, 0, found, sizeof found / sizeof found[0]);
}

/* Where the i-th page to be changed lies in so many bytes: each somewhere else, as in the
 * benchmark. */
static size_t place(size_t i, size_t size)
{
    return i * 2654435761u % (size / page) * page;
}

/* Where n pages lie apart from each other, each in a region of its own: a boundary in the middle
 * of the region keeps the kernel from mapping all of its small pages around the private one,
 * which every scan would have to look at. */
static void halve(char *view, size_t size, size_t n)
{
    if (size < HUGE || n > size / HUGE)
        return;
    for (size_t i = 0; i < n; i++)
        check(madvise(view + place(i, size) / HUGE * HUGE + HUGE / 2, HUGE / 2, MADV_RANDOM) == 0,
              "MADV_RANDOM");
}

/* Reads so many pages all over a view, as the benchmark does between two restores. */
static void read_some(const char *view, size_t size)
{
    enum { READS = 64 };

    for (size_t i = 0; i < READS; i++)
        (void)((const volatile char *)view)[size / READS * i + 64];
}

/* ---- creating: new pages have to be cleared or written, and the bytes copied ----------------- */

static void create(size_t size, int times)
{
    double theirs[MOST], copied[MOST], least[MOST];
    int is_copied = size <= 64 * MIB; /* a GiB given back each time is far from warm */
    char name[64];

    for (int k = 0; k < times; k++) {
        double start = now();
        int fd = object(size);
        char *w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        memcpy(w, source, size);
        munmap(w, size);
        theirs[k] = now() - start;
        close(fd);

        if (is_copied) {
            start = now();
            char *copy = malloc(size);
            check(copy != NULL, "malloc");
            memcpy(copy, source, size);
            (void)*(volatile char *)(copy + size / 2); /* else the compiler leaves it out */
            copied[k] = now() - start;
            free(copy);
        }
        fd = object(size);
        w = mmap(aligned(size), size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
        start = now();
        for (size_t at = 0; at < size; at += HUGE) {
            check(pwrite(fd, "", 1, (off_t)at) == 1 && madvise(w + at, HUGE, MADV_COLLAPSE) == 0,
                  "MADV_COLLAPSE");
            memcpy(w + at, source + at, size - at < HUGE ? size - at : HUGE);
        }
        least[k] = now() - start;
        munmap(w, size);
        close(fd);
    }
    snprintf(name, sizeof name, "create %zu MiB: clear and copy", size / MIB);
    line(name, "crate", median(theirs, times), median(least, times));
    if (is_copied)
        line(name, "malloc + memcpy", median(copied, times), median(least, times));
}

/* ---- opening: closing a view that is kept has to ask which pages are private, look at them and
 * copy back what differs; and threads must not meet where the view is taken from and put back to
 * ---- */

static void open_and_close(size_t size)
{
    enum { REPEAT = 200 };
    double theirs[MOST], least[MOST];
    char name[64];
    int fd = store(size, size >= HUGE);
    char *kept = view_of(fd, size), *hint = aligned(size),
         *base = mmap(aligned(size), size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    pthread_mutex_t list = PTHREAD_MUTEX_INITIALIZER;

    halve(kept, size, 4);
    for (size_t i = 0; i < 4; i++)
        kept[place(i, size)] = 1;
    for (int k = 0; k < MOST; k++) {
        double start = now();
        for (int i = 0; i < REPEAT; i++) {
            char *v = mmap(hint, size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, 0);
            v[place((size_t)i % 4, size)] = 1;
            munmap(v, size);
        }
        theirs[k] = (now() - start) / REPEAT;
        start = now();
        for (int i = 0; i < REPEAT; i++) {
            pthread_mutex_lock(&list);
            pthread_mutex_unlock(&list);
            kept[place((size_t)i % 4, size)]++;
            scan(kept, size);
            for (size_t p = 0; p < 4; p++)
                if (memcmp(kept + place(p, size), base + place(p, size), page) != 0)
                    memcpy(kept + place(p, size), base + place(p, size), page);
            pthread_mutex_lock(&list);
            pthread_mutex_unlock(&list);
        }
        least[k] = (now() - start) / REPEAT;
    }
    snprintf(name, sizeof name, "open + write + close %zu MiB: scan, 4 pages", size / MIB);
    line(name, "mmap + munmap", median(theirs, MOST), median(least, MOST));
    munmap(kept, size);
    munmap(base, size);
    close(fd);
}

/* A view that is not kept: mapped, but not before a look whether the descriptor is still the
 * object's. */
static void open_anew(size_t size)
{
    enum { REPEAT = 200 };
    double theirs[MOST], least[MOST];
    int fd = store(size, size >= HUGE);
    struct stat st;

    for (int k = 0; k < MOST; k++) {
        double start = now();
        for (int i = 0; i < REPEAT; i++)
            munmap(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0),
                   size);
        theirs[k] = (now() - start) / REPEAT;
        start = now();
        for (int i = 0; i < REPEAT; i++) {
            check(fstat(fd, &st) == 0, "fstat");
            munmap(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0),
                   size);
        }
        least[k] = (now() - start) / REPEAT;
    }
    line("open + close 64 MiB, not kept: look, map", "mmap + munmap", median(theirs, MOST),
         median(least, MOST));
    close(fd);
}

/* ---- reading: each page has to be read ------------------------------------------------------- */

static double read_all(const char *at, size_t size)
{
    double start = now();

    for (size_t i = 0; i < size; i += page)
        (void)((const volatile char *)at)[i];
    return now() - start;
}

static void first_read(size_t size, int times)
{
    double theirs[MOST], least[MOST];
    char name[64];
    int small = store(size, 0), huge = store(size, 1);

    for (int k = 0; k < times; k++) {
        char *v = view_of(small, size);
        theirs[k] = read_all(v, size);
        munmap(v, size);
        v = view_of(huge, size);
        least[k] = read_all(v, size);
        munmap(v, size);
    }
    snprintf(name, sizeof name, "first read %zu MiB: in huge pages", size / MIB);
    line(name, "small pages", median(theirs, times), median(least, times));
    close(small);
    close(huge);
}

/* ---- restoring: changed pages have to be found and copied; those of two snapshots' differences
 * too ---- */

static void write_some(char *view, size_t size, size_t n)
{
    for (size_t i = 0; i < n; i++)
        view[place(i, size) + 8]++;
    read_some(view, size);
}

/* other: how many pages more are to be copied, beside the n. */
static void restore(const char *what, size_t size, size_t n, size_t other, int times)
{
    double theirs[MOST], least[MOST];
    char name[64];
    int small = store(size, 0), huge = store(size, size >= HUGE);
    char *base = mmap(aligned(size), size, PROT_READ, MAP_SHARED | MAP_FIXED, huge, 0);
    char *there = view_of(small, size), *here = view_of(huge, size);

    halve(here, size, n + other);
    for (int k = 0; k < times; k++) {
        double start = now();
        write_some(there, size, n);
        mmap(there, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, small,
             0);
        theirs[k] = now() - start;
        start = now();
        write_some(here, size, n);
        scan(here, size);
        for (size_t i = 0; i < n; i++)
            memcpy(here + place(i, size), base + place(i, size), page);
        for (size_t i = 0; i < other; i++)
            memcpy(here + place(n + i, size), base + place(n + i, size), page);
        least[k] = now() - start;
    }
    snprintf(name, sizeof name, "%s %zu of %zu MiB: scan and copy", what, n, size / MIB);
    line(name, "remap", median(theirs, times), median(least, times));
    munmap(base, size);
    munmap(there, size);
    munmap(here, size);
    close(small);
    close(huge);
}

/* ---- taking: changed pages have to be found, looked at and written to where nobody else's are  */

struct taken {
    int fd;
    char *window;      /* over all of fd */
    size_t end;        /* bytes of it in use */
    const char **last; /* for each page, the bytes that were taken last */
    struct iovec v[128];
    int n;
};

static struct taken *taken_begin(size_t size, const char *base, size_t room)
{
    struct taken *t = calloc(1, sizeof *t);

    check(t != NULL && (t->last = calloc(size / page, sizeof *t->last)) != NULL, "calloc");
    for (size_t i = 0; i < size / page; i++)
        t->last[i] = base + i * page;
    t->fd = object(room);
    t->window = mmap(NULL, room, PROT_READ, MAP_SHARED, t->fd, 0);
    check(t->window != MAP_FAILED, "mmap");
    return t;
}

static void taken_end(struct taken *t, size_t room)
{
    munmap(t->window, room);
    close(t->fd);
    free(t->last);
    free(t);
}

/* A descriptor may have become somebody else's file, which is not to be written to; and a limit
 * raises a signal. */
static void write_gathered(struct taken *t)
{
    struct stat st;
    struct rlimit limit;

    if (t->n == 0)
        return;
    check(fstat(t->fd, &st) == 0 && getrlimit(RLIMIT_FSIZE, &limit) == 0, "fstat");
    ssize_t len = (ssize_t)(t->n * (ssize_t)page);
    check(pwritev(t->fd, t->v, t->n, (off_t)(t->end - (size_t)len)) == len, "pwritev");
    t->n = 0;
}

static void take_changed(struct taken *t, char *view, size_t size, int written)
{
    static struct region found[65536];
    size_t n = scan_for(view, size, written, found, sizeof found / sizeof found[0]);

    for (size_t i = 0; i < n; i++)
        for (char *at = (char *)(uintptr_t)found[i].start; at < (char *)(uintptr_t)found[i].end;
             at += page) {
            size_t number = (size_t)(at - view) / page;
            if (memcmp(at, t->last[number], page) == 0)
                continue;
            t->last[number] = t->window + t->end;
            t->v[t->n++] = (struct iovec){at, page};
            t->end += page;
            if (t->n == 128)
                write_gathered(t);
        }
    write_gathered(t);
}

static void take(size_t size, size_t n, int times)
{
    double theirs[MOST], least[MOST];
    char name[64];
    int fd = store(size, 1);
    char *view = view_of(fd, size), *other = view_of(fd, size);
    char *base = mmap(aligned(size), size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    struct taken *t = taken_begin(size, base, 2 * n * page);

    for (int k = 0; k < times; k++) {
        for (size_t i = 0; i < n; i++)
            view[place(i, size) + 8]++;
        double start = now();
        int copy = object(size);
        char *w = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0);
        memcpy(w, other, size);
        munmap(w, size);
        theirs[k] = now() - start;
        close(copy);
        /* what was taken last is there until it is replaced */
        t->end = (size_t)(k % 2) * n * page;
        start = now();
        take_changed(t, view, size, 0);
        least[k] = now() - start;
    }
    snprintf(name, sizeof name, "take %zu of %zu MiB: scan, compare, write", n, size / MIB);
    line(name, "crate", median(theirs, times), median(least, times));
    taken_end(t, 2 * n * page);
    munmap(view, size);
    munmap(other, size);
    munmap(base, size);
    close(fd);
}

/* ---- pausing: fork() against finding and writing 1,000 pages, others each time; of a writer
 * that is not tracked all that was changed before has to be compared, one that is has to be
 * protected again ---- */

static double forked(size_t size)
{
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    check(memory != MAP_FAILED, "mmap");
    madvise(memory, size, MADV_NOHUGEPAGE);
    for (size_t at = 0; at < size; at += page)
        memory[at] = 1;
    double start = now();
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    start = now() - start;
    check(pid > 0 && waitpid(pid, NULL, 0) == pid, "fork");
    munmap(memory, size);
    return start;
}

static int tracker(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 ? fd : -1;
}

static uint64_t any(void)
{
    static uint64_t state = 1;
    uint64_t x = state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void pause_later(size_t size, size_t n, int tracked)
{
    enum { ROUNDS = 5, LATER = 5 };
    double theirs[ROUNDS * LATER], least[ROUNDS * LATER];
    char name[64];
    int fd = store(size, 1), watch = tracked ? tracker() : -1, k = 0;
    char *base = mmap(aligned(size), size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    size_t room = n * LATER * page;

    if (tracked && watch < 0)
        return;
    for (int round = 0; round < ROUNDS; round++) {
        char *view = view_of(fd, size);
        struct taken *t = taken_begin(size, base, room);
        struct uffdio_register range = {.range = {.start = (uintptr_t)view, .len = size},
                                        .mode = UFFDIO_REGISTER_MODE_WP};
        check(!tracked || ioctl(watch, UFFDIO_REGISTER, &range) == 0, "UFFDIO_REGISTER");
        for (int i = 0; i < LATER; i++, k++) {
            theirs[k] = forked(size);
            for (size_t p = 0; p < n; p++)
                /* a read and a store */
                ((volatile char *)view)[any() % (size / page) * page + 8]++;
            double start = now();
            take_changed(t, view, size, tracked);
            least[k] = now() - start;
        }
        taken_end(t, room);
        munmap(view, size);
    }
    snprintf(name, sizeof name, "later pause, %zu of %zu MiB%s", n, size / MIB,
             tracked ? ", tracked" : "");
    line(name, "fork", median(theirs, k), median(least, k));
    munmap(base, size);
    close(fd);
    if (watch >= 0)
        close(watch);
}

int main(void)
{
    size_t limit = 1024 * MIB;

    page = (size_t)sysconf(_SC_PAGESIZE);
    check((pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) >= 0, "pagemap");
    source = mmap(NULL, limit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(source != MAP_FAILED, "mmap");
    madvise(source, limit, MADV_DONTFORK);
    for (size_t at = 0; at < limit; at += page)
        memset(source + at, (int)(at / page % 251 + 1), page);
    printf("%-44s %-18s %12s %12s %9s\n", "microseconds, medians", "peer", "peer", "least",
           "at most");
    create(64 * MIB, 15);
    create(1024 * MIB, 5);
    open_and_close(MIB);
    open_and_close(64 * MIB);
    open_anew(64 * MIB);
    first_read(64 * MIB, 15);
    first_read(1024 * MIB, 5);
    restore("restore", MIB, 16, 0, 60);
    restore("restore", 64 * MIB, 16, 0, 60);
    restore("restore_to", 64 * MIB, 16, 16, 60);
    restore("restore", 64 * MIB, 4096, 0, 30);
    restore("restore", 1024 * MIB, 4096, 0, 15);
    take(64 * MIB, 16, 15);
    take(64 * MIB, 4096, 15);
    take(1024 * MIB, 16, 5);
    pause_later(1024 * MIB, 1000, 0);
    pause_later(1024 * MIB, 1000, 1);
    return 0;
}
