/* SPDX-License-Identifier: MIT */
/* Linux: what it can be told about ranges of the address space, and what it makes of them. */
#include "config.h"

#include "os/internal.h"
#include "os/kernel.h"

#include "base/annotate.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- what there is --------------------------------------------------------------------------- */

/* Looked up once: the cache holds 0 before, then the size + 1. The exchange, not a plain store,
 * is what the race detectors understand. */
size_t ms_huge_size(void)
{
    static atomic_size_t cache;
    size_t known = atomic_load_explicit(&cache, memory_order_relaxed);
    if (known)
        return known - 1;
    long long n = ms_number_in("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    size_t size = n < 0 ? 0 : (size_t)n;
    atomic_compare_exchange_strong(&cache, &known, size + 1);
    return size;
}

/* Bytes in a line of /proc/meminfo, or 0. */
static uint64_t line_of(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    return line ? (uint64_t)strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

uint64_t ms_memory_left(void)
{
    char text[1024]; /* these two are among its first lines */
    if (ms_text_in("/proc/meminfo", text, sizeof text)) {
        uint64_t available = line_of(text, "\nMemAvailable:");
        if (available)
            return available + line_of(text, "\nSwapFree:");
    }
    struct sysinfo info; /* no /proc: at least not more than there is */
    if (sysinfo(&info) < 0)
        return UINT64_MAX;
    return ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

/* ---- advice ---------------------------------------------------------------------------------- */

/* By the kernel, or behind a filter of system calls. */
static bool is_unknown(int e)
{
    return e == EINVAL || e == ENOSYS || e == EPERM;
}

static int discard_range(void *addr, size_t len)
{
    int r = madvise(addr, len, MADV_DONTNEED);
    if (r < 0 && is_unknown(errno))
        r = madvise(addr, len, MADV_DONTNEED_LOCKED); /* locked in memory */
    if (r < 0)
        return is_unknown(errno) ? -ENOTSUP : ms_map_error();
    MS_DEFINED(addr, len); /* memcheck does not know that the bytes are the object's again */
    return 0;
}

/* process_madvise takes MADV_DONTNEED for the caller's own memory since Linux 6.13, and needs no
 * descriptor for that since 6.15. Ranges locked in memory are refused there. */
static size_t discard_at_once(const struct os_range *v, size_t n)
{
    size_t done = 0;
#ifdef SYS_process_madvise
    enum { SELF = -10001, BATCH = 64 };
    struct iovec vec[BATCH];
    while (n - done > 1) {
        size_t batch = n - done < BATCH ? n - done : BATCH, len = 0;
        for (size_t i = 0; i < batch; i++) {
            const struct os_range *r = &v[done + i];
            vec[i] = (struct iovec){(void *)r->start, r->end - r->start};
            len += vec[i].iov_len;
        }
        if (syscall(SYS_process_madvise, SELF, vec, batch, MADV_DONTNEED, 0) != (ssize_t)len)
            break;
        for (size_t i = 0; i < batch; i++)
            MS_DEFINED(vec[i].iov_base, vec[i].iov_len);
        done += batch;
    }
#else
    (void)v;
    (void)n;
#endif
    return done;
}

int ms_linux_discard(const struct os_range *v, size_t n)
{
    int r = 0;
    for (size_t i = discard_at_once(v, n); i < n && r == 0; i++)
        r = discard_range((void *)v[i].start, v[i].end - v[i].start);
    return r;
}

int ms_linux_populate(void *addr, size_t len)
{
    int r;
    do
        r = madvise(addr, len, MADV_POPULATE_READ);
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return 0;
    return is_unknown(errno) ? ms_touch(addr, len) : ms_map_error();
}

int ms_linux_advise(void *addr, size_t len, enum os_advice advice)
{
    static const int calls[] = {
        [OS_NODUMP] = MADV_DONTDUMP,
        [OS_NOFORK] = MADV_DONTFORK,
        [OS_FORK] = MADV_DOFORK,
        [OS_HUGE] = MADV_HUGEPAGE,
        [OS_WILL_WRITE] = MADV_POPULATE_WRITE,
        /* says nothing new about memory objects, and mappings that differ in it are not merged */
        [OS_BOUNDARY] = MADV_RANDOM,
        [OS_UNGUARD] = MADV_GUARD_REMOVE,
    };
    if (madvise(addr, len, calls[advice]) == 0)
        return 0;
    return is_unknown(errno) ? -ENOTSUP : ms_map_error();
}

int ms_linux_collapse(void *addr, size_t len)
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
