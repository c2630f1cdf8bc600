/* roles/words/expunge_run.h -- expunges on a link: runs of sequence numbers, which the proxy writes out as lines.
 * So a difference of any size is a few bytes where it has to be held, and lines only as the client reads them.
 *
 * A frame with LINK_RUNS holds nothing else, EXPUNGE_RUN_SIZE bytes a run: (last, count) stands for
 * `* last EXPUNGE`, `* last-1 EXPUNGE`, ... count times. From one run to the next the numbers fall. */
#pragma once
#include "core/base.h"

#define EXPUNGE_RUN_SIZE 8

struct expunge_run {
    uint32_t last, count; /* 1 <= count <= last */
};

/* False: `seq` >= 1 does not go on with this run. */
static inline bool expunge_run_add(struct expunge_run *run, uint32_t seq)
{
    if (seq != run->last - run->count)
        return false;
    run->count++;
    return true;
}

static inline void expunge_run_encode(const struct expunge_run *run, char out[EXPUNGE_RUN_SIZE])
{
    put_u32(out, run->last);
    put_u32(out + 4, run->count);
}

/* False: no run. */
MUST_CHECK static inline bool expunge_run_decode(struct slice in, struct expunge_run *out)
{
    if (in.size < EXPUNGE_RUN_SIZE)
        return false;
    *out = (struct expunge_run){get_u32(in.data), get_u32(in.data + 4)};
    return out->count >= 1 && out->count <= out->last;
}
