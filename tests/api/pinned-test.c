/* SPDX-License-Identifier: MIT */
/* Views whose pages somebody has pinned: a buffer that is registered with an io_uring, reads with
 * O_DIRECT in flight. What is stored through the pin is in the view, in what is taken afterwards,
 * and in nothing that was taken before. */
#define _GNU_SOURCE /* O_DIRECT */
#include "config.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "support/fault.h"
#include "support/support.h"

#if defined __has_include
#if __has_include(<linux/io_uring.h>) && defined SYS_io_uring_setup
#include <linux/io_uring.h>
#define HAVE_IO_URING 1
#endif
#endif

enum { PAGES = 64 };

static memsnap_view *view_pinnable(memsnap_snapshot *s)
{
    memsnap_view *m = NULL;
    assert_ok(memsnap_snapshot_view_mut(s, MEMSNAP_VIEW_PINNABLE, &m));
    return m;
}

/* ---- flags ----------------------------------------------------------------------------------- */

static void test_arguments(void)
{
    memsnap_snapshot *s = snap_pattern(3 * page, 1);
    memsnap_view *v = UNTOUCHED;
    const unsigned both = MEMSNAP_VIEW_PINNABLE | MEMSNAP_VIEW_TRACK;
    assert_refused(memsnap_snapshot_view(s, MEMSNAP_VIEW_PINNABLE, &v), -EINVAL, v);
    assert_refused(memsnap_snapshot_view_mut(s, both, &v), -EINVAL, v);
    void *at = free_address(4 * page);
    assert_refused(memsnap_snapshot_view_at(s, at, MEMSNAP_VIEW_PINNABLE, &v), -EINVAL, v);
    assert_ok(memsnap_snapshot_view_at(s, at, MEMSNAP_VIEW_PINNABLE | MEMSNAP_VIEW_MUTABLE, &v));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

/* Neither a take nor a thaw exchanges anything; takes hold what was stored, and closing loses
 * nothing. */
static void test_nothing_is_exchanged(void)
{
    size_t size = PAGES * page + 5;
    unsigned char *model = pattern(size, 1);
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *m = view_pinnable(s);
    size_t exchanged = fault_count(FAULT_MAP_OVER);
    for (size_t i = 0; i < 6; i++) {
        bytes(m)[i * 7 * page] = model[i * 7 * page] = (unsigned char)(i + 1);
        memsnap_snapshot *t = i & 1 ? snap_clone(s) : take(m);
        assert_content(t, model, size);
        memsnap_snapshot_unref(t);
        g_assert_cmpint(memsnap_view_thaw(m, 0, SIZE_MAX), ==, -ENOTSUP);
    }
    g_assert_cmpuint(fault_count(FAULT_MAP_OVER), ==, exchanged);
    memsnap_view_unref(m);
    assert_content(s, model, size);
    memsnap_snapshot_unref(s);
    g_free(model);
}

/* ---- a registered buffer --------------------------------------------------------------------- */

#ifdef HAVE_IO_URING

struct ring {
    int fd;
    unsigned char *queue;
    size_t queue_size, entries_size;
    struct io_uring_sqe *entries;
    struct io_uring_params params;
    unsigned submitted;
};

static unsigned *ring_word(struct ring *r, unsigned offset)
{
    return (unsigned *)(void *)(r->queue + offset);
}

/* False: there is no io_uring here. */
static bool ring_open(struct ring *r)
{
    *r = (struct ring){.entries_size = 4 * sizeof *r->entries};
    r->fd = (int)syscall(SYS_io_uring_setup, 4, &r->params);
    if (r->fd < 0)
        return false;
    r->queue_size = r->params.sq_off.array + 4 * sizeof(unsigned);
    r->queue = mmap(NULL, r->queue_size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
                    (off_t)IORING_OFF_SQ_RING);
    r->entries = mmap(NULL, r->entries_size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
                      (off_t)IORING_OFF_SQES);
    g_assert_true(r->queue != MAP_FAILED && r->entries != MAP_FAILED);
    return true;
}

static void ring_close(struct ring *r)
{
    munmap(r->queue, r->queue_size);
    munmap(r->entries, r->entries_size);
    close(r->fd);
}

/* Reads from a descriptor into the registered buffer, and waits for it. */
static void ring_read(struct ring *r, int fd, void *to, unsigned len)
{
    unsigned at = r->submitted++ % 4;
    r->entries[at] = (struct io_uring_sqe){.opcode = IORING_OP_READ_FIXED,
                                           .fd = fd,
                                           .addr = (uintptr_t)to,
                                           .len = len,
                                           .off = UINT64_MAX};
    ring_word(r, r->params.sq_off.array)[at] = at;
    __atomic_store_n(ring_word(r, r->params.sq_off.tail), r->submitted, __ATOMIC_RELEASE);
    g_assert_cmpint(syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0), ==,
                    1);
}

