#include "net/imap/framer.h"
#include "net/imap/chars.h"

#define SASL_COMMAND_SIZE_MAX (IMAP_SASL_LINE_MAX + 256) /* With tag, name and mechanism. */
#define PRELOGIN_LITERALS_MAX 64                         /* An ID command of literals alone. */
#define WORDS_MAX             3

const struct imap_framer_limits imap_framer_prelogin = {
    .size_max = IMAP_PRELOGIN_SIZE_MAX,
    .sasl_size_max = SASL_COMMAND_SIZE_MAX,
    .discard_size_max = IMAP_SASL_LINE_MAX,
    .append_discard_size_max = IMAP_SASL_LINE_MAX,
    .literals_max = PRELOGIN_LITERALS_MAX,
};

const struct imap_framer_limits imap_framer_session = {
    .size_max = IMAP_COMMAND_SIZE_MAX,
    .sasl_size_max = IMAP_COMMAND_SIZE_MAX,
    .discard_size_max = IMAP_DISCARD_SIZE_MAX,
    .append_discard_size_max = IMAP_APPEND_DISCARD_SIZE_MAX,
    .literals_max = IMAP_LITERALS_MAX,
    .append = true,
};

/* What the next byte is part of.
 *
 *   TAG -> NAME [-> UID_WORD] -> TEXT <-> QUOTED <-> ESCAPED
 *                                 |  ^
 *   TEXT -> HEADER -> HEADER_PLUS -> HEADER_END -> HEADER_CR -> LITERAL | HELD -> STREAM -> TEXT
 *   NAME, UID_WORD, TEXT, QUOTED -> CR -> the end of the command */
enum state {
    TAG,
    NAME,
    UID_WORD,
    TEXT,
    QUOTED,
    ESCAPED,
    CR,
    HEADER,      /* Behind '{': digits. */
    HEADER_PLUS, /* Behind '+': only '}'. */
    HEADER_END,  /* Behind '}': only a line end. */
    HEADER_CR,
    LITERAL, /* Counted, kept or skipped. */
    HELD,    /* The owner owes the answer to IMAP_FRAME_LITERAL. */
    STREAM,  /* Counted, handed out. */
};

/* One call of imap_framer_next(). */
struct cut {
    struct imap_framer *f;
    struct slice in;
    size_t base; /* Bytes before it are done with; offsets in the framer begin here. */
    struct imap_frame *out;
};

void imap_framer_init(struct imap_framer *f, const struct imap_framer_limits *limits)
{
    *f = (struct imap_framer){.limits = limits, .state = TAG};
}

void imap_framer_set_limits(struct imap_framer *f, const struct imap_framer_limits *limits)
{
    ASSERT(imap_framer_idle(f));
    f->limits = limits;
}

bool imap_framer_idle(const struct imap_framer *f)
{
    return f->state == TAG && f->scanned == 0 && !f->skipping;
}

bool imap_framer_restarts(const struct imap_framer *f)
{
    return f->literal_count == 0 && !f->streamed && !f->skipping;
}

static uint32_t size_max(const struct imap_framer *f)
{
    return imap_command_has(f->command, IMAP_HAS_SASL) ? f->limits->sasl_size_max : f->limits->size_max;
}

/* How many words of an APPEND stand before its messages, the mailbox included. */
static unsigned append_words(const struct imap_framer *f)
{
    return f->command->id == IMAP_APPEND ? 1 : 2; /* REPLACE: a number goes before the mailbox. */
}

static void describe(struct cut *c)
{
    struct imap_framer *f = c->f;
    const char *text = c->in.data + c->base;

    if (f->streamed || f->skipping)
        return;
    c->out->tag = slice_of(text, f->tag_size);
    c->out->name = slice_of(text + f->name_offset, f->name_size);
    c->out->command = f->command;
}

/* The event takes all bytes up to here. */
static void consume(struct cut *c)
{
    c->base += c->f->scanned;
    c->f->scanned = 0;
    c->out->consumed = c->base;
}

