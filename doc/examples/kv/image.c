/* SPDX-License-Identifier: MIT */
/* image.c - the file that the data set is loaded from and saved to.
 *
 * A file is not trusted. Its checksum tells accidents; then every offset in it is followed once,
 * and every block, used or free, must be where nothing else is. So no file, damaged or made up, is
 * let in that makes the server crash, loop, or overwrite one entry with another later.
 *
 * A save puts another file in the place of the old one, so a lock on the file itself would not
 * last. FILE.lock is locked instead: by flock, so that the kernel gives it up with the process,
 * however that ends. The server that holds it removes it when it stops; one that was killed leaves
 * it behind, and it does no harm. */
#define _GNU_SOURCE
#include "kvserver.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static memsnap_snapshot *snapshot;
static memsnap_view *view;
static char file_name[PATH_MAX], lock_name[PATH_MAX + 8];
static int lock_fd = -1;

memsnap_view *image_view(void)
{
    return view;
}

/* ---- one server for a file ------------------------------------------------------------------- */

/* The same file has the same name, whatever links lead to it. */
static void find_name(const char *path)
{
    char copy[PATH_MAX], dir[PATH_MAX];
    struct stat st;

    if (realpath(path, file_name) != NULL)
        return;
    if (errno != ENOENT || path[0] == '\0' || strlen(path) >= sizeof copy)
        die("cannot use %s: %s; give another --file", path, strerror(errno));
    if (lstat(path, &st) == 0)
        die("cannot use %s: it is a link that leads nowhere; give the name of a file with --file",
            path);
    strcpy(copy, path);
    char *slash = strrchr(copy, '/'), *name = slash != NULL ? slash + 1 : copy;
    if (slash != NULL)
        *slash = '\0';
    const char *parent = slash == NULL ? "." : slash == copy ? "/" : copy;
    if (realpath(parent, dir) == NULL)
        die("cannot use %s: %s: %s; make the directory, or give another --file", path, parent,
            strerror(errno));
    if (snprintf(file_name, sizeof file_name, "%s/%s", dir, name) >= (int)sizeof file_name)
        die("cannot use %s: its name is too long; give another --file", path);
}

__attribute__((noreturn)) static void die_locked(void)
{
    char holder[32] = "";
    ssize_t n = pread(lock_fd, holder, sizeof holder - 1, 0);

    holder[n > 0 ? strspn(holder, "0123456789") : 0] = '\0';
    die("another server (process %s) uses %s and holds %s: stop that one, or give another --file",
        holder[0] != '\0' ? holder : "unknown", file_name, lock_name);
}

/* False: the file that was locked is not the one of that name any more, because a server just
 * stopped. */
static bool try_lock(void)
{
    struct stat ours, named;

    lock_fd = open(lock_name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock_fd < 0)
        die("cannot make %s: %s; give a --file in a directory that may be written to", lock_name,
            strerror(errno));
    if (flock(lock_fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK)
            die_locked();
        die("cannot lock %s: %s; give a --file on a file system with locks", lock_name,
            strerror(errno));
    }
    if (fstat(lock_fd, &ours) == 0 && stat(lock_name, &named) == 0 && ours.st_ino == named.st_ino &&
        ours.st_dev == named.st_dev)
        return true;
    close(lock_fd);
    return false;
}

void image_unlock(void)
{
    if (lock_fd < 0)
        return;
    unlink(lock_name);
    close(lock_fd);
    lock_fd = -1;
}

void image_lock(const char *path)
{
    char holder[32];

    find_name(path);
    options.file = file_name;
    snprintf(lock_name, sizeof lock_name, "%s.lock", file_name);
    while (!try_lock())
        ;
    atexit(image_unlock);
    int n = snprintf(holder, sizeof holder, "%ld\n", (long)getpid());
    /* Serves a message only. */
    if (ftruncate(lock_fd, 0) < 0 || pwrite(lock_fd, holder, (size_t)n, 0) < 0)
        complain("cannot write to %s: %s", lock_name, strerror(errno));
}

/* ---- checksum -------------------------------------------------------------------------------- */

/* Four lanes, so that the processor does not wait for one multiplication after the other. Each step
 * can be undone, so a change to any one word changes the sum for certain. */
struct sum {
    uint64_t lane[4];
};

static void add_to_sum(struct sum *s, const unsigned char *p, size_t len)
{
    uint64_t w[4];

    for (size_t i = 0; i < len; i += sizeof w) {
        size_t part = len - i < sizeof w ? len - i : sizeof w;

        memset(w, 0, sizeof w);
        memcpy(w, p + i, part);
        for (unsigned l = 0; l < 4; l++) {
            uint64_t h = (s->lane[l] ^ w[l]) * 0x9e3779b97f4a7c15u;
            s->lane[l] = h << 29 | h >> 35;
        }
    }
}

