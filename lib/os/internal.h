/* SPDX-License-Identifier: MIT */
/* What the files of lib/os share with each other and show to nobody else. A file uses those
 * above it:
 *
 *   common.c         errors, memory, limits
 *   descriptors.c    making descriptors, whose they are
 *   unsupported.c    the answers of a system that has no means for an operation
 *   address_space.c  reserving, mapping, protecting
 *   files.c          files as objects, and reading and writing objects
 *   atomic_file.c    files that appear whole
 *   madvise.c        Linux: advice about the address space
 *   memfd.c          Linux: memfds, sealing, handing objects over
 *   file_copy.c      copying between objects
 *   pagemap.c        Linux: which pages may be private
 *   write_block.c    Linux: stopping the writers of a range
 *   track.c          Linux: noticing which pages are stored to
 *   posix.c, linux.c the tables; table.c chooses one
 *
 * kernel.h: constants newer than old headers. lock.c, mutexes and the fork lock, stands apart. */
#ifndef MS_OS_INTERNAL_H
#define MS_OS_INTERNAL_H

#include "os/os.h"

#include <pthread.h>
#include <sys/stat.h>

/* ---- common.c -------------------------------------------------------------------------------- */

/* An errno value as a negative one of the closed set; what has no place there is -EIO. */
int ms_os_error(int e);

size_t ms_page_size(void);
void *ms_alloc(size_t size);
void *ms_realloc(void *p, size_t size);
void ms_free(void *p);

/* -EFBIG if a file may not reach up to `end`: asking first is what keeps SIGXFSZ away. */
int ms_file_limit(uint64_t end);

/* ---- descriptors.c --------------------------------------------------------------------------- */

/* A new descriptor above 2, close-on-exec, or -1 and errno. Nothing else in lib/ makes any. */
int ms_openat(int dir, const char *path, int flags, unsigned mode);
int ms_open_temporary(char *template); /* as mkstemp(3) */
int ms_duplicate(int fd);
/* A descriptor that serves the process: opened when it is first needed, anew in a forked child
 * and when the program has closed it, and never closed unless it still is what was opened. */
struct shared_file {
    pthread_mutex_t lock; /* guards the rest */
    int (*open)(struct os_object *o);
    struct os_object file;
    size_t process; /* ms_process_generation() when opened */
};
#define SHARED_FILE(how)                                                                           \
    {                                                                                              \
        .lock = PTHREAD_MUTEX_INITIALIZER, .open = (how), .file = {.fd = -1 }                      \
    }
/* The descriptor, or an error. verify: make sure that the number still means it. */
int ms_shared_file(struct shared_file *f, bool verify);
void ms_shared_file_close(struct shared_file *f);
/* Takes over fd, which may be -1 with errno set, and notes its identity. On failure fd is
 * closed. */
int ms_object_adopt(int fd, const char *kind, struct os_object *o);
/* Another descriptor of what the object is, with a file offset of its own (that of a duplicate is
 * the caller's too); -1 and errno: it cannot be had, or there is no /proc. */
int ms_object_reopen(const struct os_object *o, int flags);
/* -EBADF unless the descriptor still is the object's; *st is its state now. */
int ms_object_check(const struct os_object *o, struct stat *st);
void ms_object_close(struct os_object *o);

/* The beginning of a file of the kernel's, as a string; false: cannot be read. */
bool ms_text_in(const char *path, char *text, size_t size);
/* The number that a file of the kernel's begins with; -1: cannot be read. */
long long ms_number_in(const char *path);

/* ---- unsupported.c --------------------------------------------------------------------------- */

size_t ms_no_huge_pages(void);
uint64_t ms_unknown_memory(void);
int ms_cannot_discard(const struct os_range *v, size_t n);
int ms_cannot_collapse(void *addr, size_t len);
size_t ms_no_bytes(const void *addr, size_t len);
bool ms_cannot_tell(const void *addr, size_t len);
int ms_cannot_punch(const struct os_object *o, uint64_t offset, uint64_t len);
bool ms_never_sealed(const struct os_object *o);
int ms_cannot_export(struct os_object *o);
int ms_cannot_seal(const struct os_object *o, void *window, size_t len);
int ms_cannot_share(const struct os_object *o, uint64_t size, int *fd);
int ms_no_candidates(enum os_source source, uintptr_t *cursor, uintptr_t end, struct os_range *v,
                     size_t max);
int ms_cannot_track(void *addr, size_t len);
void ms_never_tracked(void *addr, size_t len);
int ms_none_written(uintptr_t *cursor, uintptr_t end, struct os_range *v, size_t max);
int ms_no_write_block(void *addr, size_t len, struct os_write_block *g);
int ms_no_write_block_candidates(const struct os_write_block *g, uintptr_t *cursor, uintptr_t end,
                                 struct os_range *v, size_t max);
void ms_nothing_to_open(struct os_write_block *g);

/* ---- address_space.c ------------------------------------------------------------------------- */

/* ms_os_error() for a call that changes mappings and has just failed: tells too many mappings
 * (-EMLINK) from too little memory. */
int ms_map_error(void);
int ms_reserve(void *at, size_t len, size_t align, void **out);
int ms_map_new(const struct os_object *o, uint64_t offset, size_t len, size_t align,
               enum os_share how, void **out);
int ms_map_over(const struct os_object *o, uint64_t offset, void *addr, size_t len,
                enum os_share how);
