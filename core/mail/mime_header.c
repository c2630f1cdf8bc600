#include "core/mail/mime_header.h"
#include "core/mail/address.h"
#include "core/text.h"
#include "core/varint.h"

#include <errno.h>

#define SMALL_SIZE_MAX      (4 * 1024)
#define TEXT_SIZE_MAX       (8 * 1024)
#define RECIPIENTS_SIZE_MAX (96 * 1024) /* To, Cc and Bcc together, as kept. */
#define SENDERS_SIZE_MAX    (8 * 1024)  /* Each of the other lists. */

static const struct {
    struct slice name;
    uint32_t value_size_max;
} field_table[FIELD_COUNT] = {
    [FIELD_DATE] = {{"Date", 4}, SMALL_SIZE_MAX},
    [FIELD_SUBJECT] = {{"Subject", 7}, TEXT_SIZE_MAX},
    [FIELD_IN_REPLY_TO] = {{"In-Reply-To", 11}, TEXT_SIZE_MAX},
    [FIELD_MESSAGE_ID] = {{"Message-ID", 10}, TEXT_SIZE_MAX},
    [FIELD_FROM] = {{"From", 4}, MIME_FIELD_SIZE_MAX},
    [FIELD_SENDER] = {{"Sender", 6}, MIME_FIELD_SIZE_MAX},
    [FIELD_REPLY_TO] = {{"Reply-To", 8}, MIME_FIELD_SIZE_MAX},
    [FIELD_TO] = {{"To", 2}, MIME_FIELD_SIZE_MAX},
    [FIELD_CC] = {{"Cc", 2}, MIME_FIELD_SIZE_MAX},
    [FIELD_BCC] = {{"Bcc", 3}, MIME_FIELD_SIZE_MAX},
    [FIELD_TYPE] = {{"Content-Type", 12}, TEXT_SIZE_MAX},
    [FIELD_ID] = {{"Content-ID", 10}, SMALL_SIZE_MAX},
    [FIELD_DESCRIPTION] = {{"Content-Description", 19}, SMALL_SIZE_MAX},
    [FIELD_ENCODING] = {{"Content-Transfer-Encoding", 25}, SMALL_SIZE_MAX},
    [FIELD_MD5] = {{"Content-MD5", 11}, SMALL_SIZE_MAX},
    [FIELD_DISPOSITION] = {{"Content-Disposition", 19}, TEXT_SIZE_MAX},
    [FIELD_LANGUAGE] = {{"Content-Language", 16}, SMALL_SIZE_MAX},
    [FIELD_LOCATION] = {{"Content-Location", 16}, SMALL_SIZE_MAX},
    [FIELD_MIME_VERSION] = {{"MIME-Version", 12}, 0},
};

/* ---- Bytes that grow ----------------------------------------------------------------------------------- */

void growing_init(struct growing *g, struct heap *heap, uint32_t size_max)
{
    *g = (struct growing){.heap = heap, .size_max = size_max};
}

void growing_fini(struct growing *g)
{
    if (g->data != NULL)
        heap_free(g->heap, g->data);
    *g = (struct growing){0};
}

static bool growing_reserve(struct growing *g, size_t size)
{
    uint32_t capacity = g->capacity == 0 ? MIN(512u, g->size_max) : g->capacity;
    void *data;

    if (g->error != 0 || size > g->size_max - g->size)
        return false;
    while (capacity < g->size + size)
        capacity = (uint32_t)MIN((uint64_t)capacity * 2, g->size_max);
    if (capacity == g->capacity)
        return true;
    data = heap_try_realloc(g->heap, g->data, capacity);
    if (data == NULL) {
        g->error = -ENOMEM;
        return false;
    }
    g->data = data;
    g->capacity = capacity;
    return true;
}

bool growing_put(struct growing *g, const void *data, size_t size)
{
    if (!growing_reserve(g, size))
        return false;
    if (size > 0)
        memcpy(g->data + g->size, data, size);
    g->size += (uint32_t)size;
    return true;
}

static bool put_varint(struct growing *g, uint32_t value)
{
    char bytes[VARINT_SIZE_MAX];

    return growing_put(g, bytes, (size_t)(varint_put(bytes, value) - bytes));
}

static bool put_text(struct growing *g, struct slice text)
{
    if (text.data == NULL)
        return put_varint(g, TEXT_TAG_NIL);
    return put_varint(g, (uint32_t)text.size + TEXT_TAG_FIRST) && growing_put(g, text.data, text.size);
}

/* ---- Kept fields --------------------------------------------------------------------------------------- */

#define RUN_HEAD_SIZE 8 /* u32 size, u32 offset of the next run + 1. */

