/* SPDX-License-Identifier: MIT */
/* Snapshots of files: an image of its own, the file mapped, and the file shared. */
#include "config.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/support.h"

static size_t sizes[9];
#define N_SIZES G_N_ELEMENTS(sizes)

static void init_sizes(void)
{
    const size_t list[N_SIZES] = {0,           1,       page - 1,    page,   page + 1,
                                  2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB};
    memcpy(sizes, list, sizeof sizes);
    shrink_for_valgrind(sizes, N_SIZES);
}

/* The three ways to look at a file. Heap pages cannot map one. */
static const unsigned ways[] = {0, MEMSNAP_FILE_MAP, MEMSNAP_FILE_SHARED,
                                MEMSNAP_FILE_MAP | MEMSNAP_FILE_SHARED};

static size_t n_ways(void)
{
    return config_is("heap") ? 1 : G_N_ELEMENTS(ways);
}

static memsnap_snapshot *from_file(const char *path, unsigned flags)
{
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_from_file(path, config.flags | flags, &s));
    g_assert_nonnull(s);
    return s;
}

static void overwrite(const char *path, size_t offset, const void *data, size_t size)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, data, size, (off_t)offset), ==, (ssize_t)size);
    close(fd);
}

static void assert_file(const char *path, const void *expected, size_t size)
{
    char *content = NULL;
    gsize len = 0;
    g_assert_true(g_file_get_contents(path, &content, &len, NULL));
    g_assert_cmpuint(len, ==, size);
    assert_same(content, expected, size);
    g_free(content);
}

/* ---- any way --------------------------------------------------------------------------------- */

static void test_path(void)
{
    for (size_t i = 0; i < N_SIZES; i++) {
        unsigned char *data = pattern(sizes[i], i);
        char *path = temp_file("image", data, sizes[i]);
        for (size_t w = 0; w < n_ways(); w++) {
            memsnap_snapshot *s = from_file(path, ways[w]);
            assert_content(s, data, sizes[i]);
            memsnap_view *v = view(s);
            memset(bytes(v), 0, sizes[i]);
            memsnap_snapshot *t = take(v), *c = snap_clone(s);
            assert_ok(memsnap_view_restore(v));
            assert_same(bytes(v), data, sizes[i]);
            g_assert_cmpuint(memsnap_snapshot_size(t), ==, sizes[i]);
            assert_content(c, data, sizes[i]);
            memsnap_view_unref(v);
            memsnap_snapshot_unref(s);
            memsnap_snapshot_unref(t);
            memsnap_snapshot_unref(c);
            assert_file(path, data, sizes[i]);
        }
        g_free(path);
        g_free(data);
    }
}

/* The descriptor stays the caller's: open, and where it was. */
static void test_descriptor(void)
{
    for (size_t i = 0; i < N_SIZES; i++) {
        unsigned char *data = pattern(sizes[i], i);
        char *path = temp_file("image", data, sizes[i]);
        for (size_t w = 0; w < n_ways(); w++) {
            int fd = open(path, O_RDWR | O_CLOEXEC);
            g_assert_cmpint(lseek(fd, 1, SEEK_SET), ==, 1);
            memsnap_snapshot *s = NULL;
            assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags | ways[w], &s));
            g_assert_cmpint(lseek(fd, 0, SEEK_CUR), ==, 1);
            g_assert_cmpint(close(fd), ==, 0);
            assert_content(s, data, sizes[i]);
            memsnap_snapshot_unref(s);
        }
        g_free(path);
        g_free(data);
    }
}

static void test_sparse(void)
{
    size_t size = on_valgrind() ? MIB : 64 * MIB;
    char *path = temp_path("sparse");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
    g_assert_cmpint(pwrite(fd, "middle", 6, (off_t)size / 2), ==, 6);
    size_t objects = object_bytes(), anonymous = resident("RssAnon");
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &s));
    char middle[6], nothing[100];
    assert_ok(memsnap_snapshot_read(s, size / 2, middle, 6));
    g_assert_cmpint(memcmp(middle, "middle", 6), ==, 0);
    assert_ok(memsnap_snapshot_read(s, size - 100, nothing, 100));
    g_assert_true(all_zero(nothing, 100));
    memsnap_view *v = view(s);
    g_assert_cmpint(memcmp(bytes(v) + size / 2, "middle", 6), ==, 0);
    if (!on_valgrind() && !on_sanitizer()) {
        g_assert_cmpuint(object_bytes(), <, objects + size / 2);
        g_assert_cmpuint(resident("RssAnon"), <, anonymous + size / 2);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    close(fd);
    g_free(path);
}

