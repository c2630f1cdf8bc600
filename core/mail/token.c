#include "core/mail/token.h"
#include "core/text.h"

void text_put(struct text_buffer *b, const char *data, size_t size)
{
    size = MIN(size, b->capacity - b->size);
    if (size > 0)
        memcpy(b->data + b->size, data, size);
    b->size += size;
}

static bool is_alnum_or_8bit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c & 0x80) != 0;
}

bool token_is_atext(char c)
{
    return is_alnum_or_8bit(c) || (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL);
}

static bool is_mime_token(char c)
{
    return is_alnum_or_8bit(c) || (c != '\0' && strchr("!#$%&'*+-^_`{|}~.", c) != NULL);
}

static enum token_result more(const struct token_reader *r)
{
    return r->at < r->end ? TOKEN_MORE : TOKEN_END;
}

/* What follows a backslash, or the byte itself: r->at moves over both. */
static char take_escaped(struct token_reader *r, bool *escaped)
{
    char c = *r->at++;

    *escaped = false;
    if (c == '\\' && r->at < r->end && *r->at != '\r' && *r->at != '\n' && *r->at != '\0') {
        c = *r->at++;
        *escaped = true;
    }
    return c;
}

static bool skip_comment(struct token_reader *r)
{
    size_t level = 0;

    if (r->comment != NULL)
        r->comment->size = 0;
    while (r->at < r->end) {
        bool escaped;
        char c = take_escaped(r, &escaped);

        if (!escaped && c == '(') {
            if (level++ == 0)
                continue; /* The outermost parenthesis is not text. */
        } else if (!escaped && c == ')') {
            if (--level == 0)
                return true;
        }
        if (r->comment != NULL && (escaped || (c != '\r' && c != '\n')))
            text_char(r->comment, c == '\0' ? NUL_STAND_IN : c);
    }
    if (r->comment != NULL)
        r->comment->size = 0;
    return false;
}

enum token_result token_skip_blanks(struct token_reader *r)
{
    while (r->at < r->end) {
        if (char_is_space(*r->at))
            r->at++;
        else if (*r->at != '(')
            return TOKEN_MORE;
        else if (!skip_comment(r))
            return TOKEN_BAD;
    }
    return TOKEN_END;
}

enum token_result token_atom(struct token_reader *r, struct text_buffer *out)
{
    const char *start = r->at;

    while (r->at < r->end && token_is_atext(*r->at))
        r->at++;
    if (r->at == start)
        return TOKEN_BAD;
    text_put(out, start, (size_t)(r->at - start));
    return token_skip_blanks(r);
}

enum token_result token_dotted(struct token_reader *r, struct text_buffer *out)
{
    const char *start = r->at;

    while (r->at < r->end && (*r->at == '.' || token_is_atext(*r->at)))
        r->at++;
    text_put(out, start, (size_t)(r->at - start));
    return token_skip_blanks(r);
}

enum token_result token_dot_atom(struct token_reader *r, struct text_buffer *out)
{
    for (;;) {
        enum token_result result = token_atom(r, out);

        if (result != TOKEN_MORE || *r->at != '.')
            return result;
        text_char(out, '.');
        r->at++;
        if (token_skip_blanks(r) != TOKEN_MORE)
            return TOKEN_BAD;
    }
}

enum token_result token_mime(struct token_reader *r, struct text_buffer *out)
{
    const char *start = r->at;

    while (r->at < r->end && is_mime_token(*r->at))
        r->at++;
    text_put(out, start, (size_t)(r->at - start));
    return more(r) == TOKEN_END ? TOKEN_END : token_skip_blanks(r);
}

enum token_result token_quoted(struct token_reader *r, struct text_buffer *out)
{
    size_t start = out->size;

    ASSERT(token_peek(r) == '"');
    r->at++;
    while (r->at < r->end) {
        bool escaped;
        char c = take_escaped(r, &escaped);

        if (!escaped && c == '"')
            return token_skip_blanks(r);
        if (escaped || (c != '\r' && c != '\n'))
            text_char(out, c == '\0' ? NUL_STAND_IN : c);
    }
    out->size = start; /* What an unclosed quote swallowed is nobody's name. */
    return TOKEN_BAD;
}

enum token_result token_domain_literal(struct token_reader *r, struct text_buffer *out)
{
    ASSERT(token_peek(r) == '[');
    r->at++;
    text_char(out, '[');
    while (r->at < r->end) {
        bool escaped;
        char c = take_escaped(r, &escaped);

        if (escaped)
            text_char(out, '\\');
        else if (c == '[')
            return TOKEN_BAD;
        if (escaped || (c != '\r' && c != '\n'))
            text_char(out, c == '\0' ? NUL_STAND_IN : c);
        if (!escaped && c == ']')
            return token_skip_blanks(r);
    }
    return TOKEN_BAD;
}