void ms_unmap(void *addr, size_t len);
int ms_protect(void *addr, size_t len, int access);
int ms_touch(void *addr, size_t len); /* populate by reading a byte of each page */
/* Whether this process has ever had a private mapping of an object. */
bool ms_object_views_exist(void);
/* Over memory that is the caller's already: zero pages that are nobody's own. */
int ms_share_zeros(void *addr, size_t len);
int ms_posix_advise(void *addr, size_t len, enum os_advice advice);

/* ---- files.c --------------------------------------------------------------------------------- */

int ms_temporary_create(struct os_object *o);
int ms_object_grow(const struct os_object *o, uint64_t size);
int ms_object_commit(const struct os_object *o, uint64_t offset, uint64_t len);
int ms_object_write(const struct os_object *o, const struct os_iov *v, size_t n, uint64_t offset);
int ms_object_read(const struct os_object *o, const struct os_iov *v, size_t n, uint64_t offset);

/* The next data of an open file in [offset, limit); moves the descriptor's file offset. */
int ms_seek_data(int fd, uint64_t offset, uint64_t limit, uint64_t *start, uint64_t *end);
int ms_posix_data(const struct os_object *o, uint64_t offset, uint64_t limit, uint64_t *start,
                  uint64_t *end);

int ms_file_open(const char *path, bool writable, struct os_object *o, uint64_t *size);
int ms_file_dup(int fd, bool writable, struct os_object *o, uint64_t *size);
int ms_file_size(const struct os_object *o, uint64_t *size);
int ms_flush(void *addr, size_t len, const struct os_object *o);

/* ---- atomic_file.c --------------------------------------------------------------------------- */

int ms_save_open(const char *path, bool exclusive, struct os_saving *s);
int ms_save_commit(struct os_saving *s, uint64_t size, bool sync);
void ms_save_abandon(struct os_saving *s);

/* ---- file_copy.c ----------------------------------------------------------------------------- */

int ms_file_clone(const struct os_object *src, uint64_t from, const struct os_object *dst,
                  uint64_t to, uint64_t len);
int ms_posix_copy(const struct os_object *src, uint64_t from, const struct os_object *dst,
                  uint64_t to, uint64_t len);

/* ---- live_files.c ---------------------------------------------------------------------------- */

/* Not inside ms_enter. */
bool ms_is_live_file(const struct stat *st);

/* ---- Linux ----------------------------------------------------------------------------------- */

#ifdef __linux__
/* descriptors.c */
int ms_open_memfd(unsigned flags);
int ms_open_userfaultfd(unsigned flags); /* UFFD_USER_MODE_ONLY or 0 */
int ms_open_userfaultfd_device(void);    /* by way of /dev/userfaultfd */

/* madvise.c */
size_t ms_huge_size(void);
uint64_t ms_memory_left(void);
int ms_linux_discard(const struct os_range *v, size_t n);
int ms_linux_populate(void *addr, size_t len);
int ms_linux_advise(void *addr, size_t len, enum os_advice advice);
int ms_linux_collapse(void *addr, size_t len);

/* memfd.c */
int ms_linux_create(struct os_object *o);
int ms_linux_commit(const struct os_object *o, uint64_t offset, uint64_t len);
int ms_linux_punch(const struct os_object *o, uint64_t offset, uint64_t len);
int ms_linux_data(const struct os_object *o, uint64_t offset, uint64_t limit, uint64_t *start,
                  uint64_t *end);
bool ms_file_sealed(const struct os_object *o);
int ms_export_create(struct os_object *o);
int ms_object_seal(const struct os_object *o, void *window, size_t len);
int ms_object_share(const struct os_object *o, uint64_t size, int *fd);

/* file_copy.c */
int ms_linux_copy(const struct os_object *src, uint64_t from, const struct os_object *dst,
                  uint64_t to, uint64_t len);

/* pagemap.c */
int ms_candidates(enum os_source source, uintptr_t *cursor, uintptr_t end, struct os_range *v,
                  size_t max);
size_t ms_huge_bytes(const void *addr, size_t len);
size_t ms_present_bytes(const void *addr, size_t len);
bool ms_is_one_mapping(const void *addr, size_t len);
/* Private pages that are present; also those swapped out (and a write block's markers); these,
 * but only in a tracked range; those of a tracked range that were written to, which are
 * protected anew; and all pages of a tracked range that are not protected, or those of them that
 * are present or swapped out, private or not. */
enum pagemap_what {
    PAGEMAP_PRESENT,
    PAGEMAP_PRIVATE,
    PAGEMAP_TRACKED,
    PAGEMAP_WRITTEN,
    PAGEMAP_UNPROTECTED,
    PAGEMAP_UNPROTECTED_THERE
};
/* candidates by PAGEMAP_SCAN without the self-test. */
int ms_pagemap_scan(uintptr_t *cursor, uintptr_t end, enum pagemap_what what, struct os_range *v,
                    size_t max);

/* track.c */
int ms_track(void *addr, size_t len);
void ms_untrack(void *addr, size_t len);
int ms_written(uintptr_t *cursor, uintptr_t end, struct os_range *v, size_t max);

/* write_block.c */
int ms_write_block_close(void *addr, size_t len, struct os_write_block *g);
int ms_write_block_candidates(const struct os_write_block *g, uintptr_t *cursor, uintptr_t end,
                              struct os_range *v, size_t max);
void ms_write_block_open(struct os_write_block *g);
#endif

#endif
