/* SPDX-License-Identifier: MIT */
/* Which pages of a range may be private: by the PAGEMAP_SCAN call, and by reading the pagemap
 * file.
 *
 * A page that may be private is present or swapped out, and not the object's (FILE). The zero
 * page is one of them: when the kernel splits a huge page (under memory pressure, or for
 * MADV_COLD) it puts the zero page in the place of parts that the user has zeroed, which are
 * changes like any other. A source that answers is not believed before it has answered right for
 * sixteen pages that are known: emulators pass on what the kernel says of another address.
 * Verdicts are kept per process for good.
 *
 * The descriptor of /proc/self/pagemap describes the process that opened it, so a forked child
 * opens its own; and it may be closed behind our back, so it is opened again when it turns out
 * not to be a pagemap. Such a number is nobody's of ours to close. */
#include "config.h"

#include "os/internal.h"
#include "os/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

/* On the stack, of which there may be little. The kernel would report some regions twice if more
 * than 512 were asked for. */
enum { REGIONS = 64, ENTRIES = 128 };

static const uint64_t ENTRY_PRESENT = UINT64_C(1) << 63, ENTRY_SWAPPED = UINT64_C(1) << 62;
static const uint64_t ENTRY_FILE = UINT64_C(1) << 61, ENTRY_GUARDED = UINT64_C(1) << 58;

/* ---- the descriptor -------------------------------------------------------------------------- */

static int open_pagemap(struct os_object *o)
{
    return ms_object_adopt(ms_openat(AT_FDCWD, "/proc/self/pagemap", O_RDONLY, 0), "file", o);
}

static int open_maps(struct os_object *o)
{
    return ms_object_adopt(ms_openat(AT_FDCWD, "/proc/self/maps", O_RDONLY, 0), "file", o);
}

static struct shared_file pagemap = SHARED_FILE(open_pagemap), maps = SHARED_FILE(open_maps);

/* Nothing outlives dlclose(3). */
__attribute__((destructor)) static void close_files(void)
{
    ms_shared_file_close(&pagemap);
    ms_shared_file_close(&maps);
}

/* The descriptor, or -ENOTSUP. */
static int get_file(struct shared_file *f, bool verify)
{
    int fd = ms_shared_file(f, verify);
    return fd < 0 ? -ENOTSUP : fd;
}

/* The result of a call that only this kind of file knows, so there is no look at the descriptor
 * beforehand; or -ENOTSUP, -ENOMEM, -EINVAL. */
static int file_call(struct shared_file *f, unsigned long request, void *arg)
{
    int fd = get_file(f, false), n = -1;
    for (int attempt = 0; fd >= 0 && attempt < 2; attempt++) {
        do
            n = MS_IOCTL(fd, request, arg);
        while (n < 0 && errno == EINTR);
        if (n >= 0)
            return n;
        if (errno == ENOMEM || errno == EINVAL)
            return -errno;
        if (errno != ENOTTY && errno != EBADF)
            return -ENOTSUP;
        fd = get_file(f, true);
    }
    return -ENOTSUP;
}

/* ---- collecting runs ------------------------------------------------------------------------- */

/* Adds r to the n runs of v; false if it fits neither in the last nor behind it. */
static bool add_run(struct os_range *v, size_t max, size_t *n, struct os_range r)
{
    if (*n > 0 && v[*n - 1].end == r.start && v[*n - 1].guarded == r.guarded) {
        v[*n - 1].end = r.end;
        return true;
    }
    if (*n == max)
        return false;
    v[(*n)++] = r;
    return true;
}

/* ---- PAGEMAP_SCAN ---------------------------------------------------------------------------- */

/* Number of regions or an error. Kernels before 6.15 refuse a question about guards: they are not
 * asked again. */
static int scan_call(struct pm_scan_arg *arg)
{
    static atomic_bool no_guards;
    if (!(arg->return_mask & PAGE_IS_GUARD))
        return file_call(&pagemap, PAGEMAP_SCAN, arg);
    bool plain = atomic_load_explicit(&no_guards, memory_order_relaxed);
    int n = plain ? -EINVAL : file_call(&pagemap, PAGEMAP_SCAN, arg);
    if (n != -EINVAL)
        return n;
    arg->return_mask &= ~(__u64)PAGE_IS_GUARD;
    n = file_call(&pagemap, PAGEMAP_SCAN, arg);
    if (n >= 0 && !plain)
        atomic_exchange_explicit(&no_guards, true, memory_order_relaxed);
    return n;
}

/* What is returned is the same for all pages of a query but guarded ones, so that present and
 * swapped ones make one run. */
