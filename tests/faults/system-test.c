/* SPDX-License-Identifier: MIT */
/* What the library asks of the system and what it leaves alone: memory before it is needed,
 * descriptors that are not its own, system calls that a sandbox punishes, forks at odd moments,
 * stack. Mostly in forked children, because little of it can be taken back. */
#include "config.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/support.h"

/* ---- memory ---------------------------------------------------------------------------------- */

/* Bytes of memory and blocks behind the regular files that are open: no /proc is needed. */
static size_t bytes_of_open_files(void)
{
    size_t bytes = 0;
    struct stat st;
    for (int fd = 3; fd < 64; fd++)
        if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
            bytes += (size_t)st.st_blocks * 512;
    return bytes;
}

static bool leave_proc(void)
{
    const char *empty = "/sys/kernel/debug";
    char directory[] = "/tmp/memsnap-root-XXXXXX";
    if (mkdtemp(directory))
        empty = directory;
    bool done = chroot(empty) == 0;
    if (!done && unshare(CLONE_NEWUSER) == 0)
        done = chroot(empty) == 0;
    rmdir(directory);
    return done && chdir("/") == 0;
}

/* Nothing of an image that nobody has written is taken, however large it is. */
static void use_little(void)
{
    size_t size = 256 * MIB, before = bytes_of_open_files();
    memsnap_snapshot *s = snap_zero(size);
    memsnap_view *m = view_mut(s);
    bytes(m)[size / 2] = 1;
    memsnap_snapshot *t = take(m);
    bytes(m)[size / 3] = 2;
    char c = 0;
    assert_ok(memsnap_snapshot_read(t, size / 2, &c, 1));
    g_assert_cmpint(c, ==, 1);
    g_assert_cmpuint(bytes_of_open_files(), <, before + 16 * MIB);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(s);
}

static void little_without_proc(void *arg)
{
    (void)arg;
    if (leave_proc())
        use_little();
    else
        test_skip("neither chroot nor user namespaces");
}

static void test_memory_without_proc(void)
{
    child_run(little_without_proc, NULL);
}

static void test_memory(void)
{
    use_little();
}

static bool has_memfd(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* Larger than any memory. The limit of file sizes is there so that a library that would begin
 * gets no further. */
static void ask_too_much(void *arg)
{
    (void)arg;
    struct rlimit limit;
    bool memfd = !strcmp(config.backend, "linux") && has_memfd();
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = ms_min(limit.rlim_max, GIB);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    if (!memfd && !config_is("heap")) {
        test_skip("a file system is asked, not memory");
        return;
    }
    memsnap_snapshot *s = UNTOUCHED;
    int e = memsnap_snapshot_new_zeroed((size_t)1 << 44, MEMSNAP_HUGE_REQUIRE | config.flags, &s);
    assert_refused(e, memfd ? -ENOMEM : -ENOTSUP, s);
    s = UNTOUCHED;
    size_t size = (size_t)1 << 44;
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return;
    assert_refused(memsnap_snapshot_new(p, size, config.flags, &s), -ENOMEM, s);
}

static void test_too_much(void)
{
    if (sizeof(size_t) < 8 || on_sanitizer())
        test_skip("the address space is too small");
    else
        child_run(ask_too_much, NULL);
}

static int no_object(struct os_object *o)
{
    (void)o;
    return -ENOTSUP;
}

/* Where no object can be had there are no huge pages either, and heap memory is not handed out in
 * their name. */
static void require_huge(void *arg)
{
    struct os table = *ms_os;
    size_t size = 4 * MIB;
    char *data = g_malloc0(size);
    (void)arg;
    table.object_create = no_object;
    ms_os = &table;
    memsnap_snapshot *s = UNTOUCHED;
    unsigned flags = config.flags | MEMSNAP_HUGE_REQUIRE;
    assert_refused(memsnap_snapshot_new(data, size, flags, &s), -ENOTSUP, s);
    assert_refused(memsnap_snapshot_new_zeroed(size, flags, &s), -ENOTSUP, s);
    char *path = temp_file("huge", data, size);
    assert_refused(memsnap_snapshot_new_from_file(path, flags, &s), -ENOTSUP, s);
    g_free(path);
    g_free(data);
}

static void test_require_huge(void)
{
    child_run(require_huge, NULL);
}

/* /dev/shm is as small as in a container, and another directory is not. */
static void small_shm(void *arg)
{
    (void)arg;
    size_t size = 4 * MIB;
    unsigned char *data = pattern(size, 1);
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/dev/shm", "tmpfs", 0, "size=64k") < 0) {
        test_skip("mounting takes root");
        return;
    }
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *m = view_mut(s);
    memset(bytes(m), 7, size / 2);
    memset(data, 7, size / 2);
    memsnap_snapshot *t = take(m);
    assert_content(t, data, size);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(s);
    g_free(data);
}

