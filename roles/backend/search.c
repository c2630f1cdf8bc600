/* SEARCH (RFC 3501 6.4.4, RFC 4731, 5032, 7162). Each message is first asked what the index knows; it is
 * opened only when that does not decide. */
#include "roles/backend/search.h"
#include "core/io.h"
#include "roles/backend/snapshot.h"
#include <errno.h>

#define SEARCH_VISIT_UNITS 64 /* Of fiber_work(), for each key of a message visited. */

enum verdict { VERDICT_NO, VERDICT_YES, VERDICT_OPEN /* Only the message itself can tell. */ };

struct search_work {
    struct search_node *root;
    struct uid_set all;             /* Where to look, when no key says it. */
    const struct uid_set *universe; /* What is walked. */
    struct message_walk walk;
    struct uid_set found; /* Sequence numbers, or UIDs for the UID form. */
    uint64_t modseq_first, modseq_last, modseq_all;
    int64_t now_s;
    bool damaged;
    bool writing;         /* The walk is over. */
    uint32_t range_index; /* Writing: the cursor in `found`. */
    uint32_t next;
};

/* ---- Making ready -------------------------------------------------------------------------------------- */

static int node_init(struct command *c, struct search_node *n, const struct imap_search_key *key)
{
    n->key = key;
    n->keyword = -1;
    switch (key->kind) {
    case IMAP_SEARCH_SEQ:
    case IMAP_SEARCH_UID:
        return command_set_search(c, &key->set, key->kind == IMAP_SEARCH_UID, &n->uids);
    case IMAP_SEARCH_KEYWORD:
        n->keyword = mailbox_keyword_find(c->mailbox, key->text);
        return 0;
    default:
        return 0;
    }
}

/* Depth is bounded by the parser: IMAP_SEARCH_DEPTH_MAX + 1. */
static int node_build(struct command *c, const struct imap_search_key *key, struct search_node **node_out)
{
    struct search_node *n = arena_zalloc(&c->arena, sizeof *n), **end = &n->first;
    int rc = node_init(c, n, key);

    *node_out = n;
    for (const struct imap_search_key *child = key->first; child != NULL && rc == 0; child = child->next) {
        rc = node_build(c, child, end);
        end = &(*end)->next;
    }
    return rc;
}

static void node_fini(struct search_node *n)
{
    for (; n != NULL; n = n->next) {
        node_fini(n->first);
        uid_set_fini(&n->uids);
    }
}

static void search_fini(struct command *c)
{
    struct search_work *w = c->work;

    node_fini(w->root);
    uid_set_fini(&w->all);
    uid_set_fini(&w->found);
}

static bool is_set(const struct search_node *n)
{
    return !n->key->negated && (n->key->kind == IMAP_SEARCH_SEQ || n->key->kind == IMAP_SEARCH_UID);
}

/* A set that all results must be in spares the walk over the others. */
static const struct uid_set *universe_of(const struct search_node *root)
{
    if (is_set(root))
        return &root->uids;
    if (root->key->kind != IMAP_SEARCH_AND || root->key->negated)
        return NULL;
    for (const struct search_node *n = root->first; n != NULL; n = n->next)
        if (is_set(n))
            return &n->uids;
    return NULL;
}

static int search_begin(struct command *c)
{
    struct search_work *w = arena_zalloc(&c->arena, sizeof *w);
    uint32_t last = view_last_uid(&c->view);
    int rc;

    uid_set_init(&w->all, c->backend->heap, 0);
    uid_set_init(&w->found, c->backend->heap, MAILBOX_MESSAGE_COUNT_MAX);
    w->now_s = time_wall();
    c->work = w;
    c->work_fini = search_fini;
    rc = node_build(c, c->parsed.search.key, &w->root);
    if (rc == 0 && last > 0)
        rc = uid_set_add(&w->all, 1, last);
    w->universe = rc == 0 ? universe_of(w->root) : NULL;
    message_walk_init(&w->walk, w->universe != NULL ? w->universe : &w->all);
    if (rc == 0 && c->parsed.search.uses_modseq)
        command_condstore_enable(c);
    return rc;
}

/* ---- One message --------------------------------------------------------------------------------------- */

struct candidate {
    struct message message; /* A copy: what is asked of the message may suspend. */
    struct fetch_source source;
    bool open;
};

static enum verdict verdict_of(bool yes)
{
    return yes ? VERDICT_YES : VERDICT_NO;
}

static enum verdict sent_date(const struct candidate *m, const struct imap_search_key *key)
{
    struct mail_date date;
    int32_t day;

    if (!m->open)
        return VERDICT_OPEN;
    if (!structure_sent_date(&m->source.structure, &date))
        return VERDICT_NO;
    day = date_local_day(date);
    if (key->kind == IMAP_SEARCH_SENTBEFORE)
        return verdict_of(day < key->day);
    return verdict_of(key->kind == IMAP_SEARCH_SENTON ? day == key->day : day >= key->day);
}

