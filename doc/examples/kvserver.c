/* kvserver - a key-value server that saves itself while it runs.
 *
 * It speaks enough of the Redis protocol for redis-cli and redis-benchmark: PING ECHO GET SET DEL INCR EXISTS DBSIZE
 * BGSAVE LASTSAVE INFO CONFIG COMMAND SHUTDOWN QUIT, with pipelining. The whole data set, allocator included, lives in
 * one mutable view: places in it are offsets, never pointers, so the saved bytes are the data set, and loading them is
 * opening a snapshot.
 *
 * BGSAVE holds the writers for as long as memsnap_view_take_snapshot takes, and not a moment longer; a background
 * thread then writes the captured snapshot to the file while the writers go on.
 *
 *     cc -O2 -pthread kvserver.c $(pkg-config --cflags --libs memsnap) -o kvserver
 *     ./kvserver --port 6380 --size 256M --file data.img
 *
 * Locks, in the order they are taken: save -> shard 0 .. shard N-1 -> slab. A command holds one, a capture all. */
#define _GNU_SOURCE
#include <memsnap.h>

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* ---- the image -------------------------------------------------------------------------------- */

enum {
    SHARDS = 64,                    /* independently locked parts of the hash table */
    CLASSES = 96,                   /* block sizes: 32, 40, 48, 56, 64, 80 ... each doubling in four steps */
    SLAB_MIN = 1024, SLAB_MAX = 256 * 1024,
    MAX_KEY = 64 * 1024,
    MAX_VALUE = 64 * 1024 * 1024
};

#define IMAGE_MAGIC "kvserver"
#define IMAGE_VERSION 1u
#define IMAGE_BYTE_ORDER 0x01020304u    /* the image is kept in the machine's own byte order */
#define IMAGE_MIN ((size_t)1 << 20)

struct shard {
    uint64_t keys;
    uint64_t used;                  /* bytes of blocks that hold an entry */
    uint64_t next, end;             /* the slab being cut into blocks */
    uint64_t free[CLASSES];         /* lists of blocks, through their first eight bytes */
};

struct header {
    char magic[8];
    uint32_t byte_order, version;
    uint64_t size;                  /* of the image */
    uint64_t buckets;               /* a power of two, at least SHARDS */
    uint64_t bucket_table;          /* offset of buckets offsets of first entries; 0 ends a chain */
    uint64_t unused;                /* first byte that no shard has taken yet */
    struct shard shard[SHARDS];
};

struct entry {
    uint64_t next;
    uint32_t hash;
    uint32_t key_len, value_len;
    uint32_t class;
    char bytes[];                   /* key, then value */
};

/* ---- what the process knows beside the image ------------------------------------------------------ */

struct saving {
    pthread_mutex_t lock;
    pthread_t thread;
    bool started;                   /* thread waits to be joined */
    bool running;                   /* a save is under way, in the thread or before stopping */
    bool last_ok;
    time_t last_time;
    uint64_t count;                 /* captures so far */
    uint64_t last_pause_us;         /* from the first writer that had to wait to the last that may go on */
    uint64_t last_capture_us;       /* of that, the library's part */
    uint64_t max_pause_us, last_save_ms;
    char last_error[200];
    struct memsnap_view_stats view; /* after the last capture: asking waits as long as one takes, which INFO must not */
};

struct shard_lock {
    _Alignas(64) pthread_mutex_t mutex;     /* a cache line each, or neighbours slow each other down */
};

static struct {
    memsnap_snapshot *snapshot;
    memsnap_view *view;
    char *image;
    struct shard_lock shard[SHARDS];
    bool read_only;                 /* set with all shards locked, looked at with one */
    pthread_mutex_t slab;
    struct saving saving;
    const char *file;
    unsigned port;
    int wake;                       /* eventfd: readable once the server stops */
    atomic_uint stopping;
    atomic_uint clients;
    atomic_size_t commands;
    time_t started;
} server;

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static struct header *header(void)
{
    return (struct header *)server.image;
}

static struct entry *entry_at(uint64_t offset)
{
    return (struct entry *)(server.image + offset);
}

static uint64_t *bucket_of(uint64_t hash)
{
    return (uint64_t *)(server.image + header()->bucket_table) + (hash & (header()->buckets - 1));
}

/* FNV-1a with a finish, because its low bits choose both bucket and shard. */
static uint64_t hash_key(const char *key, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)key[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ (h >> 32);
}

static unsigned shard_of(uint64_t hash)
{
    return (unsigned)(hash % SHARDS);
}

/* ---- allocator: blocks in classes, cut from slabs, never given back but to their class ------------ */

static uint64_t class_size(unsigned class)
{
    return (uint64_t)(4 + (class & 3)) << (class >> 2) << 3;
}

static unsigned class_of(uint64_t bytes)
{
    unsigned class = 0;

    while (class_size(class) < bytes)
        class++;
    return class;
}

/* What a shard takes from the image at a time: little enough that the last shard to come still finds some. */
static uint64_t slab_size(void)
{
    uint64_t bytes = header()->size / (SHARDS * 16) / 64 * 64;

    return bytes < SLAB_MIN ? SLAB_MIN : bytes > SLAB_MAX ? SLAB_MAX : bytes;
}

static uint64_t take_from_image(uint64_t bytes)
{
    struct header *h = header();
    uint64_t offset = 0;

    pthread_mutex_lock(&server.slab);
    if (bytes <= h->size - h->unused) {
        offset = h->unused;
        h->unused += bytes;
    }
    pthread_mutex_unlock(&server.slab);
    return offset;
}

