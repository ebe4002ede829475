/* The operating system by Linux means. What a kernel lacks is found out by calling it, never by
 * its version. */
#include "config.h"

#include "os/internal.h"

#include "base/annotate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the oldest headers this is to be compiled with. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef HUGETLBFS_MAGIC
#define HUGETLBFS_MAGIC 0x958458f6
#endif

/* ---- small numbers that the kernel shows in files -------------------------------------------- */

/* -1: cannot be read. */
static long long number_in(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    char text[32] = "";
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return -1;
    char *end;
    long long value = strtoll(text, &end, 10);
    return end == text ? -1 : value;
}

/* Looked up once: the cache holds 0 before, then the size + 1. The exchange, not a plain store,
 * is what the race detectors understand. */
static size_t huge_size(void)
{
    static atomic_size_t cache;
    size_t known = atomic_load_explicit(&cache, memory_order_relaxed);
    if (known)
        return known - 1;
    long long n = number_in("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    size_t size = n < 0 ? 0 : (size_t)n;
    atomic_compare_exchange_strong(&cache, &known, size + 1);
    return size;
}

/* Mode 2 charges the pages of a memfd as they are touched, and a store that finds no credit
 * raises SIGBUS. Without an answer that is assumed. */
static bool memory_is_accounted(void)
{
    long long mode = number_in("/proc/sys/vm/overcommit_memory");
    return mode < 0 || mode == 2;
}

/* ---- address space --------------------------------------------------------------------------- */

static int discard(void *addr, size_t len)
{
    int r = madvise(addr, len, MADV_DONTNEED);
    if (r < 0 && errno == EINVAL)
        r = madvise(addr, len, MADV_DONTNEED_LOCKED); /* locked in memory */
    if (r < 0)
        return errno == EINVAL ? -ENOTSUP : ms_map_error();
    MS_DEFINED(addr, len); /* memcheck does not know that the bytes are the object's again */
    return 0;
}

static int populate(void *addr, size_t len)
{
    int r;
    do
        r = madvise(addr, len, MADV_POPULATE_READ);
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return 0;
    return errno == EINVAL ? ms_touch(addr, len) : ms_map_error();
}

static int advise(void *addr, size_t len, enum os_advice advice)
{
    static const int calls[] = {
        [OS_NODUMP] = MADV_DONTDUMP,
        [OS_NOFORK] = MADV_DONTFORK,
        [OS_FORK] = MADV_DOFORK,
        [OS_HUGE] = MADV_HUGEPAGE,
        [OS_WILL_WRITE] = MADV_POPULATE_WRITE,
        /* says nothing new about memory objects, and mappings that differ in it are not merged */
        [OS_BOUNDARY] = MADV_RANDOM,
    };
    if (madvise(addr, len, calls[advice]) == 0)
        return 0;
    return errno == EINVAL ? -ENOTSUP : ms_map_error();
}

static int collapse(void *addr, size_t len)
{
    enum { ATTEMPTS = 3 }; /* EAGAIN: a page was busy for a moment */
    int r = -1;
    for (int i = 0; i < ATTEMPTS; i++) {
        r = madvise(addr, len, MADV_COLLAPSE);
        if (r == 0 || errno != EAGAIN)
            break;
    }
    if (r == 0)
        return 0;
    return errno == ENOMEM ? -ENOMEM : -ENOTSUP;
}

/* ---- objects --------------------------------------------------------------------------------- */

static int memfd(void)
{
#ifdef SYS_memfd_create
    int fd = (int)syscall(SYS_memfd_create, "memsnap",
                          MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = (int)syscall(SYS_memfd_create, "memsnap", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd;
#else
    errno = ENOSYS;
    return -1;
#endif
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

static int commit(const struct os_object *o, uint64_t offset, uint64_t len)
{
    struct stat st;
    /* A memfd has no file system to fill up, and taking its pages one by one now would keep huge
     * ones away. */
    if (strcmp(o->kind, "memfd") == 0 && !memory_is_accounted())
        return ms_object_check(o, &st);
    return ms_object_commit(o, offset, len);
}

static int punch(const struct os_object *o, uint64_t offset, uint64_t len)
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

/* A descriptor of the object with a file offset of its own: the offset of a duplicated one is
 * the caller's too. -1: no /proc. */
static int private_descriptor(const struct os_object *o)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", o->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -1;
    struct stat st;
    if (fstat(fd, &st) == 0 && (uint64_t)st.st_dev == o->dev && (uint64_t)st.st_ino == o->ino)
        return fd;
    close(fd);
    return -1;
}

static int object_data(const struct os_object *o, uint64_t offset, uint64_t limit, uint64_t *start,
                       uint64_t *end)
{
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0)
        return r;
    if (offset >= limit || offset >= (uint64_t)st.st_size)
        return 0;
    int fd = private_descriptor(o);
    if (fd < 0) {
        *start = offset;
        *end = limit < (uint64_t)st.st_size ? limit : (uint64_t)st.st_size;
        return 1;
    }
    r = ms_seek_data(fd, offset, limit, start, end);
    close(fd);
    return r;
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool file_sealed(const struct os_object *o)
{
    struct stat st;
    struct statfs fs;
    int seals = ms_object_check(o, &st) == 0 ? fcntl(o->fd, F_GET_SEALS) : -1;
    if (seals < 0 || !(seals & F_SEAL_WRITE) || !(seals & F_SEAL_SHRINK))
        return false;
    /* Huge page file systems map at multiples of their own page size only. */
    return fstatfs(o->fd, &fs) == 0 && (unsigned long)fs.f_type != HUGETLBFS_MAGIC;
}

static int file_copy(const struct os_object *src, uint64_t from, const struct os_object *dst,
                     uint64_t to, uint64_t len)
{
    if (len > 0 && ms_file_clone(src, from, dst, to, len) == 0)
        return 0;
    return ms_file_copy(&os_linux, src, from, dst, to, len);
}

const struct os os_linux = {
    .name = "linux",
    .caps = OS_CAP_DISCARD | OS_CAP_PUNCH | OS_CAP_HUGE,
    .page_size = ms_page_size,
    .huge_size = huge_size,
    .alloc = ms_alloc,
    .realloc = ms_realloc,
    .free = ms_free,
    .reserve = ms_reserve,
    .map_new = ms_map_new,
    .map_over = ms_map_over,
    .unmap = ms_unmap,
    .protect = ms_protect,
    .discard = discard,
    .populate = populate,
    .advise = advise,
    .collapse = collapse,
    .huge_bytes = ms_huge_bytes,
    .present_bytes = ms_present_bytes,
    .object_create = ms_linux_create,
    .object_grow = ms_object_grow,
    .object_commit = commit,
    .object_write = ms_object_write,
    .object_read = ms_object_read,
    .object_punch = punch,
    .object_data = object_data,
    .object_close = ms_object_close,
    .file_open = ms_file_open,
    .file_dup = ms_file_dup,
    .file_sealed = file_sealed,
    .file_size = ms_file_size,
    .file_copy = file_copy,
    .flush = ms_flush,
    .save_open = ms_save_open,
    .save_commit = ms_save_commit,
    .save_abandon = ms_save_abandon,
    .file_clone = ms_file_clone,
    .export_create = ms_export_create,
    .object_seal = ms_object_seal,
    .object_share = ms_object_share,
    .candidates = ms_candidates,
    .track = ms_track,
    .untrack = ms_untrack,
    .written = ms_written,
    .write_block_close = ms_write_block_close,
    .write_block_candidates = ms_write_block_candidates,
    .write_block_open = ms_write_block_open,
};
