/* A snapshot: a handle to an image, and to the writer that may be changing it. */
#ifndef MS_SNAPSHOT_H
#define MS_SNAPSHOT_H

#include "storage/image.h"
#include "recycler.h"
#include "memsnap.h"
#include "storage/pool.h"
#include "base/refcount.h"
#include "writer.h"

struct memsnap_snapshot {
    refcount refs;             /* the caller's handles and the lease */
    size_t size;               /* bytes, exactly as asked for */
    unsigned flags;            /* MEMSNAP_NO_FD, MEMSNAP_HUGE_* of its making */
    struct pool *pool;         /* holds a reference; shared with all descendants */
    struct recycler *recycler; /* holds a reference */
    struct ms_mutex lock;      /* guards the rest */
    struct image *image;       /* never NULL; see writer.h for when it may be handed out */
    struct writer writer;
};

#define MS_HUGE_FLAGS (MEMSNAP_HUGE_NEVER | MEMSNAP_HUGE_REQUIRE)
#define MS_FILE_FLAGS (MEMSNAP_FILE_MAP | MEMSNAP_FILE_SHARED)

/* A snapshot of an image; takes references of its own to image and pool. */
int ms_snapshot_of_image(struct image *i, size_t size, unsigned flags, struct pool *pool,
                         struct memsnap_snapshot **out);
/* A reference to the image of what the snapshot holds at this moment. */
int ms_snapshot_image(struct memsnap_snapshot *s, bool atomic, struct image **out);
/* With the lock held: the snapshot's image is another one from now on; takes the reference over. */
void ms_snapshot_set_image(struct memsnap_snapshot *s, struct image *i);
/* The library's own unref, inside ms_enter. */
void ms_snapshot_put(struct memsnap_snapshot *s);

#endif
