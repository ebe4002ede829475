/* SPDX-License-Identifier: MIT */
/* Deltas: what is written is loaded again, whatever the change; wrong bases and damaged files
 * are refused; the corpus. */
#include "config.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "delta.h"
#include "random/corpus.h"
#include "support/support.h"

/* ---- checksums ------------------------------------------------------------------------------- */

/* The vectors of RFC 3720, B.4, and the usual one. */
static void test_vectors(void)
{
    unsigned char zeros[32] = {0}, ones[32], up[32], down[32];
    static const unsigned char read_pdu[48] = {
        0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
        0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0,    0,
    };
    memset(ones, 0xff, sizeof ones);
    for (int i = 0; i < 32; i++) {
        up[i] = (unsigned char)i;
        down[i] = (unsigned char)(31 - i);
    }
    const struct {
        const void *data;
        size_t len;
        uint32_t crc;
    } v[] = {
        {zeros, 32, 0x8a9136aa},
        {ones, 32, 0x62a8ab43},
        {up, 32, 0x46dd794e},
        {down, 32, 0x113fdb5c},
        {read_pdu, 48, 0xd9963a56},
        {"123456789", 9, 0xe3069283},
        {"", 0, 0},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(v); i++) {
        g_assert_cmphex(ms_crc32c(0, v[i].data, v[i].len), ==, v[i].crc);
        g_assert_cmphex(ms_crc32c_by_table(0, v[i].data, v[i].len), ==, v[i].crc);
    }
}

/* Every way of cutting a string in two, and every alignment. */
static void test_pieces(void)
{
    unsigned char data[100];
    fill(data, sizeof data, 5);
    for (size_t from = 0; from < 16; from++) {
        size_t len = sizeof data - from;
        uint32_t whole = ms_crc32c(0, data + from, len);
        for (size_t cut = 0; cut <= len; cut++) {
            g_assert_cmphex(ms_crc32c(ms_crc32c(0, data + from, cut), data + from + cut, len - cut),
                            ==, whole);
            uint32_t first = ms_crc32c_by_table(0, data + from, cut);
            g_assert_cmphex(ms_crc32c_by_table(first, data + from + cut, len - cut), ==, whole);
        }
    }
}

/* Zeros that are not there are summed like zeros that are. */
static void test_zeros(void)
{
    static const unsigned char zeros[5000];
    uint32_t before = ms_crc32c(0, "123456789", 9);
    for (size_t len = 0; len <= sizeof zeros; len += len < 100 ? 1 : 49) {
        g_assert_cmphex(ms_crc32c_zeros(0, len), ==, ms_crc32c(0, zeros, len));
        g_assert_cmphex(ms_crc32c_zeros(before, len), ==, ms_crc32c(before, zeros, len));
    }
    uint32_t half = ms_crc32c_zeros(before, (uint64_t)1 << 39);
    g_assert_cmphex(ms_crc32c_zeros(half, (uint64_t)1 << 39), ==,
                    ms_crc32c_zeros(before, (uint64_t)1 << 40));
}

/* ---- there and back -------------------------------------------------------------------------- */

static memsnap_snapshot *load(memsnap_snapshot *base, const char *path)
{
    memsnap_snapshot *s = NULL;
    assert_ok(memsnap_snapshot_load_delta(base, path, 0, &s));
    g_assert_nonnull(s);
    return s;
}

static void assert_load_fails(memsnap_snapshot *base, const char *path, int error)
{
    memsnap_snapshot *out = UNTOUCHED;
    assert_refused(memsnap_snapshot_load_delta(base, path, 0, &out), error, out);
}

static size_t file_size(const char *path)
{
    struct stat st;
    g_assert_cmpint(stat(path, &st), ==, 0);
    return (size_t)st.st_size;
}

/* Saves the difference, loads it on an unrelated base of the same bytes, and compares. Returns
 * the size of the file. */
