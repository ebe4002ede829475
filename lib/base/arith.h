/* SPDX-License-Identifier: MIT */
/* Arithmetic on sizes that cannot wrap. */
#ifndef MS_ARITH_H
#define MS_ARITH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline size_t ms_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t ms_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* to: a power of two. */
static inline bool ms_aligned(size_t n, size_t to)
{
    return (n & (to - 1)) == 0;
}

/* to: a power of two. Cannot wrap for sizes that ms_pages_of() has accepted. */
static inline uint64_t ms_round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) & ~(to - 1);
}

/* *pages: how many pages `size` bytes need. False if a mapping of them would be larger than
 * PTRDIFF_MAX. */
static inline bool ms_pages_of(size_t size, size_t page_size, size_t *pages)
{
    if (size > PTRDIFF_MAX - 2 * page_size)
        return false;
    *pages = size / page_size + (size % page_size != 0);
    return true;
}

#endif
