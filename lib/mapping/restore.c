/* SPDX-License-Identifier: MIT */
/* Restoring: compare and copy back, or drop and let the pages fault in again.
 *
 * Copying back keeps pages resident, so that the next stores to them take no fault. Dropping them
 * makes the next restore shorter. restore_policy.h decides page by page.
 *
 * Dropping is MADV_DONTNEED where there is such a thing, because an exchanged mapping would lose
 * what the caller set on it (mlock and the like). Pages in which `mapped` differs from the base are
 * always copied back: dropping them would show the wrong bytes. */
#include "config.h"

#include "mapping/restore.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "mapping/dirty.h"

/* Pages are compared in blocks of so many bytes. */
#define BLOCK 512
/* Old pages are dropped when there are so many, or when they are half of what is private: a call
 * costs more than comparing a few of them once more. */
#define MIN_DROPPED 16
/* restore_to copies so few pages whatever the size of the view. */
#define FEW_PAGES 8

/* In how many pages two images differ, counted no further than needed. */
static size_t count_differences(const struct image *a, const struct image *b, size_t limit)
{
    size_t pages = ms_image_pages(a), n = 0, first, run;
    for (size_t at = 0; n <= limit && at < pages && ms_image_differs(a, b, at, pages, &first, &run);
         at = first + run)
        n += run;
    return n;
}

/* One restore. */
struct restore_pass {
    struct mapping *m;
    const struct image *target;
    enum restore_way way; /* RESTORE_KEEP: dirty pages are copied back; else private ones dropped */
    bool learns;          /* the policy is told what was dirty, and asked what is too old */
    struct reader reader; /* of the target */
    struct reader mapped;
    struct candidate_scan scan;
    size_t seen, dirty, dropped; /* private pages; of these, copied back; and dropped */
    size_t done;                 /* pages before this one are brought to the target */
    /* What is to be dropped next, and how many pages that is. */
    size_t n, pages;
    struct os_range drops[48];
};

/* ---- dropping -------------------------------------------------------------------------------- */

/* A clean page that cannot be dropped is kept. */
static int drop_noted(struct restore_pass *p)
{
    int e = p->n ? ms_os->discard(p->drops, p->n) : 0;
    if (e == 0)
        p->dropped += p->pages;
    p->n = p->pages = 0;
    return p->way == RESTORE_KEEP ? 0 : e;
}

/* Pages [first, end) are to be dropped. `mapped` shows the target there. */
static int note_drop(struct restore_pass *p, size_t first, size_t end)
{
    uintptr_t start = (uintptr_t)ms_page_address(p->m, first);
    uintptr_t stop = (uintptr_t)ms_page_address(p->m, end);
    int e = 0;
    if (p->n && p->drops[p->n - 1].end == start) {
        p->drops[p->n - 1].end = stop;
    } else {
        if (p->n == sizeof p->drops / sizeof p->drops[0])
            e = drop_noted(p);
        p->drops[p->n++] = (struct os_range){.start = start, .end = stop};
    }
    p->pages += end - first;
    return e;
}

/* True if `mapped` shows the target in all of [first, end). Else [*from, *from + *pages) is where
 * it does not, first. */
static bool shows_target(const struct restore_pass *p, size_t first, size_t end, size_t *from,
                         size_t *pages)
{
    return p->m->mapped == p->target ||
           !ms_image_differs(p->m->mapped, p->target, first, end, from, pages);
}

static bool is_old(const struct restore_pass *p, size_t page)
{
    size_t from, pages;
    return ms_policy_is_old(&p->m->policy, page) && shows_target(p, page, page + 1, &from, &pages);
}

/* ---- copying back ---------------------------------------------------------------------------- */

/* Makes the page equal to the bytes (NULL: zeros); false if it was already. What comes behind the
 * first block that differs is copied unseen: in the cache copying costs less than comparing (a
 * cycle of 16 pages 1.7 us against 3.1, of 1,024 pages 0.39 ms against 0.96). */
static bool put_page(struct mapping *m, size_t page, const char *bytes)
{
    char *to = ms_page_address(m, page);
    size_t ps = ms_os->page_size(), at = 0;
    while (at < ps && ms_bytes_equal(to + at, bytes ? bytes + at : NULL, BLOCK))
        at += BLOCK;
    if (at < ps && bytes)
        memcpy(to + at, bytes + at, ps - at);
    else if (at < ps)
        memset(to + at, 0, ps - at);
    return at < ps;
}

/* What the holder gave back with MADV_FREE the system takes away at any time later, unless it is
 * stored to again. Only memory of zeros can be given back like that. */
static void keep_from_being_freed(struct restore_pass *p, size_t page)
{
    volatile char *to = ms_page_address(p->m, page);
    if (ms_reader_is_zero(&p->mapped, page))
        *to = *to;
}

