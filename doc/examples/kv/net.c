/* SPDX-License-Identifier: MIT */
/* net.c - connections. One thread accepts them and looks after signals; workers, each with an epoll
 * of its own, serve them. A client belongs to one worker, and nobody else touches it but CLIENT
 * LIST, under the worker's lock.
 *
 * What a client can take is bounded, and what it does not need it gives back:
 *   descriptors   so many clients are let in that saving and stopping always find some (RESERVED)
 *   buffers       see buffer.c; an idle client has none
 *   time          a request is run when it is whole, replies are sent as they are read; a client
 *                 that holds more than its share of the buffers and gets nothing done for
 *                 --timeout seconds is closed */
#define _GNU_SOURCE
#include "kvserver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Descriptors of the server itself and of the library, beside one for each worker. */
enum { RESERVED = 64 };

enum {
    LEAST_READ = 4096,
    SMALL_REPLY = 1024,     /* room that every command finds, so that no small reply is lost */
    MAX_PENDING = 4u << 20, /* with so many bytes of replies waiting, no more requests are run */
    ACCEPTED = 64,          /* connections at a time, or signals would have to wait */
    TICK_MS = 1000,         /* between looks at all of a worker's clients */
    SWEEP_MS = 100,         /* between sweeps for expired entries */
    IDLE_US = 2000000,      /* after which a client's buffers are taken back */
    LINGER_US = 2000000     /* for which a client that was told to go is listened to */
};

struct worker {
    pthread_t thread;
    int epoll;
    pthread_mutex_t lock;   /* guards the list, and the names of its clients */
    struct client *clients; /* the listener adds, the worker removes */
};

static struct worker *workers;
static int listener = -1;
static int wake = -1; /* eventfd: readable once the server stops */
static atomic_uint stopping, clients;
static atomic_ullong last_id;

unsigned net_clients(void)
{
    return atomic_load(&clients);
}

void net_stop(void)
{
    uint64_t one = 1;

    atomic_store(&stopping, 1);
    if (write(wake, &one, sizeof one) < 0)
        abort(); /* an eventfd takes a 1 always */
}

void net_each_client(void (*visit)(const struct client *c, void *arg), void *arg)
{
    for (unsigned i = 0; i < options.threads; i++) {
        pthread_mutex_lock(&workers[i].lock);
        for (const struct client *c = workers[i].clients; c != NULL; c = c->next)
            visit(c, arg);
        pthread_mutex_unlock(&workers[i].lock);
    }
}

/* field is one of c's, of MAX_NAME bytes, and name is shorter. */
void net_name_client(struct client *c, char *field, struct slice name)
{
    pthread_mutex_lock(&c->worker->lock);
    memcpy(field, name.data, name.len);
    field[name.len] = '\0';
    pthread_mutex_unlock(&c->worker->lock);
}

/* ---- one client ------------------------------------------------------------------------------ */

