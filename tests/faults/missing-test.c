/* SPDX-License-Identifier: MIT */
/* Systems that lack something: a system call, a file, a permission. The library works as well
 * without, or says that it cannot. Each test runs in a child, which loses it for good. */
#include "config.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support/support.h"

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

static void test_not_dumpable(void)
{
    child_run(not_dumpable, NULL);
}

/* The same after the library has used the pagemap in the same process: it may go on with the
 * descriptor that it has. */
static void became_not_dumpable(void *arg)
{
    (void)arg;
    exercise(100 * page);
    not_dumpable(&page);
}

static void test_became_not_dumpable(void)
{
    child_run(became_not_dumpable, NULL);
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

static void no_memfd(void *arg)
{
    if (!deny(SYS_memfd_create, -1, 0, *(const int *)arg)) {
        test_skip("no system call filters");
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

#ifdef SYS_userfaultfd
static void no_userfaultfd(void *arg)
{
    (void)arg;
    if (!deny(SYS_userfaultfd, -1, 0, EPERM) ||
        !deny(SYS_ioctl, 1, 0xAA00 /* USERFAULTFD_IOC_NEW */, EPERM)) {
        test_skip("no system call filters");
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

static void no_pagemap_scan(void *arg)
{
    const uint32_t pagemap_scan = _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, 96);
    (void)arg;
    if (!deny(SYS_ioctl, 1, pagemap_scan, ENOTTY)) {
        test_skip("no system call filters");
        return;
    }
    exercise_sizes();
    g_assert_cmpstr(source_in_use(), !=, "pagemap-scan");
}

static void test_no_pagemap_scan(void)
{
    child_run(no_pagemap_scan, NULL);
}

static void no_collapse(void *arg)
{
    (void)arg;
    /* The advice is the third argument; with the call as a whole forbidden nothing of it can be
     * needed. */
    if (!deny(SYS_madvise, -1, 0, EINVAL)) {
        test_skip("no system call filters");
        return;
    }
    exercise_sizes();
    memsnap_snapshot *s = NULL;
    unsigned char *data = pattern(4 * MIB, 1);
    int r = memsnap_snapshot_new(data, 4 * MIB, config.flags | MEMSNAP_HUGE_REQUIRE, &s);
    g_assert_cmpint(r, ==, -ENOTSUP);
    g_free(data);
}

static void test_no_collapse(void)
{
    if (on_valgrind() || on_sanitizer()) {
        test_skip("others need the call");
        return;
    }
    child_run(no_collapse, NULL);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("not-dumpable", test_not_dumpable, 0);
    test_add("became-not-dumpable", test_became_not_dumpable, 0);
    test_add("no-proc", test_no_proc, 0);
    test_add("no-memfd", test_no_memfd, 0);
    test_add("no-userfaultfd", test_no_userfaultfd, 0);
    test_add("no-pagemap-scan", test_no_pagemap_scan, 0);
    test_add("no-collapse", test_no_collapse, 0);
    return g_test_run();
}