/* Data that begins and ends anywhere, on a file system that tells of holes by its own blocks. */
static void test_sparse_pieces(void)
{
    struct rng r = {g_test_rand_int_range(0, G_MAXINT32)};
    size_t size = (on_valgrind() ? 2 : 40) * MIB + 1234;
    unsigned char *data = g_malloc0(size);
    char *path = temp_path("pieces");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    g_test_message("seed %zu", (size_t)r.state);
    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
    for (int i = 0; i < 60; i++) {
        size_t at = rng_below(&r, size), len = ms_min(1 + rng_below(&r, 5 * page), size - at);
        fill(data + at, len, rng_next(&r));
        g_assert_cmpint(pwrite(fd, data + at, len, (off_t)at), ==, (ssize_t)len);
    }
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &s));
    assert_content(s, data, size);
    memsnap_snapshot_unref(s);
    close(fd);
    g_free(data);
    g_free(path);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void refuse_path(const char *path, int error)
{
    for (size_t w = 0; w < n_ways(); w++) {
        memsnap_snapshot *s = UNTOUCHED;
        assert_refused(memsnap_snapshot_new_from_file(path, config.flags | ways[w], &s), error, s);
    }
}

static void refuse_fd(int fd, int error)
{
    for (size_t w = 0; w < n_ways(); w++) {
        memsnap_snapshot *s = UNTOUCHED;
        assert_refused(memsnap_snapshot_new_from_fd(fd, config.flags | ways[w], &s), error, s);
    }
}

static void test_refused_paths(void)
{
    char *missing = temp_path("missing"), *fifo = temp_path("fifo"), *dir = temp_path("dir"),
         *ring = temp_path("ring");
    char *below = g_build_filename(missing, "file", NULL), *file = temp_file("file", "x", 1);
    char *under_file = g_build_filename(file, "file", NULL);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    g_assert_cmpint(mkdir(dir, 0700), ==, 0);
    g_assert_cmpint(symlink(ring, ring), ==, 0);
    refuse_path(missing, -ENOENT);
    refuse_path(below, -ENOENT);
    refuse_path("", -ENOENT);
    refuse_path(dir, -EISDIR);
    refuse_path(fifo, -EINVAL);
    refuse_path(ring, -ELOOP);
    refuse_path("/dev/null", -EINVAL);
    memsnap_snapshot *s = UNTOUCHED;
    g_assert_cmpint(memsnap_snapshot_new_from_file(under_file, config.flags, &s), <, 0);
    g_assert_true((void *)s == UNTOUCHED);
    g_free(missing);
    g_free(fifo);
    g_free(dir);
    g_free(ring);
    g_free(below);
    g_free(file);
    g_free(under_file);
}

static void test_refused_descriptors(void)
{
    char *file = temp_file("file", "x", 1), *dir = temp_path("dir");
    int ends[2], sockets[2];
    g_assert_cmpint(mkdir(dir, 0700), ==, 0);
    int dir_fd = open(dir, O_RDONLY | O_CLOEXEC), write_only = open(file, O_WRONLY | O_CLOEXEC),
        read_only = open(file, O_RDONLY | O_CLOEXEC),
        null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), path_only = open(file, O_PATH | O_CLOEXEC);
    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), ==, 0);
    refuse_fd(-1, -EBADF);
    refuse_fd(1000000, -EBADF);
    refuse_fd(dir_fd, -EISDIR);
    refuse_fd(ends[0], -EINVAL);
    refuse_fd(ends[1], -EINVAL);
    refuse_fd(sockets[0], -EINVAL);
    refuse_fd(null_fd, -EINVAL);
    refuse_fd(write_only, -EACCES);
    memsnap_snapshot *s = UNTOUCHED;
    g_assert_cmpint(memsnap_snapshot_new_from_fd(path_only, config.flags, &s), <, 0);
    g_assert_true((void *)s == UNTOUCHED);
    if (!config_is("heap"))
        assert_refused(memsnap_snapshot_new_from_fd(read_only, MEMSNAP_FILE_SHARED, &s), -EACCES,
                       s);
    const int all[] = {dir_fd,  write_only, read_only,  null_fd,   path_only,
                       ends[0], ends[1],    sockets[0], sockets[1]};
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++)
        g_assert_cmpint(close(all[i]), ==, 0);
    g_free(file);
    g_free(dir);
}