static uint64_t end_sum(const struct sum *s)
{
    uint64_t h = 0;

    for (unsigned l = 0; l < 4; l++)
        h = (h ^ s->lane[l]) * 0xd6e8feb86659fd93u + l + 1;
    return h ^ h >> 32;
}

/* Of the snapshot's first `len` bytes, which include the header. */
static int checksum(memsnap_snapshot *s, uint64_t len, uint64_t *out)
{
    enum { PIECE = 256 * 1024 };
    unsigned char *piece = malloc(PIECE);
    struct sum sum = {{1, 2, 3, 4}};
    int error = piece == NULL ? -ENOMEM : 0;

    for (uint64_t at = 0; error == 0 && at < len; at += PIECE) {
        size_t part = len - at < PIECE ? (size_t)(len - at) : PIECE;

        error = memsnap_snapshot_read(s, (size_t)at, piece, part);
        if (at == 0)
            memset(piece + offsetof(struct header, checksum), 0, sizeof(uint64_t));
        if (error == 0)
            add_to_sum(&sum, piece, part);
    }
    free(piece);
    *out = end_sum(&sum);
    return error;
}

int image_seal(memsnap_snapshot *s)
{
    struct header h;
    memsnap_view *writer;
    uint64_t sum;
    int error = memsnap_snapshot_read(s, 0, &h, sizeof h);

    if (error == 0)
        error = checksum(s, h.unused, &sum);
    if (error == 0)
        error = memsnap_snapshot_view_mut(s, 0, &writer);
    if (error < 0)
        return error;
    ((struct header *)memsnap_view_data(writer))->checksum = sum;
    memsnap_view_unref(writer);
    return 0;
}

/* ---- what a file must be --------------------------------------------------------------------- */

/* NULL, or what is wrong. Looks at nothing but the header. */
static const char *check_header(const struct header *h, uint64_t size)
{
    if (memcmp(h->magic, IMAGE_MAGIC, sizeof h->magic) != 0)
        return "it is not a data set of this program";
    if (h->byte_order == __builtin_bswap32(IMAGE_BYTE_ORDER))
        return "it was made on a machine of other byte order";
    if (h->version != 1 && h->version != IMAGE_VERSION)
        return "it is of a version that this program does not know";
    if (size < h->size)
        return "it ends too early: it has been cut off";
    if (size > h->size)
        return "it is longer than its header says";
    if (h->byte_order != IMAGE_BYTE_ORDER || h->buckets < SHARDS ||
        (h->buckets & (h->buckets - 1)) != 0 || h->buckets > size / 8 || h->bucket_table % 8 != 0 ||
        h->bucket_table < sizeof *h || h->bucket_table > size || h->unused % 8 != 0 ||
        h->unused > size || h->unused < h->bucket_table ||
        h->unused - h->bucket_table < h->buckets * 8)
        return "its header is damaged";
    return NULL;
}

/* Before anything of the file is mapped, or followed. */
static const char *check_file(memsnap_snapshot *s)
{
    static struct header h;
    uint64_t size = memsnap_snapshot_size(s), sum;
    int error;

    if (size == 0)
        return "it is empty";
    if (size < sizeof h)
        return "it is not a data set of this program, or has been cut off";
    if ((error = memsnap_snapshot_read(s, 0, &h, sizeof h)) < 0)
        return strerror(-error);
    const char *trouble = check_header(&h, size);
    if (trouble != NULL || h.version == 1)
        return trouble;
    if ((error = checksum(s, h.unused, &sum)) < 0)
        return strerror(-error);
    return sum == h.checksum ? NULL : "its checksum is wrong: it is damaged";
}

/* One bit for eight bytes: does a block, or the rest of a slab, lie there already? */
struct check {
    uint64_t *taken;
    uint64_t begin, end; /* where blocks may be */
    uint64_t keys[SHARDS], used[SHARDS];
};

static bool claim(struct check *k, uint64_t offset, uint64_t bytes)
{
    if (offset % 8 != 0 || bytes % 8 != 0 || offset < k->begin || offset > k->end ||
        bytes > k->end - offset)
        return false;
    for (uint64_t i = offset / 8; i < (offset + bytes) / 8; i++) {
        uint64_t bit = (uint64_t)1 << i % 64;

        if (k->taken[i / 64] & bit)
            return false;
        k->taken[i / 64] |= bit;
    }
    return true;
}

static bool entry_is_whole(const struct entry *e)
{
    unsigned class = entry_class(e);
    uint64_t bytes = sizeof *e + (e->shape & HAS_EXPIRY ? sizeof(int64_t) : 0) +
                     (uint64_t)e->key_len + e->value_len;

    return class < CLASSES && bytes <= class_size(class) && e->key_len <= MAX_KEY &&
           e->value_len <= MAX_VALUE && (header()->version > 1 || !(e->shape & HAS_EXPIRY)) &&
           (!(e->shape & HAS_EXPIRY) || entry_expiry(e) > 0);
}

