/* roles/proxy/users.c -- a table of linear hashing: with each user that is one too many a bucket is added, and the one that stands for
 * both is divided. */
#include "roles/proxy/users.h"
#include "core/io.h"

#define CHUNK_BUCKETS 1024

static uint32_t *bucket_at(const struct users *t, uint32_t bucket)
{
    return &t->chunks[bucket / CHUNK_BUCKETS][bucket % CHUNK_BUCKETS];
}

uint64_t users_hash(const struct users *t, struct slice name)
{
    return t->hash != NULL ? t->hash(name) : partition_user(t->secret, name);
}

uint16_t users_partition(const struct users *t, struct slice name)
{
    return (uint16_t)partition_of(t->secret, name);
}

/* mask + 1 is the power of two that is not below bucket_count. */
static uint32_t bucket_of(const struct users *t, uint64_t name_hash)
{
    uint32_t hash = (uint32_t)name_hash;

    return (hash & t->mask) < t->bucket_count ? hash & t->mask : hash & t->mask >> 1;
}

/* False: no memory. Chains are longer then, and that is all. */
static bool chunk_add(struct users *t)
{
    uint32_t count = t->bucket_count / CHUNK_BUCKETS;
    uint32_t **chunks = heap_try_realloc(t->heap, t->chunks, (count + 1) * sizeof *chunks);

    if (chunks == NULL)
        return false;
    t->chunks = chunks;
    chunks[count] = heap_try_alloc(t->heap, CHUNK_BUCKETS * sizeof **chunks);
    if (chunks[count] == NULL)
        return false;
    memset(chunks[count], 0xff, CHUNK_BUCKETS * sizeof **chunks);
    return true;
}

static void user_put(struct users *t, uint32_t id)
{
    struct user *u = user_at(t, id);
    uint32_t *bucket = bucket_at(t, bucket_of(t, users_hash(t, user_name_of(u))));

    u->next = *bucket;
    *bucket = id;
}

static void bucket_add(struct users *t)
{
    uint32_t added = t->bucket_count, divided, id;

    if (added % CHUNK_BUCKETS == 0 && !chunk_add(t))
        return;
    t->mask = added > t->mask ? t->mask * 2 + 1 : t->mask;
    divided = added & t->mask >> 1;
    t->bucket_count++;
    id = *bucket_at(t, divided);
    *bucket_at(t, divided) = RECORD_NONE;
    while (id != RECORD_NONE) {
        uint32_t next = user_at(t, id)->next;

        user_put(t, id);
        id = next;
    }
}

uint32_t users_find(const struct users *t, struct slice name)
{
    uint32_t id = *bucket_at(t, bucket_of(t, users_hash(t, name)));

    while (id != RECORD_NONE && !slice_eq(user_name_of(user_at(t, id)), name))
        id = user_at(t, id)->next;
    return id;
}

uint32_t users_named(const struct users *t, uint64_t hash, uint32_t after)
{
    uint32_t id = after == RECORD_NONE ? *bucket_at(t, bucket_of(t, hash)) : user_at(t, after)->next;

    while (id != RECORD_NONE && users_hash(t, user_name_of(user_at(t, id))) != hash)
        id = user_at(t, id)->next;
    return id;
}

void users_rename(struct users *t, const uint8_t secret[PARTITION_SECRET_SIZE])
{
    if (memcmp(t->secret, secret, sizeof t->secret) == 0)
        return;
    memcpy(t->secret, secret, sizeof t->secret);
    for (uint32_t i = 0; i * CHUNK_BUCKETS < t->bucket_count; i++)
        memset(t->chunks[i], 0xff, CHUNK_BUCKETS * sizeof **t->chunks);
    for (uint32_t id = records_next(&t->records, 0); id != RECORD_NONE;
         id = records_next(&t->records, id + 1))
        user_put(t, id);
}

uint32_t users_get(struct users *t, struct slice name, uint16_t place)
{
    uint32_t id = users_find(t, name);
    struct user *u;

    ASSERT(name.size <= USER_SIZE_MAX);
    if (id != RECORD_NONE || name.size == 0)
        return id;
    id = records_take(&t->records, USER_HEAD_SIZE + name.size);
    if (id == RECORD_NONE)
        return id;
    u = user_at(t, id);
    memset(u, 0, USER_HEAD_SIZE);
    u->place = place;
    u->first = u->stirred_next = RECORD_NONE;
    u->name_size = (uint8_t)name.size;
    memcpy(u->name, name.data, name.size);
    user_put(t, id);
    if (t->records.count > t->bucket_count)
        bucket_add(t);
    return id;
}

void users_release(struct users *t, uint32_t id)
{
    struct user *u = user_at(t, id);
    uint32_t *at;

    if (u->state != 0 || u->first != RECORD_NONE || u->stirred || u->pinned)
        return;
    at = bucket_at(t, bucket_of(t, users_hash(t, user_name_of(u))));
    while (*at != id)
        at = &user_at(t, *at)->next;
    *at = u->next;
    records_give(&t->records, id);
}

size_t users_table_size(const struct users *t)
{
    size_t chunks = (t->bucket_count + CHUNK_BUCKETS - 1) / CHUNK_BUCKETS;

    return chunks * (CHUNK_BUCKETS * sizeof **t->chunks + sizeof *t->chunks);
}

void users_init(struct users *t, struct heap *h, uint64_t (*hash)(struct slice name))
{
    *t = (struct users){.heap = h, .hash = hash, .bucket_count = 1};
    random_bytes(t->secret, sizeof t->secret);
    records_init(&t->records, h);
    t->chunks = heap_alloc(h, sizeof *t->chunks);
    t->chunks[0] = heap_alloc(h, CHUNK_BUCKETS * sizeof **t->chunks);
    memset(t->chunks[0], 0xff, CHUNK_BUCKETS * sizeof **t->chunks);
}

void users_fini(struct users *t)
{
    for (uint32_t i = 0; i * CHUNK_BUCKETS < t->bucket_count; i++)
        heap_free(t->heap, t->chunks[i]);
    heap_free(t->heap, t->chunks);
    records_fini(&t->records);
}
