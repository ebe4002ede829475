/* ahead.c - what is done before a capture, with the writers running, to make it short.
 *
 * The library freezes a view the faster the fewer pages its memory is in, and copies what was
 * written since the snapshot before. Nothing else in the server knows about this: without this file
 * the pause is longer. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Before the first capture: the kernel gathers the image's memory into huge pages; where it cannot,
 * nothing is lost. */
void ahead_gather(void)
{
    const size_t huge = 2u << 20;
    uint64_t used = table_count().unused;

    for (uint64_t at = 0; at + huge <= used; at += huge)
        madvise(image + at, huge, MADV_COLLAPSE);
}

/* Before later ones: snapshots that nobody keeps take most of what was written along. For the pause
 * is left what was written during the last of them. */
int ahead_copy(memsnap_view *view)
{
    uint64_t before = UINT64_MAX;

    for (unsigned round = 0; round < 8; round++) {
        memsnap_snapshot *ahead;
        uint64_t start = now_us();
        int error = memsnap_view_take_snapshot(view, 0, &ahead);

        if (error < 0)
            return error;
        memsnap_snapshot_unref(ahead);
        uint64_t took = now_us() - start;
        if (took < 1000 || took > before / 4 * 3)
            break; /* little is left, or it does not get less */
        before = took;
    }
    return 0;
}
