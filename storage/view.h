/* storage/view.h -- what a session sees of a mailbox: a snapshot, given by two modification sequences.
 *
 *     visible(m) = m.created <= A and (m.expunged == 0 or m.expunged > E);  sequence number = rank by UID
 * among visible
 *
 * Costs nothing when nobody expunged since E: a rank is a binary search in the living messages. Else the
 * tombstones that are still visible lie in a small sorted array, made once and shared by the views with the
 * same E.
 * Owner:  one command; embedded. It keeps its meaning over suspensions, whatever is committed meanwhile:
 *         tombstones that a view can see are not forgotten while it is open. The account must stay open.
 * Memory: a message returned dies at the next suspension. */
#pragma once
#include "core/base.h"
#include "storage/account.h"

struct view { /* Private but for the first four. */
    struct account *account;
    struct mailbox *mailbox;
    uint64_t appends;  /* A */
    uint64_t expunges; /* E */
    struct view_ghosts *ghosts;
    uint64_t generation;
    uint32_t live_count, ghost_count;
    uint32_t hint;
};

/* Does not suspend. -ESTALE: E is below the mailbox's floor, the snapshot can't be computed any more;
 * -EINVAL: a horizon is past the account's modseq (the token is of another history); -ENOMEM. */
MUST_CHECK int view_open(struct view *v, struct account *a, struct mailbox *m, uint64_t appends,
                         uint64_t expunges);
void view_close(struct view *v);

/* The rest does not suspend and can't fail. */
uint32_t view_count(struct view *v);
uint32_t view_last_uid(struct view *v);          /* What `*` means as a UID; 0: nothing is visible. */
uint32_t view_seq(struct view *v, uint32_t uid); /* Sequence number; 0: not visible. */
/* Visible messages with a smaller UID. */
uint32_t view_rank(struct view *v, uint32_t uid);
/* ->expunged != 0: a tombstone that this session still sees. NULL: no such number, not visible. */
const struct message *view_at(struct view *v, uint32_t seq);
const struct message *view_find(struct view *v, uint32_t uid);

/* Walks the visible messages in order: *uid is where to look from (0 to begin) and is moved past the message
 * found. NULL at the end. The walk may be suspended anywhere: it goes on by UID. Constant time a step. */
const struct message *view_next(struct view *v, uint32_t *uid, uint32_t *seq_out);

/* ---- The difference to now: what a sync reports -------------------------------------------------------- */

/* Messages that are visible here and expunged by now, in UID order: index < view_gone_count(). Sequence
 * numbers are this view's; to report them as EXPUNGE responses go from the last to the first. */
uint32_t view_gone_count(struct view *v);
const struct message *view_gone_at(struct view *v, uint32_t index, uint32_t *seq_out);
/* Living messages with created > A: number, and UID of the first (0: none). */
uint32_t view_new_count(struct view *v, uint32_t *first_uid_out);
/* As view_next(), but only living messages with changed > since: flag changes that F has not reported. Cheap
 * when nothing, or little, has changed since; else linear in the messages. A step visits at most 4,096
 * messages: NULL with *more_out true means yield (fiber_work) and call again. */
const struct message *view_next_changed(struct view *v, uint64_t since, uint32_t *uid, uint32_t *seq_out,
                                        bool *more_out);
