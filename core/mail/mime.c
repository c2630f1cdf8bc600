#include "core/mail/mime.h"
#include "core/mail/mime_header.h"
#include "core/mail/structure_format.h"

#include <errno.h>

/* What must be left in the blob for a part to be opened: its record and the texts of an empty header. */
#define PART_ROOM (PART_RECORD_SIZE + MIME_TEXTS_EMPTY_SIZE + MIME_ENVELOPE_EMPTY_SIZE)

struct part { /* A record to be. */
    uint32_t header_offset, header_size, body_size, body_lines, texts, envelope;
    uint16_t end;
    uint8_t kind;
    bool digest;
};

struct open_part {
    uint16_t index;
    uint32_t body_lf_count; /* Line feeds before its body. */
};

struct boundary {
    uint8_t depth; /* Of the multipart that it cuts. */
    uint8_t size;
    char text[MIME_BOUNDARY_SIZE_MAX];
};

/* The parser is always inside one part, the innermost open one, in its header or in its body.
 *
 *   HEADER --empty line--> BODY --boundary--> HEADER of the next part, or BODY of the multipart behind its last
 *    |  \--empty line of a message/rfc822--> HEADER of the message inside
 *     \-----boundary--> the part ends without a body
 *
 * A line is judged when it is whole, by its first bytes, which are kept. */
struct mime_parser {
    struct heap *heap;
    int error;             /* 0, -ENOMEM, -EFBIG: nothing is parsed any more. */
    uint64_t offset;       /* Bytes pushed. */
    uint64_t line_start;   /* Of the line being read. */
    uint32_t lf_count;     /* Before line_start. */
    uint8_t line_end_size; /* Of the line before: 0, 1, 2. */
    bool in_header;
    bool full; /* A limit: no part is opened any more. */
    /* Header: something besides a line end came, so that the line is not the empty one. */
    bool line_has_text;
    char last_byte;
    uint8_t prefix_size;
    char prefix[2 + MIME_BOUNDARY_SIZE_MAX + 4]; /* `--`, boundary, `--`, line end. */

    struct part *parts;
    uint32_t part_count, part_capacity;
    struct growing texts;
    uint32_t depth; /* Of the innermost part: open[depth]. */
    struct open_part open[MIME_DEPTH_MAX];
    uint32_t boundary_count;
    struct boundary boundaries[MIME_DEPTH_MAX];
    struct mime_header header;
    bool dated;
    struct mail_date date;
};

_Static_assert(sizeof(struct mime_parser) < 64 * 1024, "a parser a delivery");

static struct part *part_at(struct mime_parser *p, uint32_t depth)
{
    return &p->parts[p->open[depth].index];
}

static uint32_t blob_room(const struct mime_parser *p)
{
    return MIME_BLOB_SIZE_MAX - STRUCTURE_HEADER_SIZE - p->part_count * PART_RECORD_SIZE - p->texts.size;
}

/* Once full, boundaries mean nothing: what follows belongs to the part that is open. */
static void check_full(struct mime_parser *p)
{
    if (p->part_count < MIME_PART_COUNT_MAX && blob_room(p) >= 2 * PART_ROOM)
        return;
    p->full = true;
    p->boundary_count = 0;
}

static bool grow_parts(struct mime_parser *p)
{
    uint32_t capacity = p->part_capacity == 0 ? 16 : MIN(p->part_capacity * 2, (uint32_t)MIME_PART_COUNT_MAX);
    void *parts;

    if (p->part_count < p->part_capacity)
        return true;
    parts = heap_try_realloc(p->heap, p->parts, capacity * sizeof *p->parts);
    if (parts == NULL) {
        p->error = -ENOMEM;
        return false;
    }
    p->parts = parts;
    p->part_capacity = capacity;
    return true;
}

/* A part begins at `offset`; the caller has made room for its depth. */
static void open_part(struct mime_parser *p, uint32_t depth, uint64_t offset)
{
    ASSERT(depth < MIME_DEPTH_MAX);
    ASSERT(!p->full);
    if (!grow_parts(p))
        return;
    p->parts[p->part_count] = (struct part){.header_offset = (uint32_t)offset};
    p->open[depth].index = (uint16_t)p->part_count++;
    p->depth = depth;
    p->in_header = true;
    mime_header_begin(&p->header, depth == 0 || part_at(p, depth - 1)->kind == PART_MESSAGE);
    check_full(p);
}

