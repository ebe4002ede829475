/* SPDX-License-Identifier: MIT */
/* Forks of a process that has snapshots and views: each side goes on with its own, and neither sees
 * what the other stores or drops. Most tests run in a child, which may end in any state. */
#include "config.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "storage/pool.h"
#include "support/support.h"

/* ---- both sides go on ------------------------------------------------------------------------ */

struct family {
    size_t size;
    unsigned char *data, *view_data, *m_data;
    memsnap_snapshot *s, *t, *m, *tiny;
    memsnap_view *v, *writer;
};

static void family_check(const struct family *f)
{
    assert_content(f->s, f->data, f->size);
    assert_content(f->t, f->view_data, f->size);
    assert_content(f->m, f->m_data, f->size);
    assert_content(f->tiny, f->data, 100);
    assert_same(bytes(f->v), f->view_data, f->size);
}

/* Takes, restores, frees, makes new ones: with `seed` deciding what is stored, so that the two
 * sides differ. */
static void family_work(struct family *f, uint64_t seed)
{
    struct rng rng = {seed};
    for (int i = 0; i < 6; i++) {
        memsnap_view *v = view(i & 1 ? f->s : f->m);
        unsigned char *model = g_memdup2(i & 1 ? f->data : f->m_data, f->size);
        assert_same(bytes(v), model, f->size);
        for (int k = 0; k < 9; k++) {
            size_t at = rng_below(&rng, f->size);
            model[at] = bytes(v)[at] = (unsigned char)rng_next(&rng);
        }
        memsnap_snapshot *t = take(v);
        assert_ok(memsnap_view_restore(v));
        memsnap_view_unref(v);
        memsnap_view *m = view_mut(f->m);
        for (int k = 0; k < 9; k++) {
            size_t at = rng_below(&rng, f->size);
            f->m_data[at] = bytes(m)[at] = (unsigned char)rng_next(&rng);
        }
        memsnap_view_unref(m);
        assert_content(t, model, f->size);
        memsnap_snapshot_unref(f->t);
        f->t = t;
        memcpy(f->view_data, model, f->size);
        assert_ok(memsnap_view_restore_to(f->v, t));
        g_free(model);
        memsnap_snapshot *fresh = snap_pattern(30 * page, rng_next(&rng));
        memsnap_snapshot_unref(fresh);
        family_check(f);
    }
}

static void family_free(struct family *f)
{
    memsnap_view_unref(f->v);
    memsnap_snapshot_unref(f->s);
    memsnap_snapshot_unref(f->t);
    memsnap_snapshot_unref(f->m);
    memsnap_snapshot_unref(f->tiny);
    g_free(f->data);
    g_free(f->view_data);
    g_free(f->m_data);
}

static struct family family_new(size_t size)
{
    struct family f = {.size = size,
                       .data = pattern(size, 1),
                       .view_data = pattern(size, 1),
                       .m_data = pattern(size, 2)};
    f.s = snap(f.data, size);
    f.m = snap(f.m_data, size);
    f.tiny = snap(f.data, 100);
    f.v = view(f.s);
    memset(bytes(f.v) + page, 1, 5 * page);
    memset(f.view_data + page, 1, 5 * page);
    f.t = take(f.v);
    memsnap_view *m = view_mut(f.m);
    memset(bytes(m) + page, 2, page);
    memset(f.m_data + page, 2, page);
    memsnap_view_unref(m);
    memsnap_view_unref(view(f.s)); /* parked */
    return f;
}

