/* SPDX-License-Identifier: MIT */
/* bench.h - what the benchmark programs share: timing one operation as several sides do it, and
 * reporting it.
 *
 * A case is one operation. Its sides do it in turn, repetition by repetition, so that whatever
 * disturbs the machine disturbs all of them; each side's figure is the median. Side 0 is the
 * library, the others are what a user would do without it. Page faults are counted around the
 * timed part (getrusage), system calls in a traced child before it (calls.c). */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

struct bench_case;

struct bench_side {
    const char *name;
    void *(*setup)(const struct bench_case *c);
    void (*before)(void *o); /* untimed, before each operation; may be NULL */
    void (*op)(void *o);     /* timed */
    void (*after)(void *o);  /* untimed, after each operation; may be NULL */
    void (*teardown)(void *o);
    /* of a peer: the least ratio of its time to the library's; 0: none */
    double target;
};

struct bench_case {
    const char *name;
    size_t size;     /* bytes of the image */
    size_t pages;    /* how many pages are changed; 0: does not apply */
    const void *how; /* private to the program */
    double seconds;  /* how long to repeat, all sides together */
    unsigned warmup; /* untimed repetitions first */
    /* operations in one timing; 0: chosen so that reading the clock does not show */
    unsigned batch;
    bool best; /* the first peer's target holds against the best of all peers */
    const struct bench_side *sides;
    size_t n_sides;
};

/* How a target is to be read: a least ratio, or a greatest difference in the row's unit. */
enum bench_target { BENCH_RATIO, BENCH_EXTRA };

struct bench_row {
    const char *name, *peer;
    double ours, theirs; /* microseconds, unless the name says otherwise */
    enum bench_target kind;
    double target;              /* 0: none */
    double faults[2], calls[2]; /* per operation, ours and the peer's; negative: not counted */
};

/* Options: -o FILE results, -t FACTOR time, -l library alone (for profilers), -n no tracing;
 * then words: only cases whose name has one of them. */
void bench_begin(int argc, char **argv, const char *question);
int bench_end(void); /* exit status */
/* selected, and that much memory is there; announces it */
bool bench_wanted(const char *name, size_t memory);
bool bench_library_only(void);
double bench_factor(void);
void bench_run(const struct bench_case *c);
void bench_report(const struct bench_row *row);

double bench_now(void);                   /* microseconds */
double bench_median(double *v, size_t n); /* sorts v */
/* page faults so far: of this thread, or of the process */
long bench_faults(bool process);
void bench_check(bool ok, const char *what); /* else ends the program, with errno */
/* ends the program if r < 0, a result of the library */
void bench_result(int r, const char *what);
size_t bench_page(void);
/* Before something large is timed: makes sure that much free memory is memory the machine really
 * has. Guests give free memory back to their host, and touching it again then costs several
 * times what the guest's own kernel does. */
void bench_warm(size_t size);
void bench_touch(char *at, size_t len);          /* stores to every page */
unsigned bench_read(const char *at, size_t len); /* reads every page */
/* Bytes to make images of, the same ones each time: no page is zero, no two are equal. Kept
 * until bench_end. */
const char *bench_source(size_t size);
/* the i-th of a fixed set of pages, far from each other */
size_t bench_spread(size_t i, size_t pages);
uint64_t bench_random(uint64_t *state);

/* calls.c: system calls in one operation of a side; negative: cannot be counted here. */
double bench_calls(const struct bench_case *c, const struct bench_side *s);

#endif
