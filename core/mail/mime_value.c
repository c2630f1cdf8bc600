#include "core/mail/mime_value.h"
#include "core/mail/token.h"

/* `name*3*` in its parts. */
struct piece {
    struct slice name, value;
    uint32_t index;
    bool extended; /* A trailing asterisk: the value has percent signs and maybe a charset. */
};

static struct text_buffer new_text(struct arena *arena, size_t capacity)
{
    return (struct text_buffer){arena_alloc(arena, capacity), 0, capacity};
}

/* One `name=value` behind a semicolon. False: not a parameter; the reader stands where it gave up. */
static bool parse_param(struct token_reader *r, struct text_buffer *text, struct mime_param *out)
{
    size_t start = text->size, value_start;
    enum token_result result;

    if (token_mime(r, text) != TOKEN_MORE || text->size == start || *r->at != '=')
        return false;
    r->at++;
    value_start = text->size;
    result = token_skip_blanks(r);
    if (result == TOKEN_MORE && *r->at == '"') {
        result = token_quoted(r, text);
    } else if (result == TOKEN_MORE && *r->at == '=') {
        /* Broken but common: name==?utf-8?b?...?= */
        for (; r->at < r->end && strchr("; \t\r\n", *r->at) == NULL; r->at++)
            text_char(text, *r->at);
    } else if (result == TOKEN_MORE) {
        result = token_mime(r, text);
    }
    out->name = slice_of(text->data + start, value_start - start);
    out->value = slice_of(text->data + value_start, text->size - value_start);
    return result != TOKEN_BAD;
}

/* Is the name that of a piece? `name*`, `name*0`, `name*0*`. */
static bool split_name(struct mime_param param, struct piece *out)
{
    size_t star = slice_find(param.name, '*'), at = star + 1;

    *out = (struct piece){.value = param.value};
    if (star == param.name.size)
        return false;
    out->name = slice_first(param.name, star);
    for (; at < param.name.size && param.name.data[at] >= '0' && param.name.data[at] <= '9'; at++) {
        if (out->index > MIME_PARAM_COUNT_MAX)
            return false;
        out->index = out->index * 10 + (uint32_t)(param.name.data[at] - '0');
    }
    if (at < param.name.size && param.name.data[at] == '*') {
        out->extended = true;
        at++;
    } else if (at == star + 1) { /* `name*` */
        out->extended = true;
    }
    return at == param.name.size;
}

static int compare_pieces(const struct piece *a, const struct piece *b)
{
    int order = memcmp(a->name.data, b->name.data, MIN(a->name.size, b->name.size));

    if (order == 0 && a->name.size != b->name.size)
        order = a->name.size < b->name.size ? -1 : 1;
    if (order == 0 && a->index != b->index)
        order = a->index < b->index ? -1 : 1;
    return order;
}

/* By insertion: there are few, and mostly they are in order. */
static void sort_pieces(struct piece *pieces, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        struct piece moved = pieces[i];
        uint32_t at = i;

        for (; at > 0 && compare_pieces(&pieces[at - 1], &moved) > 0; at--)
            pieces[at] = pieces[at - 1];
        pieces[at] = moved;
    }
}

static void add_param(struct mime_value *out, struct slice name, struct slice value)
{
    if (out->param_count < MIME_PARAM_COUNT_MAX)
        out->params[out->param_count++] = (struct mime_param){name, value};
}

/* Pieces 0, 1, 2... of one name become one parameter; `name*` when any of them is extended, and then the
 * plain ones are escaped to match. */
static void join_pieces(struct mime_value *out, const struct piece *pieces, uint32_t count,
                        struct arena *arena)
{
    bool extended = false;
    size_t size = 2;
    struct text_buffer name, value;

