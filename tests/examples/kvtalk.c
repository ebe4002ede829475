/* SPDX-License-Identifier: MIT */
/* kvtalk - talks to a key-value server on 127.0.0.1 in the Redis protocol, with good manners and
 * with bad ones. It shares no code with the server.
 *
 *     kvtalk loopback                can anybody be talked to at all
 *     kvtalk unstoppable PROGRAM ... runs it where userfaultfd is refused, so that threads that
 *                                    store cannot be stopped; 77: nothing can be refused
 *     kvtalk script PORT             runs what standard input says (below)
 *     kvtalk raw PORT                sends standard input, says that this was all, and prints the
 *                                    answer to its end
 *     kvtalk drip PORT BYTES         SET and GET a value of that size, sent a byte at a time
 *     kvtalk scan PORT COUNT         every key that SCAN lists, a line each
 *     kvtalk together PORT MS        MSET and MGET from several clients: is each all or nothing
 *     kvtalk workout PORT SEED       reads all there is, overwrites, removes and fills
 *
 * These say on a line when they are ready, and hold what they have until they are killed:
 *     kvtalk crowd PORT N            N connections, a PING each; prints "served=A refused=B"
 *     kvtalk hoard PORT N BYTES      N clients that send only the first BYTES of a request of
 *                                    60 MiB; prints "held=N"; once every client was closed, it
 *                                    prints what the last one was told, and ends
 *     kvtalk idle PORT N BYTES       N clients that SET and GET a value of that size, and are
 *                                    answered; prints "idle=N"
 *     kvtalk deaf PORT N KEY TIMES   N clients that ask for KEY so many times and read nothing;
 *                                    prints "deaf=N"
 *
 * A script has commands, "> SET a 1", each followed by the lines of its reply: text, integers and
 * errors as they are, (nil), arrays an element a line, (empty). "~ PATTERN" stands for a line that
 * the shell pattern matches, "< N M" for a number from N to M, "..." for any lines up to the next
 * command. Arguments are separated by spaces; in them and in replies \n, \r, \s and \e stand for a
 * line feed, a carriage return, a space, and nothing. "! MS" sleeps. "#" begins a comment.
 *
 * Exit status: 0 all well, 1 a promise was broken, 2 the server could not be talked to, or usage;
 * 77 no loopback. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fnmatch.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ARGS = 64, TOGETHER = 16, PATIENCE_S = 60 };

__attribute__((format(printf, 2, 3), noreturn)) static void fail(int status, const char *format,
                                                                 ...)
{
    va_list args;

    fputs("kvtalk: ", stdout);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    exit(status);
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void *allocate(size_t size)
{
    void *p = malloc(size);

    if (p == NULL)
        fail(2, "out of memory");
    return p;
}

/* ---- a connection ---------------------------------------------------------------------------- */

/* -1 and errno. */
static int try_connect(unsigned port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return fd;
}

static int connect_to(unsigned port)
{
    int fd = try_connect(port);

    if (fd < 0)
        fail(2, "cannot connect to 127.0.0.1:%u: %s", port, strerror(errno));
    return fd;
}

/* False: the server has closed the connection. */
static bool send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

        if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
            return false;
        if (n < 0)
            fail(2, "the server does not take a request: %s", strerror(errno));
        data += n;
        len -= (size_t)n;
    }
    return true;
}

/* One reader for a connection; bytes that came early stay for the next reply. */
struct reader {
    int fd;
    size_t start, end;
    char data[16384];
};

/* -1: the server has closed the connection. */
static int next_byte(struct reader *r)
{
    if (r->start == r->end) {
        ssize_t n = recv(r->fd, r->data, sizeof r->data, 0);

        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return -1;
        if (n < 0)
            fail(2, "no reply: %s", strerror(errno));
        r->start = 0;
        r->end = (size_t)n;
    }
    return (unsigned char)r->data[r->start++];
}

static char must_byte(struct reader *r)
{
    int b = next_byte(r);

    if (b < 0)
        fail(2, "the server closed the connection");
    return (char)b;
}

/* ---- replies, as lines ----------------------------------------------------------------------- */

struct lines {
    size_t n, capacity;
    char **line;
};

