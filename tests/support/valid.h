/* SPDX-License-Identifier: MIT */
/* The invariants of the library's objects, as assertions. They look inside: into
 * storage/image_tree.h and the structures of the other headers. The library itself has none of
 * this. */
#ifndef MS_TEST_VALID_H
#define MS_TEST_VALID_H

#include <memsnap.h>

struct freelist;
struct image;
struct pool;
struct store;

/* The caller has a reference to the image, and no edit owns it. */
void assert_valid_image(const struct image *i);
/* The caller holds the lock of the store that the list belongs to, or nobody else uses it. */
void assert_valid_freelist(const struct freelist *f);

/* The rest take the locks that they need: the caller holds none, and is not between ms_enter() and
 * ms_leave(). Other threads may use the objects meanwhile. */
void assert_valid_store(struct store *s);
void assert_valid_pool(struct pool *p);
/* Its image, the chunks of the image, and its pool. */
void assert_valid_snapshot(memsnap_snapshot *s);
/* The same of a view: of every image that its mapping refers to, or of the snapshot it leases. */
void assert_valid_view(memsnap_view *v);

#endif
