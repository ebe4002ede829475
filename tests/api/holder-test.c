/* SPDX-License-Identifier: MIT */
/* What a holder does to a view by system calls: what is taken, dirty and restored afterwards
 * agrees with the bytes that the view shows, no call dies of a signal, and the next holder of a
 * view finds one like any new one. Each row of the table in memsnap(7) is a row here. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/support.h"

/* Newer than the oldest headers. */
enum {
    COLD = 20,
    PAGEOUT = 21,
    POPULATE_READ = 22,
    POPULATE_WRITE = 23,
    DONTNEED_LOCKED = 24,
    COLLAPSE = 25,
    GUARD_INSTALL = 102,
    GUARD_REMOVE = 103
};

enum { PAGES = 64, ODD = 100 };

/* ---- the rows -------------------------------------------------------------------------------- */

struct row {
    const char *name;
    /* does it to a range; false: the system refuses */
    bool (*act)(void *at, size_t len, int advice);
    int advice;
    /* what it leaves cannot be looked at */
    bool guards;
    /* forbidden, or not to be undone: tried in a child of its own, and nothing but closing */
    bool only_close;
};

static bool advise(void *at, size_t len, int advice)
{
    return madvise(at, len, advice) == 0;
}

static bool lock(void *at, size_t len, int unlock)
{
    return mlock(at, len) == 0 && (!unlock || munlock(at, len) == 0);
}

static bool protect(void *at, size_t len, int prot)
{
    return mprotect(at, len, prot) == 0;
}

static bool protect_and_back(void *at, size_t len, int prot)
{
    return protect(at, len, prot) && protect(at, len, PROT_READ | PROT_WRITE);
}

static bool give_key(void *at, size_t len, int unused)
{
    (void)unused;
#ifdef SYS_pkey_mprotect
    int key = (int)syscall(SYS_pkey_alloc, 0, 0);
    return key >= 0 && syscall(SYS_pkey_mprotect, at, len, PROT_READ | PROT_WRITE, key) == 0;
#else
    (void)at;
    (void)len;
    return false;
#endif
}

static bool bind(void *at, size_t len, int unused)
{
    unsigned long node = 1;
    (void)unused;
    return syscall(SYS_mbind, at, len, 2 /* MPOL_BIND */, &node, 8 * sizeof node, 0) == 0;
}

static bool guard_and_advise(void *at, size_t len, int advice)
{
    return advise(at, len, GUARD_INSTALL) && advise(at, len, advice);
}

static bool seal(void *at, size_t len, int unused)
{
    (void)unused;
#ifdef SYS_mseal
    return syscall(SYS_mseal, at, len, 0UL) == 0;
#else
    return syscall(462, at, len, 0UL) == 0;
#endif
}

static bool map_over(void *at, size_t len, int prot)
{
    return mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at;
}

static bool unmap(void *at, size_t len, int unused)
{
    (void)unused;
    return munmap(at, len) == 0;
}

static bool move(void *at, size_t len, int keep)
{
    return mremap(at, len, len, MREMAP_MAYMOVE | (keep ? 4 /* MREMAP_DONTUNMAP */ : 0), NULL) !=
           MAP_FAILED;
}

