/* SPDX-License-Identifier: MIT */
/* The library on a machine unlike the one that it was built on: what a plain C program can check
 * of it, and files made on one machine and loaded on another. tests/tools/cross.sh builds it for
 * such machines and runs it there.
 *
 *   cross about         what this machine is, and how the library finds modified pages here
 *   cross api [SEED]    the interface against plain arrays cross corpus DIR    loads the files
 *   of tests/random/data cross make DIR      writes an image and deltas, the same ones
 *   everywhere; prints a sum of each cross load DIR      loads what `make` has written, here or
 *   elsewhere cross pack DIR      prints the deltas in DIR as text, for a machine that has
 *   nothing but a console cross unpack DIR    writes them there again, from such a text on
 *   standard input
 *
 * As the first process of a machine it does all of it, with what it finds in /data and /made,
 * and turns the machine off. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <memsnap.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "random/corpus.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static size_t page;
static uint64_t seed = 1;

__attribute__((noreturn)) static void wrong(const char *what, int line)
{
    printf("cross.c:%d: %s (errno %d, seed %llu)\n", line, what, errno, (unsigned long long)seed);
    exit(1);
}

#define CHECK(holds)                                                                               \
    do {                                                                                           \
        if (!(holds))                                                                              \
            wrong(#holds, __LINE__);                                                               \
    } while (0)

/* Bytes are made one by one: the same ones whatever the byte order. */
static uint32_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void fill(unsigned char *p, size_t len, uint64_t which)
{
    uint64_t state = which;
    for (size_t i = 0; i < len; i++)
        p[i] = (unsigned char)(next(&state) >> 8);
}

static void *allocate(size_t size)
{
    void *p = calloc(1, size + 1);
    CHECK(p);
    return p;
}

static memsnap_snapshot *snap(const void *data, size_t size, unsigned flags)
{
    memsnap_snapshot *s = NULL;
    CHECK(memsnap_snapshot_new(data, size, flags, &s) == 0 && s);
    return s;
}

static memsnap_view *view(memsnap_snapshot *s)
{
    memsnap_view *v = NULL;
    CHECK(memsnap_snapshot_view(s, 0, &v) == 0 && v);
    return v;
}

static memsnap_view *writer(memsnap_snapshot *s)
{
    memsnap_view *v = NULL;
    CHECK(memsnap_snapshot_view_mut(s, 0, &v) == 0 && v);
    return v;
}

static memsnap_snapshot *take(memsnap_view *v)
{
    memsnap_snapshot *s = NULL;
    CHECK(memsnap_view_take_snapshot(v, 0, &s) == 0 && s);
    return s;
}

static unsigned char *at(memsnap_view *v)
{
    return memsnap_view_data(v);
}

static void holds(memsnap_snapshot *s, const unsigned char *data, size_t size)
{
    unsigned char *copy = allocate(size);
    CHECK(memsnap_snapshot_size(s) == size);
    CHECK(memsnap_snapshot_read(s, 0, copy, size) == 0);
    CHECK(memcmp(copy, data, size) == 0);
    free(copy);
}

/* ---- this machine ---------------------------------------------------------------------------- */

/* Without the library: does the kernel tell which pages of a private mapping were written?
 * Emulators answer for other addresses. */
static bool pagemap_is_honest(void)
{
    enum { PAGES = 16, WRITTEN = 0xA72D };
    int memory = memfd_create("cross", MFD_CLOEXEC),
        pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool honest = memory >= 0 && pagemap >= 0 && ftruncate(memory, (off_t)(PAGES * page)) == 0;
    char *p = honest ? mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, memory, 0)
                     : MAP_FAILED;
    honest = p != MAP_FAILED;
    for (int i = 0; i < PAGES && honest; i++)
        if (WRITTEN >> i & 1)
            ((volatile char *)p)[(size_t)i * page] = 1;
    for (size_t i = 0; i < PAGES && honest; i++) {
        uint64_t entry = 0;
        honest = pread(pagemap, &entry, sizeof entry,
                       (off_t)(((uintptr_t)p / page + i) * sizeof entry)) == sizeof entry &&
                 (entry >> 63 && !(entry >> 61 & 1)) == (WRITTEN >> i & 1);
    }
    if (p != MAP_FAILED)
        munmap(p, PAGES * page);
    close(memory);
    close(pagemap);
    return honest;
}

