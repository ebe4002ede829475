/* SPDX-License-Identifier: MIT */
/* The writer alone, over a `struct current` that no snapshot holds. */
#include "config.h"

#include "mapping/writer.h"
#include "support/fault.h"
#include "support/support.h"

static struct current *current_new(size_t pages)
{
    struct current *c = g_new0(struct current, 1);
    struct pool *pool;
    struct image *zero;
    assert_ok(ms_pool_new(config.flags & MEMSNAP_NO_FD, &pool));
    assert_ok(ms_image_zero(pages, &zero));
    ms_current_init(c, zero, pages * page - 5, config.flags, pool);
    ms_image_unref(zero);
    ms_pool_unref(pool);
    ms_lock(&c->look);
    return c;
}

static void flush(struct current *c)
{
    struct leftovers left = c->left;
    c->left = (struct leftovers){0};
    ms_leftovers_free(&left);
}

static void current_free(struct current *c)
{
    flush(c);
    ms_unlock(&c->look);
    ms_current_destroy(c);
    g_free(c);
}

static char *lease(struct current *c)
{
    assert_ok(ms_writer_may_open(c, 0));
    flush(c);
    ms_writer_make_exclusive(c);
    flush(c);
    assert_ok(ms_writer_open(c, 0, NULL));
    return c->writer.mapping.address;
}

static void test_states(void)
{
    struct current *c = current_new(20);
    g_assert_cmpint(c->writer.state, ==, WRITER_NONE);
    char *p = lease(c);
    bool direct = !config_is("heap");
    g_assert_cmpint(c->writer.state, ==, direct ? WRITER_DIRECT : WRITER_SHADOW);
    g_assert_cmpint(ms_writer_may_open(c, 0), ==, -EBUSY);
    p[7] = 1;
    assert_ok(ms_writer_bring_up_to_date(c, false, SIZE_MAX));
    g_assert_cmpint(c->writer.state, ==, WRITER_SHADOW);
    flush(c);
    p[8] = 2;
    ms_writer_release(c);
    g_assert_cmpint(c->writer.state, ==, WRITER_SHADOW);
    assert_ok(ms_writer_bring_up_to_date(c, false, SIZE_MAX));
    g_assert_cmpint(c->writer.state, ==, WRITER_NONE);
    g_assert_true(c->left.mapping.address == p); /* not unmapped under the locks */
    flush(c);
    p = lease(c);
    g_assert_cmpint(c->writer.state, ==, direct ? WRITER_DIRECT : WRITER_SHADOW);
    g_assert_true(p[7] == 1 && p[8] == 2);
    ms_writer_release(c);
    current_free(c);
}

/* Who arrived before a capture began is served with it. */
static void test_captures_are_shared(void)
{
    struct current *c = current_new(20);
    char *p = lease(c);
    assert_ok(ms_writer_bring_up_to_date(c, false, SIZE_MAX));
    for (int i = 1; i < 5; i++) {
        size_t arrived = c->captures_begun;
        flush(c);
        p[i] = (char)i;
        assert_ok(ms_writer_bring_up_to_date(c, false, arrived));
        g_assert_cmpuint(c->captures_begun, ==, arrived + 1);
        struct image *i1 = c->image;
        assert_ok(ms_writer_bring_up_to_date(c, false, arrived)); /* was waiting meanwhile */
        g_assert_true(c->image == i1);
        g_assert_cmpuint(c->captures_begun, ==, arrived + 1);
        assert_ok(ms_writer_bring_up_to_date(c, false, c->captures_begun)); /* came afterwards */
        g_assert_cmpuint(c->captures_begun, ==, arrived + 2);
    }
    ms_writer_release(c);
    current_free(c);
}

/* A capture that failed served nobody. */
static void test_failed_captures_are_not_shared(void)
{
    struct current *c = current_new(20);
    char *p = lease(c);
    assert_ok(ms_writer_bring_up_to_date(c, false, SIZE_MAX));
    flush(c);
    size_t arrived = c->captures_begun;
    p[3] = 1;
    fault_arm(FAULT_BIT(FAULT_ALLOC), 0, 1, FAULT_TYPICAL);
    g_assert_cmpint(ms_writer_bring_up_to_date(c, false, arrived), ==, -ENOMEM);
    fault_disarm();
    char byte = 0;
    assert_ok(ms_writer_bring_up_to_date(c, false, arrived));
    g_assert_cmpuint(c->captures_begun, ==, arrived + 2);
    assert_ok(ms_writer_read(c, 3, &byte, 1));
    g_assert_cmpint(byte, ==, 1);
    ms_writer_release(c);
    current_free(c);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("states", test_states, 0);
    test_add("captures-are-shared", test_captures_are_shared, 0);
    test_add("failed-captures-are-not-shared", test_failed_captures_are_not_shared, 0);
    return g_test_run();
}
