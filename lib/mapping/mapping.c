/* SPDX-License-Identifier: MIT */
/* Mapping images: which runs are mapped, which are copied, and the exchange of one mapping for
 * another. */
#include "config.h"

#include "mapping/mapping.h"

#include <errno.h>
#include <string.h>

#include "base/annotate.h"
#include "base/arith.h"
#include "storage/fill.h"
#include "memsnap.h"
#include "storage/store.h"

/* A lone run in the middle costs two mappings (5-7 us to open, 3 us to close); copying a page
 * costs 2.3-3 us. */
#define SHORTEST_MAPPED 4

/* ---- which runs to map ----------------------------------------------------------------------- */

struct plan {
    struct run *v;
    size_t n, capacity;
    struct run one; /* what v is until there are more: most images are one run */
};

static void plan_begin(struct plan *p)
{
    p->v = &p->one;
    p->n = 0;
    p->capacity = 1;
}

static void plan_end(struct plan *p)
{
    if (p->v != &p->one)
        ms_os->free(p->v);
}

static int plan_add(struct plan *p, struct run r)
{
    if (p->n == p->capacity) {
        size_t capacity = 8 * p->capacity;
        struct run *v = ms_os->realloc(p->v == &p->one ? NULL : p->v, capacity * sizeof *v);
        if (!v)
            return -ENOMEM;
        if (p->v == &p->one)
            v[0] = p->one;
        p->v = v;
        p->capacity = capacity;
    }
    p->v[p->n++] = r;
    return 0;
}

static bool can_map(const struct chunk *c)
{
    return c->store->kind != STORE_HEAP;
}

/* True if r is where the open run `m` would be if it went on: m can be mapped across the gap,
 * whose pages are then copied over. */
static bool continues(const struct run *m, const struct run *r, size_t shortest)
{
    return m->chunk == r->chunk && m->chunk_page + (r->first - m->first) == r->chunk_page &&
           r->first - (m->first + m->pages) < shortest;
}

/* The run from the image's first page on if only a few are before it and the chunk has something
 * to map there. */
static struct run from_start(struct run r, size_t shortest)
{
    if (r.first >= shortest || r.chunk_page < r.first)
        return r;
    return (struct run){0, r.first + r.pages, r.chunk, r.chunk_page - r.first};
}

/* The same for its end. */
static struct run to_end(struct run r, size_t pages, size_t shortest)
{
    size_t missing = pages - (r.first + r.pages);
    if (missing < shortest && r.chunk->pages - (r.chunk_page + r.pages) >= missing)
        r.pages += missing;
    return r;
}

/* One open run is carried along: runs of the same chunk that continue it across short gaps
 * extend it. A run that is too short is left to be copied, unless its chunk goes on underneath
 * and the open run is no better. */
static int plan_runs(struct plan *p, const struct image *i, size_t shortest)
{
    size_t pages = ms_image_pages(i), live = 0;
    struct run open = {0}, r;
    for (size_t page = 0; page < pages; page = r.first + r.pages) {
        ms_image_run(i, page, pages, &r);
        if (!r.chunk || !can_map(r.chunk))
            continue;
        if (live && continues(&open, &r, shortest)) {
            open.pages = r.first + r.pages - open.first;
            live += r.pages;
        } else if (r.pages >= shortest ||
                   (live < shortest && r.chunk->pages - r.chunk_page >= shortest)) {
            int e = live >= shortest ? plan_add(p, open) : 0;
            if (e < 0)
                return e;
            open = from_start(r, shortest);
            live = r.pages;
        }
    }
    return live >= shortest || (live && live == pages) ? plan_add(p, to_end(open, pages, shortest))
                                                       : 0;
}

static int plan_make(struct plan *p, const struct image *i, unsigned flags)
{
    if (flags & MEMSNAP_VIEW_COPY)
        return 0;
    for (size_t shortest = SHORTEST_MAPPED;; shortest *= 2) {
        p->n = 0;
        int e = plan_runs(p, i, shortest);
        if (e < 0 || p->n <= MS_MAX_MAPPINGS)
            return e;
    }
}

