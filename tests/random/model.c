/* The model; see model.h. Whatever may fail is called through attempt(): a fault then leaves
 * outputs and contents alone, and the call succeeds when it is made again. */
#include "config.h"

#include <fcntl.h>
#include <unistd.h>

#include "support/fault.h"
#include "random/model.h"
#include "support/valid.h"

enum { SNAPSHOTS = 7, VIEWS = 8 };

/* What a snapshot holds; its mutable view has a reference, too. */
struct content {
    size_t refs, size;
    unsigned char *now; /* round_up(size) bytes, the tail zero */
    bool leased;
    int fd; /* of MEMSNAP_FILE_SHARED's file; -1: none */
};

struct snapshot {
    memsnap_snapshot *handle; /* NULL: a free slot */
    struct content *content;
};

struct view {
    memsnap_view *handle;
    void *address;
    size_t size;
    unsigned char *base, *now; /* of an ordinary view: round_up(size) bytes, tail included */
    struct content *content;   /* of a mutable one */
    unsigned char *access;     /* per page */
};

static struct snapshot snapshots[SNAPSHOTS];
static struct view views[VIEWS];
static struct model_plan plan;
static unsigned long steps;
static uint64_t patterns; /* so many were made */
static bool in_a_child;

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

static size_t any_size(void)
{
    return plan.sizes[below(plan.n_sizes)];
}

/* ---- faults ---------------------------------------------------------------------------------- */

static void plan_fault(void)
{
    if (!plan.faults || !one_in(8))
        return;
    size_t n = below(64);
    fault_arm(FAULT_ALL, n % 32, n < 48 ? 1 : FAULT_FOR_EVER, one_in(4) ? -ENOMEM : FAULT_TYPICAL);
}

/* True if a call with this result failed and a fault may be why. */
static bool fault_stopped(int result)
{
    size_t fired = plan.faults ? fault_fired() : 0;
    fault_disarm();
    return result < 0 && fired > 0;
}

static void check_stopped(int result, const void *out, int again)
{
    g_assert_true(out == UNTOUCHED);
    if (again != result && !fault_explains(result))
        g_error("%s failed, and the call with another error: %d", fault_name(fault_last()), result);
}

/* r = call, which writes to `out` on success, or to nothing if that is UNTOUCHED. */
#define attempt(r, call, out)                                                                      \
    do {                                                                                           \
        plan_fault();                                                                              \
        (r) = (call);                                                                              \
        if (fault_stopped(r)) {                                                                    \
            int first_ = (r);                                                                      \
            const void *then_ = (out);                                                             \
            (r) = (call);                                                                          \
            check_stopped(first_, then_, r);                                                       \
        }                                                                                          \
    } while (0)

#define succeed(call, out)                                                                         \
    do {                                                                                           \
        int r_;                                                                                    \
        attempt(r_, call, out);                                                                    \
        assert_ok(r_);                                                                             \
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
    if (v->access[p] == MEMSNAP_ACCESS_NONE)
        return;
    assert_same(bytes(v->handle) + offset, view_now(v) + offset, v->content ? len : page);
}

static void check_view(const struct view *v)
{
    g_assert_true(memsnap_view_data(v->handle) == v->address);
    g_assert_cmpuint(memsnap_view_size(v->handle), ==, v->size);
    for (size_t p = 0; p < view_pages(v); p++)
        check_view_page(v, p);
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

void model_check(void)
{
    for (int i = 0; i < VIEWS; i++)
        if (views[i].handle)
            check_view(&views[i]);
    for (int i = 0; i < SNAPSHOTS; i++)
        if (snapshots[i].handle)
            check_snapshot(&snapshots[i]);
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
    snapshot_made(s, handle, NULL, size);
}

static void op_clone(void)
{
    struct snapshot *from = any_snapshot(), *s = snapshot_slot();
    memsnap_snapshot *handle = UNTOUCHED;
    if (!from || !s)
        return;
    succeed(memsnap_snapshot_clone(from->handle, &handle), handle);
    snapshot_made(s, handle, from->content->now, from->content->size);
}

static void op_drop(void)
{
    struct snapshot *s = any_snapshot();
    if (!s)
        return;
    plan_fault();
    memsnap_snapshot_unref(s->handle);
    fault_disarm();
    content_unref(s->content);
    *s = (struct snapshot){NULL, NULL};
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
    if (s)
        succeed(memsnap_snapshot_set_recycling(s->handle, limits[below(4)]), UNTOUCHED);
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
        g_assert_cmpint(n, >=, 0);
        if (n == 0)
            break;
        check_ranges(ranges, n, x, y, a->content->size, &at);
    }
    check_clean_from(x, y, a->content->size, at);
}

