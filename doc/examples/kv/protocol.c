/* SPDX-License-Identifier: MIT */
/* protocol.c - the Redis protocol, version 2: requests are taken apart, replies put together.
 *
 * Parsing goes on where it stopped when more bytes have come, so a request that comes a byte at a
 * time costs no more than one that comes whole. Nothing is believed before it is there: a request
 * that announces 60 MiB takes memory as they arrive.
 *
 * A reply that does not fit into the buffers is taken back and an error put in its place, so that
 * the client is never out of step. Errors may quote what a client sent; none can contain the end of
 * a line, so no reply can be forged. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_LINE = 64 * 1024, MAX_COUNT = 32, KEPT_ARGS = 64 };

bool is_word(struct slice s, const char *word)
{
    return s.len == strlen(word) && strncasecmp(s.data, word, s.len) == 0;
}

/* As Redis writes them: no leading zeros, no "-0". */
bool parse_integer(struct slice text, long long *out)
{
    char digits[24], *end;

    if (text.len == 0 || text.len >= sizeof digits)
        return false;
    memcpy(digits, text.data, text.len);
    digits[text.len] = '\0';
    const char *first = digits[0] == '-' ? digits + 1 : digits;
    if (*first < '0' || *first > '9' || (*first == '0' && text.len > 1))
        return false;
    errno = 0;
    *out = strtoll(digits, &end, 10);
    return errno == 0 && end == digits + text.len;
}

/* ---- patterns: * ? [a-c] [^x] and \ before any of them --------------------------------------- */

/* One of a pattern's [...], or the one character: does it match c? *used: bytes of the pattern. */
static bool class_match(struct slice p, unsigned char c, size_t *used)
{
    size_t i = 1;
    bool not = i < p.len && p.data[i] == '^', found = false;

    for (i += not ; i < p.len && p.data[i] != ']'; i++) {
        if (p.data[i] == '\\' && i + 1 < p.len)
            i++;
        unsigned char from = (unsigned char)p.data[i], to = from;
        if (i + 2 < p.len && p.data[i + 1] == '-' && p.data[i + 2] != ']') {
            to = (unsigned char)p.data[i + 2];
            i += 2;
        }
        found |= (from <= c && c <= to) || (to <= c && c <= from);
    }
    *used = i < p.len ? i + 1 : p.len;
    return found != not ;
}

static bool one_match(struct slice p, unsigned char c, size_t *used)
{
    *used = 1;
    if (p.data[0] == '?')
        return true;
    if (p.data[0] == '[')
        return class_match(p, c, used);
    if (p.data[0] == '\\' && p.len > 1) {
        *used = 2;
        return (unsigned char)p.data[1] == c;
    }
    return (unsigned char)p.data[0] == c;
}

/* After a mismatch only the last star takes one more character: earlier ones have no need to. So it
 * takes at most the product of both lengths, whatever the pattern. */
bool glob_match(struct slice pattern, struct slice text)
{
    size_t p = 0, t = 0, star = SIZE_MAX, resume = 0, used;

    while (t < text.len) {
        if (p < pattern.len && pattern.data[p] == '*') {
            star = ++p;
            resume = t;
        } else if (p < pattern.len && one_match((struct slice){pattern.data + p, pattern.len - p},
                                                (unsigned char)text.data[t], &used)) {
            p += used;
            t++;
        } else if (star != SIZE_MAX) {
            p = star;
            t = ++resume;
        } else {
            return false;
        }
    }
    while (p < pattern.len && pattern.data[p] == '*')
        p++;
    return p == pattern.len;
}

/* ---- requests -------------------------------------------------------------------------------- */

/* A line without its end, and how many bytes it took with it. */
static enum parsed parse_line(const char *data, size_t len, size_t max, struct slice *line,
                              size_t *taken)
{
    const char *end = memchr(data, '\n', len < max ? len : max);

    if (end == NULL)
        return len >= max ? MALFORMED : INCOMPLETE;
    *taken = (size_t)(end - data) + 1;
    line->data = data;
    line->len = *taken - 1;
    if (line->len > 0 && data[line->len - 1] == '\r')
        line->len--;
    return PARSED;
}

