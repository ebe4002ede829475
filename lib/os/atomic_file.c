/* SPDX-License-Identifier: MIT */
/* Files that appear under their name whole. Serves both tables.
 *
 * The place of a file is a directory's descriptor and a name in it. A path is followed once, when
 * a save begins: to its directory by the system, then link by link by us. From then on nothing
 * but names in that directory is used, and what has the name is looked at again when the new file
 * is to replace it.
 *
 * A file is written without a name where the file system can do that, so that nothing is left of
 * it if the process is killed. If nothing has the name yet, linking it there is one system call.
 * Replacing a file takes two, linking under a temporary name and renaming, and a process killed
 * between them leaves that name behind: no system call puts an open file in the place of a name
 * (tests/bench/probes/replace-kill.c). Elsewhere the file has a temporary name all the time.
 *
 * The temporary name is made from the file's, and who uses it holds a lock on what has it. So the
 * next save to the file finds what is left, knows that nobody needs it, and removes it. Where a
 * living save has that name, another one takes a name with a random end.
 *
 * The order in which a file becomes durable: its content; a name, so that no file system finds it
 * without one and drops it; its inode with that; the directory. See tests/tools/power-cut.sh. */
#include "config.h"

#include "os/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/magic.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#endif

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1 << 0)
#endif

#ifdef __linux__
/* The file's access control list, as the system keeps it. */
#define ACCESS_LIST "system.posix_acl_access"
#endif

enum {
    MAX_LINKS = 40,
    TEMPORARY_NAME = 160, /* bytes of a temporary name, or of a descriptor's path */
    SHARED_NAME = 100     /* of the file's name, bytes that its temporary names have */
};

/* Who may do what with a file. */
struct access {
    uid_t uid;
    gid_t gid;
    mode_t mode;
    ssize_t list_len; /* bytes of the access control list; 0: there is none; -1: not known */
    char list[1024];
};

/* Where a file is to appear. */
struct place {
    int dir;
    bool dir_readable; /* else it can be worked in, but not synced by itself */
    bool exclusive;
    char *name;     /* in dir */
    bool exists;    /* something had the name when it was last looked at: */
    struct stat st; /* this, */
    int old;        /* by a descriptor that pins it (-1 where systems have none) */
    bool pointed;   /* the path leads over a descriptor of /proc, to this file: */
    struct stat target;
    bool accessed;                  /* the new file has another file's permissions: */
    struct access access;           /* these */
    bool unsynced;                  /* the new file's inode changed since it was synced */
    bool crowded;                   /* other saves used the temporary name, now or before */
    char temporary[TEMPORARY_NAME]; /* in dir; "": the file has none */
};

