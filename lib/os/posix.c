/* The operating system by POSIX means: errors, memory and address space, which the Linux table
 * shares; the os_posix table, and the choice of the default one. */
#include "config.h"

#include "os/internal.h"

#include "base/annotate.h"
#include "memsnap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
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

/* True if the address space is not allowed to grow by len. */
static bool address_space_full(size_t len)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return false;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true; /* cannot tell: the limit that is set is the likelier wall */
    char text[64] = "";
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return true;
    unsigned long long used = strtoull(text, NULL, 10) * ms_page_size();
    return used + len > limit.rlim_cur;
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

static size_t no_huge_pages(void)
{
    return 0;
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

/* ---- address space --------------------------------------------------------------------------- */

/* What goes into mmap apart from the place. */
struct content {
    int prot, flags, fd;
    off_t offset;
};

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

int ms_protect(void *addr, size_t len, int access)
{
    int prot = PROT_NONE;
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

static int cannot_discard(void *addr, size_t len)
{
    (void)addr;
    (void)len;
    return -ENOTSUP; /* POSIX lets madvise do nothing */
}

/* None of it is POSIX, but keeping a shared mapping out of forked children is worth taking where
 * there is a way. */
static int advise(void *addr, size_t len, enum os_advice advice)
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

static size_t no_bytes(const void *addr, size_t len)
{
    (void)addr;
    (void)len;
    return 0;
}

/* ---- objects --------------------------------------------------------------------------------- */

static int cannot_punch(const struct os_object *o, uint64_t offset, uint64_t len)
{
    (void)o;
    (void)offset;
    (void)len;
    return -ENOTSUP;
}

/* A duplicated descriptor shares its file offset with the caller's, which is put back. */
static int object_data(const struct os_object *o, uint64_t offset, uint64_t limit, uint64_t *start,
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

/* ---- files and dirty pages ------------------------------------------------------------------- */

static bool never_sealed(const struct os_object *o)
{
    (void)o;
    return false;
}

static int file_copy(const struct os_object *src, uint64_t from, const struct os_object *dst,
                     uint64_t to, uint64_t len)
{
    return ms_file_copy(&os_posix, src, from, dst, to, len);
}

static int cannot_export(struct os_object *o)
{
    (void)o;
    return -ENOTSUP;
}

static int cannot_seal(const struct os_object *o, void *window, size_t len)
{
    (void)o;
    (void)window;
    (void)len;
    return -ENOTSUP;
}

static int cannot_share(const struct os_object *o, uint64_t size, int *fd)
{
    (void)o;
    (void)size;
    (void)fd;
    return -ENOTSUP;
}

static int no_candidates(enum os_source source, uintptr_t *cursor, uintptr_t end,
                         struct os_range *v, size_t max)
{
    (void)source;
    (void)cursor;
    (void)end;
    (void)v;
    (void)max;
    return -ENOTSUP;
}

static int cannot_track(void *addr, size_t len)
{
    (void)addr;
    (void)len;
    return -ENOTSUP;
}

static void never_tracked(void *addr, size_t len)
{
    (void)addr;
    (void)len;
}

static int none_written(uintptr_t *cursor, uintptr_t end, struct os_range *v, size_t max)
{
    return no_candidates(OS_SOURCE_SCAN, cursor, end, v, max);
}

static int no_write_block(void *addr, size_t len, struct os_write_block *g)
{
    (void)addr;
    (void)len;
    (void)g;
    return -ENOTSUP;
}

static int no_write_block_candidates(const struct os_write_block *g, uintptr_t *cursor,
                                     uintptr_t end, struct os_range *v, size_t max)
{
    (void)g;
    (void)cursor;
    (void)end;
    (void)v;
    (void)max;
    return -ENOTSUP;
}

static void nothing_to_open(struct os_write_block *g)
{
    (void)g;
}

const struct os os_posix = {
    .name = "posix",
    .caps = 0,
    .page_size = ms_page_size,
    .huge_size = no_huge_pages,
    .alloc = ms_alloc,
    .realloc = ms_realloc,
    .free = ms_free,
    .reserve = ms_reserve,
    .map_new = ms_map_new,
    .map_over = ms_map_over,
    .unmap = ms_unmap,
    .protect = ms_protect,
    .discard = cannot_discard,
    .populate = ms_touch,
    .advise = advise,
    .collapse = cannot_discard,
    .huge_bytes = no_bytes,
    .present_bytes = no_bytes,
    .object_create = ms_temporary_create,
    .object_grow = ms_object_grow,
    .object_commit = ms_object_commit,
    .object_write = ms_object_write,
    .object_read = ms_object_read,
    .object_punch = cannot_punch,
    .object_data = object_data,
    .object_close = ms_object_close,
    .file_open = ms_file_open,
    .file_dup = ms_file_dup,
    .file_sealed = never_sealed,
    .file_size = ms_file_size,
    .file_copy = file_copy,
    .flush = ms_flush,
    .save_open = ms_save_open,
    .save_commit = ms_save_commit,
    .save_abandon = ms_save_abandon,
    .file_clone = ms_file_clone,
    .export_create = cannot_export,
    .object_seal = cannot_seal,
    .object_share = cannot_share,
    .candidates = no_candidates,
    .track = cannot_track,
    .untrack = never_tracked,
    .written = none_written,
    .write_block_close = no_write_block,
    .write_block_candidates = no_write_block_candidates,
    .write_block_open = nothing_to_open,
};

/* ---- the table in use ------------------------------------------------------------------------ */

#ifdef __linux__
const struct os *ms_os = &os_linux;
#else
const struct os *ms_os = &os_posix;
#endif

enum os_source ms_force_source = OS_SOURCES;

const struct os *ms_os_default(void)
{
#ifdef __linux__
    return &os_linux;
#else
    return &os_posix;
#endif
}
