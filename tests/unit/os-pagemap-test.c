/* SPDX-License-Identifier: MIT */
/* The contract with the operating system (lib/os/os.h): which pages may be private. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#endif

#include "os/os.h"
#include "support/os_table.h"

#ifdef __linux__
/* ---- dirty candidates ------------------------------------------------------------------------ */

static bool no_source(void)
{
    g_assert_cmpint(os->candidates(OS_SOURCE_COMPARE, &(uintptr_t){0}, page, NULL, 0), ==,
                    -ENOTSUP);
    if (source_works(os, OS_SOURCE_SCAN) || source_works(os, OS_SOURCE_PAGEMAP))
        return false;
    test_skip("no source of candidates");
    return true;
}

/* Every second page of 4000: more lone pages than the kernel reports in one go. */
static void test_lone_pages(void)
{
    if (no_source())
        return;
    enum { PAGES = 4000 };
    struct os_object o = full_object(PAGES);
    char *p = map_object(&o, PAGES * page, OS_PRIVATE);
    static bool expected[PAGES];
    for (size_t i = 1; i < PAGES; i += 2) {
        p[i * page] = 2;
        expected[i] = true;
    }
    check_sources(p, PAGES, expected);
    os->unmap(p, PAGES * page);
    os->object_close(&o);
}

static void test_random_pages(void)
{
    if (no_source())
        return;
    enum { PAGES = 1500 };
    struct os_object o = full_object(PAGES);
    for (int round = on_valgrind() ? 5 : 0; round < 6; round++) {
        char *p = map_object(&o, PAGES * page, OS_PRIVATE);
        bool expected[PAGES] = {false};
        int writes = g_test_rand_int_range(1, PAGES);
        for (int i = 0; i < writes; i++) {
            size_t written = (size_t)g_test_rand_int_range(0, PAGES),
                   looked = (size_t)g_test_rand_int_range(0, PAGES);
            p[written * page] = (char)i;
            expected[written] = true;
            read_pages(p + looked * page, 1);
        }
        /* pages are found whatever their protection */
        g_assert_cmpint(os->protect(p, PAGES / 2 * page, MEMSNAP_ACCESS_NONE), ==, 0);
        check_sources(p, PAGES, expected);
        os->unmap(p, PAGES * page);
    }
    os->object_close(&o);
}

static void test_zero_pages(void)
{
    if (no_source())
        return;
    char *p = reserve(16 * page);
    bool expected[16] = {false};
    p[3 * page] = 1;
    p[4 * page] = 0;
    expected[3] = expected[4] = true;
    check_sources(p, 16, expected);
    os->unmap(p, 16 * page);
}

/* When a huge page is split, the kernel puts the zero page in the place of parts that are all
 * zero: a page that was zeroed by the user is not private then, but still a change. */
static void test_split_huge_page(void)
{
    size_t huge = os->huge_size(), pages = huge / page;
    if (no_source())
        return;
    if (!huge || huge > 4 * MIB) {
        test_skip("no huge pages");
        return;
    }
    void *p;
    g_assert_cmpint(os->reserve(NULL, huge, huge, &p), ==, 0);
    os->advise(p, huge, OS_HUGE);
    memset(p, 5, huge);
    memset((char *)p + 10 * page, 0, page);
    madvise((char *)p + 300 % pages * page, page, 20 /* MADV_COLD */);
    bool *expected = g_new(bool, pages);
    for (size_t i = 0; i < pages; i++)
        expected[i] = true;
    check_sources(p, pages, expected);
    g_free(expected);
    os->unmap(p, huge);
}

static void test_swapped(void)
{
    struct sysinfo info;
    if (no_source())
        return;
    if (sysinfo(&info) < 0 || info.freeswap < 16 * MIB) {
        test_skip("no swap space");
        return;
    }
    enum { PAGES = 256 };
    struct os_object o = full_object(PAGES);
    char *p = map_object(&o, PAGES * page, OS_PRIVATE);
    bool expected[PAGES] = {false};
    for (size_t i = 0; i < PAGES; i += 3) {
        p[i * page] = 2;
        expected[i] = true;
    }
    g_assert_cmpint(madvise(p, PAGES * page, 21 /* MADV_PAGEOUT */), ==, 0);
    check_sources(p, PAGES, expected);
    os->unmap(p, PAGES * page);
    os->object_close(&o);
}

/* ---- the pagemap descriptor ------------------------------------------------------------------ */

static bool finds_lone_page(enum os_source source)
{
    char *p = reserve(4 * page);
    p[2 * page] = 1;
    uintptr_t start = (uintptr_t)p, cursor = start;
    struct os_range v[4];
    int n = os->candidates(source, &cursor, start + 4 * page, v, 4);
    bool right = n == 1 && v[0].start == start + 2 * page && v[0].end == start + 3 * page;
    os->unmap(p, 4 * page);
    return right;
}

