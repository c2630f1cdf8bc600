/* roles/exceptions.h -- users who are placed alone, against the hash of their partition: few, each in a place of its own. A director
 * says where they are (roles/director/cluster_exceptions.c), proxies route by it, and backends serve by it.
 *
 * Bounds: EXCEPTIONS_MAX of a cluster. Memory: 20 KiB; plain bytes, to be copied. */
#pragma once
#include "core/base.h"

#define EXCEPTIONS_MAX     1024
#define EXCEPTIONS_BUCKETS 2048

struct exception {
    uint64_t user; /* Keyed hash of the name: partition_user(). */
    uint16_t partition;
    uint16_t node; /* Of the director's table. At a backend: enum exception_here. */
    bool used;
};

enum exception_here { EXCEPTION_AWAY, EXCEPTION_HERE };

struct exceptions { /* Zeroed: none. */
    uint32_t count;
    struct exception entries[EXCEPTIONS_MAX];
    uint16_t buckets[EXCEPTIONS_BUCKETS]; /* 1 + place, by user; 0: free. Linear probing. */
};

/* The place is free, and the user has no other. */
void exceptions_put(struct exceptions *e, uint32_t place, uint64_t user, uint16_t partition, uint16_t node);
/* Nothing, if the place is free. */
void exceptions_drop(struct exceptions *e, uint32_t place);
/* NULL: where his partition is. `entries` says his place. */
const struct exception *exceptions_find(const struct exceptions *e, uint64_t user);
/* The same users in the same places. */
bool exceptions_same(const struct exceptions *a, const struct exceptions *b);
