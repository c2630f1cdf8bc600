/* storage/format.c -- bytes of the commit streams; see docs/storage-format.md. */
#include "storage/format.h"

#include "core/xxh.h"
#include <errno.h>

#define BATCH_MAGIC  0x54414254u /* TBAT */
#define FOOTER_MAGIC 0x444e4554u /* TEND */

static const char segment_magic[8] = {'T', 'R', 'I', 'S', 'E', 'G', '1', '\n'};

void segment_header_encode(const struct segment_header *h, char out[SEGMENT_HEADER_SIZE])
{
    memcpy(out, segment_magic, 8);
    put_u32(out + 8, h->stream);
    put_u32(out + 12, h->segment);
    put_u64(out + 16, h->nonce);
    put_u64(out + 24, h->first_sequence);
    put_u32(out + 32, h->previous_segment);
    put_u32(out + 36, h->previous_end);
    put_u64(out + 40, h->previous_sequence);
    put_u64(out + 48, h->created_ms);
    put_u64(out + 56, XXH3_64bits(out, 56));
}

bool segment_header_decode(const char in[SEGMENT_HEADER_SIZE], struct segment_header *h)
{
    if (memcmp(in, segment_magic, 8) != 0 || get_u64(in + 56) != XXH3_64bits(in, 56))
        return false;
    *h = (struct segment_header){.stream = get_u32(in + 8),
                                 .segment = get_u32(in + 12),
                                 .nonce = get_u64(in + 16),
                                 .first_sequence = get_u64(in + 24),
                                 .previous_segment = get_u32(in + 32),
                                 .previous_end = get_u32(in + 36),
                                 .previous_sequence = get_u64(in + 40),
                                 .created_ms = get_u64(in + 48)};
    return true;
}

void directory_entry_encode(const struct directory_entry *e, char out[DIRECTORY_ENTRY_SIZE])
{
    memcpy(out, e->account.bytes, 16);
    put_u64(out + 16, e->modseq);
    put_u32(out + 24, e->offset);
    put_u32(out + 28, e->size);
    put_u32(out + 32, e->kind);
    put_u32(out + 36, 0);
}

struct directory_entry directory_entry_decode(const char in[DIRECTORY_ENTRY_SIZE])
{
    struct directory_entry e = {.modseq = get_u64(in + 16),
                                .offset = get_u32(in + 24),
                                .size = get_u32(in + 28),
                                .kind = get_u32(in + 32)};

    memcpy(e.account.bytes, in, 16);
    return e;
}

static uint64_t header_checksum(const char in[BATCH_HEADER_SIZE], uint64_t nonce, struct slice directory)
{
    /* Two passes chained by the seed: header and directory need not be adjacent. */
    return XXH3_64bits_withSeed(in, 56, XXH3_64bits_withSeed(directory.data, directory.size, nonce));
}

void batch_header_encode(const struct batch_header *h, bool footer, uint64_t nonce, struct slice directory,
                         char out[BATCH_HEADER_SIZE])
{
    memset(out, 0, BATCH_HEADER_SIZE);
    put_u32(out, footer ? FOOTER_MAGIC : BATCH_MAGIC);
    put_u32(out + 4, h->directory_count);
    put_u64(out + 8, h->sequence);
    put_u64(out + 16, h->durable);
    put_u32(out + 24, h->size);
    put_u32(out + 28, h->offset);
    put_u64(out + 32, h->data_checksum);
    put_u64(out + 56, header_checksum(out, nonce, directory));
}

