/* SPDX-License-Identifier: MIT */
/* Reading the bytes of an image. */
#ifndef MS_READ_H
#define MS_READ_H

#include <stddef.h>

struct image;

/* Copies bytes [offset, offset + len), which lie inside the image's pages. */
int ms_image_read(const struct image *i, size_t offset, void *to, size_t len);

#endif
