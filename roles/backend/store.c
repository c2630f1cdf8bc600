/* STORE (RFC 3501 6.4.6, RFC 7162 3.1.3). One change, then the answer: the flags of what was named, and what
 * others changed since the session was last told. Flags have no history, so F only says what was reported. */
#include "roles/backend/snapshot.h"
#include <errno.h>

#define STORE_VISIT_UNITS 64 /* Of fiber_work(): a message visited. */

struct store_work {
    struct uid_set uids;     /* What was named. */
    struct uid_set foreign;  /* Visible messages that others changed since F. */
    struct uid_set modified; /* UNCHANGEDSINCE refused these. */
    struct uid_set tell;     /* Whose flags are written. */
    struct message_walk walk;
    bool gone; /* Something that was named and is visible was expunged by others. */
};

static void store_fini(struct command *c)
{
    struct store_work *w = c->work;

    uid_set_fini(&w->uids);
    uid_set_fini(&w->foreign);
    uid_set_fini(&w->modified);
    uid_set_fini(&w->tell);
}

/* ---- The change ---------------------------------------------------------------------------------------- */

/* Others' changes, before ours. Nothing else changes the account while the turn is held. */
static int find_foreign(struct command *c, struct store_work *w)
{
    const struct message *m;
    uint32_t uid = 0, seq;
    bool more = false;
    int rc = 0;

    if (c->mailbox->highest <= c->token.flag_changes)
        return 0;
    do {
        while (rc == 0 && (m = view_next_changed(&c->view, c->token.flag_changes, &uid, &seq, &more)) != NULL)
            rc = uid_set_add(&w->foreign, m->uid, m->uid);
        if (rc == 0 && more)
            rc = fiber_work(FIBER_WORK_QUANTUM);
    } while (rc == 0 && more);
    return rc;
}

static bool find_gone(struct command *c, const struct store_work *w)
{
    uint32_t seq;

    for (uint32_t i = 0; i < view_gone_count(&c->view); i++)
        if (uid_set_has(&w->uids, view_gone_at(&c->view, i, &seq)->uid))
            return true;
    return false;
}

/* Bits of the keywords. Only what adds them makes new ones. */
static int stage_keywords(struct command *c, struct change *change, uint64_t *keywords_out)
{
    const struct imap_store *store = &c->parsed.store;
    uint64_t bits = 0;

    for (uint32_t i = 0; i < store->flags.keyword_count; i++) {
        int found = mailbox_keyword_find(c->mailbox, store->flags.keywords[i]);
        uint32_t index = (uint32_t)found;
        int rc;

        if (found < 0 && store->mode == IMAP_STORE_REMOVE)
            continue;
        if (found < 0) {
            rc = change_keyword(change, c->mailbox, store->flags.keywords[i], &index);
            if (rc < 0)
                return rc == -ENOSPC ? -EMLINK : rc;
        }
        bits |= 1ull << index;
    }
    *keywords_out = bits;
    return 0;
}

static int stage_flags(struct command *c, struct store_work *w, struct change *change)
{
    const struct imap_store *store = &c->parsed.store;
    enum flags_how how = store->mode == IMAP_STORE_ADD      ? FLAGS_ADD
                         : store->mode == IMAP_STORE_REMOVE ? FLAGS_REMOVE
                                                            : FLAGS_REPLACE;
    uint64_t keywords;
    int rc = stage_keywords(c, change, &keywords);

    if (rc < 0)
        return rc;
    return change_flags(change, c->mailbox, &w->uids, how, store->flags.system, keywords,
                        store->unchanged_since ? store->modseq : UINT64_MAX, &w->modified, NULL);
}

/* What an operation id remembers: the UIDs that UNCHANGEDSINCE refused. */
static struct slice modified_result(const struct store_work *w)
{
    size_t count = MIN(w->modified.range_count, CHANGE_RESULT_SIZE_MAX / sizeof(struct uid_range));

    return slice_of(w->modified.ranges, count * sizeof(struct uid_range));
}

static int modified_repeat(struct store_work *w, struct slice result)
{
    int rc = 0;

    for (size_t at = 0; at + sizeof(struct uid_range) <= result.size && rc == 0;
         at += sizeof(struct uid_range)) {
        uint32_t first = get_u32(result.data + at), last = get_u32(result.data + at + sizeof first);

        if (first > 0 && first <= last)
            rc = uid_set_add(&w->modified, first, last);
    }
    return rc;
}

static int store_change(struct command *c, struct store_work *w)
{
    struct change change;
    int rc = change_begin(&change, c->account, command_operation(c));

    if (rc == 0) {
        rc = find_foreign(c, w);
        w->gone = find_gone(c, w);
        if (rc == 0)
            rc = stage_flags(c, w, &change);
        if (rc == 0)
            rc = change_commit(&change, modified_result(w));
    } else if (rc == -EALREADY) {
        rc = find_foreign(c, w);
        if (rc == 0)
            rc = modified_repeat(w, change.result);
    }
    if (rc == 0) /* All up to here is told below. */
        c->token.flag_changes = c->account->modseq;
    change_end(&change);
    return rc;
}

