/* SPDX-License-Identifier: MIT */
/* Comparing bytes, also while another thread stores to them. */
#include "config.h"

#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"
#include "support/support.h"

enum { SIZE = 4096 };

typedef bool (*comparison)(const void *, const void *, size_t);

/* All lengths and alignments, with a difference at each byte in turn, and just behind the end. */
static void check_places(comparison equal)
{
    static const size_t lengths[] = {0, 1, 7, 15, 16, 17, 127, 128, 129, 255, 300, 512};
    unsigned char *a = pattern(1024, 1), b[1024], zero[1024] = {0};
    memcpy(b, a, sizeof b);
    for (size_t from = 0; from < 3; from++) {
        for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
            size_t len = lengths[i];
            b[from + len] ^= 1;
            zero[from + len] = 1;
            g_assert_true(equal(a + from, b + from, len));
            g_assert_true(equal(zero + from, NULL, len));
            g_assert_true(equal(NULL, zero + from, len));
            b[from + len] ^= 1;
            zero[from + len] = 0;
            for (size_t at = from; at < from + len; at++) {
                b[at] ^= 0x80;
                zero[at] = 0x80;
                g_assert_false(equal(a + from, b + from, len));
                g_assert_false(equal(zero + from, NULL, len));
                b[at] ^= 0x80;
                zero[at] = 0;
            }
        }
    }
    g_assert_true(equal(NULL, NULL, 10));
    g_free(a);
}

static void test_places(void)
{
    check_places(ms_bytes_equal);
    check_places(ms_bytes_equal_anywhere);
}

enum { ROUNDS = 100000 };

struct flipping {
    volatile unsigned char *bytes;
    atomic_uint rounds;
};

/* The thread stores to these bytes all the time; each equals its counterpart half of the time. */
static void *flip(void *arg)
{
    struct flipping *f = arg;
    for (unsigned n = 1; n <= ROUNDS; n++) {
        for (size_t at = 0; at < SIZE / 2; at += 64)
            f->bytes[at] ^= 1;
        atomic_store_explicit(&f->rounds, n, memory_order_relaxed);
    }
    return NULL;
}

/* The last byte always differs, so the answer is no, whatever the other bytes do meanwhile. */
static void check_changing(comparison is_equal)
{
    static _Alignas(64) unsigned char changing[SIZE], still[SIZE];
    struct flipping f = {.bytes = changing};
    pthread_t thread;
    changing[SIZE - 1] = 1;
    g_assert_cmpint(pthread_create(&thread, NULL, flip, &f), ==, 0);
    size_t equal = 0;
    while (atomic_load_explicit(&f.rounds, memory_order_relaxed) < ROUNDS) {
        equal += is_equal(changing, still, SIZE);
        equal += is_equal(changing, NULL, SIZE);
    }
    pthread_join(thread, NULL);
    g_assert_cmpuint(equal, ==, 0);
}

static void test_changing(void)
{
    if (on_valgrind() || on_sanitizer()) {
        g_test_skip("a race on purpose");
        return;
    }
    check_changing(ms_bytes_equal);
    check_changing(ms_bytes_equal_anywhere);
}

int main(int argc, char **argv)
{
    test_init(&argc, &argv);
    g_test_add_func("/bytes/places", test_places);
    g_test_add_func("/bytes/changing", test_changing);
    return g_test_run();
}
