/* core/heap.h -- memory of one shard: a heap (one jemalloc arena) under a budget, bump arenas for commands,
 * slabs for records.
 * Owner:  one shard; no locks. What a shard allocated only that shard frees.
 * Memory: heap_destroy() gives back everything at once, used or not: a simulated node dies that way. */
#pragma once
#include "core/base.h"

struct heap;

/* `budget` in bytes; 0: none. NULL only when the machine itself has no memory left. */
struct heap *heap_create(const char *name, uint64_t budget);
void heap_destroy(struct heap *h);
/* Bytes in use, slack of size classes included, and the budget. */
uint64_t heap_used(const struct heap *h);
uint64_t heap_budget(const struct heap *h);
/* The next larger size that wastes nothing: there are four a doubling. For tables that are many and grow. */
size_t heap_step(size_t size);

/* Slow: gives free pages back to the system, of a heap that will not be as large again. */
void heap_trim(struct heap *h);
/* The same, for a benchmark, and what there is then. */
struct heap_memory {
    uint64_t used;     /* heap_used() */
    uint64_t secrets;  /* Of it, heap_try_map_secret(). */
    uint64_t resident; /* Pages of the rest, the allocator's own included; 0: not known (sanitizers). */
    uint64_t secrets_resident; /* Pages of those. */
};
void heap_memory(struct heap *h, struct heap_memory *out);
/* True while used < 7/8 of the budget: new work (sessions, commands, deliveries) is admitted only then. */
bool heap_admits(const struct heap *h);
/* A quarter of the budget, 64 MiB without one: what frames of links, and bodies that arrive, may each take. */
uint64_t heap_streaming(const struct heap *h);
/* What one of many may hold of such a part, of which all together hold `used`: 1/16 of what is free, between `least` and
 * `most`. The less is free the less, so those who stand still never take the last of it. */
uint64_t heap_share(uint64_t part, uint64_t used, uint64_t least, uint64_t most);

/* For what grows with the data (an account, a result set): NULL over the budget; the caller answers
 * UNAVAILABLE. `zeroed` variants clear. size > 0. */
MUST_CHECK void *heap_try_alloc(struct heap *h, size_t size);
/* For bounded small things: never NULL; going over the budget is allowed (admission holds the line), the
 * machine being out of memory aborts. */
void *heap_alloc(struct heap *h, size_t size);
void *heap_zalloc(struct heap *h, size_t size);
/* `p` may be NULL. NULL over the budget, and then `p` is untouched. */
MUST_CHECK void *heap_try_realloc(struct heap *h, void *p, size_t size);
void heap_free(struct heap *h, void *p);

/* For keys: zeroed pages that are in no core dump and not in what a fork makes, between pages that nobody can
 * touch. They count in the budget. NULL over it. */
MUST_CHECK void *heap_try_map_secret(struct heap *h, size_t size);
void heap_unmap_secret(struct heap *h, void *p); /* NULL is allowed. */

/* A bump arena: everything that one command allocates, freed at once. What goes into it is bounded by the
 * command's own limits, so it never fails. */
struct arena_block;
struct arena { /* Private; visible so that it can be embedded. */
    struct heap *heap;
    struct arena_block *block;
    char *at, *end;
    size_t used;
};

void arena_init(struct arena *a, struct heap *h);
/* 16-byte aligned. size 0 gives a valid pointer. */
void *arena_alloc(struct arena *a, size_t size);
void *arena_zalloc(struct arena *a, size_t size);
struct slice arena_copy(struct arena *a, struct slice s);
/* printf into the arena: NUL-terminated. */
char *arena_printf(struct arena *a, const char *format, ...) PRINTF_LIKE(2, 3);
/* Frees all but the first block, which is kept for the next command. */
void arena_reset(struct arena *a);
/* The same, after overwriting all of it: it held secrets. */
void arena_wipe(struct arena *a);
void arena_fini(struct arena *a);

/* Records of one size. */
struct slab { /* Private. */
    struct heap *heap;
    void *free_list;
    struct slab_page *pages;
    uint32_t record_size, record_align;
    uint32_t used_count, limit_count;
    bool secret;
};

void slab_init(struct slab *s, struct heap *h, uint32_t record_size, uint32_t limit_count);
/* Its records hold keys: they are mapped apart (heap_try_map_secret()), and wiped when they are given back. */
void slab_init_secret(struct slab *s, struct heap *h, uint32_t record_size, uint32_t limit_count);
/* Zeroed. NULL when limit_count records are in use, or the heap is over its budget. */
MUST_CHECK void *slab_take(struct slab *s);
void slab_give(struct slab *s, void *record);
void slab_fini(struct slab *s);
