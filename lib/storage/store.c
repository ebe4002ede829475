/* SPDX-License-Identifier: MIT */
/* Stores and their segments. */
#include "config.h"

#include "storage/store.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"

/* Segments for children: small at first, doubling, so that a family has few windows whatever it
 * stores. */
#define FIRST_SEGMENT ((uint64_t)1 << 20)
#define MAX_SEGMENT ((uint64_t)64 << 20)

int ms_family_usage_new(struct family_usage **out)
{
    struct family_usage *c = ms_os->alloc(sizeof *c);
    if (!c)
        return -ENOMEM;
    ms_ref_init(&c->refs);
    atomic_init(&c->pages, 0);
    atomic_init(&c->freed, 0);
    *out = c;
    return 0;
}

void ms_family_usage_unref(struct family_usage *c)
{
    if (c && ms_ref_put(&c->refs))
        ms_os->free(c);
}

size_t ms_family_usage_stores(const struct family_usage *c)
{
    return ms_ref_count(&c->refs) - 1;
}

/* Mostly a look: views that are closed all the time share nothing to write to. */
bool ms_family_usage_test_and_clear_freed(struct family_usage *c)
{
    return atomic_load_explicit(&c->freed, memory_order_relaxed) &&
           atomic_exchange_explicit(&c->freed, 0, memory_order_relaxed);
}

/* An exchange, not a plain store, is what the race detectors understand. */
static void family_give_back(struct family_usage *c, size_t pages)
{
    atomic_fetch_sub_explicit(&c->pages, pages, memory_order_relaxed);
    atomic_exchange_explicit(&c->freed, 1, memory_order_relaxed);
}

int ms_store_new(enum store_kind kind, struct family_usage *family, struct store **out)
{
    struct store *s = ms_os->alloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    ms_ref_init(&s->refs);
    s->kind = kind;
    s->process = ms_process_generation();
    s->forks = ms_forks();
    s->object.fd = -1;
    s->object.kind = "heap";
    if (kind == STORE_ANON) {
        int e = ms_os->object_create(&s->object);
        if (e < 0) {
            ms_os->free(s);
            return e;
        }
    }
    if (family)
        ms_ref_get(&family->refs);
    s->family = family;
    ms_lock_init(&s->lock);
    *out = s;
    return 0;
}

struct store *ms_store_ref(struct store *s)
{
    ms_ref_get(&s->refs);
    return s;
}

static void segment_is_unshared(const struct segment *g) MS_ASSERTS(ms_store_mutex)
{
    (void)g;
}

static void segment_unref(struct segment *g)
{
    if (!g || !ms_ref_put(&g->refs))
        return;
    segment_is_unshared(g);
    if (g->window)
        ms_os->unmap(g->window, (size_t)g->len);
    ms_os->free(g->free_bits);
    ms_os->free(g);
}

void ms_store_unref(struct store *s)
{
    if (!s || !ms_ref_put(&s->refs))
        return;
    ms_store_is_unshared(s);
    if (s->kind == STORE_ANON) /* what a forked child may share was never given back */
        family_give_back(s->family, s->pages);
    for (size_t i = 0; i < s->free.n; i++)
        segment_unref(s->free.v[i]);
    ms_os->free(s->free.v);
    segment_unref(s->current);
    if (s->kind != STORE_HEAP)
        ms_os->object_close(&s->object);
    ms_family_usage_unref(s->family);
    ms_lock_destroy(&s->lock);
    ms_os->free(s);
}

static size_t window_alignment(uint64_t len)
{
    size_t huge = ms_os->huge_size();
    return huge && len >= huge ? huge : ms_os->page_size();
}

/* What views show is in core dumps with them, unless they are kept out: so windows always are.
 * They are a convenience: without one (too many mappings, no address space) bytes are read
 * instead. */
static void segment_map_window(struct segment *g, const struct os_object *o)
{
    void *p;
    if (ms_os->map_new(o, g->offset, (size_t)g->len, window_alignment(g->len), OS_SHARED_READ,
                       &p) == 0) {
        ms_os->advise(p, (size_t)g->len, OS_NODUMP);
        g->window = p;
    }
}

static struct segment *segment_new(uint64_t offset, uint64_t len)
{
    struct segment *g = ms_os->alloc(sizeof *g);
    if (!g)
        return NULL;
    ms_ref_init(&g->refs);
    g->offset = offset;
    g->len = len;
    return g;
}

/* The first segment of a store fits its first chunk (the root's bytes); later ones double. */
static uint64_t next_segment_length(const struct store *s, uint64_t bytes)
    MS_REQUIRES(ms_store_mutex)
{
    size_t huge = ms_os->huge_size();
    uint64_t len = bytes;
    if (s->current) {
        len = s->current->len < FIRST_SEGMENT ? FIRST_SEGMENT : s->current->len * 2;
        if (len > MAX_SEGMENT)
            len = MAX_SEGMENT;
        if (len < bytes)
            len = bytes;
    }
    /* as huge_part() in fill.c */
    return ms_round_up(len, huge && len >= huge / 2 ? huge : ms_os->page_size());
}