static void free_block(struct shard *s, uint64_t offset, unsigned class)
{
    *(uint64_t *)(server.image + offset) = s->free[class];
    s->free[class] = offset;
}

/* What is left of a slab is too small for the block wanted now, but fits others. */
static void recycle_rest(struct shard *s)
{
    while (s->end - s->next >= class_size(0)) {
        unsigned class = class_of(s->end - s->next + 1) - 1;

        free_block(s, s->next, class);
        s->next += class_size(class);
    }
    s->next = s->end = 0;
}

/* 0: the image is full. */
static uint64_t alloc_block(struct shard *s, unsigned class)
{
    uint64_t size = class_size(class), offset = s->free[class];

    if (offset != 0) {
        s->free[class] = *(uint64_t *)(server.image + offset);
        return offset;
    }
    if (size > slab_size() / 4)
        return take_from_image(size);
    if (s->end - s->next < size) {
        uint64_t slab = take_from_image(slab_size());

        if (slab == 0)
            return 0;
        recycle_rest(s);
        s->next = slab;
        s->end = slab + slab_size();
    }
    offset = s->next;
    s->next += size;
    return offset;
}

/* ---- hash table: all of these run with the key's shard locked ----------------------------------------- */

struct slice {
    const char *data;
    size_t len;
};

/* Where the offset of the key's entry is stored; *that is 0 if there is none. */
static uint64_t *find(uint64_t hash, struct slice key)
{
    uint64_t *place = bucket_of(hash);

    while (*place != 0) {
        struct entry *e = entry_at(*place);

        if (e->hash == (uint32_t)(hash >> 32) && e->key_len == key.len && memcmp(e->bytes, key.data, key.len) == 0)
            break;
        place = &e->next;
    }
    return place;
}

static void remove_at(struct shard *s, uint64_t *place)
{
    uint64_t offset = *place;
    struct entry *e = entry_at(offset);

    *place = e->next;
    s->keys--;
    s->used -= class_size(e->class);
    free_block(s, offset, e->class);
}

/* False: the image is full, and nothing has changed. */
static bool put(uint64_t hash, struct slice key, struct slice value)
{
    struct shard *s = &header()->shard[shard_of(hash)];
    unsigned class = class_of(sizeof(struct entry) + key.len + value.len);
    uint64_t *place = find(hash, key);
    uint64_t offset = *place;

    if (offset == 0 || entry_at(offset)->class != class) {
        uint64_t fresh = alloc_block(s, class);

        if (fresh == 0)
            return false;
        if (offset != 0)
            remove_at(s, place);
        place = bucket_of(hash);
        struct entry *e = entry_at(fresh);
        e->next = *place;
        e->hash = (uint32_t)(hash >> 32);
        e->key_len = (uint32_t)key.len;
        e->class = class;
        memcpy(e->bytes, key.data, key.len);
        *place = offset = fresh;
        s->keys++;
        s->used += class_size(class);
    }
    struct entry *e = entry_at(offset);
    e->value_len = (uint32_t)value.len;
    memcpy(e->bytes + key.len, value.data, value.len);
    return true;
}

static void lock_shard(uint64_t hash)
{
    pthread_mutex_lock(&server.shard[shard_of(hash)].mutex);
}

static void unlock_shard(uint64_t hash)
{
    pthread_mutex_unlock(&server.shard[shard_of(hash)].mutex);
}

static void lock_all_shards(void)
{
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_lock(&server.shard[i].mutex);
}

static void unlock_all_shards(void)
{
    for (unsigned i = SHARDS; i > 0; i--)
        pthread_mutex_unlock(&server.shard[i - 1].mutex);
}

static void set_read_only(bool on)
{
    lock_all_shards();
    server.read_only = on;
    unlock_all_shards();
}

static void count_entries(uint64_t *keys, uint64_t *used)
{
    *keys = *used = 0;
    for (unsigned i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&server.shard[i].mutex);
        *keys += header()->shard[i].keys;
        *used += header()->shard[i].used;
        pthread_mutex_unlock(&server.shard[i].mutex);
    }
}

/* ---- saving: whoever sets `running` does it, alone -------------------------------------------------- */

/* Before the first capture: the fewer pages the image's memory is in, the faster it is frozen. The kernel gathers them
 * into huge ones while the writers go on; where it cannot, the pause is longer and nothing else. */
static void gather_huge_pages(void)
{
    const size_t huge = 2u << 20;

    pthread_mutex_lock(&server.slab);
    uint64_t used = header()->unused;
    pthread_mutex_unlock(&server.slab);
    for (uint64_t at = 0; at + huge <= used; at += huge)
        madvise(server.image + at, huge, MADV_COLLAPSE);
}

/* From the second capture on the library copies what was written since the one before. Most of that can be done with
 * the writers running, in snapshots that nobody keeps: for the pause is left what they wrote during the last one. */
static int copy_ahead(void)
{
    uint64_t before = UINT64_MAX;

    for (unsigned round = 0; round < 8; round++) {
        memsnap_snapshot *ahead;
        uint64_t start = now_us();
        int error = memsnap_view_take_snapshot(server.view, 0, &ahead);

        if (error < 0)
            return error;
        memsnap_snapshot_unref(ahead);
        uint64_t took = now_us() - start;
        if (took < 1000 || took > before / 4 * 3)
            break;                  /* little is left, or it does not get less */
        before = took;
    }
    return 0;
}

/* The only moment at which writers wait. After the last capture, before the server stops, they are refused: nothing may
 * be acknowledged that is not in the file. */
