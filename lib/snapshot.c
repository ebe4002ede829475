/* SPDX-License-Identifier: MIT */
/* Snapshots: the public functions on them, but for files (file.c), saving (save.c, delta.c) and
 * statistics (stats.c). */
#include "config.h"

#include "snapshot.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/bytes.h"
#include "base/arith.h"
#include "mapping/dirty.h"
#include "storage/fill.h"
#include "storage/read.h"

/* Images of so many pages at the most are kept in heap memory: a memfd costs 6 us and a
 * descriptor, writing 64 KiB into it 23 us, copying them 2 us; and opening a view by copying
 * costs no more than the faults of a mapped one. */
#define TINY_PAGES 16

const char *memsnap_version_string(void)
{
    return PACKAGE_VERSION;
}

size_t memsnap_page_size(void)
{
    return ms_os->page_size();
}

/* ---- making ---------------------------------------------------------------------------------- */

int ms_snapshot_of_image(struct image *i, size_t size, unsigned flags, struct pool *pool,
                         struct memsnap_snapshot **out)
{
    struct memsnap_snapshot *s = ms_os->alloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    int e = ms_recycler_new(pool, &s->recycler);
    if (e < 0) {
        ms_os->free(s);
        return e;
    }
    ms_ref_init(&s->refs);
    ms_lock_init(&s->turn);
    ms_lock_init(&s->lock);
    ms_current_init(&s->current, i, size, flags & (MS_HUGE_FLAGS | MEMSNAP_NO_FD), pool);
    ms_recycler_set_image(s->recycler, i);
    *out = s;
    return 0;
}

static bool flags_are_possible(unsigned flags, unsigned known)
{
    return !(flags & ~known) && (flags & MS_HUGE_FLAGS) != MS_HUGE_FLAGS;
}

static int check_memory_flags(unsigned flags)
{
    if (!flags_are_possible(flags, MS_HUGE_FLAGS | MEMSNAP_NO_FD))
        return -EINVAL;
    return flags & MEMSNAP_NO_FD && flags & MEMSNAP_HUGE_REQUIRE ? -ENOTSUP : 0;
}

/* A pool, and space in it for the bytes. Zeros need none (NULL), unless they are to be huge
 * pages. */
static int allocate(bool zeros, size_t pages, unsigned flags, struct pool **pool,
                    struct chunk **chunk) MS_INSIDE
{
    bool tiny = pages <= TINY_PAGES && !(flags & MEMSNAP_HUGE_REQUIRE);
    int e = ms_pool_new(flags & MEMSNAP_NO_FD, pool);
    *chunk = NULL;
    if (e < 0 || !pages || (zeros && !(flags & MEMSNAP_HUGE_REQUIRE)))
        return e;
    e = tiny ? ms_pool_allocate_heap(pages, chunk) : ms_pool_allocate(*pool, pages, false, chunk);
    if (e < 0)
        ms_pool_unref(*pool);
    return e;
}

/* chunk == NULL: zeros. */
static int snapshot_of_chunk(struct chunk *chunk, size_t size, size_t pages, unsigned flags,
                             struct pool *pool, struct memsnap_snapshot **out) MS_INSIDE
{
    struct image *i;
    int e = chunk ? ms_image_of_chunk(chunk, pages, &i) : ms_image_zero(pages, &i);
    if (e < 0)
        return e;
    e = ms_snapshot_of_image(i, size, flags, pool, out);
    ms_image_unref(i);
    return e;
}

/* Copying takes its time: fork is not kept waiting meanwhile. Nobody else knows of the chunk. */
static int fill_outside(struct chunk *chunk, const void *data, size_t size, unsigned flags)
{
    int before = ms_uncancellable();
    int e = ms_chunk_fill(chunk, data, size, flags);
    ms_cancellable(before);
    return e;
}

/* data == NULL: zeros. */
static int snapshot_new(const void *data, size_t size, size_t pages, unsigned flags,
                        struct memsnap_snapshot **out)
{
    struct reclaim reclaim = {0};
    struct chunk *chunk;
    struct pool *pool;
    ms_enter();
    int e = allocate(!data, pages, flags, &pool, &chunk);
    ms_leave();
    if (e < 0)
        return e;
    if (chunk)
        e = fill_outside(chunk, data, size, flags);
    ms_enter();
    if (e == 0)
        e = snapshot_of_chunk(chunk, size, pages, flags, pool, out);
    ms_chunk_unref(chunk, &reclaim);
    ms_reclaim_flush(&reclaim);
    ms_pool_unref(pool);
    ms_leave();
    return e;
}