static void reset(struct cut *c)
{
    c->base += c->f->scanned;
    imap_framer_init(c->f, c->f->limits);
}

/* Gives up; true. */
static bool too_big(struct cut *c, const char *reason)
{
    c->out->kind = IMAP_FRAME_TOO_BIG;
    c->out->reason = reason;
    c->out->too_big = true;
    consume(c);
    return true;
}

/* The command is BAD; its rest is skipped. True: an event. Those who are skipping have said so before. */
static bool bad(struct cut *c, const char *reason, bool limit)
{
    struct imap_framer *f = c->f;

    if (f->skipping)
        return false;
    describe(c);
    c->out->kind = IMAP_FRAME_BAD;
    c->out->reason = reason;
    c->out->too_big = limit;
    f->skipping = true;
    if (f->state < TEXT) /* Tag and name point into bytes that are now dropped. */
        f->state = TEXT;
    if (f->state_before_cr < TEXT)
        f->state_before_cr = TEXT;
    f->discard_max = f->limits->discard_size_max;
    consume(c);
    return true;
}

/* BAD, and the command ends here. */
static bool bad_end(struct cut *c, const char *reason, bool limit)
{
    bool event = bad(c, reason, limit);

    reset(c);
    if (event)
        c->out->consumed = c->base;
    return event;
}

static bool end(struct cut *c)
{
    struct imap_framer *f = c->f;

    if (f->skipping) {
        reset(c);
        return false;
    }
    describe(c);
    c->out->kind = f->streamed ? IMAP_FRAME_END : IMAP_FRAME_WHOLE;
    c->out->text = slice_of(c->in.data + c->base, f->scanned);
    c->out->literal_count = f->streamed ? 0 : f->literal_count;
    reset(c);
    c->out->consumed = c->base;
    return true;
}

static bool line_end(struct cut *c, enum state state)
{
    switch (state) {
    case TAG:
        return bad_end(c, "Command expected", false);
    case NAME:
        if (c->f->name_size == 0)
            return bad_end(c, "Command name expected", false);
        return end(c);
    case QUOTED:
    case ESCAPED:
        return bad_end(c, "Quoted string without end", false);
    default:
        return end(c);
    }
}

/* A non-synchronising literal of a command that is skipped. */
static bool skip_literal(struct cut *c)
{
    struct imap_framer *f = c->f;

    if (f->literal > f->discard_max)
        return too_big(c, "Literal too big");
    f->state = LITERAL;
    return false;
}

/* The command is BAD because of its literal, whose header was just read. */
static bool refuse_literal(struct cut *c, const char *reason, bool limit)
{
    struct imap_framer *f = c->f;

    if (f->sync)
        return bad_end(c, reason, limit); /* The client waits for '+', reads BAD instead and sends nothing. */
    if (!f->skipping && f->literal > f->limits->discard_size_max)
        return too_big(c, reason);
    if (bad(c, reason, limit)) {
        f->state = LITERAL;
        return true;
    }
    return skip_literal(c);
}

/* Behind the line end of a literal's header. */
static bool header_end(struct cut *c)
{
    struct imap_framer *f = c->f;

    if (f->skipping)
        return refuse_literal(c, NULL, false);
    if (f->literal_count >= f->limits->literals_max)
        return refuse_literal(c, "Too many literals", true);
    f->literal_count++;
    c->out->literal_size = f->literal;
    c->out->literal_sync = f->sync;
    c->out->literal_binary = f->binary;
    if (f->limits->append && imap_command_has(f->command, IMAP_HAS_APPEND) && f->words >= append_words(f)) {
        describe(c);
        c->out->kind = IMAP_FRAME_LITERAL;
        c->out->text = slice_of(c->in.data + c->base, f->scanned);
        consume(c);
        f->streamed = true;
        f->state = HELD;
        return true;
    }
    if (f->literal > size_max(f) - f->size)
        return refuse_literal(c, "Literal too big", true);
    f->size += (uint32_t)f->literal;
    f->state = LITERAL;
    if (!f->sync)
        return false;
    describe(c);
    c->out->kind = IMAP_FRAME_CONTINUE;
    return true;
}

