/* SPDX-License-Identifier: MIT */
/* Images: the radix tree from page number to chunk page. image.h says what it promises,
 * image_tree.h how it is laid out and what always holds. */
#include "config.h"

#include "storage/image.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "os/os.h"
#include "storage/image_tree.h"

/* ---- blocks and slots ------------------------------------------------------------------------ */

static struct block whole(const struct image *i)
{
    return (struct block){0, i->pages, i->height * FANOUT_BITS};
}

/* The index of the child that contains the page. */
static unsigned child_index(struct block b, size_t page)
{
    return (unsigned)((page - b.first) >> (b.bits - FANOUT_BITS));
}

/* How many children of a block begin before the end of the image. */
static unsigned children(struct block b)
{
    return child_index(b, b.end - 1) + 1;
}

static struct block child_block(struct block b, unsigned index)
{
    unsigned bits = b.bits - FANOUT_BITS;
    size_t first = b.first + ((size_t)index << bits);
    return (struct block){first, first + ms_min((size_t)1 << bits, b.end - first), bits};
}

static bool is_node(const struct slot *s)
{
    return s->page == IS_NODE;
}

static struct slot slot_of(struct chunk *c, size_t page)
{
    return (struct slot){.chunk = c, .page = c ? page : 0};
}

/* The rest of a zero slot or run, from its page number `offset` on. */
static struct slot slot_from(const struct slot *s, size_t offset)
{
    return slot_of(s->chunk, s->page + offset);
}

/* The compiler's builtin is a function call where the processor's instruction may not be assumed,
 * which makes a take 3% longer. */
static unsigned bits_in(children_mask v)
{
    v -= v >> 1 & 0x5555555555555555;
    v = (v & 0x3333333333333333) + (v >> 2 & 0x3333333333333333);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return (unsigned)(v * 0x0101010101010101 >> 56);
}

static unsigned lowest_bit(children_mask v)
{
    return (unsigned)__builtin_ctzll(v);
}

static unsigned highest_bit(children_mask v)
{
    return 63 - (unsigned)__builtin_clzll(v);
}

/* The bits of the children first to last, both included. */
static children_mask bits_from_to(unsigned first, unsigned last)
{
    return (UINT64_C(2) << last) - (UINT64_C(1) << first);
}

static bool has_own(const struct node *n, unsigned index)
{
    return n->own >> index & 1;
}

/* Where the child's own slot is: so many children before it have slots of their own. */
static unsigned own_index(const struct node *n, unsigned index)
{
    return bits_in(n->own & ((UINT64_C(1) << index) - 1));
}

/* Child `index` of a node. A child stands for 1 << bits pages. */
static struct slot node_child(const struct node *n, unsigned index, unsigned bits)
{
    if (has_own(n, index))
        return n->slots[own_index(n, index)];
    return slot_from(&n->rest, (size_t)index << bits);
}

/* Child `index` of a slot; if the slot is no node, what the child would be in one. */
static struct slot slot_child(const struct slot *s, struct block b, unsigned index)
{
    unsigned bits = b.bits - FANOUT_BITS;
    return is_node(s) ? node_child(s->node, index, bits) : slot_from(s, (size_t)index << bits);
}

/* True: the same pages. Of two nodes false says nothing: they may have the same content. */
static bool slot_same(const struct slot *a, const struct slot *b)
{
    return a->page == b->page && (is_node(a) ? a->node == b->node : a->chunk == b->chunk);
}

/* Takes a reference for each of n slots. Neighbours of one chunk cost one atomic addition. */
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

/* Gives back the slot's reference. Chunks go in page order, so that r can merge those that are
 * neighbours in the store. */
static void slot_drop(const struct slot *s, struct reclaim *r) MS_INSIDE
{
    if (!is_node(s)) {
        ms_chunk_unref(s->chunk, r);
        return;
    }
    struct node *n = s->node;
    if (!ms_ref_put(&n->refs))
        return;
    for (unsigned i = 0; i < bits_in(n->own); i++)
        slot_drop(&n->slots[i], r);
    ms_chunk_unref(n->rest.chunk, r);
    ms_os->free(n);
}

/* Takes the new reference first: the old content may hold the only one. */
static void slot_replace(struct slot *s, struct slot by, struct reclaim *r) MS_INSIDE
{
    slots_ref(&by, 1);
    slot_drop(s, r);
    *s = by;
}

/* ---- images ---------------------------------------------------------------------------------- */

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
    ms_ref_init(&i->remembered);
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

