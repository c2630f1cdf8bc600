#include "core/records.h"
#include "core/sanitizer.h"

#define CHUNK_SIZE     (16 * 1024)
#define REGION_CHUNKS  (RECORDS_REGION_SIZE / CHUNK_SIZE)
#define SLOTS_MAX      256 /* Of a chunk: the low 8 bits of an id. */
#define WORDS          (SLOTS_MAX / 64)
#define REGIONS_MAX    ((UINT32_MAX / SLOTS_MAX) / REGION_CHUNKS)
#define REGIONS_AT_ALL 16 /* Places for the first regions. */

_Static_assert(CHUNK_SIZE / RECORD_SIZE_MIN <= SLOTS_MAX, "a chunk's slots fit its bits");

struct record_chunk {
    uint64_t used[WORDS];
    uint32_t prev, next; /* Chunks of the class that have room; next: of the free ones, too. */
    uint16_t count, room;
    uint8_t class;
};

struct record_region {
    char *data;     /* NULL: given back; whoever needs a region next takes this one's place. */
    uint32_t count; /* Records in it. */
    struct record_chunk chunks[REGION_CHUNKS];
};

static struct record_chunk *chunk_at(const struct records *r, uint32_t chunk)
{
    ASSERT(chunk / REGION_CHUNKS < r->region_count);
    return &r->regions[chunk / REGION_CHUNKS]->chunks[chunk % REGION_CHUNKS];
}

static size_t class_size(unsigned class)
{
    return RECORD_SIZE_MIN + (size_t) class * RECORD_STEP;
}

void records_init(struct records *r, struct heap *h)
{
    *r = (struct records){.heap = h, .free_first = RECORD_NONE};
    for (unsigned i = 0; i < RECORD_CLASSES; i++)
        r->partial[i] = RECORD_NONE;
}

static void region_unmap(struct records *r, struct record_region *region)
{
    if (region->data == NULL)
        return;
    asan_unpoison(region->data, (size_t)REGION_CHUNKS * CHUNK_SIZE);
    heap_unmap_secret(r->heap, region->data);
    region->data = NULL;
}

void records_fini(struct records *r)
{
    for (uint32_t i = 0; i < r->region_count; i++) {
        region_unmap(r, r->regions[i]);
        heap_free(r->heap, r->regions[i]);
    }
    heap_free(r->heap, r->regions);
    records_init(r, r->heap);
}

/* ---- Regions ------------------------------------------------------------------------------------------- */

static bool regions_have_place(struct records *r)
{
    uint32_t capacity = MAX(r->region_capacity * 2, (uint32_t)REGIONS_AT_ALL);
    struct record_region **regions;

    if (r->region_count < r->region_capacity)
        return true;
    if (r->region_count >= REGIONS_MAX)
        return false;
    regions = heap_try_realloc(r->heap, r->regions, capacity * sizeof *regions);
    if (regions == NULL)
        return false;
    r->regions = regions;
    r->region_capacity = capacity;
    return true;
}

/* A place without memory, or -1. */
static int64_t region_vacant(const struct records *r)
{
    for (uint32_t i = 0; i < r->region_count; i++) {
        if (r->regions[i]->data == NULL)
            return i;
    }
    return -1;
}

static bool region_map(struct records *r, uint32_t index)
{
    struct record_region *region = r->regions[index];
    uint32_t first = index * REGION_CHUNKS;

    region->data = heap_try_map_secret(r->heap, (size_t)REGION_CHUNKS * CHUNK_SIZE);
    if (region->data == NULL)
        return false;
    asan_poison(region->data, (size_t)REGION_CHUNKS * CHUNK_SIZE);
    region->count = 0;
    memset(region->chunks, 0, sizeof region->chunks);
    for (uint32_t i = 0; i < REGION_CHUNKS; i++)
        region->chunks[i].next = i + 1 < REGION_CHUNKS ? first + i + 1 : r->free_first;
    r->free_first = first;
    return true;
}

bool records_reserve(struct records *r)
{
    struct record_region *region;
    int64_t vacant;

    if (r->free_first != RECORD_NONE)
        return true;
    vacant = region_vacant(r);
    if (vacant >= 0)
        return region_map(r, (uint32_t)vacant);
    if (!regions_have_place(r))
        return false;
    region = heap_try_alloc(r->heap, sizeof *region);
    if (region == NULL)
        return false;
    r->regions[r->region_count++] = region;
    if (region_map(r, r->region_count - 1))
        return true;
    r->region_count--;
    heap_free(r->heap, region);
    return false;
}

/* Those of regions that were given back are no longer there to serve anybody. */
static void free_chunks_sift(struct records *r)
{
    uint32_t *link = &r->free_first;

    while (*link != RECORD_NONE) {
        struct record_chunk *c = chunk_at(r, *link);

        if (r->regions[*link / REGION_CHUNKS]->data == NULL)
            *link = c->next;
        else
            link = &c->next;
    }
}

void records_trim(struct records *r)
{
    bool any = false;

    for (uint32_t i = 0; i < r->region_count; i++) {
        struct record_region *region = r->regions[i];

        if (region->data == NULL || region->count > 0)
            continue;
        region_unmap(r, region);
        any = true;
    }
    if (any)
        free_chunks_sift(r);
}

