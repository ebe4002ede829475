/* SPDX-License-Identifier: MIT */
/* Exporting: what the descriptor is, that another process adopts it without a copy, and that
 * neither side can change what the other sees, whatever it tries. */
#include "config.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/support.h"

#define ALL_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

/* Where nothing can be exported that is what is tested. */
static bool can_export(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    int fd = -77, result = memsnap_snapshot_export_fd(s, &fd);
    memsnap_snapshot_unref(s);
    if (result == 0) {
        close(fd);
        return true;
    }
    g_assert_cmpint(result, ==, -ENOTSUP);
    g_assert_cmpint(fd, ==, -77);
    g_assert_false(config_is("linux"));
    return false;
}

static int export_fd(memsnap_snapshot *s)
{
    int fd = -1;
    assert_ok(memsnap_snapshot_export_fd(s, &fd));
    g_assert_cmpint(fd, >, 2);
    return fd;
}

/* The bytes as any program sees them, and what the descriptor is. */
static void check_descriptor(int fd, const unsigned char *data, size_t size)
{
    struct stat st;
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpuint((size_t)st.st_size, ==, size);
    /* -1 has all bits set, and is what a file on disk has */
    int seals = fcntl(fd, F_GET_SEALS);
    g_assert_cmpint(seals, >=, 0);
    g_assert_cmpint(seals & ALL_SEALS, ==, ALL_SEALS);
    g_assert_cmpint(fcntl(fd, F_GETFD) & FD_CLOEXEC, ==, FD_CLOEXEC);
    g_assert_cmpint(fcntl(fd, F_GETFL) & O_ACCMODE, ==, O_RDONLY);
    g_assert_cmpint(lseek(fd, 0, SEEK_CUR), ==, 0);
    unsigned char *copy = g_malloc(size + 1);
    g_assert_cmpint(pread(fd, copy, size, 0), ==, (ssize_t)size);
    assert_same(copy, data, size);
    g_free(copy);
}

static void check_adopted(int fd, const unsigned char *data, size_t size)
{
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &s));
    assert_content(s, data, size);
    memsnap_snapshot_unref(s);
}

static void check_export(memsnap_snapshot *s, const unsigned char *data, size_t size)
{
    for (int i = 0; i < 2; i++) {
        int fd = export_fd(s);
        check_descriptor(fd, data, size);
        check_adopted(fd, data, size);
        close(fd);
        assert_content(s, data, size);
    }
}

/* ---- what is exported ------------------------------------------------------------------------ */

static void test_sizes(void)
{
    const size_t sizes[] = {
        0,           1,       page - 1,    page,         5 * page, 9 * page + 1,
        2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 77,
    };
    if (!can_export())
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        unsigned char *data = pattern(sizes[i], i);
        memsnap_snapshot *s = snap(data, sizes[i]);
        check_export(s, data, sizes[i]);
        memsnap_snapshot_unref(s);
        g_free(data);
    }
}

static void test_arguments(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1);
    int fd = 0;
    g_assert_cmpint(memsnap_snapshot_export_fd(null, &fd), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_export_fd(s, null), ==, -EINVAL);
    g_assert_cmpint(fd, ==, 0);
    memsnap_snapshot_unref(s);
}

/* The snapshot may go first. */
static void test_outlives(void)
{
    if (!can_export())
        return;
    unsigned char *data = pattern(MIB, 1);
    memsnap_snapshot *s = snap(data, MIB);
    int fd = export_fd(s);
    memsnap_snapshot_unref(s);
    check_descriptor(fd, data, MIB);
    check_adopted(fd, data, MIB);
    close(fd);
    g_free(data);
}

/* A family: the root and its children, in any order, with views of all of them open; and it goes
 * on growing. */
static void test_family(void)
{
    size_t size = 3 * MIB + 5;
    if (!can_export())
        return;
    unsigned char *old = pattern(size, 1);
    memsnap_snapshot *root = snap(old, size);
    memsnap_view *v = view(root);
    check_export(root, old, size);
    for (int i = 0; i < 4; i++) {
        fill(bytes(v) + (size_t)i * 100 * page, 3 * page, (uint64_t)i + 5);
        memset(bytes(v) + (size_t)i * 70 * page, 0, 2 * page);
        unsigned char *data = g_memdup2(bytes(v), size);
        memsnap_snapshot *s = take(v);
        memsnap_view *w = view(s);
        check_export(s, data, size);
        assert_same(bytes(w), data, size);
        check_export(root, old, size);
        memsnap_view_unref(w);
        memsnap_snapshot_unref(s);
        g_free(data);
    }
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), old, size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(root);
    g_free(old);
}

