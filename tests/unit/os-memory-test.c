/* SPDX-License-Identifier: MIT */
/* The contract with the operating system (lib/os/os.h): sizes, errors, bookkeeping memory, and the
 * address space. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

#include "os/internal.h"
#include "support/os_table.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* ---- numbers, memory, errors ----------------------------------------------------------------- */

static void test_sizes(void)
{
    g_assert_cmpuint(os->page_size(), ==, (size_t)sysconf(_SC_PAGESIZE));
    size_t huge = os->huge_size();
    g_assert_cmpuint(huge, ==, os->huge_size());
    g_assert_cmpuint(huge & (huge - 1), ==, 0);
    g_assert_true(huge == 0 || huge > page);
    g_assert_true(ms_os_default() == ms_os);
    g_assert_cmpint(ms_force_source, ==, OS_SOURCES);
}

static void test_alloc(void)
{
    char *p = os->alloc(100);
    g_assert_true(all_bytes(p, 0, 100));
    p[99] = 1;
    p = os->realloc(p, 1000);
    g_assert_cmpint(p[99], ==, 1);
    errno = ERANGE;
    os->free(p);
    os->free(NULL);
    g_assert_cmpint(errno, ==, ERANGE);
    if (!on_sanitizer() && !on_valgrind())
        g_assert_null(os->alloc((size_t)PTRDIFF_MAX + 1));
}

static void test_errors(void)
{
    static const int set[] = {EACCES, EBADF,  EBUSY,  EDQUOT, EEXIST,  EFAULT,  EFBIG,
                              EINVAL, EIO,    EISDIR, ELOOP,  EMFILE,  EMLINK,  ENAMETOOLONG,
                              ENFILE, ENOENT, ENOMEM, ENOSPC, ENOTDIR, ENOTSUP, EROFS};
    for (int e = 1; e < 200; e++) {
        bool stays = false, inside = false;
        for (size_t i = 0; i < G_N_ELEMENTS(set); i++) {
            stays |= set[i] == e;
            inside |= set[i] == -ms_os_error(e);
        }
        g_assert_true(inside);
        g_assert_true(!stays || ms_os_error(e) == -e);
    }
    g_assert_cmpint(ms_os_error(EPERM), ==, -EACCES);
    g_assert_cmpint(ms_os_error(ENOSYS), ==, -ENOTSUP);
    g_assert_cmpint(ms_os_error(EOVERFLOW), ==, -EFBIG);
    g_assert_cmpint(ms_os_error(ENXIO), ==, -EINVAL);
    g_assert_cmpint(ms_os_error(EAGAIN), ==, -ENOMEM);
    g_assert_cmpint(ms_os_error(ESTALE), ==, -EIO);
}

/* ---- address space --------------------------------------------------------------------------- */

static void test_reserve(void)
{
    char *p = reserve(3 * page);
    g_assert_true(all_bytes(p, 0, 3 * page));
    memset(p, 7, 3 * page);
    os->unmap(p, 3 * page);
    g_assert_false(can_read(p));
}

static void test_alignment(void)
{
    struct os_object o = object_of(4);
    enum { N = 24 };
    void *taken[N], *mapped[N];
    for (size_t i = 0; i < N; i++) {
        size_t align = page << i % 12;
        g_assert_cmpint(os->reserve(NULL, page * (1 + i % 3), align, &taken[i]), ==, 0);
        g_assert_cmpuint((uintptr_t)taken[i] % align, ==, 0);
        g_assert_cmpint(os->map_new(&o, page, 2 * page, align, OS_PRIVATE, &mapped[i]), ==, 0);
        g_assert_cmpuint((uintptr_t)mapped[i] % align, ==, 0);
        g_assert_true(all_bytes(mapped[i], 2, page) &&
                      all_bytes((char *)mapped[i] + page, 3, page));
    }
    for (size_t i = 0; i < N; i++) {
        os->unmap(taken[i], page * (1 + i % 3));
        os->unmap(mapped[i], 2 * page);
    }
    os->object_close(&o);
}

