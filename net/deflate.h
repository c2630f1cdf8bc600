/* net/deflate.h -- COMPRESS=DEFLATE (RFC 4978): raw DEFLATE (RFC 1951) both ways of one connection, by zlib.
 *
 * Out: what leaves together is compressed together, ends at a byte (a sync flush), and is forgotten: the next piece does not
 *      refer to it. So one compressor serves all connections of a shard, and none of them keeps anything.
 * In:  the peer may refer to the last 32 KiB of what he has said. A connection that is awake has an inflater, 40 KiB when it was
 *      used; asleep it is that history alone.
 *
 * Owner:  one shard; no locks. From the loop's own stack.
 * Memory: the compressor: 70 KiB of the shard's heap, from the first use until deflate_stop(). */
#pragma once
#include "core/base.h"
#include "core/heap.h"
#include "net/tls.h"

#define DEFLATE_HISTORY_MAX 32768
#define DEFLATE_PLAIN_MAX   16384 /* What one call of inflater_next() gives at most. */

/* Frees the shard's compressor. */
void deflate_stop(void);
/* Appends `plain`, compressed, to *out. `last`: of what leaves together; then all of it can be read from what was
 * appended. */
void deflate_append(struct slice plain, bool last, struct tls_output *out);

struct inflater;

/* NULL: over the heap's budget. */
MUST_CHECK struct inflater *inflater_new(struct heap *h);
void inflater_free(struct inflater *i); /* NULL is allowed. */
/* Takes a copy of bytes that came. */
void inflater_add(struct inflater *i, struct slice bytes);
/* How many of them are still to be looked at. */
size_t inflater_pending(const struct inflater *i);
/* Writes *plain_out, which dies with the next call for any inflater of the shard; empty: nothing more comes out of what came.
 * -EBADMSG: it is no DEFLATE, or the peer has ended it; -ENOMEM. */
MUST_CHECK int inflater_next(struct inflater *i, struct slice *plain_out);

/* At rest: nothing is pending, and the peer has flushed. Then his last words are all there is of it. */
bool inflater_rests(const struct inflater *i);

struct deflate_history { /* One allocation of the shard's heap. */
    uint32_t size;       /* At most DEFLATE_HISTORY_MAX. */
    char bytes[];
};

/* Only at rest. Takes i. */
struct deflate_history *inflater_pack(struct inflater *i);
/* One that came from another process. */
struct deflate_history *deflate_history_new(struct heap *heap, struct slice bytes);
void deflate_history_free(struct heap *heap, struct deflate_history *h);
/* Takes h. NULL: over the budget. */
MUST_CHECK struct inflater *inflater_unpack(struct heap *heap, struct deflate_history *h);

/* What inflaters and histories of this shard take now. */
uint64_t deflate_memory(void);
