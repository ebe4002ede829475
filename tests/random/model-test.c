/* SPDX-License-Identifier: MIT */
/* Random operations on several snapshots and views, compared with plain arrays:
 * tests/random/model.c, asked by a generator of random numbers.
 *
 *     model-test [--rounds N] [--seed R02S...] [-p /linux/scan/model]
 *
 * The seed that a run was started with is printed by GLib ("random seed"); the same seed and
 * number of rounds do the same. */
#include "config.h"

#include <stdlib.h>

#include "random/model.h"
#include "random/shortage.h"

static struct rng rng;
static unsigned long rounds = 1500;

static size_t choose(size_t limit)
{
    return rng_below(&rng, limit);
}

static void run_model(bool faults, bool shortages)
{
    const size_t sizes[] = {0,          1 + page / 3, 3 * page, 16 * page + 11,
                            300 * page, 2 * MIB + 5,  4 * MIB};
    const struct model_plan plan = {
        .choose = choose,
        .sizes = sizes,
        .n_sizes = G_N_ELEMENTS(sizes),
        .forks = !on_valgrind(),
        .faults = faults,
        .shortages = shortages,
    };
    rng.state = (uint64_t)(guint32)g_test_rand_int() << 32 | (guint32)g_test_rand_int();
    g_test_message("%lu rounds from state %016jx", rounds, (uintmax_t)rng.state);
    model_start(&plan);
    /* using something up takes its time */
    for (unsigned long i = 1; i <= (shortages ? rounds / 2 : rounds); i++) {
        model_step();
        if (i % 64 == 0)
            model_check();
    }
    model_check();
    struct model_counts n = model_counts();
    g_test_message("%lu calls: %lu stopped, %lu given up, %lu torn; %lu shortages, %lu forks, "
                   "protections of %lu views",
                   n.calls, n.stopped, n.given_up, n.torn, n.shortages, n.forks, n.protections);
    model_end();
}

static void test_model(void)
{
    run_model(false, false);
}

static void test_faults(void)
{
    run_model(true, false);
}

static void test_shortages(void)
{
    if (on_valgrind() || on_sanitizer())
        test_skip("a checker needs address space of its own");
    else
        run_model(true, true);
}

/* In a child, whose /dev/shm is small and can be full. */
static void full_shm(void *arg)
{
    (void)arg;
    if (shortage_own_shm())
        run_model(false, true);
    else
        test_skip("no file system can be mounted here");
}

static void test_full_shm(void)
{
    if (on_valgrind() || on_sanitizer())
        test_skip("a checker needs address space of its own");
    else if (!config_is("posix"))
        test_skip("nothing is kept in /dev/shm");
    else
        child_run(full_shm, NULL);
}

int main(int argc, char **argv)
{
    if (on_valgrind())
        rounds = 100;
    rounds = test_number(&argc, argv, "--rounds", rounds);
    test_init(&argc, &argv);
    test_add("model", test_model, TEST_SOURCES);
    test_add("faults", test_faults, 0);
    test_add("shortages", test_shortages, 0);
    test_add("full-shm", test_full_shm, 0);
    return g_test_run();
}
