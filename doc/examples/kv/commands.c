/* SPDX-License-Identifier: MIT */
/* commands.c - the list of commands, and finding one.
 *
 * The texts of errors that clients look at are those of Redis: unknown command, wrong number of
 * arguments, and so on. What this server does not have (lists, sets, hashes ...) is an unknown
 * command. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* In the order in which they are looked for: what is asked most comes first. */
static const struct command commands[] = {
    {"get", 2, do_get, "readonly fast", 1, 1, 1, "string", "Returns the value of a key"},
    {"set", -3, do_set, "write denyoom", 1, 1, 1, "string",
     "Sets the value of a key, and its expiry"},
    {"incr", 2, do_incr, "write denyoom fast", 1, 1, 1, "string", "Adds one to an integer"},
    {"mget", -2, do_mget, "readonly fast", 1, -1, 1, "string", "Returns the values of keys"},
    {"mset", -3, do_mset, "write denyoom", 1, -1, 2, "string", "Sets keys to values, all at once"},
    {"del", -2, do_del, "write", 1, -1, 1, "generic", "Removes keys"},
    {"exists", -2, do_exists, "readonly fast", 1, -1, 1, "generic",
     "Counts which of the keys are there"},
    {"expire", -3, do_expire, "write fast", 1, 1, 1, "generic",
     "Sets how many seconds a key will live"},
    {"ttl", 2, do_ttl, "readonly fast", 1, 1, 1, "generic",
     "Returns how many seconds a key will live"},
    {"ping", -1, do_ping, "fast", 0, 0, 0, "connection", "Answers"},
    {"append", 3, do_append, "write denyoom fast", 1, 1, 1, "string", "Adds to the end of a value"},
    {"bgsave", -1, do_bgsave, "admin noscript", 0, 0, 0, "server", "Saves in the background"},
    {"client", -2, do_client, "admin", 0, 0, 0, "connection",
     "Tells about connections, and names them"},
    {"command", -1, do_command, "loading stale", 0, 0, 0, "server", "Tells about commands"},
    {"config", -2, do_config, "admin loading stale", 0, 0, 0, "server",
     "Tells how the server was started"},
    {"dbsize", 1, do_dbsize, "readonly fast", 0, 0, 0, "server", "Counts the keys"},
    {"decr", 2, do_decr, "write denyoom fast", 1, 1, 1, "string", "Subtracts one from an integer"},
    {"decrby", 3, do_decrby, "write denyoom fast", 1, 1, 1, "string", "Subtracts from an integer"},
    {"echo", 2, do_echo, "fast", 0, 0, 0, "connection", "Returns what it is given"},
    {"expireat", -3, do_expireat, "write fast", 1, 1, 1, "generic",
     "Sets until when a key will live"},
    {"expiretime", 2, do_expiretime, "readonly fast", 1, 1, 1, "generic",
     "Returns until when a key lives"},
    {"flushall", -1, do_flush, "write", 0, 0, 0, "server", "Removes all keys"},
    {"flushdb", -1, do_flush, "write", 0, 0, 0, "server", "Removes all keys"},
    {"getdel", 2, do_getdel, "write fast", 1, 1, 1, "string",
     "Returns the value of a key, and removes it"},
    {"getset", 3, do_getset, "write denyoom fast", 1, 1, 1, "string",
     "Returns a value, and sets another"},
    {"hello", -1, do_hello, "fast noscript", 0, 0, 0, "connection",
     "Agrees on the protocol: version 2"},
    {"incrby", 3, do_incrby, "write denyoom fast", 1, 1, 1, "string", "Adds to an integer"},
    {"info", -1, do_info, "loading stale", 0, 0, 0, "server", "Tells how the server is"},
    {"keys", 2, do_keys, "readonly", 0, 0, 0, "generic", "Lists the keys that match a pattern"},
    {"lastsave", 1, do_lastsave, "loading stale fast", 0, 0, 0, "server",
     "Returns when was saved last"},
    {"persist", 2, do_persist, "write fast", 1, 1, 1, "generic", "Lets a key live for ever"},
    {"pexpire", -3, do_pexpire, "write fast", 1, 1, 1, "generic",
     "Sets how many milliseconds a key will live"},
    {"pexpireat", -3, do_pexpireat, "write fast", 1, 1, 1, "generic",
     "As EXPIREAT, in milliseconds"},
    {"pexpiretime", 2, do_pexpiretime, "readonly fast", 1, 1, 1, "generic",
     "As EXPIRETIME, in milliseconds"},
    {"psetex", 4, do_psetex, "write denyoom", 1, 1, 1, "string", "As SETEX, in milliseconds"},
    {"pttl", 2, do_pttl, "readonly fast", 1, 1, 1, "generic", "As TTL, in milliseconds"},
    {"quit", -1, do_quit, "fast", 0, 0, 0, "connection", "Closes the connection"},
    {"save", 1, do_save, "admin noscript", 0, 0, 0, "server", "Saves, and answers when it is done"},
    {"scan", -2, do_scan, "readonly", 0, 0, 0, "generic", "Lists the keys, some at a time"},
    {"select", 2, do_select, "fast", 0, 0, 0, "connection",
     "Chooses the data set: 0 is the only one"},
    {"setex", 4, do_setex, "write denyoom", 1, 1, 1, "string",
     "Sets a key for a number of seconds"},
    {"setnx", 3, do_setnx, "write denyoom fast", 1, 1, 1, "string",
     "Sets a key that is not there yet"},
    {"shutdown", -1, do_shutdown, "admin noscript", 0, 0, 0, "server", "Saves and stops"},
    {"strlen", 2, do_strlen, "readonly fast", 1, 1, 1, "string", "Returns the length of a value"},
    {"time", 1, do_time, "loading stale fast", 0, 0, 0, "server", "Returns the time"},
    {"touch", -2, do_exists, "readonly fast", 1, -1, 1, "generic", "As EXISTS"},
    {"type", 2, do_type, "readonly fast", 1, 1, 1, "generic", "Returns the type of a key's value"},
    {"unlink", -2, do_del, "write fast", 1, -1, 1, "generic", "As DEL"},
};