/* The image that the planned mappings show. */
static int plan_image(const struct plan *p, struct image *i, struct image **out) MS_INSIDE
{
    struct image *zero;
    struct image_edit edit;
    struct run whole = {0};
    if (ms_image_pages(i))
        ms_image_run(i, 0, ms_image_pages(i), &whole);
    if (whole.pages == ms_image_pages(i) && p->n == (whole.chunk != NULL)) {
        *out = ms_image_ref(i);
        return 0;
    }
    int e = ms_image_zero(ms_image_pages(i), &zero);
    if (e < 0)
        return e;
    e = ms_image_edit_begin(&edit, zero);
    ms_image_unref(zero);
    if (e < 0)
        return e;
    for (size_t k = 0; k < p->n && e == 0; k++)
        e = ms_image_edit_set(&edit, &p->v[k]);
    if (e < 0) {
        ms_image_edit_abandon(&edit);
        return e;
    }
    struct image *mapped = ms_image_edit_finish(&edit);
    size_t first, n;
    if (!ms_image_differs(mapped, i, 0, ms_image_pages(i), &first, &n)) {
        ms_image_unref(mapped);
        mapped = ms_image_ref(i);
    }
    *out = mapped;
    return 0;
}

static bool plan_is_one(const struct plan *p, size_t pages)
{
    return p->n == 1 && p->v[0].first == 0 && p->v[0].pages == pages;
}

static bool adjoins(const struct run *a, const struct run *b, size_t page_size)
{
    return a->first + a->pages == b->first && a->chunk->store == b->chunk->store &&
           a->chunk->offset + (a->chunk_page + a->pages) * page_size ==
               b->chunk->offset + b->chunk_page * page_size;
}

/* Maps the runs over memory that is ours; neighbours in the store go in one call. Returns how
 * many of the plan's runs are mapped. */
static size_t plan_map(const struct plan *p, char *address, int *error)
{
    size_t ps = ms_os->page_size(), k = 0;
    *error = 0;
    while (k < p->n) {
        struct run r = p->v[k];
        size_t next = k + 1;
        while (next < p->n && adjoins(&r, &p->v[next], ps))
            r.pages += p->v[next++].pages;
        *error = ms_os->map_over(&r.chunk->store->object, r.chunk->offset + r.chunk_page * ps,
                                 address + r.first * ps, r.pages * ps, OS_PRIVATE);
        if (*error < 0)
            return k;
        k = next;
    }
    return k;
}

/* ---- copying in ------------------------------------------------------------------------------ */

/* Reads into the mapping, neighbours in the store in one system call: the cheapest way to make a
 * private page. */
struct reads {
    const struct store *store;
    uint64_t offset, len;
    size_t n;
    struct os_iov v[128];
};

/* v is not cleared: two KiB that hardly any opening needs. */
static void reads_begin(struct reads *r)
{
    r->n = 0;
    r->len = 0;
}

static int reads_flush(struct reads *r)
{
    int e = r->n ? ms_os->object_read(&r->store->object, r->v, r->n, r->offset) : 0;
    reads_begin(r);
    return e;
}

static int reads_add(struct reads *r, const struct chunk *c, uint64_t at, void *to, size_t len)
{
    bool follows = r->n && r->store == c->store && r->offset + r->len == c->offset + at;
    if (r->n && (!follows || r->n == sizeof r->v / sizeof r->v[0])) {
        int e = reads_flush(r);
        if (e < 0)
            return e;
    }
    if (!r->n) {
        r->store = c->store;
        r->offset = c->offset + at;
    }
    r->v[r->n++] = (struct os_iov){to, len};
    r->len += len;
    return 0;
}

static int copy_in(struct mapping *m, const struct image *i, size_t first, size_t pages,
                   struct reads *reads)
{
    size_t ps = ms_os->page_size();
    struct run r;
    int e = 0;
    for (size_t page = first; page < first + pages && e == 0; page = r.first + r.pages) {
        ms_image_run(i, page, first + pages, &r);
        char *to = ms_page_address(m, r.first);
        if (r.chunk && r.pages >= SHORTEST_MAPPED)
            ms_os->advise(to, r.pages * ps, OS_WILL_WRITE); /* 16 faults of 2.8 us otherwise */
        if (!r.chunk)
            memset(to, 0, r.pages * ps);
        else if (r.chunk->store->kind == STORE_HEAP)
            memcpy(to, r.chunk->window + r.chunk_page * ps, r.pages * ps);
        else
            e = reads_add(reads, r.chunk, r.chunk_page * ps, to, r.pages * ps);
        m->copied_pages += r.pages;
    }
    return e;
}

