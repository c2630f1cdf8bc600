/* SEARCH (RFC 3501; RFC 4731: RETURN; RFC 5032: OLDER, YOUNGER; RFC 5182: `$`; RFC 7162: MODSEQ). */
#include "net/imap/args.h"

#define NUMBER_MAX (UINT64_MAX >> 1)

enum key_args {
    NO_ARGS,
    TEXT,
    KEYWORD,
    FIELD_TEXT,
    NUMBER,
    SECONDS,
    DAY,
    SET,
    MODSEQ,
    NEW,
};

struct key_name {
    const char *name;
    uint8_t kind; /* enum imap_search_kind */
    uint8_t args; /* enum key_args */
    bool negated;
    uint8_t flag;      /* Of SEARCH_FLAG. */
    const char *field; /* Of SEARCH_HEADER with a name of its own. */
};

static const struct key_name names[] = {
    {"ALL", IMAP_SEARCH_ALL, NO_ARGS, false, 0, NULL},
    {"UID", IMAP_SEARCH_UID, SET, false, 0, NULL},
    {"UNSEEN", IMAP_SEARCH_FLAG, NO_ARGS, true, MAIL_SEEN, NULL},
    {"SEEN", IMAP_SEARCH_FLAG, NO_ARGS, false, MAIL_SEEN, NULL},
    {"DELETED", IMAP_SEARCH_FLAG, NO_ARGS, false, MAIL_DELETED, NULL},
    {"UNDELETED", IMAP_SEARCH_FLAG, NO_ARGS, true, MAIL_DELETED, NULL},
    {"ANSWERED", IMAP_SEARCH_FLAG, NO_ARGS, false, MAIL_ANSWERED, NULL},
    {"UNANSWERED", IMAP_SEARCH_FLAG, NO_ARGS, true, MAIL_ANSWERED, NULL},
    {"FLAGGED", IMAP_SEARCH_FLAG, NO_ARGS, false, MAIL_FLAGGED, NULL},
    {"UNFLAGGED", IMAP_SEARCH_FLAG, NO_ARGS, true, MAIL_FLAGGED, NULL},
    {"DRAFT", IMAP_SEARCH_FLAG, NO_ARGS, false, MAIL_DRAFT, NULL},
    {"UNDRAFT", IMAP_SEARCH_FLAG, NO_ARGS, true, MAIL_DRAFT, NULL},
    {"RECENT", IMAP_SEARCH_RECENT, NO_ARGS, false, 0, NULL},
    {"OLD", IMAP_SEARCH_RECENT, NO_ARGS, true, 0, NULL},
    {"NEW", IMAP_SEARCH_AND, NEW, false, 0, NULL},
    {"KEYWORD", IMAP_SEARCH_KEYWORD, KEYWORD, false, 0, NULL},
    {"UNKEYWORD", IMAP_SEARCH_KEYWORD, KEYWORD, true, 0, NULL},
    {"FROM", IMAP_SEARCH_HEADER, TEXT, false, 0, "From"},
    {"TO", IMAP_SEARCH_HEADER, TEXT, false, 0, "To"},
    {"CC", IMAP_SEARCH_HEADER, TEXT, false, 0, "Cc"},
    {"BCC", IMAP_SEARCH_HEADER, TEXT, false, 0, "Bcc"},
    {"SUBJECT", IMAP_SEARCH_HEADER, TEXT, false, 0, "Subject"},
    {"HEADER", IMAP_SEARCH_HEADER, FIELD_TEXT, false, 0, NULL},
    {"BODY", IMAP_SEARCH_BODY, TEXT, false, 0, NULL},
    {"TEXT", IMAP_SEARCH_TEXT, TEXT, false, 0, NULL},
    {"LARGER", IMAP_SEARCH_LARGER, NUMBER, false, 0, NULL},
    {"SMALLER", IMAP_SEARCH_SMALLER, NUMBER, false, 0, NULL},
    {"BEFORE", IMAP_SEARCH_BEFORE, DAY, false, 0, NULL},
    {"ON", IMAP_SEARCH_ON, DAY, false, 0, NULL},
    {"SINCE", IMAP_SEARCH_SINCE, DAY, false, 0, NULL},
    {"SENTBEFORE", IMAP_SEARCH_SENTBEFORE, DAY, false, 0, NULL},
    {"SENTON", IMAP_SEARCH_SENTON, DAY, false, 0, NULL},
    {"SENTSINCE", IMAP_SEARCH_SENTSINCE, DAY, false, 0, NULL},
    {"OLDER", IMAP_SEARCH_OLDER, SECONDS, false, 0, NULL},
    {"YOUNGER", IMAP_SEARCH_YOUNGER, SECONDS, false, 0, NULL},
    {"MODSEQ", IMAP_SEARCH_MODSEQ, MODSEQ, false, 0, NULL},
};