/* False: the connection is done with. */
static bool send_replies(struct client *c)
{
    while (buffered(&c->out) > 0) {
        ssize_t n = send(c->fd, c->out.data + c->out.start, buffered(&c->out), MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        c->out.start += (size_t)n;
    }
    c->out.start = c->out.end = 0;
    if (c->out.capacity > OWN_SHARE)
        buffer_free(&c->out);
    return true;
}

/* The client is told, sent what waits, and closed. */
static void give_up(struct client *c, enum refusal kind, const char *trouble)
{
    refused(kind, "%s is closed: %s", c->peer, trouble + strcspn(trouble, " ") + 1);
    reply_begin(c);
    reply_error(c, "%s", trouble);
    c->closing = true;
}

/* At most twice as much as is there, and no more than the request is known to need. */
static bool make_room(struct client *c)
{
    size_t have = buffered(&c->in), most = c->request.missing;

    if (c->in.capacity - have >= LEAST_READ)
        return buffer_grow(&c->in, LEAST_READ);
    if (have < OWN_SHARE)
        have = OWN_SHARE;
    if (most < OWN_SHARE)
        most = OWN_SHARE;
    return buffer_grow(&c->in, have < most ? have : most);
}

static bool receive(struct client *c)
{
    if (!make_room(c)) {
        give_up(c, REFUSED_REQUEST, no_room);
        return true;
    }
    ssize_t n = recv(c->fd, c->in.data + c->in.end, c->in.capacity - c->in.end, 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    c->in.end += (size_t)n;
    c->half_closed = n == 0;
    return true;
}

/* As long as requests are whole and replies do not pile up. */
static void run_requests(struct client *c)
{
    while (!c->closing && buffered(&c->in) > 0 && buffered(&c->out) < MAX_PENDING) {
        const char *trouble = NULL;

        if (!buffer_reserve(&c->out, SMALL_REPLY)) {
            c->closing = buffered(&c->out) == 0;
            return; /* until what waits is sent; if nothing does, there is no memory at all */
        }
        enum parsed state = request_parse(c, &trouble);
        if (state == INCOMPLETE)
            return;
        if (state != PARSED) {
            give_up(c, state == NO_ROOM ? REFUSED_REQUEST : REFUSED_PROTOCOL, trouble);
            return;
        }
        if (c->args > 0)
            run_command(c);
        request_done(c);
        c->progress = atomic_load_explicit(&c->active, memory_order_relaxed);
    }
}

/* A client that was told why it is closed may be sending still: were its bytes not read, the system
 * would reset the connection, and the client might never see the reason. */
static bool linger(struct client *c)
{
    char nowhere[4096];
    ssize_t n;

    if (!c->lingering) {
        shutdown(c->fd, SHUT_WR);
        c->progress = now_us();
    }
    c->lingering = true;
    buffer_free(&c->in);
    for (unsigned i = 0; i < 64; i++) {
        n = recv(c->fd, nowhere, sizeof nowhere, 0);
        if (n <= 0)
            return n < 0 && (errno == EAGAIN || errno == EINTR);
    }
    return true;
}

static bool watch_for(struct client *c, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};

    if (events == c->events)
        return true;
    c->events = events;
    return epoll_ctl(c->worker->epoll, EPOLL_CTL_MOD, c->fd, &e) == 0;
}

static bool serve(struct client *c, uint32_t events)
{
    size_t before;

    atomic_store_explicit(&c->active, now_us(), memory_order_relaxed);
    if (events & EPOLLERR || (events & EPOLLHUP && c->half_closed))
        return false;
    if (c->lingering)
        return linger(c);
    if (events & (EPOLLIN | EPOLLHUP) && !c->half_closed && !c->closing && !receive(c))
        return false;
    /* Requests may have waited for the replies before them to go out: as long as either moves, both
     * get their turn. */
    do {
        before = buffered(&c->in);
        run_requests(c);
        if (!send_replies(c))
            return false;
    } while (!c->closing && buffered(&c->in) < before && buffered(&c->out) == 0);
    atomic_store_explicit(&c->held, c->in.capacity + c->out.capacity, memory_order_relaxed);
    if (buffered(&c->out) > 0)
        return watch_for(c, EPOLLOUT);
    if (c->half_closed)
        return false;
    return watch_for(c, EPOLLIN) && (!c->closing || linger(c));
}

/* With the worker's lock held. */
static void put_on_list(struct worker *w, struct client *c)
{
    c->next = w->clients;
    c->link = &w->clients;
    if (c->next != NULL)
        c->next->link = &c->next;
    w->clients = c;
}

static void take_off_list(struct client *c)
{
    *c->link = c->next;
    if (c->next != NULL)
        c->next->link = c->link;
}

static void free_client(struct client *c)
{
    close(c->fd);
    buffer_free(&c->in);
    buffer_free(&c->out);
    request_free(&c->request);
    free(c);
    atomic_fetch_sub(&clients, 1);
}

static void drop_client(struct worker *w, struct client *c)
{
    pthread_mutex_lock(&w->lock);
    take_off_list(c);
    pthread_mutex_unlock(&w->lock);
    /* Closing alone would leave it watched for as long as a child process has a copy of the
     * descriptor. */
    epoll_ctl(w->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    free_client(c);
}

/* ---- workers --------------------------------------------------------------------------------- */

static bool is_over_share(const struct client *c)
{
    return c->in.capacity > OWN_SHARE || c->out.capacity > OWN_SHARE;
}

/* False: it has been lingering, or in the way of others, for long enough. */
static bool tend_client(struct client *c, uint64_t now)
{
    uint64_t idle = now - atomic_load(&c->active);

    if (c->lingering)
        return now - c->progress < LINGER_US;
    if (!is_over_share(c)) {
        c->progress = now;
    } else if (options.timeout_s > 0 && now - c->progress > options.timeout_s * 1000000ull) {
        refused(REFUSED_STALLED, "%s is closed: it held %zu bytes and got nothing done for %u s",
                c->peer, c->in.capacity + c->out.capacity, options.timeout_s);
        return false;
    }
    if (idle > IDLE_US && buffered(&c->in) == 0 && buffered(&c->out) == 0) {
        buffer_free(&c->in);
        buffer_free(&c->out);
        request_free(&c->request);
        atomic_store_explicit(&c->held, 0, memory_order_relaxed);
    }
    return true;
}

/* Only this thread takes clients off the list. */
static void tend(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    struct client *c = w->clients;
    pthread_mutex_unlock(&w->lock);
    uint64_t now = now_us();
    while (c != NULL) {
        struct client *next = c->next;

        if (!tend_client(c, now))
            drop_client(w, c);
        c = next;
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct epoll_event events[64];
    uint64_t tended = now_us();

    while (!atomic_load(&stopping)) {
        int n = epoll_wait(w->epoll, events, 64, TICK_MS);

        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;

            if (c != NULL && !serve(c, events[i].events))
                drop_client(w, c);
        }
        if (now_us() - tended < TICK_MS * 1000)
            continue;
        tend(w);
        tended = now_us();
    }
    return NULL;
}

static void watch(int epoll, int fd, void *what)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = what};

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        die("cannot watch a descriptor: %s", strerror(errno));
}

