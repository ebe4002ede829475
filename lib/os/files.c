/* SPDX-License-Identifier: MIT */
/* Files as objects, for both tables: unlinked temporary files, and the user's own, which are
 * opened or taken over by descriptor, and made durable. */
#include "config.h"

#include "os/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

enum { IOV_BATCH = 128 }; /* 2 KiB of stack; below every system's IOV_MAX */

/* ---- objects --------------------------------------------------------------------------------- */

/* A file in dir that has no name, or loses it at once. */
static int nameless_file(const char *dir)
{
#ifdef O_TMPFILE
    int fd = ms_openat(AT_FDCWD, dir, O_TMPFILE | O_EXCL | O_RDWR, 0600);
    if (fd >= 0 || errno == EMFILE || errno == ENFILE || errno == ENOMEM)
        return fd;
#endif
    char path[64];
    snprintf(path, sizeof path, "%s/memsnap-XXXXXX", dir);
    int named = ms_open_temporary(path);
    if (named >= 0)
        unlink(path);
    return named;
}

/* Bytes that the file system of an open file has room for. */
static uint64_t room_of(int fd)
{
    struct statvfs fs;
    return fstatvfs(fd, &fs) < 0 ? 0 : (uint64_t)fs.f_bavail * fs.f_frsize;
}

/* In the first directory with room for as much as most families store, else where there is most:
 * in a container /dev/shm may have 64 KiB, or be full. */
int ms_temporary_create(struct os_object *o)
{
    static const char *const dirs[] = {"/dev/shm", "/var/tmp", "/tmp"};
    const uint64_t enough = 64 << 20;
    uint64_t most = 0;
    int best = -1;
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0] && most < enough; i++) {
        int fd = nameless_file(dirs[i]);
        uint64_t room = fd < 0 ? 0 : room_of(fd);
        if (fd >= 0 && best >= 0)
            close(room > most ? best : fd);
        if (fd >= 0 && (best < 0 || room > most)) {
            best = fd;
            most = room;
        }
        if (fd < 0 && best < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
            return ms_os_error(errno);
    }
    if (best >= 0)
        return ms_object_adopt(best, "file", o);
    return errno == ENOSPC || errno == EDQUOT ? ms_os_error(errno) : -ENOTSUP;
}

int ms_object_grow(const struct os_object *o, uint64_t size)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0)
        return r;
    if ((uint64_t)st.st_size >= size)
        return 0;
    r = ms_file_limit(size);
    if (r < 0)
        return r;
    while (ftruncate(o->fd, (off_t)size) < 0) {
        if (errno != EINTR)
            return ms_os_error(errno);
    }
    return 0;
}

/* So much may be taken before it is needed. */
enum { MAX_COMMIT = 16 << 20 };

/* Bytes of [offset, end) that are holes; no more than a bit above MAX_COMMIT are counted. The
 * object is ours, and so is its file offset. */
static uint64_t bytes_of_holes(const struct os_object *o, uint64_t offset, uint64_t end)
{
    uint64_t holes = 0, start, next;
    while (offset < end && holes <= MAX_COMMIT) {
        if (ms_seek_data(o->fd, offset, end, &start, &next) != 1)
            start = next = end;
        holes += start - offset;
        offset = next;
    }
    return holes;
}

int ms_object_commit(const struct os_object *o, uint64_t offset, uint64_t len)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0 || len == 0)
        return r;
    if (len > UINT64_MAX - offset)
        return -EFBIG;
    r = ms_file_limit(offset + len);
    if (r < 0)
        return r;
    if (bytes_of_holes(o, offset, offset + len) > MAX_COMMIT)
        return -ENOTSUP;
    int e;
    do
        e = posix_fallocate(o->fd, (off_t)offset, (off_t)len);
    while (e == EINTR);
    return e ? ms_os_error(e) : 0;
}

