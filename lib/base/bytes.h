/* Comparing memory that other threads may be storing to. */
#ifndef MS_BYTES_H
#define MS_BYTES_H

#include <stdbool.h>
#include <stddef.h>

/* NULL stands for zeros. Every byte is loaded once: if some byte differs throughout the call the
 * answer is false, whatever other bytes change meanwhile. memcmp does not promise that. */
bool ms_bytes_equal(const void *a, const void *b, size_t len);
/* The same without what only some processors have: for tests. */
bool ms_bytes_equal_anywhere(const void *a, const void *b, size_t len);

#endif
