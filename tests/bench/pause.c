/* SPDX-License-Identifier: MIT */
/* pause.c - how long does a writer of 1 GiB stand still when a snapshot of it is taken? Servers
 * use fork() for that. */
#define _GNU_SOURCE
#include "bench/bench.h"
#include "memsnap.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 5, LATER = 5, CHANGED = 1000 };

#define SIZE GIB

struct pauses {
    double first[ROUNDS], later[ROUNDS * LATER];
    size_t n_later;
    double faults_first, faults_later;
};

static void change_some(char *at)
{
    static uint64_t state;

    for (int i = 0; i < CHANGED; i++)
        ((volatile char *)at)[bench_random(&state) % (SIZE / bench_page()) * bench_page() + 8]++;
}

/* ---- the library: a mutable view that stays open --------------------------------------------- */

static double take(memsnap_view *view, memsnap_snapshot **out, double *faults)
{
    long before = bench_faults(false);
    double start = bench_now();

    bench_result(memsnap_view_take_snapshot(view, 0, out), "memsnap_view_take_snapshot");
    start = bench_now() - start;
    *faults = (double)(bench_faults(false) - before);
    return start;
}

static void library_round(struct pauses *p, int round, bool zeroed, unsigned flags)
{
    memsnap_snapshot *snapshot, *taken;
    memsnap_view *view;

    if (zeroed)
        bench_result(memsnap_snapshot_new_zeroed(SIZE, 0, &snapshot),
                     "memsnap_snapshot_new_zeroed");
    else
        bench_result(memsnap_snapshot_new(bench_source(SIZE), SIZE, 0, &snapshot),
                     "memsnap_snapshot_new");
    bench_result(memsnap_snapshot_view_mut(snapshot, flags, &view), "memsnap_snapshot_view_mut");
    bench_touch(memsnap_view_data(view), SIZE);
    p->first[round] = take(view, &taken, &p->faults_first);
    for (int i = 0; i < LATER; i++) {
        memsnap_snapshot *previous = taken;
        change_some(memsnap_view_data(view));
        p->later[p->n_later++] = take(view, &taken, &p->faults_later);
        memsnap_snapshot_unref(previous);
    }
    memsnap_snapshot_unref(taken);
    memsnap_view_unref(view);
    memsnap_snapshot_unref(snapshot);
}

static bool tracking_works(void)
{
    memsnap_snapshot *snapshot;
    memsnap_view *view = NULL;

    bench_result(memsnap_snapshot_new_zeroed(MIB, 0, &snapshot), "memsnap_snapshot_new_zeroed");
    int r = memsnap_snapshot_view_mut(snapshot, MEMSNAP_VIEW_TRACK, &view);
    memsnap_view_unref(view);
    memsnap_snapshot_unref(snapshot);
    return r == 0;
}

/* ---- fork: the parent's pause; the child is gone before the next ----------------------------- */

static double timed_fork(double *faults)
{
    long before = bench_faults(false);
    double start = bench_now();
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    start = bench_now() - start;
    *faults = (double)(bench_faults(false) - before);
    bench_check(pid > 0, "fork");
    waitpid(pid, NULL, 0);
    return start;
}

static void fork_round(struct pauses *p, int round, bool huge)
{
    char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    bench_check(at != MAP_FAILED, "mmap");
    madvise(at, SIZE, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    bench_touch(at, SIZE);
    p->first[round] = timed_fork(&p->faults_first);
    for (int i = 0; i < LATER; i++) {
        change_some(at);
        p->later[p->n_later++] = timed_fork(&p->faults_later);
    }
    munmap(at, SIZE);
}

static void report(const char *name, const char *peer, double ours, double theirs, double faults,
                   double their_faults, double target)
{
    struct bench_row row = {.name = name,
                            .peer = peer,
                            .ours = ours,
                            .theirs = theirs,
                            .target = target,
                            .faults = {faults, their_faults},
                            .calls = {-1, -1}};

    bench_report(&row);
}

static void report_all(const char *first, const char *later, const char *peer, struct pauses *ours,
                       struct pauses *theirs, bool targeted)
{
    report(first, peer, bench_median(ours->first, ROUNDS), bench_median(theirs->first, ROUNDS),
           ours->faults_first, theirs->faults_first, targeted ? 25 : 0);
    report(later, peer, bench_median(ours->later, ours->n_later),
           bench_median(theirs->later, theirs->n_later), ours->faults_later, theirs->faults_later,
           targeted ? 5 : 0);
}

int main(int argc, char **argv)
{
    static struct pauses bytes, tracked, zeroed, small, huge;

    bench_begin(argc, argv, "pause");
    if (bench_wanted("pause", 5 * GIB)) {
        bool can_track = tracking_works();
        if (!can_track)
            fprintf(stderr, "pause: stores cannot be noticed here: no tracked writers\n");
        /* fork() shall not pay for what the library's side is made of. */
        madvise((void *)(uintptr_t)bench_source(SIZE), SIZE, MADV_DONTFORK);
        for (int i = 0; i < ROUNDS; i++) {
            library_round(&bytes, i, false, 0);
            if (can_track)
                library_round(&tracked, i, false, MEMSNAP_VIEW_TRACK);
            library_round(&zeroed, i, true, 0);
            fork_round(&small, i, false);
            fork_round(&huge, i, true);
        }
        report_all("pause, first, 1 GiB writer", "pause, later, 1 GiB writer", "fork", &bytes,
                   &small, true);
        if (can_track)
            report_all("pause, first, 1 GiB tracked writer", "pause, later, 1 GiB tracked writer",
                       "fork", &tracked, &small, true);
        report_all("pause, first, 1 GiB zeroed writer", "pause, later, 1 GiB zeroed writer", "fork",
                   &zeroed, &small, false);
        report_all("pause, first, 1 GiB writer", "pause, later, 1 GiB writer", "fork (huge pages)",
                   &bytes, &huge, false);
    }
    return bench_end();
}