static void read_registered(struct ring *r, memsnap_snapshot *s, memsnap_view *m)
{
    enum { LEN = 16 };
    unsigned char *at = bytes(m) + 3 * page, text[LEN], before[LEN];
    int ends[2];
    g_assert_cmpint(pipe(ends), ==, 0);
    for (unsigned i = 0; i < 6; i++) { /* no more: nobody takes completions from the ring */
        char byte = 0;
        memcpy(before, at, LEN);
        memsnap_snapshot *t = i & 1 ? snap_clone(s) : take(m);
        fill(text, LEN, i + 1);
        g_assert_cmpint(write(ends[1], text, LEN), ==, LEN);
        ring_read(r, ends[0], at, LEN);
        assert_same(at, text, LEN);
        at[LEN] = (unsigned char)i; /* the page is the view's still */
        memsnap_snapshot *u = take(m);
        assert_ok(memsnap_snapshot_read(t, 3 * page, text, LEN));
        assert_same(text, before, LEN);
        assert_ok(memsnap_snapshot_read(u, 3 * page, text, LEN));
        assert_same(text, at, LEN);
        assert_ok(memsnap_snapshot_read(u, 3 * page + LEN, &byte, 1));
        g_assert_cmpint(byte, ==, (char)i);
        memsnap_snapshot_unref(t);
        memsnap_snapshot_unref(u);
        g_assert_cmpint(memsnap_view_thaw(m, 0, SIZE_MAX), ==, -ENOTSUP);
    }
    close(ends[0]);
    close(ends[1]);
}

static void test_registered(void)
{
    struct ring r;
    memsnap_snapshot *s = snap_pattern(PAGES * page, 1);
    memsnap_view *m = view_pinnable(s);
    struct iovec buffer = {bytes(m) + 3 * page, page};
    if (!ring_open(&r)) {
        test_skip("no io_uring here");
    } else if (syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_BUFFERS, &buffer, 1) < 0) {
        test_skip("no buffers can be registered here");
        ring_close(&r);
    } else {
        read_registered(&r, s, m);
        ring_close(&r);
    }
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
}

#else

static void test_registered(void)
{
    test_skip("built without io_uring");
}

#endif

/* ---- O_DIRECT -------------------------------------------------------------------------------- */

/* A file of two halves, each of one byte; -1: no O_DIRECT here. */
static int open_direct(const char *path)
{
    size_t half = PAGES * page;
    unsigned char *data = g_malloc(2 * half);
    memset(data, 0xAA, half);
    memset(data + half, 0x55, half);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    g_assert_cmpint(write(fd, data, 2 * half), ==, (ssize_t)(2 * half));
    fsync(fd);
    close(fd);
    g_free(data);
    fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    unsigned char *probe = NULL;
    g_assert_cmpint(posix_memalign((void **)&probe, page, page), ==, 0);
    if (fd >= 0 && pread(fd, probe, page, 0) != (ssize_t)page) {
        close(fd);
        fd = -1;
    }
    free(probe);
    return fd;
}

struct reader {
    pthread_t thread;
    memsnap_view *v;
    int fd;
    atomic_bool stop;
    size_t rounds;
};

/* What a read has reported is in the view when it returns. */
static void *read_on(void *arg)
{
    struct reader *r = arg;
    size_t len = 16 * page;
    for (r->rounds = 0; !atomic_load(&r->stop) || r->rounds < 4; r->rounds++) {
        unsigned char *to = bytes(r->v) + r->rounds * 16 % PAGES * page;
        unsigned char byte = r->rounds & 1 ? 0x55 : 0xAA;
        off_t from = r->rounds & 1 ? (off_t)(PAGES * page) : 0;
        g_assert_cmpint(pread(r->fd, to, len, from), ==, (ssize_t)len);
        for (size_t i = 0; i < len; i += 512)
            g_assert_cmpint(to[i], ==, byte);
    }
    return NULL;
}

static void test_in_flight(void)
{
    char *path = temp_path("direct");
    int fd = open_direct(path);
    memsnap_snapshot *s = snap_zero(PAGES * page);
    struct reader r = {.v = view_pinnable(s), .fd = fd};
    unsigned char *first = g_malloc(PAGES * page), *again = g_malloc(PAGES * page);
    if (fd < 0) {
        test_skip("no O_DIRECT here");
    } else {
        g_assert_cmpint(pthread_create(&r.thread, NULL, read_on, &r), ==, 0);
        for (int i = 0; i < 40; i++) {
            memsnap_snapshot *t = take(r.v);
            assert_ok(memsnap_snapshot_read(t, 0, first, PAGES * page));
            g_assert_cmpint(memsnap_view_thaw(r.v, MEMSNAP_THAW_LIVE, 1), ==, -ENOTSUP);
            memsnap_snapshot_unref(take(r.v));
            assert_ok(memsnap_snapshot_read(t, 0, again, PAGES * page));
            assert_same(again, first, PAGES * page); /* what is taken stands still */
            memsnap_snapshot_unref(t);
        }
        atomic_store(&r.stop, true);
        pthread_join(r.thread, NULL);
        memsnap_snapshot *t = take(r.v);
        assert_content(t, bytes(r.v), PAGES * page);
        memsnap_snapshot_unref(t);
        close(fd);
    }
    memsnap_view_unref(r.v);
    memsnap_snapshot_unref(s);
    unlink(path);
    g_free(path);
    g_free(first);
    g_free(again);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("arguments", test_arguments, 0);
    test_add("nothing-is-exchanged", test_nothing_is_exchanged, TEST_SOURCES);
    test_add("registered", test_registered, TEST_PLAIN);
    test_add("in-flight", test_in_flight, TEST_PLAIN);
    return g_test_run();
}
