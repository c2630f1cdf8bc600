/* tests/sim/mail_act.c -- what a virtual client does in a mailbox, and what it then holds against the ledger.
 */
#include "tests/sim/mail.h"
#include "tests/sim/message.h"
#include <errno.h>
#include <stdio.h>

#define PICKS_MAX    5
#define IDLE_MIN_MS  300
#define IDLE_MOST_MS 1500 /* Two of three times. */
#define IDLE_MAX_MS  10000
#define GATHER_MS    6000 /* They idle together in the first part of it. */
#define GATHERED_MS  2500
#define STATUSES_MAX 5
#define MAILBOX_KEEP 25 /* Above so many messages expunging is what clients do most. */

#define VIOLATION(c, format, ...)                                                                            \
    sim_violation((c)->world, "u%u %s: " format, (c)->account, (c)->selected->name, __VA_ARGS__)

struct pick {
    uint32_t uids[PICKS_MAX];
    unsigned count;
    char set[PICKS_MAX * 11 + 1];
};

enum picking { PICK_ANY, PICK_OWN };

/* Some messages of the view whose numbers are known; PICK_OWN: that this client may expunge, and has not
 * begun to. */
static bool pick(struct imap *c, unsigned client, enum picking picking, unsigned max, struct pick *p)
{
    int size = 0;

    *p = (struct pick){0};
    if (c->count == 0)
        return false;
    max = 1 + (unsigned)(random_u64() % max);
    for (unsigned tries = 0; tries < 20 && p->count < max; tries++) {
        const struct view_message *v = &c->view[random_u64() % c->count];
        const struct instance *i = v->id != 0 ? ledger_find(c->selected, v->uid) : NULL;
        bool twice = false;

        if (i == NULL ||
            (picking == PICK_OWN && (!ledger_owns(client, v->uid, FLAG_DELETED) || i->dooms > 0)))
            continue;
        for (unsigned k = 0; k < p->count; k++)
            twice = twice || p->uids[k] == v->uid;
        if (!twice)
            p->uids[p->count++] = v->uid;
    }
    for (unsigned k = 0; k < p->count; k++)
        size += snprintf(p->set + size, sizeof p->set - (size_t)size, "%s%u", k > 0 ? "," : "", p->uids[k]);
    return p->count > 0;
}

static struct ledger_mailbox *other_mailbox(struct imap *c)
{
    struct ledger_mailbox *m;

    do
        m = &c->ledger->mailboxes[c->account][random_u64() % LEDGER_MAILBOXES];
    while (m == c->selected || !m->created);
    return m;
}

void mail_begin(struct sim_operation *o, enum mail_operation kind, struct imap *c)
{
    c->disk_faults = ledger_disk_faults(c->ledger, c->account);
    c->kind = kind;
    sim_operation_begin_at(o, kind, c->talk.sock, c->nodes);
}

int mail_end(struct sim_operation *o, struct imap *c, int rc)
{
    const uint32_t changes_nothing = 1u << MAIL_LOGIN | 1u << MAIL_SELECT | 1u << MAIL_SEARCH |
                                     1u << MAIL_STATUS | 1u << MAIL_NOOP | 1u << MAIL_IDLE;

    sim_operation_end(o);
    if (rc == IMAP_OK)
        c->ledger->acknowledged++;
    else if (rc == IMAP_NO)
        c->ledger->refused++;
    else
        c->ledger->unknown++;
    if (rc < 0 && !(changes_nothing >> o->kind & 1))
        c->unsettled = true;
    return rc;
}

/* ---- FETCH --------------------------------------------------------------------------------------------- */

static void ask(struct imap *c, size_t first, size_t last)
{
    for (size_t k = first; k <= last; k++) {
        c->view[k].asked = true;
        c->view[k].answered = false;
    }
}

/* All that were asked for and are still there were answered; what somebody expunges may be left out. */
static void check_answered(struct imap *c, const uint32_t *uids, size_t count)
{
    for (size_t k = 0; k < count; k++) {
        const struct view_message *v = uids[k] != 0 ? imap_view_find(c, uids[k]) : NULL;
        const struct instance *i = v != NULL ? ledger_find(c->selected, uids[k]) : NULL;

        if (i != NULL && i->dooms == 0 && !v->answered)
            VIOLATION(c, "UID %u was asked for and not shown", uids[k]);
    }
}

