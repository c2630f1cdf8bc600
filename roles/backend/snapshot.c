#include "roles/backend/snapshot.h"
#include "core/log.h"
#include "core/metrics.h"
#include <errno.h>

static bool token_is_fresh(const struct token *t)
{
    static const struct token fresh;

    return memcmp(t->history, fresh.history, sizeof t->history) == 0 && t->mailbox_id == 0;
}

/* Another history, or ahead of the account: nothing is computed from such numbers. */
static bool token_fits(const struct token *t, const struct account *a)
{
    return memcmp(t->history, a->history.bytes, sizeof t->history) == 0 && t->appends <= a->modseq &&
           t->expunges <= a->modseq && t->flag_changes <= a->modseq;
}

static enum snapshot_result snapshot_bye(struct command *c, const char *why)
{
    log_event(LOG_WARN, "session cannot go on", "user=%s why=\"%s\"", log_quote(c->request.user), why);
    snapshot_close(c);
    command_bye(c, "This session cannot go on; please log in again.");
    return SNAPSHOT_FAILED;
}

static enum snapshot_result snapshot_open_mailbox(struct command *c)
{
    struct token *t = &c->token;
    int rc;

    c->mailbox = account_mailbox_by_id(c->account, t->mailbox_id);
    if (c->mailbox == NULL)
        return snapshot_bye(c, "mailbox forgotten");
    if (c->mailbox->uidvalidity != t->uidvalidity || t->keyword_count > c->mailbox->keyword_count) {
        c->mailbox = NULL;
        return snapshot_bye(c, "token does not fit the mailbox");
    }
    rc = view_open(&c->view, c->account, c->mailbox, t->appends, t->expunges);
    if (rc == 0)
        return SNAPSHOT_OK;
    c->mailbox = NULL;
    if (rc == -ESTALE) {
        shard_self()->metrics->sessions_bye_floor++;
        return snapshot_bye(c, "snapshot below the floor");
    }
    if (rc == -EINVAL)
        return snapshot_bye(c, "token ahead of the account");
    snapshot_close(c);
    command_error(c, rc);
    return SNAPSHOT_FAILED;
}

enum snapshot_result snapshot_open(struct command *c)
{
    int rc = backend_account_open(c->backend, c->request.user, &c->account);

    if (rc < 0) {
        c->account = NULL;
        if (!c->sync_only)
            command_error(c, rc);
        else if (rc == -EBADMSG)
            command_bye(c, "Temporary failure; please log in again.");
        else
            c->reset = true; /* It is asked for again, for as long as the session idles. */
        return SNAPSHOT_FAILED;
    }
    if (token_is_fresh(&c->token))
        memcpy(c->token.history, c->account->history.bytes, sizeof c->token.history);
    if (!token_fits(&c->token, c->account))
        return snapshot_bye(c, "token of another history");
    return c->token.mailbox_id != 0 ? snapshot_open_mailbox(c) : SNAPSHOT_OK;
}

void snapshot_close(struct command *c)
{
    if (c->mailbox != NULL)
        view_close(&c->view);
    c->mailbox = NULL;
    if (c->account != NULL)
        account_close(c->account);
    c->account = NULL;
}

void snapshot_deselect(struct command *c)
{
    struct token *t = &c->token;

    if (c->mailbox != NULL)
        view_close(&c->view);
    c->mailbox = NULL;
    c->keywords = (struct imap_keywords){0};
    t->mailbox_id = 0;
    t->uidvalidity = 0;
    t->recent_first = t->recent_last = 0;
    t->keyword_count = 0;
    t->appends = t->expunges = t->flag_changes = c->account->modseq;
    t->flags &= (uint16_t)~TOKEN_READ_ONLY;
}

int snapshot_select(struct command *c, struct mailbox *m, bool read_only)
{
    struct token *t = &c->token;
    uint64_t now = c->account->modseq;
    uint32_t first;
    int rc = view_open(&c->view, c->account, m, now, now);

    if (rc < 0)
        return rc;
    c->mailbox = m;
    first = account_take_recent(c->account, m, read_only);
    t->mailbox_id = m->id;
    t->uidvalidity = m->uidvalidity;
    t->appends = t->expunges = t->flag_changes = now;
    t->keyword_count = (uint16_t)m->keyword_count;
    t->recent_first = first < m->uid_next ? first : 0;
    t->recent_last = first < m->uid_next ? m->uid_next - 1 : 0;
    if (read_only)
        t->flags |= TOKEN_READ_ONLY;
    return 0;
}
