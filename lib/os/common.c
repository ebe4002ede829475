/* SPDX-License-Identifier: MIT */
/* What every file of lib/os uses: errors, memory, limits. */
#include "config.h"

#include "os/internal.h"

#include <errno.h>
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

/* ---- limits ---------------------------------------------------------------------------------- */

int ms_file_limit(uint64_t end)
{
    if (end > INT64_MAX)
        return -EFBIG;
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return 0;
    return end > limit.rlim_cur ? -EFBIG : 0;
}