static void image_forget(struct image *i)
{
    if (ms_ref_put(&i->remembered))
        ms_os->free(i);
}

void ms_image_unref(struct image *i)
{
    if (!i || !ms_ref_put(&i->refs))
        return;
    struct reclaim r = {0};
    slot_drop(&i->root, &r);
    ms_reclaim_flush(&r);
    image_forget(i);
}

void ms_image_remember(struct weak_image *w, struct image *i)
{
    struct image *before = w->image;
    if (i)
        ms_ref_get(&i->remembered);
    w->image = i;
    if (before)
        image_forget(before);
}

struct image *ms_image_recall(const struct weak_image *w)
{
    return w->image && ms_ref_try_get(&w->image->refs) ? w->image : NULL;
}

size_t ms_image_pages(const struct image *i)
{
    return i->pages;
}

/* ---- looking --------------------------------------------------------------------------------- */

/* A position in a walk over the tree. The walk goes from one run to the next without starting at
 * the root again. Such a run is one slot, or all neighbouring children that are parts of one
 * `rest`; it may be continued by the next. */
struct cursor {
    /* path[n]: the node on the way whose children are of level n */
    const struct node *path[MAX_HEIGHT];
    /* what is there from `first` on; a node only while the cursor descends */
    struct slot slot;
    /* the pages of the run; the last may be behind the end of the image */
    size_t first, last;
    /* the slot visited last stands for an aligned block of 1 << bits pages */
    unsigned bits;
};

static size_t pages_below(unsigned bits)
{
    return bits < PAGE_BITS ? ((size_t)1 << bits) - 1 : SIZE_MAX;
}

static void cursor_start(struct cursor *c, const struct image *i)
{
    /* The path stays uninitialised: clearing it takes a third of the time of a short walk. */
    c->slot = i->root;
    c->bits = i->height * FANOUT_BITS;
    c->first = 0;
    c->last = pages_below(c->bits);
}

/* Goes from a node to the child that contains the page, or, if that is part of `rest`, to it and
 * its neighbours. */
static void cursor_enter(struct cursor *c, const struct node *n, size_t page)
{
    unsigned index = (page >> c->bits) % FANOUT;
    size_t begin = page & ~pages_below(c->bits + FANOUT_BITS);
    if (has_own(n, index)) {
        c->slot = n->slots[own_index(n, index)];
        c->first = page & ~pages_below(c->bits);
        c->last = page | pages_below(c->bits);
        return;
    }
    children_mask before = n->own & bits_from_to(0, index),
                  behind = n->own & ~bits_from_to(0, index);
    c->first = before ? begin + ((size_t)(highest_bit(before) + 1) << c->bits) : begin;
    c->last = behind ? begin + ((size_t)lowest_bit(behind) << c->bits) - 1
                     : page | pages_below(c->bits + FANOUT_BITS);
    c->slot = slot_from(&n->rest, c->first - begin);
}

/* Goes from a node down to the run that contains the page. */
static void cursor_descend(struct cursor *c, size_t page)
{
    while (is_node(&c->slot)) {
        const struct node *n = c->slot.node;
        c->bits -= FANOUT_BITS;
        c->path[c->bits / FANOUT_BITS] = n;
        cursor_enter(c, n, page);
    }
}

/* Goes to the next run. There must be one: the image does not end here. */
static void cursor_next(struct cursor *c)
{
    size_t page = c->last + 1;
    while ((page >> c->bits) % FANOUT == 0)
        c->bits += FANOUT_BITS;
    cursor_enter(c, c->path[c->bits / FANOUT_BITS], page);
    cursor_descend(c, page);
}

void ms_image_run(const struct image *i, size_t page, size_t limit, struct run *run)
{
    assert(page < limit && limit <= i->pages);
    struct cursor c;
    cursor_start(&c, i);
    cursor_descend(&c, page);
    struct slot here = slot_from(&c.slot, page - c.first);
    while (c.last < limit - 1) {
        size_t end = c.last + 1;
        cursor_next(&c);
        struct slot wanted = slot_from(&here, end - page);
        if (!slot_same(&c.slot, &wanted)) {
            limit = end;
            break;
        }
    }
    *run = (struct run){page, limit - page, here.chunk, here.page};
}

/* A search for the first run of pages in [page, limit) that differs: [first, end) once found. */
struct difference {
    size_t page, limit;
    bool found;
    size_t first, end;
};

/* The children that have to be compared. If both `rest` are the same, so are all children without
 * slots of their own. */