static void clear(struct lines *l)
{
    while (l->n > 0)
        free(l->line[--l->n]);
}

static void free_lines(struct lines *l)
{
    clear(l);
    free(l->line);
}

static void add_line(struct lines *l, const char *data, size_t len)
{
    if (l->n == l->capacity) {
        l->capacity = l->capacity * 2 + 8;
        l->line = realloc(l->line, l->capacity * sizeof *l->line);
        if (l->line == NULL)
            fail(2, "out of memory");
    }
    l->line[l->n] = allocate(len + 1);
    memcpy(l->line[l->n], data, len);
    l->line[l->n++][len] = '\0';
}

/* What follows the kind, up to CR LF. */
static void read_rest(struct reader *r, char *text, size_t size)
{
    size_t len = 0;
    char b;

    while ((b = must_byte(r)) != '\r') {
        if (len + 1 == size)
            fail(1, "a line of a reply is longer than %zu bytes", size);
        text[len++] = b;
    }
    text[len] = '\0';
    if (must_byte(r) != '\n')
        fail(1, "a line of a reply does not end as it should");
}

static void read_bulk(struct reader *r, size_t len, struct lines *l)
{
    char *text = allocate(len + 1);

    for (size_t i = 0; i < len; i++)
        text[i] = must_byte(r);
    if (must_byte(r) != '\r' || must_byte(r) != '\n')
        fail(1, "a reply is not as long as it says");
    add_line(l, text, len);
    free(text);
}

static void read_reply(struct reader *r, struct lines *l)
{
    char kind = must_byte(r), text[4096];

    read_rest(r, text, sizeof text);
    long long n = strtoll(text, NULL, 10);
    if (kind == '+' || kind == '-' || kind == ':')
        add_line(l, text, strlen(text));
    else if (n < 0 && (kind == '$' || kind == '*'))
        add_line(l, "(nil)", 5);
    else if (kind == '$')
        read_bulk(r, (size_t)n, l);
    else if (kind == '*' && n == 0)
        add_line(l, "(empty)", 7);
    else if (kind == '*')
        while (n-- > 0)
            read_reply(r, l);
    else
        fail(1, "a reply begins with '%c'", kind);
}

/* ---- requests -------------------------------------------------------------------------------- */

struct request {
    size_t len, capacity;
    char *data;
};

static void add(struct request *q, const char *data, size_t len)
{
    if (q->capacity - q->len < len) {
        q->capacity = (q->capacity + len) * 2;
        q->data = realloc(q->data, q->capacity);
        if (q->data == NULL)
            fail(2, "out of memory");
    }
    memcpy(q->data + q->len, data, len);
    q->len += len;
}

static void add_head(struct request *q, char kind, size_t n)
{
    char head[32];

    add(q, head, (size_t)snprintf(head, sizeof head, "%c%zu\r\n", kind, n));
}

static void add_arg(struct request *q, const char *data, size_t len)
{
    add_head(q, '$', len);
    add(q, data, len);
    add(q, "\r\n", 2);
}

/* Strings, up to a null pointer. */
static void add_command(struct request *q, const char *const *arg)
{
    size_t n = 0;

    while (arg[n] != NULL)
        n++;
    add_head(q, '*', n);
    for (size_t i = 0; i < n; i++)
        add_arg(q, arg[i], strlen(arg[i]));
}

static void ask(struct reader *r, struct lines *l, const char *const *arg)
{
    struct request q = {0};

    add_command(&q, arg);
    if (!send_all(r->fd, q.data, q.len))
        fail(2, "the server closed the connection");
    free(q.data);
    clear(l);
    read_reply(r, l);
}

#define ASK(r, l, ...) ask(r, l, (const char *const[]){__VA_ARGS__, NULL})

/* ---- script ---------------------------------------------------------------------------------- */

/* In place. The length of what is left. */
static size_t unescape(char *text)
{
    size_t to = 0;

    for (size_t i = 0; text[i] != '\0'; i++) {
        if (text[i] != '\\' || text[i + 1] == '\0') {
            text[to++] = text[i];
            continue;
        }
        char c = text[++i];
        if (c != 'e')
            text[to++] = c == 'n' ? '\n' : c == 'r' ? '\r' : c == 's' ? ' ' : c;
    }
    text[to] = '\0';
    return to;
}

