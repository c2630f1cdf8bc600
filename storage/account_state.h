/* storage/account_state.h -- the insides of an account in memory. Private to storage/. */
#pragma once
#include "storage/account.h"
#include "storage/body_state.h"
#include "storage/store_state.h"

#define CHANGE_HEAD_SIZE       68 /* Up to the operations. */
#define CHANGE_RECORD_SIZE_MAX (5 * 1024 * 1024)
#define RECENT_CHANGE_COUNT    64 /* Flag changes whose UIDs are remembered. */
#define OPERATION_COUNT_MIN    1024
#define OPERATION_COUNT_MAX    8192
#define OPERATION_SIZE_MAX     (4 * 1024 * 1024) /* Bytes of results. */
#define OPERATION_AGE_MS       (3600 * 1000)
#define DELETED_MAILBOX_MAX    1000

enum operation {
    OP_ROOT = 1,
    OP_MAILBOX_CREATE,
    OP_MAILBOX_DELETE,
    OP_MAILBOX_RENAME,
    OP_SPECIAL_USE,
    OP_SUBSCRIBE,
    OP_UNSUBSCRIBE,
    OP_KEYWORD,
    OP_APPEND,
    OP_FLAGS,
    OP_EXPUNGE,
    OP_COPY,
    OP_RECENT,
    OP_MAILBOX_STATE,
    OP_MESSAGES,
    OP_OPERATION_ID,
};

struct flag_change {
    uint64_t modseq;
    uint32_t first, last; /* UIDs, all that changed are between them. */
};

/* Tombstones that a view with this E can see, sorted by UID; shared by the views that have it. */
struct view_ghosts {
    uint64_t expunges, generation;
    unsigned users;
    uint32_t count;
    struct message messages[];
};

struct mailbox_private {
    struct account *account;
    struct message *live; /* mailbox->message_count of them, by UID. */
    uint32_t live_capacity;
    struct message *dead; /* Oldest expunge first; the first `dead_start` are forgotten. */
    uint32_t dead_start, dead_count, dead_capacity;
    uint32_t seen_below; /* All messages with smaller UIDs are \Seen. */
    uint32_t deleted_s;
    bool recent_dirty;
    unsigned view_count;
    uint64_t generation; /* Counts changes of messages. */
    struct view_ghosts *ghosts;
    struct flag_change flag_changes[RECENT_CHANGE_COUNT];
    uint32_t flag_change_count;  /* Ever. */
    uint64_t flag_changes_since; /* Later ones are all remembered. */
    char *keywords[MAILBOX_KEYWORD_COUNT_MAX];
    uint8_t keyword_sizes[MAILBOX_KEYWORD_COUNT_MAX];
};

struct operation_result {
    struct id128 id;
    uint64_t modseq, wall_ms;
    char *result;
    uint32_t result_size;
};

struct subscription {
    char *name;
    uint32_t size;
};

struct account_private {
    struct account *account;
    struct map_node node;
    struct list unused_link;
    unsigned users;
    bool loading;  /* Somebody reads it; the others wait. */
    bool budgeted; /* Memory is taken only within the budget: until the account was read. */
    int load_error;
    struct fiber_queue loaded;
    struct turn turn; /* Of those who change it. */

    char *user;
    uint32_t user_size;
    struct mailbox **mailboxes; /* By id; deleted ones too. */
    uint32_t mailbox_count, mailbox_capacity;
    struct mailbox **names; /* Living, INBOX first, then by name: account->mailbox_count of them. */
    uint32_t name_capacity;
    struct subscription *subscriptions;
    uint32_t subscription_count, subscription_capacity;
    struct operation_result *operations; /* A ring, */
    uint64_t *operation_keys;            /* and beside it, for the search, a hash of each id. */
    uint32_t operation_first, operation_count, operation_capacity;
    uint64_t operation_size;
    uint64_t mailbox_id_next;
    uint32_t uidvalidity_next;
    uint32_t recent_dirty_count;

    struct record_location last; /* Its newest record. */
    uint32_t chain_count;        /* Records since the last snapshot, and their bytes. */
    uint64_t chain_size, snapshot_size;
    bool snapshotting;
};

/* ---- account.c: memory and lookups --------------------------------------------------------------------- */

/* NULL only while the account is being loaded: then the budget holds; later the change is durable already,
 * and must be shown. */
void *account_grow(struct account *a, void *p, size_t old_size, size_t size);
struct account *account_new(struct store *store, const struct id128 *id, struct slice user);
void account_free(struct account *a);
struct mailbox *mailbox_new(struct account *a, uint64_t id);
/* Place of the name among the living: its index, or where it belongs (*found false). */
uint32_t account_name_find(const struct account *a, struct slice name, bool *found);
uint32_t account_subscription_find(const struct account *a, struct slice name, bool *found);
uint64_t operation_key(const struct id128 *id);
const struct operation_result *account_operation(const struct account *a, const struct id128 *id);
void mailbox_count_message(struct mailbox *m, const struct message *msg, int sign);
/* Forgets tombstones that are too old or too many. */
void mailbox_trim(struct mailbox *m, uint32_t now_s);

/* ---- account_apply.c ----------------------------------------------------------------------------------- */

struct change_head {
    struct id128 account;
    uint64_t modseq;
    struct record_location previous;
    uint16_t part; /* Of a snapshot, from 1; 0: a change. */
    uint64_t wall_ms;
    struct id128 operation_id;
    uint32_t result_size;
};

void change_head_encode(const struct change_head *h, char out[CHANGE_HEAD_SIZE]);
MUST_CHECK bool change_head_decode(struct slice payload, struct change_head *head_out);
/* What was touched, for watchers. */
void change_touch(struct store_change *change, uint64_t mailbox_id);
/* Applies a record. -EBADMSG, -ENOMEM: the account is in pieces and must be freed. `touched` may be NULL. */
MUST_CHECK int account_apply(struct account *a, const struct change_head *h, struct slice payload,
                             struct store_change *touched);
void message_pack(struct pack *p, const struct message *msg);

/* ---- account_cache.c ----------------------------------------------------------------------------------- */

/* A record of an account on its way to the disk; its turn is held. */
struct change_commit {
    struct commit commit; /* The last record is the change's, its meta begins with room for the head. */
    struct account *account;
    struct change_head head;
    /* Before the head is written: places are known. From the flusher, and so is done(): after the change was
     * applied, or has failed. May be NULL. */
    void (*placed)(struct change_commit *c);
    void (*finished)(struct change_commit *c, int result);
};
/* Fills in the head (but for operation id and result size), waits until the record is durable and applied. */
MUST_CHECK int account_commit(struct change_commit *c);
/* The account's log ends here now. */
void account_entry_set(struct account *a, const struct record_location *at, bool snapshot);
void account_snapshot_if_due(struct account *a);

/* ---- snapshot.c ---------------------------------------------------------------------------------------- */

/* Writes the account down as a whole, in parts; its turn is held. */
MUST_CHECK int snapshot_write(struct account *a);
