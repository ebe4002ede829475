/* SPDX-License-Identifier: MIT */
/* Making descriptors, and knowing whose they are.
 *
 * The kernel gives out the lowest free number. In a process that has closed its standard
 * descriptors that is one of 0 to 2, which the whole program goes on writing to and reading from:
 * for as long as an object of the library's has such a number, somebody's output lands in it. So
 * while one is made, the numbers that are free are taken by placeholders, which can be neither
 * read nor written: to read(2) and write(2) they are as closed as before. Threads that make
 * descriptors at the same time share them, and the last one removes them.
 *
 * What remains: a thread that closes one of 0 to 2 between the look at them and the system call
 * that makes the descriptor; there is no call that makes one above a number. */
#include "config.h"

#include "os/internal.h"
#ifdef __linux__
#include "os/kernel.h"
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <unistd.h>

/* ---- placeholders ---------------------------------------------------------------------------- */

enum { STANDARD = 3 };

/* Under the leaf lock. */
static struct {
    unsigned users; /* threads that are making a descriptor */
    size_t process; /* ms_process_generation() that they are counted in */
    struct {
        bool held;
        uint64_t dev, ino;
    } at[STANDARD];
} placeholders;

static int open_placeholder(int fd)
{
#ifdef O_PATH
    (void)fd;
    return open("/", O_PATH | O_CLOEXEC);
#else
    return open("/dev/null", (fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
#endif
}

static bool is_placeholder(int fd)
{
    struct stat st;
    if (!placeholders.at[fd].held || fstat(fd, &st) < 0)
        return false;
#ifdef O_PATH
    if (!(fcntl(fd, F_GETFL) & O_PATH))
        return false; /* the program's own, put there meanwhile */
#endif
    return (uint64_t)st.st_dev == placeholders.at[fd].dev &&
           (uint64_t)st.st_ino == placeholders.at[fd].ino;
}

static bool put_placeholder(int fd)
{
    struct stat st;
    int got = open_placeholder(fd);
    if (got < 0)
        return false;
    if (got >= STANDARD) { /* another thread was faster: the number is taken */
        close(got);
        return true;
    }
    placeholders.at[got].held = fstat(got, &st) == 0;
    placeholders.at[got].dev = (uint64_t)st.st_dev;
    placeholders.at[got].ino = (uint64_t)st.st_ino;
    return placeholders.at[got].held;
}

static void remove_placeholders(void)
{
    for (int fd = 0; fd < STANDARD; fd++) {
        if (is_placeholder(fd))
            close(fd);
        placeholders.at[fd].held = false;
    }
}

/* No new descriptor gets a number below 3 until end(). False and errno: that cannot be had. */
static bool begin(void)
{
    bool taken = true;
    ms_leaf_lock();
    if (placeholders.process != ms_process_generation()) {
        /* a forked child: those who counted themselves are in the parent */
        remove_placeholders();
        placeholders.users = 0;
        placeholders.process = ms_process_generation();
    }
    for (int fd = 0; fd < STANDARD && taken; fd++)
        taken = fcntl(fd, F_GETFD) >= 0 || put_placeholder(fd);
    if (taken)
        placeholders.users++;
    else if (placeholders.users == 0)
        remove_placeholders();
    ms_leaf_unlock();
    return taken;
}

static void remove_unused(void)
{
    int saved = errno;
    ms_leaf_lock();
    if (placeholders.users > 0 && --placeholders.users == 0)
        remove_placeholders();
    ms_leaf_unlock();
    errno = saved;
}

/* Where one of 0 to 2 was closed in between: see above. */
static int move_up(int fd)
{
    if (fd >= STANDARD || fd < 0)
        return fd;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, STANDARD);
    /* EINVAL: no descriptor above 2 is allowed at all */
    int e = errno == EINVAL ? EMFILE : errno;
    close(fd);
    errno = e;
    return moved;
}

static int end(int fd)
{
    fd = move_up(fd);
    remove_unused();
    return fd;
}

/* ---- making ---------------------------------------------------------------------------------- */

int ms_openat(int dir, const char *path, int flags, unsigned mode)
{
    int fd;
    if (!begin())
        return -1;
    do
        fd = openat(dir, path, flags | O_CLOEXEC | O_NOCTTY, (mode_t)mode);
    while (fd < 0 && errno == EINTR);
    return end(fd);
}

int ms_open_temporary(char *template)
{
    return begin() ? end(mkostemp(template, O_CLOEXEC)) : -1;
}

int ms_duplicate(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, STANDARD);
    if (copy < 0 && errno == EINVAL)
        errno = EMFILE;
    return copy;
}

