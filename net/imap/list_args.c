/* LIST (RFC 3501; RFC 5258: extended; RFC 5819: STATUS; RFC 6154: SPECIAL-USE), LSUB, STATUS. */
#include "net/imap/args.h"

struct named_bit {
    struct slice name;
    uint32_t bit;
};

static uint32_t find_bit(const struct named_bit *names, size_t count, struct slice name)
{
    for (size_t i = 0; i < count; i++)
        if (slice_eq_nocase(name, names[i].name))
            return names[i].bit;
    return 0;
}

static bool status_items(struct lexer *lx, uint32_t *items)
{
    static const struct named_bit names[] = {
        {{"MESSAGES", 8}, IMAP_STATUS_MESSAGES}, {{"RECENT", 6}, IMAP_STATUS_RECENT},
        {{"UIDNEXT", 7}, IMAP_STATUS_UIDNEXT},   {{"UIDVALIDITY", 11}, IMAP_STATUS_UIDVALIDITY},
        {{"UNSEEN", 6}, IMAP_STATUS_UNSEEN},     {{"HIGHESTMODSEQ", 13}, IMAP_STATUS_HIGHESTMODSEQ},
        {{"SIZE", 4}, IMAP_STATUS_SIZE},         {{"DELETED", 7}, IMAP_STATUS_DELETED},
    };

    if (!lexer_char(lx, '('))
        return false;
    do {
        uint32_t bit = find_bit(names, ARRAY_COUNT(names), lexer_name(lx));

        if (bit == 0)
            return lexer_bad(lx, "Unknown status item");
        *items |= bit;
    } while (lexer_more(lx));
    return lexer_char(lx, ')');
}

bool args_status(struct lexer *lx, struct imap_parsed *p)
{
    return lexer_space(lx) && lexer_mailbox(lx, &p->status.mailbox) && lexer_space(lx) &&
           status_items(lx, &p->status.items);
}

bool args_lsub(struct lexer *lx, struct imap_parsed *p)
{
    struct imap_list *l = &p->list;

    l->patterns = arena_alloc(lx->arena, sizeof *l->patterns);
    l->pattern_count = 1;
    return lexer_space(lx) && lexer_mailbox(lx, &l->reference) && lexer_space(lx) &&
           lexer_pattern(lx, &l->patterns[0]);
}

static bool select_options(struct lexer *lx, struct imap_list *l)
{
    static const struct named_bit names[] = {
        {{"SUBSCRIBED", 10}, IMAP_LIST_SUBSCRIBED},
        {{"REMOTE", 6}, IMAP_LIST_REMOTE},
        {{"RECURSIVEMATCH", 14}, IMAP_LIST_RECURSIVEMATCH},
        {{"SPECIAL-USE", 11}, IMAP_LIST_SPECIAL_USE},
    };
    const uint32_t base = IMAP_LIST_SUBSCRIBED | IMAP_LIST_SPECIAL_USE;

    if (lexer_try(lx, ')'))
        return true;
    do {
        uint32_t bit = find_bit(names, ARRAY_COUNT(names), lexer_name(lx));

        if (bit == 0)
            return lexer_bad(lx, "Unknown LIST selection option");
        l->select_options |= bit;
    } while (lexer_more(lx));
    if (!lexer_char(lx, ')'))
        return false;
    if (l->select_options & IMAP_LIST_RECURSIVEMATCH && !(l->select_options & base))
        return lexer_bad(lx, "RECURSIVEMATCH needs another selection option"); /* RFC 5258, 3.1 */
    return true;
}

static bool return_options(struct lexer *lx, struct imap_list *l)
{
    static const struct named_bit names[] = {
        {{"SUBSCRIBED", 10}, IMAP_LIST_SUBSCRIBED},
        {{"CHILDREN", 8}, IMAP_LIST_CHILDREN},
        {{"SPECIAL-USE", 11}, IMAP_LIST_SPECIAL_USE},
        {{"STATUS", 6}, IMAP_LIST_STATUS},
    };

    if (!lexer_space(lx) || !lexer_char(lx, '('))
        return false;
    if (lexer_try(lx, ')'))
        return true;
    do {
        uint32_t bit = find_bit(names, ARRAY_COUNT(names), lexer_name(lx));

        if (bit == 0)
            return lexer_bad(lx, "Unknown LIST return option");
        l->return_options |= bit;
        if (bit == IMAP_LIST_STATUS && (!lexer_space(lx) || !status_items(lx, &l->status_items)))
            return false;
    } while (lexer_more(lx));
    return lexer_char(lx, ')');
}

static bool pattern(struct lexer *lx, struct imap_list *l)
{
    if (l->pattern_count == IMAP_LIST_PATTERNS_MAX)
        return lexer_bad(lx, "Too many patterns");
    l->patterns = lexer_grow(lx, l->patterns, l->pattern_count, sizeof *l->patterns);
    return lexer_pattern(lx, &l->patterns[l->pattern_count++]);
}

static bool patterns(struct lexer *lx, struct imap_list *l)
{
    if (!lexer_try(lx, '('))
        return pattern(lx, l);
    l->extended = true;
    do {
        if (!pattern(lx, l))
            return false;
    } while (lexer_more(lx));
    return lexer_char(lx, ')');
}

bool args_list(struct lexer *lx, struct imap_parsed *p)
{
    struct imap_list *l = &p->list;

    if (!lexer_space(lx))
        return false;
    if (lexer_try(lx, '(')) {
        l->extended = true;
        if (!select_options(lx, l) || !lexer_space(lx))
            return false;
    }
    if (!lexer_mailbox(lx, &l->reference) || !lexer_space(lx) || !patterns(lx, l))
        return false;
    if (!lexer_more(lx))
        return true;
    l->extended = true;
    if (!slice_eq_nocase(lexer_name(lx), SLICE("RETURN")))
        return lexer_bad(lx, "RETURN expected");
    return return_options(lx, l);
}
