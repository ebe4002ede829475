/* SPDX-License-Identifier: MIT */
/* Deltas: what differs between two images, as a file, and back. doc/file-format.txt is the
 * description of the file.
 *
 * As in saving (see save.c) only what touches shared structures is done inside ms_enter: taking
 * the images, storing pages, giving references back. What waits for storage is outside. */
#include "config.h"

#include "delta.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/arith.h"
#include "base/crc32c.h"
#include "mapping/dirty.h"
#include "storage/fill.h"
#include "memsnap.h"
#include "save.h"
#include "snapshot.h"
#include "storage/store.h"

/* Whatever the machine's page size, so that the same change makes the same records of changed
 * blocks. */
#define BLOCK ((size_t)1 << 12)
/* The writer's records: 1 MiB of data at the most. */
#define RECORD_BLOCKS 256
/* Unchanged blocks by which a wrong base is told, see choose_witnesses. */
#define SAMPLES 64
#define RUN_STARTS 256

#define BUFFER ((size_t)1 << 20)

/* ---- bytes of images ------------------------------------------------------------------------- */

/* An image that is read, and what is known of where it is zero. */
struct source {
    const struct image *image;
    size_t size;
    struct reader reader;
    size_t start, end; /* what is known of: */
    bool zero;
};

static void source_begin(struct source *s, const struct image *i, size_t size)
{
    *s = (struct source){.image = i, .size = size};
    ms_reader_begin(&s->reader, i);
}

static void source_end(struct source *s)
{
    ms_reader_end(&s->reader);
}

/* 1: zero from `at` to *end; 0: there may be something in [at, *end); or a negative errno. */
static int zero_until(struct source *s, size_t at, size_t *end)
{
    if (at < s->start || at >= s->end) {
        uint64_t stop;
        int found = ms_image_extent(s->image, at, s->size, &stop);
        if (found < 0)
            return found;
        s->zero = !found;
        s->start = at;
        s->end = (size_t)stop;
    }
    *end = s->end;
    return s->zero;
}

/* The bytes at offset, at most *len and as many as *len says then. NULL: zeros, or an error. */
static const unsigned char *look_at(struct source *s, size_t offset, size_t *len, int *error)
{
    size_t ps = ms_os->page_size(), within = offset % ps, end;
    int zero = zero_until(s, offset, &end);
    *error = zero < 0 ? zero : 0;
    if (zero) {
        *len = zero < 0 ? *len : ms_min(*len, end - offset);
        return NULL;
    }
    *len = ms_min(*len, ps - within);
    const unsigned char *page = ms_reader_page(&s->reader, offset / ps, error);
    return page ? page + within : NULL;
}

/* A range of an image that lies inside it. */
static int read_bytes(struct source *s, size_t offset, size_t len, unsigned char *buf)
{
    int e = 0;
    for (size_t done = 0, n; done < len && e == 0; done += n) {
        n = len - done;
        const unsigned char *p = look_at(s, offset + done, &n, &e);
        if (p)
            memcpy(buf + done, p, n);
        else
            memset(buf + done, 0, n);
    }
    return e;
}

/* Zeros take no time, however many: a few bytes of a file may ask for the sum of a mebibyte. */
static int sum_bytes(struct source *s, size_t offset, size_t len, uint32_t *sum)
{
    int e = 0;
    *sum = 0;
    for (size_t done = 0, n; done < len && e == 0; done += n) {
        n = len - done;
        const unsigned char *p = look_at(s, offset + done, &n, &e);
        *sum = p ? ms_crc32c(*sum, p, n) : ms_crc32c_zeros(*sum, n);
    }
    return e;
}

static uint64_t blocks_of(uint64_t size, size_t block)
{
    return size / block + (size % block != 0);
}

/* All blocks are whole but perhaps the last. */
static size_t block_bytes(uint64_t size, size_t block, uint64_t number)
{
    uint64_t at = number * block;
    return size - at < block ? (size_t)(size - at) : block;
}

