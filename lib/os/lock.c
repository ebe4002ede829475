/* Mutexes, and the lock that keeps fork(2) out while a thread is inside the library.
 *
 * The fork lock is a reader-writer lock: callers are readers, fork is the writer and is
 * preferred, so that a busy server can still fork. In the child the lock is made anew, because
 * readers that queued in the parent count as holders there for ever. */
#include "config.h"

#include "os/os.h"

#include <pthread.h>
#include <stdatomic.h>

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

/* ---- the fork lock --------------------------------------------------------------------------- */

static pthread_rwlock_t fork_lock;
/* Changed only while the fork lock is held for writing, or in a child that has one thread. */
static atomic_size_t processes, forks;

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

static void before_fork(void)
{
    pthread_rwlock_wrlock(&fork_lock);
}

static void count(atomic_size_t *n)
{
    atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
}

static void in_parent(void)
{
    count(&forks);
    pthread_rwlock_unlock(&fork_lock);
}

static void in_child(void)
{
    count(&processes);
    count(&forks);
    pthread_rwlock_unlock(&fork_lock);
    pthread_rwlock_destroy(&fork_lock);
    init_fork_lock();
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

void ms_enter(void)
{
    int before = ms_uncancellable();
    pthread_rwlock_rdlock(&fork_lock);
    state_outside = before;
}

void ms_leave(void)
{
    pthread_rwlock_unlock(&fork_lock);
    ms_cancellable(state_outside);
}

size_t ms_process_generation(void)
{
    return atomic_load_explicit(&processes, memory_order_relaxed);
}

size_t ms_forks(void)
{
    return atomic_load_explicit(&forks, memory_order_relaxed);
}
