/* Limits, filters and forks that a server meets, made for real: each in a forked child, because
 * most cannot be taken back.
 *
 *     limit-test [--size MIB] [-p ...]         how large the fragmented image is (default 64) */
#include "config.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/support.h"

static size_t fragmented_size = 64 * MIB;

static void limit(int which, size_t value)
{
    struct rlimit l;
    g_assert_cmpint(getrlimit((__rlimit_resource_t)which, &l), ==, 0);
    l.rlim_cur = least(l.rlim_max, value);
    g_assert_cmpint(setrlimit((__rlimit_resource_t)which, &l), ==, 0);
}

/* All that one does with a snapshot, with contents checked. */
static void exercise(size_t size)
{
    unsigned char *data = pattern(size, 1), *model = g_memdup2(data, size);
    size_t cursor = 0;
    struct memsnap_range r;
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *v = view(s);
    assert_same(bytes(v), data, size);
    for (size_t at = size / 2; at < size; at += size / 4)
        model[at] = bytes(v)[at] = (unsigned char)(data[at] + 1);
    g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 1);
    g_assert_cmpuint(r.offset, ==, size / 2 / page * page);
    memsnap_snapshot *t = take(v);
    assert_content(t, model, size);
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), data, size);
    assert_ok(memsnap_view_restore_to(v, t));
    assert_same(bytes(v), model, size);
    memsnap_view *m = view_mut(s);
    bytes(m)[0] = data[0] = 1;
    assert_content(s, data, size);
    bytes(m)[1] = data[1] = 2;
    memsnap_view_unref(m);
    assert_content(s, data, size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    g_free(data);
    g_free(model);
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
    if (on_valgrind() || on_sanitizer()) {
        test_skip("needs all mappings for itself");
        return;
    }
    if (max_mappings() == 0 || max_mappings() > 300000) {
        test_skip("the system's limit of mappings is unknown, or too high to reach");
        return;
    }
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

/* ---- what is missing ------------------------------------------------------------------------- */

static const char *source_in_use(void)
{
    memsnap_snapshot *s = snap_pattern(64 * page, 1);
    memsnap_view *v = view(s);
    bytes(v)[5 * page] ^= 1;
    memsnap_snapshot_unref(take(v));
    const char *source = view_stats(v).dirty_source;
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    return source;
}

static void exercise_sizes(void)
{
    exercise(3 * page);
    exercise(100 * page + 5);
    exercise(2 * MIB + 5);
}

static void not_dumpable(void *arg)
{
    if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0)) {
        test_skip("cannot drop root's privileges");
        return;
    }
    g_assert_cmpint(prctl(PR_SET_DUMPABLE, 0), ==, 0);
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        test_skip("the pagemap can be read all the same");
        return;
    }
    exercise_sizes();
    if (!arg)
        g_assert_cmpstr(source_in_use(), ==, "compare");
}

/* The same after the library has used the pagemap in the same process: it may go on with the
 * descriptor that it has. */
static void became_not_dumpable(void *arg)
{
    (void)arg;
    exercise(100 * page);
    not_dumpable(&page);
}

static void no_proc(void *arg)
{
    const char *dir = arg;
    if (chdir(dir) < 0 || chroot(".") < 0) {
        test_skip("cannot change the root directory");
        return;
    }
    exercise_sizes();
}

/* Makes system call nr fail with error; where `word` is not 0, only if its second argument is
 * that. */