static int capture(bool last, memsnap_snapshot **out)
{
    struct saving *s = &server.saving;
    uint64_t start = now_us();

    lock_all_shards();
    uint64_t stopped = now_us();
    int error = memsnap_view_take_snapshot(server.view, 0, out);
    uint64_t captured = now_us();
    server.read_only = last && error == 0;
    unlock_all_shards();
    uint64_t end = now_us();
    if (error < 0)
        return error;
    struct memsnap_view_stats view = { .size = sizeof view };
    memsnap_view_stats(server.view, &view);
    pthread_mutex_lock(&s->lock);
    s->view = view;
    s->count++;
    s->last_capture_us = captured - stopped;
    s->last_pause_us = end - start;
    if (s->last_pause_us > s->max_pause_us)
        s->max_pause_us = s->last_pause_us;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int save(bool last)
{
    struct saving *s = &server.saving;
    memsnap_snapshot *snapshot;
    int error = 0;

    if (s->count == 0)
        gather_huge_pages();
    else
        error = copy_ahead();
    if (error == 0)
        error = capture(last, &snapshot);
    uint64_t start = now_us();
    if (error == 0) {
        error = memsnap_snapshot_save(snapshot, server.file, 0);
        memsnap_snapshot_unref(snapshot);
    }
    pthread_mutex_lock(&s->lock);
    s->last_ok = error == 0;
    s->last_save_ms = (now_us() - start) / 1000;
    s->last_error[0] = '\0';
    if (error == 0)
        s->last_time = time(NULL);
    else
        snprintf(s->last_error, sizeof s->last_error, "cannot save %s: %s", server.file, strerror(-error));
    s->running = false;
    pthread_mutex_unlock(&s->lock);
    if (error < 0)
        fprintf(stderr, "kvserver: cannot save %s: %s; the file is as it was, and the data set goes on in memory\n",
                server.file, strerror(-error));
    return error;
}

static void *save_in_background(void *arg)
{
    (void)arg;
    save(false);
    return NULL;
}

/* NULL, or why not. The thread makes the capture too, so that not even the client that asked waits for it. */
static const char *begin_background_save(void)
{
    struct saving *s = &server.saving;
    const char *trouble = NULL;

    pthread_mutex_lock(&s->lock);
    if (s->running) {
        trouble = "-ERR Background save already in progress\r\n";
    } else {
        if (s->started)
            pthread_join(s->thread, NULL);
        s->started = pthread_create(&s->thread, NULL, save_in_background, NULL) == 0;
        s->running = s->started;
        if (!s->started)
            trouble = "-ERR Background save failed: no thread for it\r\n";
    }
    pthread_mutex_unlock(&s->lock);
    return trouble;
}

static void wait_for_background_save(void)
{
    struct saving *s = &server.saving;
    pthread_t thread;

    pthread_mutex_lock(&s->lock);
    while (s->started) {
        thread = s->thread;
        s->started = false;
        pthread_mutex_unlock(&s->lock);
        pthread_join(thread, NULL);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

/* Before stopping: where it fails, the server goes on. */
static int save_and_close(void)
{
    struct saving *s = &server.saving;
    bool busy;

    wait_for_background_save();
    pthread_mutex_lock(&s->lock);
    busy = s->running;
    s->running = true;
    pthread_mutex_unlock(&s->lock);
    if (busy)
        return -EBUSY;              /* somebody else began one, or stops the server already */
    int error = save(true);
    if (error < 0)
        set_read_only(false);
    return error;
}

static void stop_server(void)
{
    uint64_t one = 1;

    atomic_store(&server.stopping, 1);
    if (write(server.wake, &one, sizeof one) < 0)
        abort();                    /* an eventfd takes a 1 always */
}

/* ---- replies --------------------------------------------------------------------------------------- */

struct buffer {
    char *data;
    size_t start, end, capacity;    /* bytes [start, end) are waiting */
};

struct client {
    int fd;
    bool closing;                   /* after the replies so far are sent */
    bool failed;                    /* out of memory: close at once */
    uint32_t events;                /* what epoll was asked for */
    struct buffer in, out;
    struct client *next;
};

enum { MAX_ARGS = 1024, READ_SIZE = 64 * 1024, MAX_REQUEST = MAX_VALUE + 1024 * 1024, MAX_PENDING = 4 * 1024 * 1024 };

static bool make_room(struct buffer *b, size_t bytes)
{
    if (b->capacity - b->end >= bytes)
        return true;
    if (b->start > 0) {
        memmove(b->data, b->data + b->start, b->end - b->start);
        b->end -= b->start;
        b->start = 0;
        if (b->capacity - b->end >= bytes)
            return true;
    }
    size_t capacity = b->capacity * 2 > b->end + bytes ? b->capacity * 2 : b->end + bytes;
    char *data = realloc(b->data, capacity);
    if (data == NULL)
        return false;
    b->data = data;
    b->capacity = capacity;
    return true;
}

static void reply_bytes(struct client *c, const char *data, size_t len)
{
    if (!make_room(&c->out, len)) {
        c->failed = true;
        return;
    }
    memcpy(c->out.data + c->out.end, data, len);
    c->out.end += len;
}

static void reply(struct client *c, const char *line)
{
    reply_bytes(c, line, strlen(line));
}

__attribute__((format(printf, 2, 3)))
static void reply_format(struct client *c, const char *format, ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    int len = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    reply_bytes(c, line, (size_t)len < sizeof line ? (size_t)len : sizeof line - 1);
}

static void reply_integer(struct client *c, long long n)
{
    reply_format(c, ":%lld\r\n", n);
}

static void reply_bulk(struct client *c, const char *data, size_t len)
{
    reply_format(c, "$%zu\r\n", len);
    reply_bytes(c, data, len);
    reply(c, "\r\n");
}

static void reply_full(struct client *c)
{
    reply(c, "-OOM the data set is full: delete keys, or start an empty server with a larger --size\r\n");
}

/* With the shard locked. */
static bool may_write(struct client *c)
{
    if (server.read_only)
        reply(c, "-ERR the server is shutting down\r\n");
    return !server.read_only;
}

/* ---- commands ---------------------------------------------------------------------------------------- */

static void do_ping(struct client *c, const struct slice *arg, size_t args)
{
    if (args > 1)
        reply_bulk(c, arg[1].data, arg[1].len);
    else
        reply(c, "+PONG\r\n");
}

static void do_echo(struct client *c, const struct slice *arg, size_t args)
{
    (void)args;
    reply_bulk(c, arg[1].data, arg[1].len);
}

static void do_get(struct client *c, const struct slice *arg, size_t args)
{
    uint64_t hash = hash_key(arg[1].data, arg[1].len);

    (void)args;
    lock_shard(hash);
    uint64_t offset = *find(hash, arg[1]);
    if (offset != 0)
        reply_bulk(c, entry_at(offset)->bytes + arg[1].len, entry_at(offset)->value_len);
    else
        reply(c, "$-1\r\n");
    unlock_shard(hash);
}

static void do_set(struct client *c, const struct slice *arg, size_t args)
{
    if (args > 3) {
        reply(c, "-ERR syntax error: SET takes a key and a value, no options\r\n");
        return;
    }
    if (arg[1].len > MAX_KEY) {
        reply(c, "-ERR the key is longer than 64 KiB\r\n");
        return;
    }
    uint64_t hash = hash_key(arg[1].data, arg[1].len);
    lock_shard(hash);
    if (may_write(c)) {
        if (put(hash, arg[1], arg[2]))
            reply(c, "+OK\r\n");
        else
            reply_full(c);
    }
    unlock_shard(hash);
}

static bool parse_integer(struct slice text, long long *out)
{
    char digits[24], *end;

    if (text.len == 0 || text.len >= sizeof digits)
        return false;
    memcpy(digits, text.data, text.len);
    digits[text.len] = '\0';
    if (digits[0] != '-' && (digits[0] < '0' || digits[0] > '9'))
        return false;
    errno = 0;
    *out = strtoll(digits, &end, 10);
    return errno == 0 && *end == '\0' && end == digits + text.len;
}

static void do_incr(struct client *c, const struct slice *arg, size_t args)
{
    uint64_t hash = hash_key(arg[1].data, arg[1].len);
    long long n = 0;
    char digits[24];

    (void)args;
    if (arg[1].len > MAX_KEY) {
        reply(c, "-ERR the key is longer than 64 KiB\r\n");
        return;
    }
    lock_shard(hash);
    uint64_t offset = *find(hash, arg[1]);
    struct slice old = { NULL, 0 };
    if (offset != 0)
        old = (struct slice){ entry_at(offset)->bytes + arg[1].len, entry_at(offset)->value_len };
    if (!may_write(c)) {
        /* answered */
    } else if (offset != 0 && !parse_integer(old, &n)) {
        reply(c, "-ERR value is not an integer or out of range\r\n");
    } else if (n == INT64_MAX) {
        reply(c, "-ERR increment or decrement would overflow\r\n");
    } else {
        int len = snprintf(digits, sizeof digits, "%lld", n + 1);

        if (put(hash, arg[1], (struct slice){ digits, (size_t)len }))
            reply_integer(c, n + 1);
        else
            reply_full(c);
    }
    unlock_shard(hash);
}

static void do_del(struct client *c, const struct slice *arg, size_t args)
{
    long long removed = 0;
    bool allowed = true;

    for (size_t i = 1; i < args && allowed; i++) {
        uint64_t hash = hash_key(arg[i].data, arg[i].len);

        lock_shard(hash);
        uint64_t *place = find(hash, arg[i]);
        allowed = may_write(c);
        if (allowed && *place != 0) {
            remove_at(&header()->shard[shard_of(hash)], place);
            removed++;
        }
        unlock_shard(hash);
    }
    if (allowed)
        reply_integer(c, removed);
}

static void do_exists(struct client *c, const struct slice *arg, size_t args)
{
    long long found = 0;

    for (size_t i = 1; i < args; i++) {
        uint64_t hash = hash_key(arg[i].data, arg[i].len);

        lock_shard(hash);
        found += *find(hash, arg[i]) != 0;
        unlock_shard(hash);
    }
    reply_integer(c, found);
}

static void do_dbsize(struct client *c, const struct slice *arg, size_t args)
{
    uint64_t keys, used;

    (void)arg;
    (void)args;
    count_entries(&keys, &used);
    reply_integer(c, (long long)keys);
}

static void do_bgsave(struct client *c, const struct slice *arg, size_t args)
{
    const char *trouble = begin_background_save();

    (void)arg;
    (void)args;
    reply(c, trouble != NULL ? trouble : "+Background saving started\r\n");
}

static void do_lastsave(struct client *c, const struct slice *arg, size_t args)
{
    (void)arg;
    (void)args;
    pthread_mutex_lock(&server.saving.lock);
    time_t last = server.saving.last_time;
    pthread_mutex_unlock(&server.saving.lock);
    reply_integer(c, (long long)last);
}

static bool is_word(struct slice s, const char *word)
{
    return s.len == strlen(word) && strncasecmp(s.data, word, s.len) == 0;
}

static void do_shutdown(struct client *c, const struct slice *arg, size_t args)
{
    bool save = args < 2 || is_word(arg[1], "SAVE");

    if (args > 2 || (args == 2 && !save && !is_word(arg[1], "NOSAVE"))) {
        reply(c, "-ERR syntax error: SHUTDOWN [SAVE|NOSAVE]\r\n");
        return;
    }
    if (save && save_and_close() < 0) {
        reply(c, "-ERR Errors trying to SHUTDOWN: the data set could not be saved, see INFO\r\n");
        return;
    }
    stop_server();
    c->closing = true;
}

static void do_config(struct client *c, const struct slice *arg, size_t args)
{
    if (args == 3 && is_word(arg[1], "GET")) {
        bool file = is_word(arg[2], "dbfilename");

        if (file || is_word(arg[2], "save") || is_word(arg[2], "appendonly")) {
            reply(c, "*2\r\n");
            reply_bulk(c, arg[2].data, arg[2].len);
            const char *value = file ? server.file : is_word(arg[2], "save") ? "" : "no";
            reply_bulk(c, value, strlen(value));
        } else {
            reply(c, "*0\r\n");
        }
        return;
    }
    reply(c, "-ERR CONFIG knows GET with one name only: what there is to set are the command line's options\r\n");
}

static void do_command(struct client *c, const struct slice *arg, size_t args)
{
    (void)arg;
    (void)args;
    reply(c, "*0\r\n");
}

static void do_quit(struct client *c, const struct slice *arg, size_t args)
{
    (void)arg;
    (void)args;
    reply(c, "+OK\r\n");
    c->closing = true;
}

/* The names that Redis has too mean what they mean there, so that its tools can read them. */
static void print_info(FILE *f)
{
    struct saving *s = &server.saving;
    uint64_t keys, used;

    count_entries(&keys, &used);
    pthread_mutex_lock(&server.slab);
    uint64_t unused = header()->unused;
    pthread_mutex_unlock(&server.slab);

    fprintf(f, "# Server\r\nmemsnap_version:%s\r\nprocess_id:%ld\r\n", memsnap_version_string(), (long)getpid());
    fprintf(f, "tcp_port:%u\r\nuptime_in_seconds:%lld\r\n", server.port, (long long)(time(NULL) - server.started));
    fprintf(f, "\r\n# Clients\r\nconnected_clients:%u\r\n", atomic_load(&server.clients));
    fprintf(f, "\r\n# Memory\r\nimage_size:%" PRIu64 "\r\nimage_used:%" PRIu64 "\r\n", header()->size, unused);
    fprintf(f, "entries_used:%" PRIu64 "\r\n", used);
    pthread_mutex_lock(&s->lock);
    fprintf(f, "view_private:%zu\r\nview_mappings:%zu\r\n", s->view.private_bytes, s->view.mappings);
    fprintf(f, "\r\n# Persistence\r\nfile:%s\r\nrdb_bgsave_in_progress:%d\r\n", server.file, s->running);
    fprintf(f, "rdb_last_save_time:%lld\r\nrdb_last_bgsave_status:%s\r\n", (long long)s->last_time,
            s->last_ok ? "ok" : "err");
    fprintf(f, "captures:%" PRIu64 "\r\nlast_pause_usec:%" PRIu64 "\r\n", s->count, s->last_pause_us);
    fprintf(f, "last_capture_usec:%" PRIu64 "\r\nmax_pause_usec:%" PRIu64 "\r\n", s->last_capture_us, s->max_pause_us);
    fprintf(f, "last_save_msec:%" PRIu64 "\r\nlast_error:%s\r\n", s->last_save_ms, s->last_error);
    pthread_mutex_unlock(&s->lock);
    fprintf(f, "\r\n# Stats\r\ntotal_commands_processed:%zu\r\n", atomic_load(&server.commands));
    fprintf(f, "\r\n# Keyspace\r\ndb0:keys=%" PRIu64 ",expires=0\r\n", keys);
}

static void do_info(struct client *c, const struct slice *arg, size_t args)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    (void)arg;
    (void)args;
    if (f == NULL) {
        c->failed = true;
        return;
    }
    print_info(f);
    if (fclose(f) == 0)
        reply_bulk(c, text, len);
    else
        c->failed = true;
    free(text);
}

static const struct command {
    const char *name;
    size_t min, max;                /* arguments, the name included */
    void (*run)(struct client *c, const struct slice *arg, size_t args);
} commands[] = {
    { "GET", 2, 2, do_get },
    { "SET", 3, MAX_ARGS, do_set },
    { "INCR", 2, 2, do_incr },
    { "DEL", 2, MAX_ARGS, do_del },
    { "EXISTS", 2, MAX_ARGS, do_exists },
    { "PING", 1, 2, do_ping },
    { "ECHO", 2, 2, do_echo },
    { "DBSIZE", 1, 1, do_dbsize },
    { "BGSAVE", 1, 2, do_bgsave },
    { "LASTSAVE", 1, 1, do_lastsave },
    { "INFO", 1, MAX_ARGS, do_info },
    { "CONFIG", 2, MAX_ARGS, do_config },
    { "COMMAND", 1, MAX_ARGS, do_command },
    { "SHUTDOWN", 1, MAX_ARGS, do_shutdown },
    { "QUIT", 1, 1, do_quit },
};

static void run_command(struct client *c, const struct slice *arg, size_t args)
{
    atomic_fetch_add_explicit(&server.commands, 1, memory_order_relaxed);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (!is_word(arg[0], commands[i].name))
            continue;
        if (args < commands[i].min || args > commands[i].max)
            reply_format(c, "-ERR wrong number of arguments for '%s' command\r\n", commands[i].name);
        else
            commands[i].run(c, arg, args);
        return;
    }
    int shown = arg[0].len < 64 ? (int)arg[0].len : 64;
    reply_format(c, "-ERR unknown command '%.*s'\r\n", shown, arg[0].data);
}

/* ---- protocol ------------------------------------------------------------------------------------------ */

enum parsed { PARSED, INCOMPLETE, MALFORMED };

/* A line without its end, and how many bytes it took with it. */
static enum parsed parse_line(const char *data, size_t len, struct slice *line, size_t *taken)
{
    const char *end = memchr(data, '\n', len);

    if (end == NULL)
        return len > READ_SIZE ? MALFORMED : INCOMPLETE;
    *taken = (size_t)(end - data) + 1;
    line->data = data;
    line->len = *taken - 1;
    if (line->len > 0 && data[line->len - 1] == '\r')
        line->len--;
    return PARSED;
}

/* The number after a '*' or '$'. */
static enum parsed parse_count(const char *data, size_t len, char kind, long long max, size_t *count, size_t *taken)
{
    struct slice line = { NULL, 0 };
    long long n;
    enum parsed state = parse_line(data, len, &line, taken);

    if (state != PARSED)
        return state;
    if (line.len < 2 || line.data[0] != kind)
        return MALFORMED;
    if (!parse_integer((struct slice){ line.data + 1, line.len - 1 }, &n) || n < 0 || n > max)
        return MALFORMED;
    *count = (size_t)n;
    return PARSED;
}

static enum parsed parse_inline(const char *data, size_t len, struct slice *arg, size_t *args, size_t *taken)
{
    struct slice line = { NULL, 0 };
    enum parsed state = parse_line(data, len, &line, taken);

    *args = 0;
    for (size_t i = 0; state == PARSED && i < line.len; i++) {
        if (line.data[i] == ' ')
            continue;
        size_t start = i;
        while (i < line.len && line.data[i] != ' ')
            i++;
        if (*args == MAX_ARGS)
            return MALFORMED;
        arg[(*args)++] = (struct slice){ line.data + start, i - start };
    }
    return state;
}

static enum parsed parse_request(const char *data, size_t len, struct slice *arg, size_t *args, size_t *taken)
{
    size_t at, used;

    if (data[0] != '*')
        return parse_inline(data, len, arg, args, taken);
    enum parsed state = parse_count(data, len, '*', MAX_ARGS, args, &at);
    for (size_t i = 0; state == PARSED && i < *args; i++) {
        if (at == len)
            return INCOMPLETE;
        state = parse_count(data + at, len - at, '$', MAX_VALUE, &arg[i].len, &used);
        if (state != PARSED)
            break;
        at += used;
        if (len - at < arg[i].len + 2)
            return INCOMPLETE;
        arg[i].data = data + at;
        at += arg[i].len;
        if (memcmp(data + at, "\r\n", 2) != 0)
            return MALFORMED;
        at += 2;
    }
    *taken = at;
    return state;
}

static size_t pending(const struct buffer *b)
{
    return b->end - b->start;
}

static void run_requests(struct client *c)
{
    struct slice arg[MAX_ARGS];
    size_t args = 0, taken = 0;

    while (!c->closing && !c->failed && pending(&c->in) > 0 && pending(&c->out) < MAX_PENDING) {
        enum parsed state = parse_request(c->in.data + c->in.start, pending(&c->in), arg, &args, &taken);

        if (state == INCOMPLETE && pending(&c->in) < MAX_REQUEST)
            return;
        if (state != PARSED) {
            reply(c, "-ERR Protocol error: not a request, or one beyond the limits (1024 arguments, 64 MiB)\r\n");
            c->closing = true;
            return;
        }
        if (args > 0)
            run_command(c, arg, args);
        c->in.start += taken;
        if (c->in.start == c->in.end)
            c->in.start = c->in.end = 0;
    }
}

/* ---- connections ------------------------------------------------------------------------------------------ */

struct worker {
    pthread_t thread;
    int epoll;
    pthread_mutex_t lock;           /* guards clients: the listener adds, the worker removes */
    struct client *clients;
};

/* False: the connection is done with. */
static bool send_replies(struct client *c)
{
    while (pending(&c->out) > 0) {
        ssize_t n = send(c->fd, c->out.data + c->out.start, pending(&c->out), MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        c->out.start += (size_t)n;
    }
    c->out.start = c->out.end = 0;
    return true;
}

static bool receive(struct client *c)
{
    if (!make_room(&c->in, READ_SIZE))
        return false;
    ssize_t n = recv(c->fd, c->in.data + c->in.end, c->in.capacity - c->in.end, 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    c->in.end += (size_t)n;
    return n > 0;
}

static bool serve(struct worker *w, struct client *c, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (!receive(c))
            return false;
    }
    /* Requests may have waited for the replies before them to go out: as long as either moves, both get their turn. */
    size_t before;
    do {
        before = pending(&c->in);
        run_requests(c);
        if (c->failed || !send_replies(c))
            return false;
    } while (pending(&c->in) < before && pending(&c->out) == 0);
    if (c->closing && pending(&c->out) == 0)
        return false;

    uint32_t wanted = pending(&c->out) > 0 ? EPOLLOUT : EPOLLIN;
    if (wanted == c->events)
        return true;
    struct epoll_event e = { .events = wanted, .data.ptr = c };
    c->events = wanted;
    return epoll_ctl(w->epoll, EPOLL_CTL_MOD, c->fd, &e) == 0;
}

static void drop_client(struct worker *w, struct client *c)
{
    struct client **p = &w->clients;

    pthread_mutex_lock(&w->lock);
    while (*p != c)
        p = &(*p)->next;
    *p = c->next;
    pthread_mutex_unlock(&w->lock);
    /* Closing alone would leave it watched for as long as a child process has a copy of the descriptor. */
    epoll_ctl(w->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    free(c->in.data);
    free(c->out.data);
    free(c);
    atomic_fetch_sub(&server.clients, 1);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct epoll_event events[64];

    while (!atomic_load(&server.stopping)) {
        int n = epoll_wait(w->epoll, events, 64, -1);

        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;

            if (c != NULL && !serve(w, c, events[i].events))
                drop_client(w, c);
        }
    }
    return NULL;
}

static void add_client(struct worker *w, int fd)
{
    struct client *c = calloc(1, sizeof *c);
    int one = 1;

    if (c == NULL) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->fd = fd;
    c->events = EPOLLIN;
    pthread_mutex_lock(&w->lock);
    c->next = w->clients;
    w->clients = c;
    pthread_mutex_unlock(&w->lock);
    atomic_fetch_add(&server.clients, 1);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
    if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        drop_client(w, c);
}

/* ---- start ------------------------------------------------------------------------------------------------- */

struct options {
    unsigned port, threads;
    size_t size;
    const char *file;
};

__attribute__((format(printf, 1, 2), noreturn))
static void die(const char *format, ...)
{
    va_list args;

    fputs("kvserver: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static void lay_out(size_t size)
{
    struct header *h = header();
    uint64_t buckets = SHARDS;

    while (buckets * 256 < size)
        buckets *= 2;
    memcpy(h->magic, IMAGE_MAGIC, sizeof h->magic);
    h->byte_order = IMAGE_BYTE_ORDER;
    h->version = IMAGE_VERSION;
    h->size = size;
    h->buckets = buckets;
    h->bucket_table = (sizeof *h + 63) / 64 * 64;
    h->unused = h->bucket_table + buckets * sizeof(uint64_t);
}

/* NULL, or what is wrong with the loaded image. Looks at every entry, so that no damaged offset is followed later. */
static const char *check_image(size_t size)
{
    struct header *h = header();

    if (size < sizeof *h || memcmp(h->magic, IMAGE_MAGIC, sizeof h->magic) != 0)
        return "it is not a data set of this program";
    if (h->byte_order != IMAGE_BYTE_ORDER || h->version != IMAGE_VERSION)
        return "it was made on a machine of other byte order, or by another version";
    if (h->size != size)
        return "it is not as long as its header says";
    if (h->buckets < SHARDS || (h->buckets & (h->buckets - 1)) != 0 || h->buckets > size / 8 || h->unused > size ||
        h->bucket_table < sizeof *h || h->bucket_table % 8 != 0 || h->bucket_table > size - h->buckets * 8)
        return "its header is damaged";
    uint64_t keys = 0, found = 0, used;
    count_entries(&keys, &used);
    for (uint64_t b = 0; b < h->buckets; b++) {
        for (uint64_t at = *bucket_of(b); at != 0; at = entry_at(at)->next) {
            struct entry *e = entry_at(at);

            if (at % 8 != 0 || at > size - sizeof *e || ++found > keys)
                return "its hash table is damaged";
            if (e->class >= CLASSES || class_size(e->class) > size - at ||
                sizeof *e + (uint64_t)e->key_len + e->value_len > class_size(e->class))
                return "an entry of it is damaged";
        }
    }
    return found == keys ? NULL : "it does not hold as many keys as it says";
}

static void open_data(const struct options *o)
{
    uint64_t start = now_us();
    int error = memsnap_snapshot_new_from_file(o->file, 0, &server.snapshot);
    bool fresh = error == -ENOENT;

    if (fresh)
        error = memsnap_snapshot_new_zeroed(o->size, 0, &server.snapshot);
    if (error < 0)
        die("cannot load %s: %s; give a readable file of this program's, or the name of a new one, with --file",
            o->file, strerror(-error));
    /* Each save costs what was stored since the last one, where stores can be noticed. */
    error = memsnap_snapshot_view_mut(server.snapshot, MEMSNAP_VIEW_TRACK, &server.view);
    if (error == -ENOTSUP)
        error = memsnap_snapshot_view_mut(server.snapshot, 0, &server.view);
    if (error < 0)
        die("cannot map %zu bytes: %s; give a smaller --size", memsnap_snapshot_size(server.snapshot),
            strerror(-error));
    server.image = memsnap_view_data(server.view);
    size_t size = memsnap_view_size(server.view);
    if (fresh) {
        lay_out(size);
        printf("kvserver: a new data set of %zu MiB\n", size >> 20);
        return;
    }
    const char *trouble = check_image(size);
    if (trouble != NULL)
        die("cannot use %s: %s; move it away, or give another --file", o->file, trouble);
    uint64_t keys, used;
    count_entries(&keys, &used);
    printf("kvserver: loaded %" PRIu64 " keys from %s (%zu MiB) in %.1f ms\n", keys, o->file, size >> 20,
           (double)(now_us() - start) / 1000);
    server.saving.last_time = time(NULL);
}

static int listen_on(unsigned *port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)*port) };
    socklen_t len = sizeof a;
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    /* Loopback only: nobody is asked for a password. */
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        die("no socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 511) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        die("cannot listen on 127.0.0.1:%u: %s; give another --port, or 0 for any free one", *port, strerror(errno));
    *port = ntohs(a.sin_port);
    return fd;
}

static void watch(int epoll, int fd, void *what)
{
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = what };

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        die("cannot watch a descriptor: %s", strerror(errno));
}

static struct worker *start_workers(unsigned n)
{
    struct worker *w = calloc(n, sizeof *w);

    if (w == NULL)
        die("out of memory for %u threads; give fewer --threads", n);
    for (unsigned i = 0; i < n; i++) {
        pthread_mutex_init(&w[i].lock, NULL);
        w[i].epoll = epoll_create1(EPOLL_CLOEXEC);
        if (w[i].epoll < 0)
            die("no epoll descriptor: %s; raise the limit with ulimit -n", strerror(errno));
        watch(w[i].epoll, server.wake, NULL);
        int error = pthread_create(&w[i].thread, NULL, work, &w[i]);
        if (error != 0)
            die("cannot start thread %u: %s; give fewer --threads", i + 1, strerror(error));
    }
    return w;
}

/* SIGINT and SIGTERM save and stop; where saving fails the server goes on, since it holds the only copy. */
static void take_signal(int fd)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof info) == sizeof info && save_and_close() == 0)
        stop_server();
}

