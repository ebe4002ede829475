/* SPDX-License-Identifier: MIT */
/* handoff - a memory image handed from one process to another, without copying it.
 *
 * The sender makes a snapshot, exports it as a descriptor and passes that over a Unix socket.
 * The receiver adopts it, works on a view of its own, tries in vain to change what the sender
 * has, and hands back a snapshot of its changed view. Both check every byte.
 *
 *     cc -O2 handoff.c $(pkg-config --cflags --libs memsnap) -o handoff
 *     ./handoff [MIB]              size of the image; 64 without
 *
 * Exit status: 0 if everything held in both processes, 1 if not, 2 if it could not be tried. */
#define _GNU_SOURCE
#include <memsnap.h>

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHANGES = 16, PATIENCE_S = 120 };

static const char *who;
static unsigned broken;

__attribute__((format(printf, 1, 2), noreturn)) static void give_up(const char *format, ...)
{
    va_list args;

    fprintf(stderr, "handoff: %s: ", who);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

static void must(int result, const char *what)
{
    if (result == -ENOMEM || result == -ENOSPC)
        give_up("%s: %s; give a smaller size: handoff MIB", what, strerror(-result));
    if (result < 0)
        give_up("%s: %s", what, strerror(-result));
}

__attribute__((format(printf, 2, 3))) static void claim(bool held, const char *format, ...)
{
    va_list args;

    broken += !held;
    printf("%-9s %s  ", who, held ? "  ok  " : "FAILED");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

static void cost(const char *what, double us)
{
    printf("%-9s         %-40s %10.1f us\n", who, what, us);
}

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* ---- what the image holds -------------------------------------------------------------------- */

/* Word number i, before and after the receiver's change. Known to both, so that nothing but the
 * image need be sent. */
static uint64_t word(size_t i)
{
    uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u;

    x ^= x >> 31;
    return x * 0xbf58476d1ce4e5b9u;
}

static size_t changed_word(size_t i, size_t words)
{
    return i * (words / CHANGES) + 5;
}

static bool holds_pattern(const uint64_t *data, size_t words, bool changed)
{
    size_t next = 0;

    for (size_t i = 0; i < words; i++) {
        uint64_t want = word(i);

        if (changed && next < CHANGES && i == changed_word(next, words)) {
            want = ~want;
            next++;
        }
        if (data[i] != want)
            return false;
    }
    return true;
}

/* ---- messages: a size, and a descriptor ------------------------------------------------------ */

static void send_image(int channel, int fd, uint64_t size)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec v = {&size, sizeof size};
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    if (sendmsg(channel, &m, MSG_NOSIGNAL) < 0)
        give_up("cannot send the descriptor: %s; did the other process end?", strerror(errno));
}

static int receive_image(int channel, uint64_t *size)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec v = {size, sizeof *size};
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    ssize_t n = recvmsg(channel, &m, MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    int fd;

    if (n != (ssize_t)sizeof *size || c == NULL || c->cmsg_type != SCM_RIGHTS ||
        (m.msg_flags & MSG_CTRUNC))
        give_up("no descriptor came: %s",
                n < 0 ? strerror(errno) : "the other process ended, or ulimit -n is too low");
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

/* ---- the two processes ----------------------------------------------------------------------- */

/* errno says why. */
static void refused(bool failed, const char *what)
{
    claim(failed, "%s is refused: %s", what, failed ? strerror(errno) : "it was not");
}

/* Every way there is to reach the sender's bytes. Not even a superuser's reopened descriptor
 * gets past the seals. */
static void attack(int fd, size_t size)
{
    const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
    char path[64];

    claim((fcntl(fd, F_GET_SEALS) & all) == all,
          "the descriptor is sealed: shrink, grow, write, seal");
    refused(pwrite(fd, "x", 1, 0) < 0, "write");
    refused(ftruncate(fd, 0) < 0, "shrinking");
    refused(ftruncate(fd, (off_t)size * 2) < 0, "growing");
    refused(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)size) < 0,
            "punching a hole");
    refused(mmap(NULL, memsnap_page_size(), PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED,
            "a shared mapping");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR | O_CLOEXEC);
    refused(again < 0 || pwrite(again, "x", 1, 0) < 0, "reopening it and writing");
    if (again >= 0)
        close(again);
}

