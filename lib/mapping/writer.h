/* SPDX-License-Identifier: MIT */
/* The writer: a snapshot's mutable mapping. A mutable view is a lease on it, one at a time.
 *
 *              open, the image is nobody else's     open, else
 *      +------------------------------- NONE ------------------------------+
 *      |                                ^  ^                               |
 *      v           close                |  |  bring up to date, closed     v
 *    DIRECT ----------------------------+  +---------------------------- SHADOW
 *      |  ^                                                             ^  |  ^
 *      |  +---- thaw, last block ------- THAWING <--- thaw, a block ----|--+  |
 *      |                                   +----------- freeze ---------+     |
 *      +--------------- freeze: somebody asks for the image ------------------+
 *
 *    FILE, for good
 *
 *   NONE    No mapping. The image is what the snapshot holds.
 *   DIRECT  Leased. The image is one chunk that nobody else refers to, mapped shared: stores go
 *           into the chunk. The image must not be handed out.
 *   SHADOW  Leased or closed. The mapping is private, its base is the image. What was stored
 *           since is captured when somebody asks for the image.
 *   THAWING Leased or closed. Pages before `thawed` are as in DIRECT, the others as in SHADOW; the
 *           image refers to the chunk for the former, and must not be handed out. No other image
 *           refers to the chunk. To freeze it is to exchange the shared part, after the rest was
 *           captured.
 *   FILE    MEMSNAP_FILE_SHARED. The file is the live copy; images are copies of it. While
 *           leased the file is mapped shared.
 *
 * While a lease is out, only the freeze (which is atomic), restore_to (the caller's wish) or code
 * that holds the write block may drop or remap pages of the mapping: anything else could lose a
 * concurrent store. */
#ifndef MS_WRITER_H
#define MS_WRITER_H

#include <stdatomic.h>

#include "mapping/mapping.h"
#include "storage/pool.h"

enum writer_state { WRITER_NONE, WRITER_DIRECT, WRITER_SHADOW, WRITER_THAWING, WRITER_FILE };

struct writer {
    enum writer_state state MS_GUARDED_BY(ms_snapshot_locks);
    bool leased MS_GUARDED_BY(ms_snapshot_locks);
    /* stores may have gone behind the end of the image, in its last page */
    bool tail_dirty MS_GUARDED_BY(ms_snapshot_locks);
    /* ms_process_generation() of the last lease */
    size_t process MS_GUARDED_BY(ms_snapshot_locks);
    /* there while leased, and in SHADOW and THAWING */
    struct mapping mapping MS_GUARDED_BY(ms_snapshot_locks);
    /* DIRECT: the image's only chunk, borrowed. THAWING: what it will be, borrowed from the image,
     * too. FILE: the file, owned. */
    struct chunk *chunk MS_GUARDED_BY(ms_snapshot_locks);
    /* THAWING: pages before this one are mapped shared; else 0 */
    size_t thawed MS_GUARDED_BY(ms_snapshot_locks);
    /* THAWING: the chunk's other pages are zero, but for private ones */
    bool fresh MS_GUARDED_BY(ms_snapshot_locks);
    /* FILE: the same file */
    struct os_live_file live MS_GUARDED_BY(ms_snapshot_locks);
};

/* What calls have taken out of use. It is freed when the locks have been released: giving back
 * memory takes its time. */
struct leftovers {
    struct mapping mapping; /* address NULL: none */
    struct image *images[8];
    size_t n;
};

/* What a snapshot holds now. The snapshot's lock guards all of it, `look` too: a field changes
 * only under both, and may be read under either. Copying, which takes long, is done without
 * `look`. */
