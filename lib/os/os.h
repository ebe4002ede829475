/* SPDX-License-Identifier: MIT */
/* Everything the library asks of the operating system.
 *
 * One ops table per platform (os_linux, os_posix); the rest of lib/ includes this header and no
 * OS header. What differs between platforms is data in the table (caps, sizes) or an operation
 * that answers -ENOTSUP.
 *
 * Rules that hold for every operation:
 *  - int results are 0 or a negative errno from the closed set in memsnap(7); ms_os_error() is
 *    the one place that maps errno.
 *  - out-parameters are written on success only.
 *  - addresses and lengths of mappings are multiples of page_size.
 *  - EINTR and short transfers are handled inside.
 *  - none prints, aborts, raises SIGXFSZ or leaves a descriptor open across exec.
 * Tests wrap a table to make the n-th operation fail (tests/support/fault.h). */
#ifndef MS_OS_H
#define MS_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/lock_order.h"

/* ---- data ------------------------------------------------------------------------------------ */

/* An OS object that holds pages: memfd, unlinked temporary file, or the user's own file. */
struct os_object {
    int fd; /* > 2, close-on-exec; -1: none */
    /* identity when made; -EBADF once the descriptor number means something else */
    uint64_t dev, ino;
    /* when made: a file with a name is another one, even if it has got the same inode */
    bool nameless;
    const char *kind; /* "memfd", "file": what statistics report */
};

struct os_iov {
    void *base;
    size_t len;
};

struct os_range { /* addresses, page-aligned */
    uintptr_t start, end;
    bool guarded; /* of candidates: whoever touches it gets a SIGSEGV (a guard region) */
};

enum os_share {
    OS_PRIVATE,      /* readable, writable, copy-on-write, no swap reserved */
    OS_SHARED_WRITE, /* readable, writable, stores reach the object */
    OS_SHARED_READ   /* readable, shows what is in the object */
};

/* Of protect(), with or without MEMSNAP_ACCESS_EXEC: the library may read, and the range does not
 * become one mapping with what lies beside it, whatever that is: protecting it anew as it was
 * takes no further mapping. */
#define OS_ACCESS_LOOK (1 << 8)

enum os_advice {
    OS_NODUMP,     /* leave out of core dumps */
    OS_NOFORK,     /* a forked child does not get this mapping */
    OS_FORK,       /* undo OS_NOFORK */
    OS_HUGE,       /* anonymous memory: huge pages welcome */
    OS_WILL_WRITE, /* all of it is about to be written: make the pages in one go */
    OS_BOUNDARY,   /* no more than a boundary: not one mapping with what lies beside it */
    OS_UNGUARD     /* no guard regions: their pages are as if nobody had stored to them */
};

/* Where candidates for "dirty" come from, best first. OS_SOURCE_COMPARE (every page) works
 * anywhere and needs no OS. */
enum os_source { OS_SOURCE_SCAN, OS_SOURCE_PAGEMAP, OS_SOURCE_COMPARE, OS_SOURCES };

struct os_saving {         /* a file that is being written, see save_open */
    struct os_object file; /* takes the bytes */
    void *place;           /* where it is to appear; private to the platform */
};

struct os_write_block { /* stops all writers of a range; see write_block_close */
    int fd;
    uintptr_t start, end;
    uint64_t saved[16]; /* signal mask, private to the platform */
};

enum os_cap {
    OS_CAP_DISCARD = 1u << 0, /* discard() reverts private pages to the object's */
    OS_CAP_PUNCH = 1u << 1,   /* punch() gives memory back */
    OS_CAP_HUGE = 1u << 2     /* collapse() may work */
};

struct os {
    const char *name; /* "linux", "posix" */
    unsigned caps;    /* enum os_cap */
    size_t (*page_size)(void);
    size_t (*huge_size)(void); /* bytes of a huge page; 0: none */

    /* -- bookkeeping memory -- */
    void *(*alloc)(size_t size);            /* zero-filled; NULL: out of memory */
    void *(*realloc)(void *p, size_t size); /* new bytes undefined */
    void (*free)(void *p);                  /* NULL allowed; keeps errno */

    /* Bytes of memory that could be had now: what asks for more is refused before it begins.
     * UINT64_MAX where unknown. */
    uint64_t (*memory_left)(void);

