/* SPDX-License-Identifier: MIT */
/* Saving: the file's bytes, holes, permissions and name, what goes wrong, and being killed at
 * any instant. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "base/annotate.h"
#include "support/support.h"

static void assert_file(const char *path, const void *expected, size_t size)
{
    char *content = NULL;
    gsize len = 0;
    g_assert_true(g_file_get_contents(path, &content, &len, NULL));
    g_assert_cmpuint(len, ==, size);
    assert_same(content, expected, size);
    g_free(content);
}

/* How many names the file's directory has. */
static size_t names_beside(const char *path)
{
    char *dir = g_path_get_dirname(path);
    GDir *d = g_dir_open(dir, 0, NULL);
    size_t n = 0;
    while (g_dir_read_name(d))
        n++;
    g_dir_close(d);
    g_free(dir);
    return n;
}

static struct stat status_of(const char *path)
{
    struct stat st;
    g_assert_cmpint(lstat(path, &st), ==, 0);
    return st;
}

static size_t file_bytes(const char *path)
{
    return (size_t)status_of(path).st_blocks * 512;
}

/* ---- content --------------------------------------------------------------------------------- */

static void test_content(void)
{
    const size_t sizes[] = {0,   1,           page - 1, page, page + 1, 5 * page + 7,
                            MIB, 2 * MIB + 1, 5 * MIB};
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        unsigned char *data = pattern(sizes[i], i);
        memsnap_snapshot *s = snap(data, sizes[i]);
        char *path = temp_path("image");
        assert_ok(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_NOSYNC | MEMSNAP_SAVE_EXCL));
        assert_file(path, data, sizes[i]);
        assert_ok(memsnap_snapshot_save(s, path, 0));
        assert_file(path, data, sizes[i]);
        g_assert_cmpuint(names_beside(path), ==, 1);
        g_unlink(path);
        g_free(path);
        memsnap_snapshot_unref(s);
        g_free(data);
    }
}

/* A child of many runs: pages of its parent, its own, zeros. */
static void test_child(void)
{
    size_t size = 300 * page + 5;
    unsigned char *data = pattern(size, 3);
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *v = view(s);
    struct rng r = {7};
    for (int i = 0; i < 60; i++) {
        size_t p = rng_below(&r, 300) * page;
        if (i % 3)
            fill(data + p, page, (uint64_t)i + 100);
        else
            memset(data + p, 0, page);
        memcpy(bytes(v) + p, data + p, page);
    }
    memsnap_snapshot *t = take(v);
    char *path = temp_path("image");
    assert_ok(memsnap_snapshot_save(t, path, MEMSNAP_SAVE_NOSYNC));
    assert_file(path, data, size);
    g_free(path);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    g_free(data);
}

static void test_holes(void)
{
    size_t size = 64 * MIB;
    memsnap_snapshot *s = snap_zero(size);
    char *path = temp_path("image");
    assert_ok(memsnap_snapshot_save(s, path, 0));
    g_assert_cmpuint((size_t)status_of(path).st_size, ==, size);
    g_assert_cmpuint(file_bytes(path), <=, 64 * KIB);
    memsnap_view *v = view_mut(s);
    memset(bytes(v) + 3 * MIB, 1, page);
    memset(bytes(v) + 40 * MIB, 2, page);
    size_t before = object_bytes();
    assert_ok(memsnap_snapshot_save(s, path, 0));
    g_assert_cmpuint(file_bytes(path), <=, 64 * KIB + 2 * page);
    if (config_is("linux")) /* looking for zeros must not give holes memory */
        g_assert_cmpuint(object_bytes(), <=, before + 64 * KIB);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(path);
}

/* Zero pages that are stored all the same. */
static void test_stored_zeros(void)
{
    size_t size = 4 * MIB;
    unsigned char *data = g_malloc0(size);
    fill(data + MIB, page, 1);
    memsnap_snapshot *s = snap(data, size);
    char *path = temp_path("image");
    assert_ok(memsnap_snapshot_save(s, path, 0));
    assert_file(path, data, size);
    g_assert_cmpuint(file_bytes(path), <=, 64 * KIB + page);
    memsnap_snapshot_unref(s);
    g_free(path);
    g_free(data);
}

/* Chunks of the user's files have no window. */
static void test_mapped_file(void)
{
    size_t size = 2 * MIB + 100;
    if (config_is("heap"))
        return;
    unsigned char *data = pattern(size, 1);
    memset(data + MIB / 2, 0, MIB);
    char *from = temp_file("from", data, size), *to = temp_path("to");
    const unsigned ways[] = {MEMSNAP_FILE_MAP, MEMSNAP_FILE_SHARED};
    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        memsnap_snapshot *s;
        assert_ok(memsnap_snapshot_new_from_file(from, ways[i], &s));
        assert_ok(memsnap_snapshot_save(s, to, MEMSNAP_SAVE_NOSYNC));
        assert_file(to, data, size);
        g_assert_cmpuint(file_bytes(to), <=, size - MIB + 64 * KIB);
        /* over itself */
        g_assert_cmpint(memsnap_snapshot_save(s, from, MEMSNAP_SAVE_NOSYNC), ==,
                        ways[i] == MEMSNAP_FILE_SHARED ? -EBUSY : 0);
        assert_file(from, data, size);
        assert_content(s, data, size);
        memsnap_snapshot_unref(s);
    }
    memsnap_snapshot *s;
    assert_ok(memsnap_snapshot_new_from_file(from, MEMSNAP_FILE_MAP, &s));
    g_assert_cmpint(truncate(from, MIB), ==, 0);
    g_assert_cmpint(memsnap_snapshot_save(s, to, 0), ==, -EIO);
    assert_file(to, data, size);
    memsnap_snapshot_unref(s);
    g_free(from);
    g_free(to);
    g_free(data);
}

/* A file that a snapshot's stores go to keeps its name, whatever is saved there, and whatever the
 * path: what is flushed later would be in no file. When the snapshot is gone it is a file again. */
static void test_live_file(void)
{
    size_t size = 20 * page;
    if (config_is("heap"))
        return;
    unsigned char *data = pattern(size, 1);
    char *live = temp_file("live", data, size), *link = temp_path("link"),
         *second = temp_path("second"), *to = temp_path("to");
    const char *const names[] = {live, link, second};
    g_assert_cmpint(symlink("live", link), ==, 0);
    g_assert_cmpint(linkat(AT_FDCWD, live, AT_FDCWD, second, 0), ==, 0);
    memsnap_snapshot *s;
    assert_ok(memsnap_snapshot_new_from_file(live, MEMSNAP_FILE_SHARED, &s));
    memsnap_snapshot *clone = snap_clone(s), *other = snap(data, size);
    memsnap_view *v = view_mut(s);
    memsnap_snapshot *all[] = {s, clone, other};
    size_t before = names_beside(live);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        for (size_t k = 0; k < G_N_ELEMENTS(all); k++) {
            g_assert_cmpint(memsnap_snapshot_save(all[k], names[i], 0), ==, -EBUSY);
            g_assert_cmpint(memsnap_snapshot_save_delta(all[k], other, names[i], 0), ==, -EBUSY);
        }
    }
    g_assert_cmpuint(names_beside(live), ==, before);
    assert_ok(memsnap_snapshot_save(s, to, MEMSNAP_SAVE_NOSYNC));
    bytes(v)[0] ^= 1;
    data[0] ^= 1;
    assert_ok(memsnap_view_flush(v, 0, size));
    assert_file(live, data, size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    assert_ok(memsnap_snapshot_save(other, live, MEMSNAP_SAVE_NOSYNC));
    memsnap_snapshot_unref(clone);
    memsnap_snapshot_unref(other);
    g_free(live);
    g_free(link);
    g_free(second);
    g_free(to);
    g_free(data);
}

