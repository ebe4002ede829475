/* SPDX-License-Identifier: MIT */
/* Fuzzing the loader of deltas, with tests/random/data as seeds. HACKING says how it is run.
 * Without a fuzzer: a program that loads the files that it is given.
 *
 * Every input is loaded twice, as it is and with its checksums put right, so that what lies
 * behind them is reached. Whatever is accepted must be an image like any other: it is read, and
 * a delta of it made and loaded again. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <memsnap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "delta.h"
#include "random/corpus.h"
#include "random/fuzz.h"

static void must(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "fuzz-delta: %s\n", what);
    abort();
}

/* The base that most seeds were made for. */
static memsnap_snapshot *base_of(uint64_t image_size)
{
    static unsigned char bytes[CORPUS_SIZE];
    memsnap_snapshot *s = NULL;
    int e;
    if (image_size == CORPUS_SIZE || image_size > (uint64_t)1 << 30) {
        corpus_base(bytes);
        e = memsnap_snapshot_new(bytes, sizeof bytes, 0, &s);
    } else {
        e = memsnap_snapshot_new_zeroed((size_t)image_size, 0, &s);
    }
    must(e == 0, "no base");
    return s;
}

static void check_result(memsnap_snapshot *base, memsnap_snapshot *s)
{
    static unsigned char a[CORPUS_SIZE], b[CORPUS_SIZE];
    size_t size = memsnap_snapshot_size(s), cursor = 0, len = size < sizeof a ? size : sizeof a;
    char path[] = "/tmp/fuzz-delta-XXXXXX";
    struct memsnap_range range;
    memsnap_snapshot *t = NULL;
    int fd = mkstemp(path);
    must(fd >= 0, "no temporary file");
    close(fd);
    must(memsnap_snapshot_save_delta(s, base, path, MEMSNAP_SAVE_NOSYNC) == 0,
         "a result cannot be saved");
    must(memsnap_snapshot_load_delta(base, path, 0, &t) == 0, "a saved result cannot be loaded");
    unlink(path);
    must(memsnap_snapshot_read(s, 0, a, len) == 0, "a result cannot be read");
    must(memsnap_snapshot_read(t, 0, b, len) == 0, "a loaded result cannot be read");
    must(memcmp(a, b, len) == 0, "a result is not what was saved");
    must(memsnap_snapshot_diff(s, t, &cursor, &range, 1) == 0,
         "a result differs from what was saved");
    memsnap_snapshot_unref(t);
}

static void load(const uint8_t *data, size_t size)
{
    char path[64];
    memsnap_snapshot *base = base_of(size >= DELTA_HEADER ? delta_get64(data + 24) : 0), *s = NULL;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    must(fd >= 0 && write(fd, data, size) == (ssize_t)size, "no file");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int e = memsnap_snapshot_load_delta(base, path, 0, &s);
    must(e == 0 || e == -EBADMSG || e == -EINVAL || e == -ENOTSUP,
         "an error that there should not be");
    must((e == 0) == (s != NULL), "a failure that returns something");
    if (e == 0)
        check_result(base, s);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(base);
    close(fd);
}

/* The CRC of a block of the base, which has CORPUS_SIZE bytes or is zero. */
static void repair_table(uint8_t *table, const uint8_t *data, uint64_t first, uint32_t blocks,
                         uint32_t kind, size_t block)
{
    static unsigned char bytes[CORPUS_SIZE];
    corpus_base(bytes);
    for (uint32_t i = 0; i < blocks; i++) {
        uint64_t at = (first + i) * block;
        if (at >= CORPUS_SIZE)
            return;
        size_t len = CORPUS_SIZE - at < block ? (size_t)(CORPUS_SIZE - at) : block;
        delta_put32(table, ms_crc32c(0, bytes + at, len));
        table += 4;
        if (kind != DELTA_DATA)
            continue;
        delta_put32(table, ms_crc32c(0, data, len));
        table += 4;
        data += len;
    }
}

/* Every checksum that stands where the numbers say; numbers stay as they are, but for the
 * version and the length of the file. */
static void repair(uint8_t *p, size_t size)
{
    if (size < DELTA_HEADER)
        return;
    memcpy(p, DELTA_MAGIC, 8);
    delta_put32(p + 8, DELTA_VERSION);
    delta_put32(p + 12, 0);
    delta_put64(p + 32, size);
    size_t block = delta_get32(p + 20), at = DELTA_HEADER;
    while (size - at >= DELTA_RECORD) {
        uint32_t blocks = delta_get32(p + at + 8), kind = delta_get32(p + at + 12);
        uint64_t first = delta_get64(p + at),
                 table = (uint64_t)blocks * (kind == DELTA_DATA ? 8 : 4);
        uint64_t data = kind == DELTA_DATA ? (uint64_t)blocks * block : 0;
        if (blocks > DELTA_RECORD_BLOCKS || block > DELTA_MAX_BLOCK ||
            table > size - at - DELTA_RECORD || data > size - at - DELTA_RECORD - table + block)
            break;
        if (first < CORPUS_SIZE && data <= size - at - DELTA_RECORD - table)
            repair_table(p + at + DELTA_RECORD, p + at + DELTA_RECORD + table, first, blocks, kind,
                         block);
        delta_put32(p + at + 16, ms_crc32c(0, p + at + DELTA_RECORD, (size_t)table));
        delta_put32(p + at + 20, ms_crc32c(0, p + at, DELTA_RECORD - 4));
        at += DELTA_RECORD + (size_t)table;
        at += data < size - at ? (size_t)data : size - at;
    }
    delta_put32(p + 60, ms_crc32c(0, p, DELTA_HEADER - 4));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1);
    must(copy != NULL, "no memory");
    if (size > 0)
        memcpy(copy, data, size);
    load(data, size);
    repair(copy, size);
    load(copy, size);
    free(copy);
    return 0;
}
