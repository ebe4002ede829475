/* SPDX-License-Identifier: MIT */
/* Trimming: keeping scans of a view short where its store is in huge pages.
 *
 * A store to a page of a huge page splits the view's mapping of it, and the next read there maps
 * all its small pages (Linux 6.18), each of which every later scan looks at: 10 to 25 ns, 512
 * times for one private page (tests/bench/probes/huge-scan.c). A fault maps a whole huge page
 * only if it lies in one mapping. So where a region, the size of a huge page, has a few private
 * pages, it gets a boundary between mappings in its middle, once, and what is mapped there
 * beside the private pages is unmapped: faults map sixteen pages from then on. Sixteen changed
 * pages of 64 MiB, and some read: a scan takes 23 us instead of 163. */
#include "config.h"

#include "mapping/split_huge.h"

#include <stdint.h>
#include <string.h>

#include "base/arith.h"
#include "mapping/dirty.h"

/* Restores before the first look; then eight times as many each time: a look is a scan. */
enum { FIRST_LOOK = 8, LONGEST_PAUSE = 8 * 8 * 8 * 8 };
/* A region with more private pages takes longer to restore than to scan. */
enum { MAX_PRIVATE = 16 };
/* One where little is mapped beside them gains nothing. */
enum { MIN_MAPPED = 128 };
/* Each region costs two mappings, which are a process-wide limited resource. */
enum { MAX_REGIONS = 256 };

struct region {
    size_t first, end; /* pages; nothing outside the mapping */
    size_t n, private_pages;
    struct {
        size_t first, end;
    } runs[MAX_PRIVATE];
};

static bool is_split(const struct mapping *m, size_t region)
{
    return m->split[region / 64] >> (region % 64) & 1;
}

static void unmap_between(struct mapping *m, const struct region *r)
{
    size_t at = r->first;
    for (size_t i = 0; i < r->n; i++) {
        if (r->runs[i].first > at)
            ms_mapping_drop(m, at, r->runs[i].first - at);
        at = r->runs[i].end;
    }
    if (r->end > at)
        ms_mapping_drop(m, at, r->end - at);
}

static void split_region(struct mapping *m, const struct region *r, size_t region_pages)
{
    size_t number = r->first / region_pages, middle = r->first + region_pages / 2,
           ps = ms_os->page_size();
    if (!r->n || r->private_pages > MAX_PRIVATE || r->end - r->first < region_pages)
        return;
    if (m->region_count == MAX_REGIONS || is_split(m, number))
        return;
    if (ms_os->present_bytes(ms_page_address(m, r->first), region_pages * ps) < MIN_MAPPED * ps)
        return;
    if (ms_os->advise(ms_page_address(m, middle), (r->end - middle) * ps, OS_BOUNDARY) < 0)
        return;
    m->split[number / 64] |= UINT64_C(1) << (number % 64);
    m->region_count++;
    m->mappings += 2;
    unmap_between(m, r);
}

static void add_run(struct region *r, size_t first, size_t end)
{
    r->private_pages += end - first;
    if (r->n < MAX_PRIVATE) {
        r->runs[r->n].first = first;
        r->runs[r->n++].end = end;
    }
}

/* A run of private pages may reach over several regions. */
static void visit_run(struct mapping *m, struct region *r, size_t first, size_t end,
                      size_t region_pages)
{
    while (first < end) {
        if (first >= r->end) {
            split_region(m, r, region_pages);
            *r = (struct region){.first = first / region_pages * region_pages};
            r->end = ms_min(r->first + region_pages, m->pages);
        }
        size_t until = ms_min(end, r->end);
        add_run(r, first, until);
        first = until;
    }
}

static void split_regions(struct mapping *m, size_t region_pages)
{
    struct region r = {0};
    struct candidate_scan scan;
    struct candidates run;
    ms_scan_begin(&scan, m, 0, NULL);
    scan.count_only = true;
    while (ms_scan_next(&scan, &run) && !scan.all)
        visit_run(m, &r, run.first, run.first + run.pages, region_pages);
    if (!scan.all)
        split_region(m, &r, region_pages);
}

static bool is_due(struct mapping *m)
{
    if (++m->restores_since_look < ms_max(m->look_pause, FIRST_LOOK))
        return false;
    m->restores_since_look = 0;
    m->look_pause = ms_min(ms_max(m->look_pause, FIRST_LOOK) * 8, LONGEST_PAUSE);
    return true;
}

void ms_split_huge(struct mapping *m)
{
    size_t huge = ms_os->huge_size(), region_pages = huge / ms_os->page_size();
    if (!huge || m->length < huge || !ms_aligned((uintptr_t)m->address, huge) || m->torn ||
        !is_due(m))
        return;
    if (!m->split)
        m->split = ms_os->alloc((m->pages / region_pages / 64 + 1) * sizeof *m->split);
    if (m->split)
        split_regions(m, region_pages);
}