bool batch_header_decode(const char in[BATCH_HEADER_SIZE], bool footer, struct batch_header *h)
{
    *h = (struct batch_header){.directory_count = get_u32(in + 4),
                               .sequence = get_u64(in + 8),
                               .durable = get_u64(in + 16),
                               .size = get_u32(in + 24),
                               .offset = get_u32(in + 28),
                               .data_checksum = get_u64(in + 32)};
    return get_u32(in) == (footer ? FOOTER_MAGIC : BATCH_MAGIC) &&
           h->directory_count <= BATCH_DIRECTORY_COUNT && h->size % BATCH_ALIGN == 0 &&
           h->size <= BATCH_SIZE_MAX && h->offset % BATCH_ALIGN == 0 &&
           h->size >= 2 * (BATCH_HEADER_SIZE + h->directory_count * DIRECTORY_ENTRY_SIZE);
}

bool batch_header_check(const char in[BATCH_HEADER_SIZE], uint64_t nonce, struct slice directory)
{
    return get_u64(in + 56) == header_checksum(in, nonce, directory);
}

static uint64_t record_seed(const struct record_location *at)
{
    return (((uint64_t)at->segment << 32) + at->offset) ^ ((uint64_t)at->stream << 48);
}

static uint64_t record_checksum(const char in[RECORD_HEADER_SIZE], const struct record_location *at,
                                struct slice meta)
{
    return XXH3_64bits_withSeed(meta.data, meta.size, XXH3_64bits_withSeed(in, 16, record_seed(at)));
}

void record_header_encode(const struct record_header *h, const struct record_location *at, struct slice meta,
                          char out[RECORD_HEADER_SIZE])
{
    memset(out, 0, RECORD_HEADER_SIZE);
    out[0] = (char)h->type;
    put_u32(out + 4, h->size);
    put_u32(out + 8, h->meta_size);
    put_u64(out + 16, record_checksum(out, at, meta));
}

bool record_header_decode(const char in[RECORD_HEADER_SIZE], struct record_header *h)
{
    *h =
        (struct record_header){.type = (uint8_t)in[0], .size = get_u32(in + 4), .meta_size = get_u32(in + 8)};
    return h->size >= RECORD_HEADER_SIZE && h->size <= BATCH_SIZE_MAX &&
           h->meta_size <= h->size - RECORD_HEADER_SIZE;
}

bool record_check(const char in[RECORD_HEADER_SIZE], const struct record_location *at, struct slice meta)
{
    return get_u64(in + 16) == record_checksum(in, at, meta) && get_u64(in + 24) == 0;
}

uint64_t block_checksum(uint32_t block, const void *data, size_t size)
{
    return XXH3_64bits_withSeed(data, size, block);
}

/* ---- The scan ------------------------------------------------------------------------------------------ */

enum found { FOUND_NOTHING, FOUND_HEADER, FOUND_FOOTER };

/* 1: *out has `size` <= SCAN_WINDOW_SIZE bytes of the segment. 0: they lie behind its end. */
static int scan_peek(struct segment_scan *s, uint32_t offset, uint32_t size, const char **out)
{
    ssize_t got;

    if ((uint64_t)offset + size > s->limit)
        return 0;
    if (offset < s->window_offset || (uint64_t)offset + size > (uint64_t)s->window_offset + s->window_size) {
        got = s->read(s, s->window, SCAN_WINDOW_SIZE, offset);
        if (got < 0) {
            s->window_size = 0;
            return (int)got;
        }
        s->window_offset = offset;
        s->window_size = (uint32_t)got;
        if ((uint32_t)got < size)
            return 0;
    }
    *out = s->window + (offset - s->window_offset);
    return 1;
}

static int scan_copy(struct segment_scan *s, char *out, uint32_t size, uint32_t offset)
{
    const char *at = NULL;
    uint32_t part;
    int rc;

    for (; size > 0; size -= part, offset += part, out += part) {
        part = MIN(size, (uint32_t)SCAN_WINDOW_SIZE);
        rc = scan_peek(s, offset, part, &at);
        if (rc <= 0)
            return rc;
        memcpy(out, at, part);
    }
    return 1;
}

/* Is there a header at `offset`, or a footer whose last byte is before it? 1: *h and s->directory are its
 * own. */
