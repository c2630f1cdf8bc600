#include "roles/backend/text_match.h"
#include "core/mail/mutf7.h"

#define NO_CHARACTER                                                                                         \
    0xfffdu /* Stands for bytes that mean nothing: matches nothing that a client can ask for. */

/* ---- Folding ------------------------------------------------------------------------------------------- */

static uint32_t fold(uint32_t c)
{
    if (c < 0x80)
        return c >= 'A' && c <= 'Z' ? c + 32 : c;
    if ((c >= 0xc0 && c <= 0xde && c != 0xd7) || (c >= 0x391 && c <= 0x3a9) || (c >= 0x410 && c <= 0x42f))
        return c + 32;
    if (c >= 0x400 && c <= 0x40f)
        return c + 80;
    if ((c >= 0x100 && c <= 0x137) || (c >= 0x14a && c <= 0x177) || (c >= 0x460 && c <= 0x481) ||
        (c >= 0x48a && c <= 0x4bf) || (c >= 0x1e00 && c <= 0x1eff))
        return c | 1; /* Pairs, the capital even. */
    if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17e))
        return c + (c & 1); /* Pairs, the capital odd. */
    return c == 0x178 ? 0xff : c;
}

/* ---- The matcher --------------------------------------------------------------------------------------- */

void text_pattern_init(struct text_pattern *p, struct arena *a, struct slice text)
{
    uint8_t *bytes = arena_alloc(a, text.size * 4 + 4);
    uint32_t *next, size = 0, border = 0, code;

    for (size_t at = 0, step; at < text.size; at += step) {
        step = utf8_decode(slice_from(text, at), &code);
        if (step == 0) {
            code = NO_CHARACTER - 1;
            step = 1;
        }
        size += (uint32_t)utf8_encode(fold(code), (char *)bytes + size);
    }
    next = arena_alloc(a, ((size_t)size + 1) * sizeof *next);
    next[0] = 0;
    for (uint32_t i = 1; i < size; i++) {
        while (border > 0 && bytes[i] != bytes[border])
            border = next[border - 1];
        border += bytes[i] == bytes[border];
        next[i] = border;
    }
    *p = (struct text_pattern){bytes, next, size};
}

static inline void match_byte(struct text_match *t, uint8_t b)
{
    const struct text_pattern *p = t->pattern;

    while (t->matched > 0 && (t->matched == p->size || p->bytes[t->matched] != b))
        t->matched = p->next[t->matched - 1];
    if (t->matched < p->size && p->bytes[t->matched] == b)
        t->matched++;
    if (t->matched == p->size)
        t->found = true;
}

static void match_code(struct text_match *t, uint32_t code)
{
    char bytes[4];
    size_t size;

    if (code < 0x80) {
        match_byte(t, (uint8_t)fold(code));
        return;
    }
    size = utf8_encode(fold(code), bytes);
    for (size_t i = 0; i < size; i++)
        match_byte(t, (uint8_t)bytes[i]);
}

/* ---- Charsets ------------------------------------------------------------------------------------------ */

enum text_charset text_charset_find(struct slice name)
{
    static const struct {
        struct slice name;
        enum text_charset charset;
    } charsets[] = {
        {{"utf-8", 5}, TEXT_UTF8},          {{"utf8", 4}, TEXT_UTF8},
        {{"us-ascii", 8}, TEXT_UTF8},       {{"", 0}, TEXT_UTF8},
        {{"iso-8859-1", 10}, TEXT_LATIN1},  {{"latin1", 6}, TEXT_LATIN1},
        {{"iso-8859-15", 11}, TEXT_LATIN9}, {{"windows-1252", 12}, TEXT_WINDOWS},
        {{"cp1252", 6}, TEXT_WINDOWS},
    };

    for (unsigned i = 0; i < ARRAY_COUNT(charsets); i++)
        if (slice_eq_nocase(name, charsets[i].name))
            return charsets[i].charset;
    return TEXT_ASCII;
}

static uint32_t windows_code(uint8_t b)
{
    static const uint16_t codes[32] = {
        0x20ac, 0xfffd, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160,
        0x2039, 0x0152, 0xfffd, 0x017d, 0xfffd, 0xfffd, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
        0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0xfffd, 0x017e, 0x0178,
    };

    return b >= 0x80 && b < 0xa0 ? codes[b - 0x80] : b;
}

static uint32_t latin9_code(uint8_t b)
{
    switch (b) {
    case 0xa4:
        return 0x20ac;
    case 0xa6:
        return 0x160;
    case 0xa8:
        return 0x161;
    case 0xb4:
        return 0x17d;
    case 0xb8:
        return 0x17e;
    case 0xbc:
        return 0x152;
    case 0xbd:
        return 0x153;
    case 0xbe:
        return 0x178;
    default:
        return b;
    }
}

/* One byte of a longer UTF-8 sequence; what is malformed becomes NO_CHARACTER. */
static void utf8_byte(struct text_match *t, uint8_t b)
{
    if (t->left > 0 && (b & 0xc0) == 0x80) {
        t->code = t->code << 6 | (b & 0x3f);
        if (--t->left == 0)
            match_code(t, t->code < 0x80 || t->code > 0x10ffff || (t->code >= 0xd800 && t->code < 0xe000)
                              ? NO_CHARACTER
                              : t->code);
        return;
    }
    t->left = b >= 0xf0 ? 3 : b >= 0xe0 ? 2 : 1;
    t->code = b & (0x3fu >> t->left);
    if (b < 0xc2 || b > 0xf4) {
        t->left = 0;
        match_code(t, NO_CHARACTER);
    }
}

