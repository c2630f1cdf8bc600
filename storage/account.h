/* storage/account.h -- an account in memory: mailboxes, messages, subscriptions. Read freely, changed through
 * storage/change.h only.
 * Owner:  the store of the account's shard. Loaded at the first account_open(), kept after the last
 *         account_close() until memory is needed.
 * Memory: the account and its mailboxes (deleted ones too) stay where they are while it is open. Pointers to
 *         messages, names and keywords die at the next suspension: go on by UID (RULES: yield safety). */
#pragma once
#include "core/base.h"
#include "core/list.h"
#include "storage/body.h"
#include "storage/store.h"

#define ACCOUNT_MAILBOX_COUNT_MAX      10000 /* Living ones. */
#define ACCOUNT_SUBSCRIPTION_COUNT_MAX 20000
#define MAILBOX_KEYWORD_COUNT_MAX      64 /* The bits of a word. */
#define MAILBOX_MESSAGE_COUNT_MAX      16777216

enum special_use { /* RFC 6154. */
                   SPECIAL_ALL = 1 << 0,
                   SPECIAL_ARCHIVE = 1 << 1,
                   SPECIAL_DRAFTS = 1 << 2,
                   SPECIAL_FLAGGED = 1 << 3,
                   SPECIAL_JUNK = 1 << 4,
                   SPECIAL_SENT = 1 << 5,
                   SPECIAL_TRASH = 1 << 6,
};
#define SPECIAL_USE_ALL 0x7f

struct message {
    uint32_t uid;
    uint8_t flags;        /* enum mail_flag, storable ones. */
    int16_t zone_minutes; /* Of the internal date. */
    int64_t internal_s;   /* Internal date, seconds since 1970 UTC. */
    uint64_t created;     /* Modification sequences: of the append, */
    uint64_t changed;     /* of the last change of flags or keywords (or the append), */
    uint64_t expunged;    /* of the expunge; 0 while it lives. */
    uint64_t keywords;    /* Bit i: keyword i of the mailbox. */
    uint32_t saved_s;     /* SAVEDATE (RFC 8514), seconds since 1970 UTC. */
    uint32_t expunged_s;  /* Wall time of the expunge, for retention alone. */
    struct body_location body;
    struct id128 emailid; /* RFC 8474; kept by COPY and MOVE. */
};

struct mailbox {
    uint64_t id;           /* Never used twice in an account. From 1. */
    struct id128 objectid; /* MAILBOXID. */
    char *name; /* UTF-8, '/' between levels. The inbox is "INBOX". After deletion: its last name. */
    uint16_t name_size;
    uint8_t special_use;
    bool subscribed; /* The name is subscribed to. */
    uint32_t uidvalidity;
    uint32_t uid_next;
    uint32_t recent_uid; /* UIDs up to here were \Recent to some session: see account_take_recent(). */
    uint32_t keyword_count;
    uint64_t created; /* Modification sequence of its creation, */
    uint64_t highest; /* of the last change of a message in it: HIGHESTMODSEQ (at least `created`), */
    uint64_t floor;   /* below which tombstones are gone: a view needs E >= floor, */
    uint64_t deleted; /* of its deletion; 0: it lives. All its messages were expunged with it. */

    /* What STATUS and SELECT ask for. */
    uint32_t message_count; /* MESSAGES, EXISTS. */
    uint32_t unseen_count;
    uint32_t deleted_count; /* With \Deleted. */
    uint64_t size;          /* Bytes of the living messages. */

    struct mailbox_private *private;
};

struct account {
    struct id128 id;        /* Keyed hash of the name: also the account's partition. */
    struct id128 history;   /* Random; renewed by whatever rewinds the account. */
    uint64_t modseq;        /* Of the last durable change. */
    uint32_t mailbox_count; /* Living ones. */
    struct store *store;
    struct account_private *private;
};

enum account_open_flag {
    /* Makes the account, with an empty INBOX and nothing else, if it has never existed. Only for a user whom
     * the director knows to be valid: not found is never taken for empty. Durable when account_open()
     * returns. */
    ACCOUNT_CREATE = 1 << 0,
};

/* Pins the account. May suspend. -ENOENT: no such account (and no ACCOUNT_CREATE); -EINVAL: the name is empty
 * or too long; -ENOTTY: the user's partition is not served by this shard; -EBADMSG, -EIO, -ENOMEM, -ENOSPC. */
MUST_CHECK int account_open(struct store *store, struct slice user, unsigned flags,
                            struct account **account_out);
/* Is it in memory? Does not suspend. */
bool account_loaded(struct store *store, struct slice user);
void account_close(struct account *a); /* NULL is fine. Does not suspend. */
struct slice account_user(const struct account *a);

/* ---- Mailboxes: none of these suspends ----------------------------------------------------------------- */

static inline struct slice mailbox_name(const struct mailbox *m)
{
    return slice_of(m->name, m->name_size);
}

/* Living. INBOX in any case. NULL: none. */
struct mailbox *account_mailbox(const struct account *a, struct slice name);
/* By id; deleted ones too, as long as they are kept (look at ->deleted). NULL: unknown or forgotten. */
struct mailbox *account_mailbox_by_id(const struct account *a, uint64_t id);
/* Living ones in bytewise order of their names, but INBOX first: index 0 .. mailbox_count - 1. */
struct mailbox *account_mailbox_at(const struct account *a, uint32_t index);
/* Has a living mailbox below `name`? */
bool account_has_children(const struct account *a, struct slice name);

/* Subscribed names, sorted bytewise: a name need not be a mailbox. index < account_subscription_count(). */
uint32_t account_subscription_count(const struct account *a);
struct slice account_subscription_at(const struct account *a, uint32_t index);
bool account_subscribed(const struct account *a, struct slice name);

/* 0 .. keyword_count - 1. Append-only: an index never changes its meaning. */
struct slice mailbox_keyword(const struct mailbox *m, uint32_t index);
/* Compared without case. -1: none. */
int mailbox_keyword_find(const struct mailbox *m, struct slice keyword);

/* Living messages by UID order: index < message_count. The view is what a session sees; this is what is there
 * now. */
const struct message *mailbox_message_at(const struct mailbox *m, uint32_t index);
/* Index of the first living message with this UID or a larger one; message_count when there is none. */
uint32_t mailbox_message_find(const struct mailbox *m, uint32_t uid);
/* UID of the first message without \Seen; 0: none. */
uint32_t mailbox_first_unseen(struct mailbox *m);

/* Hands out \Recent: UIDs first_out .. uid_next - 1 are recent to the caller's session (first_out ==
 * uid_next: none), and to no other from now on. `peek`: says so without taking (EXAMINE, STATUS). Not a
 * change: it is written along with the account's next change, and lost by a crash before that (then somebody
 * is told twice). */
uint32_t account_take_recent(struct account *a, struct mailbox *m, bool peek);

/* Tombstones with expunged > since, oldest first: what QRESYNC's VANISHED (EARLIER) needs when since >=
 * m->floor. index from 0; NULL at the end. */
const struct message *mailbox_tombstone_since(const struct mailbox *m, uint64_t since, uint32_t index);
