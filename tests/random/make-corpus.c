/* SPDX-License-Identifier: MIT */
/* Makes the files of tests/random/data, and the README there: make-corpus DIRECTORY.
 *
 * A writer of its own, made from doc/file-format.txt, so that the library's reader is not only
 * tried with what the library's writer wrote. It is slow and plain. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "random/corpus.h"

struct file {
    unsigned char bytes[1 << 18];
    size_t len;
};

static struct file f;
static unsigned char base[CORPUS_SIZE], result[CORPUS_SIZE];
static const char *directory;
static FILE *readme;

/* ---- the format ------------------------------------------------------------------------------ */

static uint32_t crc(const unsigned char *p, size_t len)
{
    uint32_t c = 0xFFFFFFFFu;
    for (size_t i = 0; i < len; i++) {
        c ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
    }
    return ~c;
}

static void set(size_t offset, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++)
        f.bytes[offset + (size_t)i] = (unsigned char)(x >> 8 * i);
}

static void add(const void *p, size_t len)
{
    memcpy(f.bytes + f.len, p, len);
    f.len += len;
}

static void add32(uint32_t x)
{
    set(f.len, x, 4);
    f.len += 4;
}

static void begin(uint32_t block, uint64_t size)
{
    memset(&f, 0, sizeof f);
    memcpy(f.bytes, "\x89MSDELT\n", 8);
    set(8, 1, 4);
    set(20, block, 4);
    set(24, size, 8);
    f.len = 64;
}

static void seal_header(void)
{
    set(60, crc(f.bytes, 60), 4);
}

static void end(uint64_t records)
{
    set(32, f.len, 8);
    set(40, records, 8);
    seal_header();
}

static size_t block_length(size_t number, size_t block, size_t size)
{
    return size - number * block < block ? size - number * block : block;
}

/* Checksums are those of the table and of the head as they are. */
static void seal_record(size_t at, size_t table)
{
    set(at + 16, crc(f.bytes + at + 24, table), 4);
    set(at + 20, crc(f.bytes + at, 20), 4);
}

static size_t add_head(uint64_t first, uint32_t blocks, uint32_t kind)
{
    size_t at = f.len;
    set(at, first, 8);
    set(at + 8, blocks, 4);
    set(at + 12, kind, 4);
    f.len += 24;
    return at;
}

/* A right record about blocks of the two images; returns where it begins. */
static size_t add_record(size_t first, size_t blocks, uint32_t kind, size_t block)
{
    size_t at = add_head(first, (uint32_t)blocks, kind);
    for (size_t i = first; i < first + blocks; i++) {
        size_t len = block_length(i, block, CORPUS_SIZE);
        add32(crc(base + i * block, len));
        if (kind == 1)
            add32(crc(result + i * block, len));
    }
    seal_record(at, f.len - at - 24);
    for (size_t i = first; kind == 1 && i < first + blocks; i++)
        add(result + i * block, block_length(i, block, CORPUS_SIZE));
    return at;
}

static uint32_t kind_of(size_t number, size_t block)
{
    size_t len = block_length(number, block, CORPUS_SIZE), i = 0;
    const unsigned char *new_block = result + number * block;
    if (memcmp(base + number * block, new_block, len) == 0)
        return 3;
    while (i < len && !new_block[i])
        i++;
    return i == len ? 2 : 1;
}

/* The whole delta between the images. */
static void differences(size_t block, bool same)
{
    size_t blocks = (CORPUS_SIZE + block - 1) / block, records = 0;
    begin((uint32_t)block, CORPUS_SIZE);
    for (size_t i = 0, n; i < blocks; i += n) {
        uint32_t kind = kind_of(i, block);
        for (n = 1; i + n < blocks && kind_of(i + n, block) == kind; n++)
            ;
        if (kind == 3 && !same)
            continue;
        add_record(i, n, kind, block);
        records++;
    }
    end(records);
}

/* A small file that is right. */
static void small(void)
{
    begin(4096, CORPUS_SIZE);
    add_record(1, 1, 1, 4096);
    add_record(5, 2, 3, 4096);
    end(2);
}

static void write_out(const char *name, const char *note)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *out = fopen(path, "wb");
    if (!out || fwrite(f.bytes, 1, f.len, out) != f.len || fclose(out) != 0) {
        perror(path);
        exit(1);
    }
    fprintf(readme, "%-28s %s\n", name, note);
}

/* ---- good ------------------------------------------------------------------------------------ */

static void make_example(void)
{
    static const unsigned char zero[512];
    unsigned char changed[488] = {0};
    changed[88] = 1;
    begin(512, CORPUS_EXAMPLE);
    size_t at = add_head(0, 1, 3);
    add32(crc(zero, 512));
    seal_record(at, 4);
    at = add_head(1, 1, 1);
    add32(crc(zero, 488));
    add32(crc(changed, 488));
    seal_record(at, 8);
    add(changed, 488);
    end(2);
    write_out("good-example",
              "the example of doc/file-format.txt: 1000 zero bytes, of which one changes");
}