/* The key comes before in its chain: whoever asks for it finds that one. */
static bool is_hidden(const struct entry *e, uint64_t bucket)
{
    const struct entry *first = entry_at(*bucket_of(bucket));
    struct slice key = entry_key(e), other = entry_key(first);

    while (first != e && (first->hash != e->hash || other.len != key.len ||
                          memcmp(other.data, key.data, key.len) != 0)) {
        first = entry_at(first->next);
        other = entry_key(first);
    }
    return first != e;
}

static const char *check_chain(struct check *k, uint64_t bucket)
{
    for (uint64_t at = *bucket_of(bucket); at != 0; at = entry_at(at)->next) {
        struct entry *e = entry_at(at);

        if (at % 8 != 0 || at < k->begin || at > k->end || k->end - at < sizeof *e)
            return "its hash table is damaged";
        if (entry_class(e) >= CLASSES || !claim(k, at, class_size(entry_class(e))))
            return "entries of it overlap, or form a ring";
        if (!entry_is_whole(e))
            return "an entry of it is damaged";
        uint64_t hash = hash_key(entry_key(e));
        if ((hash & (header()->buckets - 1)) != bucket || e->hash != (uint32_t)(hash >> 32) ||
            is_hidden(e, bucket))
            return "an entry of it is in the wrong place";
        k->keys[bucket % SHARDS]++;
        k->used[bucket % SHARDS] += class_size(entry_class(e));
    }
    return NULL;
}

static const char *check_shard(struct check *k, unsigned shard)
{
    struct shard *s = &header()->shard[shard];

    if (s->keys != k->keys[shard] || s->used != k->used[shard])
        return "it does not hold as much as it says";
    if (s->next > s->end || (s->next != s->end && !claim(k, s->next, s->end - s->next)))
        return "a slab of it is damaged";
    for (unsigned class = 0; class < CLASSES; class ++) {
        for (uint64_t at = s->free[class]; at != 0; at = *(uint64_t *)(image + at)) {
            if (!claim(k, at, class_size(class)))
                return "a list of its free blocks is damaged";
        }
    }
    return NULL;
}

static const char *check_image(void)
{
    struct header *h = header();
    struct check k = {.begin = h->bucket_table + h->buckets * 8, .end = h->unused};
    const char *trouble = NULL;

    k.taken = calloc(h->unused / 512 + 1, sizeof *k.taken);
    if (k.taken == NULL)
        return "there is not enough memory to check it";
    for (uint64_t b = 0; trouble == NULL && b < h->buckets; b++)
        trouble = check_chain(&k, b);
    for (unsigned i = 0; trouble == NULL && i < SHARDS; i++)
        trouble = check_shard(&k, i);
    free(k.taken);
    return trouble;
}

/* ---- opening --------------------------------------------------------------------------------- */

__attribute__((noreturn)) static void die_of(const char *trouble)
{
    die("cannot use %s: %s; move it away, or give another --file", options.file, trouble);
}

static void open_view(void)
{
    int error = memsnap_snapshot_view_mut(snapshot, 0, &view);

    if (error < 0)
        die("cannot map %zu bytes: %s; give a smaller --size", memsnap_snapshot_size(snapshot),
            strerror(-error));
    image = memsnap_view_data(view);
}

static void open_new(void)
{
    int error = memsnap_snapshot_new_zeroed(options.size, 0, &snapshot);

    if (error < 0)
        die("cannot make %zu bytes: %s; give a smaller --size", options.size, strerror(-error));
    open_view();
    table_lay_out(options.size);
    say("a new data set of %zu MiB", options.size >> 20);
}

bool image_open(void)
{
    uint64_t start = now_us();
    int error = memsnap_snapshot_new_from_file(options.file, 0, &snapshot);

    if (error == -ENOENT) {
        open_new();
        return false;
    }
    if (error == -EISDIR || error == -EINVAL)
        die_of("it is not a regular file");
    if (error < 0)
        die("cannot load %s: %s; give a file that may be read, or the name of a new one, with "
            "--file",
            options.file, strerror(-error));
    const char *trouble = check_file(snapshot);
    if (trouble == NULL) {
        open_view();
        trouble = check_image();
    }
    if (trouble != NULL)
        die_of(trouble);
    header()->version = IMAGE_VERSION;
    header()->checksum = 0;
    table_adopt_expiry();
    say("loaded %" PRIu64 " keys from %s (%zu MiB) in %.1f ms", table_count().keys, options.file,
        memsnap_snapshot_size(snapshot) >> 20, (double)(now_us() - start) / 1000);
    return true;
}

void image_close(void)
{
    memsnap_view_unref(view);
    memsnap_snapshot_unref(snapshot);
}
