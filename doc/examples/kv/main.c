/* SPDX-License-Identifier: MIT */
/* kvserver - a key-value server that saves itself while it runs.
 *
 * It speaks enough of the Redis protocol for redis-cli, redis-benchmark and client libraries:
 * strings with expiry (COMMAND lists the commands), with pipelining. The whole data set, allocator
 * included, lies in one mutable view.
 *
 * BGSAVE holds the writers for as long as memsnap_view_take_snapshot() takes, and not a moment
 * longer; a thread then writes the captured snapshot to the file while the writers go on.
 *
 * In doc/examples/kv:
 *
 *     cc -O2 -pthread *.c $(pkg-config --cflags --libs memsnap) -o kvserver
 *     ./kvserver --port 6380 --size 256M --file data.img
 *
 * To read it, begin with kvserver.h. Of the library it uses new_zeroed, new_from_file and view_mut
 * (image.c), take_snapshot and save (save.c). */
#define _GNU_SOURCE
#include "kvserver.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

struct options options = {
    .port = 6380,
    .threads = 4,
    .max_clients = 10000,
    .timeout_s = 60,
    .size = (size_t)256 << 20,
    .max_buffers = (size_t)256 << 20,
    .file = "kvserver.img",
};
time_t started;

static const char usage[] =
    "usage: kvserver [OPTION VALUE]...\n"
    "  --port N             on 127.0.0.1; 0: any free one (6380)\n"
    "  --size BYTES         of a new data set, with K, M or G; at least 1M (256M)\n"
    "  --file FILE          loaded at the start if it exists; BGSAVE and SHUTDOWN write it "
    "(kvserver.img)\n"
    "  --threads N          that serve connections (4)\n"
    "  --max-clients N      connections at a time (10000, or what the limit of descriptors "
    "allows)\n"
    "  --max-buffers BYTES  for requests and replies under way, of all clients together (256M)\n"
    "  --timeout SECONDS    after which a client that holds much of that and gets nothing done is "
    "closed; 0: never (60)\n"
    "SIGINT, SIGTERM and SIGHUP save and stop it.\n";

__attribute__((noreturn)) static void misused(const char *option, const char *trouble)
{
    fprintf(stderr, "kvserver: %s %s\n%s", option, trouble, usage);
    exit(1);
}

/* Dies naming the option, unless text is a number from min to max. */
static size_t parse_number(const char *option, const char *text, size_t min, size_t max, bool unit)
{
    char *end;
    unsigned shift = 0;

    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (unit && *end != '\0' && strchr("KMG", *end) != NULL)
        shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 30, end++;
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n > (max >> shift) ||
        n << shift < min)
        die("%s %s is not a number from %zu to %zu", option, text, min, max);
    return (size_t)n << shift;
}

static void parse_option(const char *name, const char *value)
{
    if (strcmp(name, "--port") == 0)
        options.port = (unsigned)parse_number(name, value, 0, 65535, false);
    else if (strcmp(name, "--threads") == 0)
        options.threads = (unsigned)parse_number(name, value, 1, 256, false);
    else if (strcmp(name, "--max-clients") == 0)
        options.max_clients = (unsigned)parse_number(name, value, 1, 1000000, false);
    else if (strcmp(name, "--timeout") == 0)
        options.timeout_s = (unsigned)parse_number(name, value, 0, 1000000, false);
    else if (strcmp(name, "--size") == 0)
        options.size = parse_number(name, value, IMAGE_MIN, SIZE_MAX / 4, true);
    else if (strcmp(name, "--max-buffers") == 0)
        options.max_buffers = parse_number(name, value, 0, SIZE_MAX / 4, true);
    else if (strcmp(name, "--file") == 0)
        options.file = value;
    else
        misused(name, "is not an option");
}

static void parse_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            exit(0);
        }
        if (i + 1 == argc)
            misused(argv[i], "is not an option, or lacks its value");
        parse_option(argv[i], argv[i + 1]);
    }
}

/* What would kill the server with its data unsaved. A closed standard error or output (SIGPIPE) and
 * a limit on the size of files (SIGXFSZ) are errors like others; the rest means: save and stop. Who
 * was started by nohup stays deaf to SIGHUP. */
static int catch_signals(void)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGXCPU};
    struct sigaction old;
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        if (ends[i] == SIGHUP && sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler == SIG_IGN)
            continue;
        sigaddset(&set, ends[i]);
    }
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        die("no signal descriptor: %s", strerror(errno));
    return fd;
}

/* Where saving fails the server goes on, since it holds the only copy. */
static void take_signal(int fd)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof info) == sizeof info && save_and_close() == 0)
        net_stop();
}

/* Descriptors 0 to 2 are somebody's, even if the server was started without: no file of ours gets
 * one of them. */
static void hold_standard_descriptors(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

int main(int argc, char **argv)
{
    hold_standard_descriptors();
    parse_options(argc, argv);
    started = time(NULL);
    int signals = catch_signals();
    net_limit_clients();
    table_init();
    image_lock(options.file);
    net_listen();
    save_start(image_open());
    say("process %ld is ready on 127.0.0.1:%u, %u threads, saves to %s", (long)getpid(),
        options.port, options.threads, options.file);

    net_run(signals, take_signal);

    save_end();
    close(signals);
    image_close();
    image_unlock();
    say("stopped");
    return 0;
}
