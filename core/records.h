/* core/records.h -- small records of different sizes, kept by the million: each is named by 32 bits and lies in the
 * size class, a multiple of 8 bytes, that it just fits. They may hold keys: their pages are those of heap_try_map_secret(),
 * and what is given back is wiped.
 *
 * Memory: regions of 1 MiB, cut into chunks of 16 KiB; a chunk holds records of one class, and serves another when
 *         it has none left. Regions go back with records_fini(), empty ones with records_trim().
 * Owner:  one shard; embedded. Records do not move. */
#pragma once
#include "core/heap.h"

#define RECORD_SIZE_MIN     64
#define RECORD_SIZE_MAX     768
#define RECORD_STEP         8
#define RECORD_NONE         UINT32_MAX
#define RECORDS_REGION_SIZE (1024 * 1024)
#define RECORD_CLASSES      ((RECORD_SIZE_MAX - RECORD_SIZE_MIN) / RECORD_STEP + 1)

struct records { /* Private, but for count and bytes. */
    struct heap *heap;
    struct record_region **regions;
    uint32_t region_count, region_capacity;
    uint32_t free_first;              /* Chunks that serve no class. */
    uint32_t partial[RECORD_CLASSES]; /* First chunk of the class that has room. */
    uint32_t count;
    uint64_t bytes; /* Of the records, their classes' slack included. */
};

void records_init(struct records *r, struct heap *h);
void records_fini(struct records *r);
/* Makes sure that the next records_take() has room, whatever its size. False: over the budget. */
MUST_CHECK bool records_reserve(struct records *r);
/* Not zeroed. Right behind records_reserve() it does not fail; else RECORD_NONE: over the budget. */
uint32_t records_take(struct records *r, size_t size);
void *records_at(const struct records *r, uint32_t id);
/* Bytes that there are for it: of its size class. */
size_t records_room(const struct records *r, uint32_t id);
/* Is there one of that name? Any number may be asked for. */
bool records_has(const struct records *r, uint32_t id);
void records_give(struct records *r, uint32_t id);
/* Gives memory back that holds no record: for those that will not be as many again soon. */
void records_trim(struct records *r);
/* A walk in order of place: the first record that is not before `from`; RECORD_NONE: there is none. Records may be
 * taken and given meanwhile; those that stay are met once. */
uint32_t records_next(const struct records *r, uint32_t from);
/* The walk's measure: one more than the largest id that there can be now. */
uint32_t records_end(const struct records *r);
