/* STORE (RFC 3501; RFC 7162: UNCHANGEDSINCE). */
#include "net/imap/args.h"

static bool modifier(struct lexer *lx, struct imap_store *s)
{
    if (!slice_eq_nocase(lexer_name(lx), SLICE("UNCHANGEDSINCE")))
        return lexer_bad(lx, "Unknown STORE modifier");
    s->unchanged_since = true;
    return lexer_space(lx) && lexer_modseq(lx, &s->modseq) && lexer_char(lx, ')') && lexer_space(lx);
}

static bool item(struct lexer *lx, struct imap_store *s)
{
    struct slice name;

    if (lexer_try(lx, '+'))
        s->mode = IMAP_STORE_ADD;
    else if (lexer_try(lx, '-'))
        s->mode = IMAP_STORE_REMOVE;
    name = lexer_name(lx);
    s->silent = slice_eq_nocase(name, SLICE("FLAGS.SILENT"));
    return s->silent || slice_eq_nocase(name, SLICE("FLAGS")) || lexer_bad(lx, "Unknown STORE item");
}

bool args_store(struct lexer *lx, struct imap_parsed *p)
{
    struct imap_store *s = &p->store;

    if (!lexer_space(lx) || !lexer_set(lx, &s->set) || !lexer_space(lx))
        return false;
    if (lexer_try(lx, '(') && !modifier(lx, s))
        return false;
    return item(lx, s) && lexer_space(lx) && lexer_flags(lx, lexer_try(lx, '('), &s->flags);
}
