/* SPDX-License-Identifier: MIT */
/* threads.c - does opening views of one snapshot from many threads at once scale? */
#define _GNU_SOURCE
#include "bench/bench.h"
#include "memsnap.h"
#include "bench/peers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { SIZE = 1 << 20, ROUNDS = 7, MAX_THREADS = 8 };

static memsnap_snapshot *snapshot;
static int store;
static pthread_barrier_t start;
static atomic_bool stop;

struct worker {
    pthread_t thread;
    bool library;
    unsigned number;
    unsigned long cycles;
};

static void write_page(char *at, size_t n)
{
    ((volatile char *)at)[bench_spread(n % 4, SIZE / bench_page()) * bench_page()] = 1;
}

static void library_cycle(size_t n)
{
    memsnap_view *view;

    bench_result(memsnap_snapshot_view(snapshot, 0, &view), "memsnap_snapshot_view");
    write_page(memsnap_view_data(view), n);
    memsnap_view_unref(view);
}

static void map_cycle(size_t n)
{
    char *at = crate_view(store, SIZE);

    write_page(at, n);
    munmap(at, SIZE);
}

static void *work(void *arg)
{
    struct worker *w = arg;

    pthread_barrier_wait(&start);
    for (w->cycles = 0; !atomic_load_explicit(&stop, memory_order_relaxed); w->cycles++) {
        if (w->library)
            library_cycle(w->number + w->cycles);
        else
            map_cycle(w->number + w->cycles);
    }
    return NULL;
}

/* Microseconds of wall time per cycle, all threads together. */
static double slice(unsigned threads, bool library, double *faults)
{
    struct worker workers[MAX_THREADS];
    double began;
    long faults_before;
    unsigned long cycles = 0;

    atomic_store(&stop, false);
    pthread_barrier_init(&start, NULL, threads + 1);
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct worker){.library = library, .number = i};
        bench_check(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0,
                    "pthread_create");
    }
    faults_before = bench_faults(true);
    pthread_barrier_wait(&start);
    began = bench_now();
    usleep((useconds_t)(1e5 * bench_factor()));
    atomic_store(&stop, true);
    began = bench_now() - began;
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        cycles += workers[i].cycles;
    }
    pthread_barrier_destroy(&start);
    *faults = (double)(bench_faults(true) - faults_before) / (double)cycles;
    return began / (double)cycles;
}

static void threads(unsigned n)
{
    char name[64];
    double ours[ROUNDS], theirs[ROUNDS];
    struct bench_row row = {.name = name, .peer = "mmap + munmap", .target = 4, .calls = {-1, -1}};

    snprintf(name, sizeof name, "open + write + close 1 MiB, %u thread%s", n, n > 1 ? "s" : "");
    if (!bench_wanted(name, 16 * MIB))
        return;
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = slice(n, true, &row.faults[0]);
        theirs[i] = bench_library_only() ? ours[i] : slice(n, false, &row.faults[1]);
    }
    row.ours = bench_median(ours, ROUNDS);
    row.theirs = bench_median(theirs, ROUNDS);
    bench_report(&row);
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, "threads");
    bench_result(memsnap_snapshot_new(bench_source(SIZE), SIZE, 0, &snapshot),
                 "memsnap_snapshot_new");
    store = small_store(SIZE);
    for (unsigned n = 1; n <= MAX_THREADS; n *= 2)
        threads(n);
    memsnap_snapshot_unref(snapshot);
    close(store);
    return bench_end();
}
