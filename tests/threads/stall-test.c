/* SPDX-License-Identifier: MIT */
/* One thread is in a call that takes long, another one forks: a third one's call on objects of its
 * own does not wait for either.
 *
 * How long "long" is does not matter: the call stands in memory that userfaultfd(2) keeps back, and
 * goes on when the test says so. */
#include "config.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#endif

#include "support/support.h"

#if defined SYS_userfaultfd && defined UFFDIO_REGISTER

/* Memory that nobody gets on with before it is released. */
struct held {
    int fd;
    unsigned char *memory;
    size_t size;
};

struct stall {
    struct held held;
    memsnap_snapshot *slow, *other;
    void (*call)(struct stall *st); /* the one that takes long */
    pthread_t caller, forker, bystander;
    atomic_int forker_id, bystander_id;
    atomic_bool call_done, fork_done, bystander_done;
};

/* ---- memory that is kept back ---------------------------------------------------------------- */

static bool hold(struct held *h, size_t size)
{
    h->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (h->fd < 0)
        return false;
    h->size = size;
    h->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true((void *)h->memory != MAP_FAILED);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register r = {.range = {(uintptr_t)h->memory, size},
                                .mode = UFFDIO_REGISTER_MODE_MISSING};
    g_assert_cmpint(ioctl(h->fd, UFFDIO_API, &api), ==, 0);
    g_assert_cmpint(ioctl(h->fd, UFFDIO_REGISTER, &r), ==, 0);
    return true;
}

/* Returns when a thread stands in it. */
static void await_fault(const struct held *h)
{
    struct uffd_msg m;
    g_assert_cmpint(read(h->fd, &m, sizeof m), ==, sizeof m);
    g_assert_cmpint(m.event, ==, UFFD_EVENT_PAGEFAULT);
}

static void release(struct held *h)
{
    struct uffdio_range r = {(uintptr_t)h->memory, h->size};
    g_assert_cmpint(ioctl(h->fd, UFFDIO_UNREGISTER, &r), ==, 0);
}

static void drop(struct held *h)
{
    munmap(h->memory, h->size);
    close(h->fd);
}

/* ---- the three threads ----------------------------------------------------------------------- */

static void *call_slow(void *arg)
{
    struct stall *st = arg;
    st->call(st);
    atomic_store(&st->call_done, true);
    return NULL;
}

static void *fork_once(void *arg)
{
    struct stall *st = arg;
    int status;
    atomic_store(&st->forker_id, (int)syscall(SYS_gettid));
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    atomic_store(&st->fork_done, true);
    return NULL;
}

static void *use_other(void *arg)
{
    struct stall *st = arg;
    atomic_store(&st->bystander_id, (int)syscall(SYS_gettid));
    memsnap_view *v = view(st->other);
    bytes(v)[0]++;
    memsnap_snapshot_unref(take(v));
    assert_ok(memsnap_view_restore(v));
    memsnap_view_unref(v);
    memsnap_snapshot_unref(snap_zero(page));
    atomic_store(&st->bystander_done, true);
    return NULL;
}

/* In fork(), waiting for a lock: no other thread would be told so. */
static bool waits_for_lock(int thread)
{
    char *path = g_strdup_printf("/proc/self/task/%d/syscall", thread), *text = NULL;
    bool waits = g_file_get_contents(path, &text, NULL, NULL) && atol(text) == SYS_futex;
    g_free(text);
    g_free(path);
    return waits;
}

/* The forking thread has forked, or stands where it waits for those that are in calls. */
static void await_fork(const struct stall *st)
{
    while (!atomic_load(&st->fork_done)) {
        int thread = atomic_load(&st->forker_id);
        if (thread && waits_for_lock(thread))
            return;
        sched_yield();
    }
}

/* False if it stands where it waits for a lock, look after look. The looks are a way out for a
 * library that does it wrong; one that does it right is done, whenever. */
static bool await_bystander(const struct stall *st)
{
    enum { LOOKS = 2000 };
    int waiting = 0;
    while (!atomic_load(&st->bystander_done) && waiting < LOOKS) {
        int thread = atomic_load(&st->bystander_id);
        waiting = thread && waits_for_lock(thread) ? waiting + 1 : 0;
        g_usleep(1000);
    }
    return atomic_load(&st->bystander_done);
}

static void start(pthread_t *t, void *(*body)(void *), struct stall *st)
{
    g_assert_cmpint(pthread_create(t, NULL, body, st), ==, 0);
}

static void stall(void (*call)(struct stall *st))
{
    struct stall st = {.call = call};
    if (on_valgrind() || on_sanitizer()) {
        test_skip("forking with threads is not for checkers");
        return;
    }
    if (!hold(&st.held, 40 * page)) {
        test_skip("no userfaultfd");
        return;
    }
    st.slow = snap_pattern(st.held.size, 1);
    st.other = snap_pattern(3 * page, 2);
    start(&st.caller, call_slow, &st);
    await_fault(&st.held);
    start(&st.forker, fork_once, &st);
    await_fork(&st);
    start(&st.bystander, use_other, &st);
    bool done = await_bystander(&st);
    g_assert_false(atomic_load(&st.call_done)); /* nothing was released */
    release(&st.held);
    pthread_join(st.caller, NULL);
    pthread_join(st.forker, NULL);
    pthread_join(st.bystander, NULL);
    memsnap_snapshot_unref(st.slow);
    memsnap_snapshot_unref(st.other);
    drop(&st.held);
    g_assert_true(done);
}

/* ---- calls that take long -------------------------------------------------------------------- */

static void make_snapshot(struct stall *st)
{
    memsnap_snapshot_unref(snap(st->held.memory, st->held.size));
}

static void read_snapshot(struct stall *st)
{
    assert_ok(memsnap_snapshot_read(st->slow, 0, st->held.memory, st->held.size));
}

static void test_making(void)
{
    stall(make_snapshot);
}

static void test_reading(void)
{
    stall(read_snapshot);
}

#else

static void test_making(void)
{
    test_skip("no userfaultfd");
}

static void test_reading(void)
{
    test_skip("no userfaultfd");
}

#endif

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    test_add("making", test_making, TEST_PLAIN);
    test_add("reading", test_reading, TEST_PLAIN);
    return g_test_run();
}
