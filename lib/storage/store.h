/* SPDX-License-Identifier: MIT */
/* A store: an OS object that holds pages, or heap memory. It grows and is never truncated. Space
 * is handed out in segments, each with one read-only shared window over it that is mapped when
 * the segment is made, so that looking at a chunk's bytes takes no lock. A segment whose chunks
 * are all gone is unmapped. */
#ifndef MS_STORE_H
#define MS_STORE_H

#include "storage/chunk.h"
#include "storage/freelist.h"
#include "os/os.h"
#include "base/refcount.h"

/* How much free space a store keeps to use it again: so many pages, or one page for so many that
 * the family has in use, whichever is more. (After a fork the family goes on in a store that is
 * small at first.) Writing a page that the object has costs half of writing a new one and punching
 * a hole for the old one. */
#define MS_FREE_PAGES 1024
#define MS_FREE_SHARE 4

enum store_kind {
    STORE_ANON, /* ours: appended to, punched */
    STORE_FILE, /* the user's file or sealed memfd: one chunk, never written to by chunks */
    STORE_HEAP  /* every chunk is memory of its own */
};

struct segment {
    refcount refs; /* one per chunk, one while it is the store's current segment */
    uint64_t offset, len;
    char *window; /* NULL: could not be mapped, or not safe to */
    /* freelist.c's. */
    /* one for each page; NULL: none was free yet */
    uint64_t *free_bits MS_GUARDED_BY(ms_store_mutex);
    size_t free_pages MS_GUARDED_BY(ms_store_mutex);
    /* no page before this one is free */
    size_t free_from MS_GUARDED_BY(ms_store_mutex);
    /* no run of free pages is longer; they may all be shorter */
    size_t free_longest MS_GUARDED_BY(ms_store_mutex);
};

/* What a family has: a reference for each store that is alive and one for whoever counts, and
 * the pages in chunks of STORE_ANON. */
struct family_usage {
    refcount refs;
    atomic_size_t pages;
    atomic_uint freed; /* 1: pages were, since ms_family_usage_test_and_clear_freed(); an atomic
                        * byte would need libatomic on some machines */
};

struct store {
    refcount refs;
    enum store_kind kind;
    struct family_usage *family; /* NULL: not counted; STORE_ANON has one */
    size_t process, forks;       /* ms_process_generation(), ms_forks() when made */
    struct os_object object;     /* not for STORE_HEAP */
    struct ms_mutex lock;
    uint64_t end MS_GUARDED_BY(ms_store_mutex);  /* of the last segment */
    uint64_t used MS_GUARDED_BY(ms_store_mutex); /* bytes of the current segment handed out */
    size_t pages MS_GUARDED_BY(ms_store_mutex);  /* in chunks */
    struct segment *current MS_GUARDED_BY(ms_store_mutex); /* NULL: none yet */
    /* space of chunks that are gone, to be used again */
    struct freelist free MS_GUARDED_BY(ms_store_mutex);
};

static inline void ms_store_lock(struct store *s) MS_INSIDE MS_ACQUIRE(ms_store_mutex) MS_LOCKS
{
    ms_lock(&s->lock);
}

static inline void ms_store_unlock(struct store *s) MS_INSIDE MS_RELEASE(ms_store_mutex) MS_LOCKS
{
    ms_unlock(&s->lock);
}

/* Nobody else knows the store yet, or any more. */
static inline void ms_store_is_unshared(const struct store *s) MS_ASSERTS(ms_store_mutex)
{
    (void)s;
}

int ms_family_usage_new(struct family_usage **out);
void ms_family_usage_unref(struct family_usage *c);
/* How many stores are alive, or just were. */
size_t ms_family_usage_stores(const struct family_usage *c);
/* Whether pages were given back since this was asked last. */
bool ms_family_usage_test_and_clear_freed(struct family_usage *c);

/* family: where the store is counted, may be NULL but for STORE_ANON. */
int ms_store_new(enum store_kind kind, struct family_usage *family, struct store **out);
/* Over an opened file; takes the object over on success. window: its bytes can be looked at
 * through a mapping for ever. */
int ms_store_of_file(const struct os_object *object, size_t pages, bool window, struct chunk **out);
struct store *ms_store_ref(struct store *s);
void ms_store_unref(struct store *s);

/* Gives free space beyond what is worth keeping back to the OS. Takes its time: not for where
 * somebody waits. */
void ms_store_trim(struct store *s) MS_INSIDE;

/* True if no other process can see the chunk's pages by way of the store: one that was forked while
 * they existed shares them, in either direction. Whoever else in this process refers to the chunk
 * is not counted. */
bool ms_chunk_may_change(const struct chunk *c);

/* A chunk of its own space, to be filled by its maker before anyone else sees it. reuse_ok: it
 * may be space used before, whose old bytes the maker overwrites to the last; else it reads as
 * zeros. */
int ms_store_allocate(struct store *s, size_t pages, bool reuse_ok, struct chunk **out) MS_INSIDE;

#endif