static int act_fetch_flags(struct mail *mail, struct imap *c, unsigned client)
{
    struct sim_operation o;
    size_t first, last;
    uint32_t *uids;
    int rc;

    if (c->count == 0)
        return IMAP_OK;
    first = random_u64() % c->count;
    last = first + random_u64() % (c->count - first);
    uids = heap_alloc(shard_self()->heap, c->count * sizeof *uids);
    for (size_t k = first; k <= last; k++)
        uids[k - first] = c->view[k].uid;
    ask(c, first, last);
    c->no_expunge = true;
    mail_begin(&o, MAIL_FETCH, c);
    rc = mail_end(&o, c, imap_command(c, "FETCH %zu:%zu (UID FLAGS MODSEQ)", first + 1, last + 1));
    if (rc == IMAP_OK)
        check_answered(c, uids, last - first + 1);
    heap_free(shard_self()->heap, uids);
    return rc;
}

static void body_fetched(struct imap *c, const struct imap_fetched *f)
{
    struct instance *i = f->has_body ? ledger_find(c->selected, f->uid) : NULL;
    size_t prefix_size;

    if (i == NULL)
        return;
    if (!message_matches(i->id, f->body, &prefix_size)) {
        VIOLATION(c, "UID %u is not message %u byte for byte: %zu bytes", f->uid, i->id, f->body.size);
        return;
    }
    if (i->prefix_size != SIZE_MAX && i->prefix_size != prefix_size)
        VIOLATION(c, "UID %u had %zu bytes of trace header and has %zu", f->uid, i->prefix_size, prefix_size);
    i->prefix_size = prefix_size;
    if (f->size != 0 && f->size != f->body.size)
        VIOLATION(c, "UID %u has RFC822.SIZE %llu and %zu bytes", f->uid, (unsigned long long)f->size,
                  f->body.size);
}

static int act_fetch_body(struct mail *mail, struct imap *c, unsigned client)
{
    bool peek = random_u64() % 3 != 0;
    struct sim_operation o;
    struct instance *i;
    struct pick p;
    int rc;

    if (!pick(c, client, PICK_ANY, 1, &p))
        return IMAP_OK;
    imap_view_find(c, p.uids[0])->answered = false;
    c->fetched = body_fetched;
    mail_begin(&o, MAIL_FETCH, c);
    rc = mail_end(&o, c,
                  imap_command(c, "UID FETCH %s (RFC822.SIZE %s[])", p.set, peek ? "BODY.PEEK" : "BODY"));
    c->fetched = NULL;
    if (rc != IMAP_OK)
        return rc;
    check_answered(c, p.uids, 1);
    i = ledger_find(c->selected, p.uids[0]);
    if (!peek && i != NULL && i->dooms == 0)
        ledger_flag_acknowledged(c->ledger, i, FLAG_SEEN, true);
    return rc;
}

/* ---- STORE --------------------------------------------------------------------------------------------- */

static unsigned own_flag(unsigned client, uint32_t uid)
{
    static const unsigned shared[] = {FLAG_FLAGGED, FLAG_ANSWERED};

    if (ledger_owns(client, uid, FLAG_FLAGGED) && random_u64() % 2 == 0)
        return shared[random_u64() % ARRAY_COUNT(shared)];
    return FLAG_OWN + client;
}

static void flags_begin(struct imap *c, const struct pick *p, unsigned flag, bool set)
{
    for (unsigned k = 0; k < p->count; k++)
        ledger_flag_begin(c->selected, ledger_find(c->selected, p->uids[k]), flag, set);
}

static void flags_end(struct imap *c, const struct pick *p, unsigned flag, bool set)
{
    for (unsigned k = 0; k < p->count; k++) {
        struct instance *i = ledger_find(c->selected, p->uids[k]);

        if (i->dooms == 0) /* Else it may have been expunged before, and nothing is said of its flags. */
            ledger_flag_acknowledged(c->ledger, i, flag, set);
    }
}

/* `refused`: the flag is what it was. */
struct before {
    uint8_t may[PICKS_MAX];
};