static int about(void)
{
    const union {
        uint16_t number;
        unsigned char first;
    } order = {1};
    struct memsnap_view_stats stats = {.size = sizeof stats};
    struct utsname system;
    bool honest = pagemap_is_honest();
    memsnap_snapshot *s = snap("x", 1, 0);
    memsnap_view *v = view(s);
    CHECK(uname(&system) == 0);
    CHECK(memsnap_view_stats(v, &stats) == 0);
    printf("%s %s, %s endian, pages of %zu KiB; modified pages: %s; pagemap %s\n", system.machine,
           system.release, order.first ? "little" : "big", page / KIB, stats.dirty_source,
           honest ? "right" : "missing or wrong");
    CHECK(page == (size_t)sysconf(_SC_PAGESIZE));
    CHECK(honest || strcmp(stats.dirty_source, "compare") == 0);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    return 0;
}

/* ---- the interface --------------------------------------------------------------------------- */

static void check_sizes(unsigned flags)
{
    const size_t sizes[] = {0, 1, page - 1, page, page + 1, 5 * page + 7, 3 * MIB + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i], cursor = 0;
        unsigned char *data = allocate(size);
        struct memsnap_range range;
        fill(data, size, i);
        memsnap_snapshot *s = snap(data, size, flags), *t = NULL;
        memsnap_view *v = view(s);
        CHECK(memsnap_view_size(v) == size && (uintptr_t)at(v) % page == 0);
        CHECK(memcmp(at(v), data, size) == 0);
        for (size_t j = size; j % page; j++)
            CHECK(at(v)[j] == 0);
        CHECK(memsnap_snapshot_clone(s, &t) == 0);
        CHECK(memsnap_snapshot_diff(s, t, &cursor, &range, 1) == 0);
        memset(at(v), 0x55, size);
        holds(s, data, size);
        holds(t, data, size);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(s);
        holds(t, data, size);
        memsnap_snapshot_unref(t);
        free(data);
    }
}

enum { MODEL_PAGES = 40, MODEL_SNAPSHOTS = 6, MODEL_VIEWS = 4 };

/* Snapshots and views, and what must be in them. */
static struct model {
    size_t size;
    memsnap_snapshot *snapshot[MODEL_SNAPSHOTS];
    unsigned char *content[MODEL_SNAPSHOTS];
    memsnap_view *view[MODEL_VIEWS];
    unsigned char *bytes[MODEL_VIEWS], *base[MODEL_VIEWS];
} m;

static void expect_ranges(const unsigned char *a, const unsigned char *b, size_t size,
                          const struct memsnap_range *r, int n)
{
    size_t done = 0;
    for (int i = 0; i <= n; i++) {
        size_t from = i < n ? r[i].offset : size, len = i < n ? r[i].len : 0;
        CHECK(from % page == 0 || from == size);
        CHECK(from >= done && memcmp(a + done, b + done, from - done) == 0);
        for (size_t j = from; j < from + len; j += page) {
            size_t part = size - j < page ? size - j : page;
            CHECK(memcmp(a + j, b + j, part) != 0);
        }
        done = from + len;
    }
}

static void model_store(unsigned v, uint64_t *random)
{
    size_t from = next(random) % m.size, len = next(random) % (2 * page) + 1;
    len = len > m.size - from ? m.size - from : len;
    if (next(random) % 4 == 0)
        memcpy(m.bytes[v] + from, m.base[v] + from, len); /* back to what it was */
    else if (next(random) % 4 == 0)
        memset(m.bytes[v] + from, 0, len);
    else
        fill(m.bytes[v] + from, len, next(random));
    memcpy(at(m.view[v]) + from, m.bytes[v] + from, len);
}

static void model_open(unsigned v, unsigned s)
{
    memsnap_view_unref(m.view[v]);
    m.view[v] = view(m.snapshot[s]);
    memcpy(m.bytes[v], m.content[s], m.size);
    memcpy(m.base[v], m.content[s], m.size);
}

