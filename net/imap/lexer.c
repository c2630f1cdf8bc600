#include "net/imap/lexer.h"
#include "net/imap/chars.h"
#include "net/imap/framer.h"

#define MODSEQ_MAX (UINT64_MAX >> 1)

void lexer_init(struct lexer *lx, struct arena *arena, struct slice text, bool utf8,
                struct imap_parse_error *error)
{
    *lx = (struct lexer){.arena = arena, .utf8 = utf8, .error = error};
    lx->start = lx->at = text.data;
    lx->end = text.size > 0 ? text.data + text.size : text.data;
    *error = (struct imap_parse_error){0};
}

static bool fail(struct lexer *lx, bool no, const char *code, const char *text)
{
    if (lx->error->text == NULL)
        *lx->error = (struct imap_parse_error){
            .no = no, .code = code, .text = text, .offset = (uint32_t)(lx->at - lx->start)};
    return false;
}

bool lexer_bad(struct lexer *lx, const char *text)
{
    return fail(lx, false, NULL, text);
}

bool lexer_no(struct lexer *lx, const char *code, const char *text)
{
    return fail(lx, true, code, text);
}

bool lexer_char(struct lexer *lx, char c)
{
    if (lexer_try(lx, c))
        return true;
    switch (c) {
    case '(':
        return lexer_bad(lx, "'(' expected");
    case ')':
        return lexer_bad(lx, "')' expected");
    default:
        return lexer_bad(lx, "Invalid arguments");
    }
}

bool lexer_space(struct lexer *lx)
{
    if (lexer_peek(lx) == '\0')
        return lexer_bad(lx, "Missing arguments");
    if (*lx->at != ' ')
        return lexer_bad(lx, "Invalid arguments");
    while (lexer_try(lx, ' '))
        ;
    return true;
}

bool lexer_more(struct lexer *lx)
{
    const char *before = lx->at;

    while (lexer_try(lx, ' '))
        ;
    return lx->at > before && lexer_peek(lx) != '\0' && lexer_peek(lx) != ')';
}

bool lexer_line_end(struct lexer *lx)
{
    size_t left;

    while (lexer_try(lx, ' '))
        ;
    left = (size_t)(lx->end - lx->at);
    if ((left == 2 && lx->at[0] == '\r' && lx->at[1] == '\n') || (left == 1 && lx->at[0] == '\n')) {
        lx->at = lx->end;
        return true;
    }
    return lexer_bad(lx, lexer_peek(lx) != '\0' ? "Too many arguments" : "Line end expected");
}

static struct slice run(struct lexer *lx, uint8_t class)
{
    const char *first = lx->at;

    while (lx->at < lx->end && imap_char_classes[(unsigned char)*lx->at] & class)
        lx->at++;
    return slice_of(first, (size_t)(lx->at - first));
}

/* A run of `class` that must not be empty. */
static bool word(struct lexer *lx, uint8_t class, const char *what, struct slice *word_out)
{
    struct slice s = run(lx, class);

    if (lexer_peek(lx) & 0x80)
        return lexer_bad(lx, "8-bit data in atom");
    if (s.size == 0)
        return lexer_bad(lx, lexer_peek(lx) == '\0' ? "Missing arguments" : what);
    *word_out = s;
    return true;
}

bool lexer_tag(struct lexer *lx, struct slice *tag_out)
{
    return word(lx, IMAP_CHAR_TAG, "Invalid tag", tag_out);
}

bool lexer_atom(struct lexer *lx, struct slice *atom_out)
{
    return word(lx, IMAP_CHAR_ATOM, "Atom expected", atom_out);
}

struct slice lexer_name(struct lexer *lx)
{
    const char *first = lx->at;

    for (; lx->at < lx->end; lx->at++) {
        char c = *lx->at;

        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
              c == '-'))
            break;
    }
    return slice_of(first, (size_t)(lx->at - first));
}

/* Copies without the backslashes. `size` bytes at `first`, no backslash at their end. */
static struct slice unescape(struct lexer *lx, const char *first, size_t size)
{
    char *copy = arena_alloc(lx->arena, size);
    size_t used = 0;