static int store_add_segment(struct store *s, uint64_t bytes, bool window)
    MS_REQUIRES(ms_store_mutex)
{
    uint64_t len = next_segment_length(s, bytes);
    size_t align = window_alignment(len);
    uint64_t offset = ms_round_up(s->end, align);
    if (offset > INT64_MAX || len > INT64_MAX - offset)
        return -EFBIG;
    struct segment *g = segment_new(offset, len);
    if (!g)
        return -ENOMEM;
    if (window)
        segment_map_window(g, &s->object);
    segment_unref(s->current);
    s->current = g;
    s->end = offset + len;
    s->used = 0;
    return 0;
}

static struct chunk *chunk_new(struct store *s, size_t pages)
{
    struct chunk *c = ms_os->alloc(sizeof *c);
    if (!c)
        return NULL;
    ms_ref_init(&c->refs);
    c->pages = pages;
    c->forks = ms_forks();
    c->store = ms_store_ref(s);
    return c;
}

static void chunk_forget(struct chunk *c)
{
    ms_store_unref(c->store);
    ms_os->free(c);
}

/* Heap chunks up to this size come from the allocator; larger ones from the OS, so that freeing
 * gives the memory back. */
static bool heap_is_small(const struct chunk *c)
{
    return c->pages <= 16;
}

static int heap_allocate(struct chunk *c)
{
    size_t len = c->pages * ms_os->page_size();
    void *p;
    if (heap_is_small(c)) {
        p = ms_os->alloc(len);
        if (!p)
            return -ENOMEM;
    } else {
        int e = ms_os->reserve(NULL, len, window_alignment(len), &p);
        if (e < 0)
            return e;
        ms_os->advise(p, len, OS_HUGE);
        ms_os->advise(p, len, OS_NODUMP); /* as windows */
    }
    c->window = p;
    return 0;
}

static void heap_release(struct chunk *c)
{
    union {
        const char *in;
        void *out;
    } p = {c->window};
    if (heap_is_small(c))
        ms_os->free(p.out);
    else
        ms_os->unmap(p.out, c->pages * ms_os->page_size());
}

/* The chunk lies at an offset of a segment, whose reference it takes over. */
static void place(struct chunk *c, struct segment *g, uint64_t offset)
{
    c->segment = g;
    c->offset = offset;
    c->window = g->window ? g->window + (offset - g->offset) : NULL;
}

/* Writing a page that the object has already costs less than a new one and a hole punched for
 * the old. */
static bool reuse(struct store *s, struct chunk *c, uint64_t bytes) MS_REQUIRES(ms_store_mutex)
{
    struct free_range e;
    bool emptied;
    if (!ms_freelist_take(&s->free, bytes, &e, &emptied))
        return false;
    if (!emptied)
        ms_ref_get(&e.segment->refs);
    place(c, e.segment, e.offset);
    return true;
}

static int anon_allocate(struct store *s, struct chunk *c, bool reuse_ok) MS_INSIDE
{
    uint64_t bytes = (uint64_t)c->pages * ms_os->page_size();
    int e = 0;
    ms_store_lock(s);
    if (!reuse_ok || !reuse(s, c, bytes)) {
        if (!s->current || s->current->len - s->used < bytes)
            e = store_add_segment(s, bytes, true);
        if (e == 0) {
            ms_ref_get(&s->current->refs);
            place(c, s->current, s->current->offset + s->used);
            s->used += bytes;
        }
    }
    if (e == 0) {
        s->pages += c->pages;
        atomic_fetch_add_explicit(&s->family->pages, c->pages, memory_order_relaxed);
    }
    ms_store_unlock(s);
    return e;
}

int ms_store_allocate(struct store *s, size_t pages, bool reuse_ok, struct chunk **out)
{
    struct chunk *c = chunk_new(s, pages);
    if (!c)
        return -ENOMEM;
    int e = s->kind == STORE_HEAP ? heap_allocate(c) : anon_allocate(s, c, reuse_ok);
    if (e < 0) {
        chunk_forget(c);
        return e;
    }
    *out = c;
    return 0;
}