/* Dirty pages among [first, end) are copied back. learns: they are private for certain. */
static int pass_over(struct restore_pass *p, size_t first, size_t end, bool learns)
{
    int e = 0;
    p->seen += end - first;
    for (size_t page = first; page < end && e == 0; page++) {
        const void *bytes = ms_reader_page(&p->reader, page, &e);
        if (e < 0)
            return e;
        bool dirty = put_page(p->m, page, bytes);
        p->dirty += dirty;
        if (learns && dirty)
            ms_policy_dirty(&p->m->policy, page);
        else if (learns && is_old(p, page))
            e = note_drop(p, page, page + 1);
        else if (!dirty && bytes)
            keep_from_being_freed(p, page);
    }
    p->done = end;
    return e;
}

/* Brings pages before `limit` that are not private to the target. They show `mapped`. */
static int copy_where_mapped_differs(struct restore_pass *p, size_t limit)
{
    size_t first, pages;
    int e = 0;
    while (e == 0 && p->done < limit &&
           ms_image_differs(p->m->mapped, p->target, p->done, limit, &first, &pages))
        e = pass_over(p, first, first + pages, false);
    return e;
}

static int unguard(const struct mapping *m, size_t first, size_t pages)
{
    return ms_os->advise(ms_page_address(m, first), pages * ms_os->page_size(), OS_UNGUARD);
}

/* ---- a pass ---------------------------------------------------------------------------------- */

/* Tells the policy which pages of [first, end) were dirty. */
static int learn_run(struct restore_pass *p, size_t first, size_t end)
{
    int e = 0;
    for (size_t page = first; page < end; page++) {
        bool dirty = p->m->policy.all_fresh;
        if (!dirty) {
            const void *bytes = ms_reader_page(&p->reader, page, &e);
            if (e < 0)
                return e;
            dirty = !ms_bytes_equal(ms_page_address(p->m, page), bytes, ms_os->page_size());
        }
        if (dirty)
            ms_policy_dirty(&p->m->policy, page);
    }
    return 0;
}

/* Notes [first, end) for dropping, but for pages where that would show other bytes. */
static int drop_run(struct restore_pass *p, size_t first, size_t end)
{
    int e = 0;
    while (first < end && e == 0) {
        size_t from = end, pages = 0;
        if (shows_target(p, first, end, &from, &pages)) {
            from = end;
            pages = 0;
        }
        if (from > first && (e = learn_run(p, first, from)) == 0)
            e = note_drop(p, first, from);
        p->seen += from - first;
        if (pages && e == 0)
            e = pass_over(p, from, from + pages, false);
        first = from + pages;
    }
    p->done = end;
    return e;
}

static int bring_run(struct restore_pass *p, const struct candidates *run)
{
    size_t end = run->first + run->pages;
    bool learns = p->learns && !p->scan.all;
    int e = copy_where_mapped_differs(p, run->first);
    if (e < 0)
        return e;
    if (run->guarded)
        return unguard(p->m, run->first, run->pages);
    return learns && p->way != RESTORE_KEEP ? drop_run(p, run->first, end)
                                            : pass_over(p, run->first, end, learns);
}

static void pass_begin(struct restore_pass *p)
{
    ms_reader_begin(&p->reader, p->target);
    ms_reader_begin(&p->mapped, p->m->mapped);
}

static void pass_end(struct restore_pass *p)
{
    ms_reader_end(&p->reader);
    ms_reader_end(&p->mapped);
}

/* Brings every page to the target. */
static int go_through(struct restore_pass *p)
{
    struct candidates run;
    int e = 0;
    pass_begin(p);
    ms_scan_begin(&p->scan, p->m, 0, NULL);
    while (e == 0 && ms_scan_next(&p->scan, &run))
        e = bring_run(p, &run);
    if (e == 0)
        e = copy_where_mapped_differs(p, p->m->pages);
    pass_end(p);
    bool worth = p->way != RESTORE_KEEP || p->pages >= MIN_DROPPED || 2 * p->pages > p->seen;
    if (e == 0 && worth)
        e = drop_noted(p);
    p->m->restored_pages += p->dirty;
    p->m->dropped_pages += p->dropped;
    return e;
}

/* The members are set one by one: clearing the ranges would take longer than a small restore. */
static void pass_init(struct restore_pass *p, struct mapping *m, const struct image *target,
                      enum restore_way way, bool learns)
{
    p->m = m;
    p->target = target;
    p->way = way;
    p->learns = learns;
    p->seen = p->dirty = p->dropped = p->done = p->n = p->pages = 0;
}

/* ---- to the base ----------------------------------------------------------------------------- */

/* What is mapped at this moment, private or not. */
struct present {
    size_t bytes, huge_bytes;
};

static struct present look_at_present(const struct mapping *m)
{
    return (struct present){ms_os->present_bytes(m->address, m->length),
                            ms_os->huge_bytes(m->address, m->length)};
}

