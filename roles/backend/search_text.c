/* HEADER, BODY and TEXT of SEARCH. BODY looks into the text parts; TEXT into these and into the headers,
 * those of parts and of forwarded messages included. */
#include "roles/backend/header_fields.h"
#include "roles/backend/search.h"
#include "roles/backend/text_match.h"
#include <errno.h>

#define SEARCH_WINDOW_SIZE 16384

struct text_search {
    struct command *command;
    struct fetch_source *source;
    struct text_pattern pattern;
    struct text_match match;
    char *window;
};

/* The field at the front of `header`, with the lines that continue it. */
static struct slice first_field(struct slice header)
{
    size_t size = 0;

    do {
        size_t end = slice_find(slice_from(header, size), '\n');

        size = MIN(size + end + 1, header.size);
    } while (size < header.size && (header.data[size] == ' ' || header.data[size] == '\t'));
    return slice_first(header, size);
}

/* With `name`: its value alone, in every field of that name; without: everything. */
static void match_header(struct text_search *s, struct slice header, struct slice name)
{
    struct slice field;

    for (; header.size > 0 && !s->match.found; header = slice_from(header, field.size)) {
        size_t colon;

        field = first_field(header);
        text_match_begin(&s->match, &s->pattern);
        if (name.size == 0) {
            s->match.found = false;
            text_match_field(&s->match, field);
            continue;
        }
        s->match.found = false;
        colon = slice_find(field, ':');
        if (colon == field.size || !slice_eq_nocase(slice_first(field, colon), name))
            continue;
        if (s->pattern.size == 0) /* The field is there: that was the question. */
            s->match.found = true;
        else
            text_match_field(&s->match, slice_from(field, colon + 1));
    }
}

/* Reads a header whole, as far as it is looked at, and matches it. */
static int search_header(struct text_search *s, struct byte_range range, struct slice name)
{
    struct heap *heap = s->command->backend->heap;
    uint32_t size = MIN(range.size, HEADER_FIELDS_SIZE_MAX);
    char *header = heap_try_alloc(heap, size + 1);
    ssize_t got;

    if (header == NULL)
        return -ENOMEM;
    got = body_read(s->source->reader, header, size, range.offset);
    if (got > 0)
        match_header(s, slice_of(header, (size_t)got), name);
    heap_free(heap, header);
    return got < 0 ? (int)got : fiber_work(size);
}

static int search_body(struct text_search *s, const struct structure_part *part)
{
    uint32_t at = 0;
    int rc = 0;

    text_match_begin(&s->match, &s->pattern);
    text_match_encoding(&s->match, text_encoding_find(part->encoding), text_charset_find(part->charset));
    while (rc == 0 && at < part->body.size && !s->match.found) {
        uint32_t size = MIN(part->body.size - at, SEARCH_WINDOW_SIZE);
        ssize_t got = body_read(s->source->reader, s->window, size, part->body.offset + at);

        if (got <= 0)
            return got < 0 ? (int)got : -EBADMSG;
        text_match_feed(&s->match, slice_of(s->window, (size_t)got));
        at += (uint32_t)got;
        rc = fiber_work((uint32_t)got);
    }
    return rc;
}

static int search_parts(struct text_search *s, bool headers)
{
    const struct structure *structure = &s->source->structure;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < structure_part_count(structure) && !s->match.found; i++) {
        struct structure_part part;

        structure_part(structure, i, &part);
        if (headers)
            rc = search_header(s, part.header, (struct slice){0});
        if (rc == 0 && !s->match.found && part.leaf && slice_eq_nocase(part.type, SLICE("text")))
            rc = search_body(s, &part);
    }
    return rc;
}

static int search_in(struct text_search *s, const struct imap_search_key *key)
{
    struct structure_part whole;

    if (key->kind == IMAP_SEARCH_HEADER) {
        structure_part(&s->source->structure, 0, &whole);
        return search_header(s, whole.header, key->field);
    }
    if (s->pattern.size == 0) {
        s->match.found = true;
        return 0;
    }
    return search_parts(s, key->kind == IMAP_SEARCH_TEXT);
}

int search_text_matches(struct command *c, struct fetch_source *source, const struct imap_search_key *key)
{
    struct heap *heap = c->backend->heap;
    struct text_search s = {.command = c, .source = source};
    struct arena arena;
    int rc;

    s.window = heap_try_alloc(heap, SEARCH_WINDOW_SIZE);
    if (s.window == NULL)
        return -ENOMEM;
    arena_init(&arena, heap);
    text_pattern_init(&s.pattern, &arena, key->text);
    rc = search_in(&s, key);
    arena_fini(&arena);
    heap_free(heap, s.window);
    return rc < 0 ? rc : s.match.found;
}