/* ---- writing: the file ----------------------------------------------------------------------- */

struct writing {
    const struct os_object *to;
    struct image *image, *base;
    size_t size, blocks;
    struct source new_bytes, old_bytes;
    /* The record being gathered. */
    struct delta_record record;
    unsigned char table[8 * RECORD_BLOCKS];
    unsigned char old_block[BLOCK], new_block[BLOCK]; /* being compared */
    unsigned char *data;                              /* RECORD_BLOCKS blocks */
    size_t table_len, data_len;
    uint64_t records;
    /* Bytes on their way to the file. */
    unsigned char *buffer; /* BUFFER bytes */
    size_t used;
    uint64_t offset; /* where they go */
    size_t witnesses, next_witness;
    uint64_t witness[SAMPLES + RUN_STARTS + 1]; /* blocks, ascending */
};

static int flush(struct writing *w)
{
    struct os_iov v = {w->buffer, w->used};
    int e = w->used ? ms_os->object_write(w->to, &v, 1, w->offset) : 0;
    w->offset += w->used;
    w->used = 0;
    return e;
}

static int put(struct writing *w, const void *p, size_t len)
{
    while (len > 0) {
        size_t n = ms_min(len, BUFFER - w->used);
        memcpy(w->buffer + w->used, p, n);
        w->used += n;
        p = (const char *)p + n;
        len -= n;
        int e = w->used == BUFFER ? flush(w) : 0;
        if (e < 0)
            return e;
    }
    return 0;
}

static int end_record(struct writing *w)
{
    unsigned char head[DELTA_RECORD];
    if (!w->record.blocks)
        return 0;
    delta_put64(head, w->record.first);
    delta_put32(head + 8, w->record.blocks);
    delta_put32(head + 12, w->record.kind);
    delta_put32(head + 16, ms_crc32c(0, w->table, w->table_len));
    delta_put32(head + 20, ms_crc32c(0, head, DELTA_RECORD - 4));
    int e = put(w, head, sizeof head);
    if (e == 0)
        e = put(w, w->table, w->table_len);
    if (e == 0)
        e = put(w, w->data, w->data_len);
    w->records++;
    w->record.blocks = 0;
    w->table_len = w->data_len = 0;
    return e;
}

static void put_sum(struct writing *w, const void *p, size_t len)
{
    delta_put32(w->table + w->table_len, ms_crc32c(0, p, len));
    w->table_len += 4;
}

/* Adds a block to the record, or begins another one with it. old_block, new_block: its bytes, if
 * the kind needs them. */
static int add_block(struct writing *w, uint64_t block, uint32_t kind, const void *old_block,
                     const void *new_block)
{
    struct delta_record *r = &w->record;
    size_t len = block_bytes(w->size, BLOCK, block);
    if (r->blocks &&
        (r->first + r->blocks != block || r->kind != kind || r->blocks == RECORD_BLOCKS)) {
        int e = end_record(w);
        if (e < 0)
            return e;
    }
    if (!r->blocks)
        *r = (struct delta_record){.first = block, .kind = kind};
    r->blocks++;
    put_sum(w, old_block, len);
    if (kind == DELTA_DATA) {
        put_sum(w, new_block, len);
        memcpy(w->data + w->data_len, new_block, len);
        w->data_len += len;
    }
    return 0;
}

static int put_header(struct writing *w)
{
    unsigned char h[DELTA_HEADER] = DELTA_MAGIC;
    struct os_iov v = {h, sizeof h};
    delta_put32(h + 8, DELTA_VERSION);
    delta_put32(h + 20, (uint32_t)BLOCK);
    delta_put64(h + 24, w->size);
    delta_put64(h + 32, w->offset);
    delta_put64(h + 40, w->records);
    delta_put32(h + 60, ms_crc32c(0, h, DELTA_HEADER - 4));
    return ms_os->object_write(w->to, &v, 1, 0);
}

/* ---- writing: what goes into it -------------------------------------------------------------- */

