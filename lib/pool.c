/* Pools. */
#include "config.h"

#include "pool.h"

#include <errno.h>

/* After a fork the family starts a new store, so that the old one's memory can go as a whole (its chunks are not punched any
 * more). But not while so many are alive: a process that forks every second would collect descriptors. */
#define MOST_STORES 8

int ms_pool_new(bool heap_only, struct pool **out)
{
    struct pool *p = ms_os->alloc(sizeof *p);
    if (!p)
        return -ENOMEM;
    int e = ms_census_new(&p->census);
    if (e < 0) {
        ms_os->free(p);
        return e;
    }
    ms_ref_init(&p->refs);
    p->heap_only = heap_only;
    ms_lock_init(&p->lock);
    *out = p;
    return 0;
}

struct pool *ms_pool_ref(struct pool *p)
{
    ms_ref_get(&p->refs);
    return p;
}

void ms_pool_unref(struct pool *p)
{
    if (!p || !ms_ref_put(&p->refs))
        return;
    ms_store_unref(p->store);
    ms_census_unref(p->census);
    ms_lock_destroy(&p->lock);
    ms_os->free(p);
}

static bool store_is_current(const struct pool *p)
{
    const struct store *s = p->store;
    if (!s)
        return false;
    if (s->process != ms_process())
        return false;
    return s->kind == STORE_HEAP || s->forks == ms_forks() || ms_census_stores(p->census) >= MOST_STORES;
}

static int new_store(struct pool *p, struct store **out)
{
    int e = p->heap_only ? -ENOTSUP : ms_store_new(STORE_ANON, p->census, out);
    return e == -ENOTSUP ? ms_store_new(STORE_HEAP, p->census, out) : e;
}

/* A reference to the store that new chunks go to. */
static int current_store(struct pool *p, struct store **out)
{
    int e = 0;
    ms_lock(&p->lock);
    if (!store_is_current(p)) {
        struct store *s = NULL;
        e = new_store(p, &s);
        if (e == 0) {
            ms_store_unref(p->store);
            p->store = s;
        }
    }
    if (e == 0)
        *out = ms_store_ref(p->store);
    ms_unlock(&p->lock);
    return e;
}

int ms_pool_allocate(struct pool *p, size_t pages, bool stale, struct chunk **out)
{
    struct store *s = NULL;
    int e = current_store(p, &s);
    if (e < 0)
        return e;
    e = ms_store_allocate(s, pages, stale, out);
    ms_store_unref(s);
    return e;
}

int ms_pool_allocate_heap(size_t pages, struct chunk **out)
{
    struct store *s;
    int e = ms_store_new(STORE_HEAP, NULL, &s);
    if (e < 0)
        return e;
    e = ms_store_allocate(s, pages, false, out);
    ms_store_unref(s);
    return e;
}

void ms_pool_trim(struct pool *p)
{
    if (!ms_census_take_given_back(p->census))
        return;
    ms_lock(&p->lock);
    struct store *s = p->store ? ms_store_ref(p->store) : NULL;
    ms_unlock(&p->lock);
    if (s)
        ms_store_trim(s);
    ms_store_unref(s);
}

const char *ms_pool_kind(struct pool *p)
{
    ms_lock(&p->lock);
    const char *kind = p->store ? p->store->object.kind : NULL;
    ms_unlock(&p->lock);
    return kind;
}
