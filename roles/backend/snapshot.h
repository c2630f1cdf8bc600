/* roles/backend/snapshot.h -- what a token means: opens the account, the mailbox and the snapshot that it
 * names, and moves them to now.
 * Owner:  one command; on its fiber. */
#pragma once
#include "roles/backend/command.h"

enum snapshot_result {
    SNAPSHOT_OK,
    SNAPSHOT_FAILED, /* The reply is written. */
};

/* Opens what the token names; suspends. On failure the reply is written (NO, or BYE for a token that does not
 * fit the account) and nothing is open. */
MUST_CHECK enum snapshot_result snapshot_open(struct command *c);
void snapshot_close(struct command *c);

/* The session leaves its mailbox. */
void snapshot_deselect(struct command *c);
/* The session has selected `m`: the token is at now. -ENOMEM. */
MUST_CHECK int snapshot_select(struct command *c, struct mailbox *m, bool read_only);

/* sync.c */

enum sync_extent {
    SYNC_ALL,   /* Expunges, new messages, flags: all horizons move to now. */
    SYNC_FLAGS, /* Flags that others changed: F alone moves (STORE by sequence number). */
    SYNC_QUIET, /* Nothing is written; a horizon moves where that changes nothing that the session sees. */
};

/* Writes what is new, to be held until the new token is with it. -ENOMEM, -ECANCELED: the horizons stay. */
int snapshot_sync(struct command *c, enum sync_extent extent);

/* HIGHESTMODSEQ as this session may know it (RFC 7162): not past a change that it was not told of. */
uint64_t snapshot_highest_modseq(const struct command *c);
