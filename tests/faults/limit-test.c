/* SPDX-License-Identifier: MIT */
/* Limits that a server meets, made for real: each in a forked child, because most cannot be taken
 * back.
 *
 *     limit-test [--size MIB] [-p ...]         how large the fragmented image is (default 64) */
#include "config.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/support.h"

static size_t fragmented_size = 64 * MIB;

static void limit(int which, size_t value)
{
    struct rlimit l;
    g_assert_cmpint(getrlimit((__rlimit_resource_t)which, &l), ==, 0);
    l.rlim_cur = ms_min(l.rlim_max, value);
    g_assert_cmpint(setrlimit((__rlimit_resource_t)which, &l), ==, 0);
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static void few_descriptors(void *arg)
{
    enum { MANY = 3000 };
    (void)arg;
    size_t size = 64 * page;
    memsnap_snapshot **all = g_new0(memsnap_snapshot *, MANY);
    limit(RLIMIT_NOFILE, 64);
    all[0] = snap_pattern(size, 1);
    memsnap_view *v = view(all[0]);
    for (size_t i = 1; i < MANY; i++) {
        memcpy(bytes(v) + i % 64 * page, &i, sizeof i);
        all[i] = take(v);
    }
    for (size_t i = 1; i < MANY; i++) {
        size_t newest = 0;
        assert_ok(memsnap_snapshot_read(all[i], i % 64 * page, &newest, sizeof newest));
        g_assert_cmpuint(newest, ==, i);
    }
    g_assert_cmpuint(descriptors(), <, 24);
    for (size_t i = 0; i < MANY; i++)
        memsnap_snapshot_unref(all[i]);
    memsnap_view_unref(v);
    g_free(all);
}

static void no_descriptors(void *arg)
{
    (void)arg;
    size_t size = 64 * page;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size), *more[80];
    memsnap_view *v = view(s);
    size_t n = 0;
    limit(RLIMIT_NOFILE, 64);
    while (dup(0) >= 0)
        continue;
    for (; n < G_N_ELEMENTS(more); n++) {
        more[n] = UNTOUCHED;
        int r = memsnap_snapshot_new(data, size, config.flags, &more[n]);
        if (r < 0) {
            assert_refused(r, -EMFILE, more[n]);
            break;
        }
        assert_content(more[n], data, size);
    }
    bytes(v)[0] ^= 1;
    memsnap_snapshot *t = take(v);
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), data, size);
    assert_content(s, data, size);
    data[0] ^= 1;
    assert_content(t, data, size);
    while (n > 0)
        memsnap_snapshot_unref(more[--n]);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    g_free(data);
}

/* Nothing of the library ends up as somebody's standard output. */
static void standard_closed(void *arg)
{
    const char *path = arg;
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    unsigned char *data = pattern(100 * page, 1);
    memsnap_snapshot *s = snap(data, 100 * page), *f = NULL, *m = NULL;
    if (memsnap_snapshot_new_from_file(path, config.flags, &f) < 0)
        child_exit(2);
    if (!config_is("heap") && memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_MAP, &m) < 0)
        child_exit(2);
    memsnap_view *v = view(s);
    bytes(v)[0] ^= 1;
    memsnap_snapshot *t = take(v);
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            child_exit(3);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(f);
    memsnap_snapshot_unref(m);
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            child_exit(4);
}

/* A call on objects whose descriptors are gone: -EBADF, or the right bytes. */
static void check_gone(memsnap_snapshot *s, const unsigned char *expected, size_t size)
{
    memsnap_view *v = UNTOUCHED;
    int r = memsnap_snapshot_view(s, 0, &v);
    if (r < 0) {
        assert_refused(r, -EBADF, v);
    } else {
        assert_same(bytes(v), expected, size);
        memsnap_view_unref(v);
    }
    unsigned char *buf = g_malloc(size);
    r = memsnap_snapshot_read(s, 0, buf, size);
    if (r < 0)
        g_assert_cmpint(r, ==, -EBADF);
    else
        assert_same(buf, expected, size);
    g_free(buf);
}

