#include "net/imap/write.h"
#include "net/imap/chars.h"

/* ---- Lines --------------------------------------------------------------------------------------------- */

void imap_write_crlf(struct writer *w)
{
    writer_text(w, "\r\n");
}

static bool has_only(struct slice s, uint8_t class)
{
    for (size_t i = 0; i < s.size; i++)
        if (!(imap_char_classes[(unsigned char)s.data[i]] & class))
            return false;
    return true;
}

static void write_cstring(struct writer *w, const char *text)
{
    writer_put(w, text, strlen(text));
}

/* resp-text: it must not end the line, and must not begin like a response code. */
static void write_text(struct writer *w, struct slice text, bool code_before)
{
    for (size_t i = 0; i < text.size; i++) {
        char c = text.data[i];

        if (c < ' ' || c > '~' || (c == '[' && i == 0 && !code_before))
            c = '?';
        writer_char(w, c);
    }
}

void imap_write_status_begin(struct writer *w, struct slice tag, enum imap_status_word word)
{
    static const char words[][8] = {"OK", "NO", "BAD", "BYE", "PREAUTH"};

    ASSERT((unsigned)word < ARRAY_COUNT(words));
    if (tag.size == 0)
        writer_char(w, '*');
    else
        writer_slice(w, tag);
    writer_char(w, ' ');
    write_cstring(w, words[word]);
    writer_char(w, ' ');
}

void imap_write_status_end(struct writer *w, struct slice text)
{
    write_text(w, text, true);
    imap_write_crlf(w);
}

void imap_write_status(struct writer *w, struct slice tag, enum imap_status_word word, const char *code,
                       struct slice text)
{
    imap_write_status_begin(w, tag, word);
    if (code != NULL) {
        writer_char(w, '[');
        write_cstring(w, code);
        writer_text(w, "] ");
    }
    write_text(w, text, code != NULL);
    imap_write_crlf(w);
}

void imap_write_parse_error(struct writer *w, struct slice tag, const struct imap_parse_error *error)
{
    imap_write_status(w, tag, error->no ? IMAP_NO : IMAP_BAD, error->code, slice_str(error->text));
}

void imap_write_appenduid(struct writer *w, uint32_t uidvalidity, const struct uid_set *uids)
{
    writer_text(w, "[APPENDUID ");
    writer_u64(w, uidvalidity);
    writer_char(w, ' ');
    uid_set_write(uids, w);
    writer_text(w, "] ");
}

void imap_write_copyuid(struct writer *w, uint32_t uidvalidity, const struct uid_set *from,
                        const struct uid_set *to)
{
    writer_text(w, "[COPYUID ");
    writer_u64(w, uidvalidity);
    writer_char(w, ' ');
    uid_set_write(from, w);
    writer_char(w, ' ');
    uid_set_write(to, w);
    writer_text(w, "] ");
}

void imap_write_continue(struct writer *w, struct slice text)
{
    writer_text(w, "+ ");
    write_text(w, text, true);
    imap_write_crlf(w);
}

void imap_write_number(struct writer *w, uint32_t number, const char *word)
{
    writer_text(w, "* ");
    writer_u64(w, number);
    writer_char(w, ' ');
    write_cstring(w, word);
    imap_write_crlf(w);
}

/* ---- Tokens -------------------------------------------------------------------------------------------- */

void imap_write_string(struct writer *w, struct slice s)
{
    imap_string_write(w, s);
}

void imap_write_nstring(struct writer *w, struct slice s)
{
    if (s.data == NULL)
        writer_text(w, "NIL");
    else
        imap_write_string(w, s);
}

static bool is_atom(struct slice s) /* As an astring. */
{
    return s.size > 0 && has_only(s, IMAP_CHAR_ASTRING) && !slice_eq_nocase(s, SLICE("NIL"));
}

void imap_write_astring(struct writer *w, struct slice s)
{
    if (is_atom(s))
        writer_slice(w, s);
    else
        imap_write_string(w, s);
}

void imap_write_literal_header(struct writer *w, uint64_t size)
{
    writer_char(w, '{');
    writer_u64(w, size);
    writer_text(w, "}\r\n");
}

static void write_escaped(struct writer *w, struct slice s)
{
    for (size_t i = 0; i < s.size; i++) {
        if (s.data[i] == '"' || s.data[i] == '\\')
            writer_char(w, '\\');
        writer_char(w, s.data[i]);
    }
}

/* Level by level, because '/' is written as itself, and so a small buffer is enough. `w` NULL: only whether
 * it can be written. */