static memsnap_snapshot *opened;

static void open_shared(const char *path)
{
    unlink(path);
    g_assert_true(g_file_set_contents(path, "live", 4, NULL));
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_SHARED, &opened));
}

/* A mapped file keeps its bytes when its name is given to another. */
static void test_map_saved_over(void)
{
    size_t size = 2 * MIB + 5;
    if (config_is("heap"))
        return;
    unsigned char *data = pattern(size, 1), *later = pattern(size, 2);
    char *path = temp_file("image", data, size);
    memsnap_snapshot *s, *t = snap(later, size);
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_MAP, &s));
    memsnap_view *v = view(s);
    assert_ok(memsnap_snapshot_save(s, path, 0));
    assert_ok(memsnap_snapshot_save(t, path, 0));
    assert_content(s, data, size);
    assert_same(bytes(v), data, size);
    assert_ok(memsnap_snapshot_save_delta(s, t, path, 0));
    assert_content(s, data, size);
    assert_ok(memsnap_snapshot_save(s, path, 0));
    assert_file(path, data, size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    g_free(path);
    g_free(data);
    g_free(later);
}

/* ---- the name -------------------------------------------------------------------------------- */

static void test_arguments(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_path("image");
    g_assert_cmpint(memsnap_snapshot_save(null, path, 0), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_save(s, null, 0), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_save(s, path, 4), ==, -EINVAL);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_free(path);
    memsnap_snapshot_unref(s);
}

static void expect(memsnap_snapshot *s, char *path, unsigned flags, int error)
{
    g_assert_cmpint(memsnap_snapshot_save(s, path, flags), ==, error);
    g_free(path);
}

static void test_refused_names(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *file = temp_file("file", "old", 3), *dir = g_path_get_dirname(file);
    char *loop = temp_path("loop"), *fifo = temp_path("fifo"), *long_name = g_strnfill(300, 'x');
    g_assert_cmpint(symlink("loop", loop), ==, 0);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    expect(s, g_strdup(""), 0, -ENOENT);
    expect(s, temp_path("missing/image"), 0, -ENOENT);
    expect(s, temp_path("file/image"), 0, -ENOTDIR);
    expect(s, temp_path("new/"), 0, -EISDIR);
    expect(s, temp_path("."), 0, -EISDIR);
    expect(s, g_strdup(dir), 0, -EISDIR);
    expect(s, temp_path(long_name), 0, -ENAMETOOLONG);
    expect(s, g_strdup(loop), 0, -ELOOP);
    expect(s, g_strdup(fifo), 0, -EINVAL);
    expect(s, g_strdup("/dev/null"), 0, -EINVAL);
    expect(s, g_strdup(file), MEMSNAP_SAVE_EXCL, -EEXIST);
    expect(s, g_strdup(loop), MEMSNAP_SAVE_EXCL, -EEXIST);
    assert_file(file, "old", 3);
    g_assert_cmpuint(names_beside(file), ==, 3);
    g_free(file);
    g_free(dir);
    g_free(loop);
    g_free(fifo);
    g_free(long_name);
    memsnap_snapshot_unref(s);
}

static void test_relative_name(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_path("image"), *dir = g_path_get_dirname(path), *was = g_get_current_dir();
    g_assert_cmpint(chdir(dir), ==, 0);
    assert_ok(memsnap_snapshot_save(s, "image", 0));
    assert_ok(memsnap_snapshot_save(s, "./image", 0));
    g_assert_cmpint(chdir(was), ==, 0);
    g_assert_cmpuint((size_t)status_of(path).st_size, ==, page);
    g_free(path);
    g_free(dir);
    g_free(was);
    memsnap_snapshot_unref(s);
}

/* A name as long as names can be leaves no room for a suffix. */
static void test_longest_name(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *name = g_strnfill(255, 'n'), *path = temp_path(name);
    assert_ok(memsnap_snapshot_save(s, path, 0));
    assert_ok(memsnap_snapshot_save(s, path, 0));
    g_assert_cmpuint(names_beside(path), ==, 1);
    g_free(name);
    g_free(path);
    memsnap_snapshot_unref(s);
}

/* The link stays, what it leads to is replaced, or made. */
static void test_symbolic_link(void)
{
    unsigned char *data = pattern(page, 1);
    memsnap_snapshot *s = snap(data, page);
    char *file = temp_path("file"), *link = temp_path("link"), *second = temp_path("second");
    g_assert_cmpint(symlink("file", link), ==, 0);
    g_assert_cmpint(symlink(link, second), ==, 0);
    for (int i = 0; i < 2; i++) {
        assert_ok(memsnap_snapshot_save(s, i ? link : second, 0));
        g_assert_true(S_ISLNK(status_of(link).st_mode));
        g_assert_true(S_ISLNK(status_of(second).st_mode));
        assert_file(file, data, page);
    }
    g_assert_cmpuint(names_beside(file), ==, 3);
    g_free(file);
    g_free(link);
    g_free(second);
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* A descriptor's path means the file that is open there, if that has its name still. */
static void test_descriptor_path(void)
{
    unsigned char *data = pattern(page, 1);
    memsnap_snapshot *s = snap(data, page);
    char *file = temp_file("file", "old", 3);
    int fd = open(file, O_RDONLY | O_CLOEXEC), ends[2];
    char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        test_skip("no /proc");
    } else {
        assert_ok(memsnap_snapshot_save(s, path, 0));
        assert_file(file, data, page);
        g_assert_cmpint(memsnap_snapshot_save(s, path, 0), ==, -ENOENT); /* replaced by now */
        g_assert_cmpint(pipe(ends), ==, 0);
        expect(s, g_strdup_printf("/proc/self/fd/%d", ends[0]), 0, -EINVAL);
        close(ends[0]);
        close(ends[1]);
        expect(s, g_strdup("/proc/self"), 0, -EISDIR);
        g_unlink(file);
        g_assert_cmpint(memsnap_snapshot_save(s, path, 0), ==, -ENOENT);
        g_assert_cmpuint(names_beside(file), ==, 0);
    }
    close(fd);
    g_free(path);
    g_free(file);
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* ---- what happens to the name while the file is written ------------------------------------- */

/* Something that is done once when the first bytes are written. */
static struct meanwhile {
    struct os os;
    const struct os *inner;
    void (*act)(const char *path);
    const char *path;
} meanwhile;

static int write_meanwhile(const struct os_object *o, const struct os_iov *v, size_t n,
                           uint64_t offset)
{
    void (*act)(const char *) = meanwhile.act;
    meanwhile.act = NULL;
    if (act)
        act(meanwhile.path);
    return meanwhile.inner->object_write(o, v, n, offset);
}

static int save_while(memsnap_snapshot *s, const char *path, unsigned flags,
                      void (*act)(const char *))
{
    meanwhile.inner = ms_os;
    meanwhile.os = *ms_os;
    meanwhile.os.object_write = write_meanwhile;
    meanwhile.act = act;
    meanwhile.path = path;
    ms_os = &meanwhile.os;
    int e = memsnap_snapshot_save(s, path, flags);
    ms_os = meanwhile.inner;
    g_assert_null(meanwhile.act);
    return e;
}

static void make_private(const char *path)
{
    g_assert_cmpint(chmod(path, 0600), ==, 0);
}

static void make_link(const char *path)
{
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_cmpint(symlink("precious", path), ==, 0);
}

static void make_directory(const char *path)
{
    unlink(path);
    g_assert_cmpint(mkdir(path, 0700), ==, 0);
}

static void make_other(const char *path)
{
    unlink(path);
    g_assert_true(g_file_set_contents(path, "other", 5, NULL));
    g_assert_cmpint(chmod(path, 0604), ==, 0);
}

static void remove_it(const char *path)
{
    g_assert_cmpint(unlink(path), ==, 0);
}

/* What is replaced, and whose permissions the new file has, is what has the name at the end. */
static void test_changed_meanwhile(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *precious = temp_file("precious", "old", 3);
    static const struct {
        void (*act)(const char *path);
        bool exists;
        int error;
        mode_t mode; /* of what is there then */
    } cases[] = {
        {make_private, true, 0, S_IFREG | 0600}, {make_link, true, -ELOOP, S_IFLNK | 0777},
        {make_other, true, 0, S_IFREG | 0604},   {make_directory, true, -EISDIR, S_IFDIR | 0700},
        {remove_it, true, 0, S_IFREG | 0640},    {make_other, false, 0, S_IFREG | 0604},
    };
    bool proc = g_file_test("/proc/self/fd", G_FILE_TEST_EXISTS);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *path = temp_path("image");
        /* Without /proc a file that is gone cannot be asked for its access control list. */
        if (cases[i].act == remove_it && !proc)
            continue;
        if (cases[i].exists) {
            g_assert_true(g_file_set_contents(path, "old", 3, NULL));
            g_assert_cmpint(chmod(path, 0640), ==, 0);
        }
        g_assert_cmpint(save_while(s, path, i % 2 ? MEMSNAP_SAVE_NOSYNC : 0, cases[i].act), ==,
                        cases[i].error);
        g_assert_cmpuint(status_of(path).st_mode, ==, cases[i].mode);
        if (cases[i].error == 0)
            g_assert_cmpuint((size_t)status_of(path).st_size, ==, page);
        assert_file(precious, "old", 3);
        g_assert_cmpuint(names_beside(path), ==, 2);
        remove(path);
        g_free(path);
    }
    char *path = temp_path("image");
    g_assert_cmpint(save_while(s, path, MEMSNAP_SAVE_EXCL, make_other), ==, -EEXIST);
    assert_file(path, "other", 5);
    g_free(path);
    g_free(precious);
    memsnap_snapshot_unref(s);
}