static void model_take(unsigned v, unsigned s)
{
    memsnap_snapshot *made = take(m.view[v]);
    memsnap_snapshot_unref(m.snapshot[s]);
    m.snapshot[s] = made;
    memcpy(m.content[s], m.bytes[v], m.size);
}

static void model_restore(unsigned v, unsigned s, bool other)
{
    if (other) {
        CHECK(memsnap_view_restore_to(m.view[v], m.snapshot[s]) == 0);
        memcpy(m.base[v], m.content[s], m.size);
    } else {
        CHECK(memsnap_view_restore(m.view[v]) == 0);
    }
    memcpy(m.bytes[v], m.base[v], m.size);
}

static void model_step(uint64_t *random)
{
    struct memsnap_range r[MODEL_PAGES];
    unsigned v = next(random) % MODEL_VIEWS, s = next(random) % MODEL_SNAPSHOTS,
             t = next(random) % MODEL_SNAPSHOTS;
    size_t cursor = 0, offset, len;
    int n;
    switch (next(random) % 10) {
    case 0:
        model_open(v, s);
        break;
    case 1:
        model_take(v, s);
        break;
    case 2:
        model_restore(v, s, false);
        break;
    case 3:
        model_restore(v, s, true);
        break;
    case 4:
        n = memsnap_view_dirty(m.view[v], &cursor, r, MODEL_PAGES);
        CHECK(n >= 0 && cursor == m.size);
        expect_ranges(m.bytes[v], m.base[v], m.size, r, n);
        break;
    case 5:
        n = memsnap_snapshot_diff(m.snapshot[s], m.snapshot[t], &cursor, r, MODEL_PAGES);
        CHECK(n >= 0 && cursor == m.size);
        expect_ranges(m.content[s], m.content[t], m.size, r, n);
        break;
    case 6:
        offset = next(random) % MODEL_PAGES * page;
        len = offset + 3 * page < m.size ? 3 * page : m.size - offset;
        CHECK(memsnap_view_protect(m.view[v], offset, len, MEMSNAP_ACCESS_READ) == 0);
        CHECK(memsnap_view_protect(m.view[v], offset, len,
                                   MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE) == 0);
        break;
    default:
        model_store(v, random);
    }
    CHECK(memcmp(at(m.view[v]), m.bytes[v], m.size) == 0);
    holds(m.snapshot[s], m.content[s], m.size);
}

static void check_model(unsigned flags, int steps)
{
    uint64_t random = seed;
    m.size = MODEL_PAGES * page - 100;
    unsigned char *data = allocate(m.size);
    fill(data, m.size, 1);
    for (unsigned i = 0; i < MODEL_SNAPSHOTS; i++) {
        m.content[i] = allocate(m.size);
        memcpy(m.content[i], data, m.size);
        m.snapshot[i] = snap(data, m.size, flags);
    }
    for (unsigned i = 0; i < MODEL_VIEWS; i++) {
        m.bytes[i] = allocate(m.size);
        m.base[i] = allocate(m.size);
        model_open(i, i);
    }
    for (int i = 0; i < steps; i++)
        model_step(&random);
    for (unsigned i = 0; i < MODEL_VIEWS; i++) {
        m.view[i] = memsnap_view_unref(m.view[i]);
        free(m.bytes[i]);
        free(m.base[i]);
    }
    for (unsigned i = 0; i < MODEL_SNAPSHOTS; i++) {
        holds(m.snapshot[i], m.content[i], m.size);
        memsnap_snapshot_unref(m.snapshot[i]);
        free(m.content[i]);
    }
    free(data);
}

/* ---- protections ----------------------------------------------------------------------------- */

static sigjmp_buf back;

static void escape(int signal)
{
    siglongjmp(back, signal);
}

static bool can_load(const unsigned char *p)
{
    if (sigsetjmp(back, 1))
        return false;
    (void)*(const volatile unsigned char *)p;
    return true;
}

static bool can_store(unsigned char *p)
{
    if (sigsetjmp(back, 1))
        return false;
    *(volatile unsigned char *)p = *(volatile unsigned char *)p;
    return true;
}