static bool write_mutf7(struct writer *w, struct slice name)
{
    char buffer[MUTF7_FROM_UTF8_SIZE_MAX(MAILBOX_LEVEL_SIZE_MAX)];
    size_t size;

    for (;;) {
        struct slice level = slice_first(name, slice_find(name, MAILBOX_SEPARATOR));

        if (level.size > MAILBOX_LEVEL_SIZE_MAX || !mutf7_from_utf8(level, buffer, &size))
            return false;
        if (w != NULL)
            write_escaped(w, slice_of(buffer, size));
        if (level.size == name.size)
            return true;
        if (w != NULL)
            writer_char(w, MAILBOX_SEPARATOR);
        name = slice_from(name, level.size + 1);
    }
}

static bool is_utf8_text(struct slice s)
{
    for (size_t i = 0; i < s.size; i++)
        if ((unsigned char)s.data[i] < ' ' || s.data[i] == 0x7f)
            return false;
    return utf8_valid(s);
}

void imap_write_mailbox(struct writer *w, struct slice name, bool utf8)
{
    bool plain = is_atom(name) && (utf8 || slice_find(name, '&') == name.size);

    if (plain) {
        writer_slice(w, name);
    } else if (utf8 ? is_utf8_text(name) : write_mutf7(NULL, name)) {
        writer_char(w, '"');
        if (utf8)
            write_escaped(w, name);
        else
            write_mutf7(w, name);
        writer_char(w, '"');
    } else {
        imap_write_string(w, name); /* No name that this server makes; whole all the same. */
    }
}

void imap_write_date(struct writer *w, struct mail_date date)
{
    writer_char(w, '"');
    date_write_imap(w, date);
    writer_char(w, '"');
}

/* ---- Flags --------------------------------------------------------------------------------------------- */

#define DECIMAL_SIZE_MAX 20 /* Of 64 bits. */

static char *put_decimal(char *at, uint64_t value)
{
    static const char pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
        "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
        "8081828384858687888990919293949596979899";
    char digits[DECIMAL_SIZE_MAX];
    char *first = digits + sizeof digits;
    size_t size;

    while (value >= 10) {
        first -= 2;
        memcpy(first, pairs + 2 * (value % 100), 2);
        value /= 100;
    }
    if (value > 0 || first == digits + sizeof digits)
        *--first = (char)('0' + value);
    size = (size_t)(digits + sizeof digits - first);
    memcpy(at, first, size);
    return at + size;
}

#define PUT(at, literal)      (memcpy((at), (literal), sizeof(literal) - 1), (at) + sizeof(literal) - 1)
#define SYSTEM_FLAGS_SIZE_MAX (sizeof("\\Answered \\Flagged \\Deleted \\Seen \\Draft \\Recent ") - 1)

/* Each with a blank behind it. */
static char *put_system_flags(char *at, uint32_t system)
{
    if (system & MAIL_ANSWERED)
        at = PUT(at, "\\Answered ");
    if (system & MAIL_FLAGGED)
        at = PUT(at, "\\Flagged ");
    if (system & MAIL_DELETED)
        at = PUT(at, "\\Deleted ");
    if (system & MAIL_SEEN)
        at = PUT(at, "\\Seen ");
    if (system & MAIL_DRAFT)
        at = PUT(at, "\\Draft ");
    if (system & MAIL_RECENT)
        at = PUT(at, "\\Recent ");
    return at;
}

static uint64_t known_keywords(uint64_t keywords, const struct imap_keywords *names)
{
    return names->count < 64 ? keywords & ((1ull << names->count) - 1) : keywords;
}

/* With a blank between them. `keywords` is not 0 and knows only names. */
static void write_keywords(struct writer *w, uint64_t keywords, const struct imap_keywords *names)
{
    for (;;) {
        writer_slice(w, names->names[__builtin_ctzll(keywords)]);
        keywords &= keywords - 1;
        if (keywords == 0)
            return;
        writer_char(w, ' ');
    }
}

/* System flags and keywords, then `end`. `at` is the writer's window from w->at on, and has room for
 * FLAGS_SIZE_MAX. */
static void finish_flags(struct writer *w, char *at, uint32_t system, uint64_t keywords,
                         const struct imap_keywords *names, struct slice end)
{
    char *first = at;

    at = put_system_flags(at, system);
    keywords = known_keywords(keywords, names);
    if (keywords == 0) {
        at -= at > first; /* The last blank. */
        memcpy(at, end.data, end.size);
        w->at = at + end.size;
        return;
    }
    w->at = at;
    write_keywords(w, keywords, names);
    writer_slice(w, end);
}