static void make_large(void)
{
    static const unsigned char zero[1], one[1] = {1};
    begin(4096, CORPUS_LARGE);
    size_t at = add_head((uint64_t)1 << 28, 1, 1);
    add32(crc(zero, 1));
    add32(crc(one, 1));
    seal_record(at, 8);
    add(one, 1);
    end(1);
    write_out("good-large", "1 TiB and 1 byte of zeros, of which the last byte becomes 1");
}

static void make_good(void)
{
    begin(4096, 0);
    end(0);
    write_out("good-empty", "an image of no bytes");
    begin(4096, CORPUS_SIZE);
    end(0);
    write_out("good-no-records", "nothing changes, nothing is checked");
    begin(4096, CORPUS_SIZE);
    add_record(0, 18, 3, 4096);
    end(1);
    write_out("good-same", "nothing changes, every block of the base is checked");
    differences(512, true);
    write_out("good-block-512", "all changes, blocks of 512 bytes, the others checked");
    differences(4096, false);
    write_out("good-block-4096", "all changes, blocks of 4096 bytes");
    differences(65536, false);
    write_out("good-block-65536", "all changes, blocks of 65536 bytes");
    differences(1048576, false);
    write_out("good-block-1048576", "all changes, in the one block that there is");
    begin(4096, CORPUS_SIZE);
    add_record(0, 5, 1, 4096);
    add_record(5, 13, 1, 4096);
    end(2);
    write_out("good-unchanged-blocks", "all changes, with blocks that do not change as data");
    differences(4096, false);
    set(16, 0x80000001u, 4);
    set(48, 0x1234567890u, 8);
    seal_header();
    write_out("good-optional",
              "all changes; optional features and reserved bytes that nobody knows");
    make_example();
    make_large();
}

/* ---- bad: the header ------------------------------------------------------------------------- */

/* A good file in which one number of the header is another. */
static void header_with(size_t offset, uint64_t x, int bytes, const char *name, const char *note)
{
    small();
    set(offset, x, bytes);
    seal_header();
    write_out(name, note);
}

static void make_bad_header(void)
{
    small();
    f.len = 0;
    write_out("bad-no-bytes", "an empty file");
    small();
    f.len = 63;
    write_out("bad-short-header", "63 bytes");
    header_with(0, 0x88, 1, "bad-magic", "the first byte is another");
    small();
    memmove(f.bytes + 8, f.bytes + 7, f.len - 7);
    f.bytes[7] = '\r';
    f.len++;
    write_out("bad-text", "went through a transfer that writes lines with CR and LF");
    small();
    f.bytes[40] ^= 1;
    write_out("bad-header-crc", "a flipped bit in the number of records");
    header_with(20, 0, 4, "bad-block-0", "blocks of no bytes");
    header_with(20, 256, 4, "bad-block-256", "blocks shorter than allowed");
    header_with(20, 3000, 4, "bad-block-3000", "a block length that is no power of two");
    header_with(20, 1u << 21, 4, "bad-block-2097152", "blocks longer than allowed");
    header_with(20, 1u << 31, 4, "bad-block-2147483648", "blocks much longer than allowed");
    header_with(20, 8192, 4, "bad-block-8192", "blocks of another length than the records have");
    header_with(32, 64, 8, "bad-file-size", "says that the file is its header only");
    header_with(32, UINT64_MAX, 8, "bad-file-size-huge",
                "says that the file is as long as files cannot be");
    header_with(24, CORPUS_SIZE + 1, 8, "bad-image-size",
                "made for an image of one byte more (wrong base)");
    header_with(24, 0, 8, "bad-image-size-0", "made for an image of no bytes (wrong base)");
    header_with(24, UINT64_MAX, 8, "bad-image-size-huge",
                "made for an image larger than images can be (wrong base)");
    header_with(40, 1, 8, "bad-records-fewer", "there are more records than it says");
    header_with(40, 99, 8, "bad-records-more", "there are fewer records than it says");
    header_with(40, UINT64_MAX, 8, "bad-records-huge", "says that there are 2^64 - 1 records");
}

/* ---- bad: the records ------------------------------------------------------------------------ */

/* One good record of two blocks, whose head's number at offset is another, with a right
 * checksum. */
static void record_with(size_t offset, uint64_t x, int bytes, const char *name, const char *note)
{
    begin(4096, CORPUS_SIZE);
    size_t at = add_record(1, 2, 1, 4096);
    set(at + offset, x, bytes);
    set(at + 20, crc(f.bytes + at, 20), 4);
    end(1);
    write_out(name, note);
}

