/* SPDX-License-Identifier: MIT */
/* What the test programs share; see support.h. */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#endif

#include "base/annotate.h"
#include "support/support.h"
#include "support/valid.h"

struct config config;
size_t page;
char untouched_by_failure;
void *volatile null;

static char *temp_dir;
static bool skipped;
static int child_pipe = -1; /* in a child: where it says why it was skipped */

/* ---- configurations -------------------------------------------------------------------------- */

bool config_is(const char *backend)
{
    return strcmp(config.backend, backend) == 0;
}

void test_init(int *argc, char ***argv)
{
    page = memsnap_page_size();
    g_test_init(argc, argv, NULL);
}

size_t test_number(int *argc, char **argv, const char *option, size_t if_missing)
{
    size_t number = if_missing;
    int kept = 1;
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], option) == 0 && i + 1 < *argc)
            number = strtoul(argv[++i], NULL, 10);
        else
            argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    *argc = kept;
    return number;
}

void test_skip(const char *why)
{
    if (child_pipe < 0) {
        g_test_skip(why);
        return;
    }
    skipped = true;
    if (write(child_pipe, why, strlen(why)) < 0)
        child_exit(1);
}

void test_need_file_size(uint64_t size)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY ||
        limit.rlim_cur >= size)
        return;
    printf("1..0 # SKIP RLIMIT_FSIZE is less than %llu bytes\n", (unsigned long long)size);
    exit(0);
}

bool on_valgrind(void)
{
#ifdef MS_WITH_VALGRIND
    return RUNNING_ON_VALGRIND != 0;
#else
    return false;
#endif
}

bool on_sanitizer(void)
{
#ifdef MS_ASAN
    return true;
#else
    return on_thread_sanitizer();
#endif
}

bool on_thread_sanitizer(void)
{
#ifdef MS_TSAN
    return true;
#else
    return false;
#endif
}

/* ---- bytes ----------------------------------------------------------------------------------- */

uint64_t rng_next(struct rng *r)
{
    uint64_t x = r->state += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

size_t rng_below(struct rng *r, size_t limit)
{
    return (size_t)(rng_next(r) % limit);
}

size_t round_up(size_t size)
{
    return (size + page - 1) / page * page;
}

void shrink_for_valgrind(size_t *sizes, size_t n)
{
    for (size_t i = 0; on_valgrind() && i < n; i++)
        if (sizes[i] > 32 * page)
            sizes[i] = sizes[i] % page + (20 + i) * page;
}

void fill(void *p, size_t size, uint64_t seed)
{
    struct rng r = {seed};
    unsigned char *c = p;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t x = rng_next(&r) | 1;
        memcpy(c + i, &x, size - i < 8 ? size - i : 8);
    }
}

unsigned char *pattern(size_t size, uint64_t seed)
{
    unsigned char *p = g_malloc(size + 1);
    fill(p, size, seed);
    return p;
}

bool all_zero(const void *p, size_t size)
{
    const unsigned char *c = p;
    return size == 0 || (c[0] == 0 && memcmp(c, c + 1, size - 1) == 0);
}

uint64_t hash(const void *p, size_t size)
{
    const unsigned char *c = p;
    uint64_t h = 0xCBF29CE484222325u ^ size;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t x = 0;
        memcpy(&x, c + i, size - i < 8 ? size - i : 8);
        h = (h ^ x) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    return h;
}

void check_same(const char *file, int line, const void *is, const void *expected, size_t size)
{
    if (memcmp(is, expected, size) == 0)
        return;
    const unsigned char *a = is, *b = expected;
    size_t i = 0, differing = 0;
    while (a[i] == b[i])
        i++;
    for (size_t j = i; j < size; j++)
        differing += a[j] != b[j];
    g_error("%s:%d: byte %zu of %zu (page %zu) is 0x%02x instead of 0x%02x; %zu bytes differ", file,
            line, i, size, i / page, a[i], b[i], differing);
}

static bool page_differs(const unsigned char *x, const unsigned char *y, size_t size, size_t at)
{
    return memcmp(x + at, y + at, ms_min(page, size - at)) != 0;
}

void check_ranges(const struct memsnap_range *ranges, int n, const void *x, const void *y,
                  size_t size, size_t *at)
{
    for (int i = 0; i < n; i++) {
        size_t end = ranges[i].offset + ranges[i].len;
        while (*at < size && !page_differs(x, y, size, *at))
            *at += page;
        g_assert_cmpuint(ranges[i].offset, ==, *at);
        g_assert_cmpuint(ranges[i].len, >, 0);
        g_assert_cmpuint(end, <=, size);
        g_assert_true(end % page == 0 || end == size);
        for (; *at < end; *at += page)
            g_assert_true(page_differs(x, y, size, *at));
        if (i < n - 1)
            g_assert_false(page_differs(x, y, size, *at));
    }
}

