/* SPDX-License-Identifier: MIT */
/* Which private pages a restore keeps, and which it drops.
 *
 * A page that is kept is compared at each restore; a page that was dropped faults when it is next
 * written. So it pays to keep a clean page only as long as it is likely to be written again soon.
 * For each page the policy remembers the round in which it was last dirty. From the ages at which
 * pages become dirty again follows, for every age limit, what a round would cost; the cheapest
 * limit is used until the next choice. A limit of 0 keeps nothing.
 *
 * Where nothing is kept and little is read, dropping the whole view without asking for its private
 * pages is cheapest. Nothing is learnt from such a round, so every WHOLE_ROUNDS-th one asks.
 *
 * Pure C: no operating system call but for memory. Guarded by the lock of the mapping's owner. */
#ifndef MS_RESTORE_POLICY_H
#define MS_RESTORE_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Classes of reuse ages: 1, 2, 3-4, 5-8, 9-16, 17-32, 33-64 rounds, and all above. */
enum { REUSE_CLASSES = 8 };

enum restore_way {
    RESTORE_KEEP,       /* compare what is private, copy back what is dirty, drop what is old */
    RESTORE_DROP_PAGES, /* drop what is private, by runs */
    RESTORE_DROP_WHOLE  /* drop everything, without asking what is private */
};

/* Zero-initialised. */
struct restore_policy {
    uint32_t round;       /* restores that asked which pages are private */
    uint32_t *last_dirty; /* of each page, the round; 0: never. NULL: nothing is learnt */
    /* Dirty pages by the class of the age at which they came back, over `rounds` rounds. The older
     * a round, the less it counts. */
    double returned[REUSE_CLASSES];
    double runs;      /* of dirty pages, over the same rounds */
    size_t next_page; /* continues the run of dirty pages */
    double rounds;
    double read_faults;    /* a round's, if everything were dropped; as last measured */
    uint32_t limit;        /* the age up to which clean pages are kept; 0: no page is kept */
    enum restore_way way;  /* of the next restore */
    unsigned whole_rounds; /* RESTORE_DROP_WHOLE in a row */
    bool all_fresh;        /* no page was private after the last restore */
};

/* Has the policy learn from now on, for so many pages. Without memory for that every restore keeps
 * all pages. */
void ms_policy_start(struct restore_policy *p, size_t pages);
void ms_policy_free(struct restore_policy *p);

/* A restore begins: its way. For all but RESTORE_DROP_WHOLE ms_policy_end follows. */
enum restore_way ms_policy_begin(struct restore_policy *p);
/* A page was dirty. In ascending order. */
void ms_policy_dirty(struct restore_policy *p, size_t page);
/* Whether a clean page is too old to be kept. */
bool ms_policy_is_old(const struct restore_policy *p, size_t page);
/* The restore is over. left: private pages that are still there. */
void ms_policy_end(struct restore_policy *p, size_t left);
/* No page is private any more, for whatever reason. */
void ms_policy_dropped_all(struct restore_policy *p);

/* True now and then: the caller should measure how many faults reading the same pages again would
 * take if everything were dropped, and tell. */
bool ms_policy_wants_reads(const struct restore_policy *p);
void ms_policy_set_reads(struct restore_policy *p, double read_faults);

#endif
