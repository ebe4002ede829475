/* SPDX-License-Identifier: MIT */
/* The images that the files of tests/random/data are about, for the program that makes the files
 * and the test that loads them. */
#ifndef MS_TEST_CORPUS_H
#define MS_TEST_CORPUS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CORPUS_SIZE ((size_t)70000)
#define CORPUS_EXAMPLE ((size_t)1000)
#define CORPUS_LARGE (((uint64_t)1 << 40) + 1)

/* Bytes that are the same everywhere, with two stretches of zeros. */
static inline void corpus_base(unsigned char *p)
{
    uint32_t x = 1;
    for (size_t i = 0; i < CORPUS_SIZE; i++) {
        x = x * 1664525u + 1013904223u;
        p[i] = (unsigned char)(x >> 24);
    }
    memset(p + 8192, 0, 8192);
    memset(p + 60000, 0, 5000);
}

/* Changes of every kind: a few bytes, a long stretch, to zero, from zero, across blocks, the
 * last byte. */
static inline void corpus_change(unsigned char *p)
{
    memcpy(p + 5000, "four", 4);
    memset(p + 10000, 0x77, 100);
    for (size_t i = 20000; i < 30000; i++)
        p[i] = (unsigned char)~p[i];
    memset(p + 36000, 0, 14000);
    memset(p + 65530, 1, 12);
    p[CORPUS_SIZE - 1] ^= 1;
}

#endif
