/* SPDX-License-Identifier: MIT */
/* memsnap-image - keeps images of a file as a base and deltas: saves, applies, inspects, verifies and squashes them.
 *
 *     cc -O2 -pthread memsnap-image.c $(pkg-config --cflags --libs memsnap) -o memsnap-image
 *     ./memsnap-image save -o base.img disk.raw                    the whole file, holes where it is zero
 *     ./memsnap-image save -o monday.delta disk.raw base.img       what changed since
 *     ./memsnap-image save -o tuesday.delta disk.raw base.img monday.delta
 *     ./memsnap-image verify base.img monday.delta tuesday.delta
 *     ./memsnap-image squash -o two-days.delta base.img monday.delta tuesday.delta
 *     ./memsnap-image apply -o disk.raw base.img two-days.delta
 *
 * A chain is a base image and deltas in the order in which they were made. While something long is under way, a line on
 * the terminal says how far it is.
 *
 * Exit status: 0 done, 1 a file is damaged or does not fit, 2 usage, or the system refused. */
#define _GNU_SOURCE
#include <memsnap.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4 << 20, TICK_MS = 100, MAX_RANGES = 64 };

static const char *verb = "";
static bool quiet;

/* ---- messages and progress ------------------------------------------------------------------------- */

/* What is under way. The ticking thread reads it, whoever works sets it. */
static struct {
    pthread_t thread;
    bool running;                   /* the thread was started */
    pthread_mutex_t lock;
    pthread_cond_t stop;
    bool stopping;
    const char *what, *name;        /* guarded by lock; what == NULL: nothing */
    double began;
    uint64_t began_io;
    atomic_size_t done, total;      /* bytes; total == 0: not known */
} progress = { .lock = PTHREAD_MUTEX_INITIALIZER };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static const char *bytes(uint64_t n)
{
    static _Thread_local char text[4][32];
    static _Thread_local unsigned turn;
    static const char *unit[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    char *out = text[turn++ % 4];
    double value = (double)n;
    unsigned u = 0;

    while (value >= 1024 && u < 4) {
        value /= 1024;
        u++;
    }
    snprintf(out, sizeof text[0], value == (double)(uint64_t)value ? "%.0f %s" : "%.1f %s", value, unit[u]);
    return out;
}

/* Bytes this process has read and written so far: by them one long call of the library can be watched. 0: not known. */
static uint64_t io_so_far(void)
{
    FILE *f = fopen("/proc/self/io", "re");
    uint64_t in = 0, out = 0;

    if (f == NULL)
        return 0;
    if (fscanf(f, "rchar: %" SCNu64 " wchar: %" SCNu64, &in, &out) != 2)
        in = out = 0;
    fclose(f);
    return in + out;
}

static void show_progress(void)
{
    double took = now() - progress.began;
    size_t done = atomic_load(&progress.done), total = atomic_load(&progress.total);
    uint64_t io = io_so_far() - progress.began_io;

    if (progress.what == NULL || took < 0.3)
        return;
    fprintf(stderr, "\r\033[K%s %s", progress.what, progress.name);
    if (total > 0)
        fprintf(stderr, "  %3.0f%%  %s of %s", 100.0 * (double)done / (double)total, bytes(done), bytes(total));
    else if (io > 0)
        fprintf(stderr, "  %s read and written", bytes(io));
    fprintf(stderr, "  %.0f s", took);
    if (total > 0 && done > total / 50)
        fprintf(stderr, ", %.0f s to go", took * (double)(total - done) / (double)done);
    fflush(stderr);
}

static void *tick(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&progress.lock);
    while (!progress.stopping) {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += TICK_MS * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&progress.stop, &progress.lock, &until);
        show_progress();
    }
    pthread_mutex_unlock(&progress.lock);
    return NULL;
}

static void start_progress(void)
{
    if (!quiet && isatty(STDERR_FILENO))
        progress.running = pthread_create(&progress.thread, NULL, tick, NULL) == 0;
}

