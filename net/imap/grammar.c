#include "net/imap/args.h"

#include "net/imap/chars.h"

int imap_set_resolve(const struct imap_set *set, uint32_t star, struct uid_set *numbers_out)
{
    ASSERT(!set->saved);
    uid_set_clear(numbers_out);
    return uid_set_parse(numbers_out, set->text, star);
}

/* ---- Small arguments ----------------------------------------------------------------------------------- */

static bool args_none(struct lexer *lx, struct imap_parsed *p)
{
    return true;
}

static bool args_login(struct lexer *lx, struct imap_parsed *p)
{
    return lexer_space(lx) && lexer_astring(lx, &p->login.user) && lexer_space(lx) &&
           lexer_astring(lx, &p->login.password);
}

static bool is_base64(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '/' || c == '=';
}

static bool args_authenticate(struct lexer *lx, struct imap_parsed *p)
{
    struct imap_authenticate *a = &p->authenticate;
    const char *first;

    if (!lexer_space(lx) || !lexer_atom(lx, &a->mechanism))
        return false;
    a->has_initial = lexer_more(lx);
    if (!a->has_initial)
        return true;
    first = lx->at;
    while (is_base64(lexer_peek(lx)))
        lx->at++;
    a->initial = slice_of(first, (size_t)(lx->at - first));
    if (a->initial.size == 0)
        return lexer_bad(lx, "Invalid initial response");
    if (slice_eq(a->initial, SLICE("=")))
        a->initial.size = 0;
    return true;
}

static bool has_control(struct slice s)
{
    for (size_t i = 0; i < s.size; i++)
        if ((unsigned char)s.data[i] < ' ' || s.data[i] == 0x7f)
            return true;
    return false;
}

/* What is logged and passed on: no line ends. */
static bool id_pair(struct lexer *lx, struct imap_id_pair *pair)
{
    if (!lexer_astring(lx, &pair->name) || !lexer_space(lx) || !lexer_nstring(lx, &pair->value))
        return false;
    pair->nil = pair->value.data == NULL;
    if (pair->name.size > IMAP_ID_NAME_SIZE_MAX || pair->value.size > IMAP_ID_VALUE_SIZE_MAX)
        return lexer_bad(lx, "ID parameter too long");
    if (has_control(pair->name) || has_control(pair->value))
        return lexer_bad(lx, "Control characters in ID");
    return true;
}

static bool args_id(struct lexer *lx, struct imap_parsed *p)
{
    struct imap_id *id = &p->id;
    struct slice nil;

    if (!lexer_space(lx))
        return false;
    if (!lexer_try(lx, '('))
        return lexer_atom(lx, &nil) &&
               (slice_eq_nocase(nil, SLICE("NIL")) || lexer_bad(lx, "List or NIL expected"));
    while (lexer_try(lx, ' '))
        ;
    while (!lexer_try(lx, ')')) {
        if (id->count == IMAP_ID_PAIRS_MAX)
            return lexer_bad(lx, "Too many ID parameters");
        id->pairs = lexer_grow(lx, id->pairs, id->count, sizeof *id->pairs);
        if (!id_pair(lx, &id->pairs[id->count]))
            return false;
        id->count++;
        if (lexer_peek(lx) != ')' && !lexer_space(lx))
            return false;
    }
    return true;
}

static bool args_enable(struct lexer *lx, struct imap_parsed *p)
{
    static const struct {
        struct slice name;
        uint32_t bit;
    } known[] = {
        {{"CONDSTORE", 9}, IMAP_ENABLE_CONDSTORE},
        {{"QRESYNC", 7}, IMAP_ENABLE_QRESYNC},
        {{"UTF8=ACCEPT", 11}, IMAP_ENABLE_UTF8_ACCEPT},
        {{"IMAP4rev2", 9}, IMAP_ENABLE_IMAP4REV2},
    };
    struct slice name;

    if (!lexer_space(lx))
        return false;
    do {
        if (!lexer_atom(lx, &name))
            return false;
        for (size_t i = 0; i < ARRAY_COUNT(known); i++)
            if (slice_eq_nocase(name, known[i].name))
                p->enable |= known[i].bit;
    } while (lexer_more(lx));
    return true;
}

static bool args_mailbox(struct lexer *lx, struct imap_parsed *p)
{
    return lexer_space(lx) && lexer_mailbox(lx, &p->mailbox.mailbox);
}