/* How many faults reading the same pages again would take if everything were dropped: one maps
 * sixteen small pages, or a huge one. */
static double count_read_faults(const struct present *p, size_t private_pages)
{
    enum { PAGES_A_FAULT = 16 };
    size_t ps = ms_os->page_size(), huge_size = ms_os->huge_size();
    size_t not_read = p->huge_bytes + private_pages * ps;
    size_t small = p->bytes > not_read ? p->bytes - not_read : 0;
    double faults = (double)small / (double)(ps * PAGES_A_FAULT);
    return huge_size ? faults + (double)p->huge_bytes / (double)huge_size : faults;
}

static int restore_pages(struct mapping *m, enum restore_way way)
{
    struct restore_pass p;
    struct present present = {0};
    bool count = ms_policy_wants_reads(&m->policy);
    pass_init(&p, m, m->base, way, true);
    if (count)
        present = look_at_present(m);
    int e = go_through(&p);
    if (e < 0)
        return e;
    if (p.scan.all) { /* nobody knows what is private: at least these */
        m->resident_private = p.dirty + m->copied_pages;
        return 0;
    }
    m->resident_private = p.seen - p.dropped;
    if (count)
        ms_policy_set_reads(&m->policy, count_read_faults(&present, p.seen));
    ms_policy_end(&m->policy, m->resident_private);
    return 0;
}

static int drop_everything(struct mapping *m) MS_INSIDE
{
    int e = ms_mapping_drop(m, 0, m->pages);
    if (e < 0)
        return e;
    m->remaps++;
    m->resident_private = 0;
    m->torn = true;
    unguard(m, 0, m->pages); /* guards are not dropped; where there are none it may fail */
    e = ms_mapping_copy_base(m, 0, m->pages);
    m->torn = e < 0;
    ms_policy_dropped_all(&m->policy);
    return e;
}

/* A view that is restored once learns nothing. */
static enum restore_way choose_way(struct mapping *m)
{
    if (!(ms_os->caps & OS_CAP_DISCARD))
        return RESTORE_KEEP;
    if (m->restores > 1)
        ms_policy_start(&m->policy, m->pages);
    return ms_policy_begin(&m->policy);
}

int ms_restore(struct mapping *m)
{
    int e = ms_mapping_unprotect(m);
    if (e < 0)
        return e;
    m->restores++;
    ms_image_remember(&m->last_taken, NULL);
    if (m->torn) {
        m->resident_private = 0;
        return ms_mapping_exchange(m, m->base); /* nothing is known of what is there */
    }
    enum restore_way way = choose_way(m);
    if (way == RESTORE_DROP_WHOLE) {
        e = drop_everything(m);
        if (e == 0 || m->torn)
            return e;
        way = RESTORE_KEEP;
    }
    e = restore_pages(m, way);
    /* pages that could not be dropped are copied back */
    return e < 0 && way != RESTORE_KEEP ? restore_pages(m, RESTORE_KEEP) : e;
}

/* ---- to another image ------------------------------------------------------------------------ */

static int copy_to(struct mapping *m, const struct image *target)
{
    struct restore_pass p;
    pass_init(&p, m, target, RESTORE_KEEP, false);
    int e = go_through(&p);
    if (e == 0)
        m->resident_private = p.seen;
    return e;
}

int ms_restore_to(struct mapping *m, struct image *target)
{
    int e = ms_mapping_unprotect(m);
    if (e < 0)
        return e;
    m->restores++;
    /* A page that is copied becomes private for good; beyond an eighth mapping anew is cheaper,
     * and gives memory back. */
    size_t few = m->pages / 8 + FEW_PAGES;
    bool many = m->torn || count_differences(m->base, target, few) > few;
    e = many ? ms_mapping_exchange(m, target) : -ENOTSUP;
    if (e == 0)
        m->resident_private = 0;
    else if (!m->torn) /* an exchange that failed without a trace leaves copying */
        e = copy_to(m, target);
    if (e < 0)
        return e;
    ms_mapping_set_base(m, target);
    return 0;
}

int ms_overwrite(struct mapping *m, struct image *target)
{
    struct restore_pass p;
    int e = ms_mapping_unprotect(m);
    if (e < 0)
        return e;
    unguard(m, 0, m->pages); /* where there are no guards it may fail */
    pass_init(&p, m, target, RESTORE_KEEP, false);
    pass_begin(&p);
    e = pass_over(&p, 0, m->pages, false);
    pass_end(&p);
    return e;
}

size_t ms_private_pages(const struct mapping *m)
{
    struct candidate_scan scan;
    struct candidates run;
    size_t n = 0;
    ms_scan_begin(&scan, m, 0, NULL);
    scan.count_only = true;
    while (ms_scan_next(&scan, &run))
        n += run.guarded ? 0 : run.pages;
    return n;
}