static void closed_from_behind(void *arg)
{
    enum { OTHERS = 12 };
    const char *path = arg;
    size_t size = 100 * page;
    unsigned char *data = pattern(size, 1), *changed = g_memdup2(data, size);
    memsnap_snapshot *s = snap(data, size), *u = snap(data, size), *t, *out = UNTOUCHED;
    assert_ok(memsnap_snapshot_set_recycling(s, 0));
    memsnap_view *v = view(s), *m = view_mut(u);
    bytes(v)[0] = changed[0] = 7;
    t = take(v);
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    int others[OTHERS];
    struct stat before, after;
    for (int i = 0; i < OTHERS; i++)
        others[i] = open(path, O_RDWR | O_CLOEXEC); /* under the very numbers */

    assert_same(bytes(v), changed, size);
    check_gone(s, data, size);
    check_gone(t, changed, size);
    bytes(v)[50 * page] ^= 1;
    int r = memsnap_view_take_snapshot(v, 0, &out);
    changed[50 * page] ^= 1;
    if (r < 0) {
        assert_refused(r, -EBADF, out);
    } else {
        check_gone(out, changed, size);
        memsnap_snapshot_unref(out);
    }
    r = memsnap_view_restore(v);
    if (r < 0)
        g_assert_cmpint(r, ==, -EBADF);
    assert_same(bytes(v), r < 0 ? changed : data, size);
    memset(bytes(m), 5, size);
    memset(changed, 5, size);
    out = UNTOUCHED;
    r = memsnap_view_take_snapshot(m, 0, &out);
    if (r < 0) {
        assert_refused(r, -EBADF, out);
    } else {
        check_gone(out, changed, size);
        memsnap_snapshot_unref(out);
    }
    assert_same(bytes(m), changed, size);
    exercise(100 * page); /* new ones have new descriptors */
    memsnap_view_unref(v);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(u);
    g_assert_cmpint(stat(path, &before), ==, 0);
    g_assert_cmpint(before.st_size, ==, 8);
    for (int i = 0; i < OTHERS; i++) {
        g_assert_cmpint(fstat(others[i], &after), ==, 0);
        g_assert_cmpuint(after.st_ino, ==, before.st_ino);
    }
    g_free(data);
    g_free(changed);
}

static void test_few_descriptors(void)
{
    child_run(few_descriptors, NULL);
}

static void test_no_descriptors(void)
{
    child_run(no_descriptors, NULL);
}

static void test_standard_closed(void)
{
    unsigned char *data = pattern(100 * page, 2);
    char *path = temp_file("image", data, 100 * page);
    child_run(standard_closed, path);
    g_free(path);
    g_free(data);
}

