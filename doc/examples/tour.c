/* SPDX-License-Identifier: MIT */
/* tour - what the library promises, shown on a file of yours, and every promise checked on the
 * way.
 *
 * Takes a snapshot of the file, opens views of it in several threads, changes them, takes
 * children, compares, restores, and runs a writer beside readers. Prints what each step cost,
 * and maps of what is shared, private and changed.
 *
 *     cc -O2 -pthread tour.c $(pkg-config --cflags --libs memsnap) -o tour
 *     ./tour [FILE]                without FILE: the library itself
 *
 * Exit status: 0 if everything held, 1 if not, 2 if it could not be tried. The file is only
 * read. */
#define _GNU_SOURCE
#include <memsnap.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    THREADS = 4,
    CHANGES = 8,  /* pages that a thread changes in its view */
    CHAIN = 1000, /* snapshots that descend from each other */
    CYCLES = 200, /* repetitions where a median is shown */
    REPEATS = 5,  /* ... of what takes long, with files smaller than REPEAT_BELOW */
    REPEAT_BELOW = 256 << 20,
    WRITER_MS = 300,
    BLOCK = 1 << 20,
    MAP_CELLS = 64,
    MAP_ROWS = 12
};

/* ---- output: ASCII only; colour and passing remarks only on a terminal ----------------------- */

static bool terminal;
static unsigned claims, broken;

static const char *paint(const char *code)
{
    return terminal ? code : "";
}

#define BOLD paint("\033[1m")
#define DIM paint("\033[2m")
#define RED paint("\033[1;31m")
#define GREEN paint("\033[32m")
#define YELLOW paint("\033[33m")
#define CYAN paint("\033[36m")
#define PLAIN paint("\033[0m")

/* A remark that the next line of output replaces: long work is under way. */
static void working(const char *what)
{
    if (terminal) {
        printf("\r\033[K     %s ...", what);
        fflush(stdout);
    }
}

static void clear_line(void)
{
    if (terminal)
        fputs("\r\033[K", stdout);
}

static void chapter(const char *title)
{
    static unsigned number;

    clear_line();
    printf("\n%s%u. %s%s\n", BOLD, ++number, title, PLAIN);
}

