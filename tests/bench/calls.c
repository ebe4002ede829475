/* SPDX-License-Identifier: MIT */
/* calls.c - counts the system calls of one operation, exactly, by tracing a child that repeats
 * it between two stops. */
#define _GNU_SOURCE
#include "bench/bench.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WARMUP = 3, OPERATIONS = 8, LARGEST = 64 /* MiB */ };

/* The first pair of stops encloses nothing: it tells what a pair costs by itself. */
static void traced(const struct bench_case *c, const struct bench_side *s)
{
    void *o;
    double limit;

    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(1);
    o = s->setup(c);
    for (int i = 0; i < WARMUP; i++) {
        if (s->before)
            s->before(o);
        s->op(o);
        if (s->after)
            s->after(o);
    }
    raise(SIGSTOP);
    raise(SIGSTOP);
    limit = bench_now() + 2e5;
    for (int i = 0; i < OPERATIONS && (i < 1 || bench_now() < limit); i++) {
        if (s->before)
            s->before(o);
        raise(SIGSTOP);
        s->op(o);
        raise(SIGSTOP);
        if (s->after)
            s->after(o);
    }
    _exit(0);
}

double bench_calls(const struct bench_case *c, const struct bench_side *s)
{
    long stops = 0, counted = 0, overhead = 0, halves = 0;
    int status, how = PTRACE_CONT;
    pid_t pid;

    if (c->size > LARGEST * MIB || (pid = fork()) < 0)
        return -1;
    if (pid == 0)
        traced(c, s);
    while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
        int signal = WSTOPSIG(status);
        if (signal == SIGSTOP) {
            if (stops == 0)
                ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)PTRACE_O_TRACESYSGOOD);
            if (stops % 2) {
                if (stops == 1)
                    overhead = halves;
                else
                    counted += halves - overhead;
            }
            halves = 0;
            how = stops % 2 ? PTRACE_CONT : PTRACE_SYSCALL;
            stops++;
            signal = 0;
        } else if (signal == (SIGTRAP | 0x80)) {
            halves++;
            signal = 0;
        }
        if (ptrace((enum __ptrace_request)how, pid, NULL, (void *)(long)signal) != 0)
            break;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || stops < 4)
        return -1;
    return (double)counted / 2 / (double)(stops / 2 - 1);
}