void check_content(const char *file, int line, memsnap_snapshot *s, const void *expected,
                   size_t size)
{
    assert_valid_snapshot(s);
    g_assert_cmpuint(memsnap_snapshot_size(s), ==, size);
    unsigned char *copy = g_malloc(size + 1);
    assert_ok(memsnap_snapshot_read(s, 0, copy, size));
    check_same(file, line, copy, expected, size);
    g_free(copy);
    memsnap_view *v = view(s);
    g_assert_cmpuint(memsnap_view_size(v), ==, size);
    check_same(file, line, bytes(v), expected, size);
    g_assert_true(all_zero(bytes(v) + size, round_up(size) - size));
    memsnap_view_unref(v);
}

/* ---- calls that must succeed ----------------------------------------------------------------- */

memsnap_snapshot *snap(const void *data, size_t size)
{
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new(data, size, config.flags, &s));
    g_assert_nonnull(s);
    return s;
}

memsnap_snapshot *snap_pattern(size_t size, uint64_t seed)
{
    unsigned char *p = pattern(size, seed);
    memsnap_snapshot *s = snap(p, size);
    g_free(p);
    return s;
}

memsnap_snapshot *snap_zero(size_t size)
{
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_new_zeroed(size, config.flags, &s));
    g_assert_nonnull(s);
    return s;
}

memsnap_snapshot *snap_clone(memsnap_snapshot *s)
{
    memsnap_snapshot *c = NULL;
    assert_ok(memsnap_snapshot_clone(s, &c));
    g_assert_nonnull(c);
    g_assert_true(c != s);
    return c;
}

memsnap_view *view(memsnap_snapshot *s)
{
    memsnap_view *v = NULL;
    assert_ok(memsnap_snapshot_view(s, 0, &v));
    g_assert_nonnull(v);
    g_assert_false(memsnap_view_is_mutable(v));
    return v;
}

memsnap_view *view_mut(memsnap_snapshot *s)
{
    memsnap_view *v = NULL;
    assert_ok(memsnap_snapshot_view_mut(s, 0, &v));
    g_assert_nonnull(v);
    g_assert_true(memsnap_view_is_mutable(v));
    return v;
}

memsnap_view *view_mut_tracked(memsnap_snapshot *s)
{
    memsnap_view *v = NULL;
    assert_ok(memsnap_snapshot_view_mut(s, tracking(), &v));
    return v;
}

memsnap_snapshot *take(memsnap_view *v)
{
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_view_take_snapshot(v, 0, &s));
    g_assert_nonnull(s);
    assert_valid_snapshot(s);
    assert_valid_view(v);
    return s;
}

unsigned char *bytes(memsnap_view *v)
{
    unsigned char *p = memsnap_view_data(v);
    g_assert_nonnull(p);
    return p;
}

struct memsnap_snapshot_stats snap_stats(memsnap_snapshot *s)
{
    struct memsnap_snapshot_stats stats = {.size = sizeof stats};
    assert_ok(memsnap_snapshot_stats(s, &stats));
    return stats;
}

struct memsnap_view_stats view_stats(memsnap_view *v)
{
    struct memsnap_view_stats stats = {.size = sizeof stats};
    assert_ok(memsnap_view_stats(v, &stats));
    return stats;
}

void exercise(size_t size)
{
    unsigned char *data = pattern(size, 1), *model = g_memdup2(data, size);
    size_t cursor = 0;
    struct memsnap_range r;
    memsnap_snapshot *s = snap(data, size);
    memsnap_view *v = view(s);
    assert_same(bytes(v), data, size);
    for (size_t at = size / 2; at < size; at += size / 4)
        model[at] = bytes(v)[at] = (unsigned char)(data[at] + 1);
    g_assert_cmpint(memsnap_view_dirty(v, &cursor, &r, 1), ==, 1);
    g_assert_cmpuint(r.offset, ==, size / 2 / page * page);
    memsnap_snapshot *t = take(v);
    assert_content(t, model, size);
    assert_ok(memsnap_view_restore(v));
    assert_same(bytes(v), data, size);
    assert_ok(memsnap_view_restore_to(v, t));
    assert_same(bytes(v), model, size);
    memsnap_view *m = view_mut(s);
    bytes(m)[0] = data[0] = 1;
    assert_content(s, data, size);
    bytes(m)[1] = data[1] = 2;
    memsnap_view_unref(m);
    assert_content(s, data, size);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    g_free(data);
    g_free(model);
}

