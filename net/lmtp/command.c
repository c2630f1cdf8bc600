/* Command lines: RFC 5321 4.1.1 as RFC 2033 changes it. */
#include "core/text.h"
#include "net/lmtp/address.h"

void lmtp_parser_init(struct lmtp_parser *p)
{
    memset(p, 0, sizeof *p);
}

static void bad(struct lmtp_command *c, enum lmtp_reply_id error)
{
    c->verb = LMTP_BAD;
    c->error = error;
}

/* ---- Arguments ----------------------------------------------------------------------------------------- */

/* The next word up to a blank; empty: there is none. */
static struct slice take_word(struct slice *in)
{
    size_t size = 0;

    *in = slice_trim_front(*in);
    while (size < in->size && !char_is_blank(in->data[size]))
        size++;
    struct slice word = slice_first(*in, size);
    *in = slice_from(*in, size);
    return word;
}

static void parse_lhlo(struct lmtp_command *c, struct slice arguments)
{
    c->domain = take_word(&arguments);
    if (c->domain.size == 0 || c->domain.size > LMTP_DOMAIN_MAX || slice_trim_front(arguments).size > 0)
        bad(c, LMTP_REPLY_BAD_ARGUMENT);
}

static bool all_digits(struct slice s)
{
    for (size_t i = 0; i < s.size; i++) {
        if (s.data[i] < '0' || s.data[i] > '9')
            return false;
    }
    return s.size > 0;
}

static bool mail_size(struct lmtp_command *c, struct slice value)
{
    if (!all_digits(value) || value.size > 20) {
        bad(c, LMTP_REPLY_BAD_ARGUMENT);
        return false;
    }
    if (!slice_to_u64(value, LMTP_SIZE_MAX, &c->size)) {
        bad(c, LMTP_REPLY_TOO_LARGE);
        return false;
    }
    return true;
}

/* Every byte is kept whatever it says. No BINARYMIME (RFC 3030, 3): IMAP clients could not read it. */
static bool mail_body(struct lmtp_command *c, struct slice value)
{
    if (!slice_eq_nocase(value, SLICE("7BIT")) && !slice_eq_nocase(value, SLICE("8BITMIME")))
        bad(c, LMTP_REPLY_BAD_ARGUMENT);
    return c->verb != LMTP_BAD;
}

static bool mail_parameters(struct lmtp_command *c, struct slice arguments)
{
    enum { SEEN_SIZE = 1, SEEN_BODY = 2, SEEN_UTF8 = 4 };
    unsigned seen = 0, now;
    struct slice word;

    while ((word = take_word(&arguments)).size > 0) {
        if (slice_starts_nocase(word, SLICE("SIZE="))) {
            now = SEEN_SIZE;
            if (!mail_size(c, slice_from(word, 5)))
                return false;
        } else if (slice_starts_nocase(word, SLICE("BODY="))) {
            now = SEEN_BODY;
            if (!mail_body(c, slice_from(word, 5)))
                return false;
        } else if (slice_eq_nocase(word, SLICE("SMTPUTF8"))) {
            now = SEEN_UTF8;
            c->smtputf8 = true;
        } else {
            now = seen = SEEN_UTF8; /* Unknown: answered as a repeated one is. */
        }
        if (seen & now) {
            bad(c, LMTP_REPLY_UNKNOWN_PARAMETER);
            return false;
        }
        seen |= now;
    }
    return true;
}

/* "FROM:" or "TO:", then the path; parameters stay in *arguments. */
static bool take_path(struct lmtp_command *c, struct slice *arguments, struct slice word, bool *eight_bit_out)
{
    struct slice at = slice_trim_front(*arguments);

    if (!slice_starts_nocase(at, word))
        return false;
    at = slice_trim_front(slice_from(at, word.size));
    if (!lmtp_path_parse(&at, c->unquoted, &c->path, eight_bit_out))
        return false;
    if (at.size > 0 && !char_is_blank(at.data[0]))
        return false;
    *arguments = at;
    return true;
}

static void parse_mail(struct lmtp_parser *p, struct lmtp_command *c, struct slice arguments)
{
    bool eight_bit;

    p->utf8 = false;
    if (!take_path(c, &arguments, SLICE("FROM:"), &eight_bit)) {
        bad(c, LMTP_REPLY_BAD_SENDER);
        return;
    }
    if (!mail_parameters(c, arguments))
        return;
    p->utf8 = c->smtputf8;
    if (eight_bit && !c->smtputf8)
        bad(c, LMTP_REPLY_UTF8_SENDER);
}

static void parse_rcpt(struct lmtp_parser *p, struct lmtp_command *c, struct slice arguments)
{
    bool eight_bit;

    if (!take_path(c, &arguments, SLICE("TO:"), &eight_bit) || c->path.text.size == 0)
        bad(c, LMTP_REPLY_BAD_RECIPIENT);
    else if (slice_trim_front(arguments).size > 0)
        bad(c, LMTP_REPLY_UNKNOWN_PARAMETER);
    else if (eight_bit && !p->utf8)
        bad(c, LMTP_REPLY_UTF8_RECIPIENT);
}