static void wait_for(pid_t pid)
{
    int status = -1;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

/* Both sides work at once. In even rounds the child frees all it has and exits while the parent
 * goes on; in odd rounds the parent frees all first, and the child, told so through a pipe, must
 * still find every byte. */
static void fork_rounds(void *arg)
{
    size_t size = *(const size_t *)arg;
    struct family f = family_new(size);
    for (unsigned round = 0; round < 20; round++) {
        int told[2];
        char byte = 0;
        g_assert_cmpint(pipe2(told, O_CLOEXEC), ==, 0);
        pid_t pid = fork();
        g_assert_cmpint(pid, >=, 0);
        if (pid == 0) {
            close(told[1]);
            family_check(&f);
            if (round & 1)
                /* the end of the pipe: all is freed over there */
                g_assert_cmpint(read(told[0], &byte, 1), ==, 0);
            family_work(&f, 1000 + round);
            family_free(&f);
            child_exit(0);
        }
        close(told[0]);
        if (round & 1) {
            family_free(&f);
            f = family_new(size);
            close(told[1]);
            family_work(&f, round);
            wait_for(pid);
        } else {
            family_work(&f, round);
            close(told[1]);
            wait_for(pid);
        }
        family_check(&f);
    }
    family_free(&f);
}

static void test_fork_rounds(void)
{
    const size_t sizes[] = {30 * page, 100 * page + 7, 2 * MIB + page};
    if (on_valgrind()) {
        test_skip("takes too long under valgrind");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++)
        child_run(fork_rounds, (void *)(uintptr_t)&sizes[i]);
}

static void grandchildren(void *arg)
{
    struct family f = family_new(50 * page);
    const int *depth = arg;
    int deeper = *depth - 1;
    if (deeper > 0)
        child_run(grandchildren, &deeper);
    family_work(&f, (uint64_t)deeper);
    family_free(&f);
}

static void test_grandchildren(void)
{
    int depth = 4;
    child_run(grandchildren, &depth);
}

/* ---- mutable views --------------------------------------------------------------------------- */

/* What a child has of an open mutable view: nothing, and it is told so. */
static void without_writer(void *arg)
{
    struct family *f = arg;
    memsnap_view *m = f->writer, *v = UNTOUCHED;
    memsnap_snapshot *out = UNTOUCHED;
    unsigned char buf[1];
    size_t cursor = 0;
    struct memsnap_range r;
    assert_refused(memsnap_view_take_snapshot(m, 0, &out), -EBADF, out);
    assert_refused(memsnap_view_take_snapshot(m, MEMSNAP_TAKE_ATOMIC, &out), -EBADF, out);
    assert_refused(memsnap_snapshot_view(f->m, 0, &v), -EBADF, v);
    assert_refused(memsnap_snapshot_view_mut(f->m, 0, &v), -EBADF, v);
    assert_refused(memsnap_snapshot_clone(f->m, &out), -EBADF, out);
    g_assert_cmpint(memsnap_snapshot_read(f->m, 0, buf, 1), ==, -EBADF);
    g_assert_cmpint(memsnap_snapshot_diff(f->m, f->s, &cursor, &r, 1), ==, -EBADF);
    g_assert_cmpint(memsnap_snapshot_diff(f->s, f->m, &cursor, &r, 1), ==, -EBADF);
    g_assert_cmpint(memsnap_view_restore(m), ==, -EBADF);
    g_assert_cmpint(memsnap_view_restore_to(m, f->s), ==, -EBADF);
    g_assert_cmpint(memsnap_view_protect(m, 0, page, MEMSNAP_ACCESS_NONE), ==, -EBADF);
    g_assert_cmpint(memsnap_view_restore_to(f->v, f->m), ==, -EBADF);
    struct memsnap_view_stats stats = {.size = sizeof stats};
    g_assert_cmpint(memsnap_view_stats(m, &stats), ==, -EBADF);
    assert_content(f->s, f->data, f->size);
    assert_same(bytes(f->v), f->view_data, f->size);
    memsnap_view_unref(m);
    family_free(f);
}

static void without_file_writer(void *arg)
{
    memsnap_snapshot *out = UNTOUCHED;
    assert_refused(memsnap_view_take_snapshot(arg, 0, &out), -EBADF, out);
    g_assert_cmpint(memsnap_view_restore(arg), ==, -EBADF);
}

/* The file is the child's as well, the lease is not. */
static void fork_with_file_writer(void *arg)
{
    memsnap_snapshot *s = NULL;
    char *path = temp_file("written", "abc", 3);
    (void)arg;
    assert_ok(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_SHARED, &s));
    memsnap_view *m = view_mut(s);
    child_run(without_file_writer, m);
    bytes(m)[0] = 'x';
    assert_content(s, "xbc", 3);
    memsnap_view_unref(m);
    memsnap_snapshot_unref(s);
    g_free(path);
}

