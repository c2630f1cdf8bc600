/* storage/stream.c -- group commit. One batch is in flight at a time; sequence numbers are those of durable
 * batches, so that the header of a batch can say 'durable up to'. */
#include "storage/stream.h"

#include "core/log.h"
#include "core/xxh.h"
#include "storage/store_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define VECTOR_MAX 1000 /* Below IOV_MAX. */
#define BATCH_SIZE_SOFT                                                                                      \
    (2 * 1024 * 1024)         /* Enough for one flush: the next commits wait for the next batch. */
#define COPY_SIZE_MAX    8192 /* Smaller metas are copied beside their headers. */
#define WITNESS_DELAY_MS 1000
#define ROLL_RETRY_COUNT 3
#define ROLL_RETRY_MS    200
#define ZERO_AHEAD_SIZE  (1024 * 1024)
#define ZERO_SIZE        (64 * 1024)

struct batch {
    struct list commits;
    unsigned directory_count, record_count;
    uint32_t size, head_size; /* The whole; header and directory. */
    struct batch_header header;
    char *at; /* In the scratch. */
    unsigned vector_count;
};

char *stream_directory_path(char buffer[STREAM_PATH_MAX], uint16_t stream)
{
    snprintf(buffer, STREAM_PATH_MAX, "streams/%04x", stream);
    return buffer;
}

char *stream_segment_path(char buffer[STREAM_PATH_MAX], uint16_t stream, uint32_t segment)
{
    snprintf(buffer, STREAM_PATH_MAX, "streams/%04x/%08x.log", stream, segment);
    return buffer;
}

static uint32_t align_up(uint32_t value, uint32_t to)
{
    return (value + to - 1) / to * to;
}

/* ---- Segments ------------------------------------------------------------------------------------------ */

/* Makes the file of a segment: allocated, its header durable. */
static int segment_create(const struct segment_header *h, uint32_t size, struct file *file_out)
{
    char path[STREAM_PATH_MAX], bytes[SEGMENT_HEADER_COPY + SEGMENT_HEADER_SIZE] = {0};
    struct iovec vector = {bytes, sizeof bytes};
    struct file file;
    int rc;

    segment_header_encode(h, bytes);
    memcpy(bytes + SEGMENT_HEADER_COPY, bytes, SEGMENT_HEADER_SIZE);
    stream_segment_path(path, (uint16_t)h->stream, h->segment);
    rc = file_open(path, O_RDWR | O_CREAT | O_EXCL, 0600, &file);
    if (rc < 0)
        return rc;
    rc = file_allocate(file, 0, size);
    if (rc == 0)
        rc = file_write_flush(file, &vector, 1, 0);
    if (rc == 0)
        rc = dir_flush(stream_directory_path(path, (uint16_t)h->stream));
    if (rc < 0) {
        file_close(file);
        if (file_unlink(stream_segment_path(path, (uint16_t)h->stream, h->segment)) < 0)
            return rc; /* Its number is not used again; what it says is true. */
        return rc;
    }
    *file_out = file;
    return 0;
}

/* Begins a new segment. The old one is closed for good even if this fails: a header that says where it ends
 * may be on the disk already. */
static int stream_roll(struct stream *st, uint32_t batch_size)
{
    struct store *store = st->store;
    struct segment_header h = {.stream = st->number,
                               .segment = st->segment_next,
                               .nonce = random_u64(),
                               .first_sequence = st->sequence + 1,
                               .previous_segment = st->segment,
                               .previous_end = st->segment != 0 ? st->offset : 0,
                               .previous_sequence = st->sequence,
                               .created_ms = (uint64_t)time_wall_ms()};
    uint64_t least = MAX(SEGMENT_SIZE_MIN, (uint64_t)SEGMENT_BATCH_OFFSET + batch_size);
    uint64_t size = MAX(store->config.segment_size, least);
    struct file file;
    int rc;

    st->sealed = true;
    if (st->segment_next == UINT32_MAX)
        return -ENOSPC;
    st->segment_next++;
    rc = segment_create(&h, (uint32_t)size, &file);
    if (rc == -ENOSPC && reserve_release(store)) {
        h.segment = st->segment_next++;
        rc = segment_create(&h, (uint32_t)size, &file);
    }
    /* No mail comes any more, but a start and what is expunged still find a place. */
    while (rc == -ENOSPC && size > least && st->segment_next < UINT32_MAX) {
        size = MAX(size / 2, least);
        h.segment = st->segment_next++;
        rc = segment_create(&h, (uint32_t)size, &file);
    }
    if (rc < 0)
        return rc;
    if (file_valid(st->file)) {
        if (file_truncate(st->file, st->offset) < 0)
            log_event(LOG_WARN, "store: segment was not cut to its end", "stream=%u segment=%u", st->number,
                      st->segment);
        file_close(st->file);
    }
    st->file = file;
    st->segment = h.segment;
    st->nonce = h.nonce;
    st->size = (uint32_t)size;
    st->offset = st->zeroed = SEGMENT_BATCH_OFFSET;
    st->sealed = false;
    return 0;
}