    for (size_t i = 0; i < size; i++) {
        if (first[i] == '\\')
            i++;
        copy[used++] = first[i];
    }
    return slice_of(copy, used);
}

/* Behind the '"'. Any character may be escaped, as Dovecot has it; 8-bit bytes are passed on. */
static bool quoted(struct lexer *lx, struct slice *string_out)
{
    const char *first = lx->at;
    bool escapes = false;

    for (; lexer_peek(lx) != '"'; lx->at++) {
        if (lexer_peek(lx) == '\\') {
            escapes = true;
            lx->at++;
        }
        if (lexer_peek(lx) == '\0')
            return lexer_bad(lx, "Quoted string without end");
    }
    *string_out = slice_of(first, (size_t)(lx->at - first));
    if (escapes)
        *string_out = unescape(lx, first, string_out->size);
    lx->at++;
    return true;
}

static bool literal(struct lexer *lx, struct slice *string_out)
{
    size_t left = (size_t)(lx->end - lx->at), header;
    struct slice string;
    uint64_t size;
    bool sync;

    header = imap_literal_header(slice_of(lx->at, left), &size, &sync);
    if (header == 0 || size > left - header)
        return lexer_bad(lx, "Invalid literal");
    string = slice_of(lx->at + header, (size_t)size);
    if (slice_find(string, '\0') < string.size)
        return lexer_bad(lx, "NUL in literal");
    lx->at = string.data + string.size;
    lx->literal_count++;
    *string_out = string;
    return true;
}

bool lexer_string(struct lexer *lx, struct slice *string_out)
{
    if (lexer_peek(lx) == '{')
        return literal(lx, string_out);
    if (lexer_try(lx, '"'))
        return quoted(lx, string_out);
    return lexer_bad(lx, lexer_peek(lx) == '\0' ? "Missing arguments" : "String expected");
}

bool lexer_nstring(struct lexer *lx, struct slice *string_out)
{
    struct slice atom;

    if (lexer_peek(lx) == '{' || lexer_peek(lx) == '"')
        return lexer_string(lx, string_out);
    if (!lexer_atom(lx, &atom))
        return false;
    if (!slice_eq_nocase(atom, SLICE("NIL")))
        return lexer_bad(lx, "String or NIL expected");
    *string_out = slice_of(NULL, 0);
    return true;
}

bool lexer_astring(struct lexer *lx, struct slice *string_out)
{
    if (lexer_peek(lx) == '{' || lexer_peek(lx) == '"')
        return lexer_string(lx, string_out);
    return word(lx, IMAP_CHAR_ASTRING, "String expected", string_out);
}

bool lexer_number(struct lexer *lx, uint64_t max, uint64_t *number_out)
{
    const char *first = lx->at;

    while (lexer_peek(lx) >= '0' && lexer_peek(lx) <= '9')
        lx->at++;
    if (!slice_to_u64(slice_of(first, (size_t)(lx->at - first)), max, number_out)) {
        lx->at = first;
        return lexer_bad(lx, "Invalid number");
    }
    return true;
}

bool lexer_number32(struct lexer *lx, uint32_t *number_out)
{
    uint64_t number;

    if (!lexer_number(lx, UINT32_MAX, &number))
        return false;
    *number_out = (uint32_t)number;
    return true;
}

bool lexer_modseq(struct lexer *lx, uint64_t *modseq_out)
{
    return lexer_number(lx, MODSEQ_MAX, modseq_out);
}

bool lexer_set(struct lexer *lx, struct imap_set *set_out)
{
    const char *first = lx->at;

    *set_out = (struct imap_set){0};
    if (lexer_try(lx, '$')) {
        set_out->saved = true;
        return true;
    }
    for (; lx->at < lx->end; lx->at++) {
        char c = *lx->at;

        if (!((c >= '0' && c <= '9') || c == ':' || c == ',' || c == '*'))
            break;
    }
    set_out->text = slice_of(first, (size_t)(lx->at - first));
    return uid_set_syntax_valid(set_out->text) || lexer_bad(lx, "Invalid message set");
}