static void test_small_shm(void)
{
    if (config_is("posix"))
        child_run(small_shm, NULL);
    else
        test_skip("for temporary files alone");
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static atomic_bool stop;
static atomic_size_t landed;

/* The program's output, after its standard output was closed. */
static void *print(void *arg)
{
    (void)arg;
    while (!stop)
        if (write(1, "OUTPUT\n", 7) >= 0)
            atomic_fetch_add(&landed, 1);
    return NULL;
}

/* Makes whatever has a descriptor while another thread prints. */
static void *make_objects(void *arg)
{
    const char *path = arg;
    size_t size = 40 * page;
    unsigned char *data = pattern(size, 7);
    for (int i = 0; i < 300; i++) {
        memsnap_snapshot *s = snap(data, size), *f = NULL, *a = NULL;
        memsnap_view *m = view_mut(s);
        bytes(m)[i % 40 * page] ^= 1;
        memsnap_snapshot *t = take(m);
        int fd = -1;
        assert_ok(memsnap_snapshot_save(t, path, MEMSNAP_SAVE_NOSYNC));
        assert_ok(memsnap_snapshot_new_from_file(path, config.flags, &f));
        assert_content(f, bytes(m), size);
        if (memsnap_snapshot_export_fd(t, &fd) == 0)
            close(fd);
        bytes(m)[0] ^= 1;
        memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &a);
        memsnap_view_unref(m);
        memsnap_snapshot_unref(a);
        memsnap_snapshot_unref(f);
        memsnap_snapshot_unref(t);
        memsnap_snapshot_unref(s);
    }
    g_free(data);
    return NULL;
}

static void closed_output(void *arg)
{
    pthread_t printer, other;
    char *second = g_strconcat(arg, "2", NULL);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    pthread_create(&printer, NULL, print, NULL);
    pthread_create(&other, NULL, make_objects, second);
    make_objects(arg);
    pthread_join(other, NULL);
    stop = true;
    pthread_join(printer, NULL);
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            child_exit(4);
    g_free(second);
    if (landed)
        child_exit(5);
}

static void test_closed_output(void)
{
    char *path = temp_path("image");
    child_run(closed_output, path);
    g_free(path);
}

