/* SPDX-License-Identifier: MIT */
/* bench.c - repeats the sides of a case in turn, and reports medians. */
#define _GNU_SOURCE
#include "bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SIDES = 6, MAX_SAMPLES = 4000, MAX_WORDS = 16 };

static struct {
    const char *question;
    const char *words[MAX_WORDS];
    size_t n_words;
    FILE *results;
    double factor;
    bool library_only, no_tracing, heading;
    char *source;
    size_t source_size;
} bench;

/* ---- small tools ----------------------------------------------------------------------------- */

double bench_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, ascending);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

long bench_faults(bool process)
{
    struct rusage u;

    getrusage(process ? RUSAGE_SELF : RUSAGE_THREAD, &u);
    return u.ru_minflt + u.ru_majflt;
}

void bench_check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s: %s\n", bench.question, what, strerror(errno));
    exit(1);
}

void bench_result(int r, const char *what)
{
    if (r < 0) {
        errno = -r;
        bench_check(false, what);
    }
}

size_t bench_page(void)
{
    static size_t page;

    if (!page)
        page = (size_t)sysconf(_SC_PAGESIZE);
    return page;
}

void bench_warm(size_t size)
{
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    bench_check(at != MAP_FAILED, "mmap");
    madvise(at, size, MADV_HUGEPAGE);
    bench_touch(at, size);
    munmap(at, size);
}

void bench_touch(char *at, size_t len)
{
    for (size_t i = 0; i < len; i += bench_page())
        ((volatile char *)at)[i]++;
}

unsigned bench_read(const char *at, size_t len)
{
    unsigned sum = 0;

    for (size_t i = 0; i < len; i += bench_page())
        sum += (unsigned)((const volatile char *)at)[i];
    return sum;
}

uint64_t bench_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

size_t bench_spread(size_t i, size_t pages)
{
    return (size_t)((uint64_t)i * 2654435761u % pages);
}

const char *bench_source(size_t size)
{
    uint64_t state = 1;

    if (size <= bench.source_size)
        return bench.source;
    if (bench.source)
        munmap(bench.source, bench.source_size);
    bench.source = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bench_check(bench.source != MAP_FAILED, "mmap of the source");
    bench.source_size = size;
    for (size_t i = 0; i < size / sizeof state; i++)
        ((uint64_t *)bench.source)[i] =
            (state = state * 6364136223846793005u + 1442695040888963407u);
    return bench.source;
}

/* ---- options and reports --------------------------------------------------------------------- */

static void usage(void)
{
    fprintf(stderr, "usage: %s [-o results.tsv] [-t factor] [-l] [-n] [word ...]\n",
            bench.question);
    exit(2);
}

void bench_begin(int argc, char **argv, const char *question)
{
    int o;

    bench.question = question;
    bench.factor = 1;
    while ((o = getopt(argc, argv, "o:t:ln")) != -1) {
        if (o == 'o')
            bench_check((bench.results = fopen(optarg, "a")) != NULL, optarg);
        else if (o == 't')
            bench.factor = atof(optarg);
        else if (o == 'l')
            bench.library_only = true;
        else if (o == 'n')
            bench.no_tracing = true;
        else
            usage();
    }
    for (; optind < argc && bench.n_words < MAX_WORDS; optind++)
        bench.words[bench.n_words++] = argv[optind];
}

int bench_end(void)
{
    if (bench.source)
        munmap(bench.source, bench.source_size);
    if (bench.results && fclose(bench.results) != 0)
        return 1;
    return fflush(stdout) != 0;
}

bool bench_library_only(void)
{
    return bench.library_only;
}

double bench_factor(void)
{
    return bench.factor;
}

static size_t memory_available(void)
{
    char line[128];
    size_t kib = SIZE_MAX / KIB;
    FILE *f = fopen("/proc/meminfo", "r");

    if (!f)
        return SIZE_MAX;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %zu", &kib) == 1)
            break;
    fclose(f);
    return kib * KIB;
}

bool bench_wanted(const char *name, size_t memory)
{
    bool wanted = bench.n_words == 0;

    for (size_t i = 0; i < bench.n_words; i++)
        wanted |= strstr(name, bench.words[i]) != NULL;
    if (!wanted)
        return false;
    if (memory > memory_available()) {
        fprintf(stderr, "%s: %s: skipped, needs %zu MiB of memory\n", bench.question, name,
                memory / MIB);
        return false;
    }
    fprintf(stderr, isatty(2) ? "\r\033[K%s: %s" : "%s: %s\n", bench.question, name);
    return true;
}

static void print_count(FILE *f, const char *separator, double n)
{
    if (n < 0)
        fprintf(f, "%s-", separator);
    else
        fprintf(f, "%s%.3g", separator, n);
}

