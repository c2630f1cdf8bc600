/* roles/backend/member_file.c -- what a backend keeps of its cluster, the file `cluster` in its data directory:
 *
 *     magic 8 | store id 16 | grant without keys of tickets | checksum 8
 *
 * TRCLUST2, once a director has placed somebody alone: size 2 before the grant, and behind it users who are. The release before does not start with it:
 * it would serve who is away. */
#include "core/io.h"
#include "core/log.h"
#include "roles/backend/member_state.h"
#include "roles/small_file.h"
#include <errno.h>
#include <xxhash.h>

#define FILE_NAME     "cluster"
#define FILE_MAGIC    "TRCLUST1"
#define FILE_MAGIC_2  "TRCLUST2" /* With users who are placed alone. */
#define FILE_PLACED   12 /* Before them: version 8, count 4; then each: user 8, partition 2, here 1. */
#define FILE_USER     11
#define FILE_SIZE_MAX (MEMBER_SIZE_MAX + 64 + FILE_PLACED + EXCEPTIONS_MAX * FILE_USER)

static size_t placed_encode(const struct member *m, char *out)
{
    size_t size = FILE_PLACED;

    put_u64(out, m->placed_version);
    put_u32(out + 8, m->view.placed.count);
    for (unsigned i = 0; i < EXCEPTIONS_MAX; i++) {
        const struct exception *e = &m->view.placed.entries[i];

        if (!e->used)
            continue;
        put_u64(out + size, e->user);
        put_u16(out + size + 8, e->partition);
        out[size + 10] = (char)e->node;
        size += FILE_USER;
    }
    return size;
}

static bool placed_decode(struct member *m, struct slice in)
{
    uint32_t count = in.size >= FILE_PLACED ? get_u32(in.data + 8) : UINT32_MAX;

    if (count > EXCEPTIONS_MAX || in.size != FILE_PLACED + count * (size_t)FILE_USER)
        return false;
    m->placed_version = get_u64(in.data);
    for (uint32_t i = 0; i < count; i++) {
        const char *at = in.data + FILE_PLACED + i * (size_t)FILE_USER;

        if (exceptions_find(&m->view.placed, get_u64(at)) != NULL)
            return false;
        exceptions_put(&m->view.placed, i, get_u64(at), get_u16(at + 8), (uint8_t)at[10]);
    }
    return true;
}

int member_file_save(struct member *m)
{
    struct member_grant kept = m->grant;
    char *bytes = heap_alloc(m->shard->heap, FILE_SIZE_MAX);
    bool placed = m->placed_version > 0;
    size_t size = 8 + CLUSTER_ID_SIZE;
    int rc;

    memset(kept.ticket_keys, 0, sizeof kept.ticket_keys);
    memcpy(bytes, placed ? FILE_MAGIC_2 : FILE_MAGIC, 8);
    memcpy(bytes + 8, m->store_id, CLUSTER_ID_SIZE);
    if (placed)
        put_u16(bytes + size, (uint16_t)member_grant_encode(&kept, bytes + size + 2));
    size += placed ? 2u + get_u16(bytes + size) : member_grant_encode(&kept, bytes + size);
    if (placed)
        size += placed_encode(m, bytes + size);
    put_u64(bytes + size, XXH3_64bits(bytes, size));
    rc = small_file_store(".", FILE_NAME, slice_of(bytes, size + 8));
    bytes_wipe(&kept, sizeof kept);
    bytes_wipe(bytes, size);
    heap_free(m->shard->heap, bytes);
    if (rc < 0)
        log_event(LOG_ERROR, "cannot write what is known of the cluster", "file=%s error=%s", FILE_NAME,
                  log_error(rc));
    return rc;
}

static bool file_parse(struct member *m, struct slice in)
{
    size_t size = in.size - MIN(in.size, 8u), grant_size;
    bool placed = in.size >= 8 && memcmp(in.data, FILE_MAGIC_2, 8) == 0;
    struct slice rest;

    if (in.size < 18 + CLUSTER_ID_SIZE || (!placed && memcmp(in.data, FILE_MAGIC, 8) != 0) ||
        get_u64(in.data + size) != XXH3_64bits(in.data, size))
        return false;
    memcpy(m->store_id, in.data + 8, CLUSTER_ID_SIZE);
    rest = slice_of(in.data + 8 + CLUSTER_ID_SIZE, size - 8 - CLUSTER_ID_SIZE);
    grant_size = placed ? get_u16(rest.data) : rest.size;
    rest = slice_from(rest, placed ? 2 : 0);
    return grant_size <= rest.size && member_grant_decode(slice_first(rest, grant_size), &m->grant) &&
           (!placed || placed_decode(m, slice_from(rest, grant_size)));
}

/* Without a file its data directory is new, or was never granted: it is named anew. */
int member_file_load(struct member *m)
{
    struct arena arena;
    struct slice bytes;
    int rc;

    arena_init(&arena, m->shard->heap);
    rc = small_file_load(FILE_NAME, &arena, FILE_SIZE_MAX, &bytes);
    if (rc == -ENOENT) {
        random_bytes(m->store_id, sizeof m->store_id);
        rc = 0;
    } else if (rc == 0 && file_parse(m, bytes)) {
        m->granted = m->joined = true;
    } else {
        rc = rc < 0 ? rc : -EBADMSG;
        log_event(LOG_ERROR, "what is known of the cluster cannot be read; restore it from a backup",
                  "file=%s error=%s", FILE_NAME, log_error(rc));
    }
    arena_wipe(&arena);
    arena_fini(&arena);
    return rc;
}