static void as_nobody(void *arg)
{
    char **paths = arg;
    if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0)) {
        test_skip("cannot become nobody");
        return;
    }
    memsnap_snapshot *s = UNTOUCHED;
    assert_refused(memsnap_snapshot_new_from_file(paths[0], config.flags, &s), -EACCES, s);
    if (config_is("heap"))
        return;
    assert_refused(memsnap_snapshot_new_from_file(paths[1], MEMSNAP_FILE_SHARED, &s), -EACCES, s);
    assert_ok(memsnap_snapshot_new_from_file(paths[1], MEMSNAP_FILE_MAP, &s));
    memsnap_snapshot_unref(s);
}

/* Permissions do not stop root. */
static void test_no_permission(void)
{
    char *paths[] = {temp_file("unreadable", "x", 1), temp_file("read-only", "x", 1)};
    char *dir = g_path_get_dirname(paths[0]);
    g_assert_cmpint(chmod(dir, 0711), ==, 0);
    g_assert_cmpint(chmod(paths[0], 0200), ==, 0);
    g_assert_cmpint(chmod(paths[1], 0444), ==, 0);
    child_run(as_nobody, paths);
    g_free(dir);
    g_free(paths[0]);
    g_free(paths[1]);
}

/* A file whose size says nothing about its content is not taken for an empty one. */
static void test_proc_file(void)
{
    if (access("/proc/self/status", R_OK) < 0) {
        test_skip("no /proc");
        return;
    }
    memsnap_snapshot *s = UNTOUCHED;
    int r = memsnap_snapshot_new_from_file("/proc/self/status", config.flags, &s);
    if (r < 0) {
        g_assert_true((void *)s == UNTOUCHED);
        return;
    }
    g_assert_cmpuint(memsnap_snapshot_size(s), >, 0);
    memsnap_snapshot_unref(s);
}

/* ---- an image of its own --------------------------------------------------------------------- */

static void test_later_changes(void)
{
    for (size_t i = 1; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *data = pattern(size, i), *other = pattern(size, 99);
        char *path = temp_file("image", data, size);
        memsnap_snapshot *s = from_file(path, 0);
        memsnap_view *untouched = view(s), *touched = view(s);
        bytes(touched)[0] ^= 1;
        overwrite(path, 0, other, size);
        assert_content(s, data, size);
        assert_same(bytes(untouched), data, size);
        assert_ok(memsnap_view_restore(touched));
        assert_same(bytes(touched), data, size);
        g_assert_cmpint(truncate(path, 0), ==, 0);
        assert_content(s, data, size);
        assert_same(bytes(untouched), data, size);
        memsnap_snapshot *t = take(touched);
        g_assert_cmpint(g_remove(path), ==, 0);
        assert_content(t, data, size);
        memsnap_snapshot_unref(t);
        memsnap_view *m = view_mut(s);
        memset(bytes(m), 0, size);
        assert_same(bytes(untouched), data, size);
        memsnap_view_unref(m);
        memsnap_view_unref(untouched);
        memsnap_view_unref(touched);
        memsnap_snapshot_unref(s);
        g_free(path);
        g_free(data);
        g_free(other);
    }
}

/* The mutable view changes the snapshot and never the file. */
static void test_file_is_left_alone(void)
{
    size_t size = 100 * page + 9;
    unsigned char *data = pattern(size, 1), *other = pattern(size, 2);
    char *path = temp_file("image", data, size);
    const unsigned flags[] = {0, MEMSNAP_FILE_MAP};
    for (size_t w = 0; w < ms_min(n_ways(), 2); w++) {
        memsnap_snapshot *s = from_file(path, flags[w]);
        memsnap_view *m = view_mut(s), *v = view(s);
        memcpy(bytes(m), other, size);
        assert_content(s, other, size);
        assert_same(bytes(v), data, size);
        memsnap_view_unref(m);
        assert_content(s, other, size);
        assert_file(path, data, size);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(s);
        assert_file(path, data, size);
    }
    g_free(path);
    g_free(data);
    g_free(other);
}

#ifdef F_SEAL_WRITE
static int sealed_memfd(const void *data, size_t size, int seals)
{
    int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    g_assert_cmpint(pwrite(fd, data, size, 0), ==, (ssize_t)size);
    g_assert_cmpint(fcntl(fd, F_ADD_SEALS, seals), ==, 0);
    return fd;
}