static size_t there_and_back(memsnap_snapshot *s, memsnap_snapshot *base, const unsigned char *data,
                             const unsigned char *old, size_t size)
{
    char *path = temp_path("delta");
    assert_ok(memsnap_snapshot_save_delta(s, base, path, MEMSNAP_SAVE_NOSYNC));
    memsnap_snapshot *other = snap(old, size), *t = load(other, path), *u = load(base, path);
    assert_content(t, data, size);
    assert_content(u, data, size);
    assert_content(other, old, size);
    memsnap_snapshot_unref(other);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(u);
    size_t len = file_size(path);
    g_free(path);
    return len;
}

static void change(unsigned char *data, size_t size, struct rng *r, int n)
{
    for (int i = 0; i < n; i++) {
        size_t at = rng_below(r, size), len = 1 + rng_below(r, ms_min(size - at, 3 * page));
        if (rng_below(r, 3))
            fill(data + at, len, rng_next(r));
        else
            memset(data + at, 0, len);
    }
}

static void test_round_trip(void)
{
    const size_t sizes[] = {1,          100,     page - 1, page, page + 1, 17 * page + 3,
                            300 * page, MIB + 1, 3 * MIB};
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        size_t size = sizes[i];
        struct rng r = {i};
        unsigned char *old = pattern(size, i), *data = g_memdup2(old, size);
        memsnap_snapshot *base = snap(old, size);
        memsnap_view *v = view(base);
        for (int round = 0; round < 6; round++) {
            change(data, size, &r, 1 << round);
            memcpy(bytes(v), data, size);
            memsnap_snapshot *s = take(v), *apart = snap(data, size);
            size_t related = there_and_back(s, base, data, old, size);
            size_t unrelated = there_and_back(apart, base, data, old, size);
            g_assert_cmpuint(related, ==, unrelated); /* it is bytes that count */
            memsnap_snapshot_unref(s);
            memsnap_snapshot_unref(apart);
        }
        memsnap_view_unref(v);
        memsnap_snapshot_unref(base);
        g_free(old);
        g_free(data);
    }
}

static void test_no_difference(void)
{
    const size_t sizes[] = {0, 1, 5 * MIB};
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        unsigned char *data = pattern(sizes[i], 1);
        memsnap_snapshot *s = snap(data, sizes[i]);
        g_assert_cmpuint(there_and_back(s, s, data, data, sizes[i]), <=, 64 + 70 * 28);
        memsnap_snapshot_unref(s);
        g_free(data);
    }
}

/* Everything at once: records and runs of the longest kind. */
static void test_all_different(void)
{
    size_t size = 9 * MIB + 11;
    unsigned char *old = pattern(size, 1), *data = pattern(size, 2);
    memsnap_snapshot *base = snap(old, size), *s = snap(data, size);
    there_and_back(s, base, data, old, size);
    memsnap_snapshot *zero = snap_zero(size);
    memset(data, 0, size);
    /* zeros are not stored */
    g_assert_cmpuint(there_and_back(zero, base, data, old, size), <=, 32 * KIB);
    there_and_back(base, zero, old, data, size);
    memsnap_snapshot_unref(zero);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
    g_free(old);
    g_free(data);
}

/* The result refers to the base's pages but for those that changed. */
static void test_sharing(void)
{
    size_t size = 8 * MIB;
    unsigned char *old = pattern(size, 1), *data = g_memdup2(old, size);
    memsnap_snapshot *base = snap(old, size);
    for (size_t i = 0; i < 10; i++)
        data[i * 500 * KIB + 7] ^= 1;
    memset(data + 5 * MIB, 0, page);
    memsnap_snapshot *s = snap(data, size);
    char *path = temp_path("delta");
    assert_ok(memsnap_snapshot_save_delta(s, base, path, 0));
    g_assert_cmpuint(file_size(path), <=, 10 * 4200 + 64 + 100 * 28);
    size_t open_files = descriptors();
    memsnap_snapshot *t = load(base, path);
    if (!config_is("heap"))
        g_assert_cmpuint(descriptors(), ==, open_files);
    g_assert_cmpuint(snap_stats(t).stored_bytes, <=, size + 10 * page);
    g_assert_cmpuint(snap_stats(t).exclusive_bytes, <=, 10 * page);
    memsnap_snapshot_unref(base);
    assert_content(t, data, size);
    memsnap_snapshot_unref(t);
    memsnap_snapshot_unref(s);
    g_free(path);
    g_free(old);
    g_free(data);
}

