/* Free lists of stores. */
#include "config.h"

#include "freelist.h"

#include <string.h>

#include "os/os.h"

/* The index of the first extent behind offset. */
static size_t position(const struct freelist *f, uint64_t offset)
{
    size_t low = 0, high = f->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (f->v[middle].offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void remove_at(struct freelist *f, size_t i)
{
    f->n--;
    memmove(f->v + i, f->v + i + 1, (f->n - i) * sizeof *f->v);
}

static bool follows(const struct free_extent *a, const struct free_extent *b)
{
    return a->segment == b->segment && a->offset + a->len == b->offset;
}

static bool insert_at(struct freelist *f, size_t i, const struct free_extent *e)
{
    if (f->n == f->room) {
        size_t room = 2 * f->room + 16;
        struct free_extent *v = ms_os->realloc(f->v, room * sizeof *v);
        if (!v)
            return false;
        f->v = v;
        f->room = room;
    }
    memmove(f->v + i + 1, f->v + i, (f->n - i) * sizeof *f->v);
    f->v[i] = *e;
    f->n++;
    return true;
}

bool ms_freelist_put(struct freelist *f, const struct free_extent *e, unsigned *spare)
{
    size_t i = position(f, e->offset);
    bool before = i > 0 && follows(&f->v[i - 1], e), behind = i < f->n && follows(e, &f->v[i]);
    *spare = before + behind;
    if (before && behind) {
        f->v[i - 1].len += e->len + f->v[i].len;
        remove_at(f, i);
    } else if (before) {
        f->v[i - 1].len += e->len;
    } else if (behind) {
        f->v[i].offset = e->offset;
        f->v[i].len += e->len;
    } else if (!insert_at(f, i, e)) {
        return false;
    }
    f->bytes += e->len;
    return true;
}

bool ms_freelist_take(struct freelist *f, uint64_t len, struct free_extent *e, bool *emptied)
{
    for (size_t i = 0; i < f->n; i++) {
        struct free_extent *from = &f->v[i];
        if (from->len < len)
            continue;
        *e = (struct free_extent){from->offset, len, from->segment};
        *emptied = from->len == len;
        from->offset += len;
        from->len -= len;
        f->bytes -= len;
        if (*emptied)
            remove_at(f, i);
        return true;
    }
    return false;
}
