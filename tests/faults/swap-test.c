/* SPDX-License-Identifier: MIT */
/* Pages that were written and swapped out are found like others: by dirty, take, restore,
 * recycling, and behind a closed write block. Without swap space MADV_PAGEOUT does little, the
 * same is looked at, and the tests say that they were skipped: tests/tools/with-swap.sh makes
 * some. */
#include "config.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support/support.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

struct pages {
    size_t size;
    unsigned char *base, *model; /* what the view was opened on, what it must hold now */
    struct rng rng;
    size_t swapped; /* pages seen swapped out, in all */
};

static size_t count_swapped(const void *p, size_t size)
{
    size_t n = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (size_t at = 0; at < size && fd >= 0; at += page) {
        uint64_t entry = 0;
        off_t offset = (off_t)(((uintptr_t)p + at) / page * sizeof entry);
        if (pread(fd, &entry, sizeof entry, offset) == (ssize_t)sizeof entry)
            n += entry >> 62 & 1;
    }
    close(fd);
    return n;
}

/* From here on nobody looks at the bytes but the library. */
static void push_out(struct pages *g, memsnap_view *v)
{
    madvise(bytes(v), round_up(g->size), MADV_PAGEOUT);
    g->swapped += count_swapped(bytes(v), g->size);
}

/* Some pages get other bytes, some zeros, some are written with what they hold. */
static void change(struct pages *g, memsnap_view *v)
{
    for (int i = 0; i < 12; i++) {
        size_t at = rng_below(&g->rng, g->size) / page * page, len = ms_min(page, g->size - at);
        if (i % 3 == 0)
            memset(g->model + at, 0, len);
        else if (i % 3 == 1)
            fill(g->model + at, len, rng_next(&g->rng));
        memcpy(bytes(v) + at, g->model + at, len);
    }
    push_out(g, v);
}

static void check_dirty(struct pages *g, memsnap_view *v)
{
    struct memsnap_range r[64];
    size_t cursor = 0, at = 0;
    int n;
    while ((n = memsnap_view_dirty(v, &cursor, r, G_N_ELEMENTS(r))) > 0)
        check_ranges(r, n, g->base, g->model, g->size, &at);
    assert_ok(n);
    for (; at < g->size; at += page)
        g_assert_cmpint(memcmp(g->base + at, g->model + at, ms_min(page, g->size - at)), ==, 0);
}

static void check_taken(struct pages *g, memsnap_view *v, unsigned flags)
{
    memsnap_snapshot *t = NULL;
    unsigned char *now = g_malloc(g->size);
    int r = memsnap_view_take_snapshot(v, flags, &t);
    if (r != -ENOTSUP || !flags) {
        assert_ok(r);
        assert_ok(memsnap_snapshot_read(t, 0, now, g->size));
        assert_same(now, g->model, g->size);
    }
    memsnap_snapshot_unref(t);
    g_free(now);
}

static struct pages new_pages(size_t size)
{
    struct pages g = {.size = size, .base = pattern(size, 1), .rng = {size}};
    memset(g.base + size / 2, 0, size / 4);
    g.model = g_memdup2(g.base, size);
    return g;
}

static void free_pages(struct pages *g)
{
    g_free(g->base);
    g_free(g->model);
}

static void in_all_sizes(void (*body)(struct pages *g))
{
    const size_t sizes[] = {12, 40, 512, 1027}; /* pages */
    size_t swapped = 0;
    for (size_t i = 0; i < (on_valgrind() ? 2 : G_N_ELEMENTS(sizes)); i++) {
        struct pages g = new_pages(sizes[i] * page + i);
        body(&g);
        swapped += g.swapped;
        free_pages(&g);
    }
    if (!swapped)
        test_skip("nothing was swapped out (make check-swap makes swap space)");
}

/* ---- the tests ------------------------------------------------------------------------------- */

static void ordinary(struct pages *g)
{
    memsnap_snapshot *s = snap(g->base, g->size), *other = snap_pattern(g->size, 2);
    for (int round = 0; round < 6; round++) {
        memsnap_view *v = view(s);
        change(g, v);
        check_dirty(g, v);
        push_out(g, v);
        check_taken(g, v, 0);
        change(g, v);
        check_taken(g, v, 0);
        push_out(g, v);
        if (round % 3 == 0) {
            assert_ok(memsnap_view_restore(v));
            assert_same(bytes(v), g->base, g->size);
        } else if (round % 3 == 1) {
            assert_ok(memsnap_view_restore_to(v, other));
            assert_content(other, bytes(v), g->size);
        }
        memsnap_view_unref(v);
        v = view(s); /* the one just closed */
        assert_same(bytes(v), g->base, g->size);
        memsnap_view_unref(v);
        memcpy(g->model, g->base, g->size);
    }
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(other);
}

static void test_ordinary(void)
{
    in_all_sizes(ordinary);
}

static void atomic(struct pages *g)
{
    memsnap_snapshot *s = snap(g->base, g->size);
    memsnap_view *v = view(s);
    for (int round = 0; round < 4; round++) {
        change(g, v);
        check_taken(g, v, MEMSNAP_TAKE_ATOMIC);
        assert_same(bytes(v), g->model, g->size);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

static void test_atomic(void)
{
    in_all_sizes(atomic);
}

static void mutable(struct pages *g)
{
    memsnap_snapshot *s = snap(g->base, g->size);
    memsnap_view *v = view_mut(s);
    for (int round = 0; round < 6; round++) {
        change(g, v);
        check_taken(g, v, round % 2 ? MEMSNAP_TAKE_ATOMIC : 0);
        change(g, v);
        if (round == 3) {
            memsnap_view_unref(v);
            v = view_mut(s);
        }
        assert_same(bytes(v), g->model, g->size);
    }
    push_out(g, v);
    memsnap_view_unref(v);
    assert_content(s, g->model, g->size);
    memsnap_snapshot_unref(s);
}

static void test_mutable(void)
{
    in_all_sizes(mutable);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("ordinary", test_ordinary, TEST_SOURCES);
    test_add("atomic", test_atomic, TEST_SOURCES);
    test_add("mutable", test_mutable, TEST_SOURCES);
    return g_test_run();
}
