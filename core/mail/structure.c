#include "core/mail/structure.h"
#include "core/mail/address.h"
#include "core/mail/mime.h"
#include "core/mail/structure_format.h"
#include "core/varint.h"

#include <errno.h>

_Static_assert(SECTION_DEPTH_MAX >= MIME_DEPTH_MAX, "every part has a section");

/* ---- Reading ------------------------------------------------------------------------------------------- */

struct part_record {
    uint32_t header_offset, header_size, body_size, body_lines, texts, envelope, end;
    enum part_kind kind;
};

static struct part_record read_part(const struct structure *s, uint32_t index)
{
    const char *at = s->blob.data + STRUCTURE_HEADER_SIZE + (size_t)index * PART_RECORD_SIZE;

    ASSERT(index < s->part_count);
    return (struct part_record){
        .header_offset = get_u32(at + PART_AT_HEADER_OFFSET),
        .header_size = get_u32(at + PART_AT_HEADER_SIZE),
        .body_size = get_u32(at + PART_AT_BODY_SIZE),
        .body_lines = get_u32(at + PART_AT_BODY_LINES),
        .texts = get_u32(at + PART_AT_TEXTS),
        .envelope = get_u32(at + PART_AT_ENVELOPE),
        .end = get_u16(at + PART_AT_END),
        .kind = (enum part_kind)(unsigned char)at[PART_AT_KIND],
    };
}

static struct byte_range body_range(const struct part_record *p)
{
    return (struct byte_range){p->header_offset + p->header_size, p->body_size};
}

/* Texts, one after the other. After the first thing that can't be, `bad` is set and everything is NIL or
 * empty. */
struct text_reader {
    const char *at, *end;
    bool bad;
};

static struct text_reader texts_at(const struct structure *s, uint32_t offset)
{
    bool bad = offset > s->blob.size;

    return (struct text_reader){s->blob.data + (bad ? s->blob.size : offset), s->blob.data + s->blob.size,
                                bad};
}

static uint32_t fail(struct text_reader *r)
{
    r->bad = true;
    r->at = r->end;
    return 0;
}

static uint32_t read_varint(struct text_reader *r)
{
    uint64_t value;
    const char *behind = varint_get(r->at, r->end, &value);

    if (behind == NULL || value > UINT32_MAX)
        return fail(r);
    r->at = behind;
    return (uint32_t)value;
}

/* data is NULL: NIL. */
static struct slice read_text(struct text_reader *r)
{
    uint32_t tag = read_varint(r), size;
    struct slice text;

    switch (tag) {
    case TEXT_TAG_NIL:
        return (struct slice){0};
    case TEXT_TAG_MISSING_MAILBOX:
        return SLICE(ADDRESS_MISSING_MAILBOX);
    case TEXT_TAG_MISSING_HOST:
        return SLICE(ADDRESS_MISSING_HOST);
    case TEXT_TAG_SYNTAX_ERROR:
        return SLICE(ADDRESS_SYNTAX_ERROR);
    default:
        break;
    }
    size = tag - TEXT_TAG_FIRST;
    if (size > (size_t)(r->end - r->at)) {
        (void)fail(r);
        return (struct slice){0};
    }
    text = slice_of(r->at, size);
    r->at += size;
    return text;
}

/* Every item takes at least a byte, so a false count ends at the end of the blob. */
static void skip_texts(struct text_reader *r, uint32_t count)
{
    while (count-- > 0 && !r->bad)
        (void)read_text(r);
}

static void skip_list(struct text_reader *r, uint32_t texts_per_item)
{
    for (uint32_t count = read_varint(r); count > 0 && !r->bad; count--)
        skip_texts(r, texts_per_item);
}

struct part_texts {
    struct slice type, subtype;
    struct text_reader params; /* At the count. */
    struct slice id, description, encoding, md5, disposition;
    struct text_reader disposition_params, languages;
    struct slice location;
};

