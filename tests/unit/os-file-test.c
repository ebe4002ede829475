/* SPDX-License-Identifier: MIT */
/* The contract with the operating system (lib/os/os.h): the user's files. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/memfd.h>
#include <sys/syscall.h>
#endif

#include "os/os.h"
#include "support/os_table.h"

/* ---- opening --------------------------------------------------------------------------------- */

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
    if (geteuid() == 0 && setuid(65534) < 0) {
        test_skip("needs another user");
        return;
    }
    struct os_object o;
    uint64_t size;
    char *name = temporary_file("hello", 5);
    chmod(name, 0400);
    int readable = os->file_open(name, false, &o, &size),
        writable = os->file_open(name, true, &o, &size);
    chmod(name, 0200);
    int blind = os->file_open(name, false, &o, &size);
    remove_file(name);
    g_assert_true(readable == 0 && writable == -EACCES && blind == -EACCES);
}

static void test_unreadable(void)
{
    in_child(check_unreadable);
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
        test_skip("no memfd");
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

/* ---- copying and flushing -------------------------------------------------------------------- */

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

int main(int argc, char **argv)
{
    static const struct os_test tests[] = {
        {"file-open", test_file_open, OS_ANY},
        {"file-open-errors", test_file_open_errors, OS_ANY},
        {"unreadable", test_unreadable, OS_ANY},
        {"file-dup", test_file_dup, OS_ANY},
        {"file-dup-errors", test_file_dup_errors, OS_ANY},
        {"file-copy", test_file_copy, OS_ANY},
        {"file-copy-large", test_file_copy_large, OS_ANY},
        {"flush", test_flush, OS_ANY},
#ifdef __linux__
        {"sealed", test_sealed, OS_ANY},
#endif
        {NULL, NULL, 0},
    };
    return os_test_main(argc, argv, tests);
}
