/* SPDX-License-Identifier: MIT */
/* What cannot be done: the answers of a system that has no means for an operation. */
#include "config.h"

#include "os/internal.h"

#include <errno.h>

size_t ms_no_huge_pages(void)
{
    return 0;
}

uint64_t ms_unknown_memory(void)
{
    return UINT64_MAX;
}

int ms_cannot_discard(const struct os_range *v, size_t n)
{
    (void)v;
    (void)n;
    return -ENOTSUP; /* POSIX lets madvise do nothing */
}

int ms_cannot_collapse(void *addr, size_t len)
{
    (void)addr;
    (void)len;
    return -ENOTSUP;
}

size_t ms_no_bytes(const void *addr, size_t len)
{
    (void)addr;
    (void)len;
    return 0;
}

bool ms_cannot_tell(const void *addr, size_t len)
{
    (void)addr;
    (void)len;
    return false;
}

int ms_cannot_punch(const struct os_object *o, uint64_t offset, uint64_t len)
{
    (void)o;
    (void)offset;
    (void)len;
    return -ENOTSUP;
}

bool ms_never_sealed(const struct os_object *o)
{
    (void)o;
    return false;
}

int ms_cannot_export(struct os_object *o)
{
    (void)o;
    return -ENOTSUP;
}

int ms_cannot_seal(const struct os_object *o, void *window, size_t len)
{
    (void)o;
    (void)window;
    (void)len;
    return -ENOTSUP;
}

int ms_cannot_share(const struct os_object *o, uint64_t size, int *fd)
{
    (void)o;
    (void)size;
    (void)fd;
    return -ENOTSUP;
}

int ms_no_candidates(enum os_source source, uintptr_t *cursor, uintptr_t end, struct os_range *v,
                     size_t max)
{
    (void)source;
    (void)cursor;
    (void)end;
    (void)v;
    (void)max;
    return -ENOTSUP;
}

int ms_cannot_track(void *addr, size_t len)
{
    (void)addr;
    (void)len;
    return -ENOTSUP;
}

void ms_never_tracked(void *addr, size_t len)
{
    (void)addr;
    (void)len;
}

int ms_none_written(uintptr_t *cursor, uintptr_t end, struct os_range *v, size_t max)
{
    return ms_no_candidates(OS_SOURCE_SCAN, cursor, end, v, max);
}

int ms_no_write_block(void *addr, size_t len, struct os_write_block *g)
{
    (void)addr;
    (void)len;
    (void)g;
    return -ENOTSUP;
}

int ms_no_write_block_candidates(const struct os_write_block *g, uintptr_t *cursor, uintptr_t end,
                                 struct os_range *v, size_t max)
{
    (void)g;
    (void)cursor;
    (void)end;
    (void)v;
    (void)max;
    return -ENOTSUP;
}

void ms_nothing_to_open(struct os_write_block *g)
{
    (void)g;
}
