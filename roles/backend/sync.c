/* The difference of two snapshots, as untagged responses.
 *
 * Expunges go first, from the last to the first, each with the number that it has in the old snapshot: so the
 * numbers need no correction. Then comes what is new, and then the flags that others changed, by the new
 * numbers. */
#include "roles/backend/snapshot.h"
#include "roles/words/expunge_run.h"
#include <errno.h>

uint64_t snapshot_highest_modseq(const struct command *c)
{
    const struct token *t = &c->token;

    if (c->mailbox == NULL)
        return 0;
    return MIN(c->mailbox->highest, MIN(t->appends, MIN(t->expunges, t->flag_changes)));
}

/* As many runs as `room` takes, of the expunges before the `*left`th. Returns their size. */
static size_t write_runs(struct command *c, uint32_t *left, char *out, size_t room)
{
    struct expunge_run run = {0};
    size_t size = 0;
    uint32_t seq;

    for (; *left > 0; (*left)--) {
        (void)view_gone_at(&c->view, *left - 1, &seq);
        if (!expunge_run_add(&run, seq)) {
            if (size + EXPUNGE_RUN_SIZE > room)
                break;
            run = (struct expunge_run){seq, 1};
            size += EXPUNGE_RUN_SIZE;
        }
        expunge_run_encode(&run, out + size - EXPUNGE_RUN_SIZE);
    }
    return size;
}

static void write_gone(struct command *c)
{
    uint32_t left = view_gone_count(&c->view);

    while (left > 0) {
        size_t room = MIN(left * (size_t)EXPUNGE_RUN_SIZE, LINK_PAYLOAD_MAX);
        struct link_frame *f = link_frame_new(room);

        link_writer_frame(&c->out, f, write_runs(c, &left, f->payload, room), LINK_RUNS);
    }
}

static uint32_t recent_count(struct command *c)
{
    const struct token *t = &c->token;

    if (t->recent_first == 0)
        return 0;
    return view_rank(&c->view, t->recent_last + 1) - view_rank(&c->view, t->recent_first);
}

/* One range a session: what another session took in between is recent to both, as RFC 3501 2.3.2 allows. */
static void take_recent(struct command *c)
{
    struct token *t = &c->token;
    uint32_t first = account_take_recent(c->account, c->mailbox, command_read_only(c));

    if ((t->flags & TOKEN_REV2) != 0 || first >= c->mailbox->uid_next)
        return;
    if (t->recent_first == 0)
        t->recent_first = first;
    t->recent_last = c->mailbox->uid_next - 1;
}

/* Expunges and new messages; the view moves to now. Does not suspend, so what is written is one snapshot. */
static int sync_view(struct command *c)
{
    uint64_t now = c->account->modseq;
    uint32_t gone = view_gone_count(&c->view), first_new, recent;
    bool grew = view_new_count(&c->view, &first_new) > 0;
    struct view moved;
    int rc;

    if (gone > 0 || grew) {
        rc = view_open(&moved, c->account, c->mailbox, now, now);
        if (rc < 0)
            return rc;
        link_writer_hold(&c->out);
        recent = recent_count(c);
        write_gone(c);
        view_close(&c->view);
        c->view = moved;
        if (grew) {
            take_recent(c);
            imap_write_number(command_writer(c), view_count(&c->view), "EXISTS");
        }
        if (recent_count(c) != recent && (c->token.flags & TOKEN_REV2) == 0)
            imap_write_number(command_writer(c), recent_count(c), "RECENT");
    }
    command_announce_keywords(c);
    c->token.appends = c->token.expunges = now;
    return 0;
}

/* Flags that changed since F, of messages that the client knew before this sync. */
static int sync_flags(struct command *c, uint64_t now, uint32_t uid_end)
{
    const struct message *m;
    uint32_t uid = 0, seq;
    bool more;
    int rc;

    if (c->mailbox->highest <= c->token.flag_changes) {
        c->token.flag_changes = now;
        return 0;
    }
    do {
        while ((m = view_next_changed(&c->view, c->token.flag_changes, &uid, &seq, &more)) != NULL) {
            if (m->uid >= uid_end) {
                more = false;
                break;
            }
            command_write_flags(c, m, seq);
        }
        rc = more ? fiber_work(FIBER_WORK_QUANTUM) : 0;
    } while (more && rc == 0);
    if (rc == 0)
        c->token.flag_changes = now;
    return rc;
}

/* Horizons that stand for the same picture move along: so a session that reads by sequence numbers alone does
 * not stay behind for ever, and needs no tombstones that it does not see. */
static void sync_quiet(struct command *c)
{
    uint64_t now = c->account->modseq;
    uint32_t first;

    if (view_gone_count(&c->view) == 0 && view_new_count(&c->view, &first) == 0)
        c->token.appends = c->token.expunges = now;
    if (c->mailbox->highest <= c->token.flag_changes)
        c->token.flag_changes = now;
}

int snapshot_sync(struct command *c, enum sync_extent extent)
{
    uint64_t now = c->account->modseq;
    uint32_t uid_end;
    int rc;

    if (c->mailbox == NULL) {
        c->token.appends = c->token.expunges = c->token.flag_changes = now;
        return 0;
    }
    uid_end = view_last_uid(&c->view) + 1;
    switch (extent) {
    case SYNC_ALL:
        rc = sync_view(c);
        return rc == 0 ? sync_flags(c, now, uid_end) : rc;
    case SYNC_FLAGS:
        rc = sync_flags(c, now, uid_end);
        if (rc == 0)
            sync_quiet(c);
        return rc;
    case SYNC_QUIET:
        sync_quiet(c);
        return 0;
    }
    return 0;
}