static int make_epoll(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);

    if (epoll < 0)
        die("no epoll descriptor: %s; raise the limit with ulimit -n", strerror(errno));
    watch(epoll, wake, NULL);
    return epoll;
}

static void start_workers(void)
{
    workers = calloc(options.threads, sizeof *workers);
    if (workers == NULL)
        die("out of memory for %u threads; give fewer --threads", options.threads);
    for (unsigned i = 0; i < options.threads; i++) {
        struct worker *w = &workers[i];

        pthread_mutex_init(&w->lock, NULL);
        w->epoll = make_epoll();
    }
    for (unsigned i = 0; i < options.threads; i++) {
        int error = pthread_create(&workers[i].thread, NULL, work, &workers[i]);

        if (error != 0)
            die("cannot start thread %u: %s; give fewer --threads", i + 1, strerror(error));
    }
}

static void end_workers(void)
{
    for (unsigned i = 0; i < options.threads; i++)
        pthread_join(workers[i].thread, NULL);
    for (unsigned i = 0; i < options.threads; i++) {
        while (workers[i].clients != NULL)
            drop_client(&workers[i], workers[i].clients);
        close(workers[i].epoll);
        pthread_mutex_destroy(&workers[i].lock);
    }
    free(workers);
}

/* ---- accepting ------------------------------------------------------------------------------- */