static void fork_with_writer(void *arg)
{
    (void)arg;
    struct family f = family_new(100 * page);
    for (int frozen = 0; frozen < 2; frozen++) {
        memsnap_view *m = view_mut(f.m);
        f.writer = m;
        memset(bytes(m), 3, 10 * page);
        memset(f.m_data, 3, 10 * page);
        if (frozen)
            memsnap_snapshot_unref(snap_clone(f.m));
        memset(bytes(m) + 20 * page, 4 + frozen, page);
        memset(f.m_data + 20 * page, 4 + frozen, page);
        child_run(without_writer, &f);
        assert_same(bytes(m), f.m_data, f.size);
        memset(bytes(m) + 30 * page, 5 + frozen, page);
        memset(f.m_data + 30 * page, 5 + frozen, page);
        family_check(&f);
        memsnap_view_unref(m);
        family_check(&f);
    }
    family_free(&f);
}

static void test_fork_with_writer(void)
{
    child_run(fork_with_writer, NULL);
    child_run(fork_with_file_writer, NULL);
}

/* ---- stores of a family ---------------------------------------------------------------------- */

/* A family whose members are of as many forks as it has stores for: then new members share a
 * store, but not with a child's. */
static void take_some(memsnap_snapshot *root, uint64_t seed, memsnap_snapshot *taken[8])
{
    for (uint64_t i = 0; i < 8; i++) {
        memsnap_view *v = view(root);
        fill(bytes(v), 32 * page, seed + i);
        taken[i] = take(v);
        memsnap_view_unref(v);
    }
}

static void check_taken(memsnap_snapshot *taken[8], uint64_t seed)
{
    unsigned char *expected = g_malloc(32 * page);
    for (uint64_t i = 0; i < 8; i++) {
        fill(expected, 32 * page, seed + i);
        assert_content(taken[i], expected, 32 * page);
        memsnap_snapshot_unref(taken[i]);
    }
    g_free(expected);
}

static void exit_at_once(void *arg)
{
    (void)arg;
}

static void many_stores(void *arg)
{
    (void)arg;
    enum { FORKS = MS_MAX_STORES + 4 };
    memsnap_snapshot *root = snap_zero(32 * page), *kept[FORKS][8], *own[8];
    int told[2];
    for (uint64_t i = 0; i < FORKS; i++) {
        take_some(root, 10 * i, kept[i]);
        child_run(exit_at_once, NULL);
    }
    g_assert_cmpint(pipe(told), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        g_assert_cmpint(read(told[0], &byte, 1), ==, 1);
        take_some(root, 1000, own);
        check_taken(own, 1000);
        child_exit(0);
    }
    take_some(root, 2000, own);
    g_assert_cmpint(write(told[1], "", 1), ==, 1);
    wait_for(pid);
    check_taken(own, 2000);
    for (uint64_t i = 0; i < FORKS; i++)
        check_taken(kept[i], 10 * i);
    memsnap_snapshot_unref(root);
    close(told[0]);
    close(told[1]);
}

static void test_many_stores(void)
{
    child_run(many_stores, NULL);
}

/* A family that lives for ever, of whose members each lives from one fork to the next but one:
 * what is dropped is given back. */
static void test_fork_and_drop(void)
{
    enum { ROUNDS = 40, SETTLED = 15, CHANGED = 32 };
    memsnap_snapshot *root = snap_pattern(100 * page, 1), *last = NULL;
    memsnap_view *v = view(root);
    size_t held = 0, open = 0;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        fill(bytes(v) + i % 3 * CHANGED * page, CHANGED * page, i);
        memsnap_snapshot *t = take(v);
        child_run(exit_at_once, NULL);
        assert_content(t, bytes(v), 100 * page);
        memsnap_snapshot_unref(last);
        last = t;
        if (i == SETTLED) {
            held = object_bytes();
            open = descriptors();
        }
    }
    g_assert_cmpuint(object_bytes(), <=, held + 4 * CHANGED * page);
    g_assert_cmpuint(descriptors(), <=, open + 1);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(last);
    memsnap_snapshot_unref(root);
}

