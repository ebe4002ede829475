/* Files that appear under their name whole, and objects that are sealed and handed to other
 * processes. Serves both tables.
 *
 * A file is written without a name where the file system can do that, so that nothing is left of
 * it if the process is killed. If nothing has the name yet, linking it there is one system call.
 * Replacing a file takes two, linking under a temporary name and renaming, and a process killed
 * between them leaves that name behind: no system call puts an open file in the place of a name
 * (tests/bench/probes/replace-kill.c). Elsewhere the file has a temporary name all the time.
 * These names are made from the file's, and who saves holds a lock on its file, so the next save
 * to it finds what is left, knows that nobody needs it, and removes it. */
#include "config.h"

#include "os/internal.h"

#include "base/annotate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#endif

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1 << 0)
#endif

enum { MAX_LINKS = 40, TEMPORARY_NAME = 64, NAMES = 1000 };

/* Where a file is to appear. */
struct place {
    int dir;
    bool dir_readable; /* else it can be worked in, but not synced by itself */
    bool exclusive;
    bool exists; /* there is a file to replace, as `old` tells */
    struct stat old;
    char *name;                     /* in dir */
    char temporary[TEMPORARY_NAME]; /* in dir; "": the file has no name yet */
};

static int open_again(int dir, const char *name, int flags, mode_t mode)
{
    int fd;
    do
        fd = openat(dir, name, flags | O_CLOEXEC | O_NOCTTY, mode);
    while (fd < 0 && errno == EINTR);
    return ms_above_standard(fd);
}

static int sync_descriptor(int fd)
{
    while (fsync(fd) < 0) {
        if (errno != EINTR)
            return ms_os_error(errno);
    }
    return 0;
}

/* ---- which file is meant --------------------------------------------------------------------- */

/* The path that a symbolic link at `path` leads to, or NULL and errno; EINVAL: it is none. */
static char *link_target(const char *path)
{
    char text[PATH_MAX];
    ssize_t n = readlink(path, text, sizeof text);
    if (n < 0)
        return NULL;
    const char *slash = strrchr(path, '/');
    size_t before = n > 0 && text[0] != '/' && slash ? (size_t)(slash - path) + 1 : 0;
    char *target = malloc(before + (size_t)n + 1);
    if (!target) {
        errno = ENOMEM;
        return NULL;
    }
    memcpy(target, path, before);
    memcpy(target + before, text, (size_t)n);
    target[before + (size_t)n] = 0;
    return target;
}

/* A symbolic link stays, and the file that it leads to (or would) is replaced, as when one opens
 * it for writing: who made the link wants the bytes there. The kernel has followed the links
 * before this does (see look), with its own rules for whose links may be followed. */
static int follow_links(const char *path, char **final)
{
    char *at = strdup(path);
    if (!at)
        return -ENOMEM;
    for (int i = 0; i <= MAX_LINKS; i++) {
        char *next = link_target(at);
        if (!next) {
            int e = errno;
            if (e == EINVAL || e == ENOENT) {
                *final = at;
                return 0;
            }
            free(at);
            return ms_os_error(e);
        }
        free(at);
        at = next;
    }
    free(at);
    return -ELOOP;
}

/* What is at path now, and whether it may be replaced. */
static int look(const char *path, struct place *p)
{
    struct stat link;
    if (p->exclusive && lstat(path, &link) == 0)
        return -EEXIST;
    if (stat(path, &p->old) < 0)
        return errno == ENOENT ? 0 : ms_os_error(errno);
    if (S_ISDIR(p->old.st_mode))
        return -EISDIR;
    if (!S_ISREG(p->old.st_mode))
        return -EINVAL; /* nobody wants a device node replaced */
    p->exists = true;
    return 0;
}

/* Opens the directory of an absolute or relative path and notes the name in it. */
static int open_directory(char *path, struct place *p)
{
    char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path, *dir = ".";
    if (!*path)
        return -ENOENT;
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EISDIR;
    p->name = strdup(name);
    if (!p->name)
        return -ENOMEM;
    if (slash) {
        slash[slash == path] = 0;
        dir = path;
    }
    p->dir = open_again(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY, 0);
    p->dir_readable = p->dir >= 0;
#ifdef O_PATH
    if (p->dir < 0 && errno == EACCES)
        p->dir = open_again(AT_FDCWD, dir, O_PATH | O_DIRECTORY, 0);
#endif
    return p->dir < 0 ? ms_os_error(errno) : 0;
}

