/* FETCH (RFC 3501 6.4.5, RFC 7162). Lists of flags and UIDs are written without a stop; what needs the
 * message opens it once, and waits for credit between windows. */
#include "roles/backend/fetch.h"
#include "roles/backend/snapshot.h"
#include <errno.h>

#define FETCH_LINE_ITEMS      (IMAP_FETCH_UID | IMAP_FETCH_FLAGS | IMAP_FETCH_MODSEQ)
#define FETCH_STRUCTURED      (IMAP_FETCH_ENVELOPE | IMAP_FETCH_BODY | IMAP_FETCH_BODYSTRUCTURE)
#define FETCH_VISIT_UNITS     64 /* Of fiber_work(): a message visited. */
#define FETCH_INTERACTIVE_MAX 16 /* Messages that are opened; more are bulk. */

static void fetch_fini(struct command *c)
{
    struct fetch_work *w = c->work;

    fetch_source_unkeep(c->backend, w);
    fetch_source_close(&w->source);
    uid_set_fini(&w->uids);
    uid_set_fini(&w->seen);
}

static bool fetch_skips(const struct imap_fetch *fetch, const struct message *m)
{
    return fetch->changed_since && m->changed <= fetch->modseq;
}

/* ---- Flags and UIDs alone ------------------------------------------------------------------------------ */

static bool fetch_is_list(const struct imap_fetch *fetch)
{
    return fetch->section_count == 0 && (fetch->items & IMAP_FETCH_FLAGS) != 0 &&
           (fetch->items & ~(uint32_t)FETCH_LINE_ITEMS) == 0;
}

static void list_line(struct command *c, const struct imap_fetch *fetch, const struct message *m,
                      uint32_t seq)
{
    struct imap_flag_line line = {.seq = seq, .keywords = m->keywords, .system = command_flags_of(c, m)};

    if (UNLIKELY(c->token.keyword_count != c->mailbox->keyword_count))
        command_announce_keywords(c);
    if ((fetch->items & IMAP_FETCH_UID) != 0)
        line.uid = m->uid;
    if ((fetch->items & IMAP_FETCH_MODSEQ) != 0) {
        line.modseq = m->changed;
        c->modseq_shown = MAX(c->modseq_shown, m->changed);
    }
    imap_write_flag_line(command_writer(c), &line, command_keywords(c));
}

static int fetch_list(struct command *c, struct fetch_work *w, bool *park_out)
{
    const struct imap_fetch *fetch = &c->parsed.fetch;
    const struct message *m;
    uint32_t seq;
    int rc = 0;

    while (rc == 0) {
        m = command_next_message(c, &w->walk, &seq, park_out);
        if (m == NULL)
            return 0;
        if (!fetch_skips(fetch, m))
            list_line(c, fetch, m, seq);
        rc = fiber_work(FETCH_VISIT_UNITS);
    }
    return rc;
}

/* ---- What needs more ----------------------------------------------------------------------------------- */

/* Blank between two items. */
static void next_item(struct command *c, bool *first)
{
    if (!*first)
        writer_char(command_writer(c), ' ');
    *first = false;
}

static void write_structured(struct command *c, uint32_t items, const struct fetch_source *source,
                             bool *first)
{
    struct writer *out = command_writer(c);

    if ((items & IMAP_FETCH_ENVELOPE) != 0) {
        next_item(c, first);
        writer_text(out, "ENVELOPE ");
        structure_write_envelope(&source->structure, out);
    }
    if ((items & IMAP_FETCH_BODY) != 0) {
        next_item(c, first);
        writer_text(out, "BODY ");
        structure_write_body(&source->structure, out);
    }
    if ((items & IMAP_FETCH_BODYSTRUCTURE) != 0) {
        next_item(c, first);
        writer_text(out, "BODYSTRUCTURE ");
        structure_write_bodystructure(&source->structure, out);
    }
}

