/* SPDX-License-Identifier: MIT */
/* admin.c - the commands on the server and on connections.
 *
 * INFO and CONFIG use the names of Redis for what means the same there, so that its tools can read
 * them. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* ---- connections ----------------------------------------------------------------------------- */

void do_ping(struct client *c)
{
    if (c->args > 2)
        reply_error(c, "ERR wrong number of arguments for 'ping' command");
    else if (c->args == 2)
        reply_bulk(c, c->arg[1]);
    else
        reply_text(c, "+PONG\r\n");
}

void do_echo(struct client *c)
{
    reply_bulk(c, c->arg[1]);
}

void do_quit(struct client *c)
{
    reply_ok(c);
    c->closing = true;
}

void do_select(struct client *c)
{
    long long n;

    if (!parse_integer(c->arg[1], &n))
        reply_error(c, "ERR value is not an integer or out of range");
    else if (n != 0)
        reply_error(c, "ERR DB index is out of range: there is 0 only");
    else
        reply_ok(c);
}

/* A name is shown in lists with spaces between, a line for each client. */
static bool check_name(struct client *c, struct slice name, const char *what)
{
    for (size_t i = 0; i < name.len; i++) {
        if (name.data[i] < '!' || name.data[i] > '~') {
            reply_error(c, "ERR %s cannot contain spaces, newlines or special characters.", what);
            return false;
        }
    }
    if (name.len >= MAX_NAME)
        reply_error(c, "ERR %s cannot be longer than %d bytes", what, MAX_NAME - 1);
    return name.len < MAX_NAME;
}

static const char client_names[] = "Client names";

static void reply_hello(struct client *c)
{
    reply_array(c, 14);
    reply_string(c, "server");
    reply_string(c, "kvserver");
    reply_string(c, "version");
    reply_string(c, memsnap_version_string());
    reply_string(c, "proto");
    reply_integer(c, 2);
    reply_string(c, "id");
    reply_integer(c, (long long)c->id);
    reply_string(c, "mode");
    reply_string(c, "standalone");
    reply_string(c, "role");
    reply_string(c, "master");
    reply_string(c, "modules");
    reply_array(c, 0);
}

void do_hello(struct client *c)
{
    struct slice name = {NULL, 0};
    long long version = 2;

    if (c->args > 1 && !parse_integer(c->arg[1], &version)) {
        reply_error(c, "ERR Protocol version is not an integer or out of range");
        return;
    }
    if (version != 2) {
        reply_error(c, "NOPROTO unsupported protocol version: this server speaks version 2");
        return;
    }
    for (size_t i = 2; i < c->args; i += 2) {
        if (!is_word(c->arg[i], "SETNAME") || i + 1 == c->args) {
            reply_error(c, "ERR HELLO takes a version and SETNAME only: no password is asked for");
            return;
        }
        name = c->arg[i + 1];
        if (!check_name(c, name, client_names))
            return;
    }
    if (c->args > 2)
        net_name_client(c, c->name, name);
    reply_hello(c);
}

/* Of other workers' clients: only what is guarded by the worker's lock, atomic, or does not
 * change. */
static void print_client(const struct client *c, void *arg)
{
    uint64_t now = now_us(), active = atomic_load(&c->active);

    fprintf(arg, "id=%" PRIu64 " addr=%s fd=%d name=%s age=%" PRIu64 " idle=%" PRIu64 " db=0 ",
            c->id, c->peer, c->fd, c->name, (now - c->connected) / 1000000,
            now > active ? (now - active) / 1000000 : 0);
    fprintf(arg, "tot-mem=%zu lib-name=%s lib-ver=%s resp=2\n", atomic_load(&c->held), c->lib_name,
            c->lib_ver);
}

static void print_clients(FILE *f, struct client *c)
{
    (void)c;
    net_each_client(print_client, f);
}

static void print_this_client(FILE *f, struct client *c)
{
    print_client(c, f);
}

static void reply_printed(struct client *c, void (*print)(FILE *f, struct client *c))
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    if (f != NULL)
        print(f, c);
    if (f != NULL && fclose(f) == 0)
        reply_bulk(c, (struct slice){text, len});
    else
        c->overflow = true;
    free(text);
}

