/* SPDX-License-Identifier: MIT */
/* The invariants of images (lib/storage/image_tree.h). No function of image.c is used, so that none
 * of its mistakes is repeated. */
#include "config.h"

#include <glib.h>
#include <stdbool.h>

#include "base/arith.h"
#include "storage/image.h"
#include "storage/image_tree.h"
#include "support/valid.h"

static bool is_node(const struct slot *s)
{
    return s->page == IS_NODE;
}

static bool is_same(struct slot a, struct slot b)
{
    return a.page == b.page && (is_node(&a) ? a.node == b.node : a.chunk == b.chunk);
}

/* What a run holds from its page number `offset` on. */
static struct slot run_from(struct slot run, size_t offset)
{
    run.page += run.chunk ? offset : 0;
    return run;
}

static struct block child_block(struct block b, unsigned index)
{
    struct block child = {.bits = b.bits - FANOUT_BITS};
    child.first = b.first + ((size_t)index << child.bits);
    child.end = ms_min(b.end - child.first, (size_t)1 << child.bits) + child.first;
    return child;
}

static unsigned count_children(struct block b)
{
    return (unsigned)((b.end - 1 - b.first) >> (b.bits - FANOUT_BITS)) + 1;
}

static bool has_own(const struct node *n, unsigned index)
{
    return n->own >> index & 1;
}

/* Notes one reference of the image to the slot's chunk. */
static void check_run(const struct slot *s, struct block b, GHashTable *references)
{
    if (!s->chunk) {
        g_assert_cmpuint(s->page, ==, 0);
        return;
    }
    g_assert_cmpuint(s->page, <, s->chunk->pages);
    g_assert_cmpuint(b.end - b.first, <=, s->chunk->pages - s->page);
    size_t before = GPOINTER_TO_SIZE(g_hash_table_lookup(references, s->chunk));
    g_hash_table_insert(references, s->chunk, GSIZE_TO_POINTER(before + 1));
}

/* Whether a run or a zero slot would say the same as the node. */
static bool is_one_run(const struct node *n, struct block b)
{
    unsigned count = count_children(b), own = 0;
    struct slot first = has_own(n, 0) ? n->slots[0] : n->rest;
    if (is_node(&first))
        return false;
    for (unsigned i = 0; i < count; i++) {
        size_t offset = (size_t)i << (b.bits - FANOUT_BITS);
        struct slot child = has_own(n, i) ? n->slots[own++] : run_from(n->rest, offset);
        if (!is_same(child, run_from(first, offset)))
            return false;
    }
    return true;
}

static void check_slot(const struct slot *s, struct block b, GHashTable *references);

static void check_node(const struct node *n, struct block b, GHashTable *references)
{
    unsigned count = count_children(b), own = 0;
    children_mask inside = UINT64_MAX >> (64 - count);
    g_assert_cmpuint(ms_ref_count(&n->refs), >, 0);
    g_assert_cmpuint(b.bits, >=, FANOUT_BITS);
    g_assert_true(n->own != 0);
    g_assert_true((n->own & ~inside) == 0);
    g_assert_false(is_node(&n->rest));
    g_assert_true(n->own != inside || !n->rest.chunk);
    check_run(&n->rest, b, references);
    for (unsigned i = 0; i < count; i++) {
        if (!has_own(n, i))
            continue;
        struct slot part = run_from(n->rest, (size_t)i << (b.bits - FANOUT_BITS));
        g_assert_false(is_same(n->slots[own], part));
        check_slot(&n->slots[own++], child_block(b, i), references);
    }
    g_assert_false(is_one_run(n, b));
}

static void check_slot(const struct slot *s, struct block b, GHashTable *references)
{
    if (is_node(s))
        check_node(s->node, b, references);
    else
        check_run(s, b, references);
}

/* Other images may refer to the same chunk, so it may have more references. */
static void check_references(gpointer chunk, gpointer references, gpointer unused)
{
    (void)unused;
    g_assert_cmpuint(ms_ref_count(&((const struct chunk *)chunk)->refs), >=,
                     GPOINTER_TO_SIZE(references));
}

void assert_valid_image(const struct image *i)
{
    unsigned height = 0;
    for (size_t rest = i->pages ? i->pages - 1 : 0; rest > 0; rest /= FANOUT)
        height++;
    g_assert_cmpuint(ms_ref_count(&i->refs), >, 0);
    g_assert_cmpuint(i->height, ==, height);
    GHashTable *references = g_hash_table_new(NULL, NULL);
    if (i->pages > 0)
        check_slot(&i->root, (struct block){0, i->pages, height * FANOUT_BITS}, references);
    else
        g_assert_true(!i->root.chunk && i->root.page == 0);
    g_hash_table_foreach(references, check_references, NULL);
    g_hash_table_destroy(references);
}
