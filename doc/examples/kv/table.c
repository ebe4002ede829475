/* SPDX-License-Identifier: MIT */
/* table.c - the data set: an allocator and a hash table in the image.
 *
 * All of it lies in one mutable view, and places in it are offsets, never pointers, so the saved
 * bytes are the data set. The number of buckets never changes: bucket B belongs to shard B mod 64,
 * and a cursor of SCAN is a bucket. Blocks are cut from slabs, and never given back but to the list
 * of their class.
 *
 * What has expired is removed when somebody comes across it, and by a sweep over the buckets for
 * those that nobody asks for. How many entries of a shard may expire is counted beside the
 * image. */
#include "kvserver.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SLAB_MIN = 1024, SLAB_MAX = 256 * 1024, SWEEP_BUCKETS = 256, SWEEP_US = 3000 };

struct shard_state {
    _Alignas(64) pthread_mutex_t mutex; /* a cache line each, or neighbours slow each other down */
    uint64_t expiring;                  /* entries with HAS_EXPIRY */
    uint64_t expired;                   /* removed so far */
    uint64_t sweep;                     /* the bucket where the next sweep begins */
};

char *image;
static struct shard_state state[SHARDS];
static pthread_mutex_t slab = PTHREAD_MUTEX_INITIALIZER; /* header()->unused */
static bool read_only; /* set with all shards locked, looked at with one */

struct header *header(void)
{
    return (struct header *)image;
}

struct entry *entry_at(uint64_t offset)
{
    return (struct entry *)(image + offset);
}

static uint64_t offset_of(const struct entry *e)
{
    return (uint64_t)((const char *)e - image);
}

unsigned entry_class(const struct entry *e)
{
    return e->shape & ~HAS_EXPIRY;
}

static size_t expiry_bytes(const struct entry *e)
{
    return e->shape & HAS_EXPIRY ? sizeof(int64_t) : 0;
}

int64_t entry_expiry(const struct entry *e)
{
    int64_t expires = 0;

    memcpy(&expires, e->bytes, expiry_bytes(e));
    return expires;
}

struct slice entry_key(const struct entry *e)
{
    return (struct slice){e->bytes + expiry_bytes(e), e->key_len};
}

struct slice entry_value(const struct entry *e)
{
    return (struct slice){e->bytes + expiry_bytes(e) + e->key_len, e->value_len};
}

uint64_t *bucket_of(uint64_t hash)
{
    return (uint64_t *)(image + header()->bucket_table) + (hash & (header()->buckets - 1));
}

/* FNV-1a with a finish, because its low bits choose both bucket and shard. It has no secret: who may
 * connect can choose keys that collide, and make the server slow. */
uint64_t hash_key(struct slice key)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < key.len; i++)
        h = (h ^ (unsigned char)key.data[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ (h >> 32);
}

static unsigned shard_of(uint64_t hash)
{
    return (unsigned)(hash % SHARDS);
}

/* ---- locks ----------------------------------------------------------------------------------- */

void table_init(void)
{
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_init(&state[i].mutex, NULL);
}

uint64_t shard_bit(uint64_t hash)
{
    return (uint64_t)1 << shard_of(hash);
}

void lock_shards(uint64_t set)
{
    for (; set != 0; set &= set - 1)
        pthread_mutex_lock(&state[__builtin_ctzll(set)].mutex);
}

void unlock_shards(uint64_t set)
{
    for (; set != 0; set &= set - 1)
        pthread_mutex_unlock(&state[__builtin_ctzll(set)].mutex);
}

bool table_read_only(void)
{
    return read_only;
}

void table_set_read_only(bool on)
{
    read_only = on;
}

/* ---- allocator ------------------------------------------------------------------------------- */

uint64_t class_size(unsigned class)
{
    return (uint64_t)(4 + (class & 3)) << (class >> 2) << 3;
}

static unsigned class_of(uint64_t bytes)
{
    unsigned class = 0;

    while (class_size(class) < bytes)
        class ++;
    return class;
}

/* What a shard takes from the image at a time: little enough that the last shard to come still
 * finds some. */
static uint64_t slab_size(void)
{
    uint64_t bytes = header()->size / (SHARDS * 16) / 64 * 64;

    return bytes < SLAB_MIN ? SLAB_MIN : bytes > SLAB_MAX ? SLAB_MAX : bytes;
}

static uint64_t take_from_image(uint64_t bytes)
{
    struct header *h = header();
    uint64_t offset = 0;

    pthread_mutex_lock(&slab);
    if (bytes <= h->size - h->unused) {
        offset = h->unused;
        h->unused += bytes;
    }
    pthread_mutex_unlock(&slab);
    return offset;
}

static void free_block(struct shard *s, uint64_t offset, unsigned class)
{
    *(uint64_t *)(image + offset) = s->free[class];
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
        s->free[class] = *(uint64_t *)(image + offset);
        return offset;
    }
    if (size > slab_size() / 4)
        return take_from_image(size);
    if (s->end - s->next < size) {
        uint64_t fresh = take_from_image(slab_size());

        if (fresh == 0)
            return 0;
        recycle_rest(s);
        s->next = fresh;
        s->end = fresh + slab_size();
    }
    offset = s->next;
    s->next += size;
    return offset;
}

