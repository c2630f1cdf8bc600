/* CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE (RFC 3501 6.3, RFC 6154). */
#include "roles/backend/command.h"
#include <errno.h>

_Static_assert((int)IMAP_USE_ALL == SPECIAL_ALL && (int)IMAP_USE_ARCHIVE == SPECIAL_ARCHIVE &&
                   (int)IMAP_USE_DRAFTS == SPECIAL_DRAFTS && (int)IMAP_USE_FLAGGED == SPECIAL_FLAGGED &&
                   (int)IMAP_USE_JUNK == SPECIAL_JUNK && (int)IMAP_USE_SENT == SPECIAL_SENT &&
                   (int)IMAP_USE_TRASH == SPECIAL_TRASH,
               "the grammar's uses are the store's");

static enum command_step mailbox_error(struct command *c, int rc)
{
    switch (rc) {
    case -EINVAL:
        return command_no(c, "CANNOT", "Invalid mailbox name.");
    case -EEXIST:
        return command_no(c, "ALREADYEXISTS", "Mailbox already exists.");
    case -ENOENT:
        return command_no(c, "NONEXISTENT", "Mailbox doesn't exist.");
    case -EPERM:
        return command_no(c, "CANNOT", "INBOX can't be deleted.");
    default:
        return command_error(c, rc);
    }
}

typedef int stage_fn(struct command *c, struct change *change);

/* Every change of the mailbox list: staged, durable, answered. */
static enum command_step mailbox_change(struct command *c, stage_fn *stage, const char *text)
{
    struct change change;
    int rc = change_begin(&change, c->account, command_operation(c));

    if (rc == 0)
        rc = stage(c, &change);
    if (rc == 0)
        rc = change_commit(&change, (struct slice){0});
    change_end(&change);
    if (rc < 0 && rc != -EALREADY)
        return mailbox_error(c, rc);
    return command_ok(c, NULL, text);
}

/* The levels above `name` that are not mailboxes yet become such (RFC 3501 6.3.3). */
static int create_superiors(struct command *c, struct change *change, struct slice name)
{
    int rc = 0;
    uint64_t id;

    for (size_t i = 0; i < name.size && rc == 0; i++) {
        struct slice superior = slice_first(name, i);

        if (name.data[i] != MAILBOX_SEPARATOR || account_mailbox(c->account, superior) != NULL)
            continue;
        rc = change_mailbox_create(change, superior, 0, &id);
        if (rc == -EEXIST)
            rc = 0;
    }
    return rc;
}

static int create_stage(struct command *c, struct change *change)
{
    const struct imap_create *create = &c->parsed.create;
    uint64_t id;
    int rc;

    if (account_mailbox(c->account, create->mailbox) != NULL)
        return -EEXIST;
    if (mailbox_name_check(create->mailbox) != MAILBOX_NAME_OK)
        return -EINVAL;
    rc = create_superiors(c, change, create->mailbox);
    return rc == 0 ? change_mailbox_create(change, create->mailbox, create->special_use, &id) : rc;
}

enum command_step create_run(struct command *c)
{
    if ((c->parsed.create.special_use & ~(uint32_t)SPECIAL_USE_ALL) != 0)
        return command_no(c, "USEATTR", "Special use is not supported.");
    return mailbox_change(c, create_stage, "Create completed.");
}

static int delete_stage(struct command *c, struct change *change)
{
    struct mailbox *m = account_mailbox(c->account, c->parsed.mailbox.mailbox);

    return m != NULL ? change_mailbox_delete(change, m) : -ENOENT;
}

enum command_step delete_run(struct command *c)
{
    return mailbox_change(c, delete_stage, "Delete completed.");
}

static int rename_stage(struct command *c, struct change *change)
{
    const struct imap_rename *rename = &c->parsed.rename;
    int rc;

    if (account_mailbox(c->account, rename->from) == NULL && !account_has_children(c->account, rename->from))
        return -ENOENT;
    if (account_mailbox(c->account, rename->to) != NULL)
        return -EEXIST;
    if (mailbox_name_check(rename->to) != MAILBOX_NAME_OK)
        return -EINVAL;
    rc = create_superiors(c, change, rename->to);
    return rc == 0 ? change_mailbox_rename(change, rename->from, rename->to) : rc;
}

enum command_step rename_run(struct command *c)
{
    return mailbox_change(c, rename_stage, "Rename completed.");
}

static int subscribe_stage(struct command *c, struct change *change)
{
    return change_subscribe(change, c->parsed.mailbox.mailbox);
}

static int unsubscribe_stage(struct command *c, struct change *change)
{
    return change_unsubscribe(change, c->parsed.mailbox.mailbox);
}

enum command_step subscribe_run(struct command *c)
{
    return mailbox_change(c, subscribe_stage, "Subscribe completed.");
}

enum command_step unsubscribe_run(struct command *c)
{
    return mailbox_change(c, unsubscribe_stage, "Unsubscribe completed.");
}
