/* SPDX-License-Identifier: MIT */
/* What the tests of the contract with the operating system share; see os_table.h. */
#include "config.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/annotate.h"
#include "support/os_table.h"

const struct os *os;

/* ---- running --------------------------------------------------------------------------------- */

struct os_case {
    const struct os *os;
    void (*body)(void);
};

static void run_case(gconstpointer data)
{
    const struct os_case *c = data;
    os = c->os;
    c->body();
}

static void add_table(const struct os *table, int which, const struct os_test *tests)
{
    for (size_t i = 0; tests[i].name; i++) {
        if (!(tests[i].tables & (OS_ANY | which)))
            continue;
        struct os_case *c = g_new(struct os_case, 1);
        *c = (struct os_case){table, tests[i].body};
        char *path = g_strdup_printf("/os/%s/%s", table->name, tests[i].name);
        g_test_add_data_func_full(path, c, run_case, g_free);
        g_free(path);
    }
}

int os_test_main(int argc, char **argv, const struct os_test *tests)
{
    test_init(&argc, &argv);
#ifdef __linux__
    add_table(&os_linux, OS_LINUX, tests);
#endif
    add_table(&os_posix, OS_POSIX, tests);
    return g_test_run();
}

static void call_body(void *arg)
{
    void (**body)(void) = arg;
    (*body)();
}

void in_child(void (*body)(void))
{
    child_run(call_body, &body);
}

/* ---- memory and objects ---------------------------------------------------------------------- */

bool all_bytes(const char *p, char value, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (p[i] != value)
            return false;
    }
    return true;
}

char *reserve(size_t len)
{
    void *p;
    g_assert_cmpint(os->reserve(NULL, len, page, &p), ==, 0);
    return p;
}

char *map_object(const struct os_object *o, size_t len, enum os_share how)
{
    void *p;
    g_assert_cmpint(os->map_new(o, 0, len, page, how, &p), ==, 0);
    return p;
}

struct os_object object_of(size_t pages)
{
    struct os_object o;
    g_assert_cmpint(os->object_create(&o), ==, 0);
    g_assert_cmpint(os->object_grow(&o, pages * page), ==, 0);
    char *bytes = g_malloc(page);
    for (size_t i = 0; i < pages; i++) {
        memset(bytes, (char)(i + 1), page);
        struct os_iov v = {bytes, page};
        g_assert_cmpint(os->object_write(&o, &v, 1, i * page), ==, 0);
    }
    g_free(bytes);
    return o;
}

struct os_object full_object(size_t pages)
{
    struct os_object o;
    g_assert_cmpint(os->object_create(&o), ==, 0);
    char *bytes = g_malloc(pages * page);
    memset(bytes, 1, pages * page);
    struct os_iov v = {bytes, pages * page};
    g_assert_cmpint(os->object_write(&o, &v, 1, 0), ==, 0);
    g_free(bytes);
    return o;
}

void write_islands(const struct os_object *o)
{
    char *bytes = g_malloc(2 * page);
    memset(bytes, 3, 2 * page);
    struct os_iov v = {bytes, 2 * page};
    g_assert_cmpint(os->object_write(o, &v, 1, 4 * page), ==, 0);
    v.len = page;
    g_assert_cmpint(os->object_write(o, &v, 1, 12 * page), ==, 0);
    g_free(bytes);
}

void read_pages(const char *p, size_t pages)
{
    for (size_t i = 0; i < pages; i++)
        (void)*((volatile const char *)p + i * page);
}

bool can_read(const char *p)
{
    int fds[2];
    g_assert_cmpint(pipe(fds), ==, 0);
    QUIET_BEGIN();
    bool can = write(fds[1], p, 1) == 1;
    QUIET_END();
    close(fds[0]);
    close(fds[1]);
    return can;
}

bool can_write(char *p)
{
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    QUIET_BEGIN();
    bool can = read(fd, p, 1) == 1;
    QUIET_END();
    close(fd);
    return can;
}

char *temporary_file(const void *bytes, size_t len)
{
    char *name = NULL;
    int fd = g_file_open_tmp("memsnap-XXXXXX", &name, NULL);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, bytes, len), ==, (ssize_t)len);
    close(fd);
    return name;
}

void remove_file(char *name)
{
    unlink(name);
    g_free(name);
}

/* ---- runs of pages --------------------------------------------------------------------------- */

void find_runs(ask_fn *ask, const void *context, const char *p, size_t pages, size_t max,
               bool *found)
{
    uintptr_t start = (uintptr_t)p, cursor = start, end = start + pages * page, last = start;
    struct os_range *v = g_new0(struct os_range, max);
    memset(found, 0, pages * sizeof *found);
    while (cursor < end) {
        uintptr_t from = cursor;
        int n = ask(context, &cursor, end, v, max);
        g_assert_cmpint(n, >=, 0);
        g_assert_cmpuint((size_t)n, <=, max);
        g_assert_true(cursor > from && cursor <= end);
        for (int i = 0; i < n; i++) {
            g_assert_true(v[i].start >= last && v[i].start >= from && v[i].end > v[i].start &&
                          v[i].end <= cursor);
            last = v[i].end;
            for (uintptr_t at = v[i].start; at < v[i].end; at += page)
                found[(at - start) / page] = true;
        }
    }
    g_free(v);
}

/* Candidates of a call are merged, too. */
static int ask_source(const void *context, uintptr_t *cursor, uintptr_t end, struct os_range *v,
                      size_t max)
{
    int n = os->candidates(*(const enum os_source *)context, cursor, end, v, max);
    for (int i = 1; i < n; i++)
        g_assert_true(v[i].start > v[i - 1].end);
    return n;
}

static void check_source(enum os_source source, const char *p, size_t pages, const bool *expected)
{
    bool *found = g_new(bool, pages);
    static const size_t limits[] = {1, 3, 512, 513, 5000};
    for (size_t i = 0; i < G_N_ELEMENTS(limits); i++) {
        if (limits[i] < 10 && on_valgrind() && pages > 1000)
            continue; /* a call for each page */
        find_runs(ask_source, &source, p, pages, limits[i], found);
        for (size_t k = 0; k < pages; k++)
            g_assert_cmpint(found[k], ==, expected[k]);
    }
    g_free(found);
}

void check_sources(const char *p, size_t pages, const bool *expected)
{
    if (source_works(os, OS_SOURCE_SCAN))
        check_source(OS_SOURCE_SCAN, p, pages, expected);
    if (source_works(os, OS_SOURCE_PAGEMAP))
        check_source(OS_SOURCE_PAGEMAP, p, pages, expected);
}
