/* storage/recovery.c -- the start: where every account's log ends. Reads the checkpoints, then what the
 * streams hold behind them. Each shard reads all streams and keeps its own partitions; nothing is written
 * before all have read. */
#include "core/log.h"
#include "storage/store_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define STREAM_COUNT_MAX 4096

struct segment_info {
    uint32_t number, end; /* end: as a later header says; 0: none does. */
    bool valid;
    struct segment_header header;
    uint64_t size;
};

struct recovery {
    struct store *store;
    struct scan_position *starts; /* What checkpoints cover. */
    unsigned start_count;
    uint32_t *streams; /* Numbers. */
    unsigned stream_count;

    struct segment_info *segments; /* Of the stream at hand, in order. */
    unsigned segment_count, segment_capacity;

    struct segment_scan scan;
    struct file file;
    char *window, *directory;
    uint32_t last_batch_offset, last_batch_size; /* Of the segment at hand; size 0: none was met. */
};

/* ---- What there is ------------------------------------------------------------------------------------- */

static void stream_found(void *arg, const char *name)
{
    struct recovery *r = arg;
    char *end;
    unsigned long number = strtoul(name, &end, 16);

    if (end == name + 4 && *end == '\0' && r->stream_count < STREAM_COUNT_MAX)
        r->streams[r->stream_count++] = (uint32_t)number;
}

static void segment_found(void *arg, const char *name)
{
    struct recovery *r = arg;
    unsigned capacity = MAX(r->segment_capacity * 2, 16u);
    struct segment_info *segments;
    char *end;
    unsigned long number = strtoul(name, &end, 16);

    if (end != name + 8 || strcmp(end, ".log") != 0 || number == 0 || number > UINT32_MAX)
        return;
    if (r->segment_count == r->segment_capacity) {
        segments = heap_alloc(r->store->heap, capacity * sizeof *segments);
        if (r->segment_count > 0)
            memcpy(segments, r->segments, r->segment_count * sizeof *segments);
        heap_free(r->store->heap, r->segments);
        r->segments = segments;
        r->segment_capacity = capacity;
    }
    r->segments[r->segment_count++] = (struct segment_info){.number = (uint32_t)number};
}

static const struct scan_position *recovery_start(const struct recovery *r, uint32_t stream)
{
    for (unsigned i = 0; i < r->start_count; i++) {
        if (r->starts[i].stream == stream)
            return &r->starts[i];
    }
    return NULL;
}

/* ---- Headers ------------------------------------------------------------------------------------------- */

static int segment_open(struct recovery *r, uint16_t stream, uint32_t segment, struct file *file_out)
{
    char path[STREAM_PATH_MAX];

    return file_open(stream_segment_path(path, stream, segment), O_RDWR, 0, file_out);
}

static int segment_read_header(struct recovery *r, uint16_t stream, struct segment_info *info)
{
    struct file file;
    ssize_t got;
    int rc = segment_open(r, stream, info->number, &file);

    if (rc < 0)
        return rc;
    rc = file_size(file, &info->size);
    got = rc == 0 ? file_read(file, r->window, SEGMENT_BATCH_OFFSET, 0) : rc;
    file_close(file);
    if (got < 0)
        return (int)got;
    if ((size_t)got < SEGMENT_HEADER_COPY + SEGMENT_HEADER_SIZE)
        return 0;
    info->valid = segment_header_decode(r->window, &info->header) ||
                  segment_header_decode(r->window + SEGMENT_HEADER_COPY, &info->header);
    info->valid = info->valid && info->header.stream == stream && info->header.segment == info->number;
    return 0;
}

/* Every header says where an older segment ends. */
static int stream_read_headers(struct recovery *r, uint16_t stream)
{
    int rc;

    for (unsigned i = 0; i < r->segment_count; i++) {
        rc = segment_read_header(r, stream, &r->segments[i]);
        if (rc < 0)
            return rc;
    }
    for (unsigned i = 0; i < r->segment_count; i++) {
        const struct segment_header *h = &r->segments[i].header;

        for (unsigned k = i; k > 0 && r->segments[i].valid; k--) {
            if (r->segments[k - 1].number == h->previous_segment)
                r->segments[k - 1].end = h->previous_end;
        }
    }
    return 0;
}

/* ---- One segment --------------------------------------------------------------------------------------- */

