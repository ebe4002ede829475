/* SPDX-License-Identifier: MIT */
/* The contract with the operating system (lib/os/os.h): objects that hold pages. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/memfd.h>
#include <sys/syscall.h>
#endif

#include "os/os.h"
#include "support/os_table.h"

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

/* ---- descriptors ----------------------------------------------------------------------------- */

/* No operation touches a descriptor whose number belongs to somebody else by now. */
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

/* The number belongs to another object that has no name either. */
static void test_another_object(void)
{
    struct os_object o = object_of(1), copy = o, other = object_of(1);
    close(o.fd);
    g_assert_cmpint(dup2(other.fd, o.fd), ==, o.fd);
    check_strangers(&o);
    os->object_close(&copy);
    g_assert_cmpint(fcntl(o.fd, F_GETFD), >=, 0);
    uint64_t size;
    g_assert_cmpint(os->file_size(&other, &size), ==, 0);
    g_assert_cmpuint(size, ==, page);
    char *p = map_object(&other, page, OS_SHARED_READ);
    g_assert_true(all_bytes(p, 1, page));
    os->unmap(p, page);
    close(o.fd);
    os->object_close(&other);
}

static void check_standard_descriptors(void)
{
    close(0);
    close(1);
    close(2);
    struct os_object o, copy, opened;
    uint64_t size;
    g_assert_true(os->object_create(&o) == 0);
    g_assert_true(os->file_dup(o.fd, false, &copy, &size) == 0);
    g_assert_true(os->file_open("/etc/passwd", false, &opened, &size) == 0);
    g_assert_true(o.fd > 2 && copy.fd > 2 && opened.fd > 2);
    char *p = reserve(page);
    uintptr_t cursor = (uintptr_t)p;
    struct os_range v;
    os->candidates(OS_SOURCE_SCAN, &cursor, cursor + page, &v, 1);
    for (int fd = 0; fd < 3; fd++)
        g_assert_true(fcntl(fd, F_GETFD) < 0);
}

static void test_standard_descriptors(void)
{
    if (on_valgrind())
        test_skip("valgrind uses them");
    else
        in_child(check_standard_descriptors);
}