/* Is the byte before the current one `ch`? */
static bool follows(const struct cut *c, char ch)
{
    return c->f->scanned > 1 && c->in.data[c->base + c->f->scanned - 2] == ch;
}

static void header_begin(struct cut *c)
{
    struct imap_framer *f = c->f;

    f->binary = follows(c, '~');
    f->literal = 0;
    f->digits = false;
    f->sync = true;
    f->state = HEADER;
}

static void header_digit(struct imap_framer *f, char ch)
{
    unsigned digit = (unsigned)(ch - '0');

    f->digits = true;
    if (f->literal > (UINT64_MAX - digit) / 10)
        f->literal = UINT64_MAX; /* Stays there: above every limit. */
    else
        f->literal = f->literal * 10 + digit;
}

/* One byte of a literal's header. */
static bool on_header(struct cut *c, char ch)
{
    struct imap_framer *f = c->f;

    if (f->state == HEADER && ch >= '0' && ch <= '9') {
        header_digit(f, ch);
    } else if (f->state == HEADER && ch == '+' && f->digits) {
        f->sync = false;
        f->state = HEADER_PLUS;
    } else if (ch == '}' && f->digits && (f->state == HEADER || f->state == HEADER_PLUS)) {
        f->state = HEADER_END;
    } else if (f->state == HEADER_END && ch == '\r') {
        f->state = HEADER_CR;
    } else if (f->state == HEADER_CR && ch == '\n') {
        return header_end(c);
    } else if (f->state == HEADER_END && ch == '\n') {
        /* Whoever wrote this may mean a literal or not; the bytes of one are skipped, so that they are no
         * command. */
        return refuse_literal(c, "Literal without CRLF", false);
    } else {
        f->scanned--; /* Look again: it may be a quote, a line end or another '{'. */
        f->size--;
        f->state = f->state == HEADER_CR ? CR : TEXT;
        f->state_before_cr = TEXT;
        return bad(c, "Invalid literal", false);
    }
    return false;
}

static bool name_end(struct cut *c, struct slice word, bool uid)
{
    struct imap_framer *f = c->f;

    if (word.size == 0)
        return bad(c, "Command name expected", false);
    f->command = imap_command_find(word, uid);
    return false;
}

/* One byte of the tag, the name, or the word behind UID. */
static bool on_head(struct cut *c, char ch)
{
    struct imap_framer *f = c->f;
    const char *text = c->in.data + c->base;
    uint32_t at = f->scanned - 1; /* Of `ch`. */

    if (f->state == TAG) {
        if (ch == ' ' && at > 0) {
            f->tag_size = (uint8_t)at;
            f->name_offset = (uint16_t)f->scanned;
            f->state = NAME;
            return false;
        }
        if (imap_is_tag_char(ch) && at < IMAP_TAG_SIZE_MAX)
            return false;
    } else if (ch == ' ') {
        uint16_t offset = f->state == NAME ? f->name_offset : f->word_offset;
        struct slice word = slice_of(text + offset, at - offset);
        bool first = f->state == NAME;

        if (first)
            f->name_size = (uint16_t)word.size;
        f->word_offset = (uint16_t)f->scanned;
        f->state = first && slice_eq_nocase(word, SLICE("UID")) ? UID_WORD : TEXT;
        return f->state == UID_WORD ? false : name_end(c, word, !first);
    } else if (imap_is_atom_char(ch)) {
        return false;
    }
    f->scanned--;
    f->size--;
    if (f->state == NAME)
        f->name_size = (uint16_t)(at - f->name_offset);
    return bad(c, f->state == TAG ? "Invalid tag" : "Invalid command name", false);
}