/* A file that becomes a live one while another save to it goes on. */
static void test_live_meanwhile(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_path("image");
    if (config_is("heap")) {
        memsnap_snapshot_unref(s);
        g_free(path);
        return;
    }
    g_assert_cmpint(save_while(s, path, 0, open_shared), ==, -EBUSY);
    assert_file(path, "live", 4);
    memsnap_snapshot_unref(opened);
    memsnap_snapshot_unref(s);
    g_free(path);
}

static const char *exchanged[2];

/* Another user's program that keeps exchanging a file of its own and a link to one that is not. */
static void exchange_for_ever(void)
{
    for (;;)
        syscall(SYS_renameat2, AT_FDCWD, exchanged[0], AT_FDCWD, exchanged[1], 1 << 1);
}

static void begin_again(void)
{
    for (int i = 0; i < 2; i++)
        unlink(exchanged[i]);
    g_assert_true(g_file_set_contents(exchanged[0], "old", 3, NULL));
    g_assert_cmpint(symlink("../precious", exchanged[1]), ==, 0);
    for (int i = 0; i < 2; i++)
        g_assert_cmpint(lchown(exchanged[i], 65534, 65534), ==, 0);
}

static void become_nobody(void);

/* Links of others are not followed where anybody may make them, and none is between looking at what
 * has the name and replacing it. */
static void test_exchanged(void)
{
    if (geteuid() != 0) {
        test_skip("needs files of other owners");
        return;
    }
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *precious = temp_file("precious", "old", 3), *dir = temp_path("sticky"),
         *name = temp_path("sticky/a"), *other = temp_path("sticky/b");
    exchanged[0] = name;
    exchanged[1] = other;
    g_assert_cmpint(mkdir(dir, 0700), ==, 0);
    g_assert_cmpint(chmod(dir, 01777), ==, 0);
    begin_again();
    g_assert_cmpint(memsnap_snapshot_save(s, other, 0), ==, -EACCES);
    pid_t pid = fork();
    if (pid == 0) {
        become_nobody();
        exchange_for_ever();
    }
    for (int i = 0; i < 300; i++) {
        if (!g_file_test(other, G_FILE_TEST_EXISTS) || !g_file_test(name, G_FILE_TEST_EXISTS))
            begin_again();
        memsnap_snapshot_save(s, name, MEMSNAP_SAVE_NOSYNC);
        assert_file(precious, "old", 3);
        g_assert_cmpuint(status_of(precious).st_uid, ==, 0);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    begin_again();
    g_assert_cmpint(lchown(other, 0, 0), ==, 0);
    assert_ok(memsnap_snapshot_save(s, other, 0)); /* one's own link */
    g_assert_cmpuint((size_t)status_of(precious).st_size, ==, page);
    g_free(precious);
    g_free(dir);
    g_free(name);
    g_free(other);
    memsnap_snapshot_unref(s);
}

/* ---- permissions ----------------------------------------------------------------------------- */

static void test_new_mode(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_path("image");
    mode_t was = umask(027);
    assert_ok(memsnap_snapshot_save(s, path, 0));
    umask(was);
    g_assert_cmpuint(status_of(path).st_mode & 07777, ==, 0640);
    g_free(path);
    memsnap_snapshot_unref(s);
}

static void test_kept_mode(void)
{
    const mode_t modes[] = {0600, 0644, 0666, 0400, 0751, 04711};
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3);
    mode_t was = umask(077);
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_assert_cmpint(chmod(path, modes[i]), ==, 0);
        assert_ok(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_NOSYNC));
        g_assert_cmpuint(status_of(path).st_mode & 07777, ==, modes[i]);
    }
    umask(was);
    g_free(path);
    memsnap_snapshot_unref(s);
}

static void test_kept_owner(void)
{
    if (geteuid() != 0) {
        test_skip("only root may give files away");
        return;
    }
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3);
    g_assert_cmpint(chown(path, 1234, 4321), ==, 0);
    g_assert_cmpint(chmod(path, 0640), ==, 0);
    assert_ok(memsnap_snapshot_save(s, path, 0));
    struct stat st = status_of(path);
    g_assert_cmpuint(st.st_uid, ==, 1234);
    g_assert_cmpuint(st.st_gid, ==, 4321);
    g_assert_cmpuint(st.st_mode & 07777, ==, 0640);
    g_free(path);
    memsnap_snapshot_unref(s);
}

struct errand {
    memsnap_snapshot *s;
    const char *path;
    int error;
};

static void become_nobody(void)
{
    g_assert_cmpint(setgroups(0, NULL), ==, 0);
    g_assert_cmpint(setgid(65534), ==, 0);
    g_assert_cmpint(setuid(65534), ==, 0);
}

static void save_as_nobody(void *arg)
{
    struct errand *e = arg;
    become_nobody();
    g_assert_cmpint(memsnap_snapshot_save(e->s, e->path, 0), ==, e->error);
}

/* What was granted to a group that the new file does not have is granted to nobody. */
static void test_lost_group(void)
{
    if (geteuid() != 0) {
        test_skip("needs files of other owners");
        return;
    }
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3), *dir = g_path_get_dirname(path);
    g_assert_cmpint(chmod(dir, 0777), ==, 0);
    g_assert_cmpint(chown(path, 1234, 4321), ==, 0);
    g_assert_cmpint(chmod(path, 06660), ==, 0);
    struct errand e = {s, path, 0};
    child_run(save_as_nobody, &e);
    struct stat st = status_of(path);
    g_assert_cmpuint(st.st_uid, ==, 65534);
    g_assert_cmpuint(st.st_mode & 07777, ==, 0600);
    g_free(path);
    g_free(dir);
    memsnap_snapshot_unref(s);
}

