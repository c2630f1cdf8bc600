/* storage/change_state.h -- what a change has staged. Private to storage/change*.c. */
#pragma once
#include "core/mail/flags.h"
#include "storage/account_state.h"
#include "storage/change.h"

/* What a mailbox will be like, as far as later calls of the same change must know. */
struct staged_mailbox {
    struct mailbox *mailbox;
    uint32_t uid_next;
    uint32_t message_count;
    uint32_t keyword_count;
};

struct staged_keyword {
    struct list link;
    struct mailbox *mailbox;
    uint32_t index;
    uint8_t size;
    char name[KEYWORD_SIZE_MAX];
};

struct staged_name { /* The last one about a name counts. */
    struct list link;
    bool present;
    uint16_t size;
    char name[];
};

struct staged_body {
    struct body *body;
    uint32_t location_at; /* In the change's record. */
    int record;           /* Of this commit that stores it; -1: it is stored already. */
};

struct change_private {
    struct change *change;
    struct pack pack; /* The record: head, operations; at commit the result. */
    struct id128 operation_id;
    bool turn_held;
    struct staged_mailbox mailboxes[CHANGE_MAILBOX_MAX];
    unsigned mailbox_count;
    struct list keywords; /* struct staged_keyword */
    struct list names;    /* struct staged_name, newest first. */
    uint64_t mailbox_id_next;
    uint32_t uidvalidity_next;
    int32_t mailbox_count_delta;
    struct staged_body bodies[CHANGE_BODY_MAX];
    unsigned body_count;
    uint64_t body_size; /* Of those that are not stored yet. */
    struct change_commit commit;
    struct commit_record records[CHANGE_BODY_MAX + 1];
};

/* NULL: too many. */
struct staged_mailbox *staged_mailbox(struct change *c, struct mailbox *m);
/* Is there, or will there be, a mailbox of that name? */
bool staged_exists(struct change *c, struct slice name);
MUST_CHECK int staged_name_set(struct change *c, struct slice name, bool present);
/* The calls begin with it: 0, or why nothing more may be staged. */
MUST_CHECK int change_check(struct change *c);
/* Ends a call: the pack's error, and what was packed since `size` is forgotten then. */
MUST_CHECK int change_packed(struct change *c, uint32_t size);
