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

#include "base/arith.h"
#include "base/bytes.h"
#include "mapping/dirty.h"
#include "memsnap.h"

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

/* In how many pages two images differ, counted no further than needed. */
static size_t count_differences(const struct image *a, const struct image *b, size_t limit)
{
    size_t pages = ms_image_pages(a), n = 0, first, run;
    for (size_t at = 0; n <= limit && at < pages && ms_image_differs(a, b, at, pages, &first, &run);
         at = first + run)
        n += run;
    return n;
}

struct restore_pass {
    struct mapping *m;
    const struct image *target;
    struct reader reader; /* of the target */
    struct reader mapped;
    /* what is gone through is private for certain: copying it adds nothing to what the view has */
    bool private;
    size_t seen, clean, dirty; /* dirty: copied back, looked at or not */
    size_t done;               /* pages before this one are brought to the target */
    bool all;                  /* every page was a candidate: says nothing about what is private */
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

/* What the holder gave back with MADV_FREE the system takes away at any time later, unless it is
 * stored to again. Only memory of zeros can be given back like that. */
static void keep_from_being_freed(struct restore_pass *p, size_t page)
{
    volatile char *to = ms_page_address(p->m, page);
    if (ms_reader_is_zero(&p->mapped, page))
        *to = *to;
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
        if (put_page(p->m, page, bytes, is_worth_a_look(p))) {
            p->dirty++;
            continue;
        }
        p->clean++;
        if (bytes)
            keep_from_being_freed(p, page);
    }
    p->done = end;
    return 0;
}

/* Brings pages before `limit` that are not private to the target. They show `mapped`. */
static int copy_where_mapped_differs(struct restore_pass *p, size_t limit)
{
    size_t first, pages;
    int e = 0;
    while (e == 0 && p->done < limit &&
           ms_image_differs(p->m->mapped, p->target, p->done, limit, &first, &pages))
        e = pass_over(p, first, first + pages);
    return e;
}

static int unguard(const struct mapping *m, size_t first, size_t pages)
{
    return ms_os->advise(ms_page_address(m, first), pages * ms_os->page_size(), OS_UNGUARD);
}

static int bring_run(struct restore_pass *p, const struct candidates *run)
{
    int e = copy_where_mapped_differs(p, run->first);
    if (e < 0)
        return e;
    return run->guarded ? unguard(p->m, run->first, run->pages)
                        : pass_over(p, run->first, run->first + run->pages);
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
static int copy_back(struct restore_pass *p)
{
    struct candidate_scan scan;
    struct candidates run;
    int e = 0;
    pass_begin(p);
    ms_scan_begin(&scan, p->m, 0, NULL);
    while (e == 0 && ms_scan_next(&scan, &run)) {
        p->private = !scan.all;
        e = bring_run(p, &run);
        p->private = false;
    }
    if (e == 0)
        e = copy_where_mapped_differs(p, p->m->pages);
    p->all = scan.all;
    pass_end(p);
    p->m->restored_pages += p->dirty;
    return e;
}

/* After a round of copying: did it pay? Fresh pages are those that were not private before the
 * round. */
static void learn(struct mapping *m, const struct restore_pass *p)
{
    size_t fresh = p->seen > m->resident_private ? p->seen - m->resident_private : 0;
    bool known = m->resident_private > 0 && p->dirty >= FEW_PAGES;
    if (m->copied_in == COPIED_IN_UNKNOWN)
        m->copied_in = count_differences(m->mapped, m->base, SIZE_MAX);
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
    int e = copy_back(&p);
    if (e == 0)
        learn(m, &p);
    return e;
}

static int drop_everything(struct mapping *m)
{
    int e = ms_mapping_drop(m, 0, m->pages);
    if (e == 0) {
        m->remaps++;
        m->torn = true;
        unguard(m, 0, m->pages); /* guards are not dropped; where there are none it may fail */
        e = ms_mapping_copy_base(m, 0, m->pages);
        m->torn = e < 0;
        return e;
    }
    return e == -ENOTSUP ? ms_mapping_exchange(m, m->base) : e;
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
    ms_image_remember(&m->last_taken, NULL);
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

static int copy_to(struct mapping *m, const struct image *target)
{
    struct restore_pass p = {.m = m, .target = target};
    int e = copy_back(&p);
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
    m->copied_in = COPIED_IN_UNKNOWN;
    return 0;
}

int ms_overwrite(struct mapping *m, struct image *target)
{
    struct restore_pass p = {.m = m, .target = target};
    int e = ms_mapping_unprotect(m);
    if (e < 0)
        return e;
    unguard(m, 0, m->pages); /* where there are no guards it may fail */
    pass_begin(&p);
    e = pass_over(&p, 0, m->pages);
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