/* A line end inside tag or name: they end there. */
static void head_end(struct cut *c)
{
    struct imap_framer *f = c->f;
    const char *text = c->in.data + c->base;
    uint32_t at = f->scanned - 1;

    if (f->state == TAG) {
        f->tag_size = (uint8_t)MIN(at, IMAP_TAG_SIZE_MAX);
    } else if (f->state == NAME) {
        f->name_size = (uint16_t)(at - f->name_offset);
        f->command = imap_command_find(slice_of(text + f->name_offset, f->name_size), false);
    } else if (f->state == UID_WORD) {
        f->command = imap_command_find(slice_of(text + f->word_offset, at - f->word_offset), true);
    }
}

/* One byte outside of literals and their headers. True: an event. */
static bool on_byte(struct cut *c, char ch)
{
    struct imap_framer *f = c->f;

    if (f->state == CR) {
        if (ch == '\n')
            return line_end(c, f->state_before_cr);
        f->scanned--;
        f->size--;
        f->state = f->state_before_cr;
        return bad(c, "CR without LF", false);
    }
    switch (ch) {
    case '\r':
        head_end(c);
        f->state_before_cr = f->state;
        f->state = CR;
        return false;
    case '\n':
        head_end(c);
        return line_end(c, f->state);
    case '\0':
        return bad(c, "NUL in command", false);
    }
    switch ((enum state)f->state) {
    case QUOTED:
        if (ch == '"')
            f->state = TEXT;
        else if (ch == '\\')
            f->state = ESCAPED;
        return false;
    case ESCAPED:
        f->state = QUOTED;
        return false;
    case TEXT:
        if (ch == '"')
            f->state = QUOTED;
        else if (ch == '{')
            header_begin(c);
        else if (ch == ' ' && f->words < WORDS_MAX && !follows(c, ' '))
            f->words++;
        return false;
    default:
        return on_head(c, ch);
    }
}

/* Bytes of a literal, at least one of them here. True: an event. */
static bool on_literal(struct cut *c, size_t size)
{
    struct imap_framer *f = c->f;

    size = (size_t)MIN((uint64_t)size, f->literal);
    f->literal -= size;
    f->scanned += (uint32_t)size;
    if (f->state == LITERAL)
        return false;
    c->out->kind = IMAP_FRAME_DATA;
    c->out->text = slice_of(c->in.data + c->base, size);
    c->out->literal_left = f->literal;
    consume(c);
    return true;
}

/* Drops what was skipped. True: that was too much. */
static bool skip_scanned(struct cut *c)
{
    struct imap_framer *f = c->f;

    if (!f->skipping)
        return false;
    if (f->scanned > f->discard_max)
        return too_big(c, "Command too long");
    f->discard_max -= f->scanned;
    c->base += f->scanned;
    f->scanned = 0;
    return false;
}

/* Steps over the bytes that change nothing. `left` bytes are there. Returns how many are left. */
static size_t run(struct cut *c, size_t left)
{
    static const uint8_t classes[] = {
        [TAG] = IMAP_CHAR_TAG,    [NAME] = IMAP_CHAR_ATOM,    [UID_WORD] = IMAP_CHAR_ATOM,
        [TEXT] = IMAP_CHAR_PLAIN, [QUOTED] = IMAP_CHAR_PLAIN,
    };
    struct imap_framer *f = c->f;
    const char *text = c->in.data + c->base + f->scanned;
    size_t limit = left, size = 0;

    if (f->state > QUOTED)
        return left;
    if (!f->skipping)
        limit = MIN(limit, size_max(f) - f->size);
    if (f->state == TAG)
        limit = MIN(limit, IMAP_TAG_SIZE_MAX - f->scanned);
    while (size < limit && imap_char_classes[(unsigned char)text[size]] & classes[f->state])
        size++;
    f->scanned += (uint32_t)size;
    f->size += (uint32_t)size;
    return left - size;
}

