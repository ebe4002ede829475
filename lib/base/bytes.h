/* SPDX-License-Identifier: MIT */
/* Comparing memory that other threads may be storing to. */
#ifndef MS_BYTES_H
#define MS_BYTES_H

#include <stdbool.h>
#include <stddef.h>

/* Whether the bytes of a and b are the same; NULL stands for zeros. Every byte is loaded once. If
 * one byte differs throughout the call the answer is false, whatever other threads store to the
 * other bytes meanwhile. memcmp does not promise that. */
bool ms_bytes_equal(const void *a, const void *b, size_t len);
/* The same without the instructions that only some processors have. For tests. */
bool ms_bytes_equal_anywhere(const void *a, const void *b, size_t len);

#endif
