/* SPDX-License-Identifier: MIT */
/* kvserver.h - what the files of kvserver share: one section for each file, and first the terms.
 *
 *     image     the bytes of the mutable view: header, hash table, entries. The image is saved.
 *     shard     one of 64 parts of the hash table, with a lock and an allocator of its own
 *     entry     a key, its value and, if it has one, the time at which it expires
 *     block     a piece of the image that holds one entry, of one of 96 sizes (its class)
 *     capture   the moment at which a save takes its snapshot: the only one at which writers wait
 *     thaw      what follows a save: stores go straight into the image again
 *     worker    a thread that serves some of the clients
 *
 * Locks, in the order in which they are taken: save -> shard 0 .. shard 63 -> slab; worker and
 * thaw -> nothing. */
#ifndef KVSERVER_H
#define KVSERVER_H

#include <memsnap.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

enum {
    MAX_KEY = 64 * 1024,
    MAX_VALUE = 64 * 1024 * 1024,
    MAX_REQUEST = MAX_VALUE + 1024 * 1024,
    MAX_ARGS = 64 * 1024,
};

struct slice {
    const char *data;
    size_t len;
};

/* ---- main.c ---------------------------------------------------------------------------------- */

struct options {
    unsigned port, threads, max_clients, timeout_s;
    size_t size, max_buffers; /* bytes */
    const char *file;         /* absolute, no link */
};

extern struct options options; /* nobody changes them once the threads run */
extern time_t started;

/* ---- report.c: what the operator is told ----------------------------------------------------- */