int stream_seal(struct store *store, uint16_t number, uint32_t segment_next, uint32_t previous_segment,
                uint32_t previous_end, uint64_t sequence)
{
    struct segment_header h = {.stream = number,
                               .segment = segment_next,
                               .nonce = random_u64(),
                               .first_sequence = sequence + 1,
                               .previous_segment = previous_segment,
                               .previous_end = previous_end,
                               .previous_sequence = sequence,
                               .created_ms = (uint64_t)time_wall_ms()};
    struct file file;
    int rc = segment_create(&h, SEGMENT_BATCH_OFFSET, &file);

    if (rc == 0)
        file_close(file);
    return rc;
}

/* ---- Batches ------------------------------------------------------------------------------------------- */

static uint32_t record_size(const struct commit_record *r)
{
    return RECORD_HEADER_SIZE + (uint32_t)r->meta.size + r->rest_size;
}

static uint32_t batch_size_of(uint32_t data_size, unsigned directory_count)
{
    uint32_t head = BATCH_HEADER_SIZE + directory_count * DIRECTORY_ENTRY_SIZE;

    return align_up(2 * head + RECORD_ALIGN + data_size, BATCH_ALIGN);
}

/* What it takes at most: records with their alignment, pieces. */
static void commit_measure(struct commit *c)
{
    c->size = c->vector_count = c->directory_count = 0;
    for (unsigned i = 0; i < c->record_count; i++) {
        c->size += record_size(&c->records[i]) + RECORD_ALIGN;
        c->vector_count += 2 + c->records[i].rest_count;
        c->directory_count += c->records[i].directory != 0;
    }
}

/* Takes as many commits as one flush should carry. */
static void batch_gather(struct stream *st, struct batch *b)
{
    uint32_t data_size = 0;
    unsigned vector_count = 4;

    list_init(&b->commits);
    b->directory_count = b->record_count = 0;
    while (!list_empty(&st->queue)) {
        struct commit *c = CONTAINER_OF(st->queue.next, struct commit, link);

        if (!list_empty(&b->commits) &&
            (data_size + c->size > BATCH_SIZE_SOFT || vector_count + c->vector_count > VECTOR_MAX ||
             b->directory_count + c->directory_count > BATCH_DIRECTORY_COUNT))
            break;
        list_remove(&c->link);
        list_push_back(&b->commits, &c->link);
        data_size += c->size;
        vector_count += c->vector_count;
        b->directory_count += c->directory_count;
        b->record_count += c->record_count;
    }
    b->head_size = BATCH_HEADER_SIZE + b->directory_count * DIRECTORY_ENTRY_SIZE;
    b->size = batch_size_of(data_size, b->directory_count);
}

/* Gives every record its place, then lets each commit write places into its records. */
static void batch_place(struct stream *st, struct batch *b)
{
    uint32_t at = st->offset + b->head_size;

    list_each(it, &b->commits)
    {
        struct commit *c = CONTAINER_OF(it, struct commit, link);

        for (unsigned i = 0; i < c->record_count; i++) {
            struct commit_record *r = &c->records[i];

            at = align_up(at, RECORD_ALIGN);
            r->at = (struct record_location){st->number, st->segment, at, record_size(r)};
            at += r->at.size;
        }
        if (c->placed != NULL)
            c->placed(c);
    }
    b->size = align_up(at - st->offset + b->head_size, BATCH_ALIGN);
    b->header = (struct batch_header){.directory_count = b->directory_count,
                                      .sequence = st->sequence + 1,
                                      .durable = st->sequence,
                                      .size = b->size,
                                      .offset = st->offset};
}

