/* tests/sim/mail_folder.c -- mailboxes that come and go: each client creates and deletes one of its own, and knows
 * whether it is there. */
#include "tests/sim/mail.h"
#include <string.h>

#define VIOLATION(c, client, format, ...)                                                                    \
    sim_violation((c)->world, "u%u f%u: " format, (c)->account, client, __VA_ARGS__)

static struct ledger_folder *folder_of(struct imap *c, unsigned client)
{
    return &c->ledger->folders[c->account][client];
}

static bool code_is(const struct imap *c, const char *code)
{
    return strcmp(c->code, code) == 0;
}

/* A mailbox of a name that was deleted is another mailbox: RFC 3501 2.3.1.1. */
static void folder_shown(struct imap *c, unsigned client)
{
    struct ledger_folder *f = folder_of(c, client);
    bool right = c->uidvalidity > f->uidvalidity ? f->other != OTHER_NO || f->uidvalidity == 0
                                                 : c->uidvalidity == f->uidvalidity && f->other != OTHER_YES;

    if (!right)
        VIOLATION(c, client, "UIDVALIDITY %u, and was %u", c->uidvalidity, f->uidvalidity);
    f->uidvalidity = c->uidvalidity;
    f->other = OTHER_NO;
}

/* Holds what STATUS said against what is known. */
static int folder_checked(struct imap *c, unsigned client, int rc)
{
    struct ledger_folder *f = folder_of(c, client);

    if (rc == IMAP_OK && f->may == MAY_BE_UNSET)
        VIOLATION(c, client, "%s", "is there, and was deleted or never created");
    if (rc == IMAP_NO && code_is(c, "NONEXISTENT") && f->may == MAY_BE_SET)
        VIOLATION(c, client, "%s", "is not there, and was created");
    if (rc == IMAP_OK) {
        f->may = MAY_BE_SET;
        folder_shown(c, client);
    }
    return rc;
}

static int folder_status(struct imap *c, unsigned client)
{
    c->uidvalidity = 0;
    return folder_checked(c, client, imap_command(c, "STATUS f%u (UIDVALIDITY)", client));
}

/* OK: it was not there, and is. Refused: it is as it was, unless the reason says how it is. */
static void create_ended(struct imap *c, unsigned client, unsigned before, int rc)
{
    struct ledger_folder *f = folder_of(c, client);

    if (rc == IMAP_OK) {
        f->may = MAY_BE_SET;
        f->other = OTHER_YES;
    } else if (rc == IMAP_NO && code_is(c, "ALREADYEXISTS")) {
        if (before == MAY_BE_UNSET)
            VIOLATION(c, client, "%s", "is there, and was deleted or never created");
        f->may = MAY_BE_SET;
    } else if (rc == IMAP_NO) {
        f->may = before;
    }
}

static void delete_ended(struct imap *c, unsigned client, unsigned before, int rc)
{
    struct ledger_folder *f = folder_of(c, client);
    bool absent = rc == IMAP_NO && code_is(c, "NONEXISTENT");

    if (absent && before == MAY_BE_SET)
        VIOLATION(c, client, "%s", "is not there, and was created");
    if (rc == IMAP_OK || absent) {
        f->may = MAY_BE_UNSET;
        f->other = OTHER_YES;
    } else if (rc == IMAP_NO) {
        f->may = before;
    } else if (f->other == OTHER_NO) {
        f->other = OTHER_MAYBE;
    }
}

int mail_act_folder(struct mail *mail, struct imap *c, unsigned client)
{
    struct ledger_folder *f = folder_of(c, client);
    unsigned before = f->may;
    bool there = before == MAY_BE_SET || (before == MAY_BE_ANY && random_u64() % 2 == 0);
    struct sim_operation o;
    int rc;

    f->may = MAY_BE_ANY;
    mail_begin(&o, there ? MAIL_DELETE : MAIL_CREATE, c);
    rc = mail_end(&o, c, imap_command(c, "%s f%u", there ? "DELETE" : "CREATE", client));
    if (there)
        delete_ended(c, client, before, rc);
    else
        create_ended(c, client, before, rc);
    if (rc != IMAP_OK || there)
        return rc;
    mail_begin(&o, MAIL_STATUS, c);
    return mail_end(&o, c, folder_status(c, client));
}

int mail_check_folders(struct imap *c)
{
    int rc = IMAP_OK;

    for (unsigned client = 0; rc >= 0 && client < LEDGER_CLIENTS; client++) {
        rc = folder_status(c, client);
        if (rc == IMAP_NO && !code_is(c, "NONEXISTENT") && !c->ledger->rot)
            return rc;
    }
    return rc < 0 ? rc : IMAP_OK;
}
