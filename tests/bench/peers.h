/* SPDX-License-Identifier: MIT */
/* peers.h - what users do without the library, by its system calls. */
#ifndef PEERS_H
#define PEERS_H

#include <stddef.h>
#include <sys/mman.h>

/* The Rust crate memsnap 0.1.2: a memfd of the image's size, filled through a shared mapping;
 * views map it privately; restoring maps it again at the same address; taking a snapshot fills
 * another memfd from the view. */
int crate_snapshot(const char *bytes, size_t size);
char *crate_view(int fd, size_t size);
void crate_restore(int fd, char *view, size_t size);

/* A store of small pages, filled by pwrite: the same kind of memory at a lower price. */
int small_store(size_t size);

/* Scan and copy: keeps a private mapping and copies back every page that the kernel reports as
 * private (PAGEMAP_SCAN). False if the kernel has no such call. */
int scan_available(void);
void scan_restore(char *view, const char *pristine, size_t size);

#endif
