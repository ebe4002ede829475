/* SPDX-License-Identifier: MIT */
/* Pools. */
#include "config.h"

#include "storage/pool.h"

#include <errno.h>

int ms_pool_new(bool heap_only, struct pool **out)
{
    struct pool *p = ms_os->alloc(sizeof *p);
    if (!p)
        return -ENOMEM;
    int e = ms_family_usage_new(&p->family);
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
    ms_pool_is_unshared(p);
    ms_store_unref(p->store);
    ms_family_usage_unref(p->family);
    ms_lock_destroy(&p->lock);
    ms_os->free(p);
}

static bool store_is_current(const struct pool *p) MS_REQUIRES(ms_pool_mutex)
{
    const struct store *s = p->store;
    if (!s)
        return false;
    if (s->process != ms_process_generation())
        return false;
    return s->kind == STORE_HEAP || s->forks == ms_forks() ||
           ms_family_usage_stores(p->family) >= MS_MAX_STORES;
}

static int new_store(struct pool *p, struct store **out)
{
    int e = p->heap_only ? -ENOTSUP : ms_store_new(STORE_ANON, p->family, out);
    return e == -ENOTSUP ? ms_store_new(STORE_HEAP, p->family, out) : e;
}

/* A reference to the store that new chunks go to. */
static int current_store(struct pool *p, struct store **out) MS_INSIDE
{
    int e = 0;
    ms_pool_lock(p);
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
    ms_pool_unlock(p);
    return e;
}

int ms_pool_allocate(struct pool *p, size_t pages, bool reuse_ok, struct chunk **out)
{
    struct store *s = NULL;
    int e = current_store(p, &s);
    if (e < 0)
        return e;
    e = ms_store_allocate(s, pages, reuse_ok, out);
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
    if (!ms_family_usage_test_and_clear_freed(p->family))
        return;
    ms_pool_lock(p);
    struct store *s = p->store ? ms_store_ref(p->store) : NULL;
    ms_pool_unlock(p);
    if (s)
        ms_store_trim(s);
    ms_store_unref(s);
}

const char *ms_pool_kind(struct pool *p)
{
    ms_pool_lock(p);
    const char *kind = p->store ? p->store->object.kind : NULL;
    ms_pool_unlock(p);
    return kind;
}
