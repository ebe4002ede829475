/* SPDX-License-Identifier: MIT */
/* The wrapping ops table; see fault.h. Counters are atomic because thread tests may run over it. */
#include <errno.h>
#include <stdatomic.h>

#include "support/fault.h"

static const struct os *inner;
static atomic_size_t counts[FAULT_KINDS];
static atomic_long allocations, mapped, objects, write_blocks;

static struct {
    unsigned kinds;
    size_t first, last; /* of the operations seen since arming, these fail */
    int error;
    size_t seen, fired;
    enum fault_kind kind; /* of the last one */
    unsigned fired_kinds;
} armed;

static const struct {
    const char *name;
    int typical;
} kinds[FAULT_KINDS] = {
    [FAULT_ALLOC] = {"alloc", -ENOMEM},
    [FAULT_REALLOC] = {"realloc", -ENOMEM},
    [FAULT_RESERVE] = {"reserve", -EMLINK},
    [FAULT_MAP_NEW] = {"map_new", -EMLINK},
    [FAULT_MAP_OVER] = {"map_over", -EMLINK},
    [FAULT_PROTECT] = {"protect", -EMLINK},
    [FAULT_DISCARD] = {"discard", -ENOTSUP},
    [FAULT_POPULATE] = {"populate", -ENOTSUP},
    [FAULT_ADVISE] = {"advise", -ENOTSUP},
    [FAULT_COLLAPSE] = {"collapse", -ENOTSUP},
    [FAULT_OBJECT_CREATE] = {"object_create", -EMFILE},
    [FAULT_OBJECT_GROW] = {"object_grow", -EFBIG},
    [FAULT_OBJECT_COMMIT] = {"object_commit", -ENOSPC},
    [FAULT_OBJECT_WRITE] = {"object_write", -ENOSPC},
    [FAULT_OBJECT_READ] = {"object_read", -EIO},
    [FAULT_OBJECT_PUNCH] = {"object_punch", -ENOTSUP},
    [FAULT_OBJECT_DATA] = {"object_data", -EIO},
    [FAULT_FILE_OPEN] = {"file_open", -EMFILE},
    [FAULT_FILE_DUP] = {"file_dup", -EMFILE},
    [FAULT_FILE_COPY] = {"file_copy", -EIO},
    [FAULT_FILE_CLONE] = {"file_clone", -ENOTSUP},
    [FAULT_FLUSH] = {"flush", -EIO},
    [FAULT_SAVE_OPEN] = {"save_open", -EACCES},
    [FAULT_SAVE_COMMIT] = {"save_commit", -ENOSPC},
    [FAULT_EXPORT_CREATE] = {"export_create", -EMFILE},
    [FAULT_OBJECT_SEAL] = {"object_seal", -EBUSY},
    [FAULT_OBJECT_SHARE] = {"object_share", -ENOTSUP},
    [FAULT_CANDIDATES] = {"candidates", -ENOTSUP},
    [FAULT_TRACK] = {"track", -ENOTSUP},
    [FAULT_WRITTEN] = {"written", -ENOTSUP},
    [FAULT_WRITE_BLOCK_CLOSE] = {"write_block_close", -ENOTSUP},
    [FAULT_WRITE_BLOCK_CANDIDATES] = {"write_block_candidates", -ENOMEM},
};

static int error_of(enum fault_kind kind)
{
    return armed.error == FAULT_TYPICAL ? kinds[kind].typical : armed.error;
}

/* The error that this operation is to fail with, or 0. */
static int strike(enum fault_kind kind)
{
    atomic_fetch_add_explicit(&counts[kind], 1, memory_order_relaxed);
    if (!(armed.kinds & FAULT_BIT(kind)))
        return 0;
    size_t n = armed.seen++;
    if (n < armed.first || n > armed.last)
        return 0;
    armed.fired++;
    armed.kind = kind;
    armed.fired_kinds |= FAULT_BIT(kind);
    return error_of(kind);
}