void mime_header_init(struct mime_header *h, struct heap *heap)
{
    memset(h, 0, sizeof *h);
    growing_init(&h->value, heap, MIME_FIELD_SIZE_MAX);
    growing_init(&h->kept, heap, MIME_HEADER_KEPT_MAX);
    arena_init(&h->arena, heap);
}

void mime_header_fini(struct mime_header *h)
{
    growing_fini(&h->value);
    growing_fini(&h->kept);
    arena_fini(&h->arena);
}

int mime_header_error(const struct mime_header *h)
{
    return h->value.error != 0 ? h->value.error : h->kept.error;
}

void mime_header_begin(struct mime_header *h, bool wants_envelope)
{
    h->value.size = h->kept.size = 0;
    memset(h->fields, 0, sizeof h->fields);
    h->field = FIELD_NONE;
    h->naming = false;
    h->wants_envelope = wants_envelope;
    h->type_seen = h->mime_version_seen = h->dated = false;
    h->is_text = h->is_multipart = h->is_digest = h->is_message = false;
    h->boundary_size = 0;
}

/* A new run at the end of `kept`: its bytes are appended, then end_run(). */
static bool begin_run(struct mime_header *h, uint32_t *run_out)
{
    static const char head[RUN_HEAD_SIZE];

    *run_out = h->kept.size;
    return growing_put(&h->kept, head, sizeof head);
}

static void end_run(struct mime_header *h, uint32_t run)
{
    struct kept_field *f = &h->fields[h->field];
    uint32_t size = h->kept.size - run - RUN_HEAD_SIZE;

    put_u32(h->kept.data + run, size);
    if (f->last != 0)
        put_u32(h->kept.data + f->last - 1 + 4, run + 1);
    else
        f->first = run + 1;
    f->last = run + 1;
    f->size += size;
}

static bool write_kept(const struct mime_header *h, enum mime_field field, struct growing *out)
{
    for (uint32_t run = h->fields[field].first; run != 0; run = get_u32(h->kept.data + run - 1 + 4))
        if (!growing_put(out, h->kept.data + run - 1 + RUN_HEAD_SIZE, get_u32(h->kept.data + run - 1)))
            return false;
    return true;
}

/* ---- Values -------------------------------------------------------------------------------------------- */

/* For people's eyes: runs of blanks become one, none at the ends. */
static struct slice collapse(struct slice s, struct arena *arena)
{
    char *copy = arena_alloc(arena, s.size);
    size_t size = 0;

    for (size_t i = 0; i < s.size; i++) {
        bool blank = char_is_space(s.data[i]);

        if (blank && (size == 0 || copy[size - 1] == ' '))
            continue;
        copy[size++] = blank ? ' ' : s.data[i];
    }
    return slice_of(copy, size > 0 && copy[size - 1] == ' ' ? size - 1 : size);
}

static bool put_host(struct growing *g, struct slice host)
{
    if (slice_eq(host, SLICE(ADDRESS_MISSING_HOST)))
        return put_varint(g, TEXT_TAG_MISSING_HOST);
    if (slice_eq(host, SLICE(ADDRESS_SYNTAX_ERROR)))
        return put_varint(g, TEXT_TAG_SYNTAX_ERROR);
    return put_text(g, host);
}

static bool put_address(struct growing *g, const struct address *a)
{
    if (!put_text(g, a->name))
        return false;
    if (slice_eq(a->mailbox, SLICE(ADDRESS_MISSING_MAILBOX))) {
        if (!put_varint(g, TEXT_TAG_MISSING_MAILBOX))
            return false;
    } else if (!put_text(g, a->mailbox)) {
        return false;
    }
    return put_host(g, a->host);
}

/* Bytes that the list may still take. Room for the end of a group is kept apart. */
static uint32_t list_room(const struct mime_header *h)
{
    uint32_t used = h->fields[h->field].size, limit = SENDERS_SIZE_MAX;

    if (h->field >= FIELD_TO) {
        used = h->fields[FIELD_TO].size + h->fields[FIELD_CC].size + h->fields[FIELD_BCC].size;
        limit = RECIPIENTS_SIZE_MAX;
    }
    return used < limit ? limit - used : 0;
}

