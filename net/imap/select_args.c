/* SELECT, EXAMINE (RFC 7162), CREATE (RFC 6154). */
#include "net/imap/args.h"

static bool qresync(struct lexer *lx, struct imap_select *s)
{
    s->qresync = true;
    if (!lexer_space(lx) || !lexer_char(lx, '(') || !lexer_number32(lx, &s->uidvalidity) ||
        !lexer_space(lx) || !lexer_modseq(lx, &s->modseq))
        return false;
    if (lexer_more(lx) && lexer_peek(lx) != '(') {
        if (!lexer_set(lx, &s->known_uids))
            return false;
        lexer_more(lx);
    }
    if (lexer_try(lx, '(')) {
        if (!lexer_set(lx, &s->match_seqs) || !lexer_space(lx) || !lexer_set(lx, &s->match_uids) ||
            !lexer_char(lx, ')'))
            return false;
    }
    return lexer_char(lx, ')');
}

static bool parameter(struct lexer *lx, struct imap_select *s)
{
    struct slice name = lexer_name(lx);

    if (slice_eq_nocase(name, SLICE("CONDSTORE"))) {
        s->condstore = true;
        return true;
    }
    if (slice_eq_nocase(name, SLICE("QRESYNC")))
        return qresync(lx, s);
    return lexer_bad(lx, "Unknown SELECT parameter");
}

bool args_select(struct lexer *lx, struct imap_parsed *p)
{
    if (!lexer_space(lx) || !lexer_mailbox(lx, &p->select.mailbox))
        return false;
    if (!lexer_more(lx))
        return true;
    if (!lexer_char(lx, '('))
        return false;
    do {
        if (!parameter(lx, &p->select))
            return false;
    } while (lexer_more(lx));
    return lexer_char(lx, ')');
}

static bool special_use(struct lexer *lx, uint32_t *uses)
{
    static const struct slice names[] = {{"All", 3},  {"Archive", 7}, {"Drafts", 6}, {"Flagged", 7},
                                         {"Junk", 4}, {"Sent", 4},    {"Trash", 5}};
    struct slice name;

    if (!lexer_char(lx, '\\') || !lexer_atom(lx, &name))
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (slice_eq_nocase(name, names[i])) {
            *uses |= 1u << i; /* In the order of enum imap_special_use. */
            return true;
        }
    }
    *uses |= IMAP_USE_OTHER;
    return true;
}

static bool use(struct lexer *lx, struct imap_create *c)
{
    struct slice name = lexer_name(lx);

    if (!slice_eq_nocase(name, SLICE("USE")))
        return lexer_bad(lx, "Unknown CREATE parameter");
    if (!lexer_space(lx) || !lexer_char(lx, '('))
        return false;
    if (lexer_try(lx, ')'))
        return true;
    do {
        if (!special_use(lx, &c->special_use))
            return false;
    } while (lexer_more(lx));
    return lexer_char(lx, ')');
}

bool args_create(struct lexer *lx, struct imap_parsed *p)
{
    struct imap_create *c = &p->create;

    if (!lexer_space(lx) || !lexer_mailbox(lx, &c->mailbox))
        return false;
    if (c->mailbox.size > 1 && c->mailbox.data[c->mailbox.size - 1] == MAILBOX_SEPARATOR) {
        c->trailing_separator = true;
        c->mailbox.size--;
    }
    if (!lexer_more(lx))
        return true;
    return lexer_char(lx, '(') && use(lx, c) && lexer_char(lx, ')');
}
