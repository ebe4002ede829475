/* Images: the radix tree from page number to chunk page. See image.h for what it promises.
 *
 * A slot of level n stands for an aligned block of 16^n pages, the root slot for the whole image. It is empty (zero
 * pages), one run of a chunk over all of its block, or a node of 16 slots one level down. Blocks are cut at the end of
 * the image; slots wholly beyond it are empty and never looked at.
 *
 * Invariants:
 *  - a node whose slots (those inside the image) are all empty, or continue one chunk, does not exist: the slot that
 *    would refer to it is that run.
 *  - every slot that refers to a chunk or a node holds one reference to it.
 *  - nodes are changed only by an edit that owns them: the edit's image is its own, and every node on the way down has
 *    one reference. No other thread can then get a reference to them. All other nodes are immutable. */
#include "config.h"

#include "image.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>

#include "chunk.h"
#include "os/os.h"
#include "refcount.h"

enum {
    FANOUT_BITS = 4,
    FANOUT = 1 << FANOUT_BITS,
    PAGE_BITS = sizeof(size_t) * CHAR_BIT,
    MAX_HEIGHT = PAGE_BITS / FANOUT_BITS
};

#define IS_NODE SIZE_MAX    /* in slot.page: no chunk has a page of this number */

struct node;

struct slot {
    union {
        struct chunk *chunk;    /* NULL: zero pages, and then page is 0 */
        struct node *node;
    };
    size_t page;                /* the chunk's page where the slot begins, or IS_NODE */
};

struct node {
    refcount refs;              /* slots, of nodes and of images */
    struct slot slots[FANOUT];
};

struct image {
    refcount refs;
    size_t pages;
    unsigned height;            /* levels of nodes that there can be: 16^height >= pages */
    struct slot root;
};