static void check_own_pages(void)
{
    for (enum os_source s = OS_SOURCE_SCAN; s < OS_SOURCE_COMPARE; s++)
        g_assert_true(!source_works(os, s) || finds_lone_page(s));
}

static void test_pagemap_after_fork(void)
{
    if (no_source())
        return;
    check_own_pages();
    in_child(check_own_pages);
    check_own_pages();
}

/* The descriptor is closed; then its number belongs to another file that can be read. */
static void check_pagemap_closed(void)
{
    for (enum os_source s = OS_SOURCE_SCAN; s < OS_SOURCE_COMPARE; s++) {
        if (!source_works(os, s))
            continue;
        for (int fd = 3; fd < 256; fd++)
            close(fd);
        g_assert_true(finds_lone_page(s));
        for (int fd = 3; fd < 256; fd++)
            close(fd);
        for (int i = 0; i < 100; i++)
            g_assert_true(open("/dev/zero", O_RDONLY) >= 0);
        g_assert_true(finds_lone_page(s));
        for (int fd = 3; fd < 103; fd++)
            g_assert_true(fcntl(fd, F_GETFD) >= 0);
    }
}

static void test_pagemap_closed(void)
{
    if (no_source())
        return;
    if (on_valgrind())
        test_skip("closes valgrind's descriptors");
    else
        in_child(check_pagemap_closed);
}

static void check_undumpable(void)
{
    if (geteuid() == 0 && setuid(65534) < 0) {
        test_skip("needs another user");
        return;
    }
    g_assert_true(prctl(PR_SET_DUMPABLE, 0) == 0);
    for (int fd = 3; fd < 256; fd++)
        close(fd);
    g_assert_true(!source_works(os, OS_SOURCE_SCAN) && !source_works(os, OS_SOURCE_PAGEMAP));
    g_assert_true(prctl(PR_SET_DUMPABLE, 1) == 0);
    check_own_pages();
    g_assert_true(source_works(os, OS_SOURCE_PAGEMAP));
}

static void test_undumpable(void)
{
    if (no_source())
        return;
    if (on_valgrind())
        test_skip("closes valgrind's descriptors");
    else
        in_child(check_undumpable);
}

static void *use_sources(void *unused)
{
    for (int i = 0; i < 50; i++)
        g_assert_true(finds_lone_page(OS_SOURCE_SCAN) || finds_lone_page(OS_SOURCE_PAGEMAP));
    return unused;
}

static void test_sources_in_threads(void)
{
    if (no_source())
        return;
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, use_sources, NULL), ==, 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

/* ---- kernels that lack something ------------------------------------------------------------- */

static void check_old_pagemap(void)
{
    /* A new process would have been tested already: the verdict is inherited. */
    if (!deny(SYS_ioctl, 1, (unsigned)PAGEMAP_SCAN_COMMAND, ENOTTY)) {
        test_skip("no system call filters");
        return;
    }
    char *p = reserve(page);
    p[0] = 1;
    uintptr_t cursor = (uintptr_t)p;
    struct os_range v;
    if (os->candidates(OS_SOURCE_SCAN, &cursor, cursor + page, &v, 1) >= 0) {
        test_skip("the call has another number here");
        return;
    }
    g_assert_true(cursor == (uintptr_t)p);
    g_assert_true(os->huge_bytes(p, page) == 0);
    g_assert_true(finds_lone_page(OS_SOURCE_PAGEMAP));
    g_assert_true(os->candidates(OS_SOURCE_SCAN, &cursor, cursor + page, &v, 1) == -ENOTSUP);
}

static void test_old_pagemap(void)
{
    if (!source_works(os, OS_SOURCE_PAGEMAP))
        test_skip("no pagemap");
    else
        in_child(check_old_pagemap);
}
#endif

int main(int argc, char **argv)
{
    static const struct os_test tests[] = {
#ifdef __linux__
        {"lone-pages", test_lone_pages, OS_LINUX},
        {"random-pages", test_random_pages, OS_LINUX},
        {"zero-pages", test_zero_pages, OS_LINUX},
        {"split-huge-page", test_split_huge_page, OS_LINUX},
        {"swapped", test_swapped, OS_LINUX},
        {"pagemap-after-fork", test_pagemap_after_fork, OS_LINUX},
        {"pagemap-closed", test_pagemap_closed, OS_LINUX},
        {"undumpable", test_undumpable, OS_LINUX},
        {"sources-in-threads", test_sources_in_threads, OS_LINUX},
        {"old-pagemap", test_old_pagemap, OS_LINUX},
#endif
        {NULL, NULL, 0},
    };
    return os_test_main(argc, argv, tests);
}