/* Base, delta, delta ...: each loaded on the result of the one before. */
static void test_chain(void)
{
    enum { LINKS = 12 };
    size_t size = 200 * page + 9;
    struct rng r = {3};
    unsigned char *old = pattern(size, 1), *data[LINKS];
    memsnap_snapshot *s = snap(old, size), *t = snap(old, size);
    memsnap_view *v = view(s);
    char *path[LINKS];
    for (int i = 0; i < LINKS; i++) {
        change(bytes(v), size, &r, 3);
        data[i] = g_memdup2(bytes(v), size);
        memsnap_snapshot *next = take(v);
        char *name = g_strdup_printf("delta-%d", i);
        path[i] = temp_path(name);
        g_free(name);
        assert_ok(memsnap_snapshot_save_delta(next, s, path[i], 0));
        memsnap_snapshot_unref(s);
        s = next;
    }
    for (int i = 0; i < LINKS; i++) {
        memsnap_snapshot *next = load(t, path[i]);
        assert_content(next, data[i], size);
        memsnap_snapshot_unref(t);
        t = next;
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    for (int i = 0; i < LINKS; i++) {
        g_free(data[i]);
        g_free(path[i]);
    }
    g_free(old);
}

/* What is saved of a mutable view, and what can be done with a result. */
static void test_mutable_views(void)
{
    size_t size = 64 * page;
    unsigned char *old = pattern(size, 1), *data = g_memdup2(old, size);
    memsnap_snapshot *base = snap(old, size), *s = snap(old, size);
    memsnap_view *v = view_mut(s);
    char *path = temp_path("delta");
    for (int i = 0; i < 4; i++) {
        memset(data + (size_t)i * 9 * page, i, 2 * page);
        memcpy(bytes(v), data, size);
        assert_ok(memsnap_snapshot_save_delta(s, base, path, MEMSNAP_SAVE_NOSYNC));
        memset(bytes(v), 0xee, page);
        memsnap_snapshot *t = load(base, path);
        memsnap_view *w = view_mut(t);
        assert_same(bytes(w), data, size);
        bytes(w)[3 * page] ^= 0xff;
        assert_content(base, old, size);
        memsnap_view_unref(w);
        memsnap_snapshot_unref(t);
    }
    memsnap_view_unref(v);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
    g_free(path);
    g_free(old);
    g_free(data);
}

static void test_base_in_file(void)
{
    size_t size = MIB + 5;
    if (config_is("heap"))
        return;
    unsigned char *old = pattern(size, 1), *data = g_memdup2(old, size);
    char *image = temp_file("image", old, size), *path = temp_path("delta");
    memsnap_snapshot *base;
    assert_ok(memsnap_snapshot_new_from_file(image, MEMSNAP_FILE_MAP, &base));
    memset(data + 1000, 1, 50000);
    memsnap_snapshot *s = snap(data, size);
    assert_ok(memsnap_snapshot_save_delta(s, base, path, 0));
    memsnap_snapshot *t = load(base, path);
    assert_content(t, data, size);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(t);
    g_free(image);
    g_free(path);
    g_free(old);
    g_free(data);
}

static struct counted {
    struct os os;
    const struct os *inner;
    size_t bytes;
} counted;

static int counted_read(const struct os_object *o, const struct os_iov *v, size_t n,
                        uint64_t offset)
{
    for (size_t i = 0; i < n; i++)
        counted.bytes += v[i].len;
    return counted.inner->object_read(o, v, n, offset);
}

/* What both share is not read but for the sample: all of it is in a file here, where reading can
 * be counted. */
static void test_reads_little(void)
{
    size_t size = 32 * MIB;
    if (config_is("heap"))
        return;
    unsigned char *data = pattern(size, 1);
    char *image = temp_file("image", data, size), *path = temp_path("delta");
    memsnap_snapshot *base;
    assert_ok(memsnap_snapshot_new_from_file(image, MEMSNAP_FILE_MAP, &base));
    memsnap_view *v = view(base);
    for (size_t i = 0; i < 16; i++)
        bytes(v)[i * 2 * MIB + 5] ^= 1;
    memsnap_snapshot *s = take(v);
    counted.inner = ms_os;
    counted.os = *ms_os;
    counted.os.object_read = counted_read;
    counted.bytes = 0;
    ms_os = &counted.os;
    int result = memsnap_snapshot_save_delta(s, base, path, MEMSNAP_SAVE_NOSYNC);
    ms_os = counted.inner;
    assert_ok(result);
    g_assert_cmpuint(counted.bytes, >=, 16 * page);
    g_assert_cmpuint(counted.bytes, <=, 160 * page);
    memsnap_view_unref(v);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
    g_free(image);
    g_free(path);
    g_free(data);
}

/* A file whose records name all blocks of an image of zeros. */
static char *small_file(size_t size, uint32_t block, uint32_t kind)
{
    uint32_t blocks = (uint32_t)(size / block), n;
    GByteArray *file = g_byte_array_new();
    unsigned char head[DELTA_HEADER] = DELTA_MAGIC, sum[4];
    g_byte_array_append(file, head, DELTA_HEADER);
    delta_put32(sum, ms_crc32c_zeros(0, block));
    for (uint32_t at = 0; at < blocks; at += n) {
        unsigned char record[DELTA_RECORD];
        uint32_t table_sum = 0;
        n = MIN(blocks - at, DELTA_RECORD_BLOCKS);
        for (uint32_t i = 0; i < n; i++)
            table_sum = ms_crc32c(table_sum, sum, 4);
        delta_put64(record, at);
        delta_put32(record + 8, n);
        delta_put32(record + 12, kind);
        delta_put32(record + 16, table_sum);
        delta_put32(record + 20, ms_crc32c(0, record, 20));
        g_byte_array_append(file, record, DELTA_RECORD);
        for (uint32_t i = 0; i < n; i++)
            g_byte_array_append(file, sum, 4);
    }
    delta_put32(head + 8, DELTA_VERSION);
    delta_put32(head + 20, block);
    delta_put64(head + 24, size);
    delta_put64(head + 32, file->len);
    delta_put64(head + 40, (blocks + DELTA_RECORD_BLOCKS - 1) / DELTA_RECORD_BLOCKS);
    delta_put32(head + 60, ms_crc32c(0, head, DELTA_HEADER - 4));
    memcpy(file->data, head, DELTA_HEADER);
    char *path = temp_file("small", file->data, file->len);
    g_byte_array_free(file, TRUE);
    return path;
}

/* Loads the file over an image of zeros; returns how many bytes were read for it. */
static size_t load_counted(memsnap_snapshot *base, const char *path)
{
    memsnap_snapshot *s = NULL;
    counted.inner = ms_os;
    counted.os = *ms_os;
    counted.os.object_read = counted_read;
    counted.bytes = 0;
    ms_os = &counted.os;
    int result = memsnap_snapshot_load_delta(base, path, 0, &s);
    ms_os = counted.inner;
    assert_ok(result);
    g_assert_cmpuint(snap_stats(s).exclusive_bytes, ==, 0);
    memsnap_snapshot_unref(s);
    return counted.bytes;
}

/* What a small file says of a large base does not make the loader look at what is known to be
 * zero. */
static void test_bounded(void)
{
    const uint32_t kinds[] = {DELTA_SAME, DELTA_ZERO};
    size_t size = sizeof(size_t) > 4 ? 16 * GIB : GIB;
    memsnap_snapshot *zero = snap_zero(size), *mapped = NULL;
    char *image = temp_file("image", "", 0);
    struct rlimit limit;
    bool room = getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur >= size;
    /* Without /proc holes cannot be found: the descriptor's offset may be the program's. */
    bool proc = g_file_test("/proc/self/fd", G_FILE_TEST_EXISTS);
    if (!config_is("heap") && proc && room && truncate(image, (off_t)size) == 0)
        assert_ok(memsnap_snapshot_new_from_file(image, MEMSNAP_FILE_MAP, &mapped));
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        char *path = small_file(size, 1 << 20, kinds[i]);
        g_assert_cmpuint(file_size(path), <=, size / MIB * 5);
        g_assert_cmpuint(load_counted(zero, path), <=, MIB);
        if (mapped)
            g_assert_cmpuint(load_counted(mapped, path), <=, MIB);
        g_free(path);
    }
    memsnap_snapshot_unref(zero);
    memsnap_snapshot_unref(mapped);
    g_free(image);
}