/* ---- hash table ------------------------------------------------------------------------------ */

static bool has_expired(const struct entry *e)
{
    return e->shape & HAS_EXPIRY && entry_expiry(e) <= now_ms();
}

static bool is_key(const struct entry *e, uint64_t hash, struct slice key)
{
    return e->hash == (uint32_t)(hash >> 32) && e->key_len == key.len &&
           memcmp(entry_key(e).data, key.data, key.len) == 0;
}

/* Where the offset of the key's entry is stored; *that is 0 if there is none. */
static uint64_t *place_of(uint64_t hash, struct slice key)
{
    uint64_t *place = bucket_of(hash);

    while (*place != 0 && !is_key(entry_at(*place), hash, key))
        place = &entry_at(*place)->next;
    return place;
}

static void remove_at(unsigned shard, uint64_t *place)
{
    struct shard *s = &header()->shard[shard];
    struct entry *e = entry_at(*place);

    *place = e->next;
    s->keys--;
    s->used -= class_size(entry_class(e));
    state[shard].expiring -= (e->shape & HAS_EXPIRY) != 0;
    free_block(s, offset_of(e), entry_class(e));
}

static void expire_at(unsigned shard, uint64_t *place)
{
    remove_at(shard, place);
    state[shard].expired++;
}

struct entry *table_find(uint64_t hash, struct slice key)
{
    uint64_t *place = place_of(hash, key);

    if (*place == 0)
        return NULL;
    if (!has_expired(entry_at(*place)))
        return entry_at(*place);
    if (!read_only)
        expire_at(shard_of(hash), place);
    return NULL;
}

void table_remove(uint64_t hash, struct slice key)
{
    uint64_t *place = place_of(hash, key);

    if (*place != 0)
        remove_at(shard_of(hash), place);
}

static unsigned class_for(size_t key_len, size_t value_len, int64_t expires)
{
    return class_of(sizeof(struct entry) + (expires != 0 ? sizeof expires : 0) + key_len +
                    value_len);
}

/* Makes an entry of a block that is nobody's. The value is the caller's to fill in. */
static struct entry *link_entry(uint64_t hash, struct slice key, uint64_t block, size_t value_len,
                                int64_t expires)
{
    struct shard *s = &header()->shard[shard_of(hash)];
    uint64_t *bucket = bucket_of(hash);
    unsigned class = class_for(key.len, value_len, expires);
    struct entry *e = entry_at(block);

    e->next = *bucket;
    e->hash = (uint32_t)(hash >> 32);
    e->key_len = (uint32_t)key.len;
    e->value_len = (uint32_t)value_len;
    e->shape = class | (expires != 0 ? HAS_EXPIRY : 0);
    memcpy(e->bytes, &expires, expiry_bytes(e));
    memcpy(e->bytes + expiry_bytes(e), key.data, key.len);
    *bucket = block;
    s->keys++;
    s->used += class_size(class);
    state[shard_of(hash)].expiring += expires != 0;
    return e;
}

/* Of an entry that stays in its block. */
static void change_entry(uint64_t hash, struct entry *e, size_t keep, size_t value_len,
                         int64_t expires)
{
    const char *from = entry_key(e).data;

    state[shard_of(hash)].expiring -= (e->shape & HAS_EXPIRY) != 0;
    state[shard_of(hash)].expiring += expires != 0;
    e->shape = entry_class(e) | (expires != 0 ? HAS_EXPIRY : 0);
    memmove(e->bytes + expiry_bytes(e), from, e->key_len + keep);
    memcpy(e->bytes, &expires, expiry_bytes(e));
    e->value_len = (uint32_t)value_len;
}

/* Gives the key an entry with a value of that length and that expiry, which begins with `keep`
 * bytes of the old value; the rest of the value is undefined. As realloc() does, it moves where it
 * must. */
struct entry *table_reshape(uint64_t hash, struct slice key, size_t keep, size_t value_len,
                            int64_t expires)
{
    struct entry *old = table_find(hash, key);
    unsigned class = class_for(key.len, value_len, expires);

    if (old != NULL && entry_class(old) == class) {
        change_entry(hash, old, keep, value_len, expires);
        return old;
    }
    uint64_t block = alloc_block(&header()->shard[shard_of(hash)], class);
    if (block == 0 && old != NULL && entry_class(old) > class) {
        change_entry(hash, old, keep, value_len, expires);
        return old; /* nobody needs room to make an entry smaller */
    }
    if (block == 0)
        return NULL;
    struct entry *e = link_entry(hash, key, block, value_len, expires);
    if (old != NULL) {
        memcpy((char *)entry_value(e).data, entry_value(old).data, keep);
        uint64_t *place = &e->next;
        while (*place != offset_of(old))
            place = &entry_at(*place)->next;
        remove_at(shard_of(hash), place);
    }
    return e;
}