/* RFC 3030: a chunk follows the line at once, so a line that cannot be read ends the session. */
static void parse_bdat(struct lmtp_command *c, struct slice arguments)
{
    struct slice size = take_word(&arguments), last = take_word(&arguments);

    c->last = slice_eq_nocase(last, SLICE("LAST"));
    if (!slice_to_u64(size, LMTP_SIZE_MAX, &c->size) || (last.size > 0 && !c->last) ||
        slice_trim_front(arguments).size > 0) {
        bad(c, LMTP_REPLY_BAD_ARGUMENT);
        c->lost = true;
    }
}

/* ---- Lines --------------------------------------------------------------------------------------------- */

#define LMTP_VERBS(X)                                                                                        \
    X(LHLO)                                                                                                  \
    X(MAIL)                                                                                                  \
    X(RCPT)                                                                                                  \
    X(DATA)                                                                                                  \
    X(BDAT)                                                                                                  \
    X(RSET)                                                                                                  \
    X(NOOP)                                                                                                  \
    X(QUIT)                                                                                                  \
    X(VRFY)                                                                                                  \
    X(HELP)                                                                                                  \
    X(STARTTLS)                                                                                              \
    X(XCLIENT)

static enum lmtp_verb verb_of(struct slice word)
{
#define X(name)                                                                                              \
    if (slice_eq_nocase(word, SLICE(#name)))                                                                 \
        return LMTP_##name;
    LMTP_VERBS(X)
#undef X
    return LMTP_BAD;
}

static void parse_line(struct lmtp_parser *p, struct slice line, struct lmtp_command *c)
{
    struct slice word = take_word(&line);

    c->verb = verb_of(word);
    c->error = slice_eq_nocase(word, SLICE("HELO")) || slice_eq_nocase(word, SLICE("EHLO"))
                   ? LMTP_REPLY_USE_LHLO
                   : LMTP_REPLY_UNKNOWN_COMMAND;
    switch (c->verb) {
    case LMTP_LHLO:
        parse_lhlo(c, line);
        break;
    case LMTP_MAIL:
        parse_mail(p, c, line);
        break;
    case LMTP_RCPT:
        parse_rcpt(p, c, line);
        break;
    case LMTP_BDAT:
        parse_bdat(c, line);
        break;
    case LMTP_DATA:
    case LMTP_RSET:
    case LMTP_QUIT:
    case LMTP_STARTTLS:
        if (slice_trim_front(line).size > 0)
            bad(c, LMTP_REPLY_BAD_ARGUMENT);
        break;
    case LMTP_XCLIENT:
        c->arguments = slice_trim_front(line);
        break;
    case LMTP_NOOP: /* RFC 5321: an argument is allowed, and means nothing. */
    case LMTP_VRFY:
    case LMTP_HELP:
    case LMTP_BAD:
        break;
    }
}

static bool is_bdat(struct slice line)
{
    return slice_starts_nocase(slice_trim_front(line), SLICE("BDAT"));
}

/* Offset of the first CRLF at or behind `from`, or in.size. */
static size_t find_crlf(struct slice in, size_t from)
{
    for (size_t at = from; at < in.size; at++) {
        at += slice_find(slice_from(in, at), '\n');
        if (at > 0 && at < in.size && in.data[at - 1] == '\r')
            return at - 1;
    }
    return in.size;
}

static bool has_bad_bytes(struct slice line)
{
    return slice_find(line, '\r') < line.size || slice_find(line, '\n') < line.size ||
           slice_find(line, '\0') < line.size;
}

/* No CRLF in *input. Too much of it is thrown away, but for a CR whose LF may follow. */
static enum lmtp_next wait_for_line(struct lmtp_parser *p, struct slice *input)
{
    if (input->size < LMTP_LINE_MAX && !p->skipping) {
        p->scanned = (uint32_t)input->size;
        return LMTP_MORE;
    }
    if (!p->skipping)
        p->lost = is_bdat(*input);
    p->skipping = true;
    *input = slice_from(*input, input->size - (input->size > 0 && input->data[input->size - 1] == '\r'));
    p->scanned = (uint32_t)input->size;
    return LMTP_MORE;
}

enum lmtp_next lmtp_parser_next(struct lmtp_parser *p, struct slice *input, struct lmtp_command *command_out)
{
    size_t end = find_crlf(*input, MIN(p->scanned, input->size));
    bool skipping = p->skipping;
    struct slice line;

    if (end == input->size)
        return wait_for_line(p, input);
    line = slice_first(*input, end);
    *input = slice_from(*input, end + 2);
    p->scanned = 0;
    p->skipping = false;
    memset(command_out, 0, offsetof(struct lmtp_command, unquoted));
    if (skipping || line.size + 2 > LMTP_LINE_MAX) {
        bad(command_out, LMTP_REPLY_LINE_TOO_LONG);
        command_out->lost = skipping ? p->lost : is_bdat(line);
    } else if (has_bad_bytes(line)) {
        bad(command_out, LMTP_REPLY_BAD_BYTES);
        command_out->lost = is_bdat(line);
    } else {
        parse_line(p, line, command_out);
    }
    return LMTP_COMMAND;
}
