/* EXPUNGE and UID EXPUNGE (RFC 3501 6.4.3, RFC 4315 2.1). What goes is told by the sync before the tagged
 * line. */
#include "roles/backend/command.h"
#include <errno.h>

/* `uids` NULL: all that have \Deleted. */
static enum command_step expunge(struct command *c, const struct uid_set *uids)
{
    struct change change;
    int rc;

    rc = change_begin(&change, c->account, command_operation(c));
    if (rc == 0)
        rc = change_expunge(&change, c->mailbox, uids, true, NULL);
    if (rc == 0)
        rc = change_commit(&change, (struct slice){0});
    change_end(&change);
    if (rc < 0 && rc != -EALREADY)
        return command_error(c, rc);
    return command_ok(c, NULL, "Expunge completed.");
}

enum command_step expunge_run(struct command *c)
{
    if (command_read_only(c))
        return command_no(c, "READ-ONLY", "Mailbox is read-only.");
    return expunge(c, NULL);
}

enum command_step uid_expunge_run(struct command *c)
{
    struct uid_set uids;
    enum command_step step;
    int rc;

    if (command_read_only(c))
        return command_no(c, "READ-ONLY", "Mailbox is read-only.");
    rc = command_set_uids(c, &c->parsed.expunge, &uids);
    step = rc < 0 ? command_set_error(c, rc) : expunge(c, &uids);
    uid_set_fini(&uids);
    return step;
}