static void set_library(struct client *c)
{
    bool name = is_word(c->arg[2], "LIB-NAME");

    if (!name && !is_word(c->arg[2], "LIB-VER")) {
        reply_error(c, "ERR Unrecognized option: CLIENT SETINFO knows LIB-NAME and LIB-VER");
    } else if (check_name(c, c->arg[3], name ? "lib-name" : "lib-ver")) {
        net_name_client(c, name ? c->lib_name : c->lib_ver, c->arg[3]);
        reply_ok(c);
    }
}

void do_client(struct client *c)
{
    struct slice verb = c->arg[1];

    if (is_word(verb, "ID") && c->args == 2) {
        reply_integer(c, (long long)c->id);
    } else if (is_word(verb, "GETNAME") && c->args == 2) {
        if (c->name[0] != '\0')
            reply_string(c, c->name);
        else
            reply_nil(c);
    } else if (is_word(verb, "SETNAME") && c->args == 3) {
        if (!check_name(c, c->arg[2], client_names))
            return;
        net_name_client(c, c->name, c->arg[2]);
        reply_ok(c);
    } else if (is_word(verb, "SETINFO") && c->args == 4) {
        set_library(c);
    } else if (is_word(verb, "LIST") && c->args == 2) {
        reply_printed(c, print_clients);
    } else if (is_word(verb, "INFO") && c->args == 2) {
        reply_printed(c, print_this_client);
    } else {
        reply_error(c, "ERR unknown subcommand or wrong number of arguments: CLIENT knows GETNAME, "
                       "ID, INFO, LIST, "
                       "SETINFO and SETNAME");
    }
}

/* ---- saving and stopping --------------------------------------------------------------------- */

void do_bgsave(struct client *c)
{
    if (c->args > 2 || (c->args == 2 && !is_word(c->arg[1], "SCHEDULE"))) {
        reply_error(c, "ERR syntax error");
        return;
    }
    const char *trouble = save_in_background();
    if (trouble != NULL)
        reply_error(c, "%s", trouble);
    else
        reply_text(c, "+Background saving started\r\n");
}

void do_save(struct client *c)
{
    if (save_now() < 0)
        reply_error(c, "ERR the data set could not be saved, see INFO");
    else
        reply_ok(c);
}

void do_lastsave(struct client *c)
{
    reply_integer(c, (long long)save_last());
}

void do_shutdown(struct client *c)
{
    bool save = c->args < 2 || is_word(c->arg[1], "SAVE");

    if (c->args > 2 || (c->args == 2 && !save && !is_word(c->arg[1], "NOSAVE"))) {
        reply_error(c, "ERR syntax error");
        return;
    }
    if (save && save_and_close() < 0) {
        reply_error(c, "ERR Errors trying to SHUTDOWN: the data set could not be saved, see INFO");
        return;
    }
    net_stop();
    c->closing = true;
}

/* ---- CONFIG: what there is to set are the options of the command line ------------------------ */

struct parameter {
    const char *name;
    char value[64];
    const char *text; /* instead, if it is not NULL */
};

static void get_config(struct client *c)
{
    struct parameter p[] = {
        {"appendonly", "no", NULL},       {"databases", "1", NULL},
        {"dbfilename", "", options.file}, {"maxclients", "", NULL},
        {"maxmemory", "", NULL},          {"port", "", NULL},
        {"proto-max-bulk-len", "", NULL}, {"save", "", NULL},
        {"timeout", "0", NULL},
    };
    size_t mark = reply_mark(c), found = 0;
    char head[32];

    snprintf(p[3].value, sizeof p[3].value, "%u", options.max_clients);
    snprintf(p[4].value, sizeof p[4].value, "%" PRIu64, header()->size);
    snprintf(p[5].value, sizeof p[5].value, "%u", options.port);
    snprintf(p[6].value, sizeof p[6].value, "%d", MAX_VALUE);
    for (size_t i = 0; i < sizeof p / sizeof p[0]; i++) {
        bool wanted = false;

        for (size_t a = 2; a < c->args && !wanted; a++)
            wanted = glob_match(c->arg[a], (struct slice){p[i].name, strlen(p[i].name)});
        if (!wanted)
            continue;
        reply_string(c, p[i].name);
        reply_string(c, p[i].text != NULL ? p[i].text : p[i].value);
        found++;
    }
    snprintf(head, sizeof head, "*%zu\r\n", 2 * found);
    reply_head(c, mark, head);
}

