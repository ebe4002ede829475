/* SPDX-License-Identifier: MIT */
/* What memsnap_view_protect changed: sorted, disjoint page ranges that are not plainly readable
 * and writable. Neighbours differ in access, so that each range is one mapping of the system's or
 * more. */
#ifndef MS_PROTECTION_H
#define MS_PROTECTION_H

#include <stdbool.h>
#include <stddef.h>

struct protection {
    size_t first, pages;
    int access; /* MEMSNAP_ACCESS_*, never exactly READ | WRITE */
};

struct protections {
    struct protection *v;
    size_t n, capacity;
};

/* Room for one more ms_protections_set, which then cannot fail. */
int ms_protections_reserve(struct protections *p);
void ms_protections_set(struct protections *p, size_t first, size_t pages, int access);
void ms_protections_clear(struct protections *p); /* keeps the room */
void ms_protections_free(struct protections *p);

#endif