/* What a mutable view never stored to stays without memory, whether it is loaded over or saved. */
static void test_holes(void)
{
    size_t size = 64 * MIB;
    memsnap_snapshot *s = snap_zero(size), *zero = snap_zero(size), *data = snap_pattern(size, 1);
    memsnap_view *v = view_mut(s);
    char *path = temp_path("delta"), *small = small_file(size, 1 << 16, DELTA_SAME);
    bytes(v)[5 * MIB] = 1;
    size_t before = object_bytes();
    assert_ok(memsnap_snapshot_save_delta(s, zero, path, MEMSNAP_SAVE_NOSYNC));
    memsnap_snapshot *t = load(zero, path);
    assert_ok(memsnap_snapshot_save_delta(s, data, path, MEMSNAP_SAVE_NOSYNC));
    memsnap_snapshot *u = load(data, path);
    assert_load_fails(s, small, -EINVAL); /* the 80th of 1,024 blocks is not zero */
    bytes(v)[5 * MIB] = 0;
    load_counted(s, small);
    if (config_is("linux") && g_file_test("/proc/self/fd", G_FILE_TEST_EXISTS))
        g_assert_cmpuint(object_bytes(), <=, before + 2 * MIB);
    unsigned char *expected = g_malloc0(size);
    expected[5 * MIB] = 1;
    assert_content(t, expected, size);
    assert_content(u, expected, size);
    memsnap_view_unref(v);
    memsnap_snapshot *all[] = {s, zero, data, t, u};
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++)
        memsnap_snapshot_unref(all[i]);
    g_free(expected);
    g_free(path);
    g_free(small);
}