/* What stands at descriptor fd is the program's: a number that it uses again. */
static bool is_at(const char *path, int fd)
{
    struct stat a, b;
    return stat(path, &a) == 0 && fstat(fd, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

static void use_tracking(void)
{
    size_t size = 100 * page;
    memsnap_snapshot *s = snap_pattern(size, 3);
    memsnap_view *m = view_mut_tracked(s);
    bytes(m)[page] ^= 1;
    memsnap_snapshot *t = take(m);
    bytes(m)[2 * page] ^= 1;
    memsnap_snapshot *u = take(m), *a = NULL;
    memsnap_view_dirty(m, &(size_t){0}, &(struct memsnap_range){0}, 1);
    assert_content(u, bytes(m), size);
    bytes(m)[3 * page] ^= 1;
    if (memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &a) == 0)
        assert_content(a, bytes(m), size);
    memsnap_snapshot_unref(a);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(u);
    memsnap_snapshot_unref(s);
}

/* The program closes every descriptor it does not know, the library's among them, and uses their
 * numbers itself: here, and then in a forked child. */
static void reuse_numbers(void *arg)
{
    enum { LAST = 24 };
    const char *path = arg;
    use_tracking();
    for (int round = 0; round < 2; round++) {
        for (int fd = 3; fd <= LAST; fd++)
            close(fd);
        for (int fd = 3; fd <= LAST; fd++)
            if (open(path, O_RDONLY | O_CLOEXEC) != fd)
                child_exit(3);
        if (round == 1 && fork() != 0) {
            int status = 1;
            wait(&status);
            child_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
        }
        use_tracking();
        for (int fd = 3; fd <= LAST; fd++)
            if (!is_at(path, fd))
                child_exit(4);
    }
}

static bool few_descriptors(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 64;
}

static void test_reused_numbers(void)
{
    if (few_descriptors()) {
        test_skip("too few descriptors");
        return;
    }
    char *path = temp_file("innocent", "innocent", 8);
    child_run(reuse_numbers, path);
    g_free(path);
}

/* In the child of a fork the inherited number means something else. */
static void reuse_in_child(void *arg)
{
    enum { LAST = 24 };
    const char *path = arg;
    use_tracking();
    if (fork() != 0) {
        int status = 1;
        wait(&status);
        child_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    for (int fd = 3; fd <= LAST; fd++)
        close(fd);
    for (int fd = 3; fd <= LAST; fd++)
        if (open(path, O_RDONLY | O_CLOEXEC) != fd)
            child_exit(3);
    use_tracking();
    for (int fd = 3; fd <= LAST; fd++)
        if (!is_at(path, fd))
            child_exit(4);
}

static void test_reused_in_child(void)
{
    if (few_descriptors()) {
        test_skip("too few descriptors");
        return;
    }
    char *path = temp_file("innocent", "innocent", 8);
    child_run(reuse_in_child, path);
    g_free(path);
}

/* ---- files that are not what they seem ------------------------------------------------------- */

static const struct os *real;
static int sent = -1;

/* The sender makes the object shorter, and seals it, at the last moment. */
static bool shrink_and_seal(const struct os_object *o)
{
    if (ftruncate(sent, (off_t)page) == 0)
        fcntl(sent, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    return real->file_sealed(o);
}

static void adopt_shrinking(void *arg)
{
    (void)arg;
    size_t size = 8 * page;
    struct os table = *ms_os;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = UNTOUCHED;
    sent = memfd_create("sent", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (sent < 0 || write(sent, data, size) != (ssize_t)size) {
        test_skip("no memfd");
        return;
    }
    real = ms_os;
    table.file_sealed = shrink_and_seal;
    ms_os = &table;
    int e = memsnap_snapshot_new_from_fd(sent, config.flags, &s);
    if (e < 0) {
        assert_refused(e, -EIO, s);
        return;
    }
    assert_content(s, data, memsnap_snapshot_size(s)); /* whatever it says is there */
}

static void test_shrinking(void)
{
    child_run(adopt_shrinking, NULL);
}

/* Whatever snapshot can be made of a descriptor can be read and viewed. */
static void refuse_or_read(int fd, const unsigned char *data, size_t size)
{
    static const unsigned ways[] = {0, MEMSNAP_FILE_MAP, MEMSNAP_FILE_SHARED};
    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        memsnap_snapshot *s = UNTOUCHED;
        if (ways[i] && config_is("heap"))
            continue;
        int e = memsnap_snapshot_new_from_fd(fd, config.flags | ways[i], &s);
        if (e < 0) {
            assert_refused(e, -ENOTSUP, s);
            continue;
        }
        assert_content(s, data, size);
        memsnap_snapshot_unref(s);
    }
}

static void test_direct_descriptor(void)
{
    size_t size = 3 * page + 100;
    unsigned char *data = pattern(size, 4);
    char *path = temp_file("direct", data, size);
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) {
        test_skip("the file system knows no O_DIRECT");
    } else {
        refuse_or_read(fd, data, size);
        g_assert_true(fcntl(fd, F_GETFL) & O_DIRECT); /* the caller's is as it was */
        close(fd);
    }
    g_free(path);
    g_free(data);
}

static void test_secret_memory(void)
{
    int fd = -1;
    unsigned char *nothing = g_malloc0(4 * page);
#ifdef SYS_memfd_secret
    fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
#endif
    if (fd < 0 || ftruncate(fd, (off_t)(4 * page)) < 0)
        test_skip("no memfd_secret");
    else
        refuse_or_read(fd, nothing, 4 * page);
    if (fd >= 0)
        close(fd);
    g_free(nothing);
}

/* The pool is empty, as it is nearly everywhere. */
static void test_huge_file(void)
{
    unsigned char *nothing = g_malloc0(4 * page);
    int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
    if (fd < 0 || ftruncate(fd, (off_t)(16 * MIB)) < 0)
        test_skip("no hugetlbfs");
    else
        for (int i = 0; i < 2; i++) {
            memsnap_snapshot *s = UNTOUCHED;
            unsigned how = config_is("heap") ? 0 : (i ? MEMSNAP_FILE_SHARED : MEMSNAP_FILE_MAP);
            int e = memsnap_snapshot_new_from_fd(fd, config.flags | how, &s);
            if (e < 0) {
                assert_refused(e, -ENOTSUP, s);
                continue;
            }
            memsnap_view_unref(view(s));
            memsnap_snapshot_unref(s);
        }
    if (fd >= 0)
        close(fd);
    g_free(nothing);
}

static memsnap_snapshot *live_file(const char *path)
{
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_SHARED, &s));
    return s;
}