/* A family that keeps a snapshot from before each fork does not take a descriptor for each. */
static void test_fork_and_keep(void)
{
    memsnap_snapshot *root = snap_pattern(100 * page, 1), *kept[30];
    memsnap_view *v = view(root);
    size_t open = descriptors();
    for (size_t i = 0; i < G_N_ELEMENTS(kept); i++) {
        fill(bytes(v) + i * page, page, i);
        kept[i] = take(v);
        child_run(exit_at_once, NULL);
    }
    g_assert_cmpuint(descriptors(), <=, open + MS_MAX_STORES);
    for (size_t i = 0; i < G_N_ELEMENTS(kept); i++)
        memsnap_snapshot_unref(kept[i]);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(root);
}

/* ---- one side drops or stores ---------------------------------------------------------------- */

/* Pages enough for their space to be given back to the system, not kept for use again. */
struct inherited {
    memsnap_snapshot *t;
    unsigned char *data;
    size_t size;
    int told[2]; /* a pipe: the parent has dropped it */
};

static void wait_byte(int fd)
{
    char byte;
    g_assert_cmpint(read(fd, &byte, 1), ==, 1);
}

static void check_bytes(const struct inherited *i)
{
    unsigned char *now = g_malloc(i->size);
    assert_ok(memsnap_snapshot_read(i->t, 0, now, i->size));
    assert_same(now, i->data, i->size);
    g_free(now);
}

static void outlive_parent(void *arg)
{
    wait_byte(((struct inherited *)arg)->told[0]);
    check_bytes(arg);
}

static void drop_before_parent(void *arg)
{
    memsnap_snapshot_unref(((struct inherited *)arg)->t);
}

/* What either side drops after a fork the other still has. */
static void drop_in_one(void *arg)
{
    struct inherited i = {.size = 6000 * page};
    (void)arg;
    i.data = g_malloc(i.size);
    fill(i.data, i.size, 1);
    memsnap_snapshot *zero = snap_zero(i.size);
    memsnap_view *v = view(zero);
    memcpy(bytes(v), i.data, i.size);
    i.t = take(v);
    memsnap_view_unref(v);
    child_run(drop_before_parent, &i);
    check_bytes(&i);
    g_assert_cmpint(pipe(i.told), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        outlive_parent(&i);
        child_exit(0);
    }
    memsnap_snapshot_unref(i.t);
    g_assert_cmpint(write(i.told[1], "", 1), ==, 1);
    wait_for(pid);
    close(i.told[0]);
    close(i.told[1]);
    memsnap_snapshot_unref(zero);
    g_free(i.data);
}

static void test_drop_in_one(void)
{
    if (on_valgrind()) {
        test_skip("takes too long under valgrind");
        return;
    }
    child_run(drop_in_one, NULL);
}

/* What one side stores through a mutable view after a fork the other does not see, whoever had
 * the pages to himself before. */
static void store_in_one(void *arg)
{
    struct inherited i = {.size = 100 * page};
    (void)arg;
    i.data = g_malloc(i.size);
    for (int opened_before = 0; opened_before < 2; opened_before++) {
        fill(i.data, i.size, 1);
        i.t = snap(i.data, i.size);
        if (opened_before)
            memsnap_view_unref(view_mut(i.t));
        g_assert_cmpint(pipe(i.told), ==, 0);
        pid_t pid = fork();
        if (pid == 0) {
            outlive_parent(&i);
            child_exit(0);
        }
        memsnap_view *m = view_mut(i.t);
        memset(bytes(m), 5, i.size);
        g_assert_cmpint(write(i.told[1], "", 1), ==, 1);
        wait_for(pid);
        memset(i.data, 5, i.size);
        memsnap_view_unref(m);
        check_bytes(&i);
        memsnap_snapshot_unref(i.t);
        close(i.told[0]);
        close(i.told[1]);
    }
    g_free(i.data);
}

static void test_store_in_one(void)
{
    child_run(store_in_one, NULL);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("fork-rounds", test_fork_rounds, 0);
    test_add("grandchildren", test_grandchildren, 0);
    test_add("fork-with-writer", test_fork_with_writer, 0);
    test_add("many-stores", test_many_stores, 0);
    test_add("fork-and-drop", test_fork_and_drop, 0);
    test_add("fork-and-keep", test_fork_and_keep, 0);
    test_add("drop-in-one", test_drop_in_one, 0);
    test_add("store-in-one", test_store_in_one, 0);
    return g_test_run();
}
