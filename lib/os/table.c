/* SPDX-License-Identifier: MIT */
/* The table in use. */
#include "config.h"

#include "os/internal.h"

#ifdef __linux__
const struct os *ms_os = &os_linux;
#else
const struct os *ms_os = &os_posix;
#endif

enum os_source ms_force_source = OS_SOURCES;

const struct os *ms_os_default(void)
{
#ifdef __linux__
    return &os_linux;
#else
    return &os_posix;
#endif
}