/* However many descriptors the clients have, as many are left as the server needs. */
void net_limit_clients(void)
{
    struct rlimit limit;
    unsigned own = RESERVED + options.threads;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("cannot ask for the limit of descriptors: %s", strerror(errno));
    rlim_t wanted = (rlim_t)options.max_clients + own;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= wanted)
        return;
    if (limit.rlim_cur <= own)
        die("%llu descriptors are too few, it takes %u and one for each client: raise the limit "
            "with ulimit -n",
            (unsigned long long)limit.rlim_cur, own);
    complain("%llu descriptors are enough for %llu clients instead of %u: raise the limit with "
             "ulimit -n",
             (unsigned long long)limit.rlim_cur, (unsigned long long)(limit.rlim_cur - own),
             options.max_clients);
    options.max_clients = (unsigned)(limit.rlim_cur - own);
}

void net_listen(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    socklen_t len = sizeof a;
    int one = 1;

    /* Loopback only: nobody is asked for a password. */
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0)
        die("no socket: %s", strerror(errno));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 511) < 0 ||
        getsockname(listener, (struct sockaddr *)&a, &len) < 0)
        die("cannot listen on 127.0.0.1:%u: %s; give another --port, or 0 for any free one",
            options.port, strerror(errno));
    options.port = ntohs(a.sin_port);
}

static void refuse_client(int fd)
{
    static const char line[] = "-ERR max number of clients reached\r\n";

    refused(REFUSED_CLIENT, "a client is turned away: there are %u; raise --max-clients",
            options.max_clients);
    if (send(fd, line, sizeof line - 1, MSG_NOSIGNAL) < 0) {
        /* It is gone already. */
    }
    close(fd);
}

static void name_peer(struct client *c, const struct sockaddr_in *a)
{
    char address[INET_ADDRSTRLEN] = "?";

    inet_ntop(AF_INET, &a->sin_addr, address, sizeof address);
    snprintf(c->peer, sizeof c->peer, "%s:%u", address, ntohs(a->sin_port));
}

static void add_client(struct worker *w, int fd, const struct sockaddr_in *a)
{
    struct client *c = calloc(1, sizeof *c);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;

    if (c == NULL) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->fd = fd;
    c->id = atomic_fetch_add(&last_id, 1) + 1;
    c->worker = w;
    c->events = EPOLLIN;
    c->connected = c->progress = now_us();
    atomic_store(&c->active, c->connected);
    name_peer(c, a);
    atomic_fetch_add(&clients, 1);
    /* From when it is watched the client is the worker's, which may drop it as soon as the lock is
     * free. */
    pthread_mutex_lock(&w->lock);
    put_on_list(w, c);
    bool watched = epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e) == 0;
    if (!watched)
        take_off_list(c);
    pthread_mutex_unlock(&w->lock);
    if (!watched)
        free_client(c);
}

static void accept_clients(void)
{
    static unsigned turn;
    struct sockaddr_in a;

    for (unsigned i = 0; i < ACCEPTED; i++) {
        socklen_t len = sizeof a;
        int fd = accept4(listener, (struct sockaddr *)&a, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0) {
            /* The queue stays readable: wait for what is missing rather than spin. */
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                usleep(10000);
            return;
        }
        if (net_clients() >= options.max_clients)
            refuse_client(fd);
        else
            add_client(&workers[turn++ % options.threads], fd, &a);
    }
}

void net_run(int signals, void (*take_signal)(int signals))
{
    struct epoll_event events[4];

    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0)
        die("no event descriptor: %s", strerror(errno));
    int epoll = make_epoll();
    watch(epoll, listener, &listener);
    watch(epoll, signals, &signals);
    start_workers();
    while (!atomic_load(&stopping)) {
        int n = epoll_wait(epoll, events, 4, SWEEP_MS);

        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &listener)
                accept_clients();
            else if (events[i].data.ptr == &signals)
                take_signal(signals);
        }
        table_sweep();
    }
    end_workers();
    close(epoll);
    close(listener);
    close(wake);
}
