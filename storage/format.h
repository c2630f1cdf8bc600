/* storage/format.h -- the commit streams' bytes: segment headers, batch headers, directories, records, and
 * the scan that reads a segment after a crash. docs/storage-format.md is the description. Pure functions:
 * what is read comes from a disk that may lie, and nothing here trusts it. */
#pragma once
#include "core/base.h"
#include "storage/store.h"

#define SEGMENT_HEADER_SIZE  64
#define SEGMENT_HEADER_COPY  512  /* Offset of its second copy. */
#define SEGMENT_BATCH_OFFSET 4096 /* The first batch. */
#define SEGMENT_SIZE_MIN     (64u * 1024)
#define SEGMENT_SIZE_MAX     (1024u * 1024 * 1024)

#define BATCH_ALIGN           512u
#define BATCH_HEADER_SIZE     64u
#define BATCH_SIZE_MAX        (8u * 1024 * 1024)
#define DIRECTORY_ENTRY_SIZE  40u
#define BATCH_DIRECTORY_COUNT 2048u /* At most so many entries. */

#define RECORD_HEADER_SIZE 32u
#define RECORD_ALIGN       16u

struct segment_header {
    uint32_t stream, segment;
    uint64_t nonce, first_sequence;
    uint32_t previous_segment, previous_end;
    uint64_t previous_sequence, created_ms;
};

void segment_header_encode(const struct segment_header *h, char out[SEGMENT_HEADER_SIZE]);
MUST_CHECK bool segment_header_decode(const char in[SEGMENT_HEADER_SIZE], struct segment_header *header_out);

struct record_location {
    uint16_t stream;
    uint32_t segment; /* From 1; 0: nowhere. */
    uint32_t offset, size;
};

enum directory_kind { DIRECTORY_CHANGE = 1, DIRECTORY_SNAPSHOT, DIRECTORY_HEADS };

struct directory_entry {
    struct id128 account;
    uint64_t modseq;
    uint32_t offset, size;
    uint32_t kind;
};

void directory_entry_encode(const struct directory_entry *e, char out[DIRECTORY_ENTRY_SIZE]);
struct directory_entry directory_entry_decode(const char in[DIRECTORY_ENTRY_SIZE]);

struct batch_header {
    uint32_t directory_count;
    uint64_t sequence, durable;
    uint32_t size, offset;
    uint64_t data_checksum;
};

/* Header and footer differ in their magic only. The directory is checksummed with them. */
void batch_header_encode(const struct batch_header *h, bool footer, uint64_t nonce, struct slice directory,
                         char out[BATCH_HEADER_SIZE]);
/* The members, and whether they can be true; the checksum is batch_header_check()'s. */
MUST_CHECK bool batch_header_decode(const char in[BATCH_HEADER_SIZE], bool footer,
                                    struct batch_header *header_out);
MUST_CHECK bool batch_header_check(const char in[BATCH_HEADER_SIZE], uint64_t nonce, struct slice directory);

enum record_type { RECORD_CHANGE = 1, RECORD_SNAPSHOT, RECORD_BODY, RECORD_BODY_OBJECT, RECORD_HEADS };

struct record_header {
    uint8_t type;
    uint32_t size, meta_size;
};

/* The checksum ties the record to its place. `meta` may lie in two pieces. */
void record_header_encode(const struct record_header *h, const struct record_location *at, struct slice meta,
                          char out[RECORD_HEADER_SIZE]);
MUST_CHECK bool record_header_decode(const char in[RECORD_HEADER_SIZE], struct record_header *header_out);
MUST_CHECK bool record_check(const char in[RECORD_HEADER_SIZE], const struct record_location *at,
                             struct slice meta);

uint64_t block_checksum(uint32_t block, const void *data, size_t size);

/* ---- The scan ------------------------------------------------------------------------------------------ */

/* One segment, read through read(). `end` is where it is known to end (a later segment says so), or 0. */
struct segment_scan {
    struct segment_header header;
    uint32_t file_size, end;
    /* Bytes read, short only at the end of the file, or -errno. May suspend. */
    ssize_t (*read)(struct segment_scan *s, void *data, size_t size, uint32_t offset);
    /* A directory of a batch that was acknowledged, or that can be kept. -errno ends the scan. */
    int (*batch)(struct segment_scan *s, const struct batch_header *h, const char *directory);
    /* Rot in [offset, offset + size). `named`: a directory was left, batch() is called for it too. */
    void (*rot)(struct segment_scan *s, uint32_t offset, uint32_t size, bool named);
    char *window;    /* SCAN_WINDOW_SIZE bytes, the caller's. */
    char *directory; /* SCAN_DIRECTORY_SIZE bytes, the caller's. */
    /* Result: the offset behind the last batch, and its sequence number. */
    uint32_t end_out;
    uint64_t sequence_out;
    uint32_t window_offset, window_size, limit; /* Private. */
};

#define SCAN_WINDOW_SIZE    (64 * 1024)
#define SCAN_DIRECTORY_SIZE (BATCH_DIRECTORY_COUNT * DIRECTORY_ENTRY_SIZE)

/* From `offset`, where a batch begins; `sequence` is the number of the batch before it (0: not known). 0 or
 * -errno. */
MUST_CHECK int segment_scan_run(struct segment_scan *s, uint32_t offset, uint64_t sequence);
