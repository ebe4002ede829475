/* SPDX-License-Identifier: MIT */
/* Thawing a mutable view. */
#include "config.h"

#include "mapping/thaw.h"

#include <errno.h>

#include "snapshot.h"
#include "view.h"

static int begin(struct memsnap_snapshot *s) MS_INSIDE
{
    ms_snapshot_lock(s);
    int e = ms_thaw_begin(&s->current);
    ms_snapshot_unlock(s);
    if (e > 0)
        ms_recycler_set_image(s->recycler, NULL); /* parked views refer to the image */
    return e;
}

/* Other threads' calls, and fork, come in between two steps. */
static int step(struct memsnap_view *v, bool live, size_t *passed) MS_INSIDE
{
    struct memsnap_snapshot *s = v->lease;
    if (v->process != ms_process_generation())
        return -EBADF;
    int e = *passed ? 1 : begin(s);
    if (e <= 0)
        return e;
    ms_snapshot_lock(s);
    e = ms_thaw_step(&s->current, live, passed);
    ms_snapshot_unlock(s);
    ms_snapshot_tell_recycler(s);
    ms_pool_trim(s->current.pool);
    return e;
}

int memsnap_view_thaw(memsnap_view *v, unsigned flags, size_t max)
{
    size_t passed = 0;
    int e;
    if (!v || !v->lease || !max || flags & ~MEMSNAP_THAW_LIVE)
        return -EINVAL;
    do {
        ms_enter();
        e = step(v, flags & MEMSNAP_THAW_LIVE, &passed);
        ms_leave();
        max -= passed < max ? passed : max;
    } while (e > 0 && passed <= max);
    return e;
}
