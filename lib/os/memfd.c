/* SPDX-License-Identifier: MIT */
/* Linux: objects that are memfds, or temporary files where none can be had: making them, what of
 * them is stored, sealing them and handing them to other processes. */
#include "config.h"

#include "os/internal.h"
#include "os/kernel.h"

#include "base/annotate.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <unistd.h>

/* ---- is memory promised in advance? ---------------------------------------------------------- */

enum answer { NOT_ASKED, NO, YES };

/* Where the mode cannot be read it is tried: in mode 2 no process gets a mapping that is larger
 * than what there is to promise. One that fails for other reasons (RLIMIT_AS, RLIMIT_DATA) tells
 * nothing, and then memory is taken to come on demand, as it does nearly everywhere: the other
 * assumption would take the memory of whole images that may never be written. */
static enum answer ask_accounting(void)
{
    long long mode = ms_number_in("/proc/sys/vm/overcommit_memory");
    if (mode >= 0)
        return mode == 2 ? YES : NO;
#if UINTPTR_MAX > UINT32_MAX
    size_t len = (size_t)1 << 45;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *p = mmap(NULL, len, PROT_NONE, flags, -1, 0);
    if (p == MAP_FAILED)
        return NO;
    bool refused = mprotect(p, len, PROT_READ | PROT_WRITE) < 0 && errno == ENOMEM;
    munmap(p, len);
    struct rlimit limit;
    bool limited = getrlimit(RLIMIT_DATA, &limit) < 0 || limit.rlim_cur != RLIM_INFINITY;
    return refused && !limited ? YES : NO;
#else
    return NO;
#endif
}

/* Mode 2 charges the pages of a memfd as they are touched, and a store that finds no credit
 * raises SIGBUS. Asked once: it was more than half of what a first mutable view takes. */
static bool memory_is_accounted(void)
{
    static atomic_int cache;
    int known = atomic_load_explicit(&cache, memory_order_relaxed);
    if (known == NOT_ASKED) {
        int expected = NOT_ASKED;
        known = (int)ask_accounting();
        /* An exchange, not a plain store, is what the race detectors understand. */
        atomic_compare_exchange_strong(&cache, &expected, known);
    }
    return known == YES;
}

/* ---- objects --------------------------------------------------------------------------------- */

static int memfd(void)
{
    int fd = ms_open_memfd(MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = ms_open_memfd(MFD_ALLOW_SEALING);
    return fd;
}

int ms_linux_create(struct os_object *o)
{
    int fd = memfd();
    if (fd < 0) {
        bool denied = errno == ENOSYS || errno == EPERM || errno == EACCES || errno == EINVAL;
        return denied ? ms_temporary_create(o) : ms_os_error(errno);
    }
    /* A store past the end of a shrunken object is SIGBUS. */
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
    return ms_object_adopt(fd, "memfd", o);
}

int ms_linux_commit(const struct os_object *o, uint64_t offset, uint64_t len)
{
    struct stat st;
    /* A memfd has no file system to fill up, and taking its pages one by one now would keep huge
     * ones away. */
    if (strcmp(o->kind, "memfd") == 0 && !memory_is_accounted())
        return ms_object_check(o, &st);
    return ms_object_commit(o, offset, len);
}

int ms_linux_punch(const struct os_object *o, uint64_t offset, uint64_t len)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0 || len == 0)
        return r;
    while (fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) <
           0) {
        if (errno != EINTR)
            return ms_os_error(errno);
    }
    return 0;
}

int ms_linux_data(const struct os_object *o, uint64_t offset, uint64_t limit, uint64_t *start,
                  uint64_t *end)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0)
        return r;
    if (offset >= limit || offset >= (uint64_t)st.st_size)
        return 0;
    int fd = ms_object_reopen(o, O_RDONLY | O_NONBLOCK); /* with a file offset of its own */
    if (fd < 0) {
        *start = offset;
        *end = limit < (uint64_t)st.st_size ? limit : (uint64_t)st.st_size;
        return 1;
    }
    r = ms_seek_data(fd, offset, limit, start, end);
    close(fd);
    return r;
}

bool ms_file_sealed(const struct os_object *o)
{
    struct stat st;
    struct statfs fs;
    int seals = ms_object_check(o, &st) == 0 ? fcntl(o->fd, F_GET_SEALS) : -1;
    if (seals < 0 || !(seals & F_SEAL_WRITE) || !(seals & F_SEAL_SHRINK))
        return false;
    /* Huge page file systems map at multiples of their own page size only. */
    return fstatfs(o->fd, &fs) == 0 && (unsigned long)fs.f_type != HUGETLBFS_MAGIC;
}

/* ---- handing objects to other processes ------------------------------------------------------ */

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

/* A shared mapping counts as writable if its descriptor is, whatever its protection, and no
 * object is sealed against writing under such a one. Exchanging the window for a mapping of a
 * read-only descriptor is atomic: who reads through it meets the same bytes. */
static int exchange_window(const struct os_object *o, void *window, size_t len)
{
    struct os_object read_only = *o;
    read_only.fd = ms_object_reopen(o, O_RDONLY);
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
    int made = ms_object_reopen(o, O_RDONLY);
    if (made < 0 && errno != EMFILE && errno != ENFILE && errno != ENOMEM)
        made = ms_duplicate(o->fd); /* no /proc: the seals alone must do */
    if (made < 0)
        return ms_os_error(errno);
    *fd = made;
    return 0;
}
