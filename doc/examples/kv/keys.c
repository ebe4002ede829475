/* SPDX-License-Identifier: MIT */
/* keys.c - the commands on keys: what there is, and for how long. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <inttypes.h>
#include <string.h>

enum { SCAN_BUCKETS = 16 * 1024, MAX_PATTERN = 1024 };

static uint64_t shards_of_keys(const struct client *c)
{
    uint64_t shards = 0;

    for (size_t i = 1; i < c->args; i++)
        shards |= shard_bit(hash_key(c->arg[i]));
    return shards;
}

void do_del(struct client *c)
{
    uint64_t shards = shards_of_keys(c);
    long long removed = 0;

    if (!lock_to_write(c, shards))
        return;
    for (size_t i = 1; i < c->args; i++) {
        uint64_t hash = hash_key(c->arg[i]);

        if (table_find(hash, c->arg[i]) == NULL)
            continue;
        table_remove(hash, c->arg[i]);
        removed++;
    }
    unlock_shards(shards);
    reply_integer(c, removed);
}

void do_exists(struct client *c)
{
    uint64_t shards = shards_of_keys(c);
    long long found = 0;

    lock_shards(shards);
    for (size_t i = 1; i < c->args; i++)
        found += table_find(hash_key(c->arg[i]), c->arg[i]) != NULL;
    unlock_shards(shards);
    reply_integer(c, found);
}

void do_type(struct client *c)
{
    uint64_t hash = hash_key(c->arg[1]);

    lock_shards(shard_bit(hash));
    reply_text(c, table_find(hash, c->arg[1]) != NULL ? "+string\r\n" : "+none\r\n");
    unlock_shards(shard_bit(hash));
}

/* What has expired counts until somebody comes across it. */
void do_dbsize(struct client *c)
{
    reply_integer(c, (long long)table_count().keys);
}

void do_flush(struct client *c)
{
    if (c->args > 2 ||
        (c->args == 2 && !is_word(c->arg[1], "SYNC") && !is_word(c->arg[1], "ASYNC"))) {
        reply_error(c, "ERR syntax error");
        return;
    }
    if (!lock_to_write(c, ALL_SHARDS))
        return;
    table_clear();
    unlock_shards(ALL_SHARDS);
    reply_ok(c);
}

/* ---- expiry ---------------------------------------------------------------------------------- */

struct conditions {
    bool none, some, later, earlier; /* NX XX GT LT */
};

static bool parse_conditions(struct client *c, struct conditions *k)
{
    for (size_t i = 3; i < c->args; i++) {
        k->none |= is_word(c->arg[i], "NX");
        k->some |= is_word(c->arg[i], "XX");
        k->later |= is_word(c->arg[i], "GT");
        k->earlier |= is_word(c->arg[i], "LT");
        if (is_word(c->arg[i], "NX") || is_word(c->arg[i], "XX") || is_word(c->arg[i], "GT") ||
            is_word(c->arg[i], "LT"))
            continue;
        reply_error(c, "ERR Unsupported option %.*s", c->arg[i].len < 64 ? (int)c->arg[i].len : 64,
                    c->arg[i].data);
        return false;
    }
    if ((k->none && (k->some || k->later || k->earlier)) || (k->later && k->earlier)) {
        reply_error(c, "ERR NX and XX, GT or LT options at the same time are not compatible, nor "
                       "GT and LT");
        return false;
    }
    return true;
}

/* A key without expiry lives for ever. */
static bool allows(struct conditions k, int64_t old, int64_t expires)
{
    return !(k.none && old != 0) && !(k.some && old == 0) &&
           !(k.later && (old == 0 || expires <= old)) && !(k.earlier && old != 0 && expires >= old);
}

/* With the key's shard locked. */
static void set_expiry(struct client *c, uint64_t hash, int64_t expires, struct conditions k)
{
    const struct entry *e = table_find(hash, c->arg[1]);

    if (e == NULL || !allows(k, entry_expiry(e), expires)) {
        reply_integer(c, 0);
    } else if (expires <= now_ms()) {
        table_remove(hash, c->arg[1]);
        reply_integer(c, 1);
    } else if (table_reshape(hash, c->arg[1], e->value_len, e->value_len, expires) != NULL) {
        reply_integer(c, 1);
    } else {
        reply_full(c);
    }
}

static void expire(struct client *c, int64_t unit, bool from_now)
{
    uint64_t hash = hash_key(c->arg[1]);
    struct conditions k = {0};
    int64_t expires;

    if (!parse_time(c, c->arg[2], unit, from_now, &expires) || !parse_conditions(c, &k))
        return;
    if (!lock_to_write(c, shard_bit(hash)))
        return;
    set_expiry(c, hash, expires, k);
    unlock_shards(shard_bit(hash));
}

void do_expire(struct client *c)
{
    expire(c, 1000, true);
}

void do_pexpire(struct client *c)
{
    expire(c, 1, true);
}

void do_expireat(struct client *c)
{
    expire(c, 1000, false);
}

void do_pexpireat(struct client *c)
{
    expire(c, 1, false);
}