void do_config(struct client *c)
{
    if (c->args > 2 && is_word(c->arg[1], "GET")) {
        get_config(c);
    } else {
        reply_error(c, "ERR CONFIG knows GET only: give options when the server is started");
    }
}

/* ---- INFO ------------------------------------------------------------------------------------ */

static void print_server(FILE *f)
{
    fprintf(f, "server_name:kvserver\r\nmemsnap_version:%s\r\n", memsnap_version_string());
    fprintf(f, "process_id:%ld\r\ntcp_port:%u\r\n", (long)getpid(), options.port);
    fprintf(f, "uptime_in_seconds:%lld\r\n", (long long)(time(NULL) - started));
}

static void print_clients_section(FILE *f)
{
    fprintf(f, "connected_clients:%u\r\nmaxclients:%u\r\n", net_clients(), options.max_clients);
    fprintf(f, "client_buffers:%zu\r\nmax_client_buffers:%zu\r\n", budget_used(),
            options.max_buffers);
}

static void print_memory(FILE *f)
{
    struct table_counts t = table_count();

    fprintf(f, "image_size:%" PRIu64 "\r\nimage_used:%" PRIu64 "\r\n", header()->size, t.unused);
    fprintf(f, "entries_used:%" PRIu64 "\r\n", t.used);
    save_print_view(f);
}

/* A name of a file may contain anything, also what would look like a line of ours. */
static void print_persistence(FILE *f)
{
    fputs("file:", f);
    for (const char *p = options.file; *p != '\0'; p++)
        fputc((unsigned char)*p < ' ' ? ' ' : *p, f);
    fputs("\r\nloading:0\r\n", f);
    save_print(f);
    thaw_print(f);
}

static void print_stats(FILE *f)
{
    fprintf(f, "total_commands_processed:%" PRIu64 "\r\n", count_commands());
    fprintf(f, "total_error_replies:%" PRIu64 "\r\n", count_errors());
    fprintf(f, "expired_keys:%" PRIu64 "\r\n", table_count().expired);
    print_refusals(f);
}

static void print_replication(FILE *f)
{
    fputs("role:master\r\nconnected_slaves:0\r\n", f);
}

static void print_keyspace(FILE *f)
{
    struct table_counts t = table_count();

    if (t.keys > 0)
        fprintf(f, "db0:keys=%" PRIu64 ",expires=%" PRIu64 "\r\n", t.keys, t.expiring);
}

static void print_info(FILE *f, struct client *c)
{
    static const struct section {
        const char *name;
        void (*print)(FILE *f);
    } sections[] = {
        {"Server", print_server},     {"Clients", print_clients_section},
        {"Memory", print_memory},     {"Persistence", print_persistence},
        {"Stats", print_stats},       {"Replication", print_replication},
        {"Keyspace", print_keyspace},
    };
    const char *between = "";

    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        bool wanted = c->args == 1;

        for (size_t a = 1; a < c->args && !wanted; a++)
            wanted = is_word(c->arg[a], sections[i].name) || is_word(c->arg[a], "all") ||
                     is_word(c->arg[a], "default") || is_word(c->arg[a], "everything");
        if (!wanted)
            continue;
        fprintf(f, "%s# %s\r\n", between, sections[i].name);
        sections[i].print(f);
        between = "\r\n";
    }
}

void do_info(struct client *c)
{
    reply_printed(c, print_info);
}

void do_time(struct client *c)
{
    struct timeval now;
    char text[24];

    gettimeofday(&now, NULL);
    reply_array(c, 2);
    snprintf(text, sizeof text, "%lld", (long long)now.tv_sec);
    reply_string(c, text);
    snprintf(text, sizeof text, "%ld", (long)now.tv_usec);
    reply_string(c, text);
}
