/* SPDX-License-Identifier: MIT */
/* An ops table that wraps another: counts operations and what is outstanding, and makes chosen
 * operations fail. */
#ifndef MS_TEST_FAULT_H
#define MS_TEST_FAULT_H

#include "os/os.h"

enum fault_kind {
    FAULT_ALLOC,
    FAULT_REALLOC,
    FAULT_RESERVE,
    FAULT_MAP_NEW,
    FAULT_MAP_OVER,
    FAULT_PROTECT,
    FAULT_DISCARD,
    FAULT_POPULATE,
    FAULT_ADVISE,
    FAULT_COLLAPSE,
    FAULT_OBJECT_CREATE,
    FAULT_OBJECT_GROW,
    FAULT_OBJECT_COMMIT,
    FAULT_OBJECT_WRITE,
    FAULT_OBJECT_READ,
    FAULT_OBJECT_PUNCH,
    FAULT_OBJECT_DATA,
    FAULT_FILE_OPEN,
    FAULT_FILE_DUP,
    FAULT_FILE_COPY,
    FAULT_FILE_CLONE,
    FAULT_FLUSH,
    FAULT_SAVE_OPEN,
    FAULT_SAVE_COMMIT,
    FAULT_EXPORT_CREATE,
    FAULT_OBJECT_SEAL,
    FAULT_OBJECT_SHARE,
    FAULT_CANDIDATES,
    FAULT_TRACK,
    FAULT_WRITTEN,
    FAULT_WRITE_BLOCK_CLOSE,
    FAULT_WRITE_BLOCK_CANDIDATES,
    FAULT_KINDS
};

#define FAULT_ALL (~0u)
#define FAULT_BIT(kind) (1u << (kind))
#define FAULT_TYPICAL 1 /* as error: the one that this kind of operation is most likely to meet */
#define FAULT_FOR_EVER ((size_t)-1)

/* The table that wraps inner. There is one: wrapping again exchanges what is inside. */
const struct os *fault_wrap(const struct os *inner);

/* From now on, of the operations whose kind is in `kinds`, the n-th (0: the next) and the
 * `count` - 1 after it fail with `error` (negative, or FAULT_TYPICAL). */
void fault_arm(unsigned kinds, size_t n, size_t count, int error);
void fault_disarm(void);
size_t fault_fired(void);             /* how many operations failed since fault_arm() */
enum fault_kind fault_last(void);     /* what kind the last of them was */
bool fault_met(enum fault_kind kind); /* one of this kind was among them */
/* A call may return this error because of them: one of them failed with it, or it says that a
 * write block cannot be closed or an object not be sealed, which is one thing whatever the
 * cause. */
bool fault_explains(int error);
const char *fault_name(enum fault_kind kind);

size_t fault_count(enum fault_kind kind); /* operations of this kind since fault_wrap() */

struct fault_balance {
    long allocations;  /* not freed */
    long mapped;       /* bytes mapped and not unmapped */
    long objects;      /* opened and not closed */
    long write_blocks; /* closed and not opened again */
};
struct fault_balance fault_outstanding(void);

#endif