static void test_reserve_at(void)
{
    char *p = reserve(8 * page);
    void *q = &q;
    g_assert_cmpint(os->reserve(p + page, page, page, &q), ==, -EEXIST);
    g_assert_cmpint(os->reserve(p + 7 * page, 2 * page, page, &q), ==, -EEXIST);
    g_assert_true(q == &q);
    memset(p, 1, 8 * page);
    os->unmap(p, 8 * page);
    g_assert_cmpint(os->reserve(p + page, page, page, &q), ==, 0);
    g_assert_true(q == p + page && all_bytes(q, 0, page));
    os->unmap(q, page);
}

static void test_too_large(void)
{
    void *p = &p;
    size_t huge = SIZE_MAX / 2 / page * page;
    g_assert_cmpint(os->reserve(NULL, huge, page, &p), ==, -ENOMEM);
    g_assert_cmpint(os->reserve(NULL, huge, page << 9, &p), ==, -ENOMEM);
    g_assert_true(p == &p);
}

static void test_sharing(void)
{
    struct os_object o = object_of(4);
    char *private = map_object(&o, 4 * page, OS_PRIVATE);
    char *writer = map_object(&o, 4 * page, OS_SHARED_WRITE);
    char *reader = map_object(&o, 4 * page, OS_SHARED_READ);
    private[0] = 100;
    writer[page] = 101;
    g_assert_cmpint(reader[0], ==, 1);
    g_assert_cmpint(writer[0], ==, 1);
    g_assert_cmpint(private[0], ==, 100);
    g_assert_cmpint(reader[page], ==, 101);
    g_assert_false(can_write(reader));
    os->unmap(private, 4 * page);
    os->unmap(writer, 4 * page);
    os->unmap(reader, 4 * page);
    os->object_close(&o);
}

static void test_map_over(void)
{
    struct os_object o = object_of(4);
    char *p = reserve(4 * page);
    memset(p, 9, 4 * page);
    g_assert_cmpint(os->map_over(&o, 2 * page, p + page, 2 * page, OS_PRIVATE), ==, 0);
    g_assert_true(all_bytes(p, 9, page) && all_bytes(p + page, 3, page) &&
                  all_bytes(p + 2 * page, 4, page));
    g_assert_true(all_bytes(p + 3 * page, 9, page));
    p[page] = 50;
    g_assert_cmpint(os->map_over(NULL, 0, p, 2 * page, OS_PRIVATE), ==, 0);
    g_assert_true(all_bytes(p, 0, 2 * page) && all_bytes(p + 2 * page, 4, page));
    memset(p, 1, 4 * page);
    os->unmap(p, 4 * page);
    os->object_close(&o);
}

static void test_protect(void)
{
    char *p = reserve(3 * page);
    char *q = p + page;
    g_assert_cmpint(os->protect(q, page, MEMSNAP_ACCESS_NONE), ==, 0);
    g_assert_false(can_read(q));
    g_assert_true(can_write(p) && can_write(p + 2 * page));
    g_assert_cmpint(os->protect(q, page, MEMSNAP_ACCESS_READ), ==, 0);
    g_assert_true(can_read(q) && !can_write(q));
    g_assert_cmpint(os->protect(q, page, MEMSNAP_ACCESS_WRITE), ==, 0);
    g_assert_true(can_read(q) && can_write(q));
    g_assert_cmpint(os->protect(q, page, MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_EXEC), ==, 0);
    g_assert_true(can_read(q) && !can_write(q));
    os->unmap(p, 3 * page);
    g_assert_cmpint(os->protect(q, page, MEMSNAP_ACCESS_READ), ==, -ENOMEM);
}

static int discard(char *p, size_t len)
{
    struct os_range range = {.start = (uintptr_t)p, .end = (uintptr_t)p + len};
    return os->discard(&range, 1);
}