/* A mapped file that somebody made shorter reads as zeros: that is neither image. */
static void test_cut_file(void)
{
    size_t size = 8 * MIB;
    if (config_is("heap"))
        return;
    unsigned char *old = pattern(size, 1);
    char *image = temp_file("image", old, size), *path = temp_path("delta");
    memsnap_snapshot *mapped, *base = snap(old, size), *out = UNTOUCHED;
    old[5 * MIB] ^= 1;
    memsnap_snapshot *s = snap(old, size);
    assert_ok(memsnap_snapshot_new_from_file(image, MEMSNAP_FILE_MAP, &mapped));
    assert_ok(memsnap_snapshot_save_delta(s, mapped, path, 0));
    g_assert_cmpint(truncate(image, 4 * MIB), ==, 0);
    assert_refused(memsnap_snapshot_load_delta(mapped, path, 0, &out), -EIO, out);
    g_assert_cmpint(memsnap_snapshot_save_delta(s, mapped, path, 0), ==, -EIO);
    g_assert_cmpint(memsnap_snapshot_save_delta(mapped, s, path, 0), ==, -EIO);
    memsnap_snapshot_unref(load(base, path)); /* the file from before */
    memsnap_snapshot_unref(mapped);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
    g_free(image);
    g_free(path);
    g_free(old);
}

static struct cancelled {
    memsnap_snapshot *s, *base, *loaded;
    const char *path;
    bool returned;
} cancelled;

