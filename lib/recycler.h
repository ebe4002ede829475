/* A recycler: where a snapshot's closed views wait, restored and hidden from the checkers, to be
 * opened again. Opening one of them takes no system call. Views hold references, so a recycler
 * outlives its snapshot; it is empty and takes nobody in from then on. */
#ifndef MS_RECYCLER_H
#define MS_RECYCLER_H

#include "storage/image.h"
#include "os/os.h"
#include "base/refcount.h"

#define MS_DEFAULT_RECYCLING 8

struct memsnap_view;

struct recycler {
    refcount refs;
    struct ms_mutex lock; /* guards the rest */
    /* only views of this one are taken in; compared, never looked into */
    const struct image *image;
    unsigned limit, n;
    struct memsnap_view *first; /* the one parked last, whose pages are the warmest */
};

int ms_recycler_new(struct recycler **out);
struct recycler *ms_recycler_ref(struct recycler *l);
void ms_recycler_unref(struct recycler *l);

/* Views of another image are of no use any more: closes the parked ones. NULL: for good. */
void ms_recycler_set_image(struct recycler *l, const struct image *i);
void ms_recycler_set_limit(struct recycler *l, unsigned limit);
/* A parked view of the image that was opened with the same flags, or NULL. */
struct memsnap_view *ms_recycler_get(struct recycler *l, const struct image *i, unsigned flags);
/* True if the recycler would take a view of the image in: worth restoring it. */
bool ms_recycler_accepts(struct recycler *l, const struct image *i);
/* Takes a restored view in, or returns false. */
bool ms_recycler_put(struct recycler *l, struct memsnap_view *v);

#endif