static void check_descriptor_limit(void)
{
    struct os_object o = {.fd = 77};
    int file = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    struct rlimit limit;
    g_assert_true(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = 3;
    g_assert_true(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    g_assert_true(os->object_create(&o) == -EMFILE && o.fd == 77);
    uint64_t size;
    g_assert_true(os->file_open("/etc/passwd", false, &o, &size) == -EMFILE && o.fd == 77);
    g_assert_true(dup2(file, 0) == 0);
    g_assert_true(os->file_dup(0, false, &o, &size) == -EMFILE && o.fd == 77);
    close(0);
    g_assert_true(os->file_open("/etc/passwd", false, &o, &size) == -EMFILE && o.fd == 77);
}

static void test_descriptor_limit(void)
{
    if (on_valgrind())
        test_skip("valgrind has descriptors of its own");
    else
        in_child(check_descriptor_limit);
}

/* ---- file sizes ------------------------------------------------------------------------------ */

static void check_file_size_limit(void)
{
    struct os_object o = object_of(4);
    struct rlimit limit = {8 * page, RLIM_INFINITY};
    g_assert_true(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    char *bytes = g_malloc0(2 * page);
    struct os_iov v = {bytes, 2 * page};
    g_assert_true(os->object_grow(&o, 8 * page) == 0);
    g_assert_true(os->object_grow(&o, 9 * page) == -EFBIG);
    g_assert_true(os->object_write(&o, &v, 1, 6 * page) == 0);
    g_assert_true(os->object_write(&o, &v, 1, 7 * page) == -EFBIG);
    g_assert_true(os->object_write(&o, &v, 1, UINT64_MAX - 5) == -EFBIG);
    uint64_t size;
    g_assert_true(os->file_size(&o, &size) == 0 && size == 8 * page);
    limit.rlim_cur = page;
    g_assert_true(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    int r = os->object_commit(&o, 4 * page, page);
    g_assert_true(r == -EFBIG || (r == 0 && !strcmp(o.kind, "memfd")));
    g_assert_true(os->object_write(&o, &v, 1, 0) == -EFBIG);
    g_free(bytes);
    struct os_object target;
    g_assert_true(os->object_create(&target) == 0);
    g_assert_true(os->file_copy(&o, 0, &target, 0, 8 * page) == -EFBIG);
    g_assert_true(os->file_copy(&o, 4 * page, &target, 0, 2 * page) == -EFBIG); /* of a hole */
}

static void test_file_size_limit(void)
{
    struct os_object o = object_of(1);
    g_assert_cmpint(os->object_grow(&o, UINT64_C(1) << 63), ==, -EFBIG);
    os->object_close(&o);
    in_child(check_file_size_limit);
}

/* ---- kernels that lack something ------------------------------------------------------------- */

#ifdef __linux__
static void check_without_memfd(void)
{
    /* Of several filters the newest one's error counts. */
    static const int errors[] = {EPERM, ENOSYS, EACCES, EINVAL};
    struct os_object o;
    g_assert_true(os->object_create(&o) == 0 && !strcmp(o.kind, "memfd"));
    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++) {
        if (!deny(SYS_memfd_create, -1, 0, errors[i])) {
            test_skip("no system call filters");
            return;
        }
        g_assert_true(os->object_create(&o) == 0 && !strcmp(o.kind, "file"));
        struct stat st;
        g_assert_true(fstat(o.fd, &st) == 0 && st.st_nlink == 0);
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
        in_child(check_without_memfd);
    else
        test_skip("there is none anyway");
}

static void check_memfd_exhausted(void)
{
    struct os_object o;
    if (!deny(SYS_memfd_create, -1, 0, ENFILE)) {
        test_skip("no system call filters");
        return;
    }
    g_assert_true(os->object_create(&o) == -ENFILE);
}

static void test_memfd_exhausted(void)
{
    in_child(check_memfd_exhausted);
}

static void check_old_memfd(void)
{
    struct os_object o;
    if (!deny(SYS_memfd_create, 1, MFD_CLOEXEC | MFD_ALLOW_SEALING | 8, EINVAL)) {
        test_skip("no system call filters");
        return;
    }
    g_assert_true(os->object_create(&o) == 0 && !strcmp(o.kind, "memfd"));
    g_assert_true(fcntl(o.fd, F_GET_SEALS) == F_SEAL_SHRINK);
}

static void test_old_memfd(void)
{
    in_child(check_old_memfd);
}

static void check_without_tmpfile(void)
{
    /* The kernel sees O_LARGEFILE too where off_t needs it. */
    unsigned flags = O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC;
    if (!deny(SYS_openat, 2, flags, EOPNOTSUPP) ||
        !deny(SYS_openat, 2, flags | 0100000, EOPNOTSUPP) ||
        !deny(SYS_memfd_create, -1, 0, ENOSYS)) {
        test_skip("no system call filters");
        return;
    }
    struct os_object o = object_of(2);
    struct stat st;
    g_assert_true(!strcmp(o.kind, "file") && fstat(o.fd, &st) == 0 && st.st_nlink == 0 &&
                  (st.st_mode & 077) == 0);
    struct rlimit limit;
    g_assert_true(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = (rlim_t)o.fd;
    g_assert_true(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int r;
    while ((r = os->object_create(&o)) == 0)
        ;
    g_assert_true(r == -EMFILE);
}

static void test_without_tmpfile(void)
{
    in_child(check_without_tmpfile);
}

static void check_without_proc_links(void)
{
    struct os_object o = object_of(4);
    char mode = '0';
    int file = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    bool strict = file >= 0 && read(file, &mode, 1) == 1 && mode == '2';
    if (!deny(SYS_openat, -1, 0, ENOENT)) {
        test_skip("no system call filters");
        return;
    }
    uint64_t start, end;
    g_assert_true(os->object_grow(&o, 8 * page) == 0);
    g_assert_true(os->object_data(&o, page, 16 * page, &start, &end) == 1 && start == page &&
                  end == 8 * page);
    g_assert_true(os->object_data(&o, page, 6 * page, &start, &end) == 1 && start == page &&
                  end == 6 * page);
    g_assert_true(os->object_data(&o, 8 * page, 9 * page, &start, &end) == 0);
    /* nor does it say how memory is accounted: that is tried */
    g_assert_true(os->object_commit(&o, 4 * page, 4 * page) == 0);
    struct stat st;
    g_assert_true(fstat(o.fd, &st) == 0 && (size_t)st.st_blocks * 512 == (strict ? 8 : 4) * page);
    g_assert_true(os->huge_size() == os->huge_size());
    g_assert_true(!deny(SYS_memfd_create, -1, 0, ENOSYS) || os->object_create(&o) == -ENOTSUP);
}

static void test_without_proc_links(void)
{
    in_child(check_without_proc_links);
}
#endif

int main(int argc, char **argv)
{
    static const struct os_test tests[] = {
        {"object", test_object, OS_ANY},
        {"read-write", test_read_write, OS_ANY},
        {"commit", test_commit, OS_ANY},
        {"punch", test_punch, OS_ANY},
        {"data", test_data, OS_ANY},
        {"closed-behind-our-back", test_closed_behind_our_back, OS_ANY},
        {"another-object", test_another_object, OS_ANY},
        {"standard-descriptors", test_standard_descriptors, OS_ANY},
        {"descriptor-limit", test_descriptor_limit, OS_ANY},
        {"file-size-limit", test_file_size_limit, OS_ANY},
#ifdef __linux__
        {"without-memfd", test_without_memfd, OS_LINUX},
        {"memfd-exhausted", test_memfd_exhausted, OS_LINUX},
        {"old-memfd", test_old_memfd, OS_LINUX},
        {"without-tmpfile", test_without_tmpfile, OS_ANY},
        {"without-proc-links", test_without_proc_links, OS_LINUX},
#endif
        {NULL, NULL, 0},
    };
    return os_test_main(argc, argv, tests);
}