static const struct row rows[] = {
    {"MADV_DONTNEED", advise, MADV_DONTNEED, false, false},
    {"MADV_DONTNEED_LOCKED", advise, DONTNEED_LOCKED, false, false},
    {"MADV_FREE", advise, MADV_FREE, false, false},
    {"MADV_REMOVE", advise, MADV_REMOVE, false, false},
    {"MADV_DONTFORK", advise, MADV_DONTFORK, false, false},
    {"MADV_WIPEONFORK", advise, MADV_WIPEONFORK, false, false},
    {"MADV_DONTDUMP", advise, MADV_DONTDUMP, false, false},
    {"MADV_MERGEABLE", advise, MADV_MERGEABLE, false, false},
    {"MADV_HUGEPAGE", advise, MADV_HUGEPAGE, false, false},
    {"MADV_NOHUGEPAGE", advise, MADV_NOHUGEPAGE, false, false},
    {"MADV_RANDOM", advise, MADV_RANDOM, false, false},
    {"MADV_SEQUENTIAL", advise, MADV_SEQUENTIAL, false, false},
    {"MADV_WILLNEED", advise, MADV_WILLNEED, false, false},
    {"MADV_COLD", advise, COLD, false, false},
    {"MADV_PAGEOUT", advise, PAGEOUT, false, false},
    {"MADV_POPULATE_READ", advise, POPULATE_READ, false, false},
    {"MADV_POPULATE_WRITE", advise, POPULATE_WRITE, false, false},
    {"MADV_COLLAPSE", advise, COLLAPSE, false, false},
    {"MADV_GUARD_INSTALL", advise, GUARD_INSTALL, true, false},
    {"guards, and MADV_DONTNEED", guard_and_advise, MADV_DONTNEED, true, false},
    {"guards put and removed", guard_and_advise, GUARD_REMOVE, false, false},
    {"mlock", lock, 0, false, false},
    {"mlock, munlock", lock, 1, false, false},
    {"mbind", bind, 0, false, false},
    {"pkey_mprotect", give_key, 0, false, false},
    {"mprotect, and back", protect_and_back, PROT_NONE, false, false},
    {"mprotect, executable too", protect, PROT_READ | PROT_WRITE | PROT_EXEC, false, false},
    {"mprotect, nothing", protect, PROT_NONE, false, true},
    {"mprotect, reading", protect, PROT_READ, false, true},
    {"mseal", seal, 0, false, true},
    {"mmap over it", map_over, PROT_READ | PROT_WRITE, false, true},
    {"mmap over it, inaccessible", map_over, PROT_NONE, false, true},
    {"munmap", unmap, 0, false, true},
    {"mremap", move, 0, false, true},
    {"mremap, MREMAP_DONTUNMAP", move, 1, false, true},
};

static const struct {
    size_t first, pages;
} parts[] = {{0, PAGES + 1}, {5, 3}, {0, 1}, {PAGES, 1}};

static bool do_row(const struct row *r, memsnap_view *v, size_t part)
{
    return r->act(bytes(v) + parts[part].first * page, parts[part].pages * page, r->advice);
}

/* What stands for no Linux system does not know of guards. */
static bool is_out(const struct row *r)
{
    return config_is("posix") && r->guards;
}

/* ---- the snapshots --------------------------------------------------------------------------- */

static size_t size;

/* In one piece; with pages that are copied in, near each other and not; of zeros. */
static memsnap_snapshot *make_plain(void)
{
    return snap_pattern(size, 1);
}

static memsnap_snapshot *make_zero(void)
{
    return snap_zero(size);
}

static memsnap_snapshot *make_child_of(memsnap_snapshot *s)
{
    static const size_t changed[] = {0, 6, 7, 30, PAGES};
    memsnap_view *v = view(s);
    for (size_t i = 0; i < G_N_ELEMENTS(changed); i++)
        memset(bytes(v) + changed[i] * page, 'c', 50);
    memsnap_snapshot *t = take(v);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    return t;
}

static memsnap_snapshot *make_child(void)
{
    return make_child_of(make_plain());
}

static memsnap_snapshot *make_child_of_zero(void)
{
    return make_child_of(make_zero());
}

static memsnap_snapshot *(*const makers[])(void) = {make_plain, make_zero, make_child,
                                                    make_child_of_zero};
static const unsigned kinds[] = {0, MEMSNAP_VIEW_COPY, MEMSNAP_VIEW_NODUMP, MEMSNAP_VIEW_PREFAULT};

static memsnap_view *open_kind(memsnap_snapshot *s, unsigned flags)
{
    memsnap_view *v = NULL;
    assert_ok(memsnap_snapshot_view(s, flags, &v));
    return v;
}

static void read_all(memsnap_snapshot *s, unsigned char *to)
{
    assert_ok(memsnap_snapshot_read(s, 0, to, size));
}

/* ---- while the view is open ------------------------------------------------------------------ */

static void check_dirty(memsnap_view *v, const void *shown, const void *base)
{
    struct memsnap_range r[PAGES + 1];
    size_t cursor = 0, at = 0;
    int n = memsnap_view_dirty(v, &cursor, r, PAGES + 1);
    g_assert_cmpint(n, >=, 0);
    check_ranges(r, n, shown, base, size, &at);
}

