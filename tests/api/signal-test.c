/* SPDX-License-Identifier: MIT */
/* Signals and cancellation: calls that are interrupted all the time, a view used in a handler,
 * threads cancelled inside the library. */
#include "config.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/support.h"

/* ---- a handler that stores into a view ------------------------------------------------------- */

static volatile sig_atomic_t ticks;
static volatile unsigned char *struck;

static void on_tick(int signal)
{
    (void)signal;
    ticks = ticks + 1;
    *struck = (unsigned char)ticks;
}

static void tick_every(long microseconds)
{
    struct itimerval t = {{0, microseconds}, {0, microseconds}};
    g_assert_cmpint(setitimer(ITIMER_REAL, &t, NULL), ==, 0);
}

/* No SA_RESTART: every call that can be interrupted is. */
static void test_interrupted(void)
{
    size_t size = MIB + 7;
    unsigned char *data = pattern(size, 1);
    memsnap_snapshot *s = snap(data, size), *other = snap(data, size);
    memsnap_view *v = view(s), *handlers = view(other);
    char *path = temp_path("image");
    struct sigaction action = {.sa_handler = on_tick}, before;
    struct rng rng = {1};
    if (on_valgrind()) {
        test_skip("timers run in real time, valgrind does not");
        goto out;
    }
    struck = bytes(handlers) + 5 * page;
    ticks = 0;
    sigaction(SIGALRM, &action, &before);
    tick_every(200);
    for (int i = 0; i < 60; i++) {
        for (int k = 0; k < 20; k++)
            bytes(v)[rng_below(&rng, size)] ^= 1;
        memsnap_snapshot *t = take(v), *loaded = NULL;
        assert_ok(memsnap_snapshot_save(t, path, i % 8 ? MEMSNAP_SAVE_NOSYNC : 0));
        assert_ok(memsnap_snapshot_new_from_file(path, config.flags, &loaded));
        assert_content(loaded, bytes(v), size);
        assert_ok(memsnap_view_restore(v));
        assert_same(bytes(v), data, size);
        memsnap_snapshot_unref(loaded);
        memsnap_snapshot_unref(t);
    }
    tick_every(0);
    sigaction(SIGALRM, &before, NULL);
    g_assert_cmpint(ticks, >, 0);
    g_assert_cmpuint(*struck, ==, (unsigned char)ticks);
    assert_ok(memsnap_view_restore(handlers));
    assert_same(bytes(handlers), data, size);
out:
    g_free(path);
    memsnap_view_unref(v);
    memsnap_view_unref(handlers);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(other);
    g_free(data);
}

/* ---- cancelled ------------------------------------------------------------------------------- */

struct victim {
    memsnap_snapshot *s;
    memsnap_view *v;
    const char *path;
    atomic_int rounds;
};

/* What it holds when it is cancelled is nothing: between the calls it tests for cancellation
 * only where it holds nothing. */
static void *work(void *arg)
{
    struct victim *w = arg;
    for (;;) {
        memsnap_snapshot *t = NULL, *f = NULL;
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
        if (memsnap_view_take_snapshot(w->v, 0, &t) < 0 ||
            memsnap_snapshot_save(t, w->path, MEMSNAP_SAVE_NOSYNC) < 0 ||
            memsnap_snapshot_new_from_file(w->path, config.flags, &f) < 0)
            break;
        memsnap_snapshot_unref(t);
        memsnap_snapshot_unref(f);
        atomic_fetch_add(&w->rounds, 1);
        pthread_testcancel();
    }
    return NULL;
}

static void test_cancelled(void)
{
    size_t size = 100 * page;
    memsnap_snapshot *s = snap_pattern(size, 1);
    char *path = temp_path("image");
    struct rng rng = {2};
    struct victim w = {.s = s, .v = view(s), .path = path};
    int threads = on_sanitizer() ? 0 : 40;
    if (on_sanitizer())
        test_skip("a sanitizer's runtime does not outlive cancelled threads");
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        void *result;
        bytes(w.v)[rng_below(&rng, size)] ^= 1;
        g_assert_cmpint(pthread_create(&thread, NULL, work, &w), ==, 0);
        g_usleep(rng_below(&rng, 3000));
        pthread_cancel(thread);
        g_assert_cmpint(pthread_join(thread, &result), ==, 0);
        g_assert_true(result == PTHREAD_CANCELED);
        /* No lock is left held, and fork is not kept waiting. */
        memsnap_snapshot_unref(take(w.v));
        pid_t pid = fork();
        g_assert_cmpint(pid, >=, 0);
        if (pid == 0)
            _exit(0);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    }
    memsnap_view_unref(w.v);
    memsnap_snapshot_unref(s);
    g_free(path);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("interrupted", test_interrupted, 0);
    test_add("cancelled", test_cancelled, 0);
    return g_test_run();
}