struct current {
    struct ms_mutex look;
    /* never NULL; may be handed out in NONE only, and after ms_writer_bring_up_to_date() */
    struct image *image MS_GUARDED_BY(ms_snapshot_locks);
    atomic_size_t size; /* bytes, exactly as asked for; read without a lock, too */
    unsigned flags;     /* MEMSNAP_NO_FD, MEMSNAP_HUGE_* of its making; never changes */
    struct pool *pool;  /* holds a reference; never changes */
    /* and which of them made the image */
    size_t captures_begun MS_GUARDED_BY(ms_snapshot_locks);
    size_t captured_by MS_GUARDED_BY(ms_snapshot_locks);
    /* memsnap_view_restore_to() */
    size_t rollbacks MS_GUARDED_BY(ms_snapshot_locks);
    struct writer writer MS_GUARDED_BY(ms_snapshot_locks);
    struct leftovers left MS_GUARDED_BY(ms_snapshot_locks);
};

static inline void ms_current_look(struct current *c) MS_INSIDE
    MS_ACQUIRE_SHARED(ms_snapshot_locks) MS_LOCKS
{
    ms_lock(&c->look);
}

static inline void ms_current_end_look(struct current *c) MS_INSIDE
    MS_RELEASE_SHARED(ms_snapshot_locks) MS_LOCKS
{
    ms_unlock(&c->look);
}

/* Nobody else knows the snapshot yet, or any more. */
static inline void ms_current_is_unshared(const struct current *c) MS_ASSERTS(ms_snapshot_locks)
{
    (void)c;
}

/* Takes references of its own to image and pool. */
void ms_current_init(struct current *c, struct image *i, size_t size, unsigned flags,
                     struct pool *pool);
void ms_current_destroy(struct current *c) MS_INSIDE;
/* To be freed when the locks have been released; takes the reference over. */
void ms_current_leave_image(struct current *c, struct image *i) MS_REQUIRES(ms_snapshot_locks);
/* The image is another one from now on; takes the reference over. */
void ms_current_set_image(struct current *c, struct image *i) MS_REQUIRES(ms_snapshot_locks);
void ms_leftovers_free(struct leftovers *l) MS_INSIDE;

/* ---- with `look` held ------------------------------------------------------------------------ */

/* Copies bytes of what the snapshot holds now. -EAGAIN: that has to be made first; not for FILE. */
int ms_writer_read(struct current *c, size_t offset, char *to, size_t len)
    MS_REQUIRES_SHARED(ms_snapshot_locks);
/* The image is what the snapshot holds, without anything having to be done. */
bool ms_writer_is_up_to_date(const struct current *c) MS_REQUIRES_SHARED(ms_snapshot_locks);

/* ---- with both locks held -------------------------------------------------------------------- */

/* Makes the image what the snapshot holds now, fit to be handed out. atomic: a single instant, or
 * -ENOTSUP. arrived: `captures_begun` at a moment that the image must not be older than. */
int ms_writer_bring_up_to_date(struct current *c, bool atomic, size_t arrived)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE;
/* Opening is three calls. The locks are released between them, so that what one left behind does
 * not keep the image from being exclusive to the next; nor may parked views refer to it. */
int ms_writer_may_open(struct current *c, unsigned flags) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE;
void ms_writer_make_exclusive(struct current *c) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE;
/* Opens the mapping for a lease. flags: MEMSNAP_VIEW_*; at: where, or NULL. */
int ms_writer_open(struct current *c, unsigned flags, void *at)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE;
/* The lease is over. Cannot fail; capturing is left to whoever needs the image. */
void ms_writer_release(struct current *c) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE;
/* The lease belongs to the process that this one was forked from. */
bool ms_writer_owned_by_parent(const struct writer *w) MS_REQUIRES_SHARED(ms_snapshot_locks);
/* What was stored behind the end of the image becomes zero. */
int ms_writer_clear_tail(struct current *c) MS_REQUIRES(ms_snapshot_locks);
/* From THAWING back to SHADOW. */
int ms_writer_freeze_thawed(struct current *c) MS_REQUIRES(ms_snapshot_locks);
/* The whole snapshot becomes the target. */
int ms_writer_restore_to(struct current *c, struct image *target)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE;

/* A chunk for the file of a MEMSNAP_FILE_SHARED snapshot is set once, at its making. */
void ms_writer_set_file(struct current *c, struct chunk *file) MS_REQUIRES(ms_snapshot_locks);

#endif
