/* The writer: a snapshot's mutable mapping. A mutable view is a lease on it, one at a time.
 *
 *   none     no mapping; the snapshot's image is all there is direct   the image is one chunk
 *   that nobody else refers to, mapped shared: stores go into it. The image must not be handed
 *   out. shadow   mapped private over a frozen image; what was stored since is captured when
 *   somebody asks for an image file     MEMSNAP_FILE_SHARED: the file is the live copy, for
 *   good; images are copies of it
 *
 * While a lease is out no page of the mapping is dropped or exchanged, but by the freeze
 * (atomic), restore_to (the caller's wish) or behind the write block: no store is ever lost. All
 * functions want the snapshot's lock held. */
#ifndef MS_WRITER_H
#define MS_WRITER_H

#include "mapping/mapping.h"

struct memsnap_snapshot;

enum writer_state { WRITER_NONE, WRITER_DIRECT, WRITER_SHADOW, WRITER_FILE };

struct writer {
    enum writer_state state;
    bool leased;
    /* stores may have gone behind the image's last byte, in its last page */
    bool tail_dirty;
    size_t process;         /* that took the lease last */
    struct mapping mapping; /* there while leased, and in shadow state */
    /* direct: the image's only chunk, borrowed. file: the file, owned. */
    struct chunk *chunk;
    struct os_live_file live; /* the same file, in state file */
};

/* Opens the mapping for a lease. flags: MEMSNAP_VIEW_*; at: where, or NULL. */
int ms_writer_open(struct memsnap_snapshot *s, unsigned flags, void *at);
/* The lease is over. Cannot fail; capturing is left to whoever needs the image. */
void ms_writer_release(struct memsnap_snapshot *s);
/* Makes s->image what the snapshot holds now, fit to be handed out. atomic: a single instant, or
 * -ENOTSUP. */
int ms_writer_bring_up_to_date(struct memsnap_snapshot *s, bool atomic);
/* The whole snapshot becomes the target. */
int ms_writer_restore_to(struct memsnap_snapshot *s, struct image *target);
void ms_writer_destroy(struct memsnap_snapshot *s);

/* A chunk for the file of a MEMSNAP_FILE_SHARED snapshot is set once, at its making. */
void ms_writer_set_file(struct memsnap_snapshot *s, struct chunk *file);

#endif
