/* FETCH (RFC 3501; RFC 3516: BINARY; RFC 7162: MODSEQ, CHANGEDSINCE, VANISHED). */
#include "net/imap/args.h"

#define OFFSET_MAX (UINT64_MAX >> 1) /* number64 (RFC 9051, 9). */

#define FAST (IMAP_FETCH_FLAGS | IMAP_FETCH_INTERNALDATE | IMAP_FETCH_RFC822_SIZE)
#define ALL  (FAST | IMAP_FETCH_ENVELOPE)
#define FULL (ALL | IMAP_FETCH_BODY)

struct fetch_item {
    struct slice name;
    uint32_t items;
};

static const struct fetch_item macros[] = {{{"ALL", 3}, ALL}, {{"FAST", 4}, FAST}, {{"FULL", 4}, FULL}};

static const struct fetch_item plain_items[] = {
    {{"UID", 3}, IMAP_FETCH_UID},
    {{"FLAGS", 5}, IMAP_FETCH_FLAGS},
    {{"INTERNALDATE", 12}, IMAP_FETCH_INTERNALDATE},
    {{"RFC822.SIZE", 11}, IMAP_FETCH_RFC822_SIZE},
    {{"ENVELOPE", 8}, IMAP_FETCH_ENVELOPE},
    {{"BODY", 4}, IMAP_FETCH_BODY},
    {{"BODYSTRUCTURE", 13}, IMAP_FETCH_BODYSTRUCTURE},
    {{"MODSEQ", 6}, IMAP_FETCH_MODSEQ},
};

/* Names that mean the bytes of a message. */
static const struct {
    struct slice name;
    uint8_t kind;
    bool brackets, peek;
    uint8_t text; /* Without brackets. */
} section_items[] = {
    {{"BODY", 4}, IMAP_SECTION_BODY, true, false, 0},
    {{"BODY.PEEK", 9}, IMAP_SECTION_BODY, true, true, 0},
    {{"BINARY", 6}, IMAP_SECTION_BINARY, true, false, 0},
    {{"BINARY.PEEK", 11}, IMAP_SECTION_BINARY, true, true, 0},
    {{"BINARY.SIZE", 11}, IMAP_SECTION_BINARY_SIZE, true, true, 0},
    {{"RFC822", 6}, IMAP_SECTION_RFC822, false, false, SECTION_ALL},
    {{"RFC822.HEADER", 13}, IMAP_SECTION_RFC822_HEADER, false, true, SECTION_HEADER},
    {{"RFC822.TEXT", 11}, IMAP_SECTION_RFC822_TEXT, false, false, SECTION_TEXT},
};

static uint32_t find_items(const struct fetch_item *items, size_t count, struct slice name)
{
    for (size_t i = 0; i < count; i++)
        if (slice_eq_nocase(name, items[i].name))
            return items[i].items;
    return 0;
}

/* ` (Subject From)` */
static bool section_fields(struct lexer *lx, struct imap_section *s)
{
    if (!lexer_space(lx) || !lexer_char(lx, '('))
        return false;
    do {
        if (s->field_count == IMAP_SECTION_FIELDS_MAX)
            return lexer_bad(lx, "Too many header fields");
        s->fields = lexer_grow(lx, s->fields, s->field_count, sizeof *s->fields);
        if (!lexer_astring(lx, &s->fields[s->field_count]))
            return false;
        if (s->fields[s->field_count].size == 0)
            return lexer_bad(lx, "Empty header field name");
        s->field_count++;
    } while (lexer_more(lx));
    return lexer_char(lx, ')');
}

/* What is between the brackets, and the closing one. */
static bool section_text(struct lexer *lx, struct imap_section *s)
{
    struct slice text = lexer_name(lx);

    if (!section_parse(text, &s->section))
        return lexer_bad(lx, "Invalid section");
    if (s->kind != IMAP_SECTION_BODY && s->section.kind != SECTION_ALL)
        return lexer_bad(lx, "Invalid BINARY section");
    if ((s->section.kind == SECTION_HEADER_FIELDS || s->section.kind == SECTION_HEADER_FIELDS_NOT) &&
        !section_fields(lx, s))
        return false;
    return lexer_try(lx, ']') || lexer_bad(lx, "']' expected");
}