#ifdef __linux__

int ms_open_memfd(unsigned flags)
{
#ifdef SYS_memfd_create
    return begin() ? end((int)syscall(SYS_memfd_create, "memsnap", MFD_CLOEXEC | flags)) : -1;
#else
    (void)flags;
    errno = ENOSYS;
    return -1;
#endif
}

#if defined HAVE_LINUX_USERFAULTFD_H && defined SYS_userfaultfd

int ms_open_userfaultfd(unsigned flags)
{
    return begin() ? end((int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags)) : -1;
}

int ms_open_userfaultfd_device(void)
{
    int device = ms_openat(AT_FDCWD, "/dev/userfaultfd", O_RDWR, 0);
    if (device < 0)
        return -1;
    int fd = begin() ? end(MS_IOCTL(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)) : -1;
    int saved = errno;
    close(device);
    errno = saved;
    return fd;
}

#endif
#endif

/* ---- whose it is ----------------------------------------------------------------------------- */

int ms_object_adopt(int fd, const char *kind, struct os_object *o)
{
    if (fd < 0)
        return ms_os_error(errno);
    struct stat st;
    if (fstat(fd, &st) < 0) {
        int r = ms_os_error(errno);
        close(fd);
        return r;
    }
    *o = (struct os_object){.fd = fd,
                            .dev = (uint64_t)st.st_dev,
                            .ino = (uint64_t)st.st_ino,
                            .nameless = st.st_nlink == 0,
                            .kind = kind};
    return 0;
}

int ms_object_reopen(const struct os_object *o, int flags)
{
    char path[32];
    struct stat st;
    snprintf(path, sizeof path, "/proc/self/fd/%d", o->fd);
    int fd = ms_openat(AT_FDCWD, path, flags, 0);
    if (fd < 0 ||
        (fstat(fd, &st) == 0 && (uint64_t)st.st_dev == o->dev && (uint64_t)st.st_ino == o->ino))
        return fd;
    close(fd);
    errno = ENOENT;
    return -1;
}

int ms_object_check(const struct os_object *o, struct stat *st)
{
    if (o->fd < 0 || fstat(o->fd, st) < 0)
        return -EBADF;
    if ((uint64_t)st->st_dev != o->dev || (uint64_t)st->st_ino != o->ino)
        return -EBADF;
    return o->nameless && st->st_nlink > 0 ? -EBADF : 0;
}

void ms_object_close(struct os_object *o)
{
    int saved = errno;
    struct stat st;
    if (ms_object_check(o, &st) == 0)
        close(o->fd);
    o->fd = -1;
    errno = saved;
}

/* ---- one for the process --------------------------------------------------------------------- */

int ms_shared_file(struct shared_file *f, bool verify)
{
    struct stat st;
    int r = 0;
    pthread_mutex_lock(&f->lock);
    if (f->process != ms_process_generation() ||
        (verify && f->file.fd >= 0 && ms_object_check(&f->file, &st) < 0))
        ms_object_close(&f->file);
    if (f->file.fd < 0)
        r = f->open(&f->file);
    f->process = ms_process_generation();
    int fd = r < 0 ? r : f->file.fd;
    pthread_mutex_unlock(&f->lock);
    return fd;
}

void ms_shared_file_close(struct shared_file *f)
{
    pthread_mutex_lock(&f->lock);
    ms_object_close(&f->file);
    pthread_mutex_unlock(&f->lock);
}

/* ---- files of the kernel's ------------------------------------------------------------------- */

bool ms_text_in(const char *path, char *text, size_t size)
{
    int fd = ms_openat(AT_FDCWD, path, O_RDONLY, 0);
    if (fd < 0)
        return false;
    ssize_t n;
    do
        n = read(fd, text, size - 1);
    while (n < 0 && errno == EINTR);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

long long ms_number_in(const char *path)
{
    char text[32], *end;
    if (!ms_text_in(path, text, sizeof text))
        return -1;
    long long value = strtoll(text, &end, 10);
    return end == text ? -1 : value;
}