static uint64_t block_of_page(size_t page)
{
    return (uint64_t)page * ms_os->page_size() / BLOCK;
}

static size_t count_runs(const struct image *i)
{
    size_t n = 0, pages = ms_image_pages(i);
    struct run r;
    for (size_t at = 0; at < pages; at = r.first + r.pages, n++)
        ms_image_run(i, at, pages, &r);
    return n;
}

static void add_witness(struct writing *w, uint64_t block)
{
    size_t n = w->witnesses;
    if (n < sizeof w->witness / sizeof w->witness[0] && (n == 0 || w->witness[n - 1] < block))
        w->witness[w->witnesses++] = block;
}

/* Blocks of the base that do not change cannot all be looked at: that would be all the work that
 * a delta spares. So a few are. Spread over the image they tell a wholly different base. The
 * starts of the base's runs are where it differs from what it was itself made of: they tell a
 * base to which an earlier delta of the chain was not applied. */
static void choose_witnesses(struct writing *w)
{
    size_t pages = ms_image_pages(w->base), every = count_runs(w->base) / RUN_STARTS + 1, n = 0,
           sample = 0;
    struct run r;
    for (size_t at = 0; at < pages; at = r.first + r.pages, n++) {
        ms_image_run(w->base, at, pages, &r);
        if (n % every == 0)
            add_witness(w, block_of_page(r.first));
        for (uint64_t b; sample < SAMPLES; sample++) {
            b = w->blocks / SAMPLES * sample + w->blocks % SAMPLES * sample / SAMPLES;
            if (b >= block_of_page(r.first + r.pages))
                break;
            add_witness(w, b);
        }
    }
}

/* Those below `block`. */
static int write_witnesses(struct writing *w, uint64_t block)
{
    unsigned char *bytes = w->old_block;
    for (; w->next_witness < w->witnesses && w->witness[w->next_witness] < block;
         w->next_witness++) {
        uint64_t b = w->witness[w->next_witness];
        int e = read_bytes(&w->old_bytes, (size_t)b * BLOCK, block_bytes(w->size, BLOCK, b), bytes);
        if (e == 0)
            e = add_block(w, b, DELTA_SAME, bytes, NULL);
        if (e < 0)
            return e;
    }
    return 0;
}

/* Passes over those below `block`. */
static bool is_witness(struct writing *w, uint64_t block)
{
    while (w->next_witness < w->witnesses && w->witness[w->next_witness] < block)
        w->next_witness++;
    return w->next_witness < w->witnesses && w->witness[w->next_witness] == block;
}

/* A block of pages that may differ. */
static int write_block(struct writing *w, uint64_t block)
{
    unsigned char *old_block = w->old_block, *new_block = w->new_block;
    size_t len = block_bytes(w->size, BLOCK, block);
    int e = read_bytes(&w->old_bytes, (size_t)block * BLOCK, len, old_block);
    if (e == 0)
        e = read_bytes(&w->new_bytes, (size_t)block * BLOCK, len, new_block);
    if (e < 0)
        return e;
    if (ms_bytes_equal(old_block, new_block, len))
        return is_witness(w, block) ? add_block(w, block, DELTA_SAME, old_block, NULL) : 0;
    return add_block(w, block, ms_bytes_equal(new_block, NULL, len) ? DELTA_ZERO : DELTA_DATA,
                     old_block, new_block);
}

/* Moves *block, at most to `end`, to where the images are not both known to be zero. */
static int skip_zeros(struct writing *w, uint64_t *block, uint64_t end)
{
    size_t old_end, new_end;
    while (*block < end) {
        size_t at = (size_t)*block * BLOCK;
        int old_zero = zero_until(&w->old_bytes, at, &old_end);
        int new_zero = old_zero <= 0 ? old_zero : zero_until(&w->new_bytes, at, &new_end);
        if (new_zero <= 0 || ms_min(old_end, new_end) < at + BLOCK)
            return new_zero < 0 ? new_zero : 0;
        uint64_t next = ms_min(old_end, new_end) / BLOCK;
        *block = next < end ? next : end;
    }
    return 0;
}