/* The lower end of a large gap: whatever is mapped next goes to its upper end. */
void *free_address(size_t size)
{
    size_t align = 2 * MIB,
           len = round_up(size) + align + (sizeof(size_t) > 4 ? 8 * GIB : 64 * MIB);
    char *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true((void *)p != MAP_FAILED);
    munmap(p, len);
    return (void *)(((uintptr_t)p + align - 1) / align * align);
}

/* ---- what the process holds ------------------------------------------------------------------ */

size_t descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;
    if (!d)
        return 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n - 3; /* ".", ".." and the directory itself */
}

size_t mappings(void)
{
    FILE *f = fopen("/proc/self/maps", "re");
    size_t n = 0;
    if (!f)
        return 0;
    for (int c; (c = getc_unlocked(f)) != EOF;)
        n += c == '\n';
    fclose(f);
    return n;
}

size_t resident(const char *field)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    size_t kib = 0, len = strlen(field);
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, field, len) == 0 && line[len] == ':')
            kib = strtoul(line + len + 1, NULL, 10);
    fclose(f);
    return kib * KIB;
}

size_t object_bytes(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t sum = 0;
    GHashTable *seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        if (fstat(atoi(e->d_name), &st) < 0 || st.st_nlink > 0 || !S_ISREG(st.st_mode))
            continue;
        char *id = g_strdup_printf("%ju/%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
        if (g_hash_table_add(seen, id))
            sum += (size_t)st.st_blocks * 512;
    }
    g_hash_table_destroy(seen);
    if (d)
        closedir(d);
    return sum;
}

/* ---- children -------------------------------------------------------------------------------- */

extern void __gcov_dump(void) __attribute__((weak));

static void lift_limit(int resource)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(resource, &limit);
}

/* Limits are lifted for what a coverage build writes at the end. */
void child_exit(int code)
{
    lift_limit(RLIMIT_AS);
    lift_limit(RLIMIT_FSIZE);
    lift_limit(RLIMIT_NOFILE);
    if (__gcov_dump)
        __gcov_dump();
    _exit(code);
}

static int child_wait(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        g_assert_cmpint(errno, ==, EINTR);
    return status;
}

static int child_start(void (*body)(void *), void *arg, char *why, size_t size)
{
    int ends[2];
    fflush(stdout);
    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        close(ends[0]);
        child_pipe = ends[1];
        skipped = false;
        body(arg);
        child_exit(skipped ? 77 : 0);
    }
    close(ends[1]);
    int status = child_wait(pid);
    ssize_t n = read(ends[0], why, size - 1);
    why[n > 0 ? n : 0] = 0;
    close(ends[0]);
    return status;
}

int child_status(void (*body)(void *), void *arg)
{
    char why[128];
    return child_start(body, arg, why, sizeof why);
}

void child_run(void (*body)(void *), void *arg)
{
    char why[128];
    int status = child_start(body, arg, why, sizeof why);
    if (WIFSIGNALED(status))
        g_error("the child was killed by signal %d (%s)", WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) == 77)
        test_skip(why);
    else
        g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}

bool deny(long call, int argument, unsigned value, int error)
{
#ifdef __linux__
    struct sock_filter any[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    size_t at = offsetof(struct seccomp_data, args) + 8 * (size_t)(argument < 0 ? 0 : argument);
#if G_BYTE_ORDER == G_BIG_ENDIAN
    at += 4;
#endif
    struct sock_filter one[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)at),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {G_N_ELEMENTS(any), any};
    if (argument >= 0)
        program = (struct sock_fprog){G_N_ELEMENTS(one), one};
    return !on_valgrind() && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
#else
    (void)call, (void)argument, (void)value, (void)error;
    return false;
#endif
}

/* ---- files ----------------------------------------------------------------------------------- */

char *temp_path(const char *name)
{
    if (!temp_dir) {
        temp_dir = g_dir_make_tmp("memsnap-XXXXXX", NULL);
        g_assert_nonnull(temp_dir);
    }
    return g_build_filename(temp_dir, name, NULL);
}

char *temp_file(const char *name, const void *data, size_t size)
{
    char *path = temp_path(name);
    /* nothing here is worth an fsync */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, data, size), ==, (ssize_t)size);
    close(fd);
    return path;
}

void temp_clean(void)
{
    if (!temp_dir)
        return;
    GDir *d = g_dir_open(temp_dir, 0, NULL);
    for (const char *name; d && (name = g_dir_read_name(d));) {
        char *path = g_build_filename(temp_dir, name, NULL);
        g_remove(path);
        g_free(path);
    }
    if (d)
        g_dir_close(d);
    g_rmdir(temp_dir);
    g_free(temp_dir);
    temp_dir = NULL;
}