/* Up to IOV_BATCH vectors of v from byte `skip` of the first on. */
static int next_batch(const struct os_iov *v, size_t n, size_t skip, struct iovec *batch)
{
    size_t count = n < IOV_BATCH ? n : IOV_BATCH;
    for (size_t i = 0; i < count; i++)
        batch[i] = (struct iovec){v[i].base, v[i].len};
    if (skip > 0) {
        batch[0].iov_base = (char *)batch[0].iov_base + skip;
        batch[0].iov_len -= skip;
    }
    return (int)count;
}

/* Moves *v, *n, *skip on by `done` bytes. */
static void advance(const struct os_iov **v, size_t *n, size_t *skip, size_t done)
{
    done += *skip;
    while (*n > 0 && done >= (*v)->len) {
        done -= (*v)->len;
        ++*v;
        --*n;
    }
    *skip = done;
}

static uint64_t total_length(const struct os_iov *v, size_t n)
{
    uint64_t len = 0;
    for (size_t i = 0; i < n; i++)
        len += v[i].len;
    return len;
}

int ms_object_write(const struct os_object *o, const struct os_iov *v, size_t n, uint64_t offset)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0)
        return r;
    uint64_t len = total_length(v, n);
    r = len > UINT64_MAX - offset ? -EFBIG : ms_file_limit(offset + len);
    if (r < 0)
        return r;
    struct iovec batch[IOV_BATCH];
    size_t skip = 0;
    advance(&v, &n, &skip, 0);
    while (n > 0) {
        int count = next_batch(v, n, skip, batch);
        ssize_t done = pwritev(o->fd, batch, count, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? ms_os_error(errno) : -EIO;
        offset += (uint64_t)done;
        advance(&v, &n, &skip, (size_t)done);
    }
    return 0;
}

static void fill_with_zeros(const struct os_iov *v, size_t n, size_t skip)
{
    for (; n > 0; v++, n--, skip = 0)
        memset((char *)v->base + skip, 0, v->len - skip);
}

int ms_object_read(const struct os_object *o, const struct os_iov *v, size_t n, uint64_t offset)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0)
        return r;
    struct iovec batch[IOV_BATCH];
    size_t skip = 0;
    advance(&v, &n, &skip, 0);
    while (n > 0) {
        int count = next_batch(v, n, skip, batch);
        ssize_t done = preadv(o->fd, batch, count, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return ms_os_error(errno);
        if (done == 0) {
            fill_with_zeros(v, n, skip);
            return 0;
        }
        offset += (uint64_t)done;
        advance(&v, &n, &skip, (size_t)done);
    }
    return 0;
}

int ms_seek_data(int fd, uint64_t offset, uint64_t limit, uint64_t *start, uint64_t *end)
{
    if (offset >= limit)
        return 0;
    off_t data = (off_t)offset, hole = (off_t)limit;
#ifdef SEEK_DATA
    data = lseek(fd, (off_t)offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return 0;
    if (data < 0)
        data = (off_t)offset; /* the file system cannot tell: everything is data */
    else
        hole = lseek(fd, data, SEEK_HOLE);
    if ((uint64_t)data >= limit)
        return 0;
    if (hole <= data || (uint64_t)hole > limit)
        hole = (off_t)limit;
#endif
    *start = (uint64_t)data;
    *end = (uint64_t)hole;
    return 1;
}

/* A duplicated descriptor shares its file offset with the caller's, which is put back. */
int ms_posix_data(const struct os_object *o, uint64_t offset, uint64_t limit, uint64_t *start,
                  uint64_t *end)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0)
        return r;
    off_t saved = lseek(o->fd, 0, SEEK_CUR);
    r = ms_seek_data(o->fd, offset, limit, start, end);
    lseek(o->fd, saved, SEEK_SET);
    return r;
}

/* ---- the user's files ------------------------------------------------------------------------ */

static int check_type(const struct stat *st)
{
    if (S_ISDIR(st->st_mode))
        return -EISDIR;
    return S_ISREG(st->st_mode) ? 0 : -EINVAL;
}

/* Files of /proc and the like are regular, say they are empty, and yield bytes when read: no
 * image can be made of them. Others (memfd_secret) cannot be read by system calls at all. */