/* ---- The answer ---------------------------------------------------------------------------------------- */

static bool was_stored(const struct store_work *w, uint32_t uid)
{
    return uid_set_has(&w->uids, uid) && !uid_set_has(&w->modified, uid);
}

/* .SILENT leaves out what this command did, unless somebody else changed the same message: then the client
 * could not know its flags. */
static void write_stored(struct command *c, struct store_work *w, const struct message *m, uint32_t seq)
{
    const struct imap_store *store = &c->parsed.store;

    if (!store->silent || uid_set_has(&w->foreign, m->uid)) {
        command_write_flags(c, m, seq);
    } else if (command_condstore(c) && was_stored(w, m->uid)) {
        imap_write_fetch_begin(command_writer(c), seq);
        if (c->parsed.command->uid)
            writer_printf(command_writer(c), "UID %u ", m->uid);
        writer_printf(command_writer(c), "MODSEQ (%llu))\r\n", (unsigned long long)m->changed);
        c->modseq_shown = MAX(c->modseq_shown, m->changed);
    }
}

/* With .SILENT and no MODSEQ to tell, there is nothing to say of what only this command changed. */
static int tell_begin(struct command *c, struct store_work *w)
{
    bool own = !c->parsed.store.silent || command_condstore(c);
    int rc = 0;

    for (uint32_t i = 0; i < w->foreign.range_count && rc == 0; i++)
        rc = uid_set_add(&w->tell, w->foreign.ranges[i].first, w->foreign.ranges[i].last);
    for (uint32_t i = 0; own && i < w->uids.range_count && rc == 0; i++)
        rc = uid_set_add(&w->tell, w->uids.ranges[i].first, w->uids.ranges[i].last);
    message_walk_init(&w->walk, &w->tell);
    return rc;
}

/* `[MODIFIED 7,9]`: sequence numbers, or UIDs for the UID form. */
static int modified_code(struct command *c, struct store_work *w, const char **code_out)
{
    struct uid_set seqs;
    struct uid_set_iter it;
    uint32_t uid, seq;
    int rc = 0;

    *code_out = NULL;
    if (w->modified.range_count == 0)
        return 0;
    if (c->parsed.command->uid) {
        *code_out = command_set_code(c, "MODIFIED", &w->modified);
        return 0;
    }
    uid_set_init(&seqs, c->backend->heap, 0);
    uid_set_iter_init(&it, &w->modified);
    while (rc == 0 && uid_set_iter_next(&it, &uid)) {
        seq = view_seq(&c->view, uid);
        if (seq != 0)
            rc = uid_set_add(&seqs, seq, seq);
    }
    if (rc == 0 && seqs.range_count > 0)
        *code_out = command_set_code(c, "MODIFIED", &seqs);
    uid_set_fini(&seqs);
    return rc;
}

static enum command_step store_end(struct command *c, struct store_work *w)
{
    const char *code;
    int rc = modified_code(c, w, &code);

    if (rc < 0)
        return command_error(c, rc);
    if (code != NULL)
        return command_ok(c, code, "Conditional store failed for some.");
    return command_ok(c, w->gone ? "EXPUNGEISSUED" : NULL, "Store completed.");
}

static enum command_step store_tell(struct command *c, struct store_work *w)
{
    const struct message *m;
    uint32_t seq;
    bool park;
    int rc = 0;

    while (rc == 0) {
        m = command_next_message(c, &w->walk, &seq, &park);
        if (m == NULL)
            return park ? STEP_PARK : store_end(c, w);
        if (m->expunged == 0)
            write_stored(c, w, m, seq);
        rc = fiber_work(STORE_VISIT_UNITS);
    }
    return command_error(c, rc);
}

static int store_begin(struct command *c, struct store_work *w)
{
    struct heap *heap = c->backend->heap;
    int rc;

    uid_set_init(&w->foreign, heap, 0);
    uid_set_init(&w->modified, heap, 0);
    uid_set_init(&w->tell, heap, 0);
    c->work = w;
    c->work_fini = store_fini;
    rc = command_set_uids(c, &c->parsed.store.set, &w->uids);
    if (rc == 0 && c->parsed.store.unchanged_since)
        command_condstore_enable(c);
    return rc;
}

enum command_step store_run(struct command *c)
{
    struct store_work *w = c->work;
    int rc;

    if (w != NULL)
        return store_tell(c, w);
    if (command_read_only(c))
        return command_no(c, "READ-ONLY", "Mailbox is read-only.");
    w = arena_zalloc(&c->arena, sizeof *w);
    rc = store_begin(c, w);
    if (rc < 0)
        return command_set_error(c, rc);
    rc = store_change(c, w);
    if (rc == 0)
        rc = tell_begin(c, w);
    if (rc == -EMLINK)
        return command_no(c, "LIMIT", "Too many keywords in this mailbox.");
    return rc < 0 ? command_error(c, rc) : store_tell(c, w);
}