/* -errno, or a verdict. */
static int text_verdict(struct command *c, struct candidate *m, const struct imap_search_key *key)
{
    int rc;

    if (!m->open)
        return VERDICT_OPEN;
    rc = search_text_matches(c, &m->source, key);
    return rc < 0 ? rc : (int)verdict_of(rc > 0);
}

static int32_t internal_day(const struct message *m)
{
    return date_local_day((struct mail_date){m->internal_s, m->zone_minutes});
}

static int leaf_verdict(struct command *c, const struct search_node *n, struct candidate *candidate)
{
    const struct search_work *w = c->work;
    const struct imap_search_key *key = n->key;
    const struct message *m = &candidate->message;

    switch (key->kind) {
    case IMAP_SEARCH_SEQ:
    case IMAP_SEARCH_UID:
        return verdict_of(uid_set_has(&n->uids, m->uid));
    case IMAP_SEARCH_FLAG:
        return verdict_of((m->flags & key->flag) != 0);
    case IMAP_SEARCH_RECENT:
        return verdict_of((command_flags_of(c, m) & MAIL_RECENT) != 0);
    case IMAP_SEARCH_KEYWORD:
        return verdict_of(n->keyword >= 0 && (m->keywords >> n->keyword & 1) != 0);
    case IMAP_SEARCH_LARGER:
        return verdict_of(m->body.size > key->number);
    case IMAP_SEARCH_SMALLER:
        return verdict_of(m->body.size < key->number);
    case IMAP_SEARCH_BEFORE:
        return verdict_of(internal_day(m) < key->day);
    case IMAP_SEARCH_ON:
        return verdict_of(internal_day(m) == key->day);
    case IMAP_SEARCH_SINCE:
        return verdict_of(internal_day(m) >= key->day);
    case IMAP_SEARCH_OLDER:
        return verdict_of(w->now_s - m->internal_s >= (int64_t)MIN(key->number, (uint64_t)INT64_MAX));
    case IMAP_SEARCH_YOUNGER:
        return verdict_of(w->now_s - m->internal_s <= (int64_t)MIN(key->number, (uint64_t)INT64_MAX));
    case IMAP_SEARCH_MODSEQ:
        return verdict_of(m->changed >= key->number);
    case IMAP_SEARCH_SENTBEFORE:
    case IMAP_SEARCH_SENTON:
    case IMAP_SEARCH_SENTSINCE:
        return sent_date(candidate, key);
    case IMAP_SEARCH_HEADER:
    case IMAP_SEARCH_BODY:
    case IMAP_SEARCH_TEXT:
        return text_verdict(c, candidate, key);
    default: /* ALL. */
        return VERDICT_YES;
    }
}

static int node_verdict(struct command *c, const struct search_node *n, struct candidate *m);

/* AND ends at the first NO, OR at the first YES; else one that is open leaves it open. */
static int children_verdict(struct command *c, const struct search_node *n, struct candidate *m)
{
    enum verdict decisive = n->key->kind == IMAP_SEARCH_AND ? VERDICT_NO : VERDICT_YES;
    int result = decisive == VERDICT_NO ? VERDICT_YES : VERDICT_NO;

    for (const struct search_node *child = n->first; child != NULL; child = child->next) {
        int verdict = node_verdict(c, child, m);

        if (verdict < 0 || verdict == (int)decisive)
            return verdict;
        if (verdict == VERDICT_OPEN)
            result = VERDICT_OPEN;
    }
    return result;
}

static int node_verdict(struct command *c, const struct search_node *n, struct candidate *m)
{
    bool inner = n->key->kind == IMAP_SEARCH_AND || n->key->kind == IMAP_SEARCH_OR;
    int verdict = inner ? children_verdict(c, n, m) : leaf_verdict(c, n, m);

    if (!n->key->negated || verdict < 0 || verdict == VERDICT_OPEN)
        return verdict;
    return verdict == VERDICT_YES ? VERDICT_NO : VERDICT_YES;
}

/* 1: found; 0: not; -errno. What can't be read matches nothing that needs reading. */
static int search_message(struct command *c, struct search_work *w, struct candidate *m)
{
    int verdict = node_verdict(c, w->root, m);
    int rc;

    if (verdict != VERDICT_OPEN)
        return verdict == VERDICT_YES ? 1 : MIN(verdict, 0);
    rc = fetch_source_open(c, &m->message, true, &m->source);
    if (rc == 0) {
        fiber_set_class(RUN_BULK);
        m->open = true;
        verdict = node_verdict(c, w->root, m);
        fetch_source_close(&m->source);
        rc = verdict == VERDICT_YES ? 1 : MIN(verdict, 0);
    }
    if (rc == -EBADMSG || rc == -EIO || rc == -ENOENT) {
        w->damaged = w->damaged || m->message.expunged == 0;
        return 0;
    }
    return rc;
}

