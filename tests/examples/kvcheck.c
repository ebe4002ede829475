/* SPDX-License-Identifier: MIT */
/* kvcheck - a client that knows what it was promised: checks that what a key-value server saves
 * while it is written to is one consistent cut. It speaks the Redis protocol to a server on
 * 127.0.0.1 and shares no code with the server.
 *
 *     kvcheck fill PORT KEYS BYTES            key:000000000000 ... with values of that size
 *     kvcheck check-fill PORT KEYS BYTES      are they there, and right
 *     kvcheck load PORT KEYS BYTES WRITERS MS [N]
 *                                             overwrites random ones of them until MS are over, N
 *                                             writes are made or SIGTERM comes; prints "writes=N
 *                                             longest_us=M per_write_us=P": M is the longest that
 *                                             any writer waited for a reply. At SIGUSR1 it prints
 *                                             the same of what ended since it did so last
 *     kvcheck run PORT WRITERS SAVES FILE     writers write in a known order while BGSAVE is sent
 *                                             SAVES times; each saved FILE is copied to FILE.1,
 *                                             FILE.2 ... with FILE.N.log
 *     kvcheck verify PORT LOG                 is the data set of this server a cut that the log
 *                                             allows
 *     kvcheck bgsave PORT                     begins a save
 *     kvcheck wait PORT                       until no save is under way
 *     kvcheck epoch PORT N                    all of a set of keys to N, the key "epoch" last
 *     kvcheck verify-epoch PORT OLD NEW       are they all the same, from OLD to NEW (prints
 *                                             which); between lie saves that were killed so late
 *                                             that they took effect afterwards
 *
 * What a writer does, in order, one command at a time for n = 1, 2, 3 ...:
 *     SET last:I:(n mod RING) n;  INCR count:I;
 *     INCR turn, which answers v;  SET owner:(v mod OWNERS) v
 * The image must show for every writer that everything up to some moment was done and nothing
 * after it, that moment lying between what was acknowledged before BGSAVE was sent and what was
 * sent before it was done; and across writers, that nobody owns a turn that was not yet taken,
 * and all but the latest turns have their owner.
 *
 * Exit status: 0 all well, 1 a promise was broken, 2 the server could not be talked to, or
 * usage. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
    RING = 97, /* how many of a writer's last values can be seen */
    /* so many that a writer held up for seconds does not overwrite a later turn */
    OWNERS = 65536,
    TURNS = 2000, /* how many of the latest turns are looked at */
    MAX_WRITERS = 64,
    EPOCH_KEYS = 500,
    PIPELINE = 64,
    PATIENCE_S = 120 /* for one reply */
};