static void keep_addresses(struct mime_header *h, struct slice value)
{
    static const struct address group_end;
    struct kept_field *f = &h->fields[h->field];
    char *scratch = arena_alloc(&h->arena, ADDRESS_SCRATCH_SIZE(value.size));
    uint32_t room = list_room(h), run, end;
    struct address_parser parser;
    struct address a;
    bool in_group = false;

    address_parser_init(&parser, value, scratch);
    if (room == 0 || f->address_count >= MIME_ADDRESS_COUNT_MAX || !begin_run(h, &run))
        return;
    for (end = h->kept.size; address_next(&parser, &a); end = h->kept.size) {
        if (a.name.data != NULL)
            a.name = collapse(a.name, &h->arena);
        if (f->address_count >= MIME_ADDRESS_COUNT_MAX || !put_address(&h->kept, &a))
            break;
        if (h->kept.size - run - RUN_HEAD_SIZE > room)
            break;
        f->address_count++;
        in_group = a.host.data == NULL && a.mailbox.data != NULL ? true : a.host.data != NULL && in_group;
    }
    h->kept.size = end; /* Without the one that was too much. */
    if (in_group && put_address(&h->kept, &group_end))
        f->address_count++; /* The list was cut inside the group. */
    if (h->kept.size > run + RUN_HEAD_SIZE)
        end_run(h, run);
    else
        h->kept.size = run;
}

static void keep_text(struct mime_header *h, struct slice text)
{
    uint32_t run;

    if (begin_run(h, &run) && put_text(&h->kept, text))
        end_run(h, run);
}

static bool put_params(struct mime_header *h)
{
    const struct mime_value *v = &h->parsed;

    if (!put_varint(&h->kept, v->param_count))
        return false;
    for (uint32_t i = 0; i < v->param_count; i++)
        if (!put_text(&h->kept, v->params[i].name) || !put_text(&h->kept, v->params[i].value))
            return false;
    return true;
}

static void keep_type(struct mime_header *h, struct slice value)
{
    const struct mime_value *v = &h->parsed;
    const struct mime_param *boundary;
    uint32_t run;

    if (!mime_type_parse(&h->parsed, value, &h->arena))
        return;
    h->is_text = slice_eq_nocase(v->type, SLICE("text"));
    h->is_multipart = slice_eq_nocase(v->type, SLICE("multipart"));
    h->is_digest = h->is_multipart && slice_eq_nocase(v->subtype, SLICE("digest"));
    h->is_message =
        slice_eq_nocase(v->type, SLICE("message")) && slice_eq_nocase(v->subtype, SLICE("rfc822"));
    boundary = mime_param_find(v, SLICE("boundary"));
    if (h->is_multipart && boundary != NULL) {
        h->boundary_size = (uint8_t)MIN(boundary->value.size, sizeof h->boundary);
        memcpy(h->boundary, boundary->value.data, h->boundary_size);
    }
    if (begin_run(h, &run) && put_text(&h->kept, v->type) && put_text(&h->kept, v->subtype) && put_params(h))
        end_run(h, run);
}

static void keep_disposition(struct mime_header *h, struct slice value)
{
    uint32_t run;

    if (!mime_disposition_parse(&h->parsed, value, &h->arena))
        return;
    if (begin_run(h, &run) && put_text(&h->kept, h->parsed.type) && put_params(h))
        end_run(h, run);
}

/* One token, and nothing behind it. */
static void keep_encoding(struct mime_header *h, struct slice value)
{
    struct token_reader r = {.at = value.data, .end = value.data + value.size};
    struct text_buffer text = {arena_alloc(&h->arena, value.size), 0, value.size};

    if (token_skip_blanks(&r) == TOKEN_MORE && token_mime(&r, &text) == TOKEN_END && text.size > 0)
        keep_text(h, text_slice(&text));
}

/* Atoms between commas: at most half as many as bytes, in a value of SMALL_SIZE_MAX. */
static void keep_languages(struct mime_header *h, struct slice value)
{
    struct token_reader r = {.at = value.data, .end = value.data + value.size};
    struct text_buffer text = {arena_alloc(&h->arena, value.size), 0, value.size};
    struct growing tags;
    uint32_t count = 0, run;

    growing_init(&tags, h->value.heap, 2 * SMALL_SIZE_MAX);
    (void)token_skip_blanks(&r);
    for (;;) {
        text.size = 0;
        if (token_atom(&r, &text) == TOKEN_BAD || !put_text(&tags, text_slice(&text)))
            break;
        count++;
        if (token_peek(&r) != ',')
            break;
        r.at++;
        (void)token_skip_blanks(&r);
    }
    if (count > 0 && begin_run(h, &run) && put_varint(&h->kept, count) &&
        growing_put(&h->kept, tags.data, tags.size))
        end_run(h, run);
    growing_fini(&tags);
}