static void check_protections(unsigned flags)
{
    struct sigaction action = {.sa_handler = escape}, was;
    size_t size = 8 * page;
    unsigned char *data = allocate(size);
    fill(data, size, 1);
    memsnap_snapshot *s = snap(data, size, flags);
    memsnap_view *v = view(s);
    sigaction(SIGSEGV, &action, &was);
    at(v)[2 * page] = data[2 * page] ^= 1;
    CHECK(memsnap_view_protect(v, page / 2, page, MEMSNAP_ACCESS_READ) == -EINVAL);
    CHECK(memsnap_view_protect(v, 2 * page, 2 * page, MEMSNAP_ACCESS_READ) == 0);
    CHECK(memsnap_view_protect(v, 5 * page, page, MEMSNAP_ACCESS_NONE) == 0);
    CHECK(can_store(at(v) + 2 * page - 1) && can_store(at(v) + 4 * page) &&
          can_store(at(v) + 6 * page));
    CHECK(!can_store(at(v) + 2 * page) && !can_store(at(v) + 4 * page - 1) &&
          can_load(at(v) + 3 * page));
    CHECK(!can_load(at(v) + 5 * page) && !can_load(at(v) + 6 * page - 1));
    memsnap_snapshot *t = take(v);
    holds(t, data, size);
    CHECK(!can_store(at(v) + 2 * page) && !can_load(at(v) + 5 * page));
    CHECK(memsnap_view_restore(v) == 0);
    CHECK(can_store(at(v) + 2 * page) && can_store(at(v) + 5 * page));
    sigaction(SIGSEGV, &was, NULL);
    data[2 * page] ^= 1;
    CHECK(memcmp(at(v), data, size) == 0);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    free(data);
}

/* ---- a writer beside readers ----------------------------------------------------------------- */

enum { STORERS = 2, STORES = 20000 };

struct storer {
    pthread_t thread;
    atomic_uint *slots;
    size_t n, stride;
};

static void *store(void *arg)
{
    struct storer *s = arg;
    for (unsigned i = 1; i <= STORES; i++)
        atomic_store_explicit(s->slots + i * 7u % s->n * s->stride, i, memory_order_relaxed);
    return NULL;
}