enum refusal {
    REFUSED_CLIENT,   /* too many are connected */
    REFUSED_PROTOCOL, /* what came is no request, or one beyond the limits */
    REFUSED_REQUEST,  /* the buffers are full: the request was not read on */
    REFUSED_REPLY,    /* the buffers are full: the client got an error in place of the reply */
    REFUSED_STALLED,  /* a request or a reply was half done for too long */
    REFUSALS
};

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void refused(enum refusal kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
void print_refusals(FILE *f);

uint64_t now_us(void); /* of a clock that only goes forward */
int64_t now_ms(void);  /* since 1970 */

/* ---- table.c: the data set ------------------------------------------------------------------- */

enum {
    SHARDS = 64,  /* so that a set of them is a uint64_t */
    CLASSES = 96, /* block sizes: 32, 40, 48, 56, 64, 80 ... each doubling in four steps */
};

#define IMAGE_MAGIC "kvserver"
#define IMAGE_BYTE_ORDER 0x01020304u /* the image is kept in the machine's own byte order */

/* Version 1 had neither expiry nor checksum, and is laid out like version 2 otherwise: it is
 * loaded, and saved as version 2. Page sizes play no part: an image is loaded whatever those of its
 * machine were. */
#define IMAGE_VERSION 2u
#define IMAGE_MIN ((size_t)1 << 20)

struct shard {
    uint64_t keys;
    uint64_t used;          /* bytes of blocks that hold an entry */
    uint64_t next, end;     /* the slab being cut into blocks */
    uint64_t free[CLASSES]; /* lists of blocks, through their first eight bytes */
};

/* Places in the image are offsets from its first byte. */
struct header {
    char magic[8];
    uint32_t byte_order, version;
    uint64_t size;         /* of the image */
    uint64_t buckets;      /* a power of two, at least SHARDS */
    uint64_t bucket_table; /* of `buckets` first entries; 0 ends a chain */
    uint64_t unused;       /* first byte that no shard has taken yet */
    struct shard shard[SHARDS];
    uint64_t checksum; /* in a file: of the bytes before `unused`, with 0 here. In memory: 0. */
};

enum { HAS_EXPIRY = 1u << 8 };

struct entry {
    uint64_t next;
    uint32_t hash; /* the upper half */
    uint32_t key_len, value_len;
    uint32_t shape; /* class of the block, and HAS_EXPIRY */
    char bytes[];   /* with HAS_EXPIRY eight of time (ms since 1970), then key, then value */
};

extern char *image;

void table_init(void);
void table_lay_out(size_t size);
struct header *header(void);

/* Also for the check of an image that is not trusted yet: no more than arithmetic. */
uint64_t class_size(unsigned class);
struct entry *entry_at(uint64_t offset);
unsigned entry_class(const struct entry *e);
int64_t entry_expiry(const struct entry *e); /* 0: never */
struct slice entry_key(const struct entry *e);
struct slice entry_value(const struct entry *e);
uint64_t hash_key(struct slice key);
uint64_t *bucket_of(uint64_t hash);

/* Shards are locked together, in ascending order: bit N of a set is shard N. */
#define ALL_SHARDS UINT64_MAX
uint64_t shard_bit(uint64_t hash);
void lock_shards(uint64_t set);
void unlock_shards(uint64_t set);

/* With the key's shard locked. An entry that has expired is not found; it is removed on the way. */
struct entry *table_find(uint64_t hash, struct slice key);
void table_remove(uint64_t hash, struct slice key);
/* False or NULL: the image is full, and nothing has changed. expires == 0: never. */
bool table_put(uint64_t hash, struct slice key, struct slice value, int64_t expires);
struct entry *table_reshape(uint64_t hash, struct slice key, size_t keep, size_t value_len,
                            int64_t expires);
bool table_put_all(const struct slice *pair, size_t pairs);

/* With all shards locked. Read only is the table from the last capture to the end. */
void table_clear(void);
void table_set_read_only(bool on);
bool table_read_only(void); /* with any shard locked */

/* These lock by themselves. */
void table_adopt_expiry(void); /* counts what a loaded image brought along */
void table_sweep(void);        /* removes some of what has expired; call it ten times a second */
void table_visit(uint64_t bucket, void (*visit)(const struct entry *e, void *arg), void *arg);

struct table_counts {
    uint64_t keys, expiring, used, unused, expired;
};
struct table_counts table_count(void);

/* ---- image.c: the file ----------------------------------------------------------------------- */

void image_lock(const char *path); /* sets options.file; dies if another server holds it */
void image_unlock(void);
bool image_open(void); /* true: loaded; false: a new one. Dies of what cannot be used. */
void image_close(void);
int image_seal(memsnap_snapshot *s); /* puts the checksum in */
memsnap_view *image_view(void);

/* ---- save.c ---------------------------------------------------------------------------------- */

void save_start(bool loaded);
const char *save_in_background(void); /* NULL, or why not */
int save_now(void);
int save_and_close(void); /* on success nothing can be written any more */
void save_end(void);      /* waits until nothing is under way; nothing begins any more */
time_t save_last(void);
void save_print(FILE *f);
void save_print_view(FILE *f);

/* ---- thaw.c: after a save --------------------------------------------------------------------- */

void thaw(bool (*may_go_on)(void)); /* until it is done, fails, or may not go on */
void thaw_print(FILE *f);

/* ---- buffer.c -------------------------------------------------------------------------------- */

struct buffer {
    char *data;
    size_t start, end, capacity; /* bytes [start, end) are waiting */
};

enum { OWN_SHARE = 16 * 1024 }; /* bytes of each buffer that do not count against --max-buffers */

size_t buffered(const struct buffer *b);
/* False: the budget is used up, or there is no memory. */
bool buffer_grow(struct buffer *b, size_t bytes);    /* by no more than is needed for them */
bool buffer_reserve(struct buffer *b, size_t bytes); /* by more, if it can be had: for many */
bool buffer_add(struct buffer *b, const void *data, size_t len);
void buffer_free(struct buffer *b);
void *budget_realloc(void *p, size_t old, size_t size); /* counts; size == 0 frees */
size_t budget_used(void);

/* ---- protocol.c: requests and replies -------------------------------------------------------- */

struct part {
    size_t offset, len;
};

struct request {
    size_t expected, found; /* arguments; expected == 0: none has begun */
    size_t at;              /* bytes from the buffer's start that have been looked at */
    bool in_bulk;           /* of the next argument the length is known: */
    size_t bulk;
    size_t missing; /* bytes, at least, before parsing again makes sense */
    struct part *part;
    struct slice *arg;  /* made when the request is whole: the buffer may move before */
    size_t parts, args; /* for how many there is room */
};

enum { MAX_NAME = 64 };

struct client {
    int fd;
    uint64_t id;
    bool closing;     /* after the replies so far are sent */
    bool lingering;   /* they are: what the client still sends is thrown away for a while */
    bool half_closed; /* the client sends no more, but may still read */
    bool overflow;    /* this command's reply does not fit */
    uint32_t events;  /* what epoll was asked for */
    struct buffer in, out;
    size_t reply_start; /* where this command's reply begins, in bytes waiting in `out` */
    struct request request;
    const struct command *command; /* being run */
    const struct slice *arg;       /* its arguments, the name first */
    size_t args;
    uint64_t connected; /* now_us() */
    uint64_t progress;  /* the last time that it held no more than its share, or got an answer */
    struct worker *worker;
    struct client *next, **link; /* in the worker's list */
    atomic_size_t held;          /* bytes of buffers. This and what follows is for CLIENT LIST: */
    atomic_ullong active;        /* now_us() */
    char peer[32];
    char name[MAX_NAME], lib_name[MAX_NAME], lib_ver[MAX_NAME]; /* under the worker's lock */
};

enum parsed { PARSED, INCOMPLETE, MALFORMED, NO_ROOM };

extern const char no_room[]; /* what a client is told then */

/* PARSED: c->arg and c->args are the request, until request_done().
 * MALFORMED, NO_ROOM: *trouble says why. */
enum parsed request_parse(struct client *c, const char **trouble);
void request_done(struct client *c);
void request_free(struct request *r);

bool is_word(struct slice s, const char *word); /* in whatever case */
bool parse_integer(struct slice text, long long *out);
bool glob_match(struct slice pattern, struct slice text);

void reply_begin(struct client *c);
void reply_end(struct client *c);    /* where a reply did not fit, it is replaced by an error */
void reply_rewind(struct client *c); /* takes back what this command has replied */
void reply_bytes(struct client *c, const char *data, size_t len);
void reply_text(struct client *c, const char *text);
void reply_bulk(struct client *c, struct slice s);
void reply_string(struct client *c, const char *text);
void reply_format(struct client *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Begins with a word in capitals. No matter what was put into it, it is one line. */
void reply_error(struct client *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
void reply_integer(struct client *c, long long n);
void reply_array(struct client *c, size_t n);
void reply_nil(struct client *c);
void reply_ok(struct client *c);
/* For lists whose length is known at their end: the head goes in front of what followed the mark. */
size_t reply_mark(struct client *c);
void reply_head(struct client *c, size_t mark, const char *head);
uint64_t count_errors(void);

/* ---- commands.c, and the files with the commands --------------------------------------------- */

struct command {
    const char *name; /* in lower case */
    int arity;        /* arguments with the name; -N: at least N */
    void (*run)(struct client *c);
    const char *flags;
    int first, last, step; /* which arguments are keys */
    const char *group, *summary;
};

void run_command(struct client *c);
uint64_t count_commands(void);

/* strings.c */
void do_append(struct client *c);
void do_decr(struct client *c);
void do_decrby(struct client *c);
void do_get(struct client *c);
void do_getdel(struct client *c);
void do_getset(struct client *c);
void do_incr(struct client *c);
void do_incrby(struct client *c);
void do_mget(struct client *c);
void do_mset(struct client *c);
void do_psetex(struct client *c);
void do_set(struct client *c);
void do_setex(struct client *c);
void do_setnx(struct client *c);
void do_strlen(struct client *c);
bool lock_to_write(struct client *c, uint64_t shards);
bool check_key(struct client *c, struct slice key);
void reply_full(struct client *c);
/* Replies and returns false, unless text is a time of `unit` ms, from now or since 1970. */
bool parse_time(struct client *c, struct slice text, int64_t unit, bool from_now, int64_t *out);

/* keys.c */
void do_dbsize(struct client *c);
void do_del(struct client *c);
void do_exists(struct client *c);
void do_expire(struct client *c);
void do_expireat(struct client *c);
void do_expiretime(struct client *c);
void do_flush(struct client *c);
void do_keys(struct client *c);
void do_persist(struct client *c);
void do_pexpire(struct client *c);
void do_pexpireat(struct client *c);
void do_pexpiretime(struct client *c);
void do_pttl(struct client *c);
void do_scan(struct client *c);
void do_ttl(struct client *c);
void do_type(struct client *c);

/* admin.c */
void do_bgsave(struct client *c);
void do_client(struct client *c);
void do_command(struct client *c); /* commands.c */
void do_config(struct client *c);
void do_echo(struct client *c);
void do_hello(struct client *c);
void do_info(struct client *c);
void do_lastsave(struct client *c);
void do_ping(struct client *c);
void do_quit(struct client *c);
void do_save(struct client *c);
void do_select(struct client *c);
void do_shutdown(struct client *c);
void do_time(struct client *c);

/* ---- net.c: connections ---------------------------------------------------------------------- */

void net_limit_clients(void); /* lowers options.max_clients to what descriptors there are */
void net_listen(void);        /* sets options.port */
void net_run(int signals, void (*take_signal)(int signals)); /* until net_stop() */
void net_stop(void);
unsigned net_clients(void);
void net_each_client(void (*visit)(const struct client *c, void *arg), void *arg);
void net_name_client(struct client *c, char *field, struct slice name);

#endif
