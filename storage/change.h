/* storage/change.h -- the one way to change an account: what is staged becomes one record with one
 * modification sequence, durable as a whole or not there at all, and visible to anyone only once it is
 * durable (I-5).
 *
 *     struct change c;
 *     rc = change_begin(&c, account, &operation_id);    takes the account's turn: its changes queue
 *     if (rc == -EALREADY)
 *         repeat the answer in c.result
 *     else if (rc == 0 && (rc = change_flags(&c, ...)) == 0)
 *         rc = change_commit(&c, result);               0: durable and visible
 *     change_end(&c);                                   always, after any change_begin(): gives the turn back
 *
 * Between begin and commit nothing else changes the account, so what was read after change_begin() holds;
 * staging does not suspend, except where said. A staged change is seen by nobody, its owner included:
 * messages and mailboxes stay as they are until change_commit() returns. Commit is masked against
 * cancellation.
 * Owner:  one fiber; embedded. The account stays open until change_end().
 * Bounds: a record is at most CHANGE_SIZE_MAX bytes: -E2BIG. After an error of a staging call only
 *         change_end(), unless the call says that nothing was staged. */
#pragma once
#include "core/base.h"
#include "core/mail/uid_set.h"
#include "storage/account.h"

#define CHANGE_SIZE_MAX        (4 * 1024 * 1024)
#define CHANGE_RESULT_SIZE_MAX 65536
#define CHANGE_MAILBOX_MAX     64  /* Mailboxes whose messages one change touches. */
#define CHANGE_BODY_MAX        256 /* Bodies in one change. */

struct change { /* Private but for the first three. */
    struct account *account;
    uint64_t modseq;     /* What this change will have; after -EALREADY: what the recorded one had. */
    struct slice result; /* After -EALREADY: what was recorded; on loan until change_end(). */
    struct change_private *private;
};

/* `operation_id` (16 bytes, not all zero) or NULL. May suspend. 0; -EALREADY: this id was executed already;
 * -ENOMEM; -ECANCELED; -ESHUTDOWN; -EIO: the store's disk has failed, changes are refused until it is opened
 * again. */
MUST_CHECK int change_begin(struct change *c, struct account *a, const struct id128 *operation_id);
/* Nothing was staged so far? Then commit writes nothing unless there is an operation id. */
bool change_empty(const struct change *c);
/* Writes one record and waits until it is durable; then the account shows it and watchers are told. `result`
 * is kept with the operation id (ids are kept for an hour at least, and the last 1,024). A change with
 * nothing staged and no operation id is 0 at once. Errors: -EIO and -ENOSPC: nothing was changed;
 * -EINPROGRESS: see store.h; -ENOMEM. */
MUST_CHECK int change_commit(struct change *c, struct slice result);
void change_end(struct change *c);

/* ---- Messages ------------------------------------------------------------------------------------------ */

struct change_message {
    struct body *body; /* Stays the caller's; lives until change_end(). */
    uint32_t flags;    /* enum mail_flag; others than storable ones are dropped. */
    uint64_t keywords; /* Bits from change_keyword(). */
    int64_t internal_s;
    int16_t zone_minutes;
};

/* Index of the keyword in the mailbox, adding it if it is new. -ENOSPC: the table is full (nothing was
 * staged); -EINVAL: not a keyword. */
MUST_CHECK int change_keyword(struct change *c, struct mailbox *m, struct slice keyword, uint32_t *index_out);
/* -EOVERFLOW: no UID is left, or the mailbox is full. May suspend when bodies of one change sum up to more
 * than 1 MiB: they are then written ahead of it. */
MUST_CHECK int change_append(struct change *c, struct mailbox *m, const struct change_message *message,
                             uint32_t *uid_out);

enum flags_how { FLAGS_ADD, FLAGS_REMOVE, FLAGS_REPLACE };

/* Of the living messages in `uids`. With `unchanged_since` (UINT64_MAX: no condition) only those whose
 * `changed` is not above it; UIDs of the others that live are added to *modified_out (may be NULL). UIDs that
 * do not live are skipped: never resurrect. A message whose flags stay the same does not change. *changed_out
 * (may be NULL): number that do. */
MUST_CHECK int change_flags(struct change *c, struct mailbox *m, const struct uid_set *uids,
                            enum flags_how how, uint32_t flags, uint64_t keywords, uint64_t unchanged_since,
                            struct uid_set *modified_out, uint32_t *changed_out);
/* Living messages in `uids` (NULL: all), and of them, if `deleted_only`, those with \Deleted. *expunged_out
 * (may be NULL) gets their UIDs. */
MUST_CHECK int change_expunge(struct change *c, struct mailbox *m, const struct uid_set *uids,
                              bool deleted_only, struct uid_set *expunged_out);
/* Copies the living messages in `uids` to `to` (which may be `m`), in UID order, with flags, keywords,
 * internal date, EMAILID; the bytes are shared. Keywords that do not fit into the table of `to` are dropped.
 * *copied_out gets the source UIDs; the new ones are *first_uid_out and those that follow it, in the same
 * order. Either may be NULL. Nothing living in `uids`: 0 and nothing is staged. */
MUST_CHECK int change_copy(struct change *c, struct mailbox *m, const struct uid_set *uids,
                           struct mailbox *to, struct uid_set *copied_out, uint32_t *first_uid_out);
/* The same, and expunges the sources, in the same record. */
MUST_CHECK int change_move(struct change *c, struct mailbox *m, const struct uid_set *uids,
                           struct mailbox *to, struct uid_set *copied_out, uint32_t *first_uid_out);

/* ---- Mailboxes: names are UTF-8 and are checked (core/mail/mutf7.h)
 * --------------------------------------------- None of these stages anything when it fails. What was created
 * in this change is known to the later calls by name, but has no struct mailbox before the commit. -EINVAL:
 * not a name; -EEXIST; -ENOENT; -EDQUOT: too many. */

/* Only this name: superiors are made by the caller, first. */
MUST_CHECK int change_mailbox_create(struct change *c, struct slice name, uint32_t special_use,
                                     uint64_t *id_out);
/* Its messages are expunged and its id is kept as a tombstone. -EPERM: the inbox. */
MUST_CHECK int change_mailbox_delete(struct change *c, struct mailbox *m);
/* `from` and everything below it. `from` itself need not be a mailbox when there is one below. The inbox: its
 * messages move to a new mailbox `to`, INBOX and what is below it stay (RFC 3501 6.3.5). -EEXIST: a mailbox
 * has that name, or one below would get a name that is taken; -EINVAL also: `to` is below `from`, or a name
 * becomes too long. */
MUST_CHECK int change_mailbox_rename(struct change *c, struct slice from, struct slice to);
MUST_CHECK int change_mailbox_special_use(struct change *c, struct mailbox *m, uint32_t special_use);

/* Any name, of a mailbox or not; nothing to do is not an error. */
MUST_CHECK int change_subscribe(struct change *c, struct slice name);
MUST_CHECK int change_unsubscribe(struct change *c, struct slice name);