static void accept_clients(int listener, struct worker *w, unsigned workers)
{
    static unsigned turn;
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
        add_client(&w[turn++ % workers], fd);
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
        usleep(10000);              /* the queue stays readable: wait for a connection to end rather than spin */
}

static void run(int listener, struct worker *w, unsigned workers, int signals)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[4];

    if (epoll < 0)
        die("no epoll descriptor: %s", strerror(errno));
    watch(epoll, listener, &listener);
    watch(epoll, signals, &signals);
    watch(epoll, server.wake, NULL);
    while (!atomic_load(&server.stopping)) {
        int n = epoll_wait(epoll, events, 4, -1);

        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &listener)
                accept_clients(listener, w, workers);
            else if (events[i].data.ptr == &signals)
                take_signal(signals);
        }
    }
    for (unsigned i = 0; i < workers; i++) {
        pthread_join(w[i].thread, NULL);
        while (w[i].clients != NULL)
            drop_client(&w[i], w[i].clients);
        close(w[i].epoll);
        pthread_mutex_destroy(&w[i].lock);
    }
    free(w);
    close(epoll);
}

static const char usage[] =
    "usage: kvserver [--port N] [--size BYTES] [--file FILE] [--threads N]\n"
    "  --port N       on 127.0.0.1; 0: any free one (6380)\n"
    "  --size BYTES   of a new data set, with K, M or G; at least 1M (256M)\n"
    "  --file FILE    loaded at the start if it exists; BGSAVE and SHUTDOWN write it (kvserver.img)\n"
    "  --threads N    that serve connections (4)\n";

