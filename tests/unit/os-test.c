/* The contract with the operating system (lib/os/os.h), operation by operation, for every table
 * that was compiled in.
 *
 * What changes a limit, closes descriptors or filters system calls does so in a forked child. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "memsnap.h"

#include "base/annotate.h"
#include "os/internal.h"

#ifdef __linux__
#include <linux/filter.h>
#include <linux/memfd.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#endif

#ifdef HAVE_LINUX_USERFAULTFD_H
#include <linux/userfaultfd.h>
#endif

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define MIB ((size_t)1 << 20)

static const struct os *os; /* the table under test */
static size_t page;

static bool on_valgrind(void)
{
#ifdef RUNNING_ON_VALGRIND
    return RUNNING_ON_VALGRIND != 0;
#else
    return false;
#endif
}

static bool on_sanitizer(void)
{
#if defined MS_ASAN || defined MS_TSAN
    return true;
#else
    return false;
#endif
}

/* Around system calls that are meant to meet memory that is not there. */
#ifdef VALGRIND_DISABLE_ERROR_REPORTING
#define QUIET_BEGIN() VALGRIND_DISABLE_ERROR_REPORTING
#define QUIET_END() VALGRIND_ENABLE_ERROR_REPORTING
#else
#define QUIET_BEGIN() ((void)0)
#define QUIET_END() ((void)0)
#endif

/* ---- children -------------------------------------------------------------------------------- */

/* What a child reports. */
struct report {
    int line; /* of the check that failed; 0: none did */
    char skipped[80];
};

static struct report *report;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            report->line = __LINE__;                                                               \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define SKIP(why)                                                                                  \
    do {                                                                                           \
        g_strlcpy(report->skipped, why, sizeof report->skipped);                                   \
        return;                                                                                    \
    } while (0)

extern void __gcov_dump(void) __attribute__((weak));

#define LIFT_LIMIT(resource)                                                                       \
    do {                                                                                           \
        struct rlimit limit_;                                                                      \
        if (getrlimit(resource, &limit_) == 0) {                                                   \
            limit_.rlim_cur = limit_.rlim_max;                                                     \
            setrlimit(resource, &limit_);                                                          \
        }                                                                                          \
    } while (0)

/* Limits are lifted again for what a coverage build writes at the end. */
static void child_exit(int code)
{
    LIFT_LIMIT(RLIMIT_AS);
    LIFT_LIMIT(RLIMIT_FSIZE);
    LIFT_LIMIT(RLIMIT_NOFILE);
    if (__gcov_dump)
        __gcov_dump();
    _exit(code);
}

static void run_in_child(void (*body)(void))
{
    report->line = 0;
    report->skipped[0] = 0;
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        body();
        child_exit(0);
    }
    int status;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(report->line, ==, 0);
    g_assert_true(WIFEXITED(status));
    if (report->skipped[0])
        g_test_skip(report->skipped);
}

#ifdef __linux__
/* From now on the call fails with `error`: whatever its arguments, or where argument `argument`
 * (from 0) is `value`. */
static bool deny(long call, int argument, unsigned value, int error)
{
    struct sock_filter any[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    size_t at = offsetof(struct seccomp_data, args) + 8 * (size_t)(argument < 0 ? 0 : argument);
#if G_BYTE_ORDER == G_BIG_ENDIAN
    at += 4;
#endif
    struct sock_filter one[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)at),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {G_N_ELEMENTS(any), any};
    if (argument >= 0)
        program = (struct sock_fprog){G_N_ELEMENTS(one), one};
    return !on_valgrind() && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}
#endif

/* ---- helpers --------------------------------------------------------------------------------- */

static bool all_bytes(const char *p, char value, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (p[i] != value)
            return false;
    }
    return true;
}

/* An object of `pages` pages, the i-th filled with (char)(i + 1). */
static struct os_object object_of(size_t pages)
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

static char *map_object(const struct os_object *o, size_t len, enum os_share how)
{
    void *p;
    g_assert_cmpint(os->map_new(o, 0, len, page, how, &p), ==, 0);
    return p;
}

static char *reserve(size_t len)
{
    void *p;
    g_assert_cmpint(os->reserve(NULL, len, page, &p), ==, 0);
    return p;
}

/* Whether the kernel may read or write the byte: asked of the kernel, so that a refusal is no
 * signal. */
static bool can_read(const char *p)
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

static bool can_write(char *p)
{
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    QUIET_BEGIN();
    bool can = read(fd, p, 1) == 1;
    QUIET_END();
    close(fd);
    return can;
}

static char *temporary_file(const void *bytes, size_t len)
{
    char *name = g_strdup("/tmp/memsnap-os-test-XXXXXX");
    int fd = g_mkstemp(name);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, bytes, len), ==, (ssize_t)len);
    close(fd);
    return name;
}

static void remove_file(char *name)
{
    unlink(name);
    g_free(name);
}

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
        g_assert_null(os->alloc(SIZE_MAX / 2));
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

