/* roles/words/feed.h -- what a proxy core and a backend say to each other about the accounts of one partition, on a stream
 * of the kind LINK_SUBSCRIBE that lives as long as the proxy core has a subscriber there. Each DATA frame is a version byte
 * and items.
 *
 *     proxy                                  backend
 *     OPEN partition ->                   <- READY
 *     WATCH cookie, user, ticket ->       <- AT cookie, n     at once, and after each durable change
 *                                         <- EXPIRED cookie   the ticket is not valid: watched no more
 *     LEAVE cookie, user ->               <- GONE cookie      nothing more comes of it: the cookie is free
 *
 * Level-triggered: AT says where the account stands. A reader who lags by a window loses the stream, and with it all that he
 * knew; so does a death of either side. Little-endian; a decoder accepts any bytes. */
#pragma once
#include "core/base.h"
#include "roles/words/request.h"

enum feed_kind {
    FEED_READY = 1, /* No members. */
    FEED_WATCH,     /* cookie, user, ticket */
    FEED_LEAVE,     /* cookie, user */
    FEED_AT,        /* cookie, modseq, mailbox_id */
    FEED_EXPIRED,   /* cookie */
    FEED_GONE,      /* cookie */
};

struct feed_item {
    enum feed_kind kind;
    uint32_t cookie; /* The proxy's name for the subscription. */
    struct slice user;
    struct ticket ticket;
    uint64_t modseq;     /* 0: there is no such account, yet. */
    uint64_t mailbox_id; /* What has changed; 0: several, or unknown: look at all. */
};

#define FEED_ITEM_SIZE_MAX (1 + 4 + 2 + USER_SIZE_MAX + TICKET_SIZE)
#define FEED_AT_SIZE       (1 + 4 + 8 + 8)

/* `out` has room for FEED_ITEM_SIZE_MAX. How many bytes it took. */
size_t feed_item_encode(const struct feed_item *item, char *out);
/* Takes the first item off *in. False: none is left, or it is not understood (then *in is not empty). */
MUST_CHECK bool feed_item_decode(struct slice *in, struct feed_item *item_out);

/* Head of the OPEN. */
#define FEED_HEAD_SIZE 3
static inline void feed_head_encode(uint16_t partition, char out[FEED_HEAD_SIZE])
{
    out[0] = WORDS_VERSION;
    put_u16(out + 1, partition);
}
MUST_CHECK static inline bool feed_head_decode(struct slice in, uint16_t *partition_out)
{
    if (in.size != FEED_HEAD_SIZE || in.data[0] != WORDS_VERSION)
        return false;
    *partition_out = get_u16(in.data + 1);
    return true;
}

/* A frame's beginning. */
#define FEED_HEADER_SIZE 1
static inline size_t feed_begin(char *out)
{
    out[0] = WORDS_VERSION;
    return FEED_HEADER_SIZE;
}
/* False: another version. */
MUST_CHECK static inline bool feed_open(struct slice *in)
{
    if (in->size < FEED_HEADER_SIZE || in->data[0] != WORDS_VERSION)
        return false;
    *in = slice_from(*in, FEED_HEADER_SIZE);
    return true;
}
