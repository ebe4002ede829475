/* SPDX-License-Identifier: MIT */
/* CRC-32C. The tables are computed by the compiler: a CRC is linear, so every entry is the sum
 * (exclusive or) of the entries for its single bits, and only those are written down. */
#include "config.h"

#include "base/crc32c.h"

#include <string.h>

/* Table n has the checksum of each byte followed by n zero bytes. The arguments of TABLE are the
 * entries of the bytes 1, 2, 4 ... 128. */
#define BIT(i, n, x) ((i) >> (n)&1 ? (x) : 0)
#define ENTRY(i, a, b, c, d, e, f, g, h)                                                           \
    (BIT(i, 0, a) ^ BIT(i, 1, b) ^ BIT(i, 2, c) ^ BIT(i, 3, d) ^ BIT(i, 4, e) ^ BIT(i, 5, f) ^     \
     BIT(i, 6, g) ^ BIT(i, 7, h))
#define TWO(i, ...) ENTRY(i, __VA_ARGS__), ENTRY((i) + 1, __VA_ARGS__)
#define FOUR(i, ...) TWO(i, __VA_ARGS__), TWO((i) + 2, __VA_ARGS__)
#define EIGHT(i, ...) FOUR(i, __VA_ARGS__), FOUR((i) + 4, __VA_ARGS__)
#define SIXTEEN(i, ...) EIGHT(i, __VA_ARGS__), EIGHT((i) + 8, __VA_ARGS__)
#define N32(i, ...) SIXTEEN(i, __VA_ARGS__), SIXTEEN((i) + 16, __VA_ARGS__)
#define N64(i, ...) N32(i, __VA_ARGS__), N32((i) + 32, __VA_ARGS__)
#define N128(i, ...) N64(i, __VA_ARGS__), N64((i) + 64, __VA_ARGS__)
#define TABLE(...)                                                                                 \
    {                                                                                              \
        N128(0u, __VA_ARGS__), N128(128u, __VA_ARGS__)                                             \
    }

static const uint32_t tables[8][256] = {
    TABLE(0xf26b8303u, 0xe13b70f7u, 0xc79a971fu, 0x8ad958cfu, 0x105ec76fu, 0x20bd8edeu, 0x417b1dbcu,
          0x82f63b78u),
    TABLE(0x13a29877u, 0x274530eeu, 0x4e8a61dcu, 0x9d14c3b8u, 0x3fc5f181u, 0x7f8be302u, 0xff17c604u,
          0xfbc3faf9u),
    TABLE(0xa541927eu, 0x4f6f520du, 0x9edea41au, 0x38513ec5u, 0x70a27d8au, 0xe144fb14u, 0xc76580d9u,
          0x8b277743u),
    TABLE(0xdd45aab8u, 0xbf672381u, 0x7b2231f3u, 0xf64463e6u, 0xe964b13du, 0xd725148bu, 0xaba65fe7u,
          0x52a0c93fu),
    TABLE(0x38116facu, 0x7022df58u, 0xe045beb0u, 0xc5670b91u, 0x8f2261d3u, 0x1ba8b557u, 0x37516aaeu,
          0x6ea2d55cu),
    TABLE(0xef306b19u, 0xdb8ca0c3u, 0xb2f53777u, 0x6006181fu, 0xc00c303eu, 0x85f4168du, 0x0e045bebu,
          0x1c08b7d6u),
    TABLE(0x68032cc8u, 0xd0065990u, 0xa5e0c5d1u, 0x4e2dfd53u, 0x9c5bfaa6u, 0x3d5b83bdu, 0x7ab7077au,
          0xf56e0ef4u),
    TABLE(0x493c7d27u, 0x9278fa4eu, 0x211d826du, 0x423b04dau, 0x847609b4u, 0x0d006599u, 0x1a00cb32u,
          0x34019664u),
};

/* The value of four bytes in little-endian order, whatever the machine's. */
static uint32_t little32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t eight_bytes(uint32_t crc, const unsigned char *p)
{
    uint32_t a = crc ^ little32(p), b = little32(p + 4);
    return tables[7][a & 255] ^ tables[6][a >> 8 & 255] ^ tables[5][a >> 16 & 255] ^
           tables[4][a >> 24] ^ tables[3][b & 255] ^ tables[2][b >> 8 & 255] ^
           tables[1][b >> 16 & 255] ^ tables[0][b >> 24];
}

uint32_t ms_crc32c_by_table(uint32_t before, const void *data, size_t len)
{
    const unsigned char *p = data;
    uint32_t crc = ~before;
    for (; len >= 8; len -= 8, p += 8)
        crc = eight_bytes(crc, p);
    for (; len > 0; len--, p++)
        crc = crc >> 8 ^ tables[0][(crc ^ *p) & 255];
    return ~crc;
}

/* Checksums are polynomials over GF(2), bit 31 being the coefficient of x^0. The product modulo
 * CRC-32C's. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = b & 1 ? b >> 1 ^ 0x82f63b78u : b >> 1;
    }
    return product;
}

/* A zero byte multiplies by x^8. */
uint32_t ms_crc32c_zeros(uint32_t before, uint64_t len)
{
    uint32_t crc = ~before, power = 1u << (31 - 8);
    for (; len > 0; len >>= 1) {
        if (len & 1)
            crc = multiply(power, crc);
        power = multiply(power, power);
    }
    return ~crc;
}

#if defined __x86_64__ && defined __GNUC__

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t before, const void *data,
                                                                 size_t len)
{
    const unsigned char *p = data;
    uint64_t crc = (uint32_t)~before, word;
    for (; len >= sizeof word; len -= sizeof word, p += sizeof word) {
        memcpy(&word, p, sizeof word);
        crc = __builtin_ia32_crc32di(crc, word);
    }
    for (; len > 0; len--, p++)
        crc = __builtin_ia32_crc32qi((uint32_t)crc, *p);
    return ~(uint32_t)crc;
}

uint32_t ms_crc32c(uint32_t before, const void *data, size_t len)
{
    return __builtin_cpu_supports("sse4.2") ? by_instruction(before, data, len)
                                            : ms_crc32c_by_table(before, data, len);
}

#else

uint32_t ms_crc32c(uint32_t before, const void *data, size_t len)
{
    return ms_crc32c_by_table(before, data, len);
}

#endif
