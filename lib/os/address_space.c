/* SPDX-License-Identifier: MIT */
/* The address space by POSIX means: reserving, mapping objects, protecting. Serves both tables. */
#include "config.h"

#include "os/internal.h"

#include "base/annotate.h"
#include "memsnap.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#ifdef MS_TSAN
#include <sys/syscall.h>
#endif
#include <unistd.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0 /* the address is a hint then; the result is compared anyway */
#endif

/* ---- errors of calls that change mappings ---------------------------------------------------- */

/* True if the address space is not allowed to grow by len. */
static bool address_space_full(size_t len)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return false;
    long long used = ms_number_in("/proc/self/statm");
    if (used < 0)
        return true; /* cannot tell: the limit that is set is the likelier wall */
    return (uint64_t)used * ms_page_size() + len > limit.rlim_cur;
}

/* Does what a mapping call may need at the most: one more mapping, and two splits of it. None of
 * it counts as data or is charged, so it fails for lack of address space or for too many
 * mappings, and the first can be asked for. Counting the lines of /proc/self/maps would take 30
 * ms where it matters. */
static bool mappings_exhausted(void)
{
    size_t page = ms_page_size();
    char *p = mmap(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return !address_space_full(3 * page);
    bool exhausted = mprotect(p + page, page, PROT_READ) < 0 && errno == ENOMEM;
    munmap(p, 3 * page);
    return exhausted;
}

int ms_map_error(void)
{
    int e = errno;
    if (e == ENOMEM && mappings_exhausted())
        return -EMLINK;
    return ms_os_error(e);
}

/* ---- mapping --------------------------------------------------------------------------------- */

/* What goes into mmap apart from the place. */
struct content {
    int prot, flags, fd;
    off_t offset;
};

/* Exchanged, not stored: the race detectors understand that. */
static atomic_uint object_views;

bool ms_object_views_exist(void)
{
    return atomic_load_explicit(&object_views, memory_order_relaxed);
}

static int content_of(const struct os_object *o, uint64_t offset, enum os_share how,
                      struct content *c)
{
    if (!o) {
        *c = (struct content){PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                              -1, 0};
        return 0;
    }
    struct stat st;
    int r = ms_object_check(o, &st);
    if (r < 0)
        return r;
    if (how == OS_PRIVATE && !ms_object_views_exist())
        atomic_exchange_explicit(&object_views, 1, memory_order_relaxed);
    c->prot = how == OS_SHARED_READ ? PROT_READ : PROT_READ | PROT_WRITE;
    c->flags = how == OS_PRIVATE ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
    c->fd = o->fd;
    c->offset = (off_t)offset;
    return 0;
}

static void *map(const struct content *c, void *at, size_t len, int flags)
{
    return mmap(at, len, c->prot, c->flags | flags, c->fd, c->offset);
}

static void *map_fixed(const struct content *c, void *at, size_t len)
{
#if defined MS_TSAN && defined SYS_mmap
    /* ThreadSanitizer's mmap takes this for a write to the whole range. To those who store there
     * meanwhile a freeze changes nothing. */
    return (void *)syscall(SYS_mmap, at, len, c->prot, c->flags | MAP_FIXED, c->fd, c->offset);
#else
    return map(c, at, len, MAP_FIXED);
#endif
}

static bool is_aligned(const void *p, size_t align)
{
    return ((uintptr_t)p & (align - 1)) == 0;
}

/* A range of address space that is taken, and aligned. */
static int reserve_larger(size_t len, size_t align, char **out)
{
    size_t slack = align - ms_page_size();
    if (len > SIZE_MAX - slack)
        return -ENOMEM;
    char *p =
        mmap(NULL, len + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return ms_map_error();
    size_t before = (size_t)(-(uintptr_t)p & (align - 1));
    if (before > 0)
        munmap(p, before);
    if (slack > before)
        munmap(p + before + len, slack - before);
    *out = p + before;
    return 0;
}

/* Where the kernel puts it, if that is aligned; else just below, which is free as a
 * rule because the kernel hands out addresses downwards; else inside a larger reservation. */
static int map_aligned(const struct content *c, size_t len, size_t align, void **out)
{
    void *hint = NULL;
    for (int attempt = 0; attempt < 2; attempt++) {
        void *p = map(c, hint, len, 0);
        if (p == MAP_FAILED) /* EINVAL for zero pages: of an absurd length */
            return errno == EINVAL && c->fd < 0 ? -ENOMEM : ms_map_error();
        if (is_aligned(p, align)) {
            *out = p;
            return 0;
        }
        munmap(p, len);
        hint = (void *)((uintptr_t)p & ~(uintptr_t)(align - 1));
    }
    char *place = NULL;
    int r = reserve_larger(len, align, &place);
    if (r < 0)
        return r;
    if (map_fixed(c, place, len) == MAP_FAILED) {
        r = ms_map_error();
        munmap(place, len);
        return r;
    }
    *out = place;
    return 0;
}

static int reserve_at(void *at, size_t len, void **out)
{
    struct content c;
    content_of(NULL, 0, OS_PRIVATE, &c);
    void *p = map(&c, at, len, MAP_FIXED_NOREPLACE);
    if (p == MAP_FAILED)
        return ms_map_error();
    /* kernels before 4.17, other systems and valgrind take the address as a hint */
    if (p != at) {
        munmap(p, len);
        return -EEXIST;
    }
    *out = p;
    return 0;
}

int ms_reserve(void *at, size_t len, size_t align, void **out)
{
    if (at)
        return reserve_at(at, len, out);
    struct content c;
    content_of(NULL, 0, OS_PRIVATE, &c);
    return map_aligned(&c, len, align, out);
}

int ms_map_new(const struct os_object *o, uint64_t offset, size_t len, size_t align,
               enum os_share how, void **out)
{
    struct content c;
    int r = content_of(o, offset, how, &c);
    return r < 0 ? r : map_aligned(&c, len, align, out);
}

int ms_map_over(const struct os_object *o, uint64_t offset, void *addr, size_t len,
                enum os_share how)
{
    struct content c;
    int r = content_of(o, offset, how, &c);
    if (r < 0)
        return r;
    return map_fixed(&c, addr, len) == MAP_FAILED ? ms_map_error() : 0;
}

void ms_unmap(void *addr, size_t len)
{
    int saved = errno;
    /* At the limit of mappings a range that the kernel has merged with its neighbours cannot be
     * cut out: then the addresses are lost, but not the memory. */
#ifdef MADV_DONTNEED
    if (munmap(addr, len) < 0)
        madvise(addr, len, MADV_DONTNEED);
#else
    munmap(addr, len);
#endif
    errno = saved;
}

/* Where writing implies reading, as it does on Linux with most processors, a protection that no
 * view has keeps a mapping apart from its neighbours. */
#if defined __linux__ && !defined __mips__
#define PROT_LOOK PROT_WRITE
#else
#define PROT_LOOK PROT_READ
#endif

int ms_protect(void *addr, size_t len, int access)
{
    int prot = access & OS_ACCESS_LOOK ? PROT_LOOK : PROT_NONE;
    if (access & MEMSNAP_ACCESS_READ)
        prot |= PROT_READ;
    if (access & MEMSNAP_ACCESS_WRITE)
        prot |= PROT_READ | PROT_WRITE;
    if (access & MEMSNAP_ACCESS_EXEC)
        prot |= PROT_EXEC;
    return mprotect(addr, len, prot) < 0 ? ms_map_error() : 0;
}

int ms_touch(void *addr, size_t len)
{
    size_t page = ms_page_size();
    MS_RACY_READ_BEGIN();
    for (size_t at = 0; at < len; at += page)
        (void)*((volatile const char *)addr + at);
    MS_RACY_READ_END();
    return 0;
}

int ms_share_zeros(void *addr, size_t len)
{
    int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
    return mmap(addr, len, PROT_READ, flags, -1, 0) == MAP_FAILED ? ms_map_error() : 0;
}

/* None of it is POSIX, but keeping a shared mapping out of forked children is worth taking where
 * there is a way. */
int ms_posix_advise(void *addr, size_t len, enum os_advice advice)
{
#if defined MADV_DONTFORK && defined MADV_DOFORK
    if (advice == OS_NOFORK || advice == OS_FORK)
        return madvise(addr, len, advice == OS_NOFORK ? MADV_DONTFORK : MADV_DOFORK) == 0
                   ? 0
                   : ms_map_error();
#elif defined INHERIT_NONE
    if (advice == OS_NOFORK || advice == OS_FORK)
        return minherit(addr, len, advice == OS_NOFORK ? INHERIT_NONE : INHERIT_COPY) == 0
                   ? 0
                   : ms_map_error();
#endif
    (void)addr;
    (void)len;
    (void)advice;
    return -ENOTSUP;
}