static void read_part_texts(struct text_reader *r, struct part_texts *t)
{
    t->type = read_text(r);
    t->subtype = read_text(r);
    t->params = *r;
    skip_list(r, 2);
    t->id = read_text(r);
    t->description = read_text(r);
    t->encoding = read_text(r);
    t->md5 = read_text(r);
    t->disposition = read_text(r);
    t->disposition_params = *r;
    skip_list(r, 2);
    t->languages = *r;
    skip_list(r, 1);
    t->location = read_text(r);
}

static void skip_envelope(struct text_reader *r)
{
    skip_texts(r, ENVELOPE_TEXT_COUNT);
    for (uint32_t i = 0; i < ENVELOPE_LIST_COUNT; i++)
        skip_list(r, 3);
}

/* ---- Checking ------------------------------------------------------------------------------------------ */

static bool part_fits(const struct structure *s, uint32_t index, const struct part_record *p,
                      uint32_t parent_end)
{
    uint64_t end = (uint64_t)p->header_offset + p->header_size + p->body_size;
    bool childless = p->end == index + 1;

    if (end > structure_message_size(s) || p->end <= index || p->end > parent_end)
        return false;
    switch (p->kind) {
    case PART_MULTIPART:
        return true;
    case PART_MESSAGE: { /* One child, a message. */
        struct part_record child;

        if (childless)
            return false;
        child = read_part(s, index + 1);
        return child.end == p->end && child.envelope != 0;
    }
    case PART_LEAF:
    case PART_TEXT:
    case PART_OPAQUE:
        return childless;
    default:
        return false;
    }
}

/* The ends of the parts that are open, outermost first: where a walk through the records stands in the tree. */
struct walk {
    uint32_t depth; /* Of the part that comes next. */
    uint16_t ends[MIME_DEPTH_MAX];
};

/* Before part `index`: closes what ended. Every step of a walk is charged to the part that it leaves. */
static void walk_to(struct walk *w, uint32_t index)
{
    while (w->depth > 0 && w->ends[w->depth - 1] <= index)
        w->depth--;
}

static void walk_into(struct walk *w, uint32_t end)
{
    ASSERT(w->depth < MIME_DEPTH_MAX);
    w->ends[w->depth++] = (uint16_t)end;
}

/* Texts lie one behind the other, so that many parts can't make one long text count many times. */
static bool part_texts_valid(const struct structure *s, const struct part_record *p, const char **texts_end)
{
    struct text_reader r = texts_at(s, p->texts);
    struct part_texts texts;

    if (r.bad || r.at < *texts_end)
        return false;
    read_part_texts(&r, &texts);
    if (p->envelope != 0) {
        if (r.bad || p->envelope != (uint32_t)(r.at - s->blob.data))
            return false;
        skip_envelope(&r);
    }
    *texts_end = r.at;
    return !r.bad;
}

static bool parts_valid(const struct structure *s)
{
    const char *texts_end = s->blob.data + STRUCTURE_HEADER_SIZE + (size_t)s->part_count * PART_RECORD_SIZE;
    struct walk walk = {0};

    for (uint32_t i = 0; i < s->part_count; i++) {
        struct part_record p = read_part(s, i);
        uint32_t parent_end = s->part_count;

        walk_to(&walk, i);
        if (i > 0 && walk.depth == 0) /* One root. */
            return false;
        if (walk.depth > 0)
            parent_end = walk.ends[walk.depth - 1];
        if (walk.depth == MIME_DEPTH_MAX || !part_fits(s, i, &p, parent_end))
            return false;
        if (!part_texts_valid(s, &p, &texts_end))
            return false;
        walk_into(&walk, p.end);
    }
    return true;
}