static void stop_progress(void)
{
    if (!progress.running)
        return;
    pthread_mutex_lock(&progress.lock);
    progress.stopping = true;
    progress.what = NULL;
    pthread_cond_signal(&progress.stop);
    pthread_mutex_unlock(&progress.lock);
    pthread_join(progress.thread, NULL);
    progress.running = false;
    fputs("\r\033[K", stderr);
}

/* what == NULL: nothing is under way any more. */
static void working(const char *what, const char *name, size_t total)
{
    pthread_mutex_lock(&progress.lock);
    progress.what = what;
    progress.name = name;
    progress.began = now();
    progress.began_io = io_so_far();
    atomic_store(&progress.done, 0);
    atomic_store(&progress.total, total);
    pthread_mutex_unlock(&progress.lock);
    if (progress.running && what == NULL)
        fputs("\r\033[K", stderr);
}

__attribute__((format(printf, 2, 3), noreturn))
static void fail(int status, const char *format, ...)
{
    va_list args;

    stop_progress();
    fflush(stdout);
    fprintf(stderr, "memsnap-image%s%s: ", verb[0] != '\0' ? " " : "", verb);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(status);
}

__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
    va_list args;

    working(NULL, NULL, 0);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

/* ---- reading files -------------------------------------------------------------------------------------- */

static int open_or_fail(const char *path, struct stat *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fstat(fd, st) < 0)
        fail(2, "%s: %s; give a file that you may read", path, strerror(errno));
    if (!S_ISREG(st->st_mode))
        fail(2, "%s: not a regular file; give a file, not a directory or device", path);
    return fd;
}

/* As much of [offset, offset + len) as there is; fails naming the byte that cannot be read. */
static size_t read_at(const char *path, int fd, uint64_t offset, void *buf, size_t len)
{
    size_t at = 0;

    while (at < len) {
        ssize_t n = pread(fd, (char *)buf + at, len - at, (off_t)(offset + at));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            fail(1, "%s: byte %" PRIu64 ": %s; the file or its disk is damaged", path, offset + at, strerror(errno));
        if (n == 0)
            break;
        at += (size_t)n;
    }
    return at;
}

static void *allocate(size_t size)
{
    void *p = malloc(size);

    if (p == NULL)
        fail(2, "out of memory for %s", bytes(size));
    return p;
}

/* ---- delta files: doc/file-format.txt describes them -------------------------------------------------------
 *
 * The library says that a file is damaged; a person wants to know where. So this goes through the file once more. */

static const unsigned char delta_magic[8] = { 0x89, 'M', 'S', 'D', 'E', 'L', 'T', '\n' };

enum {
    HEADER_BYTES = 64, RECORD_BYTES = 24, MAX_BLOCK = 1 << 20, MAX_RECORD_BLOCKS = 4096,
    DATA = 1, ZERO = 2, SAME = 3
};

struct delta {
    const char *path;
    int fd;
    uint64_t offset;                /* of what is looked at */
    uint64_t image_size, file_size, records, block;
    uint64_t data_blocks, zero_blocks, same_blocks;
    memsnap_snapshot *base;         /* NULL: not compared with one */
    unsigned char *buf, *old;       /* of MAX_BLOCK bytes */
    unsigned char table[8 * MAX_RECORD_BLOCKS];
};

static uint32_t get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const unsigned char *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static uint32_t crc32c(const unsigned char *p, size_t n)
{
    static uint32_t table[256];
    uint32_t sum = ~0u;

    for (uint32_t i = 0; table[255] == 0 && i < 256; i++) {
        uint32_t x = i;

        for (int bit = 0; bit < 8; bit++)
            x = x >> 1 ^ (x & 1 ? 0x82f63b78u : 0);
        table[i] = x;
    }
    while (n-- > 0)
        sum = sum >> 8 ^ table[(sum ^ *p++) & 0xff];
    return ~sum;
}

