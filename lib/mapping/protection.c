/* SPDX-License-Identifier: MIT */
/* Sets of protected ranges. */
#include "config.h"

#include "mapping/protection.h"

#include <errno.h>
#include <string.h>

#include "memsnap.h"
#include "os/os.h"

int ms_protections_reserve(struct protections *p)
{
    if (p->n + 2 <= p->capacity) /* a set can split one range in two and add its own */
        return 0;
    size_t capacity = 2 * p->capacity + 4;
    struct protection *v = ms_os->realloc(p->v, capacity * sizeof *v);
    if (!v)
        return -ENOMEM;
    p->v = v;
    p->capacity = capacity;
    return 0;
}

static void insert(struct protections *p, size_t at, struct protection r)
{
    memmove(p->v + at + 1, p->v + at, (p->n - at) * sizeof *p->v);
    p->v[at] = r;
    p->n++;
}

/* Makes [first, end) uncovered; returns where a range starting at first belongs. */
static size_t cut(struct protections *p, size_t first, size_t end)
{
    size_t i = 0;
    while (i < p->n && p->v[i].first + p->v[i].pages <= first)
        i++;
    if (i < p->n && p->v[i].first < first) {
        struct protection tail = p->v[i];
        p->v[i].pages = first - tail.first;
        i++;
        if (tail.first + tail.pages > end) {
            tail.pages = tail.first + tail.pages - end;
            tail.first = end;
            insert(p, i, tail);
            return i;
        }
    }
    size_t j = i;
    while (j < p->n && p->v[j].first + p->v[j].pages <= end)
        j++;
    if (j < p->n && p->v[j].first < end) {
        p->v[j].pages -= end - p->v[j].first;
        p->v[j].first = end;
    }
    memmove(p->v + i, p->v + j, (p->n - j) * sizeof *p->v);
    p->n -= j - i;
    return i;
}

/* Makes one range of [i] and [i + 1] if they touch and allow the same. */
static void join(struct protections *p, size_t i)
{
    struct protection *a = p->v + i, *b = a + 1;
    if (i + 1 >= p->n || a->access != b->access || a->first + a->pages != b->first)
        return;
    a->pages += b->pages;
    p->n--;
    memmove(b, b + 1, (p->n - i - 1) * sizeof *b);
}

void ms_protections_set(struct protections *p, size_t first, size_t pages, int access)
{
    size_t at = cut(p, first, first + pages);
    if (access == (MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE))
        return;
    insert(p, at, (struct protection){first, pages, access});
    join(p, at);
    if (at > 0)
        join(p, at - 1);
}

void ms_protections_clear(struct protections *p)
{
    p->n = 0;
}

void ms_protections_free(struct protections *p)
{
    ms_os->free(p->v);
    *p = (struct protections){0};
}
