/* SPDX-License-Identifier: MIT */
/* The delta format, as doc/file-format.txt has it: what save_delta writes and load_delta reads. */
#ifndef MS_DELTA_H
#define MS_DELTA_H

#include <stddef.h>
#include <stdint.h>

#define DELTA_MAGIC "\x89MSDELT\n"
#define DELTA_VERSION 1u
#define DELTA_REQUIRED 0u /* the features that a reader must know, and this one does */

#define DELTA_HEADER 64u /* bytes */
#define DELTA_RECORD 24u /* bytes, before the table */
#define DELTA_MIN_BLOCK (1u << 9)
#define DELTA_MAX_BLOCK (1u << 20)
#define DELTA_RECORD_BLOCKS (1u << 12) /* at the most */

enum delta_kind {
    /* the table has both checksums of each block; the new bytes follow */
    DELTA_DATA = 1,
    /* the table has the base's checksums; the new bytes are zero */
    DELTA_ZERO = 2,
    DELTA_SAME = 3 /* the table has the base's checksums; nothing changes */
};

struct delta_header {
    uint32_t version, required, optional, block;
    uint64_t image_size, file_size, records;
};

struct delta_record {
    uint64_t first; /* block */
    uint32_t blocks, kind, table_sum;
};

static inline void delta_put32(unsigned char *p, uint32_t x)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(x >> 8 * i);
}

static inline void delta_put64(unsigned char *p, uint64_t x)
{
    delta_put32(p, (uint32_t)x);
    delta_put32(p + 4, (uint32_t)(x >> 32));
}

static inline uint32_t delta_get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t delta_get64(const unsigned char *p)
{
    return delta_get32(p) | (uint64_t)delta_get32(p + 4) << 32;
}

#endif