/* The rest of the last page reads as zeros in each new view, and an empty one is as any other. */
static void test_live_file_end(void)
{
    char *directory = g_strdup("/dev/shm/memsnap-end-XXXXXX");
    if (config_is("heap") || !mkdtemp(directory)) {
        test_skip("no file in memory that can be mapped");
        g_free(directory);
        return;
    }
    static const size_t sizes[] = {0, 10};
    char *path = g_build_filename(directory, "live", NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_assert_true(g_file_set_contents(path, "0123456789", (gssize)sizes[i], NULL));
        memsnap_snapshot *s = live_file(path);
        for (unsigned flags = 0; flags < 2; flags++) {
            memsnap_view *m = NULL;
            assert_ok(memsnap_snapshot_view_mut(s, flags ? MEMSNAP_VIEW_PREFAULT : 0, &m));
            g_assert_true(all_zero(bytes(m) + sizes[i], page - sizes[i]));
            memset(bytes(m) + sizes[i], 'x', page - sizes[i]);
            memsnap_view_unref(m);
        }
        assert_content(s, "0123456789", sizes[i]);
        memsnap_snapshot_unref(s);
    }
    unlink(path);
    rmdir(directory);
    g_free(path);
    g_free(directory);
}

/* ---- cancellation ---------------------------------------------------------------------------- */

struct cancelled {
    memsnap_snapshot *base, *s;
    memsnap_view *v;
    char *path;
    size_t call;
    bool returned;
};

static void ignore(int e)
{
    (void)e;
}

static void call_save(struct cancelled *c)
{
    ignore(memsnap_snapshot_save(c->s, c->path, 0));
}

static void call_from_file(struct cancelled *c)
{
    memsnap_snapshot *t = NULL;
    ignore(memsnap_snapshot_new_from_file(c->path, config.flags, &t));
    memsnap_snapshot_unref(t);
}

static void call_save_delta(struct cancelled *c)
{
    ignore(memsnap_snapshot_save_delta(c->s, c->base, c->path, 0));
}

static void call_load_delta(struct cancelled *c)
{
    memsnap_snapshot *t = NULL;
    ignore(memsnap_snapshot_load_delta(c->base, c->path, 0, &t));
    memsnap_snapshot_unref(t);
}

static void call_export(struct cancelled *c)
{
    int fd = -1;
    int e = memsnap_snapshot_export_fd(c->s, &fd);
    c->returned = true; /* close(2) may act on it */
    if (e == 0)
        close(fd);
}

static void call_take(struct cancelled *c)
{
    memsnap_snapshot *t = NULL;
    memsnap_view_take_snapshot(c->v, MEMSNAP_TAKE_ATOMIC, &t);
    memsnap_snapshot_unref(t);
    t = NULL;
    memsnap_view_take_snapshot(c->v, 0, &t);
    memsnap_snapshot_unref(t);
}

