/* SPDX-License-Identifier: MIT */
/* Restoring a mapping in place. */
#ifndef MS_RESTORE_H
#define MS_RESTORE_H

#include "mapping/mapping.h"

/* Every byte becomes the base's again, and every page readable and writable. A failure may leave
 * part of it restored; the base stays, and calling again finishes the work. */
int ms_restore(struct mapping *m) MS_INSIDE;
/* The same to another image of as many pages, which becomes the base. */
int ms_restore_to(struct mapping *m, struct image *target) MS_INSIDE;
/* Copies the target over a shared mapping, page by page where they differ. */
int ms_overwrite(struct mapping *m, struct image *target);
/* How many pages may be private now: what a parked view would keep resident. */
size_t ms_private_pages(const struct mapping *m);

#endif
