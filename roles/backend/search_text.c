/* HEADER, BODY and TEXT of SEARCH. BODY looks into the text and message parts; TEXT into these and into the headers, those of
 * parts and of forwarded messages included. Everything is compared as UTF-8, decoded; where that is not possible, the
 * bytes are compared as they are. */
#include "core/mail/search_text.h"
#include "core/mail/charset.h"
#include "core/mail/header.h"
#include "core/mail/transfer.h"
#include "roles/backend/header_fields.h"
#include "roles/backend/search.h"
#include <errno.h>

#define SEARCH_WINDOW_SIZE  8192
#define SEARCH_DECODED_SIZE TRANSFER_DECODED_SIZE_MAX(SEARCH_WINDOW_SIZE)
#define SEARCH_VALUE_MAX    65536 /* Of a header field: what is beyond is not looked at. */

struct text_search { /* On the heap, for the search of one key in one message. */
    struct command *command;
    struct fetch_source *source;
    struct search_text match;
    bool found;
    char window[SEARCH_WINDOW_SIZE];
    char decoded[SEARCH_DECODED_SIZE];
    char utf8[CHARSET_TO_UTF8_SIZE_MAX(SEARCH_DECODED_SIZE)];
};

static void search_feed(struct text_search *s, struct slice text)
{
    s->found = s->found || search_text_feed(&s->match, text);
}

/* ---- Headers ------------------------------------------------------------------------------------------- */

static int search_value(struct text_search *s, struct slice value)
{
    struct heap *heap = s->command->backend->heap;
    char *text;

    value.size = MIN(value.size, (size_t)SEARCH_VALUE_MAX);
    text = heap_try_alloc(heap, HEADER_DECODED_SIZE_MAX(value.size) + 1);
    if (text == NULL)
        return -ENOMEM;
    search_feed(s, slice_of(text, header_decode(value, NULL, text)));
    heap_free(heap, text);
    return 0;
}

/* `name` empty: all fields, names included. An empty string asks whether the field is there. */
static int search_fields(struct text_search *s, struct slice header, struct slice name)
{
    struct header_iter it;
    struct header_field field;
    int rc = 0;

    header_iter_init(&it, header);
    while (rc == 0 && !s->found && header_next(&it, &field)) {
        if (name.size > 0 && !slice_eq_nocase(field.name, name))
            continue;
        search_text_begin(&s->match);
        if (name.size == 0) {
            search_feed(s, field.name);
            search_feed(s, SLICE(": "));
        }
        rc = search_value(s, field.value);
    }
    return rc;
}

/* Reads a header whole, as far as it is looked at. */
static int search_header(struct text_search *s, struct byte_range range, struct slice name)
{
    struct heap *heap = s->command->backend->heap;
    uint32_t size = MIN(range.size, HEADER_FIELDS_SIZE_MAX);
    char *header = heap_try_alloc(heap, size + 1);
    ssize_t got;
    int rc;

    if (header == NULL)
        return -ENOMEM;
    got = body_read(s->source->reader, header, size, range.offset);
    rc = got < 0 ? (int)got : search_fields(s, slice_of(header, (size_t)got), name);
    heap_free(heap, header);
    return rc == 0 ? fiber_work(size) : rc;
}

/* ---- Bodies -------------------------------------------------------------------------------------------- */

static void search_decoded(struct text_search *s, enum charset charset, struct slice text)
{
    if (charset == CHARSET_UNKNOWN || charset == CHARSET_UTF8)
        search_feed(s, text);
    else
        search_feed(s, slice_of(s->utf8, charset_to_utf8(charset, text, s->utf8)));
}

static int search_body(struct text_search *s, const struct structure_part *part)
{
    enum charset charset = charset_find(part->charset);
    struct transfer_decoder decoder;
    uint32_t at = 0;
    int rc = 0;

    search_text_begin(&s->match);
    transfer_decoder_init(&decoder, transfer_find(part->encoding));
    while (rc == 0 && at < part->body.size && !s->found) {
        uint32_t size = MIN(part->body.size - at, SEARCH_WINDOW_SIZE);
        ssize_t got = body_read(s->source->reader, s->window, size, part->body.offset + at);

        if (got <= 0)
            return got < 0 ? (int)got : -EBADMSG;
        size = (uint32_t)transfer_decode(&decoder, slice_of(s->window, (size_t)got), s->decoded);
        search_decoded(s, charset, slice_of(s->decoded, size));
        at += (uint32_t)got;
        rc = fiber_work((uint32_t)got);
    }
    search_decoded(s, charset, slice_of(s->decoded, transfer_finish(&decoder, s->decoded)));
    return rc;
}

/* Reports about deliveries are text, and forwarded messages that could not be opened. */
static bool is_text(const struct structure_part *part)
{
    return slice_eq_nocase(part->type, SLICE("text")) || slice_eq_nocase(part->type, SLICE("message"));
}

static int search_parts(struct text_search *s, bool headers)
{
    const struct structure *structure = &s->source->structure;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < structure_part_count(structure) && !s->found; i++) {
        struct structure_part part;

        structure_part(structure, i, &part);
        if (headers)
            rc = search_header(s, part.header, (struct slice){0});
        if (rc == 0 && !s->found && part.leaf && is_text(&part))
            rc = search_body(s, &part);
    }
    return rc;
}

static int search_in(struct text_search *s, const struct imap_search_key *key)
{
    struct structure_part whole;

    if (key->kind != IMAP_SEARCH_HEADER)
        return search_parts(s, key->kind == IMAP_SEARCH_TEXT);
    structure_part(&s->source->structure, 0, &whole);
    return search_header(s, whole.header, key->field);
}

/* As a header's values are compared; in the window. */
static struct slice single_blanks(struct text_search *s, struct slice text)
{
    size_t size = 0;

    if (text.size > SEARCH_WINDOW_SIZE)
        return text; /* Too long anyway. */
    for (size_t i = 0; i < text.size; i++) {
        char c = text.data[i] == '\t' ? ' ' : text.data[i];

        if (c != ' ' || size == 0 || s->window[size - 1] != ' ')
            s->window[size++] = c;
    }
    return slice_of(s->window, size);
}

int search_text_matches(struct command *c, struct fetch_source *source, const struct imap_search_key *key)
{
    struct heap *heap = c->backend->heap;
    struct text_search *s = heap_try_alloc(heap, sizeof *s);
    int rc = -ENAMETOOLONG;

    if (s == NULL)
        return -ENOMEM;
    s->command = c;
    s->source = source;
    s->found = false;
    if (search_text_init(&s->match,
                         key->kind == IMAP_SEARCH_HEADER ? single_blanks(s, key->text) : key->text))
        rc = search_in(s, key);
    if (rc == 0)
        rc = s->found;
    heap_free(heap, s);
    return rc;
}
