/* storage/store.h -- mail at rest: the store of one shard. It owns the accounts of the partitions that are
 * dealt to this shard, writes them to one commit stream, and reads all streams. It knows no protocol.
 *
 *     store.h    opening and closing, partitions, watching accounts
 *     body.h     bytes of messages: writing them in, reading them back
 *     account.h  an account in memory: mailboxes and messages
 *     view.h     what a session sees of a mailbox: a snapshot given by two horizons
 *     change.h   the one way to change an account: staged, then durable, then visible
 *
 * Owner:  one shard; shard_self()->slot[SLOT_STORE]. Everything runs on fibers of that shard, except what is
 *         marked "does not suspend", which may also run from the loop.
 * Memory: the shard's heap, under its budget. -ENOMEM: the caller answers UNAVAILABLE and tries nothing else.
 * Errors: everywhere in storage
 *             -EBADMSG      what is on the disk is not what was written (I-8). Not served; logged and counted
 *             -EIO          the disk failed; after a commit: nothing of the change is there, nor ever will be
 *             -EINPROGRESS  after a commit: the disk failed, and whether the change is there is known only when the
 *                           store was opened again. Answer neither OK nor NO: end the session, or 451
 *             -ENOSPC       the disk is full: new mail is refused, reading and expunging go on
 *             -ENOMEM       over the memory budget
 *             -ECANCELED    the fiber was cancelled
 *             -ESHUTDOWN    the store is closing
 * The format on disk: docs/storage-format.md. */
#pragma once
#include "core/base.h"
#include "core/list.h"

struct store;
struct shard;

#define STORE_PARTITION_COUNT 4096
#define STORE_USER_SIZE_MAX   512 /* Bytes of a user name; it is never empty. */

struct id128 {
    uint8_t bytes[16];
};

static inline bool id128_eq(const struct id128 *a, const struct id128 *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

static inline bool id128_is_zero(const struct id128 *a)
{
    static const struct id128 zero;

    return id128_eq(a, &zero);
}

struct store_config {      /* Zero members take their defaults. */
    const char *node_name; /* This node, for the partitions' heads. Required, at most 255 bytes. */
    /* 32 bytes, of the cluster that it is a part of; NULL: a new store makes its own. */
    const uint8_t *cluster_key;
    uint64_t segment_size;        /* Of a commit stream; 64 MiB. At least 1 MiB, at most 1 GiB. */
    uint64_t checkpoint_size;     /* A checkpoint each time so many bytes were committed; 64 MiB. */
    uint64_t reserve_size;        /* Of disk kept for expunging when the disk is full; one segment. */
    uint32_t account_count_max;   /* Accounts in memory that nobody uses; 10,000. */
    uint32_t tombstone_count_max; /* Tombstones a mailbox keeps, whatever their age; 65,536. */
    uint32_t tombstone_age_s;     /* ... and so long at least below that count; 7 days. */
    uint64_t message_size_max;    /* Of one message; 100 MiB, at most 4 GiB - 1. */
};

/* Opens the store of the current shard, on a fiber, in node_ops.start: takes the lock of the data directory
 * (shard 0), recovers, waits until all shards of the node have read what the last run left, takes the
 * partitions' heads (epoch
 * + 1, durable), begins a new segment. All shards of a node must call it, and at the same time. Sets
 * slot[SLOT_STORE]. Errors: -EBUSY: another process owns the directory; -EPROTONOSUPPORT: a format of another
 * version; -EKEYREJECTED: its key is not cluster_key; and what the disk says. It has logged why. */
MUST_CHECK int store_open(const struct store_config *config, struct store **store_out);
/* Refuses new changes (-ESHUTDOWN), waits for those in flight, checkpoints, frees. Nobody may hold an
 * account, a body, a watch. */
void store_close(struct store *store);
/* Of the current shard; NULL before store_open() has succeeded. */
struct store *store_self(void);

/* ---- Partitions: which shard serves a user. None of these suspends. ------------------------------------ */

/* Keyed hash of the name, 0 .. STORE_PARTITION_COUNT - 1: the same on every shard and after every restart.
 * The user name must have its one canonical form already (lower case and the like are the director's
 * business). */
unsigned store_partition(const struct store *store, struct slice user);
/* The shard of this node that serves the partition. */
unsigned store_partition_shard(const struct store *store, unsigned partition);
/* Number of times this partition was taken; 0: it is another shard's. */
uint64_t store_partition_epoch(const struct store *store, unsigned partition);
/* Random bytes of this data directory, made once: the key of the hash, 32 bytes. */
struct slice store_cluster_key(const struct store *store);

/* ---- Watching: notices that need no account in memory -------------------------------------------------- */

#define STORE_CHANGE_MAILBOX_MAX 16

struct store_change { /* One durable change; on loan during the callback. */
    uint64_t modseq;  /* The account is at this modification sequence. */
    unsigned mailbox_count;
    bool all_mailboxes; /* More than fit, or the list of mailboxes itself changed: look at everything. */
    uint64_t mailboxes[STORE_CHANGE_MAILBOX_MAX];
};

/* After each durable change of any account of this shard, once it can be read. From the flusher: does not suspend, opens no
 * account. `account`: store_account_hash() of its user. NULL: nobody is told any more. */
typedef void store_watch_fn(unsigned partition, uint64_t account, const struct store_change *change,
                            void *arg);
void store_watch(struct store *store, store_watch_fn *changed, void *arg);
/* Names an account in notices: keyed hash of its user. In a cluster the same as partition_user(). */
uint64_t store_account_hash(const struct store *store, struct slice user);
/* The modification sequence at which the account is now; 0: there is no such account. Does not suspend. */
uint64_t store_user_modseq(const struct store *store, struct slice user);