static void test_holes(void)
{
    size_t size = 256 * MIB;
    if (!can_export())
        return;
    memsnap_snapshot *s = snap_zero(size);
    memsnap_view *v = view(s);
    bytes(v)[100 * MIB] = 1;
    memsnap_snapshot *t = take(v);
    memsnap_view_unref(v);
    int fd = export_fd(t);
    struct stat st;
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpuint((size_t)st.st_size, ==, size);
    g_assert_cmpuint((size_t)st.st_blocks * 512, <=, 4 * MIB);
    close(fd);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
}

/* Whole stores cost nothing to export: no memory, the same object. */
static void test_in_place(void)
{
    size_t size = 16 * MIB;
    if (!can_export())
        return;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size), *t = NULL;
    size_t before = object_bytes();
    int one = export_fd(s), two = export_fd(s);
    struct stat a, b, c;
    g_assert_cmpint(fstat(one, &a), ==, 0);
    g_assert_cmpint(fstat(two, &b), ==, 0);
    g_assert_cmpuint(a.st_ino, ==, b.st_ino);
    assert_ok(memsnap_snapshot_new_from_fd(one, config.flags, &t));
    int three = export_fd(t);
    g_assert_cmpint(fstat(three, &c), ==, 0);
    g_assert_cmpuint(a.st_ino, ==, c.st_ino);
    g_assert_cmpuint(object_bytes(), <=, before + MIB);
    close(one);
    close(two);
    close(three);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    g_free(data);
}

/* An image that had to be copied, and that nobody shares, is a whole store from then on. */
static void test_moves_over(void)
{
    size_t size = 4 * MIB;
    if (!can_export())
        return;
    memsnap_snapshot *s = snap_zero(size);
    memsnap_view *v = view(s);
    fill(bytes(v), size / 2, 1);
    unsigned char *data = g_memdup2(bytes(v), size);
    memsnap_snapshot *t = take(v);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    size_t before = object_bytes();
    int one = export_fd(t), two = export_fd(t);
    struct stat a, b;
    g_assert_cmpint(fstat(one, &a), ==, 0);
    g_assert_cmpint(fstat(two, &b), ==, 0);
    g_assert_cmpuint(a.st_ino, ==, b.st_ino);
    g_assert_cmpuint(object_bytes(), <=, before + 2 * MIB);
    assert_content(t, data, size);
    close(one);
    close(two);
    assert_content(t, data, size);
    memsnap_snapshot_unref(t);
    g_free(data);
}

static void test_mapped_file(void)
{
    size_t size = MIB + 3;
    if (!can_export())
        return;
    unsigned char *data = pattern(size, 1);
    char *path = temp_file("file", data, size);
    for (unsigned flags = MEMSNAP_FILE_MAP; flags <= MEMSNAP_FILE_SHARED; flags <<= 1) {
        memsnap_snapshot *s = NULL;
        assert_ok(memsnap_snapshot_new_from_file(path, flags, &s));
        int fd = export_fd(s);
        check_descriptor(fd, data, size);
        close(fd);
        memsnap_snapshot_unref(s);
    }
    g_free(path);
    g_free(data);
}

/* ---- nobody changes what the other sees ------------------------------------------------------ */

/* The sender goes on storing. */
static void test_sender_stores(void)
{
    size_t size = 4 * MIB;
    if (!can_export())
        return;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *v = view_mut(s);
    fill(data, 10 * page, 2);
    memcpy(bytes(v), data, size);
    int fd = export_fd(s); /* the view is open, and was direct */
    memset(bytes(v), 0xaa, size);
    check_descriptor(fd, data, size);
    check_adopted(fd, data, size);
    memsnap_view_unref(v);
    v = view_mut(s); /* over a sealed object, if it was exported in place */
    g_assert_cmpuint(bytes(v)[5], ==, 0xaa);
    memset(bytes(v), 0xbb, size);
    memsnap_view_unref(v);
    int other = export_fd(s);
    memset(data, 0xbb, size);
    check_descriptor(other, data, size);
    close(other);
    memsnap_snapshot_unref(s);
    fill(data, size, 1);
    fill(data, 10 * page, 2);
    check_adopted(fd, data, size);
    close(fd);
    g_free(data);
}