int structure_open(struct structure *s, struct slice blob)
{
    struct structure opened = {.blob = blob};

    if (blob.size < STRUCTURE_HEADER_SIZE || blob.size > MIME_BLOB_SIZE_MAX)
        return -EBADMSG;
    if (blob.data[STRUCTURE_AT_VERSION] != STRUCTURE_VERSION ||
        get_u32(blob.data + STRUCTURE_AT_SIZE) != blob.size)
        return -EBADMSG;
    opened.part_count = get_u32(blob.data + STRUCTURE_AT_PART_COUNT);
    if (opened.part_count == 0 || opened.part_count > MIME_PART_COUNT_MAX ||
        opened.part_count * PART_RECORD_SIZE > blob.size - STRUCTURE_HEADER_SIZE)
        return -EBADMSG;
    if (!parts_valid(&opened) || read_part(&opened, 0).envelope == 0)
        return -EBADMSG;
    *s = opened;
    return 0;
}

uint32_t structure_message_size(const struct structure *s)
{
    return get_u32(s->blob.data + STRUCTURE_AT_MESSAGE_SIZE);
}

bool structure_sent_date(const struct structure *s, struct mail_date *date_out)
{
    if ((s->blob.data[STRUCTURE_AT_FLAGS] & STRUCTURE_DATED) == 0)
        return false;
    *date_out = (struct mail_date){
        .utc_s = (int64_t)get_u64(s->blob.data + STRUCTURE_AT_DATE),
        .zone_minutes = (int16_t)get_u16(s->blob.data + STRUCTURE_AT_ZONE),
    };
    return true;
}

bool structure_envelope_text(const struct structure *s, enum envelope_text field, struct slice *text_out)
{
    struct text_reader r = texts_at(s, read_part(s, 0).envelope);
    struct slice text;

    skip_texts(&r, field);
    text = read_text(&r);
    if (text.data == NULL)
        return false;
    *text_out = text;
    return true;
}

/* ---- Sections ------------------------------------------------------------------------------------------ */

/* The number at the beginning, and the dot behind it. */
static bool take_section_number(struct slice *text, struct section *section)
{
    uint32_t value = 0;
    size_t size = 0;

    for (; size < text->size && text->data[size] >= '0' && text->data[size] <= '9'; size++)
        value = MIN(value * 10 + (uint32_t)(text->data[size] - '0'), UINT16_MAX + 1u);
    if (size == 0 || value > UINT16_MAX || /* The answer repeats the number. */ text->data[0] == '0' ||
        section->depth == SECTION_DEPTH_MAX)
        return false;
    section->numbers[section->depth++] = (uint16_t)value;
    *text = slice_from(*text, size);
    if (text->size == 0)
        return true;
    if (text->data[0] != '.' || text->size == 1)
        return false;
    *text = slice_from(*text, 1);
    return true;
}

bool section_parse(struct slice text, struct section *section_out)
{
    static const struct {
        struct slice name;
        enum section_kind kind;
    } kinds[] = {
        {{"HEADER", 6}, SECTION_HEADER},
        {{"HEADER.FIELDS", 13}, SECTION_HEADER_FIELDS},
        {{"HEADER.FIELDS.NOT", 17}, SECTION_HEADER_FIELDS_NOT},
        {{"TEXT", 4}, SECTION_TEXT},
        {{"MIME", 4}, SECTION_MIME},
    };

    section_out->kind = SECTION_ALL;
    section_out->depth = 0;
    while (text.size > 0 && text.data[0] >= '0' && text.data[0] <= '9')
        if (!take_section_number(&text, section_out))
            return false;
    if (text.size == 0)
        return true;
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        if (!slice_eq_nocase(text, kinds[i].name))
            continue;
        section_out->kind = (uint8_t)kinds[i].kind;
        return section_out->kind != SECTION_MIME || section_out->depth > 0;
    }
    return false;
}

/* The child with that number; false: there is none. */
static bool find_child(const struct structure *s, uint32_t parent, uint32_t number, uint32_t *index_out)
{
    uint32_t end = read_part(s, parent).end;

    for (uint32_t child = parent + 1; child < end; child = read_part(s, child).end) {
        if (--number > 0)
            continue;
        *index_out = child;
        return true;
    }
    return false;
}