/* Blocks [block, end), whose pages are not the same ones. */
static int write_blocks(struct writing *w, uint64_t block, uint64_t end)
{
    int e;
    for (;; block++) {
        e = skip_zeros(w, &block, end);
        if (e == 0)
            e = write_witnesses(w, block);
        if (e == 0 && block < end)
            e = write_block(w, block);
        if (e < 0 || block == end)
            return e;
        is_witness(w, block + 1);
    }
}

static int write_differences(struct writing *w)
{
    size_t pages = ms_image_pages(w->image), first = 0, n = 0;
    for (size_t at = 0; ms_image_differs(w->image, w->base, at, pages, &first, &n);
         at = first + n) {
        uint64_t end = block_of_page(first + n);
        int e = write_blocks(w, block_of_page(first), end < w->blocks ? end : w->blocks);
        if (e < 0)
            return e;
    }
    return write_witnesses(w, w->blocks);
}

static int write_delta(void *arg, const struct os_object *to, uint64_t *size)
{
    struct writing *w = arg;
    w->to = to;
    w->offset = DELTA_HEADER;
    choose_witnesses(w);
    int e = write_differences(w);
    if (e == 0)
        e = end_record(w);
    if (e == 0)
        e = flush(w);
    if (e == 0)
        e = put_header(w);
    if (e == 0)
        e = ms_image_check_files(w->image, w->size);
    if (e == 0)
        e = ms_image_check_files(w->base, w->size);
    *size = w->offset;
    return e;
}

static int save_images(struct image *i, struct image *base, size_t size, const char *path,
                       unsigned flags)
{
    struct writing *w = ms_os->alloc(sizeof *w + RECORD_BLOCKS * BLOCK + BUFFER);
    if (!w)
        return -ENOMEM;
    w->image = i;
    w->base = base;
    w->size = size;
    w->blocks = (size_t)blocks_of(size, BLOCK);
    w->data = (unsigned char *)(w + 1);
    w->buffer = w->data + RECORD_BLOCKS * BLOCK;
    source_begin(&w->new_bytes, i, size);
    source_begin(&w->old_bytes, base, size);
    int e = ms_save_file(path, flags, write_delta, w);
    source_end(&w->new_bytes);
    source_end(&w->old_bytes);
    ms_os->free(w);
    return e;
}

int memsnap_snapshot_save_delta(memsnap_snapshot *s, memsnap_snapshot *base, const char *path,
                                unsigned flags)
{
    struct image *i = NULL, *b = NULL;
    if (!s || !base || !path || flags & ~MS_SAVE_FLAGS || s->current.size != base->current.size)
        return -EINVAL;
    ms_enter();
    int e = ms_snapshot_image(s, false, &i);
    if (e == 0)
        e = ms_snapshot_image(base, false, &b);
    ms_leave();
    if (e == 0)
        e = save_images(i, b, s->current.size, path, flags);
    ms_enter();
    ms_image_unref(i);
    ms_image_unref(b);
    ms_leave();
    return e;
}

/* ---- reading: the file ----------------------------------------------------------------------- */

struct loading {
    struct os_object file;
    uint64_t file_size; /* as the system says, then as the header does: they are the same */
    uint64_t offset;    /* of the first byte not taken yet */
    struct image *base;
    struct pool *pool;
    size_t size, block;
    uint64_t blocks;
    struct source old_bytes;
    unsigned char *table; /* of the record at hand */
    /* Bytes of the file that have been read: [at, have) of the buffer are not taken yet. */
    unsigned char *buffer; /* BUFFER + DELTA_MAX_BLOCK bytes */
    size_t at, have;
    /* Changed pages on their way to the pool: neighbours, of which the last may still be
     * incomplete. */
    struct image_edit edit;
    char *pages; /* run_pages() of them */
    size_t first, n;
    bool open; /* page first + n is being made, behind the n finished ones */
};