static bool args_rename(struct lexer *lx, struct imap_parsed *p)
{
    return lexer_space(lx) && lexer_mailbox(lx, &p->rename.from) && lexer_space(lx) &&
           lexer_mailbox(lx, &p->rename.to);
}

static bool args_copy(struct lexer *lx, struct imap_parsed *p)
{
    return lexer_space(lx) && lexer_set(lx, &p->copy.set) && lexer_space(lx) &&
           lexer_mailbox(lx, &p->copy.mailbox);
}

static bool args_uid_expunge(struct lexer *lx, struct imap_parsed *p)
{
    return lexer_space(lx) && lexer_set(lx, &p->expunge);
}

static bool args_compress(struct lexer *lx, struct imap_parsed *p)
{
    return lexer_space(lx) && lexer_atom(lx, &p->compress);
}

/* ---- Commands ------------------------------------------------------------------------------------------ */

typedef bool parse_args(struct lexer *lx, struct imap_parsed *p);

/* NULL: nobody offers it yet, so a client that sends it did not look at CAPABILITY. */
static parse_args *const parsers[IMAP_COMMAND_COUNT] = {
    [IMAP_CAPABILITY] = args_none,     [IMAP_NOOP] = args_none,
    [IMAP_LOGOUT] = args_none,         [IMAP_ID] = args_id,
    [IMAP_STARTTLS] = args_none,       [IMAP_AUTHENTICATE] = args_authenticate,
    [IMAP_LOGIN] = args_login,         [IMAP_UNAUTHENTICATE] = args_none,
    [IMAP_COMPRESS] = args_compress,   [IMAP_ENABLE] = args_enable,
    [IMAP_SELECT] = args_select,       [IMAP_EXAMINE] = args_select,
    [IMAP_CLOSE] = args_none,          [IMAP_UNSELECT] = args_none,
    [IMAP_CHECK] = args_none,          [IMAP_IDLE] = args_none,
    [IMAP_APPEND] = args_append,       [IMAP_REPLACE] = args_replace,
    [IMAP_UID_REPLACE] = args_replace, [IMAP_NAMESPACE] = args_none,
    [IMAP_CREATE] = args_create,       [IMAP_DELETE] = args_mailbox,
    [IMAP_RENAME] = args_rename,       [IMAP_SUBSCRIBE] = args_mailbox,
    [IMAP_UNSUBSCRIBE] = args_mailbox, [IMAP_LIST] = args_list,
    [IMAP_LSUB] = args_lsub,           [IMAP_STATUS] = args_status,
    [IMAP_EXPUNGE] = args_none,        [IMAP_UID_EXPUNGE] = args_uid_expunge,
    [IMAP_SEARCH] = args_search,       [IMAP_UID_SEARCH] = args_search,
    [IMAP_FETCH] = args_fetch,         [IMAP_UID_FETCH] = args_fetch,
    [IMAP_STORE] = args_store,         [IMAP_UID_STORE] = args_store,
    [IMAP_COPY] = args_copy,           [IMAP_UID_COPY] = args_copy,
    [IMAP_MOVE] = args_copy,           [IMAP_UID_MOVE] = args_copy,
};

/* Tag and name. */
static bool head(struct lexer *lx, struct imap_parsed *p)
{
    struct slice name;
    bool uid;

    if (!lexer_tag(lx, &p->tag) || !lexer_space(lx) || !lexer_atom(lx, &name))
        return false;
    uid = slice_eq_nocase(name, SLICE("UID"));
    if (uid && (!lexer_space(lx) || !lexer_atom(lx, &name)))
        return false;
    p->command = imap_command_find(name, uid);
    if (p->command == NULL || parsers[p->command->id] == NULL)
        return lexer_bad(lx, "Unknown command");
    return true;
}

bool imap_parse(struct arena *arena, struct slice text, const struct imap_parse_options *options,
                struct imap_parsed *parsed_out, struct imap_parse_error *error_out)
{
    struct lexer lx;

    memset(parsed_out, 0, sizeof *parsed_out);
    lexer_init(&lx, arena, text, options->utf8, error_out);
    if (!head(&lx, parsed_out) || !parsers[parsed_out->command->id](&lx, parsed_out))
        return false;
    /* The APPEND family ends with its literal's header, not with a line end. */
    if (!imap_command_has(parsed_out->command, IMAP_HAS_APPEND) && !lexer_line_end(&lx))
        return false;
    ASSERT(lx.at == lx.end);
    parsed_out->literal_count = lx.literal_count;
    return true;
}
