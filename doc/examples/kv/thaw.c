/* SPDX-License-Identifier: MIT */
/* thaw.c - after a save: stores go straight into the image again.
 *
 * A capture makes what is stored from then on private to the view. Were it left there, later
 * captures would have to copy it, with the writers waiting, and memory would hold it twice. Nothing
 * else in the server knows about this: without this file a save costs more.
 *
 * Workers read requests into buffers and store from there, so no system call ever stores into the
 * view. Therefore the view may be thawed while they store. Where the library cannot stop threads
 * they are kept off by the shards' locks, one step at a time. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum {
    STEP = 2u << 20,        /* bytes: the library's own step */
    BETWEEN_STEPS_US = 1000 /* for which the workers have the locks */
};

static struct {
    pthread_mutex_t lock; /* guards the rest */
    bool running;
    uint64_t count, failures; /* thaws that came to their end, and those that could not */
    uint64_t last_ms, last_longest_step_us;
    bool last_live; /* no worker was kept off */
    char last_error[200];
} thaws = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int step_with_locks(void)
{
    lock_shards(ALL_SHARDS);
    int more = memsnap_view_thaw(image_view(), 0, STEP);
    unlock_shards(ALL_SHARDS);
    if (more == 1)
        usleep(BETWEEN_STEPS_US); /* who was first to wait is not the first to get a lock */
    return more;
}

static int step(bool *live)
{
    int more = *live ? memsnap_view_thaw(image_view(), MEMSNAP_THAW_LIVE, STEP) : -ENOTSUP;

    if (more != -ENOTSUP)
        return more;
    *live = false;
    return step_with_locks();
}

static void note_begin(void)
{
    pthread_mutex_lock(&thaws.lock);
    thaws.running = true;
    pthread_mutex_unlock(&thaws.lock);
}

static void note_end(int result, bool live, uint64_t took_us, uint64_t longest_us)
{
    pthread_mutex_lock(&thaws.lock);
    thaws.running = false;
    thaws.count += result == 0;
    thaws.failures += result < 0;
    thaws.last_ms = took_us / 1000;
    thaws.last_longest_step_us = longest_us;
    thaws.last_live = live;
    thaws.last_error[0] = '\0';
    if (result < 0)
        snprintf(thaws.last_error, sizeof thaws.last_error, "cannot thaw: %s", strerror(-result));
    pthread_mutex_unlock(&thaws.lock);
}

/* A thaw that is broken off or fails does no harm: the next one goes over all of the view. */
void thaw(bool (*may_go_on)(void))
{
    uint64_t start = now_us(), longest = 0;
    bool live = true;
    int more = 1;

    note_begin();
    while (more == 1 && may_go_on()) {
        uint64_t begun = now_us();

        more = step(&live);
        uint64_t took = now_us() - begun;
        longest = took > longest ? took : longest;
    }
    if (more == -EBUSY && !may_go_on())
        more = 1; /* busy with the save that it makes way for */
    note_end(more, live, now_us() - start, longest);
}

void thaw_print(FILE *f)
{
    pthread_mutex_lock(&thaws.lock);
    fprintf(f, "thaw_in_progress:%d\r\n", thaws.running);
    fprintf(f, "thaws:%" PRIu64 "\r\nfailed_thaws:%" PRIu64 "\r\n", thaws.count, thaws.failures);
    fprintf(f, "last_thaw_msec:%" PRIu64 "\r\n", thaws.last_ms);
    fprintf(f, "last_thaw_longest_step_usec:%" PRIu64 "\r\n", thaws.last_longest_step_us);
    fprintf(f, "last_thaw_live:%d\r\n", thaws.last_live);
    fprintf(f, "last_thaw_error:%s\r\n", thaws.last_error);
    pthread_mutex_unlock(&thaws.lock);
}