static void test_closed_from_behind(void)
{
    char *path = temp_file("innocent", "innocent", 8);
    child_run(closed_from_behind, path);
    char *content = NULL;
    g_assert_true(g_file_get_contents(path, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, "innocent");
    g_free(content);
    g_free(path);
}

/* ---- mappings -------------------------------------------------------------------------------- */

static size_t max_mappings(void)
{
    char *text = NULL;
    size_t n = 0;
    if (g_file_get_contents("/proc/sys/vm/max_map_count", &text, NULL, NULL))
        n = strtoul(text, NULL, 10);
    g_free(text);
    return n;
}

/* Makes n mappings, or as many as there can be, out of one of every second page. */
static char *eat_mappings(size_t n, size_t *made)
{
    size_t len = 2 * n * page;
    char *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true((void *)p != MAP_FAILED);
    size_t i = 0;
    while (i < n / 2 && mprotect(p + (4 * i + 1) * page, page, PROT_READ) == 0)
        i++;
    *made = 2 * i;
    return p;
}

static void fragmented(void *arg)
{
    enum { OPEN = 8 };
    (void)arg;
    size_t size = fragmented_size, eaten;
    unsigned char *model = pattern(size, 1);
    char *own = eat_mappings(8000, &eaten);
    g_assert_cmpuint(eaten, ==, 8000);
    memsnap_snapshot *s = snap(model, size);
    memsnap_view *v = view(s), *w[OPEN];
    for (size_t at = 0; at < size; at += 2 * page)
        model[at] = bytes(v)[at] = (unsigned char)(model[at] + 1);
    memsnap_snapshot *t = take(v);
    for (int i = 0; i < OPEN; i++) {
        w[i] = view(t);
        assert_same(bytes(w[i]), model, size);
    }
    memset(bytes(w[0]), 0, size);
    assert_ok(memsnap_view_restore(w[0]));
    assert_same(bytes(w[0]), model, size);
    assert_ok(memsnap_view_restore_to(w[1], s));
    for (int i = 0; i < OPEN; i++)
        memsnap_view_unref(w[i]);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    munmap(own, 16000 * page);
    g_free(model);
}

static void no_mappings(void *arg)
{
    (void)arg;
    size_t size = 200 * page, eaten, n = 0;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size), *big = snap_zero(4 * MIB), *out = UNTOUCHED;
    memsnap_view *v = view(s), *w[200], *refused = UNTOUCHED;
    unsigned char *buf = g_malloc(size); /* later there would be no mapping left for it */
    char *own = eat_mappings(max_mappings() + 100, &eaten);
    size_t own_size = 2 * (max_mappings() + 100) * page;
    g_assert_cmpuint(eaten, <, max_mappings());

    int r = 0;
    while (n < G_N_ELEMENTS(w) && (r = memsnap_snapshot_view(n & 1 ? big : s, 0, &w[n])) == 0)
        n++;
    g_assert_cmpint(r, ==, -EMLINK);
    assert_refused(memsnap_snapshot_view(s, MEMSNAP_VIEW_COPY, &refused), -EMLINK, refused);
    assert_same(bytes(v), data, size);
    for (size_t at = 0; at < size; at += 3 * page)
        bytes(v)[at] ^= 1;
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), data, size);
    assert_ok(memsnap_snapshot_read(s, 0, buf, size));
    assert_same(buf, data, size);
    bytes(v)[page] ^= 1;
    r = memsnap_view_take_snapshot(v, 0, &out);
    memcpy(buf, data, size);
    buf[page] ^= 1;
    if (r < 0)
        assert_refused(r, -EMLINK, out);
    r = r < 0 ? r : memsnap_snapshot_read(out, 0, data, size);
    if (r == 0)
        assert_same(data, buf, size);
    munmap(own, own_size); /* work goes on */
    if ((void *)out != UNTOUCHED)
        memsnap_snapshot_unref(out);
    out = take(v);
    assert_content(out, buf, size);
    exercise(size);
    while (n > 0)
        memsnap_view_unref(w[--n]);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(out);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(big);
    g_free(buf);
    g_free(data);
}

/* What is parked gives way. */
static void parked_at_the_limit(void *arg)
{
    (void)arg;
    enum { PARKED = 100 };
    size_t size = 20 * page, eaten;
    memsnap_snapshot *s = snap_pattern(size, 1), *big = snap_zero(4 * MIB), *t = NULL;
    memsnap_view *v[PARKED], *w = view(big);
    assert_ok(memsnap_snapshot_set_recycling(s, PARKED));
    for (int i = 0; i < PARKED; i++)
        v[i] = view(s);
    for (int i = 0; i < PARKED; i++)
        memsnap_view_unref(v[i]);
    size_t own_size = 2 * (max_mappings() + 100) * page;
    char *own = eat_mappings(max_mappings() + 100, &eaten);
    bytes(w)[5] = 1;
    assert_ok(memsnap_snapshot_view(big, 0, &v[0]));
    assert_ok(memsnap_view_protect(w, 8 * page, page, MEMSNAP_ACCESS_READ));
    assert_ok(memsnap_view_take_snapshot(w, 0, &t));
    munmap(own, own_size);
    g_assert_cmpuint(snap_stats(s).parked_views, <, PARKED);
    memsnap_view_unref(v[0]);
    memsnap_view_unref(w);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(big);
    memsnap_snapshot_unref(t);
}