static void finish_field(struct mime_header *h)
{
    struct slice value = slice_trim_front(slice_of(h->value.data, h->value.size));
    bool list = h->field >= FIELD_FROM && h->field <= FIELD_BCC;

    if (h->field == FIELD_NONE)
        return;
    if (value.data == NULL)
        value = SLICE("");
    if (list) {
        keep_addresses(h, value);
    } else if (h->field == FIELD_MIME_VERSION) {
        h->mime_version_seen = true;
    } else if (h->field == FIELD_TYPE) {
        if (!h->type_seen)
            keep_type(h, value);
        h->type_seen = true;
    } else if (h->fields[h->field].first == 0) {
        if (h->field == FIELD_DATE)
            h->dated = date_parse_rfc5322(value, &h->date);
        if (h->field == FIELD_SUBJECT)
            keep_text(h, collapse(value, &h->arena));
        else if (h->field == FIELD_ENCODING)
            keep_encoding(h, value);
        else if (h->field == FIELD_DISPOSITION)
            keep_disposition(h, value);
        else if (h->field == FIELD_LANGUAGE)
            keep_languages(h, value);
        else
            keep_text(h, value);
    }
    arena_reset(&h->arena);
    h->field = FIELD_NONE;
    h->value.size = 0;
}

/* ---- Lines --------------------------------------------------------------------------------------------- */

static enum mime_field find_field(const struct mime_header *h)
{
    struct slice name = slice_of(h->name, h->name_size);

    while (name.size > 0 && char_is_blank(name.data[name.size - 1]))
        name.size--;
    for (enum mime_field f = h->wants_envelope ? 0 : FIELD_TYPE; f < FIELD_COUNT; f++)
        if (slice_eq_nocase(name, field_table[f].name))
            return f;
    return FIELD_NONE;
}

static void put_value(struct mime_header *h, struct slice piece)
{
    uint32_t limit = field_table[h->field].value_size_max, start = h->value.size;

    if (start >= limit)
        return;
    piece.size = MIN(piece.size, limit - start);
    if (!growing_put(&h->value, piece.data, piece.size))
        return;
    for (uint32_t i = start; i < h->value.size; i++) {
        if (h->value.data[i] == '\0')
            h->value.data[i] = NUL_STAND_IN;
        else if (h->value.data[i] == '\r') /* A lone one: line ends are gone. */
            h->value.data[i] = ' ';
    }
}

void mime_header_piece(struct mime_header *h, struct slice piece, bool begins)
{
    size_t colon;

    if (piece.size == 0)
        return;
    if (begins && !char_is_blank(piece.data[0])) {
        finish_field(h);
        h->naming = true;
        h->name_size = 0;
    }
    if (h->naming) {
        size_t taken;

        colon = slice_find(piece, ':');
        taken = MIN(colon, sizeof h->name - h->name_size);
        memcpy(h->name + h->name_size, piece.data, taken);
        h->name_size += (uint8_t)taken;
        if (taken < colon) /* Longer than any name that matters, blanks before the colon included. */
            h->naming = false;
        if (!h->naming || colon == piece.size)
            return;
        h->naming = false;
        h->field = find_field(h);
        piece = slice_from(piece, colon + 1);
    }
    if (h->field != FIELD_NONE)
        put_value(h, piece);
}

void mime_header_line_end(struct mime_header *h)
{
    h->naming = false; /* No colon: not a field. */
}

void mime_header_end(struct mime_header *h)
{
    finish_field(h);
}

/* ---- Into the blob ------------------------------------------------------------------------------------- */

bool mime_header_write_texts(const struct mime_header *h, struct growing *out, bool empty)
{
    static const struct { /* What stands for a missing field: so many zeros. */
        enum mime_field field;
        uint8_t zero_count;
    } order[] = {
        {FIELD_TYPE, 3}, {FIELD_ID, 1},          {FIELD_DESCRIPTION, 1}, {FIELD_ENCODING, 1},
        {FIELD_MD5, 1},  {FIELD_DISPOSITION, 2}, {FIELD_LANGUAGE, 1},    {FIELD_LOCATION, 1},
    };
    static const char zeros[3];

    for (size_t i = 0; i < ARRAY_COUNT(order); i++) {
        if (!empty && h->fields[order[i].field].first != 0) {
            if (!write_kept(h, order[i].field, out))
                return false;
        } else if (!growing_put(out, zeros, order[i].zero_count)) {
            return false;
        }
    }
    return true;
}

bool mime_header_write_envelope(const struct mime_header *h, struct growing *out, bool empty)
{
    for (enum mime_field f = FIELD_DATE; f <= FIELD_BCC; f++) {
        bool missing = empty || h->fields[f].first == 0;

        /* A missing list is an empty one, a missing text NIL: both are zero. */
        if (f >= FIELD_FROM || missing)
            if (!put_varint(out, missing ? 0 : h->fields[f].address_count))
                return false;
        if (!missing && !write_kept(h, f, out))
            return false;
    }
    return true;
}
