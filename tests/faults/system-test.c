/* What the library asks of the system and what it leaves alone: memory before it is needed,
 * descriptors that are not its own, system calls that a sandbox punishes, forks at odd moments,
 * stack. Mostly in forked children, because little of it can be taken back. */
#include "config.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
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

/* Larger than any memory. The limit of file sizes is there so that a library that would begin
 * gets no further. */
static void ask_too_much(void *arg)
{
    (void)arg;
    struct rlimit limit = {(rlim_t)GIB, RLIM_INFINITY};
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    memsnap_snapshot *s = UNTOUCHED;
    int e = memsnap_snapshot_new_zeroed((size_t)1 << 44, MEMSNAP_HUGE_REQUIRE | config.flags, &s);
    assert_refused(e, config_is("linux") ? -ENOMEM : -ENOTSUP, s);
    s = UNTOUCHED;
    size_t size = (size_t)1 << 44;
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || config_is("posix")) /* that one asks the file system */
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

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("memory", test_memory, 0);
    test_add("memory-without-proc", test_memory_without_proc, 0);
    test_add("too-much", test_too_much, 0);
    test_add("require-huge", test_require_huge, 0);
    return g_test_run();
}
