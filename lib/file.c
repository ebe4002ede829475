/* SPDX-License-Identifier: MIT */
/* Snapshots of files. */
#include "config.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/arith.h"
#include "mapping/capture.h"
#include "storage/fill.h"
#include "snapshot.h"
#include "storage/store.h"

/* Whether nothing was ever stored behind the end, in the last page: a mapping would show it. */
static bool has_zero_tail(const struct os_object *file, uint64_t size, size_t pages)
{
    size_t ps = ms_os->page_size(), used = (size_t)(size % ps);
    void *last;
    if (!used)
        return true;
    if (ms_os->map_new(file, (uint64_t)(pages - 1) * ps, ps, ps, OS_SHARED_READ, &last) < 0)
        return false;
    bool zero = ms_bytes_equal((const char *)last + used, NULL, ps - used);
    ms_os->unmap(last, ps);
    return zero;
}

/* Its size is looked at again behind the seals: whoever sent it may have made it shorter since. */
static bool is_sealed(const struct os_object *file, uint64_t size)
{
    uint64_t now;
    return ms_os->file_sealed(file) && ms_os->file_size(file, &now) == 0 && now >= size;
}

/* A sealed memfd is adopted as it is, unless it has to be in huge pages. */
static bool can_adopt(const struct os_object *file, uint64_t size, size_t pages, unsigned flags)
{
    if (flags & MEMSNAP_FILE_MAP)
        return true;
    return !(flags & (MEMSNAP_NO_FD | MEMSNAP_HUGE_REQUIRE)) && is_sealed(file, size) &&
           has_zero_tail(file, size, pages);
}

/* ---- sparse files, where a chunk has no holes ------------------------------------------------ */

/* Adds the pages that hold the file's bytes [start, end). */
static int add_data(struct image_edit *edit, const struct os_object *file, uint64_t start,
                    uint64_t end, struct pool *pool) MS_INSIDE
{
    struct reclaim reclaim = {0};
    struct chunk *c;
    size_t ps = ms_os->page_size(), first = (size_t)(start / ps);
    size_t pages = (size_t)((end - first * ps + ps - 1) / ps);
    int e = ms_pool_allocate(pool, pages, false, &c);
    if (e < 0)
        return e;
    e = ms_chunk_fill_part(c, file, (uint64_t)first * ps, (size_t)(end - first * ps));
    struct run r = {first, pages, c, 0};
    if (e == 0)
        e = ms_image_edit_set(edit, &r);
    ms_chunk_unref(c, &reclaim);
    ms_reclaim_flush(&reclaim);
    return e;
}

/* The end of the file's bytes that go into one chunk with those that end at `end`: holes of less
 * than a page are none. */
static uint64_t join_data(const struct os_object *file, uint64_t end, uint64_t size)
{
    uint64_t ps = ms_os->page_size(), start, next;
    while (end < size && end % ps != 0 && ms_os->object_data(file, end, size, &start, &next) == 1 &&
           start / ps == end / ps)
        end = next;
    return end;
}

/* Holes are zero pages, which take no memory. */
static int sparse_image(const struct os_object *file, uint64_t size, size_t pages,
                        struct pool *pool, struct image **out) MS_INSIDE
{
    struct image_edit edit;
    struct image *zero;
    uint64_t at = 0, start, end;
    int e = ms_image_zero(pages, &zero);
    if (e == 0) {
        e = ms_image_edit_begin(&edit, zero);
        ms_image_unref(zero);
    }
    if (e < 0)
        return e;
    while (at < size && (e = ms_os->object_data(file, at, size, &start, &end)) == 1) {
        at = join_data(file, end, size);
        e = add_data(&edit, file, start, at, pool);
        if (e < 0)
            break;
    }
    if (e < 0)
        ms_image_edit_abandon(&edit);
    else
        *out = ms_image_edit_finish(&edit);
    return e < 0 ? e : 0;
}

/* ---- images of files ------------------------------------------------------------------------- */

/* chunk_of_file(): use sparse_image(). */
#define SPARSE 1

static int chunk_of_file(struct os_object *file, uint64_t size, size_t pages, unsigned flags,
                         struct pool *pool, struct chunk **out) MS_INSIDE
{
    struct reclaim reclaim = {0};
    int e;
    if (can_adopt(file, size, pages, flags)) {
        e = ms_store_of_file(file, pages, !(flags & MEMSNAP_FILE_MAP), out);
        if (e == 0)
            file->fd = -1; /* the store's now */
        return e;
    }
    e = ms_pool_allocate(pool, pages, false, out);
    if (e < 0)
        return e;
    if (!(flags & MEMSNAP_HUGE_REQUIRE) && ms_chunk_fills_holes(*out, file, size))
        e = SPARSE;
    else
        e = ms_chunk_fill_from(*out, file, size, flags);
    if (e != 0)
        ms_chunk_unref(*out, &reclaim);
    ms_reclaim_flush(&reclaim);
    return e;
}

