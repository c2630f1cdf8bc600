#include "core/map.h"
#include <xxhash.h>

#define BUCKETS_FIRST 16

void map_init(struct map *m, struct heap *h)
{
    *m = (struct map){.heap = h, .bucket_count = BUCKETS_FIRST};
    m->buckets = heap_zalloc(h, BUCKETS_FIRST * sizeof(struct map_node *));
}

void map_fini(struct map *m)
{
    heap_free(m->heap, m->buckets);
    *m = (struct map){0};
}

static struct map_node **bucket_of(const struct map *m, uint64_t hash)
{
    return &m->buckets[hash & (m->bucket_count - 1)];
}

static void map_grow(struct map *m)
{
    uint32_t old_count = m->bucket_count;
    struct map_node **old = m->buckets;
    struct map_node **bigger = heap_try_alloc(m->heap, (size_t)old_count * 2 * sizeof *bigger);

    if (bigger == NULL)
        return; /* Longer chains, no error. */
    memset(bigger, 0, (size_t)old_count * 2 * sizeof *bigger);
    m->buckets = bigger;
    m->bucket_count = old_count * 2;
    for (uint32_t i = 0; i < old_count; i++) {
        for (struct map_node *n = old[i], *next; n != NULL; n = next) {
            struct map_node **bucket = bucket_of(m, n->hash);

            next = n->next;
            n->next = *bucket;
            *bucket = n;
        }
    }
    heap_free(m->heap, old);
}

void map_insert(struct map *m, struct map_node *node, uint64_t hash)
{
    struct map_node **bucket;

    if (m->count >= m->bucket_count)
        map_grow(m);
    bucket = bucket_of(m, hash);
    node->hash = hash;
    node->next = *bucket;
    *bucket = node;
    m->count++;
}

void map_remove(struct map *m, struct map_node *node)
{
    struct map_node **at = bucket_of(m, node->hash);

    while (*at != node) {
        ASSERT(*at != NULL);
        at = &(*at)->next;
    }
    *at = node->next;
    m->count--;
}

static struct map_node *same_hash(struct map_node *n, uint64_t hash)
{
    while (n != NULL && n->hash != hash)
        n = n->next;
    return n;
}

struct map_node *map_first(const struct map *m, uint64_t hash)
{
    return same_hash(*bucket_of(m, hash), hash);
}

struct map_node *map_next(const struct map_node *node)
{
    return same_hash(node->next, node->hash);
}

struct map_node *map_walk(const struct map *m, const struct map_node *after)
{
    uint32_t bucket = 0;

    if (after != NULL) {
        if (after->next != NULL)
            return after->next;
        bucket = (uint32_t)(after->hash & (m->bucket_count - 1)) + 1;
    }
    for (; bucket < m->bucket_count; bucket++) {
        if (m->buckets[bucket] != NULL)
            return m->buckets[bucket];
    }
    return NULL;
}

uint64_t map_hash(struct slice key, uint64_t secret)
{
    return XXH3_64bits_withSeed(key.data, key.size, secret);
}