static void call_the_rest(struct cancelled *c)
{
    memsnap_snapshot *t = NULL;
    memsnap_view *v = NULL, *m = NULL;
    size_t cursor = 0;
    struct memsnap_range r;
    char byte;
    assert_ok(memsnap_snapshot_clone(c->s, &t));
    assert_ok(memsnap_snapshot_view(t, 0, &v));
    bytes(v)[0] ^= 1;
    memsnap_view_dirty(v, &cursor, &r, 1);
    assert_ok(memsnap_view_restore(v));
    ignore(memsnap_view_restore_to(v, c->base));
    ignore(memsnap_view_protect(v, 0, page, MEMSNAP_ACCESS_READ));
    view_stats(v);
    snap_stats(t);
    cursor = 0;
    ignore(memsnap_snapshot_diff(c->base, t, &cursor, &r, 1));
    assert_ok(memsnap_snapshot_read(t, 0, &byte, 1));
    assert_ok(memsnap_snapshot_view_mut(t, 0, &m));
    ignore(memsnap_view_flush(m, 0, page));
    memsnap_view_unref(m);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(t);
}

static void (*const cancelled_calls[])(struct cancelled *) = {call_save,       call_from_file,
                                                              call_save_delta, call_load_delta,
                                                              call_export,     call_take,
                                                              call_the_rest};

/* A cancellation that is pending acts at the first cancellation point. */
static void *call_cancelled(void *arg)
{
    struct cancelled *c = arg;
    c->returned = false;
    pthread_cancel(pthread_self());
    cancelled_calls[c->call](c);
    c->returned = true;
    return NULL;
}

static void cancel_calls(void *arg)
{
    (void)arg;
    size_t size = 6 * MIB;
    struct cancelled c = {.base = snap_pattern(size, 1), .path = temp_path("file")};
    c.v = view(c.base);
    for (size_t at = 0; at < size; at += 8 * page)
        bytes(c.v)[at] ^= 1;
    c.s = take(c.v);
    for (c.call = 0; c.call < G_N_ELEMENTS(cancelled_calls); c.call++) {
        pthread_t thread;
        c.returned = false;
        g_assert_cmpint(pthread_create(&thread, NULL, call_cancelled, &c), ==, 0);
        pthread_join(thread, NULL);
        if (!c.returned)
            child_exit(10 + (int)c.call);
    }
}

static void test_cancelled(void)
{
    if (on_sanitizer())
        test_skip("a sanitizer's runtime does not outlive cancelled threads");
    else
        child_run(cancel_calls, NULL);
}

/* ---- stack ----------------------------------------------------------------------------------- */

enum { PAINTED = 256 << 10, PROMISED = 8 << 10, PAINT = 0xA5 };

/* The calls of cancelled_calls[], in a thread whose stack is painted. */
struct painted {
    struct cancelled calls;
    unsigned char *stack;
    size_t used;
};

/* Bytes below `from` that were stored to since the paint. */
static size_t stained(const unsigned char *stack, const unsigned char *from)
{
    const unsigned char *p = stack;
    while (p < from && *p == PAINT)
        p++;
    return (size_t)(from - p);
}

static void paint(unsigned char *stack, const unsigned char *from)
{
    for (unsigned char *p = stack; p < from; p++)
        *(volatile unsigned char *)p = PAINT;
}

static void *call_on_paint(void *arg)
{
    struct painted *p = arg;
    unsigned char *here = __builtin_frame_address(0);
    /* once before: the dynamic linker binds symbols, and the library opens what it keeps open */
    for (int round = 0; round < 2; round++) {
        paint(p->stack, here - 1024);
        cancelled_calls[p->calls.call](&p->calls);
        p->used = stained(p->stack, here);
    }
    return NULL;
}