static void test_discard(void)
{
    struct os_object o = object_of(4);
    char *p = map_object(&o, 4 * page, OS_PRIVATE);
    memset(p, 9, 4 * page);
    int r = discard(p + page, 2 * page);
    if (os->caps & OS_CAP_DISCARD) {
        g_assert_cmpint(r, ==, 0);
        g_assert_true(all_bytes(p, 9, page) && all_bytes(p + page, 2, page) &&
                      all_bytes(p + 2 * page, 3, page));
        if (mlock(p, page) == 0) {
            g_assert_cmpint(discard(p, page), ==, 0);
            g_assert_true(all_bytes(p, 1, page));
        }
    } else {
        g_assert_cmpint(r, ==, -ENOTSUP);
        g_assert_true(all_bytes(p, 9, 4 * page));
    }
    os->unmap(p, 4 * page);
    os->object_close(&o);
}

static long faults(void)
{
    struct rusage usage;
    g_assert_cmpint(getrusage(RUSAGE_SELF, &usage), ==, 0);
    return usage.ru_minflt;
}

static void check_populate(void)
{
    enum { PAGES = 64 };
    struct os_object o = object_of(PAGES);
    char *p = map_object(&o, PAGES * page, OS_PRIVATE);
    g_assert_true(os->populate(p, PAGES * page) == 0);
    if (!on_valgrind() && !on_sanitizer()) {
        long before = faults();
        read_pages(p, PAGES);
        g_assert_true(faults() == before);
    }
    g_assert_true(p[5 * page] == 6);
    os->unmap(p, PAGES * page);
    os->object_close(&o);
}

static void test_populate(void)
{
    in_child(check_populate);
}

static void test_advise(void)
{
    char *p = reserve(4 * page);
    p[0] = 1;
    for (int advice = OS_NODUMP; advice <= OS_HUGE; advice++) {
        int r = os->advise(p, 4 * page, (enum os_advice)advice);
        bool about_fork = advice == OS_NOFORK || advice == OS_FORK;
        g_assert_true(r == -ENOTSUP || (r == 0 && (about_fork || os == ms_os_default())));
    }
    g_assert_cmpint(p[0], ==, 1);
    os->unmap(p, 4 * page);
}

static bool inherited(const char *p)
{
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0)
        child_exit(can_read(p) ? 1 : 0);
    int status;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status) == 1;
}

static void test_nofork(void)
{
    char *p = reserve(page);
    int r = os->advise(p, page, OS_NOFORK);
    if (r == -ENOTSUP) {
        test_skip("cannot keep memory from a child");
    } else {
        g_assert_cmpint(r, ==, 0);
        g_assert_false(inherited(p));
        g_assert_cmpint(os->advise(p, page, OS_FORK), ==, 0);
        g_assert_true(inherited(p));
    }
    os->unmap(p, page);
}

/* ---- huge pages ------------------------------------------------------------------------------ */

static void test_collapse(void)
{
    size_t huge = os->huge_size();
    if (!(os->caps & OS_CAP_HUGE) || !huge || huge > 4 * MIB) {
        g_assert_true(os->caps & OS_CAP_HUGE || os->collapse(NULL, 0) == -ENOTSUP);
        g_assert_true(os->caps & OS_CAP_HUGE || os->huge_bytes(NULL, 0) == 0);
        test_skip("no huge pages");
        return;
    }
    struct os_object o;
    g_assert_cmpint(os->object_create(&o), ==, 0);
    g_assert_cmpint(os->object_grow(&o, 2 * huge), ==, 0);
    void *p;
    g_assert_cmpint(os->map_new(&o, 0, 2 * huge, huge, OS_SHARED_WRITE, &p), ==, 0);
    g_assert_cmpuint((uintptr_t)p % huge, ==, 0);
    g_assert_cmpuint(os->huge_bytes(p, 2 * huge), ==, 0);
    *(char *)p = 1;
    *((char *)p + huge) = 2;
    int r = os->collapse(p, 2 * huge);
    if (r == -ENOTSUP || r == -ENOMEM)
        test_skip("no huge pages to be had");
    else
        g_assert_cmpint(r, ==, 0);
    struct os_range v;
    uintptr_t cursor = (uintptr_t)p;
    if (r == 0 && os->candidates(OS_SOURCE_SCAN, &cursor, cursor + page, &v, 1) >= 0)
        g_assert_cmpuint(os->huge_bytes(p, 2 * huge), ==, 2 * huge);
    g_assert_true(*(char *)p == 1 && *((char *)p + huge) == 2);
    os->unmap(p, 2 * huge);
    os->object_close(&o);
}

