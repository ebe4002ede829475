/* SPDX-License-Identifier: MIT */
/* save.c - saving, while the clients write.
 *
 * One thread does all background saves. It is there from the start, so that a save needs nothing
 * that clients could have taken away. Who saves has `running` to himself; the last save, before the
 * server stops, keeps others from beginning one while it waits for its turn. After each save the
 * thread thaws the view; whoever begins a save meanwhile does not wait for that. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* any of these: */
    bool running;           /* a save is under way, or claimed for the thread */
    bool wanted;            /* the thread is to begin it */
    bool thaw_wanted;       /* there was a save since the thread began to thaw */
    bool thawing;           /* the thread does */
    unsigned closing;       /* callers of save_and_close() and save_end(): nobody else may begin */
    bool last_ok;
    time_t last_time;
    uint64_t count, failures; /* captures, and saves that failed, so far */
    uint64_t last_pause_us; /* from the first writer that had to wait to the last that may go on */
    uint64_t last_capture_us; /* of that, the library's part */
    uint64_t max_pause_us, last_save_ms;
    char last_error[200];
    /* After the last capture or thaw: asking waits as long as one takes, which INFO must not. */
    struct memsnap_view_stats view;
} saving = {.lock = PTHREAD_MUTEX_INITIALIZER,
            .changed = PTHREAD_COND_INITIALIZER,
            .last_ok = true};

static void note_view(void)
{
    struct memsnap_view_stats view = {.size = sizeof view};

    if (memsnap_view_stats(image_view(), &view) < 0)
        return;
    pthread_mutex_lock(&saving.lock);
    saving.view = view;
    pthread_mutex_unlock(&saving.lock);
}

static void note_capture(uint64_t pause_us, uint64_t capture_us)
{
    note_view();
    pthread_mutex_lock(&saving.lock);
    saving.count++;
    saving.last_capture_us = capture_us;
    saving.last_pause_us = pause_us;
    if (pause_us > saving.max_pause_us)
        saving.max_pause_us = pause_us;
    pthread_mutex_unlock(&saving.lock);
}

/* The only moment at which writers wait. After the last capture, before the server stops, they are
 * refused: nothing may be acknowledged that is not in the file. */
static int capture(bool last, memsnap_snapshot **out)
{
    uint64_t start = now_us();

    lock_shards(ALL_SHARDS);
    uint64_t stopped = now_us();
    int error = memsnap_view_take_snapshot(image_view(), 0, out);
    uint64_t captured = now_us();
    if (last && error == 0)
        table_set_read_only(true);
    unlock_shards(ALL_SHARDS);
    if (error == 0)
        note_capture(now_us() - start, captured - stopped);
    return error;
}

static void note_result(int error, uint64_t start)
{
    pthread_mutex_lock(&saving.lock);
    saving.last_ok = error == 0;
    saving.last_save_ms = (now_us() - start) / 1000;
    saving.last_error[0] = '\0';
    if (error == 0) {
        saving.last_time = time(NULL);
    } else {
        saving.failures++;
        snprintf(saving.last_error, sizeof saving.last_error, "cannot save: %s", strerror(-error));
    }
    pthread_mutex_unlock(&saving.lock);
}

/* Before the first capture: the library freezes the view the faster the fewer pages its memory is
 * in, so the kernel gathers them into huge ones. Where it cannot, the pause is longer. Thawing
 * leaves huge pages behind. */
static void gather(void)
{
    const size_t huge = 2u << 20;
    uint64_t used = table_count().unused;

    for (uint64_t at = 0; at + huge <= used; at += huge)
        madvise(image + at, huge, MADV_COLLAPSE);
}

/* By who has claimed it. */
static int save(bool last)
{
    memsnap_snapshot *snapshot;

    if (saving.count == 0)
        gather();
    int error = capture(last, &snapshot);
    uint64_t start = now_us();
    if (error == 0) {
        error = image_seal(snapshot);
        if (error == 0)
            error = memsnap_snapshot_save(snapshot, options.file, 0);
        memsnap_snapshot_unref(snapshot);
    }
    note_result(error, start);
    if (error < 0)
        complain("cannot save %s: %s; the file is as it was, and the data set goes on in memory",
                 options.file, strerror(-error));
    return error;
}

static void release(void)
{
    pthread_mutex_lock(&saving.lock);
    saving.running = false;
    saving.thaw_wanted = true;
    pthread_cond_broadcast(&saving.changed);
    pthread_mutex_unlock(&saving.lock);
}

/* ---- who saves ------------------------------------------------------------------------------- */

static bool may_thaw(void)
{
    return !saving.running && saving.closing == 0;
}

static bool may_go_on_thawing(void)
{
    pthread_mutex_lock(&saving.lock);
    bool may = may_thaw();
    pthread_mutex_unlock(&saving.lock);
    return may;
}