static bool forbid(long nr, uint32_t word, int error)
{
    const size_t low = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0 : 4;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 (uint32_t)(offsetof(struct seccomp_data, args[1]) + low)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    if (word == 0)
        code[3].jf = 0; /* whatever the argument is */
    struct sock_fprog prog = {.len = G_N_ELEMENTS(code), .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

static void no_memfd(void *arg)
{
    if (!forbid(SYS_memfd_create, 0, *(const int *)arg)) {
        test_skip("no seccomp filters");
        return;
    }
    g_assert_cmpint(memfd_create("x", MFD_CLOEXEC), <, 0);
    exercise_sizes();
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    const char *backend = snap_stats(s).backend;
    g_assert_nonnull(backend);
    g_assert_cmpstr(backend, !=, "memfd");
    memsnap_snapshot_unref(s);
}

#ifdef SYS_userfaultfd
static void no_userfaultfd(void *arg)
{
    (void)arg;
    if (!forbid(SYS_userfaultfd, 0, EPERM)) {
        test_skip("no seccomp filters");
        return;
    }
    exercise_sizes();
    memsnap_snapshot *s = snap_pattern(100 * page, 1), *t = UNTOUCHED;
    memsnap_view *v = view(s);
    bytes(v)[0] ^= 1;
    assert_refused(memsnap_view_take_snapshot(v, MEMSNAP_TAKE_ATOMIC, &t), -ENOTSUP, t);
    memsnap_snapshot_unref(take(v));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}
#endif

static void no_pagemap_scan(void *arg)
{
    const uint32_t pagemap_scan = _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, 96);
    (void)arg;
    if (!forbid(SYS_ioctl, pagemap_scan, ENOTTY)) {
        test_skip("no seccomp filters");
        return;
    }
    exercise_sizes();
    g_assert_cmpstr(source_in_use(), !=, "pagemap-scan");
}

static void no_collapse(void *arg)
{
    (void)arg;
    /* The advice is the third argument; with the call as a whole forbidden nothing of it can be
     * needed. */
    if (!forbid(SYS_madvise, 0, EINVAL)) {
        test_skip("no seccomp filters");
        return;
    }
    exercise_sizes();
    memsnap_snapshot *s = NULL;
    unsigned char *data = pattern(4 * MIB, 1);
    int r = memsnap_snapshot_new(data, 4 * MIB, config.flags | MEMSNAP_HUGE_REQUIRE, &s);
    g_assert_cmpint(r, ==, -ENOTSUP);
    g_free(data);
}

static void test_not_dumpable(void)
{
    child_run(not_dumpable, NULL);
}

static void test_became_not_dumpable(void)
{
    child_run(became_not_dumpable, NULL);
}

static void test_no_proc(void)
{
    char *dir = temp_path("root");
    if (config_is("posix")) {
        test_skip("this backend needs a directory for its files");
        g_free(dir);
        return;
    }
    g_assert_cmpint(mkdir(dir, 0700), ==, 0);
    child_run(no_proc, dir);
    g_free(dir);
}

static void test_no_memfd(void)
{
    const int errors[] = {EPERM, ENOSYS, EACCES, EINVAL};
    if (on_valgrind()) {
        test_skip("valgrind's system calls are not ours");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++)
        child_run(no_memfd, (void *)(uintptr_t)&errors[i]);
}

static void test_no_userfaultfd(void)
{
#ifdef SYS_userfaultfd
    if (!on_valgrind()) {
        child_run(no_userfaultfd, NULL);
        return;
    }
#endif
    test_skip("no userfaultfd to forbid");
}

static void test_no_pagemap_scan(void)
{
    child_run(no_pagemap_scan, NULL);
}

static void test_no_collapse(void)
{
    if (on_valgrind() || on_sanitizer()) {
        test_skip("others need the call");
        return;
    }
    child_run(no_collapse, NULL);
}

/* ---- fork ------------------------------------------------------------------------------------ */

struct family {
    size_t size;
    unsigned char *data, *view_data, *m_data;
    memsnap_snapshot *s, *t, *m, *tiny;
    memsnap_view *v, *writer;
};

static void family_check(const struct family *f)
{
    assert_content(f->s, f->data, f->size);
    assert_content(f->t, f->view_data, f->size);
    assert_content(f->m, f->m_data, f->size);
    assert_content(f->tiny, f->data, 100);
    assert_same(bytes(f->v), f->view_data, f->size);
}

/* Takes, restores, frees, makes new ones: with `seed` deciding what is stored, so that the two
 * sides differ. */
static void family_work(struct family *f, uint64_t seed)
{
    struct rng rng = {seed};
    for (int i = 0; i < 6; i++) {
        memsnap_view *v = view(i & 1 ? f->s : f->m);
        unsigned char *model = g_memdup2(i & 1 ? f->data : f->m_data, f->size);
        assert_same(bytes(v), model, f->size);
        for (int k = 0; k < 9; k++) {
            size_t at = rng_below(&rng, f->size);
            model[at] = bytes(v)[at] = (unsigned char)rng_next(&rng);
        }
        memsnap_snapshot *t = take(v);
        assert_ok(memsnap_view_restore(v));
        memsnap_view_unref(v);
        memsnap_view *m = view_mut(f->m);
        for (int k = 0; k < 9; k++) {
            size_t at = rng_below(&rng, f->size);
            f->m_data[at] = bytes(m)[at] = (unsigned char)rng_next(&rng);
        }
        memsnap_view_unref(m);
        assert_content(t, model, f->size);
        memsnap_snapshot_unref(f->t);
        f->t = t;
        memcpy(f->view_data, model, f->size);
        assert_ok(memsnap_view_restore_to(f->v, t));
        g_free(model);
        memsnap_snapshot *fresh = snap_pattern(30 * page, rng_next(&rng));
        memsnap_snapshot_unref(fresh);
        family_check(f);
    }
}

static void family_free(struct family *f)
{
    memsnap_view_unref(f->v);
    memsnap_snapshot_unref(f->s);
    memsnap_snapshot_unref(f->t);
    memsnap_snapshot_unref(f->m);
    memsnap_snapshot_unref(f->tiny);
    g_free(f->data);
    g_free(f->view_data);
    g_free(f->m_data);
}

static struct family family_new(size_t size)
{
    struct family f = {.size = size,
                       .data = pattern(size, 1),
                       .view_data = pattern(size, 1),
                       .m_data = pattern(size, 2)};
    f.s = snap(f.data, size);
    f.m = snap(f.m_data, size);
    f.tiny = snap(f.data, 100);
    f.v = view(f.s);
    memset(bytes(f.v) + page, 1, 5 * page);
    memset(f.view_data + page, 1, 5 * page);
    f.t = take(f.v);
    memsnap_view *m = view_mut(f.m);
    memset(bytes(m) + page, 2, page);
    memset(f.m_data + page, 2, page);
    memsnap_view_unref(m);
    memsnap_view_unref(view(f.s)); /* parked */
    return f;
}

static void wait_for(pid_t pid)
{
    int status = -1;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

/* Both sides work at once. In even rounds the child frees all it has and exits while the parent
 * goes on; in odd rounds the parent frees all first, and the child, told so through a pipe, must
 * still find every byte. */
static void fork_rounds(void *arg)
{
    size_t size = *(const size_t *)arg;
    struct family f = family_new(size);
    for (unsigned round = 0; round < 20; round++) {
        int told[2];
        char byte = 0;
        g_assert_cmpint(pipe2(told, O_CLOEXEC), ==, 0);
        pid_t pid = fork();
        g_assert_cmpint(pid, >=, 0);
        if (pid == 0) {
            close(told[1]);
            family_check(&f);
            if (round & 1)
                /* the end of the pipe: all is freed over there */
                g_assert_cmpint(read(told[0], &byte, 1), ==, 0);
            family_work(&f, 1000 + round);
            family_free(&f);
            child_exit(0);
        }
        close(told[0]);
        if (round & 1) {
            family_free(&f);
            f = family_new(size);
            close(told[1]);
            family_work(&f, round);
            wait_for(pid);
        } else {
            family_work(&f, round);
            close(told[1]);
            wait_for(pid);
        }
        family_check(&f);
    }
    family_free(&f);
}

static void grandchildren(void *arg)
{
    struct family f = family_new(50 * page);
    const int *depth = arg;
    int deeper = *depth - 1;
    if (deeper > 0)
        child_run(grandchildren, &deeper);
    family_work(&f, (uint64_t)deeper);
    family_free(&f);
}

/* What a child has of an open mutable view: nothing, and it is told so. */
static void without_writer(void *arg)
{
    struct family *f = arg;
    memsnap_view *m = f->writer, *v = UNTOUCHED;
    memsnap_snapshot *out = UNTOUCHED;
    unsigned char buf[1];
    size_t cursor = 0;
    struct memsnap_range r;
    assert_refused(memsnap_view_take_snapshot(m, 0, &out), -EBADF, out);
    assert_refused(memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &out), -EBADF, out);
    assert_refused(memsnap_snapshot_view(f->m, 0, &v), -EBADF, v);
    assert_refused(memsnap_snapshot_view_mut(f->m, 0, &v), -EBADF, v);
    assert_refused(memsnap_snapshot_clone(f->m, &out), -EBADF, out);
    g_assert_cmpint(memsnap_snapshot_read(f->m, 0, buf, 1), ==, -EBADF);
    g_assert_cmpint(memsnap_snapshot_diff(f->m, f->s, &cursor, &r, 1), ==, -EBADF);
    g_assert_cmpint(memsnap_snapshot_diff(f->s, f->m, &cursor, &r, 1), ==, -EBADF);
    g_assert_cmpint(memsnap_view_restore(m), ==, -EBADF);
    g_assert_cmpint(memsnap_view_restore_to(m, f->s), ==, -EBADF);
    g_assert_cmpint(memsnap_view_protect(m, 0, page, MEMSNAP_ACCESS_NONE), ==, -EBADF);
    g_assert_cmpint(memsnap_view_restore_to(f->v, f->m), ==, -EBADF);
    struct memsnap_view_stats stats = {.size = sizeof stats};
    g_assert_cmpint(memsnap_view_stats(m, &stats), ==, -EBADF);
    assert_content(f->s, f->data, f->size);
    assert_same(bytes(f->v), f->view_data, f->size);
    memsnap_view_unref(m);
    family_free(f);
}

static void without_file_writer(void *arg)
{
    memsnap_snapshot *out = UNTOUCHED;
    assert_refused(memsnap_view_take_snapshot(arg, 0, &out), -EBADF, out);
    g_assert_cmpint(memsnap_view_restore(arg), ==, -EBADF);
}

/* The file is the child's as well, the lease is not. */
static void fork_with_file_writer(void *arg)
{
    memsnap_snapshot *s = NULL;
    char *path = temp_file("written", "abc", 3);
    (void)arg;
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_SHARED, &s));
    memsnap_view *m = view_mut(s);
    child_run(without_file_writer, m);
    bytes(m)[0] = 'x';
    assert_content(s, "xbc", 3);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_free(path);
}