static int search_add(struct command *c, struct search_work *w, const struct message *m, uint32_t seq)
{
    uint32_t number = c->parsed.command->uid ? m->uid : seq;

    if (w->found.range_count == 0)
        w->modseq_first = m->changed;
    w->modseq_last = m->changed;
    w->modseq_all = MAX(w->modseq_all, m->changed);
    return uid_set_add(&w->found, number, number);
}

static int search_walk(struct command *c, struct search_work *w)
{
    const struct message *m;
    uint32_t seq, units = SEARCH_VISIT_UNITS * (c->parsed.search.key_count + 1);
    int rc = 0;

    while (rc >= 0 && (m = message_walk_next(&w->walk, &c->view, &seq)) != NULL) {
        struct candidate candidate = {.message = *m};

        rc = search_message(c, w, &candidate);
        if (rc > 0)
            rc = search_add(c, w, &candidate.message, seq);
        if (rc == 0)
            rc = fiber_work(units);
    }
    return rc;
}

/* ---- The answer ---------------------------------------------------------------------------------------- */

static void write_modseq(struct command *c, struct search_work *w, const char *format)
{
    const struct imap_search *search = &c->parsed.search;
    uint32_t ends = search->returns & (IMAP_RETURN_MIN | IMAP_RETURN_MAX);
    uint64_t modseq = w->modseq_all;

    if (!search->uses_modseq || w->found.range_count == 0)
        return;
    if (search->extended && search->returns == ends) /* Of those returned alone (RFC 7162 3.1.10). */
        modseq = MAX((ends & IMAP_RETURN_MIN) != 0 ? w->modseq_first : 0,
                     (ends & IMAP_RETURN_MAX) != 0 ? w->modseq_last : 0);
    c->modseq_shown = MAX(c->modseq_shown, modseq);
    writer_printf(command_writer(c), format, (unsigned long long)modseq);
}

static void write_esearch(struct command *c, struct search_work *w)
{
    uint32_t returns = c->parsed.search.returns, count = w->found.range_count;
    struct writer *out = command_writer(c);

    imap_write_esearch_begin(out, c->parsed.tag, c->parsed.command->uid);
    if ((returns & IMAP_RETURN_MIN) != 0 && count > 0)
        writer_printf(out, " MIN %u", w->found.ranges[0].first);
    if ((returns & IMAP_RETURN_MAX) != 0 && count > 0)
        writer_printf(out, " MAX %u", w->found.ranges[count - 1].last);
    if ((returns & IMAP_RETURN_ALL) != 0 && count > 0) {
        writer_text(out, " ALL ");
        uid_set_write(&w->found, out);
    }
    if ((returns & IMAP_RETURN_COUNT) != 0)
        writer_printf(out, " COUNT %llu", (unsigned long long)uid_set_count(&w->found));
    write_modseq(c, w, " MODSEQ %llu");
    imap_write_crlf(out);
}

/* `* SEARCH 1 2 3`, a number at a time. False: out of credit. */
static bool write_numbers(struct command *c, struct search_work *w)
{
    struct writer *out = command_writer(c);

    if (w->range_index == 0 && w->next == 0)
        writer_text(out, "* SEARCH");
    c->half = true;
    for (; w->range_index < w->found.range_count; w->range_index++) {
        struct uid_range range = w->found.ranges[w->range_index];

        for (w->next = MAX(w->next, range.first); w->next <= range.last && w->next != 0; w->next++) {
            if (command_starved(c))
                return false;
            writer_char(out, ' ');
            writer_u64(out, w->next);
        }
    }
    write_modseq(c, w, " (MODSEQ %llu)");
    imap_write_crlf(out);
    c->half = false;
    return true;
}

static enum command_step search_answer(struct command *c, struct search_work *w)
{
    if (c->parsed.search.extended)
        write_esearch(c, w);
    else if (!write_numbers(c, w))
        return STEP_PARK;
    return command_ok(c, NULL,
                      w->damaged ? "Search completed, damaged messages left out." : "Search completed.");
}

enum command_step search_run(struct command *c)
{
    struct search_work *w = c->work;
    int rc;

    if (w != NULL)
        return search_answer(c, w);
    if ((c->parsed.search.returns & IMAP_RETURN_SAVE) != 0)
        return command_bad(c, "SAVE is not supported.");
    rc = search_begin(c);
    if (rc < 0)
        return command_set_error(c, rc);
    w = c->work;
    rc = search_walk(c, w);
    if (rc == -ENAMETOOLONG)
        return command_no(c, "LIMIT", "Search string is too long.");
    return rc < 0 ? command_error(c, rc) : search_answer(c, w);
}