/* Looks at the bytes from f->scanned on, until there is an event. */
static bool scan(struct cut *c)
{
    struct imap_framer *f = c->f;

    for (;;) {
        size_t left = c->in.size - c->base - f->scanned;
        bool event;

        if (f->state == LITERAL || f->state == STREAM) {
            if (f->literal == 0) {
                f->state = TEXT;
                continue;
            }
            if (left == 0)
                return false;
            if (on_literal(c, MIN(left, (size_t)UINT32_MAX / 2)) || skip_scanned(c))
                return true;
            continue;
        }
        left = run(c, left);
        if (left == 0)
            return skip_scanned(c);
        if (!f->skipping && f->size >= size_max(f)) {
            if (bad(c, "Command too long", true))
                return true;
        }
        f->scanned++;
        f->size++;
        if (f->state >= HEADER)
            event = on_header(c, c->in.data[c->base + f->scanned - 1]);
        else
            event = on_byte(c, c->in.data[c->base + f->scanned - 1]);
        if (event || skip_scanned(c))
            return true;
    }
}

void imap_framer_next(struct imap_framer *f, struct slice in, struct imap_frame *frame_out)
{
    struct cut c = {.f = f, .in = in, .out = frame_out};

    ASSERT(f->state != HELD);
    ASSERT(f->scanned <= in.size);
    *frame_out = (struct imap_frame){.kind = IMAP_FRAME_MORE};
    if (scan(&c)) {
        if (frame_out->kind == IMAP_FRAME_CONTINUE)
            frame_out->consumed = c.base;
        return;
    }
    frame_out->consumed = c.base;
    frame_out->wanted = f->state == LITERAL ? (uint32_t)MIN(f->literal, IMAP_COMMAND_SIZE_MAX) + 1 : 1;
}

void imap_framer_literal_take(struct imap_framer *f)
{
    ASSERT(f->state == HELD);
    f->state = STREAM;
}

void imap_framer_literal_refuse(struct imap_framer *f)
{
    ASSERT(f->state == HELD);
    if (f->sync) {
        imap_framer_init(f, f->limits);
        return;
    }
    f->skipping = true;
    f->discard_max = f->limits->append_discard_size_max;
    f->state = LITERAL;
}

void imap_framer_line(struct imap_framer *f, struct slice in, uint32_t line_size_max,
                      struct imap_frame *frame_out)
{
    struct slice line, rest;

    ASSERT(f->state == TAG && !f->skipping);
    ASSERT(f->scanned <= in.size);
    *frame_out = (struct imap_frame){.kind = IMAP_FRAME_MORE, .wanted = 1};
    rest = slice_from(in, f->scanned);
    line = slice_first(in, f->scanned + slice_find(rest, '\n'));
    if (line.size > (size_t)line_size_max + 1) { /* The line and a CR. */
        frame_out->kind = IMAP_FRAME_TOO_BIG;
        frame_out->reason = "Line too long";
        frame_out->too_big = true;
        return;
    }
    if (line.size == in.size) {
        f->scanned = (uint32_t)in.size;
        return;
    }
    f->scanned = 0;
    frame_out->consumed = line.size + 1;
    if (line.size > 0 && line.data[line.size - 1] == '\r')
        line.size--;
    frame_out->kind = IMAP_FRAME_WHOLE;
    frame_out->text = line;
    if (slice_find(line, '\0') < line.size || slice_find(line, '\r') < line.size) {
        frame_out->kind = IMAP_FRAME_BAD;
        frame_out->reason = "Invalid bytes in line";
    }
}

size_t imap_literal_header(struct slice text, uint64_t *size_out, bool *sync_out)
{
    struct imap_framer f = {0}; /* Only for its number. */
    size_t at = 1;

    if (text.size == 0 || text.data[0] != '{')
        return 0;
    for (; at < text.size && text.data[at] >= '0' && text.data[at] <= '9'; at++)
        header_digit(&f, text.data[at]);
    *sync_out = true;
    if (at < text.size && text.data[at] == '+') {
        *sync_out = false;
        at++;
    }
    if (!f.digits || text.size - at < 3 || memcmp(text.data + at, "}\r\n", 3) != 0)
        return 0;
    *size_out = f.literal;
    return at + 3;
}