static int scan_header(struct segment_scan *s, bool footer, uint32_t offset, uint32_t from, uint64_t after,
                       struct batch_header *h)
{
    char bytes[BATCH_HEADER_SIZE];
    uint32_t at = footer ? offset - BATCH_HEADER_SIZE : offset, directory_size;
    const char *p = NULL;
    int rc = scan_peek(s, at, BATCH_HEADER_SIZE, &p);

    if (rc <= 0)
        return rc;
    if (!batch_header_decode(p, footer, h) || h->sequence <= after ||
        (uint64_t)h->offset + h->size > s->limit)
        return 0;
    if (footer ? h->offset < from || h->offset + h->size != offset : h->offset != offset)
        return 0;
    memcpy(bytes, p, sizeof bytes);
    directory_size = h->directory_count * DIRECTORY_ENTRY_SIZE;
    rc = scan_copy(s, s->directory, directory_size, footer ? at - directory_size : at + BATCH_HEADER_SIZE);
    if (rc <= 0)
        return rc;
    return batch_header_check(bytes, s->header.nonce, slice_of(s->directory, directory_size));
}

static uint32_t batch_data_offset(const struct batch_header *h)
{
    return BATCH_HEADER_SIZE + h->directory_count * DIRECTORY_ENTRY_SIZE;
}

/* 1: the records of the batch are what was written. */
static int scan_data(struct segment_scan *s, const struct batch_header *h)
{
    uint32_t head = batch_data_offset(h), offset = h->offset + head, left = h->size - 2 * head, part;
    XXH3_state_t state;
    const char *at = NULL;
    int rc;

    XXH3_INITSTATE(&state);
    XXH3_64bits_reset_withSeed(&state, s->header.nonce);
    for (; left > 0; left -= part, offset += part) {
        part = MIN(left, (uint32_t)SCAN_WINDOW_SIZE);
        rc = scan_peek(s, offset, part, &at);
        if (rc <= 0)
            return rc;
        XXH3_64bits_update(&state, at, part);
    }
    return XXH3_64bits_digest(&state) == h->data_checksum;
}

/* The next place after `offset` where a batch begins or ends, as far as a batch can be large. */
static int scan_find(struct segment_scan *s, uint32_t offset, uint64_t after, enum found *found,
                     struct batch_header *h)
{
    uint32_t last = (uint32_t)MIN((uint64_t)offset + BATCH_SIZE_MAX, (uint64_t)s->limit);
    int rc;

    *found = FOUND_NOTHING;
    for (uint32_t at = offset + BATCH_ALIGN; at <= last; at += BATCH_ALIGN) {
        rc = scan_header(s, true, at, offset, after, h);
        if (rc != 0) {
            *found = FOUND_FOOTER;
            return MIN(rc, 0);
        }
        rc = scan_header(s, false, at, offset, after, h);
        if (rc != 0) {
            *found = FOUND_HEADER;
            return MIN(rc, 0);
        }
    }
    return 0;
}

/* Was what ends at `offset` followed by something valid, and so acknowledged? */
static int scan_followed(struct segment_scan *s, uint32_t offset, uint64_t sequence, bool *followed)
{
    struct batch_header h;
    enum found found;
    int rc;

    *followed = true;
    if (s->end != 0)
        return 0;
    rc = scan_header(s, false, offset, offset, sequence, &h);
    if (rc != 0)
        return MIN(rc, 0);
    rc = scan_find(s, offset, sequence, &found, &h);
    *followed = found != FOUND_NOTHING;
    return rc;
}

/* Does the other directory of the batch match too? */
static int scan_other(struct segment_scan *s, const struct batch_header *h, bool footer)
{
    struct batch_header other;
    uint32_t end = h->offset + h->size;
    int rc = scan_header(s, !footer, footer ? h->offset : end, h->offset, h->sequence - 1, &other);

    return rc > 0 ? other.sequence == h->sequence && other.offset == h->offset && other.size == h->size &&
                        other.data_checksum == h->data_checksum
                  : rc;
}

