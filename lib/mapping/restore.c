/* Restoring: compare and copy back, or drop and let the pages fault in again.
 *
 * Copying back keeps the pages resident, so the next round of writes to them takes no fault: 4
 * to 13 times faster a cycle than dropping, as long as much the same pages are written again.
 * Where most of the pages written are fresh ones each time the private set only grows; then
 * dropping is cheaper, and copying is tried again now and then.
 *
 * Dropping is MADV_DONTNEED where there is such a thing, because an exchanged mapping would lose
 * what the caller set on it (mlock and the like); else the mapping is exchanged. */
#include "config.h"

#include "mapping/restore.h"

#include <errno.h>
#include <string.h>

#include "base/annotate.h"
#include "base/bytes.h"
#include "base/arith.h"
#include "mapping/dirty.h"
#include "memsnap.h"

/* Comparing this many pages outright costs less than asking the kernel (1.3 us against 1.9 us
 * for 16). */
#define SMALL_PAGES 16
/* Fewer pages than this say nothing about a working set. */
#define FEW_PAGES 8
/* Rounds of dropping before copying is tried again: two trial rounds in so many. */
#define FIRST_BACK_OFF 32
#define LONGEST_BACK_OFF 256
/* Pages are compared in blocks of so many bytes. */
#define BLOCK 512
/* After so many dirty pages, and no clean one, one in SAMPLE is compared and the others are just
 * copied: 6% of a restore of 1,024 pages, 9% out of the cache. */
#define MANY_DIRTY 64
#define SAMPLE 8

/* Clean candidates cost a comparison each (0.15 to 1 us), and where the store is huge each
 * leaves up to 512 mapped pages around it for the kernel to scan (13 us): above a few, and above
 * half the dirty ones, the next restore drops everything. Measured with 90/10 sets. */
#define FEW_CLEAN 8

/* Where two images differ: the first runs, and how many pages in all, counted no further than
 * needed. */
struct differences {
    size_t pages, n;
    bool more; /* there are more than these runs */
    struct {
        size_t first, pages;
    } runs[64];
};

static void find_differences(struct differences *d, const struct image *a, const struct image *b,
                             size_t limit)
{
    size_t pages = ms_image_pages(a), first, run;
    d->pages = d->n = 0;
    d->more = false;
    for (size_t at = 0;
         d->pages <= limit && at < pages && ms_image_differs(a, b, at, pages, &first, &run);
         at = first + run) {
        d->pages += run;
        d->more = d->n == sizeof d->runs / sizeof d->runs[0];
        if (d->more)
            continue;
        d->runs[d->n].first = first;
        d->runs[d->n++].pages = run;
    }
}

struct restore_pass {
    struct mapping *m;
    const struct image *target;
    struct reader reader;
    /* what is gone through is private for certain: copying it adds nothing to what the view has */
    bool private;
    size_t seen, clean, dirty; /* dirty: copied back, looked at or not */
    size_t done;               /* pages before this one are brought to the target */
    bool all;                  /* every page was a candidate: says nothing about what is private */
    /* Where base and target differ, NULL: they are one; the run that comes next, and how many of
     * those that are kept it has gone through. */
    const struct differences *differences;
    size_t first, end, n;
};

/* Makes the page equal to the bytes (NULL: zeros); look: false if it was already. What comes
 * behind the first block that differs is copied unseen: in the cache copying costs less than
 * comparing (a cycle of 16 pages 1.7 us against 3.1, of 1,024 pages 0.39 ms against 0.96). */
static bool put_page(struct mapping *m, size_t page, const char *bytes, bool look)
{
    char *to = ms_page_address(m, page);
    size_t ps = ms_os->page_size(), at = 0;
    while (look && at < ps && ms_bytes_equal(to + at, bytes ? bytes + at : NULL, BLOCK))
        at += BLOCK;
    if (at < ps && bytes)
        memcpy(to + at, bytes + at, ps - at);
    else if (at < ps)
        memset(to + at, 0, ps - at);
    return at < ps;
}

static bool is_worth_a_look(const struct restore_pass *p)
{
    return !p->private || p->clean || p->dirty < MANY_DIRTY || p->dirty % SAMPLE == 0;
}

/* Dirty pages among [first, end) are copied back. */
static int pass_over(struct restore_pass *p, size_t first, size_t end)
{
    int e = 0;
    p->seen += end - first;
    for (size_t page = first; page < end; page++) {
        const void *bytes = ms_reader_page(&p->reader, page, &e);
        if (e < 0)
            return e;
        if (put_page(p->m, page, bytes, is_worth_a_look(p)))
            p->dirty++;
        else
            p->clean++;
    }
    p->done = end;
    return 0;
}

/* Finds the first pages behind those that are done in which base and target differ. */
static bool find_next_difference(struct restore_pass *p)
{
    const struct differences *d = p->differences;
    size_t pages;
    while (p->end <= p->done) {
        if (p->n < d->n) {
            p->first = d->runs[p->n].first;
            p->end = p->first + d->runs[p->n++].pages;
        } else if (d->more && ms_image_differs(p->m->base, p->target, p->done, p->m->pages,
                                               &p->first, &pages)) {
            p->end = p->first + pages;
        } else {
            return false;
        }
    }
    p->first = ms_max(p->first, p->done);
    return true;
}

/* Brings pages before `limit` in which base and target differ to the target: those that were no
 * candidates. */
static int copy_differences(struct restore_pass *p, size_t limit)
{
    int e = 0;
    while (e == 0 && p->differences && find_next_difference(p) && p->first < limit)
        e = pass_over(p, p->first, ms_min(p->end, limit));
    return e;
}