static void store_some(memsnap_view *v, unsigned char with)
{
    static const size_t stored[] = {1, 6, 31, 50, PAGES};
    for (size_t i = 0; i < G_N_ELEMENTS(stored); i++)
        bytes(v)[stored[i] * page + 10] ^= with;
}

/* What is under the guards is seen when they are gone. */
static void look(const struct row *r, memsnap_view *v, size_t part, unsigned char *shown)
{
    if (r->guards)
        assert_ok(
            madvise(bytes(v) + parts[part].first * page, parts[part].pages * page, GUARD_REMOVE));
    memcpy(shown, bytes(v), size);
}

static void check_usable(memsnap_view *v, const void *expected)
{
    assert_same(bytes(v), expected, size);
    for (size_t at = 0; at < size; at += page)
        bytes(v)[at] ^= 1;
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), expected, size);
}

static void check_open(const struct row *r, memsnap_snapshot *s, unsigned flags, size_t part)
{
    unsigned char *base = g_malloc(size), *shown = g_malloc(size), *other = pattern(size, 9);
    memsnap_snapshot *o = snap(other, size);
    memsnap_view *v = open_kind(s, flags);
    read_all(s, base);
    store_some(v, 1);
    memsnap_snapshot *first = take(v);
    store_some(v, 2);
    if (!do_row(r, v, part)) {
        g_test_message("%s is refused", r->name);
    } else {
        memsnap_snapshot *second = take(v);
        unsigned char *taken = g_malloc(size);
        read_all(second, taken);
        check_dirty(v, taken, base);
        look(r, v, part, shown);
        assert_same(taken, shown, size);
        g_free(taken);
        memsnap_snapshot_unref(second);

        do_row(r, v, part);
        assert_ok(memsnap_view_restore(v));
        check_usable(v, base);
        store_some(v, 1);
        do_row(r, v, part);
        assert_ok(memsnap_view_restore_to(v, o));
        check_usable(v, other);
        do_row(r, v, part);
        assert_ok(memsnap_view_restore_to(v, first));
        read_all(first, shown);
        check_usable(v, shown);
    }
    memsnap_snapshot_unref(first);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(o);
    g_free(base);
    g_free(shown);
    g_free(other);
}

static void each(void (*body)(const struct row *, memsnap_snapshot *, unsigned, size_t),
                 bool only_close)
{
    size = PAGES * page + ODD;
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        if (rows[i].only_close != only_close || is_out(&rows[i]))
            continue;
        for (size_t m = 0; m < G_N_ELEMENTS(makers); m++) {
            memsnap_snapshot *s = makers[m]();
            for (size_t p = 0; p < G_N_ELEMENTS(parts); p++) {
                body(&rows[i], s, kinds[0], p);
                body(&rows[i], s, kinds[1 + (i + m + p) % 3], p);
            }
            memsnap_snapshot_unref(s);
        }
    }
}

static void test_open(void)
{
    each(check_open, false);
}

/* ---- the next holder ------------------------------------------------------------------------- */

static void add_flags(GString *to, const char *line)
{
    char **flags = g_strsplit(line, " ", 0);
    for (char **f = flags; *f; f++)
        if (strcmp(*f, "sd") != 0 && strcmp(*f, "gu") != 0)
            g_string_append_printf(to, "%s ", *f);
    g_strfreev(flags);
}

/* The flags of all mappings of the view, as the kernel lists them, but for those that say what may
 * have been there: soft-dirty pages and guards. */
static char *mapping_flags(memsnap_view *v)
{
    uintptr_t start = (uintptr_t)bytes(v), end = start + round_up(size);
    GString *flags = g_string_new(NULL);
    char line[4096];
    unsigned long from = 0, to = 0, a, b;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
            from = a;
            to = b;
        } else if (g_str_has_prefix(line, "VmFlags:") && from < end && to > start) {
            add_flags(flags, line);
        }
    }
    if (f)
        fclose(f);
    return g_string_free(flags, FALSE);
}

struct seen {
    memsnap_view *v;
    const void *expected;
};