/* user::rw-, user:1234:r--, group::r--, mask::r--, other::---, as the kernel keeps it. */
static const unsigned char access_list[] = {
    2, 0,    0,   0,   1,   0,   6,  0, 255, 255, 255, 255, 2,   0,   4,
    0, 0xd2, 4,   0,   0,   4,   0,  4, 0,   255, 255, 255, 255, 16,  0,
    4, 0,    255, 255, 255, 255, 32, 0, 0,   0,   255, 255, 255, 255,
};

static void test_kept_access_list(void)
{
    static const char name[] = "system.posix_acl_access";
    unsigned char value[sizeof access_list + 1];
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3);
    if (setxattr(path, name, access_list, sizeof access_list, 0) < 0) {
        test_skip("this file system keeps no access control lists");
    } else {
        assert_ok(memsnap_snapshot_save(s, path, 0));
        g_assert_cmpint(getxattr(path, name, value, sizeof value), ==, sizeof access_list);
        assert_same(value, access_list, sizeof access_list);
        g_assert_cmpuint(status_of(path).st_mode & 07777, ==, 0640);
        g_assert_cmpuint((size_t)status_of(path).st_size, ==, page);
    }
    g_free(path);
    memsnap_snapshot_unref(s);
}

/* A list that cannot be kept may have denied something to somebody. */
static void test_lost_access_list(void)
{
    static const char name[] = "system.posix_acl_access";
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3), *dir = g_path_get_dirname(path);
    if (geteuid() != 0 || setxattr(path, name, access_list, sizeof access_list, 0) < 0) {
        test_skip("needs files of other owners, and access control lists");
    } else {
        g_assert_cmpint(chmod(dir, 0777), ==, 0);
        g_assert_cmpint(chown(path, 1234, 4321), ==, 0);
        g_assert_cmpint(chmod(path, 0644), ==, 0);
        struct errand e = {s, path, 0};
        child_run(save_as_nobody, &e);
        g_assert_cmpuint(status_of(path).st_mode & 07777, ==, 0600);
        g_assert_cmpint(getxattr(path, name, NULL, 0), <, 0);
    }
    g_free(path);
    g_free(dir);
    memsnap_snapshot_unref(s);
}

/* The list that the directory gives to new files is not one that the old file had. */
static void test_directory_list(void)
{
    static const char name[] = "system.posix_acl_access";
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3), *dir = g_path_get_dirname(path);
    g_assert_cmpint(chmod(path, 0640), ==, 0);
    if (setxattr(dir, "system.posix_acl_default", access_list, sizeof access_list, 0) < 0) {
        test_skip("this file system keeps no access control lists");
    } else {
        assert_ok(memsnap_snapshot_save(s, path, 0));
        g_assert_cmpint(getxattr(path, name, NULL, 0), <, 0);
        g_assert_cmpuint(status_of(path).st_mode & 07777, ==, 0640);
        unlink(path);
        assert_ok(memsnap_snapshot_save(s, path, 0)); /* a new file has it */
        g_assert_cmpint(getxattr(path, name, NULL, 0), ==, sizeof access_list);
    }
    g_free(path);
    g_free(dir);
    memsnap_snapshot_unref(s);
}

/* Leaves the process, which may be root's, these capabilities. */
static bool keep_capabilities(uint32_t set)
{
    struct {
        uint32_t version;
        int pid;
    } head = {0x20080522, 0};
    uint32_t data[2][3] = {{set, set, 0}, {0, 0, 0}};
    return syscall(SYS_capset, &head, data) == 0;
}

static void save_without_fowner(void *arg)
{
    const uint32_t chown_bit = 1u << 0, override_bit = 1u << 1;
    struct errand *e = arg;
    if (!keep_capabilities(chown_bit | override_bit))
        test_skip("may not drop capabilities");
    else
        assert_ok(memsnap_snapshot_save(e->s, e->path, 0));
}

/* Who may give a file away may be unable to change it then. */
static void test_chown_only(void)
{
    static const mode_t modes[] = {0640, 0604, 0600};
    if (geteuid() != 0) {
        test_skip("only root may give files away");
        return;
    }
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3);
    struct errand e = {s, path, 0};
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_assert_cmpint(chown(path, 1234, 4321), ==, 0);
        g_assert_cmpint(chmod(path, modes[i]), ==, 0);
        child_run(save_without_fowner, &e);
        struct stat st = status_of(path);
        g_assert_cmpuint(st.st_uid, ==, 1234);
        g_assert_cmpuint(st.st_gid, ==, 4321);
        g_assert_cmpuint(st.st_mode & 07777, ==, modes[i]);
    }
    g_free(path);
    memsnap_snapshot_unref(s);
}

/* The old owner is anybody to the new file, and may do no more than before. */
static void test_lost_owner(void)
{
    if (geteuid() != 0) {
        test_skip("needs files of other owners");
        return;
    }
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3), *dir = g_path_get_dirname(path);
    g_assert_cmpint(chmod(dir, 0777), ==, 0);
    g_assert_cmpint(chown(path, 1234, 65534), ==, 0);
    g_assert_cmpint(chmod(path, 0266), ==, 0);
    struct errand e = {s, path, 0};
    child_run(save_as_nobody, &e);
    g_assert_cmpuint(status_of(path).st_uid, ==, 65534);
    g_assert_cmpuint(status_of(path).st_mode & 07777, ==, 0222);
    g_free(path);
    g_free(dir);
    memsnap_snapshot_unref(s);
}

static void ask_for_lock(void *arg)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    g_assert_cmpint(fcntl(*(int *)arg, F_GETLK, &lock), ==, 0);
    g_assert_cmpint(lock.l_type, ==, F_WRLCK); /* the parent has it */
}

/* Locks that the program has on the old file are not taken away by looking at it. */
static void test_locked(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fcntl(fd, F_SETLK, &lock), ==, 0);
    if (!g_file_test("/proc/self/fd", G_FILE_TEST_EXISTS)) {
        test_skip("no /proc");
    } else {
        assert_ok(memsnap_snapshot_save(s, path, 0));
        child_run(ask_for_lock, &fd);
    }
    close(fd);
    g_free(path);
    memsnap_snapshot_unref(s);
}

static void test_unwritable_directory(void)
{
    if (geteuid() != 0) {
        test_skip("becomes another user");
        return;
    }
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3), *dir = g_path_get_dirname(path);
    g_assert_cmpint(chmod(dir, 0755), ==, 0);
    struct errand e = {s, path, -EACCES};
    child_run(save_as_nobody, &e);
    assert_file(path, "old", 3);
    g_assert_cmpint(chmod(dir, 0733), ==, 0); /* writable, but not readable */
    e.error = 0;
    child_run(save_as_nobody, &e);
    g_assert_cmpuint((size_t)status_of(path).st_size, ==, page);
    g_assert_cmpuint(names_beside(path), ==, 1);
    g_free(path);
    g_free(dir);
    memsnap_snapshot_unref(s);
}

/* ---- no room --------------------------------------------------------------------------------- */

static void save_beyond_limit(void *arg)
{
    struct errand *e = arg;
    struct rlimit limit = {MIB, MIB};
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0); /* SIGXFSZ would kill */
    g_assert_cmpint(memsnap_snapshot_save(e->s, e->path, 0), ==, -EFBIG);
}

