/* SPDX-License-Identifier: MIT */
/* The contract with the operating system (lib/os/os.h): stopping the writers of a range. */
#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#endif

#include "os/os.h"
#include "support/os_table.h"

#ifdef __linux__
enum { WRITERS = 3, BLOCKED_PAGES = 600, CUTS = 40 };

/* A writer's first counter is raised before its second, on another page: at any instant the
 * first is equal or one more. */
struct writer {
    _Atomic uint64_t *first, *second;
    /* 128 pages, none of which is there yet: each store goes to the next one */
    char *scatter;
    pthread_t thread;
    atomic_int *stop;
};

static void *write_counters(void *data)
{
    struct writer *w = data;
    for (uint64_t i = 1; !atomic_load_explicit(w->stop, memory_order_relaxed); i++) {
        atomic_store_explicit(w->first, i, memory_order_relaxed);
        atomic_store_explicit((_Atomic uint64_t *)(void *)(w->scatter + i % 128 * page), i,
                              memory_order_relaxed);
        atomic_store_explicit(w->second, i, memory_order_relaxed);
    }
    return NULL;
}

static bool write_block_works(void)
{
    if (on_valgrind()) {
        test_skip("valgrind knows no userfaultfd");
        return false;
    }
    struct os_write_block block;
    char *p = reserve(page);
    int r = os->write_block_close(p, page, &block);
    if (r == 0)
        os->write_block_open(&block);
    else
        g_assert_cmpint(r, ==, -ENOTSUP);
    os->unmap(p, page);
    if (r < 0)
        test_skip("no write block");
    return r == 0;
}

/* One half shows the object, the other is zero pages. */
static char *blocked_memory(struct os_object *o)
{
    *o = full_object(BLOCKED_PAGES / 2);
    char *p = reserve(BLOCKED_PAGES * page);
    g_assert_cmpint(os->map_over(o, 0, p, BLOCKED_PAGES / 2 * page, OS_PRIVATE), ==, 0);
    return p;
}

static uint64_t look(const _Atomic uint64_t *p)
{
    return atomic_load_explicit(p, memory_order_relaxed);
}

static void check_cut(char *p, struct writer *writers)
{
    struct os_write_block block;
    g_assert_cmpint(os->write_block_close(p, BLOCKED_PAGES * page, &block), ==, 0);
    uint64_t first[WRITERS], second[WRITERS];
    for (size_t i = 0; i < WRITERS; i++) {
        first[i] = look(writers[i].first);
        second[i] = look(writers[i].second);
        g_assert_true(first[i] == second[i] || first[i] == second[i] + 1);
    }
    nanosleep(&(struct timespec){0, 300000}, NULL);
    for (size_t i = 0; i < WRITERS; i++)
        g_assert_true(look(writers[i].first) == first[i] && look(writers[i].second) == second[i]);
    os->write_block_open(&block);
    g_assert_cmpint(block.fd, ==, -1);
}

static void test_write_block(void)
{
    if (!write_block_works())
        return;
    struct os_object o;
    char *p = blocked_memory(&o);
    memset(p, 0, 2 * WRITERS * page);
    struct writer writers[WRITERS];
    atomic_int stop = 0;
    for (size_t i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){
            .first = (_Atomic uint64_t *)(void *)(p + 2 * i * page),
            .second = (_Atomic uint64_t *)(void *)(p + (2 * i + 1) * page),
            .scatter = p + (200 + 128 * i) * page, /* across the border of the two halves */
            .stop = &stop,
        };
        g_assert_cmpint(pthread_create(&writers[i].thread, NULL, write_counters, &writers[i]), ==,
                        0);
    }
    for (int cut = 0; cut < CUTS; cut++) {
        check_cut(p, writers);
        /* the pages are absent again, so that the next cut meets stores to absent pages */
        if (cut % 4 == 0) {
            struct os_range range = {.start = (uintptr_t)(p + 200 * page),
                                     .end = (uintptr_t)(p + 584 * page)};
            g_assert_cmpint(os->discard(&range, 1), ==, 0);
        }
        for (size_t i = 0; i < WRITERS; i++) { /* every writer continues */
            uint64_t before = look(writers[i].second);
            while (look(writers[i].second) == before)
                nanosleep(&(struct timespec){0, 50000}, NULL);
        }
    }
    stop = 1;
    for (size_t i = 0; i < WRITERS; i++) {
        pthread_join(writers[i].thread, NULL);
        g_assert_cmpuint(look(writers[i].first), ==, look(writers[i].second));
    }
    os->unmap(p, BLOCKED_PAGES * page);
    os->object_close(&o);
}