static int copy_where_differs(struct mapping *m, const struct image *i, size_t first, size_t end)
{
    struct reads reads;
    size_t pages;
    int e = 0;
    if (m->mapped == i || first >= end)
        return 0;
    reads_begin(&reads);
    while (e == 0 && ms_image_differs(m->mapped, i, first, end, &first, &pages)) {
        e = copy_in(m, i, first, pages, &reads);
        first += pages;
    }
    return e < 0 ? e : reads_flush(&reads);
}

int ms_mapping_copy_base(struct mapping *m, size_t first, size_t pages)
{
    return copy_where_differs(m, m->base, first, first + pages);
}

/* ---- opening and closing --------------------------------------------------------------------- */

int ms_mapping_prefault(struct mapping *m)
{
    int e = ms_os->populate(m->address, m->length);
    return e == -ENOTSUP ? 0 : e;
}

static size_t alignment(size_t length)
{
    size_t huge = ms_os->huge_size();
    return huge && length >= huge ? huge : ms_os->page_size();
}

static void renew_advice_of(struct mapping *m, void *address, size_t length)
{
    if (m->flags & MEMSNAP_VIEW_NODUMP)
        ms_os->advise(address, length, OS_NODUMP);
    if (m->no_fork)
        ms_os->advise(address, length, OS_NOFORK);
}

static void renew_advice(struct mapping *m)
{
    renew_advice_of(m, m->address, m->extent);
}

static int open_planned(struct mapping *m, const struct plan *p, void *at)
{
    void *address;
    int e;
    if (plan_is_one(p, m->pages) && !at) {
        const struct chunk *c = p->v[0].chunk;
        e = ms_os->map_new(&c->store->object, c->offset + p->v[0].chunk_page * ms_os->page_size(),
                           m->extent, alignment(m->length), OS_PRIVATE, &address);
        if (e == 0)
            m->address = address;
        return e;
    }
    e = ms_os->reserve(at, m->extent, alignment(m->length), &address);
    if (e < 0)
        return e;
    m->address = address;
    plan_map(p, m->address, &e);
    return e;
}

static void describe(struct mapping *m, size_t size, unsigned flags)
{
    size_t ps = ms_os->page_size();
    *m = (struct mapping){.size = size, .flags = flags};
    m->pages = size / ps + (size % ps != 0);
    m->length = m->extent = ms_max(m->pages, 1) * ps;
}

static int finish_open(struct mapping *m)
{
    int e = copy_where_differs(m, m->base, 0, m->pages);
    if (e < 0)
        return e;
    renew_advice(m);
    if (m->pages == 0)
        return ms_os->protect(m->address, m->length, MEMSNAP_ACCESS_NONE);
    if (m->flags & MEMSNAP_VIEW_PREFAULT)
        e = ms_mapping_prefault(m);
    return e;
}

int ms_mapping_open(struct mapping *m, struct image *i, size_t size, unsigned flags, void *at)
{
    struct plan plan;
    plan_begin(&plan);
    describe(m, size, flags);
    m->fixed = at != NULL;
    if (m->pages && !at)
        m->extent += ms_os->page_size();
    int e = plan_make(&plan, i, flags);
    if (e == 0)
        e = plan_image(&plan, i, &m->mapped);
    if (e == 0)
        e = open_planned(m, &plan, at);
    if (e == 0) {
        m->base = ms_image_ref(i);
        m->mappings = ms_max(plan.n, 1);
        e = finish_open(m);
    }
    plan_end(&plan);
    if (e < 0)
        ms_mapping_close(m);
    return e;
}

int ms_mapping_open_shared(struct mapping *m, struct chunk *c, struct image *i, size_t size,
                           unsigned flags, void *at)
{
    void *address;
    describe(m, size, flags);
    m->fixed = at != NULL;
    int e = ms_chunk_prepare_shared(c);
    if (e < 0)
        return e;
    if (!m->pages) {
        e = ms_os->reserve(at, m->length, ms_os->page_size(), &address);
    } else if (at) {
        e = ms_os->reserve(at, m->length, ms_os->page_size(), &address);
        if (e == 0 && (e = ms_os->map_over(&c->store->object, c->offset, address, m->length,
                                           OS_SHARED_WRITE)) < 0)
            ms_os->unmap(address, m->length);
    } else {
        e = ms_os->map_new(&c->store->object, c->offset, m->length, alignment(m->length),
                           OS_SHARED_WRITE, &address);
    }
    if (e < 0)
        return e;
    m->address = address;
    m->mappings = 1;
    m->mapped = ms_image_ref(i);
    m->base = ms_image_ref(i);
    m->no_fork = true;
    renew_advice(m);
    if (flags & MEMSNAP_VIEW_PREFAULT)
        e = ms_mapping_prefault(m);
    if (e < 0)
        ms_mapping_close(m);
    return e;
}