#define OURS PAGE_IS_FILE
#define OURS_OR_GUARD (PAGE_IS_FILE | PAGE_IS_GUARD)
static const struct {
    uint64_t flags, inverted, all, any, returned;
} queries[] = {
    [PAGEMAP_PRESENT] = {0, OURS, OURS, PAGE_IS_PRESENT, OURS},
    [PAGEMAP_PRIVATE] = {0, OURS, OURS, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, OURS_OR_GUARD},
    [PAGEMAP_TRACKED] = {PM_SCAN_CHECK_WPASYNC, OURS, OURS, PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                         OURS_OR_GUARD},
    [PAGEMAP_WRITTEN] = {PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING, OURS, OURS | PAGE_IS_WRITTEN,
                         PAGE_IS_PRESENT | PAGE_IS_SWAPPED, OURS_OR_GUARD},
    [PAGEMAP_UNPROTECTED] = {PM_SCAN_CHECK_WPASYNC, 0, PAGE_IS_WRITTEN, 0, PAGE_IS_WRITTEN},
    [PAGEMAP_UNPROTECTED_THERE] = {PM_SCAN_CHECK_WPASYNC, 0, PAGE_IS_WRITTEN,
                                   PAGE_IS_PRESENT | PAGE_IS_SWAPPED, PAGE_IS_WRITTEN},
};

static struct os_range range_of(const struct page_region *r)
{
    return (struct os_range){(uintptr_t)r->start, (uintptr_t)r->end,
                             (r->categories & PAGE_IS_GUARD) != 0};
}

int ms_pagemap_scan(uintptr_t *cursor, uintptr_t end, enum pagemap_what what, struct os_range *v,
                    size_t max)
{
    struct page_region regions[REGIONS];
    size_t n = 0;
    uintptr_t at = *cursor;
    while (at < end && n < max) {
        size_t ask = max - n < REGIONS ? max - n : REGIONS;
        /* valgrind does not know that the kernel fills it in */
        memset(regions, 0, ask * sizeof regions[0]);
        struct pm_scan_arg arg = {
            .size = sizeof arg,
            .flags = queries[what].flags,
            .start = at,
            .end = end,
            .vec = (uintptr_t)regions,
            .vec_len = ask,
            .category_inverted = queries[what].inverted,
            .category_mask = queries[what].all,
            .category_anyof_mask = queries[what].any,
            .return_mask = queries[what].returned,
        };
        int count = scan_call(&arg);
        if (count < 0)
            return count == -ENOMEM ? count : -ENOTSUP;
        for (int i = 0; i < count; i++)
            add_run(v, max, &n, range_of(&regions[i]));
        if (arg.walk_end <= at)
            return -ENOTSUP;
        at = (uintptr_t)arg.walk_end;
    }
    *cursor = at;
    return (int)n;
}

/* Bytes of the pages that have the category; 0 where there is no way to tell. */
static size_t bytes_of_category(const void *addr, size_t len, uint64_t category)
{
    struct page_region regions[REGIONS];
    memset(regions, 0, sizeof regions);
    uintptr_t at = (uintptr_t)addr, end = at + len;
    size_t bytes = 0;
    while (at < end) {
        struct pm_scan_arg arg = {
            .size = sizeof arg,
            .start = at,
            .end = end,
            .vec = (uintptr_t)regions,
            .vec_len = REGIONS,
            .category_mask = category,
            .return_mask = category,
        };
        int count = scan_call(&arg);
        if (count < 0 || arg.walk_end <= at)
            return 0;
        for (int i = 0; i < count; i++)
            bytes += (size_t)(regions[i].end - regions[i].start);
        at = (uintptr_t)arg.walk_end;
    }
    return bytes;
}

size_t ms_huge_bytes(const void *addr, size_t len)
{
    return bytes_of_category(addr, len, PAGE_IS_HUGE);
}

size_t ms_present_bytes(const void *addr, size_t len)
{
    return bytes_of_category(addr, len, PAGE_IS_PRESENT);
}

bool ms_is_one_mapping(const void *addr, size_t len)
{
    struct procmap_query q = {.size = sizeof q, .query_addr = (uintptr_t)addr};
    if (file_call(&maps, PROCMAP_QUERY, &q) < 0)
        return false;
    return q.vma_start <= (uintptr_t)addr && (uintptr_t)addr + len <= q.vma_end &&
           q.vma_flags == (PROCMAP_QUERY_VMA_READABLE | PROCMAP_QUERY_VMA_WRITABLE);
}

/* ---- the pagemap file ------------------------------------------------------------------------ */

/* Reads the entries of `pages` pages from addr on: how many, or -ENOTSUP. */
static int read_entries(int fd, uintptr_t addr, size_t pages, uint64_t *entries)
{
    uint64_t offset = (uint64_t)(addr / ms_page_size()) * sizeof *entries;
    ssize_t n;
    do
        n = pread(fd, entries, pages * sizeof *entries, (off_t)offset);
    while (n < 0 && errno == EINTR);
    return n < (ssize_t)sizeof *entries ? -ENOTSUP : (int)((size_t)n / sizeof *entries);
}

static bool is_private(uint64_t entry)
{
    return (entry & (ENTRY_PRESENT | ENTRY_SWAPPED)) && !(entry & ENTRY_FILE);
}