static void check_writer(unsigned flags)
{
    enum { PAGES = 32 };
    struct storer storers[STORERS];
    memsnap_snapshot *s = NULL, *other;
    CHECK(memsnap_snapshot_new_zeroed(PAGES * page, flags, &s) == 0);
    memsnap_view *w = writer(s), *early = view(s), *second = NULL;
    CHECK(memsnap_snapshot_view_mut(s, 0, &second) == -EBUSY);
    for (size_t i = 0; i < STORERS; i++) {
        storers[i] = (struct storer){.slots = (atomic_uint *)(void *)at(w) + i,
                                     .n = PAGES,
                                     .stride = page / sizeof(atomic_uint)};
        CHECK(pthread_create(&storers[i].thread, NULL, store, &storers[i]) == 0);
    }
    for (int i = 0; i < 60; i++) {
        if (i % 3 == 0)
            CHECK(memsnap_snapshot_clone(s, &other) == 0);
        else
            other = take(w);
        memsnap_view_unref(view(i % 3 == 1 ? other : s));
        memsnap_snapshot_unref(other);
    }
    for (size_t i = 0; i < STORERS; i++)
        pthread_join(storers[i].thread, NULL);
    memsnap_view *late = view(s);
    for (unsigned slot = 0; slot < PAGES; slot++) {
        unsigned last = 0;
        for (unsigned i = STORES; !last; i--)
            last = i * 7u % PAGES == slot ? i : 0;
        for (size_t i = 0; i < STORERS; i++) {
            CHECK(*((unsigned *)(void *)(at(w) + slot * page) + i) == last);
            CHECK(*((unsigned *)(void *)(at(late) + slot * page) + i) == last);
            CHECK(*((unsigned *)(void *)(at(early) + slot * page) + i) == 0);
        }
    }
    memsnap_view_unref(w);
    memsnap_view_unref(late);
    memsnap_view_unref(early);
    memsnap_snapshot_unref(s);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void check_chain(unsigned flags)
{
    size_t size = 64 * page;
    unsigned char *data = allocate(size);
    memsnap_snapshot *s = snap(data, size, flags);
    for (unsigned i = 0; i < 100; i++) {
        memsnap_view *v = view(s);
        at(v)[i % 64 * page + i] = data[i % 64 * page + i] = (unsigned char)(i + 1);
        memsnap_snapshot *child = take(v);
        memsnap_view_unref(v);
        memsnap_snapshot_unref(s);
        s = child;
        holds(s, data, size);
    }
    memsnap_snapshot_unref(s);
    free(data);
}

static void check_address(void)
{
    size_t size = 3 * page;
    unsigned char *data = allocate(size);
    fill(data, size, 1);
    memsnap_snapshot *s = snap(data, size, 0);
    memsnap_view *v = view(s), *w = NULL;
    /* in the middle of free space, for the C library takes memory at its end at any time */
    size_t room = 1024 * page;
    char *space = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(space != MAP_FAILED);
    void *place = space + room / 2;
    CHECK(memsnap_snapshot_view_at(s, place, 0, &w) == -EEXIST);
    munmap(space, room);
    CHECK(memsnap_snapshot_view_at(s, place, 0, &w) == 0 && (void *)at(w) == place);
    CHECK(memcmp(at(w), data, size) == 0);
    CHECK(memsnap_snapshot_view_at(s, (char *)place + 1, 0, &v) == -EINVAL);
    memsnap_view_unref(v);
    memsnap_view_unref(w);
    memsnap_snapshot_unref(s);
    free(data);
}

static void check_fork(void)
{
    size_t size = 20 * page;
    unsigned char *data = allocate(size);
    int status = -1;
    fill(data, size, 1);
    memsnap_snapshot *s = snap(data, size, 0), *t = snap(data, size, 0);
    memsnap_view *v = view(s), *w = writer(t);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        memset(at(v), 1, page);
        memsnap_snapshot *child = take(v);
        memset(data, 1, page);
        holds(child, data, size);
        CHECK(memsnap_view_take_snapshot(w, 0, &child) == -EBADF);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(memcmp(at(v), data, size) == 0);
    memsnap_view_unref(v);
    memsnap_view_unref(w);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    free(data);
}

static void check_export(size_t size)
{
    unsigned char *data = allocate(size);
    int fd = -1;
    fill(data, size, 1);
    memsnap_snapshot *s = snap(data, size, 0), *t = NULL;
    int e = memsnap_snapshot_export_fd(s, &fd);
    if (e == -ENOTSUP)
        printf("    nothing can be exported here\n");
    else {
        CHECK(e == 0);
        CHECK(memsnap_snapshot_new_from_fd(fd, 0, &t) == 0);
        memsnap_view *v = view(s);
        memset(at(v), 1, size);
        holds(t, data, size);
        memsnap_view_unref(v);
        CHECK(ftruncate(fd, 0) < 0 && write(fd, "x", 1) < 0);
        close(fd);
        memsnap_snapshot_unref(t);
    }
    memsnap_snapshot_unref(s);
    free(data);
}

static void check_files(const char *dir)
{
    size_t size = 4 * page + 77;
    char path[256];
    unsigned char *data = allocate(size), byte = 0;
    fill(data, size, 1);
    memset(data + page, 0, 2 * page);
    memsnap_snapshot *s = snap(data, size, 0);
    snprintf(path, sizeof path, "%s/cross-file", dir);
    CHECK(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_EXCL) == 0);
    CHECK(memsnap_snapshot_save(s, path, MEMSNAP_SAVE_EXCL) == -EEXIST);
    CHECK(memsnap_snapshot_save(s, path, 0) == 0);
    memsnap_snapshot_unref(s);
    for (unsigned flags = 0; flags <= MEMSNAP_FILE_SHARED;
         flags = flags ? flags << 1 : MEMSNAP_FILE_MAP) {
        CHECK(memsnap_snapshot_new_from_file(path, flags, &s) == 0);
        holds(s, data, size);
        memsnap_view *w = writer(s);
        at(w)[5] = (unsigned char)(data[5] + 1);
        CHECK(memsnap_view_flush(w, 0, size) == (flags == MEMSNAP_FILE_SHARED ? 0 : -EINVAL));
        memsnap_view_unref(w);
        memsnap_snapshot_unref(s);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        CHECK(pread(fd, &byte, 1, 5) == 1);
        CHECK(byte == (unsigned char)(flags == MEMSNAP_FILE_SHARED ? data[5] + 1 : data[5]));
        close(fd);
    }
    unlink(path);
    free(data);
}