/* Bytes that the next pieces of scratch need: heads twice, record headers, small metas, zeros. */
static void scratch_reserve(struct stream *st, const struct batch *b)
{
    uint64_t size = 2 * (uint64_t)b->head_size + RECORD_ALIGN + BATCH_ALIGN;

    list_each(it, &b->commits)
    {
        struct commit *c = CONTAINER_OF(it, struct commit, link);

        for (unsigned i = 0; i < c->record_count; i++)
            size += RECORD_HEADER_SIZE + RECORD_ALIGN +
                    (c->records[i].meta.size <= COPY_SIZE_MAX ? c->records[i].meta.size : 0);
    }
    if (size > st->scratch_capacity) {
        heap_free(st->store->heap, st->scratch);
        st->scratch = heap_alloc(st->store->heap, size);
        st->scratch_capacity = (uint32_t)size;
    }
}

/* The next piece of the batch; pieces that adjoin become one. */
static void batch_emit(struct stream *st, struct batch *b, const void *data, size_t size)
{
    struct iovec *last = b->vector_count > 0 ? &st->vector[b->vector_count - 1] : NULL;

    if (size == 0)
        return;
    if (last != NULL && (const char *)last->iov_base + last->iov_len == data)
        last->iov_len += size;
    else
        st->vector[b->vector_count++] = (struct iovec){(void *)(uintptr_t)data, size};
}

static char *batch_scratch(struct stream *st, struct batch *b, uint32_t size)
{
    char *at = b->at;

    ASSERT(b->at + size <= st->scratch + st->scratch_capacity);
    b->at += size;
    memset(at, 0, size);
    return at;
}

static void batch_emit_record(struct stream *st, struct batch *b, const struct commit_record *r)
{
    struct record_header h = {r->type, r->at.size, (uint32_t)r->meta.size};
    bool copied = r->meta.size <= COPY_SIZE_MAX;
    char *head = batch_scratch(st, b, RECORD_HEADER_SIZE + (copied ? (uint32_t)r->meta.size : 0));

    record_header_encode(&h, &r->at, r->meta, head);
    batch_emit(st, b, head, RECORD_HEADER_SIZE);
    if (copied && r->meta.size > 0)
        memcpy(head + RECORD_HEADER_SIZE, r->meta.data, r->meta.size);
    batch_emit(st, b, copied ? head + RECORD_HEADER_SIZE : r->meta.data, r->meta.size);
    for (unsigned i = 0; i < r->rest_count; i++)
        batch_emit(st, b, r->rest[i].iov_base, r->rest[i].iov_len);
}

static void batch_pad(struct stream *st, struct batch *b, uint32_t from, uint32_t to)
{
    if (to > from)
        batch_emit(st, b, batch_scratch(st, b, to - from), to - from);
}

static void batch_write_directory(struct batch *b, char *out)
{
    list_each(it, &b->commits)
    {
        struct commit *c = CONTAINER_OF(it, struct commit, link);

        for (unsigned i = 0; i < c->record_count; i++) {
            const struct commit_record *r = &c->records[i];
            struct directory_entry e = {r->account, r->modseq, r->at.offset, r->at.size, r->directory};

            if (r->directory == 0)
                continue;
            directory_entry_encode(&e, out);
            out += DIRECTORY_ENTRY_SIZE;
        }
    }
}

/* The records, in the vector after its first piece. */
static void batch_emit_records(struct stream *st, struct batch *b)
{
    uint32_t at = st->offset + b->head_size;

    list_each(it, &b->commits)
    {
        struct commit *c = CONTAINER_OF(it, struct commit, link);

        for (unsigned i = 0; i < c->record_count; i++) {
            batch_pad(st, b, at, c->records[i].at.offset);
            batch_emit_record(st, b, &c->records[i]);
            at = c->records[i].at.offset + c->records[i].at.size;
        }
    }
    batch_pad(st, b, at, st->offset + b->size - b->head_size);
}

static uint64_t batch_checksum(const struct stream *st, const struct batch *b)
{
    XXH3_state_t state;

    XXH3_INITSTATE(&state);
    XXH3_64bits_reset_withSeed(&state, st->nonce);
    for (unsigned i = 1; i < b->vector_count; i++)
        XXH3_64bits_update(&state, st->vector[i].iov_base, st->vector[i].iov_len);
    return XXH3_64bits_digest(&state);
}

