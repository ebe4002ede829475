/* CRC-32C (Castagnoli), as RFC 3720 has it: the checksum of the delta format. */
#ifndef MS_CRC32C_H
#define MS_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of len bytes, going on from the checksum of what came before (0: nothing). By the processor's
 * instruction where it has one. */
uint32_t ms_crc32c(uint32_t before, const void *data, size_t len);
/* The same without the instruction; for tests. */
uint32_t ms_crc32c_by_table(uint32_t before, const void *data, size_t len);

#endif