static void measure_stack(void *arg)
{
    (void)arg;
    size_t size = 6 * MIB;
    struct painted p = {.calls = {.base = snap_pattern(size, 1), .path = temp_path("file")}};
    p.calls.v = view(p.calls.base);
    for (size_t at = 0; at < size; at += 8 * page)
        bytes(p.calls.v)[at] ^= 1;
    p.calls.s = take(p.calls.v);
    p.stack = mmap(NULL, PAINTED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (p.calls.call = 0; p.calls.call < G_N_ELEMENTS(cancelled_calls); p.calls.call++) {
        pthread_attr_t attr;
        pthread_t thread;
        pthread_attr_init(&attr);
        g_assert_cmpint(pthread_attr_setstack(&attr, p.stack, PAINTED), ==, 0);
        g_assert_cmpint(pthread_create(&thread, &attr, call_on_paint, &p), ==, 0);
        pthread_join(thread, NULL);
        pthread_attr_destroy(&attr);
        g_test_message("call %zu: %zu bytes of stack", p.calls.call, p.used);
        g_assert_cmpuint(p.used, <=, PROMISED);
    }
}

static void test_stack(void)
{
#ifdef __OPTIMIZE__
    if (!on_sanitizer() && !on_valgrind()) {
        child_run(measure_stack, NULL);
        return;
    }
#endif
    test_skip("frames are larger than those of an ordinary build");
}

/* ---- sandboxes that kill --------------------------------------------------------------------- */

/* The process dies of these two calls. */
static bool punish(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = G_N_ELEMENTS(code), .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

static void use_view(memsnap_snapshot *s, memsnap_view *v, bool mutable, const char *path)
{
    size_t cursor = 0;
    struct memsnap_range r;
    memsnap_snapshot *t = NULL, *u = NULL, *d = NULL;
    bytes(v)[5 * page] ^= 1;
    if (!mutable) { /* such a view is its own base */
        g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 1);
        g_assert_cmpuint(r.offset, ==, 5 * page);
    }
    t = take(v);
    assert_content(t, bytes(v), memsnap_view_size(v));
    bytes(v)[6 * page] ^= 1;
    g_assert_cmpint(memsnap_view_take_snapshot(v, MEMSNAP_TAKE_ATOMIC, &u), ==, -ENOTSUP);
    assert_ok(memsnap_view_restore_to(v, t));
    assert_ok(memsnap_view_protect(v, 0, page, MEMSNAP_ACCESS_READ));
    assert_ok(memsnap_snapshot_clone(t, &u));
    assert_ok(memsnap_snapshot_save_delta(u, s, path, MEMSNAP_SAVE_NOSYNC));
    assert_ok(memsnap_snapshot_load_delta(s, path, 0, &d));
    assert_content(d, bytes(v), memsnap_view_size(v));
    assert_ok(memsnap_snapshot_save(u, path, MEMSNAP_SAVE_NOSYNC));
    view_stats(v);
    snap_stats(u);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(u);
    memsnap_snapshot_unref(d);
}

static void stay_unpunished(void *arg)
{
    const char *path = arg;
    size_t size = 300 * page + 5;
    unsigned char *data = pattern(size, 2);
    memsnap_snapshot *s, *f;
    memsnap_view *m = NULL;
    int fd;
    if (strcmp(config.backend, "heap") != 0) {
        test_skip("for MEMSNAP_NO_FD alone");
        return;
    }
    if (!punish()) {
        test_skip("no system call filters");
        return;
    }
    assert_ok(memsnap_snapshot_new(data, size, MEMSNAP_NO_FD, &s));
    use_view(s, view(s), false, path);
    f = snap_clone(s);
    g_assert_cmpint(memsnap_snapshot_view_mut(f, MEMSNAP_VIEW_TRACK, &m), ==, -ENOTSUP);
    use_view(s, view_mut(f), true, path);
    g_assert_cmpint(memsnap_snapshot_export_fd(s, &fd), ==, -ENOTSUP);
    memsnap_snapshot_unref(f);
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_NO_FD, &f));
    use_view(s, view(f), false, path);
    memsnap_snapshot_unref(f);
    assert_content(s, data, size);
    memsnap_snapshot_unref(s);
    g_free(data);
}

static void test_punished(void)
{
    char *path = temp_path("image");
    child_run(stay_unpunished, path);
    g_free(path);
}

/* ---- system calls of others while writers are stopped ---------------------------------------- */

static atomic_size_t refused_reads;

static void *read_into(void *arg)
{
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    while (!stop)
        if (read(zero, arg, 8 * page) < 0)
            atomic_fetch_add(&refused_reads, 1);
    close(zero);
    return NULL;
}