void bench_report(const struct bench_row *r)
{
    double ratio = r->ours > 0 ? r->theirs / r->ours : 0;
    bool ok = r->kind == BENCH_RATIO ? ratio >= r->target : r->ours - r->theirs <= r->target;
    const char *verdict = r->target <= 0 ? "-" : ok ? "ok" : "short";
    char target[32] = "-";

    if (r->target > 0)
        snprintf(target, sizeof target, r->kind == BENCH_EXTRA ? "+%g" : "%g", r->target);
    if (isatty(2))
        fputs("\r\033[K", stderr);
    if (!bench.heading)
        printf("%-44s %12s  %-22s %12s %9s %7s\n", bench.question, "library", "peer", "peer's",
               "ratio", "target");
    bench.heading = true;
    printf("%-44s %12.2f  %-22s %12.2f %9.2f %7s %-5s", r->name, r->ours, r->peer, r->theirs, ratio,
           target, verdict);
    print_count(stdout, " faults ", r->faults[0]);
    print_count(stdout, "/", r->faults[1]);
    print_count(stdout, " calls ", r->calls[0]);
    print_count(stdout, "/", r->calls[1]);
    putchar('\n');
    fflush(stdout);
    if (!bench.results)
        return;
    fprintf(bench.results, "%s\t%.3f\t%s\t%.3f\t%.3f\t%s\t%s", r->name, r->ours, r->peer, r->theirs,
            ratio, target, verdict);
    for (int i = 0; i < 2; i++)
        print_count(bench.results, "\t", r->faults[i]);
    for (int i = 0; i < 2; i++)
        print_count(bench.results, "\t", r->calls[i]);
    fputc('\n', bench.results);
    fflush(bench.results);
}

/* ---- one case -------------------------------------------------------------------------------- */

struct track {
    const struct bench_side *side;
    void *object;
    unsigned batch;
    double *samples;
    size_t n, operations;
    double faults, calls, median;
};

static double once(struct track *t)
{
    const struct bench_side *s = t->side;
    long faults;
    double start, end;

    if (s->before)
        s->before(t->object);
    faults = bench_faults(false);
    start = bench_now();
    for (unsigned i = 0; i < t->batch; i++)
        s->op(t->object);
    end = bench_now();
    t->faults += (double)(bench_faults(false) - faults);
    t->operations += t->batch;
    if (s->after)
        s->after(t->object);
    return (end - start) / t->batch;
}

/* A timing of 20 us or more hides the clock's own price; what is prepared for each operation
 * cannot be batched. */
static unsigned choose_batch(struct track *t)
{
    double shortest = 1e9;

    if (t->side->before || t->side->after)
        return 1;
    for (int i = 0; i < 5; i++) {
        double us = once(t);
        if (us < shortest)
            shortest = us;
    }
    return shortest >= 20 ? 1 : (unsigned)(20 / (shortest > 0.05 ? shortest : 0.05)) + 1;
}

static void start_side(struct track *t, const struct bench_case *c)
{
    if (!bench.no_tracing && !bench.library_only)
        t->calls = bench_calls(c, t->side);
    else
        t->calls = -1;
    t->object = t->side->setup(c);
    t->samples = malloc(MAX_SAMPLES * sizeof *t->samples);
    bench_check(t->samples != NULL, "malloc");
    t->batch = 1;
    for (unsigned i = 0; i < c->warmup; i++)
        once(t);
    t->batch = c->batch ? c->batch : choose_batch(t);
    once(t);
    t->faults = 0;
    t->operations = 0;
}

/* At least five rounds; three where one takes seconds. */
static void repeat(struct track *tracks, size_t n, const struct bench_case *c)
{
    double end = bench_now() + c->seconds * bench.factor * 1e6;
    size_t least = c->size >= GIB ? 3 : 5;

    for (size_t round = 0; round < MAX_SAMPLES && (round < least || bench_now() < end); round++)
        for (size_t i = 0; i < n; i++) {
            struct track *t = &tracks[(round + i) % n];
            t->samples[t->n++] = once(t);
        }
}

static void report_pair(const char *name, const char *peer, const struct track *ours,
                        const struct track *theirs, double target)
{
    struct bench_row row = {.name = name,
                            .peer = peer,
                            .ours = ours->median,
                            .theirs = theirs->median,
                            .target = target,
                            .faults = {ours->faults, theirs->faults},
                            .calls = {ours->calls, theirs->calls}};

    bench_report(&row);
}

static void report_best(const struct bench_case *c, const struct track *tracks)
{
    const struct track *best = &tracks[1];
    char peer[64];

    for (size_t i = 2; i < c->n_sides; i++)
        if (tracks[i].median < best->median)
            best = &tracks[i];
    snprintf(peer, sizeof peer, "best (%s)", best->side->name);
    report_pair(c->name, peer, &tracks[0], best, c->sides[1].target);
}

void bench_run(const struct bench_case *c)
{
    struct track tracks[MAX_SIDES];
    size_t n = bench.library_only ? 1 : c->n_sides;

    memset(tracks, 0, sizeof tracks);
    if (!bench_wanted(c->name, (n + 2) * c->size))
        return;
    for (size_t i = 0; i < n; i++) {
        tracks[i].side = &c->sides[i];
        start_side(&tracks[i], c);
    }
    repeat(tracks, n, c);
    for (size_t i = 0; i < n; i++) {
        struct track *t = &tracks[i];
        t->side->teardown(t->object);
        t->median = bench_median(t->samples, t->n);
        t->faults /= (double)t->operations;
        free(t->samples);
    }
    if (bench.library_only)
        report_pair(c->name, "-", &tracks[0], &tracks[0], 0);
    else if (c->best)
        report_best(c, tracks);
    for (size_t i = 1; i < n; i++)
        report_pair(c->name, tracks[i].side->name, &tracks[0], &tracks[i],
                    c->best ? 0 : tracks[i].side->target);
}
