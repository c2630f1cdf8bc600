/* core/given.h -- files that were read for a process which may not open them itself: certificates, keys.
 * Owner:  whoever starts the node (node->given); read-only, any shard may ask.
 * Memory: bytes live until the node's start is over, or the reload for which they came; what is needed longer is copied. */
#pragma once
#include "core/base.h"

struct given_file {
    struct slice path; /* As the configuration names it. */
    struct slice bytes;
};

struct given {
    struct given_file *files;
    size_t count;
};

/* False: that file is not among them. `g` may be NULL. */
static inline bool given_find(const struct given *g, const char *path, struct slice *bytes_out)
{
    for (size_t i = 0; g != NULL && i < g->count; i++) {
        if (slice_eq(g->files[i].path, slice_str(path))) {
            *bytes_out = g->files[i].bytes;
            return true;
        }
    }
    return false;
}
