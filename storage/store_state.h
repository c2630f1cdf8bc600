/* storage/store_state.h -- what the files of storage know of one another. Private to storage/. */
#pragma once
#include "core/fiber.h"
#include "core/heap.h"
#include "core/io.h"
#include "core/list.h"
#include "core/map.h"
#include "core/metrics.h"
#include "core/shard.h"
#include "storage/body.h"
#include "storage/pack.h"
#include "storage/store.h"
#include "storage/stream.h"
#include "storage/table.h"

#define STORE_KEY_SIZE    32
#define STORE_SECRET_SIZE 192
#define STORE_DAMAGED_MAX 64
#define SEGMENT_FILE_MAX  32 /* Segments kept open for reading. */

struct account;

struct partition {
    bool served; /* By this shard. */
    uint64_t epoch;
    struct account_table table;
};

/* A segment open for reading; shared by the fibers that read it. */
struct segment_file {
    struct list link; /* Of store->segment_files, the least recently used first. */
    struct file file;
    uint32_t segment;
    uint16_t stream;
    bool opening;
    int error;
    unsigned users;
    struct fiber_queue opened;
};

/* Steps of a start that all shards of a node take together; sent by shard 0 to each, and back. */
struct store_step {
    struct shard_message message;
    int result;
    uint8_t key[STORE_KEY_SIZE];
};

enum store_phase { STORE_NEW, STORE_LOCKED, STORE_SCANNED, STORE_OPEN, STORE_CLOSING };

struct store {
    struct shard *shard;
    struct heap *heap;
    struct store_config config;
    char node_name[256];
    uint8_t key[STORE_KEY_SIZE];
    uint8_t secret[STORE_SECRET_SIZE];
    struct partition *partitions; /* STORE_PARTITION_COUNT */

    /* The start. */
    enum store_phase phase;
    int phase_result;
    unsigned scanned_count;
    struct fiber_queue phase_changed;
    int scan_result;
    struct store_step step; /* Sent to shard 0. */

    uint64_t gathered; /* Bytes of blocks in body writers. */

    struct stream stream;
    uint64_t checkpoint_number, checkpoint_bytes;
    uint64_t checkpoint_size; /* Of the last one. */
    bool checkpointing;
    struct stream_end *ends; /* Where the streams ended at the start. */
    unsigned end_count;

    /* Whose bytes were read and did not match: the last ones. */
    struct body_location damaged[STORE_DAMAGED_MAX];
    unsigned damaged_count;

    bool full; /* The reserve was given back: no new mail. */
    bool reserve_held;

    struct list segment_files;
    unsigned segment_file_count;

    struct map accounts;
    struct list unused; /* Accounts in memory that nobody uses, least recently used first. */
    unsigned unused_count;
    unsigned open_count; /* Changes begun and not ended. */
    struct fiber_queue drained;
    store_watch_fn *changed; /* NULL: nobody watches. */
    void *changed_arg;
};

/* Where a checkpoint ends in a stream. */
struct scan_position {
    uint32_t stream, segment, offset;
};

/* Where a stream ends. */
struct stream_end {
    uint32_t stream, segment, segment_next, offset;
    uint64_t sequence;
    bool untouched; /* The last segment says where the one before ends, and nothing else. */
};

struct id128 store_account_id(const struct store *store, struct slice user);
static inline struct partition *store_partition_of(struct store *store, const struct id128 *id)
{
    return &store->partitions[get_u64(id->bytes) & (STORE_PARTITION_COUNT - 1)];
}

/* Begins a checkpoint when enough was committed since the last. Does not suspend. */
void store_checkpoint_if_due(struct store *store);
/* Counts and logs what does not match. */
void store_report_rot(struct store *store, const struct record_location *at, const char *what);

/* ---- files.c: reading records -------------------------------------------------------------------------- */

MUST_CHECK int segment_file_get(struct store *store, uint16_t stream, uint32_t segment,
                                struct segment_file **file_out);
void segment_file_put(struct store *store, struct segment_file *f);
void segment_files_close(struct store *store);
/* Reads and verifies a whole record of the given type; *data_out (heap) begins with its header. -EBADMSG,
 * -EIO, -ENOMEM. */
MUST_CHECK int record_read(struct store *store, const struct record_location *at, unsigned type_mask,
                           char **data_out);

/* ---- recovery.c ---------------------------------------------------------------------------------------- */

/* Reads checkpoints and what the streams hold behind them. */
MUST_CHECK int recovery_run(struct store *store);

/* ---- checkpoint.c -------------------------------------------------------------------------------------- */

MUST_CHECK int checkpoint_write(struct store *store);
/* Everything of this shard's partitions that valid checkpoints hold; positions[] (by stream) gets, for each
 * stream, the place up to which all of them have it. */
MUST_CHECK int checkpoint_read(struct store *store, struct scan_position *positions, unsigned position_max,
                               unsigned *position_count_out);

/* ---- reserve.c ----------------------------------------------------------------------------------------- */

/* At the start: is it there from before? */
MUST_CHECK int reserve_find(struct store *store);
/* Allocates it; no space: the store is full. */
MUST_CHECK int reserve_take(struct store *store);
/* Gives it back; true when there was something to give. */
bool reserve_release(struct store *store);

/* ---- account_cache.c ----------------------------------------------------------------------------------- */

/* Frees accounts that nobody uses until the heap has room again; `all`: all of them. */
void accounts_trim(struct store *store, bool all);
/* Tells who watches. */
void store_notify(struct store *store, const struct id128 *id, const struct store_change *change);
