/* SPDX-License-Identifier: MIT */
/* The configurations that tests run in: every backend of the library, with every source of dirty
 * pages, over tables of operations that count what is held. installed.c has those of a library
 * that cannot be looked into. */
#include "config.h"

#include <sys/mman.h>

#include "support/fault.h"
#include "support/support.h"

struct test_case {
    struct config config;
    void (*body)(void);
    unsigned how;
};

struct holdings {
    struct fault_balance counted;
    size_t descriptors;
};

static const char *const source_names[] = {
    [OS_SOURCE_SCAN] = "scan",
    [OS_SOURCE_PAGEMAP] = "pagemap",
    [OS_SOURCE_COMPARE] = "compare",
    [OS_SOURCES] = "best",
};

bool source_works(const struct os *os, enum os_source source)
{
    if (source >= OS_SOURCE_COMPARE)
        return true;
    void *p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(p != MAP_FAILED);
    uintptr_t cursor = (uintptr_t)p;
    struct os_range range;
    int n = os->candidates(source, &cursor, cursor + page, &range, 1);
    munmap(p, page);
    g_assert_true(n == 0 || n == -ENOTSUP);
    return n == 0;
}

bool can_recycle(void)
{
    void *p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(p != MAP_FAILED);
    bool can = config.os->is_one_mapping(p, page);
    munmap(p, page);
    return can;
}

/* Uses what the library opens or learns once per process, so that it is not taken for a leak. */
static void warm_up(void)
{
    memsnap_snapshot *s = snap_pattern(2 * MIB, 1);
    memsnap_view *v = view(s);
    bytes(v)[0] ^= 1;
    memsnap_snapshot *t = take(v), *out;
    view_stats(v);
    snap_stats(s);
    memsnap_view_unref(view_mut_tracked(t));
    if (memsnap_view_take_snapshot(v, MEMSNAP_TAKE_ATOMIC, &out) == 0)
        memsnap_snapshot_unref(out);
    assert_ok(memsnap_view_restore(v));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(s);
}

static struct holdings holdings(void)
{
    return (struct holdings){.counted = fault_outstanding(), .descriptors = descriptors()};
}

static void check_holdings(const struct holdings *before)
{
    struct holdings now = holdings();
    g_assert_cmpint(now.counted.allocations, ==, before->counted.allocations);
    g_assert_cmpint(now.counted.mapped, ==, before->counted.mapped);
    g_assert_cmpint(now.counted.objects, ==, before->counted.objects);
    g_assert_cmpint(now.counted.write_blocks, ==, before->counted.write_blocks);
    g_assert_cmpuint(now.descriptors, ==, before->descriptors);
}

static void config_use(const struct config *c, const struct os *os)
{
    config = *c;
    ms_os = os;
    ms_force_source = c->force;
}

static void config_leave(void)
{
    temp_clean();
    ms_os = ms_os_default();
    ms_force_source = OS_SOURCES;
}

void config_run(struct config *c, void (*body)(void))
{
    config_use(c, fault_wrap(c->os));
    if (!c->warm)
        warm_up();
    c->warm = true;
    struct holdings before = holdings();
    body();
    if (!g_test_initialized() || !g_test_failed())
        check_holdings(&before);
    config_leave();
}

static void config_run_plain(const struct config *c, void (*body)(void))
{
    config_use(c, c->os);
    warm_up();
    body();
    config_leave();
}

static void run_case(gconstpointer data)
{
    const struct test_case *t = data;
    struct config c = t->config;
    if (!source_works(c.os, c.force))
        test_skip("this source of dirty pages does not work here");
    else if (t->how & TEST_PLAIN)
        config_run_plain(&c, t->body);
    else
        config_run(&c, t->body);
}

static void add_case(const char *name, void (*body)(void), unsigned how, struct config cfg)
{
    struct test_case *c = g_new0(struct test_case, 1);
    char *path = g_strdup_printf("/%s/%s/%s", cfg.backend, cfg.source, name);
    *c = (struct test_case){.config = cfg, .body = body, .how = how};
    g_test_add_data_func_full(path, c, run_case, g_free);
    g_free(path);
}

static struct config with_source(struct config c, int source)
{
    c.force = (enum os_source)source;
    c.source = source_names[source];
    return c;
}

static void add_backend(const char *name, void (*body)(void), unsigned how, const struct config *c)
{
    /* a checker learns nothing from the kernel's other answers */
    if (!(how & TEST_SOURCES) || c->flags & MEMSNAP_NO_FD || on_valgrind()) {
        add_case(name, body, how, with_source(*c, OS_SOURCES));
        return;
    }
    for (int source = 0; source < OS_SOURCES; source++)
        if (c->os == ms_os_default() || source_works(c->os, (enum os_source)source))
            add_case(name, body, how, with_source(*c, source));
}

enum { BACKENDS = 3 };

static size_t backends(struct config list[BACKENDS])
{
    size_t n = 0;
#ifdef __linux__
    list[n++] = (struct config){.backend = "linux", .os = &os_linux};
#endif
    list[n++] = (struct config){.backend = "posix", .os = &os_posix};
    list[n++] = (struct config){.backend = "heap", .os = ms_os_default(), .flags = MEMSNAP_NO_FD};
    return n;
}

void test_add(const char *name, void (*body)(void), unsigned how)
{
    struct config list[BACKENDS];
    size_t n = backends(list);
    for (size_t i = 0; i < n; i++)
        add_backend(name, body, how, &list[i]);
}

size_t config_list(struct config *list, size_t max)
{
    struct config all[BACKENDS];
    size_t n = 0, n_backends = backends(all);
    for (size_t i = 0; i < n_backends; i++)
        for (int source = 0; source <= OS_SOURCES && n < max; source++)
            if (source_works(all[i].os, (enum os_source)source))
                list[n++] = with_source(all[i], source);
    return n;
}

unsigned tracking(void)
{
    if (config.flags & MEMSNAP_NO_FD)
        return 0;
    return config.os->track(NULL, 0) == 0 ? MEMSNAP_VIEW_TRACK : 0;
}
