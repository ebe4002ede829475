/* SPDX-License-Identifier: MIT */
/* A pool: what a root snapshot and all its descendants append new chunks to, so that ten
 * thousand incremental snapshots cost one file descriptor. The store is made when the first
 * chunk is. */
#ifndef MS_POOL_H
#define MS_POOL_H

#include "storage/store.h"

/* After a fork a family starts a new store, because chunks of the old one are not punched any more:
 * its memory goes as a whole, with its last chunk. But with so many stores alive the family stays
 * with the one it has, or a process that forks every second would collect descriptors. */
#define MS_MAX_STORES 8

struct pool {
    refcount refs;
    bool heap_only;              /* MEMSNAP_NO_FD */
    struct family_usage *family; /* of the family's stores */
    struct ms_mutex lock;
    struct store *store MS_GUARDED_BY(ms_pool_mutex); /* holds a reference; NULL: none yet */
};

static inline void ms_pool_lock(struct pool *p) MS_INSIDE MS_ACQUIRE(ms_pool_mutex) MS_LOCKS
{
    ms_lock(&p->lock);
}

static inline void ms_pool_unlock(struct pool *p) MS_INSIDE MS_RELEASE(ms_pool_mutex) MS_LOCKS
{
    ms_unlock(&p->lock);
}

/* Nobody else knows the pool any more. */
static inline void ms_pool_is_unshared(const struct pool *p) MS_ASSERTS(ms_pool_mutex)
{
    (void)p;
}

int ms_pool_new(bool heap_only, struct pool **out);
struct pool *ms_pool_ref(struct pool *p);
void ms_pool_unref(struct pool *p);

/* A new chunk in the family's store; heap memory where no shareable object can be had. reuse_ok:
 * see ms_store_allocate. */
int ms_pool_allocate(struct pool *p, size_t pages, bool reuse_ok, struct chunk **out) MS_INSIDE;
/* A new chunk in heap memory, for tiny images. */
int ms_pool_allocate_heap(size_t pages, struct chunk **out) MS_INSIDE;
/* Gives back to the OS what is not worth keeping. */
void ms_pool_trim(struct pool *p) MS_INSIDE;
/* "memfd", "file", "heap": where new chunks go, or NULL if there were none yet. */
const char *ms_pool_kind(struct pool *p) MS_INSIDE;

#endif
