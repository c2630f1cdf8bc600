/* storage/table.c -- entries lie in the order in which they came, in blocks that are full but for the last; an index of
 * open addressing, at most seven eighths full, says where. There is an entry for every account, so the last block and the
 * index grow in small steps, those of the allocator's size classes: four a doubling. */
#include "storage/table.h"
#include <errno.h>

#define BLOCK_COUNT 71 /* 2,556 bytes: of the size classes near it the one that they fill best. */
#define INDEX_MIN   4
#define PLACE_BITS                                                                                           \
    24 /* Of a word of the index; the others are of the id, so that few entries are looked at in vain. */
#define PLACE_MASK   ((UINT32_C(1) << PLACE_BITS) - 1)
#define BLOCK_SIZE   (BLOCK_COUNT * sizeof(struct account_packed))
#define ACCOUNTS_MAX (PLACE_MASK - 1) /* Of a partition: 68 thousand million of all. */
#define SIZE_BITS    23
#define STREAM_SHIFT (26 + SIZE_BITS)
#define SNAPSHOT     (UINT64_C(1) << 63)

struct account_packed {
    struct id128 id;
    uint32_t segment;
    char modseq[8]; /* The highest bit: it is a snapshot. */
    char place[8];  /* From the lowest bit: offset / RECORD_ALIGN 26, size - 1 23, stream 15. */
};
_Static_assert(sizeof(struct account_packed) == 36, "there are millions of them");
_Static_assert(SEGMENT_SIZE_MAX / RECORD_ALIGN <= 1u << 26 && BATCH_SIZE_MAX <= 1u << SIZE_BITS,
               "records have places that fit");

/* What no record can be (a disk may lie) becomes one of a byte, which reading refuses. */
static struct account_packed entry_pack(const struct account_entry *e)
{
    bool fits = e->offset < SEGMENT_SIZE_MAX && e->offset % RECORD_ALIGN == 0 && e->size > 0 &&
                e->size <= BATCH_SIZE_MAX && e->stream < UINT16_MAX / 2;
    uint64_t place = 0;
    struct account_packed p = {.id = e->id, .segment = e->segment};

    if (fits)
        place =
            e->offset / RECORD_ALIGN | (uint64_t)(e->size - 1) << 26 | (uint64_t)e->stream << STREAM_SHIFT;
    put_u64(p.place, place);
    put_u64(p.modseq, (e->modseq & ~SNAPSHOT) | (e->snapshot != 0 ? SNAPSHOT : 0));
    return p;
}

static void entry_unpack(const struct account_packed *p, struct account_entry *out)
{
    uint64_t place = get_u64(p->place), modseq = get_u64(p->modseq);

    *out = (struct account_entry){.id = p->id,
                                  .modseq = modseq & ~SNAPSHOT,
                                  .segment = p->segment,
                                  .offset = (uint32_t)(place & ((1u << 26) - 1)) * RECORD_ALIGN,
                                  .size = (uint32_t)(place >> 26 & ((1u << SIZE_BITS) - 1)) + 1,
                                  .stream = (uint16_t)(place >> STREAM_SHIFT),
                                  .snapshot = (modseq & SNAPSHOT) != 0};
}

static struct account_packed *entry_at(const struct account_table *t, uint32_t place)
{
    return &t->blocks[place / BLOCK_COUNT][place % BLOCK_COUNT];
}

void account_table_fini(struct account_table *t, struct heap *h)
{
    for (uint32_t at = 0; at < t->capacity; at += BLOCK_COUNT)
        heap_free(h, t->blocks[at / BLOCK_COUNT]);
    heap_free(h, t->blocks);
    heap_free(h, t->index);
    *t = (struct account_table){0};
}

/* ---- The index ----------------------------------------------------------------------------------------- */

/* The id is a hash already; its first word chose the partition. */
static uint32_t tag_of(const struct id128 *id)
{
    return get_u32(id->bytes + 12) << PLACE_BITS;
}

