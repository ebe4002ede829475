/* SPDX-License-Identifier: MIT */
/* Saving: what whole images and deltas have in common. */
#ifndef MS_SAVE_H
#define MS_SAVE_H

#include "storage/image.h"
#include "os/os.h"

#define MS_SAVE_FLAGS (MEMSNAP_SAVE_NOSYNC | MEMSNAP_SAVE_EXCL)

/* A new file at path whose content `write` makes: it writes to an empty object and tells how
 * many bytes there are. The old file is replaced when all is there; after an error it is as it
 * was. */
typedef int ms_write_content(void *arg, const struct os_object *to, uint64_t *size);
int ms_save_file(const char *path, unsigned flags, ms_write_content *write, void *arg) MS_OUTSIDE;

/* Whether the image is known to be zero at `at`, without a look at its bytes: looking at what
 * nobody ever wrote would give it memory. 0: it is zero as far as *end; 1: there may be something;
 * or a negative errno. */
int ms_image_extent(const struct image *i, uint64_t at, uint64_t size, uint64_t *end);
/* -EIO: a mapped file that the image refers to is shorter than it was. It reads as zeros there. */
int ms_image_check_files(const struct image *i, uint64_t size);

/* Writes the image's first `size` bytes to an empty object. Zero pages, stored ones too, become
 * holes. */
int ms_write_image(const struct image *i, size_t size, const struct os_object *to) MS_OUTSIDE;

#endif