#define FLAGS_SIZE_MAX (SYSTEM_FLAGS_SIZE_MAX + 8)

void imap_write_flags(struct writer *w, uint32_t system, uint64_t keywords, const struct imap_keywords *names)
{
    writer_char(w, '(');
    finish_flags(w, writer_need(w, FLAGS_SIZE_MAX), system, keywords, names, SLICE(")"));
}

void imap_write_flag_line(struct writer *w, const struct imap_flag_line *line,
                          const struct imap_keywords *names)
{
    char *at =
        writer_need(w, sizeof("*  FETCH (UID  MODSEQ () FLAGS (") + 3 * DECIMAL_SIZE_MAX + FLAGS_SIZE_MAX);

    at = PUT(at, "* ");
    at = put_decimal(at, line->seq);
    at = PUT(at, " FETCH (");
    if (line->uid != 0) {
        at = PUT(at, "UID ");
        at = put_decimal(at, line->uid);
        *at++ = ' ';
    }
    if (line->modseq != 0) {
        at = PUT(at, "MODSEQ (");
        at = put_decimal(at, line->modseq);
        at = PUT(at, ") ");
    }
    at = PUT(at, "FLAGS (");
    finish_flags(w, at, line->system, line->keywords, names, SLICE("))\r\n"));
}

void imap_write_mailbox_flags(struct writer *w, const struct imap_keywords *names, bool read_only,
                              bool new_keywords)
{
    uint64_t all = UINT64_MAX;

    writer_text(w, "* FLAGS ");
    imap_write_flags(w, MAIL_FLAGS_STORABLE, all, names);
    writer_text(w, "\r\n* OK [PERMANENTFLAGS (");
    if (!read_only) {
        finish_flags(w, writer_need(w, FLAGS_SIZE_MAX), MAIL_FLAGS_STORABLE, all, names,
                     new_keywords ? SLICE(" \\*") : SLICE(""));
    }
    writer_text(w, ")] ");
    write_cstring(w, read_only ? "Read-only mailbox." : "Flags permitted.");
    imap_write_crlf(w);
}

/* ---- FETCH, SEARCH, LIST, STATUS ----------------------------------------------------------------------- */

void imap_write_fetch_begin(struct writer *w, uint32_t seq)
{
    writer_text(w, "* ");
    writer_u64(w, seq);
    writer_text(w, " FETCH (");
}

static void write_section_text(struct writer *w, const struct imap_section *s)
{
    static const char *const texts[] = {
        [SECTION_ALL] = "",
        [SECTION_HEADER] = "HEADER",
        [SECTION_HEADER_FIELDS] = "HEADER.FIELDS",
        [SECTION_HEADER_FIELDS_NOT] = "HEADER.FIELDS.NOT",
        [SECTION_TEXT] = "TEXT",
        [SECTION_MIME] = "MIME",
    };

    for (unsigned i = 0; i < s->section.depth; i++) {
        if (i > 0)
            writer_char(w, '.');
        writer_u64(w, s->section.numbers[i]);
    }
    if (s->section.depth > 0 && s->section.kind != SECTION_ALL)
        writer_char(w, '.');
    write_cstring(w, texts[s->section.kind]);
    for (uint32_t i = 0; i < s->field_count; i++) {
        write_cstring(w, i == 0 ? " (" : " ");
        imap_write_astring(w, s->fields[i]);
    }
    if (s->field_count > 0)
        writer_char(w, ')');
}

void imap_write_section(struct writer *w, const struct imap_section *section)
{
    static const char *const names[] = {
        [IMAP_SECTION_BODY] = "BODY[",
        [IMAP_SECTION_BINARY] = "BINARY[",
        [IMAP_SECTION_BINARY_SIZE] = "BINARY.SIZE[",
        [IMAP_SECTION_RFC822] = "RFC822",
        [IMAP_SECTION_RFC822_HEADER] = "RFC822.HEADER",
        [IMAP_SECTION_RFC822_TEXT] = "RFC822.TEXT",
    };

    write_cstring(w, names[section->kind]);
    if (section->kind >= IMAP_SECTION_RFC822)
        return;
    write_section_text(w, section);
    writer_char(w, ']');
    if (section->partial) {
        writer_char(w, '<');
        writer_u64(w, section->offset);
        writer_char(w, '>');
    }
}

void imap_set_begin(struct imap_set_writer *s, struct writer *w)
{
    *s = (struct imap_set_writer){.w = w};
}

static void write_pending(struct imap_set_writer *s)
{
    if (s->first == 0)
        return;
    if (s->any)
        writer_char(s->w, ',');
    s->any = true;
    uid_range_write((struct uid_range){s->first, s->last}, s->w);
}