static void write_numbers(struct command *c, uint32_t items, const struct message *m, bool *first)
{
    struct writer *out = command_writer(c);

    if ((items & IMAP_FETCH_UID) != 0) {
        next_item(c, first);
        writer_text(out, "UID ");
        writer_u64(out, m->uid);
    }
    if ((items & IMAP_FETCH_FLAGS) != 0) {
        next_item(c, first);
        writer_text(out, "FLAGS ");
        imap_write_flags(out, command_flags_of(c, m), m->keywords, command_keywords(c));
    }
    if ((items & IMAP_FETCH_MODSEQ) != 0) {
        next_item(c, first);
        writer_text(out, "MODSEQ (");
        writer_u64(out, m->changed);
        writer_char(out, ')');
        c->modseq_shown = MAX(c->modseq_shown, m->changed);
    }
    if ((items & IMAP_FETCH_INTERNALDATE) != 0) {
        next_item(c, first);
        writer_text(out, "INTERNALDATE ");
        imap_write_date(out, (struct mail_date){m->internal_s, m->zone_minutes});
    }
    if ((items & IMAP_FETCH_RFC822_SIZE) != 0) {
        next_item(c, first);
        writer_text(out, "RFC822.SIZE ");
        writer_u64(out, m->body.size);
    }
}

/* All but the sections; `* n FETCH (` before them. */
static void message_begin(struct command *c, struct fetch_work *w, const struct fetch_source *source)
{
    uint32_t items = c->parsed.fetch.items;
    bool first = true;

    if ((items & IMAP_FETCH_FLAGS) != 0)
        command_announce_keywords(c);
    imap_write_fetch_begin(command_writer(c), w->seq);
    write_numbers(c, items, &w->message, &first);
    if (source->reader != NULL)
        write_structured(c, items, source, &first);
    if (!first && c->parsed.fetch.section_count > 0)
        writer_char(command_writer(c), ' ');
}

/* The sections from the cursor on, and the end of the line. */
static enum section_result message_sections(struct command *c, struct fetch_work *w,
                                            struct fetch_source *source)
{
    const struct imap_fetch *fetch = &c->parsed.fetch;
    enum section_result result;

    for (; w->section_index < fetch->section_count; w->section_index++) {
        if (w->section_index > 0 && !w->section_begun)
            writer_char(command_writer(c), ' ');
        result = section_send(c, w, source, &fetch->sections[w->section_index]);
        if (result != SECTION_SENT)
            return result;
        w->section_begun = false;
        w->offset = 0;
    }
    writer_text(command_writer(c), ")\r\n");
    return SECTION_SENT;
}

static bool fetch_needs_source(const struct imap_fetch *fetch)
{
    return fetch->section_count > 0 || (fetch->items & FETCH_STRUCTURED) != 0;
}

static int note_seen(struct command *c, struct fetch_work *w)
{
    bool due = c->parsed.fetch.sets_seen && !command_read_only(c) && (w->message.flags & MAIL_SEEN) == 0 &&
               w->message.expunged == 0;

    return due ? uid_set_add(&w->seen, w->message.uid, w->message.uid) : 0;
}

/* One message can't be read: the others still can. What was begun has to be ended. */
static int message_unreadable(struct command *c, struct fetch_work *w, int rc)
{
    if (c->half)
        return -EPIPE;
    if (rc != -EBADMSG && rc != -EIO && rc != -ENOENT)
        return rc;
    if (w->message.expunged != 0)
        w->gone = true;
    else
        w->damaged = true;
    return 0;
}

/* The message of the cursor, or what is left of it. 0; -EAGAIN: out of credit; -EPIPE: broken off in a
 * literal. */
static int fetch_message(struct command *c, struct fetch_work *w)
{
    struct fetch_source *source = &w->source;
    enum section_result result;
    int rc = 0;

    fetch_source_unkeep(c->backend, w);
    if (fetch_needs_source(&c->parsed.fetch) && source->reader == NULL)
        rc = fetch_source_open(c, &w->message, c->parsed.fetch.section_count > 0, source);
    if (rc < 0)
        return message_unreadable(c, w, rc);
    if (!c->half) {
        c->half = true;
        w->section_index = 0;
        message_begin(c, w, source);
    }
    result = message_sections(c, w, source);
    if (result == SECTION_PARK) {
        fetch_source_keep(c->backend, w);
        return -EAGAIN;
    }
    fetch_source_close(source);
    if (result == SECTION_BROKEN)
        return -EPIPE;
    c->half = false;
    return note_seen(c, w);
}