static void flags_remember(struct imap *c, const struct pick *p, unsigned flag, struct before *b)
{
    for (unsigned k = 0; k < p->count; k++)
        b->may[k] = ledger_find(c->selected, p->uids[k])->may[flag];
}

static void flags_refused(struct imap *c, const struct pick *p, unsigned flag, const struct before *b)
{
    for (unsigned k = 0; k < p->count; k++)
        ledger_find(c->selected, p->uids[k])->may[flag] = b->may[k];
}

static int store(struct imap *c, const struct pick *p, unsigned flag, bool set, bool by_sequence)
{
    const char *silent = random_u64() % 3 == 0 ? ".SILENT" : "";
    struct sim_operation o;
    struct before before;
    int rc;

    flags_remember(c, p, flag, &before);
    flags_begin(c, p, flag, set);
    mail_begin(&o, MAIL_STORE, c);
    if (by_sequence) {
        c->no_expunge = true;
        rc =
            imap_command(c, "STORE %zu %cFLAGS%s (%s)", (size_t)(imap_view_find(c, p->uids[0]) - c->view) + 1,
                         set ? '+' : '-', silent, ledger_flag_names[flag]);
    } else {
        rc = imap_command(c, "UID STORE %s %cFLAGS%s (%s)", p->set, set ? '+' : '-', silent,
                          ledger_flag_names[flag]);
    }
    rc = mail_end(&o, c, rc);
    if (rc == IMAP_OK)
        flags_end(c, p, flag, set);
    else if (rc == IMAP_NO)
        flags_refused(c, p, flag, &before);
    return rc;
}

static int act_store(struct mail *mail, struct imap *c, unsigned client)
{
    bool by_sequence = random_u64() % 4 == 0;
    unsigned flag;
    struct pick p;

    if (!pick(c, client, PICK_ANY, by_sequence ? 1 : PICKS_MAX, &p))
        return IMAP_OK;
    flag = own_flag(client, p.uids[0]);
    if (flag < FLAG_OWN) { /* Owned by UID: only the first one is surely ours. */
        p.count = 1;
        snprintf(p.set, sizeof p.set, "%u", p.uids[0]);
    }
    return store(c, &p, flag, random_u64() % 3 != 0, by_sequence);
}

/* ---- SEARCH -------------------------------------------------------------------------------------------- */

static bool found(const struct imap *c, uint32_t number)
{
    for (size_t k = 0; k < c->found_count; k++)
        if (c->found[k] == number)
            return true;
    return false;
}

/* A message that cannot be read now is left out of a search. */
static bool all_readable(const struct imap *c)
{
    return !c->ledger->rot && c->disk_faults == ledger_disk_faults(c->ledger, c->account);
}

/* Only this client changes its own keyword, so what was settled before the search holds. */
static void check_search(struct imap *c, unsigned flag, size_t count_before, uint64_t asked_ns)
{
    for (size_t k = 0; k < c->found_count; k++) {
        const struct instance *i = ledger_find(c->selected, c->found[k]);

        if (i != NULL && i->may[flag] == MAY_BE_UNSET && i->known_ns < asked_ns)
            VIOLATION(c, "SEARCH finds UID %u by %s, which is unset", i->uid, ledger_flag_names[flag]);
    }
    for (size_t k = 0; k < MIN(count_before, c->count); k++) {
        const struct instance *i = ledger_find(c->selected, c->view[k].uid);

        if (i != NULL && i->dooms == 0 && i->may[flag] == MAY_BE_SET && i->known_ns < asked_ns &&
            !found(c, i->uid))
            VIOLATION(c, "SEARCH does not find UID %u by %s, which is set", i->uid, ledger_flag_names[flag]);
    }
}

static int act_search_keyword(struct mail *mail, struct imap *c, unsigned client)
{
    size_t count_before = c->count;
    uint64_t asked_ns = sim_now_ns(c->world);
    unsigned flag = FLAG_OWN + client;
    struct sim_operation o;
    int rc;

    mail_begin(&o, MAIL_SEARCH, c);
    rc = mail_end(&o, c, imap_command(c, "UID SEARCH KEYWORD %s", ledger_flag_names[flag]));
    /* An EXPUNGE moves later ones down, into the first `count_before`: none of them is newer than the search.
     */
    if (rc == IMAP_OK && c->count <= count_before)
        check_search(c, flag, count_before, asked_ns);
    return rc;
}

