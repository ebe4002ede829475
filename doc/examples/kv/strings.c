/* SPDX-License-Identifier: MIT */
/* strings.c - the commands on values.
 *
 * A command locks the shards of its keys, all of them at once, and holds them until it is done: so
 * it is atomic, for other clients and for a capture. What is replied is put into the client's
 * buffer meanwhile. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <inttypes.h>
#include <string.h>

/* ---- what writing has in common -------------------------------------------------------------- */

void reply_full(struct client *c)
{
    reply_rewind(c);
    reply_error(c, "OOM the data set is full: delete keys, or start an empty server with a larger "
                   "--size");
}

bool check_key(struct client *c, struct slice key)
{
    if (key.len > MAX_KEY)
        reply_error(c, "ERR the key is longer than 64 KiB");
    return key.len <= MAX_KEY;
}

/* False: answered, and nothing is locked. */
bool lock_to_write(struct client *c, uint64_t shards)
{
    lock_shards(shards);
    if (!table_read_only())
        return true;
    unlock_shards(shards);
    reply_error(c, "ERR the server is shutting down");
    return false;
}

/* Of a command whose first argument is its only key. False: answered, and nothing is locked. */
static bool lock_first_key(struct client *c, uint64_t *hash)
{
    *hash = hash_key(c->arg[1]);
    return check_key(c, c->arg[1]) && lock_to_write(c, shard_bit(*hash));
}

/* Of arguments first, first + step ... */
static uint64_t shards_of_args(const struct client *c, size_t first, size_t step)
{
    uint64_t shards = 0;

    for (size_t i = first; i < c->args; i += step)
        shards |= shard_bit(hash_key(c->arg[i]));
    return shards;
}

static void reply_value(struct client *c, const struct entry *e)
{
    if (e != NULL)
        reply_bulk(c, entry_value(e));
    else
        reply_nil(c);
}

/* ---- reading --------------------------------------------------------------------------------- */

void do_get(struct client *c)
{
    uint64_t hash = hash_key(c->arg[1]);

    lock_shards(shard_bit(hash));
    reply_value(c, table_find(hash, c->arg[1]));
    unlock_shards(shard_bit(hash));
}

void do_strlen(struct client *c)
{
    uint64_t hash = hash_key(c->arg[1]);

    lock_shards(shard_bit(hash));
    const struct entry *e = table_find(hash, c->arg[1]);
    reply_integer(c, e != NULL ? e->value_len : 0);
    unlock_shards(shard_bit(hash));
}

void do_mget(struct client *c)
{
    uint64_t shards = shards_of_args(c, 1, 1);

    reply_array(c, c->args - 1);
    lock_shards(shards);
    for (size_t i = 1; i < c->args && !c->overflow; i++)
        reply_value(c, table_find(hash_key(c->arg[i]), c->arg[i]));
    unlock_shards(shards);
}

/* ---- SET and its older relatives ------------------------------------------------------------- */

bool parse_time(struct client *c, struct slice text, int64_t unit, bool from_now, int64_t *out)
{
    long long n;
    int64_t ms;

    if (!parse_integer(text, &n)) {
        reply_error(c, "ERR value is not an integer or out of range");
        return false;
    }
    if (__builtin_mul_overflow((int64_t)n, unit, &ms) ||
        __builtin_add_overflow(ms, from_now ? now_ms() : 0, out)) {
        reply_error(c, "ERR invalid expire time in '%s' command", c->command->name);
        return false;
    }
    return true;
}

/* As parse_time(), of a value that is being set: only a time to come makes sense. */
static bool parse_lifetime(struct client *c, struct slice text, int64_t unit, bool from_now,
                           int64_t *out)
{
    long long n;

    if (parse_integer(text, &n) && n <= 0) {
        reply_error(c, "ERR invalid expire time in '%s' command", c->command->name);
        return false;
    }
    return parse_time(c, text, unit, from_now, out);
}

struct set_options {
    bool if_new, if_there, keep_expiry, get;
    int64_t expires;
};

/* The option at argument i. 0: answered with an error, else how many arguments it takes. */
static size_t parse_set_option(struct client *c, size_t i, struct set_options *o)
{
    static const struct lifetime {
        const char *word;
        int64_t unit;
        bool from_now;
    } lifetimes[] = {
        {"EX", 1000, true},
        {"PX", 1, true},
        {"EXAT", 1000, false},
        {"PXAT", 1, false},
    };
    bool timed = o->expires != 0 || o->keep_expiry;

    for (size_t k = 0; k < sizeof lifetimes / sizeof lifetimes[0]; k++) {
        const struct lifetime *l = &lifetimes[k];

        if (is_word(c->arg[i], l->word) && i + 1 < c->args && !timed)
            return parse_lifetime(c, c->arg[i + 1], l->unit, l->from_now, &o->expires) ? 2 : 0;
    }
    if (is_word(c->arg[i], "NX") && !o->if_there)
        o->if_new = true;
    else if (is_word(c->arg[i], "XX") && !o->if_new)
        o->if_there = true;
    else if (is_word(c->arg[i], "KEEPTTL") && o->expires == 0)
        o->keep_expiry = true;
    else if (is_word(c->arg[i], "GET"))
        o->get = true;
    else {
        reply_error(c, "ERR syntax error");
        return 0;
    }
    return 1;
}

/* With the key's shard locked. True: it was set. Otherwise it was not to be, or answered with an
 * error. */
static bool set(struct client *c, uint64_t hash, struct slice key, struct slice value,
                struct set_options o)
{
    const struct entry *old = table_find(hash, key);