static void add(atomic_long *balance, long n)
{
    atomic_fetch_add_explicit(balance, n, memory_order_relaxed);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void *fault_alloc(size_t size)
{
    if (strike(FAULT_ALLOC))
        return NULL;
    void *p = inner->alloc(size);
    add(&allocations, p ? 1 : 0);
    return p;
}

static void *fault_realloc(void *old, size_t size)
{
    if (strike(FAULT_REALLOC))
        return NULL;
    void *p = inner->realloc(old, size);
    add(&allocations, p && !old ? 1 : 0);
    return p;
}

static void fault_free(void *p)
{
    add(&allocations, p ? -1 : 0);
    inner->free(p);
}

/* ---- address space --------------------------------------------------------------------------- */

static int fault_reserve(void *at, size_t len, size_t align, void **out)
{
    int r = strike(FAULT_RESERVE);
    if (r < 0)
        return r;
    r = inner->reserve(at, len, align, out);
    add(&mapped, r < 0 ? 0 : (long)len);
    return r;
}

static int fault_map_new(const struct os_object *o, uint64_t offset, size_t len, size_t align,
                         enum os_share how, void **out)
{
    int r = strike(FAULT_MAP_NEW);
    if (r < 0)
        return r;
    r = inner->map_new(o, offset, len, align, how, out);
    add(&mapped, r < 0 ? 0 : (long)len);
    return r;
}

static int fault_map_over(const struct os_object *o, uint64_t offset, void *addr, size_t len,
                          enum os_share how)
{
    int r = strike(FAULT_MAP_OVER);
    return r < 0 ? r : inner->map_over(o, offset, addr, len, how);
}

static void fault_unmap(void *addr, size_t len)
{
    add(&mapped, -(long)len);
    inner->unmap(addr, len);
}

static int fault_protect(void *addr, size_t len, int access)
{
    int r = strike(FAULT_PROTECT);
    return r < 0 ? r : inner->protect(addr, len, access);
}

static int fault_discard(const struct os_range *v, size_t n)
{
    int r = strike(FAULT_DISCARD);
    return r < 0 ? r : inner->discard(v, n);
}

static int fault_populate(void *addr, size_t len)
{
    int r = strike(FAULT_POPULATE);
    return r < 0 ? r : inner->populate(addr, len);
}

static int fault_advise(void *addr, size_t len, enum os_advice advice)
{
    int r = strike(FAULT_ADVISE);
    return r < 0 ? r : inner->advise(addr, len, advice);
}

static int fault_collapse(void *addr, size_t len)
{
    int r = strike(FAULT_COLLAPSE);
    return r < 0 ? r : inner->collapse(addr, len);
}

/* ---- objects and files ----------------------------------------------------------------------- */

static int fault_object_create(struct os_object *o)
{
    int r = strike(FAULT_OBJECT_CREATE);
    if (r < 0)
        return r;
    r = inner->object_create(o);
    add(&objects, r < 0 ? 0 : 1);
    return r;
}

static int fault_object_grow(const struct os_object *o, uint64_t size)
{
    int r = strike(FAULT_OBJECT_GROW);
    return r < 0 ? r : inner->object_grow(o, size);
}

static int fault_object_commit(const struct os_object *o, uint64_t offset, uint64_t len)
{
    int r = strike(FAULT_OBJECT_COMMIT);
    return r < 0 ? r : inner->object_commit(o, offset, len);
}

static int fault_object_write(const struct os_object *o, const struct os_iov *v, size_t n,
                              uint64_t offset)
{
    int r = strike(FAULT_OBJECT_WRITE);
    return r < 0 ? r : inner->object_write(o, v, n, offset);
}

static int fault_object_read(const struct os_object *o, const struct os_iov *v, size_t n,
                             uint64_t offset)
{
    int r = strike(FAULT_OBJECT_READ);
    return r < 0 ? r : inner->object_read(o, v, n, offset);
}

static int fault_object_punch(const struct os_object *o, uint64_t offset, uint64_t len)
{
    int r = strike(FAULT_OBJECT_PUNCH);
    return r < 0 ? r : inner->object_punch(o, offset, len);
}

static int fault_object_data(const struct os_object *o, uint64_t offset, uint64_t limit,
                             uint64_t *start, uint64_t *end)
{
    int r = strike(FAULT_OBJECT_DATA);
    return r < 0 ? r : inner->object_data(o, offset, limit, start, end);
}

static void fault_object_close(struct os_object *o)
{
    add(&objects, o->fd >= 0 ? -1 : 0);
    inner->object_close(o);
}

static int fault_file_open(const char *path, bool writable, struct os_object *o, uint64_t *size)
{
    int r = strike(FAULT_FILE_OPEN);
    if (r < 0)
        return r;
    r = inner->file_open(path, writable, o, size);
    add(&objects, r < 0 ? 0 : 1);
    return r;
}

static int fault_file_dup(int fd, bool writable, struct os_object *o, uint64_t *size)
{
    int r = strike(FAULT_FILE_DUP);
    if (r < 0)
        return r;
    r = inner->file_dup(fd, writable, o, size);
    add(&objects, r < 0 ? 0 : 1);
    return r;
}

static int fault_file_copy(const struct os_object *src, uint64_t from, const struct os_object *dst,
                           uint64_t to, uint64_t len)
{
    int r = strike(FAULT_FILE_COPY);
    return r < 0 ? r : inner->file_copy(src, from, dst, to, len);
}

static int fault_file_clone(const struct os_object *src, uint64_t from, const struct os_object *dst,
                            uint64_t to, uint64_t len)
{
    int r = strike(FAULT_FILE_CLONE);
    return r < 0 ? r : inner->file_clone(src, from, dst, to, len);
}

static int fault_save_open(const char *path, bool exclusive, struct os_saving *s)
{
    int r = strike(FAULT_SAVE_OPEN);
    if (r < 0)
        return r;
    r = inner->save_open(path, exclusive, s);
    add(&objects, r < 0 ? 0 : 1);
    return r;
}

/* A commit that fails closes all the same. */
static int fault_save_commit(struct os_saving *s, uint64_t size, bool sync)
{
    int r = strike(FAULT_SAVE_COMMIT);
    add(&objects, -1);
    if (r < 0)
        inner->save_abandon(s);
    return r < 0 ? r : inner->save_commit(s, size, sync);
}

static void fault_save_abandon(struct os_saving *s)
{
    add(&objects, -1);
    inner->save_abandon(s);
}

static int fault_export_create(struct os_object *o)
{
    int r = strike(FAULT_EXPORT_CREATE);
    if (r < 0)
        return r;
    r = inner->export_create(o);
    add(&objects, r < 0 ? 0 : 1);
    return r;
}

static int fault_object_seal(const struct os_object *o, void *window, size_t len)
{
    int r = strike(FAULT_OBJECT_SEAL);
    return r < 0 ? r : inner->object_seal(o, window, len);
}

static int fault_object_share(const struct os_object *o, uint64_t size, int *fd)
{
    int r = strike(FAULT_OBJECT_SHARE);
    return r < 0 ? r : inner->object_share(o, size, fd);
}

static int fault_flush(void *addr, size_t len, const struct os_object *o)
{
    int r = strike(FAULT_FLUSH);
    return r < 0 ? r : inner->flush(addr, len, o);
}

/* ---- dirty candidates ------------------------------------------------------------------------ */

static int fault_candidates(enum os_source source, uintptr_t *cursor, uintptr_t end,
                            struct os_range *v, size_t max)
{
    int r = strike(FAULT_CANDIDATES);
    return r < 0 ? r : inner->candidates(source, cursor, end, v, max);
}

static int fault_track(void *addr, size_t len)
{
    int r = strike(FAULT_TRACK);
    return r < 0 ? r : inner->track(addr, len);
}

static int fault_written(uintptr_t *cursor, uintptr_t end, struct os_range *v, size_t max)
{
    int r = strike(FAULT_WRITTEN);
    return r < 0 ? r : inner->written(cursor, end, v, max);
}

static int fault_write_block_close(void *addr, size_t len, struct os_write_block *g)
{
    int r = strike(FAULT_WRITE_BLOCK_CLOSE);
    if (r < 0)
        return r;
    r = inner->write_block_close(addr, len, g);
    add(&write_blocks, r < 0 ? 0 : 1);
    return r;
}

static int fault_write_block_candidates(const struct os_write_block *g, uintptr_t *cursor,
                                        uintptr_t end, struct os_range *v, size_t max)
{
    int r = strike(FAULT_WRITE_BLOCK_CANDIDATES);
    return r < 0 ? r : inner->write_block_candidates(g, cursor, end, v, max);
}

static void fault_write_block_open(struct os_write_block *g)
{
    add(&write_blocks, -1);
    inner->write_block_open(g);
}

/* ---- control --------------------------------------------------------------------------------- */

const struct os *fault_wrap(const struct os *table)
{
    static struct os wrap;

    inner = table;
    fault_disarm();
    for (int i = 0; i < FAULT_KINDS; i++)
        atomic_store(&counts[i], 0);
    wrap = *table; /* what is data, or cannot fail, stays as it is */
    wrap.alloc = fault_alloc;
    wrap.realloc = fault_realloc;
    wrap.free = fault_free;
    wrap.reserve = fault_reserve;
    wrap.map_new = fault_map_new;
    wrap.map_over = fault_map_over;
    wrap.unmap = fault_unmap;
    wrap.protect = fault_protect;
    wrap.discard = fault_discard;
    wrap.populate = fault_populate;
    wrap.advise = fault_advise;
    wrap.collapse = fault_collapse;
    wrap.object_create = fault_object_create;
    wrap.object_grow = fault_object_grow;
    wrap.object_commit = fault_object_commit;
    wrap.object_write = fault_object_write;
    wrap.object_read = fault_object_read;
    wrap.object_punch = fault_object_punch;
    wrap.object_data = fault_object_data;
    wrap.object_close = fault_object_close;
    wrap.file_open = fault_file_open;
    wrap.file_dup = fault_file_dup;
    wrap.file_copy = fault_file_copy;
    wrap.file_clone = fault_file_clone;
    wrap.save_open = fault_save_open;
    wrap.save_commit = fault_save_commit;
    wrap.save_abandon = fault_save_abandon;
    wrap.export_create = fault_export_create;
    wrap.object_seal = fault_object_seal;
    wrap.object_share = fault_object_share;
    wrap.flush = fault_flush;
    wrap.candidates = fault_candidates;
    wrap.track = fault_track;
    wrap.written = fault_written;
    wrap.write_block_close = fault_write_block_close;
    wrap.write_block_candidates = fault_write_block_candidates;
    wrap.write_block_open = fault_write_block_open;
    return &wrap;
}

void fault_arm(unsigned which, size_t n, size_t count, int error)
{
    armed.kinds = which;
    armed.first = n;
    armed.last = count == FAULT_FOR_EVER ? (size_t)-1 : n + count - 1;
    armed.error = error;
    armed.seen = 0;
    armed.fired = 0;
    armed.fired_kinds = 0;
}

void fault_disarm(void)
{
    armed.kinds = 0;
}

size_t fault_fired(void)
{
    return armed.fired;
}

enum fault_kind fault_last(void)
{
    return armed.kind;
}

bool fault_met(enum fault_kind kind)
{
    return armed.fired_kinds & FAULT_BIT(kind);
}

bool fault_explains(int error)
{
    const unsigned cannot = FAULT_BIT(FAULT_WRITE_BLOCK_CLOSE) |
                            FAULT_BIT(FAULT_WRITE_BLOCK_CANDIDATES) | FAULT_BIT(FAULT_OBJECT_SEAL) |
                            FAULT_BIT(FAULT_TRACK);
    if (error == -ENOTSUP && FAULT_BIT(armed.kind) & cannot)
        return true;
    for (int i = 0; i < FAULT_KINDS; i++)
        if (armed.fired_kinds & FAULT_BIT(i) && error_of((enum fault_kind)i) == error)
            return true;
    return false;
}

const char *fault_name(enum fault_kind kind)
{
    return kinds[kind].name;
}

size_t fault_count(enum fault_kind kind)
{
    return atomic_load(&counts[kind]);
}

struct fault_balance fault_outstanding(void)
{
    return (struct fault_balance){
        .allocations = atomic_load(&allocations),
        .mapped = atomic_load(&mapped),
        .objects = atomic_load(&objects),
        .write_blocks = atomic_load(&write_blocks),
    };
}