static int act_search_header(struct mail *mail, struct imap *c, unsigned client)
{
    struct sim_operation o;
    struct pick p;
    uint32_t id;
    int rc;

    if (!pick(c, client, PICK_ANY, 1, &p))
        return IMAP_OK;
    id = imap_view_find(c, p.uids[0])->id;
    c->no_expunge = true;
    mail_begin(&o, MAIL_SEARCH, c);
    rc = mail_end(&o, c, imap_command(c, "SEARCH HEADER %s \"%u\"", MESSAGE_FIELD, id));
    if (rc != IMAP_OK)
        return rc;
    for (size_t k = 0; k < c->found_count; k++)
        if (c->found[k] == 0 || c->found[k] > c->count)
            VIOLATION(c, "SEARCH finds message %u of %zu", c->found[k], c->count);
    if (all_readable(c) && !found(c, (uint32_t)(imap_view_find(c, p.uids[0]) - c->view) + 1) &&
        ledger_find(c->selected, p.uids[0])->dooms == 0)
        VIOLATION(c, "SEARCH does not find message %u", id);
    return rc;
}

/* ---- APPEND -------------------------------------------------------------------------------------------- */

static int append_bytes(struct imap *c, uint32_t id)
{
    size_t size = message_size(id);
    char *bytes = heap_alloc(shard_self()->heap, size + 2);
    int rc;

    message_write(id, bytes);
    memcpy(bytes + size, "\r\n", 2);
    rc = talk_send(&c->talk, slice_of(bytes, size + 2));
    heap_free(shard_self()->heap, bytes);
    if (rc == -ETIMEDOUT)
        return rc;
    return imap_finish(c); /* If it could not be sent, there may be word of why. */
}

static int append_send(struct imap *c, struct ledger_mailbox *to, uint32_t id, unsigned flags)
{
    bool waits = random_u64() % 2 == 0;
    char names[32] = "";
    int rc;

    for (unsigned f = 0; f < FLAG_COUNT; f++)
        if (flags >> f & 1)
            snprintf(names, sizeof names, "%s", ledger_flag_names[f]);
    rc = imap_send(c, "APPEND %s (%s) {%zu%s}", to->name, names, message_size(id), waits ? "" : "+");
    if (rc == 0 && waits)
        rc = imap_continuation(c);
    return rc != 0 ? rc : append_bytes(c, id);
}

static void placed(struct imap *c, struct ledger_mailbox *to, uint32_t id, uint32_t uid)
{
    imap_uid_shown(c, to, uid);
    ledger_place_acknowledged(to, id, uid);
}

static void append_acknowledged(struct imap *c, struct ledger_mailbox *to, uint32_t id, uint32_t uidnext)
{
    unsigned uidvalidity = 0, uid = 0;

    if (sscanf(c->code, "APPENDUID %u %u", &uidvalidity, &uid) != 2) {
        VIOLATION(c, "APPEND OK without APPENDUID: '%s'", c->code);
        return;
    }
    if (uid < uidnext)
        VIOLATION(c, "APPENDUID %u, and UIDNEXT was %u", uid, uidnext);
    ledger_numbers_shown(to, uidvalidity, 0, 0, 0);
    placed(c, to, id, uid);
}

static int append(struct imap *c, struct ledger_mailbox *to, unsigned client)
{
    unsigned flags = random_u64() % 3 == 0   ? 1u << (FLAG_OWN + client)
                     : random_u64() % 3 == 0 ? 1u << FLAG_FLAGGED
                                             : 0;
    uint32_t id = ledger_id(c->ledger), uidnext = to->uidnext;
    struct sim_operation o;
    int rc;

    if (id == 0)
        return IMAP_OK;
    ledger_place_begin(to, id, flags, false);
    mail_begin(&o, MAIL_APPEND, c);
    rc = mail_end(&o, c, append_send(c, to, id, flags));
    if (rc == IMAP_OK)
        append_acknowledged(c, to, id, uidnext);
    else if (rc == IMAP_NO)
        ledger_place_refused(to, id);
    return rc;
}