__attribute__((format(printf, 1, 2), noreturn)) static void give_up(const char *format, ...)
{
    va_list args;

    clear_line();
    fflush(stdout);
    fputs("tour: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

/* The library's functions return 0 or a negative errno. */
static void must(int result, const char *what)
{
    if (result == -ENOMEM || result == -EMLINK)
        give_up("%s: %s; free some memory (or raise ulimit -v), or try a smaller file", what,
                strerror(-result));
    if (result < 0)
        give_up("%s: %s", what, strerror(-result));
}

__attribute__((format(printf, 2, 3))) static void claim(bool held, const char *format, ...)
{
    va_list args;

    claims++;
    broken += !held;
    clear_line();
    printf("  %s%s%s ", held ? GREEN : RED, held ? "  ok  " : "FAILED", PLAIN);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

__attribute__((format(printf, 2, 3))) static void cost(double us, const char *format, ...)
{
    char what[128];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    clear_line();
    printf("         %-52s %s", what, CYAN);
    if (us < 1000)
        printf("%8.1f us", us);
    else if (us < 1e6)
        printf("%8.1f ms", us / 1e3);
    else
        printf("%8.2f s ", us / 1e6);
    printf("%s\n", PLAIN);
}

/* Into one of a few buffers, so that one line can show several. */
static const char *bytes(size_t n)
{
    static char text[4][32];
    static unsigned turn;
    static const char *unit[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    char *out = text[turn++ % 4];
    double value = (double)n;
    unsigned u = 0;

    while (value >= 1024 && u < 4) {
        value /= 1024;
        u++;
    }
    snprintf(out, sizeof text[0], value == (double)(size_t)value ? "%.0f %s" : "%.1f %s", value,
             unit[u]);
    return out;
}

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_size);
    return v[n / 2];
}

/* ---- the file, and what is expected of copies of it ------------------------------------------ */

static struct {
    const char *path;
    int fd;
    size_t size, page, pages;
} file;

struct change { /* the first byte of a page, turned over by a mask */
    size_t page;
    unsigned char mask;
};

/* The pages that holder number `who` changes: spread over the image, other ones for each holder
 * if there are enough. */
static size_t choose(struct change *v, unsigned who)
{
    size_t n = file.pages < CHANGES ? file.pages : CHANGES;

    for (size_t i = 0; i < n; i++) {
        v[i].page = (i * file.pages / n + who * file.pages / n / THREADS) % file.pages;
        v[i].mask = (unsigned char)(who + 1);
    }
    return n;
}

static void apply(unsigned char *data, const struct change *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        data[v[i].page * file.page] ^= v[i].mask;
}

/* A block of the file as it is on disk, read past the library. False: it can no longer be read
 * as it was. */
static bool read_block(size_t offset, unsigned char *buf, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = pread(file.fd, buf + at, len - at, (off_t)(offset + at));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

static unsigned char *block_buffer(void)
{
    unsigned char *buf = malloc(BLOCK);

    if (buf == NULL)
        give_up("out of memory for a buffer of %s", bytes(BLOCK));
    return buf;
}

static size_t block_len(size_t offset)
{
    return file.size - offset < BLOCK ? file.size - offset : BLOCK;
}

/* Four lanes of multiply and rotate: fast, and any changed byte shows. */
static uint64_t hash_bytes(uint64_t h, const unsigned char *p, size_t n)
{
    uint64_t lane[4] = {h, h ^ 0x9e3779b97f4a7c15u, h + 1, ~h}, w;

    for (; n >= 32; p += 32, n -= 32) {
        for (unsigned i = 0; i < 4; i++) {
            memcpy(&w, p + 8 * i, 8);
            lane[i] = (lane[i] ^ w) * 0xd6e8feb86659fd93u;
            lane[i] ^= lane[i] >> 29;
        }
    }
    for (; n > 0; p++, n--)
        lane[n % 4] = (lane[n % 4] ^ *p) * 0xd6e8feb86659fd93u;
    h = lane[0];
    for (unsigned i = 1; i < 4; i++) {
        h = (h ^ lane[i]) * 0xd6e8feb86659fd93u;
        h ^= h >> 32;
    }
    return h;
}

static uint64_t hash_file(void)
{
    unsigned char *buf = block_buffer();
    uint64_t h = file.size;

    for (size_t at = 0; at < file.size; at += BLOCK) {
        if (!read_block(at, buf, block_len(at)))
            give_up("cannot read %s at byte %zu: %s; the file must not change during the tour",
                    file.path, at, errno ? strerror(errno) : "it became shorter");
        h = hash_bytes(h, buf, block_len(at));
    }
    free(buf);
    return h;
}

static uint64_t hash_memory(const unsigned char *data)
{
    uint64_t h = file.size;

    for (size_t at = 0; at < file.size; at += BLOCK)
        h = hash_bytes(h, data + at, block_len(at));
    return h;
}

/* Is data, byte by byte, the file with these changes? */
static bool is_file_with(const unsigned char *data, const struct change *v, size_t n)
{
    unsigned char *buf = block_buffer();
    bool same = true;

    for (size_t at = 0; at < file.size && same; at += BLOCK) {
        size_t len = block_len(at);

        same = read_block(at, buf, len);
        for (size_t i = 0; i < n; i++) {
            size_t where = v[i].page * file.page;

            if (where >= at && where < at + len)
                buf[where - at] ^= v[i].mask;
        }
        same = same && memcmp(buf, data + at, len) == 0;
    }
    free(buf);
    return same;
}

static bool has_page(const struct change *v, size_t n, size_t page)
{
    for (size_t i = 0; i < n; i++) {
        if (v[i].page == page)
            return true;
    }
    return false;
}

/* Do these ranges, which come in any number of portions, cover exactly the changed pages? */
struct tally {
    size_t pages, strangers;
};

static void count_range(struct tally *t, const struct memsnap_range *r, const struct change *v,
                        size_t n)
{
    for (size_t at = r->offset; at < r->offset + r->len; at += file.page) {
        t->pages++;
        t->strangers += !has_page(v, n, at / file.page);
    }
}

static bool differs_in(memsnap_snapshot *a, memsnap_snapshot *b, const struct change *v, size_t n)
{
    struct memsnap_range r[4];
    struct tally t = {0, 0};
    size_t cursor = 0;
    int found;

    while ((found = memsnap_snapshot_diff(a, b, &cursor, r, 4)) > 0) {
        for (int i = 0; i < found; i++)
            count_range(&t, &r[i], v, n);
    }
    must(found, "comparing two snapshots");
    return t.pages == n && t.strangers == 0;
}

static bool dirty_in(memsnap_view *view, const struct change *v, size_t n)
{
    struct memsnap_range r[4];
    struct tally t = {0, 0};
    size_t cursor = 0;
    int found;

    while ((found = memsnap_view_dirty(view, &cursor, r, 4)) > 0) {
        for (int i = 0; i < found; i++)
            count_range(&t, &r[i], v, n);
    }
    must(found, "asking a view what changed in it");
    return t.pages == n && t.strangers == 0;
}

/* Open descriptors of this process, the one that looks included; 0 where the system does not
 * tell. */
static size_t descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;

    if (d == NULL)
        return 0;
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

/* ---- page maps ------------------------------------------------------------------------------- */

enum page_state { UNTOUCHED, SHARED, PRIVATE, CHANGED, STATES };

static const char state_mark[] = ".o+#";
static const char *const state_name[] = {"shared, not touched", "shared, read",
                                         "private, unchanged", "private, changed"};

static const char *state_color(unsigned state)
{
    return state == UNTOUCHED ? DIM : state == SHARED ? CYAN : state == PRIVATE ? YELLOW : RED;
}

/* What the kernel says: is a page in memory, and is it the store's or a copy. Left alone where
 * it does not say. */
static void mark_resident(memsnap_view *view, unsigned char *state)
{
    const uint64_t present = 1ull << 63, swapped = 1ull << 62, not_private = 1ull << 61;
    uint64_t entry[512], first = (uintptr_t)memsnap_view_data(view) / file.page;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    for (size_t p = 0; p < file.pages;) {
        size_t want = file.pages - p < 512 ? file.pages - p : 512;
        ssize_t got = pread(fd, entry, want * 8, (off_t)((first + p) * 8));

        if (got < 8)
            break;
        for (size_t i = 0; i < (size_t)got / 8; i++, p++) {
            if (entry[i] & not_private)
                state[p] = SHARED;
            else if (entry[i] & (present | swapped))
                state[p] = PRIVATE;
        }
    }
    close(fd);
}

static void draw(const char *title, const unsigned char *state, size_t rows)
{
    size_t cells = file.pages < rows * MAP_CELLS ? file.pages : rows * MAP_CELLS;

    printf("         %s", title);
    for (size_t c = 0; c < cells; c++) {
        size_t end = (c + 1) * file.pages / cells;
        unsigned most = UNTOUCHED;

        for (size_t p = c * file.pages / cells; p < end; p++)
            most = state[p] > most ? state[p] : most;
        if (c % MAP_CELLS == 0 && c > 0)
            printf("|\n         %*s", (int)strlen(title), "");
        if (c % MAP_CELLS == 0)
            putchar('|');
        printf("%s%c%s", state_color(most), state_mark[most], PLAIN);
    }
    printf("|\n");
}

static unsigned char *new_map(void)
{
    unsigned char *state = calloc(file.pages, 1);

    if (state == NULL)
        give_up("out of memory for a map of %zu pages", file.pages);
    return state;
}

static void draw_view(memsnap_view *view)
{
    unsigned char *state = new_map();
    struct memsnap_range r[16];
    size_t cursor = 0, count[STATES] = {0};
    int found;

    mark_resident(view, state);
    while ((found = memsnap_view_dirty(view, &cursor, r, 16)) > 0) {
        for (int i = 0; i < found; i++) {
            for (size_t at = r[i].offset; at < r[i].offset + r[i].len; at += file.page)
                state[at / file.page] = CHANGED;
        }
    }
    must(found, "asking a view what changed in it");
    for (size_t p = 0; p < file.pages; p++)
        count[state[p]]++;
    size_t scale = (file.pages + MAP_CELLS * MAP_ROWS - 1) / (MAP_CELLS * MAP_ROWS);
    clear_line();
    printf("         a view of which a quarter was read and a few pages were written, %zu to a "
           "mark%s:\n",
           scale, scale > 1 ? " (the most private one shows)" : "");
    draw("", state, MAP_ROWS);
    for (unsigned s = 0; s < STATES; s++) {
        if (count[s] > 0)
            printf("         %s%c%s %-20s %8zu pages %12s\n", state_color(s), state_mark[s], PLAIN,
                   state_name[s], count[s], bytes(count[s] * file.page));
    }
    free(state);
}

static void draw_child(const char *title, memsnap_snapshot *parent, memsnap_snapshot *child)
{
    unsigned char *state = new_map();
    struct memsnap_range r[16];
    size_t cursor = 0;
    int found;

    while ((found = memsnap_snapshot_diff(parent, child, &cursor, r, 16)) > 0) {
        for (int i = 0; i < found; i++) {
            for (size_t at = r[i].offset; at < r[i].offset + r[i].len; at += file.page)
                state[at / file.page] = CHANGED;
        }
    }
    must(found, "comparing two snapshots");
    draw(title, state, 1);
    free(state);
}

/* ---- chapters -------------------------------------------------------------------------------- */

static memsnap_snapshot *snapshot_the_file(uint64_t hash)
{
    memsnap_snapshot *s = NULL;
    struct memsnap_snapshot_stats stats = {.size = sizeof stats};
    memsnap_view *view;
    double taken[REPEATS], peer[REPEATS];

    chapter("A snapshot of the file");
    working("reading the file");
    size_t n = file.size < REPEAT_BELOW ? REPEATS : 1;
    for (size_t i = 0; i < n; i++) {
        memsnap_snapshot_unref(s);
        double start = now_us();
        int error = memsnap_snapshot_new_from_file(file.path, 0, &s);
        taken[i] = now_us() - start;
        if (error < 0)
            give_up("cannot make a snapshot of %s: %s; give another file", file.path,
                    strerror(-error));
    }
    bool copied = true;
    for (size_t i = 0; i < n && copied; i++) {
        double start = now_us();
        void *plain =
            mmap(NULL, file.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        copied = plain != MAP_FAILED && read_block(0, plain, file.size);
        peer[i] = now_us() - start;
        if (plain != MAP_FAILED)
            munmap(plain, file.size);
    }
    must(memsnap_snapshot_stats(s, &stats), "asking for statistics");
    must(memsnap_snapshot_view(s, 0, &view), "opening a view");
    working("comparing");
    claim(memsnap_snapshot_size(s) == file.size, "it has the file's size to the byte: %zu",
          file.size);
    claim(hash_memory(memsnap_view_data(view)) == hash, "it has the file's bytes");
    memsnap_view_unref(view);
    cost(median(taken, n), "taking it (%.1f GB/s)", (double)file.size / median(taken, n) / 1e3);
    if (copied)
        cost(median(peer, n), "reading it into fresh memory, for comparison");
    printf("         kept in %s: %s, of which %s in huge pages\n", stats.backend,
           bytes(stats.stored_bytes), bytes(stats.huge_bytes));
    return s;
}

struct holder {
    pthread_t thread;
    unsigned who;
    memsnap_snapshot *snapshot, *child;
    memsnap_view *view;
    pthread_barrier_t *meet;
    struct change change[CHANGES];
    size_t changes;
    double open_us, read_us, write_us, take_us;
    bool fresh, own, isolated, taken;
};

/* One of several threads with a view each. Between the two meetings all of them have made their
 * changes. */
static void *hold(void *arg)
{
    struct holder *h = arg;
    memsnap_view *view;
    double start = now_us();

    must(memsnap_snapshot_view(h->snapshot, 0, &view), "opening a view");
    h->open_us = now_us() - start;
    h->view = view;
    unsigned char *data = memsnap_view_data(view);
    h->changes = choose(h->change, h->who);
    pthread_barrier_wait(h->meet);

    start = now_us();
    apply(data, h->change, h->changes);
    h->write_us = now_us() - start;
    pthread_barrier_wait(h->meet);

    h->own = dirty_in(view, h->change, h->changes);
    start = now_us();
    int error = memsnap_view_take_snapshot(view, 0, &h->child);
    h->take_us = now_us() - start;
    h->taken = error == 0;
    pthread_barrier_wait(h->meet);

    h->isolated = is_file_with(data, h->change, h->changes);
    return NULL;
}

/* A view in which a part was read, some pages were changed, and one was written with what it
 * held already. */
static unsigned show_states(memsnap_snapshot *s)
{
    memsnap_view *view;
    struct change change[CHANGES];
    unsigned sum = 0;

    must(memsnap_snapshot_set_recycling(s, 0), "turning recycling off");
    must(memsnap_snapshot_view(s, 0, &view), "opening a view");
    unsigned char *data = memsnap_view_data(view);
    apply(data, change, choose(change, 0));
    for (size_t at = 0; at < file.size / 4; at += file.page)
        sum += *(volatile unsigned char *)(data + at);
    volatile unsigned char *same = data + (file.pages / 2 + file.pages / 16) * file.page;
    *same = *same;
    draw_view(view);
    memsnap_view_unref(view);
    return sum;
}

static void views_in_threads(memsnap_snapshot *s, struct holder *h)
{
    pthread_barrier_t meet;
    double open[THREADS], write[THREADS], take[THREADS];
    unsigned own = 0, isolated = 0, taken = 0;

    chapter("Views: a copy for each holder, paid for when it is written");
    pthread_barrier_init(&meet, NULL, THREADS);
    working("threads open views and change them");
    for (unsigned i = 0; i < THREADS; i++) {
        h[i] = (struct holder){.who = i, .snapshot = s, .meet = &meet};
        int error = pthread_create(&h[i].thread, NULL, hold, &h[i]);
        if (error != 0)
            give_up("cannot start a thread: %s; raise ulimit -u", strerror(error));
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(h[i].thread, NULL);
        open[i] = h[i].open_us;
        write[i] = h[i].write_us;
        take[i] = h[i].take_us;
        own += h[i].own;
        isolated += h[i].isolated;
        taken += h[i].taken;
    }
    pthread_barrier_destroy(&meet);
    size_t n = h[0].changes;
    claim(own == THREADS,
          "%u threads changed %zu pages each; each view lists its own changes, exactly", THREADS,
          n);
    claim(isolated == THREADS,
          "every byte of every view: the file and its own changes, nobody else's");
    claim(taken == THREADS, "%u children taken, from all the threads at once", THREADS);
    cost(median(open, THREADS), "opening a view");
    cost(median(write, THREADS), "changing %zu pages", n);
    cost(median(take, THREADS), "taking a child after that");
    show_states(s);
}

static void children(memsnap_snapshot *s, struct holder *h)
{
    unsigned exact = 0, right = 0;
    size_t more = 0;
    struct memsnap_snapshot_stats of_s = {.size = sizeof of_s};

    chapter("Children: what changed, and nothing else");
    working("comparing");
    must(memsnap_snapshot_stats(s, &of_s), "asking for statistics");
    double start = now_us();
    for (unsigned i = 0; i < THREADS; i++)
        exact += differs_in(s, h[i].child, h[i].change, h[i].changes);
    double compare = (now_us() - start) / THREADS;
    for (unsigned i = 0; i < THREADS; i++) {
        struct memsnap_snapshot_stats stats = {.size = sizeof stats};
        memsnap_view *view;

        must(memsnap_snapshot_stats(h[i].child, &stats), "asking for statistics");
        more += stats.stored_bytes - of_s.stored_bytes;
        must(memsnap_snapshot_view(h[i].child, 0, &view), "opening a view");
        right += is_file_with(memsnap_view_data(view), h[i].change, h[i].changes);
        memsnap_view_unref(view);
    }
    claim(right == THREADS, "each child has every byte of the view it was taken from");
    claim(exact == THREADS, "parent and child differ in the changed pages, exactly");
    cost(compare, "comparing parent and child");
    printf("         %u children of %s take %s more than their parent alone\n", THREADS,
           bytes(file.size), bytes(more));
    for (unsigned i = 0; i < THREADS; i++) {
        char title[32];

        snprintf(title, sizeof title, "child %u ", i + 1);
        draw_child(title, s, h[i].child);
    }
}

/* Each snapshot of the chain differs from the one before it in one byte. */
static void chain(memsnap_snapshot *s)
{
    static memsnap_snapshot *link[CHAIN];
    static double took[CHAIN];
    memsnap_view *view;
    size_t step = file.pages > 7 ? 7 : 1, before = descriptors(), wrong = 0, own = 0;

    chapter("A thousand snapshots in a row");
    working("taking them");
    must(memsnap_snapshot_view(s, 0, &view), "opening a view");
    unsigned char *data = memsnap_view_data(view);
    for (size_t i = 0; i < CHAIN; i++) {
        data[i * step % file.pages * file.page]++;
        double start = now_us();
        must(memsnap_view_take_snapshot(view, 0, &link[i]), "taking a snapshot");
        took[i] = now_us() - start;
    }
    size_t after = descriptors();
    working("comparing");
    uint64_t hash = hash_memory(data);
    memsnap_view_unref(view);
    for (size_t i = 1; i < CHAIN; i++) {
        struct memsnap_range r[2];
        size_t cursor = 0, page = i * step % file.pages;
        int found = memsnap_snapshot_diff(link[i - 1], link[i], &cursor, r, 2);

        wrong += found != 1 || r[0].offset != page * file.page || r[0].len > file.page;
    }
    claim(wrong == 0, "each of %u differs from the one before it in the page that changed", CHAIN);
    if (before > 0)
        claim(after <= before + 2, "they take %zu more file descriptors, all together",
              after > before ? after - before : 0);
    for (size_t i = 0; i < CHAIN; i++) {
        struct memsnap_snapshot_stats stats = {.size = sizeof stats};

        if (i + 1 == CHAIN && memsnap_snapshot_stats(link[i], &stats) == 0)
            own = stats.stored_bytes;
        if (i + 1 < CHAIN)
            link[i] = memsnap_snapshot_unref(link[i]);
    }
    must(memsnap_snapshot_view(link[CHAIN - 1], 0, &view), "opening a view");
    claim(hash_memory(memsnap_view_data(view)) == hash,
          "the last one has every byte after all the others are gone");
    memsnap_view_unref(view);
    memsnap_snapshot_unref(link[CHAIN - 1]);
    cost(median(took, CHAIN), "taking one");
    printf("         the last one of %u refers to %s of storage, with all that it shares\n", CHAIN,
           bytes(own));
}

static void restoring(memsnap_snapshot *s, struct holder *h)
{
    static double took[CYCLES], reopened[CYCLES];
    memsnap_view *view = h[0].view;
    unsigned char *data = memsnap_view_data(view);

    chapter("Restoring: back in place, at the same address");
    must(memsnap_view_restore(view), "restoring");
    working("comparing");
    claim(memsnap_view_data(view) == data && is_file_with(data, NULL, 0),
          "restored: every byte is the file's again");
    must(memsnap_view_restore_to(view, h[1].child), "restoring to a child");
    claim(is_file_with(data, h[1].change, h[1].changes),
          "moved to another thread's child, in place");
    must(memsnap_view_restore_to(view, s), "restoring to the file");
    claim(is_file_with(data, NULL, 0), "and back");
    must(memsnap_view_protect(view, 0, file.size, MEMSNAP_ACCESS_READ), "protecting");
    must(memsnap_view_restore(view), "restoring");
    apply(data, h[0].change, h[0].changes);
    claim(dirty_in(view, h[0].change, h[0].changes),
          "made read-only, restored, and written to again");

    memsnap_view *other;
    must(memsnap_snapshot_view(s, 0, &other), "opening a view");
    for (size_t i = 0; i < CYCLES; i++) {
        double start = now_us();
        apply(memsnap_view_data(other), h[0].change, h[0].changes);
        must(memsnap_view_restore(other), "restoring");
        took[i] = now_us() - start;
    }
    memsnap_view_unref(other);
    for (size_t i = 0; i < CYCLES; i++) {
        double start = now_us();
        must(memsnap_snapshot_view(s, 0, &other), "opening a view");
        apply(memsnap_view_data(other), h[0].change, h[0].changes);
        memsnap_view_unref(other);
        reopened[i] = now_us() - start;
    }
    cost(median(took, CYCLES), "changing %zu pages and restoring them", h[0].changes);
    cost(median(reopened, CYCLES), "the same with a new mapping each time, for comparison");
}

/* The writer counts in two places, the second after the first, so that a cut through it shows. */
struct writing {
    uint64_t *first, *second;
    pthread_mutex_t lock;
    atomic_bool locked, stop;
    uint64_t stores;
};

static void *write_pairs(void *arg)
{
    struct writing *w = arg;

    while (!atomic_load(&w->stop)) {
        bool locked = atomic_load(&w->locked);

        if (locked)
            pthread_mutex_lock(&w->lock);
        w->stores++;
        __atomic_store_n(w->first, w->stores, __ATOMIC_RELEASE);
        __atomic_store_n(w->second, w->stores, __ATOMIC_RELEASE);
        if (locked)
            pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

struct reading {
    pthread_t thread;
    memsnap_snapshot *snapshot;
    struct writing *writing;
    size_t second; /* its offset */
    double end_us, longest_us;
    size_t views, changed, torn, backwards;
};

static uint64_t value_at(const char *data, size_t offset)
{
    uint64_t n;

    memcpy(&n, data + offset, sizeof n);
    return n;
}

/* Opens views of what a writer is writing, again and again: each must stand still, be whole, and
 * not go back. */
static void *read_beside(void *arg)
{
    struct reading *r = arg;
    uint64_t seen = 0;

    while (now_us() < r->end_us) {
        memsnap_view *view;

        pthread_mutex_lock(&r->writing->lock);
        double start = now_us();
        must(memsnap_snapshot_view(r->snapshot, 0, &view), "opening a view beside a writer");
        double pause = now_us() - start;
        pthread_mutex_unlock(&r->writing->lock);
        r->longest_us = pause > r->longest_us ? pause : r->longest_us;

        const char *data = memsnap_view_data(view);
        uint64_t first = value_at(data, 0), second = value_at(data, r->second);
        usleep(500);
        r->changed += value_at(data, 0) != first || value_at(data, r->second) != second;
        r->torn += first != second;
        r->backwards += first < seen;
        seen = first;
        r->views++;
        memsnap_view_unref(view);
    }
    return NULL;
}

/* Snapshots of a view whose writer stops for nobody. False: this system cannot do it. */
static bool take_beside_free_writer(memsnap_view *mutable, size_t second, size_t *cuts,
                                    size_t *torn, double *us)
{
    static double took[CYCLES];

    for (*cuts = *torn = 0; *cuts < CYCLES; ++*cuts) {
        memsnap_snapshot *cut;
        uint64_t a, b;
        double start = now_us();
        int error = memsnap_view_take_snapshot(mutable, MEMSNAP_TAKE_ATOMIC, &cut);

        if (error == -ENOTSUP)
            return false;
        must(error, "taking a snapshot of a view that is written to");
        took[*cuts] = now_us() - start;
        must(memsnap_snapshot_read(cut, 0, &a, sizeof a), "reading a snapshot");
        must(memsnap_snapshot_read(cut, second, &b, sizeof b), "reading a snapshot");
        *torn += a != b && a != b + 1;
        memsnap_snapshot_unref(cut);
        usleep(200);
    }
    *us = median(took, *cuts);
    return true;
}

static void writer_beside_readers(memsnap_snapshot *s)
{
    memsnap_snapshot *live;
    memsnap_view *mutable, *other, *early;
    struct writing w = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct reading r[THREADS - 1];
    pthread_t writer;
    bool small = file.size < 16;

    chapter("One writer, beside readers who never notice");
    if (small)
        must(memsnap_snapshot_new_zeroed(file.page, 0, &live), "making an empty snapshot");
    else
        must(memsnap_snapshot_clone(s, &live), "cloning the snapshot");
    must(memsnap_snapshot_view(live, 0, &early), "opening a view");
    must(memsnap_snapshot_view_mut(live, 0, &mutable), "opening the mutable view");
    claim(memsnap_snapshot_view_mut(live, 0, &other) == -EBUSY,
          "a second mutable view is refused while one is open");
    size_t size = memsnap_view_size(mutable), second = (size - 8) / 8 * 8;
    char *data = memsnap_view_data(mutable);
    w.first = (uint64_t *)data;
    w.second = (uint64_t *)(data + second);
    *w.first = *w.second = 0;
    atomic_store(&w.locked, true);
    if (pthread_create(&writer, NULL, write_pairs, &w) != 0)
        give_up("cannot start a thread; raise ulimit -u");
    working("writing and reading");
    for (unsigned i = 0; i < THREADS - 1; i++) {
        r[i] = (struct reading){.snapshot = live, .writing = &w, .second = second};
        r[i].end_us = now_us() + WRITER_MS * 1e3;
        if (pthread_create(&r[i].thread, NULL, read_beside, &r[i]) != 0)
            give_up("cannot start a thread; raise ulimit -u");
    }
    size_t views = 0, bad = 0, backwards = 0, cuts, torn;
    double longest = 0, us;
    for (unsigned i = 0; i < THREADS - 1; i++) {
        pthread_join(r[i].thread, NULL);
        views += r[i].views;
        bad += r[i].changed + r[i].torn;
        backwards += r[i].backwards;
        longest = r[i].longest_us > longest ? r[i].longest_us : longest;
    }
    claim(bad == 0, "%zu views opened meanwhile: each stood still, with no store half done", views);
    claim(backwards == 0, "and none showed less than the one before it");
    cost(longest, "the longest that one of them held up the writer");

    atomic_store(&w.locked, false);
    working("taking snapshots of a writer that stops for nobody");
    if (take_beside_free_writer(mutable, second, &cuts, &torn, &us)) {
        claim(torn == 0, "%zu snapshots of a writer without a lock: each is one instant", cuts);
        cost(us, "taking one");
    } else {
        printf("         snapshots of a writer without a lock: this system lacks what they need "
               "(userfaultfd)\n");
    }
    atomic_store(&w.stop, true);
    pthread_join(writer, NULL);

    memsnap_view_unref(mutable);
    must(memsnap_snapshot_view(live, 0, &other), "opening a view");
    claim(value_at(memsnap_view_data(other), 0) == w.stores &&
              value_at(memsnap_view_data(other), second) == w.stores,
          "after %llu stores the last one is there, in both places",
          (unsigned long long)w.stores * 2);
    memsnap_view_unref(other);
    if (!small)
        claim(is_file_with(memsnap_view_data(early), NULL, 0),
              "a view opened before the first store shows none");
    memsnap_view_unref(early);
    memsnap_snapshot_unref(live);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

/* The file that the library was loaded from, or else this program. */
static const char *library_path(void)
{
    static char line[4096];
    FILE *f = fopen("/proc/self/maps", "re");
    char *path = NULL;

    while (f != NULL && path == NULL && fgets(line, sizeof line, f) != NULL) {
        if (strstr(line, "/libmemsnap") != NULL && (path = strchr(line, '/')) != NULL)
            path[strcspn(path, "\n")] = '\0';
    }
    if (f != NULL)
        fclose(f);
    return path != NULL ? path : "/proc/self/exe";
}

static void open_file(const char *path)
{
    struct stat st;

    file.path = path;
    file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file.fd < 0 || fstat(file.fd, &st) < 0)
        give_up("cannot open %s: %s; give a file that you may read: tour FILE", path,
                strerror(errno));
    if (!S_ISREG(st.st_mode))
        give_up("%s is not a regular file; give one: tour FILE", path);
    if (st.st_size == 0)
        give_up("%s is empty: there is nothing in it to change; give a file with bytes in it: tour "
                "FILE",
                path);
    if ((uint64_t)st.st_size > SIZE_MAX / 2)
        give_up("%s is larger than this machine can address; give a smaller file: tour FILE", path);
    file.size = (size_t)st.st_size;
    file.page = memsnap_page_size();
    file.pages = (file.size + file.page - 1) / file.page;
}

int main(int argc, char **argv)
{
    static struct holder holder[THREADS];
    const char *term = getenv("TERM");

    terminal = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL && term != NULL &&
               strcmp(term, "dumb") != 0;
    if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
        fprintf(stderr, "usage: tour [FILE]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_file(argc == 2 ? argv[1] : library_path());
    size_t fds = descriptors();
    printf("%smemsnap %s: a tour%s\n\n", BOLD, memsnap_version_string(), PLAIN);
    printf("         file   %s\n         size   %s, %zu pages of %s\n", file.path, bytes(file.size),
           file.pages, bytes(file.page));
    working("hashing the file");
    uint64_t hash = hash_file();
    clear_line();
    printf("         hash   %016llx\n", (unsigned long long)hash);

    memsnap_snapshot *s = snapshot_the_file(hash);
    views_in_threads(s, holder);
    children(s, holder);
    chain(s);
    restoring(s, holder);
    writer_beside_readers(s);

    chapter("Afterwards");
    memsnap_snapshot_unref(s);
    unsigned alive = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        memsnap_snapshot_unref(holder[i].child);
        if (i > 0)
            alive += is_file_with(memsnap_view_data(holder[i].view), holder[i].change,
                                  holder[i].changes);
        memsnap_view_unref(holder[i].view);
    }
    claim(alive == THREADS - 1,
          "views outlive every handle to their snapshot, with all their bytes");
    working("hashing the file");
    claim(hash_file() == hash, "the file is what it was");
    if (fds > 0)
        /* but what the library asks the kernel by, once for the process: see memsnap(7) */
        claim(descriptors() <= fds + 3, "nothing is left open");
    close(file.fd);

    if (broken == 0)
        printf("\n%sAll %u claims held.%s\n", GREEN, claims, PLAIN);
    else
        printf("\n%s%u of %u claims did not hold.%s Please report this, with what is above.\n", RED,
               broken, claims, PLAIN);
    return broken == 0 ? 0 : 1;
}
