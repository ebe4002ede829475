/* What every file of lib/os uses: errors, memory, descriptors and whose they are, limits, and
 * numbers that the kernel shows in files. */
#include "config.h"

#include "os/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- errors ---------------------------------------------------------------------------------- */

int ms_os_error(int e)
{
    switch (e) {
    case EACCES:
    case EBADF:
    case EBUSY:
    case EDQUOT:
    case EEXIST:
    case EFAULT:
    case EFBIG:
    case EINVAL:
    case EIO:
    case EISDIR:
    case ELOOP:
    case EMFILE:
    case EMLINK:
    case ENAMETOOLONG:
    case ENFILE:
    case ENOENT:
    case ENOMEM:
    case ENOSPC:
    case ENOTDIR:
    case ENOTSUP:
    case EROFS:
        return -e;
    case EPERM:
    case ETXTBSY:
        return -EACCES;
    case EAGAIN: /* more would be locked in memory than may be */
        return -ENOMEM;
    case EOVERFLOW:
        return -EFBIG;
    case ENOSYS:
    case ENOTTY:
    case ENODEV:
#if EOPNOTSUPP != ENOTSUP
    case EOPNOTSUPP:
#endif
        return -ENOTSUP;
    case ENXIO:
        return -EINVAL;
    default:
        return -EIO;
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Asked once, when the library is loaded: sysconf was 3-5% of a restore. A caller that is a
 * constructor itself may be earlier. */
static size_t page_bytes;

__attribute__((constructor)) static void ask_page_size(void)
{
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
}

size_t ms_page_size(void)
{
    return page_bytes ? page_bytes : (size_t)sysconf(_SC_PAGESIZE);
}

void *ms_alloc(size_t size)
{
    return calloc(1, size);
}

void *ms_realloc(void *p, size_t size)
{
    return realloc(p, size);
}

void ms_free(void *p)
{
    int saved = errno;
    free(p);
    errno = saved;
}

/* ---- descriptors ----------------------------------------------------------------------------- */

/* Below 3 a descriptor would be taken for standard input or output by whoever opens or inherits
 * those. */
int ms_above_standard(int fd)
{
    if (fd > 2 || fd < 0)
        return fd;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    /* EINVAL: no descriptor above 2 is allowed at all */
    int e = errno == EINVAL ? EMFILE : errno;
    close(fd);
    errno = e;
    return moved;
}

int ms_object_adopt(int fd, const char *kind, struct os_object *o)
{
    fd = ms_above_standard(fd);
    if (fd < 0)
        return ms_os_error(errno);
    struct stat st;
    if (fstat(fd, &st) < 0) {
        int r = ms_os_error(errno);
        close(fd);
        return r;
    }
    *o = (struct os_object){.fd = fd,
                            .dev = (uint64_t)st.st_dev,
                            .ino = (uint64_t)st.st_ino,
                            .nameless = st.st_nlink == 0,
                            .kind = kind};
    return 0;
}

int ms_object_reopen(const struct os_object *o, int flags)
{
    char path[32];
    struct stat st;
    snprintf(path, sizeof path, "/proc/self/fd/%d", o->fd);
    int fd = ms_above_standard(open(path, flags | O_CLOEXEC | O_NOCTTY));
    if (fd < 0 ||
        (fstat(fd, &st) == 0 && (uint64_t)st.st_dev == o->dev && (uint64_t)st.st_ino == o->ino))
        return fd;
    close(fd);
    errno = ENOENT;
    return -1;
}

int ms_object_check(const struct os_object *o, struct stat *st)
{
    if (o->fd < 0 || fstat(o->fd, st) < 0)
        return -EBADF;
    if ((uint64_t)st->st_dev != o->dev || (uint64_t)st->st_ino != o->ino)
        return -EBADF;
    return o->nameless && st->st_nlink > 0 ? -EBADF : 0;
}

void ms_object_close(struct os_object *o)
{
    int saved = errno;
    struct stat st;
    if (ms_object_check(o, &st) == 0)
        close(o->fd);
    o->fd = -1;
    errno = saved;
}

/* ---- limits and numbers ---------------------------------------------------------------------- */

int ms_file_limit(uint64_t end)
{
    if (end > INT64_MAX)
        return -EFBIG;
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return 0;
    return end > limit.rlim_cur ? -EFBIG : 0;
}

bool ms_text_in(const char *path, char *text, size_t size)
{
    int fd = ms_above_standard(open(path, O_RDONLY | O_CLOEXEC));
    if (fd < 0)
        return false;
    ssize_t n;
    do
        n = read(fd, text, size - 1);
    while (n < 0 && errno == EINTR);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

long long ms_number_in(const char *path)
{
    char text[32], *end;
    if (!ms_text_in(path, text, sizeof text))
        return -1;
    long long value = strtoll(text, &end, 10);
    return end == text ? -1 : value;
}
