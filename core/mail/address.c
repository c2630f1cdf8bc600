#include "core/mail/address.h"
#include "core/mail/mutf7.h"

/* What the list expects next. */
enum {
    AT_ADDRESS,
    AT_MEMBER,    /* Of a group. */
    AT_GROUP_END, /* The group is empty, or it just ended. */
    AT_END,
};

void address_parser_init(struct address_parser *p, struct slice value, char *scratch)
{
    *p = (struct address_parser){
        .reader = {.at = value.data, .end = value.data + value.size, .comment = &p->comment},
        .text = {scratch, 0, value.size},
        .comment = {scratch + value.size, 0, value.size},
    };
    if (value.size == 0 || token_skip_blanks(&p->reader) != TOKEN_MORE)
        p->state = AT_END;
}

/* Texts of one address lie one behind the other in p->text. */
static struct slice text_since(const struct address_parser *p, size_t start)
{
    return slice_of(p->text.data + start, p->text.size - start);
}

/* Words with single blanks between. */
static enum token_result parse_phrase(struct address_parser *p)
{
    struct token_reader *r = &p->reader;

    if (token_peek(r) == '.')
        return TOKEN_BAD;
    for (;;) {
        enum token_result result =
            token_peek(r) == '"' ? token_quoted(r, &p->text) : token_dotted(r, &p->text);

        if (result != TOKEN_MORE || !(token_is_atext(*r->at) || *r->at == '"' || *r->at == '.'))
            return result;
        text_char(&p->text, ' ');
    }
}

/* A quoted string, or atoms with any number of dots anywhere: Japanese mobile phones had `a..b.@`. */
static enum token_result parse_local(struct address_parser *p)
{
    struct token_reader *r = &p->reader;
    enum token_result result = TOKEN_BAD;

    if (token_peek(r) == '"')
        return token_quoted(r, &p->text);
    do {
        for (; token_peek(r) == '.'; result = TOKEN_MORE) {
            text_char(&p->text, '.');
            if (++r->at == r->end)
                return TOKEN_END;
        }
        if (token_peek(r) == '@')
            return result;
        result = token_atom(r, &p->text);
    } while (result == TOKEN_MORE && *r->at == '.');
    return result;
}

/* *r->at is '@'. */
static enum token_result parse_domain(struct address_parser *p)
{
    struct token_reader *r = &p->reader;

    r->at++;
    if (token_skip_blanks(r) != TOKEN_MORE)
        return TOKEN_BAD;
    return *r->at == '[' ? token_domain_literal(r, &p->text) : token_dot_atom(r, &p->text);
}

/* `@a,@b:`; its text goes nowhere. What is broken here shows in what follows. */
static void skip_route(struct address_parser *p)
{
    struct token_reader *r = &p->reader;
    size_t start = p->text.size;

    while (token_peek(r) == '@') {
        enum token_result result = parse_domain(p);

        p->text.size = start;
        if (result != TOKEN_MORE)
            break;
        while (token_peek(r) == ',') {
            r->at++;
            (void)token_skip_blanks(r);
        }
    }
    if (token_peek(r) == ':')
        r->at++;
}

static bool parse_local_and_domain(struct address_parser *p, struct address *a)
{
    struct token_reader *r = &p->reader;
    size_t start = p->text.size;
    enum token_result result = parse_local(p);

    if (result != TOKEN_BAD)
        a->mailbox = text_since(p, start);
    if (result != TOKEN_MORE)
        return false;
    if (*r->at != '@')
        return true;
    start = p->text.size;
    result = parse_domain(p);
    if (result != TOKEN_BAD)
        a->host = text_since(p, start);
    return result == TOKEN_MORE;
}