static bool is_delta(const char *path)
{
    struct stat st;
    unsigned char magic[sizeof delta_magic];
    int fd = open_or_fail(path, &st);
    size_t len = read_at(path, fd, 0, magic, sizeof magic);

    close(fd);
    return len == sizeof magic && memcmp(magic, delta_magic, sizeof magic) == 0;
}

__attribute__((noreturn))
static void damaged(const struct delta *d, uint64_t offset, const char *what)
{
    fail(1, "%s: byte %" PRIu64 ": %s; take another copy of the file", d->path, offset, what);
}

static void take(struct delta *d, unsigned char *buf, size_t len)
{
    if (read_at(d->path, d->fd, d->offset, buf, len) != len)
        damaged(d, d->file_size, "the file ends here, too early");
    d->offset += len;
}

static void check_header(struct delta *d)
{
    unsigned char h[HEADER_BYTES];
    struct stat st;

    if (fstat(d->fd, &st) == 0)
        d->file_size = (uint64_t)st.st_size;
    take(d, h, sizeof h);
    if (get32(h + 60) != crc32c(h, 60))
        damaged(d, 60, "the header's checksum is wrong");
    if (get32(h + 8) != 1)
        fail(1, "%s: byte 8: version %u of the format; this program knows version 1", d->path, get32(h + 8));
    if (get32(h + 12) != 0)
        fail(1, "%s: byte 12: needs a feature (%#x) that this program does not know", d->path, get32(h + 12));
    d->block = get32(h + 20);
    d->image_size = get64(h + 24);
    d->records = get64(h + 40);
    if (d->block < 512 || d->block > MAX_BLOCK || (d->block & (d->block - 1)) != 0)
        damaged(d, 20, "the block size is not a power of two from 512 bytes to 1 MiB");
    if (d->file_size < get64(h + 32))
        damaged(d, d->file_size, "the file ends here, too early");
    if (d->file_size > get64(h + 32))
        damaged(d, get64(h + 32), "the file should end here");
}

static void check_base(struct delta *d, uint64_t number, size_t len, uint32_t sum)
{
    if (d->base == NULL)
        return;
    int error = memsnap_snapshot_read(d->base, (size_t)(number * d->block), d->old, len);
    if (error < 0)
        fail(2, "%s: byte %" PRIu64 " of its base cannot be read: %s", d->path, number * d->block, strerror(-error));
    if (crc32c(d->old, len) != sum)
        fail(1, "%s: made against another base: the one given differs from it at byte %" PRIu64 " or soon after; "
             "give the chain in its order, with nothing left out", d->path, number * d->block);
}

static void check_record(struct delta *d, uint64_t *next)
{
    unsigned char head[RECORD_BYTES];
    uint64_t at = d->offset, blocks_in_image = d->image_size / d->block + (d->image_size % d->block != 0);

    take(d, head, sizeof head);
    if (get32(head + 20) != crc32c(head, 20))
        damaged(d, at + 20, "a record's checksum is wrong");
    uint64_t first = get64(head);
    uint32_t blocks = get32(head + 8), kind = get32(head + 12);
    if (kind != DATA && kind != ZERO && kind != SAME)
        damaged(d, at + 12, "a record of a kind that there is not");
    if (blocks == 0 || blocks > MAX_RECORD_BLOCKS || first < *next || first >= blocks_in_image ||
        blocks > blocks_in_image - first)
        damaged(d, at, "a record outside the image, or out of order");
    *next = first + blocks;
    size_t entry = kind == DATA ? 8 : 4;
    take(d, d->table, blocks * entry);
    if (get32(head + 16) != crc32c(d->table, blocks * entry))
        damaged(d, at + RECORD_BYTES, "the checksum of a record's table is wrong");
    *(kind == DATA ? &d->data_blocks : kind == ZERO ? &d->zero_blocks : &d->same_blocks) += blocks;
    for (uint32_t i = 0; i < blocks; i++) {
        uint64_t rest = d->image_size - (first + i) * d->block, from = d->offset;
        size_t len = rest < d->block ? (size_t)rest : (size_t)d->block;

        if (kind == DATA) {
            take(d, d->buf, len);
            if (crc32c(d->buf, len) != get32(d->table + i * entry + 4))
                damaged(d, from, "the checksum of the block that begins here is wrong");
        }
        check_base(d, first + i, len, get32(d->table + i * entry));
    }
}