static children_mask may_differ(const struct slot *a, const struct slot *b)
{
    const struct slot *rest_of_a = is_node(a) ? &a->node->rest : a,
                      *rest_of_b = is_node(b) ? &b->node->rest : b;
    if (!slot_same(rest_of_a, rest_of_b))
        return ALL_CHILDREN;
    return (is_node(a) ? a->node->own : 0) | (is_node(b) ? b->node->own : 0);
}

/* The first child in [index, last] that is in the mask, or last + 1. */
static unsigned next_child(children_mask mask, unsigned index, unsigned last)
{
    children_mask left = mask & bits_from_to(index, last);
    return left ? lowest_bit(left) : last + 1;
}

/* Continues the search in a block whose two slots differ. True: the run ended inside the block. */
static bool difference_extend(const struct slot *a, const struct slot *b, struct block at,
                              struct difference *d)
{
    size_t from = ms_max(at.first, d->page), to = ms_min(at.end, d->limit);
    if (!is_node(a) && !is_node(b)) {
        if (!d->found)
            d->first = from;
        d->found = true;
        d->end = to;
        return false;
    }
    children_mask differing = may_differ(a, b);
    unsigned last = child_index(at, to - 1);
    for (unsigned i = child_index(at, from); i <= last; i++) {
        unsigned same = i;
        i = next_child(differing, i, last);
        if (i > same && d->found)
            return true;
        if (i > last)
            break;
        struct slot of_a = slot_child(a, at, i), of_b = slot_child(b, at, i);
        if (slot_same(&of_a, &of_b) ? d->found
                                    : difference_extend(&of_a, &of_b, child_block(at, i), d))
            return true;
    }
    return false;
}

bool ms_image_differs(const struct image *a, const struct image *b, size_t page, size_t limit,
                      size_t *first, size_t *pages)
{
    assert(a->pages == b->pages && limit <= a->pages);
    if (page >= limit)
        return false;
    struct difference d = {.page = page, .limit = limit};
    if (!slot_same(&a->root, &b->root))
        difference_extend(&a->root, &b->root, whole(a), &d);
    if (!d.found)
        return false;
    *first = d.first;
    *pages = d.end - d.first;
    return true;
}

/* ---- editing --------------------------------------------------------------------------------- */

/* Makes n a node with the content of s, in which the children in `own` have slots of their own. */
static void node_fill(struct node *n, const struct slot *s, struct block b, children_mask own)
{
    ms_ref_init(&n->refs);
    n->own = own;
    n->rest = is_node(s) ? s->node->rest : *s;
    struct slot *to = n->slots;
    for (; own; own &= own - 1)
        *to++ = slot_child(s, b, lowest_bit(own));
}

static bool is_owned(const struct slot *s)
{
    return is_node(s) && ms_ref_count(&s->node->refs) == 1;
}

/* Makes the slot a node that this edit owns, in which the children of the mask have slots of their
 * own. If the slot has such a node already, it stays. Otherwise a new one replaces the owned node
 * (with more slots), the shared node (as a copy), or the run (split). */
static int slot_own(struct slot *s, struct block b, children_mask mask, struct reclaim *r) MS_INSIDE
{
    children_mask before = is_node(s) ? s->node->own : 0, own = before | mask;
    bool owned = is_owned(s);
    if (owned)
        MS_ACQUIRES(&s->node->refs); /* others have read it before they dropped their references */
    if (owned && own == before)
        return 0;
    struct node *n = ms_os->alloc(sizeof *n + bits_in(own) * sizeof n->slots[0]);
    if (!n)
        return -ENOMEM;
    node_fill(n, s, b, own);
    if (owned) { /* the references move to the new node */
        if (n->rest.chunk)
            ms_chunk_ref_many(n->rest.chunk, bits_in(own & ~before));
        ms_os->free(s->node);
    } else {
        slots_ref(&n->rest, 1);
        slots_ref(n->slots, bits_in(own));
        slot_drop(s, r);
    }
    *s = (struct slot){.node = n, .page = IS_NODE};
    return 0;
}

/* Removes the own slots of those children of the mask that are the same as their part of `rest`. */
static void node_merge(struct node *n, struct block b, children_mask mask,
                       struct reclaim *r) MS_INSIDE
{
    for (children_mask left = n->own & mask; left; left &= left - 1) {
        unsigned i = lowest_bit(left), k = own_index(n, i);
        struct slot implied = slot_from(&n->rest, (size_t)i << (b.bits - FANOUT_BITS));
        if (!slot_same(&n->slots[k], &implied))
            continue;
        slot_drop(&n->slots[k], r);
        n->own &= ~(UINT64_C(1) << i);
        memmove(&n->slots[k], &n->slots[k + 1], (bits_in(n->own) - k) * sizeof n->slots[0]);
    }
}