/* Brings every candidate to the target, and what differs there from the base. */
static int copy_back(struct restore_pass *p, bool small)
{
    struct candidate_scan scan;
    size_t first, pages;
    int e = 0;
    ms_reader_begin(&p->reader, p->target);
    if (small) {
        e = pass_over(p, 0, p->m->pages);
    } else {
        ms_scan_begin(&scan, p->m, 0, NULL);
        while (e == 0 && ms_scan_next(&scan, &first, &pages)) {
            e = copy_differences(p, first);
            p->private = !scan.all;
            if (e == 0)
                e = pass_over(p, first, first + pages);
            p->private = false;
        }
        if (e == 0)
            e = copy_differences(p, p->m->pages);
        p->all = scan.all;
    }
    ms_reader_end(&p->reader);
    p->m->restored_pages += p->dirty;
    return e;
}

/* After a round of copying: did it pay? Fresh pages are those that were not private before the
 * round. */
static void learn(struct mapping *m, const struct restore_pass *p)
{
    size_t fresh = p->seen > m->resident_private ? p->seen - m->resident_private : 0;
    bool known = m->resident_private > 0 && p->dirty >= FEW_PAGES;
    if (m->copied_in == COPIED_IN_UNKNOWN) {
        struct differences d;
        find_differences(&d, m->mapped, m->base, SIZE_MAX);
        m->copied_in = d.pages;
    }
    if (p->all) {
        m->resident_private = p->dirty + m->copied_in;
        return;
    }
    m->many_clean = p->seen > p->dirty + m->copied_in + ms_max(FEW_CLEAN, p->dirty / 2);
    m->resident_private = p->seen;
    if (!known)
        return;
    if (fresh <= p->dirty / 2) {
        m->wandering = 0;
        m->back_off = FIRST_BACK_OFF;
    } else if (++m->wandering >= 2) {
        m->drop_rounds = m->back_off ? m->back_off : FIRST_BACK_OFF;
        m->back_off = (unsigned)ms_min(2 * m->drop_rounds, LONGEST_BACK_OFF);
    }
}

static int restore_by_copying(struct mapping *m)
{
    struct restore_pass p = {.m = m, .target = m->base};
    bool small = m->pages <= SMALL_PAGES;
    int e = copy_back(&p, small);
    if (e == 0 && !small)
        learn(m, &p);
    return e;
}

static int drop_everything(struct mapping *m)
{
    int e = ms_mapping_drop(m, 0, m->pages);
    if (e == 0) {
        m->remaps++;
        m->torn = true;
        e = ms_mapping_copy_base(m, 0, m->pages);
        m->torn = e < 0;
        return e;
    }
    return e == -ENOTSUP && !m->keep_private ? ms_mapping_exchange(m, m->base) : e;
}

static bool is_dropping_due(struct mapping *m)
{
    if (!m->drop_rounds && !m->many_clean)
        return false;
    if (m->drop_rounds) {
        m->drop_rounds--;
        m->wandering = 1;
    }
    m->many_clean = false;
    m->resident_private = 0;
    return true;
}

int ms_restore(struct mapping *m)
{
    int e = ms_mapping_unprotect(m);
    if (e < 0)
        return e;
    m->restores++;
    ms_image_unref(m->last_taken);
    m->last_taken = NULL;
    if (m->torn) {
        m->resident_private = 0;
        return ms_mapping_exchange(m, m->base); /* nothing is known of what is there */
    }
    if (is_dropping_due(m)) {
        e = drop_everything(m);
        if (e == 0 || m->torn)
            return e;
    }
    return restore_by_copying(m);
}

/* ---- to another image ------------------------------------------------------------------------ */

static int copy_to(struct mapping *m, const struct image *target, const struct differences *d)
{
    struct restore_pass p = {.m = m, .target = target, .differences = d};
    int e = copy_back(&p, false);
    if (e == 0)
        m->resident_private = p.seen;
    return e;
}

int ms_restore_to(struct mapping *m, struct image *target)
{
    struct differences d;
    int e = ms_mapping_unprotect(m);
    if (e < 0)
        return e;
    m->restores++;
    /* A page that is copied becomes private for good; beyond an eighth mapping anew is cheaper,
     * and gives memory back. */
    size_t few = m->pages / 8 + FEW_PAGES;
    find_differences(&d, m->base, target, few);
    e = m->torn || d.pages > few ? ms_mapping_exchange(m, target) : -ENOTSUP;
    if (e == 0) {
        m->resident_private = 0;
    } else {
        /* An exchange that failed without a trace leaves copying, for which all differences have
         * to be known. */
        if (m->torn)
            return e;
        if (d.pages > few)
            find_differences(&d, m->base, target, SIZE_MAX);
        e = copy_to(m, target, &d);
        if (e < 0)
            return e;
    }
    ms_mapping_set_base(m, target);
    m->copied_in = COPIED_IN_UNKNOWN;
    return 0;
}

int ms_overwrite(struct mapping *m, struct image *target)
{
    struct restore_pass p = {.m = m, .target = target};
    int e = ms_mapping_unprotect(m);
    if (e < 0)
        return e;
    ms_reader_begin(&p.reader, target);
    e = pass_over(&p, 0, m->pages);
    ms_reader_end(&p.reader);
    return e;
}

size_t ms_private_pages(const struct mapping *m)
{
    struct candidate_scan scan;
    size_t first, pages, n = 0;
    ms_scan_begin(&scan, m, 0, NULL);
    while (ms_scan_next(&scan, &first, &pages))
        n += pages;
    return n;
}