static void test_file_size_limit(void)
{
    /* in memory, or the child's leak check does not find it */
    unsigned char *volatile data = pattern(2 * MIB, 1);
    memsnap_snapshot *s = snap(data, 2 * MIB);
    char *path = temp_file("image", "old", 3);
    struct errand e = {s, path, 0};
    child_run(save_beyond_limit, &e);
    assert_file(path, "old", 3);
    g_assert_cmpuint(names_beside(path), ==, 1);
    assert_ok(memsnap_snapshot_save(s, path, 0));
    assert_file(path, data, 2 * MIB);
    g_free(path);
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* In a mount namespace of the child's own: a file system of 1 MiB. False: skipped. */
static bool mount_small(const char *dir, unsigned long flags)
{
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0 ||
        mount("tmpfs", dir, "tmpfs", flags, "size=1m") < 0) {
        test_skip("may not mount a file system");
        return false;
    }
    return true;
}

static void save_to_full_disk(void *arg)
{
    struct errand *e = arg;
    char *dir = g_path_get_dirname(e->path);
    if (!mount_small(dir, 0))
        return;
    memsnap_snapshot *small = snap_pattern(300 * KIB, 5);
    assert_ok(memsnap_snapshot_save(small, e->path, 0));
    for (unsigned flags = 0; flags <= MEMSNAP_SAVE_NOSYNC; flags += MEMSNAP_SAVE_NOSYNC)
        g_assert_cmpint(memsnap_snapshot_save(e->s, e->path, flags), ==, -ENOSPC);
    g_assert_cmpuint(names_beside(e->path), ==, 1);
    unsigned char *expected = pattern(300 * KIB, 5);
    assert_file(e->path, expected, 300 * KIB);
    g_free(expected);
    assert_ok(memsnap_snapshot_save(small, e->path, 0)); /* the room is there again */
    memsnap_snapshot_unref(small);
    g_free(dir);
}

static void test_full_disk(void)
{
    memsnap_snapshot *s = snap_pattern(2 * MIB, 1);
    char *path = temp_path("image");
    struct errand e = {s, path, 0};
    child_run(save_to_full_disk, &e);
    g_free(path);
    memsnap_snapshot_unref(s);
}

static void save_to_read_only(void *arg)
{
    struct errand *e = arg;
    char *dir = g_path_get_dirname(e->path);
    if (mount_small(dir, MS_RDONLY))
        g_assert_cmpint(memsnap_snapshot_save(e->s, e->path, 0), ==, -EROFS);
    g_free(dir);
}

static void test_read_only(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_path("image");
    struct errand e = {s, path, 0};
    child_run(save_to_read_only, &e);
    g_free(path);
    memsnap_snapshot_unref(s);
}

static void save_without_descriptors(void *arg)
{
    struct errand *e = arg;
    struct rlimit limit = {0, 0};
    int first_free = dup(0);
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    for (rlim_t n = (rlim_t)first_free; n < (rlim_t)first_free + 2; n++) {
        limit.rlim_cur = n;
        close(first_free);
        g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
        g_assert_cmpint(memsnap_snapshot_save(e->s, e->path, 0), ==, -EMFILE);
    }
}

static void test_no_descriptors(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3);
    struct errand e = {s, path, 0};
    child_run(save_without_descriptors, &e);
    assert_file(path, "old", 3);
    g_assert_cmpuint(names_beside(path), ==, 1);
    g_free(path);
    memsnap_snapshot_unref(s);
}

#ifdef SYS_ftruncate64 /* 32 bits, large files */
#define SET_SIZE SYS_ftruncate64
#else
#define SET_SIZE SYS_ftruncate
#endif

struct refusal {
    struct errand errand;
    long call;
    int error;
};

static void save_refused(void *arg)
{
    struct refusal *r = arg;
    if (!deny(r->call, -1, 0, r->error))
        test_skip("no seccomp filters");
    else
        g_assert_cmpint(memsnap_snapshot_save(r->errand.s, r->errand.path, 0), ==, -r->error);
}

/* What the device or the quota refuses while bytes are written, and while they are synced. */
static void test_refused_writing(void)
{
    const struct refusal refusals[] = {
        {.call = SYS_pwritev, .error = EDQUOT}, {.call = SYS_pwritev, .error = EIO},
        {.call = SYS_pwritev, .error = ENOSPC}, {.call = SET_SIZE, .error = EFBIG},
        {.call = SYS_fsync, .error = EIO},      {.call = SYS_fsync, .error = EDQUOT},
    };
    unsigned char *data = pattern(MIB, 1);
    memsnap_snapshot *s = snap(data, MIB);
    char *path = temp_file("image", "old", 3);
    for (size_t i = 0; i < G_N_ELEMENTS(refusals); i++) {
        struct refusal r = refusals[i];
        r.errand = (struct errand){s, path, 0};
        child_run(save_refused, &r);
        assert_file(path, "old", 3);
        g_assert_cmpuint(names_beside(path), ==, 1);
    }
    assert_ok(memsnap_snapshot_save(s, path, 0));
    assert_file(path, data, MIB);
    g_free(path);
    memsnap_snapshot_unref(s);
    g_free(data);
}

struct refused_calls {
    struct errand errand;
    long calls[3];
};

static void save_without_links(void *arg)
{
    struct refused_calls *r = arg;
    memsnap_snapshot *s = r->errand.s;
    const char *path = r->errand.path;
    for (size_t i = 0; i < G_N_ELEMENTS(r->calls); i++) {
        if (r->calls[i] && !deny(r->calls[i], -1, 0, EPERM)) {
            test_skip("no seccomp filters");
            return;
        }
    }
    for (unsigned flags = 0; flags <= MEMSNAP_SAVE_NOSYNC; flags += MEMSNAP_SAVE_NOSYNC)
        g_assert_cmpint(memsnap_snapshot_save(s, path, flags), ==, r->errand.error);
    if (r->errand.error == 0) {
        g_assert_cmpuint(status_of(path).st_mode & 07777, ==, 0604);
        g_assert_cmpint(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_EXCL), ==, -EEXIST);
        unlink(path);
        assert_ok(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_EXCL));
        unlink(path);
        assert_ok(memsnap_snapshot_save(s, path, 0));
    }
    g_assert_cmpuint(names_beside(path), ==, 1);
}

/* Where no links can be made a file goes under a temporary name, and is renamed. */
static void test_refused_links(void)
{
    const struct refused_calls refusals[] = {
        {.calls = {SYS_linkat}},
#ifdef SYS_rename
        {.calls = {SYS_linkat, SYS_renameat, SYS_renameat2}, .errand = {.error = -EACCES}},
#endif
    };
    size_t size = MIB + 5;
    unsigned char *data = pattern(size, 1);
    memset(data + 100000, 0, 500000);
    memsnap_snapshot *s = snap(data, size);
    for (size_t i = 0; i < G_N_ELEMENTS(refusals); i++) {
        char *path = temp_file("image", "old", 3);
        struct refused_calls r = refusals[i];
        g_assert_cmpint(chmod(path, 0604), ==, 0);
        r.errand.s = s;
        r.errand.path = path;
        child_run(save_without_links, &r);
        if (r.errand.error)
            assert_file(path, "old", 3);
        else if ((size_t)status_of(path).st_size != 3) /* not skipped */
            assert_file(path, data, size);
        g_free(path);
    }
    memsnap_snapshot_unref(s);
    g_free(data);
}

static void save_onto_mount_point(void *arg)
{
    struct errand *e = arg;
    char *other = temp_file("other", "other", 5);
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0 ||
        mount(other, e->path, "none", MS_BIND, "") < 0) {
        test_skip("may not mount");
    } else {
        g_assert_cmpint(memsnap_snapshot_save(e->s, e->path, 0), ==, -EBUSY);
        assert_file(e->path, "other", 5);
        umount(e->path);
        assert_file(e->path, "old", 3);
    }
    g_free(other);
}