/* What the header says the part is, as far as the limits let it be. */
static enum part_kind judge_kind(struct mime_parser *p)
{
    const struct mime_header *h = &p->header;
    const struct part *parent = p->depth > 0 ? part_at(p, p->depth - 1) : NULL;
    bool in_multipart = parent != NULL && parent->kind == PART_MULTIPART;
    bool can_open = !p->full && p->depth + 1 < MIME_DEPTH_MAX;

    if (!h->type_seen)
        return !in_multipart || !parent->digest ? PART_TEXT : can_open ? PART_MESSAGE : PART_OPAQUE;
    if (h->is_multipart)
        return can_open || h->boundary_size == 0 ? PART_MULTIPART : PART_OPAQUE;
    if (h->is_message)
        return can_open ? PART_MESSAGE : PART_OPAQUE;
    /* A Content-Type that is none counts as missing (RFC 2045 5.2). */
    return h->is_text || h->fields[FIELD_TYPE].first == 0 ? PART_TEXT : PART_LEAF;
}

/* Puts the texts of the open part into the blob; if they don't fit, those of an empty header, which do. */
static void write_texts(struct mime_parser *p, struct part *part)
{
    const struct mime_header *h = &p->header;
    bool in_multipart = p->depth > 0 && part_at(p, p->depth - 1)->kind == PART_MULTIPART;
    bool mime = in_multipart || h->type_seen || h->mime_version_seen;
    uint32_t start = p->texts.size, room = blob_room(p);
    bool wrote = true;

    part->texts = start;
    p->texts.size_max = start + room;
    wrote = mime_header_write_texts(h, &p->texts, !mime);
    part->envelope = h->wants_envelope ? p->texts.size : 0;
    if (wrote && h->wants_envelope)
        wrote = mime_header_write_envelope(h, &p->texts, false);
    if (!wrote) {
        p->texts.size = start;
        wrote = mime_header_write_texts(h, &p->texts, true);
        part->envelope = h->wants_envelope ? p->texts.size : 0;
        if (wrote && h->wants_envelope)
            wrote = mime_header_write_envelope(h, &p->texts, true);
    }
    if (p->texts.error != 0 || mime_header_error(h) != 0)
        p->error = -ENOMEM;
    ASSERT(wrote || p->error != 0);
    check_full(p);
}

/* The header of the innermost part ends at `end`, its body begins there. */
static void end_header(struct mime_parser *p, uint64_t end, uint32_t lf_count)
{
    struct mime_header *h = &p->header;
    struct part *part = part_at(p, p->depth);

    mime_header_end(h);
    part->header_size = (uint32_t)(end - part->header_offset);
    p->open[p->depth].body_lf_count = lf_count;
    p->in_header = false;
    write_texts(p, part);
    part->kind = judge_kind(p);
    if (p->depth == 0) {
        p->dated = h->dated;
        p->date = h->date;
    }
    if (p->error != 0)
        return;
    if (part->kind == PART_MULTIPART) {
        part->digest = h->is_digest;
        if (h->boundary_size > 0 && !p->full) {
            struct boundary *b = &p->boundaries[p->boundary_count++];

            *b = (struct boundary){.depth = (uint8_t)p->depth, .size = h->boundary_size};
            memcpy(b->text, h->boundary, b->size);
        }
    } else if (part->kind == PART_MESSAGE) {
        open_part(p, p->depth + 1, end);
    }
}

/* The innermost part ends at `end`, before which there were `lf_count` line feeds. */
static void close_part(struct mime_parser *p, uint64_t end, uint32_t lf_count)
{
    struct part *part;

    /* A message/rfc822 opens an empty message inside, which ends too. */
    while (p->error == 0 && p->in_header)
        end_header(p, end, lf_count);
    if (p->error != 0)
        return;
    part = part_at(p, p->depth);
    part->end = (uint16_t)p->part_count;
    if (end <= (uint64_t)part->header_offset + part->header_size) {
        /* The empty line's end belongs to the boundary. */
        part->header_size = (uint32_t)(end - part->header_offset);
        return;
    }
    part->body_size = (uint32_t)(end - part->header_offset - part->header_size);
    part->body_lines = lf_count - p->open[p->depth].body_lf_count;
}

/* Which boundary is the whole line in p->prefix? The innermost whose text it is; else the longest with which
 * it begins (RFC 2046 5.1.2 allows padding, and programs wrote more than padding). */