/* Fails at the first thing that is wrong. base: whose blocks must be what the file says they were; may be NULL. */
static struct delta *check_delta(const char *path, memsnap_snapshot *base)
{
    struct delta *d = allocate(sizeof *d);
    struct stat st;
    uint64_t next = 0;

    *d = (struct delta){ .path = path, .base = base };
    d->buf = allocate(MAX_BLOCK);
    d->old = allocate(MAX_BLOCK);
    d->fd = open_or_fail(path, &st);
    check_header(d);
    if (base != NULL && d->image_size != memsnap_snapshot_size(base))
        fail(1, "%s: byte 24: made for images of %" PRIu64 " bytes, but its base has %zu; give the chain that it was "
             "made with", path, d->image_size, memsnap_snapshot_size(base));
    working("checking", path, (size_t)d->file_size);
    for (uint64_t i = 0; i < d->records; i++) {
        check_record(d, &next);
        atomic_store(&progress.done, (size_t)d->offset);
    }
    if (d->offset != d->file_size)
        damaged(d, d->offset, "the last record ends here, the file does not");
    close(d->fd);
    free(d->buf);
    free(d->old);
    return d;
}

static void inspect_delta(const char *path)
{
    struct delta *d = check_delta(path, NULL);

    say("%s: a delta, version 1, all checksums right", path);
    say("    for       images of %" PRIu64 " bytes (%s)", d->image_size, bytes(d->image_size));
    say("    blocks    of %s, in %" PRIu64 " records", bytes(d->block), d->records);
    say("    new       %" PRIu64 " blocks (%s)", d->data_blocks, bytes(d->data_blocks * d->block));
    say("    zeroed    %" PRIu64 " blocks (%s)", d->zero_blocks, bytes(d->zero_blocks * d->block));
    say("    same      %" PRIu64 " blocks by which a wrong base is told", d->same_blocks);
    say("    file      %" PRIu64 " bytes (%s)", d->file_size, bytes(d->file_size));
    free(d);
}

/* The library refused the file: say where it is wrong. */
__attribute__((noreturn))
static void explain_delta(const char *path, memsnap_snapshot *base, int error)
{
    if (error == -EBADMSG || error == -EINVAL || error == -ENOTSUP || error == -EIO)
        free(check_delta(path, base));
    fail(error == -EBADMSG || error == -EINVAL ? 1 : 2, "%s: cannot be applied: %s", path, strerror(-error));
}

/* A whole image that could not be read. */
static void find_unreadable(const char *path)
{
    struct stat st;
    int fd = open_or_fail(path, &st);
    unsigned char *buf = allocate(BLOCK);

    for (uint64_t at = 0; read_at(path, fd, at, buf, BLOCK) == BLOCK; at += BLOCK)
        ;
    free(buf);
    close(fd);
}

/* ---- chains ------------------------------------------------------------------------------------------------ */

struct options {
    const char *out, *compare;
    unsigned save_flags;
};

static memsnap_snapshot *load_image(const char *path)
{
    memsnap_snapshot *s;

    if (is_delta(path))
        fail(2, "%s: a delta where a whole image belongs; give the base first, then the deltas in order", path);
    working("loading", path, 0);
    int error = memsnap_snapshot_new_from_file(path, 0, &s);
    if (error == -EIO) {
        find_unreadable(path);
        fail(1, "%s: became shorter while it was read; leave it alone meanwhile", path);
    }
    if (error < 0)
        fail(2, "%s: %s; give a file that you may read, and that fits in memory", path, strerror(-error));
    return s;
}