static bool can_look(int pipe, const void *p)
{
    return write(pipe, p, 1) == 1;
}

/* A take looks at pages that nobody may look at, and needs a mapping for what it stores. The
 * mappings that were those pages' are not for that. */
static void protected_at_the_limit(void *arg)
{
    (void)arg;
    size_t size = 200 * page, eaten;
    int ends[2];
    memsnap_snapshot *s = snap_zero(size), *t = NULL;
    memsnap_view *v = view(s);
    g_assert_cmpint(pipe(ends), ==, 0);
    memset(bytes(v) + 100 * page, 1, 40 * page);
    assert_ok(memsnap_view_protect(v, 10 * page, 10 * page, MEMSNAP_ACCESS_NONE));
    assert_ok(memsnap_view_protect(v, 20 * page, 3 * page, MEMSNAP_ACCESS_READ));
    assert_ok(memsnap_view_protect(v, 23 * page, 8 * page, MEMSNAP_ACCESS_NONE));
    size_t own_size = 2 * (max_mappings() + 100) * page;
    char *own = eat_mappings(max_mappings() + 100, &eaten);
    int r = memsnap_view_take_snapshot(v, 0, &t);
    munmap(own, own_size);
    for (size_t p = 0; p < 40; p++) {
        bool hidden = (p >= 10 && p < 20) || (p >= 23 && p < 31);
        bool can = can_look(ends[1], bytes(v) + p * page);
        if (hidden || r == 0)
            g_assert_cmpint(can, ==, !hidden);
    }
    memsnap_snapshot_unref(t);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    close(ends[0]);
    close(ends[1]);
}

static bool limit_is_in_reach(void)
{
    if (on_valgrind() || on_sanitizer())
        test_skip("needs all mappings for itself");
    else if (max_mappings() == 0 || max_mappings() > 300000)
        test_skip("the system's limit of mappings is unknown, or too high to reach");
    else
        return true;
    return false;
}

static void test_parked_at_the_limit(void)
{
    if (!limit_is_in_reach())
        return;
    if (config_is("heap"))
        test_skip("views of heap memory that lie side by side are one mapping");
    else if (can_recycle())
        child_run(parked_at_the_limit, NULL);
    else
        test_skip("nothing tells whether a mapping is as it was");
}

static void test_protected_at_the_limit(void)
{
    if (limit_is_in_reach())
        child_run(protected_at_the_limit, NULL);
}

static void test_fragmented(void)
{
    if (on_valgrind()) {
        test_skip("valgrind has mappings of its own");
        return;
    }
    child_run(fragmented, NULL);
}

static void test_no_mappings(void)
{
    if (limit_is_in_reach())
        child_run(no_mappings, NULL);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void address_space(void *arg)
{
    int which = *(const int *)arg;
    size_t size = 100 * page, large = 256 * MIB;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size), *z = snap_zero(large), *out = UNTOUCHED;
    memsnap_view *v = view(s), *refused = UNTOUCHED;
    limit(which, resident(which == RLIMIT_AS ? "VmSize" : "VmData") + 32 * MIB);
    assert_refused(memsnap_snapshot_view(z, 0, &refused), -ENOMEM, refused);
    int r = memsnap_snapshot_view_mut(z, 0, &refused); /* shared memory is no data */
    if (r == 0 && which == RLIMIT_DATA)
        memsnap_view_unref(refused);
    else
        assert_refused(r, -ENOMEM, refused);
    if (which == RLIMIT_AS && config_is("heap"))
        assert_refused(memsnap_snapshot_new(data, size + large, config.flags, &out), -ENOMEM, out);
    bytes(v)[page] ^= 1;
    memsnap_snapshot_unref(take(v));
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), data, size);
    exercise(size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(z);
    g_free(data);
}