    /* -- address space. -EMLINK: the process has too many mappings; -ENOMEM: anything else -- */
    /* Private zero pages at a multiple of align (a power of two, >= page_size), or, where at is
     * not NULL, exactly at `at` (-EEXIST if anything is mapped there). */
    int (*reserve)(void *at, size_t len, size_t align, void **out);
    /* The object's [offset, offset + len) at a place chosen as in reserve with at == NULL. */
    int (*map_new)(const struct os_object *o, uint64_t offset, size_t len, size_t align,
                   enum os_share how, void **out);
    /* Over memory that is the caller's already, atomically: another thread that stores there
     * meets either the old or the new mapping. o == NULL: zero pages. Drops advice and
     * protection: the caller renews them. */
    int (*map_over)(const struct os_object *o, uint64_t offset, void *addr, size_t len,
                    enum os_share how);
    void (*unmap)(void *addr, size_t len);
    int (*protect)(void *addr, size_t len, int access); /* MEMSNAP_ACCESS_*, or OS_ACCESS_LOOK */
    /* Drops the private pages of the ranges, in one call where the system can. After an error some
     * may be dropped. -ENOTSUP. */
    int (*discard)(const struct os_range *v, size_t n);
    /* readable without a fault afterwards; copies nothing */
    int (*populate)(void *addr, size_t len);
    int (*advise)(void *addr, size_t len, enum os_advice advice); /* -ENOTSUP where unknown */
    /* The range lies in one private mapping that may be read and written: all of it has the same
     * protection and advice. False: it does not, or there is no telling. */
    bool (*is_one_mapping)(const void *addr, size_t len);
    /* shared window, huge-aligned, one byte touched per huge page; -ENOTSUP */
    int (*collapse)(void *addr, size_t len);
    /* of them really mapped huge; 0 where unknown */
    size_t (*huge_bytes)(const void *addr, size_t len);
    /* of them mapped at this moment; 0 where unknown */
    size_t (*present_bytes)(const void *addr, size_t len);

    /* -- objects -- */
    /* empty, nameless, cannot shrink where the OS can promise that */
    int (*object_create)(struct os_object *o);
    /* Extends with zeros; -EFBIG beyond RLIMIT_FSIZE. Not while another thread may be writing
     * behind `size`. */
    int (*object_grow)(const struct os_object *o, uint64_t size);
    /* Guarantees that stores through a mapping of the range, and loads from its holes, find space
     * (no SIGBUS on a full file system). -ENOTSUP: only by taking more memory now than a few MiB,
     * which nobody may ever need. */
    int (*object_commit)(const struct os_object *o, uint64_t offset, uint64_t len);
    /* all or an error */
    int (*object_write)(const struct os_object *o, const struct os_iov *v, size_t n,
                        uint64_t offset);
    /* past the end: zeros */
    int (*object_read)(const struct os_object *o, const struct os_iov *v, size_t n,
                       uint64_t offset);
    /* reads as zeros; memory given back */
    int (*object_punch)(const struct os_object *o, uint64_t offset, uint64_t len);
    /* The next stretch that is not a hole in [offset, limit): 1 and it, or 0 if there is none. */
    int (*object_data)(const struct os_object *o, uint64_t offset, uint64_t limit, uint64_t *start,
                       uint64_t *end);
    /* never closes a descriptor that is not the object's any more */
    void (*object_close)(struct os_object *o);

    /* -- the user's files -- */
    /* A duplicate of fd (or the opened path) as an object. Regular files and memfds only:
     * -EISDIR for directories, -EINVAL for other kinds, -EBADF, -EACCES (not readable; not
     * writable and `writable` asked for), -ENOENT, -ELOOP ... */
    int (*file_open)(const char *path, bool writable, struct os_object *o, uint64_t *size);
    int (*file_dup)(int fd, bool writable, struct os_object *o, uint64_t *size);
    /* nobody can write, shrink or grow it any more */
    bool (*file_sealed)(const struct os_object *o);
    int (*file_size)(const struct os_object *o, uint64_t *size); /* now */
    /* Copies len bytes of src from `from` on to dst at `to` (reflink, copy_file_range or read
     * and write; holes stay holes where cheap). -EIO if the source ends early. */
    int (*file_copy)(const struct os_object *src, uint64_t from, const struct os_object *dst,
                     uint64_t to, uint64_t len);
    /* msync and make the file durable */
    int (*flush)(void *addr, size_t len, const struct os_object *o);

    /* -- saving: a file appears under its name when it is whole, or not at all -- */
    /* Begins a new, empty file for path. Symbolic links are followed. -EEXIST: exclusive, and
     * there is something; -EISDIR; -EINVAL: something else that is no regular file; -EBUSY: a
     * live file; -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG, -EACCES, -EROFS, -ENOSPC ... Not
     * inside ms_enter, like save_commit. */
    int (*save_open)(const char *path, bool exclusive, struct os_saving *s);
    /* The file has its name, in place of what had it, whose owner and permissions it takes over.
     * It must be `size` bytes long (-EIO). What has the name is looked at again, with the same
     * errors. -EBUSY also: something is mounted there. sync: it and its name are durable. Closes
     * s, also after an error. */
    int (*save_commit)(struct os_saving *s, uint64_t size, bool sync);
    void (*save_abandon)(struct os_saving *s);
    /* dst shares src's blocks from then on, without a copy. -ENOTSUP, and nothing has changed. */
    int (*file_clone)(const struct os_object *src, uint64_t from, const struct os_object *dst,
                      uint64_t to, uint64_t len);