/* The batch's bytes, as a vector. */
static void batch_build(struct stream *st, struct batch *b)
{
    uint32_t directory_size = b->head_size - BATCH_HEADER_SIZE;
    struct slice directory;
    char *head, *foot;

    scratch_reserve(st, b);
    b->at = st->scratch;
    b->vector_count = 0;
    foot = batch_scratch(st, b, b->head_size);
    head = batch_scratch(st, b, b->head_size);
    batch_write_directory(b, head + BATCH_HEADER_SIZE);
    directory = slice_of(head + BATCH_HEADER_SIZE, directory_size);
    st->vector[b->vector_count++] = (struct iovec){head, b->head_size};
    /* What follows does not become one piece with the head: its checksum is another. */
    b->at += RECORD_ALIGN;
    batch_emit_records(st, b);
    b->header.data_checksum = batch_checksum(st, b);
    batch_header_encode(&b->header, false, st->nonce, directory, head);
    if (directory_size > 0)
        memcpy(foot, directory.data, directory_size);
    batch_header_encode(&b->header, true, st->nonce, directory, foot + directory_size);
    st->vector[b->vector_count++] = (struct iovec){foot, b->head_size};
}

/* An empty batch behind the last one; the next one overwrites it. */
static void stream_witness(struct stream *st, bool flush)
{
    struct batch b = {.head_size = BATCH_HEADER_SIZE};
    int rc;

    st->witness_due = false;
    if (st->sealed || st->offset + BATCH_ALIGN > st->size)
        return;
    list_init(&b.commits);
    batch_place(st, &b);
    batch_build(st, &b);
    rc = flush ? file_write_flush(st->file, st->vector, b.vector_count, st->offset)
               : file_write(st->file, st->vector, b.vector_count, st->offset);
    if (rc < 0) /* Nothing depends on it: a batch will tell whether the disk works. */
        log_event(LOG_WARN, "store: witness was not written", "stream=%u error=%s", st->number,
                  log_error(rc));
}

static void commit_finish(struct commit *c, int result)
{
    struct fiber *waiter = c->waiter;

    c->result = result;
    c->finished = true;
    c->waiter = NULL;
    if (c->done != NULL)
        c->done(c, result); /* c may be gone now, unless somebody waits. */
    if (waiter != NULL)
        fiber_wake(waiter, 0);
}

static void batch_finish(struct batch *b, int result)
{
    struct list *it;

    while ((it = list_pop_front(&b->commits)) != NULL)
        commit_finish(CONTAINER_OF(it, struct commit, link), result);
}

/* The batch may be on the disk, and must not count. Its waiters hear of it when a durable header says so. */
static int stream_abandon(struct stream *st)
{
    int rc = -EIO;

    for (unsigned i = 0; i < ROLL_RETRY_COUNT; i++) {
        if (i > 0 && fiber_sleep_ms(ROLL_RETRY_MS) < 0)
            break;
        rc = stream_roll(st, 0);
        if (rc == 0)
            return -EIO;
    }
    st->failed = true;
    log_event(LOG_ERROR, "store: disk failed, changes are refused until a restart",
              "stream=%u segment=%u error=%s", st->number, st->segment, log_error(rc));
    return -EINPROGRESS;
}

/* Allocated space is not yet written space: the first write of a block changes the file's extents, and the flush waits
 * for the file system's journal. So zeros are written well ahead, and most batches only overwrite. They are flushed by
 * the batch that comes next; nothing depends on them. */
static int stream_zero_ahead(struct stream *st, uint32_t batch_size)
{
    uint32_t from = MAX(st->zeroed, st->offset + batch_size), size;
    struct iovec vector[ZERO_AHEAD_SIZE / ZERO_SIZE];
    unsigned count = 0;

    if (st->offset + batch_size <= st->zeroed || from >= st->size)
        return 0;
    size = MIN(st->size - from, (uint32_t)ZERO_AHEAD_SIZE);
    for (uint32_t left = size, part; left > 0; left -= part)
        vector[count++] = (struct iovec){st->zeros, part = MIN(left, (uint32_t)ZERO_SIZE)};
    st->zeroed = from + size;
    return file_write(st->file, vector, count, from);
}