static int sync_descriptor(int fd)
{
    while (fsync(fd) < 0) {
        if (errno != EINTR)
            return ms_os_error(errno);
    }
    return 0;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Where an open file is found without a name. */
static void descriptor_path(int fd, char path[TEMPORARY_NAME])
{
    snprintf(path, TEMPORARY_NAME, "/proc/self/fd/%d", fd);
}

/* The same, if the system has such paths. */
static bool find_descriptor(int fd, char path[TEMPORARY_NAME])
{
    struct stat file, found;
    descriptor_path(fd, path);
    return fstat(fd, &file) == 0 && stat(path, &found) == 0 && same_file(&file, &found);
}

/* ---- which file is meant --------------------------------------------------------------------- */

static void forget_old(struct place *p)
{
    if (p->old >= 0)
        close(p->old);
    p->old = -1;
    p->exists = false;
}

/* What has the name now. Closing a descriptor of its bytes would take away the locks (fcntl) that
 * the program has on it: this one is none. */
static int look(struct place *p)
{
    forget_old(p);
#ifdef O_PATH
    p->old = ms_openat(p->dir, p->name, O_PATH | O_NOFOLLOW, 0);
    int r = p->old < 0 ? -1 : fstat(p->old, &p->st);
#else
    int r = fstatat(p->dir, p->name, &p->st, AT_SYMLINK_NOFOLLOW);
#endif
    p->exists = r == 0;
    return r == 0 || errno == ENOENT ? 0 : ms_os_error(errno);
}

static ssize_t link_text(const struct place *p, char *text, size_t size)
{
#ifdef O_PATH
    return readlinkat(p->old, "", text, size);
#else
    return readlinkat(p->dir, p->name, text, size);
#endif
}

static int check_kind(const struct stat *st)
{
    if (S_ISDIR(st->st_mode))
        return -EISDIR;
    return S_ISREG(st->st_mode) ? 0 : -EINVAL; /* nobody wants a device node replaced */
}

/* Whether what has the name, which is no link to be followed, may be replaced. */
static int check_old(const struct place *p)
{
    if (!p->exists)
        return 0;
    if (p->exclusive)
        return -EEXIST;
    if (S_ISLNK(p->st.st_mode))
        return -ELOOP; /* it came while the file was written */
    int e = check_kind(&p->st);
    return e == 0 && ms_is_live_file(&p->st) ? -EBUSY : e;
}

/* The system's rule (fs.protected_symlinks) for links that it follows itself: where anybody may
 * put a link, only one's own and those of the directory's owner are followed. */
static bool may_follow(const struct place *p)
{
    struct stat dir;
    if (fstat(p->dir, &dir) < 0)
        return false;
    return !(dir.st_mode & S_ISVTX && dir.st_mode & S_IWOTH) || p->st.st_uid == geteuid() ||
           p->st.st_uid == dir.st_uid;
}

/* A descriptor's link in /proc leads to what is open, and its text need not be a path to that. */
static int note_target(struct place *p)
{
#ifdef __linux__
    struct statfs fs;
    if (fstatfs(p->old, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC)
        return 0;
    if (fstatat(p->dir, p->name, &p->target, 0) < 0)
        return ms_os_error(errno);
    p->pointed = true;
    return check_kind(&p->target);
#else
    (void)p;
    return 0;
#endif
}

/* 1 and where the place, which is a symbolic link, leads; 0: it is none. */
static int read_link(struct place *p, char **target)
{
    if (!p->exists || !S_ISLNK(p->st.st_mode))
        return 0;
    if (p->exclusive)
        return -EEXIST;
    if (!may_follow(p))
        return -EACCES;
    int e = note_target(p);
    if (e < 0)
        return e;
    char *text = malloc(PATH_MAX);
    if (!text)
        return -ENOMEM;
    ssize_t n = link_text(p, text, PATH_MAX);
    if (n < 0 || n == PATH_MAX) {
        e = n < 0 ? ms_os_error(errno) : -ENAMETOOLONG;
        free(text);
        return e;
    }
    text[n] = 0;
    *target = text;
    return 1;
}

/* Opens the directory of a path, which begins at p->dir unless it is absolute, and notes the name
 * in it. */
static int open_directory(char *path, struct place *p)
{
    char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path, *dir = ".";
    if (!*path)
        return -ENOENT;
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EISDIR;
    free(p->name);
    p->name = strdup(name);
    if (!p->name)
        return -ENOMEM;
    if (slash) {
        slash[slash == path] = 0;
        dir = path;
    }
    int from = p->dir;
    p->dir = ms_openat(from, dir, O_RDONLY | O_DIRECTORY, 0);
    p->dir_readable = p->dir >= 0;
#ifdef O_PATH
    if (p->dir < 0 && errno == EACCES)
        p->dir = ms_openat(from, dir, O_PATH | O_DIRECTORY, 0);
#endif
    int e = p->dir < 0 ? ms_os_error(errno) : 0;
    if (from >= 0)
        close(from);
    return e;
}

/* A symbolic link stays, and the file that it leads to (or would) is replaced, as when one opens
 * it for writing: who made the link wants the bytes there. */
static int find_place(const char *path, struct place *p)
{
    char *text = strdup(path);
    int more = text ? 1 : -ENOMEM;
    for (int links = 0; more > 0; links++) {
        int e = links > MAX_LINKS ? -ELOOP : open_directory(text, p);
        free(text);
        text = NULL;
        if (e == 0)
            e = look(p);
        more = e < 0 ? e : read_link(p, &text);
    }
    if (more < 0)
        return more;
    if (p->pointed && !(p->exists && same_file(&p->st, &p->target)))
        return -ENOENT; /* what is open there has lost its name */
    return check_old(p);
}

static void leave_place(struct place *p)
{
    forget_old(p);
    if (p->dir >= 0)
        close(p->dir);
    free(p->name);
    free(p);
}

/* ---- temporary names ------------------------------------------------------------------------- */

/* ".NAME.memsnap", which is tried first, or with "-" and 16 random digits behind it. Files whose
 * long names begin alike have the same one, which does no harm. */
static void choose_name(const struct place *p, bool random, char name[TEMPORARY_NAME])
{
    static atomic_uint count;
    int n = snprintf(name, TEMPORARY_NAME, ".%.*s.memsnap", SHARED_NAME, p->name);
    if (!random)
        return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t x = (uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec ^ (uint64_t)getpid() << 12 ^
                 (uint64_t)atomic_fetch_add_explicit(&count, 1, memory_order_relaxed) << 48;
    snprintf(name + n, TEMPORARY_NAME - (size_t)n, "-%016llx", (unsigned long long)x);
}

/* Of a save to this file. */
static bool is_temporary_name(const struct place *p, const char *name)
{
    char first[TEMPORARY_NAME];
    choose_name(p, false, first);
    size_t n = strlen(first);
    if (strncmp(name, first, n) != 0)
        return false;
    return !name[n] || (name[n] == '-' && strlen(name + n) == 17 &&
                        strspn(name + n + 1, "0123456789abcdef") == 16);
}

static bool is_named(const struct place *p, const char *name, int fd)
{
    struct stat file, named;
    return fstat(fd, &file) == 0 && fstatat(p->dir, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           same_file(&file, &named);
}

/* Removes what a killed save left under the name. */
static bool remove_leftover(struct place *p, const char *name)
{
    struct stat st;
    if (fstatat(p->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    p->crowded = true;
    if (!S_ISREG(st.st_mode))
        return false;
    /* Over a network only what is open for writing can be locked. */
    int fd = ms_openat(p->dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0 && errno == EACCES)
        fd = ms_openat(p->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool removed = flock(fd, LOCK_EX | LOCK_NB) == 0 && is_named(p, name, fd) &&
                   unlinkat(p->dir, name, 0) == 0;
    close(fd);
    return removed;
}

static void search_leftovers(struct place *p)
{
    int fd = ms_openat(p->dir, ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (const struct dirent *d; (d = readdir(dir)) != NULL;)
        if (is_temporary_name(p, d->d_name))
            remove_leftover(p, d->d_name);
    closedir(dir);
}

/* Names with a random end are made where the plain one is in use, so as a rule that is left too.
 * Else the directory, which may be large, is not searched. */
static void remove_leftovers(struct place *p)
{
    char name[TEMPORARY_NAME];
    choose_name(p, false, name);
    remove_leftover(p, name);
    if (p->crowded)
        search_leftovers(p);
}

/* ---- the new file ---------------------------------------------------------------------------- */

/* -1: this file system, or this process, cannot. */
static int open_nameless(const struct place *p)
{
#ifdef O_TMPFILE
    char path[TEMPORARY_NAME];
    int fd = ms_openat(p->dir, ".", O_TMPFILE | O_RDWR, p->exists ? 0600 : 0666);
    if (fd < 0 || find_descriptor(fd, path))
        return fd;
    close(fd); /* it could not be given a name */
#else
    (void)p;
#endif
    errno = ENOTSUP;
    return -1;
}

/* A file to be replaced may be secret: the new one is its owner's alone until it has the old
 * one's permissions. */
static int create_locked(const struct place *p, const char *name)
{
    int fd = ms_openat(p->dir, name, O_CREAT | O_EXCL | O_RDWR, p->exists ? 0600 : 0666);
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
    for (bool random = false;; random = true) {
        choose_name(p, random, p->temporary);
        if (!random)
            remove_leftover(p, p->temporary);
        int fd = create_locked(p, p->temporary);
        if (fd < 0 && errno == EEXIST)
            continue;
        if (fd < 0)
            p->temporary[0] = 0;
        return fd;
    }
}

static int adopt_new(int fd, struct os_object *file)
{
    if (fd < 0)
        return ms_os_error(errno);
    int e = ms_object_adopt(fd, "file", file);
    if (e == 0)
        file->nameless = false; /* it is to get a name, and is the same file then */
    return e;
}

static int open_new(struct place *p, struct os_object *file)
{
    int fd = open_nameless(p);
    if (fd < 0 && errno != EMFILE && errno != ENFILE && errno != ENOMEM)
        fd = open_named(p);
    return adopt_new(fd, file);
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
    p->dir = AT_FDCWD;
    p->old = -1;
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

#ifdef __linux__
/* Without /proc only a descriptor of its bytes can be asked, which the file must have its name
 * for. When it has lost that to the new one, the list is what it was before. */
static ssize_t read_list_openly(const struct place *p, char *list, size_t size)
{
    struct stat st;
    ssize_t n = -1;
    if (p->accessed && fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        !same_file(&st, &p->st)) {
        memcpy(list, p->access.list, size);
        return p->access.list_len;
    }
    int fd = ms_openat(p->dir, p->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && same_file(&st, &p->st))
        n = fgetxattr(fd, ACCESS_LIST, list, size);
    int e = errno;
    close(fd);
    errno = e;
    return n;
}

static ssize_t read_list(const struct place *p, char *list, size_t size)
{
    char path[TEMPORARY_NAME];
    errno = 0;
    ssize_t n = find_descriptor(p->old, path) ? getxattr(path, ACCESS_LIST, list, size)
                                              : read_list_openly(p, list, size);
    return n < 0 && (errno == ENODATA || errno == ENOTSUP) ? 0 : n;
}

/* An old file without a list must not be followed by one that has the directory's. */
static bool set_list(int fd, const struct access *a)
{
    if (a->list_len < 0)
        return false;
    if (a->list_len > 0)
        return fsetxattr(fd, ACCESS_LIST, a->list, (size_t)a->list_len, 0) == 0;
    return fremovexattr(fd, ACCESS_LIST) == 0 || errno == ENODATA || errno == ENOTSUP;
}
#else
static ssize_t read_list(const struct place *p, char *list, size_t size)
{
    (void)p;
    (void)list;
    (void)size;
    return 0;
}

static bool set_list(int fd, const struct access *a)
{
    (void)fd;
    (void)a;
    return true;
}
#endif

static int read_access(const struct place *p, struct access *a)
{
    struct stat st = p->st;
    if (p->old >= 0 && fstat(p->old, &st) < 0)
        return ms_os_error(errno);
    a->uid = st.st_uid;
    a->gid = st.st_gid;
    a->mode = st.st_mode & 07777;
    a->list_len = read_list(p, a->list, sizeof a->list);
    return 0;
}

static bool same_access(const struct access *a, const struct access *b)
{
    return a->uid == b->uid && a->gid == b->gid && a->mode == b->mode &&
           a->list_len == b->list_len &&
           (a->list_len <= 0 || memcmp(a->list, b->list, (size_t)a->list_len) == 0);
}

/* What of the old file's mode the new one may have. The old owner and the members of the old group
 * may be anybody to the new file, so where these were not kept, anybody may only do what they
 * could. The group's part of a mode with a list is the list's mask: it must not come alone. */
static mode_t kept_mode(const struct access *a, bool owner, bool group, bool list)
{
    mode_t mode = a->mode, user = mode >> 6 & 07, common = mode >> 3 & mode & 07;
    if (!owner)
        mode &= ~(mode_t)(S_ISUID | 077) | user << 3 | user;
    if (!group)
        mode &= ~(mode_t)(S_ISGID | 077) | common << 3 | common;
    return list ? mode : mode & ~(mode_t)(S_ISGID | 077);
}

/* Some file systems refuse, and give all files one mode. */
static int set_mode(int fd, mode_t mode)
{
    struct stat st;
    if (fchmod(fd, mode) == 0)
        return 0;
    int e = ms_os_error(errno);
    return e == -EACCES && fstat(fd, &st) == 0 && !(st.st_mode & 077 & ~mode) ? 0 : e;
}

/* The owner comes last, and only then what the old one's owner had more than others: who gives a
 * file away may be unable to change it any more. */
static int set_access(int fd, const struct access *a)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return ms_os_error(errno);
    bool owner = st.st_uid == a->uid;
    bool group = st.st_gid == a->gid || fchown(fd, (uid_t)-1, a->gid) == 0;
    bool list = (group || a->list_len == 0) && set_list(fd, a);
    mode_t mode = kept_mode(a, owner, group, list);
    int e = set_mode(fd, mode);
    if (e < 0 || owner || fchown(fd, a->uid, (gid_t)-1) < 0)
        return e;
    mode_t all = kept_mode(a, true, group, list);
    if (all != mode || all & (S_ISUID | S_ISGID)) /* which giving it away clears */
        fchmod(fd, all);
    return 0;
}

/* The new file gets the old one's permissions, if it has not got them already. */
static int take_access(struct place *p, int fd)
{
    struct access now;
    int e = read_access(p, &now);
    if (e < 0 || (p->accessed && same_access(&now, &p->access)))
        return e;
    e = set_access(fd, &now);
    p->accessed = true;
    p->access = now;
    p->unsynced = true;
    return e;
}

/* The same, from what has the name now. What was there before and is gone has left its own. */
static int take_current_access(struct place *p, int fd)
{
    int e = look(p);
    if (e == 0)
        e = check_old(p);
    return e == 0 && p->exists ? take_access(p, fd) : e;
}

/* ---- giving it its name ---------------------------------------------------------------------- */

static int sync_again(struct place *p, int fd, bool sync)
{
    int e = sync && p->unsynced ? sync_descriptor(fd) : 0;
    if (e == 0)
        p->unsynced = false;
    return e;
}

static int link_nameless(struct place *p, int fd, const char *name)
{
    char path[TEMPORARY_NAME];
    descriptor_path(fd, path);
    if (linkat(AT_FDCWD, path, p->dir, name, AT_SYMLINK_FOLLOW) < 0)
        return ms_os_error(errno);
    p->unsynced = true;
    return 0;
}

static int link_temporary(struct place *p, int fd)
{
    char name[TEMPORARY_NAME];
    int e = -EEXIST;
    flock(fd, LOCK_EX | LOCK_NB);
    for (bool random = false; e == -EEXIST; random = true) {
        choose_name(p, random, name);
        e = link_nameless(p, fd, name);
        if (e == -EEXIST && !random && remove_leftover(p, name))
            e = link_nameless(p, fd, name);
    }
    if (e == 0)
        memcpy(p->temporary, name, sizeof name);
    return e;
}

/* Where no link can be made, of files without a name or at all: the bytes move to a file that had
 * a name from the start. */
static int copy_to_named(struct place *p, struct os_object *file)
{
    struct os_object named;
    uint64_t size = 0;
    int e = ms_file_size(file, &size);
    if (e == 0)
        e = adopt_new(open_named(p), &named);
    if (e < 0)
        return e;
    e = ms_os->file_copy(file, 0, &named, 0, size);
    if (e < 0) {
        remove_temporary(p);
        ms_object_close(&named);
        return e;
    }
    ms_object_close(file);
    *file = named;
    p->accessed = false;
    p->unsynced = true;
    return 0;
}

/* -EEXIST: something has got the name meanwhile. */
static int rename_to_free(struct place *p)
{
#if defined __linux__ && defined SYS_renameat2
    if (syscall(SYS_renameat2, p->dir, p->temporary, p->dir, p->name, RENAME_NOREPLACE) == 0) {
        p->temporary[0] = 0;
        return 0;
    }
    if (errno == EEXIST)
        return -EEXIST;
#endif
    if (linkat(p->dir, p->temporary, p->dir, p->name, 0) == 0)
        return 0;
    return errno == EEXIST || p->exclusive ? ms_os_error(errno) : -ENOTSUP;
}

static int rename_over(struct place *p)
{
    if (renameat(p->dir, p->temporary, p->dir, p->name) < 0)
        return ms_os_error(errno);
    p->temporary[0] = 0;
    return 0;
}

/* Nothing has the name. -EEXIST: by now something has. -ENOTSUP: it cannot be had so. */
static int appear(struct place *p, struct os_object *file, bool sync)
{
    int e = p->temporary[0] ? -ENOTSUP : link_nameless(p, file->fd, p->name);
    if (e < 0 && e != -EEXIST) {
        e = p->temporary[0] ? 0 : copy_to_named(p, file);
        if (e == 0)
            e = sync_again(p, file->fd, sync);
        if (e == 0)
            e = rename_to_free(p);
    }
    return e < 0 ? e : sync_again(p, file->fd, sync);
}

/* Permissions are looked at again and again: they may be narrowed at any time, and syncing takes
 * long. Between the last look and renaming is nothing, and what happened there is caught up. */
static int replace(struct place *p, struct os_object *file, bool sync)
{
    int e = p->exists ? take_access(p, file->fd) : take_current_access(p, file->fd);
    if (e == 0 && !p->temporary[0] && link_temporary(p, file->fd) < 0) {
        e = copy_to_named(p, file);
        if (e == 0)
            e = take_current_access(p, file->fd);
    }
    if (e == 0)
        e = sync_again(p, file->fd, sync);
    if (e == 0)
        e = take_current_access(p, file->fd);
    if (e == 0)
        e = rename_over(p);
    return e == 0 && p->exists ? take_access(p, file->fd) : e;
}

static int publish(struct place *p, struct os_object *file, bool sync)
{
    int e = p->exists ? -EEXIST : appear(p, file, sync);
    return (e == -EEXIST || e == -ENOTSUP) && !p->exclusive ? replace(p, file, sync) : e;
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
    int copy = ms_duplicate(fd);
    if (copy < 0)
        return ms_os_error(errno);
    return close(copy) < 0 && errno != EINTR ? ms_os_error(errno) : 0;
}

static int commit(struct place *p, struct os_object *file, uint64_t size, bool sync)
{
    struct stat st;
    int e = ms_object_check(file, &st);
    if (e == 0 && (uint64_t)st.st_size != size)
        e = -EIO;
    if (e == 0)
        e = finish_writing(file->fd, sync);
    if (e == 0)
        e = publish(p, file, sync);
    if (e == 0)
        remove_leftovers(p);
    if (e == 0 && sync)
        e = sync_directory(p, file->fd);
    /* Not before: without a journal the old file's end, in the same block of inodes, would be
     * written while its name still is there. */
    return e < 0 ? e : sync_again(p, file->fd, sync);
}

int ms_save_commit(struct os_saving *s, uint64_t size, bool sync)
{
    int e = commit(s->place, &s->file, size, sync);
    ms_save_abandon(s); /* what has its name by now keeps it */
    return e;
}
