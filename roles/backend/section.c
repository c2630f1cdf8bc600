/* BODY[...] and its like: bytes of a message, window by window, straight into the frames of the link. */
#include "roles/backend/fetch.h"
#include "roles/backend/header_fields.h"
#include <errno.h>

int fetch_source_open(struct command *c, const struct message *m, bool bytes, struct fetch_source *source_out)
{
    struct store *store = c->backend->store;
    struct fetch_source s;
    int rc = bytes ? body_open(store, &m->body, &s.reader) : body_open_head(store, &m->body, &s.reader);

    if (rc < 0)
        return rc;
    rc = structure_open(&s.structure, body_reader_structure(s.reader));
    if (rc < 0) {
        body_close(s.reader);
        return rc;
    }
    *source_out = s;
    return 0;
}

void fetch_source_close(struct fetch_source *s)
{
    body_close(s->reader);
    s->reader = NULL;
}

void fetch_source_keep(struct backend *b, struct fetch_work *w)
{
    if (!heap_admits(b->heap)) {
        fetch_source_close(&w->source);
        return;
    }
    list_push_front(&b->sources, &w->kept);
    if (++b->source_count > BACKEND_SOURCES_KEPT) {
        struct fetch_work *oldest = CONTAINER_OF(b->sources.prev, struct fetch_work, kept);

        fetch_source_unkeep(b, oldest);
        fetch_source_close(&oldest->source);
    }
}

void fetch_source_unkeep(struct backend *b, struct fetch_work *w)
{
    if (!list_linked(&w->kept))
        return;
    list_remove(&w->kept);
    b->source_count--;
}

/* An IMAP literal holds no NUL (RFC 3501 9): 0x80 stands for it, as in other servers. */
static void hide_nul(char *data, size_t size)
{
    char *end = data + size;

    while ((data = memchr(data, 0, (size_t)(end - data))) != NULL)
        *data++ = (char)0x80;
}

/* The part of a section that was asked for, as a range of it. */
static struct byte_range partial_range(const struct imap_section *section, uint32_t size)
{
    uint64_t offset, left;

    if (!section->partial)
        return (struct byte_range){0, size};
    offset = MIN(section->offset, size);
    left = size - offset;
    return (struct byte_range){(uint32_t)offset, (uint32_t)MIN(section->size, left)};
}

static void section_begin(struct command *c, struct fetch_work *w, const struct imap_section *section,
                          uint32_t size)
{
    struct writer *out = command_writer(c);

    if (w->section_begun)
        return;
    w->section_begun = true;
    link_writer_expect(&c->out, size);
    imap_write_section(out, section);
    writer_char(out, ' ');
    imap_write_literal_header(out, size);
}

/* Room in the window for the next bytes. */
static size_t window_room(struct command *c, uint64_t left)
{
    struct writer *out = command_writer(c);

    if (out->at == out->end)
        out->more(out);
    return (size_t)MIN(left, (uint64_t)(out->end - out->at));
}

static enum section_result send_range(struct command *c, struct fetch_work *w, struct fetch_source *source,
                                      struct byte_range range)
{
    while (w->offset < range.size) {
        size_t room;
        ssize_t size;

        if (command_abandoned(c))
            return SECTION_BROKEN;
        if (command_starved(c))
            return SECTION_PARK;
        room = window_room(c, range.size - w->offset);
        size = body_read(source->reader, command_writer(c)->at, room, range.offset + w->offset);
        if (size <= 0)
            return SECTION_BROKEN;
        hide_nul(command_writer(c)->at, (size_t)size);
        command_writer(c)->at += size;
        w->offset += (uint64_t)size;
    }
    return SECTION_SENT;
}

static enum section_result send_text(struct command *c, struct fetch_work *w, struct slice text)
{
    while (w->offset < text.size) {
        size_t room;

        if (command_abandoned(c))
            return SECTION_BROKEN;
        if (command_starved(c))
            return SECTION_PARK;
        room = window_room(c, text.size - w->offset);
        memcpy(command_writer(c)->at, text.data + w->offset, room);
        hide_nul(command_writer(c)->at, room);
        command_writer(c)->at += room;
        w->offset += room;
    }
    return SECTION_SENT;
}

/* HEADER.FIELDS: the header is read whole, for its size must be known before its first byte is sent. */
static enum section_result send_fields(struct command *c, struct fetch_work *w, struct fetch_source *source,
                                       const struct imap_section *section, struct byte_range range)
{
    struct heap *heap = c->backend->heap;
    uint32_t size = MIN(range.size, HEADER_FIELDS_SIZE_MAX);
    char *header = heap_try_alloc(heap, size + 1);
    enum section_result result = SECTION_BROKEN;
    struct byte_range part;
    struct slice kept;

    if (header == NULL)
        return SECTION_BROKEN;
    if (body_read(source->reader, header, size, range.offset) == (ssize_t)size) {
        kept = header_fields_keep(slice_of(header, size), section->fields, section->field_count,
                                  section->section.kind == SECTION_HEADER_FIELDS_NOT);
        part = partial_range(section, (uint32_t)kept.size);
        section_begin(c, w, section, part.size);
        result = send_text(c, w, slice_of(kept.data + part.offset, part.size));
    }
    heap_free(heap, header);
    return result;
}

enum section_result section_send(struct command *c, struct fetch_work *w, struct fetch_source *source,
                                 const struct imap_section *section)
{
    struct byte_range range, part;

    if (!structure_section(&source->structure, &section->section, &range)) {
        imap_write_section(command_writer(c), section);
        writer_text(command_writer(c), " NIL");
        return SECTION_SENT;
    }
    if (section->section.kind == SECTION_HEADER_FIELDS || section->section.kind == SECTION_HEADER_FIELDS_NOT)
        return send_fields(c, w, source, section, range);
    part = partial_range(section, range.size);
    section_begin(c, w, section, part.size);
    return send_range(c, w, source, (struct byte_range){range.offset + part.offset, part.size});
}