static void fork_with_writer(void *arg)
{
    (void)arg;
    struct family f = family_new(100 * page);
    for (int frozen = 0; frozen < 2; frozen++) {
        memsnap_view *m = view_mut(f.m);
        f.writer = m;
        memset(bytes(m), 3, 10 * page);
        memset(f.m_data, 3, 10 * page);
        if (frozen)
            memsnap_snapshot_unref(snap_clone(f.m));
        memset(bytes(m) + 20 * page, 4 + frozen, page);
        memset(f.m_data + 20 * page, 4 + frozen, page);
        child_run(without_writer, &f);
        assert_same(bytes(m), f.m_data, f.size);
        memset(bytes(m) + 30 * page, 5 + frozen, page);
        memset(f.m_data + 30 * page, 5 + frozen, page);
        family_check(&f);
        memsnap_view_unref(m);
        family_check(&f);
    }
    family_free(&f);
}

/* A family whose members are of as many forks as it has stores for: then new members share a
 * store, but not with a child's. */
static void take_some(memsnap_snapshot *root, uint64_t seed, memsnap_snapshot *taken[8])
{
    for (uint64_t i = 0; i < 8; i++) {
        memsnap_view *v = view(root);
        fill(bytes(v), 32 * page, seed + i);
        taken[i] = take(v);
        memsnap_view_unref(v);
    }
}

