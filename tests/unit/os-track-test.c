/* SPDX-License-Identifier: MIT */
/* The contract with the operating system (lib/os/os.h): noticing which pages are stored to. */
#include "config.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

#ifdef HAVE_LINUX_USERFAULTFD_H
#include <linux/userfaultfd.h>
#endif

#include "os/os.h"
#include "support/os_table.h"

#ifdef __linux__
/* Whether the kernel offers tracking. The kernel is asked, because the library gives tracking up if
 * its self-test fails, and then tests of it are skipped. */
static bool kernel_can_track(void)
{
    bool can = false;
#if defined HAVE_LINUX_USERFAULTFD_H && defined SYS_userfaultfd
    enum { USER_MODE_ONLY = 1, WP_ASYNC = 1 << 15 };
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API, .features = WP_ASYNC};
    can = fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0;
    if (fd >= 0)
        close(fd);
#endif
    return can;
}

static void test_tracks_where_possible(void)
{
    if (on_valgrind() || !kernel_can_track())
        test_skip("the kernel cannot");
    else
        g_assert_cmpint(os->track(NULL, 0), ==, 0);
}

static int ask_written(const void *unused, uintptr_t *cursor, uintptr_t end, struct os_range *v,
                       size_t max)
{
    (void)unused;
    return os->written(cursor, end, v, max);
}

/* The pages that are reported as written are the expected ones. At most max runs in a call. */
static void check_written(const char *p, size_t pages, size_t max, const bool *expected)
{
    bool *found = g_new0(bool, pages);
    find_runs(ask_written, NULL, p, pages, max, found);
    for (size_t i = 0; i < pages; i++)
        g_assert_cmpint(found[i], ==, expected[i]);
    g_free(found);
}

/* Writes `runs` runs of up to `longest` pages, and reads a page beside each. */
static void write_runs(char *p, size_t pages, int runs, int longest, bool *written)
{
    for (int i = 0; i < runs; i++) {
        size_t first = (size_t)g_test_rand_int_range(0, (int)pages),
               n = (size_t)g_test_rand_int_range(1, longest + 1);
        for (size_t k = first; k < first + n && k < pages; k++) {
            p[k * page]++;
            written[k] = true;
        }
        read_pages(p + (first + 7) % pages * page, 1);
    }
}

/* In a range of which so many tenths are private: few, some and many stores. */
static void check_written_share(const struct os_object *o, size_t pages, int tenths)
{
    static const struct {
        int runs, longest;
        size_t max;
    } rounds[] = {{0, 1, 512},    {1, 1, 512},    {20, 3, 1}, {200, 1, 3},
                  {3, 5000, 512}, {3000, 2, 512}, {1, 1, 7},  {0, 1, 1}};
    char *p = map_object(o, pages * page, OS_PRIVATE);
    bool *expected = g_new0(bool, pages);
    for (size_t i = 0; i < pages; i++) {
        expected[i] = g_test_rand_int_range(0, 10) < tenths;
        if (expected[i])
            p[i * page] = 1;
    }
    g_assert_cmpint(os->track(p, pages * page), ==, 0);
    check_written(p, pages, 512, expected);
    for (size_t i = 0; i < G_N_ELEMENTS(rounds); i++) {
        memset(expected, 0, pages * sizeof *expected);
        write_runs(p, pages, rounds[i].runs, rounds[i].longest, expected);
        check_written(p, pages, rounds[i].max, expected);
    }
    os->untrack(p, pages * page);
    g_assert_cmpint(os->written(&(uintptr_t){(uintptr_t)p}, (uintptr_t)p + page,
                                &(struct os_range){0}, 1),
                    <, 0);
    os->unmap(p, pages * page);
    g_free(expected);
}

static void test_written(void)
{
    enum { PAGES = 20000 };
    if (os->track(NULL, 0) < 0) {
        test_skip("stores cannot be noticed here");
        return;
    }
    struct os_object o = full_object(PAGES);
    for (int tenths = 0; tenths <= 10; tenths += 5)
        check_written_share(&o, PAGES, tenths);
    check_written_share(&o, PAGES, 1);
    check_written_share(&o, 1, 10);
    os->object_close(&o);
}
#endif

int main(int argc, char **argv)
{
    static const struct os_test tests[] = {
#ifdef __linux__
        {"tracks-where-possible", test_tracks_where_possible, OS_LINUX},
        {"written", test_written, OS_LINUX},
#endif
        {NULL, NULL, 0},
    };
    return os_test_main(argc, argv, tests);
}