/* Frees base. */
static memsnap_snapshot *load_delta(memsnap_snapshot *base, const char *path)
{
    memsnap_snapshot *s;

    if (!is_delta(path))
        fail(2, "%s: byte 0: not a delta; only the first file of a chain is a whole image", path);
    working("applying", path, 0);
    int error = memsnap_snapshot_load_delta(base, path, 0, &s);
    if (error < 0)
        explain_delta(path, base, error);
    memsnap_snapshot_unref(base);
    return s;
}

/* The result of a chain of n files; base, if asked for, is the first of them. */
static memsnap_snapshot *load_chain(char **path, int n, memsnap_snapshot **base)
{
    memsnap_snapshot *s = load_image(path[0]);

    if (base != NULL)
        *base = memsnap_snapshot_ref(s);
    for (int i = 1; i < n; i++)
        s = load_delta(s, path[i]);
    return s;
}

struct difference {
    size_t bytes, runs;
};

static struct difference compare(memsnap_snapshot *a, memsnap_snapshot *b, const char *name)
{
    struct memsnap_range r[MAX_RANGES];
    struct difference d = { 0, 0 };
    size_t cursor = 0;
    int n;

    working("comparing", name, memsnap_snapshot_size(a));
    while ((n = memsnap_snapshot_diff(a, b, &cursor, r, MAX_RANGES)) > 0) {
        for (int i = 0; i < n; i++)
            d.bytes += r[i].len;
        d.runs += (size_t)n;
        atomic_store(&progress.done, cursor);
    }
    if (n < 0)
        fail(2, "%s: byte %zu: cannot be compared: %s", name, cursor, strerror(-n));
    return d;
}

