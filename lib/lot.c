/* Lots of parked views. */
#include "config.h"

#include "lot.h"

#include <errno.h>

#include "view.h"

int ms_lot_new(struct lot **out)
{
    struct lot *l = ms_os->alloc(sizeof *l);
    if (!l)
        return -ENOMEM;
    ms_ref_init(&l->refs);
    ms_lock_init(&l->lock);
    l->most = MS_DEFAULT_RECYCLING;
    *out = l;
    return 0;
}

struct lot *ms_lot_ref(struct lot *l)
{
    ms_ref_get(&l->refs);
    return l;
}

void ms_lot_unref(struct lot *l)
{
    if (!l || !ms_ref_put(&l->refs))
        return;
    ms_lock_destroy(&l->lock);
    ms_os->free(l);
}

/* Unlinks all parked views beyond the first `keep`; the caller closes them without the lock. */
static struct memsnap_view *detach(struct lot *l, unsigned keep)
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

void ms_lot_set_image(struct lot *l, const struct image *i)
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

void ms_lot_set_most(struct lot *l, unsigned most)
{
    ms_lock(&l->lock);
    l->most = most;
    struct memsnap_view *rest = detach(l, most);
    ms_unlock(&l->lock);
    destroy_all(rest);
}

struct memsnap_view *ms_lot_take(struct lot *l, const struct image *i, unsigned flags)
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

bool ms_lot_wants(struct lot *l, const struct image *i)
{
    ms_lock(&l->lock);
    bool wants = l->image == i && l->n < l->most;
    ms_unlock(&l->lock);
    return wants;
}

bool ms_lot_park(struct lot *l, struct memsnap_view *v)
{
    ms_lock(&l->lock);
    bool park = l->image == v->mapping.base && l->n < l->most;
    if (park) {
        v->next = l->first;
        l->first = v;
        l->n++;
    }
    ms_unlock(&l->lock);
    return park;
}