    /* -- handing objects to other processes -- */
    /* as object_create; -ENOTSUP where nothing can be sealed */
    int (*export_create)(struct os_object *o);
    /* Nobody can write, grow, shrink or unseal the object any more. window: a shared read-only
     * mapping of [0, len) of it, which is exchanged for one that does not stand in the way, or
     * NULL. -EBUSY: some other mapping stands in the way; -ENOTSUP. */
    int (*object_seal)(const struct os_object *o, void *window, size_t len);
    /* A descriptor of a sealed object of exactly `size` bytes: read-only, close-on-exec, above
     * 2, the caller's. -ENOTSUP: it is not that. */
    int (*object_share)(const struct os_object *o, uint64_t size, int *fd);

    /* -- dirty candidates -- */
    /* Runs of pages in [*cursor, end) that may be private (present or swapped, not the
     * object's), and runs of guarded ones, ascending, disjoint, merged within a call; at most max
     * of them. Returns how many and moves *cursor behind the last page looked at. Never misses a
     * private page.
     * -ENOTSUP: this source does not work in this process (missing, or failed its self-test). */
    int (*candidates)(enum os_source source, uintptr_t *cursor, uintptr_t end, struct os_range *v,
                      size_t max);
    /* From now on stores to the range, which is private, are noticed. Until untrack, or until
     * something is mapped over it. No closed write block may lie over it. len 0: whether it can
     * be had at all. -ENOTSUP. */
    int (*track)(void *addr, size_t len);
    void (*untrack)(void *addr, size_t len);
    /* Like candidates, but only pages stored to since they were last reported; the first time,
     * all that are private. What a device or another process stores through pages it has pinned
     * is not noticed. -ENOTSUP: the range is not tracked any more, and what this call was to
     * report is to be looked for by other means. */
    int (*written)(uintptr_t *cursor, uintptr_t end, struct os_range *v, size_t max);
    /* Blocks every other thread that stores to the range until write_block_open; the caller's
     * own thread must not store there, and its signals are blocked meanwhile. After it returns
     * the bytes stand still. -ENOTSUP. */
    int (*write_block_close)(void *addr, size_t len, struct os_write_block *g);
    /* Like candidates while a write block is closed over the range (marker pages make the plain
     * answer useless there). */
    int (*write_block_candidates)(const struct os_write_block *g, uintptr_t *cursor, uintptr_t end,
                                  struct os_range *v, size_t max);
    void (*write_block_open)(struct os_write_block *g);
};

extern const struct os os_linux, os_posix;

/* The table in use: the best that was compiled in. Tests exchange it while no object of the
 * library is alive. */
extern const struct os *ms_os;
const struct os *ms_os_default(void);
/* Tests: use this source only (OS_SOURCES: the best that works). */
extern enum os_source ms_force_source;

/* ---- files that are live copies (lib/os/live_files.c) ---------------------------------------- */

/* A file that a snapshot's stores go to. save_open and save_commit refuse to replace it. */
struct os_live_file {
    uint64_t dev, ino;
    struct os_live_file *next;
};
/* Inside ms_enter. From adding to removing l stays where it is. */
void ms_live_file_add(struct os_live_file *l, const struct os_object *o);
void ms_live_file_remove(struct os_live_file *l);

/* ---- locks and fork (lib/os/lock.c) ---------------------------------------------------------- */

/* A mutex. The type is sized for every platform; only lock.c looks inside. Whoever has one gives
 * it two functions that lock and unlock it, which tell the analysis what kind it is. */
struct ms_mutex {
    union {
        char bytes[64];
        void *align;
        long long align2;
    } u;
};
void ms_lock_init(struct ms_mutex *l);
void ms_lock_destroy(struct ms_mutex *l);
void ms_lock(struct ms_mutex *l);
void ms_unlock(struct ms_mutex *l);
/* The one lock of what belongs to the whole process. */
struct ms_mutex *ms_process_lock(void);

/* Every public function that takes a lock runs between these two. fork(2) waits for all of them
 * to leave, so a child finds every lock free and every structure whole. They nest nothing: never
 * call enter twice in a thread. */
void ms_enter(void) MS_ACQUIRE_SHARED(ms_fork_lock);
void ms_leave(void) MS_RELEASE_SHARED(ms_fork_lock);
/* Between ms_enter and ms_leave a thread cannot be cancelled. Elsewhere, where it would leave
 * something open: the state before, and back to it. */
int ms_uncancellable(void);
void ms_cancellable(int before);
/* A lock for a few instructions in lib/os, inside and outside of ms_enter; fork waits for it. Take
 * no other lock under it. */
void ms_leaf_lock(void);
void ms_leaf_unlock(void);
/* Counts the forks this process descends from or has made: objects remember it to know whether a
 * child may share their pages. ms_process_generation() changes in a child only; ms_forks()
 * changes in the child and in the parent. */
size_t ms_process_generation(void);
size_t ms_forks(void);

#endif
