/* SPDX-License-Identifier: MIT */
/* Thawing: a shadow writer becomes direct again while threads store to it.
 *
 * Block by block, from the beginning: what is private is copied to its place in a chunk that
 * nobody else refers to, then the block is mapped shared over itself. Whoever stores there
 * meanwhile waits behind the write block; that most of the bytes were copied before it was closed
 * keeps the wait short, and a block that was written all over goes in parts. A block is a huge
 * page: with smaller ones the mapping would be in small pages afterwards, and the next freeze take
 * 5 to 7 ms instead of 0.3 (1 GiB). */
#ifndef MS_THAW_H
#define MS_THAW_H

#include "mapping/writer.h"

/* With both locks held, which are released between the calls. */

/* 1: there is something to thaw, 0: there is not, or an error. */
int ms_thaw_begin(struct current *c) MS_REQUIRES(ms_snapshot_locks) MS_INSIDE;
/* Thaws the next block, or part of it. live: threads may be storing. 1: there is more, 0: the
 * writer is direct.
 * -EBUSY: somebody else refers to pages of the image. After an error everything is as it was, or
 * further on. *passed: how many bytes it was. */
int ms_thaw_step(struct current *c, bool live, size_t *passed)
    MS_REQUIRES(ms_snapshot_locks) MS_INSIDE;

#endif
