/* Pools. */
#include "config.h"

#include "pool.h"

#include <errno.h>

/* After a fork the family starts a new store, so that the old one's memory can go as a whole (its chunks are not punched any
 * more). Not for ever: a process that forks every second would collect descriptors. */
#define MOST_STORES 8

int ms_pool_new(bool heap_only, struct pool **out)
{
    struct pool *p = ms_os->alloc(sizeof *p);
    if (!p)
        return -ENOMEM;
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
    return s->kind == STORE_HEAP || s->forks == ms_forks() || p->stores >= MOST_STORES;
}

static int new_store(bool heap_only, struct store **out)
{
    int e = heap_only ? -ENOTSUP : ms_store_new(STORE_ANON, out);
    return e == -ENOTSUP ? ms_store_new(STORE_HEAP, out) : e;
}

/* A reference to the store that new chunks go to. */
static int current_store(struct pool *p, struct store **out)
{
    int e = 0;
    ms_lock(&p->lock);
    if (!store_is_current(p)) {
        struct store *s = NULL;
        e = new_store(p->heap_only, &s);
        if (e == 0) {
            ms_store_unref(p->store);
            p->store = s;
            p->stores++;
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
    int e = ms_store_new(STORE_HEAP, &s);
    if (e < 0)
        return e;
    e = ms_store_allocate(s, pages, false, out);
    ms_store_unref(s);
    return e;
}

const char *ms_pool_kind(struct pool *p)
{
    ms_lock(&p->lock);
    const char *kind = p->store ? p->store->object.kind : NULL;
    ms_unlock(&p->lock);
    return kind;
}