/* Of a chain every link is needed as it is. A name tells nothing: links of either kind lead to the same file. */
static void check_output(const struct options *o, char **path, int n)
{
    struct stat out, in;

    if (stat(o->out, &out) < 0)
        return;                 /* a new file, or writing it will say why not */
    if (!S_ISREG(out.st_mode))
        fail(2, "%s: not a regular file; give another -o", o->out);
    for (int i = 0; i < n; i++) {
        if (stat(path[i], &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
            fail(2, "%s: the same file as %s, which is read; give another -o", o->out, path[i]);
    }
}

static void check_written(int error, const struct options *o)
{
    if (error == -EEXIST)
        fail(2, "%s: there is a file of that name; give another -o, or replace it with -f", o->out);
    if (error == -ENOSPC || error == -EDQUOT)
        fail(2, "%s: %s; it is as it was before: free some space, or write elsewhere", o->out, strerror(-error));
    if (error < 0)
        fail(2, "%s: cannot be written: %s; it is as it was before", o->out, strerror(-error));
}

static uint64_t disk_bytes(const char *path, uint64_t *size)
{
    struct stat st;

    if (stat(path, &st) < 0)
        fail(2, "%s: %s", path, strerror(errno));
    *size = (uint64_t)st.st_size;
    return (uint64_t)st.st_blocks * 512;
}

static void write_image(memsnap_snapshot *s, const struct options *o)
{
    double start = now();
    uint64_t size;

    working("writing", o->out, 0);
    check_written(memsnap_snapshot_save(s, o->out, o->save_flags), o);
    uint64_t disk = disk_bytes(o->out, &size);
    say("%s: an image of %s, %s on disk, in %.2f s", o->out, bytes(size), bytes(disk), now() - start);
}

static void write_delta(memsnap_snapshot *s, memsnap_snapshot *base, const struct options *o)
{
    struct difference d = compare(s, base, o->out);
    double start = now();
    uint64_t size;

    working("writing", o->out, 0);
    check_written(memsnap_snapshot_save_delta(s, base, o->out, o->save_flags), o);
    disk_bytes(o->out, &size);
    say("%s: a delta of %s, with %s of %s changed in %zu runs, in %.2f s", o->out, bytes(size), bytes(d.bytes),
        bytes(memsnap_snapshot_size(s)), d.runs, now() - start);
}

/* ---- verbs -------------------------------------------------------------------------------------------------- */

static void do_save(const struct options *o, char **path, int n)
{
    memsnap_snapshot *s = load_image(path[0]), *base;

    if (n == 1) {
        write_image(s, o);
    } else {
        base = load_chain(path + 1, n - 1, NULL);
        if (memsnap_snapshot_size(s) != memsnap_snapshot_size(base))
            fail(2, "%s has %zu bytes, but the chain from %s makes %zu: a delta needs equal sizes; save it whole, "
                 "without a base", path[0], memsnap_snapshot_size(s), path[1], memsnap_snapshot_size(base));
        write_delta(s, base, o);
        memsnap_snapshot_unref(base);
    }
    memsnap_snapshot_unref(s);
}

static void do_apply(const struct options *o, char **path, int n)
{
    memsnap_snapshot *s = load_chain(path, n, NULL);

    write_image(s, o);
    memsnap_snapshot_unref(s);
}

static void do_squash(const struct options *o, char **path, int n)
{
    memsnap_snapshot *base, *s = load_chain(path, n, &base);

    write_delta(s, base, o);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
}

static uint64_t hash_block(uint64_t h, const unsigned char *p, size_t n)
{
    uint64_t w;

    for (; n >= sizeof w; p += sizeof w, n -= sizeof w) {
        memcpy(&w, p, sizeof w);
        h = (h ^ w) * 0xd6e8feb86659fd93u;
        h ^= h >> 32;
    }
    for (; n > 0; p++, n--)
        h = (h ^ *p) * 0x100000001b3u;
    return h;
}

/* Reads every byte of the snapshot and, if asked to, compares it with a file's. */
static uint64_t read_through(memsnap_snapshot *s, const char *name, const char *other)
{
    size_t size = memsnap_snapshot_size(s);
    unsigned char *a = allocate(BLOCK), *b = other != NULL ? allocate(BLOCK) : NULL;
    struct stat st = { .st_size = 0 };
    int fd = other != NULL ? open_or_fail(other, &st) : -1;
    uint64_t h = size;

    if (other != NULL && (uint64_t)st.st_size != size)
        fail(1, "%s: has %lld bytes, but the chain makes %zu", other, (long long)st.st_size, size);
    working("reading", name, size);
    for (size_t at = 0; at < size; at += BLOCK) {
        size_t len = size - at < BLOCK ? size - at : BLOCK;
        int error = memsnap_snapshot_read(s, at, a, len);

        if (error < 0)
            fail(1, "%s: byte %zu: cannot be read: %s", name, at, strerror(-error));
        h = hash_block(h, a, len);
        if (fd >= 0 && (read_at(other, fd, at, b, len) != len || memcmp(a, b, len) != 0)) {
            size_t i = 0;

            while (i < len && a[i] == b[i])
                i++;
            fail(1, "%s: byte %zu: differs from what the chain makes", other, at + i);
        }
        atomic_store(&progress.done, at + len);
    }
    if (fd >= 0)
        close(fd);
    free(a);
    free(b);
    return h;
}

static void do_verify(const struct options *o, char **path, int n)
{
    memsnap_snapshot *s = load_image(path[0]);
    uint64_t h;

    say("%s: ok, an image of %s", path[0], bytes(memsnap_snapshot_size(s)));
    for (int i = 1; i < n; i++) {
        memsnap_snapshot *before = memsnap_snapshot_ref(s);

        s = load_delta(s, path[i]);
        struct difference d = compare(before, s, path[i]);
        say("%s: ok, changes %s in %zu runs", path[i], bytes(d.bytes), d.runs);
        memsnap_snapshot_unref(before);
    }
    h = read_through(s, path[n - 1], o->compare);
    say("%zu bytes read%s%s, content %016" PRIx64, memsnap_snapshot_size(s), o->compare != NULL ? ", the same as " : "",
        o->compare != NULL ? o->compare : "", h);
    memsnap_snapshot_unref(s);
}

static void inspect_image(const char *path)
{
    struct stat st;
    int fd = open_or_fail(path, &st);
    off_t size = st.st_size, at = 0;
    unsigned char *buf = allocate(BLOCK);
    uint64_t data = 0, extents = 0, h = (uint64_t)size;

    while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
        off_t end = lseek(fd, at, SEEK_HOLE);

        if (end < at)
            break;
        data += (uint64_t)(end - at);
        extents++;
        at = end;
    }
    working("reading", path, (size_t)size);
    for (uint64_t i = 0; i < (uint64_t)size; i += BLOCK) {
        size_t len = read_at(path, fd, i, buf, (size_t)size - i < BLOCK ? (size_t)size - i : BLOCK);

        h = hash_block(h, buf, len);
        atomic_store(&progress.done, i + len);
    }
    say("%s: an image", path);
    say("    size      %lld bytes (%s)", (long long)size, bytes((uint64_t)size));
    say("    data      %s in %" PRIu64 " runs; the rest are holes", bytes(data), extents);
    say("    on disk   %s", bytes((uint64_t)st.st_blocks * 512));
    say("    content   %016" PRIx64, h);
    close(fd);
    free(buf);
}

static void do_inspect(const struct options *o, char **path, int n)
{
    (void)o;
    for (int i = 0; i < n; i++) {
        if (is_delta(path[i]))
            inspect_delta(path[i]);
        else
            inspect_image(path[i]);
    }
}

static const char usage[] =
    "usage: memsnap-image save    -o OUT FILE [BASE [DELTA...]]   FILE as an image; with a chain, what changed since\n"
    "       memsnap-image apply   -o OUT BASE [DELTA...]          the image that a chain makes\n"
    "       memsnap-image squash  -o OUT BASE DELTA...            one delta that does what these do\n"
    "       memsnap-image verify  [-c FILE] BASE [DELTA...]       check everything; the same as FILE?\n"
    "       memsnap-image inspect FILE...                         what a file is, and what is in it\n"
    "  -f  replace OUT    -n  do not wait for the disk    -q  no progress on the terminal\n";

static const struct verb {
    const char *name;
    int least;                      /* files */
    bool writes;
    void (*run)(const struct options *o, char **path, int n);
} verbs[] = {
    { "save", 1, true, do_save },
    { "apply", 1, true, do_apply },
    { "squash", 2, true, do_squash },
    { "verify", 1, false, do_verify },
    { "inspect", 1, false, do_inspect },
};

static const struct verb *find_verb(const char *name)
{
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strcmp(name, verbs[i].name) == 0)
            return &verbs[i];
    }
    fail(2, "%s is not a verb\n%s", name, usage);
}

