/* SPDX-License-Identifier: MIT */
/* The configurations of a library that is installed, and hides its inside: as it comes, and in heap
 * memory. What the process holds in descriptors is counted, and nothing else. In place of
 * backends.c. */
#include "config.h"

#include "support/support.h"
#include "support/valid.h"

struct test_case {
    struct config config;
    void (*body)(void);
    unsigned how;
};

static const struct config configs[] = {
    {.backend = "linux", .source = "best", .force = OS_SOURCES},
    {.backend = "heap", .source = "best", .force = OS_SOURCES, .flags = MEMSNAP_NO_FD},
};

/* Uses what the library opens once per process, so that it is not taken for a leak. */
static void warm_up(void)
{
    memsnap_snapshot *s = snap_pattern(2 * MIB, 1), *out;
    memsnap_view *v = view(s);
    bytes(v)[0] ^= 1;
    memsnap_view_unref(view_mut_tracked(s));
    if (memsnap_view_take_snapshot(v, MEMSNAP_TAKE_ATOMIC, &out) == 0)
        memsnap_snapshot_unref(out);
    assert_ok(memsnap_view_restore(v));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
}

bool can_recycle(void)
{
    struct memsnap_snapshot_stats stats = {.size = sizeof stats};
    memsnap_snapshot *s = snap_pattern(100 * page, 1);
    memsnap_view_unref(view(s));
    assert_ok(memsnap_snapshot_stats(s, &stats));
    memsnap_snapshot_unref(s);
    return stats.parked_views > 0;
}

void config_run(struct config *c, void (*body)(void))
{
    config = *c;
    warm_up();
    size_t before = descriptors();
    body();
    if (!g_test_initialized() || !g_test_failed())
        g_assert_cmpuint(descriptors(), ==, before);
    temp_clean();
}

static void config_run_plain(struct config *c, void (*body)(void))
{
    config = *c;
    warm_up();
    body();
    temp_clean();
}

static void run_case(gconstpointer data)
{
    const struct test_case *t = data;
    struct config c = t->config;
    if (t->how & TEST_PLAIN)
        config_run_plain(&c, t->body);
    else
        config_run(&c, t->body);
}

void test_add(const char *name, void (*body)(void), unsigned how)
{
    for (size_t i = 0; i < G_N_ELEMENTS(configs); i++) {
        struct test_case *t = g_new0(struct test_case, 1);
        *t = (struct test_case){.config = configs[i], .body = body, .how = how};
        char *path = g_strdup_printf("/%s/%s/%s", t->config.backend, t->config.source, name);
        g_test_add_data_func_full(path, t, run_case, g_free);
        g_free(path);
    }
}

size_t config_list(struct config *list, size_t max)
{
    size_t n = ms_min(max, G_N_ELEMENTS(configs));
    memcpy(list, configs, n * sizeof list[0]);
    return n;
}

unsigned tracking(void)
{
    if (config.flags & MEMSNAP_NO_FD)
        return 0;
    memsnap_snapshot *s = snap_zero(page);
    memsnap_view *v;
    bool can = memsnap_snapshot_view_mut(s, MEMSNAP_VIEW_TRACK, &v) == 0;
    if (can)
        memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    return can ? MEMSNAP_VIEW_TRACK : 0;
}

/* What these would look at is hidden. */
void assert_valid_snapshot(memsnap_snapshot *s)
{
    (void)s;
}

void assert_valid_view(memsnap_view *v)
{
    (void)v;
}