/* So many neighbours are stored at once: the block of a slot of the image (see ms_image_block),
 * 1 MiB. */
static size_t run_pages(void)
{
    return ms_max(BUFFER / ms_os->page_size(), 16);
}

/* The next len (at most DELTA_MAX_BLOCK) bytes of the file; valid until the next call. A file
 * that ends before is damaged. */
static int take_bytes(struct loading *l, size_t len, const unsigned char **out)
{
    if (l->file_size - l->offset < len)
        return -EBADMSG;
    if (l->have - l->at < len) {
        memmove(l->buffer, l->buffer + l->at, l->have - l->at);
        l->have -= l->at;
        l->at = 0;
        uint64_t from = l->offset + l->have, rest = l->file_size - from;
        size_t capacity = BUFFER + DELTA_MAX_BLOCK - l->have;
        struct os_iov v = {l->buffer + l->have, rest < capacity ? (size_t)rest : capacity};
        int e = ms_os->object_read(&l->file, &v, 1, from);
        if (e < 0)
            return e;
        l->have += v.len;
    }
    *out = l->buffer + l->at;
    l->at += len;
    l->offset += len;
    return 0;
}

static int check_header(const struct loading *l, const struct delta_header *h)
{
    if (h->version != DELTA_VERSION || h->required & ~DELTA_REQUIRED)
        return -ENOTSUP;
    if (h->block < DELTA_MIN_BLOCK || h->block > DELTA_MAX_BLOCK || h->block & (h->block - 1))
        return -EBADMSG;
    if (h->file_size != l->file_size)
        return -EBADMSG;
    return h->image_size == l->size ? 0 : -EINVAL;
}

static int take_header(struct loading *l, struct delta_header *h)
{
    const unsigned char *p;
    int e = take_bytes(l, DELTA_HEADER, &p);
    if (e < 0)
        return e;
    if (memcmp(p, DELTA_MAGIC, 8) != 0 || delta_get32(p + 60) != ms_crc32c(0, p, DELTA_HEADER - 4))
        return -EBADMSG;
    *h = (struct delta_header){
        .version = delta_get32(p + 8),
        .required = delta_get32(p + 12),
        .optional = delta_get32(p + 16),
        .block = delta_get32(p + 20),
        .image_size = delta_get64(p + 24),
        .file_size = delta_get64(p + 32),
        .records = delta_get64(p + 40),
    };
    return check_header(l, h);
}

/* next: the first block that this record may have. */
static int take_record(struct loading *l, uint64_t next, struct delta_record *r)
{
    const unsigned char *p;
    int e = take_bytes(l, DELTA_RECORD, &p);
    if (e < 0)
        return e;
    if (delta_get32(p + 20) != ms_crc32c(0, p, DELTA_RECORD - 4))
        return -EBADMSG;
    *r = (struct delta_record){delta_get64(p), delta_get32(p + 8), delta_get32(p + 12),
                               delta_get32(p + 16)};
    if (r->kind != DELTA_DATA && r->kind != DELTA_ZERO && r->kind != DELTA_SAME)
        return -EBADMSG;
    if (!r->blocks || r->blocks > DELTA_RECORD_BLOCKS || r->first < next || r->first >= l->blocks ||
        r->blocks > l->blocks - r->first)
        return -EBADMSG;
    size_t len = (size_t)r->blocks * (r->kind == DELTA_DATA ? 8 : 4);
    e = take_bytes(l, len, &p);
    if (e < 0)
        return e;
    memcpy(l->table, p, len);
    return ms_crc32c(0, l->table, len) == r->table_sum ? 0 : -EBADMSG;
}

/* ---- reading: the new image ------------------------------------------------------------------ */

