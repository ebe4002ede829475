/* SPDX-License-Identifier: MIT */
/* Fuzzing the interface: the bytes choose what the model (model.c) does, with which backend and
 * source of dirty pages, and where the system fails. HACKING says how it is run. Without a
 * fuzzer: a program that runs the files that it is given, such as tests/random/seeds.
 *
 * Whatever the bytes are, all contents are what the arrays say, and in the end nothing is left
 * behind. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>

#include "support/fault.h"
#include "random/fuzz.h"
#include "random/model.h"

static const uint8_t *next;
static size_t left;

/* As many bytes as the limit needs; zeros when there are none left. */
static size_t choose(size_t limit)
{
    size_t n = 0;
    for (size_t most = limit - 1; most > 0; most >>= 8) {
        n = n << 8 | (left > 0 ? *next++ : 0);
        left -= left > 0;
    }
    return n % limit;
}

static void run(void)
{
    const size_t sizes[] =
        {0, 1, page - 1, page, 3 * page + 5, 16 * page, 17 * page + 1, 40 * page - 3};
    const struct model_plan plan = {.choose = choose,
                                    .sizes = sizes,
                                    .n_sizes = G_N_ELEMENTS(sizes),
                                    .faults = true};
    model_start(&plan);
    while (left > 0)
        model_step();
    model_check();
    model_end();
}

/* GLib's own way to die is a signal that fuzzers do not know. */
static void die(const char *domain, GLogLevelFlags level, const char *message, void *data)
{
    (void)domain;
    (void)data;
    fprintf(stderr, "fuzz-api: %s\n", message);
    if (level & G_LOG_FLAG_FATAL)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct config configs[12];
    static size_t n;
    if (n == 0) {
        g_log_set_default_handler(die, NULL);
        page = memsnap_page_size();
        n = config_list(configs, G_N_ELEMENTS(configs));
    }
    next = data;
    left = size;
    config_run(&configs[choose(n)], run);
    return 0;
}