static void say_command(struct reader *r, const char *line, struct lines *l)
{
    struct request q = {0};
    char *copy = strdup(line), *rest, *arg[MAX_ARGS];
    size_t n = 0;

    for (char *p = strtok_r(copy, " ", &rest); p != NULL && n < MAX_ARGS;
         p = strtok_r(NULL, " ", &rest))
        arg[n++] = p;
    add_head(&q, '*', n);
    for (size_t i = 0; i < n; i++)
        add_arg(&q, arg[i], unescape(arg[i]));
    if (!send_all(r->fd, q.data, q.len))
        fail(2, "the server closed the connection before: %s", line);
    clear(l);
    read_reply(r, l);
    free(q.data);
    free(copy);
}

static bool line_matches(const char *want, const char *got)
{
    long long least, most, n;
    char *end;

    if (strncmp(want, "~ ", 2) == 0)
        return fnmatch(want + 2, got, 0) == 0;
    if (sscanf(want, "< %lld %lld", &least, &most) == 2) {
        n = strtoll(got, &end, 10);
        return *got != '\0' && *end == '\0' && n >= least && n <= most;
    }
    char *plain = strdup(want);
    size_t len = unescape(plain);
    bool same = len == strlen(got) && memcmp(plain, got, len) == 0;
    free(plain);
    return same;
}

struct script {
    struct reader reader;
    struct lines reply;
    char command[256]; /* for messages */
    size_t number, at; /* lines of the script, and of the reply, so far */
    bool any, broken;  /* the rest of the reply does not matter; something was wrong */
};

static void complain(struct script *s, const char *got, const char *want)
{
    printf("line %zu: %s: %s instead of %s\n", s->number, s->command, got, want);
    s->broken = s->any = true;
}

static void end_reply(struct script *s)
{
    if (!s->any && s->at < s->reply.n)
        complain(s, s->reply.line[s->at], "nothing");
}

static void run_line(struct script *s, const char *line)
{
    if (strncmp(line, "> ", 2) == 0) {
        end_reply(s);
        snprintf(s->command, sizeof s->command, "%s", line + 2);
        say_command(&s->reader, line + 2, &s->reply);
        s->at = 0;
        s->any = false;
    } else if (line[0] == '!') {
        usleep((useconds_t)atoi(line + 1) * 1000);
    } else if (strcmp(line, "...") == 0) {
        s->any = true;
    } else if (!s->any && s->at == s->reply.n) {
        complain(s, "nothing", line);
    } else if (!s->any && !line_matches(line, s->reply.line[s->at])) {
        complain(s, s->reply.line[s->at], line);
    } else {
        s->at++;
    }
}

static int script(unsigned port)
{
    struct script *s = calloc(1, sizeof *s);
    char *line = NULL;
    size_t size = 0;
    ssize_t len;

    if (s == NULL)
        fail(2, "out of memory");
    s->reader.fd = connect_to(port);
    s->any = true;
    while ((len = getline(&line, &size, stdin)) >= 0) {
        s->number++;
        if (len > 0 && line[len - 1] == '\n')
            line[len - 1] = '\0';
        if (line[0] != '#' && line[0] != '\0')
            run_line(s, line);
    }
    end_reply(s);
    int status = s->broken;
    free_lines(&s->reply);
    free(line);
    close(s->reader.fd);
    free(s);
    return status;
}

/* ---- raw and drip ---------------------------------------------------------------------------- */

/* Reads while it writes: a server that answers early must not be able to stop us. */
static int raw(unsigned port)
{
    int fd = connect_to(port);
    struct request q = {0};
    char part[65536];
    size_t at = 0;
    ssize_t n;

    while ((n = read(STDIN_FILENO, part, sizeof part)) > 0)
        add(&q, part, (size_t)n);
    for (bool ended = false;;) {
        struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (at < q.len ? POLLOUT : 0))};

        if (at == q.len && !ended) {
            shutdown(fd, SHUT_WR);
            ended = true;
        }
        if (poll(&p, 1, PATIENCE_S * 1000) != 1)
            fail(1, "the server neither answers nor closes");
        if (p.revents & POLLOUT &&
            (n = send(fd, q.data + at, q.len - at, MSG_NOSIGNAL | MSG_DONTWAIT)) > 0)
            at += (size_t)n;
        else if (p.revents & POLLOUT && n < 0 && errno != EAGAIN)
            at = q.len; /* closed: what it said is still there */
        if (!(p.revents & (POLLIN | POLLHUP | POLLERR)))
            continue;
        n = recv(fd, part, sizeof part, MSG_DONTWAIT);
        if (n > 0)
            fwrite(part, 1, (size_t)n, stdout);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            break;
    }
    free(q.data);
    close(fd);
    return 0;
}