static void op_stats(void)
{
    struct snapshot *s = any_snapshot();
    struct view *v = any_view();
    if (s) {
        struct memsnap_snapshot_stats st = {.size = sizeof st};
        succeed(memsnap_snapshot_stats(s->handle, &st), UNTOUCHED);
        g_assert_cmpuint(st.exclusive_bytes, <=, st.stored_bytes);
    }
    if (v) {
        struct memsnap_view_stats st = view_stats(v->handle);
        g_assert_cmpuint(st.private_bytes, <=, ms_max(round_up(v->size), page));
    }
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
    unsigned flags = one_in(4) ? (unsigned)below(8) : 0;
    void *at = one_in(8) ? free_address(s->content->size + page) : NULL;
    if (at)
        succeed(memsnap_snapshot_view_at(s->handle, at, flags, &handle), handle);
    else
        succeed(memsnap_snapshot_view(s->handle, flags, &handle), handle);
    view_opened(v, handle, s->content, false);
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
    *v = (struct view){.handle = NULL};
}

static void op_close(void)
{
    struct view *v = any_view();
    if (!v)
        return;
    plan_fault();
    memsnap_view_unref(v->handle);
    fault_disarm();
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
    if (!v || v->size == 0)
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
    if (!v || v->size == 0)
        return;
    struct snapshot *s = same_size(v->size);
    const unsigned char *from = v->base && (!s || one_in(2)) ? v->base : s ? s->content->now : NULL;
    if (!from)
        return;
    size_t at = one_in(2) ? below(v->size) : below(view_pages(v)) * page;
    store(v, at, from + at, ms_min(v->size - at, (1 + below(20)) * page));
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
    if (r == -ENOTSUP && flags)
        return;
    assert_ok(r);
    snapshot_made(s, handle, view_now(v), v->size);
}

static void op_restore(void)
{
    struct view *v = any_view();
    if (!v)
        return;
    succeed(memsnap_view_restore(v->handle), UNTOUCHED);
    memset(v->access, MEMSNAP_ACCESS_WRITE, view_pages(v) + 1);
    if (!v->content)
        memcpy(v->now, v->base, round_up(v->size));
    if (one_in(4))
        check_view(v);
}

static void op_restore_to(void)
{
    struct view *v = any_view();
    struct snapshot *s = v ? same_size(v->size) : NULL;
    if (!s)
        return;
    size_t len = round_up(v->size);
    succeed(memsnap_view_restore_to(v->handle, s->handle), UNTOUCHED);
    memset(v->access, MEMSNAP_ACCESS_WRITE, view_pages(v) + 1);
    if (v->content) {
        memmove(v->content->now, s->content->now, len);
    } else {
        memcpy(v->base, s->content->now, len);
        memcpy(v->now, s->content->now, len);
    }
    if (one_in(4))
        check_view(v);
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
    else if (v->content->fd >= 0)
        assert_ok(r);
    else
        g_assert_true(r == 0 || r == 1 || r == -EBUSY || r == -ENOTSUP);
    if (one_in(4))
        check_view(v);
}

static void op_protect(void)
{
    const int accesses[] = {MEMSNAP_ACCESS_NONE, MEMSNAP_ACCESS_READ, MEMSNAP_ACCESS_WRITE};
    struct view *v = any_view();
    if (!v || v->size == 0)
        return;
    size_t first = below(view_pages(v)), n = 1 + below(ms_min(view_pages(v) - first, 10));
    int access = accesses[below(3)];
    succeed(memsnap_view_protect(v->handle, first * page, ms_min(n * page, v->size - first * page),
                                 access),
            UNTOUCHED);
    memset(v->access + first, access, n);
}