/* The account's word, or the free one where it belongs. index_capacity > 0. */
static uint32_t *index_word(const struct account_table *t, const struct id128 *id)
{
    uint32_t tag = tag_of(id),
             i = (uint32_t)((get_u64(id->bytes + 8) & UINT32_MAX) * t->index_capacity >> 32);

    for (;; i = i + 1 < t->index_capacity ? i + 1 : 0) {
        uint32_t word = t->index[i];

        if (word == 0 ||
            ((word & ~PLACE_MASK) == tag && id128_eq(&entry_at(t, (word & PLACE_MASK) - 1)->id, id)))
            return &t->index[i];
    }
}

static void index_put(struct account_table *t, uint32_t place)
{
    const struct id128 *id = &entry_at(t, place)->id;

    *index_word(t, id) = tag_of(id) | (place + 1);
}

static int index_grow(struct account_table *t, struct heap *h)
{
    struct account_table larger = *t;
    size_t size = heap_step(MAX(t->index_capacity, (uint32_t)INDEX_MIN) * sizeof *t->index);

    larger.index = heap_try_alloc(h, size);
    if (larger.index == NULL)
        return -ENOMEM;
    memset(larger.index, 0, size);
    larger.index_capacity = (uint32_t)(size / sizeof *t->index);
    for (uint32_t i = 0; i < t->count; i++)
        index_put(&larger, i);
    heap_free(h, t->index);
    *t = larger;
    return 0;
}

/* ---- Entries ------------------------------------------------------------------------------------------- */

static struct account_packed *find(const struct account_table *t, const struct id128 *id)
{
    uint32_t word = t->index_capacity > 0 ? *index_word(t, id) : 0;

    return word != 0 ? entry_at(t, (word & PLACE_MASK) - 1) : NULL;
}

bool account_table_find(const struct account_table *t, const struct id128 *id,
                        struct account_entry *entry_out)
{
    const struct account_packed *p = find(t, id);

    if (p != NULL)
        entry_unpack(p, entry_out);
    return p != NULL;
}

void account_table_at(const struct account_table *t, uint32_t place, struct account_entry *entry_out)
{
    ASSERT(place < t->count);
    entry_unpack(entry_at(t, place), entry_out);
}

/* A step more of the last block, or another one. */
static int blocks_grow(struct account_table *t, struct heap *h)
{
    uint32_t last = t->capacity / BLOCK_COUNT, count = t->capacity % BLOCK_COUNT;
    size_t size = count * sizeof **t->blocks;
    struct account_packed *block;

    if (count == 0) {
        struct account_packed **blocks = heap_try_realloc(h, t->blocks, (last + 1) * sizeof *blocks);

        if (blocks == NULL)
            return -ENOMEM;
        t->blocks = blocks;
        t->blocks[last] = NULL;
    }
    do
        size = heap_step(size);
    while (size / sizeof *block <= count);
    size = MIN(size, BLOCK_SIZE);
    block = heap_try_realloc(h, t->blocks[last], size);
    if (block == NULL)
        return -ENOMEM;
    t->blocks[last] = block;
    t->capacity = last * BLOCK_COUNT + (uint32_t)(size / sizeof *block);
    return 0;
}

int account_table_reserve(struct account_table *t, struct heap *h)
{
    int rc = 0;

    if (t->count == ACCOUNTS_MAX)
        return -ENOMEM;
    if (t->count == t->capacity)
        rc = blocks_grow(t, h);
    if (rc == 0 && (uint64_t)(t->count + 1) * 8 > (uint64_t)t->index_capacity * 7)
        rc = index_grow(t, h);
    return rc;
}

int account_table_update(struct account_table *t, struct heap *h, const struct account_entry *e)
{
    struct account_packed *old = find(t, &e->id);
    struct account_entry known;
    int rc;

    if (id128_is_zero(&e->id))
        return 0;
    if (old != NULL) {
        entry_unpack(old, &known);
        if (e->modseq > known.modseq || (e->modseq == known.modseq && e->snapshot >= known.snapshot))
            *old = entry_pack(e);
        return 0;
    }
    rc = account_table_reserve(t, h);
    if (rc < 0)
        return rc;
    *entry_at(t, t->count) = entry_pack(e);
    index_put(t, t->count++);
    return 0;
}

size_t account_table_size(const struct account_table *t)
{
    size_t blocks = (t->capacity + BLOCK_COUNT - 1) / BLOCK_COUNT;

    return t->capacity * sizeof **t->blocks + blocks * sizeof *t->blocks +
           t->index_capacity * sizeof *t->index;
}
