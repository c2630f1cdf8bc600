/* storage/stream.h -- the writing end of a commit stream: group commit. Whoever has records to make durable
 * queues a commit and waits; one fiber, the flusher, gathers all that are waiting into one batch and one
 * flush, while the next ones gather. What was not flushed is nowhere: see docs/storage-format.md for what
 * becomes of a failed flush.
 * Owner:  one shard. */
#pragma once
#include "core/fiber.h"
#include "core/io.h"
#include "core/list.h"
#include "storage/format.h"

struct store;

#define COMMIT_RECORD_MAX 264 /* Records of one commit. */
#define COMMIT_VECTOR_MAX 512 /* Pieces of one commit's bodies. */
#define COMMIT_SIZE_MAX   (7 * 1024 * 1024)

struct commit_record {
    uint8_t type;      /* enum record_type */
    uint8_t directory; /* enum directory_kind; 0: not in the directory. */
    struct slice meta; /* What the record's checksum covers, on loan until done(). */
    const struct iovec *rest;
    uint32_t rest_count, rest_size;
    struct id128 account; /* For the directory. */
    uint64_t modseq;
    struct record_location at; /* Set before placed() is called. */
};

struct commit {
    struct list link;
    struct commit_record *records;
    unsigned record_count;
    /* All records have their places: the last moment to change meta bytes (never their number). May be NULL. */
    void (*placed)(struct commit *c);
    /* 0: durable. Called by the flusher in the order of the records on disk; does not suspend. May be NULL. */
    void (*done)(struct commit *c, int result);
    /* Private. */
    uint32_t vector_count, size, directory_count;
    struct fiber *waiter;
    int result;
    bool finished;
};

struct stream {
    struct store *store;
    uint16_t number;
    uint32_t segment, segment_next; /* Being written (0: none), and the next free number. */
    uint32_t size, offset;          /* Of the segment; where the next batch goes. */
    uint32_t zeroed;                /* Up to here zeros were written ahead. */
    char *zeros;
    uint64_t nonce, sequence; /* Of the last durable batch. */
    struct file file;
    bool sealed; /* Nothing more goes into this segment. */
    bool failed; /* The disk has failed for good: every commit is refused. */
    bool closing, running, witness_due;
    struct list queue;
    struct fiber_queue idle, ended;
    char *scratch;
    uint32_t scratch_capacity;
    struct iovec *vector;
};

/* Continues a stream that ends as given (segment 0: it has none yet), in a new segment, and starts the
 * flusher. */
MUST_CHECK int stream_open(struct stream *st, struct store *store, uint16_t number, uint32_t segment_next,
                           uint32_t previous_segment, uint32_t previous_end, uint64_t sequence);
/* Queues it and returns; c lives until done(). */
void stream_submit(struct stream *st, struct commit *c);
/* Queues it and waits; masked against cancellation. 0, -EIO, -ENOSPC, -EINPROGRESS, -E2BIG. */
MUST_CHECK int stream_commit(struct stream *st, struct commit *c);
/* Waits for what is queued, ends the flusher, cuts the segment to its size. */
void stream_close(struct stream *st);
/* A header that only says where the stream ends: for one that nobody will continue in this run. */
MUST_CHECK int stream_seal(struct store *store, uint16_t number, uint32_t segment_next,
                           uint32_t previous_segment, uint32_t previous_end, uint64_t sequence);

#define STREAM_PATH_MAX 64
/* Returns buffer. */
char *stream_directory_path(char buffer[STREAM_PATH_MAX], uint16_t stream);
char *stream_segment_path(char buffer[STREAM_PATH_MAX], uint16_t stream, uint32_t segment);
