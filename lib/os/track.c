/* SPDX-License-Identifier: MIT */
/* Noticing stores: userfaultfd write protection that the kernel lifts by itself (WP_ASYNC, Linux
 * 6.7).
 *
 * A private page is protected when it is reported as written; the next store to it takes a fault
 * that ends the protection, and PAGEMAP_SCAN reports the page again. Pages that are not private
 * are never protected: their first store makes them private, and a private page that is not
 * protected is written. So a report costs what was written, and a range that was just registered
 * reports all that is private.
 *
 * One descriptor serves the process. Closed behind our back it has taken all registrations with
 * it: the scan then fails, and the caller compares. Each userfaultfd has an inode of its own where
 * there is WP_ASYNC, so that another one under the same number is known for what it is. */
#include "config.h"

#include "os/internal.h"
#include "os/kernel.h"

#include "base/annotate.h"

#include <errno.h>

#ifdef HAVE_LINUX_USERFAULTFD_H

#include <stdatomic.h>
#include <unistd.h>

#if defined UFFDIO_WRITEPROTECT && defined SYS_userfaultfd
#define HAVE_TRACK 1
#endif

#endif

#ifdef HAVE_TRACK

/* The kernel itself lifts the protection, for its own stores too: user mode is all that is asked
 * for. */
static int open_tracker(struct os_object *o)
{
    int fd = ms_open_userfaultfd(UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? ms_os_error(errno)
                                                                     : -ENOTSUP;
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC};
    if (MS_IOCTL(fd, UFFDIO_API, &api) < 0) {
        close(fd);
        return -ENOTSUP;
    }
    return ms_object_adopt(fd, "file", o);
}

static struct shared_file tracker = SHARED_FILE(open_tracker);

/* Nothing outlives dlclose(3). */
__attribute__((destructor)) static void close_tracker(void)
{
    ms_shared_file_close(&tracker);
}

static int register_range(int fd, void *addr, size_t len)
{
    struct uffdio_register arg = {.range = {.start = (uintptr_t)addr, .len = len},
                                  .mode = UFFDIO_REGISTER_MODE_WP};
    if (MS_IOCTL(fd, UFFDIO_REGISTER, &arg) == 0)
        return 0;
    return errno == ENOMEM ? ms_map_error() : -ENOTSUP;
}

static int track_range(void *addr, size_t len)
{
    int fd = ms_shared_file(&tracker, false);
    int r = fd < 0 ? fd : register_range(fd, addr, len);
    if (r == -ENOTSUP && fd >= 0) {
        fd = ms_shared_file(&tracker, true);
        r = fd < 0 ? fd : register_range(fd, addr, len);
    }
    if (r < 0)
        return r;
    /* Somebody else's descriptor under that number would have stopped the writers instead. */
    struct os_range v;
    uintptr_t at = (uintptr_t)addr;
    r = ms_pagemap_scan(&at, at + ms_page_size(), PAGEMAP_TRACKED, &v, 1);
    if (r < 0)
        ms_untrack(addr, len);
    return r < 0 ? r : 0;
}

void ms_untrack(void *addr, size_t len)
{
    int saved = errno, fd = ms_shared_file(&tracker, false);
    struct uffdio_range range = {.start = (uintptr_t)addr, .len = len};
    if (fd >= 0)
        MS_IOCTL(fd, UFFDIO_UNREGISTER, &range);
    errno = saved;
}

/* ---- what was written ------------------------------------------------------------------------ */

/* To find out whose a page is takes the kernel 12 to 60 ns; whether it is protected, 2 ns;
 * whether it is there and protected, 4 ns. Where many are private and were not stored to (a
 * server's memory after a while) that is asked first, step by step, and only the parts of the
 * range that may have been written are looked at: after 100 stores to a GiB of which all is
 * private, 1.3 ms instead of 8. Where few are, it is of no use, and not asked again for a while. */
enum { STEP_PAGES = 2048, SAMPLE_PAGES = 256, MAX_PARTS = 32, MAX_BLIND_STEPS = 64 };
/* To look at so many pages more takes as long as another call, which interrupts the other
 * processors if it protects anything. */
enum { GAP_PAGES = 64 };
/* The least share of protected pages that asking first is of use for. */
enum { MIN_SHARE = 16 };

struct parts {
    size_t n, bytes; /* bytes: not counting the gaps between runs that were joined */
    uintptr_t end;   /* how far the answer goes */
    struct os_range v[MAX_PARTS];
};

static bool ask_parts(struct parts *p, uintptr_t start, uintptr_t end, enum pagemap_what what)
{
    size_t gap = GAP_PAGES * ms_page_size();
    p->end = start;
    int found = ms_pagemap_scan(&p->end, end, what, p->v, MAX_PARTS);
    p->n = p->bytes = 0;
    for (int i = 0; i < found; i++) {
        p->bytes += p->v[i].end - p->v[i].start;
        if (p->n && p->v[i].start - p->v[p->n - 1].end <= gap)
            p->v[p->n - 1].end = p->v[i].end;
        else
            p->v[p->n++] = p->v[i];
    }
    return found >= 0;
}

/* Asks for what is not protected; false: that is nearly all. */
static bool much_is_protected(struct parts *p, uintptr_t start, uintptr_t end)
{
    bool asked = ask_parts(p, start, end, PAGEMAP_UNPROTECTED);
    size_t seen = p->end - start;
    return asked && seen - p->bytes >= seen / MIN_SHARE;
}

/* The parts of [start, end) that may have been written. False: asking was of no use. unsure: a
 * sample is to tell that first. */
