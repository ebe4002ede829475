/* SPDX-License-Identifier: MIT */
/* The policy of restores by itself: which way it chooses for working sets of known behaviour.
 * Nothing is mapped here; which pages are private is computed as a restore would leave them. */
#include "config.h"

#include "mapping/restore_policy.h"

#include <string.h>

#include "support/support.h"

enum { PAGES = 4096, SEED = 1 };

struct sim {
    struct restore_policy policy;
    bool private[PAGES], dirty[PAGES];
    double read_faults;
    size_t kept, dropped, whole; /* rounds of each way */
};

static void sim_begin(struct sim *s, double read_faults)
{
    memset(s, 0, sizeof *s);
    s->read_faults = read_faults;
    ms_policy_start(&s->policy, PAGES);
}

/* Restores by the policy's word; returns how many pages are private afterwards. */
static size_t sim_restore(struct sim *s)
{
    size_t left = 0;
    enum restore_way way = ms_policy_begin(&s->policy);
    *(way == RESTORE_KEEP ? &s->kept : way == RESTORE_DROP_PAGES ? &s->dropped : &s->whole) += 1;
    if (way == RESTORE_DROP_WHOLE) {
        memset(s->private, 0, sizeof s->private);
        memset(s->dirty, 0, sizeof s->dirty);
        ms_policy_dropped_all(&s->policy);
        return 0;
    }
    if (ms_policy_wants_reads(&s->policy))
        ms_policy_set_reads(&s->policy, s->read_faults);
    for (size_t i = 0; i < PAGES; i++) {
        s->private[i] |= s->dirty[i];
        if (s->dirty[i])
            ms_policy_dirty(&s->policy, i);
        else if (s->private[i] && ms_policy_is_old(&s->policy, i))
            s->private[i] = false;
        if (way == RESTORE_DROP_PAGES)
            s->private[i] = false;
        s->dirty[i] = false;
        left += s->private[i];
    }
    ms_policy_end(&s->policy, left);
    return left;
}

/* Dirties k of the first h pages, chosen anew in each round. */
static size_t sim_hot(struct sim *s, struct rng *rng, size_t k, size_t h, size_t rounds)
{
    size_t left = 0;
    for (size_t i = 0; i < rounds; i++) {
        for (size_t j = 0; j < k; j++)
            s->dirty[rng_below(rng, h) * (PAGES / h)] = true;
        left = sim_restore(s);
    }
    return left;
}

static void sim_end(struct sim *s)
{
    ms_policy_free(&s->policy);
}

static void test_same_pages_stay(void)
{
    struct rng rng = {SEED};
    struct sim s;
    sim_begin(&s, 0);
    g_assert_cmpuint(sim_hot(&s, &rng, 2000, 64, 400), ==, 64);
    g_assert_cmpuint(s.whole + s.dropped, ==, 0);
    sim_end(&s);
}

/* Half of a small set each time: a page comes back soon, and is kept until it does. */
static void test_overlapping_sets_stay(void)
{
    struct rng rng = {SEED};
    struct sim s;
    sim_begin(&s, 0);
    g_assert_cmpuint(sim_hot(&s, &rng, 64, 128, 400), >, 100);
    g_assert_cmpuint(s.whole + s.dropped, ==, 0);
    sim_end(&s);
}

/* Other pages each time: nothing is kept, and where nothing is read all is dropped at once. */
static void test_wandering_sets_are_dropped(void)
{
    struct rng rng = {SEED};
    struct sim s;
    sim_begin(&s, 0);
    sim_hot(&s, &rng, 16, PAGES, 2000);
    g_assert_cmpuint(s.whole, >, 1800);
    sim_end(&s);
}

/* What was only read stays: the pages are dropped by themselves. */
static void test_read_pages_are_spared(void)
{
    struct rng rng = {SEED};
    struct sim s;
    sim_begin(&s, 200);
    sim_hot(&s, &rng, 16, PAGES, 2000);
    g_assert_cmpuint(s.whole, <, 100);
    g_assert_cmpuint(s.dropped, >, 1800);
    sim_end(&s);
}

/* From wandering to staying and back: the policy follows. */
static void test_change_is_noticed(void)
{
    struct rng rng = {SEED};
    struct sim s;
    sim_begin(&s, 0);
    sim_hot(&s, &rng, 16, PAGES, 1000);
    g_assert_cmpuint(s.whole, >, 800);
    sim_hot(&s, &rng, 2000, 64, 3000);
    size_t kept = s.kept;
    sim_hot(&s, &rng, 2000, 64, 100);
    g_assert_cmpuint(s.kept, ==, kept + 100);
    sim_hot(&s, &rng, 16, PAGES, 1000);
    size_t whole = s.whole;
    sim_hot(&s, &rng, 16, PAGES, 100);
    g_assert_cmpuint(s.whole, >, whole + 90);
    sim_end(&s);
}

/* A few steady pages among wandering ones: these are dropped when they are old, those stay. */
static void test_mixed_sets_are_parted(void)
{
    struct rng rng = {SEED};
    struct sim s;
    size_t left = 0;
    sim_begin(&s, 0);
    for (size_t i = 0; i < 1000; i++) {
        for (size_t j = 0; j < 64; j++)
            s.dirty[j * 3] = true;
        for (size_t j = 0; j < 4; j++)
            s.dirty[rng_below(&rng, PAGES)] = true;
        left = sim_restore(&s);
    }
    for (size_t j = 0; j < 64; j++)
        g_assert_true(s.private[j * 3]);
    g_assert_cmpuint(left, <, 64 + 100);
    g_assert_cmpuint(s.whole + s.dropped, ==, 0);
    sim_end(&s);
}

/* Without memory nothing is learnt, and everything is kept. */
static void test_no_memory(void)
{
    struct restore_policy p = {0};
    for (int i = 0; i < 1000; i++) {
        g_assert_cmpint(ms_policy_begin(&p), ==, RESTORE_KEEP);
        ms_policy_dirty(&p, 5);
        g_assert_false(ms_policy_is_old(&p, 6));
        g_assert_false(ms_policy_wants_reads(&p));
        ms_policy_end(&p, 1);
    }
    ms_policy_free(&p);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    g_test_add_func("/restore-policy/same-pages-stay", test_same_pages_stay);
    g_test_add_func("/restore-policy/overlapping-sets-stay", test_overlapping_sets_stay);
    g_test_add_func("/restore-policy/wandering-sets-are-dropped", test_wandering_sets_are_dropped);
    g_test_add_func("/restore-policy/read-pages-are-spared", test_read_pages_are_spared);
    g_test_add_func("/restore-policy/change-is-noticed", test_change_is_noticed);
    g_test_add_func("/restore-policy/mixed-sets-are-parted", test_mixed_sets_are_parted);
    g_test_add_func("/restore-policy/no-memory", test_no_memory);
    return g_test_run();
}
