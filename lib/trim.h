/* Trimming: keeping scans of a view short where its store is in huge pages. */
#ifndef MS_TRIM_H
#define MS_TRIM_H

#include "mapping.h"

/* To be called after each restore of an ordinary view; does something now and then. Cannot fail: without it scans take longer. */
void ms_trim(struct mapping *m);

#endif
