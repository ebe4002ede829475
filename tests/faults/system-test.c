/* What the library asks of the system and what it leaves alone: memory before it is needed,
 * descriptors that are not its own, system calls that a sandbox punishes, forks at odd moments,
 * stack. Mostly in forked children, because little of it can be taken back. */
#include "config.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
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

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("memory", test_memory, 0);
    test_add("memory-without-proc", test_memory_without_proc, 0);
    return g_test_run();
}
