/* SPDX-License-Identifier: MIT */
/* A mapping: an image in the address space, at an address that never changes.
 *
 * Three images describe it. `mapped` is what the kernel shows where there is no private page:
 * short runs are copied in, not mapped, so it may differ from what was opened. `base` is what
 * the bytes equalled when last synchronised. `last_taken` is the image last taken from it, as
 * long as anybody else has it.
 *
 * Invariant: a page that is not private shows `mapped`, whatever base and last_taken hold there.
 * It need not show the base: the holder may have dropped a page that was copied in. So what
 * differs from an image is looked for among the private pages and where `mapped` is not that
 * image. A private page may be dropped only where mapped and base agree. Not locked here: the
 * owner (view or snapshot) does that. */
#ifndef MS_MAPPING_H
#define MS_MAPPING_H

#include "storage/image.h"
#include "os/os.h"
#include "mapping/protection.h"
#include "mapping/restore_policy.h"

struct pool;

/* Mappings are a process-wide limit (65,530 by default): a view takes no more than this many. */
#define MS_MAX_MAPPINGS 1024

struct mapping {
    char *address;
    size_t size; /* bytes, exactly as asked for */
    size_t pages;
    size_t length; /* bytes of address space: at least one page */
    /* bytes of address space that are taken: length, and for a view that may be parked one page
     * more, see ms_mapping_is_intact() */
    size_t extent;
    unsigned flags; /* MEMSNAP_VIEW_* it was opened with */
    bool no_fork;   /* a leased writer: not in a forked child */
    bool fixed;     /* the caller chose the address, and wants it back when the view is closed */
    /* stores are noticed: what ms_os->written() does not report equals base */
    bool tracked;
    /* an exchange failed half way; restoring mends it, nothing may be taken until then */
    bool torn;
    struct image *mapped, *base;
    struct weak_image last_taken; /* kept by those who took it only */
    struct protections protections;
    size_t resident_private; /* private pages that the last restore left, at most */
    struct restore_policy policy;
    /* Regions that scans have been made shorter in (split_huge.c). */
    uint64_t *split; /* a bit for each region; NULL: none yet */
    size_t region_count, restores_since_look, look_pause;
    /* Statistics. */
    size_t mappings, copied_pages, restores, restored_pages, dropped_pages, remaps;
};

/* Opens a private mapping of the image; at: there and nowhere else (-EEXIST), or NULL. */
int ms_mapping_open(struct mapping *m, struct image *i, size_t size, unsigned flags,
                    void *at) MS_INSIDE;
/* Opens a shared mapping of a chunk that is the whole image: stores go into the chunk. */
int ms_mapping_open_shared(struct mapping *m, struct chunk *c, struct image *i, size_t size,
                           unsigned flags, void *at) MS_INSIDE;
void ms_mapping_close(struct mapping *m) MS_INSIDE;
/* Forgets a mapping that this process does not have (a child of the one that made it). */
void ms_mapping_forget(struct mapping *m) MS_INSIDE;

/* Exchanges the shared mapping of the chunk's first pages for a private one, atomically. On
 * failure it is still shared. If it succeeds protections are to be put back. */
int ms_mapping_freeze(struct mapping *m, struct chunk *c, size_t pages);
/* Exchanges the private mapping of some pages for a shared one of the same pages of a chunk,
 * which hold the same bytes already. Private pages are dropped. On failure it is as before, or a
 * private one of the chunk (*refers: it shows the chunk's pages, also after success). If it
 * succeeds protections are to be put back. */
int ms_mapping_share(struct mapping *m, struct chunk *c, size_t first, size_t pages, bool *refers);
/* Maps another image at the same address; afterwards no private page is left but those copied
 * in. On failure nothing has changed, or the mapping is torn. */
int ms_mapping_exchange(struct mapping *m, struct image *i) MS_INSIDE;
/* Reverts the pages to what `mapped` shows: 0, or an error and nothing has changed. */
int ms_mapping_drop(struct mapping *m, size_t first, size_t pages);
/* Copies base over the pages [first, first + pages) where `mapped` does not show it. */
int ms_mapping_copy_base(struct mapping *m, size_t first, size_t pages);
/* Maps pages that are shared shared again: those that came in parts can be a huge page then. */
void ms_mapping_renew(struct mapping *m, struct chunk *c, size_t first, size_t pages);

/* Readable without a fault: a wish, which only lack of memory or mappings denies. */
int ms_mapping_prefault(struct mapping *m);
/* True if for certain nobody changed the protection, advice or place of the mapping or of any part
 * of it. It is one mapping with the page behind it, which no holder has anything to do with, and
 * the system keeps what differs in any of that apart. A mapping of several runs is never said to
 * be intact: nothing tells what was done to one of them. */
bool ms_mapping_is_intact(const struct mapping *m);
/* How many references to the image the mapping holds. */
size_t ms_mapping_references(const struct mapping *m, const struct image *i);

int ms_mapping_protect(struct mapping *m, size_t first, size_t pages, int access);
int ms_mapping_unprotect(struct mapping *m); /* everything readable and writable again */
/* Makes every page readable for the library's own look. */
int ms_mapping_make_readable(struct mapping *m);
/* Puts the protections back afterwards. If the system cannot do that no page may be touched any
 * more: rather than more than the caller allowed. */
int ms_mapping_reprotect(struct mapping *m);
/* The same after a freeze, which lost all of them. */
int ms_mapping_renew_protections(struct mapping *m);

/* Has stores noticed from now on, if that was asked for (MEMSNAP_VIEW_TRACK); 0, or they are
 * not, and everything has to be compared. */
int ms_mapping_track(struct mapping *m);
void ms_mapping_untrack(struct mapping *m);

/* base := i, and last_taken is forgotten; takes a reference. */
void ms_mapping_set_base(struct mapping *m, struct image *i) MS_INSIDE;

static inline char *ms_page_address(const struct mapping *m, size_t page)
{
    return m->address + page * ms_os->page_size();
}

#endif