static int fetch_messages(struct command *c, struct fetch_work *w, bool *park_out)
{
    const struct message *m;
    int rc = 0;

    *park_out = false;
    while (rc == 0) {
        if (!c->half) {
            m = command_next_message(c, &w->walk, &w->seq, park_out);
            if (m == NULL)
                return 0;
            if (fetch_skips(&c->parsed.fetch, m))
                continue;
            w->message = *m;
        }
        rc = fetch_message(c, w);
        if (rc == 0)
            rc = fiber_work(FETCH_VISIT_UNITS);
    }
    *park_out = rc == -EAGAIN;
    return rc == -EAGAIN ? 0 : rc;
}

/* ---- Beginning and end --------------------------------------------------------------------------------- */

static const char *fetch_unsupported(const struct imap_fetch *fetch)
{
    if (fetch->vanished)
        return "QRESYNC is not enabled.";
    for (uint32_t i = 0; i < fetch->section_count; i++)
        if (fetch->sections[i].kind == IMAP_SECTION_BINARY ||
            fetch->sections[i].kind == IMAP_SECTION_BINARY_SIZE)
            return "BINARY is not supported.";
    return NULL;
}

static int fetch_begin(struct command *c)
{
    const struct imap_fetch *fetch = &c->parsed.fetch;
    struct fetch_work *w = arena_zalloc(&c->arena, sizeof *w);

    c->work = w;
    c->work_fini = fetch_fini;
    uid_set_init(&w->seen, c->backend->heap, 0);
    list_init(&w->kept);
    message_walk_init(&w->walk, &w->uids);
    if ((fetch->items & IMAP_FETCH_MODSEQ) != 0 || fetch->changed_since)
        command_condstore_enable(c);
    return command_set_uids(c, &fetch->set, &w->uids);
}

/* Who reads a whole mailbox waits behind those who read one message. */
static void fetch_set_class(const struct command *c, const struct fetch_work *w)
{
    if (fetch_needs_source(&c->parsed.fetch) && uid_set_count(&w->uids) > FETCH_INTERACTIVE_MAX)
        fiber_set_class(RUN_BULK);
}

/* \Seen is a durable change: it is shown, and the tagged OK sent, when it is one. A full disk keeps nobody
 * from reading. */
static int fetch_set_seen(struct command *c, struct fetch_work *w)
{
    struct change change;
    int rc;

    if (w->seen.range_count == 0)
        return 0;
    rc = change_begin(&change, c->account, NULL);
    if (rc == 0)
        rc = change_flags(&change, c->mailbox, &w->seen, FLAGS_ADD, MAIL_SEEN, 0, UINT64_MAX, NULL, NULL);
    if (rc == 0)
        rc = change_commit(&change, (struct slice){0});
    change_end(&change);
    if (rc == 0)
        rc = snapshot_sync(c, SYNC_FLAGS);
    return rc == -ENOSPC ? 0 : rc;
}

static enum command_step fetch_end(struct command *c, struct fetch_work *w)
{
    int rc = fetch_set_seen(c, w);

    if (rc < 0)
        return command_error(c, rc);
    if (w->damaged)
        return command_no(c, "SERVERBUG", "Some messages are damaged and were left out.");
    if (w->gone)
        return command_no(c, "EXPUNGEISSUED", "Some messages were expunged and are no longer kept.");
    return command_ok(c, NULL, "Fetch completed.");
}

enum command_step fetch_run(struct command *c)
{
    const struct imap_fetch *fetch = &c->parsed.fetch;
    const char *unsupported = fetch_unsupported(fetch);
    bool park;
    int rc;

    if (unsupported != NULL)
        return command_bad(c, unsupported);
    if (c->work == NULL) {
        rc = fetch_begin(c);
        if (rc < 0)
            return command_set_error(c, rc);
        fetch_set_class(c, c->work);
    }
    rc = fetch_is_list(fetch) ? fetch_list(c, c->work, &park) : fetch_messages(c, c->work, &park);
    if (rc == -EPIPE) {
        c->reset = true;
        return STEP_DONE;
    }
    if (rc < 0)
        return command_error(c, rc);
    return park ? STEP_PARK : fetch_end(c, c->work);
}