static void *save_and_load(void *arg)
{
    (void)arg;
    pthread_cancel(pthread_self()); /* acts at the next cancellation point */
    assert_ok(memsnap_snapshot_save(cancelled.base, cancelled.path, 0));
    assert_ok(memsnap_snapshot_save_delta(cancelled.s, cancelled.base, cancelled.path, 0));
    assert_ok(memsnap_snapshot_load_delta(cancelled.base, cancelled.path, 0, &cancelled.loaded));
    cancelled.returned = true;
    pthread_testcancel();
    g_assert_not_reached();
}

static void test_cancelled(void)
{
    pthread_t thread;
    void *result;
    memsnap_snapshot *base = snap_pattern(MIB, 1), *s = snap_pattern(MIB, 2);
    char *path = temp_path("delta");
    cancelled = (struct cancelled){.s = s, .base = base, .path = path};
    g_assert_cmpint(pthread_create(&thread, NULL, save_and_load, NULL), ==, 0);
    g_assert_cmpint(pthread_join(thread, &result), ==, 0);
    g_assert_true(cancelled.returned);
    g_assert_true(result == PTHREAD_CANCELED);
    memsnap_snapshot_unref(cancelled.loaded);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
    g_free(path);
}

/* ---- refused --------------------------------------------------------------------------------- */

static void test_arguments(void)
{
    memsnap_snapshot *s = snap_pattern(page, 1), *larger = snap_pattern(page + 1, 1),
                     *out = UNTOUCHED;
    char *path = temp_path("delta"), *dir = g_path_get_dirname(path),
         *missing = temp_path("missing");
    g_assert_cmpint(memsnap_snapshot_save_delta(null, s, path, 0), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_save_delta(s, null, path, 0), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_save_delta(s, s, null, 0), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_save_delta(s, s, path, 4), ==, -EINVAL);
    g_assert_cmpint(memsnap_snapshot_save_delta(s, larger, path, 0), ==, -EINVAL);
    assert_ok(memsnap_snapshot_save_delta(s, s, path, 0));
    g_assert_cmpint(memsnap_snapshot_save_delta(s, s, path, MEMSNAP_SAVE_EXCL), ==, -EEXIST);
    assert_refused(memsnap_snapshot_load_delta(null, path, 0, &out), -EINVAL, out);
    assert_refused(memsnap_snapshot_load_delta(s, null, 0, &out), -EINVAL, out);
    assert_refused(memsnap_snapshot_load_delta(s, path, 1u << 20, &out), -EINVAL, out);
    assert_refused(memsnap_snapshot_load_delta(s, path, 0, null), -EINVAL, out);
    assert_load_fails(s, missing, -ENOENT);
    assert_load_fails(s, dir, -EISDIR);
    assert_load_fails(s, "/dev/null", -EINVAL);
    assert_load_fails(larger, path, -EINVAL);
    assert_ok(memsnap_snapshot_load_delta(s, path, MEMSNAP_HUGE_NEVER, &out));
    memsnap_snapshot_unref(out);
    g_free(path);
    g_free(dir);
    g_free(missing);
    memsnap_snapshot_unref(s);
    memsnap_snapshot_unref(larger);
}

/* A base that differs in any byte that the delta replaces; one that differs everywhere; one that
 * lacks an earlier link. */
static void test_wrong_base(void)
{
    size_t size = 500 * page;
    unsigned char *old = pattern(size, 1);
    memsnap_snapshot *base = snap(old, size), *other = snap_pattern(size, 2),
                     *zero = snap_zero(size);
    memsnap_view *v = view(base);
    char *first = temp_path("first"), *second = temp_path("second");
    bytes(v)[33 * page + 5] ^= 1;
    memsnap_snapshot *one = take(v);
    bytes(v)[400 * page + 5] ^= 1;
    memsnap_snapshot *two = take(v);
    assert_ok(memsnap_snapshot_save_delta(one, base, first, 0));
    assert_ok(memsnap_snapshot_save_delta(two, one, second, 0));
    assert_load_fails(other, first, -EINVAL);
    assert_load_fails(zero, first, -EINVAL);
    assert_load_fails(base, second, -EINVAL);
    assert_load_fails(two, second, -EINVAL);
    old[33 * page] ^= 1;
    memsnap_snapshot *touched = snap(old, size);
    assert_load_fails(touched, first, -EINVAL);
    memsnap_snapshot_unref(touched);
    memsnap_snapshot *s = load(base, first), *t = load(s, second);
    assert_content(t, bytes(v), size);
    memsnap_view_unref(v);
    memsnap_snapshot *all[] = {base, other, zero, one, two, s, t};
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++)
        memsnap_snapshot_unref(all[i]);
    g_free(first);
    g_free(second);
    g_free(old);
}

