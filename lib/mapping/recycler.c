/* SPDX-License-Identifier: MIT */
/* Recyclers of parked mappings. */
#include "config.h"

#include "mapping/recycler.h"

#include <errno.h>
#include <stdatomic.h>

/* What the whole process parks: a small part of the mappings it may have (65,530 by default), and
 * of memory. */
#define MAX_PARKED 1024
#define MAX_PARKED_BYTES ((size_t)64 << 20)

/* Recyclers that have parked anything, the next one to give way first. Guarded by the process's
 * lock, which is taken before a recycler's. */
static struct recycler *listed MS_GUARDED_BY(ms_process_mutex);
static atomic_size_t parked_mappings, parked_pages;

static void lock_list(void) MS_INSIDE MS_ACQUIRE(ms_process_mutex) MS_LOCKS
{
    ms_lock(ms_process_lock());
}

static void unlock_list(void) MS_INSIDE MS_RELEASE(ms_process_mutex) MS_LOCKS
{
    ms_unlock(ms_process_lock());
}

int ms_recycler_new(struct pool *pool, struct recycler **out)
{
    struct recycler *l = ms_os->alloc(sizeof *l);
    if (!l)
        return -ENOMEM;
    ms_ref_init(&l->refs);
    ms_lock_init(&l->lock);
    ms_recycler_is_unshared(l);
    l->pool = ms_pool_ref(pool);
    l->limit = MS_DEFAULT_RECYCLING;
    *out = l;
    return 0;
}

struct recycler *ms_recycler_ref(struct recycler *l)
{
    ms_ref_get(&l->refs);
    return l;
}

/* ---- the list of recyclers ------------------------------------------------------------------- */

static void list_remove(struct recycler *l) MS_REQUIRES(ms_process_mutex)
{
    struct recycler **at = &listed;
    while (*at && *at != l)
        at = &(*at)->next;
    if (*at)
        *at = l->next;
}

static void list_append(struct recycler *l) MS_REQUIRES(ms_process_mutex)
{
    struct recycler **at = &listed;
    while (*at)
        at = &(*at)->next;
    l->next = NULL;
    *at = l;
}

void ms_recycler_unref(struct recycler *l)
{
    if (!l || !ms_ref_put(&l->refs))
        return;
    lock_list();
    if (l->listed)
        list_remove(l);
    unlock_list();
    ms_pool_unref(l->pool);
    ms_lock_destroy(&l->lock);
    ms_os->free(l);
}

/* ---- taking out ------------------------------------------------------------------------------ */

static void count(const struct parked *p, bool in)
{
    size_t pages = p->mapping.resident_private;
    atomic_fetch_add_explicit(&parked_mappings, in ? 1 : (size_t)-1, memory_order_relaxed);
    atomic_fetch_add_explicit(&parked_pages, in ? pages : -pages, memory_order_relaxed);
}

/* Unlinks all parked mappings beyond the first `keep`; the caller closes them without the lock. */
static struct parked *detach(struct recycler *l, unsigned keep) MS_REQUIRES(ms_recycler_mutex)
{
    struct parked **at = &l->first;
    for (unsigned i = 0; i < keep && *at; i++)
        at = &(*at)->next;
    struct parked *rest = *at;
    *at = NULL;
    if (l->n > keep)
        l->n = keep;
    for (struct parked *p = rest; p; p = p->next)
        count(p, false);
    return rest;
}

void ms_parked_destroy(struct parked *p, struct pool *pool)
{
    ms_mapping_close(&p->mapping);
    ms_os->free(p);
    ms_pool_trim(pool);
}

static void destroy_all(struct parked *p, struct pool *pool) MS_INSIDE
{
    while (p) {
        struct parked *next = p->next;
        ms_parked_destroy(p, pool);
        p = next;
    }
}

void ms_recycler_set_image(struct recycler *l, const struct image *i)
{
    struct parked *rest = NULL;
    ms_recycler_lock(l);
    if (l->image != i) {
        l->image = i;
        rest = detach(l, 0);
    }
    ms_recycler_unlock(l);
    destroy_all(rest, l->pool);
}

void ms_recycler_set_limit(struct recycler *l, unsigned limit)
{
    ms_recycler_lock(l);
    l->limit = limit;
    struct parked *rest = detach(l, limit);
    ms_recycler_unlock(l);
    destroy_all(rest, l->pool);
}

struct parked *ms_recycler_get(struct recycler *l, const struct image *i, unsigned flags)
{
    ms_recycler_lock(l);
    struct parked **at = &l->first, *p;
    while (*at && (*at)->mapping.flags != flags)
        at = &(*at)->next;
    p = l->image == i ? *at : NULL;
    if (p) {
        *at = p->next;
        l->n--;
        count(p, false);
    }
    ms_recycler_unlock(l);
    return p;
}

unsigned ms_recycler_count(struct recycler *l, const struct image *i, size_t *references)
{
    ms_recycler_lock(l);
    unsigned n = l->n;
    *references = 0;
    for (const struct parked *p = l->first; p; p = p->next)
        *references += ms_mapping_references(&p->mapping, i);
    ms_recycler_unlock(l);
    return n;
}

/* ---- giving way ------------------------------------------------------------------------------ */

static bool process_has_too_many(void)
{
    size_t bytes = atomic_load_explicit(&parked_pages, memory_order_relaxed) * ms_os->page_size();
    return atomic_load_explicit(&parked_mappings, memory_order_relaxed) > MAX_PARKED ||
           bytes > MAX_PARKED_BYTES;
}

/* Closes the oldest mapping of the recycler whose turn it is, or all that it has. False: nothing
 * is parked anywhere. */
static bool evict(bool all) MS_INSIDE
{
    struct parked *out = NULL;
    struct pool *pool = NULL;
    lock_list();
    for (struct recycler *l = listed; l && !out; l = l->next) {
        ms_recycler_lock(l);
        if (l->n) {
            out = detach(l, all ? 0 : l->n - 1);
            pool = ms_pool_ref(l->pool);
        }
        ms_recycler_unlock(l);
        if (out) {
            list_remove(l);
            list_append(l);
        }
    }
    unlock_list();
    destroy_all(out, pool);
    ms_pool_unref(pool);
    return out != NULL;
}

bool ms_make_room(int e)
{
    bool made = false;
    if (e != -ENOMEM && e != -EMLINK)
        return false;
    while (atomic_load_explicit(&parked_mappings, memory_order_relaxed) && evict(true))
        made = true;
    return made;
}

/* ---- putting in ------------------------------------------------------------------------------ */

static void list_once(struct recycler *l) MS_INSIDE
{
    lock_list();
    if (!l->listed)
        list_append(l);
    l->listed = true;
    unlock_list();
}

bool ms_recycler_accepts(struct recycler *l, const struct image *i)
{
    ms_recycler_lock(l);
    bool wants = l->image == i && l->limit;
    ms_recycler_unlock(l);
    return wants;
}

bool ms_recycler_put(struct recycler *l, struct parked *p)
{
    struct parked *oldest = NULL;
    ms_recycler_lock(l);
    bool park = l->image == p->mapping.base && l->limit, first = !l->first;
    if (park) {
        p->next = l->first;
        l->first = p;
        l->n++;
        count(p, true);
        oldest = detach(l, l->limit);
    }
    ms_recycler_unlock(l);
    if (park && first)
        list_once(l);
    destroy_all(oldest, l->pool);
    while (process_has_too_many() && evict(false))
        continue;
    return park;
}
