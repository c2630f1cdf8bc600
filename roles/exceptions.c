#include "roles/exceptions.h"

_Static_assert(EXCEPTIONS_BUCKETS >= 2 * EXCEPTIONS_MAX &&
                   (EXCEPTIONS_BUCKETS & (EXCEPTIONS_BUCKETS - 1)) == 0,
               "there is always a free bucket, and a mask finds the first");

static void bucket_take(struct exceptions *e, uint32_t place)
{
    uint32_t i = (uint32_t)e->entries[place].user & (EXCEPTIONS_BUCKETS - 1);

    while (e->buckets[i] != 0)
        i = (i + 1) & (EXCEPTIONS_BUCKETS - 1);
    e->buckets[i] = (uint16_t)(place + 1);
}

void exceptions_put(struct exceptions *e, uint32_t place, uint64_t user, uint16_t partition, uint16_t node)
{
    ASSERT(place < EXCEPTIONS_MAX && !e->entries[place].used && exceptions_find(e, user) == NULL);
    e->entries[place] = (struct exception){.user = user, .partition = partition, .node = node, .used = true};
    e->count++;
    bucket_take(e, place);
}

void exceptions_drop(struct exceptions *e, uint32_t place)
{
    ASSERT(place < EXCEPTIONS_MAX);
    if (!e->entries[place].used)
        return;
    memset(&e->entries[place], 0, sizeof e->entries[place]);
    e->count--;
    memset(e->buckets, 0, sizeof e->buckets);
    for (uint32_t i = 0; i < EXCEPTIONS_MAX; i++) {
        if (e->entries[i].used)
            bucket_take(e, i);
    }
}

const struct exception *exceptions_find(const struct exceptions *e, uint64_t user)
{
    uint32_t i = (uint32_t)user & (EXCEPTIONS_BUCKETS - 1);

    if (e->count == 0)
        return NULL;
    for (; e->buckets[i] != 0; i = (i + 1) & (EXCEPTIONS_BUCKETS - 1)) {
        if (e->entries[e->buckets[i] - 1].user == user)
            return &e->entries[e->buckets[i] - 1];
    }
    return NULL;
}

bool exceptions_same(const struct exceptions *a, const struct exceptions *b)
{
    bool same = a->count == b->count;

    for (uint32_t i = 0; same && i < EXCEPTIONS_MAX; i++) {
        const struct exception *x = &a->entries[i], *y = &b->entries[i];

        same = x->used == y->used && x->user == y->user && x->partition == y->partition && x->node == y->node;
    }
    return same;
}