/* Whether this process may make the kernel wait for its stores. */
static bool kernel_waits(void)
{
    int fd = -1;
#ifdef SYS_userfaultfd
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
#endif
    if (fd < 0)
        fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void read_while_taking(void *arg)
{
    (void)arg;
    size_t size = 400 * page;
    memsnap_snapshot *s = snap_pattern(size, 1), *t = NULL;
    memsnap_view *m = view_mut(s);
    pthread_t reader;
    memsnap_snapshot_unref(take(m)); /* private from now on */
    if (!kernel_waits() || memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &t) < 0) {
        test_skip("writers cannot be stopped, or not in the kernel");
        return;
    }
    memsnap_snapshot_unref(t);
    pthread_create(&reader, NULL, read_into, bytes(m));
    for (int i = 0; i < 200; i++) {
        assert_ok(memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &t));
        memsnap_snapshot_unref(t);
    }
    stop = true;
    pthread_join(reader, NULL);
    if (refused_reads)
        child_exit(4);
}

static void test_reads_wait(void)
{
    child_run(read_while_taking, NULL);
}

/* ---- loaded as a plug-in --------------------------------------------------------------------- */

static const char library[] = ".libs/libmemsnap.so";

struct plugin {
    void *handle;
    int (*zeroed)(size_t, unsigned, memsnap_snapshot **);
    int (*view_mut)(memsnap_snapshot *, unsigned, memsnap_view **);
    int (*take)(memsnap_view *, unsigned, memsnap_snapshot **);
    memsnap_snapshot *(*unref)(memsnap_snapshot *);
    memsnap_view *(*close)(memsnap_view *);
};

static bool load_plugin(struct plugin *p)
{
    p->handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!p->handle)
        return false;
    *(void **)&p->zeroed = dlsym(p->handle, "memsnap_snapshot_new_zeroed");
    *(void **)&p->view_mut = dlsym(p->handle, "memsnap_snapshot_view_mut");
    *(void **)&p->take = dlsym(p->handle, "memsnap_view_take_snapshot");
    *(void **)&p->unref = dlsym(p->handle, "memsnap_snapshot_unref");
    *(void **)&p->close = dlsym(p->handle, "memsnap_view_unref");
    return true;
}

/* Nothing that the library opened for itself outlives it. */
static void load_and_unload(void *arg)
{
    (void)arg;
    size_t before = 0;
    for (int i = 0; i < 8; i++) {
        struct plugin p;
        memsnap_snapshot *s, *t;
        memsnap_view *m;
        if (!load_plugin(&p)) {
            test_skip("there is no shared library");
            return;
        }
        assert_ok(p.zeroed(MIB, 0, &s));
        if (p.view_mut(s, MEMSNAP_VIEW_TRACK, &m) < 0)
            assert_ok(p.view_mut(s, 0, &m));
        assert_ok(p.take(m, 0, &t));
        bytes(m)[0] = 1;
        p.unref(t);
        assert_ok(p.take(m, 0, &t));
        p.unref(t);
        p.close(m);
        p.unref(s);
        dlclose(p.handle);
        if (i == 0)
            before = descriptors();
    }
    g_assert_cmpuint(descriptors(), ==, before);
}

static void test_unloaded(void)
{
    child_run(load_and_unload, NULL);
}

/* ---- forks at odd moments -------------------------------------------------------------------- */

static volatile sig_atomic_t forked;

static void fork_in_handler(int number)
{
    (void)number;
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    waitpid(pid, NULL, 0);
    forked++;
}