/* Whether the children are one run together. All of them have slots of their own. */
static bool node_is_run(const struct node *n, struct block b, unsigned count)
{
    const struct slot *v = n->slots;
    if (is_node(&v[0]))
        return false;
    for (unsigned i = 1; i < count; i++) {
        struct slot wanted = slot_from(&v[0], (size_t)i << (b.bits - FANOUT_BITS));
        if (!slot_same(&v[i], &wanted))
            return false;
    }
    return true;
}

/* Restores the invariants of an owned node after the children of the mask were set. If the node is
 * one run now, the run replaces it. */
static void slot_collapse(struct slot *s, struct block b, children_mask mask,
                          struct reclaim *r) MS_INSIDE
{
    struct node *n = s->node;
    unsigned count = children(b);
    children_mask all = bits_from_to(0, count - 1);
    if (n->own == all && n->rest.chunk) {
        slot_replace(&n->rest, slot_of(NULL, 0), r);
        mask = all;
    }
    node_merge(n, b, mask, r);
    if (!n->own)
        slot_replace(s, n->rest, r);
    else if (n->own == all && node_is_run(n, b, count))
        slot_replace(s, n->slots[0], r);
}

/* Sets the pages of the run that lie in the block. After an error all references are right, but
 * nodes may violate the other invariants. */
static int slot_set(struct slot *s, struct block b, const struct run *run,
                    struct reclaim *r) MS_INSIDE
{
    size_t from = ms_max(b.first, run->first), to = ms_min(b.end, run->first + run->pages);
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
    unsigned index = child_index(b, from), last = child_index(b, to - 1);
    children_mask mask = bits_from_to(index, last);
    int e = slot_own(s, b, mask, r);
    if (e)
        return e;
    for (struct slot *child = &s->node->slots[own_index(s->node, index)]; index <= last;
         index++, child++) {
        e = slot_set(child, child_block(b, index), run, r);
        if (e)
            return e;
    }
    slot_collapse(s, b, mask, r);
    return 0;
}

int ms_image_edit_begin(struct image_edit *edit, const struct image *from)
{
    return image_new(from->pages, from->root, &edit->image);
}

int ms_image_edit_set(struct image_edit *edit, const struct run *run)
{
    struct image *i = edit->image;
    assert(run->first <= i->pages && run->pages <= i->pages - run->first);
    assert(!run->chunk || (run->chunk_page <= run->chunk->pages &&
                           run->pages <= run->chunk->pages - run->chunk_page));
    if (run->pages == 0)
        return 0;
    struct reclaim r = {0};
    int e = slot_set(&i->root, whole(i), run, &r);
    ms_reclaim_flush(&r);
    return e;
}

struct image *ms_image_edit_finish(struct image_edit *edit)
{
    struct image *i = edit->image;
    edit->image = NULL;
    return i;
}

void ms_image_edit_abandon(struct image_edit *edit)
{
    ms_image_unref(ms_image_edit_finish(edit));
}

int ms_image_copy(const struct image *i, struct image **out)
{
    struct image *copy;
    struct run r = {0};
    int e = ms_image_zero(i->pages, &copy);
    for (size_t at = 0; e == 0 && at < i->pages; at = r.first + r.pages) {
        ms_image_run(i, at, i->pages, &r);
        e = ms_image_edit_set(&(struct image_edit){copy}, &r);
        if (e < 0)
            ms_image_unref(copy);
    }
    if (e == 0)
        *out = copy;
    return e;
}

size_t ms_image_block(size_t page, size_t pages)
{
    if (page % SMALL_BLOCK != 0 || pages < SMALL_BLOCK)
        return ms_min(pages, SMALL_BLOCK - page % SMALL_BLOCK);
    size_t block = SMALL_BLOCK;
    for (size_t slot = FANOUT; slot <= pages && page % slot == 0; slot *= FANOUT) {
        block = slot;
        if (slot > pages / FANOUT)
            break;
    }
    return block;
}

/* ---- what it holds --------------------------------------------------------------------------- */

bool ms_image_is_exclusive(const struct image *i, struct chunk **chunk)
{
    const struct slot *root = &i->root;
    if (is_node(root) || !root->chunk || root->page != 0)
        return false;
    if (ms_ref_count(&i->refs) != 1 || ms_ref_count(&i->remembered) != 1 ||
        ms_chunk_refs(root->chunk) != 1)
        return false;
    *chunk = root->chunk;
    return true;
}