static int read_pagemap(uintptr_t *cursor, uintptr_t end, struct os_range *v, size_t max)
{
    int fd = get_file(&pagemap, true); /* a read from something else would succeed */
    if (fd < 0)
        return fd;
    uint64_t entries[ENTRIES];
    size_t n = 0, page = ms_page_size();
    uintptr_t at = *cursor;
    while (at < end) {
        size_t pages = (end - at) / page < ENTRIES ? (end - at) / page : ENTRIES;
        int count = read_entries(fd, at, pages, entries);
        if (count < 0)
            return count;
        for (int i = 0; i < count; i++, at += page) {
            struct os_range r = {at, at + page, (entries[i] & ENTRY_GUARDED) != 0};
            if (is_private(entries[i]) && !add_run(v, max, &n, r))
                goto full;
        }
    }
full:
    *cursor = at;
    return (int)n;
}

/* ---- trust ----------------------------------------------------------------------------------- */

static int ask(enum os_source source, uintptr_t *cursor, uintptr_t end, struct os_range *v,
               size_t max)
{
    return source == OS_SOURCE_SCAN ? ms_pagemap_scan(cursor, end, PAGEMAP_PRIVATE, v, max)
                                    : read_pagemap(cursor, end, v, max);
}

enum { TEST_PAGES = 16, TEST_PATTERN = 0xA72D };

/* Which of the test pages the source calls private, or an error. */
static int asked_pattern(enum os_source source, const char *base)
{
    struct os_range v[TEST_PAGES];
    size_t page = ms_page_size();
    uintptr_t start = (uintptr_t)base, end = start + TEST_PAGES * page, cursor = start;
    int n = ask(source, &cursor, end, v, TEST_PAGES);
    if (n < 0)
        return n;
    int pattern = 0;
    for (int i = 0; i < n; i++) {
        for (uintptr_t at = v[i].start; at < v[i].end; at += page) {
            if (at >= start && at < end)
                pattern |= 1 << ((at - start) / page);
        }
    }
    return cursor == end ? pattern : -ENOTSUP;
}

/* Writes the pages of the pattern, reads every other one of the rest. */
static void touch_pattern(char *base)
{
    size_t page = ms_page_size();
    for (size_t i = 0; i < TEST_PAGES; i++) {
        volatile char *p = base + i * page;
        if (TEST_PATTERN >> i & 1)
            *p = 1;
        else if (i % 2)
            (void)*p;
    }
}

enum verdict { UNKNOWN, HONEST, USELESS };

static enum verdict test_range(enum os_source source, char *base)
{
    touch_pattern(base);
    int answer = asked_pattern(source, base);
    ms_unmap(base, TEST_PAGES * ms_page_size());
    if (answer == -ENOMEM)
        return UNKNOWN;
    return answer == TEST_PATTERN ? HONEST : USELESS;
}

/* Of a private mapping of an object. */
static enum verdict test_object(enum os_source source)
{
    struct os_object o;
    size_t len = TEST_PAGES * ms_page_size();
    if (ms_linux_create(&o) < 0)
        return UNKNOWN;
    enum verdict verdict = UNKNOWN;
    void *base;
    if (ms_object_grow(&o, len) == 0 &&
        ms_map_new(&o, 0, len, ms_page_size(), OS_PRIVATE, &base) == 0)
        verdict = test_range(source, base);
    ms_object_close(&o);
    return verdict;
}

/* Of memory that is no object's, with pages among it that are shared: it takes no object, which
 * some sandboxes punish. */
static enum verdict test_memory(enum os_source source)
{
    size_t page = ms_page_size();
    void *base;
    if (ms_reserve(NULL, TEST_PAGES * page, page, &base) < 0)
        return UNKNOWN;
    for (size_t i = 0; i < TEST_PAGES; i++) {
        if (!(TEST_PATTERN >> i & 1) && ms_share_zeros((char *)base + i * page, page) < 0) {
            ms_unmap(base, TEST_PAGES * page);
            return UNKNOWN;
        }
    }
    return test_range(source, base);
}

/* A test that could not be made is made anew the next time. No pagemap to ask is no verdict: it
 * may come (a process can be made dumpable again). */
static bool is_honest(enum os_source source)
{
    static atomic_int verdicts[2][OS_SOURCES];
    bool objects = ms_object_views_exist();
    atomic_int *verdict = &verdicts[objects][source];
    int known = atomic_load_explicit(verdict, memory_order_relaxed);
    if (known == UNKNOWN && get_file(&pagemap, false) >= 0) {
        known = (int)(objects ? test_object(source) : test_memory(source));
        /* An exchange, not a plain store, is what the race detectors understand. */
        int expected = UNKNOWN;
        atomic_compare_exchange_strong(verdict, &expected, known);
    }
    return known == HONEST;
}

int ms_candidates(enum os_source source, uintptr_t *cursor, uintptr_t end, struct os_range *v,
                  size_t max)
{
    if (source != OS_SOURCE_SCAN && source != OS_SOURCE_PAGEMAP)
        return -ENOTSUP;
    return is_honest(source) ? ask(source, cursor, end, v, max) : -ENOTSUP;
}
