/* SPDX-License-Identifier: MIT */
/* Stopping the writers of a range: userfaultfd write protection, with nobody to read the events.
 * A thread that stores there sleeps in the kernel until the range is unregistered.
 *
 * While the write block is closed absent pages carry markers, which every source reports as
 * swapped pages. So does it report pages that are being moved in memory at that moment. Where
 * nothing can be swapped out, the candidates are the pages that were private just before the
 * write block was closed and those that are present afterwards: only a page that was first
 * written between the two and is being moved at the second look would be missed, were a page
 * that new ever moved. */
#include "config.h"

#include "os/internal.h"
#include "os/kernel.h"

#include <errno.h>

#ifdef HAVE_LINUX_USERFAULTFD_H

#include <pthread.h>
#include <signal.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#if defined UFFDIO_WRITEPROTECT && defined SYS_userfaultfd
#define HAVE_GATE 1
#endif

#endif

#ifdef HAVE_GATE

/* What saved[0] of a closed write block points to. */
struct closed {
    sigset_t signals;
    struct os_object file; /* the userfaultfd, to be known again when it is closed */
    bool scanned;          /* bits are complete */
    bool blind;            /* there is no way to scan */
    size_t pages;
    uint64_t bits[]; /* one for each page: candidate */
};

static struct closed *closed_of(const struct os_write_block *g)
{
    return (struct closed *)(uintptr_t)g->saved[0];
}

/* ---- candidates ------------------------------------------------------------------------------ */

static void mark(struct closed *c, size_t first, size_t last)
{
    for (size_t i = first; i < last; i++)
        c->bits[i / 64] |= UINT64_C(1) << (i % 64);
}

/* Marks what a scan of the whole range finds. */
static int mark_candidates(const struct os_write_block *g, bool markers, bool swapped)
{
    struct closed *c = closed_of(g);
    struct os_range v[64];
    size_t page = ms_page_size();
    uintptr_t at = g->start;
    while (at < g->end) {
        int n = markers ? ms_pagemap_scan(&at, g->end, swapped ? PAGEMAP_PRIVATE : PAGEMAP_PRESENT,
                                          v, 64)
                        : ms_candidates(OS_SOURCE_SCAN, &at, g->end, v, 64);
        if (n < 0)
            return n;
        for (int i = 0; i < n; i++)
            if (!v[i].guarded)
                mark(c, (v[i].start - g->start) / page, (v[i].end - g->start) / page);
    }
    return 0;
}

static bool swap_exists(void)
{
    struct sysinfo info;
    return sysinfo(&info) < 0 || info.totalswap > 0;
}

/* The look after the write block was closed. Swap space that is added meanwhile is noticed. */
static int complete_candidates(const struct os_write_block *g)
{
    bool swap = swap_exists();
    int r = mark_candidates(g, true, swap);
    if (r == 0 && !swap && swap_exists())
        r = mark_candidates(g, true, true);
    return r;
}

/* The first page from i on whose bit is `set`, or c->pages. */
static size_t next_page(const struct closed *c, size_t i, bool set)
{
    while (i < c->pages) {
        uint64_t word = (set ? c->bits[i / 64] : ~c->bits[i / 64]) >> (i % 64);
        if (word) {
            i += (size_t)__builtin_ctzll(word);
            break;
        }
        i = (i / 64 + 1) * 64;
    }
    return i < c->pages ? i : c->pages;
}

int ms_write_block_candidates(const struct os_write_block *g, uintptr_t *cursor, uintptr_t end,
                              struct os_range *v, size_t max)
{
    struct closed *c = closed_of(g);
    if (c->blind)
        return -ENOTSUP;
    if (!c->scanned) {
        int r = complete_candidates(g);
        if (r < 0)
            return r;
        c->scanned = true;
    }
    size_t page = ms_page_size(), n = 0;
    uintptr_t at = *cursor;
    while (at < end && n < max) {
        size_t first = next_page(c, (at - g->start) / page, true);
        uintptr_t start = g->start + first * page;
        at = g->start + next_page(c, first, false) * page;
        if (at > end)
            at = end;
        if (start >= end) {
            at = end;
            break;
        }
        v[n++] = (struct os_range){start, at, false};
    }
    *cursor = at;
    return (int)n;
}

/* ---- opening and closing --------------------------------------------------------------------- */

/* All but those that a thread raises by its own fault: blocked, they would end the process. */
static void block_signals(struct closed *c)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t all;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        sigdelset(&all, own[i]);
    pthread_sigmask(SIG_BLOCK, &all, &c->signals);
}

