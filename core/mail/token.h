/* core/mail/token.h -- the lexical pieces that header fields are made of (RFC 5322 3.2, RFC 2045 5.1): blanks
 * and nested comments, atoms, quoted strings. Tolerant: 8-bit bytes are letters, folded and unfolded text are
 * alike.
 * Owner:  the parser of one field value; embedded.
 * Bounds: linear, no recursion; an unclosed comment or quote ends at the end of the value. */
#pragma once
#include "core/base.h"

/* How a token ended. */
enum token_result {
    TOKEN_BAD = -1, /* Not there, or unclosed. */
    TOKEN_END = 0,  /* Read, and the value ends here. */
    TOKEN_MORE = 1, /* Read, and there is more at `at`. */
};

#define NUL_STAND_IN '\x80' /* An IMAP string can't hold NUL. */

/* Decoded text into memory of the caller; what does not fit is cut off. A decoded token is never longer than
 * its source, so `capacity` = size of the value is always enough. */
struct text_buffer {
    char *data;
    size_t size, capacity;
};

struct token_reader {
    const char *at, *end;
    struct text_buffer *comment; /* NULL, or where the text of the last comment goes. */
};

void text_put(struct text_buffer *b, const char *data, size_t size);
static inline void text_char(struct text_buffer *b, char c)
{
    text_put(b, &c, 1);
}
static inline struct slice text_slice(const struct text_buffer *b)
{
    return slice_of(b->data, b->size);
}

/* `atext` of RFC 5322 and 8-bit bytes. */
bool token_is_atext(char c);
/* The byte at r->at, or 0 at the end. NUL is in no grammar here, so the two need not be told apart. */
static inline char token_peek(const struct token_reader *r)
{
    return r->at < r->end ? *r->at : '\0';
}

/* Blanks, line ends and comments. TOKEN_BAD: an unclosed comment; the reader is at the end. */
enum token_result token_skip_blanks(struct token_reader *r);
/* The others skip the blanks behind them. Text is appended to `out`. */
enum token_result token_atom(struct token_reader *r, struct text_buffer *out);
/* Atom characters and dots; may be empty. */
enum token_result token_dotted(struct token_reader *r, struct text_buffer *out);
/* Atoms with single dots between, blanks around the dots. */
enum token_result token_dot_atom(struct token_reader *r, struct text_buffer *out);
/* MIME `token`; may be empty. */
enum token_result token_mime(struct token_reader *r, struct text_buffer *out);
/* *r->at is '"'. Without quotes and backslashes; NUL becomes 0x80. */
enum token_result token_quoted(struct token_reader *r, struct text_buffer *out);
/* *r->at is '['. Brackets and backslashes are kept. */
enum token_result token_domain_literal(struct token_reader *r, struct text_buffer *out);