static int check_reading(int fd, const struct stat *st)
{
    char byte;
    ssize_t n;
    do
        n = pread(fd, &byte, 1, 0);
    while (n < 0 && errno == EINTR);
    if (st->st_size > 0)
        return n >= 0 ? 0 : errno == EINVAL || errno == ESPIPE ? -ENOTSUP : ms_os_error(errno);
    return n == 0 ? 0 : -EINVAL;
}

/* With O_DIRECT bytes can be read in whole blocks only. The mode is the open file's, so that it
 * cannot be switched off for this descriptor alone. */
static int leave_direct(struct os_object *o)
{
#ifdef O_DIRECT
    int flags = fcntl(o->fd, F_GETFL);
    if (flags < 0 || !(flags & O_DIRECT))
        return 0;
    int fd = ms_object_reopen(o, (flags & O_ACCMODE) | O_NONBLOCK);
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? ms_os_error(errno)
                                                                     : -ENOTSUP;
    close(o->fd);
    o->fd = fd;
#else
    (void)o;
#endif
    return 0;
}

/* "memfd" for one that somebody else made. tmpfs files have seals too, but are born with
 * F_SEAL_SEAL and, as a rule, a name. */
static const char *kind_of(int fd, const struct stat *st)
{
#ifdef F_GET_SEALS
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals >= 0 && seals != F_SEAL_SEAL && st->st_nlink == 0)
        return "memfd";
#else
    (void)fd;
    (void)st;
#endif
    return "file";
}

/* Takes over fd. */
static int adopt_file(int fd, struct os_object *o, uint64_t *size)
{
    struct os_object made;
    int r = ms_object_adopt(fd, "file", &made);
    if (r < 0)
        return r;
    struct stat st;
    r = ms_object_check(&made, &st);
    if (r == 0)
        r = check_type(&st);
    if (r == 0)
        r = leave_direct(&made);
    if (r == 0)
        r = check_reading(made.fd, &st);
    if (r < 0) {
        ms_object_close(&made);
        return r;
    }
    made.kind = kind_of(made.fd, &st);
    if (strcmp(made.kind, "memfd") != 0)
        made.nameless = false; /* its owner may give it a name later */
    *o = made;
    *size = (uint64_t)st.st_size;
    return 0;
}

int ms_file_open(const char *path, bool writable, struct os_object *o, uint64_t *size)
{
    /* Looked at before it is opened, because opening a device may do something. */
    struct stat st;
    if (stat(path, &st) < 0)
        return ms_os_error(errno);
    int r = check_type(&st);
    if (r < 0)
        return r;
    /* O_NONBLOCK: should it have become a FIFO in between. */
    int fd = ms_openat(AT_FDCWD, path, (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK, 0);
    if (fd < 0)
        /* EAGAIN: another process has a lease on it */
        return errno == EAGAIN ? -EACCES : ms_os_error(errno);
    return adopt_file(fd, o, size);
}

int ms_file_dup(int fd, bool writable, struct os_object *o, uint64_t *size)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -EBADF;
#ifdef O_PATH
    if (flags & O_PATH)
        return -EBADF;
#endif
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -EBADF;
    int r = check_type(&st);
    if (r < 0)
        return r;
    int access = flags & O_ACCMODE;
    if (access == O_WRONLY || (writable && access != O_RDWR))
        return -EACCES;
    int copy = ms_duplicate(fd);
    if (copy < 0)
        return ms_os_error(errno);
    return adopt_file(copy, o, size);
}

int ms_file_size(const struct os_object *o, uint64_t *size)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r == 0)
        *size = (uint64_t)st.st_size;
    return r;
}

int ms_flush(void *addr, size_t len, const struct os_object *o)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0)
        return r;
    if (len > 0 && msync(addr, len, MS_SYNC) < 0)
        return ms_os_error(errno);
    while (fsync(o->fd) < 0) {
        if (errno != EINTR)
            return ms_os_error(errno);
    }
    return 0;
}
