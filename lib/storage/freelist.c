/* SPDX-License-Identifier: MIT */
/* Free lists of stores. A server that takes snapshots all the time frees and reuses hundreds of
 * thousands of single pages all over the store. To set, clear or find a bit costs the same however
 * many there are; a sorted list would move half of its entries for each page. */
#include "config.h"

#include "storage/freelist.h"

#include "base/arith.h"
#include "os/os.h"
#include "storage/store.h"

enum { BITS = 64 };

static size_t segment_pages(const struct segment *g)
{
    return (size_t)(g->len / ms_os->page_size());
}

static bool is_free(const struct segment *g, size_t page) MS_REQUIRES(ms_store_mutex)
{
    return g->free_bits[page / BITS] >> (page % BITS) & 1;
}

static void set_free(struct segment *g, size_t first, size_t pages, bool value)
    MS_REQUIRES(ms_store_mutex)
{
    for (size_t page = first; page < first + pages; page++) {
        uint64_t bit = UINT64_C(1) << (page % BITS);
        if (value)
            g->free_bits[page / BITS] |= bit;
        else
            g->free_bits[page / BITS] &= ~bit;
    }
}

/* The lowest bit of a word at which n ones in a row begin, or BITS. */
static size_t ones_in_word(uint64_t word, size_t n)
{
    if (n > BITS)
        return BITS;
    for (size_t have = 1; have < n;) { /* a set bit: `have` ones begin here */
        size_t shift = ms_min(have, n - have);
        word &= word >> shift;
        have += shift;
    }
    return word ? (size_t)__builtin_ctzll(word) : BITS;
}

/* The beginning of the first run of `pages` free pages at or behind `from`; the segment's end if
 * there is none. It goes word by word, because a search for a long run passes all single pages. */
static size_t find_run(const struct segment *g, size_t from, size_t pages)
    MS_REQUIRES(ms_store_mutex)
{
    size_t end = segment_pages(g), run = 0; /* free pages just before the word */
    for (size_t page = from / BITS * BITS; page < end; page += BITS) {
        uint64_t word = g->free_bits[page / BITS];
        if (page < from)
            word &= UINT64_MAX << (from - page);
        if (word == UINT64_MAX) {
            run += BITS;
            if (run >= pages)
                return page + BITS - run;
            continue;
        }
        if (run + (size_t)__builtin_ctzll(~word) >= pages)
            return page - run;
        size_t at = ones_in_word(word, pages);
        if (at < BITS)
            return page + at;
        run = (size_t)__builtin_clzll(~word);
    }
    return end;
}

/* How many pages are free from `first` on. */
static size_t run_from(const struct segment *g, size_t first) MS_REQUIRES(ms_store_mutex)
{
    size_t end = segment_pages(g), page = first;
    while (page < end && is_free(g, page))
        page++;
    return page - first;
}

/* An upper bound of the run that contains the free pages [first, first + pages): its length, or the
 * segment's where the run goes on for BITS pages and more on one side. */
static size_t run_around(const struct segment *g, size_t first, size_t pages)
    MS_REQUIRES(ms_store_mutex)
{
    size_t end = segment_pages(g), from = first, to = first + pages;
    while (from > 0 && first - from < BITS && is_free(g, from - 1))
        from--;
    while (to < end && to - first - pages < BITS && is_free(g, to))
        to++;
    return first - from == BITS || to - first - pages == BITS ? end : to - from;
}

/* ---- the list of segments -------------------------------------------------------------------- */

/* Adds a segment to the list. */
static bool list(struct freelist *f, struct segment *g)
{
    if (f->n == f->capacity) {
        size_t capacity = 2 * f->capacity + 4;
        struct segment **v = ms_os->realloc(f->v, capacity * sizeof *v);
        if (!v)
            return false;
        f->v = v;
        f->capacity = capacity;
    }
    f->v[f->n++] = g;
    return true;
}

/* A segment of more pages (16 TiB of small ones) gets no bits: they would take half a GiB. */
#define MAX_PAGES UINT32_MAX

/* Makes sure that the segment has its bits and is listed. */
static bool prepare(struct freelist *f, struct segment *g) MS_REQUIRES(ms_store_mutex)
{
    if (g->len / ms_os->page_size() > MAX_PAGES)
        return false;
    if (!g->free_bits)
        g->free_bits = ms_os->alloc((segment_pages(g) / BITS + 1) * sizeof *g->free_bits);
    return g->free_bits && (g->free_pages || list(f, g));
}

bool ms_freelist_put(struct freelist *f, const struct free_range *r, bool *spare)
{
    size_t ps = ms_os->page_size(), first = (size_t)(r->offset - r->segment->offset) / ps,
           pages = (size_t)(r->len / ps);
    struct segment *g = r->segment;
    *spare = g->free_pages > 0;
    if (!prepare(f, g))
        return false;
    g->free_from = g->free_pages ? ms_min(g->free_from, first) : first;
    g->free_pages += pages;
    set_free(g, first, pages, true);
    g->free_longest = ms_max(g->free_longest, run_around(g, first, pages));
    f->bytes += r->len;
    return true;
}

/* Takes free pages of the i-th segment out of the list. */
static void take_out(struct freelist *f, size_t i, size_t first, size_t pages, struct free_range *r,
                     bool *emptied) MS_REQUIRES(ms_store_mutex)
{
    size_t ps = ms_os->page_size();
    struct segment *g = f->v[i];
    set_free(g, first, pages, false);
    if (first == g->free_from)
        g->free_from += pages;
    g->free_pages -= pages;
    *r = (struct free_range){g->offset + (uint64_t)first * ps, (uint64_t)pages * ps, g};
    f->bytes -= r->len;
    *emptied = !g->free_pages;
    if (*emptied) {
        g->free_longest = 0;
        f->v[i] = f->v[--f->n];
    }
}

bool ms_freelist_take(struct freelist *f, uint64_t len, struct free_range *r, bool *emptied)
{
    size_t pages = (size_t)(len / ms_os->page_size());
    for (size_t i = 0; i < f->n; i++) {
        struct segment *g = f->v[i];
        if (g->free_longest < pages)
            continue;
        g->free_from = find_run(g, g->free_from, 1);
        size_t page = find_run(g, g->free_from, pages);
        if (page < segment_pages(g)) {
            take_out(f, i, page, pages, r, emptied);
            return true;
        }
        g->free_longest = pages - 1; /* no need to search again before more is free */
    }
    return false;
}

bool ms_freelist_take_any(struct freelist *f, struct free_range *r, bool *emptied)
{
    if (!f->n)
        return false;
    const struct segment *g = f->v[f->n - 1];
    size_t first = find_run(g, g->free_from, 1);
    take_out(f, f->n - 1, first, run_from(g, first), r, emptied);
    return true;
}