/* *r->at is '<'. */
static bool parse_angle(struct address_parser *p, struct address *a)
{
    struct token_reader *r = &p->reader;

    r->at++;
    if (token_skip_blanks(r) != TOKEN_MORE)
        return false;
    if (*r->at == '@') {
        skip_route(p);
        if (token_skip_blanks(r) != TOKEN_MORE)
            return false;
    }
    if (*r->at != '>' && !parse_local_and_domain(p, a))
        return false;
    if (token_peek(r) != '>')
        return false;
    r->at++;
    return token_skip_blanks(r) != TOKEN_BAD;
}

/* Neither `:` nor `<` follows the words: a bare address, its name perhaps in a comment, or words alone. */
static void parse_addr_spec(struct address_parser *p, struct address *a)
{
    struct token_reader *r = &p->reader;
    bool quoted = token_peek(r) == '"', at_seen = false;
    size_t words_end, start;
    enum token_result result;

    p->comment.size = 0;
    p->text.size = 0;
    result = parse_local(p);
    if (result != TOKEN_BAD)
        a->mailbox = text_since(p, 0);
    words_end = p->text.size;
    if (token_peek(r) == '@') {
        at_seen = true;
        start = p->text.size;
        if (parse_domain(p) != TOKEN_BAD)
            a->host = text_since(p, start);
    }
    if (p->comment.size > 0) {
        a->name = text_slice(&p->comment);
        return;
    }
    if (at_seen)
        return;
    /* One word alone is a mailbox; more, or a quoted one, is a name. */
    text_char(&p->text, ' ');
    start = p->text.size;
    (void)parse_phrase(p);
    if (p->text.size > start) {
        a->mailbox = (struct slice){0};
        a->name = text_since(p, 0);
    } else if (quoted && a->mailbox.data != NULL) {
        a->mailbox = (struct slice){0};
        a->name = slice_first(text_since(p, 0), words_end);
    }
}

static void parse_mailbox(struct address_parser *p, struct address *a)
{
    const char *start = p->reader.at;

    *a = (struct address){0};
    p->text.size = 0;
    if (parse_phrase(p) == TOKEN_MORE && *p->reader.at == '<') {
        if (p->text.size > 0)
            a->name = text_slice(&p->text);
        if (!parse_angle(p, a))
            a->host = SLICE(ADDRESS_SYNTAX_ERROR);
    } else {
        p->reader.at = start;
        parse_addr_spec(p, a);
    }
    if (a->mailbox.data == NULL)
        a->mailbox = SLICE(ADDRESS_MISSING_MAILBOX);
    if (a->host.size == 0)
        a->host = SLICE(ADDRESS_MISSING_HOST);
}

/* `name:`; otherwise the reader is where it was. */
static bool parse_group_name(struct address_parser *p, struct address *a)
{
    const char *start = p->reader.at;

    p->text.size = 0;
    if (parse_phrase(p) != TOKEN_MORE || *p->reader.at != ':') {
        p->reader.at = start;
        return false;
    }
    p->reader.at++;
    *a = (struct address){.mailbox = text_slice(&p->text)};
    return true;
}

/* Behind an address. */
static bool take_comma(struct address_parser *p)
{
    if (token_peek(&p->reader) != ',')
        return false;
    p->reader.at++;
    return token_skip_blanks(&p->reader) == TOKEN_MORE;
}

static void end_group(struct address_parser *p)
{
    bool more = true;

    if (token_peek(&p->reader) == ';') {
        p->reader.at++;
        more = token_skip_blanks(&p->reader) == TOKEN_MORE;
    }
    p->state = more && take_comma(p) ? AT_ADDRESS : AT_END;
}

bool address_next(struct address_parser *p, struct address *address_out)
{
    switch (p->state) {
    case AT_ADDRESS:
        if (parse_group_name(p, address_out)) {
            bool member = token_skip_blanks(&p->reader) == TOKEN_MORE && *p->reader.at != ';';

            p->state = member ? AT_MEMBER : AT_GROUP_END;
            return true;
        }
        parse_mailbox(p, address_out);
        p->state = take_comma(p) ? AT_ADDRESS : AT_END;
        return true;
    case AT_MEMBER:
        parse_mailbox(p, address_out);
        p->state = take_comma(p) ? AT_MEMBER : AT_GROUP_END;
        return true;
    case AT_GROUP_END:
        *address_out = (struct address){0};
        end_group(p);
        return true;
    default:
        return false;
    }
}