/* What is mounted on cannot be replaced: no system call does that. */
static void test_mount_point(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_file("image", "old", 3);
    struct errand e = {s, path, 0};
    child_run(save_onto_mount_point, &e);
    g_assert_cmpuint(names_beside(path), ==, 2);
    g_free(path);
    memsnap_snapshot_unref(s);
}

static bool run_command(const char *command, const char *a, const char *b)
{
    char *argv[] = {(char *)(uintptr_t) "sh",
                    (char *)(uintptr_t) "-c",
                    (char *)(uintptr_t)command,
                    (char *)(uintptr_t) "sh",
                    (char *)(uintptr_t)a,
                    (char *)(uintptr_t)b,
                    NULL};
    int status = -1;
    return g_spawn_sync(NULL, argv, NULL,
                        G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL |
                            G_SPAWN_STDERR_TO_DEV_NULL,
                        NULL, NULL, NULL, NULL, &status, NULL) &&
           status == 0;
}

static size_t used_bytes(const char *dir)
{
    struct statvfs v;
    sync();
    g_assert_cmpint(statvfs(dir, &v), ==, 0);
    return (size_t)(v.f_blocks - v.f_bfree) * v.f_frsize;
}

/* A mapped file that is saved beside itself shares its blocks with the new one. */
static void save_sharing_blocks(void *arg)
{
    const char *dir = arg;
    size_t size = 8 * MIB + 5;
    memsnap_snapshot *s = NULL;
    char *disk = g_build_filename(dir, "disk", NULL),
         *mounted = g_build_filename(dir, "mounted", NULL);
    char *from = g_build_filename(mounted, "from", NULL),
         *to = g_build_filename(mounted, "to", NULL);
    g_mkdir(mounted, 0700);
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0 ||
        !run_command("truncate -s 512M \"$1\" && mkfs.btrfs -q \"$1\" && mount -o loop \"$1\" "
                     "\"$2\"",
                     disk, mounted)) {
        test_skip("cannot make and mount a file system that shares blocks");
    } else {
        unsigned char *data = pattern(size, 1);
        g_assert_true(g_file_set_contents(from, (char *)data, (gssize)size, NULL));
        size_t before = used_bytes(mounted);
        assert_ok(memsnap_snapshot_new_from_file(from, MEMSNAP_FILE_MAP, &s));
        assert_ok(memsnap_snapshot_save(s, to, 0));
        assert_file(to, data, size);
        g_assert_cmpuint(used_bytes(mounted), <, before + size / 2);
        memsnap_snapshot_unref(s);
        g_free(data);
        umount(mounted);
    }
    g_free(disk);
    g_free(mounted);
    g_free(from);
    g_free(to);
}

static void test_shared_blocks(void)
{
    if (config_is("heap"))
        return;
    char *dir = temp_path("");
    child_run(save_sharing_blocks, dir);
    g_free(dir);
}

/* ---- beside others --------------------------------------------------------------------------- */

static void test_mutable_view(void)
{
    size_t size = 3 * MIB;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *v = view_mut(s);
    char *path = temp_path("image");
    for (int i = 0; i < 5; i++) {
        fill(data + (size_t)i * 100 * page, 3 * page, (uint64_t)i + 9);
        memcpy(bytes(v), data, size);
        assert_ok(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_NOSYNC));
        memset(bytes(v), i, size);
        assert_file(path, data, size);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    g_free(path);
    g_free(data);
}

/* A write to a file that takes its time: until `go`, or for so long that the test is lost. */
static struct slow {
    struct os os;
    const struct os *inner;
    sem_t entered, go;
    atomic_bool armed, waited_in_vain;
} slow;

static int slow_write(const struct os_object *o, const struct os_iov *v, size_t n, uint64_t offset)
{
    struct timespec until;
    if (strcmp(o->kind, "file") == 0 && atomic_exchange(&slow.armed, false)) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 60;
        sem_post(&slow.entered);
        if (sem_timedwait(&slow.go, &until) < 0)
            atomic_store(&slow.waited_in_vain, true);
    }
    return slow.inner->object_write(o, v, n, offset);
}

static void *save_once(void *arg)
{
    struct errand *e = arg;
    e->error = memsnap_snapshot_save(e->s, e->path, MEMSNAP_SAVE_NOSYNC);
    return NULL;
}

/* While a save waits for its device everything else goes on: stores, takes, views, clones, other
 * saves, closing. */
static void test_slow_device(void)
{
    pthread_t thread;
    size_t size = 100 * page;
    unsigned char *data = pattern(size, 1), *later = pattern(size, 2);
    memsnap_snapshot *s = snap(data, size), *clone = NULL;
    memsnap_view *v = view_mut(s);
    char *path = temp_path("image"), *other = temp_path("other");
    struct errand e = {s, path, 1};
    slow.inner = ms_os;
    slow.os = *ms_os;
    slow.os.object_write = slow_write;
    sem_init(&slow.entered, 0, 0);
    sem_init(&slow.go, 0, 0);
    atomic_store(&slow.armed, true);
    ms_os = &slow.os;
    g_assert_cmpint(pthread_create(&thread, NULL, save_once, &e), ==, 0);
    while (sem_wait(&slow.entered) < 0)
        ;
    memcpy(bytes(v), later, size);
    memsnap_snapshot *t = take(v);
    memsnap_view *w = view(s);
    assert_same(bytes(w), later, size);
    assert_ok(memsnap_snapshot_clone(s, &clone));
    assert_ok(memsnap_snapshot_save(t, other, MEMSNAP_SAVE_NOSYNC));
    assert_file(other, later, size);
    memsnap_view_unref(v);
    memsnap_view_unref(w);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(clone);
    sem_post(&slow.go);
    pthread_join(thread, NULL);
    ms_os = slow.inner;
    g_assert_false(atomic_load(&slow.waited_in_vain));
    g_assert_cmpint(e.error, ==, 0);
    assert_file(path, data, size);
    memsnap_snapshot_unref(s);
    sem_destroy(&slow.entered);
    sem_destroy(&slow.go);
    g_free(path);
    g_free(other);
    g_free(data);
    g_free(later);
}

struct saver {
    pthread_t thread;
    memsnap_snapshot *s;
    const char *path;
    int rounds;
};

static void *save_often(void *arg)
{
    struct saver *w = arg;
    for (int i = 0; i < w->rounds; i++)
        g_assert_cmpint(memsnap_snapshot_save(w->s, w->path, MEMSNAP_SAVE_NOSYNC), ==, 0);
    return NULL;
}