/* Nobody can change it any more: it is adopted, not copied. */
static void test_sealed_memfd(void)
{
    size_t size = (on_valgrind() ? MIB : 16 * MIB) + 100;
    unsigned char *data = pattern(size, 1);
    int fd = sealed_memfd(data, size, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
    if (fd < 0) {
        test_skip("no memfd");
        g_free(data);
        return;
    }
    size_t objects = object_bytes(), maps = mappings();
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &s));
    if (config_is("linux")) {
        g_assert_cmpuint(object_bytes(), <, objects + MIB);
        if (!on_valgrind()) /* which splits mappings of its own */
            g_assert_cmpuint(mappings(), <, maps + 4);
    }
    close(fd);
    assert_content(s, data, size);
    memsnap_view *v = view(s), *m;
    bytes(v)[5 * page] ^= 1;
    memsnap_snapshot *t = take(v);
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), data, size);
    m = view_mut(s);
    memset(bytes(m), 7, 3 * page);
    assert_same(bytes(v), data, size);
    memsnap_view_unref(v);
    memsnap_view_unref(m);
    memset(data, 7, 3 * page);
    assert_content(s, data, size);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* Its maker may have stored behind its end, in the last page: that shows in mappings of it, and
 * is none of the image. */
static void test_sealed_memfd_tail(void)
{
    size_t size = 40 * page + 100;
    unsigned char *data = pattern(size, 1);
    int fd = sealed_memfd(data, size, 0);
    if (fd < 0) {
        test_skip("no memfd");
        g_free(data);
        return;
    }
    unsigned char *p = mmap(NULL, 41 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    g_assert_true((void *)p != MAP_FAILED);
    memset(p + size, 0xEE, 41 * page - size);
    munmap(p, 41 * page);
    g_assert_cmpint(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), ==, 0);
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &s));
    close(fd);
    assert_content(s, data, size); /* looks behind the end of a view, too */
    memsnap_view *v = view_mut(s);
    g_assert_true(all_zero(bytes(v) + size, 41 * page - size));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* One seal is not enough: what others can still change is copied. */
static void test_half_sealed_memfd(void)
{
    const int seals[] = {F_SEAL_WRITE, F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_SHRINK | F_SEAL_WRITE,
                         0};
    size_t size = 40 * page + 10;
    for (size_t i = 0; i < G_N_ELEMENTS(seals); i++) {
        unsigned char *data = pattern(size, i);
        int fd = sealed_memfd(data, size, seals[i]);
        if (fd < 0) {
            test_skip("no memfd");
            g_free(data);
            return;
        }
        memsnap_snapshot *s = NULL;
        assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &s));
        if (!(seals[i] & F_SEAL_WRITE))
            g_assert_cmpint(pwrite(fd, "changed", 7, 5), ==, 7);
        if (!(seals[i] & F_SEAL_SHRINK))
            g_assert_cmpint(ftruncate(fd, 1), ==, 0);
        if (!(seals[i] & F_SEAL_GROW))
            g_assert_cmpint(ftruncate(fd, (off_t)size * 2), ==, 0);
        assert_content(s, data, size);
        memsnap_snapshot_unref(s);
        close(fd);
        g_free(data);
    }
}
#endif

/* ---- the file shared ------------------------------------------------------------------------- */

static bool no_shared_files(void)
{
    if (config_is("heap"))
        test_skip("heap pages map no file");
    return config_is("heap");
}

static void test_shared(void)
{
    struct rng rng = {1};
    if (no_shared_files())
        return;
    for (size_t i = 1; i < N_SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *model = pattern(size, i);
        char *path = temp_file("image", model, size);
        memsnap_snapshot *s = from_file(path, MEMSNAP_FILE_SHARED);
        memsnap_view *m = view_mut(s);
        for (int round = 0; round < 4; round++) {
            unsigned char *then = g_memdup2(model, size);
            memsnap_view *v = view(s);
            memsnap_snapshot *c = snap_clone(s), *t = take(m);
            for (int k = 0; k < 5; k++) {
                size_t at = rng_below(&rng, size);
                model[at] = bytes(m)[at] = (unsigned char)(model[at] + 1);
            }
            assert_content(s, model, size);
            assert_same(bytes(v), then, size);
            assert_content(c, then, size);
            assert_content(t, then, size);
            assert_same(bytes(m), model, size);
            assert_ok(memsnap_view_flush(m, 0, size));
            assert_file(path, model, size);
            if (round == 2) {
                memsnap_view_unref(m);
                m = view_mut(s);
                assert_same(bytes(m), model, size);
            }
            memsnap_view *of_clone = view_mut(c); /* which is no file's */
            memset(bytes(of_clone), 0, size);
            memsnap_view_unref(of_clone);
            assert_same(bytes(m), model, size);
            memsnap_view_unref(v);
            memsnap_snapshot_unref(c);
            memsnap_snapshot_unref(t);
            g_free(then);
        }
        memsnap_view_unref(m);
        assert_content(s, model, size);
        memsnap_snapshot_unref(s);
        assert_file(path, model, size);
        g_free(path);
        g_free(model);
    }
}