/* Everything that might change the object; none may succeed, and none may end the process. */
static void attack(int fd, size_t size)
{
    char link[64], byte = 'x';
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int again = open(link, O_RDWR | O_CLOEXEC), fds[] = {fd, again};
    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        int f = fds[i];
        if (f < 0)
            continue;
        g_assert_cmpint(write(f, &byte, 1), ==, -1);
        g_assert_cmpint(pwrite(f, &byte, 1, (off_t)size), ==, -1);
        g_assert_cmpint(ftruncate(f, 0), ==, -1);
        g_assert_cmpint(ftruncate(f, (off_t)size + 1), ==, -1);
        g_assert_cmpint(fallocate(f, 0, 0, (off_t)size + (off_t)page), ==, -1);
        g_assert_cmpint(fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)page),
                        ==, -1);
        g_assert_cmpint(fcntl(f, F_ADD_SEALS, F_SEAL_WRITE), ==, -1);
        g_assert_true(mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0) == MAP_FAILED);
        void *p = mmap(NULL, page, PROT_READ, MAP_SHARED, f, 0);
        if (p != MAP_FAILED)
            g_assert_cmpint(mprotect(p, page, PROT_READ | PROT_WRITE), ==, -1);
        p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, f, 0);
        g_assert_true(p != MAP_FAILED);
        memset(p, 0xff, page); /* its own copy */
    }
    g_assert_cmpint(truncate(link, 0), ==, -1);
    again = open(link, O_WRONLY | O_TRUNC | O_CLOEXEC);
    g_assert_true(again < 0 || write(again, &byte, 1) < 0);
}

struct peer {
    int socket;
    size_t size;
};

static int receive(int socket)
{
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof control};
    int fd;
    g_assert_cmpint(recvmsg(socket, &m, MSG_CMSG_CLOEXEC), ==, 1);
    g_assert_nonnull(CMSG_FIRSTHDR(&m));
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

static void give(int socket, int fd)
{
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                          .cmsg_type = SCM_RIGHTS,
                          .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    g_assert_cmpint(sendmsg(socket, &m, 0), ==, 1);
}

/* The receiver's own writing stays its own; the attacks fail; what it sees is what was sent,
 * after the sender's stores, too. */
static void hostile_peer(const struct peer *p)
{
    unsigned char *data = pattern(p->size, 1);
    memsnap_snapshot *s = NULL;
    int fd = receive(p->socket);
    char byte = 0;
    assert_ok(memsnap_snapshot_new_from_fd(fd, config.flags, &s));
    assert_content(s, data, p->size);
    memsnap_view *v = view(s);
    memset(bytes(v), 1, p->size);
    memsnap_view *m = view_mut(s);
    memset(bytes(m), 2, p->size);
    attack(fd, p->size);
    g_assert_cmpint(write(p->socket, &byte, 1), ==, 1); /* now the sender stores */
    g_assert_cmpint(read(p->socket, &byte, 1), ==, 1);
    check_descriptor(fd, data, p->size);
    memsnap_view_unref(v);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_free(data);
}

static pid_t start_peer(int socket, size_t size)
{
    struct peer p = {socket, size};
    fflush(stdout);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid > 0)
        return pid;
    hostile_peer(&p);
    child_exit(0);
}

static void check_peer(size_t size, bool in_place)
{
    int ends[2], status;
    char byte = 0;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    pid_t pid = start_peer(ends[1], size);
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *keep = view(s);
    if (!in_place) { /* another chunk in the store keeps it from being sealed */
        memset(bytes(keep), 3, page);
        memsnap_snapshot_unref(take(keep));
        memset(bytes(keep), 4, page);
    }
    memsnap_snapshot *other = take(keep);
    int fd = export_fd(s);
    give(ends[0], fd);
    g_assert_cmpint(read(ends[0], &byte, 1), ==, 1);
    assert_content(s, data, size);
    memsnap_view *v = view_mut(s);
    memset(bytes(v), 9, size);
    g_assert_cmpint(write(ends[0], &byte, 1), ==, 1);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
    check_descriptor(fd, data, size);
    memset(data, 9, size);
    assert_content(s, data, size);
    memsnap_view_unref(v);
    memsnap_view_unref(keep);
    memsnap_snapshot_unref(other);
    memsnap_snapshot_unref(s);
    close(fd);
    close(ends[0]);
    close(ends[1]);
    g_free(data);
}

