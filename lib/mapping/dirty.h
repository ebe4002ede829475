/* SPDX-License-Identifier: MIT */
/* Which pages of a mapping differ from an image: candidates from the best source that works,
 * then a comparison. */
#ifndef MS_DIRTY_H
#define MS_DIRTY_H

#include "mapping/mapping.h"

/* Runs of pages that may be private, and of guarded ones, which nobody may touch. */
struct candidate_scan {
    const struct mapping *m;
    const struct os_write_block *block; /* or NULL */
    uintptr_t cursor, end;
    size_t next, n;
    /* set by the caller: only what was stored to since last asked; cleared when that fails */
    bool written;
    bool count_only; /* set by the caller: no page is to be touched */
    bool all;        /* no source worked: every page is a candidate */
    /* a few at once: a scan lies on the stack, of which some threads have little */
    struct os_range v[48];
};

struct candidates {
    size_t first, pages;
    bool guarded;
};

void ms_scan_begin(struct candidate_scan *s, const struct mapping *m, size_t first_page,
                   const struct os_write_block *block);
/* The next run of candidates; false: no more. Never fails: where no source works every page is a
 * candidate. */
bool ms_scan_next(struct candidate_scan *s, struct candidates *run);
/* "pagemap-scan", "pagemap", "compare": what works in this process now, tried on the mapping's
 * first page. */
const char *ms_scan_source(const struct mapping *m);

/* The bytes of an image's pages, run by run. */
struct reader {
    const struct image *image;
    struct run run; /* the one looked up last; pages == 0: none yet */
    char *buffer;   /* one page, for chunks without a window */
};

void ms_reader_begin(struct reader *r, const struct image *i);
void ms_reader_end(struct reader *r);
/* One page's bytes; NULL with *error == 0: the page is zero. Valid until the next call. */
const void *ms_reader_page(struct reader *r, size_t page, int *error);

/* The image has no bytes for the page: it is zero. */
bool ms_reader_is_zero(struct reader *r, size_t page);

/* The bytes of a page that belong to the image: all, or fewer at the end of the last page. */
size_t ms_page_bytes(const struct mapping *m, size_t page);

/* Pages whose bytes (as far as they belong to the image) differ from `against`, one by one, in
 * order. Those of private pages are compared. A page that is not private is never touched: it
 * shows `mapped`, and that is compared where it is not `against`. So it does not matter whether
 * the holder dropped pages, or put guards there. Protections must be lifted. */
struct dirty_iter {
    struct candidate_scan scan;
    struct reader against;
    /* of the mapping's base, for whoever compares with that too */
    struct reader base;
    struct reader mapped;
    /* pages before `page` are done; [first, end) is the next run of private ones, or this one */
    size_t page, first, end;
    size_t differs_end; /* `mapped` and `against` differ in [page, differs_end) */
    bool at_end;        /* there are no more private ones */
};

struct dirty_page {
    size_t number;
    bool shows_mapped; /* not private */
};

void ms_dirty_begin(struct dirty_iter *d, const struct mapping *m, const struct image *against,
                    size_t first_page, const struct os_write_block *block);
/* 1 and the page, 0: no more, or a negative errno. */
int ms_dirty_next(struct dirty_iter *d, struct dirty_page *page);
void ms_dirty_end(struct dirty_iter *d);

#endif