/* One good record of two blocks, with one bit flipped. */
static void record_flipped(size_t offset, const char *name, const char *note)
{
    begin(4096, CORPUS_SIZE);
    size_t at = add_record(1, 2, 1, 4096);
    f.bytes[at + offset] ^= 0x10;
    end(1);
    write_out(name, note);
}

/* Two good records in a wrong relation. */
static void two_records(size_t first, size_t second, const char *name, const char *note)
{
    begin(4096, CORPUS_SIZE);
    add_record(first, 2, 1, 4096);
    add_record(second, 2, 1, 4096);
    end(2);
    write_out(name, note);
}

static void cut(size_t len, const char *name, const char *note)
{
    begin(4096, CORPUS_SIZE);
    add_record(1, 2, 1, 4096);
    f.len = 64 + len;
    end(1);
    write_out(name, note);
}

static void make_bad_record(void)
{
    record_flipped(3, "bad-record-crc", "a flipped bit in the head of a record");
    record_flipped(24 + 5, "bad-table-crc", "a flipped bit in the table of a record");
    record_flipped(24 + 16 + 5000, "bad-data-crc", "a flipped bit in the data of a record");
    record_flipped(24 + 16 + 8191, "bad-last-bit", "a flipped bit in the last byte of the file");
    record_with(12, 0, 4, "bad-kind-0", "a kind of record that there is not");
    record_with(12, 4, 4, "bad-kind-4", "another such kind");
    record_with(8, 0, 4, "bad-blocks-0", "a record about no blocks");
    record_with(8, 4097, 4, "bad-blocks-4097", "a record about more blocks than allowed");
    record_with(8, UINT32_MAX, 4, "bad-blocks-huge", "a record about 2^32 - 1 blocks");
    record_with(8, 18, 4, "bad-blocks-beyond", "a record that ends behind the image");
    record_with(0, 18, 8, "bad-first-beyond", "a record that begins behind the image");
    record_with(0, UINT64_MAX, 8, "bad-first-huge", "a record whose end does not fit 64 bits");
    record_with(0, (uint64_t)1 << 52, 8, "bad-first-wraps",
                "a record whose offset in the image does not fit 64 bits");
    two_records(5, 1, "bad-order", "records in descending order");
    two_records(1, 2, "bad-overlap", "records that overlap");
    two_records(1, 1, "bad-twice", "the same record twice");
    cut(10, "bad-cut-head", "ends in the head of a record; the header agrees");
    cut(30, "bad-cut-table", "ends in the table of a record; the header agrees");
    cut(24 + 16 + 5000, "bad-cut-data", "ends in the data of a record; the header agrees");
    cut(24 + 16 + 8191, "bad-cut-byte", "its last byte is missing; the header agrees");
    small();
    f.len--;
    write_out("bad-cut", "its last byte is missing");
    small();
    add("x", 1);
    write_out("bad-trailing", "a byte follows the last record");
    small();
    add("x", 1);
    set(32, f.len, 8);
    seal_header();
    write_out("bad-trailing-counted", "a byte follows the last record; the header agrees");
}

/* ---- bad: the base --------------------------------------------------------------------------- */

static void make_bad_base(void)
{
    for (int kind = 1; kind <= 3; kind++) {
        char name[] = "bad-base-0",
             note[] = "made for a base with another byte in a block of kind 0 (wrong base)";
        name[strlen(name) - 1] = (char)('0' + kind);
        *strrchr(note, '0') = (char)('0' + kind);
        begin(4096, CORPUS_SIZE);
        base[50000] ^= 1;
        add_record(1, 1, 1, 4096);
        add_record(12, 1, (uint32_t)kind, 4096);
        base[50000] ^= 1;
        end(2);
        write_out(name, note);
    }
}

int main(int argc, char **argv)
{
    char path[512];
    if (argc != 2) {
        fprintf(stderr, "usage: make-corpus DIRECTORY\n");
        return 2;
    }
    directory = argv[1];
    snprintf(path, sizeof path, "%s/README", directory);
    readme = fopen(path, "w");
    if (!readme) {
        perror(path);
        return 1;
    }
    fprintf(readme, "Delta files (doc/file-format.txt), made by tests/random/make-corpus.c. Their "
                    "images are in tests/random/corpus.h.\n"
                    "good- must load; bad- is damaged, or made for another base; unsupported- is "
                    "what the name says.\n\n");
    corpus_base(base);
    memcpy(result, base, sizeof base);
    corpus_change(result);
    make_good();
    make_bad_header();
    make_bad_record();
    make_bad_base();
    header_with(8, 2, 4, "unsupported-version-2", "a version to come");
    header_with(8, 0, 4, "unsupported-version-0", "a version that never was");
    header_with(12, 1, 4, "unsupported-required", "a required feature that nobody knows");
    header_with(12, 1u << 31, 4, "unsupported-required-31", "another one");
    return fclose(readme) == 0 ? 0 : 1;
}