/* The end of the last page is not in the file, whatever is stored there. */
static void test_shared_end(void)
{
    if (no_shared_files())
        return;
    size_t size = 3 * page + 10;
    unsigned char *data = pattern(size, 1);
    char *path = temp_file("image", data, size);
    memsnap_snapshot *s = from_file(path, MEMSNAP_FILE_SHARED);
    memsnap_view *m = view_mut(s);
    memset(bytes(m) + size, 0xEE, page - 10);
    bytes(m)[size - 1] = data[size - 1] = 0x11;
    assert_ok(memsnap_view_flush(m, 0, size));
    assert_content(s, data, size);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    assert_file(path, data, size);
    g_free(path);
    g_free(data);
}

static void test_shared_restore_to(void)
{
    if (no_shared_files())
        return;
    size_t size = 50 * page + 10;
    unsigned char *data = pattern(size, 1), *model = g_memdup2(data, size);
    char *path = temp_file("image", data, size);
    memsnap_snapshot *s = from_file(path, MEMSNAP_FILE_SHARED);
    memsnap_view *m = view_mut(s), *v = view(s);
    memsnap_snapshot *checkpoint = take(m);
    memset(bytes(m) + page, 0x42, 7 * page);
    memset(model + page, 0x42, 7 * page);
    assert_ok(memsnap_view_restore(m));
    assert_same(bytes(m), model, size);
    assert_ok(memsnap_view_restore_to(m, checkpoint));
    assert_same(bytes(m), data, size);
    assert_content(s, data, size);
    assert_ok(memsnap_view_flush(m, 0, size));
    assert_file(path, data, size);
    bytes(m)[2 * page] ^= 1;
    assert_content(checkpoint, data, size);
    assert_same(bytes(v), data, size);
    memsnap_view_unref(v);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(checkpoint);
    memsnap_snapshot_unref(s);
    g_free(path);
    g_free(data);
    g_free(model);
}

static void test_flush_arguments(void)
{
    if (no_shared_files())
        return;
    size_t size = 5 * page + 10;
    unsigned char *data = pattern(size, 1);
    char *path = temp_file("image", data, size);
    memsnap_snapshot *s = from_file(path, MEMSNAP_FILE_SHARED);
    memsnap_view *m = view_mut(s), *v = view(s);
    g_assert_cmpint(memsnap_view_flush(m, 0, size + 1), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_flush(m, size + 1, 0), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_flush(m, page, SIZE_MAX), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_flush(m, SIZE_MAX, page), ==, -EINVAL);
    g_assert_cmpint(memsnap_view_flush(v, 0, page), ==, -EINVAL);
    bytes(m)[page] = data[page] = 1;
    assert_ok(memsnap_view_flush(m, page, page));
    assert_ok(memsnap_view_flush(m, 0, 0));
    assert_file(path, data, size);
    memsnap_view_unref(v);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_free(path);
    g_free(data);
}

/* ---- the file mapped ------------------------------------------------------------------------- */

