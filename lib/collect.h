/* Collecting: the new image of a mapping from what changed in it. */
#ifndef MS_COLLECT_H
#define MS_COLLECT_H

#include "mapping.h"
#include "pool.h"

/* The image of what the mapping holds now. It refers to `latest` (or base) for unchanged pages, to base for pages written back, to nothing
 * for zero pages, and to new chunks of the pool for the rest. The mapping is not changed. gate: closed over it, or NULL. */
int ms_collect(struct mapping *m, struct pool *pool, const struct os_gate *gate, struct image **out);

/* The image of what a file holds now, compared with an earlier one of the same size: equal pages are shared with it. */
int ms_collect_file(const struct os_object *file, size_t size, struct image *earlier, struct pool *pool, struct image **out);

#endif
