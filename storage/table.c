/* storage/table.c -- open addressing, linear probing, at most seven eighths full; nothing is ever removed. There is an entry for
 * every account, so it grows in small steps, those of the allocator's size classes: four a doubling. */
#include "storage/table.h"

#include <errno.h>

#define CAPACITY_MIN 4

void account_table_fini(struct account_table *t, struct heap *h)
{
    heap_free(h, t->entries);
    *t = (struct account_table){0};
}

/* The id is a hash already; its first word chose the partition. */
static uint32_t entry_start(const struct account_table *t, const struct id128 *id)
{
    return (uint32_t)((get_u64(id->bytes + 8) & UINT32_MAX) * t->capacity >> 32);
}

static uint32_t entry_after(const struct account_table *t, uint32_t i)
{
    return i + 1 < t->capacity ? i + 1 : 0;
}

static uint32_t capacity_after(uint32_t capacity)
{
    size_t size = MAX(capacity, (uint32_t)CAPACITY_MIN) * sizeof(struct account_entry);

    do
        size = heap_step(size);
    while (size / sizeof(struct account_entry) <= capacity);
    return (uint32_t)(size / sizeof(struct account_entry));
}

/* The account's place, or the free one where it belongs. capacity > 0. */
static struct account_entry *entry_place(const struct account_table *t, const struct id128 *id)
{
    uint32_t i = entry_start(t, id);

    while (!id128_is_zero(&t->entries[i].id) && !id128_eq(&t->entries[i].id, id))
        i = entry_after(t, i);
    return &t->entries[i];
}

struct account_entry *account_table_find(const struct account_table *t, const struct id128 *id)
{
    struct account_entry *e;

    if (t->capacity == 0)
        return NULL;
    e = entry_place(t, id);
    return id128_is_zero(&e->id) ? NULL : e;
}

int account_table_reserve(struct account_table *t, struct heap *h)
{
    struct account_table larger = {.count = t->count};

    if ((uint64_t)(t->count + 1) * 8 <= (uint64_t)t->capacity * 7)
        return 0;
    larger.capacity = capacity_after(t->capacity);
    larger.entries = heap_try_alloc(h, (size_t)larger.capacity * sizeof *larger.entries);
    if (larger.entries == NULL)
        return -ENOMEM;
    memset(larger.entries, 0, (size_t)larger.capacity * sizeof *larger.entries);
    for (uint32_t i = 0; i < t->capacity; i++) {
        if (!id128_is_zero(&t->entries[i].id))
            *entry_place(&larger, &t->entries[i].id) = t->entries[i];
    }
    heap_free(h, t->entries);
    *t = larger;
    return 0;
}

int account_table_update(struct account_table *t, struct heap *h, const struct account_entry *e)
{
    struct account_entry *old = account_table_find(t, &e->id);
    int rc;

    if (id128_is_zero(&e->id))
        return 0;
    if (old != NULL) {
        if (e->modseq > old->modseq || (e->modseq == old->modseq && e->snapshot >= old->snapshot))
            *old = *e;
        return 0;
    }
    rc = account_table_reserve(t, h);
    if (rc < 0)
        return rc;
    *entry_place(t, &e->id) = *e;
    t->count++;
    return 0;
}
