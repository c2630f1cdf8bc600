/* storage/checkpoint.c -- the account table and the partitions' epochs, written down so that a start reads
 * only the streams' ends. Losing one costs time, nothing else. */
#include "core/log.h"
#include "core/xxh.h"
#include "storage/store_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK_HEADER_SIZE 16
#define CHUNK_CONTENT_MAX (64 * 1024)
#define CHECKPOINT_MAX    1024 /* Files: as many as there ever were shards. */
#define POSITION_SIZE     16
#define PARTITION_SIZE    16
#define ACCOUNT_SIZE      40
#define HEAD_SIZE         16

static const char checkpoint_magic[8] = {'T', 'R', 'I', 'C', 'K', 'P', 'T', '1'};

enum chunk_type { CHUNK_HEAD = 1, CHUNK_STREAMS, CHUNK_PARTITIONS, CHUNK_ACCOUNTS, CHUNK_END };

static uint64_t chunk_checksum(const char *chunk, uint32_t size, uint32_t number)
{
    uint64_t head = XXH3_64bits_withSeed(chunk, 8, number);

    return XXH3_64bits_withSeed(chunk + CHUNK_HEADER_SIZE, size, head);
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

struct checkpoint_writer {
    struct store *store;
    struct file file;
    uint64_t offset;
    uint32_t chunk_count, size;
    enum chunk_type type;
    int error;
    char *chunk; /* CHUNK_HEADER_SIZE + CHUNK_CONTENT_MAX */
};

static void chunk_end(struct checkpoint_writer *w)
{
    struct iovec vector = {w->chunk, CHUNK_HEADER_SIZE + w->size};

    if (w->size == 0 || w->error != 0)
        return;
    put_u32(w->chunk, w->type);
    put_u32(w->chunk + 4, w->size);
    put_u64(w->chunk + 8, chunk_checksum(w->chunk, w->size, w->chunk_count));
    w->error = file_write(w->file, &vector, 1, w->offset);
    w->offset += vector.iov_len;
    w->chunk_count++;
    w->size = 0;
}

/* Room for one entry of the type, zeroed. May suspend. */
static char *chunk_entry(struct checkpoint_writer *w, enum chunk_type type, uint32_t size)
{
    char *at;

    if (w->size > 0 && (w->type != type || w->size + size > CHUNK_CONTENT_MAX))
        chunk_end(w);
    w->type = type;
    if (w->size + size > CHUNK_CONTENT_MAX) /* After an error: nothing was written, and nothing will be. */
        w->size = 0;
    at = w->chunk + CHUNK_HEADER_SIZE + w->size;
    w->size += size;
    memset(at, 0, size);
    return at;
}

static void checkpoint_put_position(struct checkpoint_writer *w, uint32_t stream, uint32_t segment,
                                    uint32_t offset)
{
    char *at = chunk_entry(w, CHUNK_STREAMS, POSITION_SIZE);

    put_u32(at, stream);
    put_u32(at + 4, segment);
    put_u32(at + 8, offset);
}

static void checkpoint_put_positions(struct checkpoint_writer *w)
{
    const struct stream *st = &w->store->stream;
    uint32_t segment = st->segment,
             offset = st->offset; /* Before the first suspension: what is durable now. */

    checkpoint_put_position(w, st->number, segment, offset);
    for (unsigned i = 0; i < w->store->end_count; i++) {
        const struct stream_end *p = &w->store->ends[i];

        if (p->stream != st->number)
            checkpoint_put_position(w, p->stream, p->segment, p->offset);
    }
}

static void checkpoint_put_account(struct checkpoint_writer *w, const struct account_entry *e)
{
    char *at = chunk_entry(w, CHUNK_ACCOUNTS, ACCOUNT_SIZE);

    memcpy(at, e->id.bytes, 16);
    put_u64(at + 16, e->modseq);
    put_u16(at + 24, e->stream);
    put_u32(at + 26, e->segment);
    put_u32(at + 30, e->offset);
    put_u32(at + 34, e->size);
    put_u16(at + 38, e->snapshot);
}

static void checkpoint_put_partitions(struct checkpoint_writer *w)
{
    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++) {
        const struct partition *p = &w->store->partitions[i];
        char *at;

        if (!p->served)
            continue;
        at = chunk_entry(w, CHUNK_PARTITIONS, PARTITION_SIZE);
        put_u32(at, i);
        put_u64(at + 8, p->epoch);
    }
}