int ms_store_of_file(const struct os_object *object, size_t pages, bool window, struct chunk **out)
{
    struct store *s;
    int e = ms_store_new(STORE_FILE, NULL, &s);
    if (e < 0)
        return e;
    ms_store_is_unshared(s);
    struct chunk *c = chunk_new(s, pages);
    e = c ? store_add_segment(s, (uint64_t)ms_max(pages, 1) * ms_os->page_size(), false) : -ENOMEM;
    if (e == 0) {
        s->object = *object;
        if (window)
            segment_map_window(s->current, object);
        ms_ref_get(&s->current->refs);
        c->segment = s->current;
        c->window = c->segment->window;
        *out = c;
    } else if (c) {
        chunk_forget(c);
    }
    ms_store_unref(s);
    return e;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

struct chunk *ms_chunk_ref(struct chunk *c)
{
    ms_ref_get(&c->refs);
    return c;
}

void ms_chunk_ref_many(struct chunk *c, size_t n)
{
    ms_ref_add(&c->refs, n);
}

size_t ms_chunk_refs(const struct chunk *c)
{
    return ms_ref_count(&c->refs);
}

static uint64_t worth_keeping(const struct store *s)
{
    size_t share = atomic_load_explicit(&s->family->pages, memory_order_relaxed) / MS_FREE_SHARE;
    if (!(ms_os->caps & OS_CAP_PUNCH))
        return UINT64_MAX;
    return ms_max(share, MS_FREE_PAGES) * (uint64_t)ms_os->page_size();
}

/* Punching a hole costs 10 us and more, and interrupts every processor that the program runs on.
 * So it is not done where pages are given back, maybe in the middle of a take, but by
 * ms_store_trim(); except for ranges so large that one call is nothing beside them. */
static bool keep_space(struct store *s, const struct free_range *e) MS_INSIDE
{
    bool spare = false;
    size_t pages = (size_t)(e->len / ms_os->page_size());
    ms_store_lock(s);
    s->pages -= pages;
    family_give_back(s->family, pages);
    bool kept = e->len <= worth_keeping(s) && ms_freelist_put(&s->free, e, &spare);
    ms_store_unlock(s);
    if (kept && spare)
        segment_unref(e->segment);
    return kept;
}

void ms_store_trim(struct store *s)
{
    struct free_range e;
    bool emptied;
    if (s->kind != STORE_ANON || s->process != ms_process_generation())
        return;
    ms_store_lock(s);
    uint64_t limit = worth_keeping(s);
    bool excess = s->free.bytes > limit;
    while (excess && s->free.bytes > limit / 4 * 3 &&
           ms_freelist_take_any(&s->free, &e, &emptied)) {
        ms_store_unlock(s);
        ms_os->object_punch(&s->object, e.offset, e.len);
        if (emptied)
            segment_unref(e.segment);
        ms_store_lock(s);
    }
    ms_store_unlock(s);
}

void ms_reclaim_flush(struct reclaim *r)
{
    if (!r->store)
        return;
    struct free_range e = {r->offset, r->len, r->segment};
    if (!keep_space(r->store, &e)) {
        ms_os->object_punch(&r->store->object, r->offset, r->len);
        segment_unref(r->segment);
    }
    ms_store_unref(r->store);
    *r = (struct reclaim){0};
}

static void reclaim_add(struct reclaim *r, const struct chunk *c) MS_INSIDE
{
    uint64_t len = (uint64_t)c->pages * ms_os->page_size();
    if (r->store == c->store && r->segment == c->segment && r->offset + r->len == c->offset) {
        r->len += len;
        return;
    }
    ms_reclaim_flush(r);
    r->store = ms_store_ref(c->store);
    ms_ref_get(&c->segment->refs);
    r->segment = c->segment;
    r->offset = c->offset;
    r->len = len;
}

bool ms_chunk_may_change(const struct chunk *c)
{
    return c->store->kind == STORE_ANON && c->store->process == ms_process_generation() &&
           c->forks == ms_forks();
}

void ms_chunk_unref(struct chunk *c, struct reclaim *r)
{
    if (!c || !ms_ref_put(&c->refs))
        return;
    /* The last reference to the store gives everything back at once. */
    if (ms_chunk_may_change(c) && ms_ref_count(&c->store->refs) > 1)
        reclaim_add(r, c);
    if (c->store->kind == STORE_HEAP)
        heap_release(c);
    segment_unref(c->segment);
    chunk_forget(c);
}

int ms_chunk_read(const struct chunk *c, uint64_t offset, void *buf, size_t len)
{
    if (c->window) {
        memcpy(buf, c->window + offset, len);
        return 0;
    }
    struct os_iov v = {buf, len};
    return ms_os->object_read(&c->store->object, &v, 1, c->offset + offset);
}

const void *ms_chunk_peek(const struct chunk *c, size_t page, size_t pages, void *buf, int *error)
{
    size_t ps = ms_os->page_size();
    if (c->window)
        return c->window + page * ps;
    int e = ms_chunk_read(c, (uint64_t)page * ps, buf, pages * ps);
    if (e < 0) {
        *error = e;
        return NULL;
    }
    return buf;
}