static int ask_write_block(const void *context, uintptr_t *cursor, uintptr_t end,
                           struct os_range *v, size_t max)
{
    return os->write_block_candidates(context, cursor, end, v, max);
}

static void test_write_block_candidates(void)
{
    if (!write_block_works() || !source_works(os, OS_SOURCE_SCAN))
        return;
    struct os_object o;
    char *p = blocked_memory(&o);
    bool expected[BLOCKED_PAGES] = {false}, found[BLOCKED_PAGES];
    for (size_t i = 0; i < BLOCKED_PAGES; i++) {
        if (i % 7 == 0 || (i > 250 && i < 350)) {
            p[i * page] = 5;
            expected[i] = true;
        } else if (i % 3 == 0 && i < BLOCKED_PAGES / 2) {
            read_pages(p + i * page, 1);
        }
    }
    struct os_write_block block;
    g_assert_cmpint(os->write_block_close(p, BLOCKED_PAGES * page, &block), ==, 0);
    struct sysinfo info;
    bool exact = sysinfo(&info) == 0 && info.totalswap == 0;
    static const size_t limits[] = {1, 7, 1000};
    for (size_t k = 0; k < G_N_ELEMENTS(limits); k++) {
        find_runs(ask_write_block, &block, p, BLOCKED_PAGES, limits[k], found);
        for (size_t i = 0; i < BLOCKED_PAGES; i++)
            g_assert_true(exact ? found[i] == expected[i] : found[i] || !expected[i]);
    }
    /* Ten pages of the range are one run. */
    struct os_range v;
    uintptr_t cursor = (uintptr_t)p + 260 * page;
    g_assert_cmpint(os->write_block_candidates(&block, &cursor, (uintptr_t)p + 270 * page, &v, 1),
                    ==, 1);
    g_assert_true(v.start == (uintptr_t)p + 260 * page && v.end == (uintptr_t)p + 270 * page &&
                  cursor == v.end);
    /* Pages can be read meanwhile, absent ones too. */
    g_assert_true(p[page] == 1 && p[(BLOCKED_PAGES - 1) * page] == 0);
    os->write_block_open(&block);
    check_sources(p, BLOCKED_PAGES / 2, expected);
    memset(p, 3, BLOCKED_PAGES * page);
    os->unmap(p, BLOCKED_PAGES * page);
    os->object_close(&o);
}

static bool same_signals(const sigset_t *a, const sigset_t *b)
{
    for (int s = 1; s < NSIG; s++) {
        if (sigismember(a, s) != sigismember(b, s))
            return false;
    }
    return true;
}

static void test_write_block_signals(void)
{
    sigset_t before, during, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    g_assert_false(sigismember(&before, SIGUSR1)); /* or the tests before left it blocked */
    if (!write_block_works())
        return;
    struct os_write_block block;
    char *p = reserve(page);
    g_assert_cmpint(os->write_block_close(p, page, &block), ==, 0);
    pthread_sigmask(SIG_SETMASK, NULL, &during);
    g_assert_true(sigismember(&during, SIGUSR1) && sigismember(&during, SIGALRM) &&
                  !sigismember(&during, SIGSEGV));
    errno = ERANGE;
    os->write_block_open(&block);
    g_assert_cmpint(errno, ==, ERANGE);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    g_assert_true(same_signals(&before, &after));
    os->unmap(p, page);
}