bool table_put(uint64_t hash, struct slice key, struct slice value, int64_t expires)
{
    struct entry *e = table_reshape(hash, key, 0, value.len, expires);

    if (e != NULL)
        memcpy((char *)entry_value(e).data, value.data, value.len);
    return e != NULL;
}

/* Every block is had before the first entry is changed, so it is all of them or none. */
static bool reserve(const struct slice *pair, size_t pairs, uint64_t *block)
{
    for (size_t i = 0; i < pairs; i++) {
        struct shard *s = &header()->shard[shard_of(hash_key(pair[2 * i]))];

        block[i] = alloc_block(s, class_for(pair[2 * i].len, pair[2 * i + 1].len, 0));
        if (block[i] != 0)
            continue;
        while (i-- > 0) {
            s = &header()->shard[shard_of(hash_key(pair[2 * i]))];
            free_block(s, block[i], class_for(pair[2 * i].len, pair[2 * i + 1].len, 0));
        }
        return false;
    }
    return true;
}

/* Key, value, key, value ... with the shards of all keys locked. */
bool table_put_all(const struct slice *pair, size_t pairs)
{
    uint64_t *block = malloc(pairs * sizeof *block);
    bool well = block != NULL && reserve(pair, pairs, block);

    for (size_t i = 0; well && i < pairs; i++) {
        struct slice key = pair[2 * i], value = pair[2 * i + 1];
        uint64_t hash = hash_key(key);

        table_remove(hash, key);
        struct entry *e = link_entry(hash, key, block[i], value.len, 0);
        memcpy((char *)entry_value(e).data, value.data, value.len);
    }
    free(block);
    return well;
}

void table_visit(uint64_t bucket, void (*visit)(const struct entry *e, void *arg), void *arg)
{
    uint64_t set = shard_bit(bucket);

    lock_shards(set);
    for (uint64_t at = *bucket_of(bucket); at != 0; at = entry_at(at)->next) {
        if (!has_expired(entry_at(at)))
            visit(entry_at(at), arg);
    }
    unlock_shards(set);
}

/* ---- expiry ---------------------------------------------------------------------------------- */

void table_adopt_expiry(void)
{
    for (uint64_t b = 0; b < header()->buckets; b++) {
        for (uint64_t at = *bucket_of(b); at != 0; at = entry_at(at)->next)
            state[shard_of(b)].expiring += (entry_at(at)->shape & HAS_EXPIRY) != 0;
    }
}

/* How many of a bucket's entries had expired. */
static unsigned sweep_bucket(uint64_t bucket)
{
    unsigned removed = 0;

    for (uint64_t *place = bucket_of(bucket); *place != 0;) {
        if (has_expired(entry_at(*place))) {
            expire_at(shard_of(bucket), place);
            removed++;
        } else {
            place = &entry_at(*place)->next;
        }
    }
    return removed;
}

/* One stretch of a shard's buckets. True: so many had expired that the next one may be worth it,
 * too. */
static bool sweep_shard(unsigned shard)
{
    struct shard_state *s = &state[shard];
    unsigned removed = 0;

    pthread_mutex_lock(&s->mutex);
    for (unsigned i = 0; i < SWEEP_BUCKETS && s->expiring > 0 && !read_only; i++) {
        removed += sweep_bucket(s->sweep * SHARDS + shard);
        s->sweep = (s->sweep + 1) % (header()->buckets / SHARDS);
    }
    pthread_mutex_unlock(&s->mutex);
    return removed > SWEEP_BUCKETS / 16;
}

/* A shard is locked for some 20 microseconds at a time, and all of it takes a few milliseconds at
 * the most. */
void table_sweep(void)
{
    static unsigned first;
    uint64_t end = now_us() + SWEEP_US;

    for (unsigned i = 0; i < SHARDS && now_us() < end; i++) {
        first = (first + 1) % SHARDS;
        while (sweep_shard(first) && now_us() < end)
            ;
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

void table_lay_out(size_t size)
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

void table_clear(void)
{
    struct header *h = header();

    memset(h->shard, 0, sizeof h->shard);
    memset(image + h->bucket_table, 0, h->buckets * sizeof(uint64_t));
    pthread_mutex_lock(&slab);
    h->unused = h->bucket_table + h->buckets * sizeof(uint64_t);
    pthread_mutex_unlock(&slab);
    for (unsigned i = 0; i < SHARDS; i++)
        state[i].expiring = 0;
}

struct table_counts table_count(void)
{
    struct table_counts c = {0};

    for (unsigned i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&state[i].mutex);
        c.keys += header()->shard[i].keys;
        c.used += header()->shard[i].used;
        c.expiring += state[i].expiring;
        c.expired += state[i].expired;
        pthread_mutex_unlock(&state[i].mutex);
    }
    pthread_mutex_lock(&slab);
    c.unused = header()->unused;
    pthread_mutex_unlock(&slab);
    return c;
}
