/* SPDX-License-Identifier: MIT */
/* report.c - what the operator is told: lines on standard output and standard error, and counts for
 * INFO.
 *
 * Nothing here ever waits: standard error may be a pipe that nobody reads, and a server that waits
 * for its own log does not serve. What does not fit now is lost. SIGPIPE is ignored (main.c), so a
 * closed one does no harm. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const refusal_names[REFUSALS] = {
    [REFUSED_CLIENT] = "rejected_connections",
    [REFUSED_PROTOCOL] = "protocol_errors",
    [REFUSED_REQUEST] = "client_query_buffer_limit_disconnections",
    [REFUSED_REPLY] = "replies_over_buffer_limit",
    [REFUSED_STALLED] = "stalled_disconnections",
};

static struct {
    atomic_ullong count;
    atomic_ullong told; /* now_us() of the last line */
} refusals[REFUSALS];

uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A pipe that is ready takes at least PIPE_BUF bytes, which is more than a line. */
static void write_line(int fd, const char *format, va_list args)
{
    static const char name[] = "kvserver: ";
    char line[2048];
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    size_t len = sizeof name - 1, most = sizeof line - 1;

    memcpy(line, name, len);
    int n = vsnprintf(line + len, most - len, format, args);
    len = n < 0 ? len : (size_t)n < most - len ? len + (size_t)n : most - 1;
    line[len++] = '\n';
    if (poll(&ready, 1, 0) == 1 && write(fd, line, len) < 0)
        return; /* closed: there is nobody to tell */
}

void say(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    write_line(STDOUT_FILENO, format, args);
    va_end(args);
}

void complain(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    write_line(STDERR_FILENO, format, args);
    va_end(args);
}

void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    write_line(STDERR_FILENO, format, args);
    va_end(args);
    exit(1);
}

/* Counts, and writes a line of each kind once a second at the most: a flood of clients must not
 * become a flood of lines. */
void refused(enum refusal kind, const char *format, ...)
{
    unsigned long long now = now_us(), told = atomic_load(&refusals[kind].told);
    va_list args;

    atomic_fetch_add(&refusals[kind].count, 1);
    if (told != 0 && now - told < 1000000)
        return;
    if (!atomic_compare_exchange_strong(&refusals[kind].told, &told, now))
        return;
    va_start(args, format);
    write_line(STDERR_FILENO, format, args);
    va_end(args);
}

void print_refusals(FILE *f)
{
    for (unsigned i = 0; i < REFUSALS; i++)
        fprintf(f, "%s:%llu\r\n", refusal_names[i], atomic_load(&refusals[i].count));
}
