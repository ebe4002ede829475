/* SPDX-License-Identifier: MIT */
/* Operations on several snapshots and views, chosen by whoever is asked, and compared with plain
 * arrays. */
#ifndef MS_TEST_MODEL_H
#define MS_TEST_MODEL_H

#include "support/support.h"

struct model_plan {
    /* any number below limit, which is at least 1: what is done, with what, and where */
    size_t (*choose)(size_t limit);
    const size_t *sizes; /* of images, bytes */
    size_t n_sizes;
    bool forks;
    /* now and then an operation of the OS fails: the table must be wrapped (fault.h) */
    bool faults;
    /* for some time there is a real lack of something (shortage.h): one process at a time */
    bool shortages;
};

struct model_counts { /* since model_start, without what children did */
    unsigned long calls, stopped, given_up, torn, shortages, forks, protections;
};

/* One run at a time, in the configuration of support.h. */
void model_start(const struct model_plan *plan);
void model_step(void);  /* one operation, and a look at some of what there is */
void model_check(void); /* at all of it */
void model_end(void);   /* drops everything */
struct model_counts model_counts(void);

#endif
