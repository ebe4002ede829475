/* SPDX-License-Identifier: MIT */
/* Real shortages; see shortage.h. */
#include "config.h"

#include "random/shortage.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include "support/support.h"

/* More than this many mappings are not worth using up. */
enum { MOST_MAPPINGS = 1 << 18, RESERVE = 1500 };

static struct {
    enum shortage which;
    size_t left;
    struct rlimit before; /* of the limit that is lowered */
    /* every second page is a mapping of its own; behind filler_pages while a call is made */
    char *filler;
    size_t filler_pages;
    bool own_shm;
} now;

static const struct {
    const char *name;
    int resource, errors[2];
} kinds[SHORTAGES] = {
    [SHORTAGE_NONE] = {"none", -1, {0}},
    [SHORTAGE_MAPPINGS] = {"mappings", -1, {-EMLINK, -ENOMEM}},
    [SHORTAGE_ADDRESS_SPACE] = {"address space", RLIMIT_AS, {-ENOMEM}},
    [SHORTAGE_DATA] = {"data", RLIMIT_DATA, {-ENOMEM}},
    [SHORTAGE_FILE_SIZE] = {"file size", RLIMIT_FSIZE, {-EFBIG}},
    [SHORTAGE_DESCRIPTORS] = {"descriptors", RLIMIT_NOFILE, {-EMFILE}},
    [SHORTAGE_FILE_SPACE] = {"file space", -1, {-ENOSPC}},
};

enum shortage shortage_now(void)
{
    return now.which;
}

const char *shortage_name(enum shortage which)
{
    return kinds[which].name;
}

bool shortage_explains(int error)
{
    return error < 0 &&
           (error == kinds[now.which].errors[0] || error == kinds[now.which].errors[1]);
}

/* ---- mappings -------------------------------------------------------------------------------- */

static size_t mapping_limit(void)
{
    char *text = NULL;
    size_t n = 65530;
    if (g_file_get_contents("/proc/sys/vm/max_map_count", &text, NULL, NULL))
        n = strtoul(text, NULL, 10);
    g_free(text);
    return n;
}

/* Every second page of [from, from + pages) becomes a mapping of its own, as long as there are any;
 * how many were made. */
static size_t split(size_t from, size_t pages)
{
    size_t n = 0;
    while (2 * n < pages && mprotect(now.filler + (from + 2 * n) * page, page, PROT_READ) == 0)
        n++;
    return n;
}

static bool fill_mappings(void)
{
    size_t limit = mapping_limit(), have = mappings();
    if (have == 0 || limit > MOST_MAPPINGS || limit < have + 2 * RESERVE)
        return false;
    now.filler_pages = (limit - have - RESERVE) & ~(size_t)1;
    now.filler = mmap(NULL, (now.filler_pages + 2 * RESERVE) * page, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true((void *)now.filler != MAP_FAILED);
    split(0, now.filler_pages);
    return true;
}

static void use_up_mappings(void)
{
    size_t n = split(now.filler_pages, 2 * RESERVE), back = ms_min(now.left / 2, n);
    while (back-- > 0)
        mprotect(now.filler + (now.filler_pages + 2 * --n) * page, page, PROT_NONE);
}

static void give_mappings_back(void)
{
    mprotect(now.filler + now.filler_pages * page, 2 * RESERVE * page, PROT_NONE);
}

/* ---- a full file system ---------------------------------------------------------------------- */

static const char roomy[] = "size=256m";

bool shortage_own_shm(void)
{
    now.own_shm = unshare(CLONE_NEWNS) == 0 &&
                  mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                  mount("tmpfs", "/dev/shm", "tmpfs", 0, roomy) == 0;
    return now.own_shm;
}

static void resize_shm(const char *size)
{
    g_assert_cmpint(mount(NULL, "/dev/shm", NULL, MS_REMOUNT, size), ==, 0);
}

static void fill_shm(void)
{
    struct statvfs st;
    char size[32];
    g_assert_cmpint(statvfs("/dev/shm", &st), ==, 0);
    snprintf(size, sizeof size, "size=%ju",
             (uintmax_t)(st.f_blocks - st.f_bfree + 1) * st.f_frsize + now.left * page);
    resize_shm(size);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static size_t lowered_limit(void)
{
    switch (now.which) {
    case SHORTAGE_ADDRESS_SPACE:
        return resident("VmSize") + now.left * page;
    case SHORTAGE_DATA:
        return resident("VmData") + now.left * page;
    case SHORTAGE_DESCRIPTORS:
        return descriptors() + 1 + now.left;
    default:
        return now.left * page;
    }
}

bool shortage_begin(enum shortage which, size_t left)
{
    if (which == SHORTAGE_NONE || (which == SHORTAGE_FILE_SPACE && !now.own_shm))
        return false;
    if (which == SHORTAGE_MAPPINGS && !fill_mappings())
        return false;
    if (kinds[which].resource >= 0 && resident("VmSize") == 0)
        return false;
    now.which = which;
    now.left = left;
    return true;
}

void shortage_end(void)
{
    if (now.filler)
        munmap(now.filler, (now.filler_pages + 2 * RESERVE) * page);
    now.filler = NULL;
    now.which = SHORTAGE_NONE;
}

void shortage_enter(void)
{
    int resource = kinds[now.which].resource;
    if (now.which == SHORTAGE_MAPPINGS)
        use_up_mappings();
    else if (now.which == SHORTAGE_FILE_SPACE)
        fill_shm();
    if (resource < 0)
        return;
    size_t limit = lowered_limit();
    g_assert_cmpint(getrlimit((__rlimit_resource_t)resource, &now.before), ==, 0);
    struct rlimit lower = {.rlim_cur = limit, .rlim_max = now.before.rlim_max};
    g_assert_cmpint(setrlimit((__rlimit_resource_t)resource, &lower), ==, 0);
}

void shortage_leave(void)
{
    int resource = kinds[now.which].resource;
    if (now.which == SHORTAGE_MAPPINGS)
        give_mappings_back();
    else if (now.which == SHORTAGE_FILE_SPACE)
        resize_shm(roomy);
    if (resource >= 0)
        g_assert_cmpint(setrlimit((__rlimit_resource_t)resource, &now.before), ==, 0);
}