/* True: to save. False: to thaw. */
static bool wait_for_work(void)
{
    pthread_mutex_lock(&saving.lock);
    while (!saving.wanted && !(saving.thaw_wanted && may_thaw()))
        pthread_cond_wait(&saving.changed, &saving.lock);
    bool to_save = saving.wanted;
    saving.wanted = false;
    if (!to_save) {
        saving.thaw_wanted = false;
        saving.thawing = true;
    }
    pthread_mutex_unlock(&saving.lock);
    return to_save;
}

static void thaw_after_save(void)
{
    thaw(may_go_on_thawing);
    note_view();
    pthread_mutex_lock(&saving.lock);
    saving.thawing = false;
    pthread_cond_broadcast(&saving.changed);
    pthread_mutex_unlock(&saving.lock);
}

static void *save_when_wanted(void *arg)
{
    (void)arg;
    for (;;) {
        if (wait_for_work()) {
            save(false);
            release();
        } else {
            thaw_after_save();
        }
    }
    return NULL;
}

void save_start(bool loaded)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, save_when_wanted, NULL);

    if (error != 0)
        die("cannot start the thread that saves: %s", strerror(error));
    pthread_detach(thread);
    saving.last_time = loaded ? time(NULL) : 0;
}

/* The thread makes the capture too, so that not even the client that asked waits for it. */
const char *save_in_background(void)
{
    const char *trouble = NULL;

    pthread_mutex_lock(&saving.lock);
    if (saving.closing > 0)
        trouble = "ERR the server is shutting down";
    else if (saving.running)
        trouble = "ERR Background save already in progress";
    else
        saving.running = saving.wanted = true;
    pthread_cond_broadcast(&saving.changed);
    pthread_mutex_unlock(&saving.lock);
    return trouble;
}

/* False: the server is about to stop, and this is not the save with which it does. */
static bool claim(bool last)
{
    pthread_mutex_lock(&saving.lock);
    saving.closing += last;
    pthread_cond_broadcast(&saving.changed);
    while (saving.running && (last || saving.closing == 0))
        pthread_cond_wait(&saving.changed, &saving.lock);
    bool ours = last || saving.closing == 0;
    saving.running |= ours;
    pthread_mutex_unlock(&saving.lock);
    return ours;
}

int save_now(void)
{
    if (!claim(false))
        return -EBUSY;
    int error = save(false);
    release();
    return error;
}

/* Before stopping: where it fails, the server goes on, since it holds the only copy. */
int save_and_close(void)
{
    claim(true);
    int error = save(true);
    if (error < 0) {
        lock_shards(ALL_SHARDS);
        table_set_read_only(false);
        unlock_shards(ALL_SHARDS);
        pthread_mutex_lock(&saving.lock);
        saving.closing--;
        pthread_mutex_unlock(&saving.lock);
    }
    release();
    return error;
}

void save_end(void)
{
    pthread_mutex_lock(&saving.lock);
    saving.closing++;
    while (saving.running || saving.thawing)
        pthread_cond_wait(&saving.changed, &saving.lock);
    pthread_mutex_unlock(&saving.lock);
}

/* ---- what is known of it --------------------------------------------------------------------- */

time_t save_last(void)
{
    pthread_mutex_lock(&saving.lock);
    time_t last = saving.last_time;
    pthread_mutex_unlock(&saving.lock);
    return last;
}

void save_print(FILE *f)
{
    pthread_mutex_lock(&saving.lock);
    fprintf(f, "rdb_bgsave_in_progress:%d\r\n", saving.running);
    fprintf(f, "rdb_last_save_time:%lld\r\n", (long long)saving.last_time);
    fprintf(f, "rdb_last_bgsave_status:%s\r\n", saving.last_ok ? "ok" : "err");
    fprintf(f, "failed_saves:%" PRIu64 "\r\ncaptures:%" PRIu64 "\r\n", saving.failures,
            saving.count);
    fprintf(f, "last_pause_usec:%" PRIu64 "\r\n", saving.last_pause_us);
    fprintf(f, "last_capture_usec:%" PRIu64 "\r\n", saving.last_capture_us);
    fprintf(f, "max_pause_usec:%" PRIu64 "\r\n", saving.max_pause_us);
    fprintf(f, "last_save_msec:%" PRIu64 "\r\n", saving.last_save_ms);
    fprintf(f, "last_error:%s\r\n", saving.last_error);
    pthread_mutex_unlock(&saving.lock);
}

void save_print_view(FILE *f)
{
    pthread_mutex_lock(&saving.lock);
    fprintf(f, "view_private:%zu\r\nview_mappings:%zu\r\n", saving.view.private_bytes,
            saving.view.mappings);
    fprintf(f, "view_dirty_source:%s\r\n",
            saving.view.dirty_source != NULL ? saving.view.dirty_source : "");
    pthread_mutex_unlock(&saving.lock);
}
