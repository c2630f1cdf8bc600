/* core/trace.h -- the last events of each shard, always on: what assert_failed() dumps.
 * Owner:  the shard; one writer, no locks. Bounded: TRACE_COUNT entries, the oldest is overwritten.
 * Rule:   `what` is a literal and the two numbers are ids, sizes or results: never bytes that somebody sent. */
#pragma once
#include "core/base.h"

#define TRACE_COUNT 1024 /* A power of two. */

struct trace_entry {
    const char *what;
    uint64_t turn; /* Of the shard's loop: cheaper than a clock, and orders events just as well. */
    uint64_t a, b;
};

struct trace_ring {
    uint64_t next;
    struct trace_entry entries[TRACE_COUNT];
};

/* Into the ring of the current shard; nothing happens outside of one. */
void trace(const char *what, uint64_t a, uint64_t b);
/* Writes the ring, oldest first, to `fd`. Uses neither heap nor locks. */
void trace_dump(const struct trace_ring *ring, int fd);