/* ---- Chunks -------------------------------------------------------------------------------------------- */

static void partial_add(struct records *r, uint32_t chunk)
{
    struct record_chunk *c = chunk_at(r, chunk);

    c->prev = RECORD_NONE;
    c->next = r->partial[c->class];
    if (c->next != RECORD_NONE)
        chunk_at(r, c->next)->prev = chunk;
    r->partial[c->class] = chunk;
}

static void partial_remove(struct records *r, uint32_t chunk)
{
    struct record_chunk *c = chunk_at(r, chunk);

    if (c->prev != RECORD_NONE)
        chunk_at(r, c->prev)->next = c->next;
    else
        r->partial[c->class] = c->next;
    if (c->next != RECORD_NONE)
        chunk_at(r, c->next)->prev = c->prev;
}

/* A chunk of the class that has room. */
static uint32_t chunk_with_room(struct records *r, unsigned class)
{
    uint32_t chunk = r->partial[class];
    struct record_chunk *c;

    if (chunk != RECORD_NONE)
        return chunk;
    if (!records_reserve(r))
        return RECORD_NONE;
    chunk = r->free_first;
    c = chunk_at(r, chunk);
    r->free_first = c->next;
    c->class = (uint8_t) class;
    c->room = (uint16_t)(CHUNK_SIZE / class_size(class));
    partial_add(r, chunk);
    return chunk;
}

static unsigned slot_take(struct record_chunk *c)
{
    unsigned word = 0, bit;

    while (c->used[word] == UINT64_MAX)
        word++;
    bit = (unsigned)__builtin_ctzll(~c->used[word]);
    c->used[word] |= UINT64_C(1) << bit;
    ASSERT(word * 64 + bit < c->room);
    return word * 64 + bit;
}

static char *slot_data(const struct records *r, uint32_t id)
{
    uint32_t chunk = id / SLOTS_MAX;
    const struct record_chunk *c = chunk_at(r, chunk);

    return r->regions[chunk / REGION_CHUNKS]->data + (size_t)(chunk % REGION_CHUNKS) * CHUNK_SIZE +
           id % SLOTS_MAX * class_size(c->class);
}

uint32_t records_take(struct records *r, size_t size)
{
    unsigned class =
        (unsigned)((MAX(size, (size_t)RECORD_SIZE_MIN) - RECORD_SIZE_MIN + RECORD_STEP - 1) / RECORD_STEP);
    struct record_chunk *c;
    uint32_t chunk, id;

    ASSERT(size <= RECORD_SIZE_MAX);
    chunk = chunk_with_room(r, class);
    if (chunk == RECORD_NONE)
        return RECORD_NONE;
    c = chunk_at(r, chunk);
    r->count++;
    r->regions[chunk / REGION_CHUNKS]->count++;
    r->bytes += class_size(class);
    if (++c->count == c->room)
        partial_remove(r, chunk);
    id = chunk * SLOTS_MAX + slot_take(c);
    asan_unpoison(slot_data(r, id), class_size(class));
    return id;
}

static bool slot_used(const struct record_chunk *c, uint32_t id)
{
    return (c->used[id % SLOTS_MAX / 64] >> (id % 64) & 1) != 0;
}

bool records_has(const struct records *r, uint32_t id)
{
    return id / SLOTS_MAX / REGION_CHUNKS < r->region_count && slot_used(chunk_at(r, id / SLOTS_MAX), id);
}

size_t records_room(const struct records *r, uint32_t id)
{
    ASSERT(slot_used(chunk_at(r, id / SLOTS_MAX), id));
    return class_size(chunk_at(r, id / SLOTS_MAX)->class);
}

void *records_at(const struct records *r, uint32_t id)
{
    ASSERT(slot_used(chunk_at(r, id / SLOTS_MAX), id));
    return slot_data(r, id);
}

void records_give(struct records *r, uint32_t id)
{
    uint32_t chunk = id / SLOTS_MAX;
    struct record_chunk *c = chunk_at(r, chunk);

    bytes_wipe(records_at(r, id), class_size(c->class));
    asan_poison(slot_data(r, id), class_size(c->class));
    c->used[id % SLOTS_MAX / 64] &= ~(UINT64_C(1) << (id % 64));
    r->count--;
    r->regions[chunk / REGION_CHUNKS]->count--;
    r->bytes -= class_size(c->class);
    if (c->count-- == c->room)
        partial_add(r, chunk);
    if (c->count > 0)
        return;
    partial_remove(r, chunk);
    c->next = r->free_first;
    r->free_first = chunk;
}

/* ---- Walks --------------------------------------------------------------------------------------------- */

uint32_t records_end(const struct records *r)
{
    return r->region_count * REGION_CHUNKS * SLOTS_MAX;
}

uint32_t records_next(const struct records *r, uint32_t from)
{
    uint32_t end = records_end(r);

    while (from < end) {
        const struct record_chunk *c = chunk_at(r, from / SLOTS_MAX);
        uint64_t left = c->used[from % SLOTS_MAX / 64] >> (from % 64);

        if (left != 0)
            return from + (uint32_t)__builtin_ctzll(left);
        from = c->count == 0 ? (from / SLOTS_MAX + 1) * SLOTS_MAX : (from / 64 + 1) * 64;
    }
    return RECORD_NONE;
}
