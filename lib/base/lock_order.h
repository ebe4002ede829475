/* SPDX-License-Identifier: MIT */
/* The locks as clang's thread-safety analysis knows them (-Wthread-safety), one name for each kind,
 * in the order in which they are taken. Two of one kind are never held at once, so a kind is all
 * that has to be told; that it is the right object's lock is for the reader to see.
 *
 * The objects exist for the analysis alone: nobody defines them. */
#ifndef MS_LOCK_ORDER_H
#define MS_LOCK_ORDER_H

#include "base/annotate.h"

struct MS_CAPABILITY("lock") ms_lock_kind {
    char unused;
};

/* Held shared between ms_enter() and ms_leave(). */
extern struct ms_lock_kind ms_fork_lock;
/* Both of a snapshot's locks, the one and then `look`; held shared: either of them. */
extern struct ms_lock_kind ms_snapshot_locks MS_ACQUIRED_AFTER(ms_fork_lock);
extern struct ms_lock_kind ms_view_mutex MS_ACQUIRED_AFTER(ms_snapshot_locks);
extern struct ms_lock_kind ms_process_mutex MS_ACQUIRED_AFTER(ms_view_mutex);
extern struct ms_lock_kind ms_recycler_mutex MS_ACQUIRED_AFTER(ms_process_mutex);
extern struct ms_lock_kind ms_pool_mutex MS_ACQUIRED_AFTER(ms_recycler_mutex);
extern struct ms_lock_kind ms_store_mutex MS_ACQUIRED_AFTER(ms_pool_mutex);

/* A function that may take a lock runs inside the library: between ms_enter() and ms_leave(). One
 * that waits for storage runs outside. */
#define MS_INSIDE MS_REQUIRES_SHARED(ms_fork_lock)
#define MS_OUTSIDE MS_EXCLUDES(ms_fork_lock)

#endif