/* Stores to one page and reads another. Returns how many bytes are mapped then. */
static size_t read_one_of(const struct os_object *o, size_t len, size_t align, bool boundary)
{
    void *p;
    g_assert_cmpint(os->map_new(o, 0, len, align, OS_PRIVATE, &p), ==, 0);
    if (boundary)
        g_assert_cmpint(os->advise((char *)p + len / 2, len / 2, OS_BOUNDARY), ==, 0);
    g_assert_cmpuint(os->present_bytes(p, len), ==, 0);
    ((volatile char *)p)[3 * page] = 1;
    g_assert_cmpuint(os->present_bytes(p, len), ==, page);
    g_assert_cmpint(((volatile char *)p)[len - page], ==, 7);
    size_t present = os->present_bytes(p, len);
    g_assert_cmpint(((volatile char *)p)[3 * page], ==, 1);
    os->unmap(p, len);
    return present;
}

/* With a boundary in the middle of a huge page, a read beside a private page maps no more than half
 * of it. */
static void test_boundary(void)
{
    size_t huge = os->huge_size();
    struct os_object o;
    void *p;
    if (!(os->caps & OS_CAP_HUGE) || !huge || huge > 4 * MIB) {
        g_assert_cmpuint(os->present_bytes(&o, sizeof o), ==, 0);
        test_skip("no huge pages");
        return;
    }
    g_assert_cmpint(os->object_create(&o), ==, 0);
    g_assert_cmpint(os->object_grow(&o, huge), ==, 0);
    g_assert_cmpint(os->map_new(&o, 0, huge, huge, OS_SHARED_WRITE, &p), ==, 0);
    memset(p, 7, huge);
    size_t mapped = os->present_bytes(p, huge);
    int r = os->collapse(p, huge);
    os->unmap(p, huge);
    if (!mapped || r < 0) {
        test_skip(mapped ? "no huge pages to be had" : "no way to tell what is mapped");
    } else {
        g_assert_cmpuint(mapped, ==, huge);
        g_assert_cmpuint(read_one_of(&o, huge, huge, true), <=, huge / 2 + page);
        g_assert_cmpuint(read_one_of(&o, huge, huge, true), <=, read_one_of(&o, huge, huge, false));
    }
    os->object_close(&o);
}

/* ---- limits ---------------------------------------------------------------------------------- */

static long number_in(const char *path)
{
    char *text;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return -1;
    long n = atol(text);
    g_free(text);
    return n;
}