/* Of the first key: -2 there is none, -1 it does not expire. */
static int64_t expiry_of(const struct client *c)
{
    uint64_t hash = hash_key(c->arg[1]);

    lock_shards(shard_bit(hash));
    const struct entry *e = table_find(hash, c->arg[1]);
    int64_t expires = e == NULL ? -2 : entry_expiry(e) == 0 ? -1 : entry_expiry(e);
    unlock_shards(shard_bit(hash));
    return expires;
}

static void reply_left(struct client *c, int64_t unit)
{
    int64_t expires = expiry_of(c), left = expires - now_ms();

    if (expires < 0)
        reply_integer(c, expires);
    else
        reply_integer(c, left < 0 ? 0 : (left + unit / 2) / unit);
}

void do_ttl(struct client *c)
{
    reply_left(c, 1000);
}

void do_pttl(struct client *c)
{
    reply_left(c, 1);
}

void do_expiretime(struct client *c)
{
    int64_t expires = expiry_of(c);

    reply_integer(c, expires < 0 ? expires : (expires + 500) / 1000);
}

void do_pexpiretime(struct client *c)
{
    reply_integer(c, expiry_of(c));
}

void do_persist(struct client *c)
{
    uint64_t hash = hash_key(c->arg[1]);

    if (!lock_to_write(c, shard_bit(hash)))
        return;
    const struct entry *e = table_find(hash, c->arg[1]);
    if (e == NULL || entry_expiry(e) == 0)
        reply_integer(c, 0);
    else if (table_reshape(hash, c->arg[1], e->value_len, e->value_len, 0) != NULL)
        reply_integer(c, 1);
    else
        reply_full(c);
    unlock_shards(shard_bit(hash));
}

/* ---- KEYS and SCAN: bucket after bucket, so that nobody waits for a whole one ---------------- */

struct listing {
    struct client *client;
    struct slice pattern;
    size_t seen, listed;
};

static void list_key(const struct entry *e, void *arg)
{
    struct listing *l = arg;

    l->seen++;
    if (!glob_match(l->pattern, entry_key(e)))
        return;
    reply_bulk(l->client, entry_key(e));
    l->listed++;
}

static bool check_pattern(struct client *c, struct slice pattern)
{
    if (pattern.len > MAX_PATTERN)
        reply_error(c, "ERR the pattern is longer than 1024 bytes");
    return pattern.len <= MAX_PATTERN;
}

/* Lists every key that is there from the beginning to the end of the command, and some of the
 * others. */
void do_keys(struct client *c)
{
    struct listing l = {.client = c, .pattern = c->arg[1]};
    size_t mark = reply_mark(c);
    char head[32];

    if (!check_pattern(c, l.pattern))
        return;
    for (uint64_t b = 0; b < header()->buckets && !c->overflow; b++)
        table_visit(b, list_key, &l);
    snprintf(head, sizeof head, "*%zu\r\n", l.listed);
    reply_head(c, mark, head);
}

struct scan_options {
    struct slice pattern;
    long long count;
    bool none; /* another type than strings is asked for */
};

static bool parse_scan(struct client *c, struct scan_options *o)
{
    for (size_t i = 2; i < c->args; i += 2) {
        if (i + 1 < c->args && is_word(c->arg[i], "MATCH")) {
            o->pattern = c->arg[i + 1];
        } else if (i + 1 < c->args && is_word(c->arg[i], "COUNT")) {
            if (!parse_integer(c->arg[i + 1], &o->count)) {
                reply_error(c, "ERR value is not an integer or out of range");
                return false;
            }
        } else if (i + 1 < c->args && is_word(c->arg[i], "TYPE")) {
            o->none = !is_word(c->arg[i + 1], "string");
        } else {
            reply_error(c, "ERR syntax error");
            return false;
        }
    }
    if (o->count < 1)
        reply_error(c, "ERR syntax error");
    return o->count >= 1 && check_pattern(c, o->pattern);
}

/* The number of buckets never changes, so a bucket is all that a cursor has to say. */
void do_scan(struct client *c)
{
    struct scan_options o = {.pattern = {"*", 1}, .count = 10};
    long long cursor;
    char next[24], head[64];

    if (!parse_integer(c->arg[1], &cursor) || cursor < 0) {
        reply_error(c, "ERR invalid cursor");
        return;
    }
    if (!parse_scan(c, &o))
        return;
    struct listing l = {.client = c, .pattern = o.pattern};
    size_t mark = reply_mark(c);
    uint64_t at = (uint64_t)cursor, most = header()->buckets, end = o.none ? at : most;
    if (end > at + SCAN_BUCKETS)
        end = at + SCAN_BUCKETS;
    while (at < end && l.seen < (size_t)o.count && !c->overflow)
        table_visit(at++, list_key, &l);
    int len = snprintf(next, sizeof next, "%" PRIu64, at >= most || o.none ? 0 : at);
    snprintf(head, sizeof head, "*2\r\n$%d\r\n%s\r\n*%zu\r\n", len, next, l.listed);
    reply_head(c, mark, head);
}