/* The number after a '*' or '$', which is there. */
static enum parsed parse_count(const char *data, size_t len, long long max, size_t *count,
                               size_t *taken)
{
    struct slice line = {NULL, 0};
    long long n;
    enum parsed state = parse_line(data, len, MAX_COUNT, &line, taken);

    if (state != PARSED)
        return state;
    if (!parse_integer((struct slice){line.data + 1, line.len - 1}, &n) || n > max)
        return MALFORMED;
    if (n < 0 && data[0] == '$')
        return MALFORMED;
    *count = n < 0 ? 0 : (size_t)n;
    return PARSED;
}

/* An array with room for one more after `count`. NULL: no memory, or the buffers are full;
 * *capacity says still how much there is. */
static void *with_room(void *array, size_t count, size_t *capacity, size_t each)
{
    size_t more = *capacity < KEPT_ARGS / 8 ? KEPT_ARGS / 8 : *capacity;

    while (more <= count)
        more *= 2;
    if (more == *capacity)
        return array;
    array = budget_realloc(array, *capacity * each, more * each);
    if (array != NULL)
        *capacity = more;
    return array;
}

static bool add_part(struct request *r, size_t offset, size_t len)
{
    struct part *part = with_room(r->part, r->found, &r->parts, sizeof *part);

    if (part == NULL)
        return false;
    r->part = part;
    r->part[r->found++] = (struct part){offset, len};
    return true;
}

/* The request is whole, and stays where it is until it is done. */
static bool make_args(struct client *c)
{
    struct request *r = &c->request;
    struct slice *arg = with_room(r->arg, r->found, &r->args, sizeof *arg);

    if (arg == NULL)
        return false;
    r->arg = arg;
    for (size_t i = 0; i < r->found; i++)
        arg[i] = (struct slice){c->in.data + c->in.start + r->part[i].offset, r->part[i].len};
    c->arg = arg;
    c->args = r->found;
    return true;
}

const char no_room[] = "ERR the server's buffers are full: send less at a time";

static enum parsed parse_inline(struct request *r, const char *data, size_t len,
                                const char **trouble)
{
    struct slice line = {NULL, 0};
    enum parsed state = parse_line(data, len, MAX_LINE, &line, &r->at);

    if (state == MALFORMED)
        *trouble = "ERR Protocol error: too big inline request";
    for (size_t i = 0; state == PARSED && i < line.len; i++) {
        size_t begin = i;

        while (i < line.len && line.data[i] != ' ' && line.data[i] != '\t')
            i++;
        if (i > begin && !add_part(r, begin, i - begin)) {
            *trouble = no_room;
            return NO_ROOM;
        }
    }
    return state;
}

/* The next argument: its length, then its bytes. */
static enum parsed parse_bulk(struct request *r, const char *data, size_t len, const char **trouble)
{
    size_t taken;

    if (r->at == len)
        return INCOMPLETE;
    if (!r->in_bulk && data[r->at] != '$') {
        *trouble = "ERR Protocol error: expected '$'";
        return MALFORMED;
    }
    if (!r->in_bulk) {
        enum parsed state = parse_count(data + r->at, len - r->at, MAX_VALUE, &r->bulk, &taken);

        if (state == MALFORMED || (state == PARSED && r->at + r->bulk > MAX_REQUEST)) {
            *trouble = "ERR Protocol error: invalid bulk length: at most 64 MiB";
            return MALFORMED;
        }
        if (state != PARSED)
            return state;
        r->at += taken;
        r->in_bulk = true;
    }
    if (len - r->at < r->bulk + 2) {
        r->missing = r->bulk + 2 - (len - r->at);
        return INCOMPLETE;
    }
    if (memcmp(data + r->at + r->bulk, "\r\n", 2) != 0) {
        *trouble = "ERR Protocol error: an argument is not as long as it says";
        return MALFORMED;
    }
    if (!add_part(r, r->at, r->bulk)) {
        *trouble = no_room;
        return NO_ROOM;
    }
    r->at += r->bulk + 2;
    r->in_bulk = false;
    return PARSED;
}

static enum parsed parse_array(struct request *r, const char *data, size_t len,
                               const char **trouble)
{
    if (r->at == 0) {
        enum parsed state = parse_count(data, len, MAX_ARGS, &r->expected, &r->at);

        if (state == MALFORMED)
            *trouble = "ERR Protocol error: invalid multibulk length: at most 65536 arguments";
        if (state != PARSED) {
            r->at = 0;
            return state;
        }
    }
    while (r->found < r->expected) {
        enum parsed state = parse_bulk(r, data, len, trouble);

        if (state != PARSED)
            return state;
    }
    return PARSED;
}

