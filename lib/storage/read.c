/* SPDX-License-Identifier: MIT */
/* Reading the bytes of an image. */
#include "config.h"

#include "storage/read.h"

#include <string.h>

#include "base/arith.h"
#include "os/os.h"
#include "storage/chunk.h"
#include "storage/image.h"

int ms_image_read(const struct image *i, size_t offset, void *to, size_t len)
{
    size_t ps = ms_os->page_size(), done = 0;
    char *out = to;
    int e = 0;
    while (done < len && e == 0) {
        size_t page = (offset + done) / ps, within = (offset + done) % ps;
        struct run r;
        ms_image_run(i, page, ms_image_pages(i), &r);
        size_t n = ms_min(len - done, r.pages * ps - within);
        if (r.chunk)
            e = ms_chunk_read(r.chunk, r.chunk_page * ps + within, out + done, n);
        else
            memset(out + done, 0, n);
        done += n;
    }
    return e;
}