/* Threads that save different snapshots to one name: it is always one of them, whole. */
static void test_same_name(void)
{
    enum { SAVERS = 4, ROUNDS = 25 };
    size_t size = 40 * page;
    struct saver v[SAVERS];
    char *path = temp_path("image");
    for (int i = 0; i < SAVERS; i++) {
        v[i] = (struct saver){.s = snap_pattern(size, (uint64_t)i), .path = path, .rounds = ROUNDS};
        if (i == 0)
            save_often(&v[i]);
        g_assert_cmpint(pthread_create(&v[i].thread, NULL, save_often, &v[i]), ==, 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        char *content = NULL;
        gsize len = 0;
        g_assert_true(g_file_get_contents(path, &content, &len, NULL));
        g_assert_cmpuint(len, ==, size);
        int whose = -1;
        for (int i = 0; i < SAVERS; i++) {
            unsigned char *expected = pattern(size, (uint64_t)i);
            if (memcmp(content, expected, size) == 0)
                whose = i;
            g_free(expected);
        }
        g_assert_cmpint(whose, >=, 0);
        g_free(content);
    }
    for (int i = 0; i < SAVERS; i++) {
        pthread_join(v[i].thread, NULL);
        memsnap_snapshot_unref(v[i].s);
    }
    g_assert_cmpuint(names_beside(path), ==, 1);
    g_free(path);
}

static void ignore(int signal)
{
    (void)signal;
}

/* Signals that come all the time change nothing. */
static void test_interrupted(void)
{
    struct sigaction action = {.sa_handler = ignore}, was;
    long every = on_valgrind() ? 100000 : 500; /* microseconds */
    struct itimerval often = {{0, every}, {0, every}}, never = {{0, 0}, {0, 0}};
    unsigned char *data = pattern(2 * MIB, 1);
    memsnap_snapshot *s = snap(data, 2 * MIB);
    char *path = temp_path("image");
    sigaction(SIGALRM, &action, &was);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 20; i++)
        assert_ok(memsnap_snapshot_save(s, path, i % 2 ? 0 : MEMSNAP_SAVE_NOSYNC));
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &was, NULL);
    assert_file(path, data, 2 * MIB);
    g_free(path);
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* ---- being killed ---------------------------------------------------------------------------- */

/* Alternates between two images until it is killed. */
static void save_for_ever(memsnap_snapshot *a, memsnap_snapshot *b, const char *path,
                          unsigned flags)
{
    for (;;)
        if (memsnap_snapshot_save(a, path, flags) < 0 || memsnap_snapshot_save(b, path, flags) < 0)
            child_exit(1);
}

/* As before, but each time there is no file yet. */
static void save_anew_for_ever(memsnap_snapshot *a, memsnap_snapshot *b, const char *path,
                               unsigned flags)
{
    for (;;)
        if (memsnap_snapshot_save(a, path, flags | MEMSNAP_SAVE_EXCL) < 0 || unlink(path) < 0 ||
            memsnap_snapshot_save(b, path, flags) < 0 || unlink(path) < 0)
            child_exit(1);
}

static bool is_same(const char *content, const unsigned char *expected, size_t size)
{
    return memcmp(content, expected, size) == 0;
}

/* The one or the other image, whole. */
static void check_survivor(const char *path, const unsigned char *a, const unsigned char *b,
                           size_t size)
{
    char *content = NULL;
    gsize len = 0;
    g_assert_true(g_file_get_contents(path, &content, &len, NULL));
    g_assert_cmpuint(len, ==, size);
    g_assert_true(is_same(content, a, size) || is_same(content, b, size));
    g_free(content);
}

typedef void saving(memsnap_snapshot *a, memsnap_snapshot *b, const char *path, unsigned flags);

static void kill_while(saving *save, memsnap_snapshot *a, memsnap_snapshot *b, const char *path,
                       unsigned flags, gulong after)
{
    int status;
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0)
        save(a, b, path, flags);
    g_usleep(after);
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFSIGNALED(status));
}

/* Kills `save` again and again. At the most the one temporary name is left, and never after the
 * next save. Returns how often it was. */
static int kill_often(saving *save, memsnap_snapshot *sa, memsnap_snapshot *sb, const char *path,
                      int rounds)
{
    size_t size = memsnap_snapshot_size(sa);
    unsigned char *a = g_malloc(size), *b = g_malloc(size);
    struct rng r = {(uint64_t)getpid()};
    int left = 0;
    assert_ok(memsnap_snapshot_read(sa, 0, a, size));
    assert_ok(memsnap_snapshot_read(sb, 0, b, size));
    fflush(stdout);
    for (int i = 0; i < rounds; i++) {
        kill_while(save, sa, sb, path, i % 3 ? MEMSNAP_SAVE_NOSYNC : 0, 500 + rng_below(&r, 6000));
        bool there = g_file_test(path, G_FILE_TEST_EXISTS);
        size_t names = names_beside(path);
        g_assert_true(there || save == save_anew_for_ever);
        if (there)
            check_survivor(path, a, b, size);
        g_assert_cmpuint(names, <=, there + 1);
        if (names > there) {
            left++;
            assert_ok(memsnap_snapshot_save(sa, path, MEMSNAP_SAVE_NOSYNC));
            g_assert_cmpuint(names_beside(path), ==, 1);
        }
        if (save == save_anew_for_ever)
            unlink(path);
    }
    g_free(a);
    g_free(b);
    return left;
}

static int kill_rounds(void)
{
    return on_sanitizer() || on_valgrind() ? 40 : 300;
}

static void test_killed(void)
{
    memsnap_snapshot *a = snap_pattern(60 * page, 1), *b = snap_pattern(60 * page, 2);
    char *path = temp_path("image");
    assert_ok(memsnap_snapshot_save(a, path, 0));
    int left = kill_often(save_for_ever, a, b, path, kill_rounds());
    g_test_message("killed %d times; the next save had to remove a temporary name %d times",
                   kill_rounds(), left);
    g_free(path);
    memsnap_snapshot_unref(a);
    memsnap_snapshot_unref(b);
}

/* True if files can be made that have no name yet, and be given one, which takes /proc. */
static bool has_nameless_files(const char *beside)
{
    char *dir = g_path_get_dirname(beside);
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    g_free(dir);
    if (fd >= 0)
        close(fd);
    return fd >= 0 && g_file_test("/proc/self/fd", G_FILE_TEST_EXISTS);
}

/* Where nothing is replaced nothing is left. */
static void test_killed_anew(void)
{
    memsnap_snapshot *a = snap_pattern(60 * page, 1), *b = snap_pattern(60 * page, 2);
    char *path = temp_path("image");
    int left = kill_often(save_anew_for_ever, a, b, path, kill_rounds() / 3);
    if (has_nameless_files(path))
        g_assert_cmpint(left, ==, 0);
    g_free(path);
    memsnap_snapshot_unref(a);
    memsnap_snapshot_unref(b);
}

static void put_file(const char *dir, const char *name)
{
    char *path = g_build_filename(dir, name, NULL);
    g_assert_true(g_file_set_contents(path, "half", 4, NULL));
    g_free(path);
}

/* What killed saves left is removed, however much it is; what a living one holds stays, as do names
 * that only look alike. */
static void test_leftover(void)
{
    static const char *const left[] = {
        ".image.memsnap",
        ".image.memsnap-0000000000000000",
        ".image.memsnap-0123456789abcdef",
        ".image.memsnap-1111111111111111",
        ".image.memsnap-2222222222222222",
        ".image.memsnap-ffffffffffffffff",
    };
    static const char *const others[] = {
        ".image.memsnap-0123456789abcdeg",
        ".image.memsnap-0123456789abcde",
        ".image.memsnaps",
        ".images.memsnap",
        "image.memsnap",
    };
    memsnap_snapshot *s = snap_pattern(3 * page, 1);
    char *path = temp_path("image"), *dir = g_path_get_dirname(path);
    for (size_t i = 0; i < G_N_ELEMENTS(others); i++)
        put_file(dir, others[i]);
    for (int i = 0; i < 4; i++) { /* anew, over a file, and anew again */
        for (size_t k = 0; k < G_N_ELEMENTS(left); k++)
            put_file(dir, left[k]);
        assert_ok(memsnap_snapshot_save(s, path, i == 2 ? 0 : MEMSNAP_SAVE_NOSYNC));
        g_assert_cmpuint(names_beside(path), ==, 1 + G_N_ELEMENTS(others));
        if (i == 2)
            unlink(path);
    }
    g_free(dir);
    g_free(path);
    memsnap_snapshot_unref(s);
}