/* The pages [first, end) that a slot stands for: 1 << bits of them, except where the image ends before. */
struct block {
    size_t first, end;
    unsigned bits;
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* ---- blocks and slots ---------------------------------------------------------------------------- */

static struct block whole(const struct image *i)
{
    return (struct block){ 0, i->pages, i->height * FANOUT_BITS };
}

/* Which child of a block a page lies in. */
static unsigned child_index(struct block b, size_t page)
{
    return (unsigned)((page - b.first) >> (b.bits - FANOUT_BITS));
}

/* Children that are not wholly beyond the end of the image. */
static unsigned children(struct block b)
{
    return child_index(b, b.end - 1) + 1;
}

static struct block child_block(struct block b, unsigned index)
{
    unsigned bits = b.bits - FANOUT_BITS;
    size_t first = b.first + ((size_t)index << bits);
    return (struct block){ first, first + min_size((size_t)1 << bits, b.end - first), bits };
}

static bool is_node(const struct slot *s)
{
    return s->page == IS_NODE;
}

static struct slot slot_of(struct chunk *c, size_t page)
{
    return (struct slot){ .chunk = c, .page = c ? page : 0 };
}

/* What a slot that is no node holds from its offset-th page on. */
static struct slot slot_from(const struct slot *s, size_t offset)
{
    return slot_of(s->chunk, s->page + offset);
}

/* Child `index` of a slot, whether there is a node or one would have to be made. */
static struct slot slot_child(const struct slot *s, struct block b, unsigned index)
{
    if (is_node(s))
        return s->node->slots[index];
    return slot_from(s, child_block(b, index).first - b.first);
}

/* Same pages for certain: two nodes may still hold the same if they are not one and the same. */
static bool slot_same(const struct slot *a, const struct slot *b)
{
    return a->page == b->page && (is_node(a) ? a->node == b->node : a->chunk == b->chunk);
}

/* A reference for each of n slots; one addition for neighbours of the same chunk. */
static void slots_ref(const struct slot *s, unsigned n)
{
    for (unsigned i = 0, same; i < n; i += same) {
        same = 1;
        if (is_node(&s[i])) {
            ms_ref_get(&s[i].node->refs);
            continue;
        }
        while (i + same < n && !is_node(&s[i + same]) && s[i + same].chunk == s[i].chunk)
            same++;
        if (s[i].chunk)
            ms_chunk_ref_many(s[i].chunk, same);
    }
}

/* Gives back the slot's reference. In page order, so that r can merge the pages of chunks that lie side by side. */
static void slot_drop(const struct slot *s, struct reclaim *r)
{
    if (!is_node(s)) {
        ms_chunk_unref(s->chunk, r);
        return;
    }
    struct node *n = s->node;
    if (!ms_ref_put(&n->refs))
        return;
    for (unsigned i = 0; i < FANOUT; i++)
        slot_drop(&n->slots[i], r);
    ms_os->free(n);
}

/* Reference first: what is dropped may hold the only one. */
static void slot_replace(struct slot *s, struct slot by, struct reclaim *r)
{
    slots_ref(&by, 1);
    slot_drop(s, r);
    *s = by;
}

/* ---- images -------------------------------------------------------------------------------------- */

static unsigned height_for(size_t pages)
{
    unsigned height = 0;
    for (size_t rest = pages > 0 ? pages - 1 : 0; rest > 0; rest >>= FANOUT_BITS)
        height++;
    return height;
}

static int image_new(size_t pages, struct slot root, struct image **out)
{
    struct image *i = ms_os->alloc(sizeof *i);
    if (!i)
        return -ENOMEM;
    ms_ref_init(&i->refs);
    i->pages = pages;
    i->height = height_for(pages);
    i->root = root;
    slots_ref(&i->root, 1);
    *out = i;
    return 0;
}

int ms_image_zero(size_t pages, struct image **out)
{
    return image_new(pages, slot_of(NULL, 0), out);
}

int ms_image_of_chunk(struct chunk *c, size_t pages, struct image **out)
{
    assert(pages <= c->pages);
    return image_new(pages, slot_of(pages > 0 ? c : NULL, 0), out);
}

struct image *ms_image_ref(struct image *i)
{
    ms_ref_get(&i->refs);
    return i;
}

void ms_image_unref(struct image *i)
{
    if (!i || !ms_ref_put(&i->refs))
        return;
    struct reclaim r = { 0 };
    slot_drop(&i->root, &r);
    ms_reclaim_flush(&r);
    ms_os->free(i);
}

size_t ms_image_pages(const struct image *i)
{
    return i->pages;
}

/* ---- looking ------------------------------------------------------------------------------------- */

/* Where a walk from slot to slot is: going on does not start at the root again. */
struct cursor {
    const struct node *path[MAX_HEIGHT];    /* [n]: the node of slots of level n on the way to the slot */
    const struct slot *slot;                /* not a node, except while descending */
    unsigned bits;                          /* the slot stands for 1 << bits pages */
};

/* From the slot down to the one that page lies in. */
static void cursor_descend(struct cursor *c, size_t page)
{
    while (is_node(c->slot)) {
        c->bits -= FANOUT_BITS;
        c->path[c->bits / FANOUT_BITS] = c->slot->node;
        c->slot = &c->slot->node->slots[(page >> c->bits) % FANOUT];
    }
}

/* page is the first behind the slot, and inside the image. */
static void cursor_next(struct cursor *c, size_t page)
{
    while ((page >> c->bits) % FANOUT == 0)
        c->bits += FANOUT_BITS;
    c->slot = &c->path[c->bits / FANOUT_BITS]->slots[(page >> c->bits) % FANOUT];
    cursor_descend(c, page);
}

/* The last page of a slot, counted from its first. */
static size_t cursor_last(const struct cursor *c)
{
    return c->bits < PAGE_BITS ? ((size_t)1 << c->bits) - 1 : SIZE_MAX;
}

static size_t cursor_offset(const struct cursor *c, size_t page)
{
    return page & cursor_last(c);
}

/* How many pages from `page` on lie in the slot and below the limit. */
static size_t cursor_rest(const struct cursor *c, size_t page, size_t limit)
{
    return min_size(cursor_last(c) - cursor_offset(c, page), limit - page - 1) + 1;
}

void ms_image_run(const struct image *i, size_t page, size_t limit, struct run *run)
{
    assert(page < limit && limit <= i->pages);
    struct cursor c;        /* clearing the path would take a third of the time */
    c.slot = &i->root;
    c.bits = i->height * FANOUT_BITS;
    cursor_descend(&c, page);
    struct slot here = slot_from(c.slot, cursor_offset(&c, page));
    size_t end = page + cursor_rest(&c, page, limit);
    while (end < limit) {
        cursor_next(&c, end);
        struct slot wanted = slot_from(&here, end - page);
        if (!slot_same(c.slot, &wanted))
            break;
        end += cursor_rest(&c, end, limit);
    }
    *run = (struct run){ page, end - page, here.chunk, here.page };
}

/* A search for the first stretch of [page, limit) that differs: [first, end) once found. */
struct difference {
    size_t page, limit;
    bool found;
    size_t first, end;
};

/* Goes on in a block whose slots are not the same. True: the stretch ended there. */
static bool difference_extend(const struct slot *a, const struct slot *b, struct block at, struct difference *d)
{
    size_t from = max_size(at.first, d->page), to = min_size(at.end, d->limit);
    if (!is_node(a) && !is_node(b)) {
        if (!d->found)
            d->first = from;
        d->found = true;
        d->end = to;
        return false;
    }
    unsigned last = child_index(at, to - 1);
    for (unsigned i = child_index(at, from); i <= last; i++) {
        struct slot of_a = slot_child(a, at, i), of_b = slot_child(b, at, i);
        if (slot_same(&of_a, &of_b) ? d->found : difference_extend(&of_a, &of_b, child_block(at, i), d))
            return true;
    }
    return false;
}

bool ms_image_differs(const struct image *a, const struct image *b, size_t page, size_t limit, size_t *first,
                      size_t *pages)
{
    assert(a->pages == b->pages && limit <= a->pages);
    if (page >= limit)
        return false;
    struct difference d = { .page = page, .limit = limit };
    if (!slot_same(&a->root, &b->root))
        difference_extend(&a->root, &b->root, whole(a), &d);
    if (!d.found)
        return false;
    *first = d.first;
    *pages = d.end - d.first;
    return true;
}

/* ---- editing ------------------------------------------------------------------------------------- */

/* Makes the slot a node that only this edit refers to: the one there, its copy, or what splitting the run gives. */
static int slot_own(struct slot *s, struct block b, struct reclaim *r)
{
    if (is_node(s) && ms_ref_count(&s->node->refs) == 1) {
        MS_ACQUIRES(&s->node->refs);    /* others may have read it until they dropped theirs */
        return 0;
    }
    struct node *n = ms_os->alloc(sizeof *n);
    if (!n)
        return -ENOMEM;
    ms_ref_init(&n->refs);
    unsigned count = children(b);
    for (unsigned i = 0; i < count; i++)
        n->slots[i] = slot_child(s, b, i);
    slots_ref(n->slots, count);
    slot_drop(s, r);
    *s = (struct slot){ .node = n, .page = IS_NODE };
    return 0;
}

/* Puts one run in place of an owned node if its slots amount to that. */
static void slot_collapse(struct slot *s, struct block b, struct reclaim *r)
{
    const struct slot *v = s->node->slots;
    if (is_node(&v[0]))
        return;
    unsigned count = children(b);
    for (unsigned i = 1; i < count; i++) {
        struct slot wanted = slot_from(&v[0], child_block(b, i).first - b.first);
        if (!slot_same(&v[i], &wanted))
            return;
    }
    slot_replace(s, v[0], r);
}

/* Sets the part of the run that lies in the block. After an error references are right, nodes may want collapsing. */
static int slot_set(struct slot *s, struct block b, const struct run *run, struct reclaim *r)
{
    size_t from = max_size(b.first, run->first), to = min_size(b.end, run->first + run->pages);
    struct slot wanted = slot_of(run->chunk, run->chunk_page + (from - run->first));
    if (!is_node(s)) {
        struct slot here = slot_from(s, from - b.first);
        if (slot_same(&here, &wanted))
            return 0;
    }
    if (from == b.first && to == b.end) {
        slot_replace(s, wanted, r);
        return 0;
    }
    int error = slot_own(s, b, r);
    if (error)
        return error;
    unsigned last = child_index(b, to - 1);
    for (unsigned i = child_index(b, from); i <= last; i++) {
        error = slot_set(&s->node->slots[i], child_block(b, i), run, r);
        if (error)
            return error;
    }
    slot_collapse(s, b, r);
    return 0;
}

int ms_image_edit_begin(struct image_edit *e, const struct image *from)
{
    return image_new(from->pages, from->root, &e->image);
}

int ms_image_edit_set(struct image_edit *e, const struct run *run)
{
    struct image *i = e->image;
    assert(run->first <= i->pages && run->pages <= i->pages - run->first);
    assert(!run->chunk || (run->chunk_page <= run->chunk->pages && run->pages <= run->chunk->pages - run->chunk_page));
    if (run->pages == 0)
        return 0;
    struct reclaim r = { 0 };
    int error = slot_set(&i->root, whole(i), run, &r);
    ms_reclaim_flush(&r);
    return error;
}

struct image *ms_image_edit_finish(struct image_edit *e)
{
    struct image *i = e->image;
    e->image = NULL;
    return i;
}

void ms_image_edit_abandon(struct image_edit *e)
{
    ms_image_unref(ms_image_edit_finish(e));
}

size_t ms_image_block(size_t page, size_t pages)
{
    if (page % FANOUT != 0 || pages < FANOUT)
        return min_size(pages, FANOUT - page % FANOUT);
    size_t block = FANOUT;
    while (block <= pages / FANOUT && page % (block * FANOUT) == 0)
        block *= FANOUT;
    return block;
}

/* ---- what it holds ------------------------------------------------------------------------------- */

bool ms_image_is_exclusive(const struct image *i, struct chunk **chunk)
{
    const struct slot *root = &i->root;
    if (is_node(root) || !root->chunk || root->page != 0)
        return false;
    if (ms_ref_count(&i->refs) != 1 || ms_chunk_refs(root->chunk) != 1)
        return false;
    *chunk = root->chunk;
    return true;
}

/* How many slots that nothing but this image refers to hold a chunk. */
struct tally {
    struct chunk *chunk;
    size_t slots;
};

/* The chunks met so far, as a hash table with open addressing that is never more than half full. */
struct inventory {
    struct tally *table;
    size_t room, used;      /* room is a power of two, or 0 */
    size_t extents;
    struct slot next;       /* what continues the extent met last; node and zero: none */
};

static struct tally *inventory_find(struct tally *table, size_t room, const struct chunk *c)
{
    uint64_t hash = (uint64_t)(uintptr_t)c * 0x9e3779b97f4a7c15u;
    size_t at = (size_t)(hash >> 32) & (room - 1);
    while (table[at].chunk && table[at].chunk != c)
        at = (at + 1) & (room - 1);
    return &table[at];
}

static int inventory_grow(struct inventory *inventory)
{
    enum { FIRST_ROOM = 16 };
    size_t room = inventory->room > 0 ? inventory->room * 2 : FIRST_ROOM;
    struct tally *table = ms_os->alloc(room * sizeof *table);
    if (!table)
        return -ENOMEM;
    for (size_t i = 0; i < inventory->room; i++)
        if (inventory->table[i].chunk)
            *inventory_find(table, room, inventory->table[i].chunk) = inventory->table[i];
    ms_os->free(inventory->table);
    inventory->table = table;
    inventory->room = room;
    return 0;
}

static int inventory_run(struct inventory *inventory, const struct slot *s, struct block b, bool exclusive)
{
    if (!s->chunk) {
        inventory->next = *s;
        return 0;
    }
    if (!slot_same(s, &inventory->next))
        inventory->extents++;
    inventory->next = slot_from(s, b.end - b.first);
    if (inventory->used >= inventory->room / 2) {
        int error = inventory_grow(inventory);
        if (error)
            return error;
    }
    struct tally *t = inventory_find(inventory->table, inventory->room, s->chunk);
    if (!t->chunk)
        inventory->used++;
    t->chunk = s->chunk;
    t->slots += exclusive;
    return 0;
}

static int inventory_take(struct inventory *inventory, const struct slot *s, struct block b, bool exclusive)
{
    if (!is_node(s))
        return inventory_run(inventory, s, b, exclusive);
    exclusive = exclusive && ms_ref_count(&s->node->refs) == 1;
    unsigned count = children(b);
    for (unsigned i = 0; i < count; i++) {
        int error = inventory_take(inventory, &s->node->slots[i], child_block(b, i), exclusive);
        if (error)
            return error;
    }
    return 0;
}

int ms_image_usage(const struct image *i, size_t holders, struct image_usage *u)
{
    struct inventory inventory = { 0 };
    int error = inventory_take(&inventory, &i->root, whole(i), ms_ref_count(&i->refs) == holders);
    if (error) {
        ms_os->free(inventory.table);
        return error;
    }
    *u = (struct image_usage){ .extents = inventory.extents, .chunks = inventory.used };
    for (size_t n = 0; n < inventory.room; n++) {
        const struct tally *t = &inventory.table[n];
        if (!t->chunk)
            continue;
        u->stored_pages += t->chunk->pages;
        if (t->slots == ms_chunk_refs(t->chunk))
            u->exclusive_pages += t->chunk->pages;
    }
    ms_os->free(inventory.table);
    return 0;
}
