/* net/imap/lexer.h -- the words of IMAP's grammar, read from one framed command (RFC 3501, 9). Private to
 * net/imap.
 * Owner:  one imap_parse(), on its stack.
 * Memory: slices point into the command, or into the arena where a quoted string had escapes.
 * Errors: each function is true when it read what its name says; else the first one to fail has written the
 *         error, and the position is of no more use. */
#pragma once
#include "net/imap/grammar.h"

struct lexer {
    struct arena *arena;
    const char *start, *at, *end;
    bool utf8;
    uint32_t literal_count;
    struct imap_parse_error *error;
};

void lexer_init(struct lexer *lx, struct arena *arena, struct slice text, bool utf8,
                struct imap_parse_error *error);
/* Writes the error; false. */
bool lexer_bad(struct lexer *lx, const char *text);
bool lexer_no(struct lexer *lx, const char *code, const char *text);

/* The next byte; 0 at the end of the line, and nowhere else. */
static inline char lexer_peek(const struct lexer *lx)
{
    return lx->at == lx->end || *lx->at == '\r' || *lx->at == '\n' ? '\0' : *lx->at;
}

/* Takes `c` if it is the next byte. No error. */
static inline bool lexer_try(struct lexer *lx, char c)
{
    if (lexer_peek(lx) != c || c == '\0')
        return false;
    lx->at++;
    return true;
}

MUST_CHECK bool lexer_char(struct lexer *lx, char c);
/* One blank, or several, as others tolerate. */
MUST_CHECK bool lexer_space(struct lexer *lx);
/* A blank in front of something more; false, without an error, at the end of the line: blanks there are
 * skipped. */
bool lexer_more(struct lexer *lx);
/* CRLF or LF, and nothing behind it. */
MUST_CHECK bool lexer_line_end(struct lexer *lx);

MUST_CHECK bool lexer_tag(struct lexer *lx, struct slice *tag_out);
MUST_CHECK bool lexer_atom(struct lexer *lx, struct slice *atom_out);
/* Letters, digits, '.', '-', '=': names of items, without the '[' or '(' that may touch them. May be empty. */
struct slice lexer_name(struct lexer *lx);
MUST_CHECK bool lexer_string(struct lexer *lx, struct slice *string_out);
/* NIL: true, and string_out->data is NULL. */
MUST_CHECK bool lexer_nstring(struct lexer *lx, struct slice *string_out);
MUST_CHECK bool lexer_astring(struct lexer *lx, struct slice *string_out);
/* Decimal, <= max. */
MUST_CHECK bool lexer_number(struct lexer *lx, uint64_t max, uint64_t *number_out);
MUST_CHECK bool lexer_number32(struct lexer *lx, uint32_t *number_out);
/* mod-sequence-valzer (RFC 7162): 63 bits. */
MUST_CHECK bool lexer_modseq(struct lexer *lx, uint64_t *modseq_out);
/* sequence-set, or `$`. */
MUST_CHECK bool lexer_set(struct lexer *lx, struct imap_set *set_out);
/* A mailbox name, UTF-8. */
MUST_CHECK bool lexer_mailbox(struct lexer *lx, struct slice *name_out);
/* list-mailbox: with wildcards. */
MUST_CHECK bool lexer_pattern(struct lexer *lx, struct slice *pattern_out);
/* `(flags)`, or without parentheses the flags up to the end of the line. */
MUST_CHECK bool lexer_flags(struct lexer *lx, bool parentheses, struct imap_flags *flags_out);
/* The header of an appended literal, up to the end of the text. */
MUST_CHECK bool lexer_append_header(struct lexer *lx, struct imap_append_message *message);

/* A growing array in an arena: `items` with room for one more. Old versions stay in the arena: twice the size
 * at most. */
void *lexer_grow(struct lexer *lx, void *items, uint32_t count, size_t item_size);
