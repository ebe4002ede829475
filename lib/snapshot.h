/* SPDX-License-Identifier: MIT */
/* A snapshot: a handle to an image, and to the writer that may be changing it.
 *
 * The nouns of the library, from the caller's handles down to the operating system:
 *
 *   snapshot   The caller's handle to an image of a fixed size. The image it refers to is replaced
 *              when the snapshot changes; the image itself never changes.
 *   view       The caller's handle to memory that shows an image. An ordinary view owns a mapping;
 *              what is stored there is private to it. A mutable view is the lease on its snapshot's
 *              writer.
 *   writer     A snapshot's mutable mapping. It outlives the lease until somebody has needed what
 *              was stored.
 *   lease      The right to store through the writer. One at a time.
 *   recycler   Closed views of a snapshot, restored and kept to be opened again without a system
 *              call. Such a view is parked.
 *   mapping    An image in the address space, at an address that never changes.
 *   private    A page of a mapping that the kernel copied, because it was stored to, or that the
 *              library copied in. Being private is not proof of being dirty.
 *   dirty      A page whose bytes differ from the mapping's base. It is among the candidates: pages
 *              that a source (the kernel's tables, or a comparison of all) says may be dirty.
 *   image      An immutable map from page numbers to pages of chunks, or to zero. Images share what
 *              they have in common.
 *   run        Pages that follow one another. A range is of bytes or addresses.
 *   chunk      A run of pages in a store, written once by its maker. Images hold references to it;
 *              the last one gives its pages back.
 *   store      An object of the OS (memfd, temporary file, the user's file) that holds chunks, or
 *              heap memory. It grows and never shrinks.
 *   segment    A range of a store. Its window is one shared, read-only mapping of all of it, so
 *              that anybody can read a chunk without a lock.
 *   family     A snapshot that was made from bytes or a file, and all that was taken or cloned from
 *              it or loaded on top of it, directly or not.
 *   pool       Where a family's new chunks go: its current store.
 *   take       To make a snapshot of what a view shows now. To capture is to make the image for it.
 *
 *     view ---> mapping ---> images: mapped, base, last_taken
 *      | lease
 *      v
 *     snapshot ---> image ---> chunks ---> segments ---> store ---> object of the OS
 *      |---> pool ---> current store ---> free list
 *      |---> recycler ---> parked views
 *      `---> writer ---> mapping
 *
 * An arrow is a reference. doc/HACKING has the invariants that span several of these, and the order
 * of their locks. */
#ifndef MS_SNAPSHOT_H
#define MS_SNAPSHOT_H

#include "base/refcount.h"
#include "mapping/recycler.h"
#include "mapping/writer.h"
#include "memsnap.h"
#include "storage/image.h"
#include "storage/pool.h"

struct memsnap_snapshot {
    refcount refs;             /* the caller's handles and the lease */
    struct recycler *recycler; /* holds a reference; never changes */
    struct ms_mutex turn;      /* who waits for the lock holds it: nobody passes by */
    struct ms_mutex lock;      /* guards current */
    struct current current;
};

#define MS_HUGE_FLAGS (MEMSNAP_HUGE_NEVER | MEMSNAP_HUGE_REQUIRE)
#define MS_FILE_FLAGS (MEMSNAP_FILE_MAP | MEMSNAP_FILE_SHARED)

/* A snapshot of an image; takes references of its own to image and pool. */
int ms_snapshot_of_image(struct image *i, size_t size, unsigned flags, struct pool *pool,
                         struct memsnap_snapshot **out) MS_INSIDE;
/* A reference to the image of what the snapshot holds at this moment. */
int ms_snapshot_image(struct memsnap_snapshot *s, bool atomic, struct image **out) MS_INSIDE;
/* Gives one back, and what goes with it to the system: captures that are made again and again
 * would collect it. */
void ms_snapshot_drop_image(struct memsnap_snapshot *s, struct image *i) MS_INSIDE;

/* Both locks of `current`. Unlocking frees what was left behind, and has the recycler take views
 * of the image that there is now. */
void ms_snapshot_lock(struct memsnap_snapshot *s) MS_INSIDE MS_ACQUIRE(ms_snapshot_locks);
void ms_snapshot_unlock(struct memsnap_snapshot *s) MS_INSIDE MS_RELEASE(ms_snapshot_locks);
/* Parked views are of the image that there is now; after the recycler's was set to NULL. */
void ms_snapshot_tell_recycler(struct memsnap_snapshot *s) MS_INSIDE;
/* Opens the writer for a lease: its address and size. */
int ms_snapshot_lease(struct memsnap_snapshot *s, unsigned flags, void *at, void **address,
                      size_t *size) MS_INSIDE;

/* The library's own unref, inside ms_enter. */
void ms_snapshot_put(struct memsnap_snapshot *s) MS_INSIDE;

#endif
