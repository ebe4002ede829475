/* SPDX-License-Identifier: MIT */
/* Files that are the live copy of a snapshot (MEMSNAP_FILE_SHARED) in this process. Nothing may
 * take such a file's name away: what is stored and flushed afterwards would be in no file. */
#include "config.h"

#include "os/internal.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct os_live_file *first; /* guarded by lock */

void ms_live_file_add(struct os_live_file *l, const struct os_object *o)
{
    l->dev = o->dev;
    l->ino = o->ino;
    pthread_mutex_lock(&lock);
    l->next = first;
    first = l;
    pthread_mutex_unlock(&lock);
}

void ms_live_file_remove(struct os_live_file *l)
{
    pthread_mutex_lock(&lock);
    struct os_live_file **at = &first;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    pthread_mutex_unlock(&lock);
}

bool ms_is_live_file(const struct stat *st)
{
    bool found = false;
    ms_enter();
    pthread_mutex_lock(&lock);
    for (const struct os_live_file *l = first; l && !found; l = l->next)
        found = l->dev == (uint64_t)st->st_dev && l->ino == (uint64_t)st->st_ino;
    pthread_mutex_unlock(&lock);
    ms_leave();
    return found;
}