static int find_place(const char *path, struct place *p)
{
    char *final = NULL;
    struct stat st;
    int e = look(path, p);
    if (e == 0)
        e = follow_links(path, &final);
    if (e < 0)
        return e;
    e = open_directory(final, p);
    free(final);
    /* A name that is too long is better known before everything is written. */
    if (e == 0 && fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno != ENOENT)
        e = ms_os_error(errno);
    return e;
}

static void leave_place(struct place *p)
{
    if (p->dir >= 0)
        close(p->dir);
    free(p->name);
    free(p);
}

/* ---- the new file ---------------------------------------------------------------------------- */

/* Where the file without a name can be given one from. */
static void descriptor_path(int fd, char path[TEMPORARY_NAME])
{
    snprintf(path, TEMPORARY_NAME, "/proc/self/fd/%d", fd);
}

/* -1: this file system, or this process, cannot. */
static int open_nameless(const struct place *p)
{
#ifdef O_TMPFILE
    char path[TEMPORARY_NAME];
    struct stat st, seen;
    int fd = open_again(p->dir, ".", O_TMPFILE | O_RDWR, 0666);
    if (fd < 0)
        return -1;
    descriptor_path(fd, path);
    if (fstat(fd, &st) == 0 && stat(path, &seen) == 0 && st.st_dev == seen.st_dev &&
        st.st_ino == seen.st_ino)
        return fd;
    close(fd); /* no /proc */
#else
    (void)p;
#endif
    errno = ENOTSUP;
    return -1;
}

/* Names that every save to the file tries in the same order: ".NAME.memsnap", ".NAME.memsnap1"
 * and so on; made from a sum where NAME is too long for that. */
static void name_after(const char *name, unsigned k, char temporary[TEMPORARY_NAME])
{
    uint64_t sum = 14695981039346656037u; /* FNV-1a */
    char number[12] = "";
    if (k)
        snprintf(number, sizeof number, "%u", k);
    if (strlen(name) + sizeof number + sizeof "..memsnap" <= TEMPORARY_NAME) {
        snprintf(temporary, TEMPORARY_NAME, ".%s.memsnap%s", name, number);
        return;
    }
    for (const char *c = name; *c; c++)
        sum = (sum ^ (unsigned char)*c) * 1099511628211u;
    snprintf(temporary, TEMPORARY_NAME, ".memsnap-%llx.memsnap%s", (unsigned long long)sum, number);
}

/* Not known to anybody else: for when all names of the other kind are taken. Whether it is free
 * is found out by using it. */
static void random_name(char name[TEMPORARY_NAME])
{
    static atomic_uint count;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(name, TEMPORARY_NAME, ".memsnap-%lx%lx-%lx-%x", (unsigned long)now.tv_sec,
             (unsigned long)now.tv_nsec, (unsigned long)getpid(),
             atomic_fetch_add_explicit(&count, 1, memory_order_relaxed));
}

static void choose_name(const struct place *p, unsigned k, char name[TEMPORARY_NAME])
{
    if (k < NAMES)
        name_after(p->name, k, name);
    else
        random_name(name);
}