static void op_dirty(void)
{
    struct view *v = any_view();
    struct memsnap_range ranges[5];
    size_t cursor = 0, at = 0, max = 1 + below(5);
    if (!v)
        return;
    const unsigned char *now = view_now(v), *base = v->content ? now : v->base;
    for (;;) {
        int n;
        attempt(n, memsnap_view_dirty(v->handle, &cursor, ranges, max), UNTOUCHED);
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
    snapshot_made(s, handle, data, size);
    if (flags & MEMSNAP_FILE_SHARED)
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
    g_assert_cmpint(pread(v->content->fd, copy, v->size + 1, 0), ==, (ssize_t)v->size);
    assert_same(copy, v->content->now, v->size);
    g_free(copy);
}

/* Both files are gone from their names before anything else is made of them. */
static void op_save(void)
{
    struct snapshot *from = any_snapshot(), *s = snapshot_slot();
    memsnap_snapshot *handle = UNTOUCHED;
    if (!from || !s)
        return;
    char *path = temp_path("saved");
    succeed(memsnap_snapshot_save(from->handle, path,
                                  MEMSNAP_SAVE_NOSYNC | (one_in(2) ? MEMSNAP_SAVE_EXCL : 0)),
            UNTOUCHED);
    succeed(memsnap_snapshot_new_from_file(path, config.flags, &handle), handle);
    unlink(path);
    g_free(path);
    snapshot_made(s, handle, from->content->now, from->content->size);
}

static void op_delta(void)
{
    struct snapshot *from = any_snapshot(), *base = from ? same_size(from->content->size) : NULL,
                    *s = snapshot_slot();
    memsnap_snapshot *handle = UNTOUCHED;
    if (!base || !s)
        return;
    char *path = temp_path("delta");
    succeed(memsnap_snapshot_save_delta(from->handle, base->handle, path, MEMSNAP_SAVE_NOSYNC),
            UNTOUCHED);
    succeed(memsnap_snapshot_load_delta(base->handle, path, 0, &handle), handle);
    unlink(path);
    g_free(path);
    snapshot_made(s, handle, from->content->now, from->content->size);
}

static void op_export(void)
{
    struct snapshot *from = any_snapshot(), *s = snapshot_slot();
    memsnap_snapshot *handle = UNTOUCHED;
    int fd = -1, r;
    if (!from || !s)
        return;
    attempt(r, memsnap_snapshot_export_fd(from->handle, &fd), UNTOUCHED);
    if (r == -ENOTSUP)
        return;
    assert_ok(r);
    succeed(memsnap_snapshot_new_from_fd(fd, config.flags, &handle), handle);
    close(fd);
    snapshot_made(s, handle, from->content->now, from->content->size);
}

/* ---- the run --------------------------------------------------------------------------------- */

static void op_fork(void);

static const struct {
    void (*run)(void);
    size_t weight;
} operations[] = {
    {op_new, 4},       {op_new_zeroed, 2}, {op_clone, 4},   {op_drop, 7},  {op_references, 2},
    {op_recycling, 2}, {op_read, 3},       {op_diff, 4},    {op_stats, 2}, {op_view, 12},
    {op_view_mut, 6},  {op_close, 10},     {op_store, 40},  {op_take, 10}, {op_store_back, 8},
    {op_restore, 10},  {op_restore_to, 8}, {op_protect, 4}, {op_dirty, 8}, {op_new_from_file, 2},
    {op_thaw, 8},      {op_flush, 1},      {op_save, 1},    {op_delta, 2}, {op_export, 2},
    {op_fork, 1},
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

void model_end(void)
{
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
        *s = (struct snapshot){NULL, NULL};
    }
}

/* In the child everything is as it was, but for the mutable views, which are not inherited, and
 * their snapshots. Files that the parent stores to are left to it. */
static void in_child(void *arg)
{
    (void)arg;
    in_a_child = true;
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
        v->access = NULL;
    }
    for (int i = 0; i < SNAPSHOTS; i++) {
        struct snapshot *s = &snapshots[i];
        if (!s->handle || (!s->content->leased && s->content->fd < 0))
            continue;
        memsnap_snapshot_unref(s->handle);
        content_unref(s->content);
        *s = (struct snapshot){NULL, NULL};
    }
    model_check();
    for (int i = 0; i < 40; i++)
        model_step();
    model_check();
    model_end();
}

static void op_fork(void)
{
    if (!plan.forks || in_a_child || !one_in(4))
        return;
    child_run(in_child, NULL);
    model_check();
}

void model_start(const struct model_plan *p)
{
    plan = *p;
    steps = 0;
    patterns = 0;
    for (int i = 0; i < 3; i++)
        op_new();
}

void model_step(void)
{
    one_operation();
    check_inside();
    steps++;
    check_sample();
}
