/* storage/body_state.h -- a body that was written and waits for the change that names it. Private to
 * storage/. */
#pragma once
#include "core/mail/mime.h"
#include "storage/body.h"
#include "storage/store_state.h"

#define BODY_HEAD_SIZE     24 /* Before the block checksums. */
#define BODY_INLINE_BLOCKS (BODY_INLINE_MAX / BODY_BLOCK_SIZE)
#define BODY_OBJECT        1 /* body_location.flags: the bytes are in a file of their own. */

enum body_state {
    BODY_NEW,
    BODY_UNKNOWN, /* A commit ended with -EINPROGRESS: it may be named. */
    BODY_STORED,  /* `location` says where. */
};

struct body {
    struct store *store;
    enum body_state state;
    struct body_location location; /* size, meta_size and flags are right at once. */
    struct id128 object;
    char *meta;              /* The body head, the checksums, the structure. */
    uint32_t structure_size; /* The last bytes of it. */
    struct iovec *blocks;    /* Inline: the bytes. */
    uint32_t block_count;
};

/* The record that stores it, and where it is once the record has its place. */
struct commit_record body_record(const struct body *b);
struct body_location body_location_at(const struct body *b, const struct record_location *at);

void body_location_pack(struct pack *p, const struct body_location *l);
struct body_location body_location_unpack(struct unpack *u);
#define BODY_LOCATION_SIZE 20