static int batch_flush(struct stream *st, struct batch *b)
{
    struct metrics *metrics = st->store->shard->metrics;
    uint64_t began_ns;
    int rc;

    if (st->failed)
        return -EIO;
    if (st->sealed || st->segment == 0 || (uint64_t)st->offset + b->size > st->size) {
        rc = stream_roll(st, b->size);
        if (rc < 0)
            return rc == -ENOSPC ? rc : -EIO;
    }
    batch_place(st, b);
    batch_build(st, b);
    began_ns = time_ns();
    rc = stream_zero_ahead(st, b->size);
    if (rc == 0)
        rc = file_write_flush(st->file, st->vector, b->vector_count, st->offset);
    if (rc < 0) {
        metrics->commit_failures++;
        log_event(LOG_ERROR, "store: flush failed, segment abandoned",
                  "stream=%u segment=%u offset=%u error=%s", st->number, st->segment, st->offset,
                  log_error(rc));
        return stream_abandon(st);
    }
    st->offset += b->size;
    st->sequence = b->header.sequence;
    st->witness_due = true;
    metrics->commit_batches++;
    metrics->commit_bytes += b->size;
    metric_observe(&metrics->commit_batch_records, b->record_count);
    metric_observe(&metrics->commit_batch_bytes, b->size);
    metric_elapsed(&metrics->commit_flush_time, began_ns, time_ns());
    st->store->checkpoint_bytes += b->size;
    return 0;
}

static void flusher_run(void *arg)
{
    struct stream *st = arg;
    struct batch b;
    int rc;

    fiber_mask();
    for (;;) {
        if (list_empty(&st->queue)) {
            if (st->closing)
                break;
            rc = fiber_queue_wait(&st->idle, st->witness_due ? WITNESS_DELAY_MS : 0);
            if (rc == -ETIMEDOUT && list_empty(&st->queue))
                stream_witness(st, false);
            continue;
        }
        batch_gather(st, &b);
        rc = batch_flush(st, &b);
        batch_finish(&b, rc);
    }
    if (!st->failed)
        stream_witness(st, true);
    fiber_unmask();
    st->running = false;
    fiber_queue_wake_all(&st->ended, 0);
}

int stream_open(struct stream *st, struct store *store, uint16_t number, uint32_t segment_next,
                uint32_t previous_segment, uint32_t previous_end, uint64_t sequence)
{
    int rc;

    *st = (struct stream){.store = store,
                          .number = number,
                          .segment = previous_segment,
                          .segment_next = segment_next,
                          .offset = previous_end,
                          .sequence = sequence,
                          .file = FILE_NONE,
                          .sealed = true};
    list_init(&st->queue);
    fiber_queue_init(&st->idle);
    fiber_queue_init(&st->ended);
    rc = stream_roll(st, 0);
    if (rc < 0)
        return rc;
    st->zeros = heap_zalloc(store->heap, ZERO_SIZE);
    st->vector = heap_alloc(store->heap, (VECTOR_MAX + COMMIT_VECTOR_MAX) * sizeof *st->vector);
    st->running = true;
    if (fiber_start("store flusher", RUN_INTERACTIVE, flusher_run, st) == NULL) {
        st->running = false;
        file_close(st->file);
        return -EAGAIN;
    }
    return 0;
}

void stream_submit(struct stream *st, struct commit *c)
{
    ASSERT(c->record_count > 0 && c->record_count <= COMMIT_RECORD_MAX);
    commit_measure(c);
    ASSERT(c->size <= COMMIT_SIZE_MAX && c->vector_count <= VECTOR_MAX);
    c->finished = false;
    c->waiter = NULL;
    st->store->shard->metrics->commit_records += c->record_count;
    list_push_back(&st->queue, &c->link);
    fiber_queue_wake_one(&st->idle, 0);
}

int stream_commit(struct stream *st, struct commit *c)
{
    fiber_mask();
    stream_submit(st, c);
    c->waiter = fiber_self();
    while (!c->finished)
        (void)fiber_suspend();
    fiber_unmask();
    return c->result;
}

void stream_close(struct stream *st)
{
    struct store *store = st->store;

    if (store == NULL)
        return;
    fiber_mask();
    st->closing = true;
    fiber_queue_wake_all(&st->idle, 0);
    while (st->running)
        (void)fiber_queue_wait(&st->ended, 0);
    if (file_valid(st->file)) {
        if (!st->failed && file_truncate(st->file, MIN(st->offset + BATCH_ALIGN, st->size)) < 0)
            log_event(LOG_WARN, "store: segment was not cut to its end", "stream=%u segment=%u", st->number,
                      st->segment);
        file_close(st->file);
        st->file = FILE_NONE;
    }
    fiber_unmask();
    heap_free(store->heap, st->scratch);
    heap_free(store->heap, st->vector);
    heap_free(store->heap, st->zeros);
    st->scratch = NULL;
    st->vector = NULL;
    st->zeros = NULL;
}