static inline void text_byte(struct text_match *t, uint8_t b)
{
    if (LIKELY(b < 0x80)) {
        t->left = 0;
        match_byte(t, (uint8_t)fold(b));
        return;
    }
    switch (t->charset) {
    case TEXT_UTF8:
        utf8_byte(t, b);
        break;
    case TEXT_LATIN1:
        match_code(t, b);
        break;
    case TEXT_LATIN9:
        match_code(t, latin9_code(b));
        break;
    case TEXT_WINDOWS:
        match_code(t, windows_code(b));
        break;
    default:
        match_code(t, NO_CHARACTER);
    }
}

/* ---- Encodings ----------------------------------------------------------------------------------------- */

enum text_encoding text_encoding_find(struct slice name)
{
    if (slice_eq_nocase(name, SLICE("base64")))
        return TEXT_BASE64;
    return slice_eq_nocase(name, SLICE("quoted-printable")) ? TEXT_QUOTED : TEXT_IDENTITY;
}

static int base64_value(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Six bits more; a byte comes out when eight are there. What is not base64 is left out (RFC 2045 6.8). */
static void base64_byte(struct text_match *t, uint8_t c)
{
    int value = base64_value(c);

    if (c == '=') {
        t->held = t->held_count = 0;
        return;
    }
    if (value < 0)
        return;
    t->held = t->held << 6 | (uint32_t)value;
    t->held_count = (uint8_t)(t->held_count + 6);
    if (t->held_count >= 8) {
        t->held_count = (uint8_t)(t->held_count - 8);
        text_byte(t, (uint8_t)(t->held >> t->held_count));
    }
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* `=XX`, and `=` at the end of a line, which joins two. held_count: characters seen of it. */
static void quoted_byte(struct text_match *t, uint8_t c)
{
    int value = hex_value(c);

    switch (t->held_count) {
    case 0:
        if (c == '=')
            t->held_count = 1;
        else
            text_byte(t, c == '_' && t->encoding == TEXT_Q_WORD ? ' ' : c);
        return;
    case 1:
        t->held = (uint32_t)value;
        t->held_count = value >= 0 || c == '\r' || c == ' ' || c == '\t' ? 2 : 0;
        return;
    default:
        if (t->held < 16 || (c != '\r' && c != ' ' && c != '\t'))
            t->held_count = 0;
        if (t->held < 16 && value >= 0)
            text_byte(t, (uint8_t)(t->held << 4 | (uint32_t)value));
        else if (t->held_count == 0 && t->held >= 16 && c != '\n') /* Not the end of a line after all. */
            text_byte(t, c);
    }
}

void text_match_begin(struct text_match *t, const struct text_pattern *p)
{
    *t = (struct text_match){.pattern = p, .found = p->size == 0, .charset = TEXT_UTF8};
}

void text_match_encoding(struct text_match *t, enum text_encoding encoding, enum text_charset charset)
{
    t->encoding = (uint8_t)encoding;
    t->charset = (uint8_t)charset;
    t->held = t->held_count = t->left = 0;
}

void text_match_feed(struct text_match *t, struct slice piece)
{
    const uint8_t *at = (const uint8_t *)piece.data, *end = at + piece.size;

    switch (t->encoding) {
    case TEXT_BASE64:
        while (at < end && !t->found)
            base64_byte(t, *at++);
        break;
    case TEXT_IDENTITY:
        while (at < end && !t->found)
            text_byte(t, *at++);
        break;
    default:
        while (at < end && !t->found)
            quoted_byte(t, *at++);
    }
}

/* ---- Header fields ------------------------------------------------------------------------------------- */

struct encoded_word {
    struct slice charset, text;
    enum text_encoding encoding;
    size_t size; /* All of it. */
};

/* `=?charset*language?B?text?=` at the front of `s`. */
static bool encoded_word_read(struct slice s, struct encoded_word *out)
{
    struct slice rest;
    size_t end;

    if (s.size < 8 || s.data[0] != '=' || s.data[1] != '?')
        return false;
    rest = slice_from(s, 2);
    end = slice_find(rest, '?');
    if (end + 3 > rest.size || rest.data[end + 2] != '?')
        return false;
    out->charset = slice_first(rest, end);
    out->charset.size = slice_find(out->charset, '*');
    out->encoding = (rest.data[end + 1] | 0x20) == 'b' ? TEXT_BASE64 : TEXT_Q_WORD;
    rest = slice_from(rest, end + 3);
    end = slice_find(rest, '?');
    if (end + 2 > rest.size || rest.data[end + 1] != '=')
        return false;
    out->text = slice_first(rest, end);
    out->size = (size_t)(rest.data + end + 2 - s.data);
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Blanks that stand between two encoded words; 0: these do not. */
static size_t blanks_between(struct slice s)
{
    struct encoded_word word;
    size_t i = 0;

    while (i < s.size && is_blank(s.data[i]))
        i++;
    return i > 0 && encoded_word_read(slice_from(s, i), &word) ? i : 0;
}

void text_match_field(struct text_match *t, struct slice field)
{
    struct encoded_word word;

    for (size_t at = 0; at < field.size && !t->found;) {
        struct slice rest = slice_from(field, at);

        if (rest.data[0] == '=' && encoded_word_read(rest, &word)) {
            text_match_encoding(t, word.encoding, text_charset_find(word.charset));
            text_match_feed(t, word.text);
            at += word.size;
            at += blanks_between(slice_from(field, at));
            text_match_encoding(t, TEXT_IDENTITY, TEXT_UTF8);
            continue;
        }
        if (rest.data[0] != '\r' && rest.data[0] != '\n')
            text_match_feed(t, slice_first(rest, 1));
        at++;
    }
}