static int act_append(struct mail *mail, struct imap *c, unsigned client)
{
    return append(c, random_u64() % 2 == 0 ? c->selected : other_mailbox(c), client);
}

/* ---- COPY, MOVE ---------------------------------------------------------------------------------------- */

struct copy_code {
    uint32_t from[PICKS_MAX], to[PICKS_MAX];
    unsigned from_count, to_count;
};

static void copy_from_each(void *arg, uint32_t uid)
{
    struct copy_code *code = arg;

    if (code->from_count < PICKS_MAX)
        code->from[code->from_count] = uid;
    code->from_count++;
}

static void copy_to_each(void *arg, uint32_t uid)
{
    struct copy_code *code = arg;

    if (code->to_count < PICKS_MAX)
        code->to[code->to_count] = uid;
    code->to_count++;
}

static bool copy_code_parse(const char *text, struct copy_code *code, uint32_t *uidvalidity_out)
{
    char from[128], to[128];

    *code = (struct copy_code){0};
    *uidvalidity_out = 0;
    if (text[0] == '\0')
        return true; /* Nothing was left to be copied. */
    return sscanf(text, "COPYUID %u %127[0-9:,] %127[0-9:,]", uidvalidity_out, from, to) == 3 &&
           imap_set_each(slice_str(from), copy_from_each, code) &&
           imap_set_each(slice_str(to), copy_to_each, code) && code->from_count == code->to_count &&
           code->from_count <= PICKS_MAX;
}

static uint32_t copied_to(const struct copy_code *code, uint32_t uid)
{
    for (unsigned k = 0; k < code->from_count; k++)
        if (code->from[k] == uid)
            return code->to[k];
    return 0;
}

static void copy_acknowledged(struct imap *c, struct ledger_mailbox *to, const struct pick *p)
{
    struct copy_code code;
    uint32_t uidvalidity;

    if (!copy_code_parse(c->code, &code, &uidvalidity)) {
        VIOLATION(c, "a COPYUID that cannot be: '%s'", c->code);
        return;
    }
    ledger_numbers_shown(to, uidvalidity, 0, 0, 0);
    for (unsigned k = 0; k < p->count; k++) {
        const struct instance *i = ledger_find(c->selected, p->uids[k]);
        uint32_t uid = copied_to(&code, p->uids[k]), id = i->id;

        if (uid != 0)
            placed(c, to, id, uid);
        else if (i->dooms == 0)
            VIOLATION(c, "UID %u was there and was not copied", i->uid);
        else
            ledger_place_refused(to, id);
    }
}

static void places_begin(struct imap *c, struct ledger_mailbox *to, const struct pick *p)
{
    for (unsigned k = 0; k < p->count; k++)
        ledger_place_begin(to, ledger_find(c->selected, p->uids[k])->id, 0, true);
}

static void places_refused(struct imap *c, struct ledger_mailbox *to, const struct pick *p)
{
    for (unsigned k = 0; k < p->count; k++)
        ledger_place_refused(to, ledger_find(c->selected, p->uids[k])->id);
}

static int act_copy(struct mail *mail, struct imap *c, unsigned client)
{
    struct ledger_mailbox *to = other_mailbox(c);
    struct sim_operation o;
    struct pick p;
    int rc;

    if (!pick(c, client, PICK_ANY, 3, &p))
        return IMAP_OK;
    places_begin(c, to, &p);
    mail_begin(&o, MAIL_COPY, c);
    rc = mail_end(&o, c, imap_command(c, "UID COPY %s %s", p.set, to->name));
    if (rc == IMAP_OK)
        copy_acknowledged(c, to, &p);
    else if (rc == IMAP_NO)
        places_refused(c, to, &p);
    return rc;
}

static void dooms_begin(struct imap *c, const struct pick *p, bool expunge)
{
    for (unsigned k = 0; k < p->count; k++)
        ledger_doom_begin(ledger_find(c->selected, p->uids[k]), expunge);
}