static int drip(unsigned port, size_t bytes)
{
    struct reader *r = allocate(sizeof *r);
    struct lines l = {0};
    struct request q = {0};
    char *value = allocate(bytes + 1);

    for (size_t i = 0; i < bytes; i++)
        value[i] = (char)('a' + i % 23);
    value[bytes] = '\0';
    *r = (struct reader){.fd = connect_to(port)};
    add_command(&q, (const char *const[]){"SET", "drip", value, NULL});
    add(&q, "GET drip\r\n", 10);
    for (size_t i = 0; i < q.len; i++) {
        if (!send_all(r->fd, q.data + i, 1))
            fail(1, "closed after %zu bytes", i);
    }
    read_reply(r, &l);
    read_reply(r, &l);
    int broken = strcmp(l.line[0], "OK") != 0 || strcmp(l.line[1], value) != 0;
    free_lines(&l);
    free(q.data);
    free(value);
    close(r->fd);
    free(r);
    return broken;
}

/* ---- scan ------------------------------------------------------------------------------------ */

static int scan(unsigned port, const char *count)
{
    struct reader *r = allocate(sizeof *r);
    struct lines l = {0};
    char cursor[32] = "0";

    *r = (struct reader){.fd = connect_to(port)};
    do {
        ASK(r, &l, "SCAN", cursor, "COUNT", count);
        snprintf(cursor, sizeof cursor, "%s", l.line[0]);
        for (size_t i = 1; i < l.n; i++)
            if (strcmp(l.line[i], "(empty)") != 0)
                puts(l.line[i]);
    } while (strcmp(cursor, "0") != 0);
    free_lines(&l);
    close(r->fd);
    free(r);
    return 0;
}

/* ---- together -------------------------------------------------------------------------------- */

static unsigned together_port;
static atomic_int enough;

/* Every MSET gives all the keys one value, and sometimes one of another length. */
static void *set_together(void *arg)
{
    struct reader *r = allocate(sizeof *r);
    struct lines l = {0};
    unsigned me = *(unsigned *)arg;

    *r = (struct reader){.fd = connect_to(together_port)};
    for (unsigned n = 0; !atomic_load(&enough); n++) {
        const char *command[2 * TOGETHER + 2] = {"MSET"};
        char key[TOGETHER][16], value[96];

        snprintf(value, sizeof value, "%u.%u.%0*u", me, n, (int)(n % 7 * 11), 0u);
        for (unsigned i = 0; i < TOGETHER; i++) {
            snprintf(key[i], sizeof key[i], "together:%u", i);
            command[2 * i + 1] = key[i];
            command[2 * i + 2] = value;
        }
        ask(r, &l, command);
        if (strcmp(l.line[0], "OK") != 0)
            fail(1, "MSET: %s", l.line[0]);
    }
    free_lines(&l);
    close(r->fd);
    free(r);
    return NULL;
}

static int together(unsigned port, unsigned ms)
{
    struct reader *r = allocate(sizeof *r);
    struct lines l = {0};
    pthread_t writer[3];
    unsigned id[3] = {0, 1, 2}, looks = 0, torn = 0;
    const char *command[TOGETHER + 2] = {"MGET"};
    char key[TOGETHER][16];
    uint64_t end = now_ms() + ms;

    together_port = port;
    *r = (struct reader){.fd = connect_to(port)};
    for (unsigned i = 0; i < TOGETHER; i++) {
        snprintf(key[i], sizeof key[i], "together:%u", i);
        command[i + 1] = key[i];
    }
    for (unsigned i = 0; i < 3 && ms > 0; i++)
        pthread_create(&writer[i], NULL, set_together, &id[i]);
    do {
        ask(r, &l, command);
        for (unsigned i = 1; i < TOGETHER; i++)
            torn += strcmp(l.line[i], l.line[0]) != 0;
        looks++;
    } while (now_ms() < end);
    atomic_store(&enough, 1);
    for (unsigned i = 0; i < 3 && ms > 0; i++)
        pthread_join(writer[i], NULL);
    printf("%u looks, %u values of another MSET, the last is %s\n", looks, torn, l.line[0]);
    free_lines(&l);
    close(r->fd);
    free(r);
    return torn > 0;
}

