/* storage/body.c -- writing bodies: blocks are gathered in memory; what is too large for the commit stream
 * goes to a file of its own, window by window. */
#include "core/log.h"
#include "storage/body_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define OBJECT_WINDOW_BLOCKS 16 /* Written at once. */
#define OBJECT_PATH_MAX      64

struct body_writer {
    struct store *store;
    struct mime_parser *parser;
    uint64_t size, expected;                 /* 0: not known. */
    struct iovec blocks[BODY_INLINE_BLOCKS]; /* Of the window: all of them while it is inline. */
    uint32_t block_count;                    /* With bytes in them; the last one may be partial. */
    uint32_t block_allocated;
    struct pack checksums;
    bool is_object;
    struct id128 object;
    struct file file;
    uint64_t file_offset;
};

static char *object_path(char path[OBJECT_PATH_MAX], const struct id128 *id)
{
    int at = snprintf(path, OBJECT_PATH_MAX, "objects/%02x/", id->bytes[0]);

    for (unsigned i = 0; i < 16; i++)
        at += snprintf(path + at, OBJECT_PATH_MAX - (size_t)at, "%02x", id->bytes[i]);
    return path;
}

static char *object_directory(char path[OBJECT_PATH_MAX], const struct id128 *id)
{
    snprintf(path, OBJECT_PATH_MAX, "objects/%02x", id->bytes[0]);
    return path;
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

int body_begin(struct store *store, uint64_t size, struct body_writer **writer_out)
{
    struct body_writer *w;

    if (store->phase != STORE_OPEN)
        return -ESHUTDOWN;
    if (size > store->config.message_size_max)
        return -EFBIG;
    if (store->full) {
        int rc = reserve_take(store); /* Perhaps there is space again. */

        if (rc < 0 || store->full)
            return rc < 0 ? rc : -ENOSPC;
    }
    if (!heap_admits(store->heap))
        accounts_trim(store, false);
    w = heap_admits(store->heap) ? heap_try_alloc(store->heap, sizeof *w) : NULL;
    if (w == NULL)
        return -ENOMEM;
    memset(w, 0, sizeof *w);
    w->store = store;
    w->expected = size;
    w->file = FILE_NONE;
    w->parser = mime_parser_new(store->heap);
    if (w->parser == NULL) {
        heap_free(store->heap, w);
        return -ENOMEM;
    }
    pack_init(&w->checksums, store->heap, UINT32_MAX);
    *writer_out = w;
    return 0;
}

/* The first bytes that do not fit into the commit stream. */
static int object_create(struct body_writer *w)
{
    char path[OBJECT_PATH_MAX];
    int rc;

    random_bytes(w->object.bytes, sizeof w->object.bytes);
    rc = dir_make(object_directory(path, &w->object), 0700);
    if (rc == 0)
        rc = dir_flush("objects");
    if (rc == 0)
        rc = file_open(object_path(path, &w->object), O_RDWR | O_CREAT | O_EXCL, 0600, &w->file);
    w->is_object = rc == 0;
    return rc;
}

/* Writes the window's blocks; they are empty again then. */
static int object_write_window(struct body_writer *w)
{
    uint64_t size = 0;
    int rc = w->is_object ? 0 : object_create(w);

    if (rc < 0 || w->block_count == 0)
        return rc;
    for (uint32_t i = 0; i < w->block_count; i++)
        size += w->blocks[i].iov_len;
    rc = file_write(w->file, w->blocks, w->block_count, w->file_offset);
    if (rc < 0)
        return rc;
    w->file_offset += size;
    w->block_count = 0;
    return 0;
}

static void block_end(struct body_writer *w)
{
    const struct iovec *b = &w->blocks[w->block_count - 1];
    uint32_t number = (uint32_t)((w->size - 1) / BODY_BLOCK_SIZE);

    pack_u64(&w->checksums, block_checksum(number, b->iov_base, b->iov_len));
}

/* All but the first `kept`. */
static void blocks_free(struct body_writer *w, uint32_t kept)
{
    while (w->block_allocated > kept) {
        heap_free(w->store->heap, w->blocks[--w->block_allocated].iov_base);
        w->store->gathered -= BODY_BLOCK_SIZE;
    }
}

/* How many are gathered. A small body is held whole and shares its batch's flush, unless so many have stopped half-way that
 * memory is short: then it too goes to a file of its own. */
static uint32_t window_blocks(const struct body_writer *w)
{
    bool large = w->is_object || w->expected > BODY_INLINE_MAX;
    uint64_t most = (large ? OBJECT_WINDOW_BLOCKS : BODY_INLINE_BLOCKS) * (uint64_t)BODY_BLOCK_SIZE;

    return (uint32_t)(heap_share(heap_streaming(w->store->heap), w->store->gathered, BODY_BLOCK_SIZE, most) /
                      BODY_BLOCK_SIZE);
}

static int block_next(struct body_writer *w)
{
    uint32_t window = window_blocks(w);
    int rc = w->block_count >= window ? object_write_window(w) : 0;

    if (rc < 0)
        return rc;
    blocks_free(w, MAX(window, w->block_count));
    if (w->block_count == w->block_allocated) {
        w->blocks[w->block_count].iov_base = heap_try_alloc(w->store->heap, BODY_BLOCK_SIZE);
        if (w->blocks[w->block_count].iov_base == NULL)
            return -ENOMEM;
        w->block_allocated++;
        w->store->gathered += BODY_BLOCK_SIZE;
    }
    w->blocks[w->block_count++].iov_len = 0;
    return 0;
}

int body_write(struct body_writer *w, struct slice chunk)
{
    int rc;

    if (w->size + chunk.size > w->store->config.message_size_max)
        return -EFBIG;
    mime_parser_feed(w->parser, chunk);
    while (chunk.size > 0) {
        size_t used = w->size % BODY_BLOCK_SIZE, part = MIN(chunk.size, BODY_BLOCK_SIZE - used);
        struct iovec *b;

        if (used == 0) {
            rc = block_next(w);
            if (rc < 0)
                return rc;
        }
        b = &w->blocks[w->block_count - 1];
        memcpy((char *)b->iov_base + used, chunk.data, part);
        b->iov_len = used + part;
        w->size += part;
        chunk = slice_from(chunk, part);
        if (used + part == BODY_BLOCK_SIZE)
            block_end(w);
    }
    return w->checksums.error;
}

uint64_t body_written(const struct body_writer *w)
{
    return w->size;
}

/* Bytes and name durable, before anything names them. */
static int object_finish(struct body_writer *w)
{
    char path[OBJECT_PATH_MAX];
    int rc = object_write_window(w);

    if (rc == 0)
        rc = file_flush(w->file);
    return rc == 0 ? dir_flush(object_directory(path, &w->object)) : rc;
}

static struct body *body_make(struct body_writer *w, const struct mime_blob *blob)
{
    struct heap *h = w->store->heap;
    struct body *b = heap_try_alloc(h, sizeof *b);
    uint32_t meta_size = BODY_HEAD_SIZE + w->checksums.size + blob->size;

    if (b == NULL)
        return NULL;
    *b = (struct body){.store = w->store,
                       .object = w->object,
                       .structure_size = blob->size,
                       .block_count = w->is_object ? 0 : w->block_count,
                       .location = {.size = (uint32_t)w->size,
                                    .meta_size = meta_size,
                                    .flags = w->is_object ? BODY_OBJECT : 0}};
    b->meta = heap_try_alloc(h, meta_size);
    b->blocks = heap_try_alloc(h, MAX(b->block_count, 1u) * sizeof *b->blocks);
    if (b->meta == NULL || b->blocks == NULL) {
        heap_free(h, b->meta);
        heap_free(h, b->blocks);
        heap_free(h, b);
        return NULL;
    }
    put_u32(b->meta, (uint32_t)w->size);
    put_u32(b->meta + 4, blob->size);
    memcpy(b->meta + 8, w->object.bytes, 16);
    if (w->checksums.size > 0)
        memcpy(b->meta + BODY_HEAD_SIZE, w->checksums.data, w->checksums.size);
    if (blob->size > 0)
        memcpy(b->meta + BODY_HEAD_SIZE + w->checksums.size, blob->data, blob->size);
    if (b->block_count > 0)
        memcpy(b->blocks, w->blocks, b->block_count * sizeof *b->blocks);
    return b;
}

/* All but the blocks that were handed on. */
static void body_writer_free(struct body_writer *w, bool with_blocks)
{
    struct heap *h = w->store->heap;

    uint32_t handed_on = with_blocks ? 0 : w->block_count;

    blocks_free(w, handed_on);
    w->store->gathered -= handed_on * (uint64_t)BODY_BLOCK_SIZE;
    if (file_valid(w->file))
        file_close(w->file);
    mime_parser_free(w->parser);
    pack_fini(&w->checksums);
    heap_free(h, w);
}

int body_finish(struct body_writer *w, struct body **body_out)
{
    struct mime_blob blob = {NULL, 0};
    struct body *b;
    int rc;

    if (w->size % BODY_BLOCK_SIZE != 0)
        block_end(w);
    rc = w->checksums.error;
    if (rc == 0 && w->is_object)
        rc = object_finish(w);
    if (rc == 0)
        rc = mime_parser_finish(w->parser, &blob);
    if (rc < 0)
        return rc;
    b = body_make(w, &blob);
    heap_free(w->store->heap, blob.data);
    if (b == NULL)
        return -ENOMEM;
    body_writer_free(w, w->is_object);
    *body_out = b;
    return 0;
}

static void object_remove(const struct id128 *id)
{
    char path[OBJECT_PATH_MAX];

    if (file_unlink(object_path(path, id)) < 0)
        log_event(LOG_WARN, "store: a file that nothing names was not removed", "file=%s", path);
}

void body_abort(struct body_writer *w)
{
    struct id128 object;
    bool is_object;

    if (w == NULL)
        return;
    object = w->object;
    is_object = w->is_object;
    fiber_mask();
    body_writer_free(w, true);
    if (is_object)
        object_remove(&object);
    fiber_unmask();
}

uint32_t body_size(const struct body *b)
{
    return b->location.size;
}

struct slice body_structure(const struct body *b)
{
    return slice_of(b->meta + b->location.meta_size - b->structure_size, b->structure_size);
}

void body_free(struct body *b)
{
    struct heap *h;

    if (b == NULL)
        return;
    h = b->store->heap;
    fiber_mask();
    if ((b->location.flags & BODY_OBJECT) != 0 && b->state == BODY_NEW)
        object_remove(&b->object);
    fiber_unmask();
    for (uint32_t i = 0; i < b->block_count; i++)
        heap_free(h, b->blocks[i].iov_base);
    heap_free(h, b->blocks);
    heap_free(h, b->meta);
    heap_free(h, b);
}

struct commit_record body_record(const struct body *b)
{
    bool is_object = (b->location.flags & BODY_OBJECT) != 0;

    return (struct commit_record){.type = is_object ? RECORD_BODY_OBJECT : RECORD_BODY,
                                  .meta = slice_of(b->meta, b->location.meta_size),
                                  .rest = b->blocks,
                                  .rest_count = b->block_count,
                                  .rest_size = is_object ? 0 : b->location.size};
}

struct body_location body_location_at(const struct body *b, const struct record_location *at)
{
    struct body_location l = b->location;

    l.stream = at->stream;
    l.segment = at->segment;
    l.offset = at->offset;
    return l;
}

void body_location_pack(struct pack *p, const struct body_location *l)
{
    char *out = pack_need(p, BODY_LOCATION_SIZE);

    if (out == NULL)
        return;
    put_u16(out, l->stream);
    put_u16(out + 2, l->flags);
    put_u32(out + 4, l->segment);
    put_u32(out + 8, l->offset);
    put_u32(out + 12, l->meta_size);
    put_u32(out + 16, l->size);
}

struct body_location body_location_unpack(struct unpack *u)
{
    const char *in = unpack_need(u, BODY_LOCATION_SIZE);

    if (in == NULL)
        return (struct body_location){0};
    return (struct body_location){.stream = get_u16(in),
                                  .flags = get_u16(in + 2),
                                  .segment = get_u32(in + 4),
                                  .offset = get_u32(in + 8),
                                  .meta_size = get_u32(in + 12),
                                  .size = get_u32(in + 16)};
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

#define READ_WINDOW_SIZE (4 * BODY_BLOCK_SIZE)

struct body_reader {
    struct store *store;
    struct body_location location;
    struct segment_file *segment; /* Inline. */
    struct file file;             /* A file of its own, once it is open. */
    char *head;                   /* Record header, meta; of a small body the bytes too. */
    const char *checksums;
    struct slice structure;
    struct id128 object;
    uint32_t block_count;
    char *window; /* Verified blocks; in `head`, or an allocation of its own. */
    uint32_t window_offset, window_size;
    bool whole; /* The window is in `head` and has all bytes. */
};

static struct record_location reader_record(const struct body_reader *r)
{
    const struct body_location *l = &r->location;
    uint32_t rest = (l->flags & BODY_OBJECT) != 0 ? 0 : l->size;

    return (struct record_location){l->stream, l->segment, l->offset,
                                    RECORD_HEADER_SIZE + l->meta_size + rest};
}

/* A reader who meets rot behind what he has handed on can only break off. So the next is told at once. */
static void damaged_note(struct store *store, const struct body_location *l)
{
    store->damaged[store->damaged_count++ % STORE_DAMAGED_MAX] = *l;
}

static bool damaged_known(const struct store *store, const struct body_location *l)
{
    for (unsigned i = 0; i < MIN(store->damaged_count, STORE_DAMAGED_MAX); i++) {
        const struct body_location *d = &store->damaged[i];

        if (d->stream == l->stream && d->segment == l->segment && d->offset == l->offset)
            return true;
    }
    return false;
}

static int reader_rot(struct body_reader *r, const char *what)
{
    struct record_location at = reader_record(r);

    store_report_rot(r->store, &at, what);
    return -EBADMSG;
}

/* In a file of its own it is that one which is to be restored. */
static int reader_rot_of_object(struct body_reader *r, const char *what)
{
    char path[OBJECT_PATH_MAX];

    r->store->shard->metrics->checksum_errors++;
    log_event(LOG_ERROR, "store: what is read is not what was written; restore it from a backup",
              "file=%s size=%u what=\"%s\"", object_path(path, &r->object), r->location.size, what);
    return -EBADMSG;
}

/* Head and checksums agree with one another and with what the account says. */
static bool reader_parse(struct body_reader *r)
{
    const struct body_location *l = &r->location;
    struct record_location at = reader_record(r);
    const char *meta = r->head + RECORD_HEADER_SIZE;
    struct record_header h;
    uint64_t checksum_size, structure_size;

    if (!record_header_decode(r->head, &h) || h.meta_size != l->meta_size || h.size != at.size ||
        h.type != ((l->flags & BODY_OBJECT) != 0 ? RECORD_BODY_OBJECT : RECORD_BODY) ||
        !record_check(r->head, &at, slice_of(meta, l->meta_size)) || l->meta_size < BODY_HEAD_SIZE)
        return false;
    r->block_count = (uint32_t)(((uint64_t)l->size + BODY_BLOCK_SIZE - 1) / BODY_BLOCK_SIZE);
    checksum_size = 8 * (uint64_t)r->block_count;
    structure_size = get_u32(meta + 4);
    if (get_u32(meta) != l->size || BODY_HEAD_SIZE + checksum_size + structure_size != l->meta_size)
        return false;
    memcpy(r->object.bytes, meta + 8, 16);
    r->checksums = meta + BODY_HEAD_SIZE;
    r->structure = slice_of(r->checksums + checksum_size, structure_size);
    return true;
}

static bool blocks_match(const struct body_reader *r, const char *data, uint32_t offset, uint32_t size)
{
    for (uint32_t at = 0; at < size; at += BODY_BLOCK_SIZE) {
        uint32_t number = (offset + at) / BODY_BLOCK_SIZE;

        if (block_checksum(number, data + at, MIN(size - at, (uint32_t)BODY_BLOCK_SIZE)) !=
            get_u64(r->checksums + 8 * (size_t)number))
            return false;
    }
    return true;
}

static int reader_load(struct body_reader *r, bool ahead)
{
    const struct body_location *l = &r->location;
    struct record_location at = reader_record(r);
    bool whole = ahead && (l->flags & BODY_OBJECT) == 0 && l->size <= READ_WINDOW_SIZE;
    size_t size = RECORD_HEADER_SIZE + (size_t)l->meta_size + (whole ? l->size : 0);
    ssize_t got;
    int rc;

    if (l->meta_size > BATCH_SIZE_MAX || at.size > BATCH_SIZE_MAX)
        return reader_rot(r, "body location");
    rc = segment_file_get(r->store, l->stream, l->segment, &r->segment);
    if (rc < 0)
        return rc == -ENOENT ? reader_rot(r, "segment missing") : rc;
    r->head = heap_try_alloc(r->store->heap, size);
    if (r->head == NULL)
        return -ENOMEM;
    got = file_read(r->segment->file, r->head, size, l->offset);
    if (got < 0)
        return (int)got;
    if ((size_t)got < size || !reader_parse(r))
        return reader_rot(r, "body head");
    r->whole = whole;
    if (whole) {
        r->window = r->head + RECORD_HEADER_SIZE + l->meta_size;
        r->window_size = l->size;
        if (!blocks_match(r, r->window, 0, r->window_size))
            return reader_rot(r, "body block");
    }
    return 0;
}

static int reader_open(struct store *store, const struct body_location *location, bool ahead,
                       struct body_reader **reader_out)
{
    struct body_reader *r;
    int rc;

    if (ahead && damaged_known(store, location))
        return -EBADMSG;
    r = heap_try_alloc(store->heap, sizeof *r);
    if (r == NULL)
        return -ENOMEM;
    *r = (struct body_reader){.store = store, .location = *location, .file = FILE_NONE};
    rc = reader_load(r, ahead);
    if (rc < 0) {
        body_close(r);
        return rc;
    }
    *reader_out = r;
    return 0;
}

int body_open(struct store *store, const struct body_location *location, struct body_reader **reader_out)
{
    return reader_open(store, location, true, reader_out);
}

int body_open_head(struct store *store, const struct body_location *location, struct body_reader **reader_out)
{
    return reader_open(store, location, false, reader_out);
}

static int reader_open_object(struct body_reader *r)
{
    char path[OBJECT_PATH_MAX];
    int rc;

    if (file_valid(r->file))
        return 0;
    rc = file_open(object_path(path, &r->object), O_RDONLY, 0, &r->file);
    if (rc < 0)
        r->file = FILE_NONE;
    return rc == -ENOENT ? reader_rot_of_object(r, "body file missing") : rc;
}

/* The blocks around `offset` into the window. */
static int reader_fill(struct body_reader *r, uint32_t offset)
{
    bool is_object = (r->location.flags & BODY_OBJECT) != 0;
    uint64_t base = is_object ? 0 : (uint64_t)r->location.offset + RECORD_HEADER_SIZE + r->location.meta_size;
    uint32_t from = offset / BODY_BLOCK_SIZE * BODY_BLOCK_SIZE,
             size = MIN(r->location.size - from, (uint32_t)READ_WINDOW_SIZE);
    ssize_t got;
    int rc = is_object ? reader_open_object(r) : 0;

    if (rc < 0)
        return rc;
    r->window_size = 0;
    if (r->window == NULL)
        r->window = heap_try_alloc(r->store->heap, READ_WINDOW_SIZE);
    if (r->window == NULL)
        return -ENOMEM;
    got = file_read(is_object ? r->file : r->segment->file, r->window, size, base + from);
    if (got < 0)
        return (int)got;
    if ((uint32_t)got < size || !blocks_match(r, r->window, from, size)) {
        damaged_note(r->store, &r->location);
        return is_object ? reader_rot_of_object(r, "body block") : reader_rot(r, "body block");
    }
    r->window_offset = from;
    r->window_size = size;
    return 0;
}

ssize_t body_read(struct body_reader *r, void *data, size_t size, uint64_t offset)
{
    size_t done = 0;

    if (offset >= r->location.size)
        return 0;
    size = MIN(size, r->location.size - offset);
    while (done < size) {
        uint32_t at = (uint32_t)(offset + done);
        size_t part;

        if (at < r->window_offset || at >= r->window_offset + r->window_size) {
            int rc = reader_fill(r, at);

            if (rc < 0)
                return rc;
        }
        part = MIN(size - done, (size_t)(r->window_offset + r->window_size - at));
        memcpy((char *)data + done, r->window + (at - r->window_offset), part);
        done += part;
    }
    return (ssize_t)done;
}

struct slice body_reader_structure(const struct body_reader *r)
{
    return r->structure;
}

uint32_t body_reader_size(const struct body_reader *r)
{
    return r->location.size;
}

void body_close(struct body_reader *r)
{
    if (r == NULL)
        return;
    if (!r->whole)
        heap_free(r->store->heap, r->window);
    if (file_valid(r->file))
        file_close(r->file);
    if (r->segment != NULL)
        segment_file_put(r->store, r->segment);
    heap_free(r->store->heap, r->head);
    heap_free(r->store->heap, r);
}
