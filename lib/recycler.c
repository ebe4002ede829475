/* Recyclers of parked views. */
#include "config.h"

#include "recycler.h"

#include <errno.h>

#include "view.h"

int ms_recycler_new(struct recycler **out)
{
    struct recycler *l = ms_os->alloc(sizeof *l);
    if (!l)
        return -ENOMEM;
    ms_ref_init(&l->refs);
    ms_lock_init(&l->lock);
    l->limit = MS_DEFAULT_RECYCLING;
    *out = l;
    return 0;
}

struct recycler *ms_recycler_ref(struct recycler *l)
{
    ms_ref_get(&l->refs);
    return l;
}

void ms_recycler_unref(struct recycler *l)
{
    if (!l || !ms_ref_put(&l->refs))
        return;
    ms_lock_destroy(&l->lock);
    ms_os->free(l);
}

/* Unlinks all parked views beyond the first `keep`; the caller closes them without the lock. */
static struct memsnap_view *detach(struct recycler *l, unsigned keep)
{
    struct memsnap_view **at = &l->first;
    for (unsigned i = 0; i < keep && *at; i++)
        at = &(*at)->next;
    struct memsnap_view *rest = *at;
    *at = NULL;
    if (l->n > keep)
        l->n = keep;
    return rest;
}

static void destroy_all(struct memsnap_view *v)
{
    while (v) {
        struct memsnap_view *next = v->next;
        ms_view_destroy(v);
        v = next;
    }
}

void ms_recycler_set_image(struct recycler *l, const struct image *i)
{
    struct memsnap_view *rest = NULL;
    ms_lock(&l->lock);
    if (l->image != i) {
        l->image = i;
        rest = detach(l, 0);
    }
    ms_unlock(&l->lock);
    destroy_all(rest);
}

void ms_recycler_set_limit(struct recycler *l, unsigned limit)
{
    ms_lock(&l->lock);
    l->limit = limit;
    struct memsnap_view *rest = detach(l, limit);
    ms_unlock(&l->lock);
    destroy_all(rest);
}

struct memsnap_view *ms_recycler_get(struct recycler *l, const struct image *i, unsigned flags)
{
    struct memsnap_view *v = NULL;
    ms_lock(&l->lock);
    if (l->first && l->image == i && l->first->mapping.flags == flags) {
        v = l->first;
        l->first = v->next;
        l->n--;
    }
    ms_unlock(&l->lock);
    return v;
}

bool ms_recycler_accepts(struct recycler *l, const struct image *i)
{
    ms_lock(&l->lock);
    bool wants = l->image == i && l->n < l->limit;
    ms_unlock(&l->lock);
    return wants;
}

bool ms_recycler_put(struct recycler *l, struct memsnap_view *v)
{
    ms_lock(&l->lock);
    bool park = l->image == v->mapping.base && l->n < l->limit;
    if (park) {
        v->next = l->first;
        l->first = v;
        l->n++;
    }
    ms_unlock(&l->lock);
    return park;
}