/* RFC 3501 6.4.5: every message has at least one part; a message that is not multipart is its own part 1. */
static bool find_part(const struct structure *s, const struct section *section, uint32_t *index_out)
{
    uint32_t index = 0;
    bool is_message = true; /* Numbers count the parts of a message or of a multipart. */

    for (uint32_t i = 0; i < section->depth; i++) {
        struct part_record p = read_part(s, index);

        if (i > 0 && p.kind == PART_MESSAGE) {
            index++;
            p = read_part(s, index);
            is_message = true;
        }
        if (p.kind == PART_MULTIPART) {
            if (!find_child(s, index, section->numbers[i], &index))
                return false;
        } else if (!is_message || section->numbers[i] != 1) {
            return false;
        }
        is_message = false;
    }
    *index_out = index;
    return true;
}

bool structure_section(const struct structure *s, const struct section *section, struct byte_range *range_out)
{
    uint32_t index;
    struct part_record p;

    if (!find_part(s, section, &index))
        return false;
    p = read_part(s, index);
    if (section->kind == SECTION_MIME) {
        *range_out = (struct byte_range){p.header_offset, p.header_size};
        return true;
    }
    if (section->kind == SECTION_ALL) {
        *range_out = section->depth > 0 ? body_range(&p) : (struct byte_range){0, structure_message_size(s)};
        return true;
    }
    if (section->depth > 0) { /* HEADER and TEXT are those of the message inside. */
        if (p.kind != PART_MESSAGE)
            return false;
        p = read_part(s, index + 1);
    }
    *range_out =
        section->kind == SECTION_TEXT ? body_range(&p) : (struct byte_range){p.header_offset, p.header_size};
    return true;
}

uint32_t structure_part_count(const struct structure *s)
{
    return s->part_count;
}