/* `<offset.size>`, if it is there. */
static bool partial(struct lexer *lx, struct imap_section *s)
{
    if (s->kind == IMAP_SECTION_BINARY_SIZE || !lexer_try(lx, '<'))
        return true;
    s->partial = true;
    if (!lexer_number(lx, OFFSET_MAX, &s->offset) || !lexer_char(lx, '.') ||
        !lexer_number(lx, OFFSET_MAX, &s->size) || !lexer_char(lx, '>'))
        return false;
    return s->size > 0 || lexer_bad(lx, "Invalid partial range");
}

static bool section(struct lexer *lx, struct imap_fetch *f, size_t index)
{
    struct imap_section *s;

    if (f->section_count == IMAP_FETCH_SECTIONS_MAX)
        return lexer_bad(lx, "Too many sections");
    f->sections = lexer_grow(lx, f->sections, f->section_count, sizeof *f->sections);
    s = &f->sections[f->section_count++];
    memset(s, 0, sizeof *s);
    s->kind = section_items[index].kind;
    s->peek = section_items[index].peek;
    f->sets_seen |= !s->peek;
    s->section.kind = section_items[index].text;
    if (!section_items[index].brackets)
        return true;
    return lexer_char(lx, '[') && section_text(lx, s) && partial(lx, s);
}

static bool item(struct lexer *lx, struct imap_fetch *f)
{
    struct slice name = lexer_name(lx);
    bool brackets = lexer_peek(lx) == '[';
    uint32_t items = brackets ? 0 : find_items(plain_items, ARRAY_COUNT(plain_items), name);

    if (items != 0) {
        f->items |= items;
        return true;
    }
    for (size_t i = 0; i < ARRAY_COUNT(section_items); i++)
        if (section_items[i].brackets == brackets && slice_eq_nocase(name, section_items[i].name))
            return section(lx, f, i);
    return lexer_bad(lx, name.size == 0 ? "FETCH item expected" : "Unknown FETCH item");
}

static bool items(struct lexer *lx, struct imap_fetch *f)
{
    const char *before = lx->at;
    uint32_t macro;

    if (lexer_try(lx, '(')) {
        while (lexer_try(lx, ' '))
            ;
        do {
            if (!item(lx, f))
                return false;
        } while (lexer_more(lx));
        return lexer_char(lx, ')');
    }
    macro = find_items(macros, ARRAY_COUNT(macros), lexer_name(lx));
    if (macro != 0) {
        f->items |= macro;
        return true;
    }
    lx->at = before;
    return item(lx, f);
}

static bool modifier(struct lexer *lx, struct imap_fetch *f)
{
    struct slice name = lexer_name(lx);

    if (slice_eq_nocase(name, SLICE("VANISHED"))) {
        f->vanished = true;
        return true;
    }
    if (!slice_eq_nocase(name, SLICE("CHANGEDSINCE")))
        return lexer_bad(lx, "Unknown FETCH modifier");
    f->changed_since = true;
    f->items |= IMAP_FETCH_MODSEQ; /* RFC 7162, 3.1.4.1 */
    return lexer_space(lx) && lexer_modseq(lx, &f->modseq);
}

bool args_fetch(struct lexer *lx, struct imap_parsed *p)
{
    struct imap_fetch *f = &p->fetch;

    if (!lexer_space(lx) || !lexer_set(lx, &f->set) || !lexer_space(lx) || !items(lx, f))
        return false;
    if (p->command->uid)
        f->items |= IMAP_FETCH_UID;
    if (!lexer_more(lx))
        return true;
    if (!lexer_char(lx, '('))
        return false;
    do {
        if (!modifier(lx, f))
            return false;
    } while (lexer_more(lx));
    if (f->vanished && (!p->command->uid || !f->changed_since))
        return lexer_bad(lx, "VANISHED needs UID FETCH and CHANGEDSINCE"); /* RFC 7162, 3.2.6 */
    return lexer_char(lx, ')');
}