static int checked_new(const void *data, size_t size, unsigned flags, memsnap_snapshot **out)
{
    size_t pages;
    int e = check_memory_flags(flags);
    if (e < 0)
        return e;
    if (!ms_pages_of(size, ms_os->page_size(), &pages))
        return -ENOMEM;
    e = snapshot_new(data, size, pages, flags, out);
    ms_enter();
    bool again = ms_make_room(e);
    ms_leave();
    return again ? snapshot_new(data, size, pages, flags, out) : e;
}

int memsnap_snapshot_new(const void *data, size_t size, unsigned flags, memsnap_snapshot **out)
{
    static const char nothing[1];
    if (!out || (!data && size))
        return -EINVAL;
    return checked_new(data ? data : nothing, size, flags, out);
}

int memsnap_snapshot_new_zeroed(size_t size, unsigned flags, memsnap_snapshot **out)
{
    return out ? checked_new(NULL, size, flags, out) : -EINVAL;
}

/* ---- the current image ----------------------------------------------------------------------- */

/* By turns: a thaw that goes from step to step would otherwise come first for ever. */
void ms_snapshot_lock(struct memsnap_snapshot *s) MS_LOCKS
{
    ms_lock(&s->turn);
    ms_lock(&s->lock);
    ms_unlock(&s->turn);
    ms_lock(&s->current.look);
}

/* Compared only, never looked into. */
static const struct image *look_at_image(struct memsnap_snapshot *s) MS_INSIDE
{
    ms_current_look(&s->current);
    const struct image *i = s->current.image;
    ms_current_end_look(&s->current);
    return i;
}

/* Closes parked views of older images. Who changes the image meanwhile tells it after us. */
void ms_snapshot_tell_recycler(struct memsnap_snapshot *s)
{
    const struct image *told, *now;
    do {
        told = look_at_image(s);
        ms_recycler_set_image(s->recycler, told);
        now = look_at_image(s);
    } while (now != told);
}

void ms_snapshot_unlock(struct memsnap_snapshot *s) MS_LOCKS
{
    struct leftovers left = s->current.left;
    s->current.left = (struct leftovers){0};
    ms_unlock(&s->current.look);
    ms_unlock(&s->lock);
    if (left.n)
        ms_snapshot_tell_recycler(s);
    ms_leftovers_free(&left);
}

int ms_snapshot_image(struct memsnap_snapshot *s, bool atomic, struct image **out)
{
    struct current *c = &s->current;
    ms_current_look(c);
    size_t arrived = c->captures_begun;
    bool ready = ms_writer_is_up_to_date(c);
    if (ready)
        *out = ms_image_ref(c->image);
    ms_current_end_look(c);
    if (ready)
        return 0;
    ms_snapshot_lock(s);
    int e = ms_writer_bring_up_to_date(c, atomic, arrived);
    if (e == 0)
        *out = ms_image_ref(c->image);
    ms_snapshot_unlock(s);
    return e;
}

void ms_snapshot_drop_image(struct memsnap_snapshot *s, struct image *i)
{
    ms_image_unref(i);
    ms_pool_trim(s->current.pool);
}

int ms_snapshot_lease(struct memsnap_snapshot *s, unsigned flags, void *at, void **address,
                      size_t *size)
{
    struct current *c = &s->current;
    ms_snapshot_lock(s);
    int e = ms_writer_may_open(c, flags);
    ms_snapshot_unlock(s);
    if (e < 0)
        return e;
    ms_recycler_set_image(s->recycler, NULL); /* parked views would keep the image shared */
    ms_snapshot_lock(s);
    if (!(flags & MEMSNAP_VIEW_PINNABLE))
        ms_writer_make_exclusive(c);
    ms_snapshot_unlock(s);
    ms_recycler_set_image(s->recycler, NULL);
    ms_snapshot_lock(s);
    e = ms_writer_open(c, flags, at);
    if (e == 0) {
        *address = c->writer.mapping.address;
        *size = c->size;
    }
    ms_snapshot_unlock(s);
    ms_snapshot_tell_recycler(s);
    return e;
}

