/* roles/director/cluster_file.c -- what a director keeps, the file `director` in its data directory:
 *
 *     magic 8 | cluster id 16 | cluster key 32 | renewal 100 | size of the table 4 | table
 *     size 4 | users who are placed alone: place 2, at 2, to 2, size 1, name | size 4 | feature levels of the table's nodes, 2 each
 *     (TRDIREC3 alone: where there are no such users, and all nodes have the level of the release before, that one reads it)
 *     generation 8 | floor 8 | count 4 | revocations: user 8, generation 8 | checksum 8 */
#include "core/log.h"
#include "roles/director/cluster_state.h"
#include "roles/small_file.h"
#include <errno.h>
#include <xxhash.h>

#define FILE_NAME    "director"
#define FILE_MAGIC   "TRDIREC2"
#define FILE_MAGIC_3 "TRDIREC3" /* With users who are placed alone, and nodes' feature levels. */
#define FILE_MAGIC_1 "TRDIREC1" /* With one renewal key, which was never changed. */
#define FILE_FRONT   (8 + CLUSTER_ID_SIZE + CLUSTER_KEY_SIZE + RENEWAL_SIZE)
#define FILE_FRONT_1 (8 + CLUSTER_ID_SIZE + 2 * CLUSTER_KEY_SIZE)
#define FILE_REVOKED 20 /* Before the revocations. */
#define FILE_SIZE_MAX                                                                                        \
    (FILE_FRONT + 12 + CLUSTER_NODES_MAX * 2 + CLUSTER_TABLE_SIZE_MAX + FILE_REVOKED +                       \
     REVOCATIONS_MAX * REVOCATION_SIZE + 8)
#define FILE_PLACED_MAX (EXCEPTIONS_MAX * (7 + USER_NAME_MAX))

static size_t revoked_encode(const struct revocations *r, char *out)
{
    put_u64(out, r->generation);
    put_u64(out + 8, r->floor);
    put_u32(out + 16, r->count);
    for (uint32_t i = 0; i < r->count; i++) {
        put_u64(out + FILE_REVOKED + i * REVOCATION_SIZE, r->entries[i].user);
        put_u64(out + FILE_REVOKED + i * REVOCATION_SIZE + 8, r->entries[i].generation);
    }
    return FILE_REVOKED + r->count * (size_t)REVOCATION_SIZE;
}

static bool revoked_decode(struct slice in, struct revocations *r)
{
    uint32_t count = in.size >= FILE_REVOKED ? get_u32(in.data + 16) : UINT32_MAX;

    if (count > REVOCATIONS_MAX || in.size != FILE_REVOKED + count * (size_t)REVOCATION_SIZE)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const char *at = in.data + FILE_REVOKED + i * REVOCATION_SIZE;

        if (get_u64(at + 8) <= r->generation)
            return false;
        revocations_add(r, get_u64(at), get_u64(at + 8));
    }
    r->floor = get_u64(in.data + 8);
    r->generation = MAX(r->generation, get_u64(in.data));
    return true;
}

static bool features_said(const struct cluster *c)
{
    for (unsigned i = 0; i < c->table.node_count; i++) {
        if (c->features[i] != LINK_FEATURES_UNSAID)
            return true;
    }
    return false;
}

static size_t features_encode(const struct cluster *c, char *out)
{
    put_u32(out, c->table.node_count * 2u);
    for (unsigned i = 0; i < c->table.node_count; i++)
        put_u16(out + 4 + i * (size_t)2, c->features[i]);
    return 4 + c->table.node_count * (size_t)2;
}