void ms_mapping_forget(struct mapping *m)
{
    ms_image_remember(&m->last_taken, NULL);
    ms_image_unref(m->base);
    ms_image_unref(m->mapped);
    ms_protections_free(&m->protections);
    ms_os->free(m->split);
    ms_policy_free(&m->policy);
    *m = (struct mapping){0};
}

void ms_mapping_close(struct mapping *m)
{
    if (m->address) {
        MS_UNPOISON(m->address, m->length);
        ms_os->unmap(m->address, m->extent);
    }
    ms_mapping_forget(m);
}

bool ms_mapping_is_intact(const struct mapping *m)
{
    return m->extent > m->length && ms_os->is_one_mapping(m->address, m->extent);
}

size_t ms_mapping_references(const struct mapping *m, const struct image *i)
{
    return (size_t)(m->mapped == i) + (size_t)(m->base == i);
}

void ms_mapping_set_base(struct mapping *m, struct image *i)
{
    struct image *old = m->base;
    m->base = ms_image_ref(i);
    ms_image_unref(old);
    ms_image_remember(&m->last_taken, NULL);
}

/* ---- exchanging ------------------------------------------------------------------------------ */

int ms_mapping_track(struct mapping *m)
{
    if (!(m->flags & MEMSNAP_VIEW_TRACK) || m->tracked || !m->pages)
        return 0;
    int e = ms_os->track(m->address, m->length);
    m->tracked = e == 0;
    return e;
}

void ms_mapping_untrack(struct mapping *m)
{
    if (m->tracked)
        ms_os->untrack(m->address, m->length);
    m->tracked = false;
}

/* On failure some kernels have unmapped the range by then. All its bytes are in the chunk. */
static int map_chunk(struct mapping *m, struct chunk *c, size_t first, size_t pages,
                     enum os_share how, enum os_share else_how, bool *refers)
{
    size_t ps = ms_os->page_size();
    uint64_t offset = c->offset + (uint64_t)first * ps;
    char *address = ms_page_address(m, first);
    int e = ms_os->map_over(&c->store->object, offset, address, pages * ps, how);
    *refers =
        e == 0 || ms_os->map_over(&c->store->object, offset, address, pages * ps, else_how) == 0;
    renew_advice_of(m, address, pages * ps);
    if (e < 0)
        ms_mapping_renew_protections(m);
    return e;
}

int ms_mapping_freeze(struct mapping *m, struct chunk *c, size_t pages)
{
    bool refers;
    return map_chunk(m, c, 0, pages, OS_PRIVATE, OS_SHARED_WRITE, &refers);
}

int ms_mapping_share(struct mapping *m, struct chunk *c, size_t first, size_t pages, bool *refers)
{
    return map_chunk(m, c, first, pages, OS_SHARED_WRITE, OS_PRIVATE, refers);
}

void ms_mapping_renew(struct mapping *m, struct chunk *c, size_t first, size_t pages)
{
    bool refers;
    if (map_chunk(m, c, first, pages, OS_SHARED_WRITE, OS_SHARED_WRITE, &refers) == 0)
        ms_mapping_renew_protections(m);
}

/* A new mapping has no boundaries, and is not tracked. */
static void forget_properties(struct mapping *m)
{
    m->tracked = false;
    ms_os->free(m->split);
    m->split = NULL;
    m->region_count = 0;
}

/* Runs of the plan that could not be mapped (the process ran out of mappings just now) are not in
 * `mapped`: they are copied. */
static int map_what_can_be(struct mapping *m, struct plan *p, struct image *i) MS_INSIDE
{
    struct image *mapped;
    int e;
    size_t n = plan_map(p, m->address, &e);
    if (n == p->n)
        return 0;
    p->n = n;
    e = plan_image(p, i, &mapped);
    if (e < 0)
        return e;
    ms_image_unref(m->mapped);
    m->mapped = mapped;
    return 0;
}

/* Replaces everything by zero pages, then maps the runs over them. From the first step on the
 * mapping is torn until all is done, and holds what is to be mapped: it may be cut short with
 * some of the runs there. */
