/* SPDX-License-Identifier: MIT */
/* What the test programs share: configurations (a backend and a source of dirty pages),
 * patterns, counts of what the process holds, and forked children.
 *
 * A test registered with test_add() runs once per configuration as /<backend>/<source>/<name>.
 * Afterwards the process must hold as many descriptors, mappings and allocations of the library
 * as before: every test is a leak test. */
#ifndef MS_TEST_SUPPORT_H
#define MS_TEST_SUPPORT_H

#include <errno.h>
#include <glib.h>
#include <memsnap.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/arith.h"
#include "os/os.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

/* ---- configurations -------------------------------------------------------------------------- */

struct config {
    const char *backend; /* "linux", "posix", "heap": the first component of the path */
    const char *source;  /* "scan", "pagemap", "compare", "best" */
    const struct os *os;
    enum os_source force;
    unsigned flags; /* for every call that makes a snapshot */
    bool warm;      /* what the library does once per process is done */
};

enum test_how {
    /* once per backend and source of dirty pages, else once per backend */
    TEST_SOURCES = 1,
    /* with the backend's own table: operations are not counted, and leaks are not looked for */
    TEST_PLAIN = 2
};

extern struct config config; /* of the running test */
extern size_t page;          /* bytes */

void test_init(int *argc, char ***argv);
/* The number that follows the option in the arguments; both are taken out. */
size_t test_number(int *argc, char **argv, const char *option, size_t if_missing);
void test_add(const char *name, void (*body)(void), unsigned how);
bool config_is(const char *backend);
/* Whether the source of dirty pages works in this process; OS_SOURCE_COMPARE and OS_SOURCES do. */
bool source_works(const struct os *os, enum os_source source);
/* Lists the configurations that work here, at most max. Returns how many. */
size_t config_list(struct config *list, size_t max);
/* Runs body in a configuration, over a table that is wrapped (fault.h), and looks for leaks. */
void config_run(struct config *c, void (*body)(void));
/* Marks the running test as skipped, from a child too. The caller returns then. */
void test_skip(const char *why);
/* Ends the program as skipped unless it may make files of so many bytes. */
void test_need_file_size(uint64_t size);
/* Closed views can be parked: the system tells that nobody changed their mapping. */
bool can_recycle(void);
bool on_valgrind(void);
/* AddressSanitizer or ThreadSanitizer: address space and signals are theirs */
bool on_sanitizer(void);
bool on_thread_sanitizer(void);

/* ---- bytes ----------------------------------------------------------------------------------- */

struct rng {
    uint64_t state;
};

uint64_t rng_next(struct rng *r);
size_t rng_below(struct rng *r, size_t limit); /* limit > 0 */
size_t round_up(size_t size);                  /* to whole pages */
/* Under valgrind, which is slow, makes large sizes a few pages plus the same odd bytes. */
void shrink_for_valgrind(size_t *sizes, size_t n);
void fill(void *p, size_t size, uint64_t seed);     /* no page comes out all zero */
unsigned char *pattern(size_t size, uint64_t seed); /* g_malloc()ed */
bool all_zero(const void *p, size_t size);
uint64_t hash(const void *p, size_t size);

void check_same(const char *file, int line, const void *is, const void *expected, size_t size);
void check_content(const char *file, int line, memsnap_snapshot *s, const void *expected,
                   size_t size);
#define assert_same(is, expected, size) check_same(__FILE__, __LINE__, is, expected, size)
/* Compares what memsnap_snapshot_read() gives, and what a view shows. */
#define assert_content(s, expected, size) check_content(__FILE__, __LINE__, s, expected, size)
#define assert_ok(result) g_assert_cmpint(result, ==, 0)

/* What an out-parameter holds before a call that must leave it alone. */
extern char untouched_by_failure;
#define UNTOUCHED ((void *)&untouched_by_failure)
#define assert_refused(result, error, out)                                                         \
    do {                                                                                           \
        g_assert_cmpint(result, ==, error);                                                        \
        g_assert_true((void *)(out) == UNTOUCHED);                                                 \
    } while (0)

/* NULL, but the compiler does not know: it may warn of a NULL parameter. */
extern void *volatile null;

/* Checks the ranges of one call that takes a cursor: they are the runs of pages in which x and y
 * differ from *at on. Only the last range may end before its run does. Moves *at to its end. */
void check_ranges(const struct memsnap_range *ranges, int n, const void *x, const void *y,
                  size_t size, size_t *at);

/* ---- calls that must succeed, with the configuration's flags --------------------------------- */

memsnap_snapshot *snap(const void *data, size_t size);
memsnap_snapshot *snap_pattern(size_t size, uint64_t seed);
memsnap_snapshot *snap_zero(size_t size);
memsnap_snapshot *snap_clone(memsnap_snapshot *s);
memsnap_view *view(memsnap_snapshot *s);
memsnap_view *view_mut(memsnap_snapshot *s);
/* MEMSNAP_VIEW_TRACK, or 0 where it cannot be had. */
unsigned tracking(void);
memsnap_view *view_mut_tracked(memsnap_snapshot *s);
memsnap_snapshot *take(memsnap_view *v);
unsigned char *bytes(memsnap_view *v);
/* Uses a snapshot in the usual ways, and checks every byte. */
void exercise(size_t size);
struct memsnap_snapshot_stats snap_stats(memsnap_snapshot *s);
struct memsnap_view_stats view_stats(memsnap_view *v);

/* An address, aligned to 2 MiB, with at least `size` bytes free. They stay free because they are
 * the lower end of a larger free range. */
void *free_address(size_t size);

/* ---- what the process holds ------------------------------------------------------------------ */

size_t descriptors(void); /* that are open, but for the one that counts them */
size_t mappings(void);
size_t resident(
    const char *field); /* bytes, of a line of /proc/self/status: "VmRSS", "RssAnon", "RssShmem" */
size_t object_bytes(void); /* memory and disk space of the nameless files that are open */

/* ---- children -------------------------------------------------------------------------------- */

/* Runs body in a forked child and returns its wait status; 0 if body returned. */
int child_status(void (*body)(void *), void *arg);
/* The same, but the test fails if the child does, and is skipped if the child is. */
void child_run(void (*body)(void *), void *arg);
void child_exit(int code) __attribute__((noreturn)); /* _exit, but coverage is kept */

/* From now on the system call fails with `error`: always, or, if argument >= 0, where argument
 * number `argument` (from 0) is `value`. For a child. Of several filters the newest one's error
 * counts. False: there are no system call filters here. */
bool deny(long call, int argument, unsigned value, int error);

/* ---- files ----------------------------------------------------------------------------------- */

/* A fresh path in a directory that temp_clean() removes with all that is in it. */
char *temp_path(const char *name); /* g_free() */
char *temp_file(const char *name, const void *data, size_t size);
void temp_clean(void);

#endif
