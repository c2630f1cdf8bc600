/* SELECT, EXAMINE, UNSELECT, CLOSE, STATUS, ENABLE, NOOP (RFC 3501 6.3, 6.4; RFC 3691, 5161, 7162, 8438). */
#include "roles/backend/snapshot.h"
#include <errno.h>

static void write_untagged_ok(struct command *c, const char *code, uint64_t value, const char *text)
{
    imap_write_status(command_writer(c), (struct slice){0}, IMAP_OK,
                      arena_printf(&c->arena, "%s %llu", code, (unsigned long long)value), slice_str(text));
}

static uint32_t recent_total(const struct token *t)
{
    return t->recent_first == 0 ? 0 : t->recent_last - t->recent_first + 1;
}

/* \Recent in a mailbox that was just opened: the range of UIDs, less the holes in it. */
static uint32_t recent_visible(struct command *c)
{
    if (recent_total(&c->token) == 0)
        return 0;
    return view_count(&c->view) - view_rank(&c->view, c->token.recent_first);
}

static void write_selected(struct command *c, bool read_only)
{
    struct writer *w = command_writer(c);
    struct mailbox *m = c->mailbox;
    uint32_t unseen = mailbox_first_unseen(m);

    imap_write_mailbox_flags(w, command_keywords(c), read_only, m->keyword_count < MAILBOX_KEYWORD_COUNT_MAX);
    imap_write_number(w, view_count(&c->view), "EXISTS");
    if ((c->token.flags & TOKEN_REV2) == 0)
        imap_write_number(w, recent_visible(c), "RECENT");
    if (unseen != 0 && (c->token.flags & TOKEN_REV2) == 0)
        write_untagged_ok(c, "UNSEEN", view_seq(&c->view, unseen), "First unseen.");
    write_untagged_ok(c, "UIDVALIDITY", m->uidvalidity, "UIDs valid");
    write_untagged_ok(c, "UIDNEXT", m->uid_next, "Predicted next UID");
    write_untagged_ok(c, "HIGHESTMODSEQ", m->highest, "Highest");
}

/* What is selected is left first, whatever then happens (RFC 3501 6.3.1). All of it is held: it renumbers. */
enum command_step select_run(struct command *c)
{
    const struct imap_select *select = &c->parsed.select;
    bool read_only = c->parsed.command->id == IMAP_EXAMINE;
    struct mailbox *m;
    int rc;

    if (select->qresync)
        return command_bad(c, "QRESYNC is not enabled.");
    link_writer_hold(&c->out);
    if (c->mailbox != NULL)
        imap_write_status(command_writer(c), (struct slice){0}, IMAP_OK, "CLOSED",
                          SLICE("Previous mailbox is now closed."));
    snapshot_deselect(c);
    m = account_mailbox(c->account, select->mailbox);
    if (m == NULL)
        return command_no(c, "NONEXISTENT", "Mailbox doesn't exist.");
    if (select->condstore)
        c->token.flags |= TOKEN_CONDSTORE;
    rc = snapshot_select(c, m, read_only);
    if (rc < 0)
        return command_error(c, rc);
    write_selected(c, read_only);
    if (read_only)
        return command_ok(c, "READ-ONLY", "Examine completed.");
    return command_ok(c, "READ-WRITE", "Select completed.");
}

enum command_step unselect_run(struct command *c)
{
    snapshot_deselect(c);
    return command_ok(c, NULL, "Unselect completed.");
}

/* Expunges what has \Deleted, and tells nobody: the session has left. */
enum command_step close_run(struct command *c)
{
    struct change change;
    int rc = 0;

    if (!command_read_only(c) && c->mailbox->deleted_count > 0) {
        rc = change_begin(&change, c->account, command_operation(c));
        if (rc == 0)
            rc = change_expunge(&change, c->mailbox, NULL, true, NULL);
        if (rc == 0)
            rc = change_commit(&change, (struct slice){0});
        change_end(&change);
    }
    if (rc < 0 && rc != -EALREADY)
        return command_error(c, rc);
    snapshot_deselect(c);
    return command_ok(c, NULL, "Close completed.");
}

/* ---- STATUS -------------------------------------------------------------------------------------------- */

void status_write(struct command *c, struct mailbox *m, uint32_t items)
{
    uint32_t recent_first = account_take_recent(c->account, m, true);
    struct imap_status_values values = {
        .messages = m->message_count,
        .recent = m->message_count - mailbox_message_find(m, recent_first),
        .uidnext = m->uid_next,
        .uidvalidity = m->uidvalidity,
        .unseen = m->unseen_count,
        .deleted = m->deleted_count,
        .highestmodseq = m->highest,
        .size = m->size,
    };

    imap_write_status_items(command_writer(c), mailbox_name(m), command_utf8(c), items, &values);
}

enum command_step status_run(struct command *c)
{
    const struct imap_status *status = &c->parsed.status;
    struct mailbox *m = account_mailbox(c->account, status->mailbox);

    if (m == NULL)
        return command_no(c, "NONEXISTENT", "Mailbox doesn't exist.");
    if ((status->items & IMAP_STATUS_HIGHESTMODSEQ) != 0)
        command_condstore_enable(c);
    status_write(c, m, status->items);
    return command_ok(c, NULL, "Status completed.");
}

/* ---- ENABLE, NOOP -------------------------------------------------------------------------------------- */

enum command_step enable_run(struct command *c)
{
    bool condstore = (c->parsed.enable & IMAP_ENABLE_CONDSTORE) != 0;

    writer_text(command_writer(c), "* ENABLED");
    if (condstore)
        writer_text(command_writer(c), " CONDSTORE");
    imap_write_crlf(command_writer(c));
    if (condstore)
        command_condstore_enable(c);
    return command_ok(c, NULL, "Enabled.");
}

enum command_step noop_run(struct command *c)
{
    return command_ok(c, NULL, c->parsed.command->id == IMAP_CHECK ? "Check completed." : "NOOP completed.");
}
