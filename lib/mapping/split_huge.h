/* SPDX-License-Identifier: MIT */
/* Trimming: keeping scans of a view short where its store is in huge pages. */
#ifndef MS_SPLIT_HUGE_H
#define MS_SPLIT_HUGE_H

#include "mapping/mapping.h"

/* To be called after each restore of an ordinary view; does something now and then. Cannot fail:
 * without it scans take longer. */
void ms_split_huge(struct mapping *m);

#endif
