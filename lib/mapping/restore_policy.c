/* SPDX-License-Identifier: MIT */
/* Choosing how long private pages are kept. */
#include "config.h"

#include "mapping/restore_policy.h"

#include "base/arith.h"
#include "os/os.h"

/* What things cost, in units of 0.1 us. Only the ratios matter, and they change little from machine
 * to machine: a fault enters the kernel and copies a page, a comparison reads one. Fastest of 60
 * rounds each, 1 to 4,096 pages of 64 MiB, Linux 6.18, two virtual processors, other work going
 * on. */
static const double FAULT = 18;      /* the first store to a page that is not private */
static const double COPY = 3;        /* comparing a dirty page and copying it back */
static const double COMPARE = 1.5;   /* comparing a clean page, and its part of the scan */
static const double SCAN = 15;       /* asking which pages are private */
static const double RUN = 5;         /* dropping a run of pages, many in one call */
static const double PAGE = 2;        /* freeing a private page */
static const double WHOLE = 15;      /* dropping a whole view */
static const double READ_FAULT = 26; /* mapping what was read again, and unmapping it */

/* Restores that ask between two choices. */
enum { CHOICE_ROUNDS = 8 };
/* Choices between two measurements of what is read. */
enum { READ_CHOICES = 8 };
/* One in so many restores asks, where everything is dropped. */
enum { WHOLE_ROUNDS = 32 };
/* Rounds that count: the older ones fade. */
static const double MEMORY = 32;
/* What is known before anything was measured. */
enum { FIRST_LIMIT = 8 };

void ms_policy_start(struct restore_policy *p, size_t pages)
{
    if (p->last_dirty)
        return;
    p->last_dirty = ms_os->alloc(pages * sizeof *p->last_dirty);
    p->limit = FIRST_LIMIT;
}

void ms_policy_free(struct restore_policy *p)
{
    ms_os->free(p->last_dirty);
    *p = (struct restore_policy){0};
}

static unsigned class_of(uint32_t age)
{
    unsigned c = 0;
    while (c < REUSE_CLASSES - 1 && age > UINT32_C(1) << c)
        c++;
    return c;
}

void ms_policy_dirty(struct restore_policy *p, size_t page)
{
    if (!p->last_dirty)
        return;
    uint32_t last = p->last_dirty[page];
    p->returned[last ? class_of(p->round - last) : REUSE_CLASSES - 1] += 1;
    p->last_dirty[page] = p->round;
    p->runs += page != p->next_page;
    p->next_page = page + 1;
}

bool ms_policy_is_old(const struct restore_policy *p, size_t page)
{
    return p->last_dirty && p->round - p->last_dirty[page] > p->limit;
}

/* A round's cost if clean pages are kept up to some age. later: dirty pages that come back after
 * more than that. kept: pages that were dirty within that age. */
static double cost_of_keeping(double dirty, double later, double kept)
{
    double clean = kept - (dirty - later);
    return SCAN + FAULT * later + COPY * dirty + COMPARE * clean + (PAGE + RUN / 2) * later;
}

static void choose(struct restore_policy *p)
{
    double dirty = 0, kept = 0, best;
    uint32_t from = 0;
    for (int c = 0; c < REUSE_CLASSES; c++)
        dirty += p->returned[c] / p->rounds;
    double by_pages = SCAN + RUN * p->runs / p->rounds, whole = WHOLE + READ_FAULT * p->read_faults;
    best = (FAULT + PAGE) * dirty + (whole < by_pages ? whole : by_pages);
    p->limit = 0;
    p->way = whole < by_pages ? RESTORE_DROP_WHOLE : RESTORE_DROP_PAGES;
    double later = dirty;
    for (int c = 0; c < REUSE_CLASSES - 1; c++) {
        uint32_t age = UINT32_C(1) << c;
        /* so many pages were dirty in a round, and not again for longer than `from` */
        kept += later * (age - from);
        from = age;
        later -= p->returned[c] / p->rounds;
        double cost = cost_of_keeping(dirty, later, kept);
        if (cost < best) {
            best = cost;
            p->limit = age;
            p->way = RESTORE_KEEP;
        }
    }
}

enum restore_way ms_policy_begin(struct restore_policy *p)
{
    if (p->way == RESTORE_DROP_WHOLE && ++p->whole_rounds < WHOLE_ROUNDS)
        return RESTORE_DROP_WHOLE;
    p->whole_rounds = 0;
    p->round++;
    return p->way == RESTORE_DROP_WHOLE ? RESTORE_DROP_PAGES : p->way;
}

static void fade(struct restore_policy *p)
{
    double keep = MEMORY / (MEMORY + CHOICE_ROUNDS);
    for (int c = 0; c < REUSE_CLASSES; c++)
        p->returned[c] *= keep;
    p->runs *= keep;
    p->rounds *= keep;
}

void ms_policy_end(struct restore_policy *p, size_t left)
{
    if (!p->last_dirty)
        return;
    p->all_fresh = left == 0;
    p->rounds += 1;
    p->next_page = 0;
    if (p->round % CHOICE_ROUNDS)
        return;
    choose(p);
    fade(p);
}

void ms_policy_dropped_all(struct restore_policy *p)
{
    p->all_fresh = true;
}

bool ms_policy_wants_reads(const struct restore_policy *p)
{
    return p->last_dirty && p->round % (CHOICE_ROUNDS * READ_CHOICES) == CHOICE_ROUNDS - 1;
}

void ms_policy_set_reads(struct restore_policy *p, double read_faults)
{
    p->read_faults = read_faults;
}
