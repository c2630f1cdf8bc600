/* core/map.h -- an intrusive hash table: nodes live in their owners, chains by 64-bit hash; the caller
 * compares keys.
 * Owner:  one shard; embedded. Grows by doubling; iteration order depends on hashes alone (never on pointers,
 *         so that a simulated run replays). Hashing of names from outside is keyed (map_hash), so that nobody
 *         can choose names that collide. */
#pragma once
#include "core/heap.h"

struct map_node {
    struct map_node *next;
    uint64_t hash;
};

struct map {
    struct heap *heap;
    struct map_node **buckets;
    uint32_t bucket_count, count;
};

void map_init(struct map *m, struct heap *h);
/* The nodes are the caller's. */
void map_fini(struct map *m);
void map_insert(struct map *m, struct map_node *node, uint64_t hash);
void map_remove(struct map *m, struct map_node *node);
/* First node with this hash, then the next one with the same: NULL when there is none. */
struct map_node *map_first(const struct map *m, uint64_t hash);
struct map_node *map_next(const struct map_node *node);
/* Any walk: NULL begins. Nothing may be inserted or removed meanwhile. */
struct map_node *map_walk(const struct map *m, const struct map_node *after);

uint64_t map_hash(struct slice key, uint64_t secret);