static bool is_named(const struct place *p, const char *name, int fd)
{
    struct stat file, named;
    return fstat(fd, &file) == 0 && fstatat(p->dir, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           file.st_dev == named.st_dev && file.st_ino == named.st_ino;
}

/* Removes what a killed save left under the name. */
static bool remove_leftover(const struct place *p, const char *name)
{
    struct stat st;
    if (fstatat(p->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
        return false;
    /* Over a network only what is open for writing can be locked. */
    int fd = open_again(p->dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0 && errno == EACCES)
        fd = open_again(p->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool removed = flock(fd, LOCK_EX | LOCK_NB) == 0 && is_named(p, name, fd) &&
                   unlinkat(p->dir, name, 0) == 0;
    close(fd);
    return removed;
}

/* More than one is left if several saves were killed at once. */
static void remove_leftovers(const struct place *p)
{
    enum { LOOKED_AT = 4 };
    char name[TEMPORARY_NAME];
    for (unsigned k = 0; k < LOOKED_AT; k++) {
        name_after(p->name, k, name);
        remove_leftover(p, name);
    }
}

/* A file to be replaced may be secret: the new one is its owner's alone until it has the old
 * one's permissions. */
static int create_locked(const struct place *p, const char *name)
{
    int fd = open_again(p->dir, name, O_CREAT | O_EXCL | O_RDWR, p->exists ? 0600 : 0666);
    if (fd < 0)
        return -1;
    /* Before it was locked somebody may have taken it for a leftover. Where nothing can be
     * locked nobody can do that. */
    if ((flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) && is_named(p, name, fd))
        return fd;
    close(fd);
    errno = EEXIST;
    return -1;
}

static int open_named(struct place *p)
{
    for (unsigned k = 0;; k++) {
        choose_name(p, k, p->temporary);
        remove_leftover(p, p->temporary);
        int fd = create_locked(p, p->temporary);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
}

static int open_new(struct place *p, struct os_object *file)
{
    int fd = open_nameless(p);
    if (fd < 0 && errno != EMFILE && errno != ENFILE && errno != ENOMEM)
        fd = open_named(p);
    if (fd < 0) {
        p->temporary[0] = 0;
        return ms_os_error(errno);
    }
    int e = ms_object_adopt(fd, "file", file);
    if (e == 0)
        file->nameless = false; /* it is to get a name, and is the same file then */
    return e;
}

static void remove_temporary(struct place *p)
{
    if (p->temporary[0])
        unlinkat(p->dir, p->temporary, 0);
    p->temporary[0] = 0;
}

int ms_save_open(const char *path, bool exclusive, struct os_saving *s)
{
    struct place *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->dir = -1;
    p->exclusive = exclusive;
    int e = find_place(path, p);
    if (e == 0)
        e = open_new(p, &s->file);
    if (e < 0) {
        remove_temporary(p);
        leave_place(p);
        return e;
    }
    s->place = p;
    return 0;
}

void ms_save_abandon(struct os_saving *s)
{
    int saved = errno;
    remove_temporary(s->place);
    ms_object_close(&s->file);
    leave_place(s->place);
    s->place = NULL;
    errno = saved;
}

/* ---- what it takes over from the old file ---------------------------------------------------- */

/* A file with an access control list shows the list's mask as its group's permissions, so those
 * must not come alone. True if the new file has the list, or there is none. */
static bool keep_access_list(const struct place *p, int fd)
{
#ifdef __linux__
    static const char list[] = "system.posix_acl_access";
    char value[1024];
    int old = open_again(p->dir, p->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (old < 0)
        return true;
    ssize_t n = fgetxattr(old, list, value, sizeof value);
    bool none = n < 0 && errno != ERANGE;
    close(old);
    return none || (n >= 0 && fsetxattr(fd, list, value, (size_t)n, 0) == 0);
#else
    (void)p;
    (void)fd;
    return true;
#endif
}

/* Owner and group where the process may set them. What was granted to another owner or group
 * must not pass to the new one. */
static int keep_attributes(const struct place *p, int fd)
{
    mode_t mode = p->old.st_mode & 07777;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return ms_os_error(errno);
    bool owner = st.st_uid == p->old.st_uid, group = st.st_gid == p->old.st_gid;
    if (!owner || !group) {
        owner = fchown(fd, p->old.st_uid, p->old.st_gid) == 0 || owner;
        group = (fstat(fd, &st) == 0 && st.st_gid == p->old.st_gid) ||
                fchown(fd, (uid_t)-1, p->old.st_gid) == 0;
    }
    if (!owner)
        mode &= ~(mode_t)S_ISUID;
    if (!group || !keep_access_list(p, fd)) {
        mode_t common = mode >> 3 & mode & 07;
        mode = (mode & ~(mode_t)(S_ISGID | 077)) | common << 3 | common;
    }
    if (fchmod(fd, mode) < 0 && errno != EPERM)
        return ms_os_error(errno);
    return 0;
}

/* ---- giving it its name ---------------------------------------------------------------------- */

static int link_nameless(int fd, int dir, const char *name)
{
    char path[TEMPORARY_NAME];
    descriptor_path(fd, path);
    return linkat(AT_FDCWD, path, dir, name, AT_SYMLINK_FOLLOW);
}

static int link_as(int fd, int dir, const char *name)
{
    return link_nameless(fd, dir, name) < 0 ? ms_os_error(errno) : 0;
}

/* The two calls, with nothing between them. */
static int replace(struct place *p, int fd)
{
    char temporary[TEMPORARY_NAME];
    int e = -EEXIST;
    flock(fd, LOCK_EX | LOCK_NB);
    for (unsigned k = 0; e == -EEXIST; k++) {
        choose_name(p, k, temporary);
        e = link_as(fd, p->dir, temporary);
        if (e == -EEXIST && remove_leftover(p, temporary))
            e = link_as(fd, p->dir, temporary);
    }
    if (e < 0 || renameat(p->dir, temporary, p->dir, p->name) == 0)
        return e;
    e = ms_os_error(errno);
    unlinkat(p->dir, temporary, 0);
    return e;
}

static int publish_nameless(struct place *p, int fd)
{
    if (!p->exists || p->exclusive) {
        if (link_nameless(fd, p->dir, p->name) == 0)
            return 0;
        if (errno != EEXIST || p->exclusive)
            return ms_os_error(errno);
    }
    return replace(p, fd);
}

static int rename_exclusive(struct place *p)
{
#if defined __linux__ && defined SYS_renameat2
    if (syscall(SYS_renameat2, p->dir, p->temporary, p->dir, p->name, RENAME_NOREPLACE) == 0) {
        p->temporary[0] = 0;
        return 0;
    }
    if (errno != ENOSYS && errno != EINVAL)
        return ms_os_error(errno);
#endif
    return linkat(p->dir, p->temporary, p->dir, p->name, 0) < 0 ? ms_os_error(errno) : 0;
}

static int publish_named(struct place *p)
{
    if (p->exclusive)
        return rename_exclusive(p);
    if (renameat(p->dir, p->temporary, p->dir, p->name) < 0)
        return ms_os_error(errno);
    p->temporary[0] = 0;
    return 0;
}

static int sync_directory(const struct place *p, int file)
{
    int e = 0;
#ifdef __linux__
    if (!p->dir_readable)
        e = syncfs(file) < 0 ? ms_os_error(errno) : 0;
#else
    (void)file;
#endif
    if (p->dir_readable)
        e = sync_descriptor(p->dir);
    /* file systems whose directories need none */
    return e == -EINVAL || e == -ENOTSUP || e == -EROFS ? 0 : e;
}

/* File systems over a network report a full disk only when a descriptor is closed. */
static int finish_writing(int fd, bool sync)
{
    if (sync)
        return sync_descriptor(fd);
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0)
        return ms_os_error(errno);
    return close(copy) < 0 && errno != EINTR ? ms_os_error(errno) : 0;
}

static int commit(struct place *p, const struct os_object *file, uint64_t size, bool sync)
{
    struct stat st;
    int e = ms_object_check(file, &st);
    if (e == 0 && (uint64_t)st.st_size != size)
        e = -EIO;
    if (e == 0 && p->exists)
        e = keep_attributes(p, file->fd);
    if (e == 0)
        e = finish_writing(file->fd, sync);
    if (e == 0)
        e = p->temporary[0] ? publish_named(p) : publish_nameless(p, file->fd);
    if (e == 0)
        remove_leftovers(p);
    if (e == 0 && sync)
        e = sync_directory(p, file->fd);
    return e;
}

int ms_save_commit(struct os_saving *s, uint64_t size, bool sync)
{
    int e = commit(s->place, &s->file, size, sync);
    ms_save_abandon(s); /* what has its name by now keeps it */
    return e;
}

/* Works within one file system that shares blocks, at block boundaries. */
int ms_file_clone(const struct os_object *src, uint64_t from, const struct os_object *dst,
                  uint64_t to, uint64_t len)
{
#ifdef FICLONERANGE
    struct stat st;
    if (src->dev != dst->dev || ms_object_check(src, &st) < 0 ||
        (uint64_t)st.st_size < from + len || ms_object_check(dst, &st) < 0 ||
        ms_file_limit(to + len) < 0)
        return -ENOTSUP;
    struct file_clone_range range = {.src_fd = src->fd,
                                     .src_offset = from,
                                     .src_length = len,
                                     .dest_offset = to};
    return ioctl(dst->fd, FICLONERANGE, &range) == 0 ? 0 : -ENOTSUP;
#else
    (void)src;
    (void)from;
    (void)dst;
    (void)to;
    (void)len;
    return -ENOTSUP;
#endif
}

/* ---- handing objects to other processes ------------------------------------------------------ */

#if defined __linux__ && defined F_ADD_SEALS

#define ALL_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

int ms_export_create(struct os_object *o)
{
    struct os_object made;
    int e = ms_linux_create(&made);
    if (e < 0)
        return e;
    int seals = fcntl(made.fd, F_GET_SEALS);
    if (seals < 0 || seals & F_SEAL_SEAL) { /* a temporary file */
        ms_object_close(&made);
        return -ENOTSUP;
    }
    *o = made;
    return 0;
}

/* The object opened for reading only, with a file offset of its own. */
static int open_read_only(const struct os_object *o)
{
    char path[TEMPORARY_NAME];
    struct stat st;
    descriptor_path(o->fd, path);
    int fd = open_again(AT_FDCWD, path, O_RDONLY, 0);
    if (fd < 0 ||
        (fstat(fd, &st) == 0 && (uint64_t)st.st_dev == o->dev && (uint64_t)st.st_ino == o->ino))
        return fd;
    close(fd);
    errno = ENOENT;
    return -1;
}

/* A shared mapping counts as writable if its descriptor is, whatever its protection, and no
 * object is sealed against writing under such a one. Exchanging the window for a mapping of a
 * read-only descriptor is atomic: who reads through it meets the same bytes. */
static int exchange_window(const struct os_object *o, void *window, size_t len)
{
    struct os_object read_only = *o;
    read_only.fd = open_read_only(o);
    if (read_only.fd < 0)
        return -ENOTSUP;
    int e = ms_map_over(&read_only, 0, window, len, OS_SHARED_READ);
    close(read_only.fd);
    if (e == 0)
        MS_READ_ONLY_MAPPING(window, len); /* helgrind takes the exchange for a write */
    return e;
}

int ms_object_seal(const struct os_object *o, void *window, size_t len)
{
    struct stat st;
    int e = ms_object_check(o, &st);
    if (e == 0 && window)
        e = exchange_window(o, window, len);
    if (e < 0)
        return e;
    if (fcntl(o->fd, F_ADD_SEALS, ALL_SEALS) == 0)
        return 0;
    return errno == EBUSY ? -EBUSY : -ENOTSUP;
}

int ms_object_share(const struct os_object *o, uint64_t size, int *fd)
{
    struct stat st;
    int e = ms_object_check(o, &st);
    if (e < 0)
        return e;
    int seals = fcntl(o->fd, F_GET_SEALS);
    if ((uint64_t)st.st_size != size || seals < 0 || (seals & ALL_SEALS) != ALL_SEALS)
        return -ENOTSUP;
    int made = open_read_only(o);
    if (made < 0 && errno != EMFILE && errno != ENFILE && errno != ENOMEM)
        made = fcntl(o->fd, F_DUPFD_CLOEXEC, 3); /* no /proc: the seals alone must do */
    if (made < 0)
        return ms_os_error(errno);
    *fd = made;
    return 0;
}

#else

int ms_export_create(struct os_object *o)
{
    (void)o;
    return -ENOTSUP;
}

int ms_object_seal(const struct os_object *o, void *window, size_t len)
{
    (void)o;
    (void)window;
    (void)len;
    return -ENOTSUP;
}

int ms_object_share(const struct os_object *o, uint64_t size, int *fd)
{
    (void)o;
    (void)size;
    (void)fd;
    return -ENOTSUP;
}

#endif