/* Each byte of a file in turn becomes another, and each length in turn is all that is there. */
static void test_damage(void)
{
    size_t size = 3 * page, len;
    unsigned char *old = pattern(size, 1), *data = g_memdup2(old, size);
    char *path = temp_path("delta"), *file;
    memset(data, 1, 10);
    memset(data + page, 0, page);
    memsnap_snapshot *base = snap(old, size), *s = snap(data, size);
    assert_ok(memsnap_snapshot_save_delta(s, base, path, 0));
    g_assert_true(g_file_get_contents(path, &file, &len, NULL));
    size_t step = on_valgrind() || on_sanitizer() ? 61 : 7;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    for (size_t i = 0; i < len; i += i < 200 ? 1 : step) {
        char wrong = (char)(file[i] ^ (1 << i % 8));
        g_assert_cmpint(pwrite(fd, &wrong, 1, (off_t)i), ==, 1);
        assert_load_fails(base, path, -EBADMSG);
        g_assert_cmpint(pwrite(fd, file + i, 1, (off_t)i), ==, 1);
    }
    memsnap_snapshot_unref(load(base, path));
    for (size_t n = len; n-- > 0; n -= n > 400 ? ms_min(step * 5, n - 400) : 0) {
        g_assert_cmpint(ftruncate(fd, (off_t)n), ==, 0);
        assert_load_fails(base, path, -EBADMSG);
    }
    close(fd);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
    g_free(path);
    g_free(file);
    g_free(old);
    g_free(data);
}

/* ---- the corpus ------------------------------------------------------------------------------ */

static char *corpus_path(const char *name)
{
    const char *dir = g_getenv("srcdir");
    return g_build_filename(dir ? dir : ".", "tests", "random", "data", name, NULL);
}

static unsigned char *corpus_image(bool changed)
{
    unsigned char *p = g_malloc(CORPUS_SIZE);
    corpus_base(p);
    if (changed)
        corpus_change(p);
    return p;
}

/* README tells what a file is about; this is what it comes to. */
static void load_good(const char *path, const char *name)
{
    bool unchanged = strcmp(name, "good-same") == 0 || strcmp(name, "good-no-records") == 0;
    unsigned char *old = corpus_image(false), *data = corpus_image(!unchanged);
    memsnap_snapshot *base = snap(old, CORPUS_SIZE), *s = load(base, path);
    assert_content(s, data, CORPUS_SIZE);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
    g_free(old);
    g_free(data);
}

static void load_zero_based(const char *path, uint64_t size, uint64_t one)
{
    if (size > SIZE_MAX / 2)
        return;
    memsnap_snapshot *base = snap_zero((size_t)size), *s = load(base, path);
    unsigned char byte = 0;
    if (size > 0) {
        assert_ok(memsnap_snapshot_read(s, (size_t)one, &byte, 1));
        g_assert_cmpuint(byte, ==, 1);
    }
    g_assert_cmpuint(snap_stats(s).stored_bytes, ==, size > 0 ? page : 0);
    memsnap_snapshot_unref(base);
    memsnap_snapshot_unref(s);
}