static void test_write_block_refused(void)
{
    if (!write_block_works())
        return;
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    struct os_write_block block = {.fd = 77};
    char *p = reserve(page);
    os->unmap(p, page);
    g_assert_cmpint(os->write_block_close(p, page, &block), ==, -ENOTSUP); /* nothing there */

    char *bytes = g_malloc0(page), *name = temporary_file(bytes, page);
    struct os_object o;
    uint64_t size;
    g_assert_cmpint(os->file_open(name, false, &o, &size), ==, 0);
    p = map_object(&o, page, OS_PRIVATE);
    int r = os->write_block_close(p, page, &block);
    if (r == 0) /* /tmp is a tmpfs here */
        os->write_block_open(&block);
    else
        g_assert_true(r == -ENOTSUP && block.fd == 77);
    os->unmap(p, page);
    os->object_close(&o);
    remove_file(name);
    g_free(bytes);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    g_assert_true(same_signals(&before, &after));
}

static void check_write_block_descriptors(void)
{
    struct rlimit limit;
    g_assert_true(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = 3;
    g_assert_true(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    struct os_write_block block;
    char *p = reserve(page);
    g_assert_true(os->write_block_close(p, page, &block) == -EMFILE);
}

static void test_write_block_descriptors(void)
{
    if (write_block_works())
        in_child(check_write_block_descriptors);
}

/* Without PAGEMAP_SCAN a write block has no candidates; the caller compares everything. */
static void check_write_block_blind(void)
{
    if (!deny(SYS_ioctl, 1, (unsigned)PAGEMAP_SCAN_COMMAND, ENOTTY)) {
        test_skip("no system call filters");
        return;
    }
    struct os_write_block block;
    char *p = reserve(page);
    uintptr_t cursor = (uintptr_t)p;
    struct os_range v;
    g_assert_true(os->write_block_close(p, page, &block) == 0);
    g_assert_true(os->write_block_candidates(&block, &cursor, cursor + page, &v, 1) == -ENOTSUP);
    os->write_block_open(&block);
    *p = 1;
}

static void test_write_block_blind(void)
{
    if (write_block_works())
        in_child(check_write_block_blind);
}

static void check_without_userfaultfd(void)
{
    if (!deny(SYS_userfaultfd, -1, 0, EPERM) ||
        !deny(SYS_ioctl, 1, 0xAA00 /* USERFAULTFD_IOC_NEW */, EPERM)) {
        test_skip("no system call filters");
        return;
    }
    struct os_write_block block;
    char *p = reserve(page);
    g_assert_true(os->write_block_close(p, page, &block) == -ENOTSUP);
}

static void test_without_userfaultfd(void)
{
    in_child(check_without_userfaultfd);
}
#endif

static void test_no_write_block(void)
{
    struct os_write_block block = {.fd = -1};
    char *p = reserve(page);
    uintptr_t cursor = (uintptr_t)p;
    struct os_range v;
    g_assert_cmpint(os->write_block_close(p, page, &block), ==, -ENOTSUP);
    g_assert_cmpint(os->write_block_candidates(&block, &cursor, cursor + page, &v, 1), ==,
                    -ENOTSUP);
    os->write_block_open(&block);
    g_assert_cmpint(os->candidates(OS_SOURCE_SCAN, &cursor, cursor + page, &v, 1), ==, -ENOTSUP);
    os->unmap(p, page);
}

int main(int argc, char **argv)
{
    static const struct os_test tests[] = {
        {"no-write-block", test_no_write_block, OS_POSIX},
#ifdef __linux__
        {"write-block", test_write_block, OS_LINUX},
        {"write-block-candidates", test_write_block_candidates, OS_LINUX},
        {"write-block-signals", test_write_block_signals, OS_LINUX},
        {"write-block-refused", test_write_block_refused, OS_LINUX},
        {"write-block-descriptors", test_write_block_descriptors, OS_LINUX},
        {"write-block-blind", test_write_block_blind, OS_LINUX},
        {"without-userfaultfd", test_without_userfaultfd, OS_LINUX},
#endif
        {NULL, NULL, 0},
    };
    return os_test_main(argc, argv, tests);
}