static void check_taken(memsnap_snapshot *taken[8], uint64_t seed)
{
    unsigned char *expected = g_malloc(32 * page);
    for (uint64_t i = 0; i < 8; i++) {
        fill(expected, 32 * page, seed + i);
        assert_content(taken[i], expected, 32 * page);
        memsnap_snapshot_unref(taken[i]);
    }
    g_free(expected);
}

static void exit_at_once(void *arg)
{
    (void)arg;
}

static void many_stores(void *arg)
{
    (void)arg;
    enum { FORKS = 12 };
    memsnap_snapshot *root = snap_zero(32 * page), *kept[FORKS][8], *own[8];
    int told[2];
    for (uint64_t i = 0; i < FORKS; i++) {
        take_some(root, 10 * i, kept[i]);
        child_run(exit_at_once, NULL);
    }
    g_assert_cmpint(pipe(told), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        g_assert_cmpint(read(told[0], &byte, 1), ==, 1);
        take_some(root, 1000, own);
        check_taken(own, 1000);
        child_exit(0);
    }
    take_some(root, 2000, own);
    g_assert_cmpint(write(told[1], "", 1), ==, 1);
    wait_for(pid);
    check_taken(own, 2000);
    for (uint64_t i = 0; i < FORKS; i++)
        check_taken(kept[i], 10 * i);
    memsnap_snapshot_unref(root);
    close(told[0]);
    close(told[1]);
}