static bool local_put(struct path *path, char c)
{
    if (path->local_size == PATH_LOCAL_SIZE_MAX || (unsigned char)c < ' ' || c == 0x7f)
        return false;
    path->local[path->local_size++] = c;
    return true;
}

/* `Local-part` of RFC 5321: *text moves to what follows. */
static bool take_local(struct slice *text, struct path *path)
{
    bool quoted = text->size > 0 && text->data[0] == '"', dot = true;
    size_t at = quoted ? 1 : 0;

    for (; at < text->size; at++) {
        char c = text->data[at];

        if (quoted ? c == '"' : !(c == '.' || token_is_atext(c)))
            break;
        if (!quoted && c == '.' && dot)
            return false;
        dot = c == '.';
        if (quoted && c == '\\' && ++at < text->size)
            c = text->data[at];
        if (at == text->size || !local_put(path, c))
            return false;
    }
    if (at == text->size || (!quoted && dot)) /* Something follows; no dot at either end. */
        return false;
    *text = slice_from(*text, quoted ? at + 1 : at);
    return path->local_size > 0 && utf8_valid(slice_of(path->local, path->local_size));
}

static bool is_domain_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || (c & 0x80) != 0;
}

/* `Domain` or `address-literal`. */
static bool take_domain(struct slice *text, struct slice *domain_out)
{
    bool literal = text->size > 0 && text->data[0] == '[', dot = true;
    size_t at = 0;

    if (literal) {
        at = slice_find(*text, ']');
        for (size_t i = 1; i < at; i++)
            if (text->data[i] <= ' ' || text->data[i] >= 0x7f || text->data[i] == '[' ||
                text->data[i] == '\\')
                return false;
        if (at == text->size || at < 2)
            return false;
        at++;
    } else {
        for (; at < text->size && (text->data[at] == '.' || is_domain_character(text->data[at])); at++) {
            if (text->data[at] == '.' && dot)
                return false;
            dot = text->data[at] == '.';
        }
        if (dot)
            return false;
    }
    if (at > PATH_DOMAIN_SIZE_MAX || !utf8_valid(slice_first(*text, at)))
        return false;
    *domain_out = slice_first(*text, at);
    *text = slice_from(*text, at);
    return true;
}

static bool take_char(struct slice *text, char c)
{
    if (text->size == 0 || text->data[0] != c)
        return false;
    *text = slice_from(*text, 1);
    return true;
}

/* `@a,@b:`, to be ignored (RFC 5321 4.1.1.3). */
static bool take_source_route(struct slice *text)
{
    struct slice ignored;

    if (text->size == 0 || text->data[0] != '@')
        return true;
    do {
        if (!take_char(text, '@') || !take_domain(text, &ignored))
            return false;
    } while (take_char(text, ','));
    return take_char(text, ':');
}

bool path_parse(struct slice *text, struct path *path_out)
{
    struct slice rest = *text;
    struct path path = {.domain = SLICE("")};

    if (!take_char(&rest, '<'))
        return false;
    if (!take_char(&rest, '>')) {
        if (!take_source_route(&rest) || !take_local(&rest, &path))
            return false;
        if (take_char(&rest, '@')) {
            if (!take_domain(&rest, &path.domain))
                return false;
        } else if (!slice_eq_nocase(slice_of(path.local, path.local_size), SLICE("postmaster"))) {
            return false;
        }
        if (!take_char(&rest, '>'))
            return false;
    }
    *path_out = path;
    *text = rest;
    return true;
}