static const struct boundary *find_boundary(const struct mime_parser *p, uint64_t text_size)
{
    const struct boundary *best = NULL;
    const char *text = p->prefix + 2;
    bool closing =
        text_size > 2 && text_size <= sizeof p->prefix - 2 && memcmp(text + text_size - 2, "--", 2) == 0;

    for (uint32_t i = p->boundary_count; i-- > 0;) {
        const struct boundary *b = &p->boundaries[i];

        if (b->size > text_size || (best != NULL && best->size >= b->size))
            continue;
        if (memcmp(b->text, text, b->size) != 0)
            continue;
        best = b;
        if (b->size == text_size || (closing && b->size + 2u == text_size))
            break;
    }
    return best;
}

/* Closes what the boundary closes. True: another part begins behind the line. */
static bool pass_boundary(struct mime_parser *p, const struct boundary *b)
{
    uint32_t depth = b->depth;
    bool last = p->prefix_size >= 2 + b->size + 2 && memcmp(p->prefix + 2 + b->size, "--", 2) == 0;
    uint32_t boundary_count = (uint32_t)(b - p->boundaries) + (last ? 0 : 1);
    uint64_t end = p->line_start - p->line_end_size;

    /* The line end before a boundary is the boundary's, unless the part begins here. */
    end = MAX(end, part_at(p, p->depth)->header_offset);
    while (p->error == 0 && p->depth > depth) {
        close_part(p, end, p->lf_count - (end < p->line_start));
        p->depth--;
    }
    p->in_header = false;
    if (p->full) /* By the texts of a part that ended in its header. */
        return false;
    p->boundary_count = boundary_count;
    return !last;
}

/* The line up to p->offset is whole; line_end_size 0: because the message ends. */
static void end_line(struct mime_parser *p, uint8_t line_end_size)
{
    uint64_t size = p->offset - p->line_start - line_end_size;
    const struct boundary *b = NULL;
    bool next_part = false;

    if (p->boundary_count > 0 && size >= 2 && p->prefix[0] == '-' && p->prefix[1] == '-')
        b = find_boundary(p, size - 2);
    if (b != NULL)
        next_part = pass_boundary(p, b);
    p->lf_count += line_end_size > 0;
    p->line_end_size = line_end_size;
    p->line_start = p->offset;
    if (p->error != 0)
        return;
    if (next_part && line_end_size > 0)
        open_part(p, p->depth + 1, p->offset);
    else if (b == NULL && p->in_header && p->line_has_text)
        mime_header_line_end(&p->header);
    else if (b == NULL && p->in_header && line_end_size > 0)
        end_header(p, p->offset, p->lf_count);
}

/* Bytes of a header line; a CR waits until it is known whether it ends the line. */
static void push_header_bytes(struct mime_parser *p, struct slice bytes, bool cr_waits, bool line_ends)
{
    bool text_before = p->line_has_text;

    if (line_ends)
        bytes.size--;
    if (cr_waits && (bytes.size > 0 || !line_ends)) {
        mime_header_piece(&p->header, SLICE("\r"), !p->line_has_text);
        p->line_has_text = text_before = true;
    }
    if (bytes.size > 0 && bytes.data[bytes.size - 1] == '\r')
        bytes.size--;
    if (bytes.size == 0)
        return;
    mime_header_piece(&p->header, bytes, !text_before);
    p->line_has_text = true;
}

/* Bytes of one line, with its LF if `line_ends`. */
static void push_line_bytes(struct mime_parser *p, struct slice bytes, bool line_ends)
{
    bool begins = p->offset == p->line_start;
    bool cr_waits = !begins && p->last_byte == '\r', crlf;
    size_t kept;

    if (begins) {
        p->prefix_size = 0;
        p->line_has_text = false;
    }
    kept = MIN(bytes.size, sizeof p->prefix - p->prefix_size);
    memcpy(p->prefix + p->prefix_size, bytes.data, kept);
    p->prefix_size += (uint8_t)kept;
    if (p->in_header)
        push_header_bytes(p, bytes, cr_waits, line_ends);
    crlf = bytes.size >= 2 ? bytes.data[bytes.size - 2] == '\r' : cr_waits;
    p->offset += bytes.size;
    p->last_byte = bytes.data[bytes.size - 1];
    if (line_ends)
        end_line(p, crlf ? 2 : 1);
}