static void test_many_stores(void)
{
    child_run(many_stores, NULL);
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
    (void)arg;
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0 ||
        mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=12m") < 0) {
        test_skip("may not mount a file system");
        return;
    }
    memsnap_snapshot *s = snap(data, size), *zero = snap_zero(size), *sparse = NULL,
                     *out = UNTOUCHED;
    assert_ok(memsnap_snapshot_new_from_file(path, 0, &sparse));
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
    g_assert_cmpint(memsnap_snapshot_read(zero, 0, sparse_data, 1), ==, -ENOSPC);
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

/* Pages enough for their space to be given back to the system, not kept for use again. */
struct inherited {
    memsnap_snapshot *t;
    unsigned char *data;
    size_t size;
    int told[2]; /* a pipe: the parent has dropped it */
};

static void wait_byte(int fd)
{
    char byte;
    g_assert_cmpint(read(fd, &byte, 1), ==, 1);
}

static void check_bytes(const struct inherited *i)
{
    unsigned char *now = g_malloc(i->size);
    assert_ok(memsnap_snapshot_read(i->t, 0, now, i->size));
    assert_same(now, i->data, i->size);
    g_free(now);
}

static void outlive_parent(void *arg)
{
    wait_byte(((struct inherited *)arg)->told[0]);
    check_bytes(arg);
}

static void drop_before_parent(void *arg)
{
    memsnap_snapshot_unref(((struct inherited *)arg)->t);
}

/* What either side drops after a fork the other still has. */
static void drop_in_one(void *arg)
{
    struct inherited i = {.size = 6000 * page};
    (void)arg;
    i.data = g_malloc(i.size);
    fill(i.data, i.size, 1);
    memsnap_snapshot *zero = snap_zero(i.size);
    memsnap_view *v = view(zero);
    memcpy(bytes(v), i.data, i.size);
    i.t = take(v);
    memsnap_view_unref(v);
    child_run(drop_before_parent, &i);
    check_bytes(&i);
    g_assert_cmpint(pipe(i.told), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        outlive_parent(&i);
        child_exit(0);
    }
    memsnap_snapshot_unref(i.t);
    g_assert_cmpint(write(i.told[1], "", 1), ==, 1);
    wait_for(pid);
    close(i.told[0]);
    close(i.told[1]);
    memsnap_snapshot_unref(zero);
    g_free(i.data);
}

static void test_drop_in_one(void)
{
    if (on_valgrind()) {
        test_skip("takes too long under valgrind");
        return;
    }
    child_run(drop_in_one, NULL);
}
/* What one side stores through a mutable view after a fork the other does not see, whoever had
 * the pages to himself before. */
static void store_in_one(void *arg)
{
    struct inherited i = {.size = 100 * page};
    (void)arg;
    i.data = g_malloc(i.size);
    for (int opened_before = 0; opened_before < 2; opened_before++) {
        fill(i.data, i.size, 1);
        i.t = snap(i.data, i.size);
        if (opened_before)
            memsnap_view_unref(view_mut(i.t));
        g_assert_cmpint(pipe(i.told), ==, 0);
        pid_t pid = fork();
        if (pid == 0) {
            outlive_parent(&i);
            child_exit(0);
        }
        memsnap_view *m = view_mut(i.t);
        memset(bytes(m), 5, i.size);
        g_assert_cmpint(write(i.told[1], "", 1), ==, 1);
        wait_for(pid);
        memset(i.data, 5, i.size);
        memsnap_view_unref(m);
        check_bytes(&i);
        memsnap_snapshot_unref(i.t);
        close(i.told[0]);
        close(i.told[1]);
    }
    g_free(i.data);
}

static void test_store_in_one(void)
{
    child_run(store_in_one, NULL);
}