/* An inner node whose children are being read: the root, a parenthesis, or an OR. */
struct open_key {
    struct imap_search_key *key, *last; /* Last child. */
    uint32_t missing;                   /* OR: children that must still come. 0: not an OR. */
};

struct reader {
    struct lexer *lx;
    struct imap_search *search;
    bool negate; /* An odd number of NOTs before the next key. */
    uint32_t depth;
    struct open_key open[IMAP_SEARCH_DEPTH_MAX + 1];
};

static bool count_key(struct reader *r)
{
    return ++r->search->key_count <= IMAP_SEARCH_KEYS_MAX || lexer_bad(r->lx, "Too many search keys");
}

static struct imap_search_key *new_key(struct reader *r, enum imap_search_kind kind, bool negated)
{
    struct imap_search_key *key = arena_zalloc(r->lx->arena, sizeof *key);

    key->kind = kind;
    key->negated = negated != r->negate;
    r->negate = false;
    return key;
}

static void add_child(struct open_key *parent, struct imap_search_key *key)
{
    if (parent->last == NULL)
        parent->key->first = key;
    else
        parent->last->next = key;
    parent->last = key;
}

/* `key` is complete, and so may be the ORs around it. */
static void close_key(struct reader *r, struct imap_search_key *key)
{
    for (;;) {
        struct open_key *parent = &r->open[r->depth];

        add_child(parent, key);
        if (parent->missing == 0 || --parent->missing > 0)
            return;
        key = parent->key;
        r->depth--;
    }
}

static bool open_key(struct reader *r, enum imap_search_kind kind, uint32_t missing)
{
    if (r->depth == IMAP_SEARCH_DEPTH_MAX)
        return lexer_bad(r->lx, "Search keys nested too deeply");
    r->open[++r->depth] = (struct open_key){.key = new_key(r, kind, false), .missing = missing};
    return true;
}

/* OR within an OR needs no node of its own: (a or b) or c. */
static bool open_or(struct reader *r)
{
    struct open_key *top = &r->open[r->depth];

    if (top->missing == 0 || r->negate)
        return open_key(r, IMAP_SEARCH_OR, 2);
    top->missing++;
    return true;
}

/* `"/flags/\\draft" all`, if it is there: modification sequences of ours are those of whole messages. */
static bool modseq_entry(struct lexer *lx)
{
    struct slice ignored;

    if (lexer_peek(lx) != '"')
        return true;
    return lexer_string(lx, &ignored) && lexer_space(lx) && lexer_atom(lx, &ignored) && lexer_space(lx);
}

static bool day(struct lexer *lx, int32_t *day_out)
{
    struct slice text;

    return lexer_astring(lx, &text) && (date_parse_imap_day(text, day_out) || lexer_bad(lx, "Invalid date"));
}

static void add_new(struct reader *r, struct imap_search_key *key)
{
    struct open_key node = {.key = key};

    add_child(&node, new_key(r, IMAP_SEARCH_RECENT, false));
    add_child(&node, new_key(r, IMAP_SEARCH_FLAG, true));
    key->first->next->flag = MAIL_SEEN;
}

static bool key_args(struct reader *r, enum key_args args, struct imap_search_key *key)
{
    struct lexer *lx = r->lx;

    if (args == NEW)
        add_new(r, key);
    if (args == NO_ARGS || args == NEW)
        return true;
    if (!lexer_space(lx))
        return false;
    switch (args) {
    case TEXT:
        return lexer_astring(lx, &key->text);
    case KEYWORD:
        return lexer_atom(lx, &key->text);
    case FIELD_TEXT:
        return lexer_astring(lx, &key->field) && lexer_space(lx) && lexer_astring(lx, &key->text);
    case NUMBER:
        return lexer_number(lx, NUMBER_MAX, &key->number);
    case SECONDS:
        return lexer_number(lx, UINT32_MAX, &key->number) &&
               (key->number > 0 || lexer_bad(lx, "Invalid number")); /* RFC 5032: nz-number. */
    case DAY:
        return day(lx, &key->day);
    case SET:
        return lexer_set(lx, &key->set);
    case MODSEQ:
        r->search->uses_modseq = true;
        return modseq_entry(lx) && lexer_modseq(lx, &key->number);
    default:
        return false;
    }
}

static bool set_key(struct reader *r)
{
    struct imap_search_key *key = new_key(r, IMAP_SEARCH_SEQ, false);

    if (!lexer_set(r->lx, &key->set))
        return false;
    close_key(r, key);
    return true;
}

