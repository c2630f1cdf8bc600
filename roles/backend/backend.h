/* roles/backend/backend.h -- what one shard of the backend holds: records of what is in flight.
 *
 *     backend.c    start and stop; who serves which kind of stream
 *     command.c    an IMAP command in flight: received, executed, parked, ended with the session's new token
 *     snapshot.c   what a token means: account, mailbox, snapshot
 *     sync.c       the difference between that snapshot and now
 *     select.c mailbox.c list.c fetch.c store.c search.c copy.c expunge.c append.c   the command families
 *     deliver.c    LMTP's deliveries
 *     subscribe.c  who wants to hear of changes
 *
 * Owner:  one shard; SLOT_BACKEND. */
#pragma once
#include "core/fiber.h"
#include "core/heap.h"
#include "core/list.h"
#include "net/link/link.h"
#include "storage/account.h"

#define BACKEND_COMMANDS_MAX      16384 /* A shard; over it a stream is refused: the client hears UNAVAILABLE. */
#define BACKEND_DELIVERIES_MAX    4096    /* A shard. */
#define BACKEND_SUBSCRIPTIONS_MAX 8000000 /* A shard: accounts times proxy cores. */
/* Messages that parked commands keep open, a shard: some 64 KiB each, and a file. */
#define BACKEND_SOURCES_KEPT 32

struct backend {
    struct heap *heap;
    struct store *store;
    struct slab commands, deliveries;
    struct list command_list, delivery_list;
    struct list sources; /* Of parked commands (fetch.h), the last to park in front. */
    unsigned source_count;
    struct subscriptions *subscriptions; /* subscribe.c */
    struct fiber_queue stopped;          /* Whoever waits until nothing is in flight. */
    uint64_t message_size_max;
    bool stopping;
};

static inline struct backend *backend_self(void)
{
    return shard_self()->slot[SLOT_BACKEND];
}

/* What is kept with the id of an operation that was not executed when its proxy asked for its outcome: from then on it never
 * is. */
#define backend_refused SLICE("-")
static inline bool backend_result_refused(struct slice result)
{
    return slice_eq(result, backend_refused);
}

/* A record of the two lists has gone. */
void backend_record_gone(struct backend *b);

/* Opens the account of a user whom the director knows, making it with its folders at the first use. On a
 * fiber; suspends. Errors: those of account_open(). */
MUST_CHECK int backend_account_open(struct backend *b, struct slice user, struct account **account_out);

link_serve_fn command_serve, deliver_serve, subscribe_serve;
/* Is anything of his under way here? `user`: as in struct member_claim. Does not suspend. */
bool command_acts_for(const struct backend *b, uint64_t user);
bool deliver_acts_for(const struct backend *b, uint64_t user);
void command_stop_all(struct backend *b);
void deliver_stop_all(struct backend *b);
void subscribe_start(struct backend *b);
void subscribe_stop(struct backend *b);
/* Those whose ticket was revoked. */
void command_end_revoked(struct backend *b);
void subscribe_end_revoked(struct backend *b);