/* A family that lives for ever, of whose members each lives from one fork to the next but one:
 * what is dropped is given back. */
static void test_fork_and_drop(void)
{
    enum { ROUNDS = 40, SETTLED = 15, CHANGED = 32 };
    memsnap_snapshot *root = snap_pattern(100 * page, 1), *last = NULL;
    memsnap_view *v = view(root);
    size_t held = 0, open = 0;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        fill(bytes(v) + i % 3 * CHANGED * page, CHANGED * page, i);
        memsnap_snapshot *t = take(v);
        child_run(exit_at_once, NULL);
        assert_content(t, bytes(v), 100 * page);
        memsnap_snapshot_unref(last);
        last = t;
        if (i == SETTLED) {
            held = object_bytes();
            open = descriptors();
        }
    }
    g_assert_cmpuint(object_bytes(), <=, held + 4 * CHANGED * page);
    g_assert_cmpuint(descriptors(), <=, open + 1);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(last);
    memsnap_snapshot_unref(root);
}

/* A family that keeps a snapshot from before each fork does not take a descriptor for each. */
static void test_fork_and_keep(void)
{
    memsnap_snapshot *root = snap_pattern(100 * page, 1), *kept[30];
    memsnap_view *v = view(root);
    size_t open = descriptors();
    for (size_t i = 0; i < G_N_ELEMENTS(kept); i++) {
        fill(bytes(v) + i * page, page, i);
        kept[i] = take(v);
        child_run(exit_at_once, NULL);
    }
    g_assert_cmpuint(descriptors(), <=, open + 8);
    for (size_t i = 0; i < G_N_ELEMENTS(kept); i++)
        memsnap_snapshot_unref(kept[i]);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(root);
}

static void test_fork_rounds(void)
{
    const size_t sizes[] = {30 * page, 100 * page + 7, 2 * MIB + page};
    if (on_valgrind()) {
        test_skip("takes too long under valgrind");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++)
        child_run(fork_rounds, (void *)(uintptr_t)&sizes[i]);
}

static void test_grandchildren(void)
{
    int depth = 4;
    child_run(grandchildren, &depth);
}

static void test_fork_with_writer(void)
{
    child_run(fork_with_writer, NULL);
    child_run(fork_with_file_writer, NULL);
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--size") == 0) {
        fragmented_size = strtoul(argv[2], NULL, 10) * MIB;
        argv[2] = argv[0];
        argv += 2;
        argc -= 2;
    }
    test_init(&argc, &argv);
    test_add("few-descriptors", test_few_descriptors, 0);
    test_add("no-descriptors", test_no_descriptors, 0);
    test_add("standard-closed", test_standard_closed, 0);
    test_add("closed-from-behind", test_closed_from_behind, 0);
    test_add("fragmented", test_fragmented, 0);
    test_add("no-mappings", test_no_mappings, TEST_PLAIN);
    test_add("address-space", test_address_space, TEST_PLAIN);
    test_add("data-size", test_data_size, TEST_PLAIN);
    test_add("file-size", test_file_size, 0);
    test_add("file-size-mutable", test_file_size_mutable, 0);
    test_add("locked", test_locked, 0);
    test_add("not-dumpable", test_not_dumpable, 0);
    test_add("became-not-dumpable", test_became_not_dumpable, 0);
    test_add("no-proc", test_no_proc, 0);
    test_add("no-memfd", test_no_memfd, 0);
    test_add("no-userfaultfd", test_no_userfaultfd, 0);
    test_add("no-pagemap-scan", test_no_pagemap_scan, 0);
    test_add("no-collapse", test_no_collapse, 0);
    test_add("fork-rounds", test_fork_rounds, 0);
    test_add("fork-and-drop", test_fork_and_drop, 0);
    test_add("fork-and-keep", test_fork_and_keep, 0);
    test_add("many-stores", test_many_stores, 0);
    test_add("full-file-system", test_full_file_system, 0);
    test_add("store-in-one", test_store_in_one, 0);
    test_add("drop-in-one", test_drop_in_one, 0);
    test_add("grandchildren", test_grandchildren, 0);
    test_add("fork-with-writer", test_fork_with_writer, 0);
    return g_test_run();
}
