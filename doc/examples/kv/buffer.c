/* SPDX-License-Identifier: MIT */
/* buffer.c - the bytes that wait between the clients and the commands, and a budget for them.
 *
 * Every buffer may have OWN_SHARE bytes; what is beyond comes from a budget that all clients share
 * (--max-buffers). So whatever some clients do, the memory for buffers is bounded, and every client
 * can send and be answered small things. A buffer that is empty gives back what is beyond its own
 * share at once, and the rest when its client has been idle for a while (net.c). */
#include "kvserver.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_MORE = 1024 };

static atomic_size_t used; /* of the budget */

static size_t share(size_t capacity)
{
    return capacity > OWN_SHARE ? capacity - OWN_SHARE : 0;
}

void *budget_realloc(void *p, size_t old, size_t size)
{
    size_t more = share(size) > share(old) ? share(size) - share(old) : 0;

    if (size == 0) {
        free(p);
        p = NULL;
    } else {
        if (more > 0 && atomic_fetch_add(&used, more) + more > options.max_buffers) {
            atomic_fetch_sub(&used, more);
            return NULL;
        }
        p = realloc(p, size);
        if (p == NULL) {
            atomic_fetch_sub(&used, more);
            return NULL;
        }
    }
    if (share(size) < share(old))
        atomic_fetch_sub(&used, share(old) - share(size));
    return p;
}

size_t budget_used(void)
{
    return atomic_load(&used);
}

size_t buffered(const struct buffer *b)
{
    return b->end - b->start;
}

bool buffer_grow(struct buffer *b, size_t bytes)
{
    if (b->capacity - b->end >= bytes)
        return true;
    if (b->start > 0) {
        memmove(b->data, b->data + b->start, buffered(b));
        b->end -= b->start;
        b->start = 0;
        if (b->capacity - b->end >= bytes)
            return true;
    }
    char *data = budget_realloc(b->data, b->capacity, b->end + bytes);
    if (data == NULL)
        return false;
    b->data = data;
    b->capacity = b->end + bytes;
    return true;
}

bool buffer_reserve(struct buffer *b, size_t bytes)
{
    size_t more = bytes > buffered(b) ? bytes : buffered(b);

    if (b->capacity - b->end >= bytes)
        return true;
    return buffer_grow(b, more < LEAST_MORE ? LEAST_MORE : more) || buffer_grow(b, bytes);
}

bool buffer_add(struct buffer *b, const void *data, size_t len)
{
    if (!buffer_reserve(b, len))
        return false;
    if (len > 0)
        memcpy(b->data + b->end, data, len);
    b->end += len;
    return true;
}

void buffer_free(struct buffer *b)
{
    budget_realloc(b->data, b->capacity, 0);
    *b = (struct buffer){0};
}