/* ---- workout --------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Whatever a server has let in, it must be able to live with: errors are fine, an end is not. */
static int workout(unsigned port, uint64_t seed)
{
    struct reader *r = allocate(sizeof *r);
    struct lines l = {0}, other = {0};
    char cursor[32] = "0", key[32], value[4096];
    uint64_t x = seed * 2 + 1;
    unsigned full = 0;

    *r = (struct reader){.fd = connect_to(port)};
    do {
        ASK(r, &l, "SCAN", cursor, "COUNT", "50");
        snprintf(cursor, sizeof cursor, "%s", l.line[0]);
        for (size_t i = 1; i < l.n; i++) {
            if (strcmp(l.line[i], "(empty)") != 0) {
                ASK(r, &other, "GET", l.line[i]);
                ASK(r, &other, "APPEND", l.line[i], "x");
            }
        }
    } while (strcmp(cursor, "0") != 0);
    for (unsigned i = 0; i < 20000 && full < 200; i++) {
        size_t len = next_random(&x) % (sizeof value - 1);

        memset(value, 'a' + (int)(x % 26), len);
        value[len] = '\0';
        snprintf(key, sizeof key, "part:%u", (unsigned)(next_random(&x) % 3000));
        if (next_random(&x) % 8 == 0)
            ASK(r, &l, "DEL", key);
        else
            ASK(r, &l, "SET", key, value);
        full += strncmp(l.line[0], "OOM", 3) == 0;
    }
    ASK(r, &l, "BGSAVE");
    ASK(r, &l, "DBSIZE");
    free_lines(&l);
    free_lines(&other);
    close(r->fd);
    free(r);
    return 0;
}

/* ---- bad manners ----------------------------------------------------------------------------- */

__attribute__((noreturn)) static void hold(void)
{
    fflush(stdout);
    for (;;)
        pause();
}

__attribute__((noreturn)) static void crowd(unsigned port, unsigned n)
{
    unsigned served = 0, refused = 0;

    for (unsigned i = 0; i < n; i++) {
        struct reader *r = allocate(sizeof *r); /* kept, with its connection */
        char first;

        *r = (struct reader){.fd = connect_to(port)};
        send_all(r->fd, "PING\r\n", 6);
        int b = next_byte(r);
        first = b < 0 ? '-' : (char)b;
        served += first == '+';
        refused += first == '-';
    }
    printf("served=%u refused=%u\n", served, refused);
    hold();
}

static void hoard(unsigned port, unsigned n, size_t bytes)
{
    static const char head[] = "*3\r\n$3\r\nSET\r\n$5\r\nhoard\r\n$62914560\r\n";
    struct reader *r = allocate(n * sizeof *r);
    char *part = allocate(bytes + 1), told[256] = "nothing";

    memset(part, 'h', bytes);
    for (unsigned i = 0; i < n; i++) {
        r[i] = (struct reader){.fd = connect_to(port)};
        if (send_all(r[i].fd, head, sizeof head - 1))
            send_all(r[i].fd, part, bytes);
    }
    printf("held=%u\n", n);
    fflush(stdout);
    for (unsigned i = 0; i < n; i++) {
        size_t len = 0;
        int b;

        while ((b = next_byte(&r[i])) >= 0 && len < sizeof told - 1)
            told[len++] = (char)b;
        if (len > 0)
            told[len] = '\0';
    }
    printf("closed: %s", told);
}