static int image_of_file(struct os_object *file, uint64_t size, size_t pages, unsigned flags,
                         struct pool *pool, struct image **out) MS_INSIDE
{
    struct reclaim reclaim = {0};
    struct chunk *c;
    int e = chunk_of_file(file, size, pages, flags, pool, &c);
    if (e == SPARSE)
        return sparse_image(file, size, pages, pool, out);
    if (e < 0)
        return e;
    e = ms_image_of_chunk(c, pages, out);
    ms_chunk_unref(c, &reclaim);
    ms_reclaim_flush(&reclaim);
    return e;
}

/* The file stays the live copy; images are copies of what it holds when somebody asks. */
static int shared_file(struct os_object *file, size_t size, size_t pages, unsigned flags,
                       struct pool *pool, struct memsnap_snapshot **out) MS_INSIDE
{
    struct chunk *c;
    struct image *i;
    int e = ms_image_zero(pages, &i);
    if (e < 0)
        return e;
    struct reclaim reclaim = {0};
    e = ms_store_of_file(file, pages, false, &c);
    if (e == 0) {
        file->fd = -1;
        e = ms_snapshot_of_image(i, size, flags, pool, out);
        if (e == 0) {
            ms_current_is_unshared(&(*out)->current);
            ms_writer_set_file(&(*out)->current, c);
        } else {
            ms_chunk_unref(c, &reclaim);
        }
    }
    ms_image_unref(i);
    ms_reclaim_flush(&reclaim);
    return e;
}

static int snapshot_of_file(struct os_object *file, uint64_t size, unsigned flags,
                            struct memsnap_snapshot **out) MS_INSIDE
{
    struct pool *pool;
    struct image *i;
    size_t pages;
    if (size > SIZE_MAX || !ms_pages_of((size_t)size, ms_os->page_size(), &pages))
        return -EFBIG;
    int e = ms_pool_new(flags & MEMSNAP_NO_FD, &pool);
    if (e < 0)
        return e;
    if (flags & MEMSNAP_FILE_SHARED) {
        e = shared_file(file, (size_t)size, pages, flags, pool, out);
    } else {
        e = pages ? image_of_file(file, size, pages, flags, pool, &i) : ms_image_zero(0, &i);
        if (e == 0) {
            e = ms_snapshot_of_image(i, (size_t)size, flags, pool, out);
            ms_image_unref(i);
        }
    }
    ms_pool_unref(pool);
    return e;
}

/* Some files open well and cannot be mapped: better said now than when the first view is opened. */
static int check_mapping(const struct os_object *file, uint64_t size, unsigned flags)
{
    size_t ps = ms_os->page_size();
    enum os_share how = flags & MEMSNAP_FILE_SHARED ? OS_SHARED_WRITE : OS_PRIVATE;
    void *p;
    if (!(flags & MEMSNAP_FILE_MAP) || !size)
        return 0;
    /* of the last page: file systems of huge pages have no mapping that begins there */
    int e = ms_os->map_new(file, (size - 1) / ps * ps, ps, ps, how, &p);
    if (e == 0)
        ms_os->unmap(p, ps);
    return e == -EINVAL ? -ENOTSUP : e;
}

static int check_file_flags(unsigned *flags)
{
    if (*flags & ~(MS_HUGE_FLAGS | MS_FILE_FLAGS | MEMSNAP_NO_FD) ||
        (*flags & MS_HUGE_FLAGS) == MS_HUGE_FLAGS)
        return -EINVAL;
    if (*flags & MEMSNAP_FILE_SHARED)
        *flags |= MEMSNAP_FILE_MAP;
    /* A mapped file has the pages its file system gives it, and needs a descriptor. */
    if (*flags & MEMSNAP_HUGE_REQUIRE && *flags & (MEMSNAP_FILE_MAP | MEMSNAP_NO_FD))
        return -ENOTSUP;
    return *flags & MEMSNAP_FILE_MAP && *flags & MEMSNAP_NO_FD ? -EINVAL : 0;
}

static int finish(int e, struct os_object *file, uint64_t size, unsigned flags,
                  memsnap_snapshot **out) MS_INSIDE
{
    if (e < 0)
        return e;
    e = check_mapping(file, size, flags);
    if (e == 0)
        e = snapshot_of_file(file, size, flags, out);
    if (file->fd >= 0)
        ms_os->object_close(file);
    return e;
}

int memsnap_snapshot_new_from_file(const char *path, unsigned flags, memsnap_snapshot **out)
{
    struct os_object file;
    uint64_t size = 0;
    if (!path || !out)
        return -EINVAL;
    int e = check_file_flags(&flags);
    if (e < 0)
        return e;
    ms_enter();
    e = ms_os->file_open(path, flags & MEMSNAP_FILE_SHARED, &file, &size);
    e = finish(e, &file, size, flags, out);
    ms_leave();
    return e;
}

int memsnap_snapshot_new_from_fd(int fd, unsigned flags, memsnap_snapshot **out)
{
    struct os_object file;
    uint64_t size = 0;
    if (!out)
        return -EINVAL;
    int e = check_file_flags(&flags);
    if (e < 0)
        return e;
    ms_enter();
    e = ms_os->file_dup(fd, flags & MEMSNAP_FILE_SHARED, &file, &size);
    e = finish(e, &file, size, flags, out);
    ms_leave();
    return e;
}
