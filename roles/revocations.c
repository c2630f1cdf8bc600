#include "roles/revocations.h"

_Static_assert(REVOCATIONS_BUCKETS >= 2 * REVOCATIONS_MAX &&
                   (REVOCATIONS_BUCKETS & (REVOCATIONS_BUCKETS - 1)) == 0,
               "there is always a free bucket, and a mask finds the first");

/* The user's bucket, or the free one where he would be. */
static uint16_t *bucket_of(struct revocations *r, uint64_t user)
{
    uint32_t i = (uint32_t)user & (REVOCATIONS_BUCKETS - 1);

    while (r->buckets[i] != 0 && r->entries[r->buckets[i] - 1].user != user)
        i = (i + 1) & (REVOCATIONS_BUCKETS - 1);
    return &r->buckets[i];
}

static const struct revocation *entry_of(const struct revocations *r, uint64_t user)
{
    uint32_t i = (uint32_t)user & (REVOCATIONS_BUCKETS - 1);

    for (; r->buckets[i] != 0; i = (i + 1) & (REVOCATIONS_BUCKETS - 1)) {
        if (r->entries[r->buckets[i] - 1].user == user)
            return &r->entries[r->buckets[i] - 1];
    }
    return NULL;
}

static void entry_remove(struct revocations *r, uint32_t i)
{
    memmove(&r->entries[i], &r->entries[i + 1], (r->count - i - 1) * sizeof r->entries[0]);
    r->count--;
    memset(r->buckets, 0, sizeof r->buckets);
    for (uint32_t k = 0; k < r->count; k++)
        *bucket_of(r, r->entries[k].user) = (uint16_t)(k + 1);
}

void revocations_add(struct revocations *r, uint64_t user, uint64_t generation)
{
    const struct revocation *old = entry_of(r, user);

    ASSERT(generation > r->generation);
    r->generation = generation;
    if (old != NULL) {
        entry_remove(r, (uint32_t)(old - r->entries));
    } else if (r->count == REVOCATIONS_MAX) {
        r->floor = r->entries[0].generation;
        entry_remove(r, 0);
    }
    r->entries[r->count++] = (struct revocation){user, generation};
    *bucket_of(r, user) = (uint16_t)r->count;
}

bool revocations_name(const struct revocations *r, uint64_t user, uint64_t generation)
{
    const struct revocation *e = entry_of(r, user);

    return e != NULL && generation < e->generation;
}

bool revocations_refuse(const struct revocations *r, uint64_t user, uint64_t generation)
{
    if (generation >= r->generation) /* Made after all of them. */
        return false;
    return generation < r->floor || revocations_name(r, user, generation);
}

uint32_t revocations_after(const struct revocations *r, uint64_t generation)
{
    uint32_t i = r->count;

    while (i > 0 && r->entries[i - 1].generation > generation)
        i--;
    return i;
}