/* Dies naming the option, unless text is a number from min to max. */
static size_t parse_number(const char *option, const char *text, size_t min, size_t max, bool unit)
{
    char *end;
    unsigned shift = 0;

    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (unit && *end != '\0' && strchr("KMG", *end) != NULL)
        shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 30, end++;
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n > (max >> shift) || n << shift < min)
        die("%s %s is not a number from %zu to %zu\n%s", option, text, min, max, usage);
    return (size_t)n << shift;
}

static void parse_options(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            exit(0);
        }
        if (i + 1 == argc)
            die("%s is not an option, or lacks its value\n%s", argv[i], usage);
        if (strcmp(argv[i], "--port") == 0)
            o->port = (unsigned)parse_number(argv[i], argv[i + 1], 0, 65535, false);
        else if (strcmp(argv[i], "--threads") == 0)
            o->threads = (unsigned)parse_number(argv[i], argv[i + 1], 1, 256, false);
        else if (strcmp(argv[i], "--size") == 0)
            o->size = parse_number(argv[i], argv[i + 1], IMAGE_MIN, SIZE_MAX / 4, true);
        else if (strcmp(argv[i], "--file") == 0)
            o->file = argv[i + 1];
        else
            die("%s is not an option\n%s", argv[i], usage);
    }
}

static int block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        die("no signal descriptor: %s", strerror(errno));
    return fd;
}

int main(int argc, char **argv)
{
    struct options o = { .port = 6380, .threads = 4, .size = (size_t)256 << 20, .file = "kvserver.img" };

    parse_options(argc, argv, &o);
    server.file = o.file;
    server.started = time(NULL);
    server.saving.last_ok = true;
    pthread_mutex_init(&server.saving.lock, NULL);
    pthread_mutex_init(&server.slab, NULL);
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_init(&server.shard[i].mutex, NULL);
    server.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server.wake < 0)
        die("no event descriptor: %s", strerror(errno));
    int signals = block_signals();
    int listener = listen_on(&o.port);
    server.port = o.port;
    open_data(&o);
    printf("kvserver: process %ld is ready on 127.0.0.1:%u, %u threads, saves to %s\n", (long)getpid(), o.port,
           o.threads, o.file);
    fflush(stdout);

    run(listener, start_workers(o.threads), o.threads, signals);

    close(listener);
    wait_for_background_save();
    close(signals);
    close(server.wake);
    memsnap_view_unref(server.view);
    memsnap_snapshot_unref(server.snapshot);
    printf("kvserver: stopped\n");
    return 0;
}