static ssize_t scan_read(struct segment_scan *s, void *data, size_t size, uint32_t offset)
{
    struct recovery *r = CONTAINER_OF(s, struct recovery, scan);

    return file_read(r->file, data, size, offset);
}

static void scan_rot(struct segment_scan *s, uint32_t offset, uint32_t size, bool named)
{
    struct recovery *r = CONTAINER_OF(s, struct recovery, scan);
    struct record_location at = {(uint16_t)s->header.stream, s->header.segment, offset, size};

    store_report_rot(r->store, &at, named ? "batch" : "batches, and the names of the accounts in them");
}

static int heads_apply(struct recovery *r, const struct record_location *at)
{
    struct unpack u;
    char *data;
    int rc = record_read(r->store, at, 1u << RECORD_HEADS, &data);
    uint32_t name_size, count;

    if (rc == -EBADMSG) /* Reported. Epochs only have to grow: the next record of them says more. */
        return 0;
    if (rc < 0)
        return rc;
    unpack_init(&u, slice_of(data + RECORD_HEADER_SIZE, at->size - RECORD_HEADER_SIZE));
    name_size = unpack_u32(&u);
    (void)unpack_need(&u, name_size);
    count = unpack_u32(&u);
    for (uint32_t i = 0; i < count && !u.bad; i++) {
        uint32_t number = unpack_u32(&u);
        uint64_t epoch = unpack_u64(&u);

        if (number < STORE_PARTITION_COUNT && r->store->partitions[number].served)
            r->store->partitions[number].epoch = MAX(r->store->partitions[number].epoch, epoch);
    }
    heap_free(r->store->heap, data);
    return 0;
}

static int scan_batch(struct segment_scan *s, const struct batch_header *h, const char *directory)
{
    struct recovery *r = CONTAINER_OF(s, struct recovery, scan);
    int rc = 0;

    r->last_batch_offset = h->offset;
    r->last_batch_size = h->size;
    for (uint32_t i = 0; i < h->directory_count && rc == 0; i++) {
        struct directory_entry d = directory_entry_decode(directory + i * DIRECTORY_ENTRY_SIZE);
        struct record_location at = {(uint16_t)s->header.stream, s->header.segment, d.offset, d.size};
        struct account_entry e = {
            d.account, d.modseq, at.segment, at.offset, at.size, at.stream, d.kind == DIRECTORY_SNAPSHOT};
        struct partition *p = store_partition_of(r->store, &d.account);

        if (d.kind == DIRECTORY_HEADS)
            rc = heads_apply(r, &at);
        else if (p->served)
            rc = account_table_update(&p->table, r->store->heap, &e);
    }
    return rc;
}

/* The same bytes again, so that the next flush writes them. */
static int segment_rewrite(struct recovery *r, uint32_t offset, uint32_t size)
{
    int rc = 0;

    for (uint32_t part; size > 0 && rc == 0; size -= part, offset += part) {
        struct iovec vector = {r->window, 0};
        ssize_t got = file_read(r->file, r->window, part = MIN(size, (uint32_t)SCAN_WINDOW_SIZE), offset);

        if (got <= 0)
            return (int)got; /* Or the file ends here. */
        vector.iov_len = (size_t)got;
        rc = file_write(r->file, &vector, 1, offset);
    }
    return rc;
}

/* What is shown must be durable, and in the last segment the header and the last batch may not be: they were written, and
 * the process ended before their flush did. A flush alone would not do: if one has failed before, the kernel holds the
 * bytes for clean, and they are gone at the next power failure. So they are written anew. Every batch but the last one was
 * followed by another, and so was flushed. */
static int segment_make_durable(struct recovery *r)
{
    int rc = segment_rewrite(r, 0, SEGMENT_BATCH_OFFSET);

    if (rc == 0 && r->last_batch_size > 0)
        rc = segment_rewrite(r, r->last_batch_offset, r->last_batch_size);
    return rc == 0 ? file_flush(r->file) : rc;
}

static int segment_scan_file(struct recovery *r, uint16_t stream, const struct segment_info *info,
                             uint32_t offset, uint64_t *sequence)
{
    int rc = segment_open(r, stream, info->number, &r->file);

    if (rc < 0)
        return rc;
    r->last_batch_size = 0;
    r->scan = (struct segment_scan){
        .header = info->header,
        .file_size = (uint32_t)MIN(info->size, (uint64_t)SEGMENT_SIZE_MAX + BATCH_SIZE_MAX),
        .end = info->end,
        .read = scan_read,
        .batch = scan_batch,
        .rot = scan_rot,
        .window = r->window,
        .directory = r->directory};
    rc = segment_scan_run(&r->scan, MAX(offset, (uint32_t)SEGMENT_BATCH_OFFSET),
                          info->header.first_sequence - 1);
    if (rc == 0 && info->end == 0)
        rc = segment_make_durable(r);
    file_close(r->file);
    *sequence = r->scan.sequence_out;
    return rc;
}