/* A crash reporter or a profiler: the handler interrupts a call and must not wait for it. */
static void interrupt_with_forks(void *arg)
{
    (void)arg;
    size_t size = 4 * MIB;
    unsigned char *data = pattern(size, 1);
    struct itimerval often = {{0, 3000}, {0, 3000}}, never = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = fork_in_handler, .sa_flags = SA_RESTART};
    sigaction(SIGPROF, &action, NULL);
    alarm(60);
    setitimer(ITIMER_PROF, &often, NULL);
    for (int i = 0; i < 2000 && forked < 40; i++) {
        memsnap_snapshot *s = snap(data, size);
        memsnap_view *v = view(s);
        memset(bytes(v), i, 10 * page);
        memsnap_snapshot *t = take(v);
        assert_content(t, bytes(v), size);
        memsnap_snapshot_unref(t);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(s);
    }
    setitimer(ITIMER_PROF, &never, NULL);
    /* Forks go on as ever, and a child of one that interrupted nothing may use the library. */
    pid_t pid = fork();
    if (pid == 0) {
        memsnap_snapshot *s = snap(data, size);
        assert_content(s, data, size);
        _exit(0);
    }
    int status = 1;
    waitpid(pid, &status, 0);
    g_free(data);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        child_exit(4);
}

static void test_fork_in_handler(void)
{
    child_run(interrupt_with_forks, NULL);
}

/* Handlers of pthread_atfork() that are older than the library's, as those of a program that loads
 * it later are: they run while the library holds its locks for the fork. */
static memsnap_snapshot *seen_by_handlers, *made_by_handlers[3];

static void clone_in_handler(int at)
{
    if (!seen_by_handlers)
        return;
    made_by_handlers[at] = memsnap_snapshot_unref(made_by_handlers[at]);
    if (memsnap_snapshot_clone(seen_by_handlers, &made_by_handlers[at]) < 0)
        abort();
}

static void prepare(void)
{
    clone_in_handler(0);
}

static void parent(void)
{
    clone_in_handler(1);
}

/* Gives back what the parent goes on using. */
static void child(void)
{
    clone_in_handler(2);
    if (seen_by_handlers)
        seen_by_handlers = memsnap_snapshot_unref(seen_by_handlers);
}

__attribute__((constructor(101))) static void register_first(void)
{
    pthread_atfork(prepare, parent, child);
}

static void fork_with_handlers(void *arg)
{
    (void)arg;
    size_t size = 100 * page;
    unsigned char *data = pattern(size, 5);
    memsnap_snapshot *root = snap(data, size);
    alarm(60);
    for (int i = 0; i < 5; i++) {
        memsnap_view *v = view(root);
        bytes(v)[i * page] = data[i * page] = (unsigned char)i;
        memsnap_snapshot *next = take(v);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(root);
        root = next;
        seen_by_handlers = memsnap_snapshot_ref(root);
        pid_t pid = fork();
        if (pid == 0) {
            assert_content(made_by_handlers[2], data, size);
            memsnap_snapshot *s = snap(data, size);
            assert_content(s, data, size);
            _exit(0);
        }
        int status = 1;
        waitpid(pid, &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status))
            child_exit(4);
        seen_by_handlers = memsnap_snapshot_unref(seen_by_handlers);
        assert_content(root, data, size);
        assert_content(made_by_handlers[0], data, size);
        assert_content(made_by_handlers[1], data, size);
    }
}

static void test_fork_handlers(void)
{
    child_run(fork_with_handlers, NULL);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("memory", test_memory, 0);
    test_add("memory-without-proc", test_memory_without_proc, 0);
    test_add("too-much", test_too_much, 0);
    test_add("small-shm", test_small_shm, 0);
    test_add("require-huge", test_require_huge, 0);
    test_add("closed-output", test_closed_output, 0);
    test_add("reused-numbers", test_reused_numbers, TEST_SOURCES);
    test_add("reused-in-child", test_reused_in_child, TEST_SOURCES);
    test_add("shrinking", test_shrinking, 0);
    test_add("direct-descriptor", test_direct_descriptor, 0);
    test_add("secret-memory", test_secret_memory, 0);
    test_add("huge-file", test_huge_file, 0);
    test_add("live-file-end", test_live_file_end, 0);
    test_add("cancelled", test_cancelled, 0);
    test_add("stack", test_stack, TEST_SOURCES);
    test_add("punished", test_punished, TEST_SOURCES);
    test_add("reads-wait", test_reads_wait, 0);
    test_add("unloaded", test_unloaded, TEST_PLAIN);
    test_add("fork-in-handler", test_fork_in_handler, TEST_PLAIN);
    test_add("fork-handlers", test_fork_handlers, TEST_PLAIN);
    return g_test_run();
}