__attribute__((format(printf, 2, 3), noreturn)) static void fail(int status, const char *format,
                                                                 ...)
{
    va_list args;

    fputs("kvcheck: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(status);
}

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* ---- protocol -------------------------------------------------------------------------------- */

struct connection {
    int fd;
    char out[64 * 1024], in[64 * 1024];
    size_t queued, start, end;
};

struct reply {
    char kind; /* + - : $, or N for nothing there */
    long long integer;
    /* of a bulk reply or a line, with a 0 behind; grows, the caller frees it at the end */
    char *bytes;
    size_t len, capacity;
};

static struct connection *connect_to(unsigned port)
{
    struct connection *c = calloc(1, sizeof *c);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int one = 1;

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (c == NULL)
        fail(2, "out of memory");
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0)
        fail(2, "cannot connect to 127.0.0.1:%u: %s", port, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return c;
}

static void disconnect(struct connection *c)
{
    close(c->fd);
    free(c);
}

static void flush(struct connection *c)
{
    for (size_t at = 0; at < c->queued;) {
        ssize_t n = send(c->fd, c->out + at, c->queued - at, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            fail(2, "the server does not take requests: %s", strerror(errno));
        at += (size_t)n;
    }
    c->queued = 0;
}

static void queue_bytes(struct connection *c, const char *data, size_t len)
{
    while (len > 0) {
        size_t room = sizeof c->out - c->queued, part = len < room ? len : room;

        memcpy(c->out + c->queued, data, part);
        c->queued += part;
        data += part;
        len -= part;
        if (c->queued == sizeof c->out)
            flush(c);
    }
}

static void queue_arg(struct connection *c, const char *data, size_t len)
{
    char head[32];

    queue_bytes(c, head, (size_t)snprintf(head, sizeof head, "$%zu\r\n", len));
    queue_bytes(c, data, len);
    queue_bytes(c, "\r\n", 2);
}

static void queue_set(struct connection *c, const char *key, const char *value, size_t len)
{
    queue_bytes(c, "*3\r\n$3\r\nSET\r\n", 13);
    queue_arg(c, key, strlen(key));
    queue_arg(c, value, len);
}

static char next_byte(struct connection *c)
{
    if (c->start == c->end) {
        ssize_t n;

        do /* a socket with a time limit is interrupted in spite of SA_RESTART */
            n = recv(c->fd, c->in, sizeof c->in, 0);
        while (n < 0 && errno == EINTR);
        if (n == 0)
            fail(2, "the server closed the connection");
        if (n < 0)
            fail(2, "no reply: %s", strerror(errno));
        c->start = 0;
        c->end = (size_t)n;
    }
    return c->in[c->start++];
}

static void add_byte(struct reply *r, char b)
{
    if (r->len + 1 >= r->capacity) {
        r->capacity = r->capacity * 2 + 64;
        r->bytes = realloc(r->bytes, r->capacity);
        if (r->bytes == NULL)
            fail(2, "out of memory");
    }
    r->bytes[r->len++] = b;
    r->bytes[r->len] = '\0';
}

static void read_reply(struct connection *c, struct reply *r)
{
    char b;

    r->kind = next_byte(c);
    r->len = 0;
    add_byte(r, '\0');
    r->len = 0;
    while ((b = next_byte(c)) != '\r')
        add_byte(r, b);
    next_byte(c);
    if (r->kind == ':')
        r->integer = strtoll(r->bytes, NULL, 10);
    if (r->kind != '$')
        return;
    long long len = strtoll(r->bytes, NULL, 10);
    r->len = 0;
    r->bytes[0] = '\0';
    if (len < 0)
        r->kind = 'N';
    for (long long i = 0; i < len; i++)
        add_byte(r, next_byte(c));
    if (len >= 0 && (next_byte(c) != '\r' || next_byte(c) != '\n'))
        fail(1, "a reply is not as long as it says");
}

static void expect_ok(struct connection *c, struct reply *r, const char *what)
{
    read_reply(c, r);
    if (r->kind != '+' || strcmp(r->bytes, "OK") != 0)
        fail(1, "%s answered %c%s", what, r->kind, r->bytes);
}

static void set(struct connection *c, struct reply *r, const char *key, long long n)
{
    char value[24];

    queue_set(c, key, value, (size_t)snprintf(value, sizeof value, "%lld", n));
    flush(c);
    expect_ok(c, r, "SET");
}

static void command(struct connection *c, struct reply *r, const char *name, const char *arg)
{
    queue_bytes(c, arg != NULL ? "*2\r\n" : "*1\r\n", 4);
    queue_arg(c, name, strlen(name));
    if (arg != NULL)
        queue_arg(c, arg, strlen(arg));
    flush(c);
    read_reply(c, r);
}

static long long incr(struct connection *c, struct reply *r, const char *key)
{
    command(c, r, "INCR", key);
    if (r->kind != ':')
        fail(1, "INCR %s answered %c%s", key, r->kind, r->bytes);
    return r->integer;
}

/* 0 if there is no such key. */
static long long get(struct connection *c, struct reply *r, const char *key)
{
    command(c, r, "GET", key);
    if (r->kind == 'N')
        return 0;
    if (r->kind != '$')
        fail(1, "GET %s answered %c%s", key, r->kind, r->bytes);
    return strtoll(r->bytes, NULL, 10);
}

/* Until no save is under way. True if the last one succeeded. */
static bool wait_for_save(struct connection *c, struct reply *r)
{
    uint64_t end = now_us() + (uint64_t)PATIENCE_S * 1000000u;

    for (;;) {
        command(c, r, "INFO", "persistence");
        if (r->kind != '$')
            fail(1, "INFO answered %c%s", r->kind, r->bytes);
        if (strstr(r->bytes, "rdb_bgsave_in_progress:0") != NULL)
            return strstr(r->bytes, "rdb_last_bgsave_status:ok") != NULL;
        if (now_us() > end)
            fail(1, "a background save takes longer than %d s", PATIENCE_S);
        usleep(2000);
    }
}

/* ---- fill and load --------------------------------------------------------------------------- */

/* Values that differ from key to key and from version to version, and cannot be compressed away. */
static void make_value(char *value, size_t len, uint64_t key, uint64_t version)
{
    uint64_t x = (key + 1) * 0x9e3779b97f4a7c15u ^ (version + 1) * 0xc2b2ae3d27d4eb4fu;

    for (size_t i = 0; i < len; i++) {
        if (i % 8 == 0) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        value[i] = (char)('0' + (x >> (i % 8 * 8) & 63));
    }
}

static void key_name(char *key, size_t size, uint64_t n)
{
    snprintf(key, size, "key:%012llu", (unsigned long long)n);
}

static int fill(unsigned port, uint64_t keys, size_t bytes, bool check)
{
    struct connection *c = connect_to(port);
    struct reply r = {0};
    char *value = malloc(bytes + 1), key[32];
    int status = 0;

    if (value == NULL)
        fail(2, "out of memory");
    for (uint64_t base = 0; base < keys; base += PIPELINE) {
        uint64_t end = base + PIPELINE < keys ? base + PIPELINE : keys;

        for (uint64_t k = base; k < end; k++) {
            key_name(key, sizeof key, k);
            make_value(value, bytes, k, 0);
            if (check) {
                queue_bytes(c, "*2\r\n$3\r\nGET\r\n", 13);
                queue_arg(c, key, strlen(key));
            } else {
                queue_set(c, key, value, bytes);
            }
        }
        flush(c);
        for (uint64_t k = base; k < end; k++) {
            if (!check) {
                expect_ok(c, &r, "SET");
                continue;
            }
            read_reply(c, &r);
            make_value(value, bytes, k, 0);
            if (r.kind != '$' || r.len != bytes || memcmp(r.bytes, value, bytes) != 0) {
                fprintf(stderr, "kvcheck: key:%012llu is not what was set\n",
                        (unsigned long long)k);
                status = 1;
            }
        }
    }
    free(value);
    free(r.bytes);
    disconnect(c);
    return status;
}

static volatile sig_atomic_t enough;

static void end_load(int signal)
{
    (void)signal;
    enough = 1;
}

struct loader {
    pthread_t thread;
    unsigned port;
    uint64_t seed, keys, end_us;
    atomic_ullong writes, longest_us; /* since the start */
    atomic_ullong writes_since_report, longest_since_report_us;
    atomic_llong *left; /* writes that may still be made; NULL: any number */
    size_t bytes;
};

static void raise_to(atomic_ullong *longest, uint64_t took)
{
    unsigned long long old = atomic_load(longest);

    while (took > old && !atomic_compare_exchange_weak(longest, &old, took))
        ;
}

static void note_write(struct loader *l, uint64_t took_us)
{
    raise_to(&l->longest_us, took_us);
    raise_to(&l->longest_since_report_us, took_us);
    atomic_fetch_add(&l->writes, 1);
    atomic_fetch_add(&l->writes_since_report, 1);
}

static void *load(void *arg)
{
    struct loader *l = arg;
    struct connection *c = connect_to(l->port);
    struct reply r = {0};
    char *value = malloc(l->bytes + 1), key[32];
    uint64_t x = l->seed;

    if (value == NULL)
        fail(2, "out of memory");
    while (!enough && now_us() < l->end_us &&
           (l->left == NULL || atomic_fetch_sub(l->left, 1) > 0)) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        key_name(key, sizeof key, x % l->keys);
        make_value(value, l->bytes, x % l->keys, x);
        queue_set(c, key, value, l->bytes);
        uint64_t start = now_us();
        flush(c);
        expect_ok(c, &r, "SET");
        note_write(l, now_us() - start);
    }
    free(value);
    free(r.bytes);
    disconnect(c);
    return NULL;
}

struct load {
    struct loader loader[MAX_WRITERS];
    unsigned writers;
    uint64_t reported_us;
};

static void print_load(uint64_t writes, uint64_t longest_us, uint64_t took_us)
{
    printf("writes=%llu longest_us=%llu per_write_us=%.2f\n", (unsigned long long)writes,
           (unsigned long long)longest_us, writes > 0 ? (double)took_us / (double)writes : 0);
    fflush(stdout);
}

static void report_load(struct load *l)
{
    uint64_t writes = 0, longest = 0, now = now_us();

    for (unsigned i = 0; i < l->writers; i++) {
        uint64_t own = atomic_exchange(&l->loader[i].longest_since_report_us, 0);

        writes += atomic_exchange(&l->loader[i].writes_since_report, 0);
        longest = own > longest ? own : longest;
    }
    print_load(writes, longest, now - l->reported_us);
    l->reported_us = now;
}

static void *report_when_asked(void *arg)
{
    sigset_t asked;
    int signal;

    sigemptyset(&asked);
    sigaddset(&asked, SIGUSR1);
    while (sigwait(&asked, &signal) == 0)
        report_load(arg);
    return NULL;
}

static void start_reporting(struct load *l)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, report_when_asked, l) != 0)
        fail(2, "cannot start a thread");
    pthread_detach(thread);
}