static bool find_parts(struct parts *p, uintptr_t start, uintptr_t end, bool unsure)
{
    size_t sample = SAMPLE_PAGES * ms_page_size();
    if (unsure && end - start > sample && !much_is_protected(p, start, start + sample))
        return false;
    if (!much_is_protected(p, start, end))
        return false;
    if (p->end == end && p->bytes <= (end - start) / 2)
        return true;
    /* what was never touched is not there */
    return ask_parts(p, start, end, PAGEMAP_UNPROTECTED_THERE) && p->end == end;
}

/* Adds what was written in the parts to the *n ranges of v. *at: how far it came. */
static int report_parts(const struct parts *p, struct os_range *v, size_t max, size_t *n,
                        uintptr_t *at)
{
    for (size_t i = 0; i < p->n && *n < max; i++) {
        *at = p->v[i].start;
        int found = ms_pagemap_scan(at, p->v[i].end, PAGEMAP_WRITTEN, v + *n, max - *n);
        if (found < 0)
            return found;
        *n += (size_t)found;
    }
    return 0;
}

int ms_written(uintptr_t *cursor, uintptr_t end, struct os_range *v, size_t max)
{
    size_t step = STEP_PAGES * ms_page_size(), n = 0, blind_steps = 1;
    bool unsure = true;
    uintptr_t at = *cursor;
    while (at < end && n < max) {
        struct parts parts;
        uintptr_t next = end - at > step ? at + step : end;
        unsure = !find_parts(&parts, at, next, unsure);
        if (!unsure) {
            blind_steps = 1;
        } else {
            next = end - next > blind_steps * step ? next + blind_steps * step : end;
            parts.v[0] = (struct os_range){at, next, false};
            parts.n = 1;
            blind_steps = blind_steps < MAX_BLIND_STEPS ? 2 * blind_steps : MAX_BLIND_STEPS;
        }
        int r = report_parts(&parts, v, max, &n, &at);
        if (r < 0)
            return r;
        if (n < max)
            at = next;
    }
    *cursor = at;
    return (int)n;
}

/* ---- trust ----------------------------------------------------------------------------------- */

enum { TEST_PAGES = 16 };
/* pages written: before tracking, then, and then */
static const unsigned BEFORE = 0x0A71, FIRST = 0x3C55, AGAIN = 0x9187;

static void write_pages(char *base, unsigned pattern)
{
    for (unsigned i = 0; i < TEST_PAGES; i++)
        if (pattern >> i & 1)
            ++*((volatile char *)base + i * ms_page_size());
}

/* Which pages are reported, or an error. */
static int written_pattern(char *base)
{
    struct os_range v[TEST_PAGES];
    size_t page = ms_page_size();
    uintptr_t start = (uintptr_t)base, end = start + TEST_PAGES * page, cursor = start;
    int pattern = 0, n = ms_written(&cursor, end, v, TEST_PAGES);
    for (int i = 0; i < n; i++)
        for (uintptr_t at = v[i].start; at < v[i].end; at += page)
            pattern |= 1 << ((at - start) / page);
    return n < 0 ? n : cursor == end ? pattern : -ENOTSUP;
}

static bool answers_right(char *base, size_t len)
{
    write_pages(base, BEFORE);
    (void)*((volatile char *)base + ms_page_size());
    if (track_range(base, len) < 0)
        return false;
    int before = written_pattern(base), nothing = written_pattern(base);
    write_pages(base, FIRST);
    int first = written_pattern(base);
    write_pages(base, AGAIN);
    int again = written_pattern(base);
    return before == (int)BEFORE && nothing == 0 && first == (int)FIRST && again == (int)AGAIN;
}

enum verdict { UNKNOWN, WORKS, USELESS };

static enum verdict test_tracking(void)
{
    struct os_object o;
    size_t len = TEST_PAGES * ms_page_size();
    void *base;
    if (ms_linux_create(&o) < 0)
        return UNKNOWN;
    enum verdict verdict = UNKNOWN;
    if (ms_object_grow(&o, len) == 0 &&
        ms_map_new(&o, 0, len, ms_page_size(), OS_PRIVATE, &base) == 0) {
        verdict = answers_right(base, len) ? WORKS : USELESS;
        ms_unmap(base, len);
    }
    ms_object_close(&o);
    return verdict;
}

static bool works(void)
{
    static atomic_int verdict;
    int known = atomic_load_explicit(&verdict, memory_order_relaxed);
    if (known == UNKNOWN) {
        known = (int)test_tracking();
        /* An exchange, not a plain store, is what the race detectors understand. */
        int expected = UNKNOWN;
        atomic_compare_exchange_strong(&verdict, &expected, known);
    }
    return known == WORKS;
}

int ms_track(void *addr, size_t len)
{
#ifdef MS_WITH_VALGRIND
    if (RUNNING_ON_VALGRIND) /* knows no userfaultfd, and says so at length */
        return -ENOTSUP;
#endif
    if (!works())
        return -ENOTSUP;
    return len ? track_range(addr, len) : 0;
}

#else

int ms_track(void *addr, size_t len)
{
    (void)addr;
    (void)len;
    return -ENOTSUP;
}

void ms_untrack(void *addr, size_t len)
{
    (void)addr;
    (void)len;
}

int ms_written(uintptr_t *cursor, uintptr_t end, struct os_range *v, size_t max)
{
    (void)cursor;
    (void)end;
    (void)v;
    (void)max;
    return -ENOTSUP;
}

#endif
