/* Free lists of stores. A server that takes snapshots all the time gives back and takes single pages by the hundred thousand, scattered over
 * the store: a bit for each page is found, set and cleared at once, where a sorted list moves half of itself each time. */
#include "config.h"

#include "freelist.h"

#include "checked.h"
#include "os/os.h"
#include "store.h"

enum { BITS = 64 };

static size_t segment_pages(const struct segment *g)
{
    return (size_t)(g->len / ms_os->page_size());
}

static bool is_free(const struct segment *g, size_t page)
{
    return g->free_bits[page / BITS] >> (page % BITS) & 1;
}

static void set_free(struct segment *g, size_t first, size_t pages, bool value)
{
    for (size_t page = first; page < first + pages; page++) {
        uint64_t bit = UINT64_C(1) << (page % BITS);
        if (value)
            g->free_bits[page / BITS] |= bit;
        else
            g->free_bits[page / BITS] &= ~bit;
    }
}

/* The first free page from `page` on, or the segment's end. */
static size_t next_free(const struct segment *g, size_t page)
{
    size_t end = segment_pages(g);
    while (page < end) {
        if (page % BITS == 0 && !g->free_bits[page / BITS])
            page += BITS;
        else if (is_free(g, page))
            return page;
        else
            page++;
    }
    return end;
}

static size_t run_from(const struct segment *g, size_t first, size_t most)
{
    size_t end = segment_pages(g), page = first;
    while (page < end && page - first < most && is_free(g, page))
        page++;
    return page - first;
}

/* ---- the list of segments ---- */

static bool list(struct freelist *f, struct segment *g)
{
    if (f->n == f->room) {
        size_t room = 2 * f->room + 4;
        struct segment **v = ms_os->realloc(f->v, room * sizeof *v);
        if (!v)
            return false;
        f->v = v;
        f->room = room;
    }
    f->v[f->n++] = g;
    return true;
}

/* A segment that could hold more pages than this (16 TiB of small ones) is not worth half a GiB of bits. */
#define MOST_PAGES UINT32_MAX

static bool prepare(struct freelist *f, struct segment *g)
{
    if (g->len / ms_os->page_size() > MOST_PAGES)
        return false;
    if (!g->free_bits)
        g->free_bits = ms_os->alloc((segment_pages(g) / BITS + 1) * sizeof *g->free_bits);
    return g->free_bits && (g->free_pages || list(f, g));
}

bool ms_freelist_put(struct freelist *f, const struct free_extent *e, bool *spare)
{
    size_t ps = ms_os->page_size(), first = (size_t)(e->offset - e->segment->offset) / ps, pages = (size_t)(e->len / ps);
    struct segment *g = e->segment;
    *spare = g->free_pages > 0;
    if (!prepare(f, g))
        return false;
    g->free_from = g->free_pages ? ms_min(g->free_from, first) : first;
    g->free_pages += pages;
    set_free(g, first, pages, true);
    f->bytes += e->len;
    return true;
}

/* Takes out pages of the i-th segment. */
static void take_out(struct freelist *f, size_t i, size_t first, size_t pages, struct free_extent *e, bool *emptied)
{
    size_t ps = ms_os->page_size();
    struct segment *g = f->v[i];
    set_free(g, first, pages, false);
    if (first == g->free_from)
        g->free_from += pages;
    g->free_pages -= pages;
    *e = (struct free_extent){g->offset + (uint64_t)first * ps, (uint64_t)pages * ps, g};
    f->bytes -= e->len;
    *emptied = !g->free_pages;
    if (*emptied)
        f->v[i] = f->v[--f->n];
}

bool ms_freelist_take(struct freelist *f, uint64_t len, struct free_extent *e, bool *emptied)
{
    size_t pages = (size_t)(len / ms_os->page_size());
    for (size_t i = 0; i < f->n; i++) {
        const struct segment *g = f->v[i];
        size_t run;
        if (g->free_pages < pages)
            continue;
        for (size_t page = next_free(g, g->free_from); page < segment_pages(g); page = next_free(g, page + run)) {
            run = run_from(g, page, pages);
            if (run < pages)
                continue;
            take_out(f, i, page, pages, e, emptied);
            return true;
        }
    }
    return false;
}

bool ms_freelist_take_any(struct freelist *f, struct free_extent *e, bool *emptied)
{
    if (!f->n)
        return false;
    const struct segment *g = f->v[f->n - 1];
    size_t first = next_free(g, g->free_from);
    take_out(f, f->n - 1, first, run_from(g, first, SIZE_MAX), e, emptied);
    return true;
}