int main(int argc, char **argv)
{
    struct options o = { .save_flags = MEMSNAP_SAVE_EXCL };
    int option;

    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(usage, stdout);
        return 0;
    }
    if (argc < 2)
        fail(2, "what shall it do?\n%s", usage);
    const struct verb *v = find_verb(argv[1]);
    verb = v->name;
    optind = 2;
    while ((option = getopt(argc, argv, "o:c:fnq")) != -1) {
        if (option == 'o')
            o.out = optarg;
        else if (option == 'c')
            o.compare = optarg;
        else if (option == 'f')
            o.save_flags &= ~MEMSNAP_SAVE_EXCL;
        else if (option == 'n')
            o.save_flags |= MEMSNAP_SAVE_NOSYNC;
        else if (option == 'q')
            quiet = true;
        else
            fail(2, "see above\n%s", usage);
    }
    if (argc - optind < v->least)
        fail(2, "too few files\n%s", usage);
    if (v->writes && o.out == NULL)
        fail(2, "where to? give -o OUT\n%s", usage);
    if (!v->writes && o.out != NULL)
        fail(2, "writes nothing: leave -o away\n%s", usage);
    if (o.compare != NULL && v->run != do_verify)
        fail(2, "compares nothing: -c is for verify\n%s", usage);
    if (v->writes)
        check_output(&o, argv + optind, argc - optind);
    start_progress();
    v->run(&o, argv + optind, argc - optind);
    stop_progress();
    return 0;
}