static void dooms_refused(struct imap *c, const struct pick *p, bool expunge)
{
    for (unsigned k = 0; k < p->count; k++)
        ledger_doom_refused(ledger_find(c->selected, p->uids[k]), expunge);
}

/* They are gone, and this session was told so before the OK. */
static void dooms_acknowledged(struct imap *c, const struct pick *p)
{
    for (unsigned k = 0; k < p->count; k++) {
        ledger_doom_acknowledged(c->ledger, ledger_find(c->selected, p->uids[k]));
        if (imap_view_find(c, p->uids[k]) != NULL)
            VIOLATION(c, "UID %u was expunged, and no EXPUNGE came before the OK", p->uids[k]);
    }
}

/* Own ones only: nobody else expunges them, unless by EXPUNGE of all that is \Deleted. */
static void move_acknowledged(struct imap *c, struct ledger_mailbox *to, const struct pick *p)
{
    struct copy_code code;
    uint32_t uidvalidity;

    if (!copy_code_parse(c->code, &code, &uidvalidity)) {
        VIOLATION(c, "a COPYUID that cannot be: '%s'", c->code);
        return;
    }
    for (unsigned k = 0; k < p->count; k++) {
        const struct instance *i = ledger_find(c->selected, p->uids[k]);
        uint32_t uid = copied_to(&code, p->uids[k]), id = i->id;

        if (uid != 0)
            placed(c, to, id, uid);
        else if (i->dooms == 1)
            VIOLATION(c, "UID %u was there and was not moved", i->uid);
        else
            ledger_place_refused(to, id);
    }
    dooms_acknowledged(c, p);
}

static int act_move(struct mail *mail, struct imap *c, unsigned client)
{
    struct ledger_mailbox *to = other_mailbox(c);
    struct sim_operation o;
    struct pick p;
    int rc;

    if (!pick(c, client, PICK_OWN, 3, &p))
        return IMAP_OK;
    places_begin(c, to, &p);
    dooms_begin(c, &p, false);
    mail_begin(&o, MAIL_MOVE, c);
    rc = mail_end(&o, c, imap_command(c, "UID MOVE %s %s", p.set, to->name));
    if (rc == IMAP_OK) {
        move_acknowledged(c, to, &p);
    } else if (rc == IMAP_NO) {
        places_refused(c, to, &p);
        dooms_refused(c, &p, false);
    }
    return rc;
}

/* ---- EXPUNGE, CLOSE ------------------------------------------------------------------------------------ */

static int act_expunge_uids(struct mail *mail, struct imap *c, unsigned client)
{
    struct sim_operation o;
    struct pick p;
    int rc;

    if (!pick(c, client, PICK_OWN, PICKS_MAX, &p))
        return IMAP_OK;
    rc = store(c, &p, FLAG_DELETED, true, false);
    if (rc != IMAP_OK)
        return rc;
    dooms_begin(c, &p, true);
    mail_begin(&o, MAIL_EXPUNGE, c);
    rc = mail_end(&o, c, imap_command(c, "UID EXPUNGE %s", p.set));
    if (rc == IMAP_OK)
        dooms_acknowledged(c, &p);
    else if (rc == IMAP_NO)
        dooms_refused(c, &p, true);
    return rc;
}

/* All that are, or may be, \Deleted: other clients' messages too. */
static uint32_t *deleted_begin(struct imap *c, size_t *count_out)
{
    struct ledger_mailbox *m = c->selected;
    uint32_t *uids = heap_alloc(shard_self()->heap, (m->count + 1) * sizeof *uids);

    *count_out = 0;
    m->expunge_all_ns = sim_now_ns(c->world);
    for (size_t k = 0; k < m->count; k++) {
        struct instance *i = &m->instances[k];

        if (!i->gone && (i->may[FLAG_DELETED] & MAY_BE_SET)) {
            ledger_doom_begin(i, true);
            uids[(*count_out)++] = i->uid;
        }
    }
    return uids;
}

static void deleted_refused(struct ledger_mailbox *m, const uint32_t *uids, size_t count)
{
    for (size_t k = 0; k < count; k++)
        ledger_doom_refused(ledger_find(m, uids[k]), true);
}

