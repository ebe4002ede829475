/* SPDX-License-Identifier: MIT */
/* CRC-32C (Castagnoli), as in RFC 3720: the checksum of the delta format. */
#ifndef MS_CRC32C_H
#define MS_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of the bytes that `before` is the checksum of, followed by these len bytes. before
 * == 0: these bytes alone. Uses the processor's instruction where there is one. */
uint32_t ms_crc32c(uint32_t before, const void *data, size_t len);
/* The same of len zero bytes, in a time that grows with the logarithm of len: a microsecond. */
uint32_t ms_crc32c_zeros(uint32_t before, uint64_t len);
/* As ms_crc32c, without the instruction; for tests. */
uint32_t ms_crc32c_by_table(uint32_t before, const void *data, size_t len);

#endif