/* Mapping is for files too large to copy: it must not copy. */
static void test_map_copies_nothing(void)
{
    if (no_shared_files())
        return;
    size_t size = on_valgrind() ? MIB : 32 * MIB;
    unsigned char *data = pattern(size, 1);
    char *path = temp_file("image", data, size);
    size_t objects = object_bytes(), anonymous = resident("RssAnon");
    memsnap_snapshot *s = from_file(path, MEMSNAP_FILE_MAP);
    memsnap_view *v = view(s);
    bytes(v)[3 * page] ^= 1;
    data[3 * page] ^= 1;
    memsnap_snapshot *t = take(v);
    g_assert_cmpuint(object_bytes(), <, objects + 4 * MIB);
    if (!on_valgrind())
        g_assert_cmpuint(resident("RssAnon"), <, anonymous + 4 * MIB);
    g_assert_cmpstr(snap_stats(s).backend, ==, "file");
    assert_content(t, data, size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    g_free(path);
    g_free(data);
}

/* None is left open across exec, none is one of the standard three. */
static void test_descriptors_are_close_on_exec(void)
{
    size_t size = 100 * page;
    unsigned char *data = pattern(size, 1);
    char *path = temp_file("image", data, size);
    bool open_before[256];
    for (int fd = 0; fd < 256; fd++)
        open_before[fd] = fcntl(fd, F_GETFD) >= 0;
    memsnap_snapshot *s[5] = {NULL};
    size_t n = 0;
    for (size_t w = 0; w < n_ways(); w++)
        s[n++] = from_file(path, ways[w]);
    s[n] = snap(data, size);
    memsnap_view *v = view(s[n]);
    bytes(v)[0] ^= 1;
    memsnap_snapshot *t = take(v);
    for (int fd = 0; fd < 256; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (open_before[fd] || flags < 0)
            continue;
        g_assert_cmpint(fd, >, 2);
        g_assert_true(flags & FD_CLOEXEC);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(t);
    for (size_t i = 0; i < G_N_ELEMENTS(s); i++)
        memsnap_snapshot_unref(s[i]);
    g_free(path);
    g_free(data);
}

#ifdef O_TMPFILE
/* A file that gets its name when it is complete is still the same file. */
static void test_linked_later(void)
{
    size_t size = 20 * page;
    if (config_is("heap")) {
        test_skip("heap pages are not mapped");
        return;
    }
    unsigned char *data = pattern(size, 1);
    char *path = temp_path("linked"), *dir = g_path_get_dirname(path), link_from[64];
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        test_skip("no files without a name");
    } else {
        g_assert_cmpint(pwrite(fd, data, size, 0), ==, (ssize_t)size);
        memsnap_snapshot *mapped = NULL, *shared = NULL;
        assert_ok(memsnap_snapshot_new_from_fd(fd, MEMSNAP_FILE_MAP, &mapped));
        assert_ok(memsnap_snapshot_new_from_fd(fd, MEMSNAP_FILE_SHARED, &shared));
        snprintf(link_from, sizeof link_from, "/proc/self/fd/%d", fd);
        g_assert_cmpint(linkat(AT_FDCWD, link_from, AT_FDCWD, path, AT_SYMLINK_FOLLOW), ==, 0);
        close(fd);
        assert_content(mapped, data, size);
        memsnap_view *v = view_mut(shared);
        data[5] = bytes(v)[5] ^= 1;
        assert_ok(memsnap_view_flush(v, 0, size));
        assert_content(shared, data, size);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(mapped);
        memsnap_snapshot_unref(shared);
    }
    g_free(path);
    g_free(dir);
    g_free(data);
}
#endif

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    init_sizes();
    test_add("path", test_path, TEST_SOURCES);
    test_add("descriptor", test_descriptor, 0);
    test_add("sparse", test_sparse, 0);
    test_add("sparse-pieces", test_sparse_pieces, 0);
    test_add("refused-paths", test_refused_paths, 0);
    test_add("refused-descriptors", test_refused_descriptors, 0);
    test_add("no-permission", test_no_permission, 0);
    test_add("proc-file", test_proc_file, 0);
    test_add("later-changes", test_later_changes, TEST_SOURCES);
    test_add("file-is-left-alone", test_file_is_left_alone, TEST_SOURCES);
#ifdef F_SEAL_WRITE
    test_add("sealed-memfd", test_sealed_memfd, 0);
    test_add("sealed-memfd-tail", test_sealed_memfd_tail, 0);
    test_add("half-sealed-memfd", test_half_sealed_memfd, 0);
#endif
#ifdef O_TMPFILE
    test_add("linked-later", test_linked_later, 0);
#endif
    test_add("shared", test_shared, TEST_SOURCES);
    test_add("shared-end", test_shared_end, 0);
    test_add("shared-restore-to", test_shared_restore_to, TEST_SOURCES);
    test_add("flush-arguments", test_flush_arguments, 0);
    test_add("map-copies-nothing", test_map_copies_nothing, TEST_SOURCES);
    test_add("descriptors-are-close-on-exec", test_descriptors_are_close_on_exec, 0);
    return g_test_run();
}