static int expunge_all(const struct mail *mail, struct imap *c, bool by_close)
{
    struct ledger_mailbox *m = c->selected;
    struct sim_operation o;
    uint32_t *uids;
    size_t count;
    int rc;

    uids = deleted_begin(c, &count);
    mail_begin(&o, by_close ? MAIL_CLOSE : MAIL_EXPUNGE, c);
    m->expunging++;
    rc = mail_end(&o, c, imap_command(c, by_close ? "CLOSE" : "EXPUNGE"));
    m->expunging--;
    m->expunge_all_ns = sim_now_ns(c->world);
    if (rc < 0)
        m->expunged_ns = sim_now_ns(c->world) + mail->settle_ms * SIM_MS;
    if (rc == IMAP_NO)
        deleted_refused(m, uids, count);
    heap_free(shard_self()->heap, uids);
    if (rc != IMAP_OK || !by_close)
        return rc;
    mail_begin(&o, MAIL_SELECT, c);
    return mail_end(&o, c, imap_select(c, m));
}

static int act_expunge_all(struct mail *mail, struct imap *c, unsigned client)
{
    return expunge_all(mail, c, false);
}

static int act_close(struct mail *mail, struct imap *c, unsigned client)
{
    return expunge_all(mail, c, true);
}

static int act_undelete(struct mail *mail, struct imap *c, unsigned client)
{
    struct pick p;

    if (!pick(c, client, PICK_OWN, 3, &p))
        return IMAP_OK;
    return store(c, &p, FLAG_DELETED, random_u64() % 2 == 0, false);
}

/* ---- STATUS, NOOP, SELECT ------------------------------------------------------------------------------ */

static int status(struct imap *c, struct ledger_mailbox *m)
{
    uint64_t asked_ns = sim_now_ns(c->world);
    struct sim_operation o;
    int rc;

    c->uidvalidity = c->uidnext = 0;
    c->highest = 0;
    mail_begin(&o, MAIL_STATUS, c);
    rc = mail_end(&o, c, imap_command(c, "STATUS %s (MESSAGES UIDNEXT UIDVALIDITY HIGHESTMODSEQ)", m->name));
    if (rc == IMAP_OK)
        imap_numbers_shown(c, m, asked_ns, c->ledger->notice_ns);
    return rc;
}

/* Some times in a row: what did not change meanwhile is the proxy's to answer. And in the midst something may change it. */
static int act_status(struct mail *mail, struct imap *c, unsigned client)
{
    struct ledger_mailbox *m = other_mailbox(c);
    unsigned count = 1 + (unsigned)(random_u64() % STATUSES_MAX);
    int rc = status(c, m);

    while (rc == IMAP_OK && --count > 0)
        rc = random_u64() % 4 == 0 ? append(c, m, client) : status(c, m);
    return rc;
}

static int act_noop(struct mail *mail, struct imap *c, unsigned client)
{
    struct sim_operation o;

    mail_begin(&o, MAIL_NOOP, c);
    return mail_end(&o, c, imap_command(c, "NOOP"));
}

static int act_select(struct mail *mail, struct imap *c, unsigned client)
{
    struct ledger_mailbox *m = random_u64() % 3 == 0 ? c->selected : other_mailbox(c);
    struct sim_operation o;

    mail_begin(&o, MAIL_SELECT, c);
    return mail_end(&o, c, imap_select(c, m));
}

/* ---- IDLE ---------------------------------------------------------------------------------------------- */

/* Messages that were acknowledged while the client idled, long enough ago, on a quiet network: it has been
 * told. */
static void check_told(const struct mail *mail, struct imap *c, uint64_t since_ns, uint64_t told_ns,
                       size_t told_count)
{
    uint64_t quiet_ns = sim_quiet_since_ns(c->world);

    for (size_t k = told_count; k < c->count; k++) {
        const struct placing *p = &c->selected->placings[c->view[k].id];

        if (c->view[k].id == 0 || p->owed != 1 || p->allowed != 1 || p->owed_ns <= since_ns ||
            p->owed_ns + mail->tell_ns > told_ns || quiet_ns >= p->owed_ns - MIN(mail->heal_ns, p->owed_ns))
            continue;
        VIOLATION(c, "message %u was acknowledged %llu ms ago, and an idling client was not told",
                  c->view[k].id, (unsigned long long)((told_ns - p->owed_ns) / SIM_MS));
    }
}