static void look_in_child(void *arg)
{
    const struct seen *seen = arg;
    if (memcmp(bytes(seen->v), seen->expected, size) != 0)
        child_exit(1);
}

/* Another holder of the same snapshot: once the pages that could be taken away are gone. */
static void check_next(memsnap_snapshot *s, unsigned flags, const char *flags_of_new,
                       bool in_child_too)
{
    unsigned char *expected = g_malloc(size);
    memsnap_view *v = open_kind(s, flags);
    read_all(s, expected);
    madvise(bytes(v), round_up(size), PAGEOUT);
    assert_same(bytes(v), expected, size);
    check_dirty(v, expected, expected);
    if (flags_of_new) {
        char *now = mapping_flags(v);
        g_assert_cmpstr(now, ==, flags_of_new);
        g_free(now);
    }
    struct seen seen = {v, expected};
    if (in_child_too)
        child_run(look_in_child, &seen);
    check_usable(v, expected);
    memsnap_view_unref(v);
    g_free(expected);
}

static char *flags_of_new(memsnap_snapshot *s, unsigned flags)
{
    assert_ok(memsnap_snapshot_set_recycling(s, 0));
    memsnap_view *v = open_kind(s, flags);
    char *text = mapping_flags(v);
    memsnap_view_unref(v);
    assert_ok(memsnap_snapshot_set_recycling(s, 8));
    return text;
}

static void check_close(const struct row *r, memsnap_snapshot *s, unsigned flags, size_t part)
{
    char *expected = part < 2 ? flags_of_new(s, flags) : NULL; /* takes its time */
    for (int dirty = 0; dirty < 2; dirty++) {
        memsnap_view *v = open_kind(s, flags);
        if (dirty)
            store_some(v, 1);
        bool done = do_row(r, v, part);
        memsnap_view_unref(v);
        if (done)
            check_next(s, flags, expected, dirty && part == 0);
    }
    g_free(expected);
}

static void test_next_holder(void)
{
    each(check_close, false);
}

static void close_forbidden(void *unused)
{
    (void)unused;
    each(check_close, true);
}

static void test_next_holder_of_forbidden(void)
{
    child_run(close_forbidden, NULL);
}

/* ---- mutable views --------------------------------------------------------------------------- */

static void check_mutable(const struct row *r, memsnap_snapshot *s, unsigned flags, size_t part)
{
    unsigned char *shown = g_malloc(size), *held = g_malloc(size), *other = pattern(size, 9);
    memsnap_snapshot *o = snap(other, size), *t;
    for (int frozen = 0; frozen < 3; frozen++) {
        memsnap_snapshot *c = snap_clone(s);
        memsnap_view *v = NULL;
        assert_ok(memsnap_snapshot_view_mut(c, flags & ~MEMSNAP_VIEW_COPY, &v));
        store_some(v, 1);
        for (int i = 0; i < frozen; i++) {
            memsnap_snapshot_unref(take(v));
            store_some(v, (unsigned char)(2 + i));
        }
        if (do_row(r, v, part)) {
            t = take(v);
            read_all(t, held);
            look(r, v, part, shown);
            assert_same(held, shown, size);
            memsnap_snapshot_unref(t);
            do_row(r, v, part);
            read_all(c, held);
            look(r, v, part, shown);
            assert_same(held, shown, size);
            do_row(r, v, part);
            assert_ok(memsnap_view_restore_to(v, o));
            assert_same(bytes(v), other, size);
            do_row(r, v, part);
        }
        read_all(c, shown);
        memsnap_view_unref(v);
        read_all(c, held);
        assert_same(held, shown, size);
        memsnap_snapshot_unref(c);
    }
    memsnap_snapshot_unref(o);
    g_free(shown);
    g_free(held);
    g_free(other);
}

static void test_mutable(void)
{
    each(check_mutable, false);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("open", test_open, TEST_SOURCES);
    test_add("mutable", test_mutable, TEST_SOURCES);
    test_add("next-holder", test_next_holder, TEST_SOURCES);
    test_add("next-holder-of-forbidden", test_next_holder_of_forbidden, 0);
    return g_test_run();
}