static int run_load(unsigned port, uint64_t keys, size_t bytes, unsigned writers, uint64_t ms,
                    long long limit)
{
    static struct load l;
    atomic_llong left = limit;
    uint64_t writes = 0, longest = 0, start = now_us(), end = start + ms * 1000;
    struct sigaction ending = {.sa_handler = end_load, .sa_flags = SA_RESTART};
    sigset_t asked;

    sigaction(SIGTERM, &ending, NULL);
    sigemptyset(&asked);
    sigaddset(&asked, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &asked, NULL);
    l.writers = writers;
    l.reported_us = start;
    for (unsigned i = 0; i < writers; i++) {
        struct loader *loader = &l.loader[i];

        loader->port = port;
        loader->seed = now_us() * 2654435761u + i + 1;
        loader->keys = keys;
        loader->end_us = end;
        loader->bytes = bytes;
        loader->left = limit > 0 ? &left : NULL;
        if (pthread_create(&loader->thread, NULL, load, loader) != 0)
            fail(2, "cannot start a thread");
    }
    start_reporting(&l);
    for (unsigned i = 0; i < writers; i++) {
        pthread_join(l.loader[i].thread, NULL);
        writes += atomic_load(&l.loader[i].writes);
        longest = l.loader[i].longest_us > longest ? l.loader[i].longest_us : longest;
    }
    print_load(writes, longest, now_us() - start);
    return 0;
}