/* How long those who idle together still do; 0: now is not the time. */
static uint64_t gathered_ms(const struct mail *mail)
{
    uint64_t at_ms = sim_now_ns(mail->world) / SIM_MS % GATHER_MS;

    return mail->gather && at_ms < GATHERED_MS ? GATHERED_MS - at_ms : 0;
}

static int idle(struct imap *c, struct mail *mail)
{
    uint64_t since_ns, end_ns, told_ns, max_ms;
    size_t told_count, count = c->count;
    int rc = imap_send(c, "IDLE");

    if (rc == 0)
        rc = imap_continuation(c);
    if (rc != 0)
        return rc;
    since_ns = sim_now_ns(c->world);
    max_ms = random_u64() % 3 == 0 ? IDLE_MAX_MS : IDLE_MOST_MS;
    max_ms = gathered_ms(mail) > 0 ? gathered_ms(mail) : max_ms;
    end_ns = since_ns + (IDLE_MIN_MS + random_u64() % max_ms) * SIM_MS;
    while (rc == 0 && sim_now_ns(c->world) < end_ns)
        rc = imap_untagged(c, (uint32_t)((end_ns - sim_now_ns(c->world)) / SIM_MS) + 1);
    if (rc < 0 && rc != -ETIMEDOUT)
        return rc;
    told_ns = sim_now_ns(c->world);
    told_count = c->count;
    rc = talk_send(&c->talk, SLICE("DONE\r\n"));
    if (rc == 0)
        rc = imap_finish(c);
    if (rc == IMAP_OK)
        rc = imap_command(c, "NOOP");
    if (rc == IMAP_OK)
        rc = imap_learn(c);
    if (rc == IMAP_OK)
        check_told(mail, c, since_ns, told_ns, told_count);
    mail->told += told_count > count ? told_count - count : 0;
    return rc;
}

static int act_idle(struct mail *mail, struct imap *c, unsigned client)
{
    struct sim_operation o;

    mail_begin(&o, MAIL_IDLE, c);
    return mail_end(&o, c, idle(c, mail));
}

/* ---- By chance ----------------------------------------------------------------------------------------- */

static const struct action {
    int (*act)(struct mail *mail, struct imap *c, unsigned client);
    unsigned weight;
} actions[] = {
    {act_fetch_flags, 10},  {act_fetch_body, 12}, {act_store, 14},      {act_search_keyword, 6},
    {act_search_header, 4}, {act_append, 12},     {act_copy, 7},        {act_move, 9},
    {act_expunge_uids, 7},  {act_expunge_all, 3}, {act_close, 8},       {act_undelete, 2},
    {act_status, 5},        {act_noop, 8},        {mail_act_folder, 6}, {mail_act_folder, 6},
    {act_select, 3},        {act_idle, 4},
};

static const struct action *choose(const struct mail *mail)
{
    unsigned sum = 0, at;

    if (mail->even)
        return &actions[random_u64() % ARRAY_COUNT(actions)];
    for (size_t k = 0; k < ARRAY_COUNT(actions); k++)
        sum += actions[k].weight;
    at = (unsigned)(random_u64() % sum);
    for (size_t k = 0;; at -= actions[k++].weight)
        if (at < actions[k].weight)
            return &actions[k];
}

static int learn(struct imap *c)
{
    struct sim_operation o;
    int rc;

    if (!imap_ignorant(c))
        return IMAP_OK;
    mail_begin(&o, MAIL_FETCH, c);
    rc = mail_end(&o, c, imap_learn(c));
    return rc;
}

int mail_act(struct mail *mail, struct imap *c, unsigned client)
{
    int rc = learn(c);

    if (rc != IMAP_OK)
        return rc;
    if (c->count > MAILBOX_KEEP && random_u64() % 5 < 2)
        return random_u64() % 4 > 0 ? act_expunge_uids(mail, c, client) : act_move(mail, c, client);
    if (gathered_ms(mail) > 0 && random_u64() % 4 > 0)
        return act_idle(mail, c, client);
    return choose(mail)->act(mail, c, client);
}