/* One that also makes the kernel wait when it stores for a thread, in read(2) or when it pushes the
 * frame of a signal handler, where the process may have it. Stores of the kernel's meet EFAULT
 * with the other kind. */
static int open_userfaultfd(void)
{
    int fd = ms_open_userfaultfd(0);
    if (fd < 0 && errno == EPERM)
        fd = ms_open_userfaultfd_device();
    return fd < 0 ? ms_open_userfaultfd(UFFD_USER_MODE_ONLY) : fd;
}

/* A descriptor that can write-protect memfds and anonymous memory, absent pages included. */
static int open_write_block(struct os_object *o)
{
    int fd = open_userfaultfd();
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? ms_os_error(errno)
                                                                     : -ENOTSUP;
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
                    UFFD_FEATURE_WP_UNPOPULATED,
    };
    if (MS_IOCTL(fd, UFFDIO_API, &api) == 0)
        return ms_object_adopt(fd, "file", o);
    close(fd);
    return -ENOTSUP;
}

static int register_range(const struct os_write_block *g)
{
    struct uffdio_register arg = {
        .range = {.start = g->start, .len = g->end - g->start},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };
    if (MS_IOCTL(g->fd, UFFDIO_REGISTER, &arg) == 0)
        return 0;
    /* Files on disk cannot be protected, nor what a descriptor of the caller's is registered
     * for. */
    return errno == ENOMEM ? ms_map_error() : -ENOTSUP;
}

static int write_protect(const struct os_write_block *g)
{
    struct uffdio_writeprotect arg = {
        .range = {.start = g->start, .len = g->end - g->start},
        .mode = UFFDIO_WRITEPROTECT_MODE_WP,
    };
    while (MS_IOCTL(g->fd, UFFDIO_WRITEPROTECT, &arg) < 0) {
        if (errno != EAGAIN && errno != EINTR)
            return errno == ENOMEM ? -ENOMEM : -ENOTSUP;
    }
    return 0;
}

/* Lifts the protection and wakes whoever waits. */
static void unregister_range(const struct os_write_block *g)
{
    struct uffdio_range range = {.start = g->start, .len = g->end - g->start};
    MS_IOCTL(g->fd, UFFDIO_UNREGISTER, &range);
}

static struct closed *new_closed(size_t len)
{
    size_t pages = len / ms_page_size();
    struct closed *c = ms_alloc(sizeof *c + (pages + 63) / 64 * sizeof c->bits[0]);
    if (c)
        c->pages = pages;
    return c;
}

static void forget(struct closed *c)
{
    ms_object_close(&c->file);
    pthread_sigmask(SIG_SETMASK, &c->signals, NULL);
    ms_free(c);
}

/* With signals blocked: a handler of this thread that stored to the range would wait for ever. */
static int protect_range(const struct os_write_block *g)
{
    struct closed *c = closed_of(g);
    int r = register_range(g);
    if (r < 0)
        return r;
    c->blind = mark_candidates(g, false, true) < 0;
    r = write_protect(g);
    if (r < 0)
        unregister_range(g);
    return r;
}

int ms_write_block_close(void *addr, size_t len, struct os_write_block *g)
{
    struct os_write_block made = {.start = (uintptr_t)addr, .end = (uintptr_t)addr + len};
    struct closed *c = new_closed(len);
    if (!c)
        return -ENOMEM;
    int r = open_write_block(&c->file);
    if (r < 0) {
        ms_free(c);
        return r;
    }
    made.fd = c->file.fd;
    made.saved[0] = (uintptr_t)c;
    block_signals(c);
    r = protect_range(&made);
    if (r < 0)
        forget(c);
    else
        *g = made;
    return r;
}

void ms_write_block_open(struct os_write_block *g)
{
    struct closed *c = closed_of(g);
    int saved = errno;
    struct stat st;
    if (ms_object_check(&c->file, &st) == 0)
        unregister_range(g);
    g->fd = -1;
    forget(c);
    errno = saved;
}

#else

int ms_write_block_close(void *addr, size_t len, struct os_write_block *g)
{
    (void)addr;
    (void)len;
    (void)g;
    return -ENOTSUP;
}

int ms_write_block_candidates(const struct os_write_block *g, uintptr_t *cursor, uintptr_t end,
                              struct os_range *v, size_t max)
{
    (void)g;
    (void)cursor;
    (void)end;
    (void)v;
    (void)max;
    return -ENOTSUP;
}

void ms_write_block_open(struct os_write_block *g)
{
    (void)g;
}

#endif