static int api(void)
{
    const char *dir = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    for (unsigned flags = 0; flags <= MEMSNAP_NO_FD; flags += MEMSNAP_NO_FD) {
        check_sizes(flags);
        check_chain(flags);
        check_protections(flags);
        check_writer(flags);
        check_model(flags, 2000);
    }
    check_address();
    check_fork();
    check_export(3 * page + 5);
    check_export(3 * MIB);
    check_files(dir);
    printf("    the interface: all right (seed %llu)\n", (unsigned long long)seed);
    return 0;
}

/* ---- the corpus ------------------------------------------------------------------------------ */

static void load_zero_based(const char *path, uint64_t size, size_t one)
{
    memsnap_snapshot *base = NULL, *s = NULL;
    unsigned char byte = 0;
    if (size > SIZE_MAX / 2)
        return;
    CHECK(memsnap_snapshot_new_zeroed((size_t)size, 0, &base) == 0);
    CHECK(memsnap_snapshot_load_delta(base, path, 0, &s) == 0);
    if (size > 0)
        CHECK(memsnap_snapshot_read(s, one, &byte, 1) == 0 && byte == 1);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
}

/* What tests/api/delta-test.c asks of them. */
static void corpus_file(const char *dir, const char *name, bool wrong_base)
{
    static unsigned char old[CORPUS_SIZE], data[CORPUS_SIZE];
    memsnap_snapshot *base, *s = NULL;
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (strcmp(name, "good-empty") == 0) {
        load_zero_based(path, 0, 0);
        return;
    }
    if (strcmp(name, "good-example") == 0 || strcmp(name, "good-large") == 0) {
        bool large = strcmp(name, "good-large") == 0;
        load_zero_based(path, large ? CORPUS_LARGE : CORPUS_EXAMPLE,
                        large ? (size_t)CORPUS_LARGE - 1 : 600);
        return;
    }
    corpus_base(old);
    corpus_base(data);
    if (strcmp(name, "good-same") != 0 && strcmp(name, "good-no-records") != 0)
        corpus_change(data);
    base = snap(old, CORPUS_SIZE, 0);
    int e = memsnap_snapshot_load_delta(base, path, 0, &s);
    if (strncmp(name, "good-", 5) == 0) {
        CHECK(e == 0);
        holds(s, data, CORPUS_SIZE);
    } else {
        CHECK(e == (strncmp(name, "unsupported-", 12) == 0 ? -ENOTSUP
                    : wrong_base                           ? -EINVAL
                                                           : -EBADMSG));
    }
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
}

static int corpus(const char *dir)
{
    char path[256], line[256], name[64];
    int n = 0;
    snprintf(path, sizeof path, "%s/README", dir);
    FILE *f = fopen(path, "r");
    CHECK(f);
    for (int i = 0; fgets(line, sizeof line, f); i++) {
        if (i < 3 || sscanf(line, "%63[a-z0-9-]", name) != 1)
            continue;
        corpus_file(dir, name, strstr(line, "(wrong base)"));
        n++;
    }
    fclose(f);
    CHECK(n > 50);
    printf("    the corpus: %d files, all right\n", n);
    return 0;
}

/* ---- files from one machine to another ------------------------------------------------------- */

enum { LINKS = 3 };

#define IMAGE_SIZE (20 * 64 * KIB + 1234)

/* State 0 is the base, 1 to LINKS what the links of the chain make of it. Zeros and changes at
 * places that suit pages of any size, and at others. */