/* ---- a known order of writes, and cuts through it -------------------------------------------- */

struct writer {
    pthread_t thread;
    unsigned port, id;
    atomic_llong sent, acknowledged; /* steps: four for each n */
};

static atomic_int stop_writers;

static void *write_in_order(void *arg)
{
    struct writer *w = arg;
    struct connection *c = connect_to(w->port);
    struct reply r = {0};
    char last[48], count[48], owner[48];
    long long step = 0;

    snprintf(count, sizeof count, "count:%u", w->id);
    for (long long n = 1; !atomic_load(&stop_writers); n++) {
        snprintf(last, sizeof last, "last:%u:%lld", w->id, n % RING);
        atomic_store(&w->sent, ++step);
        set(c, &r, last, n);
        atomic_store(&w->acknowledged, step);

        atomic_store(&w->sent, ++step);
        if (incr(c, &r, count) != n)
            fail(1, "INCR %s answered %lld instead of %lld", count, r.integer, n);
        atomic_store(&w->acknowledged, step);

        atomic_store(&w->sent, ++step);
        long long turn = incr(c, &r, "turn");
        atomic_store(&w->acknowledged, step);

        snprintf(owner, sizeof owner, "owner:%lld", turn % OWNERS);
        atomic_store(&w->sent, ++step);
        set(c, &r, owner, turn);
        atomic_store(&w->acknowledged, step);
    }
    free(r.bytes);
    disconnect(c);
    return NULL;
}

static void copy_file(const char *from, const char *to)
{
    char *buf = malloc(1 << 20);
    int in = open(from, O_RDONLY | O_CLOEXEC),
        out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t n;

    if (buf == NULL || in < 0 || out < 0)
        fail(2, "cannot copy %s to %s: %s", from, to, strerror(errno));
    while ((n = read(in, buf, 1 << 20)) > 0) {
        if (write(out, buf, (size_t)n) != n)
            fail(2, "cannot write %s: %s", to, strerror(errno));
    }
    if (n < 0)
        fail(2, "cannot read %s: %s", from, strerror(errno));
    close(in);
    close(out);
    free(buf);
}

