/* SPDX-License-Identifier: MIT */
/* Mutexes, and the lock that keeps fork(2) out while a thread is inside the library.
 *
 * The fork lock is a reader-writer lock: callers are readers, fork is the writer and is
 * preferred, so that a busy server can still fork. In the child the lock is made anew, because
 * readers that queued in the parent count as holders there for ever. */
#include "config.h"

#include "os/os.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(struct ms_mutex),
               "struct ms_mutex is too small for a mutex");
_Static_assert(_Alignof(pthread_mutex_t) <= _Alignof(struct ms_mutex),
               "struct ms_mutex is not aligned for a mutex");

static pthread_mutex_t *mutex_of(struct ms_mutex *l)
{
    return (pthread_mutex_t *)(void *)l->u.bytes;
}

void ms_lock_init(struct ms_mutex *l)
{
    pthread_mutex_init(mutex_of(l), NULL);
}

void ms_lock_destroy(struct ms_mutex *l)
{
    pthread_mutex_destroy(mutex_of(l));
}

void ms_lock(struct ms_mutex *l)
{
    pthread_mutex_lock(mutex_of(l));
}

void ms_unlock(struct ms_mutex *l)
{
    pthread_mutex_unlock(mutex_of(l));
}

struct ms_mutex *ms_process_lock(void)
{
    static union {
        pthread_mutex_t initial;
        struct ms_mutex lock;
    } process = {.initial = PTHREAD_MUTEX_INITIALIZER};
    return &process.lock;
}

/* ---- the fork lock --------------------------------------------------------------------------- */

static pthread_rwlock_t fork_lock;
static pthread_mutex_t leaf_lock = PTHREAD_MUTEX_INITIALIZER;
/* Changed only while the fork lock is held for writing, or in a child that has one thread. */
static atomic_size_t processes, forks;

/* Where this thread is. A signal handler may look at it. */
static _Thread_local volatile sig_atomic_t inside; /* entered, about to, or holds the leaf lock */
static _Thread_local bool is_forking;              /* holds both locks, between the handlers */

/* While a thread forks: */
static pid_t forker;  /* the process that it did it in */
static bool is_known; /* the child has been counted */
/* This process was forked from a signal handler that interrupted a call: the locks are as that
 * call left them, and nobody waits for them any more. */
static bool is_abandoned;

static void init_fork_lock(void)
{
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
#ifdef __GLIBC__
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
    pthread_rwlock_init(&fork_lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
}

static void count(atomic_size_t *n)
{
    atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
}

/* In a signal handler that interrupted a call of this thread, waiting for the call to end would be
 * for ever. */
static void before_fork(void)
{
    if (inside || is_abandoned)
        return;
    pthread_rwlock_wrlock(&fork_lock);
    pthread_mutex_lock(&leaf_lock);
    forker = getpid();
    is_known = false;
    is_forking = true;
}

static void in_parent(void)
{
    count(&forks);
    if (!is_forking)
        return;
    is_forking = false;
    pthread_mutex_unlock(&leaf_lock);
    pthread_rwlock_unlock(&fork_lock);
}

static void count_child(void)
{
    count(&processes);
    count(&forks);
    is_known = true;
}

static void in_child(void)
{
    if (!is_forking) {
        is_abandoned = true;
        count_child();
        return;
    }
    if (!is_known)
        count_child();
    is_forking = false;
    pthread_mutex_unlock(&leaf_lock);
    pthread_rwlock_unlock(&fork_lock);
    pthread_rwlock_destroy(&fork_lock);
    init_fork_lock();
}

/* Handlers of pthread_atfork(3) that were registered before the library's run while this thread
 * holds the locks. They may call the library: nobody else is inside. In the child they run before
 * in_child(). */
static bool holds_locks(void)
{
    if (is_forking && !is_known && getpid() != forker)
        count_child();
    return is_forking || is_abandoned;
}

/* Before main or when the library is loaded: no thread can be inside yet, and no checker has
 * anything to report. */
__attribute__((constructor)) static void watch_forks(void)
{
    init_fork_lock();
    pthread_atfork(before_fork, in_parent, in_child);
}

/* Reading, writing and opening files are cancellation points: a thread cancelled in one would
 * leave locks held. */
int ms_uncancellable(void)
{
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

void ms_cancellable(int before)
{
    int now;
    pthread_setcancelstate(before, &now);
}

static _Thread_local int state_outside;

void ms_enter(void) MS_LOCKS
{
    int before = ms_uncancellable();
    inside = inside + 1;
    if (!holds_locks())
        pthread_rwlock_rdlock(&fork_lock);
    state_outside = before;
}

void ms_leave(void) MS_LOCKS
{
    if (!holds_locks())
        pthread_rwlock_unlock(&fork_lock);
    inside = inside - 1;
    ms_cancellable(state_outside);
}

void ms_leaf_lock(void)
{
    inside = inside + 1;
    if (!holds_locks())
        pthread_mutex_lock(&leaf_lock);
}

void ms_leaf_unlock(void)
{
    if (!holds_locks())
        pthread_mutex_unlock(&leaf_lock);
    inside = inside - 1;
}

size_t ms_process_generation(void)
{
    return atomic_load_explicit(&processes, memory_order_relaxed);
}

size_t ms_forks(void)
{
    return atomic_load_explicit(&forks, memory_order_relaxed);
}