void imap_set_add(struct imap_set_writer *s, uint32_t first, uint32_t last)
{
    ASSERT(first > 0 && first <= last);
    if (s->first != 0 && first == s->last + 1) {
        s->last = last;
        return;
    }
    ASSERT(first > s->last);
    write_pending(s);
    s->first = first;
    s->last = last;
}

void imap_set_end(struct imap_set_writer *s)
{
    write_pending(s);
    s->first = 0;
}

void imap_write_esearch_begin(struct writer *w, struct slice tag, bool uid)
{
    writer_text(w, "* ESEARCH (TAG ");
    imap_write_string(w, tag);
    writer_char(w, ')');
    if (uid)
        writer_text(w, " UID");
}

struct bit_name {
    uint32_t bit;
    const char *name;
};

/* Names of the bits that are set, blanks between them. */
static void write_bits(struct writer *w, uint32_t bits, const struct bit_name *names, size_t count, bool *any)
{
    for (size_t i = 0; i < count; i++) {
        if (!(bits & names[i].bit))
            continue;
        if (*any)
            writer_char(w, ' ');
        *any = true;
        write_cstring(w, names[i].name);
    }
}

void imap_write_list(struct writer *w, const struct imap_list_line *line, bool utf8)
{
    static const struct bit_name attributes[] = {
        {IMAP_ATTR_NOSELECT, "\\Noselect"},       {IMAP_ATTR_NONEXISTENT, "\\NonExistent"},
        {IMAP_ATTR_HASCHILDREN, "\\HasChildren"}, {IMAP_ATTR_HASNOCHILDREN, "\\HasNoChildren"},
        {IMAP_ATTR_NOINFERIORS, "\\Noinferiors"}, {IMAP_ATTR_SUBSCRIBED, "\\Subscribed"},
        {IMAP_ATTR_MARKED, "\\Marked"},           {IMAP_ATTR_UNMARKED, "\\Unmarked"},
    };
    static const struct bit_name uses[] = {
        {IMAP_USE_ALL, "\\All"},         {IMAP_USE_ARCHIVE, "\\Archive"}, {IMAP_USE_DRAFTS, "\\Drafts"},
        {IMAP_USE_FLAGGED, "\\Flagged"}, {IMAP_USE_JUNK, "\\Junk"},       {IMAP_USE_SENT, "\\Sent"},
        {IMAP_USE_TRASH, "\\Trash"},
    };
    bool any = false;

    writer_text(w, "* ");
    write_cstring(w, line->word);
    writer_text(w, " (");
    write_bits(w, line->attributes, attributes, ARRAY_COUNT(attributes), &any);
    write_bits(w, line->special_use, uses, ARRAY_COUNT(uses), &any);
    writer_text(w, ") ");
    if (line->separator != '\0')
        imap_write_string(w, slice_of(&line->separator, 1));
    else
        writer_text(w, "NIL");
    writer_char(w, ' ');
    imap_write_mailbox(w, line->mailbox, utf8);
    if (line->child_info)
        writer_text(w, " (\"CHILDINFO\" (\"SUBSCRIBED\"))");
    imap_write_crlf(w);
}

void imap_write_status_items(struct writer *w, struct slice mailbox, bool utf8, uint32_t items,
                             const struct imap_status_values *values)
{
    const struct {
        uint32_t bit;
        const char *name;
        uint64_t value;
    } rows[] = {
        {IMAP_STATUS_MESSAGES, "MESSAGES ", values->messages},
        {IMAP_STATUS_RECENT, "RECENT ", values->recent},
        {IMAP_STATUS_UIDNEXT, "UIDNEXT ", values->uidnext},
        {IMAP_STATUS_UIDVALIDITY, "UIDVALIDITY ", values->uidvalidity},
        {IMAP_STATUS_UNSEEN, "UNSEEN ", values->unseen},
        {IMAP_STATUS_HIGHESTMODSEQ, "HIGHESTMODSEQ ", values->highestmodseq},
        {IMAP_STATUS_SIZE, "SIZE ", values->size},
        {IMAP_STATUS_DELETED, "DELETED ", values->deleted},
    };
    bool any = false;

    writer_text(w, "* STATUS ");
    imap_write_mailbox(w, mailbox, utf8);
    writer_text(w, " (");
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        if (!(items & rows[i].bit))
            continue;
        if (any)
            writer_char(w, ' ');
        any = true;
        write_cstring(w, rows[i].name);
        writer_u64(w, rows[i].value);
    }
    writer_text(w, ")\r\n");
}