/* -EFBIG, and no signal; or the bytes are kept elsewhere. */
static void file_size(void *arg)
{
    (void)arg;
    size_t small = 50 * page, large = 4 * MIB, cursor = 0;
    unsigned char *data = pattern(large, 1);
    struct memsnap_range range;
    memsnap_snapshot *s = snap(data, small), *out = UNTOUCHED, *z = snap_zero(large);
    memsnap_view *v = view(s), *w = view(z);
    limit(RLIMIT_FSIZE, 300 * KIB);
    int r = memsnap_snapshot_new(data, large, config.flags, &out);
    if (r < 0) {
        assert_refused(r, -EFBIG, out);
    } else {
        assert_content(out, data, large);
        memsnap_snapshot_unref(out);
    }
    memcpy(bytes(w), data, large);
    out = UNTOUCHED;
    r = memsnap_view_take_snapshot(w, 0, &out);
    if (r < 0) {
        assert_refused(r, -EFBIG, out);
    } else {
        assert_content(out, data, large);
        memsnap_snapshot_unref(out);
    }
    assert_same(bytes(w), data, large);
    g_assert_cmpint(memsnap_view_dirty(w, &cursor, &range, 1), ==, 1);
    g_assert_cmpuint(range.len, ==, large);
    assert_content(s, data, small);
    limit(RLIMIT_FSIZE, RLIM_INFINITY);
    out = take(w);
    assert_content(out, data, large);
    memsnap_snapshot_unref(out);
    memsnap_view_unref(v);
    memsnap_view_unref(w);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(z);
    g_free(data);
}

/* A mutable view that grows into an object meets the limit when it is opened, or when it is
 * collected: never in a store. */
static void file_size_mutable(void *arg)
{
    (void)arg;
    size_t size = 4 * MIB;
    unsigned char *data = pattern(size, 1), *zero = g_malloc0(size);
    memsnap_snapshot *z = snap_zero(size);
    memsnap_view *m = UNTOUCHED;
    limit(RLIMIT_FSIZE, 300 * KIB);
    int r = memsnap_snapshot_view_mut(z, 0, &m);
    if (r < 0) {
        assert_refused(r, -EFBIG, m);
        assert_content(z, zero, size);
    } else {
        memcpy(bytes(m), data, size);
        memsnap_view_unref(m);
        limit(RLIMIT_FSIZE, RLIM_INFINITY);
        assert_content(z, data, size);
    }
    memsnap_snapshot_unref(z);
    g_free(data);
    g_free(zero);
}

static void locked(void *arg)
{
    (void)arg;
    if (mlockall(MCL_FUTURE) < 0) {
        test_skip("mlockall is forbidden here");
        return;
    }
    void *p = mmap(NULL, 32 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        test_skip("too little memory may be locked");
        return;
    }
    munmap(p, 32 * MIB);
    exercise(3 * page);
    exercise(100 * page);
    exercise(3 * MIB);
    memsnap_snapshot *s = snap_pattern(MIB, 1);
    unsigned char *data = pattern(MIB, 1);
    for (int i = 0; i < 50; i++) {
        memsnap_view *v = view(s);
        assert_same(bytes(v), data, MIB);
        memset(bytes(v), i, MIB);
        if (i & 1)
            assert_ok(memsnap_view_restore(v));
        memsnap_view_unref(v);
    }
    memsnap_snapshot_unref(s);
    g_free(data);
}

static void test_address_space(void)
{
    int which = RLIMIT_AS;
    if (on_valgrind() || on_sanitizer()) {
        test_skip("the address space is not ours alone");
        return;
    }
    child_run(address_space, &which);
}

static void test_data_size(void)
{
    int which = RLIMIT_DATA;
    if (on_valgrind() || on_sanitizer()) {
        test_skip("the address space is not ours alone");
        return;
    }
    child_run(address_space, &which);
}

static void test_file_size(void)
{
    child_run(file_size, NULL);
}

static void test_file_size_mutable(void)
{
    child_run(file_size_mutable, NULL);
}

static void test_locked(void)
{
    if (on_valgrind() || on_sanitizer()) {
        test_skip("more memory than it may lock");
        return;
    }
    child_run(locked, NULL);
}

/* ---- a full file system under temporary files ------------------------------------------------ */

static int fill_up(const char *path)
{
    static const char block[4096] = {1};
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    while (write(fd, block, sizeof block) > 0)
        ;
    g_assert_cmpint(errno, ==, ENOSPC);
    return fd;
}