static int exchange_in_steps(struct mapping *m, struct plan *p, struct image *i,
                             struct image *mapped) MS_INSIDE
{
    int e = ms_os->map_over(NULL, 0, m->address, m->length, OS_PRIVATE);
    if (e < 0)
        return e;
    m->torn = true;
    ms_image_unref(m->mapped);
    m->mapped = ms_image_ref(mapped);
    return map_what_can_be(m, p, i);
}

static int exchange_at_once(struct mapping *m, const struct plan *p, struct image *mapped) MS_INSIDE
{
    int e;
    plan_map(p, m->address, &e);
    if (e < 0)
        return e;
    m->torn = true;
    ms_image_unref(m->mapped);
    m->mapped = ms_image_ref(mapped);
    return 0;
}

int ms_mapping_exchange(struct mapping *m, struct image *i)
{
    struct plan plan;
    plan_begin(&plan);
    struct image *mapped = NULL;
    int e = plan_make(&plan, i, m->flags);
    if (e == 0)
        e = plan_image(&plan, i, &mapped);
    if (e == 0)
        e = plan_is_one(&plan, m->pages) ? exchange_at_once(m, &plan, mapped)
                                         : exchange_in_steps(m, &plan, i, mapped);
    if (m->torn) {
        forget_properties(m);
        renew_advice(m);
    }
    if (e == 0) {
        m->mappings = ms_max(plan.n, 1);
        m->remaps++;
        e = copy_where_differs(m, i, 0, m->pages);
        m->torn = e < 0;
    }
    ms_image_unref(mapped);
    plan_end(&plan);
    return e;
}

int ms_mapping_drop(struct mapping *m, size_t first, size_t pages)
{
    uintptr_t start = (uintptr_t)ms_page_address(m, first);
    struct os_range range = {.start = start, .end = start + pages * ms_os->page_size()};
    return ms_os->discard(&range, 1);
}

/* ---- protections ----------------------------------------------------------------------------- */

int ms_mapping_protect(struct mapping *m, size_t first, size_t pages, int access)
{
    int e = ms_protections_reserve(&m->protections);
    if (e < 0)
        return e;
    e = ms_os->protect(ms_page_address(m, first), pages * ms_os->page_size(), access);
    if (e == 0) {
        ms_protections_set(&m->protections, first, pages, access);
    } else {
        /* The system goes from mapping to mapping, and may have come to a part of them. */
        ms_os->protect(ms_page_address(m, first), pages * ms_os->page_size(),
                       MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE);
        ms_mapping_renew_protections(m);
    }
    return e;
}

int ms_mapping_unprotect(struct mapping *m)
{
    if (!m->protections.n)
        return 0;
    int e = ms_os->protect(m->address, m->length, MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE);
    if (e == 0)
        ms_protections_clear(&m->protections);
    return e;
}

static bool is_readable(const struct protection *p)
{
    return p->access & (MEMSNAP_ACCESS_READ | MEMSNAP_ACCESS_WRITE);
}

static int protect_range(struct mapping *m, const struct protection *p, int access)
{
    return ms_os->protect(ms_page_address(m, p->first), p->pages * ms_os->page_size(), access);
}

int ms_mapping_make_readable(struct mapping *m)
{
    int e = 0;
    for (size_t k = 0; k < m->protections.n && e == 0; k++) {
        const struct protection *p = &m->protections.v[k];
        if (!is_readable(p))
            e = protect_range(m, p, p->access | OS_ACCESS_LOOK);
    }
    if (e < 0)
        ms_mapping_reprotect(m);
    return e;
}

/* One protection for all of it takes no further mapping. */
static void hide(struct mapping *m)
{
    ms_os->protect(m->address, m->length, MEMSNAP_ACCESS_NONE);
    ms_protections_set(&m->protections, 0, m->pages, MEMSNAP_ACCESS_NONE);
}

static int put_back(struct mapping *m, bool all)
{
    int e = 0;
    for (size_t k = 0; k < m->protections.n && e == 0; k++) {
        const struct protection *p = &m->protections.v[k];
        if (all || !is_readable(p))
            e = protect_range(m, p, p->access);
    }
    if (e < 0)
        hide(m);
    return e;
}

int ms_mapping_reprotect(struct mapping *m)
{
    return put_back(m, false);
}

int ms_mapping_renew_protections(struct mapping *m)
{
    return put_back(m, true);
}