enum { COMMANDS = sizeof commands / sizeof commands[0] };

static atomic_size_t run_so_far;

uint64_t count_commands(void)
{
    return atomic_load(&run_so_far);
}

static const struct command *find_command(struct slice name)
{
    for (size_t i = 0; i < COMMANDS; i++) {
        if (is_word(name, commands[i].name))
            return &commands[i];
    }
    return NULL;
}

/* What was sent is quoted, cut short; reply_error() sees to it that it is one line. */
static void reply_unknown(struct client *c)
{
    char args[160] = "";
    size_t len = 0;

    for (size_t i = 1; i < c->args && len < 96; i++) {
        int shown = c->arg[i].len < 32 ? (int)c->arg[i].len : 32;
        int n = snprintf(args + len, sizeof args - len, "'%.*s' ", shown, c->arg[i].data);
        len += n > 0 ? (size_t)n : 0;
    }
    reply_error(c, "ERR unknown command '%.*s', with args beginning with: %s",
                c->arg[0].len < 128 ? (int)c->arg[0].len : 128, c->arg[0].data, args);
}

/* A browser that was sent here by some page speaks HTTP; what it was made to send must not be
 * run. */
static bool is_http(const struct client *c)
{
    return is_word(c->arg[0], "POST") || is_word(c->arg[0], "Host:");
}

static void find_and_run(struct client *c)
{
    c->command = find_command(c->arg[0]);
    if (is_http(c)) {
        refused(REFUSED_PROTOCOL, "%s speaks HTTP: closed, none of its lines was run", c->peer);
        c->closing = true;
    } else if (c->command == NULL) {
        reply_unknown(c);
    } else if (c->command->arity > 0 ? c->args != (size_t)c->command->arity
                                     : c->args < (size_t)-c->command->arity) {
        reply_error(c, "ERR wrong number of arguments for '%s' command", c->command->name);
    } else {
        c->command->run(c);
    }
}

void run_command(struct client *c)
{
    atomic_fetch_add_explicit(&run_so_far, 1, memory_order_relaxed);
    reply_begin(c);
    find_and_run(c);
    reply_end(c);
}

/* ---- COMMAND: redis-cli asks for DOCS when it starts, drivers for the whole list ------------- */

static void reply_flags(struct client *c, const char *flags)
{
    size_t n = 1;

    for (const char *p = flags; *p != '\0'; p++)
        n += *p == ' ';
    reply_array(c, n);
    while (n-- > 0) {
        size_t len = strcspn(flags, " ");

        reply_format(c, "+%.*s\r\n", (int)len, flags);
        flags += len + (flags[len] == ' ');
    }
}

static void reply_info(struct client *c, const struct command *k)
{
    reply_array(c, 6);
    reply_string(c, k->name);
    reply_integer(c, k->arity);
    reply_flags(c, k->flags);
    reply_integer(c, k->first);
    reply_integer(c, k->last);
    reply_integer(c, k->step);
}

static void reply_docs(struct client *c, const struct command *k)
{
    reply_string(c, k->name);
    reply_array(c, 4);
    reply_string(c, "summary");
    reply_string(c, k->summary);
    reply_string(c, "group");
    reply_string(c, k->group);
}

static void reply_all_info(struct client *c)
{
    reply_array(c, COMMANDS);
    for (size_t i = 0; i < COMMANDS; i++)
        reply_info(c, &commands[i]);
}

static void reply_some_info(struct client *c)
{
    reply_array(c, c->args - 2);
    for (size_t i = 2; i < c->args; i++) {
        const struct command *k = find_command(c->arg[i]);

        if (k != NULL)
            reply_info(c, k);
        else
            reply_text(c, "*-1\r\n");
    }
}

/* A map, of those of the names that there are. */
static void reply_some_docs(struct client *c)
{
    size_t mark = reply_mark(c), found = 0;
    char head[32];

    for (size_t i = 0; i < COMMANDS; i++) {
        bool wanted = c->args == 2;

        for (size_t a = 2; a < c->args && !wanted; a++)
            wanted = is_word(c->arg[a], commands[i].name);
        if (!wanted)
            continue;
        reply_docs(c, &commands[i]);
        found++;
    }
    snprintf(head, sizeof head, "*%zu\r\n", 2 * found);
    reply_head(c, mark, head);
}

static void reply_names(struct client *c)
{
    reply_array(c, COMMANDS);
    for (size_t i = 0; i < COMMANDS; i++)
        reply_string(c, commands[i].name);
}

void do_command(struct client *c)
{
    if (c->args == 1 || (c->args == 2 && is_word(c->arg[1], "INFO")))
        reply_all_info(c);
    else if (is_word(c->arg[1], "INFO"))
        reply_some_info(c);
    else if (is_word(c->arg[1], "DOCS"))
        reply_some_docs(c);
    else if (is_word(c->arg[1], "COUNT") && c->args == 2)
        reply_integer(c, COMMANDS);
    else if (is_word(c->arg[1], "LIST") && c->args == 2)
        reply_names(c);
    else
        reply_error(c, "ERR COMMAND knows COUNT, DOCS, INFO and LIST only");
}
