/* APPEND (RFC 3501; RFC 3502: MULTIAPPEND; RFC 3516: literal8; RFC 6855: UTF8), REPLACE (RFC 8508). */
#include "net/imap/args.h"

static bool date(struct lexer *lx, struct imap_append_message *m)
{
    struct slice text;

    if (!lexer_string(lx, &text))
        return false;
    m->has_date = true;
    return date_parse_imap_time(text, &m->date) || lexer_bad(lx, "Invalid date");
}

/* `UTF8 (`, or what is not offered. */
static bool extension(struct lexer *lx, struct imap_append_message *m)
{
    struct slice name = lexer_name(lx);

    if (slice_eq_nocase(name, SLICE("CATENATE")))
        return lexer_bad(lx, "CATENATE is not supported");
    if (!slice_eq_nocase(name, SLICE("UTF8")))
        return lexer_bad(lx, "Message literal expected");
    m->utf8 = true;
    return lexer_space(lx) && lexer_char(lx, '(') &&
           (lexer_peek(lx) == '~' || lexer_bad(lx, "literal8 expected"));
}

static bool message(struct lexer *lx, struct imap_append_message *m)
{
    *m = (struct imap_append_message){0};
    if (lexer_try(lx, '(') && (!lexer_flags(lx, true, &m->flags) || !lexer_space(lx)))
        return false;
    if (lexer_peek(lx) == '"' && (!date(lx, m) || !lexer_space(lx)))
        return false;
    if (lexer_peek(lx) != '{' && lexer_peek(lx) != '~' && !extension(lx, m))
        return false;
    return lexer_append_header(lx, m);
}

bool args_append(struct lexer *lx, struct imap_parsed *p)
{
    return lexer_space(lx) && lexer_mailbox(lx, &p->append.mailbox) && lexer_space(lx) &&
           message(lx, &p->append.message);
}

bool args_replace(struct lexer *lx, struct imap_parsed *p)
{
    if (!lexer_space(lx) || !lexer_number32(lx, &p->append.replaced))
        return false;
    if (p->append.replaced == 0)
        return lexer_bad(lx, "Invalid number");
    return args_append(lx, p);
}

enum imap_append_result imap_parse_append_next(struct arena *arena, struct slice text,
                                               struct imap_append_message *previous,
                                               struct imap_parse_error *error_out)
{
    struct lexer lx;

    lexer_init(&lx, arena, text, false, error_out);
    if (previous->utf8 && !lexer_char(&lx, ')'))
        return IMAP_APPEND_BAD;
    if (lexer_more(&lx))
        return message(&lx, previous) ? IMAP_APPEND_MESSAGE : IMAP_APPEND_BAD;
    return lexer_line_end(&lx) ? IMAP_APPEND_END : IMAP_APPEND_BAD;
}
