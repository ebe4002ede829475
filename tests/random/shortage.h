/* SPDX-License-Identifier: MIT */
/* Real shortages: the process has used up something that calls need, and goes on.
 *
 * A shortage is there while a call is made, and not while the test itself works: enter, call,
 * leave. What is costly to use up stays used up to a small rest from begin to end. */
#ifndef MS_TEST_SHORTAGE_H
#define MS_TEST_SHORTAGE_H

#include <stdbool.h>
#include <stddef.h>

enum shortage {
    SHORTAGE_NONE,
    SHORTAGE_MAPPINGS,      /* as many as the system allows, but a few */
    SHORTAGE_ADDRESS_SPACE, /* RLIMIT_AS */
    SHORTAGE_DATA,          /* RLIMIT_DATA */
    SHORTAGE_FILE_SIZE,     /* RLIMIT_FSIZE */
    SHORTAGE_DESCRIPTORS,   /* RLIMIT_NOFILE */
    SHORTAGE_FILE_SPACE,    /* a full /dev/shm: only after shortage_own_shm() */
    SHORTAGES
};

/* False: it cannot be had here. left: how much is left, in mappings, pages or descriptors. */
bool shortage_begin(enum shortage which, size_t left);
void shortage_end(void);
enum shortage shortage_now(void);
const char *shortage_name(enum shortage which);

void shortage_enter(void);
void shortage_leave(void);
/* A call that is made in the shortage may fail like this. */
bool shortage_explains(int error);

/* In a child: a small /dev/shm of its own. False: not allowed. */
bool shortage_own_shm(void);

#endif
