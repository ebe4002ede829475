/* SPDX-License-Identifier: MIT */
/* The model; see model.h. Whatever may fail is called through attempt(): what an injected fault or
 * a shortage stops leaves outputs and contents alone. The call then is made again without, and
 * succeeds; or it is given up, and everything else goes on. */
#include "config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/fault.h"
#include "random/model.h"
#include "random/shortage.h"
#include "support/valid.h"

enum { SNAPSHOTS = 7, VIEWS = 8, EXPORTS = 3, DEPTH = 3 };

/* What a snapshot holds; its mutable view has a reference, too. */
struct content {
    size_t refs, size;
    unsigned char *now; /* round_up(size) bytes, the tail zero */
    bool leased;
    /* a fault met the closing of its mutable view: a child may not have what was stored */
    bool left_behind;
    int fd; /* of MEMSNAP_FILE_SHARED's file; -1: none */
};

struct snapshot {
    memsnap_snapshot *handle; /* NULL: a free slot */
    struct content *content;
    unsigned recycling; /* how many closed views may wait */
};

struct view {
    memsnap_view *handle;
    void *address;
    size_t size;
    unsigned char *base, *now; /* of an ordinary view: round_up(size) bytes, tail included */
    struct content *content;   /* of a mutable one */
    unsigned char *access;     /* per page */
    /* a restore was given up half way: protections are not known, nor, of an ordinary view, which
     * bytes are still those of before and which already those of `torn_to` */
    unsigned char *torn_to; /* round_up(size) bytes, or NULL */
};

/* A descriptor that was exported, and what is in it for ever. */
struct exported {
    int fd; /* -1: none */
    unsigned char *bytes;
    size_t size;
};

static struct snapshot snapshots[SNAPSHOTS];
static struct view views[VIEWS];
static struct model_plan plan;
static unsigned long steps;
static uint64_t patterns; /* so many were made */
static int depth;         /* of forks */
static struct exported exported[EXPORTS] = {{-1, NULL, 0}, {-1, NULL, 0}, {-1, NULL, 0}};
static struct content *saved; /* what is in the file that saves replace; NULL: there is none */
static unsigned long shortage_ends; /* at this step */
static struct model_counts counts;

static size_t below(size_t limit)
{
    return plan.choose(limit);
}

static bool one_in(size_t n)
{
    return below(n) == 0;
}

static unsigned char *new_pattern(size_t size)
{
    return pattern(size, ++patterns);
}

/* ---- faults and shortages -------------------------------------------------------------------- */

static bool given_up;  /* the last attempt was */
static bool explained; /* its first failure was, by a fault or the shortage */

/* Most calls make few operations: the first ones are the likeliest to fail. */
static void plan_fault(void)
{
    if (!plan.faults || !one_in(4))
        return;
    size_t n = below(64), first = (n % 32) * (n % 32) / 32;
    fault_arm(FAULT_ALL, first, n < 48 ? 1 : FAULT_FOR_EVER, one_in(4) ? -ENOMEM : FAULT_TYPICAL);
}

static void begin_call(void)
{
    counts.calls++;
    given_up = false;
    plan_fault();
    shortage_enter();
}

static void note_hidden(void);

/* True if a call with this result failed and a fault or the shortage may be why. */
static bool end_call(int result)
{
    size_t fired = plan.faults ? fault_fired() : 0;
    shortage_leave();
    fault_disarm();
    if (fired > 0 && fault_met(FAULT_PROTECT))
        note_hidden();
    return result < 0 && (fired > 0 || shortage_explains(result));
}

static bool is_explained(int result)
{
    return shortage_explains(result) || (plan.faults && fault_explains(result));
}

/* A call that cannot be told to fail for another reason is given up now and then. Else the shortage
 * ends: the call may need more than there is between calls. */
static bool give_up(void)
{
    counts.stopped++;
    given_up = explained && one_in(2);
    counts.given_up += given_up;
    if (!given_up)
        shortage_end();
    return given_up;
}

static void check_stopped(int result, int again)
{
    if (again != result && !explained)
        g_error("%s failed, and the call with another error: %d", fault_name(fault_last()), result);
}