int memsnap_snapshot_clone(memsnap_snapshot *s, memsnap_snapshot **out)
{
    struct image *i;
    if (!s || !out)
        return -EINVAL;
    ms_enter();
    int e = ms_snapshot_image(s, false, &i);
    if (e == 0) {
        e = ms_snapshot_of_image(i, s->current.size, s->current.flags, s->current.pool, out);
        ms_image_unref(i);
    }
    ms_leave();
    return e;
}

/* ---- references ------------------------------------------------------------------------------ */

memsnap_snapshot *memsnap_snapshot_ref(memsnap_snapshot *s)
{
    if (s)
        ms_ref_get(&s->refs);
    return s;
}

void ms_snapshot_put(struct memsnap_snapshot *s)
{
    if (!ms_ref_put(&s->refs))
        return;
    ms_recycler_set_limit(s->recycler, 0);
    ms_recycler_set_image(s->recycler, NULL);
    ms_current_destroy(&s->current);
    ms_recycler_unref(s->recycler);
    ms_lock_destroy(&s->lock);
    ms_lock_destroy(&s->turn);
    ms_os->free(s);
}

memsnap_snapshot *memsnap_snapshot_unref(memsnap_snapshot *s)
{
    int keep = errno;
    if (s) {
        ms_enter();
        ms_snapshot_put(s);
        ms_leave();
    }
    errno = keep;
    return NULL;
}

size_t memsnap_snapshot_size(memsnap_snapshot *s)
{
    return s ? s->current.size : 0;
}