void structure_part(const struct structure *s, uint32_t index, struct structure_part *part_out)
{
    struct part_record p = read_part(s, index);
    struct text_reader r = texts_at(s, p.texts);
    struct part_texts texts;

    read_part_texts(&r, &texts);
    *part_out = (struct structure_part){
        .header = {p.header_offset, p.header_size},
        .body = body_range(&p),
        .type = texts.type,
        .subtype = texts.subtype,
        .encoding = texts.encoding.data != NULL ? texts.encoding : SLICE(""),
        .charset = SLICE(""),
        .leaf = p.kind != PART_MULTIPART && p.kind != PART_MESSAGE,
    };
    if (texts.type.data == NULL || texts.subtype.data == NULL) {
        part_out->type = p.kind == PART_MESSAGE ? SLICE("message") : SLICE("text");
        part_out->subtype = p.kind == PART_MESSAGE ? SLICE("rfc822") : SLICE("plain");
    }
    for (uint32_t count = read_varint(&texts.params); count > 0 && !texts.params.bad; count--) {
        struct slice name = read_text(&texts.params), value = read_text(&texts.params);

        if (!slice_eq_nocase(name, SLICE("charset")) || value.data == NULL)
            continue;
        part_out->charset = value;
        break;
    }
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

void imap_string_write(struct writer *w, struct slice text)
{
    size_t escape_count = 0;
    bool literal = false;

    for (size_t i = 0; i < text.size && !literal; i++) {
        unsigned char c = (unsigned char)text.data[i];

        escape_count += c == '"' || c == '\\';
        literal = c >= 0x80 || (c < ' ' && c != '\t') || c == 0x7f;
    }
    if (literal) {
        writer_char(w, '{');
        writer_u64(w, text.size);
        writer_text(w, "}\r\n");
        for (size_t at = 0; at < text.size;) {
            size_t size = slice_find(slice_from(text, at), '\0');

            writer_put(w, text.data + at, size);
            at += size;
            if (at++ < text.size)
                writer_char(w, NUL_STAND_IN);
        }
        return;
    }
    writer_char(w, '"');
    for (; escape_count > 0; escape_count--) {
        size_t size = 0;

        while (text.data[size] != '"' && text.data[size] != '\\')
            size++;
        writer_put(w, text.data, size);
        writer_char(w, '\\');
        writer_char(w, text.data[size]);
        text = slice_from(text, size + 1);
    }
    writer_slice(w, text);
    writer_char(w, '"');
}

static void write_nstring(struct writer *w, struct slice text)
{
    if (text.data == NULL)
        writer_text(w, "NIL");
    else
        imap_string_write(w, text);
}

static void write_space_nstring(struct writer *w, struct slice text)
{
    writer_char(w, ' ');
    write_nstring(w, text);
}

/* A list of addresses; the reader is copied, for From may be written three times. */
static void write_addresses(struct writer *w, struct text_reader r)
{
    uint32_t count = read_varint(&r);

    if (count == 0) {
        writer_text(w, " NIL");
        return;
    }
    writer_text(w, " (");
    for (; count > 0 && !r.bad; count--) {
        writer_char(w, '(');
        write_nstring(w, read_text(&r));
        writer_text(w, " NIL"); /* Routes are gone: RFC 5322 4.4. */
        write_space_nstring(w, read_text(&r));
        write_space_nstring(w, read_text(&r));
        writer_char(w, ')');
    }
    writer_char(w, ')');
}

static bool list_empty(struct text_reader r)
{
    return read_varint(&r) == 0;
}

static void write_envelope(const struct structure *s, uint32_t index, struct writer *w)
{
    struct text_reader r = texts_at(s, read_part(s, index).envelope), lists[ENVELOPE_LIST_COUNT];
    struct slice texts[ENVELOPE_TEXT_COUNT];

    for (uint32_t i = 0; i < ENVELOPE_TEXT_COUNT; i++)
        texts[i] = read_text(&r);
    for (uint32_t i = 0; i < ENVELOPE_LIST_COUNT; i++) {
        lists[i] = r;
        skip_list(&r, 3);
    }
    /* RFC 3501 7.4.2: the server sets these two from From. */
    if (list_empty(lists[ENVELOPE_SENDER]))
        lists[ENVELOPE_SENDER] = lists[ENVELOPE_FROM];
    if (list_empty(lists[ENVELOPE_REPLY_TO]))
        lists[ENVELOPE_REPLY_TO] = lists[ENVELOPE_FROM];
    writer_char(w, '(');
    write_nstring(w, texts[ENVELOPE_DATE]);
    write_space_nstring(w, texts[ENVELOPE_SUBJECT]);
    for (uint32_t i = 0; i < ENVELOPE_LIST_COUNT; i++)
        write_addresses(w, lists[i]);
    write_space_nstring(w, texts[ENVELOPE_IN_REPLY_TO]);
    write_space_nstring(w, texts[ENVELOPE_MESSAGE_ID]);
    writer_char(w, ')');
}

void structure_write_envelope(const struct structure *s, struct writer *w)
{
    write_envelope(s, 0, w);
}

/* ` (name value ...)` or ` NIL`. A text part without a charset has the default one (RFC 2045 5.2). */
static void write_params(struct writer *w, struct text_reader r, bool is_text)
{
    uint32_t count = read_varint(&r);
    bool charset_seen = !is_text;

    if (count == 0 && charset_seen) {
        writer_text(w, " NIL");
        return;
    }
    writer_text(w, " (");
    for (uint32_t i = 0; i < count && !r.bad; i++) {
        struct slice name = read_text(&r), value = read_text(&r);

        if (i > 0)
            writer_char(w, ' ');
        imap_string_write(w, name);
        writer_char(w, ' ');
        imap_string_write(w, value);
        charset_seen = charset_seen || slice_eq_nocase(name, SLICE("charset"));
    }
    if (!charset_seen) {
        if (count > 0)
            writer_char(w, ' ');
        writer_text(w, "\"charset\" \"us-ascii\"");
    }
    writer_char(w, ')');
}

/* Disposition, languages, location: the end of every BODYSTRUCTURE. */
static void write_extension(struct writer *w, const struct part_texts *t)
{
    struct text_reader languages = t->languages;
    uint32_t count = read_varint(&languages);

    if (t->disposition.data == NULL) {
        writer_text(w, " NIL");
    } else {
        writer_text(w, " (");
        imap_string_write(w, t->disposition);
        write_params(w, t->disposition_params, false);
        writer_char(w, ')');
    }
    if (count == 0)
        writer_text(w, " NIL");
    for (uint32_t i = 0; i < count && !languages.bad; i++) {
        writer_text(w, " ");
        if (i == 0)
            writer_char(w, '(');
        imap_string_write(w, read_text(&languages));
    }
    if (count > 0)
        writer_char(w, ')');
    write_space_nstring(w, t->location);
}

static void write_type(struct writer *w, const struct part_record *p, const struct part_texts *t)
{
    if (p->kind == PART_MESSAGE) {
        writer_text(w, "\"message\" \"rfc822\"");
    } else if (p->kind == PART_OPAQUE) {
        writer_text(w, "\"application\" \"octet-stream\"");
    } else if (t->type.data == NULL || t->subtype.data == NULL) {
        writer_text(w, "\"text\" \"plain\"");
    } else {
        imap_string_write(w, t->type);
        writer_char(w, ' ');
        imap_string_write(w, t->subtype);
    }
}

/* What stands before the parts inside; for a leaf, everything. */
static void write_part_begin(const struct structure *s, uint32_t index, struct writer *w, bool extended)
{
    struct part_record p = read_part(s, index);
    struct text_reader r = texts_at(s, p.texts);
    struct part_texts t;

    writer_char(w, '(');
    if (p.kind == PART_MULTIPART) {
        if (p.end == index + 1) { /* The grammar wants a part: an empty text. */
            writer_text(w, "(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 0 0");
            if (extended)
                writer_text(w, " NIL NIL NIL NIL");
            writer_char(w, ')');
        }
        return;
    }
    read_part_texts(&r, &t);
    write_type(w, &p, &t);
    write_params(w, t.params, p.kind == PART_TEXT);
    write_space_nstring(w, t.id);
    write_space_nstring(w, t.description);
    write_space_nstring(w, t.encoding.data != NULL ? t.encoding : SLICE("7bit"));
    writer_char(w, ' ');
    writer_u64(w, p.body_size);
    if (p.kind == PART_TEXT) {
        writer_char(w, ' ');
        writer_u64(w, p.body_lines);
    } else if (p.kind == PART_MESSAGE) {
        writer_char(w, ' ');
        write_envelope(s, index + 1, w);
        writer_char(w, ' ');
    }
}

/* What stands behind them, or behind the leaf. */
static void write_part_end(const struct structure *s, uint32_t index, struct writer *w, bool extended)
{
    struct part_record p = read_part(s, index);
    struct text_reader r = texts_at(s, p.texts);
    struct part_texts t;

    read_part_texts(&r, &t);
    if (p.kind == PART_MULTIPART) {
        writer_char(w, ' ');
        imap_string_write(w, t.subtype.data != NULL ? t.subtype : SLICE("mixed"));
        if (extended)
            write_params(w, t.params, false);
    } else {
        if (p.kind == PART_MESSAGE) {
            writer_char(w, ' ');
            writer_u64(w, p.body_lines);
        }
        if (extended)
            write_space_nstring(w, t.md5);
    }
    if (extended)
        write_extension(w, &t);
    writer_char(w, ')');
}

static void write_structure(const struct structure *s, struct writer *w, bool extended)
{
    struct {
        uint16_t index, end;
    } open[MIME_DEPTH_MAX];
    uint32_t depth = 0;

    for (uint32_t i = 0; i < s->part_count; i++) {
        ASSERT(depth < MIME_DEPTH_MAX);
        write_part_begin(s, i, w, extended);
        open[depth].index = (uint16_t)i;
        open[depth++].end = (uint16_t)read_part(s, i).end;
        while (depth > 0 && open[depth - 1].end == i + 1)
            write_part_end(s, open[--depth].index, w, extended);
    }
}

void structure_write_body(const struct structure *s, struct writer *w)
{
    write_structure(s, w, false);
}

void structure_write_bodystructure(const struct structure *s, struct writer *w)
{
    write_structure(s, w, true);
}