static void check_corpus_file(const char *name, const char *line)
{
    char *path = corpus_path(name);
    if (strcmp(name, "good-empty") == 0)
        load_zero_based(path, 0, 0);
    else if (strcmp(name, "good-example") == 0)
        load_zero_based(path, CORPUS_EXAMPLE, 600);
    else if (strcmp(name, "good-large") == 0)
        load_zero_based(path, CORPUS_LARGE, CORPUS_LARGE - 1);
    else if (g_str_has_prefix(name, "good-"))
        load_good(path, name);
    else {
        unsigned char *old = corpus_image(false);
        memsnap_snapshot *base = snap(old, CORPUS_SIZE);
        int error = strstr(line, "(wrong base)") ? -EINVAL : -EBADMSG;
        if (g_str_has_prefix(name, "unsupported-"))
            error = -ENOTSUP;
        assert_load_fails(base, path, error);
        memsnap_snapshot_unref(base);
        g_free(old);
    }
    g_free(path);
}

/* Every file has a line in README, and every line a file. */
static void test_corpus(void)
{
    char *path = corpus_path("README"), *text = NULL, *dir = g_path_get_dirname(path);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    char **lines = g_strsplit(text, "\n", -1);
    size_t listed = 0, there = 0;
    for (char **line = lines; *line; line++) {
        char name[64];
        if (line - lines < 3 || sscanf(*line, "%63[a-z0-9-]", name) != 1)
            continue; /* what comes before the list */
        check_corpus_file(name, *line);
        listed++;
    }
    GDir *d = g_dir_open(dir, 0, NULL);
    while (g_dir_read_name(d))
        there++;
    g_dir_close(d);
    g_assert_cmpuint(listed, >, 50);
    g_assert_cmpuint(listed + 1, ==, there);
    g_strfreev(lines);
    g_free(text);
    g_free(path);
    g_free(dir);
}

struct errand {
    const char *path;
};

/* What the file says of itself does not make the loader take memory. */
static void load_with_little_memory(void *arg)
{
    struct errand *e = arg;
    unsigned char *old = corpus_image(false);
    memsnap_snapshot *base = snap(old, CORPUS_SIZE);
    struct rlimit limit = {0, 0};
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;
    g_assert_true(f && fscanf(f, "%lu", &pages) == 1);
    limit.rlim_cur = limit.rlim_max = pages * page + 32 * MIB;
    g_assert_cmpint(setrlimit(RLIMIT_AS, &limit), ==, 0);
    assert_load_fails(base, e->path, -EBADMSG);
}

static void test_little_memory(void)
{
    static const char *const names[] = {
        "bad-records-huge",   "bad-blocks-huge", "bad-block-2147483648",
        "bad-file-size-huge", "bad-first-wraps", "bad-first-huge",
    };
    if (on_sanitizer() || on_valgrind()) {
        test_skip("the checker takes address space of its own");
        return;
    }
    if (!g_file_test("/proc/self/statm", G_FILE_TEST_EXISTS)) {
        test_skip("no /proc: not known how much address space there is");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        struct errand e = {corpus_path(names[i])};
        child_run(load_with_little_memory, &e);
        g_free((void *)e.path);
    }
}

int main(int argc, char **argv)
{
    test_need_file_size(64 * MIB);
    test_init(&argc, &argv);
    g_test_add_func("/crc32c/vectors", test_vectors);
    g_test_add_func("/crc32c/pieces", test_pieces);
    g_test_add_func("/crc32c/zeros", test_zeros);
    test_add("delta/round-trip", test_round_trip, 0);
    test_add("delta/no-difference", test_no_difference, 0);
    test_add("delta/all-different", test_all_different, 0);
    test_add("delta/sharing", test_sharing, 0);
    test_add("delta/chain", test_chain, 0);
    test_add("delta/mutable-views", test_mutable_views, 0);
    test_add("delta/base-in-file", test_base_in_file, 0);
    test_add("delta/reads-little", test_reads_little, 0);
    test_add("delta/bounded", test_bounded, 0);
    test_add("delta/holes", test_holes, 0);
    test_add("delta/cut-file", test_cut_file, 0);
    test_add("delta/cancelled", test_cancelled, 0);
    test_add("delta/arguments", test_arguments, 0);
    test_add("delta/wrong-base", test_wrong_base, 0);
    test_add("delta/damage", test_damage, 0);
    test_add("delta/corpus", test_corpus, 0);
    test_add("delta/little-memory", test_little_memory, 0);
    return g_test_run();
}