static void test_hostile_peer(void)
{
    if (!can_export())
        return;
    check_peer(7 * page, true);
    check_peer(4 * MIB, true);
    check_peer(4 * MIB, false);
    check_peer(2 * MIB + 5, false);
}

/* ---- beside others --------------------------------------------------------------------------- */

static void export_in_child(void *arg)
{
    memsnap_snapshot *s = arg;
    int fd = export_fd(s);
    unsigned char *data = pattern(MIB, 1);
    check_descriptor(fd, data, MIB);
    g_free(data);
}

/* Both sides of a fork have the store's window mapped. */
static void test_fork(void)
{
    if (!can_export())
        return;
    unsigned char *data = pattern(MIB, 1);
    memsnap_snapshot *s = snap(data, MIB);
    child_run(export_in_child, s);
    check_export(s, data, MIB);
    child_run(export_in_child, s);
    memsnap_snapshot_unref(s);
    g_free(data);
}

struct worker {
    pthread_t thread;
    memsnap_snapshot *s;
    const unsigned char *data;
    size_t size;
    uint64_t seed;
};

/* Takes, which append to the store that the others want to seal. */
static void *take_often(void *arg)
{
    struct worker *w = arg;
    memsnap_view *v = view(w->s);
    for (uint64_t i = 0; i < (on_valgrind() ? 6 : 60); i++) {
        fill(bytes(v) + (i % 40) * page, 2 * page, w->seed + i);
        unsigned char *expected = g_memdup2(bytes(v), w->size), *copy = g_malloc(w->size);
        memsnap_snapshot *t = take(v);
        assert_ok(memsnap_snapshot_read(t, 0, copy, w->size));
        assert_same(copy, expected, w->size);
        memsnap_snapshot_unref(t);
        assert_ok(memsnap_view_restore(v));
        g_free(expected);
        g_free(copy);
    }
    memsnap_view_unref(v);
    return NULL;
}

static void *export_often(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < (on_valgrind() ? 4 : 40); i++) {
        int fd = export_fd(w->s);
        unsigned char *copy = g_malloc(w->size);
        g_assert_cmpint(pread(fd, copy, w->size, 0), ==, (ssize_t)w->size);
        assert_same(copy, w->data, w->size);
        g_free(copy);
        close(fd);
    }
    return NULL;
}

static void test_threads(void)
{
    size_t size = 300 * page;
    if (!can_export())
        return;
    for (int round = 0; round < (on_valgrind() ? 2 : 5); round++) {
        unsigned char *data = pattern(size, 1);
        memsnap_snapshot *s = snap(data, size);
        struct worker v[4];
        for (int i = 0; i < 4; i++) {
            v[i] = (struct worker){.s = s, .data = data, .size = size, .seed = (uint64_t)i * 1000};
            g_assert_cmpint(pthread_create(&v[i].thread, NULL, i % 2 ? take_often : export_often,
                                           &v[i]),
                            ==, 0);
        }
        for (int i = 0; i < 4; i++)
            pthread_join(v[i].thread, NULL);
        assert_content(s, data, size);
        memsnap_snapshot_unref(s);
        g_free(data);
    }
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("export/sizes", test_sizes, 0);
    test_add("export/arguments", test_arguments, 0);
    test_add("export/outlives", test_outlives, 0);
    test_add("export/family", test_family, 0);
    test_add("export/holes", test_holes, 0);
    test_add("export/in-place", test_in_place, 0);
    test_add("export/moves-over", test_moves_over, 0);
    test_add("export/mapped-file", test_mapped_file, 0);
    test_add("export/sender-stores", test_sender_stores, 0);
    test_add("export/hostile-peer", test_hostile_peer, 0);
    test_add("export/fork", test_fork, 0);
    test_add("export/threads", test_threads, 0);
    return g_test_run();
}