enum parsed request_parse(struct client *c, const char **trouble)
{
    struct request *r = &c->request;
    const char *data = c->in.data + c->in.start;
    size_t len = buffered(&c->in);

    r->missing = 1;
    enum parsed state =
        data[0] == '*' ? parse_array(r, data, len, trouble) : parse_inline(r, data, len, trouble);
    if (state == PARSED && !make_args(c)) {
        *trouble = no_room;
        return NO_ROOM;
    }
    return state;
}

void request_free(struct request *r)
{
    budget_realloc(r->part, r->parts * sizeof *r->part, 0);
    budget_realloc(r->arg, r->args * sizeof *r->arg, 0);
    *r = (struct request){0};
}

void request_done(struct client *c)
{
    struct request *r = &c->request;

    c->in.start += r->at;
    if (r->parts > KEPT_ARGS || r->args > KEPT_ARGS)
        request_free(r);
    r->expected = r->found = r->at = 0;
    if (buffered(&c->in) > 0)
        return;
    c->in.start = c->in.end = 0;
    if (c->in.capacity > OWN_SHARE)
        buffer_free(&c->in);
}

/* ---- replies --------------------------------------------------------------------------------- */

static atomic_ullong errors;

uint64_t count_errors(void)
{
    return atomic_load(&errors);
}

void reply_begin(struct client *c)
{
    c->reply_start = buffered(&c->out);
    c->overflow = false;
}

void reply_rewind(struct client *c)
{
    c->out.end = c->out.start + c->reply_start;
    c->overflow = false;
}

/* The error itself needs a few bytes: if even they are not to be had, the client is of no use any
 * more. */
void reply_end(struct client *c)
{
    if (!c->overflow)
        return;
    reply_rewind(c);
    refused(REFUSED_REPLY,
            "the buffers are full: %s got an error in place of its reply; "
            "raise --max-buffers",
            c->peer);
    reply_error(c, "ERR the reply does not fit into the server's buffers: ask for less, or read "
                   "sooner");
    if (c->overflow)
        c->closing = true;
}

void reply_bytes(struct client *c, const char *data, size_t len)
{
    if (!c->overflow && !buffer_add(&c->out, data, len))
        c->overflow = true;
}

void reply_text(struct client *c, const char *text)
{
    reply_bytes(c, text, strlen(text));
}

void reply_format(struct client *c, const char *format, ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    int len = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    reply_bytes(c, line, (size_t)len < sizeof line ? (size_t)len : sizeof line - 1);
}

void reply_error(struct client *c, const char *format, ...)
{
    char line[512] = "-";
    va_list args;

    va_start(args, format);
    int n = vsnprintf(line + 1, sizeof line - 3, format, args);
    va_end(args);
    size_t len = 1 + ((size_t)n < sizeof line - 3 ? (size_t)n : sizeof line - 4);
    for (size_t i = 1; i < len; i++) {
        if ((unsigned char)line[i] < ' ')
            line[i] = ' ';
    }
    memcpy(line + len, "\r\n", 2);
    reply_bytes(c, line, len + 2);
    atomic_fetch_add_explicit(&errors, 1, memory_order_relaxed);
}

static void reply_number(struct client *c, char kind, long long n)
{
    reply_format(c, "%c%lld\r\n", kind, n);
}

void reply_integer(struct client *c, long long n)
{
    reply_number(c, ':', n);
}

void reply_array(struct client *c, size_t n)
{
    reply_number(c, '*', (long long)n);
}

void reply_bulk(struct client *c, struct slice s)
{
    reply_number(c, '$', (long long)s.len);
    reply_bytes(c, s.data, s.len);
    reply_bytes(c, "\r\n", 2);
}

void reply_string(struct client *c, const char *text)
{
    reply_bulk(c, (struct slice){text, strlen(text)});
}

void reply_nil(struct client *c)
{
    reply_text(c, "$-1\r\n");
}

void reply_ok(struct client *c)
{
    reply_text(c, "+OK\r\n");
}

size_t reply_mark(struct client *c)
{
    return buffered(&c->out);
}

void reply_head(struct client *c, size_t mark, const char *head)
{
    size_t len = strlen(head);

    reply_bytes(c, head, len); /* makes room */
    if (c->overflow)
        return;
    char *at = c->out.data + c->out.start + mark;
    memmove(at + len, at, buffered(&c->out) - mark - len);
    memcpy(at, head, len);
}
