/* SPDX-License-Identifier: MIT */
/* What the tests of the contract with the operating system (lib/os/os.h) share. They call the
 * operations of a table directly, once for every table that was compiled in.
 *
 * What changes a limit, closes descriptors or filters system calls does so in a forked child. */
#ifndef MS_TEST_OS_TABLE_H
#define MS_TEST_OS_TABLE_H

#include "os/os.h"
#include "support/support.h"

extern const struct os *os; /* the table under test */

enum os_tables { OS_ANY = 1, OS_LINUX = 2, OS_POSIX = 4 };

struct os_test {
    const char *name;
    void (*body)(void);
    int tables; /* enum os_tables */
};

/* Runs each test as /os/<table>/<name>. The list ends with a test without a name. */
int os_test_main(int argc, char **argv, const struct os_test *tests);

/* Runs body in a forked child, like child_run(). */
void in_child(void (*body)(void));

/* A command that only lib/os/pagemap.c uses. On machines where it has another number the filter
 * catches nothing. */
enum { PAGEMAP_SCAN_COMMAND = (int)0xC0606610 };

/* ---- memory and objects ---------------------------------------------------------------------- */

bool all_bytes(const char *p, char value, size_t len);
char *reserve(size_t len);
char *map_object(const struct os_object *o, size_t len, enum os_share how);
/* An object of `pages` pages, the i-th filled with (char)(i + 1). */
struct os_object object_of(size_t pages);
/* An object whose pages are all there, so that reading a mapped page finds it and fills no hole. */
struct os_object full_object(size_t pages);
/* Writes 3s to pages 4, 5 and 12 of an object of 16 pages. */
void write_islands(const struct os_object *o);
void read_pages(const char *p, size_t pages); /* a byte of each */

/* Whether the kernel may read or write the byte. It is asked by a system call, so that a refusal
 * raises no signal. */
bool can_read(const char *p);
bool can_write(char *p);

/* A file that can be used by the user who calls this, in a child too. */
char *temporary_file(const void *bytes, size_t len);
void remove_file(char *name); /* g_free()s the name too */

/* ---- runs of pages --------------------------------------------------------------------------- */

/* One call of candidates(), written() or write_block_candidates(). */
typedef int ask_fn(const void *context, uintptr_t *cursor, uintptr_t end, struct os_range *v,
                   size_t max);
/* Asks for the runs in `pages` pages from p on, at most max in a call, and checks their order.
 * found[i] becomes true if page i is in one of them. */
void find_runs(ask_fn *ask, const void *context, const char *p, size_t pages, size_t max,
               bool *found);
/* Every source that works here names exactly the expected pages. */
void check_sources(const char *p, size_t pages, const bool *expected);

/* Around system calls that are meant to meet memory that is not there. */
#ifdef VALGRIND_DISABLE_ERROR_REPORTING
#define QUIET_BEGIN() VALGRIND_DISABLE_ERROR_REPORTING
#define QUIET_END() VALGRIND_ENABLE_ERROR_REPORTING
#else
#define QUIET_BEGIN() ((void)0)
#define QUIET_END() ((void)0)
#endif

#endif