/* The finished pages go into the image. */
static int store_pages(struct loading *l)
{
    size_t ps = ms_os->page_size();
    struct batch b = {0};
    int e = 0;
    ms_enter();
    for (size_t done = 0; done < l->n && e == 0;) {
        size_t n = ms_image_block(l->first + done, l->n - done);
        e = ms_batch_store(&b, l->pool, &l->edit, l->first + done, n, l->pages + done * ps, n * ps,
                           NULL);
        done += n;
    }
    if (e == 0)
        e = ms_batch_flush(&b);
    ms_leave();
    l->n = 0;
    return e;
}

static int set_zero(struct loading *l, size_t page, size_t pages)
{
    struct run r = {page, pages, NULL, 0};
    ms_enter();
    int e = ms_image_edit_set(&l->edit, &r);
    ms_leave();
    return e;
}

/* A page that turned out as in the base stays shared with it. */
static int close_page(struct loading *l)
{
    size_t ps = ms_os->page_size(), page = l->first + l->n;
    char *bytes = l->pages + l->n * ps;
    int e = 0;
    if (!l->open)
        return 0;
    l->open = false;
    const void *old = ms_reader_page(&l->old_bytes.reader, page, &e);
    if (e < 0)
        return e;
    bool changed = !ms_bytes_equal(bytes, old, ms_min(ps, l->size - page * ps));
    if (changed && !ms_bytes_equal(bytes, NULL, ps)) {
        l->n++;
        return (page + 1) % run_pages() == 0 ? store_pages(l) : 0;
    }
    e = changed ? set_zero(l, page, 1) : 0;
    return e < 0 ? e : store_pages(l);
}

/* Makes the page the open one, holding what it has in the base. */
static int open_page(struct loading *l, size_t page)
{
    size_t ps = ms_os->page_size();
    if (l->open && l->first + l->n == page)
        return 0;
    int e = close_page(l);
    if (e == 0 && l->n && l->first + l->n != page)
        e = store_pages(l);
    if (e < 0)
        return e;
    if (!l->n)
        l->first = page;
    char *bytes = l->pages + l->n * ps;
    size_t len = ms_min(ps, l->size - page * ps);
    memset(bytes + len, 0, ps - len);
    l->open = true;
    return read_bytes(&l->old_bytes, page * ps, len, (unsigned char *)bytes);
}

/* Pages that a block of zeros covers are not made, but taken out. */
static int clear_pages(struct loading *l, size_t offset, size_t len)
{
    return set_zero(l, offset / ms_os->page_size(), (len - 1) / ms_os->page_size() + 1);
}

/* data == NULL: zeros */
static int change_bytes(struct loading *l, size_t offset, const unsigned char *data, size_t len)
{
    size_t ps = ms_os->page_size();
    if (!data && offset % ps == 0 && (len % ps == 0 || offset + len == l->size))
        return clear_pages(l, offset, len);
    for (size_t done = 0; done < len;) {
        size_t within = (offset + done) % ps, n = ms_min(len - done, ps - within);
        int e = open_page(l, (offset + done) / ps);
        if (e < 0)
            return e;
        char *to = l->pages + l->n * ps + within;
        if (data)
            memcpy(to, data + done, n);
        else
            memset(to, 0, n);
        done += n;
    }
    return 0;
}

/* Another base than the one that the file was made with is the caller's mistake, not damage. */
static int check_base(struct loading *l, size_t offset, size_t len, uint32_t sum)
{
    uint32_t is;
    int e = sum_bytes(&l->old_bytes, offset, len, &is);
    if (e == 0 && is != sum)
        e = ms_image_check_files(l->base, l->size);
    return e < 0 ? e : is == sum ? 0 : -EINVAL;
}

static int apply_block(struct loading *l, const struct delta_record *r, uint32_t i)
{
    size_t offset = (size_t)(r->first + i) * l->block,
           len = block_bytes(l->size, l->block, r->first + i);
    const unsigned char *sums = l->table + (size_t)i * (r->kind == DELTA_DATA ? 8 : 4),
                        *data = NULL;
    int e = 0;
    if (r->kind == DELTA_DATA) {
        e = take_bytes(l, len, &data);
        if (e == 0 && ms_crc32c(0, data, len) != delta_get32(sums + 4))
            e = -EBADMSG;
    }
    if (e == 0)
        e = check_base(l, offset, len, delta_get32(sums));
    if (e == 0 && r->kind != DELTA_SAME)
        e = change_bytes(l, offset, data, len);
    return e;
}