/* A chunk, and how many references to it are held by slots that only this image can reach. */
struct tally {
    struct chunk *chunk;
    size_t slots;
};

/* The chunks of an image: a hash table with open addressing that is never more than half full. */
struct inventory {
    struct tally *table;
    size_t capacity, used; /* capacity is a power of two, or 0 */
    size_t runs;
    struct slot next; /* what would continue the last run; a node or zero: nothing */
};

static struct tally *inventory_find(struct tally *table, size_t capacity, const struct chunk *c)
{
    uint64_t hash = (uint64_t)(uintptr_t)c * 0x9e3779b97f4a7c15u;
    size_t at = (size_t)(hash >> 32) & (capacity - 1);
    while (table[at].chunk && table[at].chunk != c)
        at = (at + 1) & (capacity - 1);
    return &table[at];
}

static int inventory_grow(struct inventory *inventory)
{
    enum { MIN_CAPACITY = 16 };
    size_t capacity = inventory->capacity > 0 ? inventory->capacity * 2 : MIN_CAPACITY;
    struct tally *table = ms_os->alloc(capacity * sizeof *table);
    if (!table)
        return -ENOMEM;
    for (size_t i = 0; i < inventory->capacity; i++)
        if (inventory->table[i].chunk)
            *inventory_find(table, capacity, inventory->table[i].chunk) = inventory->table[i];
    ms_os->free(inventory->table);
    inventory->table = table;
    inventory->capacity = capacity;
    return 0;
}

static int inventory_run(struct inventory *inventory, const struct slot *s, struct block b,
                         bool exclusive)
{
    if (!s->chunk) {
        inventory->next = *s;
        return 0;
    }
    if (!slot_same(s, &inventory->next))
        inventory->runs++;
    inventory->next = slot_from(s, b.end - b.first);
    if (inventory->used >= inventory->capacity / 2) {
        int e = inventory_grow(inventory);
        if (e)
            return e;
    }
    struct tally *t = inventory_find(inventory->table, inventory->capacity, s->chunk);
    if (!t->chunk)
        inventory->used++;
    t->chunk = s->chunk;
    t->slots += exclusive;
    return 0;
}

/* `rest` holds one reference for all children that are parts of it. */
static void inventory_rest(struct inventory *inventory, const struct slot *rest, bool exclusive)
{
    if (rest->chunk)
        inventory_find(inventory->table, inventory->capacity, rest->chunk)->slots += exclusive;
}

static int inventory_take(struct inventory *inventory, const struct slot *s, struct block b,
                          bool exclusive)
{
    if (!is_node(s))
        return inventory_run(inventory, s, b, exclusive);
    exclusive = exclusive && ms_ref_count(&s->node->refs) == 1;
    const struct node *n = s->node;
    unsigned count = children(b);
    for (unsigned i = 0, next; i < count; i = next) {
        struct slot child = slot_child(s, b, i);
        struct block at = child_block(b, i);
        next = has_own(n, i) ? i + 1 : next_child(n->own, i, count - 1);
        at.end = child_block(b, next - 1).end;
        int e = inventory_take(inventory, &child, at, exclusive && has_own(n, i));
        if (e)
            return e;
    }
    inventory_rest(inventory, &n->rest, exclusive);
    return 0;
}

int ms_image_usage(const struct image *i, size_t holders, struct image_usage *u)
{
    return ms_images_usage(&i, &holders, 1, u);
}

int ms_images_usage(const struct image *const *v, const size_t *holders, size_t n,
                    struct image_usage *u)
{
    struct inventory inventory = {0};
    int e = 0;
    for (size_t k = 0; k < n && !e; k++)
        e = inventory_take(&inventory, &v[k]->root, whole(v[k]),
                           ms_ref_count(&v[k]->refs) == holders[k]);
    if (e) {
        ms_os->free(inventory.table);
        return e;
    }
    *u = (struct image_usage){.runs = inventory.runs, .chunks = inventory.used};
    for (size_t k = 0; k < inventory.capacity; k++) {
        const struct tally *t = &inventory.table[k];
        if (!t->chunk)
            continue;
        u->stored_pages += t->chunk->pages;
        if (t->slots == ms_chunk_refs(t->chunk))
            u->exclusive_pages += t->chunk->pages;
    }
    ms_os->free(inventory.table);
    return 0;
}