static void one_save(struct connection *c, struct reply *r, struct writer *w, unsigned writers,
                     const char *file, unsigned k)
{
    long long least[MAX_WRITERS], most[MAX_WRITERS];
    char name[4096];

    for (unsigned i = 0; i < writers; i++)
        least[i] = atomic_load(&w[i].acknowledged);
    command(c, r, "BGSAVE", NULL);
    if (r->kind != '+')
        fail(1, "BGSAVE answered %c%s", r->kind, r->bytes);
    if (!wait_for_save(c, r))
        fail(1, "background save %u failed: %s", k, r->bytes);
    for (unsigned i = 0; i < writers; i++)
        most[i] = atomic_load(&w[i].sent);

    snprintf(name, sizeof name, "%s.%u", file, k);
    copy_file(file, name);
    snprintf(name, sizeof name, "%s.%u.log", file, k);
    FILE *log = fopen(name, "w");
    if (log == NULL)
        fail(2, "cannot write %s: %s", name, strerror(errno));
    for (unsigned i = 0; i < writers; i++)
        fprintf(log, "%u %lld %lld\n", i, least[i], most[i]);
    if (fclose(log) != 0)
        fail(2, "cannot write %s: %s", name, strerror(errno));
}

static int run_in_order(unsigned port, unsigned writers, unsigned saves, const char *file)
{
    static struct writer w[MAX_WRITERS];
    struct connection *c = connect_to(port);
    struct reply r = {0};
    long long steps = 0;

    for (unsigned i = 0; i < writers; i++) {
        w[i].port = port;
        w[i].id = i;
        if (pthread_create(&w[i].thread, NULL, write_in_order, &w[i]) != 0)
            fail(2, "cannot start a thread");
    }
    for (unsigned k = 1; k <= saves; k++) {
        usleep(100000);
        one_save(c, &r, w, writers, file, k);
    }
    atomic_store(&stop_writers, 1);
    for (unsigned i = 0; i < writers; i++) {
        pthread_join(w[i].thread, NULL);
        steps += atomic_load(&w[i].acknowledged);
    }
    printf("%lld writes acknowledged over %u saves\n", steps, saves);
    free(r.bytes);
    disconnect(c);
    return 0;
}

static int broken;

__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...)
{
    va_list args;

    fputs("kvcheck: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    broken = 1;
}

/* Of a writer's four steps for each n, two leave their own trace: the first, SET last, and the
 * second, INCR count. */
static void verify_writer(struct connection *c, struct reply *r, unsigned id, long long least,
                          long long most)
{
    char key[48];

    snprintf(key, sizeof key, "count:%u", id);
    long long n = get(c, r, key);
    for (long long m = n; m > 0 && m > n - RING + 1; m--) {
        snprintf(key, sizeof key, "last:%u:%lld", id, m % RING);
        long long seen = get(c, r, key);
        if (seen != m)
            complain("writer %u: %s is %lld instead of %lld, with count %lld", id, key, seen, m, n);
    }
    snprintf(key, sizeof key, "last:%u:%lld", id, (n + 1) % RING);
    long long ahead = get(c, r, key), before = n + 1 > RING ? n + 1 - RING : 0;
    if (ahead != n + 1 && ahead != before)
        complain("writer %u: %s is %lld, neither %lld nor %lld", id, key, ahead, n + 1, before);

    long long done_least = n > 0 ? 4 * n - 2 : 0, done_most = 4 * n;
    if (ahead == n + 1)
        done_least = done_most = 4 * n + 1;
    if (done_most < least)
        complain("writer %u: %lld steps are in the image, but %lld were acknowledged before", id,
                 done_most, least);
    if (done_least > most)
        complain("writer %u: %lld steps are in the image, but only %lld were sent", id, done_least,
                 most);
}

/* INCR turn comes before SET owner of that turn: nobody owns a turn beyond it, and at most the
 * one that each writer is at has no owner yet. */
static void verify_turns(struct connection *c, struct reply *r, unsigned writers)
{
    long long turn = get(c, r, "turn"), missing = 0;
    char key[48];

    for (long long t = turn > TURNS ? turn - TURNS + 1 : 1; t <= turn + MAX_WRITERS; t++) {
        snprintf(key, sizeof key, "owner:%lld", t % OWNERS);
        long long seen = get(c, r, key);
        if (seen > turn)
            complain("%s is %lld, but the turn was only %lld", key, seen, turn);
        if (t <= turn && seen != t)
            missing++;
    }
    if (missing > (long long)writers)
        complain("%lld turns have no owner, but there are only %u writers", missing, writers);
}

static int verify(unsigned port, const char *path)
{
    FILE *log = fopen(path, "r");
    struct connection *c = connect_to(port);
    struct reply r = {0};
    unsigned id, writers = 0;
    long long least, most;

    if (log == NULL)
        fail(2, "cannot read %s: %s", path, strerror(errno));
    while (fscanf(log, "%u %lld %lld", &id, &least, &most) == 3) {
        verify_writer(c, &r, id, least, most);
        writers++;
    }
    if (writers == 0)
        fail(2, "%s is not a log", path);
    verify_turns(c, &r, writers);
    fclose(log);
    free(r.bytes);
    disconnect(c);
    return broken;
}

/* ---- epochs: was the file replaced as a whole ------------------------------------------------ */

static int epoch(unsigned port, long long n)
{
    struct connection *c = connect_to(port);
    struct reply r = {0};
    char key[32];

    for (int i = 0; i < EPOCH_KEYS; i++) {
        snprintf(key, sizeof key, "part:%d", i);
        set(c, &r, key, n);
    }
    set(c, &r, "epoch", n);
    free(r.bytes);
    disconnect(c);
    return 0;
}

static int begin_save(unsigned port)
{
    struct connection *c = connect_to(port);
    struct reply r = {0};

    command(c, &r, "BGSAVE", NULL);
    if (r.kind != '+')
        fail(1, "BGSAVE answered %c%s", r.kind, r.bytes);
    free(r.bytes);
    disconnect(c);
    return 0;
}

static int wait_for_it(unsigned port)
{
    struct connection *c = connect_to(port);
    struct reply r = {0};
    bool well = wait_for_save(c, &r);

    free(r.bytes);
    disconnect(c);
    return well ? 0 : 1;
}

static int verify_epoch(unsigned port, long long old, long long new)
{
    struct connection *c = connect_to(port);
    struct reply r = {0};
    long long found = get(c, &r, "epoch");
    char key[32];

    if (found < old || found > new)
        complain("the file is of epoch %lld, which is not from %lld to %lld", found, old, new);
    for (int i = 0; found != 0 && i < EPOCH_KEYS; i++) {
        snprintf(key, sizeof key, "part:%d", i);
        long long seen = get(c, &r, key);
        if (seen != found)
            complain("%s is of epoch %lld in a file of epoch %lld", key, seen, found);
    }
    printf("%lld\n", found);
    free(r.bytes);
    disconnect(c);
    return broken;
}

/* ---- command line ---------------------------------------------------------------------------- */

static unsigned long long number(const char *text, unsigned long long min, unsigned long long max)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);

    if (text[0] < '0' || text[0] > '9' || *end != '\0' || n < min || n > max)
        fail(2, "%s is not a number from %llu to %llu", text, min, max);
    return n;
}