static uint32_t count_lf(struct slice s)
{
    uint32_t count = 0;

    for (size_t i = 0; i < s.size; i++)
        count += s.data[i] == '\n';
    return count;
}

void mime_parser_feed(struct mime_parser *p, struct slice chunk)
{
    if (chunk.size > MIME_MESSAGE_SIZE_MAX - p->offset && p->error == 0)
        p->error = -EFBIG;
    while (p->error == 0 && chunk.size > 0) {
        size_t lf, size;

        if (!p->in_header && p->boundary_count == 0) { /* Nothing can begin or end any more. */
            p->lf_count += count_lf(chunk);
            p->offset += chunk.size;
            return;
        }
        lf = slice_find(chunk, '\n');
        size = lf < chunk.size ? lf + 1 : lf;
        push_line_bytes(p, slice_first(chunk, size), lf < chunk.size);
        chunk = slice_from(chunk, size);
    }
}

static void write_part(char *at, const struct part *part, uint32_t texts_offset)
{
    put_u32(at + PART_AT_HEADER_OFFSET, part->header_offset);
    put_u32(at + PART_AT_HEADER_SIZE, part->header_size);
    put_u32(at + PART_AT_BODY_SIZE, part->body_size);
    put_u32(at + PART_AT_BODY_LINES, part->body_lines);
    put_u32(at + PART_AT_TEXTS, texts_offset + part->texts);
    put_u32(at + PART_AT_ENVELOPE, part->envelope != 0 ? texts_offset + part->envelope : 0);
    put_u16(at + PART_AT_END, part->end);
    put_u16(at + PART_AT_KIND, part->kind);
}

static int write_blob(struct mime_parser *p, struct mime_blob *blob_out)
{
    uint32_t texts_offset = STRUCTURE_HEADER_SIZE + p->part_count * PART_RECORD_SIZE;
    uint32_t size = texts_offset + p->texts.size;
    char *data = heap_try_alloc(p->heap, size);

    if (data == NULL)
        return -ENOMEM;
    ASSERT(size <= MIME_BLOB_SIZE_MAX);
    memset(data, 0, STRUCTURE_HEADER_SIZE);
    data[STRUCTURE_AT_VERSION] = STRUCTURE_VERSION;
    data[STRUCTURE_AT_FLAGS] = p->dated ? STRUCTURE_DATED : 0;
    put_u32(data + STRUCTURE_AT_SIZE, size);
    put_u32(data + STRUCTURE_AT_MESSAGE_SIZE, (uint32_t)p->offset);
    put_u32(data + STRUCTURE_AT_PART_COUNT, p->part_count);
    if (p->dated) {
        put_u16(data + STRUCTURE_AT_ZONE, (uint16_t)p->date.zone_minutes);
        put_u64(data + STRUCTURE_AT_DATE, (uint64_t)p->date.utc_s);
    }
    for (uint32_t i = 0; i < p->part_count; i++)
        write_part(data + STRUCTURE_HEADER_SIZE + i * PART_RECORD_SIZE, &p->parts[i], texts_offset);
    memcpy(data + texts_offset, p->texts.data, p->texts.size);
    *blob_out = (struct mime_blob){data, size};
    return 0;
}

int mime_parser_finish(struct mime_parser *p, struct mime_blob *blob_out)
{
    if (p->error == 0 && (p->in_header || p->boundary_count > 0) && p->offset > p->line_start)
        end_line(p, 0);
    while (p->error == 0) {
        close_part(p, p->offset, p->lf_count);
        if (p->depth == 0)
            break;
        p->depth--;
    }
    return p->error != 0 ? p->error : write_blob(p, blob_out);
}

struct mime_parser *mime_parser_new(struct heap *heap)
{
    struct mime_parser *p = heap_try_alloc(heap, sizeof *p);

    if (p == NULL)
        return NULL;
    memset(p, 0, sizeof *p);
    p->heap = heap;
    growing_init(&p->texts, heap, MIME_BLOB_SIZE_MAX);
    mime_header_init(&p->header, heap);
    open_part(p, 0, 0);
    return p;
}

void mime_parser_free(struct mime_parser *p)
{
    if (p == NULL)
        return;
    mime_header_fini(&p->header);
    growing_fini(&p->texts);
    if (p->parts != NULL)
        heap_free(p->heap, p->parts);
    heap_free(p->heap, p);
}