static void state(unsigned char *p, int which)
{
    fill(p, IMAGE_SIZE, 7);
    memset(p + 3 * 64 * KIB, 0, 2 * 64 * KIB);
    memset(p + 700000, 0, 30000);
    if (which >= 1) {
        fill(p + 100, 50, 21);
        fill(p + 64 * KIB, 64 * KIB, 22);
        memset(p + 500000, 0, 9000);
    }
    if (which >= 2) {
        fill(p + 3 * 64 * KIB + 4096, 10, 31);
        fill(p + 710000, 12345, 32);
    }
    if (which >= 3) {
        fill(p + 100, 50, 7);
        memset(p + 64 * KIB, 0, 3 * 4096);
        p[IMAGE_SIZE - 1] ^= 1;
    }
}

/* No zeros: an image in one piece, whatever the size of its pages. */
static void flat(unsigned char *p, bool changed)
{
    memset(p, 0xa5, IMAGE_SIZE);
    fill(p, IMAGE_SIZE / 2, 9);
    for (size_t i = 0; i < IMAGE_SIZE; i += 4096)
        p[i] = 1;
    if (changed) {
        fill(p + 4000, 200, 10);
        fill(p + 300000, 70000, 11);
        memset(p + 600000, 0, 20000);
    }
}

static void print_sum(const char *dir, const char *name)
{
    char path[256];
    uint64_t sum = 14695981039346656037u; /* FNV-1a */
    size_t len = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    CHECK(f);
    for (int c; (c = getc(f)) != EOF; len++)
        sum = (sum ^ (unsigned)c) * 1099511628211u;
    fclose(f);
    printf("SUM %s %zu %016llx\n", name, len, (unsigned long long)sum);
}

static void save_delta(memsnap_snapshot *s, memsnap_snapshot *base, const char *dir,
                       const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK(memsnap_snapshot_save_delta(s, base, path, 0) == 0);
    print_sum(dir, name);
}

static int make(const char *dir)
{
    unsigned char *p = allocate(IMAGE_SIZE);
    char path[256], name[32];
    state(p, 0);
    memsnap_snapshot *base = snap(p, IMAGE_SIZE, 0), *before = memsnap_snapshot_ref(base);
    memsnap_view *v = view(base);
    snprintf(path, sizeof path, "%s/base.image", dir);
    CHECK(memsnap_snapshot_save(base, path, 0) == 0);
    print_sum(dir, "base.image");
    for (int i = 1; i <= LINKS; i++) {
        state(p, i);
        memcpy(at(v), p, IMAGE_SIZE);
        memsnap_snapshot *s = take(v);
        snprintf(name, sizeof name, "%d.delta", i);
        save_delta(s, before, dir, name);
        memsnap_snapshot_unref(before);
        before = s;
    }
    save_delta(before, base, dir, "all.delta");
    memsnap_view_unref(v);
    memsnap_snapshot_unref(before);
    memsnap_snapshot_unref(base);

    flat(p, false);
    base = snap(p, IMAGE_SIZE, 0);
    flat(p, true);
    before = snap(p, IMAGE_SIZE, 0);
    save_delta(before, base, dir, "flat.delta");
    memsnap_snapshot_unref(before);
    memsnap_snapshot_unref(base);
    free(p);
    return 0;
}

static memsnap_snapshot *load_delta(memsnap_snapshot *base, const char *dir, const char *name)
{
    char path[256];
    memsnap_snapshot *s = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK(memsnap_snapshot_load_delta(base, path, 0, &s) == 0);
    return s;
}

/* The image may have been left behind. */
static memsnap_snapshot *load_base(const char *dir, unsigned char *p)
{
    char path[256];
    memsnap_snapshot *s = NULL;
    snprintf(path, sizeof path, "%s/base.image", dir);
    state(p, 0);
    if (access(path, F_OK) < 0)
        return snap(p, IMAGE_SIZE, 0);
    CHECK(memsnap_snapshot_new_from_file(path, MEMSNAP_FILE_MAP, &s) == 0);
    holds(s, p, IMAGE_SIZE);
    memsnap_snapshot_unref(s);
    CHECK(memsnap_snapshot_new_from_file(path, 0, &s) == 0);
    holds(s, p, IMAGE_SIZE);
    return s;
}