static bool named_key(struct reader *r, struct slice name)
{
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        const struct key_name *n = &names[i];
        struct imap_search_key *key;

        if (!slice_eq_nocase(name, slice_str(n->name)))
            continue;
        key = new_key(r, n->kind, n->negated);
        key->flag = n->flag;
        if (n->field != NULL)
            key->field = slice_str(n->field);
        if (!key_args(r, n->args, key))
            return false;
        close_key(r, key);
        return true;
    }
    return lexer_bad(r->lx, name.size == 0 ? "Search key expected" : "Unknown search key");
}

/* One key, or the beginning of one: *more then says that another must follow, with a blank before it if
 * *blank. */
static bool key_begin(struct reader *r, bool *more, bool *blank)
{
    char c = lexer_peek(r->lx);
    struct slice name;

    *more = *blank = false;
    if (!count_key(r))
        return false;
    if (lexer_try(r->lx, '(')) {
        *more = true;
        lexer_more(r->lx);
        return open_key(r, IMAP_SEARCH_AND, 0);
    }
    if ((c >= '0' && c <= '9') || c == '*' || c == '$')
        return set_key(r);
    name = lexer_name(r->lx);
    *more = *blank = true;
    if (slice_eq_nocase(name, SLICE("NOT"))) {
        r->negate = !r->negate;
        return true;
    }
    if (slice_eq_nocase(name, SLICE("OR")))
        return open_or(r);
    *more = *blank = false;
    return named_key(r, name);
}

static bool parenthesis_end(struct reader *r)
{
    struct open_key *top = &r->open[r->depth];
    struct imap_search_key *key = top->key;

    if (r->depth == 0 || top->missing > 0)
        return lexer_bad(r->lx, r->depth == 0 ? "Unbalanced ')'" : "Search key expected");
    r->lx->at++;
    r->depth--;
    close_key(r, key);
    return true;
}

/* Behind a complete key: parentheses that end here, then a blank and another key, or the end. */
static bool key_end(struct reader *r, bool *done)
{
    for (;;) {
        bool blank = lexer_more(r->lx);
        char c = lexer_peek(r->lx);

        if (c != ')') {
            *done = c == '\0';
            return *done || blank || lexer_bad(r->lx, "Invalid arguments");
        }
        if (!parenthesis_end(r))
            return false;
    }
}

static bool keys(struct reader *r)
{
    bool done = false;

    while (!done) {
        bool more, blank;

        if (!key_begin(r, &more, &blank))
            return false;
        if (blank && !lexer_space(r->lx))
            return false;
        if (!more && !key_end(r, &done))
            return false;
    }
    return r->depth == 0 || lexer_bad(r->lx, "Search key expected");
}

static bool return_options(struct lexer *lx, struct imap_search *s)
{
    static const struct slice options[] = {{"MIN", 3}, {"MAX", 3}, {"ALL", 3}, {"COUNT", 5}, {"SAVE", 4}};
    size_t i;

    s->extended = true;
    if (!lexer_space(lx) || !lexer_char(lx, '('))
        return false;
    if (lexer_try(lx, ')')) {
        s->returns = IMAP_RETURN_ALL;
        return true;
    }
    do {
        struct slice name = lexer_name(lx);

        for (i = 0; i < ARRAY_COUNT(options) && !slice_eq_nocase(name, options[i]); i++)
            ;
        if (i == ARRAY_COUNT(options))
            return lexer_bad(lx, "Unknown SEARCH return option");
        s->returns |= 1u << i; /* In the order of enum imap_search_return. */
    } while (lexer_more(lx));
    return lexer_char(lx, ')');
}

static bool charset(struct lexer *lx)
{
    struct slice name;

    if (!lexer_space(lx) || !lexer_astring(lx, &name))
        return false;
    if (slice_eq_nocase(name, SLICE("UTF-8")) || slice_eq_nocase(name, SLICE("US-ASCII")))
        return true;
    return lexer_no(lx, "BADCHARSET (US-ASCII UTF-8)", "Unknown charset");
}

/* Takes `word` and what belongs to it when it stands here. */
static bool takes(struct lexer *lx, struct slice word)
{
    const char *before = lx->at;

    if (slice_eq_nocase(lexer_name(lx), word))
        return true;
    lx->at = before;
    return false;
}

bool args_search(struct lexer *lx, struct imap_parsed *p)
{
    struct imap_search *s = &p->search;
    struct reader r = {.lx = lx, .search = s};

    if (!lexer_space(lx))
        return false;
    if (takes(lx, SLICE("RETURN")) && (!return_options(lx, s) || !lexer_space(lx)))
        return false;
    if (takes(lx, SLICE("CHARSET")) && (!charset(lx) || !lexer_space(lx)))
        return false;
    r.open[0].key = s->key = new_key(&r, IMAP_SEARCH_AND, false);
    return keys(&r);
}