    for (uint32_t i = 0; i < count; i++) {
        extended = extended || pieces[i].extended;
        size += 3 * pieces[i].value.size;
    }
    name = new_text(arena, pieces[0].name.size + 1);
    text_put(&name, pieces[0].name.data, pieces[0].name.size);
    if (extended)
        text_char(&name, '*');
    value = new_text(arena, size);
    if (extended && !pieces[0].extended)
        text_put(&value, "''", 2);
    for (uint32_t i = 0; i < count; i++) {
        for (size_t at = 0; at < pieces[i].value.size; at++) {
            if (extended && !pieces[i].extended && pieces[i].value.data[at] == '%')
                text_put(&value, "%25", 3);
            else
                text_char(&value, pieces[i].value.data[at]);
        }
    }
    add_param(out, text_slice(&name), text_slice(&value));
}

static void add_pieces(struct mime_value *out, struct piece *pieces, uint32_t count, struct arena *arena)
{
    uint32_t end;

    sort_pieces(pieces, count);
    for (uint32_t begin = 0; begin < count; begin = end) {
        bool complete = true;

        for (end = begin; end < count && slice_eq_nocase(pieces[end].name, pieces[begin].name); end++)
            complete = complete && pieces[end].index == end - begin;
        if (complete) {
            join_pieces(out, pieces + begin, end - begin, arena);
            continue;
        }
        for (uint32_t i = begin; i < end; i++) {
            struct piece p = pieces[i];
            const char *name = arena_printf(arena, p.extended ? "%.*s*%u*" : "%.*s*%u", (int)p.name.size,
                                            p.name.data, p.index);

            add_param(out, slice_str(name), p.value);
        }
    }
}

static void parse_params(struct mime_value *out, struct token_reader *r, struct arena *arena)
{
    struct text_buffer text = new_text(arena, (size_t)(r->end - r->at)); /* Of all names and values. */
    struct piece *pieces = arena_alloc(arena, MIME_PARAM_COUNT_MAX * sizeof *pieces);
    uint32_t piece_count = 0;

    while (r->at < r->end && out->param_count + piece_count < MIME_PARAM_COUNT_MAX) {
        struct mime_param param;

        if (*r->at++ != ';') /* Something broken: go on behind the next semicolon. */
            continue;
        if (token_skip_blanks(r) != TOKEN_MORE || !parse_param(r, &text, &param))
            continue;
        if (split_name(param, &pieces[piece_count]))
            piece_count++;
        else
            add_param(out, param.name, param.value);
    }
    add_pieces(out, pieces, piece_count, arena);
}

static bool parse_type(struct mime_value *out, struct token_reader *r, struct arena *arena)
{
    size_t size = (size_t)(r->end - r->at);
    struct text_buffer type = new_text(arena, size), subtype = new_text(arena, size);

    if (token_mime(r, &type) != TOKEN_MORE || type.size == 0 || *r->at != '/')
        return false;
    r->at++;
    if (token_skip_blanks(r) != TOKEN_MORE || token_mime(r, &subtype) == TOKEN_BAD || subtype.size == 0)
        return false;
    if (r->at < r->end && *r->at != ';')
        return false;
    out->type = text_slice(&type);
    out->subtype = text_slice(&subtype);
    return true;
}

bool mime_type_parse(struct mime_value *out, struct slice value, struct arena *arena)
{
    struct token_reader r = {.at = value.data, .end = value.data + value.size};

    out->type = out->subtype = (struct slice){0};
    out->param_count = 0;
    if (value.size == 0 || token_skip_blanks(&r) != TOKEN_MORE || !parse_type(out, &r, arena))
        return false;
    parse_params(out, &r, arena);
    return true;
}

bool mime_disposition_parse(struct mime_value *out, struct slice value, struct arena *arena)
{
    struct token_reader r = {.at = value.data, .end = value.data + value.size};
    struct text_buffer type = new_text(arena, value.size);

    out->type = out->subtype = (struct slice){0};
    out->param_count = 0;
    if (value.size == 0 || token_skip_blanks(&r) == TOKEN_BAD || token_mime(&r, &type) == TOKEN_BAD)
        return false;
    out->type = text_slice(&type);
    parse_params(out, &r, arena);
    return true;
}

const struct mime_param *mime_param_find(const struct mime_value *v, struct slice name)
{
    for (uint32_t i = 0; i < v->param_count; i++)
        if (slice_eq_nocase(v->params[i].name, name))
            return &v->params[i];
    return NULL;
}