static int load(const char *dir)
{
    unsigned char *p = allocate(IMAGE_SIZE);
    char path[256], name[32];
    memsnap_snapshot *base = load_base(dir, p), *s = memsnap_snapshot_ref(base), *t = NULL;
    snprintf(path, sizeof path, "%s/2.delta", dir);
    /* the first one is missing */
    CHECK(memsnap_snapshot_load_delta(base, path, 0, &t) == -EINVAL);
    for (int i = 1; i <= LINKS; i++) {
        snprintf(name, sizeof name, "%d.delta", i);
        t = load_delta(s, dir, name);
        state(p, i);
        holds(t, p, IMAGE_SIZE);
        memsnap_snapshot_unref(s);
        s = t;
    }
    memsnap_snapshot_unref(s);
    s = load_delta(base, dir, "all.delta");
    holds(s, p, IMAGE_SIZE);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(base);

    flat(p, false);
    base = snap(p, IMAGE_SIZE, 0);
    s = load_delta(base, dir, "flat.delta");
    flat(p, true);
    holds(s, p, IMAGE_SIZE);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(base);
    free(p);
    printf("    files in %s: all right\n", dir);
    return 0;
}

static int pack(const char *dir)
{
    static const char *const names[] = {"1.delta", "2.delta", "3.delta", "all.delta", "flat.delta"};
    char path[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        FILE *f = fopen(path, "rb");
        CHECK(f);
        printf("FILE %s\n", names[i]);
        unsigned char line[60];
        for (size_t n; (n = fread(line, 1, sizeof line, f)) > 0;) {
            printf("HEX ");
            for (size_t j = 0; j < n; j++)
                printf("%02x", line[j]);
            putchar('\n');
        }
        fclose(f);
    }
    return 0;
}

static int unpack(const char *dir)
{
    char line[256], path[512], name[64];
    FILE *f = NULL;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "FILE %63[a-z0-9.]", name) == 1) {
            if (f)
                fclose(f);
            snprintf(path, sizeof path, "%s/%s", dir, name);
            CHECK(f = fopen(path, "wb"));
        }
        unsigned byte;
        for (int i = 4; f && strncmp(line, "HEX ", 4) == 0 && sscanf(line + i, "%2x", &byte) == 1;
             i += 2)
            putc((int)byte, f);
    }
    CHECK(f && fclose(f) == 0);
    return 0;
}

/* ---- as the first process -------------------------------------------------------------------- */

static int run(const char *verb, const char *arg)
{
    int status = -1;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[] = {(char[]){"/cross"}, (char *)(uintptr_t)verb, (char *)(uintptr_t)arg, NULL};
        execv(argv[0], argv);
        _exit(127);
    }
    waitpid(pid, &status, 0);
    if (status != 0)
        printf("cross %s: status %#x\n", verb, (unsigned)status);
    return status != 0;
}

static int boot(void)
{
    mkdir("/proc", 0755);
    mkdir("/tmp", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("tmp", "/tmp", "tmpfs", 0, NULL);
    mkdir("/tmp/made", 0755);
    putchar('\n'); /* behind what the kernel says */
    int failed = run("about", NULL);
    failed |= run("api", NULL);
    failed |= run("corpus", "/data");
    failed |= run("load", "/made");
    failed |= run("make", "/tmp/made");
    failed |= run("load", "/tmp/made");
    failed |= run("pack", "/tmp/made");
    printf("CROSS %s\n", failed ? "failed" : "passed");
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
    return 1;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "", *arg = argc > 2 ? argv[2] : NULL;
    page = memsnap_page_size();
    if (getpid() == 1)
        return boot();
    if (strcmp(verb, "about") == 0)
        return about();
    if (strcmp(verb, "api") == 0) {
        seed = arg ? strtoull(arg, NULL, 0) : seed;
        return api();
    }
    if (arg && strcmp(verb, "corpus") == 0)
        return corpus(arg);
    if (arg && strcmp(verb, "make") == 0)
        return make(arg);
    if (arg && strcmp(verb, "load") == 0)
        return load(arg);
    if (arg && strcmp(verb, "pack") == 0)
        return pack(arg);
    if (arg && strcmp(verb, "unpack") == 0)
        return unpack(arg);
    fprintf(stderr, "usage: cross about | api [SEED] | corpus DIR | make DIR | load DIR | pack DIR "
                    "| unpack DIR\n");
    return 2;
}