__attribute__((noreturn)) static void deaf(unsigned port, unsigned n, const char *key,
                                           unsigned times)
{
    for (unsigned i = 0; i < n; i++) {
        int fd = connect_to(port);
        struct request q = {0};

        for (unsigned k = 0; k < times; k++)
            add_command(&q, (const char *const[]){"GET", key, NULL});
        /* A server that does not read on, because nobody reads its replies, is right. */
        for (size_t at = 0; at < q.len;) {
            ssize_t sent = send(fd, q.data + at, q.len - at, MSG_NOSIGNAL | MSG_DONTWAIT);

            if (sent < 0)
                break;
            at += (size_t)sent;
        }
        free(q.data);
    }
    printf("deaf=%u\n", n);
    hold();
}

__attribute__((noreturn)) static void idle(unsigned port, unsigned n, size_t bytes)
{
    char *value = allocate(bytes + 1);
    struct lines l = {0};

    memset(value, 'i', bytes);
    value[bytes] = '\0';
    for (unsigned i = 0; i < n; i++) {
        struct reader *r = allocate(sizeof *r); /* kept, with its connection */

        *r = (struct reader){.fd = connect_to(port)};
        ASK(r, &l, "SET", "idle", value);
        ASK(r, &l, "GET", "idle");
        if (strcmp(l.line[0], value) != 0)
            fail(1, "GET: another value than that of SET");
    }
    free_lines(&l);
    free(value);
    printf("idle=%u\n", n);
    hold();
}

static int loopback(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 1) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0 || try_connect(ntohs(a.sin_port)) < 0)
        fail(77, "no connection to 127.0.0.1: %s", strerror(errno));
    return 0;
}

/* ---- command line ---------------------------------------------------------------------------- */

static unsigned long long number(const char *text, unsigned long long most)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);

    if (text[0] < '0' || text[0] > '9' || *end != '\0' || n > most)
        fail(2, "%s is not a number up to %llu", text, most);
    return n;
}

/* ---- a system that cannot stop threads ------------------------------------------------------- */

enum {
    NEW_USERFAULTFD = 0xAA00, /* the request with which /dev/userfaultfd makes one */
    LOW_HALF = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0
};

static void run_unstoppable(char **program)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1]) + LOW_HALF),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NEW_USERFAULTFD, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof code / sizeof code[0], .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
        fail(77, "no system call can be refused: %s", strerror(errno));
    execvp(program[0], program);
    fail(2, "cannot run %s: %s", program[0], strerror(errno));
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";

    if (argc == 2 && strcmp(verb, "loopback") == 0)
        return loopback();
    if (argc > 2 && strcmp(verb, "unstoppable") == 0)
        run_unstoppable(argv + 2);
    if (argc < 3)
        fail(2, "usage: see the top of kvtalk.c");
    unsigned port = (unsigned)number(argv[2], 65535);
    if (argc == 3 && strcmp(verb, "script") == 0)
        return script(port);
    if (argc == 3 && strcmp(verb, "raw") == 0)
        return raw(port);
    if (argc == 4 && strcmp(verb, "drip") == 0)
        return drip(port, (size_t)number(argv[3], 1 << 24));
    if (argc == 4 && strcmp(verb, "scan") == 0)
        return scan(port, argv[3]);
    if (argc == 4 && strcmp(verb, "together") == 0)
        return together(port, (unsigned)number(argv[3], 100000));
    if (argc == 4 && strcmp(verb, "workout") == 0)
        return workout(port, number(argv[3], UINT64_MAX / 4));
    if (argc == 4 && strcmp(verb, "crowd") == 0)
        crowd(port, (unsigned)number(argv[3], 100000));
    if (argc == 6 && strcmp(verb, "deaf") == 0)
        deaf(port, (unsigned)number(argv[3], 10000), argv[4], (unsigned)number(argv[5], 1000000));
    if (argc == 5 && strcmp(verb, "idle") == 0)
        idle(port, (unsigned)number(argv[3], 10000), (size_t)number(argv[4], 1 << 26));
    if (argc == 5 && strcmp(verb, "hoard") == 0) {
        hoard(port, (unsigned)number(argv[3], 10000), (size_t)number(argv[4], 1 << 26));
        return 0;
    }
    fail(2, "no verb %s with %d arguments: see the top of kvtalk.c", verb, argc - 2);
}