static int apply_records(struct loading *l, uint64_t records)
{
    struct delta_record r;
    uint64_t next = 0;
    int e = 0;
    for (; records > 0 && e == 0; records--) {
        e = take_record(l, next, &r);
        if (e < 0)
            return e;
        next = r.first + r.blocks;
        for (uint32_t i = 0; i < r.blocks && e == 0; i++)
            e = apply_block(l, &r, i);
    }
    if (e == 0)
        e = close_page(l);
    if (e == 0)
        e = store_pages(l);
    return e < 0 ? e : l->offset == l->file_size ? 0 : -EBADMSG;
}

/* The image that the opened file makes of the base. */
static int load_image(struct loading *l, struct image **out)
{
    struct delta_header h;
    int e = take_header(l, &h);
    if (e < 0)
        return e;
    l->block = h.block;
    l->blocks = blocks_of(l->size, l->block);
    ms_enter();
    e = ms_image_edit_begin(&l->edit, l->base);
    ms_leave();
    if (e < 0)
        return e;
    source_begin(&l->old_bytes, l->base, l->size);
    e = apply_records(l, h.records);
    source_end(&l->old_bytes);
    if (e == 0) {
        *out = ms_image_edit_finish(&l->edit);
        return 0;
    }
    ms_enter();
    ms_image_edit_abandon(&l->edit);
    ms_leave();
    return e;
}

static int load_file(struct loading *l, struct image **out)
{
    size_t ps = ms_os->page_size(), pages = run_pages() * ps, table = 8 * DELTA_RECORD_BLOCKS;
    unsigned char *memory = ms_os->alloc(pages + table + BUFFER + DELTA_MAX_BLOCK);
    if (!memory)
        return -ENOMEM;
    l->pages = (char *)memory;
    l->table = memory + pages;
    l->buffer = l->table + table;
    int e = load_image(l, out);
    ms_os->free(memory);
    return e;
}

static unsigned result_flags(const memsnap_snapshot *base, unsigned flags)
{
    return flags & MEMSNAP_HUGE_NEVER
               ? (base->current.flags & ~MEMSNAP_HUGE_REQUIRE) | MEMSNAP_HUGE_NEVER
               : base->current.flags;
}

static int load_open_file(memsnap_snapshot *base, struct loading *l, unsigned flags,
                          memsnap_snapshot **out)
{
    struct image *i = NULL;
    ms_enter();
    int e = ms_snapshot_image(base, false, &l->base);
    ms_leave();
    if (e < 0)
        return e;
    e = load_file(l, &i);
    ms_enter();
    if (e == 0)
        e = ms_snapshot_of_image(i, base->current.size, result_flags(base, flags),
                                 base->current.pool, out);
    ms_image_unref(i);
    ms_image_unref(l->base);
    ms_leave();
    return e;
}

static int load_delta(memsnap_snapshot *base, const char *path, unsigned flags,
                      memsnap_snapshot **out)
{
    struct loading l = {.size = base->current.size, .pool = base->current.pool};
    int e = ms_os->file_open(path, false, &l.file, &l.file_size);
    if (e < 0)
        return e;
    e = load_open_file(base, &l, flags, out);
    ms_os->object_close(&l.file);
    return e;
}

/* Opening and reading are cancellation points. */
int memsnap_snapshot_load_delta(memsnap_snapshot *base, const char *path, unsigned flags,
                                memsnap_snapshot **out)
{
    if (!base || !path || !out || flags & ~MEMSNAP_HUGE_NEVER)
        return -EINVAL;
    int before = ms_uncancellable();
    int e = load_delta(base, path, flags, out);
    ms_cancellable(before);
    return e;
}