/* A file with bytes at both ends and a hole between them. */
static char *sparse_file(unsigned char *data, size_t size)
{
    memset(data, 0, size);
    fill(data, page, 1);
    fill(data + size - page, page, 2);
    char *path = temp_file("sparse", data, page);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(pwrite(fd, data + size - page, page, (off_t)(size - page)), ==, (ssize_t)page);
    close(fd);
    return path;
}

/* No store and no look raises SIGBUS; what needs room is told that there is none, and what is
 * there stays. */
static void full_file_system(void *arg)
{
    size_t size = 4 * MIB;
    unsigned char *data = pattern(size, 1), *sparse_data = g_malloc(size);
    char *path = sparse_file(sparse_data, size);
    int sparse_fd = open(path, O_RDONLY | O_CLOEXEC); /* the mounts hide the path */
    (void)arg;
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0 ||
        mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=12m") < 0 ||
        mount("/dev/shm", "/var/tmp", "none", MS_BIND, "") < 0 ||
        mount("/dev/shm", "/tmp", "none", MS_BIND, "") < 0) {
        test_skip("may not mount a file system");
        return;
    }
    memsnap_snapshot *s = snap(data, size), *zero = snap_zero(size), *sparse = NULL,
                     *out = UNTOUCHED;
    assert_ok(memsnap_snapshot_new_from_fd(sparse_fd, 0, &sparse));
    int fd = fill_up("/dev/shm/full");
    memsnap_view *v = view(sparse), *m;
    assert_same(bytes(v), sparse_data, size);
    memset(bytes(v), 3, size); /* private memory is not the file system's */
    assert_refused(memsnap_view_take_snapshot(v, 0, &out), -ENOSPC, out);
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), sparse_data, size);
    assert_refused(memsnap_snapshot_new(data, size, 0, &out), -ENOSPC, out);
    /* a shadow, because there is no room for pages of its own */
    m = view_mut(zero);
    memcpy(bytes(m), data, size);
    assert_refused(memsnap_snapshot_clone(zero, &out), -ENOSPC, out);
    assert_same(bytes(m), data, size);
    memsnap_view_unref(m);
    assert_refused(memsnap_snapshot_clone(zero, &out), -ENOSPC, out);
    assert_ok(memsnap_snapshot_read(zero, 0, sparse_data, size)); /* needs no room */
    assert_same(sparse_data, data, size);
    assert_content(s, data, size);
    g_assert_cmpint(ftruncate(fd, 0), ==, 0); /* room again */
    assert_content(zero, data, size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(zero);
    memsnap_snapshot_unref(sparse);
    close(fd);
    g_free(path);
    g_free(data);
    g_free(sparse_data);
}

static void test_full_file_system(void)
{
    if (!config_is("posix") || on_valgrind())
        test_skip("pages are not kept in temporary files");
    else
        child_run(full_file_system, NULL);
}

int main(int argc, char **argv)
{
    fragmented_size = test_number(&argc, argv, "--size", fragmented_size / MIB) * MIB;
    test_init(&argc, &argv);
    test_add("few-descriptors", test_few_descriptors, 0);
    test_add("no-descriptors", test_no_descriptors, 0);
    test_add("standard-closed", test_standard_closed, 0);
    test_add("closed-from-behind", test_closed_from_behind, 0);
    test_add("fragmented", test_fragmented, 0);
    test_add("no-mappings", test_no_mappings, TEST_PLAIN);
    test_add("parked-at-the-limit", test_parked_at_the_limit, 0);
    test_add("protected-at-the-limit", test_protected_at_the_limit, 0);
    test_add("address-space", test_address_space, TEST_PLAIN);
    test_add("data-size", test_data_size, TEST_PLAIN);
    test_add("file-size", test_file_size, 0);
    test_add("file-size-mutable", test_file_size_mutable, 0);
    test_add("locked", test_locked, 0);
    test_add("full-file-system", test_full_file_system, 0);
    return g_test_run();
}