/* r = call, which writes to `out` on success, or to nothing if that is UNTOUCHED. */
#define attempt(r, call, out)                                                                      \
    do {                                                                                           \
        begin_call();                                                                              \
        (r) = (call);                                                                              \
        if (end_call(r)) {                                                                         \
            int first_ = (r);                                                                      \
            g_assert_true((const void *)(out) == UNTOUCHED);                                       \
            explained = is_explained(r);                                                           \
            if (!give_up()) {                                                                      \
                (r) = (call);                                                                      \
                check_stopped(first_, r);                                                          \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* Succeeds, or is given up. */
#define succeed(call, out)                                                                         \
    do {                                                                                           \
        int r_;                                                                                    \
        attempt(r_, call, out);                                                                    \
        if (!given_up)                                                                             \
            assert_ok(r_);                                                                         \
    } while (0)

/* Calls that have no result, and may do less than they would. */
#define without_result(call)                                                                       \
    do {                                                                                           \
        begin_call();                                                                              \
        call;                                                                                      \
        end_call(0);                                                                               \
    } while (0)

/* ---- the model ------------------------------------------------------------------------------- */

static struct content *content_new(const void *data, size_t size)
{
    struct content *c = g_new(struct content, 1);
    *c = (struct content){.refs = 1, .size = size, .now = g_malloc0(round_up(size) + 1), .fd = -1};
    if (data)
        memcpy(c->now, data, size);
    return c;
}

static void content_unref(struct content *c)
{
    if (--c->refs)
        return;
    if (c->fd >= 0)
        close(c->fd);
    g_free(c->now);
    g_free(c);
}

static size_t view_pages(const struct view *v)
{
    return round_up(v->size) / page;
}

static const unsigned char *view_now(const struct view *v)
{
    return v->content ? v->content->now : v->now;
}

static struct snapshot *any_snapshot(void)
{
    size_t start = below(SNAPSHOTS);
    for (size_t i = 0; i < SNAPSHOTS; i++)
        if (snapshots[(start + i) % SNAPSHOTS].handle)
            return &snapshots[(start + i) % SNAPSHOTS];
    return NULL;
}

static struct view *any_view(void)
{
    size_t start = below(VIEWS);
    for (size_t i = 0; i < VIEWS; i++)
        if (views[(start + i) % VIEWS].handle)
            return &views[(start + i) % VIEWS];
    return NULL;
}

/* Often one that there is already: of another family then. */
static size_t any_size(void)
{
    const struct snapshot *s = one_in(2) ? any_snapshot() : NULL;
    return s ? s->content->size : plan.sizes[below(plan.n_sizes)];
}

static struct snapshot *snapshot_slot(void)
{
    for (int i = 0; i < SNAPSHOTS; i++)
        if (!snapshots[i].handle)
            return &snapshots[i];
    return NULL;
}

static struct view *view_slot(void)
{
    for (int i = 0; i < VIEWS; i++)
        if (!views[i].handle)
            return &views[i];
    return NULL;
}

/* Another one of the same size, if there is one. */
static struct snapshot *same_size(size_t size)
{
    size_t start = below(SNAPSHOTS);
    for (size_t i = 0; i < SNAPSHOTS; i++) {
        struct snapshot *s = &snapshots[(start + i) % SNAPSHOTS];
        if (s->handle && s->content->size == size)
            return s;
    }
    return NULL;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static void check_view_page(const struct view *v, size_t p)
{
    size_t offset = p * page, len = ms_min(page, v->size - offset);
    if (v->torn_to || v->access[p] == MEMSNAP_ACCESS_NONE)
        return;
    assert_same(bytes(v->handle) + offset, view_now(v) + offset, v->content ? len : page);
}

/* One line of /proc/self/maps: the protections of the view's pages that it is about. */
static void note_protections(const char *line, const struct view *v, char (*kernel)[4])
{
    uintptr_t start, end, from = (uintptr_t)v->address, to = from + view_pages(v) * page;
    char access[5];
    if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &start, &end, access) != 3)
        return;
    for (uintptr_t at = ms_max(start, from); at < ms_min(end, to); at += page)
        memcpy(kernel[(at - from) / page], access, 4);
}

/* What the kernel lets the program do with each page, four characters each; NULL: it does not tell,
 * or there is no page. */
static char (*protections(const struct view *v))[4]
{
    FILE *f = v->torn_to || v->size == 0 ? NULL : fopen("/proc/self/maps", "re");
    if (!f)
        return NULL;
    char(*kernel)[4] = g_malloc0(view_pages(v) * sizeof *kernel), line[512];
    while (fgets(line, sizeof line, f))
        note_protections(line, v, kernel);
    fclose(f);
    return kernel;
}

static void check_protections(const struct view *v)
{
    static const char *const expected[] = {[MEMSNAP_ACCESS_NONE] = "---",
                                           [MEMSNAP_ACCESS_READ] = "r--",
                                           [MEMSNAP_ACCESS_WRITE] = "rw-"};
    char(*kernel)[4] = protections(v);
    if (!kernel)
        return;
    for (size_t p = 0; p < view_pages(v); p++)
        if (memcmp(kernel[p], expected[v->access[p]], 3) != 0)
            g_error("page %zu of %zu is %.3s instead of %s", p, view_pages(v), kernel[p],
                    expected[v->access[p]]);
    g_free(kernel);
    counts.protections++;
}

/* Where protections could not be put back after a look, all of the view is hidden. */
static void note_hidden(void)
{
    for (int i = 0; i < VIEWS; i++) {
        char(*kernel)[4] = views[i].handle ? protections(&views[i]) : NULL;
        size_t hidden = 0;
        if (!kernel)
            continue;
        for (size_t p = 0; p < view_pages(&views[i]); p++)
            hidden += memcmp(kernel[p], "---", 3) == 0;
        if (hidden == view_pages(&views[i]))
            memset(views[i].access, MEMSNAP_ACCESS_NONE, hidden);
        g_free(kernel);
    }
}

static void check_view(const struct view *v)
{
    g_assert_true(memsnap_view_data(v->handle) == v->address);
    g_assert_cmpuint(memsnap_view_size(v->handle), ==, v->size);
    for (size_t p = 0; p < view_pages(v); p++)
        check_view_page(v, p);
}

/* Each byte is one of two. */
static void check_mixture(const unsigned char *is, const unsigned char *one,
                          const unsigned char *other, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (is[i] != one[i] && is[i] != other[i])
            g_error("byte %zu of %zu is neither what it was nor what it was to be", i, size);
}

static void check_snapshot(const struct snapshot *s)
{
    size_t size = s->content->size;
    unsigned char *copy = g_malloc(size + 1);
    g_assert_cmpuint(memsnap_snapshot_size(s->handle), ==, size);
    assert_ok(memsnap_snapshot_read(s->handle, 0, copy, size));
    assert_same(copy, s->content->now, size);
    g_free(copy);
}

/* The invariants of everything there is. */
static void check_inside(void)
{
    for (int i = 0; i < VIEWS; i++)
        if (views[i].handle)
            assert_valid_view(views[i].handle);
    for (int i = 0; i < SNAPSHOTS; i++)
        if (snapshots[i].handle)
            assert_valid_snapshot(snapshots[i].handle);
}

static void check_exported(const struct exported *e)
{
    unsigned char *copy = g_malloc(e->size + 1);
    if (e->fd >= 0) {
        g_assert_cmpint(pread(e->fd, copy, e->size + 1, 0), ==, (ssize_t)e->size);
        assert_same(copy, e->bytes, e->size);
    }
    g_free(copy);
}

/* Children have files of their own. */
static char *saved_path(void)
{
    char name[16];
    snprintf(name, sizeof name, "saved-%d", depth);
    return temp_path(name);
}

static void check_saved(void)
{
    char *path = saved_path(), *is = NULL;
    gsize size = 0;
    g_assert_cmpint(g_file_get_contents(path, &is, &size, NULL), ==, saved != NULL);
    if (saved) {
        g_assert_cmpuint(size, ==, saved->size);
        assert_same(is, saved->now, size);
    }
    g_free(is);
    g_free(path);
}

void model_check(void)
{
    for (int i = 0; i < VIEWS; i++)
        if (views[i].handle)
            check_view(&views[i]);
    for (int i = 0; i < VIEWS; i++)
        if (views[i].handle && shortage_now() != SHORTAGE_MAPPINGS)
            check_protections(&views[i]);
    for (int i = 0; i < SNAPSHOTS; i++)
        if (snapshots[i].handle)
            check_snapshot(&snapshots[i]);
    for (int i = 0; i < EXPORTS; i++)
        check_exported(&exported[i]);
    check_saved();
}

/* Where it looks is no choice of the plan's. */
static void check_sample(void)
{
    struct rng spot = {steps};
    for (int i = 0; i < VIEWS; i++) {
        const struct view *v = &views[i];
        if (v->handle && v->size > 0)
            check_view_page(v, rng_below(&spot, view_pages(v)));
    }
    const struct snapshot *s = &snapshots[rng_below(&spot, SNAPSHOTS)];
    if (!s->handle || s->content->size == 0)
        return;
    unsigned char buf[512];
    size_t offset = rng_below(&spot, s->content->size),
           len = ms_min(sizeof buf, s->content->size - offset);
    assert_ok(memsnap_snapshot_read(s->handle, offset, buf, len));
    assert_same(buf, s->content->now + offset, len);
}

static void check_clean_from(const unsigned char *x, const unsigned char *y, size_t size, size_t at)
{
    if (at < size)
        assert_same(x + at, y + at, size - at);
}

/* ---- operations on snapshots ----------------------------------------------------------------- */

/* Fills a free slot. */
static void snapshot_made(struct snapshot *s, memsnap_snapshot *handle, const void *data,
                          size_t size)
{
    s->handle = handle;
    s->content = content_new(data, size);
    s->recycling = 8;
}

/* A pattern with stretches of zeros. */
static unsigned char *some_data(size_t size)
{
    unsigned char *data = new_pattern(size);
    for (size_t i = below(4); i > 0 && size > 0; i--) {
        size_t at = below(size), len = ms_min(size - at, (1 + below(8)) * page);
        memset(data + at, 0, len);
    }
    return data;
}

static void op_new(void)
{
    struct snapshot *s = snapshot_slot();
    memsnap_snapshot *handle = UNTOUCHED;
    if (!s)
        return;
    size_t size = any_size();
    unsigned char *data = some_data(size);
    succeed(memsnap_snapshot_new(data, size, config.flags, &handle), handle);
    if (!given_up)
        snapshot_made(s, handle, data, size);
    g_free(data);
}

static void op_new_zeroed(void)
{
    struct snapshot *s = snapshot_slot();
    memsnap_snapshot *handle = UNTOUCHED;
    if (!s)
        return;
    size_t size = any_size();
    succeed(memsnap_snapshot_new_zeroed(size, config.flags, &handle), handle);
    if (!given_up)
        snapshot_made(s, handle, NULL, size);
}

static void op_clone(void)
{
    struct snapshot *from = any_snapshot(), *s = snapshot_slot();
    memsnap_snapshot *handle = UNTOUCHED;
    if (!from || !s)
        return;
    succeed(memsnap_snapshot_clone(from->handle, &handle), handle);
    if (!given_up)
        snapshot_made(s, handle, from->content->now, from->content->size);
}

static void op_drop(void)
{
    struct snapshot *s = any_snapshot();
    if (!s)
        return;
    without_result(memsnap_snapshot_unref(s->handle));
    content_unref(s->content);
    *s = (struct snapshot){NULL, NULL, 0};
}

static void op_references(void)
{
    struct snapshot *s = any_snapshot();
    struct view *v = any_view();
    if (s)
        memsnap_snapshot_unref(memsnap_snapshot_ref(s->handle));
    if (v)
        memsnap_view_unref(memsnap_view_ref(v->handle));
}

static void op_recycling(void)
{
    const unsigned limits[] = {0, 1, 8, 100};
    struct snapshot *s = any_snapshot();
    if (!s)
        return;
    s->recycling = limits[below(4)];
    without_result(assert_ok(memsnap_snapshot_set_recycling(s->handle, s->recycling)));
}

static void op_read(void)
{
    struct snapshot *s = any_snapshot();
    if (s)
        check_snapshot(s);
}

static void op_diff(void)
{
    struct snapshot *a = any_snapshot();
    struct snapshot *b = a ? same_size(a->content->size) : NULL;
    struct memsnap_range ranges[5];
    size_t cursor = 0, at = 0, max = 1 + below(5);
    if (!b)
        return;
    const unsigned char *x = a->content->now, *y = b->content->now;
    for (;;) {
        int n;
        attempt(n, memsnap_snapshot_diff(a->handle, b->handle, &cursor, ranges, max), UNTOUCHED);
        if (given_up)
            return;
        g_assert_cmpint(n, >=, 0);
        if (n == 0)
            break;
        check_ranges(ranges, n, x, y, a->content->size, &at);
    }
    check_clean_from(x, y, a->content->size, at);
}

static void check_snapshot_stats(const struct snapshot *s)
{
    struct memsnap_snapshot_stats st = {.size = sizeof st};
    size_t pages = round_up(s->content->size) / page;
    succeed(memsnap_snapshot_stats(s->handle, &st), UNTOUCHED);
    if (given_up)
        return;
    g_assert_cmpuint(st.size, ==, sizeof st);
    g_assert_cmpuint(st.exclusive_bytes, <=, st.stored_bytes);
    g_assert_cmpuint(st.stored_bytes % page + st.exclusive_bytes % page, ==, 0);
    g_assert_cmpuint(st.chunks, <=, st.extents);
    g_assert_cmpuint(st.chunks * page, <=, st.stored_bytes);
    g_assert_cmpuint(st.extents, <=, pages);
    g_assert_cmpuint(st.parked_views, <=, s->recycling);
    g_assert_nonnull(st.backend);
    if (config.flags & MEMSNAP_NO_FD)
        g_assert_true(strcmp(st.backend, "heap") == 0 || strcmp(st.backend, "none") == 0);
}

static void check_view_stats(const struct view *v)
{
    struct memsnap_view_stats st = {.size = sizeof st};
    size_t len = ms_max(round_up(v->size), page);
    succeed(memsnap_view_stats(v->handle, &st), UNTOUCHED);
    if (given_up)
        return;
    g_assert_cmpuint(st.size, ==, sizeof st);
    g_assert_cmpuint(st.private_bytes, <=, len);
    g_assert_cmpuint(st.mapped_bytes, <=, len);
    g_assert_cmpuint(st.mappings, >=, 1);
    g_assert_nonnull(st.dirty_source);
}

static void op_stats(void)
{
    struct snapshot *s = any_snapshot();
    struct view *v = any_view();
    if (s)
        check_snapshot_stats(s);
    if (v)
        check_view_stats(v);
}

/* ---- operations on views --------------------------------------------------------------------- */

static void view_opened(struct view *v, memsnap_view *handle, struct content *c, bool mutable)
{
    size_t len = round_up(c->size);
    *v = (struct view){.handle = handle, .address = memsnap_view_data(handle), .size = c->size};
    v->access = g_malloc(len / page + 1);
    memset(v->access, MEMSNAP_ACCESS_WRITE, len / page + 1);
    if (mutable) {
        v->content = c;
        c->refs++;
        c->leased = true;
    } else {
        v->base = g_memdup2(c->now, len + 1);
        v->now = g_memdup2(c->now, len + 1);
    }
    g_assert_true(all_zero(bytes(handle) + c->size, len - c->size));
}

static void op_view(void)
{
    struct snapshot *s = any_snapshot();
    struct view *v = view_slot();
    memsnap_view *handle = UNTOUCHED;
    if (!s || !v)
        return;
    unsigned flags = one_in(2) ? (unsigned)below(8) : 0;
    void *at = one_in(8) ? free_address(s->content->size + page) : NULL;
    if (at)
        succeed(memsnap_snapshot_view_at(s->handle, at, flags, &handle), handle);
    else
        succeed(memsnap_snapshot_view(s->handle, flags, &handle), handle);
    if (given_up)
        return;
    view_opened(v, handle, s->content, false);
    check_protections(v);
    if (one_in(4))
        check_view(v);
}

static void op_view_mut(void)
{
    struct snapshot *s = any_snapshot();
    struct view *v = view_slot();
    memsnap_view *handle = UNTOUCHED;
    if (!s || !v)
        return;
    void *at = one_in(8) ? free_address(s->content->size + page) : NULL;
    unsigned flags = one_in(6)                         ? MEMSNAP_VIEW_PINNABLE
                     : s->content->fd < 0 && one_in(2) ? tracking()
                                                       : 0;
    int r;
    if (at)
        attempt(r, memsnap_snapshot_view_at(s->handle, at, MEMSNAP_VIEW_MUTABLE | flags, &handle),
                handle);
    else
        attempt(r, memsnap_snapshot_view_mut(s->handle, flags, &handle), handle);
    if (given_up)
        return;
    if (s->content->leased) {
        assert_refused(r, -EBUSY, handle);
        return;
    }
    assert_ok(r);
    view_opened(v, handle, s->content, true);
    if (one_in(4))
        check_view(v);
}

static void view_closed(struct view *v)
{
    if (v->content) {
        v->content->leased = false;
        content_unref(v->content);
    }
    g_free(v->base);
    g_free(v->now);
    g_free(v->access);
    g_free(v->torn_to);
    *v = (struct view){.handle = NULL};
}

static void op_close(void)
{
    struct view *v = any_view();
    if (!v)
        return;
    without_result(memsnap_view_unref(v->handle));
    if (v->content && plan.faults && fault_fired() > 0)
        v->content->left_behind = true;
    view_closed(v);
}

/* Stores [at, at + len) page by page, where the pages may be written. */
static void store(struct view *v, size_t at, const unsigned char *from, size_t len)
{
    unsigned char *now = v->content ? v->content->now : v->now;
    while (len > 0) {
        size_t n = ms_min(len, page - at % page);
        if (v->access[at / page] == MEMSNAP_ACCESS_WRITE) {
            memcpy(now + at, from, n);
            memcpy(bytes(v->handle) + at, from, n);
        }
        at += n;
        from += n;
        len -= n;
    }
}

/* A burst of stores: lone bytes, runs, zeros, and in an ordinary view now and then beyond the
 * size. */
static void op_store(void)
{
    struct view *v = any_view();
    if (!v || v->size == 0 || v->torn_to)
        return;
    size_t limit = v->content || !one_in(8) ? v->size : round_up(v->size);
    for (size_t i = 1 + below(one_in(10) ? 100 : 6); i > 0; i--) {
        size_t at = below(limit), len = 1 + below(one_in(3) ? 1 : (one_in(10) ? 40 : 2) * page);
        len = ms_min(len, limit - at);
        unsigned char *data = new_pattern(len);
        if (one_in(5))
            memset(data, 0, len);
        store(v, at, data, len);
        g_free(data);
    }
}

/* What is as it was is not dirty: write the base's bytes back, or those of another snapshot. */
static void op_store_back(void)
{
    struct view *v = any_view();
    if (!v || v->size == 0 || v->torn_to)
        return;
    struct snapshot *s = same_size(v->size);
    const unsigned char *from = v->base && (!s || one_in(2)) ? v->base : s ? s->content->now : NULL;
    if (!from)
        return;
    size_t at = one_in(2) ? below(v->size) : below(view_pages(v)) * page;
    store(v, at, from + at, ms_min(v->size - at, (1 + below(20)) * page));
}

/* What a half restored view holds is told by what is taken from it: bytes of before and after. */
static void torn_view_taken(struct snapshot *s, memsnap_snapshot *handle, const struct view *v)
{
    unsigned char *is = g_malloc0(round_up(v->size) + 1);
    assert_ok(memsnap_snapshot_read(handle, 0, is, v->size));
    check_mixture(is, v->now, v->torn_to, v->size);
    snapshot_made(s, handle, is, v->size);
    g_free(is);
}

static void op_take(void)
{
    struct view *v = any_view();
    struct snapshot *s = snapshot_slot();
    if (!v || !s)
        return;
    memsnap_snapshot *handle = UNTOUCHED;
    unsigned flags = one_in(6) ? MEMSNAP_TAKE_ATOMIC : 0;
    int r;
    attempt(r, memsnap_view_take_snapshot(v->handle, flags, &handle), handle);
    if (given_up || (r == -ENOTSUP && flags) || (r == -EIO && v->torn_to && !v->content))
        return;
    assert_ok(r);
    if (v->torn_to && !v->content)
        torn_view_taken(s, handle, v);
    else
        snapshot_made(s, handle, view_now(v), v->size);
}

/* An ordinary view holds what `to` holds from now on, and has it as its base. */
static void ordinary_restored(struct view *v, const unsigned char *to)
{
    size_t len = round_up(v->size);
    if (to != v->base)
        memcpy(v->base, to, len);
    memcpy(v->now, v->base, len);
}

static void view_restored(struct view *v)
{
    memset(v->access, MEMSNAP_ACCESS_WRITE, view_pages(v) + 1);
    g_free(v->torn_to);
    v->torn_to = NULL;
    if (one_in(4))
        check_view(v);
    if (one_in(4))
        check_protections(v);
}

/* The first restore that was given up tells what the bytes may be. After a second one they may be
 * of three kinds, which is not worth a model: then it is made again without a fault. */
static bool tear(struct view *v, const unsigned char *to)
{
    if (v->torn_to)
        return false;
    v->torn_to = g_memdup2(to, round_up(v->size) + 1);
    counts.torn++;
    return true;
}

static void op_restore(void)
{
    struct view *v = any_view();
    if (!v)
        return;
    succeed(memsnap_view_restore(v->handle), UNTOUCHED);
    if (given_up && tear(v, v->content ? v->content->now : v->base))
        return;
    if (given_up)
        assert_ok(memsnap_view_restore(v->handle));
    if (!v->content)
        ordinary_restored(v, v->base);
    view_restored(v);
}

/* The snapshot may be partly the one and partly the other now. Once the view is closed it can be
 * read, whatever it has become. */
static void rolled_back_half(struct view *v, struct snapshot *to)
{
    struct content *c = v->content;
    struct snapshot *s = NULL;
    for (int i = 0; i < SNAPSHOTS; i++)
        if (snapshots[i].handle && snapshots[i].content == c)
            s = &snapshots[i];
    if (!s || one_in(2)) {
        assert_ok(memsnap_view_restore_to(v->handle, to->handle));
        memmove(c->now, to->content->now, round_up(v->size));
        view_restored(v);
        return;
    }
    unsigned char *is = g_malloc0(round_up(c->size) + 1);
    int r = memsnap_snapshot_read(s->handle, 0, is, c->size);
    g_assert_true(r == 0 || r == -EIO);
    memsnap_view_unref(v->handle);
    view_closed(v);
    assert_ok(memsnap_snapshot_read(s->handle, 0, is, c->size));
    check_mixture(is, c->now, to->content->now, c->size);
    if (r == -EIO)
        assert_same(is, to->content->now, c->size);
    memcpy(c->now, is, c->size);
    g_free(is);
    counts.torn++;
}

static void op_restore_to(void)
{
    struct view *v = any_view();
    struct snapshot *s = v ? same_size(v->size) : NULL;
    if (!s)
        return;
    succeed(memsnap_view_restore_to(v->handle, s->handle), UNTOUCHED);
    if (given_up && v->content) {
        rolled_back_half(v, s);
        return;
    }
    if (given_up && tear(v, s->content->now))
        return;
    if (given_up)
        assert_ok(memsnap_view_restore_to(v->handle, s->handle));
    if (v->content)
        memmove(v->content->now, s->content->now, round_up(v->size));
    else
        ordinary_restored(v, s->content->now);
    view_restored(v);
}

/* Whether it can be done depends on who refers to what; no byte changes. */
static void op_thaw(void)
{
    struct view *v = any_view();
    unsigned flags = one_in(2) ? MEMSNAP_THAW_LIVE : 0;
    int r;
    if (!v)
        return;
    attempt(r, memsnap_view_thaw(v->handle, flags, one_in(2) ? SIZE_MAX : 1 + below(4 * MIB)),
            UNTOUCHED);
    if (!v->content)
        g_assert_cmpint(r, ==, -EINVAL);
    else if (!given_up && v->content->fd >= 0)
        assert_ok(r);
    else if (!given_up)
        g_assert_true(r == 0 || r == 1 || r == -EBUSY || r == -ENOTSUP);
    if (given_up || one_in(4))
        check_view(v);
}

static void op_protect(void)
{
    const int accesses[] = {MEMSNAP_ACCESS_NONE, MEMSNAP_ACCESS_READ, MEMSNAP_ACCESS_WRITE};
    struct view *v = any_view();
    if (!v || v->size == 0 || v->torn_to)
        return;
    size_t first = below(view_pages(v)), n = 1 + below(ms_min(view_pages(v) - first, 10));
    int access = accesses[below(3)];
    succeed(memsnap_view_protect(v->handle, first * page, ms_min(n * page, v->size - first * page),
                                 access),
            UNTOUCHED);
    if (!given_up)
        memset(v->access + first, access, n);
    if (given_up || one_in(4))
        check_protections(v);
}

static void op_dirty(void)
{
    struct view *v = any_view();
    struct memsnap_range ranges[5];
    size_t cursor = 0, at = 0, max = 1 + below(5);
    if (!v || v->torn_to)
        return;
    const unsigned char *now = view_now(v), *base = v->content ? now : v->base;
    for (;;) {
        int n;
        attempt(n, memsnap_view_dirty(v->handle, &cursor, ranges, max), UNTOUCHED);
        if (given_up)
            return;
        g_assert_cmpint(n, >=, 0);
        if (n == 0)
            break;
        check_ranges(ranges, n, now, base, v->size, &at);
    }
    check_clean_from(now, base, v->size, at);
}

/* ---- operations with files and descriptors --------------------------------------------------- */

/* A snapshot whose content is in the file, which nobody else has: by its name, or by a
 * descriptor. */
static void op_new_from_file(void)
{
    const unsigned ways[] = {0, MEMSNAP_HUGE_NEVER, MEMSNAP_FILE_MAP, MEMSNAP_FILE_SHARED};
    struct snapshot *s = snapshot_slot();
    memsnap_snapshot *handle = UNTOUCHED;
    if (!s)
        return;
    size_t size = any_size();
    unsigned flags = config.flags | ways[below(config.flags & MEMSNAP_NO_FD ? 2 : 4)];
    unsigned char *data = some_data(size);
    char *path = temp_file("model", data, size);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (one_in(2))
        succeed(memsnap_snapshot_new_from_file(path, flags, &handle), handle);
    else
        succeed(memsnap_snapshot_new_from_fd(fd, flags, &handle), handle);
    unlink(path);
    if (!given_up)
        snapshot_made(s, handle, data, size);
    if (!given_up && flags & MEMSNAP_FILE_SHARED)
        s->content->fd = fd;
    else
        close(fd);
    g_free(path);
    g_free(data);
}

static void op_flush(void)
{
    struct view *v = any_view();
    if (!v)
        return;
    if (!v->content || v->content->fd < 0) {
        g_assert_cmpint(memsnap_view_flush(v->handle, 0, 0), ==, -EINVAL);
        return;
    }
    size_t at = v->size ? below(v->size) : 0;
    unsigned char *copy = g_malloc(v->size + 1);
    succeed(memsnap_view_flush(v->handle, at, v->size - at), UNTOUCHED);
    /* the stores are in the file whether or not they are durable */
    g_assert_cmpint(pread(v->content->fd, copy, v->size + 1, 0), ==, (ssize_t)v->size);
    assert_same(copy, v->content->now, v->size);
    g_free(copy);
}

/* Over the file of an earlier save, which is there until the new one is. */
static void op_save(void)
{
    struct snapshot *from = any_snapshot();
    if (!from)
        return;
    char *path = saved_path();
    unsigned flags = MEMSNAP_SAVE_NOSYNC | (one_in(4) ? MEMSNAP_SAVE_EXCL : 0);
    int r;
    attempt(r, memsnap_snapshot_save(from->handle, path, flags), UNTOUCHED);
    if (!given_up && flags & MEMSNAP_SAVE_EXCL && saved) {
        g_assert_cmpint(r, ==, -EEXIST);
    } else if (!given_up) {
        assert_ok(r);
        if (saved)
            content_unref(saved);
        saved = content_new(from->content->now, from->content->size);
    }
    check_saved();
    if (saved && one_in(4)) {
        content_unref(saved);
        saved = NULL;
        unlink(path);
    }
    g_free(path);
}

static void op_load(void)
{
    const unsigned ways[] = {0, MEMSNAP_FILE_MAP};
    struct snapshot *s = snapshot_slot();
    memsnap_snapshot *handle = UNTOUCHED;
    if (!saved || !s)
        return;
    char *path = saved_path();
    unsigned flags = config.flags | ways[config.flags & MEMSNAP_NO_FD ? 0 : below(2)];
    succeed(memsnap_snapshot_new_from_file(path, flags, &handle), handle);
    if (!given_up)
        snapshot_made(s, handle, saved->now, saved->size);
    g_free(path);
}

/* One link of a chain: what the file makes of `base`, which holds the bytes of `of`; or NULL. */
static memsnap_snapshot *over_delta(const struct snapshot *from, const struct snapshot *of,
                                    memsnap_snapshot *base)
{
    memsnap_snapshot *handle = UNTOUCHED;
    char *path = temp_path("delta");
    succeed(memsnap_snapshot_save_delta(from->handle, of->handle, path, MEMSNAP_SAVE_NOSYNC),
            UNTOUCHED);
    if (!given_up)
        succeed(memsnap_snapshot_load_delta(base, path, 0, &handle), handle);
    unlink(path);
    g_free(path);
    return given_up ? NULL : handle;
}

/* Deltas of deltas, up to three; on a base of another family that holds the same bytes, or on the
 * snapshot that they were made against. */
static void op_delta(void)
{
    struct snapshot *of = any_snapshot(), *s = snapshot_slot(), *from = NULL;
    memsnap_snapshot *base;
    if (!of || !s)
        return;
    if (one_in(2))
        base = memsnap_snapshot_ref(of->handle);
    else
        assert_ok(memsnap_snapshot_new(of->content->now, of->content->size, config.flags, &base));
    for (size_t links = 1 + below(3); links > 0; links--) {
        from = same_size(of->content->size);
        memsnap_snapshot *next = over_delta(from, of, base);
        memsnap_snapshot_unref(base);
        if (!next)
            return;
        base = next;
        of = from;
    }
    snapshot_made(s, base, from->content->now, from->content->size);
}

static void keep_exported(int fd, const struct content *c)
{
    struct exported *e = &exported[below(EXPORTS)];
    check_exported(e);
    if (e->fd >= 0)
        close(e->fd);
    g_free(e->bytes);
    *e = (struct exported){fd, g_memdup2(c->now, c->size + 1), c->size};
}

static void op_export(void)
{
    struct snapshot *from = any_snapshot();
    int fd = -1, r;
    if (!from)
        return;
    attempt(r, memsnap_snapshot_export_fd(from->handle, &fd), UNTOUCHED);
    if (given_up || r == -ENOTSUP) {
        g_assert_cmpint(fd, ==, -1);
        return;
    }
    assert_ok(r);
    keep_exported(fd, from->content);
}

static void op_adopt(void)
{
    struct snapshot *s = snapshot_slot();
    const struct exported *e = &exported[below(EXPORTS)];
    memsnap_snapshot *handle = UNTOUCHED;
    if (e->fd < 0 || !s)
        return;
    succeed(memsnap_snapshot_new_from_fd(e->fd, config.flags, &handle), handle);
    if (!given_up)
        snapshot_made(s, handle, e->bytes, e->size);
}

/* Closed and opened again with the same flags, whatever was done to it before: as new. */
static void op_recycle(void)
{
    struct snapshot *s = any_snapshot();
    unsigned flags = (unsigned)below(8);
    if (!s)
        return;
    for (size_t i = 1 + below(4); i > 0; i--) {
        struct view v;
        memsnap_view *handle = UNTOUCHED;
        succeed(memsnap_snapshot_view(s->handle, flags, &handle), handle);
        if (given_up)
            return;
        view_opened(&v, handle, s->content, false);
        check_view(&v);
        check_protections(&v);
        if (v.size > 0) {
            size_t at = below(v.size);
            memset(bytes(handle) + at, 1, ms_min(v.size - at, (1 + below(400)) * page));
            memsnap_view_protect(handle, at / page * page, page, MEMSNAP_ACCESS_READ);
        }
        without_result(memsnap_view_unref(handle));
        view_closed(&v);
    }
}

/* From now on calls are made in a shortage, for some time. */
static void op_shortage(void)
{
    if (!plan.shortages || shortage_now() != SHORTAGE_NONE)
        return;
    enum shortage which = (enum shortage)(1 + below(SHORTAGES - 1));
    size_t left = which != SHORTAGE_MAPPINGS && one_in(3) ? below(600) : below(12);
    if (!shortage_begin(which, left))
        return;
    shortage_ends = steps + 10 + below(60);
    counts.shortages++;
}

/* ---- the run --------------------------------------------------------------------------------- */

static void op_fork(void);

static const struct {
    void (*run)(void);
    size_t weight;
} operations[] = {
    {op_new, 4},       {op_new_zeroed, 2}, {op_clone, 4},   {op_drop, 7},     {op_references, 2},
    {op_recycling, 2}, {op_read, 3},       {op_diff, 4},    {op_stats, 3},    {op_view, 12},
    {op_view_mut, 6},  {op_close, 10},     {op_store, 40},  {op_take, 10},    {op_store_back, 8},
    {op_restore, 10},  {op_restore_to, 8}, {op_protect, 5}, {op_dirty, 8},    {op_new_from_file, 2},
    {op_flush, 1},     {op_save, 2},       {op_load, 1},    {op_delta, 2},    {op_export, 2},
    {op_adopt, 2},     {op_recycle, 2},    {op_fork, 1},    {op_shortage, 5}, {op_thaw, 8},
};

static void one_operation(void)
{
    size_t weights = 0, i = 0;
    for (size_t k = 0; k < G_N_ELEMENTS(operations); k++)
        weights += operations[k].weight;
    size_t n = below(weights);
    while (n >= operations[i].weight)
        n -= operations[i++].weight;
    operations[i].run();
}

static void drop_files(void)
{
    char *path = saved_path();
    for (int i = 0; i < EXPORTS; i++) {
        if (exported[i].fd >= 0)
            close(exported[i].fd);
        g_free(exported[i].bytes);
        exported[i] = (struct exported){-1, NULL, 0};
    }
    if (saved)
        content_unref(saved);
    saved = NULL;
    unlink(path);
    g_free(path);
}

void model_end(void)
{
    shortage_end();
    drop_files();
    for (int i = 0; i < VIEWS; i++) {
        struct view *v = &views[i];
        memsnap_view_unref(v->handle);
        view_closed(v);
    }
    for (int i = 0; i < SNAPSHOTS; i++) {
        struct snapshot *s = &snapshots[i];
        memsnap_snapshot_unref(s->handle);
        if (s->handle)
            content_unref(s->content);
        *s = (struct snapshot){NULL, NULL, 0};
    }
}

static bool is_left_behind(const struct snapshot *s)
{
    memsnap_snapshot *t = NULL;
    if (s->content->leased || s->content->fd >= 0)
        return true;
    if (!s->content->left_behind)
        return false;
    int r = memsnap_snapshot_clone(s->handle, &t);
    g_assert_true(r == 0 || r == -EBADF);
    memsnap_snapshot_unref(t);
    return r < 0;
}

/* In the child everything is as it was, but for the mutable views, which are not inherited, and
 * their snapshots. Files that the parent stores to are left to it. */
static void in_child(void *arg)
{
    (void)arg;
    depth++;
    if (saved)
        content_unref(saved);
    saved = NULL;
    for (int i = 0; i < VIEWS; i++) {
        struct view *v = &views[i];
        memsnap_snapshot *out = UNTOUCHED;
        if (!v->handle || !v->content)
            continue;
        assert_refused(memsnap_view_take_snapshot(v->handle, 0, &out), -EBADF, out);
        memsnap_view_unref(v->handle);
        v->handle = NULL;
        content_unref(v->content);
        v->content = NULL;
        g_free(v->access);
        g_free(v->torn_to);
        v->access = v->torn_to = NULL;
    }
    for (int i = 0; i < SNAPSHOTS; i++) {
        struct snapshot *s = &snapshots[i];
        if (!s->handle || !is_left_behind(s))
            continue;
        memsnap_snapshot_unref(s->handle);
        content_unref(s->content);
        *s = (struct snapshot){NULL, NULL, 0};
    }
    model_check();
    for (int i = 0; i < 40; i++)
        model_step();
    model_check();
    model_end();
}

static void op_fork(void)
{
    if (!plan.forks || depth == DEPTH || (depth == 0 && !one_in(4)))
        return;
    counts.forks++;
    child_run(in_child, NULL);
    model_check();
}

void model_start(const struct model_plan *p)
{
    plan = *p;
    steps = 0;
    patterns = 0;
    counts = (struct model_counts){0};
    for (int i = 0; i < 3; i++)
        op_new();
}

struct model_counts model_counts(void)
{
    return counts;
}

void model_step(void)
{
    one_operation();
    check_inside();
    steps++;
    if (shortage_now() != SHORTAGE_NONE && steps >= shortage_ends)
        shortage_end();
    check_sample();
}
