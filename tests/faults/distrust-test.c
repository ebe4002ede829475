/* SPDX-License-Identifier: MIT */
/* A kernel (an emulator) whose answers on pages are wrong: the library does not believe them.
 * What is asked of /proc/self/pagemap comes by here, and tells of other pages than those asked
 * for: in one child for each way of asking, because verdicts are for good. */
#include "config.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "support/support.h"

enum lie { HONEST, NOTHING_PRIVATE, ALL_PRIVATE, SHIFTED, LIES };

static enum lie lie_of_scan, lie_of_file;

/* The beginning of struct pm_scan_arg and of struct page_region. */
struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len;
};

struct region {
    uint64_t start, end, categories;
};

#define SCAN_CALL 16 /* the number in the request: _IOWR('f', 16, ...) */

/* In place of the C library's, which programs may do; the test has no other use of it. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    struct scan_arg *arg = va_arg(list, struct scan_arg *);
    va_end(list);
    bool is_scan = (request & 0xFFFF) == ('f' << 8 | SCAN_CALL) && arg->vec_len > 0;
    uint64_t start = is_scan ? arg->start : 0;
    if (is_scan && lie_of_scan == SHIFTED)
        arg->start += page;
    int n = (int)syscall(SYS_ioctl, fd, request, arg);
    if (!is_scan || n < 0 || lie_of_scan == HONEST)
        return n;
    struct region *r = (struct region *)(uintptr_t)arg->vec;
    arg->start = start;
    arg->walk_end = arg->end;
    if (lie_of_scan == NOTHING_PRIVATE)
        return 0;
    if (lie_of_scan == ALL_PRIVATE) {
        *r = (struct region){start, arg->end, 0};
        return 1;
    }
    for (int i = 0; i < n; i++) {
        r[i].start -= page;
        r[i].end -= page;
    }
    return n;
}

ssize_t pread(int fd, void *buf, size_t len, off_t offset)
{
    bool shifted = lie_of_file == SHIFTED && len % 8 == 0 && offset > (off_t)page;
    struct iovec v = {buf, len};
    ssize_t n = preadv(fd, &v, 1, shifted ? offset + 8 : offset);
    if (n > 0 && lie_of_file == NOTHING_PRIVATE)
        memset(buf, 0, (size_t)n);
    else if (n > 0 && lie_of_file == ALL_PRIVATE)
        memset(buf, 0x80, (size_t)n);
    return n;
}

static void all_is_found(void *arg)
{
    const size_t sizes[] = {20 * page + 3, 600 * page};
    const char *source = arg;
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        size_t size = sizes[i], at = 0, cursor = 0;
        unsigned char *data = pattern(size, 1), *model = g_memdup2(data, size);
        memsnap_snapshot *s = snap(data, size);
        memsnap_view *v = view(s);
        struct memsnap_range r[64];
        for (size_t p = 0; p < size / page; p += 3)
            model[p * page] = bytes(v)[p * page] ^= 1;
        int n = memsnap_view_dirty(v, &cursor, r, G_N_ELEMENTS(r));
        g_assert_cmpint(n, >, 0);
        check_ranges(r, n, data, model, size, &at);
        memsnap_snapshot *t = take(v);
        assert_content(t, model, size);
        assert_ok(memsnap_view_restore(v));
        assert_same(bytes(v), data, size);
        g_assert_cmpstr(view_stats(v).dirty_source, ==, source);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(t);
        memsnap_snapshot_unref(s);
        g_free(data);
        g_free(model);
    }
}

/* A test of its own process: GLib's own runner would have asked before. */
static void lie(gconstpointer data)
{
    const enum lie *lies = data;
    lie_of_scan = lies[0];
    lie_of_file = lies[1];
    const char *source = lies[0] == HONEST   ? "pagemap-scan"
                         : lies[1] == HONEST ? "pagemap"
                                             : "compare";
    if (on_valgrind())
        g_test_skip("no way to come between");
    else
        child_run(all_is_found, (void *)(uintptr_t)source);
    lie_of_scan = lie_of_file = HONEST;
}

/* Whether the kernel has the call and lets it be made, by a child, which keeps the answer from
 * this process. */
static void ask_honestly(void *arg)
{
    (void)arg;
    memsnap_snapshot *s = snap_pattern(20 * page, 1);
    memsnap_view *v = view(s);
    child_exit(strcmp(view_stats(v).dirty_source, "pagemap-scan") == 0 ? 0 : 3);
}

int main(int argc, char **argv)
{
    static const enum lie cases[][2] = {
        {NOTHING_PRIVATE, HONEST},          {ALL_PRIVATE, HONEST},      {SHIFTED, HONEST},
        {NOTHING_PRIVATE, NOTHING_PRIVATE}, {ALL_PRIVATE, ALL_PRIVATE}, {SHIFTED, SHIFTED},
    };
    static const char *const names[] = {"scan/nothing", "scan/all", "scan/shifted",
                                        "both/nothing", "both/all", "both/shifted"};
    test_init(&argc, &argv);
    bool can_scan = !on_valgrind() && child_status(ask_honestly, NULL) == 0;
    for (size_t i = 0; can_scan && i < G_N_ELEMENTS(cases); i++) {
        char *path = g_strdup_printf("/lie/%s", names[i]);
        g_test_add_data_func(path, cases[i], lie);
        g_free(path);
    }
    return g_test_run();
}