static void checkpoint_put_accounts(struct checkpoint_writer *w)
{
    for (unsigned i = 0; i < STORE_PARTITION_COUNT && w->error == 0; i++) {
        const struct account_table *t = &w->store->partitions[i].table;
        struct account_entry entry;

        /* Writing may suspend: whoever is new then may be met or not. */
        for (uint32_t at = 0; at < t->count; at++) {
            account_table_at(t, at, &entry);
            checkpoint_put_account(w, &entry);
        }
        if (fiber_work(256) < 0)
            w->error = -ECANCELED;
    }
}

static void checkpoint_put_all(struct checkpoint_writer *w, uint64_t number)
{
    char *at = chunk_entry(w, CHUNK_HEAD, HEAD_SIZE);

    memcpy(at, checkpoint_magic, 8);
    put_u64(at + 8, number);
    checkpoint_put_positions(w);
    checkpoint_put_partitions(w);
    checkpoint_put_accounts(w);
    chunk_end(w);
    at = chunk_entry(w, CHUNK_END, 8);
    put_u32(at, w->chunk_count);
    chunk_end(w);
}

int checkpoint_write(struct store *store)
{
    struct checkpoint_writer w = {.store = store};
    char path[STREAM_PATH_MAX], temporary[STREAM_PATH_MAX];
    int rc;

    snprintf(path, sizeof path, "checkpoints/%04x.checkpoint", store->stream.number);
    snprintf(temporary, sizeof temporary, "checkpoints/%04x.new", store->stream.number);
    rc = file_open(temporary, O_RDWR | O_CREAT | O_TRUNC, 0600, &w.file);
    if (rc < 0)
        return rc;
    w.chunk = heap_alloc(store->heap, CHUNK_HEADER_SIZE + CHUNK_CONTENT_MAX);
    store->checkpoint_bytes = 0;
    checkpoint_put_all(&w, ++store->checkpoint_number);
    rc = w.error;
    if (rc == 0)
        rc = file_flush(w.file);
    file_close(w.file);
    heap_free(store->heap, w.chunk);
    if (rc == 0)
        rc = file_rename(temporary, path);
    if (rc == 0)
        rc = dir_flush("checkpoints");
    if (rc == 0)
        store->checkpoint_size = w.offset;
    return rc;
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

struct checkpoint_file {
    uint32_t name;
    bool valid;
    uint64_t number;
    struct scan_position *positions;
    unsigned position_count;
};

struct checkpoint_reader {
    struct store *store;
    struct checkpoint_file *files;
    unsigned file_count;
    uint16_t *covered_by; /* For each partition: 1 + index of the file with the largest number that has it. */
    struct checkpoint_file *file; /* Being read. */
    uint8_t *partitions;          /* Of this file: a byte each. */
};

static void checkpoint_found(void *arg, const char *name)
{
    struct checkpoint_reader *r = arg;
    char *end;
    unsigned long number = strtoul(name, &end, 16);

    if (end == name + 4 && strcmp(end, ".checkpoint") == 0 && r->file_count < CHECKPOINT_MAX)
        r->files[r->file_count++].name = (uint32_t)number;
}

static int read_positions(struct checkpoint_reader *r, const char *at, uint32_t size)
{
    struct checkpoint_file *f = r->file;
    unsigned count = size / POSITION_SIZE;
    struct scan_position *positions;

    positions =
        heap_try_realloc(r->store->heap, f->positions, (f->position_count + count) * sizeof *positions);
    if (positions == NULL)
        return -ENOMEM;
    f->positions = positions;
    for (unsigned i = 0; i < count; i++, at += POSITION_SIZE)
        positions[f->position_count++] =
            (struct scan_position){get_u32(at), get_u32(at + 4), get_u32(at + 8)};
    return 0;
}

static int read_partitions(struct checkpoint_reader *r, const char *at, uint32_t size)
{
    for (; size >= PARTITION_SIZE; size -= PARTITION_SIZE, at += PARTITION_SIZE) {
        uint32_t i = get_u32(at);
        struct partition *p;

        if (i >= STORE_PARTITION_COUNT)
            return -EBADMSG;
        p = &r->store->partitions[i];
        r->partitions[i] = 1;
        if (p->served)
            p->epoch = MAX(p->epoch, get_u64(at + 8));
    }
    return 0;
}

static int read_accounts(struct checkpoint_reader *r, const char *at, uint32_t size)
{
    for (; size >= ACCOUNT_SIZE; size -= ACCOUNT_SIZE, at += ACCOUNT_SIZE) {
        struct account_entry e = {.modseq = get_u64(at + 16),
                                  .stream = get_u16(at + 24),
                                  .segment = get_u32(at + 26),
                                  .offset = get_u32(at + 30),
                                  .size = get_u32(at + 34),
                                  .snapshot = get_u16(at + 38)};
        struct partition *p;
        int rc;

        memcpy(e.id.bytes, at, 16);
        p = store_partition_of(r->store, &e.id);
        rc = p->served ? account_table_update(&p->table, r->store->heap, &e) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* 1: the end. Each chunk is true by itself; only the whole says what is covered. */
static int read_chunk(struct checkpoint_reader *r, uint32_t type, const char *content, uint32_t size,
                      uint32_t number)
{
    switch (type) {
    case CHUNK_HEAD:
        if (size != HEAD_SIZE || memcmp(content, checkpoint_magic, 8) != 0 || number != 0)
            return -EBADMSG;
        r->file->number = get_u64(content + 8);
        return 0;
    case CHUNK_STREAMS:
        return read_positions(r, content, size);
    case CHUNK_PARTITIONS:
        return read_partitions(r, content, size);
    case CHUNK_ACCOUNTS:
        return read_accounts(r, content, size);
    case CHUNK_END:
        return size == 8 && get_u32(content) == number ? 1 : -EBADMSG;
    }
    return -EBADMSG;
}

static int checkpoint_read_chunks(struct checkpoint_reader *r, struct file file, char *chunk)
{
    uint64_t offset = 0;
    uint32_t size;
    ssize_t got;
    int rc;

    for (uint32_t number = 0;; number++) {
        got = file_read(file, chunk, CHUNK_HEADER_SIZE + CHUNK_CONTENT_MAX, offset);
        if (got < 0)
            return (int)got;
        if (got < CHUNK_HEADER_SIZE)
            return -EBADMSG;
        size = get_u32(chunk + 4);
        if (size > CHUNK_CONTENT_MAX || (size_t)got < CHUNK_HEADER_SIZE + size ||
            get_u64(chunk + 8) != chunk_checksum(chunk, size, number))
            return -EBADMSG;
        rc = read_chunk(r, get_u32(chunk), chunk + CHUNK_HEADER_SIZE, size, number);
        if (rc != 0)
            return MIN(rc, 0);
        offset += CHUNK_HEADER_SIZE + size;
    }
}

static int checkpoint_read_file(struct checkpoint_reader *r, struct checkpoint_file *f, char *chunk)
{
    char path[STREAM_PATH_MAX];
    struct file file;
    int rc;

    snprintf(path, sizeof path, "checkpoints/%04x.checkpoint", f->name);
    r->file = f;
    memset(r->partitions, 0, STORE_PARTITION_COUNT);
    rc = file_open(path, O_RDONLY, 0, &file);
    if (rc < 0)
        return rc;
    rc = checkpoint_read_chunks(r, file, chunk);
    file_close(file);
    if (rc == -EBADMSG) {
        r->store->shard->metrics->checksum_errors++;
        log_event(LOG_ERROR, "store: checkpoint is damaged, reading the streams instead", "file=%s", path);
        return 0;
    }
    f->valid = rc == 0;
    return rc;
}

/* This file has these partitions; the one with the largest number decides what need not be read. */
static void checkpoint_cover(struct checkpoint_reader *r, unsigned index)
{
    r->store->checkpoint_number = MAX(r->store->checkpoint_number, r->files[index].number);
    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++) {
        uint16_t *by = &r->covered_by[i];

        if (r->partitions[i] && (*by == 0 || r->files[*by - 1].number < r->files[index].number))
            *by = (uint16_t)(index + 1);
    }
}

static bool position_before(const struct scan_position *a, const struct scan_position *b)
{
    return a->segment != b->segment ? a->segment < b->segment : a->offset < b->offset;
}

/* The files that some partition of this shard is covered by: a stream's place is the smallest of theirs. A
 * stream that one of them does not know is read from its beginning. */
static int checkpoint_merge(struct checkpoint_reader *r, struct scan_position *positions, unsigned max,
                            unsigned *count)
{
    uint8_t used[CHECKPOINT_MAX] = {0};
    bool first = true;

    *count = 0;
    for (unsigned i = 0; i < STORE_PARTITION_COUNT; i++) {
        if (!r->store->partitions[i].served)
            continue;
        if (r->covered_by[i] == 0)
            return 0; /* Nothing is known of it: all streams, from their beginnings. */
        used[r->covered_by[i] - 1] = 1;
    }
    for (unsigned i = 0; i < r->file_count; i++) {
        const struct checkpoint_file *f = &r->files[i];
        unsigned kept = 0;

        if (!used[i])
            continue;
        if (first) {
            for (unsigned k = 0; k < f->position_count && *count < max; k++)
                positions[(*count)++] = f->positions[k];
            first = false;
            continue;
        }
        for (unsigned k = 0; k < *count; k++) {
            for (unsigned j = 0; j < f->position_count; j++) {
                if (f->positions[j].stream != positions[k].stream)
                    continue;
                positions[kept] =
                    position_before(&f->positions[j], &positions[k]) ? f->positions[j] : positions[k];
                kept++;
                break;
            }
        }
        *count = kept;
    }
    return 0;
}

int checkpoint_read(struct store *store, struct scan_position *positions, unsigned position_max,
                    unsigned *position_count_out)
{
    struct heap *h = store->heap;
    struct checkpoint_reader r = {.store = store};
    char *chunk = heap_alloc(h, CHUNK_HEADER_SIZE + CHUNK_CONTENT_MAX);
    int rc;

    r.files = heap_zalloc(h, CHECKPOINT_MAX * sizeof *r.files);
    r.covered_by = heap_zalloc(h, STORE_PARTITION_COUNT * sizeof *r.covered_by);
    r.partitions = heap_zalloc(h, STORE_PARTITION_COUNT);
    *position_count_out = 0;
    rc = dir_list("checkpoints", checkpoint_found, &r);
    for (unsigned i = 0; i < r.file_count && rc == 0; i++) {
        rc = checkpoint_read_file(&r, &r.files[i], chunk);
        if (rc == 0 && r.files[i].valid)
            checkpoint_cover(&r, i);
    }
    if (rc == 0)
        rc = checkpoint_merge(&r, positions, position_max, position_count_out);
    for (unsigned i = 0; i < r.file_count; i++)
        heap_free(h, r.files[i].positions);
    heap_free(h, r.files);
    heap_free(h, r.covered_by);
    heap_free(h, r.partitions);
    heap_free(h, chunk);
    return rc;
}