    if (o.get)
        reply_value(c, old);
    if (c->overflow)
        return false; /* an error will be the answer: then nothing may have been done */
    if (o.if_new ? old != NULL : o.if_there && old == NULL)
        return false;
    if (o.keep_expiry && old != NULL)
        o.expires = entry_expiry(old);
    if (table_put(hash, key, value, o.expires))
        return true;
    reply_full(c);
    return false;
}

void do_set(struct client *c)
{
    struct set_options o = {0};
    uint64_t hash;

    for (size_t i = 3, taken; i < c->args; i += taken) {
        taken = parse_set_option(c, i, &o);
        if (taken == 0)
            return;
    }
    if (!lock_first_key(c, &hash))
        return;
    size_t before = reply_mark(c);
    bool done = set(c, hash, c->arg[1], c->arg[2], o);
    unlock_shards(shard_bit(hash));
    if (done && !o.get)
        reply_ok(c);
    else if (reply_mark(c) == before && !c->overflow)
        reply_nil(c);
}

static void set_for(struct client *c, int64_t unit)
{
    struct set_options o = {0};
    uint64_t hash;

    if (!parse_lifetime(c, c->arg[2], unit, true, &o.expires) || !lock_first_key(c, &hash))
        return;
    if (set(c, hash, c->arg[1], c->arg[3], o))
        reply_ok(c);
    unlock_shards(shard_bit(hash));
}

void do_setex(struct client *c)
{
    set_for(c, 1000);
}

void do_psetex(struct client *c)
{
    set_for(c, 1);
}

void do_setnx(struct client *c)
{
    uint64_t hash;

    if (!lock_first_key(c, &hash))
        return;
    if (table_find(hash, c->arg[1]) != NULL)
        reply_integer(c, 0);
    else if (set(c, hash, c->arg[1], c->arg[2], (struct set_options){0}))
        reply_integer(c, 1);
    unlock_shards(shard_bit(hash));
}

void do_getset(struct client *c)
{
    uint64_t hash;

    if (!lock_first_key(c, &hash))
        return;
    set(c, hash, c->arg[1], c->arg[2], (struct set_options){.get = true});
    unlock_shards(shard_bit(hash));
}

void do_getdel(struct client *c)
{
    uint64_t hash;

    if (!lock_first_key(c, &hash))
        return;
    reply_value(c, table_find(hash, c->arg[1]));
    if (!c->overflow)
        table_remove(hash, c->arg[1]);
    unlock_shards(shard_bit(hash));
}

void do_mset(struct client *c)
{
    if (c->args % 2 == 0) {
        reply_error(c, "ERR wrong number of arguments for 'mset' command");
        return;
    }
    for (size_t i = 1; i < c->args; i += 2) {
        if (!check_key(c, c->arg[i]))
            return;
    }
    uint64_t shards = shards_of_args(c, 1, 2);
    if (!lock_to_write(c, shards))
        return;
    if (table_put_all(c->arg + 1, c->args / 2))
        reply_ok(c);
    else
        reply_full(c);
    unlock_shards(shards);
}

/* ---- changing a value ------------------------------------------------------------------------ */

/* With the key's shard locked. The expiry stays. */
static void add(struct client *c, uint64_t hash, long long by)
{
    const struct entry *old = table_find(hash, c->arg[1]);
    long long n = 0;
    char digits[24];

    if (old != NULL && !parse_integer(entry_value(old), &n)) {
        reply_error(c, "ERR value is not an integer or out of range");
        return;
    }
    if (__builtin_add_overflow(n, by, &n)) {
        reply_error(c, "ERR increment or decrement would overflow");
        return;
    }
    int len = snprintf(digits, sizeof digits, "%lld", n);
    if (table_put(hash, c->arg[1], (struct slice){digits, (size_t)len},
                  old != NULL ? entry_expiry(old) : 0))
        reply_integer(c, n);
    else
        reply_full(c);
}

static void add_to_key(struct client *c, long long by)
{
    uint64_t hash;

    if (!lock_first_key(c, &hash))
        return;
    add(c, hash, by);
    unlock_shards(shard_bit(hash));
}

void do_incr(struct client *c)
{
    add_to_key(c, 1);
}

void do_decr(struct client *c)
{
    add_to_key(c, -1);
}

static void add_argument(struct client *c, bool subtract)
{
    long long by;

    if (!parse_integer(c->arg[2], &by))
        reply_error(c, "ERR value is not an integer or out of range");
    else if (subtract && by == INT64_MIN)
        reply_error(c, "ERR decrement would overflow");
    else
        add_to_key(c, subtract ? -by : by);
}

void do_incrby(struct client *c)
{
    add_argument(c, false);
}

void do_decrby(struct client *c)
{
    add_argument(c, true);
}

/* With the key's shard locked. */
static void append(struct client *c, uint64_t hash)
{
    const struct entry *old = table_find(hash, c->arg[1]);
    size_t before = old != NULL ? old->value_len : 0;

    if (before + c->arg[2].len > MAX_VALUE) {
        reply_error(c, "ERR string exceeds maximum allowed size (64 MiB)");
        return;
    }
    struct entry *e = table_reshape(hash, c->arg[1], before, before + c->arg[2].len,
                                    old != NULL ? entry_expiry(old) : 0);
    if (e == NULL) {
        reply_full(c);
        return;
    }
    memcpy((char *)entry_value(e).data + before, c->arg[2].data, c->arg[2].len);
    reply_integer(c, e->value_len);
}

void do_append(struct client *c)
{
    uint64_t hash;

    if (!lock_first_key(c, &hash))
        return;
    append(c, hash);
    unlock_shards(shard_bit(hash));
}
