/* A lot: where a snapshot's closed views wait, restored and hidden from the checkers, to be opened again. Opening one of them takes no
 * system call. Views hold references, so a lot outlives its snapshot; it is empty and takes nobody in from then on. */
#ifndef MS_LOT_H
#define MS_LOT_H

#include "image.h"
#include "os/os.h"
#include "refcount.h"

#define MS_DEFAULT_RECYCLING 8

struct memsnap_view;

struct lot {
    refcount refs;
    struct ms_lock lock;            /* guards the rest */
    const struct image *image;      /* only views of this one are taken in; compared, never looked into */
    unsigned most, n;
    struct memsnap_view *first;     /* the one parked last, whose pages are the warmest */
};

int ms_lot_new(struct lot **out);
struct lot *ms_lot_ref(struct lot *l);
void ms_lot_unref(struct lot *l);

/* Views of another image are of no use any more: closes the parked ones. NULL: for good. */
void ms_lot_set_image(struct lot *l, const struct image *i);
void ms_lot_set_most(struct lot *l, unsigned most);
/* A parked view of the image that was opened with the same flags, or NULL. */
struct memsnap_view *ms_lot_take(struct lot *l, const struct image *i, unsigned flags);
/* True if the lot would take a view of the image in: worth restoring it. */
bool ms_lot_wants(struct lot *l, const struct image *i);
/* Takes a restored view in, or returns false. */
bool ms_lot_park(struct lot *l, struct memsnap_view *v);

#endif