/* `name` as the client wrote it -> UTF-8. */
static bool decode_mailbox(struct lexer *lx, struct slice name, struct slice *name_out)
{
    size_t size = name.size;
    char *copy;

    if (size > MUTF7_FROM_UTF8_SIZE_MAX(MAILBOX_NAME_SIZE_MAX))
        return lexer_no(lx, "CANNOT", "Mailbox name is too long");
    copy = arena_alloc(lx->arena, MUTF7_TO_UTF8_SIZE_MAX(size));
    if (lx->utf8) {
        if (!utf8_valid(name))
            return lexer_no(lx, "CANNOT", "Mailbox name is not valid UTF-8");
        if (size > 0)
            memcpy(copy, name.data, size);
    } else if (!mutf7_to_utf8(name, copy, &size)) {
        return lexer_no(lx, "CANNOT", "Mailbox name is not valid modified UTF-7");
    }
    if (size > MAILBOX_NAME_SIZE_MAX)
        return lexer_no(lx, "CANNOT", "Mailbox name is too long");
    mailbox_name_inbox_upper(copy, size);
    *name_out = slice_of(copy, size);
    return true;
}

bool lexer_mailbox(struct lexer *lx, struct slice *name_out)
{
    struct slice name;

    return lexer_astring(lx, &name) && decode_mailbox(lx, name, name_out);
}

bool lexer_pattern(struct lexer *lx, struct slice *pattern_out)
{
    struct slice pattern;

    if (lexer_peek(lx) == '{' || lexer_peek(lx) == '"') {
        if (!lexer_string(lx, &pattern))
            return false;
    } else if (!word(lx, IMAP_CHAR_LIST, "Mailbox pattern expected", &pattern)) {
        return false;
    }
    return decode_mailbox(lx, pattern, pattern_out);
}

void *lexer_grow(struct lexer *lx, void *items, uint32_t count, size_t item_size)
{
    void *grown;

    if (count > 0 && (count < 4 || (count & (count - 1)) != 0))
        return items;
    grown = arena_alloc(lx->arena, (count == 0 ? 4 : 2 * (size_t)count) * item_size);
    if (count > 0)
        memcpy(grown, items, count * item_size);
    return grown;
}

static bool add_keyword(struct lexer *lx, struct imap_flags *flags, struct slice keyword)
{
    if (!mail_keyword_valid(keyword))
        return lexer_bad(lx, "Invalid keyword");
    for (uint32_t i = 0; i < flags->keyword_count; i++)
        if (slice_eq_nocase(flags->keywords[i], keyword))
            return true;
    if (flags->keyword_count == IMAP_KEYWORDS_MAX)
        return lexer_no(lx, "LIMIT", "Too many keywords");
    flags->keywords = lexer_grow(lx, flags->keywords, flags->keyword_count, sizeof *flags->keywords);
    flags->keywords[flags->keyword_count++] = keyword;
    return true;
}

static bool flag(struct lexer *lx, struct imap_flags *flags)
{
    const char *first = lx->at;
    struct slice name;
    uint32_t bit;

    if (!lexer_try(lx, '\\'))
        return lexer_atom(lx, &name) && add_keyword(lx, flags, name);
    if (!lexer_atom(lx, &name))
        return false;
    bit = mail_flag_find(slice_of(first, (size_t)(lx->at - first)));
    if ((bit & MAIL_FLAGS_STORABLE) == 0)
        return lexer_bad(lx, "Invalid system flag");
    flags->system |= bit;
    return true;
}

bool lexer_flags(struct lexer *lx, bool parentheses, struct imap_flags *flags_out)
{
    *flags_out = (struct imap_flags){0};
    if (parentheses && lexer_try(lx, ')'))
        return true;
    for (;;) {
        if (!flag(lx, flags_out))
            return false;
        if (!lexer_more(lx))
            return !parentheses || lexer_char(lx, ')');
    }
}

bool lexer_append_header(struct lexer *lx, struct imap_append_message *message)
{
    size_t header;

    message->binary = lexer_try(lx, '~');
    header =
        imap_literal_header(slice_of(lx->at, (size_t)(lx->end - lx->at)), &message->size, &message->sync);
    if (header == 0)
        return lexer_bad(lx, "Message literal expected");
    lx->at += header;
    return lx->at == lx->end || lexer_bad(lx, "Message literal expected");
}