int main(int argc, char **argv)
{
    const unsigned long long most = 1ull << 40;

    if (argc < 3)
        fail(2, "usage: see the top of tests/examples/kvcheck.c");
    const char *verb = argv[1];
    unsigned port = (unsigned)number(argv[2], 1, 65535);
    if (argc == 5 && (strcmp(verb, "fill") == 0 || strcmp(verb, "check-fill") == 0))
        return fill(port, number(argv[3], 1, most), (size_t)number(argv[4], 1, 1 << 24),
                    verb[0] == 'c');
    if ((argc == 7 || argc == 8) && strcmp(verb, "load") == 0)
        return run_load(port, number(argv[3], 1, most), (size_t)number(argv[4], 1, 1 << 24),
                        (unsigned)number(argv[5], 1, MAX_WRITERS), number(argv[6], 1, 3600000),
                        argc == 8 ? (long long)number(argv[7], 1, most) : 0);
    if (argc == 6 && strcmp(verb, "run") == 0)
        return run_in_order(port, (unsigned)number(argv[3], 1, MAX_WRITERS),
                            (unsigned)number(argv[4], 1, 10000), argv[5]);
    if (argc == 4 && strcmp(verb, "verify") == 0)
        return verify(port, argv[3]);
    if (argc == 3 && strcmp(verb, "bgsave") == 0)
        return begin_save(port);
    if (argc == 3 && strcmp(verb, "wait") == 0)
        return wait_for_it(port);
    if (argc == 4 && strcmp(verb, "epoch") == 0)
        return epoch(port, (long long)number(argv[3], 1, most));
    if (argc == 5 && strcmp(verb, "verify-epoch") == 0)
        return verify_epoch(port, (long long)number(argv[3], 0, most),
                            (long long)number(argv[4], 0, most));
    fail(2, "no verb %s with %d arguments: see the top of tests/examples/kvcheck.c", verb,
         argc - 2);
}
