/* SPDX-License-Identifier: MIT */
/* Copying out of one object or file into another: sharing blocks, or reading and writing, holes
 * staying holes where that is cheap. Serves both tables. */
#include "config.h"

#include "os/internal.h"
#ifdef __linux__
#include "os/kernel.h"
#endif

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COPY_BUFFER = 1 << 20 };

/* Works within one file system that shares blocks, at block boundaries. */
int ms_file_clone(const struct os_object *src, uint64_t from, const struct os_object *dst,
                  uint64_t to, uint64_t len)
{
#ifdef FICLONERANGE
    struct stat st;
    if (src->dev != dst->dev || ms_object_check(src, &st) < 0 ||
        (uint64_t)st.st_size < from + len || ms_object_check(dst, &st) < 0 ||
        ms_file_limit(to + len) < 0)
        return -ENOTSUP;
    struct file_clone_range range = {.src_fd = src->fd,
                                     .src_offset = from,
                                     .src_length = len,
                                     .dest_offset = to};
    return MS_IOCTL(dst->fd, FICLONERANGE, &range) == 0 ? 0 : -ENOTSUP;
#else
    (void)src;
    (void)from;
    (void)dst;
    (void)to;
    (void)len;
    return -ENOTSUP;
#endif
}

/* A system's way of finding holes and of making them. */
struct means {
    int (*data)(const struct os_object *o, uint64_t offset, uint64_t limit, uint64_t *start,
                uint64_t *end);
    int (*punch)(const struct os_object *o, uint64_t offset, uint64_t len);
};

struct copy {
    const struct means *means;
    const struct os_object *src, *dst;
    /* where the copy starts in src and in dst; positions below are relative to these */
    uint64_t from, to;
    char *buffer;
};

static ssize_t read_some(const struct os_object *o, void *buffer, size_t len, uint64_t offset)
{
    ssize_t n;
    do
        n = pread(o->fd, buffer, len, (off_t)offset);
    while (n < 0 && errno == EINTR);
    return n;
}

static int copy_data(struct copy *c, uint64_t start, uint64_t end)
{
    while (start < end) {
        size_t want = end - start < COPY_BUFFER ? (size_t)(end - start) : COPY_BUFFER;
        ssize_t n = read_some(c->src, c->buffer, want, c->from + start);
        if (n <= 0)
            return n < 0 ? ms_os_error(errno) : -EIO;
        struct os_iov v = {c->buffer, (size_t)n};
        int r = ms_object_write(c->dst, &v, 1, c->to + start);
        if (r < 0)
            return r;
        start += (uint64_t)n;
    }
    return 0;
}

static int write_zeros(struct copy *c, uint64_t start, uint64_t end)
{
    memset(c->buffer, 0, COPY_BUFFER);
    while (start < end) {
        size_t n = end - start < COPY_BUFFER ? (size_t)(end - start) : COPY_BUFFER;
        struct os_iov v = {c->buffer, n};
        int r = ms_object_write(c->dst, &v, 1, c->to + start);
        if (r < 0)
            return r;
        start += n;
    }
    return 0;
}

/* What dst held there before must not show. */
static int copy_hole(struct copy *c, uint64_t start, uint64_t end)
{
    struct stat st;
    int r = ms_object_check(c->dst, &st);
    if (r < 0)
        return r;
    uint64_t size = (uint64_t)st.st_size;
    if (size < c->to + end) {
        r = ms_object_grow(c->dst, c->to + end);
        if (r < 0)
            return r;
        if (size <= c->to + start)
            return 0;
    }
    if (c->means->punch(c->dst, c->to + start, end - start) == 0)
        return 0;
    /* Not even a hole there may be the common case, which costs nothing but the question. */
    uint64_t data, hole;
    while (start < end && c->means->data(c->dst, c->to + start, c->to + end, &data, &hole) == 1) {
        r = write_zeros(c, data - c->to, hole - c->to);
        if (r < 0)
            return r;
        start = hole - c->to;
    }
    return 0;
}

/* The next stretch of src that is to be copied; an empty one at len if there is none. */
static int next_data(struct copy *c, uint64_t at, uint64_t len, uint64_t *start, uint64_t *end)
{
    int r = c->means->data(c->src, c->from + at, c->from + len, start, end);
    if (r < 0)
        return r;
    *start = r == 0 ? len : *start - c->from;
    *end = r == 0 ? len : *end - c->from;
    return 0;
}

static int copy_all(struct copy *c, uint64_t len)
{
    uint64_t at = 0;
    while (at < len) {
        uint64_t start, end;
        int r = next_data(c, at, len, &start, &end);
        if (r < 0)
            return r;
        if (start > at)
            r = copy_hole(c, at, start);
        if (r >= 0)
            r = copy_data(c, start, end);
        if (r < 0)
            return r;
        at = end;
    }
    return 0;
}

static int copy(const struct means *means, const struct os_object *src, uint64_t from,
                const struct os_object *dst, uint64_t to, uint64_t len)
{
    uint64_t size = 0;
    int r = ms_file_size(src, &size);
    if (r < 0 || len == 0)
        return r;
    struct copy c = {.means = means,
                     .src = src,
                     .dst = dst,
                     .from = from,
                     .to = to,
                     .buffer = malloc(COPY_BUFFER)};
    if (!c.buffer)
        return -ENOMEM;
    r = copy_all(&c, len);
    ms_free(c.buffer);
    /* A file that ended early looks like a hole at its end. */
    if (r == 0 && (ms_file_size(src, &size) < 0 || size < from + len))
        return -EIO;
    return r;
}

int ms_posix_copy(const struct os_object *src, uint64_t from, const struct os_object *dst,
                  uint64_t to, uint64_t len)
{
    static const struct means means = {ms_posix_data, ms_cannot_punch};
    return copy(&means, src, from, dst, to, len);
}

#ifdef __linux__
int ms_linux_copy(const struct os_object *src, uint64_t from, const struct os_object *dst,
                  uint64_t to, uint64_t len)
{
    static const struct means means = {ms_linux_data, ms_linux_punch};
    if (len > 0 && ms_file_clone(src, from, dst, to, len) == 0)
        return 0;
    return copy(&means, src, from, dst, to, len);
}
#endif