int memsnap_snapshot_set_recycling(memsnap_snapshot *s, unsigned max_views)
{
    if (!s)
        return -EINVAL;
    ms_enter();
    ms_recycler_set_limit(s->recycler, max_views);
    ms_leave();
    return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int leave_for_long(void) MS_RELEASE_SHARED(ms_fork_lock)
{
    ms_leave();
    return ms_uncancellable();
}

static void enter_again(int before) MS_ACQUIRE_SHARED(ms_fork_lock)
{
    ms_cancellable(before);
    ms_enter();
}

/* Of one slice the locks are held: whoever waits for them waits no longer than that. */
#define READ_SLICE ((size_t)256 << 10)

/* The file is there as long as the snapshot. */
static int read_file(struct current *c, const struct os_object *file, size_t offset, void *buf,
                     size_t len) MS_INSIDE
{
    struct os_iov v = {buf, len};
    uint64_t now = 0;
    int before = leave_for_long();
    int e = ms_os->object_read(file, &v, 1, offset);
    if (e == 0)
        e = ms_os->file_size(file, &now);
    enter_again(before);
    return e == 0 && now < c->size ? -EIO : e;
}

/* *rollbacks: how many there were at the first slice. A rollback between two slices would make
 * bytes of two contents out of it: -EAGAIN. */
static int read_slice(struct current *c, size_t offset, char *to, size_t len,
                      size_t *rollbacks) MS_INSIDE
{
    ms_current_look(c);
    if (*rollbacks == SIZE_MAX)
        *rollbacks = c->rollbacks;
    int e = *rollbacks == c->rollbacks ? ms_writer_read(c, offset, to, len) : -EAGAIN;
    ms_current_end_look(c);
    return e;
}

/* From the writer's memory, slice by slice, while it is open: nothing has to be captured for it.
 * By way of a buffer, because the caller's may lie in a view where stores wait for the end of an
 * atomic take, which waits for the lock. */
static int read_live(struct current *c, size_t offset, char *buf, size_t len) MS_INSIDE
{
    char small[512];
    size_t slice = ms_min(len, READ_SLICE), rollbacks = SIZE_MAX, done = 0;
    char *between = slice <= sizeof small ? small : ms_os->alloc(slice);
    int e = between ? 0 : -ENOMEM;
    while (done < len && e == 0) {
        size_t n = ms_min(len - done, slice);
        if (done)
            enter_again(leave_for_long());
        e = read_slice(c, offset + done, between, n, &rollbacks);
        if (e == 0)
            memcpy(buf + done, between, n);
        done += n;
    }
    if (between != small)
        ms_os->free(between);
    return e;
}

/* Inside ms_enter, which is left meanwhile: fork does not wait for the copying. */
static int read_image(struct memsnap_snapshot *s, size_t offset, char *buf, size_t len) MS_INSIDE
{
    struct image *i;
    int e = ms_snapshot_image(s, false, &i);
    if (e < 0)
        return e;
    int before = leave_for_long();
    e = ms_image_read(i, offset, buf, len);
    enter_again(before);
    ms_snapshot_drop_image(s, i);
    return e;
}

static int snapshot_read(struct memsnap_snapshot *s, size_t offset, char *buf, size_t len) MS_INSIDE
{
    struct current *c = &s->current;
    ms_current_look(c);
    bool inside = offset <= c->size && len <= c->size - offset;
    const struct os_object *file =
        c->writer.state == WRITER_FILE ? &c->writer.chunk->store->object : NULL;
    ms_current_end_look(c);
    if (!inside)
        return -EINVAL;
    if (!len)
        return 0;
    if (file)
        return read_file(c, file, offset, buf, len);
    int e = read_live(c, offset, buf, len);
    return e == -EAGAIN ? read_image(s, offset, buf, len) : e;
}

int memsnap_snapshot_read(memsnap_snapshot *s, size_t offset, void *buf, size_t len)
{
    if (!s || (!buf && len))
        return -EINVAL;
    ms_enter();
    int e = snapshot_read(s, offset, buf, len);
    ms_leave();
    return e;
}

/* ---- diff ------------------------------------------------------------------------------------ */

struct diff {
    const struct image *a, *b;
    struct reader ra, rb;
    size_t size;
};

static int page_differs(struct diff *d, size_t page)
{
    size_t ps = ms_os->page_size(), bytes = ms_min(ps, d->size - page * ps);
    int e = 0;
    const void *a = ms_reader_page(&d->ra, page, &e);
    const void *b = e < 0 ? NULL : ms_reader_page(&d->rb, page, &e);
    return e < 0 ? e : !ms_bytes_equal(a, b, bytes);
}

/* Gathers differing pages into ranges; pages that both refer to in the same chunk are not looked
 * at. */
static int diff_ranges(struct diff *d, size_t *cursor, struct memsnap_range *v, size_t max)
{
    size_t ps = ms_os->page_size(), pages = ms_image_pages(d->a), at = *cursor / ps, n = 0, first,
           run;
    while (at < pages && ms_image_differs(d->a, d->b, at, pages, &first, &run)) {
        for (at = first; at < first + run; at++) {
            int differs = page_differs(d, at);
            if (differs < 0)
                return differs;
            if (!differs)
                continue;
            if (n && v[n - 1].offset + v[n - 1].len == at * ps) {
                v[n - 1].len += ps;
            } else if (n == max) {
                *cursor = at * ps;
                return (int)n;
            } else {
                v[n++] = (struct memsnap_range){at * ps, ps};
            }
        }
    }
    *cursor = d->size;
    if (n && v[n - 1].offset + v[n - 1].len > d->size)
        v[n - 1].len = d->size - v[n - 1].offset;
    return (int)n;
}

static int snapshot_diff(memsnap_snapshot *a, memsnap_snapshot *b, size_t *cursor,
                         struct memsnap_range *v, size_t max) MS_INSIDE
{
    struct image *ia = NULL, *ib = NULL;
    int e = ms_snapshot_image(a, false, &ia);
    if (e < 0)
        return e;
    e = ms_snapshot_image(b, false, &ib);
    if (e == 0) {
        struct diff d = {.a = ia, .b = ib, .size = a->current.size};
        int before = leave_for_long();
        ms_reader_begin(&d.ra, ia);
        ms_reader_begin(&d.rb, ib);
        e = diff_ranges(&d, cursor, v, max);
        ms_reader_end(&d.ra);
        ms_reader_end(&d.rb);
        enter_again(before);
        ms_snapshot_drop_image(b, ib);
    }
    ms_snapshot_drop_image(a, ia);
    return e;
}

int memsnap_snapshot_diff(memsnap_snapshot *a, memsnap_snapshot *b, size_t *cursor,
                          struct memsnap_range *ranges, size_t max)
{
    if (!a || !b || !cursor || !ranges || !max || a->current.size != b->current.size ||
        *cursor > a->current.size)
        return -EINVAL;
    if (*cursor == a->current.size)
        return 0;
    ms_enter();
    int n = snapshot_diff(a, b, cursor, ranges, ms_min(max, INT_MAX));
    ms_leave();
    return n;
}