static bool is_zero(const char *sector)
{
    uint64_t seen = 0;

    for (size_t i = 0; i < BATCH_ALIGN; i += sizeof seen)
        seen |= get_u64(sector + i);
    return seen == 0;
}

/* A torn write leaves sectors as they were: zeros, in a segment that was allocated before. A batch that does not match and
 * has no such sector was whole once. */
static int scan_is_torn(struct segment_scan *s, const struct batch_header *h, bool *torn)
{
    const char *at = NULL;
    int rc;

    *torn = true;
    for (uint32_t offset = h->offset; offset < h->offset + h->size; offset += BATCH_ALIGN) {
        rc = scan_peek(s, offset, BATCH_ALIGN, &at);
        if (rc < 0)
            return rc;
        if (rc == 0 || is_zero(at))
            return 0;
    }
    *torn = false;
    return 0;
}

/* A batch of which one directory is good, found by its header or by its footer. 1: go on behind it; 0: it is
 * a torn tail. */
static int scan_batch(struct segment_scan *s, struct batch_header *h, bool footer)
{
    int whole, other, rc;
    bool followed = false, torn = true;
    uint32_t at = footer ? h->offset + h->size : h->offset;

    whole = scan_data(s, h);
    if (whole < 0)
        return whole;
    other = scan_other(s, h, footer);
    if (other < 0)
        return other;
    if (whole == 0 || other == 0) {
        rc = scan_followed(s, h->offset + h->size, h->sequence, &followed);
        if (rc == 0 && !followed)
            rc = scan_is_torn(s, h, &torn);
        if (rc < 0)
            return rc;
        if (whole == 0 && !followed && torn)
            return 0;
        if (followed || !torn)
            s->rot(s, h->offset, h->size, true);
    }
    /* Reading the others has overwritten it. */
    rc = scan_header(s, footer, at, h->offset, h->sequence - 1, h);
    if (rc <= 0)
        return rc < 0 ? rc : -EIO;
    rc = s->batch(s, h, s->directory);
    if (rc < 0)
        return rc;
    s->end_out = h->offset + h->size;
    s->sequence_out = h->sequence;
    return 1;
}

/* No batch begins at `*offset`. 1: *offset is where one does, or the end; 0: a torn tail. */
static int scan_damage(struct segment_scan *s, uint32_t *offset)
{
    struct batch_header h;
    enum found found;
    int rc = scan_find(s, *offset, s->sequence_out, &found, &h);

    if (rc < 0)
        return rc;
    if (found == FOUND_NOTHING) {
        if (s->end == 0)
            return 0;
        s->rot(s, *offset, s->end - *offset, false);
        *offset = s->end_out = s->end;
        return 1;
    }
    if (h.offset > *offset)
        s->rot(s, *offset, h.offset - *offset, false);
    *offset = h.offset;
    if (found == FOUND_HEADER)
        return 1;
    rc = scan_batch(s, &h, true);
    *offset = h.offset + h.size;
    return rc;
}

int segment_scan_run(struct segment_scan *s, uint32_t offset, uint64_t sequence)
{
    struct batch_header h;
    int rc;

    s->limit = s->end != 0 ? MIN(s->end, s->file_size) : s->file_size;
    s->window_offset = s->window_size = 0;
    s->end_out = offset;
    s->sequence_out = sequence;
    while (offset < s->limit) {
        rc = scan_header(s, false, offset, offset, s->sequence_out, &h);
        if (rc > 0) {
            rc = scan_batch(s, &h, false);
            offset = h.offset + h.size;
        } else if (rc == 0) {
            rc = scan_damage(s, &offset);
        }
        if (rc <= 0)
            return rc;
    }
    if (offset < s->end) { /* The file is shorter than it was. */
        s->rot(s, offset, s->end - offset, false);
        s->end_out = s->end;
    }
    return 0;
}