/* Makes as many mappings as the process may have: each step cuts one into three. */
static char *use_up_mappings(size_t *len)
{
    *len = (2 * (size_t)number_in("/proc/sys/vm/max_map_count") + 2) * page;
    char *p = mmap(NULL, *len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (size_t at = page; p != MAP_FAILED && at < *len; at += 2 * page) {
        if (mprotect(p + at, page, PROT_READ) < 0)
            break;
    }
    return p;
}

static void check_mapping_limit(void)
{
    struct os_object o = object_of(4);
    void *p = reserve(4 * page), *q = &q;
    size_t len;
    char *wall = use_up_mappings(&len);
    g_assert_true(wall != MAP_FAILED);
    g_assert_true(os->map_over(&o, 0, (char *)p + page, page, OS_PRIVATE) == -EMLINK);
    g_assert_true(os->protect((char *)p + page, page, MEMSNAP_ACCESS_READ) == -EMLINK);
    g_assert_true(all_bytes(p, 0, 4 * page));
    memset(p, 1, 4 * page);
    os->unmap((char *)p + page, page); /* stays mapped, but without memory */
    g_assert_true(all_bytes((char *)p + page, 0, page) && all_bytes((char *)p + 2 * page, 1, page));
    while (os->map_new(&o, 0, page, page, OS_PRIVATE, &q) == 0)
        ;
    g_assert_true(os->map_new(&o, 0, page, page, OS_PRIVATE, &q) == -EMLINK);
    g_assert_true(os->reserve(NULL, page, page << 9, &q) == -EMLINK);
    g_assert_true(munmap(wall, len) == 0);
    g_assert_true(os->map_over(&o, 0, (char *)p + page, page, OS_PRIVATE) == 0);
    g_assert_true(all_bytes((char *)p + page, 1, page));
}

static void test_mapping_limit(void)
{
    long limit = number_in("/proc/sys/vm/max_map_count");
    if (on_valgrind() || on_sanitizer() || limit < 0 || limit > 1L << 20)
        test_skip("the number of mappings cannot be used up here");
    else
        in_child(check_mapping_limit);
}

static void check_address_space_limit(void)
{
    long used = number_in("/proc/self/statm");
    if (used < 0) {
        test_skip("no /proc");
        return;
    }
    void *p = &p;
    struct rlimit limit = {(size_t)used * page + 64 * MIB, RLIM_INFINITY};
    g_assert_true(setrlimit(RLIMIT_AS, &limit) == 0);
    g_assert_true(os->reserve(NULL, 256 * MIB, page, &p) == -ENOMEM);
    /* Until nothing is left, not even for the mapping by which the library tells the two limits
     * apart. */
    while (os->reserve(NULL, MIB, page, &p) == 0)
        ;
    while (os->reserve(NULL, page, page, &p) == 0)
        ;
    g_assert_true(os->reserve(NULL, page, page, &p) == -ENOMEM);
}

static void test_address_space_limit(void)
{
    if (on_valgrind() || on_sanitizer())
        test_skip("the checker needs address space");
    else
        in_child(check_address_space_limit);
}

/* ---- kernels that lack something ------------------------------------------------------------- */

#ifdef __linux__
static void check_old_madvise(void)
{
    size_t huge = os->huge_size();
    if (!deny(SYS_madvise, 2, MADV_POPULATE_READ, EINVAL) ||
        !deny(SYS_madvise, 2, MADV_COLLAPSE, EINVAL) ||
        !deny(SYS_madvise, 2, MADV_HUGEPAGE, EINVAL)) {
        test_skip("no system call filters");
        return;
    }
    check_populate();
    char *p = reserve(page);
    g_assert_true(os->advise(p, page, OS_HUGE) == -ENOTSUP);
    g_assert_true(os->advise(p, page, OS_NODUMP) == 0);
    g_assert_true(os->collapse(p, huge ? huge : page) == -ENOTSUP);
}

static void test_old_madvise(void)
{
    in_child(check_old_madvise);
}
#endif

int main(int argc, char **argv)
{
    static const struct os_test tests[] = {
        {"sizes", test_sizes, OS_ANY},
        {"alloc", test_alloc, OS_ANY},
        {"errors", test_errors, OS_ANY},
        {"reserve", test_reserve, OS_ANY},
        {"alignment", test_alignment, OS_ANY},
        {"reserve-at", test_reserve_at, OS_ANY},
        {"too-large", test_too_large, OS_ANY},
        {"sharing", test_sharing, OS_ANY},
        {"map-over", test_map_over, OS_ANY},
        {"protect", test_protect, OS_ANY},
        {"discard", test_discard, OS_ANY},
        {"populate", test_populate, OS_ANY},
        {"advise", test_advise, OS_ANY},
        {"nofork", test_nofork, OS_ANY},
        {"collapse", test_collapse, OS_ANY},
        {"boundary", test_boundary, OS_ANY},
        {"mapping-limit", test_mapping_limit, OS_ANY},
        {"address-space-limit", test_address_space_limit, OS_ANY},
#ifdef __linux__
        {"old-madvise", test_old_madvise, OS_LINUX},
#endif
        {NULL, NULL, 0},
    };
    return os_test_main(argc, argv, tests);
}