int cluster_file_save(struct cluster *c)
{
    size_t placed = cluster_exceptions_size(c);
    bool more = placed > 0 || features_said(c);
    char *bytes = heap_alloc(c->shard->heap, FILE_SIZE_MAX + placed);
    uint64_t generation = c->view.revoked.generation;
    size_t size = FILE_FRONT + 4;
    int rc;

    memcpy(bytes, more ? FILE_MAGIC_3 : FILE_MAGIC, 8);
    memcpy(bytes + 8, c->id, CLUSTER_ID_SIZE);
    memcpy(bytes + 24, c->key, CLUSTER_KEY_SIZE);
    renewal_encode(&c->view.renewal, bytes + 56);
    size += cluster_table_encode(&c->table, bytes + size);
    put_u32(bytes + FILE_FRONT, (uint32_t)(size - FILE_FRONT - 4));
    if (more) {
        put_u32(bytes + size, (uint32_t)placed);
        cluster_exceptions_write(c, bytes + size + 4);
        size += 4 + placed;
        size += features_encode(c, bytes + size);
    }
    size += revoked_encode(&c->view.revoked, bytes + size);
    put_u64(bytes + size, XXH3_64bits(bytes, size));
    rc = small_file_store(".", FILE_NAME, slice_of(bytes, size + 8));
    bytes_wipe(bytes, size);
    heap_free(c->shard->heap, bytes);
    if (rc < 0)
        log_event(LOG_ERROR, "cannot write the table of partitions", "file=%s error=%s", FILE_NAME,
                  log_error(rc));
    else
        c->view.revoked_saved = generation;
    return rc;
}

/* Takes a part that its size stands before off *in. */
static bool part_take(struct slice *in, struct slice *part_out)
{
    size_t size = in->size >= 4 ? get_u32(in->data) : SIZE_MAX;

    if (size > in->size - MIN(in->size, 4u))
        return false;
    *part_out = slice_first(slice_from(*in, 4), size);
    *in = slice_from(*in, 4 + size);
    return true;
}

static bool file_parse(struct cluster *c, struct slice in)
{
    bool old = in.size >= 8 && memcmp(in.data, FILE_MAGIC_1, 8) == 0;
    bool placed = in.size >= 8 && memcmp(in.data, FILE_MAGIC_3, 8) == 0;
    size_t size = in.size - MIN(in.size, 8u), front = old ? FILE_FRONT_1 : FILE_FRONT;
    struct slice part;

    if (size < front || (!old && !placed && memcmp(in.data, FILE_MAGIC, 8) != 0) ||
        get_u64(in.data + size) != XXH3_64bits(in.data, size))
        return false;
    memcpy(c->id, in.data + 8, CLUSTER_ID_SIZE);
    memcpy(c->key, in.data + 24, CLUSTER_KEY_SIZE);
    if (old)
        renewal_from_one((const uint8_t *)in.data + 56, &c->view.renewal);
    else
        renewal_decode(in.data + 56, &c->view.renewal);
    in = slice_from(slice_first(in, size), front);
    if (!part_take(&in, &part) || !cluster_table_decode(part, &c->table))
        return false;
    for (unsigned i = 0; i < CLUSTER_NODES_MAX; i++)
        c->features[i] = LINK_FEATURES_UNSAID;
    if (placed && (!part_take(&in, &part) || !cluster_exceptions_read(c, part) || !part_take(&in, &part) ||
                   part.size != c->table.node_count * 2u))
        return false;
    for (unsigned i = 0; placed && i < c->table.node_count; i++)
        c->features[i] = get_u16(part.data + i * (size_t)2);
    if (!revoked_decode(in, &c->view.revoked))
        return false;
    c->view.revoked_saved = c->view.revoked.generation;
    return true;
}

static int file_make(struct cluster *c)
{
    random_bytes(c->id, sizeof c->id);
    random_bytes(c->key, sizeof c->key);
    renewal_make(&c->view.renewal);
    memset(c->table.owners, 0xff, sizeof c->table.owners); /* PARTITION_NOWHERE */
    return cluster_file_save(c);
}

int cluster_file_load(struct cluster *c)
{
    struct arena arena;
    struct slice bytes;
    int rc;

    arena_init(&arena, c->shard->heap);
    rc = small_file_load(FILE_NAME, &arena, FILE_SIZE_MAX + FILE_PLACED_MAX, &bytes);
    if (rc == -ENOENT) {
        rc = file_make(c);
    } else if (rc < 0 || !file_parse(c, bytes)) {
        rc = rc < 0 ? rc : -EBADMSG;
        log_event(LOG_ERROR, "the table of partitions cannot be read; restore it from a backup",
                  "file=%s error=%s", FILE_NAME, log_error(rc));
    }
    arena_wipe(&arena);
    arena_fini(&arena);
    return rc;
}