static int receive(int channel)
{
    memsnap_snapshot *s, *changed;
    memsnap_view *view;
    uint64_t size;

    who = "receiver";
    int fd = receive_image(channel, &size);
    double start = now_us();
    must(memsnap_snapshot_new_from_fd(fd, 0, &s), "adopting the image");
    cost("adopting it", now_us() - start);
    claim(memsnap_snapshot_size(s) == size, "it has the size that was announced");
    attack(fd, (size_t)size);
    close(fd);

    must(memsnap_snapshot_view(s, 0, &view), "opening a view");
    uint64_t *data = memsnap_view_data(view);
    size_t words = (size_t)size / sizeof *data;
    claim(holds_pattern(data, words, false), "every word is the sender's");
    for (size_t i = 0; i < CHANGES; i++)
        data[changed_word(i, words)] = ~data[changed_word(i, words)];
    must(memsnap_view_take_snapshot(view, 0, &changed), "taking a snapshot");
    start = now_us();
    must(memsnap_snapshot_export_fd(changed, &fd), "exporting the changed image");
    cost("exporting the changed image", now_us() - start);
    send_image(channel, fd, size);
    close(fd);

    memsnap_view_unref(view);
    memsnap_snapshot_unref(changed);
    memsnap_snapshot_unref(s);
    return broken == 0 ? 0 : 1;
}

static memsnap_snapshot *make_image(size_t size)
{
    memsnap_snapshot *s;
    memsnap_view *view;

    must(memsnap_snapshot_new_zeroed(size, 0, &s), "making the image");
    must(memsnap_snapshot_view_mut(s, 0, &view), "opening a mutable view");
    uint64_t *data = memsnap_view_data(view);
    for (size_t i = 0; i < size / sizeof *data; i++)
        data[i] = word(i);
    memsnap_view_unref(view);
    return s;
}

static bool snapshot_holds(memsnap_snapshot *s, bool changed)
{
    memsnap_view *view;

    must(memsnap_snapshot_view(s, 0, &view), "opening a view");
    bool holds =
        holds_pattern(memsnap_view_data(view), memsnap_view_size(view) / sizeof(uint64_t), changed);
    memsnap_view_unref(view);
    return holds;
}

static void send_and_check(int channel, size_t size)
{
    memsnap_snapshot *s = make_image(size), *back;
    uint64_t announced;
    int fd;

    double start = now_us();
    must(memsnap_snapshot_export_fd(s, &fd), "exporting the image");
    cost("exporting the image", now_us() - start);
    send_image(channel, fd, size);
    close(fd);

    fd = receive_image(channel, &announced);
    must(memsnap_snapshot_new_from_fd(fd, 0, &back), "adopting the answer");
    close(fd);
    claim(announced == size && memsnap_snapshot_size(back) == size, "the answer has the same size");
    claim(snapshot_holds(back, true), "every word of it is the receiver's, %d of them changed",
          CHANGES);
    claim(snapshot_holds(s, false), "every word of our own image is what it was");
    memsnap_snapshot_unref(back);
    memsnap_snapshot_unref(s);
}

int main(int argc, char **argv)
{
    size_t mib = 64;
    int channel[2], status;
    char *end;

    who = "sender";
    if (argc == 2) {
        mib = strtoul(argv[1], &end, 10);
        if (argv[1][0] < '0' || argv[1][0] > '9' || *end != '\0' || mib == 0 ||
            mib > SIZE_MAX >> 24)
            give_up("%s is not a size in MiB; usage: handoff [MIB]", argv[1]);
    } else if (argc > 2) {
        give_up("too many arguments; usage: handoff [MIB]");
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("memsnap %s: handing %zu MiB from one process to another\n", memsnap_version_string(),
           mib);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0)
        give_up("no socket pair: %s", strerror(errno));
    pid_t child = fork();
    if (child < 0)
        give_up("cannot start the other process: %s", strerror(errno));
    alarm(PATIENCE_S); /* neither process waits for ever for the other */
    if (child == 0) {
        close(channel[0]);
        return receive(channel[1]);
    }
    close(channel[1]);
    send_and_check(channel[0], mib << 20);
    close(channel[0]);
    if (waitpid(child, &status, 0) < 0)
        give_up("lost the other process: %s", strerror(errno));
    claim(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the receiver is content too");
    return broken == 0 ? 0 : 1;
}