/* Names that a living save has stay, and so does what is no file. */
static void test_living(void)
{
    static const char *const names[] = {".image.memsnap", ".image.memsnap-0123456789abcdef"};
    memsnap_snapshot *s = snap_pattern(page, 1);
    char *path = temp_path("image"), *dir = g_path_get_dirname(path);
    int fd[2];
    for (int i = 0; i < 2; i++) {
        char *live = g_build_filename(dir, names[i], NULL);
        put_file(dir, names[i]);
        fd[i] = open(live, O_RDONLY | O_CLOEXEC);
        g_assert_cmpint(flock(fd[i], LOCK_EX | LOCK_NB), ==, 0);
        g_free(live);
    }
    put_file(dir, ".image.memsnap-0000000000000000");
    for (int i = 0; i < 2; i++) {
        assert_ok(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_NOSYNC));
        g_assert_cmpuint(names_beside(path), ==, 3);
    }
    for (int i = 0; i < 2; i++)
        close(fd[i]);
    assert_ok(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_NOSYNC));
    g_assert_cmpuint(names_beside(path), ==, 1);
    char *first = g_build_filename(dir, names[0], NULL);
    g_assert_cmpint(symlink("image", first), ==, 0);
    assert_ok(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_NOSYNC));
    g_assert_cmpuint(names_beside(path), ==, 2);
    g_free(first);
    g_free(dir);
    g_free(path);
    memsnap_snapshot_unref(s);
}

/* ---- where files have names from the start --------------------------------------------------- */

/* From now on no file can be made without a name. */
static bool forbid_nameless_files(void)
{
    size_t low = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0 : 4;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 (uint32_t)(offsetof(struct seccomp_data, args[2]) + low)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_TMPFILE & ~O_DIRECTORY, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {G_N_ELEMENTS(code), code};
    return !on_valgrind() && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 &&
           !has_nameless_files("/tmp/x");
}

static void run_with_names(void *arg)
{
    void (*const *test)(void) = arg;
    if (forbid_nameless_files())
        (*test)();
    else
        test_skip("no seccomp filters");
}

static void test_named(void)
{
    static void (*const tests[])(void) = {
        test_content,     test_refused_names,     test_longest_name, test_symbolic_link,
        test_new_mode,    test_kept_mode,         test_kept_owner,   test_file_size_limit,
        test_same_name,   test_leftover,          test_living,       test_killed,
        test_killed_anew, test_changed_meanwhile, test_chown_only,   test_directory_list,
    };
    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
        void (*test)(void) = tests[i];
        g_free(temp_path("")); /* made here, so that it is removed here */
        child_run(run_with_names, &test);
        temp_clean();
    }
}

/* Children that save forks of their own state go on after their parent changed it. */
static void save_in_child(void *arg)
{
    struct errand *e = arg;
    assert_ok(memsnap_snapshot_save(e->s, e->path, 0));
}

static void test_fork(void)
{
    unsigned char *data = pattern(MIB, 1);
    memsnap_snapshot *s = snap(data, MIB);
    char *path = temp_path("image");
    struct errand e = {s, path, 0};
    child_run(save_in_child, &e);
    assert_file(path, data, MIB);
    g_free(path);
    memsnap_snapshot_unref(s);
    g_free(data);
}

/* What the thread does, in order: 'f', 'd': a file or a directory is synced; 'l', 'r': linked,
 * renamed. */
static _Thread_local char steps[16];

static void note(char step)
{
    size_t n = strlen(steps);
    if (n + 1 < sizeof steps)
        steps[n] = step;
}

/* In place of the C library's, which programs may do. */
int fsync(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0)
        note(S_ISDIR(st.st_mode) ? 'd' : 'f');
    return (int)syscall(SYS_fsync, fd);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    note('l');
    return (int)syscall(SYS_linkat, from, old, to, new, flags);
}

int renameat(int from, const char *old, int to, const char *new)
{
    note('r');
    return (int)syscall(SYS_renameat2, from, old, to, new, 0);
}

/* The file; once more when it has a name, without which some file systems do not keep it; only then
 * it replaces anything; its directory. Or nothing is synced, if that is wished. */
static void test_synced(void)
{
    static const char *const expected[] = {"flfd", "l", "flfrd", "lr"};
    memsnap_snapshot *s = snap_pattern(20 * page, 1);
    char *path = temp_path("synced");
    bool nameless = has_nameless_files(path);
    for (int i = 0; i < 4; i++) {
        if (i == 1)
            unlink(path);
        memset(steps, 0, sizeof steps);
        assert_ok(memsnap_snapshot_save(s, path, i % 2 ? MEMSNAP_SAVE_NOSYNC : 0));
        if (nameless)
            g_assert_cmpstr(steps, ==, expected[i]);
    }
    if (!nameless)
        test_skip("this file system has no files without a name");
    g_free(path);
    memsnap_snapshot_unref(s);
}

int main(int argc, char **argv)
{
    test_need_file_size(64 * MIB);
    test_init(&argc, &argv);
    test_add("save/content", test_content, 0);
    test_add("save/child", test_child, 0);
    test_add("save/holes", test_holes, 0);
    test_add("save/stored-zeros", test_stored_zeros, 0);
    test_add("save/mapped-file", test_mapped_file, 0);
    test_add("save/live-file", test_live_file, 0);
    test_add("save/map-saved-over", test_map_saved_over, 0);
    test_add("save/arguments", test_arguments, 0);
    test_add("save/refused-names", test_refused_names, 0);
    test_add("save/relative-name", test_relative_name, 0);
    test_add("save/longest-name", test_longest_name, 0);
    test_add("save/symbolic-link", test_symbolic_link, 0);
    test_add("save/descriptor-path", test_descriptor_path, 0);
    test_add("save/changed-meanwhile", test_changed_meanwhile, 0);
    test_add("save/live-meanwhile", test_live_meanwhile, 0);
    test_add("save/exchanged", test_exchanged, 0);
    test_add("save/new-mode", test_new_mode, 0);
    test_add("save/kept-mode", test_kept_mode, 0);
    test_add("save/kept-owner", test_kept_owner, 0);
    test_add("save/lost-group", test_lost_group, 0);
    test_add("save/kept-access-list", test_kept_access_list, 0);
    test_add("save/lost-access-list", test_lost_access_list, 0);
    test_add("save/directory-list", test_directory_list, 0);
    test_add("save/chown-only", test_chown_only, 0);
    test_add("save/lost-owner", test_lost_owner, 0);
    test_add("save/locked", test_locked, 0);
    test_add("save/unwritable-directory", test_unwritable_directory, 0);
    test_add("save/file-size-limit", test_file_size_limit, 0);
    test_add("save/full-disk", test_full_disk, 0);
    test_add("save/read-only", test_read_only, 0);
    test_add("save/no-descriptors", test_no_descriptors, 0);
    test_add("save/refused-writing", test_refused_writing, 0);
    test_add("save/refused-links", test_refused_links, 0);
    test_add("save/mount-point", test_mount_point, 0);
    test_add("save/shared-blocks", test_shared_blocks, 0);
    test_add("save/mutable-view", test_mutable_view, 0);
    test_add("save/slow-device", test_slow_device, 0);
    test_add("save/same-name", test_same_name, 0);
    test_add("save/interrupted", test_interrupted, 0);
    test_add("save/killed", test_killed, 0);
    test_add("save/killed-anew", test_killed_anew, 0);
    test_add("save/leftover", test_leftover, 0);
    test_add("save/living", test_living, 0);
    test_add("save/named", test_named, 0);
    test_add("save/synced", test_synced, 0);
    test_add("save/fork", test_fork, 0);
    return g_test_run();
}
