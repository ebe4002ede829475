/* SPDX-License-Identifier: MIT */
/* What a file system would find if the power went away during a save: copies of its device, made
 * before and after each system call by which a file gets its name, and when the save has returned.
 * tests/tools/power-cut.sh mounts them.
 *
 *   power-cut DEVICE MOUNTED COPIES WAY
 *
 *   DEVICE   the file behind the loop device that is mounted at MOUNTED
 *   COPIES   a directory elsewhere, for the copies, for `one` and `two`, which a file may hold,
 *            and for `list`: a line for each copy, with its name, that of the file, and what may
 *            be there: `one`, `two`, `none`, joined by `|`
 *   WAY      nameless; named: no file can be made without a name; copied: none can be given one
 *
 * A loop device hands on what it is told to write, so the copy holds what the file system had
 * written by then, and nothing that it only remembers. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memsnap.h"

enum { SIZE = 300000 };

static const char *device, *copies, *way;
static const char *name, *may_be; /* the file that is being saved; NULL: no copies are made */
static FILE *list;
static int copied;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void copy_device(void)
{
    char to[4096];
    int status = 0;
    if (!may_be)
        return;
    snprintf(to, sizeof to, "%s/%d", copies, copied);
    pid_t pid = fork();
    if (pid == 0) {
        execlp("cp", "cp", "--sparse=always", device, to, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        fail("cp");
    fprintf(list, "%d %s %s\n", copied++, name, may_be);
}

/* ---- in place of the C library's ------------------------------------------------------------- */

int fsync(int fd)
{
    copy_device();
    int r = (int)syscall(SYS_fsync, fd);
    copy_device();
    return r;
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    if (strcmp(way, "copied") == 0) {
        errno = EPERM;
        return -1;
    }
    int r = (int)syscall(SYS_linkat, from, old, to, new, flags);
    copy_device();
    return r;
}

int renameat(int from, const char *old, int to, const char *new)
{
    int r = (int)syscall(SYS_renameat2, from, old, to, new, 0);
    copy_device();
    return r;
}

int openat(int dir, const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    unsigned mode = va_arg(arguments, unsigned);
    va_end(arguments);
    if ((flags & O_TMPFILE) == O_TMPFILE && strcmp(way, "named") == 0) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

/* ---------------------------------------------------------------------------------------------- */

static memsnap_snapshot *make(unsigned char seed)
{
    static unsigned char data[SIZE];
    char path[4096];
    memsnap_snapshot *s;
    for (size_t i = 0; i < SIZE; i++)
        data[i] = i / 65536 == 1 ? 0 : (unsigned char)(seed + i % 251); /* with a hole */
    if (memsnap_snapshot_new(data, SIZE, 0, &s) < 0)
        exit(1);
    snprintf(path, sizeof path, "%s/%s", copies, seed == 1 ? "one" : "two");
    FILE *f = fopen(path, "we");
    if (!f || fwrite(data, SIZE, 1, f) != 1 || fclose(f) != 0)
        fail(path);
    return s;
}

static void save(memsnap_snapshot *s, const char *path, unsigned flags, const char *during,
                 const char *afterwards)
{
    may_be = during;
    int e = memsnap_snapshot_save(s, path, flags);
    if (e < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-e));
        exit(1);
    }
    may_be = afterwards;
    copy_device();
    may_be = NULL;
}

int main(int argc, char **argv)
{
    char path[4096], lines[4096];
    if (argc != 5)
        return 2;
    device = argv[1];
    copies = argv[3];
    way = argv[4];
    snprintf(lines, sizeof lines, "%s/list", copies);
    list = fopen(lines, "we");
    if (!list)
        fail(lines);
    memsnap_snapshot *one = make(1), *two = make(2);
    name = "file";
    snprintf(path, sizeof path, "%s/%s", argv[2], name);
    save(one, path, 0, "none|one", "one");
    save(two, path, 0, "one|two", "two");
    save(one, path, 0, "one|two", "one");
    name = "exclusive";
    snprintf(path, sizeof path, "%s/%s", argv[2], name);
    save(two, path, MEMSNAP_SAVE_EXCL, "none|two", "two");
    memsnap_snapshot_unref(one);
    memsnap_snapshot_unref(two);
    return fclose(list) == 0 ? 0 : 1;
}