static void test_discard(void)
{
    struct os_object o = object_of(4);
    char *p = map_object(&o, 4 * page, OS_PRIVATE);
    memset(p, 9, 4 * page);
    int r = os->discard(p + page, 2 * page);
    if (os->caps & OS_CAP_DISCARD) {
        g_assert_cmpint(r, ==, 0);
        g_assert_true(all_bytes(p, 9, page) && all_bytes(p + page, 2, page) &&
                      all_bytes(p + 2 * page, 3, page));
        if (mlock(p, page) == 0) {
            g_assert_cmpint(os->discard(p, page), ==, 0);
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

static void read_pages(const char *p, size_t pages)
{
    for (size_t i = 0; i < pages; i++)
        (void)*((volatile const char *)p + i * page);
}

static void check_populate(void)
{
    enum { PAGES = 64 };
    struct os_object o = object_of(PAGES);
    char *p = map_object(&o, PAGES * page, OS_PRIVATE);
    CHECK(os->populate(p, PAGES * page) == 0);
    if (!on_valgrind() && !on_sanitizer()) {
        long before = faults();
        read_pages(p, PAGES);
        CHECK(faults() == before);
    }
    CHECK(p[5 * page] == 6);
    os->unmap(p, PAGES * page);
    os->object_close(&o);
}

static void test_populate(void)
{
    run_in_child(check_populate);
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
        g_test_skip("cannot keep memory from a child");
    } else {
        g_assert_cmpint(r, ==, 0);
        g_assert_false(inherited(p));
        g_assert_cmpint(os->advise(p, page, OS_FORK), ==, 0);
        g_assert_true(inherited(p));
    }
    os->unmap(p, page);
}

static void test_collapse(void)
{
    size_t huge = os->huge_size();
    if (!(os->caps & OS_CAP_HUGE) || !huge || huge > 4 * MIB) {
        g_assert_true(os->caps & OS_CAP_HUGE || os->collapse(NULL, 0) == -ENOTSUP);
        g_assert_true(os->caps & OS_CAP_HUGE || os->huge_bytes(NULL, 0) == 0);
        g_test_skip("no huge pages");
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
        g_test_skip("no huge pages to be had");
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

/* How many pages a read brings in around the one it reads. */
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

/* What is mapped beside a private page of a huge one, with and without a boundary in the huge
 * page. */
static void test_boundary(void)
{
    size_t huge = os->huge_size();
    struct os_object o;
    void *p;
    if (!(os->caps & OS_CAP_HUGE) || !huge || huge > 4 * MIB) {
        g_assert_cmpuint(os->present_bytes(&o, sizeof o), ==, 0);
        g_test_skip("no huge pages");
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
        g_test_skip(mapped ? "no huge pages to be had" : "no way to tell what is mapped");
    } else {
        g_assert_cmpuint(mapped, ==, huge);
        g_assert_cmpuint(read_one_of(&o, huge, huge, true), <=, huge / 2 + page);
        g_assert_cmpuint(read_one_of(&o, huge, huge, true), <=, read_one_of(&o, huge, huge, false));
    }
    os->object_close(&o);
}

/* ---- walls ----------------------------------------------------------------------------------- */

static long number_in(const char *path)
{
    char *text;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return -1;
    long n = atol(text);
    g_free(text);
    return n;
}

/* Each step makes two more mappings of it. */
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
    CHECK(wall != MAP_FAILED);
    CHECK(os->map_over(&o, 0, (char *)p + page, page, OS_PRIVATE) == -EMLINK);
    CHECK(os->protect((char *)p + page, page, MEMSNAP_ACCESS_READ) == -EMLINK);
    CHECK(all_bytes(p, 0, 4 * page));
    memset(p, 1, 4 * page);
    os->unmap((char *)p + page, page); /* cannot be cut out, but holds no memory any more */
    CHECK(all_bytes((char *)p + page, 0, page) && all_bytes((char *)p + 2 * page, 1, page));
    while (os->map_new(&o, 0, page, page, OS_PRIVATE, &q) == 0)
        ;
    CHECK(os->map_new(&o, 0, page, page, OS_PRIVATE, &q) == -EMLINK);
    CHECK(os->reserve(NULL, page, page << 9, &q) == -EMLINK);
    CHECK(munmap(wall, len) == 0);
    CHECK(os->map_over(&o, 0, (char *)p + page, page, OS_PRIVATE) == 0);
    CHECK(all_bytes((char *)p + page, 1, page));
}

static void test_mapping_limit(void)
{
    long limit = number_in("/proc/sys/vm/max_map_count");
    if (on_valgrind() || on_sanitizer() || limit < 0 || limit > 1L << 20)
        g_test_skip("the number of mappings cannot be used up here");
    else
        run_in_child(check_mapping_limit);
}

static void check_address_space_limit(void)
{
    long used = number_in("/proc/self/statm");
    if (used < 0)
        SKIP("no /proc");
    void *p = &p;
    struct rlimit limit = {(size_t)used * page + 64 * MIB, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    CHECK(os->reserve(NULL, 256 * MIB, page, &p) == -ENOMEM);
    /* Up to the last page: not even the question which wall it is fits in. */
    while (os->reserve(NULL, MIB, page, &p) == 0)
        ;
    while (os->reserve(NULL, page, page, &p) == 0)
        ;
    CHECK(os->reserve(NULL, page, page, &p) == -ENOMEM);
}

static void test_address_space_limit(void)
{
    if (on_valgrind() || on_sanitizer())
        g_test_skip("the checker needs address space");
    else
        run_in_child(check_address_space_limit);
}

/* ---- objects --------------------------------------------------------------------------------- */

static void test_object(void)
{
    struct os_object o;
    g_assert_cmpint(os->object_create(&o), ==, 0);
    g_assert_cmpint(o.fd, >, 2);
    g_assert_cmpint(fcntl(o.fd, F_GETFD) & FD_CLOEXEC, ==, FD_CLOEXEC);
    g_assert_true(!strcmp(o.kind, "memfd") || !strcmp(o.kind, "file"));
    struct stat st;
    g_assert_cmpint(fstat(o.fd, &st), ==, 0);
    g_assert_cmpuint(st.st_nlink, ==, 0);
    g_assert_cmpint(os->object_grow(&o, 10 * page), ==, 0);
    g_assert_cmpint(os->object_grow(&o, 5 * page), ==, 0);
    uint64_t size;
    g_assert_cmpint(os->file_size(&o, &size), ==, 0);
    g_assert_cmpuint(size, ==, 10 * page);
    int fd = o.fd;
    os->object_close(&o);
    g_assert_cmpint(o.fd, ==, -1);
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, -1);
    os->object_close(&o);
}

static void test_read_write(void)
{
    struct os_object o;
    g_assert_cmpint(os->object_create(&o), ==, 0);
    enum { N = 3000, MAX = 37 };
    static char in[N * MAX], out[N * MAX + 100];
    struct os_iov v[N];
    size_t len = 0;
    /* more vectors than one call takes, and empty ones among them */
    for (size_t i = 0; i < N; i++) {
        v[i] = (struct os_iov){in + len, i % MAX};
        memset(in + len, (char)(i % 251), i % MAX);
        len += i % MAX;
    }
    g_assert_cmpint(os->object_write(&o, v, N, 123), ==, 0);
    struct os_iov parts[3] = {{out, 1000}, {out, 0}, {out + 1000, len - 1000}};
    g_assert_cmpint(os->object_read(&o, parts, 3, 123), ==, 0);
    g_assert_true(memcmp(in, out, len) == 0);

    memset(out, 1, sizeof out);
    struct os_iov beyond[2] = {{out, 20}, {out + 20, 80}};
    g_assert_cmpint(os->object_read(&o, beyond, 2, 123 + len - 10), ==, 0);
    g_assert_true(memcmp(out, in + len - 10, 10) == 0);
    g_assert_true(all_bytes(out + 10, 0, 90));

    g_assert_cmpint(os->object_write(&o, v, 0, 0), ==, 0);
    g_assert_cmpint(os->object_write(&o, v, 1, 0), ==, 0);
    struct os_iov nowhere = {NULL, page};
    QUIET_BEGIN();
    g_assert_cmpint(os->object_write(&o, &nowhere, 1, 0), ==, -EFAULT);
    g_assert_cmpint(os->object_read(&o, &nowhere, 1, 0), ==, -EFAULT);
    QUIET_END();
    os->object_close(&o);
}

static void test_commit(void)
{
    struct os_object o = object_of(1);
    g_assert_cmpint(os->object_grow(&o, 8 * page), ==, 0);
    g_assert_cmpint(os->object_commit(&o, 4 * page, 4 * page), ==, 0);
    g_assert_cmpint(os->object_commit(&o, 0, 0), ==, 0);
    char *p = map_object(&o, 8 * page, OS_SHARED_WRITE);
    g_assert_true(all_bytes(p, 1, page) && all_bytes(p + page, 0, 7 * page));
    memset(p, 5, 8 * page);
    os->unmap(p, 8 * page);
    os->object_close(&o);
}

static void test_punch(void)
{
    struct os_object o = object_of(8);
    int r = os->object_punch(&o, 2 * page, 3 * page);
    if (!(os->caps & OS_CAP_PUNCH)) {
        g_assert_cmpint(r, ==, -ENOTSUP);
        os->object_close(&o);
        return;
    }
    g_assert_cmpint(r, ==, 0);
    g_assert_cmpint(os->object_punch(&o, 0, 0), ==, 0);
    char *p = map_object(&o, 8 * page, OS_SHARED_READ);
    struct stat st;
    g_assert_cmpint(fstat(o.fd, &st), ==, 0);
    g_assert_cmpuint((size_t)st.st_blocks * 512, ==, 5 * page);
    g_assert_true(all_bytes(p + page, 2, page) && all_bytes(p + 2 * page, 0, 3 * page));
    g_assert_true(all_bytes(p + 5 * page, 6, page));
    os->unmap(p, 8 * page);
    os->object_close(&o);
}

/* Data in pages 4..5 and 12 of 16. */
static void write_islands(const struct os_object *o)
{
    char *bytes = g_malloc(2 * page);
    memset(bytes, 3, 2 * page);
    struct os_iov v = {bytes, 2 * page};
    g_assert_cmpint(os->object_write(o, &v, 1, 4 * page), ==, 0);
    v.len = page;
    g_assert_cmpint(os->object_write(o, &v, 1, 12 * page), ==, 0);
    g_free(bytes);
}

static void test_data(void)
{
    struct os_object o;
    g_assert_cmpint(os->object_create(&o), ==, 0);
    g_assert_cmpint(os->object_grow(&o, 16 * page), ==, 0);
    uint64_t start = 99, end = 99;
    g_assert_cmpint(os->object_data(&o, 0, 16 * page, &start, &end), ==, 0);
    g_assert_cmpuint(start, ==, 99);
    write_islands(&o);
    g_assert_cmpint(os->object_data(&o, 0, 16 * page, &start, &end), ==, 1);
    g_assert_true(start == 4 * page && end == 6 * page);
    g_assert_cmpint(os->object_data(&o, 5 * page, 16 * page, &start, &end), ==, 1);
    g_assert_true(start == 5 * page && end == 6 * page);
    g_assert_cmpint(os->object_data(&o, 4 * page, 5 * page, &start, &end), ==, 1);
    g_assert_true(start == 4 * page && end == 5 * page);
    g_assert_cmpint(os->object_data(&o, 6 * page, 12 * page, &start, &end), ==, 0);
    g_assert_cmpint(os->object_data(&o, 6 * page, 16 * page, &start, &end), ==, 1);
    g_assert_true(start == 12 * page && end == 13 * page);
    g_assert_cmpint(os->object_data(&o, 13 * page, 16 * page, &start, &end), ==, 0);
    g_assert_cmpint(os->object_data(&o, 16 * page, 16 * page, &start, &end), ==, 0);
    g_assert_cmpint(os->object_data(&o, 20 * page, 30 * page, &start, &end), ==, 0);
    os->object_close(&o);
}

/* Every operation on an object whose descriptor number is somebody else's by now. */
static void check_strangers(const struct os_object *o)
{
    char byte = 0, *p = reserve(page);
    void *q;
    struct os_iov v = {&byte, 1};
    uint64_t a = 0, b = 0;
    g_assert_cmpint(os->map_new(o, 0, page, page, OS_PRIVATE, &q), ==, -EBADF);
    g_assert_cmpint(os->map_over(o, 0, p, page, OS_PRIVATE), ==, -EBADF);
    g_assert_true(all_bytes(p, 0, page));
    g_assert_cmpint(os->object_grow(o, 100 * page), ==, -EBADF);
    g_assert_cmpint(os->object_commit(o, 0, page), ==, -EBADF);
    g_assert_cmpint(os->object_write(o, &v, 1, 0), ==, -EBADF);
    g_assert_cmpint(os->object_read(o, &v, 1, 0), ==, -EBADF);
    g_assert_cmpint(os->object_data(o, 0, page, &a, &b), ==, -EBADF);
    g_assert_cmpint(os->object_punch(o, 0, page), ==, os->caps & OS_CAP_PUNCH ? -EBADF : -ENOTSUP);
    g_assert_false(os->file_sealed(o));
    g_assert_cmpint(os->file_size(o, &a), ==, -EBADF);
    g_assert_cmpint(os->file_copy(o, 0, o, 0, page), ==, -EBADF);
    g_assert_cmpint(os->flush(p, page, o), ==, -EBADF);
    os->unmap(p, page);
}

static void test_closed_behind_our_back(void)
{
    struct os_object o = object_of(1), copy = o;
    close(o.fd);
    check_strangers(&o);

    char *name = temporary_file("somebody else's", 15);
    int stranger = open(name, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(dup2(stranger, o.fd), ==, o.fd);
    check_strangers(&o);
    os->object_close(&copy);
    g_assert_cmpint(fcntl(o.fd, F_GETFD), >=, 0);

    char *bytes;
    gsize len;
    g_assert_true(g_file_get_contents(name, &bytes, &len, NULL));
    g_assert_true(len == 15 && memcmp(bytes, "somebody else's", len) == 0);
    g_free(bytes);
    if (stranger != o.fd)
        close(stranger);
    close(o.fd);
    remove_file(name);
}

static void check_standard_descriptors(void)
{
    close(0);
    close(1);
    close(2);
    struct os_object o, copy, opened;
    uint64_t size;
    CHECK(os->object_create(&o) == 0);
    CHECK(os->file_dup(o.fd, false, &copy, &size) == 0);
    CHECK(os->file_open("/etc/passwd", false, &opened, &size) == 0);
    CHECK(o.fd > 2 && copy.fd > 2 && opened.fd > 2);
    char *p = reserve(page);
    uintptr_t cursor = (uintptr_t)p;
    struct os_range v;
    os->candidates(OS_SOURCE_SCAN, &cursor, cursor + page, &v, 1);
    for (int fd = 0; fd < 3; fd++)
        CHECK(fcntl(fd, F_GETFD) < 0);
}

static void test_standard_descriptors(void)
{
    if (on_valgrind())
        g_test_skip("valgrind uses them");
    else
        run_in_child(check_standard_descriptors);
}

static void check_file_size_limit(void)
{
    struct os_object o = object_of(4);
    struct rlimit limit = {8 * page, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    char *bytes = g_malloc0(2 * page);
    struct os_iov v = {bytes, 2 * page};
    CHECK(os->object_grow(&o, 8 * page) == 0);
    CHECK(os->object_grow(&o, 9 * page) == -EFBIG);
    CHECK(os->object_write(&o, &v, 1, 6 * page) == 0);
    CHECK(os->object_write(&o, &v, 1, 7 * page) == -EFBIG);
    CHECK(os->object_write(&o, &v, 1, UINT64_MAX - 5) == -EFBIG);
    uint64_t size;
    CHECK(os->file_size(&o, &size) == 0 && size == 8 * page);
    limit.rlim_cur = page;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    int r = os->object_commit(&o, 4 * page, page);
    CHECK(r == -EFBIG || (r == 0 && !strcmp(o.kind, "memfd")));
    CHECK(os->object_write(&o, &v, 1, 0) == -EFBIG);
    g_free(bytes);
    struct os_object target;
    CHECK(os->object_create(&target) == 0);
    CHECK(os->file_copy(&o, 0, &target, 0, 8 * page) == -EFBIG);
    CHECK(os->file_copy(&o, 4 * page, &target, 0, 2 * page) == -EFBIG); /* of a hole */
}

static void test_file_size_limit(void)
{
    struct os_object o = object_of(1);
    g_assert_cmpint(os->object_grow(&o, UINT64_C(1) << 63), ==, -EFBIG);
    os->object_close(&o);
    run_in_child(check_file_size_limit);
}

static void check_descriptor_limit(void)
{
    struct os_object o = {.fd = 77};
    int file = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = 3;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(os->object_create(&o) == -EMFILE && o.fd == 77);
    uint64_t size;
    CHECK(os->file_open("/etc/passwd", false, &o, &size) == -EMFILE && o.fd == 77);
    CHECK(dup2(file, 0) == 0);
    CHECK(os->file_dup(0, false, &o, &size) == -EMFILE && o.fd == 77);
    close(0);
    CHECK(os->file_open("/etc/passwd", false, &o, &size) == -EMFILE && o.fd == 77);
}

static void test_descriptor_limit(void)
{
    if (on_valgrind())
        g_test_skip("valgrind has descriptors of its own");
    else
        run_in_child(check_descriptor_limit);
}

/* ---- the user's files ------------------------------------------------------------------------ */

static void test_file_open(void)
{
    char *name = temporary_file("hello", 5);
    struct os_object o;
    uint64_t size = 0;
    for (int writable = 0; writable < 2; writable++) {
        g_assert_cmpint(os->file_open(name, writable, &o, &size), ==, 0);
        g_assert_cmpuint(size, ==, 5);
        g_assert_cmpstr(o.kind, ==, "file");
        g_assert_false(os->file_sealed(&o));
        g_assert_cmpint(fcntl(o.fd, F_GETFD) & FD_CLOEXEC, ==, FD_CLOEXEC);
        g_assert_cmpint(fcntl(o.fd, F_GETFL) & O_ACCMODE, ==, writable ? O_RDWR : O_RDONLY);
        os->object_close(&o);
    }
    remove_file(name);

    name = temporary_file("", 0);
    g_assert_cmpint(os->file_open(name, false, &o, &size), ==, 0);
    g_assert_cmpuint(size, ==, 0);
    os->object_close(&o);
    remove_file(name);
}

static void test_file_open_errors(void)
{
    struct os_object o = {.fd = 77};
    uint64_t size = 99;
    g_assert_cmpint(os->file_open("/nonexistent/file", false, &o, &size), ==, -ENOENT);
    g_assert_cmpint(os->file_open("/dev/null/file", false, &o, &size), ==, -ENOTDIR);
    g_assert_cmpint(os->file_open("/tmp", false, &o, &size), ==, -EISDIR);
    g_assert_cmpint(os->file_open("/tmp", true, &o, &size), ==, -EISDIR);
    g_assert_cmpint(os->file_open("/dev/null", false, &o, &size), ==, -EINVAL);
    if (access("/proc/self/status", R_OK) == 0)
        g_assert_cmpint(os->file_open("/proc/self/status", false, &o, &size), ==, -EINVAL);

    char *name = temporary_file("", 0);
    unlink(name);
    g_assert_cmpint(mkfifo(name, 0600), ==, 0);
    g_assert_cmpint(os->file_open(name, false, &o, &size), ==, -EINVAL);
    unlink(name);
    g_assert_cmpint(symlink(name, name), ==, 0);
    g_assert_cmpint(os->file_open(name, false, &o, &size), ==, -ELOOP);
    remove_file(name);

    name = temporary_file("hello", 5);
    g_assert_cmpint(chmod(name, 0), ==, 0);
    if (geteuid() != 0)
        g_assert_cmpint(os->file_open(name, false, &o, &size), ==, -EACCES);
    remove_file(name);
    g_assert_cmpint(o.fd, ==, 77);
    g_assert_cmpuint(size, ==, 99);
}

static void check_unreadable(void)
{
    if (geteuid() == 0 && setuid(65534) < 0)
        SKIP("needs another user");
    struct os_object o;
    uint64_t size;
    char *name = temporary_file("hello", 5);
    chmod(name, 0400);
    int readable = os->file_open(name, false, &o, &size),
        writable = os->file_open(name, true, &o, &size);
    chmod(name, 0200);
    int blind = os->file_open(name, false, &o, &size);
    remove_file(name);
    CHECK(readable == 0 && writable == -EACCES && blind == -EACCES);
}

static void test_unreadable(void)
{
    run_in_child(check_unreadable);
}

static void test_file_dup(void)
{
    char *name = temporary_file("hello", 5);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    struct os_object o;
    uint64_t size;
    g_assert_cmpint(os->file_dup(fd, false, &o, &size), ==, 0);
    g_assert_cmpuint(size, ==, 5);
    g_assert_cmpint(o.fd, !=, fd);
    g_assert_cmpint(fcntl(o.fd, F_GETFD) & FD_CLOEXEC, ==, FD_CLOEXEC);
    g_assert_cmpint(lseek(fd, 3, SEEK_SET), ==, 3);
    uint64_t start, end;
    g_assert_cmpint(os->object_data(&o, 0, 5, &start, &end), ==, 1);
    struct os_object target = object_of(1);
    g_assert_cmpint(os->file_copy(&o, 0, &target, 0, 5), ==, 0);
    g_assert_cmpint(lseek(fd, 0, SEEK_CUR), ==, 3); /* the offset is the caller's */
    os->object_close(&target);
    os->object_close(&o);
    g_assert_cmpint(fcntl(fd, F_GETFD), >=, 0);
    close(fd);
    remove_file(name);
}

static void test_file_dup_errors(void)
{
    struct os_object o = {.fd = 77};
    uint64_t size = 99;
    char *name = temporary_file("hello", 5);
    int reader = open(name, O_RDONLY | O_CLOEXEC), writer = open(name, O_WRONLY | O_CLOEXEC);
    int dir = open("/tmp", O_RDONLY | O_CLOEXEC);
    int fds[2];
    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(os->file_dup(-1, false, &o, &size), ==, -EBADF);
    g_assert_cmpint(os->file_dup(1000000, false, &o, &size), ==, -EBADF);
    g_assert_cmpint(os->file_dup(writer, false, &o, &size), ==, -EACCES);
    g_assert_cmpint(os->file_dup(reader, true, &o, &size), ==, -EACCES);
    g_assert_cmpint(os->file_dup(dir, false, &o, &size), ==, -EISDIR);
    g_assert_cmpint(os->file_dup(fds[0], false, &o, &size), ==, -EINVAL);
#ifdef O_PATH
    int path = open(name, O_PATH | O_CLOEXEC);
    g_assert_cmpint(os->file_dup(path, false, &o, &size), ==, -EBADF);
    close(path);
#endif
    close(fds[0]);
    close(fds[1]);
    close(dir);
    close(reader);
    close(writer);
    remove_file(name);
    g_assert_cmpint(o.fd, ==, 77);
    g_assert_cmpuint(size, ==, 99);
}

#ifdef __linux__
static void test_sealed(void)
{
    int fd = (int)syscall(SYS_memfd_create, "os-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        g_test_skip("no memfd");
        return;
    }
    g_assert_cmpint(ftruncate(fd, (off_t)page), ==, 0);
    struct os_object o;
    uint64_t size;
    g_assert_cmpint(os->file_dup(fd, false, &o, &size), ==, 0);
    g_assert_cmpstr(o.kind, ==, "memfd");
    bool linux_table = os == &os_linux;
    g_assert_false(os->file_sealed(&o));
    g_assert_cmpint(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), ==, 0);
    g_assert_false(os->file_sealed(&o));
    g_assert_cmpint(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), ==, 0);
    g_assert_true(os->file_sealed(&o) == linux_table);
    char *p = map_object(&o, page, OS_PRIVATE);
    p[0] = 1;
    os->unmap(p, page);
    void *q;
    g_assert_cmpint(os->map_new(&o, 0, page, page, OS_SHARED_WRITE, &q), ==, -EACCES);
    os->object_close(&o);
    close(fd);
}
#endif

static void check_copy(const struct os_object *from, const struct os_object *to, size_t offset,
                       size_t len)
{
    char *a = g_malloc(len), *b = g_malloc(len);
    struct os_iov va = {a, len}, vb = {b, len};
    g_assert_cmpint(os->object_read(from, &va, 1, 0), ==, 0);
    g_assert_cmpint(os->object_read(to, &vb, 1, offset), ==, 0);
    g_assert_true(memcmp(a, b, len) == 0);
    g_free(a);
    g_free(b);
}

static void test_file_copy(void)
{
    struct os_object source, fresh, used = object_of(32);
    g_assert_cmpint(os->object_create(&source), ==, 0);
    g_assert_cmpint(os->object_grow(&source, 16 * page), ==, 0);
    write_islands(&source);
    g_assert_cmpint(os->object_create(&fresh), ==, 0);

    g_assert_cmpint(os->file_copy(&source, 0, &fresh, 2 * page, 16 * page), ==, 0);
    check_copy(&source, &fresh, 2 * page, 16 * page);
    uint64_t size;
    g_assert_cmpint(os->file_size(&fresh, &size), ==, 0);
    g_assert_cmpuint(size, ==, 18 * page);
    struct stat st;
    g_assert_cmpint(fstat(fresh.fd, &st), ==, 0);
    g_assert_cmpuint((size_t)st.st_blocks * 512, ==, 3 * page); /* holes stayed holes */

    g_assert_cmpint(os->file_copy(&source, 0, &used, 8 * page, 16 * page), ==, 0);
    check_copy(&source, &used, 8 * page, 16 * page);
    char *p = map_object(&used, 32 * page, OS_SHARED_READ);
    g_assert_true(all_bytes(p + 7 * page, 8, page) && all_bytes(p + 24 * page, 25, page));
    os->unmap(p, 32 * page);

    g_assert_cmpint(os->file_copy(&source, 4 * page + 10, &used, 3, page), ==, 0);
    struct os_iov v = {g_malloc(page), page};
    g_assert_cmpint(os->object_read(&used, &v, 1, 3), ==, 0);
    g_assert_true(all_bytes(v.base, 3, page));
    g_free(v.base);

    g_assert_cmpint(os->file_copy(&source, 0, &fresh, 0, 17 * page), ==, -EIO);
    g_assert_cmpint(os->file_copy(&source, 0, &fresh, 0, 0), ==, 0);
    os->object_close(&source);
    os->object_close(&fresh);
    os->object_close(&used);
}

static void test_file_copy_large(void)
{
    enum { LEN = 3 * 1024 * 1024 + 777 };
    char *bytes = g_malloc(LEN);
    for (size_t i = 0; i < LEN; i++)
        bytes[i] = (char)(i * 2654435761u >> 13);
    char *name = temporary_file(bytes, LEN);
    struct os_object source, target;
    uint64_t size;
    g_assert_cmpint(os->file_open(name, false, &source, &size), ==, 0);
    g_assert_cmpint(os->object_create(&target), ==, 0);
    g_assert_cmpint(os->file_copy(&source, 0, &target, page, size), ==, 0);
    check_copy(&source, &target, page, LEN);
    g_assert_cmpint(truncate(name, LEN / 2), ==, 0);
    g_assert_cmpint(os->file_copy(&source, 0, &target, page, size), ==, -EIO);
    os->object_close(&source);
    os->object_close(&target);
    remove_file(name);
    g_free(bytes);
}

static void test_flush(void)
{
    char *bytes = g_malloc0(2 * page), *name = temporary_file(bytes, 2 * page);
    struct os_object o;
    uint64_t size;
    g_assert_cmpint(os->file_open(name, true, &o, &size), ==, 0);
    char *p = map_object(&o, 2 * page, OS_SHARED_WRITE);
    memset(p + page, 7, page);
    g_assert_cmpint(os->flush(p + page, page, &o), ==, 0);
    g_assert_cmpint(os->flush(p, 0, &o), ==, 0);
    struct os_iov v = {bytes, page};
    g_assert_cmpint(os->object_read(&o, &v, 1, page), ==, 0);
    g_assert_true(all_bytes(bytes, 7, page));
    os->unmap(p, 2 * page);
    os->object_close(&o);
    remove_file(name);
    g_free(bytes);
}

/* ---- dirty candidates ------------------------------------------------------------------------ */

static bool source_works(enum os_source source)
{
    char *p = reserve(page);
    uintptr_t cursor = (uintptr_t)p;
    struct os_range v;
    int n = os->candidates(source, &cursor, cursor + page, &v, 1);
    os->unmap(p, page);
    g_assert_true(n == 0 || n == -ENOTSUP);
    return n == 0;
}

/* Sets found[i] for every page i of p that the source names, taking at most max runs a call, and
 * checks the order. */
static void ask_source(enum os_source source, const char *p, size_t pages, size_t max, bool *found)
{
    uintptr_t start = (uintptr_t)p, cursor = start, end = start + pages * page, last = start;
    struct os_range *v = g_new0(struct os_range, max);
    memset(found, 0, pages * sizeof *found);
    while (cursor < end) {
        uintptr_t from = cursor;
        int n = os->candidates(source, &cursor, end, v, max);
        g_assert_cmpint(n, >=, 0);
        g_assert_cmpuint((size_t)n, <=, max);
        g_assert_true(cursor > from && cursor <= end);
        for (int i = 0; i < n; i++) {
            g_assert_true(v[i].start >= last && v[i].start >= from && v[i].end > v[i].start &&
                          v[i].end <= cursor);
            g_assert_true(i == 0 || v[i].start > v[i - 1].end);
            last = v[i].end;
            for (uintptr_t at = v[i].start; at < v[i].end; at += page)
                found[(at - start) / page] = true;
        }
    }
    g_free(v);
}

static void check_source(enum os_source source, const char *p, size_t pages, const bool *expected)
{
    bool *found = g_new(bool, pages);
    static const size_t limits[] = {1, 3, 512, 513, 5000};
    for (size_t i = 0; i < G_N_ELEMENTS(limits); i++) {
        if (limits[i] < 10 && on_valgrind() && pages > 1000)
            continue; /* a call for each page */
        ask_source(source, p, pages, limits[i], found);
        for (size_t k = 0; k < pages; k++)
            g_assert_cmpint(found[k], ==, expected[k]);
    }
    g_free(found);
}

static void check_sources(const char *p, size_t pages, const bool *expected)
{
    if (source_works(OS_SOURCE_SCAN))
        check_source(OS_SOURCE_SCAN, p, pages, expected);
    if (source_works(OS_SOURCE_PAGEMAP))
        check_source(OS_SOURCE_PAGEMAP, p, pages, expected);
}

static bool no_source(void)
{
    g_assert_cmpint(os->candidates(OS_SOURCE_COMPARE, &(uintptr_t){0}, page, NULL, 0), ==,
                    -ENOTSUP);
    if (source_works(OS_SOURCE_SCAN) || source_works(OS_SOURCE_PAGEMAP))
        return false;
    g_test_skip("no source of candidates");
    return true;
}

/* Every page of the object in core, so that reading a view's page maps it and no hole is filled. */
static struct os_object full_object(size_t pages)
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
        /* protections hide nothing */
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
        g_test_skip("no huge pages");
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

#ifdef __linux__
static void test_swapped(void)
{
    struct sysinfo info;
    if (no_source())
        return;
    if (sysinfo(&info) < 0 || info.freeswap < 16 * MIB) {
        g_test_skip("no swap space");
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
        CHECK(!source_works(s) || finds_lone_page(s));
}

static void test_pagemap_after_fork(void)
{
    if (no_source())
        return;
    check_own_pages();
    run_in_child(check_own_pages);
    check_own_pages();
}

/* Closed, and its number given to something that can be read. */
static void check_pagemap_closed(void)
{
    for (enum os_source s = OS_SOURCE_SCAN; s < OS_SOURCE_COMPARE; s++) {
        if (!source_works(s))
            continue;
        for (int fd = 3; fd < 256; fd++)
            close(fd);
        CHECK(finds_lone_page(s));
        for (int fd = 3; fd < 256; fd++)
            close(fd);
        for (int i = 0; i < 100; i++)
            CHECK(open("/dev/zero", O_RDONLY) >= 0);
        CHECK(finds_lone_page(s));
        for (int fd = 3; fd < 103; fd++)
            CHECK(fcntl(fd, F_GETFD) >= 0);
    }
}

static void test_pagemap_closed(void)
{
    if (no_source())
        return;
    if (on_valgrind())
        g_test_skip("closes valgrind's descriptors");
    else
        run_in_child(check_pagemap_closed);
}

static void check_undumpable(void)
{
    if (geteuid() == 0 && setuid(65534) < 0)
        SKIP("needs another user");
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    for (int fd = 3; fd < 256; fd++)
        close(fd);
    CHECK(!source_works(OS_SOURCE_SCAN) && !source_works(OS_SOURCE_PAGEMAP));
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
    check_own_pages();
    CHECK(source_works(OS_SOURCE_PAGEMAP));
}

static void test_undumpable(void)
{
    if (no_source())
        return;
    if (on_valgrind())
        g_test_skip("closes valgrind's descriptors");
    else
        run_in_child(check_undumpable);
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

static void check_without_memfd(void)
{
    /* Of several filters the newest one's error counts. */
    static const int errors[] = {EPERM, ENOSYS, EACCES, EINVAL};
    struct os_object o;
    CHECK(os->object_create(&o) == 0 && !strcmp(o.kind, "memfd"));
    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++) {
        if (!deny(SYS_memfd_create, -1, 0, errors[i]))
            SKIP("no system call filters");
        CHECK(os->object_create(&o) == 0 && !strcmp(o.kind, "file"));
        struct stat st;
        CHECK(fstat(o.fd, &st) == 0 && st.st_nlink == 0);
        os->object_close(&o);
    }
}

static void test_without_memfd(void)
{
    struct os_object o;
    g_assert_cmpint(os->object_create(&o), ==, 0);
    bool memfd = !strcmp(o.kind, "memfd");
    os->object_close(&o);
    if (memfd)
        run_in_child(check_without_memfd);
    else
        g_test_skip("there is none anyway");
}

static void check_memfd_exhausted(void)
{
    struct os_object o;
    if (!deny(SYS_memfd_create, -1, 0, ENFILE))
        SKIP("no system call filters");
    CHECK(os->object_create(&o) == -ENFILE);
}

static void test_memfd_exhausted(void)
{
    run_in_child(check_memfd_exhausted);
}

static void check_old_memfd(void)
{
    struct os_object o;
    if (!deny(SYS_memfd_create, 1, MFD_CLOEXEC | MFD_ALLOW_SEALING | 8, EINVAL))
        SKIP("no system call filters");
    CHECK(os->object_create(&o) == 0 && !strcmp(o.kind, "memfd"));
    CHECK(fcntl(o.fd, F_GET_SEALS) == F_SEAL_SHRINK);
}

static void test_old_memfd(void)
{
    run_in_child(check_old_memfd);
}

static void check_without_tmpfile(void)
{
    /* The kernel sees O_LARGEFILE too where off_t needs it. */
    unsigned flags = O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC;
    if (!deny(SYS_openat, 2, flags, EOPNOTSUPP) ||
        !deny(SYS_openat, 2, flags | 0100000, EOPNOTSUPP) || !deny(SYS_memfd_create, -1, 0, ENOSYS))
        SKIP("no system call filters");
    struct os_object o = object_of(2);
    struct stat st;
    CHECK(!strcmp(o.kind, "file") && fstat(o.fd, &st) == 0 && st.st_nlink == 0 &&
          (st.st_mode & 077) == 0);
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = (rlim_t)o.fd;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int r;
    while ((r = os->object_create(&o)) == 0)
        ;
    CHECK(r == -EMFILE);
}

static void test_without_tmpfile(void)
{
    run_in_child(check_without_tmpfile);
}

static void check_old_madvise(void)
{
    size_t huge = os->huge_size();
    if (!deny(SYS_madvise, 2, MADV_POPULATE_READ, EINVAL) ||
        !deny(SYS_madvise, 2, MADV_COLLAPSE, EINVAL) ||
        !deny(SYS_madvise, 2, MADV_HUGEPAGE, EINVAL))
        SKIP("no system call filters");
    check_populate();
    char *p = reserve(page);
    CHECK(os->advise(p, page, OS_HUGE) == -ENOTSUP);
    CHECK(os->advise(p, page, OS_NODUMP) == 0);
    CHECK(os->collapse(p, huge ? huge : page) == -ENOTSUP);
}

static void test_old_madvise(void)
{
    run_in_child(check_old_madvise);
}

/* on most machines; elsewhere the filter catches nothing */
enum { PAGEMAP_SCAN_COMMAND = (int)0xC0606610 };

static void check_old_pagemap(void)
{
    /* A new process would have been tested already: the verdict is inherited. */
    if (!deny(SYS_ioctl, 1, (unsigned)PAGEMAP_SCAN_COMMAND, ENOTTY))
        SKIP("no system call filters");
    char *p = reserve(page);
    p[0] = 1;
    uintptr_t cursor = (uintptr_t)p;
    struct os_range v;
    if (os->candidates(OS_SOURCE_SCAN, &cursor, cursor + page, &v, 1) >= 0)
        SKIP("the call has another number here");
    CHECK(cursor == (uintptr_t)p);
    CHECK(os->huge_bytes(p, page) == 0);
    CHECK(finds_lone_page(OS_SOURCE_PAGEMAP));
    CHECK(os->candidates(OS_SOURCE_SCAN, &cursor, cursor + page, &v, 1) == -ENOTSUP);
}

static void test_old_pagemap(void)
{
    if (!source_works(OS_SOURCE_PAGEMAP))
        g_test_skip("no pagemap");
    else
        run_in_child(check_old_pagemap);
}

static void check_without_proc_links(void)
{
    struct os_object o = object_of(4);
    if (!deny(SYS_openat, -1, 0, ENOENT))
        SKIP("no system call filters");
    uint64_t start, end;
    CHECK(os->object_grow(&o, 8 * page) == 0);
    CHECK(os->object_data(&o, page, 16 * page, &start, &end) == 1 && start == page &&
          end == 8 * page);
    CHECK(os->object_data(&o, page, 6 * page, &start, &end) == 1 && start == page &&
          end == 6 * page);
    CHECK(os->object_data(&o, 8 * page, 9 * page, &start, &end) == 0);
    /* nor does it know how memory is accounted */
    CHECK(os->object_commit(&o, 4 * page, 4 * page) == 0);
    struct stat st;
    CHECK(fstat(o.fd, &st) == 0 && (size_t)st.st_blocks * 512 == 8 * page);
    CHECK(os->huge_size() == os->huge_size());
    CHECK(!deny(SYS_memfd_create, -1, 0, ENOSYS) || os->object_create(&o) == -ENOTSUP);
}

static void test_without_proc_links(void)
{
    run_in_child(check_without_proc_links);
}

/* ---- the write block ------------------------------------------------------------------------- */

enum { WRITERS = 3, GATE_PAGES = 600, CUTS = 40 };

/* A writer's first counter is raised before its second, on another page: at any instant the
 * first is equal or one more. */
struct writer {
    _Atomic uint64_t *first, *second;
    /* a page of its own for each of SCATTER stores, none of which is there yet */
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
        g_test_skip("valgrind knows no userfaultfd");
        return false;
    }
    struct os_write_block g;
    char *p = reserve(page);
    int r = os->write_block_close(p, page, &g);
    if (r == 0)
        os->write_block_open(&g);
    else
        g_assert_cmpint(r, ==, -ENOTSUP);
    os->unmap(p, page);
    if (r < 0)
        g_test_skip("no write block");
    return r == 0;
}

/* Half of it the object's, half of it zero pages. */
static char *blocked_memory(struct os_object *o)
{
    *o = full_object(GATE_PAGES / 2);
    char *p = reserve(GATE_PAGES * page);
    g_assert_cmpint(os->map_over(o, 0, p, GATE_PAGES / 2 * page, OS_PRIVATE), ==, 0);
    return p;
}

static uint64_t look(const _Atomic uint64_t *p)
{
    return atomic_load_explicit(p, memory_order_relaxed);
}

static void check_cut(char *p, struct writer *writers)
{
    struct os_write_block g;
    g_assert_cmpint(os->write_block_close(p, GATE_PAGES * page, &g), ==, 0);
    uint64_t first[WRITERS], second[WRITERS];
    for (size_t i = 0; i < WRITERS; i++) {
        first[i] = look(writers[i].first);
        second[i] = look(writers[i].second);
        g_assert_true(first[i] == second[i] || first[i] == second[i] + 1);
    }
    nanosleep(&(struct timespec){0, 300000}, NULL);
    for (size_t i = 0; i < WRITERS; i++)
        g_assert_true(look(writers[i].first) == first[i] && look(writers[i].second) == second[i]);
    os->write_block_open(&g);
    g_assert_cmpint(g.fd, ==, -1);
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
        /* absent again, so that the next cut meets stores to absent pages */
        if (cut % 4 == 0)
            g_assert_cmpint(os->discard(p + 200 * page, 384 * page), ==, 0);
        for (size_t i = 0; i < WRITERS; i++) { /* and every writer goes on */
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
    os->unmap(p, GATE_PAGES * page);
    os->object_close(&o);
}

static void ask_write_block(const struct os_write_block *g, const char *p, size_t max, bool *found)
{
    uintptr_t start = (uintptr_t)p, cursor = start, end = start + GATE_PAGES * page;
    struct os_range *v = g_new0(struct os_range, max);
    memset(found, 0, GATE_PAGES * sizeof *found);
    while (cursor < end) {
        uintptr_t from = cursor;
        int n = os->write_block_candidates(g, &cursor, end, v, max);
        g_assert_true(n >= 0 && (size_t)n <= max && cursor > from && cursor <= end);
        for (int i = 0; i < n; i++) {
            g_assert_true(v[i].start >= from && v[i].end > v[i].start && v[i].end <= cursor);
            for (uintptr_t at = v[i].start; at < v[i].end; at += page)
                found[(at - start) / page] = true;
        }
    }
    g_free(v);
}

static void test_write_block_candidates(void)
{
    if (!write_block_works() || !source_works(OS_SOURCE_SCAN))
        return;
    struct os_object o;
    char *p = blocked_memory(&o);
    bool expected[GATE_PAGES] = {false}, found[GATE_PAGES];
    for (size_t i = 0; i < GATE_PAGES; i++) {
        if (i % 7 == 0 || (i > 250 && i < 350)) {
            p[i * page] = 5;
            expected[i] = true;
        } else if (i % 3 == 0 && i < GATE_PAGES / 2) {
            read_pages(p + i * page, 1);
        }
    }
    struct os_write_block g;
    g_assert_cmpint(os->write_block_close(p, GATE_PAGES * page, &g), ==, 0);
    struct sysinfo info;
    bool exact = sysinfo(&info) == 0 && info.totalswap == 0;
    static const size_t limits[] = {1, 7, 1000};
    for (size_t k = 0; k < G_N_ELEMENTS(limits); k++) {
        ask_write_block(&g, p, limits[k], found);
        for (size_t i = 0; i < GATE_PAGES; i++)
            g_assert_true(exact ? found[i] == expected[i] : found[i] || !expected[i]);
    }
    /* A part of the range, as one run or none. */
    struct os_range v;
    uintptr_t cursor = (uintptr_t)p + 260 * page;
    g_assert_cmpint(os->write_block_candidates(&g, &cursor, (uintptr_t)p + 270 * page, &v, 1), ==,
                    1);
    g_assert_true(v.start == (uintptr_t)p + 260 * page && v.end == (uintptr_t)p + 270 * page &&
                  cursor == v.end);
    /* Pages can be read meanwhile, those that are not there too. */
    g_assert_true(p[page] == 1 && p[(GATE_PAGES - 1) * page] == 0);
    os->write_block_open(&g);
    check_sources(p, GATE_PAGES / 2, expected);
    memset(p, 3, GATE_PAGES * page);
    os->unmap(p, GATE_PAGES * page);
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
    if (!write_block_works())
        return;
    struct os_write_block g;
    char *p = reserve(page);
    g_assert_cmpint(os->write_block_close(p, page, &g), ==, 0);
    pthread_sigmask(SIG_SETMASK, NULL, &during);
    g_assert_true(sigismember(&during, SIGUSR1) && sigismember(&during, SIGALRM) &&
                  !sigismember(&during, SIGSEGV));
    errno = ERANGE;
    os->write_block_open(&g);
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
    struct os_write_block g = {.fd = 77};
    char *p = reserve(page);
    os->unmap(p, page);
    g_assert_cmpint(os->write_block_close(p, page, &g), ==, -ENOTSUP); /* nothing there */

    char *bytes = g_malloc0(page), *name = temporary_file(bytes, page);
    struct os_object o;
    uint64_t size;
    g_assert_cmpint(os->file_open(name, false, &o, &size), ==, 0);
    p = map_object(&o, page, OS_PRIVATE);
    int r = os->write_block_close(p, page, &g);
    if (r == 0) /* /tmp is a tmpfs here */
        os->write_block_open(&g);
    else
        g_assert_true(r == -ENOTSUP && g.fd == 77);
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
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = 3;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    struct os_write_block g;
    char *p = reserve(page);
    CHECK(os->write_block_close(p, page, &g) == -EMFILE);
}

static void test_write_block_descriptors(void)
{
    if (write_block_works())
        run_in_child(check_write_block_descriptors);
}

/* Nothing to ask: the caller compares everything. */
static void check_write_block_blind(void)
{
    if (!deny(SYS_ioctl, 1, (unsigned)PAGEMAP_SCAN_COMMAND, ENOTTY))
        SKIP("no system call filters");
    struct os_write_block g;
    char *p = reserve(page);
    uintptr_t cursor = (uintptr_t)p;
    struct os_range v;
    CHECK(os->write_block_close(p, page, &g) == 0);
    CHECK(os->write_block_candidates(&g, &cursor, cursor + page, &v, 1) == -ENOTSUP);
    os->write_block_open(&g);
    *p = 1;
}

static void test_write_block_blind(void)
{
    if (write_block_works())
        run_in_child(check_write_block_blind);
}

static void check_without_userfaultfd(void)
{
    if (!deny(SYS_userfaultfd, -1, 0, EPERM))
        SKIP("no system call filters");
    struct os_write_block g;
    char *p = reserve(page);
    CHECK(os->write_block_close(p, page, &g) == -ENOTSUP);
}

static void test_without_userfaultfd(void)
{
    run_in_child(check_without_userfaultfd);
}

/* ---- what was written ------------------------------------------------------------------------ */

/* Tracking that answers wrong is not used, and tests that want it are skipped: so a kernel that
 * has it is known by asking it directly. */
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
        g_test_skip("the kernel cannot");
    else
        g_assert_cmpint(os->track(NULL, 0), ==, 0);
}

/* What is reported as written is what was, each page once; max runs a call. */
static void check_written(const char *p, size_t pages, size_t max, const bool *expected)
{
    uintptr_t start = (uintptr_t)p, cursor = start, end = start + pages * page, last = start;
    struct os_range *v = g_new0(struct os_range, max);
    bool *found = g_new0(bool, pages);
    while (cursor < end) {
        uintptr_t from = cursor;
        int n = os->written(&cursor, end, v, max);
        g_assert_cmpint(n, >=, 0);
        g_assert_cmpuint((size_t)n, <=, max);
        g_assert_true(cursor > from && cursor <= end);
        for (int i = 0; i < n; i++) {
            g_assert_true(v[i].start >= last && v[i].end > v[i].start && v[i].end <= cursor);
            last = v[i].end;
            for (uintptr_t at = v[i].start; at < v[i].end; at += page)
                found[(at - start) / page] = true;
        }
    }
    for (size_t i = 0; i < pages; i++)
        g_assert_cmpint(found[i], ==, expected[i]);
    g_free(found);
    g_free(v);
}

/* Writes so many runs of up to `longest` pages, and reads a page beside each. */
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

/* A range of which `tenths` are private, then few, some, many stores. */
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
        g_test_skip("stores cannot be noticed here");
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

static void test_no_write_block(void)
{
    struct os_write_block g = {.fd = -1};
    char *p = reserve(page);
    uintptr_t cursor = (uintptr_t)p;
    struct os_range v;
    g_assert_cmpint(os->write_block_close(p, page, &g), ==, -ENOTSUP);
    g_assert_cmpint(os->write_block_candidates(&g, &cursor, cursor + page, &v, 1), ==, -ENOTSUP);
    os->write_block_open(&g);
    g_assert_cmpint(os->candidates(OS_SOURCE_SCAN, &cursor, cursor + page, &v, 1), ==, -ENOTSUP);
    os->unmap(p, page);
}

/* ---- locks ----------------------------------------------------------------------------------- */

static struct ms_mutex lock;
static int counter;

static void *count_up(void *unused)
{
    for (int i = 0; i < 1000; i++) {
        ms_lock(&lock);
        counter++;
        ms_unlock(&lock);
    }
    return unused;
}

static void test_lock(void)
{
    pthread_t threads[4];
    counter = 0;
    ms_lock_init(&lock);
    for (size_t i = 0; i < 4; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, count_up, NULL), ==, 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    g_assert_cmpint(counter, ==, 4000);
    ms_lock_destroy(&lock);
}

static atomic_int stop_threads, inside;

static void *go_in_and_out(void *unused)
{
    while (!atomic_load(&stop_threads)) {
        ms_enter();
        atomic_fetch_add(&inside, 1);
        atomic_fetch_sub(&inside, 1);
        ms_leave();
    }
    return unused;
}

static size_t process_before, forks_before;

/* Nobody is inside, everybody may go in, and the next generation too. */
static void check_forked(void)
{
    CHECK(atomic_load(&inside) == 0);
    CHECK(ms_process_generation() == process_before + 1 && ms_forks() == forks_before + 1);
    ms_enter();
    ms_leave();
    pid_t pid = fork();
    if (pid == 0) {
        ms_enter();
        bool right =
            ms_process_generation() == process_before + 2 && ms_forks() == forks_before + 2;
        ms_leave();
        child_exit(right ? 0 : 1);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(ms_process_generation() == process_before + 1 && ms_forks() == forks_before + 2);
}

static void test_fork_lock(void)
{
    enum { THREADS = 4 };
    int n = on_valgrind() ? 3 : 20;
    pthread_t threads[THREADS];
    stop_threads = 0;
    for (size_t i = 0; i < THREADS; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, go_in_and_out, NULL), ==, 0);
    for (int i = 0; i < n; i++) {
        process_before = ms_process_generation();
        forks_before = ms_forks();
        run_in_child(check_forked);
        g_assert_cmpuint(ms_process_generation(), ==, process_before);
        g_assert_cmpuint(ms_forks(), ==, forks_before + 1);
    }
    atomic_store(&stop_threads, 1);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

/* ---- main ------------------------------------------------------------------------------------ */

enum { ANY = 1, LINUX = 2, POSIX = 4 };

static const struct {
    const char *name;
    void (*body)(void);
    int tables;
} tests[] = {
    {"sizes", test_sizes, ANY},
    {"alloc", test_alloc, ANY},
    {"errors", test_errors, ANY},
    {"reserve", test_reserve, ANY},
    {"alignment", test_alignment, ANY},
    {"reserve-at", test_reserve_at, ANY},
    {"too-large", test_too_large, ANY},
    {"sharing", test_sharing, ANY},
    {"map-over", test_map_over, ANY},
    {"protect", test_protect, ANY},
    {"discard", test_discard, ANY},
    {"populate", test_populate, ANY},
    {"advise", test_advise, ANY},
    {"nofork", test_nofork, ANY},
    {"boundary", test_boundary, ANY},
    {"collapse", test_collapse, ANY},
    {"mapping-limit", test_mapping_limit, ANY},
    {"address-space-limit", test_address_space_limit, ANY},
    {"object", test_object, ANY},
    {"read-write", test_read_write, ANY},
    {"commit", test_commit, ANY},
    {"punch", test_punch, ANY},
    {"data", test_data, ANY},
    {"closed-behind-our-back", test_closed_behind_our_back, ANY},
    {"standard-descriptors", test_standard_descriptors, ANY},
    {"file-size-limit", test_file_size_limit, ANY},
    {"descriptor-limit", test_descriptor_limit, ANY},
    {"file-open", test_file_open, ANY},
    {"file-open-errors", test_file_open_errors, ANY},
    {"unreadable", test_unreadable, ANY},
    {"file-dup", test_file_dup, ANY},
    {"file-dup-errors", test_file_dup_errors, ANY},
    {"file-copy", test_file_copy, ANY},
    {"file-copy-large", test_file_copy_large, ANY},
    {"flush", test_flush, ANY},
#ifdef __linux__
    {"sealed", test_sealed, ANY},
    {"lone-pages", test_lone_pages, LINUX},
    {"random-pages", test_random_pages, LINUX},
    {"zero-pages", test_zero_pages, LINUX},
    {"split-huge-page", test_split_huge_page, LINUX},
    {"swapped", test_swapped, LINUX},
    {"pagemap-after-fork", test_pagemap_after_fork, LINUX},
    {"pagemap-closed", test_pagemap_closed, LINUX},
    {"undumpable", test_undumpable, LINUX},
    {"sources-in-threads", test_sources_in_threads, LINUX},
    {"without-memfd", test_without_memfd, LINUX},
    {"memfd-exhausted", test_memfd_exhausted, LINUX},
    {"old-memfd", test_old_memfd, LINUX},
    {"without-tmpfile", test_without_tmpfile, ANY},
    {"old-madvise", test_old_madvise, LINUX},
    {"old-pagemap", test_old_pagemap, LINUX},
    {"without-proc-links", test_without_proc_links, LINUX},
    {"write-block", test_write_block, LINUX},
    {"write-block-candidates", test_write_block_candidates, LINUX},
    {"write-block-signals", test_write_block_signals, LINUX},
    {"write-block-refused", test_write_block_refused, LINUX},
    {"write-block-descriptors", test_write_block_descriptors, LINUX},
    {"write-block-blind", test_write_block_blind, LINUX},
    {"without-userfaultfd", test_without_userfaultfd, LINUX},
    {"tracks-where-possible", test_tracks_where_possible, LINUX},
    {"written", test_written, LINUX},
#endif
    {"no-block", test_no_write_block, POSIX},
    {"lock", test_lock, ANY},
    {"fork-block", test_fork_lock, ANY},
};

struct run {
    const struct os *os;
    void (*body)(void);
};

static void run(gconstpointer data)
{
    const struct run *r = data;
    os = r->os;
    r->body();
}

static void add_table(const struct os *table, int which)
{
    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
        if (!(tests[i].tables & (ANY | which)))
            continue;
        struct run *r = g_new(struct run, 1);
        *r = (struct run){table, tests[i].body};
        char *path = g_strdup_printf("/os/%s/%s", table->name, tests[i].name);
        g_test_add_data_func_full(path, r, run, g_free);
        g_free(path);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    page = (size_t)sysconf(_SC_PAGESIZE);
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED)
        return 99;
#ifdef __linux__
    add_table(&os_linux, LINUX);
#endif
    add_table(&os_posix, POSIX);
    return g_test_run();
}