/* Both copies of the header are gone. A file in which nothing ever was is what a crash leaves of a new
 * segment. */
static int segment_report_headless(struct recovery *r, uint16_t stream, const struct segment_info *info)
{
    struct record_location at = {stream, info->number, 0, SEGMENT_BATCH_OFFSET};
    bool named = info->end > SEGMENT_BATCH_OFFSET, used = false;
    struct file file;
    ssize_t got;
    int rc;

    if (!named) {
        rc = segment_open(r, stream, info->number, &file);
        if (rc < 0)
            return rc;
        got = file_read(file, r->window, SCAN_WINDOW_SIZE, SEGMENT_BATCH_OFFSET);
        file_close(file);
        if (got < 0)
            return (int)got;
        for (ssize_t i = 0; i < got && !used; i++)
            used = r->window[i] != 0;
    }
    if (named || used)
        store_report_rot(r->store, &at, "segment header, and the names of the accounts in the segment");
    return 0;
}

/* ---- One stream ---------------------------------------------------------------------------------------- */

static int stream_scan(struct recovery *r, uint32_t stream, struct stream_end *end)
{
    const struct scan_position *start = recovery_start(r, stream);
    uint64_t sequence;
    int rc;

    for (unsigned i = 0; i < r->segment_count; i++) {
        const struct segment_info *info = &r->segments[i];
        bool last = info->end == 0, behind = start != NULL && info->number < start->segment;
        uint32_t offset = start != NULL && info->number == start->segment ? start->offset : 0;

        end->segment_next = info->number + 1;
        if (!info->valid) {
            rc = behind ? 0 : segment_report_headless(r, (uint16_t)stream, info);
            if (rc < 0)
                return rc;
            continue;
        }
        if (behind && !last)
            continue;
        rc = segment_scan_file(r, (uint16_t)stream, info, offset, &sequence);
        if (rc < 0)
            return rc;
        if (info->number >= end->segment) {
            end->segment = info->number;
            end->offset = r->scan.end_out;
            end->sequence = MAX(sequence, info->header.first_sequence - 1);
            end->untouched = end->offset == SEGMENT_BATCH_OFFSET && info->size <= SEGMENT_BATCH_OFFSET;
        }
    }
    return 0;
}

static int stream_recover(struct recovery *r, uint32_t stream, struct stream_end *end)
{
    char path[STREAM_PATH_MAX];
    int rc;

    *end = (struct stream_end){.stream = stream, .segment_next = 1};
    r->segment_count = 0;
    rc = dir_list(stream_directory_path(path, (uint16_t)stream), segment_found, r);
    if (rc == 0)
        rc = stream_read_headers(r, (uint16_t)stream);
    if (rc == 0)
        rc = stream_scan(r, stream, end);
    return rc;
}

int recovery_run(struct store *store)
{
    struct heap *h = store->heap;
    struct recovery r = {.store = store};
    int rc;

    r.window = heap_alloc(h, SCAN_WINDOW_SIZE);
    r.directory = heap_alloc(h, SCAN_DIRECTORY_SIZE);
    r.starts = heap_zalloc(h, STREAM_COUNT_MAX * sizeof *r.starts);
    r.streams = heap_zalloc(h, STREAM_COUNT_MAX * sizeof *r.streams);
    rc = checkpoint_read(store, r.starts, STREAM_COUNT_MAX, &r.start_count);
    if (rc == 0)
        rc = dir_list("streams", stream_found, &r);
    if (rc == 0) {
        store->ends = heap_zalloc(h, (r.stream_count + 1) * sizeof *store->ends);
        for (; store->end_count < r.stream_count && rc == 0; store->end_count++)
            rc = stream_recover(&r, r.streams[store->end_count], &store->ends[store->end_count]);
    }
    heap_free(h, r.window);
    heap_free(h, r.directory);
    heap_free(h, r.starts);
    heap_free(h, r.streams);
    heap_free(h, r.segments);
    return rc;
}
